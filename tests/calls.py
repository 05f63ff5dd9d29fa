"""A service's dispatcher and inbox without engine and Redis, and the messages that tests send them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Any

from daebus.dispatch import Counts, Dispatcher
from daebus.errors import DaebusError, error_from_wire
from daebus.inbox import Inbox
from daebus.message import PubSubRequest
from daebus.registry import Record
from daebus.work import Work

if TYPE_CHECKING:
    from daebus.engine import Item

CALLER = "caller:someone"


class Publisher:
    """Keeps what it is given, in the order of publishing, as JSON."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.flushed = 0  # how many of them have left

    def publish(self, channel: str, data: bytes) -> bool:
        self.sent.append((channel, json.loads(data)))
        return True

    def flush(self) -> None:
        self.flushed = len(self.sent)

    def flush_answer(self, final: bool) -> None:
        """As a service does on its reader, which sends the final ones of a batch together."""
        if not final:
            self.flush()

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [answer for channel, answer in self.sent if channel == CALLER]


class Bench:
    """An inbox and a dispatcher with their publisher, on this thread: no engine, no Redis."""

    def __init__(self, *, mine: Callable[[PubSubRequest | None, str], bool] | None = None) -> None:
        self.publisher = Publisher()
        self._mine = mine
        self._records: list[Record] = []
        self._reserved: dict[str, Callable[[PubSubRequest], Any]] = {}
        self.started: list[Coroutine[Any, Any, None]] = []
        self.resumed: list[Work] = []

    def action(self, function: Callable[..., Any], name: str = "act") -> Bench:
        self._records.append(Record("action", name, function))
        return self

    def reserve(self, name: str, function: Callable[[PubSubRequest], Any]) -> Bench:
        self._reserved[name] = function
        return self

    @cached_property
    def dispatcher(self) -> Dispatcher:
        dispatcher = Dispatcher("svc", self._records, self.publisher.flush)
        dispatcher.start_coroutine = self.started.append
        dispatcher.resume = self.resumed.append
        return dispatcher

    @cached_property
    def inbox(self) -> Inbox:
        publisher = self.publisher
        return Inbox(self.dispatcher, publisher, self._reserved, "clock", self._mine, publisher.flush_answer)

    @property
    def counts(self) -> Counts:
        return self.dispatcher.counts

    def open(self) -> list[Item]:
        return self.inbox.open()

    def plan(self, message: dict[str, Any] | bytes) -> Any:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.inbox.plan_request(None, "", data)

    def plan_again(self) -> list[Any]:
        """Open, and plan what was kept, as the engine does then."""
        return [plan(work, channel, data) for work, plan, channel, data in self.open()]

    def handle(self, message: dict[str, Any] | bytes) -> list[dict[str, Any]]:
        """What the caller is answered."""
        if self.inbox.held:
            self.open()
        call = self.plan(message)
        if call is not None:
            finished = call.run()
            assert finished is (not self.started)
        for coroutine in self.started:
            asyncio.run(coroutine)
        self.started.clear()
        return self.publisher.answers

    def ask(self, function: Callable[..., Any], payload: Any = None) -> list[dict[str, Any]]:
        return self.action(function).handle(message(payload))


def message(payload: Any = None, **changes: Any) -> dict[str, Any]:
    return {"action": "act", "payload": payload, "reply_to": CALLER, "request_id": "r", "service": "svc", **changes}


def success(payload: Any, *, final: bool = True) -> dict[str, Any]:
    return {"status": "success", "payload": payload, "request_id": "r", "final": final}


def error_of(answers: list[dict[str, Any]]) -> DaebusError:
    """The one answer, as the error that a caller raises for it."""
    (answer,) = answers
    assert (answer["status"], answer["request_id"], answer["final"]) == ("error", "r", True)
    return error_from_wire(answer["payload"]["error"], answer["code"], answer.get("error_id"))
