"""The parameters of a handler, as its code object has them: who asks for fields of a payload, and who for none.

Pure, and imported by every service, so it does without `inspect` and `typing`: what a hint means, `contract` knows.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NOTHING: Any = object()
"""No hint, no default."""

WHOLE = ("payload", "data")
"""Names of parameters that take a whole payload."""

REQUEST = ("req", "request")
OWN = {
    "action": (),
    "workflow": (),
    "listen": ("channel",),
    "route": REQUEST,
    "socket": ("client_id", "sid", *REQUEST),
    "socket_register": ("client_id", "sid", *REQUEST),
}
"""The kinds of handlers that may have a contract, and what their doors give beside the payload."""

POSITIONAL = ("listen", "socket", "socket_register")
"""Kinds whose first parameter is the payload, and the second the channel or the client's id, unless hints say more."""

VARIABLE, KEYWORDS = 0x04, 0x08  # inspect.CO_VARARGS, CO_VARKEYWORDS

_ANYTHING = ("Any", "typing.Any", "object")
_UNCHECKED = (*_ANYTHING, "dict", "list", "Dict", "List", "typing.Dict", "typing.List")


class Parameter:
    """One parameter: its name, its hint as it stands there, its default; `place` is None if it goes by name only."""

    __slots__ = ("default", "hint", "name", "place")

    def __init__(self, name: str, hint: Any, default: Any, place: int | None) -> None:
        self.name = name
        self.hint = hint
        self.default = default
        self.place = place

    @property
    def hinted(self) -> bool:
        """Whether it has a hint."""
        return self.hint is not NOTHING

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is NOTHING

    @property
    def own(self) -> bool:
        """Whether it is the function's own business: it has a default, and no hint that makes it a field, or a name
        that begins with `_`."""
        return not self.required and (not self.hinted or self.name.startswith("_"))


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself, below decorators that pass on what they are given (`functools.wraps`)."""
    return layers(function)[-1]


def layers(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return a function and all that is below it, the innermost last."""
    found = [function]
    while hasattr(found[-1], "__wrapped__") and _passes_on(found[-1]):
        found.append(found[-1].__wrapped__)
    return found


def _passes_on(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is None or bool(code.co_flags & (VARIABLE | KEYWORDS))


def parameters(function: Callable[..., Any]) -> list[Parameter] | None:
    """Return the named parameters of a function, those of `*more` and `**rest` apart; None if it does not tell."""
    inner = innermost(function)
    code = getattr(inner, "__code__", None)
    if code is None:
        return None
    bound = getattr(inner, "__self__", None) is not None
    hints = hints_as_written(inner)
    names = code.co_varnames[bound : code.co_argcount]
    defaults = getattr(inner, "__defaults__", None) or ()
    first = len(names) - len(defaults)
    found = [
        Parameter(name, hints.get(name, NOTHING), defaults[place - first] if place >= first else NOTHING, place)
        for place, name in enumerate(names)
    ]
    by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    given = getattr(inner, "__kwdefaults__", None) or {}
    return found + [Parameter(name, hints.get(name, NOTHING), given.get(name, NOTHING), None) for name in by_name]


def hints_as_written(inner: Callable[..., Any]) -> dict[str, Any]:
    """Return the hints of a function as they stand there."""
    try:
        return dict(getattr(inner, "__annotations__", None) or {})
    except NameError:  # from Python 3.14 on they are read only now, and one of them is there for type checkers alone
        from importlib import import_module

        library: Any = import_module("annotationlib")
        found: dict[str, Any] = library.get_annotations(inner, format=library.Format.FORWARDREF)
        return found


def rest_of(function: Callable[..., Any]) -> str | None:
    """Return the name of `**rest`, None if the function has none."""
    code: Any = getattr(innermost(function), "__code__", None)
    if code is None or not code.co_flags & KEYWORDS:
        return None
    named: int = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & VARIABLE)
    return str(code.co_varnames[named])


def is_anything(hint: Any) -> bool:
    """Whether a hint, if there is one, says nothing at all."""
    return _is_one_of(hint, _ANYTHING, (NOTHING, object))


def _is_unchecked(hint: Any) -> bool:
    """Whether a hint at a payload asks for no check, or there is none."""
    return _is_one_of(hint, _UNCHECKED, (NOTHING, object, dict, list))


def _is_one_of(hint: Any, texts: tuple[str, ...], things: tuple[Any, ...]) -> bool:
    if isinstance(hint, str):
        return hint.strip("'\" ") in texts
    name = f"{getattr(hint, '__module__', '')}.{getattr(hint, '__name__', '')}"
    return any(hint is one for one in things) or name in ("typing.Any", "typing.Dict", "typing.List")


def is_text(hint: Any) -> bool:
    """Whether a hint says `str`, or nothing."""
    return is_anything(hint) or hint is str or (isinstance(hint, str) and hint.strip("'\" ") == "str")


_REQUESTS = {"route": "HttpRequest", "socket": "WebSocketRequest", "socket_register": "WebSocketRequest"}


def is_request(kind: str, hint: Any) -> bool:
    """Whether a hint names the class of the requests that a handler of this kind has."""
    text = hint.strip("'\" ") if isinstance(hint, str) else getattr(hint, "__name__", "")
    return kind in _REQUESTS and str(text).rpartition(".")[2] == _REQUESTS[kind]


def has_contract(kind: str, function: Callable[..., Any], path: str = "", names: tuple[str, ...] | None = ()) -> bool:
    """Whether a handler's hints ask something of its payload or of the values of its path.

    `path` is that of a route with its placeholders, `names` are their names; None: Daebus' own, which asks nothing.
    """
    found = parameters(function) if kind in OWN and names is not None else None
    if found is None or (function is not innermost(function) and _is_given_more(kind, found)):
        return False
    if kind in POSITIONAL:
        begins_with_door = bool(found) and found[0].name in OWN[kind]
        return not all(_is_as_given(kind, one, begins_with_door) for one in found)
    if kind == "route":
        return any(_asks_in_route(one, path, names or ()) for one in found)
    return rest_asks(kind, function) or any((one.hinted and not one.own) or _is_whole(one) for one in found)


def rest_asks(kind: str, function: Callable[..., Any]) -> bool:
    """Whether `**rest` of an action or workflow has a hint, so that it takes fields even if there are no others."""
    rest = rest_of(function) if kind in ("action", "workflow") else None
    return rest is not None and not is_anything(hints_as_written(innermost(function)).get(rest, NOTHING))


def _is_given_more(kind: str, found: list[Parameter]) -> bool:
    """Whether a decorator seems to give arguments of its own to the function below it."""
    if kind not in ("action", "workflow"):
        return False
    return any(one.required and not one.hinted and one.name not in WHOLE for one in found)


def _is_whole(one: Parameter) -> bool:
    return one.name in WHOLE and not one.own


def _is_as_given(kind: str, one: Parameter, begins_with_door: bool) -> bool:
    """Whether a parameter of a listener or socket handler takes what its door gives as it comes."""
    if one.own or one.name in OWN[kind]:
        return True
    if one.place is None:
        return not one.hinted
    if one.place == 1:
        return (is_text(one.hint) or _is_unchecked(one.hint)) and not (begins_with_door and one.hinted)
    return _is_unchecked(one.hint) and (one.place == 0 or not one.hinted)


def _asks_in_route(one: Parameter, path: str, names: tuple[str, ...]) -> bool:
    if one.name in names:
        typed = f":{one.name}>" in path and f"<path:{one.name}>" not in path
        return one.hinted and not typed and not is_text(one.hint)
    return not is_the_request(one) and (one.hinted or (_is_whole(one) and one.place != 0))


def is_the_request(one: Parameter) -> bool:
    """Whether a parameter of a route, one that is not in the path, takes the request."""
    if one.name.strip("_") in REQUEST or is_request("route", one.hint):
        return True
    return one.place == 0 and is_anything(one.hint) and not (one.hinted and one.name in WHOLE)


def misfit(kind: str, function: Callable[..., Any], names: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with the parameters of a handler that has a contract, as the end of a sentence."""
    found = parameters(function) or []
    absent = [name for name in names if name not in [one.name for one in found]]
    if absent:
        return f"does not take {absent[0]!r} of its path"
    second = kind in POSITIONAL
    for one in found:
        if one.hinted or not one.required or one.name in (*names, *WHOLE, *OWN[kind]):
            continue
        if (one.place == 0 and kind in (*POSITIONAL, "route")) or (one.place == 1 and second):
            continue
        return f"has a parameter {one.name!r} without a type: write what it takes, as in `{one.name}: int`"
    return None
