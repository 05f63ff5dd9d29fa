"""Signs of life, and how long they take."""

from __future__ import annotations

from time import monotonic, perf_counter, sleep

from ..client import DaebusCaller
from ..errors import RequestTimeout, ServiceUnavailable
from ..hub import command_now
from ..names import PING
from .answers import is_identity
from .output import table, visible
from .wording import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..settings import RedisSettings


class Pinger:
    """Asks services in turn; `times` are seconds by service, None for each that was not answered."""

    def __init__(self, settings: RedisSettings, services: tuple[str, ...], limit: float) -> None:
        self._settings = settings
        self._callers = {name: DaebusCaller(name, timeout=limit, redis_url=settings.url) for name in services}
        self._width = max(map(len, services))
        self.times: dict[str, list[float | None]] = {name: [] for name in services}

    def rounds(self, count: int, interval: float) -> Iterator[dict[str, Any]]:
        """Ask each service so many times, `interval` seconds from one round to the next; yield what came of it."""
        command_now(self._settings, "PING")  # else the first one would wait for the connections
        for number in range(count):
            began = monotonic()
            for name in self._callers:
                yield self._ask(name)
            if number + 1 < count:
                sleep(max(0.0, began + interval - monotonic()))

    def _ask(self, name: str) -> dict[str, Any]:
        began = perf_counter()
        try:
            answer = self._callers[name].send_request(PING)
        except (RequestTimeout, ServiceUnavailable) as error:
            self.times[name].append(None)
            return {"service": name, "ms": None, "error": error.code}
        took = perf_counter() - began
        self.times[name].append(took)
        process = answer if is_identity(answer) else {}
        return {"service": name, "ms": round(took * 1000, 3), "pid": process.get("pid"), "host": process.get("host")}

    def line_of(self, entry: dict[str, Any]) -> str:
        """Return the line that shows one answer."""
        name = entry["service"].ljust(self._width)
        if entry["ms"] is not None:
            return visible(f"{name}  {duration(entry['ms'] / 1000).rjust(7)}  process {entry['pid']}")
        return f"{name}  {'not there' if entry['error'] == ServiceUnavailable.code else 'no answer'}"


def summary(times: dict[str, list[float | None]]) -> list[str]:
    """Return the table that ends several rounds."""
    return table(("SERVICE", "SENT", "LOST", "LEAST", "MEAN", "MOST"), list(map(_summed, times.items())),
                 right="SENT LOST LEAST MEAN MOST")  # fmt: skip


def _summed(entry: tuple[str, list[float | None]]) -> tuple[object, ...]:
    name, times = entry
    known = [time for time in times if time is not None]
    if not known:
        return (name, len(times), len(times), None, None, None)
    figures = (min(known), sum(known) / len(known), max(known))
    return (name, len(times), len(times) - len(known), *map(duration, figures))
