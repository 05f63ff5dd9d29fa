"""A workflow of a service under test, as whoever began it hears it."""

from __future__ import annotations

from collections import deque
from functools import partial

from ..errors import DaebusError, ServiceUnavailable, error_from_wire
from ..jsontext import loads
from ..link import new_id
from ..message import encode_workflow_message
from .sockets import NothingReceived

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .runtime import Runtime


class Conversation:
    """One workflow. `ended` says whether it is over, `error` what ended it if that was an error."""

    def __init__(self, runtime: Runtime, service: str) -> None:
        self._runtime = runtime
        self._service = service
        self._channel = f"{service}.workflows"
        self._received: deque[Any] = deque()
        self.workflow_id = new_id()
        self.ended = False
        self.error: DaebusError | None = None

    def begin(self, name: str, payload: Any) -> None:
        """Begin it."""
        reply_to = f"workflow:test-{self.workflow_id}"
        self._runtime.switch.hearers[reply_to] = self._take
        start = {"workflow": name, "reply_to": reply_to, "service": self._service}
        self._deliver(encode_workflow_message(payload, self.workflow_id, **start), f"workflow {name!r}")

    def send(self, payload: Any) -> None:
        """Say something to the workflow, and have it handled."""
        if self.ended:
            raise DaebusError("the workflow has ended")
        self._deliver(encode_workflow_message(payload, self.workflow_id), "the workflow")

    def receive(self) -> Any:
        """Return what the workflow said next; raise the error that ended it, or `NothingReceived`."""
        if self._received:
            return self._received.popleft()
        if self.error is not None:
            raise self.error
        raise NothingReceived("the workflow has ended" if self.ended else "the workflow has said nothing more")

    def _deliver(self, data: bytes, doing: str) -> None:
        runtime = self._runtime
        runtime.switch.check(runtime.settings)
        if not runtime.switch.subscribers(self._channel):
            raise ServiceUnavailable(f"the service {self._service!r} declares no workflow")
        runtime.on_worker(partial(runtime.switch.publish, self._channel, data, noted=False), doing)

    def _take(self, data: bytes) -> None:
        part = loads(data)
        payload = part.get("payload")
        self.ended = self.ended or bool(part.get("final"))
        if part.get("status") == "error":
            self.error = error_from_wire(str(payload.get("error")), part.get("code"), None)
        else:
            self._received.append(payload)
