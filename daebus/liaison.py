"""What systemd is told in the course of a service's life, by the main process: READY, RELOADING, STOPPING, the status
line of `systemctl status`, more time where more is needed, and the watchdog's signs of life.

All of it is done on the main thread, but for the watchdog's and the reload's, which have threads.
"""

from __future__ import annotations

import time
from threading import Lock
from time import monotonic

from .log import logger, one_line
from .threads import await_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .registry import Record
    from .systemd import Notifier
    from .watchdog import Watchdog

STATUS_PERIOD = 10.0
"""Seconds between two reports of counts while there is work; each costs systemd some work, too."""

EXTENSION, EXTEND_EVERY = 30.0, 10.0
"""Seconds that a start that waits for Redis asks for, and between two such requests."""

WAIT_LIMIT = 600.0
"""Seconds after which a start asks for no more: then TimeoutStartSec= decides, and Restart= begins anew."""

DRAIN_SECONDS = 15.0
"""Seconds asked for at the stop: more than a drain ever takes."""

_TROUBLES = ("failed", "refused", "expired", "broken", "unknown", "dropped")


def sentence(counts: Mapping[str, int], redis: str, *, connected: bool, busy: int, workers: int) -> str:
    """Return what a service is doing, in words. Pure."""
    number = counts["received"]
    what = f"{number:,} requests and messages" if number else "waiting for the first request"
    troubles = [f"{counts[name]:,} {name}" for name in _TROUBLES if counts[name]]
    there = "connected" if connected else "away, reconnecting"
    return f"Serving: {', '.join([what, *troubles])}; Redis at {redis} {there}; {busy} of {workers} workers busy"


class Liaison:
    """Talks to systemd. Without one it says nothing, and costs nothing."""

    def __init__(self, notifier: Notifier, compose: Callable[[], str]) -> None:
        """`compose` returns the status sentence of a service that serves."""
        self._notifier = notifier
        self._compose = compose
        self._said = ""
        self._when = 0.0
        self._counted = 0
        self._changed = False
        self._began = monotonic()
        self._extended = float("-inf")  # the clock begins with the machine, and so may we
        self._stops = False
        self._lock = Lock()
        self._trouble: str | None = None
        self.watchdog: Watchdog | None = None

    # --- starting ---

    def wait_for_redis(self, redis: str, now: float) -> float | None:
        """While the start waits: ask for time, within bounds; return the seconds until the next time."""
        if not self._notifier.is_heard or now - self._began > WAIT_LIMIT:
            return None
        if now - self._extended >= EXTEND_EVERY:
            self._extended = now
            self._notifier.tell(f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}", f"STATUS=Waiting for Redis at {redis}")
        return EXTEND_EVERY

    def ready(self) -> None:
        """The service serves."""
        self._when = monotonic()
        self._tell("READY=1")
        if self.watchdog is not None:
            self.watchdog.start()

    # --- serving ---

    def changed(self) -> None:
        """Have the status said anew at the next look. Any thread."""
        self._changed = True

    def look(self, now: float, counted: int) -> float | None:
        """Say the status anew if that is due; return the seconds until it is, None while it is true."""
        if not self._notifier.is_heard:
            return None
        if self._changed or (counted != self._counted and now - self._when >= STATUS_PERIOD):
            self._changed, self._counted, self._when = False, counted, now
            self._tell()
        return None if counted == self._counted else self._when + STATUS_PERIOD - now

    def troubled(self, trouble: str | None) -> None:
        """Have the status say what is wrong, until it is None. Any thread."""
        self._trouble = trouble
        self._tell()

    def _tell(self, *states: str) -> None:
        """Send states and the status; the status alone if it has changed; nothing once it stops. Any thread."""
        with self._lock:  # else what was composed before could be said after what was composed later
            if self._stops:
                return
            said = f"Not well: {self._trouble}" if self._trouble is not None else self._compose()
            if states or said != self._said:
                self._said = said
                self._notifier.tell(*states, f"STATUS={said}")

    def reloading(self) -> None:
        """A reload begins (systemd.service(5), Type=notify-reload)."""
        if self._stops:
            return
        self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reloading")

    def reloaded(self) -> None:
        """A reload has ended. Any thread."""
        self._tell("READY=1")

    # --- stopping ---

    def drains(self) -> None:
        """The service finishes what it has taken."""
        self._stops = True
        if self.watchdog is not None:
            self.watchdog.drain()
        extension = f"EXTEND_TIMEOUT_USEC={DRAIN_SECONDS * 1e6:.0f}"
        self._notifier.tell("STOPPING=1", extension, "STATUS=Stopping: finishing what was taken")

    def ends(self) -> None:
        """The service has stopped, or has not come to life."""
        if self.watchdog is not None:
            self.watchdog.stop()
        self._notifier.tell("STOPPING=1")
        self._notifier.give_back()


class Reload:
    """Runs the on_reload functions, one reload at a time."""

    def __init__(self, records: list[Record], liaison: Liaison, start: Callable[[Callable[[], None]], None]) -> None:
        """`start` runs a function on a worker thread."""
        self._records = records
        self._liaison = liaison
        self._start = start
        self._lock = Lock()  # so that none that is asked for as the last one ends is lost
        self._runs = False
        self._again = False

    @property
    def runs(self) -> bool:
        """Whether one is under way. Any thread."""
        return self._runs

    def begin(self) -> None:
        """Reload, or do so once more when the reload that runs has ended. Main thread."""
        with self._lock:
            self._liaison.reloading()  # each time: systemd waits for the one that answers its own signal
            self._again = True
            if self._runs:
                return
            self._runs = True
        if not self._records:
            logger.info("SIGHUP: there is nothing to reload")
        try:
            self._start(self._run)
        except RuntimeError as error:
            logger.error("The reload could not be started: %s", error)
            self._again = False
            self._goes_on()

    def _run(self) -> None:
        """Run the functions. On a worker thread."""
        while self._goes_on():
            for record in self._records:
                self._call(record)

    def _goes_on(self) -> bool:
        """Whether a reload was asked for; if not, it is over, and that is said."""
        with self._lock:
            self._runs, self._again = self._again, False
            if not self._runs:
                self._liaison.reloaded()
            return self._runs

    @staticmethod
    def _call(record: Record) -> None:
        try:
            await_here(record.function())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one function's failure must not end the service
            text = "on_reload function at %s failed, and the service goes on as it was: %s"
            logger.error(text, record.place, one_line(str(error)), exc_info=True)
        else:
            logger.info("Reloaded (%s)", record.place)
