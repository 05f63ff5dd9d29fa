"""Logging: one record, one line; never in the way of a request; nothing in it can be forged from outside.

`logger` is a plain `logging.Logger`. `install()` (called by `app.run()`, never by an import) sends it to systemd's
journal with its fields (see `journal`) if standard error leads there, else to standard error: with colour to a
terminal, with the time to anything else.
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

DETAILS = "daebus_details"
"""The attribute of a record that holds further lines: `logger.error("...", extra={DETAILS: [...]})`."""

LAST = "daebus_last"
"""The attribute of a record after which the process ends at once: `logger.critical("...", extra={LAST: True})`."""

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


def priority(level: int) -> int:
    """Return syslog's priority for a level of the logging module."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def lines_of(record: logging.LogRecord, formatter: logging.Formatter) -> list[str]:
    """Return the message as one line, and those of its traceback or its `daebus_details`, marked as what they are."""
    further: list[str] = list(getattr(record, DETAILS, ()))
    if record.exc_info and record.exc_info[1] is not None:
        further += formatter.formatException(record.exc_info).splitlines()
    return [one_line(record.getMessage()), *[f"  | {one_line(line)}" for line in further]]


class LineFormatter(logging.Formatter):
    """Formats a record as one line; a traceback follows on lines that are marked as its continuation."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self._style_name = style

    def format(self, record: logging.LogRecord) -> str:
        """Return the line (or lines), each with what must stand before it."""
        lines = lines_of(record, self)
        prefix, suffix = self._around(record)
        return "\n".join(f"{prefix}{line}{suffix}" for line in lines)

    def _around(self, record: logging.LogRecord) -> tuple[str, str]:
        if self._style_name == "journal":
            return f"<{priority(record.levelno)}>", ""
        stamp = self.formatTime(record, "%H:%M:%S" if self._style_name == "terminal" else "%Y-%m-%dT%H:%M:%S%z")
        if self._style_name == "terminal":
            colour = next(c for level, c in _COLOURS if record.levelno >= level)
            return f"\033[2m{stamp}\033[0m \033[{colour}m", "\033[0m"
        return f"{stamp} {record.levelname:<7} ", ""


class Unblocked(logging.Handler):
    """A handler that never waits for whoever takes the log: what cannot be taken now is dropped, and counted."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on, or count it as dropped. Runs under the handler's lock."""
        try:
            data = self._encoded(record)
            if self._dropped and self.put(self.encoded(_dropped_record(self._dropped))):
                self._dropped = 0
            if not self.put(data):
                self._dropped += 1
        except Exception:  # noqa: BLE001 - a log call must not fail the code that logs
            self._dropped += 1

    def _encoded(self, record: logging.LogRecord) -> bytes:
        try:
            return self.encoded(record)
        except Exception as error:  # noqa: BLE001 - as above: whatever is wrong with a record is said in its place
            return self.encoded(_broken_record(record, error))

    def encoded(self, record: logging.LogRecord) -> bytes:
        """Return the bytes that a record becomes."""
        raise NotImplementedError

    def put(self, data: bytes) -> bool:
        """Pass bytes on, without waiting; False if they are not taken now."""
        raise NotImplementedError


def _broken_record(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """Return what is said in place of a record that cannot be written: a wrong format string, say."""
    text = "A log call cannot be written (%s): %s"
    why = (type(error).__name__, str(error)[:200])
    return logging.LogRecord(
        record.name, logging.ERROR, record.pathname, record.lineno, text, why, None, record.funcName
    )


def _dropped_record(count: int) -> logging.LogRecord:
    text = "%d log lines were dropped: nobody read them"
    return logging.LogRecord(logger.name, logging.WARNING, __file__, 0, text, (count,), None)


class StderrHandler(Unblocked):
    """Writes to standard error without ever waiting for it, even if it is a stalled or closed pipe."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def encoded(self, record: logging.LogRecord) -> bytes:
        """Return the line, or lines."""
        return f"{self.format(record)}\n".encode("utf-8", "backslashreplace")

    def put(self, data: bytes) -> bool:
        """Write as much as is taken; False if that is not all of it."""
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


def install(service: str, *, debug: bool) -> None:
    """Send the log to the journal or to standard error, unless the program has set up logging itself.

    Called once, by `app.run()`.
    """
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    root = logging.getLogger()
    if root.handlers or any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        return
    if not sys.stderr or not _is_open(2):
        return
    root.addHandler(_handler(service))


def _handler(service: str) -> logging.Handler:
    style = _style()
    if style == "journal":
        from .journal import JournalHandler, is_there

        if is_there():
            return JournalHandler(service)
    handler = StderrHandler()
    handler.setFormatter(LineFormatter(style))
    return handler


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


def leave_entry(text: str, *arguments: object, **fields: object) -> None:
    """Log at debug level what somebody wants to see, whatever the level is: of a trace that is wanted. `fields` go to
    the journal. Who asks for traces may be anybody, so what is too much is left out, visibly."""
    if not _entries.take():
        _too_many.log(logging.WARNING, "entries", "Too many entries of traces at once: some are left out")
        return
    logger.handle(
        logger.makeRecord(logger.name, logging.DEBUG, __file__, 0, text, arguments, None, "leave_entry", fields)
    )


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


_entries, _too_many = Budget(burst=200, rate=20), Seldom()

__all__ = [
    "Budget",
    "LineFormatter",
    "Seldom",
    "StderrHandler",
    "direct_logger",
    "get_logger",
    "install",
    "leave_entry",
    "logger",
    "set_log_level",
    "shown",
]
