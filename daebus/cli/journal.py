"""Reads systemd's journal through `journalctl`, a line at a time, and says what its complaints mean.

Nothing of what it prints is kept: a journal may be larger than the memory.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import tempfile
from math import isfinite
from time import localtime, strftime

import click

from ..errors import ServiceUnavailable
from .output import check_reader, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

FIELDS = (
    "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,DAEBUS_SERVICE,DAEBUS_ACTION,DAEBUS_REQUEST_ID,DAEBUS_TRACE,DAEBUS_PARENT,"
    "DAEBUS_CALLER,DAEBUS_MS,DAEBUS_BEGAN,DAEBUS_OUTCOME,DAEBUS_ERROR_ID,"
    "_PID,_SYSTEMD_UNIT,_BOOT_ID,_SOURCE_REALTIME_TIMESTAMP"
)
"""What is read of an entry: others may be large."""

LOOK = 0.5
"""Seconds between two looks whether anybody still reads the output."""

LONGEST = 8 * 1024 * 1024
"""Bytes of a line; a longer one is left out."""

WORDS_LIMIT = 2000
"""Bytes of what journalctl says on standard error that are read."""

_MAY_NOT = re.compile(r"insufficient permissions|not seeing messages from other users|Permission denied", re.I)
_NO_FILES = re.compile(r"No journal files were (found|opened)", re.I)
_USAGE = re.compile(r"failed to parse|unknown|invalid|compil|bad pattern|not supported|unrecognized", re.I)

LEVELS = ("CRITICAL", "CRITICAL", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG")
COLOURS = ("31;1", "31;1", "31;1", "31", "33", "", "", "2")
"""How the priorities of syslog, 0 to 7, are called and shown."""

DAY = "%Y-%m-%d"

NO_RIGHT = (
    "this user may not read the journal of services: use sudo, or `sudo adduser NAME systemd-journal` and log in again"
)


def lines(arguments: Sequence[str]) -> Iterator[bytes]:
    """Yield what `journalctl` prints with these arguments, without line ends.

    Raises `ServiceUnavailable` if there is no journal or it may not be read, `UsageError` for arguments that
    journalctl does not take, `BrokenPipeError` when nobody reads our output any more.
    """
    program = shutil.which("journalctl")
    if program is None:
        raise ServiceUnavailable("there is no journalctl here: without systemd there is no journal")
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [program, "--no-pager", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        with process:
            try:
                yield from _lines_of(process.stdout, words.fileno())
                status = process.wait()
            finally:
                process.kill()
        _judge(status, _read(words.fileno()))


def _read(descriptor: int) -> str:
    return os.pread(descriptor, WORDS_LIMIT, 0).decode(errors="replace")


def _lines_of(output: Any, words: int) -> Iterator[bytes]:
    poll = select.poll()
    poll.register(output, select.POLLIN)
    rest, warned = b"", False
    while True:
        if not poll.poll(LOOK * 1000):
            check_reader()
            if not warned and (text := _read(words)):  # it may go on for long: what it has to say is said now
                warned = True
                _judge(0, text)
            continue
        data = os.read(output.fileno(), 1 << 16)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from whole
        if len(rest) > LONGEST:
            rest = b""  # its end is no JSON, and is left out, too


def _judge(status: int, words: str) -> None:
    """Say what journalctl said, or raise it if it has failed."""
    if _MAY_NOT.search(words):
        if status:
            raise ServiceUnavailable(NO_RIGHT)
        tell(f"daebus: {NO_RIGHT}")
    elif _NO_FILES.search(words):
        raise ServiceUnavailable("this machine has no journal: no files in /run/log/journal or /var/log/journal")
    elif status and words.strip():
        text = f"journalctl: {' '.join(words.split())[:500]}"
        raise click.UsageError(text) if _USAGE.search(words) else ServiceUnavailable(text)


def entries(arguments: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield entries, oldest first. Raises as `lines` does."""
    for line in lines(["--output=json", "--all", f"--output-fields={FIELDS}", *arguments]):
        entry = entry_of(line)
        if entry is not None:
            yield entry


def entry_of(line: bytes) -> dict[str, Any] | None:
    """Return the entry in a line of journalctl's JSON; None for a line that is none."""
    if not line.startswith(b"{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def text_in(entry: dict[str, Any], name: str) -> str:
    """Return a field as text; "" without it. journalctl writes what is not printable as a list of bytes, and what
    stands there several times as a list."""
    value = entry.get(name)
    if isinstance(value, list):
        if value and all(isinstance(one, int) for one in value):
            return bytes(one & 255 for one in value).decode(errors="replace")
        value = value[0] if value else None
        return text_in({name: value}, name)
    return "" if value is None else str(value)


def number_in(entry: dict[str, Any], *names: str) -> float | None:
    """Return the first of these fields that is a number."""
    for name in names:
        try:
            found = float(text_in(entry, name))
        except ValueError:
            continue
        if isfinite(found):
            return found
    return None


def name_in(entry: dict[str, Any]) -> str:
    """Return whose entry it is: the service, else what its unit is called, else the program."""
    unit = text_in(entry, "_SYSTEMD_UNIT")
    stem = unit.removesuffix(".service").removeprefix("daebus@") if unit.endswith(".service") else ""
    return text_in(entry, "DAEBUS_SERVICE") or stem or text_in(entry, "SYSLOG_IDENTIFIER") or "?"


def priority_of(entry: dict[str, Any]) -> int:
    """Return syslog's priority of an entry, 0 to 7; one without counts as 6."""
    found = number_in(entry, "PRIORITY")
    return int(found) if found is not None and 0 <= found <= 7 else 6


def time_of(entry: dict[str, Any], today: str = "") -> str:
    """Return the local time of an entry, with the day if that is another one than today."""
    found = number_in(entry, "_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP")
    seconds, microseconds = divmod(int(found or 0), 1_000_000)
    try:
        when = localtime(seconds)
    except (ValueError, OverflowError, OSError):
        return "?"
    clock, day = f"{strftime('%H:%M:%S', when)}.{microseconds // 1000:03}", strftime(DAY, when)
    return clock if day == today else f"{day} {clock}"


def service_names() -> list[str]:
    """Return the services that have written to the journal, sorted. Raises as `lines` does."""
    return sorted({line.decode(errors="replace") for line in lines(["--field=DAEBUS_SERVICE"]) if line})
