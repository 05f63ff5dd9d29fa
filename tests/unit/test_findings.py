"""What `daebus doctor` makes of numbers and settings: by tables, each side of each limit."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("click")

from daebus.cli import findings
from daebus.cli.findings import MIB, NOT_HERE, OK, PROBLEM, WARNING, Finding, Unit, numbers_of, size

GIB = 1024 * MIB


def levels(found: Finding | list[Finding]) -> list[str]:
    """How they are; and whatever is not well comes with a fix in one line."""
    several = found if isinstance(found, list) else [found]
    for one in several:
        assert bool(one.fix) is (one.level in (WARNING, PROBLEM)), one
        assert "\n" not in one.text + one.fix
    return [one.level for one in several]


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "7.0.15"}, OK),
        ({"redis_version": "6.2.0"}, OK),
        ({"redis_version": "6.0.16"}, WARNING),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, OK),
        ({}, WARNING),
    ],
)
def test_the_version_of_redis(info: dict[str, str], level: str) -> None:
    assert levels(findings.redis_version(info)) == [level]


def test_numbers_of_versions() -> None:
    assert [numbers_of(text) for text in ("7.0.15", "6.2rc1.5", "x", "")] == [(7, 0, 15), (6, 2), (), ()]


@pytest.mark.parametrize(
    ("used", "most", "policy", "level"),
    [
        (50, 100, "noeviction", OK),
        (91, 100, "noeviction", PROBLEM),
        (91, 100, "allkeys-lru", PROBLEM),
        (50, 100, "allkeys-lru", WARNING),
        (50, 0, "noeviction", WARNING),
    ],
)
def test_the_memory_of_redis(used: int, most: int, policy: str, level: str) -> None:
    info = {"used_memory": str(used), "maxmemory": str(most), "maxmemory_policy": policy}
    assert levels(findings.redis_memory(info)) == [level]


@pytest.mark.parametrize(
    ("save", "appendonly", "level"), [("", "no", OK), ("3600 1", "no", WARNING), ("", "yes", WARNING)]
)
def test_what_redis_writes(save: str, appendonly: str, level: str) -> None:
    assert levels(findings.redis_disk({"save": save, "appendonly": appendonly})) == [level]


@pytest.mark.parametrize(
    ("limit", "level"),
    [
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", OK),
        ("pubsub 33554432 8388608 30", OK),
        ("pubsub 0 0 0", WARNING),
        ("pubsub 1048576 0 0", WARNING),
        ("pubsub 33554432 65536 60", WARNING),
        ("pubsub 33554432 8388608 1", WARNING),
        ("pubsub 33554432 0 0", OK),
        ("normal 0 0 0", NOT_HERE),
        ("", NOT_HERE),
    ],
)
def test_what_may_wait_for_a_subscriber(limit: str, level: str) -> None:
    assert levels(findings.redis_buffers(limit)) == [level]


OPEN = {"port": "6379", "protected-mode": "no", "bind": "* -::*"}


@pytest.mark.parametrize(
    ("user", "password", "settings", "mode", "level"),
    [
        ("service-lamp", True, OPEN, None, OK),
        ("default", True, OPEN, None, OK),
        ("default", False, OPEN, None, PROBLEM),
        ("default", False, {**OPEN, "bind": ""}, None, PROBLEM),
        ("default", False, {**OPEN, "bind": "127.0.0.1 192.168.1.2"}, None, PROBLEM),
        ("default", False, {**OPEN, "bind": "127.0.0.1 -::1"}, None, OK),
        ("default", False, {**OPEN, "protected-mode": "yes"}, None, OK),
        ("default", False, {**OPEN, "port": "0"}, 0o140770, OK),
        ("default", False, {**OPEN, "port": "0"}, 0o140777, WARNING),
        ("default", False, {}, None, OK),
    ],
)
def test_who_can_reach_redis(user: str, password: bool, settings: dict[str, str], mode: int | None, level: str) -> None:
    assert levels(findings.redis_access(user, password, settings, mode)) == [level]


@pytest.mark.parametrize(
    ("year", "synchronised", "level"),
    [(1970, True, PROBLEM), (2026, True, OK), (2026, False, WARNING), (2026, None, NOT_HERE)],
)
def test_the_clock(year: int, synchronised: bool | None, level: str) -> None:
    assert levels(findings.clock(year, synchronised)) == [level]


@pytest.mark.parametrize(
    ("free", "free_files", "read_only", "expected"),
    [
        (50, 500, False, [OK]),
        (9, 500, False, [WARNING]),
        (2, 500, False, [PROBLEM]),
        (50, 40, False, [PROBLEM]),
        (50, 500, True, [WARNING]),
        (2, 40, True, [WARNING, PROBLEM, PROBLEM]),
    ],
)
def test_a_disk(free: int, free_files: int, read_only: bool, expected: list[str]) -> None:
    assert levels(findings.disk("/", free * GIB, 100 * GIB, free_files, 1000, read_only)) == expected


def test_a_file_system_that_counts_no_inodes() -> None:
    assert levels(findings.disk("/boot", 50, 100, 0, 0, False)) == [OK]


@pytest.mark.parametrize(
    ("available", "swaps", "expected"),
    [
        (50, [], [OK]),
        (8, [], [WARNING]),
        (3, [], [PROBLEM]),
        (50, ["/dev/zram0"], [OK, OK]),
        (50, ["/var/swap", "/dev/zram0"], [OK, WARNING]),
    ],
)
def test_memory(available: int, swaps: list[str], expected: list[str]) -> None:
    assert levels(findings.memory({"MemAvailable": available, "MemTotal": 100}, swaps)) == expected


@pytest.mark.parametrize(("size", "answers", "level"), [(4096, False, OK), (16384, True, OK), (16384, False, WARNING)])
def test_pages(size: int, answers: bool, level: str) -> None:
    assert levels(findings.pages(size, answers)) == [level]


@pytest.mark.parametrize(
    ("bits", "level"),
    [
        (0, OK),
        (0x1, PROBLEM),
        (0x50005, PROBLEM),
        (0x4, WARNING),
        (0x8, WARNING),
        (0x10000, WARNING),
        (0x80000, WARNING),
    ],
)
def test_a_raspberry_pi(bits: int, level: str) -> None:
    assert levels(findings.throttled(bits)) == [level]


@pytest.mark.parametrize(
    ("persistent", "used", "level"),
    [(True, MIB, OK), (True, 2 * GIB, WARNING), (False, MIB, WARNING), (False, None, NOT_HERE)],
)
def test_the_journal(persistent: bool, used: int | None, level: str) -> None:
    assert levels(findings.journal(persistent, used)) == [level]


def test_python_and_packages() -> None:
    assert levels(findings.versions((3, 11, 2), {"h11": "0.14"})) == [OK]
    assert levels(findings.versions((3, 10, 9), {"h11": "0.14", "wsproto": None})) == [PROBLEM, PROBLEM]


@pytest.mark.parametrize(
    ("fields", "started", "changed", "expected"),
    [
        ({"ActiveState": "active"}, 10.0, 5.0, [OK]),
        ({"ActiveState": "active"}, 10.0, 15.0, [WARNING]),
        ({"ActiveState": "inactive"}, 10.0, 15.0, [OK]),
        ({"ActiveState": "active"}, 0.0, 15.0, [OK]),
        ({"ActiveState": "failed", "Result": "watchdog"}, 0.0, 0.0, [PROBLEM]),
        ({"ActiveState": "activating", "NRestarts": "0"}, 0.0, 0.0, [OK]),
        ({"ActiveState": "activating", "NRestarts": "1"}, 0.0, 0.0, [PROBLEM]),
        ({"ActiveState": "active", "NRestarts": "5"}, 10.0, 5.0, [OK]),
        ({"ActiveState": "active", "NeedDaemonReload": "yes"}, 10.0, 15.0, [WARNING, WARNING]),
        ({"ActiveState": "failed", "Description": "Daebus service x (refused: it is too large)"}, 0.0, 0.0, [PROBLEM]),
        ({}, 0.0, 0.0, [OK]),
    ],
)
def test_a_unit(fields: dict[str, str], started: float, changed: float, expected: list[str]) -> None:
    assert levels(findings.unit(Unit("lamp.service", fields, started, changed))) == expected


def test_a_unit_that_was_started_anew_is_told_with_how_often() -> None:
    def said(state: str, restarts: str, sub: str = "") -> str:
        fields = {"ActiveState": state, "SubState": sub, "NRestarts": restarts}
        (found,) = findings.unit(Unit("lamp.service", fields))
        return f"{found.level}: {found.text}"

    assert said("activating", "7") == "problem: it fails, and systemd starts it anew: 7 times until now"
    assert (
        said("activating", "0", "auto-restart")
        == "problem: it fails, and systemd starts it anew: for the first time now"
    )
    assert said("activating", "0", "start") == "ok: activating"
    assert said("active", "1") == "ok: active; it has failed, and was started anew, once until now"
    assert said("active", "0") == "ok: active"


def test_scripts_that_others_may_change() -> None:
    assert levels(findings.scripts([], [])) == [OK]
    found = findings.scripts(["/opt/daebus"], ["/opt/daebus/lamp.py"])
    assert levels(found) == [PROBLEM, PROBLEM]
    assert [one.fix for one in found] == ["sudo chmod go-w /opt/daebus", "sudo chown root:root /opt/daebus/lamp.py"]


@pytest.mark.parametrize(
    ("state", "owner", "level"),
    [("active", None, OK), ("active", "systemd", OK), ("failed", "nginx (process 5)", PROBLEM), ("failed", None, OK)],
)
def test_a_port(state: str, owner: str | None, level: str) -> None:
    assert levels(findings.port(8080, "lamp.socket", state, owner)) == [level]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (96 * MIB, "96 MB"), (5000 * GIB, "5000 GB")]
)
def test_sizes(count: Any, text: str) -> None:
    assert size(count) == text
