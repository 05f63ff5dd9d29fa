"""A trace goes along: whatever asks for a handler, the calls that it makes say what led to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextvars import copy_context
from threading import Thread

import pytest

from daebus import AsyncCaller, Daebus, DaebusCaller, DaebusWebSocket, request
from daebus.context import current, current_trace
from daebus.dispatch import Dispatcher
from daebus.exchange import HttpRequest
from daebus.http1 import read_head
from daebus.inbox import Inbox
from daebus.registry import Record
from daebus.settings import RedisSettings
from daebus.target import HubState
from daebus.workflows import Workflows
from daebus.wsexchange import WebSocketRequest
from tests.calls import Bench, Publisher, message
from tests.sockets import SOON, room
from tests.support import wait_for

NOWHERE = "unix:///nonexistent/redis.sock"


def sent_by(caller: DaebusCaller | AsyncCaller) -> str | None:
    """The trace in the message that a caller would send from here."""
    hub = HubState(RedisSettings())
    found = json.loads(caller._encode(hub, "r", "act", {}, 1.0, 1.0)).get("trace")
    assert found == current_trace()
    return found  # type: ignore[no-any-return]


@pytest.fixture
def caller() -> Iterator[DaebusCaller]:
    with DaebusCaller("other", redis_url=NOWHERE) as made:
        yield made


# --- who calls ---


def test_a_call_outside_of_a_handler_has_no_trace(caller: DaebusCaller) -> None:
    assert sent_by(caller) is None


def test_a_call_within_a_handler_has_the_trace_of_what_is_handled(caller: DaebusCaller) -> None:
    sent: list[str | None] = []
    bench = Bench().action(lambda: sent.append(sent_by(caller)))
    bench.handle(message(v=1, trace="t1"))
    bench.handle(message(v=1, trace="t2"))
    assert sent == ["t1", "t2"]
    assert sent_by(caller) is None


def test_a_call_of_a_coroutine_has_it_too() -> None:
    """An AsyncCaller's, of a task of the handler's, too."""

    async def act() -> list[str | None]:
        async with AsyncCaller("other", redis_url=NOWHERE) as caller:

            async def within() -> str | None:
                return sent_by(caller)

            return [sent_by(caller), await asyncio.create_task(within())]

    (answer,) = Bench().action(act).handle(message(v=1, trace="t"))
    assert answer["payload"] == ["t", "t"]


def test_a_generator_calls_under_its_own_trace(caller: DaebusCaller) -> None:
    def act() -> Iterator[str | None]:
        yield sent_by(caller)
        yield sent_by(caller)

    answers = Bench().action(act).handle(message(v=1, trace="t"))
    assert [answer["payload"] for answer in answers][:2] == ["t", "t"]


def test_a_thread_that_a_handler_starts_has_none_unless_it_is_given_it(caller: DaebusCaller) -> None:
    sent: list[str | None] = []

    def note() -> None:
        sent.append(sent_by(caller))

    def act() -> None:
        context = copy_context()
        for target in (note, lambda: context.run(note)):
            thread = Thread(target=target)
            thread.start()
            thread.join(SOON)

    Bench().action(act).handle(message(v=1, trace="t"))
    assert sent == [None, "t"]


def test_a_listener_has_no_request_and_no_trace(caller: DaebusCaller) -> None:
    sent: list[str | None] = []

    class Heard:
        request = response = None

    token = current.set(Heard())
    sent.append(sent_by(caller))
    current.reset(token)
    assert sent == [None]


def test_each_request_that_began_no_trace_has_one_for_all_of_its_calls(caller: DaebusCaller) -> None:
    sent: list[str | None] = []

    def act() -> None:
        sent.extend((sent_by(caller), sent_by(caller), request.trace))

    Bench().action(act).handle(message())
    assert len(set(sent)) == 1
    assert sent[0] is not None


# --- what is handled ---


def test_a_workflow_has_a_trace(caller: DaebusCaller) -> None:
    sent: list[str | None] = []
    publisher = Publisher()
    inbox = Inbox(Dispatcher("svc", [], publisher.flush), publisher, {}, "clock")
    workflows = Workflows([Record("workflow", "talk", lambda: sent.append(sent_by(caller)))], inbox)
    inbox.open()
    begin = {"workflow": "talk", "workflow_id": "w" * 36, "reply_to": "workflow:someone", "payload": {}}
    for text in (begin, {"workflow_id": "w" * 36, "payload": {}}):
        call = workflows.plan(None, "", json.dumps(text).encode())
        assert call is not None
        call.run()
    assert sent == ["w" * 36] * 2  # all of it is one conversation


def test_a_request_over_http_hands_its_trace_on(caller: DaebusCaller) -> None:
    head = read_head(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-ID: abc\r\n\r\n")

    class Asked:
        request, response = HttpRequest(head, b"", "127.0.0.1:5"), None

    token = current.set(Asked())
    try:
        assert sent_by(caller) == "abc"
    finally:
        current.reset(token)


def test_each_message_of_a_websocket_is_a_trace_of_its_own() -> None:
    one, other = (WebSocketRequest("c", {"type": "x"}, None) for _ in range(2))
    assert one.trace == one.trace != other.trace
    before = one.trace
    one.fill({"type": "x"})  # it has waited for its turn
    assert one.trace == before


def test_whatever_a_websocket_asks_for_has_a_trace(caller: DaebusCaller) -> None:
    """Messages, functions for clients that come and go, and actions of our own."""
    sent: list[tuple[str, str | None, str]] = []
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    ws.gateway(actions=["own"])

    def note(what: str) -> None:
        sent.append((what, sent_by(caller), request.trace))

    app.action("own")(lambda: note("action"))
    app.socket("say")(lambda _data: note("message"))
    app.socket_connect()(lambda _client: note("connect"))
    app.socket_disconnect()(lambda _client: note("disconnect"))
    with room(app) as made:
        client = made.client()
        client.asks({"type": "say", "request_id": 1})
        client.asks({"type": "publish", "channel": "svc", "data": {"action": "own", "request_id": "r" * 20}})
        client.leaves()
        wait_for(lambda: len(sent) == 4, SOON, lambda: str(sent))
    assert [what for what, _sent, _own in sent] == ["connect", "message", "action", "disconnect"]
    assert all(trace == own for _what, trace, own in sent)
    assert len({trace for _what, trace, _own in sent}) == 4
