"""An HTTP request and its answer, as handlers see them. Neither knows a socket."""

from __future__ import annotations

import os
from errno import EINVAL
from itertools import count
from stat import S_ISREG
from types import AsyncGeneratorType, GeneratorType

from .errors import BadMessage, ConfigurationError, DaebusError, HttpError, InternalError, Unserialisable
from .http1 import Headers, check_header
from .jsontext import dumps, dumps_pretty, loads_finite
from .names import new_trace, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable
    from typing import Any, BinaryIO, Self

    from .http1 import Head

if TYPE_CHECKING:
    _Dict = dict[str, Any]
else:
    _Dict = dict

JSON, TEXT, HTML, BYTES = (
    "application/json",
    "text/plain; charset=utf-8",
    "text/html; charset=utf-8",
    "application/octet-stream",
)
EVENTS, LINES = "text/event-stream", "application/x-ndjson"

_number = count(1)
_UNREAD: Any = object()
_BYTES: Any = object()


class HttpRequest:
    """A request that came over HTTP.

    `payload` is the body: the value of a JSON one, the fields and files of a form, else its bytes; without a body,
    the fields of the query. `params` are the values of the path and the fields of the query. `headers` take names in
    any case. `remote_address` is `host:port` of the client.
    """

    __slots__ = (
        "_body", "_cookies", "_fields", "_files", "_form", "_head", "_json", "_path", "_query", "_trace", "id",
        "remote_address", "upload_memory", "values",
    )  # fmt: skip

    reply_to = None
    service = "http"

    def __init__(self, head: Head, body: bytes | BinaryIO = b"", remote_address: str = "") -> None:
        self._head = head
        self._body: bytes | BinaryIO = body
        self.remote_address = remote_address
        self.values: dict[str, Any] = {}
        self.id = 0
        self.upload_memory = 256 * 1024
        self._fields = self._json = self._form = _UNREAD
        self._query: dict[str, str | list[str]] | None = None
        self._cookies: dict[str, str] | None = None
        self._files: dict[str, Any] = {}
        self._path: str | None = None
        self._trace: str | None = None

    @property
    def trace(self) -> str:
        """The id that this request has in common with all that it leads to: that of its `traceparent` header (W3C
        Trace Context, level 1, section 3.2), else of `X-Request-ID`, else a new one."""
        if self._trace is None:
            self._trace = _given_trace(self.headers) or new_trace()
        return self._trace

    @property
    def parent(self) -> str | None:
        """The span that led to this request, of a `traceparent` header with the flag "sampled": somebody wants to see
        the trace. Else None."""
        given = self._head.headers.get("traceparent")
        return _trace_context(given)[1] if given is not None else None

    @property
    def method(self) -> str:
        """The method, in capitals."""
        return self._head.method

    @property
    def path(self) -> str:
        """The path, decoded, without the query."""
        if self._path is None:
            self._path = self._head.path
            if "%" in self._path:
                from urllib.parse import unquote

                self._path = unquote(self._path)
        return self._path

    @property
    def target(self) -> str:
        """The request target as it was sent."""
        return self._head.target

    @property
    def headers(self) -> Headers:
        """The headers."""
        return self._head.headers

    @property
    def query(self) -> dict[str, str | list[str]]:
        """The fields of the query; a list where a name is repeated."""
        if self._query is None:
            self._query = _parse_fields(self._head.query) if self._head.query else Fields()
        return self._query

    @property
    def params(self) -> dict[str, Any]:
        """The fields of the query and the values of the path, which win."""
        return Fields({**self.query, **self.values})

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies."""
        if self._cookies is None:
            self._cookies = _parse_cookies(self.headers.get("cookie", ""))
        return self._cookies

    @property
    def content_type(self) -> str:
        """The media type of the body, in lower case and without parameters."""
        whole: str = self.headers.get("content-type", "")
        return whole.partition(";")[0].strip().lower()

    @property
    def body(self) -> bytes:
        """The bytes of the body."""
        if isinstance(self._body, bytes):
            return self._body
        self._body.seek(0)
        return self._body.read()

    @property
    def stream(self) -> BinaryIO:
        """The body as a binary file; a large one is on disk."""
        if isinstance(self._body, bytes):
            from io import BytesIO

            return BytesIO(self._body)
        self._body.seek(0)
        return self._body

    def read(self) -> None:
        """Parse the body. Raises `BadMessage` or `HttpError`; a handler runs only for a body that makes sense."""
        head, kind = self._head, self.content_type
        if head.length == 0:
            self._fields = _UNREAD
        elif kind == JSON or (kind.startswith("application/") and kind.endswith("+json")):
            self._fields = self._json = self._read_json()
        elif kind == "application/x-www-form-urlencoded":
            self._fields = self._form = _parse_fields(_ascii(self.body))
        elif kind == "multipart/form-data":
            self._read_multipart()
        else:
            self._fields = _BYTES

    def forget(self) -> None:
        """Give up what `read` made of the body; it can be read again."""
        self._close_files()
        self._fields = self._json = self._form = _UNREAD
        self._files = {}

    def _read_json(self) -> Any:
        charset: str = self.headers["content-type"].lower()
        if "charset=" in charset and "utf-8" not in charset and "utf8" not in charset:
            raise HttpError(415, "JSON is UTF-8 (RFC 8259, section 8.1)")
        try:
            return loads_finite(self.body)
        except BadMessage as error:
            raise BadMessage(f"the body is {error}") from None

    def _read_multipart(self) -> None:
        from .forms import parse_multipart

        fields, self._files = parse_multipart(self._body, self.headers["content-type"], self.upload_memory)
        self._form = Fields(fields)
        self._fields = Fields(fields)
        for name, upload in self._files.items():
            self._fields[name] = upload if name not in fields else [fields[name], upload]

    @property
    def payload(self) -> Any:
        """The body's value; without a body, the fields of the query."""
        if self._fields is _BYTES:
            return self.body
        return self.query if self._fields is _UNREAD else self._fields

    @property
    def is_text(self) -> bool:
        """Whether the values of `payload` are text, because they come from a query or a form."""
        return self._json is _UNREAD

    @property
    def json(self) -> Any:
        """The value of a JSON body; None without one, or if the body is of another type."""
        return None if self._json is _UNREAD else self._json

    @property
    def form(self) -> dict[str, Any]:
        """The fields of a form, without its files."""
        return {} if self._form is _UNREAD else self._form

    @property
    def files(self) -> dict[str, Any]:
        """The files of a form, by the name of their field."""
        return self._files

    @property
    def request_id(self) -> str:
        """A name for this request in the log."""
        self.id = self.id or next(_number)
        return f"http-{self.id}"

    @property
    def raw(self) -> dict[str, Any]:
        """All of it in one dict, as older programs read it."""
        parts = ("method", "path", "query", "params", "json", "form")
        return {**{name: getattr(self, name) for name in parts}, "headers": self.headers.to_dict()}

    def close(self) -> None:
        """Let go of what is on disk."""
        self._close_files()
        if not isinstance(self._body, bytes):
            self._body.close()

    def _close_files(self) -> None:
        for upload in self._files.values():
            for one in upload if isinstance(upload, list) else (upload,):
                one.close()

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self._head.path!r})"


class MissingField(BadMessage, KeyError):
    """A handler wants a field that the client did not send."""

    __str__ = Exception.__str__


class Fields(_Dict):
    """The fields of a query or form. A handler that wants one which is not there answers 400: it is the client's
    mistake."""

    def __missing__(self, name: str) -> Any:
        raise MissingField(f"the field {shown(name)} is missing")


def _parse_fields(text: str) -> Fields:
    from .forms import parse_fields

    return Fields(parse_fields(text))


def _ascii(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadMessage("the form is not UTF-8") from None


def _given_trace(headers: Headers) -> str | None:
    trace, _span = _trace_context(headers.get("traceparent", ""))
    if trace is not None:
        return trace
    given: str = headers.get("x-request-id", "")
    return given if 0 < len(given) <= 64 and given.isascii() and given.replace("-", "").isalnum() else None


def _trace_context(traceparent: str) -> tuple[str | None, str | None]:
    """Return the trace id of a `traceparent`, and its span if it has the flag "sampled" (section 3.2.2.5); None for
    what is not there or not well-formed."""
    parts = traceparent.split("-")
    if len(parts) < 4 or not (_is_hex(parts[1], 32) and parts[1].strip("0")):
        return None, None
    sampled = _is_hex(parts[2], 16) and _is_hex(parts[3], 2) and int(parts[3], 16) & 1
    return parts[1], parts[2] if sampled else None


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and not text.strip("0123456789abcdef")


def _parse_cookies(text: str) -> dict[str, str]:
    cookies: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and name:
            cookies.setdefault(name, value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value)
    return cookies


class OpenFile:
    """An open file, closed when nobody holds it any more."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class HttpResponse:
    """The answer to a request: what `response` is in a route handler, and what a handler may make and return.

    Its methods return the response itself, so that a handler can end with `return response.send(...)`.
    """

    __slots__ = (
        "_open", "body", "chosen", "content_type", "debug", "file_part", "finish", "headers", "length", "request",
        "status",
    )  # fmt: skip

    streams = True  # generators become streams

    def __init__(self, request: HttpRequest | None = None) -> None:
        self.request = request
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.content_type: str | None = None  # of the body, unless there is a header that says so
        self.body: bytes | Iterable[Any] | AsyncIterable[Any] = b""
        self.file_part: tuple[OpenFile, int, int] | None = None  # with offset and length
        self.length: int | None = None  # of the body in bytes, where there is none because the method is HEAD
        self.chosen = False  # something was said with this very object
        self.debug = False
        self.finish: Callable[[HttpResponse], None] | None = None
        self._open = [True]  # popped by whoever answers for good: an atomic step, so two threads cannot both

    # --- for handlers ---

    def send(
        self,
        payload: Any = None,
        status_code: int = 200,
        headers: dict[str, str] | Iterable[tuple[str, str]] | None = None,
        *,
        content_type: str | None = None,
    ) -> Self:
        """Answer with a value: a dict or list as JSON, text as HTML (if it begins with a tag) or plain, bytes as such.

        Raises `Unserialisable` for a value that JSON cannot hold, `ValueError` for a status or header that HTTP
        cannot.
        """
        self.set_status(status_code)
        self.add_headers(headers)
        self._set_body(payload, content_type)
        self.chosen = True
        return self

    def success(self, payload: Any = None, status_code: int = 200) -> Self:
        """Answer with a value, as in an action."""
        return self.send(payload, status_code)

    def error(self, err: BaseException | str, status_code: int = 400) -> Self:
        """Answer with an error: the text of an exception, or a text."""
        if not isinstance(err, BaseException | str):
            raise TypeError(f"response.error() takes an exception or a text, not {type(err).__name__}")
        return self.send({"status": "error", "error": str(err)}, status_code)

    def progress(self, _payload: Any = None, _progress_percentage: float | None = None) -> int:
        """Nothing: HTTP has one answer. (Stream one with a generator.)"""
        return 0

    def set_status(self, status_code: int) -> Self:
        """Set the status, a number from 200 to 599."""
        if isinstance(status_code, bool) or not isinstance(status_code, int) or not 200 <= status_code <= 599:
            raise ValueError(f"an HTTP status is a number from 200 to 599, not {status_code!r}")
        self.status = int(status_code)
        self.chosen = True
        return self

    def header(self, name: str, value: object) -> Self:
        """Set a header in place of any of that name. Raises `ValueError` for what HTTP cannot carry."""
        name, text = check_header(name, value)
        if name.lower() in _FRAMING:
            raise ValueError(f"the header {name} is set by the server itself")
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        self.headers.append((name, text))
        return self

    def add_headers(self, headers: dict[str, str] | Iterable[tuple[str, str]] | None) -> None:
        """Set several headers."""
        for name, value in headers.items() if isinstance(headers, dict) else headers or ():
            self.header(name, value)

    def set_cookie(
        self,
        name: str,
        value: str = "",
        *,
        max_age: int | None = None,
        path: str = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = True,
        samesite: str = "Lax",
    ) -> Self:
        """Set a cookie; `max_age` in seconds, None: until the browser is closed."""
        if not name or "=" in name or samesite not in ("Lax", "Strict", "None"):
            raise ValueError(
                f"a cookie has a name without '=', and samesite is Lax, Strict or None: {name!r}, {samesite!r}"
            )
        parts = [f"{_cookie_text(name)}={_cookie_text(value)}", f"Path={_cookie_text(path)}"]
        parts += [f"Max-Age={int(max_age)}"] if max_age is not None else []
        parts += [f"Domain={_cookie_text(domain)}"] if domain else []
        parts += ["Secure"] if secure else []
        parts += ["HttpOnly"] if httponly else []
        self.headers.append(check_header("Set-Cookie", "; ".join([*parts, f"SameSite={samesite}"])))
        return self

    def delete_cookie(self, name: str, path: str = "/") -> Self:
        """Have the browser forget a cookie."""
        return self.set_cookie(name, "", max_age=0, path=path)

    def redirect(self, location: str, status_code: int = 302) -> Self:
        """Send the client elsewhere."""
        if status_code not in (301, 302, 303, 307, 308):
            raise ValueError(f"{status_code} is not a redirection: 301, 302, 303, 307 or 308")
        return self.header("Location", _location(location)).set_status(status_code)

    def file(self, path: str, *, content_type: str | None = None, download_name: str | None = None) -> Self:
        """Answer with a file. Raises `OSError` if it cannot be read."""
        from .staticfiles import content_type as type_of

        file = OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))  # a pipe must not block
        status = os.fstat(file.descriptor)
        if not S_ISREG(status.st_mode):
            raise OSError(EINVAL, "not a regular file", os.fspath(path))
        if download_name is not None:
            self.header("Content-Disposition", f"attachment; filename*=UTF-8''{_percent(download_name)}")
        self._take_body(b"", content_type or type_of(os.fspath(path)))
        self.file_part = (file, 0, status.st_size)
        self.chosen = True
        return self

    def stream(self, parts: Any, *, content_type: str | None = None, status_code: int = 200) -> Self:
        """Answer with what a generator (or another iterable, async ones too) yields: text, bytes, or values as lines
        of JSON. A thread of its own runs it; an async one runs on the event loop."""
        if isinstance(parts, str | bytes | dict) or not (hasattr(parts, "__iter__") or hasattr(parts, "__aiter__")):
            raise TypeError(f"a stream is made of a generator or another iterable, not of {type(parts).__name__}")
        self.set_status(status_code)
        self._take_body(parts, content_type)
        return self

    def events(self, parts: Any) -> Self:
        """Answer with server-sent events, one for each value that a generator yields: data, or (event, data)."""
        self.header("Cache-Control", "no-store")
        return self.stream(parts, content_type=EVENTS)

    def get_response(self) -> tuple[Any, int]:
        """Return the body and the status."""
        return self.body, self.status

    def to_dict(self) -> Any:
        """Refuse to be JSON: a response inside a value is a mistake."""
        raise ConfigurationError("an HttpResponse cannot be part of an answer: return it by itself")

    def _set_body(self, payload: Any, content_type: str | None) -> None:
        if payload is None:
            self.status = 204 if self.status == 200 else self.status
            self._take_body(b"", content_type)
        elif type(payload) in _STREAMS:
            self._take_body(payload, content_type)
        elif isinstance(payload, str):
            self._take_body(payload.encode(), content_type or (HTML if payload.lstrip()[:1] == "<" else TEXT))
        elif isinstance(payload, bytes | bytearray | memoryview):
            self._take_body(bytes(payload), content_type or BYTES)
        else:
            self._take_body(self._json(payload), content_type or JSON)

    def _take_body(self, body: Any, content_type: str | None) -> None:
        """Have this body in place of any other."""
        self.body = body
        self.file_part = None
        self.content_type = (
            check_header("Content-Type", content_type)[1] if content_type not in _OWN_TYPES else content_type
        )

    def _json(self, payload: Any) -> bytes:
        try:
            return (dumps_pretty(payload) if self.debug else dumps(payload)).encode()
        except DaebusError as error:
            error.of_answer = True
            raise

    # --- for the dispatcher ---

    @property
    def answered(self) -> bool:
        """Whether the answer is on its way."""
        return not self._open

    def conclude(self, result: Any) -> None:
        """Answer with what the handler returned; if that is nothing, with what it said by `response.send`."""
        self.deliver(self.made_of(result))

    def begin_error(self, error: BaseException) -> None:
        """Have the status and the headers of an error, for an answer that names none."""
        self.status = error.http_status if isinstance(error, DaebusError) else 500
        self.headers += [check_header(name, value) for name, value in getattr(error, "headers", ())]

    def made_of(self, result: Any) -> HttpResponse:
        """Return the response that a handler's result stands for."""
        if isinstance(result, HttpResponse):
            return result
        if result is None and self.chosen:
            return self
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            result = (result[0], self.status, result[1])
        if isinstance(result, tuple) and 2 <= len(result) <= 3 and isinstance(result[1], int):
            payload, status, *headers = result
            if isinstance(payload, HttpResponse):
                for pairs in headers:
                    payload.add_headers(pairs)
                return payload.set_status(status)
            return self.send(payload, status, *headers)
        return self.send(result, self.status)

    def fail(self, error: DaebusError) -> None:
        """Answer with an error of ours, in place of whatever was begun."""
        self.deliver(self.failure(error))

    def failure(self, error: DaebusError) -> HttpResponse:
        """Return the answer that an error of ours is."""
        answer = HttpResponse(self.request)
        answer.debug = self.debug
        internal = isinstance(error, InternalError | Unserialisable)
        body: dict[str, Any] = {"error": _SENTENCES.get(error.http_status, "Failed") if internal else str(error)}
        if isinstance(error, Unserialisable):
            body["message"] = "Failed to serialize response data"
        if error.error_id:
            body["error_id"] = error.error_id
        if self.debug and error.__cause__ is not None:
            body["details"] = f"{type(error.__cause__).__name__}: {error.__cause__}"
        answer.headers += [check_header(name, value) for name, value in getattr(error, "headers", ())]
        if error.http_status == 503:
            answer.header("Retry-After", "1")
        return answer.send(body, error.http_status)

    def deliver(self, answer: HttpResponse) -> None:
        """Hand an answer over to be sent, unless there was one already."""
        try:
            self._open.pop()
        except IndexError:
            return
        finish, self.finish = self.finish, None  # nothing holds on to the request any more
        if finish is not None:
            finish(answer)

    def reopen(self, finish: Callable[[HttpResponse], None]) -> None:
        """Take another answer: the one that was taken cannot be sent, and nothing of it was."""
        self.finish = finish
        self._open.append(True)

    def type_header(self) -> list[tuple[str, str]]:
        """Return the Content-Type, unless the headers have one."""
        if self.content_type is None or any(name.lower() == "content-type" for name, _value in self.headers):
            return []
        return [("Content-Type", self.content_type)]

    def __repr__(self) -> str:
        return f"HttpResponse({self.status})"


_SENTENCES = {
    500: "Internal server error",
    503: "Something that this needs is not available now",
    504: "Something that this needs did not answer in time",
}
_STREAMS = (GeneratorType, AsyncGeneratorType)
_OWN_TYPES = (None, JSON, TEXT, HTML, BYTES, EVENTS, LINES)
_FRAMING = ("content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "date")


def _cookie_text(text: str) -> str:
    if not isinstance(text, str) or any(sign in text for sign in ' ";,\\\r\n\t') or not text.isascii():
        raise ValueError(f"{text!r} cannot be in a cookie: letters, digits and most signs, no spaces, quotes ; , or \\")
    return text


def _location(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="/:?#[]@!$&'()*+,;=%-._~")


def _percent(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def chunk_of(part: Any, event: bool) -> bytes:
    """Return the bytes of a part of a stream: text, bytes, or a value as a line of JSON; or an event of it."""
    if event:
        return _event(part)
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    return f"{dumps(part)}\n".encode()


def _event(part: Any) -> bytes:
    name, data = part if isinstance(part, tuple) and len(part) == 2 else (None, part)
    text = data if isinstance(data, str) else dumps(data)
    lines = [] if name is None else [f"event: {' '.join(_lines(str(name)))}"]
    lines += [f"data: {line}" for line in _lines(text)]
    return ("\n".join(lines) + "\n\n").encode()


def _lines(text: str) -> list[str]:
    """Return the lines of a text as an event stream has them: ended by CR LF, LF or CR, and by nothing else."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
