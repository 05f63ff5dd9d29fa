"""What a service decides by itself: when it has been idle for long enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daebus.service import _Idle


def test_a_service_is_idle_since_something_came_last() -> None:
    idle = _Idle(60.0, 1000.0)
    assert idle.left(1000.0, 0, 0) == 60.0
    assert idle.left(1059.0, 0, 0) == 1.0
    assert idle.left(1059.0, 1, 0) == 60.0  # something came
    assert idle.left(1100.0, 1, 0) == 19.0
    assert idle.left(1119.0, 1, 0) == 0.0


def test_a_service_at_work_is_not_idle() -> None:
    """Nor one that has clients."""
    idle = _Idle(60.0, 1000.0)
    assert idle.left(1200.0, 0, 1) == 60.0
    assert idle.left(1300.0, 0, 2) == 60.0
    assert idle.left(1310.0, 0, 0) == 50.0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1), st.integers(0, 1)), max_size=30))
def test_nothing_leaves_within_the_limit(looks: list[tuple[float, int, int]]) -> None:
    idle, now, counted, last = _Idle(20.0, 0.0), 0.0, 0, 0.0
    for seconds, came, at_work in looks:
        now += seconds
        counted += came
        last = now if came or at_work else last
        assert abs(idle.left(now, counted, at_work) - (last + 20.0 - now)) < 1e-6
