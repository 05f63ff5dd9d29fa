"""What the engine knows of a handler: whether it is slow, and whether its messages must keep their order."""

from __future__ import annotations

from collections import deque

from .tally import Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .registry import Record

FORGIVEN_AFTER = 100
"""Quick runs in a row after which a handler that was slow once is run by the reader again."""

_HOOKED = ("action", "route", "folder")  # the functions of app.before, after and error serve these

QUICK = 0.001
"""Seconds within which a run counts as quick: half of the watcher's tick."""


def _positional(function: Callable[..., Any]) -> int:
    """Return how many positional arguments a function requires (a listener may ask for the channel, too)."""
    code = getattr(function, "__code__", None)
    if code is None:
        return 1
    bound = 1 if getattr(function, "__self__", None) is not None else 0
    return int(code.co_argcount) - bound - len(getattr(function, "__defaults__", None) or ())


class Work:
    """One handler as the engine sees it. `ordered` ones (listeners) run one message at a time, in order."""

    __slots__ = (
        "busy",
        "function",
        "hooked",
        "kind",
        "learns",
        "name",
        "ordered",
        "quick_runs",
        "slow",
        "tally",
        "waiting",
        "waiting_bytes",
        "wants_channel",
    )

    def __init__(self, record: Record) -> None:
        self.kind = "channel" if record.kind == "listen" else record.kind  # as readers of figures know it
        self.name = record.name
        contract = record.contract
        self.function: Callable[..., Any] = record.function if contract is None else contract.call
        self.ordered = record.kind == "listen"
        self.tally = Tally()
        self.hooked = record.kind in _HOOKED
        self.wants_channel = self.ordered and (contract is not None or _positional(record.function) >= 2)
        self.slow = record.inline is False
        self.learns = record.inline is None
        self.quick_runs = 0
        self.busy = False
        self.waiting: deque[Any] = deque()
        self.waiting_bytes = 0

    def stalled(self) -> None:
        """Note that a run held up the reader."""
        if self.learns:
            self.slow = True
            self.quick_runs = 0
        self.tally.next_timed = 0  # the time of this one is of interest

    def took(self, seconds: float) -> None:
        """Note how long a run on another thread took."""
        if not self.learns:
            return
        self.quick_runs = self.quick_runs + 1 if seconds < QUICK else 0
        if self.quick_runs >= FORGIVEN_AFTER:
            self.slow = False
            self.quick_runs = 0
