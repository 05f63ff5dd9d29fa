"""What one HTTP request and one WebSocket message cost the service in Python, without sockets, part by part.

`python -m bench.webpath` prints microseconds: what the parsers cost by themselves, what ours cost beside them, and
the whole path. `--profile post`, `heads`, `get` or `message` prints where the time of one of them goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any, cast

import h11
import wsproto.frame_protocol

from daebus import Daebus, DaebusHttp, DaebusWebSocket, http1, wsframes
from daebus.endpoints import Endpoints
from daebus.httpdoor import HttpConnection, HttpDoor
from daebus.jsontext import dumps, loads

from .hotpath import Path, cost
from .subjects.web_peers import READING
from .web import BODY, MESSAGE, UPGRADE

HEAD = (
    b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    b"X-Request-Number: %d\r\nContent-Length: %d\r\n\r\n"
)
GET = b"GET /reading HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
BROWSER = (
    b"GET /reading HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua-platform: "Linux"\r\n'
    b"User-Agent: Mozilla/5.0 (X11; Linux aarch64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
    b"Safari/537.36\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
    b"Referer: http://127.0.0.1:8080/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef\r\n\r\n"
)
JSON_HEADERS = [("Content-Type", "application/json")]
DATE = "Thu, 01 Jan 1970 00:00:00 GMT"


def post(number: int = 0) -> bytes:
    return HEAD % (number, len(BODY)) + BODY


class Sink:
    """A connection that throws away what is written."""

    peer, local, port, secure = "127.0.0.1:50000", "127.0.0.1", 8080, False
    closed = half_closed = sending = False
    pending, deadline = 0, 0.0
    written = b""
    protocol: Any = None

    def write(self, data: bytes) -> None:
        self.written = data

    def resume(self) -> None:
        pass


class WebPath(Path):
    """The whole path of a service with HTTP and WebSocket but its sockets: one connection of each."""

    def __init__(self, app: Daebus) -> None:
        super().__init__()
        self.reading.ident = get_ident()
        endpoints = Endpoints(app, app.http, None, debug=False)
        policy, network = endpoints._policy(), cast(Any, None)
        sockets = app.websocket.open(app, self.dispatcher, self.engine, self.bus, policy)
        site, limits = endpoints._site(), app.http.limits
        self.door = HttpDoor(network, self.dispatcher, self.engine, limits, policy, site, sockets)
        self.door.admitted = True
        self.requests, self.messages = self.connect(), self.connect()
        self.take(self.messages, UPGRADE.format(port=8080).encode())

    def connect(self) -> Sink:
        sink = Sink()
        sink.protocol = HttpConnection(self.door, cast(Any, sink))
        return sink

    def take(self, sink: Sink, data: bytes) -> None:
        """Read and handle what would come with one reading."""
        self.engine.put(sink.protocol.received(data))
        self.engine._run_ready(self.reading)

    def ask(self, data: bytes) -> None:
        self.take(self.requests, data)


def service() -> Daebus:
    app = Daebus("webpath")
    app.attach(DaebusHttp())
    app.attach(DaebusWebSocket(port="same"))

    @app.route("/echo", methods=["POST"])
    def echo(req: Any) -> object:
        return req.payload

    @app.route("/reading")
    def reading(_req: Any) -> object:
        return READING

    @app.socket("echo")
    def echo_message(data: object, _client_id: str) -> object:
        return data

    return app


# ---- the parsers by themselves ----


def h11_head(data: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    connection.next_event()


class H11Exchange:
    """A server that has h11 read its requests and write its answers."""

    def __init__(self) -> None:
        self.connection = h11.Connection(h11.SERVER)
        self.headers = [("Content-Type", "application/json"), ("Date", DATE), ("Content-Length", str(len(BODY)))]

    def run(self, data: bytes) -> None:
        connection = self.connection
        connection.receive_data(data)
        while type(connection.next_event()) is not h11.EndOfMessage:
            pass
        connection.send(h11.Response(status_code=200, headers=self.headers))
        connection.send(h11.Data(data=BODY))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()


def client_frame(payload: bytes) -> bytes:
    frame = wsproto.frame_protocol.FrameProtocol(client=True, extensions=[])
    return bytes(frame.send_data(payload.decode(), fin=True))


class WsprotoExchange:
    """A server that has wsproto read its frames and write its answers."""

    def __init__(self) -> None:
        self.protocol = wsproto.frame_protocol.FrameProtocol(client=False, extensions=[])

    def run(self, data: bytes) -> None:
        self.protocol.receive_bytes(data)
        for frame in self.protocol.received_frames():
            self.protocol.send_data(cast(str, frame.payload), fin=True)


# ---- what is printed ----


class Numbered:
    """Requests whose heads all differ."""

    def __init__(self, run: Callable[[bytes], object]) -> None:
        self._run = run
        self._number = 0

    def __call__(self) -> None:
        self._number += 1
        self._run(post(self._number))


def checked(path: WebPath, data: bytes) -> Callable[[], None]:
    """The request, or the message, after one look at whether it is answered."""
    sink, begins = (path.messages, b"\x81") if data[:1] == b"\x81" else (path.requests, b"HTTP/1.1 200 ")
    path.take(sink, data)
    if not sink.written.startswith(begins) or b'"0000000001"' not in sink.written:
        raise SystemExit(f"webpath: a wrong answer: {sink.written!r}")
    return lambda: path.take(sink, data)


def parts(path: WebPath) -> Iterable[tuple[str, Callable[[], object]]]:
    request, head, message, document = post(), HEAD % (0, len(BODY)), client_frame(MESSAGE), loads(BODY)
    by_h11, by_wsproto, reader = H11Exchange(), WsprotoExchange(), wsframes.Frames(1 << 20)
    yield "h11: a head read", lambda: h11_head(head)
    yield "h11: a browser's head read", lambda: h11_head(BROWSER)
    yield "h11: a POST read, its answer written", lambda: by_h11.run(request)
    yield "ours: a head checked and read by h11", lambda: http1._parse(head)
    yield "ours: a browser's head, the same", lambda: http1._parse(BROWSER)
    yield "ours: a head that is remembered", lambda: http1.read_head(head)
    yield "ours: the head of an answer", lambda: http1.response_head(200, DATE, JSON_HEADERS, "Content-Length: 100\r\n")
    yield "JSON in", lambda: loads(BODY)
    yield "JSON out", lambda: dumps(document)
    yield "GET, all of it", checked(path, GET)
    yield "POST, all of it", checked(path, request)
    yield "POST, all of it, each head another", Numbered(path.ask)
    yield "wsproto: a message read and written", lambda: by_wsproto.run(message)
    yield "ours: the same", lambda: [wsframes.frame(kind, payload) for kind, payload in reader.receive(message)]
    yield "a message, all of it", checked(path, message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=("post", "heads", "get", "message"), help="print where its time goes")
    profile = parser.parse_args().profile
    path = WebPath(service())
    for what, work in parts(path):
        print(f"{what:<40} {cost(work, 1):7.2f} us")
    if profile:
        works: dict[str, Callable[[], object]] = {
            "post": checked(path, post()),
            "heads": Numbered(path.ask),
            "get": checked(path, GET),
            "message": checked(path, client_frame(MESSAGE)),
        }
        profiler = cProfile.Profile()
        profiler.runcall(cost, works[profile], 1)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
