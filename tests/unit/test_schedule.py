"""When things are due."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daebus.schedule import backoff, next_due

times = st.floats(0, 1e7)
intervals = st.floats(0.001, 1e6)


@pytest.mark.parametrize(
    ("due", "interval", "now", "following"),
    [
        (10.0, 5.0, 10.0, 15.0),
        (10.0, 5.0, 14.9, 15.0),
        (10.0, 5.0, 15.0, 20.0),
        (10.0, 5.0, 27.0, 30.0),
        (10.0, 5.0, 1e6, 1e6 + 5),
    ],
)
def test_the_next_time_is_on_the_beat(due: float, interval: float, now: float, following: float) -> None:
    assert next_due(due, interval, now) == following


@given(times, intervals, st.floats(0, 1e6))
@example(2097151.0, 1.7685455556202214, 1.7685455556202214)  # rounds to now itself
def test_the_next_time_is_after_now_and_within_an_interval(due: float, interval: float, late: float) -> None:
    now = due + late
    following = next_due(due, interval, now)
    assert following > now
    assert following - now <= interval * 1.001


def test_a_pause_is_doubled_up_to_the_longest() -> None:
    assert [backoff(attempt, 0.5, 5.0) for attempt in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 4.0, 5.0]


@given(st.integers(1, 10**9), st.floats(0.001, 10), st.floats(10, 1000))
def test_no_attempt_is_too_many(attempt: int, first: float, most: float) -> None:
    assert first <= backoff(attempt, first, most) <= most
