"""What `daebus bench` counts: how many calls, how long they took, what went wrong. Bounded memory, however long."""

from __future__ import annotations

from math import ceil, exp, log

from ..tally import bound_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LEAST = 1e-6
"""Seconds below which times are not told apart."""

STEP = log(1.02)
"""Times are kept 2 % apart."""


class Tally:
    """What one caller has measured, or several of them together. Times are in seconds."""

    def __init__(self) -> None:
        self.calls = 0  # those that were answered
        self.longest = 0.0
        self.errors: dict[str, int] = {}
        self._buckets: dict[int, int] = {}

    def answered(self, seconds: float) -> None:
        """Count a call that was answered."""
        self.calls += 1
        self.longest = max(self.longest, seconds)
        bucket = ceil(log(max(seconds, LEAST) / LEAST) / STEP)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def failed(self, code: str) -> None:
        """Count a call that was answered with an error, or not at all."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def add(self, other: Tally) -> None:
        """Take over what another one has measured."""
        self.calls += other.calls
        self.longest = max(self.longest, other.longest)
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        for code, count in other.errors.items():
            self.errors[code] = self.errors.get(code, 0) + count

    def within(self, share: float) -> float | None:
        """Return the time within which this share of the calls (0.99, say) was answered, at most 2 % too high."""
        counted = ((LEAST * exp(bucket * STEP), count) for bucket, count in sorted(self._buckets.items()))
        bound = bound_of(share, counted)
        return None if bound is None else min(self.longest, bound)


class Run:
    """One row of the result: so many callers, side by side, for so many seconds."""

    def __init__(self, callers: int, seconds: float, tally: Tally) -> None:
        self.callers, self.seconds, self.tally = callers, seconds, tally

    @property
    def rate(self) -> float:
        """Calls that were answered, each second."""
        return self.tally.calls / self.seconds if self.seconds > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what is printed for a program. Times are in seconds, null if nothing was answered."""
        tally = self.tally
        return {
            "callers": self.callers,
            "seconds": round(self.seconds, 3),
            "calls": tally.calls,
            "rate": round(self.rate, 1),
            "p50": _rounded(tally.within(0.5)),
            "p99": _rounded(tally.within(0.99)),
            "longest": _rounded(tally.longest if tally.calls else None),
            "errors": dict(sorted(tally.errors.items())),
        }

    def as_row(self) -> list[object]:
        """Return the cells of a table for a person, as `TITLES` has them."""
        tally = self.tally
        times = [tally.within(0.5), tally.within(0.99), tally.longest if tally.calls else None]
        errors = ", ".join(f"{code}: {count}" for code, count in sorted(tally.errors.items()))
        return [self.callers, tally.calls, f"{self.rate:,.0f}", *map(_milliseconds, times), errors or None]


TITLES = ("CALLERS", "CALLS", "CALLS/S", "P50", "P99", "LONGEST", "ERRORS")
NUMBERS = "CALLERS CALLS CALLS/S P50 P99 LONGEST"
"""Those of the titles whose cells stand at the right."""


def rows(runs: Sequence[Run]) -> list[list[object]]:
    """Return the rows of the table."""
    return [run.as_row() for run in runs]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.2f} ms"
