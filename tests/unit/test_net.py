"""Connections on real sockets, read by a real engine: what is written arrives, and everything has an end."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Event, Thread, get_ident
from threading import enumerate as all_threads
from typing import Any, TypeVar

import pytest

from daebus import net
from daebus.engine import Engine
from daebus.errors import ConfigurationError
from daebus.exchange import OpenFile
from daebus.log import Seldom
from daebus.net import PORTION, Connection, Echo, Listener, Network
from daebus.policy import Hosts
from tests.support import MS, ROOT, wait_for

SOON = 5000 * MS
LARGE = 8 * 1024 * 1024  # more than any socket takes at once
T = TypeVar("T")


class Talk:
    """A protocol that keeps what it is told."""

    awaits_last = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.data = b""
        self.told: list[str] = []
        self.threads: set[int] = set()
        self.expendable = 0
        self.on_data: Callable[[bytes], None] = lambda _data: None

    def received(self, data: bytes) -> list[Any]:
        self.data += data
        self.threads.add(get_ident())
        self.on_data(data)
        return []

    def _tell(self, what: str) -> None:
        self.threads.add(get_ident())
        self.told.append(what)

    def ended(self) -> None:
        self._tell("ended")

    def drained(self) -> None:
        self._tell("drained")

    def expired(self, _now: float) -> None:
        self._tell("expired")

    def gone(self) -> None:
        self._tell("gone")

    def stopping(self) -> None:
        self._tell("stopping")

    @property
    def is_gone(self) -> bool:
        return "gone" in self.told


class Bench:
    """A network that listens on the loopback interface."""

    def __init__(self, max_connections: int = 100, write_timeout: float = 60.0, host: str = "127.0.0.1") -> None:
        self.engine = Engine(2, lambda: None, lambda: None)
        self.network = Network(self.engine, max_connections, write_timeout, b"REFUSED")
        self.talks: list[Talk] = []
        self.clients: list[socket.socket] = []
        self.listener = self.network.listen(host, 0, self._accepted)
        self.network.serve()
        self.engine.start()

    def _accepted(self, connection: Connection) -> Talk:
        self.talks.append(Talk(connection))
        return self.talks[-1]

    def on_reader(self, function: Callable[[], T]) -> T:
        """What a function returns on the reader."""
        results: list[T] = []
        done = Event()

        def errand() -> None:
            results.append(function())
            done.set()

        self.engine.soon(errand)
        assert done.wait(SOON)
        return results[0]

    def dial(self, receive: int = 0) -> socket.socket:
        """A client that may or may not be accepted; `receive` makes its buffer small."""
        family = socket.AF_INET6 if ":" in self.listener.host else socket.AF_INET
        client = socket.socket(family)
        if receive:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        client.settimeout(SOON)
        client.connect((self.listener.host, self.listener.port))
        self.clients.append(client)
        return client

    def connect(self, receive: int = 0) -> tuple[socket.socket, Talk]:
        before = len(self.talks)
        client = self.dial(receive)
        wait_for(lambda: len(self.talks) > before, SOON)
        return client, self.talks[before]

    def close(self) -> None:
        self.network.close(SOON)
        self.engine.stop()
        wait_for(lambda: not [one for one in all_threads() if one.name.startswith("daebus-")], SOON)
        for client in self.clients:
            client.close()


def read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(min(1 << 20, size - len(data)))
        if not piece:
            break
        data += piece
    return data


def read_all(client: socket.socket) -> bytes:
    """Until the other side closes; a reset fails."""
    return read(client, 1 << 40)


def reset(client: socket.socket) -> None:
    """Close as a client does that is cut off."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def pattern(size: int) -> bytes:
    return (b"".join(b"%07d\n" % number for number in range(size // 8 + 1)))[:size]


@pytest.fixture(autouse=True)
def defects(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A reader that fails ends the process; here it fails the test. Deadlines are looked at often."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(net, "CHECK_PERIOD", 0.02)
    monkeypatch.setattr(net, "_seldom", Seldom())
    yield
    assert exits == []


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


# --- reading and writing ---


def test_a_connection_knows_both_ends(bench: Bench) -> None:
    client, talk = bench.connect()
    connection = talk.connection
    host, port = client.getsockname()
    assert (connection.peer, connection.local, connection.port) == (f"{host}:{port}", "127.0.0.1", bench.listener.port)
    assert not connection.secure
    assert connection.deadline == float("inf")
    assert len(bench.network) == 1
    assert bench.on_reader(lambda: bench.network.connections) == [connection]


def test_an_address_of_ipv6_is_in_brackets() -> None:
    bench = Bench(host="::1")
    try:
        client, talk = bench.connect()
        assert talk.connection.peer == f"[::1]:{client.getsockname()[1]}"
        assert str(bench.listener) == f"[::1]:{bench.listener.port}"
    finally:
        bench.close()


def test_bytes_come_and_go(bench: Bench) -> None:
    client, talk = bench.connect()
    talk.on_data = lambda data: talk.connection.write(data.upper())
    client.sendall(b"hello")
    assert read(client, 5) == b"HELLO"
    assert talk.data == b"hello"
    assert talk.connection.pending == 0
    assert not talk.connection.sending


def test_what_the_kernel_does_not_take_is_sent_later_and_in_order(bench: Bench) -> None:
    client, talk = bench.connect()
    first, second = pattern(LARGE), b"second" * 1000
    talk.connection.write(first)
    talk.connection.write(second)
    talk.connection.write(b"")
    assert talk.connection.pending > len(second)
    assert talk.connection.sending
    assert talk.told == []
    assert read(client, len(first) + len(second)) == first + second
    wait_for(lambda: talk.told == ["drained"], SOON)
    assert talk.connection.pending == 0
    assert not talk.connection.sending


def test_a_client_that_takes_little_at_a_time_gets_all(bench: Bench) -> None:
    client, talk = bench.connect(receive=4096)
    data = pattern(LARGE // 4)
    talk.connection.write(data)
    assert read(client, len(data)) == data


def test_writers_of_many_threads_mix_whole_pieces_only(bench: Bench) -> None:
    client, talk = bench.connect()
    start = Barrier(4)

    def write(letter: bytes) -> None:
        start.wait(SOON)
        for _ in range(50):
            talk.connection.write(letter * 20_000)

    threads = [Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    data = read(client, 4 * 50 * 20_000)
    for thread in threads:
        thread.join(SOON)
    pieces = [data[start : start + 20_000] for start in range(0, len(data), 20_000)]
    assert all(len(set(piece)) == 1 for piece in pieces)
    assert sorted(piece[:1] for piece in pieces) == sorted([b"a", b"b", b"c", b"d"] * 50)


def test_everything_is_told_on_the_reader(bench: Bench) -> None:
    client, talk = bench.connect()
    client.sendall(b"x")
    talk.connection.write(pattern(LARGE))
    read(client, LARGE)
    wait_for(lambda: "drained" in talk.told, SOON)
    client.close()
    wait_for(lambda: "ended" in talk.told, SOON)
    talk.connection.close()
    wait_for(lambda: talk.is_gone, SOON)
    assert talk.threads == {bench.on_reader(get_ident)}


def test_a_paused_connection_is_not_read(bench: Bench) -> None:
    client, talk = bench.connect()
    _other, other_talk = bench.connect()
    talk.connection.pause()
    talk.connection.pause()
    client.sendall(b"waits")
    bench.clients[1].sendall(b"passes")
    wait_for(lambda: other_talk.data, SOON)
    assert talk.data == b""
    talk.connection.write(b"still")
    assert read(client, 5) == b"still"
    talk.connection.resume()
    talk.connection.resume()
    wait_for(lambda: talk.data == b"waits", SOON)


def test_a_paused_connection_that_is_cut_off_is_gone(bench: Bench) -> None:
    client, talk = bench.connect()
    talk.connection.pause()
    reset(client)
    wait_for(lambda: talk.is_gone, SOON)


# --- the end of a connection ---


def test_after_close_nothing_is_written_or_received(bench: Bench) -> None:
    client, talk = bench.connect()
    talk.connection.write(b"last")
    talk.connection.close()
    talk.connection.write(b"lost")
    talk.connection.close()
    assert talk.connection.closed
    client.sendall(b"unheard")
    assert read_all(client) == b"last"
    client.close()
    wait_for(lambda: talk.told == ["gone"], SOON)
    assert talk.data == b""
    assert len(bench.network) == 0


def test_what_is_pending_is_sent_before_the_end(bench: Bench) -> None:
    client, talk = bench.connect()
    data = pattern(LARGE)
    talk.connection.write(data)
    talk.connection.close()
    assert talk.connection.closed
    assert read_all(client) == data
    client.close()
    wait_for(lambda: talk.told == ["gone"], SOON)


def test_an_answer_is_not_taken_back_by_what_the_client_still_sends(bench: Bench) -> None:
    """Closing with unread bytes is a reset, and the reason of a refusal is lost."""
    client, talk = bench.connect()
    talk.connection.pause()
    client.sendall(b"x" * 100_000)
    talk.connection.write(b"too large")
    talk.connection.close()
    client.sendall(b"x" * 100_000)
    assert read_all(client) == b"too large"


def test_a_peer_that_does_not_close_is_waited_for_only_so_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "LINGER", 0.05)
    client, talk = bench.connect()
    talk.connection.close()
    assert read_all(client) == b""
    wait_for(lambda: talk.told == ["gone"], SOON)


def test_a_peer_may_close_its_side_and_still_be_answered(bench: Bench) -> None:
    client, talk = bench.connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    wait_for(lambda: talk.told == ["ended"], SOON)
    assert talk.data == b"question"
    assert talk.connection.half_closed
    assert not talk.connection.closed
    answer = pattern(LARGE)
    talk.connection.write(answer)
    talk.connection.close()
    assert read_all(client) == answer
    wait_for(lambda: talk.told[-1] == "gone", SOON)


def test_a_half_closed_connection_costs_nothing_while_it_waits(bench: Bench) -> None:
    """Its end is always ready to be read, so it must not be asked for."""
    client, talk = bench.connect()
    client.shutdown(socket.SHUT_WR)
    wait_for(lambda: talk.told == ["ended"], SOON)
    polls = 0
    wait = bench.engine._wait

    def counted(timeout: float) -> None:
        nonlocal polls
        polls += 1
        wait(timeout)

    bench.engine._wait = counted  # type: ignore[method-assign]
    for _ in range(3):
        bench.on_reader(lambda: None)
    assert polls < 50


def test_a_peer_that_is_cut_off_is_gone(bench: Bench) -> None:
    client, talk = bench.connect()
    reset(client)
    wait_for(lambda: talk.is_gone, SOON)
    assert talk.told.count("gone") == 1
    talk.connection.write(b"x")
    talk.connection.close()
    talk.connection.abort()
    assert bench.on_reader(lambda: talk.told.count("gone")) == 1


def test_writing_to_a_peer_that_is_cut_off_raises_nothing(bench: Bench) -> None:
    client, talk = bench.connect()
    go = Event()

    def hold() -> None:
        """The reader does not notice."""
        go.wait(SOON)

    bench.engine.soon(hold)
    reset(client)
    for _ in range(3):
        talk.connection.write(b"x" * 1000)
    go.set()
    wait_for(lambda: talk.is_gone, SOON)


def test_abort_is_at_once_and_drops_what_is_pending(bench: Bench) -> None:
    client, talk = bench.connect()
    talk.connection.write(pattern(LARGE))
    talk.connection.abort()
    assert talk.connection.pending == 0
    assert talk.connection.closed
    wait_for(lambda: talk.told == ["gone"], SOON)
    with suppress(ConnectionResetError):
        assert len(read_all(client)) < LARGE


def test_whoever_ends_a_connection_it_ends_once(bench: Bench) -> None:
    """Many threads write, close and abort at once, and the client leaves."""
    for number in range(20):
        client, talk = bench.connect()
        connection = talk.connection
        steps: list[Callable[[], object]] = [
            lambda c=connection: c.write(b"x" * 300_000),  # type: ignore[misc]
            lambda c=connection: c.write(b"y" * 300_000),  # type: ignore[misc]
            connection.close,
            connection.abort if number % 2 else connection.close,
            lambda c=client, hard=number % 3: reset(c) if hard else c.close(),  # type: ignore[misc]
        ]
        start = Barrier(len(steps))

        def run(step: Callable[[], object], start: Barrier = start) -> None:
            start.wait(SOON)
            step()

        threads = [Thread(target=run, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        wait_for(lambda: talk.is_gone, SOON)  # noqa: B023 - waited for here
        assert bench.on_reader(lambda: talk.told.count("gone")) == 1  # noqa: B023
        assert connection.pending == 0
    assert len(bench.network) == 0


class Intruder:
    """A lock after whose release something else happens once, as if another thread had come just then."""

    def __init__(self, lock: Any, when: Callable[[], bool], then: Callable[[], object]) -> None:
        self._lock, self._when, self._then = lock, when, then
        self.came = False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        due = not self.came and self._when()
        self._lock.release()
        if due:
            self.came = True
            self._then()


def test_an_answer_that_begins_as_the_last_one_has_been_sent_is_not_cut(bench: Bench) -> None:
    """Another thread writes and closes between the sending of the last byte and what the reader does then."""
    client, talk = bench.connect()
    connection = talk.connection
    first, second = pattern(LARGE), b"z" * LARGE
    connection.write(first)

    def answer() -> None:
        connection.write(second)
        connection.close()

    intruder = Intruder(connection._lock, lambda: not connection._out and not connection._writing, answer)
    connection._lock = intruder  # type: ignore[assignment]
    assert read_all(client) == first + second
    assert intruder.came


# --- files ---


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(pattern(4 * PORTION + 5))
    return path


def opened(path: Path) -> OpenFile:
    return OpenFile(os.open(path, os.O_RDONLY))


def is_open(path: Path) -> bool:
    links = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            links.append(link.readlink())
        except FileNotFoundError:
            continue
    return path in links


def test_a_file_is_sent_between_what_is_written_before_and_after(bench: Bench, large_file: Path) -> None:
    client, talk = bench.connect()
    content = large_file.read_bytes()
    talk.connection.write(b"head")
    talk.connection.write_file(opened(large_file), 5, len(content) - 5)
    talk.connection.write(b"tail")
    talk.connection.write_file(opened(large_file), 0, 0)
    talk.connection.write_file(opened(large_file), 0, 3)
    expected = b"head" + content[5:] + b"tail" + content[:3]
    assert read(client, len(expected)) == expected
    wait_for(lambda: not talk.connection.sending and talk.told, SOON)
    assert set(talk.told) == {"drained"}
    assert not is_open(large_file)


def test_a_file_that_is_being_sent_counts_as_sending(bench: Bench, large_file: Path) -> None:
    client, talk = bench.connect()
    for _ in range(20):
        talk.connection.write_file(opened(large_file), 0, 4 * PORTION)
    assert talk.connection.sending
    talk.connection.close()
    assert len(read_all(client)) == 20 * 4 * PORTION
    assert not is_open(large_file)


def test_others_get_their_turn_while_a_file_is_sent(bench: Bench, large_file: Path) -> None:
    slow, talk = bench.connect(receive=4096)
    for _ in range(20):
        talk.connection.write_file(opened(large_file), 0, 4 * PORTION)
    other, other_talk = bench.connect()
    other_talk.on_data = other_talk.connection.write
    other.sendall(b"quick")
    assert read(other, 5) == b"quick"
    assert talk.connection.sending
    reset(slow)
    wait_for(lambda: not is_open(large_file), SOON)


def test_a_file_that_has_become_shorter_cuts_the_connection(bench: Bench, large_file: Path) -> None:
    """What is missing cannot be made up, and the client must not take what follows for it."""
    client, talk = bench.connect()
    talk.connection.write_file(opened(large_file), 0, 4 * PORTION + 100)
    talk.connection.write(b"next")
    data = read_all(client)
    assert data == large_file.read_bytes()
    wait_for(lambda: talk.is_gone, SOON)
    assert not is_open(large_file)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_file_for_nobody_is_closed(bench: Bench, large_file: Path, end: str) -> None:
    _client, talk = bench.connect()
    getattr(talk.connection, end)()
    talk.connection.write_file(opened(large_file), 0, 5)
    assert not is_open(large_file)


def test_an_abort_closes_the_files_that_wait(bench: Bench, large_file: Path) -> None:
    _client, talk = bench.connect(receive=4096)
    talk.connection.write(pattern(LARGE))
    talk.connection.write_file(opened(large_file), 0, 5)
    talk.connection.abort()
    wait_for(lambda: talk.is_gone and not is_open(large_file), SOON)


# --- deadlines and debts ---


def test_a_client_that_takes_nothing_for_so_long_is_cut_off() -> None:
    bench = Bench(write_timeout=0.1)
    try:
        _client, talk = bench.connect(receive=4096)
        other, other_talk = bench.connect()
        talk.connection.write(pattern(LARGE))
        wait_for(lambda: talk.told == ["gone"], SOON)
        assert other_talk.told == []
        other_talk.connection.write(b"x")
        assert read(other, 1) == b"x"
    finally:
        bench.close()


def test_a_client_that_takes_a_little_now_and_then_is_not_cut_off() -> None:
    bench = Bench(write_timeout=1000 * MS)
    try:
        client, talk = bench.connect(receive=4096)
        data = pattern(LARGE // 4)
        talk.connection.write(data)
        assert read(client, len(data)) == data
        assert not talk.is_gone
    finally:
        bench.close()


def test_a_deadline_that_has_passed_is_told(bench: Bench) -> None:
    _client, talk = bench.connect()
    talk.connection.deadline = 0.0
    wait_for(lambda: "expired" in talk.told, SOON)
    assert not talk.is_gone


def test_those_who_owe_most_are_closed_when_all_owe_too_much(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, small), (_, large), (_, middle) = (bench.connect(receive=4096) for _ in range(3))
    for talk, times in ((small, 1), (middle, 2), (large, 3)):
        talk.connection.write(bytes(times * LARGE))
    monkeypatch.setattr(net, "UNSENT_LIMIT", small.connection.pending + middle.connection.pending + LARGE)
    bench.network.owe(0)
    wait_for(lambda: large.is_gone, SOON)
    for _ in range(3):
        bench.on_reader(lambda: bench.network._check(0.0))
    assert not small.is_gone
    assert not middle.is_gone


# --- too many connections ---


def shared(expendable: list[int]) -> tuple[Bench, list[Talk]]:
    """A full house, of connections that are so expendable."""
    bench = Bench(max_connections=len(expendable))
    talks = []
    for value in expendable:
        talks.append(bench.connect()[1])
        talks[-1].expendable = value
    return bench, talks


@pytest.mark.parametrize(
    ("expendable", "evicted"),
    [([1, 2, 2], 1), ([0, 1, 1], 1), ([1, 0, 1], 0), ([2, 1, 2], 0), ([0, 0, 1], 2), ([0, 2, 1], 1)],
)
def test_the_most_expendable_is_evicted_the_oldest_of_them(expendable: list[int], evicted: int) -> None:
    bench, talks = shared(expendable)
    try:
        client, talk = bench.connect()
        talk.on_data = talk.connection.write
        client.sendall(b"in")
        assert read(client, 2) == b"in"
        assert [one.is_gone for one in talks] == [place == evicted for place in range(3)]
        assert (bench.network.evicted, bench.network.refused, len(bench.network)) == (1, 0, 3)
    finally:
        bench.close()


def test_who_only_waits_for_the_peer_to_close_is_evicted_first() -> None:
    bench, talks = shared([2, 0, 1])
    try:
        talks[1].connection.close()
        bench.connect()
        assert [one.is_gone for one in talks] == [False, True, False]
    finally:
        bench.close()


def test_who_is_still_being_sent_something_is_at_work() -> None:
    bench, talks = shared([1, 1])
    try:
        talks[0].connection.write(pattern(LARGE))
        bench.connect()
        assert [one.is_gone for one in talks] == [False, True]
    finally:
        bench.close()


def test_one_too_many_is_told_so_when_all_are_at_work() -> None:
    bench, talks = shared([0, 0])
    try:
        client = bench.dial()
        assert read_all(client) == b"REFUSED"
        assert not any(one.is_gone for one in talks)
        assert (bench.network.refused, bench.network.evicted) == (1, 0)
        talks[0].connection.abort()
        wait_for(lambda: len(bench.network) == 1, SOON)
        bench.connect()
    finally:
        bench.close()


def test_evictions_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bench, _talks = shared([2])
    try:
        for _ in range(20):
            bench.connect()[1].expendable = 2
        assert bench.network.evicted == 20
        assert len(caplog.records) == 1
    finally:
        bench.close()


OUT_OF_DESCRIPTORS = """
import os, resource, socket, sys, threading
from daebus import net
from daebus.engine import Engine

net.CHECK_PERIOD = 0.05
expendable = int(sys.argv[1])

class Talk:
    def __init__(self, connection):
        self.connection = connection
        self.expendable = expendable
    def received(self, data):
        self.connection.write(data)
        return ()
    def ended(self):
        self.connection.close()
    def drained(self): pass
    def expired(self, now): pass
    def gone(self): pass
    def stopping(self): pass

engine = Engine(1, lambda: None, lambda: None)
network = net.Network(engine, 1000, 60.0, b"REFUSED")
listener = network.listen("127.0.0.1", 0, Talk)
network.serve()
engine.start()
clients = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(20)]
for client in clients:
    client.settimeout(20)
    client.sendall(b"x")
    assert client.recv(1) == b"x"
last = socket.socket()
last.settimeout(20)
fillers = []
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
while True:
    try:
        fillers.append(os.dup(0))
    except OSError:
        break
last.connect(("127.0.0.1", listener.port))
last.sendall(b"y")
if expendable:
    assert last.recv(1) == b"y"
    print("evicted", network.evicted)
else:
    last.settimeout(0.3)
    try:
        last.recv(1)
    except TimeoutError:
        print("waits")
    for client in clients[:5]:
        client.sendall(b"z")
        assert client.recv(1) == b"z"  # the others are served
        client.close()
    last.settimeout(20)
    assert last.recv(1) == b"y"
    print("accepted", network.evicted)
sys.stdout.flush()
os._exit(0)  # Python's own way out loads a library, for which there is no descriptor
"""


@pytest.mark.parametrize(
    ("expendable", "said"),
    [
        (1, "evicted 1\n"),
        (0, "waits\naccepted 0\n"),
    ],
)
def test_without_descriptors_connections_wait_or_take_an_idle_ones_place(expendable: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OUT_OF_DESCRIPTORS), str(expendable)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == (said, 0), done.stderr


# --- listening ---


def test_a_port_that_is_taken_is_said_to_be(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match=f"port {bench.listener.port} of '?127.0.0.1'? is taken"):
        Listener("127.0.0.1", bench.listener.port, lambda _connection: None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1", "nonexistent.invalid", "", "a b", "x\0y",
        "..",
        "a" * 70,
        "\ud800",
    ],
)  # fmt: skip
def test_a_host_that_cannot_be_listened_on_is_said_to_be_that(host: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        Listener(host, 0, lambda _connection: None)  # type: ignore[arg-type,return-value]


def test_a_port_that_one_may_not_use_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be allowed to."""

    class Forbidden(socket.socket):
        def bind(self, _address: object) -> None:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(ConfigurationError, match=r"port 80 may not be used: .* CAP_NET_BIND_SERVICE"):
        Listener("127.0.0.1", 80, lambda _connection: None)  # type: ignore[arg-type,return-value]


def test_a_listener_says_where_it_listens() -> None:
    listener = Listener("localhost", 0, lambda _connection: None)  # type: ignore[arg-type,return-value]
    listener.socket.close()
    assert str(listener) == f"{listener.host}:{listener.port}"
    assert listener.port > 0


def test_several_listeners_have_protocols_of_their_own(bench: Bench) -> None:
    other: list[Talk] = []

    def accepted(connection: Connection) -> Talk:
        other.append(Talk(connection))
        return other[-1]

    def listen() -> Listener:
        listener = bench.network.listen("127.0.0.1", 0, accepted)
        bench.engine.watch_socket(listener.socket.fileno(), 1, net._Accept(bench.network, listener))
        return listener

    listener = bench.on_reader(listen)
    client = socket.create_connection(("127.0.0.1", listener.port), SOON)
    bench.clients.append(client)
    wait_for(lambda: other, SOON)
    assert other[0].connection.port == listener.port
    assert bench.talks == []


# --- the end of the service ---


def test_who_stops_listening_tells_everybody(bench: Bench) -> None:
    _client, talk = bench.connect()
    bench.on_reader(bench.network.stop_listening)
    assert talk.told == ["stopping"]
    assert not talk.connection.closed
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", bench.listener.port), SOON):
        pass


def test_at_the_end_everything_is_closed(large_file: Path) -> None:
    bench = Bench()
    (client, talk), (_, other) = bench.connect(receive=4096), bench.connect()
    talk.connection.write(pattern(LARGE))
    talk.connection.write_file(opened(large_file), 0, 5)
    bench.close()
    assert (talk.told, other.told) == (["gone"], ["gone"])
    assert not is_open(large_file)
    with pytest.raises(OSError):  # noqa: PT011 - closed by the bench
        client.recv(1)


def test_threads_that_write_on_after_the_end_notice_nothing(large_file: Path) -> None:
    bench = Bench()
    _client, talk = bench.connect()
    bench.close()
    talk.connection.write(b"x" * LARGE)
    talk.connection.write_file(opened(large_file), 0, 5)
    talk.connection.pause()
    talk.connection.resume()
    talk.connection.close()
    talk.connection.abort()
    assert not is_open(large_file)


def test_what_never_served_is_closed_without_a_reader() -> None:
    engine = Engine(1, lambda: None, lambda: None)
    network = Network(engine, 10, 60.0, b"")
    listener = network.listen("127.0.0.1", 0, lambda _connection: None)  # type: ignore[arg-type,return-value]
    network.close(0.0)
    engine.stop()
    assert listener.socket.fileno() == -1


def test_a_stale_event_of_a_descriptor_that_is_used_again_is_harmless(bench: Bench) -> None:
    """Of two that were ready at once, the first one's turn may close the second, and a new one get its number."""
    _client, talk = bench.connect()
    for events in (1, 4, 5, 1 | 16):
        assert list(bench.on_reader(lambda events=events: talk.connection.on_event(events))) == []  # type: ignore[misc]
    assert talk.told == []
    assert not talk.connection.closed


# --- sockets that systemd holds ---


class Unit:
    """A listening socket as a .socket unit holds it: we get a copy, and the original stays open."""

    def __init__(self, original: socket.socket) -> None:
        self.original = original
        self.copy = socket.socket(fileno=os.dup(original.fileno()))
        self.copy.setblocking(False)

    def __enter__(self) -> Unit:
        return self

    def __exit__(self, *_error: object) -> None:
        self.original.close()
        self.copy.close()

    def connect(self) -> socket.socket:
        client = socket.socket(self.original.family)
        client.settimeout(SOON)
        client.connect(self.original.getsockname())
        return client

    def next_process(self) -> socket.socket:
        """What the service's next process would accept."""
        self.original.settimeout(SOON)
        return self.original.accept()[0]


def unix_unit(path: Path) -> Unit:
    original = socket.socket(socket.AF_UNIX)
    original.bind(str(path))
    original.listen()
    return Unit(original)


class Adopting(Bench):
    """A network at a socket that systemd holds."""

    def __init__(self, unit: Unit) -> None:
        self.engine = Engine(2, lambda: None, lambda: None)
        self.network = Network(self.engine, 100, 60.0, b"REFUSED")
        self.talks = []
        self.clients = []
        self.listener = self.network.adopt(unit.copy, self._accepted)
        self.engine.start()

    def __enter__(self) -> Adopting:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def serve(self) -> None:
        self.on_reader(self.network.serve)

    def accepted(self, count: int) -> Talk:
        wait_for(lambda: len(self.talks) == count, SOON)
        return self.talks[-1]


def test_a_port_that_systemd_holds_is_served() -> None:
    with Unit(socket.create_server(("127.0.0.1", 0))) as unit, Adopting(unit) as bench:
        bench.serve()
        with unit.connect() as client:
            talk = bench.accepted(1)
            talk.on_data = talk.connection.write
            client.sendall(b"x")
            assert read(client, 1) == b"x"
            port = unit.original.getsockname()[1]
            assert (talk.connection.port, talk.connection.local) == (port, "127.0.0.1")
            assert (bench.listener.host, bench.listener.port) == ("127.0.0.1", port)
            assert str(bench.listener) == f"127.0.0.1:{port}"
            assert bench.listener.taken == 1
            assert bench.listener.held
            assert bench.network.is_held


def test_a_unix_socket_that_systemd_holds_is_served(tmp_path: Path) -> None:
    with unix_unit(tmp_path / "s") as unit, Adopting(unit) as bench:
        bench.serve()
        with unit.connect() as client:
            talk = bench.accepted(1)
            talk.on_data = talk.connection.write
            client.sendall(b"x")
            assert read(client, 1) == b"x"
            where = f"unix:{tmp_path / 's'}"
            connection = talk.connection
            assert (connection.peer, connection.local, connection.port) == (where, None, 0)
            assert (str(bench.listener), bench.listener.is_unix, bench.listener.port) == (where, True, 0)


def test_who_comes_by_ipv4_to_a_socket_for_both_has_reached_an_address_of_ipv4() -> None:
    """As ListenStream=8080 makes one."""
    made = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with Unit(made) as unit, Adopting(unit) as bench:
        bench.serve()
        with socket.create_connection(("127.0.0.1", bench.listener.port), SOON):
            connection = bench.accepted(1).connection
            assert connection.local == "::ffff:127.0.0.1"
            assert Hosts((), ()).known("127.0.0.1:80", "::ffff:127.0.0.1")
            assert Hosts((), ()).known("10.0.0.5:80", "::ffff:10.0.0.5")


def test_connections_wait_at_a_held_port_until_the_service_serves() -> None:
    with Unit(socket.create_server(("127.0.0.1", 0))) as unit, Adopting(unit) as bench, unit.connect() as client:
        client.sendall(b"early")
        assert not bench.network.serves
        bench.on_reader(lambda: None)
        assert bench.talks == []
        bench.serve()
        bench.serve()  # a second time, it does nothing
        assert bench.network.serves
        talk = bench.accepted(1)
        wait_for(lambda: talk.data == b"early", SOON)


def test_who_waits_at_a_held_port_when_the_service_stops_is_the_next_processes() -> None:
    with Unit(socket.create_server(("127.0.0.1", 0))) as unit, Adopting(unit) as bench:
        bench.serve()
        with unit.connect() as first:
            talk = bench.accepted(1)

            def stop() -> None:
                """On the reader, so that nobody accepts meanwhile."""
                bench.clients.append(unit.connect())
                bench.network.stop_listening()

            bench.on_reader(stop)
            assert talk.told == ["stopping"]
            assert len(bench.talks) == 1
            assert bench.listener.socket.fileno() == -1
            assert not talk.connection.closed
            with unit.connect() as late, unit.next_process() as one, unit.next_process() as other:
                peers = {one.getpeername(), other.getpeername()}
                assert peers == {bench.clients[0].getsockname(), late.getsockname()}
            assert first.fileno() != -1


def test_who_waits_at_a_port_of_our_own_when_the_service_stops_is_taken_still(bench: Bench) -> None:
    def stop() -> None:
        bench.dial()
        bench.network.stop_listening()

    bench.on_reader(stop)
    (talk,) = bench.talks
    assert talk.told == ["stopping"]
    assert not bench.network.is_held


def test_a_service_that_stops_before_it_serves_accepts_nobody() -> None:
    with Unit(socket.create_server(("127.0.0.1", 0))) as unit, Adopting(unit) as bench, unit.connect():
        bench.on_reader(bench.network.stop_listening)
        bench.serve()
        assert bench.talks == []
        unit.next_process().close()


# --- the watchdog's connection to ourselves ---


@pytest.fixture
def echo(bench: Bench) -> Echo:
    return bench.network.echo()


def test_what_is_sent_to_ourselves_comes_back(bench: Bench, echo: Echo) -> None:
    for _ in range(3):
        bench.on_reader(echo.ask)
        wait_for(echo.answered, SOON)
    assert bench.on_reader(lambda: bench.network.connections) == []


def test_what_is_not_read_does_not_come_back(bench: Bench, echo: Echo) -> None:
    bench.on_reader(echo._connection.pause)
    for _ in range(2):
        bench.on_reader(echo.ask)
        assert not echo.answered()
        assert not echo.heard
    bench.on_reader(echo._connection.resume)
    wait_for(echo.answered, SOON)
    assert echo.heard


def test_more_than_fits_is_not_waited_for(bench: Bench, echo: Echo) -> None:
    bench.on_reader(echo._connection.pause)

    def ask() -> None:
        for _ in range(100_000):
            echo.ask()

    bench.on_reader(ask)
    assert not echo.answered()


def test_an_echo_is_closed_with_the_network_even_before_that_serves() -> None:
    with Unit(socket.create_server(("127.0.0.1", 0))) as unit, Adopting(unit) as bench:
        echo = bench.network.echo()
        bench.network.close(SOON)
        assert echo._far.fileno() == -1
        echo.ask()
        assert not echo.answered()


def test_the_stop_is_nothing_to_an_echo(bench: Bench, echo: Echo) -> None:
    bench.on_reader(bench.network.stop_listening)
    bench.on_reader(echo.ask)
    wait_for(echo.answered, SOON)
