"""The table's rows: which scenes each compares, by which figure, and the goal."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .scenes import Scene, broadcasts, callers, calls, footprint, import_time, peer_callers, start_time

SCENES: dict[str, Scene] = {
    "limit 1": calls("limit", 1),
    "inline 1": calls("inline", 1),
    "ours 1": calls("ours", 1),
    "upstream 1": calls("upstream", 1),
    "limit 50": calls("limit", 50),
    "inline 50": calls("inline", 50),
    "ours 50": calls("ours", 50),
    "upstream 50": calls("upstream", 50),
    "pool nap": calls("pool", 6, 2, "nap"),
    "ours nap": calls("ours", 6, 2, "nap"),
    "upstream nap": calls("upstream", 6, 2, "nap"),
    "pool burn": calls("pool", 6, 2, "burn"),
    "ours burn": calls("ours", 6, 2, "burn"),
    "upstream burn": calls("upstream", 6, 2, "burn"),
    "pool burn 1": calls("pool", 1, 2, "burn"),
    "ours burn 1": calls("ours", 1, 2, "burn"),
    "upstream caller": callers("upstream", "threads", 1),
    "dbus caller": peer_callers("dbus", 1),
    "inline caller": callers("inline", "bare", 1),
    "ours caller": callers("ours", "threads", 1),
    "upstream threads": callers("upstream", "threads", 50),
    "nats tasks": peer_callers("nats", 50),
    "ours threads": callers("ours", "threads", 50),
    "ours tasks": callers("ours", "tasks", 50),
    "limit broadcast": broadcasts("limit"),
    "inline broadcast": broadcasts("inline"),
    "ours broadcast": broadcasts("ours"),
    "upstream broadcast": broadcasts("upstream"),
    "bare import": import_time("bare"),
    "ours import": import_time("ours"),
    "upstream import": import_time("upstream"),
    "ours start": start_time("ours"),
    "upstream start": start_time("upstream"),
    "bare idle": footprint("bare"),
    "ours idle": footprint("ours"),
    "upstream idle": footprint("upstream"),
    "dbus idle": footprint("dbus"),
}
"""In the order in which one round runs them: what is compared stands side by side."""


COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">=": operator.ge,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Goal:
    """`ours <sign> bound`, or `ours / against <sign> bound` when it is measured against columns: the best of them."""

    sign: str
    bound: float
    against: str | tuple[str, ...] = ()
    text: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.against,) if isinstance(self.against, str) else self.against

    def best(self, values: Iterable[float]) -> float:
        return max(values) if self.sign.startswith(">") else min(values)

    def reached(self, value: float) -> bool:
        return COMPARE[self.sign](value, self.bound)

    def __str__(self) -> str:
        bound = self.text or f"{self.bound:g}"
        if not self.columns:
            return f"{self.sign} {bound}"
        return f"{self.sign} {bound} × {'the best' if len(self.columns) > 1 else self.columns[0]}"


@dataclass(frozen=True)
class Row:
    """One line: `scenes` names the scene of each column, `figure` what is taken from it."""

    name: str
    what: str
    figure: str
    unit: str
    scenes: dict[str, str] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    figures: dict[str, str] = field(default_factory=dict)
    """Columns for which another figure is taken."""

    def figure_of(self, column: str) -> str:
        return self.figures.get(column, self.figure)


ONE = {"upstream": "upstream 1", "limit": "limit 1", "inline": "inline 1", "ours": "ours 1"}
FIFTY = {"upstream": "upstream 50", "limit": "limit 50", "inline": "inline 50", "ours": "ours 50"}
NAP = {"upstream": "upstream nap", "pool": "pool nap", "ours": "ours nap"}
BURN = {"upstream": "upstream burn", "pool": "pool burn", "ours": "ours burn"}
BURN_ONE = {"pool": "pool burn 1", "ours": "ours burn 1"}
CALLER = {
    "upstream": "upstream caller",
    "dbus-fast": "dbus caller",
    "inline": "inline caller",
    "ours": "ours caller",
}
THREADS = {"upstream": "upstream threads", "nats-py": "nats tasks", "ours": "ours threads"}
TASKS = {"nats-py": "nats tasks", "ours": "ours tasks"}
BROADCAST = {
    "upstream": "upstream broadcast",
    "limit": "limit broadcast",
    "inline": "inline broadcast",
    "ours": "ours broadcast",
}
IDLE = {"upstream": "upstream idle", "dbus-fast": "dbus idle", "limit": "bare idle", "ours": "ours idle"}
IMPORT = {"upstream": "upstream import", "limit": "bare import", "ours": "ours import"}
START = {"upstream": "upstream start", "ours": "ours start"}

ROWS = (
    Row("one", "1 caller in C: p50", "p50", "µs", ONE, (Goal("<=", 2.3, "limit"),)),
    Row("fifty-upstream", "50 in flight: rate", "rate", "/s", FIFTY, (Goal(">=", 14, "upstream"),)),
    Row("fifty-limit", "50 in flight: rate", "rate", "/s", FIFTY, (Goal(">=", 0.15, "limit"),)),
    Row("nap-rate", "6 callers beside 2 sleeping 20 ms: rate", "rate", "/s", NAP, (Goal(">=", 2.5, "pool"),)),
    Row(
        "nap-p99",
        "6 callers beside 2 sleeping 20 ms: p99",
        "p99",
        "µs",
        NAP,
        (Goal("<=", 1000, text="1000 µs"),),
    ),
    Row(
        "burn-p99",
        "6 callers beside 2 computing 20 ms: p99",
        "p99",
        "µs",
        BURN,
        (Goal("<=", 8000, text="8000 µs"),),
    ),
    Row(
        "burn-one-p99",
        "1 caller beside 2 computing 20 ms: p99",
        "p99",
        "µs",
        BURN_ONE,
        (Goal("<=", 8000, text="8000 µs"),),
    ),
    Row(
        "caller-upstream",
        "Python caller, one after another: p50",
        "p50",
        "µs",
        CALLER,
        (Goal("<=", 1 / 90, "upstream", "1/90"),),
    ),
    Row(
        "caller-dbus",
        "Python caller, one after another: p50",
        "p50",
        "µs",
        CALLER,
        (Goal("<=", 0.6, "dbus-fast"),),
    ),
    Row("threads-upstream", "50 calling threads: rate", "rate", "/s", THREADS, (Goal(">=", 6, "upstream"),)),
    Row(
        "threads-nats",
        "50 calling threads (nats-py: tasks): rate",
        "rate",
        "/s",
        THREADS,
        (Goal(">=", 1, "nats-py"),),
    ),
    Row("tasks-nats", "50 calling tasks: rate", "rate", "/s", TASKS, (Goal(">", 1, "nats-py"),)),
    Row("broadcast", "broadcasts handled by one service", "rate", "/s", BROADCAST, (Goal(">=", 7, "upstream"),)),
    Row("rss", "idle service: resident memory", "rss", "MB", IDLE, (Goal("<=", 14, text="14 MB"),)),
    Row("uss", "idle service: unique memory", "uss", "MB", IDLE, (Goal("<=", 7.5, text="7.5 MB"),)),
    Row("threads", "idle service: threads", "threads", "", IDLE),
    Row("wakes", "idle service: wake-ups", "wakes", "/s", IDLE),
    Row("import", "python -c 'import daebus'", "ms", "ms", IMPORT, (Goal("<=", 1 / 4, "upstream", "1/4"),)),
    Row("start", "exec to subscribed", "subscribed", "ms", START, (Goal("<=", 0.4, "upstream"),)),
    Row(
        "ready",
        "exec to READY (upstream: subscribed)",
        "ready",
        "ms",
        START,
        (Goal("<=", 0.4, "upstream"),),
        {"upstream": "subscribed"},
    ),
)
