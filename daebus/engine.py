"""Who runs a handler, and on which thread.

One thread, the *reader*, owns the sockets. It reads what has arrived and runs the handlers in place, one after the
other; the answers of one reading leave in one write. While there is work, the main thread looks in every 2 ms
(`watch`). If it finds the reader still in the same handler, it *displaces* it: another thread becomes the reader
and takes over the sockets and what was read; the stalled thread goes on with its handler as a worker; and the
handler is remembered as slow, so that it goes to a worker straight away from then on (`work.Work`).

At most `max_workers` handlers run beside the reader. While that many do, the reader only queues; behind a full
queue it refuses (`Busy`). It never stops reading, because Redis cuts off a subscriber that falls behind.

The engine knows neither messages nor handlers. Doors give it *items*: what it knows of the handler (if it is known
before the message is read), where to plan, and with what. The plan makes a *call* of an item, or deals with it.
"""

from __future__ import annotations

import os
import select
import sys
import time
from _queue import Empty, SimpleQueue
from collections import deque
from heapq import heappop, heappush
from threading import Lock, Thread, get_ident
from time import monotonic

from .errors import Busy
from .log import LAST, logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol

    from .errors import DaebusError
    from .work import Work

    class Call(Protocol):
        """Work for a thread."""

        work: Work

        def run(self) -> bool:
            """Do it; False if a coroutine goes on with it."""

        def pack(self, data: bytes) -> None:
            """Take little memory while waiting; `data` is the message."""

        def refuse(self, error: DaebusError) -> None:
            """Say no."""

    Plan = Callable[[Any, str, bytes], Call | None]
    Item = tuple[Work | None, Plan, str, bytes]

TICK = 0.002
"""Seconds between two looks of the watcher, so how long a handler may hold up the others: 20 times what the reader
needs for a quick request, and a fiftieth of what a person notices."""

QUIET_TICKS = 4
"""Looks without work after which the watcher sleeps until the reader has some."""

TICK_BESIDE_BURNERS = 0.01
"""The same while other handlers burn CPU: the reader may just be waiting for the interpreter, and so would we."""

BURNING = 0.25
"""Share of the time that a handler computes, above which it counts as burning CPU (two share a core, and the reader
has its part)."""

SHORT_SWITCH = 0.0002
"""`sys.setswitchinterval` while a handler burns CPU; Python's own 5 ms would be the latency of everybody else."""

BATCH = 16
"""Handlers that the reader runs between two looks at the time since it last read."""

IDLE_LIMIT = 3.0
"""Seconds after which a worker thread without work ends."""

QUEUE_LIMIT = 1000
"""Calls that may wait for a worker."""

BACKLOG_BYTES = 16 * 1024 * 1024
"""Bytes of the messages whose calls wait for a worker."""

QUEUE_BYTES = 24 * 1024 * 1024
"""Bytes of messages read and not yet begun, above which further ones are refused."""

LISTENER_BYTES = 8 * 1024 * 1024
"""Bytes that may wait behind one listener, so that a slow one leaves room for the others."""

HELD_BYTES = 24 * 1024 * 1024
"""Bytes that may wait behind all listeners."""

ITEM_BYTES = 200
"""Bytes of memory that a waiting message costs beside its own length."""


class _Reading:
    """The right to read. The thread that is given one is the reader until another one is made."""

    __slots__ = ("call", "ident")

    def __init__(self) -> None:
        self.ident = 0  # the thread
        self.call: Call | None = None  # what it runs


class _Run:
    """A call that a worker runs."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class _Place:
    """A thread's place among the `max_workers`: what it runs, and its CPU seconds when the watcher looked last."""

    __slots__ = ("began", "cpu_seconds", "looked", "runs")

    def __init__(self, runs: _Reading | _Run, began: float) -> None:
        self.runs = runs
        self.began = began
        self.cpu_seconds = 0.0
        self.looked = 0.0  # when; 0: not yet


class _Spare:
    """A function to run on a worker thread without taking one of the `max_workers` places."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function


class Engine:
    """Runs calls. `flush` sends the answers that are due; `wake_watcher` makes the main thread call `watch`."""

    def __init__(self, max_workers: int, flush: Callable[[], None], wake_watcher: Callable[[], None]) -> None:
        self._max_workers = max_workers
        self._flush = flush
        self._wake_watcher = wake_watcher
        self._lock = Lock()  # held for a few operations at a time, never while a handler runs
        self._ready: deque[Item] = deque()  # read, not begun
        self._ready_bytes = 0
        self._overflow: list[Item] = []  # to be refused
        self._backlog: deque[tuple[Call, int]] = deque()  # waiting for a worker; only while `max_workers` handlers run
        self._backlog_bytes = 0
        self._working = 0
        self._workers: dict[int, _Place] = {}  # by thread
        self._jobs: SimpleQueue[Call | _Spare | _Reading | None] = SimpleQueue()
        self._idle = 0
        self._threads = 0
        self._reader: _Reading | None = None
        self._held = 0  # messages that wait behind their listeners
        self._held_bytes = 0
        self._crowded: set[Work] = set()  # the listeners behind which messages wait
        self._inside = False  # whether the reader runs a handler; while it waits for sockets it cannot be displaced
        self._serial = 0
        self._epoll = select.epoll()
        self._on_event: dict[int, Callable[[int], Iterable[Item]]] = {}
        self._errands: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []  # a heap, the reader's own
        self._timer_number = 0
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._checks: list[Callable[[float], None]] = []
        self._check_period = 2.0
        self._next_check = 0.0
        self._read_at = 0.0
        # the watcher's own
        self._asleep = False
        self._seen = -1
        self._quiet = 0
        self._burning = False
        self._usual_switch = sys.getswitchinterval()
        self.watch_socket(self._bell, select.EPOLLIN, self._rung)

    # --- for the doors ---

    def watch_socket(self, descriptor: int, events: int, on_event: Callable[[int], Iterable[Item]]) -> None:
        """Have the reader call `on_event(events)` when a descriptor is ready; it returns items to run."""
        self._on_event[descriptor] = on_event
        try:
            self._epoll.register(descriptor, events)
        except OSError:
            del self._on_event[descriptor]
            raise

    def change_socket(self, descriptor: int, events: int) -> None:
        """Change the events to wait for. Any thread."""
        self._epoll.modify(descriptor, events)

    def forget_socket(self, descriptor: int) -> None:
        """Stop watching a descriptor, before it is closed."""
        del self._on_event[descriptor]
        self._epoll.unregister(descriptor)

    def every(self, seconds: float, check: Callable[[float], None]) -> None:
        """Have the reader call `check(now)` every so many seconds."""
        self._check_period = min(self._check_period, seconds)
        self._checks.append(check)

    def soon(self, errand: Callable[[], None]) -> None:
        """Have the reader run a function between two readings. Any thread."""
        self._errands.append(errand)
        self.ring()

    def later(self, when: float, errand: Callable[[], None]) -> None:
        """Have the reader run a function at a time (monotonic seconds). Any thread."""
        self.soon(lambda: self._set_timer(when, errand))

    def _set_timer(self, when: float, errand: Callable[[], None]) -> None:
        self._timer_number += 1
        heappush(self._timers, (when, self._timer_number, errand))

    def ring(self) -> None:
        """Wake the reader if it waits. Any thread."""
        with self._lock:
            self._strike()

    def _strike(self) -> None:
        """Sound the bell, unless the engine has ended (under the lock)."""
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def soon_if_free(self, errand: Callable[[], None], seconds: float) -> bool:
        """Do what `soon` does; False, and perhaps undone, if the engine's lock is not to be had within so long."""
        self._errands.append(errand)
        if not self._lock.acquire(timeout=seconds):
            return False
        try:
            self._strike()
        finally:
            self._lock.release()
        return True

    def spare(self, function: Callable[[], None]) -> None:
        """Run a function on a worker thread, beside the `max_workers` handlers."""
        with self._lock:
            if not self._hand(_Spare(function)):
                raise RuntimeError("the system refuses a further thread")

    def resume(self, work: Work) -> None:
        """Say that an ordered handler has ended away from the reader, so that its next message may run. Any thread."""
        if work.ordered:
            with self._lock:
                self._end_turn(work)
            self.ring()

    # --- life ---

    def start(self) -> None:
        """Begin to read."""
        self._next_check = monotonic() + self._check_period
        with self._lock:
            self._reader = _Reading()
            if not self._hand(self._reader):
                raise RuntimeError("the system refuses a further thread")

    def stop(self) -> None:
        """Stop reading and let idle threads end. Handlers that still run keep their (daemon) threads."""
        with self._lock:
            reading, self._reader = self._reader, None
            for _ in range(self._threads):
                self._jobs.put(None)
        if self._threads == 0:
            self._close()  # nobody has read, who would
        elif reading is not None:
            self.ring()
        sys.setswitchinterval(self._usual_switch)

    def _close(self) -> None:
        with self._lock:
            bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)
            self._epoll.close()

    @property
    def unfinished(self) -> int:
        """How many messages are read and not finished; those of coroutines are not counted here."""
        with self._lock:
            waiting = len(self._ready) + len(self._backlog)
            return waiting + self._held + self._working + self._inside

    @property
    def queued(self) -> int:
        """How many messages are read and not begun. Any thread."""
        return len(self._ready) + len(self._backlog) + self._held

    @property
    def busy_workers(self) -> int:
        """How many handlers run beside the reader."""
        return self._working

    def under_way(self) -> list[tuple[Work, float]]:
        """Return the handlers that run beside the reader, each run with when it began (monotonic). Any thread."""
        with self._lock:
            places = [(place.runs.call, place.began) for place in self._workers.values()]
        return [(call.work, began) for call, began in places if call is not None]

    def stuck(self, seconds: float) -> list[str]:
        """Return what the workers run, if all are taken and each has been in one handler for longer than that."""
        since = monotonic() - seconds
        with self._lock:
            places = list(self._workers.values())
            if len(places) < self._max_workers or any(place.began > since for place in places):
                return []
            calls = [place.runs.call for place in places]
        return [str(call) if call is not None else "what comes before a handler" for call in calls]

    @property
    def begun(self) -> int:
        """How many messages were begun. Any thread."""
        return self._serial

    def works_off(self, begun: int) -> bool:
        """Whether messages wait to be begun, and some were since so many were. Any thread."""
        return bool(self._ready) and self._serial != begun

    @property
    def reads_here(self) -> bool:
        """Whether this thread is the reader, who sends answers when it has run what is ready."""
        reading = self._reader
        return reading is not None and reading.ident == get_ident()

    def refuse_waiting(self, error: DaebusError) -> None:
        """Refuse what waits, and answer for what still runs. Called at the end of a drain, on the main thread."""
        with self._lock:
            calls = [call for call, _size in self._backlog]
            self._backlog.clear()
            calls += [place.runs.call for place in self._workers.values() if place.runs.call is not None]
            items, self._ready = list(self._ready), deque()
            for work in self._crowded:
                items += work.waiting
                work.waiting.clear()
            self._held = 0
        for call in calls:
            call.refuse(error)
        for item in items:
            self._refuse_item(item, error)

    # --- the reader ---

    def _read(self, me: _Reading) -> None:
        """Read and run until another thread is the reader."""
        me.ident = get_ident()
        while self._run_ready(me):
            self._flush()
            due = min(self._next_check, self._timers[0][0]) if self._timers else self._next_check
            self._wait(max(0.0, due - monotonic()))

    def _run_ready(self, me: _Reading) -> bool:
        """Run what is ready; False if this thread was displaced meanwhile."""
        turn: Work | None = None  # the ordered handler that has just run
        while True:
            for _ in range(BATCH):
                item = self._next(me, turn)
                if item is None:
                    return self._reader is me
                turn = self._step(me, item)
            if monotonic() - self._read_at > TICK:
                if not self._pause(me, turn):
                    return False
                turn = None

    def _next(self, me: _Reading, turn: Work | None) -> Item | None:
        """Take the next item, ending the turn of the last; None if there is none, or this thread is displaced."""
        with self._lock:
            if turn is not None:
                self._end_turn(turn)
            if self._reader is not me:
                return None  # whoever reads now is rung by `_do`
            while self._ready:
                item = self._ready.popleft()
                self._ready_bytes -= _size(item)
                if item[0] is None or self._begin_turn(item[0], item):
                    self._serial += 1
                    me.call = None
                    self._inside = True
                    if self._asleep:
                        self._asleep = False
                        self._wake_watcher()
                    return item
            self._inside = False
            return None

    def _pause(self, me: _Reading, turn: Work | None) -> bool:
        """Amid a long run of handlers: send the answers and read on. False if this thread was displaced."""
        with self._lock:
            if turn is not None:
                self._end_turn(turn)
            if self._reader is not me:
                return False
            self._inside = False
        self._flush()
        self._wait(0.0)
        return True

    def _step(self, me: _Reading, item: Item) -> Work | None:
        """Plan an item and run it here or elsewhere; return the ordered handler whose turn ends with it."""
        work, plan, channel, data = item
        try:
            call = plan(work, channel, data)
        except Exception:  # noqa: BLE001 - what comes from outside must not end the service
            logger.error("A message could not be read; this is a defect of Daebus", exc_info=True)
            call = None
        if call is None:
            return work
        me.call = call
        if (call.work.slow or self._working >= self._max_workers) and self._elsewhere(me, call, item):
            me.call = None
            return None
        finished = _run(call)
        me.call = None
        return work if finished else None

    def _elsewhere(self, me: _Reading, call: Call, item: Item) -> bool:
        """Hand a call to a worker, queue it, or refuse it. False if this thread was displaced, and is a worker now."""
        with self._lock:
            if self._reader is not me:
                if self._working <= self._max_workers:
                    return False
                self._wait_for_worker(call, item)  # displaced while it planned, and there is no place for the handler
                return True
            if self._working < self._max_workers and self._hand(call):
                self._working += 1
                return True
            full = len(self._backlog) >= QUEUE_LIMIT or self._backlog_bytes + _size(item) > BACKLOG_BYTES
            if self._working and not full:
                self._wait_for_worker(call, item)
                return True
        call.refuse(_busy())
        if call.work.ordered:
            with self._lock:
                self._end_turn(call.work)
        return True

    def _wait_for_worker(self, call: Call, item: Item) -> None:
        call.pack(item[3])
        self._backlog.append((call, _size(item)))
        self._backlog_bytes += _size(item)

    def _wait(self, timeout: float) -> None:
        """Wait for sockets; read them. Only the reader is here, and it cannot be displaced here."""
        for descriptor, events in self._epoll.poll(timeout):
            on_event = self._on_event.get(descriptor)
            if on_event is not None:
                self.put(on_event(events))
        now = self._read_at = monotonic()
        while self._timers and self._timers[0][0] <= now:
            heappop(self._timers)[2]()
        if now >= self._next_check:
            self._next_check = now + self._check_period
            for check in self._checks:
                check(now)
        if self._overflow:
            self._refuse_overflow()

    def put(self, items: Iterable[Item]) -> None:
        """Take items to run. On the reader, or before `start`."""
        with self._lock:
            for item in items:
                size = _size(item)
                if self._ready_bytes + size > QUEUE_BYTES and self._ready:
                    self._overflow.append(item)
                else:
                    self._ready_bytes += size
                    self._ready.append(item)

    def _rung(self, _events: int) -> Iterable[Item]:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        while self._errands:
            self._errands.popleft()()
        return ()

    def _refuse_overflow(self) -> None:
        items, self._overflow = self._overflow, []
        for item in items:
            self._refuse_item(item, _busy())

    def _refuse_item(self, item: Item, error: DaebusError) -> None:
        work, plan, channel, data = item
        call = plan(work, channel, data)
        if call is not None:
            call.refuse(error)

    # --- order of listened messages (under the lock) ---

    def _begin_turn(self, work: Work, item: Item) -> bool:
        if not work.ordered:
            return True
        if not work.busy:
            work.busy = True
            return True
        size = _size(item)
        if work.waiting_bytes + size <= LISTENER_BYTES and self._held_bytes + size <= HELD_BYTES:
            work.waiting_bytes += size
            self._held_bytes += size
            self._crowded.add(work)
            work.waiting.append(item)
            self._held += 1
        else:
            self._overflow.append(item)
        return False

    def _end_turn(self, work: Work) -> None:
        work.busy = False
        if work.waiting:
            item = work.waiting.popleft()
            size = _size(item)
            work.waiting_bytes -= size
            self._held_bytes -= size
            self._held -= 1
            if not work.waiting:
                self._crowded.discard(work)
            self._ready_bytes += size
            self._ready.appendleft(item)

    # --- worker threads ---

    def _hand(self, job: Call | _Spare | _Reading) -> bool:
        """Give a job to an idle thread or a new one (under the lock); False if the system refuses a thread."""
        if self._idle:
            self._idle -= 1
            self._jobs.put(job)
            return True
        try:
            first = [job]  # taken out by the thread: a Thread keeps its arguments as long as it lives
            Thread(target=self._thread_main, args=(first,), name=f"daebus-{self._threads + 1}", daemon=True).start()
        except RuntimeError:
            return False
        self._threads += 1
        return True

    def _thread_main(self, first: list[Call | _Spare | _Reading]) -> None:
        job: Call | _Spare | _Reading | None = first.pop()
        try:
            while job is not None:
                following = self._do(job)
                job = None  # a thread that rests holds on to nothing
                job = following() if following is not None else None
        except BaseException:  # noqa: BLE001 - the last stop of the thread
            logger.critical("A worker thread failed; this is a defect of Daebus", exc_info=True, extra={LAST: True})
            os._exit(70)  # EX_SOFTWARE: better restarted by systemd than half alive

    def _do(self, job: Call | _Spare | _Reading) -> Callable[[], Call | _Spare | _Reading | None] | None:
        """Do a job; return what gets the next one, or None when the thread may end."""
        if isinstance(job, _Spare):
            job.function()
        elif isinstance(job, _Reading):
            self._read(job)
            self._flush()
            if self._displaced():
                self.ring()
                return self._next_job
            self._close()
            return None
        else:
            self._work(job)
            return self._next_job
        return self._rest

    def _displaced(self) -> bool:
        """Whether this thread lost the sockets to another (else the engine was stopped)."""
        with self._lock:
            return get_ident() in self._workers

    def _work(self, call: Call) -> None:
        began = monotonic()
        with self._lock:
            self._workers[get_ident()] = _Place(_Run(call), began)
        finished = _run(call)
        call.work.took(monotonic() - began)
        self._flush()
        if finished:
            self.resume(call.work)

    def _next_job(self) -> Call | _Spare | _Reading | None:
        """After a handler: go on with what waits for a worker, or give the place back and rest."""
        with self._lock:
            if self._backlog and self._working <= self._max_workers:
                call, size = self._backlog.popleft()
                self._backlog_bytes -= size
                return call
            self._workers.pop(get_ident(), None)
            self._working -= 1
        return self._rest()

    def _rest(self) -> Call | _Spare | _Reading | None:
        with self._lock:
            self._idle += 1
        try:
            return self._jobs.get(timeout=IDLE_LIMIT)
        except Empty:
            return self._end_of_rest()

    def _end_of_rest(self) -> Call | _Spare | _Reading | None:
        with self._lock:
            try:
                return self._jobs.get_nowait()  # handed over at the last moment
            except Empty:
                self._idle -= 1
                self._threads -= 1
                return None

    # --- the watcher (main thread) ---

    def watch(self) -> float | None:
        """Look in on the reader. Returns the seconds until the next look, None to sleep until `wake_watcher`."""
        self._look_for_burners()
        tick = TICK_BESIDE_BURNERS if self._burning else TICK
        if not self._inside:
            return tick if self._burning else self._watch_quietly()
        self._quiet = 0
        if self._serial == self._seen:
            self._displace(self._seen)
        self._seen = self._serial
        return tick

    def _watch_quietly(self) -> float | None:
        self._quiet += 1
        if self._quiet < QUIET_TICKS:
            return TICK
        self._asleep = True
        if not self._inside:
            return None
        self._asleep = False
        return TICK

    def _displace(self, serial: int) -> None:
        """Make another thread the reader, if this one is still in the same handler."""
        with self._lock:
            stalled = self._reader
            if self._serial != serial or not self._inside or stalled is None:
                return
            if self._working > self._max_workers:
                return  # enough threads hang already, in what comes before a handler
            successor = _Reading()
            if not self._hand(successor):
                return
            self._reader = successor
            self._inside = False
            self._working += 1
            self._workers[stalled.ident] = _Place(stalled, monotonic())
            if stalled.call is not None:
                stalled.call.work.stalled()
        self._flush()

    def _look_for_burners(self) -> None:
        burning = False
        with self._lock:
            for ident, place in self._workers.items():
                used, now = _cpu_seconds(ident), monotonic()
                if place.looked and used - place.cpu_seconds > (now - place.looked) * BURNING:
                    burning = True
                place.cpu_seconds, place.looked = used, now
        if burning != self._burning:
            self._burning = burning
            sys.setswitchinterval(SHORT_SWITCH if burning else self._usual_switch)


def _run(call: Call) -> bool:
    """Run a call; nothing that it raises may end the thread."""
    try:
        return call.run()
    except Exception:  # noqa: BLE001 - as for what plans it
        logger.error("%s failed outside of its handler; this is a defect of Daebus", call, exc_info=True)
        return True


def _size(item: Item) -> int:
    return len(item[3]) + ITEM_BYTES


def _cpu_seconds(ident: int) -> float:
    """Return the CPU seconds that a living thread has used; 0 of one that is just ending."""
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(ident))
    except OSError:
        return 0.0


def _busy() -> Busy:
    return Busy("The service is busy: as many requests are waiting as it takes; try again later")
