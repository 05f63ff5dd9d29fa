"""The watchdog: systemd is told that the service lives only when each leg it stands on has been seen to work.

A timer that says "alive" every few seconds only proves that the timer lives. Here, in each round, a probe travels the
path that requests travel: the reader publishes it on the service's own channel, Redis delivers it, the engine takes
it, it is answered, and the answer arrives. What else a service stands on - the connections' selector, a worker, the
scheduler, the threads, the event loop - passes a check of its own. A leg that does not pass keeps `WATCHDOG=1` back;
the journal then says which, with the stacks of all threads, and systemd restarts the service.

Redis being away is no fault of the service: it is repaired by reconnecting, so it does not keep anything back.

This thread takes no lock that another one may hold for long, so that it can tell what hangs.
"""

from __future__ import annotations

import sys
import threading
from threading import Event, Thread, get_ident
from time import monotonic

from .bus import HEALTH_PERIOD
from .link import new_id
from .log import DETAILS, logger, one_line
from .message import encode_request
from .names import PROBE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any, Protocol

    from .bus import Bus
    from .engine import Engine
    from .message import PubSubRequest
    from .net import Listener, Network
    from .scheduler import Scheduler
    from .threads import Threads

    class Leg(Protocol):
        """Something that the service stands on."""

        name: str

        def begin(self) -> None:
            """Begin a check. On the reader."""

        def trouble(self) -> str | None:
            """Say what is wrong as long as the check has not passed; None when it has."""


ROUNDS = 3
"""Rounds within systemd's limit (WatchdogSec=), so that one that takes its time is no death."""

SAY_AFTER = 0.6
"""Share of that limit after which a leg that does not pass is named in the journal: before systemd acts."""

FIRST_LOOK, LONGEST_LOOK = 0.005, 0.25
"""Seconds until the checks of a round are looked at, doubled each time."""

SILENCE_LIMIT = 2 * HEALTH_PERIOD + 2.0
"""Seconds for which Redis may say nothing at all to a probe: by then the bus' own health check must have noticed."""

OVERDUE = 1.0
"""Seconds that a task may be late."""

STACK_LINES = 400
"""Lines of stacks in the journal."""


class Watchdog:
    """Feeds systemd's watchdog while all legs pass. `start` it when the service is ready."""

    def __init__(
        self,
        feed: Callable[[], None],
        say: Callable[[str | None], None],
        seconds: float,
        reader: ReaderLeg,
        legs: Iterable[Leg],
    ) -> None:
        """`feed` is called at least once in so many `seconds`; `say` with what is wrong, and with None after that."""
        self._feed = feed
        self._say = say
        self._seconds = seconds
        self._reader = reader
        self._legs = [reader, *legs]
        self._stop = Event()
        self._drains = False
        self._thread = Thread(target=self._run, name="daebus-watchdog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def drain(self) -> None:
        """Only feed from now on: the service stops, and that has limits of its own."""
        self._drains = True

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join(ReaderLeg.TURN + LONGEST_LOOK)

    def _run(self) -> None:
        fed = monotonic()
        while not self._stop.is_set():
            if not (self._drains or self._passes(fed)):
                return
            self._feed()
            fed = monotonic()
            self._stop.wait(self._seconds / ROUNDS)

    def _passes(self, fed: float) -> bool:
        """Do a round; return when all legs have passed, however long that takes. False to end.

        Its checks begin anew now and then, so that a probe that was lost, or refused while there was no room, is not
        the end of a service that has recovered; and at least once before a leg is blamed, so that a reader that came
        by, and hung then, is not taken for a fault of those that wait for it.
        """
        look, told, anew, begun = FIRST_LOOK, False, 0.0, 0
        while True:
            if monotonic() >= anew:
                self._reader.start_round(self._legs)
                anew = monotonic() + self._seconds / ROUNDS / 2
                begun += 1
            if self._stop.wait(look):
                return False
            broken = self._broken() if not self._drains else []
            if not broken:
                self._recovered(told)
                return True
            look = min(look * 2, LONGEST_LOOK)
            known = begun > 1 or broken[0][0] == self._reader.name
            if known and not told and monotonic() - fed > self._seconds * SAY_AFTER:
                told = True
                self._report(broken, monotonic() - fed)

    def _recovered(self, told: bool) -> None:
        if told and not self._drains:
            self._say(None)
            logger.warning("The watchdog's checks pass again")

    def _broken(self) -> list[tuple[str, str]]:
        """Return the legs that have not passed, and why. While the reader does not come, the others cannot."""
        trouble = self._reader.trouble()
        if trouble is not None:
            return [(self._reader.name, trouble)]
        return [(leg.name, trouble) for leg in self._legs if (trouble := leg.trouble()) is not None]

    def _report(self, broken: list[tuple[str, str]], seconds: float) -> None:
        said = "; ".join(f"{name}: {one_line(trouble)}" for name, trouble in broken)
        self._say(said)
        fields = {DETAILS: stacks(), "daebus_leg": ",".join(name for name, _trouble in broken)}
        text = "The watchdog is not fed since %.1f s, so systemd (WatchdogSec=%g) will restart the service. Broken: %s"
        logger.critical(text, seconds, self._seconds, said, extra=fields)


def stacks() -> list[str]:
    """Return what each thread is doing, as lines."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines: list[str] = []
    for ident, frame in sys._current_frames().items():
        if ident != get_ident():
            lines += [f"Thread {names.get(ident, 'unknown')!r}:", *_stack(frame)]
    return lines[:STACK_LINES]


def _stack(frame: FrameType) -> list[str]:
    from traceback import format_stack

    return [line for entry in format_stack(frame, 30) for line in entry.rstrip().splitlines()]


# --- the legs ---


class ReaderLeg:
    """The thread that reads the sockets: it comes by in time. It begins the checks of all other legs."""

    name = "reader"
    TURN = 0.3  # seconds to wait for the engine's lock, which is held for a few operations at a time

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._legs: list[Leg] = []
        self._came = 0  # the round for which the reader came last
        self._failed = False
        self._rung = False
        self._round = 0

    def start_round(self, legs: list[Leg]) -> None:
        """Have the reader begin all checks. On the watchdog's thread."""
        self._legs = legs
        self._round += 1
        number = self._round
        self._rung = self._engine.soon_if_free(lambda: self._begin_all(number), self.TURN)

    def _begin_all(self, number: int) -> None:
        if number != self._round:
            return
        self._failed = True
        try:
            for leg in self._legs:
                leg.begin()
            self._failed = False
        except Exception:  # noqa: BLE001 - must not end the reader; a check that has not begun does not pass
            logger.error("A check of the watchdog failed; this is a defect of Daebus", exc_info=True)
        self._came = number

    def begin(self) -> None:
        """Nothing: that it is called is the check."""

    def trouble(self) -> str | None:
        """See `Leg`."""
        if self._came == self._round:
            return "a check cannot begin" if self._failed else None
        return "the sockets are not read" if self._rung else "the engine's lock is held, so nothing can run"


class BusLeg:
    """The path of a request: published, delivered by Redis, read, answered, and the answer read."""

    name = "bus"

    def __init__(self, bus: Bus, service: str) -> None:
        self._bus = bus
        self._service = service
        self.token = new_id()
        self.channel = f"caller:{service}-{self.token}"
        self._number = self._answered = 0
        self._sent = self._since = 0.0  # this probe, and the first since the last answer
        self._connections = -1
        self._refused = False
        self._begun = 0  # by the engine, when this probe was sent

    def answer(self, request: PubSubRequest) -> dict[str, Any] | None:
        """Answer a probe; None for that of another process that serves under this name."""
        return {} if request.reply_to == self.channel else None

    def plan_answer(self, _work: object, _channel: str, data: bytes) -> None:
        """Take the answer to a probe; if to an earlier one, the service is slow, and alive. On the reader."""
        if f'"{self.token}:'.encode() in data:
            self._answered = self._number

    def begin(self) -> None:
        """See `Leg`."""
        bus = self._bus
        self._sent = monotonic()
        if self._answered == self._number or self._refused or bus.reconnections != self._connections:
            self._since = self._sent
        self._number += 1
        self._connections = bus.reconnections
        if not bus.connected:
            return
        request_id = f"{self.token}:{self._number}"
        message = encode_request(self._service, PROBE, {}, self.channel, request_id, 0.0, 0.0, "")
        bus.sought, self._begun = message, bus.engine.begun
        self._refused = not bus.publish(self._service, message)

    def trouble(self) -> str | None:
        """See `Leg`."""
        bus = self._bus
        if not bus.connected:
            return bus.hindrance
        if self._answered == self._number or bus.reconnections != self._connections or self._refused:
            return None
        if bus.sought is None and bus.engine.works_off(self._begun):
            return None  # it has arrived, behind messages whose turn comes first
        if bus.heard < self._sent and monotonic() - self._since < SILENCE_LIMIT:
            return None  # that is Redis' silence, about which the bus itself does something
        return "a request to this service is not answered, though Redis is there"


class WorkerLeg:
    """The workers: one can be had, and not all of them hang."""

    name = "workers"

    def __init__(self, engine: Engine, stuck_after: float | None) -> None:
        self._engine = engine
        self._stuck_after = stuck_after
        self._ran = Event()
        self._why = ""

    def begin(self) -> None:
        """See `Leg`."""
        self._ran.clear()
        self._why = "a worker thread does not begin its work"
        stuck = self._engine.stuck(self._stuck_after) if self._stuck_after is not None else []
        if stuck:
            self._why = f"all are in one handler each for over {self._stuck_after:g} s: {', '.join(stuck[:3])}"
            return
        try:
            self._engine.spare(self._ran.set)
        except RuntimeError as error:
            self._why = str(error)

    def trouble(self) -> str | None:
        """See `Leg`."""
        return None if self._ran.is_set() else self._why


class HttpLeg:
    """The connections: the selector hears them, and those that wait are accepted."""

    name = "http"

    def __init__(self, network: Network) -> None:
        self._network = network
        self._echo = network.echo()
        self._taken: list[tuple[Listener, int]] = []
        self._begun = 0  # by the engine, when it was asked

    def begin(self) -> None:
        """See `Leg`."""
        self._taken = [(listener, listener.taken) for listener in self._network.listeners]
        self._begun = self._network.engine.begun
        self._echo.ask()

    def trouble(self) -> str | None:
        """See `Leg`."""
        waits_its_turn = self._echo.heard and self._network.engine.works_off(self._begun)
        if not self._echo.answered() and not waits_its_turn:
            return "what arrives on a connection is not handled"
        for listener, taken in self._taken:
            if self._network.serves and listener.is_neglected(taken):
                return f"connections wait at {listener} and are not accepted"
        return None


class SchedulerLeg:
    """The main thread: it comes by in time, and starts tasks when they are due."""

    name = "scheduler"

    def __init__(self, scheduler: Scheduler, wake: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._wake = wake
        self._seen = 0

    def begin(self) -> None:
        """See `Leg`."""
        self._seen = self._scheduler.rounds
        self._wake()

    def trouble(self) -> str | None:
        """See `Leg`."""
        if self._scheduler.rounds == self._seen:
            return "the main thread does not come by, so tasks do not start"
        late = self._scheduler.overdue(monotonic(), OVERDUE)
        return f"task {late!r} is overdue" if late is not None else None


class ThreadLeg:
    """The threads of the service that have a limit (`stuck_after`): each has asked `running` in time."""

    name = "threads"

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    def begin(self) -> None:
        """Nothing: they are looked at."""

    def trouble(self) -> str | None:
        """See `Leg`."""
        stuck = self._threads.stuck(monotonic())
        return f"{', '.join(map(repr, stuck))} did not ask running() in time" if stuck else None


class LoopLeg:
    """The event loop of `async def` handlers, once there is one."""

    name = "event loop"

    def __init__(self, stuck_after: float | None) -> None:
        self._stuck_after = stuck_after
        self._asked = 0.0  # 0: has answered

    def begin(self) -> None:
        """See `Leg`."""
        module: Any = sys.modules.get("daebus.loop")
        loop = module.existing() if module is not None else None
        if loop is not None and not self._asked:
            self._asked = monotonic()
            loop.call(self._answered)

    def _answered(self) -> None:
        self._asked = 0.0

    def trouble(self) -> str | None:
        """See `Leg`."""
        asked = self._asked
        if not asked or self._stuck_after is None or monotonic() - asked < self._stuck_after:
            return None
        return f"a coroutine holds it up for over {self._stuck_after:g} s"
