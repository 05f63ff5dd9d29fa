"""`daebus top`: what services do right now, refreshed until `q`."""

from __future__ import annotations

from time import localtime, monotonic, sleep, strftime

import click

from ..errors import RedisRefused, RedisUnavailable, ServiceUnavailable
from ..names import STATS
from .answers import Census, census
from .arguments import json_option, redis_option
from .completing import complete_services
from .output import check_reader, one_line, say, table, tell, visible
from .rates import Rates
from .screen import BOLD, DIM, PLAIN, RED, REVERSE, Screen, columns_of, cut, in_colour, is_screen, painted, size
from .wording import count as counted
from .wording import duration, memory, span, three_digits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from ..settings import RedisSettings

    Row = dict[str, Any]
    Columns = dict[str, Callable[[Row], object]]

LEAST_INTERVAL = 0.1
FIRST_ROUND = 0.5
"""Seconds of the first round on a screen: nobody wants to look at an empty one for longer."""

ENDS = "qQ\x03\x04"

HEAD_LINES = 2
"""Lines above the table's own title."""


@click.command(short_help="Watch what services do right now.", epilog="Example: daebus top --interval 1")
@click.argument("service", required=False, shell_complete=complete_services)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=LEAST_INTERVAL),
    default=2.0,
    help="From one round to the next (2).",
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="Print so many rounds, and end.")
@json_option
@redis_option
def top(service: str | None, interval: float, count: int | None, as_json: bool, settings: RedisSettings) -> None:
    """Show what services - or the handlers of one SERVICE - do right now: rates, run times, workers, memory.

    On a terminal it is refreshed until q or Ctrl-C. Elsewhere, and with --count, each round is a table; with --json a
    line.
    """
    watch = Watch(settings, service)
    if as_json or count is not None or not is_screen():
        _print_rounds(watch, interval, count, as_json)
    else:
        _show_rounds(watch, interval)


class Watch:
    """Looks at the services, or at the handlers of one, again and again. `trouble` is why the last look failed."""

    def __init__(self, settings: RedisSettings, service: str | None) -> None:
        self.settings = settings
        self.service = service
        self._rates = Rates()
        self.rows: list[Row] = []
        self.trouble = ""
        self.looks = 0

    def look(self) -> None:
        """Look once. Raises `RedisRefused`; at the first look `RedisUnavailable` and `ServiceUnavailable`, too."""
        try:
            self.rows = self._services() if self.service is None else self._handlers(self.service)
        except RedisRefused:
            raise
        except (RedisUnavailable, ServiceUnavailable) as error:
            if not self.looks:
                raise
            self.trouble = f"trying again: {error}"
            return
        self.trouble = ""
        self.looks += 1

    def _services(self) -> list[Row]:
        from ..census import find

        return self._rates.services(census(self.settings, find(self.settings), STATS))

    def _handlers(self, service: str) -> list[Row]:
        (found,) = census(self.settings, [service], STATS)
        if not found.there:
            raise ServiceUnavailable(f"no service {service!r} is running on the Redis at {self.settings}")
        return [] if self._hangs(found) else self._rates.handlers(found)

    def _hangs(self, found: Census) -> bool:
        if found.processes:
            return False
        raise ServiceUnavailable(f"{found.name!r} is there and does not answer")

    @property
    def columns(self) -> Columns:
        """The columns of the table: title and cell."""
        return SERVICE_COLUMNS if self.service is None else HANDLER_COLUMNS

    def table(self, columns: int | None = None) -> list[str]:
        """Return the table's lines, with as many columns as there is room for (None: all)."""
        return fitted(self.columns, self.rows, columns)


# --- the table ---


def _rate(value: float | None) -> str:
    return "-" if value is None else three_digits(value) if value else "0"


def _name(row: Row) -> str:
    processes = row["processes"] + row["not_answering"]
    return f"{row['service']} ({processes})" if processes > 1 else str(row["service"])


def _busy(row: Row) -> str:
    if not row["processes"]:
        return "not answering"
    silent = f", {row['not_answering']} silent" if row["not_answering"] else ""
    return f"{row['busy']}/{row['max_workers']}{silent}"


def _cpu(row: Row) -> str:
    return "-" if row["cpu"] is None else f"{row['cpu']:.1f}"


def _running(row: Row) -> str:
    return f"{row['running']}, {span(row['oldest'])}" if row["running"] else "-"


SERVICE_COLUMNS: Columns = {
    "SERVICE": _name,
    "CALLS/S": lambda row: _rate(row["calls_per_s"]),
    "ERR/S": lambda row: _rate(row["errors_per_s"]),
    "P50": lambda row: duration(row["p50"]),
    "P99": lambda row: duration(row["p99"]),
    "BUSY": _busy,
    "QUEUED": lambda row: row["queued"],
    "MEMORY": lambda row: memory(row["memory"]),
    "CPU%": _cpu,
    "CLIENTS": lambda row: row["clients"],
    "REDIS LOST": lambda row: row["reconnections"],
}
HANDLER_COLUMNS: Columns = {
    "KIND": lambda row: row["kind"],
    "NAME": lambda row: row["name"],
    "CALLS/S": lambda row: _rate(row["calls_per_s"]),
    "ERR/S": lambda row: _rate(row["errors_per_s"]),
    "P50": lambda row: duration(row["p50"]),
    "P99": lambda row: duration(row["p99"]),
    "RUNNING": _running,
    "LONGEST": lambda row: duration(row["longest"]) if row["calls"] else "-",
    "CALLS": lambda row: row["calls"],
    "ERRORS": lambda row: row["errors"],
}
AT_THE_LEFT = {"SERVICE", "KIND", "NAME"}
NEEDED = 7
"""Columns, from the left, that are never left out."""


def fitted(columns: Columns, rows: Sequence[Row], room: int | None) -> list[str]:
    """Return a table's lines; where they are too long for the room, columns at the right are left out."""
    titles = list(columns)
    while True:
        cells = [[columns[title](row) for title in titles] for row in rows]
        lines = _lines(titles, cells)
        if room is None or len(titles) <= NEEDED or max(map(columns_of, lines)) <= room:
            return lines
        del titles[-1]


def _lines(titles: Sequence[str], cells: Sequence[Sequence[object]]) -> list[str]:
    # a title of two words would be taken for two
    names = [title.replace(" ", "_") for title in titles]
    lines = table(names, cells, right=" ".join(name for name in names if name not in AT_THE_LEFT))
    return [lines[0].replace("_", " "), *lines[1:]]


# --- not on a terminal ---


def _print_rounds(watch: Watch, interval: float, count: int | None, as_json: bool) -> None:
    """Print a table, or a line of JSON, for each round, of which the first lies between two looks."""
    shown = 0
    for _look in _looks(watch, interval):
        if watch.looks < 2 or watch.trouble:
            continue
        say(_as_json(watch) if as_json else "\n".join([""] * (shown > 0) + _titled(watch)))
        shown += 1
        if shown == count:
            return


def _looks(watch: Watch, interval: float) -> Iterator[None]:
    due, trouble = monotonic(), ""
    while True:
        watch.look()
        if watch.trouble and not trouble:
            tell(f"daebus: {watch.trouble}")
        elif trouble and not watch.trouble:
            tell("daebus: it is back")
        trouble = watch.trouble
        yield
        check_reader()
        due = max(due + interval, monotonic())
        sleep(max(0.0, due - monotonic()))


def _titled(watch: Watch) -> list[str]:
    return [f"{strftime('%H:%M:%S')}  {_summary(watch)}", *watch.table()]


def _as_json(watch: Watch) -> str:
    from time import time

    return one_line({"time": round(time(), 3), "handlers" if watch.service else "services": watch.rows})


def _summary(watch: Watch) -> str:
    if watch.service is not None:
        return f"{watch.service}: {counted(len(watch.rows), 'handler')}"
    return counted(len(watch.rows), "service")


# --- on a terminal ---


def _show_rounds(watch: Watch, interval: float) -> None:
    watch.look()  # an error of the first look is shown as one, not on a screen that vanishes
    with Screen() as screen:
        due = monotonic() + min(interval, FIRST_ROUND)
        while True:
            screen.show(frame(watch, interval, *size(), in_colour()))
            if any(key in ENDS for key in screen.wait(due - monotonic())):
                return
            if monotonic() >= due:  # else it was another key, or the terminal has another size
                due = max(due + interval, monotonic())
                watch.look()


def frame(watch: Watch, interval: float, columns: int, lines: int, colour: bool) -> list[str]:
    """Return the lines of a screen of that size."""
    head = f"daebus top  {strftime('%H:%M:%S', localtime())}  {_summary(watch)}  each {interval:g} s  q ends it"
    said = watch.trouble or f"Redis at {watch.settings}"
    titles, *rows = watch.table(columns)
    room = max(0, lines - HEAD_LINES - 1)
    shown = rows if len(rows) <= room else [*rows[: max(0, room - 1)], f"... and {len(rows) - max(0, room - 1)} more"]
    styled = [
        (head, BOLD),
        (visible(said), RED if watch.trouble else DIM),
        (titles.ljust(columns), REVERSE),
        *((row, RED if "not answering" in row else PLAIN) for row in shown),
    ]
    return [painted(cut(text, columns), style, colour) for text, style in styled[:lines]]
