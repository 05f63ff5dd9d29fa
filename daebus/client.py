"""`DaebusCaller`: calls the actions of a service and waits for the answer.

A caller connects on first use, and again in a child after a fork; its connections are the process' (see `hub`).
"""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic, sleep

from .context import running_daemon
from .errors import RedisRefused, RedisUnavailable, ServiceUnavailable
from .hub import Hub, ThreadExchange, leave_hub, take_hub
from .jsontext import dumps
from .ledger import is_full
from .message import checked, encode_direct
from .resp import count, publish
from .schedule import backoff
from .target import NO_FIELDS, WAIT_FIRST, WAIT_LONGEST, Target, check_channel_to_publish, check_timeout, payload_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from .app import Daebus


class DaebusCaller(Target):
    """Calls a service. Cheap to make, shareable between threads, usable after a fork.

    Without arguments for Redis it uses the server of the service that runs in this process, if one does, else the
    default one (see `daebus.settings`). `timeout` is in seconds. Nothing is connected before the first call.
    """

    _used: Hub | None = None
    _choosing = allocate_lock()  # for all callers: choosing a hub takes no time
    _daemon: Daebus | None = None  # the service of this process when the hub was chosen

    def send_request(
        self,
        action: str,
        payload: Any = NO_FIELDS,
        timeout: float | None = None,
        on_progress: Callable[[Any], object] | None = None,
        *,
        wait: bool = False,
    ) -> Any:
        """Call an action and return the payload of its answer. `on_progress` gets each earlier part, on this thread.

        `timeout` (seconds) overrides the caller's own. If nobody serves under the name, `ServiceUnavailable` is
        raised at once; with `wait=True` the request is held until somebody does, and sent then, once.

        Raises what the service answered (`RemoteError`, `UnknownAction`, `Busy`, `InternalError`...),
        `RequestTimeout`, `ServiceUnavailable`, `RedisUnavailable`, `CallerClosed`, `Unserialisable`, `TooLarge`.
        """
        limit = self.timeout if timeout is None else check_timeout(timeout)
        deadline = monotonic() + limit
        hub = self._hub()
        request_id = hub.ledger.next_id()
        data = self._encode(hub, request_id, action, payload, deadline, limit)
        full = False
        while True:
            if wait or full:
                self._find(hub, deadline, limit, wait)
            exchange = ThreadExchange(self)
            try:
                hub.request(request_id, self._channel, data, exchange, deadline, full)
                return self._result(hub, exchange, deadline, on_progress, f"{action!r} within {limit:g} s")
            except ServiceUnavailable:
                if not wait:
                    raise
            except RedisUnavailable:
                if not full and is_full(exchange.error):
                    full = True
                    continue
                if not wait or exchange.sent:
                    raise
                exchange.sleep(min(WAIT_LONGEST, deadline - monotonic()))
            finally:
                hub.forget(request_id)

    def _find(self, hub: Hub, deadline: float, limit: float, wait: bool) -> None:
        """See to it that somebody serves under the name. Raises `ServiceUnavailable`, if not told to wait."""
        if wait:
            self._hold(hub, deadline, limit)
        elif not self._anybody(hub, deadline):
            raise self._explained(ServiceUnavailable())

    def _hold(self, hub: Hub, deadline: float, limit: float) -> None:
        """Wait until somebody serves under the name."""
        attempt = 0
        while True:
            try:
                if self._anybody(hub, deadline):
                    return
            except RedisRefused:
                raise
            except RedisUnavailable:
                pass
            attempt += 1
            left = deadline - monotonic()
            self._check_holding(left, limit)
            sleep(min(backoff(attempt, WAIT_FIRST, WAIT_LONGEST), left))

    def _anybody(self, hub: Hub, deadline: float) -> bool:
        """Whether somebody serves under the name now."""
        return bool(hub.command(count(self._channel), ThreadExchange(self, command=True), deadline)[1])

    def _result(
        self,
        hub: Hub,
        exchange: ThreadExchange,
        deadline: float,
        on_progress: Callable[[Any], object] | None,
        asked: str,
    ) -> Any:
        while True:
            hub.wait(exchange, deadline)
            reply = self._next_reply(exchange, deadline, asked)
            if reply is None:
                continue
            if reply.final:
                return payload_of(reply)
            if on_progress is not None:
                on_progress(reply.payload)

    def send_message(self, channel: str, payload: Any) -> int:
        """Publish a JSON value to a channel; return how many subscribers received it."""
        return self._publish(check_channel_to_publish(channel), checked(dumps(payload)))

    def send_to_service(self, payload: Any, action: str | None = None) -> int:
        """Send the service a message that wants no answer; return how many subscribers received it.

        The fields of the payload travel beside the action; in the handler they are `request.payload`.
        """
        return self._publish(self._channel, encode_direct(payload, action))

    def _publish(self, channel: bytes, data: bytes) -> int:
        exchange = ThreadExchange(self, command=True)
        return int(self._hub().command(publish(channel, data), exchange, monotonic() + self.timeout))

    def _hub(self) -> Hub:
        if self._closed:
            raise self._is_closed()
        daemon = running_daemon()
        hub = self._used
        if hub is None or not hub.usable or daemon is not self._daemon:
            with self._choosing:
                hub = take_hub(self._settings, self._used)
                self._used, self._daemon = hub, daemon
        return hub

    def close(self) -> None:
        """Close the caller: whoever waits, and whoever calls later, gets `CallerClosed` at once. Any thread."""
        if self._closed:
            return
        self._closed = True
        hub, self._used = self._used, None
        if hub is not None and hub.usable:  # else never used, or the parent's before a fork
            hub.abandon(self, self._is_closed())
            leave_hub(hub)

    @property
    def response_channel(self) -> str:
        """The channel on which this process' answers arrive."""
        return self._hub().channel

    @property
    def redis(self) -> Any:
        """A redis-py client of the same server (made on first use)."""
        from .redispy import client

        return client(self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
