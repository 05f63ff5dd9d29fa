"""`daebus ls`, `info` and `ping`: which services there are, what they offer, whether they answer."""

from __future__ import annotations

import click

from ..errors import RequestTimeout, ServiceUnavailable
from ..names import INFO, STATS, did_you_mean
from .answers import ANSWER_LIMIT, SECTIONS, census, gateway, nobody, records, text
from .arguments import json_option, redis_option
from .completing import complete_handlers, complete_services
from .output import one_line, say, table, tell
from .screen import cut, is_screen, size
from .wording import count as counted
from .wording import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ..settings import RedisSettings
    from .answers import Answer, Census

SILENT = 3
"""Exit status of `ping` when somebody does not answer."""

timeout_option = click.option(
    "--timeout",
    "limit",
    metavar="SECONDS",
    type=click.FloatRange(min=0.001),
    default=ANSWER_LIMIT,
    help="How long a service has for its answer (1).",
)


# --- ls ---


@click.command(short_help="List the services that are running.", epilog="Example: daebus ls --channels")
@click.option("--channels", is_flag=True, help="List the channels that somebody hears, too.")
@timeout_option
@json_option
@redis_option
def ls(channels: bool, limit: float, as_json: bool, settings: RedisSettings) -> None:
    """List the services that are running, each with its processes.

    A service that is there and says nothing is listed as not answering.
    """
    from ..census import find

    services = census(settings, find(settings), INFO, limit)
    heard = _heard(settings, services) if channels else []
    if as_json:
        listed: Any = list(map(_service_as_json, services))
        say(one_line({"services": listed, "channels": heard} if channels else listed))
        return
    lines = service_table(services) if services else []
    if not services:
        tell(nobody(settings))
    if heard:
        lines += [*([""] if lines else []), *channel_table(heard)]
    if lines:
        say("\n".join(_on_screen(lines)))
    if channels and not heard:
        tell("daebus: nobody hears any channel")


def _on_screen(lines: list[str]) -> list[str]:
    """Return lines as they are shown: on a terminal cut to its width, since one table reads better than two."""
    return [cut(line, size()[0]) for line in lines] if is_screen() else lines


def service_table(services: Iterable[Census]) -> list[str]:
    """Return the table of `daebus ls`."""
    rows = [_service_row(service) for service in services]
    return table(("NAME", "PID", "UNIT", "UPTIME", "HANDLERS"), rows)


def _service_row(service: Census) -> tuple[object, ...]:
    if not service.processes:
        return (service.name, None, None, None, "not answering")
    first = service.processes[0]
    hosts = {process["host"] for process in service.processes}
    pids = " ".join(_pid(process, len(hosts) > 1) for process in service.processes)
    units = dict.fromkeys(unit for process in service.processes if (unit := text(process, "unit")))
    uptime = span(max(process["uptime"] for process in service.processes))
    handlers = ", ".join(_counts(first).values()) or "none"
    silent = f"{counted(service.missing, 'process', 'processes')} not answering; " if service.missing else ""
    return (service.name, pids, " ".join(units) or None, uptime, silent + handlers)


def _pid(process: Answer, with_host: bool) -> str:
    return f"{process['pid']}@{process['host']}" if with_host else str(process["pid"])


def _counts(process: Answer) -> dict[str, str]:
    numbers = {section: len(records(process, section)) for section in SECTIONS}
    return {section: counted(number, SECTIONS[section]) for section, number in numbers.items() if number}


def _service_as_json(service: Census) -> Answer:
    keys = ("pid", "host", "unit", "uptime", "version", "shared")
    first = service.processes[0] if service.processes else {}
    return {
        "service": service.name,
        "answering": bool(service.processes),
        "processes": [{key: process.get(key) for key in keys} for process in service.processes],
        "not_answering": service.missing,
        "handlers": {section: len(records(first, section)) for section in SECTIONS},
    }


def _heard(settings: RedisSettings, services: list[Census]) -> list[Answer]:
    """Return the channels that are heard, and the globs that services say they listen to."""
    from .channels import heard

    listeners: dict[str, list[str]] = {}
    for service in services:
        for name in {name for process in service.processes for name in _channels(process)}:
            listeners.setdefault(name, []).append(service.name)
    numbers = dict(heard(settings))
    own = {service.name for service in services}
    own |= {f"{name}.workflows" for name in own}  # where services take requests, which is what `ls` lists
    names = sorted((numbers.keys() - own) | listeners.keys())
    return [{"channel": name, "subscribers": numbers.get(name), "services": listeners.get(name, [])} for name in names]


def _channels(process: Answer) -> list[str]:
    """Return the channels that a process hears for itself, and for the clients of its gateway."""
    return [*(record["name"] for record in records(process, "channels")), *gateway(process, "channels")]


def channel_table(channels: Iterable[Answer]) -> list[str]:
    """Return the table of `daebus ls --channels`."""
    rows = [(entry["channel"], entry["subscribers"], " ".join(entry["services"]) or None) for entry in channels]
    return table(("CHANNEL", "SUBSCRIBERS", "SERVICES"), rows, right="SUBSCRIBERS")


# --- info ---


@click.command(short_help="Show what a service offers.", epilog="Example: daebus info lamp dim")
@click.argument("service", shell_complete=complete_services)
@click.argument("handler", required=False, shell_complete=complete_handlers)
@timeout_option
@json_option
@redis_option
def info(service: str, handler: str | None, limit: float, as_json: bool, settings: RedisSettings) -> None:
    """Show a service's processes and what it offers: actions, routes, channels and all else, or one HANDLER of it."""
    from .description import describe, described_handlers, find_handlers

    (found,) = census(settings, [service], INFO, limit)
    _check_there(found, settings, limit)
    processes = found.processes
    if handler is not None:
        chosen = find_handlers(service, processes[0], handler)
        say(one_line(chosen) if as_json else "\n".join(described_handlers(service, chosen)))
        return
    (figures,) = census(settings, [service], STATS, limit)
    last_errors = {(process["host"], process["pid"]): process.get("last_error") for process in figures.processes}
    for process in processes:
        process["last_error"] = last_errors.get((process["host"], process["pid"]))
    if as_json:
        say(one_line({"service": service, "processes": processes, "not_answering": found.missing}))
    else:
        say("\n".join(describe(service, processes, found.missing)))


def _check_there(found: Census, settings: RedisSettings, limit: float) -> None:
    if not found.there:
        raise ServiceUnavailable(
            f"no service {found.name!r} is running on the Redis at {settings}{_near(found, settings)}"
        )
    if not found.processes:
        raise RequestTimeout(
            f"{found.name!r} is there and does not answer within {limit:g} s: it hangs, or knows no such question"
        )


def _near(found: Census, settings: RedisSettings) -> str:
    from ..census import find

    return did_you_mean(found.name, find(settings)) or "; `daebus ls` lists those that are"


# --- ping ---


@click.command(short_help="Ask services for a sign of life.", epilog="Example: daebus ping lamp --count 3")
@click.argument("services", metavar="[SERVICE]...", nargs=-1, shell_complete=complete_services)
@click.option("--count", metavar="N", type=click.IntRange(min=1), default=1, help="Ask each so many times (1).")
@click.option(
    "--interval", metavar="SECONDS", type=click.FloatRange(min=0.0), default=1.0, help="Between two times (1)."
)
@timeout_option
@json_option
@redis_option
@click.pass_context
def ping(
    context: click.Context,
    services: tuple[str, ...],
    count: int,
    interval: float,
    limit: float,
    as_json: bool,
    settings: RedisSettings,
) -> None:
    """Ask services - without a name all of them - for a sign of life; print how long each took.

    The exit status is 3 if one did not answer.
    """
    from .pinging import Pinger, summary

    if not services:
        from ..census import find

        services = tuple(find(settings))
    if not services:
        tell(nobody(settings))
        return
    pinger = Pinger(settings, services, limit)
    try:
        for entry in pinger.rounds(count, interval):
            say(one_line(entry) if as_json else pinger.line_of(entry))
    finally:
        if not as_json and any(len(times) > 1 for times in pinger.times.values()):
            say("\n".join(["", *summary(pinger.times)]))
    if any(time is None for times in pinger.times.values() for time in times):
        context.exit(SILENT)
