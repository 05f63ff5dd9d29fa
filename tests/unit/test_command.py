"""The pure parts of the command: wording, rates, pairing, and what fits on a screen."""

from __future__ import annotations

import json
import re
from errno import EACCES, ECONNREFUSED
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("click")

from daebus import cli
from daebus.cli import traffic
from daebus.cli.answers import Census, is_identity
from daebus.cli.completing import in_time, is_harmless
from daebus.cli.description import describe
from daebus.cli.monitor import line_of, shares
from daebus.cli.output import visible
from daebus.cli.rates import Rate, Rates
from daebus.cli.screen import columns_of, cut, painted_parts
from daebus.cli.see import channel_table, service_table
from daebus.cli.top import HANDLER_COLUMNS, SERVICE_COLUMNS, Watch, fitted, frame
from daebus.cli.traffic import Redaction, Traffic, caller_of
from daebus.cli.wording import duration, example_call, example_words, memory, signature, span
from daebus.errors import RedisUnavailable
from daebus.message import encode_error, encode_reply, encode_request
from daebus.settings import RedisSettings

UUID = "12345678-1234-4234-8234-123456789abc"
PANEL = f"caller:panel-{UUID}"

# --- errors ---


@pytest.mark.parametrize(
    ("number", "hint"), [(EACCES, "; this user may not use it, root may: sudo daebus ..."), (ECONNREFUSED, "")]
)
def test_who_may_not_use_the_socket_is_told_who_may(
    number: int, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(**_options: object) -> int:
        error = RedisUnavailable("Redis at /run/x cannot be reached")
        error.errno = number
        raise error

    monkeypatch.setattr(cli.commands, "main", away)
    assert cli.main() == 3
    assert capsys.readouterr().err == f"daebus: redis_unavailable: Redis at /run/x cannot be reached{hint}\n"


# --- wording ---


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (125, "2m 5s"), (3600, "1h"), (7384, "2h 3m"), (3605, "1h"),
     (90_000, "1d 1h"), (-3, "0s")],
)  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 µs"),
        (0.0000084, "8 µs"),
        (0.0001, "0.10 ms"),
        (0.00042, "0.42 ms"),
        (0.0123, "12.3 ms"),
        (0.1234, "123 ms"),
        (0.9999, "1.00 s"),
        (12.34, "12.3 s"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_memory() -> None:
    assert [memory(None), memory(36_000_000), memory(3 << 30)] == ["-", "34.3M", "3.0G"]


DIM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "default": "hall"},
        "percent": {"type": "integer"},
        "speed": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
    },
    "required": ["percent"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "returns", "text"),
    [
        (None, None, "dim(...)"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, "None", "dim() -> None"),
        (DIM, "D", "dim(percent: int, room: str = 'hall', speed: float | None = None, tags: list[str] = []) -> D"),
        ({"type": "array", "items": {"enum": ["a", 1]}}, None, "dim(payload: list['a' | 1])"),
        ({"properties": {"x": {"$ref": "#/$defs/Point"}}}, None, "dim(x: Point = ...)"),
        ({"$ref": "#/$defs/D", "$defs": {"D": {"properties": {"a": {"type": "object"}}}}}, None, "dim(a: dict = ...)"),
        ({"properties": {"a": True}, "required": ["a", 5], "additionalProperties": True}, 5, "dim(a: Any, **rest)"),
        ({"$ref": "#"}, None, "dim(payload: Any)"),
    ],
)  # fmt: skip
def test_a_schema_becomes_a_signature(schema: object, returns: object, text: str) -> None:
    assert signature("dim", schema, returns) == text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (None, []),
        (DIM, ["percent=1"]),
        ({"properties": {"x": {"$ref": "#/$defs/P"}}, "required": ["x"],
          "$defs": {"P": {"type": "object", "properties": {"y": {"$ref": "#/$defs/P"}}, "required": ["y"]}}},
         ['x={"y": {"y": {"y": "text"}}}']),
        ({"properties": {"a": {"type": "string", "enum": ["5"]}, "b": {"type": "object"}}, "required": ["a", "b"]},
         ['a="5"', "b={}"]),
        ({"type": "string", "format": ["date"]}, ['"text"']),
        ({"type": "array", "items": {"type": "boolean"}}, ["[true]"]),
        ({"type": "integer", "minimum": -5}, ["-5"]),
    ],
)  # fmt: skip
def test_a_schema_becomes_an_example(schema: object, words: list[str]) -> None:
    assert example_words(schema) == words


def test_an_example_is_bounded() -> None:
    """References may multiply: what this one asks for has 10^9 values."""
    schema = {"type": "array", "prefixItems": [{"$ref": "#/x"}] * 1000}
    words = example_words({**schema, "x": schema})
    assert len(words[0]) < 100_000


def test_an_example_can_be_pasted_into_a_shell() -> None:
    assert example_call("lamp", "a'; rm", {"const": -5}) == """daebus call lamp 'a'"'"'; rm' -- -5"""
    schema = {"properties": {"a": {"const": "$x y"}}, "required": ["a"]}
    assert example_call("lamp", "dim", schema) == "daebus call lamp dim 'a=$x y'"


_leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["object", "#/$defs/x"])
_words = st.sampled_from(
    ["type", "properties", "required", "items", "anyOf", "enum", "$ref", "title", "default", "additionalProperties"]
)
_anything = st.recursive(_leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner))


@given(_anything)
def test_any_schema_gives_some_text(schema: object) -> None:
    """It comes from another program."""
    assert signature("x", schema).startswith("x(")
    assert example_call("lamp", "x", schema).startswith("daebus call lamp ")


# --- the screen ---


def test_text_is_cut_by_columns() -> None:
    assert (cut("abcdef", 6), cut("abcdef", 4), cut("abc", 1), cut("abc", 0)) == ("abcdef", "abc…", "…", "")
    assert (columns_of("日本"), cut("日本語", 5), columns_of("e\u0301")) == (4, "日本…", 1)


@given(st.text(), st.integers(0, 20))
def test_what_is_cut_fits(text: str, columns: int) -> None:
    assert columns_of(cut(text, columns)) <= columns


def test_parts_are_cut_as_one_line_and_colours_take_no_room() -> None:
    parts = [("abc", "1"), ("def", ""), ("ghi", "31")]
    assert painted_parts(parts, None, False) == "abcdefghi"
    assert painted_parts(parts, 5, False) == "abcd…"
    assert painted_parts(parts, 7, True) == "\x1b[1mabc\x1b[0mdef\x1b[31m…\x1b[0m"


# --- ls and info ---


def process(pid: int = 7, **more: Any) -> dict[str, Any]:
    return {"service": "lamp", "pid": pid, "host": "kiosk", "uptime": 75.0, "version": "1.0", "unit": None, **more}


def test_services_in_a_table() -> None:
    actions = [{"name": "dim"}, {"name": "off"}]
    shared = [process(7, unit="a.service", actions=actions), process(8, host="other", unit="a.service")]
    assert service_table([Census("lamp", shared, 3), Census("mute", [], 1)]) == [
        "NAME  PID              UNIT       UPTIME  HANDLERS",
        "lamp  7@kiosk 8@other  a.service  1m 15s  1 process not answering; 2 actions",
        "mute  -                -          -       not answering",
    ]


def test_channels_in_a_table() -> None:
    entries: list[dict[str, Any]] = [{"channel": "a\x1b[m", "subscribers": 2, "services": []},
               {"channel": "b*", "subscribers": None, "services": ["x", "y"]}]  # fmt: skip
    assert channel_table(entries) == [
        "CHANNEL    SUBSCRIBERS  SERVICES",
        "a\\u001b[m            2  -",
        "b*                   -  x y",
    ]


def test_a_description() -> None:
    error = {"kind": "action", "name": "dim", "error_id": "ab12", "type": "KeyError", "at": 100.0}
    first = process(
        unit="lamp.service", file="/opt/lamp.py", redis="localhost:6379", http=["http://[::]:80"], max_workers=4,
        last_error=error, actions=[{"name": "dim", "doc": "Dim it.", "place": "lamp.py:3", "input": DIM}],
        routes=[{"name": "GET /x", "path": "/x", "input": None, "returns": "str"}],
        tasks=[{"name": "beat", "interval": 0.5}],
        threads=[{"name": "loop", "running": True}], folders=[{"path": "/static"}],
        gateway={"actions": ["dim", "door/open"], "channels": [], "publish": ["a.b"]},
    )  # fmt: skip
    second = process(8, max_workers=5, last_error=error)
    assert describe("lamp", [first, second], 1, now=190.0) == [
        "lamp, Daebus 1.0",
        "  process    7 on kiosk, lamp.service, up 1m 15s",
        "  process    8 on kiosk, up 1m 15s",
        "             1 more process not answering",
        "  file       /opt/lamp.py",
        "  redis      localhost:6379",
        "  http       http://[::]:80",
        "  workers    4",
        "  last error KeyError in action dim, 1m 30s ago (process 7)",
        "             daebus logs --error-id ab12",
        "  last error KeyError in action dim, 1m 30s ago (process 8)",
        "             in its log under ab12",
        "  note       what follows is of process 7; 8 differ from it",
        "",
        "Actions",
        "  dim(percent: int, room: str = 'hall', speed: float | None = None, tags: list[str] = [])",
        "      Dim it.",
        "      lamp.py:3",
        "      $ daebus call lamp dim percent=1",
        "",
        "Routes",
        "  GET /x -> str",
        "",
        "Folders served",
        "  /static",
        "",
        "A WebSocket client, through the gateway",
        "  calls      dim, door/open",
        "  publishes  a.b",
        "",
        "Tasks",
        "  beat, each 0.5 s",
        "",
        "Threads",
        "  loop, running",
    ]


_answers = st.dictionaries(
    st.sampled_from(["actions", "routes", "tasks", "threads", "http", "unit", "last_error", "file", "version"]),
    _leaves
    | st.lists(st.dictionaries(st.sampled_from(["name", "doc", "input", "interval", "path"]), _leaves), max_size=2),
)


@given(_answers)
def test_any_answer_can_be_described(answer: dict[str, Any]) -> None:
    lines = describe("lamp", [{**process(), **answer}], 0, now=0.0)
    assert all(line == visible(line) for line in lines)
    service_table([Census("lamp", [{**process(), **answer}], 1)])


# --- top ---


def stats(pid: int, uptime: float, handlers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    figures = {"busy": 1, "max_workers": 4, "queued": 0, "clients": 2, "memory": 1 << 20, "cpu": uptime / 10}
    return {**process(pid), "uptime": uptime, **figures, "redis": {"reconnections": 1}, "handlers": handlers, **more}


def handler(calls: int, errors: int, *buckets: list[float], name: str = "dim") -> dict[str, Any]:
    return {"kind": "action", "name": name, "calls": calls, "errors": errors, "longest": 0.5, "buckets": list(buckets)}


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), 10**400, -(10**400), 1e300])
def test_numbers_that_nobody_can_calculate_with_are_no_answer(number: float) -> None:
    """They are JSON: 1e999, or a whole number of thousands of digits."""
    answer: dict[str, Any] = {"pid": 1, "host": "here", "uptime": 5.0}
    assert is_identity(answer)
    assert not is_identity({**answer, "uptime": number})
    told = {**answer, "last_error": {"at": number, "type": "KeyError"}, "tasks": [{"name": "t", "interval": number}]}
    lines = describe("lamp", [told], 0, now=1.0)
    assert "  t, each ?" in lines
    assert any(line.endswith("KeyError in  (process 1)") for line in lines)


def test_rates_are_differences_by_the_process_own_clock() -> None:
    rates = Rates()
    (row,) = rates.services([Census("lamp", [stats(7, 10.0, [handler(100, 1, [0.001, 100])])], 1)])
    assert (row["calls_per_s"], row["p50"], row["cpu"], row["busy"], row["reconnections"]) == (None, None, None, 1, 1)
    now = [handler(120, 2, [0.001, 109], [0.004, 11])]
    (row,) = rates.services([Census("lamp", [stats(7, 14.0, now)], 1)])
    assert (row["calls_per_s"], row["errors_per_s"], row["p50"], row["p99"]) == (5.0, 0.25, 0.004, 0.004)
    assert row["cpu"] == pytest.approx(10.0)


def test_processes_of_a_service_are_added_and_a_new_one_counts_from_its_second_look() -> None:
    rates = Rates()
    rates.services([Census("lamp", [stats(7, 1.0, [handler(0, 0)])], 1)])
    looked = [stats(7, 2.0, [handler(3, 0, [0.1, 3])]), stats(8, 2.0, [handler(1000, 0, [0.1, 1000])])]
    (row,) = rates.services([Census("lamp", looked, 2)])
    assert (row["calls_per_s"], row["max_workers"], row["memory"], row["processes"]) == (3.0, 8, 2 << 20, 2)
    looked = [stats(8, 4.0, [handler(1010, 0, [0.1, 1010])])]
    (row,) = rates.services([Census("lamp", looked, 1)])
    assert (row["calls_per_s"], row["processes"]) == (5.0, 1)


def test_a_restart_under_the_same_pid_has_no_negative_rates() -> None:
    rates = Rates()
    rates.services([Census("lamp", [stats(7, 100.0, [handler(50, 5, [0.1, 50])])], 1)])
    (row,) = rates.services([Census("lamp", [stats(7, 1.0, [handler(1, 0, [0.1, 1])])], 1)])
    assert (row["calls_per_s"], row["p50"]) == (None, None)


def test_who_does_not_answer_comes_first_then_the_busiest() -> None:
    rates = Rates()

    def look(uptime: float, calls: int) -> list[str]:
        busy = Census("busy", [stats(1, uptime, [handler(calls, 0)])], 1)
        idle = Census("idle", [stats(2, uptime, [handler(0, 0)])], 1)
        return [row["service"] for row in rates.services([idle, busy, Census("mute", [], 1)])]

    look(1.0, 0)
    assert look(2.0, 10) == ["mute", "busy", "idle"]


def test_handlers_of_a_service() -> None:
    rates = Rates()
    for uptime, calls in ((1.0, 10), (3.0, 20)):
        handlers = [handler(calls, 0, [0.01, calls], name="on"), handler(0, 0, name="idle"), {"kind": "broken"}]
        rows = rates.handlers(Census("lamp", [stats(7, uptime, handlers)], 1))
    assert [(row["name"], row["calls_per_s"], row["calls"]) for row in rows] == [("on", 5.0, 20), ("idle", 0.0, 0)]


def test_no_run_of_a_handler_is_said_to_have_taken_longer_than_its_longest() -> None:
    rates = Rates()
    for uptime, calls in ((1.0, 1), (2.0, 9)):
        (row,) = rates.handlers(Census("lamp", [stats(7, uptime, [handler(calls, 0, [0.55, calls])])], 1))
    assert (row["p50"], row["p99"], row["longest"]) == (0.5, 0.5, 0.5)


def test_what_runs_now_is_told_with_the_oldest_of_all_processes() -> None:
    def busy(running: int, oldest: float | None) -> dict[str, Any]:
        return {**handler(0, 0), "running": running, "oldest": oldest}

    looked = [
        stats(7, 1.0, [busy(2, 65.5)]),
        stats(8, 1.0, [busy(1, 3.0)]),
        stats(9, 1.0, [busy(0, None), handler(0, 0)]),
    ]
    rows = Rates().handlers(Census("lamp", looked, 3))
    assert [(row["running"], row["oldest"]) for row in rows] == [(3, 65.5)]
    watch = watch_with(rows, "lamp")
    assert "3, 1m 5s" in watch.table()[1]
    rows[0].update(running=0, oldest=None)
    assert "1m 5s" not in watch.table()[1]


@given(st.dictionaries(st.floats(1e-6, 10), st.integers(1, 50), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_where_so_many_calls_ran(buckets: dict[float, int], share: float) -> None:
    rate = Rate()
    rate.add(1.0, 0.0, buckets)
    found = rate.quantile(share)
    assert found is not None
    total = sum(buckets.values())
    assert sum(number for bound, number in buckets.items() if bound <= found) >= share * total
    assert sum(number for bound, number in buckets.items() if bound < found) < share * total


def watch_with(rows: list[dict[str, Any]], service: str | None = None) -> Watch:
    watch = Watch(RedisSettings(), service)
    watch.rows = rows
    return watch


def rows_of(number: int) -> list[dict[str, Any]]:
    looked = [Census(f"service-{n}\x1b日", [stats(n, 2.0, [])], 1) for n in range(number)]
    return Rates().services([*looked, Census("mute", [], 1)])


@given(st.integers(0, 30), st.integers(1, 130), st.integers(1, 40), st.booleans())
def test_a_frame_fits_the_screen(number: int, columns: int, lines: int, colour: bool) -> None:
    shown = frame(watch_with(rows_of(number)), 2.0, columns, lines, colour)
    assert len(shown) <= lines
    for line in shown:
        bare = re.sub(r"\x1b\[[0-9;]*m", "", line)
        assert columns_of(bare) <= columns
        assert bare.isprintable()


def test_a_frame_says_what_does_not_fit_and_what_is_wrong() -> None:
    watch = watch_with(rows_of(30))
    assert frame(watch, 2.0, 100, 10, False)[-1] == "... and 25 more"
    watch.trouble = "Redis is away"
    assert frame(watch, 2.0, 100, 10, False)[1] == "Redis is away"


def test_columns_at_the_right_give_way() -> None:
    rows = rows_of(1)
    assert fitted(SERVICE_COLUMNS, rows, None)[0].split()[-2:] == ["REDIS", "LOST"]
    narrow = fitted(SERVICE_COLUMNS, rows, 80)[0].split()
    assert "MEMORY" in narrow
    assert "LOST" not in narrow
    assert fitted(SERVICE_COLUMNS, rows, 1)[0].split()[-1] == "QUEUED"
    assert fitted(HANDLER_COLUMNS, [], None)[0].split()[-1] == "ERRORS"


# --- monitor ---


def ask(action: str = "dim", payload: Any = None, number: str = "1", timeout: float = 5.0, reply: str = PANEL) -> bytes:
    return encode_request("lamp", action, {} if payload is None else payload, reply, number, 0.0, timeout, "", "t1")


def test_a_request_is_shown_with_its_answer() -> None:
    traffic = Traffic()
    assert traffic.take("lamp", ask(payload={"percent": 40}), 10.0, 1000.5) == []
    assert traffic.take(PANEL, encode_reply(50, "1", final=False), 10.1, 1000.6) == []
    (event,) = traffic.take(PANEL, encode_reply({"on": True}, "1"), 10.25, 1000.75)
    assert event == {
        "time": 1000.5, "kind": "request", "caller": "panel", "service": "lamp", "action": "dim",
        "payload": {"percent": 40}, "trace": "t1", "ms": 250.0, "parts": 1, "status": "ok", "answer": {"on": True},
    }  # fmt: skip
    assert traffic.pending == 0
    line = line_of(event, None, False)
    assert line.endswith('.500 panel -> lamp dim {"percent": 40}  ok 250 ms after 1 part {"on": true}')


def test_an_error_is_shown_with_its_code() -> None:
    from daebus.errors import UnknownAction

    traffic = Traffic()
    traffic.take("lamp", ask(), 1.0, 1.0)
    (event,) = traffic.take(PANEL, encode_error(UnknownAction("there is\nno dim"), "1"), 1.001, 1.001)
    assert line_of(event, None, False).endswith(" {}  unknown_action 1.00 ms there is\\nno dim")


def test_equal_ids_of_two_callers_are_two_requests() -> None:
    traffic = Traffic()
    other = f"caller:{UUID}"
    traffic.take("lamp", ask("a"), 1.0, 1.0)
    traffic.take("lamp", ask("b", reply=other), 1.0, 1.0)
    (event,) = traffic.take(other, encode_reply(1, "1"), 1.0, 1.0)
    assert (event["action"], event["caller"], traffic.pending) == ("b", "12345678", 1)


def test_what_is_not_answered_in_its_time_is_shown_as_such() -> None:
    traffic = Traffic()
    traffic.take("lamp", ask(timeout=2.0), 10.0, 1.0)
    traffic.take("lamp", ask(number="2", timeout=60.0), 10.0, 1.0)
    assert traffic.expired(11.9) == []
    (event,) = traffic.expired(12.3)
    assert (event["status"], event["ms"]) == ("unanswered", 2300.0)
    assert line_of(event, None, False).endswith("lamp dim {}  no answer within 2.30 s")
    (late,) = traffic.take(PANEL, encode_reply("x", "1"), 13.0, 4.0)
    assert line_of(late, None, False).endswith('panel <- an answer without its request  ok "x"')


def test_a_request_of_an_old_program_is_understood() -> None:
    """Its payload may be an object as JSON text; it has no id channel and no timeout of its own."""
    traffic = Traffic(redaction=Redaction(["PIN"]))
    raw = {"action": "dim", "payload": '{"pin": 1234, "n": 1}', "request_id": 5, "service": "lamp"}
    traffic.take("lamp", json.dumps(raw).encode(), 1.0, 1.0)
    (event,) = traffic.take("lamp.responses", b'{"status":"success","payload":1,"request_id":5}', 1.0, 1.0)
    assert (event["payload"], event["caller"]) == ({"pin": "***", "n": 1}, None)


def test_broadcasts_are_shown_whatever_they_are() -> None:
    traffic = Traffic()
    shown = [traffic.take("x", data, 1.0, 1.0)[0]["payload"] for data in (b"null", b"[1]", b"no json \xff", b'{"a":1}')]
    assert shown == [None, [1], "no json \ufffd", {"a": 1}]
    (event,) = traffic.take("x\x1b", b'"\x7f"', 1.0, 1.0)
    assert line_of(event, None, False).endswith(' x\\u001b "\\u007f"')


def test_what_daebus_asks_of_itself_is_hidden() -> None:
    """Also where several processes answer, and where nobody is answered."""
    traffic = Traffic()
    traffic.take("lamp", ask("$daebus.stats"), 1.0, 1.0)
    for _process in range(3):
        assert traffic.take(PANEL, encode_reply({}, "1"), 1.0, 1.0) == []
    assert traffic.expired(10.0) == []
    assert traffic.pending == 0
    assert traffic.take("lamp", b'{"action":"$daebus.claim"}', 1.0, 1.0) == []
    assert traffic.take("__keyevent@0__:set", b"key", 1.0, 1.0) == []
    everything = Traffic(everything=True)
    everything.take("lamp", ask("$daebus.stats"), 1.0, 1.0)
    assert everything.take(PANEL, encode_reply({}, "1"), 1.0, 1.0)[0]["action"] == "$daebus.stats"
    assert everything.take("__keyevent@0__:set", b"key", 1.0, 1.0)[0]["payload"] == "key"


def test_names_limit_what_is_shown() -> None:
    reply = encode_reply(1, "1")
    for name, shown in (("lamp", 1), ("panel", 1), ("other", 0)):
        traffic = Traffic([name])
        traffic.take("lamp", ask(), 1.0, 1.0)
        assert len(traffic.take(PANEL, reply, 1.0, 1.0)) == shown
        assert len(traffic.take(f"caller:third-{UUID}", reply, 1.0, 1.0)) == 0
        assert len(traffic.take(f"{name}.news", b"1", 1.0, 1.0)) == 1
        assert len(traffic.take("news", b"1", 1.0, 1.0)) == 0


def test_workflows_are_shown_message_by_message() -> None:
    traffic = Traffic()
    start = {"workflow": "pair", "payload": {"a": 1}, "workflow_id": "u1", "reply_to": f"workflow:panel-{UUID}"}
    (event,) = traffic.take("lamp.workflows", json.dumps(start).encode(), 1.0, 1.0)
    assert line_of(event, None, False).endswith(' panel -> lamp workflow pair {"a": 1}')
    part = {"payload": 2, "workflow_id": "u1", "final": True}
    (event,) = traffic.take(f"workflow:panel-{UUID}", json.dumps(part).encode(), 1.0, 1.0)
    assert line_of(event, None, False).endswith(" panel <- lamp workflow pair 2  its end")


def test_memory_is_bounded_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MOST", 10)
    monkeypatch.setattr(traffic, "MOST_BYTES", 5000)
    pairs = Traffic()
    given_up = [event for n in range(25) for event in pairs.take("lamp", ask(number=str(n)), 1.0, 1.0)]
    assert (len(given_up), pairs.pending, given_up[0]["status"]) == (15, 10, "forgotten")
    given_up = pairs.take("lamp", ask(number="large", payload="x" * 4900), 1.0, 1.0)
    assert (len(given_up), pairs.pending) == (10, 1)


@pytest.mark.parametrize("number", [None, True, [1], {}, 1.5])
def test_no_message_breaks_it(number: object) -> None:
    traffic = Traffic()
    for channel in ("lamp", PANEL, "lamp.responses", "lamp.workflows", "workflow:x"):
        for key in ("request_id", "workflow_id"):
            raw = {
                "action": "a",
                "status": "error",
                "payload": number,
                key: number,
                "reply_to": PANEL,
                "timeout": number,
            }
            for event in traffic.take(channel, json.dumps(raw).encode(), 1.0, 1.0):
                assert line_of(event, 80, True)
        assert traffic.take(channel, b"[" * 100_000, 1.0, 1.0)[0]["kind"] == "message"


# --- hiding ---


def test_fields_are_hidden_at_any_depth() -> None:
    hide = Redaction(["password", "Token"])
    value = {"password": 1, "a": [{"PASSWORD": [2], "b": '{"token": "x", "c": 3}'}], "d": "{no json"}
    assert hide.of(value) == {"password": "***", "a": [{"PASSWORD": "***", "b": {"token": "***", "c": 3}}],
                              "d": "{no json"}  # fmt: skip
    assert hide.of_text("password=1") == "***"
    assert hide.of_error("no such room") == "no such room"


def test_everything_is_hidden() -> None:
    hide = Redaction(everything=True)
    assert (hide.of({"a": 1}), hide.of_text("x"), hide.of_error("x")) == ("***", "***", "***")
    pairs = Traffic(redaction=hide)
    pairs.take("lamp", ask(payload={"secret": 1}), 1.0, 1.0)
    (event,) = pairs.take(PANEL, b'{"status":"error","payload":{"error":"secret"},"request_id":"1"}', 1.0, 1.0)
    assert "secret" not in json.dumps(event)


@pytest.mark.parametrize("depth", [400, 900])
def test_what_is_nested_deeply_is_hidden_or_searched(depth: int) -> None:
    value: Any = {"password": 1}
    for _ in range(depth):
        value = [value]
    hidden = Redaction(["password"]).of(value)
    while isinstance(hidden, list):
        (hidden,) = hidden
    assert hidden in ("***", {"password": "***"})


# --- lines ---


def test_payload_and_answer_share_the_room() -> None:
    assert shares("a" * 50, "b" * 5, 40) == ("a" * 34 + "…", "b" * 5)
    assert shares("a" * 5, "b" * 50, 40) == ("a" * 5, "b" * 34 + "…")
    assert [len(text) for text in shares("a" * 50, "b" * 50, 40)] == [20, 20]


@given(st.text(max_size=60), st.text(max_size=60), st.integers(1, 120), st.booleans())
def test_a_line_fits(payload: str, answer: str, columns: int, colour: bool) -> None:
    event = {"kind": "request", "time": 1.0, "caller": "panel", "service": "lamp", "action": "dim", "payload": payload,
             "ms": 1.0, "parts": 0, "status": "ok", "answer": answer}  # fmt: skip
    bare = re.sub(r"\x1b\[[0-9;]*m", "", line_of(event, columns, colour))
    assert columns_of(bare) <= columns
    assert bare.isprintable()


@pytest.mark.parametrize(
    ("channel", "caller"),
    [(PANEL, "panel"), (f"caller:a-b.c-{UUID}", "a-b.c"), (f"caller:{UUID}", "12345678"), ("caller:x", "x"),
     ("lamp.responses", None), (f"workflow:panel-{UUID}", "panel")],
)  # fmt: skip
def test_who_calls(channel: str, caller: str | None) -> None:
    assert caller_of(channel) == caller


# --- completion ---


@pytest.mark.parametrize("name", ["lamp", "desk-lamp", "é", "display.*", "a:b@c/d,e", "[ab]?"])
def test_names_are_offered(name: str) -> None:
    assert is_harmless(name)


@pytest.mark.parametrize(
    "name", [";reboot", "a b", "$(id)", "`id`", "a|b", "a&", ">x", "<x", "'", '"', "\\", "!1", "#", "a\nb", "--redis"]
)
def test_names_that_a_shell_would_take_for_more_are_not(name: str) -> None:
    assert not is_harmless(name)


def test_a_question_that_fails_has_no_answers() -> None:
    def fail() -> list[str]:
        raise OSError("no Redis")

    assert in_time(fail) == []
    assert in_time(lambda: ["a"]) == ["a"]
