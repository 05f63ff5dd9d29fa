"""The examples of the first README run as they stand, under both spellings of the package's name.

They lie in tests/fixtures/seed_examples, word for word; some got an import that they use and forgot. Those
that only declare something are run by a two-line driver. Port 8080, where an example has it, is made a free one.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import (
    ANSWER_SECONDS,
    Launcher,
    Peer,
    Script,
    Watch,
    fetch,
    free_port,
    post_json,
    until_listening,
    until_ready,
    until_subscribed,
)
from tests.support import wait_for

EXAMPLES = Path(__file__).parent.parent / "fixtures" / "seed_examples"

spellings = pytest.mark.parametrize("package", ["Daebus", "daebus"])

DRIVER = """
import runpy
runpy.run_path("example.py", run_name="example")["app"].run(service="driven")
"""


def text_of(name: str, package: str) -> str:
    text = (EXAMPLES / f"{name}.py.txt").read_text()
    changed, imports = re.subn(r"^from [Dd]aebus import", f"from {package} import", text, flags=re.MULTILINE)
    assert imports == 1
    return changed


def run_example(launch: Launcher, server: PrivateServer, name: str, package: str) -> Script:
    return launch.script(text_of(name, package), env={"DAEBUS_REDIS_URL": server.url})


def drive_example(launch: Launcher, server: PrivateServer, name: str, package: str) -> Script:
    """Run what an example declares as the service `driven`."""
    example = launch.folder / "example.py"
    example.write_text(text_of(name, package))
    driver = DRIVER.replace("example.py", str(example))
    script = launch.script(driver, env={"DAEBUS_REDIS_URL": server.url})
    until_subscribed(server, "driven", script)
    return script


def stops(script: Script) -> None:
    script.send_signal(signal.SIGTERM)
    assert script.wait() == 0, script.log


@spellings
def test_quick_start(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = run_example(launch, own_bus, "quick_start_service", package)
    until_subscribed(own_bus, "my_service", service)
    until_subscribed(own_bus, "notifications", service)
    caller = run_example(launch, own_bus, "quick_start_caller", package)
    assert caller.wait() == 0, caller.log
    assert caller.output.splitlines() == [
        "Service status: {'status': 'healthy', 'uptime': 3600}",
        "Restart result: {'restarted': True}",
    ]
    wait_for(lambda: "Received notification" in service.log, ANSWER_SECONDS)
    assert "Received status request: {'detail_level': 'full'}" in service.log
    assert "Handling restart request" in service.log
    assert "System temperature high" in service.log
    assert "Traceback" not in service.log
    stops(service)


@spellings
def test_basic_usage(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = run_example(launch, own_bus, "basic_usage", package)
    until_subscribed(own_bus, "hello-service", service)
    with Peer(own_bus) as peer:
        assert peer.ask("hello-service", "hello_world")["payload"] == {"message": "Hello, World!"}
        assert peer.ask("hello-service", "hello_world", {"name": "Bob"})["payload"] == {"message": "Hello, Bob!"}
    assert "Received request from Bob" in service.log
    stops(service)


@spellings
def test_logging(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    """Its task runs every 60 s, so only that the service is there and stops is seen here."""
    service = run_example(launch, own_bus, "logging", package)
    until_subscribed(own_bus, "background-service", service)
    assert "Error in periodic task" not in service.log
    stops(service)


@spellings
def test_cross_service_communication(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    with Watch(own_bus, "service_started") as watch:
        service = run_example(launch, own_bus, "cross_service", package)
        until_subscribed(own_bus, "my-service", service)
        message = watch.next()
        assert message is not None
        assert json.loads(message[1])["service_name"] == "my-service"
    wait_for(lambda: "Notification sent, response: 1" in service.log, ANSWER_SECONDS, lambda: service.log)
    assert "Notifying other services that we've started" in service.log
    stops(service)


@spellings
def test_thread(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    """The example's loop never sleeps: the service answers beside it, and stops."""
    service = drive_example(launch, own_bus, "thread", package)
    with Peer(own_bus) as peer:
        assert peer.ask("driven", "anything")["status"] == "error"
    stops(service)
    assert "Error in background processor" not in service.log


@spellings
def test_shared_state(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = drive_example(launch, own_bus, "shared_state", package)
    with Peer(own_bus) as peer:
        ids = {peer.post("driven", "increment") for _ in range(200)}
        counts = []
        for reply in peer.replies(1.0):
            assert reply["request_id"] in ids
            counts.append(reply["payload"]["count"])
    assert sorted(counts) == list(range(1, 201))
    stops(service)


@spellings
def test_thread_pool_size(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    stops(drive_example(launch, own_bus, "thread_pool_size", package))


# --- HTTP ---


def site_example(launch: Launcher, server: PrivateServer, name: str, package: str, runs: bool) -> Script:
    """An example with an HTTP endpoint, once it is ready; `runs`: it calls `app.run` itself."""
    port = free_port()
    text, places = re.subn(r"\bport=8080\b", f"port={port}", text_of(name, package))
    assert places
    example = launch.folder / "example.py"
    example.write_text(text)
    script = launch.script(
        text if runs else DRIVER.replace("example.py", str(example)), env={"DAEBUS_REDIS_URL": server.url}
    )
    script.port = port
    until_listening(script)
    until_ready(script)
    return script


@spellings
def test_http_endpoints(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = site_example(launch, own_bus, "http_endpoints", package, runs=True)
    status = fetch(service.port, "GET", "/status")
    assert status.status == 200
    found = status.json()
    assert (found["service"], found["status"], type(found["timestamp"])) == ("my_service", "running", float)
    known = fetch(service.port, "GET", "/devices/123")
    assert (known.status, known.json()) == (200, {"device_id": "123", "status": "online"})
    unknown = fetch(service.port, "GET", "/devices/124")
    assert (unknown.status, unknown.json()) == (404, {"error": "Device not found"})
    made = post_json(service.port, "/control", {"command": "on"})
    assert (made.status, made.json()) == (201, {"success": True, "message": "Command received"})
    stops(service)


@spellings
def test_cors(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = site_example(launch, own_bus, "cors", package, runs=False)
    origin = {"Origin": "http://localhost:3000"}
    answer = fetch(service.port, "GET", "/api/data", origin)
    assert (answer.status, answer.json()) == (200, {"data": "example"})
    assert answer.header("access-control-allow-origin") == "http://localhost:3000"
    assert answer.header("access-control-allow-credentials") == "true"
    assert answer.words("access-control-expose-headers") == {"x-custom-header"}
    assert "origin" in answer.words("vary")
    preflight = fetch(
        service.port,
        "OPTIONS",
        "/api/data",
        {**origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Content-Type"},
    )
    assert preflight.status in (200, 204)
    assert "get" in preflight.words("access-control-allow-methods")
    assert "content-type" in preflight.words("access-control-allow-headers")
    assert preflight.header("access-control-max-age") == "3600"
    stranger = fetch(service.port, "GET", "/api/data", {"Origin": "http://evil.example"})
    assert not [name for name, _ in stranger.headers if name.startswith("access-control-")]
    stops(service)


@spellings
def test_protocol_specific_responses(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = site_example(launch, own_bus, "protocol_specific", package, runs=False)
    healthy = {"service": "my_service", "status": "healthy", "uptime": 3600}
    answer = fetch(service.port, "GET", "/status")
    assert (answer.status, answer.json()) == (200, healthy)
    with Peer(own_bus) as peer:
        reply = peer.ask("driven", "get_status")
        assert (reply["status"], reply["payload"]) == ("success", healthy)
    stops(service)


@spellings
def test_protocol_classes(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = site_example(launch, own_bus, "protocol_classes", package, runs=False)
    answer = fetch(service.port, "GET", "/advanced")
    assert (answer.status, answer.json()) == (200, {"message": "Custom HTTP response", "path": "/advanced"})
    stops(service)


@spellings
def test_http_usage(launch: Launcher, own_bus: PrivateServer, package: str) -> None:
    service = site_example(launch, own_bus, "http_usage", package, runs=True)
    assert fetch(service.port, "GET", "/hello").json() == {"message": "Hello, World!"}
    assert fetch(service.port, "GET", "/hello?name=Bob").json() == {"message": "Hello, Bob!"}
    wait_for(lambda: "HTTP request from Bob" in service.log, ANSWER_SECONDS)
    stops(service)
