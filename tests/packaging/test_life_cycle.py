"""From the installation to the purge, beside a Redis that the owner of the device has set up for something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.debian import add_repository, apt_get
from tests.system.container import Container

STOCK = "/etc/redis/redis.conf"
FINGERPRINT = f"stat -c '%U %G %a %Y' {STOCK} && sha256sum {STOCK} && systemctl show -p MainPID redis-server"
PING = "daebus-redis-cli ping"


def stock_redis(device: Container) -> str:
    """All that must stay as it was: the configuration, whose it is, the process, what it keeps."""
    kept = device.run("redis-cli get mine").stdout
    return device.run(FINGERPRINT).stdout + kept


def with_stock_redis(device: Container) -> str:
    """Install Debian's Redis, change its configuration, and return how it is then."""
    apt_get(device, "install", "redis-server")
    device.run(f"echo 'maxclients 77' >>{STOCK} && systemctl restart redis-server")
    device.run("redis-cli set mine value")
    return stock_redis(device)


def files(device: Container) -> set[str]:
    """Everything that is kept, except logs and what apt has downloaded."""
    pruned = " -o ".join(f"-path {path}" for path in ("/proc", "/sys", "/run", "/srv", "/var/log", "/var/cache"))
    return set(device.run(f"find / \\( {pruned} \\) -prune -o -print").stdout.splitlines())


def ours(paths: set[str]) -> set[str]:
    return {path for path in paths if "daebus" in path.lower()}


def test_install_remove_reinstall_purge(fresh_root: Path, repository: Path) -> None:
    with Container(fresh_root) as device:
        stock = with_stock_redis(device)
        add_repository(device, repository)
        before = files(device)

        apt_get(device, "install", "daebus-kiosk")
        assert device.run(PING).stdout == "PONG\n"
        assert stock_redis(device) == stock

        apt_get(device, "remove", "python3-daebus")
        for unit in ("redis-server@daebus", "daebus-kiosk-panel", "daebus-redis-users"):
            assert device.show(unit, "ActiveState") == "inactive"
        assert device.read("/etc/redis/redis-daebus.conf")
        device.reboot()
        assert device.systemctl("--failed", "--quiet").stdout == ""

        apt_get(device, "install", "python3-daebus")
        assert device.run(PING).stdout == "PONG\n"
        device.systemctl("disable", "--now", "redis-server@daebus")
        apt_get(device, "install", "--reinstall", "python3-daebus")
        assert device.systemctl("is-enabled", "redis-server@daebus", check=False).stdout == "disabled\n"

        apt_get(device, "purge", "python3-daebus", "daebus-kiosk")
        assert ours(files(device)) == ours(before)
        assert device.run("ls -d /run/daebus /run/redis-daebus", check=False).stdout == ""
        assert device.run("getent group daebus", check=False).stdout == ""
        assert stock_redis(device).split("MainPID")[0] == stock.split("MainPID")[0]


def test_valkey_takes_redis_place(fresh_root: Path, repository: Path) -> None:
    if "bookworm" in fresh_root.name:
        pytest.skip("Debian 12 has no valkey-server")
    with Container(fresh_root) as device:
        add_repository(device, repository)
        apt_get(device, "install", "valkey-server", "daebus-kiosk")
        assert device.run("dpkg -s redis-server", check=False).returncode
        assert device.run(PING).stdout == "PONG\n"
        assert device.systemctl("is-active", "valkey-server@daebus").stdout == "active\n"
        for unit in ("daebus-kiosk-device", "daebus-kiosk-panel"):
            device.wait_active(unit)
        assert device.systemctl("--failed", "--quiet").stdout == ""
