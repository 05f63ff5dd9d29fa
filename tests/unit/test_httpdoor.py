"""HTTP on one connection: a fake connection and engine, a real dispatcher, real routes; no sockets and no threads."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import context, httpdoor, request, response
from daebus.dispatch import Dispatcher
from daebus.errors import Busy, HttpError, Stopping
from daebus.exchange import HttpResponse
from daebus.httpdoor import BODIES_LIMIT, PIPELINE_LIMIT, STREAMS, HttpConnection, HttpDoor, Limits, Policy, Site
from daebus.log import Seldom
from daebus.policy import Cors, Hosts
from daebus.registry import Record, route_arguments
from daebus.routes import RouteTable, placeholders
from daebus.work import Work
from tests.support import MS, wait_for

SOON = 5000 * MS
Item = tuple[Any, Any, str, bytes]


class Wire:
    """In place of a connection: keeps what is written."""

    def __init__(self) -> None:
        self.out = b""
        self.protocol: HttpConnection
        self.peer, self.local, self.port, self.secure = "127.0.0.1:5", "127.0.0.1", 80, False
        self.deadline = float("inf")
        self.pending = 0
        self.sending = False
        self.half_closed = False
        self.ending = ""  # "close" or "abort"
        self.paused = False
        self.on_write: Callable[[], None] = lambda: None

    @property
    def closed(self) -> bool:
        return bool(self.ending)

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.out += data
        self.on_write()

    def write_file(self, file: Any, offset: int, length: int) -> None:
        if not self.closed:
            self.out += os.pread(file.descriptor, length, offset)

    def close(self) -> None:
        self.ending = self.ending or "close"

    def abort(self) -> None:
        self.ending = "abort"

    def pause(self) -> None:
        self.paused = True

    def read_now(self) -> None:
        """Nothing has come."""

    def resume(self) -> None:
        self.paused = False


class Hand:
    """In place of an engine: keeps what it is to do until it is told to."""

    def __init__(self) -> None:
        self.errands: list[Callable[[], None]] = []
        self.items: list[Item] = []
        self.spares: list[Callable[[], None]] = []

    def soon(self, errand: Callable[[], None]) -> None:
        self.errands.append(errand)

    def put(self, items: Iterable[Item]) -> None:
        self.items += items

    def spare(self, function: Callable[[], None]) -> None:
        self.spares.append(function)


class Bench:
    """A door with routes, and one connection that came in by it."""

    def __init__(self, *, cors: dict[str, Any] | None = None, site: bool = True, **limits: Any) -> None:
        self.table = RouteTable()
        self.engine = Hand()
        self.started: list[Coroutine[Any, Any, None]] = []
        self.dispatcher = Dispatcher("svc", [], lambda: None)
        self.dispatcher.start_coroutine = self.started.append
        self.policy = Policy(Cors(cors) if cors is not None else None, Hosts((), ["device"]))
        self.limits = Limits()
        for name, value in limits.items():
            setattr(self.limits, name, value)
        self.sockets: Any = None
        self.site = Site(self.table, []) if site else None
        self.make()

    def make(self) -> None:
        network: Any = None
        engine: Any = self.engine
        self.door = HttpDoor(network, self.dispatcher, engine, self.limits, self.policy, self.site, self.sockets)
        self.door.admitted = True
        self.wire = self.connect()

    def connect(self) -> Wire:
        wire: Any = Wire()
        wire.protocol = self.door.accept(wire)
        return wire  # type: ignore[no-any-return]

    @property
    def protocol(self) -> HttpConnection:
        return self.wire.protocol

    def route(self, path: str, function: Callable[..., Any], method: str = "GET", inline: bool | None = None) -> Bench:
        work = Work(Record("route", f"{method} {path}", function, inline=inline))
        self.table.add(method, path, (work, route_arguments(path, function, placeholders(path))))
        return self

    def read(self, data: bytes, wire: Wire | None = None) -> list[Any]:
        """The calls that bytes become, planned and not run."""
        items = list((wire or self.wire).protocol.received(data))
        return [plan(work, channel, body) for work, plan, channel, body in items]

    def feed(self, data: bytes, wire: Wire | None = None) -> Bench:
        """Take bytes, run what they ask for and what follows from it."""
        for call in self.read(data, wire):
            self.run(call)
        self.settle()
        return self

    def run(self, call: Any) -> None:
        call.run()
        while self.started:
            asyncio.run(self.started.pop(0))

    def settle(self) -> None:
        while self.engine.errands or self.engine.items or self.engine.spares:
            while self.engine.errands:
                self.engine.errands.pop(0)()
            while self.engine.items:
                work, plan, channel, body = self.engine.items.pop(0)
                self.run(plan(work, channel, body))
            while self.engine.spares:
                self.engine.spares.pop(0)()

    def ask(self, data: bytes) -> Answer:
        """The one answer to these bytes."""
        (answer,) = self.answers(data)
        return answer

    def answers(self, data: bytes = b"") -> list[Answer]:
        if data:
            self.feed(data)
        return answers_of(self.wire.out)


class Answer:
    """A response as a client reads it."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes, whole: bool) -> None:
        self.status = status
        self.pairs = headers
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body
        self.whole = whole

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answers_of(data: bytes, methods: Iterable[str] = ()) -> list[Answer]:
    """What a client makes of what was written; interim responses are left out."""
    answers = []
    of_methods = iter(methods)
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        status = int(line.split(" ")[1])
        headers = [(name, value) for name, _, value in (one.partition(": ") for one in lines)]
        if status == 100:
            continue
        body, whole, data = body_of(
            {name.lower(): value for name, value in headers}, data, status, next(of_methods, "")
        )
        answers.append(Answer(status, headers, body, whole))
    return answers


def body_of(headers: dict[str, str], data: bytes, status: int, method: str) -> tuple[bytes, bool, bytes]:
    """A body, whether it is complete, and what follows it."""
    if method == "HEAD" or status in (204, 304):
        return b"", True, data
    if "content-length" in headers:
        length = int(headers["content-length"])
        return data[:length], len(data) >= length, data[length:]
    if headers.get("transfer-encoding") != "chunked":
        return data, True, b""
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        data = rest[length + 2 :]
        if length == 0:
            return body, True, data
    return body, False, b""


def get(
    target: str = "/",
    *lines: str,
    method: str = "GET",
    body: bytes = b"",
    version: str = "1.1",
    host: str = "localhost",
) -> bytes:
    hosts = [f"Host: {host}"] if host else []
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {target} HTTP/{version}", *hosts, *lines, *length, "", ""]).encode("latin-1") + body


def post(body: bytes, *lines: str, target: str = "/") -> bytes:
    return get(target, *lines, method="POST", body=body)


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpdoor, "_seldom", Seldom())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def nothing() -> None:
    """A handler that answers nothing."""


# --- a request and its answer ---


def test_a_route_is_answered(bench: Bench) -> None:
    answer = bench.route("/d/<int:number>", lambda req, number: {"path": req.path, "number": number}).ask(get("/d/5"))
    assert (answer.status, answer.json) == (200, {"path": "/d/5", "number": 5})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["date"].endswith(" GMT")
    assert not {"server", "connection", "transfer-encoding"} & set(answer.headers)
    assert not bench.wire.closed


def test_the_request_is_there_in_a_handler(bench: Bench) -> None:
    def handler() -> Any:
        assert context.get_context_type() == "http"
        response.header("X", "y")
        return {"q": request.query, "from": request.remote_address}

    answer = bench.route("/", handler).ask(get("/?a=b"))
    assert (answer.json, answer.headers["x"]) == ({"q": {"a": "b"}, "from": "127.0.0.1:5"}, "y")


def test_an_async_handler_answers_when_it_is_done(bench: Bench) -> None:
    async def handler() -> Any:
        await asyncio.sleep(0)
        return {"path": request.path}

    assert bench.route("/", handler).ask(get()).json == {"path": "/"}
    assert bench.dispatcher.awaiting == set()


def test_nothing_is_204_without_a_length(bench: Bench) -> None:
    answer = bench.route("/", nothing).ask(get())
    assert answer.status == 204
    assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    ("data", "status", "headers"),
    [
        (get("/none"), 404, {}),
        (get("/x", method="DELETE"), 405, {"allow": "GET, HEAD, OPTIONS"}),
        (get("/x", method="OPTIONS"), 204, {"allow": "GET, HEAD, OPTIONS"}),
        (get("/s?q=1"), 308, {"location": "/s/?q=1"}),
        (get("/%ff"), 400, {}),
        (get("/a/../x"), 400, {}),
        (get("/a/%2e%2e/x"), 400, {}),
        (get("*", method="OPTIONS"), 204, {}),
    ],
)
def test_what_no_handler_serves(bench: Bench, data: bytes, status: int, headers: dict[str, str]) -> None:
    answer = bench.route("/x", nothing).route("/s/", nothing).ask(data)
    assert answer.status == status
    assert headers.items() <= answer.headers.items()
    if status in (400, 404, 405):
        assert set(answer.json) == {"error"}
    assert not bench.wire.closed  # the request was sound, so the next one can be


def test_a_head_request_has_the_head_of_the_answer(bench: Bench) -> None:
    bench.route("/", lambda: "hello").feed(get(method="HEAD"))
    (answer,) = answers_of(bench.wire.out, ["HEAD"])
    assert (answer.status, answer.headers["content-length"]) == (200, "5")
    assert bench.wire.out.endswith(b"\r\n\r\n")


def test_a_handler_that_fails_is_a_500_with_an_id(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    answer = bench.route("/", lambda: 1 / 0).ask(get())
    assert answer.status == 500
    assert answer.json == {"error": "Internal server error", "error_id": answer.json["error_id"]}
    assert f"error id {answer.json['error_id']}" in caplog.text
    assert "Route GET '/'" in caplog.text
    assert not bench.wire.closed


def test_a_file(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"content")
    bench.route("/", lambda: HttpResponse().file(str(path))).feed(get()).feed(get(method="HEAD")).feed(get())
    answers = answers_of(bench.wire.out, ["GET", "HEAD", "GET"])
    assert [answer.body for answer in answers] == [b"content", b"", b"content"]
    assert [answer.headers["content-length"] for answer in answers] == ["7"] * 3


def test_a_file_with_a_status_that_has_no_body_is_not_sent(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"content")
    bench.route("/", lambda: HttpResponse().file(str(path)).set_status(204)).feed(get())
    assert bench.wire.out.endswith(b"\r\n\r\n")


def test_a_request_that_came_before_the_start_is_told_to_come_again(bench: Bench) -> None:
    bench.door.admitted = False
    answer = bench.route("/", nothing).ask(get())
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_an_answer_that_is_refused_is_a_503(bench: Bench) -> None:
    """The engine refuses when it has too much to do."""
    (call,) = bench.route("/", nothing).read(get())
    call.refuse(Busy("later"))
    call.refuse(Busy("twice"))
    (answer,) = bench.answers()
    assert (answer.status, answer.json) == (503, {"error": "later"})
    assert bench.dispatcher.counts.refused == 1
    call.pack(b"")


def test_what_is_wrong_with_an_answers_headers_ends_in_a_500(bench: Bench) -> None:
    """Not in a client that waits for ever."""

    def handler() -> HttpResponse:
        answer = HttpResponse().send("x")
        answer.headers.append(("X", "\u6f22"))
        return answer

    answer = bench.route("/", handler).ask(get())
    assert answer.status == 500
    assert bench.wire.closed


@pytest.mark.parametrize("body", [None, 5, {"a": 1}.items])
def test_a_body_that_is_none_ends_in_a_500(bench: Bench, body: Any) -> None:
    def handler() -> HttpResponse:
        answer = HttpResponse().send("x")
        answer.body = body
        return answer

    assert bench.route("/", handler).ask(get()).status == 500


# --- bodies ---


def test_a_body_in_one_piece_or_in_many(bench: Bench) -> None:
    bench.route("/", lambda: request.payload, method="POST")
    data = post(b'{"a": "b"}', "Content-Type: application/json")
    bench.feed(data)
    for number in range(len(data)):
        bench.feed(data[number : number + 1])
    assert [answer.json for answer in bench.answers()] == [{"a": "b"}] * 2


def test_a_chunked_body_and_what_follows_it(bench: Bench) -> None:
    bench.route("/", lambda: request.body, method="POST").route("/next", lambda: "next")
    head = get("/", "Transfer-Encoding: chunked", "Content-Type: text/plain", method="POST")
    bench.feed(head + b"5\r\nhello\r\n")
    assert bench.wire.out == b""
    bench.feed(b"1\r\n!\r\n0\r\nX: y\r\n\r\n" + get("/next"))
    assert [answer.body for answer in bench.answers()] == [b"hello!", b"next"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_goes_through_a_file(chunked: bool) -> None:
    bench = Bench(upload_memory=100)
    files: list[Any] = []

    def handler() -> Any:
        files.append(request.stream)
        return {"size": len(request.body), "file": hasattr(request.stream, "fileno")}

    bench.route("/", handler, method="POST")
    body = b"x" * 5000
    if chunked:
        data = get("/", "Transfer-Encoding: chunked", method="POST") + b"1388\r\n" + body + b"\r\n0\r\n\r\n"
    else:
        data = post(body)
    for start in range(0, len(data), 60):
        bench.feed(data[start : start + 60])
    (answer,) = bench.answers()
    assert answer.json == {"size": 5000, "file": True}
    assert files[0].closed
    assert bench.door.body_bytes == 0


def test_a_client_that_waits_for_a_word_is_given_it(bench: Bench) -> None:
    bench.route("/", lambda: request.body, method="POST")
    bench.feed(get("/", "Expect: 100-continue", "Content-Length: 2", method="POST"))
    assert bench.wire.out == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert bench.ask(b"ok").body == b"ok"


def test_a_client_that_does_not_wait_is_not(bench: Bench) -> None:
    answer = bench.route("/", lambda: request.body, method="POST").ask(post(b"ok", "Expect: 100-continue"))
    assert answer.body == b"ok"
    assert b"100 Continue" not in bench.wire.out


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get("/", "Content-Length: 1001", method="POST"), 413),
        (get("/", "Expect: 100-continue", "Content-Length: 1001", method="POST"), 413),
        (get("/", "Content-Length: 5", "Content-Encoding: gzip", method="POST"), 415),
        (get("/", "Content-Length: 5", "Expect: 200-ok", method="POST"), 417),
        (get("/", host="evil.example"), 421),
        (get("/", "Origin: http://evil.example", method="POST", body=b"x"), 403),
        (get("/", "Sec-Fetch-Site: cross-site", method="DELETE"), 403),
        (get("/", "Origin: null", method="PUT", body=b"x"), 403),
        (get("/", "Transfer-Encoding: chunked", method="POST") + b"x\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"nonsense\n", 400),
        (b"GET /" + b"a" * 10_000, 414),
        (get("/", f"X: {'a' * 20_000}"), 431),
    ],
)
def test_what_is_refused_before_its_body_closes_the_connection(data: bytes, status: int, caplog: Any) -> None:
    bench = Bench(max_body=1000)
    for method in ("GET", "POST", "PUT", "DELETE"):
        bench.route("/", nothing, method=method)
    answer = bench.ask(data)
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert set(answer.json) == {"error"}
    assert bench.wire.closed
    assert bench.dispatcher.counts.broken == 1
    assert f"was refused ({status})" in caplog.text
    bench.feed(get())
    assert len(bench.answers()) == 1


@pytest.mark.parametrize("chunk", [600, 1, 1001])
def test_a_chunked_body_that_becomes_too_large_is_refused_then(chunk: int) -> None:
    bench = Bench(max_body=1000, upload_memory=200).route("/", nothing, method="POST")
    bench.feed(get("/", "Transfer-Encoding: chunked", method="POST"))
    for _ in range(1001 // chunk + 1):
        if not bench.wire.closed:
            bench.feed(b"%x\r\n%b\r\n" % (chunk, b"x" * chunk))
    assert bench.ask(b"").status == 413
    assert bench.door.body_bytes == 0


def test_all_unfinished_bodies_together_have_so_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits.max_body < BODIES_LIMIT
    monkeypatch.setattr(httpdoor, "BODIES_LIMIT", 250)
    bench = Bench().route("/", nothing, method="POST")
    wires = [bench.connect() for _ in range(3)]
    for wire in wires:
        bench.feed(get("/", "Content-Length: 200", method="POST") + b"x" * 100, wire)
    assert [wire.closed for wire in wires] == [False, False, True]
    assert answers_of(wires[2].out)[0].status == 503
    assert bench.door.body_bytes == 200
    bench.feed(b"x" * 100, wires[0])
    wires[1].protocol.gone()
    assert bench.door.body_bytes == 0


class FullDisk:
    """A temporary file on a disk that is full from some byte on."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.closed = False

    def write(self, data: Any) -> int:
        size = len(data)
        if size > self._room:
            raise OSError(28, "No space left on device")
        self._room -= size
        return size

    def seek(self, _place: int) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("room", [0, 300, 2000])
def test_a_disk_that_is_full_refuses_the_upload_and_ends_nothing(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(room)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_options: disk)
    bench = Bench(upload_memory=100).route("/", nothing, method="POST")
    data = post(b"x" * 5000)
    for start in range(0, len(data), 150):
        if not bench.wire.closed:
            bench.feed(data[start : start + 150])
    answer = bench.ask(b"")
    assert (answer.status, bench.door.body_bytes, disk.closed) == (503, 0, True)


def test_no_temporary_file_no_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_options: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    bench = Bench(upload_memory=100).route("/", nothing, method="POST")
    bench.feed(get("/", "Content-Length: 500", method="POST")).feed(b"x" * 300)
    assert bench.ask(b"").status == 503


def upload(size: int) -> bytes:
    body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + b"x" * size + b"\r\n--b--\r\n"
    return post(body, "Content-Type: multipart/form-data; boundary=b")


def test_a_disk_that_is_full_while_a_form_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    bench = Bench(upload_memory=5000).route("/", nothing, method="POST")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    bench.limits.upload_memory = 5000
    (item,) = bench.protocol.received(upload(1000))
    bench.limits.upload_memory = 100
    work, plan, channel, body = item
    bench.run(plan(work, channel, body))
    assert bench.ask(b"").status == 503


def test_text_fields_that_are_too_large_are_the_clients_fault() -> None:
    bench = Bench().route("/", nothing, method="POST")
    bench.limits.max_body = 4 * 1024 * 1024
    body = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + b"x" * 2_000_000 + b"\r\n--b--\r\n"
    assert bench.ask(post(body, "Content-Type: multipart/form-data; boundary=b")).status == 413


def test_the_files_of_a_form_are_closed_when_it_is_answered(bench: Bench) -> None:
    kept: list[Any] = []

    def handler() -> Any:
        kept.append(request.files["f"])
        return {"size": request.files["f"].size, "first": request.files["f"].read(1).decode()}

    assert bench.route("/", handler, method="POST").ask(upload(1000)).json == {"size": 1000, "first": "x"}
    with pytest.raises(ValueError, match="closed"):
        kept[0].read()


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"\xff", 400), (b"[" * 5000, 400)])
def test_a_body_that_makes_no_sense_leaves_the_connection_open(bench: Bench, body: bytes, status: int) -> None:
    answer = bench.route("/", nothing, method="POST").ask(post(body, "Content-Type: application/json"))
    assert answer.status == status
    assert not bench.wire.closed


# --- one request after the other ---


def test_requests_that_come_together_are_answered_in_order(bench: Bench) -> None:
    order: list[str] = []

    def handler(name: str) -> str:
        order.append(name)
        return name

    bench.route("/<name>", handler)
    bench.feed(b"".join(get(f"/{number}") for number in range(5)))
    assert [answer.body for answer in bench.answers()] == [b"0", b"1", b"2", b"3", b"4"]
    assert order == ["0", "1", "2", "3", "4"]


def test_the_next_request_begins_when_the_last_is_answered(bench: Bench) -> None:
    bench.route("/<name>", lambda name: name)
    (first,) = bench.read(get("/1") + get("/2"))
    assert bench.read(get("/3")) == []
    assert bench.engine.errands == []
    bench.run(first)
    assert bench.wire.out.count(b"HTTP/1.1 ") == 1
    bench.settle()
    assert [answer.body for answer in bench.answers()] == [b"1", b"2", b"3"]


def test_empty_lines_before_a_request_are_passed_over(bench: Bench) -> None:
    bench.route("/", lambda: "x").feed(b"\r\n\r\n").feed(b"\r\n" + get() + b"\r\n")
    assert bench.ask(b"").status == 200


@pytest.mark.parametrize(
    ("version", "connection", "kept", "said"),
    [
        ("1.1", "keep-alive", True, None),
        ("1.1", "close", False, "close"),
        ("1.0", "keep-alive", True, "keep-alive"),
        ("1.0", "x", False, "close"),
    ],
)
def test_the_connection_is_kept_or_closed_and_the_client_told(
    bench: Bench, version: str, connection: str, kept: bool, said: str | None
) -> None:
    answer = bench.route("/", lambda: "x").ask(get("/", f"Connection: {connection}", version=version))
    assert (answer.headers.get("connection"), not bench.wire.closed) == (said, kept)


def test_nothing_is_served_after_a_connection_that_closes(bench: Bench) -> None:
    bench.route("/", lambda: "x").feed(get("/", "Connection: close") + get())
    assert len(bench.answers()) == 1


def test_http_1_0_needs_no_host_whatever_came_before(bench: Bench) -> None:
    bench.route("/", lambda: "x")
    wires = [bench.connect() for _ in range(3)]
    bench.feed(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", wires[0])
    bench.feed(get(version="1.0", host=""), wires[1])
    bench.feed(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", wires[2])
    assert [answers_of(wire.out)[0].status for wire in wires] == [421, 200, 421]


def test_so_much_may_be_sent_ahead(bench: Bench) -> None:
    bench.route("/", lambda: "x")
    (call,) = bench.read(get())
    many = get() * (PIPELINE_LIMIT // len(get()) + 1)
    bench.read(many[:1000])
    assert not bench.wire.paused
    bench.read(many[1000:])
    assert bench.wire.paused
    bench.run(call)
    bench.settle()
    assert len(bench.answers()) == 1 + many.count(b"GET")
    assert not bench.wire.paused


def test_a_client_that_takes_no_answers_gets_no_more_of_them(bench: Bench) -> None:
    """It could make the service produce them without end."""
    ran: list[int] = []

    def handler() -> str:
        ran.append(1)
        return "x" * 100

    bench.route("/", handler)
    bench.wire.on_write = lambda: setattr(bench.wire, "sending", True)
    bench.feed(get() * 10)
    assert len(ran) == 1
    bench.feed(get() * 2)
    bench.feed(b"\r\n" * PIPELINE_LIMIT)
    assert bench.wire.paused
    for count in range(2, 13):
        bench.wire.sending = False
        bench.protocol.drained()
        bench.settle()
        assert len(ran) == count


def test_a_body_is_read_while_the_last_answer_is_being_taken(bench: Bench) -> None:
    bench.route("/", lambda: request.body, method="POST")
    bench.wire.on_write = lambda: setattr(bench.wire, "sending", True)
    bench.feed(post(b"1"))
    for byte in post(b"2"):
        bench.feed(bytes([byte]))
    assert len(bench.answers()) == 1
    bench.wire.sending = False
    bench.protocol.drained()
    bench.settle()
    assert [answer.body for answer in bench.answers()] == [b"1", b"2"]


@given(st.lists(st.sampled_from(["get", "post", "chunked", "none", "json"]), min_size=1, max_size=6), st.data())
def test_a_conversation_cut_anywhere_goes_the_same(kinds: list[str], data: st.DataObject) -> None:
    requests = {
        "get": get("/g"),
        "post": post(b"hello", "Content-Type: text/plain", target="/p"),
        "chunked": get("/p", "Transfer-Encoding: chunked", method="POST") + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        "none": get("/none"),
        "json": post(b"{", "Content-Type: application/json", target="/p"),
    }
    expected = {"get": (200, b"G"), "post": (200, b"hello"), "chunked": (200, b"hello")}
    stream = b"".join(requests[kind] for kind in kinds)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    bench = Bench().route("/g", lambda: "G").route("/p", lambda: request.body, method="POST")
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        bench.feed(stream[start:end])
    got = [(answer.status, answer.body) for answer in bench.answers()]
    assert [one[0] for one in got] == [expected.get(kind, ({"none": 404}.get(kind, 400), b""))[0] for kind in kinds]
    assert all(one == expected[kind] for one, kind in zip(got, kinds, strict=True) if kind in expected)


ODD = [
    b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"Host: localhost\r\n", b"Content-Length: 3\r\n", b"\r\n", b"\n",
    b"abc", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"Connection: close\r\n",
    b"Expect: 100-continue\r\n", b"Origin: \xff\r\n", b"Content-Type: application/json\r\n", b"OPTIONS * HTTP/1.1\r\n",
    b"Content-Type: multipart/form-data; boundary=b\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Access-Control-Request-Method: GET\r\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(ODD) | st.binary(max_size=20), max_size=20), st.booleans())
def test_no_bytes_make_the_reader_fail(pieces: list[bytes], site: bool) -> None:
    """An exception there ends the process."""
    bench = Bench(cors={"allowed_origins": ["http://a.example"]}, site=site, max_body=50, upload_memory=10)
    bench.route("/", lambda: request.payload, method="POST").route("/", lambda: "x")
    for piece in pieces:
        if not bench.wire.closed:
            bench.feed(piece)
    bench.protocol.ended()
    bench.settle()
    bench.protocol.expired(1e9)
    bench.protocol.stopping()
    bench.protocol.gone()
    assert bench.door.body_bytes == 0


# --- deadlines and eviction ---


def test_a_head_has_its_time_from_the_beginning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(httpdoor, "monotonic", lambda: now)
    wire = bench.connect()
    assert wire.deadline == 1010.0
    now = 1005.0
    bench.feed(b"GET / ", wire)
    now = 1009.0
    bench.feed(b"HTTP/1.1\r\n", wire)
    assert wire.deadline == 1010.0  # a byte now and then does not buy more


def test_an_idle_connection_has_longer_until_it_says_something(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(httpdoor, "monotonic", lambda: now)
    bench.route("/", nothing).feed(get())
    assert bench.wire.deadline == 1060.0
    now = 1050.0
    bench.feed(b"\r\n")
    assert bench.wire.deadline == 1060.0
    bench.feed(b"GET")
    assert bench.wire.deadline == 1060.0
    now = 1055.0
    bench.feed(b" ")
    assert bench.wire.deadline == 1060.0


def test_while_a_request_is_at_work_there_is_no_deadline(bench: Bench) -> None:
    bench.route("/", nothing).read(get())
    assert bench.wire.deadline == float("inf")
    bench.protocol.expired(1e9)
    assert bench.wire.out == b""
    assert not bench.wire.closed


def test_a_body_has_its_time_and_more_while_it_comes_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(httpdoor, "monotonic", lambda: now)
    bench = Bench().route("/", nothing, method="POST")
    bench.feed(get("/", "Content-Length: 100000", method="POST"))
    assert bench.wire.deadline == 1030.0
    now = 1020.0
    bench.feed(b"x" * 5 * httpdoor.SLOWEST)
    assert bench.wire.deadline == 1035.0


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"GET / HT", 408), (get("/", "Content-Length: 5", method="POST") + b"x", 408), (b"", None), (b"\r\n", None)],
)
def test_who_has_had_his_time_is_told_if_he_had_said_something(bench: Bench, data: bytes, status: int | None) -> None:
    bench.feed(data)
    bench.protocol.expired(1e9)
    assert [answer.status for answer in bench.answers()] == ([status] if status else [])
    assert bench.wire.closed
    assert bench.door.body_bytes == 0


def test_how_expendable_a_connection_is(bench: Bench) -> None:
    bench.route("/", nothing)
    assert bench.protocol.expendable == 2
    (call,) = bench.read(get())
    assert bench.protocol.expendable == 0
    bench.run(call)
    assert bench.protocol.expendable == 1
    bench.feed(b"GET")
    assert bench.protocol.expendable == 2


# --- the client leaves ---


def test_a_client_that_has_asked_and_closed_its_side_is_answered(bench: Bench) -> None:
    (call,) = bench.route("/", lambda: "x").read(get())
    bench.wire.half_closed = True
    bench.protocol.ended()
    assert not bench.wire.closed
    bench.run(call)
    bench.settle()
    assert bench.ask(b"").body == b"x"
    assert bench.wire.closed


def test_all_that_it_asked_is_answered(bench: Bench) -> None:
    bench.route("/<name>", lambda name: name)
    (call,) = bench.read(get("/1") + get("/2"))
    bench.wire.half_closed = True
    bench.protocol.ended()
    bench.run(call)
    bench.settle()
    assert [answer.body for answer in bench.answers()] == [b"1", b"2"]
    assert bench.wire.closed


def test_the_end_may_be_seen_before_the_next_request_has_begun(bench: Bench) -> None:
    """A worker has ended the first request and asked the reader to go on, which sees the end of the client first."""
    bench.route("/<name>", lambda name: name)
    (call,) = bench.read(get("/1") + get("/2") + get("/3"))
    call.run()
    bench.wire.half_closed = True
    bench.protocol.ended()
    bench.settle()
    assert [answer.body for answer in bench.answers()] == [b"1", b"2", b"3"]
    assert bench.wire.closed


def test_a_client_that_closes_its_side_while_the_answer_is_written(bench: Bench) -> None:
    """Its end is seen by the reader while another thread ends the request."""

    def end() -> None:
        bench.wire.half_closed = True
        bench.protocol.ended()

    bench.wire.on_write = end
    assert bench.route("/", lambda: "x").ask(get()).body == b"x"
    assert bench.wire.closed


@pytest.mark.parametrize("data", [b"GET", get("/", "Content-Length: 5", method="POST") + b"x"])
def test_half_a_request_is_refused(bench: Bench, data: bytes) -> None:
    bench.feed(data)
    bench.wire.half_closed = True
    bench.protocol.ended()
    assert bench.ask(b"").status == 400
    assert bench.wire.closed


def test_who_closes_without_a_word_is_not_answered(bench: Bench) -> None:
    bench.wire.half_closed = True
    bench.protocol.ended()
    assert (bench.wire.out, bench.wire.ending) == (b"", "close")


def test_half_a_request_after_an_answer_that_is_still_being_taken(bench: Bench) -> None:
    bench.route("/", lambda: "x")
    bench.wire.on_write = lambda: setattr(bench.wire, "sending", True)
    bench.feed(get() + b"GET")
    bench.wire.half_closed = True
    bench.protocol.ended()
    assert not bench.wire.closed
    bench.wire.sending = False
    bench.wire.on_write = lambda: None
    bench.protocol.drained()
    bench.settle()
    assert [answer.status for answer in bench.answers()] == [200, 400]
    assert bench.wire.closed


def test_nothing_runs_for_a_client_that_is_gone(bench: Bench) -> None:
    ran: list[int] = []
    (call,) = bench.route("/", lambda: ran.append(1)).read(get())
    bench.wire.abort()
    bench.protocol.gone()
    assert call.run() is True
    assert ran == []


def test_a_client_that_goes_while_the_handler_runs(bench: Bench) -> None:
    def handler() -> str:
        bench.wire.abort()
        bench.protocol.gone()
        return "unread"

    bench.route("/", handler).feed(get())
    assert bench.wire.out == b""
    assert bench.dispatcher.counts.failed == 0


def test_an_upload_that_nobody_wants_any_more_is_let_go() -> None:
    bench = Bench(upload_memory=10).route("/", nothing, method="POST")
    bench.feed(get("/", "Content-Length: 100", method="POST") + b"x" * 50)
    bench.protocol.gone()
    assert bench.door.body_bytes == 0
    bench.wire = bench.connect()
    (call,) = bench.read(post(b"x" * 100))
    bench.protocol.gone()
    call.run()
    file = call.request._body
    assert file.closed


# --- streams ---


def numbers() -> Iterator[str]:
    yield "1"
    yield ""
    yield "22"


async def async_numbers() -> AsyncIterator[str]:
    for number in numbers():
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("handler", [numbers, async_numbers])
def test_what_a_generator_yields_is_sent_as_it_comes(bench: Bench, handler: Callable[[], Any]) -> None:
    bench.route("/", handler).route("/next", lambda: "next").feed(get())
    (answer,) = bench.answers()
    assert (answer.status, answer.body, answer.whole) == (200, b"122", True)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert b"1\r\n1\r\n2\r\n22\r\n0\r\n\r\n" in bench.wire.out
    assert bench.door.streams == set()
    bench.feed(get("/next"))
    assert bench.answers()[1].body == b"next"


@pytest.mark.parametrize("handler", [numbers, async_numbers])
def test_for_http_1_0_a_stream_ends_with_the_connection(bench: Bench, handler: Callable[[], Any]) -> None:
    answer = bench.route("/", handler).ask(get("/", "Connection: keep-alive", version="1.0"))
    assert (answer.body, answer.headers["connection"]) == (b"122", "close")
    assert "transfer-encoding" not in answer.headers
    assert bench.wire.ending == "close"


@pytest.mark.parametrize("handler", [numbers, async_numbers])
def test_of_a_stream_head_sends_the_head(bench: Bench, handler: Callable[[], Any]) -> None:
    bench.route("/", handler).feed(get(method="HEAD"))
    assert bench.wire.out.endswith(b"\r\n\r\n")
    assert bench.wire.out.count(b"\r\n\r\n") == 1
    assert b"chunked" in bench.wire.out
    assert not bench.wire.closed
    assert bench.door.streams == set()


@pytest.mark.parametrize(
    ("parts", "kind", "body"),
    [
        (["<p>", "x"], "text/html; charset=utf-8", b"<p>x"),
        ([b"\xff", "x"], "application/octet-stream", b"\xffx"),
        ([{"a": 1}, None], "application/x-ndjson", b'{"a":1}\nnull\n'),
        ([], "text/plain; charset=utf-8", b""),
    ],
)
def test_the_first_part_says_of_which_type_a_stream_is(bench: Bench, parts: list[Any], kind: str, body: bytes) -> None:
    answer = bench.route("/", lambda: HttpResponse().stream(parts)).ask(get())
    assert (answer.headers["content-type"], answer.body, answer.whole) == (kind, body, True)


def test_a_type_that_was_set_is_said_once_whatever_its_case(bench: Bench) -> None:
    answer = bench.route("/", lambda: HttpResponse().header("content-type", "text/csv").stream(numbers())).ask(get())
    assert [value for name, value in answer.pairs if name.lower() == "content-type"] == ["text/csv"]


def test_events(bench: Bench) -> None:
    answer = bench.route("/", lambda: HttpResponse().events([("tick", 1), "x"])).ask(get())
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body == b"event: tick\ndata: 1\n\ndata: x\n\n"


def test_the_request_is_there_in_every_part(bench: Bench) -> None:
    def handler() -> Iterator[str]:
        yield request.path
        yield request.path

    async def also() -> AsyncIterator[str]:
        yield request.path
        await asyncio.sleep(0)
        yield request.path

    bench.route("/a", handler).route("/b", also).feed(get("/a")).feed(get("/b"))
    assert [answer.body for answer in bench.answers()] == [b"/a/a", b"/b/b"]


def no_parts(error: Exception) -> list[str]:
    raise error


def failing_at_once() -> Iterator[str]:
    yield from no_parts(KeyError("hunter2"))


async def async_failing_at_once() -> AsyncIterator[str]:
    for part in no_parts(KeyError("hunter2")):
        yield part


def not_text_at_first() -> Iterator[Any]:
    yield object()


@pytest.mark.parametrize("handler", [failing_at_once, async_failing_at_once, not_text_at_first])
def test_a_stream_that_fails_before_its_first_part_is_a_500(bench: Bench, handler: Callable[[], Any]) -> None:
    answer = bench.route("/", handler).route("/next", lambda: "next").ask(get())
    assert answer.status == 500
    assert b"hunter2" not in bench.wire.out
    assert bench.door.streams == set()
    assert bench.dispatcher.counts.failed == 1
    bench.feed(get("/next"))
    assert bench.answers()[1].body == b"next"


def test_a_stream_may_raise_an_answer_before_its_first_part(bench: Bench) -> None:
    def handler() -> Iterator[str]:
        yield from no_parts(HttpError(404, "no such log"))

    answer = bench.route("/", handler).ask(get())
    assert (answer.status, answer.json) == (404, {"error": "no such log"})
    assert bench.dispatcher.counts.failed == 0


def failing_later() -> Iterator[str]:
    yield "1"
    raise KeyError


async def async_failing_later() -> AsyncIterator[str]:
    yield "1"
    raise KeyError


@pytest.mark.parametrize("handler", [failing_later, async_failing_later])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_stream_that_fails_later_does_not_look_complete(
    bench: Bench, handler: Callable[[], Any], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.route("/", handler).feed(get(version=version))
    assert bench.wire.ending == "abort"
    assert not bench.wire.out.endswith(b"0\r\n\r\n")
    assert bench.dispatcher.counts.failed == 1
    assert "failed (error id" in caplog.text
    assert bench.door.streams == set()


class Odd:
    def __iter__(self) -> Iterator[str]:
        raise KeyError


def test_an_iterable_that_is_none_after_all_ends_in_a_500(bench: Bench) -> None:
    assert bench.route("/", lambda: HttpResponse().stream(Odd())).ask(get()).status == 500
    assert bench.door.streams == set()


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_generator_that_fails_when_it_is_closed_leaves_its_place(bench: Bench, kind: type[BaseException]) -> None:
    def handler() -> Iterator[str]:
        try:
            yield "1"
            yield "2"
        finally:
            raise kind

    bench.wire.on_write = lambda: bench.protocol.gone()
    bench.route("/", handler).feed(get())
    assert bench.door.streams == set()
    assert bench.wire.closed


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_no_exception_in_a_stream_ends_its_thread(bench: Bench, kind: type[BaseException]) -> None:
    def handler() -> Iterator[str]:
        yield "1"
        raise kind

    bench.route("/", handler).feed(get())
    assert bench.wire.ending == "abort"
    assert bench.door.streams == set()


def closing(closed: list[str]) -> Iterator[str]:
    try:
        while True:
            yield "x"
    finally:
        closed.append("closed")


async def async_closing(closed: list[str]) -> AsyncIterator[str]:
    try:
        while True:
            yield "x"
            await asyncio.sleep(0)
    finally:
        closed.append("closed")


@pytest.mark.parametrize("make", [closing, async_closing])
def test_a_stream_whose_client_goes_is_closed(bench: Bench, make: Callable[[list[str]], Any]) -> None:
    closed: list[str] = []
    writes = 0

    def count() -> None:
        nonlocal writes
        writes += 1
        if writes == 4:
            bench.wire.abort()
            bench.protocol.gone()

    bench.wire.on_write = count
    bench.route("/", lambda: make(closed)).feed(get())
    assert closed == ["closed"]
    assert writes <= 6
    assert bench.door.streams == set()
    assert bench.dispatcher.counts.failed == 0


@pytest.mark.parametrize("make", [closing, async_closing])
def test_a_client_that_closes_its_side_has_left_a_stream(bench: Bench, make: Callable[[list[str]], Any]) -> None:
    closed: list[str] = []
    left: list[int] = []

    def leave() -> None:
        if bench.wire.out.count(b"x") > 3 and not left:
            left.append(1)
            bench.wire.half_closed = True
            bench.protocol.ended()

    bench.wire.on_write = leave
    bench.route("/", lambda: make(closed)).feed(get())
    assert closed == ["closed"]
    assert bench.wire.closed


@pytest.mark.parametrize("make", [closing, async_closing])
def test_a_stream_that_is_given_up_does_not_look_complete(bench: Bench, make: Callable[[list[str]], Any]) -> None:
    """At the end of a drain the client is still there."""

    def give_up() -> None:
        if bench.wire.out.count(b"x") > 3:
            for call in list(bench.door.streams):
                call.client_gone()

    bench.wire.on_write = give_up
    bench.route("/", lambda: make([])).feed(get())
    assert bench.wire.closed
    assert not bench.wire.out.endswith(b"0\r\n\r\n")


def test_a_stream_waits_for_a_client_that_takes_little(bench: Bench) -> None:
    written: list[int] = []

    def handler() -> Iterator[bytes]:
        for number in range(3):
            written.append(number)
            yield b"x"

    (call,) = bench.route("/", handler).read(get())
    bench.wire.pending = httpdoor.STREAM_WINDOW + 1
    call.run()
    thread = Thread(target=bench.engine.spares.pop())
    thread.start()
    wait_for(lambda: written, SOON)
    for _ in range(3):
        bench.protocol.drained()  # of something else: it is still too much
    assert written == [0]
    bench.wire.pending = 0
    bench.protocol.drained()
    thread.join(SOON)
    assert written == [0, 1, 2]
    assert bench.wire.out.endswith(b"0\r\n\r\n")


def test_a_stream_that_waits_ends_when_the_client_goes(bench: Bench) -> None:
    closed: list[str] = []
    (call,) = bench.route("/", lambda: closing(closed)).read(get())
    bench.wire.pending = httpdoor.STREAM_WINDOW + 1
    call.run()
    thread = Thread(target=bench.engine.spares.pop())
    thread.start()
    wait_for(lambda: b"x" in bench.wire.out, SOON)
    bench.wire.abort()
    bench.protocol.gone()
    thread.join(SOON)
    assert closed == ["closed"]


def test_an_async_stream_that_waits_for_news_ends_when_the_client_goes(bench: Bench) -> None:
    """It would hold its place for as long as there is nothing new."""
    closed: list[str] = []

    async def handler() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    async def scene(stream: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(stream)
        while b"first" not in bench.wire.out:
            await asyncio.sleep(0)
        bench.wire.abort()
        bench.protocol.gone()
        await asyncio.wait_for(task, SOON)

    (call,) = bench.route("/", handler).read(get())
    call.run()
    asyncio.run(scene(bench.started.pop()))
    assert closed == ["closed"]
    assert bench.door.streams == set()
    assert bench.dispatcher.counts.failed == 0


def test_an_async_stream_whose_client_went_before_it_began_ends(bench: Bench) -> None:
    async def handler() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    async def scene(stream: Coroutine[Any, Any, None]) -> bool:
        task = asyncio.ensure_future(stream)
        for _ in range(20):
            await asyncio.sleep(0)
        ended = task.done()
        task.cancel()
        await task
        return ended

    (call,) = bench.route("/", handler).read(get())
    call.run()
    bench.wire.abort()
    bench.protocol.gone()
    assert asyncio.run(scene(bench.started.pop()))
    assert bench.door.streams == set()


def test_a_stream_that_cannot_be_started_is_answered(bench: Bench) -> None:
    """The system may refuse a thread; a drain must not wait for what never ran."""

    def refuse(what: Any) -> None:
        if asyncio.iscoroutine(what):
            what.close()
        raise RuntimeError("can't start new thread")

    bench.engine.spare = refuse  # type: ignore[method-assign,assignment]
    bench.dispatcher.start_coroutine = refuse
    for handler in (numbers, async_numbers):
        bench.make()
        bench.route(f"/{handler.__name__}", handler)
        assert bench.ask(get(f"/{handler.__name__}")).status in (500, 503)
        assert bench.door.streams == set()


def test_so_many_streams_run_at_once(bench: Bench) -> None:
    bench.route("/", numbers)
    for _ in range(STREAMS):
        wire = bench.connect()
        for call in bench.read(get(), wire):
            call.run()
    assert len(bench.door.streams) == STREAMS
    (call,) = bench.read(get())
    call.run()
    (answer,) = bench.answers()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    bench.settle()
    bench.feed(get())
    assert bench.answers()[1].body == b"122"


# --- the stop ---


def test_an_idle_connection_is_closed_at_the_stop(bench: Bench) -> None:
    bench.route("/", nothing).feed(get())
    bench.protocol.stopping()
    assert bench.wire.ending == "close"


def test_half_an_upload_is_dropped_at_the_stop(bench: Bench) -> None:
    bench.feed(get("/", "Content-Length: 5", method="POST") + b"x")
    bench.protocol.stopping()
    assert bench.wire.ending == "close"
    assert bench.door.body_bytes == 0


def test_what_is_at_work_at_the_stop_is_answered_and_the_connection_closed(bench: Bench) -> None:
    (call,) = bench.route("/", lambda: "x").read(get())
    bench.door.stopping = True
    bench.protocol.stopping()
    assert not bench.wire.closed
    bench.run(call)
    (answer,) = bench.answers()
    assert (answer.body, answer.headers["connection"]) == (b"x", "close")
    assert bench.wire.closed


def test_no_stream_begins_after_the_stop(bench: Bench) -> None:
    bench.route("/", numbers)
    bench.door.stopping = True
    answer = bench.ask(get())
    assert (answer.status, answer.json) == (503, {"error": "The service is stopping"})


def own_events(closed: list[str]) -> HttpResponse:
    return HttpResponse().events(closing(closed))


def said_events(closed: list[str]) -> Any:
    return response.events(closing(closed))


@pytest.mark.parametrize("make", [own_events, said_events])
def test_events_end_at_the_stop(bench: Bench, make: Callable[[list[str]], Any]) -> None:
    """They would never end by themselves."""
    closed: list[str] = []

    def stop() -> None:
        if bench.wire.out.count(b"x") > 3 and not bench.door.stopping:
            bench.door.stopping = True
            bench.protocol.stopping()

    bench.wire.on_write = stop
    bench.route("/", lambda: make(closed)).feed(get())
    assert closed == ["closed"]
    assert bench.wire.closed


def test_other_streams_go_on_at_the_stop(bench: Bench) -> None:
    bench.wire.on_write = lambda: bench.protocol.stopping()
    assert bench.route("/", numbers).ask(get()).body == b"122"


def test_a_refusal_while_the_handler_still_runs_is_the_only_answer(bench: Bench) -> None:
    """At the end of a drain, from another thread."""
    calls: list[Any] = []

    def handler() -> str:
        calls[0].refuse(Stopping("it stops"))
        return "too late"

    calls += bench.route("/", handler).read(get())
    bench.run(calls[0])
    assert bench.ask(b"").status == 503


# --- other origins ---

CORS = {"allowed_origins": ["http://a.example"], "allowed_methods": ["GET", "PUT"], "allowed_headers": ["X-A"]}


def test_an_allowed_page_may_read_the_answer() -> None:
    answer = Bench(cors=CORS).route("/", lambda: "x").ask(get("/", "Origin: http://a.example"))
    assert answer.headers["access-control-allow-origin"] == "http://a.example"
    other = Bench(cors=CORS).route("/", lambda: "x").ask(get("/", "Origin: http://b.example"))
    assert other.status == 200
    assert "access-control-allow-origin" not in other.headers


def test_an_error_is_readable_for_an_allowed_page_too() -> None:
    answer = Bench(cors=CORS).ask(get("/none", "Origin: http://a.example"))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (404, "http://a.example")


def test_a_preflight_is_answered_without_a_handler() -> None:
    lines = ["Origin: http://a.example", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-a"]
    bench = Bench(cors=CORS).route("/", nothing, method="PUT")
    answer = bench.ask(get("/", *lines, method="OPTIONS"))
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "http://a.example"
    assert "PUT" in answer.headers["access-control-allow-methods"]


def test_without_cors_options_are_just_that() -> None:
    lines = ["Origin: http://a.example", "Access-Control-Request-Method: GET"]
    answer = Bench().route("/", nothing).ask(get("/", *lines, method="OPTIONS"))
    assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_allowed_page_may_change_something() -> None:
    bench = Bench(cors=CORS).route("/", lambda: "x", method="PUT")
    assert bench.ask(get("/", "Origin: http://a.example", method="PUT", body=b"1")).status == 200


# --- upgrades ---


class Sockets:
    """In place of the WebSocket door."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.rest = b""

    def upgrade(self, connection: Any, request: Any) -> Iterable[Item]:
        self.asked.append(request)
        self.rest = connection.protocol.take_rest()
        return ()


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")


@pytest.fixture
def sockets(bench: Bench) -> Sockets:
    made = Sockets()
    bench.sockets = made
    bench.make()
    return made


def test_an_upgrade_is_handed_over_with_what_came_after_it(bench: Bench, sockets: Sockets) -> None:
    bench.feed(get("/ws?a=b", *UPGRADE) + b"frames")
    (asked,) = sockets.asked
    assert (asked.path, asked.query, sockets.rest) == ("/ws", {"a": "b"}, b"frames")
    assert bench.protocol.expendable == 0
    assert bench.wire.deadline == float("inf")


@pytest.mark.parametrize("data", [get("/", "Upgrade: websocket"), get("/", *UPGRADE, method="POST"), get("/")])
def test_what_is_no_upgrade_is_a_request(bench: Bench, sockets: Sockets, data: bytes) -> None:
    bench.feed(data)
    assert sockets.asked == []
    assert bench.answers()[0].status == 404


def test_without_a_websocket_an_upgrade_is_a_request(bench: Bench) -> None:
    assert bench.route("/", lambda: "x").ask(get("/", *UPGRADE)).body == b"x"


@pytest.mark.parametrize("attribute", ["admitted", "stopping"])
def test_no_upgrade_before_the_start_or_after_the_stop(bench: Bench, sockets: Sockets, attribute: str) -> None:
    setattr(bench.door, attribute, attribute == "stopping")
    assert bench.ask(get("/", *UPGRADE)).status == 503
    assert sockets.asked == []


def test_an_unknown_host_cannot_upgrade(bench: Bench, sockets: Sockets) -> None:
    assert bench.ask(get("/", *UPGRADE, host="evil.example")).status == 421
    assert sockets.asked == []


def test_a_port_for_websockets_says_so() -> None:
    answer = Bench(site=False).ask(get("/"))
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")


# --- what many cause is not said often ---


def test_refusals_do_not_fill_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        bench.feed(b"nonsense\n", bench.connect())
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_what_a_client_sends_is_one_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.route("/<path:rest>", lambda rest: rest / 0).feed(get("/" + "%0A" * 200))
    assert all("\n" not in message for message in caplog.messages)
    assert len(caplog.messages[0]) < 500


def test_the_date_is_made_once_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_790_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    assert bench.door.date() == "Mon, 21 Sep 2026 14:13:20 GMT"
    assert bench.door.date() is bench.door.date()
    now += 1
    assert bench.door.date() == "Mon, 21 Sep 2026 14:13:21 GMT"


# --- a stop that leaves the port to systemd: each open connection may ask once more ---


def leave(bench: Bench) -> None:
    """The service stops."""
    bench.door.stopping = bench.door.graceful = True
    bench.protocol.stopping()
    bench.settle()


def end_grace(bench: Bench) -> None:
    bench.door.graceful = False
    bench.protocol.stopping()
    bench.settle()


def test_an_idle_connection_gets_one_more_answer(bench: Bench) -> None:
    """Whose client may have asked just now: it never finds the connection closed under its request."""
    bench.route("/", lambda: "x").feed(get())
    leave(bench)
    assert not bench.wire.closed
    assert bench.protocol.awaits_last
    bench.feed(get())
    first, last = bench.answers()
    assert (last.status, last.body, last.headers["connection"]) == (200, b"x", "close")
    assert first.headers.get("connection") != "close"
    assert bench.wire.ending == "close"
    assert not bench.protocol.awaits_last


def test_a_connection_that_asks_nothing_more_is_closed_after_the_grace(bench: Bench) -> None:
    bench.route("/", nothing).feed(get())
    leave(bench)
    end_grace(bench)
    assert bench.wire.ending == "close"
    assert len(bench.answers()) == 1
    assert not bench.protocol.awaits_last


def test_a_connection_that_has_just_come_may_ask_too(bench: Bench) -> None:
    bench.route("/", lambda: "x")
    leave(bench)
    answer = bench.ask(get())
    assert (answer.body, answer.headers["connection"]) == (b"x", "close")


def test_a_request_that_is_arriving_is_completed(bench: Bench) -> None:
    bench.route("/", lambda: request.body, "POST")
    upload = get("/", "Content-Length: 10", method="POST")
    bench.feed(upload + b"12345")
    leave(bench)
    assert (bench.answers(), bench.wire.closed) == ([], False)
    bench.feed(b"67890")
    (answer,) = bench.answers()
    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"1234567890", "close")
    assert bench.wire.closed


def test_a_head_that_is_arriving_is_completed(bench: Bench) -> None:
    data = get()
    bench.route("/", lambda: "x").feed(data[:10])
    leave(bench)
    answer = bench.ask(data[10:])
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_a_request_that_does_not_arrive_within_the_grace_is_refused(bench: Bench) -> None:
    bench.feed(get("/", "Content-Length: 10", method="POST") + b"12345")
    leave(bench)
    end_grace(bench)
    (answer,) = bench.answers()
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert bench.door.body_bytes == 0


def test_of_several_requests_at_once_one_is_answered_as_the_last(bench: Bench) -> None:
    bench.route("/", lambda: "x").feed(get())
    leave(bench)
    bench.feed(get() + get() + get())
    assert [answer.headers.get("connection") for answer in bench.answers()][1:] == ["close"]


def test_what_is_at_work_when_the_grace_begins_is_the_last_answer(bench: Bench) -> None:
    (call,) = bench.route("/", lambda: "x").read(get())
    leave(bench)
    assert not bench.protocol.awaits_last
    bench.run(call)
    (answer,) = bench.answers()
    assert (answer.body, answer.headers["connection"]) == (b"x", "close")
    assert bench.wire.closed


def test_what_is_at_work_when_the_grace_ends_is_answered(bench: Bench) -> None:
    bench.route("/", lambda: "x")
    leave(bench)
    (call,) = bench.read(get())
    end_grace(bench)
    assert not bench.wire.closed
    bench.run(call)
    (answer,) = bench.answers()
    assert (answer.body, answer.headers["connection"]) == (b"x", "close")
    assert bench.wire.closed


def test_a_client_that_has_closed_its_side_is_not_waited_for(bench: Bench) -> None:
    bench.route("/", lambda: "x").feed(get())
    bench.wire.half_closed = True
    bench.protocol.ended()
    leave(bench)
    assert bench.wire.closed
    assert not bench.protocol.awaits_last
