"""The room that all doors share: a handler is run, and there is exactly one final answer whatever happens.

Knows no door, no socket and no thread: a door makes calls, the engine runs them where it sees fit. The path of a
call: its `run` -> `handle` -> the handler -> `_conclude` -> `Response.conclude`.
"""

from __future__ import annotations

import logging
import os
from time import monotonic, time
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from .context import current
from .errors import (
    BadPayload,
    Busy,
    DaebusError,
    Expired,
    InternalError,
    RedisUnavailable,
    RemoteError,
    TooLarge,
    Unserialisable,
    status_of_outage,
)
from .jsontext import dumps
from .log import Budget, Seldom, leave_entry, logger, one_line
from .names import shown
from .work import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
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
        began: float  # when its handler did, in monotonic seconds

        @property
        def request(self) -> Any:
            """The request, if there is one."""

        @property
        def response(self) -> Any:
            """The `Response`, if one is wanted."""

        def refuse(self, error: DaebusError) -> None:
            """Say no."""


COROUTINE_LIMIT, COROUTINE_BYTES = 1000, 8 * 1024 * 1024
"""Coroutines of async handlers that may run at once, and the bytes of their messages (the values take more)."""

_DEFERRED = frozenset((CoroutineType, GeneratorType, AsyncGeneratorType))


class Counts:
    """What a service counts, since its start."""

    __slots__ = ("broken", "dropped", "expired", "failed", "received", "refused", "unknown")

    def __init__(self) -> None:
        self.received = self.failed = self.refused = self.unknown = 0
        self.broken = self.expired = self.dropped = 0


class Failure:
    """An error of a handler, as its log line has it; `at` in seconds since 1970."""

    __slots__ = ("at", "error_id", "kind", "name", "type")

    def __init__(self, kind: str, name: str, error_id: str, type_name: str) -> None:
        self.kind, self.name, self.error_id, self.type = kind, name, error_id, type_name
        self.at = time()


class Dispatcher:
    """Runs handlers, and sees to their answers."""

    def __init__(self, service: str, actions: Iterable[Record], flush: Callable[[], object]) -> None:
        """`flush` sends what a coroutine has answered over the bus: no thread that is at work would."""
        self.service = service
        self.actions = {record.name: Work(record) for record in actions}  # callable through more than one door
        self._flush = flush
        self.seldom = Seldom()
        self._tracebacks = Budget(burst=50, rate=5)
        self.counts = Counts()
        self.last_error: Failure | None = None
        self.verbose = logger.isEnabledFor(logging.DEBUG)  # whether each call leaves a line in the log
        self.hooks: Hooks | None = None  # set if the service declares any
        self.awaiting: set[Call] = set()  # calls whose coroutines run
        self._awaiting_bytes = 0
        self.start_coroutine: Callable[[Coroutine[Any, Any, None]], None] = _no_event_loop
        self.resume: Callable[[Work], None] = lambda _work: None

    def refuse(self, call: Call, error: DaebusError) -> None:
        """Answer a request that will not be run, or not be finished."""
        if call.response.answered:
            return
        self.counts.refused += 1
        self.seldom.log(logging.WARNING, ("refused", error.code), f"{call} was refused: {error}")
        call.response.fail(error)
        self._tell_unrun(call)

    def drop(self, channel: str, error: DaebusError) -> None:
        """Count and log a listened message that will not be handled."""
        self.counts.dropped += 1
        text = f"Messages on channel {shown(channel)} are being dropped: {error}"
        self.seldom.log(logging.WARNING, ("dropped", channel), text)

    def handle_in_time(self, call: Call, deadline: float | None) -> bool:
        """Run a handler as `handle` does, unless its caller has given up already, by the clock of this machine."""
        if deadline is not None and monotonic() > deadline:
            self.counts.expired += 1
            call.response.fail(Expired("The caller's deadline passed before the work began; it was not done"))
            self._tell_unrun(call)
            return True
        return self.handle(call)

    def handle(self, call: Call) -> bool:
        """Run a handler on this thread. False if its coroutine goes on alone; `resume` is called when it ends."""
        token = current.set(call)
        call.began = monotonic()
        done = True
        try:
            hooks = self.hooks
            result = call.work.function(*call.arguments) if hooks is None else hooks.run(call)
            if type(result) in _DEFERRED and not (type(result) is not CoroutineType and _streams(call)):
                if type(result) is not GeneratorType:
                    done = self._go_on_alone(call, result)
                    return done
                self._follow(call, result)
            elif call.response is not None:
                self._conclude(call, result)
        except BaseException as error:  # noqa: BLE001 - the last stop: SystemExit in a handler must not end a worker
            self.failed(call, error)
        finally:
            request = call.request
            if done and (self.verbose or (request is not None and request.parent is not None)):
                self._tell(call)
            current.reset(token)
        tally = call.work.tally
        tally.runs += 1
        if tally.runs >= tally.next_timed:
            tally.took(monotonic() - call.began, slow=call.work.slow)
        return True

    def _go_on_alone(self, call: Call, result: Any) -> bool:
        """Have the event loop run a coroutine; True if it is refused instead."""
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

    def _follow(self, call: Call, result: Any) -> None:
        """Run a generator, and pass on what it yields."""
        while True:
            try:
                part = next(result)
            except StopIteration as end:
                self._conclude(call, end.value)
                return
            _progress(call, part)
            if call.response is not None and call.response.answered:
                result.close()  # refused meanwhile: nobody listens any more
                return

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
            if self.verbose or _is_wanted(call):
                self._tell(call)
            call.work.tally.ran(monotonic() - call.began)
            self._done_awaiting(call)
            self._flush()
            over = getattr(call, "over", None)  # of those that count what runs
            if over is not None:
                over()
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
            self.seldom.log(logging.WARNING, ("twice", call.work.name), f"{call} returned a value after its answer")

    def _tell(self, call: Call) -> None:
        """Leave an entry in the log for a call whose handler has left this thread, or its coroutine.

        A trace that somebody wants to see has it at any level, others if the service shows what it does (debug).
        """
        fields = _ending(call)
        took = (monotonic() - call.began) * 1000
        if _is_wanted(call):
            leave_entry("%s took %.1f ms", call, took, **fields)
        else:
            logger.debug("%s took %.1f ms", call, took, extra=fields)

    def _tell_unrun(self, call: Call) -> None:
        """Leave an entry for a request of a wanted trace that is answered without having been run."""
        if not _is_wanted(call) or getattr(call, "began", None) is not None:
            return
        call.began = monotonic()
        token = current.set(call)
        fields = _ending(call)
        leave_entry("%s was not done: %s", call, fields["daebus_outcome"], **fields)
        current.reset(token)

    def failed(self, call: Call, error: BaseException) -> None:
        """See to it that a handler's error is logged, and answered: by the user's function for it, or by us."""
        try:
            self._failed(call, error)
        except BaseException as second:  # noqa: BLE001 - the user's classes and functions may do anything, even here
            self._log_failure(call, second, "while its error was answered")
            if call.response is not None and not call.response.answered:
                call.response.fail(InternalError("The service failed to do this"))

    def _failed(self, call: Call, error: BaseException) -> None:
        response = call.response
        if response is None and isinstance(error, BadPayload) and error.for_caller:
            self._broken(call, error)
            return
        answerable = response is not None and not response.answered
        if answerable and (self._answered_by_hook(call, error) or self._said_by_the_user(call, error)):
            return
        error_id = os.urandom(6).hex()
        self.counts.failed += 1
        call.work.tally.failed()
        self.last_error = Failure(call.work.kind, call.work.name, error_id, type(error).__name__)
        self._log_failure(call, error, error_id)
        if response is None or response.answered:
            return
        answer = self._fixed_sentence(error, error_id)
        if not self._answered_by_hook(call, answer):
            self._fail(call, answer)

    def _broken(self, call: Call, error: BadPayload) -> None:
        """Count a message that is not what its listener takes, and say so: nobody awaits an answer."""
        self.counts.broken += 1
        text = f"{call} was not run for a message: {one_line(str(error))}"
        self.seldom.log(logging.WARNING, ("broken", call.work.name), text)

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
        except BaseException:  # noqa: BLE001 - the user's own class: its text or its code may be anything
            return False
        return True

    def _fail(self, call: Call, error: DaebusError) -> None:
        """Answer with an error; over HTTP, the functions after a handler see that, too."""
        if self.hooks is not None and call.work.hooked and call.response.streams:
            try:
                answer = self.hooks.after(call.response.failure(error))
                call.response.deliver(call.response.made_of(answer))
            except BaseException as second:  # noqa: BLE001 - a user's function
                self._log_failure(call, second, "in a function after it")
            else:
                return
        call.response.fail(error)

    def _fixed_sentence(self, error: BaseException, error_id: str) -> DaebusError:
        where = f"the log of {self.service!r} has the reason under error id {error_id}"
        answer: DaebusError
        ours = isinstance(error, DaebusError) and error.of_answer
        if ours and isinstance(error, Unserialisable):
            answer = Unserialisable(f"The answer cannot be written as JSON; {where}")
        elif ours and isinstance(error, TooLarge):
            answer = TooLarge(f"The answer is too large to be sent; {where}")
        else:
            outage = status_of_outage(error)
            said = (
                "The service failed to do this" if outage is None else "Something that this needs is not available now"
            )
            answer = InternalError(f"{said}; {where}")
            if outage is not None:
                answer.http_status = outage
                answer.code = error.code if isinstance(error, DaebusError) else RedisUnavailable.code
        answer.error_id = error_id
        answer.__cause__ = error
        return answer

    def _log_failure(self, call: Call, error: BaseException, error_id: str) -> None:
        text = f"{call} failed (error id {error_id})"
        fields = {"daebus_error_id": error_id}
        if status_of_outage(error) is not None:  # where it happened says nothing about why
            logger.error("%s: %s: %s", text, type(error).__name__, one_line(str(error)), extra=fields)
        elif self._tracebacks.take():
            logger.error("%s", text, exc_info=error, extra=fields)
        else:
            key = ("failed", call.work.name)
            self.seldom.log(logging.ERROR, key, f"{text}: {type(error).__name__}; too many at once to show each")


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


def _is_wanted(call: Call) -> bool:
    """Whether somebody wants to see the trace that a call belongs to."""
    return call.request is not None and call.request.parent is not None


def _ending(call: Call) -> dict[str, str]:
    """Return the fields of the entry that a call leaves: when it began, and how it went."""
    return {"daebus_began": f"{call.began:.6f}", "daebus_outcome": _outcome(call)}


def _outcome(call: Call) -> str:
    """Return how a call went, in a word: "ok", the code of its error, or the status over HTTP."""
    status = getattr(call.response, "status", None)
    return str(status) if type(status) is int else getattr(call.response, "code", "ok")


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
