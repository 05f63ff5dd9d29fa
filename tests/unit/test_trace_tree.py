"""The tree that `daebus trace` makes of journal entries, as journalctl prints them."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

pytest.importorskip("click")

from daebus.cli.journal import entry_of, name_in, number_in, text_in, time_of
from daebus.cli.logs import lines_for, matches
from daebus.cli.tree import DEEPEST, Span, described, shown, trace_of, traces_in

BOOT = "b" * 32


def entry(service: str, request_id: str, *, at: float = 0.0, ms: float = 0.0, **fields: object) -> dict[str, Any]:
    """An entry that was logged `at` milliseconds after the trace began, `ms` into its call."""
    name = fields.pop("action", "act")
    found: dict[str, Any] = {
        "DAEBUS_SERVICE": service,
        "DAEBUS_REQUEST_ID": request_id,
        "DAEBUS_ACTION": name,
        "DAEBUS_TRACE": "t",
        "DAEBUS_MS": f"{ms:.3f}",
        "MESSAGE": "text",
        "PRIORITY": "6",
        "_PID": "7",
        "_BOOT_ID": BOOT,
        "__MONOTONIC_TIMESTAMP": str(int(5e6 + at * 1000)),
        "__REALTIME_TIMESTAMP": str(int(1.7e15 + at * 1000)),
    }
    return {**found, **{key.upper() if key[0] != "_" else key: value for key, value in fields.items()}}


def ended(service: str, request_id: str, began: float, took: float, **fields: object) -> dict[str, Any]:
    """What a call of a wanted trace leaves at its end. The journal takes it later than that."""
    exact = f"{5 + began / 1000:.6f}"
    fields = {"daebus_began": exact, "daebus_outcome": "ok", "priority": "7", **fields}
    return entry(service, request_id, at=began + took + 3, ms=took, **fields)


def tree(*entries: dict[str, Any]) -> list[Any]:
    """The tree by request ids, whatever order the entries come in."""
    shuffled = list(entries)
    random.Random(len(entries)).shuffle(shuffled)
    return [names(root) for root in trace_of("t", shuffled).roots]


def names(span: Span) -> Any:
    return [span.request_id, *map(names, span.children)] if span.children else span.request_id


def test_a_call_stands_below_the_one_that_it_names() -> None:
    assert tree(
        ended("panel", "http-1", 0, 20, daebus_caller="127.0.0.1:5"),
        ended("stock", "s", 1, 15, daebus_parent="http-1", daebus_caller="panel"),
        ended("ledger", "l1", 2, 3, daebus_parent="s", daebus_caller="stock"),
        ended("ledger", "l2", 6, 3, daebus_parent="s", daebus_caller="stock"),
    ) == [["http-1", ["s", "l1", "l2"]]]


def test_two_services_may_use_the_same_id() -> None:
    """Over HTTP each counts by itself."""
    assert tree(
        ended("a", "http-1", 0, 20),
        ended("b", "http-1", 1, 10, daebus_parent="x" * 16),
        ended("c", "below-b", 2, 1, daebus_parent="http-1", daebus_caller="b"),
        ended("c", "below-a", 12, 1, daebus_parent="http-1", daebus_caller="a"),
    ) == [["http-1", "below-a"], ["http-1", "below-b"]]


def test_messages_of_one_workflow_have_one_id() -> None:
    assert tree(
        ended("net", "w", 0, 5),
        ended("net", "w", 10, 5),
        ended("wifi", "first", 1, 1, daebus_parent="w", daebus_caller="net"),
        ended("wifi", "second", 11, 1, daebus_parent="w", daebus_caller="net"),
    ) == [["w", "first"], ["w", "second"]]


def test_without_a_name_it_is_the_callers_call_that_was_under_way() -> None:
    """Of a trace that nobody asked for there are only log lines and errors."""
    assert tree(
        entry("panel", "http-1", at=1, ms=1),
        entry("panel", "http-1", at=20, ms=20),
        entry("stock", "s", at=5, ms=1, daebus_caller="panel"),
        entry("other", "o", at=25, ms=1, daebus_caller="panel"),
        entry("third", "x", at=6, ms=1, daebus_caller="3f0c-nobody"),
    ) == [["http-1", "s"], "x", "o"]


def test_lines_stand_in_their_call_in_the_order_of_their_writing() -> None:
    """The journal may take them in another one."""
    trace = trace_of(
        "t",
        [
            ended("a", "1", 0, 20),
            entry("a", "1", at=30, ms=2, message="first"),
            entry("a", "1", at=29, ms=9, message="second"),
            ended("b", "2", 5, 1, daebus_parent="1", daebus_caller="a"),
        ],
    )
    (root,) = trace.roots
    assert [(line.text, round(line.at * 1000)) for line in root.lines] == [("first", 2), ("second", 9)]
    assert (root.began, round((root.ended - root.began) * 1000)) == (0, 20)
    text = "\n".join(shown(trace, False))
    assert text.index("first") < text.index("b act") < text.index("second")


def test_an_error_ends_a_call_that_left_nothing_else() -> None:
    (root,) = trace_of("t", [entry("a", "1", at=7, ms=7, daebus_error_id="e" * 12, priority="3")]).roots
    assert (root.outcome, root.failed, round((root.ended - root.began) * 1000)) == ("failed", True, 7)
    (root,) = trace_of("t", [entry("a", "1", at=7, ms=7)]).roots
    assert (root.outcome, root.failed) == ("", False)
    assert described(trace_of("t", [entry("a", "1", at=7, ms=7)]))["calls"][0]["took_ms"] is None


@pytest.mark.parametrize(("outcome", "failed"), [("ok", False), ("204", False), ("404", True), ("busy", True)])
def test_an_outcome_is_good_or_not(outcome: str, failed: bool) -> None:
    (root,) = trace_of("t", [ended("a", "1", 0, 1, daebus_outcome=outcome)]).roots
    assert root.failed is failed


def test_entries_of_several_machines_go_by_the_clock_on_the_wall() -> None:
    there = {"_BOOT_ID": "c" * 32, "__MONOTONIC_TIMESTAMP": "999000000"}
    trace = trace_of(
        "t",
        [
            ended("a", "1", 0, 20),
            {**ended("b", "2", 5, 1, daebus_parent="1", daebus_caller="a", daebus_began="999.0"), **there},
        ],
    )
    (root,) = trace.roots
    (child,) = root.children
    assert round((child.began - root.began) * 1000) == 5
    assert 1.7e9 <= trace.began <= 1.7e9 + 1


def test_entries_that_name_each_other_end_somewhere() -> None:
    """Any program can write entries."""
    assert tree(ended("a", "1", 0, 9, daebus_parent="2"), ended("a", "2", 0, 9, daebus_parent="1")) in (
        [["1", "2"]],
        [["2", "1"]],
    )
    assert tree(ended("a", "1", 0, 9, daebus_parent="1", daebus_caller="a")) == ["1"]
    chain = [ended("a", str(n), n / 1000, 900, daebus_parent=str(n - 1)) for n in range(2000)]
    trace = trace_of("t", chain)
    assert len(list(shown(trace, True))) == 2001
    json.dumps(described(trace))
    assert len(trace.roots) > 2000 // (DEEPEST + 2)


def test_entries_that_are_all_alike_cost_no_more_than_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a workflow are, or what somebody has forged."""
    looks = 0

    def holds(span: Span, moment: float) -> bool:
        nonlocal looks
        looks += 1
        return span.began <= moment <= span.ended

    monkeypatch.setattr(Span, "holds", holds)
    calls = [ended("panel", "same", number, 1, daebus_parent="same", daebus_caller="panel") for number in range(2000)]
    made = trace_of("t", calls)
    assert sum(1 for _ in shown(made, False)) == 2001
    assert looks < 500_000


def test_a_line_is_of_the_call_that_began_nearest_before_or_after_it() -> None:
    calls = [ended("panel", "same", number * 100.0, 10) for number in (2, 0, 1, 3)]
    lines = [entry("panel", "same", at=at + 1, ms=1, MESSAGE=str(at)) for at in (0.0, 140.0, 160.0, 500.0)]
    roots = trace_of("t", [*lines, *calls]).roots
    assert [[line.text for line in root.lines] for root in roots] == [["0.0"], ["140.0"], ["160.0"], ["500.0"]]


def test_only_the_first_traceback_of_a_chain_of_errors_is_shown() -> None:
    below = entry(
        "b", "2", at=3, ms=2, daebus_caller="a", daebus_error_id="e" * 12, message="b failed\n  | why\n  | End"
    )
    above = entry("a", "1", at=9, ms=9, daebus_error_id="f" * 12, message=f"a failed\n  | where\n  | see {'e' * 12}")
    text = "\n".join(shown(trace_of("t", [below, above]), False))
    assert "| why" in text
    assert "| where" not in text
    assert text.index("a failed") < text.index("b: b failed\n      | why\n")


def test_nothing_in_an_entry_can_steer_a_terminal() -> None:
    evil = "\x1b[31m\x9b\r"
    one = ended("a" + evil, "1", 0, 1, daebus_outcome="x" + evil, action=evil, daebus_caller=evil)
    lines = [*shown(trace_of("t", [one, entry("b", "2", message=f"{evil}\n{evil}")]), False)]
    lines += lines_for(entry("b" + evil, "2", message=f"{evil}\n{evil}", _PID=evil), "", False)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("junk", ["", "x", "nan", "inf", "-1", "9" * 400, [1, 300], [], None, ["5", "6"]])
def test_broken_fields_are_no_harm(junk: object) -> None:
    fields = (
        "DAEBUS_MS",
        "DAEBUS_BEGAN",
        "__MONOTONIC_TIMESTAMP",
        "__REALTIME_TIMESTAMP",
        "PRIORITY",
        "MESSAGE",
        "_PID",
    )
    for name in fields:
        one = {**ended("a", "1", 0, 1), name: junk}
        list(shown(trace_of("t", [one, entry("a", "1")]), False))
        lines_for(one, "", False)


def test_who_began_it_is_named_if_that_says_something() -> None:
    callers = ("desk", "127.0.0.1:5", "0d52c7a9-8e0e-4f2b-9a53-0b5ce38a3f6d")
    trace = trace_of("t", [ended("a", str(n), n, 1, daebus_caller=caller) for n, caller in enumerate(callers)])
    first, second, third = list(shown(trace, False))[1:]
    assert first.endswith("a act  (asked by desk)")
    assert second.endswith("a act  (asked by 127.0.0.1:5)")
    assert third.endswith("a act")


def test_the_traces_of_entries_the_last_one_first() -> None:
    found = [{"DAEBUS_TRACE": "a"}, {"DAEBUS_TRACE": "b"}, {}, {"DAEBUS_TRACE": "a"}]
    assert traces_in(found) == ["a", "b"]


# --- journalctl's JSON ---


def test_fields_as_journalctl_writes_them() -> None:
    assert text_in({"A": [104, 105, 255]}, "A") == "hi\ufffd"
    assert text_in({"A": ["one", "two"]}, "A") == "one"
    assert text_in({"A": [[104, 105], "two"]}, "A") == "hi"
    assert text_in({"A": None}, "A") == text_in({}, "A") == ""
    assert number_in({"A": "x", "B": "5"}, "A", "B") == 5
    assert entry_of(b'{"A": 1}') == {"A": 1}
    assert entry_of(b"-- No entries --") is entry_of(b'{"A": ') is entry_of(b"") is None


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"DAEBUS_SERVICE": "lamp", "_SYSTEMD_UNIT": "x.service"}, "lamp"),
        ({"_SYSTEMD_UNIT": "daebus@lamp.service", "SYSLOG_IDENTIFIER": "python3"}, "lamp"),
        ({"_SYSTEMD_UNIT": "init.scope", "SYSLOG_IDENTIFIER": "systemd"}, "systemd"),
        ({}, "?"),
    ],
)
def test_whose_entry_it_is(fields: dict[str, Any], name: str) -> None:
    assert name_in(fields) == name


# --- lines of the log ---


def test_an_entry_is_a_line_and_what_its_text_has_beyond_that() -> None:
    one = entry("lamp", "1", message="it failed\n  | Traceback\n  | End", priority="3")
    day = time_of(one).split()[0]
    first, *rest = lines_for(one, day, False)
    assert first.endswith(" lamp[7] ERROR    it failed")
    assert first[2] == first[5] == ":"
    assert rest == ["      | Traceback", "      | End"]
    assert lines_for(one, "2001-01-01", False)[0].startswith(f"{day} ")
    coloured = lines_for(one, day, True)
    assert coloured[0].endswith("\033[31mERROR    it failed\033[0m")
    assert coloured[1] == "\033[31m      | Traceback\033[0m"


def test_what_is_looked_for() -> None:
    assert matches(["a", "b"], {}, {"DAEBUS_ACTION": "x"}) == [
        "DAEBUS_SERVICE=a", "DAEBUS_SERVICE=b", "DAEBUS_ACTION=x",
    ]  # fmt: skip
    assert matches([], {}, {"DAEBUS_TRACE": "t"}) == ["DAEBUS_TRACE=t"]
    assert matches(["a"], {"a": "other.service"}, {}) == [
        "DAEBUS_SERVICE=a", "+",
        "_SYSTEMD_UNIT=a.service", "_SYSTEMD_UNIT=daebus@a.service", "_SYSTEMD_UNIT=other.service", "+",
        "_PID=1", "UNIT=a.service", "UNIT=daebus@a.service", "UNIT=other.service",
    ]  # fmt: skip
