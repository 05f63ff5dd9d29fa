"""A trace that somebody wants to see: who asks for it, how that goes along, and the entries that it leaves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from daebus import DaebusCaller, RemoteError, broadcast, log
from daebus.context import current, current_span
from daebus.dispatch import Dispatcher
from daebus.errors import BadMessage, Busy
from daebus.exchange import HttpRequest
from daebus.http1 import read_head
from daebus.inbox import Inbox
from daebus.journal import fields
from daebus.log import Budget, Seldom, logger
from daebus.message import encode_request, read_request
from daebus.registry import Record
from daebus.settings import RedisSettings
from daebus.target import HubState
from daebus.workflows import Workflows
from daebus.wsexchange import WebSocketRequest
from tests.calls import Bench, Publisher, message

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WANTED = {"v": 1, "trace": "t", "parent": ""}


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A service that does not show what it does."""
    logger.setLevel(logging.INFO)
    caplog.handler.setLevel(0)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def caller() -> Iterator[DaebusCaller]:
    with DaebusCaller("other", redis_url="unix:///nonexistent/redis.sock") as made:
        yield made


def sent_by(caller: DaebusCaller) -> dict[str, Any]:
    """What a request made here would tell of its trace."""
    found = json.loads(caller._encode(HubState(RedisSettings()), "r", "act", {}, 1.0, 1.0))
    return {key: found[key] for key in ("trace", "parent") if key in found}


def over_http(**headers: str) -> HttpRequest:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return HttpRequest(read_head(f"GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode()), b"", "127.0.0.1:5")


def entries(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What the journal would have of each call, by its own fields."""
    return [vars(record) for record in caplog.records if hasattr(record, "daebus_outcome")]


# --- who asks ---


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", SPAN),
        (f"00-{TRACE}-{SPAN}-03", SPAN),
        (f"cc-{TRACE}-{SPAN}-01-more", SPAN),
        (f"00-{TRACE}-{SPAN}-00", None),
        (f"00-{TRACE}-{SPAN}-02", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}-+1", None),
        (f"00-{TRACE}-short-01", None),
        (f"00-{TRACE}", None),
        ("", None),
    ],
)
def test_a_traceparent_asks_by_its_flag(header: str, parent: str | None) -> None:
    assert over_http(traceparent=header).parent == parent


def test_nothing_else_over_http_asks_and_no_websocket_does() -> None:
    assert over_http().parent is None
    assert over_http(**{"X-Request-ID": "abc"}).parent is None
    assert WebSocketRequest("c", {"type": "x", "parent": "", "trace": "t"}, None).parent is None


def test_a_request_over_the_bus_asks_by_its_parent() -> None:
    assert read_request(message(v=1, trace="t"), "svc").parent is None
    assert read_request(message(parent="p"), "svc").parent is None  # of another version: a key like any other
    assert read_request(message(v=1, parent="p"), "svc").parent == "p"
    assert read_request(message(v=1, parent=""), "svc").parent == ""
    for broken in (1, None, "x" * 201):
        with pytest.raises(BadMessage, match="'parent' must be text"):
            read_request(message(v=1, parent=broken), "svc")


def test_what_is_written_is_read() -> None:
    data = encode_request("svc", "act", {}, "caller:c", "r", 1.0, 1.0, "clock", "t", 'p"')
    read = read_request(json.loads(data), "svc")
    assert (read.trace, read.parent) == ("t", 'p"')
    assert b"parent" not in encode_request("svc", "act", {}, "caller:c", "r", 1.0, 1.0, "clock", "t")


# --- how it goes along ---


def test_a_call_tells_whose_handler_it_was_made_in(caller: DaebusCaller) -> None:
    sent: list[dict[str, Any]] = []
    bench = Bench().action(lambda: sent.append(sent_by(caller)))
    bench.handle(message(request_id="outer", **WANTED))
    bench.handle(message(request_id=7, **WANTED))
    bench.handle(message(request_id="other", v=1, trace="t"))
    assert sent == [{"trace": "t", "parent": "outer"}, {"trace": "t", "parent": "7"}, {"trace": "t"}]
    assert current_span() == (None, None)


def test_a_route_hands_it_on_under_its_own_id(caller: DaebusCaller) -> None:
    asked = over_http(traceparent=f"00-{TRACE}-{SPAN}-01")
    token = current.set(SimpleNamespace(request=asked, response=None))
    try:
        assert sent_by(caller) == {"trace": TRACE, "parent": asked.request_id}
    finally:
        current.reset(token)


def test_a_workflow_keeps_it(caller: DaebusCaller) -> None:
    sent: list[dict[str, Any]] = []
    publisher = Publisher()
    inbox = Inbox(Dispatcher("svc", [], publisher.flush), publisher, {}, "clock")
    workflows = Workflows([Record("workflow", "talk", lambda: sent.append(sent_by(caller)))], inbox)
    inbox.open()
    begin = {"workflow": "talk", "workflow_id": "w", "reply_to": "workflow:x", "payload": {}, "trace": "t"}
    for text in ({**begin, "parent": "p"}, {"workflow_id": "w", "payload": {}}, {**begin, "workflow_id": "v"}):
        call = workflows.plan(None, "", json.dumps(text).encode())
        assert call is not None
        call.run()
    assert sent == [{"trace": "t", "parent": "w"}] * 2 + [{"trace": "t"}]


# --- what it leaves ---


def test_only_a_wanted_trace_leaves_entries(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench().action(lambda: 1)
    bench.handle(message())
    bench.handle(message(v=1, trace="t"))
    assert entries(caplog) == []
    before = monotonic()
    bench.handle(message(**WANTED))
    (entry,) = entries(caplog)
    assert (entry["daebus_outcome"], entry["levelno"]) == ("ok", logging.DEBUG)
    assert before <= float(str(entry["daebus_began"])) <= monotonic()


def test_a_coroutine_leaves_one_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def act() -> None:
        assert entries(caplog) == []

    Bench().action(act).handle(message(**WANTED))
    assert [entry["daebus_outcome"] for entry in entries(caplog)] == ["ok"]


def test_an_entry_says_how_it_went(caplog: pytest.LogCaptureFixture) -> None:
    def refused() -> None:
        raise RemoteError("no")

    def broken() -> None:
        raise KeyError("secret")

    for act in (refused, broken):
        Bench().action(act).handle(message(**WANTED))
    assert [entry["daebus_outcome"] for entry in entries(caplog)] == ["error", "internal"]


def test_a_request_that_is_not_run_leaves_one_too(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench().action(lambda: 1)
    bench.open()
    bench.plan(message(deadline=0.0, clock="clock", **WANTED)).run()
    bench.plan(message(**WANTED)).refuse(Busy("full"))
    bench.plan(message(v=1, trace="t")).refuse(Busy("full"))
    assert [entry["daebus_outcome"] for entry in entries(caplog)] == ["expired", "busy"]
    assert caplog.messages[-1] == "Action 'act' (request 'r') was not done: busy"


def test_an_answer_stays_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    def act() -> None:
        from daebus import response

        response.success(1)
        response.error("too late")

    Bench().action(act).handle(message(**WANTED))
    assert [entry["daebus_outcome"] for entry in entries(caplog)] == ["ok"]


def test_a_broadcast_of_one_leaves_one(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("daebus.hub.publish", lambda *_arguments: 3)
    bench = Bench().action(lambda: broadcast.send("display.refresh", {}))
    bench.handle(message())
    assert not [one for one in caplog.records if hasattr(one, "daebus_channel")]
    bench.handle(message(**WANTED))
    (entry,) = (vars(one) for one in caplog.records if hasattr(one, "daebus_channel"))
    assert (entry["message"], entry["daebus_channel"]) == (
        "A broadcast on channel 'display.refresh': 3 heard it",
        "display.refresh",
    )


def test_the_journal_has_the_parent(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[dict[str, object]] = []
    record = logging.LogRecord("daebus", logging.INFO, "", 0, "text", (), None)
    bench = Bench().action(lambda: seen.append(fields(record, "svc")))
    bench.handle(message(v=1, trace="t", parent="p"))
    bench.handle(message(**WANTED))
    bench.handle(message())
    assert [one["DAEBUS_PARENT"] for one in seen] == ["p", None, None]


def test_a_flood_of_them_is_cut_visibly(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever can reach a route can ask for them."""
    monkeypatch.setattr(log, "_entries", Budget(burst=3, rate=0.0))
    monkeypatch.setattr(log, "_too_many", Seldom())
    bench = Bench().action(lambda: 1)
    for _ in range(10):
        bench.handle(message(**WANTED))
    assert len(entries(caplog)) == 3
    assert caplog.messages.count("Too many entries of traces at once: some are left out") == 1
