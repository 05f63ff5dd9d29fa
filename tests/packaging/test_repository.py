"""The signed repository, as apt sees it on a Debian that is not booted: while an image is made, for example."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packaging.debian import ADD_REPOSITORY, Trial, run
from tests.support import ROOT


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


@pytest.mark.parametrize("name", ["InRelease", "main/binary-amd64/Packages"])
def test_an_altered_index_is_refused(fresh_root: Path, repository: Path, tmp_path: Path, name: str) -> None:
    altered = tmp_path / "repo"
    shutil.copytree(repository, altered)
    file = altered / "dists/stable" / name
    file.write_text(file.read_text().replace("Daebus", "Evil").replace("daebus", "evil"), encoding="utf-8")
    for packed in altered.glob("dists/stable/main/*/Packages.gz"):
        packed.unlink()
    done = Trial(fresh_root, altered).run(ADD_REPOSITORY)
    assert done.returncode != 0, done.stdout


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
