"""`daebus shell`: Python with the services that are there at hand, at a prompt, from a pipe, or from a word."""

from __future__ import annotations

import builtins
import code
import os
import sys
import traceback
from contextlib import contextmanager
from pprint import pformat

import click

from .. import __version__
from ..census import find
from ..errors import DaebusError
from ..names import check_service
from .arguments import redis_option
from .live import Bus, namespace
from .output import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

    from ..settings import RedisSettings

HISTORY_LINES = 1000
FAILED = 1


@click.command(
    name="shell",
    short_help="Python with the services at hand.",
    epilog="Example: daebus shell -c 'lamp.dim(percent=40)'",
)
@click.argument("names", metavar="[SERVICE]...", nargs=-1)
@click.option("-c", "words", metavar="CODE", help="Run this, and print its value if it is an expression.")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0.001), default=5.0, help="For each call (5).")
@redis_option
@click.pass_context
def shell(
    context: click.Context, names: tuple[str, ...], words: str | None, timeout: float, settings: RedisSettings
) -> None:
    """Python with the services that are there, or those that are named: lamp.dim(percent=40), lamp.actions.

    There are services, call("lamp", "dim", percent=40), publish("channel", {...}) and cache, too. Without a terminal
    it runs what comes on standard input.
    """
    found = [check_service(name) for name in names] or find(settings)
    bus = Bus(settings, timeout)
    variables = namespace(bus, found)
    try:
        if words is not None:
            status = _run(words, "<command line>", variables, shown=True)
        elif sys.stdin.isatty():
            status = _converse(variables, bus, found)
        else:
            status = _run(sys.stdin.read(), "<stdin>", variables, shown=False)
    finally:
        bus.close()
    context.exit(status)


# --- code from elsewhere ---


def _run(source: str, name: str, variables: dict[str, Any], *, shown: bool) -> int:
    """Run code; return the status. What Daebus raises is left to the command, anything else is shown as by Python."""
    expression = _expression(source, name) if shown else None
    value = None
    try:
        if expression is not None:
            value = eval(expression, variables)  # noqa: S307 - it is what this command is for
        else:
            exec(compile(source, name, "exec"), variables)  # noqa: S102 - likewise
    except (DaebusError, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the code of the person raises
        sys.stdout.flush()
        _show_error(error, name)
        return FAILED
    _show(value)
    sys.stdout.flush()
    return 0


def _expression(source: str, name: str) -> CodeType | None:
    try:
        return compile(source.strip(), name, "eval")
    except SyntaxError:
        return None


def _show_error(error: Exception, name: str) -> None:
    """Print a traceback that begins where the person's own code does."""
    shown = traceback.TracebackException.from_exception(error)
    while shown.stack and shown.stack[0].filename != name:
        del shown.stack[0]
    sys.stderr.write("".join(shown.format()))


def _show(value: Any) -> None:
    """Print a value as Python's prompt does, but so that a large one can be read."""
    if value is None:
        return
    builtins._ = value  # type: ignore[attr-defined]  # as Python's own
    sys.stdout.write(f"{pformat(value, sort_dicts=False)}\n")


# --- at a terminal ---


class _Console(code.InteractiveConsole):
    """Python's prompt, at which an error of Daebus is one line."""

    def showtraceback(self) -> None:
        """Show the error that was raised."""
        error = sys.exc_info()[1]
        if isinstance(error, DaebusError):
            tell(f"daebus: {error.code}: {' '.join(str(error).split())}")
        else:
            super().showtraceback()


def _converse(variables: dict[str, Any], bus: Bus, found: list[str]) -> int:
    with _line_editing(variables), _displayed():
        _Console(variables).interact(_welcome(bus, found, variables), exitmsg="")
    return 0


def _welcome(bus: Bus, found: list[str], variables: dict[str, Any]) -> str:
    there = ", ".join(name if name in variables else f"services[{name!r}]" for name in found) or "none is there"
    name = next((name for name in found if name in variables), "lamp")
    lines = [
        (f"{name}.actions", "the actions of a service; TAB completes them"),
        (f"{name}.ACTION(field=40)", f'call one; or call("{name}", "ACTION", field=40)'),
        ("services", 'those that are there now; services["desk-lamp"]'),
        ('publish("channel", {"a": 1})', "to whoever listens"),
        ("cache", "the Redis client"),
    ]
    width = max(len(words) for words, _ in lines)
    return "\n".join(
        [
            f"Daebus {__version__}, Python {sys.version.split()[0]}, Redis at {bus.settings}",
            f"Services: {there}",
            *[f"  {words.ljust(width)}  {meaning}" for words, meaning in lines],
            "Ctrl-D ends it.",
        ]
    )


@contextmanager
def _displayed() -> Iterator[None]:
    before, sys.displayhook = sys.displayhook, _show
    try:
        yield
    finally:
        sys.displayhook = before


@contextmanager
def _line_editing(variables: dict[str, Any]) -> Iterator[None]:
    """Have lines edited, words completed, and what was typed kept for the next time."""
    try:
        import readline
        from rlcompleter import Completer
    except ImportError:  # a Python without it
        yield
        return
    readline.set_completer(Completer(variables).complete)
    readline.parse_and_bind("tab: complete")
    history = history_file()
    _tolerated(lambda: readline.read_history_file(history) if os.path.exists(history) else None, history)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        readline.set_completer(None)
        _tolerated(lambda: _keep(readline, history), history)


def history_file() -> str:
    """Return where lines are kept, as the XDG base directories have it."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "daebus", "shell-history")


def _keep(readline: Any, history: str) -> None:
    """Write the lines into a file that only the person can read: there may be secrets among them."""
    os.makedirs(os.path.dirname(history), mode=0o700, exist_ok=True)
    os.close(os.open(history, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    readline.write_history_file(history)


def _tolerated(function: Any, history: str) -> None:
    try:
        function()
    except OSError as error:
        tell(f"daebus: {history} cannot be used: {error.strerror or error}")
