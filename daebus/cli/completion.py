"""`daebus completion`: has a shell complete commands, options, services, actions and channels."""

from __future__ import annotations

import click

from .output import say

SHELLS = ("bash", "zsh", "fish")

VARIABLE = "_DAEBUS_COMPLETE"
"""The environment variable through which the script asks; its name follows from that of the program."""


@click.command(short_help="Print a script for Tab completion.", epilog="Example: daebus completion bash")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script by which a shell completes commands, services, actions and channels.

    It belongs into the shell's start file: eval "$(daebus completion bash)" into ~/.bashrc, say.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from . import commands

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click does not know {shell!r}")
    # the one of bash would start a bash, to look how old it is
    say(ShellComplete.source(kind(commands, {}, "daebus", VARIABLE)).rstrip("\n"))
