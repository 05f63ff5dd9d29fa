"""The set-up script, on machines that lack something. Interpreter and `id` are stand-ins."""

from __future__ import annotations

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
