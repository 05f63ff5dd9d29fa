"""What the WebSocket tests share: the frames of a client, and a door with a real engine behind fake connections."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from types import SimpleNamespace
from typing import Any

from daebus import loop
from daebus.app import Daebus
from daebus.dispatch import Dispatcher
from daebus.engine import Engine
from daebus.errors import RedisUnavailable
from daebus.exchange import HttpRequest
from daebus.http1 import read_head
from daebus.websocket import DaebusWebSocket
from daebus.wsdoor import Session, WebSocketDoor
from daebus.wsframes import CLOSE, PING, PONG, TEXT, close_reason, unmasked
from tests.support import MS, wait_for

SOON = 5000 * MS
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}


def masked(kind: int, payload: bytes = b"", *, fin: bool = True, key: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((fin << 7 | kind, 0x80 | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", fin << 7 | kind, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", fin << 7 | kind, 0x80 | 127, size)
    return head + key + unmasked(key, payload)


class Incoming:
    """Takes the frames that a server sends apart. They are never masked, and never in parts."""

    def __init__(self) -> None:
        self.data = b""
        self.frames: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> None:
        self.data += data
        while (size := self._length()) is not None:
            start, length = size
            self.frames.append((self.data[0] & 0x0F, self.data[start : start + length]))
            assert self.data[0] & 0xF0 == 0x80
            self.data = self.data[start + length :]

    def _length(self) -> tuple[int, int] | None:
        data = self.data
        if len(data) < 2:
            return None
        length, start = data[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(data) < start:
                return None
            length = int.from_bytes(data[2:start], "big")
        return (start, length) if len(data) >= start + length else None


class FakeConnection:
    """A connection whose client is the test: what is written is kept; how much the client takes, the test says."""

    def __init__(self, engine: Engine, headers: dict[str, str] | None = None, target: str = "/") -> None:
        self._engine = engine
        self._lock = Lock()
        self._incoming = Incoming()
        self._left = False
        fields = {"Host": "127.0.0.1:8080", **HANDSHAKE, **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        self.request = HttpRequest(read_head(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode()), b"", "127.0.0.1:5000")
        self.rest = b""  # what came with the handshake
        self.protocol: Any = SimpleNamespace(take_rest=lambda: self.rest, gone=lambda: None)
        self.head = b""
        self.takes = True  # whether the client reads
        self.pending = 0
        self.deadline = 0.0
        self.closed = self.half_closed = self.aborted = self.paused = False
        self.secure = False
        self.peer, self.local, self.port = "127.0.0.1:5000", "127.0.0.1", 8080

    # what the door uses

    def write(self, data: bytes) -> None:
        with self._lock:
            if self.closed:
                return
            if not self.takes:
                self.pending += len(data)
            if data.startswith(b"HTTP/1.1 "):
                head, blank, data = data.partition(b"\r\n\r\n")
                self.head = head + blank
                if not head.startswith(b"HTTP/1.1 101"):
                    self.head += data
                    return
            self._incoming.feed(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._engine.soon(self._gone)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def _gone(self) -> None:
        if not self._left:
            self._left = True
            self.protocol.gone()

    # what the test asks

    @property
    def status(self) -> int:
        """The status of the answer to the handshake, 0 before it came."""
        return int(self.head.split(b" ")[1]) if self.head else 0

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        with self._lock:
            return list(self._incoming.frames)

    @property
    def messages(self) -> list[Any]:
        """The JSON of the texts that came."""
        return [json.loads(payload) for kind, payload in self.frames if kind == TEXT]

    @property
    def controls(self) -> list[tuple[int, bytes]]:
        return [(kind, payload) for kind, payload in self.frames if kind in (PING, PONG)]

    @property
    def goodbye(self) -> tuple[int, str] | None:
        """Code and reason of the close frame."""
        return next((close_reason(payload) for kind, payload in self.frames if kind == CLOSE), None)


class FakeBus:
    """The bus as the door sees it."""

    def __init__(self, service: str = "svc") -> None:
        self.service = service
        self.connected = True
        self.full = False
        self.on_change: list[Callable[[bool], None]] = []
        self.plans: dict[str, tuple[Any, Any]] = {}
        self.published: list[tuple[str, Any]] = []
        self.delivered: list[tuple[str, dict[str, Any], Callable[[Any], None]]] = []

    def plan(self, channel: str, plan: Any, work: Any = None) -> None:
        self.plans[channel] = (plan, work)

    def publish(self, channel: str, data: bytes) -> bool:
        self.published.append((channel, json.loads(data)))
        return not self.full

    def deliver(self, channel: str, data: bytes, receipt: Callable[[Any], None]) -> bool:
        if not self.connected:
            raise RedisUnavailable("Redis cannot be reached")
        self.delivered.append((channel, json.loads(data), receipt))
        return not self.full

    def flush(self) -> None:
        pass

    def change(self, *, connected: bool) -> None:
        self.connected = connected
        for tell in self.on_change:
            tell(connected)


class Client:
    """A client that is in, or asked to be."""

    def __init__(self, room: Room, connection: FakeConnection) -> None:
        self._room = room
        self.connection = connection

    @property
    def session(self) -> Session:
        session = self.connection.protocol
        assert isinstance(session, Session)
        return session

    @property
    def name(self) -> str:
        return self.session.client_id

    @property
    def messages(self) -> list[Any]:
        return self.connection.messages

    def raw(self, data: bytes) -> None:
        """Have bytes arrive."""
        engine = self._room.engine
        self._room.on_reader(lambda: engine.put(self.session.received(data)))

    def say(self, message: Any, kind: int = TEXT) -> None:
        """Send a message: JSON, unless it is bytes."""
        self.raw(masked(kind, message if isinstance(message, bytes) else json.dumps(message).encode()))

    def hears(self, count: int) -> list[Any]:
        """The messages, when there are so many."""
        wait_for(lambda: len(self.messages) >= count, SOON, lambda: str(self.messages))
        return self.messages

    def asks(self, message: Any) -> Any:
        """Send a message and return the next one that comes."""
        before = len(self.messages)
        self.say(message)
        return self.hears(before + 1)[before]

    def leaves(self) -> None:
        """Vanish without a word."""
        self._room.on_reader(self.connection.close)
        wait_for(lambda: self.session.client_id not in self._room.door.sessions, SOON)


class Room:
    """A door with all that is behind it but Redis and a network."""

    def __init__(self, app: Daebus, ws: DaebusWebSocket, max_workers: int = 4) -> None:
        self.app = app
        self.ws = ws
        self.bus = FakeBus()
        self.wakes = Event()
        self._stop = Event()
        self.engine = Engine(max_workers, lambda: None, self.wakes.set)
        self.dispatcher = Dispatcher("svc", app.records("action"), self.bus.flush)
        self.dispatcher.start_coroutine = lambda coroutine: loop.shared().start(coroutine)
        self.dispatcher.resume = self.engine.resume
        policy = SimpleNamespace(cors=None, ports=frozenset({8080, 8081}))
        try:
            self.door: WebSocketDoor = ws.open(app, self.dispatcher, self.engine, self.bus, policy)
        except Exception:
            self.engine.stop()
            raise

    def on_reader(self, errand: Callable[[], Any]) -> Any:
        """Run something on the reader, and return what it returns."""
        done, results = Event(), []

        def run() -> None:
            results.append(errand())
            done.set()

        self.engine.soon(run)
        assert done.wait(SOON)
        return results[0]

    def knock(self, target: str = "/", rest: bytes = b"", /, **headers: str) -> Client:
        """Ask to come in; an underscore in a header's name stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = FakeConnection(self.engine, named, target)
        connection.rest = rest
        upgrade: Any = self.door.upgrade
        self.on_reader(lambda: self.engine.put(upgrade(connection, connection.request)))
        return Client(self, connection)

    def client(self, target: str = "/", **headers: str) -> Client:
        """Come in."""
        client = self.knock(target, b"", **headers)
        wait_for(lambda: client.connection.status, SOON)
        assert client.connection.status == 101, client.connection.head
        return client

    def status(self, target: str = "/", **headers: str) -> int:
        """Ask to come in, and return the status of the answer."""
        client = self.knock(target, b"", **headers)
        wait_for(lambda: client.connection.status, SOON)
        return client.connection.status

    def watch(self) -> None:
        """What the main thread does: see whether a handler stalls."""
        while not self._stop.is_set():
            pause = self.engine.watch()
            self.wakes.wait(pause if pause is not None else 1.0)
            self.wakes.clear()

    def end(self) -> None:
        self._stop.set()
        self.wakes.set()


@contextmanager
def room(app: Daebus, ws: DaebusWebSocket | None = None, **options: Any) -> Iterator[Room]:
    """A room whose engine runs."""
    made = Room(app, ws or app.websocket, **options)
    watcher = Thread(target=made.watch)
    made.engine.start()
    watcher.start()
    try:
        yield made
    finally:
        made.end()
        watcher.join()
        made.engine.stop()
        loop.end(1.0)
