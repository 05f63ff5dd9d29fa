"""The errors of Daebus: one small tree in which every class knows its answer.

    DaebusError
    ├── BadMessage           the message is not a request of the wire format
    ├── UnknownAction        the service has no such action
    ├── ServiceUnavailable   nobody is subscribed to the service's channel
    ├── Busy                 all workers are taken and the queue behind them is full
    ├── Stopping             the service is going down
    ├── Expired              the caller's deadline had passed before the work began
    ├── RequestTimeout       no answer within the timeout (also a TimeoutError)
    ├── InternalError        the handler failed; the journal has the story under the error id
    ├── Unserialisable       a value cannot be written as JSON (also a TypeError)
    ├── TooLarge             a message is over the size limit
    ├── RemoteError          the service answered with an error of its own
    ├── CallerClosed         the caller was closed
    ├── RedisUnavailable     Redis cannot be reached (also a ConnectionError and a RuntimeError)
    │   └── RedisRefused     Redis answers, but refuses us (password, user, rights)
    ├── NameTaken            another process serves under this name
    ├── ConfigurationError   a setting makes no sense (also a ValueError)
    └── DeclarationError     a decorator was used wrongly, or twice for one name (also a ValueError)

`code` is what travels in an error reply; `http_status` is what an HTTP client gets.
"""

from __future__ import annotations


class DaebusError(Exception):
    """Base of all errors of Daebus; `str(error)` is the text that a caller sees."""

    code: str = "error"
    http_status = 500
    error_id: str | None = None
    for_caller = True
    """Whether a handler that raises this answers with its text; else the caller gets an `InternalError`."""
    of_answer = False
    """Whether it says that a handler's answer cannot be written."""


class BadMessage(DaebusError):
    """A message that is not a request; carries what of its envelope could be read."""

    code = "bad_message"
    http_status = 400


class UnknownAction(DaebusError):
    """The service has no action of that name."""

    code = "unknown_action"
    http_status = 404


class ServiceUnavailable(DaebusError):
    """Nobody is subscribed to the service's channel: the request was not delivered."""

    code = "unavailable"
    for_caller = False
    http_status = 503


class Busy(DaebusError):
    """The service has more work than it can take: the request was not run."""

    code = "busy"
    http_status = 503


class Stopping(DaebusError):
    """The service is going down; the request was not finished."""

    code = "stopping"
    http_status = 503


class Expired(DaebusError):
    """The deadline of the request had passed before its turn came: it was not run."""

    code = "expired"
    http_status = 504


class RequestTimeout(DaebusError, TimeoutError):
    """No final answer came within the timeout."""

    code = "timeout"
    for_caller = False
    http_status = 504


class InternalError(DaebusError):
    """The handler failed. `error_id` finds its traceback in the service's journal."""

    code = "internal"
    for_caller = False


class Unserialisable(DaebusError, TypeError):
    """A value cannot be written as JSON."""

    code = "unserialisable"
    for_caller = False


class TooLarge(DaebusError):
    """A message is larger than the limit (bytes)."""

    code = "too_large"
    for_caller = False
    http_status = 413


class RemoteError(DaebusError):
    """The service answered with an error of its own (`response.error`)."""


class CallerClosed(DaebusError):
    """The caller was closed: before the call, or while it waited."""

    code = "closed"
    for_caller = False


class RedisUnavailable(DaebusError, ConnectionError, RuntimeError):
    """Redis cannot be reached, or the connection was lost."""

    code = "redis_unavailable"
    for_caller = False
    http_status = 503


class RedisRefused(RedisUnavailable):
    """Redis answers, but refuses us: a wrong password, an unknown user, a missing right."""

    code = "redis_refused"


class NameTaken(DaebusError):
    """Another process serves under this service name."""

    code = "name_taken"


class ConfigurationError(DaebusError, ValueError):
    """A setting makes no sense; the text says which and what to do."""

    code = "configuration"
    for_caller = False


class DeclarationError(DaebusError, ValueError):
    """A decorator was used wrongly, too late, or twice for one name."""

    code = "declaration"
    for_caller = False


_FROM_WIRE: dict[str, type[DaebusError]] = {
    cls.code: cls
    for cls in (
        BadMessage, UnknownAction, Busy, Stopping, Expired, InternalError, Unserialisable, TooLarge, NameTaken,
    )
}  # fmt: skip


def error_from_wire(text: str, code: object, error_id: object) -> DaebusError:
    """Return the error that an error reply stands for; one with another code is a `RemoteError` with that code."""
    cls = _FROM_WIRE.get(code, RemoteError) if isinstance(code, str) else RemoteError
    error = cls(text)
    if isinstance(code, str):
        error.code = code
    error.for_caller = False  # what another service said of itself is not this service's answer
    error.error_id = error_id if isinstance(error_id, str) else None
    return error
