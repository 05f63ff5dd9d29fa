"""Daebus: turns a Python file into a Linux service that talks to the others over Redis.

    from daebus import Daebus, request

    app = Daebus(__name__)

    @app.action("greet")
    def greet():
        return {"message": f"Hello, {request.payload.get('name', 'World')}!"}

    app.run(service="greeter")

Importing this package opens no socket, starts no thread and sets up no logging.
"""

from __future__ import annotations

from .app import Daebus
from .context import broadcast, cache, get_daemon, request, response
from .errors import (
    BadMessage,
    Busy,
    CallerClosed,
    ConfigurationError,
    DaebusError,
    DeclarationError,
    Expired,
    InternalError,
    NameTaken,
    RedisRefused,
    RedisUnavailable,
    RemoteError,
    RequestTimeout,
    ServiceUnavailable,
    Stopping,
    TooLarge,
    UnknownAction,
    Unserialisable,
)
from .log import direct_logger, logger
from .message import PubSubRequest
from .pubsub import PubSubResponse
from .registry import Blueprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .aio import AsyncCaller
    from .client import DaebusCaller
    from .workflow_caller import DaebusWorkflow

__version__ = "0.1.0"

__all__ = [
    "AsyncCaller",
    "BadMessage",
    "Blueprint",
    "Busy",
    "CallerClosed",
    "ConfigurationError",
    "Daebus",
    "DaebusCaller",
    "DaebusError",
    "DaebusWorkflow",
    "DeclarationError",
    "Expired",
    "InternalError",
    "NameTaken",
    "PubSubRequest",
    "PubSubResponse",
    "RedisRefused",
    "RedisUnavailable",
    "RemoteError",
    "RequestTimeout",
    "ServiceUnavailable",
    "Stopping",
    "TooLarge",
    "UnknownAction",
    "Unserialisable",
    "broadcast",
    "cache",
    "direct_logger",
    "get_daemon",
    "logger",
    "request",
    "response",
]

_LATER = {
    "DaebusCaller": "client",
    "AsyncCaller": "aio",
    "DaebusWorkflow": "workflow_caller",
}  # loaded by those who use them


def __getattr__(name: str) -> object:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'daebus' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value
