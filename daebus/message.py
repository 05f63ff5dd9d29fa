"""The wire format: what a request, an answer and an error look like on Redis. Pure.

    PUBLISH <service>      {"action":A,"payload":P,...,"reply_to":"caller:<id>","request_id":ID,"service":"<service>"}
    PUBLISH caller:<id>    {"status":"success","payload":R,"request_id":ID,"final":true}
    PUBLISH caller:<id>    {"status":"error","payload":{"error":"text"},"request_id":ID,"final":true,"code":C}
    progress               {"status":"success","payload":{..},"request_id":ID,"final":false}

    PUBLISH <service>.workflows {"workflow":W,"payload":P,"workflow_id":U,"reply_to":"workflow:<id>"}   begins one
    PUBLISH <service>.workflows {"payload":P,"workflow_id":U}                                           goes on
    PUBLISH workflow:<id>       {"payload":P,"workflow_id":U,"final":bool}                              what it says

The format is that of the package `daebus` 0.0.31 on PyPI; keys of our own (`v`, `deadline`, `clock`, `timeout`,
`trace`, `parent`, `code`, `error_id`) are ignored there. They count here only in a message that says `"v":1`.
"""

from __future__ import annotations

import re

from .errors import BadMessage, DaebusError, TooLarge
from .jsontext import dumps, loads, quote
from .names import default_reply_channel, is_reply_channel, new_trace, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_MESSAGE = 8 * 1024 * 1024
"""Largest message in bytes, in and out. Redis itself cuts a subscriber off at 32 MB of unread output."""

VERSION = 1

TRACE_LIMIT = 200
"""Characters of a trace id."""

UNIQUE = 16
"""Characters from which on a request's own id is taken for one that no other request has."""

_NUMBER_OR_NONE = (int, type(None))
_ENVELOPE = frozenset(("action", "reply_to", "request_id", "service"))


class PubSubRequest:
    """A request that came over Redis.

    `payload` is what the caller sent; `raw` the whole message; `reply_to` the caller's channel, `request_id` its
    number for the request; `service` the service it was sent to. `deadline` is in seconds of the monotonic clock,
    None if the caller set none; `clock` tells whose clock, `timeout` the same as a span in seconds. `parent` is the id
    of the request in whose handler this one was made ("" if in none), if somebody wants to see its trace; else None.
    """

    __slots__ = (
        "_trace",
        "action",
        "clock",
        "deadline",
        "parent",
        "payload",
        "raw",
        "reply_to",
        "request_id",
        "service",
        "timeout",
    )

    def __init__(self, data: str | bytes | dict[str, Any], service: str | None = None) -> None:
        """Read a message. Raises `ValueError` for bad JSON and `TypeError` for anything but text or a dict."""
        raw: Any = data
        if isinstance(data, str | bytes):
            try:
                raw = loads(data)
            except BadMessage as error:
                raise ValueError(f"the message is {error}") from None
        if not isinstance(raw, dict):
            raise TypeError(f"a request is made of JSON text or a dict, not {type(raw).__name__}")
        self.raw = raw
        self.service = service if service is not None else raw.get("service")
        self.action: Any = raw.get("action")
        self.request_id: Any = raw.get("request_id")
        self.reply_to: Any = raw.get("reply_to") or (default_reply_channel(self.service) if self.service else None)
        self.payload = _payload(raw)
        self.deadline: float | None = None
        self.clock: str | None = None
        self.timeout: float | None = None
        self._trace: str | None = None
        self.parent: str | None = None
        self._read_additions(raw)

    def _read_additions(self, raw: dict[str, Any]) -> None:
        if raw.get("v") != VERSION or "payload" not in raw:
            return
        self.deadline = _number(raw, "deadline")
        self.timeout = _number(raw, "timeout")
        clock = raw.get("clock")
        self.clock = clock if isinstance(clock, str) else None
        if "trace" in raw:
            self._trace = _trace(raw["trace"])
        if "parent" in raw:
            self.parent = _parent(raw["parent"])

    @property
    def trace(self) -> str:
        """The id that this request has in common with the one that led to it, and with all that it leads to.

        A request that came without one begins a trace, under its own id.
        """
        if self._trace is None:
            own = self.request_id
            self._trace = own if type(own) is str and len(own) >= UNIQUE else new_trace()
        return self._trace

    def pack(self) -> None:
        """Give up what was read of the message, for as long as the request waits for its turn."""
        self.raw = {}
        self.payload = None

    def unpack(self, raw: dict[str, Any]) -> None:
        """Take the message back."""
        self.raw = raw
        self.payload = _payload(raw)

    def __repr__(self) -> str:
        return f"PubSubRequest(action={self.action!r}, request_id={self.request_id!r})"


class WorkflowRequest(PubSubRequest):
    """A message of a workflow: the one that starts it, or one that follows. `workflow_id` tells which."""

    __slots__ = ("workflow", "workflow_id")

    def __init__(
        self,
        raw: dict[str, Any],
        service: str,
        workflow: str,
        workflow_id: str,
        reply_to: str,
        trace: object = None,
        parent: object = None,
    ) -> None:
        """`trace` and `parent` are those of the message that started the workflow; no trace: it began one."""
        super().__init__(raw, service)
        self._trace = _trace(trace) if trace is not None else None
        self.parent = _parent(parent) if parent is not None else None
        self.workflow = self.action = workflow
        self.workflow_id = self.request_id = workflow_id
        self.reply_to = reply_to

    def unpack(self, raw: dict[str, Any]) -> None:
        """Take the message back."""
        super().unpack({"payload": {}, **raw})


_blank: Callable[[type[PubSubRequest]], PubSubRequest] = object.__new__


def _number(raw: dict[str, Any], key: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if type(value) in (int, float) and abs(value) < 1e15:
        return float(value)
    raise BadMessage(f"{key!r} must be a number of seconds")


def _trace(value: object) -> str:
    if type(value) is str and 0 < len(value) <= TRACE_LIMIT:
        return value
    raise BadMessage(f"'trace' must be text of 1 to {TRACE_LIMIT} characters")


def _parent(value: object) -> str:
    if type(value) is str and len(value) <= TRACE_LIMIT:
        return value
    raise BadMessage(f"'parent' must be text of at most {TRACE_LIMIT} characters")


def _payload(raw: dict[str, Any]) -> Any:
    if "payload" not in raw:  # fields beside the action, as `send_to_service` has them
        envelope = _ENVELOPE if "reply_to" in raw or "request_id" in raw else ("action",)
        return {key: value for key, value in raw.items() if key not in envelope}
    payload = raw["payload"]
    if type(payload) is str and raw.get("v") != VERSION:  # older callers may send an object as JSON text
        try:
            inner = loads(payload)
        except BadMessage:
            return payload
        return inner if isinstance(inner, dict) else payload
    return payload


def check_size(data: bytes) -> None:
    """Raise `TooLarge` for a message that is over the limit."""
    if len(data) > MAX_MESSAGE:
        raise TooLarge(f"the message has {len(data):,} bytes; the limit is {MAX_MESSAGE:,}")


def read_request(raw: Any, service: str) -> PubSubRequest:
    """Return the request that a decoded message is; `BadMessage` says what is wrong with it."""
    if type(raw) is not dict:
        raise BadMessage(f"a request must be a JSON object, not {_kind(raw)}")
    request_id = raw.get("request_id")
    if not (len(request_id) <= 200 if type(request_id) is str else type(request_id) in _NUMBER_OR_NONE):
        raise BadMessage("'request_id' must be text of at most 200 characters or a whole number")
    reply_to = raw.get("reply_to")
    if reply_to is not None and not (type(reply_to) is str and is_reply_channel(reply_to, service)):
        raise BadMessage("'reply_to' must be a reply channel ('caller:' and letters, digits, '_.:@-')")
    action = raw.get("action")
    if type(action) is not str:
        said = "has no 'action'" if action is None else f"has an 'action' that is {_kind(action)}, not text"
        raise BadMessage(f"the message {said}: a request must name the action to run")
    request = _blank(PubSubRequest)  # what its constructor does, without looking everything up again
    request.raw = raw
    request.service = service
    request.action = action
    request.request_id = request_id
    request.reply_to = reply_to if reply_to is not None else default_reply_channel(service)
    request.deadline = request.clock = request.timeout = request._trace = request.parent = None
    if "v" in raw:
        request._read_additions(raw)
    request.payload = _payload(raw)
    return request


def _kind(value: object) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "text",
        int: "a number",
        float: "a number",
        bool: "true or false",
    }
    return kinds.get(type(value), "null")


# Possessive and atomic throughout: no way back, so no text takes longer than its length.
_TAIL = re.compile(
    r'((?>"[a-z_]{1,20}+"[ \t\r\n]*+:[ \t\r\n]*+'
    r'(?>"[^"\\]{0,300}+"|\d{1,18}+|null)[ \t\r\n]*+(?:,[ \t\r\n]*+)?+){1,5}+)'
    r"\}[ \t\r\n]*+\Z"
)
_MEMBER = re.compile(r'"([a-z_]{1,20})"\s*:\s*(?:"([^"\\]*)"|(\d+))')


def address(raw: Any, service: str) -> tuple[str | None, str | int | None]:
    """Return the reply channel and the request id of a message as far as they can be trusted.

    `raw` is the decoded message, or the bytes of one that cannot be decoded (broken, too deep, too large): then
    they are looked for in its last members, where callers write them, so the payload cannot pose as them.
    """
    if isinstance(raw, bytes):
        tail = _TAIL.search(raw[-1500:].decode("utf-8", "replace"))
        raw = {key: text or int(number or 0) for key, text, number in _MEMBER.findall(tail[1])} if tail else None
    if type(raw) is not dict:
        return None, None
    reply_to, request_id = raw.get("reply_to"), raw.get("request_id")
    channel = reply_to if type(reply_to) is str and is_reply_channel(reply_to, service) else None
    known = type(request_id) is int or (type(request_id) is str and len(request_id) <= 200)
    return channel, request_id if known else None


def _identity(request_id: str | int | None) -> str:
    if type(request_id) is str:
        return quote(request_id)
    return "null" if request_id is None else str(request_id)


def encode_reply(payload: Any, request_id: str | int | None, *, final: bool = True) -> bytes:
    """Return the bytes of an answer (or, not final, of progress). Raises `Unserialisable` or `TooLarge`."""
    ending = "true" if final else "false"
    text = f'{{"status":"success","payload":{dumps(payload)},"request_id":{_identity(request_id)},"final":{ending}}}'
    return checked(text)


def encode_error(error: DaebusError, request_id: str | int | None, *, final: bool = True) -> bytes:
    """Return the bytes of an error answer."""
    ending = "true" if final else "false"
    known = f',"error_id":{quote(error.error_id)}' if error.error_id else ""
    return (
        f'{{"status":"error","payload":{{"error":{quote(str(error)[:10_000])}}},"request_id":{_identity(request_id)},'
        f'"final":{ending},"code":{quote(error.code)}{known}}}'
    ).encode()


def checked(text: str) -> bytes:
    """Return ASCII text as bytes; `TooLarge` if that is over the limit."""
    data = text.encode()
    check_size(data)
    return data


def encode_workflow_part(payload: Any, workflow_id: str, *, final: bool) -> bytes:
    """Return the bytes of what a workflow has to say. Raises `Unserialisable` or `TooLarge`."""
    ending = "true" if final else "false"
    return checked(f'{{"payload":{dumps(payload)},"workflow_id":{quote(workflow_id)},"final":{ending}}}')


def encode_workflow_error(error: DaebusError, workflow_id: str) -> bytes:
    """Return the bytes of the error that ends a workflow."""
    return (
        f'{{"payload":{{"error":{quote(str(error)[:10_000])}}},"workflow_id":{quote(workflow_id)},"final":true,'
        f'"status":"error","code":{quote(error.code)}}}'
    ).encode()


def encode_workflow_message(payload: Any, workflow_id: str, **start: str) -> bytes:
    """Return the bytes of a message to a workflow; `start` names the workflow, `reply_to` and `service` to begin it."""
    return checked(dumps({**start, "payload": payload, "workflow_id": workflow_id}))


def encode_request(
    service: str,
    action: str,
    payload: Any,
    reply_to: str,
    request_id: str,
    deadline: float,
    timeout: float,
    clock: str,
    trace: str | None = None,
    parent: str | None = None,
) -> bytes:
    """Return the bytes of a request; the deadline is in seconds of the monotonic clock of the machine `clock`.

    `parent` is for a trace that somebody wants to see: the id of the request in whose handler this one is made.
    """
    traced = f'"trace":{quote(trace)},' if trace is not None else ""
    if parent is not None:
        traced += f'"parent":{quote(parent)},'
    return checked(
        f'{{"action":{quote(action)},"payload":{dumps(payload)},"v":{VERSION},"deadline":{deadline:.4f},'
        f'"timeout":{timeout:g},"clock":"{clock}",{traced}"reply_to":"{reply_to}","request_id":"{request_id}",'
        f'"service":"{service}"}}'
    )


def encode_direct(payload: Any, action: str | None) -> bytes:
    """Return the bytes of a message to a service that wants no answer: the fields of the payload, and the action.

    A payload that is no object, or has fields that mean something in a request, is sent whole in `payload`.
    """
    if isinstance(payload, dict) and (action is None or not _ambiguous(payload)):
        return checked(dumps(payload if action is None else {**payload, "action": action}))
    return checked(dumps({"action": action, "payload": payload, "v": VERSION}))


def _ambiguous(payload: dict[Any, Any]) -> bool:
    return any(key in payload for key in ("action", "payload", "reply_to", "request_id"))


class Reply:
    """A decoded answer: `final` or progress; `error` is set when the service answered with one."""

    __slots__ = ("code", "error_id", "failed", "final", "payload", "request_id", "text")

    def __init__(self, raw: dict[str, Any]) -> None:
        self.request_id: Any = raw.get("request_id")
        status = raw.get("status")
        self.final = bool(raw.get("final", True))
        self.payload = raw.get("payload")
        self.failed = status == "error"
        self.code = raw.get("code")
        self.error_id = raw.get("error_id")
        self.text = _error_text(self.payload) if self.failed else ""


def _error_text(payload: Any) -> str:
    text = payload.get("error") if isinstance(payload, dict) else payload
    return text if isinstance(text, str) else shown(text, 500)


def read_reply(data: bytes) -> Reply:
    """Return the answer that a message is; `BadMessage` if it is none."""
    raw = loads(data)
    if type(raw) is not dict or type(raw.get("request_id")) is not str:
        raise BadMessage("an answer must be a JSON object with a 'request_id'")
    return Reply(raw)
