"""What a service declares: its handlers, as frozen records. Needs no server; closed when the service starts."""

from __future__ import annotations

import sys
from itertools import count

from .errors import DeclarationError
from .names import RESERVED, check_action, check_channel
from .parameters import has_contract, innermost, misfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from .contract import Contract

    F = TypeVar("F", bound=Callable[..., Any])

_hook_number = count(1)

_ARGUMENTS = {
    "action": (0, "takes typed fields of the payload, or no arguments: then it reads `request.payload`"),
    "workflow": (0, "takes typed fields of the payload, or no arguments: then it reads `request.payload`"),
    "listen": (1, "takes the payload, and the channel if it wants to"),
    "background": (0, "takes no arguments"),
    "thread": (1, "takes one argument, `running`: it calls that to know whether to go on"),
    "on_start": (0, "takes no arguments"),
    "on_stop": (0, "takes no arguments"),
    "before": (0, "takes no arguments: it reads `request`, and returns an answer or None"),
    "after": (1, "takes the answer, and returns another one or None"),
}
_OPTIONAL_ARGUMENT = ("listen",)
_PLAIN_ONLY = ("before", "after", "error")
_VARIABLE = 0x04  # inspect.CO_VARARGS: the function has *args
_NOT_PLAIN = 0x20 | 0x80 | 0x200  # inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR


def place_of(function: Callable[..., Any]) -> str:
    """Return where a function stands, below its decorators, as `file:line`."""
    code = getattr(innermost(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def _check_arguments(kind: str, name: str, function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called as this kind of handler is."""
    code = getattr(function, "__code__", None)
    if code is not None and kind in _PLAIN_ONLY and code.co_flags & _NOT_PLAIN:
        raise DeclarationError(
            f"the {kind} function at {place_of(function)} must be a plain function: no async, no yield"
        )
    if code is None or kind not in _ARGUMENTS:
        return  # a partial or an object with __call__: that shows when it is called
    most = int(code.co_argcount) - (getattr(function, "__self__", None) is not None)
    least = most - len(getattr(function, "__defaults__", None) or ())
    given, sentence = _ARGUMENTS[kind]
    enough = given <= most or code.co_flags & _VARIABLE
    if not enough or least > given + (kind in _OPTIONAL_ARGUMENT):
        raise DeclarationError(f"the {kind} handler {name!r} ({place_of(function)}) must be a function that {sentence}")


def _check_contract(kind: str, name: str, function: Callable[..., Any], names: tuple[str, ...]) -> None:
    """Refuse a function with typed parameters that does not say of each what it takes."""
    wrong = misfit(kind, function, names)
    if wrong is not None:
        raise DeclarationError(f"the {kind} handler {name!r} ({place_of(function)}) {wrong}")


class Record:
    """One declared handler: its kind and name, the function, and what the decorator was told."""

    __slots__ = ("_contract", "auto_start", "function", "inline", "interval", "kind", "name", "stuck_after", "subject")

    kind: str
    name: str
    function: Callable[..., Any]
    inline: bool | None
    interval: float
    auto_start: bool
    stuck_after: float | None
    subject: Any
    _contract: list[Contract | None]

    def __init__(
        self,
        kind: str,
        name: str,
        function: Callable[..., Any],
        *,
        inline: bool | None = None,
        interval: float = 0.0,
        auto_start: bool = True,
        stuck_after: float | None = None,
        subject: Any = None,
    ) -> None:
        """`subject` is what an error function is for."""
        for field, value in (
            ("kind", kind), ("name", name), ("function", function),
            ("inline", inline), ("interval", interval), ("auto_start", auto_start), ("stuck_after", stuck_after),
            ("subject", subject), ("_contract", []),
        ):  # fmt: skip
            object.__setattr__(self, field, value)

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"a declared handler cannot be changed ({field})")

    @property
    def contract(self) -> Contract | None:
        """What its type hints ask of a payload, None if nothing. Raises `DeclarationError` for a hint that cannot be
        checked. It is read when the service starts, and kept."""
        if not self._contract:
            self._contract.append(self._read_contract())
        return self._contract[0]

    def _read_contract(self) -> Contract | None:
        names = self.subject if self.kind == "route" else ()
        if not has_contract(self.kind, self.function, self.name, names):
            return None
        from .contract import Contract

        return Contract(self)

    @property
    def place(self) -> str:
        """Where the function stands, as `file:line`."""
        if self.kind == "static":
            return str(self.subject["place"])
        return place_of(self.function)


class Registry:
    """The decorators and what they collected. `Daebus` and `Blueprint` are both one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._records: dict[tuple[str, str], Record] = {}
        self._closed = False
        self._prefix = ""  # of paths

    def action(self, action_name: str, *, inline: bool | None = None) -> Callable[[F], F]:
        """Declare the handler of an action: a function that reads `request`, or takes fields of the payload as typed
        parameters, and answers.

        It answers by returning a value, by `response.success/error/send/progress`, by yielding progress and then
        returning, or by raising. It may be `async def`. It runs on the thread that reads from Redis, or on one of
        `max_workers` others: Daebus learns which actions are slow. `inline=False` says so up front, `inline=True`
        promises that it never takes more than a millisecond.
        """
        return self._declare("action", check_action(action_name), inline=inline)

    def listen(self, channel: str, *, inline: bool | None = None) -> Callable[[F], F]:
        """Declare the listener of a channel, or of all that match a glob (`sensor.*`): a function of the payload.

        Messages of one declaration are handled in order, one at a time, on the threads that `action` describes.
        """
        return self._declare("listen", check_channel(channel), inline=inline)

    def workflow(self, workflow_name: str) -> Callable[[F], F]:
        """Declare the handler of a workflow: a conversation that goes on over several messages.

        It is called, like an action's, for the message that starts the workflow and for each that follows
        (`request.workflow_id` tells which workflow). It says what it has to say with `response.send(payload)`, and
        ends the workflow with `response.send(payload, final=True)`, by returning a value, or by raising.
        """
        return self._declare("workflow", check_action(workflow_name))

    def background(self, name: str, interval: float) -> Callable[[F], F]:
        """Declare a task that runs every `interval` seconds, for the first time one interval after the start.

        It never overlaps itself; periods that it misses are skipped. It runs on a worker thread of its own.
        """
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval < 1e9:
            raise DeclarationError(
                f"the interval of task {name!r} must be a number of seconds above 0, not {interval!r}"
            )
        return self._declare("background", _label("task", name), interval=float(interval))

    def thread(self, name: str, auto_start: bool = True, *, stuck_after: float | None = None) -> Callable[[F], F]:
        """Declare a long-running thread: a function of `running`, which it calls to know whether to go on.

        `running.wait(seconds)` sleeps and returns early when the thread is to stop. A thread that raises is started
        again with back-off; five crashes in a row end the service. With `stuck_after` it must call `running()` at
        least once in so many seconds (sleeping in `running.wait` apart), else systemd's watchdog is not fed.
        """
        return self._declare(
            "thread", _label("thread", name), auto_start=auto_start, stuck_after=check_stuck_after(stuck_after)
        )

    def on_start(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function to run once the connections are up, before the first request, on the main thread.

        If it raises, the service does not start and exits with status 1. The call's parentheses may be left out.
        """
        return self._hook("on_start", function)

    def on_stop(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function to run when the service stops, after the last answer, on the main thread."""
        return self._hook("on_stop", function)

    def on_reload(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function to run on SIGHUP (`systemctl reload`), on a worker thread, while requests go on.

        If it raises, that is logged and the service goes on.
        """
        return self._hook("on_reload", function)

    # --- HTTP and WebSocket ---

    def route(
        self, path: str, methods: list[str] | tuple[str, ...] | None = None, *, inline: bool | None = None
    ) -> Callable[[F], F]:
        """Declare the handler of a path: a function of the request and of the path's values, `f(req, device_id)`.

        It may do without the request (and use `request`). `methods` are GET unless given. Placeholders are `<name>`,
        `<int:name>`, `<float:name>` and `<path:name>`. `inline` is as in `action`.
        """
        from .routes import check_method, placeholders

        if callable(path):
            raise DeclarationError('the decorator needs a path: write @app.route("/path")')
        if methods is not None and (isinstance(methods, str) or not all(isinstance(one, str) for one in methods)):
            raise DeclarationError(f'methods must be a list such as ["GET", "POST"], not {methods!r}')
        if methods is not None and not methods:
            raise DeclarationError(f"the route {path!r} has an empty list of methods: name one, or leave it out")
        if isinstance(path, str):
            path = f"{self._prefix}{path}"
        names = placeholders(path)
        decorators = [
            self._declare("route", f"{method} {path}", inline=inline, subject=names)
            for method in dict.fromkeys(map(check_method, methods or ("GET",)))
        ]

        def decorate(function: F) -> F:
            for declare in decorators:
                declare(function)
            return function

        return decorate

    def static(self, prefix: str, folder: str, *, index: str = "index.html", max_age: int = 0) -> None:
        """Serve the files of a folder below a path; `max_age` in seconds that browsers may keep them unasked.

        A relative folder is one beside the service's file. Routes come first. Hidden files (`.name`) are not served.
        """
        if not isinstance(prefix, str) or not prefix.startswith("/"):
            raise DeclarationError(f"the path of a folder begins with '/': {prefix!r} does not")
        caller = sys._getframe(1)
        place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        options = {"root": folder, "index": index, "max_age": max_age, "module": self.name, "place": place}
        record = Record("static", f"{self._prefix}{prefix}", _no_function, subject=options)
        self._add(record)

    def before(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function to run before each action and route; what it returns, if not None, is the answer."""
        return self._hook("before", function)

    def after(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function of the answer (a route's `HttpResponse`, an action's value) that may return another."""
        return self._hook("after", function)

    def error(self, what: int | type[BaseException]) -> Callable[[F], F]:
        """Declare the function that answers for an HTTP status (404) or for a class of exceptions.

        It takes the exception, or nothing, and answers like a handler; the status is kept unless it names another.
        Those for exceptions serve actions, too.
        """
        status = isinstance(what, int) and not isinstance(what, bool) and 400 <= what <= 599
        if not status and not (isinstance(what, type) and issubclass(what, BaseException)):
            raise DeclarationError(f"app.error() takes a status from 400 to 599 or a class of exceptions, not {what!r}")
        name = str(what) if isinstance(what, int) else f"{what.__module__}.{what.__qualname__}"
        return self._declare("error", name, subject=what)

    def socket(self, message_type: str, *, inline: bool | None = None) -> Callable[[F], F]:
        """Declare the handler of a type of WebSocket message: a function of its data and of the client's id.

        What it returns is sent to that client. One client's messages of one type are handled in order.
        """
        if callable(message_type):
            raise DeclarationError('the decorator needs a message type: write @app.socket("type")')
        if isinstance(message_type, str) and message_type.startswith(RESERVED):
            raise DeclarationError(
                f"{message_type!r} cannot be a message type: {RESERVED!r} is reserved for Daebus itself"
            )
        return self._declare("socket", _label("message type", message_type), inline=inline)

    def socket_connect(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function of the query's fields and the client's id, for a client that connects; False refuses."""
        return self._hook("socket_connect", function)

    def socket_disconnect(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function of the client's id, for a client that has left."""
        return self._hook("socket_disconnect", function)

    def socket_register(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function of the data and the client's id, for messages of the type `register`."""
        return self._hook("socket_register", function)

    def _hook(self, kind: str, function: Any) -> Callable[[F], F]:
        declare: Callable[[Any], Any] = self._declare(kind, f"{kind} {next(_hook_number)}")
        if function is None:
            return declare
        bare: Callable[[F], F] = declare(function)  # @app.on_start without parentheses
        return bare

    def _declare(
        self,
        kind: str,
        name: str,
        *,
        inline: bool | None = None,
        interval: float = 0.0,
        auto_start: bool = True,
        stuck_after: float | None = None,
        subject: Any = None,
    ) -> Callable[[F], F]:
        if not (inline is None or isinstance(inline, bool)):
            raise DeclarationError(f"inline must be True, False or left out, not {inline!r}")

        def decorate(function: F) -> F:
            if not callable(function):
                raise DeclarationError(f"the {kind} handler {name!r} must be a function, not {function!r}")
            names = subject if kind == "route" else ()
            if has_contract(kind, function, name, names):
                _check_contract(kind, name, function, names)
            else:
                _check_arguments(kind, name, function)
                if kind == "route":
                    route_arguments(name, function, subject)
            options: dict[str, Any] = {"interval": interval, "auto_start": auto_start, "stuck_after": stuck_after}
            options["subject"] = subject
            self._add(Record(kind, name, function, inline=inline, **options))
            return function

        return decorate

    def _add(self, record: Record) -> None:
        if self._closed:
            raise DeclarationError(
                f"{record.kind} {record.name!r} ({record.place}) comes too late: declare handlers before app.run()"
            )
        there = self._records.get((record.kind, record.name))
        if there is not None:
            raise DeclarationError(
                f"{record.kind} {record.name!r} is declared twice: at {there.place} and at {record.place}"
            )
        self._records[record.kind, record.name] = record

    def records(self, kind: str) -> Iterator[Record]:
        """Return the records of a kind, in the order of their declaration."""
        return (record for record in list(self._records.values()) if record.kind == kind)

    def _functions(self, kind: str) -> dict[str, Callable[..., Any]]:
        return {record.name: record.function for record in self.records(kind)}

    @property
    def action_handlers(self) -> dict[str, Callable[..., Any]]:
        """The declared actions, name to function."""
        return self._functions("action")

    @property
    def listen_handlers(self) -> dict[str, Callable[..., Any]]:
        """The declared listeners, channel to function."""
        return self._functions("listen")

    @property
    def background_tasks(self) -> dict[str, Record]:
        """The declared tasks, name to record (`.function`, `.interval` in seconds)."""
        return {record.name: record for record in self.records("background")}

    @property
    def thread_tasks(self) -> dict[str, Record]:
        """The declared threads, name to record (`.function`, `.auto_start`)."""
        return {record.name: record for record in self.records("thread")}

    @property
    def routes(self) -> dict[str, Callable[..., Any]]:
        """The declared routes, "METHOD /path" to function."""
        return self._functions("route")

    @property
    def socket_handlers(self) -> dict[str, Callable[..., Any]]:
        """The declared WebSocket handlers, message type to function."""
        return self._functions("socket")

    @property
    def on_start_handlers(self) -> list[Callable[..., Any]]:
        """The functions to run at the start, in order."""
        return [record.function for record in self.records("on_start")]


def _no_function() -> None:
    """A folder has none."""


def route_arguments(name: str, function: Callable[..., Any], names: tuple[str, ...]) -> tuple[str | None, ...]:
    """Return what a route's function is called with, in order: the values of these names, and the request (None).

    Raises `DeclarationError` if it does not fit the path.
    """
    inner = function
    while hasattr(inner, "__wrapped__") and (not hasattr(inner, "__code__") or inner.__code__.co_flags & _VARIABLE):
        inner = inner.__wrapped__  # a decorator's wrapper passes on what it is given
    code = getattr(inner, "__code__", None)
    if code is None:
        return (None, *names)
    bound = getattr(inner, "__self__", None) is not None
    parameters = code.co_varnames[bound : code.co_argcount]
    if code.co_flags & _VARIABLE and len(parameters) <= 1:
        return (None, *names)
    arguments = [None if place == 0 and one not in names else one for place, one in enumerate(parameters)]
    optional = len(getattr(inner, "__defaults__", None) or ())
    while optional and arguments and arguments[-1] is not None and arguments[-1] not in names:
        arguments.pop()  # has a default of its own
        optional -= 1
    required_by_name = code.co_kwonlyargcount - len(getattr(inner, "__kwdefaults__", None) or ())
    if set(arguments) - {None} != set(names) or required_by_name > 0:
        expected, place = ", ".join(["req", *names]), place_of(function)
        raise DeclarationError(f"the route handler {name!r} ({place}) must be a function of the arguments ({expected})")
    return tuple(arguments)


def check_stuck_after(seconds: object) -> float | None:
    """Return a limit in seconds, None for none; `DeclarationError` if it is no number above 0."""
    if seconds is None:
        return None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e9:
        return float(seconds)
    raise DeclarationError(f"stuck_after must be a number of seconds above 0, or None for no limit, not {seconds!r}")


def _label(what: str, name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable():
        return name
    raise DeclarationError(f"{name!r} cannot be the name of a {what}: it must be printable text of 1 to 200 characters")


class Blueprint(Registry):
    """Handlers to be registered on a service later, in any order: `app.register_blueprint(blueprint)`.

    `url_prefix` (`"/api"`) stands before the paths of its routes and folders.
    """

    def __init__(self, name: str, url_prefix: str = "") -> None:
        super().__init__(name)
        if not isinstance(url_prefix, str) or (url_prefix and (url_prefix[0] != "/" or url_prefix[-1] == "/")):
            raise DeclarationError(f"a url_prefix begins with '/' and does not end with it: {url_prefix!r} does not")
        self._prefix = url_prefix
