"""Debian's own checker of installation and removal: what it finds changed after a purge is an error.

On one release, for it takes half a minute. test_life_cycle.py compares the files on both, in its own way.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.debian import run

ONLY_THIS_REPOSITORY = """#!/bin/sh
set -eu
rm -f /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:{folder} ./' >/etc/apt/sources.list
"""

NO_NETWORK = ("unshare", "--net")
OPTIONS = ("--keep-sources-list", "--no-eatmydata")


@pytest.mark.parametrize("fresh_root", ["bookworm"], indirect=True)
def test_piuparts_finds_nothing_left_behind(fresh_root: Path, packages: Path, tmp_path: Path) -> None:
    """It copies the root file system, empties apt's cache there, and calls the script that names a repository."""
    depended_on = repository_of(fresh_root / "var/cache/apt/archives", tmp_path / "depended-on")
    script = tmp_path / "scripts" / "post_chroot_unpack_repository"
    script.parent.mkdir()
    script.write_text(ONLY_THIS_REPOSITORY.format(folder=depended_on), encoding="utf-8")
    script.chmod(0o755)

    suite = fresh_root.name.split("-")[1]
    where = (f"--existing-chroot={fresh_root}", f"--distribution={suite}", f"--tmpdir={tmp_path}")
    what = (f"--scriptsdir={script.parent}", f"--bindmount={depended_on}")
    said = run(*NO_NETWORK, "piuparts", *where, *OPTIONS, *what, *packages.glob("*.deb"))
    assert "PASS: Installation and purging test." in said


def repository_of(packages: Path, folder: Path) -> Path:
    """An unsigned repository of all packages in a folder."""
    run("cp", "-r", packages, folder)
    index = run("apt-ftparchive", "packages", folder)
    (folder / "Packages").write_text(index.replace(f"{folder}/", ""), encoding="utf-8")
    return folder
