"""`daebus monitor`: what goes over the bus, requests beside their answers."""

from __future__ import annotations

from time import localtime, monotonic, strftime, time

import click

from ..errors import RedisRefused
from .arguments import json_option, redis_option
from .completing import complete_services
from .hearing import messages
from .output import one_line, say, tell, visible
from .screen import BOLD, DIM, GREEN, PLAIN, RED, YELLOW, columns_of, cut, in_colour, is_screen, painted_parts, size
from .traffic import Redaction, Traffic
from .wording import count as counted
from .wording import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..settings import RedisSettings
    from .traffic import Event

    Parts = list[tuple[str, str]]

EVERYTHING = "*"

LEAST_SHARE = 12
"""Columns that a payload gets at the least."""


@click.command(
    short_help="Watch what goes over the bus.", epilog="Example: daebus monitor lamp --redact password --count 10"
)
@click.argument("services", metavar="[SERVICE]...", nargs=-1, shell_complete=complete_services)
@click.option("--redact", metavar="FIELD", multiple=True, help="Hide the fields of this name; may be repeated.")
@click.option("--redact-all", is_flag=True, help="Hide all payloads and the texts of errors.")
@click.option("--all", "everything", is_flag=True, help="Show what Daebus itself asks of services, too.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after so many lines.")
@json_option
@redis_option
def monitor(
    services: tuple[str, ...],
    redact: tuple[str, ...],
    redact_all: bool,
    everything: bool,
    count: int | None,
    as_json: bool,
    settings: RedisSettings,
) -> None:
    """Print each request together with its answer, and each message of a channel, until Ctrl-C.

    SERVICE limits it to what these services are asked, ask, and publish on channels that begin with their name.
    """
    traffic = Traffic(services, everything, Redaction(redact, redact_all))
    for number, event in enumerate(_events(settings, services, traffic), 1):
        say(one_line(event) if as_json else _line(event))
        if number == count:
            return


def _events(settings: RedisSettings, services: tuple[str, ...], traffic: Traffic) -> Iterator[Event]:
    try:
        yield from _events_of(settings, [EVERYTHING], traffic)
    except RedisRefused as error:
        if not _is_matter_of_rights(error):
            raise
        yield from _events_of(settings, _what_is_allowed(settings, services), traffic)


def _events_of(settings: RedisSettings, names: list[str], traffic: Traffic) -> Iterator[Event]:
    for batch in messages(settings, names):
        at, now = time(), monotonic()
        for channel, data in batch:
            yield from traffic.take(channel.decode(errors="replace"), data, now, at)
        yield from traffic.expired(monotonic())


# --- what may be heard ---


def _what_is_allowed(settings: RedisSettings, services: tuple[str, ...]) -> list[str]:
    """Return what there is to subscribe to for one who may not hear everything; the person is told what is missing."""
    tell("daebus: Redis does not let this user hear all channels (the ACL has no &*), so broadcasts are not seen")
    wanted = _narrower(settings, services)
    allowed = [name for name in wanted if _may_hear(settings, name)]
    if not allowed:
        raise RedisRefused(f"Redis at {settings} lets this user hear nothing of the bus: the ACL allows no channel")
    refused = [name for name in wanted if name not in allowed]
    if refused:
        tell(f"daebus: not seen either: {', '.join(refused)}")
    return allowed


def _is_matter_of_rights(error: RedisRefused) -> bool:
    return "NOPERM" in str(error)


def _narrower(settings: RedisSettings, services: tuple[str, ...]) -> list[str]:
    from ..census import find

    if not services:
        try:
            services = tuple(find(settings))
        except RedisRefused:
            tell("daebus: Redis does not let this user list the services: name them")
    names = [name for service in services for name in (service, f"{service}.*")]
    return [*names, "caller:*", "workflow:*"]


def _may_hear(settings: RedisSettings, name: str) -> bool:
    from ..subscription import Subscription

    subscription = Subscription(settings, [name])
    try:
        subscription.open()
    except RedisRefused as error:
        if not _is_matter_of_rights(error):
            raise
        return False
    finally:
        subscription.close()
    return True


# --- lines ---


def _line(event: Event) -> str:
    return line_of(event, size()[0] if is_screen() else None, in_colour())


def line_of(event: Event, columns: int | None, colour: bool) -> str:
    """Return the line that shows an event, cut to the terminal's columns (None: whole)."""
    before, payload, between, answer = _FORMS[event["kind"]](event)
    if columns is not None:
        taken = sum(columns_of(text) for text, _style in (*before, *between))
        payload, answer = shares(payload, answer, columns - taken - (1 if answer else 0))
    parts = [*before, (payload, PLAIN), *between, *([(f" {answer}", PLAIN)] if answer else [])]
    return painted_parts(parts, columns, colour)


def shares(first: str, second: str, room: int) -> tuple[str, str]:
    """Return two texts cut so that both have a part of the room; what one does not need, the other gets."""
    half = max(room // 2, LEAST_SHARE)
    long_first, long_second = columns_of(first), columns_of(second)
    first_gets = max(half, room - long_second)
    second_gets = max(half, room - min(long_first, first_gets))
    return cut(first, first_gets), cut(second, second_gets)


def _time(event: Event) -> tuple[str, str]:
    at = event["time"]
    return f"{strftime('%H:%M:%S', localtime(at))}.{int(at % 1 * 1000):03d} ", DIM


def _caller(event: Event) -> str:
    return visible(event["caller"] or "?")


def _request(event: Event) -> tuple[Parts, str, Parts, str]:
    before = [
        _time(event),
        (f"{_caller(event)} -> ", PLAIN),
        (f"{visible(event['service'])} {visible(event['action'])} ", BOLD),
    ]
    return before, one_line(event["payload"]), _outcome(event), _answer(event)


def _outcome(event: Event) -> Parts:
    took = duration(event["ms"] / 1000) if event["ms"] else "at once"  # both were read together
    parts = f" after {counted(event['parts'], 'part')}" if event["parts"] else ""
    status = event["status"]
    if status == "ok":
        return [("  ", PLAIN), (f"ok {took}", GREEN), (parts, PLAIN)]
    if status == "error":
        return [("  ", PLAIN), (f"{visible(str(event['code'] or 'error'))} {took}", RED), (parts, PLAIN)]
    if status == "unanswered":
        return [("  ", PLAIN), (f"no answer within {took}", YELLOW), (parts, PLAIN)]
    return [("  ", PLAIN), (f"not followed after {took}: too many wait", YELLOW), (parts, PLAIN)]


def _answer(event: Event) -> str:
    if "answer" not in event:
        return ""
    text = event["answer"]
    return visible(text) if event["status"] == "error" and isinstance(text, str) else one_line(text)


def _answer_alone(event: Event) -> tuple[Parts, str, Parts, str]:
    failed = event["status"] == "error"
    status = (visible(str(event["code"] or "error")), RED) if failed else ("ok", GREEN)
    before = [_time(event), (f"{_caller(event)} <- an answer without its request  ", DIM), status]
    return before, "", [], _answer(event)


def _workflow(event: Event) -> tuple[Parts, str, Parts, str]:
    arrow = "<-" if event["answers"] else "->"
    before = [
        _time(event),
        (f"{_caller(event)} {arrow} ", PLAIN),
        (f"{visible(event['service'] or '?')} workflow {visible(event['workflow'] or event['id'][:8])} ", BOLD),
    ]
    return before, one_line(event["payload"]), [("  its end", DIM)] if event["final"] else [], ""


def _message(event: Event) -> tuple[Parts, str, Parts, str]:
    return [_time(event), (f"{visible(event['channel'])} ", BOLD)], one_line(event["payload"]), [], ""


_FORMS: dict[str, Any] = {"request": _request, "answer": _answer_alone, "workflow": _workflow, "message": _message}
