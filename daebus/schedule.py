"""When things are due: arithmetic on monotonic seconds. Pure."""

from __future__ import annotations


def next_due(due: float, interval: float, now: float) -> float:
    """Return the next due time after one at `due` was met at `now`: on the same beat, missed periods skipped."""
    following = due + interval
    if following <= now:
        following = due + interval * ((now - due) // interval + 1)
    return following if following > now else now + interval  # the sum may round to now itself


def backoff(attempt: int, first: float, most: float) -> float:
    """Return the pause in seconds before attempt 1, 2, 3...: doubled each time, up to `most`."""
    return float(min(most, first * 2.0 ** min(attempt - 1, 32)))
