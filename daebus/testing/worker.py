"""The thread that a service under test runs on: one thing at a time, and never for longer than the test's patience."""

from __future__ import annotations

import sys
import threading
from _queue import Empty, SimpleQueue
from concurrent.futures import Future, wait
from time import monotonic
from traceback import extract_stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


MARGIN = 0.2
"""Seconds beyond the patience that the thread has to say itself which coroutine hangs."""


class Stuck(AssertionError):
    """A handler has not come to an end within the test's patience; the text says which, and where it is."""


class Worker:
    """One thread. What it is given by other threads, it does in order; what it gives itself, at once."""

    def __init__(self, patience: float, name: Callable[[], str]) -> None:
        """`patience` is in seconds; `name` says what is being done."""
        self.patience = patience
        self._name = name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="daebus-test", daemon=True)
        self._began = 0.0
        self.stuck = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether this is the thread."""
        return threading.current_thread() is self._thread

    def do(self, function: Callable[[], Any]) -> Any:
        """Do something and return what it returns, or raise what it raises. Raises `Stuck`. Any thread."""
        if self.is_here:
            return function()
        asked, future = monotonic(), self.submit(function)
        while not future.done():
            left = max(asked, self._began) + self.patience + MARGIN - monotonic()
            if left <= 0:
                raise self.give_up(f"; {self._place()}")
            wait([future], left)
        return future.result()

    def goes_on(self) -> None:
        """On the thread: something has ended, and the next thing may take as long."""
        self._began = monotonic()

    def give_up(self, place: str = "") -> Stuck:
        """Return what to raise for what hangs; nothing more is done after it."""
        self.stuck = True
        return Stuck(f"{self._name()} has not come to an end within {self.patience:g} s{place}")

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Have something done. Any thread."""
        if self.stuck:
            raise Stuck("a handler of this test client hangs: nothing more can be done with it")
        future: Future[Any] = Future()
        self._jobs.put((function, future))
        return future

    def ring(self) -> None:
        """Say that there is something to do. Any thread."""
        self._jobs.put((_nothing, Future()))

    def wait(self) -> None:
        """On the thread, amid a job: do one of those that other threads have given, or wait a moment for one.

        Raises `Stuck` when the patience is over.
        """
        left = self._began + self.patience - monotonic()
        if left <= 0 or self.stuck:
            raise self.give_up()
        try:
            job = self._jobs.get(timeout=min(0.02, left))
        except Empty:
            return
        if job is None:
            self._jobs.put(None)
            raise self.give_up()
        _do(*job)

    def end(self) -> None:
        """End; a thread that hangs is left behind."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join(MARGIN if self.stuck else self.patience)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self.goes_on()
            _do(*job)

    def _place(self) -> str:
        """Say where the thread is: in the user's code, if it is below it."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        stack = extract_stack(frame) if frame is not None else []
        ours = [each for each in stack if "daebus" not in each.filename.split("/")[-2:-1]]
        place = (ours or list(stack))[-1:]
        return "".join(f"it is at {each.filename}:{each.lineno}, in {each.name}" for each in place) or "it has ended"


def _do(function: Callable[[], Any], future: Future[Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
        future.set_exception(error)
    else:
        future.set_result(result)


def _nothing() -> None:
    """The thread has been woken."""
