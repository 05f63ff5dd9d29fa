"""HTTP/1.1 messages: request heads, chunked bodies, response heads. Pure.

`h11` parses; what it lets pass although two parsers may read it differently (bare line feeds, folded lines, lengths
that disagree) is refused before and after it. Clients send the same head over and over (a browser that polls, a
fetch in a loop), so heads that were parsed are remembered: parsing is a function of their bytes alone.
"""

from __future__ import annotations

import re

import h11

from .errors import REASONS, HttpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
    from typing import Any

MAX_TARGET = 8 * 1024
"""Bytes of the longest request target (RFC 9110, section 4.1, wants 8,000 at least)."""

REMEMBERED_HEADS, REMEMBERED_SIZE = 128, 2048
"""Heads that are remembered, and the bytes of the largest of them."""

WITH_BODY = frozenset(("POST", "PUT", "PATCH"))


class Headers:
    """The headers of a request: read only, names in any case; a repeated one's values are joined by commas."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a header, or the default."""
        return self._values.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> KeysView[str]:
        """The names, in lower case."""
        return self._values.keys()

    def values(self) -> ValuesView[str]:
        """The values."""
        return self._values.values()

    def items(self) -> ItemsView[str, str]:
        """Names and values."""
        return self._values.items()

    def to_dict(self) -> dict[str, str]:
        """Return a dict of them (for JSON, too)."""
        return dict(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, Headers) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


class Head:
    """The head of a request. `length` is of its body in bytes, None for a chunked one."""

    __slots__ = (
        "expects", "headers", "host", "keep_alive", "length", "method", "path", "query", "target", "upgrade", "version",
    )  # fmt: skip

    def __init__(self, method: str, target: str, version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.host: str = headers.get("host", "")
        self.path, self.query = self._split()
        connection = _tokens(headers.get("connection", ""))
        self.keep_alive = "close" not in connection and (version == "1.1" or "keep-alive" in connection)
        self.upgrade = _tokens(headers.get("upgrade", "")) if "upgrade" in connection else []
        self.expects = version == "1.1" and "expect" in headers
        self.length: int | None = None if "transfer-encoding" in headers else int(headers.get("content-length", 0))

    def _split(self) -> tuple[str, str]:
        target = self.target
        if target[:1] != "/":
            target = self._not_origin_form(target)
        path, _, query = target.partition("?")
        return path, query

    def _not_origin_form(self, target: str) -> str:
        if target == "*" and self.method == "OPTIONS":
            return target
        scheme, _, rest = target.partition("://")
        if scheme.lower() not in ("http", "https") or not rest:  # asterisk and authority forms (RFC 9112, section 3.2)
            raise HttpError(400, "the target of the request must be a path")
        end = min((place for place in (rest.find("/"), rest.find("?")) if place >= 0), default=len(rest))
        self.host, path = rest[:end], rest[end:]
        return path if path[:1] == "/" else f"/{path}"


def _tokens(text: str) -> list[str]:
    return [token.strip() for token in text.lower().split(",")]


def head_end(data: bytearray, limit: int) -> int:
    """Return where the head at the beginning of the data ends, 0 if it is not complete.

    Raises `HttpError` when it is too large, or broken already.
    """
    end = data.find(b"\r\n\r\n")
    if 0 <= end <= limit - 4:
        return end + 4
    line = data.find(b"\r\n", 0, MAX_TARGET + 64)
    if end >= 0 or len(data) >= limit or (line < 0 and len(data) > MAX_TARGET + 32):
        if line < 0:
            raise HttpError(414, f"the target of the request is longer than {MAX_TARGET:,} bytes")
        raise HttpError(431, f"the head of the request is larger than {limit:,} bytes")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise HttpError(400, "a line must end in CR LF")
    return 0


_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TOKEN_BYTES = frozenset("".join(_TOKEN).encode())
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF")

_remembered: dict[bytes, Head] = {}


def read_head(data: bytes) -> Head:
    """Return the head that these bytes are, the empty line included; `HttpError` says what is wrong with them."""
    head = _remembered.get(data)
    if head is None:
        head = _parse(data)
        if len(data) <= REMEMBERED_SIZE:
            if len(_remembered) >= REMEMBERED_HEADS:
                del _remembered[next(iter(_remembered))]
            _remembered[data] = head
    return head


def _parse(data: bytes) -> Head:
    _check_lines(data)
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(data) + 1)
    try:
        parser.receive_data(data)
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise HttpError(error.error_status_hint, "the request is malformed") from None
    except ValueError:  # of older versions, for a length of thousands of digits
        raise HttpError(400, "the request is malformed") from None
    if not isinstance(request, h11.Request):
        raise HttpError(400, "the request is malformed")
    headers = _joined(request.headers)
    version = request.http_version.decode()
    _check_framing(headers, version, data)
    target = request.target.decode("ascii")
    if "#" in target:
        raise HttpError(400, "the target of a request has no fragment ('#')")
    head = Head(request.method.decode(), target, version, headers)
    unsaid = head.method in WITH_BODY and head.length == 0 and "content-length" not in headers
    if unsaid and (version == "1.0" or "content-type" in headers):
        raise HttpError(411, "the request says nothing of the length of its body")
    return head


def _check_lines(data: bytes) -> None:
    """What h11 is lenient about."""
    ends = data.count(b"\r\n")
    if data.count(b"\n") != ends or data.count(b"\r") != ends:
        raise HttpError(400, "a line must end in CR LF")
    if _CONTROL.search(data):
        raise HttpError(400, "a head has no control characters")
    if b"\r\n " in data or b"\r\n\t" in data:
        raise HttpError(400, "a header may not be folded")
    line = data[: data.find(b"\r\n")]
    parts = line.split(b" ")
    if len(parts) != 3:
        raise HttpError(400, "the request line must be a method, a target and a version")
    if len(parts[1]) > MAX_TARGET:
        raise HttpError(414, f"the target of the request is longer than {MAX_TARGET:,} bytes")
    if parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        number = parts[2][5:]
        known = parts[2][:5] == b"HTTP/" and len(number) == 3 and number[1:2] == b"." and number[::2].isdigit()
        raise HttpError(505 if known else 400, "the version must be HTTP/1.1 or HTTP/1.0")


def _joined(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    values: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        if name in values:
            values[name] += f"{'; ' if name == 'cookie' else ', '}{value}"
        else:
            values[name] = value
    return Headers(values)


def _check_framing(headers: Headers, version: str, data: bytes) -> None:
    """Refuse what another parser might frame otherwise (request smuggling; RFC 9112, section 6.3)."""
    lines = [line.partition(b":") for line in data.split(b"\r\n")[1:]]
    lengths = [value.strip(b" \t") for name, _colon, value in lines if name.lower() == b"content-length"]
    codings = headers.get("transfer-encoding")
    if lengths and codings is not None:
        raise HttpError(400, "a request has a Content-Length or a Transfer-Encoding, not both")
    if len(lengths) > 1 or any(not value.isdigit() or len(value) > 15 for value in lengths):
        raise HttpError(400, "the Content-Length is not a number of bytes")
    if codings is not None and (version == "1.0" or codings.lower() != "chunked"):
        raise HttpError(400 if version == "1.0" else 501, "the only transfer coding is chunked, in HTTP/1.1")
    if sum(name.lower() == b"host" for name, _colon, _value in lines) > 1:
        raise HttpError(400, "a request has one Host")


class Chunks:
    """A chunked body on its way in (RFC 9112, section 7.1).

    Read here and not by h11, whose trailers may end in bare line feeds, and whose older versions do not look at what
    stands between two chunks.
    """

    __slots__ = ("_buffer", "_left", "_limit", "_overhead", "_state", "done")

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes, of what is not the body, beyond as much as the body itself."""
        self._limit = limit
        self._buffer = bytearray()
        self._left = 0  # bytes of the chunk that are still to come
        self._overhead = 0  # bytes of sizes and trailers, less those of the body
        self._state: Callable[[int, bytearray], int] = self._size_line
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came; return those of the body. Raises `HttpError`."""
        self._buffer += data
        body = bytearray()
        place = 0
        while not self.done:
            after = self._state(place, body)
            if after < 0:
                break
            place = after
        self._overhead += place - 2 * len(body)
        if self._overhead > self._limit:
            raise HttpError(400, "the chunks of the body are too small, or its trailers too large")
        del self._buffer[:place]
        if not self.done and len(self._buffer) > self._limit:
            raise HttpError(400, "the chunks of the body are malformed")
        return bytes(body)

    @property
    def rest(self) -> bytes:
        """What came after the body."""
        return bytes(self._buffer)

    # Each state reads from a place of the buffer on, and returns the place after what it read; -1 if that is not there.

    def _size_line(self, place: int, _body: bytearray) -> int:
        end = self._line(place)
        if end < 0:
            return -1
        size = bytes(self._buffer[place:end]).partition(b";")[0].rstrip(b" \t")
        if not 0 < len(size) <= 15 or not _HEXADECIMAL.issuperset(size):
            raise HttpError(400, "the size of a chunk is malformed")
        self._left = int(size, 16)
        self._state = self._data if self._left else self._trailer
        return end + 2

    def _data(self, place: int, body: bytearray) -> int:
        part = self._buffer[place : place + self._left]
        body += part
        self._left -= len(part)
        if not self._left:
            self._state = self._end_of_data
        return place + len(part) if part else -1

    def _end_of_data(self, place: int, _body: bytearray) -> int:
        ending = self._buffer[place : place + 2]
        if len(ending) < 2:
            return -1
        if ending != b"\r\n":
            raise HttpError(400, "a chunk of the body is longer than it says")
        self._state = self._size_line
        return place + 2

    def _trailer(self, place: int, _body: bytearray) -> int:
        end = self._line(place)
        if end < 0:
            return -1
        line = bytes(self._buffer[place:end])
        name, colon, _value = line.partition(b":")
        if line and not (colon and name and _TOKEN_BYTES.issuperset(name)):
            raise HttpError(400, "a trailer of the body is malformed")
        self.done = not line
        return end + 2

    def _line(self, place: int) -> int:
        """Return where the line that begins at a place ends; -1 if it is not there. Raises for a bare CR or LF."""
        end = self._buffer.find(b"\r\n", place)
        line = self._buffer[place:end] if end >= 0 else self._buffer[place:].removesuffix(b"\r")
        if b"\n" in line or b"\r" in line or b"\0" in line or len(line) > self._limit:
            raise HttpError(400, "the chunks of the body are malformed")
        return end


# --- response heads ---

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(when: tuple[int, ...]) -> str:
    """Return the date of a `time.gmtime` as HTTP writes it (RFC 9110, section 5.6.7)."""
    year, month, day, hour, minute, second, weekday = when[:7]
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"


_start_lines = {
    status: f"HTTP/1.1 {status} {reason}\r\nX-Content-Type-Options: nosniff\r\nDate: "
    for status, reason in REASONS.items()
}


def response_head(status: int, date: str, headers: Iterable[tuple[str, str]], framing: str) -> bytes:
    """Return the head of a response; `framing` is lines that say how it ends. The headers were checked before."""
    start = _start_lines.get(status) or f"HTTP/1.1 {status} \r\nX-Content-Type-Options: nosniff\r\nDate: "
    pairs = list(headers)
    lines = "".join([f"{name}: {value}\r\n" for name, value in pairs])
    if lines.count("\n") != len(pairs) or lines.count("\r") != len(pairs):
        raise ValueError("a header has a line break in it")
    return f"{start}{date}\r\n{lines}{framing}\r\n".encode("latin-1")


def check_header(name: object, value: object) -> tuple[str, str]:
    """Return a response header as it may be sent. Raises `ValueError` for one that would break the message."""
    if not isinstance(name, str) or not name or not _TOKEN.issuperset(name):
        raise ValueError(f"{name!r} is not the name of a header")
    text = str(value)
    if not text.isprintable() and any(sign < " " or sign == "\x7f" for sign in text.replace("\t", "")):
        raise ValueError(f"the value of header {name} has control characters in it: {text!r}")
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"the value of header {name} has characters that HTTP cannot carry: {text!r}") from None
    return name, text.strip()
