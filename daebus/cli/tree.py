"""What the entries of one trace say happened: a tree of calls, with their times and what was logged in them. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right

from .journal import COLOURS, LEVELS, name_in, number_in, priority_of, text_in
from .output import visible
from .screen import RED, painted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

DEEPEST = 60
"""Levels of the tree; what would stand deeper stands on the topmost one."""

LOOKED_AT = 100
"""Calls of one id, or of one service, among which that one is looked for in which another was made: the last before."""

_AN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""How a caller is named that is no service: it says nothing to people."""

FAILED = "failed"
"""The outcome of a call of which only its error is in the journal."""

GOOD = ("ok", "1", "2", "3")
"""How an outcome begins that is no error: the word, or a status of HTTP."""


class Line:
    """What was logged in a call: the time in seconds since the trace began, syslog's priority, the text."""

    __slots__ = ("at", "priority", "text")

    def __init__(self, at: float, priority: int, text: str) -> None:
        self.at = at
        self.priority = priority
        self.text = text


class Span:
    """One call: of an action, a route, a WebSocket's message or a workflow's.

    Times are in seconds. `outcome` is "ok", an error's code, or a status; "" if no entry says so: then the end is that
    of the last entry.
    """

    __slots__ = (
        "action", "began", "caller", "children", "ended", "error_id", "lines", "outcome", "parent", "pid",
        "request_id", "service", "under",
    )  # fmt: skip

    def __init__(self, entry: dict[str, Any], began: float, ended: float, outcome: str) -> None:
        self.service = name_in(entry)
        self.action = text_in(entry, "DAEBUS_ACTION")
        self.request_id = text_in(entry, "DAEBUS_REQUEST_ID")
        self.caller = text_in(entry, "DAEBUS_CALLER")
        self.parent = text_in(entry, "DAEBUS_PARENT")
        self.pid = text_in(entry, "_PID")
        self.began = began
        self.ended = ended
        self.outcome = outcome
        self.error_id = ""
        self.lines: list[Line] = []
        self.children: list[Span] = []
        self.under: Span | None = None

    @property
    def key(self) -> object:
        """What tells it from calls of others. (All messages of a workflow have one id, those of a WebSocket none.)"""
        return self.service, self.pid, self.request_id, self.action

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return bool(self.error_id) or (bool(self.outcome) and not self.outcome.startswith(GOOD))

    def holds(self, moment: float) -> bool:
        """Whether it was under way then."""
        return self.began <= moment <= self.ended


class Trace:
    """All that is known of one: `began` is its first moment in seconds since 1970."""

    __slots__ = ("began", "name", "roots")

    def __init__(self, name: str, began: float, roots: list[Span]) -> None:
        self.name = name
        self.began = began
        self.roots = roots


def trace_of(name: str, entries: Sequence[dict[str, Any]]) -> Trace:
    """Return the trace that these entries, at least one, are of."""
    clock = _Clock(entries)
    spans = _spans(entries, clock)
    spans.sort(key=_moment)
    groups = _Groups(spans)
    for span in spans:
        span.under = groups.parent_of(span)
    roots: list[Span] = []
    for span in spans:
        (span.under.children if span.under is not None else roots).append(span)
    first = min(span.began for span in spans)
    for span in spans:
        span.began -= first
        span.ended -= first
        span.lines = [Line(one.at - first, one.priority, one.text) for one in sorted(span.lines, key=_moment)]
    return Trace(name, clock.since_1970(first), roots)


class _Clock:
    """The clock of a trace: the monotonic one, unless the entries are of several machines or boots. In seconds."""

    def __init__(self, entries: Sequence[dict[str, Any]]) -> None:
        self._monotonic = len({text_in(entry, "_BOOT_ID") for entry in entries}) == 1 and all(
            number_in(entry, "__MONOTONIC_TIMESTAMP") is not None for entry in entries
        )
        self._offset = self._real(entries[0]) - self.logged(entries[0])

    @staticmethod
    def _real(entry: dict[str, Any]) -> float:
        return (number_in(entry, "_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP") or 0.0) / 1e6

    def logged(self, entry: dict[str, Any]) -> float:
        """When it was logged."""
        if self._monotonic:
            return (number_in(entry, "__MONOTONIC_TIMESTAMP") or 0.0) / 1e6
        return self._real(entry)

    def began(self, entry: dict[str, Any]) -> float:
        """When its call began."""
        exact = number_in(entry, "DAEBUS_BEGAN") if self._monotonic else None
        return exact if exact is not None else self.logged(entry) - _seconds(entry)

    def since_1970(self, moment: float) -> float:
        """Return a moment in seconds since 1970."""
        return moment + self._offset


def _seconds(entry: dict[str, Any]) -> float:
    return (number_in(entry, "DAEBUS_MS") or 0.0) / 1000


def _spans(entries: Sequence[dict[str, Any]], clock: _Clock) -> list[Span]:
    """Return the calls, each with what was logged in it."""
    spans = [
        Span(entry, began := clock.began(entry), began + _seconds(entry), text_in(entry, "DAEBUS_OUTCOME"))
        for entry in entries
        if text_in(entry, "DAEBUS_OUTCOME")
    ]
    own: dict[object, list[Span]] = {}
    for span in sorted(spans, key=_moment):
        own.setdefault(span.key, []).append(span)
    for entry in entries:
        if text_in(entry, "DAEBUS_OUTCOME"):
            continue
        began = clock.began(entry)
        made = Span(entry, began, began, "")
        same = own.setdefault(made.key, [])
        if not same:
            same.append(made)
            spans.append(made)
        place = bisect_right(same, began, key=_moment)
        _note(min(same[max(0, place - 1) : place + 1], key=lambda span: abs(span.began - began)), entry)
    return spans


def _note(span: Span, entry: dict[str, Any]) -> None:
    """Put what was logged into its call. Its time is that since the call began: the journal's own is when it took the
    entry, which is later, and in another order."""
    at = span.began + _seconds(entry)
    error_id = text_in(entry, "DAEBUS_ERROR_ID")
    if error_id:  # such an entry is written when the handler has ended
        span.error_id, span.outcome = error_id, span.outcome or FAILED
    span.ended = max(span.ended, at) if span.outcome in ("", FAILED) else span.ended
    span.lines.append(Line(at, priority_of(entry), text_in(entry, "MESSAGE")))


class _Groups:
    """The calls, in their order, by what another may say of the one that it was made in."""

    def __init__(self, spans: list[Span]) -> None:
        self._by_id: dict[str, list[Span]] = {}
        self._by_id_of: dict[tuple[str, str], list[Span]] = {}
        self._by_service: dict[str, list[Span]] = {}
        for span in spans:
            self._by_id.setdefault(span.request_id, []).append(span)
            self._by_id_of.setdefault((span.request_id, span.service), []).append(span)
            self._by_service.setdefault(span.service, []).append(span)

    def parent_of(self, span: Span) -> Span | None:
        """Return the call in which this one was made: the one that it names, else one of its caller's that was under
        way; None if there is none, so it began the trace."""
        for named in (self._by_id_of.get((span.parent, span.caller), []), self._by_id.get(span.parent, [])):
            if span.parent and any(one is not span for one in named[:2]):
                return _last_before(span, named)
        found = _last_before(span, self._by_service.get(span.caller, []))
        return found if found is not None and found.holds(span.began) else None


def _last_before(span: Span, sorted_spans: list[Span]) -> Span | None:
    """Return the last call that was under way when this one began; if there is none, the last that began before."""
    place = bisect_right(sorted_spans, span.began, key=_moment)
    earlier = None
    for one in reversed(sorted_spans[max(0, place - LOOKED_AT) : place]):
        if one is span or _depth(one, span) is None:
            continue
        if one.holds(span.began):
            return one
        earlier = earlier or one
    return earlier


def _depth(span: Span, below: Span) -> int | None:
    """Return how deep a call stands; None if it stands below the other one, or too deep."""
    depth, above = 0, span.under
    while above is not None and depth < DEEPEST:
        if above is below:
            return None
        depth, above = depth + 1, above.under
    return depth if above is None else None


# --- for people ---


def shown(trace: Trace, coloured: bool) -> Iterator[str]:
    """Yield the lines that show a trace: when each call began after the first (ms), how long it took, how it went."""
    yield _row("BEGAN ms", "TOOK ms", "RESULT", "CALL")
    for root in trace.roots:
        yield from _span_lines(root, "", "", coloured)
    yield from _blocks(list(_all(trace.roots)), coloured)


def _blocks(spans: list[Span], coloured: bool) -> Iterator[str]:
    """Yield what was logged with more than one line, tracebacks that is: below the tree there is room for them.

    Of errors that only pass on another one of the trace there is no need to see where.
    """
    errors = {span.error_id for span in spans if span.error_id}
    for span in spans:
        for line in span.lines:
            first, *rest = line.text.split("\n")
            if rest and not any(error_id in rest[-1] for error_id in errors):
                block = [f"{span.service}: {first}", *(f"    {one}" for one in rest)]
                yield from ("", *(painted(visible(one), COLOURS[line.priority], coloured) for one in block))


def _all(spans: list[Span]) -> Iterator[Span]:
    for span in spans:
        yield span
        yield from _all(span.children)


def _moment(one: Line | Span) -> float:
    return one.at if isinstance(one, Line) else one.began


def _row(began: str, took: str, result: str, rest: str) -> str:
    return f"{began:>8} {took:>8}  {result:<7} {rest}".rstrip()


def _span_lines(span: Span, first: str, further: str, coloured: bool) -> Iterator[str]:
    name = f"{first}{visible(span.service)} {visible(span.action)}"
    if span.under is None and span.caller and not _AN_ID.fullmatch(span.caller):
        name = f"{name}  (asked by {visible(span.caller)})"
    took = f"{(span.ended - span.began) * 1000:.1f}"
    row = _row(f"{span.began * 1000:.1f}", took if span.outcome else f">{took}", visible(span.outcome) or "?", name)
    yield painted(row, RED, coloured and span.failed)
    inner: list[Line | Span] = sorted([*span.lines, *span.children], key=_moment)
    for number, one in enumerate(inner):
        last = number == len(inner) - 1
        if isinstance(one, Span):
            branch, beside = ("└─ ", "   ") if last else ("├─ ", "│  ")
            yield from _span_lines(one, further + branch, further + beside, coloured)
        else:
            children_follow = any(isinstance(each, Span) for each in inner[number + 1 :])
            yield _log_line(one, f"{further}{'│  ' if children_follow else '   '}", coloured)


def _log_line(line: Line, before: str, coloured: bool) -> str:
    text = f"{LEVELS[line.priority]} {visible(line.text.partition(chr(10))[0])}"
    return _row(f"{line.at * 1000:.1f}", "", "", f"{before}{painted(text, COLOURS[line.priority], coloured)}")


# --- for programs ---


def described(trace: Trace) -> dict[str, Any]:
    """Return a trace for a program."""
    return {"trace": trace.name, "began": round(trace.began, 6), "calls": [_span_json(root) for root in trace.roots]}


def _span_json(span: Span) -> dict[str, Any]:
    return {
        "service": span.service,
        "action": span.action,
        "request_id": span.request_id or None,
        "caller": span.caller or None,
        "pid": int(span.pid) if span.pid.isdigit() else None,
        "began_ms": round(span.began * 1000, 3),
        "took_ms": round((span.ended - span.began) * 1000, 3) if span.outcome else None,
        "outcome": span.outcome or None,
        "error_id": span.error_id or None,
        "lines": [{"at_ms": round(one.at * 1000, 3), "priority": one.priority, "text": one.text} for one in span.lines],
        "calls": [_span_json(child) for child in span.children],
    }


def traces_in(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Return the ids of the traces that entries are of, the one of the last entry first."""
    return list(dict.fromkeys(reversed([name for entry in entries if (name := text_in(entry, "DAEBUS_TRACE"))])))
