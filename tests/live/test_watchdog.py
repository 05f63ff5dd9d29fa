"""What systemd hears of a real service, with a socket in its place: the watchdog, the status, reloads, idle_exit."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from daebus import DaebusCaller
from daebus.redisserver import PrivateServer
from tests.support import MS, ServiceProcess, wait_for

SOON = 10_000 * MS
LIMIT = {"WATCHDOG_USEC": f"{1500 * MS * 1e6:.0f}"}  # 1.5 s: fed each half second

SERVICE = """
import time
from daebus import Daebus, DaebusHttp
app = Daebus("app", max_workers=2, stuck_after=0.2)
app.attach(DaebusHttp(port=0))
@app.action("nap")
def nap():
    time.sleep(app.request.payload)
@app.background("tick", 0.2)
def tick(): pass
@app.thread("loop", stuck_after=5)
def loop(running):
    while running():
        running.wait(0.1)
@app.on_reload
def reload():
    raise ValueError("why")
{more}
app.run(service="watched", **{options})
"""

Start = Callable[..., ServiceProcess]


@pytest.fixture
def start(redis_server: PrivateServer) -> Iterator[Start]:
    with ExitStack() as stack:

        def run(more: str = "", env: dict[str, str] | None = None, **options: object) -> ServiceProcess:
            script = SERVICE.replace("{more}", more).replace("{options}", repr(options))
            environment = {**LIMIT, **(env or {})}
            return stack.enter_context(ServiceProcess(script, redis_url=redis_server.url, env=environment))

        yield run


def fed(service: ServiceProcess) -> int:
    return service.notify.lines().count("WATCHDOG=1")


def is_fed(service: ServiceProcess) -> bool:
    """Whether it feeds the watchdog from now on, three times in a row."""
    before = fed(service)
    wait_for(lambda: fed(service) >= before + 3, SOON, service.log)
    return True


def status(service: ServiceProcess) -> str:
    return next(line for line in reversed(service.notify.lines()) if line.startswith("STATUS="))


def test_a_service_that_is_well_feeds_the_watchdog(start: Start) -> None:
    service = start().wait_ready()
    assert is_fed(service)
    assert "STATUS=Not well" not in str(service.notify.lines())
    assert status(service).startswith("STATUS=Serving: waiting for the first request")  # a probe is none
    assert service.stop() == 0
    assert "STOPPING=1" in service.notify.lines()


LOADED = """
@app.on_start
def look():
    import sys
    app.logger.info("watchdog: %s", "daebus.watchdog" in sys.modules)
"""


def test_who_has_no_watchdog_loads_none_and_leaves_the_probes_of_others_alone(start: Start) -> None:
    watched, other = start(LOADED, shared=True).wait_ready(), start(LOADED, {"WATCHDOG_USEC": "0"}, shared=True)
    other.wait_ready()
    assert is_fed(watched)
    assert "watchdog: True" in watched.log()
    assert "watchdog: False" in other.log()
    assert "$daebus.probe" not in other.log()


def test_processes_that_share_a_name_feed_theirs(start: Start) -> None:
    one, other = start(shared=True).wait_ready(), start(shared=True).wait_ready()
    assert is_fed(one)
    assert is_fed(other)
    for service in (one, other):
        assert service.stop() == 0
        assert "Not well" not in str(service.notify.lines())


def test_a_redis_that_goes_hangs_or_comes_back_is_no_fault(start: Start, redis_server: PrivateServer) -> None:
    service = start().wait_ready()
    redis_server.freeze()
    assert is_fed(service)
    redis_server.thaw()
    assert is_fed(service)
    redis_server.kill()
    assert is_fed(service)
    wait_for(lambda: "away, reconnecting" in status(service), SOON)
    redis_server.restart()
    wait_for(lambda: " connected; " in status(service), SOON)
    assert is_fed(service)
    assert "Not well" not in str(service.notify.lines())


def test_workers_that_are_stuck_are_named_and_those_that_go_on_are_well(
    start: Start, redis_server: PrivateServer
) -> None:
    service = start().wait_ready()
    with DaebusCaller("watched", redis_url=redis_server.url) as caller:
        for _ in range(2):
            caller.send_to_service(3000 * MS, "nap")
    wait_for(lambda: "STATUS=Not well" in status(service), SOON, service.log)
    assert "workers: all are in one handler each for over 0.2 s" in status(service)
    before = fed(service)
    service.wait_log("will restart the service. Broken: workers")
    assert fed(service) == before
    assert is_fed(service)
    assert status(service).startswith("STATUS=Serving")
    service.wait_log("The watchdog's checks pass again")


def test_a_reload_that_fails_is_over_all_the_same(start: Start) -> None:
    service = start().wait_ready()
    for count in (1, 2):
        service.send_signal(signal.SIGHUP)
        wait_for(lambda count=count: service.notify.lines().count("READY=1") == count + 1, SOON)  # type: ignore[misc]
        assert service.notify.lines().count("RELOADING=1") == count
    assert "failed, and the service goes on as it was: why" in service.log()
    assert is_fed(service)


HELD = """
import os, socket
held = socket.create_server(("127.0.0.1", 0))
os.dup2(held.fileno(), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
"""


def test_a_service_that_nobody_asks_leaves_though_its_watchdog_probes_it(start: Start) -> None:
    """For as long as ten rounds nothing comes but its own probes."""
    rounds = {"WATCHDOG_USEC": f"{150 * MS * 1e6:.0f}"}
    service = start(HELD, rounds, idle_exit=500 * MS).wait_ready()
    assert service.wait(SOON) == 0
    assert fed(service) > 3
    assert "leaving until something does" in service.log()


def test_without_a_socket_that_systemd_holds_a_service_stays(start: Start) -> None:
    service = start(idle_exit=0.001).wait_ready()
    assert "idle_exit has no effect" in service.log()
    assert is_fed(service)
