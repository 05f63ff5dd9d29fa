"""The metrics of a service in the text format of Prometheus, version 0.0.4. Pure."""

from __future__ import annotations

from .tally import SHORTEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from .tally import Taken

    Labels = tuple[tuple[str, str], ...]
    Sample = tuple[str, Labels, float]
    Handler = tuple[str, str, Taken]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LIMITS = [SHORTEST * 4**power for power in range(2, 14)]
"""Seconds of the histogram's buckets, from 16 us to 67 s: bounds of `tally`, so that no run is on the wrong side."""

COUNTERS = {
    "received": "Requests and messages that have come.",
    "failed": "Handlers that raised what they did not mean for their callers.",
    "refused": "Requests that were refused: busy, or stopping.",
    "unknown": "Requests for actions that are not declared.",
    "broken": "Messages that could not be read.",
    "expired": "Requests whose callers had given up before the work began.",
    "dropped": "Messages of listened channels that were dropped.",
    "answers_dropped": "Answers that were dropped, because Redis did not take them fast enough.",
    "reconnections": "Times that a lost Redis was connected to again.",
}
GAUGES = {
    "busy_workers": "Handlers that run beside the reader.",
    "max_workers": "Handlers that may run beside the reader.",
    "queued": "Messages that are read and not begun.",
    "websocket_clients": "WebSocket clients that are connected.",
    "connections": "HTTP and WebSocket connections that are open.",
    "redis_connected": "Whether Redis is connected: 1, or 0.",
}
PROCESS = {
    "process_resident_memory_bytes": ("gauge", "Resident memory size in bytes."),
    "process_virtual_memory_bytes": ("gauge", "Virtual memory size in bytes."),
    "process_cpu_seconds_total": ("counter", "Total user and system CPU time spent in seconds."),
    "process_start_time_seconds": ("gauge", "Start time of the process since unix epoch in seconds."),
}


def render(
    who: Mapping[str, str], numbers: Mapping[str, float], process: Mapping[str, float], handlers: Iterable[Handler]
) -> bytes:
    """Return the text: `who` becomes labels of `daebus_service_info`, `numbers` have the keys of COUNTERS and GAUGES,
    `process` those of PROCESS; handlers come with their kinds and names, each once."""
    handlers = list(handlers)
    lines = [*_family("daebus_service_info", "gauge", "Which service this is.", [("", tuple(who.items()), 1)])]
    for name, text in COUNTERS.items():
        lines += _family(f"daebus_{name}_total", "counter", text, [("", (), numbers[name])])
    for name, text in GAUGES.items():
        lines += _family(f"daebus_{name}", "gauge", text, [("", (), numbers[name])])
    errors = [("", _labels(kind, name), taken.errors) for kind, name, taken in handlers]
    lines += _family("daebus_handler_errors_total", "counter", "Runs of a handler that failed.", errors)
    runs = [sample for handler in handlers for sample in _histogram(*handler)]
    lines += _family("daebus_handler_duration_seconds", "histogram", "How long the runs of a handler took.", runs)
    for name, (kind, text) in PROCESS.items():
        if name in process:
            lines += _family(name, kind, text, [("", (), process[name])])
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for suffix, labels, value in samples:
        yield f"{name}{suffix}{_in_braces(labels)} {_number(value)}"


def _labels(kind: str, name: str) -> Labels:
    return ("kind", kind), ("name", name)


def _histogram(kind: str, name: str, taken: Taken) -> Iterator[Sample]:
    labels = _labels(kind, name)
    for limit in LIMITS:
        within = sum(count for bound, count in taken.buckets if bound <= limit)
        yield "_bucket", (*labels, ("le", _number(limit))), within
    yield "_bucket", (*labels, ("le", "+Inf")), taken.calls
    yield "_sum", labels, taken.seconds
    yield "_count", labels, taken.calls


def _in_braces(labels: Labels) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.12g}"
