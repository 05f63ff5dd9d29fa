"""The watchdog: fed while all legs pass, and each leg says what is wrong when that very part is broken."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from threading import Event, Thread
from threading import enumerate as all_threads
from time import monotonic
from typing import Any

import pytest

from daebus import loop, watchdog
from daebus.engine import Engine
from daebus.log import DETAILS
from daebus.names import PROBE
from daebus.net import Listener, Network
from daebus.registry import Record
from daebus.scheduler import Scheduler
from daebus.threads import Running, Threads
from daebus.watchdog import (
    SILENCE_LIMIT,
    BusLeg,
    HttpLeg,
    LoopLeg,
    ReaderLeg,
    SchedulerLeg,
    ThreadLeg,
    Watchdog,
    WorkerLeg,
    stacks,
)
from daebus.work import Work
from tests import calls
from tests.support import MS, wait_for

SOON = 5000 * MS
LIMIT = 150 * MS  # WatchdogSec=; a leg is named after 90


@pytest.fixture(autouse=True)
def defects(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker thread that fails ends the process; here it fails the test."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    yield
    assert exits == []


# --- the watchdog, of legs that the test moves ---


class Leg:
    """A leg that stands when the test says so."""

    def __init__(self, name: str = "leg") -> None:
        self.name = name
        self.wrong: str | None = None
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def trouble(self) -> str | None:
        return self.wrong


class Reader(Leg):
    """One that begins the checks of the others at once."""

    def start_round(self, legs: list[Any]) -> None:
        for leg in legs:
            leg.begin()


class Kennel:
    """A watchdog, and what it says."""

    def __init__(self, reader: Any, *legs: Any, limit: float = LIMIT) -> None:
        self.fed = 0
        self.said: list[str | None] = []
        self.dog = Watchdog(self._feed, self.said.append, limit, reader, legs)

    def _feed(self) -> None:
        self.fed += 1

    def is_fed(self) -> bool:
        """Whether it is fed from now on, twice in a row."""
        before = self.fed
        wait_for(lambda: self.fed >= before + 2, SOON)
        return True

    def hungers(self) -> bool:
        """Whether it is fed no more, by the time at which it says why."""
        before = self.fed
        wait_for(lambda: self.said, SOON)
        return self.fed <= before + 1

    def stop(self) -> None:
        self.dog.stop()
        wait_for(lambda: not self.dog._thread.is_alive(), SOON)

    def __enter__(self) -> Kennel:
        self.dog.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


@pytest.fixture
def legs() -> list[Leg]:
    return [Reader("reader"), Leg("one"), Leg("other")]


@pytest.fixture
def kennel(legs: list[Leg]) -> Iterator[Kennel]:
    with Kennel(*legs) as made:
        yield made


def test_it_is_fed_in_time_while_all_legs_pass(kennel: Kennel, legs: list[Leg]) -> None:
    began = monotonic()
    wait_for(lambda: kennel.fed >= 10, SOON)
    assert monotonic() - began < 10 * LIMIT
    assert kennel.said == []
    assert all(leg.begun >= 10 for leg in legs)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_it_is_not_fed_while_one_leg_does_not_pass(kennel: Kennel, legs: list[Leg], broken: int) -> None:
    assert kennel.is_fed()
    legs[broken].wrong = "does not stand"
    assert kennel.hungers()
    assert kennel.said == [f"{legs[broken].name}: does not stand"]
    legs[broken].wrong = None
    assert kennel.is_fed()
    assert kennel.said[1:] == [None]


def test_a_leg_that_takes_its_time_is_no_trouble(legs: list[Leg]) -> None:
    legs[1].wrong = "not yet"
    with Kennel(*legs, limit=1000 * MS) as kennel:
        wait_for(lambda: legs[1].begun, SOON)
        assert kennel.fed == 0
        legs[1].wrong = None
        assert kennel.is_fed()
        assert kennel.said == []


def test_what_is_wrong_is_said_once_with_the_stacks_of_all_threads(
    kennel: Kennel, legs: list[Leg], caplog: pytest.LogCaptureFixture
) -> None:
    legs[1].wrong, legs[2].wrong = "first\n<0>", "second"
    wait_for(lambda: kennel.said, SOON)
    again = legs[1].begun + 2
    wait_for(lambda: legs[1].begun >= again, SOON)
    (entry,) = caplog.records
    assert entry.levelno == logging.CRITICAL
    text = entry.getMessage()
    assert text.startswith("The watchdog is not fed since 0.")
    assert text.endswith("will restart the service. Broken: one: first\\n<0>; other: second")
    assert entry.__dict__["daebus_leg"] == "one,other"
    details = "\n".join(getattr(entry, DETAILS))
    assert "Thread 'MainThread':" in details
    assert "in test_what_is_wrong_is_said_once" in details
    legs[1].wrong = legs[2].wrong = None
    assert kennel.is_fed()
    assert caplog.messages[1:] == ["The watchdog's checks pass again"]


def test_while_the_reader_does_not_come_the_others_are_not_blamed(kennel: Kennel, legs: list[Leg]) -> None:
    for leg in legs:
        leg.wrong = "does not stand"
    wait_for(lambda: kennel.said, SOON)
    assert kennel.said == ["reader: does not stand"]


def test_a_reader_that_came_by_and_hung_then_is_what_is_named(legs: list[Leg]) -> None:
    """In the second round: what it did not get to waits for it."""

    class Hanging(Reader):
        def start_round(self, legs: list[Any]) -> None:
            super().start_round(legs)
            legs[1].wrong = "is not answered" if self.begun > 1 else None
            self.wrong = "does not come" if self.begun > 2 else None

    with Kennel(Hanging("reader"), *legs[1:], limit=600 * MS) as kennel:
        wait_for(lambda: kennel.said, SOON)
        assert kennel.said == ["reader: does not come"]


def test_what_has_not_passed_is_checked_anew(kennel: Kennel, legs: list[Leg]) -> None:
    """What was refused once, or lost, may succeed at another time."""
    legs[1].wrong = "does not stand"
    begun = legs[1].begun
    wait_for(lambda: legs[1].begun >= begun + 3, SOON)
    assert kennel.fed <= 1


def test_a_service_that_stops_is_not_killed_for_what_does_not_pass_any_more(
    kennel: Kennel, legs: list[Leg], caplog: pytest.LogCaptureFixture
) -> None:
    """It has limits of its own."""
    legs[1].wrong = "does not stand"
    wait_for(lambda: caplog.records, SOON)
    caplog.clear()
    kennel.dog.drain()
    assert kennel.is_fed()
    assert caplog.messages == []  # nothing passes again


def test_a_service_that_stops_is_fed_even_if_a_check_fails(kennel: Kennel, legs: list[Leg]) -> None:
    """What it looks at is being taken down."""

    def gone() -> str | None:
        raise ValueError

    kennel.dog.drain()
    legs[1].trouble = gone  # type: ignore[method-assign]
    assert kennel.is_fed()


def test_it_ends_when_it_is_told_to(kennel: Kennel, legs: list[Leg]) -> None:
    legs[1].wrong = "does not stand"
    wait_for(lambda: kennel.said, SOON)
    kennel.stop()
    fed, begun = kennel.fed, legs[1].begun
    assert (kennel.fed, legs[1].begun) == (fed, begun)


def test_one_that_was_never_started_can_be_stopped(legs: list[Leg]) -> None:
    Kennel(*legs).dog.stop()


def test_stacks_are_those_of_the_others() -> None:
    go = Event()
    thread = Thread(target=lambda: go.wait(SOON), name="idler")
    thread.start()
    lines = stacks()
    go.set()
    thread.join(SOON)
    assert "Thread 'idler':" in lines
    assert "Thread 'MainThread':" not in lines


def test_stacks_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "STACK_LINES", 2)
    go = Event()
    thread = Thread(target=lambda: go.wait(SOON), name="idler")
    thread.start()
    lines = stacks()
    go.set()
    thread.join(SOON)
    assert len(lines) == 2


# --- an engine whose parts break ---


class Job:
    """A call that runs until it is let go."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.work = Work(Record("action", name, print, inline=False))
        self.began, self.go = Event(), Event()

    def run(self) -> bool:
        self.began.set()
        assert self.go.wait(SOON)
        return True

    def pack(self, data: bytes) -> None:
        """It is small."""

    def refuse(self, error: object) -> None:
        raise AssertionError(error)

    def __str__(self) -> str:
        return f"Job {self._name!r}"


class Bench:
    """An engine that runs, with two workers."""

    def __init__(self) -> None:
        self.engine = Engine(2, lambda: None, lambda: None)
        self.engine.every(600.0, lambda _now: None)
        self.engine._check_period = 600.0  # nothing wakes the reader but what the test does
        self.network = Network(self.engine, 10, 60.0, b"")
        self.engine.start()
        self.jobs: list[Job] = []
        self.gates: list[Event] = []

    def on_reader(self, function: Callable[[], object]) -> None:
        done = Event()

        def errand() -> None:
            function()
            done.set()

        self.engine.soon(errand)
        assert done.wait(SOON)

    def job(self, name: str) -> Job:
        """A handler that hangs, on a worker."""
        job = Job(name)
        self.jobs.append(job)
        self.engine.soon(lambda: self.engine.put([(None, lambda *_: job, "", b"x")]))
        assert job.began.wait(SOON)
        return job

    def wedge(self) -> Event:
        """Have the reader hang in what comes before a handler, until the event is set."""
        began, gate = Event(), Event()
        self.gates.append(gate)

        def plan(*_given: object) -> None:
            began.set()
            assert gate.wait(SOON)

        self.engine.soon(lambda: self.engine.put([(None, plan, "", b"x")]))
        assert began.wait(SOON)
        return gate

    def check(self, leg: Any) -> Any:
        """Have the reader begin a leg's check."""
        self.on_reader(leg.begin)
        return leg

    def close(self) -> None:
        for job in self.jobs:
            job.go.set()
        for gate in self.gates:
            gate.set()
        self.network.close(SOON)
        self.engine.stop()
        wait_for(lambda: not [one for one in all_threads() if one.name.startswith("daebus-")], SOON)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def passes(leg: Any) -> bool:
    wait_for(lambda: leg.trouble() is None, SOON, lambda: str(leg.trouble()))
    return True


# --- the reader ---


def test_a_reader_that_comes_by_passes_and_begins_the_other_checks(bench: Bench) -> None:
    leg, other = ReaderLeg(bench.engine), Leg()
    for count in (1, 2, 3):
        leg.start_round([leg, other])
        assert passes(leg)
        assert other.begun == count


def test_a_reader_that_hangs_in_a_plan_does_not_pass(bench: Bench) -> None:
    leg, other = ReaderLeg(bench.engine), Leg()
    gate = bench.wedge()
    leg.start_round([leg, other])
    assert leg.trouble() == "the sockets are not read"
    leg.start_round([leg, other])
    assert leg.trouble() == "the sockets are not read"
    gate.set()
    assert passes(leg)
    assert other.begun == 1  # of the last round alone


def test_an_engine_whose_lock_is_held_does_not_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReaderLeg, "TURN", 10 * MS)
    leg = ReaderLeg(bench.engine)
    with bench.engine._lock:
        leg.start_round([leg])
        assert leg.trouble() == "the engine's lock is held, so nothing can run"


def test_an_engine_whose_lock_was_held_for_a_while_lives_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bell was not rung then, and there may be nothing else that wakes the reader."""
    monkeypatch.setattr(ReaderLeg, "TURN", 10 * MS)
    bench.engine._lock.acquire()
    with Kennel(ReaderLeg(bench.engine)) as kennel:
        wait_for(lambda: kennel.said, SOON)
        bench.engine._lock.release()
        assert kennel.said == ["reader: the engine's lock is held, so nothing can run"]
        assert kennel.is_fed()


def test_a_check_that_cannot_begin_does_not_pass(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does it end the reader."""
    leg, faulty = ReaderLeg(bench.engine), Leg()

    def fail() -> None:
        raise ValueError("why")

    faulty.begin = fail  # type: ignore[method-assign]
    leg.start_round([leg, faulty])
    wait_for(lambda: caplog.records, SOON)
    bench.on_reader(lambda: None)
    assert leg.trouble() == "a check cannot begin"
    assert caplog.messages == ["A check of the watchdog failed; this is a defect of Daebus"]
    leg.start_round([leg])
    assert passes(leg)


# --- the workers ---


def test_workers_that_can_be_had_pass(bench: Bench) -> None:
    leg = WorkerLeg(bench.engine, 60.0)
    for _ in range(3):
        bench.check(leg)
        assert passes(leg)


def test_workers_that_are_all_stuck_do_not_pass(bench: Bench) -> None:
    bench.job("one")
    bench.job("other")
    wait_for(lambda: bench.engine.stuck(5 * MS), SOON)
    leg = bench.check(WorkerLeg(bench.engine, 5 * MS))
    limit = f"{5 * MS:g}"
    assert leg.trouble() == f"all are in one handler each for over {limit} s: Job 'one', Job 'other'"


def test_workers_that_are_busy_for_less_than_the_limit_pass(bench: Bench) -> None:
    bench.job("one")
    bench.job("other")
    assert passes(bench.check(WorkerLeg(bench.engine, 60.0)))
    assert passes(bench.check(WorkerLeg(bench.engine, None)))


def test_one_worker_that_is_left_is_enough(bench: Bench) -> None:
    job = bench.job("one")
    wait_for(lambda: monotonic() - bench.engine._workers[_ident(bench)].began > 5 * MS, SOON)
    assert not job.go.is_set()
    assert passes(bench.check(WorkerLeg(bench.engine, 5 * MS)))


def _ident(bench: Bench) -> int:
    (ident,) = bench.engine._workers
    return ident


def test_stuck_workers_that_go_on_feed_the_watchdog_again(bench: Bench) -> None:
    jobs = [bench.job("one"), bench.job("other")]
    wait_for(lambda: bench.engine.stuck(5 * MS), SOON)
    with Kennel(ReaderLeg(bench.engine), WorkerLeg(bench.engine, 5 * MS)) as kennel:
        wait_for(lambda: kennel.said, SOON)
        assert str(kennel.said[0]).startswith("workers: all are in one handler each")
        assert kennel.fed == 0
        jobs[0].go.set()
        assert kennel.is_fed()
        assert None in kennel.said


def test_a_thread_that_the_system_refuses_does_not_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.engine, "_hand", lambda _job: False)
    leg = bench.check(WorkerLeg(bench.engine, 60.0))
    assert leg.trouble() == "the system refuses a further thread"
    monkeypatch.undo()
    assert passes(bench.check(leg))


def test_a_worker_that_does_not_begin_does_not_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.engine, "spare", lambda _function: None)
    assert bench.check(WorkerLeg(bench.engine, 60.0)).trouble() == "a worker thread does not begin its work"


# --- the connections ---


class Talk:
    """A protocol that says nothing."""

    expendable = 0
    awaits_last = False

    def __init__(self, _connection: object) -> None:
        """Nothing is kept."""

    def received(self, _data: bytes) -> list[Any]:
        return []

    def nothing(self, _now: float = 0.0) -> None:
        """Nor happens anything."""

    ended = drained = expired = gone = stopping = nothing


class Door:
    """A listening port, and clients that knock."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.listener: Listener = bench.network.listen("127.0.0.1", 0, Talk)
        self.clients: list[socket.socket] = []

    def serve(self) -> None:
        self._bench.on_reader(self._bench.network.serve)

    def knock(self) -> None:
        self.clients.append(socket.create_connection(("127.0.0.1", self.listener.port), SOON))

    def deafen(self) -> None:
        """Have the selector forget the listening socket."""
        self._bench.on_reader(lambda: self._bench.engine._epoll.unregister(self.listener.socket.fileno()))

    def mend(self) -> None:
        """Have it hear again."""
        self._bench.on_reader(lambda: self._bench.engine._epoll.register(self.listener.socket.fileno(), 1))

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture
def door(bench: Bench) -> Iterator[Door]:
    made = Door(bench)
    yield made
    made.close()


def test_connections_that_are_heard_and_taken_pass(bench: Bench, door: Door) -> None:
    door.serve()
    leg = HttpLeg(bench.network)
    for _ in range(3):
        door.knock()
        assert passes(bench.check(leg))
    assert len(bench.network) <= 3  # the watchdog's own is none of a client's


def test_connections_that_wait_at_a_deaf_listener_do_not_pass(bench: Bench, door: Door) -> None:
    door.serve()
    door.deafen()
    leg = HttpLeg(bench.network)
    assert passes(bench.check(leg))  # nobody waits
    door.knock()
    bench.check(leg)
    wait_for(lambda: "not accepted" in str(leg.trouble()), SOON)
    assert leg.trouble() == f"connections wait at 127.0.0.1:{door.listener.port} and are not accepted"
    door.mend()
    assert passes(leg)


def test_connections_that_wait_until_the_service_has_started_pass(bench: Bench, door: Door) -> None:
    leg = HttpLeg(bench.network)
    door.knock()
    assert passes(bench.check(leg))


def test_a_listener_that_pauses_does_not_pass_while_somebody_waits(bench: Bench, door: Door) -> None:
    """For want of descriptors, of which some come back if there is no leak: then it takes whoever waits."""
    door.serve()
    leg = HttpLeg(bench.network)
    bench.on_reader(lambda: bench.network._pause(door.listener, "no descriptors"))
    assert passes(bench.check(leg))
    door.knock()
    bench.check(leg)
    wait_for(lambda: "are not accepted" in str(leg.trouble()), SOON)
    bench.on_reader(lambda: bench.network._check(0.0))
    wait_for(lambda: passes(leg), SOON)


def test_a_selector_that_does_not_hear_connections_does_not_pass(bench: Bench, door: Door) -> None:
    door.serve()
    leg = HttpLeg(bench.network)
    connection = leg._echo._connection
    epoll = bench.engine._epoll
    bench.on_reader(lambda: epoll.unregister(connection._fd))
    bench.check(leg)
    bench.on_reader(lambda: None)
    assert leg.trouble() == "what arrives on a connection is not handled"
    bench.on_reader(lambda: epoll.register(connection._fd, 1))
    assert passes(bench.check(leg))


def test_after_the_stop_nobody_waits(bench: Bench, door: Door) -> None:
    """A round may have begun before, and be looked at after it."""
    door.serve()
    leg = bench.check(HttpLeg(bench.network))
    assert passes(leg)
    bench.on_reader(bench.network.stop_listening)
    assert passes(leg)
    assert not door.listener.is_neglected(door.listener.taken)


# --- the main thread ---


class Clockwork:
    """A scheduler with one task, and how often the main thread was woken."""

    def __init__(self, interval: float = 600.0) -> None:
        self.scheduler = Scheduler([Record("background", "tick", print, interval=interval)], lambda _run: None)
        self.wakes = 0
        self.leg = SchedulerLeg(self.scheduler, self._wake)

    def _wake(self) -> None:
        self.wakes += 1


def test_a_main_thread_that_comes_by_passes() -> None:
    made = Clockwork()
    for count in (1, 2):
        made.leg.begin()
        assert made.wakes == count
        assert made.leg.trouble() == "the main thread does not come by, so tasks do not start"
        made.scheduler.run_due(monotonic())
        assert made.leg.trouble() is None


def test_a_task_that_is_overdue_does_not_pass() -> None:
    made = Clockwork()
    made.leg.begin()
    made.scheduler.run_due(monotonic())
    made.scheduler.tasks[0].due = monotonic() - watchdog.OVERDUE - 0.001
    assert made.leg.trouble() == "task 'tick' is overdue"
    made.scheduler.run_due(monotonic())
    assert made.leg.trouble() is None


def test_a_service_without_tasks_passes_too() -> None:
    scheduler = Scheduler([], lambda _run: None)
    leg = SchedulerLeg(scheduler, lambda: None)
    leg.begin()
    scheduler.run_due(monotonic())
    assert leg.trouble() is None


# --- threads ---


class Loops:
    """Declared threads that do what the test says."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._threads: Threads | None = None

    def add(self, name: str, function: Callable[[Running], object], stuck_after: float | None = 5 * MS) -> None:
        self._records.append(Record("thread", name, function, stuck_after=stuck_after))

    def start(self) -> ThreadLeg:
        self._threads = Threads(self._records, lambda _reason: None)
        self._threads.start_all()
        return ThreadLeg(self._threads)

    def stop(self) -> None:
        assert self._threads is not None
        assert self._threads.stop_all(monotonic() + SOON) == []


@pytest.fixture
def loops() -> Iterator[Loops]:
    made = Loops()
    yield made
    made.stop()


def test_a_thread_that_does_not_ask_in_time_does_not_pass_until_it_does(loops: Loops) -> None:
    go = Event()

    def hang(running: Running) -> None:
        go.wait(SOON)
        while running():
            running.wait(SOON)

    loops.add("stuck", hang)
    loops.add("also", lambda _running: go.wait(SOON))
    loops.add("without a limit", lambda _running: go.wait(SOON), None)
    loops.add("patient", lambda _running: go.wait(SOON), 600.0)
    leg = loops.start()
    wait_for(lambda: "also" in str(leg.trouble()) and "stuck" in str(leg.trouble()), SOON)
    leg.begin()
    assert leg.trouble() == "'stuck', 'also' did not ask running() in time"
    go.set()
    assert passes(leg)


def test_threads_that_sleep_have_ended_or_wait_after_a_crash_pass(loops: Loops, caplog: Any) -> None:
    began, ended = Event(), Event()

    def sleep(running: Running) -> None:
        began.set()
        running.wait()

    def crash(_running: Running) -> None:
        raise ValueError("why")

    loops.add("sleeps", sleep)
    loops.add("ends", lambda _running: ended.set())
    loops.add("crashes", crash)
    leg = loops.start()
    assert began.wait(SOON)
    assert ended.wait(SOON)
    wait_for(lambda: "started again in" in caplog.text, SOON)
    threads = leg._threads
    wait_for(lambda: not threads.stuck(monotonic() + 3600), SOON)


# --- the event loop ---


@pytest.fixture
def shared_loop() -> Iterator[loop.LoopThread]:
    yield loop.shared()
    loop.end(SOON)


def test_without_an_event_loop_nothing_is_wrong() -> None:
    loop.end(SOON)
    leg = LoopLeg(5 * MS)
    leg.begin()
    assert leg.trouble() is None
    assert loop.existing() is None  # and none is made


def test_an_event_loop_that_answers_passes(shared_loop: loop.LoopThread) -> None:
    leg = LoopLeg(5 * MS)
    for _ in range(3):
        leg.begin()
        wait_for(lambda: leg._asked == 0.0, SOON)
        assert leg.trouble() is None
    assert shared_loop.unfinished == 0


def test_an_event_loop_that_a_coroutine_holds_up_does_not_pass(shared_loop: loop.LoopThread) -> None:
    began, go = Event(), Event()

    async def hold() -> None:
        began.set()
        go.wait(SOON)

    shared_loop.start(hold())
    assert began.wait(SOON)
    leg, patient, unlimited = LoopLeg(5 * MS), LoopLeg(600.0), LoopLeg(None)
    for each in (leg, patient, unlimited):
        each.begin()
    wait_for(lambda: leg.trouble() is not None, SOON)
    assert leg.trouble() == f"a coroutine holds it up for over {5 * MS:g} s"
    leg.begin()
    assert leg.trouble() is not None  # the limit does not begin anew with each round
    assert patient.trouble() is None
    assert unlimited.trouble() is None
    go.set()
    assert passes(leg)


# --- the path of a request ---


class FakeEngine:
    """What has been begun, and whether more waits."""

    def __init__(self) -> None:
        self.begun = 0
        self.waiting = False

    def works_off(self, begun: int) -> bool:
        return self.waiting and self.begun != begun


class FakeBus:
    """The bus as the leg sees it."""

    def __init__(self) -> None:
        self.connected = True
        self.hindrance: str | None = None
        self.full = False
        self.reconnections = 0
        self.heard = 0.0
        self.sought: bytes | None = None
        self.engine = FakeEngine()
        self.sent: list[bytes] = []

    def publish(self, channel: str, data: bytes) -> bool:
        assert channel == "svc"
        if not self.full:
            self.sent.append(data)
        return not self.full


class Path:
    """A leg, the bus that it publishes on, and a service that may answer; the clock is the test's."""

    def __init__(self, service: calls.Bench) -> None:
        self.bus = FakeBus()
        stand_in: Any = self.bus
        self.leg = BusLeg(stand_in, "svc")
        self.now = 1000.0
        self._service = service
        service.reserve(PROBE, self.leg.answer)
        service.open()

    def __call__(self) -> float:
        return self.now

    def begin(self) -> None:
        self.now += 0.001
        self.leg.begin()

    def deliver(self) -> None:
        """Redis delivers the probe to the service, and its answer to us."""
        self.hear()
        publisher = self._service.publisher
        for data in self.bus.sent:
            assert self._service.plan(data) is None  # it is dealt with on the spot
        self.bus.sent.clear()
        for channel, answer in publisher.sent:
            if channel == self.leg.channel:
                assert self.leg.plan_answer(None, channel, json.dumps(answer).encode()) is None  # type: ignore[func-returns-value]
        publisher.sent.clear()

    def hear(self) -> None:
        """Redis says something."""
        self.now += 0.001
        self.bus.heard = self.now


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Path:
    made = Path(calls.Bench())
    monkeypatch.setattr(watchdog, "monotonic", made)
    return made


UNANSWERED = "a request to this service is not answered, though Redis is there"


def test_a_probe_that_is_answered_passes(path: Path) -> None:
    for _ in range(3):
        path.begin()
        path.deliver()
        assert path.leg.trouble() is None
        path.hear()
        assert path.leg.trouble() is None


def test_a_probe_is_no_request_that_is_counted(path: Path) -> None:
    path.begin()
    path.deliver()
    counts = path._service.counts
    assert all(getattr(counts, name) == 0 for name in counts.__slots__)


def test_a_probe_that_is_not_answered_while_redis_speaks_does_not_pass(path: Path) -> None:
    path.begin()
    path.hear()
    assert path.leg.trouble() == UNANSWERED
    path.deliver()
    assert path.leg.trouble() is None


def test_a_probe_that_waits_behind_others_is_not_missed_while_they_are_worked_off(path: Path) -> None:
    engine = path.bus.engine
    path.begin()
    path.hear()
    engine.begun, engine.waiting = 1, True
    assert path.leg.trouble() == UNANSWERED, "it has not even arrived"
    path.bus.sought = None
    assert path.leg.trouble() is None
    engine.waiting = False
    assert path.leg.trouble() == UNANSWERED, "now it should have had its turn"
    path.begin()
    path.hear()
    path.bus.sought, engine.waiting = None, True
    assert path.leg.trouble() == UNANSWERED, "nobody takes what waits"


def test_an_answer_to_somebody_elses_probe_is_none(path: Path) -> None:
    path.begin()
    path.hear()
    path.leg.plan_answer(None, path.leg.channel, b'{"request_id":"somebody:1","final":true}')
    assert path.leg.trouble() == UNANSWERED


def test_an_answer_that_comes_when_it_is_asked_for_again_counts(path: Path) -> None:
    """A service that is slow lives."""
    path.begin()
    path.hear()
    answer = json.dumps({"request_id": json.loads(path.bus.sent[0])["request_id"]}).encode()
    path.begin()
    path.hear()
    assert path.leg.trouble() == UNANSWERED
    path.leg.plan_answer(None, path.leg.channel, answer)
    assert path.leg.trouble() is None


def test_only_ones_own_probes_are_answered(path: Path) -> None:
    """A shared service has several processes, and each gets the probes of all."""
    other = Path(calls.Bench())
    assert other.leg.channel != path.leg.channel
    other.begin()
    (probe,) = other.bus.sent
    assert path._service.plan(probe) is None
    assert path._service.publisher.sent == []
    assert other._service.plan(probe) is None
    ((channel, answer),) = other._service.publisher.sent
    assert (channel, answer["status"]) == (other.leg.channel, "success")


def test_a_redis_that_is_silent_for_a_moment_is_no_fault_of_ours(path: Path) -> None:
    """The bus finds that out, and reconnects."""
    path.begin()
    assert path.leg.trouble() is None
    path.now += SILENCE_LIMIT - 0.01
    assert path.leg.trouble() is None
    path.now += 0.02
    assert path.leg.trouble() == UNANSWERED


def test_the_time_of_silence_does_not_begin_anew_with_each_round(path: Path) -> None:
    """Redis may have forgotten our subscription, and answer the bus' own PING."""
    path.begin()
    path.deliver()
    assert path.leg.trouble() is None
    for _ in range(20):
        path.now += SILENCE_LIMIT / 10
        path.hear()
        path.begin()
        if path.leg.trouble() is not None:
            break
    assert path.leg.trouble() == UNANSWERED
    path.deliver()
    assert path.leg.trouble() is None


def test_silence_is_counted_from_the_first_probe_that_was_not_answered(path: Path) -> None:
    for _ in range(20):
        path.now += SILENCE_LIMIT
        path.begin()
        assert path.leg.trouble() is None  # it is looked at before the answer is there
        path.deliver()


def test_a_redis_that_is_away_is_no_fault_of_ours_while_it_is_looked_for(path: Path) -> None:
    path.bus.connected = False
    path.begin()
    assert path.bus.sent == []
    path.now += 3600
    assert path.leg.trouble() is None
    path.bus.hindrance = "Redis is away and nothing tries to have it back"
    assert path.leg.trouble() == path.bus.hindrance


def test_a_redis_that_went_and_came_takes_its_probe_along(path: Path) -> None:
    path.begin()
    path.bus.reconnections += 1
    path.hear()
    assert path.leg.trouble() is None
    path.now += 3600
    path.begin()
    assert path.leg.trouble() is None
    path.hear()
    assert path.leg.trouble() == UNANSWERED


def test_a_redis_that_was_away_has_its_time_again(path: Path) -> None:
    path.bus.connected = False
    path.begin()
    path.now += 3600
    path.bus.connected = True
    path.bus.reconnections += 1
    path.begin()
    assert path.leg.trouble() is None
    path.deliver()
    assert path.leg.trouble() is None


def test_a_probe_for_which_there_is_no_room_says_nothing(path: Path) -> None:
    """So much waits to be sent; the bus sees whether Redis takes it."""
    path.bus.full = True
    path.begin()
    path.hear()
    assert path.leg.trouble() is None
    path.now += 3600
    assert path.leg.trouble() is None
    path.bus.full = False
    path.begin()
    path.deliver()
    assert path.leg.trouble() is None
