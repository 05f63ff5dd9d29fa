"""systemd's journal, with a real socket in journald's place: one datagram a record, its fields, and nobody waits."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import journal
from daebus.context import current
from daebus.exchange import HttpRequest
from daebus.http1 import read_head
from daebus.journal import EXTRA_LIMIT, FIELD_LIMIT, TEXT_LIMIT, JournalHandler, encode, fields
from daebus.log import DETAILS, LAST, StderrHandler, install, logger
from tests.calls import Bench, message
from tests.support import ROOT

any_text = st.text(alphabet=st.characters(), max_size=60)
names = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)


def decoded(data: bytes) -> list[tuple[str, bytes]]:
    """The fields of a datagram, as journald reads it (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    found = []
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert end == b"\n"
            assert len(value) == size
        found.append((name.decode(), value))
    return found


def texts(data: bytes) -> dict[str, str]:
    pairs = decoded(data)
    assert len(dict(pairs)) == len(pairs), "a field that stands there twice"
    return {name: value.decode() for name, value in pairs}


def record(
    text: str = "text",
    *arguments: object,
    level: int = logging.INFO,
    error: BaseException | None = None,
    extra: dict[str, object] | None = None,
) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("daebus.part", level, "/srv/file.py", 12, text, arguments, exc_info, "function")
    vars(made).update(extra or {})
    return made


def sent(made: logging.LogRecord) -> dict[str, str]:
    """What the journal has of a record."""
    return texts(encode(fields(made, "lamp")))


class Asked:
    """A call that is being handled."""

    def __init__(self, request: Any, began: float = 0.0) -> None:
        self.request = request
        self.response = None
        self.work = SimpleNamespace(name="restart")
        self.began = began


@contextmanager
def handling(request: Any) -> Iterator[None]:
    token = current.set(Asked(request))
    try:
        yield
    finally:
        current.reset(token)


# --- the protocol ---


@given(st.dictionaries(names, any_text, max_size=6))
def test_whatever_is_in_a_field_comes_out_of_it(given_fields: dict[str, object]) -> None:
    """Above all, no newline in one makes another one."""
    data = encode(given_fields)
    expected = [(name, str(value).encode("utf-8", "backslashreplace")) for name, value in given_fields.items()]
    assert decoded(data) == expected


@pytest.mark.parametrize("name", ["", "_PID", "1ST", "a", "A B", "A=B", "A\nPRIORITY", "GRÖSSE", "A" * 65])
def test_what_is_no_name_for_a_field_is_left_out(name: str) -> None:
    assert encode({name: "value", "LEFT": "1"}) == b"LEFT=1\n"


def test_what_is_not_known_is_left_out() -> None:
    assert encode({"A": None, "B": 0, "C": ""}) == b"B=0\nC=\n"


def test_a_field_of_several_lines_says_how_long_it_is() -> None:
    assert encode({"A": "x\ny", "B": "z"}) == b"A\n\x03\0\0\0\0\0\0\0x\ny\nB=z\n"


def test_a_field_is_cut_and_a_message_is_not() -> None:
    pairs = dict(decoded(encode({"A": "x" * (FIELD_LIMIT + 1), "MESSAGE": "y" * (FIELD_LIMIT + 1)})))
    assert (len(pairs["A"]), len(pairs["MESSAGE"])) == (FIELD_LIMIT, FIELD_LIMIT + 1)


# --- the fields of a record ---


def test_a_record_says_what_where_and_who() -> None:
    assert sent(record("%s of %d", "part", 5, level=logging.WARNING)) == {
        "MESSAGE": "part of 5",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "lamp",
        "DAEBUS_SERVICE": "lamp",
        "LOGGER": "daebus.part",
        "THREAD_NAME": "MainThread",
        "CODE_FILE": "/srv/file.py",
        "CODE_LINE": "12",
        "CODE_FUNC": "function",
    }


@given(any_text)
def test_a_message_is_one_line_whatever_its_text(text: str) -> None:
    found = sent(record("%s", text))
    assert set(found) == set(sent(record()))
    assert found["MESSAGE"].splitlines() in ([found["MESSAGE"]], [])


def test_a_newline_in_a_message_makes_no_field() -> None:
    found = sent(record("%s", "x\nPRIORITY=0\nDAEBUS_TRACE=forged"))
    assert (found["MESSAGE"], found["PRIORITY"]) == ("x\\nPRIORITY=0\\nDAEBUS_TRACE=forged", "6")
    assert "DAEBUS_TRACE" not in found


def test_a_traceback_is_in_the_same_entry() -> None:
    try:
        raise ValueError("why\nPRIORITY=0")
    except ValueError as error:
        found = sent(record("it failed", error=error, level=logging.ERROR))
    first, *rest = found["MESSAGE"].split("\n")
    assert first == "it failed"
    assert rest[0] == "  | Traceback (most recent call last):"
    assert all(line.startswith("  | ") for line in rest)
    assert rest[-1].endswith("PRIORITY=0")
    assert found["PRIORITY"] == "3"


def test_details_are_further_lines() -> None:
    made = record("stuck", extra={DETAILS: ["Thread 'a':", "  line\n<0>"]})
    assert sent(made)["MESSAGE"] == "stuck\n  | Thread 'a':\n  |   line\\n<0>"


def test_extra_becomes_fields() -> None:
    found = sent(record(extra={"daebus_error_id": "e1", "user": 5, "nothing": None, "_hidden": 1, "two words": 1}))
    assert (found["DAEBUS_ERROR_ID"], found["USER"]) == ("e1", "5")
    assert not {"NOTHING", "_HIDDEN", "TWO WORDS"} & set(found)


def test_extra_replaces_no_field_of_ours() -> None:
    """A program's `extra={"priority": "low"}` is about something else."""
    found = sent(record("text", extra={"priority": "low", "MESSAGE": "other", "logger": "x", "code_line": 1}))
    assert (found["PRIORITY"], found["MESSAGE"], found["LOGGER"]) == ("6", "text", "daebus.part")
    assert found["CODE_LINE"] == "12"


def test_a_logger_passes_extra_on() -> None:
    with handling(None):
        made = logger.makeRecord("daebus", logging.INFO, "f", 1, "t", (), None, extra={"daebus_leg": "bus"})
    assert sent(made)["DAEBUS_LEG"] == "bus"


def test_huge_messages_are_cut_in_the_middle() -> None:
    text = f"begin{'ä' * TEXT_LIMIT}end"
    found = sent(record("%s", text))["MESSAGE"]
    head, cut, tail = found.split("\n")
    assert head.startswith("begin")
    assert tail.endswith("end")
    left_out = int(cut.split()[2].replace(",", ""))
    assert left_out == len(text.encode()) - TEXT_LIMIT
    assert TEXT_LIMIT - 4 <= len(head.encode()) + len(tail.encode()) <= TEXT_LIMIT


def test_what_just_fits_is_not_cut() -> None:
    assert sent(record("%s", "x" * TEXT_LIMIT))["MESSAGE"] == "x" * TEXT_LIMIT


# --- the request that is being handled ---


def request_of(**changes: Any) -> Any:
    bench = Bench().action(lambda: None)
    bench.open()
    return bench.plan(message(**changes)).request


@pytest.mark.parametrize(
    ("reply_to", "caller"),
    [
        ("caller:kiosk-9b2f7c1e-0000-4000-8000-000000000001", "kiosk"),
        ("caller:9b2f7c1e-0000-4000-8000-000000000001", "9b2f7c1e-0000-4000-8000-000000000001"),
        ("caller:somebody", "somebody"),
    ],
)
def test_a_record_tells_the_request_that_is_being_handled(reply_to: str, caller: str) -> None:
    request = request_of(reply_to=reply_to, request_id="r-1", v=1, trace="t\nPRIORITY=0")
    with handling(request):
        found = sent(record())
    assert (found["DAEBUS_ACTION"], found["DAEBUS_REQUEST_ID"]) == ("restart", "r-1")
    assert found["DAEBUS_CALLER"] == caller
    assert found["DAEBUS_TRACE"] == "t\nPRIORITY=0"  # in a field that says its length
    assert found["PRIORITY"] == "6"
    assert float(found["DAEBUS_MS"]) > 0


def test_a_record_tells_the_request_of_a_browser() -> None:
    request = HttpRequest(read_head(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-ID: abc\r\n\r\n"), b"", "10.0.0.9:5000")
    with handling(request):
        found = sent(record())
    assert (found["DAEBUS_TRACE"], found["DAEBUS_CALLER"]) == ("abc", request.remote_address)


def test_a_listened_message_has_no_request() -> None:
    with handling(None):
        found = sent(record())
    assert "DAEBUS_ACTION" in found
    assert not {"DAEBUS_TRACE", "DAEBUS_REQUEST_ID", "DAEBUS_CALLER"} & set(found)


# --- the handler and its socket ---


class Journald:
    """journald's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def entries(self) -> list[dict[str, str]]:
        found = []
        while True:
            try:
                found.append(texts(self._socket.recv(1 << 20)))
            except BlockingIOError:
                return found

    def messages(self) -> list[str]:
        return [entry["MESSAGE"] for entry in self.entries()]

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    made = Journald(tmp_path / "socket")
    yield made
    made.close()


@pytest.fixture
def handler(journald: Journald) -> Iterator[JournalHandler]:
    made = JournalHandler("lamp")
    yield made
    made.close()


def test_each_record_is_a_datagram(handler: JournalHandler, journald: Journald) -> None:
    handler.handle(record("first", error=ValueError("why"), level=logging.ERROR))
    handler.handle(record("second\nline"))
    first, second = journald.entries()
    assert first["MESSAGE"] == "first\n  | ValueError: why"
    assert second["MESSAGE"] == "second\\nline"
    assert second["SYSLOG_IDENTIFIER"] == "lamp"


def test_last_words_go_to_standard_error(
    handler: JournalHandler, journald: Journald, capfd: pytest.CaptureFixture[str]
) -> None:
    """From a datagram of a process that has gone, journald cannot tell any more of which unit it was."""
    handler.handle(record("Service 'lamp' failed", level=logging.CRITICAL, extra={LAST: True}))
    assert journald.entries() == []
    assert capfd.readouterr().err == "<2>Service 'lamp' failed\n"


def test_the_largest_record_fits_into_a_datagram(handler: JournalHandler, journald: Journald) -> None:
    handler.handle(record("%s", "ä" * TEXT_LIMIT, extra={f"field_{number}": "ö" * 5000 for number in range(10)}))
    (entry,) = journald.entries()
    assert entry["FIELD_9"] == "ö" * FIELD_LIMIT


def test_a_journal_that_is_full_is_not_waited_for(handler: JournalHandler, journald: Journald) -> None:
    for number in range(2000):  # the kernel keeps a few hundred (net.unix.max_dgram_qlen)
        handler.handle(record("%d", number))
    taken = len(journald.entries())
    assert 0 < taken < 2000
    handler.handle(record("seen"))
    assert journald.messages() == [f"{2000 - taken} log lines were dropped: nobody read them", "seen"]
    handler.handle(record("again"))
    assert journald.messages() == ["again"]


def test_a_journal_that_is_restarted_gets_what_comes_then(
    handler: JournalHandler, journald: Journald, tmp_path: Path
) -> None:
    journald.close()
    handler.handle(record("lost"))
    handler.handle(record("lost too"))
    again = Journald(tmp_path / "socket")
    handler.handle(record("seen"))
    said, seen = again.entries()
    assert (said["MESSAGE"], seen["MESSAGE"]) == ("2 log lines were dropped: nobody read them", "seen")
    assert (said["PRIORITY"], said["SYSLOG_IDENTIFIER"]) == ("4", "lamp")
    again.close()


def test_a_record_that_cannot_be_written_does_not_fail_who_logs(handler: JournalHandler, journald: Journald) -> None:
    class Shy:
        def __str__(self) -> str:
            raise ValueError

    handler.handle(record("%d", "no number"))
    handler.handle(record(extra={"detail": Shy()}))
    handler.handle(record("next"))
    first, second, third = journald.entries()
    why = "%d format: a real number is required, not str"
    assert first["MESSAGE"] == f"A log call cannot be written (TypeError): {why}"
    assert (first["CODE_FILE"], first["PRIORITY"]) == ("/srv/file.py", "3")
    assert second["MESSAGE"] == "A log call cannot be written (ValueError): "
    assert third["MESSAGE"] == "next"


def test_of_very_many_fields_the_first_are_kept(handler: JournalHandler, journald: Journald) -> None:
    """So that a record fits into a datagram, however much a program has to say."""
    handler.handle(record(extra={f"field_{number}": "x" * 5000 for number in range(200)}))
    (entry,) = journald.entries()
    assert sum(name.startswith("FIELD_") for name in entry) == EXTRA_LIMIT


def test_the_error_id_of_a_failure_is_a_field(handler: JournalHandler, journald: Journald) -> None:
    """The one that the caller was told: `journalctl DAEBUS_ERROR_ID=...`."""
    with installed(handler):
        (answer,) = Bench().ask(fail)
    (entry,) = journald.entries()
    assert entry["DAEBUS_ERROR_ID"] == answer["error_id"]
    assert (entry["DAEBUS_ACTION"], entry["DAEBUS_REQUEST_ID"], entry["DAEBUS_CALLER"]) == ("act", "r", "someone")
    assert "  | ValueError: why" in entry["MESSAGE"]


def test_what_a_coroutine_logs_tells_its_request(handler: JournalHandler, journald: Journald) -> None:
    async def act() -> None:
        logger.warning("within")

    with installed(handler):
        Bench().ask(act)
    (entry,) = journald.entries()
    assert (entry["MESSAGE"], entry["DAEBUS_ACTION"]) == ("within", "act")


def fail() -> None:
    raise ValueError("why")


# --- installing ---


@contextmanager
def installed(*handlers: logging.Handler) -> Iterator[logging.Logger]:
    """The root logger with these handlers alone."""
    root = logging.getLogger()
    before, level = root.handlers, logger.level
    root.handlers = list(handlers)
    try:
        yield root
    finally:
        root.handlers = before
        logger.setLevel(level)


def chosen() -> type[logging.Handler]:
    """The handler that a service logs with."""
    with installed() as root:
        install("lamp", debug=False)
        (handler,) = root.handlers
        handler.close()
        return type(handler)


@pytest.fixture
def in_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd says that standard error leads to the journal (systemd.exec(5))."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")


@pytest.mark.usefixtures("journald", "in_the_journal")
def test_a_service_in_the_journal_speaks_to_it_directly() -> None:
    assert chosen() is JournalHandler


@pytest.mark.usefixtures("journald")
def test_a_service_whose_standard_error_leads_elsewhere_writes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert chosen() is StderrHandler


@pytest.mark.usefixtures("in_the_journal")
def test_where_there_is_no_journal_to_speak_to_lines_with_a_priority_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, say, whose standard error is the host's."""
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "none"))
    with installed() as root:
        install("lamp", debug=False)
        (handler,) = root.handlers
        assert isinstance(handler, StderrHandler)
        assert handler.encoded(record("text", level=logging.ERROR)) == b"<3>text\n"


@pytest.mark.usefixtures("in_the_journal")
def test_a_journal_that_takes_nothing_from_us_is_not_spoken_to(journald: Journald) -> None:
    """Its socket is there, and nobody listens; or a sandbox closes it to the service."""
    journald._socket.close()
    assert journald.path.exists()
    assert chosen() is StderrHandler


@pytest.mark.usefixtures("journald", "in_the_journal")
def test_a_program_that_has_set_up_logging_keeps_it() -> None:
    own = logging.NullHandler()
    with installed(own) as root:
        install("lamp", debug=False)
        assert root.handlers == [own]


def test_nothing_of_it_is_imported_before_it_is_needed() -> None:
    code = "import sys, daebus, daebus.log; sys.exit('daebus.journal' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
