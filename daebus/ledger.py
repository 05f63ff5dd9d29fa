"""What a process has asked over Redis and has not been told yet. Pure bookkeeping, shared by both kinds of caller.

Two things are owed for a request: Redis' confirmation that it was delivered, on the publishing connection and in
the order of sending (a `Ticket`), and the service's answer, on the subscribed one, found by its request id.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import count

from .errors import BadMessage, DaebusError, RedisRefused, RedisUnavailable, ServiceUnavailable
from .link import ReplyError, new_id
from .message import Reply, read_reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Exchange:
    """What one call waits for: an answer, a confirmation, an error. `wake` is how it learns of it."""

    __slots__ = ("command", "confirmed", "error", "interrupted", "owner", "replies", "result", "sent", "waits_idly")

    def __init__(self, owner: object, *, command: bool = False) -> None:
        self.owner = owner
        self.command = command  # waits for Redis' reply, not for a service's answer
        self.replies: deque[Reply] = deque()
        self.error: DaebusError | None = None
        self.result: Any = None  # Redis' reply
        self.sent = False  # it may have left this process
        self.confirmed = False  # Redis has taken it
        self.waits_idly = False  # its thread waits, and can be woken to read for all
        self.interrupted = False  # the connection was lost while it waited

    @property
    def ready(self) -> bool:
        """Whether there is something for the caller."""
        return bool(self.replies) or self.error is not None or (self.command and self.confirmed)

    def wake(self) -> None:
        """Something has come."""
        raise NotImplementedError

    def fail(self, error: DaebusError) -> None:
        """Bring it an error; the first one counts."""
        if self.error is None:
            self.error = error
        self.wake()


class Ticket:
    """What Redis owes for one sending: `left` replies, of which the last one counts."""

    __slots__ = ("exchange", "left", "refusal", "when")

    def __init__(self, exchange: Exchange, left: int, when: float) -> None:
        self.exchange = exchange
        self.left = left
        self.when = when
        self.refusal: str | None = None


class Ledger:
    """The exchanges of one hub that are under way."""

    def __init__(self) -> None:
        self._middle = new_id()[8:24]
        self._numbers = count(1)
        self.pending: dict[str, Exchange] = {}  # waiting for an answer, by request id
        self.tickets: deque[Ticket] = deque()

    def next_id(self) -> str:
        """Return a request id: a UUID of which the first digits count.

        The last ones are random each time: who has seen one request must not be able to answer the next one.
        """
        return f"{next(self._numbers) & 0xFFFFFFFF:08x}{self._middle}{os.urandom(6).hex()}"

    def sent(self, exchange: Exchange, replies: int, when: float) -> None:
        """Note that something was sent, for which Redis owes so many replies (at `when`, monotonic seconds)."""
        exchange.sent = True
        self.tickets.append(Ticket(exchange, replies, when))

    def not_sent(self) -> None:
        """Take back the last sending: it did not leave."""
        self.tickets.pop().exchange.sent = False

    @property
    def oldest(self) -> float | None:
        """When the oldest thing was sent that Redis has not confirmed (monotonic seconds)."""
        return self.tickets[0].when if self.tickets else None

    def take_answers(self, replies: list[Any]) -> None:
        """Hand out what has arrived on the subscribed connection. What is no answer to a request of ours is dropped."""
        for reply in replies:
            if type(reply) is not list or reply[0] != b"message":
                continue
            try:
                answer = read_reply(reply[2])
            except BadMessage:
                continue
            exchange = self.pending.get(answer.request_id)
            if exchange is not None:
                exchange.replies.append(answer)
                exchange.wake()

    def take_confirmations(self, replies: list[Any]) -> None:
        """Take what Redis says on the publishing connection."""
        for reply in replies:
            if not self.tickets:
                continue
            ticket = self.tickets[0]
            ticket.left -= 1
            if isinstance(reply, ReplyError) and ticket.refusal is None:
                ticket.refusal = str(reply)
            if not ticket.left:
                self.tickets.popleft()
                _settle(ticket, reply)

    def connection_lost(self, error: RedisUnavailable) -> None:
        """Tell those of whose message nothing is known; the others' answers may still come."""
        tickets, self.tickets = self.tickets, deque()
        for ticket in tickets:
            ticket.exchange.fail(RedisUnavailable(f"{error}; whether the message arrived is not known"))
        for exchange in list(self.pending.values()):
            exchange.interrupted = True


def _settle(ticket: Ticket, reply: Any) -> None:
    exchange = ticket.exchange
    if ticket.refusal is not None:
        refused = RedisRefused(f"Redis refuses this: {ticket.refusal}")  # the caller adds what to do
        refused.refusal = ticket.refusal
        exchange.fail(refused)
        return
    exchange.confirmed = True
    exchange.result = reply
    if exchange.command:
        exchange.wake()
    elif not was_delivered(reply):
        exchange.fail(ServiceUnavailable("nobody is subscribed"))  # the caller adds to whom


def was_delivered(result: Any) -> bool:
    """Read the result of `resp.deliver`: [[channel, subscribers], receivers]; or that of PUBLISH: receivers."""
    if isinstance(result, int):
        return result > 0
    try:
        return bool(result[0][1])
    except (TypeError, IndexError):
        return False


def is_full(error: DaebusError | None) -> bool:
    """Say whether Redis executed nothing because its memory is full: see `resp.deliver`."""
    return isinstance(error, RedisRefused) and error.refusal.startswith("OOM")
