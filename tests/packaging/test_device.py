"""A device with both packages: its own Redis, who can do what there, and the kiosk example."""

from __future__ import annotations

import re

import pytest

from tests.system.container import Container

SOCKET = "/run/redis-daebus/redis-server.sock"
UNITS = ("daebus-redis-users", "redis-server@daebus", "daebus-kiosk-device", "daebus-kiosk-panel")


def redis_as(device: Container, user: str, *words: str) -> str:
    """What Redis answers to one of its users."""
    environment = device.read(f"/run/daebus/redis/{user}.env")
    password = environment.partition(f"unix://{user}:")[2].partition("@")[0]
    command = ["env", f"REDISCLI_AUTH={password}", "redis-cli", "-s", SOCKET, "--user", user, *words]
    return device.run(command).stdout.strip()


def setting(device: Container, name: str) -> str:
    return device.run(["daebus-redis-cli", "config", "get", name]).stdout.partition("\n")[2].strip()


# --- systemd ---


@pytest.mark.parametrize("unit", UNITS)
def test_it_is_up(device: Container, unit: str) -> None:
    device.wait_active(unit)
    assert device.show(unit, "NRestarts") in ("0", "")
    assert device.systemctl("is-enabled", unit, check=False).stdout.strip() in ("enabled", "static")


def test_the_instance_is_enabled_as_any_unit(device: Container) -> None:
    assert device.systemctl("is-enabled", "redis-server@daebus").stdout == "enabled\n"


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_with_its_unit(device: Container, unit: str) -> None:
    done = device.run(["systemd-analyze", "verify", "--man=no", f"{unit}.service"])
    assert [line for line in done.stderr.splitlines() if "daebus" in line] == []


@pytest.mark.parametrize("unit", UNITS)
def test_its_unit_can_do_little_harm(device: Container, unit: str) -> None:
    said = device.run(["systemd-analyze", "security", "--no-pager", f"{unit}.service"]).stdout
    found = re.search(r"exposure level for \S+: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= 1.5, said


# --- the socket ---


def test_the_socket_is_for_the_group(device: Container) -> None:
    assert device.run(f"stat -c '%F %U %G %a' {SOCKET}").stdout == "socket redis daebus 770\n"


def test_others_cannot_reach_it(device: Container) -> None:
    done = device.run(f"setpriv --reuid=nobody --clear-groups redis-cli -s {SOCKET} ping", check=False)
    assert "Permission denied" in done.stdout + done.stderr


def test_the_group_reaches_it_and_needs_a_password(device: Container) -> None:
    done = device.run(f"setpriv --reuid=nobody --regid=daebus --clear-groups redis-cli -s {SOCKET} ping", check=False)
    assert "NOAUTH" in done.stdout


@pytest.mark.parametrize("name", ["admin.env", "service.env", "users.acl"])
def test_the_group_cannot_read_the_secrets(device: Container, name: str) -> None:
    command = f"setpriv --reuid=nobody --regid=daebus --clear-groups cat /run/daebus/redis/{name}"
    assert "Permission denied" in device.run(command, check=False).stderr


# --- the configuration ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "0"),
        ("save", ""),
        ("appendonly", "no"),
        ("maxmemory", str(96 << 20)),
        ("maxmemory-policy", "noeviction"),
        ("maxmemory-clients", str(64 << 20)),
        ("aclfile", "/run/daebus/redis/users.acl"),
    ],
)
def test_redis_keeps_to_its_limits(device: Container, name: str, value: str) -> None:
    assert setting(device, name) == value


def test_subscribers_have_their_limit(device: Container) -> None:
    assert f"pubsub {32 << 20} {8 << 20} 30" in setting(device, "client-output-buffer-limit")


def test_a_full_memory_refuses_keys_and_lets_messages_pass(device: Container) -> None:
    try:
        redis_as(device, "admin", "config", "set", "maxmemory", "1mb")
        redis_as(device, "admin", "debug", "jmap")  # refused; debug commands are off for everybody
        filler = "\n".join(f"set test:{number} {'x' * 4000}" for number in range(200))
        answers = device.run(["daebus-redis-cli"], text=filler).stdout
        assert "OOM command not allowed" in answers
        assert redis_as(device, "service", "publish", "anything", "text") == "0"
    finally:
        redis_as(device, "admin", "config", "set", "maxmemory", "96mb")
        redis_as(device, "admin", "flushall")


# --- users ---


def test_root_has_redis_cli(device: Container) -> None:
    assert device.run(["daebus-redis-cli", "ping"]).stdout == "PONG\n"
    assert device.run(["daebus-redis-cli", "acl", "whoami"]).stdout == "admin\n"


def test_only_root_has_it(device: Container) -> None:
    done = device.run("setpriv --reuid=nobody --clear-groups daebus-redis-cli ping", check=False)
    assert done.returncode == 1
    assert "only root" in done.stderr


def test_the_default_user_is_off(device: Container) -> None:
    users = device.run(["daebus-redis-cli", "acl", "list"]).stdout.splitlines()
    found = {user.split()[1]: user.split()[2] for user in users}
    assert found.pop("default") == "off"
    assert found == dict.fromkeys(["admin", "service", "service-kiosk-device", "service-kiosk-panel"], "on")


@pytest.mark.parametrize(
    "command",
    [
        "config get dir",
        "flushall",
        "flushdb",
        "keys *",
        "monitor",
        "shutdown",
        "acl list",
        "client list",
        "client kill type normal",
        "replicaof 127.0.0.1 1",
        "debug jmap",
        "module list",
        "save",
        "swapdb 0 1",
    ],
)
def test_what_is_dangerous_is_refused(device: Container, command: str) -> None:
    answer = redis_as(device, "service", *command.split())
    assert "NOPERM" in answer or "not allowed" in answer


def test_what_services_need_works(device: Container) -> None:
    assert redis_as(device, "service", "set", "test:key", "value", "NX", "EX", "5") == "OK"
    assert redis_as(device, "service", "get", "test:key") == "value"
    assert redis_as(device, "service", "publish", "test", "value") == "0"
    assert redis_as(device, "service", "pubsub", "numsub", "test") == "test\n0"
    assert redis_as(device, "service", "client", "setname", "test") == "OK"
    assert redis_as(device, "service", "del", "test:key") == "1"


def test_users_can_be_added_while_redis_runs(device: Container) -> None:
    """Those that are connected do not notice: passwords stay, and Redis stays up."""
    before = device.read("/run/daebus/redis/service.env"), device.show("redis-server@daebus", "MainPID")
    device.put("/run/daebus/redis/users.d/lamp.acl", "user lamp reset on nopass +ping\n")
    try:
        device.systemctl("restart", "daebus-redis-users")
        assert "lamp" in device.run(["daebus-redis-cli", "acl", "users"]).stdout.split()
        assert before == (device.read("/run/daebus/redis/service.env"), device.show("redis-server@daebus", "MainPID"))
        device.put("/run/daebus/redis/users.d/lamp.acl", "user lamp +nonsense\n")
        device.systemctl("restart", "daebus-redis-users", check=False)
        assert device.show("daebus-redis-users", "Result") == "exit-code"
        device.wait_journal("daebus-redis-users", "Redis did not take the users")
        assert "lamp" in device.run(["daebus-redis-cli", "acl", "users"]).stdout.split()
    finally:
        device.run(["rm", "/run/daebus/redis/users.d/lamp.acl"])
        device.systemctl("restart", "daebus-redis-users")
    assert "lamp" not in device.run(["daebus-redis-cli", "acl", "users"]).stdout.split()


# --- the kiosk ---


def test_the_page_is_there(device: Container) -> None:
    program = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/', timeout=5).read().decode())"
    assert "<!doctype html>" in device.python(program).stdout.lower()


def test_the_services_answer(device: Container) -> None:
    url = device.read("/run/daebus/redis/service.env").strip()
    ask = "from daebus import DaebusCaller; print(sorted(DaebusCaller('device').send_request('readings')))"
    assert "'load'" in device.run(["env", url, "python3", "-c", ask]).stdout


def test_the_panel_writes_no_line_each_second(device: Container) -> None:
    """The table that it draws for a terminal is not for the journal."""
    device.wait_journal("daebus-kiosk-panel", "is ready")
    assert not [entry for entry in device.journal("daebus-kiosk-panel") if "memory" in str(entry["MESSAGE"])]


LAMP = """
from daebus import Daebus
app = Daebus(__name__)
app.action("switch")(lambda: "on")
app.run(service="lamp")
"""


def test_a_script_becomes_a_service(device: Container) -> None:
    device.put("/opt/daebus/lamp.py", LAMP)
    device.systemctl("start", "daebus@lamp")
    url = device.read("/run/daebus/redis/service.env").strip()
    ask = "from daebus import DaebusCaller; print(DaebusCaller('lamp').send_request('switch'))"
    assert device.run(["env", url, "python3", "-c", ask]).stdout == "on\n"
    device.systemctl("stop", "daebus@lamp")


def test_a_reboot_brings_all_of_it_back_with_new_passwords(device: Container) -> None:
    before = device.read("/run/daebus/redis/service.env")
    device.reboot()
    for unit in UNITS:
        device.wait_active(unit)
    assert device.read("/run/daebus/redis/service.env") != before
    assert device.systemctl("--failed", "--quiet").stdout == ""
