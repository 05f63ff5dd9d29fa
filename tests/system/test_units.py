"""The templates of packaging/systemd: sound by systemd's own judgement, and a service works under all they forbid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import MS, ROOT
from tests.system.container import Container
from tests.system.web import get

UNITS = "/usr/lib/systemd/system"
LATER = "daebus@.service.d/systemd-254.conf"  # only for a systemd that knows its words
EXPOSURE = 1.5
LONGEST = "a_name-of-24-characters1"
PORTS = {"lamp": 8080, "fan": 8500, LONGEST: 8501, "wedged": 8502}  # the first by its socket's unit
RESTART_SECONDS = 15_000 * MS

PROGRAM = """
import mmap, os, socket, subprocess, sys, threading
from daebus import Daebus, DaebusCaller, DaebusHttp, get_daemon, logger, request
app = Daebus(__name__)
app.attach(DaebusHttp(port={port}))
with open("starts.txt", "a") as starts:
    starts.write("x")
reloads = []

@app.route("/")
def hello():
    return "hello"

@app.action("starts")
def starts():
    logger.info("counting")
    with open("starts.txt") as file:
        return len(file.read())

@app.action("reloads")
def count_reloads():
    return len(reloads)

@app.on_reload
def read_again():
    reloads.append(1)

@app.action("who")
def who():
    return {{"uid": os.getuid(), "folder": os.getcwd(), "pid": os.getpid()}}

@app.action("status")
def status():
    with open("/proc/self/status") as file:
        return dict(line.strip().split(":\\t", 1) for line in file if ":\\t" in line)

@app.action("write")
def write():
    return attempt(lambda: open(request.payload, "w").close())

@app.action("read")
def read():
    return attempt(lambda: os.listdir(request.payload))

@app.action("write and execute")
def write_and_execute():
    return attempt(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))

@app.action("packet")
def packet():
    return attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())

@app.action("program")
def program():
    return subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout

@app.action("wedge")
def wedge():
    get_daemon()._running.engine.soon(threading.Event().wait)

def attempt(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"

app.run(service="{name}")
"""

PROPERTIES = {
    "MemoryMax": str(128 << 20),
    "TasksMax": "64",
    "LimitNOFILE": "4096",
    "LimitCORE": "0",
    "OOMPolicy": "kill",
    "WatchdogUSec": "30s",
    "TimeoutStartUSec": "1min 30s",
    "TimeoutStopUSec": "20s",
    "StartLimitIntervalUSec": "0",
    "Restart": "always",
    "KillMode": "mixed",
    "NotifyAccess": "main",
    "DynamicUser": "yes",
    "ProtectSystem": "strict",
}
LATER_PROPERTIES = {
    "Type": "notify-reload",
    "RestartUSec": "200ms",
    "RestartSteps": "10",
    "RestartMaxDelayUSec": "1min",
    "ExecReload": "",
}
EARLIER_PROPERTIES = {"Type": "notify", "RestartUSec": "2s"}


@pytest.fixture(scope="module", autouse=True)
def installed(container: Container) -> Iterator[None]:
    """The templates, and services under them, which have been started."""
    container.run("getent group daebus >/dev/null || groupadd --system daebus")
    templates = ["daebus@.service", "daebus@.socket"] + [LATER] * knows_later_words(container)
    for template in templates:
        container.put(f"{UNITS}/{template}", (ROOT / "packaging/systemd" / template).read_text())
    # The Redis of these tests has no users; that the script makes them is a matter of the package's tests.
    container.put("/usr/libexec/daebus/redis-users", (ROOT / "packaging/redis/redis-users").read_text(), 0o755)
    container.put("/etc/systemd/system/daebus@.service.d/no-users.conf", "[Service]\nExecStartPre=\n")
    for name, port in PORTS.items():
        container.put(f"/opt/daebus/{name}.py", PROGRAM.format(name=name, port=port))
    container.put(
        "/etc/systemd/system/daebus@wedged.service.d/soon.conf", "[Service]\nWatchdogSec=2\nRestartSec=100ms\n"
    )
    container.systemctl("daemon-reload")
    container.systemctl("start", "daebus@lamp.socket")
    container.systemctl("start", *[unit(name) for name in PORTS])
    yield
    container.systemctl("stop", *[unit(name) for name in PORTS], check=False)


def unit(name: str) -> str:
    return f"daebus@{name}.service"


def knows_later_words(container: Container) -> bool:
    found = re.match(r"systemd (\d+)", container.systemctl("--version").stdout)
    return found is not None and int(found[1]) >= 254


# --- systemd's judgement ---


def test_systemd_finds_nothing_to_say_about_the_templates(container: Container) -> None:
    paths = [f"{UNITS}/daebus@.service", f"{UNITS}/daebus@.socket"]
    done = container.run(["systemd-analyze", "verify", *paths, unit("lamp"), "daebus@lamp.socket"])
    assert (done.stdout, done.stderr) == ("", "")


def test_systemd_would_have_said_something(container: Container) -> None:
    """About a word that it does not know, say."""
    text = container.read(f"{UNITS}/daebus@.service").replace("WatchdogSec", "WatchcatSec")
    container.put("/run/of-a-test/daebus@.service", text)
    assert "WatchcatSec" in container.run(["systemd-analyze", "verify", "/run/of-a-test/daebus@.service"]).stderr


def test_the_template_exposes_little(container: Container) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"{UNITS}/daebus@.service"]
    found = re.search(r"Overall exposure level for .*: (\d+\.\d+)", container.run(command).stdout)
    assert found
    assert 0 < float(found[1]) <= EXPOSURE


def test_the_limits_are_set(container: Container) -> None:
    expected = PROPERTIES | (LATER_PROPERTIES if knows_later_words(container) else EARLIER_PROPERTIES)
    found = {name: container.show(unit("fan"), name) for name in expected}
    assert found == expected


# --- what works ---


@pytest.mark.parametrize("name", PORTS)
def test_it_answers_at_both_doors(container: Container, name: str) -> None:
    assert get(container, PORTS[name]) == (200, "hello")
    assert str(container.ask(name, "who")["pid"]) == container.show(unit(name), "MainPID")
    assert container.show(unit(name), "StatusText").startswith("Serving: ")


def test_each_service_has_a_user_and_a_folder_of_its_own(container: Container) -> None:
    found = {name: container.ask(name, "who") for name in PORTS}
    assert {container.show(unit(name), "User") for name in PORTS} == {f"daebus-{name}" for name in PORTS}
    assert len({who["uid"] for who in found.values()} - {0}) == len(PORTS)
    assert all(who["folder"].endswith(f"/daebus/{name}") for name, who in found.items())


def test_its_folder_outlives_it(container: Container) -> None:
    before = container.ask("fan", "starts")
    container.systemctl("restart", unit("fan"))
    assert container.ask("fan", "starts") == before + 1
    assert container.read("/var/lib/daebus/fan/starts.txt") == "x" * (before + 1)


def test_its_records_have_their_fields(container: Container) -> None:
    container.ask("lamp", "starts")
    entry = container.wait_journal(unit("lamp"), "counting")
    assert (entry["DAEBUS_ACTION"], entry["_TRANSPORT"]) == ("starts", "journal")


def test_a_reload_reaches_it(container: Container) -> None:
    before = container.ask("lamp", "reloads")
    pid = container.show(unit("lamp"), "MainPID")
    container.systemctl("reload", unit("lamp"))
    container.wait(unit("lamp"), lambda: container.ask("lamp", "reloads") == before + 1)
    assert container.show(unit("lamp"), "MainPID") == pid


def test_its_port_is_the_one_that_systemd_holds(container: Container) -> None:
    container.systemctl("stop", unit("lamp"))
    assert get(container, PORTS["lamp"]) == (200, "hello")
    container.wait_active(unit("lamp"))  # it answers a little before systemd has heard that it is ready


def test_it_may_start_programs(container: Container) -> None:
    assert int(container.ask("lamp", "program")) == container.ask("lamp", "who")["uid"]


def test_a_wedged_one_is_named_and_started_again(container: Container) -> None:
    """The filter of system calls keeps neither the watchdog's signs nor the stacks from being written."""
    name = unit("wedged")
    pid = container.show(name, "MainPID")
    container.ask("wedged", "wedge")
    container.wait(name, lambda: container.show(name, "NRestarts") == "1", RESTART_SECONDS)
    container.wait_active(name)
    assert container.show(name, "MainPID") != pid
    (entry,) = container.journal(name, "PRIORITY=2", "DAEBUS_LEG=reader")
    assert "Thread 'MainThread':" in entry["MESSAGE"]
    container.wait_journal(name, "Fatal Python error: Aborted")
    assert get(container, PORTS["wedged"]) == (200, "hello")


# --- what does not ---

FORBIDDEN: dict[str, tuple[str, Any]] = {
    "a system file": ("write", "/etc/lamp"),
    "its own program": ("write", "/opt/daebus/lamp.py"),
    "a file of another service": ("write", "/var/lib/daebus/fan/starts.txt"),
    "a folder of another service": ("read", "/var/lib/private/daebus/fan"),
    "root's files": ("read", "/root"),
    "code written while it runs": ("write and execute", None),
    "raw packets": ("packet", None),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_it_may_not_have(container: Container, what: str) -> None:
    action, payload = FORBIDDEN[what]
    assert container.ask("lamp", action, payload) in ("PermissionError", "OSError", "FileNotFoundError")


def test_what_it_may_have_is_not_refused(container: Container) -> None:
    """So the refusals above mean something."""
    for path in ("note.txt", "/tmp/note", "/var/lib/daebus/lamp/note"):  # noqa: S108 - its own /tmp
        assert container.ask("lamp", "write", path) == "done"
    assert container.ask("lamp", "read", ".") == "done"
    assert container.run("ls /tmp/note", check=False).returncode != 0, "the device's /tmp is another one"


def test_it_has_no_privileges(container: Container) -> None:
    status = container.ask("lamp", "status")
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
