"""The services that `daebus run` starts: each a child process in a group of its own, with its lines and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from time import monotonic

from ..redisserver import end_with_parent
from .screen import DIM, painted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STOP_SECONDS = 12.0
"""A service ends within 10 s of SIGTERM even if one of its handlers never does."""

SLOW_SECONDS = 1.0
"""After so long it is said that somebody waits."""

LONGEST_LINE = 65536
NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""Variables by which systemd speaks to us, if it has started us."""

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)\S* (DEBUG  |INFO   |WARNING|ERROR  |CRITICAL) (.*)", re.DOTALL)
LEVEL_COLOURS = {"DEBUG": "2", "INFO": "0", "WARNING": "33", "ERROR": "31", "CRITICAL": "31"}
NAME_COLOURS = ("36", "35", "32", "34", "33", "96", "95", "92")


class Lines:
    """Cuts what comes into lines. A line is cut where it has 65,536 bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete now; with no data, which is the end, what is left."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        yield from whole
        if self._rest and (not data or len(self._rest) >= LONGEST_LINE):
            yield self._rest
            self._rest = b""


class Look:
    """How the lines of one service look: its name before each, in colour on a terminal."""

    def __init__(self, name: str, width: int, number: int, *, colour: bool) -> None:
        self._colour = colour
        self._head = painted(f"{name.ljust(width)} | ", NAME_COLOURS[number % len(NAME_COLOURS)], colour)

    def dressed(self, line: bytes) -> bytes:
        """Return a line as it is shown. On a terminal, a line of Daebus' log looks as it would there."""
        text = line.decode(errors="replace").rstrip("\r")
        if self._colour and (found := LOG_LINE.fullmatch(text)):
            time, level, said = found.groups()
            text = f"{painted(time, DIM, True)} {painted(said, LEVEL_COLOURS[level.strip()], True)}"
        return f"{self._head}{text}\n".encode("utf-8", "backslashreplace")


class Child:
    """One run of a script. Its output comes through `output`; `ended` becomes readable when it has ended."""

    def __init__(self, script: str, redis_url: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
        self.output, theirs = os.pipe()
        os.set_blocking(self.output, False)
        self._process = subprocess.Popen(
            [sys.executable, script],
            env={**kept, "DAEBUS_REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            process_group=0,  # Ctrl-C on our terminal is for us, who end it
            preexec_fn=end_with_parent(),  # safe: the command has one thread
        )
        os.close(theirs)
        self.ended = os.pidfd_open(self._process.pid)
        self.lines = Lines()
        self.deadline: float | None = None  # when it is killed, once it was told to stop
        self.slow_at: float | None = None  # when it is said that it is waited for, unless that is said

    def read(self) -> bytes | None:
        """Return what it has said; empty at the end, None when there is nothing now."""
        try:
            return os.read(self.output, LONGEST_LINE)
        except BlockingIOError:
            return None

    def stop(self) -> None:
        """Ask it to end."""
        if self.deadline is None:
            self.deadline = monotonic() + STOP_SECONDS
            self.slow_at = monotonic() + SLOW_SECONDS
            signal.pidfd_send_signal(self.ended, signal.SIGTERM)  # Popen's would take leave of one that has ended

    def kill(self) -> None:
        """End it, and all that it has started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def take_leave(self) -> int:
        """Return the exit status of one that has ended, as a shell has it. What it started, and left, is killed."""
        self.kill()  # before it is waited for: until then nobody else can have its number
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def close(self) -> None:
        """Close its descriptors; whatever still runs is killed."""
        if self._process.returncode is None:
            self.kill()
            self._process.wait()
        os.close(self.output)
        os.close(self.ended)
