"""The log: one record, one line; nothing in it can be forged; nobody waits for it."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import log
from daebus.log import (
    Budget,
    LineFormatter,
    Seldom,
    StderrHandler,
    get_logger,
    install,
    logger,
    one_line,
    set_log_level,
)

any_text = st.text(alphabet=st.characters(), max_size=60)
STYLES = ("journal", "terminal", "file")


def record(
    text: str, *arguments: object, level: int = logging.INFO, error: BaseException | None = None
) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("daebus", level, "file.py", 1, text, arguments, exc_info)


@given(any_text)
def test_any_text_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert line.splitlines() in ([line], [])


@given(st.text(alphabet=st.characters(whitelist_categories=["L", "N", "P", "S"])))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("\r\t\0", "\\r\\t\\x00"), ("\u2028\ud800", "\\u2028\\ud800")],
)
def test_control_characters_are_written_out(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize("style", STYLES)
@given(text=any_text)
def test_a_record_is_one_line_whatever_its_text(style: str, text: str) -> None:
    line = LineFormatter(style).format(record("%s", text))
    assert len(line.splitlines()) == 1
    assert line.count("\x1b") == (4 if style == "terminal" else 0)


@pytest.mark.parametrize("style", STYLES)
@given(text=any_text)
def test_every_line_of_a_traceback_is_marked_as_one(style: str, text: str) -> None:
    """An error's own text may look like a log line; it stands behind a mark that no line of the log begins with."""
    formatter = LineFormatter(style)
    first, *rest = formatter.format(record("it failed", error=ValueError(text))).split("\n")
    before = first[: first.index("it failed")]
    assert all(line.startswith((f"{before}  | ", before[:2])) for line in rest)
    assert all("  | " in line for line in rest)
    assert rest


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (5, 7)],
)
def test_the_journal_gets_a_priority(level: int, priority: int) -> None:
    assert LineFormatter("journal").format(record("text", level=level)) == f"<{priority}>text"


def test_a_priority_cannot_be_forged() -> None:
    """The journal takes a prefix at the beginning of a line for the sender's own."""
    lines = LineFormatter("journal").format(record("%s", "x\n<0>panic", error=ValueError("y\n<0>panic"))).split("\n")
    assert all(line.startswith("<6>") for line in lines)


def test_a_file_gets_the_time_and_the_level() -> None:
    line = LineFormatter("file").format(record("text", level=logging.WARNING))
    stamp, level, text = line.split()
    assert (level, text, stamp[4], stamp[10], stamp[-5] in "+-") == ("WARNING", "text", "-", "T", True)


def test_a_terminal_gets_colours() -> None:
    assert "\033[31mtext\033[0m" in LineFormatter("terminal").format(record("text", level=logging.ERROR))


# --- writing without waiting ---


class Pipe:
    """A pipe as standard error, whose reading end we hold."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.handler = StderrHandler(self.write_end)
        self.handler.setFormatter(logging.Formatter("%(message)s"))

    def log(self, text: str, *arguments: object) -> None:
        self.handler.handle(record(text, *arguments))

    def fill(self) -> None:
        os.set_blocking(self.write_end, False)
        try:
            while True:
                os.write(self.write_end, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(self.write_end, True)

    def drain(self) -> bytes:
        data = b""
        while True:
            try:
                part = os.read(self.read_end, 1 << 20)
            except BlockingIOError:
                return data
            if not part:
                return data
            data += part

    def close_reader(self) -> None:
        os.close(self.read_end)
        self.read_end = -1

    def close(self) -> None:
        for descriptor in (self.read_end, self.write_end):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_a_record_is_written_at_once(pipe: Pipe) -> None:
    pipe.log("first")
    pipe.log("größe \ud800")
    assert pipe.drain() == "first\ngröße \\ud800\n".encode()


def test_a_full_pipe_is_not_waited_for_and_what_it_missed_is_counted(pipe: Pipe) -> None:
    pipe.fill()
    for _ in range(3):
        pipe.log("lost")
    assert set(pipe.drain()) == {ord("x")}
    pipe.log("seen")
    assert pipe.drain() == b"3 log lines were dropped: nobody read them\nseen\n"
    pipe.log("again")
    assert pipe.drain() == b"again\n"


def test_a_record_that_is_larger_than_the_pipe_is_not_waited_for(pipe: Pipe) -> None:
    capacity = fcntl.fcntl(pipe.write_end, fcntl.F_GETPIPE_SZ)
    pipe.log("y" * (2 * capacity))
    pipe.drain()
    pipe.log("seen")
    assert pipe.drain().endswith(b"1 log lines were dropped: nobody read them\nseen\n")


def test_a_pipe_that_nobody_reads_any_more_is_no_error(pipe: Pipe) -> None:
    pipe.close_reader()
    pipe.log("into the void")
    pipe.log("again")


def test_a_closed_descriptor_is_no_error(pipe: Pipe) -> None:
    os.close(pipe.write_end)
    pipe.write_end = -1
    pipe.log("into the void")


def test_a_file_gets_everything(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        handler = StderrHandler(file.fileno())
        for text in ("short", "z" * 100_000):
            handler.handle(record(text))
    assert path.read_text() == f"short\n{'z' * 100_000}\n"


def test_a_log_call_with_wrong_arguments_does_not_fail(pipe: Pipe) -> None:
    pipe.log("%d", "no number")
    pipe.log("next")
    assert pipe.drain() == (
        b"A log call cannot be written (TypeError): %d format: a real number is required, not str\nnext\n"
    )


def test_threads_do_not_mix_their_lines(pipe: Pipe) -> None:
    fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, 1 << 20)

    def write() -> None:
        for _ in range(100):
            pipe.log("a" * 50)

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pipe.drain() == (b"a" * 50 + b"\n") * 400


# --- installing ---


@contextmanager
def bare_root(*own: logging.Handler) -> Iterator[logging.Logger]:
    """The root logger as a program has it that has set up nothing, or has given our logger a handler of its own."""
    root, root_handlers, handlers, level = (
        logging.getLogger(),
        logging.getLogger().handlers,
        logger.handlers,
        logger.level,
    )
    root.handlers = []
    logger.handlers = [*handlers, *own]
    try:
        yield root
    finally:
        root.handlers, logger.handlers = root_handlers, handlers
        logger.setLevel(level)


def test_the_log_goes_to_standard_error_unless_it_goes_there_already() -> None:
    with bare_root() as root:
        install("lamp", debug=False)
        (handler,) = root.handlers
        assert isinstance(handler, StderrHandler)
        assert isinstance(handler.formatter, LineFormatter)
        assert logger.level == logging.INFO
        install("lamp", debug=True)
        assert root.handlers == [handler]
        assert logger.level == logging.DEBUG


def test_a_program_that_has_set_up_logging_keeps_it() -> None:
    with bare_root(logging.StreamHandler(io.StringIO())) as root:
        install("lamp", debug=False)
        assert root.handlers == []


def test_without_standard_error_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with bare_root() as root:
        install("lamp", debug=False)
        assert root.handlers == []


def test_the_journal_is_known_by_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert log._style() == "journal"
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert log._style() in ("terminal", "file")


def test_loggers_and_levels() -> None:
    assert get_logger() is logger
    assert get_logger("part").name == "daebus.part"
    with bare_root():
        set_log_level(logging.ERROR)
        assert logger.level == logging.ERROR


# --- rates ---


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(log, "monotonic", made)
    return made


def test_the_first_of_many_alike_is_logged_and_then_one_a_minute(clock: Clock) -> None:
    seldom = Seldom()
    assert seldom.take("key") == 0
    clock.now += 59.9
    assert [seldom.take("key") for _ in range(3)] == [None] * 3
    assert seldom.take("other") == 0
    clock.now += 0.2
    assert seldom.take("key") == 3
    clock.now += 60.0
    assert seldom.take("key") == 0


def test_those_that_were_kept_quiet_are_counted_in_the_text(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom()
    for _ in range(3):
        seldom.log(logging.WARNING, "key", "100 % of it")
    clock.now += 60.0
    seldom.log(logging.WARNING, "key", "100 % of it")
    assert caplog.messages == ["100 % of it", "100 % of it (and 2 more like it before)"]


def test_keys_without_end_are_few_lines(clock: Clock) -> None:
    """The keys too are chosen by outsiders."""
    seldom = Seldom()
    taken = [number for number in range(10_000) if seldom.take(number) is not None]
    assert len(taken) == Seldom.BURST
    clock.now += 1 / Seldom.RATE
    assert seldom.take("next") == 10_000 - Seldom.BURST  # all those that were not said
    assert seldom.take("one more") is None


def test_keys_without_end_are_forgotten(clock: Clock) -> None:
    seldom = Seldom()
    for number in range(2 * Seldom.KEYS):
        clock.now += 1 / Seldom.RATE
        assert seldom.take(number) == 0
    assert len(seldom._seen) == Seldom.KEYS
    assert seldom.take(2 * Seldom.KEYS - 1) is None


def test_a_budget_is_spent_and_comes_back(clock: Clock) -> None:
    budget = Budget(burst=3, rate=2)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [budget.take() for _ in range(2)] == [True, False]
    clock.now += 1e6
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
