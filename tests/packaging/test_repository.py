"""The signed repository, as apt sees it: as files, on a Debian that is not booted, as while an image is made; and over
HTTP on one that is booted, from where the devices of other tests have their packages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packaging.debian import (
    ADD_HTTP_REPOSITORY,
    ADD_REPOSITORY,
    APT_SECONDS,
    Trial,
    alter,
    apt_get,
    run,
    served,
)
from tests.support import ROOT
from tests.system.container import CommandFailed, Container

INDEXES = ("InRelease", "main/binary-amd64/Packages")


def test_apt_installs_from_it(fresh_root: Path, repository: Path) -> None:
    """Without systemd at work nothing is started, and everything is enabled for the first boot."""
    done = Trial(fresh_root, repository).run(
        f"{ADD_REPOSITORY}"
        "apt-get -q -y install python3-daebus daebus-kiosk\n"
        "systemctl is-enabled redis-server@daebus daebus-kiosk-device daebus-kiosk-panel\n"
        "cd / && python3 -c 'import daebus, Daebus; print(daebus.__file__)'\n"
        "getent group daebus\n"
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("enabled\n") >= 3
    assert "/usr/lib/python3/dist-packages/daebus/__init__.py\ndaebus:x:" in done.stdout


@pytest.mark.parametrize("name", INDEXES)
def test_an_altered_index_is_refused(fresh_root: Path, repository: Path, tmp_path: Path, name: str) -> None:
    altered = tmp_path / "repo"
    shutil.copytree(repository, altered)
    alter(altered, name)
    done = Trial(fresh_root, altered).run(ADD_REPOSITORY)
    assert done.returncode != 0, done.stdout


def test_what_is_altered_is_refused_over_http_too(fresh_root: Path, repository: Path, tmp_path: Path) -> None:
    """In the order in which apt reads it: both indexes, and the package."""
    altered = tmp_path / "repo"
    with Container(fresh_root) as device:
        for name in INDEXES:
            shutil.copytree(repository, altered)
            alter(altered, name)
            with served(device, altered):
                assert device.run(ADD_HTTP_REPOSITORY, check=False, timeout=APT_SECONDS).returncode != 0
            shutil.rmtree(altered)

        shutil.copytree(repository, altered)
        for package in altered.glob("pool/python3-daebus_*"):
            package.write_bytes(package.read_bytes().replace(b"data.tar", b"evil.tar", 1))
        with served(device, altered):
            device.run(ADD_HTTP_REPOSITORY, timeout=APT_SECONDS)
            with pytest.raises(CommandFailed, match="Hash Sum mismatch"):
                apt_get(device, "install", "--download-only", "python3-daebus")


def test_a_repository_with_another_key_is_refused(
    fresh_root: Path, repository: Path, packages: Path, tmp_path: Path
) -> None:
    """The device has our key; who signs the same packages with a key of his own gets nowhere."""
    forged = tmp_path / "repo"
    run(ROOT / "packaging" / "make-repo", packages, forged)
    shutil.copy(repository / "daebus-archive-keyring.asc", forged)
    done = Trial(fresh_root, forged).run(ADD_REPOSITORY)
    assert done.returncode != 0, done.stdout
    assert "NO_PUBKEY" in done.stdout or "Missing key" in done.stdout, done.stdout


@pytest.mark.parametrize("architecture", ["all", "amd64", "arm64", "armhf"])
def test_every_architecture_finds_both_packages(repository: Path, architecture: str) -> None:
    index = (repository / f"dists/stable/main/binary-{architecture}/Packages").read_text(encoding="utf-8")
    assert index.count("\nFilename: ") == 2
