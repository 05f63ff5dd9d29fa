"""The command `daebus`: finds, calls, watches and makes services, from a shell.

It is the only user of `click`, which nothing else imports. What it prints for programs goes to standard output, one
line at a time; errors are one line on standard error, and an exit status that says whose fault it was. A command's
module is imported when that command is used, so that each starts as quickly as it can.
"""

from __future__ import annotations

from errno import EACCES
from importlib import import_module

import click

from .. import __version__
from ..errors import ConfigurationError, DaebusError, RedisUnavailable, RequestTimeout, ServiceUnavailable
from ..names import did_you_mean
from .output import drop_output, open_descriptors, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANSWERED_WITH_ERROR, WRONG_USAGE, NOT_THERE, INTERRUPTED, NOBODY_READS = 1, 2, 3, 130, 141
"""Exit statuses; the last two are those of a program that SIGINT or SIGPIPE ended."""

COMMANDS = {
    "ls": "see",
    "info": "see",
    "ping": "see",
    "call": "messages",
    "pub": "messages",
    "sub": "messages",
    "monitor": "monitor",
    "top": "top",
    "logs": "logs",
    "trace": "trace",
    "doctor": "doctor",
    "new": "scaffold",
    "run": "develop",
    "shell": "shell",
    "bench": "benchmark",
    "completion": "completion",
    "version": "messages",
}
"""The commands in the order in which `--help` lists them, each with the module that has it, under the same name."""


def main() -> int:
    """Run the command with the arguments of this process; return its exit status."""
    open_descriptors()
    try:
        return commands.main(prog_name="daebus", standalone_mode=False) or 0
    except click.ClickException as error:
        return _fail("usage", _usage(error), WRONG_USAGE)
    except click.Abort:
        return INTERRUPTED
    except DaebusError as error:
        return _fail(error.code, f"{error}{_way_in(error)}", _status(error))
    except OSError as error:  # of the output: a full disk, say
        drop_output()
        return _fail("output", error.strerror or str(error), NOT_THERE)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "daebus"
    return f"{error.format_message()} (see {path} --help)"


def _way_in(error: DaebusError) -> str:
    """Return what to do where this user may not use the socket of Redis: on a device, that is anybody but root."""
    refused = isinstance(error, RedisUnavailable) and error.errno == EACCES
    return "; this user may not use it, root may: sudo daebus ..." if refused else ""


def _status(error: DaebusError) -> int:
    if isinstance(error, ConfigurationError):
        return WRONG_USAGE
    away = isinstance(error, ServiceUnavailable | RedisUnavailable | RequestTimeout)
    return NOT_THERE if away else ANSWERED_WITH_ERROR


def _fail(code: str, text: str, status: int) -> int:
    tell(f"daebus: {code}: {' '.join(text.split())}")
    return status


class _Commands(click.Group):
    """The commands, which end quietly when they are interrupted, or when nobody reads any more."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(f".{module}", __name__), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            drop_output()
            ctx.exit(NOBODY_READS)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: daebus call greeter greet name=Ada",
)
@click.version_option(__version__, message="%(version)s", help="Print the version of Daebus.")
@click.pass_context
def commands(context: click.Context) -> None:
    """Talk to the services of this device over Redis."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(WRONG_USAGE)
