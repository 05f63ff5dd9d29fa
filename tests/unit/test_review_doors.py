"""What two hostile reviews of the HTTP and WebSocket doors found, so that it stays mended."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from threading import Event
from time import monotonic, thread_time
from typing import Any

import pytest

from daebus import Daebus, DaebusHttp, engine, httpdoor, net, wsdoor
from daebus.engine import Engine
from daebus.errors import BadMessage, ConfigurationError, DaebusError, DeclarationError, HttpError, RedisUnavailable
from daebus.exchange import HttpRequest
from daebus.gateway import LONGEST_TIMEOUT, OWN_AT_ONCE
from daebus.hooks import hooks_of
from daebus.http1 import Chunks, read_head
from daebus.jsontext import loads_finite
from daebus.log import Seldom
from daebus.registry import Record, Registry
from daebus.websocket import DaebusWebSocket
from daebus.work import Work
from daebus.wsdoor import AT_WORK
from daebus.wsframes import TEXT
from tests.sockets import SOON, Client, masked, room
from tests.support import wait_for
from tests.unit.test_gateway import asked, call, failed, replies
from tests.unit.test_httpdoor import Bench, Wire, answers_of, get, post
from tests.unit.test_net import Bench as NetBench
from tests.unit.test_net import read

KB, MIB = 1024, 1024 * 1024


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A thread that fails ends the process; here it fails the test."""
    found: list[int] = []
    monkeypatch.setattr(os, "_exit", found.append)
    monkeypatch.setattr(httpdoor, "_seldom", Seldom())
    monkeypatch.setattr(net, "_seldom", Seldom())
    yield found
    assert found == []


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[NetBench]:
    """A network that does not look at its connections by the clock."""
    monkeypatch.setattr(net, "CHECK_PERIOD", 1000.0)
    made = NetBench()
    made.on_reader(lambda: setattr(made.engine, "_next_check", monotonic() + 1000))
    yield made
    monkeypatch.setattr(net, "UNSENT_LIMIT", 64 * MIB)
    made.on_reader(lambda: made.network._check(float("inf")))
    made.close()


class Gate:
    """A handler's work, which goes on when the test says so."""

    def __init__(self) -> None:
        self.go = Event()
        self.entered: list[Any] = []

    def __call__(self, name: Any = None) -> None:
        self.entered.append(name)
        assert self.go.wait(2 * SOON)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.go.set()


# --- nothing that comes from outside ends the service ---


def test_json_that_is_nested_as_deep_as_can_be() -> None:
    """The value is read twice if it may have a number that is too large, and not each time from the same depth."""
    refused = 0
    for depth in range(sys.getrecursionlimit() + 20, 500, -1):
        try:
            loads_finite(b"[" * depth + b"1e100" + b"]" * depth)
        except BadMessage:
            refused += 1
    assert refused > 20


def test_whatever_goes_wrong_while_a_request_is_read_is_its_own_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_wrongly(_request: HttpRequest) -> None:
        raise RuntimeError("a defect")

    bench.route("/", lambda req: req.json, "POST").route("/", lambda: "fine")
    with monkeypatch.context() as patch:
        patch.setattr(HttpRequest, "read", read_wrongly)
        assert bench.ask(post(b"{}", "Content-Type: application/json")).status == 500
    assert bench.answers(get())[1].body == b"fine"


class Failing:
    """A call that ends with what is no ordinary exception."""

    def __init__(self) -> None:
        self.work = Work(Record("action", "act", print))

    def run(self) -> bool:
        raise SystemExit(3)

    def pack(self, data: bytes) -> None:
        """Nothing."""

    def refuse(self, error: DaebusError) -> None:
        """Nobody listens."""


def test_a_message_that_cannot_be_planned_harms_only_itself() -> None:
    def plan(_work: Any, _name: str, _data: bytes) -> Any:
        raise RuntimeError("a defect")

    made, done = Engine(1, lambda: None, lambda: None), Event()
    made.start()
    made.soon(lambda: made.put([(None, plan, "", b"")]))
    made.soon(done.set)
    assert done.wait(SOON)
    wait_for(lambda: made.unfinished == 0, SOON)
    done.clear()
    made.soon(done.set)
    assert done.wait(SOON)
    made.stop()


def test_a_thread_that_ends_by_a_defect_ends_the_service(exits: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """Half a service is worse than none: it is restarted. Even by SystemExit, of which Python says nothing."""
    made = Engine(1, lambda: None, lambda: None)
    made.start()
    made.soon(lambda: made.put([(None, lambda *_: Failing(), "", b"")]))
    wait_for(lambda: exits, SOON)
    assert exits == [70]
    assert "A worker thread failed" in caplog.text
    exits.clear()
    made.stop()
    made._close()  # as the reader would have


def test_a_thread_that_is_just_ending_has_used_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_ident: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr("time.pthread_getcpuclockid", gone)
    assert engine._cpu_seconds(1) == 0.0


# --- the user's functions may do anything ---


def leaving(kind: type[BaseException]) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise kind("leave")

    return function


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("target", ["/", "/none", "/fails"])
def test_a_function_after_a_handler_that_leaves(bench: Bench, kind: type[BaseException], target: str) -> None:
    registry = Registry("here")
    registry.after(leaving(kind))
    bench.dispatcher.hooks = hooks_of(registry)
    bench.route("/", lambda: "x").route("/fails", leaving(ValueError))
    assert bench.ask(get(target)).status == (404 if target == "/none" else 500)


class Unspeakable(DaebusError):
    """An error that leaves when it is to be written."""

    def __str__(self) -> str:
        raise SystemExit(3)


class OddStatus(DaebusError):
    """An error whose status is no key."""

    http_status: Any = [1]  # noqa: RUF012 - that is the point


class OddCode(DaebusError):
    """An error whose code is no text."""

    code: Any = object


class Silent(DaebusError):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("kind", [Unspeakable, OddStatus])
def test_an_error_that_cannot_be_written(bench: Bench, kind: type[DaebusError]) -> None:
    registry = Registry("here")
    registry.error(418)(lambda: "tea")
    bench.dispatcher.hooks = hooks_of(registry)
    assert bench.route("/", leaving(kind)).ask(get()).status == 500


@pytest.mark.parametrize("kind", [Silent, OddCode, Unspeakable])
def test_an_error_that_cannot_be_written_is_answered_to_a_client(kind: type[DaebusError]) -> None:
    """And its message is done with: else the client would not be read from after a few of them."""
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    app.socket("fails")(lambda data, client_id: leaving(kind)())
    with room(app, ws) as made:
        client = made.client()
        answer = client.asks({"type": "fails", "request_id": "r"})
        assert (answer["type"], answer["code"], answer["request_id"]) == ("error", "internal", "r")
        wait_for(lambda: client.session._at_work == 0, SOON)


# --- answers are what they look like ---


@pytest.mark.parametrize("status", [204, 304])
def test_a_stream_with_a_status_that_has_no_body(bench: Bench, status: int) -> None:
    """Its bytes would be taken for the next answer."""
    closed: list[bool] = []

    def parts() -> Generator[str, None, None]:
        try:
            yield "hello"
        finally:
            closed.append(True)

    def handler() -> Any:
        generator = parts()
        next(generator)
        return generator, status

    first, second = bench.route("/", handler).route("/next", lambda: "next").answers(get() + get("/next"))
    assert (first.status, second.status, second.body) == (status, 200, b"next")
    assert "transfer-encoding" not in first.headers
    assert closed == [True]


def test_a_line_break_in_a_header_is_never_sent(bench: Bench) -> None:
    registry = Registry("here")

    @registry.after
    def after(answer: Any) -> None:
        answer.headers.append(("X", "a\r\nSet-Cookie: b"))

    bench.dispatcher.hooks = hooks_of(registry)
    assert bench.route("/", lambda: "x").ask(get()).status == 500
    assert b"Set-Cookie" not in bench.wire.out


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_an_error_does_not_say_how_its_answer_is_framed(name: str) -> None:
    with pytest.raises(ConfigurationError, match="by the server itself"):
        HttpError(404, "x", ((name, "3"),))


# --- what waits takes little memory ---


def test_a_json_body_that_waits_is_read_again(bench: Bench) -> None:
    bench.route("/", lambda req: [req.json, req.payload], "POST")
    (waiting,) = bench.read(post(b'{"a": [[], []]}', "Content-Type: application/json"))
    assert waiting.request.json == {"a": [[], []]}
    waiting.pack(b"")
    assert waiting.request.json is None
    bench.run(waiting)
    assert bench.answers()[0].json == [{"a": [[], []]}] * 2


def test_a_form_that_waits_is_read_again(bench: Bench) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * 2000 + b"\r\n--b--\r\n"
    )

    def handler(req: HttpRequest) -> Any:
        return {"n": req.form["n"], "size": len(req.files["f"].read())}

    bench = Bench(upload_memory=1000).route("/", handler, "POST")
    (waiting,) = bench.read(post(body, "Content-Type: multipart/form-data; boundary=b"))
    file = waiting.request.files["f"].file
    waiting.pack(b"")
    assert file.closed, "it would hold a descriptor"
    assert waiting.request.files == {}
    bench.run(waiting)
    assert bench.answers()[0].json == {"n": "1", "size": 2000}


def test_a_request_without_a_body_waits_as_it_is(bench: Bench) -> None:
    (waiting,) = bench.route("/", lambda req: req.payload).read(get("/?a=1"))
    waiting.pack(b"")
    bench.run(waiting)
    assert bench.answers()[0].json == {"a": "1"}


def test_a_plain_body_on_disk_is_read_only_by_who_wants_it() -> None:
    class Disk(io.BytesIO):
        reads = 0

        def read(self, *_: Any) -> bytes:
            Disk.reads += 1
            return super().read()

    head = read_head(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: x/y\r\nContent-Length: 5\r\n\r\n")
    made = HttpRequest(head, Disk(b"hello"))
    made.read()
    assert Disk.reads == 0
    assert made.payload == b"hello"


def test_a_client_that_sends_ahead_is_soon_paused(bench: Bench) -> None:
    bench.route("/", lambda: None).read(get())
    bench.read(b"x" * 15 * KB)
    assert not bench.wire.paused
    bench.read(b"x" * 5 * KB)
    assert bench.wire.paused


def test_a_connection_is_read_in_small_portions(network: NetBench) -> None:
    sizes: list[int] = []
    client, talk = network.connect()
    talk.on_data = lambda data: sizes.append(len(data))
    client.sendall(b"x" * MIB)
    wait_for(lambda: sum(sizes) == MIB, SOON)
    assert max(sizes) <= 32 * KB


def test_debtors_are_closed_at_once(network: NetBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the clock says so: by then, as much again may wait."""
    _client, small = network.connect(4096)
    _other, large = network.connect(4096)
    small.connection.write(bytes(8 * MIB))
    monkeypatch.setattr(net, "UNSENT_LIMIT", small.connection.pending + 8 * MIB)
    large.connection.write(bytes(16 * MIB))
    wait_for(lambda: large.is_gone, SOON)
    assert not small.is_gone


def test_far_too_much_is_dropped_where_it_is_written(network: NetBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even before the reader can look at who owes it."""
    monkeypatch.setattr(net, "UNSENT_LIMIT", 4 * MIB)
    talks = [network.connect(4096)[1] for _ in range(6)]

    def write() -> int:
        for talk in talks:
            talk.connection.write(bytes(6 * MIB))
        return sum(talk.connection.pending for talk in talks)

    assert network.on_reader(write) <= 8 * MIB
    wait_for(lambda: sum(talk.is_gone for talk in talks) >= 5, SOON)


def test_what_is_owed_is_counted_right(network: NetBench) -> None:
    """Sent, dropped, aborted, given up: in the end nothing is owed."""
    taking, talk = network.connect(4096)
    talk.connection.write(bytes(8 * MIB))
    assert network.network._unsent == talk.connection.pending > 0
    assert len(read(taking, 8 * MIB)) == 8 * MIB
    wait_for(lambda: network.network._unsent == 0, SOON)
    for end in (lambda one: one.abort(), lambda one: one._dispose(), lambda one: one.close()):
        client, talk = network.connect(4096)
        talk.connection.write(bytes(8 * MIB))
        network.on_reader(lambda end=end, one=talk.connection: end(one))  # type: ignore[misc]
        client.close()
        wait_for(lambda talk=talk: talk.is_gone, SOON)  # type: ignore[misc]
        assert network.network._unsent == 0


# --- work that a client makes ---


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1;" + b"e" * 3000 + b"\r\nx\r\n"], ids=["tiny", "extended"])
def test_chunks_that_are_mostly_not_the_body(chunk: bytes) -> None:
    chunks = Chunks(16 * KB)

    def feed() -> None:
        for _ in range(200 * KB // len(chunk)):
            chunks.feed(chunk)

    with pytest.raises(HttpError) as refused:
        feed()
    assert refused.value.http_status == 400


def test_chunks_of_ordinary_clients() -> None:
    chunks, body = Chunks(16 * KB), b""
    for _ in range(1000):
        body += chunks.feed(b"10\r\n0123456789abcdef\r\n")
    body += chunks.feed(b"1\r\nx\r\n" * 1000 + b"0\r\nTrailer: x\r\n\r\n")
    assert (len(body), chunks.done) == (17000, True)


def test_long_numbers_are_looked_at_once() -> None:
    """CPU time, against that for as many digits in shorter numbers."""

    def cost(digits: int) -> float:
        text, costs = b"[" + b",".join([b"1" * digits] * (300_000 // digits)) + b"]", []
        for _ in range(5):
            before = thread_time()
            loads_finite(text)
            costs.append(thread_time() - before)
        return min(costs)

    assert cost(308) < 3 * cost(20)


def test_messages_whose_type_must_be_read_are_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[int] = []

    class Counting(deque[Any]):
        def append(self, value: Any) -> None:
            moves.append(1)
            super().append(value)

    monkeypatch.setattr(wsdoor, "deque", Counting)
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    app.socket("echo")(lambda data, client_id: data)
    count = 300
    with room(app, ws) as made:
        client = made.client()
        moves.clear()
        client.raw(b"".join(masked(TEXT, b'{"data": %d, "type": "echo"}' % number) for number in range(count)))
        assert [answer["data"] for answer in client.hears(count)] == list(range(count))
    assert len(moves) <= 2 * count


# --- the end of the service ---


class Late(Wire):
    """A connection whose client has just sent something, which nobody has read yet."""

    def __init__(self, late: bytes) -> None:
        super().__init__()
        self.late = late
        self.items: list[Any] = []

    def read_now(self) -> None:
        self.items += self.protocol.received(self.late)


@pytest.mark.parametrize("late", [get(), get()[:20]], ids=["whole", "part"])
def test_what_has_come_when_the_service_stops_is_answered(bench: Bench, late: bytes) -> None:
    wire: Any = Late(late)
    wire.protocol = bench.route("/", lambda: "x").door.accept(wire)
    bench.door.stopping = True
    wire.protocol.stopping()
    for work, plan, name, data in wire.items:
        bench.run(plan(work, name, data))
    (answer,) = answers_of(wire.out)
    assert answer.status == (200 if late == get() else 503)
    assert answer.headers["connection"] == "close"
    assert wire.ending == "close"


def test_a_body_that_is_coming_in_when_the_service_stops_is_refused(bench: Bench) -> None:
    bench.route("/", lambda: "x", "POST").read(post(b"x" * 100)[:-50])
    bench.door.stopping = True
    bench.protocol.stopping()
    (answer,) = answers_of(bench.wire.out)
    assert (answer.status, answer.json["error"]) == (503, "the service is stopping")
    assert bench.wire.ending == "close"


def test_an_answer_that_ends_while_the_service_stops_closes(bench: Bench) -> None:
    """It may have begun before, with the promise to keep the connection."""
    (call_,) = bench.route("/", lambda: "x").read(get())
    encoded = bench.door.encoded

    def stop_meanwhile(*arguments: Any) -> bytes:
        bench.door.stopping = True
        return encoded(*arguments)

    bench.door.encoded = stop_meanwhile  # type: ignore[method-assign, assignment]
    bench.run(call_)
    assert bench.wire.ending == "close"


def test_those_who_wait_to_be_accepted_are_told_of_the_end(network: NetBench) -> None:
    def stop() -> list[str]:
        clients = [network.dial() for _ in range(3)]  # nobody accepts meanwhile: this is the reader
        clients[0].sendall(b"asked")
        network.network.stop_listening()
        network.talks[0].connection.read_now()
        return [" ".join(talk.told) for talk in network.talks]

    assert network.on_reader(stop) == ["stopping"] * 3
    assert network.talks[0].data == b"asked"


def test_events_that_were_told_of_the_end_are_not_waited_for(bench: Bench) -> None:
    from daebus import response

    def events() -> Generator[str, None, None]:
        yield "x"

    for function in bench.read(get()) if bench.route("/", lambda: response.events(events())) else []:
        bench.run(function)
    assert len(bench.door.streams) == 1  # its generator has not been begun: it waits
    bench.protocol.stopping()
    assert bench.wire.closed
    assert bench.door.streams == set()
    bench.settle()


def test_a_client_that_leaves_a_stream_frees_its_connection(bench: Bench) -> None:
    """Though its generator goes on to wait."""

    def parts() -> Generator[str, None, None]:
        yield "x"

    for one in bench.route("/", parts).read(get()):
        bench.run(one)
    bench.protocol.ended()
    assert bench.wire.ending == "abort"
    bench.settle()


# --- a WebSocket's handshake ---


class Sockets:
    """In place of the WebSocket door."""

    def __init__(self) -> None:
        self.asked: list[HttpRequest] = []

    def upgrade(self, _connection: Any, http: HttpRequest) -> list[Any]:
        self.asked.append(http)
        return []


@pytest.mark.parametrize(
    ("lines", "taken"),
    [
        (["Upgrade: websocket"], True),
        (["Upgrade: h2c, WebSocket"], True),
        (["Upgrade: h2c"], False),
        (["Upgrade: websockets"], False),
        (["Upgrade: websocket", "Content-Length: 5"], False),
        (["Upgrade: websocket", "Transfer-Encoding: chunked"], False),
    ],
)
def test_who_is_passed_on_to_the_websocket_door(bench: Bench, lines: list[str], taken: bool) -> None:
    bench.sockets = sockets = Sockets()
    bench.make()
    bench.read(get("/ws", "Connection: Upgrade", *lines) + b"frame")
    assert bool(sockets.asked) is taken
    if "websocket" in lines[0].split()[-1].lower().split(",") and not taken:
        assert answers_of(bench.wire.out)[0].status == 400


# --- what a client may say to the gateway ---


@pytest.fixture
def app(gate: Gate) -> Daebus:
    """The service "svc" with a gateway."""
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    ws.gateway(actions=["device/readings", "own", "gated", "waits", "tells"], channels=["results.*"])
    app.action("own")(lambda payload=None: "done")

    @app.action("gated", inline=False)
    def gated() -> str:
        from daebus import request

        gate(request.payload)
        return "late"

    @app.action("waits")
    async def waits() -> None:
        await asyncio.sleep(3600)

    @app.action("tells")
    def tells() -> None:
        raise RedisUnavailable("Redis is away")

    @app.socket("echo")
    def echo(data: Any, client_id: str) -> Any:
        return data

    @app.socket("slow", inline=False)
    def slow(data: Any, client_id: str) -> None:
        gate(data)

    return app


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "broadcast"])
@pytest.mark.parametrize("channel", ["1e999", '{"a": 1e999}', "[-1e999]", '"' + "\u20ac" * 501 + '"'])
def test_a_channel_that_is_none_is_not_echoed(app: Daebus, kind: str, channel: str) -> None:
    with room(app) as made:
        client = made.client()
        client.say(f'{{"type":"{kind}","channel":{channel},"request_id":"r"}}'.encode())
        (answer,) = client.hears(1)
        assert (answer["type"], answer["success"], answer["request_id"]) == ("error", False, "r")
        assert "channel" not in answer
        assert client.asks({"type": "echo", "data": 1})["data"] == 1


@pytest.mark.parametrize("timeout", ["1" + "0" * 400, "1e999", "1e308"])
def test_a_timeout_larger_than_all_is_the_longest(app: Daebus, timeout: str) -> None:
    with room(app) as made:
        client = made.client()
        client.say(f'{{"type":"publish","channel":"svc","data":{{"action":"own","timeout":{timeout}}}}}'.encode())
        assert client.hears(1)[0]["data"] == "done"
        before = len(made.bus.delivered)
        ask = f'{{"type":"publish","channel":"device","data":{{"action":"readings","timeout":{timeout}}}}}'
        client.say(ask.encode())
        wait_for(lambda: len(made.bus.delivered) > before, SOON)
        assert made.bus.delivered[before][1]["timeout"] == LONGEST_TIMEOUT


def test_whatever_goes_wrong_with_a_frame_is_its_own_answer(app: Daebus, monkeypatch: pytest.MonkeyPatch) -> None:
    with room(app) as made:
        client = made.client()

        def defect(*_: Any) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(made.bus, "deliver", defect)
        client.say(call("device", "readings"))
        assert client.hears(1)[0]["code"] == "internal"
        assert client.asks({"type": "echo", "data": 1})["data"] == 1
        assert client.session._at_work == 0


@pytest.mark.parametrize("channel", ["results.**", "results.t*", "results.[a]", "results.?"])
def test_a_pattern_is_only_heard_if_it_is_listed(app: Daebus, channel: str) -> None:
    """Redis would be asked for the listed one, whose messages have other names."""
    with room(app) as made:
        client = made.client()
        assert client.asks({"type": "subscribe", "channel": channel, "request_id": 1})["code"] == "forbidden"
        assert client.asks({"type": "subscribe", "channel": "results.*", "request_id": 2})["success"] is True
        assert client.asks({"type": "subscribe", "channel": "results.x", "request_id": 3})["success"] is True


# --- calls of our own actions ---


def test_one_client_does_not_take_all_workers(app: Daebus, gate: Gate) -> None:
    with room(app, max_workers=OWN_AT_ONCE + 1) as made:
        greedy, other = made.client(), made.client()
        for number in range(20):
            greedy.say(call("svc", "gated", number, request_id=number))
        wait_for(lambda: len(gate.entered) == OWN_AT_ONCE, SOON)
        other.say({"type": "slow", "data": "other"})
        wait_for(lambda: "other" in gate.entered, SOON)
        assert len(gate.entered) == OWN_AT_ONCE + 1
        gate.go.set()
        assert sorted(answer["request_id"] for answer in greedy.hears(20)) == list(range(20))
        wait_for(lambda: greedy.session.own_running == 0 and greedy.session._at_work == 0, SOON)


def test_calls_that_waited_for_their_turn_may_have_to_wait_for_a_worker(app: Daebus, gate: Gate) -> None:
    """What is read of them is then given up, and read again from the frame."""
    with room(app, max_workers=1) as made:
        clients = [made.client() for _ in range(3)]
        for client in clients:
            for number in range(OWN_AT_ONCE + 3):
                client.say(call("svc", "gated", number, request_id=number))
        wait_for(lambda: gate.entered, SOON)
        gate.go.set()
        for client in clients:
            answers = client.hears(OWN_AT_ONCE + 3)
            assert [answer.get("data") for answer in answers] == ["late"] * (OWN_AT_ONCE + 3)


def test_a_call_of_our_own_has_its_answer_in_time(app: Daebus, gate: Gate) -> None:
    with room(app) as made:
        client = made.client()
        client.say(call("svc", "gated", timeout=0.2))
        assert failed(client.hears(1)[0], "timeout") == "No answer within 0.2 s"
        assert not gate.go.is_set()
        gate.go.set()
        wait_for(lambda: client.session.own_running == 0, SOON)
        assert client.asks({"type": "echo", "data": 1})["data"] == 1
        assert len(client.messages) == 2, "an answer came after the answer"


def test_calls_that_were_given_up_while_they_waited_are_not_run(app: Daebus, gate: Gate) -> None:
    with room(app) as made:
        client = made.client()
        for number in range(OWN_AT_ONCE + 4):
            client.say(call("svc", "gated", number, request_id=number, timeout=60 if number < OWN_AT_ONCE else 0.1))
        late = client.hears(4)
        assert {answer["code"] for answer in late} == {"timeout"}
        gate.go.set()
        wait_for(lambda: client.session.own_running == 0, SOON)
        assert sorted(gate.entered) == list(range(OWN_AT_ONCE)), "workers enter in any order"
        assert client.session._at_work == 0, "each message is done with once"


def test_deadlines_are_not_bound_to_the_looks_at_connections(app: Daebus) -> None:
    with room(app) as made:
        looks: list[float] = []
        made.on_reader(lambda: made.engine.every(2.0, looks.append))
        made.on_reader(lambda: setattr(made.engine, "_next_check", monotonic() + 1000))
        client = made.client()
        for timeout in (0.3, 0.1, 0.2):
            client.say(call("device", "readings", request_id=str(timeout), timeout=timeout))
        assert [answer["request_id"] for answer in client.hears(3)] == ["0.1", "0.2", "0.3"]
        assert {answer["code"] for answer in client.messages} == {"timeout"}
        assert looks == []


def test_functions_are_run_at_their_time() -> None:
    made, ran, done = Engine(1, lambda: None, lambda: None), [], Event()
    made.start()
    now = monotonic()
    made.later(now + 0.15, done.set)
    for number in (3, 1, 2):
        made.later(now + number * 0.03, lambda number=number: ran.append(number))  # type: ignore[misc]
    assert done.wait(SOON)
    assert ran == [1, 2, 3]
    made.stop()


def test_coroutines_count_until_they_end(app: Daebus) -> None:
    """One client cannot fill the places of all coroutines."""
    with room(app) as made:
        client = made.client()
        for number in range(AT_WORK - 1):
            client.say(call("svc", "waits", request_id=number, timeout=0.1))
        client.hears(AT_WORK - 1)
        assert len(made.dispatcher.awaiting) <= OWN_AT_ONCE


def test_an_outage_is_told_as_such(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    with room(app) as made:
        answer = made.client().asks(call("svc", "tells"))
        assert "not available now" in failed(answer, "redis_unavailable")
        assert "Redis is away" not in answer["error"]
    assert "Redis is away" in caplog.text
    assert "Traceback" not in caplog.text


# --- calls of other services ---


def test_no_service_can_guess_the_id_of_another_call(app: Daebus) -> None:
    """It could answer in another's place."""
    with room(app) as made:
        client, ids = made.client(), []
        for number in range(3):
            data, _receipt = asked(made, client, call("device", "readings", request_id=number))
            ids.append(data["request_id"])
        starts = {one[:8] for one in ids}, {one[-8:] for one in ids}
        assert [len(one) for one in starts] == [3, 3]
        replies(made, json.dumps({"status": "success", "payload": 1, "request_id": ids[1], "final": True}).encode())
        assert client.hears(1)[0]["request_id"] == 1


# --- clients that have gone ---


def test_nothing_is_run_for_a_client_that_has_gone(app: Daebus, gate: Gate) -> None:
    with room(app, max_workers=1) as made:
        one, two = made.client(), made.client()
        one.say({"type": "slow", "data": "one"})
        wait_for(lambda: gate.entered, SOON)
        two.say({"type": "slow", "data": "two"})
        two.say(call("svc", "gated", "two"))
        wait_for(lambda: made.engine.unfinished == 3, SOON)
        session = two.session
        two.leaves()
        gate.go.set()
        wait_for(lambda: made.engine.unfinished == 0, SOON)
        assert gate.entered == ["one"]
        assert session._at_work == 0


def test_a_generator_without_anything_to_say_ends_with_its_client() -> None:
    app, go, began, ended = Daebus("app"), Event(), Event(), Event()
    ws = app.attach(DaebusWebSocket(9001))

    @app.socket("watch", inline=False)
    def watch(data: Any, client_id: str) -> Generator[None, None, None]:
        began.set()
        try:
            assert go.wait(SOON)
            for _ in range(3):
                yield None
            raise AssertionError("nobody listens any more")
        except GeneratorExit:
            ended.set()

    with room(app, ws) as made:
        client = made.client()
        client.say({"type": "watch"})
        assert began.wait(SOON)
        client.leaves()
        go.set()
        assert ended.wait(SOON)


@pytest.mark.parametrize("whole", [False, True], ids=["fragments", "a frame"])
def test_unfinished_messages_of_all_clients_are_bounded(whole: bool) -> None:
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    app.socket("echo")(lambda data, client_id: data)
    part = masked(TEXT, bytes(MIB), fin=whole)[: -1 if whole else None]
    with room(app, ws) as made:
        clients: list[Client] = []
        for _ in range(20):
            clients.append(made.client())
            clients[-1].raw(part)
        assert made.door.partial <= wsdoor.PARTIAL_BYTES
        cut_off = [client for client in clients if client.connection.goodbye is not None]
        assert [client.connection.goodbye for client in cut_off] == [(1013, "too many large messages at once")] * len(
            cut_off
        )
        assert len(cut_off) >= 4
        assert clients[0].connection.goodbye is None
        for client in clients:
            made.on_reader(client.connection.close)
        wait_for(lambda: not made.door.sessions, SOON)
        assert made.door.partial == 0


def test_an_unfinished_message_has_its_time() -> None:
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    app.socket("echo")(lambda data, client_id: data)
    with room(app, ws) as made:
        client = made.client()
        client.raw(masked(TEXT, b"{", fin=False))
        client.raw(masked(0xA))
        assert client.connection.goodbye is None
        made.on_reader(lambda: client.session.expired(monotonic() + wsdoor.PARTIAL_LIMIT + 1))
        assert client.connection.goodbye == (1008, "the message took too long")


def test_whoever_gives_an_id_is_answered_even_with_nothing() -> None:
    """A page that awaits an answer would wait for its timeout."""
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))

    @app.socket("nothing")
    def nothing(data: Any, client_id: str) -> None:
        """Return nothing."""

    with room(app, ws) as made:
        client = made.client()
        assert client.asks({"type": "nothing", "request_id": "r"}) == {
            "type": "response", "data": None, "request_id": "r", "success": True,
        }  # fmt: skip
        client.say({"type": "nothing"})
        client.say({"type": "nothing", "request_id": "s"})
        assert client.hears(2)[1]["request_id"] == "s"


# --- what newcomers stumbled over ---


@pytest.mark.parametrize("component", [DaebusHttp, DaebusWebSocket])
def test_a_class_is_not_attached(component: type) -> None:
    with pytest.raises(TypeError, match=rf"app\.attach\({component.__name__}\(\.\.\.\)\)"):
        Daebus("app").attach(component)


def test_a_folder_knows_where_it_was_declared() -> None:
    app = Daebus("app")
    app.static("/", ".")
    with pytest.raises(DeclarationError) as error:
        app.static("/", ".")
    assert str(error.value).count(f"{__file__}:") == 2


def test_a_value_and_headers_as_flask_has_them(bench: Bench) -> None:
    answer = bench.route("/", lambda: ({"a": 1}, {"X-Y": "z"})).ask(get())
    assert (answer.status, answer.json, answer.headers["x-y"]) == (200, {"a": 1}, "z")


@pytest.mark.parametrize("where", ["query", "params", "form", "payload"])
def test_a_field_that_is_missing_is_the_clients_mistake(bench: Bench, where: str) -> None:
    form = "Content-Type: application/x-www-form-urlencoded"
    bench.route("/", lambda req: getattr(req, where)["x"], "POST")
    answer = bench.ask(post(b"y=1", form, target="/?y=1"))
    assert (answer.status, answer.json) == (400, {"error": "the field 'x' is missing"})


@pytest.mark.parametrize("methods", [["G ET"], ["GET", ""]])
def test_a_method_that_is_none_is_refused_where_it_is_declared(methods: list[Any]) -> None:
    with pytest.raises(DeclarationError, match="is not an HTTP method"):
        Registry("here").route("/", methods=methods)
