"""Type hints, compiled: each becomes a check of a JSON value, and a JSON Schema that says what the check takes.

Pure. Imported only where a handler has a contract: `typing` costs memory.
"""

from __future__ import annotations

import collections.abc
import enum
import re
import types
import typing
from contextvars import ContextVar
from dataclasses import MISSING, InitVar, fields, is_dataclass
from functools import partial

from .names import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Call = Callable[[Any], Any]

NO_DEFAULT: Any = MISSING
"""No default."""

LISTED = 12
"""Allowed values, or fields, that an error lists; of more it says how many there are."""

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3})?")
_LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SCALARS = (str, int, float, bool, types.NoneType)


class Unsupported(Exception):
    """A hint that no JSON value can be checked against; the text says why."""


class Wrong(Exception):
    """A value that is not what its hint says. `path` tells where, and grows on the way out.

    The text of it is `before`, the quoted path and `after`; without a path `alone`.
    """

    def __init__(
        self, after: str | Callable[[], str], before: str = "", alone: str | None = None, *, plain: bool = False
    ) -> None:
        """`after` may be a function that makes it: most errors are those of a union's members, and never shown."""
        super().__init__(after)
        self.path = ""
        self._after = after
        self._before = before
        self._alone = alone
        self._plain = plain

    def inside(self, step: str) -> Wrong:
        """Say that it is in this place of what holds it: `.name` or `[2]`."""
        self.path = step + self.path
        return self

    @property
    def is_plain(self) -> bool:
        """Whether the value as such is of the wrong kind, not something in it."""
        return self._plain and not self.path

    def __str__(self) -> str:
        after = self._after if isinstance(self._after, str) else self._after()
        if self.path:
            start = "payload" if self.path[0] == "[" else ""
            return f"{self._before}'{start}{self.path.removeprefix('.')}'{after}"
        return f"the payload{after}" if self._alone is None else self._alone


def kind_of(value: Any) -> str:
    """Return what a value is, in words and without saying which."""
    if value is None:
        return "null"
    for kind, words in _KINDS:
        if isinstance(value, kind):
            return words
    return "a file" if type(value).__name__ == "Upload" else f"a {type(value).__name__}"


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "text"), (dict, "an object"),
    (list, "a list"), (bytes, "bytes"),
)  # fmt: skip


def must_be(words: str, value: Any) -> Wrong:
    """Return the error for a value of another kind."""
    return Wrong(f" must be {words}, not {kind_of(value)}", plain=True)


def step_of(key: str) -> str:
    """Return a name that comes from outside as a step of a path: printable, and cut."""
    short = key if len(key) <= 60 else f"{key[:60]}..."
    return f".{short if short.isprintable() else ascii(short)[1:-1]}"


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return words as a sentence has them: `a, b and c`."""
    *most, end = words
    return f"{', '.join(most)} {last} {end}" if most else end


# --- checks ---


class Check:
    """A compiled hint. `kinds` are those of values that it may take, `words` what they are called together."""

    __slots__ = ("call", "kinds", "schema", "words")

    def __init__(self, call: Call, schema: dict[str, Any], words: str, kinds: Iterable[str]) -> None:
        self.call = call
        self.schema = schema
        self.words = words
        self.kinds = frozenset(kinds)


def _anything(value: Any) -> Any:
    return value


def _text(value: Any) -> Any:
    if type(value) is str:
        return value
    raise must_be("text", value)


def _whole_number(value: Any) -> Any:
    if type(value) is int:
        return value
    raise must_be("a whole number", value)


def _number(value: Any) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        return _as_float(value)
    raise must_be("a number", value)


def _as_float(value: int | str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if number in (float("inf"), float("-inf")):
        raise Wrong(" is too large a number")
    return number


def _boolean(value: Any) -> Any:
    if value is True or value is False:
        return value
    raise must_be("true or false", value)


def _null(value: Any) -> Any:
    if value is None:
        return None
    raise must_be("null", value)


def _whole_number_of_text(value: Any) -> Any:
    if type(value) is str and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    raise must_be("a whole number", value)


def _number_of_text(value: Any) -> Any:
    if type(value) is str and _NUMBER.fullmatch(value):
        return _as_float(value)
    raise must_be("a number", value)


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _boolean_of_text(value: Any) -> Any:
    found = _BOOLEANS.get(value.lower()) if type(value) is str else None
    if found is not None:
        return found
    raise must_be("true or false", value)


def _null_of_text(value: Any) -> Any:
    if value == "":
        return None
    raise must_be("null", value)


_ALL = ("null", "true or false", "a whole number", "a number", "text", "a list", "an object", "bytes", "a file")


def _scalars(text: bool) -> dict[Any, Check]:
    """Return the checks of the simple hints; `text`: of values that come as text."""

    def make(from_json: Call, from_text: Call, kind: str, words: str, *kinds: str) -> Check:
        return Check(from_text if text else from_json, {"type": kind}, words, ("text",) if text else kinds)

    null = make(_null, _null_of_text, "null", "null", "null")
    return {
        str: make(_text, _text, "string", "text", "text"),
        int: make(_whole_number, _whole_number_of_text, "integer", "a whole number", "a whole number"),
        float: make(_number, _number_of_text, "number", "a number", "a number", "a whole number"),
        bool: make(_boolean, _boolean_of_text, "boolean", "true or false", "true or false"),
        None: null,
        types.NoneType: null,
    }


def _list_of(item: Call, text: bool, made: Callable[[list[Any]], Any] | None = None) -> Call:
    def check(value: Any) -> Any:
        if type(value) is not list:
            if not text or isinstance(value, dict):
                raise must_be("a list", value)
            value = [value]  # a field that is not repeated
        taken: list[Any] = []
        take = taken.append
        try:
            for one in value:
                take(item(one))
        except Wrong as error:
            error.inside(f"[{len(taken)}]")
            raise
        return taken if made is None else made(taken)

    return check


def _tuple_of(items: list[Call]) -> Call:
    def check(value: Any) -> Any:
        if type(value) is not list:
            raise must_be("a list", value)
        if len(value) != len(items):
            raise Wrong(f" must be a list of {_count(len(items))}, not of {len(value)}")
        taken: list[Any] = []
        try:
            for item, one in zip(items, value, strict=True):
                taken.append(item(one))
        except Wrong as error:
            error.inside(f"[{len(taken)}]")
            raise
        return tuple(taken)

    return check


def _count(number: int) -> str:
    return "1 value" if number == 1 else f"{number} values"


def _dict_of(item: Call) -> Call:
    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise must_be("an object", value)
        taken: dict[str, Any] = {}
        key = ""
        try:
            for key, one in value.items():
                taken[key] = item(one)
        except Wrong as error:
            error.inside(step_of(key))
            raise
        return taken

    return check


def _plain_dict(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    raise must_be("an object", value)


def _one_of(choices: list[tuple[Any, Any]], text: bool) -> Call:
    """Return the check for some values, each with what it becomes."""
    table = {(str, _as_text(value)) if text else (type(value), value): made for value, made in choices}
    words = _choices_in_words([value for value, _made in choices])

    def check(value: Any) -> Any:
        key = (type(value), value)
        if type(value) in _SCALARS and key in table:
            return table[key]
        raise Wrong(f" must be {words}")

    return check


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choices_in_words(values: list[Any]) -> str:
    if len(values) > LISTED:
        return f"one of {len(values)} values"
    said = {True: "true", False: "false"}
    texts = [f"'{one}'" if isinstance(one, str) else "null" if one is None else str(one) for one in values]
    texts = [said[one] if isinstance(one, bool) else text for one, text in zip(values, texts, strict=True)]
    return listed(texts, "or")


_tried: ContextVar[dict[tuple[int, int], tuple[Any, Any]] | None] = ContextVar("daebus_tried", default=None)
"""What unions have made of the objects and lists in the payload that is being checked; `_NOTHING_FITS` of some."""

_NOTHING_FITS: Any = object()


def _first_of(checks: list[Check], words: str) -> Call:
    """Return the check for what fits one of several hints, tried in their order.

    Classes may hold themselves, so each member is tried once with each value, and those of other kinds never: else
    the time would double with each level of a payload.
    """

    def check(value: Any) -> Any:
        kind = kind_of(value)
        meant = [one for one in checks if kind in one.kinds]
        if len(meant) > 1 and isinstance(value, dict | list):
            return _once(meant, value, words)
        return _fitting(meant, value, words)

    def _once(meant: list[Check], value: Any, words: str) -> Any:
        tried = _tried.get()
        token = None
        if tried is None:
            tried = {}
            token = _tried.set(tried)
        try:
            key = id(checks), id(value)
            if key not in tried:
                tried[key] = value, _NOTHING_FITS  # with the value, so that its id stays its own
                tried[key] = value, _fitting(meant, value, words)
            _value, made = tried[key]
            if made is _NOTHING_FITS:
                raise _misfit(meant, value, words)
            return made
        finally:
            if token is not None:
                _tried.reset(token)

    return check


def _fitting(meant: list[Check], value: Any, words: str) -> Any:
    """Return what the first check makes of a value that takes it; where one alone is meant, what that says is told."""
    for one in meant:
        try:
            return one.call(value)
        except Wrong as error:
            if len(meant) == 1 and not error.is_plain:
                raise
    raise _misfit(meant, value, words)


def _misfit(meant: list[Check], value: Any, words: str) -> Wrong:
    """Return the error for what fits none of several hints."""
    kind = kind_of(value)
    of_this_kind = any(check.words.startswith(kind) for check in meant)
    return Wrong(f" must be {words}") if of_this_kind else must_be(words, value)


# --- objects ---


class Field:
    """One field of an object."""

    __slots__ = ("check", "default", "name", "required")

    def __init__(self, name: str, check: Check, *, required: bool, default: Any = NO_DEFAULT) -> None:
        self.name = name
        self.check = check
        self.required = required
        self.default = default

    @property
    def schema(self) -> dict[str, Any]:
        """What it takes, and what it is if it is left out."""
        known, default = as_json(self.default)
        return {**self.check.schema, "default": default} if known else self.check.schema


class Extra:
    """What becomes of fields that nobody declares: refused, left out, or (`take`) checked and passed on."""

    __slots__ = ("forbidden", "schema", "take")

    def __init__(self, take: Call | None, schema: Any, forbidden: frozenset[str] = frozenset()) -> None:
        self.take = take
        self.schema = schema
        self.forbidden = forbidden


def object_check(members: list[Field], extra: Extra | None = None) -> Check:
    """Return the check for an object of these fields; it gives a new dict of them, of those that are there."""
    table = [(one.name, f".{one.name}", one.check.call, one.required) for one in members]
    known = [one.name for one in members]
    words = object_in_words([one.name for one in members if one.required])

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise must_be(words, value)
        taken: dict[str, Any] = {}
        for name, step, call, required in table:
            if name in value:
                try:
                    taken[name] = call(value[name])
                except Wrong as error:
                    error.inside(step)
                    raise
            elif required:
                raise _missing(value, known, name, extra)
        if len(taken) != len(value):
            _take_extra(value, known, extra, taken)
        return taken

    return Check(check, _object_schema(members, extra), words, ("an object",))


def object_in_words(required: list[str]) -> str:
    """Return what an object with these fields is called."""
    if not required or len(required) > LISTED:
        return "an object"
    return f"an object with {listed([repr(name) for name in required])}"


def _missing(value: dict[str, Any], known: list[str], name: str, extra: Extra | None) -> Wrong:
    """Return the error for a field that is not there: a misspelt one that is tells more."""
    if extra is None:
        for key in value:
            if key not in known:
                return unknown(key, known)
    return Wrong(" is missing").inside(f".{name}")


def unknown(key: str, known: list[str]) -> Wrong:
    """Return the error for a field that nobody declares."""
    return Wrong(partial(_known_in_words, key, known), before="unknown field ").inside(step_of(key))


def _known_in_words(key: str, known: list[str]) -> str:
    hint = did_you_mean(key, known)
    if not hint and 0 < len(known) <= LISTED:
        return f"; there {'is' if len(known) == 1 else 'are'} {listed([repr(name) for name in known])}"
    return hint


def _take_extra(value: dict[str, Any], known: list[str], extra: Extra | None, taken: dict[str, Any]) -> None:
    for key, one in value.items():
        if key in known:
            continue
        if extra is None or key in extra.forbidden:
            raise unknown(key, known)
        if extra.take is not None:
            try:
                taken[key] = extra.take(one)
            except Wrong as error:
                error.inside(step_of(key))
                raise


def _object_schema(members: list[Field], extra: Extra | None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {one.name: one.schema for one in members}}
    required = [one.name for one in members if one.required]
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False if extra is None else extra.schema
    return schema


def _made(check: Check, make: Callable[..., Any]) -> Call:
    """Return a check that makes an object of a class; what its class says of the values is for the sender."""
    read = check.call

    def call(value: Any) -> Any:
        taken = read(value)
        try:
            return make(**taken)
        except (ValueError, TypeError) as error:
            text = str(error) or "the values do not fit together"
            raise Wrong(f": {text}", alone=text) from None

    return call


def as_json(value: Any) -> tuple[bool, Any]:
    """Say whether a default can stand in a schema, and as what."""
    if isinstance(value, enum.Enum):
        return as_json(value.value)
    if value is None or isinstance(value, bool | int | str):
        return True, value
    if isinstance(value, float):
        return value - value == 0, value
    if isinstance(value, list | tuple):
        parts = [as_json(one) for one in value]
        return all(known for known, _ in parts), [one for _, one in parts]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        pairs = {key: as_json(one) for key, one in value.items()}
        return all(known for known, _ in pairs.values()), {key: one for key, (_, one) in pairs.items()}
    return False, None


# --- hints ---


class Compiler:
    """Makes checks of hints; `text`: for values that come as text, from a query, a form or a path."""

    def __init__(self, *, text: bool = False) -> None:
        self._text = text
        self._scalars = _scalars(text)
        self._classes: dict[Any, Check] = {}
        self.definitions: dict[str, Any] = {}  # schemas of classes that hold themselves

    def check(self, hint: Any) -> Check:
        """Return the check for a hint. Raises `Unsupported`."""
        hint, description = unwrapped(hint)
        made = self._check(hint)
        if description is None:
            return made
        return Check(made.call, {**made.schema, "description": description}, made.words, made.kinds)

    def _check(self, hint: Any) -> Check:
        if hint in (typing.Any, object):
            return Check(_anything, {}, "anything", _ALL)
        if isinstance(hint, collections.abc.Hashable) and hint in self._scalars:
            return self._scalars[hint]
        origin = typing.get_origin(hint)
        if origin in (typing.Union, types.UnionType):
            return self._union([self.check(one) for one in typing.get_args(hint)])
        if origin is typing.Literal:
            return self._choice([(as_value(one), one) for one in typing.get_args(hint)])
        container = self._container(hint if origin is None else origin, typing.get_args(hint))
        return container if container is not None else self._class(hint)

    def _union(self, checks: list[Check]) -> Check:
        words = listed(list(dict.fromkeys(check.words for check in checks)), "or")
        kinds = [kind for check in checks for kind in check.kinds]
        schema = {"anyOf": [check.schema for check in checks]}
        return Check(_first_of(checks, words), schema, words, kinds)

    def _choice(self, choices: list[tuple[Any, Any]]) -> Check:
        values = [value for value, _made in choices]
        if not values:
            raise Unsupported("it has no values")
        if not all(type(value) in _SCALARS for value in values):
            raise Unsupported("it has values that JSON does not know")
        kinds = ["text"] if self._text else [kind_of(value) for value in values]
        return Check(_one_of(choices, self._text), {"enum": values}, _choices_in_words(values), kinds)

    def _container(self, origin: Any, args: tuple[Any, ...]) -> Check | None:
        if origin in _LISTS:
            item = self.check(args[0] if args else typing.Any)
            return self._array(_list_of(item.call, self._text), {"items": item.schema} if item.schema else {})
        if origin is tuple:
            return self._tuple(args)
        if origin in _DICTS:
            key, value = args or (str, typing.Any)
            if key not in (str, typing.Any):
                raise Unsupported("the keys of a JSON object are text")
            item = self.check(value)
            schema = {"type": "object", **({"additionalProperties": item.schema} if item.schema else {})}
            plain = item.call is _anything
            return Check(_plain_dict if plain else _dict_of(item.call), schema, "an object", ("an object",))
        return None

    def _array(self, call: Call, schema: dict[str, Any]) -> Check:
        kinds = [kind for kind in _ALL if kind != "an object"] if self._text else ["a list"]  # one alone is a list, too
        return Check(call, {"type": "array", **schema}, "a list", kinds)

    def _tuple(self, args: tuple[Any, ...]) -> Check:
        if not args or args[1:] == (...,):
            item = self.check(args[0] if args else typing.Any)
            call = _list_of(item.call, self._text, tuple)
            return self._array(call, {"items": item.schema} if item.schema else {})
        items = [self.check(one) for one in args]
        size = len(items)
        schema = {"prefixItems": [one.schema for one in items], "minItems": size, "maxItems": size}
        return self._array(_tuple_of([one.call for one in items]), schema)

    def _class(self, hint: Any) -> Check:
        if not isinstance(hint, type):
            raise Unsupported(f"{in_words(hint)} is not a type that JSON has")
        if issubclass(hint, enum.Enum):
            return self._choice([(one.value, one) for one in hint])
        if is_dataclass(hint):
            return self._object(hint, _dataclass_fields, hint)
        if is_typed_dict(hint):
            return self._object(hint, _typed_dict_fields, None)
        if (hint.__module__, hint.__name__) in (("datetime", "datetime"), ("datetime", "date")):
            return self._moment(hint)
        raise Unsupported(f"{in_words(hint)} is not a type that JSON has")

    def _moment(self, hint: Any) -> Check:
        form = "date-time" if hint.__name__ == "datetime" else "date"
        words = "a time in ISO 8601" if form == "date-time" else "a date in ISO 8601"

        def call(value: Any) -> Any:
            if type(value) is not str:
                raise must_be(words, value)
            try:
                return hint.fromisoformat(value)
            except ValueError:
                raise Wrong(f" must be {words}") from None

        return Check(call, {"type": "string", "format": form}, words, ("text",))

    def _object(self, cls: Any, members: Callable[..., Iterable[tuple[str, Any, bool, Any]]], make: Any) -> Check:
        """Return the check for a class; while it is being made, one that asks it later: the class may hold itself."""
        if cls in self._classes:
            return self._classes[cls]
        name = cls.__name__
        promise = Check(lambda value: made.call(value), {"$ref": f"#/$defs/{name}"}, "an object", ("an object",))
        self._classes[cls] = promise
        made = object_check(
            [
                Field(field, self.check(hint), required=required, default=default)
                for field, hint, required, default in members(cls)
            ]
        )
        if make is not None:
            made.call = _made(Check(made.call, {}, "", ()), make)
        if _mentions(made.schema, promise.schema):
            self.definitions[name] = made.schema
            made.schema = promise.schema
        self._classes[cls] = made
        return made


def _mentions(schema: Any, part: Any) -> bool:
    if isinstance(schema, list):
        return any(_mentions(one, part) for one in schema)
    return isinstance(schema, dict) and (schema == part or any(_mentions(one, part) for one in schema.values()))


def unwrapped(hint: Any) -> tuple[Any, str | None]:
    """Return a hint without what stands around it, and the description that `Annotated` gives."""
    description = None
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated:
            texts = [one for one in hint.__metadata__ if isinstance(one, str)]
            description = description or next(iter(texts), None)
            hint = hint.__origin__
        elif origin in (typing.Required, typing.NotRequired):
            (hint,) = typing.get_args(hint)
        elif hasattr(hint, "__supertype__"):  # a NewType
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint, description


def is_typed_dict(hint: Any) -> bool:
    """Whether a hint is a TypedDict."""
    return isinstance(hint, type) and issubclass(hint, dict) and hasattr(hint, "__total__")


def holds_a_payload(hint: Any) -> bool:
    """Whether a hint is for an object with fields of its own, a dataclass or TypedDict."""
    hint, _ = unwrapped(hint)
    return is_typed_dict(hint) or (isinstance(hint, type) and is_dataclass(hint))


def is_container(hint: Any) -> bool:
    """Whether a hint is for what a message as a whole may be: an object, a list, anything; or one of those or none."""
    hint, _ = unwrapped(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(one is types.NoneType or is_container(one) for one in typing.get_args(hint))
    plain = typing.get_origin(hint) or hint
    return hint in (typing.Any, object) or plain in (*_LISTS, *_DICTS, tuple) or holds_a_payload(hint)


def _dataclass_fields(cls: Any) -> Iterable[tuple[str, Any, bool, Any]]:
    hints = hints_of(cls)
    if any(isinstance(hint, InitVar) for hint in hints.values()):
        raise Unsupported(f"{in_words(cls)} has an InitVar")
    for field in fields(cls):
        if field.init:
            required = field.default is NO_DEFAULT and field.default_factory is NO_DEFAULT
            yield field.name, hints[field.name], required, field.default


def _typed_dict_fields(cls: Any) -> Iterable[tuple[str, Any, bool, Any]]:
    for name, hint in hints_of(cls).items():
        required = name in cls.__required_keys__  # which is wrong where hints are text, so what they say wins
        origins = _origins(hint)
        if typing.Required in origins or typing.NotRequired in origins:
            required = typing.Required in origins
        yield name, hint, required, NO_DEFAULT


def _origins(hint: Any) -> list[Any]:
    found = []
    while (origin := typing.get_origin(hint)) in (typing.Annotated, typing.Required, typing.NotRequired):
        found.append(origin)
        hint = hint.__origin__ if origin is typing.Annotated else typing.get_args(hint)[0]
    return found


def hint_in(scope: Mapping[str, Any], hint: Any) -> Any:
    """Return a hint, which may be written as text, read with these global names. Raises `Unsupported`."""
    return hints_of(types.SimpleNamespace(__annotations__={"": hint}), dict(scope))[""]


def hints_of(thing: Any, scope: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the hints of a class. Raises `Unsupported`."""
    try:
        return typing.get_type_hints(thing, scope, include_extras=True)
    except NameError as error:
        text = f"the name {error.name!r} is not known where the module runs: import it there, and not for type checkers"
        raise Unsupported(f"{text} alone; a class must stand at the top of its module") from None
    except (TypeError, SyntaxError, AttributeError) as error:
        raise Unsupported(f"the hint cannot be read: {error}") from None


def as_value(one: Any) -> Any:
    """Return the value that stands in JSON for a member of a Literal."""
    return one.value if isinstance(one, enum.Enum) else one


def in_words(hint: Any) -> str:
    """Return a hint as it is written."""
    if isinstance(hint, str):
        return hint
    if hint is None or hint is types.NoneType:
        return "None"
    plain = isinstance(hint, type) and typing.get_origin(hint) is None
    return hint.__qualname__.rpartition("<locals>.")[2] if plain else str(hint).replace("typing.", "")
