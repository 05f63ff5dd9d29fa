"""A trace goes along: whatever asks for a handler, the calls that it makes say what led to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from threading import Thread
from typing import Any

import pytest

from daebus import AsyncCaller, Daebus, DaebusCaller, DaebusHttp, DaebusWebSocket, request
from daebus.context import current_trace
from daebus.testing import Client
from daebus.wsexchange import WebSocketRequest
from tests.support import MS

SOON = 5000 * MS

other = DaebusCaller("other")


def sent() -> Any:
    """The trace with which another service is called from here."""
    found = other.send_request("act")
    assert found == current_trace()
    return found


@contextmanager
def opened(app: Daebus) -> Iterator[Client]:
    """The app as the service "svc", with another one that answers with the trace that it was sent."""
    with app.test_client("svc") as client:
        client.stub("other", "act", lambda: request.raw.get("trace"))
        yield client


@pytest.fixture
def app() -> Daebus:
    return Daebus("app")


# --- who calls ---


def test_a_call_outside_of_a_handler_has_no_trace(app: Daebus) -> None:
    with opened(app):
        assert sent() is None


def test_a_call_within_a_handler_has_the_trace_of_what_is_handled(app: Daebus) -> None:
    traces: list[Any] = []
    app.action("act")(lambda: traces.append(sent()))
    with opened(app) as client:
        for trace in ("t1", "t2"):
            client.publish("svc", {"action": "act", "payload": {}, "v": 1, "trace": trace})
        assert traces == ["t1", "t2"]
        assert sent() is None


def test_a_call_of_a_coroutine_has_it_too(app: Daebus) -> None:
    """An AsyncCaller's, of a task of the handler's, too."""

    @app.action("act")
    async def act() -> list[Any]:
        async with AsyncCaller("other") as caller:
            here = await caller.send_request("act")
            task = asyncio.create_task(caller.send_request("act"))
            return [request.trace, here, await task]

    with opened(app) as client:
        assert len(set(client.call("act"))) == 1


def test_a_generator_calls_under_its_own_trace(app: Daebus) -> None:
    @app.action("act")
    def act() -> Iterator[Any]:
        yield sent()
        yield sent()
        yield request.trace

    with opened(app) as client:
        assert len(set(client.request("act").progress)) == 1


def test_a_thread_that_a_handler_starts_has_none_unless_it_is_given_it(app: Daebus) -> None:
    traces: list[Any] = []

    def note() -> None:
        traces.append(sent())

    @app.action("act")
    def act() -> Any:
        context = copy_context()
        for target in (note, lambda: context.run(note)):
            thread = Thread(target=target)
            thread.start()
            thread.join(SOON)
        return request.trace

    with opened(app) as client:
        trace = client.call("act")
        assert traces == [None, trace]


def test_a_listener_has_no_request_and_no_trace(app: Daebus) -> None:
    traces: list[Any] = []
    app.listen("news")(lambda _payload: traces.append(sent()))
    with opened(app) as client:
        client.publish("news", 1)
    assert traces == [None]


def test_each_request_that_began_no_trace_has_one_for_all_of_its_calls(app: Daebus) -> None:
    app.action("act")(lambda: [sent(), sent(), request.trace])
    with opened(app) as client:
        one, two = client.call("act"), client.call("act")
    assert len(set(one)) == len(set(two)) == 1
    assert None not in one
    assert one != two


# --- what is handled ---


def test_a_workflow_has_a_trace(app: Daebus) -> None:
    traces: list[Any] = []
    app.workflow("talk")(lambda: traces.append(sent()))
    with opened(app) as client:
        talk = client.workflow("talk")
        talk.send({})
    assert traces == [talk.workflow_id] * 2  # all of it is one conversation


def test_a_request_over_http_hands_its_trace_on(app: Daebus) -> None:
    app.attach(DaebusHttp(port=8080))
    app.route("/")(lambda: {"trace": sent()})
    with opened(app) as client:
        assert client.get("/", headers={"X-Request-ID": "abc"}).json == {"trace": "abc"}


def test_each_message_of_a_websocket_is_a_trace_of_its_own() -> None:
    one, two = (WebSocketRequest("c", {"type": "x"}, None) for _ in range(2))
    assert one.trace == one.trace != two.trace
    before = one.trace
    one.fill({"type": "x"})  # it has waited for its turn
    assert one.trace == before


def test_whatever_a_websocket_asks_for_has_a_trace(app: Daebus) -> None:
    """Messages, functions for clients that come and go, and actions of our own."""
    traces: list[tuple[str, Any, str]] = []
    ws = app.attach(DaebusWebSocket(9001))
    ws.gateway(actions=["own"])

    def note(what: str) -> None:
        traces.append((what, sent(), request.trace))

    app.action("own")(lambda: note("action"))
    app.socket("say")(lambda _data: note("message"))
    app.socket_connect()(lambda _client: note("connect"))
    app.socket_disconnect()(lambda _client: note("disconnect"))
    with opened(app) as client:
        socket = client.websocket()
        socket.send("say")
        socket.call("svc", "own")
        socket.vanish()
    assert [what for what, _sent, _own in traces] == ["connect", "message", "action", "disconnect"]
    assert all(trace == own for _what, trace, own in traces)
    assert len({trace for _what, trace, _own in traces}) == 4
