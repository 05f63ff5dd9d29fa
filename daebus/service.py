"""The life of a service: everything started in order, systemd told, everything stopped in reverse.

    listen (HTTP) -> connect and claim the name -> on_start -> handlers, threads, tasks -> READY -> serve -> drain
    -> on_stop -> exit

Routes are served while Redis is away, from the beginning; unless there are on_start functions, which run once the
connections are up and before any handler. The main thread runs this, and while the service serves it is the engine's
watcher and the scheduler's clock. It sleeps when there is nothing to do.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from functools import partial
from time import monotonic

from . import claim
from .bus import HEALTH_PERIOD, Bus
from .connecting import FirstConnection
from .dispatch import Dispatcher
from .engine import Engine
from .errors import ConfigurationError, DeclarationError, Stopping
from .hooks import hooks_of
from .inbox import Inbox
from .liaison import Liaison, Reload, sentence
from .log import LAST, logger, one_line
from .names import INFO, PING, PROBE, RESERVED, STATS
from .scheduler import Scheduler
from .systemd import Notifier, offered_sockets, share_out
from .target import clock_id
from .threads import Threads, await_here
from .work import Work
from .workflows import Workflows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from .endpoints import Endpoints
    from .introspection import Introspection
    from .link import Pair
    from .message import PubSubRequest
    from .registry import Registry
    from .scheduler import Task
    from .settings import RedisSettings
    from .shared import Share
    from .systemd import Offered
    from .watchdog import Watchdog

HANDLER_LIMIT = 8.0
"""Seconds that handlers have to finish once the service was told to stop; then their callers are told."""

THREAD_LIMIT = 3.5
"""Seconds that threads and tasks have to end, counted from the same moment."""

CONFIRM_LIMIT = 0.5
"""Seconds that Redis has to confirm the last answers."""

EXIT_LIMIT = 9.5
"""Seconds after which the process ends even if an on_stop function does not."""

IMPATIENCE = 1.0
"""Seconds after the first stop signal from which on a Ctrl-C means: do not wait for handlers."""

DRAIN_TICK = 0.005

TASK_LOOK = 0.05
"""Seconds between two looks whether the task that keeps an idle service has ended."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StartFailed(Exception):
    """The service cannot start; the text says why."""


class _Idle:
    """Knows since when nothing has come."""

    def __init__(self, limit: float | None, now: float) -> None:
        self.limit = limit
        self._since = now
        self._counted = 0

    def left(self, now: float, counted: int, at_work: int) -> float:
        """Return the seconds until nothing will have come for as long as the limit says."""
        if counted != self._counted or at_work:
            self._counted, self._since = counted, now
        return self._since + (self.limit or 0.0) - now


class _Interrupted(BaseException):
    """A stop signal came while on_start functions ran."""


class Service:
    """One run of a service."""

    make_bus, make_dispatcher, make_engine, make_notifier = Bus, Dispatcher, Engine, Notifier
    """What it is made of; the test kit has others, without sockets and threads."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        settings: RedisSettings,
        *,
        max_workers: int,
        shared: bool,
        stuck_after: float | None = None,
        idle_exit: float | None = None,
        endpoints: Endpoints | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._registry = registry
        self._shared = shared
        self._max_workers = max_workers
        self._stuck_after = stuck_after
        self._idle_exit = idle_exit
        self._reload_asked = False
        self._endpoints = endpoints
        self._failure: str | None = None
        self._stop_asked = False
        self._signalled = False
        self._hurry = False  # do not wait for handlers any longer
        self._drain_began = float("inf")
        self._in_start = False
        self._run_stop = False  # the connections were up once, so on_start functions may have run
        self._wake_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake_end, select.POLLIN)
        self._notifier = self.make_notifier()
        self._liaison = Liaison(self._notifier, self._status)
        share = _share(settings, name) if shared else None
        self.bus = self.make_bus(settings, name, share)
        self.dispatcher = self.make_dispatcher(name, registry.records("action"), self.bus.flush)
        self.engine = self.make_engine(max_workers, self.bus.flush, self.wake)
        self.began = monotonic()
        self.works: list[Work] = []  # the handlers, beside those of the endpoints
        self._introspection: Introspection | None = None
        if endpoints is not None:
            endpoints.metrics = partial(self._tell, "metrics")
        self.inbox = self._make_inbox(share)
        self.bus.engine = self.engine
        self.bus.on_taken = self.fail
        self.dispatcher.start_coroutine = _start_coroutine
        self.dispatcher.hooks = hooks_of(registry)
        self.dispatcher.resume = self.engine.resume
        self.threads = Threads(registry.records("thread"), self.fail)
        self._reload = Reload(list(registry.records("on_reload")), self._liaison, self.engine.spare)
        self._scheduler: Scheduler | None = None

    def _make_inbox(self, share: Share | None) -> Inbox:
        """Tell the bus what to subscribe to, and where that is planned."""
        registry, bus = self._registry, self.bus
        reserved: dict[str, Callable[[PubSubRequest], Any]] = {claim.ACTION: self._answer_claim, PROBE: _not_ours}
        reserved |= {name: partial(self._tell, name.removeprefix(RESERVED)) for name in (PING, INFO, STATS)}
        inbox = Inbox(self.dispatcher, bus, reserved, clock_id(), share.mine if share else None, self._flush_answer)
        workflows = Workflows(registry.records("workflow"), inbox)
        if workflows.declared:
            bus.plan(workflows.channel, workflows.plan)
        if self._notifier.watchdog_seconds is not None:
            from .watchdog import BusLeg

            self._bus_leg = BusLeg(bus, self.name)
            reserved[PROBE] = self._bus_leg.answer
            bus.plan(self._bus_leg.channel, self._bus_leg.plan_answer)
        listeners = [Work(record) for record in registry.records("listen")]
        bus.listen(inbox.plan_request, inbox.plan_message, listeners)
        self.works = [*self.dispatcher.actions.values(), *workflows.works, *listeners]
        return inbox

    def _flush_answer(self, final: bool) -> None:
        """Send an answer at once, unless it leaves with the reader's others soon."""
        if not final or not self.engine.reads_here:
            self.bus.flush()

    def _answer_claim(self, request: PubSubRequest) -> dict[str, Any]:
        return claim.answer(request, self.name, self._shared)

    def _tell(self, what: str, _request: PubSubRequest | None = None) -> Any:
        """Return what the service says of itself. Most are never asked, so they do not load what answers."""
        if self._introspection is None:
            from .introspection import Introspection

            self._introspection = Introspection(
                self, self._registry, self._endpoints, max_workers=self._max_workers, shared=self._shared
            )
        return getattr(self._introspection, what)()

    # --- from any thread ---

    def counts(self) -> dict[str, int]:
        """Return what was counted since the start."""
        counts = self.dispatcher.counts
        return {
            **{name: getattr(counts, name) for name in counts.__slots__},
            "answers_dropped": self.bus.dropped_answers,
            "reconnections": self.bus.reconnections,
        }

    @property
    def tasks(self) -> list[Task]:
        """The tasks of `@app.background`; none until the service is ready."""
        return self._scheduler.tasks if self._scheduler is not None else []

    def wake(self) -> None:
        """Wake the main thread."""
        try:
            os.write(self._write_end, b"\0")
        except OSError:  # full: it is awake; closed: the service has ended
            pass

    def stop(self) -> None:
        """Ask the service to stop: it drains, and `run` returns."""
        self._stop_asked = True
        self.wake()

    def fail(self, reason: str) -> None:
        """Ask the service to stop with an error."""
        if self._failure is None:
            self._failure = reason
        self.wake()

    # --- the main thread ---

    def run(self) -> str | None:
        """Run until a stop signal, `stop` or `fail`; return the reason of a failure. Blocks."""
        restore = self._take_signals()
        self._notifier.take_environment()
        try:
            self._begin()
            pair = self._connect()
            if pair is not None:
                self._serve(pair)
            elif self._endpoints is not None:
                self._drain()
        except StartFailed as error:
            self._failure = str(error)
        finally:
            self._liaison.ends()
            self._close()
            restore()
        return self._failure

    def _begin(self) -> None:
        """Listen, and begin to read."""
        try:
            self._listen(offered_sockets())
        except (ConfigurationError, DeclarationError) as error:
            raise StartFailed(str(error)) from None
        self.engine.every(HEALTH_PERIOD, self.bus.check)
        self.engine.start()
        if self._endpoints is not None:
            self._endpoints.serve()
            if not any(self._registry.records("on_start")):
                self._endpoints.admit()

    def _listen(self, offered: list[Offered]) -> None:
        if self._endpoints is not None:
            self._endpoints.open(self.engine, self.dispatcher, self.bus, offered)
        elif offered:
            share_out(offered, {})  # says that nothing here listens there
        if self._idle_exit is not None and not offered:
            logger.warning("idle_exit has no effect: no .socket unit holds the port, so nobody would start it again")
            self._idle_exit = None

    def _serve(self, pair: Pair) -> None:
        try:
            self._adopt(pair)
            self._run_hooks()
            self.threads.start_all()
            self.engine.soon(self._open)
            self._scheduler = Scheduler(self._registry.records("background"), self.engine.spare)
            self._liaison.watchdog = self._make_watchdog(self._scheduler)
            self._say_ready()
            self._watch(self._scheduler)
        except _Interrupted:
            pass
        self._run_stop = True
        self._drain()

    def _served_meanwhile(self) -> str:
        """Say for the log where requests are answered while Redis is away."""
        if self._endpoints is None or any(self._registry.records("on_start")):
            return ""
        return f"; routes are served meanwhile at {' and '.join(self._endpoints.addresses)}"

    def _adopt(self, pair: Pair) -> None:
        """Have the reader take the first connections into use."""
        adopted = threading.Event()

        def adopt() -> None:
            self.bus.adopt(pair)
            adopted.set()
            self.wake()

        self.engine.soon(adopt)
        while not adopted.is_set():
            self._sleep(self.engine.watch())

    def _watch(self, scheduler: Scheduler) -> None:
        """Serve: look in on the engine and start tasks, each when it is time, until somebody says stop."""
        self.bus.on_change.append(self._redis_changed)
        idle = _Idle(self._idle_exit, monotonic())
        while not self._stop_asked and self._failure is None:
            now = monotonic()
            dues = [scheduler.run_due(now), self._liaison.look(now, self.dispatcher.counts.received)]
            dues += [self._look_whether_idle(idle, now), self.engine.watch()]
            if self._reload_asked:
                self._reload_asked = False
                self._reload.begin()
            self._sleep(_soonest(*dues))

    def _look_whether_idle(self, idle: _Idle, now: float) -> float | None:
        """Stop when nothing has come for long enough, if that is wanted; return the seconds until it may be so."""
        if idle.limit is None:
            return None
        left = idle.left(now, self.dispatcher.counts.received, self._at_work())
        if left > 0:
            return left
        if self._running_tasks():
            return TASK_LOOK
        logger.info("Nothing has come for %g s: leaving until something does", idle.limit)
        self._stop_asked = True
        return 0.0

    def _at_work(self) -> int:
        """What keeps an idle service: handlers, streams, clients. What the reader does at the moment is counted as it
        comes; that may be a probe of the watchdog, which is to keep nobody."""
        web = self._endpoints.unfinished + self._endpoints.clients if self._endpoints is not None else 0
        return self.engine.busy_workers + len(self.dispatcher.awaiting) + web

    def _redis_changed(self, _connected: bool) -> None:
        """Have `systemctl status` say so. On the reader."""
        self._liaison.changed()
        self.wake()

    def _status(self) -> str:
        return sentence(
            self.counts(),
            str(self.settings),
            connected=self.bus.connected,
            busy=self.engine.busy_workers,
            workers=self._max_workers,
        )

    def _make_watchdog(self, scheduler: Scheduler) -> Watchdog | None:
        """Return the watchdog, if systemd wants one (WatchdogSec=)."""
        seconds = self._notifier.watchdog_seconds
        if seconds is None:
            return None
        from . import watchdog

        legs: list[Any] = [
            self._bus_leg,
            watchdog.WorkerLeg(self.engine, self._stuck_after),
            watchdog.SchedulerLeg(scheduler, self.wake),
            watchdog.ThreadLeg(self.threads),
            watchdog.LoopLeg(self._stuck_after),
        ]
        if self._endpoints is not None:
            legs.append(watchdog.HttpLeg(self._endpoints.network))
        feed = partial(self._notifier.tell, "WATCHDOG=1")
        return watchdog.Watchdog(feed, self._liaison.troubled, seconds, watchdog.ReaderLeg(self.engine), legs)

    def _sleep(self, seconds: float | None) -> None:
        if self._poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
            try:
                os.read(self._wake_end, 4096)
            except BlockingIOError:
                pass

    # --- starting ---

    def _take_signals(self) -> Callable[[], None]:
        """Have stop signals wake the main thread; return what undoes it. Elsewhere than there, signals are not ours."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        before = {number: signal.signal(number, self._on_stop_signal) for number in STOP_SIGNALS}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hangup)
        wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        hide_stacks = _show_stacks()

        def restore() -> None:
            hide_stacks()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        self._stop_asked = self._signalled = True
        self._hurry = number == signal.SIGINT and self._drain_began < monotonic() - IMPATIENCE
        if self._in_start:
            raise _Interrupted

    def _on_hangup(self, _number: int, _frame: object) -> None:
        self._reload_asked = True

    def _connect(self) -> Pair | None:
        """Connect and claim the name, waiting for Redis as long as it takes; None if told to stop meanwhile."""
        attempt = FirstConnection(self.bus, self._shared, self.wake, self._served_meanwhile())
        attempt.start()
        while not attempt.done and not self._stop_asked and self._failure is None:
            extend = self._liaison.wait_for_redis(str(self.settings), monotonic())
            self._sleep(_soonest(extend, self.engine.watch()))
        attempt.given_up = True
        if attempt.error is not None:
            raise StartFailed(str(attempt.error))
        return attempt.pair

    def _run_hooks(self) -> None:
        for record in self._registry.records("on_start"):
            self._in_start = True
            try:
                if self._stop_asked:
                    raise _Interrupted
                await_here(record.function())
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a hook raises ends the start
                logger.error("on_start function at %s failed", record.place, exc_info=True)
                self._failure = f"on_start failed: {type(error).__name__}: {one_line(str(error))}"
                raise _Interrupted from None
            finally:
                self._in_start = False

    def _open(self) -> None:
        """Let through what came while the service was starting. On the reader."""
        if self._endpoints is not None:
            self._endpoints.admit()
        self.engine.put(self.inbox.open())

    def _say_ready(self) -> None:
        actions = len(self._registry.action_handlers)
        channels = len(self._registry.listen_handlers)
        where = f"pid {os.getpid()}, Redis at {self.settings}, actions: {actions}, listened channels: {channels}"
        if self._endpoints is not None:
            where += f", at {' and '.join(self._endpoints.addresses)}"
        logger.info("Service '%s' is ready (%s)", self.name, where)
        self._liaison.ready()

    # --- stopping ---

    def _drain(self) -> None:
        """Take nothing more, finish what was taken, tell the threads; bounded. A second Ctrl-C cuts it short."""
        if self._failure is None:
            logger.info("Service '%s' is stopping", self.name)
        self._liaison.drains()
        began = self._drain_began = monotonic()
        if self.inbox.held:  # the start was not completed, so no handler may run
            self.engine.soon(partial(self.inbox.turn_away, Stopping("The service could not start")))
        told = threading.Event()
        self.engine.soon(partial(self._stop_listening, told))
        self.threads.tell_all()
        unsubscribed = self.bus.unsubscribe()
        while monotonic() - began < HANDLER_LIMIT and not self._hurry:
            if told.is_set() and unsubscribed.is_set() and not self._unfinished():
                break
            self.engine.watch()
            self._sleep(DRAIN_TICK)
        self._give_up()
        self._wait_for_threads(began + THREAD_LIMIT)
        self._wait_sent()
        if self._run_stop:
            self._run_stop_hooks()

    def _stop_listening(self, told: threading.Event) -> None:
        """Take no more connections. On the reader."""
        if self._endpoints is not None:
            self._endpoints.stop()
        told.set()

    def _unfinished(self) -> int:
        web = self._endpoints.unfinished if self._endpoints is not None else 0
        return self.engine.unfinished + len(self.dispatcher.awaiting) + web

    def _give_up(self) -> None:
        unfinished = self._unfinished()
        if not unfinished:
            return
        logger.warning("Not finished in time: %d (requests and messages); their callers are told", unfinished)
        error = Stopping("The service is stopping and could not finish this in time")
        for call in list(self.dispatcher.awaiting):
            call.refuse(error)
        self.engine.refuse_waiting(error)
        if self._endpoints is not None:
            self.engine.soon(self._endpoints.give_up)
        self.bus.flush()

    def _wait_for_threads(self, deadline: float) -> None:
        left = self.threads.stop_all(deadline)
        while (running := self._running_tasks()) and monotonic() < deadline:
            self._sleep(DRAIN_TICK)
        left += running
        if left:
            logger.warning("Threads or tasks that did not end in time: %s", ", ".join(map(one_line, left)))

    def _running_tasks(self) -> list[str]:
        tasks = self._scheduler.running if self._scheduler is not None else []
        return [*tasks, "on_reload"] if self._reload.runs else tasks

    def _wait_sent(self) -> None:
        deadline = monotonic() + CONFIRM_LIMIT
        while not self.bus.sent() and monotonic() < deadline:
            self._sleep(DRAIN_TICK)

    def _run_stop_hooks(self) -> None:
        seconds = max(0.5, self._drain_began + EXIT_LIMIT - monotonic())
        patience = threading.Timer(seconds, _exit_now, (1, "on_stop functions"))
        patience.daemon = True
        patience.start()
        for record in self._registry.records("on_stop"):
            try:
                await_here(record.function())
            except (Exception, SystemExit):  # noqa: BLE001 - one hook's failure must not keep the others from running
                logger.error("on_stop function at %s failed", record.place, exc_info=True)
        patience.cancel()
        if self._signalled and _threads_that_keep_us():
            threads = threading.Timer(seconds, _exit_now, (1 if self._failure else 0, "threads"))
            threads.daemon = True
            threads.start()

    def _close(self) -> None:
        if self._endpoints is not None:
            self._endpoints.close()
        self.engine.stop()
        self.bus.close()
        _end_event_loop()
        signal_free = self._write_end
        self._write_end = -1
        os.close(signal_free)
        os.close(self._wake_end)


def _not_ours(_request: PubSubRequest) -> None:
    """Leave a watchdog's probe to the process that has sent it: one that serves under this name, too."""


def _share(settings: RedisSettings, name: str) -> Share:
    from .shared import Share

    return Share(settings, name)


def _start_coroutine(coroutine: Coroutine[Any, Any, None]) -> None:
    from .loop import shared

    shared().start(coroutine)


def _end_event_loop() -> None:
    import sys

    loop = sys.modules.get("daebus.loop")
    if loop is not None:
        loop.end(1.0)


def _show_stacks() -> Callable[[], None]:
    """Have the stacks of all threads written to standard error by a crash, and by the SIGABRT with which systemd ends
    a service that hangs (WatchdogSec=). Returns what undoes it."""
    import faulthandler

    if faulthandler.is_enabled():
        return lambda: None
    try:
        faulthandler.enable(2)
    except (OSError, RuntimeError, ValueError):  # there is no standard error
        return lambda: None
    return faulthandler.disable


def _threads_that_keep_us() -> bool:
    """Whether threads run for which Python would wait at its end (an executor's, say)."""
    return any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate())


def _exit_now(status: int, what: str) -> None:
    logger.critical("Some %s did not end in time; ending without them", what, extra={LAST: True})
    os._exit(status)


def _soonest(*seconds: float | None) -> float | None:
    """Return the shortest of several waits; None, which is no limit, if none of them has one."""
    return min((one for one in seconds if one is not None), default=None)
