"""Scripts in /opt/daebus as services, on devices of both releases."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.test_rights import HEAR, LEARN, REFUSALS, SPEAK, TOUCH
from tests.packaging.debian import add_repository, apt_get
from tests.support import MS, ROOT
from tests.system.container import Container

SERVICE = """
import os, sys
from daebus import Daebus, DaebusCaller, DaebusError, DaebusHttp, DaebusWebSocket, cache, request

app = Daebus(__name__)

@app.action("who")
def who():
    return {"uid": os.getuid(), "cwd": os.getcwd(), "environment": dict(os.environ), "python": sys.executable}

@app.action("call")
def call():
    try:
        return DaebusCaller(request.payload).send_request("who", wait=True)["uid"]
    except DaebusError as error:
        return str(error)

@app.action("read")
def read():
    try:
        with open(request.payload, "rb") as file:
            return file.read(4).hex()
    except OSError as error:
        return error.strerror

@app.action("write")
def write():
    try:
        with open(request.payload, "w") as file:
            return file.write("x")
    except OSError as error:
        return error.strerror
"""
PAGE = """
app.attach(DaebusHttp())

@app.route("/")
def index(req):
    return "the page"
"""


def script(name: str, *metadata: str, more: str = "", run: str = "") -> str:
    lines = ["/// script", "[tool.daebus]", *metadata, "///"] if metadata else []
    return "".join(f"# {line}\n" for line in lines) + SERVICE + more + f'\napp.run(service="{name}"{run})\n'


def put(device: Container, name: str, *metadata: str, more: str = "", run: str = "") -> None:
    device.put(f"/opt/daebus/{name}.py", script(name, *metadata, more=more, run=run))
    device.systemctl("daemon-reload")


def ask(device: Container, service: str, action: str, payload: object = None) -> object:
    """What a service answers to a program of root's, which needs no settings."""
    program = "import json, sys; from daebus import DaebusCaller as C; print(json.dumps(C(sys.argv[1], timeout=10)"
    program += ".send_request(sys.argv[2], json.loads(sys.argv[3]), wait=True)))"
    return json.loads(device.python(program, service, action, json.dumps(payload)).stdout)


def get(device: Container, port: int, path: str = "/") -> str:
    program = f"from urllib.request import urlopen; print(urlopen('http://127.0.0.1:{port}{path}').read().decode())"
    return device.python(program).stdout.strip()


def is_enabled(device: Container, unit: str) -> str:
    return device.systemctl("is-enabled", unit, check=False).stdout.strip()


@pytest.fixture(scope="module")
def board(fresh_root: Path, repository: Path) -> Iterator[Container]:
    """A device with the library alone, for all tests of this module; each has scripts of its own."""
    with Container(fresh_root) as booted:
        add_repository(booted, repository)
        apt_get(booted, "install", "python3-daebus")
        booted.run(["mkdir", "-p", "/opt/daebus"])
        yield booted


# --- what the readme says ---


def commands() -> list[str]:
    """The blocks of the readme's section, as they stand there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## On a device\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def test_the_commands_of_the_readme_lead_to_a_service(fresh_root: Path, repository: Path) -> None:
    """Literally, by a user who says yes to apt. Only sudo is not there, where everybody is root."""
    with Container(fresh_root) as device:
        device.put("/usr/bin/sudo", '#!/bin/sh\nexec "$@"\n', 0o755)
        shutil.copytree(repository, device.outside("/srv/daebus"))
        install, first, second = commands()
        device.run(["sh", "-euc", install], text="y\n", timeout=300_000 * MS)
        said = device.run(["sh", "-euc", first]).stdout
        assert said.endswith('{"message": "Hello, Ada!"}\n')
        assert "Active: active (running)" in said
        assert "Service 'greeter' is ready" in said
        assert device.run(["sh", "-euc", second]).stdout.endswith("Hello, World!\n")
        device.reboot()
        for unit in ("greeter", "panel"):
            device.wait_active(unit)
        assert get(device, 8080) == "Hello, World!"
        assert device.systemctl("--failed", "--quiet").stdout == ""


# --- units like any other ---


def test_a_service_is_enabled_edited_masked_and_survives_a_reboot(board: Container) -> None:
    put(board, "plain")
    assert is_enabled(board, "plain") == "disabled"
    assert board.systemctl("enable", "--now", "plain").returncode == 0
    assert is_enabled(board, "plain") == "enabled"
    assert board.show("plain", "ActiveState") == "active"
    board.put("/etc/systemd/system/plain.service.d/override.conf", "[Service]\nMemoryMax=50M\n")
    board.reboot()
    board.wait_active("plain")
    assert board.show("plain", "MemoryMax") == str(50 << 20)
    assert is_enabled(board, "plain") == "enabled"
    assert board.systemctl("disable", "--now", "plain").returncode == 0
    assert is_enabled(board, "plain") == "disabled"
    board.systemctl("mask", "plain")
    assert is_enabled(board, "plain") == "masked"
    assert "masked" in board.systemctl("start", "plain", check=False).stderr
    board.systemctl("unmask", "plain")
    board.systemctl("start", "plain")
    board.systemctl("stop", "plain")


def test_an_edited_script_asks_for_a_reload_of_systemd(board: Container) -> None:
    put(board, "edited")
    board.systemctl("start", "edited")
    board.put("/opt/daebus/edited.py", script("edited", 'memory = "77M"'))
    board.run("touch -d '+2 sec' /opt/daebus/edited.py")
    assert board.show("edited", "NeedDaemonReload") == "yes"
    board.systemctl("daemon-reload")
    assert board.show("edited", "NeedDaemonReload") == "no"
    assert board.show("edited", "MemoryMax") == str(77 << 20)
    board.systemctl("stop", "edited")


def test_a_script_that_goes_takes_its_units_along(board: Container) -> None:
    put(board, "gone", "http = 8101", more=PAGE)
    assert board.run("ls /run/systemd/system/gone.*").stdout.split() == [
        "/run/systemd/system/gone.service",
        "/run/systemd/system/gone.socket",
    ]
    board.run("rm /opt/daebus/gone.py && systemctl daemon-reload")
    assert board.run("ls /run/systemd/system/gone.*", check=False).stdout == ""
    assert board.show("gone", "LoadState") == "not-found"


def test_its_unit_is_sound_and_can_do_little_harm(board: Container) -> None:
    put(board, "sound", "http = 8102", "websocket = 8103", 'devices = ["/dev/full"]', 'network = "any"')
    put(board, "none", 'network = "none"')
    put(board, "wrong", "nonsense = 1")
    names = ("sound.service", "sound.socket", "sound-websocket.socket", "none.service", "wrong.service")
    done = board.run(["systemd-analyze", "verify", "--man=no", *names])
    assert [line for line in done.stderr.splitlines() if "daebus" in line or "sound" in line] == []
    for name, limit in (("none", 1.0), ("wrong", 1.0), ("plain", 1.0), ("sound", 2.0)):
        put(board, "plain")
        said = board.run(["systemd-analyze", "security", "--no-pager", f"{name}.service"]).stdout
        found = re.search(r"exposure level for \S+: ([\d.]+)", said)
        assert found is not None
        assert float(found[1]) <= limit, said


def test_systemd_254_and_later_get_more(board: Container) -> None:
    put(board, "newer")
    version = int(board.run("systemctl --version").stdout.split()[1])
    expected = "notify-reload" if version >= 254 else "notify"
    assert board.show("newer", "Type") == expected
    assert board.show("daebus@newer", "Type") == expected


# --- ports ---


def test_a_port_is_there_before_the_service_and_while_it_restarts(board: Container) -> None:
    put(board, "ported", 'http = ["127.0.0.1:8104", "/run/ported.sock"]', more=PAGE)
    board.systemctl("enable", "--now", "ported")
    assert is_enabled(board, "ported.socket") == "enabled"
    assert get(board, 8104) == "the page"
    board.systemctl("stop", "ported", check=False)
    assert get(board, 8104) == "the page"
    program = (
        "import subprocess, threading, time, urllib.request as u\n"
        "over, failed, done = [], [], []\n"
        "def ask():\n"
        "    while not over:\n"
        "        try: done.append(u.urlopen('http://127.0.0.1:8104/', timeout=20).read())\n"
        "        except Exception as error: failed.append(repr(error))\n"
        "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
        "[one.start() for one in threads]\n"
        "[subprocess.run(['systemctl', 'restart', 'ported'], check=True) for _ in range(3)]\n"
        "over.append(1)\n"
        "[one.join() for one in threads]\n"
        "print(len(done) > 3, failed)\n"
    )
    assert board.python(program).stdout == "True []\n"
    board.systemctl("disable", "--now", "ported", "ported.socket")
    assert is_enabled(board, "ported.socket") == "disabled"


def test_a_service_on_demand_comes_with_the_first_connection_and_leaves(board: Container) -> None:
    put(board, "lazy", "http = 8105", 'start = "demand"', more=PAGE, run=", idle_exit=0.5")
    board.systemctl("enable", "lazy")
    assert is_enabled(board, "lazy.socket") == "enabled"
    board.reboot()
    assert board.show("lazy", "ActiveState") == "inactive"
    assert get(board, 8105) == "the page"
    board.wait("lazy", lambda: board.show("lazy", "ActiveState") == "inactive")
    assert board.show("lazy", "Result") == "success"
    assert get(board, 8105) == "the page"
    board.systemctl("disable", "--now", "lazy", "lazy.socket")


def test_http_and_websocket_have_sockets_of_their_own(board: Container) -> None:
    more = PAGE + "app.attach(DaebusWebSocket(port=8107))\n"
    put(board, "doors", "http = 8106", "websocket = 8107", more=more)
    board.systemctl("start", "doors")
    said = str(board.wait_journal("doors", "is ready")["MESSAGE"])
    assert "8106" in said
    assert "8107" in said
    board.systemctl("stop", "doors", "doors.socket", "doors-websocket.socket")


# --- what it is, and what it has ---


def test_it_runs_as_a_user_of_its_own_with_what_it_asked_for(board: Container) -> None:
    board.run("groupadd -f lights && chgrp lights /dev/full && chmod 660 /dev/full")
    metadata = ('devices = ["/dev/full r"]', 'groups = ["lights"]', """environment = { A = "50% $HOME 'x' \\\\" }""")
    put(board, "special", *metadata)
    put(board, "ordinary")
    board.systemctl("start", "special", "ordinary")
    who = ask(board, "special", "who")
    assert isinstance(who, dict)
    assert who["environment"]["A"] == "50% $HOME 'x' \\"
    assert who["cwd"] == "/var/lib/private/daebus/special"
    assert ask(board, "special", "read", "/dev/full") == "00000000"
    assert ask(board, "special", "write", "/dev/full") != 1
    assert ask(board, "ordinary", "read", "/dev/full") == "Permission denied"
    other = ask(board, "ordinary", "who")
    assert isinstance(other, dict)
    assert who["uid"] != other["uid"] != 0
    for path in ("/run/daebus/redis/service-special.env", "/run/daebus/redis/admin.env", "/run/daebus/redis/users.acl"):
        assert ask(board, "ordinary", "read", path) == "Permission denied"
    board.systemctl("stop", "special", "ordinary")


def test_it_may_be_a_user_of_the_device(board: Container) -> None:
    board.run("useradd --uid 1234 pi")
    put(board, "static", 'user = "pi"')
    board.systemctl("start", "static")
    who = ask(board, "static", "who")
    assert isinstance(who, dict)
    assert who["uid"] == 1234
    board.systemctl("stop", "static")


def test_a_long_name_has_a_user_too(board: Container) -> None:
    name = "a-name-of-forty-eight-characters-which-is-allowed"[:48]
    put(board, name)
    board.systemctl("start", name)
    assert ask(board, name, "who")
    board.systemctl("stop", name)


def test_a_folder_has_modules_and_an_environment_of_its_own(board: Container) -> None:
    board.put("/opt/daebus/room/__main__.py", f"import furniture\n{script('room')}")
    board.put("/opt/daebus/room/furniture.py", "")
    board.run("python3 -m venv --without-pip --system-site-packages /opt/daebus/room/.venv && systemctl daemon-reload")
    board.systemctl("start", "room")
    who = ask(board, "room", "who")
    assert isinstance(who, dict)
    assert who["python"] == "/opt/daebus/room/.venv/bin/python"
    board.systemctl("stop", "room")


def test_a_script_that_is_called_like_a_module_of_python_harms_no_other(board: Container) -> None:
    board.put("/opt/daebus/queue.py", "raise SystemExit('this is no queue')\n")
    put(board, "unharmed")
    board.systemctl("start", "unharmed")
    board.systemctl("stop", "unharmed")
    board.run("rm /opt/daebus/queue.py && systemctl daemon-reload")


# --- what is refused ---


def test_what_is_refused_says_why_and_the_others_run(board: Container) -> None:
    board.put("/opt/daebus/open.py", script("open"), 0o666)
    board.put("/opt/daebus/foreign.py", script("foreign"))
    board.run("chown nobody /opt/daebus/foreign.py")
    board.put("/opt/daebus/dbus.py", script("dbus"))
    board.put("/opt/daebus/first.py", script("first", "http = 8110", more=PAGE))
    board.put("/opt/daebus/second.py", script("second", "http = 8110"))
    board.put("/opt/daebus/typo.py", script("typo", "htp = 8110"))
    put(board, "good")
    reasons = {
        "open": "others than root may write /opt/daebus/open.py; try: sudo chmod go-w /opt/daebus/open.py",
        "foreign": "/opt/daebus/foreign.py belongs to user 65534",
        "daebus-dbus": "the name 'dbus' is that of a unit of the system, /usr/lib/systemd/system/dbus.service",
        "second": "127.0.0.1:8110 is taken by /opt/daebus/first.py",
        "typo": "[tool.daebus] has no key 'htp'; did you mean 'http'?",
    }
    for unit, reason in reasons.items():
        assert board.systemctl("start", unit, check=False).returncode == 1
        assert board.show(unit, "ActiveState") == "failed"
        assert reason in board.show(unit, "Description")
        entries = [entry for entry in board.journal(unit) if reason in str(entry["MESSAGE"])]
        assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} >= {unit, "daebus-generator"}
        assert "3" in {entry["PRIORITY"] for entry in entries if entry["SYSLOG_IDENTIFIER"] == unit}
    assert board.systemctl("is-active", "dbus").stdout == "active\n"
    for unit in ("first", "good"):
        board.systemctl("start", unit)
    board.systemctl("stop", "first", "good")
    for name in ("open", "foreign", "dbus", "first", "second", "typo"):
        board.run(["rm", f"/opt/daebus/{name}.py"])
    board.run("systemctl reset-failed && systemctl daemon-reload")


def test_a_folder_that_others_may_write_is_refused_as_a_whole(board: Container) -> None:
    put(board, "whole")
    board.run("chmod 777 /opt/daebus && systemctl daemon-reload")
    try:
        assert "refused: others than root may write /opt/daebus;" in board.show("whole", "Description")
    finally:
        board.run("chmod 755 /opt/daebus && systemctl daemon-reload")
    assert "refused" not in board.show("whole", "Description")


# --- the bus ---


def test_what_it_may_do_on_the_bus_is_what_it_says(board: Container) -> None:
    put(board, "alpha", 'calls = ["beta"]')
    put(board, "beta")
    board.systemctl("start", "alpha", "beta")
    beta = ask(board, "beta", "who")
    assert isinstance(beta, dict)
    assert ask(board, "alpha", "call", "beta") == beta["uid"]
    assert "the right comes from `calls` in [tool.daebus]" in str(ask(board, "beta", "call", "alpha"))
    users = board.run("daebus-redis-cli acl users").stdout.split()
    assert {"service-alpha", "service-beta"} <= set(users)
    put(board, "alpha")
    board.systemctl("restart", "alpha")
    assert "the right comes from `calls`" in str(ask(board, "alpha", "call", "beta"))
    board.systemctl("restart", "redis-server@daebus")
    assert ask(board, "beta", "who") == beta
    board.systemctl("stop", "alpha", "beta")


def test_a_service_that_is_bad_is_refused_by_the_redis_of_this_release(board: Container) -> None:
    """What tests/live/test_rights.py tries, one by one, with the Redis of the machine that runs the tests."""
    board.run(["/usr/libexec/daebus/redis-users", "thief"])
    tries = [*HEAR, *SPEAK, *LEARN, *TOUCH]
    said = redis_as(board, "service-thief", tries)
    assert [words for words, answer in zip(tries, said, strict=True) if not answer.startswith(REFUSALS)] == []
    assert redis_as(board, "service-thief", [("SET", "thief:a", "1"), ("PUBLISH", "caller:x", "1")]) == ["OK", "0"]


def redis_as(device: Container, user: str, commands: list[tuple[str, ...]]) -> list[str]:
    """What Redis answers to one of its users, in one line for each command."""
    environment = device.read(f"/run/daebus/redis/{user}.env")
    password = environment.partition(f"unix://{user}:")[2].partition("@")[0]
    program = ["env", f"REDISCLI_AUTH={password}", "redis-cli", "-s", "/run/redis-daebus/redis-server.sock"]
    text = "".join(" ".join(map(json.dumps, words)) + "\n" for words in commands)
    lines = device.run([*program, "--user", user], text=text).stdout.splitlines()
    return [line for line in lines if line]


def test_many_start_at_once(board: Container) -> None:
    names = [f"many{number}" for number in range(8)]
    for name in names:
        board.put(f"/opt/daebus/{name}.py", script(name))
    board.systemctl("daemon-reload")
    board.systemctl("start", *names)
    assert [board.show(name, "NRestarts") for name in names] == ["0"] * 8
    board.systemctl("stop", *names)
    board.run(f"cd /opt/daebus && rm {' '.join(f'{name}.py' for name in names)} && systemctl daemon-reload")


# --- the network ---

OUTSIDE = ["--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON", "--system-call-filter=bpf"]
"""With this, systemd inside can filter the network, as on a device."""

WAY_OUT = """
import socket

@app.route("/out")
def out(req):
    try:
        return str(socket.create_connection(("10.9.9.9", 8120), 1).getpeername()[0])
    except OSError as error:
        return type(error).__name__
"""
SECOND_ADDRESS = """
import fcntl, socket, struct, urllib.request as u
request = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("10.9.9.9"))
with socket.socket() as one:
    fcntl.ioctl(one, 0x8916, request)  # SIOCSIFADDR
for port in (8120, 8121, 8122):
    print(u.urlopen(f"http://10.9.9.9:{port}/out", timeout=10).read().decode())
"""


def test_whom_it_may_reach_and_who_reaches_it(fresh_root: Path, repository: Path) -> None:
    """A port that systemd holds is for whom `http` says; where the service itself may go is `network`."""
    with Container(fresh_root, OUTSIDE) as device:
        add_repository(device, repository)
        apt_get(device, "install", "python3-daebus")
        for number, network in enumerate(("any", "device", "none")):
            words = (f'http = "0.0.0.0:{8120 + number}"', f'network = "{network}"')
            put(device, f"net-{network}", *words, more=PAGE + WAY_OUT)
            device.systemctl("start", f"net-{network}")
        assert device.python(SECOND_ADDRESS).stdout.split() == ["10.9.9.9", "TimeoutError", "OSError"]


# --- how long the boot waits ---

MEASURE = """
import statistics, subprocess, time
GENERATOR = "/usr/lib/systemd/system-generators/daebus-generator"
def measured(*command):
    times = []
    for _ in range(15):
        began = time.perf_counter()
        subprocess.run(command, check=True)
        times.append(time.perf_counter() - began)
    return min(times)
nothing = measured("/usr/bin/python3", "-IS", "-c", "pass")
made = measured(GENERATOR, "/tmp/made/normal", "/tmp/made/early", "/tmp/made/late")
print(f"{made / nothing:.2f}")
"""


@pytest.mark.parametrize(
    ("count", "metadata", "limit"), [(0, False, 3.5), (1, False, 4), (20, False, 6), (20, True, 12)]
)
def test_the_generator_is_quick(
    fresh_root: Path, board: Container, count: int, metadata: bool, limit: float, record_property: object
) -> None:
    """As a multiple of what Python needs for doing nothing."""
    board.run("mv /opt/daebus /opt/kept && mkdir /opt/daebus")
    try:
        for number in range(count):
            words = (f"http = {9000 + number}", 'calls = ["a"]', 'memory = "64M"') if metadata else ()
            board.put(f"/opt/daebus/s{number}.py", script(f"s{number}", *words))
        ratio = float(board.python(MEASURE).stdout)
    finally:
        board.run("rm -r /opt/daebus && mv /opt/kept /opt/daebus")
    if callable(record_property):
        record_property(f"{count} scripts{' with metadata' if metadata else ''}", ratio)
    assert ratio < limit


# --- the package comes and goes ---


def test_upgrade_remove_and_purge(fresh_root: Path, repository: Path, packages: Path) -> None:
    with Container(fresh_root) as device:
        add_repository(device, repository)
        apt_get(device, "install", "python3-daebus")
        put(device, "kept", "http = 8104", more=PAGE)
        put(device, "stopped")
        device.put("/opt/daebus/instance.py", script("instance"))
        device.systemctl("enable", "--now", "kept", "daebus@instance")
        device.systemctl("enable", "stopped")
        before = device.show("kept", "MainPID"), device.show("daebus@instance", "MainPID")

        upgrade(device)
        after = device.show("kept", "MainPID"), device.show("daebus@instance", "MainPID")
        assert "0" not in after
        assert before[0] != after[0]
        assert before[1] != after[1]
        assert device.show("stopped", "ActiveState") == "inactive"

        apt_get(device, "remove", "python3-daebus")
        assert device.show("kept", "LoadState") == "not-found"
        assert device.show("kept", "ActiveState") == device.show("daebus@instance", "ActiveState") == "inactive"
        assert device.read("/opt/daebus/kept.py")
        device.reboot()
        assert device.systemctl("--failed", "--quiet").stdout == ""

        apt_get(device, "install", "python3-daebus")
        device.wait_active("kept")
        assert get(device, 8104) == "the page"

        apt_get(device, "purge", "python3-daebus")
        assert device.read("/opt/daebus/kept.py")
        assert "daebus" not in device.run("find /etc/systemd /run/systemd/system /run/daebus", check=False).stdout
        assert "kept" not in device.run("find /etc/systemd /run/systemd/system").stdout


UPGRADE = textwrap.dedent("""
    import subprocess, sys, threading, urllib.request as u
    over, failed, done = [], [], []
    def ask():
        while not over:
            try:
                done.append(u.urlopen("http://127.0.0.1:8104/", timeout=30).read())
            except Exception as error:
                failed.append(repr(error))
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads: one.start()
    subprocess.run(["dpkg", "--install", "/srv/next.deb"], check=True, stdout=sys.stderr)
    over.append(1)
    for one in threads: one.join()
    print(len(done) > 10, failed)
""")


def upgrade(device: Container) -> None:
    """To a version that is the same but for its number, while four clients ask without a pause."""
    device.run(
        "cd /srv && dpkg-deb -R daebus/pool/python3-daebus_*.deb next && "
        "sed -i 's/^Version: .*/&+next/' next/DEBIAN/control && dpkg-deb -b next next.deb",
        timeout=60_000 * MS,
    )
    done = device.run(["python3", "-c", UPGRADE], timeout=120_000 * MS)
    assert done.stdout == "True []\n", done.stderr
