"""What `daebus bench` counts."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("click")

from daebus.cli.measuring import NUMBERS, TITLES, Run, Tally, rows
from daebus.cli.output import table


def tally_of(*seconds: float) -> Tally:
    made = Tally()
    for each in seconds:
        made.answered(each)
    return made


def test_nothing_was_answered() -> None:
    tally = Tally()
    tally.failed("timeout")
    assert (tally.within(0.5), tally.calls, tally.errors) == (None, 0, {"timeout": 1})
    assert Run(1, 0.0, tally).as_json() == {
        "callers": 1, "seconds": 0.0, "calls": 0, "rate": 0.0, "p50": None, "p99": None, "longest": None,
        "errors": {"timeout": 1},
    }  # fmt: skip


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_times_are_right_within_two_percent(share: float) -> None:
    times = [random.lognormvariate(-7, 1.5) for _ in range(5000)]
    exact = sorted(times)[max(0, round(share * len(times)) - 1)]
    found = tally_of(*times).within(share)
    assert found is not None
    assert exact * 0.999 <= found <= max(exact * 1.021, 1e-6)


def test_memory_is_bounded() -> None:
    tally = tally_of(*(10 ** random.uniform(-9, 3) for _ in range(50_000)))
    assert len(tally._buckets) < 1100
    assert tally.calls == 50_000


def test_no_time_is_above_the_longest() -> None:
    tally = tally_of(0.0101, 0.0, 5.0)
    assert tally.within(1.0) == tally.longest == 5.0
    assert tally.within(0.01) == 1e-6


def test_several_are_one() -> None:
    one, other = tally_of(0.001, 0.002), tally_of(0.003)
    other.failed("busy")
    one.failed("busy")
    one.add(other)
    assert (one.calls, one.longest, one.errors) == (3, 0.003, {"busy": 2})
    assert one.within(1.0) == 0.003


def test_a_table_for_a_person() -> None:
    broken = Tally()
    broken.failed("busy")
    assert table(TITLES, rows([Run(1, 2.0, tally_of(0.001, 0.0024)), Run(12, 2.0, broken)]), NUMBERS) == [
        "CALLERS  CALLS  CALLS/S      P50      P99  LONGEST  ERRORS",
        "      1      2        1  1.00 ms  2.40 ms  2.40 ms  -",
        "     12      0        0        -        -        -  busy: 1",
    ]
