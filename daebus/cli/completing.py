"""Tab completion with what is there now: services, actions, handlers, channels.

Each question has `LIMIT` seconds, and any error of it is nobody's business: then there is nothing to complete.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click

    from ..settings import RedisSettings

TO_A_SHELL = frozenset(" ;&|<>()$`\"'\\!#")
"""Signs that mean something to a shell. That of bash puts what it is offered on the line as it is: a name such as
`;reboot`, which anybody may give a channel, would be a command."""

LIMIT = 0.5
"""Seconds after which a person who pressed Tab would wonder."""


def complete_services(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the services that begin so, without those that are named already."""
    named = context.params.get("services") or ()
    return [name for name in _beginning(begun, lambda: _services(_settings(context))) if name not in named]


def complete_actions(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the actions of the service that is named before."""
    return _beginning(begun, lambda: _handlers(context, ("actions",)))


def complete_handlers(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return all handlers of the service that is named before."""
    from .answers import SECTIONS

    return _beginning(begun, lambda: _handlers(context, tuple(SECTIONS)))


def complete_channels(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the channels that somebody hears."""
    return _beginning(begun, lambda: _channels(_settings(context)))


def _beginning(begun: str, ask: Callable[[], Iterable[str]]) -> list[str]:
    return sorted({name for name in in_time(ask) if name.startswith(begun) and is_harmless(name)})


def is_harmless(name: str) -> bool:
    """Whether a name means the same on a command line, and is no option."""
    return name.isprintable() and not TO_A_SHELL & set(name) and not name.startswith("-")


def in_time(ask: Callable[[], Iterable[str]], limit: float = LIMIT) -> list[str]:
    """Return what a question is answered with: nothing if that takes longer, or fails."""
    from threading import Thread

    answers: list[str] = []

    def run() -> None:
        try:
            answers.extend(ask())
        except Exception:  # noqa: BLE001 - whatever it is, a shell that waits for a completion cannot show it
            answers.clear()

    asking = Thread(target=run, name="completion", daemon=True)
    asking.start()
    asking.join(limit)
    return list(answers)


def _settings(context: click.Context) -> RedisSettings:
    given: RedisSettings | None = context.params.get("settings")
    if given is None:
        raise LookupError("where Redis is makes no sense")
    return given


def _services(settings: RedisSettings) -> list[str]:
    from ..census import find

    return list(find(settings))


def _handlers(context: click.Context, sections: tuple[str, ...]) -> list[str]:
    from ..names import INFO
    from .answers import census, records

    service = context.params.get("service")
    if not isinstance(service, str):
        return []
    (found,) = census(_settings(context), [service], INFO, LIMIT)
    return [record["name"] for answer in found.processes for section in sections for record in records(answer, section)]


def _channels(settings: RedisSettings) -> list[str]:
    from .channels import heard

    return [channel for channel, _count in heard(settings)]
