"""The packages, built once; a repository of them; and fresh devices of both releases of Debian to install them on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.debian import ADD_HTTP_REPOSITORY, APT_SECONDS, apt_get, run, served
from tests.support import ROOT, skip_or_fail
from tests.system.container import Container

SUITES = ("bookworm", "trixie")
TOOLS = (
    "dpkg-buildpackage",
    "lintian",
    "apt-ftparchive",
    "gpg",
    "piuparts",
    "systemd-nspawn",
    "nsenter",
    "unshare",
    "setpriv",
)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the packages, which were built twice and came out the same. Who works on the tests themselves
    can name one that is there: DAEBUS_TEST_PACKAGES=$PWD/build/deb."""
    need_tools()
    if there := os.environ.get("DAEBUS_TEST_PACKAGES"):
        return Path(there)
    folder = tmp_path_factory.mktemp("packages") / "deb"
    said = run(ROOT / "packaging" / "build-deb", "--twice", folder)
    assert "both builds are the same, byte for byte" in said
    return folder


@pytest.fixture(scope="session")
def repository(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The signed repository of the packages."""
    folder = tmp_path_factory.mktemp("repository") / "repo"
    run(ROOT / "packaging" / "make-repo", packages, folder)
    return folder


@pytest.fixture(scope="session", params=SUITES)
def fresh_root(request: pytest.FixtureRequest) -> Path:
    """A Debian that has never heard of Daebus; what boots from it does not change it."""
    need_tools()
    if os.geteuid() != 0:
        skip_or_fail("only root can boot containers")
    make_root = Path(__file__).parent / "make-root"
    done = subprocess.run([str(make_root), request.param], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        skip_or_fail(f"no fresh Debian {request.param}: {done.stderr.strip()}")
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def device(fresh_root: Path, repository: Path) -> Iterator[Container]:
    """A device with both packages, for all tests of a module, which leave it as it is. They came over HTTP."""
    with Container(fresh_root) as booted:
        with served(booted, repository):
            booted.run(ADD_HTTP_REPOSITORY, timeout=APT_SECONDS)
            apt_get(booted, "install", "python3-daebus", "daebus-kiosk")
        yield booted


def need_tools() -> None:
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        skip_or_fail(f"{', '.join(missing)} missing (make test installs what tests of the packages need, as root)")
