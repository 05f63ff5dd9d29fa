"""`daebus bench`: it counts real calls, of its own service and of others."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import Launcher, Script, free_port
from tests.support import MS, children_of, is_running, wait_for

LIMIT = 30_000 * MS
SERVICE = """
from daebus import RemoteError
import threading
calls = []

@app.action("count")
def count():
    calls.append(request.payload)
    return len(calls)

@app.action("last")
def last():
    return calls[-1]

@app.action("fail")
def fail():
    raise RemoteError("no")

@app.action("sleep")
def sleep():
    note("asleep")
    time.sleep(600)
"""


def started(server: PrivateServer, *words: str, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    env = {**os.environ, "DAEBUS_REDIS_URL": server.url}
    return subprocess.Popen([sys.executable, "-m", "daebus", "bench", *words], env=env, text=True, **pipes)


def bench(server: PrivateServer, *words: str) -> tuple[int, str, str]:
    with started(server, *words) as process:
        output, said = process.communicate(timeout=LIMIT)
    return process.returncode, output, said


@pytest.fixture
def lamp(launch: Launcher, bus: PrivateServer) -> Script:
    return launch.service(SERVICE, server=bus)


def test_the_bus_is_measured_with_a_service_of_its_own(bus: PrivateServer) -> None:
    status, output, said = bench(bus, "--seconds", "0.2", "--callers", "3", "--size", "1000")
    assert status == 0, said
    titles, one, three = output.splitlines()
    assert titles.split() == ["CALLERS", "CALLS", "CALLS/S", "P50", "P99", "LONGEST", "ERRORS"]
    assert [line.split()[0] for line in (one, three)] == ["1", "3"]
    assert all(int(line.split()[1]) > 0 and line.endswith("  -") for line in (one, three))


def test_an_action_is_called_for_real(bus: PrivateServer, lamp: Script) -> None:
    name = lamp.service
    status, output, said = bench(bus, name, "count", "a=1", "--seconds", "0.2", "--callers", "2", "--yes", "--json")
    assert status == 0, said
    result = json.loads(output)
    assert (result["service"], result["action"]) == (name, "count")
    assert [run["callers"] for run in result["runs"]] == [1, 2]
    assert all(run["errors"] == {} and 0 < run["p50"] <= run["p99"] <= run["longest"] for run in result["runs"])
    called = subprocess.run(
        [sys.executable, "-m", "daebus", "call", name, "count", "--redis", bus.url],
        capture_output=True, text=True, timeout=LIMIT, check=True,
    )  # fmt: skip
    assert int(called.stdout) == sum(run["calls"] for run in result["runs"]) + 2  # one to try it, one of ours


def test_a_rate_is_kept(bus: PrivateServer, lamp: Script) -> None:
    words = ("--seconds", "0.5", "--callers", "1", "--rate", "20", "--yes", "--json")
    _, output, _ = bench(bus, lamp.service, "count", *words)
    (run,) = json.loads(output)["runs"]
    assert 1 <= run["calls"] <= 20 * run["seconds"] + 1


def test_errors_are_counted_by_their_code(bus: PrivateServer, lamp: Script) -> None:
    words = ("--seconds", "0.2", "--callers", "1", "--yes")
    status, output, _ = bench(bus, lamp.service, "fail", *words)
    assert (status, output.splitlines()[1].split()[:2]) == (1, ["1", "0"])
    assert "  error: " in output
    assert "  unknown_action: " in bench(bus, lamp.service, "nothing", *words)[1]


def test_ctrl_c_prints_what_was_measured_so_far(bus: PrivateServer) -> None:
    with started(bus, "--seconds", "600") as process:
        assert process.stderr is not None
        assert "1 caller" in process.stderr.readline()
        family = wait_for(lambda: children_of(process.pid))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 130
        assert output.startswith("CALLERS  CALLS")
        assert output.count("\n") == 2
        assert not any(map(is_running, family))


def test_ctrl_c_does_not_wait_for_an_answer(bus: PrivateServer, lamp: Script) -> None:
    """Calls that are not answered are not counted, either."""
    with started(bus, lamp.service, "sleep", "--yes", "--json") as process:
        wait_for(lambda: len(lamp.notes) > 1, LIMIT)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT)
    (run,) = json.loads(output)["runs"]
    assert (process.returncode, run["calls"], run["errors"]) == (130, 0, {})


@pytest.mark.parametrize("answer", ["n", "y"])
def test_it_asks_before_it_runs_an_action(bus: PrivateServer, lamp: Script, answer: str) -> None:
    terminal, other = pty.openpty()
    try:
        words = (lamp.service, "count", "--seconds", "0.1", "--callers", "1")
        with started(bus, *words, stdin=other) as process:
            os.write(terminal, f"{answer}\n".encode())
            output, said = process.communicate(timeout=LIMIT)
        assert "for real, over and over. Go on? [y/N]: " in said
        assert (process.returncode, output != "") == ((0, True) if answer == "y" else (130, False))
    finally:
        os.close(terminal)
        os.close(other)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("lamp",), 2),
        (("lamp", "count"), 2),
        (("lamp", "count", "--size", "5", "--yes"), 2),
        (("--callers", "0"), 2),
        (("--seconds", "0"), 2),
        (("lamp", "count", "--yes", "word"), 2),
        (("two words", "count", "--yes"), 2),
        (("nobody-there", "count", "--yes"), 3),
        (("--redis", f"redis://127.0.0.1:{free_port()}"), 3),
    ],
)
def test_what_cannot_be_measured(bus: PrivateServer, words: tuple[str, ...], status: int) -> None:
    found, output, said = bench(bus, *words)
    assert (found, output, said.count("\n")) == (status, "", 1)
    assert said.startswith("daebus: ")
