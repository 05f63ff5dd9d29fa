"""The leak check of conftest.py: what it must catch, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PROJECT = ROOT / "pyproject.toml"
HEAD = "import socket, threading\nfrom tests.conftest import leak_check\nkept = []\n"


def run_pytest(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(f"{HEAD}def test_it():\n    {test}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(PROJECT), "test_it.py"],
        cwd=folder,
        env={"DAEBUS_TEST_PATIENCE": "0.1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("test", "trace"),
    [
        ("kept.append(socket.socket())", "socket:["),
        (
            "threading.Thread(target=threading.Event().wait, args=(1,), name='lost').start()",
            "left behind: lost",
        ),
    ],
)
def test_what_is_left_behind_fails_the_test(tmp_path: Path, test: str, trace: str) -> None:
    done = run_pytest(tmp_path, test)
    assert done.returncode == 1
    assert trace in done.stdout


def test_what_is_closed_passes(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "socket.socket().close()")
    assert done.returncode == 0, done.stdout
