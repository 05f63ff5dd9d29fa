"""Which services there are, and what they say of themselves: all of them asked at once, from outside.

Redis' own list of channels tells who is there (see `names.marker_channel`), so there is no register to keep, and none
that could be wrong. How many processes are subscribed tells how many answers to wait for.
"""

from __future__ import annotations

from time import monotonic

from .errors import BadMessage, RedisRefused, RedisUnavailable
from .link import CONNECT_LIMIT, ReplyError, new_id, open_link, open_pair, way_out
from .message import Reply, encode_request, read_reply
from .names import MARKER, check_service, is_service, marker_channel
from .resp import command, publish
from .subscription import NAME
from .target import NO_FIELDS, channel_of_ours, check_timeout, clock_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .link import Pair
    from .settings import RedisSettings

RECOUNT = 0.1
"""Seconds between two looks whether those who have not answered are still there."""

WHO_MAY_LIST = (
    "; on a device with the package of Daebus, root may (`sudo daebus`), and no single service; elsewhere the Redis "
    "user needs +pubsub|channels and all channels"
)


class Answers(list["Any"]):
    """What the processes of one service have answered, in no order; `present` is how many there are.

    There are fewer answers than processes if some hang, or run something that does not know the question.
    """

    present = 0


def find(settings: RedisSettings) -> list[str]:
    """Return the names of the services that are there, sorted. Raises `RedisUnavailable` or `RedisRefused`."""
    deadline = monotonic() + CONNECT_LIMIT
    link = open_link(settings, NAME, deadline)
    try:
        (reply,) = link.ask(deadline, command("PUBSUB", "CHANNELS", f"*{MARKER}"))
    except TimeoutError:
        raise _silent(settings) from None
    finally:
        link.close()
    if isinstance(reply, ReplyError):
        who = f" to the user {settings.username!r}" if settings.username else ""
        raise RedisRefused(f"Redis does not show{who} which services there are: {reply}{WHO_MAY_LIST}")
    names = [channel.decode(errors="replace").removesuffix(MARKER) for channel in reply]
    return sorted(filter(is_service, names))  # whatever else somebody may have subscribed to


def ask(settings: RedisSettings, names: Iterable[str], action: str, seconds: float) -> dict[str, Answers]:
    """Return the answers of services to one action, by name; who is silent for `seconds` has fewer than processes.

    Returns as soon as all have answered. A service that is not there has no answers and no processes. Raises
    `RedisUnavailable`, `RedisRefused`, and `ConfigurationError` for what cannot be a name.
    """
    wanted = [check_service(name) for name in dict.fromkeys(names)]
    seconds = check_timeout(seconds)
    if not wanted:
        return {}
    channel = channel_of_ours("caller")
    pair = open_pair(settings, NAME, [channel], [])
    try:
        return _Census(pair, channel, wanted).run(action, seconds)
    except TimeoutError:
        raise _silent(settings) from None
    finally:
        pair.close()


def _silent(settings: RedisSettings) -> RedisUnavailable:
    return RedisUnavailable(f"Redis at {settings} does not answer")


class _Census:
    """One question to several services."""

    def __init__(self, pair: Pair, channel: str, names: list[str]) -> None:
        self._pair = pair
        self._channel = channel
        self._answers = {name: Answers() for name in names}
        self._heard = dict.fromkeys(names, 0)  # answers, errors among them
        self._asked: dict[str, str] = {}  # the service by the id of the request
        self._open = list(names)  # those that have not answered with all their processes

    def run(self, action: str, seconds: float) -> dict[str, Answers]:
        """Ask, and wait for what comes. Raises `TimeoutError` if Redis itself is silent."""
        self._count(monotonic() + CONNECT_LIMIT)
        self._publish(action, seconds)
        deadline = monotonic() + seconds
        while self._open and (now := monotonic()) < deadline:
            try:
                replies = self._pair.subscribed.wait(min(deadline, now + RECOUNT))
            except TimeoutError:
                self._count(monotonic() + CONNECT_LIMIT)
                continue
            for reply in replies:
                self._take(reply)
        return self._answers

    def _publish(self, action: str, seconds: float) -> None:
        commands = []
        limit, clock = monotonic() + seconds, clock_id()
        for name in self._open:
            request_id = new_id()
            self._asked[request_id] = name
            request = encode_request(name, action, NO_FIELDS, self._channel, request_id, limit, seconds, clock)
            commands.append(publish(name.encode(), request))
        for reply in self._pair.publishing.ask(monotonic() + CONNECT_LIMIT, *commands):
            _refused(reply)

    def _count(self, deadline: float) -> None:
        """Count the processes of those that have not answered: by the channel on which only services listen, or, of
        one that is no Daebus service of this version, by its own."""
        channels = [channel for name in self._open for channel in (marker_channel(name), name)]
        (reply,) = self._pair.publishing.ask(deadline, command("PUBSUB", "NUMSUB", *channels))
        _refused(reply)
        numbers = reply[1::2]
        for name, marked, plain in zip(self._open, numbers[::2], numbers[1::2], strict=True):
            self._answers[name].present = max(marked or plain, len(self._answers[name]))
        self._close_complete()

    def _close_complete(self) -> None:
        self._open = [name for name in self._open if self._heard[name] < self._answers[name].present]

    def _take(self, reply: Any) -> None:
        if not (isinstance(reply, list) and reply[0] == b"message"):
            return
        try:
            said: Reply = read_reply(reply[2])
        except BadMessage:
            return
        name = self._asked.get(said.request_id, "")
        if not said.final or name not in self._open:
            return
        self._heard[name] += 1
        if not said.failed:
            self._answers[name].append(said.payload)
        self._close_complete()


def _refused(reply: Any) -> None:
    if isinstance(reply, ReplyError):
        text = f"Redis does not let this user ask services, or count them: {reply}"
        raise RedisRefused(f"{text}{way_out(reply, 'calls')}")
