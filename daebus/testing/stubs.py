"""Other services, as a test has them answer: real dispatchers and inboxes with the test's functions in them."""

from __future__ import annotations

from ..context import request
from ..inbox import Inbox
from ..registry import Record
from ..target import clock_id
from ..work import Work, _positional

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..dispatch import Dispatcher
    from .switch import Switch


class Stub:
    """One action of another service. `calls` are the payloads that it was called with, in order."""

    def __init__(self, answer: Any) -> None:
        self.calls: list[Any] = []
        self._answer = answer
        self._takes_payload = callable(answer) and not isinstance(answer, type) and _positional(answer) > 0

    def __call__(self) -> Any:
        """Answer a request: by the test's function, error or value."""
        self.calls.append(request.payload)
        if isinstance(self._answer, BaseException) or _is_error(self._answer):
            raise self._answer
        if not callable(self._answer):
            return self._answer
        return self._answer(request.payload) if self._takes_payload else self._answer()


def _is_error(answer: object) -> bool:
    return isinstance(answer, type) and issubclass(answer, BaseException)


class StubService:
    """A service that a test stands in for."""

    def __init__(self, switch: Switch, dispatcher: Dispatcher, run: Callable[[Any], Any]) -> None:
        """`run` runs a call, or has it run."""
        self._dispatcher = dispatcher
        self._run = run
        self._inbox = Inbox(dispatcher, switch.bus, {}, clock_id())
        self._inbox.open()

    def answers(self, action: str, stub: Stub) -> None:
        """Have an action answered."""
        self._dispatcher.actions[action] = Work(Record("action", action, stub))

    def take(self, data: bytes) -> None:
        """Take a message."""
        call = self._inbox.plan_request(None, "", data)
        if call is not None:
            self._run(call)
