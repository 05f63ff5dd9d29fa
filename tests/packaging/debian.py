"""What the tests of the packages do with Debian's tools, on this machine and on the devices."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import MS, ROOT, wait_for
from tests.system.container import Container

BUILD_SECONDS = 600_000 * MS
APT_SECONDS = 300_000 * MS

ADD_REPOSITORY = """
install -D -m 644 /srv/daebus/daebus-archive-keyring.asc /etc/apt/keyrings/daebus.asc
echo 'deb [signed-by=/etc/apt/keyrings/daebus.asc] file:/srv/daebus stable main' >/etc/apt/sources.list.d/daebus.list
apt-get -q update
"""

HTTP_PORT = 8099
ADD_HTTP_REPOSITORY = ADD_REPOSITORY.replace("file:/srv/daebus", f"http://127.0.0.1:{HTTP_PORT}")


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


@contextmanager
def served(device: Container, repository: Path) -> Iterator[None]:
    """The repository at a port of the device's own loopback interface, and its key on the device. The web server runs
    out here: in there, Python is yet to be installed."""
    key = "daebus-archive-keyring.asc"
    device.put(f"/srv/daebus/{key}", (repository / key).read_text(encoding="utf-8"))
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", f"--directory={repository}", str(HTTP_PORT)]
    enter = ["nsenter", f"--target={device.leader}", "--net", "--"]
    with subprocess.Popen([*enter, *serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: accepts(device, HTTP_PORT), message="the repository is served")
            yield
        finally:
            server.terminate()


def accepts(device: Container, port: int) -> bool:
    try:
        device.connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


def alter(repository: Path, name: str) -> None:
    """Change an index after it was signed. The packed ones go, so that apt looks at this one."""
    file = repository / "dists/stable" / name
    file.write_text(file.read_text().replace("Daebus", "Evil").replace("daebus", "evil"), encoding="utf-8")
    for packed in repository.glob("dists/stable/main/*/Packages.gz"):
        packed.unlink()


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
