"""What type hints take of JSON and of text, what they say of the rest, and the schema that goes with them."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, Required, TypedDict, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import context
from daebus.app import Daebus
from daebus.contract import describe
from daebus.errors import BadPayload, DeclarationError
from daebus.hints import Compiler, Unsupported, Wrong, kind_of
from daebus.parameters import has_contract
from daebus.registry import Record, Registry
from daebus.work import Work


class Mode(enum.Enum):
    AUTO = "auto"
    OFF = "off"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Room:
    name: str
    size: float = 2.0
    tags: list[str] = field(default_factory=list)
    mode: Mode = Mode.AUTO
    area: float = field(init=False, default=0.0)


@dataclass(frozen=True, kw_only=True)
class Light:
    percent: int
    room: Room | None = None

    def __post_init__(self) -> None:
        if self.percent > 100:
            raise ValueError("no light is that bright")
        if self.percent < 0:
            raise TypeError


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class Chain:
    value: int = 0
    following: Chain | None = None


@dataclass
class Both:
    parts: list[Both | Either]
    kind: Literal["both"] = "both"


@dataclass
class Either:
    parts: list[Both | Either]
    kind: Literal["either"] = "either"


class Partly(TypedDict, total=False):
    must: Required[int]
    may: str


class Wholly(TypedDict):
    must: int
    may: NotRequired[str]


Kelvin = NewType("Kelvin", float)


def taken(hint: Any, value: Any, *, text: bool = False) -> Any:
    return Compiler(text=text).check(hint).call(value)


def refusal(hint: Any, value: Any, *, text: bool = False) -> str:
    with pytest.raises(Wrong) as caught:
        taken(hint, value, text=text)
    return str(caught.value.inside(".x"))


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (str, "a", "a"),
        (int, 5, 5),
        (int, 10**400, 10**400),
        (float, 5, 5.0),
        (float, 2.5, 2.5),
        (bool, False, False),
        (None, None, None),
        (Any, {"a": [1]}, {"a": [1]}),
        (object, None, None),
        (list, [1, "a"], [1, "a"]),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (Sequence[int], [1], [1]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple, [1, "a"], (1, "a")),
        (dict, {"a": 1}, {"a": 1}),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (Mapping[str, Any], {"a": 1}, {"a": 1}),
        (int | None, None, None),
        (Optional[int], 5, 5),  # noqa: UP045 - users write it so, too
        (int | float, 5, 5),
        (float | int, 5, 5.0),
        (int | str | list[int], [5], [5]),
        (Literal["a", 1, None], 1, 1),
        (Literal[Mode.OFF], "off", Mode.OFF),
        (Mode, "auto", Mode.AUTO),
        (Level, 2, Level.HIGH),
        (Room, {"name": "hall"}, Room("hall")),
        (Room, {"name": "a", "size": 3, "tags": ["b"], "mode": "off"}, Room("a", 3.0, ["b"], Mode.OFF)),
        (Light, {"percent": 5, "room": {"name": "a"}}, Light(percent=5, room=Room("a"))),
        (Tree, {"value": 1, "children": [{"value": 2}]}, Tree(1, [Tree(2)])),
        (Partly, {"must": 1}, {"must": 1}),
        (Wholly, {"must": 1, "may": "a"}, {"must": 1, "may": "a"}),
        (Annotated[int, "how bright"], 5, 5),
        (Kelvin, 5, 5.0),
        (datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)),  # noqa: UP017 - tests/unit runs on Python 3.11 and older tools
        (date, "2026-01-02", date(2026, 1, 2)),
    ],
)
def test_what_a_hint_takes(hint: Any, value: Any, expected: Any) -> None:
    result = taken(hint, value)
    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (str, 5, "'x' must be text, not a whole number"),
        (str, None, "'x' must be text, not null"),
        (int, "5", "'x' must be a whole number, not text"),
        (int, True, "'x' must be a whole number, not true or false"),
        (int, 5.0, "'x' must be a whole number, not a number"),
        (float, False, "'x' must be a number, not true or false"),
        (float, 10**400, "'x' is too large a number"),
        (bool, 1, "'x' must be true or false, not a whole number"),
        (None, 0, "'x' must be null, not a whole number"),
        (list[int], {}, "'x' must be a list, not an object"),
        (list[int], [1, 2, "a"], "'x[2]' must be a whole number, not text"),
        (list[list[int]], [[], [1, None]], "'x[1][1]' must be a whole number, not null"),
        (tuple[int, str], [1], "'x' must be a list of 2 values, not of 1"),
        (tuple[int, str], [1, 2], "'x[1]' must be text, not a whole number"),
        (tuple[int, str], "ab", "'x' must be a list, not text"),
        (dict, [], "'x' must be an object, not a list"),
        (dict[str, int], {"a": 1, "b": "c"}, "'x.b' must be a whole number, not text"),
        (dict[str, int], {"a\nb": "c"}, r"'x.a\nb' must be a whole number, not text"),
        (dict[str, int], {"a" * 500: "c"}, f"'x.{'a' * 60}...' must be a whole number, not text"),
        (int | None, "a", "'x' must be a whole number or null, not text"),
        (int | str, [], "'x' must be a whole number or text, not a list"),
        (list[int] | None, ["a"], "'x[0]' must be a whole number, not text"),
        (Room | None, {"name": 5}, "'x.name' must be text, not a whole number"),
        (Room | Light, {"colour": 5}, "'x' must be an object with 'name' or an object with 'percent'"),
        (Literal["a", "b"], "c", "'x' must be 'a' or 'b'"),
        (Literal[1, True, None], "c", "'x' must be 1, true or null"),
        (Literal[1], True, "'x' must be 1"),
        (Literal["a"], ["a"], "'x' must be 'a'"),
        (Mode, "on", "'x' must be 'auto' or 'off'"),
        (enum.Enum("Many", [f"n{number}" for number in range(20)]), 99, "'x' must be one of 20 values"),
        (Room, {}, "'x.name' is missing"),
        (Room, {"nme": "a"}, "unknown field 'x.nme'; did you mean 'name'?"),
        (Room, {"name": "a", "zzz": 1}, "unknown field 'x.zzz'; there are 'name', 'size', 'tags' and 'mode'"),
        (Room, {"name": "a", "area": 1.0}, "unknown field 'x.area'; there are 'name', 'size', 'tags' and 'mode'"),
        (Room, [], "'x' must be an object with 'name', not a list"),
        (Light, {"percent": 500}, "'x': no light is that bright"),
        (Light, {"percent": -1}, "'x': the values do not fit together"),
        (Light, {"percent": 5, "room": {"name": 5}}, "'x.room.name' must be text, not a whole number"),
        (Tree, {"value": 1, "children": [{"value": "a"}]}, "'x.children[0].value' must be a whole number, not text"),
        (Partly, {}, "'x.must' is missing"),
        (Partly, {"must": 1, "my": "a"}, "unknown field 'x.my'; did you mean 'may'?"),
        (Wholly, {"may": "a"}, "'x.must' is missing"),
        (datetime, "soon", "'x' must be a time in ISO 8601"),
        (date, 5, "'x' must be a date in ISO 8601, not a whole number"),
    ],
)
def test_what_a_hint_refuses_and_how(hint: Any, value: Any, said: str) -> None:
    assert refusal(hint, value) == said


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, "-5", -5),
        (float, "2.5", 2.5),
        (float, "1e3", 1000.0),
        (bool, "true", True),
        (bool, "False", False),
        (bool, "1", True),
        (bool, "0", False),
        (str, "5", "5"),
        (str | None, "", ""),
        (int | None, "", None),
        (int | str, "5", 5),
        (int | str, "a", "a"),
        (list[int], ["1", "2"], [1, 2]),
        (list[int], "1", [1]),
        (tuple[int, ...], "1", (1,)),
        (Literal[1, "a"], "1", 1),
        (Level, "2", Level.HIGH),
        (Mode, "off", Mode.OFF),
        (Room, {"name": "a", "size": "3", "tags": "b"}, Room("a", 3.0, ["b"])),
        (date, "2026-01-02", date(2026, 1, 2)),
    ],
)
def test_what_a_hint_takes_of_text(hint: Any, value: Any, expected: Any) -> None:
    result = taken(hint, value, text=True)
    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        *[(int, text, "'x' must be a whole number, not text") for text in ("", "5.0", "1_0", " 5", "0x5", "\u0665")],
        *[(float, text, "'x' must be a number, not text") for text in ("", "nan", "inf", "1_0", "five", ".")],
        (float, "1e999", "'x' is too large a number"),
        (bool, "yes", "'x' must be true or false, not text"),
        (int, ["1", "2"], "'x' must be a whole number, not a list"),
        (str, ["1", "2"], "'x' must be text, not a list"),
        (list[int], ["1", "b"], "'x[1]' must be a whole number, not text"),
        (int | None, "a", "'x' must be a whole number or null, not text"),
    ],
)
def test_what_a_hint_refuses_of_text(hint: Any, value: Any, said: str) -> None:
    assert refusal(hint, value, text=True) == said


def test_what_is_wrong_with_a_whole_payload_says_so() -> None:
    for hint, value, said in (
        (Room, [], "the payload must be an object with 'name', not a list"),
        (list[int], ["a"], "'payload[0]' must be a whole number, not text"),
        (Light, {"percent": 500}, "no light is that bright"),
    ):
        with pytest.raises(Wrong) as caught:
            taken(hint, value)
        assert str(caught.value) == said


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (bytes, "bytes is not a type that JSON has"),
        (set[int], r"set\[int\] is not a type that JSON has"),
        (Callable[[], int], "not a type that JSON has"),
        (dict[int, str], "the keys of a JSON object are text"),
        (list["Nowhere"], "not a type that JSON has"),  # type: ignore[name-defined]  # noqa: F821
        (enum.Enum("Odd", {"A": object()}), "values that JSON does not know"),
    ],
)
def test_a_hint_that_no_value_can_be_held_against_is_refused(hint: Any, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        Compiler().check(hint)


# --- the schema ---


def allows(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Whether a schema allows a value: as much of JSON Schema as there is in ours."""
    if "$ref" in schema:
        return allows(root[schema["$ref"].removeprefix("#/$defs/")], value, root)
    if "anyOf" in schema:
        return any(allows(one, value, root) for one in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(one) and value == one for one in schema["enum"])
    kinds = {"string": str, "integer": int, "boolean": bool, "null": type(None), "array": list, "object": dict}
    wanted = schema.get("type")
    if wanted == "number":
        return type(value) in (int, float)
    if wanted is not None and type(value) is not kinds[wanted]:
        return False
    if wanted == "array":
        return _allows_list(schema, value, root)
    return wanted != "object" or _allows_object(schema, value, root)


def _allows_list(schema: dict[str, Any], value: list[Any], root: dict[str, Any]) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    items = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
    return all(allows(item, one, root) for item, one in zip(items, value, strict=True))


def _allows_object(schema: dict[str, Any], value: dict[str, Any], root: dict[str, Any]) -> bool:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not set(schema.get("required", ())) <= set(value):
        return False
    for key, one in value.items():
        wanted = properties.get(key, more)
        if wanted is False or (wanted is not True and not allows(wanted, one, root)):
            return False
    return True


plain_hints = st.sampled_from([
    str, int, float, bool, None, Any, list, dict, Mode, Level, Literal["a", 1], Room, Tree, Partly, Wholly,
])  # fmt: skip
hints = st.recursive(
    plain_hints,
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),  # type: ignore[valid-type]
        inner.map(lambda one: tuple[one, ...]),  # type: ignore[valid-type]
        inner.map(lambda one: tuple[one, int]),  # type: ignore[valid-type]
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda two: Union[two]),  # noqa: UP007 - not all that is a hint knows `|`
    ),
    max_leaves=4,
)
names = st.sampled_from(["a", "name", "size", "tags", "mode", "value", "children", "must", "may"])
values = st.recursive(
    st.sampled_from([None, True, 0, 1, 2, 1.0, 2.5, "", "a", "auto", "off"]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)


def takes(hint: Any, value: Any, *, text: bool = False) -> bool:
    try:
        taken(hint, value, text=text)
    except Wrong as error:
        return not str(error)  # it has something to say
    return True


@given(hints, values)
def test_the_schema_allows_what_the_check_takes(hint: Any, value: Any) -> None:
    compiler = Compiler()
    schema = compiler.check(hint).schema
    assert takes(hint, value) is allows(schema, value, compiler.definitions)


@given(hints, st.one_of(values, st.dictionaries(names, st.one_of(st.text(), st.lists(st.text())))))
def test_text_of_any_kind_is_taken_or_refused(hint: Any, value: Any) -> None:
    assert takes(hint, value, text=True) in (True, False)


def test_every_kind_of_value_has_a_name() -> None:
    assert kind_of(b"") == "bytes"
    assert kind_of(object()) == "a object"


# --- handlers ---


def record(kind: str, function: Callable[..., Any], name: str = "x", **options: Any) -> Record:
    """Declared as users do."""
    registry = Registry("r")
    getattr(registry, kind)(name, **options)(function)
    return next(iter(registry._records.values()))


def dim(percent: int, room: Annotated[str, "which one"] = "hall", mode: Mode = Mode.AUTO, *, fade: bool = False) -> str:
    return f"{percent} {room} {mode.value} {fade}"


def ask(function: Callable[..., Any], payload: Any) -> Any:
    """What an action answers to a payload."""
    token = context.current.set(SimpleNamespace(request=SimpleNamespace(payload=payload), response=None))
    try:
        return Work(record("action", function)).function()
    finally:
        context.current.reset(token)


def test_a_contract_describes_itself() -> None:
    assert describe(record("action", dim)) == {
        "input": {
            "type": "object",
            "properties": {
                "percent": {"type": "integer"},
                "room": {"type": "string", "description": "which one", "default": "hall"},
                "mode": {"enum": ["auto", "off"], "default": "auto"},
                "fade": {"type": "boolean", "default": False},
            },
            "required": ["percent"],
            "additionalProperties": False,
        },
        "returns": "str",
    }


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: 1, {"input": None, "returns": None}),
        (ask, {"input": None, "returns": "Any"}),
    ],
)
def test_what_says_nothing_is_described_as_nothing(function: Callable[..., Any], expected: Any) -> None:
    assert describe(Record("background", "x", function)) == expected


def test_a_class_that_holds_itself_has_a_definition() -> None:
    def grow(tree: Tree) -> None: ...

    schema = describe(record("action", grow))["input"]
    assert schema["$ref"] == "#/$defs/Tree"
    assert schema["$defs"]["Tree"]["properties"]["children"] == {"type": "array", "items": {"$ref": "#/$defs/Tree"}}


def test_a_value_nested_too_deeply_is_refused() -> None:
    def grow(tree: Tree) -> None: ...

    deep: dict[str, Any] = {"value": 1}
    for _ in range(3000):
        deep = {"value": 1, "children": [deep]}
    with pytest.raises(BadPayload, match="nested too deeply"):
        ask(grow, deep)


def positional(percent: int, /, room: str = "hall", *more: int) -> Any:
    return percent, room, more


def resting(percent: int, _private: int = 5, **rest: int) -> Any:
    return percent, _private, rest


def hidden(percent: int, secret=5) -> Any:  # type: ignore[no-untyped-def]
    return percent, secret


def private(percent: int, _cache: Nowhere = None) -> Any:  # type: ignore[name-defined]  # noqa: F821
    return percent, _cache


def both(payload: dict[str, Any], percent: int) -> Any:
    return payload, percent


def sole(celsius: float) -> Any:
    return celsius


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*given: Any) -> Any:
        return function(*given)

    return wrapper


def by_keywords(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(**given: Any) -> Any:
        return function(**given)

    return wrapper


def by_both(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*given: Any, **named: Any) -> Any:
        return function(*given, **named)

    return wrapper


class Lamp:
    def dim(self, percent: int) -> int:
        return percent


@pytest.mark.parametrize(
    ("function", "payload", "expected"),
    [
        (dim, {"percent": 5}, "5 hall auto False"),
        (dim, {"percent": 5, "fade": True, "mode": "off"}, "5 hall off True"),
        (positional, {"percent": 5}, (5, "hall", ())),
        (positional, {"percent": 5, "room": "a"}, (5, "a", ())),
        (resting, {"percent": 5, "a": 1}, (5, 5, {"a": 1})),
        (hidden, {"percent": 5}, (5, 5)),
        (private, {"percent": 5}, (5, None)),
        (both, {"percent": 5, "a": 1}, ({"percent": 5, "a": 1}, 5)),
        (sole, {"celsius": 5}, 5.0),
        (sole, 5, 5.0),
        (decorated(hidden), {"percent": 5}, (5, 5)),
        (by_keywords(hidden), {"percent": 5}, (5, 5)),
        (by_both(decorated(sole)), {"celsius": 5}, 5.0),
        (by_both(by_keywords(sole)), {"celsius": 5}, 5.0),
        (functools.cache(sole), {"celsius": 5}, 5.0),
        (Lamp().dim, {"percent": 5}, 5),
        (lambda payload: payload, [5], [5]),
        (lambda more=5: more, {"more": 6}, 5),
    ],
)
def test_functions_are_called_as_they_want_it(function: Callable[..., Any], payload: Any, expected: Any) -> None:
    assert ask(function, payload) == expected


@pytest.mark.parametrize(
    ("function", "payload", "said"),
    [
        (resting, {"percent": 5, "_private": 1}, "unknown field '_private'"),  # nobody sets that from outside
        (resting, {"percent": 5, "a": "b"}, "'a' must be a whole number, not text"),
        (hidden, {"percent": 5, "secret": 1}, "unknown field 'secret'"),
        (sole, "warm", "'celsius' must be a number, not text"),
        (sole, {}, "'celsius' is missing"),
        (sole, None, "'celsius' is missing"),
        (dim, None, "'percent' is missing"),
    ],
)
def test_functions_are_not_called_for_what_does_not_fit(function: Callable[..., Any], payload: Any, said: str) -> None:
    with pytest.raises(BadPayload) as caught:
        ask(function, payload)
    assert said in str(caught.value)
    assert (caught.value.code, caught.value.http_status, caught.value.for_caller) == ("bad_payload", 400, True)


@pytest.mark.parametrize("kind", ["listen", "socket"])
@pytest.mark.parametrize(
    ("function", "hears"),
    [
        (lambda payload: payload, False),
        (lambda anything, channel: (anything, channel), False),
        (sole, True),
        (both, True),
    ],
)
def test_only_hints_make_a_contract_of_a_message(kind: str, function: Callable[..., Any], hears: bool) -> None:
    assert has_contract(kind, function) is hears


def bare(msg: dict, channel: str) -> None: ...  # type: ignore[type-arg]
def spelt(msg: dict[str, Any], client: str) -> Any:
    return msg, client


def first(channel: str, celsius: float) -> Any:
    return channel, celsius


def second(celsius: float, topic) -> Any:  # type: ignore[no-untyped-def]
    return celsius, topic


def fields(celsius: float, room: str) -> Any:
    return celsius, room


def a_class(light: Light, channel: str) -> Any:
    return light, channel


def named(data: int, topic: str) -> Any:
    return data, topic


def maybe(msg: dict[str, Any] | None, topic: str) -> Any:
    return msg, topic


# --- what a hostile payload may cost ---


def chain(depth: int, last: Any) -> Any:
    payload = last
    for _ in range(depth):
        payload = {"following": payload}
    return payload


def parts(depth: int, last: Any) -> Any:
    payload = last
    for _ in range(depth):
        payload = {"parts": [payload], "kind": "either"}
    return payload


def test_a_chain_is_checked_once_whatever_is_at_its_end() -> None:
    """If each level were tried twice, this would never end."""
    check = Compiler().check(Chain)
    with pytest.raises(Wrong, match=r"following\.following' must be an object or null, not a whole number"):
        check.call(chain(60, 5))
    with pytest.raises(Wrong, match=r"following\.value' must be a whole number, not text"):
        check.call(chain(60, {"value": "x"}))


def test_members_of_a_union_that_hold_each_other_are_tried_once_at_each_place() -> None:
    check = Compiler().check(Both | Either)
    made = check.call(parts(60, {"parts": [], "kind": "both"}))
    assert isinstance(made, Either)
    with pytest.raises(Wrong, match="the payload must be an object with 'parts'"):
        check.call(parts(60, {"parts": [], "kind": "neither"}))
    assert check.call({"parts": []}) == Both([])  # nothing is kept of it


def test_equal_parts_at_several_places_are_objects_of_their_own() -> None:
    made = Compiler().check(list[Both | Either]).call([{"parts": []}, {"parts": []}])
    assert made == [Both([]), Both([])]
    assert made[0] is not made[1]


def test_a_near_name_is_looked_for_only_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def look(word: str, _known: list[str], n: int) -> list[str]:
        looked.append(word)
        return [][:n]

    monkeypatch.setattr("difflib.get_close_matches", look)
    check = Compiler().check(list[Partly | Room])
    assert check.call([{"name": "hall"}] * 3) == [Room("hall")] * 3
    assert not looked
    with pytest.raises(Wrong) as caught:
        check.call([{"name": "hall", "colour": 1}])
    assert (str(caught.value), looked) == ("'payload[0]' must be an object with 'must' or an object with 'name'", [])


# --- parameters that are nobody's business ---


def of_its_own(_cache: int = 3) -> Any:
    return _cache


@pytest.mark.parametrize("payload", [None, {}, {"_cache": 5}, 5, [1], {"more": 1}])
def test_a_function_without_fields_is_called_as_ever(payload: Any) -> None:
    assert ask(of_its_own, payload) == 3


class Owner:
    def keep(self, percent: int, **rest: int) -> Any:
        return percent, rest


def test_rest_does_not_take_the_name_of_a_methods_object() -> None:
    assert ask(Owner().keep, {"percent": 1, "me": 2}) == (1, {"me": 2})
    with pytest.raises(BadPayload, match="unknown field 'self'"):
        ask(Owner().keep, {"percent": 1, "self": 2})


def rest_alone(**rest: int) -> Any:
    return rest


def rest_of_old(**rest: Any) -> Any:
    return rest


def test_a_hint_of_rest_is_checked_also_if_there_are_no_other_fields() -> None:
    assert ask(rest_alone, {"a": 1}) == {"a": 1}
    assert ask(rest_alone, None) == {}
    with pytest.raises(BadPayload, match="'a' must be a whole number, not text"):
        ask(rest_alone, {"a": "x"})
    assert describe(record("action", rest_alone))["input"]["additionalProperties"] == {"type": "integer"}
    assert not has_contract("action", rest_of_old)


def test_a_bare_dict_costs_nothing() -> None:
    assert not has_contract("listen", bare)
    assert Work(record("listen", bare)).function is bare


@pytest.mark.parametrize(
    ("function", "payload", "expected"),
    [
        (spelt, {"a": 1}, ({"a": 1}, "here")),
        (first, 5, ("here", 5.0)),
        (second, {"celsius": 5}, (5.0, "here")),
        (fields, {"celsius": 5, "room": "hall"}, (5.0, "hall")),
        (a_class, {"percent": 5}, (Light(percent=5), "here")),
        (named, 5, (5, "here")),
        (maybe, None, (None, "here")),
    ],
)
def test_a_listener_gets_its_payload_its_fields_and_its_channel(
    function: Callable[..., Any], payload: Any, expected: Any
) -> None:
    work = Work(record("listen", function))
    assert work.wants_channel
    assert work.function(payload, "here") == expected


def of_request(req: Any, client_id: str, percent: int) -> Any:
    return req.data, client_id, percent


def test_a_socket_handler_gets_the_request_the_client_and_fields() -> None:
    request = SimpleNamespace(data={"percent": 5}, client_id="me")
    assert Work(record("socket", of_request)).function(request) == ({"percent": 5}, "me", 5)


def test_a_route_whose_path_alone_has_types_does_not_look_at_the_rest() -> None:
    def show(number: int, **rest: Any) -> Any:
        return number, rest

    made = record("route", show, "/a/<number>")
    request = SimpleNamespace(values={"number": "5"}, payload={"number": "6", "more": "7"}, is_text=True)
    assert Work(made).function(request) == (5, {})
    assert describe(made)["input"] is None


def test_so_does_one_for_clients_that_register() -> None:
    registry = Registry("r")
    registry.socket_register(of_request)
    (declared,) = registry.records("socket_register")
    with pytest.raises(BadPayload, match="'percent' is missing"):
        Work(declared).function(SimpleNamespace(data={}, client_id="me"))


def test_values_of_a_path_with_types_of_their_own_need_no_contract() -> None:
    def show(req: Any, number: int) -> None: ...

    assert not has_contract("route", show, "GET /a/<int:number>", ("number",))
    assert has_contract("route", show, "GET /a/<number>", ("number",))


# --- what is refused ---


def lost(picture: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def unfit(picture: bytes) -> None: ...
def untyped(percent: int, room) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lost, "parameter 'picture': the name 'Nowhere' is not known where the module runs"),
        (unfit, "parameter 'picture': bytes is not a type that JSON has"),
    ],
)
def test_a_hint_that_cannot_be_checked_ends_the_start(function: Callable[..., Any], said: str) -> None:
    app = Daebus("app")
    app.action("draw")(function)
    with pytest.raises(DeclarationError, match=f"the action handler 'draw' .*test_contract.py:[0-9]+.*{said}"):
        app._run("svc", None, False, False, None)  # type: ignore[arg-type]  # the settings are not reached


def test_a_hint_of_the_answer_may_be_for_type_checkers_alone() -> None:
    def draw(percent: int) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    assert describe(record("action", draw))["returns"] == "Nowhere"


@pytest.mark.parametrize("kind", ["action", "workflow"])
def test_a_parameter_without_a_type_is_refused(kind: str) -> None:
    with pytest.raises(DeclarationError, match="has a parameter 'room' without a type: write what it takes"):
        record(kind, untyped)


def test_a_route_must_take_what_is_in_its_path() -> None:
    with pytest.raises(DeclarationError, match="does not take 'number' of its path"):
        record("route", sole, "/a/<number>")


def test_the_place_of_a_decorated_handler_is_its_own() -> None:
    assert record("action", decorated(sole)).place == record("action", sole).place


def test_a_decorator_may_give_arguments_of_its_own() -> None:
    """As it always could: what its function has no type for is not taken from the payload."""

    def inject(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*given: Any) -> Any:
            return function("connection", *given)

        return wrapper

    assert ask(inject(lambda connection: connection), {"a": 1}) == "connection"
