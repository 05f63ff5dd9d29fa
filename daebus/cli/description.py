"""What `daebus info` shows: a service's processes and handlers in sentences. Pure."""

from __future__ import annotations

from time import time

import click

from ..names import did_you_mean
from .answers import SECTIONS, gateway, number, records, text
from .output import visible
from .wording import UNKNOWN, count, example_call, signature, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .answers import Answer

TITLES = {
    "actions": "Actions",
    "routes": "Routes",
    "folders": "Folders served",
    "channels": "Channels heard",
    "sockets": "WebSocket messages",
    "workflows": "Workflows",
    "tasks": "Tasks",
    "threads": "Threads",
}

LABEL_WIDTH = 10


def describe(service: str, processes: list[Answer], missing: int, now: float | None = None) -> list[str]:
    """Return the lines that show a service. `now` is the time of day in seconds."""
    now = time() if now is None else now
    first = processes[0]
    lines = [f"{visible(service)}, Daebus {visible(str(first.get('version')))}"]
    lines += [line for process in processes for line in _process_lines(process)]
    if missing:
        lines.append(_labelled("", f"{count(missing, 'more process', 'more processes')} not answering"))
    lines += _common_lines(first)
    lines += [line for process in processes for line in _error_lines(process, now)]
    lines += _difference(processes)
    for section in SECTIONS:
        lines += section_lines(service, section, records(first, section))
        if section == "sockets":
            lines += _gateway_lines(first)
    return lines


GATEWAY = {"actions": "calls", "channels": "hears", "publish": "publishes"}


def _gateway_lines(process: Answer) -> list[str]:
    lines = [
        _labelled(does, visible(", ".join(listed)))
        for what, does in GATEWAY.items()
        if (listed := gateway(process, what))
    ]
    return ["", "A WebSocket client, through the gateway", *lines] if lines else []


def _labelled(label: str, said: str) -> str:
    return f"  {label.ljust(LABEL_WIDTH)} {said}"


def _process_lines(process: Answer) -> list[str]:
    unit = text(process, "unit")
    under = f", {visible(unit)}" if unit else ""
    said = f"{process['pid']} on {visible(process['host'])}{under}, up {span(process['uptime'])}"
    return [_labelled("process", said)]


def _common_lines(process: Answer) -> list[str]:
    http = process.get("http")
    addresses = ", ".join(visible(str(address)) for address in http) if isinstance(http, list) else ""
    values = {
        "file": text(process, "file"),
        "redis": text(process, "redis"),
        "http": addresses,
        "workers": str(process["max_workers"]) if isinstance(process.get("max_workers"), int) else "",
        "python": text(process, "python"),
    }
    return [_labelled(label, visible(value)) for label, value in values.items() if value]


def _error_lines(process: Answer, now: float) -> list[str]:
    error = process.get("last_error")
    if not isinstance(error, dict):
        return []
    at = number(error.get("at"))
    ago = f", {span(now - at)} ago" if at is not None else ""
    what = " ".join(visible(str(error[key])) for key in ("kind", "name") if error.get(key))
    lines = [_labelled("last error", f"{visible(str(error.get('type')))} in {what}{ago} (process {process['pid']})")]
    error_id = error.get("error_id")
    if isinstance(error_id, str) and error_id.isalnum():  # it will be pasted into a shell
        logged = f"daebus logs --error-id {error_id}" if text(process, "unit") else f"in its log under {error_id}"
        lines.append(_labelled("", logged))
    return lines


_OWN = ("pid", "host", "unit", "uptime", "last_error", "http", "file", "threads")


def _difference(processes: list[Answer]) -> list[str]:
    """Say which processes of a shared service offer something else than the first: one of an older version, say."""

    def offered(process: Answer) -> Answer:
        return {key: value for key, value in process.items() if key not in _OWN}

    others = [str(process["pid"]) for process in processes[1:] if offered(process) != offered(processes[0])]
    if not others:
        return []
    return [_labelled("note", f"what follows is of process {processes[0]['pid']}; {', '.join(others)} differ from it")]


def section_lines(service: str, section: str, found: list[Answer]) -> list[str]:
    """Return the lines of one section: nothing if it is empty."""
    if not found:
        return []
    return ["", TITLES[section], *handler_lines(service, section, found)]


def handler_lines(service: str, section: str, found: Iterable[Answer]) -> list[str]:
    """Return the lines that show some handlers of a section."""
    lines = []
    for record in found:
        lines.append(f"  {visible(_head(section, record))}")
        if doc := text(record, "doc"):
            lines.append(f"      {visible(doc)}")
        if place := text(record, "place"):
            lines.append(f"      {visible(place)}")
        if section == "actions":
            lines.append(f"      $ {visible(example_call(service, record['name'], record.get('input')))}")
    return lines


def _head(section: str, record: Answer) -> str:
    name, schema = record["name"], record.get("input")
    if section == "tasks":
        return f"{name}, each {_seconds(record.get('interval'))}"
    if section == "threads":
        return f"{name}, {'running' if record.get('running') else 'not running'}"
    if section == "folders":
        return str(name)
    written = signature(name if section == "actions" else f"{name} ", schema, record.get("returns"))
    return written if section == "actions" else written.replace(f" ({UNKNOWN})", "")


def _seconds(value: object) -> str:
    seconds = number(value)
    return f"{seconds:g} s" if seconds is not None else "?"


# --- one handler ---


def find_handlers(service: str, process: Answer, wanted: str) -> list[Answer]:
    """Return the handlers of a name: there may be an action and a channel of the same. A route has its path, too.

    Raises a usage error that says which ones there are.
    """
    found = [
        {"section": section, **record}
        for section in SECTIONS
        for record in records(process, section)
        if wanted in (record["name"], record.get("path"))
    ]
    if not found:
        raise click.UsageError(f"{service} has no handler {wanted!r}{_near(process, wanted)}")
    return found


def _near(process: Answer, wanted: str) -> str:
    return did_you_mean(wanted, [record["name"] for section in SECTIONS for record in records(process, section)])


def described_handlers(service: str, found: list[Answer]) -> list[str]:
    """Return the lines that show the handlers of one name."""
    lines: list[Any] = []
    for record in found:
        lines += section_lines(service, record["section"], [record])[1:]
    return lines
