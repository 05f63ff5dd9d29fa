"""What is counted of a handler: how often it ran, for how long, and how often it failed.

Run times are counted by their order of magnitude, in buckets whose bounds grow by an eighth of an octave, so that a
percentile is known to some 5 % without keeping the times themselves. They are sorted into the buckets a few hundred at
a time: that costs a tenth of a microsecond each, and one by one it would be four times as much.
"""

from __future__ import annotations

from _thread import allocate_lock
from bisect import bisect_left, bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PER_OCTAVE, OCTAVES, SHORTEST = 8, 30, 1e-6
"""Buckets within a doubling, doublings, and the first bound in seconds: from a microsecond to 18 minutes."""

BOUNDS = [SHORTEST * 2 ** (number / PER_OCTAVE) for number in range(PER_OCTAVE * OCTAVES + 1)]
"""Seconds that are the most of each bucket; what is longer is in a last one, which has no bound."""

UNSORTED = 256
"""Run times that may wait to be sorted."""

_sorting = allocate_lock()  # one for all: it is seldom taken, and never for long


class Tally:
    """The runs of one handler. Any thread may count, and read."""

    __slots__ = ("_buckets", "_longest", "_seconds", "errors", "times")

    def __init__(self) -> None:
        self.times: list[float] = []  # of runs that are not sorted yet; each thread appends, which is one step
        self.errors = 0
        self._buckets: dict[int, int] = {}  # runs by the number of the bucket
        self._longest = 0.0
        self._seconds = 0.0

    def ran(self, seconds: float) -> None:
        """Count a run."""
        self.times.append(seconds)
        if len(self.times) >= UNSORTED:
            self.sort()

    def failed(self) -> None:
        """Count a run that failed."""
        self.errors += 1

    def sort(self) -> None:
        """Sort what is not sorted yet into the buckets."""
        with _sorting:
            self._sort()

    def _sort(self) -> None:
        times = self.times[:]
        del self.times[: len(times)]  # what came meanwhile is behind them
        if not times:
            return
        times.sort()
        self._seconds += sum(times)
        self._longest = max(self._longest, times[-1])
        done = 0
        while done < len(times):
            number = bisect_left(BOUNDS, times[done])
            end = bisect_right(times, BOUNDS[number], done) if number < len(BOUNDS) else len(times)
            self._buckets[number] = self._buckets.get(number, 0) + end - done
            done = end

    def taken(self) -> Taken:
        """Return what was counted until now."""
        with _sorting:
            self._sort()
            return Taken(sorted(self._buckets.items()), self._seconds, self._longest, self.errors)


class Taken:
    """What was counted of a handler until some moment. Times are in seconds."""

    __slots__ = ("buckets", "calls", "errors", "longest", "seconds")

    def __init__(self, counted: Sequence[tuple[int, int]], seconds: float, longest: float, errors: int) -> None:
        """`counted` are the numbers of the buckets in order, each with how many runs it has."""
        last = len(BOUNDS)
        self.buckets = [(BOUNDS[number] if number < last else longest, count) for number, count in counted]
        """The most seconds that a bucket takes, and how many runs it has: those that have any, in order."""
        self.calls = sum(count for _number, count in counted)
        self.errors = errors
        self.longest = longest
        self.seconds = seconds

    def percentile(self, share: float) -> float:
        """Return the seconds within which a share of the runs (0.99) ended: the middle of the bucket where it lies."""
        left = share * self.calls
        for bound, count in self.buckets:
            left -= count
            if left <= 0:
                return min(bound * 2 ** (-0.5 / PER_OCTAVE), self.longest)
        return self.longest
