"""`DaebusCaller`: calls the actions of a service and waits for the answer.

All callers of a process share one `Hub` per Redis server: a subscribed connection, on which all answers arrive, and
a publishing one. There is no thread behind it. The threads that wait read for themselves: one of them at a time
*leads* - it polls the sockets and hands the others what is theirs - and passes the lead on when it has its answer.
A caller connects on first use, and again in a child after a fork.
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock
from threading import Thread
from time import monotonic

from .context import running_daemon
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
from .jsontext import dumps
from .ledger import Exchange, Ledger
from .link import new_id, open_pair
from .message import checked, encode_direct, encode_request
from .names import check_service
from .resp import PING, command, deliver
from .resp import publish as publish_command
from .schedule import backoff
from .settings import redis_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from .app import Daebus
    from .link import Pair
    from .settings import RedisSettings

NO_FIELDS: dict[str, Any] = {}
"""The payload of a request that is sent without one, so that `request.payload.get(...)` works."""

CONFIRM_LIMIT = 1.0
"""Seconds within which Redis must confirm a message; after that its connection counts as dead."""

HEALTH_PERIOD = 1.5
"""Seconds of silence after which the leader asks the subscribed connection for a sign of life, and again that
long until it counts as dead."""

DRAIN_EVERY = 32
"""Confirmations that may lie unread while calls are quick."""

CROWD = 4
"""Waiting threads above which a thread is made that reads for all of them."""

CROWD_LINGER = 0.2
"""Seconds that it stays when there are fewer."""

COMMAND_LIMIT = 5.0
"""Seconds that a broadcast may take."""

WAIT_FIRST, WAIT_LONGEST = 0.01, 0.2
"""Seconds between two looks whether an absent service has come (`wait=True`)."""


class ThreadExchange(Exchange):
    """An exchange that a thread waits for."""

    __slots__ = ("_sleep",)

    def __init__(self, owner: object, *, command: bool = False) -> None:
        super().__init__(owner, command=command)
        self._sleep = allocate_lock()
        self._sleep.acquire()

    def wake(self) -> None:
        """Wake the thread if it sleeps. Any thread."""
        try:
            self._sleep.release()
        except RuntimeError:  # it is awake already
            pass

    def sleep(self, seconds: float) -> None:
        """Wait to be woken."""
        self._sleep.acquire(timeout=max(0.0, seconds))


class Hub:
    """The shared connections of all callers of a process to one Redis server. Thread-safe."""

    def __init__(self, settings: RedisSettings) -> None:
        daemon = running_daemon()
        who = f"{daemon.service}-" if daemon is not None and daemon.service else ""
        self.settings = settings
        self.channel = f"caller:{who}{new_id()}"
        self.clock = clock_id()
        self.users = 0
        self.pinned = False
        self._reading = False  # whether a thread leads for all
        self.usable = True  # until it is closed, or the process forks
        self.ledger = Ledger()
        self._lock = allocate_lock()  # for the connections, sending and tickets
        self._lead = allocate_lock()  # held by the one thread that reads
        self._pair: Pair | None = None
        self._commands: set[ThreadExchange] = set()  # those that wait for Redis' reply
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._heard = 0.0
        self._asked = 0.0

    # --- sending ---

    def request(self, request_id: str, channel: bytes, data: bytes, exchange: ThreadExchange, deadline: float) -> None:
        """Publish a request; the exchange will get its answers until `forget`."""
        self.ledger.pending[request_id] = exchange
        self._submit(deliver(channel, data), 4, exchange, deadline)

    def forget(self, request_id: str) -> None:
        """Wait for an answer no longer."""
        self.ledger.pending.pop(request_id, None)
        self._pass_on()

    def command(self, data: bytes, exchange: ThreadExchange, deadline: float) -> Any:
        """Send one command and return Redis' reply."""
        self._commands.add(exchange)
        try:
            self._submit(data, 1, exchange, deadline)
            self.wait(exchange, deadline)
        finally:
            self._commands.discard(exchange)
            self._pass_on()
        if exchange.error is not None:
            raise exchange.error
        if not exchange.confirmed:
            raise RedisUnavailable(f"Redis at {self.settings} does not answer")
        return exchange.result

    def _submit(self, data: bytes, replies: int, exchange: ThreadExchange, deadline: float) -> None:
        if not self._lock.acquire(timeout=max(0.0, deadline - monotonic())):
            raise RedisUnavailable(f"Redis at {self.settings} does not answer")
        try:
            pair = self._pair if self._pair is not None and self._alive(self._pair) else self._connect(deadline)
            self._send(pair, data, replies, exchange, deadline)
        finally:
            self._lock.release()

    def _send(self, pair: Pair, data: bytes, replies: int, exchange: ThreadExchange, deadline: float) -> None:
        now = monotonic()
        self.ledger.sent(exchange, replies, now)  # before Redis can answer
        try:
            sent = pair.publishing.send(data)
        except RedisUnavailable as error:  # not a byte of it went out, so it may be sent again
            self.ledger.not_sent()
            self._drop(pair, error)
            self._send(self._connect(deadline), data, replies, exchange, deadline)
            return
        if sent < len(data):
            self._send_rest(pair, memoryview(data)[sent:], min(deadline, now + CONFIRM_LIMIT))

    def _alive(self, pair: Pair) -> bool:
        """Look whether a connection that was idle has been closed meanwhile (under the lock)."""
        if self.ledger.tickets or monotonic() - self._heard < 0.05:
            return True
        if not self._lead.acquire(False):
            return True
        try:
            self._read(pair)
        except RedisUnavailable as error:
            self._drop(pair, error)
            return False
        finally:
            self._lead.release()
        return True

    def _send_rest(self, pair: Pair, rest: memoryview, deadline: float) -> None:
        poller = select.poll()
        poller.register(pair.publishing.fileno(), select.POLLOUT)
        try:
            while rest:
                left = deadline - monotonic()
                if left <= 0 or not poller.poll(left * 1000):
                    raise RedisUnavailable(f"Redis at {self.settings} takes no more")
                rest = rest[pair.publishing.send(rest) :]
        except RedisUnavailable as error:
            self._drop(pair, error)  # nothing can follow half a command, which is never run
            raise

    # --- waiting ---

    def wait(self, exchange: ThreadExchange, deadline: float) -> None:
        """Wait until something has come for an exchange, or the deadline. Leads if nobody else does."""
        while not exchange.ready:
            left = deadline - monotonic()
            if left <= 0:
                break
            if not self._lead.acquire(False):
                if len(self.ledger.pending) > CROWD and not self._reading:
                    self._start_reader()
                exchange.sleep(left)
                continue
            try:
                self._read_on(exchange, deadline)
            finally:
                self._lead.release()
        self._pass_on()

    def _start_reader(self) -> None:
        """Have a thread lead while so many wait that passing the lead on would cost more than the thread does."""
        with self._lock:
            if self._reading:
                return
            self._reading = True
        Thread(target=self._read_for_all, name="daebus-answers", daemon=True).start()

    def _read_for_all(self) -> None:
        """Lead for all, until few have been waiting for a while."""
        stand_in = ThreadExchange(None)
        crowded = monotonic()
        self._lead.acquire()
        try:
            while self.usable and (now := monotonic()) - crowded < CROWD_LINGER:
                if len(self.ledger.pending) > CROWD / 2:
                    crowded = now
                self._read_once(stand_in, now, now + CROWD_LINGER)
        finally:
            self._reading = False
            self._lead.release()
            self._pass_on()

    def _pass_on(self) -> None:
        """See to it that somebody leads. Called by every thread that stops waiting, for it may have been the one."""
        if self._lead.locked():
            return
        for exchange in (*list(self.ledger.pending.values()), *list(self._commands)):
            if not exchange.ready:
                exchange.wake()
                return

    def _read_on(self, exchange: ThreadExchange, deadline: float) -> None:
        """Lead: read until something has come for our own exchange, or the deadline."""
        while not exchange.ready and (now := monotonic()) < deadline:
            self._read_once(exchange, now, deadline)

    def _read_once(self, exchange: ThreadExchange, now: float, deadline: float) -> None:
        pair = self._pair
        if pair is None:
            self._repair(exchange, deadline)
            return
        try:
            self._look(pair, now, deadline, quickly=not exchange.command and not exchange.confirmed)
        except RedisUnavailable as error:
            with self._lock:
                self._drop(pair, error)

    def _look(self, pair: Pair, now: float, deadline: float, *, quickly: bool) -> None:
        # At first for answers only. What Redis says of the delivery comes earlier, but waking for it would double the
        # cost of a quick call; a slow call asks for it then.
        if quickly and self._take_answers(pair.subscribed.receive_soon()):
            if len(self.ledger.tickets) > DRAIN_EVERY:
                self._read_publishing(pair)
            return
        limit = min(deadline - now, self._check_health(pair, now))
        for descriptor, _events in self._poll.poll(max(0.0, limit) * 1000 + 0.5):
            if descriptor == self._bell:
                self._unring()
        self._read(pair)

    def _read(self, pair: Pair) -> None:
        self._read_publishing(pair)
        self._take_answers(pair.subscribed.receive())

    def _unring(self) -> None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass

    def _check_health(self, pair: Pair, now: float) -> float:
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
            pair.subscribed.send(PING)
        left = HEALTH_PERIOD - quiet
        return left if oldest is None else min(left, CONFIRM_LIMIT - waited)

    def _take_answers(self, replies: list[Any]) -> bool:
        """Hand out the answers that have arrived; False if nothing has (only the leader is here)."""
        if not replies:
            return False
        self._heard = monotonic()
        self.ledger.take_answers(replies)
        return True

    def _read_publishing(self, pair: Pair) -> None:
        """Take what Redis says of messages and commands (only the leader is here)."""
        self.ledger.take_confirmations(pair.publishing.receive())

    # --- connections (under the lock) ---

    def _connect(self, deadline: float) -> Pair:
        pair = open_pair(self.settings, "daebus:caller", [self.channel], [], deadline)
        pair.subscribed.be_patient()
        self._poll = select.poll()
        for descriptor in (self._bell, *pair.links):
            self._poll.register(descriptor, select.POLLIN)
        self._heard = monotonic()
        self._asked = 0.0
        self._pair = pair
        return pair

    def _drop(self, pair: Pair, error: RedisUnavailable) -> None:
        """Give up the connections; tell those of whose message nothing is known."""
        if self._pair is not pair:
            return
        self._pair = None
        pair.close()
        self.ledger.connection_lost(error)
        self._ring()

    def _repair(self, exchange: ThreadExchange, deadline: float) -> None:
        """Connect again, for answers that may still come; the leader's own time is the limit."""
        attempt = 0
        while exchange.error is None and monotonic() < deadline:
            try:
                with self._lock:
                    if self._pair is None:
                        self._connect(deadline)
                return
            except RedisUnavailable:
                attempt += 1
                exchange.sleep(min(backoff(attempt, 0.05, 0.5), deadline - monotonic()))

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    # --- the end ---

    def abandon(self, owner: DaebusCaller) -> None:
        """Tell all that wait for a caller which is closed. Any thread."""
        for exchange in (*list(self.ledger.pending.values()), *list(self._commands)):
            if exchange.owner is owner:
                exchange.fail(_closed())
        self._ring()

    def close(self) -> None:
        """Close the connections; nobody uses them any more."""
        self.usable = False
        led = self._lead.acquire(timeout=1.0)  # a leader that was just abandoned is on its way out
        with self._lock:
            pair, self._pair = self._pair, None
        if pair is not None:
            pair.close()
        if led:
            os.close(self._bell)
            self._lead.release()


def _closed() -> CallerClosed:
    return CallerClosed("the caller is closed: make a new DaebusCaller to go on")


def clock_id() -> str:
    """Return what tells this boot's monotonic clock from those of other machines."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read(8)
    except OSError:
        return ""


_hubs: dict[tuple[object, ...], Hub] = {}
_hubs_lock = allocate_lock()


def _hub(settings: RedisSettings) -> Hub:
    """Return the process' hub for a Redis server (under `_hubs_lock`). Connects nothing."""
    hub = _hubs.get(settings.key)
    if hub is None:
        hub = _hubs[settings.key] = Hub(settings)
    return hub


def _forget_hubs() -> None:
    """After a fork, in the child: the connections and locks are the parent's; begin anew."""
    global _hubs, _hubs_lock
    for hub in _hubs.values():
        hub.usable = False
    _hubs = {}
    _hubs_lock = allocate_lock()


os.register_at_fork(after_in_child=_forget_hubs)


def _shared_hub(settings: RedisSettings | None) -> Hub:
    with _hubs_lock:
        hub = _hub(settings if settings is not None else redis_settings())
        hub.pinned = True
        return hub


def publish(settings: RedisSettings | None, channel: str, payload: Any) -> int:
    """Publish a JSON value (for `broadcast`); return how many received it."""
    data = checked(dumps(payload))
    deadline = monotonic() + COMMAND_LIMIT
    return int(
        _shared_hub(settings).command(
            publish_command(channel.encode(), data), ThreadExchange(None, command=True), deadline
        )
    )


def command_now(settings: RedisSettings, *words: str) -> Any:
    """Run one Redis command on the shared connection and return its reply."""
    return _shared_hub(settings).command(
        command(*words), ThreadExchange(None, command=True), monotonic() + COMMAND_LIMIT
    )


class DaebusCaller:
    """Calls a service. Cheap to make, shareable between threads, usable after a fork.

    Without arguments for Redis it uses the server of the service that runs in this process, if one does, else the
    default one (see `daebus.settings`). `timeout` is in seconds. Nothing is connected before the first call.
    """

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
        self._used: Hub | None = None
        self._daemon: Daebus | None = None  # the service of this process when the hub was chosen

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
        data = encode_request(
            self.target_service,
            check_text(action),
            payload,
            hub.channel,
            request_id,
            deadline,
            limit,
            hub.clock,
        )
        while True:
            if wait:
                self._hold(hub, deadline, limit)
            exchange = ThreadExchange(self)
            try:
                hub.request(request_id, self._channel, data, exchange, deadline)
                return self._result(hub, exchange, deadline, on_progress, f"{action!r} within {limit:g} s")
            except ServiceUnavailable:
                if not wait or exchange.replies:
                    raise
            except RedisUnavailable:
                if not wait or exchange.sent:
                    raise
                exchange.sleep(min(WAIT_LONGEST, deadline - monotonic()))
            finally:
                hub.forget(request_id)

    def _hold(self, hub: Hub, deadline: float, limit: float) -> None:
        """Wait until somebody serves under the name."""
        attempt = 0
        while True:
            exchange = ThreadExchange(self, command=True)
            try:
                if hub.command(command("PUBSUB", "NUMSUB", self.target_service), exchange, deadline)[1]:
                    return
            except RedisRefused:
                raise
            except RedisUnavailable:
                pass
            attempt += 1
            left = deadline - monotonic()
            if self._closed:
                raise _closed()
            if left <= 0:
                raise RequestTimeout(f"No service {self.target_service!r} came within {limit:g} s; nothing was sent")
            exchange.sleep(min(backoff(attempt, WAIT_FIRST, WAIT_LONGEST), left))

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
            while exchange.replies:
                reply = exchange.replies.popleft()
                if not reply.final:
                    if on_progress is not None:
                        on_progress(reply.payload)
                    continue
                if reply.failed:
                    raise error_from_wire(reply.text, reply.code, reply.error_id)
                return reply.payload
            if exchange.error is not None:
                raise self._explained(exchange.error)
            if monotonic() >= deadline:
                lost = "; the connection to Redis was lost meanwhile" if exchange.interrupted else ""
                raise RequestTimeout(f"No answer from {self.target_service!r} to {asked}{lost}")

    def _explained(self, error: DaebusError) -> DaebusError:
        if isinstance(error, ServiceUnavailable):
            text = f"No service {self.target_service!r} is running (asked Redis at {self._settings})"
            return ServiceUnavailable(text)
        return error

    def send_message(self, channel: str, payload: Any) -> int:
        """Publish a JSON value to a channel; return how many subscribers received it."""
        if not isinstance(channel, str) or not channel:
            raise ConfigurationError(f"{channel!r} is not a channel: give its name as text")
        return self._publish(channel, checked(dumps(payload)))

    def send_to_service(self, payload: Any, action: str | None = None) -> int:
        """Send the service a message that wants no answer; return how many subscribers received it.

        The fields of the payload travel beside the action; in the handler they are `request.payload`.
        """
        return self._publish(self.target_service, encode_direct(payload, action))

    def _publish(self, channel: str, data: bytes) -> int:
        exchange = ThreadExchange(self, command=True)
        return int(self._hub().command(publish_command(channel.encode(), data), exchange, monotonic() + self.timeout))

    @property
    def _settings(self) -> RedisSettings:
        return settings_for(self._own_settings, given=self._given)

    def _hub(self) -> Hub:
        if self._closed:
            raise _closed()
        daemon = running_daemon()
        if self._used is not None and self._used.usable and daemon is self._daemon:
            return self._used
        with _hubs_lock:
            hub = _hub(self._settings)
            if hub is not self._used:
                hub.users += 1
            self._used, self._daemon = hub, daemon
        return hub

    def close(self) -> None:
        """Close the caller: whoever waits, and whoever calls later, gets `CallerClosed` at once. Any thread."""
        if self._closed:
            return
        self._closed = True
        hub, self._used = self._used, None
        if hub is None or not hub.usable:  # never used, or the parent's before a fork
            return
        hub.abandon(self)
        with _hubs_lock:
            hub.users -= 1
            last = hub.users <= 0 and not hub.pinned
            if last:
                del _hubs[hub.settings.key]
        if last:
            hub.close()

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


def settings_for(own: RedisSettings, *, given: bool) -> RedisSettings:
    """Return a caller's settings: its own if any were given, else those of the service that runs in this process."""
    if given:
        return own
    daemon = running_daemon()
    return daemon.settings if daemon is not None and daemon.settings is not None else own


def check_timeout(seconds: object) -> float:
    """Return a timeout in seconds; `ConfigurationError` if it is no number above 0."""
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e9:
        return float(seconds)
    raise ConfigurationError(f"{seconds!r} is not a timeout: give a number of seconds above 0")


def check_text(action: object) -> str:
    """Return the name of an action to call; `ConfigurationError` if it is no text."""
    if isinstance(action, str) and action:
        return action
    raise ConfigurationError(f"{action!r} is not an action: give its name as text")
