"""The gateway: WebSocket clients call actions, hear channels and publish - what the service lists, and nothing else.

    -> {"type":"publish","channel":"<service>","data":{"action":A,"payload":P,"request_id":ID,"timeout":seconds}}
    <- {"type":"response","request_id":ID,"success":true,"data":R}
    <- {"type":"response","request_id":ID,"success":false,"error":"text","code":C}
    <- {"type":"progress","request_id":ID,"data":D}
    -> {"type":"subscribe","channel":C}, {"type":"unsubscribe","channel":C}
    <- {"type":"channel_message","channel":C,"data":D}
    -> {"type":"broadcast","channel":C,"data":D}

The last three are answered if they carry a `request_id`, and when they are refused. Calls of other services are
requests on the bus like any other; no thread waits for them. This service's own actions are run here, without Redis.
"""

from __future__ import annotations

import logging
from functools import partial
from threading import Lock
from time import monotonic

from .errors import (
    BadMessage,
    Busy,
    ConfigurationError,
    DaebusError,
    DeclarationError,
    InternalError,
    RedisRefused,
    RedisUnavailable,
    RequestTimeout,
    ServiceUnavailable,
    Stopping,
    error_from_wire,
)
from .jsontext import dumps, loads, quote
from .ledger import was_delivered
from .link import ReplyError, new_id
from .log import Seldom, logger, one_line
from .message import PubSubRequest, check_size, checked, encode_request, read_reply
from .names import RESERVED, check_channel, check_service, is_glob, shown
from .pubsub import PubSubResponse, as_error
from .registry import Record
from .target import clock_id
from .work import Work
from .wscalls import Handler
from .wsdoor import Route
from .wsexchange import known_id
from .wsframes import TEXT, frame, plain_frame, text_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .bus import Bus
    from .message import Reply
    from .wsdoor import Session, WebSocketDoor

TIMEOUT, LONGEST_TIMEOUT = 5.0, 60.0
"""Seconds that a service has for its answer, unless the client says otherwise; and the most that it may say."""

OWN_AT_ONCE = 3
"""Calls of our own actions that run at once for one client, so that no client takes all workers; the others wait."""

CALLS_OF_ONE, CALLS_OF_ALL = 64, 2000
"""Calls of other services that may wait for their answers, of one client and in all."""

CHANNELS_OF_ONE = 200
"""Channels that a client may hear."""

MATCHES = 1000
"""Channels of which it is remembered which globs match them."""

_PRIVATE = ("caller:", "workflow:")
LONGEST_NAME = 500
"""Characters of a channel's name (see `names.check_channel`)."""

_seldom = Seldom()


class Forbidden(DaebusError):
    """The service does not list this."""

    code = "forbidden"
    http_status = 403


# --- what is declared ---


class Rules:
    """What clients may do."""

    def __init__(self) -> None:
        self.actions: dict[tuple[str | None, str], None] = {}  # service (None: this one) and action
        self.channels: dict[str, None] = {}
        self.publish: dict[str, None] = {}

    def add(self, actions: Iterable[str], channels: Iterable[str], publish: Iterable[str]) -> None:
        """Allow more. Raises `ConfigurationError`."""
        self.actions.update(dict.fromkeys([_action(one) for one in _listed("actions", actions)]))
        self.channels.update(dict.fromkeys([_channel("channels", one) for one in _listed("channels", channels)]))
        self.publish.update(dict.fromkeys([_channel("publish", one) for one in _listed("publish", publish)]))

    def listed(self) -> dict[str, list[str]]:
        """Return the lists as they were given."""
        actions = [action if service is None else f"{service}/{action}" for service, action in self.actions]
        return {"actions": actions, "channels": list(self.channels), "publish": list(self.publish)}

    def check(self, service: str, own: Iterable[str]) -> None:
        """Hold the lists against the service that has them. Raises `DeclarationError`."""
        names = set(own)
        for target, action in self.actions:
            if target in (None, service) and action not in names:
                raise DeclarationError(f"ws.gateway() lists the action {action!r}, which this service does not have")
        for name in (*self.channels, *self.publish):
            if name == service or name == f"{service}.workflows":
                raise DeclarationError(f"ws.gateway() lists the channel {name!r}, which takes the service's requests")


def _listed(what: str, value: Iterable[str]) -> list[str]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigurationError(f"ws.gateway({what}=...) takes a list of texts, not {value!r}")
    return list(value)


def _action(text: object) -> tuple[str | None, str]:
    service, slash, action = text.partition("/") if isinstance(text, str) else ("", "", "")
    if not slash:
        service, action = "", service
    if not 0 < len(action) <= 200 or action.startswith(RESERVED) or (slash and not service):
        raise ConfigurationError(
            f'ws.gateway(): {text!r} is no action: write "service/action", or "action" of this one'
        )
    if not slash:
        return None, action
    try:
        return check_service(service), action
    except ConfigurationError as error:
        raise ConfigurationError(f"ws.gateway(actions=...): {error}") from None


def _channel(what: str, text: object) -> str:
    try:
        name = check_channel(text)
    except DeclarationError as error:
        raise ConfigurationError(f"ws.gateway({what}=...): {error}") from None
    if name.startswith(_PRIVATE):
        raise ConfigurationError(f"ws.gateway({what}=...): {name!r} is a channel for answers, which are nobody else's")
    if what == "publish" and is_glob(name):
        raise ConfigurationError(
            f"ws.gateway(publish=...): {name!r} is a glob, which might match a service's own channel; list exact names"
        )
    return name


# --- globs, as Redis matches them ---


def matches(glob: bytes, text: bytes) -> bool:
    """Say whether a glob of Redis (`*`, `?`, `[a-z]`, `[^a]`, a backslash) matches a text, in bounded time."""
    place = at = 0
    star, resume = -1, 0  # the last asterisk, and from where in the text it was tried last
    while at < len(text):
        if place < len(glob) and glob[place] == 0x2A:
            star, resume, place = place, at, place + 1
            continue
        after = _matches_one(glob, place, text[at])
        if after:
            place, at = after, at + 1
        elif star >= 0:
            resume += 1
            place, at = star + 1, resume
        else:
            return False
    return not glob[place:].strip(b"*")


def _matches_one(glob: bytes, place: int, byte: int) -> int:
    """Match one byte; return where the glob goes on, 0 if it does not match."""
    if place >= len(glob):
        return 0
    sign = glob[place]
    if sign == 0x3F:  # a question mark
        return place + 1
    if sign == 0x5B:  # [
        return _matches_class(glob, place + 1, byte)
    if sign == 0x5C and place + 1 < len(glob):  # a backslash
        place += 1
    return place + 1 if glob[place] == byte else 0


def _matches_class(glob: bytes, place: int, byte: int) -> int:
    negated = glob[place : place + 1] == b"^"
    place += negated
    found = False
    while place < len(glob) and glob[place] != 0x5D:
        if glob[place] == 0x5C and place + 1 < len(glob):
            place += 1
            found = found or glob[place] == byte
        elif glob[place + 1 : place + 2] == b"-" and place + 2 < len(glob):
            low, high = sorted((glob[place], glob[place + 2]))
            found = found or low <= byte <= high
            place += 2
        else:
            found = found or glob[place] == byte
        place += 1
    return min(place + 1, len(glob)) if found is not negated else 0


# --- answers ---


def answer_frame(request_id: str | int | None, data: str) -> bytes:
    """Return the frame of an answer; `data` is JSON text."""
    return text_frame(f'{{"type":"response","request_id":{dumps(request_id)},"success":true,"data":{data}}}')


def failure_frame(request_id: str | int | None, error: DaebusError) -> bytes:
    """Return the frame of an error that answers a call."""
    known = {"error_id": error.error_id} if error.error_id else {}
    told = {"error": str(error)[:10_000], "code": error.code, **known}
    return plain_frame({"type": "response", "request_id": request_id, "success": False, **told})


def progress_frame(request_id: str | int | None, data: str) -> bytes:
    """Return the frame of progress; `data` is JSON text."""
    return text_frame(f'{{"type":"progress","request_id":{dumps(request_id)},"data":{data}}}')


class GatewayRequest(PubSubRequest):
    """A call of one of this service's own actions, by a client."""

    __slots__ = ()

    def __init__(self, frame: dict[str, Any], service: str, request_id: str | int | None) -> None:
        super().__init__(_as_request(frame), service)
        self.request_id = request_id

    def unpack(self, raw: dict[str, Any]) -> None:
        """Take the message back."""
        super().unpack(_as_request(raw))


def _as_request(frame: dict[str, Any]) -> dict[str, Any]:
    data = frame["data"]
    return {"action": data["action"], "payload": data.get("payload", {}), "v": 1}


class GatewayResponse(PubSubResponse):
    """What answers such a call."""

    __slots__ = ("_done", "_session")

    def __init__(self, session: Session, request: PubSubRequest, done: Callable[[], None]) -> None:
        super().__init__(session, request)  # type: ignore[arg-type]  # the publisher, of which no use is made
        self._session = session
        self._done = done

    def success(self, payload: Any = None, final: bool = True) -> int:
        """Answer with a value; not final: with progress."""
        make = answer_frame if final else progress_frame
        try:
            data = make(self.request.request_id, dumps(payload))
        except DaebusError as error:
            error.of_answer = True
            raise
        return self._answer(data, final)

    def error(self, err: BaseException | str, final: bool = True) -> int:
        """Answer with an error."""
        error = as_error(err)
        if final and not self.answered:
            self.code = error.code
        return self._answer(failure_frame(self.request.request_id, error), final)

    def _answer(self, data: bytes, final: bool) -> int:
        if not self._take(final):
            return 0
        sent = self._session.transmit(data)
        if final:
            self._done()
        return int(sent)


class GatewayCall:
    """Such a call on its way through its handler."""

    __slots__ = ("_ended", "_gateway", "_packed", "began", "request", "response", "session", "size", "work")
    arguments = ()
    response: GatewayResponse

    def __init__(self, gateway: Gateway, session: Session, work: Work, request: GatewayRequest, size: int) -> None:
        self._gateway = gateway
        self._packed: bytes | None = None
        self._ended = [True]
        self.session = session
        self.work = work
        self.request = request
        self.size = size

    @property
    def deadline(self) -> float:
        """When the client wants an answer at the latest (monotonic seconds)."""
        return self.request.deadline or 0.0

    def plan(self, _work: Any, _name: str, _data: bytes) -> GatewayCall:
        """Return the call: its turn has come."""
        return self

    def run(self) -> bool:
        """Handle the call on this thread; False if a coroutine goes on with it on the event loop."""
        if self._packed is not None:
            self.request.unpack(loads(self._packed))
            self._packed = None
        handled: bool = self._gateway.run_action(self)
        if handled:
            self.over()
        return handled

    def over(self) -> None:
        """Give the place back, once: the handler is through."""
        try:
            self._ended.pop()
        except IndexError:
            return
        self._gateway.ended(self)

    def pack(self, data: bytes) -> None:
        """Before a wait: give up what was read of the message."""
        self._packed = data
        self.request.pack()

    def refuse(self, error: DaebusError) -> None:
        """Answer with an error instead of running."""
        self._gateway.refuse(self, error)
        self.over()

    def __str__(self) -> str:
        return f"Action {one_line(self.work.name)!r} (called by a WebSocket client)"


WAITS: Any = object()
"""Stands for a call that waits for others of its client to end."""


class _Pending:
    """A call of another service that waits for its answer."""

    __slots__ = ("deadline", "request_id", "session", "target", "timeout")

    def __init__(self, session: Session, request_id: str | int | None, target: str, timeout: float) -> None:
        self.session = session
        self.request_id = request_id
        self.target = target
        self.timeout = timeout
        self.deadline = monotonic() + timeout


# --- the gateway ---


class Gateway:
    """Does what clients ask for, as far as the rules allow."""

    def __init__(self, rules: Rules, door: WebSocketDoor, bus: Bus) -> None:
        self._dispatcher = door.dispatcher
        self._bus = bus
        self._service = service = bus.service
        self._actions: dict[str, Work] = self._dispatcher.actions
        rules.check(service, self._actions)
        self._allowed = {(target or service, action) for target, action in rules.actions}
        self._publish = rules.publish
        self._exact = {name: None for name in rules.channels if not is_glob(name)}
        self._globs = {name: name.encode() for name in rules.channels if is_glob(name)}
        self._matching: dict[str, tuple[str, ...]] = {}
        self._lock = Lock()  # of the two that follow
        self._listeners: dict[str, dict[Session, None]] = {}  # by channel, or by glob
        self._pending: dict[str, _Pending] = {}  # by request id on the bus
        self._channel = f"caller:{service}-{new_id()}"
        self._clock = clock_id()
        self._stopped = False
        self._engine = door.engine
        self._own_calls: set[GatewayCall] = set()  # those without an answer
        self._look_at = float("inf")  # when the deadlines are looked at next
        order = Handler(_record("gateway"))
        self.routes: dict[str, Route] = {
            "publish": _FrameRoute("publish", self._call, None),
            "subscribe": _FrameRoute("subscribe", self._subscribe, order),
            "unsubscribe": _FrameRoute("unsubscribe", self._unsubscribe, order),
            "broadcast": _FrameRoute("broadcast", self._broadcast, order),
        }
        self._plan(door)

    def _plan(self, door: WebSocketDoor) -> None:
        """Have the bus subscribe to what may be heard, each thing once."""
        bus = self._bus
        if any(target != self._service for target, _action in self._allowed):
            bus.plan(self._channel, self._take_answer, Work(_record(self._channel)))
        for name in (*self._globs, *(one for one in self._exact if not self._globs_for(one))):
            bus.plan(name, partial(self._take_message, name), Work(_record(name)))

    # --- calls ---

    def _call(self, session: Session, message: dict[str, Any], frame_data: bytes) -> GatewayCall | None:
        """Run an action of our own, or ask another service to."""
        data = message.get("data")
        fields: dict[str, Any] = data if type(data) is dict else {}
        request_id = known_id(fields.get("request_id", message.get("request_id")))
        try:
            service, action, timeout = self._checked(message.get("channel"), fields)
            if service == self._service:
                return self._own(session, message, request_id, frame_data, timeout)
            self._ask(session, request_id, service, action, fields.get("payload", {}), timeout)
        except DaebusError as error:
            session.transmit(failure_frame(request_id, error))
        return None

    def _checked(self, channel: object, fields: dict[str, Any]) -> tuple[str, str, float]:
        action = fields.get("action")
        service = channel or self._service
        if not isinstance(service, str) or not isinstance(action, str) or not action:
            raise BadMessage("a call names a service as its 'channel', and an 'action' in its 'data'")
        if (service, action) not in self._allowed:
            text = f"The action {shown(f'{service}/{action}')} is not open to WebSocket clients"
            _seldom.log(logging.WARNING, ("forbidden", service[:64], action[:64]), f"{text}; see ws.gateway()")
            raise Forbidden(text)
        return service, action, _timeout(fields.get("timeout", TIMEOUT))

    def _own(
        self, session: Session, message: dict[str, Any], request_id: str | int | None, data: bytes, timeout: float
    ) -> GatewayCall:
        request = GatewayRequest(message, self._service, request_id)
        request.deadline, request.clock, request.timeout = monotonic() + timeout, self._clock, timeout
        call = GatewayCall(self, session, self._actions[request.action], request, len(data))
        call.response = GatewayResponse(session, request, partial(self._answered, call))
        with self._lock:
            self._own_calls.add(call)
            waits = session.own_running >= OWN_AT_ONCE
            if waits:
                call.pack(data)
                session.own_waiting.append((call, data))
            else:
                session.own_running += 1
        self._watch(request.deadline)
        return WAITS if waits else call

    def _answered(self, call: GatewayCall) -> None:
        with self._lock:
            if call not in self._own_calls:
                return
            self._own_calls.discard(call)
        call.session.done(call.size)

    def run_action(self, call: GatewayCall) -> bool:
        """Run a call of our own, unless it has its answer already."""
        if call.response.answered or call.session.closed:  # nobody waits for it
            self._answered(call)
            return True
        handled: bool = self._dispatcher.handle_in_time(call, call.deadline)
        return handled

    def refuse(self, call: GatewayCall, error: DaebusError) -> None:
        """Answer a call of our own that will not run."""
        self._dispatcher.refuse(call, error)

    def ended(self, call: GatewayCall) -> None:
        """A call of our own has left its worker: its client's next one may run. Any thread."""
        session, following = call.session, None
        with self._lock:
            if session.own_waiting:
                following = session.own_waiting.popleft()
            else:
                session.own_running -= 1
        if following is not None:
            waited, data = following
            self._engine.soon(partial(self._engine.put, [(None, waited.plan, "call", data)]))

    def _watch(self, deadline: float) -> None:
        """See to it that a deadline is looked at."""
        with self._lock:
            if deadline >= self._look_at:
                return
            self._look_at = deadline
        self._engine.later(deadline, self._look)

    def _ask(
        self,
        session: Session,
        request_id: str | int | None,
        service: str,
        action: str,
        payload: Any,
        timeout: float,
    ) -> None:
        name = new_id()  # none that another service could guess: it might answer in this one's place
        call = _Pending(session, request_id, service, timeout)
        data = encode_request(service, action, payload, self._channel, name, call.deadline, timeout, self._clock)
        if not self._enter(name, call):
            return
        self._watch(call.deadline)
        try:
            delivered = self._bus.deliver(service, data, partial(self._take_receipt, name))
        except RedisUnavailable as error:
            self._fail(name, RedisUnavailable(f"The bus is not there now: {error}"))
            return
        if not delivered:
            self._fail(name, Busy("Too much waits for the bus already; try again later"))

    def _enter(self, name: str, call: _Pending) -> bool:
        """Note a call; False if its client has gone. Raises `Busy` or `Stopping`."""
        session = call.session
        with self._lock:
            if self._stopped:
                raise Stopping("The service is stopping")
            if len(session.pending) >= CALLS_OF_ONE or len(self._pending) >= CALLS_OF_ALL:
                raise Busy("Too many calls wait for their answers already; try again later")
            if session.closed:
                return False
            session.pending.add(name)
            self._pending[name] = call
            return True

    def _leave(self, name: str) -> _Pending | None:
        with self._lock:
            call = self._pending.pop(name, None)
            if call is not None:
                call.session.pending.discard(name)
        return call

    def _fail(self, name: str, error: DaebusError) -> None:
        call = self._leave(name)
        if call is not None:
            call.session.transmit(failure_frame(call.request_id, error))

    def _take_receipt(self, name: str, reply: Any) -> None:
        """Redis has said whether anybody is there who could answer. Any thread."""
        if isinstance(reply, RedisUnavailable):
            self._fail(name, RedisUnavailable(f"{reply}; whether the request arrived is not known"))
        elif isinstance(reply, ReplyError):
            self._fail(name, RedisRefused(f"Redis refuses this: {reply}"))
        elif not was_delivered(reply):
            with self._lock:
                call = self._pending.get(name)
            target = call.target if call is not None else ""
            self._fail(name, ServiceUnavailable(f"No service {target!r} is running"))

    def _take_answer(self, _work: Any, _channel: str, data: bytes) -> None:
        """Pass a service's answer on, or a part of it."""
        try:
            check_size(data)
            reply = read_reply(data)
        except DaebusError:
            return
        if reply.final:
            call = self._leave(reply.request_id)
        else:
            with self._lock:
                call = self._pending.get(reply.request_id)
        if call is not None:
            call.session.transmit(_passed_on(call.request_id, reply))

    def _look(self) -> None:
        self._expire(monotonic())

    def _expire(self, now: float) -> None:
        """Tell those whose calls took too long. On the reader."""
        with self._lock:
            late = [(name, call) for name, call in self._pending.items() if now >= call.deadline]
            late_own = [call for call in self._own_calls if now >= call.deadline]
            deadlines = [call.deadline for call in self._pending.values()]
            deadlines += [call.deadline for call in self._own_calls]
            self._look_at = float("inf")
        for name, call in late:
            self._fail(name, RequestTimeout(f"No answer from {call.target!r} within {call.timeout:g} s"))
        for own in late_own:
            own.response.error(RequestTimeout(f"No answer within {own.request.timeout:g} s"))
        ahead = [deadline for deadline in deadlines if deadline > now]
        if ahead:
            self._watch(min(ahead))

    # --- channels ---

    def _subscribe(self, session: Session, message: dict[str, Any], _data: bytes) -> None:
        channel = self._heard(session, message)
        if channel is None:
            return
        with self._lock:
            full = len(session.channels) >= CHANNELS_OF_ONE and channel not in session.channels
            if not full and not session.closed:
                session.channels.add(channel)
                self._listeners.setdefault(channel, {})[session] = None
        if full:
            _refuse(session, message, Busy(f"A client may hear {CHANNELS_OF_ONE} channels"))
        else:
            _confirm(session, message)

    def _unsubscribe(self, session: Session, message: dict[str, Any], _data: bytes) -> None:
        channel = self._heard(session, message)
        if channel is not None:
            with self._lock:
                session.channels.discard(channel)
                self._remove(session, channel)
            _confirm(session, message)

    def _remove(self, session: Session, channel: str) -> None:
        listeners = self._listeners.get(channel, {})
        listeners.pop(session, None)
        if not listeners:
            self._listeners.pop(channel, None)

    def _heard(self, session: Session, message: dict[str, Any]) -> str | None:
        """Return the channel that is asked for, None if it is refused."""
        channel = message.get("channel")
        if not isinstance(channel, str) or not 0 < len(channel) <= LONGEST_NAME:
            _refuse(session, message, BadMessage(f"'channel' must be text of 1 to {LONGEST_NAME} characters"))
        elif not self._is_listed(channel):
            _forbid(session, message, f"The channel {shown(channel)} is not open to WebSocket clients")
        else:
            return channel
        return None

    def _is_listed(self, channel: str) -> bool:
        if channel in self._exact or channel in self._globs:
            return True
        return not is_glob(channel) and bool(self._globs_for(channel))

    def _globs_for(self, channel: str) -> tuple[str, ...]:
        """Return the listed globs that match a channel, none for channels that are nobody else's business."""
        found = self._matching.get(channel)
        if found is None:
            found = () if self._is_private(channel) else self._search(channel)
            if len(self._matching) >= MATCHES:
                self._matching.clear()
            self._matching[channel] = found
        return found

    def _is_private(self, channel: str) -> bool:
        return channel.startswith(_PRIVATE) or channel in (self._service, f"{self._service}.workflows")

    def _search(self, channel: str) -> tuple[str, ...]:
        text = channel.encode("utf-8", "replace")
        return tuple([name for name, glob in self._globs.items() if matches(glob, text)])

    def _take_message(self, heard_by: str, _work: Any, channel: str, data: bytes) -> None:
        """Pass a message on to the clients that hear its channel, once to each."""
        globs = self._globs_for(channel)
        if heard_by in self._globs and (not globs or globs[0] != heard_by):
            return  # Redis delivers it for each glob that matches; one of them is enough
        with self._lock:
            sessions = dict.fromkeys([one for name in (channel, *globs) for one in self._listeners.get(name, ())])
        if not sessions:
            return
        try:
            check_size(data)
            loads(data)
        except DaebusError as error:
            text = f"A message on channel {shown(channel)} was not passed on: {one_line(str(error))}"
            _seldom.log(logging.WARNING, ("broken", heard_by), text)
            return
        head = f'{{"type":"channel_message","channel":{quote(channel)},"data":'.encode()
        passed_on = frame(TEXT, b"%b%b}" % (head, data))
        for session in sessions:
            session.transmit(passed_on)

    def _broadcast(self, session: Session, message: dict[str, Any], _data: bytes) -> None:
        """Publish for a client."""
        channel = message.get("channel")
        if not isinstance(channel, str) or channel not in self._publish:
            _forbid(session, message, f"Publishing to {shown(channel)} is not open to WebSocket clients")
        elif not self._bus.connected:
            _refuse(session, message, RedisUnavailable("The bus is not there now: nothing was published"))
        elif not self._bus.publish(channel, checked(dumps(message.get("data", {})))):
            _refuse(session, message, Busy("Too much waits for the bus already; try again later"))
        else:
            _confirm(session, message)

    # --- the end ---

    def forget(self, session: Session) -> None:
        """A client has gone."""
        with self._lock:
            for channel in session.channels:
                self._remove(session, channel)
            for name in session.pending:
                self._pending.pop(name, None)
            session.channels.clear()
            session.pending.clear()
            self._own_calls.difference_update([call for call, _data in session.own_waiting])
            session.own_waiting.clear()

    def stop(self) -> None:
        """The service stops, and hears no answers any more: tell those who wait for one."""
        with self._lock:
            self._stopped = True
            names = list(self._pending)
        for name in names:
            self._fail(name, Stopping("The service is stopping; whether the request was done is not known"))


def _record(name: str) -> Record:
    return Record("listen", name, _no_function)  # a listener's order: one message at a time


def _no_function(_payload: Any) -> None:
    """What is heard here is dealt with when it is planned."""


def _timeout(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(min(value, LONGEST_TIMEOUT))
    raise BadMessage("'timeout' must be a number of seconds above 0")


def _passed_on(request_id: str | int | None, reply: Reply) -> bytes:
    if reply.failed:
        return failure_frame(request_id, error_from_wire(reply.text, reply.code, reply.error_id))
    make = answer_frame if reply.final else progress_frame
    try:
        return make(request_id, dumps(reply.payload))
    except DaebusError as error:  # written for a browser it is larger, or too deep
        return failure_frame(request_id, error)


def _confirm(session: Session, message: dict[str, Any]) -> None:
    request_id = known_id(message.get("request_id"))
    if request_id is not None:
        session.transmit(answer_frame(request_id, dumps({"channel": message["channel"]})))


def _refuse(session: Session, message: dict[str, Any], error: DaebusError) -> None:
    request_id = known_id(message.get("request_id"))
    named: dict[str, Any] = {} if request_id is None else {"request_id": request_id, "success": False}
    channel = message.get("channel")
    if isinstance(channel, str) and len(channel) <= LONGEST_NAME:  # what else a client sends it does not get back
        named["channel"] = channel
    session.transmit(plain_frame({"type": "error", "error": str(error), "code": error.code, **named}))


def _forbid(session: Session, message: dict[str, Any], text: str) -> None:
    _seldom.log(logging.WARNING, ("forbidden", text[:200]), f"{text}; see ws.gateway()")
    _refuse(session, message, Forbidden(text))


class _FrameRoute(Route):
    """Where the frames of one type go: to a method of the gateway."""

    __slots__ = ("_method", "_order")

    def __init__(
        self, name: str, method: Callable[[Session, dict[str, Any], bytes], Any], order: Handler | None
    ) -> None:
        self.name = name
        self._method = method
        self._order = order

    def turn(self, session: Session) -> Work | None:
        """Return what keeps a client's frames in order; calls wait for nothing."""
        return None if self._order is None else session.turn(self._order)

    def plan(self, session: Session, work: Any, name: str, data: bytes) -> Any:
        """Do what the frame asks for; return the call of an action of our own."""
        message, call = session.read(data), None
        if message is not None:
            try:
                call = self._method(session, message, data)
            except DaebusError as error:
                _refuse(session, message, error)
            except Exception:  # noqa: BLE001 - whatever a client sends, only it may suffer
                logger.error("A frame of the type %r could not be handled", self.name, exc_info=True)
                _refuse(session, message, InternalError("The service failed to do this"))
        if call is None:
            session.done(len(data))
        return None if call is WAITS else call
