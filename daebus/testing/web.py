"""In place of the network: connections in memory, and the HTTP that a test's client speaks on them."""

from __future__ import annotations

import os
from email.message import Message
from http.client import HTTPResponse, IncompleteRead
from io import BytesIO
from itertools import count
from threading import Lock
from urllib.parse import urlencode

from ..errors import ConfigurationError, DaebusError
from ..jsontext import dumps, loads
from ..net import _NOBODY, Listener, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..exchange import OpenFile
    from ..net import Connection, Protocol

HOST = "127.0.0.1"

_ports = count(50_000)


class InlineListener(Listener):
    """A port at which nothing listens."""

    def __init__(self, host: str, port: int, accepted: Callable[[Connection], Protocol]) -> None:
        self.accepted = accepted
        self.host, self.port = host, port
        self.paused, self.taken = False, 0


class MemoryConnection:
    """A connection whose other end is the test: what the service writes is kept. It has what `net.Connection` has."""

    def __init__(self, network: InlineNetwork, listener: Listener) -> None:
        self._network = network
        self._lock = Lock()
        self._held = b""  # what came while nothing was read
        self._paused = False
        self.sent = bytearray()
        self.parts_left: int | None = None  # of a stream, after which the client leaves
        self.cut = False  # closed without an end
        self.closed = self.half_closed = self.sending = self.secure = False
        self.pending = 0
        self.peer, self.local, self.port = f"{HOST}:{next(_ports)}", HOST, listener.port
        self.deadline = float("inf")
        connection: Any = self
        self.protocol: Any = listener.accepted(connection)

    # --- for the service (any thread) ---

    def write(self, data: bytes) -> None:
        """Keep what is written."""
        with self._lock:
            if self.closed:
                return
            self.sent += data
            if self.parts_left is None or data.startswith(b"HTTP/"):
                return
            self.parts_left -= 1
            if self.parts_left > 0:
                return
        self.abort()

    def write_file(self, file: OpenFile, offset: int, length: int) -> None:
        """Keep a part of a file."""
        self.write(os.pread(file.descriptor, length, offset))

    def close(self) -> None:
        """Take nothing more."""
        if not self.closed:
            self.closed = True
            self._network.engine.soon(self.dispose)

    def abort(self) -> None:
        """Take nothing more, in the midst of something."""
        self.cut = self.cut or not self.closed
        self.close()

    def pause(self) -> None:
        """Read nothing for now."""
        self._paused = True

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        if self._held:
            self._network.engine.soon(self._read_held)

    def _read_held(self) -> None:
        if not self._paused and not self.closed:
            held, self._held = self._held, b""
            self._network.engine.put(self.protocol.received(held))

    def read_now(self) -> None:
        """Nothing has come that was not read."""

    def took_since(self, _when: float) -> bool:
        """The test takes everything."""
        return True

    @property
    def expendable(self) -> int:
        """See `net.Connection`."""
        worth: int = self.protocol.expendable
        return worth

    # --- for the test (on the worker) ---

    def receive(self, data: bytes) -> None:
        """Have bytes arrive."""
        self._held += data
        self._read_held()

    def look(self, now: float, _write_timeout: float) -> None:
        """See to the deadline."""
        if now >= self.deadline:
            self.protocol.expired(now)

    def dispose(self) -> None:
        """The connection is over."""
        self.closed = True
        protocol, self.protocol = self.protocol, _NOBODY
        self._network.forget(self)  # type: ignore[arg-type]
        protocol.gone()

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        with self._lock:
            data = bytes(self.sent)
            self.sent.clear()
        return data


class InlineNetwork(Network):
    """The connections of a service under test."""

    def listen(self, host: str, port: int, accepted: Callable[[Connection], Protocol]) -> Listener:
        """Note a port."""
        return self._listen_at(InlineListener(host, port, accepted))

    def serve(self) -> None:
        """Begin to accept."""
        self._serving = True

    def connect(self, port: int | None) -> MemoryConnection:
        """Connect to a port (None: the first one)."""
        listener = next(one for one in self._listeners if port in (None, one.port))
        connection: Any = MemoryConnection(self, listener)
        self._connections[connection] = None
        made: MemoryConnection = connection
        return made

    def next_deadline(self, now: float) -> float:
        """Return when the next connection has had its time."""
        return min((one.deadline for one in self.connections if one.deadline > now), default=float("inf"))

    def look(self, now: float) -> None:
        """See to the deadlines."""
        for connection in self.connections:
            connection.look(now, 0.0)

    def stop_listening(self) -> None:
        """Accept nothing more, and tell all protocols so."""
        self._listeners.clear()
        self.say_stopping()

    def close(self, _patience: float) -> None:
        """Close everything."""
        connections: list[Any] = self.connections
        for connection in connections:
            connection.dispose()


class HttpAnswer:
    """The answer to a request: `status`, `headers` (in any case), `body` and what can be read of it.

    `exception` is what the handler raised unexpectedly, if it did.
    """

    def __init__(self, status: int, headers: Message, body: bytes, exception: BaseException | None = None) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.exception = exception

    @property
    def content_type(self) -> str:
        """The media type, without parameters."""
        return self.headers.get_content_type() if "content-type" in self.headers else ""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(self.headers.get_content_charset() or "utf-8")

    @property
    def json(self) -> Any:
        """The value of a JSON body. Raises `ValueError` if it is none."""
        try:
            return loads(self.body)
        except DaebusError as error:
            raise ValueError(f"the body is no JSON: {self.body[:200]!r} ({error})") from None

    @property
    def events(self) -> list[tuple[str, str]]:
        """The server-sent events of a stream: name ("message" by default) and data."""
        return [_event(block) for block in self.text.split("\n\n") if block.strip()]

    def __repr__(self) -> str:
        failed = f", {self.exception!r}" if self.exception is not None else ""
        return f"<HttpAnswer {self.status} {self.body[:200]!r}{failed}>"


def _event(block: str) -> tuple[str, str]:
    lines = [line.partition(": ") for line in block.splitlines()]
    name = next((value for field, _, value in lines if field == "event"), "message")
    return name, "\n".join(value for field, _, value in lines if field == "data")


class _Bytes:
    """What `http.client` reads an answer from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._data)


def read_answer(data: bytes, method: str, *, whole: bool = True) -> HttpAnswer:
    """Return the answer that was written; raise `AssertionError` if it is not `whole`, unless that is wanted."""
    if not data:
        raise AssertionError("there is no answer: the service closed the connection")
    source: Any = _Bytes(data)
    response = HTTPResponse(source, method=method)
    response.begin()
    try:
        body = response.read()
    except IncompleteRead as error:
        if whole:
            raise AssertionError(f"the answer was cut short, after {error.partial[-200:]!r}") from None
        body = error.partial
    return HttpAnswer(response.status, response.headers, body)


def request_bytes(method: str, target: str, headers: dict[str, str], body: bytes | None) -> bytes:
    """Return a request as it is sent. Raises `ConfigurationError` for a target that is no path."""
    if not isinstance(target, str) or not target.startswith("/"):
        raise ConfigurationError(f"{target!r} is not a path: it begins with '/'")
    fields = {"Host": HOST, **headers}
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {_ascii_target(target)} HTTP/1.1", *[f"{name}: {value}" for name, value in fields.items()]]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def _ascii_target(target: str) -> str:
    from urllib.parse import quote

    return quote(target, safe="/?#[]@!$&'()*+,;=%-._~:")


def encode_body(json: Any, data: Any, files: dict[str, Any] | None, nothing: Any) -> tuple[bytes | None, str | None]:
    """Return a body and its type: of a value for JSON, of bytes, text or the fields of a form, or of files."""
    if files:
        return _multipart(data or {}, files)
    if json is not nothing:
        return dumps(json).encode(), "application/json"
    if isinstance(data, dict):
        return urlencode(data, doseq=True).encode(), "application/x-www-form-urlencoded"
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    return data, None if data is None else "application/octet-stream"


_BOUNDARY = "daebus-test-boundary"


def _multipart(fields: dict[str, Any], files: dict[str, Any]) -> tuple[bytes, str]:
    parts = [_part(f'name="{name}"', None, str(value).encode()) for name, value in fields.items()]
    for name, (filename, content, *kind) in files.items():
        data = content.encode() if isinstance(content, str) else content
        parts.append(_part(f'name="{name}"; filename="{filename}"', kind[0] if kind else None, data))
    return b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()]), f"multipart/form-data; boundary={_BOUNDARY}"


def _part(disposition: str, kind: str | None, data: bytes) -> bytes:
    typed = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n{typed}\r\n"
    return head.encode() + data + b"\r\n"


class Cookies:
    """What a client keeps of `Set-Cookie`: names and values, of all paths alike."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def header(self) -> dict[str, str]:
        """Return the header to be sent."""
        text = "; ".join(f"{name}={value}" for name, value in self.kept.items())
        return {"Cookie": text} if text else {}

    def take(self, headers: Message) -> None:
        """Keep what an answer sets."""
        for line in headers.get_all("set-cookie", []):
            pair, *attributes = [part.strip() for part in line.split(";")]
            name, _, value = pair.partition("=")
            if any(one.lower() == "max-age=0" for one in attributes):
                self.kept.pop(name, None)
            else:
                self.kept[name] = value
