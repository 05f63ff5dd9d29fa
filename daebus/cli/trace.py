"""`daebus trace`: one request's way through HTTP, the bus and services, from what they left in the journal."""

from __future__ import annotations

import click

from ..names import new_trace
from .arguments import json_option
from .journal import entries, time_of
from .output import one_line, say, tell, visible
from .screen import in_colour
from .tree import described, shown, trace_of, traces_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST = 5000
"""Entries of a trace that are read."""

NOT_FOUND = 1
HOW = (
    "an entry is left by each call of a trace that is asked for (daebus call --trace, or curl -H "
    '"$(daebus trace --new)" ...), of a service that runs with debug=True, and by what fails or logs something; '
    "not by a call that has not ended yet, nor by services that log to a terminal"
)


@click.command(
    short_help="Show one request's way through the services.",
    epilog="Example: daebus trace 0af7651916cd43dd8448eb211c80319c",
)
@click.argument("name", metavar="ID", required=False)
@click.option("--new", is_flag=True, help="Print an HTTP header that asks for a trace, with an ID of its own.")
@json_option
@click.pass_context
def trace(context: click.Context, name: str | None, new: bool, as_json: bool) -> None:
    """Show a trace as a tree: which call led to which, when each began, what it took, how it went, what it logged.

    ID is that of the trace, of a request in it, or of an error that a caller was told.
    """
    if new == (name is not None):
        raise click.UsageError("give the ID of a trace, a request or an error; or --new and no ID", context)
    if name is None:
        say(header())
        return
    named = list(entries(_any_of(name)))
    traces = traces_in(named)
    if not traces:
        tell(f"daebus: not_found: {_why_none(name, named)}")
        context.exit(NOT_FOUND)
    if len(traces) > 1:
        tell(f"daebus: {len(traces) - 1} older traces have this id, too: {' '.join(traces[1:6])}")
    _show(traces[0], as_json)


def _why_none(name: str, named: list[dict[str, Any]]) -> str:
    if named:
        return f"what has the id {name!r} is of no trace: a listener's, say; daebus logs --error-id {name} shows it"
    return f"nothing in the journal has the id {name!r}; {HOW}"


def header() -> str:
    """Return a header that asks for a trace (W3C Trace Context)."""
    return f"traceparent: 00-{new_trace()}-{new_trace()[:16]}-01"


def _any_of(name: str) -> list[str]:
    return [f"--lines={MOST}", f"DAEBUS_TRACE={name}", "+", f"DAEBUS_REQUEST_ID={name}", "+", f"DAEBUS_ERROR_ID={name}"]


def _show(name: str, for_program: bool) -> None:
    found: list[dict[str, Any]] = list(entries([f"--lines={MOST}", f"DAEBUS_TRACE={name}"]))
    made = trace_of(name, found)
    if len(found) == MOST:
        tell(f"daebus: this trace has more than {MOST} entries: only the last ones are shown")
    if for_program:
        say(one_line(described(made)))
        return
    say(f"Trace {visible(name)}, {time_of({'__REALTIME_TIMESTAMP': made.began * 1e6})}")
    for line in shown(made, in_colour()):
        say(line)
