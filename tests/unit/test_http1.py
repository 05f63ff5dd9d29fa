"""HTTP/1.1 heads and chunked bodies: what is taken, what is refused with which status, and nothing else raised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import http1
from daebus.errors import HttpError
from daebus.http1 import (
    MAX_TARGET,
    REMEMBERED_HEADS,
    REMEMBERED_SIZE,
    Chunks,
    Head,
    Headers,
    check_header,
    head_end,
    http_date,
    read_head,
    response_head,
)


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    """No test has had a head remembered yet."""
    http1._remembered.clear()
    yield
    http1._remembered.clear()


def head_of(*lines: str, line: str = "GET / HTTP/1.1", host: str | None = "x") -> bytes:
    """A head of these lines, with a Host unless that is None."""
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([line, *hosts, *lines, "", ""]).encode("latin-1")


def status_of(data: bytes) -> int:
    with pytest.raises(HttpError) as caught:
        read_head(data)
    return caught.value.http_status


# --- heads that are taken ---


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (head_of(), {"method": "GET", "path": "/", "query": "", "host": "x", "version": "1.1", "length": 0}),
        (head_of(line="GET /a/b?x=1?y HTTP/1.1"), {"path": "/a/b", "query": "x=1?y", "target": "/a/b?x=1?y"}),
        (head_of(line="GET //a//b HTTP/1.1"), {"path": "//a//b"}),
        (head_of(line="GET /%2e%2E/x HTTP/1.1"), {"path": "/%2e%2E/x"}),
        (head_of(line="OPTIONS * HTTP/1.1"), {"path": "*", "query": ""}),
        (head_of(line="GET http://other:80/p?q HTTP/1.1"), {"path": "/p", "query": "q", "host": "other:80"}),
        (head_of(line="GET HTTPS://other HTTP/1.1"), {"path": "/", "query": "", "host": "other"}),
        (head_of(line="GET http://other?q=/ HTTP/1.1"), {"path": "/", "query": "q=/", "host": "other"}),
        (head_of(line="GET / HTTP/1.0", host=None), {"version": "1.0", "host": ""}),
        (head_of("Content-Length: 5"), {"length": 5}),
        (head_of("Content-Length: 0", "Content-Type: text/plain", line="POST / HTTP/1.1"), {"length": 0}),
        (head_of(line="POST / HTTP/1.1"), {"length": 0}),
        (head_of("Transfer-Encoding: Chunked", line="POST / HTTP/1.1"), {"length": None}),
        (head_of(line="PROPFIND / HTTP/1.1"), {"method": "PROPFIND"}),
    ],
)
def test_a_head_is_read(data: bytes, expected: dict[str, Any]) -> None:
    head = read_head(data)
    assert {name: getattr(head, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "close", False),
        ("1.1", "Keep-Alive, Close", False),
        ("1.1", "closed", True),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "keep-alive, close", False),
    ],
)
def test_the_connection_is_kept_as_the_version_has_it(version: str, connection: str | None, kept: bool) -> None:
    lines = [] if connection is None else [f"Connection: {connection}"]
    assert read_head(head_of(*lines, line=f"GET / HTTP/{version}")).keep_alive is kept


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        (["Connection: Upgrade", "Upgrade: WebSocket"], ["websocket"]),
        (["Connection: keep-alive, upgrade", "Upgrade: h2c, websocket"], ["h2c", "websocket"]),
        (["Upgrade: websocket"], []),
        (["Connection: upgrade"], [""]),
        (["Connection: upgrade", "Upgrade: h2c"], ["h2c"]),
    ],
)
def test_an_upgrade_needs_both_headers(lines: list[str], upgrade: list[str]) -> None:
    assert read_head(head_of(*lines)).upgrade == upgrade


def test_an_expectation_counts_in_http_1_1_alone() -> None:
    assert read_head(head_of("Expect: 100-continue")).expects
    assert not read_head(head_of("Expect: 100-continue", line="GET / HTTP/1.0")).expects
    assert not read_head(head_of()).expects


def test_repeated_headers_are_joined() -> None:
    head = read_head(head_of("Accept: a", "ACCEPT: b", "Cookie: x=1", "cookie: y=2", "Via: \xe4"))
    assert head.headers["accept"] == "a, b"
    assert head.headers["cookie"] == "x=1; y=2"
    assert head.headers["via"] == "\xe4"


def test_headers_take_names_in_any_case() -> None:
    headers = read_head(head_of("Content-Type: text/plain")).headers
    assert headers["CONTENT-type"] == headers.get("content-TYPE") == "text/plain"
    assert "Content-Type" in headers
    assert "x-none" not in headers
    assert 5 not in headers
    assert headers.get("X-None") is None
    assert headers.get("X-None", "d") == "d"
    with pytest.raises(KeyError):
        headers["x-none"]


def test_headers_are_a_mapping_to_look_at() -> None:
    headers = Headers({"a": "1", "b": "2"})
    assert list(headers) == list(headers.keys()) == ["a", "b"]
    assert list(headers.values()) == ["1", "2"]
    assert dict(headers.items()) == headers.to_dict() == {"a": "1", "b": "2"}
    assert len(headers) == 2
    assert headers == Headers({"a": "1", "b": "2"}) == {"a": "1", "b": "2"}
    assert headers != {"a": "1"}
    assert repr(headers) == "Headers({'a': '1', 'b': '2'})"
    headers.to_dict()["c"] = "3"
    assert "c" not in headers


# --- heads that are refused ---


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
        (head_of("A: b", " folded"), 400),
        (head_of("A: b", "\tfolded"), 400),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
        (head_of(host=None), 400),
        (head_of("Host: x"), 400),
        (head_of("Host: y"), 400),
        (head_of("Host : y"), 400),
        (head_of("Content-Length : 5"), 400),
        (head_of("Content-Length: +5"), 400),
        (head_of("Content-Length: -5"), 400),
        (head_of("Content-Length: 0x5"), 400),
        (head_of("Content-Length: 5_0"), 400),
        (head_of("Content-Length:"), 400),
        (head_of("Content-Length: 5, 5"), 400),
        (head_of("Content-Length: 5", "Content-Length: 5"), 400),
        (head_of("Content-Length: 5", "Content-Length: 6"), 400),
        (head_of("Content-Length: \xb2"), 400),
        (head_of("Content-Length: 9999999999999999"), 400),
        (head_of("Content-Length: 5", "Transfer-Encoding: chunked", line="POST / HTTP/1.1"), 400),
        (head_of("Transfer-Encoding: gzip", line="POST / HTTP/1.1"), 501),
        (head_of("Transfer-Encoding: gzip, chunked", line="POST / HTTP/1.1"), 501),
        (head_of("Transfer-Encoding: chunked, chunked", line="POST / HTTP/1.1"), 501),
        (head_of("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", line="POST / HTTP/1.1"), 501),
        (head_of("Transfer-Encoding: chunked", line="POST / HTTP/1.0"), 400),
        (head_of("Transfer-Encoding: \x0bchunked", line="POST / HTTP/1.1"), 400),
        (head_of("no colon"), 400),
        (head_of(": no name"), 400),
        (head_of("A\xe4: b"), 400),
        (head_of("A: \x00"), 400),
        (head_of(line="GET /"), 400),
        (head_of(line="GET  / HTTP/1.1"), 400),
        (head_of(line=" GET / HTTP/1.1"), 400),
        (head_of(line="GET / HTTP/1.1 "), 400),
        (head_of(line="GET / HTTP/1.1 x"), 400),
        (head_of(line="GET\t/ HTTP/1.1"), 400),
        (head_of(line="GET / http/1.1"), 400),
        (head_of(line="GET / HTTP/1"), 400),
        (head_of(line="GET / HTTP/11"), 400),
        (head_of(line="GET / HTTP/1.10"), 400),
        (head_of(line="GET / XYZ"), 400),
        (head_of(line="GET / HTTP/2.0"), 505),
        (head_of(line="GET / HTTP/1.2"), 505),
        (head_of(line="GET / HTTP/0.9"), 505),
        (head_of(line="PRI * HTTP/2.0"), 505),
        (head_of(line="GET /a#b HTTP/1.1"), 400),
        (head_of(line="GET a HTTP/1.1"), 400),
        (head_of(line="GET * HTTP/1.1"), 400),
        (head_of(line="CONNECT host:443 HTTP/1.1"), 400),
        (head_of(line="GET ftp://host/ HTTP/1.1"), 400),
        (head_of(line="GET http:// HTTP/1.1"), 400),
        (head_of(line="GET /\xe4 HTTP/1.1"), 400),
        (head_of(line="G(T / HTTP/1.1"), 400),
        (head_of(line=" / HTTP/1.1"), 400),
        (head_of(line=f"GET /{'a' * MAX_TARGET} HTTP/1.1"), 414),
        (head_of(line="POST / HTTP/1.0"), 411),
        (head_of("Content-Type: text/plain", line="POST / HTTP/1.1"), 411),
        (head_of("Content-Type: text/plain", line="PUT / HTTP/1.1"), 411),
        (b"\r\n\r\n", 400),
    ],
)
def test_a_head_that_is_wrong_or_can_be_read_in_two_ways_is_refused(data: bytes, status: int) -> None:
    assert status_of(data) == status


def test_the_longest_target_is_taken() -> None:
    assert len(read_head(head_of(line=f"GET /{'a' * (MAX_TARGET - 1)} HTTP/1.1")).target) == MAX_TARGET


PIECES = [
    b"GET", b"POST", b" ", b"/", b"/a?b=c", b"http://h/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r", b"\n", b":",
    b"Host: x",
    b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close",
    b"\t", b"\x00", b"\xff", b"#", b"*", b"5", b",",
]  # fmt: skip


@given(st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join), st.booleans())
def test_any_bytes_are_a_head_or_an_http_error(data: bytes, whole: bool) -> None:
    data = data + b"\r\n\r\n" if whole else data
    try:
        head = read_head(data)
    except HttpError:
        return
    assert head.path[:1] in ("/", "*")
    assert head.length is None or head.length >= 0


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound head with a few bytes changed, left out or put in."""
    data = bytearray(head_of("Content-Length: 5", "Connection: close", "Accept: */*", line="POST /a?b=c HTTP/1.1"))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        data[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@given(damaged())
def test_a_damaged_head_is_a_head_or_an_http_error(data: bytes) -> None:
    try:
        head = read_head(data)
    except HttpError:
        return
    lines = data.split(b"\r\n")
    assert b"\n" not in b"".join(lines)
    assert head.length == 0 or b"%d" % (head.length or 0) in data


# --- what is remembered ---


def fields_of(head: Head) -> dict[str, Any]:
    return {name: getattr(head, name) for name in Head.__slots__}


@given(damaged() | st.just(head_of("Cookie: a=b")))
def test_what_is_remembered_equals_what_is_parsed_anew(data: bytes) -> None:
    try:
        first = read_head(data)
    except HttpError:
        with pytest.raises(HttpError):
            read_head(data)
        return
    again = read_head(data)
    assert again is first
    http1._remembered.clear()
    assert fields_of(read_head(data)) == fields_of(again)


def test_only_so_many_heads_are_remembered_the_newest() -> None:
    for number in range(REMEMBERED_HEADS + 10):
        read_head(head_of(f"X: {number}"))
    assert len(http1._remembered) == REMEMBERED_HEADS
    assert head_of("X: 0") not in http1._remembered
    assert head_of(f"X: {REMEMBERED_HEADS + 9}") in http1._remembered


def test_large_heads_are_not_remembered() -> None:
    read_head(head_of(f"X: {'a' * REMEMBERED_SIZE}"))
    assert http1._remembered == {}


def test_heads_that_differ_in_one_byte_are_two() -> None:
    assert [read_head(head_of(f"X: {sign}")).headers["x"] for sign in "aba"] == ["a", "b", "a"]


# --- where a head ends ---


@pytest.mark.parametrize("data", [b"", b"GET", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n\r"])
def test_a_head_that_is_not_complete_yet(data: bytes) -> None:
    assert head_end(bytearray(data), 1000) == 0


def test_a_head_ends_with_its_empty_line() -> None:
    head = head_of("A: b")
    assert head_end(bytearray(head + b"body\r\n\r\n"), 1000) == len(head)


def test_the_limit_of_a_head_is_of_all_its_bytes() -> None:
    head = head_of("A: b")
    assert head_end(bytearray(head), len(head)) == len(head)
    for data, limit in ((head, len(head) - 1), (head[:-4], len(head) - 4), (head_of("A: " + "b" * 2000), 1000)):
        with pytest.raises(HttpError) as caught:
            head_end(bytearray(data), limit)
        assert caught.value.http_status == 431


@pytest.mark.parametrize("line", [b"GET /" + b"a" * 20_000, b"GET /" + b"a" * (MAX_TARGET + 40)])
def test_a_target_that_does_not_end_is_refused_before_it_does(line: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        head_end(bytearray(line), 16 * 1024)
    assert caught.value.http_status == 414


def test_a_bare_line_feed_is_refused_at_once() -> None:
    """Who ends lines so waits for an answer, and would wait until the deadline."""
    with pytest.raises(HttpError) as caught:
        head_end(bytearray(b"GET / HTTP/1.1\nHost: x\n\n"), 1000)
    assert caught.value.http_status == 400


@given(st.binary(max_size=100), st.integers(20, 60))
def test_where_any_bytes_end_is_found_or_refused(data: bytes, limit: int) -> None:
    try:
        end = head_end(bytearray(data), limit)
    except HttpError:
        return
    assert end == 0 or (data[:end].endswith(b"\r\n\r\n") and end <= limit)


# --- chunked bodies ---


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"


def read_in_pieces(data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """The body and what came after it, read as a connection brings it."""
    chunks, body = Chunks(16 * 1024), b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        if chunks.done:
            return body, chunks.rest + data[start:]
        if start < end:
            body += chunks.feed(data[start:end])
    assert chunks.done
    return body, chunks.rest


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.binary(max_size=20), st.lists(st.integers(0, 400)))
def test_a_chunked_body_cut_anywhere_gives_the_same(parts: list[bytes], rest: bytes, cuts: list[int]) -> None:
    assert read_in_pieces(chunked(*parts) + rest, cuts) == (b"".join(parts), rest)


def test_a_chunked_body_byte_by_byte() -> None:
    data = chunked(b"hello", b"\r\n0\r\n\r\n", trailer=b"X: y\r\n") + b"GET"
    assert read_in_pieces(data, list(range(len(data)))) == (b"hello\r\n0\r\n\r\n", b"GET")


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"-1\r\n\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"\r\n",
        b" 1\r\na\r\n",
        b"1\r\na0\r\n\r\n",
        b"1\r\nabc\r\n",
        b"fffffffffffffffffffffffff\r\n",
        b"1\na\r\n0\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"1;" + b"a" * 20_000,
        b"0\r\nX: " + b"a" * 20_000,
    ],
)
def test_chunks_that_are_none_are_refused(data: bytes) -> None:
    chunks = Chunks(16 * 1024)
    with pytest.raises(HttpError) as caught:
        chunks.feed(data)
    assert caught.value.http_status == 400
    assert not chunks.done


def test_a_bare_line_feed_in_the_trailers_is_refused() -> None:
    """Another parser would not end the body there."""
    with pytest.raises(HttpError):
        Chunks(16 * 1024).feed(b"0\r\nfoo: bar\n\nGET /evil HTTP/1.1\r\n")


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4))
def test_any_bytes_are_chunks_or_an_http_error(pieces: list[bytes]) -> None:
    chunks = Chunks(1000)
    for piece in pieces:
        try:
            chunks.feed(piece)
        except HttpError:
            return
        if chunks.done:
            assert isinstance(chunks.rest, bytes)
            return


# --- responses ---


@pytest.mark.parametrize("seconds", [0, 951_782_400, 1_790_000_000, 4_102_444_799])
def test_a_date_is_written_as_http_has_it(seconds: int) -> None:
    when = time.gmtime(seconds)
    assert http_date(when) == time.strftime("%a, %d %b %Y %H:%M:%S GMT", when)


def test_the_head_of_a_response() -> None:
    head = response_head(200, "now", [("Content-Type", "text/plain"), ("X", "\xe4")], "Content-Length: 5\r\n")
    assert head == (
        b"HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\nDate: now\r\n"
        b"Content-Type: text/plain\r\nX: \xe4\r\nContent-Length: 5\r\n\r\n"
    )


def test_a_status_without_a_name_of_its_own() -> None:
    assert response_head(299, "now", [], "").startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("X", "y", ("X", "y")),
        ("x-A_1", 5, ("x-A_1", "5")),
        ("X", " a\tb ", ("X", "a\tb")),
        ("X", "\xe4", ("X", "\xe4")),
    ],
)
def test_a_header_that_may_be_sent(name: str, value: object, expected: tuple[str, str]) -> None:
    assert check_header(name, value) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "a"), ("a b", "a"), ("a:", "a"), ("a\r\n", "a"), ("\xe4", "a"), (None, "a"), (b"a", "a"),
        ("X", "a\r\nB: c"), ("X", "a\nb"), ("X", "a\rb"), ("X", "a\x00"), ("X", "a\x7f"),
        ("X", "\u6f22"), ("X", "\ud800"),
    ],
)  # fmt: skip
def test_a_header_that_would_break_the_message_is_refused(name: Any, value: object) -> None:
    with pytest.raises(ValueError, match="header"):
        check_header(name, value)


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_header_that_is_let_through_is_one_line(name: str, value: str) -> None:
    try:
        pair = check_header(name, value)
    except ValueError:
        return
    head = response_head(200, "now", [pair], "")
    assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r") == 5
