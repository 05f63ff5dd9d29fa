"""Servers and services of one measurement: started for it, on a private socket, and ended with it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .environment import SOURCES, Environment

SERVICE = "bench"
PROTOTYPES = ("pool", "inline")
START_SECONDS = 10.0
STOP_SECONDS = 3.0
POLL_SECONDS = 0.001
"""Between two looks at whether a process is ready; the error of every start time."""


class MeasurementError(Exception):
    """A measurement did not come to a figure; the text says why."""


class Process:
    """A child with its output in files, so that its last words are there when it fails."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.name = name or Path(command[0]).name
        self.directory = directory
        self.log = directory / f"{self.name}.log"
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**clean_environment(), **(environment or {})},
                cwd=directory,
                process_group=0,
            )
        self.pid = self._child.pid

    def check_running(self) -> None:
        if self._child.poll() is not None:
            raise MeasurementError(f"{self.name} ended with status {self._child.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def wait_for_ready_line(self) -> None:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], START_SECONDS)
        if not ready or self._child.stdout.readline().strip() != b"ready":
            raise MeasurementError(f"{self.name} was not ready within {START_SECONDS:.0f} s: {self.last_words()}")

    def result(self, seconds: float) -> str:
        """Everything on standard output of a child that ends by itself."""
        try:
            out, _ = self._child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{self.name} did not end within {seconds:.0f} s: {self.last_words()}") from error
        if self._child.returncode != 0:
            raise MeasurementError(f"{self.name} failed: {self.last_words()}")
        return out.decode()

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.send_signal(signal.SIGKILL)
                self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


def clean_environment() -> dict[str, str]:
    """Nothing of the caller's Python, Redis or systemd settings reaches what is measured."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8"}


@contextmanager
def running(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.stop()


def wait_until(is_true: Callable[[], bool], process: Process, what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_true():
        process.check_running()
        if time.monotonic() > deadline:
            raise MeasurementError(f"{what} within {START_SECONDS:.0f} s: {process.last_words()}")
        time.sleep(POLL_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- Redis ----


@dataclass
class Redis:
    """A private server: always on a unix socket, and on loopback for upstream, which knows nothing else."""

    directory: Path
    socket_path: str
    port: int

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    def subscribers(self, channel: str) -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(self.socket_path)
            connection.sendall(f"PUBSUB NUMSUB {channel}\r\n".encode())
            reply = b""
            while reply.count(b"\r\n") < 4:
                reply += connection.recv(4096)
            return int(reply.split(b"\r\n")[3].lstrip(b":"))

    def answers(self) -> bool:
        try:
            return self.subscribers("nobody") == 0
        except (OSError, IndexError, ValueError):
            return False


@contextmanager
def redis_server(environment: Environment, tcp: bool) -> Iterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="daebus-bench-") as name:
        directory = Path(name)
        redis = Redis(directory, f"{name}/redis.sock", free_port() if tcp else 0)
        options = f"--port {redis.port} --bind 127.0.0.1 --unixsocket {redis.socket_path} --unixsocketperm 700 "
        options += f"--appendonly no --daemonize no --dir {name}"
        command = [environment["redis"], *options.split(), "--save", ""]
        with running(Process(command, directory, name="redis")) as process:
            wait_until(redis.answers, process, "Redis does not answer")
            yield redis


# ---- services ----


def service_command(environment: Environment, subject: str, redis: Redis) -> list[str]:
    """How a service is started; all of them have the same name on the bus and the same actions."""
    if subject == "limit":
        return [environment["load"], "echo", redis.socket_path, SERVICE]
    if subject in PROTOTYPES:
        script = str(SOURCES / "subjects/prototypes.py")
        return [environment["prototypes"], script, subject, redis.socket_path, SERVICE]
    where = [str(redis.port)] if subject == "upstream" else []
    return [environment[subject], str(SOURCES / "subjects/service.py"), SERVICE, *where]


def start_service(
    environment: Environment, subject: str, redis: Redis, extra: Mapping[str, str] | None = None
) -> Process:
    command = service_command(environment, subject, redis)
    return Process(command, redis.directory, {"DAEBUS_REDIS_URL": redis.url, **(extra or {})}, name=subject)


@contextmanager
def bus_service(environment: Environment, subject: str) -> Iterator[tuple[Redis, Process]]:
    """A fresh Redis and a fresh service that has subscribed."""
    with (
        redis_server(environment, tcp=subject == "upstream") as redis,
        running(start_service(environment, subject, redis)) as service,
    ):
        wait_until(lambda: redis.subscribers(SERVICE) > 0, service, f"{subject} does not subscribe")
        yield redis, service


DBUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>
"""


@contextmanager
def dbus_service(environment: Environment) -> Iterator[tuple[str, Process]]:
    """A private message bus with the dbus-fast service on it; gives the bus' address."""
    with tempfile.TemporaryDirectory(prefix="daebus-bench-") as name:
        directory, path = Path(name), Path(name, "bus")
        (directory / "bus.conf").write_text(DBUS_CONFIGURATION.format(path=path))
        command = [environment["dbus"], f"--config-file={name}/bus.conf", "--nofork", "--nopidfile"]
        with running(Process(command, directory)) as broker:
            wait_until(path.exists, broker, "dbus-daemon does not listen")
            address = f"unix:path={path}"
            with peer_service(environment, "dbus", address, directory) as service:
                yield address, service


@contextmanager
def nats_service(environment: Environment) -> Iterator[tuple[str, Process]]:
    """A private server (on loopback: it knows no unix sockets) with the micro service; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="daebus-bench-") as name:
        port = free_port()
        command = [environment["nats-server"], "--addr", "127.0.0.1", "--port", str(port)]
        with running(Process(command, Path(name))) as broker:
            wait_until(lambda: accepts(port), broker, "nats-server does not listen")
            url = f"nats://127.0.0.1:{port}"
            with peer_service(environment, "nats", url, Path(name)) as service:
                yield url, service


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def peer_service(environment: Environment, kind: str, where: str, directory: Path) -> Iterator[Process]:
    command = [environment["peers"], str(SOURCES / "subjects/peers.py"), kind, where]
    with running(Process(command, directory, name=f"{kind}-service")) as service:
        service.wait_for_ready_line()
        yield service
