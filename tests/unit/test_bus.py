"""Answers that wait for Redis: how many bytes of them, and what is left for small ones."""

from __future__ import annotations

import errno
import os
import select
from threading import Thread
from typing import Any

import pytest

from daebus import bus as bus_module
from daebus.bus import SMALL, Bus
from daebus.errors import RedisUnavailable
from daebus.link import Pair, ReplyError
from daebus.registry import Record
from daebus.resp import count, publish
from daebus.settings import RedisSettings
from daebus.work import Work


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    """One that is not connected, with room for three large answers and then for ten small ones."""
    monkeypatch.setattr(bus_module, "OUTBOX_LIMIT", 3 * len(publish(b"caller:x", LARGE)))
    monkeypatch.setattr(bus_module, "RESERVE", 10 * len(publish(b"caller:x", TINY)))
    return Bus(RedisSettings(), "svc")


LARGE, TINY = b"x" * 2 * SMALL, b"x" * 100


def test_answers_beyond_what_may_wait_are_dropped_and_it_is_said(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    assert [bus.publish("caller:x", LARGE) for _ in range(5)] == [True] * 3 + [False] * 2
    assert bus.dropped_answers == 2
    assert caplog.messages == ["Answers are being dropped: Redis does not take them fast enough"]


def test_small_answers_have_room_beside(bus: Bus) -> None:
    """They say of a large one that it was dropped."""
    while bus.publish("caller:x", LARGE):
        pass
    assert [bus.publish("caller:x", TINY) for _ in range(12)] == [True] * 10 + [False] * 2
    assert bus.publish("caller:x", LARGE) is False


@pytest.mark.parametrize(("refusal", "said"), [("NOPERM no access to 'svc.$daebus'", 1), ("BUSY running a script", 0)])
def test_only_a_missing_right_means_that_the_service_is_not_found(
    bus: Bus, caplog: pytest.LogCaptureFixture, refusal: str, said: int
) -> None:
    """A health check is refused while a script keeps Redis busy."""
    assert bus._sorted([ReplyError(refusal)]) == []
    assert sum("will not find this service" in text for text in caplog.messages) == said


# --- messages of which Redis' receipt is waited for, and several who hear one channel ---


class FakeLink:
    """A connection to Redis whose other end is the test."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.sent = b""
        self.replies: list[Any] = []
        self.takes = 1 << 30
        self.closed = False

    def fileno(self) -> int:
        return self._number

    def send(self, data: bytes) -> int:
        taken = data[: self.takes]
        self.sent += taken
        return len(taken)

    def receive(self) -> list[Any]:
        replies, self.replies = self.replies, []
        return replies

    def close(self) -> None:
        self.closed = True


class FakeEngine:
    """Knows which events are waited for, and what was to be run."""

    reads_here = True

    def __init__(self) -> None:
        self.events: dict[int, int] = {}
        self.items: list[Any] = []

    def watch_socket(self, descriptor: int, events: int, _on_event: object) -> None:
        self.events[descriptor] = events

    def change_socket(self, descriptor: int, events: int) -> None:
        self.events[descriptor] = events

    def forget_socket(self, descriptor: int) -> None:
        del self.events[descriptor]

    def put(self, items: list[Any]) -> None:
        self.items += items


class Line:
    """A connected bus between an engine and a Redis that the test plays."""

    def __init__(self) -> None:
        self.bus = Bus(RedisSettings(), "svc")
        self.engine = FakeEngine()
        self.bus.engine = self.engine  # type: ignore[assignment]
        self.bus._closing = True  # no thread is to reconnect
        self.heard: list[Any] = []
        self.connect()

    def connect(self) -> None:
        self.subscribed, self.publishing = FakeLink(1), FakeLink(2)
        self.bus.adopt(Pair(self.subscribed, self.publishing, []))  # type: ignore[arg-type]

    def deliver(self, name: str) -> bool:
        return self.bus.deliver("device", name.encode(), lambda reply: self.heard.append((name, reply)))

    @property
    def waits(self) -> bool:
        """Whether the reader is woken by what Redis says."""
        return bool(self.engine.events[2] & select.EPOLLIN)

    def answer(self, *replies: Any) -> None:
        self.publishing.replies += replies
        self.bus._on_publishing(select.EPOLLIN)


RECEIPT = [b"OK", b"QUEUED", b"QUEUED"]


def test_a_receipt_is_told_from_the_replies_around_it() -> None:
    line = Line()
    line.bus.publish("caller:x", b"1")
    line.bus.flush()
    assert not line.waits
    line.bus.publish("caller:x", b"2")
    assert line.deliver("a")
    line.bus.publish("caller:x", b"3")
    assert line.deliver("b")
    line.bus.flush()
    assert line.waits
    line.answer(1, 1, *RECEIPT, [[b"device", 1], 1])
    assert line.heard == [("a", [[b"device", 1], 1])]
    assert line.waits
    line.answer(1, *RECEIPT, [[b"device", 0], 0])
    assert line.heard[1] == ("b", [[b"device", 0], 0])
    assert not line.waits
    assert line.bus.sent()


def test_a_receipt_that_is_read_when_something_is_sent_counts_too() -> None:
    line = Line()
    line.deliver("a")
    line.bus.flush()
    line.publishing.replies += [*RECEIPT, "done"]
    line.bus.publish("caller:x", b"1")
    line.bus.flush()
    assert line.heard == [("a", "done")]


def test_a_health_check_does_not_confuse_receipts() -> None:
    line = Line()
    line.bus.check(0.0)
    line.deliver("a")
    line.bus.flush()
    line.answer(b"PONG", *RECEIPT, "done")
    assert line.heard == [("a", "done")]


def test_waiting_for_room_and_for_a_receipt_go_together() -> None:
    line = Line()
    line.publishing.takes = 10
    line.deliver("a")
    line.bus.flush()
    assert line.engine.events[2] == select.EPOLLIN | select.EPOLLOUT
    line.publishing.takes = 1 << 30
    line.bus._on_publishing(select.EPOLLOUT)
    assert line.engine.events[2] == select.EPOLLIN
    line.answer(*RECEIPT, "done")
    assert line.engine.events[2] == 0


def test_when_the_connection_is_lost_who_waits_is_told_and_nothing_leaves_later() -> None:
    line = Line()
    changes: list[bool] = []
    line.bus.on_change.append(changes.append)
    line.deliver("sent")
    line.bus.flush()
    line.deliver("not sent")
    line.bus.publish("caller:x", b"an answer")
    line.bus._closing = False
    line.bus._reconnect = lambda: None  # type: ignore[method-assign]
    line.bus._lost("the test says so")
    assert [(name, type(reply)) for name, reply in line.heard] == [
        ("sent", RedisUnavailable), ("not sent", RedisUnavailable),
    ]  # fmt: skip
    with pytest.raises(RedisUnavailable):
        line.deliver("away")
    line.connect()
    assert b"an answer" in line.publishing.sent
    assert b"not sent" not in line.publishing.sent
    line.deliver("again")
    line.bus.flush()
    line.answer(1, *RECEIPT, "done")
    assert line.heard[2:] == [("again", "done")]
    assert changes == [False, True]


DISCARDED = [b"OK", ReplyError("OOM command not allowed"), ReplyError("OOM"), ReplyError("EXECABORT discarded")]


def test_what_a_full_redis_discards_is_published_if_somebody_is_there() -> None:
    line = Line()
    line.deliver("a")
    line.bus.flush()
    line.publishing.sent = b""
    line.answer(*DISCARDED)
    assert (line.publishing.sent, line.heard) == (count(b"device"), [])
    line.answer([b"device", 1])
    assert line.publishing.sent == count(b"device") + publish(b"device", b"a")
    line.answer(2)
    assert line.heard == [("a", 2)]
    assert not line.waits


@pytest.mark.parametrize("reply", [[b"device", 0], ReplyError("NOPERM")])
def test_and_not_if_nobody_is_there_or_redis_refuses_to_count(reply: Any) -> None:
    line = Line()
    line.deliver("a")
    line.bus.flush()
    line.publishing.sent = b""
    line.answer(*DISCARDED)
    line.answer(reply)
    assert line.publishing.sent == count(b"device")
    assert line.heard == [("a", 0 if isinstance(reply, list) else reply)]


@pytest.mark.parametrize("counted", [False, True])
def test_an_outage_while_a_full_redis_is_asked_again(counted: bool) -> None:
    """Who waits is told, and what was not sent yet is not sent when Redis is back."""
    line = Line()
    line.deliver("a")
    line.bus.flush()
    line.publishing.takes = 1 << 30 if counted else 0
    line.answer(*DISCARDED)
    line.publishing.takes = 0
    if counted:
        line.answer([b"device", 1])
    line.bus._lost("the test says so")
    assert [(name, type(reply)) for name, reply in line.heard] == [("a", RedisUnavailable)]
    line.connect()
    assert publish(b"device", b"a") not in line.publishing.sent


def test_requests_beyond_what_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    monkeypatch.setattr(bus_module, "OUTBOX_LIMIT", 100)
    assert line.deliver("x" * 100) is False
    assert not line.waits


def test_several_may_hear_one_channel_or_one_glob() -> None:
    line = Line()
    listener = Work(Record("listen", "news", print))
    glob = Work(Record("listen", "s.*", print))

    def own(*_: object) -> None: ...

    def heard(*_: object) -> None: ...

    def first(*_: object) -> None: ...

    def second(*_: object) -> None: ...

    line.bus.listen(own, heard, [listener, glob])
    other = Work(Record("listen", "other", print))
    line.bus.plan("news", first, other)
    line.bus.plan("news", second, other)
    line.bus.plan("s.*", first, other)
    news = [[b"message", b"news", b"1"], [b"pmessage", b"s.*", b"s.a", b"2"]]
    line.subscribed.replies = [*news, [b"message", b"svc", b"3"]]
    items = line.bus._on_subscribed(select.EPOLLIN)
    assert [(work, channel, data) for work, _plan, channel, data in items] == [
        (listener, "news", b"1"), (other, "news", b"1"), (other, "news", b"1"),
        (glob, "s.a", b"2"), (other, "s.a", b"2"), (None, "svc", b"3"),
    ]  # fmt: skip
    assert [plan for _work, plan, _channel, _data in items] == [heard, first, second, heard, first, own]
    assert list(line.bus._names) == ["svc", "news", "s.*"]


def test_what_lacks_here_to_connect_is_told_apart_from_a_redis_that_is_away(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of descriptors no waiting helps, so the watchdog must learn of it, and the journal why."""
    errors = [errno.ECONNREFUSED, errno.EMFILE]
    found: list[str | None] = []

    def connect() -> Pair:
        found.append(bus.hindrance)
        if not errors:
            bus._closing = True
        number = errors.pop(0) if errors else 0
        error = RedisUnavailable(f"no connection: {os.strerror(number)}")
        error.errno = number
        raise error

    monkeypatch.setattr(bus, "_connect_and_claim", connect)
    bus._reconnecting = Thread(target=bus._reconnect)
    bus._reconnecting.start()
    bus._reconnecting.join()
    assert found == [None, None, "no connection: Too many open files"]
    assert caplog.messages == ["Not connected yet: no connection: Too many open files"]
    assert bus.hindrance == "Redis is away and nothing tries to have it back"
