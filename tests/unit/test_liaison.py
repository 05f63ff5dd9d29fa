"""What systemd is told in the course of a service's life, with a real socket in its place and a clock of the test's."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from itertools import count
from threading import Event, Thread, settrace
from time import monotonic_ns
from types import FrameType
from typing import Any

import pytest

from daebus import liaison as liaison_module
from daebus import loop
from daebus.dispatch import Counts
from daebus.liaison import EXTEND_EVERY, STATUS_PERIOD, WAIT_LIMIT, Liaison, Reload, sentence
from daebus.registry import Record
from daebus.systemd import Notifier
from tests.support import MS, NotifySocket

SOON = 5000 * MS


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(liaison_module, "monotonic", made)
    return made


class Bench:
    """A liaison to a systemd that the test plays, and the status of a service that the test is."""

    def __init__(self, systemd: NotifySocket | None) -> None:
        self.notifier = Notifier()
        self.status = "Serving"
        self.composed = 0
        self.liaison = Liaison(self.notifier, self._compose)
        self._systemd = systemd
        self._seen = 0

    def _compose(self) -> str:
        self.composed += 1
        return self.status

    def said(self) -> list[str]:
        """What systemd has heard since the last look."""
        lines = self._systemd.lines() if self._systemd is not None else []
        new, self._seen = lines[self._seen :], len(lines)
        return new

    def close(self) -> None:
        """sdnotify leaves that to the end of the process."""
        inner = self.notifier._notifier
        if inner is not None:
            inner.socket.close()


@pytest.fixture
def bench(notify_socket: NotifySocket, clock: Clock) -> Iterator[Bench]:
    assert clock.now == 1000.0
    made = Bench(notify_socket)
    yield made
    made.close()


# --- in words ---


def counts(**numbers: int) -> dict[str, int]:
    return {**dict.fromkeys(Counts.__slots__, 0), **numbers}


@pytest.mark.parametrize(
    ("numbers", "connected", "said"),
    [
        ({}, True, "waiting for the first request; Redis at unix:/s connected"),
        ({"received": 12345}, True, "12,345 requests and messages; Redis at unix:/s connected"),
        (
            {"received": 5, "failed": 1, "unknown": 2000, "dropped": 3},
            False,
            "5 requests and messages, 1 failed, 2,000 unknown, 3 dropped; Redis at unix:/s away, reconnecting",
        ),
    ],
    ids=["idle", "well", "troubled"],
)
def test_a_status_is_a_sentence(numbers: dict[str, int], connected: bool, said: str) -> None:
    text = sentence(counts(**numbers), "unix:/s", connected=connected, busy=1, workers=10)
    assert text == f"Serving: {said}; 1 of 10 workers busy"


# --- the start ---


def test_a_start_that_waits_for_redis_asks_for_more_time_now_and_then(bench: Bench, clock: Clock) -> None:
    asks = ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=Waiting for Redis at unix:/s"]
    assert bench.liaison.wait_for_redis("unix:/s", clock.now) == EXTEND_EVERY
    assert bench.said() == asks
    assert bench.liaison.wait_for_redis("unix:/s", clock.now + EXTEND_EVERY - 0.1) == EXTEND_EVERY
    assert bench.said() == []
    assert bench.liaison.wait_for_redis("unix:/s", clock.now + EXTEND_EVERY) == EXTEND_EVERY
    assert bench.said() == asks


def test_a_start_right_after_the_machines_own_asks_too(notify_socket: NotifySocket, clock: Clock) -> None:
    """The clock is the machine's, and begins with it."""
    clock.now = 2.0
    bench = Bench(notify_socket)
    bench.liaison.wait_for_redis("unix:/s", clock.now)
    assert bench.said()
    bench.close()


def test_a_start_does_not_ask_for_ever(bench: Bench, clock: Clock) -> None:
    """Then TimeoutStartSec= ends it, and Restart= begins anew."""
    assert bench.liaison.wait_for_redis("unix:/s", clock.now + WAIT_LIMIT) == EXTEND_EVERY
    assert bench.said()
    assert bench.liaison.wait_for_redis("unix:/s", clock.now + WAIT_LIMIT + 1) is None
    assert bench.said() == []


class Dog:
    """A watchdog that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def drain(self) -> None:
        self.told.append("drain")

    def stop(self) -> None:
        self.told.append("stop")


def test_ready_is_said_with_the_status_and_the_watchdog_begins(bench: Bench) -> None:
    dog: Any = Dog()
    bench.liaison.watchdog = dog
    bench.liaison.ready()
    assert bench.said() == ["READY=1", "STATUS=Serving"]
    assert dog.told == ["start"]
    bench.liaison.drains()
    bench.liaison.ends()
    assert dog.told == ["start", "drain", "stop"]


# --- serving ---


def test_counts_are_said_only_so_often(bench: Bench, clock: Clock) -> None:
    bench.liaison.ready()
    bench.said()
    assert bench.liaison.look(clock.now, 0) is None
    bench.status = "one"
    assert bench.liaison.look(clock.now + 1, 1) == pytest.approx(STATUS_PERIOD - 1)
    assert bench.said() == []
    assert bench.liaison.look(clock.now + STATUS_PERIOD, 1) is None
    assert bench.said() == ["STATUS=one"]
    bench.status = "two"
    assert bench.liaison.look(clock.now + STATUS_PERIOD + 0.1, 2) == pytest.approx(STATUS_PERIOD - 0.1)
    assert bench.said() == []


def test_a_change_is_said_at_once(bench: Bench, clock: Clock) -> None:
    bench.liaison.ready()
    bench.said()
    bench.status = "Redis is away"
    assert bench.liaison.look(clock.now + 0.1, 0) is None
    assert bench.said() == []
    bench.liaison.changed()
    assert bench.liaison.look(clock.now + 0.1, 0) is None
    assert bench.said() == ["STATUS=Redis is away"]
    assert bench.liaison.look(clock.now + 0.2, 0) is None
    assert bench.said() == []


def test_what_has_not_changed_is_not_said(bench: Bench, clock: Clock) -> None:
    bench.liaison.ready()
    bench.said()
    bench.liaison.changed()
    bench.liaison.look(clock.now + STATUS_PERIOD, 5)
    assert bench.said() == []


def test_an_idle_service_composes_nothing(bench: Bench, clock: Clock) -> None:
    bench.liaison.ready()
    before = bench.composed
    for second in range(100):
        assert bench.liaison.look(clock.now + second, 0) is None
    assert bench.composed == before


def test_trouble_is_said_until_it_is_over(bench: Bench, clock: Clock) -> None:
    bench.liaison.ready()
    bench.said()
    bench.liaison.troubled("bus: no answer")
    assert bench.said() == ["STATUS=Not well: bus: no answer"]
    bench.liaison.changed()
    bench.liaison.look(clock.now + STATUS_PERIOD, 5)
    assert bench.said() == []
    bench.liaison.troubled(None)
    assert bench.said() == ["STATUS=Serving"]


def test_a_reload_is_told_with_its_time_in_one_datagram(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd takes a reload for the one that it has asked for by its time (systemd.service(5))."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(bench.notifier, "tell", lambda *states: told.append(states))
    before = monotonic_ns() // 1000
    bench.liaison.reloading()
    ((reloading, stamp, status),) = told
    assert (reloading, status) == ("RELOADING=1", "STATUS=Reloading")
    name, _, number = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(number) <= monotonic_ns() // 1000
    bench.liaison.reloaded()
    assert told[1] == ("READY=1", "STATUS=Serving")


# --- the end ---


def test_a_stop_asks_for_the_time_that_it_takes(bench: Bench) -> None:
    bench.liaison.drains()
    assert bench.said() == [
        "STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000", "STATUS=Stopping: finishing what was taken",
    ]  # fmt: skip
    bench.liaison.ends()
    assert bench.said() == ["STOPPING=1"]


def test_after_the_stop_has_begun_nothing_says_otherwise(bench: Bench, clock: Clock) -> None:
    """A reload that ends then, or the watchdog."""
    bench.liaison.ready()
    bench.liaison.drains()
    bench.said()
    bench.status = "other"
    bench.liaison.reloading()
    bench.liaison.reloaded()
    bench.liaison.troubled("bus: no answer")
    bench.liaison.troubled(None)
    bench.liaison.changed()
    bench.liaison.look(clock.now + STATUS_PERIOD, 5)
    assert bench.said() == []


def test_the_environment_is_given_back_at_the_end(bench: Bench, notify_socket: NotifySocket) -> None:
    bench.notifier.take_environment()
    assert "NOTIFY_SOCKET" not in os.environ
    bench.liaison.ends()
    assert os.environ["NOTIFY_SOCKET"] == notify_socket.path


def test_without_systemd_nothing_is_done(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    bench = Bench(None)
    assert bench.liaison.wait_for_redis("unix:/s", clock.now) is None
    bench.liaison.ready()
    bench.composed = 0
    bench.liaison.changed()
    assert bench.liaison.look(clock.now + STATUS_PERIOD, 5) is None
    assert bench.composed == 0
    bench.liaison.drains()
    bench.liaison.ends()


# --- reloads ---


class Hall:
    """Reloads on threads of their own, and what was said of them."""

    def __init__(self, *functions: Callable[[], object]) -> None:
        self.told: list[str] = []
        self.threads: list[Thread] = []
        self.refuses = False
        stand_in: Any = self
        records = [Record("on_reload", "", function) for function in functions]
        self.reload = Reload(records, stand_in, self._start)

    def reloading(self) -> None:
        self.told.append("reloading")

    def reloaded(self) -> None:
        self.told.append("reloaded")

    def _start(self, function: Callable[[], None]) -> None:
        if self.refuses:
            raise RuntimeError("the system refuses a further thread")
        thread = Thread(target=function)
        thread.start()
        self.threads.append(thread)

    def settle(self) -> list[str]:
        for thread in self.threads:
            thread.join(SOON)
            assert not thread.is_alive()
        return self.told


class Stall:
    """A function that runs until it is let go, each time."""

    def __init__(self) -> None:
        self.began, self.go = Event(), Event()
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1
        self.began.set()
        assert self.go.wait(SOON)


def test_the_functions_run_in_order_and_ready_follows(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "daebus")
    ran: list[int] = []
    hall = Hall(lambda: ran.append(1), lambda: ran.append(2))
    hall.reload.begin()
    assert hall.settle() == ["reloading", "reloaded"]
    assert ran == [1, 2]
    assert [text.startswith("Reloaded (") for text in caplog.messages] == [True, True]


def test_where_there_is_nothing_to_reload_systemd_does_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "daebus")
    hall = Hall()
    hall.reload.begin()
    assert hall.settle() == ["reloading", "reloaded"]
    assert caplog.messages == ["SIGHUP: there is nothing to reload"]


def test_one_reload_at_a_time_and_another_one_if_asked_meanwhile() -> None:
    stall = Stall()
    hall = Hall(stall)
    hall.reload.begin()
    assert stall.began.wait(SOON)
    for _ in range(3):
        hall.reload.begin()
    assert (stall.runs, len(hall.threads)) == (1, 1)
    stall.go.set()
    hall.settle()
    assert stall.runs == 2


def test_systemd_hears_of_each_reload_that_it_asks_for() -> None:
    """It waits for a time after its own signal, and takes no other for the answer."""
    stall = Stall()
    hall = Hall(stall)
    hall.reload.begin()
    assert stall.began.wait(SOON)
    hall.reload.begin()
    assert hall.told == ["reloading", "reloading"]
    stall.go.set()
    assert hall.settle() == ["reloading", "reloading", "reloaded"]


def test_a_reload_after_the_first_is_another_one() -> None:
    ran: list[int] = []
    hall = Hall(lambda: ran.append(1))
    for _ in range(3):
        hall.reload.begin()
        hall.settle()
    assert hall.told == ["reloading", "reloaded"] * 3
    assert ran == [1, 1, 1]


class Interrupted:
    """A reload during which another one is asked for: when the thread that runs it is at its `line`-th line."""

    def __init__(self, line: int) -> None:
        self._line = line
        self._hall = Hall(self._note)
        self._asker = Thread(target=self._ask)
        self._asked = 0
        self._seen = 0
        self._lines = 0

    def _note(self) -> None:
        self._seen = self._asked

    def _ask(self) -> None:
        self._asked += 1
        self._hall.reload.begin()

    def _trace(self, frame: FrameType, event: str, _value: object) -> Any:
        if frame.f_code.co_filename != liaison_module.__file__:
            return None
        self._lines += event == "line"
        if self._lines == self._line and self._asker.ident is None:
            self._asker.start()
            self._asker.join(20 * MS)  # longer, if it waits for this one
        return self._trace

    def run(self) -> bool:
        """False if there are not so many lines."""
        settrace(self._trace)
        try:
            self._ask()
            self._hall.settle()
        finally:
            settrace(None)
        if self._asker.ident is None:
            return False
        self._asker.join(SOON)
        assert self._hall.settle()[-1] == "reloaded"
        assert self._seen == self._asked == 2, f"lost at line {self._line}"
        return True


def test_no_reload_is_lost_whenever_it_is_asked_for() -> None:
    """Not even one that is asked for as the last one ends."""
    lines = next(line for line in count(1) if not Interrupted(line).run())
    assert lines > 10


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_function_that_fails_is_logged_and_the_others_run(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    def fail() -> None:
        raise kind("why\n<0>")

    hall = Hall(fail, lambda: ran.append(1))
    hall.reload.begin()
    assert hall.settle() == ["reloading", "reloaded"]
    assert ran == [1]
    (entry,) = (each for each in caplog.records if each.levelno == logging.ERROR)
    assert entry.exc_info is not None
    assert entry.getMessage().endswith("failed, and the service goes on as it was: why\\n<0>")
    hall.reload.begin()
    hall.settle()
    assert ran == [1, 1]


def test_a_reload_that_cannot_be_started_is_said_to_be_over(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []
    hall = Hall(lambda: ran.append(1))
    hall.refuses = True
    hall.reload.begin()
    assert hall.told == ["reloading", "reloaded"]
    assert caplog.messages == ["The reload could not be started: the system refuses a further thread"]
    hall.refuses = False
    hall.reload.begin()
    hall.settle()
    assert ran == [1]


def test_an_async_function_runs_to_its_end() -> None:
    ran: list[int] = []

    async def reload() -> None:
        ran.append(1)

    hall = Hall(reload)
    hall.reload.begin()
    assert hall.settle() == ["reloading", "reloaded"]
    loop.end(1.0)
    assert ran == [1]
