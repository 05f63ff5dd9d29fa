"""The TCP connections of the HTTP and WebSocket doors: read by the reader (see `engine`), written by any thread.

Everything here is bounded: how many connections there are, how long a client may take nothing, how much it may
leave untaken. What the bytes mean is the business of a connection's protocol.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections import deque
from threading import Event, Lock
from time import monotonic

from .errors import ConfigurationError
from .link import STARVED
from .log import Seldom, logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any
    from typing import Protocol as TypingProtocol

    from .engine import Engine, Item
    from .exchange import OpenFile

    class Protocol(TypingProtocol):
        """What the bytes of a connection mean. All of it is called on the reader."""

        @property
        def expendable(self) -> int:
            """2: has never said anything whole; 1: idle; 0: at work. The higher, the sooner it is evicted."""

        @property
        def awaits_last(self) -> bool:
            """Whether the service stops, and this one may ask once more."""

        def received(self, data: bytes) -> Iterable[Item]:
            """Take bytes; return what is to be run."""

        def ended(self) -> None:
            """The peer has closed its sending side."""

        def drained(self) -> None:
            """All that was written has been sent."""

        def expired(self, now: float) -> None:
            """The connection's deadline has passed."""

        def gone(self) -> None:
            """The connection is closed. Called once."""

        def stopping(self) -> None:
            """The service takes nothing more."""


CHECK_PERIOD = 1.5
"""Seconds between two looks at all deadlines."""

READ_SIZE = 32 * 1024
"""Bytes that are read from a connection at a time."""

PORTION = 256 * 1024
"""Bytes of a file that are sent at a time, so that others get their turn."""

STALLED = 5.0
"""Seconds after which a client that takes nothing may have to give its place to another one."""

LINGER = 2.0
"""Seconds that a peer has to close its side after we closed ours. Closing at once would reset the connection if
something of the peer's is unread, and take the answer that says why from it."""

BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel's own limit (net.core.somaxconn) may be lower."""

ACCEPTS = 64
"""Connections taken from a listening socket at a time, so that established ones get their turn."""

UNSENT_LIMIT = 64 * 1024 * 1024
"""Bytes that may wait to be sent on all connections together; beyond, those that owe most are closed."""

_OPEN, _CLOSING, _LINGERING, _CLOSED = range(4)

_seldom = Seldom()


class _Portion:
    """A part of a file that is to be sent."""

    __slots__ = ("file", "left", "offset")

    def __init__(self, file: OpenFile, offset: int, length: int) -> None:
        self.file = file
        self.offset = offset
        self.left = length

    def send(self, connection: socket.socket) -> bool:
        """Send one portion; whether all is sent. Raises `OSError` if the file has become shorter."""
        if self.left:
            sent = os.sendfile(connection.fileno(), self.file.descriptor, self.offset, min(self.left, PORTION))
            if sent == 0:
                raise OSError(errno.EIO, "the file has become shorter")
            self.offset += sent
            self.left -= sent
        return not self.left


class Connection:
    """One connection. `deadline` is in monotonic seconds (infinite: none)."""

    __slots__ = (
        "_engine",
        "_eof",
        "_fd",
        "_lock",
        "_network",
        "_out",
        "_paused",
        "_progress",
        "_socket",
        "_state",
        "_writing",
        "deadline",
        "local",
        "opened",
        "peer",
        "pending",
        "port",
        "protocol",
        "secure",
    )
    protocol: Protocol

    def __init__(self, network: Network, connected: socket.socket, peer: str, local: str | None, port: int = 0) -> None:
        """`local` is the address that the client has reached, None for a unix socket; `port` its port."""
        self._network = network
        self._engine = network.engine
        self._socket = connected
        self._fd = connected.fileno()
        self._lock = Lock()  # of what is written, and of the state
        self._out: deque[bytes | memoryview | _Portion] = deque()
        self._state = _OPEN
        self._eof = False  # the peer has closed its sending side
        self._paused = False
        self._writing = False  # waits for the kernel to take more
        self._progress = 0.0  # when it took something last
        self.pending = 0
        self.peer = peer
        self.local = local
        self.port = port
        self.secure = False
        self.opened = monotonic()
        self.deadline = float("inf")

    @property
    def closed(self) -> bool:
        """Whether nothing that is written now would be sent."""
        return self._state != _OPEN

    @property
    def sending(self) -> bool:
        """Whether the kernel has not taken all that was written."""
        return self._writing

    def took_since(self, when: float) -> bool:
        """Whether the client has taken something since a time (monotonic seconds)."""
        return self._progress > when

    @property
    def expendable(self) -> int:
        """How readily it is closed for another one: 3, only waits for the peer to close; 2, has never said anything
        whole, takes nothing, or has probably gone; 1, idle; 0, at work."""
        if self._state == _LINGERING:
            return 3
        if self._eof:
            return 2
        if self._writing:
            return 2 if monotonic() - self._progress > STALLED else 0
        return self.protocol.expendable

    @property
    def half_closed(self) -> bool:
        """Whether the peer has closed its sending side."""
        return self._eof

    # --- writing (any thread) ---

    def write(self, data: bytes) -> None:
        """Send bytes, without waiting: what the kernel does not take now is sent later."""
        with self._lock:
            if self._state != _OPEN:
                return
            rest: bytes | memoryview = data
            if not self._out:
                sent = self._send(data)
                if sent == len(data):
                    return
                rest = memoryview(data)[sent:]
            self._later(rest, len(rest))

    def write_file(self, file: OpenFile, offset: int, length: int) -> None:
        """Send a part of a file."""
        with self._lock:
            if self._state == _OPEN:
                self._later(_Portion(file, offset, length), 0)

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._engine.soon(self._dispose)
            return len(data)  # nobody will read it

    def _later(self, rest: bytes | memoryview | _Portion, size: int) -> None:
        self._out.append(rest)
        self.pending += size
        if self._network.owe(size):
            self._state = _CLOSING
            self._drop()
            self._engine.soon(self._dispose)
            return
        if not self._writing:
            self._writing = True
            self._progress = monotonic()
            self._watch()

    def _watch(self) -> None:
        """Tell the selector what we wait for (under the lock)."""
        reads = 0 if self._eof or self._paused else select.EPOLLIN
        self._engine.change_socket(self._fd, reads | (select.EPOLLOUT if self._writing else 0))

    def close(self) -> None:
        """Send what is pending, then close. Any thread."""
        with self._lock:
            if self._state != _OPEN:
                return
            self._state = _CLOSING
            if self._out:
                return
        self._finish()

    def abort(self) -> None:
        """Close at once. Any thread."""
        with self._lock:
            if self._state == _CLOSED:
                return
            self._state = _CLOSING
            self._drop()
        self._engine.soon(self._dispose)

    def _finish(self) -> None:
        """All is sent: close our side and wait for the peer's, or close at once if that is closed already."""
        with self._lock:
            if self._state != _CLOSING or self._out:
                return
            if self._eof:
                self._engine.soon(self._dispose)
                return
            self._state = _LINGERING
            self.deadline = monotonic() + LINGER
            try:
                self._socket.shutdown(socket.SHUT_WR)
                if self._paused:
                    self._paused = False
                    self._watch()
            except OSError:
                self._engine.soon(self._dispose)

    def _drop(self) -> None:
        self._network.owe(-self.pending)
        self._out.clear()
        self.pending = 0

    # --- reading (the reader) ---

    def pause(self) -> None:
        """Read nothing more for now."""
        self._set_paused(True)

    def resume(self) -> None:
        """Read again."""
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        with self._lock:
            if self._paused is not paused and self._state == _OPEN:
                self._paused = paused
                self._watch()

    def on_event(self, events: int) -> Iterable[Item]:
        """The socket is ready. Which of reading and closing it is, is found out by trying: the event may be stale."""
        try:
            if events & select.EPOLLOUT:
                self._flush()
            return self._read(events) if events & ~select.EPOLLOUT else ()
        except Exception:  # noqa: BLE001 - one client must not end the service
            logger.error("A connection of %s is closed after a failure", self.peer, exc_info=True)
            self._dispose()
            return ()

    def read_now(self) -> None:
        """Take what has come, without having been told that there is anything."""
        if self._state == _OPEN and not self._eof:
            self._engine.put(self.on_event(select.EPOLLIN))

    def _read(self, events: int) -> Iterable[Item]:
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return ()
        except OSError:
            self._dispose()
            return ()
        if self._state != _OPEN:
            if not data:
                self._end(events)
            return ()
        if data:
            return self.protocol.received(data)
        self._end(events)
        return ()

    def _end(self, events: int) -> None:
        if self._eof or self._state == _LINGERING:
            self._dispose()
            return
        with self._lock:
            self._eof = True
            if self._state != _CLOSED:
                self._watch()
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self._dispose()
        elif self._state == _OPEN:
            self.protocol.ended()

    def _flush(self) -> None:
        drained = False
        try:
            with self._lock:
                if self._writing:
                    self._send_pending()
                    drained = not self._out
                    if drained and self._state != _CLOSED:
                        self._writing = False
                        self._watch()
        except OSError:
            self._dispose()
            return
        if drained and self._state == _CLOSING:
            self._finish()
        elif drained:
            self.protocol.drained()

    def _send_pending(self) -> None:
        while self._out:
            head = self._out[0]
            try:
                if isinstance(head, _Portion):
                    if not head.send(self._socket):
                        self._progress = monotonic()
                        return
                    self._out.popleft()
                else:
                    sent = self._socket.send(head)
                    self.pending -= sent
                    self._network.owe(-sent)
                    self._out.popleft()
                    if sent < len(head):
                        self._out.appendleft(memoryview(head)[sent:])
            except BlockingIOError:
                return
            self._progress = monotonic()

    def look(self, now: float, write_timeout: float) -> None:
        """See to the deadlines."""
        if self._writing and now - self._progress > write_timeout:
            self._dispose()
        elif now >= self.deadline:
            if self._state == _LINGERING:
                self._dispose()
            else:
                self.protocol.expired(now)

    def _dispose(self) -> None:
        with self._lock:
            if self._state == _CLOSED:
                return
            self._state = _CLOSED
            self._drop()
            self._engine.forget_socket(self._fd)
            self._socket.close()
        self._network.forget(self)
        protocol, self.protocol = self.protocol, _NOBODY  # so that nothing holds on to what is over
        protocol.gone()


class _Nobody:
    """The protocol of a connection that is closed."""

    __slots__ = ()

    expendable = 0
    awaits_last = False

    def received(self, _data: bytes) -> Iterable[Item]:
        """Nothing comes any more."""
        return ()

    def nothing(self, _now: float = 0.0) -> None:
        """Nor happens anything."""

    ended = drained = expired = gone = stopping = nothing


_NOBODY = _Nobody()


class Listener:
    """A listening socket; `accepted` makes the protocol of a new connection."""

    held = False  # whether systemd keeps it when the service ends
    is_unix = False

    def __init__(self, host: str, port: int, accepted: Callable[[Connection], Protocol]) -> None:
        self._listen_at(_listen(host, port), accepted)

    def _listen_at(self, listening: socket.socket, accepted: Callable[[Connection], Protocol]) -> None:
        self.accepted = accepted
        self.paused = False
        self.taken = 0  # connections
        self.socket = listening
        name = listening.getsockname()
        self.is_unix = listening.family == socket.AF_UNIX
        self.host: str = os.fsdecode(name) if self.is_unix else name[0]
        self.port: int = 0 if self.is_unix else name[1]

    def __str__(self) -> str:
        return f"unix:{self.host}" if self.is_unix else _with_port((self.host, self.port))

    def is_neglected(self, taken: int) -> bool:
        """Whether connections wait though none was taken since so many were. Any thread.

        That there is no descriptor for them is no excuse: what never gives one back has a leak.
        """
        return self.taken == taken and _somebody_waits(self.socket)


class HeldListener(Listener):
    """A listening socket that systemd holds."""

    held = True

    def __init__(self, listening: socket.socket, accepted: Callable[[Connection], Protocol]) -> None:
        self._listen_at(listening, accepted)


def _with_port(address: Any) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, number, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "that is no name of a host"
        raise ConfigurationError(f"cannot listen on {host!r}: {why}; give an address of this machine") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigurationError(_why_not(host, port, error)) from None
    return listening


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken: another program listens there; stop it or choose another port"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used: ports below 1024 need the capability CAP_NET_BIND_SERVICE"
    return f"cannot listen on port {port} of {host!r}: {error.strerror}"


def _somebody_waits(listening: socket.socket) -> bool:
    descriptor = listening.fileno()
    if descriptor < 0:  # it is closed
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


class Network:
    """The connections of a service and its listening sockets."""

    def __init__(self, engine: Engine, max_connections: int, write_timeout: float, refusal: bytes) -> None:
        """`refusal` is what a connection too many is told."""
        self.engine = engine
        self._max_connections = max_connections
        self._write_timeout = write_timeout
        self._refusal = refusal
        self._connections: dict[Connection, None] = {}  # in the order in which they came
        self._listeners: list[Listener] = []
        self._serving = False
        self._unsent = 0
        self._unsent_lock = Lock()
        self._dunned = False  # the debtors are about to be looked at
        self._echo: Echo | None = None
        self.refused = 0
        self.evicted = 0

    @property
    def connections(self) -> list[Connection]:
        """The open connections. On the reader."""
        return list(self._connections)

    def __len__(self) -> int:
        return len(self._connections)

    def listen(self, host: str, port: int, accepted: Callable[[Connection], Protocol]) -> Listener:
        """Bind a port. Raises `ConfigurationError` if that cannot be."""
        return self._listen_at(Listener(host, port, accepted))

    def adopt(self, listening: socket.socket, accepted: Callable[[Connection], Protocol]) -> Listener:
        """Listen at a socket that systemd holds."""
        return self._listen_at(HeldListener(listening, accepted))

    def _listen_at(self, listener: Listener) -> Listener:
        self._listeners.append(listener)
        return listener

    @property
    def listeners(self) -> list[Listener]:
        """Where it listens."""
        return list(self._listeners)

    @property
    def serves(self) -> bool:
        """Whether connections are accepted."""
        return self._serving

    def echo(self) -> Echo:
        """Return a connection to ourselves, which is closed with the others. Once."""
        self._echo = Echo(self)
        return self._echo

    @property
    def is_held(self) -> bool:
        """Whether systemd keeps the ports when the service ends."""
        return any(listener.held for listener in self._listeners)

    def serve(self) -> None:
        """Begin to accept. On the reader; a second time, or when it stops already, it does nothing."""
        if self._serving:
            return
        self._serving = True
        for listener in self._listeners:
            fd = listener.socket.fileno()
            self.engine.watch_socket(fd, select.EPOLLIN, _Accept(self, listener))
        self.engine.every(CHECK_PERIOD, self._check)

    # --- on the reader ---

    def accept(self, listener: Listener) -> None:
        """Take the connections that wait."""
        for _ in range(ACCEPTS):
            try:
                connected, address = listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in STARVED:
                    continue  # the client has gone again
                if not _somebody_waits(listener.socket):
                    return  # without a descriptor, accept fails all the same
                if not self._make_room(error.strerror):
                    self._pause(listener, error.strerror)
                    return
            else:
                listener.taken += 1
                self._take(listener, connected, address)

    def _take(self, listener: Listener, connected: socket.socket, address: Any) -> None:
        connected.setblocking(False)
        if len(self._connections) >= self._max_connections and not self._make_room("too many connections"):
            self.refused += 1
            try:
                connected.send(self._refusal)
                connected.shutdown(socket.SHUT_WR)
                connected.recv(READ_SIZE)  # unread bytes would make closing a reset, which takes the answer away
            except OSError:
                pass
            connected.close()
            return
        try:
            connection = Connection(self, connected, *_ends(listener, connected, address), listener.port)
            self.engine.watch_socket(connected.fileno(), select.EPOLLIN, connection.on_event)
        except OSError:
            connected.close()
            return
        connection.protocol = listener.accepted(connection)
        self._connections[connection] = None

    def _make_room(self, why: str | None) -> bool:
        """Close the connection that is most expendable; False if all are at work."""
        worst: Connection | None = None
        worth = 0
        for connection in self._connections:
            expendable = connection.expendable
            if expendable > worth:  # of two alike the older: a client that has just come gets its chance
                worst, worth = connection, expendable
                if worth == 3:
                    break
        if worst is None:
            return False
        self.evicted += 1
        _seldom.log(logging.WARNING, "evicted", f"Idle or unfinished connections are being closed: {why}")
        worst._dispose()
        return True

    def _pause(self, listener: Listener, why: str | None) -> None:
        _seldom.log(logging.ERROR, "paused", f"No connection can be accepted for a moment: {why}")
        listener.paused = True
        self.engine.change_socket(listener.socket.fileno(), 0)

    def _check(self, now: float) -> None:
        for listener in self._listeners:
            if listener.paused:
                listener.paused = False
                self.engine.change_socket(listener.socket.fileno(), select.EPOLLIN)
        for connection in list(self._connections):
            connection.look(now, self._write_timeout)

    def owe(self, size: int) -> bool:
        """Count bytes that wait to be sent, or (negative) do so no longer; whether that is far too much. Any thread."""
        with self._unsent_lock:
            self._unsent += size
            too_much = self._unsent > UNSENT_LIMIT
            dun = too_much and not self._dunned
            self._dunned = self._dunned or dun
        if dun:
            self.engine.soon(self._close_debtors)
        return size > 0 and self._unsent > 2 * UNSENT_LIMIT

    def _close_debtors(self) -> None:
        """Close those that owe most, until what waits is bearable."""
        self._dunned = False
        recently = monotonic() - 1.0
        for connection in sorted(self._connections, key=lambda one: (one.took_since(recently), -one.pending)):
            if self._unsent <= UNSENT_LIMIT or not connection.pending:
                return
            _seldom.log(logging.WARNING, "debtors", f"Closing {connection.peer}: it does not take what it asked for")
            connection._dispose()

    def forget(self, connection: Connection) -> None:
        """Leave a closed connection out."""
        self._connections.pop(connection, None)

    def stop_listening(self) -> None:
        """Accept nothing more, and tell all protocols so. On the reader.

        What waits to be accepted is taken still, or left to the service's next process if systemd keeps the port.
        """
        for listener in self._listeners:
            while not listener.held and _somebody_waits(listener.socket) and len(self) < self._max_connections:
                self.accept(listener)
        self._close_listeners()
        self.say_stopping()

    def say_stopping(self) -> None:
        """Tell all protocols that the service stops. On the reader."""
        for connection in list(self._connections):
            connection.protocol.stopping()

    def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            if self._serving:
                self.engine.forget_socket(listener.socket.fileno())
            listener.socket.close()

    # --- at the end ---

    def close(self, patience: float) -> None:
        """Close everything, while the reader still reads: nobody else may close what it waits for."""
        if not self._serving and self._echo is None:
            self._close_listeners()
            return
        closed = Event()
        self.engine.soon(lambda: self._close_all(closed))
        closed.wait(patience)

    def _close_all(self, closed: Event) -> None:
        self._close_listeners()
        for connection in list(self._connections):
            connection._dispose()
        if self._echo is not None:
            self._echo.close()
        closed.set()


class Echo:
    """A connection to ourselves, to see whether what arrives on connections is read, run and answered."""

    expendable = 0
    awaits_last = False

    def __init__(self, network: Network) -> None:
        self._far, near = socket.socketpair()
        self._far.setblocking(False)
        near.setblocking(False)
        self._connection = Connection(network, near, "the watchdog", None)
        self._connection.protocol = self
        self._asked = 0  # bytes sent; counted on the reader alone
        self._heard = 0  # those that have arrived at the near end; on the reader, too
        self._answered = 0  # those that have come back; on the asking thread alone
        network.engine.watch_socket(near.fileno(), select.EPOLLIN, self._connection.on_event)

    def ask(self) -> None:
        """Send a byte that is to come back. On the reader."""
        try:
            self._asked += self._far.send(b"?")
        except BlockingIOError:  # so many wait to be answered that no more fit
            pass
        except OSError:  # it is closed: this one will never come back
            self._asked += 1

    @property
    def heard(self) -> bool:
        """Whether all have been read. Any thread."""
        return self._heard == self._asked

    def answered(self) -> bool:
        """Whether all have come back. One thread at a time."""
        try:
            self._answered += len(self._far.recv(4096))
        except OSError:  # none has
            pass
        return self._answered == self._asked

    def close(self) -> None:
        """Close both ends. On the reader."""
        self._connection._dispose()
        self._far.close()

    # --- the protocol of the near end ---

    def received(self, data: bytes) -> Iterable[Item]:
        """Have the engine send it back."""
        self._heard += len(data)
        return ((None, self._plan, "watchdog", data),)

    def _plan(self, _work: object, _channel: str, data: bytes) -> None:
        self._connection.write(data)

    def nothing(self, _now: float = 0.0) -> None:
        """It has no deadline and no end."""

    ended = drained = expired = gone = stopping = nothing


def _ends(listener: Listener, connected: socket.socket, address: Any) -> tuple[str, str | None]:
    """Return who is at the other end of a connection, and which address of ours it has reached."""
    if listener.is_unix:
        return str(listener), None
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _with_port(address), connected.getsockname()[0]


class _Accept:
    """What the selector calls when connections wait."""

    __slots__ = ("_listener", "_network")

    def __init__(self, network: Network, listener: Listener) -> None:
        self._network = network
        self._listener = listener

    def __call__(self, _events: int) -> Iterable[Item]:
        self._network.accept(self._listener)
        return ()
