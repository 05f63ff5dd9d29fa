"""Who is told what, when Redis or a service says something."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import hiredis
import pytest

from daebus.errors import CallerClosed, RedisRefused, RedisUnavailable, ServiceUnavailable
from daebus.ledger import Exchange, Ledger, is_full, was_delivered

DELIVERED, NOBODY = [[b"svc", 1], 1], [[b"svc", 0], 0]
QUEUED = [b"OK", b"QUEUED", b"QUEUED"]


class Waiting(Exchange):
    """An exchange that counts how often it was woken."""

    def __init__(self, *, command: bool = False) -> None:
        super().__init__("owner", command=command)
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def answer(request_id: object, payload: Any = None, channel: bytes = b"caller:x") -> list[bytes]:
    return [
        b"message",
        channel,
        json.dumps({"request_id": request_id, "status": "success", "payload": payload}).encode(),
    ]


def test_request_ids_are_different_uuids(ledger: Ledger) -> None:
    ids = [ledger.next_id() for _ in range(1000)] + [Ledger().next_id()]
    assert len(set(ids)) == 1001
    assert {UUID(each).version for each in ids} == {4}
    assert str(UUID(ids[0])) == ids[0]


def test_an_answer_goes_to_whoever_asked(ledger: Ledger) -> None:
    one, other = Waiting(), Waiting()
    ledger.pending.update(a=one, b=other)
    ledger.take_answers([answer("b", 1), answer("b", 2)])
    assert [reply.payload for reply in other.replies] == [1, 2]
    assert (other.woken, one.woken, one.ready, other.ready) == (2, 0, False, True)


@pytest.mark.parametrize(
    "reply",
    [
        answer("unknown"),
        answer(None),
        answer(5),
        answer(["a"]),
        [b"message", b"caller:x", b"{broken"],
        [b"message", b"caller:x", b"\xff"],
        [b"message", b"caller:x", b"[]"],
        [b"message", b"caller:x", b"[" * 100_000],
        [b"subscribe", b"caller:x", 1],
        [b"pong", b""],
        b"PONG",
        None,
        7,
        hiredis.ReplyError("ERR"),
    ],
)
def test_what_is_no_answer_is_dropped(ledger: Ledger, reply: object) -> None:
    waiting = Waiting()
    ledger.pending["a"] = waiting
    ledger.take_answers([reply, answer("a", "after it")])
    assert [each.payload for each in waiting.replies] == ["after it"]


def test_a_delivered_request_waits_on_for_its_answer(ledger: Ledger) -> None:
    waiting = Waiting()
    ledger.sent(waiting, 4, 1.0)
    ledger.take_confirmations([*QUEUED, DELIVERED])
    assert (waiting.sent, waiting.confirmed, waiting.ready, waiting.woken) == (True, True, False, 0)
    assert ledger.oldest is None


def test_a_request_to_nobody_is_told_so(ledger: Ledger) -> None:
    waiting = Waiting()
    ledger.sent(waiting, 4, 1.0)
    ledger.take_confirmations([*QUEUED, NOBODY])
    assert isinstance(waiting.error, ServiceUnavailable)
    assert waiting.woken == 1


@pytest.mark.parametrize("result", [None, b"OK", 0, [], [[]], [None]])
def test_a_result_that_is_none_counts_as_not_delivered(ledger: Ledger, result: object) -> None:
    waiting = Waiting()
    ledger.sent(waiting, 1, 1.0)
    ledger.take_confirmations([result])
    assert isinstance(waiting.error, ServiceUnavailable)


def test_a_command_is_told_redis_reply(ledger: Ledger) -> None:
    waiting = Waiting(command=True)
    ledger.sent(waiting, 1, 1.0)
    assert not waiting.ready
    ledger.take_confirmations([3])
    assert (waiting.ready, waiting.result, waiting.woken) == (True, 3, 1)


def test_confirmations_belong_to_what_was_sent_in_their_order(ledger: Ledger) -> None:
    first, second, third = Waiting(), Waiting(command=True), Waiting()
    ledger.sent(first, 4, 1.0)
    ledger.sent(second, 1, 2.0)
    ledger.sent(third, 4, 3.0)
    ledger.take_confirmations(QUEUED[:2])
    assert ledger.oldest == 1.0
    ledger.take_confirmations([*QUEUED[2:], NOBODY, 17, *QUEUED])
    assert (type(first.error), second.result, third.confirmed) == (ServiceUnavailable, 17, False)
    assert ledger.oldest == 3.0
    ledger.take_confirmations([DELIVERED, b"one too many"])
    assert third.confirmed


def test_a_refusal_is_told_with_redis_words(ledger: Ledger) -> None:
    """The first word counts: EXEC only says that something before it was wrong."""
    waiting, after = Waiting(), Waiting()
    ledger.sent(waiting, 4, 1.0)
    ledger.sent(after, 4, 2.0)
    refused = [hiredis.ReplyError("NOPERM no channel"), b"QUEUED", hiredis.ReplyError("EXECABORT")]
    ledger.take_confirmations([b"OK", *refused, *QUEUED, DELIVERED])
    assert isinstance(waiting.error, RedisRefused)
    assert str(waiting.error) == "Redis refuses this: NOPERM no channel"
    assert after.confirmed


@pytest.mark.parametrize(("refusal", "full"), [("OOM command not allowed", True), ("NOPERM no channel", False)])
def test_a_full_redis_is_told_from_one_that_refuses_for_good(ledger: Ledger, refusal: str, full: bool) -> None:
    waiting = Waiting()
    assert not is_full(waiting.error)
    ledger.sent(waiting, 4, 1.0)
    ledger.take_confirmations([b"OK", *(hiredis.ReplyError(text) for text in (refusal, refusal, "EXECABORT"))])
    assert is_full(waiting.error) is full
    assert not is_full(CallerClosed("OOM"))


@pytest.mark.parametrize(
    ("result", "delivered"), [([[b"svc", 1], 1], True), ([[b"svc", 0], 3], False), (1, True), (0, False), (b"", False)]
)
def test_what_redis_says_of_a_delivery(result: Any, delivered: bool) -> None:
    assert was_delivered(result) is delivered


def test_a_lost_connection_fails_what_redis_has_not_confirmed(ledger: Ledger) -> None:
    unknown, confirmed = Waiting(), Waiting()
    ledger.pending.update(u=unknown, c=confirmed)
    ledger.sent(confirmed, 1, 1.0)
    ledger.take_confirmations([DELIVERED])
    ledger.sent(unknown, 4, 2.0)
    ledger.connection_lost(RedisUnavailable("it is gone"))
    assert str(unknown.error) == "it is gone; whether the message arrived is not known"
    assert (confirmed.error, confirmed.interrupted) == (None, True)
    assert ledger.oldest is None


def test_the_first_error_counts() -> None:
    waiting = Waiting()
    waiting.fail(CallerClosed("first"))
    waiting.fail(RedisUnavailable("second"))
    assert isinstance(waiting.error, CallerClosed)
    assert waiting.woken == 2


def test_waking_is_for_each_kind_of_caller_to_say() -> None:
    with pytest.raises(NotImplementedError):
        Exchange(None).wake()
