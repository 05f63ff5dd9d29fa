"""One process per name, or several that share it - also when they start at once, or Redis was away meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from daebus import DaebusCaller
from daebus.redisserver import PrivateServer
from tests.outside import Launcher, Peer, Script
from tests.support import MS, wait_for

SERVICE = """
@app.action("who")
def who():
    note("ran")
    return os.getpid()
"""
SOON = 8000 * MS


def settled(scripts: list[Script]) -> list[Script]:
    """Wait until each one is ready or has ended; return those that are ready."""
    wait_for(lambda: all("is ready" in script.log or not script.alive for script in scripts), SOON)
    return [script for script in scripts if script.alive]


@pytest.mark.parametrize("attempt", range(3))
def test_of_three_that_start_at_once_one_has_the_name(launch: Launcher, bus: PrivateServer, attempt: int) -> None:
    name = f"at-once-{attempt}"
    scripts = [launch.start(SERVICE, server=bus, service=name) for _ in range(3)]
    (winner,) = settled(scripts)
    losers = [script for script in scripts if script is not winner]
    assert [script.wait() for script in losers] == [1, 1]
    assert all("is already running as process" in script.log for script in losers)
    with DaebusCaller(name, redis_url=bus.url) as caller:
        assert caller.send_request("who") == winner.pid


@pytest.mark.parametrize("attempt", range(3))
def test_those_who_share_may_all_start_at_once(launch: Launcher, bus: PrivateServer, attempt: int) -> None:
    name = f"together-{attempt}"
    scripts = [launch.start(SERVICE, server=bus, service=name, run={"shared": True}) for _ in range(3)]
    assert settled(scripts) == scripts
    with DaebusCaller(name, redis_url=bus.url) as caller:
        assert {caller.send_request("who") for _ in range(20)} <= {script.pid for script in scripts}
    assert sum(len(script.notes) for script in scripts) == 20


def test_after_an_outage_one_name_is_served_by_one_process(launch: Launcher, own_bus: PrivateServer) -> None:
    """The second one starts while Redis is away and finds nobody; the first one comes back."""
    first = launch.service(SERVICE, server=own_bus)
    own_bus.kill()
    wait_for(lambda: " is gone " in first.log, SOON)
    second = launch.start(SERVICE, server=own_bus, service=first.service)
    wait_for(lambda: "Waiting for Redis" in second.log, SOON)
    own_bus.restart()
    wait_for(lambda: not (first.alive and second.alive), SOON, lambda: first.log + second.log)
    left = first if first.alive else second
    wait_for(lambda: " is back" in left.log or " is ready" in left.log, SOON)
    with Peer(own_bus) as peer:
        assert peer.ask(left.service, "who")["payload"] == left.pid


FAILING = """
import pathlib

@app.on_start()
def prepare():
    pathlib.Path(os.environ["NOTES"] + ".starting").touch()
    time.sleep(1)
    raise RuntimeError("no hardware")

@app.action("who")
def who():
    note("ran")
"""


def test_no_handler_runs_when_the_start_failed(launch: Launcher, bus: PrivateServer) -> None:
    """Not even for a request that came while on_start still ran: it is refused."""
    script = launch.start(FAILING, server=bus)
    wait_for(lambda: any(Path(script.folder).glob("*.starting")), SOON)
    with Peer(bus) as peer:
        answer = peer.ask(script.service, "who")
    assert (answer["status"], answer["code"]) == ("error", "stopping")
    assert script.wait() == 1
    assert not script.notes
