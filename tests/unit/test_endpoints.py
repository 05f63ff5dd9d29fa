"""What is declared becomes what listens: routes, folders and ports, behind a real engine, on the loopback interface."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Event, Thread
from threading import enumerate as all_threads
from typing import Any

import pytest

from daebus import Daebus, DaebusHttp, DaebusWebSocket, endpoints, request
from daebus.dispatch import Dispatcher
from daebus.endpoints import Endpoints
from daebus.engine import Engine
from daebus.errors import ConfigurationError, DeclarationError
from daebus.hooks import hooks_of
from daebus.systemd import Offered
from tests.sockets import HANDSHAKE
from tests.support import MS, ROOT, wait_for

SOON = 5000 * MS


class Bus:
    """In place of the connections to Redis: nothing is published."""

    def __init__(self) -> None:
        self.on_change: list[Any] = []

    def flush(self) -> None:
        """Nothing waits."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_given, **_options: None


class Bench:
    """A service without its life: endpoints, engine and dispatcher."""

    def __init__(self, *, debug: bool = False, http: DaebusHttp | None = None) -> None:
        self.app = Daebus("app")
        self.http = self.app.attach(http or DaebusHttp(port=0))
        self._debug = debug
        self.engine = Engine(2, lambda: None, lambda: None)
        self.endpoints: Endpoints
        self._clients: list[http_client] = []

    def start(self, *offered: Offered, admit: bool = True) -> Bench:
        bus: Any = Bus()
        dispatcher = Dispatcher("svc", [], bus.flush)
        dispatcher.hooks = hooks_of(self.app)
        self.endpoints = Endpoints(self.app, self.app.http, self.app.websocket, debug=self._debug)
        self.endpoints.open(self.engine, dispatcher, bus, offered)
        self.engine.start()
        self.on_reader(self.endpoints.serve)
        if admit:
            self.endpoints.admit()
        return self

    def on_reader(self, function: Callable[[], object]) -> None:
        done = Event()

        def errand() -> None:
            function()
            done.set()

        self.engine.soon(errand)
        assert done.wait(SOON)

    def client(self, port: int | None = None) -> http_client:
        client = http.client.HTTPConnection("127.0.0.1", port or self.http.port, timeout=SOON)
        self._clients.append(client)
        return client

    def ask(self, path: str, method: str = "GET", **options: Any) -> tuple[int, dict[str, str], bytes]:
        client = self.client(options.pop("port", None))
        client.request(method, path, **options)
        answer = client.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if hasattr(self, "endpoints"):
            self.endpoints.close()
        self.engine.stop()
        wait_for(lambda: not [one for one in all_threads() if one.name.startswith("daebus-")], SOON)


http_client = http.client.HTTPConnection


@pytest.fixture(autouse=True)
def defects(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A reader that fails ends the process; here it fails the test."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    yield
    assert exits == []


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_free_port_is_chosen_and_told(bench: Bench) -> None:
    bench.start()
    assert bench.http.port > 0
    assert bench.endpoints.addresses == [f"http://127.0.0.1:{bench.http.port}/"]


def test_routes_are_served(bench: Bench) -> None:
    @bench.app.route("/d/<int:number>", methods=["GET", "PUT"])
    def device(req: Any, number: int) -> dict[str, Any]:
        return {"method": req.method, "number": number, "payload": request.payload}

    bench.start()
    status, _headers, body = bench.ask("/d/5", "PUT", body=b"[1]", headers={"Content-Type": "application/json"})
    assert (status, json.loads(body)) == (200, {"method": "PUT", "number": 5, "payload": [1]})
    assert bench.ask("/d/x")[0] == 404
    status, headers, _body = bench.ask("/d/5", "DELETE")
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS, PUT")


def test_hooks_are_served_too(bench: Bench) -> None:
    bench.app.error(404)(lambda: ({"nothing": request.path}, 404))
    bench.app.after(lambda answer: answer.header("X", "y"))
    bench.start()
    status, headers, body = bench.ask("/none")
    assert (status, headers["x"], json.loads(body)) == (404, "y", {"nothing": "/none"})


def test_before_the_start_there_is_a_503(bench: Bench) -> None:
    bench.app.route("/")(lambda: "x")
    bench.start(admit=False)
    status, headers, _body = bench.ask("/")
    assert (status, headers["retry-after"]) == (503, "1")
    bench.endpoints.admit()
    assert bench.ask("/")[0] == 200


def test_with_debug_answers_say_more() -> None:
    bench = Bench(debug=True)
    bench.app.route("/")(lambda: 1 / 0)
    try:
        bench.start()
        status, _headers, body = bench.ask("/")
        assert status == 500
        assert json.loads(body)["details"] == "ZeroDivisionError: division by zero"
    finally:
        bench.close()


def test_a_host_that_is_not_ours_is_not_served(bench: Bench) -> None:
    bench.app.route("/")(lambda: "x")
    bench.start()
    assert bench.ask("/", headers={"Host": "evil.example"})[0] == 421
    assert bench.ask("/", headers={"Host": f"{socket.gethostname()}:8080"})[0] == 200
    assert bench.ask("/", headers={"Host": "localhost"})[0] == 200


def test_further_hosts_may_be_allowed() -> None:
    bench = Bench(http=DaebusHttp(port=0, allowed_hosts=["panel.example"]))
    bench.app.route("/")(lambda: "x")
    try:
        bench.start()
        assert bench.ask("/", headers={"Host": "panel.example"})[0] == 200
    finally:
        bench.close()


# --- folders ---


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<p>index")
    (folder / "a b.txt").write_text("a")
    (folder / "sub" / "index.html").write_text("<p>sub")
    (folder / ".hidden").write_text("secret")
    (tmp_path / "outside").write_text("secret")
    return folder


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/", 200, b"<p>index"),
        ("/index.html", 200, b"<p>index"),
        ("/a%20b.txt", 200, b"a"),
        ("/sub/", 200, b"<p>sub"),
        ("/none", 404, None),
        ("/.hidden", 404, None),
        ("/../outside", 400, None),
        ("/%2e%2e/outside", 400, None),
        ("/..%2foutside", 400, None),
        ("/sub%2findex.html", 200, b"<p>sub"),
        ("/api", 200, b"route"),
    ],
)
def test_a_folder_is_served_below_the_routes(
    bench: Bench, site: Path, path: str, status: int, body: bytes | None
) -> None:
    bench.app.route("/api")(lambda: "route")
    bench.app.static("/", str(site))
    bench.start()
    got, _headers, data = bench.ask(path)
    assert got == status
    assert data == body or body is None
    assert b"secret" not in data


def test_a_folder_without_its_slash_leads_there(bench: Bench, site: Path) -> None:
    bench.app.static("/files", str(site))
    bench.start()
    for path, target in (("/files", "/files/"), ("/files/sub", "/files/sub/")):
        status, headers, _body = bench.ask(path)
        assert (status, headers["location"]) == (308, target)
    assert bench.ask("/files/")[2] == b"<p>index"
    assert bench.ask("/filesystem")[0] == 404


def test_a_folder_is_only_read(bench: Bench, site: Path) -> None:
    bench.app.static("/", str(site))
    bench.start()
    status, headers, _body = bench.ask("/index.html", "DELETE")
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert bench.ask("/none", "DELETE")[0] == 404
    status, headers, _body = bench.ask("/index.html", "OPTIONS")
    assert (status, headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    status, headers, body = bench.ask("/index.html", "HEAD")
    assert (status, headers["content-length"], body) == (200, "8", b"")


def test_the_folder_with_the_longest_path_answers(bench: Bench, site: Path) -> None:
    bench.app.static("/", str(site))
    bench.app.static("/special", str(site / "sub"))
    bench.start()
    assert bench.ask("/special/")[2] == b"<p>sub"
    assert bench.ask("/index.html")[2] == b"<p>index"


def test_a_path_that_has_to_be_quoted_is_one_too(bench: Bench, site: Path) -> None:
    bench.app.static("/my files/ü", str(site))
    bench.start()
    assert bench.ask("/my%20files/%C3%BC/index.html")[2] == b"<p>index"


def test_parts_of_files_and_unchanged_ones(bench: Bench, site: Path) -> None:
    bench.app.static("/", str(site))
    bench.start()
    status, headers, body = bench.ask("/index.html", headers={"Range": "bytes=3-4"})
    assert (status, body, headers["content-range"]) == (206, b"in", "bytes 3-4/8")
    status, _headers, body = bench.ask("/index.html", headers={"If-None-Match": headers["etag"]})
    assert (status, body) == (304, b"")


def test_a_file_that_is_asked_for_often_leaves_no_descriptor(bench: Bench, site: Path) -> None:
    """Whatever becomes of its answer."""
    bench.app.static("/", str(site))
    bench.app.after(lambda answer: {"replaced": True} if request.query else answer)
    bench.start()
    for path in ("/index.html", "/index.html?x=1"):
        for method in ("GET", "HEAD"):
            for _ in range(5):
                assert bench.ask(path, method)[0] == 200
    opened = [link for link in Path("/proc/self/fd").iterdir() if str(site) in str(link.resolve())]
    assert opened == []


def test_a_folder_that_is_not_there_is_said_to_be_missing(bench: Bench, tmp_path: Path) -> None:
    bench.app.static("/files", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"app\.static\('/files', \.\.\.\): "):
        bench.start()


def test_a_relative_folder_is_one_beside_the_services_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    app = Daebus("tests.support")
    app.attach(bench.http)
    app.static("/", "unit")
    bench.app = app
    bench.start()
    assert bench.ask("/test_endpoints.py")[2] == (ROOT / "tests" / "unit" / "test_endpoints.py").read_bytes()


# --- WebSockets beside it ---


def test_the_browsers_client_is_served_where_there_is_a_websocket(bench: Bench) -> None:
    bench.app.attach(DaebusWebSocket(port="same"))
    bench.start()
    status, headers, body = bench.ask("/daebus.js")
    assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert body == (ROOT / "daebus" / "browser" / "daebus.js").read_bytes()
    assert headers["cache-control"] == "no-cache"


def test_without_a_websocket_it_is_not(bench: Bench) -> None:
    bench.start()
    assert bench.ask("/daebus.js")[0] == 404


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_for_websockets_alone_says_so_and_lives_on(bench: Bench) -> None:
    port = free_port()
    bench.app.attach(DaebusWebSocket(port=port))
    bench.app.route("/")(lambda: "x")
    bench.start()
    assert len(bench.endpoints.addresses) == 2
    for _ in range(2):
        status, headers, _body = bench.ask("/", port=port)
        assert (status, headers["upgrade"]) == (426, "websocket")
    assert bench.ask("/")[0] == 200


# --- mistakes ---


def test_a_port_that_is_taken_closes_the_others_again(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bench.app.attach(DaebusWebSocket(port=taken.getsockname()[1]))
        with pytest.raises(ConfigurationError, match="is taken"):
            bench.start()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", bench.http.port), SOON):
            pass


def test_two_routes_for_one_path_are_one_too_many(bench: Bench) -> None:
    bench.app.route("/<a>")(lambda a: a)
    bench.app.route("/<b>")(lambda b: b)
    with pytest.raises(DeclarationError, match="/<b>"):
        bench.start()


def test_what_cors_warns_of_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(http=DaebusHttp(port=0, cors_config={"allowed_origins": "*", "allow_credentials": True}))
    try:
        bench.start()
        assert "credentials" in caplog.text
    finally:
        bench.close()


# --- the end ---


def test_what_has_not_been_taken_is_unfinished(bench: Bench) -> None:
    bench.app.route("/")(lambda: b"x" * 20_000_000)
    bench.start()
    client = bench.client()
    client.request("GET", "/")
    wait_for(lambda: bench.endpoints.unfinished == 1, SOON)
    bench.on_reader(bench.endpoints.stop)
    assert len(client.getresponse().read()) == 20_000_000
    wait_for(lambda: bench.endpoints.unfinished == 0, SOON)


def test_a_download_is_unfinished_too(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 20_000_000)
    bench.app.static("/", str(tmp_path))
    bench.start()
    client = bench.client()
    client.request("GET", "/large")
    wait_for(lambda: bench.endpoints.unfinished == 1, SOON)
    bench.on_reader(bench.endpoints.stop)
    assert len(client.getresponse().read()) == 20_000_000
    wait_for(lambda: bench.endpoints.unfinished == 0, SOON)


def test_streams_are_unfinished_until_they_are_given_up(bench: Bench) -> None:
    go, closed = Event(), Event()

    def handler() -> Iterator[str]:
        try:
            while True:
                yield "x"
                go.wait(SOON)
        finally:
            closed.set()

    bench.app.route("/")(handler)
    bench.start()
    client = bench.client()
    client.request("GET", "/")
    wait_for(lambda: bench.endpoints.unfinished == 1, SOON)
    bench.on_reader(bench.endpoints.stop)
    assert bench.endpoints.unfinished == 1
    bench.on_reader(bench.endpoints.give_up)
    go.set()
    assert closed.wait(SOON)
    wait_for(lambda: bench.endpoints.unfinished == 0, SOON)


def test_after_the_stop_nobody_is_let_in(bench: Bench) -> None:
    bench.app.route("/")(lambda: "x")
    bench.start()
    kept = bench.client()
    kept.request("GET", "/")
    kept.getresponse().read()
    bench.on_reader(bench.endpoints.stop)
    with pytest.raises(OSError, match="refused"):
        bench.ask("/")
    assert kept.sock is not None
    assert kept.sock.recv(1) == b""


# --- all of it at once ---


@contextmanager
def watched(bench: Bench) -> Iterator[None]:
    """Have `watch` called as the main thread of a service does: handlers that stall are displaced."""
    stop, wakes = Event(), Event()
    bench.engine._wake_watcher = wakes.set

    def watch() -> None:
        while not stop.is_set():
            if wakes.wait(bench.engine.watch()):
                wakes.clear()

    thread = Thread(target=watch, name="watcher")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        wakes.set()
        thread.join(SOON)


class Visitor:
    """A client of the storm: asks, takes its time, leaves; knows what it should have been answered."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = Random(seed)
        self.wrong: list[str] = []
        self.answered = 0

    def run(self) -> None:
        try:
            for _ in range(12):
                self._visit()
        except Exception as error:  # noqa: BLE001 - told by the test
            self.wrong.append(repr(error))

    def _visit(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), SOON) as client:
            numbers = [self._random.randrange(10_000) for _ in range(self._random.randint(1, 6))]
            kinds = [self._random.choice(["quick", "slow", "big", "stream", "echo"]) for _ in numbers]
            self._send(client, b"".join(map(self._request, kinds, numbers)))
            if self._random.random() < 0.25:
                client.recv(self._random.randrange(1, 1000))
                if self._random.random() < 0.5:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return  # and is gone amid it all
            if self._random.random() < 0.3 and "stream" not in kinds:
                client.shutdown(socket.SHUT_WR)
            for kind, number in zip(kinds, numbers, strict=True):
                self._take(client, kind, number)

    def _send(self, client: socket.socket, data: bytes) -> None:
        cut = self._random.randrange(len(data))
        client.sendall(data[:cut])
        client.sendall(data[cut:])

    def _request(self, kind: str, number: int) -> bytes:
        if kind == "echo":
            body = b"%d" % number * 20
            return b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        return b"GET /%b/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (kind.encode(), number)

    def _take(self, client: socket.socket, kind: str, number: int) -> None:
        status, body = read_answer(client)
        expected = {"quick": b"%d" % number, "slow": b"%d" % number, "echo": b"%d" % number * 20}
        expected |= {"big": b"%d" % number * 100_000, "stream": b"%d" % number * 10}
        if (status, body) != (200, expected[kind]):
            self.wrong.append(f"{kind} {number}: {status} {body[:50]!r}")
        self.answered += 1


def read_answer(client: socket.socket) -> tuple[int, bytes]:
    """One answer and nothing after it (what the standard library reads ahead would be lost)."""
    lines = []
    while line := read_line(client):
        lines.append(line)
    headers = dict(line.split(": ", 1) for line in lines[1:])
    if "Content-Length" in headers:
        body = read_exactly(client, int(headers["Content-Length"]))
    else:
        body = b""
        while size := int(read_line(client), 16):
            body += read_exactly(client, size)
            assert read_line(client) == ""
        assert read_line(client) == ""
    return int(lines[0].split()[1]), body


def read_line(client: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\r\n"):
        line += read_exactly(client, 1)
    return line[:-2].decode()


def read_exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise EOFError(f"{len(data)} bytes of {size}")
        data += piece
    return data


def declare_storm(app: Daebus) -> None:
    naps = Event()  # never set: a nap is a wait for it

    def slow(number: int) -> str:
        naps.wait(0.004 if number % 3 == 0 else 0.0)
        return str(number)

    def stream(number: int) -> Iterator[str]:
        for _ in range(10):
            yield str(number)

    app.route("/quick/<int:number>")(lambda number: str(number))
    app.route("/slow/<int:number>")(slow)
    app.route("/big/<int:number>")(lambda number: str(number) * 100_000)
    app.route("/stream/<int:number>")(stream)
    app.route("/echo", ["POST"])(lambda: request.body)


@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_storm_everybody_gets_his_own_answers_in_order(bench: Bench, seed: int) -> None:
    declare_storm(bench.app)
    bench.start()
    visitors = [Visitor(bench.http.port, 100 * seed + number) for number in range(12)]
    threads = [Thread(target=visitor.run) for visitor in visitors]
    with watched(bench):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(6 * SOON)
        wait_for(lambda: len(bench.endpoints.network) == 0 and bench.engine.unfinished == 0, SOON)
    assert [wrong for visitor in visitors for wrong in visitor.wrong] == []
    assert sum(visitor.answered for visitor in visitors) > 150
    assert bench.endpoints.unfinished == 0
    assert all(door.streams == set() and door.body_bytes == 0 for door in bench.endpoints._doors)


# --- sockets that systemd holds ---


class Units:
    """Listening sockets as .socket units hold them: the service gets copies."""

    def __init__(self) -> None:
        self._originals: list[socket.socket] = []
        self._offered: list[Offered] = []

    def _offer(self, name: str, original: socket.socket) -> Offered:
        copy = socket.socket(fileno=os.dup(original.fileno()))
        copy.setblocking(False)
        original.settimeout(SOON)
        self._originals.append(original)
        self._offered.append(Offered(name, copy))
        return self._offered[-1]

    def tcp(self, name: str) -> Offered:
        return self._offer(name, socket.create_server(("127.0.0.1", 0)))

    def unix(self, name: str, path: Path) -> Offered:
        original = socket.socket(socket.AF_UNIX)
        original.bind(str(path))
        original.listen()
        return self._offer(name, original)

    def next_process(self) -> socket.socket:
        """What the service's next process accepts at the first socket."""
        return self._originals[0].accept()[0]

    def close(self) -> None:
        for original in self._originals:
            original.close()
        for one in self._offered:
            one.socket.close()


@pytest.fixture
def units() -> Iterator[Units]:
    """Asked for before the bench, so that it is closed after it."""
    made = Units()
    yield made
    made.close()


def upgraded(port: int) -> int:
    """The status that a WebSocket's handshake gets at a port."""
    with socket.create_connection(("127.0.0.1", port), SOON) as client:
        lines = ["GET / HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in HANDSHAKE.items())]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(read_line(client).split()[1])


def test_what_systemd_holds_is_served_and_nothing_else(units: Units, bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bench.http.port = taken.getsockname()[1]  # which would be refused
        bench.app.route("/")(lambda: "x")
        one = units.tcp("http")
        bench.start(one)
        assert bench.http.port == one.port
        assert bench.endpoints.addresses == [f"http://127.0.0.1:{one.port}/"]
        assert bench.ask("/")[2] == b"x"
        assert bench.endpoints.is_held


def test_several_sockets_are_served_alike(units: Units, bench: Bench, tmp_path: Path) -> None:
    bench.app.route("/")(lambda: request.remote_address)
    one, other = units.tcp("http"), units.tcp("http")
    bench.start(one, units.unix("http", tmp_path / "s"), other)
    assert bench.http.port == one.port
    assert [bench.ask("/", port=port)[0] for port in (one.port, other.port)] == [200, 200]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SOON)
        client.connect(str(tmp_path / "s"))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(client) == (200, f"unix:{tmp_path / 's'}".encode())
    assert len(bench.endpoints.addresses) == 3
    assert f"unix:{tmp_path / 's'}" in bench.endpoints.addresses


def test_a_service_may_be_reached_by_a_unix_socket_alone(units: Units, bench: Bench, tmp_path: Path) -> None:
    bench.app.route("/", methods=["POST"])(lambda: "x")
    bench.start(units.unix("http", tmp_path / "s"))
    assert bench.endpoints.addresses == [f"unix:{tmp_path / 's'}"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SOON)
        client.connect(str(tmp_path / "s"))
        head = b"POST / HTTP/1.1\r\nHost: %b\r\nOrigin: http://%b\r\nContent-Length: 0\r\n\r\n"
        client.sendall(head % (b"localhost", b"localhost"))
        assert read_answer(client)[0] == 200
        client.sendall(head % (b"localhost", b"evil.example"))
        assert read_answer(client)[0] == 403


def test_a_websocket_has_a_socket_of_its_own_or_that_of_http(units: Units, bench: Bench) -> None:
    ws = bench.app.attach(DaebusWebSocket(port=1))
    one, other = units.tcp("http"), units.tcp("websocket")
    bench.start(one, other)
    assert one.port is not None
    assert other.port is not None
    assert (upgraded(one.port), upgraded(other.port)) == (101, 101)
    assert bench.ask("/", port=other.port)[0] == 426
    assert ws.actual_port == other.port


@pytest.mark.parametrize("own", [1, "same"])
def test_a_websocket_without_a_socket_of_its_own_is_served_at_that_of_http(
    units: Units, bench: Bench, own: int | str
) -> None:
    ws = bench.app.attach(DaebusWebSocket(port=own))
    one = units.tcp("http")
    bench.start(one)
    assert one.port is not None
    assert upgraded(one.port) == 101
    assert ws.actual_port == one.port


def test_a_service_with_routes_wants_a_socket_for_them(units: Units, bench: Bench) -> None:
    bench.app.attach(DaebusWebSocket(port=1))
    one = units.tcp("websocket")
    with pytest.raises(ConfigurationError) as caught:
        bench.start(one)
    assert str(caught.value) == (
        f"systemd passes 'websocket' (127.0.0.1:{one.port}), but none for HTTP: "
        "add one with FileDescriptorName=http to a .socket unit"
    )
    assert one.socket.fileno() == -1


def test_the_only_door_serves_all_sockets(units: Units, bench: Bench) -> None:
    bench.start(units.tcp("http"), units.tcp("other"))
    assert len(bench.endpoints.addresses) == 2


def test_connections_wait_at_a_held_port_until_the_service_has_started(units: Units, bench: Bench) -> None:
    """Where they can, they are not told 503."""
    bench.app.route("/")(lambda: "x")
    bench.start(units.tcp("http"), admit=False)
    client = bench.client()
    client.request("GET", "/")
    bench.on_reader(lambda: None)
    assert not bench.endpoints.network.serves
    assert len(bench.endpoints.network) == 0
    bench.endpoints.admit()
    assert client.getresponse().status == 200


def test_who_has_waited_for_the_start_for_long_is_told(
    units: Units, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "ADMIT_LIMIT", 10 * MS)
    bench.app.route("/")(lambda: "x")
    bench.start(units.tcp("http"), admit=False)
    status, headers, _body = bench.ask("/")
    assert (status, headers["retry-after"]) == (503, "1")
    bench.endpoints.admit()
    assert bench.ask("/")[0] == 200


def test_at_the_stop_open_connections_get_one_more_answer_and_new_ones_wait(units: Units, bench: Bench) -> None:
    bench.app.route("/")(lambda: "x")
    bench.start(units.tcp("http"))
    kept = bench.client()
    kept.request("GET", "/")
    kept.getresponse().read()
    bench.on_reader(bench.endpoints.stop)
    assert bench.endpoints.unfinished == 1
    late = bench.client()
    late.request("GET", "/")
    kept.request("GET", "/")
    answer = kept.getresponse()
    assert (answer.status, answer.read(), answer.getheader("Connection")) == (200, b"x", "close")
    wait_for(lambda: bench.endpoints.unfinished == 0, SOON)
    with units.next_process() as accepted:
        assert late.sock is not None
        assert accepted.getpeername() == late.sock.getsockname()


def test_who_asks_nothing_more_is_waited_for_only_so_long(
    units: Units, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "IDLE_GRACE", 30 * MS)
    bench.app.route("/")(lambda: "x")
    bench.start(units.tcp("http"))
    kept = bench.client()
    kept.request("GET", "/")
    kept.getresponse().read()
    bench.on_reader(bench.endpoints.stop)
    assert kept.sock is not None
    assert kept.sock.recv(1) == b""
    wait_for(lambda: bench.endpoints.unfinished == 0, SOON)


def test_a_service_that_never_served_leaves_who_waits_to_the_next_process(units: Units, bench: Bench) -> None:
    bench.start(units.tcp("http"), admit=False)
    client = bench.client()
    client.request("GET", "/")
    bench.on_reader(bench.endpoints.stop)
    bench.endpoints.close()
    with units.next_process() as accepted:
        assert accepted.recv(3) == b"GET"
