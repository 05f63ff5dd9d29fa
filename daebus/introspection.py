"""What a service says of itself: who it is, what it declares, how it fares. Three reserved actions, for any caller.

Every process answers, on its reader, also one of several that share a service; and also while the service starts.
Loaded when somebody asks for the first time.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from .jsontext import dumps
from .message import MAX_MESSAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .endpoints import Endpoints
    from .registry import Record, Registry
    from .scheduler import Task
    from .service import Service
    from .work import Work

    Answer = dict[str, Any]
    Counted = Work | Task

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
        self._started: float | None = None  # the process, in seconds since 1970
        self._declared: dict[str, list[Answer]] = {}  # once somebody has asked: it does not change, and is much

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
            "uptime": round(time.monotonic() - self._service.began, 3),
        }

    def info(self) -> Answer:
        """Return what the service declares: all of it, unless that is more than a message may be."""
        service, endpoints = self._service, self._endpoints
        answer = {
            **self.ping(),
            "python": sys.version.split()[0],
            "file": _main_script(),
            "max_workers": self._max_workers,
            "redis": str(service.settings),
            "http": endpoints.addresses if endpoints is not None else [],
            "gateway": endpoints.gateway if endpoints is not None else None,
        }
        if not self._declared:
            self._declared = self._described(answer)
        running = service.threads.running
        threads = [{**thread, "running": thread["name"] in running} for thread in self._declared["threads"]]
        return {**answer, **self._declared, "threads": threads}

    def _described(self, answer: Answer) -> dict[str, list[Answer]]:
        """Return what is declared, so that it fits into an answer."""
        declared = {key: [described(record) for record in self._registry.records(kind)] for key, kind in KINDS.items()}
        bounded({**answer, **declared}, declared.values())
        return declared

    def stats(self) -> Answer:
        """Return how the service fares."""
        failure = self._service.dispatcher.last_error
        return {
            **self._identity(),
            **self._state(),
            "memory": memory_of_process(_read("/proc/self/statm"))[1],
            "cpu": round(time.process_time(), 3),
            "threads": threading.active_count(),
            "handlers": self._handlers(),
            "last_error": failure and {key: getattr(failure, key) for key in failure.__slots__},
        }

    def _handlers(self) -> list[Answer]:
        service, now = self._service, time.monotonic()
        under_way = service.engine.under_way()
        under_way += [(call.work, call.began) for call in list(service.dispatcher.awaiting)]
        began: dict[Counted, list[float]] = {}
        for work, when in under_way:
            began.setdefault(work, []).append(when)
        began |= {task: [task.began] for task in service.tasks if task.running}
        return [counted(work, [now - when for when in began.get(work, ())]) for work in self.all_works()]

    def _state(self) -> Answer:
        service, endpoints = self._service, self._endpoints
        return {
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
        }

    def metrics(self) -> bytes:
        """Return the same for Prometheus."""
        from . import metrics

        state = self._state()
        numbers = {
            **state["counts"],
            "busy_workers": state["busy"],
            "max_workers": state["max_workers"],
            "queued": state["queued"],
            "websocket_clients": state["clients"],
            "connections": state["connections"],
            "redis_connected": int(state["redis"]["connected"]),
        }
        who = {key: str(value) for key, value in self.ping().items() if key in ("service", "version")}
        handlers = [(work.kind, work.name, work.tally.taken()) for work in self.all_works()]
        return metrics.render(who, numbers, self._process_numbers(), handlers)

    def _process_numbers(self) -> dict[str, float]:
        virtual, resident = memory_of_process(_read("/proc/self/statm"))
        numbers: dict[str, float] = {
            "process_virtual_memory_bytes": virtual,
            "process_resident_memory_bytes": resident,
            "process_cpu_seconds_total": time.process_time(),
        }
        if self._started is None:  # once: a clock that is set must not move the past
            self._started = start_of_process(_read("/proc/self/stat"))
        if self._started is not None:
            numbers["process_start_time_seconds"] = self._started
        return numbers

    def all_works(self) -> list[Counted]:
        """Return the handlers whose runs are counted, in the order of their kinds and declarations."""
        works = self._endpoints.works if self._endpoints is not None else ()
        return [*self._service.works, *works, *self._service.tasks]


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
    from .contract import describe

    return {**answer, **describe(record)}


def counted(work: Counted, under_way: Sequence[float] = ()) -> Answer:
    """Return what was counted of a handler; times in seconds, also those since when it runs (`under_way`)."""
    taken = work.tally.taken()
    return {
        "kind": work.kind,
        "name": work.name,
        "calls": taken.calls,
        "errors": taken.errors,
        "seconds": round(taken.seconds, 9),
        "p50": _short(taken.percentile(0.5)),
        "p99": _short(taken.percentile(0.99)),
        "longest": _short(taken.longest),
        "running": len(under_way),
        "oldest": _short(max(under_way)) if under_way else None,
        "buckets": [[_short(bound), count] for bound, count in taken.buckets],
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
    words: list[str] = []
    for line in map(str.split, text.strip().splitlines()):
        if not line:
            break
        words += line
    return _cut(" ".join(words)) or None


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
    """Return the systemd service that a process belongs to, by its /proc/PID/cgroup; None if there is none.

    What is started in a session or a terminal is in a scope, which may be within a service of another kind.
    """
    for line in text.splitlines():
        for part in reversed(line.rpartition(":")[2].split("/")):
            if part.endswith(".scope"):
                break
            if part.endswith(".service"):
                return part
    return None


def memory_of_process(statm: str) -> tuple[int, int]:
    """Return a process' virtual and resident bytes by its /proc/PID/statm; zeros where the kernel does not say."""
    fields = statm.split()
    page = os.sysconf("SC_PAGE_SIZE")
    return (int(fields[0]) * page, int(fields[1]) * page) if len(fields) > 1 else (0, 0)


def start_of_process(stat: str) -> float | None:
    """Return when a process was started, in seconds since 1970, by its /proc/PID/stat; None where that is not told."""
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return round(time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot), 2)


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _main_script() -> str | None:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return _cut(os.path.abspath(file)) if isinstance(file, str) else None
