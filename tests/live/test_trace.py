"""One trace through a door and several services, seen from outside: in each handler, in each answer."""

from __future__ import annotations

import json
import re

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import ANSWER_SECONDS, Launcher, Peer, Script, fetch
from tests.support import wait_for

LAST = """
@app.action("trace")
def trace():
    return [request.trace]

@app.action("async")
async def asynchronous():
    return [request.trace]
"""

MIDDLE = """
from daebus import AsyncCaller

LAST = DaebusCaller(os.environ["LAST"], **REDIS)

@app.action("trace")
def trace():
    return [request.trace, *LAST.send_request("trace")]

@app.action("async")
async def asynchronous():
    async with AsyncCaller(os.environ["LAST"], **REDIS) as caller:
        return [request.trace, *await caller.send_request("async")]
"""

FIRST = """
MIDDLE = DaebusCaller(os.environ["MIDDLE"], **REDIS)

@app.route("/trace/<action>")
def trace(req, action):
    return [req.trace, *MIDDLE.send_request(action)]

@app.background("tick", 0.05)
def tick():
    note(json.dumps(MIDDLE.send_request("trace")))
"""

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def first(launch: Launcher, bus: PrivateServer) -> Script:
    """HTTP -> first -> middle -> last."""
    last = launch.service(LAST, server=bus)
    middle = launch.service(MIDDLE, server=bus, env={"LAST": last.service})
    return launch.site(FIRST, server=bus, env={"MIDDLE": middle.service})


def traces(script: Script, action: str, headers: dict[str, str] | None = None) -> list[str]:
    answer = fetch(script.port, "GET", f"/trace/{action}", headers)
    assert answer.status == 200, answer.body
    found: list[str] = json.loads(answer.body)
    return found


@pytest.mark.parametrize("action", ["trace", "async"])
def test_one_trace_goes_through_all_services(first: Script, action: str) -> None:
    assert traces(first, action, {"traceparent": PARENT}) == ["0af7651916cd43dd8448eb211c80319c"] * 3
    assert traces(first, action, {"X-Request-ID": "mine-1"}) == ["mine-1"] * 3
    one, other = traces(first, action), traces(first, action)
    assert (len(set(one)), len(set(other))) == (1, 1)
    assert one != other
    assert re.fullmatch("[0-9a-f]{32}", one[0])


def test_a_call_that_no_request_led_to_begins_a_trace_where_it_arrives(first: Script) -> None:
    wait_for(lambda: len(first.notes) > 2, ANSWER_SECONDS)
    seen = [set(json.loads(note)) for note in first.notes]
    assert all(len(each) == 1 for each in seen)
    assert len(set.union(*seen)) == len(seen)


def test_a_request_of_an_older_caller_is_a_trace_too(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    last = launch.service(LAST, server=bus)
    request_id = peer.post(last.service, "trace", {})
    assert peer.answer(request_id)["payload"] == [request_id]
