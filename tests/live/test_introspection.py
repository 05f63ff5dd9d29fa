"""What services say of themselves to whoever asks, and how they are found: real processes, a real Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from websockets.sync.client import connect

from daebus import (
    DaebusCaller,
    DaebusWorkflow,
    InternalError,
    RedisRefused,
    RedisUnavailable,
    RemoteError,
    __version__,
    census,
)
from daebus.errors import ConfigurationError
from daebus.redisserver import PrivateServer
from daebus.settings import RedisSettings, parse_url
from tests.outside import HTTP_PROLOGUE, Launcher, Link, Peer, Script, fetch, until_ready
from tests.prometheus import Parsed
from tests.support import MS, wait_for

PING, INFO, STATS = "$daebus.ping", "$daebus.info", "$daebus.stats"
LIMIT = 8000 * MS
SHORT = 300 * MS
"""For those of whom it is known that they do not answer."""

EVERYTHING = '''
from daebus import DaebusWebSocket

ws = DaebusWebSocket(port="same")
app.attach(ws)
ws.gateway(actions=["add", "lamp/dim"], channels=["news.*"])

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

@app.action("dim")
def dim(percent: int, room: str = "hall") -> dict[str, int]:
    return {room: percent}

@app.listen("news.*")
def news(payload, channel):
    """Hear the news."""

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


def test_who_is_not_asked_does_not_load_the_answers(bus: PrivateServer, launch: Launcher) -> None:
    body = "@app.action('loaded')\ndef loaded():\n    return 'daebus.introspection' in sys.modules\n"
    launch.service(body, server=bus, service="unasked")
    assert call(bus, "unasked", "loaded") is False
    call(bus, "unasked", PING)
    assert call(bus, "unasked", "loaded") is True


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


# --- info ---


def test_info_says_all_that_is_declared(bus: PrivateServer, everything: Script) -> None:
    said = call(bus, "everything", INFO)
    script = f"{everything.folder}/script.py"
    assert said["pid"] == everything.pid
    assert (said["file"], said["max_workers"], said["http"]) == (script, 10, [f"http://127.0.0.1:{everything.port}/"])
    assert said["redis"] == f"127.0.0.1:{bus.port}"
    names = {kind: [one["name"] for one in said[kind]] for kind in DECLARED}
    assert names == DECLARED
    add, news, thing = said["actions"][0], said["channels"][0], said["routes"][1]
    assert (add["doc"], news["doc"], thing["doc"]) == ("Add two numbers.", "Hear the news.", "Give a thing.")
    assert (thing["method"], thing["path"]) == ("POST", "/things/<int:n>")
    lines = Path(script).read_text(encoding="utf-8").splitlines()
    assert lines[int(add["place"].removeprefix(f"{script}:")) - 1] == '@app.action("add")'
    assert [(one["path"], one["place"].startswith(script)) for one in said["folders"]] == [("/files", True)]
    assert said["tasks"][0]["interval"] == 3600
    assert said["gateway"] == {"actions": ["add", "lamp/dim"], "channels": ["news.*"], "publish": []}
    dim = said["actions"][-1]
    assert dim["input"]["properties"]["percent"]["type"] == "integer"
    assert (dim["input"]["required"], dim["returns"]) == (["percent"], "dict[str, int]")
    assert (add["input"], add["returns"]) == (None, None)
    assert [(one["auto_start"], one["running"]) for one in said["threads"]] == [(True, True), (False, False)]


DECLARED = {
    "actions": ["add", "fail", "refuse", "later", "steps", "dim"],
    "channels": ["news.*"],
    "workflows": ["greet"],
    "routes": ["GET /things/<int:n>", "POST /things/<int:n>"],
    "sockets": ["echo"],
    "tasks": ["tidy"],
    "threads": ["beat", "never"],
}


def test_the_password_of_redis_is_not_told(own_bus: PrivateServer, launch: Launcher) -> None:
    with Link(own_bus) as link:
        link.call("ACL", "SETUSER", "known", "on", ">secret", "+@all", "~*", "&*")
    url = own_bus.url.replace("unix://", "unix://known:secret@")
    launch.service("", server=own_bus, service="careful", redis={"redis_url": url})
    for action in (PING, INFO, STATS):
        assert "secret" not in str(call(own_bus, "careful", action))


def test_a_service_of_thousands_of_handlers_fits_into_a_message(bus: PrivateServer, launch: Launcher) -> None:
    body = (
        "for number in range(9000):\n"
        "    def act():\n        pass\n"
        "    act.__doc__ = 'long ' * 400\n"
        "    app.action(f'act-{number}')(act)\n"
    )
    launch.service(body, server=bus, service="vast")
    actions = call(bus, "vast", INFO)["actions"]
    assert len(actions) == 9000
    assert {one["doc"] for one in actions} == {None}
    assert len(call(bus, "vast", STATS)["handlers"]) == 9000


# --- stats ---


def test_runs_are_counted_with_their_times(bus: PrivateServer, everything: Script) -> None:
    before = handler(bus, "everything", "action", "add")["calls"]
    for number in range(300):
        call(bus, "everything", "add", {"a": number, "b": 1})
    after = handler(bus, "everything", "action", "add")
    assert after["calls"] - before == 300
    assert after["errors"] == 0
    assert 0 < after["p50"] <= after["p99"] <= after["longest"] <= after["seconds"]
    assert sum(count for _bound, count in after["buckets"]) == after["calls"]


def test_coroutines_are_counted_when_they_end_and_from_their_begin(bus: PrivateServer, everything: Script) -> None:
    assert call(bus, "everything", "later") == 1
    wait_for(lambda: handler(bus, "everything", "action", "later")["calls"] == 1, LIMIT)
    assert handler(bus, "everything", "action", "later")["longest"] >= 0.05


def test_a_generator_is_one_run(bus: PrivateServer, everything: Script) -> None:
    assert call(bus, "everything", "steps") == 2
    assert handler(bus, "everything", "action", "steps")["calls"] == 1


def test_errors_are_counted_but_not_what_a_handler_says_to_its_caller(bus: PrivateServer, everything: Script) -> None:
    with pytest.raises(InternalError) as failed:
        call(bus, "everything", "fail")
    with pytest.raises(RemoteError, match="there is none"):
        call(bus, "everything", "refuse")
    of = {name: handler(bus, "everything", "action", name) for name in ("fail", "refuse")}
    assert {name: (said["calls"], said["errors"]) for name, said in of.items()} == {"fail": (1, 1), "refuse": (1, 0)}
    last = stats(bus, "everything")["last_error"]
    assert last.pop("at") == pytest.approx(time.time(), abs=600)
    assert last == {"kind": "action", "name": "fail", "type": "ValueError", "error_id": failed.value.error_id}
    assert f"error id {last['error_id']}" in everything.log


def has_run_once(bus: PrivateServer, kind: str, name: str) -> bool:
    return bool(handler(bus, "everything", kind, name)["calls"] == 1)


def test_every_door_counts(bus: PrivateServer, everything: Script) -> None:
    added = handler(bus, "everything", "action", "add")["calls"]
    with Peer(bus) as peer:
        peer.publish("news.today", {"x": 1})
    with DaebusWorkflow("everything", redis_url=bus.url) as workflow:
        workflow.start("greet", {}, lambda _said: None)
        assert workflow.wait(LIMIT)
    assert fetch(everything.port, "GET", "/things/7").status == 200
    assert fetch(everything.port, "POST", "/things/8").status == 200
    assert fetch(everything.port, "GET", "/files/script.py").status == 200
    with connect(f"ws://127.0.0.1:{everything.port}/", proxy=None) as client:
        client.send('{"type": "echo", "data": 1}')
        assert client.recv(LIMIT)
        client.send('{"type": "publish", "data": {"action": "add", "payload": {"a": 1, "b": 2}}}')
        assert client.recv(LIMIT)
        assert stats(bus, "everything")["clients"] == 1
        assert stats(bus, "everything")["connections"] >= 1
    runs = [
        ("channel", "news.*"), ("workflow", "greet"), ("route", "GET /things/<int:n>"),
        ("route", "POST /things/<int:n>"), ("folder", "/files/"), ("socket", "echo"),
    ]  # fmt: skip
    for run in runs:
        wait_for(partial(has_run_once, bus, *run), LIMIT)
    wait_for(lambda: handler(bus, "everything", "action", "add")["calls"] == added + 1, LIMIT)


CROWDED = """
gate = threading.Event()

@app.action("wait", inline=False)
def wait():
    note("waiting")
    gate.wait(20)

@app.action("open", inline=True)
def open_gate():
    gate.set()

@app.action("later")
async def later():
    import asyncio
    while not gate.is_set():
        await asyncio.sleep(0.01)

@app.background("sweep", 0.05)
def sweep():
    gate.wait(20)

@app.listen("crowd.news")
def news(payload):
    note("hearing")
    gate.wait(20)
"""


def test_what_is_at_work_and_what_waits_is_told(bus: PrivateServer, launch: Launcher) -> None:
    script = launch.service(CROWDED, server=bus, service="crowded", env={"WORKERS": "2"})
    with Peer(bus) as peer:
        peer.publish("crowd.news", {})
        wait_for(lambda: "hearing" in script.notes, LIMIT)
        for _ in range(4):
            peer.publish("crowd.news", {})
        peer.post("crowded", "wait")
        wait_for(lambda: "waiting" in script.notes, LIMIT)
        for _ in range(3):
            peer.post("crowded", "wait")
        wait_for(lambda: (stats(bus, "crowded")["busy"], stats(bus, "crowded")["queued"]) == (2, 7), LIMIT)
        assert stats(bus, "crowded")["max_workers"] == 2
        waits = handler(bus, "crowded", "action", "wait")
        assert (waits["calls"], waits["running"]) == (0, 1)  # none has ended
        assert 0 <= waits["oldest"] < 600
    script.send_signal(signal.SIGTERM)


def running(bus: PrivateServer) -> dict[str, int]:
    return {one["name"]: one["running"] for one in stats(bus, "crowded")["handlers"]}


def test_coroutines_and_tasks_that_have_not_ended_are_told_too(bus: PrivateServer, launch: Launcher) -> None:
    launch.service(CROWDED, server=bus, service="crowded")
    with Peer(bus) as peer:
        for _ in range(3):
            peer.post("crowded", "later")
        expected = {"wait": 0, "open": 0, "later": 3, "crowd.news": 0, "sweep": 1}
        wait_for(lambda: running(bus) == expected, LIMIT)
        assert handler(bus, "crowded", "task", "sweep")["calls"] == 0
        call(bus, "crowded", "open")
        wait_for(lambda: handler(bus, "crowded", "task", "sweep")["calls"] > 1, LIMIT)
        wait_for(lambda: handler(bus, "crowded", "action", "later")["running"] == 0, LIMIT)
        assert handler(bus, "crowded", "action", "later")["oldest"] is None


def test_what_the_process_needs_is_told(bus: PrivateServer, everything: Script) -> None:
    said = stats(bus, "everything")
    assert 0 < said["memory"] < 2**30
    assert said["memory"] == pytest.approx(everything.resident_kb() * 1024, rel=0.5)
    assert 0 < said["cpu"] < 600
    assert said["threads"] >= 2


# --- metrics ---


def test_metrics_are_not_served_unless_asked_for(everything: Script) -> None:
    assert fetch(everything.port, "GET", "/metrics").status == 404


@pytest.mark.parametrize(("setting", "path"), [(True, "/metrics"), ("/-/numbers", "/-/numbers")])
def test_metrics_are_served_for_prometheus(
    bus: PrivateServer, launch: Launcher, setting: bool | str, path: str
) -> None:
    body = "@app.action('act \\\\ \"x\"')\ndef act():\n    raise ValueError('no')\n"
    script = launch.site(body, server=bus, service="measured", settings={"metrics": setting})
    with pytest.raises(InternalError):
        call(bus, "measured", 'act \\ "x"')
    answer = fetch(script.port, "GET", path)
    assert (answer.status, answer.header("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    parsed = Parsed(answer.body)
    labels = {"kind": "action", "name": 'act \\ "x"'}
    assert parsed.of("daebus_handler_errors_total", **labels) == 1
    assert parsed.of("daebus_handler_duration_seconds_count", **labels) == 1
    assert parsed.of("daebus_received_total") >= 2
    assert parsed.of("daebus_redis_connected") == 1
    assert parsed.of("daebus_service_info", service="measured", version=__version__) == 1
    assert parsed.of("process_resident_memory_bytes") > 2**20
    assert parsed.of("process_start_time_seconds") == pytest.approx(time.time(), abs=600)
    assert fetch(script.port, "POST", path).status == 405
    again = Parsed(fetch(script.port, "GET", path).body)
    assert again.of("process_start_time_seconds") == parsed.of("process_start_time_seconds")
    assert again.of("process_cpu_seconds_total") >= parsed.of("process_cpu_seconds_total")


def test_a_route_of_the_users_at_that_path_is_declared_twice(bus: PrivateServer, launch: Launcher) -> None:
    body = "@app.route('/metrics')\ndef mine(req):\n    return {}\n"
    script = launch.start(
        HTTP_PROLOGUE + body, server=bus, service="twice", env={"PORT": "0", "HTTP": '{"metrics": true}'}
    )
    assert script.wait() == 1
    assert "GET '/metrics' is declared twice" in script.log


def test_metrics_say_that_redis_is_away(own_bus: PrivateServer, launch: Launcher) -> None:
    script = launch.site("", server=own_bus, service="lonely", settings={"metrics": True})
    own_bus.kill()
    wait_for(lambda: Parsed(fetch(script.port, "GET", "/metrics").body).of("daebus_redis_connected") == 0, LIMIT)
