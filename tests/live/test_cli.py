"""The command `daebus`: what it prints, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import daebus
from daebus.cli import COMMANDS
from daebus.redisserver import PrivateServer
from tests.outside import Launcher, Link, Script, Side, environment, free_port, subscribers
from tests.support import MS, wait_for

SERVICE = """
from daebus import RemoteError

@app.action("echo")
def echo():
    return request.payload

@app.action("steps")
def steps():
    yield {"percent": 50}
    return "done"

@app.action("fail")
def fail():
    raise RemoteError("the lamp\\nis \\x1b[31m broken")

@app.action("crash")
def crash():
    raise KeyError("secret")

@app.action("sleep")
def sleep():
    note("asleep")
    time.sleep(1)
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
LIMIT = 20_000 * MS


@pytest.fixture(params=["own_side", "debian_side"])
def used(request: pytest.FixtureRequest) -> Side:
    """The newest libraries, and Debian's."""
    chosen: Side = request.getfixturevalue(request.param)
    return chosen


def command_line(side: Side) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment. Without PYTHONUNBUFFERED: it must flush by itself."""
    env = environment(side, {"PYTHONPATH": str(Path(daebus.__file__).parent.parent)})
    del env["PYTHONUNBUFFERED"]
    return [str(side.python), "-m", "daebus"], env


@pytest.fixture
def run(used: Side, own_bus: PrivateServer) -> Run:
    """Runs the command to its end, with the usual settings for Redis."""
    command, env = command_line(used)

    def run_it(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        values = {**env, "DAEBUS_REDIS_URL": own_bus.url, **extra}
        return subprocess.run(
            [*command, *words], env=values, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    return run_it


@pytest.fixture
def start(used: Side, own_bus: PrivateServer) -> Iterator[Start]:
    """Starts the command; what still runs at the end is killed."""
    command, env = command_line(used)
    started = []

    def start_it(*words: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        values = {**env, "DAEBUS_REDIS_URL": own_bus.url}
        started.append(subprocess.Popen([*command, *words], env=values, text=True, **pipes))
        return started[-1]

    yield start_it
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def service(launch: Launcher, own_bus: PrivateServer) -> Script:
    return launch.service(SERVICE, server=own_bus, service="lamp")


def until_heard(server: PrivateServer, channel: str, message: object) -> None:
    """Publish as soon as somebody listens."""
    data = message if isinstance(message, bytes) else json.dumps(message)
    with Link(server) as link:
        wait_for(lambda: int(link.call("PUBLISH", channel, data)), LIMIT)


def line(process: subprocess.Popen[str], stream: str = "stdout") -> str:
    return str(getattr(process, stream).readline())


# --- call ---


@pytest.mark.parametrize(
    ("words", "payload"),
    [
        ((), {}),
        (("name=Ada", "age=36", "on=true", 'text="5"', "empty=", "x=a=b"),
         {"name": "Ada", "age": 36, "on": True, "text": "5", "empty": "", "x": "a=b"}),
        (('{"a": [1, null]}',), {"a": [1, None]}),
        (('"a=b"',), "a=b"),
        (("--", "-5"), -5),
        (("n=NaN",), {"n": "NaN"}),
    ],
)  # fmt: skip
def test_the_payload_comes_back(run: Run, service: Script, words: tuple[str, ...], payload: object) -> None:
    done = run("call", "lamp", "echo", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == payload
    assert done.stdout.count("\n") == 1


def test_text_is_readable_and_cannot_steer_a_terminal(run: Run, service: Script) -> None:
    done = run("call", "lamp", "echo", '"Gr\u00fc\u00dfe \\u009b31m \\u007f \\ud800"', LC_ALL="C")
    assert done.stdout == '"Gr\u00fc\u00dfe \\u009b31m \\u007f \\ud800"\n'


def test_the_answer_is_indented_on_a_terminal(start: Start, service: Script) -> None:
    terminal, other = pty.openpty()
    try:
        process = start("call", "lamp", "echo", "name=Ada", stdout=other)
        assert process.wait(LIMIT) == 0
        assert os.read(terminal, 1000) == b'{\r\n  "name": "Ada"\r\n}\r\n'
    finally:
        os.close(terminal)
        os.close(other)


def test_progress_goes_to_standard_error(run: Run, service: Script) -> None:
    done = run("call", "lamp", "steps")
    assert (done.returncode, done.stdout, done.stderr) == (0, '"done"\n', '{"percent": 50}\n')


def test_an_error_of_the_service_is_one_line_and_status_1(run: Run, service: Script) -> None:
    done = run("call", "lamp", "fail")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "daebus: error: the lamp is \\u001b[31m broken\n"
    done = run("call", "lamp", "nothing")
    assert (done.returncode, done.stderr[:24]) == (1, "daebus: unknown_action: ")
    done = run("call", "lamp", "crash")
    assert (done.returncode, done.stderr[:18]) == (1, "daebus: internal: ")
    assert done.stderr.count("\n") == 1


def test_what_is_not_there_is_status_3(run: Run, service: Script) -> None:
    assert_error(run("call", "nobody", "x"), "unavailable", 3)
    assert_error(run("call", "lamp", "sleep", "--timeout", "0.2"), "timeout", 3)
    assert_error(run("call", "nobody", "x", "--wait", "--timeout", "0.2"), "timeout", 3)
    nowhere = f"redis://127.0.0.1:{free_port()}"
    for words in (("call", "lamp", "echo"), ("pub", "x", "1"), ("sub", "x")):
        assert_error(run(*words, "--redis", nowhere), "redis_unavailable", 3)


@pytest.mark.parametrize(
    "words",
    [
        ("cal",),
        ("--nonsense",),
        ("call", "lamp"),
        ("call", "lamp", "echo", "word"),
        ("call", "lamp", "echo", "a=1", "a=2"),
        ("call", "lamp", "echo", "=1"),
        ("call", "lamp", "echo", "--timeout", "soon"),
        ("call", "lamp", "echo", "--timeout", "-1"),
        ("call", "two words", "echo"),
        ("call", "lamp", ""),
        ("call", "lamp", "echo", "--redis", "http://x"),
        ("pub", "x"),
        ("pub", "", "1"),
        ("sub",),
        ("sub", "x", "--count", "0"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert_error(done, "configuration" if "daebus: configuration: " in done.stderr else "usage", 2)


def assert_error(done: subprocess.CompletedProcess[str], code: str, status: int) -> None:
    assert done.stderr.startswith(f"daebus: {code}: ")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)


def test_a_request_is_held_until_the_service_is_there(start: Start, launch: Launcher, own_bus: PrivateServer) -> None:
    process = start("call", "late", "echo", "5", "--wait", "--timeout", "30")
    with Link(own_bus) as link:
        wait_for(lambda: b"daebus:caller" in link.call("CLIENT", "LIST"), LIMIT)
    launch.service(SERVICE, server=own_bus, service="late")
    assert process.communicate(timeout=LIMIT) == ("5\n", "")


def test_ctrl_c_while_an_answer_is_waited_for(start: Start, service: Script) -> None:
    process = start("call", "lamp", "sleep")
    wait_for(lambda: service.notes, LIMIT)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT) == ("", "")
    assert process.returncode == 130


# --- pub and sub ---


def test_a_message_is_published_and_heard(run: Run, start: Start, own_bus: PrivateServer) -> None:
    assert run("pub", "sensor.hall", "value=1").stdout == "0\n"
    process = start("sub", "sensor.*", "alerts", "--count", "2")
    with Link(own_bus) as link:
        wait_for(lambda: subscribers(link, "alerts") and int(link.call("PUBSUB", "NUMPAT")), LIMIT)
    assert run("pub", "sensor.hall", "value=21.5", "--redis", own_bus.tcp_url).stdout == "1\n"
    assert line(process) == 'sensor.hall\t{"value": 21.5}\n'
    assert run("pub", "alerts", "[1]").stdout == "1\n"
    assert process.communicate(timeout=LIMIT) == ("alerts\t[1]\n", "")
    assert process.returncode == 0


def test_any_message_is_one_line(start: Start, own_bus: PrivateServer) -> None:
    process = start("sub", "x*", "--count", "3")
    until_heard(own_bus, "x\t\n", b"no\njson \xff")
    until_heard(own_bus, "x", b"[" * 100_000)
    until_heard(own_bus, "x", {"a": "\n\x9b"})
    output, said = process.communicate(timeout=LIMIT)
    first, second, third = output.splitlines()
    assert first == 'x\\t\\n\t"no\\njson \ufffd"'
    assert second == f'x\t"{"[" * 100_000}"'
    assert third == 'x\t{"a": "\\n\\u009b"}'
    assert said == ""


def test_ctrl_c_ends_it_quietly(start: Start, own_bus: PrivateServer) -> None:
    process = start("sub", "x")
    until_heard(own_bus, "x", 1)
    assert line(process) == "x\t1\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT) == ("", "")
    assert process.returncode == 130


@pytest.mark.parametrize("busy", [True, False])
def test_a_closed_pipe_ends_it_quietly(start: Start, own_bus: PrivateServer, busy: bool) -> None:
    """With the next message, and without one."""
    process = start("sub", "x")
    until_heard(own_bus, "x", 1)
    assert line(process) == "x\t1\n"
    assert process.stdout is not None
    process.stdout.close()
    if busy:
        until_heard(own_bus, "x", 2)
    assert process.wait(LIMIT) == 141
    assert line(process, "stderr") == ""


def test_redis_goes_away_and_comes_back(start: Start, own_bus: PrivateServer) -> None:
    process = start("sub", "x")
    until_heard(own_bus, "x", 1)
    assert line(process) == "x\t1\n"
    own_bus.kill()
    assert line(process, "stderr").startswith("daebus: redis_unavailable: ")
    own_bus.restart()
    assert line(process, "stderr").endswith(" is back; what was published meanwhile was not heard\n")
    until_heard(own_bus, "x", 2)
    assert line(process) == "x\t2\n"


def test_redis_falls_silent(start: Start, own_bus: PrivateServer) -> None:
    process = start("sub", "x")
    until_heard(own_bus, "x", 1)
    own_bus.freeze()
    try:
        assert "did not answer a health check; trying again" in line(process, "stderr")
    finally:
        own_bus.thaw()
    assert " is back; " in line(process, "stderr")


# --- the rest ---


def test_the_output_has_no_room(start: Start, own_bus: PrivateServer) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("version", stdout=full)
        assert process.communicate(timeout=LIMIT)[1] == "daebus: output: No space left on device\n"
    assert process.returncode == 3


def test_the_version(run: Run) -> None:
    assert run("version").stdout == run("--version").stdout == f"{daebus.__version__}\n"


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)])
def test_help_has_an_example(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    shown = f"{done.stdout.rstrip()} ".replace("Example: sudo ", "Example: ")
    assert f"Example: {' '.join(('daebus', *words))} " in shown
    assert run(*words, "-h").stdout == done.stdout


def test_without_a_command_it_says_what_there_is(run: Run) -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Example: " in done.stderr
