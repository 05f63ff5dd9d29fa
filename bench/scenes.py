"""What is measured: each scene starts what it needs, loads it, and gives its figures.

Times are in microseconds for calls and milliseconds for starts, rates a second, memory in MB of 1000 kB.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .environment import SOURCES, Environment
from .processes import (
    PROTOTYPES,
    SERVICE,
    START_SECONDS,
    MeasurementError,
    Process,
    Redis,
    bus_service,
    clean_environment,
    dbus_service,
    nats_service,
    redis_server,
    running,
    start_service,
    wait_until,
)

Figures = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How long one measurement takes; the default run and the quick one."""

    rounds: int = 5
    call_seconds: float = 1.0
    wrk_seconds: int = 1
    broadcasts: int = 50_000
    imports: int = 5
    settle_seconds: float = 2.0
    watch_seconds: float = 10.0
    total_seconds: float = 1500.0


QUICK = Settings(
    rounds=2,
    call_seconds=0.4,
    broadcasts=20_000,
    imports=3,
    settle_seconds=1.0,
    watch_seconds=4.0,
    total_seconds=420.0,
)

Measure = Callable[[Environment, Settings], Figures]


@dataclass(frozen=True)
class Scene:
    """One contender under one load."""

    measure: Measure
    needs: tuple[str, ...]
    once: bool = False
    """Whether one round is enough: what takes long and hardly varies."""


LIMIT_SECONDS = 45.0
"""No load runs longer, whatever happens; upstream needs 4 s for its 50,000 broadcasts."""


def run_load(environment: Environment, redis: Redis, *arguments: str) -> Figures:
    mode, *rest = arguments
    return result_of(Process([environment["load"], mode, redis.socket_path, SERVICE, *rest], redis.directory))


def result_of(load: Process) -> Figures:
    with running(load):
        figures: Figures = json.loads(load.result(LIMIT_SECONDS))
        return figures


# ---- the C load ----


def calls(subject: str, echoes: int, slow: int = 0, action: str = "nap") -> Scene:
    """`echoes` callers in C of a fast action, beside `slow` callers of a slow one, which are not counted."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with bus_service(environment, subject) as (redis, service):
            figures = run_load(environment, redis, "calls", str(echoes), str(slow), action, str(settings.call_seconds))
            service.check_running()
            return figures

    return Scene(measure, needs("redis", "load", subject))


def broadcasts(subject: str) -> Scene:
    """A burst of messages of 100 bytes from C: from the first publish to the last that the handler saw."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with bus_service(environment, subject) as (redis, service):
            wait_for_listener(redis)
            figures = run_load(environment, redis, "broadcast", "bench.broadcast", str(settings.broadcasts))
            if figures["lost"]:
                lost = f"{figures['lost']:.0f} of {settings.broadcasts} broadcasts were lost"
                raise MeasurementError(f"{lost}; the service's last words: {service.last_words()}")
            return figures

    return Scene(measure, needs("redis", "load", subject))


def wait_for_listener(redis: Redis) -> None:
    deadline = time.monotonic() + START_SECONDS
    while redis.subscribers("bench.broadcast") == 0:
        if time.monotonic() > deadline:
            raise MeasurementError("the service does not listen to broadcasts")
        time.sleep(0.001)


def needs(*names: str) -> tuple[str, ...]:
    """What of the set-up these stand for; the limit is the C load itself."""
    return tuple("prototypes" if name in PROTOTYPES else name for name in names if name != "limit")


# ---- callers in Python ----


def callers(subject: str, kind: str, count: int) -> Scene:
    """`count` callers (threads, tasks or bare) in one process, from the same environment as the service."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with bus_service(environment, subject) as (redis, _service):
            where = {"upstream": str(redis.port), "inline": redis.socket_path}.get(subject, "-")
            python = environment["prototypes" if subject in PROTOTYPES else subject]
            command = callers_command(python, kind, count, settings, where)
            return result_of(Process(command, redis.directory, {"DAEBUS_REDIS_URL": redis.url}, name="callers"))

    return Scene(measure, needs("redis", subject))


def callers_command(python: str, kind: str, count: int, settings: Settings, where: str) -> list[str]:
    return [python, str(SOURCES / "subjects/callers.py"), kind, str(count), str(settings.call_seconds), where]


def peer_callers(kind: str, count: int) -> Scene:
    """Tasks on one asyncio loop, over dbus-fast and dbus-daemon or over nats-py and nats-server."""
    start, server = {"dbus": (dbus_service, "dbus"), "nats": (nats_service, "nats-server")}[kind]

    def measure(environment: Environment, settings: Settings) -> Figures:
        with start(environment) as (where, _service), tempfile.TemporaryDirectory() as directory:
            command = callers_command(environment["peers"], kind, count, settings, where)
            return result_of(Process(command, Path(directory), name="callers"))

    return Scene(measure, (server, "peers"))


# ---- an idle service ----


def footprint(subject: str) -> Scene:
    """Resident and unique memory (MB of 1000 kB, as /proc counts), threads, and wake-ups a second at idle."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with idle(environment, subject) as process:
            time.sleep(settings.settle_seconds)
            switches = voluntary_switches(process.pid)
            time.sleep(settings.watch_seconds)
            wakes = (voluntary_switches(process.pid) - switches) / settings.watch_seconds
            process.check_running()
            return {
                **memory(process.pid),
                "threads": threads_of(process.pid),
                "wakes": wakes,
            }

    servers = {"bare": ("prototypes",), "dbus": ("dbus", "peers")}
    return Scene(measure, servers.get(subject, ("redis", subject)), once=True)


@contextmanager
def idle(environment: Environment, subject: str) -> Iterator[Process]:
    if subject == "bare":
        command = [environment["prototypes"], "-c", "import signal; signal.pause()"]
        with tempfile.TemporaryDirectory() as name, running(Process(command, Path(name))) as process:
            yield process
    else:
        start = dbus_service(environment) if subject == "dbus" else bus_service(environment, subject)
        with start as (_where, process):
            yield process


def memory(pid: int) -> Figures:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    return {
        "rss": kilobytes["Rss"] / 1000,
        "uss": (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1000,
    }


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def voluntary_switches(pid: int) -> int:
    """How often its threads have gone to sleep so far; at idle that is how often they woke."""
    statuses = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
    return sum(int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for status in statuses)


# ---- starting ----


def import_time(subject: str) -> Scene:
    """Milliseconds for an interpreter to start, import the package and end; the bare one imports nothing."""
    statement, venv = ("pass", "prototypes") if subject == "bare" else ("import daebus", subject)

    def measure(environment: Environment, settings: Settings) -> Figures:
        return {"ms": statistics.median(run_python(environment[venv], statement) for _ in range(settings.imports))}

    return Scene(measure, (venv,))


def run_python(python: str, statement: str) -> float:
    started = time.monotonic()
    subprocess.run(
        [python, "-c", statement],
        env=clean_environment(),
        cwd="/",
        check=True,
        timeout=START_SECONDS,
        capture_output=True,
    )
    return (time.monotonic() - started) * 1000


def start_time(subject: str) -> Scene:
    """Milliseconds from exec until the service's subscription shows in Redis, and until it says READY=1."""

    def measure(environment: Environment, _settings: Settings) -> Figures:
        with (
            redis_server(environment, tcp=subject == "upstream") as redis,
            notify_socket(redis.directory) as (path, told),
        ):
            started = time.monotonic()
            with running(start_service(environment, subject, redis, {"NOTIFY_SOCKET": path})) as service:
                wait_until(lambda: redis.subscribers(SERVICE) > 0, service, f"{subject} does not subscribe")
                figures = {"subscribed": (time.monotonic() - started) * 1000}
                if subject == "ours":
                    wait_until(lambda: is_ready(told), service, "no READY=1")
                    figures["ready"] = (time.monotonic() - started) * 1000
                return figures

    return Scene(measure, ("redis", subject))


@contextmanager
def notify_socket(directory: Path) -> Iterator[tuple[str, socket.socket]]:
    """Plays systemd's side."""
    path = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(path)
        told.setblocking(False)
        yield path, told


def is_ready(told: socket.socket) -> bool:
    try:
        return b"READY=1" in told.recv(4096).split(b"\n")
    except BlockingIOError:
        return False
