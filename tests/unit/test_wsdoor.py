"""The WebSocket door with a real engine and dispatcher, and connections whose other end is the test."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from threading import Event, Thread, current_thread
from time import monotonic
from typing import Any

import pytest

from daebus import Daebus, DaebusError, HttpError, request, response
from daebus.context import get_context_type
from daebus.errors import DeclarationError
from daebus.websocket import DaebusWebSocket, WebSocketRequest
from daebus.wscalls import wanted
from daebus.wsdoor import AT_WORK, Session
from daebus.wsframes import BINARY, CLOSE, PING, PONG, close_payload
from tests.sockets import SOON, Client, masked, room
from tests.support import wait_for


@pytest.fixture
def app() -> Daebus:
    """With a WebSocket attached."""
    app = Daebus("app")
    app.attach(DaebusWebSocket(9001, outbox=10_000, max_message=5000))
    return app


def answer(data: Any) -> dict[str, Any]:
    return {"type": "response", "data": data}


def declare_echo(app: Daebus) -> None:
    @app.socket("echo")
    def echo(data: Any, _client_id: str) -> Any:
        return data


# --- messages ---


def test_what_a_handler_returns_is_sent(app: Daebus) -> None:
    declare_echo(app)
    with room(app) as made:
        client = made.client()
        assert client.asks({"type": "echo", "data": {"a": "é"}}) == answer({"a": "é"})
        assert client.asks({"type": "echo", "data": 0}) == answer(0)
        assert client.asks({"data": "type last", "type": "echo"}) == answer("type last")
        assert client.asks({"type": "echo"}) == answer({})


def test_a_request_id_comes_back(app: Daebus) -> None:
    declare_echo(app)
    with room(app) as made:
        client = made.client()
        said = client.asks({"type": "echo", "data": 1, "request_id": "r-1"})
        assert said == {**answer(1), "request_id": "r-1", "success": True}
        said = client.asks({"type": "none", "request_id": 7})
        assert (said["request_id"], said["success"], said["error"]) == (
            7, False, "No handler found for message type 'none'",
        )  # fmt: skip
        assert "request_id" not in client.asks({"type": "echo", "data": 1, "request_id": ["odd"]})


def test_json_in_a_binary_frame_is_json(app: Daebus) -> None:
    declare_echo(app)
    with room(app) as made:
        client = made.client()
        client.say(b'{"type":"echo","data":5}', BINARY)
        client.say(b'{"type":"echo","data":"\xff"}', BINARY)
        assert client.hears(2) == [answer(5), {"type": "error", "error": "Invalid JSON"}]


def test_nothing_is_sent_for_none(app: Daebus) -> None:
    @app.socket("quiet")
    def quiet(_data: Any, _client_id: str) -> None:
        return None

    declare_echo(app)
    with room(app) as made:
        client = made.client()
        client.say({"type": "quiet"})
        assert client.asks({"type": "echo", "data": 1}) == answer(1)


def test_coroutines_are_awaited_and_generators_send_each_value(app: Daebus) -> None:
    @app.socket("async")
    async def asynchronous(data: Any, client_id: str) -> Any:
        await asyncio.sleep(0)
        return [data, client_id]

    @app.socket("parts")
    def parts(_data: Any) -> Generator[Any, None, str]:
        yield 1
        yield None
        yield {"n": 2}
        return "end"

    @app.socket("async parts")
    async def async_parts(_data: Any) -> AsyncIterator[int]:
        yield 1
        yield 2

    with room(app) as made:
        client = made.client()
        assert client.asks({"type": "async", "data": 5}) == answer([5, client.name])
        client.say({"type": "parts"})
        assert client.hears(4)[1:] == [answer(1), answer({"n": 2}), answer("end")]
        client.say({"type": "async parts"})
        assert client.hears(6)[4:] == [answer(1), answer(2)]


def test_parts_of_an_answer_to_a_named_message_are_progress(app: Daebus) -> None:
    @app.socket("parts")
    def parts(_data: Any) -> Generator[int, None, str]:
        yield 1
        return "end"

    with room(app) as made:
        client = made.client()
        client.say({"type": "parts", "request_id": "r"})
        assert client.hears(2) == [
            {"type": "progress", "data": 1, "request_id": "r"},
            {**answer("end"), "request_id": "r", "success": True},
        ]


def test_a_response_may_be_used_from_both_kinds_of_handlers(app: Daebus) -> None:
    said: list[Any] = []

    @app.socket("sync")
    def sync(data: Any, _client_id: str) -> Any:
        said.append(response.send(data))
        said.append(response.error("no", "oops"))
        return response.success("last")

    @app.socket("async")
    async def asynchronous(data: Any, _client_id: str) -> Any:
        said.append(await response.send(data, message_type="news"))
        return await response.error(KeyError("gone"))

    with room(app) as made:
        client = made.client()
        client.say({"type": "sync", "data": 1})
        assert client.hears(3) == [answer(1), {"type": "oops", "data": {"error": "no"}}, answer("last")]
        client.say({"type": "async", "data": 2})
        assert client.hears(5)[3:] == [{"type": "news", "data": 2}, {"type": "error", "data": {"error": "'gone'"}}]
    assert said == [1, 1, 1]


def test_a_response_may_go_to_another_client(app: Daebus) -> None:
    @app.socket("to")
    def to(data: Any, client_id: str) -> Any:
        return [int(response.send(client_id, "hi", target_sid=one)) for one in data]

    with room(app) as made:
        one, two = made.client(), made.client()
        assert one.asks({"type": "to", "data": [two.name, "nobody", two.name]}) == answer([1, 0, 1])
        assert two.hears(2) == [{"type": "hi", "data": one.name}] * 2


def test_handlers_take_what_they_want(app: Daebus) -> None:
    @app.socket("data")
    def data_alone(data: Any) -> Any:
        return data

    @app.socket("request")
    def whole(req: WebSocketRequest) -> Any:
        assert isinstance(req.websocket, Session)
        return [req.message_type, req.data, req.payload["extra"], req.client_id == request.client_id]

    @app.socket("request and client")
    def both(request: WebSocketRequest, sid: str) -> Any:
        return [request.data, sid == request.client_id]

    @app.socket("nothing")
    def nothing() -> Any:
        return [request.data, get_context_type()]

    @app.socket("swapped")
    def swapped(sid: str, data: Any) -> Any:
        return [sid, data]

    with room(app) as made:
        client = made.client()
        assert client.asks({"type": "data", "data": 1}) == answer(1)
        assert client.asks({"type": "request", "data": 1, "extra": 2}) == answer(["request", 1, 2, True])
        assert client.asks({"type": "request and client", "data": 1}) == answer([1, True])
        assert client.asks({"type": "nothing", "data": 1}) == answer([1, "websocket"])
        assert client.asks({"type": "swapped", "data": 1}) == answer([client.name, 1])


class Methods:
    """Handlers may be methods, too."""

    def both(self, data: Any, client_id: str) -> None:
        """Take both."""

    def many(self, *_everything: Any) -> None:
        """Take whatever comes."""

    def three(self, one: Any, two: Any, three: Any) -> None:
        """Take too much."""

    def optional(self, data: Any, client_id: str, more: int = 5) -> None:
        """Take both."""


def test_methods_and_odd_functions() -> None:
    methods = Methods()
    assert wanted(methods.both, "data") == ("data", "client")
    assert wanted(methods.many, "data") == ("data", "client")
    assert wanted(methods.many, "client") == ("client",)
    assert wanted(methods.optional, "data") == ("data", "client")
    assert wanted(int, "data") == ("data", "client")
    assert wanted(lambda one: one, "client") == ("client",)
    with pytest.raises(DeclarationError, match=r"data, client_id"):
        wanted(methods.three, "data")


# --- errors ---


def test_what_is_no_message(app: Daebus) -> None:
    declare_echo(app)
    with room(app) as made:
        client = made.client()
        sent: list[tuple[bytes, str]] = [
            (b"[1]", "Message must be a JSON object"),
            (b'"text"', "Message must be a JSON object"),
            (b"nonsense", "Invalid JSON"),
            (b"", "Invalid JSON"),
            (b'{"type":"echo","data":NaN}', "Invalid JSON"),
            (b'{"type":"echo",', "Invalid JSON"),
            (b"[" * 4000, "Invalid JSON"),
            (b"{}", "No message type provided"),
            (b'{"type":""}', "No message type provided"),
            (b'{"type":5}', "No message type provided"),
            (b'{"type":"nothing"}', "No handler found for message type 'nothing'"),
            (b'{"type":"' + b"x" * 900 + b'"}', f"No handler found for message type '{'x' * 200}'"),
            (b'{"type":"echo","data":1,"type":"other"}', "The message has two types"),
        ]
        for data, error in sent:
            assert client.asks(data) == {"type": "error", "error": error}, data
        assert client.asks({"type": "echo", "data": 1}) == answer(1)
    assert made.dispatcher.counts.received == len(sent) + 1


def test_the_text_of_an_exception_stays_here(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    @app.socket("fails")
    def fails(_data: Any) -> None:
        raise ValueError("secret")

    @app.socket("refuses")
    async def refuses(_data: Any) -> None:
        raise DaebusError("not today")

    @app.socket("unserialisable")
    def unserialisable(_data: Any) -> Any:
        return float("nan")

    with room(app) as made:
        client = made.client()
        said = client.asks({"type": "fails"})
        assert said["type"] == "error"
        assert said["data"]["error"].startswith("The service failed to do this; the log of 'svc' has the reason")
        assert said["data"]["error_id"] in caplog.text
        assert client.asks({"type": "refuses"}) == {"type": "error", "data": {"error": "not today"}}
        assert client.asks({"type": "unserialisable"})["data"]["code"] == "unserialisable"
        said = client.asks({"type": "fails", "request_id": "r"})
        assert (said["success"], said["code"], said["error"]) == (False, "internal", said["data"]["error"])
    assert "secret" not in json.dumps(client.messages)


# --- order, and who waits for whom ---


class Gate:
    """A handler that waits until it is let go."""

    def __init__(self) -> None:
        self.began, self.go = Event(), Event()
        self.threads: list[str] = []

    def __call__(self, data: Any, _client_id: str) -> Any:
        self.threads.append(current_thread().name)
        self.began.set()
        assert self.go.wait(SOON)
        return data


def test_a_slow_handler_holds_up_only_its_own_clients_type(app: Daebus) -> None:
    gate = Gate()
    app.socket("slow")(gate)
    declare_echo(app)
    with room(app) as made:
        one, two = made.client(), made.client()
        for number in range(3):
            one.say({"type": "slow", "data": number})
        assert gate.began.wait(SOON)
        assert one.asks({"type": "echo", "data": "other type"}) == answer("other type")
        assert two.asks({"type": "echo", "data": "other client"}) == answer("other client")
        gate.began.clear()
        two.say({"type": "slow", "data": "two"})
        assert gate.began.wait(SOON)
        assert len(gate.threads) == 2  # one of each client
        gate.go.set()
        assert one.hears(4)[1:] == [answer(0), answer(1), answer(2)]
        assert two.hears(2)[1:] == [answer("two")]


def test_what_is_learned_of_a_slow_handler_holds_for_all_clients(app: Daebus) -> None:
    gate = Gate()
    app.socket("slow")(gate)
    with room(app) as made:
        one, two = made.client(), made.client()
        handler = made.door.routes["slow"][0]._handler
        turns = [client.session.turn(handler) for client in (one, two)]
        assert [turn.slow for turn in turns] == [False, False]
        one.say({"type": "slow"})
        assert gate.began.wait(SOON)
        wait_for(lambda: handler.work.slow, SOON)
        gate.go.set()
        one.hears(1)
        assert [turn.slow for turn in turns] == [True, True]
        assert turns[0] is not turns[1]


def test_coroutines_of_one_type_run_one_at_a_time(app: Daebus) -> None:
    running: list[int] = []
    most = [0]

    @app.socket("work")
    async def work(data: int, _client_id: str) -> int:
        running.append(data)
        most[0] = max(most[0], len(running))
        await asyncio.sleep(0.001)
        running.remove(data)
        return data

    with room(app) as made:
        client = made.client()
        for number in range(20):
            client.say({"type": "work", "data": number})
        assert client.hears(20) == [answer(number) for number in range(20)]
    assert most == [1]


def test_the_order_is_kept_whatever_the_messages_look_like(app: Daebus) -> None:
    """Those with their type at the end are read before it is known whose they are."""
    seen: list[int] = []

    @app.socket("n")
    def take(data: int, _client_id: str) -> None:
        seen.append(data)

    with room(app) as made:
        client = made.client()
        frames = []
        for number in range(200):
            text = f'{{"type":"n","data":{number}}}' if number % 3 else f'{{"data":{number},"type":"n"}}'
            frames.append(masked(1, text.encode()))
        for at in range(0, 200, 10):
            client.raw(b"".join(frames[at : at + 10]))
        wait_for(lambda: len(seen) == 200, SOON)
        wait_for(lambda: not client.connection.paused, SOON)
    assert seen == list(range(200))


def test_a_client_that_sends_faster_than_its_handler_works_is_read_no_further(app: Daebus) -> None:
    gate = Gate()
    app.socket("slow")(gate)
    with room(app) as made:
        client = made.client()
        for number in range(AT_WORK - 1):
            client.say({"type": "slow", "data": number})
        assert not client.connection.paused
        client.say({"type": "slow", "data": AT_WORK - 1})
        assert client.connection.paused
        made.on_reader(lambda: client.session.expired(monotonic() + 100))
        assert client.connection.controls == []  # it cannot be heard, so it is not asked
        gate.go.set()
        assert client.hears(AT_WORK) == [answer(number) for number in range(AT_WORK)]
        wait_for(lambda: not client.connection.paused, SOON)


def test_messages_that_wait_are_kept_as_their_bytes(app: Daebus) -> None:
    """Behind `max_workers` busy handlers."""
    gate = Gate()
    app.socket("slow", inline=False)(gate)

    @app.socket("next", inline=False)
    def following(req: WebSocketRequest) -> Any:
        return [req.data, req.message_type]

    with room(app, max_workers=1) as made:
        one, two = made.client(), made.client()
        one.say({"type": "slow", "data": 1})
        assert gate.began.wait(SOON)
        two.say({"type": "next", "data": {"a": 2}})
        wait_for(lambda: made.engine.unfinished >= 2, SOON)
        gate.go.set()
        assert two.hears(1) == [answer([{"a": 2}, "next"])]


# --- letting in ---


def test_the_handshake(app: Daebus) -> None:
    with room(app) as made:
        head = made.client().connection.head.decode()
    lines = head.split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    assert {"Upgrade: websocket", "Connection: Upgrade"} <= set(lines)
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert "Server:" not in head


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": ""}, 426),
        ({"Sec_WebSocket_Key": ""}, 400),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZQ=="}, 400),
        ({"Sec_WebSocket_Key": "not base64 at all!!!!!=="}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "http://127.0.0.1:8080"}, 101),
        ({"Origin": "http://127.0.0.1:8081"}, 101),
    ],
)
def test_who_is_let_in(app: Daebus, headers: dict[str, str], status: int) -> None:
    with room(app) as made:
        assert made.status(**headers) == status


def test_other_origins_and_one_path() -> None:
    app = Daebus("app")
    app.attach(DaebusWebSocket(9001, allowed_origins=["https://panel.example"], path="/ws"))
    with room(app) as made:
        assert made.status("/ws?token=5", Origin="https://panel.example") == 101
        assert made.status("/ws", Origin="https://other.example") == 403
        assert made.status("/other") == 404


def test_so_many_clients_and_no_more() -> None:
    app = Daebus("app")
    app.attach(DaebusWebSocket(9001, max_clients=2))
    with room(app) as made:
        client = made.client()
        made.client()
        full = made.knock()
        wait_for(lambda: full.connection.status, SOON)
        assert full.connection.status == 503
        assert b"\r\nRetry-After: 1\r\n" in full.connection.head
        assert full.connection.closed
        client.leaves()
        made.client()


def test_connect_functions_decide_with_the_querys_fields(app: Daebus) -> None:
    seen: list[Any] = []

    @app.socket_connect()
    def check(data: dict[str, Any], client_id: str) -> Any:
        seen.append((data, client_id))
        return data.get("token") == "good"

    @app.socket_connect
    async def greet(data: dict[str, Any], _client_id: str) -> Any:
        await asyncio.sleep(0)
        response.send("early", "news")
        return {"hello": data["token"]}

    with room(app) as made:
        client = made.client("/?token=good")
        assert client.hears(2) == [{"type": "news", "data": "early"}, answer({"hello": "good"})]
        assert made.status("/?token=bad") == 403
        assert made.status("/") == 403
        assert seen == [({"token": "good"}, client.name), ({"token": "bad"}, seen[1][1]), ({}, seen[2][1])]
        assert made.ws.get_clients() == [client.name]


@pytest.mark.parametrize(
    ("error", "status"), [(HttpError(401, "who?"), 401), (DaebusError("no"), 403), (ValueError("secret"), 500)]
)
def test_a_connect_function_that_raises_refuses(app: Daebus, error: Exception, status: int) -> None:
    @app.socket_connect()
    def check(_data: Any, _client_id: str) -> None:
        raise error

    with room(app) as made:
        client = made.knock()
        wait_for(lambda: client.connection.status, SOON)
        assert client.connection.status == status
        assert b"secret" not in client.connection.head
        assert made.door._opening == 0


def test_a_connect_function_may_refuse_with_the_response(app: Daebus) -> None:
    @app.socket_connect()
    def check(_data: Any, _client_id: str) -> Any:
        return response.error("go away")

    with room(app) as made:
        client = made.knock()
        wait_for(lambda: client.connection.status, SOON)
        assert client.connection.head.endswith(b'{"error":"go away"}')


def test_a_slow_connect_function_holds_up_nobody(app: Daebus) -> None:
    gate = Gate()

    @app.socket_connect()
    def check(data: Any, client_id: str) -> None:
        if "slow" in data:
            gate(data, client_id)

    with room(app) as made:
        slow = made.knock("/?slow=1")
        assert gate.began.wait(SOON)
        made.client()
        assert slow.connection.status == 0
        gate.go.set()
        wait_for(lambda: slow.connection.status == 101, SOON)


def test_who_vanishes_on_the_way_in_is_told_goodbye(app: Daebus) -> None:
    gate, left = Gate(), Event()

    @app.socket_connect()
    def check(data: Any, client_id: str) -> None:
        gate(data, client_id)

    @app.socket_disconnect()
    def leave(_client_id: str) -> None:
        left.set()

    with room(app) as made:
        client = made.knock()
        assert gate.began.wait(SOON)
        made.on_reader(client.connection.close)
        gate.go.set()
        assert left.wait(SOON)
        assert made.ws.get_clients() == []
        assert made.door._opening == 0


def test_what_comes_with_the_handshake_is_read(app: Daebus) -> None:
    declare_echo(app)
    with room(app) as made:
        client = made.knock("/", masked(1, b'{"type":"echo","data":"early"}'))
        assert client.hears(1) == [answer("early")]
        assert client.connection.status == 101


# --- names ---


def test_names(app: Daebus) -> None:
    app.websocket.set_client_id_generator(lambda websocket, path: websocket.headers.get("x-name", "") or path)
    with room(app) as made:
        assert made.client("/a", X_Name="ann").name == "ann"
        assert made.client("/b").name == "/b"
        assert made.status("/c", X_Name="ann") == 409
        assert made.status("/d", X_Name="n" * 501) == 500
        assert sorted(made.ws.get_clients()) == ["/b", "ann"]
        made.ws.clients["ann"].connection.close()
        wait_for(lambda: made.ws.get_client_count() == 1, SOON)
        made.client("/a", X_Name="ann")


def test_usual_names(app: Daebus) -> None:
    with room(app) as made:
        names = {made.client().name for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("user_") and len(name) == 41 for name in names)


# --- coming and going ---


def test_functions_for_clients_that_come_and_go(app: Daebus) -> None:
    happened: list[Any] = []
    ws: DaebusWebSocket = app.websocket

    @ws.on_connect
    def come(client_id: str) -> str:
        happened.append(("come", client_id, ws.is_client_connected(client_id)))
        response.send("welcome")
        return "not sent"

    @ws.on_connect
    async def come_too(client_id: str) -> None:
        happened.append(("come too", client_id))

    @ws.on_disconnect
    def go(client_id: str) -> None:
        happened.append(("go", client_id, ws.is_client_connected(client_id)))

    @app.socket_disconnect()
    def go_too(data: dict[str, Any], client_id: str) -> None:
        happened.append(("go too", client_id, data))

    @app.socket_disconnect()
    def fails(_client_id: str) -> None:
        raise ValueError("in a function for leaving")

    with room(app) as made:
        client = made.client()
        assert client.hears(1) == [answer("welcome")]
        wait_for(lambda: len(happened) == 2, SOON)
        client.raw(masked(CLOSE, close_payload(4001, "bye")))
        wait_for(lambda: len(happened) == 4, SOON)
    name = client.session.client_id
    assert sorted(happened) == [
        ("come", name, True), ("come too", name), ("go", name, False),
        ("go too", name, {"code": 4001, "reason": "bye"}),
    ]  # fmt: skip


def test_who_vanishes_has_gone_with_1006(app: Daebus) -> None:
    codes: list[int] = []

    @app.socket_disconnect()
    def go(data: dict[str, Any], _client_id: str) -> None:
        codes.append(data["code"])

    with room(app) as made:
        made.client().leaves()
        wait_for(lambda: codes == [1006], SOON)


def test_a_register_message(app: Daebus) -> None:
    @app.socket_register()
    def register(data: Any, client_id: str) -> Any:
        return {"known": data, "as": client_id}

    with room(app) as made:
        client = made.client()
        assert client.asks({"type": "register", "data": "panel"}) == answer({"known": "panel", "as": client.name})


def test_two_handlers_for_register_are_a_mistake(app: Daebus) -> None:
    app.socket_register()(lambda data, client_id: None)
    app.socket("register")(lambda data, client_id: None)
    with pytest.raises(DeclarationError, match="two handlers"), room(app):
        pass


def test_nothing_is_left_of_a_client_whose_handler_still_runs(app: Daebus) -> None:
    gate = Gate()
    app.socket("slow")(gate)

    @app.socket("stream")
    def stream(_data: Any) -> Iterator[int]:
        for number in range(1_000_000):
            assert gate.go.wait(SOON)
            yield number

    with room(app) as made:
        client = made.client()
        client.say({"type": "slow"})
        client.say({"type": "slow"})
        client.say({"type": "stream"})
        assert gate.began.wait(SOON)
        client.leaves()
        gate.go.set()
        wait_for(lambda: made.engine.unfinished == 0, SOON)  # the generator, too, has ended
        assert client.messages == []


# --- sending ---


def test_broadcasts_reach_everybody_in_one_order(app: Daebus) -> None:
    ws = app.websocket
    with room(app) as made:
        clients = [made.client() for _ in range(5)]

        def shout(name: str) -> None:
            for number in range(50):
                assert ws.broadcast_to_all([name, number], "news") == 5

        threads = [Thread(target=shout, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        heard = [client.hears(200) for client in clients]
    assert all(one == heard[0] for one in heard)
    assert heard[0][0]["type"] == "news"


def test_sending_to_some(app: Daebus) -> None:
    @app.socket("reply")
    def reply(data: Any, _client_id: str) -> None:
        app.websocket.send(data, "reply")

    with room(app) as made:
        one, two = made.client(), made.client()
        ws = made.ws
        assert ws.send_to_client(one.name, 1) is True
        assert ws.send_to_client("nobody", 1) is False
        assert ws.broadcast_to_clients([one.name, "nobody"], 2, "two") == {one.name: True, "nobody": False}
        assert one.hears(2) == [{"type": "message", "data": 1}, {"type": "two", "data": 2}]
        assert two.messages == []
        assert one.asks({"type": "reply", "data": 5}) == {"type": "reply", "data": 5}
        assert one.session.send('{"as":"it is"}') == 1
        assert one.hears(4)[3] == {"as": "it is"}


def test_a_client_that_takes_nothing_is_cut_off_and_the_others_get_all(
    app: Daebus, caplog: pytest.LogCaptureFixture
) -> None:
    with room(app) as made:
        slow, fast = made.client(), made.client()
        slow.connection.takes = False
        for number in range(30):
            made.ws.broadcast_to_all(["x" * 1000, number])
        assert len(fast.messages) == 30
        assert 9 <= len(slow.messages) <= 10
        assert slow.connection.goodbye is not None
        code, reason = slow.connection.goodbye
        assert code == 1013
        assert reason.startswith("too slow")
        assert made.ws.send_to_client(slow.name, "more") is False
        assert "was cut off" in caplog.text


def test_one_message_may_be_larger_than_the_outbox(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        assert made.ws.send_to_client(client.name, "x" * 50_000)


def test_pings_of_a_client_that_takes_nothing_do_not_pile_up(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        client.connection.takes = False
        client.raw(masked(PING, b"x" * 125) * 200)
        assert len(client.connection.controls) < 100
        assert client.connection.goodbye is not None


# --- who is there ---


def test_what_is_known_of_a_client(app: Daebus) -> None:
    declare_echo(app)
    with room(app) as made:
        ws, client = made.ws, made.client("/path?x=1")
        client.asks({"type": "echo", "data": 1})
        known = ws.get_client_metadata(client.name)
        assert known is not None
        assert {key: known[key] for key in ("path", "remote_address", "secure", "messages_received")} == {
            "path": "/path", "remote_address": ("127.0.0.1", 5000), "secure": False, "messages_received": 1,
        }  # fmt: skip
        assert known["messages_sent"] == 1
        assert known["connected_at"] <= known["last_activity"] + 0.01
        assert 0 <= known["idle_seconds"] <= known["uptime_seconds"]
        assert ws.get_clients_by_filter(lambda _id, meta: meta["path"] == "/path") == [client.name]
        assert ws.get_clients_by_filter(lambda _id, meta: False) == []
        assert (ws.get_client_count(), ws.is_client_connected(client.name), ws.is_running) == (1, True, True)


def test_closing_clients(app: Daebus) -> None:
    with room(app) as made:
        one, two, three = made.client(), made.client(), made.client()
        assert made.ws.disconnect_client(one.name, 4005, "enough") is True
        assert made.ws.disconnect_client(one.name) is False
        assert one.connection.goodbye == (4005, "enough")
        assert not one.connection.closed
        one.raw(masked(CLOSE, close_payload(4005)))
        wait_for(lambda: one.connection.closed, SOON)
        assert made.ws.disconnect_all_clients() == 2
        assert two.connection.goodbye == three.connection.goodbye == (1000, "Server shutting down")
        made.on_reader(lambda: two.session.expired(monotonic()))
        assert two.connection.aborted  # it never answered


def test_a_graceful_shutdown_of_the_clients(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        made.ws.graceful_shutdown(0.0, {"why": "update"})
        assert client.messages == [{"type": "server_shutdown", "data": {"why": "update"}}]
        assert client.connection.goodbye is not None
        assert client.connection.goodbye[0] == 1001
        assert made.status() == 503


# --- control frames, silence ---


def test_pings_are_answered_with_what_they_carry(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        client.raw(masked(PING, b"x" * 125) + masked(PING) + masked(PONG, b"unasked"))
        assert client.connection.controls == [(PONG, b"x" * 125), (PONG, b"")]


@pytest.mark.parametrize("payload", [b"", close_payload(1000), close_payload(4999, "é")])
def test_a_close_frame_is_answered_with_the_same(app: Daebus, payload: bytes) -> None:
    with room(app) as made:
        client = made.client()
        client.raw(masked(CLOSE, payload))
        assert (CLOSE, payload) in client.connection.frames
        assert client.connection.closed


def test_a_client_that_breaks_a_rule_is_told_which(app: Daebus) -> None:
    declare_echo(app)
    with room(app) as made:
        for data, code in (
            (b"\x81\x01x", 1002),
            (masked(1, b"\xff"), 1007),
            (masked(1, b"x" * 5001), 1009),
        ):
            client = made.client()
            client.raw(masked(1, b'{"type":"echo","data":1}') + data + masked(1, b'{"type":"echo","data":2}'))
            assert client.hears(0) in ([], [answer(1)])
            assert client.connection.goodbye is not None
            assert client.connection.goodbye[0] == code
            assert client.connection.closed


def test_a_silent_client_is_asked_and_then_cut_off(app: Daebus) -> None:
    with room(app) as made:
        client, session = made.client(), made.client().session
        connection: Any = session.connection

        def later(seconds: float) -> None:
            made.on_reader(lambda: session.expired(monotonic() + seconds))

        later(10.0)
        assert connection.controls == []  # not yet
        later(20.5)
        assert connection.controls == [(PING, b"")]
        made.on_reader(lambda: session.received(masked(PONG)))
        later(20.5)
        assert connection.controls == [(PING, b"")] * 2
        later(41.0)
        assert connection.aborted
        assert connection.goodbye == (1011, "no sign of life")
        wait_for(lambda: made.ws.get_clients() == [client.name], SOON)


def test_the_end_of_a_connection_without_a_close_frame(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        made.on_reader(client.session.ended)
        wait_for(lambda: made.ws.get_clients() == [], SOON)
        assert client.connection.goodbye is None


# --- rates ---


def test_exactly_so_many_messages_in_a_window(app: Daebus, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("daebus.wsdoor.monotonic", lambda: now[0])
    monkeypatch.setattr("daebus.websocket.monotonic", lambda: now[0])
    declare_echo(app)
    app.websocket.enable_rate_limiting(3, 60)
    with room(app) as made:
        client, other = made.client(), made.client()
        for number in range(3):
            assert not made.ws.is_rate_limited(client.name)
            assert client.asks({"type": "echo", "data": number}) == answer(number)
        now[0] += 15
        refused = {"type": "error", "error": "Rate limit exceeded", "retry_after": 45.0}
        assert client.asks({"type": "echo", "data": 3}) == refused
        assert client.asks({"data": 3, "type": "echo", "request_id": "r"}) == {
            **refused, "request_id": "r", "success": False, "code": "busy",
        }  # fmt: skip
        assert made.ws.is_rate_limited(client.name)
        assert other.asks({"type": "echo", "data": 0}) == answer(0)
        now[0] += 45
        assert not made.ws.is_rate_limited(client.name)
        assert client.asks({"type": "echo", "data": 4}) == answer(4)
        made.ws.record_message_received(client.name)
        made.ws.record_message_received(client.name)
        assert made.ws.is_rate_limited(client.name)
        made.ws.disable_rate_limiting()
        assert not made.ws.is_rate_limited(client.name)
        assert client.asks({"type": "echo", "data": 5}) == answer(5)


# --- the end of the service ---


def test_at_the_end_what_is_at_work_is_finished_first(app: Daebus) -> None:
    gate = Gate()
    app.socket("slow")(gate)
    declare_echo(app)
    with room(app) as made:
        busy, idle = made.client(), made.client()
        busy.say({"type": "slow", "data": "done"})
        assert gate.began.wait(SOON)
        made.on_reader(idle.session.stopping)
        made.on_reader(busy.session.stopping)
        assert idle.connection.goodbye == (1001, "the service is stopping")
        assert busy.connection.goodbye is None
        assert busy.asks({"type": "echo", "request_id": "late"})["code"] == "stopping"
        assert made.door.unfinished == 2
        gate.go.set()
        wait_for(lambda: busy.connection.goodbye, SOON)
        assert busy.messages[-1] == answer("done")
        assert made.status() == 503


# --- the bus ---


def test_clients_that_ask_hear_of_the_bus(app: Daebus) -> None:
    with room(app) as made:
        ours, silent = made.client(), made.client()
        assert ours.asks({"type": "$daebus.hello"}) == {"type": "bus", "v": 1, "connected": True}
        made.bus.change(connected=False)
        made.bus.change(connected=True)
        assert ours.hears(3)[1:] == [{"type": "bus", "connected": False}, {"type": "bus", "connected": True}]
        assert silent.messages == []
        ours.leaves()
        assert made.door._greeted == set()


def test_types_of_daebus_own_are_not_for_handlers(app: Daebus) -> None:
    with pytest.raises(DeclarationError, match="reserved for Daebus itself"):
        app.socket("$daebus.hello")(lambda data, client_id: "mine")


def test_log_lines_have_no_payloads(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def fails(_data: Any, _client_id: str) -> None:
        raise ValueError

    handler: Callable[..., Any] = fails
    app.socket("fails")(handler)
    with room(app) as made:
        client: Client = made.client("/?token=secret-token")
        client.asks({"type": "fails", "data": "secret-data"})
        client.asks({"type": "unknown", "data": "secret-data"})
        client.asks(b"secret-data")
        client.leaves()
    assert "secret" not in caplog.text
