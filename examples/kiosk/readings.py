"""What the device says about itself, from /proc and /sys.

The small functions take text and return numbers. What the device does not have is None, never a guess.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

Readings = dict[str, float | None]


def read_device(root: Path = Path("/")) -> Readings:
    """All readings of this moment. Another `root` is for trying it on a picture of another device."""
    meminfo = _text(root / "proc/meminfo")
    disk = os.statvfs(root)
    return {
        "load": first_number(_text(root / "proc/loadavg")),
        "memory_percent": memory_percent(meminfo),
        "memory_total_gb": memory_total_gb(meminfo),
        "temperature_celsius": hottest(_text(path) for path in sensors(root)),
        "uptime_seconds": first_number(_text(root / "proc/uptime")),
        "disk_percent": share(disk.f_blocks - disk.f_bfree, disk.f_blocks - disk.f_bfree + disk.f_bavail),
        "disk_total_gb": disk.f_blocks * disk.f_frsize / 1e9,
    }


def sensors(root: Path) -> list[Path]:
    return sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))


def first_number(text: str) -> float | None:
    """'0.06 0.05 0.01 1/85 4126' -> 0.06, as in /proc/loadavg and /proc/uptime."""
    words = text.split()
    return _number(words[0]) if words else None


def memory_percent(meminfo: str) -> float | None:
    """How much of the memory is in use; what the kernel could free at once counts as free."""
    total, available = _kilobytes(meminfo, "MemTotal"), _kilobytes(meminfo, "MemAvailable")
    if total is None or available is None:
        return None
    return share(total - available, total)


def memory_total_gb(meminfo: str) -> float | None:
    total = _kilobytes(meminfo, "MemTotal")
    return None if total is None else total * 1024 / 1e9


def hottest(sensor_texts: Iterable[str]) -> float | None:
    """The highest of several sensors, which speak in thousandths of a degree."""
    values = [value for value in map(first_number, sensor_texts) if value is not None]
    return max(values) / 1000 if values else None


def share(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole > 0 else None


def _kilobytes(meminfo: str, name: str) -> float | None:
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return first_number(value)
    return None


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _text(path: Path) -> str:
    """A sensor that is missing, or that fails while it is read, has nothing to say."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
