"""What a service declares: its handlers, as frozen records. Needs no server; closed when the service starts."""

from __future__ import annotations

from itertools import count

from .errors import DeclarationError
from .names import check_action, check_channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

_hook_number = count(1)

_ARGUMENTS = {
    "action": (0, "takes no arguments: it reads `request.payload`"),
    "workflow": (0, "takes no arguments: it reads `request.payload`"),
    "listen": (1, "takes the payload, and the channel if it wants to"),
    "background": (0, "takes no arguments"),
    "thread": (1, "takes one argument, `running`: it calls that to know whether to go on"),
    "on_start": (0, "takes no arguments"),
    "on_stop": (0, "takes no arguments"),
}
_VARIABLE = 0x04  # inspect.CO_VARARGS: the function has *args


def _check_arguments(kind: str, name: str, function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called as this kind of handler is."""
    code = getattr(function, "__code__", None)
    if code is None:
        return  # a partial or an object with __call__: that shows when it is called
    most = int(code.co_argcount) - (getattr(function, "__self__", None) is not None)
    least = most - len(getattr(function, "__defaults__", None) or ())
    given, sentence = _ARGUMENTS[kind]
    enough = given <= most or code.co_flags & _VARIABLE
    if not enough or least > given + (kind == "listen"):
        place = f"{code.co_filename}:{code.co_firstlineno}"
        raise DeclarationError(f"the {kind} handler {name!r} ({place}) must be a function that {sentence}")


class Record:
    """One declared handler: its kind and name, the function, and what the decorator was told."""

    __slots__ = ("auto_start", "function", "inline", "interval", "kind", "name")

    kind: str
    name: str
    function: Callable[..., Any]
    inline: bool | None
    interval: float
    auto_start: bool

    def __init__(
        self,
        kind: str,
        name: str,
        function: Callable[..., Any],
        *,
        inline: bool | None = None,
        interval: float = 0.0,
        auto_start: bool = True,
    ) -> None:
        for field, value in (
            ("kind", kind), ("name", name), ("function", function),
            ("inline", inline), ("interval", interval), ("auto_start", auto_start),
        ):  # fmt: skip
            object.__setattr__(self, field, value)

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"a declared handler cannot be changed ({field})")

    @property
    def place(self) -> str:
        """Where the function stands, as `file:line`."""
        code = getattr(self.function, "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.function)


class Registry:
    """The decorators and what they collected. `Daebus` and `Blueprint` are both one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._records: dict[tuple[str, str], Record] = {}
        self._closed = False

    def action(self, action_name: str, *, inline: bool | None = None) -> Callable[[F], F]:
        """Declare the handler of an action: a function without arguments that reads `request` and answers.

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

    def thread(self, name: str, auto_start: bool = True) -> Callable[[F], F]:
        """Declare a long-running thread: a function of `running`, which it calls to know whether to go on.

        `running.wait(seconds)` sleeps and returns early when the thread is to stop. A thread that raises is started
        again with back-off; five crashes in a row end the service.
        """
        return self._declare("thread", _label("thread", name), auto_start=auto_start)

    def on_start(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function to run once the connections are up, before the first request, on the main thread.

        If it raises, the service does not start and exits with status 1. The call's parentheses may be left out.
        """
        return self._hook("on_start", function)

    def on_stop(self, function: Callable[..., Any] | None = None) -> Callable[[F], F]:
        """Declare a function to run when the service stops, after the last answer, on the main thread."""
        return self._hook("on_stop", function)

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
    ) -> Callable[[F], F]:
        if not (inline is None or isinstance(inline, bool)):
            raise DeclarationError(f"inline must be True, False or left out, not {inline!r}")

        def decorate(function: F) -> F:
            if not callable(function):
                raise DeclarationError(f"the {kind} handler {name!r} must be a function, not {function!r}")
            _check_arguments(kind, name, function)
            self._add(Record(kind, name, function, inline=inline, interval=interval, auto_start=auto_start))
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
    def on_start_handlers(self) -> list[Callable[..., Any]]:
        """The functions to run at the start, in order."""
        return [record.function for record in self.records("on_start")]


def _label(what: str, name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable():
        return name
    raise DeclarationError(f"{name!r} cannot be the name of a {what}: it must be printable text of 1 to 200 characters")


class Blueprint(Registry):
    """Handlers to be registered on a service later, in any order: `app.register_blueprint(blueprint)`."""
