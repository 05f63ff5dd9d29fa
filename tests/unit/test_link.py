"""One connection to Redis, over a socketpair whose other end the test holds."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic
from uuid import RFC_4122, UUID

import hiredis
import pytest

from daebus.errors import RedisRefused, RedisUnavailable
from daebus.link import Link, new_id, refusal
from daebus.resp import PING
from daebus.settings import RedisSettings
from tests.support import MS

SOON = 5000 * MS


class Bench:
    def __init__(self) -> None:
        ours, self.redis = socket.socketpair()
        ours.setblocking(False)
        self.redis.settimeout(SOON)
        self.link = Link(ours, tls=False)

    def close(self) -> None:
        self.link.close()
        self.redis.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_new_id_is_a_fresh_uuid_of_version_4() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    for each in ids:
        parsed = UUID(each)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, RFC_4122, each)


def test_all_other_bits_of_a_new_id_are_random() -> None:
    ones = zeros = 0
    for _ in range(2000):
        bits = UUID(new_id()).int
        ones, zeros = ones | bits, zeros | ~bits
    fixed = (0xF << 76) | (0xC << 60)
    assert (ones & zeros) | fixed == 2**128 - 1


def test_replies_are_read_as_they_arrive(bench: Bench) -> None:
    assert bench.link.receive() == []
    bench.redis.sendall(b"+OK\r\n:5\r\n$3\r\nab")
    assert bench.link.receive() == [b"OK", 5]
    assert bench.link.receive() == []
    bench.redis.sendall(b"c\r\n*1\r\n$-1\r\n")
    assert bench.link.receive() == [b"abc", [None]]


def test_an_error_reply_is_a_value(bench: Bench) -> None:
    bench.redis.sendall(b"-ERR no\r\n")
    (reply,) = bench.link.receive()
    assert isinstance(reply, hiredis.ReplyError)


def test_the_end_of_a_connection_is_said(bench: Bench) -> None:
    bench.redis.close()
    with pytest.raises(RedisUnavailable, match="Redis closed the connection"):
        bench.link.receive()
    with pytest.raises(RedisUnavailable, match="the connection to Redis was lost: Broken pipe"):
        bench.link.send(PING)


def test_what_is_not_redis_is_told_from_it(bench: Bench) -> None:
    bench.redis.sendall(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(RedisUnavailable, match="what answers is not Redis"):
        bench.link.receive()


def test_a_full_socket_is_not_waited_for(bench: Bench) -> None:
    data = b"x" * 4_000_000
    assert 0 < bench.link.send(data) < len(data)
    assert bench.link.send(data) == 0


def test_asking_waits_for_all_replies(bench: Bench) -> None:
    bench.redis.sendall(b"+PONG\r\n+PONG\r\n")
    assert bench.link.ask(monotonic() + SOON, PING, PING) == [b"PONG", b"PONG"]
    assert bench.redis.recv(1000) == PING + PING
    assert bench.link.sock.gettimeout() == 0


def test_asking_ends_at_its_deadline(bench: Bench) -> None:
    with pytest.raises(TimeoutError):
        bench.link.ask(monotonic() + 0.005, PING)
    with pytest.raises(TimeoutError):
        bench.link.wait(monotonic())


def test_a_connection_that_ends_while_asked_is_said(bench: Bench) -> None:
    bench.redis.shutdown(socket.SHUT_WR)
    with pytest.raises(RedisUnavailable, match="Redis closed the connection"):
        bench.link.ask(monotonic() + SOON, PING)


def test_closing_twice_is_no_error(bench: Bench) -> None:
    bench.link.close()
    bench.link.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WRONGPASS invalid username-password pair", RedisRefused),
        ("NOAUTH Authentication required.", RedisRefused),
        ("NOPERM this user has no permissions", RedisRefused),
        ("ERR DB index is out of range", RedisRefused),
        ("LOADING Redis is loading the dataset in memory", RedisUnavailable),
        ("MASTERDOWN Link with MASTER is down", RedisUnavailable),
    ],
)
def test_a_refusal_is_told_from_what_passes(text: str, kind: type[RedisUnavailable]) -> None:
    error = refusal(text, RedisSettings("h", 1, username="me", password=text))
    assert type(error) is kind
    assert str(error).startswith("Redis at h:1 ")
    assert text in str(error)
