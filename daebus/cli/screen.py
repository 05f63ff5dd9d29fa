"""A terminal: how large it is, text that fits into it, and a full screen that is always given back."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import FrameType
    from typing import Any, Self

STDIN, STDOUT = 0, 1

PLAIN, BOLD, DIM, RED, GREEN, YELLOW, REVERSE = "", "1", "2", "31", "32", "33", "7"
"""Styles, as the numbers that a terminal knows them by."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
CUT_HERE = "…"


def is_screen() -> bool:
    """Say whether standard output is a terminal that can be written to in place."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def in_colour() -> bool:
    """Say whether standard output may be coloured: it is a terminal, and nobody set NO_COLOR (no-color.org)."""
    return is_screen() and not os.environ.get("NO_COLOR")


def size() -> tuple[int, int]:
    """Return the columns and lines of the terminal; 80 and 24 if it does not say."""
    try:
        columns, lines = os.get_terminal_size(STDOUT)
    except OSError:
        return 80, 24
    return columns or 80, lines or 24


def columns_of(text: str) -> int:
    """Return how many columns text takes: East Asian signs take two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(sign: str) -> int:
    from unicodedata import combining, east_asian_width

    if combining(sign):
        return 0
    return 2 if east_asian_width(sign) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """Return text that takes no more than so many columns; what was cut ends in an ellipsis."""
    if columns_of(text) <= columns:
        return text
    taken, room = [], columns - 1
    for sign in text:
        room -= 1 if sign.isascii() else _columns(sign)
        if room < 0:
            break
        taken.append(sign)
    return "".join(taken) + CUT_HERE if columns > 0 else ""


def painted(text: str, style: str, colour: bool) -> str:
    """Return text in a style, if there is colour."""
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style and text else text


def painted_parts(parts: Iterable[tuple[str, str]], columns: int | None, colour: bool) -> str:
    """Return a line made of parts, each a text and a style, cut to so many columns (None: not at all)."""
    done = []
    for text, style in parts:
        shown = text if columns is None else cut(text, columns)
        done.append(painted(shown, style, colour))
        if columns is not None:
            columns -= columns_of(shown)
            if shown != text:
                break
    return "".join(done)


class Screen:
    """The whole terminal, until the end of the `with` block: also that by SIGTERM, SIGHUP or an error.

    Signals raise `SystemExit` within the block; Ctrl-Z gives the terminal back for as long as it lasts.
    """

    def __init__(self) -> None:
        self._keys = os.isatty(STDIN)
        self._modes: list[Any] | None = None
        self._before: dict[int, Any] = {}
        self._held: set[int] = set()
        self._woken, self._waker = os.pipe()
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)

    def __enter__(self) -> Self:
        self._held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # one that comes now is taken within the block
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, _end)
        self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._pause)
        self._before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _nothing)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._take()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._held)
        return self

    def __exit__(self, *_exc: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # a second Ctrl-C must not stop this half way
        try:
            self._give_back()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(self._waker)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._held)

    def _take(self) -> None:
        if self._keys:
            import termios
            import tty

            self._modes = termios.tcgetattr(STDIN)
            tty.setcbreak(STDIN, termios.TCSANOW)
        _write(ENTER)

    def _give_back(self) -> None:
        if self._modes is not None:
            import termios

            termios.tcsetattr(STDIN, termios.TCSANOW, self._modes)
        _write(LEAVE)

    def _pause(self, _number: int, _frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when the shell goes on with us
        signal.signal(signal.SIGTSTP, self._pause)
        self._take()

    def show(self, lines: Sequence[str]) -> None:
        """Show lines, which fit, from the top."""
        _write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")

    def wait(self, seconds: float) -> str:
        """Wait so long, or until a key is pressed or something happens to the terminal; return the keys."""
        import select

        watched = [self._woken, STDIN] if self._keys else [self._woken]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._woken in ready:
            os.read(self._woken, 1000)
        if STDIN not in ready:
            return ""
        typed = os.read(STDIN, 1000)
        self._keys = bool(typed)  # the end of the input is no key
        return typed.decode(errors="replace")


def _write(text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(STDOUT, data) :]


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Only to be woken."""
