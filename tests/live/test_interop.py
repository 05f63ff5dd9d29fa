"""The older package and ours understand each other: every pair of caller and service speaks alike.

The golden messages in tests/fixtures/golden were captured from upstream 0.0.31. The pair
upstream-upstream runs too, and keeps them honest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import Launcher, Peer, Script, Side, Watch, until_subscribed
from tests.support import wait_for

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
CALLER_CHANNEL = r"caller:[A-Za-z0-9_.:@-]+"

SERVICE = """
@app.action("status")
def status():
    return response.success({"got": request.payload})

@app.action("fail")
def fail():
    return response.error(ValueError("no such disk"))

@app.action("sleepy")
def sleepy():
    time.sleep(0.5)
    return response.success({"got": request.payload})

@app.action("steps")
def steps():
    response.progress({"step": 1}, progress_percentage=25)
    response.send({"part": 2}, final=False)
    return response.success({"got": request.payload})

@app.action("log_info")
def log_info():
    note(f"log_info {request.raw['info']}")

@app.listen(os.environ["SERVICE"] + ".news")
def news(payload):
    note(f"news {json.dumps(payload, sort_keys=True)}")
"""

CALLER = """
import json, os, sys
from daebus import DaebusCaller

service = os.environ["TARGET"]
caller = DaebusCaller(service, **json.loads(os.environ["REDIS"]))
full = {"detail": "full", "n": 1}
result = {"progress": []}
result["status"] = caller.send_request("status", full)
try:
    caller.send_request("fail", full)
except Exception as error:
    result["fail"] = str(error)
result["steps"] = caller.send_request("steps", full, on_progress=result["progress"].append)
result["receivers"] = caller.send_message(service + ".news", {"type": "alert", "level": 3})
caller.send_to_service({"timestamp": 1625176230, "info": "direct"}, action="log_info")
caller.send_to_service({"timestamp": 1625176230, "info": "nothing to run"})
try:
    caller.send_request("sleepy", full, timeout=0.1)
except TimeoutError:
    result["timeout"] = True
caller.close()
print(json.dumps(result), flush=True)
os._exit(0)
"""

ASYNC_CALLER = """
import asyncio, json, os
from daebus import AsyncCaller

async def main():
    service = os.environ["TARGET"]
    full = {"detail": "full", "n": 1}
    result = {"progress": []}
    async with AsyncCaller(service, **json.loads(os.environ["REDIS"])) as caller:
        result["status"] = await caller.send_request("status", full)
        try:
            await caller.send_request("fail", full)
        except Exception as error:
            result["fail"] = str(error)
        result["steps"] = await caller.send_request("steps", full, on_progress=result["progress"].append)
        result["receivers"] = await caller.send_message(service + ".news", {"type": "alert", "level": 3})
        await caller.send_to_service({"timestamp": 1625176230, "info": "direct"}, action="log_info")
        await caller.send_to_service({"timestamp": 1625176230, "info": "nothing to run"})
        try:
            await caller.send_request("sleepy", full, timeout=0.1)
        except TimeoutError:
            result["timeout"] = True
    print(json.dumps(result))

asyncio.run(main())
"""

GOT_FULL = {"got": {"detail": "full", "n": 1}}
EXPECTED = {
    "status": GOT_FULL,
    "fail": "no such disk",
    "steps": GOT_FULL,
    "progress": [{"step": 1, "progress_percentage": 25}, {"part": 2}],
    "receivers": 2,  # the service, and the test that watches
    "timeout": True,
}


class Conversation:
    """What was said on a server, and a comparison with the golden messages."""

    def __init__(self, said: list[tuple[str, bytes]], service: str) -> None:
        self._said = [(channel, json.loads(data)) for channel, data in said]
        self._service = service

    def find(self, name: str, **changed: Any) -> dict[str, Any]:
        """The message that has the golden one's shape; required keys are equal, others may be added."""
        golden = json.loads((GOLDEN / f"{name}.json").read_text())
        wanted = {**golden["message"], **changed}
        for channel, message in self._said:
            if self._fits(golden["channel"], channel) and self._matches(wanted, message):
                return dict(message)
        raise AssertionError(f"no {name} {wanted} in {self._said}")

    def _matches(self, wanted: dict[str, Any], message: dict[str, Any]) -> bool:
        return all(key in message and self._fits(value, message[key]) for key, value in wanted.items())

    def _fits(self, wanted: object, value: object) -> bool:
        if not isinstance(wanted, str) or not isinstance(value, str):
            return wanted == value and type(wanted) is type(value)
        pattern = re.escape(wanted)
        for placeholder, meaning in (
            ("{service}", re.escape(self._service)),
            ("{caller}", CALLER_CHANNEL),
            ("{id}", "[0-9A-Za-z:-]+"),
        ):
            pattern = pattern.replace(re.escape(placeholder), meaning)
        return re.fullmatch(pattern, value) is not None

    def check_all(self) -> None:
        """Every golden message was said, and each answer carries its request's id and goes to its channel."""
        request = self.find("request")
        self.find("success", request_id=request["request_id"])
        failing = self.find("request", action="fail")
        self.find("error", request_id=failing["request_id"])
        stepping = self.find("request", action="steps")["request_id"]
        self.find("progress", request_id=stepping)
        self.find("partial", request_id=stepping)
        self.find("success", request_id=stepping)
        for name in ("send_message", "send_to_service", "send_to_service_without_action"):
            self.find(name)
        direct = self.find("send_to_service")
        assert "reply_to" not in direct
        assert "request_id" not in direct
        answered = {channel for channel, message in self._said if "status" in message}
        assert request["reply_to"] in answered
        assert answered <= {request["reply_to"], f"{self._service}.responses"}, "the default reply channel"


@pytest.fixture
def heard(own_bus: PrivateServer) -> Iterator[Watch]:
    with Watch(own_bus, patterns=("*",)) as watch:
        yield watch


def converse(
    launch: Launcher, server: PrivateServer, heard: Watch, service_side: Side, caller_side: Side, text: str
) -> tuple[Script, Any]:
    service = launch.service(SERVICE, side=service_side, server=server)
    until_subscribed(server, f"{service.service}.news", service)
    heard.drain(0.1)
    result = launch.run(text, side=caller_side, server=server, env={"TARGET": service.service})
    wait_for(lambda: len(service.notes) >= 2)
    Conversation(heard.drain(), service.service).check_all()
    return service, result


@pytest.mark.parametrize("service_name", ["own_side", "debian_side", "upstream_side"])
@pytest.mark.parametrize("caller_name", ["own_side", "debian_side", "upstream_side"])
def test_every_pair_of_caller_and_service_has_the_same_conversation(
    launch: Launcher,
    own_bus: PrivateServer,
    heard: Watch,
    request: pytest.FixtureRequest,
    service_name: str,
    caller_name: str,
) -> None:
    service_side, caller_side = request.getfixturevalue(service_name), request.getfixturevalue(caller_name)
    service, result = converse(launch, own_bus, heard, service_side, caller_side, CALLER)
    assert result == EXPECTED
    assert sorted(service.notes) == ["log_info direct", 'news {"level": 3, "type": "alert"}']
    assert service.alive


@pytest.mark.parametrize("service_name", ["own_side", "upstream_side"])
def test_the_asyncio_caller_has_that_conversation_too(
    launch: Launcher,
    own_bus: PrivateServer,
    heard: Watch,
    own_side: Side,
    request: pytest.FixtureRequest,
    service_name: str,
) -> None:
    service_side = request.getfixturevalue(service_name)
    service, result = converse(launch, own_bus, heard, service_side, own_side, ASYNC_CALLER)
    assert result == EXPECTED
    assert sorted(service.notes) == ["log_info direct", 'news {"level": 3, "type": "alert"}']


def test_answers_of_versions_before_0_0_19_are_understood(launch: Launcher, bus: PrivateServer) -> None:
    """They said status "progress" for progress, and no "final" in the answer."""
    with Watch(bus, "antique") as service, Peer(bus) as voice:
        caller = launch.script(
            """
            import json, os
            from daebus import DaebusCaller
            seen = []
            with DaebusCaller("antique", **json.loads(os.environ["REDIS"])) as caller:
                answer = caller.send_request("work", {}, on_progress=seen.append)
            print(json.dumps([seen, answer]))
            """,
            server=bus,
        )
        message = service.next()
        assert message is not None
        request = json.loads(message[1])
        known = {"request_id": request["request_id"]}
        voice.publish(request["reply_to"], {**known, "status": "progress", "payload": {"percent": 50}, "final": False})
        voice.publish(request["reply_to"], {**known, "status": "success", "payload": {"done": True}})
        assert caller.result() == [[{"percent": 50}], {"done": True}]


def test_a_payload_given_as_json_text_is_decoded(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    """As upstream's service does, for callers that encode the payload by themselves."""
    service = launch.service(SERVICE, server=bus)
    reply = peer.ask(service.service, "status", '{"detail": "full", "n": 1}')
    assert reply["payload"] == GOT_FULL


@pytest.mark.parametrize("percentage", [-5, 0, 25.5, 100, 250])
def test_a_progress_percentage_is_kept_between_0_and_100(
    launch: Launcher, bus: PrivateServer, peer: Peer, percentage: float
) -> None:
    service = launch.service(
        """
        @app.action("work")
        def work():
            response.progress("half", request.payload["percentage"])
            return response.success({})
        """,
        server=bus,
    )
    peer.post(service.service, "work", {"percentage": percentage})
    progress = peer.next()
    assert progress is not None
    assert progress["payload"] == {"data": "half", "progress_percentage": min(max(0, percentage), 100)}


def test_a_broadcast_is_the_bare_payload(launch: Launcher, own_bus: PrivateServer, heard: Watch) -> None:
    """Not part of the conversation: upstream's broadcasts go to localhost:6379 whatever it is told."""
    service = launch.service(
        """
        @app.action("shout")
        def shout():
            channel = os.environ["SERVICE"] + ".changes"
            return response.success({"n": broadcast.send(channel, {"changed": ["a", "b"]})})
        """,
        server=own_bus,
    )
    with Peer(own_bus) as peer:
        assert peer.ask(service.service, "shout")["payload"] == {"n": 1}
    golden = json.loads((GOLDEN / "broadcast.json").read_text())
    assert (golden["channel"].replace("{service}", service.service), golden["message"]) in [
        (channel, json.loads(data)) for channel, data in heard.drain()
    ]


CACHE = """
@app.action("remember")
def remember():
    cache.set(os.environ["SERVICE"] + ":kept", request.payload["text"])
    return {"kept": cache.get(os.environ["SERVICE"] + ":kept"), "receivers": broadcast.send("nobody.listens", {})}
"""


@pytest.mark.parametrize("name", ["own_side", "debian_side"])
def test_cache_is_a_redis_client_of_either_age(
    launch: Launcher, own_bus: PrivateServer, request: pytest.FixtureRequest, name: str
) -> None:
    """redis-py is what Debian has, or the newest."""
    service = launch.service(CACHE, side=request.getfixturevalue(name), server=own_bus)
    with Peer(own_bus) as peer:
        answer = peer.ask(service.service, "remember", {"text": "grüezi"})
    assert answer["payload"] == {"kept": "grüezi", "receivers": 0}
