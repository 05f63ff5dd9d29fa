"""The answer to a request that came over Redis, and the class behind `response` in an action handler."""

from __future__ import annotations

from .errors import DaebusError, RemoteError
from .log import logger
from .message import encode_error, encode_reply
from .names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .message import PubSubRequest

    class Publisher(Protocol):
        """Whatever takes a message for a channel: the bus, or a redis-py client."""

        def publish(self, channel: str, data: bytes, /) -> object:
            """Take the message."""


class PubSubResponse:
    """Answers one request: any number of times with progress, once for good. Usable from any thread."""

    __slots__ = ("_client", "_flush", "_open", "request")

    def __init__(
        self, redis_client: Publisher, request: PubSubRequest, flush: Callable[[], None] | None = None
    ) -> None:
        """`flush`, if given, is called after progress, which must not wait for the end of a batch."""
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
        return self._answer(encode_reply(payload, self.request.request_id, final=final), final)

    def send(self, payload: Any = None, final: bool = True) -> int:
        """Answer with a value; with `final=False` send a part of the answer, of which more will follow."""
        return self.success(payload, bool(final))

    def error(self, err: BaseException | str, final: bool = True) -> int:
        """Answer with an error: the text of an exception, or a text. The caller gets it as an exception."""
        if not isinstance(err, BaseException | str):  # its text might be an address in memory
            raise TypeError(f"response.error() takes an exception or a text, not {type(err).__name__}")
        error = err if isinstance(err, DaebusError) else RemoteError(str(err))
        return self._answer(encode_error(error, self.request.request_id, final=final), final)

    def progress(self, payload: Any = None, progress_percentage: float | None = None) -> int:
        """Send progress; the percentage, if given, is kept within 0 to 100 and added to the payload."""
        if progress_percentage is not None:
            fields = payload if isinstance(payload, dict) else {"data": payload}
            payload = {**fields, "progress_percentage": max(0, min(100, progress_percentage))}
        return self.success(payload, False)

    def _answer(self, data: bytes, final: bool) -> int:
        if not self._take(final):
            logger.warning("%s was answered already: a further answer was not sent", shown(self.request.action))
            return 0
        if self.request.reply_to is None:
            return 0
        self._client.publish(self.request.reply_to, data)
        if not final and self._flush is not None:
            self._flush()
        return 1

    def _take(self, final: bool) -> bool:
        if not final:
            return bool(self._open)
        try:
            return self._open.pop()
        except IndexError:
            return False
