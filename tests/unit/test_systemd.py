"""What systemd is told, with a real socket in its place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daebus.systemd import Notifier
from tests.support import NotifySocket


@pytest.fixture
def notifier(notify_socket: NotifySocket) -> Iterator[Notifier]:
    assert notify_socket.lines() == []
    made = Notifier()
    yield made
    close(made)


def close(notifier: Notifier) -> None:
    """sdnotify leaves that to the end of the process."""
    inner = notifier._notifier
    if inner is not None and inner.socket is not None:
        inner.socket.close()


def test_states_are_told_in_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        notifier.tell("READY=1", "STATUS=Serving")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=Serving"
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)
        close(notifier)


def test_an_abstract_socket_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"daebus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notifier = Notifier()
        notifier.tell("READY=1")
        assert systemd.recv(1000) == b"READY=1"
        close(notifier)


@pytest.mark.parametrize("path", ["/run/größe.sock", "/run/čeština.sock"])
def test_a_status_of_any_letters_arrives_as_utf_8(notifier: Notifier, notify_socket: NotifySocket, path: str) -> None:
    """READY travels with the path of the socket; without it, systemd would end the service."""
    notifier.tell("READY=1", f"STATUS=Serving, Redis at {path}")
    assert notify_socket.lines() == ["READY=1", f"STATUS=Serving, Redis at {path}"]


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.tell("READY=1")
    assert notifier._notifier is None


def test_systemd_that_does_not_read_is_not_waited_for(notifier: Notifier, notify_socket: NotifySocket) -> None:
    for number in range(5000):
        notifier.tell(f"STATUS={number}")
    assert 0 < len(notify_socket.lines()) < 5000


def test_systemd_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
    notifier.tell("READY=1")
    close(notifier)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sdnotify does not close its socket
def test_a_socket_that_is_not_there_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    Notifier().tell("READY=1")


def test_only_the_main_process_speaks(notifier: Notifier, notify_socket: NotifySocket) -> None:
    """A child after a fork is not the service."""
    child = os.fork()
    if child == 0:
        notifier.tell("READY=1")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert notify_socket.lines() == []
