"""`daebus top`: on a terminal and elsewhere, while services come and go, and Redis too."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from daebus.redisserver import PrivateServer
from tests.command import LIMIT, Command, Terminal
from tests.outside import Launcher, Link, Script
from tests.support import skip_or_fail, wait_for

SERVICE = """
@app.action("dim")
def dim():
    return 1

@app.background("call", 0.02)
def call():
    with DaebusCaller("lamp", **REDIS) as caller:
        caller.send_request("dim")
"""


@pytest.fixture
def lamp(launch: Launcher, own_bus: PrivateServer) -> Script:
    return launch.service(SERVICE, server=own_bus, service="lamp")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as made:
        yield made


@pytest.fixture
def shown(command: Command, terminal: Terminal, lamp: Script) -> subprocess.Popen[str]:
    """It runs in the terminal, and its first round has ended."""
    process = command.start("top", "--interval", "0.2", **terminal.streams())
    terminal.until(r"lamp +[1-9]")
    return process


# --- on a terminal ---


def test_the_table_stands_on_the_screen_until_q(shown: subprocess.Popen[str], terminal: Terminal) -> None:
    head, redis, titles, row, *rest = terminal.frame.split("\n")
    assert head.startswith("daebus top  ")
    assert redis.startswith("Redis at ")
    assert titles.split()[:7] == ["SERVICE", "CALLS/S", "ERR/S", "P50", "P99", "BUSY", "QUEUED"]
    assert row.split()[0] == "lamp"
    assert rest == []
    assert not terminal.is_normal
    terminal.type("xq")
    assert shown.wait(LIMIT) == 0
    assert terminal.read().is_normal


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_terminal_is_given_back_after_a_signal(
    shown: subprocess.Popen[str], terminal: Terminal, number: int, status: int
) -> None:
    shown.send_signal(number)
    assert shown.wait(LIMIT) == status
    assert terminal.read().is_normal


def test_ctrl_c_is_a_key_of_the_terminal(shown: subprocess.Popen[str], terminal: Terminal) -> None:
    terminal.type("\x03")
    assert shown.wait(LIMIT) == 130
    assert terminal.read().is_normal


def test_the_terminal_is_given_back_while_it_is_stopped(command: Command, terminal: Terminal, lamp: Script) -> None:
    """By Ctrl-Z in a shell, which alone can stop a program of its own."""
    bash = shutil.which("bash") or skip_or_fail("no bash")
    streams = terminal.streams()
    env = {**command.env, **streams.pop("env"), "PS1": "$ "}
    with subprocess.Popen([bash, "--norc", "-i"], env=env, **streams) as shell:
        try:
            terminal.type(f"{' '.join(command.words)} top --interval 0.2\n")
            terminal.until(r"lamp +[1-9]")
            assert not terminal.is_normal
            terminal.type("\x1a")
            wait_for(lambda: "Stopped" in terminal.read().written, LIMIT)
            assert terminal.written.rfind("\x1b[?1049l") > terminal.written.rfind("\x1b[?1049h")
            terminal.written = ""
            terminal.type("fg\n")
            terminal.until(r"daebus top .*lamp +[1-9]")
            terminal.type("q")
            wait_for(lambda: "\x1b[?1049l" in terminal.read().written, LIMIT)
        finally:
            shell.kill()


def test_it_keeps_within_a_terminal_that_shrinks(shown: subprocess.Popen[str], terminal: Terminal) -> None:
    assert "MEMORY" in terminal.frame
    terminal.resize(30, 3)
    frame = terminal.until(r"^(?!.*MEMORY)(?=.*SERVICE)")
    assert len(frame.split("\n")) <= 3
    assert all(len(line) <= 30 for line in frame.split("\n"))
    terminal.resize(120, 24)
    assert "REDIS LOST" in terminal.until("REDIS LOST")


def test_services_come_and_go(
    shown: subprocess.Popen[str], terminal: Terminal, launch: Launcher, own_bus: PrivateServer
) -> None:
    other = launch.service("", server=own_bus, service="other")
    terminal.until(r"2 services.*\nother +")
    other.send_signal(signal.SIGSTOP)
    terminal.until(r"QUEUED[^\n]*\nother +- +- +- +- +not answering")
    other.send_signal(signal.SIGCONT)
    terminal.until(r"other +0 ")
    other.send_signal(signal.SIGTERM)
    assert "other" not in terminal.until("1 service ")


def test_redis_goes_away_and_comes_back(
    shown: subprocess.Popen[str], terminal: Terminal, own_bus: PrivateServer
) -> None:
    own_bus.kill()
    assert "lamp" in terminal.until("\ntrying again: Redis at ")
    own_bus.restart()
    terminal.until(r"\nRedis at .*\nlamp +[1-9]")
    assert shown.poll() is None


def test_no_colour_where_nobody_wants_it(command: Command, terminal: Terminal, lamp: Script) -> None:
    streams = terminal.streams()
    streams["env"]["NO_COLOR"] = "1"
    command.start("top", "--interval", "0.2", **streams)
    terminal.until(r"lamp ")
    assert "\x1b[1m" not in terminal.written
    with Terminal() as coloured:
        command.start("top", "--interval", "0.2", **coloured.streams())
        coloured.until(r"lamp ")
        assert "\x1b[1m" in coloured.written


def test_handlers_of_a_service_on_the_screen(command: Command, terminal: Terminal, lamp: Script) -> None:
    command.start("top", "lamp", "--interval", "0.2", **terminal.streams())
    assert "LONGEST" in terminal.until(r"action +dim +[1-9]")


# --- elsewhere ---


def test_a_table_for_each_round(any_command: Command, lamp: Script) -> None:
    rounds = any_command.output("top", "--interval", "0.2", "--count", "2").split("\n\n")
    assert len(rounds) == 2
    for text in rounds:
        head, titles, row = text.strip().split("\n")
        assert head.endswith("  1 service")
        assert titles.endswith("REDIS LOST")
        assert float(row.split()[1]) > 1


def test_a_line_of_json_for_each_round(command: Command, lamp: Script) -> None:
    (line,) = command.output("top", "--interval", "0.2", "--count", "1", "--json").splitlines()
    (row,) = json.loads(line)["services"]
    assert (row["service"], row["processes"], row["max_workers"], row["not_answering"]) == ("lamp", 1, 10, 0)
    assert row["calls_per_s"] > 1
    assert 0 < row["p50"] <= row["p99"]
    (line,) = command.output("top", "lamp", "--interval", "0.2", "--count", "1", "--json").splitlines()
    assert {entry["name"] for entry in json.loads(line)["handlers"] if entry["calls_per_s"]} == {"dim", "call"}


def test_it_says_what_is_not_there(command: Command, lamp: Script) -> None:
    done = command.run("top", "nobody")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("daebus: unavailable: no service 'nobody' is running")


def test_redis_away_is_said_once_and_its_return_too(command: Command, lamp: Script, own_bus: PrivateServer) -> None:
    process = command.start("top", "--interval", "0.1")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    own_bus.kill()
    assert "trying again" in process.stderr.readline()
    own_bus.restart()
    assert process.stderr.readline() == "daebus: it is back\n"


def test_a_closed_pipe_ends_it(command: Command, lamp: Script) -> None:
    process = command.start("top", "--interval", "0.1")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(LIMIT) == 141


def test_a_stranger_on_a_service_channel_does_no_harm(command: Command, lamp: Script, own_bus: PrivateServer) -> None:
    """Whoever subscribes where services do is taken for one that does not answer."""
    with Link(own_bus) as link:
        link.send("SUBSCRIBE", "stranger.$daebus", "stranger")
        link.read(LIMIT)
        rounds = command.output("top", "--interval", "0.2", "--count", "1")
        assert "not answering" in rounds.splitlines()[2]
        assert "not answering" in command.output("ls", "--timeout", "0.2")
