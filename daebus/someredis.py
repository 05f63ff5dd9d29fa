"""Some Redis for development: one that is there already, else a private one for as long as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from .errors import DaebusError
from .link import open_link
from .redisserver import PrivateServer, ping
from .settings import redis_settings

LOOK_SECONDS = 2.0


def reachable() -> str | None:
    """Return the URL of a Redis that is there for us. What the environment says counts even if it does not answer."""
    if url := os.environ.get("DAEBUS_REDIS_URL"):
        return url
    usual = redis_settings()
    if _lets_us_in(usual.url):
        return usual.url if usual.path else f"redis://{usual}"
    return "redis://localhost:6379" if usual.path and ping(("localhost", 6379)).startswith(b"+PONG") else None


def _lets_us_in(url: str) -> bool:
    try:
        open_link(redis_settings(url=url), "daebus:look", monotonic() + LOOK_SECONDS).close()
    except DaebusError:
        return False
    return True


@contextmanager
def some_redis(url: str | None = None, *, tied: bool = False) -> Iterator[tuple[str, str]]:
    """Give the URL to use and a sentence about it. With `tied` a private server ends even if we are killed.

    Raises `ConfigurationError` for a URL that makes no sense, `ServerDidNotStart`.
    """
    if found := url or reachable():
        yield found, about(found)
        return
    with PrivateServer(tied=tied) as server:
        yield server.url, f"no Redis is running here: started a private one, {server.program.kind}"


def about(url: str) -> str:
    """Return a sentence on a Redis that is not ours. Raises `ConfigurationError` for a URL that makes no sense."""
    settings = redis_settings(url=url)
    try:
        open_link(settings, "daebus:look", monotonic() + LOOK_SECONDS).close()
    except DaebusError as reason:
        return f"waiting for Redis ({reason}); DAEBUS_REDIS_URL says where it is"
    return f"using the Redis at {without_password(url)}"


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
