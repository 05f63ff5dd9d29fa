"""`@app.workflow`: conversations over several messages, on the channel `<service>.workflows`.

The message that starts a workflow names it; those that follow carry only its id, so the ids of the workflows that
are under way are kept, with whom they talk to.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from .errors import BadMessage, DaebusError, UnknownAction
from .inbox import ActionCall
from .jsontext import loads
from .log import Seldom, one_line
from .message import WorkflowRequest, check_size
from .names import is_workflow_channel, shown
from .pubsub import WorkflowResponse
from .work import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .inbox import Inbox
    from .registry import Record

OPEN_LIMIT = 1000
"""Workflows that may be under way; beyond, the one that has been silent longest is forgotten."""


class Workflows:
    """Finds the handler for a message of a workflow."""

    def __init__(self, records: Iterable[Record], inbox: Inbox) -> None:
        self._service = service = inbox.dispatcher.service
        self.channel = f"{service}.workflows"
        self._works = {record.name: Work(record) for record in records}
        self._inbox = inbox
        self._counts = inbox.dispatcher.counts
        self._mine = inbox.mine
        # Each id, with the name, the channel of who began it, the trace, and the parent.
        self._open: OrderedDict[str, tuple[str, str, str, str | None]] = OrderedDict()
        self._seldom = Seldom()

    @property
    def works(self) -> list[Work]:
        """The handlers."""
        return list(self._works.values())

    @property
    def declared(self) -> bool:
        """Whether there are any."""
        return bool(self._works)

    def plan(self, _work: Work | None, ticket: str, data: bytes) -> ActionCall | None:
        """Return the call for a message of the workflows' channel; None when it is dealt with already."""
        self._counts.received += 1
        try:
            request = self._read(data)
        except DaebusError as error:
            self._counts.broken += 1
            text = f"A message on channel {self.channel} was ignored: {one_line(str(error))}"
            self._seldom.log(logging.WARNING, "broken", text)
            return None
        if request is None or not self._is_ours(request, ticket):
            return None
        inbox = self._inbox
        response = WorkflowResponse(inbox.publisher, request, inbox.flush, self._forget)
        if inbox.held:
            inbox.keep((None, self.plan, ticket, data), response)
            return None
        work = self._works.get(request.workflow)
        if work is None:
            response.error(UnknownAction(f"The service {self._service!r} has no workflow {shown(request.workflow)}"))
            return None
        return ActionCall(inbox, work, request, response, len(data))

    def _is_ours(self, request: WorkflowRequest, ticket: str) -> bool:
        """Note a workflow that starts, if it is this process' to run."""
        workflow_id = request.workflow_id
        if workflow_id not in self._open:
            if self._mine is not None and not self._mine(request, ticket):
                return False
            self._open[workflow_id] = (request.workflow, request.reply_to, request.trace, request.parent)
            if len(self._open) > OPEN_LIMIT:
                self._open.popitem(last=False)
        self._open.move_to_end(workflow_id)
        return True

    def _read(self, data: bytes) -> WorkflowRequest | None:
        """Return the request; None for a workflow of another process of a shared service."""
        check_size(data)
        raw = loads(data)
        workflow_id = raw.get("workflow_id") if type(raw) is dict else None
        if type(workflow_id) is not str or not 0 < len(workflow_id) <= 200:
            raise BadMessage("a workflow's message must be a JSON object with a 'workflow_id' of 1 to 200 characters")
        if "workflow" in raw:
            name, reply_to = raw["workflow"], raw.get("reply_to")
            trace, parent = raw.get("trace"), raw.get("parent")
            if type(name) is not str or not is_workflow_channel(reply_to):
                raise BadMessage(
                    "to start a workflow, 'workflow' must be its name and 'reply_to' begin with 'workflow:'"
                )
        elif workflow_id in self._open:
            name, reply_to, trace, parent = self._open[workflow_id]
        elif self._mine is not None:
            return None
        else:
            raise BadMessage(f"there is no workflow {shown(workflow_id)}: it has ended, or never began")
        return WorkflowRequest({"payload": {}, **raw}, self._service, name, workflow_id, reply_to, trace, parent)

    def _forget(self, workflow_id: str) -> None:
        self._open.pop(workflow_id, None)
