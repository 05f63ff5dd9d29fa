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
    BadPayload,
    Busy,
    CallerClosed,
    ConfigurationError,
    DaebusError,
    DeclarationError,
    Expired,
    HttpError,
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
    from .exchange import HttpRequest, HttpResponse
    from .http import DaebusHttp
    from .websocket import DaebusWebSocket
    from .workflow_caller import DaebusWorkflow
    from .wsexchange import WebSocketRequest, WebSocketResponse

__version__ = "0.1.0"

__all__ = [
    "AsyncCaller",
    "BadMessage",
    "BadPayload",
    "Blueprint",
    "Busy",
    "CallerClosed",
    "ConfigurationError",
    "Daebus",
    "DaebusCaller",
    "DaebusError",
    "DaebusHttp",
    "DaebusWebSocket",
    "DaebusWorkflow",
    "DeclarationError",
    "Expired",
    "HttpError",
    "HttpRequest",
    "HttpResponse",
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
    "WebSocketRequest",
    "WebSocketResponse",
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
    "DaebusHttp": "http",
    "DaebusWebSocket": "websocket",
    "DaebusWorkflow": "workflow_caller",
    "HttpRequest": "exchange",
    "HttpResponse": "exchange",
    "WebSocketRequest": "wsexchange",
    "WebSocketResponse": "wsexchange",
}  # loaded by those who use them


def __getattr__(name: str) -> object:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'daebus' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value
