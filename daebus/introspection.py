"""What a service says of itself: who it is, what it declares, how it fares. Three reserved actions, for any caller.

Every process answers, on its reader, also one of several that share a service; and also while the service starts.
Nothing here is counted, written down or sent unless somebody asks.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from time import monotonic, process_time

from .jsontext import dumps
from .message import MAX_MESSAGE
from .tally import percentile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .endpoints import Endpoints
    from .message import PubSubRequest
    from .registry import Record, Registry
    from .service import Service
    from .work import Work

    Answer = dict[str, Any]

PING, INFO, STATS = "$daebus.ping", "$daebus.info", "$daebus.stats"

TEXT_LIMIT = 1000
"""Characters of a docstring's first paragraph, and of any other text, that are told."""

ANSWER_LIMIT = MAX_MESSAGE - 4096
"""Bytes of an answer: what is around it in the message has room, too."""

KINDS = {
    "actions": "action", "workflows": "workflow", "channels": "listen", "sockets": "socket", "routes": "route",
    "folders": "static", "tasks": "background", "threads": "thread",
}  # fmt: skip


class Introspection:
    """The answers of one process of a service."""

    def __init__(
        self, service: Service, registry: Registry, endpoints: Endpoints | None, *, max_workers: int, shared: bool
    ) -> None:
        self._service = service
        self._registry = registry
        self._endpoints = endpoints
        self._max_workers = max_workers
        self._shared = shared
        self._began = monotonic()
        self.works: list[Work] = []  # the handlers whose runs are counted, beside those of the endpoints
        self.answers: dict[str, Callable[[PubSubRequest], Answer]] = {
            PING: lambda _request: self.ping(),
            INFO: lambda _request: self.info(),
            STATS: lambda _request: self.stats(),
        }

    def ping(self) -> Answer:
        """Return who this process is."""
        from . import __version__

        return {
            **self._identity(),
            "version": __version__,
            "unit": unit_of_cgroup(_read("/proc/self/cgroup")),
            "shared": self._shared,
        }

    def _identity(self) -> Answer:
        return {
            "service": self._service.name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "uptime": round(monotonic() - self._began, 3),
        }

    def info(self) -> Answer:
        """Return what the service declares: all of it, unless that is more than a message may be."""
        service, endpoints = self._service, self._endpoints
        running = service.threads.running
        declared = {
            key: [described(record, running) for record in self._registry.records(kind)] for key, kind in KINDS.items()
        }
        answer = {
            **self.ping(),
            "python": sys.version.split()[0],
            "file": _main_script(),
            "max_workers": self._max_workers,
            "redis": str(service.settings),
            "http": endpoints.addresses if endpoints is not None else [],
            **declared,
        }
        return bounded(answer, declared.values())

    def stats(self) -> Answer:
        """Return how the service fares."""
        service, endpoints = self._service, self._endpoints
        failure = service.dispatcher.last_error
        return {
            **self._identity(),
            "counts": service.counts(),
            "busy": service.engine.busy_workers,
            "max_workers": self._max_workers,
            "queued": service.engine.queued,
            "clients": endpoints.clients if endpoints is not None else 0,
            "connections": endpoints.connections if endpoints is not None else 0,
            "redis": {
                "connected": service.bus.connected,
                "address": str(service.settings),
                "reconnections": service.bus.reconnections,
            },
            "memory": resident_bytes(),
            "cpu": round(process_time(), 3),
            "threads": threading.active_count(),
            "handlers": [counted(work) for work in self.all_works()],
            "last_error": failure and {key: getattr(failure, key) for key in failure.__slots__},
        }

    def all_works(self) -> list[Work]:
        """Return the handlers whose runs are counted, in the order of their kinds and declarations."""
        return [*self.works, *(self._endpoints.works if self._endpoints is not None else ())]


# --- one handler ---


def described(record: Record, running: Iterable[str] = ()) -> Answer:
    """Return what is told of a declaration; `running` are the names of the threads that run."""
    place = _cut(record.place)
    if record.kind == "static":
        return {"path": record.name, "place": place}
    answer = {"name": record.name, "doc": first_paragraph(record.function), "place": place}
    if record.kind == "background":
        return {**answer, "interval": record.interval}
    if record.kind == "thread":
        return {**answer, "auto_start": record.auto_start, "running": record.name in running}
    if record.kind == "route":
        method, _, path = record.name.partition(" ")
        answer |= {"method": method, "path": path}
    return {**answer, "input": None, "returns": None}


def counted(work: Work) -> Answer:
    """Return what was counted of a handler; times in seconds."""
    tally = work.tally
    buckets = tally.taken()
    return {
        "kind": work.kind,
        "name": work.name,
        "calls": sum(count for _bound, count in buckets),
        "errors": tally.errors,
        "seconds": round(tally.seconds, 9),
        "p50": _short(min(percentile(buckets, 0.5), tally.longest)),
        "p99": _short(min(percentile(buckets, 0.99), tally.longest)),
        "longest": _short(tally.longest),
        "buckets": [[_short(bound), count] for bound, count in buckets],
    }


def _short(seconds: float) -> float:
    """Return seconds with as many digits as are meant."""
    return float(f"{seconds:.4g}")


def first_paragraph(function: Callable[..., Any]) -> str | None:
    """Return the first paragraph of a function's docstring as one line; None if it has none of its own."""
    while (inner := getattr(function, "func", None)) is not None and callable(inner):  # a functools.partial
        function = inner
    text = getattr(function, "__doc__", None) if hasattr(function, "__code__") else None
    if not isinstance(text, str):
        return None
    lines: list[str] = []
    for line in map(str.strip, text.strip().splitlines()):
        if not line:
            break
        lines.append(line)
    return _cut(" ".join(lines)) or None


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}..."


# --- the size of the answer ---


def bounded(answer: Answer, declared: Iterable[list[Answer]]) -> Answer:
    """Return an answer that fits into a message: of too large ones, schemas and then docstrings are left out.

    What still is too large then is not sent, and its caller is told so.
    """
    records = [record for records in declared for record in records]
    for left_out in (("input", "returns"), ("doc",)):
        if len(dumps(answer)) <= ANSWER_LIMIT:
            break
        for record in records:
            record.update((key, None) for key in left_out if key in record)
    return answer


# --- the process ---


def unit_of_cgroup(text: str) -> str | None:
    """Return the systemd service that a process belongs to, by its /proc/PID/cgroup; None if there is none."""
    for line in text.splitlines():
        for part in reversed(line.rpartition(":")[2].split("/")):
            if part.endswith(".service"):
                return part
    return None


def resident_bytes() -> int:
    """Return how much memory this process has; 0 where the kernel does not say."""
    fields = _read("/proc/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _main_script() -> str | None:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return _cut(os.path.abspath(file)) if isinstance(file, str) else None
