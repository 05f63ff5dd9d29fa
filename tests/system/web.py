"""HTTP with a service in a container, over a connection that the test has made."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping

from tests.support import MS
from tests.system.container import Container

ANSWER_SECONDS = 5000 * MS


def ask(connection: socket.socket, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """GET a path over a connection, which is closed then; the status and the body."""
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    try:
        client.request("GET", path, headers={"Connection": "close", **(headers or {})})
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    finally:
        client.close()


def get(
    container: Container, port: int, path: str = "/", headers: Mapping[str, str] | None = None, host: str = "127.0.0.1"
) -> tuple[int, str]:
    """The same over a new connection to a port inside."""
    return ask(container.connect(port, host, ANSWER_SECONDS), path, headers)
