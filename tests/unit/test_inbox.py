"""What messages may be, and what becomes of each, with a publisher that keeps all."""

from __future__ import annotations

import asyncio
import json
import logging
from time import monotonic
from typing import Any

import pytest

from daebus import inbox, request
from daebus.errors import BadMessage, Busy, NameTaken, Stopping
from daebus.inbox import EARLY_LIMIT
from daebus.message import MAX_MESSAGE, PubSubRequest
from daebus.registry import Record
from daebus.work import Work
from tests.calls import CALLER, Bench, error_of, message, success
from tests.support import wait_for


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- actions that are not there, and those of our own ---


def test_an_unknown_action_is_answered_with_a_hint(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: None, "add_user").action(lambda: None, "print")
    error = error_of(bench.handle(message(action="add_usr")))
    assert error.code == "unknown_action"
    assert str(error) == "The service 'svc' has no action 'add_usr'; did you mean 'add_user'?"
    assert caplog.messages == [str(error)]
    assert bench.counts.unknown == 1


def test_an_unknown_action_that_resembles_nothing_gets_no_hint(bench: Bench) -> None:
    error = error_of(bench.action(lambda: None).handle(message(action="zzz")))
    assert str(error) == "The service 'svc' has no action 'zzz'"


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "x" * 10_000, "$daebus.unheard"])
def test_any_unknown_action_is_one_short_line(bench: Bench, name: str, caplog: pytest.LogCaptureFixture) -> None:
    error = error_of(bench.handle(message(action=name)))
    assert error.code == "unknown_action"
    assert str(error).isprintable()
    assert len(caplog.text.splitlines()) == 1
    assert len(caplog.text) < 300


def test_unknown_actions_do_not_fill_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(500):
        bench.handle(message(action="same"))
    assert len(bench.publisher.answers) == 500
    assert len(caplog.records) == 1


def test_unknown_actions_of_ever_new_names_do_not_fill_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sends them chooses the name, so the name alone cannot be what makes a line worth writing."""
    for number in range(1500):
        bench.handle(message(action=f"new-{number}"))
    assert len(bench.publisher.answers) == 1500
    assert len(caplog.records) < 750


def test_broken_messages_from_ever_new_callers_do_not_fill_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1500):
        bench.handle(f'{{"a":nan,"reply_to":"caller:{number}","request_id":"r"}}'.encode())
    assert len(bench.publisher.sent) == 1500
    assert len(caplog.records) < 750


def test_a_reserved_action_is_answered_before_the_service_is_open(bench: Bench) -> None:
    bench.reserve("$daebus.claim", lambda asked: {"got": asked.payload})
    assert bench.plan(message(3, action="$daebus.claim")) is None
    assert bench.publisher.answers == [success({"got": 3})]


def test_a_reserved_action_may_say_no(bench: Bench) -> None:
    def refuse(_request: PubSubRequest) -> None:
        raise NameTaken("it is ours")

    error = error_of(bench.reserve("$daebus.claim", refuse).handle(message(action="$daebus.claim")))
    assert (type(error), str(error)) == (NameTaken, "it is ours")


# --- deadlines ---


@pytest.fixture
def runs() -> list[Any]:
    return []


@pytest.mark.parametrize(("ahead", "clock", "run"), [(-1, "clock", False), (60, "clock", True), (-1, "other", True)])
def test_what_nobody_waits_for_is_not_run(bench: Bench, runs: list[Any], ahead: int, clock: str, run: bool) -> None:
    """A deadline counts on the machine whose clock it was read from; on another, the seconds from the arrival do."""
    bench.action(lambda: runs.append(request.payload))
    answers = bench.handle(message("p", v=1, deadline=monotonic() + ahead, timeout=60, clock=clock))
    assert runs == (["p"] if run else [])
    assert bench.counts.expired == (0 if run else 1)
    if not run:
        assert (error_of(answers).code, str(error_of(answers))) == (
            "expired",
            "The caller's deadline passed before the work began; it was not done",
        )


@pytest.mark.parametrize("clock", ["other", "", None])
def test_a_deadline_of_another_clock_counts_from_the_arrival(bench: Bench, runs: list[Any], clock: str | None) -> None:
    bench.action(lambda: runs.append(1)).open()
    before = monotonic()
    in_time = bench.plan(message(v=1, deadline=before - 1e6, timeout=60, clock=clock))
    assert before + 60 <= in_time.request.deadline <= monotonic() + 60
    late = bench.plan(message(v=1, deadline=before + 1e6, timeout=0.001, clock=clock))
    wait_for(lambda: monotonic() > late.request.deadline)
    late.run()
    assert error_of(bench.publisher.answers).code == "expired"
    assert (runs, bench.counts.expired) == ([], 1)
    in_time.run()
    assert runs == [1]


def test_a_deadline_of_another_clock_counts_from_the_arrival_before_the_start_too(
    bench: Bench, runs: list[Any]
) -> None:
    bench.action(lambda: runs.append(1))
    assert bench.plan(message(v=1, deadline=1.0, timeout=0.001, clock="other")) is None
    arrived = monotonic()
    wait_for(lambda: monotonic() > arrived + 0.001)
    for call in bench.plan_again():
        call.run()
    assert error_of(bench.publisher.answers).code == "expired"
    assert runs == []


# --- broken messages ---


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a":nan,"reply_to":"caller:someone","request_id":"r"}', "The message is broken: not JSON"),
        (b'"\xff","reply_to":"caller:someone","request_id":"r"}', "The message is broken: not UTF-8 (byte 1)"),
        (b"[" * 100_000 + b',"reply_to":"caller:someone","request_id":"r"}', "nested too deeply"),
        (json.dumps(message(action=7)).encode(), "has an 'action' that is a number, not text"),
        (json.dumps({**message(), "v": 1, "deadline": "x"}).encode(), "'deadline' must be a number"),
    ],
)
def test_a_broken_message_is_answered_where_its_envelope_says(bench: Bench, data: bytes, said: str) -> None:
    error = error_of(bench.handle(data))
    assert type(error) is BadMessage
    assert said in str(error)
    assert bench.counts.broken == 1


def test_a_message_that_is_too_large_is_answered_and_not_read(bench: Bench, runs: list[Any]) -> None:
    bench.action(lambda: runs.append(1))
    error = error_of(bench.handle(message("x" * MAX_MESSAGE)))
    assert error.code == "too_large"
    assert runs == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no JSON",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 200_000,
        b'{"action":"act","reply_to":"other-service"}',
        b'{"action":"act","reply_to":"other.responses","request_id":"r"}',
        b'{"action":"act","reply_to":["caller:someone"]}',
        b'{"a":nan,"reply_to":"other-service","request_id":"r"}',
    ],
)
def test_a_broken_message_without_a_trusted_channel_is_answered_nowhere(
    bench: Bench, data: bytes, runs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An answer to a channel that a stranger names may be a request to another service."""
    bench.action(lambda: runs.append(1)).handle(data)
    assert bench.publisher.sent == []
    assert runs == []
    assert (bench.counts.broken, bench.counts.received) == (1, 1)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_a_broken_message_cannot_forge_a_line_of_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.handle(b'{"action":"a\\n<0>forged","reply_to":"caller:x\\n<0>forged","request_id":"r"}')
    bench.handle(b"\n<0>forged")
    assert all(text.isprintable() for text in caplog.messages)


def test_without_a_reply_channel_the_default_one_is_answered(bench: Bench) -> None:
    bench.action(lambda: 1).handle({"action": "act"})
    assert bench.publisher.sent == [
        ("svc.responses", {"status": "success", "payload": 1, "request_id": None, "final": True})
    ]


# --- shared services ---


@pytest.mark.parametrize("data", [b"broken", json.dumps(message()).encode(), json.dumps(message(action="x")).encode()])
def test_another_process_message_is_left_to_it(data: bytes, runs: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(mine=lambda _request_id, _ticket: False).action(lambda: runs.append(1))
    bench.handle(data)
    assert (runs, bench.publisher.sent, caplog.messages) == ([], [], [])


def test_a_process_asks_once_for_each_message() -> None:
    asked: list[tuple[object, str]] = []

    def mine(request: PubSubRequest | None, ticket: str) -> bool:
        asked.append((request and request.request_id, ticket))
        return True

    bench = Bench(mine=mine).action(lambda: 1)
    bench.open()
    for data in (json.dumps(message()).encode(), b"broken"):
        call = bench.inbox.plan_request(None, "t:1", data)
        if call is not None:
            call.run()
    assert asked == [("r", "t:1"), (None, "t:1")]
    assert bench.publisher.answers == [success(1)]


# --- before the service is open, and when it refuses ---


def test_what_comes_before_the_start_is_kept_until_then(bench: Bench, runs: list[Any]) -> None:
    bench.action(lambda: runs.append(request.payload))
    listener = Work(Record("listen", "news", runs.append))
    assert bench.plan(message(1)) is None
    assert bench.inbox.plan_message(listener, "news", b"2") is None
    assert bench.plan(message(3)) is None
    assert (bench.inbox.held, runs) == (True, [])
    calls = bench.plan_again()
    assert not bench.inbox.held
    assert [call.run() for call in calls] == [True] * 3
    assert runs == [1, 2, 3]
    assert bench.counts.received == 3
    assert bench.open() == []
    assert bench.plan(message()) is not None


def test_of_too_many_that_come_before_the_start_the_last_are_refused(bench: Bench) -> None:
    bench.action(lambda: None)
    for _ in range(EARLY_LIMIT + 1):
        assert bench.plan(message()) is None
    error = error_of(bench.publisher.answers)
    assert error.code == "busy"
    assert str(error).startswith("The service is starting")
    assert len(bench.open()) == EARLY_LIMIT


def test_what_is_kept_until_the_start_is_kept_as_it_came(bench: Bench) -> None:
    """Its bytes: what they are read as takes much more."""
    work = Work(Record("listen", "news", print))
    data = json.dumps(message({"a": [1, 2]})).encode()
    bench.action(lambda: None).plan(data)
    bench.inbox.plan_message(work, "news", b"[1]")
    kept = bench.open()
    assert [(item[0], *item[2:]) for item in kept] == [(None, "", data), (work, "news", b"[1]")]


def test_of_too_many_bytes_before_the_start_the_last_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    large, small = (json.dumps(message("x" * size)).encode() for size in (1000, 1))
    monkeypatch.setattr(inbox, "EARLY_BYTES", 2 * len(large) + len(small) + 2)
    bench.action(lambda: None)
    work = Work(Record("listen", "news", print))
    for data in (large, large, large, small):
        assert bench.plan(data) is None
    for data in (b"[1]", b"[]", b"{}"):
        assert bench.inbox.plan_message(work, "news", data) is None
    error = error_of(bench.publisher.answers)
    assert (error.code, str(error)[:23]) == ("busy", "The service is starting")
    assert caplog.messages == ["Messages on channel 'news' are being dropped: the service is starting"]
    assert bench.counts.dropped == 2
    assert [data for *_, data in bench.open()] == [large, large, small, b"[]"]


def test_a_shared_service_that_starts_does_not_refuse_what_others_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "EARLY_BYTES", 0)
    bench = Bench(mine=lambda _request, _ticket: False).action(lambda: None)
    assert bench.plan(message()) is None
    assert bench.publisher.sent == []


# --- waiting for a worker ---

SENT: list[dict[str, Any]] = [
    message({"a": [1, {"b": None}]}),
    message("text"),
    message('{"older": "callers"}'),
    message('{"a": 1}', v=1, deadline=None, timeout=None, clock="clock"),
    message(None),
    {"action": "act", "fields": 1, "beside": [2], "reply_to": CALLER, "request_id": "r"},
    {"action": "act", "service": "a field"},
]


@pytest.mark.parametrize("sent", SENT)
def test_after_a_wait_the_request_is_what_it_was(bench: Bench, sent: dict[str, Any]) -> None:
    seen: list[Any] = []

    def handler() -> None:
        fields = ("payload", "raw", "action", "request_id", "reply_to", "service", "deadline", "clock", "timeout")
        seen.append({name: getattr(request, name) for name in fields})

    bench.action(handler).open()
    data = json.dumps(sent).encode()
    at_once, later = bench.plan(data), bench.plan(data)
    later.pack(data)
    assert (later.request.raw, later.request.payload) == ({}, None)  # what was read takes no memory meanwhile
    for call in (at_once, later):
        call.run()
    assert seen[0] == seen[1]
    assert seen[0]["raw"] == sent
    assert len({str(answer) for _, answer in bench.publisher.sent}) == 1


@pytest.mark.parametrize("payload", [{"a": 1}, [1], "text", '{"a": 1}', 5, None])
def test_after_a_wait_a_listener_gets_the_payload(bench: Bench, runs: list[Any], payload: object) -> None:
    def listener(payload: object, channel: str) -> None:
        runs.append((payload, channel))

    bench.open()
    data = json.dumps(payload).encode()
    for function in (runs.append, listener):
        call = bench.inbox.plan_message(Work(Record("listen", "s.*", function)), "s.1", data)
        assert call is not None
        call.pack(data)
        assert call.arguments[0] is None
        assert call.run() is True
    assert runs == [payload, (payload, "s.1")]


def test_a_request_that_waits_is_refused_as_any_other(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: None).open()
    data = json.dumps(message({"a": 1})).encode()
    call = bench.plan(data)
    call.pack(data)
    call.refuse(Stopping("it stops"))
    assert type(error_of(bench.publisher.answers)) is Stopping
    assert caplog.messages == ["Action 'act' (request 'r') was refused: it stops"]


def test_a_request_whose_deadline_passes_while_it_waits_is_not_run(bench: Bench, runs: list[Any]) -> None:
    bench.action(lambda: runs.append(1)).open()
    data = json.dumps(message(v=1, deadline=monotonic() + 0.001, timeout=0.001, clock="clock")).encode()
    call = bench.plan(data)
    call.pack(data)
    wait_for(lambda: monotonic() > call.request.deadline)
    call.run()
    assert error_of(bench.publisher.answers).code == "expired"
    assert runs == []


# --- listened messages ---


@pytest.mark.parametrize("payload", [{"a": 1}, [1], "text", 5, None])
def test_a_listener_gets_the_payload(bench: Bench, runs: list[Any], payload: object) -> None:
    bench.open()
    call = bench.inbox.plan_message(Work(Record("listen", "news", runs.append)), "news", json.dumps(payload).encode())
    assert call is not None
    assert call.run() is True
    assert runs == [payload]


def test_a_listener_may_ask_for_the_channel(bench: Bench, runs: list[Any]) -> None:
    bench.open()

    def listener(payload: object, channel: str) -> None:
        runs.append((payload, channel))

    call = bench.inbox.plan_message(Work(Record("listen", "s.*", listener)), "s.1", b"5")
    assert call is not None
    call.run()
    assert runs == [(5, "s.1")]


@pytest.mark.parametrize("data", [b"broken", b"\xff", b"[" * 100_000, b"x" * (MAX_MESSAGE + 1)])
def test_a_broken_listened_message_is_counted_and_logged(
    bench: Bench, data: bytes, runs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    bench.open()
    work = Work(Record("listen", "news", runs.append))
    assert bench.inbox.plan_message(work, "news\n<0>", data) is None
    assert bench.counts.broken == 1
    assert caplog.messages[0].startswith("A message on channel 'news\\n<0>' was ignored: ")
    assert caplog.messages[0].isprintable()
    assert runs == []


def test_a_listener_that_fails_is_logged_and_its_value_ignored(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.open()
    for function in (lambda _payload: 1 / 0, lambda _payload: "ignored", lambda _payload: (n for n in range(3))):
        call = bench.inbox.plan_message(Work(Record("listen", "news", function)), "news", b"1")
        assert call is not None
        assert call.run() is True
    assert bench.publisher.sent == []
    assert len(caplog.records) == bench.counts.failed == 1
    assert caplog.messages[0].startswith("The listener of channel 'news' failed (error id ")


def test_an_async_listener_is_resumed_when_it_ends(bench: Bench, runs: list[Any]) -> None:
    async def listener(payload: object) -> None:
        runs.append(payload)

    bench.open()
    work = Work(Record("listen", "news", listener))
    call = bench.inbox.plan_message(work, "news", b"5")
    assert call is not None
    assert call.run() is False
    assert bench.resumed == []
    asyncio.run(bench.started.pop())
    assert (runs, bench.resumed) == ([5], [work])


def test_a_dropped_message_is_counted_each_time_and_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.open()
    call = bench.inbox.plan_message(Work(Record("listen", "news", print)), "news", b"1")
    assert call is not None
    for _ in range(5):
        call.refuse(Busy("full"))
    assert bench.counts.dropped == 5
    assert caplog.messages == ["Messages on channel 'news' are being dropped: full"]
