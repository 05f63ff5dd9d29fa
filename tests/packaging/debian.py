"""What the tests of the packages do with Debian's tools, on this machine and on the devices."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import MS, ROOT
from tests.system.container import Container

BUILD_SECONDS = 600_000 * MS
APT_SECONDS = 300_000 * MS

ADD_REPOSITORY = """
install -D -m 644 /srv/daebus/daebus-archive-keyring.asc /etc/apt/keyrings/daebus.asc
echo 'deb [signed-by=/etc/apt/keyrings/daebus.asc] file:/srv/daebus stable main' >/etc/apt/sources.list.d/daebus.list
apt-get -q update
"""


def run(*command: str | Path) -> str:
    """What a command prints; if it fails, so does the test, and shows it."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    if done.returncode:
        pytest.fail(f"{command[0]}: status {done.returncode}\n{done.stdout[-10_000:]}", pytrace=False)
    return done.stdout


def apt_get(device: Container, *arguments: str) -> str:
    """Let a device's apt-get do something, without a question."""
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", *arguments]
    return device.run(command, timeout=APT_SECONDS).stdout


def add_repository(device: Container, repository: Path) -> None:
    """What a user does once, before the first `apt install`."""
    shutil.copytree(repository, device.outside("/srv/daebus"))
    device.run(ADD_REPOSITORY, timeout=APT_SECONDS)


class Trial:
    """A fresh Debian that is not booted, as while an image is made: each `run` begins anew."""

    def __init__(self, root: Path, repository: Path) -> None:
        self._root, self._repository = root, repository

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._nspawn(), "sh", "-euc", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=APT_SECONDS,
        )

    def _nspawn(self) -> list[str]:
        return [
            *("systemd-nspawn", "--quiet", f"--directory={self._root}", "--volatile=overlay", "--private-network"),
            *("--register=no", "--keep-unit", "--pipe", "--resolv-conf=off", "--timezone=off", "--as-pid2"),
            *(f"--bind-ro={self._repository}:/srv/daebus", "--setenv=DEBIAN_FRONTEND=noninteractive"),
        ]
