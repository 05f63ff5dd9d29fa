"""The first connections of a service, and the claim of its name. The bus repairs what is lost later."""

from __future__ import annotations

import threading

from .bus import FIRST_PAUSE, LONGEST_PAUSE
from .claim import claim
from .errors import NameTaken, RedisRefused, RedisUnavailable
from .log import logger, one_line
from .schedule import backoff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .bus import Bus
    from .link import Pair


class FirstConnection:
    """Connects on a thread of its own, so that signals are heard meanwhile, trying until told to give up."""

    def __init__(self, bus: Bus, shared: bool, wake: Callable[[], None], meanwhile: str) -> None:
        """`wake` is called when `done` is set: then there is a `pair` or an `error`, or it was given up.

        `meanwhile` is what the log says beside that Redis is waited for.
        """
        self._meanwhile = meanwhile
        self._bus = bus
        self._shared = shared
        self._wake = wake
        self.pair: Pair | None = None
        self.error: Exception | None = None
        self.given_up = False
        self.done = False

    def start(self) -> None:
        """Begin to try."""
        threading.Thread(target=self._run, name="daebus-connect", daemon=True).start()

    def _run(self) -> None:
        try:
            self._try_until_done()
        except (RedisRefused, NameTaken) as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - the last stop of the thread; the main thread reports it
            logger.error("Connecting failed", exc_info=True)
            self.error = error
        self.done = True
        self._wake()

    def _try_until_done(self) -> None:
        number = 0
        while not self.given_up:
            try:
                self.pair = self._once()
                return
            except RedisRefused:
                raise
            except RedisUnavailable as error:
                number += 1
                if number == 1:
                    logger.warning("Waiting for Redis: %s%s", one_line(str(error)), self._meanwhile)
                threading.Event().wait(backoff(number, FIRST_PAUSE, LONGEST_PAUSE))

    def _once(self) -> Pair:
        pair = self._bus.connect()
        try:
            claim(pair, self._bus.service, self._shared)
        except BaseException:
            pair.close()
            raise
        return pair
