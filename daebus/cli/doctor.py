"""`daebus doctor`: is everything well that services need on this machine? Each finding comes with its fix."""

from __future__ import annotations

import os
import sys

import click

from ..settings import RedisSettings
from .arguments import json_option, redis_option
from .checks import all_findings
from .findings import NOT_HERE, PROBLEM, WARNING, described
from .output import one_line, say, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .findings import Finding

FOUND_PROBLEMS = 1
COLOURS = {PROBLEM: "31", WARNING: "33", NOT_HERE: "2", "ok": "32"}


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
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        for line in lines_for(found, coloured):
            say(line)
    if any(one.level == PROBLEM for one in found):
        context.exit(FOUND_PROBLEMS)


def lines_for(found: list[Finding], coloured: bool) -> Iterator[str]:
    """Yield a line for each finding, one for its fix, and the count of what is not well."""
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        level = f"{one.level:<8}"
        if coloured:
            level = f"\033[{COLOURS[one.level]}m{level}\033[0m"
        yield f"{level}  {visible(one.name):<{width}}  {visible(one.text)}"
        if one.fix:
            yield f"{'':10}{'':{width}}  > {visible(one.fix)}"
    problems, warnings = (sum(one.level == level for one in found) for level in (PROBLEM, WARNING))
    yield f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}"


def counted(number: int, word: str) -> str:
    """Return a number of things in words."""
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
