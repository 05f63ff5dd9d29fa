"""The Redis door of a service: subscriptions in, answers out, and the repair of both.

Two connections: one subscribes, one publishes. The reader (see `engine`) reads the first and, before each write,
what Redis said of the last on the second; any thread may publish. When a connection is lost, or silent for longer
than a health check allows, both are closed and a thread opens new ones, trying for ever.
"""

from __future__ import annotations

import logging
import select
from collections import deque
from functools import partial
from threading import Event, Lock, Thread
from time import monotonic

from .claim import claim
from .errors import NameTaken, RedisRefused, RedisUnavailable
from .link import STARVED, ReplyError, open_pair, way_out
from .log import Seldom, logger, one_line
from .names import is_glob, marker_channel, shown
from .resp import PING, command, count, deliver, publish
from .schedule import backoff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .engine import Engine, Item, Plan
    from .link import Pair
    from .settings import RedisSettings
    from .shared import Share
    from .work import Work

    Target = tuple[Work | None, Plan, str]
    Receipt = Callable[[Any], None]

HEALTH_PERIOD = 1.5
"""Seconds between health checks. A connection that has said nothing since the last check's PING is dead, so a silent
one is replaced within 3 s, and is back before the 5 s that we promise."""

OUTBOX_LIMIT = 16 * 1024 * 1024
"""Bytes of answers that may wait for Redis; beyond, they are dropped, counted and logged."""

SMALL, RESERVE = 4096, 1024 * 1024
"""Bytes of an answer that counts as small, and bytes kept for those: they say that a large one was dropped."""

_ABORTED = ("OOM", "EXECABORT")
"""What Redis says of a transaction of ours that it discards; see `Bus.deliver`."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect."""


class _Request(bytes):
    """What somebody waits to hear of: not to be sent when the connection was lost meanwhile."""


class Bus:
    """Subscribes, reads, publishes. Its state is `connected`; `wait_connected` is for the start."""

    def __init__(self, settings: RedisSettings, service: str, share: Share | None = None) -> None:
        self.settings = settings
        self.service = service
        self._share = share
        self.engine: Engine  # set before the connections are
        self._names: dict[str, None] = {service: None}  # of channels and globs to subscribe to, in order
        self._items: dict[bytes, Target] = {}  # by channel or glob, as Redis names it
        self._further: dict[bytes, list[Target]] = {}  # where several hear the same one, all but the first
        self._pair: Pair | None = None
        self._closing = False
        self._unsubscribed = Event()
        self._heard = 0.0  # when the subscribed connection last said something
        self._asked = 0.0  # when it was last asked for a sign of life
        self.on_taken: Callable[[str], None]  # set before the connections are: our name was taken while we were away
        self._reconnecting: Thread | None = None
        self._starved: str | None = None  # what this process lacks to connect
        self.on_change: list[Callable[[bool], None]] = []  # called on the reader: connected, or no longer
        self._lock = Lock()  # for writing to the publishing connection, and for its accounts
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._unsent = b""
        self._promised = 0  # replies that Redis will owe for what was put into the outbox, since we are connected
        self._replied = 0  # those that have come
        self._awaited = 0  # those that it owes for what was sent
        self._awaited_since = 0.0
        self._receipts: deque[tuple[int, Receipt]] = deque()  # which reply somebody waits for, and who
        self._arrived: list[tuple[Receipt, Any]] = []  # replies that somebody waited for
        self._seldom = Seldom()
        self.sought: bytes | None = None  # a message that somebody waits to see arrive; None when it has
        self.dropped_answers = 0
        self.reconnections = 0

    # --- declared before the start ---

    def listen(self, plan_request: Plan, plan_message: Plan, works: list[Work]) -> None:
        """Say where messages of the service's own channel are planned, and to which channels to subscribe beside."""
        self._items[self.service.encode()] = (None, plan_request, self.service)
        for work in works:
            self.plan(work.name, plan_message, work)

    def plan(self, channel: str, plan: Plan, work: Work | None = None) -> None:
        """Subscribe to a further channel or glob, whose messages are planned there.

        With an ordered `work` they are planned one at a time. Those of a channel without one are counted as messages
        to the service. Several may hear the same channel; none waits for another.
        """
        key = channel.encode()
        self._names[channel] = None
        if key in self._items:
            self._further.setdefault(key, []).append((work, plan, channel))
        else:
            self._items[key] = (work, plan, channel)

    @property
    def connected(self) -> bool:
        """Whether the connections stand."""
        return self._pair is not None

    @property
    def hindrance(self) -> str | None:
        """What keeps lost connections from coming back, if it is not Redis itself but something here. Any thread."""
        if self._reconnecting is None or not self._reconnecting.is_alive():
            return "Redis is away and nothing tries to have it back"
        return self._starved

    @property
    def heard(self) -> float:
        """When the subscribed connection last said something (monotonic seconds)."""
        return self._heard

    # --- connecting ---

    def connect(self) -> Pair:
        """Open the connections, once. Raises `RedisUnavailable` or `RedisRefused`. Any thread."""
        channels = [name for name in self._names if not is_glob(name)]
        globs = [name for name in self._names if is_glob(name)]
        return open_pair(self.settings, f"daebus:{self.service}", channels, globs)

    def adopt(self, pair: Pair) -> None:
        """Take connections into use. At the start on the main thread, later on the reader."""
        self._heard = monotonic()
        if self._share is not None:
            self._share.begin_anew()
        self.engine.watch_socket(pair.subscribed.fileno(), select.EPOLLIN, self._on_subscribed)
        self.engine.watch_socket(pair.publishing.fileno(), 0, self._on_publishing)
        with self._lock:
            self._unsent = b""
            self._outbox_bytes = sum(map(len, self._outbox))
            self._promised = len(self._outbox)
            self._replied = self._awaited = 0
            self._pair = pair
        self._be_found(pair)
        self.engine.put(self._sorted(pair.early))
        if self._share is not None:
            self.publish(self.service, self._share.marker())
        self.flush()
        self._say(connected=True)

    def _be_found(self, pair: Pair) -> None:
        """Subscribe to the channel by which services are found. Nobody waits for that: a service does without."""
        try:
            pair.subscribed.send(command("SUBSCRIBE", marker_channel(self.service)))
        except RedisUnavailable as error:
            self._lost(str(error))

    def _not_found(self, refusal: Exception) -> None:
        """Say that Redis refused it: nothing else is asked on this connection that one may have no right to."""
        said = f"Redis refuses a subscription to {marker_channel(self.service)!r}: {one_line(str(refusal))}"
        text = f"Others will not find this service: {said}{way_out(refusal, 'service')}"
        self._seldom.log(logging.WARNING, "marker", text)

    def _say(self, *, connected: bool) -> None:
        for tell in self.on_change:
            tell(connected)

    def _lost(self, why: str) -> None:
        """Give the connections up and have new ones made. On the reader."""
        with self._lock:
            pair, self._pair = self._pair, None
            receipts, self._receipts = self._receipts, deque()
            if receipts:  # who waits for one is told now; what has not left must not leave later
                self._outbox = [message for message in self._outbox if not isinstance(message, _Request)]
        if pair is None:
            return
        for link in pair.links:
            self.engine.forget_socket(link.fileno())
        pair.close()
        self._hand_out()
        for _number, receipt in receipts:
            receipt(RedisUnavailable(f"the connection to Redis was lost ({one_line(why)})"))
        if self._closing:
            self._unsubscribed.set()
            return
        self._say(connected=False)
        logger.warning("Redis at %s is gone (%s); reconnecting", self.settings, one_line(why))
        self._reconnecting = Thread(target=self._reconnect, name="daebus-reconnect", daemon=True)
        self._reconnecting.start()

    def _reconnect(self) -> None:
        attempt = 0
        pause = Event()
        while not self._closing:
            try:
                back = partial(self._back, self._connect_and_claim())
            except NameTaken as error:
                self.on_taken(str(error))
                return
            except RedisUnavailable as error:
                attempt += 1
                self._starved = str(error) if error.errno in STARVED else None
                level = logging.WARNING if self._starved or isinstance(error, RedisRefused) else logging.DEBUG
                self._seldom.log(level, ("reconnect", str(error)), f"Not connected yet: {one_line(str(error))}")
                pause.wait(backoff(attempt, FIRST_PAUSE, LONGEST_PAUSE))
            else:
                self.engine.soon(back)
                return

    def _connect_and_claim(self) -> Pair:
        pair = self.connect()
        try:
            claim(pair, self.service, self._share is not None, running=True)
        except BaseException:
            pair.close()
            raise
        return pair

    def _back(self, pair: Pair) -> None:
        if self._closing:
            pair.close()
            return
        self.reconnections += 1
        self._starved = None
        self.adopt(pair)
        logger.warning("Redis at %s is back; messages published meanwhile may have been missed", self.settings)

    # --- reading (on the reader) ---

    def _on_subscribed(self, _events: int) -> list[Item]:
        pair = self._pair
        if pair is None:
            return []
        try:
            replies = pair.subscribed.receive()
        except RedisUnavailable as error:
            self._lost(str(error))
            return []
        self._heard = monotonic()
        if self.sought is not None and any(type(reply) is list and reply[-1] == self.sought for reply in replies):
            self.sought = None
        return self._sorted(replies)

    def _sorted(self, replies: list[Any]) -> list[Item]:
        """Return the items of what arrived; the rest are confirmations, pongs, and late answers to our claim."""
        items: list[Item] = []
        known, further = self._items, self._further
        for reply in replies:
            if type(reply) is not list or len(reply) < 3:
                if isinstance(reply, ReplyError) and str(reply).startswith("NOPERM"):  # not a check of a busy Redis
                    self._not_found(reply)
                continue
            kind = reply[0]
            if kind == b"message" and reply[1] in known:
                items.append((*known[reply[1]], reply[2]))
                if reply[1] in further:
                    items += [(*target, reply[2]) for target in further[reply[1]]]
            elif kind == b"pmessage" and reply[1] in known:
                channel = reply[2].decode("utf-8", "backslashreplace")
                targets = (known[reply[1]], *further.get(reply[1], ()))
                items += [(work, plan, channel, reply[3]) for work, plan, _glob in targets]
            elif kind in (b"unsubscribe", b"punsubscribe") and reply[2] == 0:
                self.engine.soon(self._unsubscribed.set)  # once the engine has what came before
        return items if self._share is None else self._numbered(items, self._share)

    def _numbered(self, items: list[Item], share: Share) -> list[Item]:
        """Give each message to a shared service its ticket; leave the markers out."""
        numbered: list[Item] = []
        for work, plan, channel, data in items:
            ticket = share.ticket(data) if work is None else channel
            if work is not None or not share.is_marker(data):
                numbered.append((work, plan, ticket, data))
        return numbered

    def _on_publishing(self, events: int) -> list[Item]:
        """Redis takes more, has said something that is waited for, or has closed the connection."""
        if events & ~(select.EPOLLIN | select.EPOLLOUT):
            self._lost("Redis closed the connection")
        elif events & select.EPOLLIN:
            self._take_receipts()
        self.flush()
        return []

    def _take_receipts(self) -> None:
        try:
            with self._lock:
                if self._pair is not None:
                    self._drain(self._pair)
        except RedisUnavailable as error:
            self._lost(str(error))
        self._hand_out()

    def _hand_out(self) -> None:
        """Tell those who waited for a reply that has come. Any thread."""
        if not self._arrived:
            return
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for receipt, reply in arrived:
            receipt(reply)

    def check(self, now: float) -> None:
        """The health check: each connection must have answered what it was asked at the check before."""
        pair = self._pair
        if pair is None:
            return
        try:
            if self._asked > self._heard:
                raise RedisUnavailable(f"no answer to a health check for {now - self._asked:.1f} s")
            self._asked = now
            pair.subscribed.send(PING)
            with self._lock:
                self._drain(pair)
                if self._awaited and now - self._awaited_since > HEALTH_PERIOD * 1.8:
                    raise RedisUnavailable(f"Redis has taken nothing for {now - self._awaited_since:.1f} s")
                self._outbox.append(PING)
                self._promised += 1
            self.flush()
        except RedisUnavailable as error:
            self._lost(str(error))

    # --- publishing (any thread) ---

    def publish(self, channel: str, data: bytes) -> bool:
        """Have a message published with the next `flush`; False if too much waits to be sent already."""
        message = publish(channel.encode(), data)
        limit = OUTBOX_LIMIT if len(message) > SMALL else OUTBOX_LIMIT + RESERVE
        with self._lock:
            if self._outbox_bytes + len(message) <= limit:
                self._outbox.append(message)
                self._outbox_bytes += len(message)
                self._promised += 1
                return True
            self.dropped_answers += 1
        self._seldom.log(logging.ERROR, "outbox", "Answers are being dropped: Redis does not take them fast enough")
        return False

    def deliver(self, channel: str, data: bytes, receipt: Receipt) -> bool:
        """Have a message published with the next `flush`, if Redis is there; False if too much waits already.

        `receipt` is called, on any thread, with what Redis says of `resp.deliver` or of PUBLISH, or with the
        `RedisUnavailable` that came instead. Raises `RedisUnavailable` when Redis is away: then nothing is sent, now
        or later.
        """
        name = channel.encode()
        return self._request(deliver(name, data), partial(self._deliver_in_parts, name, data, receipt))

    def _deliver_in_parts(self, channel: bytes, data: bytes, receipt: Receipt, reply: Any) -> None:
        """What Redis does not take as a transaction, because it is full, it takes piece by piece. Any thread."""
        if not isinstance(reply, ReplyError) or not str(reply).startswith("EXECABORT"):
            receipt(reply)
            return
        self._request_further(count(channel), partial(self._publish_if_heard, channel, data, receipt), receipt)

    def _publish_if_heard(self, channel: bytes, data: bytes, receipt: Receipt, reply: Any) -> None:
        if not isinstance(reply, list):
            receipt(reply)
        elif reply[1]:
            self._request_further(publish(channel, data), receipt, receipt)
        else:
            receipt(0)

    def _request_further(self, data: bytes, then: Receipt, receipt: Receipt) -> None:
        try:
            taken = self._request((data,), then)
        except RedisUnavailable as error:
            receipt(error)
            return
        if not taken:
            receipt(RedisUnavailable("too much waits for Redis"))
        self.flush()

    def _request(self, commands: tuple[bytes, ...], receipt: Receipt) -> bool:
        """Have commands sent with the next `flush`; `receipt` gets the last reply. As `deliver` otherwise."""
        message = _Request(b"".join(commands))
        with self._lock:
            if self._pair is None:
                raise RedisUnavailable(f"Redis at {self.settings} cannot be reached")
            if self._outbox_bytes + len(message) > OUTBOX_LIMIT:
                return False
            self._outbox.append(message)
            self._outbox_bytes += len(message)
            self._promised += len(commands)
            self._receipts.append((self._promised, receipt))
            if len(self._receipts) == 1:
                self._watch_publishing(self._pair)
        return True

    def _watch_publishing(self, pair: Pair) -> None:
        """Wait for what matters on the publishing connection (under the lock)."""
        events = (select.EPOLLOUT if self._unsent else 0) | (select.EPOLLIN if self._receipts else 0)
        self.engine.change_socket(pair.publishing.fileno(), events)

    def flush(self) -> None:
        """Send what is to be published, in one write, without waiting. Any thread."""
        if not self._outbox and not self._unsent:
            return
        try:
            with self._lock:
                self._send()
        except RedisUnavailable as error:
            why = str(error)
            self.engine.soon(lambda: self._lost(why))
        self._hand_out()

    def _send(self) -> None:
        pair = self._pair
        if pair is None:
            return
        if self._awaited:
            self._drain(pair)
        elif self._outbox:
            self._awaited_since = monotonic()
        self._awaited = self._promised - self._replied
        data = b"".join([self._unsent, *self._outbox]) if self._unsent else b"".join(self._outbox)
        self._outbox.clear()
        self._outbox_bytes = 0
        sent = pair.publishing.send(data)
        waited = bool(self._unsent)
        self._unsent = data[sent:] if sent < len(data) else b""
        self._outbox_bytes = len(self._unsent)
        if bool(self._unsent) is not waited:
            self._watch_publishing(pair)

    def _drain(self, pair: Pair) -> None:
        """Take what Redis said of earlier messages: a number of receivers each, or an error."""
        for reply in pair.publishing.receive():
            self._awaited -= 1
            self._replied += 1
            self._awaited_since = monotonic()
            if isinstance(reply, ReplyError) and not str(reply).startswith(_ABORTED):
                text = f"Redis refused to publish an answer: {shown(str(reply))}{way_out(reply, 'publish` or `calls')}"
                self._seldom.log(logging.ERROR, ("refused", str(reply)[:60]), text)
            if self._receipts and self._receipts[0][0] == self._replied:
                self._arrived.append((self._receipts.popleft()[1], reply))
                if not self._receipts:
                    self._watch_publishing(pair)

    # --- the end (main thread) ---

    def unsubscribe(self) -> Event:
        """Ask Redis to deliver no more. The event is set when all that was delivered before has been read."""
        self._closing = True
        pair = self._pair
        if pair is None:
            self._unsubscribed.set()
            return self._unsubscribed
        has_globs = any(map(is_glob, self._names))
        try:
            pair.subscribed.send(command("UNSUBSCRIBE") + (command("PUNSUBSCRIBE") if has_globs else b""))
        except RedisUnavailable:
            self._unsubscribed.set()
        return self._unsubscribed

    def sent(self) -> bool:
        """Whether Redis has confirmed all that was published (or is gone)."""
        try:
            with self._lock:
                pair = self._pair
                if pair is None:
                    return True
                self._send()
                self._drain(pair)
                return self._awaited <= 0 and not self._outbox and not self._unsent
        except RedisUnavailable:
            return True

    def close(self) -> None:
        """Close the connections."""
        self._closing = True
        with self._lock:
            pair, self._pair = self._pair, None
        if pair is not None:
            pair.close()
