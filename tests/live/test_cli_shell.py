"""`daebus shell`: Python with the services at hand."""

from __future__ import annotations

import ast
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import Launcher, Script, Side, free_port
from tests.support import MS, private_server, wait_for

LIMIT = 20_000 * MS
SERVICE = """
@app.action("echo")
def echo():
    return request.payload

@app.action("actions")
def actions():
    return "mine"

@app.action("with space")
def with_space():
    yield {"percent": 50}
    return "done"

@app.action("sleep")
def sleep():
    note("asleep")
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    """With the services of this module alone."""
    with private_server() as made:
        yield made


@pytest.fixture(scope="module")
def lamps(server: PrivateServer, own_side: Side, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("lamp"), own_side)
    yield launcher.service(SERVICE, server=server, service="lamp")
    launcher.end_all()


@pytest.fixture
def lamp(lamps: Script) -> Script:
    """One service for all tests, whose notes are those of one test."""
    (lamps.folder / "notes").unlink(missing_ok=True)
    return lamps


def environment(server: PrivateServer, **extra: str) -> dict[str, str]:
    return {**os.environ, "DAEBUS_REDIS_URL": server.url, "TERM": "dumb", **extra}


def shell(server: PrivateServer, *words: str, typed: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, "-m", "daebus", "shell", *words],
        input=typed, env=environment(server), text=True, timeout=LIMIT, check=False, **pipes,
    )  # fmt: skip


# --- code from elsewhere ---


VALUES = {
    "lamp.echo(percent=40, room='hall')": {"percent": 40, "room": "hall"},
    "lamp.echo([1, None])": [1, None],
    "lamp.echo()": {},
    "lamp.echo(None)": None,
    "lamp.actions": ["echo", "actions", "with space", "sleep"],
    "lamp['actions']()": "mine",
    "lamp.info['service']": "lamp",
    "dir(lamp)": ["actions", "echo", "info", "sleep"],
    "dir(services)": ["lamp"],
    "repr((services, services.lamp, lamp.echo))": "(<services: lamp>, <service 'lamp'>, <action 'echo' of 'lamp'>)",
    "call('lamp', 'echo', a=1)": {"a": 1},
    "publish('nobody-hears', {'a': 1})": 0,
    "cache.set('k', 'v')": True,
    "cache.get('k')": "v",
    "cache.get('nothing')": None,
    "list(services)": ["lamp"],
}


def test_what_is_at_hand(server: PrivateServer, lamp: Script) -> None:
    done = shell(server, "-c", f"print([{', '.join(VALUES)}])")
    assert (done.returncode, done.stderr) == (0, "")
    for (code, expected), found in zip(VALUES.items(), ast.literal_eval(done.stdout), strict=True):
        assert found == expected, code


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("lamp.echo(a='x')", "{'a': 'x'}\n"),
        ("None", ""),
        ("for name in services: print(name)", "lamp\n"),
        ("list(range(40))", "[" + ",\n ".join(map(str, range(40))) + "]\n"),
    ],
)
def test_a_word_is_run(server: PrivateServer, lamp: Script, code: str, output: str) -> None:
    done = shell(server, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_a_script_is_run(server: PrivateServer, lamp: Script) -> None:
    """Its values are not printed, as Python's own are not."""
    done = shell(server, typed="def twice(x):\n    return [lamp.echo(x)] * 2\n\ntwice(5)\nprint(twice(6))\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[6, 6]\n", "")


def test_progress_goes_to_standard_error(server: PrivateServer, lamp: Script) -> None:
    done = shell(server, "-c", "lamp['with space']()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "'done'\n", '{"percent": 50}\n')


@pytest.mark.parametrize(
    ("code", "said", "status"),
    [
        ("lamp.nothing()", "daebus: unknown_action: ", 1),
        ("lamp.echo(1, a=2)", "daebus: configuration: give one value as the payload, or fields by name, ", 2),
        ("services.nobody.actions", "daebus: unavailable: ", 3),
        ("publish('', 1)", "daebus: configuration: ", 2),
        ("exit(7)", "", 7),
    ],
)
def test_errors_of_daebus_are_those_of_the_command(
    server: PrivateServer, lamp: Script, code: str, said: str, status: int
) -> None:
    done = shell(server, typed=code)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


@pytest.mark.parametrize("code", ["print('before')\n1 / 0", "print('before')\nopen('/no/such/file')"])
def test_other_errors_are_those_of_python(server: PrivateServer, lamp: Script, code: str) -> None:
    """The traceback begins in the person's own code."""
    done = shell(server, typed=code)
    assert (done.returncode, done.stdout) == (1, "before\n")
    assert done.stderr.startswith('Traceback (most recent call last):\n  File "<stdin>", line 2, in <module>\n')
    assert "daebus" not in done.stderr
    done = shell(server, typed="x = (\n")
    assert (done.returncode, "SyntaxError" in done.stderr, "daebus" in done.stderr) == (1, True, False)


def test_a_limit_for_each_call(server: PrivateServer, lamp: Script) -> None:
    done = shell(server, "-c", "lamp.sleep()", "--timeout", "0.2")
    assert (done.returncode, done.stderr[:17]) == (3, "daebus: timeout: ")


def test_only_what_is_named(server: PrivateServer, lamp: Script) -> None:
    """It need not be there yet."""
    assert shell(server, "later", "-c", "later").stdout == "<service 'later'>\n"
    assert shell(server, "later", "-c", "lamp").returncode == 1


def test_no_service_hides_what_python_has(server: PrivateServer, launch: Launcher) -> None:
    for name in ("print", "call", "import", "desk-lamp"):
        launch.service(SERVICE, server=server, service=name)
    code = "print(set(services) - {'lamp'} == names, call('print', 'echo', 1), services['import'].echo(2))"
    done = shell(server, "-c", f"names = {{'call', 'desk-lamp', 'import', 'print'}}\n{code}")
    assert (done.stdout, done.stderr) == ("True 1 2\n", "")


def test_what_cannot_be_started(server: PrivateServer) -> None:
    for words, status in ((("two words",), 2), (("--redis", f"redis://127.0.0.1:{free_port()}"), 3)):
        done = shell(server, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)


def test_the_output_has_no_room(server: PrivateServer) -> None:
    with Path("/dev/full").open("w") as full:
        done = shell(server, "-c", "1", stdout=full)
    assert (done.returncode, done.stderr) == (3, "daebus: output: No space left on device\n")


# --- at a terminal ---


class Terminal:
    """A shell at a terminal: types, and waits for what is to be seen."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor, self.process, self.seen = descriptor, process, ""

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self._descriptor, text.encode())

    def until(self, text: str) -> None:
        deadline = time.monotonic() + LIMIT
        while text not in self.seen:
            if not select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"{text!r} is not in {self.seen!r}")
            try:
                self.seen += os.read(self._descriptor, 4096).decode(errors="replace")
            except OSError:  # it has ended
                pytest.fail(f"{text!r} is not in {self.seen!r}")


@contextmanager
def terminal(server: PrivateServer, *words: str, **extra: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "daebus", "shell", *words],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment(server, **extra), start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_conversation(server: PrivateServer, lamp: Script, tmp_path: Path) -> None:
    with terminal(server, XDG_STATE_HOME=str(tmp_path / "state")) as shown:
        shown.until(">>> ")
        assert "Services: lamp\r\n" in shown.seen
        assert "lamp.actions" in shown.seen
        shown.type("lamp.ec\t")
        shown.until("lamp.echo(")
        shown.type("a=1)\n")
        shown.until("{'a': 1}\r\n>>> ")
        shown.type("lamp.nothing()\n")
        shown.until("daebus: unknown_action: ")
        shown.until(">>> ")
        assert "Traceback" not in shown.seen
        shown.type("1 / 0\n")
        shown.until("ZeroDivisionError")
        shown.until(">>> ")
        shown.type("\x04")
        assert shown.process.wait(LIMIT) == 0
    history = tmp_path / "state" / "daebus" / "shell-history"
    assert history.read_text() == "lamp.echo(a=1)\nlamp.nothing()\n1 / 0\n"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700


def test_what_was_typed_is_there_the_next_time(server: PrivateServer, tmp_path: Path) -> None:
    (tmp_path / "daebus").mkdir()
    (tmp_path / "daebus" / "shell-history").write_text("6 * 7\n")
    with terminal(server, XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.until(">>> ")
        shown.type("\x10\n")  # Ctrl-P, the line before
        shown.until("42\r\n")


def test_a_history_that_cannot_be_kept_is_said(server: PrivateServer, tmp_path: Path) -> None:
    (tmp_path / "daebus").write_text("a file")
    with terminal(server, XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.until(">>> ")
        shown.type("\x04")
        shown.until("shell-history cannot be used: ")
        assert shown.process.wait(LIMIT) == 0


def test_ctrl_c_ends_a_call_and_not_the_shell(server: PrivateServer, lamp: Script, tmp_path: Path) -> None:
    with terminal(server, XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.until(">>> ")
        shown.type("lamp.sleep()\n")
        wait_for(lambda: lamp.notes, LIMIT)
        shown.process.send_signal(signal.SIGINT)
        shown.until("KeyboardInterrupt")
        shown.until(">>> ")
        shown.type("lamp.echo(5)\n")
        shown.until("5\r\n>>> ")
