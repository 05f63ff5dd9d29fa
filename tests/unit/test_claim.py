"""Whose a service's name is: what is said to one who claims a name that is taken."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from threading import Barrier, Thread
from time import monotonic
from typing import Any

import pytest

from daebus import claim
from daebus.claim import ACTION, _Claimant, _count, answer, identity
from daebus.errors import NameTaken, RedisRefused, RedisUnavailable
from daebus.link import Link, Pair, ReplyError, open_pair
from daebus.message import PubSubRequest, encode_error, encode_reply
from daebus.redisserver import PrivateServer
from daebus.settings import parse_url
from tests.support import MS


def asked(payload: object) -> PubSubRequest:
    return PubSubRequest({"action": ACTION, "payload": payload, "request_id": "r"}, "svc")


def test_a_claim_says_who_claims() -> None:
    expected = {"pid": os.getpid(), "host": socket.gethostname(), "shared": True, "running": True}
    assert identity(shared=True) == expected
    assert identity(shared=True, running=False) == {**expected, "running": False}


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


def test_a_redis_that_may_not_count_is_one_that_refuses() -> None:
    with pytest.raises(RedisRefused, match="does not let this service publish, or count subscribers: NOPERM no"):
        _count(ReplyError("NOPERM no"))


# --- a claimant, and what it hears while it claims ---


class Bench:
    def __init__(self, pair: Pair, *, shared: bool, running: bool = False) -> None:
        self.pair = pair
        self.claimant = _Claimant(pair, "svc", shared, running)
        self._me = identity(shared, running)

    @property
    def token(self) -> str:
        return self.claimant._token

    def hear(self, data: bytes, channel: bytes = b"svc") -> None:
        self.claimant._take([b"message", channel, data])

    def hear_own_claim(self) -> None:
        self.hear_claim(self.token, self._me)

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


@pytest.fixture
def back(pair: Pair) -> Bench:
    """A service that runs already, and has reconnected."""
    return Bench(pair, shared=False, running=True)


@pytest.fixture
def sharing_back(pair: Pair) -> Bench:
    return Bench(pair, shared=True, running=True)


NEWCOMER = {"pid": 7, "host": "pi", "shared": False, "running": False}
RUNNING = {**NEWCOMER, "running": True}


@pytest.mark.parametrize("data", [b'{"action":"act"}', b"broken", b'{"action":"$daebus.claim",broken', b""])
def test_messages_that_come_meanwhile_are_kept(alone: Bench, data: bytes) -> None:
    alone.hear(data)
    assert alone.early == [data]


def test_ones_own_claim_is_not(alone: Bench) -> None:
    alone.hear_own_claim()
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
    alone.hear_own_claim()
    data = alone.hear_claim("another", NEWCOMER)
    assert alone.early == [data]


@pytest.mark.parametrize("running", [False, True])
def test_claims_of_those_who_share_are_kept_to_be_agreed_to(sharing: Bench, running: bool) -> None:
    data = sharing.hear_claim("another", identity(shared=True, running=running))
    assert sharing.early == [data]


@pytest.mark.parametrize("theirs", [NEWCOMER, RUNNING])
def test_a_claim_of_one_who_does_not_share_takes_the_name_from_one_who_does(
    sharing: Bench, theirs: dict[str, Any]
) -> None:
    with pytest.raises(NameTaken, match="it was not started with shared=True"):
        sharing.hear_claim("another", theirs)


@pytest.mark.parametrize("who", ["alone", "sharing"])
@pytest.mark.parametrize("ours_first", [False, True])
def test_a_newcomer_yields_to_a_service_that_runs(who: str, ours_first: bool, request: pytest.FixtureRequest) -> None:
    """Whichever claim Redis had first: who runs has clients already."""
    newcomer: Bench = request.getfixturevalue(who)
    if ours_first:
        newcomer.hear_own_claim()
    with pytest.raises(NameTaken, match="'svc' is already running as process 7 on 'pi'"):
        newcomer.hear_claim("another", RUNNING)


@pytest.mark.parametrize("ours_first", [False, True])
@pytest.mark.parametrize("theirs", [NEWCOMER, {"pid": 7}, {**NEWCOMER, "running": "yes"}, {**NEWCOMER, "running": 1}])
def test_a_service_that_runs_keeps_its_name(back: Bench, theirs: dict[str, Any], ours_first: bool) -> None:
    """And tells the newcomer so, when it is back."""
    if ours_first:
        back.hear_own_claim()
    data = back.hear_claim("another", theirs)
    assert back.early == [data]
    assert back.claimant._seen is ours_first


def test_a_service_that_runs_yields_to_another_that_runs_and_claimed_first(back: Bench) -> None:
    with pytest.raises(NameTaken):
        back.hear_claim("another", RUNNING)


def test_of_two_that_run_the_one_that_claimed_first_has_the_name(back: Bench) -> None:
    """Else both end."""
    back.hear_own_claim()
    data = back.hear_claim("another", RUNNING)
    assert back.early == [data]


@pytest.mark.parametrize("running", [False, True])
def test_one_that_shares_and_runs_keeps_the_claims_of_those_who_share(sharing_back: Bench, running: bool) -> None:
    """They wait for its agreement, which it gives when it is back."""
    data = sharing_back.hear_claim("another", identity(shared=True, running=running))
    assert sharing_back.early == [data]


def test_a_refusal_is_raised_in_its_own_words(alone: Bench) -> None:
    with pytest.raises(NameTaken, match=r"^it is ours$"):
        alone.hear_answer(encode_error(NameTaken("it is ours"), alone.token))


def test_agreements_are_counted_and_nothing_else(sharing: Bench) -> None:
    sharing.hear_answer(encode_reply(identity(shared=True), sharing.token))
    sharing.hear_answer(b"broken")
    sharing.hear_answer(encode_error(RedisUnavailable("something else"), sharing.token))
    sharing.hear_answer(encode_reply(identity(shared=True), sharing.token))
    assert len(sharing.claimant._agreed) == 1, "one process, however often it says so"
    assert sharing.early == []


# --- claims on a real Redis ---


class Claims:
    """Claims of one name that are made at once; each is a pair of connections, or what it was refused with."""

    def __init__(self, server: PrivateServer, *claims: tuple[bool, bool]) -> None:
        self._settings = parse_url(server.url, "the test")
        self._subscribed = Barrier(len(claims))
        self.outcomes: list[Pair | Exception] = []
        threads = [Thread(target=self._claim, args=each) for each in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for outcome in self.outcomes:
            if isinstance(outcome, Pair):
                outcome.close()

    def _claim(self, shared: bool, running: bool) -> None:
        pair = open_pair(self._settings, "claimant", ["svc"], [])
        self._subscribed.wait()
        try:
            claim.claim(pair, "svc", shared, running=running)
        except (NameTaken, RedisUnavailable) as error:
            self.outcomes.append(error)
            pair.close()
        else:
            self.timeouts = [link.sock.gettimeout() for link in (pair.subscribed, pair.publishing)]
            self.outcomes.append(pair)

    @property
    def refused(self) -> list[str]:
        return [str(outcome) for outcome in self.outcomes if isinstance(outcome, Exception)]


def test_nobody_objects_where_nobody_is(shared_redis: PrivateServer) -> None:
    for running in (False, True):
        made = Claims(shared_redis, (False, running))
        assert made.refused == []
        assert made.timeouts == [0.0, 0.0]


@pytest.mark.parametrize("running", [False, True])
def test_of_two_that_claim_at_once_one_has_the_name(shared_redis: PrivateServer, running: bool) -> None:
    made = Claims(shared_redis, (False, running), (False, running))
    (text,) = made.refused
    assert "'svc' is already running as process" in text


@pytest.mark.parametrize("running", [False, True])
def test_one_that_subscribes_after_anothers_claim_is_told_of_it(
    shared_redis: PrivateServer, running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would wait for the other, and neither have the name."""
    monkeypatch.setattr(claim, "RUNNING_LIMIT", 5000 * MS)
    monkeypatch.setattr(claim, "ANSWER_LIMIT", 5000 * MS)
    settings = parse_url(shared_redis.url, "the test")
    deadline = monotonic() + 5000 * MS
    first, witness = (open_pair(settings, "claimant", ["svc"], []) for _ in range(2))  # who is there is waited for
    refused: list[str] = []

    def claim_first() -> None:
        try:
            claim.claim(first, "svc", False, running=running)
        except NameTaken as error:
            refused.append(str(error))

    thread = Thread(target=claim_first)
    thread.start()
    witness.subscribed.wait(deadline)
    late = open_pair(settings, "claimant", ["svc"], [])
    with pytest.raises(NameTaken, match=f"'svc' is already running as process {os.getpid()} on"):
        claim.claim(late, "svc", False, running=running)
    for pair in (late, witness):
        pair.close()
    thread.join()
    first.close()
    assert refused == []


def test_a_newcomer_and_one_that_runs_agree_whose_the_name_is(shared_redis: PrivateServer) -> None:
    made = Claims(shared_redis, (False, True), (False, False))
    (text,) = made.refused
    assert "'svc' is already running as process" in text
    assert made.timeouts == [0.0, 0.0]


def test_those_who_share_may_claim_at_once(shared_redis: PrivateServer) -> None:
    """As systemd starts all instances of a service."""
    assert Claims(shared_redis, (True, False), (True, False)).refused == []


def test_those_who_share_may_claim_anew_at_once(shared_redis: PrivateServer) -> None:
    """As all of them do when Redis is back. No limit of a wait must stay on their sockets."""
    made = Claims(shared_redis, (True, True), (True, True))
    assert made.refused == []
    assert made.timeouts == [0.0, 0.0]
