"""The linters and type checks, as tests: `make test` is the one command. A missing tool fails in CI."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, skip_or_fail

PYTHON_FILES = ["daebus", "Daebus.py", "pytest_daebus.py", "tests", "examples", "bench"]
PYTHON_FILES += ["packaging/dropins", "packaging/manual"]
PYTHON_FILES += ["packaging/systemd/daebus-generator"]
PROSE = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "Makefile", "pyproject.toml", ".ci"]


def existing(names: list[str]) -> list[str]:
    return [name for name in names if (ROOT / name).exists()]


def tool(name: str) -> str:
    """The tool of this virtual environment, else the one on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or skip_or_fail(f"{name} is not installed here (make test installs it)")


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{Path(command[0]).name} says:\n{done.stdout}{done.stderr}", pytrace=False)


def test_the_formatter_has_nothing_to_change() -> None:
    check(tool("ruff"), "format", "--check", *existing(PYTHON_FILES))


def test_ruff_has_nothing_to_say() -> None:
    check(tool("ruff"), "check", "--output-format", "concise", *existing(PYTHON_FILES))


def test_types_are_consistent() -> None:
    check(tool("mypy"), *existing(PYTHON_FILES))


def test_words_are_spelled_right() -> None:
    check(tool("codespell"), *existing(PYTHON_FILES + PROSE))


def test_nothing_is_written_and_never_used() -> None:
    check(tool("vulture"))


def test_shell_scripts_are_sound() -> None:
    scripts = [str(path) for path in shell_scripts()]
    assert scripts
    check(tool("shellcheck"), *scripts)


def shell_scripts() -> list[Path]:
    """Every file that begins like one, in the folders where we keep some."""
    folders = [ROOT / name for name in existing([".ci", "bench", "examples", "packaging", "tests"])]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if path.read_bytes()[:10].startswith((b"#!/bin/sh", b"#!/bin/bas"))]
