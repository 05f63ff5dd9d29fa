"""Workflows: conversations over several messages, in the format of the older package's 0.0.19."""

from __future__ import annotations

import json
from threading import Event
from typing import Any

import pytest

from daebus import DaebusError, DaebusWorkflow, RequestTimeout, ServiceUnavailable, UnknownAction
from daebus.redisserver import PrivateServer
from tests.outside import Launcher, Link, Script, Watch
from tests.support import MS, wait_for

SERVICE = """
networks = {}

@app.workflow("connect_wifi")
def connect_wifi():
    if "password" in request.payload:
        response.send({"status": "connected", "to": networks.pop(request.workflow_id)}, final=True)
        return
    networks[request.workflow_id] = request.payload["ssid"]
    response.send({"status": "connecting"})
    response.send({"status": "need_password"})

@app.workflow("count")
def count():
    for number in range(request.payload["to"]):
        yield {"number": number}
    return {"done": True}

@app.workflow("broken")
async def broken():
    raise RuntimeError("a secret")

@app.workflow("silent")
def silent():
    pass

@app.action("echo")
def echo():
    return request.payload
"""
SOON = 8000 * MS


@pytest.fixture
def script(launch: Launcher, bus: PrivateServer) -> Script:
    return launch.service(SERVICE, server=bus)


class Heard:
    """The callback: what a workflow said."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.something = Event()

    def __call__(self, payload: Any) -> None:
        self.parts.append(payload)
        self.something.set()


def test_a_workflow_asks_and_is_answered(script: Script, bus: PrivateServer) -> None:
    heard = Heard()
    with DaebusWorkflow(script.service, redis_url=bus.url) as workflow:
        workflow.start("connect_wifi", {"ssid": "home"}, heard)
        wait_for(lambda: len(heard.parts) == 2, SOON)
        workflow.send({"password": "hush"})
        assert workflow.wait(SOON)
    assert heard.parts == [
        {"status": "connecting"},
        {"status": "need_password"},
        {"status": "connected", "to": "home"},
    ]


def test_what_a_handler_yields_are_parts_and_what_it_returns_ends_it(script: Script, bus: PrivateServer) -> None:
    heard = Heard()
    with DaebusWorkflow(script.service, redis_url=bus.url) as workflow:
        workflow.start("count", {"to": 2}, heard)
        assert workflow.wait(SOON)
    assert heard.parts == [{"number": 0}, {"number": 1}, {"done": True}]


def test_the_messages_are_the_golden_ones(script: Script, bus: PrivateServer) -> None:
    """As the older package's caller sends them, and as it reads them."""
    with Watch(bus, "workflow:4a") as watch, Link(bus) as link:
        start = {"workflow": "connect_wifi", "payload": {"ssid": "x"}, "workflow_id": "U", "reply_to": "workflow:4a"}
        link.call("PUBLISH", f"{script.service}.workflows", json.dumps({**start, "service": script.service}))
        said = [watch.next() for _ in range(2)]
        link.call(
            "PUBLISH", f"{script.service}.workflows", json.dumps({"payload": {"password": 1}, "workflow_id": "U"})
        )
        said.append(watch.next())
    assert [json.loads(part[1]) for part in said if part] == [
        {"payload": {"status": "connecting"}, "workflow_id": "U", "final": False},
        {"payload": {"status": "need_password"}, "workflow_id": "U", "final": False},
        {"payload": {"status": "connected", "to": "x"}, "workflow_id": "U", "final": True},
    ]


def test_a_failure_ends_the_workflow_without_its_text(script: Script, bus: PrivateServer) -> None:
    with DaebusWorkflow(script.service, redis_url=bus.url) as workflow:
        workflow.start("broken", {}, Heard())
        with pytest.raises(DaebusError, match="error id") as caught:
            workflow.wait(SOON)
    assert "a secret" not in str(caught.value)
    wait_for(lambda: "RuntimeError: a secret" in script.log, SOON)


def test_an_unknown_workflow_is_told_at_once(script: Script, bus: PrivateServer) -> None:
    with DaebusWorkflow(script.service, redis_url=bus.url) as workflow:
        workflow.start("connect_wfi", {}, Heard())
        with pytest.raises(UnknownAction, match="has no workflow 'connect_wfi'"):
            workflow.wait(SOON)


def test_an_absent_service_is_told_at_once(bus: PrivateServer) -> None:
    with DaebusWorkflow("nobody-here", redis_url=bus.url) as workflow, pytest.raises(ServiceUnavailable):
        workflow.start("connect_wifi", {}, Heard())


def test_a_workflow_that_never_ends_times_out(script: Script, bus: PrivateServer) -> None:
    with DaebusWorkflow(script.service, redis_url=bus.url) as workflow:
        workflow.start("silent", {}, Heard(), timeout=0.3)
        with pytest.raises(RequestTimeout):
            workflow.wait(SOON)


@pytest.mark.parametrize(
    "message",
    [
        b"no json",
        b"[1]",
        b'{"workflow":"count","workflow_id":"U","reply_to":"other_service","payload":{"to":1}}',
        b'{"workflow":7,"workflow_id":"U","reply_to":"workflow:x"}',
        b'{"workflow_id":"never-began","payload":{}}',
        b'{"workflow":"count","workflow_id":{},"reply_to":"workflow:x"}',
    ],
)
def test_broken_messages_are_ignored(script: Script, bus: PrivateServer, message: bytes) -> None:
    """The older package's service stops hearing anything after a single workflow message."""
    with Watch(bus, "other_service", "workflow:x") as watch, Link(bus) as link:
        link.call("PUBLISH", f"{script.service}.workflows", message)
        heard = Heard()
        with DaebusWorkflow(script.service, redis_url=bus.url) as workflow:
            workflow.start("count", {"to": 0}, heard)
            assert workflow.wait(SOON)
        assert watch.drain(0.1) == []
    assert heard.parts == [{"done": True}]
    assert "was ignored" in script.log
