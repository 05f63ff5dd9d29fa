"""The command `daebus` in processes of its own, as the live tests run it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import daebus
from daebus.redisserver import PrivateServer
from tests.outside import Side, environment
from tests.support import MS

LIMIT = 20_000 * MS


class Command:
    """Runs and starts the command; `end_all` kills what still runs."""

    def __init__(self, side: Side, server: PrivateServer, cache: Path) -> None:
        source = str(Path(daebus.__file__).parent.parent)
        env = environment(side, {"PYTHONPATH": source, "PYTHONPYCACHEPREFIX": str(cache)})
        del env["PYTHONUNBUFFERED"]  # it must flush by itself
        del env["PYTHONDONTWRITEBYTECODE"]  # it runs often: what is compiled is kept for the next time
        self.words = [str(side.python), "-m", "daebus"]
        self.env = {**env, "DAEBUS_REDIS_URL": server.url}
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [*self.words, *words], env={**self.env, **extra}, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    def output(self, *words: str) -> str:
        """Run it; what it printed. It must have nothing to complain about."""
        done = self.run(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        env = {**self.env, **pipes.pop("env", {})}
        self._started.append(subprocess.Popen([*self.words, *words], env=env, text=True, **pipes))
        return self._started[-1]

    def end_all(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


class Terminal:
    """A terminal with a program in it, and what the program's last words left on its screen.

    Of the sequences that steer a terminal it knows those that Daebus uses: home, clearing to the end of a line and of
    the screen, the alternate screen; colours are left out.
    """

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.main, self.other = pty.openpty()
        self.written = ""
        self.resize(columns, lines)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.main)
        os.close(self.other)

    def resize(self, columns: int, lines: int) -> None:
        """The kernel tells the program in front."""
        self.columns, self.lines = columns, lines
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def streams(self) -> dict[str, Any]:
        """What makes a process one that runs in this terminal."""
        return {
            "stdin": self.other, "stdout": self.other, "stderr": self.other,
            "start_new_session": True, "preexec_fn": self._take, "env": {"TERM": "xterm"},
        }  # fmt: skip

    def _take(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def type(self, keys: str) -> None:
        os.write(self.main, keys.encode())

    def read(self) -> Terminal:
        """Take what was written so far."""
        while select.select([self.main], [], [], 0)[0]:
            try:
                self.written += os.read(self.main, 1 << 16).decode(errors="replace")
            except OSError:  # nobody has the terminal any more
                break
        return self

    def until(self, pattern: str) -> str:
        """Read until what is written, from the last frame on, matches; return the frame."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            select.select([self.main], [], [], 0.05)
            self.read()
            if re.search(pattern, self.frame, re.DOTALL):
                return self.frame
        raise AssertionError(f"no {pattern!r} on the screen: {self.frame!r}")

    @property
    def frame(self) -> str:
        """The last whole frame, without colours; all that was written if there is none."""
        frames = self.written.split("\x1b[H")
        whole = [frame.partition("\x1b[J")[0] for frame in frames[1:] if "\x1b[J" in frame]
        text = whole[-1] if whole else self.written
        return re.sub(r"\x1b\[[0-9;]*[mK]", "", text).replace("\r", "")

    @property
    def is_normal(self) -> bool:
        """Whether the terminal is as it was: lines are edited, what is typed is shown, the screen is given back."""
        modes = termios.tcgetattr(self.other)[3]
        left = self.written.rfind("\x1b[?1049l") > self.written.rfind("\x1b[?1049h")
        cursor = self.written.rfind("\x1b[?25h") > self.written.rfind("\x1b[?25l")
        return bool(modes & termios.ICANON and modes & termios.ECHO) and left and cursor
