"""What services say of themselves to whoever asks, and how they are found: real processes, a real Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

from daebus import DaebusCaller, RedisRefused, RedisUnavailable, __version__, census
from daebus.errors import ConfigurationError
from daebus.redisserver import PrivateServer
from daebus.settings import RedisSettings, parse_url
from tests.outside import Launcher, Link, Peer, Script, until_ready
from tests.support import MS, wait_for

PING, INFO, STATS = "$daebus.ping", "$daebus.info", "$daebus.stats"
LIMIT = 8000 * MS
SHORT = 300 * MS
"""For those of whom it is known that they do not answer."""

EVERYTHING = '''
from daebus import DaebusWebSocket

app.attach(DaebusWebSocket(port="same"))
gate = threading.Event()

@app.action("add")
def add():
    """Add two
    numbers.

    Both of them.
    """
    return request.payload["a"] + request.payload["b"]

@app.action("fail")
def fail():
    raise ValueError("no")

@app.action("refuse")
def refuse():
    from daebus import HttpError
    raise HttpError(404, "there is none")

@app.action("later")
async def later():
    import asyncio
    await asyncio.sleep(0.05)
    return 1

@app.action("steps")
def steps():
    yield 1
    return 2

@app.action("wait", inline=False)
def wait():
    note("waiting")
    gate.wait(20)

@app.action("open", inline=True)
def open_gate():
    gate.set()

@app.listen("news.*")
def news(payload, channel):
    """Hear the news."""
    if payload.get("wait"):
        note("hearing")
        gate.wait(20)

@app.workflow("greet")
def greet():
    return {"hello": True}

@app.route("/things/<int:n>", methods=["GET", "POST"])
def thing(req, n):
    """Give a thing."""
    return {"n": n}

@app.socket("echo")
def echo(data):
    return data

@app.background("tidy", 3600)
def tidy():
    """Tidy up."""

@app.thread("beat")
def beat(running):
    while running.wait(1):
        pass

@app.thread("never", auto_start=False)
def never(running):
    """Only when told."""

app.static("/files", ".")
'''

SHARED = """
@app.action("pid")
def pid():
    return os.getpid()
"""


STARTING = """
@app.on_start
def start():
    note("starting")
    while "go" not in os.listdir():
        time.sleep(0.01)
"""


@pytest.fixture
def settings(bus: PrivateServer) -> RedisSettings:
    return parse_url(bus.url, "url")


@pytest.fixture(scope="module")
def everything(bus: PrivateServer, tmp_path_factory: pytest.TempPathFactory, own_side: Any) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("everything"), own_side)
    try:
        yield launcher.site(EVERYTHING, server=bus, service="everything")
    finally:
        launcher.end_all()


def call(bus: PrivateServer, service: str, action: str, payload: object = None) -> Any:
    with DaebusCaller(service, redis_url=bus.url, timeout=LIMIT) as caller:
        return caller.send_request(action, payload)


def stats(bus: PrivateServer, service: str) -> dict[str, Any]:
    answer: dict[str, Any] = call(bus, service, STATS)
    return answer


def handler(bus: PrivateServer, service: str, kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in stats(bus, service)["handlers"] if (one["kind"], one["name"]) == (kind, name)]
    return dict(found)


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Do something on another thread; it has ended when the block has."""
    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(LIMIT)
    assert not thread.is_alive()


# --- ping ---


def test_ping_says_who_it_is(bus: PrivateServer, everything: Script) -> None:
    said = call(bus, "everything", PING)
    assert said.pop("uptime") > 0
    assert "unit" in said
    del said["unit"]
    assert said == {
        "service": "everything",
        "pid": everything.pid,
        "host": os.uname().nodename,
        "version": __version__,
        "shared": False,
    }


def test_what_is_asked_of_daebus_itself_is_no_request_of_a_users(bus: PrivateServer, everything: Script) -> None:
    before = stats(bus, "everything")["counts"]
    for action in (PING, INFO, STATS):
        call(bus, "everything", action)
    assert stats(bus, "everything")["counts"] == before


def test_a_service_answers_while_it_starts(bus: PrivateServer, launch: Launcher, settings: RedisSettings) -> None:
    script = launch.start(STARTING, server=bus, service="starting")
    wait_for(lambda: script.notes, LIMIT)
    assert "starting" in census.find(settings)
    assert call(bus, "starting", PING)["pid"] == script.pid
    (script.folder / "go").touch()
    until_ready(script)


# --- the census ---


def test_services_are_found_by_what_they_listen_to(
    bus: PrivateServer, launch: Launcher, settings: RedisSettings, everything: Script
) -> None:
    one = launch.service("", server=bus, service="a.b-c_D")
    with Link(bus) as other:
        other.call("SUBSCRIBE", "not a service.$daebus")
        other.call("SUBSCRIBE", "upstreams")
        found = census.find(settings)
    assert {"a.b-c_D", "everything"} <= set(found)
    assert found == sorted(found)
    assert not {"not a service", "upstreams"} & set(found)
    one.send_signal(signal.SIGTERM)
    assert one.wait() == 0
    assert "a.b-c_D" not in census.find(settings)


def test_all_are_asked_at_once(bus: PrivateServer, launch: Launcher, settings: RedisSettings) -> None:
    pids = {name: launch.service("", server=bus, service=name).pid for name in ("first", "second")}
    answers = census.ask(settings, ["second", "first", "second", "nobody"], PING, LIMIT)
    assert list(answers) == ["second", "first", "nobody"]
    assert {name: [one["pid"] for one in said] for name, said in answers.items() if said} == {
        name: [pid] for name, pid in pids.items()
    }
    assert [said.present for said in answers.values()] == [1, 1, 0]


def test_every_process_of_a_shared_service_answers(
    bus: PrivateServer, launch: Launcher, settings: RedisSettings
) -> None:
    scripts = [launch.service(SHARED, server=bus, service="several", run={"shared": True}) for _ in range(3)]
    (said,) = census.ask(settings, ["several"], STATS, LIMIT).values()
    assert {one["pid"] for one in said} == {script.pid for script in scripts}
    assert len(said) == said.present == 3
    (said,) = census.ask(settings, ["several"], PING, LIMIT).values()
    assert [one["shared"] for one in said] == [True] * 3


def test_one_that_hangs_is_there_and_has_not_answered(
    bus: PrivateServer, launch: Launcher, settings: RedisSettings
) -> None:
    scripts = [launch.service(SHARED, server=bus, service="hanging", run={"shared": True}) for _ in range(2)]
    well = launch.service("", server=bus, service="well")
    scripts[0].send_signal(signal.SIGSTOP)
    try:
        assert {"hanging", "well"} <= set(census.find(settings))
        answers = census.ask(settings, ["hanging", "well"], PING, SHORT)
    finally:
        scripts[0].send_signal(signal.SIGCONT)
    assert [one["pid"] for one in answers["hanging"]] == [scripts[1].pid]
    assert answers["hanging"].present == 2
    assert [one["pid"] for one in answers["well"]] == [well.pid]


def test_one_that_goes_meanwhile_is_waited_for_no_longer(
    bus: PrivateServer, launch: Launcher, settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = launch.service("", server=bus, service="leaving")
    script.send_signal(signal.SIGSTOP)
    real = census._Census._publish

    def publish_then_kill(self: Any, *words: Any) -> None:
        real(self, *words)
        script.process.kill()

    monkeypatch.setattr(census._Census, "_publish", publish_then_kill)
    answers = census.ask(settings, ["leaving"], PING, 1e6)
    assert not script.alive
    assert (answers["leaving"], answers["leaving"].present) == ([], 0)


def test_one_of_an_older_version_says_no_and_is_waited_for_no_longer(
    bus: PrivateServer, settings: RedisSettings
) -> None:
    """It does not know the action, and an error is an answer, too. Upstream's services do not answer at all."""
    with Peer(bus, channel="older") as older, Link(bus) as upstream:
        upstream.call("SUBSCRIBE", "upstream")

        def refuse() -> None:
            asked = older.next()
            assert asked is not None
            refusal = {"status": "error", "payload": {"error": "no"}, "request_id": asked["request_id"]}
            older.publish(asked["reply_to"], refusal)

        with in_background(refuse):
            assert census.ask(settings, ["older"], PING, 1e6) == {"older": []}
        silent = census.ask(settings, ["upstream"], PING, SHORT)["upstream"]
    assert (silent, silent.present) == ([], 1)


def test_answers_of_others_and_to_others_do_not_count(bus: PrivateServer, settings: RedisSettings) -> None:
    with Peer(bus, channel="liar") as liar:

        def lie() -> None:
            asked = liar.next()
            assert asked is not None
            another = {"status": "success", "payload": 1, "request_id": "another"}
            wrong: list[object] = [b"no json", another, [], {}]
            for said in wrong:
                liar.publish(asked["reply_to"], said)
            for number, final in ((1, False), (2, True), (3, True)):
                answer = {"status": "success", "payload": number, "request_id": asked["request_id"], "final": final}
                liar.publish(asked["reply_to"], answer)

        with in_background(lie):
            assert census.ask(settings, ["liar"], PING, 1e6) == {"liar": [2]}


def test_nobody_is_asked_nothing(settings: RedisSettings) -> None:
    assert census.ask(settings, [], PING, 1) == {}


@pytest.mark.parametrize(("names", "seconds"), [(["no name!"], 1), (["x"], 0), (["x"], "1")])
def test_what_makes_no_sense_is_refused(settings: RedisSettings, names: list[str], seconds: Any) -> None:
    with pytest.raises(ConfigurationError):
        census.ask(settings, names, PING, seconds)


@pytest.mark.parametrize("ask", [census.find, lambda settings: census.ask(settings, ["x"], PING, 1)])
def test_without_redis_that_is_said(ask: Callable[[RedisSettings], object]) -> None:
    with pytest.raises(RedisUnavailable, match="cannot be reached"):
        ask(RedisSettings(path="/nowhere/redis.sock"))


def test_the_marker_is_there_again_after_a_restart_of_redis(own_bus: PrivateServer, launch: Launcher) -> None:
    script = launch.service("", server=own_bus, service="steady")
    settings = parse_url(own_bus.url, "url")
    own_bus.kill()
    own_bus.restart()
    wait_for(lambda: census.find(settings) == ["steady"], LIMIT)
    said = stats(own_bus, "steady")
    assert said["redis"] == {"connected": True, "address": said["redis"]["address"], "reconnections": 1}
    assert script.alive


def test_a_service_that_may_not_be_found_runs_nevertheless(own_bus: PrivateServer, launch: Launcher) -> None:
    """The rights of a Redis user that was made by hand may end at the service's own channel."""
    with Link(own_bus) as link:
        link.call("ACL", "SETUSER", "narrow", "on", ">secret", "+@all", "~*", "resetchannels", "&narrow", "&caller:*")
    url = own_bus.url.replace("unix://", "unix://narrow:secret@")
    script = launch.service("@app.action('one')\ndef one():\n    return 1\n", server=own_bus, service="narrow",
                            redis={"redis_url": url})  # fmt: skip
    assert call(own_bus, "narrow", "one") == 1
    wait_for(lambda: "Others will not find this service" in script.log, LIMIT)
    assert "'narrow.$daebus': NOPERM" in script.log


def test_who_may_not_list_channels_is_told_who_may(own_bus: PrivateServer) -> None:
    with Link(own_bus) as link:
        link.call("ACL", "SETUSER", "poor", "on", ">secret", "+@all", "-pubsub", "+pubsub|numsub", "&*")
    settings = parse_url(own_bus.url.replace("unix://", "unix://poor:secret@"), "url")
    with pytest.raises(RedisRefused, match="does not show to the user 'poor' which services there are: NOPERM") as said:
        census.find(settings)
    assert "`sudo daebus`" in str(said.value)
