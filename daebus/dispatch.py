"""From a message to a handler and back: what to run, and exactly one final answer whatever happens.

Knows no socket and no thread: it is given a publisher, and gives the engine calls that the engine runs where it
sees fit. The path of a request: `plan_request` -> engine -> `ActionCall.run` -> `handle` -> the handler ->
`_conclude` -> `PubSubResponse.success` -> the publisher.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from time import monotonic
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from .context import current
from .errors import (
    BadMessage,
    Busy,
    DaebusError,
    Expired,
    InternalError,
    RedisUnavailable,
    RemoteError,
    RequestTimeout,
    ServiceUnavailable,
    TooLarge,
    UnknownAction,
    Unserialisable,
)
from .jsontext import dumps, loads
from .log import Budget, Seldom, logger, one_line
from .message import PubSubRequest, address, check_size, encode_error, read_request
from .names import RESERVED, shown
from .pubsub import PubSubResponse
from .work import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from typing import Any, Protocol

    from .hooks import Hooks
    from .registry import Record

    class Response(Protocol):
        """What answers a request."""

        streams: bool

        @property
        def answered(self) -> bool:
            """Whether the final answer is given."""

        def made_of(self, result: Any) -> Any:
            """Return the answer that a handler's result stands for."""

        def conclude(self, result: Any) -> None:
            """Answer with what the handler returned."""

        def fail(self, error: DaebusError) -> None:
            """Answer with an error of ours."""

        def progress(self, payload: Any) -> object:
            """Pass on what a generator yields."""

    class Call(Protocol):
        """A request or message on its way through its handler, whichever door it came in by."""

        work: Work
        arguments: tuple[Any, ...]
        size: int  # bytes of the message

        @property
        def request(self) -> Any:
            """The request, if there is one."""

        @property
        def response(self) -> Any:
            """The `Response`, if one is wanted."""

        def refuse(self, error: DaebusError) -> None:
            """Say no."""

    Item = tuple[Work | None, Callable[[Any, str, bytes], Any], str, bytes]
    Reserved = Mapping[str, Callable[[PubSubRequest], Any]]

EARLY_LIMIT, EARLY_BYTES = 1000, 16 * 1024 * 1024
"""Messages, and their bytes, that may wait until the service has started."""

COROUTINE_LIMIT, COROUTINE_BYTES = 1000, 8 * 1024 * 1024
"""Coroutines of async handlers that may run at once, and the bytes of their messages (the values take more)."""

_DEFERRED = (CoroutineType, GeneratorType, AsyncGeneratorType)


class ActionCall:
    """A request on its way through its handler. The engine runs it, or refuses it."""

    __slots__ = ("_dispatcher", "_packed", "request", "response", "size", "work")
    arguments = ()

    def __init__(
        self, dispatcher: Dispatcher, work: Work, request: PubSubRequest, response: PubSubResponse, size: int
    ) -> None:
        self._dispatcher = dispatcher
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
        return self._dispatcher.run_action(self)

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

    __slots__ = ("_dispatcher", "_packed", "arguments", "request", "response", "size", "work")

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


class Counts:
    """What a service counts, since its start."""

    __slots__ = ("broken", "dropped", "expired", "failed", "received", "refused", "unknown")

    def __init__(self) -> None:
        self.received = self.failed = self.refused = self.unknown = 0
        self.broken = self.expired = self.dropped = 0


class Dispatcher:
    """Finds the handler for a message, runs it, and sees to the answer."""

    def __init__(
        self,
        service: str,
        actions: Iterable[Record],
        reserved: Reserved,
        publisher: Any,
        clock: str,
        mine: Callable[[PubSubRequest | None, str], bool] | None = None,
        flush: Callable[[bool], None] | None = None,
    ) -> None:
        """`mine`, given for a shared service, says whether this process is the one to answer a message.

        `flush` is called after each answer, with whether it was the final one.
        """
        self._service = service
        self._actions = {record.name: Work(record) for record in actions}
        self._reserved = reserved
        self._publisher = publisher
        self._clock = clock
        self._seldom = Seldom()
        self._tracebacks = Budget(burst=50, rate=5)
        self.counts = Counts()
        self._mine: Callable[[PubSubRequest | None, str], bool] | None = mine
        self.flush = flush
        self.hooks: Hooks | None = None  # set if the service declares any
        self._early: list[Item] | None = []  # what came before `open`, as it came
        self._early_bytes = 0
        self.awaiting: set[Call] = set()  # calls whose coroutines run
        self._awaiting_bytes = 0
        self.start_coroutine: Callable[[Coroutine[Any, Any, None]], None] = _no_event_loop
        self.resume: Callable[[Work], None] = lambda _work: None

    @property
    def actions(self) -> dict[str, Work]:
        """The declared actions."""
        return self._actions

    def plan_request(
        self, _work: Work | None, ticket: str, data: bytes, arrived: float | None = None
    ) -> ActionCall | None:
        """Return the call for a message of the service's own channel; None when it is dealt with already."""
        arrived = monotonic() if arrived is None else arrived
        request = self._read_request(ticket, data, arrived)
        if request is None:
            return None
        response = PubSubResponse(self._publisher, request, self.flush)
        if request.action in self._reserved:
            self._introduce(request, response)
            return None
        if self._early is not None:
            self.keep((None, partial(self.plan_request, arrived=arrived), ticket, data), response)
            return None
        if self._mine is not None and not self._mine(request, ticket):
            return None
        work = self._actions.get(request.action)
        if work is None:
            self._not_declared(request, response)
            return None
        return ActionCall(self, work, request, response, len(data))

    def _read_request(self, ticket: str, data: bytes, arrived: float) -> PubSubRequest | None:
        """Return the request that a message is; None when it is none, and that is answered."""
        self.counts.received += 1
        raw: Any = data
        try:
            check_size(data)
            raw = loads(data)
            request = read_request(raw, self._service)
        except DaebusError as error:
            if self._mine is None or self._mine(None, ticket):
                self._broken(error, raw)
            return None
        if request.timeout is not None and request.clock != self._clock:  # of another machine: by our own clock
            request.deadline, request.clock = arrived + request.timeout, self._clock
        return request

    def plan_message(self, work: Work, channel: str, data: bytes) -> ListenCall | None:
        """Return the call for a message of a listened channel; None when it cannot be read."""
        self.counts.received += 1
        try:
            check_size(data)
            call = ListenCall(self, work, channel, loads(data), len(data))
        except DaebusError as error:
            self.counts.broken += 1
            text = f"A message on channel {shown(channel)} was ignored: {one_line(str(error))}"
            self._seldom.log(logging.WARNING, ("broken", channel), text)
            return None
        if self._early is None:
            return call
        self.keep((work, self.plan_message, channel, data), None)
        return None

    def keep(self, item: Item, response: PubSubResponse | None) -> None:
        """Keep an item until `open`: the service has not started. Its bytes, because what they become is larger."""
        early, size = self._early or [], len(item[3])
        self.counts.received -= 1  # it will be counted when it is planned again
        if self._early is not None and len(early) < EARLY_LIMIT and self._early_bytes + size <= EARLY_BYTES:
            self._early.append(item)
            self._early_bytes += size
        elif response is None:
            self.drop(item[2], Busy("the service is starting"))
        elif self._mine is None or self._mine(response.request, item[2]):
            response.error(Busy("The service is starting, and enough requests wait for it already; try again later"))

    def _broken(self, error: DaebusError, raw: Any) -> None:
        self.counts.broken += 1
        reply_to, request_id = address(raw, self._service)
        source = f" from {reply_to}" if reply_to else ""
        text = f"A broken message{source} was not run: {one_line(str(error))}"
        self._seldom.log(logging.WARNING, ("broken", reply_to), text)
        if reply_to is not None:
            answer = BadMessage(f"The message is broken: {error}") if isinstance(error, BadMessage) else error
            self._publisher.publish(reply_to, encode_error(answer, request_id))

    @property
    def held(self) -> bool:
        """Whether calls are kept until `open`."""
        return self._early is not None

    def open(self) -> list[Item]:
        """Let messages through from now on; return those that came before. On the reader."""
        early, self._early = self._early or [], None
        return early

    def _introduce(self, request: PubSubRequest, response: PubSubResponse) -> None:
        try:
            response.success(self._reserved[request.action](request))
        except DaebusError as error:
            response.error(error)

    def _not_declared(self, request: PubSubRequest, response: PubSubResponse) -> None:
        self.counts.unknown += 1
        text = f"The service {self._service!r} has no action {shown(request.action)}{self._hint(request.action)}"
        self._seldom.log(logging.WARNING, ("unknown", request.action[:200]), text)
        response.error(UnknownAction(text))

    def _hint(self, action: str) -> str:
        from difflib import get_close_matches

        near = get_close_matches(action[:200], self._actions, n=1) if not action.startswith(RESERVED) else []
        return f"; did you mean {near[0]!r}?" if near else ""

    def run_action(self, call: ActionCall) -> bool:
        """Run the handler of a request, unless its caller has given up already."""
        request = call.request
        if request.deadline is not None and request.clock == self._clock and monotonic() > request.deadline:
            self.counts.expired += 1
            call.response.fail(Expired("The caller's deadline passed before the work began; it was not done"))
            return True
        return self.handle(call)

    def refuse(self, call: ActionCall, error: DaebusError) -> None:
        """Answer a request that will not be run, or not be finished."""
        if call.response.answered:
            return
        self.counts.refused += 1
        self._seldom.log(logging.WARNING, ("refused", error.code), f"{call} was refused: {error}")
        call.response.fail(error)

    def drop(self, channel: str, error: DaebusError) -> None:
        """Count and log a listened message that will not be handled."""
        self.counts.dropped += 1
        text = f"Messages on channel {shown(channel)} are being dropped: {error}"
        self._seldom.log(logging.WARNING, ("dropped", channel), text)

    def handle(self, call: Call) -> bool:
        """Run a handler on this thread. False if its coroutine goes on alone; `resume` is called when it ends."""
        token = current.set(call)
        try:
            hooks = self.hooks
            result = call.work.function(*call.arguments) if hooks is None else hooks.run(call)
            if type(result) in _DEFERRED and not (type(result) is not CoroutineType and _streams(call)):
                return self._follow(call, result)
            self._conclude(call, result)
        except BaseException as error:  # noqa: BLE001 - the last stop: SystemExit in a handler must not end a worker
            self.failed(call, error)
        finally:
            current.reset(token)
        return True

    def _follow(self, call: Call, result: Any) -> bool:
        if type(result) is not GeneratorType:
            if len(self.awaiting) >= COROUTINE_LIMIT or (
                self.awaiting and self._awaiting_bytes + call.size > COROUTINE_BYTES
            ):
                _throw_away(result)
                call.refuse(Busy("The service is busy: as many coroutines run as it takes; try again later"))
                return True
            self.awaiting.add(call)
            self._awaiting_bytes += call.size
            try:
                self.start_coroutine(self._await(call, result))
            except BaseException:
                self._done_awaiting(call)
                _throw_away(result)
                raise
            return False
        while True:
            try:
                part = next(result)
            except StopIteration as end:
                self._conclude(call, end.value)
                return True
            _progress(call, part)
            if call.response is not None and call.response.answered:
                result.close()  # refused meanwhile: nobody listens any more
                return True

    async def _await(self, call: Call, result: Any) -> None:
        current.set(call)  # in the context of this task alone
        try:
            if type(result) is AsyncGeneratorType:
                await self._exhaust(call, result)
            else:
                self._conclude(call, await result)
        except BaseException as error:  # noqa: BLE001 - as in `handle`; cancellation (at the end of a drain) included
            self.failed(call, error)
        finally:
            self._done_awaiting(call)
            self._publisher.flush()
            self.resume(call.work)

    async def _exhaust(self, call: Call, parts: Any) -> None:
        async for part in parts:
            _progress(call, part)
            if call.response is not None and call.response.answered:
                await parts.aclose()  # refused meanwhile: nobody listens any more
                return
        self._conclude(call, None)

    def _done_awaiting(self, call: Call) -> None:
        self.awaiting.discard(call)
        self._awaiting_bytes -= call.size

    def _conclude(self, call: Call, result: Any) -> None:
        response = call.response
        if response is None:
            return
        if self.hooks is not None and call.work.hooked:
            result = self.hooks.after(response.made_of(result))
        if not response.answered:
            response.conclude(result)
        elif result is not None and type(result) is not int:
            self._seldom.log(logging.WARNING, ("twice", call.work.name), f"{call} returned a value after its answer")

    def failed(self, call: Call, error: BaseException) -> None:
        """See to it that a handler's error is logged, and answered: by the user's function for it, or by us."""
        response = call.response
        answerable = response is not None and not response.answered
        if answerable and (self._answered_by_hook(call, error) or self._said_by_the_user(call, error)):
            return
        self.counts.failed += 1
        error_id = os.urandom(6).hex()
        self._log_failure(call, error, error_id)
        if response is None or response.answered:
            return
        answer = self._fixed_sentence(error, error_id)
        if not self._answered_by_hook(call, answer):
            self._fail(call, answer)

    def _answered_by_hook(self, call: Call, error: BaseException) -> bool:
        hook = self.hooks.for_error(error, call) if self.hooks is not None else None
        if hook is None:
            return False
        try:
            result = hook(error)
            if call.response.streams:
                self._conclude(call, result)
            elif not call.response.answered:
                call.response.fail(_error_of(result, error))  # whoever called an action sees an error as such
        except BaseException as second:  # noqa: BLE001 - then the usual answer is given
            if isinstance(second, DaebusError) and second is not error and self._said_by_the_user(call, second):
                return True
            self._log_failure(call, second, "in its error function")
            return False
        return True

    def _said_by_the_user(self, call: Call, error: BaseException) -> bool:
        """Answer with an error that the handler raised for its caller; False if it is none, or cannot be written."""
        if not (isinstance(error, DaebusError) and error.for_caller):
            return False
        try:
            self._fail(call, error)
        except Exception:  # noqa: BLE001 - the user's own class: its text or its code may be anything
            return False
        return True

    def _fail(self, call: Call, error: DaebusError) -> None:
        """Answer with an error; over HTTP, the functions after a handler see that, too."""
        if self.hooks is not None and call.work.hooked and call.response.streams:
            try:
                answer = self.hooks.after(call.response.failure(error))
                call.response.deliver(call.response.made_of(answer))
            except Exception as second:  # noqa: BLE001 - a user's function
                self._log_failure(call, second, "in a function after it")
            else:
                return
        call.response.fail(error)

    def _fixed_sentence(self, error: BaseException, error_id: str) -> DaebusError:
        where = f"the log of {self._service!r} has the reason under error id {error_id}"
        answer: DaebusError
        ours = isinstance(error, DaebusError) and error.of_answer
        if ours and isinstance(error, Unserialisable):
            answer = Unserialisable(f"The answer cannot be written as JSON; {where}")
        elif ours and isinstance(error, TooLarge):
            answer = TooLarge(f"The answer is too large to be sent; {where}")
        else:
            answer = InternalError(f"The service failed to do this; {where}")
            answer.http_status = _status(error)
        answer.error_id = error_id
        answer.__cause__ = error
        return answer

    def _log_failure(self, call: Call, error: BaseException, error_id: str) -> None:
        text = f"{call} failed (error id {error_id})"
        if self._tracebacks.take():
            logger.error("%s", text, exc_info=error)
        else:
            key = ("failed", call.work.name)
            self._seldom.log(logging.ERROR, key, f"{text}: {type(error).__name__}; too many at once to show each")


def _status(error: BaseException) -> int:
    """Return the HTTP status of a handler's failure: 503 and 504 if what it needs is away, be it through redis-py."""
    if isinstance(error, RedisUnavailable | ServiceUnavailable | RequestTimeout):
        return error.http_status
    away = ("ConnectionError", "TimeoutError")
    redispy = any(cls.__module__.startswith("redis.") and cls.__name__ in away for cls in type(error).__mro__)
    return 503 if redispy else 500


def _error_of(result: Any, error: BaseException) -> DaebusError:
    """Return the error that a user's error function answers an action with."""
    if isinstance(result, tuple) and len(result) > 1 and isinstance(result[1], int):
        result = result[0]  # the rest is for HTTP
    if result is None:
        result = str(error) if isinstance(error, DaebusError) and error.for_caller else "The service failed to do this"
    text = result.get("error") if isinstance(result, dict) and "error" in result else result
    answer = RemoteError(text if isinstance(text, str) else dumps(text))
    if isinstance(error, DaebusError):
        answer.code, answer.error_id = error.code, error.error_id
    return answer


def _streams(call: Call) -> bool:
    return call.response is not None and call.response.streams


def _progress(call: Call, part: Any) -> None:
    if call.response is not None:
        call.response.progress(part)


def _throw_away(result: Any) -> None:
    if type(result) is CoroutineType:
        result.close()  # an async generator that was never begun needs nothing


def _no_event_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    coroutine.close()
    raise RuntimeError("no event loop was given for async handlers")
