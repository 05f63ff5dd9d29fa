"""A WebSocket client of a service under test."""

from __future__ import annotations

import re
from collections import deque
from itertools import count

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from ..errors import BadMessage, error_from_wire
from ..jsontext import dumps, loads
from .web import read_answer, request_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .runtime import Runtime
    from .web import MemoryConnection

_HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def _decoded(text: str) -> Any:
    """Return the value of a message, or its text if that is no JSON."""
    try:
        return loads(text)
    except BadMessage:
        return text


class NothingReceived(AssertionError):
    """Nothing more has come, and nothing is under way."""


class Refused(Exception):
    """The service did not let a WebSocket client in: `status` and the text say why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class WebSocketClient:
    """One client. `closed` is the code and the reason that it was closed with, None while it is open."""

    def __init__(self, runtime: Runtime, connection: MemoryConnection) -> None:
        self._runtime = runtime
        self._connection = connection
        self._frames = FrameProtocol(client=True, extensions=[])
        self._text = ""
        self._received: deque[Any] = deque()
        self._numbers = count(1)
        self.closed: tuple[int, str] | None = None

    def _connect(self, target: str, headers: dict[str, str]) -> None:
        self._give(request_bytes("GET", target, {**_HANDSHAKE, **headers}, None))
        data = self._connection.taken()
        if not re.match(rb"HTTP/1\.1 101 ", data):
            answer = read_answer(data, "GET")
            raise Refused(answer.status, answer.text)
        self._frames.receive_bytes(data.partition(b"\r\n\r\n")[2])
        self._take_frames()

    def send(self, message_type: str, data: Any = None, **more: Any) -> None:
        """Send a message and have it handled. `more` are further fields, `request_id` above all."""
        self.send_raw(dumps({"type": message_type, "data": data, **more}))

    def send_raw(self, message: str | bytes) -> None:
        """Send text, or bytes, as it is."""
        if self.closed is not None:
            raise ConnectionError(f"the WebSocket is closed: {self.closed[0]} {self.closed[1]}")
        self._give(self._frames.send_data(message, fin=True))

    def receive(self) -> Any:
        """Return the next message, decoded. Raises `NothingReceived` if there is none."""
        self._look()
        if not self._received:
            end = f": it was closed with {self.closed[0]} {self.closed[1]!r}" if self.closed else ""
            raise NothingReceived(f"no message has come on this WebSocket{end}")
        return self._received.popleft()

    @property
    def messages(self) -> list[Any]:
        """The messages that have come and were not received yet."""
        self._look()
        return list(self._received)

    def call(self, service: str, action: str, payload: Any = None, *, timeout: float | None = None) -> Any:
        """Call an action through the gateway, as a browser does; return the payload or raise the error.

        What else comes meanwhile, progress above all, is received later.
        """
        request_id = f"test-{next(self._numbers)}"
        data = {"action": action, "payload": {} if payload is None else payload, "request_id": request_id}
        if timeout is not None:
            data["timeout"] = timeout
        self.send_raw(dumps({"type": "publish", "channel": service, "data": data}))
        answer = self._answer_to(request_id)
        if answer is None:
            self._runtime.let_pass(lambda: self._answer_to(request_id, take=False) is not None)
            answer = self._answer_to(request_id)
        if answer is None:
            raise NothingReceived(f"the gateway has not answered the call of {action!r}")
        if answer.get("success"):
            return answer["data"]
        raise error_from_wire(str(answer.get("error")), answer.get("code"), answer.get("error_id"))

    def _answer_to(self, request_id: str, *, take: bool = True) -> dict[str, Any] | None:
        self._look()
        for message in self._received:
            named = isinstance(message, dict) and message.get("request_id") == request_id
            if named and message.get("type") in ("response", "error"):
                if take:
                    self._received.remove(message)
                return dict(message)
        return None

    def subscribe(self, channel: str) -> None:
        """Hear a channel through the gateway: its messages are of the type `channel_message`."""
        self.send_raw(dumps({"type": "subscribe", "channel": channel}))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye."""
        if self.closed is None:
            self.closed = (code, reason)
            self._give(self._frames.close(code, reason or None))

    def vanish(self) -> None:
        """Be gone without a word, as a client whose battery is empty."""
        self.closed = self.closed or (1006, "")
        self._runtime.on_worker(self._connection.dispose)

    def _give(self, data: bytes | bytearray) -> None:
        self._runtime.on_worker(lambda: self._connection.receive(bytes(data)))
        self._look()

    def _look(self) -> None:
        self._runtime.on_worker(self._read)

    def _read(self) -> None:
        data = self._connection.taken()
        if data and not data.startswith(b"HTTP/"):
            self._frames.receive_bytes(data)
            self._take_frames()
        elif data:
            self._connection.sent[:0] = data  # the answer to the handshake
        if self._connection.closed and self.closed is None:  # without a word
            self.closed = (1006, "")

    def _take_frames(self) -> None:
        for frame in self._frames.received_frames():
            payload: Any = frame.payload
            if frame.opcode is Opcode.PING:
                self._connection.receive(bytes(self._frames.pong(payload)))
            elif frame.opcode is Opcode.CLOSE:
                self._take_close(*payload)
            elif frame.opcode in (Opcode.TEXT, Opcode.CONTINUATION):
                self._text += payload
                if frame.message_finished:
                    self._received.append(_decoded(self._text))
                    self._text = ""

    def _take_close(self, code: int, reason: str | None) -> None:
        if self.closed is None:
            self.closed = (int(code), reason or "")
            self._connection.receive(bytes(self._frames.close(CloseReason.NORMAL_CLOSURE, None)))

    def __enter__(self) -> WebSocketClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
