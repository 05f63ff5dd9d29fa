"""How the panel looks: a small table on a terminal, one line per reading anywhere else."""

from __future__ import annotations

import shutil
import sys
import threading
from typing import TextIO

from readings import Readings

BAR_WIDTH = 24
NOT_AVAILABLE = "not available"


class Console:
    """The place where the panel is drawn. Its methods may be called from several threads."""

    def __init__(self, out: TextIO | None = None, page: str = "") -> None:
        self._out = out or sys.stdout
        self._page = page
        self._lock = threading.Lock()
        self._lines_on_screen = 0
        self._announcements = 0
        self._announced: Readings = {}

    def show(self, readings: Readings) -> None:
        with self._lock:
            if self._out.isatty():
                self._draw([*top(self._page), *table(readings), "", self._heard()])
            else:
                self._print(one_line(readings) + self._heard())

    def show_problem(self, problem: str) -> None:
        with self._lock:
            if self._out.isatty():
                self._draw([*top(self._page), f"  {problem}", "  waiting for it to come back", ""])
            else:
                self._print(problem)

    def hear(self, announced: Readings) -> None:
        """Shown with the next answer: how often, and the load that was announced last."""
        with self._lock:
            self._announcements += 1
            self._announced = announced

    def _heard(self) -> str:
        return heard(self._announcements, self._announced)

    def _draw(self, lines: list[str]) -> None:
        """Over the lines of the last time. A line that wraps would spoil their count, so it is cut."""
        width = shutil.get_terminal_size().columns
        back = f"\x1b[{self._lines_on_screen}A\r\x1b[J" if self._lines_on_screen else ""
        self._print(back + "\n".join(line[: width - 1] for line in lines))
        self._lines_on_screen = len(lines)

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def top(page: str) -> list[str]:
    """Where the page is: it stays in sight whatever is shown below."""
    return ["", f"  {page:<36}Ctrl-C ends it", ""]


def table(readings: Readings) -> list[str]:
    value = readings.get
    return [
        row("load", number(value("load"), "{:.2f}")),
        row("memory", number(value("memory_percent"), "{:.0f} %"), bar(value("memory_percent"))),
        row("temperature", number(value("temperature_celsius"), "{:.1f} °C")),
        row("uptime", duration(value("uptime_seconds"))),
        row("disk", number(value("disk_percent"), "{:.0f} %"), bar(value("disk_percent"))),
    ]


def row(name: str, value: str, picture: str = "") -> str:
    return f"  {name:<13}{value:<15}{picture}".rstrip()


def heard(announcements: int, last: Readings) -> str:
    if not announcements:
        return "  nothing announced yet"
    return f"  announced {announcements} x, last load {number(last.get('load'), '{:.2f}')}"


def one_line(readings: Readings) -> str:
    value = readings.get
    return "  ".join(
        [
            f"load {number(value('load'), '{:.2f}')}",
            f"memory {number(value('memory_percent'), '{:.0f} %')}",
            f"temperature {number(value('temperature_celsius'), '{:.1f} °C')}",
            f"uptime {duration(value('uptime_seconds'))}",
            f"disk {number(value('disk_percent'), '{:.0f} %')}",
        ]
    )


def number(value: float | None, form: str) -> str:
    return NOT_AVAILABLE if value is None else form.format(value)


def bar(percent: float | None) -> str:
    if percent is None:
        return ""
    full = round(BAR_WIDTH * min(max(percent, 0), 100) / 100)
    return "█" * full + "░" * (BAR_WIDTH - full)


def duration(seconds: float | None) -> str:
    """The two biggest units: '3 d 4 h', '4 h 12 min', '12 min 5 s'."""
    if seconds is None:
        return NOT_AVAILABLE
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(parts) > 2 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2])
