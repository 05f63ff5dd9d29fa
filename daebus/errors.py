"""The errors of Daebus: one small tree in which every class knows its answer.

    DaebusError
    ├── BadMessage           the message is not a request of the wire format
    │   └── BadPayload       what it carries is not what the handler takes
    ├── UnknownAction        the service has no such action
    ├── ServiceUnavailable   nobody is subscribed to the service's channel
    ├── Busy                 all workers are taken and the queue behind them is full
    ├── Stopping             the service is going down
    ├── Expired              the caller's deadline had passed before the work began
    ├── RequestTimeout       no answer within the timeout (also a TimeoutError)
    ├── InternalError        the handler failed; the journal has the story under the error id
    ├── Unserialisable       a value cannot be written as JSON (also a TypeError)
    ├── TooLarge             a message is over the size limit
    ├── HttpError            a route answers with this status and text
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


class BadPayload(BadMessage):
    """What a request carries is not what its handler takes; the text names the field. The handler was not run."""

    code = "bad_payload"


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


class HttpError(DaebusError):
    """An HTTP status and a text for the client: `raise HttpError(404, "no such device")`.

    `status` is from 400 to 599; `headers` are pairs of name and value. Raised in an action it is an ordinary error.
    """

    code = "http"

    def __init__(self, status: int, text: str | None = None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ConfigurationError(f"the status of an HttpError must be a number from 400 to 599, not {status!r}")
        super().__init__(text if text is not None else REASONS.get(status, "Error"))
        self.http_status = status
        for name, _value in headers:
            if name.lower() in ("content-length", "transfer-encoding"):
                raise ConfigurationError(f"the header {name} is set by the server itself")
        self.headers = headers


REASONS = {
    100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content",
    206: "Partial Content", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict",
    410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed", 418: "I'm a Teapot",
    421: "Misdirected Request", 422: "Unprocessable Content", 423: "Locked", 426: "Upgrade Required",
    428: "Precondition Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip
"""HTTP statuses and their reason phrases (RFC 9110, section 15)."""


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
    refusal = ""
    """What Redis said, if it is about one command."""


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


def status_of_outage(error: BaseException) -> int | None:
    """Return 503 or 504 if an error says that something which is needed is away or does not answer, be it redis-py's
    error; else None."""
    if isinstance(error, RedisUnavailable | ServiceUnavailable | RequestTimeout):
        return error.http_status
    away = ("ConnectionError", "TimeoutError")
    redispy = any(cls.__module__.startswith("redis.") and cls.__name__ in away for cls in type(error).__mro__)
    return 503 if redispy else None


_FROM_WIRE: dict[str, type[DaebusError]] = {
    cls.code: cls
    for cls in (
        BadMessage, BadPayload, UnknownAction, Busy, Stopping, Expired, InternalError, Unserialisable, TooLarge,
        NameTaken,
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
