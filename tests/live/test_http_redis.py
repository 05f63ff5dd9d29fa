"""The HTTP endpoint while Redis is away: at the start, later, and frozen."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import ANSWER_SECONDS, HttpAnswer, Launcher, Link, Peer, Script, fetch, free_port, subscribers
from tests.support import NotifySocket, wait_for

SITE = """
from daebus.errors import RedisUnavailable
other = DaebusCaller("other", **REDIS)

@app.route("/plain")
def plain(req):
    return {"plain": True}

@app.route("/cache")
def use_cache(req):
    cache.set("daebus-test", "1")
    return {"value": cache.get("daebus-test")}

@app.route("/broadcast")
def use_broadcast(req):
    return {"receivers": broadcast.send("news", {"n": 1})}

@app.route("/call")
def use_caller(req):
    return other.send_request("anything", {}, timeout=2)

@app.route("/careful")
def careful(req):
    try:
        return {"value": cache.get("daebus-test")}
    except (RedisUnavailable, ConnectionError) as error:
        return {"without": "redis"}, 200
    except Exception as error:
        return {"kind": [cls.__name__ for cls in type(error).__mro__]}, 200

@app.action("echo")
def echo():
    return {"got": request.payload}
"""

NEEDING = ["/cache", "/broadcast", "/call"]


@pytest.fixture
def away() -> Iterator[PrivateServer]:
    """A server that has an address and does not run."""
    with PrivateServer(port=-1) as server:
        server.kill()
        yield server


def answers_503(site: Script, target: str) -> HttpAnswer:
    answer = fetch(site.port, "GET", target)
    assert answer.status == 503, (target, answer, site.log[-2000:])
    assert answer.header("retry-after")
    assert isinstance(answer.json()["error"], str)
    assert "Traceback" not in answer.text
    assert "6379" not in answer.text, "nothing of the inside"
    return answer


def works(site: Script, server: PrivateServer) -> None:
    wait_for(lambda: fetch(site.port, "GET", "/cache").status == 200, ANSWER_SECONDS)
    assert fetch(site.port, "GET", "/cache").json() == {"value": "1"}
    assert fetch(site.port, "GET", "/broadcast").json() == {"receivers": 0}
    with Link(server) as link:
        wait_for(lambda: subscribers(link, site.service) == 1, ANSWER_SECONDS)
    with Peer(server) as peer:
        assert peer.ask(site.service, "echo", {"n": 1})["payload"] == {"got": {"n": 1}}


def test_routes_are_served_from_the_start_and_ready_is_said_when_redis_comes(
    launch: Launcher, away: PrivateServer, notify_socket: NotifySocket
) -> None:
    site = launch.site(SITE, env={"NOTIFY_SOCKET": notify_socket.path}, redis=at(away))
    for _ in range(3):
        assert fetch(site.port, "GET", "/plain").json() == {"plain": True}
    for target in NEEDING:
        answers_503(site, target)
    assert fetch(site.port, "GET", "/careful").status == 200
    assert "READY=1" not in notify_socket.lines()
    away.restart()
    notify_socket.wait("READY=1", 15.0)
    works(site, away)


def at(server: PrivateServer) -> dict[str, object]:
    return {"redis_host": "127.0.0.1", "redis_port": server.port}


def test_a_service_that_needs_redis_to_start_says_so_until_it_has_started(
    launch: Launcher, away: PrivateServer
) -> None:
    site = launch.site(
        """
        @app.on_start()
        def begin():
            cache.set("begun", "yes")
        """.replace("\n        ", "\n")
        + SITE,
        redis=at(away),
    )
    for target in ("/plain", "/cache", "/nowhere"):
        answers_503(site, target)
    away.restart()
    wait_for(lambda: fetch(site.port, "GET", "/plain").status == 200, 15.0)
    works(site, away)


def test_a_service_that_never_had_redis_stops_cleanly(launch: Launcher) -> None:
    site = launch.site(SITE, redis={"redis_host": "127.0.0.1", "redis_port": free_port()})
    assert fetch(site.port, "GET", "/plain").status == 200
    site.send_signal(signal.SIGTERM)
    assert site.wait() == 0, site.log
    assert "Traceback" not in site.log


def test_routes_are_served_while_redis_is_away_and_all_works_when_it_is_back(
    launch: Launcher, own_bus: PrivateServer
) -> None:
    site = launch.site(SITE, server=own_bus)
    works(site, own_bus)
    own_bus.kill()
    assert fetch(site.port, "GET", "/plain").json() == {"plain": True}
    for target in NEEDING:
        answers_503(site, target)
    assert fetch(site.port, "GET", "/careful").status == 200
    assert fetch(site.port, "GET", "/plain").json() == {"plain": True}
    own_bus.restart()
    works(site, own_bus)


def test_a_frozen_redis_holds_up_only_those_who_ask_it(launch: Launcher, own_bus: PrivateServer) -> None:
    site = launch.site(SITE, server=own_bus)
    works(site, own_bus)
    own_bus.freeze()
    try:
        for target in NEEDING:
            answer = fetch(site.port, "GET", target, timeout=2 * ANSWER_SECONDS)
            assert answer.status in (503, 504), target
            assert fetch(site.port, "GET", "/plain").json() == {"plain": True}
    finally:
        own_bus.thaw()
    works(site, own_bus)


def test_an_absent_service_is_503(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus)
    answers_503(site, "/call")
