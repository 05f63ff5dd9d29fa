"""JSON text: what may go out, what may come in, and how fast.

Pure. Going out: no NaN or Infinity, no private attributes, no `<object at 0x...>`. Coming in: strict JSON,
nested less deeply than the interpreter's recursion limit. The C scanner and the C encoder of the standard
library are kept between messages; making them anew costs 1.3 us of the 3.2 us that a small reply needs.
"""

from __future__ import annotations

import json
import re
from json import encoder as _stdlib

from .errors import BadMessage, Unserialisable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]


def loads(data: bytes | str) -> Any:
    """Return the value of a JSON text (UTF-8 when given as bytes); `BadMessage` says what is wrong with it."""
    try:
        text = data if isinstance(data, str) else data.decode()
        try:
            value, end = _scan(text, 0)
        except StopIteration:
            end = -1
        return value if end == len(text) else _decoder.decode(text)
    except UnicodeDecodeError as error:
        raise BadMessage(f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise BadMessage("not usable JSON: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, a constant, an integer of over 4,300 digits
        raise BadMessage(f"not JSON: {error}") from None


def loads_finite(data: bytes) -> Any:
    """The same, for text in which a number may be too large for a float: that is `BadMessage`, too, not infinity."""
    value = loads(data)
    if _MAY_BE_HUGE.search(data):
        try:
            json.JSONDecoder(parse_float=_finite).decode(data.decode())
        except RecursionError:
            raise BadMessage("not usable JSON: nested too deeply") from None
        except ValueError as error:
            raise BadMessage(f"not usable JSON: {error}") from None
    return value


_MAY_BE_HUGE = re.compile(rb"[0-9][eE]\+?[0-9]{3}|(?<![0-9])[0-9]{309}")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


def plain(value: Any) -> Any:
    """Return what stands in JSON for a value that JSON does not know (one level; the encoder goes on from there).

    datetime, date and time become ISO 8601 text, timedelta its text, Decimal a number, set a list, bytes their
    UTF-8 text or else hexadecimal digits; an object gives its `to_dict()`, or else its public attributes
    (a dataclass: its public fields), or else its own text.
    """
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in _BY_NAME:
        return _BY_NAME[name](value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _text_or_hex(bytes(value))
    return _object(value)


def _object(value: Any) -> Any:
    if isinstance(value, type) or callable(value):
        raise _no_json(value)
    if callable(getattr(value, "to_dict", None)):
        return value.to_dict()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "value") and hasattr(type(value), "__members__"):
        return value.value  # an Enum
    return _attributes_or_text(value)


def _attributes_or_text(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        names = value.__dataclass_fields__
        return {name: getattr(value, name) for name in names if not name.startswith("_")}
    attributes = getattr(value, "__dict__", None)
    if attributes is not None and not isinstance(value, BaseException):
        return {name: item for name, item in attributes.items() if not name.startswith("_")}
    own_text: Any = type(value).__str__
    if own_text is not object.__str__:  # UUID, Path, IPv4Address: text of its own, no address in memory
        return str(value)
    raise _no_json(value)


def _no_json(value: Any) -> Unserialisable:
    hint = "; was `await` forgotten?" if hasattr(value, "cr_await") else ""
    return Unserialisable(f"a value of type {type(value).__name__!r} cannot be written as JSON{hint}")


def _text_or_hex(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


_BY_NAME: dict[str, Callable[[Any], Any]] = {
    "datetime.timedelta": str,
    "decimal.Decimal": float,
    "fractions.Fraction": float,
    "collections.deque": list,
    "builtins.range": list,
    "builtins.mappingproxy": dict,
}


def _make_encoder() -> Callable[[Any], str]:
    # markers=None: no search for cycles (they end in RecursionError, which is told apart below); a table of
    # markers could not be shared between threads.
    make: Any = getattr(_stdlib, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(check_circular=False, allow_nan=False, default=plain, separators=(",", ":")).encode
    encode = make(None, plain, _stdlib.encode_basestring_ascii, None, ":", ",", False, False, False)
    return lambda value: "".join(encode(value, 0))


_compact = _make_encoder()
quote: Callable[[str], str] = _stdlib.encode_basestring_ascii


def dumps(value: Any) -> str:
    """Return the compact ASCII JSON text of a value; `Unserialisable` if it has none."""
    return _encoded(_compact, value)


def dumps_pretty(value: Any) -> str:
    """Return the JSON text of a value for people to read, indented by 2."""
    return _encoded(json.JSONEncoder(allow_nan=False, default=plain, indent=2).encode, value)


def _encoded(encode: Callable[[Any], str], value: Any) -> str:
    try:
        return encode(value)
    except Unserialisable:
        raise
    except RecursionError:
        raise Unserialisable("the value contains itself, or is nested too deeply for JSON") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise Unserialisable(f"the value cannot be written as JSON: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    return "NaN and Infinity are not JSON" if "float values are not JSON" in text else text


class DaebusJSONEncoder(json.JSONEncoder):
    """A `json.JSONEncoder` that knows the values that `plain` does."""

    def default(self, value: Any) -> Any:
        """Return what stands in JSON for a value that JSON does not know."""
        return plain(value)


def make_json_serializable(value: Any) -> Any:
    """Return a copy of a value that is made of JSON's own kinds only."""
    return json.loads(dumps(value))
