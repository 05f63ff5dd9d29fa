"""What comes over the bus, on its way in: a message becomes a call, or is answered, kept or counted right here.

Knows no socket and no thread: it is given a publisher for the answers, and what it plans the engine runs. The path of
a request: `plan_request` -> engine -> `ActionCall.run` -> `Dispatcher.handle` -> `PubSubResponse.success` -> the
publisher.
"""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic

from .errors import BadMessage, Busy, DaebusError, UnknownAction
from .jsontext import loads
from .log import one_line
from .message import address, check_size, encode_error, read_request
from .names import RESERVED, did_you_mean, shown
from .pubsub import PubSubResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .dispatch import Dispatcher
    from .engine import Item
    from .message import PubSubRequest
    from .work import Work

    Reserved = Mapping[str, Callable[[PubSubRequest], Any]]

EARLY_LIMIT, EARLY_BYTES = 10_000, 16 * 1024 * 1024
"""Messages, and their bytes, that may wait until the service has started."""


class ActionCall:
    """A request on its way through its handler. The engine runs it, or refuses it."""

    __slots__ = ("_deadline", "_dispatcher", "_packed", "began", "request", "response", "size", "work")
    arguments = ()
    began: float

    def __init__(self, inbox: Inbox, work: Work, request: PubSubRequest, response: PubSubResponse, size: int) -> None:
        self._dispatcher = inbox.dispatcher
        self._deadline = request.deadline if request.clock == inbox.clock else None  # another clock says nothing here
        self._packed: bytes | None = None
        self.size = size  # bytes of the message
        self.work = work
        self.request = request
        self.response = response

    def run(self) -> bool:
        """Handle the request on this thread; False if a coroutine goes on with it on the event loop."""
        if self._packed is not None:
            self.request.unpack(loads(self._packed))
            self._packed = None
        return self._dispatcher.handle_in_time(self, self._deadline)

    def pack(self, data: bytes) -> None:
        """Before a wait: give up what was read of the message, which takes much more memory than its bytes."""
        self._packed = data
        self.request.pack()

    def refuse(self, error: DaebusError) -> None:
        """Answer with an error instead of running."""
        self._dispatcher.refuse(self, error)

    def __str__(self) -> str:
        return f"Action {one_line(self.work.name)!r} (request {shown(self.request.request_id)})"


class ListenCall:
    """A message of a listened channel on its way through its listener."""

    __slots__ = ("_dispatcher", "_packed", "arguments", "began", "request", "response", "size", "work")
    began: float

    def __init__(self, dispatcher: Dispatcher, work: Work, channel: str, payload: Any, size: int) -> None:
        self._dispatcher = dispatcher
        self._packed: bytes | None = None
        self.size = size
        self.work = work
        self.arguments = (payload, channel) if work.wants_channel else (payload,)
        self.request = None
        self.response = None

    def run(self) -> bool:
        """Handle the message on this thread; False if a coroutine goes on with it on the event loop."""
        if self._packed is not None:
            self.arguments = (loads(self._packed), *self.arguments[1:])
            self._packed = None
        return self._dispatcher.handle(self)

    def pack(self, data: bytes) -> None:
        """Before a wait: give up what was read of the message."""
        self._packed = data
        self.arguments = (None, *self.arguments[1:])

    def refuse(self, error: DaebusError) -> None:
        """Drop the message, visibly."""
        self._dispatcher.drop(self.work.name, error)

    def __str__(self) -> str:
        return f"The listener of channel {one_line(self.work.name)!r}"


class Inbox:
    """Reads the messages of a service, and finds their handlers."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        publisher: Any,
        reserved: Reserved,
        clock: str,
        mine: Callable[[PubSubRequest | None, str], bool] | None = None,
        flush: Callable[[bool], None] | None = None,
    ) -> None:
        """`mine`, given for a shared service, says whether this process is the one to answer a message.

        `flush` is called after each answer, with whether it was the final one.
        """
        self.dispatcher = dispatcher
        self.publisher = publisher
        self.clock = clock
        self.mine: Callable[[PubSubRequest | None, str], bool] | None = mine
        self.flush: Callable[[bool], None] | None = flush
        self._service = dispatcher.service
        self._actions = dispatcher.actions
        self._reserved = reserved
        self._counts = dispatcher.counts
        self._seldom = dispatcher.seldom
        self._early: list[Item] | None = []  # what came before `open`, as it came
        self._early_bytes = 0

    # --- requests ---

    def plan_request(
        self, _work: Work | None, ticket: str, data: bytes, arrived: float | None = None
    ) -> ActionCall | None:
        """Return the call for a message of the service's own channel; None when it is dealt with already."""
        arrived = monotonic() if arrived is None else arrived
        request = self._read_request(ticket, data, arrived)
        if request is None:
            return None
        response = PubSubResponse(self.publisher, request, self.flush)
        if request.action in self._reserved:  # it is no request of a user's, so it is not counted
            self._introduce(request, response)
            return None
        self._counts.received += 1
        if self._early is not None:
            self.keep((None, partial(self.plan_request, arrived=arrived), ticket, data), response)
            return None
        if self.mine is not None and not self.mine(request, ticket):
            return None
        work = self._actions.get(request.action)
        if work is None:
            self._not_declared(request, response)
            return None
        return ActionCall(self, work, request, response, len(data))

    def _read_request(self, ticket: str, data: bytes, arrived: float) -> PubSubRequest | None:
        """Return the request that a message is; None when it is none, and that is answered."""
        raw: Any = data
        try:
            check_size(data)
            raw = loads(data)
            request = read_request(raw, self._service)
        except DaebusError as error:
            self._counts.received += 1
            if self.mine is None or self.mine(None, ticket):
                self._broken(error, raw)
            return None
        if request.timeout is not None and request.clock != self.clock:  # of another machine: by our own clock
            request.deadline, request.clock = arrived + request.timeout, self.clock
        return request

    def _broken(self, error: DaebusError, raw: Any) -> None:
        self._counts.broken += 1
        reply_to, request_id = address(raw, self._service)
        source = f" from {reply_to}" if reply_to else ""
        text = f"A broken message{source} was not run: {one_line(str(error))}"
        self._seldom.log(logging.WARNING, ("broken", reply_to), text)
        if reply_to is not None:
            answer = BadMessage(f"The message is broken: {error}") if isinstance(error, BadMessage) else error
            self.publisher.publish(reply_to, encode_error(answer, request_id))

    def _introduce(self, request: PubSubRequest, response: PubSubResponse) -> None:
        try:
            answer = self._reserved[request.action](request)
            if answer is not None:  # else it is not for this process
                response.success(answer)
        except DaebusError as error:
            response.error(error)

    def _not_declared(self, request: PubSubRequest, response: PubSubResponse) -> None:
        self._counts.unknown += 1
        text = f"The service {self._service!r} has no action {shown(request.action)}{self._hint(request.action)}"
        self._seldom.log(logging.WARNING, ("unknown", request.action[:200]), text)
        response.error(UnknownAction(text))

    def _hint(self, action: str) -> str:
        return "" if action.startswith(RESERVED) else did_you_mean(action, self._actions)

    # --- listened messages ---

    def plan_message(self, work: Work, channel: str, data: bytes) -> ListenCall | None:
        """Return the call for a message of a listened channel; None when it cannot be read."""
        self._counts.received += 1
        try:
            check_size(data)
            call = ListenCall(self.dispatcher, work, channel, loads(data), len(data))
        except DaebusError as error:
            self._counts.broken += 1
            text = f"A message on channel {shown(channel)} was ignored: {one_line(str(error))}"
            self._seldom.log(logging.WARNING, ("broken", channel), text)
            return None
        if self._early is None:
            return call
        self.keep((work, self.plan_message, channel, data), None)
        return None

    # --- before the service has started ---

    @property
    def held(self) -> bool:
        """Whether messages are kept until `open`."""
        return self._early is not None

    def keep(self, item: Item, response: PubSubResponse | None) -> None:
        """Keep an item until `open`: the service has not started. Its bytes, because what they become is larger."""
        early, size = self._early or [], len(item[3])
        self._counts.received -= 1  # it will be counted when it is planned again
        if self._early is not None and len(early) < EARLY_LIMIT and self._early_bytes + size <= EARLY_BYTES:
            self._early.append(item)
            self._early_bytes += size
        elif response is None:
            self.dispatcher.drop(item[2], Busy("the service is starting"))
        elif self.mine is None or self.mine(response.request, item[2]):
            response.error(Busy("The service is starting, and enough requests wait for it already; try again later"))

    def open(self) -> list[Item]:
        """Let messages through from now on; return those that came before. On the reader."""
        early, self._early = self._early or [], None
        return early

    def turn_away(self, error: DaebusError) -> None:
        """Refuse what came before `open`: the service will not start. On the reader."""
        for work, plan, ticket, data in self.open():
            call = plan(work, ticket, data)
            if call is not None:
                call.refuse(error)
