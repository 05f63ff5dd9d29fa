"""A subscription to channels and globs, read by one thread that does nothing else: what `daebus sub` hears with."""

from __future__ import annotations

from time import monotonic

from .errors import RedisUnavailable
from .link import CONNECT_LIMIT, Link, open_link, subscribe
from .names import is_glob
from .resp import PING
from .target import HEALTH_PERIOD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .settings import RedisSettings

NAME = "daebus:command"
"""What Redis lists the connection as."""


class Subscription:
    """One connection that hears channels and globs. Not thread-safe. `open` makes a new one after a loss."""

    def __init__(self, settings: RedisSettings, names: list[str]) -> None:
        self._settings = settings
        self._channels = [name for name in names if not is_glob(name)]
        self._globs = [name for name in names if is_glob(name)]
        self._link: Link | None = None
        self._early: list[Any] = []
        self._asked = False  # for a sign of life, since Redis last said something

    def open(self) -> None:
        """Connect and subscribe. Raises `RedisUnavailable` or `RedisRefused`."""
        self.close()
        deadline = monotonic() + CONNECT_LIMIT
        link = open_link(self._settings, NAME, deadline)
        try:
            self._early = subscribe(link, NAME, self._channels, self._globs, deadline)
        except TimeoutError:
            link.close()
            raise RedisUnavailable(f"Redis at {self._settings} does not answer") from None
        except OSError:
            link.close()
            raise
        self._link = link
        self._asked = False

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Return the next messages, each with its channel: none if nothing came for `HEALTH_PERIOD`.

        Raises `RedisUnavailable` when the connection has ended, or Redis is silent when asked for a sign of life.
        """
        if self._link is None:
            raise RedisUnavailable("the subscription is not open")
        replies, self._early = self._early, []
        if not replies:
            replies = self._wait(self._link)
        return [(reply[-2], reply[-1]) for reply in replies if _is_message(reply)]

    def _wait(self, link: Link) -> list[Any]:
        try:
            replies = link.wait(monotonic() + HEALTH_PERIOD)
        except TimeoutError:
            if self._asked:
                raise RedisUnavailable(f"Redis at {self._settings} did not answer a health check") from None
            self._asked = True
            link.send(PING)
            return []
        self._asked = False
        return replies

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._link is not None:
            self._link.close()
            self._link = None


def _is_message(reply: object) -> bool:
    return isinstance(reply, list) and reply[0] in (b"message", b"pmessage")
