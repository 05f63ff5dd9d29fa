"""A service under a real systemd, on both releases of Debian; and the containers that such tests use."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from daebus import DaebusCaller, DaebusError
from daebus.redisserver import answers
from tests.support import MS, ROOT, NotInTime, is_running, wait_for
from tests.system.container import (
    END_SECONDS,
    PROPAGATE,
    REDIS_SOCKET,
    BootFailed,
    CommandFailed,
    Container,
    own_group,
    remove_group,
)

ECHO = """
import time
from daebus import Daebus, logger, request
app = Daebus("echo")

@app.on_start()
def prepare():
    time.sleep(0.5)

@app.action("echo")
def echo():
    return request.payload

@app.action("talk")
def talk():
    logger.info("a word")
    logger.warning("a warning")
    logger.error("an error\\nof two lines")

app.run(service="{name}")
"""
PREPARATION_SECONDS = 0.5

STOP_SECONDS = 5000 * MS  # the promise
RETURN_SECONDS = 5000 * MS  # the promise, counted from the return of Redis


def put_echo(container: Container, name: str, settings: str = "") -> str:
    container.put_service(name, ECHO.format(name=name), settings)
    return name


def answer(container: Container, name: str) -> object:
    with DaebusCaller(name, redis_url=container.redis_url) as caller:
        return caller.send_request("echo", {"word": "hello"})


def answers_again(container: Container, name: str) -> bool:
    try:
        return answer(container, name) == {"word": "hello"}
    except DaebusError:
        return False


# --- a service ---


def test_a_started_service_answers_at_once(container: Container) -> None:
    """`systemctl start` returns with READY, which is sent after on_start."""
    name = put_echo(container, "starts")
    begun = time.monotonic()
    container.systemctl("start", name)
    assert time.monotonic() - begun > PREPARATION_SECONDS
    assert answer(container, name) == {"word": "hello"}
    assert container.show(name, "ActiveState") == "active"


def test_a_stopped_service_ends_well_and_soon(container: Container) -> None:
    name = put_echo(container, "stops")
    container.systemctl("start", name)
    begun = time.monotonic()
    container.systemctl("stop", name)
    assert time.monotonic() - begun < STOP_SECONDS
    assert container.show(name, "ActiveState") == "inactive"
    assert (container.show(name, "Result"), container.show(name, "ExecMainStatus")) == ("success", "0")


def test_a_killed_service_is_started_again(container: Container) -> None:
    name = put_echo(container, "killed", "Restart=always\nRestartSec=100ms\n")
    container.systemctl("start", name)
    before = container.show(name, "MainPID")
    container.systemctl("kill", "--signal=KILL", name)
    container.wait(name, lambda: container.show(name, "NRestarts") == "1")
    container.wait_active(name)
    assert container.show(name, "MainPID") not in (before, "0")
    assert answer(container, name) == {"word": "hello"}


def test_log_lines_have_their_priority_in_the_journal(container: Container) -> None:
    name = put_echo(container, "talks")
    container.systemctl("start", name)
    with DaebusCaller(name, redis_url=container.redis_url) as caller:
        caller.send_request("talk")
    container.wait_journal(name, "an error")
    found = {entry["MESSAGE"]: entry["PRIORITY"] for entry in container.journal(name)}
    assert found["a word"] == "6"
    assert found["a warning"] == "4"
    assert found["an error\\nof two lines"] == "3"


def test_a_restart_of_redis_is_survived(container: Container) -> None:
    name = put_echo(container, "outlives")
    container.systemctl("start", name)
    before = container.show(name, "MainPID")
    container.systemctl("stop", "redis-server@daebus")
    container.wait_journal(name, "is gone")
    container.systemctl("start", "redis-server@daebus")
    container.wait(name, lambda: answers_again(container, name), RETURN_SECONDS)
    assert container.show(name, "MainPID") == before


def test_a_caller_inside_needs_no_settings(container: Container) -> None:
    name = put_echo(container, "inside")
    container.systemctl("start", name)
    assert container.ask(name, "echo", {"word": "hello"}) == {"word": "hello"}


# --- the containers ---


def test_a_command_that_fails_says_what_it_said(container: Container) -> None:
    with pytest.raises(CommandFailed, match=r"exit 3: status 3\nso it is\n"):
        container.run("echo so it is; exit 3")
    assert container.run("exit 3", check=False).returncode == 3
    with pytest.raises(NotInTime, match="sleep 60: still running"):
        container.run("sleep 60", timeout=100 * MS)


def test_files_are_written_inside_whatever_links_say(container: Container) -> None:
    """/var/run is a link to /run, which must be the container's."""
    container.put("/var/run/of-a-test/note", "hello\n", mode=0o600, owner="redis")
    assert not Path("/run/of-a-test").exists()
    assert container.read("/run/of-a-test/note") == "hello\n"
    assert container.run("stat -c '%a %U' /run/of-a-test/note").stdout == "600 redis\n"


SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 8080))
print("listening", flush=True)
connection, _ = server.accept()
connection.sendall(connection.recv(100).upper())
print(input(), flush=True)
"""


def test_a_program_beside_the_test_has_pipes_and_ports(container: Container) -> None:
    with container.popen(["python3", "-c", SERVER]) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        with container.connect(8080) as connection:
            connection.sendall(b"hello")
            assert connection.recv(100) == b"HELLO"
        server.stdin.write("from the test\n")
        server.stdin.flush()
        assert server.stdout.readline() == "from the test\n"
    with pytest.raises(ConnectionRefusedError):
        container.connect(8080)


def test_the_end_of_the_block_is_the_end_of_the_program(container: Container) -> None:
    with container.popen("echo $$; exec sleep 1000") as program:
        assert program.stdout is not None
        pid = program.stdout.readline().strip()
    assert "No such process" in container.run(f"kill -0 {pid}", check=False).stderr


def test_files_outlive_every_way_to_end(debian_root: Path) -> None:
    with Container(debian_root) as device:
        device.put("/var/lib/note", "hello")
        for end in (device.reboot, device.power_cut):
            before = device.read("/proc/sys/kernel/random/boot_id"), device.leader
            end()
            assert device.read("/proc/sys/kernel/random/boot_id") != before[0]
            assert not is_running(before[1])
            assert device.read("/var/lib/note") == "hello"
        device.start_redis()
        assert answers(device.outside(REDIS_SOCKET))
        device.power_off()
        assert not device.running
        device.start()
        assert device.read("/var/lib/note") == "hello"
        assert len(device.run("journalctl --list-boots --quiet --no-pager | grep -v IDX").stdout.splitlines()) == 4


def test_two_devices_do_not_see_each_other(debian_root: Path, container: Container) -> None:
    """Each has a control group, a network and an identity of its own; both systemds use the same unit names."""
    with Container(debian_root) as other:
        other.start_redis()
        assert other.read("/etc/machine-id") != container.read("/etc/machine-id")
        other.systemctl("stop", "redis-server@daebus")
        assert answers(container.outside(REDIS_SOCKET))
        assert container.show("redis-server@daebus", "ActiveState") == "active"


def leftovers(name: str) -> list[str]:
    """What there is of a container on this machine."""
    places = [Path(tempfile.gettempdir()), PROPAGATE, own_group()]
    found = [str(path) for place in places if place.exists() for path in place.glob(f"{name}*")]
    return found + [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]


def test_a_failed_boot_shows_the_console_and_leaves_nothing(tmp_path: Path) -> None:
    """The root of this one has an os-release, which nspawn asks for, and an init that gives up."""
    root = tmp_path / "root"
    for name in ("etc/os-release", "usr/lib/systemd/systemd", "sbin/init"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch(mode=0o755)
    device = Container(root)
    with pytest.raises(BootFailed, match=r"status \d+\n.*"), device:
        pytest.fail("it booted")
    assert leftovers(device.name) == []


@pytest.mark.parametrize("seconds", [0, 50 * MS, 150 * MS])
def test_a_boot_that_takes_too_long_leaves_nothing(
    debian_root: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("tests.system.container.BOOT_SECONDS", seconds)
    device = Container(debian_root)
    with pytest.raises(BootFailed, match="the container has booted"), device:
        pytest.fail("it booted")
    assert leftovers(device.name) == []


BOOT_AND_WAIT = """
import sys
from pathlib import Path
from tests.system.container import Container
with Container(Path(sys.argv[1])) as container:
    print(container.name, container.leader, container.folder, flush=True)
    input()
"""


def test_a_container_ends_with_a_test_run_that_is_killed(debian_root: Path) -> None:
    command = [sys.executable, "-c", BOOT_AND_WAIT, str(debian_root)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        name, leader, folder = run.stdout.readline().split()
        run.kill()
    wait_for(lambda: not is_running(int(leader)), END_SECONDS)
    wait_for(lambda: remove_group(own_group() / name), END_SECONDS)
    assert name not in Path("/proc/self/mounts").read_text()
    shutil.rmtree(folder)


def test_a_root_in_use_is_locked(debian_root: Path, container: Container) -> None:
    assert container.running
    with (debian_root.parent / f"{debian_root.name}.lock").open("a") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
