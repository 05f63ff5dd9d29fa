"""The HTTP door: requests in, through the dispatcher, answers out. One `HttpConnection` for each connection.

The path of a request: `Connection` -> `HttpConnection.received` -> engine -> `HttpCall.plan` -> `HttpCall.run` ->
dispatcher -> the handler -> `HttpResponse.conclude` -> `HttpCall.send` -> `Connection.write`.
"""

from __future__ import annotations

import logging
import time
from threading import Event, Lock
from time import monotonic

from .context import current
from .errors import BadMessage, Busy, DaebusError, HttpError, Stopping, TooLarge
from .exchange import BYTES, EVENTS, HTML, LINES, TEXT, HttpRequest, HttpResponse, chunk_of
from .http1 import Chunks, head_end, http_date, read_head, response_head
from .log import Seldom, one_line
from .policy import Cors, foreign
from .registry import Record
from .work import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO

    from .engine import Engine, Item
    from .http1 import Head
    from .net import Connection, Network
    from .policy import Hosts

INFINITE = float("inf")

PIPELINE_LIMIT = 16 * 1024
"""Bytes that a client may send ahead while its request is at work."""

SPOOLED_LIMIT = 64 * 1024 * 1024
"""Bytes of temporary files for all unfinished bodies together, or four times the largest body if that is more."""

BODIES_LIMIT = 32 * 1024 * 1024
"""Bytes of memory for all unfinished bodies together."""

SLOWEST = 10 * 1024
"""Bytes a second that a body must come with, once its time is over otherwise."""

BODILESS = (204, 304)
"""Statuses whose answers end with their head (RFC 9112, section 6.3)."""

STREAMS = 64
"""Streams of generators at once: each has a thread."""

STREAM_WINDOW = 256 * 1024
"""Bytes of a stream that may wait for the client, before its generator waits, too."""

_seldom = Seldom()
_NO_CORS = Cors(None)


class Limits:
    """What a client may do; bytes and seconds."""

    max_body = 1024 * 1024
    max_header = 16 * 1024
    max_connections = 1000
    upload_memory = 256 * 1024
    header_timeout = 10.0
    body_timeout = 30.0
    idle_timeout = 60.0
    write_timeout = 30.0


class Policy:
    """Who may drive the service."""

    __slots__ = ("cors", "hosts", "ports")

    def __init__(self, cors: Cors | None, hosts: Hosts) -> None:
        self.cors = cors
        self.hosts = hosts
        self.ports: frozenset[int] = frozenset()  # our own: a page that came from one of them is ours

    def check_host(self, head: Head, connection: Connection) -> None:
        """Refuse a request for another host: a name on the internet may have been made to point here."""
        known = self.hosts.known(head.host, connection.local) if head.host else head.version == "1.0"
        if not known:
            raise HttpError(421, "this host is not served here; see allowed_hosts")

    def check_origin(self, head: Head, connection: Connection) -> None:
        """Refuse that a foreign page changes something here."""
        headers = head.headers
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        cors = self.cors if self.cors is not None else _NO_CORS
        if foreign(head.method, origin, site, head.host, connection.secure, self.ports, cors):
            raise HttpError(403, "a page of another origin may not do this; see cors_config")


class HttpDoor:
    """HTTP for a listening port. Without a site it is one for WebSockets alone."""

    def __init__(
        self,
        network: Network,
        dispatcher: Any,
        engine: Engine,
        limits: Limits,
        policy: Policy,
        site: Site | None,
        sockets: Any = None,
    ) -> None:
        self.network = network
        self.dispatcher = dispatcher
        self.engine = engine
        self.limits = limits
        self.policy = policy
        self.site = site
        self.sockets = sockets
        self.debug = False
        self.admitted = False  # whether handlers may run: the service has started
        self.stopping = False
        self.graceful = False  # stopping, but each open connection may ask once more
        self.finishing = False  # stopping, but bodies that are on their way may arrive
        self.streams: set[HttpCall] = set()
        self.body_bytes = 0  # held by unfinished bodies
        self.disk_bytes = 0  # in their temporary files
        self._second = 0
        self._date = ""

    def accept(self, connection: Connection) -> HttpConnection:
        """Return the protocol of a new connection."""
        return HttpConnection(self, connection)

    def date(self) -> str:
        """Return the date for a response."""
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, http_date(time.gmtime(second))
        return self._date

    def encoded(self, answer: HttpResponse, head: Head | None, keep: bool, headers: Iterable[tuple[str, str]]) -> bytes:
        """Return the bytes of an answer whose body is bytes, or of its head if the body is a file."""
        body = answer.body if isinstance(answer.body, bytes) else b""
        length = answer.file_part[2] if answer.file_part is not None else len(body) or answer.length or 0
        status = answer.status
        framing = "" if status in BODILESS else f"Content-Length: {length}\r\n"
        if not keep:
            framing += "Connection: close\r\n"
        elif head is not None and head.version == "1.0":
            framing += "Connection: keep-alive\r\n"
        start = response_head(status, self.date(), headers, framing)
        bodiless = status in BODILESS or (head is not None and head.method == "HEAD")
        return start if bodiless or not body else start + body


class HttpConnection:
    """HTTP on one connection: one request after the other. All but `finished` runs on the reader."""

    __slots__ = ("_body", "_buffer", "_busy", "_door", "_lock", "_served", "call", "connection")

    def __init__(self, door: HttpDoor, connection: Connection) -> None:
        self._door = door
        self.connection = connection
        self._buffer = bytearray()
        self._body: _Body | None = None  # that is coming in
        self._busy = False  # a request is at work
        self._served = False
        self._lock = Lock()  # of busy and the buffer: a request may end on another thread
        self.call: HttpCall | None = None
        connection.deadline = monotonic() + door.limits.header_timeout

    @property
    def expendable(self) -> int:
        """See `net.Protocol`."""
        if self._busy:
            return 0
        return 1 if self._served and self._body is None and not self._buffer else 2

    def received(self, data: bytes) -> Iterable[Item]:
        """Take bytes; return the request that they complete."""
        with self._lock:
            if self._busy:
                self._buffer += data
                if len(self._buffer) > PIPELINE_LIMIT:
                    self.connection.pause()
                return ()
        try:
            if self._body is not None:
                return self._more_body(data)
            self._buffer += data
            return self._advance()
        except HttpError as error:
            self._refuse(error)
            return ()

    def _advance(self) -> Iterable[Item]:
        """Read the next request of the buffer."""
        buffer = self._buffer
        if self.connection.sending:  # the client has not taken the last answer: go on when it is `drained`
            if len(buffer) > PIPELINE_LIMIT:
                self.connection.pause()
            return ()
        while buffer[:2] == b"\r\n":  # an empty line before a request is to be ignored (RFC 9112, section 2.2)
            del buffer[:2]
        if not buffer:
            return ()
        end = head_end(buffer, self._door.limits.max_header)
        if not end:
            limit = monotonic() + self._door.limits.header_timeout
            if self._served or self.connection.deadline > limit:
                self._served = False
                self.connection.deadline = limit
            return ()
        head = read_head(bytes(buffer[:end]))
        del buffer[:end]
        return self._begin(head)

    def _begin(self, head: Head) -> Iterable[Item]:
        door = self._door
        door.policy.check_host(head, self.connection)
        if "websocket" in head.upgrade and door.sockets is not None and head.method == "GET":
            return self._upgrade(head)
        if door.site is None:
            raise HttpError(426, "this port is for WebSockets", (("Upgrade", "websocket"), ("Connection", "upgrade")))
        if head.method not in ("GET", "HEAD", "OPTIONS"):
            door.policy.check_origin(head, self.connection)
        if head.length == 0:
            return self._run(head, b"")
        return self._begin_body(head)

    def _begin_body(self, head: Head) -> Iterable[Item]:
        limits = self._door.limits
        if head.length is not None and head.length > limits.max_body:
            raise HttpError(413, f"the body is larger than {limits.max_body:,} bytes")
        if head.headers.get("content-encoding", "identity").lower() != "identity":
            raise HttpError(415, "send the body without a Content-Encoding")
        if head.expects and head.headers["expect"].lower() != "100-continue":
            raise HttpError(417, "the only expectation is 100-continue")
        buffer = self._buffer
        if head.length is not None and len(buffer) >= head.length <= limits.upload_memory:
            body = bytes(buffer[: head.length])
            del buffer[: head.length]
            return self._run(head, body)
        self._body = _Body(self._door, head)
        self.connection.deadline = self._body.deadline
        data = bytes(buffer)
        buffer.clear()
        if head.expects and not data:
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._more_body(data) if data else ()

    def _more_body(self, data: bytes) -> Iterable[Item]:
        body = self._body
        assert body is not None  # noqa: S101 - for the type checker
        rest = body.feed(data)
        if rest is None:
            self.connection.deadline = body.deadline
            return ()
        self._body = None
        self._buffer += rest
        return self._run(body.head, body.finish())

    def _run(self, head: Head, body: bytes | BinaryIO) -> Iterable[Item]:
        """Return the item of a complete request."""
        self._busy = True
        self.connection.deadline = INFINITE
        call = self.call = HttpCall(self._door, self, head, body)
        return ((None, call.plan, "http", body if isinstance(body, bytes) else b""),)

    def _upgrade(self, head: Head) -> Iterable[Item]:
        """Leave the connection to the WebSocket door."""
        if head.length != 0:
            raise HttpError(400, "a request for a WebSocket has no body")
        if not self._door.admitted:
            raise _starting()
        if self._door.stopping:
            raise HttpError(503, "the service is stopping")
        self._busy = True
        self.connection.deadline = INFINITE
        request = HttpRequest(head, b"", self.connection.peer)
        return self._door.sockets.upgrade(self.connection, request)  # type: ignore[no-any-return]

    def take_rest(self) -> bytes:
        """Return what came since an upgrade was asked for, for the protocol that follows. On the reader."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self.connection.resume()
        return rest

    def finished(self, keep: bool) -> None:
        """The answer is written: go on with the next request, or close. Any thread."""
        self.call = None
        connection = self.connection
        if not keep or connection.closed:
            connection.close()
            return
        with self._lock:
            connection.deadline = monotonic() + self._door.limits.idle_timeout
            self._busy = False
            self._served = True
            waiting = bool(self._buffer)
        if waiting or connection.half_closed:
            self._door.engine.soon(self._next)
        elif self._door.stopping and not self._door.graceful:
            connection.close()

    def _next(self) -> None:
        """Go on with what the client sent ahead. On the reader."""
        connection = self.connection
        if self._busy or connection.closed:
            return
        connection.resume()
        try:
            if self._body is None:
                self._door.engine.put(self._advance())
            if connection.half_closed and not self._busy and not connection.sending:
                self._no_more()
        except HttpError as error:
            self._refuse(error)

    def _no_more(self) -> None:
        """All that came is answered, and nothing more will come."""
        if self._body is not None or self._buffer:
            raise HttpError(400, "the request is incomplete")
        self.connection.close()

    def _refuse(self, error: HttpError) -> None:
        """Answer what is no request, or one that may not be, and close."""
        self._drop_body()
        self._busy = True  # nothing more is read
        self._door.dispatcher.counts.broken += 1
        text = f"A request of {self.connection.peer} was refused ({error.http_status}): {error}"
        _seldom.log(logging.WARNING, ("refused", error.http_status), one_line(text))
        answer = HttpResponse()
        answer.finish = self._write_refusal
        answer.fail(error)

    def _write_refusal(self, answer: HttpResponse) -> None:
        self.connection.write(self._door.encoded(answer, None, False, answer.headers + answer.type_header()))
        self.connection.close()

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.drop()
            self._body = None

    def ended(self) -> None:
        """The client sends nothing more: what it asked is answered, then the connection is closed."""
        call = self.call
        if call is not None:
            call.client_left()
        if not self._busy and not self.connection.sending:
            self._next()

    def drained(self) -> None:
        """All is sent."""
        call = self.call
        if call is not None:
            call.has_drained()
        elif not self._busy:
            self._next()

    def expired(self, now: float) -> None:
        """The client has had its time."""
        if self._busy or self.connection.sending:
            return
        if self._body is not None or self._buffer:
            self._refuse(HttpError(408, "the request took too long to arrive"))
        else:
            self.connection.close()

    def gone(self) -> None:
        """The connection is closed."""
        self._drop_body()
        call = self.call
        if call is not None:
            call.client_gone()

    @property
    def awaits_last(self) -> bool:
        """See `net.Protocol`."""
        door = self._door
        waits = door.graceful or (door.finishing and self._body is not None)
        return waits and not self._busy and not self.connection.closed

    def stopping(self) -> None:
        """Take no further request, but answer one that has come already."""
        if not self._busy:
            self.connection.read_now()
        if self.awaits_last:
            return
        if not self._busy and (self._body is not None or self._buffer):
            self._refuse(HttpError(503, "the service is stopping"))
        elif not self._busy:
            self.connection.close()
        elif self.call is not None:
            self.call.stopping()


class _Body:
    """A body on its way in: in memory up to a size, then in a temporary file."""

    __slots__ = ("_began", "_chunks", "_door", "_file", "_memory", "_spooled", "deadline", "head", "size")

    def __init__(self, door: HttpDoor, head: Head) -> None:
        self._door = door
        self.head = head
        self._chunks = Chunks(door.limits.max_header) if head.length is None else None
        self._memory = bytearray()
        self._spooled = 0
        self._file: BinaryIO | None = None  # unbuffered, so that closing it cannot fail
        self.size = 0
        self._began = monotonic()
        self.deadline = self._began + door.limits.body_timeout

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; None while the body goes on, else what came after it. Raises `HttpError`."""
        rest: bytes | None = None
        if self._chunks is not None:
            data = self._chunks.feed(data)
            rest = self._chunks.rest if self._chunks.done else None
        else:
            length = self.head.length or 0
            missing = length - self.size
            if len(data) >= missing:
                data, rest = data[:missing], data[missing:]
        self._keep(data)
        self.deadline = self._began + self._door.limits.body_timeout + self.size / SLOWEST
        return rest

    def _keep(self, data: bytes) -> None:
        door, limits = self._door, self._door.limits
        self.size += len(data)
        if self.size > limits.max_body:
            raise HttpError(413, f"the body is larger than {limits.max_body:,} bytes")
        if self._file is not None:
            if door.disk_bytes > max(SPOOLED_LIMIT, 4 * limits.max_body):
                raise HttpError(503, "too many large requests at once")
            door.disk_bytes += len(data)
            self._spooled += len(data)
            self._store(self._file, data)
            return
        if door.body_bytes + len(data) > BODIES_LIMIT:
            raise HttpError(503, "too many large requests at once")
        self._memory += data
        door.body_bytes += len(data)
        if len(self._memory) > limits.upload_memory:
            self._spool()

    def _spool(self) -> None:
        from tempfile import TemporaryFile

        try:
            file: Any = TemporaryFile(prefix="daebus-", buffering=0)  # noqa: SIM115 - closed with the request
        except OSError as error:
            raise _not_stored(error) from None
        self._file = file
        data = bytes(self._memory)
        self._release()
        self._store(file, data)

    def _store(self, file: BinaryIO, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise _not_stored(error) from None

    def _release(self) -> None:
        self._door.disk_bytes -= self._spooled
        self._spooled = 0
        self._door.body_bytes -= len(self._memory)
        self._memory = bytearray()

    def finish(self) -> bytes | BinaryIO:
        """Return the body."""
        body: bytes | BinaryIO = bytes(self._memory)
        if self._file is not None:
            self._file.seek(0)
            body = self._file
        self._release()
        return body

    def drop(self) -> None:
        """Forget it."""
        self._release()
        if self._file is not None:
            self._file.close()


def _not_stored(error: OSError) -> HttpError:
    _seldom.log(logging.ERROR, "spool", f"An upload cannot be stored: {error}")
    return HttpError(503, "the upload cannot be stored")


def _raise(error: Exception) -> None:
    raise error


_REFUSAL = Work(Record("route", "refusal", _raise, inline=True))


class HttpCall:
    """A request on its way through its handler, and its answer on the way back."""

    context_type = "http"
    __slots__ = (
        "_cancel", "_door", "_endless", "_gone", "_head", "_packed", "_protocol", "arguments", "began", "request",
        "response", "room", "size", "work",
    )  # fmt: skip

    def __init__(self, door: HttpDoor, protocol: HttpConnection, head: Head, body: bytes | BinaryIO) -> None:
        self._door = door
        self._protocol = protocol
        self._head = head
        self._gone = False
        self._endless = False  # a stream of events, which ends when the service does
        self._cancel: Any = None  # ends an async stream
        self._packed = False  # the body is to be read again
        self.room: Event | None = None  # set when a stream may go on
        self.size = len(body) if isinstance(body, bytes) else 0
        self.request = HttpRequest(head, body, protocol.connection.peer)
        self.response = response = HttpResponse(self.request)
        response.debug = door.debug
        response.finish = self.send
        self.work = _REFUSAL
        self.arguments: tuple[Any, ...] = ()

    # --- on its way in ---

    def plan(self, _work: Work | None, _channel: str, _data: bytes) -> HttpCall:
        """Find the handler; what is wrong with the request is raised where a handler would run."""
        door = self._door
        door.dispatcher.counts.received += 1
        self.request.upload_memory = door.limits.upload_memory
        try:
            if not door.admitted:
                raise _starting()
            if not self._preflight():
                site: Any = door.site
                self.work, self.arguments = site.find(self.request)
                if self._head.length != 0:
                    self.request.read()
        except OSError as error:
            self.work, self.arguments = _REFUSAL, (_not_stored(error),)
        except TooLarge as error:
            self.work, self.arguments = _REFUSAL, (HttpError(413, str(error)),)
        except Exception as error:  # noqa: BLE001 - ours are answers, others go to the log; none may get further
            self.work, self.arguments = _REFUSAL, (error,)
        return self

    def _preflight(self) -> bool:
        head, cors = self._head, self._door.policy.cors
        if head.method != "OPTIONS" or cors is None:
            return False
        origin, method = head.headers.get("origin"), head.headers.get("access-control-request-method")
        if origin is None or method is None:
            return False
        site: Any = self._door.site
        wanted = head.headers.get("access-control-request-headers", "")
        answer = HttpResponse(self.request).send(None, 204)
        answer.headers += cors.preflight(origin, method, wanted, site.allowed(head.path))
        self.work, self.arguments = _PREFLIGHT, (answer,)
        return True

    def run(self) -> bool:
        """Handle the request on this thread; False if a coroutine goes on with it."""
        if self._gone:  # nobody waits for the answer any more
            self.response.finish = None
            self._release()
            return True
        if self._packed:
            self.request.read()
        done: bool = self._door.dispatcher.handle(self)
        return done

    def pack(self, data: bytes) -> None:
        """Before a wait: give up what was read of the body, which takes much more memory than its bytes."""
        if self._head.length != 0 and self.work is not _REFUSAL:
            self.request.forget()
            self._packed = True

    def refuse(self, error: DaebusError) -> None:
        """Answer with an error instead of running, or of going on."""
        self._door.dispatcher.refuse(self, error)

    # --- on its way out (any thread) ---

    def send(self, answer: HttpResponse) -> None:
        """Write the answer. Called once, by the response."""
        try:
            self._send(answer)
        except Exception as error:  # noqa: BLE001 - a header or body that a handler left in the answer
            self._cannot_send(error)

    def _send(self, answer: HttpResponse) -> None:
        if not isinstance(answer.body, bytes):
            if answer.status not in BODILESS:
                self._stream(answer)
                return
            _close_parts(answer.body)
            answer.body = b""
        protocol, head = self._protocol, self._head
        connection = protocol.connection
        keep = head.keep_alive and not self._door.stopping
        connection.write(self._door.encoded(answer, head, keep, self._headers(answer)))
        if answer.file_part is not None and head.method != "HEAD" and answer.status not in BODILESS:
            connection.write_file(*answer.file_part)
        self._release()
        protocol.finished(keep)

    def _cannot_send(self, error: BaseException) -> None:
        """Say that this failed, and close."""
        self._door.streams.discard(self)
        self._door.dispatcher.failed(self, error)
        answer = HttpResponse().send({"error": "Internal server error"}, 500)
        self._protocol.connection.write(self._door.encoded(answer, self._head, False, answer.type_header()))
        self._release()
        self._protocol.finished(False)

    def _headers(self, answer: HttpResponse) -> list[tuple[str, str]]:
        cors = self._door.policy.cors
        headers = answer.headers + answer.type_header()
        if cors is None or self.work is _PREFLIGHT:
            return headers
        return headers + cors.headers(self._head.headers.get("origin"))

    def _release(self) -> None:
        if self._head.length != 0:
            self.request.close()

    # --- streams ---

    def _stream(self, answer: HttpResponse) -> None:
        door = self._door
        if len(door.streams) >= STREAMS or door.stopping:
            _close_parts(answer.body)
            self._fail_late(Stopping("The service is stopping") if door.stopping else Busy("Too many streams run"))
            return
        door.streams.add(self)
        self.room = Event()
        self._endless = answer.content_type == EVENTS
        if hasattr(answer.body, "__aiter__"):
            door.dispatcher.start_coroutine(self._run_async(answer))
        else:
            door.engine.spare(lambda: self._run_stream(answer))

    def _fail_late(self, error: DaebusError) -> None:
        """Give an error after all: the response took this for its answer."""
        self.response.reopen(self.send)
        self.response.fail(error)

    def _run_stream(self, answer: HttpResponse) -> None:
        """Send what a generator yields. On a thread of its own."""
        token = current.set(self)
        writer = _StreamWriter(self, answer)
        parts: Any = answer.body
        try:
            for part in parts:
                if not writer.part(part) or not self._has_room():
                    break
            self._finish_stream(writer)
        except BaseException as error:  # noqa: BLE001 - the last stop of the user's code
            self._stream_failed(writer, error)
        finally:
            _close_parts(parts)
            current.reset(token)
            self._end_stream(writer)

    async def _run_async(self, answer: HttpResponse) -> None:
        import asyncio

        current.set(self)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel) if task is not None else None
        writer = _StreamWriter(self, answer)
        parts: Any = answer.body
        try:
            if self._gone:  # before it could be cancelled
                raise asyncio.CancelledError
            async for part in parts:
                if not writer.part(part):
                    break
                while not self._gone and self._protocol.connection.pending > STREAM_WINDOW:
                    await asyncio.sleep(0.02)
            self._finish_stream(writer)
        except BaseException as error:  # noqa: BLE001 - as above; cancellation included
            self._stream_failed(writer, error)
        finally:
            self._cancel = None
            if hasattr(parts, "aclose"):
                await _close_async(parts)
            self._end_stream(writer)

    def _finish_stream(self, writer: _StreamWriter) -> None:
        if self._gone:
            self._protocol.connection.abort()  # what is cut short must not look complete
        else:
            writer.end()

    def _has_room(self) -> bool:
        """Wait until the client has taken enough; False if it is gone."""
        room, connection = self.room, self._protocol.connection
        while room is not None and not self._gone and connection.pending > STREAM_WINDOW:
            room.wait()
            room.clear()
        return not self._gone

    def _stream_failed(self, writer: _StreamWriter, error: BaseException) -> None:
        if self._gone:
            return  # what is raised in a generator that nobody listens to any more is of no interest
        if not writer.begun:  # the client can still be told
            writer.failed = True
            self.response.reopen(self.send)
        self._door.dispatcher.failed(self, error)
        if writer.begun:
            self._protocol.connection.abort()  # a stream that is cut short must not look complete

    def _end_stream(self, writer: _StreamWriter) -> None:
        self._door.streams.discard(self)
        self.room = None
        if not writer.failed:
            self._release()
            self._protocol.finished(writer.keep and not self._gone)

    def begin_stream(self, answer: HttpResponse, first: Any) -> tuple[bool, bool]:
        """Write the head of a stream; return whether it is chunked, and whether the connection is kept."""
        head, connection = self._head, self._protocol.connection
        answer.content_type = answer.content_type or _type_of_part(first)
        chunked = head.version == "1.1"
        keep = chunked and head.keep_alive and not self._door.stopping
        framing = ("Transfer-Encoding: chunked\r\n" if chunked else "") + ("" if keep else "Connection: close\r\n")
        connection.write(response_head(answer.status, self._door.date(), self._headers(answer), framing))
        return chunked, keep

    def write(self, data: bytes) -> bool:
        """Write bytes of a stream; False if nobody takes them."""
        self._protocol.connection.write(data)
        return not self._gone and not self._protocol.connection.closed

    @property
    def method(self) -> str:
        """The request's method."""
        return self._head.method

    # --- what becomes of the client (on the reader) ---

    def client_left(self) -> None:
        """It has closed its side: an ordinary answer may still be awaited, a stream not."""
        if self.room is not None:  # of a stream
            self.client_gone()
            self._protocol.connection.abort()

    def has_drained(self) -> None:
        """It has taken all that was sent: a stream may go on."""
        room = self.room
        if room is not None:
            room.set()

    @property
    def is_unheard(self) -> bool:
        """Whether nobody reads the answer any more."""
        return self._gone

    def client_gone(self) -> None:
        """Nobody reads the answer."""
        self._gone = True
        self.has_drained()
        cancel = self._cancel
        if cancel is not None:
            cancel()

    def stopping(self) -> None:
        """End what would never end by itself."""
        if self.room is not None and self._endless:
            self._door.streams.discard(self)  # nobody waits for it
            self.client_gone()
            self._protocol.connection.close()

    def __str__(self) -> str:
        return f"Route {self.method} {one_line(self._head.path[:200])!r}"


class _StreamWriter:
    """Frames the parts of a stream."""

    __slots__ = ("_answer", "_call", "_chunked", "_events", "begun", "failed", "keep")

    def __init__(self, call: HttpCall, answer: HttpResponse) -> None:
        self._call = call
        self._answer = answer
        self._events = answer.content_type == EVENTS
        self._chunked = False
        self.keep = False
        self.begun = False
        self.failed = False

    def part(self, part: Any) -> bool:
        """Send a part; False if nobody takes it."""
        data = chunk_of(part, self._events)
        if not self.begun:
            self._begin(part)
        if self._call.method == "HEAD":
            return False
        if not data:
            return True
        return self._call.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _begin(self, first: Any) -> None:
        self.begun = True
        self._chunked, self.keep = self._call.begin_stream(self._answer, first)

    def end(self) -> None:
        """Send the end."""
        if not self.begun:
            self._begin("")
        if self._chunked and self._call.method != "HEAD":
            self._call.write(b"0\r\n\r\n")


def _type_of_part(first: Any) -> str:
    if isinstance(first, str):
        return HTML if first.lstrip()[:1] == "<" else TEXT
    return BYTES if isinstance(first, bytes | bytearray | memoryview) else LINES


def _close_parts(parts: Any) -> None:
    close = getattr(parts, "close", None)
    if callable(close):
        try:
            close()
        except BaseException as error:  # noqa: BLE001 - the user's code
            _seldom.log(logging.ERROR, "close", f"A generator failed when it was closed: {type(error).__name__}")


async def _close_async(parts: Any) -> None:
    try:
        await parts.aclose()
    except BaseException as error:  # noqa: BLE001 - the user's code
        _seldom.log(logging.ERROR, "close", f"A generator failed when it was closed: {type(error).__name__}")


def _given(answer: HttpResponse) -> HttpResponse:
    return answer


_ANSWER = Work(Record("route", "answer", _given, inline=True))
_PREFLIGHT = Work(Record("preflight", "preflight", _given, inline=True))  # no hook may get in its way


def _starting() -> HttpError:
    return HttpError(503, "the service is starting; try again in a moment")


READING = ("GET", "HEAD", "OPTIONS")


class Site:
    """The routes and the folders of a service."""

    def __init__(self, table: Any, folders: list[Any]) -> None:
        self._table = table
        self._folders = folders

    def find(self, request: HttpRequest) -> tuple[Work, tuple[Any, ...]]:
        """Return the handler for a request and its arguments. Raises `HttpError` (404, 405) or `BadMessage`."""
        head = request._head
        if head.path == "*":
            return _ANSWER, (HttpResponse(request).send(None, 204),)
        found = self._table.find(head.method, head.path)
        if hasattr(found, "target"):
            request.values = found.values
            work, names = found.target
            return work, tuple([request if name is None else found.values[name] for name in names])
        if found.redirect is not None:
            query = f"?{head.query}" if head.query else ""
            return _ANSWER, (HttpResponse(request).redirect(f"{found.redirect}{query}", 308),)
        folder = next((folder for folder in self._folders if folder.holds(request.path)), None)
        allow = found.allow or (READING if folder is not None else ())
        if head.method == "OPTIONS" and allow:
            return _ANSWER, (HttpResponse(request).send(None, 204).header("Allow", ", ".join(allow)),)
        if folder is not None:
            return folder.work, (request, found)
        raise unserved(head, found)

    def allowed(self, path: str) -> tuple[str, ...]:
        """Return the methods that a path knows."""
        try:
            allow: tuple[str, ...] = self._table.allowed(path)
        except BadMessage:
            return ()
        return allow or READING


def unserved(head: Head, found: Any) -> DaebusError:
    """Return the error for a path that no handler serves with this method."""
    if found.allow:
        return HttpError(405, headers=(("Allow", ", ".join(found.allow)),))
    return HttpError(404)
