"""Everything that `make test` runs: `python -m tests.all`. With arguments, it is pytest with these.

Most tests wait more than they compute, so they run as two halves, side by side: those that build packages and boot
containers, and all others. What the others say comes when both have ended.
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

PYTEST = [sys.executable, "-m", "pytest"]
CONTAINERS = ["tests/packaging", "tests/system"]


def main(arguments: list[str]) -> int:
    """Run the tests; return the exit status."""
    if arguments:
        return int(pytest.main(arguments))
    signal.signal(signal.SIGTERM, end)
    others = [f"--ignore={folder}" for folder in CONTAINERS]
    with tempfile.TemporaryFile() as output:
        halves = [
            subprocess.Popen([*PYTEST, *others], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT),
            subprocess.Popen([*PYTEST, *CONTAINERS], stdin=subprocess.DEVNULL),
        ]
        try:
            ended = [half.wait() for half in reversed(halves)]
        except KeyboardInterrupt:  # which the terminal has sent to both, too
            ended = [half.wait() for half in halves]
        finally:
            for half in halves:
                half.terminate()
            show(output.fileno())
    return next((status for status in ended if status), 0)


def show(output: int) -> None:
    """What the half beside has said."""
    os.lseek(output, 0, os.SEEK_SET)
    print("\nAll others, which ran beside:", flush=True)  # noqa: T201 - for whoever runs the tests
    while data := os.read(output, 65536):
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


def end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Let `finally` end both halves."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
