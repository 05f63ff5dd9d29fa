"""Workflows on their way through the dispatcher, with a publisher that keeps all."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

import pytest

from daebus import inbox, request
from daebus.dispatch import Dispatcher
from daebus.inbox import Inbox
from daebus.message import MAX_MESSAGE
from daebus.registry import Record
from daebus.workflows import Workflows

CALLER = "workflow:someone"


class Publisher:
    """Keeps what it is given, if it is not too large."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.largest = MAX_MESSAGE

    def publish(self, channel: str, data: bytes) -> bool:
        if len(data) > self.largest:
            return False
        self.sent.append((channel, json.loads(data)))
        return True

    def flush(self) -> None:
        """Nothing waits here."""


class Bench:
    """One workflow that keeps what it is asked, and answers with `answer`."""

    def __init__(self) -> None:
        self.publisher = Publisher()
        self.dispatcher = Dispatcher("svc", [], self.publisher.flush)
        self.inbox = Inbox(self.dispatcher, self.publisher, {}, "clock")
        self.workflows = Workflows([Record("workflow", "talk", self._handle)], self.inbox)
        self.asked: list[tuple[object, object]] = []
        self.answer: object = None

    def _handle(self) -> object:
        self.asked.append((request.payload, request.raw))
        return self.answer

    def plan(self, **message: Any) -> tuple[Any, bytes]:
        data = json.dumps({"workflow_id": "w", **message}).encode()
        return self.workflows.plan(None, "", data), data

    def begin(self, **message: Any) -> tuple[Any, bytes]:
        return self.plan(workflow="talk", reply_to=CALLER, **message)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("message", [{"payload": {"a": [1]}}, {"payload": "text"}, {"payload": None}, {}])
def test_after_a_wait_the_message_is_what_it_was(bench: Bench, message: dict[str, Any]) -> None:
    bench.inbox.open()
    for begin in (bench.begin, bench.plan):
        bench.asked.clear()
        at_once, data = begin(**message)
        later, _ = begin(**message)
        later.pack(data)
        assert (later.request.raw, later.request.payload) == ({}, None)
        for call in (at_once, later):
            call.run()
        assert bench.asked[1] == bench.asked[0]
        assert bench.asked[0][0] == message.get("payload", {})


@pytest.mark.parametrize(("given", "trace"), [({"trace": "0f3c"}, "0f3c"), ({}, "a-workflow-s-own-id")])
def test_all_messages_of_a_workflow_have_the_trace_of_the_first(
    bench: Bench, given: dict[str, Any], trace: str
) -> None:
    bench.inbox.open()
    first, _ = bench.begin(workflow_id="a-workflow-s-own-id", **given)
    second, _ = bench.plan(workflow_id="a-workflow-s-own-id")
    assert [call.request.trace for call in (first, second)] == [trace, trace]


def test_what_comes_before_the_start_is_kept_until_then(bench: Bench) -> None:
    bench.answer = "done"
    call, data = bench.begin(payload=1)
    assert call is None
    items = bench.inbox.open()
    assert items == [(None, bench.workflows.plan, "", data)]
    for work, plan, channel, kept in items:
        planned = plan(work, channel, kept)
        assert planned is not None
        planned.run()
    assert [payload for payload, _ in bench.asked] == [1]
    assert bench.publisher.sent == [(CALLER, {"payload": "done", "workflow_id": "w", "final": True})]
    assert bench.dispatcher.counts.received == 1


def test_of_too_many_bytes_before_the_start_the_last_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "EARLY_BYTES", 0)
    assert bench.begin(payload=1)[0] is None
    ((channel, said),) = bench.publisher.sent
    assert (channel, said["workflow_id"], said["status"], said["code"]) == (CALLER, "w", "error", "busy")
    assert bench.inbox.open() == []


def test_a_large_part_that_is_dropped_ends_the_workflow_with_a_small_error(bench: Bench) -> None:
    """In the format of workflows, or whoever began it does not know it for an answer."""
    bench.inbox.open()
    bench.publisher.largest = 1000
    bench.answer = "x" * 2000
    bench.begin(payload=1)[0].run()
    ((channel, said),) = bench.publisher.sent
    assert (channel, said.get("workflow_id"), said["status"], said["code"]) == (CALLER, "w", "error", "busy")


@pytest.mark.parametrize(("ahead", "clock", "run"), [(-1, "clock", False), (60, "clock", True), (-1, "other", True)])
def test_a_message_whose_deadline_has_passed_is_not_handled(bench: Bench, ahead: int, clock: str, run: bool) -> None:
    bench.inbox.open()
    bench.begin(payload=1, v=1, deadline=monotonic() + ahead, clock=clock)[0].run()
    assert (len(bench.asked), bench.dispatcher.counts.expired) == ((1, 0) if run else (0, 1))
    assert [said["code"] for _channel, said in bench.publisher.sent] == ([] if run else ["expired"])
