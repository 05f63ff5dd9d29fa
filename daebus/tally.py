"""What is counted of a handler: how often it ran, for how long, and how often it failed.

Run times are counted by their order of magnitude, in buckets whose bounds grow by an eighth of an octave, so that a
percentile is known to some 5 % without keeping the times themselves. Taking the time of a run that needs microseconds
would cost more than that run may: of a handler that runs often, quick runs are timed one in `EVERY`, which stands for
those before it. What held up the reader, or ran elsewhere, is always timed (see `work.Work`).
"""

from __future__ import annotations

from bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PER_OCTAVE, OCTAVES, SHORTEST = 8, 30, 1e-6
"""Buckets within a doubling, doublings, and the first bound in seconds: from a microsecond to 18 minutes."""

BOUNDS = [SHORTEST * 2 ** (number / PER_OCTAVE) for number in range(PER_OCTAVE * OCTAVES + 1)]
"""Seconds that are the most of each bucket; what is longer is in a last one, which has no bound."""

OFTEN, EVERY = 1024, 64
"""Runs up to which each is timed; and how many quick ones one of them stands for, after that, on the average."""


class Tally:
    """The runs of one handler. Any thread counts: each sum is one step of the interpreter, which no other comes
    between."""

    __slots__ = ("_buckets", "_longest", "_seconds", "_timed", "errors", "next_timed", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.next_timed = 0  # the run that is to be timed; 0: each is
        self._timed = 0  # runs that were, or for which another stands
        self.errors = 0
        self._buckets: list[int] = []  # made at the first run: many handlers of many services never run
        self._longest = 0.0
        self._seconds = 0.0

    def ran(self, seconds: float) -> None:
        """Count a run, and its time."""
        self.runs += 1
        self.took(seconds, slow=True)

    def took(self, seconds: float, *, slow: bool) -> None:
        """Count the time of a run that is counted already; a quick one stands for those that were left out."""
        number = bisect_left(BOUNDS, seconds)
        weight = self.runs - self._timed if self.next_timed and not slow else 1
        if not self._buckets:
            self._buckets += [0] * (len(BOUNDS) + 1)  # a second thread that is here makes it longer, and nothing else
        self._buckets[number] += weight
        self._timed += weight
        self._seconds += seconds * weight
        if seconds > self._longest:
            self._longest = seconds
        self.next_timed = self.runs + _gap(self.runs) if self.runs >= OFTEN and not slow else 0

    def failed(self) -> None:
        """Count a run that failed."""
        self.errors += 1

    def taken(self) -> Taken:
        """Return what was counted until now."""
        buckets = self._buckets.copy()
        counted = [(number, count) for number, count in enumerate(buckets) if count]
        return Taken(_exact(counted, self.runs), self._seconds, self._longest, self.errors)


def _gap(runs: int) -> int:
    """Return how many runs later to take a time again: ever another number, so that nothing keeps step with it."""
    return 1 + (runs * 0x9E3779B1 >> 16) % (2 * EVERY)


def _exact(counted: list[tuple[int, int]], runs: int) -> list[tuple[int, int]]:
    """Return the buckets with as many runs as there were: what the last timed one does not stand for yet is added to
    the fullest."""
    if not counted:
        return []
    fullest = max(range(len(counted)), key=lambda place: counted[place][1])
    number, count = counted[fullest]
    missing = runs - sum(count for _number, count in counted)
    counted[fullest] = number, max(1, count + missing)
    return counted


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
        bound = bound_of(share, self.buckets)
        return self.longest if bound is None else min(bound * 2 ** (-0.5 / PER_OCTAVE), self.longest)


def bound_of(share: float, buckets: Iterable[tuple[float, int]]) -> float | None:
    """Return the bound of the bucket within which a share of the runs (0.99) ended; None if there were none.

    `buckets` are the bounds in order, each with how many runs it has.
    """
    counted = list(buckets)
    left = share * sum(count for _bound, count in counted)
    for bound, count in counted:
        left -= count
        if count and left <= 0:
            return bound
    return None
