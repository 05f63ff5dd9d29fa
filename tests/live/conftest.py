"""Fixtures of the black-box tests: a private server, a launcher of scripts, and the two implementations."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daebus.redisserver import PrivateServer
from tests.command import Command
from tests.outside import Launcher, Peer, Side, ours
from tests.support import private_server, skip_or_fail
from tests.upstream import UpstreamUnavailable, upstream_python


@pytest.fixture(scope="session")
def bus() -> Iterator[PrivateServer]:
    """A server for all tests that leave it alone, on a unix socket and on a port."""
    with private_server() as server:
        yield server


@pytest.fixture
def own_bus() -> Iterator[PrivateServer]:
    """A server that the test may kill, freeze and restart."""
    with private_server() as server:
        yield server


@pytest.fixture(scope="session")
def own_side() -> Side:
    return ours()


@pytest.fixture(scope="session")
def upstream_side(request: pytest.FixtureRequest) -> Side:
    """Upstream's package, installed on first use."""

    def say(text: str) -> None:
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", flush=True)  # noqa: T201 - half a minute of silence looks like a hang

    try:
        return Side("upstream", upstream_python(say), None)
    except UpstreamUnavailable as error:
        skip_or_fail(f"upstream's daebus cannot be installed: {error}")


DEBIANS_PYTHON = Path("/usr/bin/python3")
LIBRARIES = "import click, h11, hiredis, redis, sdnotify, sys, wsproto; sys.exit(sys.version_info < (3, 11))"


@pytest.fixture(scope="session")
def debian_side(own_side: Side) -> Side:
    """Our package on Debian's Python with Debian's libraries: the oldest versions that it must work with."""
    found = subprocess.run([DEBIANS_PYTHON, "-I", "-c", LIBRARIES], capture_output=True, check=False)
    if found.returncode:
        skip_or_fail("Debian's python3-click, python3-hiredis, python3-redis and python3-sdnotify are not installed")
    return Side("debian", DEBIANS_PYTHON, own_side.pythonpath)


@pytest.fixture
def command(own_side: Side, own_bus: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command `daebus`, with the newest libraries, on the test's own server."""
    made = Command(own_side, own_bus, tmp_path_factory.getbasetemp() / "compiled")
    yield made
    made.end_all()


@pytest.fixture(params=["own_side", "debian_side"])
def any_command(
    request: pytest.FixtureRequest, own_bus: PrivateServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Command]:
    """The same, with the newest libraries and with Debian's."""
    made = Command(request.getfixturevalue(request.param), own_bus, tmp_path_factory.getbasetemp() / "compiled")
    yield made
    made.end_all()


@pytest.fixture
def side(request: pytest.FixtureRequest) -> Side:
    """The implementation under test, by name; upstream's is made only when it is asked for."""
    name = {"ours": "own_side", "upstream": "upstream_side"}[request.param]
    chosen: Side = request.getfixturevalue(name)
    return chosen


@pytest.fixture
def launch(tmp_path: Path, own_side: Side) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path, own_side)
    yield launcher
    launcher.end_all()


@pytest.fixture
def peer(bus: PrivateServer) -> Iterator[Peer]:
    with Peer(bus) as made:
        yield made
