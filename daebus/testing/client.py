"""`app.test_client()`: runs a service in the test's own process, and is everybody who talks to it."""

from __future__ import annotations

from functools import partial
from threading import Lock

from .. import aio, context, gateway, hub, link, log, loop, redispy, scheduler, wsdoor  # noqa: F401 - to be replaced
from ..client import DaebusCaller
from ..errors import ConfigurationError, DaebusError, RedisUnavailable
from ..jsontext import dumps
from ..message import checked
from ..settings import RedisSettings
from ..target import NO_FIELDS
from .callers import InlineAsyncHub, InlineHub
from .clock import Clock, Swaps
from .logs import Keeper, Logged
from .runtime import Runtime
from .sockets import WebSocketClient
from .stubs import Stub
from .switch import Faults
from .web import Cookies, HttpAnswer, encode_body, read_answer, request_bytes
from .workflow import Conversation

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any, Self

    from ..app import Daebus

_NOTHING: Any = object()
_one_at_a_time = Lock()


class Answer:
    """What a request was answered: `payload`, or `error` and its `code`; and the `progress` that came before."""

    __slots__ = ("error", "payload", "progress")

    def __init__(self, payload: Any, error: DaebusError | None, progress: list[Any]) -> None:
        self.payload = payload
        self.error = error
        self.progress = progress

    @property
    def code(self) -> str | None:
        """The error's code, None if there is none."""
        return self.error.code if self.error is not None else None

    def __repr__(self) -> str:
        what = repr(self.payload) if self.error is None else repr(self.error)
        return f"<Answer {what}, {len(self.progress)} parts before it>"


class Client:
    """A service under test, and its callers. To be used in a `with` block, one at a time in a process.

    `clock` is what the service takes for the time; `faults` makes things go wrong. `broadcasts` are the channels and
    payloads that the code has published, `logs` what it has logged, `notifications` what it has told systemd.
    """

    def __init__(
        self,
        app: Daebus,
        service: str = "test",
        *,
        propagate: bool = True,
        patience: float = 5.0,
        debug: bool = False,
    ) -> None:
        self._app = app
        self._service = service
        self._propagate = propagate
        self._patience = patience
        self._debug = debug
        self._runtime: Runtime | None = None
        self._swaps = Swaps()
        self._hubs: dict[object, InlineHub | InlineAsyncHub] = {}
        self._fake_redis: Any = None
        self._planned: list[tuple[str, str, Stub]] = []  # stubs from before the start
        self._cookies = Cookies()
        self.faults = Faults(self._turn)
        self.logs: list[Logged] = []
        self.notifications: list[str] = []
        self.broadcasts: list[tuple[str, Any]] = []
        self._keeper = Keeper(self.logs)

    # --- its life ---

    def __enter__(self) -> Self:
        if not _one_at_a_time.acquire(blocking=False):
            raise ConfigurationError("a test client is open already: one service at a time; stub the others")
        try:
            self._open()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_more: object) -> None:
        error = self._leave()
        if error is not None and kind is None:
            raise error

    def _open(self) -> None:
        settings = RedisSettings("test-client")
        self._app._prepare(self._service, settings)
        self._fake_redis = None
        self._swaps.put(context, "_daemon", self._app)
        self._keeper.begin(debug=self._debug)
        self._replace()
        runtime = self._runtime = Runtime(self._app, settings, self.faults, self._patience, self._debug)
        self.notifications = runtime.states
        runtime.switch.broadcasts = self.broadcasts
        self._swaps.put_clock(runtime.clock)
        self._swaps.put(loop, "run_here", runtime.run_here)
        self._swaps.put(self._app, "_running", runtime)
        for service, action, stub in self._planned:
            runtime.stub(service).answers(action, stub)
        runtime.begin()

    def _replace(self) -> None:
        """Put what stands in for Redis in its place, for all code of this process."""
        put = self._swaps.put
        put(hub, "_hub", self._hub)
        put(aio, "_hub", self._async_hub)
        put(redispy, "client", lambda _settings: self.cache)
        put(link, "_connect", _refuse)
        put(log.Seldom, "take", lambda _seldom, _key: 0)  # the log of a test is whole

    def _leave(self) -> BaseException | None:
        runtime, error = self._runtime, None
        try:
            if runtime is not None:
                error = runtime.finish() or self._unheard()
                runtime.close()
        finally:
            for one in self._hubs.values():
                one.close()
            self._hubs.clear()
            self._swaps.undo()
            self._keeper.end()
            self._runtime = None
            _one_at_a_time.release()
        return error

    @property
    def _open_runtime(self) -> Runtime:
        if self._runtime is None:
            raise DaebusError("the test client is not open: use it in `with app.test_client() as client:`")
        return self._runtime

    @property
    def app(self) -> Daebus:
        """The service."""
        return self._app

    @property
    def service(self) -> str:
        """The name that it runs under."""
        return self._service

    @property
    def clock(self) -> Clock:
        """The clock."""
        return _Watched(self, self._open_runtime.clock)

    # --- over the bus ---

    def call(self, action: str, payload: Any = _NOTHING, *, timeout: float = 5, **fields: Any) -> Any:
        """Call an action and return the payload of its answer, or raise the error that `DaebusCaller` would.

        The payload may be given as keywords: `client.call("dim", percent=40)`. What a handler has raised unexpectedly
        is the `__cause__` of the `InternalError`. `timeout` is in seconds of the clock.
        """
        answer = self._send(action, _payload(payload, fields), timeout, None)
        self._raise_unheard()
        return answer

    def request(self, action: str, payload: Any = _NOTHING, *, timeout: float = 5, **fields: Any) -> Answer:
        """Call an action and return its answer, whichever it is, and the progress that came before."""
        progress: list[Any] = []
        try:
            answer = Answer(self._send(action, _payload(payload, fields), timeout, progress.append), None, progress)
        except DaebusError as error:
            answer = Answer(None, error, progress)
        self._raise_unheard()
        return answer

    def _send(self, action: str, payload: Any, timeout: float, on_progress: Callable[[Any], object] | None) -> Any:
        runtime = self._open_runtime
        send = partial(DaebusCaller(self._service).send_request, action, payload, timeout, on_progress)
        try:
            return runtime.on_worker(send, f"action {action!r}")
        except DaebusError as error:
            cause = runtime.dispatcher.failures.get(error.error_id or "")
            if cause is not None:
                raise error from cause
            raise

    def publish(self, channel: str, payload: Any) -> int:
        """Publish a message; return how many listeners have run for it.

        None has for a message that is lost, late, or not what the listener takes; the log says so of the last.
        """
        runtime, data = self._open_runtime, checked(dumps(payload))
        before = runtime.dispatcher.heard
        self._watched(partial(self._publish, channel, data), f"listeners of {channel!r}")
        return runtime.dispatcher.heard - before

    def _publish(self, channel: str, data: bytes) -> None:
        runtime = self._open_runtime
        runtime.switch.check(runtime.settings)
        runtime.switch.publish(channel, data, noted=False)

    def workflow(self, name: str, payload: Any = None) -> Conversation:
        """Begin a workflow. Raises what `DaebusWorkflow.start` would."""
        conversation = Conversation(self._open_runtime, self._service)
        conversation.begin(name, {} if payload is None else payload)
        return conversation

    def stub(self, service: str, action: str, answer: Any = None) -> Stub:
        """Stand in for an action of another service: by a value, an error to be raised, or a function (of the payload,
        if it takes an argument; it may yield progress, or be async). May be called before the client is opened.

        The stub's `calls` are the payloads that it was called with.
        """
        if service == self._service:
            raise ConfigurationError(f"{service!r} is the service under test: it answers by itself")
        stub = Stub(answer)
        self._planned.append((service, action, stub))
        if self._runtime is not None:
            self._runtime.stub(service).answers(action, stub)
        return stub

    # --- HTTP and WebSocket ---

    def open(
        self,
        method: str,
        path: str,
        *,
        json: Any = _NOTHING,
        data: Any = None,
        files: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        parts: int | None = None,
    ) -> HttpAnswer:
        """Send an HTTP request and return the answer, whichever it is. Cookies are kept.

        The body is the value `json`; or `data`: bytes, text, or a dict for a form; `files` are sent with it, each as
        name: (file name, content, media type). Of a stream that does not end, `parts` are read.
        """
        runtime = self._open_runtime
        if runtime.network is None or self._app.http is None:
            raise ConfigurationError("no HTTP endpoint is attached; call app.attach(DaebusHttp()) first")
        body, kind = encode_body(json, data, files, _NOTHING)
        named = {"Content-Type": kind} if kind is not None else {}
        method = method.upper()
        message = request_bytes(method, path, {**named, **self._cookies.header(), **(headers or {})}, body)
        connection = runtime.on_worker(partial(runtime.network.connect, self._app.http.port))
        connection.parts_left = parts
        runtime.on_worker(lambda: connection.receive(message), f"{method} {path}")
        answer = read_answer(connection.taken(), method, whole=parts is None)
        runtime.on_worker(connection.dispose)
        self._cookies.take(answer.headers)
        answer.exception = runtime.dispatcher.failures.get(_error_id(answer))
        self._raise_unheard()
        return answer

    def get(self, path: str, **options: Any) -> HttpAnswer:
        """Send a GET; the options are those of `open`."""
        return self.open("GET", path, **options)

    def post(self, path: str, **options: Any) -> HttpAnswer:
        """Send a POST."""
        return self.open("POST", path, **options)

    def put(self, path: str, **options: Any) -> HttpAnswer:
        """Send a PUT."""
        return self.open("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> HttpAnswer:
        """Send a PATCH."""
        return self.open("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> HttpAnswer:
        """Send a DELETE."""
        return self.open("DELETE", path, **options)

    def head(self, path: str, **options: Any) -> HttpAnswer:
        """Send a HEAD."""
        return self.open("HEAD", path, **options)

    def options(self, path: str, **options: Any) -> HttpAnswer:
        """Send an OPTIONS."""
        return self.open("OPTIONS", path, **options)

    def websocket(self, path: str = "/", *, headers: dict[str, str] | None = None) -> WebSocketClient:
        """Connect a WebSocket client. Raises `Refused` if the service does not let it in."""
        runtime = self._open_runtime
        if runtime.network is None or self._app.websocket is None:
            raise ConfigurationError("no WebSocket is attached; call app.attach(DaebusWebSocket()) first")
        connection = runtime.on_worker(partial(runtime.network.connect, None))
        client = WebSocketClient(runtime, connection)
        client._connect(path, {**self._cookies.header(), **(headers or {})})
        runtime.sockets.append(client)
        return client

    # --- tasks, threads, the life ---

    def run_task(self, name: str) -> None:
        """Run a task once, now. Its schedule is kept; `clock.advance` runs those that are due."""
        tasks = {task.name: task for task in self._open_runtime.scheduler.tasks}
        if name not in tasks:
            raise ConfigurationError(f"there is no task {name!r}; declared: {_listed(tasks)}")
        self._watched(partial(self._open_runtime.run_task, tasks[name]), f"task {name!r}")

    def run_thread(self, name: str, rounds: int = 1) -> None:
        """Run a thread's function here: `running()` is true so many times, `running.wait(s)` moves the clock.

        Threads do not start by themselves in a test. What the function raises is raised here.
        """
        records = {record.name: record for record in self._app.records("thread")}
        if name not in records:
            raise ConfigurationError(f"there is no thread {name!r}; declared: {_listed(records)}")
        runtime = self._open_runtime
        running = Rounds(rounds, runtime)
        runtime.on_worker(lambda: _await(records[name].function(running)), f"thread {name!r}")

    def reload(self) -> None:
        """Do what `systemctl reload` does: run the on_reload functions."""
        self._watched(self._open_runtime.reload, "reload")

    # --- what the code has done ---

    @property
    def counts(self) -> dict[str, int]:
        """What the service has counted: received, failed, refused..."""
        return self._open_runtime.counts()

    @property
    def cache(self) -> Any:
        """The fakeredis behind `cache`. Raises `ConfigurationError` if that is not installed."""
        if self._fake_redis is None:
            from .cache import fake_redis

            self._fake_redis = fake_redis(self._open_runtime.switch)
            self._fake_redis.connect(connected=not self.faults.gone)
        return self._fake_redis.client

    def clear(self) -> None:
        """Forget broadcasts, log lines and notifications."""
        self.logs.clear()
        self.notifications.clear()
        self.broadcasts.clear()

    # --- inside ---

    def _hub(self, settings: RedisSettings) -> Any:
        found = self._hubs.get(settings.key)
        if found is None:
            found = self._hubs[settings.key] = InlineHub(settings, self._open_runtime)
        return found

    def _async_hub(self, running: asyncio.AbstractEventLoop, settings: RedisSettings) -> Any:
        found = self._hubs.get((running, settings.key))
        if found is None:
            found = self._hubs[running, settings.key] = InlineAsyncHub(settings, self._open_runtime, running)
        return found

    def _turn(self, gone: bool) -> None:
        """Have Redis go, or come back."""
        changed, self.faults.gone = self.faults.gone is not gone, gone
        if self._fake_redis is not None:
            self._fake_redis.connect(connected=not gone)
        if changed and self._runtime is not None:
            self._runtime.on_worker(partial(self._runtime.bus.change, connected=not gone))

    def _watched(self, function: Callable[[], Any], doing: str) -> None:
        """Do something, and raise what failed meanwhile where nobody would hear of it."""
        before = len(self.logs)
        self._open_runtime.on_worker(function, doing)
        self._raise_unheard()
        if self._propagate:
            for line in self.logs[before:]:
                if line.is_failure and line.exception is not None:
                    raise line.exception

    def _raise_unheard(self) -> None:
        error = self._unheard()
        if error is not None:
            raise error

    def _unheard(self) -> BaseException | None:
        """Return the first of what listeners have raised since this was asked; None if the test takes care itself."""
        errors = self._runtime.dispatcher.unheard if self._runtime is not None else []
        error = errors[0] if errors and self._propagate else None
        errors.clear()
        return error


class _Watched(Clock):
    """The clock as the test has it: what tasks raise when it is moved, is raised there."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    @property
    def now(self) -> float:  # type: ignore[override]
        """The time."""
        return self._clock.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass: tasks run when they are due, timeouts expire, delayed messages arrive."""
        self._client._watched(partial(self._clock.advance, seconds), "a task or a timer")


class Rounds:
    """What `running` is for a thread that is run by a test: `while running(): ...` and `while running.wait(5): ...`
    go round so many times."""

    def __init__(self, rounds: int, runtime: Runtime) -> None:
        self._left = rounds
        self._runtime = runtime
        self._asked = False  # whether a round has begun with a call

    def __call__(self) -> bool:
        """Say whether the thread should go on."""
        self._asked = True
        self._left -= 1
        return self._left >= 0

    def wait(self, seconds: float | None = None) -> bool:
        """Let so many seconds pass by the test's clock, unless this was the last round; return whether to go on."""
        if seconds is None or self._left <= 0:
            self._left = 0
            return False
        self._runtime.clock.advance(seconds)
        self._left -= not self._asked
        self._asked = False
        return True


def _await(result: Any) -> None:
    if hasattr(result, "__await__"):
        loop.run_here(result)


def _payload(payload: Any, fields: dict[str, Any]) -> Any:
    if payload is not _NOTHING and fields:
        raise TypeError(f"give the payload as one value or as keywords, not both: {payload!r} and {fields!r}")
    return (fields or NO_FIELDS) if payload is _NOTHING else payload


def _error_id(answer: HttpAnswer) -> str:
    if answer.status < 500 or answer.content_type != "application/json" or not answer.body:
        return ""
    body = answer.json
    return str(body.get("error_id", "")) if isinstance(body, dict) else ""


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none is"


def _refuse(settings: RedisSettings, _deadline: float) -> Any:
    raise RedisUnavailable(
        f"a test client is open, so Redis at {settings} is not connected to; "
        "stand in for other services with client.stub(), for their workflows with a function of your own"
    )
