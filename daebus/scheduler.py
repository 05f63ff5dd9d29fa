"""`@app.background`: starts tasks when they are due. Driven by the main thread; tasks run on worker threads."""

from __future__ import annotations

from time import monotonic

from .errors import status_of_outage
from .log import Seldom, logger, one_line
from .schedule import next_due
from .tally import Tally
from .threads import await_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .registry import Record


class Task:
    """One task: when it is due next (monotonic seconds), whether it runs and since when, and what its runs took."""

    kind = "task"

    def __init__(self, record: Record, now: float) -> None:
        self.name = record.name
        self.interval = record.interval
        self._function = record.function
        self.due = now + record.interval
        self.running = False
        self.began = now
        self._seldom = Seldom()
        self.tally = Tally()
        self.skipped = 0

    def run(self) -> None:
        """Run once, on a worker thread. Errors are logged; the schedule is kept."""
        try:
            await_here(self._function())
        except BaseException as error:  # noqa: BLE001 - the last stop: SystemExit in a task must not end a worker
            self.tally.failed()
            quiet = self._seldom.take(type(error))  # a task that fails each second must not fill the log
            if quiet is not None:
                self._log(error, f" (and {quiet} times like this before)" if quiet else "")
        finally:
            self.tally.ran(monotonic() - self.began)
            self.running = False

    def _log(self, error: BaseException, again: str) -> None:
        name = one_line(self.name)
        if status_of_outage(error) is None:
            logger.error("Background task %r failed%s", name, again, exc_info=error)
        else:  # where it happened says nothing about why
            logger.warning("Background task %r could not be done%s: %s", name, again, one_line(str(error)))


class Scheduler:
    """The tasks of a service. `start` puts a function on a worker thread."""

    def __init__(self, records: Iterable[Record], start: Callable[[Callable[[], None]], None]) -> None:
        self._start = start
        now = monotonic()
        self.tasks = [Task(record, now) for record in records]
        self.rounds = 0  # how often the main thread has come by

    def run_due(self, now: float) -> float | None:
        """Start what is due; return the seconds until the next task is, None if there is none. Main thread."""
        for task in self.tasks:
            if task.due <= now:
                self._begin(task)
                task.due = next_due(task.due, task.interval, now)
        self.rounds += 1
        return min((task.due for task in self.tasks), default=now) - now if self.tasks else None

    def overdue(self, now: float, limit: float) -> str | None:
        """Return the name of a task that should have been started more than so many seconds ago, if there is one."""
        return next((task.name for task in self.tasks if now - task.due > limit), None)

    def _begin(self, task: Task) -> None:
        if task.running:
            task.skipped += 1
            logger.debug("Background task %r still runs; this turn is skipped", one_line(task.name))
            return
        task.began = monotonic()
        task.running = True
        try:
            self._start(task.run)
        except RuntimeError as error:
            task.running = False
            logger.error("Background task %r could not be started: %s", one_line(task.name), error)

    @property
    def running(self) -> list[str]:
        """The names of the tasks that run now."""
        return [task.name for task in self.tasks if task.running]
