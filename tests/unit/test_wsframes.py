"""RFC 6455, frame by frame: what comes in as it should, what breaks a rule, and what goes out."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from daebus.errors import TooLarge, Unserialisable
from daebus.message import MAX_MESSAGE
from daebus.wsframes import (
    BINARY,
    CLOSE,
    FAULT,
    PING,
    PONG,
    TEXT,
    Frames,
    accept_token,
    close_payload,
    close_reason,
    frame,
    is_close_code,
    message_frame,
    unmasked,
)

LIMIT = 70_000
KEY = b"\x37\xfa\x21\x3d"
CONTINUATION = 0


def masked(kind: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, key: bytes = KEY) -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = bytes((0x80 | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((0x80 | 127,)) + size.to_bytes(8, "big")
    return bytes((fin << 7 | rsv << 4 | kind,)) + length + key + unmasked(key, payload)


def read(*frames_sent: bytes, limit: int = LIMIT, bytewise: bool = False) -> list[tuple[int, bytes]]:
    """What comes out of them, sent at once; or, to compare, byte by byte."""
    data = b"".join(frames_sent)
    frames = Frames(limit)
    pieces = [data[at : at + 1] for at in range(len(data))] if bytewise else [data]
    return [event for piece in pieces for event in frames.receive(piece)]


def fault(*frames_sent: bytes, limit: int = LIMIT) -> int:
    """The code that they are closed with. It is the same byte by byte."""
    codes = set()
    for bytewise in (False, True):
        *_, (kind, payload) = read(*frames_sent, limit=limit, bytewise=bytewise)
        assert kind == FAULT
        codes.add(close_reason(payload)[0])
    (code,) = codes
    return code


def whole(*frames_sent: bytes) -> list[tuple[int, bytes]]:
    """What comes out of them, however they are cut."""
    events = read(*frames_sent)
    assert read(*frames_sent, bytewise=True) == events
    return events


# --- messages ---


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_a_message_of_any_length(kind: int, size: int) -> None:
    payload = b"*" * size
    assert read(masked(kind, payload)) == [(kind, payload)]


def test_messages_that_come_together_or_in_pieces() -> None:
    sent = [masked(TEXT, b'{"n":%d}' % n) for n in range(5)]
    assert whole(*sent) == [(TEXT, b'{"n":%d}' % n) for n in range(5)]


def test_the_mask_is_undone_with_any_key() -> None:
    for key in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04"):
        assert read(masked(TEXT, b"hello, world", key=key)) == [(TEXT, b"hello, world")]
    assert unmasked(KEY, b"\x7f\x9f\x4d\x51\x58") == b"Hello"  # RFC 6455, section 5.7


def test_a_message_in_several_frames_with_control_frames_between() -> None:
    assert whole(
        masked(TEXT, b"one ", fin=False),
        masked(PING, b"p"),
        masked(CONTINUATION, b"two ", fin=False),
        masked(PONG, b"q"),
        masked(CONTINUATION, b"", fin=False),
        masked(CONTINUATION, b"three"),
        masked(TEXT, b"next"),
    ) == [(PING, b"p"), (PONG, b"q"), (TEXT, b"one two three"), (TEXT, b"next")]


def test_a_character_may_be_cut_between_frames() -> None:
    text = "κόσμε 🙂".encode()
    pieces = [text[at : at + 1] for at in range(len(text))]
    frames = [masked(TEXT, pieces[0], fin=False)]
    frames += [masked(CONTINUATION, piece, fin=False) for piece in pieces[1:]]
    assert whole(*frames, masked(CONTINUATION)) == [(TEXT, text)]


def test_binary_need_not_be_text() -> None:
    assert whole(masked(BINARY, b"\xff\x00", fin=False), masked(CONTINUATION, b"\xfe")) == [(BINARY, b"\xff\x00\xfe")]
    assert read(masked(BINARY, b"\xff\x00")) == [(BINARY, b"\xff\x00")]


def test_a_decoder_is_kept_only_while_something_is_incomplete() -> None:
    """An idle client costs no memory for one."""
    frames = Frames(LIMIT)
    data = masked(PING, b"x") + masked(TEXT, b"one", fin=False)
    frames.receive(data[:3])
    assert frames._decoder is not None
    frames.receive(data[3:])
    assert frames._decoder is None
    assert frames.receive(masked(CONTINUATION, b" two")) == [(TEXT, b"one two")]
    assert frames._decoder is None


# --- rules ---


@pytest.mark.parametrize("kind", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_kind_that_does_not_exist(kind: int) -> None:
    assert fault(masked(kind)) == 1002


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("kind", [TEXT, BINARY, PING, CLOSE])
def test_reserved_bits(kind: int, rsv: int) -> None:
    assert fault(masked(kind, b"", rsv=rsv)) == 1002


def test_what_came_before_a_fault_counts_and_what_comes_after_does_not() -> None:
    events = whole(masked(TEXT, b"good"), masked(TEXT, b"bad", rsv=4), masked(PING, b"late"))
    assert [kind for kind, _payload in events] == [TEXT, FAULT]


def test_a_client_must_mask() -> None:
    assert fault(b"\x81\x05Hello") == 1002
    assert fault(masked(TEXT, b"good"), b"\x89\x00") == 1002


@pytest.mark.parametrize("kind", [PING, PONG, CLOSE])
def test_a_control_frame_is_short_and_whole(kind: int) -> None:
    assert fault(masked(kind, b"\x03\xe8" + b"x" * 124)) == 1002
    assert fault(masked(kind, b"", fin=False)) == 1002


@pytest.mark.parametrize(
    "header",
    [
        b"\x81\xfe\x00\x05",
        b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05",
        b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff",
        b"\x81\xff\x80\x00\x00\x00\x00\x01\x00\x00",
    ],
    ids=["16 bits", "64 bits", "64 bits for 16", "the highest bit"],
)
def test_a_length_is_written_as_short_as_it_can_be(header: bytes) -> None:
    assert fault(header + KEY + b"x" * 10) == 1002


@pytest.mark.parametrize(
    "frames",
    [
        (masked(CONTINUATION, b"x"),),
        (masked(CONTINUATION, b"x", fin=False),),
        (masked(TEXT, b"x", fin=False), masked(TEXT, b"y")),
        (masked(BINARY, b"", fin=False), masked(BINARY, b"y", fin=False)),
        (masked(TEXT, b"x", fin=False), masked(CONTINUATION, b"y"), masked(CONTINUATION, b"z")),
    ],
)
def test_parts_of_messages_come_in_their_turn(frames: tuple[bytes, ...]) -> None:
    assert fault(*frames) == 1002


NOT_UTF8 = [
    b"\xff",
    b"\xce",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    "κόσμε".encode() + b"\xed\xa0\x80edited",
]


@pytest.mark.parametrize("payload", NOT_UTF8)
def test_text_is_utf8(payload: bytes) -> None:
    assert fault(masked(TEXT, payload)) == 1007
    assert fault(masked(TEXT, payload[:1], fin=False), masked(CONTINUATION, payload[1:])) == 1007


def test_text_that_cannot_become_utf8_is_refused_before_its_end() -> None:
    assert fault(masked(TEXT, b"ok\xf4\x90", fin=False)) == 1007


# --- sizes ---


def test_the_limit_is_of_a_message_in_bytes() -> None:
    assert read(masked(TEXT, b"x" * 1000), limit=1000) == [(TEXT, b"x" * 1000)]
    assert fault(masked(TEXT, b"x" * 1001), limit=1000) == 1009
    parts = [masked(TEXT, b"x" * 600, fin=False), masked(CONTINUATION, b"x" * 400)]
    assert read(*parts, limit=1000) == [(TEXT, b"x" * 1000)]
    assert fault(masked(TEXT, b"x" * 600, fin=False), masked(CONTINUATION, b"x" * 401), limit=1000) == 1009
    assert fault(masked(TEXT, "é".encode() * 501), limit=1000) == 1009


def test_a_frame_that_will_be_too_large_is_refused_by_its_head() -> None:
    head = b"\x82\xff" + (1 << 62).to_bytes(8, "big") + KEY
    assert fault(head, limit=1000) == 1009
    assert fault(masked(TEXT, b"x" * 600, fin=False), b"\x80\xfe\x01\x91" + KEY, limit=1000) == 1009


def test_control_frames_do_not_count_to_the_limit() -> None:
    assert read(masked(PING, b"x" * 100), masked(TEXT, b"y" * 10), limit=10) == [(PING, b"x" * 100), (TEXT, b"y" * 10)]


def test_many_empty_parts_take_no_memory() -> None:
    frames = Frames(1000)
    frames.receive(masked(TEXT, b"x", fin=False))
    before = sys.getsizeof(frames._message)
    for _ in range(100):
        assert frames.receive(masked(CONTINUATION, b"", fin=False) * 100) == []
    assert sys.getsizeof(frames._message) == before


# --- the end ---


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_codes_that_may_be_sent(code: int) -> None:
    payload = close_payload(code, "bye é")
    assert whole(masked(CLOSE, payload)) == [(CLOSE, payload)]
    assert close_reason(payload) == (code, "bye é")
    assert is_close_code(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_may_not(code: int) -> None:
    assert fault(masked(CLOSE, code.to_bytes(2, "big"))) == 1002
    assert not is_close_code(code)


def test_a_close_frame_may_say_nothing() -> None:
    assert whole(masked(CLOSE)) == [(CLOSE, b"")]
    assert close_reason(b"") == (1005, "")


def test_a_close_frame_of_one_byte_and_one_that_is_not_text() -> None:
    assert fault(masked(CLOSE, b"\x03")) == 1002
    assert fault(masked(CLOSE, b"\x03\xe8\xff")) == 1007


def test_after_a_close_frame_nothing_is_read() -> None:
    assert [kind for kind, _ in whole(masked(CLOSE), masked(TEXT, b"late"), masked(PING))] == [CLOSE]
    frames = Frames(LIMIT)
    frames.receive(masked(CLOSE))
    assert frames.receive(masked(TEXT, b"late")) == []


def test_a_long_reason_is_cut_at_a_character() -> None:
    payload = close_payload(1000, "é" * 100)
    assert len(payload) <= 125
    assert close_reason(payload) == (1000, "é" * 61)


# --- out ---


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_that_goes_out_is_one_that_a_client_reads(size: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frame(TEXT, b"y" * size))
    text = "".join(event.data for event in client.events() if isinstance(event, TextMessage))
    assert text == "y" * size


def test_a_message_goes_out_as_json() -> None:
    assert message_frame("news", {"a": "é"}, request_id=7) == frame(
        TEXT, b'{"type":"news","data":{"a":"\\u00e9"},"request_id":7}'
    )


def test_what_cannot_be_sent() -> None:
    with pytest.raises(Unserialisable):
        message_frame("news", float("nan"))
    with pytest.raises(TooLarge):
        message_frame("news", "x" * MAX_MESSAGE)
    with pytest.raises(TypeError):
        message_frame(5, {})  # type: ignore[arg-type]


def test_the_handshake_of_the_standard() -> None:
    assert accept_token("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


# --- held against wsproto itself ---

PAYLOADS = st.one_of(st.binary(max_size=20), st.text(max_size=10).map(str.encode))
FRAMES = st.builds(
    masked,
    st.sampled_from([CONTINUATION, TEXT, TEXT, TEXT, BINARY, PING, PONG, 3]),
    PAYLOADS,
    fin=st.sampled_from([True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 0, 1]),
    key=st.binary(min_size=4, max_size=4),
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 200), max_size=5))
def test_it_reads_what_wsproto_reads(sent: list[bytes], cuts: list[int]) -> None:
    data = b"".join(sent)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)] or [b""]
    ours = Frames(LIMIT)
    mine = [event for piece in pieces for event in ours.receive(piece)]
    assert [(kind, payload if kind != FAULT else payload[:2]) for kind, payload in mine] == theirs(pieces)


def theirs(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    connection = Connection(ConnectionType.SERVER)
    got: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    for piece in pieces:
        connection.receive_data(piece)
        for event in connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                data = event.data
                parts.append(data.encode() if isinstance(data, str) else bytes(data))
                if event.message_finished:
                    got.append((TEXT if isinstance(event, TextMessage) else BINARY, b"".join(parts)))
                    parts = []
            elif isinstance(event, Ping | Pong):
                got.append((PING if isinstance(event, Ping) else PONG, bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                return [*got, (FAULT, int(event.code).to_bytes(2, "big"))]
    return got


@given(st.binary(max_size=300), st.integers(1, 40))
def test_no_bytes_do_harm(data: bytes, step: int) -> None:
    frames = Frames(200)
    for at in range(0, len(data), step):
        for kind, payload in frames.receive(data[at : at + step]):
            assert kind in (TEXT, BINARY, CLOSE, PING, PONG, FAULT)
            assert len(payload) <= 200


def test_an_answer_is_one_json_text() -> None:
    data = message_frame("t", {"x": [1, 2]})
    assert json.loads(data[2:]) == {"type": "t", "data": {"x": [1, 2]}}
