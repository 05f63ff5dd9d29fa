"""What is measured of the doors for a browser: HTTP under wrk, WebSocket under the C load, memory, and starting.

Times are in microseconds for requests and milliseconds for starts, rates a second, memory in MB of 1000 kB.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from .environment import SOURCES, Environment
from .processes import START_SECONDS, MeasurementError, Process, running, wait_until
from .scenes import (
    LIMIT_SECONDS,
    Figures,
    Scene,
    Settings,
    is_ready,
    memory,
    notify_socket,
    result_of,
    threads_of,
)
from .web import (
    DAEBUS,
    Server,
    check_requests,
    check_socket,
    crowd,
    open_request,
    open_socket,
    starting_server,
    wait_for_answer,
    web_server,
)

WARM_UP_REQUESTS = 50
CROWD = 500
LAZY_MODULES = ("h11", "wsproto")
IMPORT_REPORT = {"PYTHONPROFILEIMPORTTIME": "1"}


def needs(subject: str, *programs: str) -> tuple[str, ...]:
    return (*programs, *(("redis", subject) if subject in DAEBUS else ("web",)))


# ---- requests and messages ----


def requests(subject: str, kind: str, connections: int) -> Scene:
    """So many keep-alive connections under wrk; `kind` is one of those in requests.lua.

    Upstream closes each connection after its answer, so it has a load of its own: see closing.c.
    """
    load, run_load = ("closing", run_closing) if subject == "upstream" else ("wrk", run_wrk)

    def measure(environment: Environment, settings: Settings) -> Figures:
        with web_server(environment, subject, "http") as server:
            check_requests(server.ports.http, WARM_UP_REQUESTS)
            figures = run_load(environment[load], server, kind, connections, settings.wrk_seconds)
            check_requests(server.ports.http)
            return figures

    return Scene(measure, needs(subject, load))


def run_wrk(wrk: str, server: Server, kind: str, connections: int, seconds: int) -> Figures:
    path = "/reading" if kind == "get" else "/echo"
    url = f"http://127.0.0.1:{server.ports.http}{path}"
    options = ["--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command = [wrk, *options, "--script", str(SOURCES / "requests.lua"), url, "--", kind]
    with running(Process(command, server.process.directory)) as load:
        figures: Figures = json.loads(load.result(LIMIT_SECONDS).strip().splitlines()[-1])
    if not figures["count"] or figures["refused"] or figures["broken"]:
        raise MeasurementError(f"{server.process.name}: not all requests were served: {figures}")
    return figures


def run_closing(program: str, server: Server, kind: str, connections: int, seconds: int) -> Figures:
    command = [program, str(server.ports.http), kind, str(connections), str(seconds)]
    return result_of(Process(command, server.process.directory))


def messages(subject: str, clients: int) -> Scene:
    """The C load with so many WebSocket clients, each with one message in flight."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with web_server(environment, subject) as server:
            load = [environment["sockets"], str(server.ports.sockets), str(clients), str(settings.call_seconds)]
            figures = result_of(Process(load, server.process.directory))
            server.process.check_running()
            return figures

    return Scene(measure, needs(subject, "sockets"))


# ---- memory ----


def doors(subject: str, kind: str) -> Scene:
    """An idle service with these doors beside the same without: in all, what it is more, and what after first use."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with web_server(environment, subject, "none") as server:
            without = settled(server, settings)
        with web_server(environment, subject, kind) as server:
            idle = settled(server, settings)
            check_requests(server.ports.http)
            if kind == "sockets":
                with open_socket(server.ports.sockets) as connection:
                    check_socket(connection)
            used = settled(server, settings)
        return {**idle, **more("more", idle, without), **more("used", used, without)}

    return Scene(measure, needs(subject), once=True)


def idle_crowd(subject: str, kind: str) -> Scene:
    """A server before and after 500 clients came that do nothing."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with web_server(environment, subject, "http" if kind == "requests" else "sockets") as server:
            before = settled(server, settings)
            open_one, port = {
                "requests": (open_request, server.ports.http),
                "sockets": (open_socket, server.ports.sockets),
            }[kind]
            with crowd(open_one, port, CROWD):
                after = settled(server, settings)
            return {**after, **more("more", after, before)}

    return Scene(measure, needs(subject), once=True)


def settled(server: Server, settings: Settings) -> Figures:
    time.sleep(settings.settle_seconds)
    server.process.check_running()
    return {**memory(server.process.pid), "threads": threads_of(server.process.pid)}


def more(name: str, after: Figures, before: Figures) -> Figures:
    return {f"{name}_{figure}": after[figure] - before[figure] for figure in ("rss", "uss")}


# ---- starting ----


def lazy_modules() -> Scene:
    """How many modules of the parsers are imported by `import daebus`, and by a service without doors."""

    def measure(environment: Environment, settings: Settings) -> Figures:
        with tempfile.TemporaryDirectory() as directory:
            bare = Process([environment["ours"], "-c", "import daebus"], Path(directory), IMPORT_REPORT)
            with running(bare):
                bare.result(START_SECONDS)
                by_import = lazily_imported(bare)
        with starting_server(environment, "ours", "none", IMPORT_REPORT) as server:
            time.sleep(settings.settle_seconds)
            return {"modules": by_import + lazily_imported(server.process)}

    return Scene(measure, needs("ours"), once=True)


def lazily_imported(process: Process) -> int:
    """From the interpreter's own report: `import time: self | cumulative | name`."""
    lines = [line.split("|") for line in process.log.read_text(errors="replace").splitlines()]
    names = [words[2].strip() for words in lines if len(words) == 3 and words[0].startswith("import time:")]
    if "daebus" not in names:
        raise MeasurementError("the interpreter did not say what it imports")
    return sum(name.split(".")[0] in LAZY_MODULES for name in names)


def web_start(subject: str) -> Scene:
    """Milliseconds from exec until GET is answered, and for ours until it says READY=1."""

    def measure(environment: Environment, _settings: Settings) -> Figures:
        with (
            tempfile.TemporaryDirectory() as directory,
            notify_socket(Path(directory)) as (path, told),
            starting_server(environment, subject, "http", {"NOTIFY_SOCKET": path}) as server,
        ):
            wait_for_answer(server)
            figures = {"answer": (time.monotonic() - server.started) * 1000}
            if subject == "ours":
                wait_until(lambda: is_ready(told), server.process, "no READY=1")
                figures["ready"] = (time.monotonic() - server.started) * 1000
            return figures

    return Scene(measure, needs(subject))
