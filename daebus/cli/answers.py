"""What services say of themselves, checked once: whoever answers on the bus may be no service of this version."""

from __future__ import annotations

from ..names import STATS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ..settings import RedisSettings

    Answer = dict[str, Any]

ANSWER_LIMIT = 1.0
"""Seconds that services have for their answer; a live one takes milliseconds."""

SECTIONS = {
    "actions": "action",
    "routes": "route",
    "folders": "folder",
    "channels": "channel",
    "sockets": "socket",
    "workflows": "workflow",
    "tasks": "task",
    "threads": "thread",
}
"""The parts of an `info` answer that list handlers, in the order in which they are shown, and the word for one."""

_IDENTITY = {"pid": int, "host": str, "uptime": int | float}
_STATS = {
    "busy": int,
    "max_workers": int,
    "queued": int,
    "clients": int,
    "memory": int,
    "cpu": int | float,
    "redis": dict,
    "handlers": list,
}
_COUNTED = {"kind": str, "name": str, "calls": int, "errors": int, "longest": int | float, "buckets": list}


class Census:
    """The answers of one service's processes; `missing` is how many of them did not answer."""

    __slots__ = ("missing", "name", "processes")

    def __init__(self, name: str, processes: list[Answer], present: int) -> None:
        self.name = name
        self.processes = processes
        self.missing = max(0, present - len(processes))

    @property
    def there(self) -> bool:
        """Whether anybody serves under the name."""
        return bool(self.processes) or self.missing > 0


def census(settings: RedisSettings, names: Iterable[str], question: str, limit: float = ANSWER_LIMIT) -> list[Census]:
    """Ask services about themselves, in the order of their names. Raises `RedisUnavailable` or `RedisRefused`."""
    from ..census import ask

    found = ask(settings, names, question, limit)
    usable = is_stats if question == STATS else is_identity
    return [
        Census(
            name, sorted(filter(usable, answers), key=lambda answer: (answer["host"], answer["pid"])), answers.present
        )
        for name, answers in found.items()
    ]


def is_identity(answer: object) -> bool:
    """Say whether an answer tells who it is from."""
    return isinstance(answer, dict) and _has(answer, _IDENTITY)


def is_stats(answer: object) -> bool:
    """Say whether an answer has the figures of a process."""
    return isinstance(answer, dict) and _has(answer, _IDENTITY) and _has(answer, _STATS)


def _has(answer: Answer, kinds: Mapping[str, Any]) -> bool:
    return all(isinstance(answer.get(key), kind) and _is_sane(answer[key]) for key, kind in kinds.items())


LARGEST = 1e15
"""No quantity of a service is larger. (`1e999` is JSON, and infinite; whole numbers may have thousands of digits.)"""


def _is_sane(value: object) -> bool:
    return not isinstance(value, int | float) or abs(value) < LARGEST


def number(value: object) -> float | None:
    """Return a value out of an answer if it is a number that can be calculated with; else None."""
    return value if isinstance(value, int | float) and _is_sane(value) else None


def records(answer: Answer, section: str) -> list[Answer]:
    """Return the handlers that an `info` answer lists in a section, each with a name."""
    listed = answer.get(section)
    found = [record for record in listed if isinstance(record, dict)] if isinstance(listed, list) else []
    named = [{**record, "name": record.get("name", record.get("path"))} for record in found]
    return [record for record in named if isinstance(record["name"], str)]


def gateway(answer: Answer, what: str) -> list[str]:
    """Return what the gateway of a service lists in an `info` answer: its actions, channels or publish."""
    told = answer.get("gateway")
    listed = told.get(what) if isinstance(told, dict) else None
    return [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []


def counted(answer: Answer) -> list[Answer]:
    """Return the figures of each handler out of a `stats` answer."""
    return [record for record in answer["handlers"] if isinstance(record, dict) and _has(record, _COUNTED)]


def text(answer: Mapping[str, Any], key: str) -> str | None:
    """Return a text of an answer; None if it has none."""
    value = answer.get(key)
    return value if isinstance(value, str) and value else None


def nobody(settings: RedisSettings) -> str:
    """Return what is said when there is no service at all."""
    return f"daebus: no service is running on the Redis at {settings}"
