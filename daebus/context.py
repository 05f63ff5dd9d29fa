"""The current request: one context variable, and the views on it that users' handlers import.

Inside Daebus the call is passed by hand; only handlers use `request`, `response`, `broadcast`, `cache`.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from .errors import ConfigurationError
from .log import Seldom, leave_entry
from .names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .app import Daebus

    class Call(Protocol):
        """What is being handled: a request and its response, or a listened message, which has neither."""

        @property
        def request(self) -> Any:
            """The request, if there is one."""

        @property
        def response(self) -> Any:
            """What answers it."""


current: ContextVar[Call | None] = ContextVar("daebus_call", default=None)

_seldom = Seldom()
_daemon: Daebus | None = None


def set_daemon(daemon: Daebus | None) -> None:
    """Say which service runs in this process; `app.run()` does."""
    global _daemon
    _daemon = daemon


def get_daemon() -> Daebus:
    """Return the service that runs in this process. Raises `RuntimeError` before `app.run()`."""
    if _daemon is None:
        raise RuntimeError("Daebus not initialized; call app.run() first")
    return _daemon


def running_daemon() -> Daebus | None:
    """Return the service that runs in this process, or None."""
    return _daemon


def current_trace() -> str | None:
    """Return the trace id of the request that is being handled here, None if there is none."""
    call = current.get()
    return call.request.trace if call is not None and call.request is not None else None


def current_span() -> tuple[str | None, str | None]:
    """Return the trace id of the request that is being handled here, and what its calls tell as their `parent`: its own
    id if somebody wants to see the trace, else None."""
    call = current.get()
    if call is None or call.request is None:
        return None, None
    request = call.request
    return request.trace, None if request.parent is None else _name_of(request)


def _name_of(request: Any) -> str:
    named = request.request_id
    return "" if named is None else str(named)


class RequestView:
    """`request`: the request that the current handler answers."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # Python itself asks, to see what kind of object this is
        call = current.get()
        if call is None:
            raise RuntimeError(
                f"request.{name}: no request is being handled here. `request` works in action and route handlers; "
                "pass what other threads, tasks and on_start functions need as arguments."
            )
        if call.request is None:
            raise RuntimeError(f"request.{name}: a listener has no request; its argument is the payload")
        return getattr(call.request, name)

    def __repr__(self) -> str:
        call = current.get()
        return f"<request: {call.request!r}>" if call else "<request: none is being handled here>"


class ResponseView:
    """`response`: answers the request that the current handler was called for."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        call = current.get()
        if call is not None and call.response is not None:
            return getattr(call.response, name)
        if name in ("success", "error", "send", "progress"):
            return _Unheard(name)
        raise AttributeError(f"response.{name}: no request is being handled here")

    def __repr__(self) -> str:
        return "<response>"


class _Unheard:
    """`response.success(...)` where nobody asked: says so in the log and returns 0."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_args: object, **_kwargs: object) -> int:
        text = f"response.{self._name}() was called where no request is being handled: nothing was sent"
        _seldom.log(logging.WARNING, self._name, text)
        return 0


class CacheView:
    """`cache`: a redis-py client (`decode_responses=True`) of the Redis that the service uses.

    Made on first use, with the settings of `app.run()`, or the default ones outside a service.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(get_redis_client(), name)

    def __repr__(self) -> str:
        return "<cache: a redis-py client, made on first use>"


class Broadcast:
    """`broadcast`: publishes to a channel, from any thread."""

    __slots__ = ()

    def send(self, channel: str, payload: dict[str, Any]) -> int:
        """Publish a JSON object; return how many subscribers received it.

        Raises `ValueError` for an empty channel, `TypeError` for a payload that is no dict, `Unserialisable` for
        one that JSON cannot hold, `RedisUnavailable` if Redis does not take it.
        """
        from .hub import publish

        if not isinstance(channel, str) or not channel:
            raise ValueError(f"{channel!r} is not a channel to broadcast to: give its name as text")
        if not isinstance(payload, dict):
            raise TypeError(f"a broadcast is a JSON object: give a dict, not {type(payload).__name__}")
        heard = publish(_daemon.settings if _daemon is not None else None, channel, payload)
        if current_span()[1] is not None:
            leave_entry("A broadcast on channel %s: %d heard it", shown(channel), heard, daebus_channel=channel)
        return heard

    def __repr__(self) -> str:
        return "<broadcast>"


def get_redis_client() -> Any:
    """Return the redis-py client that is behind `cache`."""
    from .redispy import client

    return client(_daemon.settings if _daemon is not None else None)


request: Any = RequestView()
response: Any = ResponseView()
cache: Any = CacheView()
broadcast = Broadcast()

_CONTEXT_TYPES = ("http", "pubsub", "websocket", None)


def get_context_type() -> str | None:
    """Return which kind of request is being handled here ("http", "pubsub", "websocket"), or None."""
    call = current.get()
    return getattr(call, "context_type", "pubsub") if call is not None else None


def set_context_type(context_type: str | None) -> None:
    """Accepted for older code, checked and otherwise without effect: the context knows its kind."""
    if context_type not in _CONTEXT_TYPES:
        raise ConfigurationError(f"{context_type!r} is not a kind of context")
