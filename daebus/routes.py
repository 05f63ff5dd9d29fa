"""Which function a request's method and path belong to: path templates and the table of them. Pure.

A template is the path as text, with placeholders: `/devices/<int:id>/log`. Without a converter, a placeholder takes
one segment that is not empty. `int` takes digits (and a minus sign), `float` an int or a decimal, and `path` one or
more segments. Text and placeholders may mix within a segment: `/img-<int:n>.png`. Of several placeholders in one
segment, the one on the left takes as much as it can: `/<name>.<ext>` takes `/a.tar.gz` as `a.tar` and `gz`.

Where several templates fit a path, the more specific wins, from the left, segment by segment: fixed text before text
that is mixed with placeholders, then `int`, `float`, any text, and `path`. A template that has not got the method
gives way to the next one that fits.

The templates form a tree, one level per segment. A search visits each node at most once, and no regular expression
here can go back over what it has read. So a request's cost grows with its length and with the number of templates,
whatever they are.
"""

from __future__ import annotations

import re

from .errors import BadMessage, DeclarationError
from .names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Value: TypeAlias = "str | int | float"
    Found: TypeAlias = "tuple[dict[str, _Route], tuple[Value, ...]]"

# The longest number is that of 128 bits: converting a number takes time that grows with its square.
_int = re.compile(r"-?[0-9]{1,39}")
_float = re.compile(r"-?[0-9]{1,39}(?:\.[0-9]{1,39})?")
_method = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,40}")
_placeholder = re.compile(r"<([^<>]*)>")
_escape = re.compile(r"%[0-9A-Fa-f]{2}")
_escapes = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})")
_escaped = re.compile(r"[^A-Za-z0-9_.~!$&'()*+,;=:@/-]")
# A browser reads `//name`, and `/\name`, as another site; and it drops control characters before it looks.
_own_path = re.compile(r"/(?!/)[!-\[\]-~]*")


def _to_text(text: str) -> str | None:
    # `/img-..%2Fx` has no segment that climbs; what `/img-<name>` would take of it does.
    return None if "." in text and _climbs(text) else text or None


def _to_int(text: str) -> int | None:
    return int(text) if _int.fullmatch(text) else None


def _to_float(text: str) -> float | None:
    return float(text) if _float.fullmatch(text) else None


_PATH = "path"
# In the order of how specific they are. What a path takes is not decided within one segment.
_CONVERTERS: dict[str, Callable[[str], Value | None]] = {
    "int": _to_int,
    "float": _to_float,
    "": _to_text,
    _PATH: _to_text,
}
_RANKS = {kind: rank for rank, kind in enumerate(_CONVERTERS)}


class Match:
    """The function that a request is for, and the values of the path's placeholders."""

    __slots__ = ("target", "values")

    def __init__(self, target: Any, values: dict[str, Value]) -> None:
        self.target = target
        self.values = values


class NoMatch:
    """No function for a request.

    `allow` has the methods that the path does have, sorted; without any, there is no such path. `redirect` is the
    path with a slash at its end, if that one has a function for the method.
    """

    __slots__ = ("allow", "redirect")

    def __init__(self, allow: tuple[str, ...], redirect: str | None) -> None:
        self.allow = allow
        self.redirect = redirect


class _Segment:
    """One segment of a template: its texts, and the kinds of the placeholders between them."""

    __slots__ = ("converters", "kinds", "rank", "texts")

    def __init__(self, texts: tuple[str, ...], kinds: tuple[str, ...]) -> None:
        self.texts = texts
        self.kinds = kinds
        self.converters = [_CONVERTERS[kind] for kind in kinds]
        self.rank = (bool(kinds), -sum(map(len, texts)), tuple(_RANKS[kind] for kind in kinds), texts)
        """What sorts segments, the more specific first, and tells whether two are the same."""

    def take(self, text: str) -> tuple[Value, ...] | None:
        """Return the values that the placeholders have in this text; None if it does not fit."""
        texts = self.texts
        if not self.kinds:
            return () if text == texts[0] else None
        if not (text.startswith(texts[0]) and text.endswith(texts[-1])):
            return None
        first, end = len(texts[0]), len(text) - len(texts[-1])
        values = []
        for number in range(len(self.kinds) - 1, 0, -1):  # from the right: then those on the left take the most
            between = texts[number]
            at = text.rfind(between, first, max(end - 1, 0))
            if at < 0:
                return None
            values.append(self.converters[number](text[at + len(between) : end]))
            end = at
        values.append(self.converters[0](text[first:end]))
        taken = tuple(value for value in reversed(values) if value is not None)
        return taken if len(taken) == len(values) else None


class _Template:
    """A template in its parts. `tail` is what follows a `path` placeholder, None if there is no such one."""

    __slots__ = ("head", "names", "tail")

    def __init__(self, head: list[_Segment], tail: list[_Segment] | None, names: tuple[str, ...]) -> None:
        self.head = head
        self.tail = tail
        self.names = names


class _Route:
    """What is at the end of a template for one method."""

    __slots__ = ("names", "path", "target")

    def __init__(self, path: str, names: tuple[str, ...], target: Any) -> None:
        self.path = path
        self.names = names
        self.target = target


class _Rest:
    """What hangs on a node by a `path` placeholder: the segments after it, and the methods."""

    __slots__ = ("methods", "rank", "tail")

    def __init__(self, tail: list[_Segment]) -> None:
        self.tail = tail
        self.rank = (-len(tail), [segment.rank for segment in tail])
        self.methods: dict[str, _Route] = {}

    def take(self, segments: list[str]) -> tuple[Value, ...] | None:
        """Return the values that the placeholders from here on have in these segments; None if they do not fit."""
        end = len(segments) - len(self.tail)
        # A handler that joins a path to a folder must not get one that begins with a slash, encoded or not.
        if end < 1 or not segments[0] or segments[0].startswith("/"):
            return None
        values: tuple[Value, ...] = ("/".join(segments[:end]),)
        for segment, text in zip(self.tail, segments[end:], strict=True):
            taken = segment.take(text)
            if taken is None:
                return None
            values += taken
        return values


class _Node:
    """A place in the tree of templates: what may follow the segments that lead here, and the methods."""

    __slots__ = ("fixed", "methods", "mixed", "rests")

    def __init__(self) -> None:
        self.methods: dict[str, _Route] = {}
        self.fixed: dict[str, _Node] = {}
        self.mixed: list[tuple[_Segment, _Node]] = []
        self.rests: list[_Rest] = []

    def below(self, segment: _Segment) -> _Node:
        """Return the node that this segment of a template leads to; made if it is new."""
        if not segment.kinds:
            return self.fixed.setdefault(segment.texts[0], _Node())
        for there, node in self.mixed:
            if there.rank == segment.rank:
                return node
        node = _Node()
        self.mixed.append((segment, node))
        self.mixed.sort(key=lambda branch: branch[0].rank)
        return node

    def rest(self, tail: list[_Segment]) -> _Rest:
        """Return what a `path` placeholder with these segments after it leads to; made if it is new."""
        new = _Rest(tail)
        for there in self.rests:
            if there.rank == new.rank:
                return there
        self.rests.append(new)
        self.rests.sort(key=lambda rest: rest.rank)
        return new

    def find(self, segments: list[str], at: int, values: tuple[Value, ...]) -> Iterator[Found]:
        """Return the methods, and the values, of each template that fits the segments; the most specific first."""
        if at == len(segments):
            if self.methods:
                yield self.methods, values
            return
        text = segments[at]
        node = self.fixed.get(text)
        if node is not None:
            yield from node.find(segments, at + 1, values)
        for segment, node in self.mixed:
            taken = segment.take(text)
            if taken is not None:
                yield from node.find(segments, at + 1, values + taken)
        for rest in self.rests:
            taken = rest.take(segments[at:])
            if taken is not None:
                yield rest.methods, values + taken


class RouteTable:
    """The templates with their methods and what each stands for; filled first, then only read, by any thread."""

    __slots__ = ("_plain", "_root", "_routes")

    def __init__(self) -> None:
        self._plain: dict[str, dict[str, Any]] = {}  # templates without placeholders, as browsers write them
        self._root = _Node()
        self._routes: list[tuple[str, str]] = []

    def add(self, method: str, path: str, target: Any) -> None:
        """Enter what a method and a template stand for; `DeclarationError` says what is wrong with either."""
        method = check_method(method)
        template = _parsed(path)
        node = self._root
        for segment in template.head:
            node = node.below(segment)
        methods = node.methods if template.tail is None else node.rest(template.tail).methods
        there = methods.get(method)
        if there is not None:
            same = "" if there.path == path else f": it takes the same paths as {shown(there.path)}"
            raise DeclarationError(f"{method} {shown(path)} is declared twice{same}")
        methods[method] = _Route(path, template.names, target)
        if not template.names:
            self._plain.setdefault(_quoted(path), {})[method] = target
        self._routes.append((method, path))

    def find(self, method: str, raw_path: str) -> Match | NoMatch:
        """Return what a request is for, by its method and its path as it came (still encoded, without the query).

        A request of method HEAD gets what GET has, unless the path has HEAD. `BadMessage` is raised for a path that
        no decent client sends: bad encoding, text that is not UTF-8, NUL, and segments `.` and `..`.
        """
        try:
            return Match(self._plain[raw_path][method], {})
        except KeyError:
            return self._search(method, raw_path)

    def allowed(self, raw_path: str) -> tuple[str, ...]:
        """Return the methods of a request's path, sorted, an `OPTIONS` of its own or not; () if there is no such path.

        `BadMessage` is raised as by `find`.
        """
        allow: set[str] = set()
        for methods, _ in self._root.find(_segments(raw_path) or [], 0, ()):
            allow.update(methods)
        return _allowed(allow)

    def paths(self) -> list[tuple[str, str]]:
        """Return the methods and templates, in the order in which they were entered."""
        return list(self._routes)

    def _search(self, method: str, raw_path: str) -> Match | NoMatch:
        segments = _segments(raw_path)
        if segments is None:
            return NoMatch((), None)
        found, allow = self._first(method, segments)
        if found is not None:
            return found
        if not allow and self._has_slashed(method, raw_path, segments):
            return NoMatch((), raw_path + "/")
        return NoMatch(_allowed(allow), None)

    def _first(self, method: str, segments: list[str]) -> tuple[Match | None, set[str]]:
        """Return the match of the most specific template that has the method, else the methods of those that fit."""
        allow: set[str] = set()
        for methods, values in self._root.find(segments, 0, ()):
            route = methods.get(method)
            if route is None and method == "HEAD":
                route = methods.get("GET")
            if route is not None:
                return Match(route.target, dict(zip(route.names, values, strict=True))), allow
            allow.update(methods)
        return None, allow

    def _has_slashed(self, method: str, raw_path: str, segments: list[str]) -> bool:
        if not segments[-1] or not _own_path.fullmatch(raw_path):
            return False
        return self._first(method, [*segments, ""])[0] is not None


def _allowed(methods: set[str]) -> tuple[str, ...]:
    if not methods:
        return ()
    return tuple(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))


def _segments(raw_path: str) -> list[str] | None:
    """Return the segments of a request's path, decoded; None if it is none (`*`). `BadMessage` if it is malformed."""
    if not raw_path.startswith("/"):
        return None
    if not raw_path.isascii():
        raise BadMessage("the path has characters that are not ASCII: they are written as %XX")
    segments = raw_path[1:].split("/")
    if "%" in raw_path:
        segments = [_decoded(segment) if "%" in segment else segment for segment in segments]
    for segment in segments:
        _check_segment(segment)
    return segments


def _decoded(segment: str) -> str:
    if _bad_escape.search(segment):
        raise BadMessage("the path has a % without two hexadecimal digits after it")
    try:
        # A character's bytes follow each other, so each run of escapes is whole characters.
        return _escapes.sub(lambda run: bytes.fromhex(run[0].replace("%", "")).decode(), segment)
    except UnicodeDecodeError:
        raise BadMessage("the path is not UTF-8") from None


def _check_segment(segment: str) -> None:
    if "\0" in segment:
        raise BadMessage("the path has a NUL character")
    if "." in segment and _climbs(segment):
        raise BadMessage("the path has a segment '.' or '..'")


def _climbs(segment: str) -> bool:
    """Say whether text is, or has between slashes and backslashes, one of the names that stand for a folder."""
    if segment in (".", ".."):
        return True
    return any(name in (".", "..") for name in segment.replace("\\", "/").split("/"))


def _quoted(path: str) -> str:
    """Return a path as browsers send it."""
    return _escaped.sub(lambda sign: "".join(f"%{byte:02X}" for byte in sign[0].encode()), path)


def check_method(method: object) -> str:
    """Return a method in capitals; `DeclarationError` if it is none."""
    if isinstance(method, str) and _method.fullmatch(method):
        return method.upper()
    raise DeclarationError(f"{shown(method)} is not an HTTP method: give names such as 'GET' and 'POST'")


def placeholders(path: str) -> tuple[str, ...]:
    """Return the names of a template's placeholders, in order; `DeclarationError` says what is wrong with it."""
    return _parsed(path).names


def _wrong(path: object, what: str) -> DeclarationError:
    return DeclarationError(f"{shown(path)} cannot be a route's path: {what}")


def _parsed(path: object) -> _Template:
    if callable(path):
        raise DeclarationError('the decorator needs a path: write @app.route("/path")')
    if not isinstance(path, str) or not path.startswith("/"):
        raise _wrong(path, "it must be text that begins with '/'")
    _check_template(path)
    names: list[str] = []
    segments = [_parsed_segment(path, text, names) for text in path[1:].split("/")]
    for name in names:
        if names.count(name) > 1:
            raise _wrong(path, f"it has the placeholder <{name}> twice")
    rests = [place for place, segment in enumerate(segments) if _PATH in segment.kinds]
    if len(rests) > 1:
        raise _wrong(path, "it can have only one <path:...>: where would the first one end?")
    if not rests:
        return _Template(segments, None, tuple(names))
    return _Template(segments[: rests[0]], segments[rests[0] + 1 :], tuple(names))


def _check_template(path: str) -> None:
    if not path.isprintable() or "\\" in path:
        raise _wrong(path, "it may have printable characters only, and no backslash")
    if "//" in path:
        raise _wrong(path, "it has an empty segment ('//')")
    if "?" in path or "#" in path:
        raise _wrong(path, "it ends before '?' and '#'; request.params has what follows the '?' of a request")
    if _escape.search(path):
        raise _wrong(path, "write it as text, not encoded: a space, not '%20'")
    if "{" in path or "}" in path:
        raise _wrong(path, "a placeholder is written <name> or <int:name>")


def _parsed_segment(path: str, text: str, names: list[str]) -> _Segment:
    """Return one segment of a template, and add the names of its placeholders to `names`."""
    parts = _placeholder.split(text)  # text, placeholder, text, placeholder, ..., text
    texts, inner = parts[::2], parts[1::2]
    if _climbs(text):
        raise _wrong(path, "it may have no segment '.' or '..'")
    if any("<" in fixed or ">" in fixed for fixed in texts):
        raise _wrong(path, "each '<' needs its '>', with no '/' between: a placeholder is <name> or <int:name>")
    if "" in texts[1:-1]:
        raise _wrong(path, "two placeholders need text between them: where would the first one end?")
    kinds = tuple(_parsed_placeholder(path, placeholder, names) for placeholder in inner)
    if _PATH in kinds and (len(kinds) > 1 or any(texts)):
        raise _wrong(path, "a <path:...> stands alone between two slashes, or at the end")
    return _Segment(tuple(texts), kinds)


def _parsed_placeholder(path: str, inner: str, names: list[str]) -> str:
    """Return the kind of a placeholder, and add its name to `names`."""
    kind, colon, name = inner.rpartition(":")
    if kind == "string":  # as in Flask, the same as none
        kind = colon = ""
    if not name.isidentifier():
        raise _wrong(path, f"<{inner}> needs a name of letters, digits and '_' that begins with no digit")
    if colon and (not kind or kind not in _CONVERTERS):
        raise _wrong(
            path, f"there is no converter {kind!r}: use <int:{name}>, <float:{name}>, <path:{name}> or <{name}>"
        )
    names.append(name)
    return kind
