"""The connections that all callers of a process share: one `Hub` per Redis server.

It has a subscribed connection, on which all answers arrive, and a publishing one, and usually no thread. The threads
that wait read for themselves: one of them at a time *leads* - it polls the sockets and hands the others what is
theirs - and passes the lead on when it has its answer. Only a crowd gets a thread that reads for all of them.
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock
from threading import Thread
from time import monotonic

from .errors import RedisUnavailable
from .jsontext import dumps
from .ledger import Exchange
from .link import open_pair
from .message import checked
from .resp import command, deliver
from .resp import publish as publish_command
from .schedule import backoff
from .settings import redis_settings
from .target import CONFIRM_LIMIT, HubState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .errors import CallerClosed
    from .link import Pair
    from .settings import RedisSettings

DRAIN_EVERY = 32
"""Confirmations that may lie unread while calls are quick."""

CROWD = 4
"""Waiting threads above which a thread is made that reads for all of them."""

CROWD_LINGER = 0.2
"""Seconds that it stays when there are fewer."""

COMMAND_LIMIT = 5.0
"""Seconds that a broadcast may take."""


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


class Hub(HubState):
    """The shared connections of all callers of a process to one Redis server. Thread-safe."""

    def __init__(self, settings: RedisSettings) -> None:
        super().__init__(settings)
        self.pinned = False
        self._failures = 0  # of connecting
        self._reading = False  # whether a thread leads for all
        self.usable = True  # until it is closed, or the process forks
        self._lock = allocate_lock()  # for the connections, sending and tickets
        self._lead = allocate_lock()  # held by the one thread that reads
        self._pair: Pair | None = None
        self._commands: set[ThreadExchange] = set()  # those that wait for Redis' reply
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()

    # --- sending ---

    def request(
        self, request_id: str, channel: bytes, data: bytes, exchange: ThreadExchange, deadline: float, full: bool
    ) -> None:
        """Publish a request; the exchange will get its answers until `forget`.

        With a `full` Redis the caller has looked whether somebody is there to hear it.
        """
        self.ledger.pending[request_id] = exchange
        commands = (publish_command(channel, data),) if full else deliver(channel, data)
        self._submit(b"".join(commands), len(commands), exchange, deadline)

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
        return self._outcome(exchange)

    def _submit(self, data: bytes, replies: int, exchange: ThreadExchange, deadline: float) -> None:
        failures = self._failures
        if not self._lock.acquire(timeout=max(0.0, deadline - monotonic())):
            raise self._silent()
        try:
            if self._pair is None and self._failures != failures:
                raise self._silent()  # whom we waited for has just tried
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
        if monotonic() - self._heard < 0.05:
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
        except (
            BaseException
        ) as error:  # also of a signal handler: nothing can follow half a command, which is never run
            self._drop(pair, error if isinstance(error, RedisUnavailable) else self._silent())
            raise

    # --- waiting ---

    def wait(self, exchange: ThreadExchange, deadline: float) -> None:
        """Wait until something has come for an exchange, or the deadline. Leads if nobody else does."""
        while not exchange.ready:
            left = deadline - monotonic()
            if left <= 0:
                break
            exchange.waits_idly = True  # before the look at the lead: who gives it up looks after that
            if not self._lead.acquire(False):
                if len(self.ledger.pending) > CROWD and not self._reading:
                    self._start_reader()
                exchange.sleep(left)
                continue
            try:
                self._read_on(exchange, deadline)
            finally:
                self._lead.release()
        exchange.waits_idly = False
        self._pass_on()

    def _start_reader(self) -> None:
        """Have a thread lead while so many wait that passing the lead on would cost more than the thread does."""
        if not self._lock.acquire(False):
            return  # another time
        try:
            if not self._reading:
                Thread(target=self._read_for_all, name="daebus-answers", daemon=True).start()
                self._reading = True
        except RuntimeError:  # the system refuses a thread; the waiting ones read, as ever
            pass
        finally:
            self._lock.release()

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
            if exchange.waits_idly and not exchange.ready:
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
            self._look(pair, exchange, now, deadline)
        except RedisUnavailable as error:
            if self._lock.acquire(timeout=max(0.0, deadline - monotonic())):
                self._drop(pair, error)
                self._lock.release()

    def _look(self, pair: Pair, exchange: ThreadExchange, now: float, deadline: float) -> None:
        # At first for answers only. What Redis says of the delivery comes earlier, but waking for it would double the
        # cost of a quick call; a slow call asks for it then.
        quickly = not exchange.command and not exchange.confirmed
        if quickly and self._take_answers(pair.subscribed.receive_soon()):
            if len(self.ledger.tickets) > DRAIN_EVERY:
                self._read_publishing(pair)
            return
        self._read(pair)  # of earlier calls, too, so that only what is really missing counts against the connection
        if exchange.ready:
            return
        limit = min(deadline - now, self._check_health(pair.subscribed, now))
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
        try:
            pair = open_pair(self.settings, "daebus:caller", [self.channel], [], deadline)
        except RedisUnavailable:
            self._failures += 1
            raise
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
                if self._lock.acquire(timeout=max(0.0, deadline - monotonic())):
                    try:
                        if self._pair is None:
                            self._connect(deadline)
                    finally:
                        self._lock.release()
                return
            except RedisUnavailable:
                attempt += 1
                exchange.sleep(min(backoff(attempt, 0.05, 0.5), deadline - monotonic()))

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    # --- the end ---

    def abandon(self, owner: object, error: CallerClosed) -> None:
        """Tell all that wait for a caller which is closed. Any thread."""
        for exchange in (*list(self.ledger.pending.values()), *list(self._commands)):
            if exchange.owner is owner:
                exchange.fail(error)
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


_hubs: dict[tuple[object, ...], Hub] = {}
_hubs_lock = allocate_lock()


def take_hub(settings: RedisSettings, instead_of: Hub | None) -> Hub:
    """Return the process' hub for a Redis server, for one more user. Connects nothing."""
    with _hubs_lock:
        hub = _hub(settings)
        if hub is not instead_of:
            hub.users += 1
        return hub


def leave_hub(hub: Hub) -> None:
    """A user less; the last one closes it."""
    with _hubs_lock:
        hub.users -= 1
        last = hub.users <= 0 and not hub.pinned
        if last:
            del _hubs[hub.settings.key]
    if last:
        hub.close()


def _hub(settings: RedisSettings) -> Hub:
    hub = _hubs.get(settings.key)
    if hub is None:
        hub = _hubs[settings.key] = Hub(settings)
    return hub


def _pinned_hub(settings: RedisSettings | None) -> Hub:
    with _hubs_lock:
        hub = _hub(settings if settings is not None else redis_settings())
        hub.pinned = True
        return hub


def _forget_hubs() -> None:
    """After a fork, in the child: the connections and locks are the parent's; begin anew."""
    global _hubs, _hubs_lock
    for hub in _hubs.values():
        hub.usable = False
    _hubs = {}
    _hubs_lock = allocate_lock()


os.register_at_fork(after_in_child=_forget_hubs)


def publish(settings: RedisSettings | None, channel: str, payload: Any) -> int:
    """Publish a JSON value (for `broadcast`); return how many received it. Any thread."""
    data = publish_command(channel.encode(), checked(dumps(payload)))
    return int(_pinned_hub(settings).command(data, ThreadExchange(None, command=True), monotonic() + COMMAND_LIMIT))


def command_now(settings: RedisSettings, *words: str) -> Any:
    """Run one Redis command on the shared connection and return its reply. Any thread."""
    exchange = ThreadExchange(None, command=True)
    return _pinned_hub(settings).command(command(*words), exchange, monotonic() + COMMAND_LIMIT)
