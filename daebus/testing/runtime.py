"""A service without sockets, threads and systemd: the parts of `service.Service` that a test replaces, and its life.

Everything that life does between two readings - handlers, tasks, timers, answers - is done on one thread (see
`worker`) until nothing is left to do. Then the test goes on.
"""

from __future__ import annotations

import time
from _thread import get_ident
from collections import deque
from functools import partial
from threading import Event

from ..context import current
from ..dispatch import Dispatcher
from ..engine import Engine, _Reading
from ..errors import DaebusError
from ..inbox import ListenCall
from ..scheduler import Scheduler
from ..service import THREAD_LIMIT, Service
from ..systemd import Notifier
from ..threads import await_here
from .clock import ROUNDING, Clock
from .stubs import StubService
from .switch import Faults, InlineBus, Switch
from .web import InlineNetwork
from .worker import Stuck, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from ..app import Daebus
    from ..dispatch import Call
    from ..errors import BadPayload
    from ..scheduler import Task
    from ..settings import RedisSettings
    from .sockets import WebSocketClient


class InlineDispatcher(Dispatcher):
    """The dispatcher, and what a test asks about: what handlers have raised unexpectedly, by error id, and how many
    messages were heard."""

    def __init__(self, service: str, actions: Any, flush: Callable[[], object]) -> None:
        super().__init__(service, actions, flush)
        self.failures: dict[str, BaseException] = {}
        self.unheard: list[BaseException] = []  # of listeners: nobody is answered
        self.heard = 0
        self.ring: Callable[[], None] = lambda: None  # tells the worker that a coroutine has ended
        self._ending: set[Any] = set()

    @property
    def unfinished(self) -> set[Any]:
        """The calls whose coroutines run, or have yet to let the next one run."""
        return {*self.awaiting, *self._ending}

    async def _await(self, call: Call, result: Any) -> None:
        self._ending.add(call)
        try:
            await super()._await(call, result)
        finally:
            self._ending.discard(call)
            self.ring()

    def handle(self, call: Any) -> bool:
        """Run a handler."""
        self.heard += type(call) is ListenCall
        return super().handle(call)

    def _broken(self, call: Call, error: BadPayload) -> None:
        self.heard -= type(call) is ListenCall
        super()._broken(call, error)

    def _log_failure(self, call: Call, error: BaseException, error_id: str) -> None:
        self.failures[error_id] = error
        if type(call) is ListenCall:
            self.unheard.append(error)
        super()._log_failure(call, error, error_id)


class InlineEngine(Engine):
    """The engine without threads: what it has to do is done by `run`, by whoever calls that."""

    worker: Worker | None = None

    def __init__(self, max_workers: int, flush: Callable[[], None], wake_watcher: Callable[[], None]) -> None:
        super().__init__(max_workers, flush, wake_watcher)
        self._handed: deque[Any] = deque()  # what threads would do

    def start(self) -> None:
        """Begin to take things."""
        self._reader = _Reading()

    def give_up(self) -> None:
        """Begin nothing more. Any thread."""
        self._reader = None

    def run(self) -> None:
        """Do all there is to do. On the worker; also within a handler that waits for something."""
        me = self._reader
        if me is None:
            return
        me.ident = get_ident()
        outer, inside = me.call, self._inside
        while self._run_some(me):
            if self.worker is not None and self.worker.stuck:  # the test has given up
                raise self.worker.give_up()
        me.call, self._inside = outer, inside

    def _run_some(self, me: _Reading) -> bool:
        if self._errands:
            self._errands.popleft()()
        elif self._overflow:
            self._refuse_overflow()
        elif self._ready:
            self._run_ready(me)
        elif self._handed:
            self._run_handed(self._handed.popleft())
        else:
            return False
        return True

    def _run_handed(self, job: Any) -> None:
        while job is not None:
            following = self._do(job)
            job = following() if following is not None else None

    @property
    def has_work(self) -> bool:
        """Whether there is something to do."""
        work = self._errands or self._overflow or self._ready or self._handed
        return bool(work) and self._reader is not None

    @property
    def next_timer(self) -> float:
        """When the next timer is due."""
        return self._timers[0][0] if self._timers else float("inf")

    def run_timers(self, now: float) -> None:
        """Run what is due."""
        from heapq import heappop

        while self._timers and self._timers[0][0] <= now + ROUNDING:
            heappop(self._timers)[2]()

    @property
    def at_work(self) -> str | None:
        """The call whose handler runs."""
        places = [place.runs.call for place in list(self._workers.values())]
        calls = [self._reader.call if self._reader is not None else None, *places]
        return next((str(call) for call in calls if call is not None), None)

    def _hand(self, job: Any) -> bool:
        self._handed.append(job)
        return True

    def _rest(self) -> None:
        return None

    def _strike(self) -> None:
        if self.worker is not None and not self.worker.is_here:
            self.worker.ring()


class InlineNotifier(Notifier):
    """What systemd would be told, is kept."""

    def __init__(self) -> None:
        self.watchdog_seconds = None
        self.states: list[str] = []

    @property
    def is_heard(self) -> bool:
        """It is."""
        return True

    def tell(self, *states: str) -> None:
        """Keep states such as `READY=1`."""
        self.states += states

    def take_environment(self) -> None:
        """Nothing is taken."""

    def give_back(self) -> None:
        """Nor given back."""


class Runtime(Service):
    """One run of a service under test."""

    make_bus, make_dispatcher, make_engine, make_notifier = InlineBus, InlineDispatcher, InlineEngine, InlineNotifier
    bus: InlineBus
    dispatcher: InlineDispatcher
    engine: InlineEngine
    _notifier: InlineNotifier

    def __init__(self, app: Daebus, settings: RedisSettings, faults: Faults, patience: float, debug: bool) -> None:
        """`patience` is in seconds."""
        endpoints = app._endpoints(debug)
        if endpoints is not None:
            endpoints.make_network = InlineNetwork
        name = app.service or ""
        super().__init__(app, name, settings, max_workers=app.max_workers, shared=False, endpoints=endpoints)
        self.faults = faults
        self.switch = self.bus.switch = Switch(faults)
        self.switch.bus = self.bus
        self.switch.later = self._later
        self.worker = self.engine.worker = Worker(patience, self._what)
        self.dispatcher.ring = self.engine.ring
        self.clock = Clock(self._move)
        self.sockets: list[WebSocketClient] = []
        self._stubs: list[InlineDispatcher] = []
        self._waiting: list[Any] = []  # calls whose handlers wait for something of ours
        self._doing = "what the test client was asked to do"

    # --- life (the test's thread) ---

    @property
    def states(self) -> list[str]:
        """What systemd would have been told."""
        return self._notifier.states

    @property
    def network(self) -> InlineNetwork | None:
        """What clients of HTTP and WebSocket connect to."""
        network: Any = self._endpoints.network if self._endpoints is not None else None
        return network if isinstance(network, InlineNetwork) else None

    def begin(self) -> None:
        """Start: as `Service.run`, but that an error of an on_start function is raised here."""
        self.worker.start()
        self._listen([])
        self.engine.start()
        if self._endpoints is not None:
            self._endpoints.serve()
        self._run_stop = True
        for record in self._registry.records("on_start"):
            _call(record)
        self._scheduler = Scheduler(self._registry.records("background"), self.engine.spare)
        self.engine.soon(self._open)
        self._say_ready()
        self.bus.on_change.append(self._redis_changed)
        self.on_worker(lambda: None)

    def finish(self) -> BaseException | None:
        """Stop in the order of life; return the first error of an on_stop function, or what else went wrong."""
        errors: list[BaseException] = []
        self._liaison.drains()
        if self.worker.stuck:
            self.engine.give_up()
        else:
            self.engine.soon(partial(self._stop_listening, Event()))
            _try(lambda: self.on_worker(lambda: None), errors)
        self.bus.unsubscribe()
        left = self.threads.stop_all(time.monotonic() + THREAD_LIMIT)
        for record in self._registry.records("on_stop") if self._run_stop else ():
            _try(partial(_call, record), errors)
        self._liaison.ends()
        if left:
            errors.append(Stuck(f"threads that do not end when they are told to: {', '.join(left)}"))
        return errors[0] if errors else None

    def close(self) -> None:
        """Let go of everything."""
        if self.network is not None and not self.worker.stuck:
            _try(partial(self.on_worker, partial(self.network.close, 0.0)), [])
        self.worker.end()
        self._close()

    @property
    def scheduler(self) -> Scheduler:
        """The tasks."""
        if self._scheduler is None:
            raise DaebusError("the service has not started")
        return self._scheduler

    def reload(self) -> None:
        """Do what SIGHUP does."""
        self.on_worker(self._reload.begin, "reload")

    def stub(self, service: str) -> StubService:
        """Return another service, as this test has it answer."""
        found = self.switch.stubs.get(service)
        if found is None:
            dispatcher = InlineDispatcher(service, [], self.bus.flush)
            dispatcher.failures = self.dispatcher.failures
            dispatcher.start_coroutine = self.dispatcher.start_coroutine
            dispatcher.resume = self.engine.resume
            dispatcher.ring = self.engine.ring
            self._stubs.append(dispatcher)
            found = self.switch.stubs[service] = StubService(self.switch, dispatcher, lambda call: call.run())
        return found

    # --- doing things ---

    def on_worker(self, function: Callable[[], Any], doing: str = "") -> Any:
        """Do something on the worker, and all that follows from it. Any thread."""
        self._doing = doing or self._doing
        return self.worker.do(partial(self._run, function, None if self.worker.is_here else current.get()))

    def _run(self, function: Callable[[], Any], call: Any) -> Any:
        """Do something for a call whose handler waits for it on another thread (None: for the test)."""
        self._waiting.append(call)
        try:
            result = function()
            self.settle()
        finally:
            self._waiting.remove(call)
        return result

    def settle(self, reached: Callable[[], bool] = lambda: False) -> None:
        """Do what there is to do, and wait for coroutines and streams, until something is `reached`. On the worker."""
        while True:
            self.engine.run()
            for socket in list(self.sockets):
                socket._read()
            if self.worker.stuck:  # the test has given up
                raise self.worker.give_up()
            if self.engine.has_work:
                continue
            if reached() or not self._unfinished_calls():
                return
            self.worker.wait()

    def _unfinished_calls(self) -> list[Any]:
        """What is done on other threads: coroutines, but those that wait for us, and async streams."""
        calls: list[Any] = []
        for dispatcher in (self.dispatcher, *self._stubs):
            calls += dispatcher.unfinished
        if self._endpoints is not None:
            calls += [call for door in self._endpoints._doors for call in list(door.streams)]
        return [call for call in calls if call not in self._waiting]

    def _what(self) -> str:
        return self.engine.at_work or next(map(str, self._unfinished_calls()), None) or self._doing

    def wait_for(self, reached: Callable[[], bool], deadline: float) -> None:
        """Do what leads to something; if nothing does, let time pass until the deadline (of the clock). Any thread."""
        if not reached():
            self.worker.do(partial(self.run_until, reached, deadline, current.get()))

    def run_until(self, reached: Callable[[], bool], deadline: float, call: Any) -> None:
        """Do what `wait_for` does, for a call (None: the test) whose handler waits for it. On the worker."""
        self._waiting.append(call)
        try:
            self.settle(reached)
            if not reached():
                self._pass(deadline, reached)
        finally:
            self._waiting.remove(call)

    def run_here(self, coroutine: Any) -> Any:
        """In place of `loop.run_here`: wait for a coroutine, and meanwhile do what it asks for."""
        import asyncio

        from ..loop import shared

        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, shared()._loop)
        if not self.worker.is_here:
            return future.result(self.worker.patience)
        while not future.done():
            self.engine.run()
            self.worker.wait()
        return future.result()

    # --- time ---

    def _move(self, target: float) -> None:
        self.on_worker(partial(self._pass, target), "a task or a timer")

    def _later(self, seconds: float, errand: Callable[[], None]) -> None:
        self.engine.later(self.clock.now + seconds, errand)

    def let_pass(self, reached: Callable[[], bool], seconds: float = 3600.0) -> None:
        """Let time pass until something is reached."""
        self.on_worker(partial(self._pass, self.clock.now + seconds, reached))

    def _pass(self, target: float, reached: Callable[[], bool] = lambda: False) -> None:
        """Let time pass: to each moment at which something is due, and at last to the target. On the worker."""
        clock = self.clock
        self.settle(reached)
        while not reached() and (due := self._next_due()) <= target + ROUNDING:
            clock.now = max(clock.now, due)
            self.worker.goes_on()
            self._run_due()
            self.settle(reached)
        if not reached():
            clock.now = max(clock.now, target)
            self._liaison.look(clock.now, self.dispatcher.counts.received)

    def _next_due(self) -> float:
        tasks = self._scheduler.tasks if self._scheduler is not None else []
        deadline = self.network.next_deadline(self.clock.now) if self.network is not None else float("inf")
        return min([self.engine.next_timer, deadline, *[task.due for task in tasks]])

    def _run_due(self) -> None:
        now = self.clock.now
        self.engine.run_timers(now)
        if self._scheduler is not None:
            self._scheduler.run_due(now + ROUNDING)
        if self.network is not None:
            self.network.look(now)
        self._liaison.look(now, self.dispatcher.counts.received)

    def run_task(self, task: Task) -> None:
        """Run a task now, whenever it is due."""
        self.on_worker(partial(self.scheduler._begin, task), f"task {task.name!r}")


def _call(record: Any) -> None:
    await_here(record.function())


def _try(function: Callable[[], Any], errors: list[BaseException]) -> None:
    """Call a function; keep what it raises, so that what comes after it is done, too."""
    try:
        function()
    except Exception as error:  # noqa: BLE001 - it is raised at the end
        errors.append(error)
