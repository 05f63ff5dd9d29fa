"""Whose a service's name is: what is said to one who claims a name that is taken."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from daebus import claim
from daebus.claim import ACTION, _Claimant, _count, answer, identity
from daebus.errors import NameTaken, RedisUnavailable
from daebus.link import Link, Pair
from daebus.message import PubSubRequest, encode_error, encode_reply


def asked(payload: object) -> PubSubRequest:
    return PubSubRequest({"action": ACTION, "payload": payload, "request_id": "r"}, "svc")


def test_a_claim_says_who_claims() -> None:
    assert identity(shared=True) == {"pid": os.getpid(), "host": socket.gethostname(), "shared": True}


def test_those_who_share_a_name_agree() -> None:
    assert answer(asked(identity(shared=True)), "svc", shared=True) == identity(shared=True)


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("theirs", [{"shared": False}, {}, {"shared": "yes"}, {"shared": 1}, None, [], "text", 5])
def test_whoever_does_not_share_is_refused(ours: bool, theirs: object) -> None:
    with pytest.raises(NameTaken) as caught:
        answer(asked(theirs), "svc", shared=ours)
    assert f"'svc' is already running as process {os.getpid()} on {socket.gethostname()!r}" in str(caught.value)
    assert str(caught.value).endswith("start all of them with shared=True")


def test_one_who_would_share_is_told_that_we_do_not() -> None:
    with pytest.raises(NameTaken, match=r"it was not started with shared=True$"):
        answer(asked({"shared": True}), "svc", shared=False)


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        ({"pid": 7, "host": "pi"}, "as process 7 on 'pi'"),
        ({"pid": "7\n<0>", "host": "a\nb"}, r"as process ? on 'a\nb'"),
        ({}, "as process ? on 'None'"),
        ({"pid": None, "host": "x" * 1000}, f"on '{'x' * 64}';"),
    ],
)
def test_what_a_stranger_says_of_itself_is_shown_as_one_line(holder: dict[str, Any], text: str) -> None:
    said = str(claim._taken("svc", holder, claimant_shares=False))
    assert text in said
    assert said.isprintable()


def test_redis_count_of_subscribers_is_read() -> None:
    assert _count([b"svc", 3]) == 3
    for reply in (None, b"OK", [], [b"svc"], [b"svc", b"3"], ValueError("NOPERM")):
        with pytest.raises(RedisUnavailable, match="Redis does not count subscribers"):
            _count(reply)


# --- a claimant, and what it hears while it claims ---


class Bench:
    def __init__(self, pair: Pair, *, shared: bool) -> None:
        self.pair = pair
        self.claimant = _Claimant(pair, "svc", shared)

    @property
    def token(self) -> str:
        return self.claimant._token

    def hear(self, data: bytes, channel: bytes = b"svc") -> None:
        self.claimant._take([b"message", channel, data])

    def hear_claim(self, token: str, payload: object) -> bytes:
        said = {"action": ACTION, "payload": payload, "request_id": token}
        data = json.dumps(said, separators=(",", ":")).encode()
        self.hear(data)
        return data

    def hear_answer(self, data: bytes) -> None:
        self.hear(data, self.claimant._reply_to.encode())

    @property
    def early(self) -> list[bytes]:
        return [reply[2] for reply in self.pair.early]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    made = Pair(Link(ours, tls=False), Link(theirs, tls=False), [])
    yield made
    made.close()


@pytest.fixture
def alone(pair: Pair) -> Bench:
    return Bench(pair, shared=False)


@pytest.fixture
def sharing(pair: Pair) -> Bench:
    return Bench(pair, shared=True)


@pytest.mark.parametrize("data", [b'{"action":"act"}', b"broken", b'{"action":"$daebus.claim",broken', b""])
def test_messages_that_come_meanwhile_are_kept(alone: Bench, data: bytes) -> None:
    alone.hear(data)
    assert alone.early == [data]


def test_ones_own_claim_is_not(alone: Bench) -> None:
    alone.hear_claim(alone.token, identity(shared=False))
    assert alone.claimant._seen
    assert alone.early == []


def test_whoever_claimed_first_has_the_name(alone: Bench) -> None:
    with pytest.raises(NameTaken, match="'svc' is already running as process 7 on 'pi'"):
        alone.hear_claim("another", {"pid": 7, "host": "pi", "shared": False})


@pytest.mark.parametrize("payload", [None, [], "text", {"pid": []}])
def test_a_claim_that_says_nothing_useful_still_counts(alone: Bench, payload: object) -> None:
    with pytest.raises(NameTaken):
        alone.hear_claim("another", payload)


def test_a_claim_after_ours_is_kept_to_be_refused(alone: Bench) -> None:
    alone.hear_claim(alone.token, identity(shared=False))
    data = alone.hear_claim("another", identity(shared=False))
    assert alone.early == [data]


def test_claims_of_those_who_share_are_kept_to_be_agreed_to(sharing: Bench) -> None:
    data = sharing.hear_claim("another", identity(shared=True))
    assert sharing.early == [data]


def test_a_claim_of_one_who_does_not_share_takes_the_name_from_one_who_does(sharing: Bench) -> None:
    with pytest.raises(NameTaken, match="it was not started with shared=True"):
        sharing.hear_claim("another", identity(shared=False))


def test_a_refusal_is_raised_in_its_own_words(alone: Bench) -> None:
    with pytest.raises(NameTaken, match=r"^it is ours$"):
        alone.hear_answer(encode_error(NameTaken("it is ours"), alone.token))


def test_agreements_are_counted_and_nothing_else(sharing: Bench) -> None:
    sharing.hear_answer(encode_reply(identity(shared=True), sharing.token))
    sharing.hear_answer(b"broken")
    sharing.hear_answer(encode_error(RedisUnavailable("something else"), sharing.token))
    assert sharing.claimant._agreed == 1
    assert sharing.early == []
