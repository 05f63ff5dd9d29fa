"""Handlers of WebSocket messages, and their calls: who is called with what, and in whose turn.

A `SocketCall` is a message on its way, a `HookCall` a function for a client that has come or gone, an `Admission` a
client that asks to come in.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from types import CoroutineType

from .errors import DaebusError, DeclarationError, HttpError, InternalError
from .jsontext import loads
from .link import new_id
from .log import one_line
from .names import shown
from .registry import Record, place_of
from .work import Work
from .wsexchange import Sent, WebSocketRequest, WebSocketResponse, answer_frame
from .wsframes import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any

    from .engine import Item
    from .net import Connection
    from .wsdoor import Session, WebSocketDoor

_COROUTINE = 0x80 | 0x200  # inspect.CO_COROUTINE, CO_ASYNC_GENERATOR


DATA, CLIENT, REQUEST = "data", "client", "request"
_MEANINGS = {
    "req": REQUEST, "request": REQUEST, "client_id": CLIENT, "sid": CLIENT,
    "data": DATA, "message": DATA, "payload": DATA,
}  # fmt: skip


def wanted(function: Callable[..., Any], alone: str) -> tuple[str, ...]:
    """Return what a handler is to be called with, by the number and the names of its parameters.

    Two are the data and the client's id, one is `alone`; `req` or `request` is the `WebSocketRequest`.
    """
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & 0x04:  # inspect.CO_VARARGS
        return (DATA, CLIENT) if code is None or alone == DATA else (alone,)
    bound = getattr(function, "__self__", None) is not None
    parameters = code.co_varnames[bound : code.co_argcount]
    required = len(parameters) - len(getattr(function, "__defaults__", None) or ())
    if required > 2:
        place = place_of(function)
        raise DeclarationError(f"the handler at {place} must be a function of (data, client_id), or of less")
    default = (alone,) if len(parameters) == 1 else (DATA, CLIENT)
    meant = tuple([_MEANINGS.get(name, usual) for name, usual in zip(parameters, default, strict=False)])
    return meant if len(set(meant)) == len(meant) else default


def _given(wants: tuple[str, ...], request: WebSocketRequest) -> tuple[Any, ...]:
    if wants == (DATA, CLIENT):
        return request.data, request.client_id
    values = {DATA: request.data, CLIENT: request.client_id, REQUEST: request}
    return tuple([values[want] for want in wants])


def _is_async(function: Callable[..., Any]) -> bool:
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__call__", None), "__code__", None)  # noqa: B004
    return code is not None and bool(code.co_flags & _COROUTINE)


class Handler:
    """A declared function and what it is called with. What is learned of its slowness, all clients share."""

    __slots__ = ("wants", "work")

    def __init__(self, record: Record, alone: str = DATA) -> None:
        self.work = Work(record)
        self.wants = wanted(record.function, alone) if record.contract is None else (REQUEST,)


class Turn(Work):
    """A handler as the engine sees it for one client: its messages run in order."""

    __slots__ = ("_shared", "wants")

    def __init__(self, handler: Handler) -> None:
        shared = handler.work
        self._shared = shared
        self.wants = handler.wants
        for name in Work.__slots__:
            if name != "slow":
                setattr(self, name, getattr(shared, name))
        self.ordered = True
        self.busy = False
        self.waiting = deque()

    @property
    def slow(self) -> bool:
        """Whether workers run it."""
        return self._shared.slow

    @slow.setter
    def slow(self, slow: bool) -> None:
        self._shared.slow = slow

    def stalled(self) -> None:
        """Note that a run held up the reader."""
        self._shared.stalled()

    def took(self, seconds: float) -> None:
        """Note how long a run on another thread took."""
        self._shared.took(seconds)


class SocketCall:
    """A message on its way through its handler."""

    __slots__ = ("_dispatcher", "_packed", "arguments", "began", "request", "response", "size", "work")
    context_type = "websocket"

    def __init__(self, session: Session, work: Turn, message: dict[str, Any], size: int) -> None:
        self._dispatcher = session.door.dispatcher
        self._packed: bytes | None = None
        self.work = work
        self.size = size
        self.request = WebSocketRequest(session.client_id, message, session)
        self.response = WebSocketResponse(session, self.request.request_id, partial(session.done, size))
        self.arguments = _given(work.wants, self.request)

    def run(self) -> bool:
        """Handle the message on this thread; False if a coroutine goes on with it on the event loop."""
        if self.response.session.closed:  # its client has gone: nobody waits for it
            self.response.abandon()
            return True
        if self._packed is not None:
            self.request.fill(loads(self._packed))
            self.arguments = _given(self.work.wants, self.request)
            self._packed = None
        handled: bool = self._dispatcher.handle(self)
        return handled

    def pack(self, data: bytes) -> None:
        """Before a wait: give up what was read of the message."""
        self._packed = data
        self.request.payload = {}
        self.request.data = None
        self.arguments = ()

    def refuse(self, error: DaebusError) -> None:
        """Answer with an error instead of running."""
        self._dispatcher.refuse(self, error)

    def __str__(self) -> str:
        return f"Message {one_line(self.work.name)!r} of client {shown(self.request.client_id)}"


class HookCall:
    """The call of a function for a client that has connected or left."""

    __slots__ = ("_dispatcher", "arguments", "began", "request", "response", "work")
    context_type = "websocket"
    size = 0

    def __init__(self, door: WebSocketDoor, handler: Handler, request: WebSocketRequest, response: Any) -> None:
        self._dispatcher = door.dispatcher
        self.work = handler.work
        self.request = request
        self.response = response
        self.arguments = _given(handler.wants, request)

    def item(self) -> Item:
        """Return it as an item for the engine."""
        return None, self._plan, self.work.name, b""

    def _plan(self, _work: Any, _name: str, _data: bytes) -> HookCall:
        return self

    def run(self) -> bool:
        """Call the function on this thread; False if a coroutine goes on with it on the event loop."""
        handled: bool = self._dispatcher.handle(self)
        return handled

    def pack(self, data: bytes) -> None:
        """Nothing: it is small."""

    def refuse(self, error: DaebusError) -> None:
        """Leave it out, visibly."""
        self._dispatcher.drop(self.work.name, error)

    def __str__(self) -> str:
        return f"The {self.work.name} function for client {shown(self.request.client_id)}"


class Quiet:
    """What `response` is in a function for a client that has connected: sends, but not what is returned."""

    __slots__ = ("_response",)
    streams = False
    answered = False

    def __init__(self, response: WebSocketResponse) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def made_of(self, result: Any) -> Any:
        """Return the result."""
        return result

    def conclude(self, _result: Any) -> None:
        """Nothing is sent."""

    def fail(self, _error: DaebusError) -> None:
        """It is in the log."""


# --- a client on its way in ---


class Admission:
    """A client that asks to come in: the call of the functions that decide, and what `response` is in them."""

    __slots__ = ("_dispatcher", "_door", "_open", "began", "connection", "first", "http", "request", "work")
    context_type = "websocket"
    size = 0
    streams = False

    def __init__(self, door: WebSocketDoor, connection: Connection, http: Any) -> None:
        self._dispatcher = door.dispatcher
        self._door = door
        self.connection = connection
        self.http = http
        self.work = door.admitting
        self.request: Any = None  # once the client has a name
        self.first: list[bytes] = []  # frames for when it is in
        self._open = [True]  # popped by whoever decides

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the function of `work` is called with."""
        return (self,)

    @property
    def response(self) -> Admission:
        """This."""
        return self

    def plan(self, _work: Any, _name: str, _data: bytes) -> Admission:
        """Return this, as an item's plan."""
        return self

    def name(self) -> None:
        """Give the client its id."""
        session = self._door.session(self.connection, self.http)
        generator = self._door.face.client_id_generator
        client_id: object = f"user_{new_id()}" if generator is None else generator(session, session.path)
        if not isinstance(client_id, str) or not 0 < len(client_id) <= 500:
            raise TypeError(f"the client id generator returned {client_id!r}, which is no text of 1 to 500 characters")
        session.client_id = client_id
        self.request = WebSocketRequest(client_id, {"type": "connect", "data": self.http.query}, session)

    # the call

    def run(self) -> bool:
        """Decide on this thread; False if a coroutine goes on with it on the event loop."""
        handled: bool = self._dispatcher.handle(self)
        return handled

    def pack(self, data: bytes) -> None:
        """Nothing: it is small."""

    def refuse(self, error: DaebusError) -> None:
        """Send the client away."""
        self._dispatcher.refuse(self, error)

    # the response

    @property
    def answered(self) -> bool:
        """Whether it is decided."""
        return not self._open

    def send(self, data: Any = None, message_type: str = "response", _target_sid: str | None = None) -> Sent:
        """Send a message as soon as the client is in."""
        self.first.append(answer_frame(message_type, data))
        return Sent(1)

    success = send

    def error(self, err: BaseException | str, *_more: object) -> Sent:
        """Send the client away."""
        self._decide(HttpError(403, str(err)[:1000]))
        return Sent(1)

    def progress(self, result: Any) -> None:
        """Take what one of the functions returned."""
        if result is False:
            self._decide(HttpError(403, "refused"))
        elif result is not None and result is not True and type(result) is not Sent:
            self.send(result)

    def made_of(self, result: Any) -> Any:
        """Return the result."""
        return result

    def conclude(self, _result: Any) -> None:
        """All agree."""
        self._decide(None)

    def fail(self, error: DaebusError) -> None:
        """Send the client away, with the error's status; one that has none of its own is a refusal."""
        general = error.http_status == DaebusError.http_status and not isinstance(error, HttpError | InternalError)
        self._decide(HttpError(403 if general else error.http_status, str(error)[:1000]))

    def _decide(self, refusal: HttpError | None) -> None:
        try:
            self._open.pop()
        except IndexError:
            return
        self._door.decided(self, refusal)

    def __str__(self) -> str:
        return f"The admission of a WebSocket client from {self.connection.peer}"


def admitting(handlers: list[Handler]) -> Callable[[Admission], Any]:
    """Return the function that names a client and asks the handlers, one after the other; a False ends it."""

    def ask(admission: Admission) -> Iterator[Any]:
        load()
        admission.name()
        for handler in handlers:
            result = handler.work.function(*_given(handler.wants, admission.request))
            if type(result) is CoroutineType:
                result.close()
                raise TypeError("a socket_connect function that is a coroutine must be declared with async def")
            yield result

    async def ask_and_await(admission: Admission) -> AsyncIterator[Any]:
        load()
        admission.name()
        for handler in handlers:
            result = handler.work.function(*_given(handler.wants, admission.request))
            yield await result if type(result) is CoroutineType else result
            if admission.answered:
                return

    return ask_and_await if any(_is_async(handler.work.function) for handler in handlers) else ask
