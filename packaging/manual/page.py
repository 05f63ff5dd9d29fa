"""The manual page of the command: from its own declarations, and from sections of its documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from . import roff

SECTIONS = ("Payloads", "Listening", "While you write", "A shell", "Measuring", "Exit status", "Environment and files")
"""What the page has of the documentation."""

RANGE = re.compile(r"\s+\[[^\]]*[<>]=?[^\]]*\]$")
"""What click adds to an option about the numbers that it takes: the error says it better."""

SEE_ALSO = ("daebus\\-redis\\-cli", "8")

HELP = [".PP", f"Each of them says what it does with {roff.bold('-h')} or {roff.bold('--help')}."]


def manual(group: click.Group, documentation: str, version: str, date: str) -> str:
    """Return the page. `documentation` is the Markdown in which `SECTIONS` are."""
    context = click.Context(group, info_name="daebus")
    commands = list(_commands(group, context))
    lines = [
        f'.TH DAEBUS 1 "{date}" "Daebus {version}" "User commands"',
        ".SH NAME",
        f"daebus \\- {roff.plain(_lowered(group.help or ''))}",
        ".SH SYNOPSIS",
    ]
    for number, command in enumerate(commands):
        lines += [".br"] * bool(number) + [_usage(command)]
    lines += [".SH COMMANDS", *HELP]
    for command in commands:
        lines += [f".SS {_name(command)}", *_described(command)]
    for title in SECTIONS:
        lines += [f".SH {title.upper()}", *roff.body(roff.section(documentation, title))]
    lines += [".SH SEE ALSO", f".BR {SEE_ALSO[0]} ({SEE_ALSO[1]})"]
    return "\n".join(_without_doubled_breaks(lines)) + "\n"


def _commands(group: click.Group, context: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command, those of groups in it included."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield inner


def _name(context: click.Context) -> str:
    return roff.plain(context.command_path)


def _usage(context: click.Context) -> str:
    pieces = context.command.collect_usage_pieces(context)
    return " ".join([roff.bold(context.command_path), *[f"\\fI{roff.plain(piece)}\\fR" for piece in pieces]])


def _described(context: click.Context) -> list[str]:
    command = context.command
    paragraphs = (command.help or command.short_help or "").split("\n\n")
    lines = [line for text in paragraphs for line in (".PP", *roff.paragraph(" ".join(text.split())))]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
            lines += roff.item(_declared(record[0]), RANGE.sub("", record[1]))
    return lines + _example(command.epilog or "")


def _declared(text: str) -> str:
    """Return an option as it is declared: what stands for a value is in italics."""
    return " ".join(
        roff.bold(word) if word.startswith("-") else f"\\fI{roff.plain(word)}\\fR" for word in text.split(" ")
    )


def _example(epilog: str) -> list[str]:
    head, colon, example = epilog.partition(": ")
    return roff.verbatim([example]) if colon and head == "Example" else []


def _lowered(text: str) -> str:
    sentence = text.strip().split("\n\n")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def _without_doubled_breaks(lines: list[str]) -> Iterator[str]:
    """A title begins a paragraph by itself."""
    for before, line in zip(["", *lines], lines, strict=False):
        if not (line == ".PP" and before.startswith((".SH", ".SS"))):
            yield line
