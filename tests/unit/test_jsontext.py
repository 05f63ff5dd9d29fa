"""JSON text: values survive the way out and in, and what cannot be written or read is one of two errors."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus.errors import BadMessage, Unserialisable
from daebus.jsontext import DaebusJSONEncoder, dumps, dumps_pretty, loads, make_json_serializable, quote

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=20
)
any_text = st.text(alphabet=st.characters(), max_size=50)  # lone surrogates too: JSON can escape them


@given(json_values)
def test_a_value_survives_the_way_out_and_in(value: Any) -> None:
    text = dumps(value)
    assert text.isascii()
    assert loads(text) == loads(text.encode()) == value


@given(json_values)
def test_the_text_is_the_standard_librarys_compact_one(value: Any) -> None:
    assert dumps(value) == json.dumps(value, separators=(",", ":"))


@given(any_text)
def test_quoted_text_is_that_text(text: str) -> None:
    assert loads(quote(text)) == text


@given(st.binary() | any_text | json_values.map(json.dumps))
def test_reading_raises_nothing_but_bad_message(data: bytes | str) -> None:
    try:
        value = loads(data)
    except BadMessage:
        return
    assert value == json.loads(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON: Expecting value"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON: Extra data"),
        (b"NaN", "not JSON: NaN is not JSON"),
        (b"[-Infinity]", "not JSON: -Infinity is not JSON"),
        (b"\xff", "not UTF-8 (byte 0)"),
        (b'"\xed\xa0\x80"', "not UTF-8 (byte 1)"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'"\n"', "not JSON: Invalid control character"),
        (b"9" * 5000, "not JSON: Exceeds the limit"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(data: bytes, said: str) -> None:
    with pytest.raises(BadMessage) as caught:
        loads(data)
    assert said in str(caught.value)


def test_space_around_a_value_is_allowed() -> None:
    assert loads(b' \r\n\t{"a": [1]} \n') == {"a": [1]}


class Level(Enum):
    HIGH = "high"


class Number(IntEnum):
    TWO = 2


@dataclass
class Reading:
    celsius: float
    _raw: int = 7
    tags: set[str] = field(default_factory=set)


class Plain:
    def __init__(self) -> None:
        self.name = "n"
        self._hidden = "hidden"


class Told:
    def to_dict(self) -> dict[str, object]:
        return {"inner": Plain()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC), '"2026-11-23T04:05:06+00:00"'),
        (date(2026, 11, 23), '"2026-11-23"'),
        (time(4, 5), '"04:05:00"'),
        (timedelta(seconds=90), '"0:01:30"'),
        (Decimal("1.5"), "1.5"),
        (Fraction(1, 4), "0.25"),
        ({3}, "[3]"),
        (frozenset(), "[]"),
        (deque([1, 2]), "[1,2]"),
        (range(3), "[0,1,2]"),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (b"text", '"text"'),
        (bytearray(b"\xff\x00"), '"ff00"'),
        (memoryview(b"x"), '"x"'),
        (UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (PurePosixPath("/etc"), '"/etc"'),
        (Level.HIGH, '"high"'),
        (Number.TWO, "2"),
        (Reading(1.5), '{"celsius":1.5,"tags":[]}'),
        (Plain(), '{"name":"n"}'),
        (Told(), '{"inner":{"name":"n"}}'),
        (ValueError("why"), '"why"'),
        ((1, (2,)), "[1,[2]]"),
        ({1: 2, None: 3, False: 4}, '{"1":2,"null":3,"false":4}'),
    ],
)
def test_what_json_does_not_know_is_written_as(value: Any, text: str) -> None:
    assert dumps(value) == text
    assert json.dumps(value, cls=DaebusJSONEncoder, separators=(",", ":")) == text
    assert make_json_serializable([value]) == [json.loads(text)]


def iter_nothing() -> Iterator[None]:
    yield from ()


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "NaN and Infinity are not JSON"),
        ([float("inf")], "NaN and Infinity are not JSON"),
        ({float("nan"): 1}, "NaN and Infinity are not JSON"),
        (Decimal("NaN"), "NaN and Infinity are not JSON"),
        (object(), "a value of type 'object' cannot be written"),
        (threading.Lock(), "a value of type 'lock' cannot be written"),
        (len, "a value of type 'builtin_function_or_method' cannot be written"),
        (int, "a value of type 'type' cannot be written"),
        (iter_nothing(), "a value of type 'generator' cannot be written"),
        (1j, "a value of type 'complex' cannot be written"),
        ({(1, 2): 3}, "keys must be str"),
        (endless(), "contains itself, or is nested too deeply"),
        pytest.param(10**5000, "Exceeds the limit", id="5001 digits"),
    ],
)
def test_what_cannot_be_written_is_said(value: Any, said: str) -> None:
    with pytest.raises(Unserialisable) as caught:
        dumps(value)
    assert said in str(caught.value)
    assert "0x" not in str(caught.value)  # no address in memory leaves the process


def test_an_unserialisable_value_is_a_type_error_too() -> None:
    """As `json.dumps` has it; code that catches that goes on to work."""
    with pytest.raises(TypeError):
        make_json_serializable(object())


def test_threads_may_write_at_once() -> None:
    """One encoder serves all of them."""
    wrong: list[str] = []
    value = {"list": [Plain() for _ in range(50)], "text": "ä" * 100}
    expected = dumps(value)

    def write() -> None:
        wrong.extend(text for text in (dumps(value) for _ in range(50)) if text != expected)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- for people to read ---


@given(json_values)
def test_a_value_for_people_is_the_same_value(value: Any) -> None:
    text = dumps_pretty(value)
    assert text.isascii()
    assert loads(text) == value


def test_a_value_for_people_is_indented() -> None:
    assert dumps_pretty({"a": [1, Plain()]}) == '{\n  "a": [\n    1,\n    {\n      "name": "n"\n    }\n  ]\n}'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "NaN and Infinity are not JSON"),
        (Decimal("Infinity"), "NaN and Infinity are not JSON"),
        (object(), "a value of type 'object' cannot be written"),
        ({(1, 2): 3}, "keys must be str"),
        (endless(), "Circular reference"),
    ],
)
def test_what_cannot_be_written_cannot_be_written_for_people(value: Any, said: str) -> None:
    with pytest.raises(Unserialisable) as caught:
        dumps_pretty(value)
    assert said in str(caught.value)
    assert "0x" not in str(caught.value)
