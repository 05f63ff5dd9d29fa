"""WebSocket frames (RFC 6455): bytes to messages, messages to bytes. Pure.

What clients send nearly always - a short message in one frame, arrived whole - is read here, in half a microsecond.
Everything else (parts of frames, messages in several frames, control frames, whatever breaks the rules) is read by
`wsproto`, whose decoder is made when it is needed and let go when it is through: an idle session has none.
"""

from __future__ import annotations

from codecs import getincrementaldecoder

from .errors import TooLarge
from .jsontext import dumps, quote
from .message import MAX_MESSAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from codecs import IncrementalDecoder
    from typing import Any

    from wsproto.frame_protocol import Frame, FrameDecoder

    Event = tuple[int, bytes]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FAULT = -1
"""Kinds of events, as frames number them; a fault is the peer's, and its payload what to close with."""

NORMAL, GOING_AWAY, PROTOCOL_ERROR, NOT_UTF8, POLICY, TOO_LARGE, INTERNAL_ERROR, TRY_LATER = (
    1000, 1001, 1002, 1007, 1008, 1009, 1011, 1013,
)  # fmt: skip
NO_STATUS, VANISHED = 1005, 1006
"""What stands for the code of a close frame that has none, and of a connection that ended without one."""

_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))
_REASON_SIZE = 123
_NOTHING = bytearray()
_WHOLE_TEXT, _WHOLE_BINARY, _MASKED = 0x80 | TEXT, 0x80 | BINARY, 0x80


class Frames:
    """Reads what one client sends. After a close frame, or a fault, it reads nothing more."""

    __slots__ = ("_decoder", "_kind", "_limit", "_message", "_utf8", "ended")

    def __init__(self, limit: int) -> None:
        """`limit` is of a message, in bytes."""
        self._limit = limit
        self._decoder: FrameDecoder | None = None
        self._kind = 0  # of the message of which parts have come, 0: none
        self._message = _NOTHING  # those parts
        self._utf8: IncrementalDecoder | None = None
        self.ended = False

    @property
    def held(self) -> int:
        """The bytes of a message of which parts have come."""
        return len(self._message)

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes as they came; return the messages and control frames that are complete, in order.

        The payload of CLOSE and of FAULT is that of a close frame: `close_reason` reads it.
        """
        events: list[Event] = []
        if self._decoder is None and not self._kind and not self.ended:
            data = self._take_whole(data, events)
        if data and not self.ended:
            self._take_in_parts(data, events)
        return events

    def _take_whole(self, data: bytes, events: list[Event]) -> bytes:
        """Read short messages that are in the data as a whole; return what is left at the first thing else."""
        at, end = 0, len(data)
        while end - at >= 6:
            first, length, start = data[at], data[at + 1] - _MASKED, at + 2
            if first not in (_WHOLE_TEXT, _WHOLE_BINARY) or not 0 <= length <= 126:
                break
            if length == 126:
                length, start = data[start] << 8 | data[start + 1], start + 2
                if length < 126:
                    break
            stop = start + 4 + length
            if stop > end or length > self._limit:
                break
            self._whole(first, unmasked(data[start : start + 4], data[start + 4 : stop]), events)
            if self.ended:
                return b""
            at = stop
        return data[at:]

    def _whole(self, first: int, payload: bytes, events: list[Event]) -> None:
        if first == _WHOLE_TEXT and not _is_utf8(payload):
            self._fail(NOT_UTF8, "a text message must be UTF-8", events)
        else:
            events.append((first & 0x0F, payload))

    def _take_in_parts(self, data: bytes, events: list[Event]) -> None:
        from wsproto.frame_protocol import FrameDecoder, ParseFailed

        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = FrameDecoder(client=False)
        decoder.receive_bytes(data)
        try:
            while not self.ended and (frame := decoder.process_buffer()) is not None:
                self._take(frame, events)
            self._check_announced(decoder, events)
        except ParseFailed as error:
            self._fail(int(error.code), "the frame breaks the rules of RFC 6455", events)
        if self.ended or (decoder.header is None and len(decoder.buffer) == 0):
            self._decoder = None

    def _check_announced(self, decoder: FrameDecoder, events: list[Event]) -> None:
        """Refuse a frame that is going to be too large before it is there."""
        header = decoder.header
        if self.ended or header is None or header.opcode.iscontrol():
            return
        if len(self._message) + header.payload_len - decoder.payload_consumed > self._limit:
            self._too_large(events)

    def _take(self, frame: Frame, events: list[Event]) -> None:
        kind, payload = int(frame.opcode), bytes(frame.payload)  # type: ignore[arg-type]
        if kind == CLOSE:
            self._take_close(payload, events)
        elif kind in (PING, PONG):
            events.append((kind, payload))
        else:
            self._take_part(kind, payload, frame.frame_finished and frame.message_finished, events)

    def _take_part(self, kind: int, payload: bytes, finished: bool, events: list[Event]) -> None:
        if bool(kind) is bool(self._kind):
            self._fail(PROTOCOL_ERROR, "a frame begins or goes on with a message out of turn", events)
            return
        if kind:
            self._kind, self._message = kind, bytearray()
            self._utf8 = getincrementaldecoder("utf-8")() if kind == TEXT else None
        self._message += payload
        if len(self._message) > self._limit:
            self._too_large(events)
        elif not self._is_text(payload, finished):
            self._fail(NOT_UTF8, "a text message must be UTF-8", events)
        elif finished:
            events.append((self._kind, bytes(self._message)))
            self._forget()

    def _is_text(self, payload: bytes, finished: bool) -> bool:
        if self._utf8 is not None:
            try:
                self._utf8.decode(payload, finished)
            except UnicodeDecodeError:
                return False
        return True

    def _take_close(self, payload: bytes, events: list[Event]) -> None:
        code = int.from_bytes(payload[:2], "big")
        if payload and (len(payload) == 1 or not (code in _CLOSE_CODES or 3000 <= code <= 4999)):
            self._fail(PROTOCOL_ERROR, "the code of the close frame is none", events)
        elif not _is_utf8(payload[2:]):
            self._fail(NOT_UTF8, "the reason of the close frame must be UTF-8", events)
        else:
            events.append((CLOSE, payload))
            self._end()

    def _too_large(self, events: list[Event]) -> None:
        self._fail(TOO_LARGE, f"a message may have {self._limit:,} bytes", events)

    def _fail(self, code: int, reason: str, events: list[Event]) -> None:
        events.append((FAULT, close_payload(code, reason)))
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._forget()

    def _forget(self) -> None:
        self._kind, self._message, self._utf8 = 0, _NOTHING, None


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def unmasked(key: bytes, data: bytes) -> bytes:
    """Undo a client's masking: combine each byte with one of the key's four."""
    size = len(data)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


def load() -> None:
    """Import what reads frames, when nobody waits: it takes 50 ms on a small machine."""
    import wsproto.frame_protocol  # noqa: F401 - to have it


def accept_token(key: str) -> str:
    """Return what proves that the server has understood a handshake with this key."""
    from wsproto.utilities import generate_accept_token

    return generate_accept_token(key.encode("ascii")).decode("ascii")


# --- out ---


def frame(kind: int, payload: bytes) -> bytes:
    """Return a frame with all of a message, or a control frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | kind, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | kind, 126, size >> 8, size & 0xFF)) + payload
    return bytes((0x80 | kind, 127)) + size.to_bytes(8, "big") + payload


def text_frame(text: str) -> bytes:
    """Return a frame with a text. Raises `TooLarge`."""
    payload = text.encode()
    if len(payload) > MAX_MESSAGE:
        raise TooLarge(f"the message has {len(payload):,} bytes; the limit is {MAX_MESSAGE:,}")
    return frame(TEXT, payload)


def message_frame(message_type: str, data: Any, **more: Any) -> bytes:
    """Return the frame of a message: its type, its data, further members. Raises `Unserialisable` or `TooLarge`."""
    if not isinstance(message_type, str):
        raise TypeError(f"the type of a message is text, not {message_type!r}")
    rest = "".join([f",{quote(name)}:{dumps(value)}" for name, value in more.items()]) if more else ""
    return text_frame(f'{{"type":{quote(message_type)},"data":{dumps(data)}{rest}}}')


def plain_frame(members: dict[str, Any]) -> bytes:
    """Return the frame of a JSON object."""
    return text_frame(dumps(members))


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame; the reason is cut to what fits."""
    text = reason.encode()[:_REASON_SIZE].decode("utf-8", "ignore").encode()
    return code.to_bytes(2, "big") + text


def close_reason(payload: bytes) -> tuple[int, str]:
    """Return the code and the reason of a close frame."""
    if len(payload) < 2:
        return NO_STATUS, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")


def is_close_code(code: object) -> bool:
    """Say whether a server may send this code."""
    return type(code) is int and (code in _CLOSE_CODES or 3000 <= code <= 4999)
