"""Fixtures for all tests. Leaving a thread or a descriptor behind fails the test that did it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daebus.redisserver import PrivateServer
from tests.support import MS, NotifySocket, NotInTime, private_server, wait_for

SETTLE = 3000 * MS  # what is being closed may take a moment


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads and descriptors after a test are those from before it."""
    if request.node.get_closest_marker("no_leak_check"):
        yield
        return
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield

    def left() -> list[str]:
        new_threads = [thread.name for thread in threading.enumerate() if thread not in threads]
        return new_threads + sorted(open_descriptors() - descriptors)

    try:
        wait_for(lambda: not left(), SETTLE)
    except NotInTime:
        pytest.fail(f"left behind: {', '.join(left())}", pytrace=False)


def open_descriptors() -> set[str]:
    """Each open descriptor with what it is: '7 socket:[1234]'."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{descriptor.name} {descriptor.readlink()}")
        except FileNotFoundError:
            continue  # the descriptor that lists the folder
    return found


@pytest.fixture
def redis_server() -> Iterator[PrivateServer]:
    """A Redis for this test alone, which may kill it, freeze it, restart it."""
    with private_server() as server:
        yield server


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[PrivateServer]:
    """One Redis for all tests of a module, which leave it as it is and use names of their own."""
    with private_server() as server:
        yield server


@pytest.fixture
def notify_socket() -> Iterator[NotifySocket]:
    """A socket in systemd's place, for services of this process: os.environ points at it."""
    with NotifySocket() as notify, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTIFY_SOCKET", notify.path)
        yield notify
