"""The wire format: what goes out comes back the same, and what comes in is a request, an answer or a `BadMessage`."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus.errors import BadMessage, DaebusError, InternalError, RemoteError, TooLarge, Unserialisable, error_from_wire
from daebus.jsontext import loads
from daebus.message import (
    MAX_MESSAGE,
    PubSubRequest,
    address,
    encode_direct,
    encode_error,
    encode_reply,
    encode_request,
    read_reply,
    read_request,
)
from tests.support import MS

REPLY_TO = "caller:9b2f7c1e-0000-4000-8000-000000000001"
WORDS = ["action", "payload", "reply_to", "request_id", "service", "v", "deadline", "timeout", "clock", "status"]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
keys = st.sampled_from(WORDS) | st.text(max_size=5)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
odd_values = json_values | st.sampled_from(
    [REPLY_TO, "svc.responses", "caller:", "caller:x y", 1e300, "\ud800", "x" * 201]
)
objects = st.dictionaries(st.sampled_from(WORDS), odd_values, max_size=8)


def request(payload: Any = None, **changes: Any) -> dict[str, Any]:
    message = {"action": "add", "payload": payload, "reply_to": REPLY_TO, "request_id": "r1", "service": "svc"}
    return {key: value for key, value in {**message, **changes}.items() if value is not ...}


def encoded(payload: Any, **changes: Any) -> bytes:
    given_words = {"action": "add", "reply_to": REPLY_TO, "request_id": "r1", **changes}
    return encode_request("svc", payload=payload, deadline=123.5, timeout=5.0, clock="0a1b2c3d", **given_words)


def direct(payload: Any) -> bytes:
    return encode_direct(payload, "act")


def answered(payload: Any) -> bytes:
    return encode_reply(payload, "r")


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Ends what hangs: not a measure of speed, but the difference between an end and none."""

    def hung(_number: int, _frame: object) -> NoReturn:
        raise AssertionError(f"has not ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- requests ---


@given(json_values, st.text(min_size=1))
def test_a_request_arrives_as_it_was_sent(payload: Any, action: str) -> None:
    got = read_request(loads(encoded(payload, action=action)), "svc")
    assert (got.payload, got.action, got.reply_to, got.request_id) == (payload, action, REPLY_TO, "r1")
    assert (got.deadline, got.timeout, got.clock, got.service) == (123.5, 5.0, "0a1b2c3d", "svc")


@given(json_values, st.text(min_size=1))
def test_a_direct_message_arrives_as_it_was_sent(payload: Any, action: str) -> None:
    got = read_request(loads(encode_direct(payload, action)), "svc")
    assert (got.payload, got.action, got.request_id, got.deadline) == (payload, action, None, None)


@given(st.dictionaries(keys, json_values, max_size=4))
def test_a_direct_object_without_action_is_sent_bare(payload: dict[str, Any]) -> None:
    assert loads(encode_direct(payload, None)) == payload


def test_the_bytes_of_a_direct_message_are_upstreams() -> None:
    assert encode_direct({"a": 1}, "act") == b'{"a":1,"action":"act"}'


@given(odd_values | objects)
def test_whatever_is_no_request_is_a_bad_message(raw: Any) -> None:
    try:
        got = read_request(raw, "svc")
    except BadMessage:
        return
    assert type(got.action) is str
    assert got.reply_to in (REPLY_TO, "svc.responses")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "must be a JSON object, not a list"),
        ("text", "must be a JSON object, not text"),
        (1.5, "must be a JSON object, not a number"),
        (True, "must be a JSON object, not true or false"),
        (None, "must be a JSON object, not null"),
        (request(action=...), "has no 'action'"),
        (request(action=None), "has no 'action'"),
        (request(action={}), "has an 'action' that is an object, not text"),
        (request(request_id=True), "'request_id' must be"),
        (request(request_id=1.0), "'request_id' must be"),
        (request(request_id="x" * 201), "'request_id' must be"),
        (request(reply_to="news"), "'reply_to' must be a reply channel"),
        (request(reply_to="other.responses"), "'reply_to' must be a reply channel"),
        (request(reply_to=""), "'reply_to' must be a reply channel"),
        (request(reply_to="caller:a\n"), "'reply_to' must be a reply channel"),
        (request(reply_to=["caller:a"]), "'reply_to' must be a reply channel"),
        (request(v=1, deadline="soon"), "'deadline' must be a number"),
        (request(v=1, timeout=True), "'timeout' must be a number"),
        (request(v=1, deadline=10**40), "'deadline' must be a number"),
        (request(v=1, deadline=float("inf")), "'deadline' must be a number"),
    ],
)
def test_a_bad_message_is_told_what_is_wrong_with_it(raw: Any, said: str) -> None:
    with pytest.raises(BadMessage) as caught:
        read_request(raw, "svc")
    assert said in str(caught.value)


def test_without_a_reply_channel_the_services_default_one_is_answered() -> None:
    assert read_request(request(reply_to=...), "svc").reply_to == "svc.responses"


def test_additions_count_only_in_messages_that_say_so() -> None:
    """Another program's `deadline` may be anything."""
    got = read_request(request(deadline="tomorrow", timeout=[], clock=4), "svc")
    assert (got.deadline, got.timeout, got.clock) == (None, None, None)


def test_a_clock_that_is_no_text_is_nobodys() -> None:
    assert read_request(request(v=1, clock=7), "svc").clock is None


def test_older_callers_may_send_an_object_as_text() -> None:
    assert read_request(request('{"a": 1}'), "svc").payload == {"a": 1}
    assert read_request(request('{"a": 1}', v=1), "svc").payload == '{"a": 1}'


@pytest.mark.parametrize("text", ["plain", "[1]", "3", "{broken", ""])
def test_other_text_stays_text(text: str) -> None:
    assert read_request(request(text), "svc").payload == text


def test_fields_beside_the_action_are_the_payload() -> None:
    raw = {"action": "set", "level": 3, "service": "not the envelope"}
    assert read_request(raw, "svc").payload == {"level": 3, "service": "not the envelope"}
    assert read_request({**raw, "request_id": 1}, "svc").payload == {"level": 3}


def test_a_request_can_be_made_of_text_bytes_or_a_dict() -> None:
    text = json.dumps(request([1]))
    for data in (text, text.encode(), json.loads(text)):
        got = PubSubRequest(data)
        assert (got.action, got.payload, got.service, got.raw) == ("add", [1], "svc", json.loads(text))
    assert repr(got) == "PubSubRequest(action='add', request_id='r1')"


def test_a_request_made_of_broken_text_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="the message is not JSON"):
        PubSubRequest("{")


@pytest.mark.parametrize("data", [None, 1, [], "[]", b"null"])
def test_a_request_made_of_anything_else_is_a_type_error(data: Any) -> None:
    with pytest.raises(TypeError, match="made of JSON text or a dict, not"):
        PubSubRequest(data)


def test_a_request_that_names_no_service_has_nowhere_to_answer() -> None:
    assert PubSubRequest({"action": "a"}).reply_to is None


# --- addresses of broken messages ---


@given(json_values)
def test_a_broken_request_is_answered_whatever_its_payload(payload: Any) -> None:
    """The payload cannot pose as the envelope, which callers write after it."""
    broken = encoded(payload).replace(b'{"action"', b"{action", 1)
    assert address(broken, "svc") == (REPLY_TO, "r1")


def test_a_message_that_is_nested_too_deeply_has_an_address() -> None:
    deep = (
        b'{"action":"a","payload":'
        + b"[" * 100_000
        + b"]" * 100_000
        + encoded(None)[len(b'{"action":"add","payload":null') :]
    )
    with pytest.raises(BadMessage, match="nested too deeply"):
        loads(deep)
    assert address(deep, "svc") == (REPLY_TO, "r1")


def test_a_message_of_upstreams_caller_that_is_too_large_has_an_address() -> None:
    large = json.dumps(request("x" * (MAX_MESSAGE + 1))).encode()
    assert address(large, "svc") == (REPLY_TO, "r1")


def test_a_request_id_that_is_a_number_is_kept_as_one() -> None:
    assert address(b'{"a":nan,"reply_to":"caller:x","request_id":17}', "svc") == ("caller:x", 17)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\x00",
        b"{",
        b'{"x":nan,"reply_to":"news","request_id":"r"}',
        b'{"payload":{"reply_to":"caller:x","request_id":"r"},"more":[nan]}',
        rb'{"x":nan,"payload":"\"reply_to\":\"caller:x\""}',
        b'{"x":nan,"reply_to":"caller:x y"}',
    ],
)
def test_what_cannot_be_trusted_is_no_address(data: bytes) -> None:
    assert address(data, "svc")[0] is None


def test_a_broken_message_of_white_space_does_not_hang_the_reader() -> None:
    """One message, and the regular expression that looks for its address would search for years."""
    with limit(2000 * MS):
        assert address(b"{" + (b'"a":1' + b" " * 250) * 5, "svc") == (None, None)


@given(st.binary(max_size=300) | st.text(alphabet='{}[]":, \\\n\tabcdefreply_to123', max_size=300).map(str.encode))
def test_no_bytes_make_the_search_for_an_address_fail(data: bytes) -> None:
    with limit(2000 * MS):
        channel, request_id = address(data, "svc")
    assert channel is None or channel.startswith(("caller:", "svc.responses"))
    assert request_id is None or type(request_id) in (str, int)


@given(odd_values | objects)
def test_the_address_of_a_decoded_message_is_checked_as_a_requests_is(raw: Any) -> None:
    channel, request_id = address(raw, "svc")
    assert channel in (None, REPLY_TO, "svc.responses")
    assert request_id is None or type(request_id) in (str, int)


# --- answers ---


@given(json_values, st.text(max_size=50), st.booleans())
def test_an_answer_arrives_as_it_was_sent(payload: Any, request_id: str, final: bool) -> None:
    reply = read_reply(encode_reply(payload, request_id, final=final))
    assert (reply.payload, reply.request_id, reply.final, reply.failed) == (payload, request_id, final, False)


@given(st.text(max_size=200), st.text(max_size=50))
def test_an_error_arrives_as_it_was_sent(text: str, request_id: str) -> None:
    error = InternalError(text)
    error.error_id = "ab12"
    reply = read_reply(encode_error(error, request_id))
    again = error_from_wire(reply.text, reply.code, reply.error_id)
    assert (type(again), str(again), again.error_id, reply.final) == (InternalError, text, "ab12", True)


def test_the_bytes_of_answers_are_upstreams() -> None:
    assert encode_reply({"n": 1}, "r") == b'{"status":"success","payload":{"n":1},"request_id":"r","final":true}'
    assert encode_reply(None, 5, final=False) == b'{"status":"success","payload":null,"request_id":5,"final":false}'
    assert encode_error(RemoteError("no"), None) == (
        b'{"status":"error","payload":{"error":"no"},"request_id":null,"final":true,"code":"error"}'
    )


def test_the_text_of_an_error_is_cut() -> None:
    assert len(encode_error(DaebusError("x" * 1_000_000), "r")) < 11_000


def test_an_answer_without_final_is_final() -> None:
    assert read_reply(b'{"request_id":"r","status":"success","payload":1}').final


@pytest.mark.parametrize(
    ("payload", "text"),
    [('{"error":"no"}', "no"), ('"no"', "no"), ('{"error":5}', "5"), ("null", "None"), ("[1]", "[1]"), ("{}", "None")],
)
def test_the_text_of_an_error_is_found_in_any_payload(payload: str, text: str) -> None:
    assert read_reply(f'{{"request_id":"r","status":"error","payload":{payload}}}'.encode()).text == text


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b'{"request_id":1}', b'{"request_id":null}', b"\xff"])
def test_what_is_no_answer_is_a_bad_message(data: bytes) -> None:
    with pytest.raises(BadMessage):
        read_reply(data)


@given(st.binary(max_size=100) | (objects | json_values).map(lambda value: json.dumps(value).encode()))
def test_no_bytes_make_an_answer_raise_anything_else(data: bytes) -> None:
    try:
        read_reply(data)
    except BadMessage:
        return


def test_no_depth_makes_an_answer_raise_anything_else() -> None:
    """There are depths that can just be read, and then no longer be shown: a caller must live through those too."""
    for depth in range(900, 1000):
        nested = b"[" * depth + b"]" * depth
        try:
            read_reply(b'{"request_id":"r","status":"error","payload":' + nested + b"}")
        except BadMessage:
            continue


# --- limits ---


def test_the_largest_message_passes_and_one_byte_more_does_not() -> None:
    room = MAX_MESSAGE - len(encode_reply("", "r"))
    assert len(encode_reply("x" * room, "r")) == MAX_MESSAGE
    with pytest.raises(TooLarge, match="8,388,609 bytes; the limit is 8,388,608"):
        encode_reply("x" * (room + 1), "r")
    for encode in (encoded, direct):
        with pytest.raises(TooLarge):
            encode("x" * MAX_MESSAGE)


@pytest.mark.parametrize("value", [float("nan"), object(), {1j: 2}])
def test_what_json_cannot_hold_is_not_sent(value: Any) -> None:
    for encode in (encoded, direct, answered):
        with pytest.raises(Unserialisable):
            encode(value)


# --- traces ---


@given(st.text(min_size=1, max_size=200))
def test_a_trace_arrives_as_it_was_sent(trace: str) -> None:
    """Whatever is in it: it came from outside, and must not make our own calls fail."""
    data = encoded({"a": 1}, trace=trace)
    got = read_request(loads(data), "svc")
    assert (got.trace, got.payload, got.reply_to, got.request_id) == (trace, {"a": 1}, REPLY_TO, "r1")


def test_without_a_trace_there_is_none_in_the_message() -> None:
    assert b"trace" not in encoded(None)
    assert encoded(None, trace=None) == encoded(None)


@pytest.mark.parametrize("trace", ["", "x" * 201, None, 5, ["x"], {"a": 1}, True])
def test_a_trace_that_is_none_is_a_bad_message(trace: object) -> None:
    with pytest.raises(BadMessage, match="'trace' must be text of 1 to 200 characters"):
        read_request(request(v=1, trace=trace), "svc")


def test_what_older_callers_call_a_trace_is_theirs() -> None:
    """Our own keys count only in a message that says `"v":1`."""
    got = read_request(request(trace=["x"], request_id="x" * 36), "svc")
    assert got.trace == "x" * 36


@pytest.mark.parametrize("request_id", ["9b2f7c1e-0000-4000-8000-000000000001", "x" * 16, "x" * 200])
def test_a_request_without_a_trace_begins_one_under_its_own_id(request_id: str) -> None:
    assert read_request(request(request_id=request_id), "svc").trace == request_id
    assert read_request(request(v=1, request_id=request_id), "svc").trace == request_id


@pytest.mark.parametrize("request_id", ["r1", "x" * 15, 5, None, ...])
def test_an_id_that_others_have_too_is_no_trace(request_id: object) -> None:
    one, other = (read_request(request(request_id=request_id), "svc") for _ in range(2))
    assert one.trace == one.trace != other.trace
    assert re.fullmatch("[0-9a-f]{32}", one.trace)


def test_a_trace_stays_while_a_request_waits() -> None:
    raw = request(v=1, trace="t")
    got = read_request(raw, "svc")
    got.pack()
    got.unpack(raw)
    assert got.trace == "t"


def test_a_request_that_is_made_by_hand_has_a_trace_too() -> None:
    assert PubSubRequest(request(v=1, trace="t"), "svc").trace == "t"
    assert PubSubRequest({"action": "a"}, "svc").trace
