"""One process per service name - or several that share it.

Whoever starts publishes a claim on the service's own channel after it has subscribed there. All subscribers see
all claims in the same order, so two that start at once agree who was first; and whoever runs already answers the
claim with its pid, as does a claimant to one that came too late to see its own. No lock is kept anywhere: when a
process dies, its subscription dies with it.
"""

from __future__ import annotations

import os
import socket
from time import monotonic

from .errors import BadMessage, NameTaken, RedisRefused, RedisUnavailable
from .jsontext import loads
from .link import ReplyError, new_id, way_out
from .message import Reply, address, encode_error, encode_request, read_reply
from .resp import command, count, publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .link import Pair
    from .message import PubSubRequest

ACTION = "$daebus.claim"

ANSWER_LIMIT = 1.5
"""Seconds that those who serve under the name have for their answer; a live one takes milliseconds."""


RUNNING_LIMIT = 0.3
"""The same for a service that reconnects, which is to be back soon."""

RECOUNT = 0.05
"""Seconds between two looks whether those who have not answered are still there."""


def identity(shared: bool, running: bool = True) -> dict[str, Any]:
    """Return who this process is, as a claim and its answer say it; `running` if it serves already."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "shared": shared, "running": running}


def answer(request: PubSubRequest, service: str, shared: bool) -> dict[str, Any]:
    """Answer a claim of our name: with who we are if both share it, else with `NameTaken`."""
    claimant = request.payload if isinstance(request.payload, dict) else {}
    if shared and claimant.get("shared") is True:
        return identity(shared)
    raise _taken(service, identity(shared), claimant.get("shared") is True)


def _taken(service: str, holder: dict[str, Any], claimant_shares: bool) -> NameTaken:
    hint = "; to run several processes of one service, start all of them with shared=True"
    if claimant_shares and not holder.get("shared"):
        hint = "; it was not started with shared=True"
    return NameTaken(
        f"service {service!r} is already running as process {_number(holder.get('pid'))} "
        f"on {str(holder.get('host'))[:64]!r}{hint}"
    )


def _number(value: object) -> object:
    return value if isinstance(value, int) else "?"


def claim(pair: Pair, service: str, shared: bool, *, running: bool = False) -> None:
    """Claim the name over a pair of connections that is subscribed already. Raises `NameTaken`.

    Blocks for a few milliseconds, or up to `ANSWER_LIMIT` if somebody is there who does not answer. A service that is
    `running` claims again when it has reconnected: others may have started meanwhile. Then silence is no objection,
    because it may be that of its own connection that was lost.
    """
    claimant = _Claimant(pair, service, shared, running)
    try:
        claimant.run(monotonic() + (RUNNING_LIMIT if running else ANSWER_LIMIT))
    except TimeoutError:
        if not claimant.others:
            raise RedisUnavailable("Redis does not answer") from None
        if running:
            claimant.leave()
            return
        raise NameTaken(
            f"somebody is subscribed to channel {service!r} and does not answer: another service of that name that "
            "hangs, or one that is no Daebus service of this version"
        ) from None


class _Claimant:
    def __init__(self, pair: Pair, service: str, shared: bool, running: bool) -> None:
        self._pair = pair
        self._service = service
        self._shared = shared
        self._running = running
        self._token = new_id()
        self._reply_to = f"caller:{service}-{self._token}"
        self._seen = False  # our own claim came back to us
        self.others: int | None = None
        self._later: list[tuple[dict[str, Any], NameTaken]] = []  # claims that ours goes before, and what to say
        self._agreed: set[tuple[object, object]] = set()  # those who share the name with us, by host and pid

    def run(self, deadline: float) -> None:
        subscribed, publishing = self._pair.subscribed, self._pair.publishing
        replies = subscribed.ask(deadline, command("SUBSCRIBE", self._reply_to))
        message = encode_request(
            self._service,
            ACTION,
            identity(self._shared, self._running),
            self._reply_to,
            self._token,
            0.0,
            ANSWER_LIMIT,
            "",
        )
        _refused(publishing.ask(deadline, publish(self._service.encode(), message))[0])
        while not self._agreed_upon(replies, deadline):
            self._refuse_later_ones(deadline)
            try:
                replies = subscribed.wait(min(deadline, monotonic() + RECOUNT))
            except TimeoutError:
                if monotonic() >= deadline:
                    raise
                replies = []
        self.leave()

    def _refuse_later_ones(self, deadline: float) -> None:
        """Tell them: who subscribed after we had claimed does not know of us, and we wait for each other."""
        later, self._later = self._later, []
        for raw, refusal in later:
            channel, request_id = address(raw, self._service)
            if channel is not None:
                self._pair.publishing.ask(deadline, publish(channel.encode(), encode_error(refusal, request_id)))

    def leave(self) -> None:
        """Hear no more answers; leave the connection as its user wants it."""
        subscribed = self._pair.subscribed
        try:
            replies = subscribed.ask(monotonic() + ANSWER_LIMIT, command("UNSUBSCRIBE", self._reply_to))
        except TimeoutError:
            raise RedisUnavailable("Redis does not answer") from None
        for reply in replies:
            self._take(reply)

    def _agreed_upon(self, replies: list[Any], deadline: float) -> bool:
        """Take what has arrived; True when our claim was heard and nobody is left who could object."""
        for reply in replies:
            self._take(reply)
        if not self._seen:
            return False
        counted = self._pair.publishing.ask(deadline, count(self._service.encode()))[0]
        self.others = _count(counted) - 1  # counted anew each time: who gives in to us leaves without a word
        return len(self._agreed) >= self.others

    def _take(self, reply: Any) -> None:
        if not (isinstance(reply, list) and reply[0] in (b"message", b"pmessage")):
            return
        if reply[1] == self._reply_to.encode():
            self._answered(reply[2])
        elif reply[1] != self._service.encode() or not self._is_claim(reply[2]):
            self._pair.early.append(reply)

    def _answered(self, data: bytes) -> None:
        try:
            said: Reply = read_reply(data)
        except BadMessage:
            return
        if said.failed and said.code == NameTaken.code:
            raise NameTaken(said.text)
        if not said.failed and isinstance(said.payload, dict):
            self._agrees(said.payload)

    def _agrees(self, other: dict[str, Any]) -> None:
        self._agreed.add((str(other.get("host")), str(other.get("pid"))))

    def _is_claim(self, data: bytes) -> bool:
        """Whether a message of the service's channel is a claim. Raises `NameTaken` if it goes before ours."""
        if not data.startswith(b'{"action":"$daebus.claim"'):
            return False
        try:
            raw = loads(data)
        except BadMessage:
            return False
        if raw.get("request_id") == self._token:
            self._seen = True
            return True
        other = raw.get("payload") if isinstance(raw.get("payload"), dict) else {}
        if self._shared and other.get("shared") is True:
            self._agrees(other)
        elif self._yields(other):
            raise _taken(self._service, other, self._shared)
        else:
            refusal = _taken(self._service, identity(self._shared, self._running), other.get("shared") is True)
            self._later.append((raw, refusal))
        self._pair.early.append([b"message", self._service.encode(), data])  # to be answered when we run
        return True

    def _yields(self, other: dict[str, Any]) -> bool:
        """Whether another's claim goes before ours: who runs before who starts, else who claimed first."""
        other_runs = other.get("running") is True
        return other_runs if other_runs is not self._running else not self._seen


def _refused(reply: Any) -> None:
    if isinstance(reply, ReplyError):
        raise RedisRefused(f"Redis does not let this service publish, or count subscribers: {reply}{way_out(reply)}")


def _count(reply: Any) -> int:
    _refused(reply)
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], int):
        return reply[1]
    raise RedisUnavailable(f"Redis does not count subscribers: {reply}")
