"""What the live tests share: waiting, service processes, systemd's notify socket.

`wait_for` is the only place of the suite that sleeps. Time limits are multiples of MS, so that a slow machine
can stretch all of them at once: DAEBUS_TEST_PATIENCE=5.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import pytest

from daebus.redisserver import PrivateServer, Program, find_servers

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
PATIENCE = float(os.environ.get("DAEBUS_TEST_PATIENCE", "1"))
MS = 0.001 * PATIENCE


class NotInTime(AssertionError):
    """What was waited for did not happen."""


def wait_for(predicate: Callable[[], T], timeout: float = 5000 * MS, message: str | Callable[[], str] = "") -> T:
    """The first true value of `predicate()`; fails when there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            text = message() if callable(message) else message
            raise NotInTime(f"not true within {timeout:.1f} s: {text or predicate}")
        time.sleep(0.002)
    return value


def skip_or_fail(reason: str) -> NoReturn:
    """Something is missing here: a skip on a laptop, a failure where CI=true, where nothing may be."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def need_server(kind: str | None = None) -> Program:
    """The server program of this machine, or the one of this kind; without one the test is skipped."""
    for program in find_servers():
        if kind is None or program.kind == kind:
            return program
    skip_or_fail(f"no {kind or 'redis-server'} on this machine (make test installs it where it may)")


def private_server(*, port: int = -1, extra: Sequence[str] = ()) -> PrivateServer:
    """A server that is not started yet, on a unix socket and on a free port of 127.0.0.1."""
    return PrivateServer(need_server(), port=port, extra=extra)


class NotifySocket:
    """systemd's end of sd_notify: collects what services tell it."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="daebus-notify-")
        self.path = str(Path(self._directory) / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self._lines: list[str] = []

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def lines(self) -> list[str]:
        """Everything said so far: READY=1, STATUS=..., one assignment each."""
        while True:
            try:
                datagram = self._socket.recv(65536)
            except BlockingIOError:
                return self._lines
            self._lines.extend(datagram.decode().splitlines())

    def wait(self, line: str, timeout: float = 5000 * MS) -> None:
        wait_for(lambda: line in self.lines(), timeout, lambda: f"{line} among {self.lines()}")

    def close(self) -> None:
        self._socket.close()
        shutil.rmtree(self._directory)


class ServiceProcess:
    """A service script as a real process, started at once. Text is written into a file first.

        with ServiceProcess(script, redis_url=server.url) as service:
            service.wait_ready()

    `stop()` and `kill()` give the exit status, as subprocess does: -9 for SIGKILL. Leaving the block ends the
    process whatever it does; it does not check how.
    """

    def __init__(
        self,
        script: str | Path,
        *,
        redis_url: str | None = None,
        env: Mapping[str, str] | None = None,
        python: str | Path = sys.executable,
        args: Sequence[str] = (),
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="daebus-service-"))
        self._log = self._directory / "log"
        self.notify = NotifySocket()
        self.process = self._launch([str(python), str(self._file(script)), *args], redis_url, env or {})

    def _file(self, script: str | Path) -> Path:
        if isinstance(script, Path):
            return script
        path = self._directory / "service.py"
        path.write_text(textwrap.dedent(script), encoding="utf-8")
        return path

    def _launch(self, command: list[str], redis_url: str | None, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "NOTIFY_SOCKET": self.notify.path, **env}
        if redis_url is not None:
            environment["DAEBUS_REDIS_URL"] = redis_url
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"--- log of the service process ---\n{self.log()}\n")
        self.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """Everything it wrote to stdout and stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, timeout: float = 10000 * MS) -> ServiceProcess:
        """Until it sends READY=1; a process that ends instead fails at once, with its log."""
        wait_for(lambda: self._is_ready() or self._has_ended(), timeout, lambda: f"READY=1\n{self.log()}")
        if not self._is_ready():
            raise AssertionError(f"ended with status {self.process.returncode} before READY\n{self.log()}")
        return self

    def wait_log(self, text: str, timeout: float = 5000 * MS) -> None:
        wait_for(lambda: text in self.log(), timeout, lambda: f"{text!r} in the log\n{self.log()}")

    def wait(self, timeout: float = 15000 * MS) -> int:
        """Its exit status, when it ends by itself."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NotInTime(f"still running after {timeout:.1f} s\n{self.log()}") from None

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15000 * MS) -> int:
        self.send_signal(number)
        return self.wait(timeout)

    def kill(self) -> int:
        self.process.kill()
        return self.process.wait()

    def close(self) -> None:
        """Ends it by force if it still runs, and removes its files; its log is gone then."""
        if not self._has_ended():
            self.send_signal(signal.SIGCONT)
            self.kill()
        self.notify.close()
        shutil.rmtree(self._directory)

    def _is_ready(self) -> bool:
        return "READY=1" in self.notify.lines()

    def _has_ended(self) -> bool:
        return self.process.poll() is not None


def children_of(pid: int) -> list[int]:
    """The process ids of the children of one process, from /proc."""
    return [child for child, parent in _parents() if parent == pid]


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended; one that waits to be collected has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _parents() -> list[tuple[int, int]]:
    pairs = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        pairs.append((int(folder.name), int(stat.rpartition(")")[2].split()[1])))
    return pairs
