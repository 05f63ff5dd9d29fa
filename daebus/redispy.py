"""The redis-py client behind `cache`: imported on first use, because it costs 21 MB and 0.2 s."""

from __future__ import annotations

import os
from threading import Lock

from .settings import redis_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .settings import RedisSettings

_lock = Lock()
_clients: dict[tuple[object, ...], Any] = {}

CONNECT_LIMIT = 2
"""Seconds to connect, so that a handler that needs Redis fails while its caller still listens."""
REPLY_LIMIT = 5
"""Seconds that a command may take."""


def client(settings: RedisSettings | None) -> Any:
    """Return the redis-py client for these settings (None: the default ones); one per process. Any thread."""
    settings = settings if settings is not None else redis_settings()
    key = (os.getpid(), settings.key)
    found = _clients.get(key)
    if found is None:
        with _lock:
            found = _clients.get(key)
            if found is None:
                found = _clients[key] = _make(settings)
    return found


def _make(settings: RedisSettings) -> Any:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # redis-py 4's unix sockets know no limit for connecting
    limits = {} if settings.path is not None else {"socket_connect_timeout": CONNECT_LIMIT}
    return redis.Redis.from_url(
        settings.url,
        decode_responses=True,
        **limits,
        socket_timeout=REPLY_LIMIT,
        retry=Retry(NoBackoff(), 0),  # a command that may have arrived is not sent again behind the user's back
    )
