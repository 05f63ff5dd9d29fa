"""Logging: one record, one line; never in the way of a request; nothing in it can be forged from outside.

`logger` is a plain `logging.Logger`. `install()` (called by `app.run()`, never by an import) sends it to standard
error: with a priority prefix for the journal, with colour to a terminal, with the time to anything else.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from threading import Lock
from time import monotonic

from .names import shown

logger = logging.getLogger("daebus")
logger.addHandler(logging.NullHandler())
direct_logger = logger

PIPE_BUF = 4096
"""Bytes that a pipe takes whole or not at all (pipe(7)); when poll says it is writable, that much fits."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_COLOURS = ((logging.ERROR, "31"), (logging.WARNING, "33"), (logging.INFO, "0"), (0, "2"))


def get_logger(name: str | None = None) -> logging.Logger:
    """Return Daebus' logger, or a child of it."""
    return logger if name is None else logger.getChild(name)


def set_log_level(level: int) -> None:
    """Set the level of Daebus' logger (a number of the logging module)."""
    logger.setLevel(level)


def one_line(text: str) -> str:
    """Return text with its control characters written out, so that it cannot begin a line of its own."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class LineFormatter(logging.Formatter):
    """Formats a record as one line; a traceback follows on lines that are marked as its continuation."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self._style_name = style

    def format(self, record: logging.LogRecord) -> str:
        """Return the line (or lines), each with what must stand before it."""
        lines = [one_line(record.getMessage())]
        if record.exc_info and record.exc_info[1] is not None:
            lines += [f"  | {one_line(line)}" for line in self.formatException(record.exc_info).splitlines()]
        prefix, suffix = self._around(record)
        return "\n".join(f"{prefix}{line}{suffix}" for line in lines)

    def _around(self, record: logging.LogRecord) -> tuple[str, str]:
        if self._style_name == "journal":
            return f"<{next((p for level, p in _PRIORITIES if record.levelno >= level), 7)}>", ""
        stamp = self.formatTime(record, "%H:%M:%S" if self._style_name == "terminal" else "%Y-%m-%dT%H:%M:%S%z")
        if self._style_name == "terminal":
            colour = next(c for level, c in _COLOURS if record.levelno >= level)
            return f"\033[2m{stamp}\033[0m \033[{colour}m", "\033[0m"
        return f"{stamp} {record.levelname:<7} ", ""


class StderrHandler(logging.Handler):
    """Writes to standard error without ever waiting for it: what a stalled or closed pipe cannot take is counted."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as dropped. Runs under the handler's lock."""
        try:
            text = self.format(record)
            if self._dropped and self._write(f"{self._dropped} log lines were dropped: nobody read them\n".encode()):
                self._dropped = 0
            if not self._write(f"{text}\n".encode("utf-8", "backslashreplace")):
                self._dropped += 1
        except Exception:  # noqa: BLE001 - a log call must not fail the code that logs (a bad format string, say)
            self._dropped += 1

    def _write(self, data: bytes) -> bool:
        for start in range(0, len(data), PIPE_BUF):
            if not any(event & select.POLLOUT for _, event in self._poll.poll(0)):
                return False
            try:
                os.write(self._descriptor, data[start : start + PIPE_BUF])
            except OSError:
                return False
        return True


def _style() -> str:
    where = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(2)
        if where == f"{status.st_dev}:{status.st_ino}":
            return "journal"
        return "terminal" if os.isatty(2) else "file"
    except OSError:
        return "file"


def install(*, debug: bool) -> None:
    """Send the log to standard error, unless the program has set up logging itself. Called once, by `app.run()`."""
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    root = logging.getLogger()
    if root.handlers or any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        return
    if not sys.stderr or not _is_open(2):
        return
    handler = StderrHandler()
    handler.setFormatter(LineFormatter(_style()))
    root.addHandler(handler)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class Seldom:
    """Logs the first of many alike at once, and then at most one a minute, with the count of those in between.

    "Alike" is decided by the key. What outsiders can cause as often as they like is logged through one of these.
    """

    PERIOD = 60.0
    KEYS = 256
    BURST, RATE = 30, 0.5  # lines at once, and a second after that, over all keys: they too come from outside

    def __init__(self) -> None:
        self._lock = Lock()
        self._budget = Budget(self.BURST, self.RATE)
        self._unsaid = 0
        self._seen: dict[object, tuple[float, int]] = {}

    def take(self, key: object) -> int | None:
        """Count one; return None to keep quiet, or how many were kept quiet since the last time."""
        now = monotonic()
        with self._lock:
            last, quiet = self._seen.get(key, (None, 0))
            if last is not None and now - last < self.PERIOD:
                self._seen[key] = (last, quiet + 1)
                return None
            if not self._budget.take():
                self._unsaid += 1
                return None
            quiet, self._unsaid = quiet + self._unsaid, 0
            if len(self._seen) >= self.KEYS and key not in self._seen:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = (now, 0)
            return quiet

    def log(self, level: int, key: object, text: str) -> None:
        """Log the text unless one with this key was logged within the last minute."""
        quiet = self.take(key)
        if quiet is not None:
            logger.log(level, "%s%s", text, f" (and {quiet} more like it before)" if quiet else "")


class Budget:
    """A bounded rate: `burst` at once, `rate` a second after that."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst, self._rate = float(burst), rate
        self._left, self._when = float(burst), monotonic()
        self._lock = Lock()

    def take(self) -> bool:
        """Take one, if there is one."""
        with self._lock:
            now = monotonic()
            self._left = min(self._burst, self._left + (now - self._when) * self._rate)
            self._when = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


__all__ = [
    "Budget",
    "LineFormatter",
    "Seldom",
    "StderrHandler",
    "direct_logger",
    "get_logger",
    "install",
    "logger",
    "set_log_level",
    "shown",
]
