"""Everything that `make test` runs: `python -m tests.all`. With arguments, it is pytest with these.

Most tests wait more than they compute, so they run as two halves, side by side: those that build packages and boot
containers, and all others. What the others say comes when both have ended. A few tests that fail beside others are run
once more, alone, and what fails then has failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from types import FrameType
from typing import NoReturn

import pytest

CONTAINERS = ["tests/packaging", "tests/system"]
HALVES = {"containers": CONTAINERS, "others": [f"--ignore={folder}" for folder in CONTAINERS]}

FAILED = 1  # pytest's exit status for tests that have failed, and for nothing else

FEW = 5
"""Tests that fail alone, too, after which the others that have failed are not tried any more."""


def command(half: str, *arguments: str) -> list[str]:
    """Return how a half is run, which keeps by itself what has failed."""
    return [sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{half}", *HALVES[half], *arguments]


def main(arguments: list[str]) -> int:
    """Run the tests; return the exit status."""
    if arguments:
        return int(pytest.main(arguments))
    signal.signal(signal.SIGTERM, end)
    ended = side_by_side()
    return next((status for status in [again(half, status) for half, status in ended.items()] if status), 0)


def side_by_side() -> dict[str, int]:
    """Run both halves; return their exit statuses."""
    with tempfile.TemporaryFile() as output:
        halves = {
            "others": subprocess.Popen(
                command("others"), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            ),
            "containers": subprocess.Popen(command("containers"), stdin=subprocess.DEVNULL),
        }
        try:
            return {name: half.wait() for name, half in reversed(halves.items())}
        except KeyboardInterrupt:  # which the terminal has sent to both, too
            return {name: half.wait() for name, half in halves.items()}
        finally:
            for half in halves.values():
                half.terminate()
            show(output.fileno())


def show(output: int) -> None:
    """What the half beside has said."""
    os.lseek(output, 0, os.SEEK_SET)
    print("\nAll others, which ran beside:", flush=True)  # noqa: T201 - for whoever runs the tests
    while data := os.read(output, 65536):
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


def again(half: str, status: int) -> int:
    """Run what has failed in a half once more, if that is little; return the exit status that counts."""
    if status != FAILED:
        return status
    print(f"\nWhat has failed of the {half}, alone:", flush=True)  # noqa: T201 - for whoever runs the tests
    return subprocess.call(
        command(half, "--last-failed", "--last-failed-no-failures=none", f"--maxfail={FEW}"), stdin=subprocess.DEVNULL
    )


def end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Let `finally` end both halves."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
