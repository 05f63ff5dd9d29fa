"""What the commands are given: the options that they share, and payloads."""

from __future__ import annotations

import click

from ..errors import BadMessage
from ..jsontext import loads
from ..settings import RedisSettings, parse_url, redis_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def payload_of(words: tuple[str, ...]) -> Any:
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


def _read_url(_context: click.Context, _option: click.Parameter, url: str | None) -> RedisSettings | None:
    return None if url is None else parse_url(url, "--redis")


redis_option = click.option(
    "--redis",
    "settings",
    metavar="URL",
    callback=_read_settings,
    help="Where Redis is. Without it: DAEBUS_REDIS_URL, the device's own Redis, or localhost:6379.",
)

some_redis_option = click.option(
    "--redis",
    "settings",
    metavar="URL",
    callback=_read_url,
    help="Where Redis is. Without it: the usual one, or a private one if that cannot be reached.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program to read.")
