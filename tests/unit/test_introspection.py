"""What is counted of handlers, and what a service says of itself, as far as no server is needed."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
import time
from bisect import bisect_left
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import DaebusHttp, request
from daebus.errors import BadMessage, Busy, ConfigurationError
from daebus.introspection import (
    ANSWER_LIMIT,
    TEXT_LIMIT,
    bounded,
    described,
    first_paragraph,
    memory_of_process,
    start_of_process,
    unit_of_cgroup,
)
from daebus.jsontext import dumps
from daebus.metrics import COUNTERS, GAUGES, LIMITS, PROCESS, render
from daebus.registry import Record
from daebus.tally import BOUNDS, EVERY, OFTEN, Taken, Tally
from daebus.work import Work
from daebus.wscalls import Handler, Turn
from tests.calls import Bench, message
from tests.prometheus import Parsed

# --- the tally ---

TIMES = st.lists(st.floats(1e-6, 1000), min_size=1, max_size=500)


def tally_of(times: list[float]) -> Tally:
    tally = Tally()
    for seconds in times:
        tally.ran(seconds)
    return tally


@given(TIMES, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_percentiles_are_those_of_a_sorted_list_within_a_tenth(times: list[float], share: float) -> None:
    taken = tally_of(times).taken()
    rank = max(1, -int(-share * len(times) // 1))
    exact = sorted(times)[rank - 1]
    assert exact * 0.9 <= taken.percentile(share) <= exact * 1.1
    assert taken.calls == len(times)
    assert taken.longest == max(times)
    assert taken.seconds == pytest.approx(sum(times))


@given(TIMES)
def test_each_run_is_in_the_bucket_that_takes_it(times: list[float]) -> None:
    buckets = tally_of(times).taken().buckets
    assert [bound for bound, _count in buckets] == sorted({bound for bound, _count in buckets})
    for bound, _count in buckets:
        assert sum(count for other, count in buckets if other <= bound) == sum(one <= bound for one in times)


def test_what_is_too_short_or_too_long_for_a_bound_is_counted_too() -> None:
    taken = tally_of([0.0, 1e-9, 5000.0, 1e6]).taken()
    assert taken.buckets == [(BOUNDS[0], 2), (1e6, 2)]
    assert taken.percentile(0.25) <= BOUNDS[0]
    assert taken.percentile(1) == pytest.approx(1e6, rel=0.1)


def test_nothing_that_ran_takes_no_time() -> None:
    taken = Tally().taken()
    assert (taken.calls, taken.buckets, taken.longest, taken.seconds) == (0, [], 0.0, 0.0)
    assert taken.percentile(0.5) == 0.0


def hot(tally: Tally, seconds: float, slow: bool = False) -> None:
    """Count a run as the dispatcher does, and the engine before that if it is slow."""
    if slow:
        tally.next_timed = 0
    tally.runs += 1
    if tally.runs >= tally.next_timed:
        tally.took(seconds, slow=slow)


@pytest.mark.parametrize("runs", [OFTEN - 1, OFTEN, OFTEN + 1, OFTEN + EVERY, 3 * OFTEN + 7])
def test_every_run_is_counted_also_if_it_is_not_timed(runs: int) -> None:
    tally = Tally()
    for _ in range(runs):
        hot(tally, 1e-5)
    assert tally.taken().calls == runs


@pytest.mark.parametrize("period", [2, 3, 4, 64, 128])
def test_what_comes_in_step_is_counted_as_often_as_it_comes(period: int) -> None:
    tally = Tally()
    runs = 200 * OFTEN
    for number in range(runs):
        hot(tally, 1e-3 if number % period else 1e-5)
    short = sum(count for bound, count in tally.taken().buckets if bound < 1e-4)
    assert short == pytest.approx(runs / period, rel=0.5)
    assert tally.taken().seconds == pytest.approx(runs * 1e-3 * (1 - 1 / period), rel=0.2)


def test_slow_runs_are_always_timed() -> None:
    tally = Tally()
    for _ in range(100 * OFTEN):
        hot(tally, 1e-5)
    for _ in range(EVERY - 1):
        hot(tally, 3.0, slow=True)
    taken = tally.taken()
    assert taken.longest == 3.0
    assert taken.buckets[-1][1] == EVERY - 1
    assert taken.calls == 100 * OFTEN + EVERY - 1
    assert taken.percentile(0.99) == pytest.approx(1e-5, rel=0.1)


def test_no_thread_loses_another_ones_runs() -> None:
    tally = Tally()
    tally.ran(1.0)
    runs, threads = 20_000, 4

    def count() -> None:
        for _ in range(runs):
            tally.ran(1.0)
            tally.failed()

    workers = [threading.Thread(target=count) for _ in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        tally.taken()
    assert tally._buckets[bisect_left(BOUNDS, 1.0)] == tally.runs == runs * threads + 1
    assert tally.errors == runs * threads


def test_the_clients_of_a_websocket_are_counted_together() -> None:
    handler = Handler(Record("socket", "echo", lambda data: data))
    for _client in range(2):
        Turn(handler).tally.ran(1.0)
    assert (handler.work.kind, handler.work.tally.taken().calls) == ("socket", 2)


# --- what counts as a run ---


def runs_of(bench: Bench) -> tuple[int, int]:
    taken = bench.dispatcher.actions["act"].tally.taken()
    return taken.calls, taken.errors


def test_a_run_is_counted_whatever_becomes_of_it() -> None:
    def act() -> Any:
        if request.payload == "raise":
            raise ValueError
        if request.payload == "exit":
            raise SystemExit
        if request.payload == "refuse":
            raise BadMessage("no")
        return iter_of_two() if request.payload == "yield" else request.payload

    def iter_of_two() -> Any:
        yield 1
        return 2

    bench = Bench().action(act)
    counted = []
    for payload in ("return", "raise", "exit", "refuse", "yield"):
        bench.handle(message(payload))
        counted.append(runs_of(bench))
    assert counted == [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2)]
    failure = bench.dispatcher.last_error
    assert failure is not None
    assert (failure.kind, failure.name, failure.type) == ("action", "act", "SystemExit")


def test_what_did_not_run_is_no_run() -> None:
    bench = Bench().action(lambda: 1)
    bench.handle(message(v=1, deadline=time.monotonic() - 1, timeout=1, clock="clock"))
    bench.open()
    bench.plan(message()).refuse(Busy("later"))
    assert (runs_of(bench), bench.counts.expired, bench.counts.refused) == ((0, 0), 1, 1)


def test_a_coroutine_is_a_run_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> int:
        return 1

    bench = Bench().action(act)
    bench.open()
    assert bench.plan(message()).run() is False
    assert runs_of(bench) == (0, 0)
    asyncio.run(bench.started.pop())
    assert runs_of(bench) == (1, 0)
    monkeypatch.setattr("daebus.dispatch.COROUTINE_LIMIT", 0)
    bench.handle(message())
    assert (runs_of(bench), bench.counts.refused) == ((1, 0), 1)


# --- what is told of a declaration ---


def documented() -> None:
    """Do   one
    thing.

    And more.
    """


class Called:
    """Not what it does."""

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "doc"),
    [
        (documented, "Do one thing."),
        (functools.partial(documented), "Do one thing."),
        (lambda: None, None),
        (Called(), None),
        (print, None),
    ],
)
def test_the_first_paragraph_of_a_docstring_is_told(function: Any, doc: str | None) -> None:
    assert first_paragraph(function) == (None if doc is None else "Do one thing.")


def test_a_long_docstring_is_cut() -> None:
    def long() -> None: ...

    long.__doc__ = "x" * 100_000
    assert first_paragraph(long) == "x" * TEXT_LIMIT + "..."
    long.__doc__ = "  \n\n "
    assert first_paragraph(long) is None


def test_each_kind_is_told_with_what_it_has() -> None:
    place = f"{__file__}:{documented.__code__.co_firstlineno}"
    common = {"doc": "Do one thing.", "place": place}
    schema = {"input": None, "returns": "None"}
    assert described(Record("action", "a", documented)) == {"name": "a", **common, **schema}
    assert described(Record("route", "GET /a b", documented)) == {
        "name": "GET /a b", "method": "GET", "path": "/a b", **common, **schema,
    }  # fmt: skip
    task = Record("background", "t", documented, interval=2.0)
    assert described(task) == {"name": "t", "interval": 2.0, **common}
    thread = Record("thread", "t", documented, auto_start=False)
    assert described(thread, ["t"]) == {"name": "t", "auto_start": False, "running": True, **common}
    assert described(thread, ["u"])["running"] is False
    folder = Record("static", "/f", documented, subject={"place": "x.py:1"})
    assert described(folder) == {"path": "/f", "place": "x.py:1"}


@pytest.mark.parametrize(
    ("field", "left"), [("input", {"doc": "d", "name": "n"}), ("doc", {"doc": None, "name": "n"}), ("name", None)]
)
def test_an_answer_that_is_too_large_loses_the_least_needful(field: str, left: dict[str, Any] | None) -> None:
    record = {"name": "n", "doc": "d", "input": {}, "returns": "int"}
    record[field] = "x" * ANSWER_LIMIT
    answer = bounded({"service": "s", "actions": [record]}, [[record]])
    if left is None:
        assert len(dumps(answer)) > ANSWER_LIMIT  # nothing is left to leave out; then it is not sent
    else:
        assert answer == {"service": "s", "actions": [{"input": None, "returns": None, **left}]}


def test_an_answer_that_fits_stays_as_it_is() -> None:
    record = {"name": "n", "doc": "d", "input": {}, "returns": "int"}
    assert bounded({"actions": [record]}, [[record]]) == {"actions": [{**record}]}
    assert record["returns"] == "int"


# --- the process ---


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/lamp.service\n", "lamp.service"),
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/lamp.service\n", "lamp.service"),
        ("0::/system.slice/system-daebus.slice/daebus@lamp.service/sub\n", "daebus@lamp.service"),
        ("12:pids:/a\n1:name=systemd:/system.slice/lamp.service\n0::/\n", "lamp.service"),
        ("0::/user.slice/session-1.scope\n", None),
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/vte-spawn-1.scope\n", None),
        ("", None),
    ],
)
def test_the_unit_is_the_last_service_of_the_control_group(text: str, unit: str | None) -> None:
    assert unit_of_cgroup(text) == unit


def test_the_start_of_this_process_is_told() -> None:
    started = start_of_process(Path("/proc/self/stat").read_text(encoding="utf-8"))
    assert started is not None
    assert 0 < time.time() - started < 86400 * 30
    assert start_of_process("1 (a b) c) S 1") is None


def test_memory_where_there_is_none_is_zero() -> None:
    assert memory_of_process("") == (0, 0)
    virtual, resident = memory_of_process("10 2 0 0 0 0 0")
    assert virtual == 5 * resident > 0


# --- the text for Prometheus ---

NUMBERS = dict.fromkeys([*COUNTERS, *GAUGES], 3.0)
FACTS = dict.fromkeys(PROCESS, 1.5)


def test_every_number_has_its_line() -> None:
    parsed = Parsed(render({"service": "s", "version": "1"}, NUMBERS, FACTS, []))
    assert parsed.of("daebus_service_info", service="s", version="1") == 1
    assert {parsed.of(f"daebus_{name}_total") for name in COUNTERS} == {3.0}
    assert {parsed.of(f"daebus_{name}") for name in GAUGES} == {3.0}
    assert {parsed.of(name) for name in PROCESS} == {1.5}


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_name_can_be_a_label(first: str, second: str) -> None:
    taken = Taken([], 0.0, 0.0, 7)
    handlers = [("action", first, taken), ("socket", second, taken)]
    parsed = Parsed(render({"service": "s"}, NUMBERS, {}, handlers))
    if not re.search("[\ud800-\udfff]", first):
        assert parsed.of("daebus_handler_errors_total", kind="action", name=first) == 7


def test_a_name_that_is_no_text_spoils_nothing() -> None:
    assert b'name="?"' in render({}, NUMBERS, {}, [("action", "\ud800", Taken([], 0.0, 0.0, 0))])


@given(TIMES)
def test_the_histogram_counts_what_took_at_most_so_long(times: list[float]) -> None:
    parsed = Parsed(render({}, NUMBERS, {}, [("action", "a", tally_of(times).taken())]))
    labels = {"kind": "action", "name": "a"}
    for limit in LIMITS:
        counted = parsed.of("daebus_handler_duration_seconds_bucket", le=f"{limit:.12g}", **labels)
        assert counted == sum(one <= limit for one in times)
    assert parsed.of("daebus_handler_duration_seconds_count", **labels) == len(times)
    assert parsed.of("daebus_handler_duration_seconds_sum", **labels) == pytest.approx(sum(times))


def test_the_bounds_for_prometheus_are_among_ours() -> None:
    assert set(LIMITS) <= set(BOUNDS)


@pytest.mark.parametrize(("given_", "path"), [(False, None), (True, "/metrics"), ("/-/numbers", "/-/numbers")])
def test_metrics_are_served_where_one_says(given_: bool | str, path: str | None) -> None:
    assert DaebusHttp(metrics=given_).metrics == path


@pytest.mark.parametrize("wrong", ["metrics", "", 1, None, "/<name>", "/a?b", b"/metrics"])
def test_what_is_no_path_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="metrics must be True, False or a path such as '/metrics'"):
        DaebusHttp(metrics=wrong)


def test_a_handler_that_never_ran_takes_little_memory() -> None:
    tally = Work(Record("action", "a", documented)).tally
    assert tally._buckets == []
