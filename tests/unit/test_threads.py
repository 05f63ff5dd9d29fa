"""Long-running threads: started once, told to stop, started again when they crash, up to a point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Barrier, Event, Thread
from time import monotonic

import pytest

from daebus import loop, threads
from daebus.registry import Record
from daebus.threads import CRASHES, FIRST_PAUSE, LONGEST_PAUSE, Running, Threads
from tests.support import MS, wait_for

SOON = 5000 * MS


class Bench:
    """Threads, and what they say when they fail for good."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.failed = Event()
        self._records: list[Record] = []
        self._made: Threads | None = None

    def add(self, function: Callable[[Running], object], name: str = "loop", *, auto_start: bool = True) -> Bench:
        self._records.append(Record("thread", name, function, auto_start=auto_start))
        return self

    def _fail(self, reason: str) -> None:
        self.failures.append(reason)
        self.failed.set()

    @property
    def threads(self) -> Threads:
        if self._made is None:
            self._made = Threads(self._records, self._fail)
        return self._made


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    assert made.threads.stop_all(monotonic() + SOON) == []


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after a crash that a test can wait for."""
    monkeypatch.setattr(threads, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(threads, "LONGEST_PAUSE", 0.002)


class Loop:
    """A thread that runs until it is told to stop."""

    def __init__(self) -> None:
        self.runs = 0
        self.began, self.ended = Event(), Event()

    def __call__(self, running: Running) -> None:
        self.runs += 1
        self.began.set()
        while running():
            running.wait(SOON)
        self.ended.set()


def test_a_thread_runs_until_it_is_told_to_stop(bench: Bench) -> None:
    run = Loop()
    bench.add(run).threads.start_all()
    assert run.began.wait(SOON)
    assert bench.threads.stop("loop", SOON)
    assert run.ended.is_set()


def test_only_threads_that_start_by_themselves_start_with_the_service(bench: Bench) -> None:
    first, second = Loop(), Loop()
    bench.add(first, "first").add(second, "second", auto_start=False).threads.start_all()
    assert first.began.wait(SOON)
    assert not second.began.is_set()
    assert bench.threads.start("second")
    assert second.began.wait(SOON)


def test_a_thread_that_runs_is_not_started_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    run = Loop()
    bench.add(run).threads.start_all()
    assert not bench.threads.start("loop")
    assert caplog.messages == ["Thread 'loop' runs already"]
    assert bench.threads.stop("loop", SOON)
    assert run.runs == 1


def test_a_thread_that_many_start_at_once_runs_once(bench: Bench) -> None:
    go = Event()
    together = Barrier(8)
    started: list[bool] = []
    made = bench.add(lambda _running: go.wait(SOON)).threads

    def start() -> None:
        together.wait()
        started.append(made.start("loop"))

    starters = [Thread(target=start) for _ in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    go.set()
    assert sorted(started) == [False] * 7 + [True]


def test_a_thread_that_has_ended_can_be_started_again(bench: Bench) -> None:
    ran: list[int] = []
    bench.add(lambda _running: ran.append(1))
    for count in (1, 2):
        assert bench.threads.start("loop")
        wait_for(lambda count=count: len(ran) == count and bench.threads.stop("loop", SOON), SOON)  # type: ignore[misc]
    assert bench.failures == []


def test_a_stopped_thread_that_is_started_again_goes_on(bench: Bench) -> None:
    """The stop of its last run is not the stop of this one."""
    run = Loop()
    bench.add(run).threads.start_all()
    assert run.began.wait(SOON)
    assert bench.threads.stop("loop", SOON)
    run.began.clear()
    run.ended.clear()
    assert bench.threads.start("loop")
    assert run.began.wait(SOON)
    assert not run.ended.is_set()


def test_a_thread_that_does_not_listen_is_reported(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    go = Event()
    bench.add(lambda _running: go.wait(SOON), "deaf").threads.start_all()
    assert not bench.threads.stop("deaf", 0.001)
    assert caplog.messages == ["Thread 'deaf' was told to stop and has not ended within 0.001 s"]
    assert bench.threads.stop_all(monotonic()) == ["deaf"]
    go.set()


def test_a_thread_may_stop_itself_without_waiting_for_itself(bench: Bench) -> None:
    outcome: list[bool] = []
    done = Event()

    def run(_running: Running) -> None:
        outcome.append(bench.threads.stop("loop", SOON))
        done.set()

    bench.add(run).threads.start_all()
    assert done.wait(SOON)
    assert outcome == [False]


def test_a_thread_that_was_never_started_has_ended(bench: Bench) -> None:
    bench.add(Loop(), auto_start=False)
    assert bench.threads.stop("loop", 0)
    assert bench.threads.stop_all(monotonic()) == []


def test_a_thread_that_is_not_declared_is_an_error_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.add(Loop(), "one", auto_start=False).add(Loop(), "two", auto_start=False)
    assert not bench.threads.start("a\nb")
    assert not bench.threads.stop("a\nb", 0)
    assert caplog.messages == ["There is no thread 'a\\nb'; declared: 'one', 'two'"] * 2
    assert not Threads([], bench.failures.append).start("x")
    assert caplog.messages[-1] == "There is no thread 'x'; declared: none is"


def test_waiting_says_whether_to_go_on() -> None:
    stop = Event()
    running = Running(stop)
    assert running()
    assert running.wait(0)
    stop.set()
    assert not running()
    assert not running.wait(SOON)
    assert not running.wait()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_thread_that_crashes_is_started_again(
    bench: Bench, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []
    recovered = Event()

    def run(running: Running) -> None:
        runs.append(1)
        if len(runs) < CRASHES:
            raise kind
        recovered.set()
        running.wait(SOON)

    bench.add(run).threads.start_all()
    assert recovered.wait(SOON)
    assert bench.failures == []
    assert len(caplog.records) == CRASHES - 1
    assert all(record.exc_info is not None for record in caplog.records)
    assert caplog.messages[0] == "Thread 'loop' crashed; it is started again in 0.001 s"


@pytest.mark.usefixtures("brief")
def test_so_many_crashes_in_a_row_fail_the_service(bench: Bench) -> None:
    runs: list[int] = []

    def run(_running: Running) -> None:
        runs.append(1)
        raise ValueError

    bench.add(run).threads.start_all()
    assert bench.failed.wait(SOON)
    assert bench.failures == ["thread 'loop' crashed 5 times in a row"]
    assert len(runs) == CRASHES == 5


@pytest.mark.usefixtures("brief")
def test_crashes_after_a_steady_run_are_counted_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STEADY", -1.0)  # every run is steady
    runs: list[int] = []
    many = Event()

    def run(running: Running) -> None:
        runs.append(1)
        if len(runs) < 3 * CRASHES:
            raise ValueError
        many.set()
        running.wait(SOON)

    bench.add(run).threads.start_all()
    assert many.wait(SOON)
    assert bench.failures == []


def test_a_thread_that_waits_to_be_started_again_can_be_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE", 600.0)
    monkeypatch.setattr(threads, "LONGEST_PAUSE", 600.0)
    crashed = Event()

    def run(_running: Running) -> None:
        crashed.set()
        raise ValueError

    bench.add(run).threads.start_all()
    assert crashed.wait(SOON)
    assert bench.threads.stop("loop", SOON)


def test_the_pauses_are_long_enough_to_let_something_else_recover() -> None:
    assert 0 < FIRST_PAUSE < LONGEST_PAUSE <= 60


def test_all_are_told_before_any_is_waited_for(bench: Bench) -> None:
    loops = [Loop() for _ in range(5)]
    for number, each in enumerate(loops):
        bench.add(each, str(number))
    bench.threads.start_all()
    assert all(each.began.wait(SOON) for each in loops)
    bench.threads.tell_all()
    assert all(each.ended.wait(SOON) for each in loops)


def test_an_async_thread_runs_to_its_end(bench: Bench) -> None:
    ran = Event()

    async def run(_running: Running) -> None:
        ran.set()

    bench.add(run).threads.start_all()
    assert ran.wait(SOON)
    assert bench.threads.stop("loop", SOON)
    loop.end(1.0)
