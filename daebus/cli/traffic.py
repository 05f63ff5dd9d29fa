"""What goes over the bus, made sense of: requests are paired with their answers. Pure; bounded in what it keeps."""

from __future__ import annotations

import re

from ..errors import BadMessage
from ..jsontext import loads
from ..message import VERSION, PubSubRequest
from ..names import RESERVED, default_reply_channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Event = dict[str, Any]
    Key = tuple[str, str | int]

MOST, MOST_BYTES = 10_000, 32 * 1024 * 1024
"""Requests without an answer, and their bytes, that are remembered; the oldest give way."""

MOST_WORKFLOWS = 1000

USUAL_TIMEOUT = 5.0
"""Seconds after which a request that names no timeout of its own counts as unanswered: a caller's usual ones."""

LOOK_EVERY = 0.2
"""Seconds between two looks for requests whose time is up."""

HIDDEN = "***"

_CALLER = re.compile(
    r"(?:caller|workflow):(?:(?P<service>.+)-)?(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)


class Redaction:
    """Hides fields of payloads by their name, at any depth and in any case of letters; or payloads as a whole."""

    def __init__(self, fields: Iterable[str] = (), everything: bool = False) -> None:
        self._fields = {field.casefold() for field in fields}
        self._everything = everything

    def of(self, value: Any) -> Any:
        """Return a payload as it may be shown."""
        if self._everything:
            return HIDDEN
        if not self._fields:
            return value
        try:
            return self._searched(value)
        except RecursionError:
            return HIDDEN

    def of_text(self, text: str) -> str:
        """Return text that is no JSON as it may be shown: nobody can tell where in it a field is."""
        return HIDDEN if self._everything or self._fields else text

    def of_error(self, text: str) -> str:
        """Return the text of an error as it may be shown."""
        return HIDDEN if self._everything else text

    def _searched(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._member(key, item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._searched(item) for item in value]
        if isinstance(value, str) and value[:1] in ("{", "["):
            return self._text_within(value)
        return value

    def _member(self, key: str, value: Any) -> Any:
        return HIDDEN if key.casefold() in self._fields else self._searched(value)

    def _text_within(self, text: str) -> Any:
        """Search JSON that travels as text, too."""
        try:
            return self._searched(loads(text))
        except BadMessage:
            return text


class _Pending:
    __slots__ = ("action", "at", "began", "caller", "data", "limit", "parts", "quiet", "service")

    def __init__(self, service: str, data: bytes, request: PubSubRequest, now: float, at: float) -> None:
        self.service = service
        self.data = data  # decoded again when it is shown: a decoded message may take twenty times as much memory
        self.action: str = request.action
        self.caller = caller_of(str(request.reply_to))
        self.limit = _limit_of(request.raw)
        self.began, self.at = now, at
        self.parts = 0
        self.quiet = False


class Traffic:
    """Takes the messages in their order and returns what there is to show.

    `names` limits it to what these services are asked, ask and publish; `everything` shows what Daebus asks of its
    own services, too. Times: `now` is monotonic, `at` the time of day, both in seconds.
    """

    def __init__(self, names: Iterable[str] = (), everything: bool = False, redaction: Redaction | None = None) -> None:
        self._names = frozenset(names)
        self._all = everything
        self._redaction = redaction or Redaction()
        self._pending: dict[Key, _Pending] = {}
        self._bytes = 0
        self._workflows: dict[str, tuple[str, str]] = {}
        self._next_look = 0.0

    @property
    def pending(self) -> int:
        """How many requests wait for their answer."""
        return len(self._pending)

    def take(self, channel: str, data: bytes, now: float, at: float) -> list[Event]:
        """Take a message; return what there is to show because of it."""
        try:
            raw = loads(data)
        except BadMessage:
            raw = None
        if channel.startswith("__") and not self._all:  # Redis' own: changes of keys
            return []
        if isinstance(raw, dict):
            if _is_answer(channel, raw):
                return self._answered(channel, raw, now, at)
            if _is_workflow(channel, raw):
                return self._of_workflow(channel, raw, at)
            request = _request(channel, raw)
            if request is not None:
                return self._asked(channel, data, request, now, at)
        return self._published(channel, data, raw, at)

    def expired(self, now: float) -> list[Event]:
        """Return the requests whose time is up."""
        if now < self._next_look:
            return []
        self._next_look = now + LOOK_EVERY
        late = [key for key, request in self._pending.items() if now - request.began > request.limit]
        return [event for key in late for event in self._give_up(key, "unanswered", now)]

    # --- requests ---

    def _asked(self, channel: str, data: bytes, request: PubSubRequest, now: float, at: float) -> list[Event]:
        pending = _Pending(channel, data, request, now, at)
        pending.quiet = pending.action.startswith(RESERVED) and not self._all
        if self._names and not {channel, pending.caller} & self._names:
            return []
        key: Key = (str(request.reply_to), request.request_id)
        self._forget(key)
        self._pending[key] = pending
        self._bytes += len(data)
        return list(self._within_bounds(now))

    def _within_bounds(self, now: float) -> Iterator[Event]:
        while len(self._pending) > MOST or (self._bytes > MOST_BYTES and len(self._pending) > 1):
            yield from self._give_up(next(iter(self._pending)), "forgotten", now)

    def _give_up(self, key: Key, status: str, now: float) -> list[Event]:
        request = self._forget(key)
        if request is None or request.quiet:
            return []
        return [self._event(request, now, status=status)]

    def _forget(self, key: Key) -> _Pending | None:
        request = self._pending.pop(key, None)
        if request is not None:
            self._bytes -= len(request.data)
        return request

    def _answered(self, channel: str, raw: dict[str, Any], now: float, at: float) -> list[Event]:
        key: Key = (channel, raw["request_id"])
        request = self._pending.get(key)
        if request is None:
            return self._answer_alone(channel, raw, at)
        if request.quiet:  # all processes of a shared service answer: it stays until its time is up
            return []
        if not raw.get("final", True):
            request.parts += 1
            return []
        self._forget(key)
        return [self._event(request, now, **self._outcome(raw))]

    def _answer_alone(self, channel: str, raw: dict[str, Any], at: float) -> list[Event]:
        caller = caller_of(channel)
        if self._names and caller not in self._names:
            return []
        return [{"time": at, "kind": "answer", "caller": caller, **self._outcome(raw)}]

    def _outcome(self, raw: dict[str, Any]) -> Event:
        payload = raw.get("payload")
        if raw["status"] != "error":
            return {"status": "ok", "answer": self._redaction.of(payload)}
        text = payload.get("error") if isinstance(payload, dict) else payload
        shown = self._redaction.of_error(text) if isinstance(text, str) else self._redaction.of(text)
        return {"status": "error", "code": raw.get("code"), "answer": shown}

    def _event(self, request: _Pending, now: float, **outcome: Any) -> Event:
        again = PubSubRequest(request.data, request.service)
        ms = round((now - request.began) * 1000, 3)
        return {
            "time": request.at,
            "kind": "request",
            "caller": request.caller,
            "service": request.service,
            "action": request.action,
            "payload": self._redaction.of(again.payload),
            "trace": again.raw.get("trace"),
            "ms": ms,
            "parts": request.parts,
            **outcome,
        }

    # --- the rest ---

    def _of_workflow(self, channel: str, raw: dict[str, Any], at: float) -> list[Event]:
        number = raw["workflow_id"]
        if isinstance(raw.get("workflow"), str):
            while len(self._workflows) >= MOST_WORKFLOWS:
                del self._workflows[next(iter(self._workflows))]
            self._workflows[number] = (channel.removesuffix(".workflows"), raw["workflow"])
        service, name = self._workflows.get(number, ("", ""))
        answers = channel.startswith("workflow:")
        caller = caller_of(channel if answers else str(raw.get("reply_to")))
        service = service or channel.removesuffix(".workflows") * (not answers)
        if answers and raw.get("final"):
            self._workflows.pop(number, None)
        if self._names and not {service, caller} & self._names:
            return []
        event = {"time": at, "kind": "workflow", "caller": caller, "service": service, "workflow": name,
                 "id": number, "answers": answers, "final": bool(raw.get("final")),
                 "payload": self._redaction.of(raw.get("payload"))}  # fmt: skip
        return [event]

    def _published(self, channel: str, data: bytes, raw: Any, at: float) -> list[Event]:
        if self._names and not any(channel == name or channel.startswith(f"{name}.") for name in self._names):
            return []
        if isinstance(raw, dict) and str(raw.get("action")).startswith(RESERVED) and not self._all:
            return []
        known = raw is not None or data.strip() == b"null"
        payload = self._redaction.of(raw) if known else self._redaction.of_text(data.decode(errors="replace"))
        return [{"time": at, "kind": "message", "channel": channel, "payload": payload}]


def caller_of(channel: str) -> str | None:
    """Return who is answered on a channel: a service's name, the beginning of an id, or None if that is not known."""
    found = _CALLER.fullmatch(channel)
    if found is not None:
        return found["service"] or found["id"][:8]
    return channel.removeprefix("caller:") if channel.startswith("caller:") else None


def _request(channel: str, raw: dict[str, Any]) -> PubSubRequest | None:
    """Return the request that a message is, if it wants an answer."""
    asks = isinstance(raw.get("action"), str) and type(raw.get("request_id")) in (str, int)
    if not asks or not isinstance(raw.get("reply_to") or "", str):
        return None
    try:
        return PubSubRequest(raw, channel)
    except BadMessage:
        return None


def _limit_of(raw: dict[str, Any]) -> float:
    limit: Any = raw.get("timeout") if raw.get("v") == VERSION else None
    return float(limit) if type(limit) in (int, float) and 0 < limit < 1e9 else USUAL_TIMEOUT


def _is_answer(channel: str, raw: dict[str, Any]) -> bool:
    answers = channel.startswith("caller:") or channel.endswith(default_reply_channel(""))
    return answers and type(raw.get("request_id")) in (str, int) and isinstance(raw.get("status"), str)


def _is_workflow(channel: str, raw: dict[str, Any]) -> bool:
    meant = channel.startswith("workflow:") or channel.endswith(".workflows")
    return meant and isinstance(raw.get("workflow_id"), str)
