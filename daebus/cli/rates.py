"""What `daebus top` computes: the difference between two looks at services' figures. Pure.

How long a round was each process tells by its own uptime, so it does not matter when its answer was read. A process
that was not there in the last round has no rates yet; one that has gone takes its figures with it.
"""

from __future__ import annotations

from math import inf

from ..tally import bound_of
from .answers import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .answers import Answer, Census

    Id = tuple[str, str, int]
    HandlerId = tuple[str, str]
    Buckets = dict[float, int]


class Rate:
    """What happened in a round: calls and errors per second, and the run times; None where there is no round yet."""

    __slots__ = ("buckets", "calls", "errors")

    def __init__(self) -> None:
        self.calls: float | None = None
        self.errors: float | None = None
        self.buckets: Buckets = {}

    def add(self, calls: float, errors: float, buckets: Buckets) -> None:
        """Add what one process, or one handler, did."""
        self.calls = (self.calls or 0.0) + calls
        self.errors = (self.errors or 0.0) + errors
        for bound, number in buckets.items():
            self.buckets[bound] = self.buckets.get(bound, 0) + number

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which a share of the calls ran, to the next bound; None if there were none."""
        return bound_of(share, sorted(self.buckets.items()))

    def figures(self, longest: float = inf) -> dict[str, float | None]:
        """Return the rates as they are shown; no run took more than `longest`, whatever the bound of its bucket."""
        quantiles = {"p50": self.quantile(0.5), "p99": self.quantile(0.99)}
        times = {name: None if value is None else min(value, longest) for name, value in quantiles.items()}
        return {"calls_per_s": _rounded(self.calls), "errors_per_s": _rounded(self.errors), **times}


class Rates:
    """Compares each look with the one before."""

    def __init__(self) -> None:
        self._before: dict[Id, Answer] = {}

    def services(self, looked: Iterable[Census]) -> list[dict[str, Any]]:
        """Return a row for each service: those that do not answer first, then the busiest."""
        before, self._before = self._before, {}
        rows = []
        for service in looked:
            rate, cpu = Rate(), None
            for process in service.processes:
                earlier = self._remember(service.name, process, before)
                span = _span(earlier, process)
                if earlier is None or span is None:
                    continue
                cpu = (cpu or 0.0) + max(0.0, process["cpu"] - earlier["cpu"]) / span * 100
                for calls, errors, buckets in _differences(earlier, process).values():
                    rate.add(calls / span, errors / span, buckets)
                rate.add(0.0, 0.0, {})  # a round without calls is a round
            rows.append(_service_row(service, rate, cpu))
        return sorted(rows, key=lambda row: (row["processes"] > 0, -(row["calls_per_s"] or 0.0), row["service"]))

    def handlers(self, looked: Census) -> list[dict[str, Any]]:
        """Return a row for each handler of a service, the busiest first."""
        before, self._before = self._before, {}
        rows: dict[HandlerId, dict[str, Any]] = {}
        rates: dict[HandlerId, Rate] = {}
        for process in looked.processes:
            earlier = self._remember(looked.name, process, before)
            span = _span(earlier, process)
            for record in counted(process):
                _add_totals(rows, record)
                rates.setdefault((record["kind"], record["name"]), Rate())
            if earlier is None or span is None:
                continue
            for key, (calls, errors, buckets) in _differences(earlier, process).items():
                rates[key].add(calls / span, errors / span, buckets)
        done = [{**row, **rates[key].figures(row["longest"])} for key, row in rows.items()]
        return sorted(done, key=lambda row: (-(row["calls_per_s"] or 0.0), row["kind"], row["name"]))

    def _remember(self, name: str, process: Answer, before: dict[Id, Answer]) -> Answer | None:
        key: Id = (name, process["host"], process["pid"])
        self._before[key] = process
        return before.get(key)


def _span(earlier: Answer | None, process: Answer) -> float | None:
    """Return the seconds between two looks at a process; None if it is not the same one any more."""
    if earlier is None:
        return None
    span: float = process["uptime"] - earlier["uptime"]
    return span if span > 0 else None


def _differences(earlier: Answer, process: Answer) -> dict[HandlerId, tuple[int, int, Buckets]]:
    known = {(record["kind"], record["name"]): record for record in counted(earlier)}
    found = {}
    for record in counted(process):
        key = (record["kind"], record["name"])
        last = known.get(key, {"calls": 0, "errors": 0, "buckets": []})
        found[key] = (
            max(0, record["calls"] - last["calls"]),
            max(0, record["errors"] - last["errors"]),
            _new(buckets_of(last), buckets_of(record)),
        )
    return found


def _new(earlier: Buckets, now: Buckets) -> Buckets:
    new = {bound: number - earlier.get(bound, 0) for bound, number in now.items()}
    return {bound: number for bound, number in new.items() if number > 0}


def buckets_of(record: Answer) -> Buckets:
    """Return the counts of run times by their upper bound in seconds."""
    found: Buckets = {}
    for entry in record["buckets"]:
        match entry:
            case [int() | float() as bound, int() as number]:
                found[float(bound)] = number
    return found


def _service_row(service: Census, rate: Rate, cpu: float | None) -> dict[str, Any]:
    def total(key: str) -> int | None:
        return sum(process[key] for process in service.processes) if service.processes else None

    return {
        "service": service.name,
        "processes": len(service.processes),
        "not_answering": service.missing,
        **rate.figures(),
        **{key: total(key) for key in ("busy", "max_workers", "queued", "clients", "memory")},
        "cpu": _rounded(cpu),
        "reconnections": _reconnections(service),
    }


def _reconnections(service: Census) -> int | None:
    numbers = [process["redis"].get("reconnections") for process in service.processes]
    known = [number for number in numbers if isinstance(number, int)]
    return sum(known) if known else None


def _add_totals(rows: dict[HandlerId, dict[str, Any]], record: Answer) -> None:
    key = record["kind"], record["name"]
    nothing = {"calls": 0, "errors": 0, "longest": 0.0, "running": 0, "oldest": None}
    row = rows.setdefault(key, {"kind": key[0], "name": key[1], **nothing})
    row["calls"] += record["calls"]
    row["errors"] += record["errors"]
    row["longest"] = max(row["longest"], record["longest"])
    running, oldest = record.get("running"), record.get("oldest")
    if isinstance(running, int) and isinstance(oldest, int | float):  # what has begun and not ended
        row["running"] += running
        row["oldest"] = max(row["oldest"] or 0.0, oldest)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
