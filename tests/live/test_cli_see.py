"""`daebus ls`, `info` and `ping` with real services; and Tab completion."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daebus.redisserver import PrivateServer
from tests.command import LIMIT, Command, Terminal
from tests.outside import Launcher, Link, Script, Side, free_port
from tests.support import skip_or_fail, wait_for

PATIENT = ("--timeout", "20")
"""For a machine on which a service may be slow to answer."""

SERVICE = """
@app.action("dim")
def dim():
    '''Dim the lamp.

    With patience.'''
    raise KeyError("x")

@app.action("off")
def off():
    return None

@app.listen("display.*")
def heard(payload):
    pass

@app.listen("alerts")
def alert(payload):
    pass

@app.workflow("pair")
def pair():
    pass

@app.background("beat", 60)
def beat():
    pass
"""


@pytest.fixture
def lamp(launch: Launcher, own_bus: PrivateServer) -> Script:
    return launch.service(SERVICE, server=own_bus, service="lamp")


# --- ls ---


def test_nothing_there(any_command: Command) -> None:
    done = any_command.run("ls")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("daebus: no service is running on the Redis at ")
    assert any_command.run("ls", "--json").stdout == "[]\n"
    assert any_command.run("ping").stderr == done.stderr
    assert any_command.run("top", "--count", "1", "--interval", "0.1").returncode == 0


def test_services_with_their_processes(
    any_command: Command, lamp: Script, launch: Launcher, own_bus: PrivateServer
) -> None:
    shared = [
        launch.service("", server=own_bus, service="sensor", run={"shared": True}).pid for _number in range(2)
    ]  # fmt: skip
    titles, first, second = any_command.output("ls", *PATIENT).splitlines()
    assert titles.split() == ["NAME", "PID", "UNIT", "UPTIME", "HANDLERS"]
    assert re.fullmatch(rf"lamp +{lamp.pid} +\S+ +\d+s +2 actions, 2 channels, 1 workflow, 1 task", first)
    assert re.fullmatch(rf"sensor +{min(shared)} {max(shared)} +\S+ +\d+s +none", second)
    entries = json.loads(any_command.output("ls", "--json", *PATIENT))
    assert [(entry["service"], entry["answering"], len(entry["processes"])) for entry in entries] == [
        ("lamp", True, 1),
        ("sensor", True, 2),
    ]
    assert entries[0]["handlers"]["actions"] == 2


def test_a_service_that_hangs_is_listed_as_such(command: Command, lamp: Script) -> None:
    lamp.send_signal(signal.SIGSTOP)
    assert command.output("ls", "--timeout", "0.2").splitlines()[1].split() == [
        "lamp", "-", "-", "-", "not", "answering",
    ]  # fmt: skip
    done = command.run("info", "lamp", "--timeout", "0.2")
    assert done.returncode == 3
    assert done.stderr.startswith("daebus: timeout: 'lamp' is there and does not answer within 0.2 s")
    done = command.run("ping", "lamp", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (3, "lamp  no answer\n")


def test_one_of_two_processes_hangs(command: Command, launch: Launcher, own_bus: PrivateServer) -> None:
    one, other = (
        launch.service(SERVICE, server=own_bus, service="sensor", run={"shared": True}) for _number in range(2)
    )
    other.send_signal(signal.SIGSTOP)
    row = command.output("ls", "--timeout", "0.3").splitlines()[1]
    assert str(one.pid) in row
    assert "1 process not answering; 2 actions" in row
    assert "1 more process not answering" in command.output("info", "sensor", "--timeout", "0.3")


def test_channels_that_are_heard(command: Command, lamp: Script) -> None:
    listed = command.output("ls", "--channels", *PATIENT).partition("\n\n")[2].splitlines()
    assert [line.split() for line in listed] == [
        ["CHANNEL", "SUBSCRIBERS", "SERVICES"],
        ["alerts", "1", "lamp"],
        ["display.*", "-", "lamp"],
    ]
    found = json.loads(command.output("ls", "--channels", "--json", *PATIENT))
    assert found["channels"][0] == {"channel": "alerts", "subscribers": 1, "services": ["lamp"]}
    assert found["services"][0]["service"] == "lamp"


def test_the_table_keeps_to_the_terminal(command: Command, lamp: Script) -> None:
    with Terminal(40, 24) as terminal:
        assert command.start("ls", *PATIENT, **terminal.streams()).wait(LIMIT) == 0
        titles, row = terminal.until("…").splitlines()
        assert (len(row), row[:4], titles[:4]) == (40, "lamp", "NAME")


def test_redis_is_away(command: Command) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}"
    for words in (("ls",), ("info", "lamp"), ("ping",), ("ping", "lamp"), ("top",), ("monitor",)):
        done = command.run(*words, "--redis", nowhere)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("daebus: redis_unavailable: ")
        assert done.stderr.count("\n") == 1


# --- info ---


def test_what_a_service_offers(any_command: Command, lamp: Script) -> None:
    any_command.run("call", "lamp", "dim")
    shown = any_command.output("info", "lamp", *PATIENT)
    assert f"\n  process    {lamp.pid} on " in shown
    found = re.search(
        r"last error KeyError in action dim, .* ago .*\n +(?:in its log under|daebus logs --error-id) (\w+)\n", shown
    )
    assert found is not None
    assert found[1] in lamp.log
    assert re.search(
        r"Actions\n  dim\(.*\)\n      Dim the lamp.\n      .*script.py:\d+\n      \$ daebus call lamp dim\n", shown
    )
    for title in ("Channels heard\n  display.*", "Workflows\n  pair", "Tasks\n  beat, each 60 s"):
        assert title in shown
    found_json = json.loads(any_command.output("info", "lamp", "--json", *PATIENT))
    (process,) = found_json["processes"]
    assert process["last_error"]["type"] == "KeyError"
    assert [action["name"] for action in process["actions"]] == ["dim", "off"]


def test_one_handler(command: Command, lamp: Script) -> None:
    shown = command.output("info", "lamp", "dim", *PATIENT)
    assert shown.startswith("Actions\n  dim(")
    assert "off" not in shown
    assert json.loads(command.output("info", "lamp", "alerts", "--json", *PATIENT))[0]["section"] == "channels"


def test_who_asks_for_what_is_not_there_is_told_what_is(command: Command, lamp: Script) -> None:
    done = command.run("info", "lmp")
    assert done.returncode == 3
    assert done.stderr.endswith("; did you mean 'lamp'?\n")
    done = command.run("info", "lamp", "dmi", *PATIENT)
    assert done.returncode == 2
    assert "lamp has no handler 'dmi'; did you mean 'dim'?" in done.stderr


def test_a_service_cannot_steer_the_terminal(command: Command, launch: Launcher, own_bus: PrivateServer) -> None:
    body = """
        @app.action("a\\x1b[31m")
        def a():
            "Red \\x1b[31m \\x9b."
    """
    launch.service(body, server=own_bus, service="evil")
    for words in (("info", "evil"), ("top", "evil", "--count", "1", "--interval", "0.1"), ("info", "evil", "--json")):
        shown = command.output(*words)
        assert "a\\u001b[31m" in shown
        assert all(sign.isprintable() or sign == "\n" for sign in shown)


@pytest.mark.parametrize("name", ["ls", "info", "ping", "monitor", "top", "completion"])
def test_help_has_an_example(command: Command, name: str) -> None:
    assert f"Example: daebus {name} " in f"{command.output(name, '--help').rstrip()} "


# --- ping ---


def test_signs_of_life(command: Command, lamp: Script) -> None:
    assert re.fullmatch(rf"lamp +\d[\d.]+ ms  process {lamp.pid}\n", command.output("ping", *PATIENT))
    done = command.run("ping", "lamp", "nobody", "--count", "2", "--interval", "0")
    assert (done.returncode, done.stderr) == (3, "")
    lines = done.stdout.splitlines()
    assert lines[1] == lines[3] == "nobody  not there"
    assert lines[5].split() == ["SERVICE", "SENT", "LOST", "SHORTEST", "MEAN", "LONGEST"]
    assert lines[7].split() == ["nobody", "2", "2", "-", "-", "-"]
    entry = json.loads(command.output("ping", "lamp", "--json", *PATIENT))
    assert (entry["service"], entry["pid"]) == ("lamp", lamp.pid)


def test_ctrl_c_ends_the_rounds_with_their_sum(command: Command, lamp: Script) -> None:
    process = command.start("ping", "lamp", "--count", "1000", "--interval", "0.01")
    assert process.stdout is not None
    for _line in range(3):
        assert process.stdout.readline().startswith("lamp ")
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=LIMIT)
    assert (said, process.returncode) == ("", 130)
    assert "SENT  LOST" in rest


# --- completion ---


def completed(command: Command, *words: str) -> list[str]:
    """What click offers for the last word, as the scripts of bash ask for it."""
    done = command.run(
        _DAEBUS_COMPLETE="bash_complete", COMP_WORDS=" ".join(["daebus", *words]), COMP_CWORD=str(len(words))
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_words_are_completed(any_command: Command) -> None:
    assert completed(any_command, "mo") == ["monitor"]
    assert completed(any_command, "completion", "z") == ["zsh"]
    assert "--count" in completed(any_command, "top", "--c")


HANDLERS = ["alerts", "beat", "dim", "display.*", "off", "pair"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("call", "l"), ["lamp", "lantern"]),
        (("info", "lam"), ["lamp"]),
        (("ping", ""), ["lamp", "lantern"]),
        (("ping", "lamp", ""), ["lantern"]),
        (("top", "lan"), ["lantern"]),
        (("monitor", "lamp", "l"), ["lantern"]),
        (("call", "lamp", "d"), ["dim"]),
        (("info", "lamp", ""), HANDLERS),
        (("sub", "al"), ["alerts"]),
        (("pub", "al"), ["alerts"]),
    ],
)
def test_what_is_there_is_completed(used_bus: Command, words: tuple[str, ...], offered: list[str]) -> None:
    wait_for(lambda: completed(used_bus, *words) == offered, LIMIT)  # a busy machine may need more than one try


@pytest.fixture(scope="module")
def used_bus(own_side: Side, bus: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command on a bus with two services."""
    launcher = Launcher(tmp_path_factory.mktemp("services"), own_side)
    made = Command(own_side, bus, tmp_path_factory.getbasetemp() / "compiled")
    for name in ("lamp", "lantern"):
        launcher.service(SERVICE if name == "lamp" else "", server=bus, service=name)
    yield made
    launcher.end_all()


def test_completion_is_silent_and_quick_whatever_happens(
    command: Command, lamp: Script, own_bus: PrivateServer
) -> None:
    assert completed(command, "call", "--redis", f"redis://127.0.0.1:{free_port()}", "l") == []
    assert completed(command, "call", "--redis", "nonsense", "l") == []
    assert completed(command, "call", "nobody", "") == []
    lamp.send_signal(signal.SIGSTOP)
    assert completed(command, "call", "lamp", "") == []
    own_bus.freeze()
    try:
        assert completed(command, "call", "l") == []  # Redis would be waited for until it is thawed
    finally:
        own_bus.thaw()


def test_a_channel_cannot_put_a_command_on_the_line(command: Command, own_bus: PrivateServer) -> None:
    with Link(own_bus) as link:
        link.send("SUBSCRIBE", "alarm", "alarm;reboot", "alarm$(id)")
        wait_for(lambda: completed(command, "sub", "al") == ["alarm"], LIMIT)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(any_command: Command, shell: str) -> None:
    script = any_command.output("completion", shell)
    assert f"_DAEBUS_COMPLETE={shell}_complete" in script


def test_an_interactive_bash_completes_a_service(command: Command, lamp: Script, tmp_path: Path) -> None:
    bash = shutil.which("bash") or skip_or_fail("no bash")
    (tmp_path / "daebus").write_text(f'#!/bin/sh\nexec {" ".join(command.words)} "$@"\n')
    (tmp_path / "daebus").chmod(0o755)
    env = {**command.env, "PATH": f"{tmp_path}:{command.env['PATH']}", "TERM": "dumb", "PS1": "$ ", "HISTFILE": ""}
    main, other = pty.openpty()
    shell = subprocess.Popen(
        [bash, "--norc", "--noprofile", "-i"], env=env, stdin=other, stdout=other, stderr=other, start_new_session=True
    )
    try:
        os.write(main, b'eval "$(daebus completion bash)"; echo prepa""red\n')
        until(main, "prepared")
        os.write(main, b"daebus call la\t")
        until(main, r"daebus call lamp ")
        os.write(main, b"di\t")
        until(main, r"dim ")
    finally:
        shell.kill()
        shell.wait()
        os.close(main)
        os.close(other)


def until(descriptor: int, pattern: str) -> None:
    """Read from a terminal until what came matches."""
    text, deadline = "", time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            text += os.read(descriptor, 10_000).decode(errors="replace")
        if re.search(pattern, text):
            return
    raise AssertionError(f"no {pattern!r} in {text!r}")
