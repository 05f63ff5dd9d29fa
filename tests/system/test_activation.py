"""Sockets that systemd holds: which door gets which, what else is bound, and connections that wait."""

from __future__ import annotations

import json
import socket
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from daebus.wsframes import TEXT
from tests.sockets import HANDSHAKE, Incoming, masked
from tests.support import MS, wait_for
from tests.system.container import Container
from tests.system.web import ANSWER_SECONDS, ask, get

PROGRAM = """
import os, time
from daebus import Daebus, DaebusHttp, DaebusWebSocket, request
app = Daebus(__name__)
app.attach(DaebusHttp(port={port}))

@app.route("/")
def pid():
    return {{"pid": os.getpid()}}

@app.route("/slow")
def slow():
    time.sleep(1)
    return {{"pid": os.getpid()}}
{more}
app.run(service="{name}"{run})
"""

WEBSOCKET = """
app.attach(DaebusWebSocket(port={port}))

@app.socket("echo")
def echo(message):
    return message
"""

LISTENING = """
import os, sys
folder = f"/proc/{sys.argv[1]}/fd"
inodes = {os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
for name in ("tcp", "tcp6"):
    for line in open(f"/proc/net/{name}").readlines()[1:]:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
            print(int(words[1].rpartition(":")[2], 16))
"""

IDLE_SECONDS = 0.5
ELSEWHERE = 8399  # where a service would listen without systemd


def put(
    container: Container,
    name: str,
    listen: str,
    *,
    port: int = ELSEWHERE,
    more: str = "",
    run: str = "",
    settings: str = "",
) -> str:
    """A service with its socket, which is started; the service is not."""
    container.put(f"/etc/systemd/system/{name}.socket", f"[Socket]\n{textwrap.dedent(listen)}")
    container.put_service(name, PROGRAM.format(name=name, port=port, more=more, run=run), settings)
    container.systemctl("start", f"{name}.socket")
    return name


def pid_at(container: Container, port: int, path: str = "/") -> str:
    """The process that answers there."""
    status, body = get(container, port, path)
    assert status == 200, body
    return str(json.loads(body)["pid"])


def ports(container: Container, name: str) -> list[int]:
    """Where the service listens, by the kernel's tables."""
    found = container.python(LISTENING, container.show(name, "MainPID")).stdout
    return sorted(map(int, found.split()))


def shakes_hands(connection: socket.socket, port: int) -> bool:
    """Whether a WebSocket that says something gets it back over this connection, which is closed."""
    with connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": f"127.0.0.1:{port}", **HANDSHAKE}.items())
        connection.sendall(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        if not head.startswith(b"HTTP/1.1 101"):
            return False
        connection.sendall(masked(TEXT, json.dumps({"type": "echo", "data": "hello"}).encode()))
        incoming = Incoming()
        incoming.feed(head.partition(b"\r\n\r\n")[2])
        while not any(b"hello" in payload for _kind, payload in incoming.frames):
            incoming.feed(connection.recv(4096))
        return True


# --- which door ---


def test_http_is_where_a_socket_of_its_name_listens_and_nowhere_else(container: Container) -> None:
    name = put(container, "named", "ListenStream=127.0.0.1:8301\nFileDescriptorName=http")
    assert pid_at(container, 8301) == container.show(name, "MainPID")
    assert ports(container, name) == [8301]


def test_two_doors_get_the_sockets_of_their_ports(container: Container) -> None:
    """Both have the same name, that of the unit."""
    more = WEBSOCKET.format(port=8303)
    listen = "ListenStream=127.0.0.1:8303\nListenStream=127.0.0.1:8302"
    name = put(container, "ported", listen, port=8302, more=more)
    assert pid_at(container, 8302) == container.show(name, "MainPID")
    assert get(container, 8303)[0] != 200
    assert shakes_hands(container.connect(8303), 8303)
    assert ports(container, name) == [8302, 8303]


@pytest.mark.parametrize("order", ["http websocket", "websocket http"])
def test_sockets_of_several_units_are_told_apart_by_name(container: Container, order: str) -> None:
    """Which comes first differs between releases of systemd."""
    first, second = order.split()
    name = f"{first}-first"
    base = 8310 if first == "http" else 8320
    numbers = {"http": base, "websocket": base + 1}
    for door, port in numbers.items():
        text = f"[Socket]\nListenStream=127.0.0.1:{port}\nFileDescriptorName={door}\nService={name}.service\n"
        container.put(f"/etc/systemd/system/{name}-{door}.socket", text)
    program = PROGRAM.format(name=name, port=ELSEWHERE, more=WEBSOCKET.format(port=ELSEWHERE - 1), run="")
    container.put_service(name, program, f"Sockets={name}-{first}.socket {name}-{second}.socket")
    container.systemctl("start", f"{name}-{first}.socket", f"{name}-{second}.socket", name)
    assert pid_at(container, numbers["http"]) == container.show(name, "MainPID")
    assert get(container, numbers["websocket"])[0] != 200
    assert shakes_hands(container.connect(numbers["websocket"]), numbers["websocket"])
    assert ports(container, name) == sorted(numbers.values())


def test_a_unix_socket_serves_http(container: Container) -> None:
    name = put(container, "unixy", "ListenStream=/run/unixy/http.sock")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(container.outside("/run/unixy/http.sock")))
        status, body = ask(connection, "/")
    assert (status, str(json.loads(body)["pid"])) == (200, container.show(name, "MainPID"))
    assert ports(container, name) == []


def test_both_families_of_addresses_and_websockets_in_one_unit(container: Container) -> None:
    more = WEBSOCKET.format(port='"same"')
    listen = "ListenStream=127.0.0.1:8304\nListenStream=[::1]:8304\nFileDescriptorName=http"
    name = put(container, "families", listen, more=more)
    pid = pid_at(container, 8304)
    status, body = get(container, 8304, host="::1")
    assert (status, str(json.loads(body)["pid"])) == (200, pid)
    assert shakes_hands(container.connect(8304), 8304)
    assert ports(container, name) == [8304, 8304]


@pytest.mark.parametrize("door", ["none", "two"])
def test_a_socket_that_fits_no_door_fails_the_unit_with_the_reason(container: Container, door: str) -> None:
    name, port = f"unfit-{door}", 8305 if door == "none" else 8306
    listen = f"ListenStream=127.0.0.1:{port}\nFileDescriptorName=panel"
    put(container, name, listen, more=WEBSOCKET.format(port=ELSEWHERE - 1))
    if door == "none":
        container.put(f"/opt/{name}.py", f"from daebus import Daebus\nDaebus(__name__).run(service='{name}')\n")
    assert container.systemctl("start", name, check=False).returncode == 1
    assert (container.show(name, "Result"), container.show(name, "ExecMainStatus")) == ("exit-code", "1")
    said = container.wait_journal(name, f"systemd passes 'panel' (127.0.0.1:{port}), and nothing here listens there")
    hint = "attach DaebusHttp()" if door == "none" else f"FileDescriptorName=http (port {ELSEWHERE}) or"
    assert hint in said["MESSAGE"]
    assert said["PRIORITY"] == "2"


# --- when ---


def test_the_first_connection_starts_the_service_and_is_answered_by_it(container: Container) -> None:
    more = "\n@app.on_start()\ndef prepare():\n    time.sleep(1)\n"
    name = put(container, "sleeper", "ListenStream=127.0.0.1:8307", more=more)
    assert container.show(name, "ActiveState") == "inactive"
    with ThreadPoolExecutor(5) as pool:
        pids = set(pool.map(lambda _: pid_at(container, 8307), range(5)))
    assert pids == {container.show(name, "MainPID")}
    container.wait_active(name)


def test_an_idle_service_leaves_and_the_next_connection_finds_it(container: Container) -> None:
    """Some of these come at the very moment at which it leaves."""
    name = put(
        container,
        "leaver",
        "ListenStream=127.0.0.1:8308",
        run=f", idle_exit={IDLE_SECONDS}",
        settings="WatchdogSec=1\nRestart=always\nRestartPreventExitStatus=0\n[Unit]\nStartLimitIntervalSec=0\n",
    )
    pids = []
    for number in range(10):
        pids.append(pid_at(container, 8308))
        next_one = time.monotonic() + IDLE_SECONDS + 0.01 * number
        wait_for(lambda: time.monotonic() > next_one, 2 * IDLE_SECONDS)  # noqa: B023 - done before the next turn
    assert len(set(pids)) > 2, pids
    container.wait(name, lambda: container.show(name, "ActiveState") == "inactive")
    assert container.show(name, "Result") == "success"
    assert container.show(name, "NRestarts") == "0"
    container.wait_journal(name, f"Nothing has come for {IDLE_SECONDS:g} s: leaving until something does")
    assert pid_at(container, 8308) not in pids


def test_connections_wait_while_the_service_stops_and_are_answered_by_the_next(container: Container) -> None:
    name = put(container, "stopper", "ListenStream=127.0.0.1:8309\nTriggerLimitIntervalSec=0")
    before = pid_at(container, 8309)
    with ThreadPoolExecutor(20) as pool:
        slow = pool.submit(pid_at, container, 8309, "/slow")
        container.wait(name, lambda: "workers busy" in container.show(name, "StatusText"))
        container.systemctl("stop", "--no-block", name)
        container.wait(name, lambda: container.show(name, "ActiveState") == "deactivating")
        after = list(pool.map(lambda _: pid_at(container, 8309), range(10)))
        assert slow.result() == before
    assert set(after) == {container.show(name, "MainPID")}
    assert before not in after


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_no_connection_is_refused_while_the_service_restarts(container: Container, how: str) -> None:
    port = 8330 if how == "restart" else 8331
    settings = "Restart=always\nRestartSec=100ms\n"
    name = put(container, f"by-{how}", f"ListenStream=127.0.0.1:{port}", settings=settings)
    pids = [pid_at(container, port)]
    container.systemctl(*(["restart", "--no-block"] if how == "restart" else ["kill", "--signal=KILL"]), name)
    began = time.monotonic()
    while time.monotonic() - began < 1000 * MS or len(set(pids)) < 2:
        pids.append(pid_at(container, port))
    assert len(set(pids)) == 2
