"""`daebus.modules.context` of the older package."""

from ..context import (
    broadcast,
    cache,
    get_context_type,
    get_daemon,
    request,
    response,
    set_context_type,
    set_daemon,
)
from ..log import direct_logger, logger

__all__ = [
    "broadcast",
    "cache",
    "direct_logger",
    "get_context_type",
    "get_daemon",
    "logger",
    "request",
    "response",
    "set_context_type",
    "set_daemon",
]
