"""The files by which shells complete the command's words. They ask the command itself, which knows what there is."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

FILES = {"bash": "daebus", "zsh": "_daebus", "fish": "daebus.fish"}
"""The shells, and what each calls the file."""

AUTOLOADED = """if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _daebus_completion "$@"
else
    compdef _daebus_completion daebus
fi
"""
"""The end of zsh's file: when zsh loads it because the first TAB wants it, it must complete as well."""


def completion(shell: str, group: click.Group) -> str:
    """Return the file for a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise LookupError(f"click knows no {shell}")
    text = kind(group, {}, "daebus", "_DAEBUS_COMPLETE").source().strip() + "\n"
    if shell == "zsh" and "loadautofunc" not in text:  # click before 8.1.4
        text = "".join(line for line in text.splitlines(True) if not line.startswith("compdef ")) + AUTOLOADED
    return text
