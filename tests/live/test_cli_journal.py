"""`daebus logs`, `trace` and `doctor` as processes: with a journalctl that says what the test wants, and a real Redis.

With a real journal they are tested in tests/system.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import daebus
from daebus.cli import checks
from daebus.cli.findings import Finding
from daebus.redisserver import PrivateServer
from daebus.settings import RedisSettings
from tests.outside import Launcher, Link, Side, environment, fetch, free_port
from tests.support import MS

LIMIT = 20_000 * MS

JOURNALCTL = """#!/bin/sh
for word; do printf '%s\\n' "$word"; done >>{folder}/asked
printf 'END\\n' >>{folder}/asked
cat {folder}/complaint >&2
case " $* " in
*" --field=DAEBUS_SERVICE "*) cat {folder}/services ;;
*) cat {folder}/entries ;;
esac
exit $(cat {folder}/status)
"""

ENTRY = {
    "DAEBUS_SERVICE": "lamp", "DAEBUS_ACTION": "dim", "DAEBUS_REQUEST_ID": "r", "DAEBUS_TRACE": "t", "_PID": "7",
    "DAEBUS_OUTCOME": "ok", "DAEBUS_BEGAN": "5.0", "DAEBUS_MS": "1.5", "PRIORITY": "7", "MESSAGE": "took \x1b 1.5 ms",
    "_BOOT_ID": "b", "__MONOTONIC_TIMESTAMP": "5002000", "__REALTIME_TIMESTAMP": "1700000000000000",
}  # fmt: skip

NO_RIGHT = """Hint: You are currently not seeing messages from other users and the system.
      Users in groups 'adm', 'systemd-journal' can see all messages.
      Pass -q to turn off this notice.
"""


class Journal:
    """The journalctl of a test: what it prints, what it complains of, how it ends, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "bin/journalctl"
        program.parent.mkdir()
        program.write_text(JOURNALCTL.format(folder=folder))
        program.chmod(0o755)
        self.knows("lamp", "panel")
        self.says()

    def knows(self, *services: str) -> None:
        (self.folder / "services").write_text("".join(f"{service}\n" for service in services))

    def says(self, *entries: dict[str, Any], complaint: str = "", status: int = 0) -> None:
        (self.folder / "entries").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        (self.folder / "complaint").write_text(complaint)
        (self.folder / "status").write_text(str(status))

    def flows(self) -> None:
        """It does not end by itself."""
        (self.folder / "entries").unlink()
        os.mkfifo(self.folder / "entries")

    @property
    def asked(self) -> list[list[str]]:
        """The arguments of each call, but those that are the same in each."""
        calls = (self.folder / "asked").read_text().split("END\n")[:-1]
        usual = ("--no-pager", "--output=json", "--all")
        return [[w for w in c.splitlines() if w not in usual and not w.startswith("--output-f")] for c in calls]


class Command:
    """The command, with the journal of the test."""

    def __init__(self, side: Side, journal: Journal, url: str) -> None:
        self._words = [str(side.python), "-m", "daebus"]
        path = f"{journal.folder}/bin:{os.environ['PATH']}"
        root = str(Path(daebus.__file__).parent.parent)
        self.env = environment(side, {"PYTHONPATH": root, "PATH": path, "DAEBUS_REDIS_URL": url})
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        env = {**self.env, **extra}
        command = [*self._words, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([*self._words, *words], env=self.env, stdout=pipe, stderr=pipe, text=True)
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


both = pytest.mark.parametrize("used", ["own_side", "debian_side"], indirect=True)
"""Each command is run once with the newest libraries, and once with Debian's."""


@pytest.fixture
def used(request: pytest.FixtureRequest) -> Side:
    """The newest libraries, unless the test is for both."""
    chosen: Side = request.getfixturevalue(getattr(request, "param", "own_side"))
    return chosen


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


@pytest.fixture
def command(used: Side, journal: Journal, bus: PrivateServer) -> Iterator[Command]:
    made = Command(used, journal, bus.url)
    yield made
    made.close()


# --- logs ---


def test_what_is_asked_of_the_journal(command: Command, journal: Journal) -> None:
    journal.says({**ENTRY, "_SYSTEMD_UNIT": "desk.service"})
    command.run("logs", "lamp", "--since", "-5min", "--priority", "error")
    command.run("logs", "lamp", "panel", "--action", "dim", "--error-id", "e", "-n", "3", "--grep", "x y")
    command.run("logs")
    units = ["desk.service", "lamp.service"]
    first, second, third, *others = journal.asked
    assert first == ["--lines=1", "DAEBUS_SERVICE=lamp"]
    assert second[:3] == ["--since=-5min", "--priority=err", "DAEBUS_SERVICE=lamp"]
    assert {f"_SYSTEMD_UNIT={unit}" for unit in units} | {f"UNIT={unit}" for unit in units} <= set(second)
    assert third == [
        "--grep=x y", "--lines=3", "DAEBUS_SERVICE=lamp", "DAEBUS_SERVICE=panel", "DAEBUS_ACTION=dim",
        "DAEBUS_ERROR_ID=e",
    ]  # fmt: skip
    assert others[0] == ["--field=DAEBUS_SERVICE"]
    assert others[-1][:3] == ["--lines=50", "DAEBUS_SERVICE=lamp", "DAEBUS_SERVICE=panel"]


def test_very_many_names_are_not_asked_about_one_by_one(command: Command, journal: Journal) -> None:
    """Any program may write what looks like a service's name."""
    journal.knows(*(f"s{number}" for number in range(50_000)))
    done = command.run("logs")
    assert (done.returncode, done.stdout) == (2, "")
    assert "50000 names of services are in the journal, more than 200: say whose entries to show" in done.stderr
    assert len(journal.asked) == 1


@both
def test_an_entry_for_people_and_for_programs(command: Command, journal: Journal) -> None:
    journal.says(ENTRY)
    done = command.run("logs", "--trace", "t", TZ="UTC")
    assert (done.stdout, done.stderr) == ("2023-11-14 22:13:20.000 lamp[7] DEBUG    took \\u001b 1.5 ms\n", "")
    done = command.run("logs", "--trace", "t", "--json")
    assert json.loads(done.stdout) == ENTRY


def test_what_journalctl_complains_of(command: Command, journal: Journal) -> None:
    journal.says(ENTRY, complaint=NO_RIGHT)
    done = command.run("logs", "--trace", "t")
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (0, 1, 1)
    assert "systemd-journal" in done.stderr
    journal.says(complaint="No journal files were opened due to insufficient permissions.\n", status=1)
    done = command.run("logs", "--trace", "t")
    assert (done.returncode, done.stderr[:21]) == (3, "daebus: unavailable: ")
    assert "sudo" in done.stderr
    journal.says(complaint="No journal files were found.\n")
    done = command.run("trace", "t")
    assert (done.returncode, "has no journal" in done.stderr) == (3, True)
    journal.says(complaint="Failed to parse timestamp: soon\n", status=1)
    done = command.run("logs", "--since", "soon", "lamp")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("daebus: usage: journalctl: Failed to parse timestamp: soon")
    journal.says(complaint="Something broke\n", status=1)
    assert command.run("logs", "lamp").stderr == "daebus: unavailable: journalctl: Something broke\n"


def test_without_journalctl(command: Command, tmp_path: Path) -> None:
    done = command.run("logs", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no journalctl here" in done.stderr


def test_nothing_is_like_that(command: Command) -> None:
    done = command.run("logs", "--trace", "t")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "daebus: nothing in the journal is like that\n")


@pytest.fixture
def flowing(command: Command, journal: Journal) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """`daebus logs --follow` that has shown its first entry, and what writes to its journal."""
    journal.flows()
    process = command.start("logs", "--follow", "--trace", "t")
    with (journal.folder / "entries").open("w", buffering=1) as entries:
        entries.write(f"{json.dumps(ENTRY)}\n")
        assert process.stdout is not None
        assert "took" in process.stdout.readline()
        yield process, entries


def test_it_follows_until_ctrl_c(flowing: tuple[subprocess.Popen[str], Any]) -> None:
    process, entries = flowing
    entries.write(f"{json.dumps({**ENTRY, 'MESSAGE': 'more'})}\n")
    assert "more" in process.stdout.readline()  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT) == ("", "")
    assert process.returncode == 130


def test_it_ends_when_nobody_reads(flowing: tuple[subprocess.Popen[str], Any]) -> None:
    process, _entries = flowing
    process.stdout.close()  # type: ignore[union-attr]
    assert process.wait(LIMIT) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_it_says_at_once_that_it_may_not_see_all(command: Command, journal: Journal) -> None:
    journal.says(complaint=NO_RIGHT)
    journal.flows()
    process = command.start("logs", "--follow", "--trace", "t")
    with (journal.folder / "entries").open("w"):
        assert process.stderr is not None
        assert "systemd-journal" in process.stderr.readline()


# --- trace ---


@both
def test_a_trace_for_people_and_for_programs(command: Command, journal: Journal) -> None:
    journal.says(ENTRY)
    done = command.run("trace", "r", TZ="UTC")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Trace t, 2023-11-14 22:13:19.998",
        "BEGAN ms  TOOK ms  RESULT  CALL",
        "     0.0      1.5  ok      lamp dim",
    ]
    wanted = ["DAEBUS_TRACE=r", "+", "DAEBUS_REQUEST_ID=r", "+", "DAEBUS_ERROR_ID=r"]
    assert [asked[1:] for asked in journal.asked] == [wanted, ["DAEBUS_TRACE=t"]]
    (call,) = json.loads(command.run("trace", "t", "--json").stdout)["calls"]
    assert (call["service"], call["outcome"], call["took_ms"]) == ("lamp", "ok", 1.5)


def test_what_has_no_trace(command: Command, journal: Journal) -> None:
    done = command.run("trace", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("daebus: not_found: nothing in the journal has the id 'x'")
    journal.says({**ENTRY, "DAEBUS_TRACE": ""})
    assert "daebus logs --error-id x" in command.run("trace", "x").stderr
    assert command.run("trace").returncode == command.run("trace", "x", "--new").returncode == 2


def test_a_call_can_ask_for_a_trace(command: Command, launch: Launcher, bus: PrivateServer) -> None:
    code = "@app.action('tell')\ndef tell():\n    return [request.trace, request.parent]\n"
    service = launch.service(code, server=bus).service
    done = command.run("call", service, "tell", "--trace")
    trace, parent = json.loads(done.stdout)
    assert (done.stderr, parent) == (f"trace: {trace}\n", "")
    assert json.loads(command.run("call", service, "tell").stdout)[1] is None


def test_http_can_ask_for_one(command: Command, launch: Launcher, bus: PrivateServer) -> None:
    code = "@app.route('/tell')\ndef tell(req):\n    return [req.trace, req.parent]\n"
    site = launch.site(code, server=bus)
    name, value = command.run("trace", "--new").stdout.strip().split(": ")
    answer = json.loads(fetch(site.port, "GET", "/tell", {name: value}).body)
    assert answer == value.split("-")[1:3]


@pytest.mark.parametrize("word", ["logs", "trace", "doctor"])
def test_help_has_an_example(command: Command, word: str) -> None:
    done = command.run(word, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example: " in done.stdout
    assert f"  {word} " in command.run("--help").stdout


# --- doctor ---


def findings(command: Command, *words: str, **extra: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = command.run("doctor", "--json", *words, **extra)
    assert done.stderr == ""
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)}


@both
def test_the_doctor_of_a_machine_without_systemd(command: Command) -> None:
    """Nothing of it fails, and Redis is looked at all the same."""
    _status, found = findings(command)
    assert found["redis"]["level"] == "ok"
    assert found["redis access"]["text"].startswith("logged in as 'default'")
    assert found["redis memory"]["level"] in ("ok", "warning")
    assert {"clock", "memory", "disk /", "python", "page size"} <= set(found)
    assert "this check" not in str(found)
    for one in found.values():
        assert bool(one["fix"]) is (one["level"] in ("warning", "problem")), one


def test_the_doctor_without_redis(command: Command) -> None:
    status, found = findings(command, "--redis", f"redis://127.0.0.1:{free_port()}")
    assert (status, found["redis"]["level"]) == (1, "problem")
    assert "cannot be reached" in found["redis"]["text"]
    done = command.run("doctor", "--redis", f"redis://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert done.stdout.startswith("problem   redis ")
    assert "\n          > start it: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 problem, ")


def test_the_doctor_does_not_wait_for_a_redis_that_hangs(command: Command, own_bus: PrivateServer) -> None:
    own_bus.freeze()
    try:
        status, found = findings(command, "--redis", own_bus.url)
    finally:
        own_bus.thaw()
    assert (status, found["redis"]["level"]) == (1, "problem")
    assert "does not answer" in found["redis"]["text"]


def test_the_doctor_sees_what_a_user_of_redis_may_not(command: Command, own_bus: PrivateServer) -> None:
    with Link(own_bus) as link:
        link.call("ACL", "SETUSER", "lamp", "on", ">secret", "+@connection", "allchannels")
    url = own_bus.tcp_url.replace("redis://", "redis://lamp:secret@")
    _status, found = findings(command, DAEBUS_REDIS_URL=url)
    assert found["redis configuration"]["level"] == "not here"
    assert "secret" not in str(found)
    status, found = findings(command, DAEBUS_REDIS_URL=url.replace("secret", "wrong"))
    assert (status, "WRONGPASS" in found["redis"]["text"]) == (1, True)


def test_a_check_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_settings: RedisSettings) -> list[Finding]:
        raise KeyError("x")

    never = Event()

    def hanging(_settings: RedisSettings) -> list[Finding]:
        never.wait()
        return []

    well = [Finding("well", "ok", "it is")]
    monkeypatch.setattr(checks, "CHECKS", {"broken": broken, "hanging": hanging, "fine": lambda _settings: well})
    monkeypatch.setattr(checks, "LIMIT", 0.2)
    found = checks.all_findings(RedisSettings())
    never.set()
    assert [(one.name, one.level) for one in found] == [("broken", "warning"), ("hanging", "warning"), ("well", "ok")]
    assert "KeyError" in found[0].text
