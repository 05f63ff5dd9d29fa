"""The event loop for `async def` handlers: one thread, made when the first coroutine comes."""

from __future__ import annotations

import asyncio
from threading import Lock, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any


class LoopThread:
    """An asyncio event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = Thread(target=self._run, name="daebus-asyncio", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    @property
    def unfinished(self) -> int:
        """How many coroutines run."""
        return len(self._tasks)

    def call(self, function: Callable[[], object]) -> None:
        """Have the loop call a function. Any thread."""
        self._loop.call_soon_threadsafe(function)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine. Any thread."""
        self._loop.call_soon_threadsafe(self._start, coroutine)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    def stop(self, seconds: float) -> None:
        """Cancel what runs, and end the thread within so many seconds."""
        self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._loop.close()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._loop.call_soon(self._loop.call_soon, self._loop.stop)


_lock = Lock()
_current: LoopThread | None = None


def existing() -> LoopThread | None:
    """Return the process' event loop thread if there is one."""
    return _current


def shared() -> LoopThread:
    """Return the process' event loop thread, making it if need be."""
    global _current
    with _lock:
        if _current is None:
            _current = LoopThread()
        return _current


def run_here(coroutine: Any) -> Any:
    """Run a coroutine on the shared loop and wait for its end on this thread (for tasks, threads and hooks)."""
    return asyncio.run_coroutine_threadsafe(coroutine, shared()._loop).result()


def end(seconds: float) -> None:
    """End the event loop thread, if there is one."""
    global _current
    with _lock:
        thread, _current = _current, None
    if thread is not None:
        thread.stop(seconds)
