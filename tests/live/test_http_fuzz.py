"""Random and mutated requests: none may be answered with a failure of the service, hang it, or cost it a thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daebus.redisserver import PrivateServer
from tests.outside import ANSWER_SECONDS, HttpAnswer, HttpLink, Launcher, Script, Side, fetch
from tests.support import wait_for

bounded = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

SITE = """
EVERY = ["GET", "POST", "PUT", "PATCH", "DELETE"]

@app.route("/echo", methods=EVERY)
def echo(req):
    payload = req.payload
    if req.files:
        payload = {name: value for name, value in payload.items() if name not in req.files}
    return {"payload": payload, "params": req.params, "cookies": req.cookies, "headers": req.headers.to_dict(),
            "path": req.path, "files": {n: str(f) for n, f in req.files.items()}, "raw": sorted(req.raw)}

@app.route("/items/<name>", methods=EVERY)
def item(req, name):
    return {"name": name}

@app.route("/int/<int:n>/<float:x>")
def numbers(req, n, x):
    return {"n": n, "x": x}

@app.route("/tree/<path:rest>")
def tree(req, rest):
    return {"rest": rest}

@app.route("/headers")
def headers(req):
    return {"n": 1}, 200, {"X-Value": "fixed"}

import os
os.mkdir("www")
with open("www/index.html", "w") as page:
    page.write("<h1>page</h1>")
app.static("/static", "www")
http.configure_cors({"allowed_origins": ["http://good.example"]})

from daebus import DaebusWebSocket
app.attach(DaebusWebSocket(port="same"))

@app.socket("echo")
def echo_frame(data, client_id):
    return data
"""

FINE = (501, 505)  # above 499, and the client's fault: a transfer coding or a version that nobody knows


@pytest.fixture(scope="module", params=["own_side", "debian_side"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bus: PrivateServer
) -> Iterator[Script]:
    """A service with our libraries, and one with the oldest that it must work with."""
    side: Side = request.getfixturevalue(request.param)
    launcher = Launcher(tmp_path_factory.mktemp("fuzz"), side)
    yield launcher.site(SITE, server=bus)
    launcher.end_all()


@pytest.fixture(autouse=True)
def nothing_is_left(site: Script) -> Iterator[None]:
    fetch(site.port, "GET", "/headers")
    threads, descriptors = site.threads(), site.descriptors()
    yield
    assert fetch(site.port, "GET", "/headers").json() == {"n": 1}
    wait_for(lambda: site.descriptors() <= descriptors, ANSWER_SECONDS)
    wait_for(lambda: site.threads() <= threads + 1, ANSWER_SECONDS)
    assert "Traceback" not in site.log, site.log[-3000:]


def exchange(site: Script, pieces: list[bytes]) -> list[HttpAnswer]:
    """Send pieces, close the sending side, and read all answers to the end."""
    answers: list[HttpAnswer] = []
    with HttpLink(site.port) as link:
        with suppress(ConnectionError):
            for piece in pieces:
                link.send(piece)
            link.finish()
        while not link.closes(ANSWER_SECONDS):
            answers.append(link.answer())
            if answers[-1].status == 101:  # what follows are frames
                link.rest()
    return answers


def harmless(answers: list[HttpAnswer]) -> None:
    for answer in answers:
        assert answer.status < 500 or answer.status in FINE, answer


# --- bytes ---

methods = st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "DELETE", "BREW", "get", "", "G T", "CONNECT"])
targets = st.one_of(
    st.sampled_from(["/echo", "/items/a", "/int/1/2.5", "/tree/a", "/static/", "*", "", "//", "/%"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40).map(lambda text: "/" + text),
    st.text(max_size=20).map(lambda text: "/items/" + quote(text, errors="surrogatepass")),
    st.text(max_size=20).map(lambda text: "/echo?a=" + quote(text, errors="surrogatepass")),
)
versions = st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.", "", "http/1.1"])
names = st.sampled_from(
    [
        "Host", "Content-Length", "Transfer-Encoding", "Connection", "Content-Type", "Expect", "Origin", "Cookie",
        "Range", "If-None-Match", "If-Modified-Since", "If-Range", "Accept-Encoding", "Upgrade", "X", "Sec-Fetch-Site",
        "Access-Control-Request-Method", "Access-Control-Request-Headers", "Content-Encoding", "x y",
    ]
)  # fmt: skip
values = st.one_of(
    st.sampled_from(
        [
            "localhost", "0", "5", "-1", "99999", "chunked", "gzip", "close", "keep-alive", "upgrade", "websocket",
            "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
            "multipart/form-data", "100-continue", "http://good.example", "null", "a=b; c", "bytes=0-", "bytes=-1",
            "bytes=5-2,7-", "bytes=a", "*", '"x"', 'W/"x"', "Mon, 01 Jan 2024 00:00:00 GMT", "", ",", "\t", "identity",
            "Mon, 99 Foo 0000 99:99:99",
        ]
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=30),
)  # fmt: skip
headers = st.lists(st.tuples(names, values), max_size=6)
bodies = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"5\r\n12345\r\n0\r\n\r\n", b"0\r\n\r\n", b'{"a": 1}', b"a=1&b=%41", b"[" * 5000]),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    lines = [f"{draw(methods)} {draw(targets)} {draw(versions)}"]
    lines += ["Host: localhost"] if draw(st.integers(0, 9)) else []
    lines += [f"{name}: {value}" for name, value in draw(headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + draw(bodies)


LOCAL = b" HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
FRAME = b"\x81\xa0\0\0\0\0" + b'{"type": "echo", "data": "1234"}'
RIGHT = [
    b"GET /echo?a=1" + LOCAL + b"Cookie: a=1\r\n\r\n",
    b"POST /echo" + LOCAL + b'Content-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}',
    b"POST /echo" + LOCAL + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\n12345\r\n0\r\nA: b\r\n\r\n",
    b"PUT /items/%41 HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /static/" + LOCAL + b"Range: bytes=0-3\r\nAccept-Encoding: gzip\r\n\r\n",
    b"GET /" + LOCAL + UPGRADE + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"GET /" + LOCAL + UPGRADE + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + FRAME,
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request that was right, with a few bytes changed, lost, doubled or added."""
    data = bytearray(draw(st.sampled_from(RIGHT)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.integers(0, 3))
        if how == 0:
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == 1:
            del data[place : place + draw(st.integers(1, 5))]
        elif how == 2:
            data[place:place] = data[place : place + draw(st.integers(1, 20))]
        else:
            data[place:place] = draw(st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b"%", b"\xff"]))
    return bytes(data)


@st.composite
def in_pieces(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    data = draw(whole)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@bounded
@given(in_pieces(st.one_of(requests(), mutated(), st.binary(max_size=200))))
def test_any_bytes(site: Script, pieces: list[bytes]) -> None:
    harmless(exchange(site, pieces))


@bounded
@given(st.lists(st.one_of(requests(), mutated()), min_size=2, max_size=4))
def test_any_requests_one_after_the_other(site: Script, several: list[bytes]) -> None:
    harmless(exchange(site, [b"".join(several)]))


# --- meaning ---

values_of_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@bounded
@given(values_of_json)
def test_any_json_comes_back(site: Script, value: Any) -> None:
    body = json.dumps(value).encode()
    answer = fetch(site.port, "POST", "/echo", {"Content-Type": "application/json"}, body)
    assert answer.status == 200
    if value is not None:
        assert answer.json()["payload"] == value


@bounded
@given(
    st.sampled_from(["application/json", "application/x-www-form-urlencoded", "text/plain"]), st.binary(max_size=100)
)
def test_any_body(site: Script, kind: str, body: bytes) -> None:
    answer = fetch(site.port, "POST", "/echo", {"Content-Type": kind}, body)
    assert answer.status in (200, 400)


@st.composite
def uploads(draw: st.DrawFn) -> bytes:
    """The parts of a multipart body, nearly right."""
    pieces = st.sampled_from(
        [
            b"--x", b"--x--", b"\r\n", b"\r\n\r\n", b"\n", b"--", b"x", b'Content-Disposition: form-data; name="a"',
            b'Content-Disposition: form-data; name="f"; filename="b"', b"Content-Type: text/plain",
            b"; filename*=UTF-8''%FF", b'name="\\"', b'"', b";", b"value", b"\0", b"\xff",
        ]
    )  # fmt: skip
    return b"".join(draw(st.lists(pieces, max_size=20)))


@bounded
@given(
    st.one_of(
        uploads(), st.tuples(uploads(), uploads()).map(lambda two: b"--x\r\n" + two[0] + b"\r\n--x--\r\n" + two[1])
    )
)
def test_any_upload(site: Script, body: bytes) -> None:
    answer = fetch(site.port, "POST", "/echo", {"Content-Type": "multipart/form-data; boundary=x"}, body)
    assert answer.status in (200, 400)


@bounded
@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=30))
def test_any_text_in_a_path_arrives(site: Script, text: str) -> None:
    answer = fetch(site.port, "GET", "/items/" + quote(text, safe=""))
    segments = text.replace("\\", "/").split("/")
    if "\0" in text or "." in segments or ".." in segments:
        assert answer.status == 400
    else:
        assert (answer.status, answer.json()) == (200, {"name": text})


@bounded
@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5))
def test_any_text_in_a_query_arrives(site: Script, fields: list[tuple[str, str]]) -> None:
    fields = [(name, value) for name, value in fields if (name + value).isprintable()]
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields)
    found = fetch(site.port, "GET", "/echo?" + query).json()["params"]
    for name, _ in fields:
        given = [value for other, value in fields if other == name]
        assert found[name] == (given if len(given) > 1 else given[0])


@bounded
@given(st.lists(st.tuples(names, values), max_size=5))
def test_any_headers_of_a_file(site: Script, fields: list[tuple[str, str]]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1", "replace")
    harmless(exchange(site, [b"GET /static/index.html HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n"]))
