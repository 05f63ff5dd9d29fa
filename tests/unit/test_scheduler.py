"""Background tasks: when they are started, with a clock that the test holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

import pytest

from daebus import loop
from daebus.registry import Record
from daebus.scheduler import Scheduler


class Bench:
    """A scheduler whose tasks run when the test says so."""

    def __init__(self, *tasks: tuple[str, float, Callable[[], object]]) -> None:
        self.begun: list[Callable[[], None]] = []
        before = monotonic()
        records = [Record("background", name, function, interval=interval) for name, interval, function in tasks]
        self.scheduler = Scheduler(records, self.begun.append)
        self.start = self.scheduler.tasks[0].due - records[0].interval if records else before
        assert before <= self.start <= monotonic()

    def at(self, seconds: float) -> float | None:
        """Let it be so many seconds after the start; return the seconds to the next look."""
        left = self.scheduler.run_due(self.start + seconds)
        return left if left is None else round(left, 3)

    def run(self) -> int:
        """Run what was begun; return how many."""
        begun, self.begun[:] = list(self.begun), []
        for function in begun:
            function()
        return len(begun)


def nothing() -> None:
    """A task."""


def test_the_first_run_is_one_interval_after_the_start() -> None:
    bench = Bench(("t", 5, nothing))
    assert bench.at(0) == 5
    assert bench.at(4.9) == 0.1
    assert bench.run() == 0
    assert bench.at(5) == 5
    assert bench.run() == 1


def test_a_late_look_does_not_move_the_beat() -> None:
    bench = Bench(("t", 5, nothing))
    assert bench.at(6) == 4
    assert bench.run() == 1


def test_missed_periods_are_skipped() -> None:
    bench = Bench(("t", 5, nothing))
    assert bench.at(1002) == 3
    assert bench.run() == 1
    assert bench.at(1004) == 1
    assert bench.run() == 0


def test_a_task_never_overlaps_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "daebus")
    bench = Bench(("t", 5, nothing))
    bench.at(5)
    bench.at(10)
    bench.at(15)
    assert len(bench.begun) == 1
    assert bench.scheduler.running == ["t"]
    (task,) = bench.scheduler.tasks
    assert (task.skipped, task.tally.runs) == (2, 0)
    assert caplog.messages == ["Background task 't' still runs; this turn is skipped"] * 2
    assert bench.run() == 1
    assert bench.scheduler.running == []
    bench.at(20)
    assert bench.run() == 1


def test_each_task_has_its_own_beat() -> None:
    order: list[str] = []
    bench = Bench(("slow", 3, lambda: order.append("slow")), ("quick", 2, lambda: order.append("quick")))
    assert bench.at(0) == 2
    for second in (1, 2, 3, 4, 5, 6):
        bench.at(second)
        bench.run()
    assert order == ["quick", "slow", "quick", "slow", "quick"]


def test_without_tasks_there_is_nothing_to_wait_for() -> None:
    assert Bench().at(5) is None


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_task_that_fails_keeps_its_schedule(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise kind("why")

    bench = Bench(("t\n<0>", 5, fail))
    for seconds in (5, 10):
        bench.at(seconds)
        assert bench.run() == 1
    (task,) = bench.scheduler.tasks
    assert (task.tally.runs, task.tally.errors, task.running) == (2, 2, False)
    assert [record.exc_info is not None for record in caplog.records] == [True], "alike, they are logged once a minute"
    assert all(message.isprintable() for message in caplog.messages)


def test_a_task_that_cannot_be_started_is_tried_again_at_its_next_turn(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_function: Callable[[], None]) -> None:
        raise RuntimeError("the system refuses a further thread")

    scheduler = Scheduler([Record("background", "t", nothing, interval=5)], refuse)
    for _ in range(2):
        scheduler.run_due(scheduler.tasks[0].due)
    assert scheduler.running == []
    assert caplog.messages == ["Background task 't' could not be started: the system refuses a further thread"] * 2


def test_an_async_task_runs_to_its_end() -> None:
    ran: list[str] = []

    async def task() -> None:
        ran.append("async")

    bench = Bench(("t", 5, task))
    bench.at(5)
    try:
        assert bench.run() == 1
    finally:
        loop.end(1.0)
    assert ran == ["async"]
    assert bench.scheduler.running == []


def test_a_task_is_overdue_when_nobody_has_started_it_for_so_long() -> None:
    bench = Bench(("slow", 10, nothing), ("quick", 5, nothing))
    at = bench.start
    assert bench.scheduler.overdue(at + 5.9, 1.0) is None
    assert bench.scheduler.overdue(at + 6.1, 1.0) == "quick"
    bench.at(6.1)
    assert bench.scheduler.overdue(at + 6.1, 1.0) is None
    assert bench.scheduler.rounds == 1


def test_a_task_that_still_runs_is_not_overdue() -> None:
    """Its turn was skipped, and that is known."""
    bench = Bench(("t", 5, nothing))
    bench.at(5)
    bench.at(10)
    assert bench.scheduler.running == ["t"]
    assert bench.scheduler.overdue(bench.start + 10.5, 1.0) is None
