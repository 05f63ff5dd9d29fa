"""systemd's journal: a record with its fields, in one datagram, without ever waiting.

The protocol is systemd's "native journal protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL). It is spoken here, and not
through `systemd-python`, because `sd_journal_send` waits when journald does, and a request would wait with it.

    journalctl -u my_service DAEBUS_ACTION=restart
    journalctl DAEBUS_TRACE=0f3c...            # one request, through all services
"""

from __future__ import annotations

import logging
import re
import socket
from time import monotonic

from .context import current
from .log import DETAILS, LAST, LineFormatter, StderrHandler, Unblocked, lines_of, priority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/run/systemd/journal/socket"

TEXT_LIMIT = 48 * 1024
"""Bytes of a message's text, as journald itself has it for a line of a stream (LineMax= in journald.conf). What is
longer is cut in the middle, where tracebacks repeat themselves."""

FIELD_LIMIT = 2000
"""Characters of every other field."""

EXTRA_LIMIT = 20
"""Fields of a program's own, so that a record fits into a datagram (212,992 bytes, net.core.wmem_default)."""

_USUAL = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))
_USUAL |= {"message", "asctime", "taskName", DETAILS, LAST}
_formatter = logging.Formatter()


def is_there() -> bool:
    """Whether there is a journal that takes records from us: its socket may be there and closed to this service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(SOCKET)
        except OSError:
            return False
    return True


class JournalHandler(Unblocked):
    """Sends records to the journal; what a stalled one does not take is dropped and counted."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._path = SOCKET
        self._service = service
        self._stream = StderrHandler()
        self._stream.setFormatter(LineFormatter("journal"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on. The last words of a process go to standard error: from a datagram of a process that has
        gone, journald cannot tell any more of which unit it was, and `journalctl -u` would not show them."""
        if getattr(record, LAST, False):
            self._stream.emit(record)
        else:
            super().emit(record)

    def encoded(self, record: logging.LogRecord) -> bytes:
        """Return the datagram for a record."""
        return encode(fields(record, self._service))

    def put(self, data: bytes) -> bool:
        """Send a datagram; False if it is not taken now."""
        try:
            self._socket.sendto(data, self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def fields(record: logging.LogRecord, service: str) -> dict[str, object]:
    """Return the fields of a record: what and where, the request that is being handled on this thread, `extra`.

    `extra` adds fields and replaces none: `extra={"priority": "low"}` is about something else than ours.
    """
    further = [(key.upper(), value) for key, value in vars(record).items() if key not in _USUAL]
    found: dict[str, object] = dict(further[:EXTRA_LIMIT])
    found |= {
        "MESSAGE": _cut("\n".join(lines_of(record, _formatter))),
        "PRIORITY": priority(record.levelno),
        "SYSLOG_IDENTIFIER": service,
        "DAEBUS_SERVICE": service,
        "LOGGER": record.name,
        "THREAD_NAME": record.threadName,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
    }
    call: Any = current.get()
    if call is not None:
        found |= _of_call(call)
    return found


def _of_call(call: Any) -> dict[str, object]:
    """Return what tells the call that is being handled, and how long that has taken (milliseconds)."""
    request = call.request
    known: dict[str, object] = {
        "DAEBUS_ACTION": call.work.name,
        "DAEBUS_MS": f"{(monotonic() - call.began) * 1000:.3f}",
    }
    if request is not None:
        known["DAEBUS_TRACE"] = request.trace
        known["DAEBUS_REQUEST_ID"] = request.request_id
        known["DAEBUS_PARENT"] = request.parent or None
        known["DAEBUS_CALLER"] = _caller(request)
    return known


def _caller(request: Any) -> str | None:
    """Return who asked: a service by its name, another program by its channel, a client by its address or id."""
    channel = request.reply_to
    if channel is None:
        return getattr(request, "remote_address", None) or getattr(request, "client_id", None)
    who = str(channel).removeprefix("caller:")
    return who[: -len(_AN_ID)] if len(who) > len(_AN_ID) and who[-len(_AN_ID)] == "-" else who


_AN_ID = "-00000000-0000-4000-8000-000000000000"


def encode(named: dict[str, object]) -> bytes:
    """Return fields as the journal takes them: `NAME=value`, or with its length if it has several lines.

    Names have capitals, digits and `_`; what has another one is left out.
    """
    parts = []
    for name, value in named.items():
        if value is None or _NAME.fullmatch(name) is None:
            continue
        text = str(value)
        data = (text if name == "MESSAGE" else text[:FIELD_LIMIT]).encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data))
        else:
            parts.append(b"%b=%b\n" % (name.encode(), data))
    return b"".join(parts)


_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)


def _cut(text: str) -> str:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    head, tail = data[:half].decode("utf-8", "ignore"), data[-half:].decode("utf-8", "ignore")
    return f"{head}\n  | ... {len(data) - TEXT_LIMIT:,} bytes are left out here ...\n{tail}"
