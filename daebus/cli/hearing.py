"""What is published, as it comes: for the commands that listen. Outlives the loss of Redis."""

from __future__ import annotations

from time import sleep

from ..errors import RedisRefused, RedisUnavailable
from ..schedule import backoff
from ..subscription import Subscription
from .output import check_reader, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..settings import RedisSettings

RETRY_FIRST, RETRY_LONGEST = 0.05, 1.0
"""Seconds between two attempts to reach a Redis that has gone away."""


def messages(settings: RedisSettings, names: list[str]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield what is heard, as it comes: nothing every now and then. When Redis goes away later on, the person is told,
    and it is tried until it is back."""
    subscription = Subscription(settings, names)
    subscription.open()
    try:
        while True:
            try:
                heard = subscription.receive()
            except RedisUnavailable as error:
                tell(f"daebus: {error.code}: {error}; trying again")
                _open_again(subscription)
                tell(f"daebus: Redis at {settings} is back; what was published meanwhile was not heard")
                continue
            check_reader()
            yield heard
    finally:
        subscription.close()


def _open_again(subscription: Subscription) -> None:
    attempt = 0
    while True:
        try:
            subscription.open()
            return
        except RedisRefused:
            raise
        except RedisUnavailable:
            attempt += 1
            check_reader()
            sleep(backoff(attempt, RETRY_FIRST, RETRY_LONGEST))
