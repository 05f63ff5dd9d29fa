"""The older public package `daebus` 0.0.31 in a virtual environment of its own, made once and kept.

It lies in $XDG_CACHE_HOME/daebus-tests (~/.cache/daebus-tests), so `make clean` does not cost a download.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "0.0.31"
INSTALL_SECONDS = 300.0


class UpstreamUnavailable(RuntimeError):
    """The environment could not be made; the text says why."""


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "daebus-tests"


def upstream_python(say: Callable[[str], None]) -> Path:
    """The interpreter of an environment that has upstream's package. `say` is told of the slow part."""
    folder = cache_directory() / f"upstream-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    with _only_one(folder):
        if not _works(folder, python):
            say(f"making {folder} with daebus=={VERSION} from PyPI (once; about half a minute)...")
            _make(folder, python)
            say("...made")
    return python


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two test runs at once must not build the same folder."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f"{folder.name}.lock").open("w")
    except OSError as error:
        raise UpstreamUnavailable(f"no place to keep it: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _works(folder: Path, python: Path) -> bool:
    """The stamp is written last. The interpreter may have been upgraded away."""
    return (folder / "complete").exists() and os.access(python, os.X_OK)


def _make(folder: Path, python: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-input", f"daebus=={VERSION}"])
    (folder / "complete").touch()


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpstreamUnavailable(str(error)) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UpstreamUnavailable(f"{' '.join(command[1:3])}: {said[-1] if said else done.returncode}")
