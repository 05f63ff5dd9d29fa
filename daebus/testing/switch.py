"""What stands in for Redis' channels: everything that is published in a test goes through one `Switch`."""

from __future__ import annotations

from functools import partial

from ..bus import Bus
from ..errors import BadMessage, ConfigurationError, RedisUnavailable
from ..gateway import matches
from ..jsontext import loads
from ..names import is_glob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event
    from typing import Any

    from ..settings import RedisSettings
    from ..shared import Share
    from .stubs import StubService

ANSWERS = "answers"
"""What `faults.drop` takes for all answers, whoever they are for."""


class Faults:
    """What goes wrong on purpose, between `redis_gone` and `redis_back`, or until `clear`."""

    def __init__(self, turn: Callable[[bool], None]) -> None:
        self._turn = turn
        self.dropped: list[str] = []
        self.delayed = 0.0
        self.gone = False

    def redis_gone(self) -> None:
        """Redis cannot be reached: calls and broadcasts raise `RedisUnavailable`, `cache` redis-py's error."""
        self._turn(True)

    def redis_back(self) -> None:
        """It can be again: what was to be sent meanwhile, is."""
        self._turn(False)

    def drop(self, channel: str) -> None:
        """Lose what is published to a channel or a glob; `"answers"`: all that is answered."""
        if not isinstance(channel, str) or not channel:
            raise ConfigurationError(f"{channel!r} is not a channel: give its name, a glob, or {ANSWERS!r}")
        self.dropped.append(channel)

    def delay(self, seconds: float) -> None:
        """Have everything that is published arrive so many seconds later, by the test's clock."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
            raise ConfigurationError(f"a delay is a number of seconds from 0 on, not {seconds!r}")
        self.delayed = float(seconds)

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self.dropped.clear()
        self.delayed = 0.0
        self.redis_back()

    def loses(self, channel: str) -> bool:
        """Whether a message to a channel is lost."""
        return any((one == ANSWERS and is_private(channel)) or is_heard(one, channel) for one in self.dropped)


def is_private(channel: str) -> bool:
    """Whether answers go there."""
    return channel.startswith(("caller:", "workflow:")) or channel.endswith(".responses")


def is_heard(name: str, channel: str) -> bool:
    """Whether a subscription to a channel or a glob hears a channel."""
    return matches(name.encode(), channel.encode()) if is_glob(name) else name == channel


class Switch:
    """Who hears what. Any thread."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.bus: InlineBus
        self.later: Callable[[float, Callable[[], None]], None]  # after so many seconds
        self.stubs: dict[str, StubService] = {}
        self.hearers: dict[str, Callable[[bytes], None]] = {}  # callers and workflows, by their channels
        self.broadcasts: list[tuple[str, Any]] = []

    def check(self, settings: object) -> None:
        """Raise `RedisUnavailable` if Redis is away."""
        if self.faults.gone:
            raise RedisUnavailable(f"Redis at {settings} cannot be reached")

    def subscribers(self, channel: str) -> int:
        """Return how many have subscribed to a channel by its name, as Redis counts them (`PUBSUB NUMSUB`)."""
        return (channel in self.bus.names) + (channel in self.stubs) + (channel in self.hearers)

    def publish(self, channel: str, data: bytes, *, noted: bool = True) -> int:
        """Publish a message; return how many hear it. `noted`: a broadcast of the code under test is kept."""
        heard = self.bus.count(channel) + (channel in self.stubs) + (channel in self.hearers)
        if noted and self._is_broadcast(channel):
            self.broadcasts.append((channel, _payload_of(data)))
        if not self.faults.loses(channel):
            if self.faults.delayed:
                self.later(self.faults.delayed, partial(self._deliver, channel, data))
            else:
                self._deliver(channel, data)
        return heard

    def _is_broadcast(self, channel: str) -> bool:
        """Whether a message is for whoever listens, and not for one service or caller."""
        own = (self.bus.service, f"{self.bus.service}.workflows")
        return not (is_private(channel) or channel in own or channel in self.stubs)

    def _deliver(self, channel: str, data: bytes) -> None:
        self.bus.incoming(channel, data)
        hearer = self.hearers.get(channel)
        if hearer is not None:
            hearer(data)
        stub = self.stubs.get(channel)
        if stub is not None:
            stub.take(data)


def _payload_of(data: bytes) -> Any:
    """Return what was published: `cache.publish` takes any text."""
    try:
        return loads(data)
    except BadMessage:
        return data.decode("utf-8", "replace")


class InlineBus(Bus):
    """The bus of a service under test: its channels are those of a `Switch`."""

    def __init__(self, settings: RedisSettings, service: str, share: Share | None = None) -> None:
        super().__init__(settings, service, share)
        self.switch: Switch
        self._kept: list[tuple[str, bytes]] = []  # while Redis is away

    @property
    def connected(self) -> bool:
        """Whether Redis is there."""
        return not self.switch.faults.gone

    @property
    def names(self) -> dict[str, None]:
        """The channels and globs that the service hears."""
        return self._names

    def count(self, channel: str) -> int:
        """Return how often Redis would deliver a message of a channel to the service."""
        return sum(is_heard(name, channel) for name in self._names)

    def incoming(self, channel: str, data: bytes) -> int:
        """Take a message as Redis would deliver it; return for how many handlers."""
        name, replies = channel.encode(), []
        for key in self._names:
            if is_glob(key) and is_heard(key, channel):
                replies.append([b"pmessage", key.encode(), name, data])
            elif key == channel:
                replies.insert(0, [b"message", name, data])
        items = self._sorted(replies)
        self.engine.put(items)
        self.engine.ring()
        return len(items)

    def change(self, *, connected: bool) -> None:
        """Say that Redis has gone, or has come back."""
        self._say(connected=connected)
        if connected:
            self.reconnections += 1
            kept, self._kept = self._kept, []
            for channel, data in kept:
                self.switch.publish(channel, data)

    def publish(self, channel: str, data: bytes) -> bool:
        """Publish a message; while Redis is away it is kept."""
        if self.switch.faults.gone:
            self._kept.append((channel, data))
        else:
            self.switch.publish(channel, data)
        return True

    def deliver(self, channel: str, data: bytes, receipt: Callable[[Any], None]) -> bool:
        """Publish a message and tell how many have it. Raises `RedisUnavailable` when Redis is away."""
        self.switch.check(self.settings)
        subscribers = self.switch.subscribers(channel)
        heard = self.switch.publish(channel, data)
        self.engine.soon(partial(receipt, [[channel.encode(), subscribers], heard]))
        return True

    def flush(self) -> None:
        """Nothing waits."""

    def unsubscribe(self) -> Event:
        """Hear nothing more."""
        self._names.clear()
        self._unsubscribed.set()
        return self._unsubscribed

    def sent(self) -> bool:
        """All of it is."""
        return True
