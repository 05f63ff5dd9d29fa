"""Which Redis the example uses: one that is there already, else a private one for as long as it runs.

As a program it prints the answer in one word - reachable, program or none - for the set-up script.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daebus import DaebusError
from daebus.link import open_link
from daebus.redisserver import PrivateServer, find_server, ping
from daebus.settings import redis_settings

PACKAGED_SOCKET = Path("/run/redis-daebus/redis-server.sock")


def reachable() -> str | None:
    """The URL of a Redis that is there for us. What the environment says is used even if it does not answer yet."""
    if url := os.environ.get("DAEBUS_REDIS_URL"):
        return url
    if ping(PACKAGED_SOCKET).startswith(b"+PONG"):
        return f"unix://{PACKAGED_SOCKET}"
    if ping(("localhost", 6379)).startswith(b"+PONG"):
        return "redis://localhost:6379"
    return None


@contextmanager
def some_redis() -> Iterator[tuple[str, str]]:
    """The URL to use and a sentence about it."""
    if url := reachable():
        yield url, about(url)
        return
    with PrivateServer() as server:
        yield server.url, f"no Redis is running here: started a private one, {server.program.kind}"


def about(url: str) -> str:
    """A sentence on a Redis that is not ours. Raises `ConfigurationError` for a URL that makes no sense."""
    settings = redis_settings(url=url)
    try:
        open_link(settings, "kiosk", time.monotonic() + 2).close()
    except DaebusError as reason:
        return f"waiting for Redis ({reason}); DAEBUS_REDIS_URL says where it is"
    return f"using the Redis at {without_password(url)}"


def without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def in_one_word() -> str:
    if reachable():
        return "reachable"
    return "program" if find_server() else "none"


if __name__ == "__main__":
    print(in_one_word())
