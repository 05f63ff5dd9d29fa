"""The command `daebus`: calls services, publishes and listens, from a shell.

It is the only user of `click`, which nothing else imports. What it prints for programs goes to standard output, one
line at a time; errors are one line on standard error, and an exit status that says whose fault it was.
"""

from __future__ import annotations

import json
import os
import select
import sys
from time import sleep

import click

from . import __version__
from .client import DaebusCaller
from .errors import (
    BadMessage,
    ConfigurationError,
    DaebusError,
    RedisRefused,
    RedisUnavailable,
    RequestTimeout,
    ServiceUnavailable,
    Unserialisable,
)
from .hub import publish
from .jsontext import loads, quote
from .schedule import backoff
from .settings import RedisSettings, parse_url, redis_settings
from .subscription import Subscription
from .target import NO_FIELDS, check_channel_to_publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ANSWERED_WITH_ERROR, WRONG_USAGE, NOT_THERE, INTERRUPTED, NOBODY_READS = 1, 2, 3, 130, 141
"""Exit statuses; the last two are those of a program that SIGINT or SIGPIPE ended."""

STDOUT = 1
RETRY_FIRST, RETRY_LONGEST = 0.05, 1.0
"""Seconds between two attempts to reach a Redis that has gone away."""


def main() -> int:
    """Run the command with the arguments of this process; return its exit status."""
    try:
        return _commands.main(prog_name="daebus", standalone_mode=False) or 0
    except click.ClickException as error:
        return _fail("usage", _usage(error), WRONG_USAGE)
    except click.Abort:
        return INTERRUPTED
    except DaebusError as error:
        return _fail(error.code, str(error), _status(error))
    except OSError as error:  # of the output: a full disk, say
        _drop_output()
        return _fail("output", error.strerror or str(error), NOT_THERE)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "daebus"
    return f"{error.format_message()} (see {path} --help)"


def _status(error: DaebusError) -> int:
    if isinstance(error, ConfigurationError):
        return WRONG_USAGE
    away = isinstance(error, ServiceUnavailable | RedisUnavailable | RequestTimeout)
    return NOT_THERE if away else ANSWERED_WITH_ERROR


def _fail(code: str, text: str, status: int) -> int:
    _tell(f"daebus: {code}: {' '.join(text.split())}")
    return status


# --- what is printed ---


def _print(text: str) -> None:
    """Print lines as UTF-8, whatever the locale says, and flush."""
    click.echo(text.encode())


def _tell(text: str) -> None:
    """Say one line to the person, on standard error."""
    click.echo(_visible(text).encode(), err=True)


def _drop_output() -> None:
    """Send what is left of the output nowhere: the interpreter would try to flush it as it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def _visible(text: str) -> str:
    """Return text with its control characters escaped as in JSON, so that no message can steer a terminal."""
    return "".join(sign if sign.isprintable() else quote(sign)[1:-1] for sign in text)


def _one_line(value: Any) -> str:
    return _visible(_json(value, None))


def _for_reader(value: Any) -> str:
    """Return JSON for whoever reads it: indented for a person, one line for a program."""
    if not sys.stdout.isatty():
        return _one_line(value)
    return "\n".join(map(_visible, _json(value, 2).split("\n")))


def _json(value: Any, indent: int | None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except RecursionError:
        raise Unserialisable("the value is nested too deeply to be shown") from None


def _message_line(channel: bytes, data: bytes) -> str:
    """Return the line for a message; one that is no JSON is shown as the JSON text of its characters."""
    try:
        shown = _one_line(loads(data))
    except (BadMessage, Unserialisable):
        shown = _one_line(data.decode(errors="replace"))
    return f"{_visible(channel.decode(errors='replace'))}\t{shown}"


# --- what is given ---


def _payload(words: tuple[str, ...]) -> Any:
    """Return the payload that words on the command line stand for: one JSON value, or `key=value` words."""
    if len(words) == 1:
        try:
            return loads(words[0])
        except BadMessage:
            pass
    fields: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise click.UsageError(f"{word!r} is neither key=value nor JSON")
        if key in fields:
            raise click.UsageError(f"{key!r} is given twice")
        fields[key] = _value(value)
    return fields


def _value(text: str) -> Any:
    try:
        return loads(text)
    except BadMessage:
        return text


def _read_settings(_context: click.Context, _option: click.Parameter, url: str | None) -> RedisSettings:
    return redis_settings() if url is None else parse_url(url, "--redis")


_redis_option = click.option(
    "--redis",
    "settings",
    metavar="URL",
    callback=_read_settings,
    help="Where Redis is. Without it: DAEBUS_REDIS_URL, the device's own Redis, or localhost:6379.",
)


# --- the commands ---


class _Commands(click.Group):
    """The commands, which end quietly when they are interrupted, or when nobody reads any more."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            _drop_output()
            ctx.exit(NOBODY_READS)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: daebus call greeter greet name=Ada",
)
@click.pass_context
def _commands(context: click.Context) -> None:
    """Talk to the services of this device over Redis."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(WRONG_USAGE)


@_commands.command(
    short_help="Call an action of a service.", epilog="Example: daebus call lamp dim percent=40 room=hall"
)
@click.argument("service")
@click.argument("action")
@click.argument("payload", nargs=-1)
@click.option("--timeout", metavar="SECONDS", type=float, default=5.0, help="How long all of it may take (5).")
@click.option("--wait", is_flag=True, help="If the service is not there, hold the request until it is.")
@_redis_option
def call(
    service: str, action: str, payload: tuple[str, ...], timeout: float, wait: bool, settings: RedisSettings
) -> None:
    """Call an action of a service and print its answer as JSON; progress goes to standard error.

    PAYLOAD is key=value words, or one JSON value. A value that is JSON counts as such, any other one as text.
    """
    fields = _payload(payload) if payload else NO_FIELDS
    with DaebusCaller(service, timeout=timeout, redis_url=settings.url) as caller:
        answer = caller.send_request(action, fields, on_progress=_show_progress, wait=wait)
    _print(_for_reader(answer))


def _show_progress(part: Any) -> None:
    _tell(_one_line(part))


@_commands.command(short_help="Publish a message to a channel.", epilog="Example: daebus pub display.refresh by=hand")
@click.argument("channel")
@click.argument("payload", nargs=-1, required=True)
@_redis_option
def pub(channel: str, payload: tuple[str, ...], settings: RedisSettings) -> None:
    """Publish a message to a channel; print how many heard it.

    PAYLOAD is key=value words, or one JSON value. A value that is JSON counts as such, any other one as text.
    """
    check_channel_to_publish(channel)
    _print(str(publish(settings, channel, _payload(payload))))


@_commands.command(short_help="Print what is published.", epilog="Example: daebus sub 'sensor.*' display.refresh")
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after so many messages.")
@_redis_option
def sub(channels: tuple[str, ...], count: int | None, settings: RedisSettings) -> None:
    """Print each message of channels, or of all that match a glob, until Ctrl-C.

    A line is the channel, a tab and the message as JSON.
    """
    for channel in channels:
        check_channel_to_publish(channel)
    for number, (channel_heard, data) in enumerate(_messages(settings, list(channels)), 1):
        _print(_message_line(channel_heard, data))
        if number == count:
            return


@_commands.command(epilog="Example: daebus version")
def version() -> None:
    """Print the version of Daebus."""
    _print(__version__)


# --- listening ---


def _messages(settings: RedisSettings, names: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield what is heard. When Redis goes away later on, the person is told, and it is tried until it is back."""
    subscription = Subscription(settings, names)
    subscription.open()
    try:
        while True:
            try:
                messages = subscription.receive()
            except RedisUnavailable as error:
                _tell(f"daebus: {error.code}: {error}; trying again")
                _open_again(subscription)
                _tell(f"daebus: Redis at {settings} is back; what was published meanwhile was not heard")
                continue
            _check_reader()
            yield from messages
    finally:
        subscription.close()


def _open_again(subscription: Subscription) -> None:
    attempt = 0
    while True:
        try:
            subscription.open()
            return
        except RedisRefused:
            raise
        except RedisUnavailable:
            attempt += 1
            _check_reader()
            sleep(backoff(attempt, RETRY_FIRST, RETRY_LONGEST))


def _check_reader() -> None:
    """Raise `BrokenPipeError` if nobody reads the output any more, even if there is nothing to say."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    if any(events & select.POLLERR for _descriptor, events in poll.poll(0)):
        raise BrokenPipeError
