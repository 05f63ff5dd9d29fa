"""What is behind `cache` in a test: fakeredis, whose channels are those of the test."""

from __future__ import annotations

from ..errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .switch import Switch


class FakeRedis:
    """A Redis in memory, and the redis-py client of it."""

    def __init__(self, server: Any, client: Any) -> None:
        self._server = server
        self.client = client

    def connect(self, *, connected: bool) -> None:
        """Have it be reached, or not."""
        self._server.connected = connected


def fake_redis(switch: Switch) -> FakeRedis:
    """Make one. Raises `ConfigurationError` if fakeredis is not installed."""
    try:
        import fakeredis
    except ImportError:
        raise ConfigurationError(
            "`cache` in a test needs fakeredis: pip install 'daebus[testing]' (Debian: python3-fakeredis)"
        ) from None
    server = fakeredis.FakeServer()
    client: Any = fakeredis.FakeStrictRedis(server=server, decode_responses=True)
    publish = client.publish

    def publish_to_both(channel: Any, message: Any, **options: Any) -> int:
        data = message if isinstance(message, bytes) else str(message).encode()
        heard = int(publish(channel, message, **options))
        return heard + switch.publish(str(channel), data)

    client.publish = publish_to_both
    return FakeRedis(server, client)
