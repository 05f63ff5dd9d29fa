"""How quantities, JSON Schemas and calls are written for people. Pure."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def span(seconds: float) -> str:
    """Return a time span in its two largest units: `3d 4h`, `2m 5s`, `12s`."""
    left = max(0, int(seconds))
    for number, (size, unit) in enumerate(_UNITS):
        if left >= size or size == 1:
            whole, rest = divmod(left, size)
            smaller = rest // _UNITS[number + 1][0] if size > 1 else 0
            return f"{whole}{unit} {smaller}{_UNITS[number + 1][1]}" if smaller else f"{whole}{unit}"
    raise AssertionError


def duration(seconds: float | None) -> str:
    """Return how long something took, in three digits or so: `8 µs`, `0.42 ms`, `1.20 s`; `-` if that is not known."""
    if seconds is None:
        return "-"
    if seconds < 0.0000995:
        return f"{seconds * 1_000_000:.0f} µs"
    if seconds < 0.9995:
        return f"{three_digits(seconds * 1000)} ms"
    return f"{three_digits(seconds)} s"


def three_digits(value: float) -> str:
    """Return a number with as many decimals as three digits leave room for, at most two."""
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def memory(size: float | None) -> str:
    """Return a number of bytes as `34.5M` (MiB) or `1.2G`; `-` if it is not known."""
    if size is None:
        return "-"
    mebibytes = size / (1 << 20)
    return f"{mebibytes:.1f}M" if mebibytes < 1000 else f"{mebibytes / 1024:.1f}G"


def count(number: int, word: str, plural: str = "") -> str:
    """Return `1 action`, `2 actions`."""
    return f"{number} {word if number == 1 else plural or f'{word}s'}"


# --- signatures ---

_TYPES = {
    "integer": "int",
    "number": "float",
    "string": "str",
    "boolean": "bool",
    "null": "None",
    "array": "list",
    "object": "dict",
}
UNKNOWN = "..."
DEEPEST, MOST = 8, 100
"""Levels of a schema that are shown, and its fields that must be given: it comes from elsewhere."""

REFERENCES = 2
"""Levels within which an example follows references: a schema may refer to itself, and several times."""

EXAMPLE_LIMIT = 1000
"""Values of an example that are made as their schema says; those that would come then are some text."""


def signature(name: str, schema: object, returns: object = None) -> str:
    """Return how a handler is called, as Python would write it; `name(...)` if it does not say what it takes."""
    inside = UNKNOWN if not isinstance(schema, dict) else _parameters(schema)
    result = f" -> {returns}" if isinstance(returns, str) and returns else ""
    return f"{name}({inside}){result}"


def _parameters(schema: dict[str, Any]) -> str:
    fields = _fields(schema)
    if fields is None:
        return f"payload: {type_name(schema)}"
    required = _required(schema)
    parts = [_parameter(name, part, name in required) for name, part in _in_order(fields, required)]
    if schema.get("additionalProperties") not in (None, False):
        parts.append("**rest")
    return ", ".join(parts)


def _fields(schema: dict[str, Any]) -> dict[str, Any] | None:
    whole = _resolved(schema, schema)
    fields = whole.get("properties") if isinstance(whole, dict) else None
    if isinstance(fields, dict):
        return fields
    return {} if whole.get("type") == "object" and whole.get("additionalProperties") is False else None


def _required(schema: dict[str, Any]) -> list[str]:
    names = _resolved(schema, schema).get("required")
    return [name for name in names[:MOST] if isinstance(name, str)] if isinstance(names, list) else []


def _in_order(fields: dict[str, Any], required: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the fields, those that must be given first."""
    return sorted(fields.items(), key=lambda field: field[0] not in required)


def _parameter(name: str, schema: object, required: bool) -> str:
    text = f"{name}: {type_name(schema)}"
    if required:
        return text
    default = schema["default"] if isinstance(schema, dict) and "default" in schema else ...
    return f"{text} = {_python(default)}"


def _python(value: object) -> str:
    return "..." if value is ... else repr(value)


def type_name(schema: object, depth: int = 0) -> str:
    """Return the Python type that a schema stands for. One that it refers to is named, not described."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return "Any"
    if isinstance(schema.get("$ref"), str):
        return schema["$ref"].rpartition("/")[2].strip("#") or "Any"
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return " | ".join(dict.fromkeys(type_name(part, depth + 1) for part in schema[key]))
    if isinstance(schema.get("enum"), list):
        return " | ".join(repr(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    return _plain_type(schema, depth)


def _plain_type(schema: dict[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_TYPES.get(str(name), "Any") for name in kind)
    if kind == "array" and "items" in schema:
        return f"list[{type_name(schema['items'], depth + 1)}]"
    if kind == "object":
        return _object_type(schema, depth)
    return _TYPES.get(kind, "Any") if isinstance(kind, str) else "Any"


def _object_type(schema: dict[str, Any], depth: int) -> str:
    if isinstance(schema.get("title"), str):
        return str(schema["title"])
    if isinstance(schema.get("properties"), dict):
        fields = (f"{name}: {type_name(part, depth + 1)}" for name, part in schema["properties"].items())
        return f"{{{', '.join(fields)}}}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"dict[str, {type_name(schema['additionalProperties'], depth + 1)}]"
    return "dict"


def _resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that one refers to within a whole one."""
    for _ in range(DEEPEST):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        found: Any = whole
        for part in reference[2:].split("/"):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            return {}
        schema = found
    return {}


# --- examples ---

_EXAMPLES = {"integer": 1, "number": 1.5, "string": "text", "boolean": True, "null": None}


def example_call(service: str, action: str, schema: object) -> str:
    """Return a command line that calls an action with a value for each field that must be given."""
    from shlex import quote

    words = [quote(word) for word in example_words(schema)]
    ending = ["--", *words] if any(word.startswith("-") for word in words) else words
    return " ".join(["daebus", "call", service, quote(action), *ending])


def example_words(schema: object) -> list[str]:
    """Return the words of a payload that a schema allows."""
    if not isinstance(schema, dict):
        return []
    fields = _fields(schema)
    if fields is None:
        return [json.dumps(example(schema, schema), ensure_ascii=False)]
    return [f"{name}={_word(example(fields.get(name), schema))}" for name in _required(schema)]


def _word(value: object) -> str:
    """Return what stands for a value after `=`: text that is no JSON stands for itself."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False)


def example(schema: object, whole: dict[str, Any]) -> Any:
    """Return a value that a schema allows, as far as its simple words go."""
    return _Example(whole).of(schema, 0)


class _Example:
    """An example that is being made; `left` is how many values it may still have."""

    def __init__(self, whole: dict[str, Any]) -> None:
        self._whole = whole
        self._left = EXAMPLE_LIMIT

    def of(self, schema: object, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > DEEPEST or self._left < 0:
            return "text"
        schema = _resolved(schema, self._whole) if depth <= REFERENCES else schema
        given = _given_example(schema)
        if given is not ...:
            return given
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                return self.of(schema[key][0], depth + 1)
        return self._made(schema, depth)

    def _made(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if kind == "array":
            return self._list(schema, depth)
        if kind == "object":
            fields = _fields(schema) or {}
            return {name: self.of(fields.get(name), depth + 1) for name in _required(schema)}
        form = schema.get("format")
        if kind == "string" and isinstance(form, str) and form in _FORMATS:
            return _FORMATS[form]
        return _EXAMPLES.get(kind, "text") if isinstance(kind, str) else "text"

    def _list(self, schema: dict[str, Any], depth: int) -> list[Any]:
        items = schema.get("prefixItems")
        if isinstance(items, list):
            return [self.of(part, depth + 1) for part in items[:MOST]]
        return [self.of(schema.get("items", {"type": "integer"}), depth + 1)]


def _given_example(schema: dict[str, Any]) -> Any:
    for key in ("examples", "enum"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("const", "default", "minimum"):
        if key in schema:
            return schema[key]
    return ...


_FORMATS = {"date-time": "2030-01-31T12:00:00", "date": "2030-01-31", "time": "12:00:00"}
