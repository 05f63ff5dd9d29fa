"""What systemd is told in a service's life, and what it makes of it: start, reload, failure, stop."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from daebus import DaebusCaller, DaebusError
from daebus.errors import Stopping
from tests.support import MS, wait_for
from tests.system.container import REDIS_CONFIGURATION, REDIS_SOCKET, Container
from tests.system.web import get

PORT = 8400
PREPARATION_SECONDS = 1.0
RELOAD_SECONDS = 1.0
REDIS_AFTER_SECONDS = 6  # three times the TimeoutStartSec= of the unit that waits for it
STOP_SECONDS = 5000 * MS  # the promise
STUCK_STOP_SECONDS = 10_000 * MS  # the promise for a handler that never ends
STATUS_SECONDS = 10_000 * MS  # how old the status may be while there is work
STATES = 1200  # requests
NOTIFY_RELOAD = 253  # systemd's version from which on Type=notify-reload is known

PROGRAM = """
import os, socket, subprocess, sys, threading, time
from daebus import Daebus, DaebusHttp, logger, request
app = Daebus(__name__)
state = {{"reloads": 0}}

@app.action("pid")
def pid():
    return os.getpid()

@app.action("state")
def say_state():
    return state

@app.action("sleep")
def sleep():
    time.sleep(request.payload)
    return os.getpid()

@app.action("fail")
def fail():
    raise ValueError
{more}
app.run(service="{name}")
"""

PREPARES = f"""
app.attach(DaebusHttp(port={PORT}))

@app.route("/")
def hello():
    return "hello"

@app.on_start()
def prepare():
    time.sleep({PREPARATION_SECONDS})
"""

RELOADS = f"""
@app.on_reload
def read_again():
    time.sleep({RELOAD_SECONDS})
    state["reloads"] += 1

@app.on_reload
async def fails():
    raise ValueError("no such setting")
"""

CRASHES = """
@app.thread("pump")
def pump(running):
    raise ValueError("no water")
"""

HAS_CHILDREN = """
@app.action("variables")
def variables():
    code = "import os; print(*os.environ)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

@app.action("forge")
def forge():
    code = '''
import socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"STATUS=forged", "/run/systemd/notify")
'''
    subprocess.run([sys.executable, "-c", code], check=True)

@app.action("fork")
def fork():
    child = os.fork()
    if child == 0:
        app._running._liaison._notifier.tell("STATUS=forged")
        os._exit(0)
    return os.waitpid(child, 0)[1]
"""

FAILURES = {
    "on-start": (
        '@app.on_start()\ndef prepare():\n    raise ValueError("no lamp")',
        "on_start failed: ValueError: no lamp",
    ),
    "port": (f"app.attach(DaebusHttp(port={PORT}))", f"port {PORT} of 127.0.0.1 is taken"),
    "name": ("", "service 'prepares' is already running as process"),
    "setting": ('os.environ["DAEBUS_REDIS_URL"] = "carrier-pigeon://loft"', "DAEBUS_REDIS_URL"),
}


def put(container: Container, unit: str, more: str = "", settings: str = "", name: str = "") -> str:
    container.put_service(unit, PROGRAM.format(name=name or unit, more=more), settings)
    return unit


def ask(container: Container, service: str, action: str, payload: object = None, timeout: float = 20_000 * MS) -> Any:
    with DaebusCaller(service, redis_url=container.redis_url, timeout=timeout) as caller:
        return caller.send_request(action, payload)


def moment(container: Container, unit: str, name: str) -> float:
    """When it was, in monotonic seconds: of ActiveEnter, InactiveEnter..."""
    return int(container.show(unit, f"{name}TimestampMonotonic")) / 1e6


@dataclass
class Begun:
    """What takes its time, begun before the first test."""

    start: float  # of the service that prepares: how long it took
    answers: tuple[object, object]  # and what it said right after that
    waits_since: float
    hangs: Future[Any]
    stopped: float


@pytest.fixture(scope="module", autouse=True)
def begun(container: Container) -> Iterator[Begun]:
    container.put(
        "/etc/redis/redis-late.conf", REDIS_CONFIGURATION.replace("redis-daebus", "redis-late"), 0o640, "redis"
    )
    put(
        container,
        "waits",
        settings="TimeoutStartSec=2\nEnvironment=DAEBUS_REDIS_URL=unix:///run/redis-late/redis-server.sock",
    )
    put(container, "prepares", PREPARES)
    put(container, "crashes", CRASHES)
    put(container, "hangs")
    put(container, "tells", settings="WatchdogSec=10")
    container.systemctl("start", "--no-block", "waits")
    waits_since = time.monotonic()
    container.systemctl("start", "crashes", "hangs", "tells")
    with pytest.raises(DaebusError):
        ask(container, "tells", "fail")
    for _ in range(STATES):
        ask(container, "tells", "state")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(ask, container, "hangs", "sleep", 3600)
        container.wait("hangs", lambda: ask(container, "hangs", "pid"))
        container.systemctl("stop", "--no-block", "hangs")
        stopped = time.monotonic()
        began = time.monotonic()
        container.systemctl("start", "prepares")
        took = time.monotonic() - began
        answers = get(container, PORT), ask(container, "prepares", "pid")
        yield Begun(took, answers, waits_since, hanging, stopped)


# --- starting ---


def test_a_start_ends_when_on_start_has(container: Container, begun: Begun) -> None:
    """And then it answers, whichever door one comes by."""
    assert PREPARATION_SECONDS < begun.start < PREPARATION_SECONDS + STOP_SECONDS
    assert begun.answers == ((200, "hello"), int(container.show("prepares", "MainPID")))
    assert container.show("prepares", "ActiveState") == "active"


def test_a_start_that_waits_for_redis_outlives_its_timeout(container: Container, begun: Begun) -> None:
    wait_for(lambda: time.monotonic() - begun.waits_since > REDIS_AFTER_SECONDS, 2 * REDIS_AFTER_SECONDS)
    assert container.show("waits", "ActiveState") == "activating"
    assert container.show("waits", "StatusText") == "Waiting for Redis at /run/redis-late/redis-server.sock"
    assert container.show("waits", "NRestarts") == "0"
    container.systemctl("start", "redis-server@late")
    container.wait_active("waits", STOP_SECONDS)
    url = container.redis_url.replace("redis-daebus", "redis-late")
    with DaebusCaller("waits", redis_url=url) as caller:
        assert str(caller.send_request("pid")) == container.show("waits", "MainPID")


@pytest.mark.parametrize("failure", FAILURES)
def test_a_start_that_fails_is_seen_to_fail(container: Container, failure: str) -> None:
    more, why = FAILURES[failure]
    unit = put(container, f"fails-{failure}", more, name="prepares" if failure == "name" else "")
    assert container.systemctl("start", unit, check=False).returncode == 1
    assert (container.show(unit, "ActiveState"), container.show(unit, "Result")) == ("failed", "exit-code")
    assert container.show(unit, "ExecMainStatus") == "1"
    said = container.wait_journal(unit, " failed: ")
    last = container.journal(unit, "PRIORITY=2")
    assert [why in entry["MESSAGE"] for entry in last] == [True], (said, last)


def test_a_thread_that_dies_again_and_again_fails_the_unit(container: Container) -> None:
    container.wait("crashes", lambda: container.show("crashes", "ActiveState") == "failed", 20_000 * MS)
    assert (container.show("crashes", "Result"), container.show("crashes", "ExecMainStatus")) == ("exit-code", "1")
    (entry,) = container.journal("crashes", "PRIORITY=2")
    assert entry["MESSAGE"] == "Service 'crashes' failed: thread 'pump' crashed 5 times in a row"


# --- serving ---


def test_the_status_says_what_the_service_does(container: Container) -> None:
    """What was asked before it was ready for so long is in it by now."""
    text = (
        f"Serving: {STATES + 1:,} requests and messages, 1 failed; Redis at {REDIS_SOCKET} connected; "
        "0 of 10 workers busy"
    )
    container.wait("tells", lambda: container.show("tells", "StatusText") == text, 2 * STATUS_SECONDS)
    assert f'Status: "{text}"' in container.status("tells")


def test_children_do_not_speak_for_the_service(container: Container) -> None:
    """They find no variable of systemd's, and a fork of the service keeps quiet; even where systemd would listen."""
    unit = put(container, "has-children", HAS_CHILDREN, settings="WatchdogSec=30\nNotifyAccess=all")
    container.systemctl("start", unit)
    names = set(ask(container, unit, "variables"))
    assert "INVOCATION_ID" in names, "what else systemd has set is there"
    assert not names & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"}
    assert ask(container, unit, "fork") == 0
    assert container.show(unit, "StatusText").startswith("Serving: ")


@pytest.mark.parametrize("access", ["main", "all"])
def test_only_where_it_is_told_to_systemd_listens_to_children(container: Container, access: str) -> None:
    unit = put(container, f"listens-to-{access}", HAS_CHILDREN, settings=f"NotifyAccess={access}")
    container.systemctl("start", unit)

    def forged() -> bool:
        """Again and again, because the service's own word may come after it."""
        ask(container, unit, "forge")
        return container.show(unit, "StatusText") == "forged"

    if access == "all":
        container.wait(unit, forged)
    else:
        assert not forged()
        assert container.show(unit, "StatusText").startswith("Serving: ")


# --- reloading ---


def version(container: Container) -> int:
    found = re.match(r"systemd (\d+)", container.systemctl("--version").stdout)
    assert found
    return int(found[1])


def test_a_reload_runs_its_functions(container: Container) -> None:
    """From 253 on `systemctl reload` returns when they are done. One that fails is told, and the service goes on."""
    waits = version(container) >= NOTIFY_RELOAD
    settings = "Type=notify-reload" if waits else "ExecReload=/bin/sh -c 'kill -HUP $MAINPID'"
    unit = put(container, "reloads", RELOADS, settings)
    container.systemctl("start", unit)
    pid = container.show(unit, "MainPID")
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        reload = pool.submit(container.systemctl, "reload", unit)
        container.wait(unit, lambda: container.show(unit, "StatusText") == "Reloading")
        assert ask(container, unit, "state")["reloads"] == 0, "requests are answered meanwhile"
        assert container.show(unit, "ActiveState") == "reloading"
        reload.result()
        took = time.monotonic() - began
    if waits:
        assert took > RELOAD_SECONDS
        assert ask(container, unit, "state")["reloads"] == 1
    container.wait(unit, lambda: container.show(unit, "StatusText").startswith("Serving: "))
    assert ask(container, unit, "state")["reloads"] == 1
    assert (container.show(unit, "MainPID"), container.show(unit, "ActiveState")) == (pid, "active")
    (entry,) = container.journal(unit, "PRIORITY=3")
    assert "failed, and the service goes on as it was: no such setting" in entry["MESSAGE"]


def test_a_hangup_during_a_reload_begins_another(container: Container) -> None:
    unit = put(container, "reloads-twice", RELOADS)
    container.systemctl("start", unit)
    for _ in range(3):
        container.systemctl("kill", "--signal=HUP", "--kill-whom=main", unit)
        container.wait(unit, lambda: container.show(unit, "StatusText") == "Reloading")
    container.wait(unit, lambda: container.show(unit, "StatusText").startswith("Serving: "))
    assert ask(container, unit, "state")["reloads"] == 2


def test_a_hangup_does_no_harm_where_nothing_is_to_reload(container: Container) -> None:
    unit = put(container, "no-reload")
    container.systemctl("start", unit)
    pid = container.show(unit, "MainPID")
    container.systemctl("kill", "--signal=HUP", "--kill-whom=main", unit)
    container.wait_journal(unit, "SIGHUP: there is nothing to reload")
    assert str(ask(container, unit, "pid")) == pid
    assert (container.show(unit, "MainPID"), container.show(unit, "ActiveState")) == (pid, "active")


# --- stopping ---


def test_a_stop_finishes_what_runs(container: Container) -> None:
    unit = put(container, "drains")
    container.systemctl("start", unit)
    pid = container.show(unit, "MainPID")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, container, unit, "sleep", 1.5)
        container.wait(unit, lambda: ask(container, unit, "pid"))
        began = time.monotonic()
        container.systemctl("stop", "--no-block", unit)
        container.wait(unit, lambda: container.show(unit, "StatusText") == "Stopping: finishing what was taken")
        assert container.show(unit, "ActiveState") == "deactivating"
        assert str(running.result()) == pid
    container.wait(unit, lambda: container.show(unit, "ActiveState") == "inactive", STOP_SECONDS)
    assert time.monotonic() - began < STOP_SECONDS
    assert (container.show(unit, "Result"), container.show(unit, "ExecMainStatus")) == ("success", "0")


def test_a_handler_that_never_ends_is_left_behind_in_time(container: Container, begun: Begun) -> None:
    """No signal but SIGTERM was needed: the time is the service's own limit, not systemd's."""
    with pytest.raises(Stopping):
        begun.hangs.result()
    container.wait("hangs", lambda: container.show("hangs", "ActiveState") == "inactive", STUCK_STOP_SECONDS)
    assert moment(container, "hangs", "InactiveEnter") - begun.stopped < STUCK_STOP_SECONDS
    assert (container.show("hangs", "Result"), container.show("hangs", "ExecMainStatus")) == ("success", "0")
