"""Containers for the tests of this folder: each test runs on both releases of Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import skip_or_fail
from tests.system.container import Container

SUITES = ("bookworm", "trixie")
TOOLS = ("systemd-nspawn", "nsenter", "unshare", "setpriv", "flock")


@pytest.fixture(scope="session", params=SUITES)
def debian_root(request: pytest.FixtureRequest) -> Path:
    """The root file system of a release, built if it is not there yet; what boots from it does not change it."""
    need_containers()
    make_root = Path(__file__).parent / "make-root"
    done = subprocess.run([str(make_root), request.param], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        skip_or_fail(f"no root file system of Debian {request.param}: {done.stderr.strip()}")
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def container(debian_root: Path) -> Iterator[Container]:
    """A booted container with Daebus and its Redis, for all tests of a module; they use unit names of their own."""
    with Container(debian_root) as booted:
        booted.install_daebus()
        booted.start_redis()
        yield booted


def need_containers() -> None:
    """Whether this machine can boot containers; else the test is skipped."""
    if os.geteuid() != 0:
        skip_or_fail("only root can boot containers")
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        skip_or_fail(f"{', '.join(missing)} missing (make test installs systemd-container where it may)")
    if subprocess.run([str(shutil.which("unshare")), "--mount", "true"], capture_output=True, check=False).returncode:
        skip_or_fail("this root may not mount anything")
    if "cgroup2" not in Path("/proc/self/mounts").read_text():
        skip_or_fail("this machine has no unified control groups")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """A failed test comes with the end of its container's journal."""
    outcome = yield
    report = outcome.get_result()
    found = getattr(item, "funcargs", {}).get("container")
    if report.failed and isinstance(found, Container) and found.running:
        journal = found.run("journalctl --no-pager --lines=50", check=False).stdout
        report.sections.append(("The container's journal", journal))
