"""`daebus call`, `pub`, `sub` and `version`: what goes over the bus, one message at a time."""

from __future__ import annotations

import click

from .. import __version__
from ..client import DaebusCaller
from ..context import current
from ..hub import publish
from ..names import new_trace
from ..settings import RedisSettings
from ..target import NO_FIELDS, check_channel_to_publish
from .arguments import payload_of, redis_option
from .completing import complete_actions, complete_channels, complete_services
from .hearing import messages
from .output import for_reader, one_line, say, tell, text_of, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command(short_help="Call an action of a service.", epilog="Example: daebus call lamp dim percent=40 room=hall")
@click.argument("service", shell_complete=complete_services)
@click.argument("action", shell_complete=complete_actions)
@click.argument("payload", nargs=-1)
@click.option("--timeout", metavar="SECONDS", type=float, default=5.0, help="How long all of it may take (5).")
@click.option("--wait", is_flag=True, help="If the service is not there, hold the request until it is.")
@click.option("--trace", is_flag=True, help="Let each service note what this leads to; `daebus trace ID` shows it.")
@redis_option
def call(
    service: str,
    action: str,
    payload: tuple[str, ...],
    timeout: float,
    wait: bool,
    trace: bool,
    settings: RedisSettings,
) -> None:
    """Call an action of a service and print its answer as JSON; progress goes to standard error.

    PAYLOAD is key=value words, or one JSON value. A value that is JSON counts as such, any other one as text.
    """
    fields = payload_of(payload) if payload else NO_FIELDS
    if trace:
        beginning = _Beginning()
        tell(f"trace: {beginning.trace}")
        current.set(beginning)
    with DaebusCaller(service, timeout=timeout, redis_url=settings.url) as caller:
        answer = caller.send_request(action, fields, on_progress=_show_progress, wait=wait)
    say(for_reader(answer))


class _Beginning:
    """Stands where the request does in whose handler a call is made: the call begins a trace that is wanted."""

    response = None
    parent = request_id = ""

    def __init__(self) -> None:
        self.trace = new_trace()

    @property
    def request(self) -> _Beginning:
        """This."""
        return self


def _show_progress(part: Any) -> None:
    tell(one_line(part))


@click.command(short_help="Publish a message to a channel.", epilog="Example: daebus pub display.refresh by=hand")
@click.argument("channel", shell_complete=complete_channels)
@click.argument("payload", nargs=-1, required=True)
@redis_option
def pub(channel: str, payload: tuple[str, ...], settings: RedisSettings) -> None:
    """Publish a message to a channel; print how many heard it.

    PAYLOAD is key=value words, or one JSON value. A value that is JSON counts as such, any other one as text.
    """
    check_channel_to_publish(channel)
    say(str(publish(settings, channel, payload_of(payload))))


@click.command(short_help="Print what is published.", epilog="Example: daebus sub 'sensor.*' display.refresh")
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True, shell_complete=complete_channels)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after so many messages.")
@redis_option
def sub(channels: tuple[str, ...], count: int | None, settings: RedisSettings) -> None:
    """Print each message of channels, or of all that match a glob, until Ctrl-C.

    A line is the channel, a tab and the message as JSON.
    """
    for channel in channels:
        check_channel_to_publish(channel)
    heard = (message for batch in messages(settings, list(channels)) for message in batch)
    for number, (channel_heard, data) in enumerate(heard, 1):
        say(f"{visible(channel_heard.decode(errors='replace'))}\t{text_of(data)}")
        if number == count:
            return


@click.command(epilog="Example: daebus version")
def version() -> None:
    """Print the version of Daebus."""
    say(__version__)
