"""Debian's own tests of installed packages, those in packaging/debian/tests, run as Debian runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.packaging.debian import APT_SECONDS, apt_get, run
from tests.system.container import Container

AUTOPKGTEST = """
cd /srv/test
touch source/debian/files
autopkgtest --ignore-restrictions=isolation-container *.deb source/ -- null
"""
"""The container is one that is thrown away, which `null` cannot know. A tree with debian/files is one that was built:
nothing needs to be unpacked or built in there."""


def test_the_tests_that_the_source_package_brings_pass(fresh_root: Path, packages: Path, tmp_path: Path) -> None:
    run("dpkg-source", "--extract", *packages.glob("*.dsc"), tmp_path / "source")
    run("cp", *packages.glob("*.deb"), tmp_path)
    with Container(fresh_root) as device:
        apt_get(device, "install", "--no-install-recommends", "autopkgtest")
        shutil.copytree(tmp_path, device.outside("/srv/test"))
        done = device.run(AUTOPKGTEST, check=False, timeout=APT_SECONDS)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
    assert "smoke                PASS" in done.stdout + done.stderr
