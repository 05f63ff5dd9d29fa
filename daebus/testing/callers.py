"""What stands in for the connections of `DaebusCaller`, `AsyncCaller` and `broadcast`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

import hiredis

from ..context import current
from ..errors import BadMessage, RedisUnavailable, RequestTimeout, ServiceUnavailable
from ..jsontext import loads
from ..message import read_reply
from ..target import HubState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..errors import CallerClosed
    from ..ledger import Exchange
    from ..settings import RedisSettings
    from .runtime import Runtime


class _Hub(HubState):
    """What both kinds of callers need: a channel to be answered on, and the switch."""

    def __init__(self, settings: RedisSettings, runtime: Runtime) -> None:
        super().__init__(settings)
        self.pinned = True  # nobody closes it but the test client
        self.usable = True
        self._runtime = runtime
        runtime.switch.hearers[self.channel] = self._take

    def _take(self, data: bytes) -> None:
        self.ledger.take_answers([[b"message", self.channel.encode(), data]])

    def _send(self, request_id: str, channel: str, data: bytes, exchange: Exchange) -> None:
        self._runtime.switch.check(self.settings)
        self.ledger.pending[request_id] = exchange
        exchange.sent = True
        if self._runtime.switch.subscribers(channel):
            self._runtime.switch.publish(channel, data)
            exchange.confirmed = True
        else:
            exchange.fail(ServiceUnavailable("nobody is subscribed"))  # the caller adds to whom

    def _run(self, words: list[bytes]) -> Any:
        switch = self._runtime.switch
        switch.check(self.settings)
        if words[0] == b"PUBLISH":
            return switch.publish(words[1].decode(), words[2])
        if words[0] == b"PUBSUB":
            return [words[2], switch.subscribers(words[2].decode())]
        raise RedisUnavailable(f"the test client does not know Redis' command {words[0].decode()}")

    def _reached(self, words: list[bytes]) -> Callable[[], bool]:
        """Return what is waited for before a command: who asks for a service's subscribers waits for that service."""
        faults, switch = self._runtime.faults, self._runtime.switch
        asks = words[0] == b"PUBSUB"
        return lambda: not asks or (not faults.gone and switch.subscribers(words[2].decode()) > 0)

    def abandon(self, owner: object, error: CallerClosed) -> None:
        """Tell all that wait for a caller which is closed."""
        for exchange in list(self.ledger.pending.values()):
            if exchange.owner is owner:
                exchange.fail(error)

    def close(self) -> None:
        """The test is over."""
        self.usable = False
        self._runtime.switch.hearers.pop(self.channel, None)


class InlineHub(_Hub):
    """In place of `hub.Hub`."""

    def request(
        self, request_id: str, channel: bytes, data: bytes, exchange: Exchange, _deadline: float, _full: bool
    ) -> None:
        """Send a request; the exchange will get its answers until `forget`."""
        self._send(request_id, channel.decode(), data, exchange)

    def forget(self, request_id: str) -> None:
        """Wait for an answer no longer."""
        self.ledger.pending.pop(request_id, None)

    def wait(self, exchange: Exchange, deadline: float) -> None:
        """Do what leads to an answer; if nothing does, let the time pass."""
        self._runtime.wait_for(lambda: exchange.ready, deadline)

    def command(self, data: bytes, _exchange: Exchange, deadline: float) -> Any:
        """Run one command and return Redis' reply."""
        words = _words(data)
        self._runtime.wait_for(self._reached(words), deadline)
        return self._run(words)


class InlineAsyncHub(_Hub):
    """In place of `aio.AsyncHub`: the callers of one event loop."""

    def __init__(self, settings: RedisSettings, runtime: Runtime, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(settings, runtime)
        self._loop = loop
        self._answered: set[str] = set()

    def _take(self, data: bytes) -> None:
        with suppress(RuntimeError, BadMessage):  # the loop has ended
            self._loop.call_soon_threadsafe(super()._take, data)
            reply = read_reply(data)
            if reply.final:
                self._answered.add(reply.request_id)

    async def request(
        self, request_id: str, channel: bytes, data: bytes, exchange: Exchange, deadline: float, _full: bool
    ) -> None:
        """Send a request, and wait for its answer: the clock of a loop is not the test's."""
        self._send(request_id, channel.decode(), data, exchange)
        if exchange.error is not None:
            return
        await self._wait_for(lambda: request_id in self._answered, deadline)
        if request_id not in self._answered:
            asked = loads(data)
            told = f"{asked['action']!r} within {asked['timeout']:g} s"
            exchange.fail(RequestTimeout(f"No answer from {asked['service']!r} to {told}"))

    async def command(self, data: bytes, _exchange: Exchange, deadline: float) -> Any:
        """Run one command and return Redis' reply."""
        words = _words(data)
        await self._wait_for(self._reached(words), deadline)
        return self._run(words)

    async def _wait_for(self, reached: Callable[[], bool], deadline: float) -> None:
        runtime = self._runtime
        if reached() or runtime.worker.is_here:
            runtime.wait_for(reached, deadline)
            return
        future = runtime.worker.submit(partial(runtime.run_until, reached, deadline, current.get()))
        await asyncio.wrap_future(future)


def _words(data: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(data)
    words: list[bytes] = reader.gets()
    return words
