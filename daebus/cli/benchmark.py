"""`daebus bench`: how many calls a second, and how long each takes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic, perf_counter

import click

from ..client import DaebusCaller
from ..errors import DaebusError, RedisUnavailable, RequestTimeout, ServiceUnavailable
from ..redisserver import end_with_parent
from ..target import NO_FIELDS
from .arguments import json_option, payload_of, redis_option
from .measuring import NUMBERS, TITLES, Run, Tally, rows
from .output import for_reader, say, table, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..settings import RedisSettings

CALL_SECONDS = 5.0
START_SECONDS = 15.0
AFTER_AN_ERROR = 0.01
"""Seconds that a caller rests after an error, so that one that comes at once does not fill the processor."""

LATE_SECONDS = 1.0
"""How far behind its rate a caller may be; what is beyond that is not made up for."""

ECHO = """
import sys
from daebus import Daebus, request
app = Daebus("bench")
@app.action("echo")
def echo():
    return request.payload
app.run(service=sys.argv[1])
"""

INTERRUPTED, NOTHING_ANSWERED = 130, 1


@click.command(short_help="Measure calls.", epilog="Example: daebus bench lamp status --callers 4 --rate 100 --yes")
@click.argument("service", required=False)
@click.argument("action", required=False)
@click.argument("payload", nargs=-1)
@click.option(
    "--callers",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=10,
    help="How many side by side, after one alone (10).",
)
@click.option(
    "--seconds",
    metavar="S",
    type=click.FloatRange(0.1, 86400),
    default=5.0,
    help="How long one, and several, call (5).",
)
@click.option(
    "--size", metavar="BYTES", type=click.IntRange(0, 500_000), help="How long the text is that the bus carries (32)."
)
@click.option("--rate", metavar="R", type=click.FloatRange(0.01, 1e6), help="At most so many calls a second.")
@click.option("--yes", is_flag=True, help="Do not ask before the action of a service is run.")
@json_option
@redis_option
@click.pass_context
def bench(
    context: click.Context,
    service: str | None,
    action: str | None,
    payload: tuple[str, ...],
    callers: int,
    seconds: float,
    size: int | None,
    rate: float | None,
    yes: bool,
    as_json: bool,
    settings: RedisSettings,
) -> None:
    """Measure how many calls a second are answered, and how long each takes: with one caller, and with several.

    Without SERVICE and ACTION it is the bus that is measured, with a small service that sends back what it gets. An
    action of a service is run for real, over and over. PAYLOAD is as for daebus call.
    """
    load = Load(callers, seconds, rate)
    if service is None:
        fields = {"text": "x" * (32 if size is None else size)}
        with _echo_service(settings) as caller:
            context.exit(_measure(caller, "echo", fields, load, as_json))
    if action is None:
        raise click.UsageError("name an action of the service, too; or neither, to measure the bus")
    if size is not None:
        raise click.UsageError("--size is for measuring the bus; an action gets the payload that you give")
    given = payload_of(payload) if payload else NO_FIELDS
    with DaebusCaller(service, timeout=CALL_SECONDS, redis_url=settings.url) as caller:
        _ask(f"{action} of {service}", yes)
        _try(caller, action, given)
        context.exit(_measure(caller, action, given, load, as_json))


# --- who is called ---


@contextmanager
def _echo_service(settings: RedisSettings) -> Iterator[DaebusCaller]:
    """Start a service that sends back what it gets; give a caller of it."""
    name = f"daebus-bench-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", ECHO, name],
        env={**os.environ, "DAEBUS_REDIS_URL": settings.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C on our terminal is for us, who end it
        preexec_fn=end_with_parent(),  # safe: there is one thread as yet
    )
    try:
        with DaebusCaller(name, timeout=CALL_SECONDS, redis_url=settings.url) as caller:
            _until_there(caller, process)
            yield caller
    finally:
        process.kill()  # it has nothing to lose
        process.wait()


def _until_there(caller: DaebusCaller, process: subprocess.Popen[bytes]) -> None:
    caller.send_message(f"{caller.target_service}.begins", None)  # raises if Redis is not there
    deadline = monotonic() + START_SECONDS
    while monotonic() < deadline and process.poll() is None:
        try:
            caller.send_request("echo", wait=True, timeout=0.5)
            return
        except RequestTimeout:
            pass
    raise ServiceUnavailable("the service to be measured does not start; does Redis let it serve under any name?")


def _ask(what: str, yes: bool) -> None:
    """Let a person say no before an action is run over and over."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"this runs {what} for real, over and over: say --yes if that is wanted")
    click.confirm(f"This runs {what} for real, over and over. Go on?", abort=True, err=True)


def _try(caller: DaebusCaller, action: str, payload: Any) -> None:
    """Call once. What the service answers is its business; that it is there must be."""
    try:
        caller.send_request(action, payload)
    except (RedisUnavailable, ServiceUnavailable):
        raise
    except DaebusError:
        pass


# --- measuring ---


class Load:
    """How much is asked for: up to so many callers, for so many seconds each, at most so many calls a second."""

    def __init__(self, callers: int, seconds: float, rate: float | None) -> None:
        self.callers, self.seconds, self.rate = callers, seconds, rate


def _measure(caller: DaebusCaller, action: str, payload: Any, load: Load, as_json: bool) -> int:
    """Measure with one caller and with several; print what was measured, also after Ctrl-C. Return the status."""
    runs: list[Run] = []
    interrupted = False
    for count in sorted({1, load.callers}):
        people = "1 caller" if count == 1 else f"{count} callers"
        tell(f"daebus: {action} of {caller.target_service}: {people}, {load.seconds:g} s")
        race = Race(caller, action, payload, count, load.rate)
        interrupted = race.run(load.seconds)
        runs.append(race.result())
        if interrupted:
            break
    if as_json:
        say(for_reader({"service": caller.target_service, "action": action, "runs": [run.as_json() for run in runs]}))
    else:
        say("\n".join(table(TITLES, rows(runs), NUMBERS)))
    if interrupted:
        return INTERRUPTED
    return 0 if any(run.tally.calls for run in runs) else NOTHING_ANSWERED


class Race:
    """Callers on threads of their own, who call as fast as they are answered, or as they may."""

    def __init__(self, caller: DaebusCaller, action: str, payload: Any, count: int, rate: float | None) -> None:
        self._caller, self._action, self._payload = caller, action, payload
        self._count, self._pause = count, count / rate if rate else 0.0
        self._over = Event()
        self._tallies = [Tally() for _ in range(count)]
        self._seconds = 0.0

    def run(self, seconds: float) -> bool:
        """Call for so long; return whether Ctrl-C came in between. The calls that are under way are waited for."""
        threads = [
            Thread(target=self._call, args=(tally, self._pause * number / self._count), name=f"caller-{number}")
            for number, tally in enumerate(self._tallies)
        ]
        began, interrupted = monotonic(), False
        try:
            for thread in threads:
                thread.start()
            self._over.wait(seconds)
        except KeyboardInterrupt:
            interrupted = True
        self._over.set()
        self._seconds = monotonic() - began
        if interrupted:
            self._caller.close()  # nobody waits for what is not answered yet
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        return interrupted

    def result(self) -> Run:
        """Return what all of them have measured."""
        total = Tally()
        for tally in self._tallies:
            total.add(tally)
        return Run(self._count, self._seconds, total)

    def _call(self, tally: Tally, first_pause: float) -> None:
        """Call until it is over. On a thread of its own."""
        due = monotonic() + first_pause
        while not self._over.wait(max(0.0, due - monotonic())):
            due = max(due + self._pause, monotonic() - LATE_SECONDS) if self._pause else due
            began = perf_counter()
            try:
                self._caller.send_request(self._action, self._payload)
            except DaebusError as error:
                if self._over.is_set():
                    return
                tally.failed(error.code)
                self._over.wait(AFTER_AN_ERROR)
            else:
                tally.answered(perf_counter() - began)
