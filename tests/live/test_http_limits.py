"""The HTTP endpoint against clients that are odd, slow, greedy, broken or hostile: framing, limits, deadlines, life."""

from __future__ import annotations

import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import (
    ANSWER_SECONDS,
    BrokenAnswer,
    HttpAnswer,
    HttpLink,
    Launcher,
    Peer,
    Script,
    Side,
    fetch,
    free_port,
    let_pass,
    listens,
    until_ready,
)
from tests.support import MS, wait_for

JSON = {"Content-Type": "application/json"}
CHUNKED = {"Transfer-Encoding": "chunked"}
MIB = 1024 * 1024

SITE = """
import asyncio

@app.route("/")
def root(req):
    return {"root": True}

@app.route("/n/<int:n>", methods=["GET", "POST"])
def number(req, n):
    return {"n": n}

@app.route("/length", methods=["GET", "POST", "PUT"])
def length(req):
    return {"length": len(req.payload) if isinstance(req.payload, bytes) else -1}

@app.route("/text", methods=["POST"])
def text(req):
    return req.payload.decode()

@app.route("/big")
def big(req):
    return b"x" * (8 * 1024 * 1024)

@app.route("/mid")
def mid(req):
    return b"x" * 300_000

@app.route("/smuggled", methods=["GET", "POST"])
def smuggled(req):
    note("smuggled")
    return {"smuggled": True}

gate = threading.Event()

@app.route("/wait")
def wait(req):
    note("waits")
    gate.wait(20)
    gate.clear()
    return {"waited": True}

@app.route("/open-gate")
def open_gate(req):
    gate.set()
    return {}

@app.route("/slow")
def slow(req):
    note("slow")
    time.sleep(1.0)
    return {"slow": True}

@app.route("/forever")
async def forever(req):
    note("forever")
    await asyncio.sleep(60)

@app.route("/stream")
def stream(req):
    try:
        while True:
            yield "x" * 1000
    finally:
        note("stream closed")

@app.route("/events")
def events(req):
    def tell():
        while True:
            time.sleep(0.02)
            yield {"n": 1}
    return response.events(tell())

os.makedirs("www", exist_ok=True)
with open("www/large.bin", "wb") as large:
    large.write(b"x" * 5_000_000)
app.static("/files", "www")

@app.action("echo")
def echo():
    return {"got": request.payload}
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory, own_side: Side) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("limits"), own_side)
    yield launcher
    launcher.end_all()


@pytest.fixture(scope="module")
def site(launcher: Launcher, bus: PrivateServer) -> Script:
    return launcher.site(SITE, server=bus)


HASTY = {"header_timeout": 1.0, "body_timeout": 1.0, "idle_timeout": 1.0, "write_timeout": 1.0}
LATEST = 8000 * MS  # by then a deadline of HASTY has been seen to


@pytest.fixture(scope="module")
def hasty(launcher: Launcher, bus: PrivateServer) -> Script:
    """A service whose deadlines are short."""
    return launcher.site(SITE, server=bus, settings=HASTY)


@pytest.fixture(autouse=True)
def still_whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the service serves, and nothing was smuggled past it."""
    yield
    for name in ("site", "hasty"):
        if name in request.fixturenames:
            script: Script = request.getfixturevalue(name)
            assert script.alive, script.log[-3000:]
            assert served(script)
            assert "smuggled" not in script.notes
            assert "defect of Daebus" not in script.log


def served(site: Script) -> bool:
    return bool(fetch(site.port, "GET", "/n/1").json() == {"n": 1})


def refused(link: HttpLink, *statuses: int) -> HttpAnswer:
    """An error answer, JSON, after which the connection ends cleanly: the client could read it, and nothing follows."""
    answer = link.answer()
    assert answer.status in statuses, answer
    assert isinstance(answer.json()["error"], str)
    assert answer.header("x-content-type-options") == "nosniff"
    assert "close" in answer.words("connection")
    assert link.closes(), "something follows the refusal"
    return answer


# --- heads ---

HOST = b"Host: localhost\r\n"


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


GET = b"GET / HTTP/1.1"
LOCAL = b"Host: localhost"
SMUGGLED = head(b"GET /smuggled HTTP/1.1", LOCAL)

MALFORMED: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "no host": (head(GET), (400, 421)),
    "empty host": (head(GET, b"Host:"), (400, 421)),
    "doubled host": (head(GET, LOCAL, LOCAL), (400,)),
    "two hosts": (head(GET, LOCAL, b"Host: evil.example"), (400,)),
    "two hosts in one": (head(GET, b"Host: localhost, evil.example"), (400, 421)),
    "host with a path": (head(GET, b"Host: localhost/x"), (400, 421)),
    "host with a user": (head(GET, b"Host: localhost@evil.example"), (400, 421)),
    "bare line feeds": (head(GET, LOCAL).replace(b"\r\n", b"\n"), (400,)),
    "a bare line feed": (GET + b"\nHost: localhost\r\n\r\n", (400,)),
    "a bare line feed between headers": (head(GET, LOCAL + b"\nX: y"), (400,)),
    "a bare carriage return": (head(GET, LOCAL, b"X: a\rb"), (400,)),
    "a bare carriage return before a header": (head(GET, LOCAL, b"X: a\rContent-Length: 5"), (400,)),
    "a line feed at the end": (GET + b"\r\n" + LOCAL + b"\r\n\n", (400,)),
    "a folded header": (head(GET, LOCAL, b"X: a", b" b"), (400,)),
    "a header folded by a tab": (head(GET, LOCAL, b"X: a", b"\tb"), (400,)),
    "a folded first header": (head(GET, b" X: a", LOCAL), (400,)),
    "a space before the colon": (head(GET, LOCAL, b"X : a"), (400,)),
    "a space before the colon of a length": (head(b"POST / HTTP/1.1", LOCAL, b"Content-Length : 5") + b"12345", (400,)),
    "a tab before the colon": (head(GET, LOCAL, b"X\t: a"), (400,)),
    "no colon": (head(GET, LOCAL, b"nonsense"), (400,)),
    "no header name": (head(GET, LOCAL, b": a"), (400,)),
    "NUL in a value": (head(GET, LOCAL, b"X: a\0b"), (400,)),
    "NUL in a name": (head(GET, LOCAL, b"X\0: a"), (400,)),
    "NUL in the target": (head(b"GET /\0 HTTP/1.1", LOCAL), (400,)),
    "a control character in a value": (head(GET, LOCAL, b"X: a\x0bb"), (400,)),
    "DEL in a value": (head(GET, LOCAL, b"X: a\x7fb"), (400,)),
    "a name that is no token": (head(GET, LOCAL, b"X(y): a"), (400,)),
    "a name that is not ASCII": (head(GET, LOCAL, b"X\xfc: a"), (400,)),
    "two spaces in the request line": (head(b"GET  / HTTP/1.1", LOCAL), (400,)),
    "a space in the target": (head(b"GET /a b HTTP/1.1", LOCAL), (400,)),
    "a tab in the request line": (head(b"GET\t/\tHTTP/1.1", LOCAL), (400,)),
    "a space after the version": (head(b"GET / HTTP/1.1 ", LOCAL), (400,)),
    "a space before the method": (head(b" GET / HTTP/1.1", LOCAL), (400,)),
    "a method that is no token": (head(b"G@T / HTTP/1.1", LOCAL), (400,)),
    "no target": (head(b"GET HTTP/1.1", LOCAL), (400,)),
    "no version": (head(b"GET /", LOCAL), (400, 505)),
    "HTTP/0.9": (b"GET /\r\n\r\n", (400, 505)),
    "HTTP/2.0": (head(b"GET / HTTP/2.0", LOCAL), (400, 505)),
    "HTTP/1.2": (head(b"GET / HTTP/1.2", LOCAL), (400, 505)),
    "HTTP/1.10": (head(b"GET / HTTP/1.10", LOCAL), (400, 505)),
    "HTTP/01.1": (head(b"GET / HTTP/01.1", LOCAL), (400, 505)),
    "http/1.1": (head(b"GET / http/1.1", LOCAL), (400, 505)),
    "HTTP/1,1": (head(b"GET / HTTP/1,1", LOCAL), (400, 505)),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\n\0" * 100 + b"\r\n\r\n", (400,)),
    "a Redis command": (b"*1\r\n$4\r\nPING\r\n\r\n", (400, 501, 505)),
    "a request of SMTP": (b"EHLO localhost\r\n\r\n", (400, 505)),
    "a target without a slash": (head(b"GET status HTTP/1.1", LOCAL), (400,)),
    "the authority form": (head(b"GET localhost:80 HTTP/1.1", LOCAL), (400,)),
    "the authority form of CONNECT": (head(b"CONNECT localhost:80 HTTP/1.1", LOCAL), (400, 405, 501)),
    "the asterisk form of GET": (head(b"GET * HTTP/1.1", LOCAL), (400,)),
    "a fragment": (head(b"GET /#a HTTP/1.1", LOCAL), (400,)),
    "an absolute target elsewhere": (head(b"GET http://evil.example/ HTTP/1.1", LOCAL), (400, 421)),
    "an absolute target without a host": (head(b"GET http:///n/1 HTTP/1.1", LOCAL), (400, 421)),
    "an absolute target with a user": (head(b"GET http://me@localhost/ HTTP/1.1", LOCAL), (400, 421)),
    "another scheme": (head(b"GET ftp://localhost/ HTTP/1.1", LOCAL), (400,)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_head_is_refused_and_nothing_after_it_is_read(site: Script, name: str) -> None:
    data, statuses = MALFORMED[name]
    with HttpLink(site.port) as link:
        link.send(data + SMUGGLED)
        refused(link, *statuses)


@pytest.mark.parametrize("name", MALFORMED)
def test_nor_when_it_comes_in_pieces(site: Script, name: str) -> None:
    data, statuses = MALFORMED[name]
    with HttpLink(site.port) as link:
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):  # it may be refused before its end
            for start in range(0, len(data), 7):
                link.send(data[start : start + 7])
        refused(link, *statuses)


def test_the_oldest_libraries_are_as_strict(launch: Launcher, bus: PrivateServer, debian_side: Side) -> None:
    site = launch.site(SITE, server=bus, side=debian_side)
    chunks = {name: (CHUNKED_HEAD + data, (400, 413, 431)) for name, data in BROKEN_CHUNKS.items()}
    for name, (data, statuses) in {**MALFORMED, **SMUGGLING, **chunks}.items():
        with HttpLink(site.port) as link:
            with suppress(ConnectionError):
                link.send(data + SMUGGLED)
            try:
                refused(link, *statuses)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}; {site.log[-500:]}") from None
    assert "smuggled" not in site.notes
    assert served(site)


@pytest.mark.parametrize(
    "data",
    [
        head(GET, LOCAL),
        b"\r\n" + head(GET, LOCAL),
        b"\r\n\r\n\r\n" + head(GET, LOCAL),
        head(GET, b"host:localhost"),
        head(GET, b"HOST:  \t localhost \t "),
        head(GET, b"Host: LOCALHOST.:1"),
        head(GET, LOCAL, b"X:"),
        head(GET, LOCAL, b"X: a", b"X: b"),
        head(GET, LOCAL, b"Content-Length: 0"),
        head(GET, LOCAL, b"Connection: keep-alive, x"),
        head(GET, LOCAL, b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk"),
        head(GET, LOCAL, b"Accept-Encoding: br, gzip"),
        head(b"GET http://localhost/ HTTP/1.1", LOCAL),
        head(b"GET HTTP://localhost HTTP/1.1", LOCAL),
        head(b"GET http://127.0.0.1/?a=http://x/ HTTP/1.1", b"Host: evil.example"),
        head(b"GET /?a=http://x/?y HTTP/1.1", LOCAL),
    ],
)
def test_what_is_odd_and_right_is_served(site: Script, data: bytes) -> None:
    with HttpLink(site.port) as link:
        for _ in range(2):
            link.send(data)
            assert link.answer().json() == {"root": True}


def test_a_request_may_come_byte_by_byte(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in link.request("POST", "/length", {}, b"12345"):
            link.send(bytes([byte]))
        assert link.answer().json() == {"length": 5}


# --- framing of bodies, and smuggling ---

POST = b"POST /length HTTP/1.1"

SMUGGLING: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "length and coding": (
        head(POST, LOCAL, b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        (400,),
    ),
    "coding and length": (
        head(POST, LOCAL, b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
        (400,),
    ),
    "length and an unknown coding": (
        head(POST, LOCAL, b"Content-Length: 5", b"Transfer-Encoding: x") + b"12345",
        (400, 501),
    ),
    "length and identity": (
        head(POST, LOCAL, b"Content-Length: 5", b"Transfer-Encoding: identity") + b"12345",
        (400, 501),
    ),
    "length and an empty coding": (
        head(POST, LOCAL, b"Content-Length: 5", b"Transfer-Encoding:") + b"12345",
        (400, 501),
    ),
    "two lengths": (head(POST, LOCAL, b"Content-Length: 5", b"Content-Length: 6") + b"12345", (400,)),
    "two equal lengths": (head(POST, LOCAL, b"Content-Length: 5", b"Content-Length: 5") + b"12345", (400,)),
    "a list of lengths": (head(POST, LOCAL, b"Content-Length: 5, 5") + b"12345", (400,)),
    "a list of two lengths": (head(POST, LOCAL, b"Content-Length: 5, 6") + b"12345", (400,)),
    "a plus": (head(POST, LOCAL, b"Content-Length: +5") + b"12345", (400,)),
    "a minus": (head(POST, LOCAL, b"Content-Length: -5") + b"12345", (400,)),
    "minus nought": (head(POST, LOCAL, b"Content-Length: -0"), (400,)),
    "a space within": (head(POST, LOCAL, b"Content-Length: 1 0") + b"12345", (400,)),
    "hexadecimal": (head(POST, LOCAL, b"Content-Length: 0x5") + b"12345", (400,)),
    "an underscore": (head(POST, LOCAL, b"Content-Length: 1_0") + b"12345", (400,)),
    "a fraction": (head(POST, LOCAL, b"Content-Length: 5.0") + b"12345", (400,)),
    "an exponent": (head(POST, LOCAL, b"Content-Length: 1e1") + b"12345", (400,)),
    "other digits": (head(POST, LOCAL, b"Content-Length: \xb2") + b"12", (400,)),
    "digits of another script": (head(POST, LOCAL, b"Content-Length: \xd9\xa5") + b"12345", (400,)),
    "an empty length": (head(POST, LOCAL, b"Content-Length:") + b"12345", (400,)),
    "a vertical tab after a length": (head(POST, LOCAL, b"Content-Length: 5\x0b") + b"12345", (400,)),
    "a huge length": (head(POST, LOCAL, b"Content-Length: 99999999999999999999") + b"12345", (400, 413)),
    "2**64": (head(POST, LOCAL, b"Content-Length: 18446744073709551616") + b"12345", (400, 413)),
    "5,000 digits": (head(POST, LOCAL, b"Content-Length: " + b"0" * 4999 + b"5") + b"12345", (400, 413)),
    "a long length": (head(POST, LOCAL, b"Content-Length: 9999999999") + b"12345", (413,)),
    "an unknown coding": (head(POST, LOCAL, b"Transfer-Encoding: gzip"), (400, 501)),
    "chunked under something": (head(POST, LOCAL, b"Transfer-Encoding: chunked, gzip"), (400, 501)),
    "something under chunked": (head(POST, LOCAL, b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", (400, 501)),
    "chunked twice": (head(POST, LOCAL, b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", (400, 501)),
    "two codings": (
        head(POST, LOCAL, b"Transfer-Encoding: chunked", b"Transfer-Encoding: x") + b"0\r\n\r\n",
        (400, 501),
    ),
    "two of chunked": (head(POST, LOCAL, *[b"Transfer-Encoding: chunked"] * 2) + b"0\r\n\r\n", (400, 501)),
    "quoted chunked": (head(POST, LOCAL, b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n", (400, 501)),
    "xchunked": (head(POST, LOCAL, b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", (400, 501)),
    "chunked;": (head(POST, LOCAL, b"Transfer-Encoding: chunked;") + b"0\r\n\r\n", (400, 501)),
    "chunked=": (head(POST, LOCAL, b"Transfer-Encoding: chunked;q=1") + b"0\r\n\r\n", (400, 501)),
    ",chunked": (head(POST, LOCAL, b"Transfer-Encoding: ,chunked") + b"0\r\n\r\n", (400, 501)),
    "a vertical tab before chunked": (head(POST, LOCAL, b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n", (400, 501)),
    "chunked in HTTP/1.0": (
        head(b"POST /length HTTP/1.0", LOCAL, b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        (400, 411, 501),
    ),
    "a folded coding": (head(POST, LOCAL, b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n", (400,)),
    "a coding before a colon": (head(POST, LOCAL, b"Transfer-Encoding : chunked") + b"0\r\n\r\n", (400,)),
    "a GET with both": (head(GET, LOCAL, b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", (400,)),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_no_request_can_be_smuggled(site: Script, name: str) -> None:
    data, statuses = SMUGGLING[name]
    with HttpLink(site.port) as link:
        link.send(data + SMUGGLED)
        refused(link, *statuses)


CHUNKED_HEAD = head(POST, LOCAL, b"Transfer-Encoding: chunked")

BROKEN_CHUNKS = {
    "no number": b"g\r\n",
    "a minus": b"-5\r\n12345\r\n0\r\n\r\n",
    "a plus": b"+5\r\n12345\r\n0\r\n\r\n",
    "0x": b"0x5\r\n12345\r\n0\r\n\r\n",
    "an underscore": b"0_5\r\n12345\r\n0\r\n\r\n",
    "an empty size": b"\r\n12345\r\n0\r\n\r\n",
    "a space before": b" 5\r\n12345\r\n0\r\n\r\n",
    "too many digits": b"0" * 40 + b"5\r\n12345\r\n0\r\n\r\n",
    "2**64": b"10000000000000005\r\n12345\r\n0\r\n\r\n",
    "a bare line feed": b"5\n12345\r\n0\r\n\r\n",
    "a bare line feed after an extension": b"5;a\n12345\r\n0\r\n\r\n",
    "a bare carriage return": b"5\r12345\r\n0\r\n\r\n",
    "no end of a chunk": b"5\r\n123456\r\n0\r\n\r\n",
    "a bare line feed after a chunk": b"5\r\n12345\n0\r\n\r\n",
    "other bytes after a chunk": b"5\r\n12345XX0\r\n\r\n",
    "an endless extension": b"5;" + b"a" * 40_000,
    "an endless size": b"0" * 40_000,
    "a trailer that is none": b"0\r\nnonsense\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "an endless trailer": b"0\r\nA: " + b"b" * 40_000,
    "endless trailers": b"0\r\n" + b"A: b\r\n" * 8000,
    "a NUL in an extension": b"5;a\0\r\n12345\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_broken_chunks_are_refused(site: Script, name: str) -> None:
    with HttpLink(site.port) as link:
        with suppress(ConnectionError):
            link.send(CHUNKED_HEAD + BROKEN_CHUNKS[name] + SMUGGLED)
        refused(link, 400, 413, 431)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"5\r\n12345\r\n0\r\n\r\n", 5),
        (b"2\r\n12\r\n3\r\n345\r\n0\r\n\r\n", 5),
        (b"00005\r\n12345\r\n000\r\n\r\n", 5),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", 20),
        (b"5;name=value\r\n12345\r\n0;last\r\n\r\n", 5),
        (b'5;name="quoted; value"\r\n12345\r\n0\r\n\r\n', 5),
        (b"5\r\n12345\r\n0\r\nTrailer: value\r\nOther: x\r\n\r\n", 5),
        (b"0\r\n\r\n", 0),
        (b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n", 3000),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_chunked_bodies(site: Script, body: bytes, length: int) -> None:
    for piece in (len(body), 1 if len(body) < 100 else 1000):
        with HttpLink(site.port) as link:
            link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.send(head(POST, LOCAL, b"Transfer-Encoding: CHUNKED"))
            for start in range(0, len(body), piece):
                link.send(body[start : start + piece])
            assert link.answer().json() == {"length": length}
            assert link.get("/n/2").json() == {"n": 2}, "the connection is in step"


def test_trailers_are_no_headers(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(CHUNKED_HEAD + b"5\r\n12345\r\n0\r\nContent-Type: application/json\r\nHost: evil\r\n\r\n")
        assert link.answer().json() == {"length": 5}


@pytest.mark.parametrize("fields", [(), (b"Content-Type: text/plain",), (b"Connection: close",)])
def test_http_1_0_needs_a_length(site: Script, fields: tuple[bytes, ...]) -> None:
    with HttpLink(site.port) as link:
        link.send(head(b"POST /length HTTP/1.0", LOCAL, *fields))
        refused(link, 411)


def test_a_type_without_a_length_is_411(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(head(POST, LOCAL, b"Content-Type: application/json") + b'{"a": 1}' + SMUGGLED)
        refused(link, 411)


def test_a_post_without_a_body_may_say_nothing(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(head(b"POST /n/1 HTTP/1.1", LOCAL))
        assert link.answer().json() == {"n": 1}


# --- sizes ---


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head(GET, LOCAL, b"X: " + b"y" * 17_000), 431),
        (head(GET, LOCAL, *[b"X: y"] * 3000), 431),
        (head(GET, LOCAL, b"X: " + b"y" * 2 * MIB), 431),
        (head(GET, LOCAL)[:-2] + b"X: y\r\n" * 300_000, 431),
        (head(b"GET /" + b"a" * 9000 + b" HTTP/1.1", LOCAL), 414),
        (head(b"GET /" + b"a" * 2 * MIB + b" HTTP/1.1", LOCAL), 414),
        (b"GET /" + b"a" * 30_000, 414),
        (b"G" * 30_000, 414),
    ],
    ids=["header", "headers", "huge header", "endless headers", "target", "huge target", "no end", "no line"],
)
def test_a_head_that_is_too_large(site: Script, data: bytes, status: int) -> None:
    before = site.resident_kb()
    with HttpLink(site.port) as link:
        with suppress(ConnectionError):
            link.send(data)
        refused(link, status, *((400, 431) if data.startswith(b"GG") else ()))
    assert site.resident_kb() < before + 8 * 1024


def test_a_head_may_be_as_large_as_is_said(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(head(GET, LOCAL, b"X: " + b"y" * 15_500))
        assert link.answer().status == 200
        link.send(head(b"GET /?" + b"a" * 8000 + b" HTTP/1.1", LOCAL))
        assert link.answer().status == 200


def test_a_body_that_is_too_large_is_refused_before_it_comes(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.head("POST", "/length", {"Content-Length": str(MIB + 1)}))
        refused(link, 413)
    assert fetch(site.port, "POST", "/length", {}, b"x" * MIB).json() == {"length": MIB}


@pytest.mark.parametrize("chunked", [False, True])
def test_the_refusal_of_a_large_body_can_be_read_while_it_is_sent(site: Script, chunked: bool) -> None:
    """Closing at once would be a reset, which takes the answer from the client."""
    size = 6 * MIB
    with HttpLink(site.port) as link:
        link.send(link.head("POST", "/length", CHUNKED if chunked else {"Content-Length": str(size)}))
        part = b"x" * 65_536
        sent = 0
        with suppress(ConnectionError):
            while sent < size:
                link.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                sent += len(part)
        refused(link, 413)


def test_a_body_that_never_ends_takes_no_memory(site: Script) -> None:
    before = site.resident_kb()
    with HttpLink(site.port) as link:
        link.send(CHUNKED_HEAD)
        with suppress(ConnectionError):
            for _ in range(20 * 16):
                link.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        assert link.answer().status == 413
    assert site.resident_kb() < before + 8 * 1024


def test_many_large_bodies_at_once_are_bounded(site: Script) -> None:
    """Bodies that are not complete are on disk, or refused."""
    before = site.resident_kb()
    with ExitStack() as stack:
        links = [stack.enter_context(HttpLink(site.port)) for _ in range(60)]
        for link in links:
            link.send(link.head("POST", "/length", {"Content-Length": str(MIB)}) + b"x" * (MIB - 1))
        assert served(site)
        assert site.resident_kb() < before + 40 * 1024
    descriptors = site.descriptors()
    wait_for(lambda: site.descriptors() <= max(30, descriptors - 30), ANSWER_SECONDS)


def test_limits_are_settings(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus, settings={"max_body": 100, "max_header": 1000})
    assert fetch(site.port, "POST", "/length", {}, b"x" * 100).json() == {"length": 100}
    assert fetch(site.port, "POST", "/length", {}, b"x" * 101).status == 413
    assert fetch(site.port, "GET", "/", {"X": "y" * 1000}).status == 431


@pytest.mark.parametrize(
    "settings",
    [
        {"max_body": -1},
        {"max_body": "1 MiB"},
        {"max_header": 0},
        {"max_connections": 0},
        {"header_timeout": 0},
        {"idle_timeout": -1.0},
        {"body_timeout": "soon"},
        {"port": 70_000},
        {"port": "http"},
        {"allowed_hosts": ["http://localhost/"]},
        {"cors_config": {"allowed_origin": "*"}},
        {"cors_config": ["*"]},
    ],
    ids=str,
)
def test_a_senseless_setting_is_refused(launch: Launcher, settings: dict[str, object]) -> None:
    name = str(next(iter(settings)))
    script = launch.script(f"from daebus import DaebusHttp\nDaebusHttp(**{settings!r})")
    assert script.wait() == 1
    assert "ConfigurationError" in script.log
    assert name in script.log or name in ("cors_config",), script.log


# --- Expect: 100-continue ---


def test_100_continue(site: Script) -> None:
    with HttpLink(site.port) as link:
        for coding in ({"Content-Length": "5"}, CHUNKED):
            link.send(link.head("POST", "/length", {**coding, "Expect": "100-Continue"}))
            assert link.answer().status == 100
            link.send(b"12345" if coding is not CHUNKED else b"5\r\n12345\r\n0\r\n\r\n")
            assert link.answer().json() == {"length": 5}


def test_100_continue_is_not_said_before_a_refusal(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.head("POST", "/length", {"Content-Length": str(2 * MIB), "Expect": "100-continue"}))
        refused(link, 413)
    with HttpLink(site.port) as link:
        link.send(link.head("POST", "/length", {"Content-Length": "5", "Expect": "miracles"}))
        refused(link, 417)
    with HttpLink(site.port) as link:
        fields = {"Content-Length": "5", "Expect": "100-continue", "Origin": "http://evil.example"}
        link.send(link.head("POST", "/length", fields))
        refused(link, 403)


def test_a_client_that_expects_and_does_not_wait(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.request("POST", "/length", {"Expect": "100-continue"}, b"12345"))
        answer = link.answer()
        if answer.status == 100:
            answer = link.answer()
        assert answer.json() == {"length": 5}


def test_100_continue_is_not_for_http_1_0_nor_for_no_body(site: Script) -> None:
    with HttpLink(site.port) as link:
        fields = {"Content-Length": "5", "Expect": "100-continue"}
        link.send(link.head("POST", "/length", fields, version="1.0") + b"12345")
        assert link.answer().json() == {"length": 5}
    with HttpLink(site.port) as link:
        link.send(link.head("GET", "/n/1", {"Expect": "100-continue"}))
        assert link.answer().json() == {"n": 1}


# --- one connection, several requests ---


def test_answers_come_in_the_order_of_the_requests(site: Script) -> None:
    with HttpLink(site.port) as link:
        count = 200
        link.send(b"".join(link.request("GET", f"/n/{n}") for n in range(count)))
        assert [link.answer().json()["n"] for _ in range(count)] == list(range(count))


def test_even_when_the_first_is_slow(site: Script) -> None:
    """Much more is sent ahead than the service keeps for a client: it waits with reading."""
    with HttpLink(site.port) as link:
        count = 3000
        link.send(link.request("GET", "/wait"))
        link.socket.setblocking(False)
        rest = b"".join(link.request("GET", f"/n/{n}") for n in range(count))
        with suppress(BlockingIOError):
            rest = rest[link.socket.send(rest) :]
        assert served(site)
        fetch(site.port, "GET", "/open-gate")
        assert link.answer().json() == {"waited": True}
        numbers: list[int] = []
        while len(numbers) < count:
            if rest:
                link.socket.setblocking(False)
                with suppress(BlockingIOError):
                    rest = rest[link.socket.send(rest) :]
            numbers.append(link.answer().json()["n"])
        assert numbers == list(range(count))


def test_bodies_heads_and_errors_in_one_stream(site: Script) -> None:
    with HttpLink(site.port) as link:
        parts = [
            link.request("POST", "/length", {}, b"12345"),
            link.request("HEAD", "/n/1"),
            link.request("GET", "/nowhere"),
            link.request("POST", "/length", CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"),
            link.request("POST", "/length", JSON, b"{"),
            link.request("POST", "/length", {}, b"x" * 300_000),
            link.request("DELETE", "/n/1"),
            link.request("GET", "/n/9"),
        ]
        link.send(b"".join(parts))
        answers = [link.answer(method) for method in ("POST", "HEAD", "GET", "POST", "POST", "POST", "DELETE", "GET")]
    assert [answer.status for answer in answers] == [200, 200, 404, 200, 400, 200, 405, 200]
    assert [answers[n].json() for n in (0, 3, 5, 7)] == [{"length": 5}, {"length": 3}, {"length": 300_000}, {"n": 9}]


def test_a_malformed_request_in_a_stream_is_the_last(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.request("GET", "/n/1") + link.request("GET", "/n/2") + head(GET) + SMUGGLED)
        assert [link.answer().json()["n"] for _ in range(2)] == [1, 2]
        refused(link, 400, 421)


def test_what_follows_a_close_is_not_served(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.request("GET", "/n/1", {"Connection": "close"}) + SMUGGLED)
        answer = link.answer()
        assert answer.json() == {"n": 1}
        assert "close" in answer.words("connection")
        assert link.closes()


def test_http_1_0_closes_unless_it_is_asked(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.head("GET", "/n/1", version="1.0"))
        answer = link.answer()
        assert (answer.json(), answer.framing) == ({"n": 1}, "length")
        assert link.closes()
    with HttpLink(site.port) as link:
        for n in range(3):
            link.send(link.head("GET", f"/n/{n}", {"Connection": "Keep-Alive"}, version="1.0"))
            answer = link.answer()
            assert (answer.json(), answer.words("connection")) == ({"n": n}, {"keep-alive"})
        link.send(b"GET /n/7 HTTP/1.0\r\n\r\n")
        assert link.answer().json() == {"n": 7}
        assert link.closes()


def test_a_client_that_has_closed_its_side_gets_its_answers(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.request("GET", "/slow"))
        link.finish()
        assert link.answer().json() == {"slow": True}
        assert link.closes()
    with HttpLink(site.port) as link:
        link.send(b"".join(link.request("GET", f"/n/{n}") for n in range(20)))
        link.finish()
        assert [link.answer().json()["n"] for _ in range(20)] == list(range(20))
        assert link.closes()


@pytest.mark.parametrize(
    "data",
    [GET, head(GET, LOCAL)[:-2], head(POST, LOCAL, b"Content-Length: 10") + b"12345", CHUNKED_HEAD + b"5\r\n123"],
)
def test_a_request_that_is_cut_off_is_not_served(site: Script, data: bytes) -> None:
    with HttpLink(site.port) as link:
        link.send(data)
        link.finish()
        refused(link, 400, 408)


def test_a_client_that_comes_and_goes(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.finish()
        assert link.closes()


# --- deadlines ---


def test_whoever_is_too_slow_is_told_and_left(hasty: Script) -> None:
    """All at once, because each takes seconds: a head, a body, chunks that do not come; nothing at all; too late."""
    with ExitStack() as stack:
        told = {
            name: stack.enter_context(HttpLink(hasty.port, timeout=LATEST))
            for name in ("no line", "no end", "no body", "half a body", "no chunk", "half a chunk", "second")
        }
        told["no line"].send(b"GET /")
        told["no end"].send(head(GET, LOCAL)[:-2])
        told["no body"].send(head(POST, LOCAL, b"Content-Length: 10"))
        told["half a body"].send(head(POST, LOCAL, b"Content-Length: 10") + b"12345")
        told["no chunk"].send(CHUNKED_HEAD)
        told["half a chunk"].send(CHUNKED_HEAD + b"5\r\n12")
        assert told["second"].get("/n/1").json() == {"n": 1}
        told["second"].send(b"GET /")
        silent = [stack.enter_context(HttpLink(hasty.port, timeout=LATEST)) for _ in range(3)]
        silent[1].send(b"\r\n")
        assert silent[2].get("/n/1").json() == {"n": 1}
        slow = stack.enter_context(HttpLink(hasty.port, timeout=LATEST))
        slow.send(slow.request("GET", "/wait"))
        for link in told.values():
            refused(link, 408)
        for link in silent:
            assert link.closes()
        assert select.select([slow.socket], [], [], 0)[0] == [], "a handler may take as long as it likes"
        fetch(hasty.port, "GET", "/open-gate")
        assert slow.answer().json() == {"waited": True}


@pytest.mark.parametrize(
    ("begin", "drop"),
    [(b"GET / HTTP/1.1\r\nX: ", b"y"), (head(POST, LOCAL, b"Content-Length: 1000000"), b"y"), (b"", b"\r\n")],
    ids=["head", "body", "empty lines"],
)
def test_a_trickle_does_not_extend_a_deadline(hasty: Script, begin: bytes, drop: bytes) -> None:
    with HttpLink(hasty.port, timeout=LATEST) as link:
        link.send(begin)

        def answered() -> bool:
            with suppress(ConnectionError):
                link.send(drop)
            return bool(select.select([link.socket], [], [], 0.02)[0])

        wait_for(answered, LATEST)
        if begin:
            assert link.answer().status == 408


def test_a_client_that_takes_nothing_is_left(hasty: Script) -> None:
    assert fetch(hasty.port, "GET", "/big").status == 200
    before = hasty.descriptors()
    with ExitStack() as stack:
        for _ in range(5):
            link = stack.enter_context(HttpLink(hasty.port))
            link.send(link.request("GET", "/big"))
            link.part(b"\r\n\r\n")  # and then no more
        wait_for(lambda: hasty.descriptors() <= before, LATEST)


def test_a_client_that_reads_slowly_gets_everything(hasty: Script) -> None:
    """It takes longer than any deadline in all, and never so long without taking something."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.settimeout(LATEST)
        client.connect(("127.0.0.1", hasty.port))
        client.sendall(head(b"GET /big HTTP/1.1", LOCAL) + head(b"GET /n/7 HTTP/1.1", LOCAL))
        got, end, began = 0, b"", time.monotonic()
        while not end.endswith(b'{"n":7}'):
            if time.monotonic() - began < 3000 * MS:
                let_pass(0.05)
            data = client.recv(128 * 1024)
            assert data, f"cut off after {got} bytes: {end!r}"
            got, end = got + len(data), (end + data)[-300:]
        assert 8 * MIB < got < 8 * MIB + 1000


# --- many at once ---


def cpu_ticks(script: Script) -> int:
    """CPU time of a process, in ticks of 10 ms."""
    fields = Path(f"/proc/{script.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Room for more than a thousand sockets here, and in what is started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(stack: ExitStack, port: int, count: int, data: bytes = b"") -> list[HttpLink]:
    links = []
    for _ in range(count):
        link = stack.enter_context(HttpLink(port))
        if data:
            link.send(data)
        links.append(link)
    return links


@pytest.mark.usefixtures("many_descriptors")
def test_slow_idle_and_greedy_clients_take_no_threads_and_hold_nobody_up(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus)
    assert served(site)
    threads, memory = site.threads(), site.resident_kb()
    with ExitStack() as stack:
        connect(stack, site.port, 200, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")  # slowloris
        connect(stack, site.port, 100, head(POST, LOCAL, b"Content-Length: 1000") + b"x")
        connect(stack, site.port, 17, head(b"GET /files/large.bin HTTP/1.1", LOCAL))  # and never read
        connect(stack, site.port, 3, head(b"GET /big HTTP/1.1", LOCAL))
        idle = connect(stack, site.port, 500)
        for _ in range(20):
            assert served(site)
        with HttpLink(site.port) as link:
            for n in range(200):
                assert link.get(f"/n/{n}").json() == {"n": n}
        wait_for(lambda: site.threads() <= threads + 2, ANSWER_SECONDS, lambda: f"{site.threads()} threads")
        assert idle[0].get("/n/3").json() == {"n": 3}, "who was there first is not forgotten"
        before = cpu_ticks(site)
        let_pass(1.0)
        assert cpu_ticks(site) - before < 30, "it is busy with nothing"
    assert site.resident_kb() < memory + 80 * 1024
    wait_for(lambda: site.descriptors() < 40, ANSWER_SECONDS)


@pytest.mark.usefixtures("many_descriptors")
def test_beyond_a_thousand_connections_idle_ones_give_way(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus)
    with ExitStack() as stack:
        active = connect(stack, site.port, 3)
        for link in active:
            assert link.get("/n/1").status == 200
        connect(stack, site.port, 1100)
        for n in range(10):
            assert fetch(site.port, "GET", f"/n/{n}").json() == {"n": n}
        assert site.descriptors() < 1050
        for link in active:
            assert link.get("/n/1").status == 200, "those that never said anything go first"
        assert site.alive


def test_connections_at_work_are_not_evicted_and_one_too_many_is_told(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus, settings={"max_connections": 20})
    with ExitStack() as stack:
        busy = connect(stack, site.port, 20, head(b"GET /forever HTTP/1.1", LOCAL))
        wait_for(lambda: site.notes.count("forever") == 20, ANSWER_SECONDS)
        for _ in range(3):
            with HttpLink(site.port) as link:
                with suppress(ConnectionError):
                    link.send(link.request("GET", "/n/1"))
                answer = link.answer()
                assert answer.status == 503
                assert answer.header("retry-after")
                assert link.closes()
        assert select.select([link.socket for link in busy], [], [], 0)[0] == []
        busy[0].close()
        wait_for(lambda: fetch(site.port, "GET", "/n/1").status == 200, ANSWER_SECONDS)


def test_without_descriptors_left_the_bus_is_served_and_the_cpu_is_quiet(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))\n" + SITE, server=bus, service="few"
    )
    with Peer(bus) as peer, ExitStack() as stack:
        assert peer.ask("few", "echo", {"n": 1})["payload"] == {"got": {"n": 1}}
        links = connect(stack, site.port, 80, head(b"GET /forever HTTP/1.1", LOCAL))
        wait_for(lambda: site.descriptors() >= 46, ANSWER_SECONDS)
        before = cpu_ticks(site)
        let_pass(1.5)
        assert cpu_ticks(site) - before < 40, "it is busy with nothing"
        for n in range(5):
            assert peer.ask("few", "echo", {"n": n})["payload"] == {"got": {"n": n}}
        for link in links:
            link.close()
        wait_for(lambda: fetch(site.port, "GET", "/n/1").status == 200, ANSWER_SECONDS)
    assert site.alive


def test_idle_connections_give_way_when_descriptors_run_out(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))\n" + SITE, server=bus)
    with ExitStack() as stack:
        connect(stack, site.port, 100)
        for n in range(5):
            assert fetch(site.port, "GET", f"/n/{n}").json() == {"n": n}


def test_a_client_that_asks_on_and_on_and_takes_nothing_is_not_worked_for(launch: Launcher, bus: PrivateServer) -> None:
    """Its answers are not piled up: the next request is read when the last answer has been taken."""
    site = launch.site(SITE, server=bus)
    assert fetch(site.port, "GET", "/big").status == 200
    memory, descriptors = site.resident_kb(), site.descriptors()
    with ExitStack() as stack:
        for target in ("/big", "/files/large.bin"):
            link = stack.enter_context(HttpLink(site.port))
            link.send(link.head("GET", target) * 200)
        for _ in range(50):
            assert served(site)
            assert site.descriptors() <= descriptors + 6
        assert site.resident_kb() < memory + 48 * 1024


def test_streams_are_bounded(launch: Launcher, bus: PrivateServer) -> None:
    """Each has a thread."""
    site = launch.site(SITE, server=bus)
    with ExitStack() as stack:
        links = connect(stack, site.port, 80, head(b"GET /stream HTTP/1.1", LOCAL))
        first = [link.part(b"\r\n")[9:12] for link in links]
        assert {*first} == {b"200", b"503"}
        assert site.threads() < 80
        assert served(site)
        for link in links:
            link.reset()
        wait_for(lambda: site.notes.count("stream closed") == first.count(b"200"), ANSWER_SECONDS)
    with HttpLink(site.port) as link:
        link.send(link.request("GET", "/stream"))
        assert b"200 OK" in link.part(b"\r\n")


def test_a_connection_that_is_half_closed_or_paused_costs_no_cpu(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus)
    with ExitStack() as stack:
        for link in connect(stack, site.port, 5, head(b"GET /forever HTTP/1.1", LOCAL)):
            link.finish()
        ahead = connect(stack, site.port, 5, head(b"GET /forever HTTP/1.1", LOCAL) + head(GET, LOCAL) * 3000)
        assert served(site)
        before = cpu_ticks(site)
        let_pass(0.7)
        assert cpu_ticks(site) - before < 15
        descriptors = site.descriptors()
        for link in ahead:
            link.reset()
        wait_for(lambda: site.descriptors() == descriptors - 5, ANSWER_SECONDS)


def test_more_requests_than_workers_wait_or_are_refused_and_never_lost(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus, env={"WORKERS": "2"})
    with ExitStack() as stack:
        links = connect(stack, site.port, 8, head(b"GET /slow HTTP/1.1", LOCAL))
        assert [link.answer().status for link in links] == [200] * 8


def break_in(port: int, number: int) -> None:
    """One broken client."""
    kinds = [b"", b"GET", head(GET, LOCAL)[:-1], b"\0\xff" * 20, head(b"GET /mid HTTP/1.1", LOCAL), head(GET)]
    kinds += [head(POST, LOCAL, b"Content-Length: 500000") + b"x" * 300_000, CHUNKED_HEAD + b"5\r\n1", b"5\r\n" * 9]
    kinds += [head(b"GET /stream HTTP/1.1", LOCAL), head(b"GET /files/large.bin HTTP/1.1", LOCAL)]
    kinds += [head(b"GET /slow HTTP/1.1", LOCAL)] if number % 200 == 0 else [head(b"GET /nowhere HTTP/1.1", LOCAL)]
    link = HttpLink(port)
    with suppress(ConnectionError):
        link.send(kinds[number % len(kinds)])
        if number % 7 == 0:
            link.finish()
        if number % 5 == 0:
            link.socket.setblocking(False)
            with suppress(BlockingIOError):
                link.socket.recv(1000)
    if number % 2:
        link.close()
    else:
        link.reset()


def settled(site: Script) -> int:
    """The open descriptors once nothing is left to do; idle workers end after a few seconds."""
    assert served(site)
    wait_for(lambda: site.threads() <= 3, 2 * ANSWER_SECONDS, lambda: f"{site.threads()} threads")
    wait_for(lambda: site.descriptors() < 16, 2 * ANSWER_SECONDS, lambda: f"{site.descriptors()} descriptors")
    return site.descriptors()


def test_two_thousand_broken_clients_leave_nothing_behind(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus, env={"MALLOC_ARENA_MAX": "1"})  # memory is then easier to compare
    for number in range(700):
        break_in(site.port, number)
    descriptors, memory = settled(site), site.resident_kb()
    for number in range(2000):
        break_in(site.port, number)
    assert settled(site) <= descriptors
    assert site.resident_kb() < memory + 10 * 1024
    assert "Traceback" not in site.log
    assert len(site.log) < 100_000, "broken clients fill the log"


def test_what_was_answered_is_let_go_at_once(launch: Launcher, bus: PrivateServer) -> None:
    """A worker that waits for its next call does not hold on to the last one. (Blocks of this size are returned.)"""
    site = launch.site(
        """
        @app.route("/huge", inline=False)
        def huge(req):
            return b"x" * (40 * 1024 * 1024)
        """,
        server=bus,
    )
    memory = site.resident_kb()
    assert len(fetch(site.port, "GET", "/huge").body) == 40 * MIB
    wait_for(lambda: site.resident_kb() < memory + 20 * 1024, 1500 * MS, lambda: f"{site.resident_kb()} kB")


# --- life ---


def test_a_drain_finishes_what_was_asked(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus)
    with HttpLink(site.port) as idle, HttpLink(site.port) as slow, HttpLink(site.port) as unfinished:
        assert idle.get("/n/1").status == 200
        slow.send(slow.request("GET", "/slow"))
        unfinished.send(b"GET / HTTP/1.1\r\n")
        wait_for(lambda: "slow" in site.notes, ANSWER_SECONDS)
        site.send_signal(signal.SIGTERM)
        assert idle.closes()
        wait_for(lambda: not listens(site.port), ANSWER_SECONDS)
        answer = slow.answer()
        assert answer.json() == {"slow": True}
        assert "close" in answer.words("connection")
        assert slow.closes()
        assert site.wait() == 0, site.log


def test_a_drain_ends_event_streams(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus)
    with HttpLink(site.port) as link:
        link.send(link.request("GET", "/events"))
        link.part(b"data:")
        site.send_signal(signal.SIGTERM)
        link.rest()
        assert site.wait(4000 * MS) == 0, site.log
    assert "Not finished" not in site.log


def test_a_drain_does_not_wait_for_clients_that_take_nothing(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus)
    with ExitStack() as stack:
        connect(stack, site.port, 50)
        connect(stack, site.port, 5, b"GET /")
        connect(stack, site.port, 5, head(POST, LOCAL, b"Content-Length: 1000") + b"x")
        connect(stack, site.port, 3, head(b"GET /big HTTP/1.1", LOCAL))
        assert served(site)
        site.send_signal(signal.SIGTERM)
        assert site.wait(40.0) == 0, site.log
    assert "Traceback" not in site.log


@pytest.mark.parametrize("with_redis", [True, False])
def test_b28_a_taken_port_is_named(launch: Launcher, bus: PrivateServer, with_redis: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        redis = {"redis_host": "127.0.0.1", "redis_port": bus.port if with_redis else free_port()}
        script = launch.start(f"from daebus import DaebusHttp\napp.attach(DaebusHttp(port={port}))", redis=redis)
        assert script.wait() == 1
    assert str(port) in script.log
    assert "Traceback" not in script.log


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_named(launch: Launcher, bus: PrivateServer, host: str) -> None:
    script = launch.start(f"from daebus import DaebusHttp\napp.attach(DaebusHttp(port=0, host={host!r}))", server=bus)
    assert script.wait() == 1
    assert host in script.log
    assert "Traceback" not in script.log


def test_port_0_is_a_free_one(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.start(
        """
        from daebus import DaebusHttp
        http = app.attach(DaebusHttp(port=0))

        @app.route("/")
        def root(req):
            return {"port": http.port}

        @app.thread("say")
        def say(running):
            note(http.port)
            running.wait()
        """,
        server=bus,
    )
    until_ready(script)
    wait_for(lambda: bool(script.notes), ANSWER_SECONDS)
    port = int(script.notes[0])
    assert port > 0
    assert fetch(port, "GET", "/").json() == {"port": port}


def test_ipv6(launch: Launcher, bus: PrivateServer) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    port = free_port()
    script = launch.start(
        f"""
        from daebus import DaebusHttp
        app.attach(DaebusHttp(port={port}, host="::1"))

        @app.route("/")
        def root(req):
            return {{"from": req.remote_address}}
        """,
        server=bus,
    )
    until_ready(script)
    with HttpLink(port, host="::1") as link:
        answer = link.ask("GET", "/", {"Host": f"[::1]:{port}"})
        assert answer.status == 200
        assert "::1" in answer.json()["from"]


def test_a_restart_takes_the_port_again_at_once(launch: Launcher, bus: PrivateServer) -> None:
    first = launch.site(SITE, server=bus)
    with HttpLink(first.port) as link:
        assert link.get("/n/1").status == 200
        first.send_signal(signal.SIGTERM)
        assert first.wait() == 0
        again = launch.start(
            f"from daebus import DaebusHttp\nhttp = app.attach(DaebusHttp(port={first.port}))\n" + SITE, server=bus
        )
        until_ready(again)
        assert fetch(first.port, "GET", "/n/1").json() == {"n": 1}


def test_a_reset_is_no_answer(site: Script) -> None:
    """The helper of these tests sees a reset as what it is (else `refused` would prove nothing)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = HttpLink(server.getsockname()[1])
        far, _ = server.accept()
        link.send(b"unread")
        wait_for(lambda: bool(select.select([far], [], [], 0)[0]))
        far.close()
        with pytest.raises(BrokenAnswer):
            link.rest()
        link.close()
    assert served(site)
