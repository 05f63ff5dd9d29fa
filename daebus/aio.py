"""`AsyncCaller`: `DaebusCaller` for asyncio. One connection pair per event loop and Redis server.

What is sent in one turn of the loop leaves in one write; answers are read when the loop finds the socket readable.
"""

from __future__ import annotations

import asyncio
from threading import Thread
from time import monotonic

from .errors import CallerClosed, RedisRefused, RedisUnavailable, ServiceUnavailable
from .jsontext import dumps
from .ledger import Exchange, is_full
from .link import open_pair
from .message import checked, encode_direct
from .resp import count, deliver, publish
from .schedule import backoff
from .target import (
    CONFIRM_LIMIT,
    NO_FIELDS,
    WAIT_FIRST,
    WAIT_LONGEST,
    HubState,
    Target,
    check_channel_to_publish,
    check_timeout,
    payload_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from .link import Pair
    from .settings import RedisSettings


class TaskExchange(Exchange):
    """An exchange that a task waits for."""

    __slots__ = ("_loop", "_waiter")

    def __init__(self, owner: object, loop: asyncio.AbstractEventLoop, *, command: bool = False) -> None:
        super().__init__(owner, command=command)
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let the task go on. On the loop."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, deadline: float) -> None:
        """Wait until something is ready, or the deadline (monotonic seconds, which are the loop's)."""
        if self.ready:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(deadline, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None


class _Opening:
    """Connections that a thread opens for the loop."""

    def __init__(self, settings: RedisSettings, channel: str, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._channel = channel
        self._loop = loop
        self.future: asyncio.Future[Pair] = loop.create_future()

    def run(self) -> None:
        """On the thread."""
        try:
            pair = open_pair(self._settings, "daebus:caller", [self._channel], [])
        except Exception as error:  # noqa: BLE001 - it is raised again in the task that waits
            self._tell(self._failed, error)
        else:
            if not self._tell(self._opened, pair):
                pair.close()

    def _tell(self, what: Callable[[Any], None], value: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(what, value)
        except RuntimeError:  # the loop has ended meanwhile
            return False
        return True

    def _opened(self, pair: Pair) -> None:
        if self.future.done():  # cancelled
            pair.close()
        else:
            self.future.set_result(pair)

    def _failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class AsyncHub(HubState):
    """The connections of one event loop to one Redis server. Everything here runs on the loop."""

    def __init__(self, settings: RedisSettings, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(settings)
        self.commands: set[TaskExchange] = set()
        self._loop = loop
        self._pair: Pair | None = None
        self._connecting: asyncio.Task[Pair] | None = None
        self._outbox: list[bytes] = []
        self._unsent = b""
        self._writing = False
        self._flush_due = False
        self._check: asyncio.TimerHandle | None = None

    # --- connecting ---

    async def connected(self, deadline: float) -> None:
        """Wait until the connections stand. Raises `RedisUnavailable`."""
        if self._pair is not None:
            return
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())
        try:
            await asyncio.wait_for(asyncio.shield(self._connecting), max(0.001, deadline - monotonic()))
        except TimeoutError:
            raise self._silent() from None

    async def _connect(self) -> Pair:
        try:
            pair = await self._open()
            self._pair = pair
            self._heard = monotonic()
            self._loop.add_reader(pair.subscribed.fileno(), self._on_subscribed)
            self._loop.add_reader(pair.publishing.fileno(), self._on_publishing)
            self._watch()
            return pair
        finally:
            self._connecting = None

    def _open(self) -> asyncio.Future[Pair]:
        """Open the connections on a thread, because that blocks."""
        opening = _Opening(self.settings, self.channel, self._loop)
        Thread(target=opening.run, name="daebus-connect", daemon=True).start()
        return opening.future

    def _lost(self, error: RedisUnavailable) -> None:
        pair, self._pair = self._pair, None
        if pair is None:
            return
        for link in pair.links:
            self._loop.remove_reader(link.fileno())
        self._loop.remove_writer(pair.publishing.fileno())
        pair.close()
        self._outbox.clear()
        self._unsent, self._writing = b"", False
        self.ledger.connection_lost(error)

    # --- sending ---

    def send(self, data: bytes, replies: int, exchange: TaskExchange) -> None:
        """Send with the end of this turn of the loop."""
        self.ledger.sent(exchange, replies, monotonic())
        self._outbox.append(data)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        pair = self._pair
        if pair is None:
            return
        data = b"".join([self._unsent, *self._outbox])
        self._outbox.clear()
        try:
            sent = pair.publishing.send(data) if data else 0
        except RedisUnavailable as error:
            self._lost(error)
            return
        self._unsent = data[sent:]
        if bool(self._unsent) is not self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(pair.publishing.fileno(), self._flush)
            else:
                self._loop.remove_writer(pair.publishing.fileno())

    # --- reading ---

    def _on_subscribed(self) -> None:
        if self._pair is not None:
            try:
                replies = self._pair.subscribed.receive()
            except RedisUnavailable as error:
                self._lost(error)
                return
            self._heard = monotonic()
            self.ledger.take_answers(replies)

    def _on_publishing(self) -> None:
        if self._pair is not None:
            try:
                self.ledger.take_confirmations(self._pair.publishing.receive())
            except RedisUnavailable as error:
                self._lost(error)

    # --- health: looked at while somebody waits ---

    def _watch(self) -> None:
        if self._check is None:
            self._check = self._loop.call_later(CONFIRM_LIMIT / 2, self._look)

    def _look(self) -> None:
        self._check = None
        if not (self.ledger.pending or self.commands):
            return
        self._watch()
        pair = self._pair
        if pair is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
                self._connecting.add_done_callback(_ignore_outcome)
            return
        try:
            self._check_health(pair.subscribed, monotonic())
        except RedisUnavailable as error:
            self._lost(error)

    async def command(self, data: bytes, exchange: TaskExchange, deadline: float) -> Any:
        """Send one command and return Redis' reply."""
        self.commands.add(exchange)
        try:
            await self.connected(deadline)
            self._watch()
            self.send(data, 1, exchange)
            await exchange.wait(deadline)
        finally:
            self.commands.discard(exchange)
        return self._outcome(exchange)

    async def request(
        self, request_id: str, channel: bytes, data: bytes, exchange: TaskExchange, deadline: float, full: bool
    ) -> None:
        """Publish a request; the exchange will get its answers until it is taken out of the ledger.

        With a `full` Redis the caller has looked whether somebody is there to hear it.
        """
        self.ledger.pending[request_id] = exchange
        await self.connected(deadline)
        if self._check is None:
            self._watch()
        commands = (publish(channel, data),) if full else deliver(channel, data)
        self.send(b"".join(commands), len(commands), exchange)

    def abandon(self, owner: object, error: CallerClosed) -> None:
        """Tell all that wait for a caller which is closed."""
        for exchange in (*self.ledger.pending.values(), *self.commands):
            if exchange.owner is owner:
                exchange.fail(error)

    def close_after_loop(self) -> None:
        """Close the connections of a loop that was closed before its callers were."""
        if self._pair is not None:
            self._pair.close()

    def close(self) -> None:
        """Close the connections; nobody uses them any more."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._check is not None:
            self._check.cancel()
            self._check = None
        self._lost(RedisUnavailable("closed"))


def _ignore_outcome(task: asyncio.Task[Pair]) -> None:
    if not task.cancelled():
        task.exception()


_hubs: dict[tuple[asyncio.AbstractEventLoop, tuple[object, ...]], AsyncHub] = {}


def _hub(loop: asyncio.AbstractEventLoop, settings: RedisSettings) -> AsyncHub:
    """Return the hub of an event loop for a Redis server. Connects nothing."""
    hub = _hubs.get((loop, settings.key))
    if hub is None:
        for key in [key for key in _hubs if key[0].is_closed()]:
            _hubs.pop(key).close_after_loop()
        hub = _hubs[loop, settings.key] = AsyncHub(settings, loop)
    return hub


class AsyncCaller(Target):
    """Calls a service from asyncio. The arguments, verbs and errors are those of `DaebusCaller`.

    To be used on one event loop; its methods are coroutines.
    """

    _used: AsyncHub | None = None

    async def send_request(
        self,
        action: str,
        payload: Any = NO_FIELDS,
        timeout: float | None = None,
        on_progress: Callable[[Any], object] | None = None,
        *,
        wait: bool = False,
    ) -> Any:
        """Call an action and return the payload of its answer; see `DaebusCaller.send_request`.

        `on_progress` may be a coroutine function.
        """
        limit = self.timeout if timeout is None else check_timeout(timeout)
        deadline = monotonic() + limit
        hub = self._hub()
        request_id = hub.ledger.next_id()
        data = self._encode(hub, request_id, action, payload, deadline, limit)
        full = False
        while True:
            if wait or full:
                await self._find(hub, deadline, limit, wait)
            exchange = TaskExchange(self, hub._loop)
            try:
                await hub.request(request_id, self._channel, data, exchange, deadline, full)
                return await self._result(exchange, deadline, on_progress, f"{action!r} within {limit:g} s")
            except ServiceUnavailable:
                if not wait:
                    raise
            except RedisUnavailable:
                if not full and is_full(exchange.error):
                    full = True
                    continue
                if not wait or exchange.sent:
                    raise
                await asyncio.sleep(min(WAIT_LONGEST, max(0.0, deadline - monotonic())))
            finally:
                hub.ledger.pending.pop(request_id, None)

    async def _find(self, hub: AsyncHub, deadline: float, limit: float, wait: bool) -> None:
        """See to it that somebody serves under the name. Raises `ServiceUnavailable`, if not told to wait."""
        if wait:
            await self._hold(hub, deadline, limit)
        elif not await self._anybody(hub, deadline):
            raise self._explained(ServiceUnavailable())

    async def _hold(self, hub: AsyncHub, deadline: float, limit: float) -> None:
        attempt = 0
        while True:
            try:
                if await self._anybody(hub, deadline):
                    return
            except RedisRefused:
                raise
            except RedisUnavailable:
                pass
            attempt += 1
            left = deadline - monotonic()
            self._check_holding(left, limit)
            await asyncio.sleep(min(backoff(attempt, WAIT_FIRST, WAIT_LONGEST), left))

    async def _anybody(self, hub: AsyncHub, deadline: float) -> bool:
        """Whether somebody serves under the name now."""
        return bool((await hub.command(count(self._channel), TaskExchange(self, hub._loop, command=True), deadline))[1])

    async def _result(
        self, exchange: TaskExchange, deadline: float, on_progress: Callable[[Any], object] | None, asked: str
    ) -> Any:
        while True:
            await exchange.wait(deadline)
            reply = self._next_reply(exchange, deadline, asked)
            if reply is None:
                continue
            if reply.final:
                return payload_of(reply)
            await _report(on_progress, reply.payload)

    async def send_message(self, channel: str, payload: Any) -> int:
        """Publish a JSON value to a channel; return how many subscribers received it."""
        return await self._publish(check_channel_to_publish(channel), checked(dumps(payload)))

    async def send_to_service(self, payload: Any, action: str | None = None) -> int:
        """Send the service a message that wants no answer; return how many subscribers received it."""
        return await self._publish(self._channel, encode_direct(payload, action))

    async def _publish(self, channel: bytes, data: bytes) -> int:
        hub = self._hub()
        exchange = TaskExchange(self, hub._loop, command=True)
        return int(await hub.command(publish(channel, data), exchange, monotonic() + self.timeout))

    def _hub(self) -> AsyncHub:
        if self._closed:
            raise self._is_closed()
        loop = asyncio.get_running_loop()
        hub = _hub(loop, self._settings)
        if hub is not self._used:
            hub.users += 1
            self._used = hub
        return hub

    async def close(self) -> None:
        """Close the caller: whoever waits, and whoever calls later, gets `CallerClosed` at once."""
        if self._closed:
            return
        self._closed = True
        hub, self._used = self._used, None
        if hub is None:
            return
        hub.abandon(self, self._is_closed())
        hub.users -= 1
        if hub.users <= 0:
            _hubs.pop((hub._loop, hub.settings.key), None)
            hub.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


async def _report(on_progress: Callable[[Any], object] | None, payload: Any) -> None:
    if on_progress is not None:
        result = on_progress(payload)
        if asyncio.iscoroutine(result):
            await result
