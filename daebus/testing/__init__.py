"""The test kit: a service in the test's own process, without Redis, network and systemd.

    with app.test_client() as client:
        assert client.call("greet", name="Ann") == {"message": "Hello, Ann!"}

See docs/testing.md. Services do not import this.
"""

from __future__ import annotations

from .client import Answer, Client
from .clock import Clock
from .logs import Logged
from .sockets import NothingReceived, Refused, WebSocketClient
from .stubs import Stub
from .switch import Faults
from .web import HttpAnswer
from .worker import Stuck
from .workflow import Conversation

__all__ = [
    "Answer",
    "Client",
    "Clock",
    "Conversation",
    "Faults",
    "HttpAnswer",
    "Logged",
    "NothingReceived",
    "Refused",
    "Stub",
    "Stuck",
    "WebSocketClient",
]
