"""The WebSocket door: clients in, their messages to handlers, answers and broadcasts out. One `Session` for each.

The path of a message: `Connection` -> `Session.received` -> engine -> `Session.plan` -> `SocketCall.run` ->
dispatcher -> the handler -> `WebSocketResponse.conclude` -> `Session.transmit` -> `Connection.write`.

One client's messages of one type run one at a time, in order; nobody else waits for them. Whoever sends faster than
its handlers work is read from no longer, so that what waits is bounded by the kernel's buffers.
"""

from __future__ import annotations

import logging
import re
import time
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections import deque
from functools import partial
from threading import Lock
from time import monotonic

from .errors import BadMessage, DeclarationError, HttpError, Stopping
from .http1 import http_date, response_head
from .jsontext import dumps, loads
from .log import Seldom, one_line
from .names import RESERVED, shown
from .policy import Cors, foreign_socket
from .registry import Record
from .work import Work
from .wscalls import CLIENT, Admission, Handler, HookCall, Quiet, SocketCall, Turn, admitting
from .wsexchange import Sent, WebSocketRequest, WebSocketResponse, error_frame, known_id
from .wsframes import (
    BINARY,
    CLOSE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    PING,
    POLICY,
    PONG,
    TEXT,
    TRY_LATER,
    VANISHED,
    Frames,
    accept_token,
    close_payload,
    close_reason,
    frame,
    plain_frame,
    text_frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .engine import Engine, Item
    from .gateway import Gateway
    from .net import Connection
    from .websocket import DaebusWebSocket

CLOSE_LIMIT = 3.0
"""Seconds that a client has to answer a close frame."""

FAREWELL = 1.0
"""Seconds that the service waits at its end for clients to take their close frames."""

AT_WORK, AT_WORK_BYTES = 64, 256 * 1024
"""Messages of a client that may be at work or wait for it, and their bytes; beyond, no more are read."""

PARTIAL_BYTES, PARTIAL_LIMIT = 16 * 1024 * 1024, 30.0
"""Bytes of all unfinished messages together; and the seconds that one may take."""

_OPEN, _CLOSING, _CLOSED = range(3)

_type = re.compile(rb'\s*+\{\s*+"type"\s*+:\s*+"([^"\\]{1,200}+)"\s*+[,}]')
_id = re.compile(rb'"request_id"\s*+:\s*+"([^"\\]{1,200}+)"')

_NO_CORS = Cors(None)
HELLO = f"{RESERVED}hello"
"""The type of message with which /daebus.js introduces itself, and asks for a sign of life."""

_seldom = Seldom()


# --- a client that is in ---


class Session:
    """One client. Received on the reader; sent to, and closed, by any thread."""

    __slots__ = (
        "_at_work", "_at_work_bytes", "_close_code", "_counted", "_frames", "_heard", "_held", "_leaving", "_lock",
        "_partial", "_partial_since", "_paused", "_pinged", "_state", "_turns", "_window", "channels", "client_id",
        "connected_at", "connection", "door", "headers", "messages_received", "messages_sent", "opened",
        "own_running", "own_waiting", "path", "pending", "used",
    )  # fmt: skip

    expendable = 0  # see `net.Protocol`: a client that is in stays

    def __init__(self, door: WebSocketDoor, connection: Connection, http: Any) -> None:
        self.door = door
        self.connection = connection
        self.client_id = ""
        self.path: str = http.path
        self.headers = http.headers
        self._frames = Frames(door.face.max_message)
        self._lock = Lock()  # of the state, of what is written, and of what is at work
        self._state = _OPEN
        self._close_code = (VANISHED, "")  # how it ended, as the client will have it
        self._turns: dict[Handler | None, Turn] = {}
        self._held: deque[bytes] | None = None  # messages that wait until the one before them is sorted
        self._at_work = self._at_work_bytes = 0
        self._paused = False  # not read from
        self._leaving = False  # the service stops
        self._pinged = False
        self._window = 0.0  # when the current window of the rate limit began
        self._counted = 0  # messages in it
        self.channels: set[str] = set()  # that it hears through the gateway
        self.pending: set[str] = set()  # its calls of other services
        self._partial = 0  # bytes of a message of which parts have come
        self._partial_since = 0.0
        self.own_running = 0  # its calls of our own actions
        self.own_waiting: deque[Any] = deque()  # and those that wait for them
        self.messages_received = self.messages_sent = 0
        self.connected_at = time.time()
        self.opened = self._heard = self.used = monotonic()

    # --- what is known of it (any thread) ---

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent."""
        return self._state != _OPEN or self.connection.closed

    @property
    def remote_address(self) -> tuple[str, int]:
        """Host and port of the client."""
        host, _, port = self.connection.peer.rpartition(":")
        return host, int(port) if port.isdigit() else 0

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.connection.secure

    def metadata(self) -> dict[str, Any]:
        """Return what `DaebusWebSocket.get_client_metadata` tells."""
        now = monotonic()
        return {
            "connected_at": self.connected_at,
            "path": self.path,
            "remote_address": self.remote_address,
            "secure": self.secure,
            "messages_received": self.messages_received,
            "messages_sent": self.messages_sent,
            "last_activity": time.time() - (now - self.used),
            "uptime_seconds": now - self.opened,
            "idle_seconds": now - self.used,
        }

    def __repr__(self) -> str:
        return f"<WebSocket client {self.client_id!r}>"

    # --- sending and closing (any thread) ---

    def send(self, text: str | bytes) -> Sent:
        """Send a text as it is."""
        return Sent(self.transmit(text_frame(text.decode() if isinstance(text, bytes) else text)))

    def transmit(self, data: bytes) -> bool:
        """Send a frame; False if the client has gone, or is cut off because it takes nothing."""
        connection = self.connection
        with self._lock:
            if self._state != _OPEN or connection.closed:
                return False
            waiting = connection.pending
            if not waiting or waiting + len(data) <= self.door.face.outbox:
                connection.write(data)
                self.messages_sent += 1
                self.used = monotonic()
                return True
        self._cut_off(waiting)
        return False

    def _cut_off(self, waiting: int) -> None:
        if self.close(TRY_LATER, f"too slow: {waiting:,} bytes wait to be read"):
            text = f"Client {shown(self.client_id)} was cut off: it does not take what it is sent ({waiting:,} bytes)"
            _seldom.log(logging.WARNING, "slow", text)

    def close(self, code: int = NORMAL, reason: str = "") -> bool:
        """Say goodbye; the connection is closed when the client has answered, or had its time. False if it was said."""
        return self._close(close_payload(code, reason))

    def _close(self, payload: bytes) -> bool:
        with self._lock:
            if self._state != _OPEN:
                return False
            self._state = _CLOSING
            self._close_code = close_reason(payload)
            self.connection.write(frame(CLOSE, payload))
            self.connection.deadline = monotonic() + CLOSE_LIMIT
        return True

    # --- receiving (the reader) ---

    def received(self, data: bytes) -> Iterable[Item]:
        """Take bytes; return the messages that they complete."""
        self._heard = now = monotonic()
        self._pinged = False
        items: list[Item] = []
        for kind, payload in self._frames.receive(data):
            if kind in (TEXT, BINARY):
                self._take(payload, now, items)
            else:
                self._take_control(kind, payload)
        if self._frames.held or self._partial:
            self._account(now)
        return items

    def _account(self, now: float) -> None:
        """See to it that unfinished messages stay within bounds."""
        held, before = self._frames.held, self._partial
        self._partial = held
        self._partial_since = now if not before or not held else self._partial_since
        self.door.partial += held - before
        if held > before and self.door.partial > PARTIAL_BYTES:
            self.close(TRY_LATER, "too many large messages at once")
            self.connection.close()
        elif held and now - self._partial_since > PARTIAL_LIMIT:
            self.close(POLICY, "the message took too long")
            self.connection.close()

    def _take_control(self, kind: int, payload: bytes) -> None:
        if kind == PING:
            self._pong(payload)
        elif kind != PONG:  # a close frame, or a fault
            self._close(payload)
            self.connection.close()

    def _pong(self, payload: bytes) -> None:
        with self._lock:
            if self._state != _OPEN:
                return
            waiting = self.connection.pending
            if waiting <= self.door.face.outbox:
                self.connection.write(frame(PONG, payload))
                return
        self._cut_off(waiting)

    def _take(self, payload: bytes, now: float, items: list[Item]) -> None:
        if self._state != _OPEN:
            return
        self.messages_received += 1
        self.used = now
        self.door.dispatcher.counts.received += 1
        if self.door.face.rate_limit is not None and self._over_rate(payload, now):
            return
        if self._leaving:
            self.transmit(error_frame(Stopping("The service is stopping"), _peeked_id(payload)))
        elif self._held is not None:
            self._held.append(payload)
        else:
            self._route(payload, items)
            self._pace()

    def _over_rate(self, payload: bytes, now: float) -> bool:
        retry_after = self.over_rate(now)
        if retry_after <= 0:
            self.count_message(now)
            return False
        named = _peeked_id(payload)
        more: dict[str, Any] = {} if named is None else {"request_id": named, "success": False, "code": "busy"}
        limited = {"type": "error", "error": "Rate limit exceeded", "retry_after": round(retry_after, 3) or 0.001}
        self.transmit(plain_frame({**limited, **more}))
        return True

    def over_rate(self, now: float) -> float:
        """Return for how many seconds no message is taken; 0.0: one is."""
        limit = self.door.face.rate_limit
        if limit is None or self._counted < limit[0]:
            return 0.0
        return max(0.0, self._window + limit[1] - now)

    def count_message(self, now: float) -> None:
        """Count a message for the rate limit: so many from the first one on, until the window is over."""
        limit = self.door.face.rate_limit
        if limit is None:
            return
        if not self._counted or now >= self._window + limit[1]:
            self._window, self._counted = now, 0
        self._counted += 1

    def _route(self, payload: bytes, items: list[Item]) -> None:
        """Find the handlers by the message's type, which most clients write first; else have it read for that."""
        found = _type.match(payload)
        routes = self.door.routes.get(found[1].decode("utf-8", "replace")) if found else None
        if routes is None:
            self._held = deque()
            self._begin(payload)
            items.append((None, self._sort, "", payload))
        else:
            self._run(routes, payload, items)

    def _run(self, routes: list[Route], payload: bytes, items: list[Item]) -> None:
        for route in routes:
            self._begin(payload)
            items.append((route.turn(self), partial(route.plan, self), route.name, payload))

    def turn(self, handler: Handler) -> Turn:
        """Return what keeps this client's messages for a handler in order."""
        turn = self._turns.get(handler)
        if turn is None:
            turn = self._turns[handler] = Turn(handler)
        return turn

    def _sort(self, _work: Any, _name: str, data: bytes) -> None:
        """Read a message to learn its type; the others wait meanwhile, so that the order is kept. Plans nothing."""
        message = self.read(data)
        routes = None if message is None else self._routes_of(message)
        self.door.engine.soon(partial(self._sorted, routes, data))

    def _routes_of(self, message: dict[str, Any]) -> list[Route] | None:
        name = message.get("type")
        routes = self.door.routes.get(name) if type(name) is str else None
        if routes is None:
            self.door.dispatcher.counts.unknown += 1
            if isinstance(name, str) and name:
                self._complain(f"No handler found for message type '{name[:200]}'", message)
            else:
                self._complain("No message type provided", message)
        return routes

    def _sorted(self, routes: list[Route] | None, payload: bytes) -> None:
        """Go on with the message, and with those that waited for it."""
        items: list[Item] = []
        held, self._held = self._held or deque(), None
        if routes is not None:
            self._run(routes, payload, items)
        self.done(len(payload))
        while held and self._held is None:
            self._route(held.popleft(), items)
        if self._held is not None:  # the next one to be read first
            self._held = held
        self.door.engine.put(items)
        self._pace()

    def read(self, data: bytes) -> dict[str, Any] | None:
        """Return the object that a message is; None if it is none, and the client has been told."""
        try:
            message = loads(data)
        except BadMessage:
            self.door.dispatcher.counts.broken += 1
            self._complain("Invalid JSON", {})
            return None
        if type(message) is dict:
            return message
        self.door.dispatcher.counts.broken += 1
        self._complain("Message must be a JSON object", {})
        return None

    def _complain(self, text: str, message: dict[str, Any]) -> None:
        named = known_id(message.get("request_id"))
        more: dict[str, Any] = {} if named is None else {"request_id": named, "success": False, "code": "bad_message"}
        self.transmit(plain_frame({"type": "error", "error": text, **more}))

    def plan(self, work: Turn, name: str, data: bytes) -> SocketCall | None:
        """Return the call for a message."""
        message = self.read(data) if self._state != _CLOSED else None
        if message is not None and message.get("type") != name:
            self._complain("The message has two types", message)
            message = None
        if message is None:
            self.done(len(data))
            return None
        return SocketCall(self, work, message, len(data))

    # --- what is at work ---

    def _begin(self, payload: bytes) -> None:
        with self._lock:
            self._at_work += 1
            self._at_work_bytes += len(payload)

    def done(self, size: int) -> None:
        """A message of so many bytes is dealt with. Any thread."""
        with self._lock:
            self._at_work -= 1
            self._at_work_bytes -= size
            resume = self._paused and not self._is_crowded(2)
            leaves = self._leaving and not self._at_work
        if resume:
            self.door.engine.soon(self._pace)
        if leaves:
            self._leave()

    def _is_crowded(self, part: int = 1) -> bool:
        return self._at_work * part >= AT_WORK or self._at_work_bytes * part > AT_WORK_BYTES

    def _pace(self) -> None:
        """Stop reading while too much is at work, or one message is being sorted; go on when half of it is done."""
        with self._lock:
            paused = self._held is not None or self._is_crowded(2 if self._paused else 1)
            if paused is self._paused:
                return
            self._paused = paused
        if paused:
            self.connection.pause()
        else:
            self._heard = monotonic()  # it could not be heard
            self.connection.resume()

    # --- the end (the reader) ---

    def ended(self) -> None:
        """The client has closed its side, without a close frame."""
        self.connection.close()

    def drained(self) -> None:
        """All is sent."""

    def expired(self, now: float) -> None:
        """Ask a silent client for a sign of life; cut off one that gave none, or that does not say goodbye."""
        interval = self.door.face.ping_interval
        if self._state != _OPEN:
            self.connection.abort()
        elif self._paused:
            self.connection.deadline = now + interval
        elif self._partial and now - self._partial_since > PARTIAL_LIMIT:
            self._account(now)
        elif now - self._heard < interval:
            self.connection.deadline = self._heard + interval
        elif self._pinged:
            self.close(INTERNAL_ERROR, "no sign of life")
            self.connection.abort()
        else:
            self._pinged = True
            self.connection.deadline = now + interval
            with self._lock:
                self.connection.write(frame(PING, b""))

    def gone(self) -> None:
        """The connection is closed."""
        with self._lock:
            self._state = _CLOSED
        self._turns.clear()
        self.door.partial -= self._partial
        self._partial = 0
        self.door.left(self, self._close_code)

    @property
    def awaits_last(self) -> bool:
        """See `net.Protocol`: a client is told to go."""
        return False

    def stopping(self) -> None:
        """Take nothing more; say goodbye when what is at work is done."""
        self.door.stop()
        with self._lock:
            self._leaving = True
            leaves = not self._at_work
        if leaves:
            self._leave()

    def _leave(self) -> None:
        self.close(GOING_AWAY, "the service is stopping")


def _peeked_id(payload: bytes) -> str | None:
    """Return the request id of a message that is not read."""
    found = _id.search(payload, 0, 2000) or _id.search(payload, max(0, len(payload) - 2000))
    return found[1].decode("utf-8", "replace") if found else None


class Route:
    """Where messages of a type go: to a handler."""

    __slots__ = ("_handler", "name")

    def __init__(self, name: str, handler: Handler) -> None:
        self.name = name
        self._handler = handler

    def turn(self, session: Session) -> Work | None:
        """Return what keeps a client's messages in order, None if nothing does."""
        return session.turn(self._handler)

    def plan(self, session: Session, work: Any, name: str, data: bytes) -> Any:
        """Return the call for a message, None if it is dealt with."""
        return session.plan(work, name, data)


# --- the door ---


class WebSocketDoor:
    """The clients of a service: lets them in, knows them, tells all of them something."""

    def __init__(
        self, face: DaebusWebSocket, registry: Any, dispatcher: Any, engine: Engine, bus: Any, policy: Any
    ) -> None:
        self.face = face
        self.dispatcher = dispatcher
        self.engine = engine
        self._bus = bus
        self._policy = policy
        self.sessions: dict[str, Session] = {}
        self._opening = 0  # clients that ask to come in
        self.stopping = False
        self._stopped_at = 0.0
        self._broadcasting = Lock()  # all clients get all broadcasts in one order
        self.partial = 0  # bytes of unfinished messages
        self._greeted: set[Session] = set()  # those that want to hear of the bus
        connect = [Handler(record) for record in registry.records("socket_connect")]
        self.admitting = Work(Record("socket_connect", "socket_connect", admitting(connect)))
        self._connected = _hooks("on_connect", face.on_connect_handlers)
        self._disconnected = _hooks("on_disconnect", face.on_disconnect_handlers)
        self._disconnected += [Handler(record, CLIENT) for record in registry.records("socket_disconnect")]
        self.gateway: Gateway | None = None
        self.routes: dict[str, list[Route]] = {}
        self.works: list[Work] = []  # the handlers of messages
        self._declare(registry)
        bus.on_change.append(self._bus_changed)

    def _declare(self, registry: Any) -> None:
        """Collect who handles which type of message. Raises `DeclarationError` where two do."""
        for record in registry.records("socket"):
            handler = Handler(record)
            self.routes[record.name] = [Route(record.name, handler)]
            self.works.append(handler.work)
        register = [Handler(record) for record in registry.records("socket_register")]
        if register and "register" in self.routes:
            raise DeclarationError(
                'messages of the type "register" have two handlers: declare socket_register or socket("register")'
            )
        if register:
            self.routes["register"] = [Route("register", handler) for handler in register]
        if self.face.rules is not None:
            from .gateway import Gateway

            self.gateway = Gateway(self.face.rules, self, self._bus)
            for name, route in self.gateway.routes.items():
                if name in self.routes:
                    raise DeclarationError(
                        f"messages of the type {name!r} have two handlers: ws.gateway() and socket({name!r})"
                    )
                self.routes[name] = [route]
        self.routes[HELLO] = [_Greeting(self)]

    def stop(self) -> None:
        """Let nobody in any more: the service stops. On the reader."""
        if not self._stopped_at:
            self.stopping = True
            self._stopped_at = monotonic()
            if self.gateway is not None:
                self.gateway.stop()

    @property
    def unfinished(self) -> int:
        """How many clients have yet to take their goodbye, for as long as that is waited for."""
        return len(self.sessions) if monotonic() - self._stopped_at < FAREWELL else 0

    # --- letting in ---

    def session(self, connection: Connection, request: Any) -> Session:
        """Return what a client will be once it is in."""
        return Session(self, connection, request)

    def upgrade(self, connection: Connection, request: Any) -> Iterable[Item]:
        """Take a request to become a WebSocket; return the call that decides. On the reader."""
        refusal = self._refusal(connection, request)
        if refusal is not None:
            self._send_away(connection, refusal)
            return ()
        self._opening += 1
        return ((None, Admission(self, connection, request).plan, "socket_connect", b""),)

    def _refusal(self, connection: Connection, request: Any) -> HttpError | None:
        headers, face, policy = request.headers, self.face, self._policy
        if face.path is not None and request.path != face.path:
            return HttpError(404, "there is no WebSocket at this path")
        if request._head.version != "1.1":
            return HttpError(400, "a WebSocket begins with HTTP/1.1")
        if headers.get("sec-websocket-version") != "13":
            return HttpError(426, "the WebSocket version must be 13", (("Sec-WebSocket-Version", "13"),))
        if not _is_key(headers.get("sec-websocket-key", "")):
            return HttpError(400, "the Sec-WebSocket-Key must be 16 bytes in base64")
        origin, host, cors = headers.get("origin"), request._head.host, policy.cors or _NO_CORS
        if foreign_socket(origin, host, connection.secure, policy.ports, cors, face.allowed_origins):
            return HttpError(403, "a page of another origin may not connect; see allowed_origins")
        if self.stopping:
            return HttpError(503, "the service takes no clients now")
        if len(self.sessions) + self._opening >= face.max_clients:
            return HttpError(503, "too many clients", (("Retry-After", "1"),))
        return None

    def _send_away(self, connection: Connection, error: HttpError) -> None:
        body = dumps({"error": str(error)}).encode()
        headers = [("Content-Type", "application/json"), *error.headers]
        framing = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        connection.write(response_head(error.http_status, _date(), headers, framing) + body)
        connection.close()
        text = f"A WebSocket client from {connection.peer} was refused ({error.http_status}): {error}"
        _seldom.log(logging.WARNING, ("refused", error.http_status), one_line(text))

    def decided(self, admission: Admission, refusal: HttpError | None) -> None:
        """Go on with a client when it is decided. Any thread."""
        settle = partial(self._settle, admission, refusal)
        if self.engine.reads_here:
            settle()
        else:
            self.engine.soon(settle)

    def _settle(self, admission: Admission, refusal: HttpError | None) -> None:
        """Let a client in, or send it away. On the reader."""
        self._opening -= 1
        connection, request = admission.connection, admission.request
        if refusal is None and request.client_id in self.sessions:
            refusal = HttpError(409, "a client of this name is connected")
        if refusal is None and self.stopping:
            refusal = HttpError(503, "the service is stopping")
        if refusal is not None:
            self._send_away(connection, refusal)
        elif connection.closed or connection.half_closed:
            connection.abort()
            self._call(self._disconnected, request, {"code": VANISHED, "reason": ""})
        else:
            self._open(admission, request.websocket)

    def _open(self, admission: Admission, session: Session) -> None:
        connection = session.connection
        key = admission.http.headers["sec-websocket-key"]
        headers = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_token(key)))
        before: Any = connection.protocol
        connection.deadline = monotonic() + self.face.ping_interval
        connection.protocol = session
        self.sessions[session.client_id] = session
        connection.write(response_head(101, _date(), headers, ""))
        for data in admission.first:
            session.transmit(data)
        response = Quiet(WebSocketResponse(session))
        self.engine.put([HookCall(self, one, admission.request, response).item() for one in self._connected])
        rest = before.take_rest()
        if rest:
            self.engine.put(session.received(rest))

    # --- clients that are in ---

    def broadcast(self, data: bytes) -> int:
        """Send a frame to all; return to how many. Any thread."""
        with self._broadcasting:
            return sum([session.transmit(data) for session in list(self.sessions.values())])

    def left(self, session: Session, how: tuple[int, str]) -> None:
        """A client's connection is closed: nothing of it is left. On the reader."""
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
        self._greeted.discard(session)
        if self.gateway is not None:
            self.gateway.forget(session)
        request = WebSocketRequest(session.client_id, {"type": "disconnect"}, session)
        self._call(self._disconnected, request, {"code": how[0], "reason": how[1]})

    def _call(self, handlers: list[Handler], request: WebSocketRequest, data: dict[str, Any]) -> None:
        request.data = data
        self.engine.put([HookCall(self, handler, request, None).item() for handler in handlers])

    # --- the bus ---

    def greet(self, session: Session) -> None:
        """Tell a client whether Redis is there, and again whenever that changes."""
        if not session.closed:
            self._greeted.add(session)
        session.transmit(plain_frame({"type": "bus", "v": 1, "connected": self._bus.connected}))

    def _bus_changed(self, connected: bool) -> None:
        data = plain_frame({"type": "bus", "connected": connected})
        for session in list(self._greeted):
            session.transmit(data)


class _Greeting(Route):
    """Where a client says who it is."""

    __slots__ = ("_door",)

    def __init__(self, door: WebSocketDoor) -> None:
        self.name = HELLO
        self._door = door

    def turn(self, session: Session) -> Work | None:
        """Return None: the order does not matter."""
        return None

    def plan(self, session: Session, work: Any, name: str, data: bytes) -> Any:
        """Answer; there is no call."""
        if session.read(data) is not None:
            self._door.greet(session)
        session.done(len(data))
        return None


def _hooks(kind: str, functions: list[Callable[..., Any]]) -> list[Handler]:
    return [Handler(Record(kind, kind, function), CLIENT) for function in functions]


def _is_key(text: str) -> bool:
    try:
        return len(a2b_base64(text.encode("ascii"), strict_mode=True)) == 16
    except (NotBase64, UnicodeEncodeError):
        return False


def _date() -> str:
    return http_date(time.gmtime())
