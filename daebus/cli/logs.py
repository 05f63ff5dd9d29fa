"""`daebus logs`: what services wrote to the journal, in one stream."""

from __future__ import annotations

import os
from time import strftime

import click

from ..errors import ServiceUnavailable
from .arguments import json_option
from .journal import (
    COLOURS,
    DAY,
    LEVELS,
    entries,
    entry_of,
    lines,
    name_in,
    priority_of,
    service_names,
    text_in,
    time_of,
)
from .output import say, tell, visible
from .screen import DIM, in_colour, painted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

LAST_LINES = 50
"""Entries that are shown when nothing else says how many."""

MOST_SERVICES = 200
"""Services whose entries are shown together: each is asked about, and any program may write such names."""

SCRIPTS = "/opt/daebus"


@click.command(
    short_help="Show what services logged.", epilog="Example: daebus logs panel stock --follow --priority warning"
)
@click.argument("services", metavar="[SERVICE]...", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on as more comes, until Ctrl-C.")
@click.option("-n", "--lines", "count", metavar="N", help=f"So many of the last entries, or all ({LAST_LINES}).")
@click.option("--since", metavar="TIME", help="Not older: '2026-01-31 12:00', today, -15min (systemd.time(7)).")
@click.option("--until", metavar="TIME", help="Not newer.")
@click.option("--action", metavar="NAME", help="Only of the handler of this action, 'METHOD /route' or channel.")
@click.option("--error-id", metavar="ID", help="Only of the error that a caller was told.")
@click.option("--trace", metavar="ID", help="Only of this trace; `daebus trace` shows it as a tree.")
@click.option("--priority", metavar="LEVEL", help="At least: debug, info, warning, err, crit.")
@click.option("--grep", metavar="REGEX", help="Only with such a text.")
@json_option
def logs(
    services: tuple[str, ...],
    follow: bool,
    count: str | None,
    since: str | None,
    until: str | None,
    action: str | None,
    error_id: str | None,
    trace: str | None,
    priority: str | None,
    grep: str | None,
    as_json: bool,
) -> None:
    """Show what services wrote to the systemd journal, together: also what they printed, and their starts and stops.

    Without a SERVICE it is those of all services that are in the journal.
    """
    named = {"DAEBUS_ACTION": action, "DAEBUS_ERROR_ID": error_id, "DAEBUS_TRACE": trace}
    wanted = {field: value for field, value in named.items() if value is not None}
    values = {"--since": since, "--until": until, "--priority": _level(priority), "--grep": grep}
    options = [f"{name}={value}" for name, value in values.items() if value is not None]
    if count is None and since is None and until is None:
        count = str(LAST_LINES)
    options += [f"--lines={count}"] * (count is not None) + ["--follow"] * follow
    arguments = [*options, *_matches(services, wanted)]
    shown = _print_json(arguments) if as_json else _print(arguments)
    if not shown:
        tell("daebus: nothing in the journal is like that")


def _level(given: str | None) -> str | None:
    """Return a level as journalctl has it."""
    return {"error": "err", "critical": "crit"}.get(given.lower(), given.lower()) if given is not None else None


def _print_json(arguments: list[str]) -> bool:
    shown = False
    for line in lines(["--output=json", "--all", *arguments]):
        if entry_of(line) is not None:
            say(line.decode(errors="replace"))
            shown = True
    return shown


def _print(arguments: list[str]) -> bool:
    coloured = in_colour()
    shown = False
    for entry in entries(arguments):
        say("\n".join(lines_for(entry, strftime(DAY), coloured)))
        shown = True
    return shown


# --- which entries ---


def _matches(services: Sequence[str], wanted: dict[str, str]) -> list[str]:
    if wanted:
        return matches(services, {}, wanted)
    services = services or sorted({*service_names(), *_scripts()})
    if not services:
        raise ServiceUnavailable("no service has written to the journal yet; name one: daebus logs NAME")
    if len(services) > MOST_SERVICES:
        text = f"{len(services)} names of services are in the journal, more than {MOST_SERVICES}"
        raise click.UsageError(f"{text}: say whose entries to show, as in daebus logs NAME")
    return matches(services, {service: _unit_of(service) for service in services}, {})


def _scripts() -> Iterable[str]:
    """The scripts of a device: what they are called before they have logged."""
    try:
        found = os.listdir(SCRIPTS)
    except OSError:
        return
    for entry in found:
        if entry.endswith(".py") and entry[0] not in "._":
            yield entry[:-3]
        elif os.path.exists(f"{SCRIPTS}/{entry}/__main__.py"):
            yield entry


def _unit_of(service: str) -> str | None:
    """Return the unit in which a service ran last; it may have another name."""
    for entry in entries(["--lines=1", f"DAEBUS_SERVICE={service}"]):
        unit = text_in(entry, "_SYSTEMD_UNIT")
        if unit.endswith(".service") and not unit.startswith("user@"):
            return unit
    return None


def matches(services: Sequence[str], units: dict[str, str | None], wanted: dict[str, str]) -> list[str]:
    """Return journalctl's matches: of one field any value, of different ones all, `+` for another alternative.

    `wanted` fields are those of our own entries; without any, what else belongs to the services' units is there, too:
    what they print, and what systemd says about them.
    """
    ours = [f"DAEBUS_SERVICE={service}" for service in services]
    if wanted:
        return [*ours, *(f"{field}={value}" for field, value in wanted.items())]
    usual = [unit for service in services for unit in (f"{service}.service", f"daebus@{service}.service")]
    all_units = sorted({*usual, *(unit for unit in units.values() if unit)})
    printed = [f"_SYSTEMD_UNIT={unit}" for unit in all_units]
    of_systemd = ["_PID=1", *(f"UNIT={unit}" for unit in all_units)]
    return [*ours, "+", *printed, "+", *of_systemd]


# --- how they look ---


def lines_for(entry: dict[str, Any], today: str, coloured: bool) -> list[str]:
    """Return the lines of an entry: time, whose, level and text; further lines of its text stand beneath."""
    level = priority_of(entry)
    first, *rest = text_in(entry, "MESSAGE").split("\n")
    pid = text_in(entry, "_PID")
    whose = "systemd" if pid == "1" else name_in(entry)
    head = f"{time_of(entry, today)} {visible(whose)}[{visible(pid) or '?'}]"
    shown = [f"{LEVELS[level]:<8} {visible(first)}", *(f"    {visible(line)}" for line in rest)]
    first, *rest = (painted(line, COLOURS[level], coloured) for line in shown)
    return [f"{painted(head, DIM, coloured)} {first}", *rest]
