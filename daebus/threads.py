"""`@app.thread`: long-running threads, each watched by itself: started again when it crashes, up to a point."""

from __future__ import annotations

from threading import Event, Lock, Thread, current_thread
from time import monotonic

from .log import logger, one_line
from .schedule import backoff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .registry import Record

CRASHES = 5
"""Crashes in a row after which the service fails: waiting has not helped, so systemd's restart may."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a crashed thread is started again: doubled with each crash in a row."""

STEADY = 60.0
"""Seconds of running after which earlier crashes are forgotten."""


def await_here(result: object) -> None:
    """Wait on this thread for what an `async def` function returned; anything else is done already."""
    if hasattr(result, "__await__"):
        from .loop import run_here

        run_here(result)


class Running:
    """What a thread's function gets: `running()` says whether to go on, `running.wait(s)` sleeps until told not to."""

    __slots__ = ("_stop", "asked")

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self.asked = monotonic()  # when last; infinite while it sleeps in `wait`

    def __call__(self) -> bool:
        """Say whether the thread should go on."""
        self.asked = monotonic()
        return not self._stop.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep so many seconds, or until the thread is to stop; return whether it should go on."""
        self.asked = float("inf")
        stopped = self._stop.wait(seconds)
        self.asked = monotonic()
        return not stopped


class ManagedThread:
    """One declared thread: at most one run at a time."""

    def __init__(self, record: Record, fail: Callable[[str], None]) -> None:
        self.name = record.name
        self.auto_start = record.auto_start
        self._function = record.function
        self._stuck_after = record.stuck_after
        self._fail = fail
        self._running: Running | None = None
        self._stop = Event()
        self._thread: Thread | None = None
        self._lock = Lock()  # for starting, which several may want at once

    def start(self) -> bool:
        """Start it; False if it runs already."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return False
            self._stop = Event()
            self._thread = Thread(target=self._run, args=(self._stop,), name=f"daebus:{self.name}", daemon=True)
            self._thread.start()
            return True

    def tell(self) -> None:
        """Tell it to stop, without waiting."""
        self._stop.set()

    def join(self, seconds: float) -> bool:
        """Wait for its end; True if it has ended (or never ran)."""
        with self._lock:  # not between its making and its start
            thread = self._thread
        if thread is None or thread is current_thread():
            return thread is None
        thread.join(max(0.0, seconds))
        return not thread.is_alive()

    def is_stuck(self, now: float) -> bool:
        """Whether it runs and has not asked `running` for longer than it may."""
        running = self._running
        return self._stuck_after is not None and running is not None and now - running.asked > self._stuck_after

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or will be started again after a crash."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def _run(self, stop: Event) -> None:
        crashes = 0
        while not stop.is_set():
            began = monotonic()
            running = self._running = Running(stop)
            try:
                await_here(self._function(running))
                return
            except BaseException:  # noqa: BLE001 - the last stop of the thread: it decides whether to start again
                crashes = 1 if monotonic() - began > STEADY else crashes + 1
                if crashes >= CRASHES:
                    logger.error("Thread %r crashed %d times in a row", one_line(self.name), crashes, exc_info=True)
                    self._fail(f"thread {self.name!r} crashed {crashes} times in a row")
                    return
                pause = backoff(crashes, FIRST_PAUSE, LONGEST_PAUSE)
                text = "Thread %r crashed; it is started again in %g s"
                logger.error(text, one_line(self.name), pause, exc_info=True)
                running.wait(pause)
            finally:
                running.asked = float("inf")  # it does not run


class Threads:
    """All declared threads of a service."""

    def __init__(self, records: Iterable[Record], fail: Callable[[str], None]) -> None:
        self._threads = {record.name: ManagedThread(record, fail) for record in records}

    def start_all(self) -> None:
        """Start those that are to start with the service."""
        for thread in self._threads.values():
            if thread.auto_start:
                thread.start()

    def start(self, name: str) -> bool:
        """Start a thread; False, and a line in the log, if it runs already or is not declared."""
        thread = self._find(name)
        if thread is None:
            return False
        if thread.start():
            return True
        logger.warning("Thread %r runs already", name)
        return False

    def stop(self, name: str, seconds: float) -> bool:
        """Stop a thread; True if it has ended within the time, False if not (or not declared)."""
        thread = self._find(name)
        if thread is None:
            return False
        thread.tell()
        if thread.join(seconds):
            return True
        logger.warning("Thread %r was told to stop and has not ended within %g s", name, seconds)
        return False

    def _find(self, name: str) -> ManagedThread | None:
        thread = self._threads.get(name)
        if thread is None:
            known = ", ".join(repr(each) for each in self._threads) or "none is"
            logger.error("There is no thread %s; declared: %s", ascii(name), known)
        return thread

    @property
    def running(self) -> list[str]:
        """The names of those that run."""
        return [thread.name for thread in self._threads.values() if thread.is_alive]

    def stuck(self, now: float) -> list[str]:
        """Return the names of those that have not asked `running` for longer than they may."""
        return [thread.name for thread in self._threads.values() if thread.is_stuck(now)]

    def stop_all(self, deadline: float) -> list[str]:
        """Tell all, wait until the deadline (monotonic seconds); return the names of those that have not ended."""
        self.tell_all()
        return [thread.name for thread in self._threads.values() if not thread.join(deadline - monotonic())]

    def tell_all(self) -> None:
        """Tell all threads to stop, without waiting."""
        for thread in self._threads.values():
            thread.tell()
