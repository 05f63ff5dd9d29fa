"""What the command prints: lines, JSON and tables on standard output, words to the person on standard error."""

from __future__ import annotations

import json
import os
import select
import sys

import click

from ..errors import BadMessage, Unserialisable
from ..jsontext import loads, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

STDOUT = 1


def say(text: str) -> None:
    """Print lines as UTF-8, whatever the locale says, and flush."""
    click.echo(text.encode())


def tell(text: str) -> None:
    """Say one line to the person, on standard error."""
    click.echo(visible(text).encode(), err=True)


def open_descriptors() -> None:
    """Open what the caller has closed of standard input, output and error (`>&-`) on nothing: else a connection would
    get its number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
            setattr(sys, name, stream)


def drop_output() -> None:
    """Send what is left of the output nowhere: the interpreter would try to flush it as it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def check_reader() -> None:
    """Raise `BrokenPipeError` if nobody reads the output any more, even if there is nothing to say."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    if any(events & select.POLLERR for _descriptor, events in poll.poll(0)):
        raise BrokenPipeError


def visible(text: str) -> str:
    """Return text with its control characters escaped as in JSON, so that no message can steer a terminal."""
    return "".join(sign if sign.isprintable() else quote(sign)[1:-1] for sign in text)


def one_line(value: Any) -> str:
    """Return a value as JSON in one line."""
    return visible(_json(value, None))


def for_reader(value: Any) -> str:
    """Return JSON for whoever reads it: indented for a person, one line for a program."""
    if not sys.stdout.isatty():
        return one_line(value)
    return "\n".join(map(visible, _json(value, 2).split("\n")))


def _json(value: Any, indent: int | None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except RecursionError:
        raise Unserialisable("the value is nested too deeply to be shown") from None


def text_of(data: bytes) -> str:
    """Return a message as JSON in one line; one that is no JSON is shown as the JSON text of its characters."""
    try:
        return one_line(loads(data))
    except (BadMessage, Unserialisable):
        return one_line(data.decode(errors="replace"))


def table(titles: Sequence[str], rows: Sequence[Sequence[object]], right: str = "") -> list[str]:
    """Return a table's lines: columns as wide as their widest cell, two spaces between, no frame.

    Titles that `right` names stand, with their cells, at the right of their column. None is shown as `-`.
    """
    cells = [["-" if cell is None else visible(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(titles), *cells]) for column in range(len(titles))]
    aligned = right.split()

    def line(row: Sequence[str]) -> str:
        placed = (
            cell.rjust(width) if title in aligned else cell.ljust(width)
            for cell, width, title in zip(row, widths, titles, strict=True)
        )
        return "  ".join(placed).rstrip()

    return [line(row) for row in [list(titles), *cells]]
