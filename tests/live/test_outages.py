"""Redis goes away in every way it can, and comes back: the same processes work on, and nothing runs twice."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import (
    ANSWER_SECONDS,
    Launcher,
    Link,
    NoReply,
    Peer,
    Proxy,
    Script,
    free_port,
    let_pass,
    subscribers,
    until_ready,
    until_subscribed,
)
from tests.support import MS, private_server, wait_for

BACK_SECONDS = 5000 * MS  # the promise
MEGABYTE = 1 << 20

SERVICE = """
@app.action("echo")
def echo():
    return {"got": request.payload}

@app.action("count")
def count():
    note(f"run {request.payload['n']}")
    return {"n": request.payload["n"]}

@app.listen(os.environ["SERVICE"] + ".news")
def news(payload):
    note(f"news {payload['n']}")

@app.listen(os.environ["SERVICE"] + ".glob.*")
def more_news(payload):
    note(f"more {payload['n']}")
"""

# Asks again and again, and says how each request ended.
CALLER = """
import itertools, json, os, sys, time
from daebus import DaebusCaller
notes = open(os.environ["NOTES"], "a", buffering=1)
caller = DaebusCaller(os.environ["TARGET"], timeout=2, **json.loads(os.environ["REDIS"]))
for n in itertools.count():
    if os.path.exists("stop"):
        break
    try:
        assert caller.send_request("count", {"n": n}) == {"n": n}
        notes.write(f"ok {n}\\n")
    except Exception as error:
        notes.write(f"error {type(error).__name__}\\n")
    time.sleep(0.01)
caller.close()
print("null")
"""


ASYNC_CALLER = """
import asyncio, itertools, json, os
from daebus import AsyncCaller

async def main():
    notes = open(os.environ["NOTES"], "a", buffering=1)
    async with AsyncCaller(os.environ["TARGET"], timeout=2, **json.loads(os.environ["REDIS"])) as caller:
        for n in itertools.count():
            if os.path.exists("stop"):
                break
            try:
                assert await caller.send_request("count", {"n": n}) == {"n": n}
                notes.write(f"ok {n}\\n")
            except Exception as error:
                notes.write(f"error {type(error).__name__}\\n")
            await asyncio.sleep(0.01)
    print("null")

asyncio.run(main())
"""

callers = pytest.mark.parametrize("caller", [CALLER, ASYNC_CALLER], ids=["DaebusCaller", "AsyncCaller"])


@dataclass
class World:
    """A service and a caller that were there before the outage."""

    server: PrivateServer
    service: Script
    caller: Script
    serial: int = 0

    def works(self) -> None:
        """Requests, both kinds of listeners and the caller, all within the promised time."""
        wait_for(self._answers, BACK_SECONDS, self._story)
        done = len(self._oks())
        wait_for(lambda: len(self._oks()) > done, BACK_SECONDS, self._story)
        for channel, word in ((".news", "news"), (".glob.a", "more")):
            self.serial += 1
            with Link(self.server) as link:
                wait_for(partial(self._heard, link, channel, word), BACK_SECONDS, self._story)
        assert self.service.alive
        assert self.caller.alive

    def _answers(self) -> bool:
        try:
            with Peer(self.server) as peer:
                reply = peer.ask(self.service.service, "echo", {"n": 1}, timeout=0.5)
        except (NoReply, OSError):
            return False
        return bool(reply["payload"] == {"got": {"n": 1}})

    def _heard(self, link: Link, channel: str, word: str) -> bool:
        link.call("PUBLISH", self.service.service + channel, f'{{"n": {self.serial}}}')
        return f"{word} {self.serial}" in self.service.notes

    def _oks(self) -> list[str]:
        return [note for note in self.caller.notes if note.startswith("ok")]

    def _story(self) -> str:
        return f"{self.service.log[-2000:]}\n{self.caller.log[-2000:]}\n{self.caller.notes[-5:]}"

    def settles(self, before: list[int]) -> None:
        """Threads and descriptors come back to what they were; idle workers may take their time to go. One more may
        be there for as long as the caller keeps it busy: it calls a hundred times a second."""
        limits = [before[0] + 1, *before[1:]]
        wait_for(
            lambda: all(now <= limit for now, limit in zip(self.sizes(), limits, strict=True)),
            12_000 * MS,
            lambda: f"threads and descriptors of service and caller: {before}, then {self.sizes()}",
        )

    def sizes(self) -> list[int]:
        return [
            self.service.threads(),
            self.service.descriptors(),
            self.caller.threads(),
            self.caller.descriptors(),
        ]


def world(launch: Launcher, server: PrivateServer, port: int = 0, caller: str = CALLER) -> World:
    """Both reach the server over its unix socket, or over this port."""
    redis = {"redis_host": "127.0.0.1", "redis_port": port} if port else {"redis_url": server.url}
    service = launch.start(SERVICE, run=redis)
    until_subscribed(server, service.service, service)
    until_ready(service)
    script = launch.script(caller, env={"TARGET": service.service}, redis=redis)
    made = World(server, service, script)
    made.works()
    return made


@contextmanager
def frozen(server: PrivateServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def lines(log: str, pattern: str) -> list[str]:
    return [line for line in log.splitlines() if re.search(pattern, line)]


# --- going and coming ---


@callers
@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_killed_and_restarted(launch: Launcher, own_bus: PrivateServer, over: str, caller: str) -> None:
    there = world(launch, own_bus, own_bus.port if over == "tcp" else 0, caller)
    own_bus.kill()
    let_pass(1.0)
    own_bus.restart()
    there.works()
    sizes = there.sizes()
    for _ in range(3):
        own_bus.restart()
        there.works()
    there.settles(sizes)


def test_the_log_says_once_that_it_went_and_once_that_it_came_back(launch: Launcher, own_bus: PrivateServer) -> None:
    script = launch.service(SERVICE, server=own_bus)
    before = len(script.log)
    own_bus.kill()
    wait_for(lambda: lines(script.log[before:], "Redis .* is gone "), ANSWER_SECONDS, lambda: script.log)
    let_pass(3.0)  # in which it tries again, in silence
    own_bus.restart()
    wait_for(lambda: lines(script.log[before:], "Redis .* is back;"), BACK_SECONDS, lambda: script.log)
    with Peer(own_bus) as peer:
        assert peer.ask(script.service, "echo", 1)["payload"] == {"got": 1}
    said = script.log[before:].splitlines()
    assert len(said) == 2, said
    assert "may have been missed" in said[1]


def test_stopped_for_10_seconds(launch: Launcher, own_bus: PrivateServer) -> None:
    """More than 20 s: 10 s are the outage, and being frozen shows only by the lack of answers."""
    there = world(launch, own_bus)
    sizes = there.sizes()
    with frozen(own_bus):
        let_pass(10.0)
    there.works()
    there.settles(sizes)


@callers
def test_connections_cut_again_and_again(launch: Launcher, own_bus: PrivateServer, caller: str) -> None:
    there = world(launch, own_bus, caller=caller)
    sizes = there.sizes()
    for _ in range(3):
        with Link(own_bus) as link:
            for kind in ("pubsub", "normal"):
                link.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        there.works()
    there.settles(sizes)
    assert lines(there.service.log, "may have been missed")


@callers
@pytest.mark.parametrize("kind", ["pubsub", "normal"])
def test_only_one_of_the_connections_is_cut(launch: Launcher, own_bus: PrivateServer, kind: str, caller: str) -> None:
    there = world(launch, own_bus, caller=caller)
    with Link(own_bus) as link:
        link.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    there.works()


@callers
def test_connections_that_fall_silent_without_a_fin(launch: Launcher, own_bus: PrivateServer, caller: str) -> None:
    with Proxy(own_bus.port) as proxy:
        there = world(launch, own_bus, proxy.port, caller)
        proxy.go_silent()
        there.works()
        proxy.cut()
        there.works()
        assert lines(there.service.log, "may have been missed")
        (there.caller.folder / "stop").touch()
        assert there.caller.wait() == 0
        there.service.send_signal(signal.SIGTERM)
        assert there.service.wait() == 0


def test_started_before_redis(launch: Launcher, own_bus: PrivateServer) -> None:
    own_bus.kill()
    service = launch.start(SERVICE, server=own_bus)
    caller = launch.script(CALLER, server=own_bus, env={"TARGET": service.service})
    wait_for(lambda: lines(service.log, "Redis"), ANSWER_SECONDS, lambda: service.log)
    wait_for(lambda: len(caller.notes) >= 2, 2 * ANSWER_SECONDS)
    assert not lines(service.log, "is ready")
    assert len(service.log.splitlines()) <= 2
    own_bus.restart()
    World(own_bus, service, caller).works()
    assert lines(service.log, "is ready")


def test_connections_cut_all_through_the_start(launch: Launcher, own_bus: PrivateServer) -> None:
    """Every connection is cut as soon as it is seen, for as long as the service needs to start five times."""
    script = launch.start(SERVICE, server=own_bus)
    with Link(own_bus) as link:
        cut = 0
        enough = time.monotonic() + 3.0
        while time.monotonic() < enough:
            for kind in ("pubsub", "normal"):
                cut += link.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    assert cut
    assert script.alive, script.log
    until_ready(script)  # it may have been so before the last cut
    until_subscribed(own_bus, script.service, script)
    with Peer(own_bus) as peer:
        try:
            assert peer.ask(script.service, "echo", 1)["payload"] == {"got": 1}
        except NoReply as error:
            raise AssertionError(f"{error}: {script.log}") from None
    assert "Traceback" not in script.log


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("carried", range(20, 420, 40))
def test_redis_dies_at_each_step_of_the_start(launch: Launcher, bus: PrivateServer, carried: int, reset: bool) -> None:
    """Behind a relay that cuts the connections after so many bytes of the start."""
    with Proxy(bus.port, cut_after=carried, reset=reset) as proxy:
        script = launch.start(SERVICE, redis={"redis_host": "127.0.0.1", "redis_port": proxy.port})
        until_subscribed(bus, script.service, script)
        until_ready(script)
        with Peer(bus) as peer:
            assert peer.ask(script.service, "echo", 1)["payload"] == {"got": 1}
        assert "Traceback" not in script.log


def test_a_service_that_waits_for_redis_can_be_stopped(launch: Launcher) -> None:
    script = launch.start(SERVICE, run={"redis_host": "127.0.0.1", "redis_port": free_port()})
    wait_for(lambda: lines(script.log, "Redis"), ANSWER_SECONDS, lambda: script.log)
    script.send_signal(signal.SIGTERM)
    assert script.wait(5.0) == 0


def test_so_can_one_that_lost_it(launch: Launcher, own_bus: PrivateServer) -> None:
    script = launch.service(SERVICE, server=own_bus)
    own_bus.kill()
    wait_for(lambda: lines(script.log, "Redis .* is gone "), ANSWER_SECONDS, lambda: script.log)
    script.send_signal(signal.SIGTERM)
    assert script.wait(5.0) == 0


def test_and_one_whose_redis_hangs(launch: Launcher, own_bus: PrivateServer) -> None:
    script = launch.service(SERVICE, server=own_bus)
    with frozen(own_bus):
        script.send_signal(signal.SIGTERM)
        assert script.wait(10.0) == 0


# --- Redis refuses ---


@pytest.mark.parametrize(
    ("user", "why"),
    [("", "no password given"), (":wrong@", "wrong password"), ("nobody:secret@", "unknown user")],
)
def test_a_refusal_ends_the_service_with_the_reason(launch: Launcher, user: str, why: str) -> None:
    with private_server(extra=("--requirepass", "secret")) as server:
        script = launch.start(SERVICE, run={"redis_url": f"redis://{user}127.0.0.1:{server.port}"})
        assert script.wait() != 0, why
        assert re.search("password|NOAUTH|WRONGPASS|authenti", script.log, re.IGNORECASE)
        assert "Traceback" not in script.log
        assert "wrong@" not in script.log
        error = launch.run(
            f"""
            import json
            from daebus import DaebusCaller
            try:
                DaebusCaller("a", redis_url="redis://{user}127.0.0.1:{server.port}").send_request("b", {{}})
            except Exception as error:
                print(json.dumps([isinstance(error, ConnectionError), str(error)]))
            """
        )
        assert error[0]
        assert ":wrong" not in error[1]


# --- slow subscribers ---


def test_a_subscriber_cut_off_by_the_output_limit_notices_says_so_and_repairs_it(launch: Launcher) -> None:
    with private_server(extra=("--client-output-buffer-limit", "pubsub 1mb 512kb 1")) as server:
        script = launch.service(SERVICE, server=server)
        script.send_signal(signal.SIGSTOP)
        with Link(server) as link:
            for _ in range(100):
                link.call("PUBLISH", f"{script.service}.news", f'{{"n": "{"x" * 100_000}"}}')
            wait_for(lambda: subscribers(link, script.service) == 0, ANSWER_SECONDS)
            script.send_signal(signal.SIGCONT)
            wait_for(lambda: subscribers(link, script.service) == 1, BACK_SECONDS)
        wait_for(lambda: lines(script.log, "may have been missed"), BACK_SECONDS, lambda: script.log)
        with Peer(server) as peer:
            assert peer.ask(script.service, "echo", 1)["payload"] == {"got": 1}


def test_a_burst_of_listened_messages_is_drained_while_a_handler_is_slow(launch: Launcher) -> None:
    """40 MB, where Redis cuts off at 32: it must not find us behind, so we refuse what does not fit."""
    message = f'{{"n": "{"x" * 1000}"}}'
    with private_server() as server:
        script = launch.service(
            SERVICE
            + """
@app.listen(os.environ["SERVICE"] + ".slow")
def slow(payload):
    time.sleep(0.05)
""",
            server=server,
        )
        with Link(server) as link, Peer(server) as peer:
            for _ in range(40_000):
                link.call("PUBLISH", f"{script.service}.slow", message)
            assert peer.ask(script.service, "echo", 1)["payload"] == {"got": 1}
        assert not lines(script.log, "Redis .* is gone ")


# --- absent services ---

ASK_ABSENT = """
import json, os, time
from daebus import DaebusCaller
outcome = []
with DaebusCaller("absent-service", timeout=60, **json.loads(os.environ["REDIS"])) as caller:
    for _ in range(3):
        try:
            caller.send_request("echo", {})
        except Exception as error:
            outcome.append(type(error).__name__)
print(json.dumps(outcome))
"""


@pytest.mark.parametrize("monitored", [False, True])
def test_an_absent_service_is_known_at_once(launch: Launcher, own_bus: PrivateServer, monitored: bool) -> None:
    """Three requests of a minute each, and the script ends long before one would have timed out."""
    with Link(own_bus) as monitor:
        if monitored:
            monitor.call("PSUBSCRIBE", "*")
        outcome = launch.script(ASK_ABSENT, server=own_bus).result(10.0)
    assert outcome == ["ServiceUnavailable"] * 3


WAIT_FOR_IT = """
import json, os, threading
from daebus import DaebusCaller
outcome = []
patience = float(os.environ["PATIENCE"])
caller = DaebusCaller(os.environ["TARGET"], **json.loads(os.environ["REDIS"]))

def ask(n):
    try:
        outcome.append(caller.send_request("count", {"n": n}, timeout=patience, wait=True)["n"])
    except Exception as error:
        outcome.append(type(error).__name__)

threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
for thread in threads:
    thread.start()
print("asked", flush=True)
for thread in threads:
    thread.join()
caller.close()
print(json.dumps(sorted(outcome)))
"""


def test_wait_holds_requests_until_the_service_comes_and_they_run_once(
    launch: Launcher, own_bus: PrivateServer
) -> None:
    caller = launch.script(WAIT_FOR_IT, server=own_bus, env={"TARGET": "late", "PATIENCE": "30"})
    wait_for(lambda: "asked" in caller.output, ANSWER_SECONDS)
    let_pass(1.0)
    assert caller.alive
    service = launch.service(SERVICE, server=own_bus, service="late")
    assert caller.result() == list(range(10))
    assert sorted(service.notes) == sorted(f"run {n}" for n in range(10))


def test_wait_outlasts_an_outage_and_a_restart_of_the_service(launch: Launcher, own_bus: PrivateServer) -> None:
    first = launch.service(SERVICE, server=own_bus, service="late")
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 0
    own_bus.kill()
    caller = launch.script(WAIT_FOR_IT, server=own_bus, env={"TARGET": "late", "PATIENCE": "30"})
    wait_for(lambda: "asked" in caller.output, ANSWER_SECONDS)
    let_pass(1.0)
    own_bus.restart()
    second = launch.service(SERVICE, server=own_bus, service="late")
    assert caller.result() == list(range(10))
    assert sorted(second.notes) == sorted(f"run {n}" for n in range(10))


def test_wait_ends_at_its_deadline(launch: Launcher, own_bus: PrivateServer) -> None:
    outcome = launch.script(WAIT_FOR_IT, server=own_bus, env={"TARGET": "never", "PATIENCE": "0.5"}).result(10.0)
    assert len(outcome) == 10
    assert set(outcome) <= {"ServiceUnavailable", "RequestTimeout"}


# --- at most once ---


def test_work_whose_caller_gave_up_is_not_run(launch: Launcher, own_bus: PrivateServer) -> None:
    service = launch.service(SERVICE, server=own_bus)
    service.send_signal(signal.SIGSTOP)
    error = launch.run(
        f"""
        import json, os
        from daebus import DaebusCaller
        with DaebusCaller("{service.service}", **json.loads(os.environ["REDIS"])) as caller:
            try:
                caller.send_request("count", {{"n": 1}}, timeout=0.5)
            except TimeoutError as error:
                print(json.dumps(type(error).__name__))
        """,
        server=own_bus,
    )
    assert error == "RequestTimeout"
    service.send_signal(signal.SIGCONT)
    with Peer(own_bus) as peer:
        assert peer.ask(service.service, "count", {"n": 2})["payload"] == {"n": 2}
    assert service.notes == ["run 2"]


def test_nor_is_work_that_waited_too_long_in_the_queue(launch: Launcher, own_bus: PrivateServer) -> None:
    service = launch.service(
        """
        @app.action("count")
        def count():
            note(f"run {request.payload['n']}")
            while request.payload["n"] == 0 and not os.path.exists("go"):
                time.sleep(0.01)
            return {}
        """,
        server=own_bus,
        env={"WORKERS": "1"},
    )
    with Peer(own_bus) as peer:
        first = peer.post(service.service, "count", {"n": 0})
        wait_for(lambda: service.notes == ["run 0"], ANSWER_SECONDS)
        error = launch.run(
            f"""
            import json, os
            from daebus import DaebusCaller
            with DaebusCaller("{service.service}", **json.loads(os.environ["REDIS"])) as caller:
                try:
                    caller.send_request("count", {{"n": 1}}, timeout=0.5)
                except TimeoutError as error:
                    print(json.dumps(type(error).__name__))
            """,
            server=own_bus,
        )
        assert error == "RequestTimeout"
        (service.folder / "go").touch()
        peer.answer(first)
        peer.ask(service.service, "count", {"n": 2})
    assert service.notes == ["run 0", "run 2"]


def test_no_request_is_run_twice_when_redis_dies_at_any_moment(launch: Launcher, own_bus: PrivateServer) -> None:
    there = world(launch, own_bus)
    moments = Random(20261123)
    for _ in range(12):
        done = len(there.caller.notes)
        wait_for(lambda count=done: len(there.caller.notes) > count + 3, 2 * ANSWER_SECONDS)  # type: ignore[misc]
        let_pass(moments.uniform(0.0, 0.03))
        own_bus.kill()
        own_bus.restart()
    there.works()
    (there.caller.folder / "stop").touch()
    assert there.caller.wait() == 0
    runs = Counter(note for note in there.service.notes if note.startswith("run"))
    assert [run for run, times in runs.items() if times > 1] == []
    answered = {note.replace("ok", "run") for note in there.caller.notes if note.startswith("ok")}
    assert answered <= set(runs)
    errors = {note for note in there.caller.notes if note.startswith("error")}
    assert errors <= {"error RedisUnavailable", "error RequestTimeout", "error ServiceUnavailable"}
