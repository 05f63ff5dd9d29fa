"""`daebus monitor`: what it shows of the traffic between real programs, and what it may not see."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from daebus.redisserver import PrivateServer
from tests.command import LIMIT, Command, Terminal
from tests.outside import Launcher, Link, Script
from tests.support import wait_for

SERVICE = """
@app.action("dim")
def dim():
    return {"on": request.payload}

@app.action("fail")
def fail():
    raise RuntimeError("x")

@app.action("steps")
def steps():
    yield 1
    yield 2
    return 3

@app.action("sleep")
def sleep():
    time.sleep(20)

@app.action("pass_on")
def pass_on():
    with DaebusCaller("lamp", **REDIS) as caller:
        return caller.send_request("dim", 7)
"""

Watch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def lamp(launch: Launcher, own_bus: PrivateServer) -> Script:
    return launch.service(SERVICE, server=own_bus, service="lamp")


@pytest.fixture
def watch(command: Command, own_bus: PrivateServer) -> Watch:
    """Starts it, and returns when it hears."""

    def start(*words: str, hears: int = 1, **options: object) -> subprocess.Popen[str]:
        with Link(own_bus) as link:
            before = globs(link)
            process = command.start("monitor", *words, **options)
            wait_for(lambda: globs(link) >= before + hears, LIMIT)
        return process

    return start


def globs(link: Link) -> int:
    """How many globs all connections are subscribed to."""
    return sum(map(int, re.findall(rb" psub=(\d+)", link.call("CLIENT", "LIST"))))


def line(process: subprocess.Popen[str]) -> str:
    """The next line, without its time."""
    assert process.stdout is not None
    text = process.stdout.readline()
    assert re.match(r"\d\d:\d\d:\d\d\.\d\d\d ", text), text
    return text[13:].rstrip("\n")


def test_requests_with_their_answers_and_broadcasts(command: Command, watch: Watch, lamp: Script) -> None:
    process = watch()
    command.output("call", "lamp", "dim", "percent=40")
    assert re.fullmatch(
        r'\w{8} -> lamp dim {"percent": 40}  ok (\S+ ms|at once) {"on": {"percent": 40}}', line(process)
    )
    command.run("call", "lamp", "fail")
    assert re.match(r"\w{8} -> lamp fail {}  internal (\S+ ms|at once) The service failed", line(process))
    command.run("call", "lamp", "steps")
    assert line(process).endswith(" after 2 parts 3")
    command.output("pub", "display.refresh", "by=hand")
    assert line(process) == 'display.refresh {"by": "hand"}'
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT) == ("", "")
    assert process.returncode == 130


def test_a_service_that_calls_is_named(
    command: Command, watch: Watch, lamp: Script, launch: Launcher, own_bus: PrivateServer
) -> None:
    launch.service(SERVICE, server=own_bus, service="panel")
    process = watch("--count", "2")
    command.output("call", "panel", "pass_on")
    assert line(process).startswith("panel -> lamp dim 7  ok ")
    assert re.match(r"\w{8} -> panel pass_on {}  ok ", line(process))
    assert process.wait(LIMIT) == 0


def test_a_monitor_is_not_taken_for_a_service(command: Command, watch: Watch) -> None:
    process = watch()
    done = command.run("call", "nobody", "dim", "--timeout", "0.3")
    assert (done.returncode, done.stderr.partition(":")[2].partition(":")[0].strip()) == (3, "unavailable")
    assert re.fullmatch(r"\w{8} -> nobody dim {}  no answer within \d.* m?s", line(process))


def test_what_hangs_is_shown_when_its_time_is_up(command: Command, watch: Watch, lamp: Script) -> None:
    process = watch("--count", "1")
    command.run("call", "lamp", "sleep", "--timeout", "0.3")
    assert "-> lamp sleep {}  no answer within " in line(process)


def test_daebus_own_requests_are_shown_on_request_only(command: Command, watch: Watch, lamp: Script) -> None:
    hidden, shown = watch("lamp"), watch("--all")
    command.output("ping", "lamp")
    assert "-> lamp $daebus.ping {}  ok " in line(shown)
    command.output("call", "lamp", "dim")
    assert "-> lamp dim {}" in line(hidden)


def test_names_limit_it(command: Command, watch: Watch, lamp: Script) -> None:
    process = watch("lamp")
    command.output("pub", "display.refresh", "1")
    command.output("pub", "lamp.news", "2")
    assert line(process) == "lamp.news 2"


def test_fields_are_hidden(command: Command, watch: Watch, lamp: Script) -> None:
    process, all_hidden = watch("--redact", "pin", "--redact", "key"), watch("--redact-all", "--json")
    command.output("call", "lamp", "dim", "pin=1234", 'user={"KEY": "1234", "id": 5}')
    assert line(process).count('{"pin": "***", "user": {"KEY": "***", "id": 5}}') == 2
    assert all_hidden.stdout is not None
    text = all_hidden.stdout.readline()
    assert "1234" not in text
    event = json.loads(text)
    assert (event["payload"], event["answer"], event["action"]) == ("***", "***", "dim")


def test_json_has_all_of_it(command: Command, watch: Watch, lamp: Script) -> None:
    process = watch("--json", "--count", "1")
    command.output("call", "lamp", "dim", "percent=40")
    event = json.loads(process.communicate(timeout=LIMIT)[0])
    assert event.pop("ms") >= 0
    assert {key: event[key] for key in ("kind", "service", "action", "payload", "status", "answer", "parts")} == {
        "kind": "request", "service": "lamp", "action": "dim", "payload": {"percent": 40}, "status": "ok",
        "answer": {"on": {"percent": 40}}, "parts": 0,
    }  # fmt: skip


def test_a_line_keeps_to_the_terminal(command: Command, watch: Watch, lamp: Script) -> None:
    with Terminal(60, 24) as terminal:
        watch("--count", "1", **terminal.streams())
        command.output("call", "lamp", "dim", f"text={'x' * 200}")
        terminal.until("\n")
        (shown,) = terminal.frame.splitlines()
        assert len(shown) == 60
        assert "… " in shown
        assert " ok " in shown


def test_redis_goes_away_and_comes_back(command: Command, watch: Watch, own_bus: PrivateServer) -> None:
    process = watch()
    assert process.stderr is not None
    own_bus.kill()
    assert process.stderr.readline().startswith("daebus: redis_unavailable: ")
    own_bus.restart()
    assert " is back; " in process.stderr.readline()
    command.output("pub", "x", "1")
    assert line(process) == "x 1"


def as_user(server: PrivateServer, *rules: str) -> str:
    """Make a user of Redis; how it logs in."""
    with Link(server) as link:
        link.call("ACL", "SETUSER", "someone", "reset", "on", ">secret", "+@all", *rules)
    return server.tcp_url.replace("redis://", "redis://someone:secret@")


def test_it_says_what_it_may_not_see(command: Command, watch: Watch, lamp: Script, own_bus: PrivateServer) -> None:
    url = as_user(own_bus, "resetchannels", "&lamp", "&lamp.*", "&caller:*")
    process = watch("lamp", "--count", "1", "--redis", url, hears=2)
    assert process.stderr is not None
    assert "does not let this user hear all channels" in process.stderr.readline()
    assert process.stderr.readline() == "daebus: not seen either: workflow:*\n"
    command.output("call", "lamp", "dim")
    assert "-> lamp dim {}  ok " in line(process)


def test_it_may_see_nothing(command: Command, own_bus: PrivateServer) -> None:
    done = command.run("monitor", "--redis", as_user(own_bus, "resetchannels"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith("daebus: redis_refused: ")
