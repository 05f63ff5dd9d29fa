"""The set-up scripts, on machines that lack something. What they call is stand-ins."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT

Setup = Callable[..., subprocess.CompletedProcess[str]]

GOOD_PYTHON = """
echo "$*" >>"$LOG"
case "$*" in
    *bus.py) echo "$ANSWER" ;;
    *embedded*) exit "$EMBEDDED_STATUS" ;;
    *ensurepip*) exit "$ENSUREPIP_STATUS" ;;
    *-VV) echo "Python 3.11.0" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a ready virtual environment, whose python only writes down what it was asked."""
    folder = tmp_path / "checkout"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "setup", folder / ".ci")
    shutil.copy(ROOT / "pyproject.toml", folder)
    put_script(folder / ".venv/bin/python", GOOD_PYTHON)
    put_script(folder / "bin/id", "echo 1000")
    return folder


@pytest.fixture
def setup(checkout: Path) -> Setup:
    def run(target: str, **env: str) -> subprocess.CompletedProcess[str]:
        defaults = {
            "PATH": f"{checkout}/bin:/usr/bin:/bin",
            "LOG": f"{checkout}/log",
            "ANSWER": "program",
            "EMBEDDED_STATUS": "0",
            "ENSUREPIP_STATUS": "0",
        }
        return subprocess.run(
            [str(checkout / ".ci/setup"), target],
            env=defaults | env,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def put_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def installations(checkout: Path) -> list[str]:
    return [line for line in (checkout / "log").read_text().splitlines() if " install " in line]


def test_a_second_run_installs_nothing(checkout: Path, setup: Setup) -> None:
    assert setup("run").returncode == 0
    assert len(installations(checkout)) == 1
    again = setup("run")
    assert (again.returncode, again.stdout) == (0, "")
    assert len(installations(checkout)) == 1


def test_a_changed_dependency_installs_again(checkout: Path, setup: Setup) -> None:
    setup("run")
    with (checkout / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    setup("run")
    assert len(installations(checkout)) == 2


def test_the_embedded_redis_comes_only_when_there_is_no_other(checkout: Path, setup: Setup) -> None:
    for answer in ("reachable", "program"):
        assert setup("run", ANSWER=answer).returncode == 0
    assert not [line for line in installations(checkout) if "embedded" in line]
    assert setup("run", ANSWER="none").returncode == 0
    assert installations(checkout)[-1].endswith("-e .[embedded]")


def test_no_redis_at_all_says_what_helps(setup: Setup) -> None:
    done = setup("run", ANSWER="none", EMBEDDED_STATUS="1")
    assert done.returncode == 1
    assert "sudo apt install redis-server" in done.stderr
    assert "DAEBUS_REDIS_URL=redis://HOST:6379 make run" in done.stderr


def test_a_python_that_cannot_make_environments_says_what_to_type(checkout: Path, setup: Setup) -> None:
    shutil.rmtree(checkout / ".venv")
    python = put_script(checkout / "bin/python3", GOOD_PYTHON)
    done = setup("run", PYTHON=str(python), ENSUREPIP_STATUS="1")
    assert done.returncode == 1
    assert "    sudo apt install python3-venv\n" in done.stderr


def test_an_old_python_is_named(checkout: Path, setup: Setup) -> None:
    shutil.rmtree(checkout / ".venv")
    old = put_script(checkout / "bin/old", "exit 1")
    done = setup("run", PYTHON=str(old))
    assert done.returncode == 1
    assert f"PYTHON={old} is not a Python 3.11 or newer." in done.stderr


def test_an_unknown_target_is_refused(setup: Setup) -> None:
    assert setup("everything").returncode == 1


# --- containers ---

TOOLS = (
    "redis-server", "chromium", "systemd-nspawn", "mmdebstrap", "ip", "piuparts",
    "dpkg-checkbuilddeps", "lintian", "apt-ftparchive", "gpg", "gpg-agent", "gpgconf",
)  # fmt: skip
MAKE_ROOT = 'echo "$1" >>"$LOG"; [ "$1" != "$UNBUILDABLE" ]'


@pytest.fixture
def equipped(checkout: Path) -> Path:
    """A checkout on a machine that has everything, on which the user is root."""
    for name in TOOLS:
        put_script(checkout / "bin" / name, "exit 0")
    put_script(checkout / "bin/id", "echo 0")
    put_script(checkout / "tests/system/make-root", MAKE_ROOT)
    return checkout


def test_the_roots_of_both_releases_are_built(equipped: Path, setup: Setup) -> None:
    done = setup("test", UNBUILDABLE="")
    assert (done.returncode, done.stderr) == (0, "")
    assert (equipped / "log").read_text().splitlines()[-2:] == ["bookworm", "trixie"]


def test_one_root_that_cannot_be_built_costs_only_its_tests(equipped: Path, setup: Setup) -> None:
    done = setup("test", UNBUILDABLE="bookworm")
    assert done.returncode == 0
    assert "skipped for bookworm" in done.stdout
    assert (equipped / "log").read_text().splitlines()[-1] == "trixie"


def test_without_root_there_are_no_containers(equipped: Path, setup: Setup) -> None:
    put_script(equipped / "bin/id", "echo 1000")
    done = setup("test")
    assert done.returncode == 0
    assert "only root can boot containers" in done.stdout
    assert "bookworm" not in (equipped / "log").read_text()


# --- the roots themselves ---

MMDEBSTRAP = """
for argument; do
    case $argument in */daebus/*) folder=$argument ;; esac
done
mkdir "$folder"
echo "$*" >>"$LOG"
exit "$MMDEBSTRAP_STATUS"
"""


@pytest.fixture
def make_root(tmp_path: Path) -> Setup:
    """The script with its cache in the test's folder, and tools that only pretend."""
    put_script(tmp_path / "bin/id", "echo 0")
    put_script(tmp_path / "bin/unshare", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"')
    put_script(tmp_path / "bin/mmdebstrap", MMDEBSTRAP)

    def run(suite: str, **env: str) -> subprocess.CompletedProcess[str]:
        defaults = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "LOG": f"{tmp_path}/log",
            "XDG_CACHE_HOME": f"{tmp_path}/cache",
            "MMDEBSTRAP_STATUS": "0",
        }
        command = [str(ROOT / "tests/system/make-root"), suite]
        return subprocess.run(command, env=defaults | env, capture_output=True, text=True, check=False)

    return run


def test_a_root_is_built_once(tmp_path: Path, make_root: Setup) -> None:
    first, second = make_root("trixie"), make_root("trixie")
    assert Path(first.stdout.strip()).is_dir()
    assert "building" in first.stderr
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_the_mirror_can_be_named(tmp_path: Path, make_root: Setup) -> None:
    make_root("trixie")
    make_root("bookworm", DAEBUS_TEST_MIRROR="file:/mirror")
    without, with_mirror = (tmp_path / "log").read_text().splitlines()
    assert without.endswith(".new")
    assert with_mirror.endswith(".new file:/mirror")


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, make_root: Setup) -> None:
    done = make_root("trixie", MMDEBSTRAP_STATUS="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "mmdebstrap could not build" in done.stderr
    assert [path.suffix for path in (tmp_path / "cache/daebus").iterdir()] == [".lock"]
    assert make_root("trixie").returncode == 0


def test_what_an_ended_build_left_is_built_over(tmp_path: Path, make_root: Setup) -> None:
    root = Path(make_root("trixie").stdout.strip())
    root.rename(f"{root}.new")
    assert make_root("trixie").returncode == 0
    assert root.is_dir()
    assert not Path(f"{root}.new").exists()


def test_old_roots_are_removed_unless_a_container_uses_them(tmp_path: Path, make_root: Setup) -> None:
    """The lock of a build is that of the root that it will be."""
    cache = tmp_path / "cache/daebus"
    for name in ("root-trixie-1", "root-trixie-2", "root-trixie-3.new", "root-bookworm-1"):
        (cache / name).mkdir(parents=True)
    with (cache / "root-trixie-2.lock").open("w") as used, (cache / "root-trixie-3.lock").open("w") as built:
        for lock in (used, built):
            fcntl.flock(lock, fcntl.LOCK_SH)
        root = Path(make_root("trixie").stdout.strip())
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == {root.name, "root-trixie-2", "root-trixie-3.new", "root-bookworm-1"}


def test_only_root_builds_roots(tmp_path: Path, make_root: Setup) -> None:
    put_script(tmp_path / "bin/id", "echo 1000")
    done = make_root("trixie")
    assert (done.returncode, done.stdout) == (1, "")
    assert "only root" in done.stderr


def test_an_unknown_suite_is_refused(make_root: Setup) -> None:
    assert "usage" in make_root("sid").stderr
