"""WebSockets from outside: real services, real Redis, the `websockets` package or plain sockets as clients."""

from __future__ import annotations

import json
import random
import signal
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from daebus.gateway import matches
from daebus.redisserver import PrivateServer
from tests.outside import (
    ANSWER_SECONDS,
    HttpLink,
    Launcher,
    Link,
    NotRunning,
    Script,
    Watch,
    fetch,
    free_port,
    listens,
    subscribers,
)
from tests.sockets import HANDSHAKE, Incoming, masked
from tests.support import wait_for

SOCKET = """
from daebus import DaebusWebSocket
ws = DaebusWebSocket(**json.loads(os.environ.get("WS", "{}")))
app.attach(ws)
"""

SERVICE = """
@app.socket("echo")
def echo(data, client_id):
    return data

@app.socket("slow")
def slow(data, client_id):
    note("begun")
    time.sleep(data)
    return "slept"

@app.socket("count")
def count(data, client_id):
    return ws.get_client_count()

@app.socket("shout")
def shout(data, client_id):
    return ws.broadcast_to_all(data)

@app.socket("fails")
async def fails(data, client_id):
    raise ValueError("secret")

@app.socket("parts")
async def parts(data, client_id):
    for part in data:
        yield part

@ws.on_disconnect
def left(client_id):
    note("left")
"""


@contextmanager
def client(port: int, path: str = "/", **options: Any) -> Iterator[ClientConnection]:
    """A client that comes in, and goes with a close frame."""
    with connect(f"ws://127.0.0.1:{port}{path}", open_timeout=ANSWER_SECONDS, proxy=None, **options) as made:
        yield made


def hear(one: ClientConnection) -> Any:
    return json.loads(one.recv(ANSWER_SECONDS))


def ask(one: ClientConnection, message: Any) -> Any:
    one.send(message if isinstance(message, str | bytes) else json.dumps(message))
    return hear(one)


def site(launch: Launcher, body: str = SERVICE, *, ws: dict[str, Any] | None = None, **options: Any) -> Script:
    """A service with HTTP and a WebSocket, on one port unless said otherwise."""
    env = {"WS": json.dumps({"port": "same", **(ws or {})}), **options.pop("env", {})}
    return launch.site(SOCKET + textwrap.dedent(body), env=env, **options)


def site_on_two_ports(launch: Launcher, body: str, bus: PrivateServer) -> Script:
    """The same with the default ports. The next port may be some client's by chance: then elsewhere."""
    for _ in range(10):
        try:
            return site(launch, body, ws={"port": None}, server=bus)
        except NotRunning as error:
            if "is taken" not in str(error):
                raise
    raise NotRunning("no two ports beside each other are free")


@pytest.fixture
def script(launch: Launcher, bus: PrivateServer) -> Script:
    return site(launch, server=bus)


class RawClient:
    """A client on a plain socket, which need not read, nor follow any rule."""

    def __init__(self, port: int, path: str = "/", headers: dict[str, str] | None = None) -> None:
        self.link = HttpLink(port)
        self.incoming = Incoming()
        self.link.send(self.link.head("GET", path, {**HANDSHAKE, **(headers or {})}))
        head = self.link.part(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.incoming.feed(self.link._data)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def send(self, data: bytes) -> None:
        self.link.send(data)

    def frame(self, number: int) -> tuple[int, bytes]:
        """The frame of that number, when it has come."""
        while len(self.incoming.frames) <= number:
            data = self.link._receive(None)
            assert data, f"closed after {self.incoming.frames}"
            self.incoming.feed(data)
        return self.incoming.frames[number]

    def until_closed(self) -> list[tuple[int, bytes]]:
        """All frames until the server ends the connection."""
        try:
            while data := self.link._receive(None):
                self.incoming.feed(data)
        except AssertionError:
            pass  # a reset ends it as well
        return self.incoming.frames


# --- ports and handshakes ---


def test_on_the_http_port_and_on_the_one_after_it(launch: Launcher, bus: PrivateServer) -> None:
    script = site_on_two_ports(launch, SERVICE + "@app.route('/x')\ndef x(req):\n    return 'x'\n", bus)
    for port in (script.port, script.port + 1):
        with client(port, "/any/path?x=1") as one:
            assert ask(one, {"type": "echo", "data": 5}) == {"type": "response", "data": 5}
    assert fetch(script.port, "GET", "/x").text == "x"
    answer = fetch(script.port + 1, "GET", "/x")
    assert (answer.status, answer.header("upgrade")) == (426, "websocket")


def test_on_the_http_port_alone(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus)
    with client(script.port) as one:
        assert ask(one, {"type": "count"})["data"] == 1
    assert not listens(script.port + 1)


def test_on_a_port_of_its_own_without_http(launch: Launcher, bus: PrivateServer) -> None:
    port = free_port()
    script = launch.service(SOCKET + SERVICE, server=bus, env={"WS": json.dumps({"port": port})})
    with client(port) as one:
        assert ask(one, {"type": "count"})["data"] == 1
    assert f"127.0.0.1:{port}" in script.log


def test_without_http_and_without_a_port_nothing_starts(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.start(SOCKET + SERVICE, server=bus)
    assert script.wait() != 0
    assert "needs a port of its own" in script.log


def test_foreign_pages_stay_outside(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus, ws={"allowed_origins": ["https://panel.example"], "path": "/ws"})
    for origin in (f"http://127.0.0.1:{script.port}", f"http://localhost:{script.port}", "https://panel.example"):
        host = {"Host": f"localhost:{script.port}"} if "localhost" in origin else {}
        with RawClient(script.port, "/ws", {**host, "Origin": origin}):
            pass
    for path, origin, status in (
        ("/ws", "http://evil.example", 403),
        ("/ws", "null", 403),
        ("/other", "https://panel.example", 404),
    ):
        with pytest.raises(InvalidStatus) as refused, client(script.port, path, origin=origin):
            pass
        assert refused.value.response.status_code == status
    answer = fetch(script.port, "GET", "/ws", {**HANDSHAKE, "Host": "evil.example"})
    assert answer.status == 421


def test_the_token_of_the_query_decides(launch: Launcher, bus: PrivateServer) -> None:
    body = """
    @app.socket_connect()
    def check(data, client_id):
        return {"hello": client_id} if data.get("token") == "good" else False

    @app.socket_disconnect()
    def bye(client_id):
        note("bye")
    """
    script = site(launch, body, server=bus)
    with client(script.port, "/?token=good") as one:
        assert hear(one)["data"]["hello"].startswith("user_")
    with pytest.raises(InvalidStatus) as refused, client(script.port, "/?token=bad"):
        pass
    assert refused.value.response.status_code == 403
    wait_for(lambda: script.notes == ["bye"], ANSWER_SECONDS)


def test_no_more_clients_than_allowed(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus, ws={"max_clients": 2})
    with client(script.port), client(script.port):
        with pytest.raises(InvalidStatus) as refused, client(script.port):
            pass
        assert refused.value.response.status_code == 503

    def again() -> bool:
        try:
            with client(script.port):
                return True
        except InvalidStatus:
            return False

    wait_for(again, ANSWER_SECONDS)


# --- messages ---


def test_messages_and_mistakes(script: Script) -> None:
    with client(script.port) as one:
        assert ask(one, {"type": "echo", "data": {"é": [1]}}) == {"type": "response", "data": {"é": [1]}}
        assert ask(one, b'{"type":"echo","data":"binary"}') == {"type": "response", "data": "binary"}
        assert ask(one, {"type": "none"}) == {"type": "error", "error": "No handler found for message type 'none'"}
        assert ask(one, {"data": 1}) == {"type": "error", "error": "No message type provided"}
        assert ask(one, "{nonsense") == {"type": "error", "error": "Invalid JSON"}
        assert ask(one, "[1]")["type"] == "error"
        failure = ask(one, {"type": "fails"})
        assert failure["type"] == "error"
        assert failure["data"]["error_id"] in script.log
        assert "secret" not in json.dumps(failure)
        one.send(json.dumps({"type": "parts", "data": [1, 2, 3]}))
        assert [hear(one)["data"] for _ in range(3)] == [1, 2, 3]


def test_messages_in_parts_and_large_ones(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus, ws={"max_message": 200_000})
    with client(script.port, max_size=None) as one:
        text = json.dumps({"type": "echo", "data": "κόσμε" * 10_000}, ensure_ascii=False)
        one.send(text[at : at + 7000] for at in range(0, len(text), 7000))
        assert hear(one)["data"] == "κόσμε" * 10_000
        one.ping().wait(ANSWER_SECONDS)
        one.send(json.dumps({"type": "echo", "data": "x" * 200_000}))
        with pytest.raises(ConnectionClosed) as closed:
            one.recv(ANSWER_SECONDS)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_a_slow_handler_holds_up_nobody(script: Script) -> None:
    with client(script.port) as one, client(script.port) as two:
        one.send(json.dumps({"type": "slow", "data": 2.0}))
        wait_for(lambda: script.notes == ["begun"], ANSWER_SECONDS)
        assert ask(one, {"type": "echo", "data": "same client"})["data"] == "same client"
        assert ask(two, {"type": "echo", "data": "other client"})["data"] == "other client"
        assert hear(one)["data"] == "slept"


def test_many_messages_of_one_client_are_answered_in_order(script: Script) -> None:
    """More at once than are read before the first is done."""
    with RawClient(script.port) as one:
        one.send(b"".join(masked(1, b'{"type":"echo","data":%d}' % number) for number in range(5000)))
        one.frame(4999)
        assert [json.loads(payload)["data"] for _kind, payload in one.incoming.frames] == list(range(5000))


def test_rate_limits(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, SERVICE + "ws.enable_rate_limiting(5, 3600)\n", server=bus)
    with client(script.port) as one, client(script.port) as two:
        assert [ask(one, {"type": "echo", "data": n})["data"] for n in range(5)] == list(range(5))
        refused = ask(one, {"type": "echo"})
        assert (refused["error"], 3500 < refused["retry_after"] <= 3600) == ("Rate limit exceeded", True)
        assert ask(two, {"type": "echo", "data": 1})["data"] == 1


# --- broadcasts ---


SHOUTING = """
@app.thread("shouts")
def shouts(running):
    while running() and ws.get_client_count() < 5:
        time.sleep(0.01)
    for n in range(200):
        ws.broadcast_to_all(["thread", n])

@app.listen("news")
def news(payload):
    ws.safe_broadcast_to_all(["listener", payload["n"]])
"""


def test_all_hear_all_broadcasts_in_one_order(launch: Launcher, bus: PrivateServer) -> None:
    """From handlers, from threads and from listeners at once."""
    script = site(launch, SERVICE + SHOUTING, server=bus)
    with ExitStack() as stack, Link(bus) as link:
        clients = [stack.enter_context(client(script.port, max_queue=None)) for _ in range(5)]
        for number in range(200):
            link.call("PUBLISH", "news", json.dumps({"n": number}))
            if number < 50:
                clients[number % 5].send(json.dumps({"type": "shout", "data": ["handler", number]}))
        heard = [[hear(one) for _ in range(460)] for one in clients]
    broadcasts = [[one["data"] for one in all_of if one["type"] == "broadcast"] for all_of in heard]
    assert all(one == broadcasts[0] for one in broadcasts)
    for who, count in (("thread", 200), ("listener", 200), ("handler", 50)):
        assert len([one for one in broadcasts[0] if one[0] == who]) == count
    assert [n for who, n in broadcasts[0] if who == "listener"] == list(range(200))


def test_who_does_not_read_is_cut_off_and_the_others_get_all(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus, ws={"outbox": 256 * 1024})
    with RawClient(script.port) as slow, client(script.port, max_queue=None) as fast:
        for number in range(500):
            said = ask(fast, {"type": "shout", "data": ["x" * 100_000, number]})
            assert said["data"][1] == number
            if hear(fast)["data"] == 1:  # to how many it went
                break
        else:
            pytest.fail("a client that reads nothing was sent 50 MB")
        assert ask(fast, {"type": "count"})["data"] in (1, 2)
        frames = slow.until_closed()
    wait_for(lambda: "was cut off" in script.log, ANSWER_SECONDS)
    code = [int.from_bytes(payload[:2], "big") for kind, payload in frames if kind == 8]
    assert code in ([], [1013])  # it may be too slow even for that
    wait_for(lambda: script.notes.count("left") == 2, ANSWER_SECONDS)


# --- coming and going ---


def test_nothing_is_left_of_clients_that_vanish(script: Script) -> None:
    with client(script.port) as one:
        ask(one, {"type": "count"})
        threads, descriptors = script.threads(), script.descriptors()
        vanished = [RawClient(script.port) for _ in range(200)]
        for number, raw in enumerate(vanished):
            if number % 2:
                raw.send(masked(1, b'{"type":"echo","data":1}')[:9])
            raw.link.reset()
        wait_for(lambda: script.notes.count("left") == 200, ANSWER_SECONDS)
        assert ask(one, {"type": "count"})["data"] == 1
        wait_for(lambda: script.descriptors() == descriptors, ANSWER_SECONDS)
        wait_for(lambda: script.threads() <= threads, ANSWER_SECONDS)


def test_idle_clients_cost_little(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus, ws={"max_clients": 600})
    with ExitStack() as stack:
        stack.enter_context(RawClient(script.port))
        before, threads = script.resident_kb(), script.threads()
        for _ in range(500):
            stack.enter_context(RawClient(script.port))
        assert script.resident_kb() - before <= 16 * 1024
        wait_for(lambda: script.threads() <= threads, ANSWER_SECONDS)


def test_silent_clients_are_asked_and_dead_ones_closed(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus, ws={"ping_interval": 0.5})
    with client(script.port) as alive, RawClient(script.port) as dead:
        assert dead.frame(0) == (9, b"")
        frames = dead.until_closed()
        assert [int.from_bytes(payload[:2], "big") for kind, payload in frames if kind == 8] == [1011]
        assert ask(alive, {"type": "count"})["data"] == 1  # its library answers pings by itself


def test_at_the_end_clients_are_told_and_get_their_answers(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, server=bus)
    with client(script.port) as busy, client(script.port) as idle:
        busy.send(json.dumps({"type": "slow", "data": 1.0}))
        wait_for(lambda: "begun" in script.notes, ANSWER_SECONDS)
        script.send_signal(signal.SIGTERM)
        for one, answers in ((idle, []), (busy, ["slept"])):
            assert [hear(one)["data"] for _ in answers] == answers
            with pytest.raises(ConnectionClosed) as closed:
                one.recv(ANSWER_SECONDS)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
    assert script.wait() == 0
    assert "Traceback" not in script.log


def test_nothing_that_clients_send_does_harm(script: Script) -> None:
    """Pieces of frames, broken ones, and text of all kinds."""
    rng = random.Random(6455)
    threads = script.threads()
    good = masked(1, b'{"type":"echo","data":1}')
    for _ in range(150):
        with RawClient(script.port) as one:
            pieces = [_piece(rng, good) for _ in range(rng.randrange(1, 6))]
            try:
                one.send(b"".join(pieces))
            except OSError:
                continue  # closed already
    with client(script.port) as one:
        assert ask(one, {"type": "echo", "data": "alive"})["data"] == "alive"
        wait_for(lambda: ask(one, {"type": "count"})["data"] == 1, ANSWER_SECONDS)
    wait_for(lambda: script.threads() <= threads + 1, ANSWER_SECONDS)
    assert "defect" not in script.log


def _piece(rng: random.Random, good: bytes) -> bytes:
    choice = rng.randrange(5)
    if choice == 0:
        return good
    if choice == 1:
        return rng.randbytes(rng.randrange(1, 60))
    if choice == 2:
        return good[: rng.randrange(1, len(good))]
    if choice == 3:
        broken = bytearray(good)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        return bytes(broken)
    depth = rng.randrange(1, 3000)
    return masked(rng.choice((0, 1, 2, 8, 9, 10)), rng.choice((b"[" * depth, b'{"type":' * depth, b"\xff" * 5)))


# --- the gateway ---

GATEWAY = """
ws.gateway(actions=["device/readings", "device/slow", "absent/x", "own"], channels=["news", "sensor.*"],
           publish=["panel.touch"])

@app.action("own")
def own():
    return {"own": request.payload}

@app.listen("news")
def news(payload):
    note("listener")
    time.sleep(30)

@app.listen("panel.touch")
def touched(payload):
    note(json.dumps(payload))
"""

DEVICE = """
@app.action("readings")
def readings():
    response.progress({"half": True}, 50)
    return {"of": request.payload}

@app.action("slow")
def slow():
    time.sleep(30)
"""


def call(service: str, action: str, payload: Any = None, request_id: str = "req_1", **more: Any) -> dict[str, Any]:
    """As the TypeScript client writes it."""
    fields = {"action": action, "payload": payload, "reply_channel": f"reply_{request_id}", "request_id": request_id}
    return {"type": "publish", "channel": service, "data": {**fields, "timestamp": 1_700_000_000_000, **more}}


@pytest.fixture
def device(launch: Launcher, bus: PrivateServer) -> Script:
    with Link(bus) as link:
        wait_for(lambda: subscribers(link, "device") == 0, ANSWER_SECONDS)
    return launch.service(DEVICE, server=bus, service="device")


def test_the_frames_of_the_typescript_client(launch: Launcher, bus: PrivateServer, device: Script) -> None:
    script = site(launch, SERVICE + GATEWAY, server=bus)
    assert device.alive
    with client(script.port) as one, Link(bus) as link, Watch(bus, "panel.touch") as watch:
        progress = ask(one, call("device", "readings", {"n": 1}))
        assert (progress["type"], progress["request_id"], progress["data"]["half"]) == ("progress", "req_1", True)
        assert hear(one) == {
            "type": "response", "request_id": "req_1", "success": True, "data": {"of": {"n": 1}},
        }  # fmt: skip
        assert ask(one, call(script.service, "own", 5))["data"] == {"own": 5}
        assert ask(one, call("device", "reset"))["code"] == "forbidden"
        assert ask(one, call("absent", "x"))["code"] == "unavailable"
        late = ask(one, call("device", "slow", timeout=0.1))
        assert (late["success"], late["code"]) == (False, "timeout")
        one.send(json.dumps({"type": "subscribe", "channel": "sensor.a"}))
        assert ask(one, {"type": "subscribe", "channel": "secrets"})["type"] == "error"
        link.call("PUBLISH", "sensor.b", '{"not":"asked for"}')
        link.call("PUBLISH", "sensor.a", '{"v":1}')
        assert hear(one) == {"type": "channel_message", "channel": "sensor.a", "data": {"v": 1}}
        one.send(json.dumps({"type": "unsubscribe", "channel": "sensor.a"}))
        one.send(json.dumps({"type": "broadcast", "channel": "panel.touch", "data": {"x": 3}}))
        assert watch.next() == ("panel.touch", b'{"x":3}')
        assert ask(one, {"type": "broadcast", "channel": "news", "data": {}})["code"] == "forbidden"
        assert ask(one, {"type": "echo", "data": 1})["data"] == 1
    wait_for(lambda: '{"x": 3}' in script.notes, ANSWER_SECONDS)


def test_a_slow_listener_does_not_hold_up_the_browsers(launch: Launcher, bus: PrivateServer) -> None:
    script = site(launch, SERVICE + GATEWAY, server=bus)
    with client(script.port) as one, Link(bus) as link:
        assert ask(one, {"type": "subscribe", "channel": "news", "request_id": 1})["success"] is True
        for number in range(5):
            link.call("PUBLISH", "news", json.dumps({"n": number}))
        assert [hear(one)["data"]["n"] for _ in range(5)] == list(range(5))
        assert script.notes == ["listener"]


def test_calls_that_wait_hold_no_thread(launch: Launcher, bus: PrivateServer) -> None:
    with Link(bus) as link:
        wait_for(lambda: subscribers(link, "device") == 0, ANSWER_SECONDS)
    with Watch(bus, "device") as silent:
        script = site(launch, SERVICE + GATEWAY, server=bus)
        with client(script.port) as one:
            threads = script.threads()
            for number in range(60):
                one.send(json.dumps(call("device", "slow", request_id=f"r{number}", timeout=0.5)))
            for _ in range(60):
                assert silent.next() is not None
            assert script.threads() <= threads + 3
            assert {hear(one)["code"] for _ in range(60)} == {"timeout"}


def test_while_redis_is_away(launch: Launcher, own_bus: PrivateServer) -> None:
    script = site(launch, SERVICE + GATEWAY, server=own_bus)
    with client(script.port) as one, client(script.port) as other:
        assert ask(one, {"type": "$daebus.hello"}) == {"type": "bus", "v": 1, "connected": True}
        one.send(json.dumps({"type": "subscribe", "channel": "sensor.*"}))
        own_bus.stop()
        assert hear(one) == {"type": "bus", "connected": False}
        assert ask(one, call("device", "readings"))["code"] == "redis_unavailable"
        assert ask(one, {"type": "broadcast", "channel": "panel.touch", "data": {}})["code"] == "redis_unavailable"
        assert ask(one, call("", "own", 1))["data"] == {"own": 1}
        assert ask(one, {"type": "echo", "data": 2})["data"] == 2
        own_bus.start()
        assert hear(one) == {"type": "bus", "connected": True}
        with Link(own_bus) as link:
            link.call("PUBLISH", "sensor.a", "[1]")
        assert hear(one) == {"type": "channel_message", "channel": "sensor.a", "data": [1]}
        assert ask(other, {"type": "echo", "data": 3})["data"] == 3  # and heard nothing of all this


def test_a_shared_service_with_a_gateway(launch: Launcher, bus: PrivateServer, device: Script) -> None:
    """Answers to a process' calls are its own, and are not numbered as messages of the service."""
    assert device.alive
    name = f"shared-{random.randrange(1 << 40):x}"
    scripts = [site(launch, SERVICE + GATEWAY, server=bus, service=name, run={"shared": True}) for _ in range(2)]
    with client(scripts[0].port) as one, client(scripts[1].port) as two:
        for number in range(20):
            for asked in (one, two):
                ask(asked, call("device", "readings", number))
                assert hear(asked)["data"] == {"of": number}


def test_globs_match_as_redis_says(bus: PrivateServer) -> None:
    rng = random.Random(1)
    with Link(bus) as link:
        for _ in range(300):
            glob = "".join(rng.choice("ab*?[]^-\\") for _ in range(rng.randrange(1, 7)))
            text = "".join(rng.choice("ab-^]") for _ in range(rng.randrange(1, 5)))
            link.call("SET", f"glob:{text}", "1", "EX", "60")
            found = f"glob:{text}".encode() in link.call("KEYS", f"glob:{glob}")
            assert matches(f"glob:{glob}".encode(), f"glob:{text}".encode()) is found, (glob, text)
            link.call("DEL", f"glob:{text}")


# --- upstream's handlers ---


def test_the_methods_that_older_programs_use(launch: Launcher, bus: PrivateServer) -> None:
    body = """
    @ws.on_connect
    def come(client_id):
        note("come " + client_id)

    ws.set_client_id_generator(lambda websocket, path: path.strip("/") or "nobody")

    @app.socket_register()
    def register(data, client_id):
        return {"registered": data["name"]}

    @app.socket("do")
    async def do(data, client_id):
        await response.send("working", "status")
        await ws.send_to_client_async("bob", {"from": client_id})
        return ws.get_client_metadata(client_id)["path"]

    @app.socket("kick")
    def kick(data, client_id):
        return ws.disconnect_client(data, 4001, "kicked")
    """
    script = site_on_two_ports(launch, body, bus)
    with client(script.port, "/ann") as ann, client(script.port + 1, "/bob") as bob:
        assert ask(ann, {"type": "register", "data": {"name": "x"}})["data"] == {"registered": "x"}
        assert ask(ann, {"type": "do"}) == {"type": "status", "data": "working"}
        assert hear(ann)["data"] == "/ann"
        assert hear(bob) == {"type": "message", "data": {"from": "ann"}}
        assert ask(ann, {"type": "kick", "data": "bob"})["data"] is True
        with pytest.raises(ConnectionClosed) as closed:
            bob.recv(ANSWER_SECONDS)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "kicked")
    assert sorted(script.notes) == ["come ann", "come bob"]
