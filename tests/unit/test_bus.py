"""Answers that wait for Redis: how many bytes of them, and what is left for small ones."""

from __future__ import annotations

import pytest

from daebus import bus as bus_module
from daebus.bus import SMALL, Bus
from daebus.resp import publish
from daebus.settings import RedisSettings


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    """One that is not connected, with room for three large answers and then for ten small ones."""
    monkeypatch.setattr(bus_module, "OUTBOX_LIMIT", 3 * len(publish(b"caller:x", LARGE)))
    monkeypatch.setattr(bus_module, "RESERVE", 10 * len(publish(b"caller:x", TINY)))
    return Bus(RedisSettings(), "svc", lambda *_: None, lambda *_: None)


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
