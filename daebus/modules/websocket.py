"""`daebus.modules.websocket` of the older package."""

from ..websocket import DaebusWebSocket
from ..wsexchange import WebSocketRequest, WebSocketResponse

__all__ = ["DaebusWebSocket", "WebSocketRequest", "WebSocketResponse"]
