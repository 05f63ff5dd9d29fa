"""`daebus run`: services under development, started, shown, started again, and ended."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daebus import DaebusCaller
from daebus.redisserver import PrivateServer, answers
from tests.support import MS, ServiceProcess, children_of, is_running, need_server, wait_for

LIMIT = 20_000 * MS
COMMAND = "import sys\nfrom daebus.cli import main\nsys.exit(main())\n"

SERVICE = """
import os, subprocess, sys
from daebus import Daebus, logger

VERSION = 1
app = Daebus(__name__)

@app.action("version")
def version():
    return VERSION

@app.action("speak")
def speak():
    print("printed", flush=True)
    logger.warning("warned")
    return os.environ.get("NOTIFY_SOCKET")

@app.action("crash")
def crash():
    print("last words", end="", flush=True)
    os._exit(7)

@app.action("fork")
def fork():
    return subprocess.Popen(["sleep", "600"]).pid

app.run(service="NAME")
"""


class Development(ServiceProcess):
    """The command at work in a folder of the test."""

    def count(self, text: str) -> int:
        return self.log().count(text)

    def until(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.count(text) >= times, LIMIT, self.log)

    def family(self) -> list[int]:
        return children_of(self.pid)


@contextmanager
def running(*args: object, redis_url: str | None, env: dict[str, str] | None = None) -> Iterator[Development]:
    """The command; none of its children outlives it."""
    words = ["run", *map(str, args)]
    with Development(
        COMMAND, args=words, redis_url=redis_url, env={"PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    ) as it:
        family: list[int] = []
        try:
            yield it
        finally:
            family = it.family()
            if it.process.poll() is None:
                it.stop()
            wait_for(lambda: not any(map(is_running, family)), LIMIT, "left running")


def write(path: Path, version: int = 1) -> Path:
    """A script, put there at once and whole, as editors do."""
    text = SERVICE.replace("VERSION = 1", f"VERSION = {version}").replace("NAME", path.stem)
    return replace(path, text)


def replace(path: Path, text: str) -> Path:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    return new.rename(path)


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    return write(tmp_path / "lamp.py")


def call(server: PrivateServer, service: str, action: str) -> object:
    with DaebusCaller(service, redis_url=server.url, timeout=LIMIT) as caller:
        return caller.send_request(action)


def test_each_line_has_the_name_of_its_service(lamp: Path, shared_redis: PrivateServer, tmp_path: Path) -> None:
    folder = tmp_path / "panel"
    folder.mkdir()
    write(folder / "panel.py").rename(folder / "__main__.py")
    with running(lamp, folder, redis_url=shared_redis.url) as it:
        it.until(" is ready", 2)
        assert call(shared_redis, "lamp", "speak") is None
        assert call(shared_redis, "panel", "speak") is None
        for line in ("lamp  | printed\n", "panel | printed\n"):
            it.until(line)
        assert it.stop() == 0
        log = it.log()
    assert all(line.startswith(("lamp  | ", "panel | ", "daebus: ")) for line in log.splitlines()), log
    assert "WARNING warned" in log
    assert f"daebus: using the Redis at {shared_redis.url}\n" in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_all_of_it(lamp: Path, shared_redis: PrivateServer, number: int) -> None:
    with running(lamp, redis_url=shared_redis.url) as it:
        it.until(" is ready")
        assert it.stop(number) == 0
        assert "is stopping" in it.log()
        assert "Traceback" not in it.log()


def test_the_first_failure_ends_the_others_and_is_the_status(
    lamp: Path, shared_redis: PrivateServer, tmp_path: Path
) -> None:
    with running(lamp, write(tmp_path / "panel.py"), redis_url=shared_redis.url) as it:
        it.until(" is ready", 2)
        with DaebusCaller("panel", redis_url=shared_redis.url) as caller:
            caller.send_to_service({}, "crash")
        assert it.wait() == 7
        log = it.log()
    assert "panel | last words\n" in log
    assert "daebus: panel ended with status 7\n" in log
    assert "'lamp' is stopping" in log


def test_one_that_is_done_leaves_the_others_alone(lamp: Path, shared_redis: PrivateServer, tmp_path: Path) -> None:
    done = replace(tmp_path / "done.py", "print('done')")
    with running(lamp, done, redis_url=shared_redis.url) as it:
        it.until("daebus: done ended with status 0\n")
        it.until(" is ready")
        assert it.stop() == 0


def test_one_that_does_not_end_is_killed_at_the_second_signal(shared_redis: PrivateServer, tmp_path: Path) -> None:
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: print('no'))\nprint('up')\ntime.sleep(600)\n"
    with running(replace(tmp_path / "deaf.py", f"{deaf}time.sleep(600)"), redis_url=shared_redis.url) as it:
        it.until("deaf | up\n")
        it.send_signal(signal.SIGINT)
        it.until("deaf | no\n")
        it.until("daebus: waiting for deaf, which still does something, 12 s at most; Ctrl-C again kills it\n")
        assert it.stop(signal.SIGINT) == 137
        assert it.count("daebus: waiting for ") == 1


def test_what_a_service_started_ends_with_it(lamp: Path, shared_redis: PrivateServer) -> None:
    with running(lamp, redis_url=shared_redis.url) as it:
        it.until(" is ready")
        pid = call(shared_redis, "lamp", "fork")
        assert isinstance(pid, int)
        assert is_running(pid)
        assert it.stop() == 0
        assert not is_running(pid)


def test_nothing_outlives_a_command_that_is_killed(lamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its private Redis neither."""
    need_server()
    if answers(("localhost", 6379)):
        pytest.skip("a Redis runs on this machine's port 6379, so the command would use that")
    monkeypatch.delenv("DAEBUS_REDIS_URL", raising=False)
    with running(lamp, redis_url=None) as it:
        it.until(" is ready")
        assert "daebus: no Redis is running here: started a private one, " in it.log()
        family = it.family()
        assert len(family) == 2
        it.kill()
        wait_for(lambda: not any(map(is_running, family)), LIMIT)


# --- reload ---


def test_a_service_is_started_again_when_its_files_change(
    lamp: Path, shared_redis: PrivateServer, tmp_path: Path
) -> None:
    panel = write(tmp_path / "panel.py")
    with running("--reload", lamp, panel, redis_url=shared_redis.url) as it:
        it.until(" is ready", 2)
        write(lamp, 2)
        it.until("'lamp' is ready", 2)
        assert call(shared_redis, "lamp", "version") == 2
        assert it.count("'panel' is ready") == 1
        replace(tmp_path / "both.py", "X = 1")
        it.until("'lamp' is ready", 3)
        it.until("'panel' is ready", 2)
        assert it.stop() == 0


def test_a_syntax_error_is_waited_for(lamp: Path, shared_redis: PrivateServer) -> None:
    """The old code goes on meanwhile."""
    with running("--reload", lamp, redis_url=shared_redis.url) as it:
        it.until(" is ready")
        replace(lamp, "def x(:\n")
        it.until("lamp.py:1: invalid syntax; lamp goes on as it was until that is mended\n")
        assert call(shared_redis, "lamp", "version") == 1
        write(lamp, 3)
        it.until(" is ready", 2)
        assert call(shared_redis, "lamp", "version") == 3
        assert it.stop() == 0


def test_a_crashed_service_waits_for_a_change(lamp: Path, shared_redis: PrivateServer) -> None:
    with running("--reload", lamp, redis_url=shared_redis.url) as it:
        it.until(" is ready")
        replace(lamp, "1 / 0\n")
        it.until("ZeroDivisionError")
        it.until("daebus: lamp ended with status 1; it is started again when a file changes\n")
        replace(lamp, "def x(:\n")
        it.until("invalid syntax; lamp waits until that is mended\n")
        write(lamp, 4)
        it.until(" is ready", 2)
        assert it.stop() == 0


# --- terminal, pipe, wrong usage ---


def test_a_terminal_gets_colours(lamp: Path, shared_redis: PrivateServer) -> None:
    terminal, other = pty.openpty()
    process = command("run", str(lamp), redis_url=shared_redis.url, stdout=other)
    try:
        os.close(other)
        seen = b""
        while b"is ready" not in seen:
            seen += os.read(terminal, 4096)
        assert seen.startswith(b"\x1b[36mlamp | \x1b[0m\x1b[2m")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.communicate()
        os.close(terminal)


def test_a_closed_pipe_ends_all_of_it(lamp: Path, shared_redis: PrivateServer) -> None:
    process = command("run", str(lamp), redis_url=shared_redis.url, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"is ready" in process.stdout.readline()
        family = children_of(process.pid)
        process.stdout.close()
        with DaebusCaller("lamp", redis_url=shared_redis.url) as caller:
            caller.send_to_service({}, "speak")
        assert process.wait(LIMIT) == 141
        assert not any(map(is_running, family))
    finally:
        process.kill()
        process.wait()


def command(*words: str, redis_url: str, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "daebus", *words],
        env={**os.environ, "DAEBUS_REDIS_URL": redis_url, "TERM": "xterm"},
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("words", [(), ("nothing.py",), (".",), ("lamp.py", "lamp.py"), ("lamp.py", "--redis", "x")])
def test_wrong_usage_is_status_2(lamp: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daebus", "run", *words], cwd=lamp.parent, capture_output=True, text=True, timeout=LIMIT,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(("daebus: usage: ", "daebus: configuration: "))
