"""Servers with doors for a browser: started for one measurement, asked, and held open by idle clients."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .environment import SOURCES, Environment
from .processes import (
    SERVICE,
    START_SECONDS,
    MeasurementError,
    Process,
    Redis,
    accepts,
    free_port,
    redis_server,
    running,
    wait_until,
)
from .subjects.web_peers import HOST, READING

DAEBUS = ("ours", "upstream")
SOCKETS_ONLY = ("websockets-tasks", "websockets-threads")
BODY = b'{"device":"kitchen-lamp","reading":21.5,"unit":"celsius","tag":"0000000001","text":"a line of text"}'
MESSAGE = b'{"type":"echo","data":{"device":"kitchen-lamp","tag":"0000000001"}}'
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True)
class Ports:
    """Ours has one for both; upstream cannot."""

    http: int
    sockets: int


@dataclass(frozen=True)
class Server:
    ports: Ports
    process: Process
    started: float
    """When it was executed (monotonic)."""


def free_ports(subject: str) -> Ports:
    first = free_port()
    return Ports(first, free_port() if subject == "upstream" else first)


# ---- starting ----


@contextmanager
def web_server(environment: Environment, subject: str, doors: str = "sockets") -> Iterator[Server]:
    """A fresh server that answers, Daebus' with these doors."""
    with starting_server(environment, subject, doors) as server:
        if doors != "none" and subject not in SOCKETS_ONLY:
            wait_for_answer(server)
        if doors == "sockets":
            wait_until(lambda: accepts(server.ports.sockets), server.process, f"{subject} does not listen")
        yield server


@contextmanager
def starting_server(
    environment: Environment, subject: str, doors: str, extra: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server that was just executed; for Daebus beside a Redis of its own, to which `none` has subscribed."""
    ports = free_ports(subject)
    if subject in DAEBUS:
        with redis_server(environment, tcp=subject == "upstream") as redis:
            started = time.monotonic()
            with running(start_daebus(environment, subject, doors, ports, redis, extra)) as process:
                if doors == "none":
                    wait_until(lambda: redis.subscribers(SERVICE) > 0, process, f"{subject} does not subscribe")
                yield Server(ports, process, started)
    else:
        with tempfile.TemporaryDirectory(prefix="daebus-bench-") as name:
            started = time.monotonic()
            with running(start_peer(environment, subject, ports, Path(name))) as process:
                yield Server(ports, process, started)


def start_daebus(
    environment: Environment,
    subject: str,
    doors: str,
    ports: Ports,
    redis: Redis,
    extra: Mapping[str, str] | None = None,
) -> Process:
    where = [str(redis.port)] if subject == "upstream" else []
    script = [environment[subject], str(SOURCES / "subjects/doors.py"), SERVICE, doors]
    command = [*script, str(ports.http), str(ports.sockets), *where]
    return Process(command, redis.directory, {"DAEBUS_REDIS_URL": redis.url, **(extra or {})}, name=subject)


def start_peer(environment: Environment, subject: str, ports: Ports, directory: Path) -> Process:
    command = [environment["web"], str(SOURCES / "subjects/web_peers.py"), subject, str(ports.http)]
    return Process(command, directory, name=subject)


def wait_for_answer(server: Server) -> None:
    """Until GET gives the document: some listen before they serve."""
    wait_until(lambda: answers(server.ports.http), server.process, "no answer")


def answers(port: int) -> bool:
    request = f"GET /reading HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((HOST, port), START_SECONDS) as connection:
            connection.sendall(request.encode())
            return connection.recv(65536).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


# ---- asking ----


def check_requests(port: int, times: int = 1) -> None:
    """Both requests that are measured get the right answer; more than once, it is a warm-up, too."""
    connection = http.client.HTTPConnection(HOST, port, timeout=START_SECONDS)
    try:
        for _ in range(times):
            check_answer(connection, "POST", "/echo", BODY, json.loads(BODY))
            check_answer(connection, "GET", "/reading", None, READING)
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementError(f"no answer: {error!r}") from error
    finally:
        connection.close()


def check_answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, expected: object
) -> None:
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200 or json.loads(answer) != expected:
        raise MeasurementError(f"a wrong answer to {method} {path}: {response.status} {answer[:200]!r}")


def open_socket(port: int) -> socket.socket:
    """A WebSocket connection after its handshake."""
    connection = socket.create_connection((HOST, port), START_SECONDS)
    connection.sendall(UPGRADE.format(port=port).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data:
            raise MeasurementError(f"no upgrade: {head[:200]!r}")
        head += data
    if not head.startswith(b"HTTP/1.1 101 "):
        raise MeasurementError(f"no upgrade: {head[:200]!r}")
    return connection


def check_socket(connection: socket.socket) -> None:
    """One message is echoed; the mask of zeros leaves it as it is."""
    connection.sendall(b"\x81" + bytes([0x80 | len(MESSAGE)]) + bytes(4) + MESSAGE)
    if b"0000000001" not in connection.recv(4096):
        raise MeasurementError("a WebSocket message was not echoed")


def open_request(port: int) -> socket.socket:
    """A connection that has had one answer and is kept alive."""
    connection = http.client.HTTPConnection(HOST, port, timeout=START_SECONDS)
    check_answer(connection, "GET", "/reading", None, READING)
    kept: socket.socket | None = connection.sock
    if kept is None:
        raise MeasurementError("the server closed a connection that should be kept alive")
    return kept


@contextmanager
def crowd(open_one: Callable[[int], socket.socket], port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that do nothing; checks at the end that none was closed meanwhile."""
    with ExitStack() as stack:
        connections = [stack.enter_context(open_one(port)) for _ in range(count)]
        yield connections
        closed = sum(is_closed(connection) for connection in connections)
        if closed:
            raise MeasurementError(f"{closed} of {count} idle connections were closed")


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
