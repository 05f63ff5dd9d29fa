"""Whom a caller calls, and how: what `DaebusCaller` and `AsyncCaller`, and their hubs, have in common."""

from __future__ import annotations

import os
from time import monotonic

from .context import current_span, running_daemon
from .errors import (
    CallerClosed,
    ConfigurationError,
    DaebusError,
    RedisRefused,
    RedisUnavailable,
    RequestTimeout,
    ServiceUnavailable,
    error_from_wire,
)
from .ledger import Ledger
from .link import new_id, way_out
from .message import encode_request
from .names import check_service
from .resp import PING
from .settings import redis_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .ledger import Exchange
    from .link import Link
    from .message import Reply
    from .settings import RedisSettings

NO_FIELDS: dict[str, Any] = {}
"""The payload of a request that is sent without one, so that `request.payload.get(...)` works."""

CONFIRM_LIMIT = 1.0
"""Seconds within which Redis must confirm a message; after that its connection counts as dead."""

HEALTH_PERIOD = 1.5
"""Seconds of silence after which the subscribed connection is asked for a sign of life, and again that long until it
counts as dead."""

WAIT_FIRST, WAIT_LONGEST = 0.01, 0.2
"""Seconds between two looks whether an absent service has come (`wait=True`)."""


class HubState:
    """What a hub - the connections that callers share - knows, whoever drives it."""

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.channel = channel_of_ours("caller")
        self.clock = clock_id()
        self.users = 0
        self.ledger = Ledger()
        self._heard = 0.0  # when the subscribed connection last said something
        self._asked = 0.0  # when it was last asked for a sign of life

    def _check_health(self, subscribed: Link, now: float) -> float:
        """Raise `RedisUnavailable` for a dead connection; return in how many seconds to look again."""
        oldest = self.ledger.oldest
        waited = now - oldest if oldest is not None else 0.0
        if waited > CONFIRM_LIMIT:
            raise RedisUnavailable(f"Redis at {self.settings} did not confirm within {CONFIRM_LIMIT:g} s")
        quiet = now - max(self._heard, self._asked)
        if quiet >= HEALTH_PERIOD:
            if self._asked > self._heard:
                raise RedisUnavailable(f"Redis at {self.settings} did not answer a health check")
            self._asked, quiet = now, 0.0
            subscribed.send(PING)
        left = HEALTH_PERIOD - quiet
        return left if oldest is None else min(left, CONFIRM_LIMIT - waited)

    def _outcome(self, exchange: Exchange) -> Any:
        """Return Redis' reply to a command that was waited for, or raise what came instead."""
        if exchange.error is not None:
            raise _with_way_out(exchange.error, "publish` or `calls")
        if not exchange.confirmed:
            raise self._silent()
        return exchange.result

    def _silent(self) -> RedisUnavailable:
        return RedisUnavailable(f"Redis at {self.settings} does not answer")


class Target:
    """The service to call, its Redis, the timeout; and the meaning of what comes back."""

    def __init__(
        self,
        target_service: str,
        redis_host: str | None = None,
        redis_port: int | None = None,
        timeout: float = 5,
        *,
        redis_url: str | None = None,
    ) -> None:
        self.target_service = check_service(target_service)
        self.timeout = check_timeout(timeout)
        self._given = redis_host is not None or redis_port is not None or redis_url is not None
        self._own_settings = redis_settings(redis_host, redis_port, redis_url)
        self._channel = target_service.encode()
        self._closed = False

    @property
    def _settings(self) -> RedisSettings:
        """The settings that were given, else those of the service that runs in this process, else the default ones."""
        daemon = running_daemon()
        if self._given or daemon is None or daemon.settings is None:
            return self._own_settings
        return daemon.settings

    def _encode(
        self, hub: HubState, request_id: str, action: str, payload: Any, deadline: float, limit: float
    ) -> bytes:
        if not isinstance(action, str) or not action:
            raise ConfigurationError(f"{action!r} is not an action: give its name as text")
        service, (trace, parent) = self.target_service, current_span()
        return encode_request(
            service, action, payload, hub.channel, request_id, deadline, limit, hub.clock, trace, parent
        )

    def _next_reply(self, exchange: Exchange, deadline: float, asked: str) -> Reply | None:
        """Return what has come, or None to wait on; raise if nothing more will come."""
        if exchange.replies:
            return exchange.replies.popleft()
        if exchange.error is not None:
            raise self._explained(exchange.error)
        if monotonic() >= deadline:
            lost = "; the connection to Redis was lost meanwhile" if exchange.interrupted else ""
            raise RequestTimeout(f"No answer from {self.target_service!r} to {asked}{lost}")
        return None

    def _explained(self, error: DaebusError) -> DaebusError:
        if isinstance(error, ServiceUnavailable):
            text = f"No service {self.target_service!r} is running (asked Redis at {self._settings})"
            return ServiceUnavailable(text)
        return _with_way_out(error, "calls")

    def _check_holding(self, left: float, limit: float) -> None:
        """While waiting for the service to come: raise if that makes no sense any longer."""
        if self._closed:
            raise self._is_closed()
        if left <= 0:
            raise RequestTimeout(f"No service {self.target_service!r} came within {limit:g} s; nothing was sent")

    def _is_closed(self) -> CallerClosed:
        return CallerClosed(f"the caller is closed: make a new {type(self).__name__} to go on")


def _with_way_out(error: DaebusError, key: str) -> DaebusError:
    """Return the error; one for want of a right says which key of [tool.daebus] gives it."""
    hint = way_out(error.refusal, key) if isinstance(error, RedisRefused) else ""
    return RedisRefused(f"{error}{hint}") if hint else error


def payload_of(reply: Reply) -> Any:
    """Return the payload of a final answer; raise the error that it is."""
    if reply.failed:
        raise error_from_wire(reply.text, reply.code, reply.error_id)
    return reply.payload


def channel_of_ours(kind: str) -> str:
    """Return a new channel to be answered on. It has the service's name, so that Redis may let no other one hear it."""
    daemon = running_daemon()
    name = daemon.service if daemon is not None else None
    name = name or os.environ.get("DAEBUS_SERVICE")  # of a script that calls before it runs
    return f"{kind}:{check_service(name)}-{new_id()}" if name else f"{kind}:{new_id()}"


def clock_id() -> str:
    """Return what tells this boot's monotonic clock from those of other machines."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read(8)
    except OSError:
        return ""


def check_channel_to_publish(channel: object) -> bytes:
    """Return the bytes of a channel's name; `ConfigurationError` if it is none."""
    if isinstance(channel, str) and channel:
        try:
            return channel.encode()
        except UnicodeEncodeError:
            pass
    raise ConfigurationError(f"{channel!a} is not a channel: give its name as text")


def check_timeout(seconds: object) -> float:
    """Return a timeout in seconds; `ConfigurationError` if it is no number above 0."""
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e9:
        return float(seconds)
    raise ConfigurationError(f"{seconds!r} is not a timeout: give a number of seconds above 0")
