"""Callers in awkward moments: pauses, restarts while idle, busy threads, answers before the end."""

from __future__ import annotations

import threading
import time

import pytest

from daebus import DaebusCaller
from daebus.redisserver import PrivateServer
from tests.outside import Launcher, Script, let_pass
from tests.support import MS

SERVICE = """
@app.action("echo")
def echo():
    return request.payload

@app.action("nap")
def nap():
    time.sleep(request.payload)
    return "rested"

@app.action("early")
def early():
    response.success("here")
    time.sleep(3)

@app.action("steps")
def steps():
    yield 1
    time.sleep(0.2)
    return 2
"""


@pytest.fixture
def script(launch: Launcher, own_bus: PrivateServer) -> Script:
    return launch.service(SERVICE, server=own_bus)


def test_a_slow_call_after_a_quick_one_and_a_pause(script: Script, own_bus: PrivateServer) -> None:
    """What Redis confirmed long ago, and nobody read, says nothing against the connection."""
    with DaebusCaller(script.service, redis_url=own_bus.url) as caller:
        caller.send_request("echo", 1)
        let_pass(1.2)  # longer than Redis may take to confirm
        assert caller.send_request("nap", 0.1) == "rested"


@pytest.mark.parametrize("tcp", [False, True])
def test_the_first_call_after_a_restart_of_redis(launch: Launcher, own_bus: PrivateServer, tcp: bool) -> None:
    script = launch.service(SERVICE, server=own_bus)
    with DaebusCaller(script.service, redis_url=own_bus.tcp_url if tcp else own_bus.url) as caller:
        caller.send_request("echo", 1)
        own_bus.kill()
        own_bus.restart()
        assert caller.send_request("echo", 2, timeout=8, wait=True) == 2


def test_an_answer_leaves_before_its_handler_ends(script: Script, own_bus: PrivateServer) -> None:
    with DaebusCaller(script.service, redis_url=own_bus.url) as caller:
        for _ in range(3):  # the first runs on the reader, the others on workers
            began = time.monotonic()
            assert caller.send_request("early") == "here"
            assert time.monotonic() - began < 2000 * MS


def test_a_thread_in_its_progress_callback_holds_up_nobody(script: Script, own_bus: PrivateServer) -> None:
    """The one that reads for all goes away with its answer; the next must be one that waits."""
    busy, done = threading.Event(), threading.Event()
    answers: list[object] = []

    def linger(_part: object) -> None:
        busy.set()
        done.wait(10)

    with DaebusCaller(script.service, redis_url=own_bus.url, timeout=6) as caller:

        def call_with_progress() -> None:
            answers.append(caller.send_request("steps", on_progress=linger, timeout=12))

        thread = threading.Thread(target=call_with_progress)
        thread.start()
        assert busy.wait(10)
        others = [threading.Thread(target=lambda: answers.append(caller.send_request("nap", 0.2))) for _ in range(2)]
        for other in others:
            other.start()
        for other in others:
            other.join(10)
        assert answers == ["rested", "rested"]
        done.set()
        thread.join(10)
    assert answers == ["rested", "rested", 2]
