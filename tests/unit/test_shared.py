"""Whose a message is, when several processes serve under one name."""

from __future__ import annotations

from typing import Any

import pytest

from daebus import shared
from daebus.errors import RedisUnavailable
from daebus.message import PubSubRequest
from daebus.settings import RedisSettings
from daebus.shared import Share

Key = tuple[str, ...]


class Redis:
    """`SET ... NX` as Redis does it, for one process after the other."""

    def __init__(self) -> None:
        self.commands: list[Key] = []
        self._keys: set[str] = set()
        self.gone = False

    def __call__(self, _settings: RedisSettings, *words: str) -> Any:
        self.commands.append(words)
        b"".join(word.encode() for word in words)  # as they would have to be sent
        if self.gone:
            raise RedisUnavailable("it is gone\n<0>")
        if words[1] in self._keys:
            return None
        self._keys.add(words[1])
        return b"OK"


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Redis:
    made = Redis()
    monkeypatch.setattr(shared, "command_now", made)
    return made


@pytest.fixture
def share() -> Share:
    return Share(RedisSettings(), "svc")


def asked(request_id: object) -> PubSubRequest:
    """A request with this id."""
    return PubSubRequest({"action": "a", "payload": 1, "request_id": request_id, "reply_to": "caller:c"}, "svc")


def test_a_marker_begins_a_new_count(share: Share) -> None:
    one, other = share.marker(), share.marker()
    assert one != other
    first = [share.ticket(data) for data in (one, b"{}", b"{}")]
    second = [share.ticket(data) for data in (other, b"{}")]
    assert len(set(first + second)) == 5
    assert all(ticket.endswith((":1", ":2", ":3")) for ticket in first + second)


def test_processes_that_saw_the_same_marker_count_alike(share: Share) -> None:
    other = Share(RedisSettings(), "svc")
    share.ticket(b"before the other was there")
    marker = other.marker()
    messages = [marker, b"1", b"2"]
    assert [share.ticket(data) for data in messages] == [other.ticket(data) for data in messages]


def test_before_a_marker_there_is_no_number(share: Share) -> None:
    assert share.ticket(b"{}") == ""


@pytest.mark.usefixtures("redis")
def test_a_message_without_a_number_is_left_to_those_who_have_one(share: Share) -> None:
    assert not share.mine(None, "")


def test_a_marker_is_known(share: Share) -> None:
    assert share.is_marker(share.marker())
    assert not share.is_marker(b'{"action":"act"}')


def test_a_message_is_one_process_own(share: Share, redis: Redis) -> None:
    other = Share(RedisSettings(), "svc")
    assert [share.mine(asked("r"), "m:1"), other.mine(asked("r"), "m:1")] == [True, False]
    assert [other.mine(None, "m:2"), share.mine(None, "m:2")] == [True, False]
    assert [share.mine(asked("r2"), "m:3"), share.mine(None, "m:4")] == [True, True]
    assert redis.commands[0] == ("SET", "daebus:once:svc:id:caller:c:'r'", "1", "NX", "EX", "120")


@pytest.mark.usefixtures("redis")
def test_services_do_not_take_each_others_messages(share: Share) -> None:
    assert share.mine(asked("r"), "")
    assert Share(RedisSettings(), "svc2").mine(asked("r"), "")


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("request_id", ["\ud800", "", "x" * 200, "a\r\nb", 0, -(10**30)])
def test_any_request_id_can_be_asked_for(share: Share, request_id: object) -> None:
    """An error here would be one on the reader, and end the process."""
    assert share.mine(asked(request_id), "m:1")


def test_when_redis_does_not_say_the_message_is_left_alone(
    share: Share, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.gone = True
    assert not share.mine(asked("r"), "")
    assert not share.mine(asked("r2"), "")
    assert caplog.messages == ["A message was left alone, because Redis did not say whose it is: it is gone\\n<0>"]
