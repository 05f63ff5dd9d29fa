"""The clock of a test: it stands still until it is moved."""

from __future__ import annotations

import math
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REAL = ("daebus.log", "daebus.link", "daebus.threads", "daebus.redisserver", "daebus.websocket", "daebus.journal")
"""Modules that keep the machine's clock: they wait for the world, or outlive a test."""

ROUNDING = 1e-9
"""Seconds by which sums of the same seconds may differ."""


class Clock:
    """Seconds, as `time.monotonic` has them: those of the machine at the beginning, and moved by `advance` alone."""

    def __init__(self, move: Callable[[float], None]) -> None:
        """`move` takes a service to a time, and does what is due until then."""
        self.now = float(math.ceil(time.monotonic()))
        self._move = move

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass: tasks run when they are due, timeouts expire, delayed messages arrive."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
            raise ValueError(f"a clock is moved by a number of seconds from 0 on, not by {seconds!r}")
        self._move(round(self.now + seconds, 9))

    def __repr__(self) -> str:
        return f"<Clock at {self.now:.9g} s>"


class Swaps:
    """What is replaced in the process while a test client is open."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute until `undo`."""
        self._before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def put_clock(self, clock: Clock) -> None:
        """Have our modules read a test's clock."""
        for name, module in list(sys.modules.items()):
            ours = name.startswith("daebus.") and not name.startswith("daebus.testing") and name not in REAL
            if ours and vars(module).get("monotonic") is time.monotonic:
                self.put(module, "monotonic", clock.monotonic)

    def undo(self) -> None:
        """Put everything back."""
        while self._before:
            setattr(*self._before.pop())
