"""The watchdog under a real systemd: each leg of a service is broken in turn, and what must not be taken for a fault.

All services of a release are broken at the same moment and watched together, because each needs a watchdog's period
to be found out. Beside each stands its control: the same service with the same fault, and a timer in place of the
watchdog.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis import Redis

from daebus import DaebusCaller, DaebusError
from daebus.message import encode_request
from tests.support import MS, wait_for
from tests.system.container import REDIS_CONFIGURATION, REDIS_SOCKET, Container

PERIOD = 3  # seconds: WatchdogSec=
LEAST_PERIODS, MOST_PERIODS = 3, 6  # for which a fault lasts
FIRST_PORT = 8100
ANSWER_SECONDS = 1000 * MS
FLOOD, FLOOD_SECONDS = 20_000, 5000 * MS  # requests, and how long none may be answered
TOIL_SECONDS = 0.00025  # of each
RETURN_SECONDS = 5000 * MS  # the promise, counted from the return of Redis

PROGRAM = f"""
import ctypes, os, socket, sys, threading, time
from daebus import Daebus, DaebusCaller, DaebusHttp, get_daemon, request, watchdog
from daebus.net import Connection, Network
from daebus.resp import command

kind, fault, port = sys.argv[1].split(".")
NAME = f"{{kind}}-{{fault}}"
app = Daebus(NAME, max_workers=2, stuck_after=10.0 if kind == "calm" else 1.0)
app.attach(DaebusHttp(port=int(port)))
counts = {{"task": 0, "thread": 0, "burnt": 0}}
silent = threading.Event()

# --- what it does ---

@app.action("echo")
def echo():
    return request.payload

@app.action("toil", inline=True)
def toil():
    end = time.monotonic() + {TOIL_SECONDS}
    while time.monotonic() < end:
        pass
    return request.payload

@app.action("coroutine")
async def coroutine():
    return request.payload

@app.action("counts")
def say_counts():
    return counts

@app.route("/echo")
def echo_by_http():
    return {{"word": "hello"}}

@app.background("count", 0.5)
def count():
    counts["task"] += 1

@app.thread("pump", stuck_after=1.0)
def pump(running):
    while running():
        counts["thread"] += 1
        if silent.is_set():
            block()
        running.wait(0.3)

@app.action("burn")
def burn():
    end = time.monotonic() + request.payload["seconds"]
    while time.monotonic() < end:
        sum(range(1000))
    counts["burnt"] += 1

# --- how it breaks ---

@app.action("hang")
def hang():
    block()

@app.action("hold")
async def hold():
    block()

@app.action("break")
def break_soon():
    threading.Timer(0.2, FAULTS[fault]).start()

def block(*_):
    threading.Event().wait()

def send(action, times=1):
    with DaebusCaller(NAME) as caller:
        for _ in range(times):
            caller.send_to_service({{}}, action)

def lose_connections():
    bus = service().bus
    bus._reconnect = lambda: None
    bus._pair.subscribed.sock.shutdown(socket.SHUT_RDWR)

def forget_listener():
    engine()._epoll.unregister(endpoints().network.listeners[0].socket.fileno())
    kept.append(socket.create_connection(("127.0.0.1", int(port))))

def forget_connections():
    events = engine()._on_event
    for descriptor, on_event in events.items():
        if isinstance(getattr(on_event, "__self__", None), Connection):
            engine()._epoll.unregister(descriptor)
    Network._take = lambda _network, _listener, connected, _address: kept.append(connected)

def count_rounds(_now):
    scheduler().rounds += 1

kept = []
service = lambda: get_daemon()._running
engine = lambda: service().engine
endpoints = lambda: service()._endpoints
scheduler = lambda: service()._scheduler

FAULTS = {{
    "wedged-reader": lambda: engine().soon(block),
    "wedged-amid-checks": lambda: setattr(service()._bus_leg, "begin", lambda: engine().soon(block)),
    "held-lock": lambda: engine()._lock.acquire(),
    "dead-listener": lambda: service().bus._pair.subscribed.send(command("UNSUBSCRIBE")),
    "mute-bus": lambda: setattr(service().bus, "_send", lambda: None),
    "unmended-bus": lose_connections,
    "stuck-workers": lambda: send("hang", 4),
    "forgotten-port": forget_listener,
    "deaf-connections": forget_connections,
    "blocked-scheduler": lambda: setattr(scheduler(), "run_due", block),
    "idle-scheduler": lambda: setattr(scheduler(), "run_due", lambda _now: None),
    "forgetful-scheduler": lambda: setattr(scheduler(), "run_due", count_rounds),
    "silent-thread": silent.set,
    "held-loop": lambda: send("hold"),
    "held-interpreter": lambda: ctypes.PyDLL(None).sleep(60),
}}

# --- the control ---

class Timer:
    def __init__(self, feed, *_rest):
        self.feed = feed

    def start(self):
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            self.feed()
            time.sleep({PERIOD / 3})

    def nothing(self):
        pass

    drain = stop = nothing

if kind == "timed":
    watchdog.Watchdog = Timer
app.run(service=NAME)
"""

UNIT = f"""
[Service]
Type=notify
ExecStart=/usr/bin/python3 /opt/broken.py %i
WatchdogSec={PERIOD}
Restart=always
RestartSec=100ms
LimitCORE=0
"""


# --- what works of a service ---


@dataclass
class Service:
    """One service of the table, seen from outside."""

    container: Container
    kind: str  # "watched", "timed" (the control) or "calm"
    fault: str
    port: int
    redis_url: str
    statuses: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        return f"broken@{self.kind}.{self.fault}.{self.port}.service"

    def ask(self, action: str, payload: object = None, timeout: float = ANSWER_SECONDS) -> Any:
        with DaebusCaller(f"{self.kind}-{self.fault}", redis_url=self.redis_url, timeout=timeout) as caller:
            return caller.send_request(action, payload)

    def show(self, name: str) -> str:
        return self.container.show(self.unit, name)

    def works(self) -> bool:
        """Whether what its fault concerns works."""
        part = FAULTS[self.fault][2] if self.fault in FAULTS else "bus"
        return PARTS[part](self)


def by_bus(service: Service) -> bool:
    return answered(lambda: service.ask("echo", {"word": "hello"}) == {"word": "hello"})


def by_coroutine(service: Service) -> bool:
    return answered(lambda: service.ask("coroutine", {"word": "hello"}) == {"word": "hello"})


def by_http(service: Service) -> bool:
    with service.container.connect(service.port, timeout=ANSWER_SECONDS) as connection:
        connection.sendall(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return answered(lambda: connection.recv(4096).startswith(b"HTTP/1.1 200"))


def grows(name: str) -> Callable[[Service], bool]:
    def look(service: Service) -> bool:
        before = service.ask("counts")[name]
        try:
            return bool(wait_for(lambda: service.ask("counts")[name] > before, ANSWER_SECONDS))
        except AssertionError:
            return False

    return look


def answered(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except (DaebusError, TimeoutError):
        return False


PARTS = {
    "bus": by_bus,
    "http": by_http,
    "coroutine": by_coroutine,
    "task": grows("task"),
    "thread": grows("thread"),
}

# The leg that is named, why, and what does not work any more.
FAULTS = {
    "wedged-reader": ("reader", "the sockets are not read", "bus"),
    "wedged-amid-checks": ("reader", "the sockets are not read", "bus"),
    "held-lock": ("reader", "the engine's lock is held", "bus"),
    "dead-listener": ("bus", "a request to this service is not answered, though Redis is there", "bus"),
    "mute-bus": ("bus", "a request to this service is not answered, though Redis is there", "bus"),
    "unmended-bus": ("bus", "Redis is away and nothing tries to have it back", "bus"),
    "stuck-workers": ("workers", "all are in one handler each for over 1 s: Action 'hang'", "bus"),
    "forgotten-port": ("http", "and are not accepted", "http"),
    "deaf-connections": ("http", "what arrives on a connection is not handled", "http"),
    "blocked-scheduler": ("scheduler", "the main thread does not come by", "task"),
    "idle-scheduler": ("scheduler", "the main thread does not come by", "task"),
    "forgetful-scheduler": ("scheduler", "task 'count' is overdue", "task"),
    "silent-thread": ("threads", "'pump' did not ask running() in time", "thread"),
    "held-loop": ("event loop", "a coroutine holds it up for over 1 s", "coroutine"),
}
MISSED = [fault for fault in FAULTS if fault != "wedged-amid-checks"]  # by a timer, which makes no checks
HELD_INTERPRETER = "held-interpreter"  # nobody is left who could name a leg
OTHER_REDISES = ("away", "frozen")  # of those services that see theirs go
BURNERS, BURN_SECONDS = 3, PERIOD * 1.7  # on both workers and the reader


# --- the trials, all at the same time ---


class Trials:
    """All services of a release: those that broke, their controls, and those that were well all the time."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._ports = iter(range(FIRST_PORT, FIRST_PORT + 100))
        self.watched = self._services("watched", [*FAULTS, HELD_INTERPRETER])
        self.timed = self._services("timed", MISSED)
        self.calm = self._services("calm", ["idle", "flooded", "burning", *OTHER_REDISES])
        for name in OTHER_REDISES:
            self.calm[name].redis_url = container.redis_url.replace("redis-daebus", f"redis-{name}")
        self.broken = [*self.watched.values(), *self.timed.values()]
        self.all = [*self.broken, *self.calm.values()]
        self.pids: dict[str, str] = {}  # before the faults, by unit as all of these
        self.found: dict[str, dict[str, str]] = {}  # the units' properties in the end
        self.first_trouble = ""  # what `systemctl status` shows of the first unit that is not well
        self.works: dict[str, bool] = {}  # whether what the fault concerns works in the end

    def _services(self, kind: str, faults: Iterable[str]) -> dict[str, Service]:
        url = self.container.redis_url
        return {fault: Service(self.container, kind, fault, next(self._ports), url) for fault in faults}

    def begin(self) -> None:
        """Start all, and see them work."""
        container = self.container
        container.put("/opt/broken.py", PROGRAM)
        container.put("/etc/systemd/system/broken@.service", UNIT)
        for name in OTHER_REDISES:
            put_redis(container, name, self.calm[name].unit)
        container.systemctl("daemon-reload")
        redises = [f"redis-server@{name}" for name in OTHER_REDISES]
        container.systemctl("start", *redises, *[service.unit for service in self.all])
        self.pids = {unit: shown["MainPID"] for unit, shown in self.look().items()}
        assert all(self._which_work().values()), "each works before it is broken"

    def run(self) -> None:
        """Break what is to break, and watch."""
        for service in self.broken:
            service.ask("break")
        began = time.monotonic()
        self.container.systemctl("stop", "redis-server@away")
        self.container.systemctl("kill", "--signal=STOP", "redis-server@frozen")
        with DaebusCaller("calm-burning", redis_url=self.container.redis_url) as caller:
            for _ in range(BURNERS):
                caller.send_to_service({"seconds": BURN_SECONDS}, "burn")
        wait_for(lambda: time.monotonic() - began > self._patience(), 2 * MOST_PERIODS * PERIOD)
        self.works = self._which_work()
        self.found = self.look()

    def _patience(self) -> float:
        """How long the faults are left to themselves; what the watchdogs have not found out then, they do not."""
        found = self.look([*self.watched.values(), *(self.calm[name] for name in OTHER_REDISES)])
        restarted = [found[service.unit]["NRestarts"] == "1" for service in self.watched.values()]
        active = [found[service.unit]["ActiveState"] == "active" for service in self.watched.values()]
        return (LEAST_PERIODS if all(restarted + active) else MOST_PERIODS) * PERIOD

    def look(self, services: Sequence[Service] = ()) -> dict[str, dict[str, str]]:
        """The properties of these units, or of all; what is new of their status is kept."""
        chosen = services or self.all
        names = "Id,StatusText,ActiveState,MainPID,NRestarts"
        units = [service.unit for service in chosen]
        blocks = self.container.systemctl("show", f"--property={names}", *units).stdout.strip().split("\n\n")
        found = {}
        for block, service in zip(blocks, chosen, strict=True):
            shown = found[service.unit] = dict(line.split("=", 1) for line in block.splitlines())
            assert shown["Id"] == service.unit
            if shown["StatusText"] not in service.statuses:
                service.statuses.append(shown["StatusText"])
            if shown["StatusText"].startswith("Not well: ") and not self.first_trouble:
                self.first_trouble = self.container.status(service.unit)
        return found

    def _which_work(self) -> dict[str, bool]:
        with ThreadPoolExecutor(8) as pool:
            works = pool.map(Service.works, self.broken)
            return {service.unit: value for service, value in zip(self.broken, works, strict=True)}


def put_redis(container: Container, name: str, unit: str) -> None:
    """A Redis for one unit alone."""
    configuration = REDIS_CONFIGURATION.replace("redis-daebus", f"redis-{name}")
    container.put(f"/etc/redis/redis-{name}.conf", configuration, 0o640, "redis")
    url = f"unix:///run/redis-{name}/redis-server.sock"
    container.put(f"/etc/systemd/system/{unit}.d/redis.conf", f"[Service]\nEnvironment=DAEBUS_REDIS_URL={url}\n")


@pytest.fixture(scope="module")
def trials(container: Container) -> Iterator[Trials]:
    """What became of all services some periods after the faults."""
    trials = Trials(container)
    trials.begin()
    trials.run()
    yield trials
    container.systemctl("kill", "--signal=KILL", "broken@timed.*", check=False)


# --- what is found out ---


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_leg_is_named_and_the_service_starts_anew(trials: Trials, fault: str) -> None:
    service = trials.watched[fault]
    leg, why, _part = FAULTS[fault]
    said = [status for status in service.statuses if status.startswith(f"Not well: {leg}: ")]
    assert len(said) == 1, service.statuses
    assert why in said[0]
    (entry,) = trials.container.journal(service.unit, "PRIORITY=2", f"DAEBUS_SERVICE=watched-{fault}")
    assert entry["DAEBUS_LEG"] == leg
    assert why in entry["MESSAGE"].splitlines()[0]
    for thread in ("MainThread", "daebus:pump", "daebus-1"):
        assert f"Thread '{thread}':" in entry["MESSAGE"]
    assert_restarted_by_the_watchdog(trials, service)


def test_systemctl_status_says_what_is_broken_and_its_log_why(trials: Trials) -> None:
    assert re.search(r'^ +Status: "Not well: .*"$', trials.first_trouble, re.M), trials.first_trouble
    assert "The watchdog is not fed since" in trials.first_trouble
    assert "MainThread" in trials.first_trouble


def test_a_held_interpreter_ends_with_the_stacks_of_all_threads(trials: Trials) -> None:
    """No thread can run, so nobody names it: the signal by which systemd ends the process has the stacks written."""
    service = trials.watched[HELD_INTERPRETER]
    assert trials.container.journal(service.unit, "PRIORITY=2", f"DAEBUS_SERVICE=watched-{HELD_INTERPRETER}") == []
    said = "\n".join(str(entry["MESSAGE"]) for entry in trials.container.journal(service.unit))
    assert "Fatal Python error: Aborted" in said
    assert 'File "/opt/broken.py", line ' in said
    assert "in _watch" in said, "the main thread's"
    assert "in pump" in said
    assert_restarted_by_the_watchdog(trials, service)


def assert_restarted_by_the_watchdog(trials: Trials, service: Service) -> None:
    """Once, and it works again."""
    ends = [entry["UNIT_RESULT"] for entry in trials.container.journal(service.unit) if "UNIT_RESULT" in entry]
    assert ends == ["watchdog"]
    found = trials.found[service.unit]
    assert (found["ActiveState"], found["NRestarts"]) == ("active", "1")
    assert found["MainPID"] not in (trials.pids[service.unit], "0")
    assert trials.works[service.unit]


@pytest.mark.parametrize("fault", MISSED)
def test_a_timer_in_its_place_misses_it(trials: Trials, fault: str) -> None:
    service = trials.timed[fault]
    found = trials.found[service.unit]
    assert not trials.works[service.unit]
    assert (found["ActiveState"], found["NRestarts"]) == ("active", "0")
    assert found["MainPID"] == trials.pids[service.unit]


# --- what is no fault ---


def assert_left_alone(trials: Trials, service: Service) -> None:
    assert service.show("MainPID") == trials.pids[service.unit]
    assert service.show("NRestarts") == "0"
    assert trials.container.journal(service.unit, "PRIORITY=2") == []
    assert not [status for status in service.statuses if status.startswith("Not well")]


@pytest.mark.parametrize("name", OTHER_REDISES)
def test_redis_being_away_is_no_fault(trials: Trials, name: str) -> None:
    service = trials.calm[name]
    assert any("away, reconnecting" in status for status in service.statuses)
    if name == "frozen":
        trials.container.systemctl("kill", "--signal=CONT", f"redis-server@{name}")
    else:
        trials.container.systemctl("start", f"redis-server@{name}")
    trials.container.wait(service.unit, service.works, RETURN_SECONDS)
    assert_left_alone(trials, service)


def test_handlers_that_compute_are_no_fault(trials: Trials) -> None:
    service = trials.calm["burning"]
    assert service.ask("counts")["burnt"] == BURNERS
    assert_left_alone(trials, service)


def test_a_flood_of_requests_is_no_fault(trials: Trials) -> None:
    """They come as fast as Redis passes them on, and take longer than the watchdog's patience, which is in the queue
    with them. Each is answered, with what was asked for or that there are many."""
    service = trials.calm["flooded"]
    with Redis(unix_socket_path=str(trials.container.outside(REDIS_SOCKET))) as redis, redis.pubsub() as answers:
        answers.subscribe("caller:flood")
        assert answers.get_message(timeout=ANSWER_SECONDS)
        pipeline = redis.pipeline(transaction=False)
        for number in range(FLOOD):
            message = encode_request("calm-flooded", "toil", number, "caller:flood", str(number), 0.0, 60.0, "")
            pipeline.publish("calm-flooded", message)
        began = time.monotonic()
        assert pipeline.execute() == [1] * FLOOD
        got: dict[str, Any] = {}
        while len(got) < FLOOD:
            message = answers.get_message(timeout=FLOOD_SECONDS)
            assert message is not None, f"{len(got)} answers"
            answer = json.loads(message["data"])
            got[answer["request_id"]] = answer.get("code", answer["payload"])
    assert time.monotonic() - began > PERIOD
    assert not [said for number, said in got.items() if said not in (int(number), "busy")]
    assert_left_alone(trials, service)


def test_an_idle_service_is_no_fault(trials: Trials) -> None:
    service = trials.calm["idle"]
    began = int(service.show("ActiveEnterTimestampMonotonic")) / 1e6
    wait_for(lambda: time.monotonic() - began > 5 * PERIOD, 5 * PERIOD)
    assert service.works()
    assert_left_alone(trials, service)
