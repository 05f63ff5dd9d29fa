"""The kiosk example: what it reads, from pictures of devices, and how it is shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from console import Console, bar, duration, one_line, table
from hypothesis import given
from hypothesis import strategies as st
from readings import Readings, first_number, hottest, memory_percent, memory_total_gb, read_device

from daebus.someredis import without_password

MEMINFO = "MemTotal:        4000000 kB\nMemFree:          500000 kB\nMemAvailable:    3000000 kB\n"
NOTHING: Readings = dict.fromkeys(
    ["load", "memory_percent", "memory_total_gb", "temperature_celsius", "uptime_seconds"], None
)


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_device_with_everything(tmp_path: Path) -> None:
    put(tmp_path, "proc/loadavg", "0.52 0.58 0.59 1/467 12345\n")
    put(tmp_path, "proc/meminfo", MEMINFO)
    put(tmp_path, "proc/uptime", "93784.21 350000.00\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "51000\n")
    readings = read_device(tmp_path)
    assert readings["load"] == 0.52
    assert readings["memory_percent"] == 25
    assert readings["memory_total_gb"] == pytest.approx(4.096)
    assert readings["temperature_celsius"] == 51
    assert readings["uptime_seconds"] == 93784.21


def test_a_device_with_nothing_says_so(tmp_path: Path) -> None:
    readings = read_device(tmp_path)
    assert {name: readings[name] for name in NOTHING} == NOTHING


def test_the_disk_is_the_one_of_the_folder(tmp_path: Path) -> None:
    readings = read_device(tmp_path)
    assert readings["disk_percent"] is not None
    assert 0 <= readings["disk_percent"] <= 100


def test_a_sensor_that_fails_when_read_is_left_out(tmp_path: Path) -> None:
    """A folder stands for it: reading it is an OSError, as with a sensor that answers EIO."""
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").mkdir(parents=True)
    assert read_device(tmp_path)["temperature_celsius"] is None


def test_memory_without_the_line_that_counts_is_not_guessed() -> None:
    assert memory_percent("MemTotal: 4000000 kB\nMemFree: 1 kB\n") is None
    assert memory_total_gb("") is None


def test_a_broken_sensor_does_not_hide_a_good_one() -> None:
    assert hottest(["", "no number", "-5000", "20500\n"]) == 20.5
    assert hottest([]) is None


@given(st.text())
def test_no_text_makes_the_parsers_fail(text: str) -> None:
    first_number(text)
    memory_percent(text)
    hottest([text])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 min 0 s"),
        (725, "12 min 5 s"),
        (15139, "4 h 12 min"),
        (273600, "3 d 4 h"),
        (None, "not available"),
    ],
)
def test_an_uptime_has_its_two_biggest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("percent", "full"), [(0, 0), (50, 12), (100, 24), (250, 24), (-1, 0)])
def test_a_bar_is_as_full_as_its_share(percent: float, full: int) -> None:
    assert bar(percent) == "█" * full + "░" * (24 - full)


def test_a_missing_sensor_is_shown_as_not_available() -> None:
    readings: Readings = {**NOTHING, "load": 0.5, "disk_percent": 41.0}
    assert "  temperature  not available" in table(readings)
    assert one_line(readings) == (
        "load 0.50  memory not available  temperature not available  uptime not available  disk 41 %"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_each_answer_is_a_line() -> None:
    out = io.StringIO()
    console = Console(out)
    console.hear({"load": 0.25})
    console.show(NOTHING)
    console.show_problem("device: no answer (nobody there)")
    first, second = out.getvalue().splitlines()
    assert first.endswith("  announced 1 x, last load 0.25")
    assert second == "device: no answer (nobody there)"


def test_on_a_terminal_the_next_picture_covers_the_last() -> None:
    out = Terminal()
    console = Console(out)
    console.show(NOTHING)
    height = out.getvalue().count("\n")
    console.show_problem("device: no answer")
    assert f"\x1b[{height}A\r\x1b[J" in out.getvalue()


def test_on_a_terminal_the_address_of_the_page_is_in_every_picture() -> None:
    out = Terminal()
    console = Console(out, page="http://127.0.0.1:8080/")
    console.show(NOTHING)
    console.show_problem("device: no answer")
    pictures = out.getvalue().split("\x1b[J")
    assert [picture.count("http://127.0.0.1:8080/") for picture in pictures] == [1, 1]


def test_a_password_is_not_shown() -> None:
    assert without_password("redis://me:secret@host:1/2") == "redis://host:1/2"
    assert without_password("unix:///run/x.sock") == "unix:///run/x.sock"
