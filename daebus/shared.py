"""Several processes of one service: each message of the service's channel is answered by exactly one of them.

Redis delivers every message to all of them, and each asks Redis for it by `SET ... NX`: the first one has it. The
message's key is its request id. For one without an id, it is its number since a marker that every process publishes
when it has subscribed: all subscribers of a channel see the same messages in the same order.
"""

from __future__ import annotations

import logging

from .errors import RedisUnavailable
from .hub import command_now
from .link import new_id
from .log import Seldom, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .message import PubSubRequest
    from .settings import RedisSettings

REMEMBERED = 120
"""Seconds that Redis keeps who had a message: longer than any process may lag behind the others."""

_MARKER = b'{"action":"$daebus.marker","payload":"'


class Share:
    """This process' part in a shared service."""

    def __init__(self, settings: RedisSettings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._marker = ""
        self._count = 0
        self._seldom = Seldom()

    def begin_anew(self) -> None:
        """After a connection was made: until our marker is seen, messages have no number that others know, too."""
        self._marker = ""

    def marker(self) -> bytes:
        """Return a message that, seen by all at the same place, begins a new count."""
        return _MARKER + new_id().encode() + b'"}'

    def is_marker(self, data: bytes) -> bool:
        """Say whether a message is a marker, which no handler is to see."""
        return data.startswith(_MARKER)

    def ticket(self, data: bytes) -> str:
        """Number a message of the service's channel, in the order of arrival. On the reader."""
        if data.startswith(_MARKER):
            self._marker, self._count = data[len(_MARKER) : -2].decode("ascii", "replace")[:36], 0
        self._count += 1
        return f"{self._marker}:{self._count}" if self._marker else ""

    def mine(self, request: PubSubRequest | None, ticket: str) -> bool:
        """Ask for a message (None: one that cannot be read); True for one process only. Waits for Redis' answer."""
        named = request is not None and request.request_id is not None
        name = f"id:{request.reply_to}:{request.request_id!a}" if request is not None and named else ticket
        if not name:
            return False  # came before we knew its number; the others do
        key = f"daebus:once:{self._service}:{name}"
        try:
            return bool(command_now(self._settings, "SET", key, "1", "NX", "EX", str(REMEMBERED)) == b"OK")
        except RedisUnavailable as error:
            text = f"A message was left alone, because Redis did not say whose it is: {one_line(str(error))}"
            self._seldom.log(logging.WARNING, "unclaimed", text)
            return False
