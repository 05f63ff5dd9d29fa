"""A response: progress at any time, one final answer."""

from __future__ import annotations

import json
from threading import Barrier, Thread
from typing import Any

import pytest

from daebus import pubsub
from daebus.errors import Busy, TooLarge, Unserialisable
from daebus.log import Seldom
from daebus.message import MAX_MESSAGE, PubSubRequest
from daebus.pubsub import PubSubResponse


class Outbox:
    """A publisher that keeps what it is given, if it is not too large."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.flushes: list[tuple[bool, int]] = []  # whether after the final answer, and how many there were
        self.largest = MAX_MESSAGE

    def publish(self, channel: str, data: bytes) -> bool:
        if len(data) > self.largest:
            return False
        self.sent.append((channel, json.loads(data)))
        return True

    def flush(self, final: bool) -> None:
        self.flushes.append((final, len(self.sent)))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [message for _, message in self.sent]


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has said anything yet that is said only once a minute."""
    monkeypatch.setattr(pubsub, "_seldom", Seldom())


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def response(outbox: Outbox) -> PubSubResponse:
    request = PubSubRequest({"action": "a", "reply_to": "caller:x", "request_id": "r"}, "svc")
    return PubSubResponse(outbox, request, outbox.flush)


def test_success_answers_the_caller(response: PubSubResponse, outbox: Outbox) -> None:
    assert response.success({"n": 1}) == 1
    expected = {"status": "success", "payload": {"n": 1}, "request_id": "r", "final": True}
    assert outbox.sent == [("caller:x", expected)]
    assert response.answered
    assert outbox.flushes == [(True, 1)]  # whose it is to let a final answer leave with its batch


def test_send_answers_as_success_does(response: PubSubResponse, outbox: Outbox) -> None:
    assert response.send(1, final=False) == response.send(2) == 1
    assert [(message["payload"], message["final"]) for message in outbox.messages] == [(1, False), (2, True)]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(Busy("later"), "busy", "later"), ("plain", "error", "plain"), (KeyError("k"), "error", "'k'")],
)
def test_an_error_answers_with_its_text_and_code(
    response: PubSubResponse, outbox: Outbox, error: BaseException | str, code: str, text: str
) -> None:
    assert response.error(error) == 1
    (message,) = outbox.messages
    assert (message["status"], message["code"], message["payload"]) == ("error", code, {"error": text})
    assert response.answered


def test_an_error_may_be_progress(response: PubSubResponse, outbox: Outbox) -> None:
    response.error("not yet", final=False)
    assert not response.answered
    assert outbox.messages[0]["final"] is False
    assert outbox.flushes == [(False, 1)]


def test_progress_leaves_at_once_and_leaves_the_request_open(response: PubSubResponse, outbox: Outbox) -> None:
    assert response.progress({"at": 1}) == 1
    assert not response.answered
    assert outbox.flushes == [(False, 1)]
    assert outbox.messages == [{"status": "success", "payload": {"at": 1}, "request_id": "r", "final": False}]


@pytest.mark.parametrize(
    ("payload", "percentage", "sent"),
    [
        ({"at": 1}, 50, {"at": 1, "progress_percentage": 50}),
        ("half", 50.5, {"data": "half", "progress_percentage": 50.5}),
        (None, 0, {"data": None, "progress_percentage": 0}),
        ({}, 250, {"progress_percentage": 100}),
        ({}, -3, {"progress_percentage": 0}),
    ],
)
def test_a_percentage_is_kept_within_its_bounds(
    response: PubSubResponse, outbox: Outbox, payload: Any, percentage: float, sent: object
) -> None:
    response.progress(payload, percentage)
    assert outbox.messages[0]["payload"] == sent


def test_after_the_final_answer_nothing_is_sent(
    response: PubSubResponse, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    response.success(1)
    assert response.success(2) == response.error("no") == response.progress(3) == response.send(4, final=False) == 0
    assert len(outbox.messages) == len(outbox.flushes) == 1
    assert caplog.messages == ["'a' was answered already: a further answer was not sent"]  # once for all four


def test_of_each_action_it_is_said_that_it_answers_twice(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    for action in "abab":
        response = PubSubResponse(outbox, PubSubRequest({"action": action, "request_id": "r"}, "svc"))
        response.success(1)
        response.success(2)
    assert caplog.messages == [f"'{action}' was answered already: a further answer was not sent" for action in "ab"]


def test_a_large_answer_that_is_dropped_is_told_with_a_small_error(response: PubSubResponse, outbox: Outbox) -> None:
    outbox.largest = 1000
    response.success("x" * 2000)
    assert response.answered
    ((channel, message),) = outbox.sent
    assert (channel, message["request_id"], message["final"], message["code"]) == ("caller:x", "r", True, "busy")
    assert message["payload"] == {"error": "The answer was dropped: too many large answers wait to be sent"}
    assert outbox.flushes == [(True, 1)]


def test_progress_that_is_dropped_is_missing_and_no_more(response: PubSubResponse, outbox: Outbox) -> None:
    outbox.largest = 1000
    response.progress("x" * 2000)
    assert (response.answered, outbox.sent) == (False, [])
    assert response.success("done") == 1
    assert [message["payload"] for message in outbox.messages] == ["done"]


def test_of_a_publisher_that_counts_subscribers_none_is_no_drop(outbox: Outbox) -> None:
    """As a redis-py client does, which is one too."""

    class Counting(Outbox):
        def publish(self, channel: str, data: bytes) -> int:  # type: ignore[override]
            super().publish(channel, data)
            return 0

    counting = Counting()
    request = PubSubRequest({"action": "a", "reply_to": "caller:x", "request_id": "r"}, "svc")
    PubSubResponse(counting, request).success(1)
    assert [message["payload"] for message in counting.messages] == [1]


@pytest.mark.parametrize(("value", "error"), [(float("nan"), Unserialisable), ("x" * MAX_MESSAGE, TooLarge)])
def test_what_cannot_be_sent_leaves_the_request_open(
    response: PubSubResponse, outbox: Outbox, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        response.success(value)
    assert not response.answered
    assert response.success("better") == 1
    assert len(outbox.messages) == 1


def test_a_request_that_names_no_channel_is_answered_without_a_message(outbox: Outbox) -> None:
    response = PubSubResponse(outbox, PubSubRequest({"action": "a"}))
    assert response.success(1) == 0
    assert response.answered
    assert outbox.sent == []


def test_of_many_threads_one_answers(outbox: Outbox) -> None:
    for number in range(50):
        response = PubSubResponse(outbox, PubSubRequest({"action": "a", "request_id": number}, "svc"))
        together = Barrier(4)

        def answer(response: PubSubResponse = response, together: Barrier = together) -> None:
            together.wait()
            response.success()

        threads = [Thread(target=answer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [message["request_id"] for message in outbox.messages] == list(range(50))
