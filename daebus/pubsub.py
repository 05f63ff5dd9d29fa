"""The answer to a request that came over Redis, and the class behind `response` in an action handler."""

from __future__ import annotations

import logging

from .errors import Busy, DaebusError, RemoteError
from .log import Seldom
from .message import encode_error, encode_reply, encode_workflow_error, encode_workflow_part
from .names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .message import PubSubRequest, WorkflowRequest

    class Publisher(Protocol):
        """Whatever takes a message for a channel: the bus, or a redis-py client."""

        def publish(self, channel: str, data: bytes, /) -> object:
            """Take the message."""


_seldom = Seldom()


class PubSubResponse:
    """Answers one request: any number of times with progress, once for good. Usable from any thread."""

    __slots__ = ("_client", "_flush", "_open", "code", "request")
    code: str  # of the error that was the answer; not there if it was none

    streams = False  # what a generator yields is progress

    def __init__(
        self, redis_client: Publisher, request: PubSubRequest, flush: Callable[[bool], None] | None = None
    ) -> None:
        """`flush`, if given, is called after each answer: it sees to it that they leave in time."""
        self._client = redis_client
        self.request = request
        self._flush = flush
        self._open = [True]  # popped by whoever answers for good: an atomic step, so two threads cannot both

    @property
    def answered(self) -> bool:
        """Whether the final answer is given."""
        return not self._open

    def success(self, payload: Any = None, final: bool = True) -> int:
        """Answer with a value. Returns 1, or 0 when the request has its final answer already.

        Raises `Unserialisable` or `TooLarge` when the value cannot be sent; the request is then still open.
        """
        try:
            data = encode_reply(payload, self.request.request_id, final=final)
        except DaebusError as error:
            error.of_answer = True
            raise
        return self._answer(data, final)

    def send(self, payload: Any = None, final: bool = True) -> int:
        """Answer with a value; with `final=False` send a part of the answer, of which more will follow."""
        return self.success(payload, bool(final))

    def error(self, err: BaseException | str, final: bool = True) -> int:
        """Answer with an error: the text of an exception, or a text. The caller gets it as an exception."""
        error = as_error(err)
        if final and self._open:
            self.code = error.code
        return self._answer(encode_error(error, self.request.request_id, final=final), final)

    def progress(self, payload: Any = None, progress_percentage: float | None = None) -> int:
        """Send progress; the percentage, if given, is kept within 0 to 100 and added to the payload."""
        if progress_percentage is not None:
            if isinstance(progress_percentage, bool) or not isinstance(progress_percentage, int | float):
                raise TypeError(f"the percentage of progress must be a number, not {progress_percentage!r}")
            fields = payload if isinstance(payload, dict) else {"data": payload}
            payload = {**fields, "progress_percentage": max(0, min(100, progress_percentage))}
        return self.success(payload, False)

    def fail(self, error: DaebusError) -> None:
        """Answer with an error of ours."""
        self.error(error)

    def begin_error(self, error: BaseException) -> None:
        """Nothing: an answer over Redis has no status."""

    def made_of(self, result: Any) -> Any:
        """Return the answer that a handler's result stands for: that value."""
        return result

    def conclude(self, result: Any) -> None:
        """Take what the handler returned, if it has not answered."""
        self.success(result)

    def _answer(self, data: bytes, final: bool) -> int:
        if not self._take(final):
            text = f"{shown(self.request.action)} was answered already: a further answer was not sent"
            _seldom.log(logging.WARNING, self.request.action, text)
            return 0
        if self.request.reply_to is None:
            return 0
        if self._client.publish(self.request.reply_to, data) is False and final:
            text = "The answer was dropped: too many large answers wait to be sent"
            self._client.publish(self.request.reply_to, self._encoded(Busy(text)))
        if self._flush is not None:
            self._flush(final)
        return 1

    def _encoded(self, error: DaebusError) -> bytes:
        return encode_error(error, self.request.request_id)

    def _take(self, final: bool) -> bool:
        if not final:
            return bool(self._open)
        try:
            return self._open.pop()
        except IndexError:
            return False


class WorkflowResponse(PubSubResponse):
    """What a workflow's handler says to whoever began it: any number of parts, of which the final one ends it."""

    __slots__ = ("_ended", "_workflow_id")

    def __init__(
        self,
        redis_client: Publisher,
        request: WorkflowRequest,
        flush: Callable[[bool], None] | None = None,
        ended: Callable[[str], None] | None = None,
    ) -> None:
        """`ended`, if given, is called with the workflow's id after its final part."""
        super().__init__(redis_client, request, flush)
        self._workflow_id = request.workflow_id
        self._ended = ended

    def success(self, payload: Any = None, final: bool = True) -> int:
        """Say something; by default the last thing."""
        return self._say(encode_workflow_part(payload, self._workflow_id, final=final), final)

    def send(self, payload: Any = None, final: bool = False) -> int:
        """Say something; with `final=True` the last thing."""
        return self.success(payload, bool(final))

    def error(self, err: BaseException | str, final: bool = True) -> int:
        """End the workflow with an error: the text of an exception, or a text."""
        error = as_error(err)
        if self._open:
            self.code = error.code
        return self._say(self._encoded(error), True)

    def _encoded(self, error: DaebusError) -> bytes:
        return encode_workflow_error(error, self._workflow_id)

    def _say(self, data: bytes, final: bool) -> int:
        said = self._answer(data, final)
        if final and self._ended is not None:
            self._ended(self._workflow_id)
        return said

    def conclude(self, result: Any) -> None:
        """A handler that returns nothing leaves the workflow open for what follows."""
        if result is not None:
            self.success(result)


def as_error(err: BaseException | str) -> DaebusError:
    """Return what was given to `response.error` as an error of ours."""
    if not isinstance(err, BaseException | str):  # its text might be an address in memory
        raise TypeError(f"response.error() takes an exception or a text, not {type(err).__name__}")
    return err if isinstance(err, DaebusError) else RemoteError(str(err))
