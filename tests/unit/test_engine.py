"""Who runs a handler, and on which thread: with real threads and sockets, and Events where a handler is to stall.

The tests stand in for the main thread: they call `watch` themselves, so they decide when a handler has stalled.
"""

from __future__ import annotations

import os
import random
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Event, Lock, Thread, get_ident
from threading import enumerate as all_threads
from time import monotonic
from typing import Any

import pytest

from daebus import engine as engine_module
from daebus.engine import BATCH, QUEUE_LIMIT, Engine
from daebus.errors import Busy, DaebusError, Stopping
from daebus.registry import Record
from daebus.work import FORGIVEN_AFTER, Work
from tests.support import MS, wait_for

SOON = 5000 * MS
Items = list[tuple[Work | None, Any, str, bytes]]


def work(name: str = "act", *, inline: bool | None = None) -> Work:
    return Work(Record("action", name, print, inline=inline))


def ordered(name: str = "news", *, inline: bool | None = None) -> Work:
    return Work(Record("listen", name, print, inline=inline))


class Job:
    """A call: runs a function, and knows on which threads, or what it was refused with."""

    def __init__(self, bench: Bench, work: Work, function: Callable[[], object]) -> None:
        self._bench = bench
        self._function = function
        self.work = work
        self.thread = 0
        self.done = Event()
        self.refusals: list[DaebusError] = []
        self.packed: list[bytes] = []

    def run(self) -> bool:
        self.thread = get_ident()
        with self._bench.running():
            finished = self._function() is not False
        self.done.set()
        return finished

    def pack(self, data: bytes) -> None:
        self.packed.append(data)

    def refuse(self, error: DaebusError) -> None:
        self.refusals.append(error)
        self.done.set()

    @property
    def refused(self) -> bool:
        return bool(self.refusals)


class Stall:
    """A function that runs until it is let go."""

    def __init__(self) -> None:
        self.began, self.go = Event(), Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.go.wait(SOON)


class Bench:
    """An engine with a socketpair as its door: the test writes the numbers of jobs, the engine reads items."""

    def __init__(self, max_workers: int = 3) -> None:
        self.flushes = 0
        self.wakes = Event()
        self.engine = Engine(max_workers, self._flush, self.wakes.set)
        self._outside, self._inside = socket.socketpair()
        self._inside.setblocking(False)
        self._jobs: list[Job] = []
        self._unread = b""
        self._stalls: list[Stall] = []
        self._lock = Lock()
        self._now = 0
        self._stopped = False
        self.most = 0  # handlers at once
        self.engine.watch_socket(self._inside.fileno(), select.EPOLLIN, self._arrived)

    def _flush(self) -> None:
        self.flushes += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    # --- the door ---

    def job(self, work: Work, function: Callable[[], object] = lambda: None) -> Job:
        self._jobs.append(Job(self, work, function))
        return self._jobs[-1]

    def new_stall(self) -> Stall:
        self._stalls.append(Stall())
        return self._stalls[-1]

    def stall(self, work: Work) -> tuple[Job, Stall]:
        stall = self.new_stall()
        return self.job(work, stall), stall

    def item(self, job: Job, size: int = 1) -> tuple[Work | None, Any, str, bytes]:
        def plan(_work: Work | None, _channel: str, _data: bytes) -> Job:
            return job

        return job.work if job.work.ordered else None, plan, "", b"x" * size

    def _arrived(self, _events: int) -> Items:
        *lines, self._unread = (self._unread + self._inside.recv(1 << 20)).split(b"\n")
        return [self.item(self._jobs[int(line)]) for line in lines]

    def send(self, *jobs: Job) -> None:
        """Have the engine read jobs, in one go if they are few."""
        self._outside.sendall(b"".join(b"%d\n" % self._jobs.index(job) for job in jobs))

    def send_all(self) -> None:
        self._outside.sendall(b"".join(b"%d\n" % number for number in range(len(self._jobs))))

    def put(self, items: Iterable[tuple[Work | None, Any, str, bytes]]) -> None:
        """Have the engine take items in one go, whatever they are."""
        taken = Event()

        def errand() -> None:
            self.engine.put(items)
            taken.set()

        self.engine.soon(errand)
        assert taken.wait(SOON)

    # --- in place of the main thread ---

    def displace(self) -> None:
        """Look twice: what stalls is found at the second look."""
        self.engine.watch()
        self.engine.watch()

    def idle(self) -> bool:
        return self.engine.unfinished == 0

    def settle(self) -> None:
        wait_for(self.idle, SOON, lambda: f"{self.engine.unfinished} unfinished")

    def start(self) -> Bench:
        self.engine.start()
        return self

    def stop(self) -> None:
        self._stopped = True
        self.engine.stop()

    def let_go(self) -> None:
        for stall in self._stalls:
            stall.go.set()

    def close(self) -> None:
        self.let_go()
        if not self._stopped:
            self.stop()
        wait_for(lambda: not engine_threads(), SOON)
        self._outside.close()
        self._inside.close()


def engine_threads() -> list[str]:
    return [thread.name for thread in all_threads() if thread.name.startswith("daebus-")]


@pytest.fixture(autouse=True)
def defects(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker thread that fails ends the process; here it fails the test."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    yield
    assert exits == []


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench().start()
    yield made
    made.close()


@pytest.fixture
def single() -> Iterator[Bench]:
    """An engine with one worker."""
    made = Bench(max_workers=1).start()
    yield made
    made.close()


def reader(bench: Bench) -> int:
    """The thread that reads now."""
    job = bench.job(work(inline=True))
    bench.send(job)
    assert job.done.wait(SOON)
    return job.thread


@contextmanager
def watched(bench: Bench) -> Iterator[None]:
    """Have `watch` called as the main thread of a service does."""
    stop = Event()

    def watch() -> None:
        while not stop.is_set():
            if bench.wakes.wait(bench.engine.watch()):
                bench.wakes.clear()

    thread = Thread(target=watch, name="watcher")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        bench.wakes.set()
        thread.join(SOON)


# --- quick handlers ---


def test_quick_handlers_run_on_the_reader_in_order(bench: Bench) -> None:
    order: list[int] = []
    jobs = [bench.job(work(), lambda number=number: order.append(number)) for number in range(100)]  # type: ignore[misc]
    bench.send(*jobs)
    assert jobs[-1].done.wait(SOON)
    assert order == list(range(100))
    assert {job.thread for job in jobs} == {reader(bench)}
    assert bench.most == 1
    assert len(engine_threads()) == 1


def test_answers_leave_before_the_reader_waits_again(bench: Bench) -> None:
    flushed: list[int] = []
    job = bench.job(work(), lambda: flushed.append(bench.flushes))
    bench.send(job)
    wait_for(lambda: flushed and bench.flushes > flushed[0], SOON)


def test_a_message_without_a_call_is_dealt_with(bench: Bench) -> None:
    bench.put([(None, lambda *_: None, "", b"x")])
    bench.settle()


def test_an_item_is_planned_with_what_came_with_it(bench: Bench) -> None:
    seen: list[object] = []
    bench.put([(None, lambda *given: seen.append(given), "channel", b"data")])
    bench.settle()
    assert seen == [(None, "channel", b"data")]


def test_work_wakes_a_watcher_that_sleeps(bench: Bench) -> None:
    assert wait_for(lambda: bench.engine.watch() is None, SOON)
    assert not bench.wakes.is_set()
    bench.send(bench.job(work()))
    assert bench.wakes.wait(SOON)


def test_the_reader_is_known_to_itself(bench: Bench) -> None:
    """Whoever answers there need not send: the reader does when it has run what is ready."""
    here: list[bool] = []
    for inline in (True, False):
        job = bench.job(work(inline=inline), lambda: here.append(bench.engine.reads_here))
        bench.send(job)
        assert job.done.wait(SOON)
    assert here == [True, False]
    assert not bench.engine.reads_here


def test_who_was_displaced_is_no_reader(bench: Bench) -> None:
    stall = Stall()
    here: list[bool] = []

    def handler() -> None:
        here.append(bench.engine.reads_here)
        stall()
        here.append(bench.engine.reads_here)

    job = bench.job(work(), handler)
    bench.send(job)
    assert stall.began.wait(SOON)
    before = bench.flushes
    bench.displace()
    assert bench.flushes > before  # what it has answered until then leaves now
    stall.go.set()
    assert job.done.wait(SOON)
    assert here == [True, False]


# --- a handler that stalls ---


def test_a_handler_that_stalls_is_displaced_and_remembered(bench: Bench) -> None:
    slow = work("slow")
    stalled, stall = bench.stall(slow)
    behind = bench.job(work("quick"))
    bench.send(stalled, behind)
    assert stall.began.wait(SOON)
    bench.displace()
    assert behind.done.wait(SOON)
    assert behind.thread != stalled.thread
    assert slow.slow
    assert not behind.work.slow
    stall.go.set()
    assert stalled.done.wait(SOON)
    bench.settle()
    assert reader(bench) == behind.thread


def test_one_look_displaces_nobody(bench: Bench) -> None:
    stalled, stall = bench.stall(work())
    bench.send(stalled)
    assert stall.began.wait(SOON)
    bench.engine.watch()
    stall.go.set()
    bench.settle()
    assert not stalled.work.slow
    assert reader(bench) == stalled.thread


def test_a_slow_handler_goes_to_a_worker(bench: Bench) -> None:
    slow, quick = bench.job(work(inline=False)), bench.job(work())
    stalled, stall = bench.stall(work(inline=False))
    bench.send(stalled, slow, quick)
    assert all(job.done.wait(SOON) for job in (slow, quick))
    assert stall.began.is_set() or stall.began.wait(SOON)
    assert len({stalled.thread, slow.thread, quick.thread}) >= 2
    assert quick.thread == reader(bench) != slow.thread


def test_a_handler_that_promised_to_be_quick_is_displaced_but_not_remembered(bench: Bench) -> None:
    stalled, stall = bench.stall(work(inline=True))
    bench.send(stalled)
    assert stall.began.wait(SOON)
    bench.displace()
    assert reader(bench) != stalled.thread
    assert not stalled.work.slow


def test_a_slow_handler_that_is_quick_again_returns_to_the_reader(bench: Bench) -> None:
    learning = work()
    learning.stalled()
    for _ in range(FORGIVEN_AFTER):
        learning.took(0.0)
    job = bench.job(learning)
    bench.send(job)
    assert job.done.wait(SOON)
    assert job.thread == reader(bench)


def test_what_a_plan_costs_is_not_blamed_on_the_handler_before(bench: Bench) -> None:
    """Planning may wait too: of a shared service, for Redis to say whose a message is."""
    before = bench.job(work("before"))
    after = bench.job(work("after"))
    stall = Stall()

    def slow_plan(*_given: object) -> Job:
        stall()
        return after

    bench.put([bench.item(before), (None, slow_plan, "", b"x")])
    assert stall.began.wait(SOON)
    bench.displace()
    stall.go.set()
    assert after.done.wait(SOON)
    bench.settle()
    assert not before.work.slow


def test_what_runs_after_a_slow_plan_is_told_when_the_service_gives_up(bench: Bench) -> None:
    after, stall = bench.stall(work("after"))
    planning = Stall()

    def slow_plan(*_given: object) -> Job:
        planning()
        return after

    bench.put([(None, slow_plan, "", b"x")])
    assert planning.began.wait(SOON)
    bench.displace()
    planning.go.set()
    assert stall.began.wait(SOON)
    bench.engine.refuse_waiting(Stopping("it stops"))
    assert after.refused


# --- bounds ---


def test_with_one_worker_no_two_handlers_that_are_slow_run_at_once(single: Bench) -> None:
    stalls = [single.stall(work(inline=False)) for _ in range(5)]
    jobs = [job for job, _ in stalls]
    quick = single.job(work())
    single.send(*jobs, quick)
    for _, stall in stalls:
        assert stall.began.wait(SOON)
        stall.go.set()
    assert all(job.done.wait(SOON) for job in (*jobs, quick))
    assert single.most == 1


def test_with_one_worker_what_follows_a_displaced_handler_waits_for_it(single: Bench) -> None:
    stalled, stall = single.stall(work())
    behind = [single.job(work()) for _ in range(3)]
    single.send(stalled, *behind)
    assert stall.began.wait(SOON)
    single.displace()
    wait_for(lambda: len(single.engine._backlog) == 3, SOON)
    assert not any(job.done.is_set() for job in behind)
    stall.go.set()
    assert all(job.done.wait(SOON) for job in behind)
    single.settle()
    assert single.most == 1


def test_with_one_worker_a_plan_that_stalls_does_not_make_two(single: Bench) -> None:
    busy, busy_stall = single.stall(work(inline=False))
    second, second_stall = single.stall(work())
    planning = Stall()

    def slow_plan(*_given: object) -> Job:
        planning()
        return second

    single.send(busy)
    assert busy_stall.began.wait(SOON)
    single.put([(None, slow_plan, "", b"x")])
    assert planning.began.wait(SOON)
    single.displace()
    planning.go.set()
    wait_for(lambda: second_stall.began.is_set() or single.engine._backlog, SOON)
    for stall in (busy_stall, second_stall):
        stall.go.set()
    assert second.done.wait(SOON)
    single.settle()
    assert single.most == 1


def test_as_many_handlers_run_at_once_as_there_are_workers(bench: Bench) -> None:
    together = Barrier(3)
    jobs = [bench.job(work(inline=False), lambda: together.wait(SOON)) for _ in range(9)]
    bench.send(*jobs)
    assert all(job.done.wait(SOON) for job in jobs)
    bench.settle()
    assert bench.most == 3


def test_behind_a_full_queue_requests_are_refused(single: Bench) -> None:
    stalled, stall = single.stall(work(inline=False))
    single.send(stalled)
    assert stall.began.wait(SOON)
    queued = [single.job(work()) for _ in range(QUEUE_LIMIT)]
    single.put([single.item(job) for job in queued])
    wait_for(lambda: len(single.engine._backlog) == QUEUE_LIMIT, SOON)
    extra = [single.job(work()) for _ in range(3)]
    single.send(*extra)
    assert all(job.done.wait(SOON) for job in extra)
    assert [type(job.refusals[0]) for job in extra] == [Busy] * 3
    assert "as many requests are waiting as it takes" in str(extra[0].refusals[0])
    stall.go.set()
    assert all(job.done.wait(SOON) for job in queued)
    assert not any(job.refused for job in queued)


def test_what_waits_for_a_worker_is_packed_with_its_message(single: Bench) -> None:
    stalled, stall = single.stall(work(inline=False))
    single.put([single.item(stalled, 5)])
    assert stall.began.wait(SOON)
    behind = [single.job(work()), single.job(work(inline=False)), single.job(ordered())]
    single.put([single.item(job, size) for size, job in enumerate(behind, 10)])
    wait_for(lambda: len(single.engine._backlog) == 3, SOON)
    assert [job.packed for job in behind] == [[b"x" * 10], [b"x" * 11], [b"x" * 12]]
    assert stalled.packed == []
    stall.go.set()
    assert all(job.done.wait(SOON) for job in behind)
    assert single.engine._backlog_bytes == 0


def test_what_runs_without_a_wait_is_not_packed(bench: Bench) -> None:
    jobs = [bench.job(work()), bench.job(work(inline=False)), bench.job(ordered())]
    bench.send(*jobs)
    assert all(job.done.wait(SOON) for job in jobs)
    assert [job.packed for job in jobs] == [[], [], []]


def test_so_many_bytes_wait_for_a_worker(single: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "ITEM_BYTES", 0)
    monkeypatch.setattr(engine_module, "BACKLOG_BYTES", 3000)
    stalled, stall = single.stall(work(inline=False))
    single.send(stalled)
    assert stall.began.wait(SOON)
    behind = [single.job(work()) for _ in range(5)]
    single.put([single.item(job, 1000) for job in behind])
    assert all(job.done.wait(SOON) for job in behind[3:])
    assert [job.refused for job in behind] == [False] * 3 + [True] * 2
    assert behind[4].packed == []
    stall.go.set()
    assert all(job.done.wait(SOON) for job in behind)
    single.settle()
    assert single.engine._backlog_bytes == 0


def begin_slow_plan(bench: Bench) -> Job:
    """The job of a plan that stalls, which the engine has begun."""
    job, planning = bench.job(work()), bench.new_stall()

    def plan(*_given: object) -> Job:
        planning()
        return job

    bench.put([(None, plan, "", b"x")])
    assert planning.began.wait(SOON)
    return job


@pytest.mark.parametrize("fixture", ["single", "bench"])
def test_no_reader_is_displaced_while_one_more_than_the_workers_hang(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    """Plans wait for Redis, of a shared service; without a bound each could take a thread with it."""
    bench: Bench = request.getfixturevalue(fixture)
    workers = {"single": 1, "bench": 3}[fixture]
    jobs = []
    for hanging in range(1, workers + 2):
        jobs.append(begin_slow_plan(bench))
        bench.displace()
        assert bench.engine._working == hanging
    jobs.append(begin_slow_plan(bench))
    threads = engine_threads()
    for _ in range(3):
        bench.displace()
    assert (bench.engine._working, engine_threads()) == (workers + 1, threads)
    bench.let_go()
    assert all(job.done.wait(SOON) for job in jobs)
    bench.settle()
    assert not any(job.refused for job in jobs)
    assert bench.most <= workers + 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a test can reach: four messages of 1000 bytes may wait, three of them behind one listener."""
    for name, value in (("QUEUE_BYTES", 4000), ("LISTENER_BYTES", 3000), ("HELD_BYTES", 4000), ("ITEM_BYTES", 0)):
        monkeypatch.setattr(engine_module, name, value)


@pytest.mark.usefixtures("small")
def test_more_bytes_than_may_wait_are_refused(bench: Bench) -> None:
    jobs = [bench.job(work()) for _ in range(6)]
    bench.put([bench.item(job, 1000) for job in jobs])
    assert all(job.done.wait(SOON) for job in jobs)
    assert [job.refused for job in jobs] == [False] * 4 + [True] * 2
    bench.settle()
    assert bench.engine._ready_bytes == 0


def test_the_smallest_message_counts_as_what_it_costs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "QUEUE_BYTES", 4 * engine_module.ITEM_BYTES + 4)
    jobs = [bench.job(work()) for _ in range(6)]
    bench.put([bench.item(job) for job in jobs])
    assert all(job.done.wait(SOON) for job in jobs)
    assert [job.refused for job in jobs] == [False] * 4 + [True] * 2


@pytest.mark.usefixtures("small")
def test_one_message_that_is_larger_than_all_that_may_wait_is_taken(bench: Bench) -> None:
    job = bench.job(work())
    bench.put([bench.item(job, 100_000)])
    assert job.done.wait(SOON)
    assert not job.refused


@pytest.mark.usefixtures("small")
def test_behind_a_slow_listener_so_many_bytes_wait(bench: Bench) -> None:
    """And behind all of them together, so that one slow listener leaves room for another."""
    slow, other = ordered("slow", inline=False), ordered("other", inline=False)
    for listener in (slow, other):
        first, stall = bench.stall(listener)
        bench.send(first)
        assert stall.began.wait(SOON)
    behind = [bench.job(slow) for _ in range(5)] + [bench.job(other) for _ in range(2)]
    for job in behind:
        bench.put([bench.item(job, 1000)])
        reader(bench)
    assert [job.refused for job in behind] == [False] * 3 + [True] * 2 + [False, True]
    bench.let_go()
    bench.settle()
    assert not any(behind[index].refused for index in (0, 1, 2, 5))
    assert (bench.engine._ready_bytes, bench.engine._held) == (0, 0)


def test_a_system_that_refuses_threads_makes_requests_busy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    slow, quick = bench.job(work(inline=False)), bench.job(work())
    monkeypatch.setattr(Thread, "start", refuse)
    bench.send(slow, quick)
    assert all(job.done.wait(SOON) for job in (slow, quick))
    assert (slow.refused, quick.refused) == (True, False)
    with pytest.raises(RuntimeError, match="the system refuses a further thread"):
        bench.engine.spare(print)


def test_a_system_that_refuses_threads_leaves_the_reader_in_its_handler(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, stall = bench.stall(work())
    bench.send(stalled)
    assert stall.began.wait(SOON)
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "Thread", None.__class__)  # calling it is no RuntimeError: it must not be reached
        patch.setattr(bench.engine, "_hand", lambda _job: False)
        bench.displace()
    stall.go.set()
    bench.settle()
    assert reader(bench) == stalled.thread


# --- order ---


def numbered(bench: Bench, listener: Work, count: int, order: list[int]) -> list[Job]:
    return [bench.job(listener, lambda number=number: order.append(number)) for number in range(count)]  # type: ignore[misc]


def test_a_listener_keeps_its_order_when_it_is_displaced(bench: Bench) -> None:
    order: list[int] = []
    listener = ordered()
    stalled, stall = bench.stall(listener)
    behind = numbered(bench, listener, 50, order)
    other = bench.job(ordered("other"))
    bench.send(stalled, *behind, other)
    assert stall.began.wait(SOON)
    bench.displace()
    assert other.done.wait(SOON)
    assert order == []
    stall.go.set()
    bench.settle()
    assert order == list(range(50))


@pytest.mark.parametrize("before", range(BATCH + 1))
def test_a_listener_goes_on_wherever_in_a_batch_it_was_displaced(bench: Bench, before: int) -> None:
    """The end of a batch is where the reader looks around; its last handler's turn ends there too."""
    order: list[int] = []
    listener = ordered()
    stalled, stall = bench.stall(listener)
    quick = [bench.job(work()) for _ in range(before)]
    bench.send(*quick, stalled)
    assert stall.began.wait(SOON)
    bench.displace()
    reader(bench)
    old = monotonic()
    wait_for(lambda: monotonic() - old > 2 * engine_module.TICK, SOON)  # the last reading is a while ago
    stall.go.set()
    assert stalled.done.wait(SOON)
    behind = numbered(bench, listener, 3, order)
    bench.send(*behind)
    wait_for(lambda: len(order) == 3, 1000 * MS, lambda: f"the listener's turn never ended: {order}")
    assert order == [0, 1, 2]


def test_a_slow_listener_keeps_its_order(bench: Bench) -> None:
    order: list[int] = []
    bench.send(*numbered(bench, ordered(inline=False), 200, order))
    wait_for(lambda: len(order) == 200, SOON)
    assert order == list(range(200))
    bench.settle()
    assert bench.most == 1


def test_an_async_listener_keeps_its_order_until_it_is_resumed(bench: Bench) -> None:
    listener = ordered()
    first, second = bench.job(listener, lambda: False), bench.job(listener)
    bench.send(first, second)
    assert first.done.wait(SOON)
    reader(bench)
    assert not second.done.is_set()
    bench.engine.resume(listener)
    assert second.done.wait(SOON)


@pytest.mark.parametrize("inline", [None, False])
def test_async_listeners_keep_their_order_while_others_resume_them(bench: Bench, inline: bool | None) -> None:
    order: list[int] = []
    listener = ordered(inline=inline)
    due: list[Event] = [Event() for _ in range(50)]

    def begin(number: int) -> bool:
        order.append(number)
        due[number].set()
        return False

    def resume() -> None:
        for event in due:
            assert event.wait(SOON)
            bench.engine.resume(listener)

    loop = Thread(target=resume)
    loop.start()
    bench.send(*[bench.job(listener, lambda number=number: begin(number)) for number in range(50)])  # type: ignore[misc]
    loop.join(SOON)
    bench.settle()
    assert order == list(range(50))


def test_resuming_an_action_changes_nothing(bench: Bench) -> None:
    bench.engine.resume(work())
    assert reader(bench)


def test_a_refused_message_of_a_listener_lets_the_next_one_run(single: Bench) -> None:
    stalled, stall = single.stall(work(inline=False))
    single.send(stalled)
    assert stall.began.wait(SOON)
    single.put([single.item(single.job(work())) for _ in range(QUEUE_LIMIT)])
    wait_for(lambda: len(single.engine._backlog) == QUEUE_LIMIT, SOON)
    listener = ordered()
    refused, taken = single.job(listener), single.job(listener)
    single.send(refused)
    assert refused.done.wait(SOON)
    assert refused.refused
    stall.go.set()
    single.settle()
    single.send(taken)
    assert taken.done.wait(SOON)
    assert not taken.refused


# --- errands, checks, spare work ---


def test_an_errand_runs_on_the_reader(bench: Bench) -> None:
    ran = Event()
    threads: list[int] = []
    bench.engine.soon(lambda: threads.append(get_ident()))
    bench.engine.soon(ran.set)
    assert ran.wait(SOON)
    assert threads == [reader(bench)]


def test_errands_run_in_order_between_handlers(bench: Bench) -> None:
    order: list[int] = []
    done = Event()
    for number in range(100):
        bench.engine.soon(lambda number=number: order.append(number))  # type: ignore[misc]
    bench.engine.soon(done.set)
    assert done.wait(SOON)
    assert order == list(range(100))


def test_spare_work_takes_no_workers_place(single: Bench) -> None:
    stall, ran = Stall(), Event()
    single.engine.spare(stall)
    assert stall.began.wait(SOON)
    slow = single.job(work(inline=False))
    single.send(slow)
    assert slow.done.wait(SOON)
    single.engine.spare(ran.set)
    assert ran.wait(SOON)
    stall.go.set()


def test_idle_threads_are_used_again(bench: Bench) -> None:
    threads = set()
    for _ in range(20):
        job = bench.job(work(inline=False))
        bench.send(job)
        assert job.done.wait(SOON)
        threads.add(job.thread)
        wait_for(lambda: bench.engine._idle == 1, SOON)
    assert len(threads) == 1


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "IDLE_LIMIT", 0.01)
    bench = Bench().start()
    for _ in range(3):
        job = bench.job(work(inline=False))
        bench.send(job)
        assert job.done.wait(SOON)
        wait_for(lambda: len(engine_threads()) == 1, SOON)
    assert (bench.engine._idle, bench.engine._threads) == (0, 1)
    bench.close()


def test_a_check_is_made_in_its_period(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    seen: list[float] = []
    several = Event()

    def check(now: float) -> None:
        seen.append(now)
        if len(seen) == 3:
            several.set()

    bench.engine.every(0.01, check)
    bench.start()
    assert several.wait(SOON)
    bench.close()
    assert all(later - earlier >= 0.009 for earlier, later in pairwise(seen))


def test_a_socket_that_is_forgotten_is_not_read(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    read: list[int] = []

    def arrived(events: int) -> Items:
        read.append(events)
        ours.recv(10)
        return []

    with ours, theirs:
        bench.engine.watch_socket(ours.fileno(), 0, arrived)
        theirs.send(b"1")
        reader(bench)
        assert read == []
        bench.engine.change_socket(ours.fileno(), select.EPOLLIN)
        wait_for(lambda: read == [select.EPOLLIN], SOON)
        bench.engine.forget_socket(ours.fileno())
        theirs.send(b"2")
        reader(bench)
        assert read == [select.EPOLLIN]


@contextmanager
def burner(bench: Bench) -> Iterator[None]:
    """A handler that computes until the block ends."""
    stop, burned = Event(), Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))
            burned.set()

    bench.send(bench.job(work(inline=False), burn))
    try:
        assert burned.wait(SOON)
        yield
    finally:
        stop.set()


def test_while_a_handler_burns_cpu_others_get_their_turns_sooner(bench: Bench) -> None:
    usual = sys.getswitchinterval()

    with burner(bench):
        wait_for(lambda: bench.engine.watch() == engine_module.TICK_BESIDE_BURNERS, SOON)
        assert sys.getswitchinterval() == pytest.approx(engine_module.SHORT_SWITCH)
    bench.settle()
    bench.engine.watch()
    assert sys.getswitchinterval() == usual


def test_the_stop_gives_the_interpreter_its_usual_pace_back(bench: Bench) -> None:
    usual = sys.getswitchinterval()

    with burner(bench):
        wait_for(lambda: bench.engine.watch() == engine_module.TICK_BESIDE_BURNERS, SOON)
        assert sys.getswitchinterval() < usual
        bench.stop()
        assert sys.getswitchinterval() == usual


# --- the end ---


def test_after_the_stop_nothing_is_read_and_its_threads_end(bench: Bench) -> None:
    bench.send(bench.job(work(inline=False)))
    bench.settle()
    bench.stop()
    wait_for(lambda: not engine_threads(), SOON)
    late = bench.job(work())
    bench.send(late)
    assert not late.done.is_set()


def test_the_stop_waits_for_no_handler(bench: Bench) -> None:
    stalled, stall = bench.stall(work(inline=False))
    bench.send(stalled)
    assert stall.began.wait(SOON)
    bench.stop()
    wait_for(lambda: len(engine_threads()) == 1, SOON)
    stall.go.set()
    assert stalled.done.wait(SOON)
    wait_for(lambda: not engine_threads(), SOON)


@pytest.mark.parametrize("started", [True, False])
def test_a_stopped_engine_leaves_no_descriptor_open(started: bool) -> None:
    """One service after another in one process, as tests have it, must not run out of them."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    engine = Engine(1, lambda: None, lambda: None)
    if started:
        engine.start()
    engine.stop()
    wait_for(lambda: len(list(Path("/proc/self/fd").iterdir())) == before, SOON)
    engine.ring()  # a handler that runs on may still do that


def test_stopping_twice_is_stopping_once(bench: Bench) -> None:
    """Whoever reads closes the bell; before that it may just be about to look at it."""
    pairs = [socket.socketpair() for _ in range(2)]
    stalls = [Stall(), Stall()]

    def watch(ours: socket.socket, stall: Stall) -> None:
        def arrived(_events: int) -> Items:
            ours.recv(10)
            stall()
            return []

        bench.engine.watch_socket(ours.fileno(), select.EPOLLIN, arrived)

    for (ours, _theirs), stall in zip(pairs, stalls, strict=True):
        watch(ours, stall)
    pairs[0][1].send(b"x")
    assert stalls[0].began.wait(SOON)
    pairs[1][1].send(b"x")
    bench.engine.ring()  # is seen with the second socket, after it
    stalls[0].go.set()
    assert stalls[1].began.wait(SOON)
    bench.stop()
    bench.engine.stop()
    stalls[1].go.set()
    wait_for(lambda: not engine_threads(), SOON)
    for each in (end for pair in pairs for end in pair):
        each.close()


def test_what_waits_and_what_runs_is_told_that_the_service_gives_up(single: Bench) -> None:
    stalled, stall = single.stall(work(inline=False))
    queued = [single.job(work()) for _ in range(3)]
    single.send(stalled, *queued)
    assert stall.began.wait(SOON)
    wait_for(lambda: len(single.engine._backlog) == 3, SOON)
    assert single.engine.unfinished == 4
    single.engine.refuse_waiting(Stopping("it stops"))
    assert [[str(error) for error in job.refusals] for job in (stalled, *queued)] == [["it stops"]] * 4
    stall.go.set()
    single.settle()
    assert not any(job.thread for job in queued)


def test_messages_that_wait_behind_a_listener_are_told_too(bench: Bench) -> None:
    """Else they vanish without being counted."""
    listener = ordered(inline=False)
    first, stall = bench.stall(listener)
    behind = [bench.job(listener) for _ in range(3)]
    bench.send(first, *behind)
    assert stall.began.wait(SOON)
    wait_for(lambda: bench.engine._held == 3, SOON)
    bench.engine.refuse_waiting(Stopping("it stops"))
    assert all(job.refused for job in behind)


def test_a_displaced_handler_is_told_too(bench: Bench) -> None:
    stalled, stall = bench.stall(work())
    bench.send(stalled)
    assert stall.began.wait(SOON)
    bench.displace()
    bench.engine.refuse_waiting(Stopping("it stops"))
    assert stalled.refused


# --- all of it at once ---


class Storm:
    """A few thousand items of quick, slow, ordered and async handlers that nap now and then."""

    COUNT = 3000

    def __init__(self, bench: Bench, seed: int) -> None:
        self._bench = bench
        self._random = random.Random(seed)
        self._lock = Lock()
        self.ran: Counter[int] = Counter()
        self.order: dict[str, list[int]] = {}
        self.overlaps = 0
        self._inside: set[str] = set()
        self._naps = Event()  # never set: a nap is a wait for it
        self._resumers: list[Thread] = []
        works = [work("a"), work("b"), work("c", inline=False), work("d", inline=True)]
        works += [ordered("l"), ordered("m"), ordered("n", inline=False)]
        for number in range(self.COUNT):
            self._add(number, self._random.choice(works))

    def _add(self, number: int, chosen: Work) -> None:
        nap = self._random.choice([0.0] * 150 + [0.001, 0.004])
        later = chosen.name == "m" and self._random.random() < 0.02
        self._bench.job(chosen, lambda: self._handle(number, chosen, nap, later))

    def _handle(self, number: int, chosen: Work, nap: float, later: bool) -> bool:
        with self._lock:
            self.ran[number] += 1
            if chosen.ordered:
                self.overlaps += chosen.name in self._inside
                self._inside.add(chosen.name)
                self.order.setdefault(chosen.name, []).append(number)
        if nap:
            self._naps.wait(nap)
        if later:
            self._go_on_elsewhere(chosen)
            return False
        self._leave(chosen)
        return True

    def _go_on_elsewhere(self, chosen: Work) -> None:
        def resume() -> None:
            self._leave(chosen)
            self._bench.engine.resume(chosen)

        thread = Thread(target=resume)
        self._resumers.append(thread)
        thread.start()

    def _leave(self, chosen: Work) -> None:
        with self._lock:
            self._inside.discard(chosen.name)

    def join(self) -> None:
        for thread in self._resumers:
            thread.join(SOON)


@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (2, 2), (10, 3)])
def test_in_a_storm_nothing_is_lost_doubled_or_out_of_order(
    workers: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "QUEUE_LIMIT", 10 * Storm.COUNT)
    bench = Bench(max_workers=workers)
    storm = Storm(bench, seed)
    bench.start()
    with watched(bench):
        bench.send_all()
        wait_for(
            lambda: len(storm.ran) == Storm.COUNT,
            4 * SOON,
            lambda: f"{Storm.COUNT - len(storm.ran)} lost; {bench.engine.unfinished} unfinished",
        )
        storm.join()
        bench.settle()
    assert set(storm.ran.values()) == {1}
    assert storm.overlaps == 0
    assert all(order == sorted(order) for order in storm.order.values())
    assert bench.most <= workers + 1  # beside the one on the reader
    assert (bench.engine._working, bench.engine._held, bench.engine._ready_bytes) == (0, 0, 0)
    bench.close()


# --- what systemd's watchdog asks ---


def test_workers_are_stuck_when_each_has_been_in_one_handler_for_so_long(single: Bench) -> None:
    assert single.engine.stuck(0.0) == []
    job, stall = single.stall(work("slow", inline=False))
    single.send(job)
    assert stall.began.wait(SOON)
    assert single.engine.stuck(60.0) == []
    wait_for(lambda: single.engine.stuck(1 * MS), SOON)
    assert single.engine.stuck(1 * MS) == [str(job)]
    stall.go.set()
    wait_for(lambda: single.engine.stuck(0.0) == [], SOON)


def test_workers_are_not_stuck_while_one_of_them_is_free_or_has_just_begun(bench: Bench) -> None:
    stalls = [bench.stall(work(str(number), inline=False)) for number in range(3)]
    for job, stall in stalls[:2]:
        bench.send(job)
        assert stall.began.wait(SOON)
    assert bench.engine.busy_workers == 2
    assert bench.engine.stuck(0.0) == []
    began = monotonic()
    wait_for(lambda: monotonic() - began > 20 * MS, SOON)
    bench.send(stalls[2][0])
    assert stalls[2][1].began.wait(SOON)
    assert bench.engine.busy_workers == 3
    assert monotonic() - began > 20 * MS
    assert bench.engine.stuck(monotonic() - began) == []
    bench.let_go()
    bench.settle()
    assert bench.engine.busy_workers == 0


def test_a_worker_that_is_stuck_in_what_comes_before_a_handler_is_stuck_too(single: Bench) -> None:
    stall = single.new_stall()

    def plan(*_given: object) -> None:
        stall()

    single.engine.soon(lambda: single.engine.put([(None, plan, "", b"x")]))
    assert stall.began.wait(SOON)
    single.displace()
    wait_for(lambda: single.engine.stuck(0.0), SOON)
    assert single.engine.stuck(0.0) == ["what comes before a handler"]


def test_a_worker_that_goes_on_with_the_next_handler_is_not_stuck(single: Bench) -> None:
    """Time is counted for each handler."""
    first, stall = single.stall(work("first", inline=False))
    second, other = single.stall(work("second", inline=False))
    single.send(first, second)
    assert stall.began.wait(SOON)
    began = monotonic()
    wait_for(lambda: monotonic() - began > 20 * MS, SOON)
    stall.go.set()
    assert other.began.wait(SOON)
    assert single.engine.stuck(monotonic() - began) == []


def test_an_errand_is_run_where_the_lock_is_free(bench: Bench) -> None:
    ran = Event()
    assert bench.engine.soon_if_free(ran.set, SOON)
    assert ran.wait(SOON)


def test_a_lock_that_is_held_is_waited_for_only_so_long(bench: Bench) -> None:
    ran = Event()
    with bench.engine._lock:
        assert not bench.engine.soon_if_free(ran.set, 5 * MS)
    assert not ran.is_set()
    bench.engine.ring()
    assert ran.wait(SOON)  # it was kept


def test_an_engine_that_has_stopped_takes_an_errand_that_is_never_run() -> None:
    bench = Bench().start()
    bench.close()
    assert bench.engine.soon_if_free(lambda: None, SOON)
