"""What is counted of a handler: how often it ran, for how long, and how often it failed. Pure.

Run times are counted by their order of magnitude, in buckets whose bounds grow by an eighth of an octave, so that a
percentile is known to some 5 % without keeping the times themselves.
"""

from __future__ import annotations

from bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PER_OCTAVE, OCTAVES, SHORTEST = 8, 30, 1e-6
"""Buckets within a doubling, doublings, and the first bound in seconds: from a microsecond to 18 minutes."""

BOUNDS = [SHORTEST * 2 ** (number / PER_OCTAVE) for number in range(PER_OCTAVE * OCTAVES + 1)]
"""Seconds that are the most of each bucket; the last bucket takes all that is longer."""


class Tally:
    """The runs of one handler. Any thread may count: each sum is one step that no other thread can come between."""

    __slots__ = ("buckets", "errors", "longest", "seconds")

    def __init__(self) -> None:
        self.buckets: list[int] = []  # made at the first run: most handlers of most services never run
        self.errors = 0
        self.longest = 0.0
        self.seconds = 0.0

    def ran(self, seconds: float) -> None:
        """Count a run."""
        number = bisect_left(BOUNDS, seconds)
        try:
            self.buckets[number] += 1
        except IndexError:
            self._make_room()
            self.buckets[number] += 1
        self.seconds += seconds
        if seconds > self.longest:
            self.longest = seconds

    def _make_room(self) -> None:
        missing = len(BOUNDS) + 1 - len(self.buckets)
        self.buckets += [0] * missing  # a second thread that is here at once makes it longer, and nothing else

    def failed(self) -> None:
        """Count a run that failed."""
        self.errors += 1

    def taken(self) -> list[tuple[float, int]]:
        """Return the buckets that have a count, each with the most seconds that it takes, in order."""
        last = len(BOUNDS)
        return [
            (BOUNDS[number] if number < last else max(self.longest, BOUNDS[-1]), count)
            for number, count in enumerate(self.buckets.copy())
            if count
        ]


def percentile(buckets: Sequence[tuple[float, int]], share: float) -> float:
    """Return the seconds within which a share of the runs (0.99) ended: the middle of the bucket in which it lies."""
    rank = share * sum(count for _bound, count in buckets)
    for bound, count in buckets:
        rank -= count
        if rank <= 0:
            return bound * 2 ** (-0.5 / PER_OCTAVE)
    return 0.0
