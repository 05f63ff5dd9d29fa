"""Type hints as contract: what a handler's parameters ask of its payload, checked before the handler runs.

A contract stands between the engine and the function: it is called as the door calls any handler, makes the
function's arguments of the payload, and calls it with those. Imported only where a handler has one.
"""

from __future__ import annotations

from functools import partial

from .context import current
from .errors import BadPayload, DeclarationError
from .hints import (
    NO_DEFAULT,
    Compiler,
    Extra,
    Field,
    Unsupported,
    Wrong,
    hint_in,
    holds_a_payload,
    in_words,
    is_container,
    object_check,
)
from .parameters import (
    KEYWORDS,
    NOTHING,
    OWN,
    POSITIONAL,
    REQUEST,
    VARIABLE,
    WHOLE,
    hints_as_written,
    innermost,
    is_request,
    is_text,
    is_the_request,
    layers,
    parameters,
    rest_asks,
    rest_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .hints import Call, Check
    from .parameters import Parameter
    from .registry import Record

    Reader = Callable[[Any], dict[str, Any]]

_FIELD, _PAYLOAD, _DOOR, _PATH, _LEFT = "field", "payload", "door", "path", "left"


class Contract:
    """What a handler's function asks for. `call` is what its door calls in its place; `schema` that of the payload."""

    __slots__ = ("_function", "_positional", "call", "schema")

    def __init__(self, record: Record) -> None:
        """Raises `DeclarationError`, which names the handler and the parameter, for a hint that cannot be checked."""
        parts = _Parts(record)
        self._function = record.function
        self._positional = parts.positional
        self.schema = parts.schema()
        self.call: Callable[..., Any] = _doors[record.kind](self, parts)

    def invoke(self, values: dict[str, Any]) -> Any:
        """Call the function with these values."""
        if self._positional is None:
            return self._function(**values)
        given = [values.pop(one.name, one.default) for one in self._positional]
        return self._function(*given, **values)


class _Parts:
    """The parameters of a handler, sorted by what they take, and the checks of their hints."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.names: tuple[str, ...] = record.subject or () if record.kind == "route" else ()
        self.found = parameters(record.function) or []
        self._of_json, self._of_text = Compiler(), Compiler(text=True)
        self.rest = rest_of(record.function)
        self.rest_asks = rest_asks(record.kind, record.function)
        self._hints = self._resolved()
        self.roles = self._sorted()
        self.positional = self._by_position()

    def role(self, role: str) -> list[Parameter]:
        return [one for one in self.found if self.roles[one.name] == role]

    def _by_position(self) -> list[Parameter] | None:
        """Return the parameters that cannot be given by name, None if all can."""
        named = all(_takes_names(layer) for layer in layers(self.record.function))
        inner = innermost(self.record.function)
        only: int = getattr(getattr(inner, "__code__", None), "co_posonlyargcount", 0)
        if named and not only:
            return None
        return [one for one in self.found if one.place is not None and (not named or one.place < only)]

    # --- hints ---

    def _resolved(self) -> dict[str, Any]:
        inner = innermost(self.record.function)
        names = {one.name: one.hint for one in self.found if self._has_meaning(one)}
        if self.rest is not None and self.rest in hints_as_written(inner):
            names[self.rest] = hints_as_written(inner)[self.rest]
        scope = getattr(inner, "__globals__", {})
        return {name: self._read(name, partial(hint_in, scope, hint)) for name, hint in names.items()}

    def _has_meaning(self, one: Parameter) -> bool:
        """Whether a parameter has a hint that says something of the payload or of the path."""
        return one.hinted and not one.own and not self._is_of_the_door(one)

    def _is_of_the_door(self, one: Parameter) -> bool:
        kind = self.record.kind
        if kind == "route":
            return one.name not in self.names and is_the_request(one)
        return one.name in OWN[kind] or is_request(kind, one.hint)

    def _read(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Unsupported as error:
            raise self._refused(name, str(error)) from None

    def _refused(self, name: str, why: str) -> DeclarationError:
        record = self.record
        return DeclarationError(
            f"the {record.kind} handler {record.name!r} ({record.place}), parameter {name!r}: {why}"
        )

    def check(self, name: str, *, text: bool = False) -> Check:
        """Return the check of a parameter's hint."""
        compiler = self._of_text if text else self._of_json
        hint = self._hints.get(name, object)
        made: Check = self._read(name, partial(compiler.check, hint))
        return made

    # --- roles ---

    def _sorted(self) -> dict[str, str]:
        roles = {one.name: self._role(one) for one in self.found}
        fields = [name for name, role in roles.items() if role == _FIELD]
        alone = len(fields) == 1 and _PAYLOAD not in roles.values() and self.rest is None
        is_whole = is_container if self.record.kind in POSITIONAL else holds_a_payload
        if alone and is_whole(self._hints[fields[0]]):
            roles[fields[0]] = _PAYLOAD
        return roles

    def _role(self, one: Parameter) -> str:
        if one.name in self.names:
            return _PATH
        if self._is_of_the_door(one):
            return _DOOR
        if one.own:
            return _LEFT
        if self.record.kind in POSITIONAL:
            return self._role_by_position(one)
        return _PAYLOAD if one.name in WHOLE else _FIELD

    def _role_by_position(self, one: Parameter) -> str:
        """A first parameter without a hint is the payload; a second one is the channel or the client's id, unless its
        hint, or that of the first, says that they are fields."""
        if one.name in WHOLE or (one.place == 0 and not one.hinted):
            return _PAYLOAD
        if one.place == 1 and (not one.hinted or (is_text(one.hint) and self._begins_with_payload())):
            return _DOOR
        return _FIELD

    def _begins_with_payload(self) -> bool:
        first = self.found[0]
        if self._is_of_the_door(first):
            return False
        hint = self._hints.get(first.name)
        return not first.hinted or first.name in WHOLE or (is_container(hint) and not holds_a_payload(hint))

    # --- checks ---

    def fields(self, *, text: bool = False) -> Check:
        """Return the check for an object of the fields."""
        members = [
            Field(one.name, self.check(one.name, text=text), required=one.required, default=_default(one))
            for one in self.role(_FIELD)
        ]
        return object_check(members, self._extra(text))

    def _extra(self, text: bool) -> Extra | None:
        others = {one.name for one in self.found if self.roles[one.name] != _FIELD}
        if self.rest is not None:
            check = self.check(self.rest, text=text)
            return Extra(check.call, check.schema or True, frozenset(others | self._bound()))
        return Extra(None, True) if self.role(_PAYLOAD) else None

    def _bound(self) -> set[str]:
        """Return the name that a method has for its object: `**rest` cannot take it."""
        inner = innermost(self.record.function)
        code = getattr(inner, "__code__", None)
        return set(code.co_varnames[:1]) if code and getattr(inner, "__self__", None) is not None else set()

    def schema(self) -> dict[str, Any] | None:
        """Return the schema of the payload, None if nothing is asked of it."""
        whole = self.role(_PAYLOAD)
        if self.role(_FIELD) or (self.rest_asks and not whole):
            schema = self.fields().schema
        elif whole and whole[0].hinted:
            schema = self.check(whole[0].name).schema
        else:
            return None
        definitions = self._of_json.definitions
        return {**schema, "$defs": definitions} if definitions else schema

    def reader(self, *, text: bool = False) -> Reader | None:
        """Return what makes values of a payload; None if the function wants nothing of it."""
        fields, whole = self.role(_FIELD), self.role(_PAYLOAD)
        asks = fields or (self.rest_asks and not whole)
        read: Reader | None = self.fields(text=text).call if asks else None
        if read is not None and not whole:
            sole = fields[0] if len(fields) == 1 else None
            return _object_or_sole(read, sole, self.check(sole.name, text=text).call if sole is not None else None)
        if not whole:
            return None
        checks = [(one.name, self.check(one.name, text=text).call) for one in whole]
        return partial(_read_whole, checks, read)

    def path(self) -> list[tuple[str, Call]]:
        """Return the checks of the path's values, which are text."""
        return [(one.name, self.check(one.name, text=True).call) for one in self.role(_PATH) if one.hinted]

    def door(self) -> list[Parameter]:
        """Return the parameters that the door itself fills in."""
        return self.role(_DOOR)


def _takes_names(layer: Any) -> bool:
    """Whether what stands around a function passes on arguments by name."""
    code = getattr(layer, "__code__", None)
    return code is None or bool(code.co_flags & KEYWORDS) or not code.co_flags & VARIABLE


def _default(one: Parameter) -> Any:
    return NO_DEFAULT if one.default is NOTHING else one.default


def _object_or_sole(read: Reader, sole: Parameter | None, check: Call | None) -> Reader:
    """Return a reader of an object, or if there is but one field, of its bare value."""
    if sole is None or check is None:
        return lambda payload: read({} if payload is None else payload)
    name, required = sole.name, sole.required

    def read_either(payload: Any) -> dict[str, Any]:
        if isinstance(payload, dict):
            return read(payload)
        if payload is None and not required:
            return {}
        try:
            return {name: check(payload)}
        except Wrong as error:
            if payload is None:
                return read({})  # says that it is missing
            error.inside(f".{name}")
            raise

    return read_either


def _read_whole(checks: list[tuple[str, Call]], read: Reader | None, payload: Any) -> dict[str, Any]:
    values = read(payload) if read is not None else {}
    for name, check in checks:
        values[name] = check(payload)
    return values


def _values(read: Reader, payload: Any) -> dict[str, Any]:
    """Return the values for a payload. Raises `BadPayload`."""
    try:
        return read(payload)
    except Wrong as error:
        raise BadPayload(str(error)) from None
    except RecursionError:
        raise BadPayload("the payload is nested too deeply") from None


# --- the doors ---


def _of_request(contract: Contract, parts: _Parts) -> Callable[[], Any]:
    """Return what an action's or workflow's door calls."""
    read, invoke = parts.reader() or _nothing, contract.invoke

    def call() -> Any:
        handled: Any = current.get()
        return invoke(_values(read, handled.request.payload))

    return call


def _of_message(contract: Contract, parts: _Parts) -> Callable[[Any, str], Any]:
    """Return what a listener's door calls."""
    read, invoke = parts.reader() or _nothing, contract.invoke
    names = [one.name for one in parts.door()]

    def call(payload: Any, channel: str) -> Any:
        values = _values(read, payload)
        for name in names:
            values[name] = channel
        return invoke(values)

    return call


def _of_socket(contract: Contract, parts: _Parts) -> Callable[[Any], Any]:
    """Return what a WebSocket's door calls, with the request."""
    read, invoke = parts.reader() or _nothing, contract.invoke
    names = [(one.name, one.name in REQUEST or is_request("socket", one.hint)) for one in parts.door()]

    def call(request: Any) -> Any:
        values = _values(read, request.data)
        for name, whole in names:
            values[name] = request if whole else request.client_id
        return invoke(values)

    return call


def _of_route(contract: Contract, parts: _Parts) -> Callable[..., Any]:
    """Return what the HTTP door calls, with the request; the values of the path are in that."""
    readers = parts.reader(), parts.reader(text=True)
    names, path, invoke = [one.name for one in parts.door()], parts.path(), contract.invoke
    in_path = [one.name for one in parts.role(_PATH)]

    def call(request: Any) -> Any:
        read = readers[request.is_text]
        values = _values(read, request.payload) if read is not None else {}
        for name in in_path:
            values[name] = request.values[name]
        if path:
            _values(partial(_read_path, path), values)
        for name in names:
            values[name] = request
        return invoke(values)

    return call


def _read_path(checks: list[tuple[str, Call]], values: dict[str, Any]) -> dict[str, Any]:
    for name, check in checks:
        if type(values[name]) is str:  # else the placeholder has a type, and did this
            try:
                values[name] = check(values[name])
            except Wrong as error:
                error.inside(f".{name}")
                raise
    return values


def _nothing(_payload: Any) -> dict[str, Any]:
    return {}


_doors: dict[str, Callable[[Contract, _Parts], Callable[..., Any]]] = {
    "action": _of_request, "workflow": _of_request, "listen": _of_message, "route": _of_route,
    "socket": _of_socket, "socket_register": _of_socket,
}  # fmt: skip


def describe(record: Record) -> dict[str, Any]:
    """Return what a handler takes, as a JSON Schema, and what it returns, as text; None for what it does not say.

    Raises `DeclarationError` as the start of the service does.
    """
    contract = record.contract
    hints = hints_as_written(innermost(record.function))
    returns = in_words(hints["return"]) if "return" in hints else None
    return {"input": contract.schema if contract is not None else None, "returns": returns}
