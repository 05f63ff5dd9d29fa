"""`daebus doctor`: is everything well that services need on this machine? Each finding comes with its fix."""

from __future__ import annotations

import sys
from textwrap import wrap

import click

from ..settings import RedisSettings
from .arguments import json_option, redis_option
from .checks import all_findings
from .findings import NOT_HERE, OK, PROBLEM, WARNING, described
from .output import one_line, say, visible
from .screen import DIM, GREEN, RED, YELLOW, in_colour, painted, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .findings import Finding

FOUND_PROBLEMS = 1
WIDEST = 100_000
"""Columns of what is no terminal."""

COLOURS = {PROBLEM: RED, WARNING: YELLOW, NOT_HERE: DIM, OK: GREEN}


@click.command(short_help="Look for what is wrong on this machine.", epilog="Example: sudo daebus doctor")
@redis_option
@json_option
@click.pass_context
def doctor(context: click.Context, settings: RedisSettings, as_json: bool) -> None:
    """Look at Redis, the units of services, clock, memory, disk, journal and versions; say what to do.

    The exit status is 1 if there is a problem. As root it sees more.
    """
    found = all_findings(settings)
    if as_json:
        say(one_line([described(one) for one in found]))
    else:
        width = size()[0] if sys.stdout.isatty() else WIDEST
        for line in lines_for(found, width, in_colour()):
            say(line)
    if any(one.level == PROBLEM for one in found):
        context.exit(FOUND_PROBLEMS)


def lines_for(found: list[Finding], width: int, coloured: bool) -> Iterator[str]:
    """Yield each finding, within a width, and its fix in one line to be copied; and the count of what is not well."""
    names = max((len(one.name) for one in found), default=0)
    for one in found:
        level = painted(f"{one.level:<8}", COLOURS[one.level], coloured)
        first, *rest = wrap(visible(one.text), max(20, width - names - 12)) or [""]
        yield f"{level}  {visible(one.name):<{names}}  {first}"
        yield from (f"{'':{names + 12}}{line}" for line in rest)
        if one.fix:
            yield f"{'':10}> {visible(one.fix)}"
    problems, warnings = (sum(one.level == level for one in found) for level in (PROBLEM, WARNING))
    yield f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}"


def counted(number: int, word: str) -> str:
    """Return a number of things in words."""
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
