"""A WebSocket message and what answers it, as handlers see them. Neither knows a socket."""

from __future__ import annotations

import logging

from .errors import DaebusError
from .log import Seldom
from .names import new_trace, shown
from .pubsub import as_error
from .wsframes import message_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Protocol

    class Session(Protocol):
        """A connected client."""

        client_id: str
        door: Any

        @property
        def closed(self) -> bool:
            """Whether nothing more can be sent."""

        def transmit(self, data: bytes) -> bool:
            """Send a frame."""


_seldom = Seldom()


class Sent(int):
    """To how many clients something was sent. It may be awaited, too, so that `await response.send(...)` works."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, Sent]:
        yield from ()  # a generator, which is what await wants
        return self


class WebSocketRequest:
    """A message that came over a WebSocket: `payload` is all of it, `data` its data, `websocket` the connection."""

    __slots__ = ("_trace", "client_id", "data", "message_type", "payload", "request_id", "websocket")

    reply_to = None
    parent = None  # no client can ask for entries in the log
    service = "websocket"

    def __init__(self, client_id: str, message: dict[str, Any], websocket: Any) -> None:
        self.client_id = client_id
        self.websocket = websocket
        self._trace: str | None = None
        self.fill(message)

    def fill(self, message: dict[str, Any]) -> None:
        """Take the message."""
        self.payload = message
        self.message_type: Any = message.get("type")
        self.data: Any = message.get("data", {})
        self.request_id = known_id(message.get("request_id"))

    @property
    def trace(self) -> str:
        """The id that this message has in common with all that it leads to."""
        if self._trace is None:
            self._trace = new_trace()
        return self._trace

    def __repr__(self) -> str:
        return f"WebSocketRequest(client_id={self.client_id!r}, message_type={self.message_type!r})"


def known_id(request_id: object) -> str | int | None:
    """Return a request id as far as it is one: text of at most 200 characters or a whole number."""
    if type(request_id) is str and len(request_id) <= 200:
        return request_id
    return request_id if type(request_id) is int and abs(request_id) < 1 << 63 else None


def error_frame(error: DaebusError, request_id: str | int | None, message_type: str = "error") -> bytes:
    """Return the frame of an error: `{"type": "error", "data": {"error": "text"}}`.

    One that answers a message with a request id has the text and the code beside it, too, as answers to calls have.
    """
    text = str(error)[:10_000]
    data = {"error": text}
    if error.code != DaebusError.code:
        data["code"] = error.code
    if error.error_id:
        data["error_id"] = error.error_id
    if request_id is None:
        return message_frame(message_type, data)
    return message_frame(message_type, data, request_id=request_id, success=False, error=text, code=error.code)


class WebSocketResponse:
    """Answers a client: any number of times, from any thread. Its methods may be awaited, and need not be.

    They return 1, or 0 if the client has gone. If the client's message has a `request_id`, so have the answers.
    """

    __slots__ = ("_ended", "_finish", "_said", "client_id", "request_id", "session")

    streams = False  # what a generator yields is sent piece by piece

    def __init__(
        self, session: Session, request_id: str | int | None = None, finish: Callable[[], None] | None = None
    ) -> None:
        """`finish` is called once, when the handler is through."""
        self.session = session
        self.client_id = session.client_id
        self.request_id = request_id
        self._finish = finish
        self._ended = False  # a further answer makes no sense
        self._said = False

    # --- for handlers ---

    def send(self, data: Any = None, message_type: str = "response", target_sid: str | None = None) -> Sent:
        """Send a message; `target_sid` names another client. Raises `Unserialisable` or `TooLarge`."""
        return self._tell(target_sid, message_type, data)

    def success(self, payload: Any = None) -> Sent:
        """Send a value, as in an action."""
        return self.send(payload)

    def error(self, err: BaseException | str, message_type: str = "error", target_sid: str | None = None) -> Sent:
        """Send an error: the text of an exception, or a text."""
        error = as_error(err)
        session = self._session(target_sid)
        self._said = self._said or session is self.session
        request_id = self.request_id if session is self.session else None
        return Sent(session is not None and session.transmit(error_frame(error, request_id, message_type)))

    def progress(self, payload: Any = None, progress_percentage: float | None = None) -> Sent:
        """Send progress: what a generator yields comes here, too. Nothing is sent for None."""
        if progress_percentage is not None:
            fields = payload if isinstance(payload, dict) else {"data": payload}
            payload = {**fields, "progress_percentage": max(0, min(100, progress_percentage))}
        if self.session.closed:
            self._ended = True
            return Sent(0)
        if payload is None or type(payload) is Sent:
            return Sent(0)
        named = self.request_id is not None or progress_percentage is not None
        return self.send(payload, "progress" if named else "response")

    def _tell(self, target: str | None, message_type: str, data: Any) -> Sent:
        session = self._session(target)
        self._said = self._said or session is self.session
        more: dict[str, Any] = {}
        if self.request_id is not None and session is self.session:
            more["request_id"] = self.request_id
            if message_type == "response":
                more["success"] = True
        return Sent(session is not None and session.transmit(answer_frame(message_type, data, **more)))

    def _session(self, target: str | None) -> Session | None:
        if target is None or target == self.client_id:
            return self.session
        session: Session | None = self.session.door.sessions.get(target)
        if session is None:
            text = f"A message to client {shown(target)} was not sent: it is not connected"
            _seldom.log(logging.WARNING, "absent", text)
        return session

    # --- for the dispatcher ---

    @property
    def answered(self) -> bool:
        """Whether an answer would be one too many."""
        return self._ended

    def made_of(self, result: Any) -> Any:
        """Return the answer that a handler's result stands for: that value."""
        return result

    def conclude(self, result: Any) -> None:
        """Take what the handler returned: it is sent, unless it is nothing, or comes from a method of ours."""
        if (result is not None and type(result) is not Sent) or (self.request_id is not None and not self._said):
            self.send(
                None if type(result) is Sent else result
            )  # whoever gave a request id awaits an answer, be it nothing
        self._end()

    def fail(self, error: DaebusError) -> None:
        """Answer with an error of ours."""
        frame = error_frame(error, self.request_id)
        self._ended = True
        self.session.transmit(frame)
        self._end()

    def abandon(self) -> None:
        """The handler will not run."""
        self._ended = True
        self._end()

    def begin_error(self, error: BaseException) -> None:
        """Nothing: a message has no status."""

    def _end(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()

    def __repr__(self) -> str:
        return f"WebSocketResponse(client_id={self.client_id!r})"


def answer_frame(message_type: str, data: Any, **more: Any) -> bytes:
    """Return the frame of a handler's answer; an error says that it is of an answer."""
    try:
        return message_frame(message_type, data, **more)
    except DaebusError as error:
        error.of_answer = True
        raise
