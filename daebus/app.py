"""`Daebus`: the service object that users declare handlers on, and run."""

from __future__ import annotations

import logging
import sys

from . import context, log
from .errors import ConfigurationError, DaebusError, DeclarationError
from .names import check_service
from .registry import Blueprint, Registry, check_stuck_after
from .settings import redis_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

    from .endpoints import Endpoints
    from .service import Service
    from .settings import RedisSettings
    from .testing import Client


class Daebus(Registry):
    """A service: declare its handlers with the decorators, then `run` it.

    `max_workers` bounds how many handlers run at once, beside the one that the reading thread runs. When each of them
    has been in one handler for longer than `stuck_after` (seconds; None: no limit), or a coroutine has held up the
    event loop for as long, the service counts as stuck, and systemd's watchdog is not fed any more.
    """

    def __init__(self, name: str, max_workers: int = 10, *, stuck_after: float | None = 120.0) -> None:
        if not isinstance(max_workers, int) or isinstance(max_workers, bool) or not 0 < max_workers <= 1000:
            raise ConfigurationError(f"max_workers must be a whole number from 1 to 1000, not {max_workers!r}")
        super().__init__(name)
        self.max_workers = max_workers
        self.stuck_after = check_stuck_after(stuck_after)
        self.service: str | None = None
        self.settings: RedisSettings | None = None
        self.request = context.request
        self.response = context.response
        self.broadcast = context.broadcast
        self.cache = self.redis = context.cache
        self.logger: logging.Logger = log.logger
        self.http: Any = None  # set by an HTTP endpoint that is attached
        self.websocket: Any = None  # set by a WebSocket endpoint that is attached
        self._blueprints: list[Blueprint] = []
        self._running: Service | None = None

    def attach(self, component: Any) -> Any:
        """Attach a component, by calling its `attach(app)`; return it. Raises `TypeError` if it has none."""
        if isinstance(component, type):
            raise TypeError(f"attach an object, not the class: app.attach({component.__name__}(...))")
        if not callable(getattr(component, "attach", None)):
            raise TypeError(f"a {type(component).__name__} cannot be attached: it has no attach(app)")
        component.attach(self)
        return component

    def route(
        self, path: str, methods: list[str] | tuple[str, ...] | None = None, *, inline: bool | None = None
    ) -> Callable[[F], F]:
        """Declare an HTTP route; see `Registry.route`. Raises `RuntimeError` if no HTTP endpoint is attached."""
        if self.http is None:
            raise RuntimeError(
                f"app.route({path!r}): no HTTP endpoint is attached; call app.attach(DaebusHttp()) first"
            )
        return super().route(path, methods, inline=inline)

    def socket(self, message_type: str, *, inline: bool | None = None) -> Callable[[F], F]:
        """Declare a WebSocket handler; see `Registry.socket`. Raises `RuntimeError` if no WebSocket is attached."""
        if self.websocket is None:
            raise RuntimeError(
                f"app.socket({message_type!r}): no WebSocket is attached; call app.attach(DaebusWebSocket()) first"
            )
        return super().socket(message_type, inline=inline)

    def register_blueprint(self, blueprint: Blueprint) -> Self:
        """Take over the handlers of a blueprint: those it has now, and those it gets before `run`."""
        if not isinstance(blueprint, Blueprint):
            raise DeclarationError(f"{blueprint!r} is not a Blueprint")
        if self._closed:
            raise DeclarationError(f"blueprint {blueprint.name!r} comes too late: register it before app.run()")
        if blueprint not in self._blueprints:
            self._blueprints.append(blueprint)
        return self

    def _close_book(self) -> None:
        """Collect what the blueprints declare; from now on nothing more may be declared."""
        for blueprint in self._blueprints:
            for record in list(blueprint._records.values()):
                self._add(record)
            blueprint._closed = True
        self._closed = True

    def run(
        self,
        service: str,
        debug: bool = False,
        redis_host: str | None = None,
        redis_port: int | None = None,
        *,
        redis_url: str | None = None,
        shared: bool = False,
        idle_exit: float | None = None,
    ) -> None:
        """Serve under the name `service` until SIGTERM or SIGINT. Blocks; call it on the main thread.

        It waits for Redis if need be, runs the on_start functions, tells systemd READY, and on a stop signal
        finishes what it has taken. `debug=True` logs more. `shared=True` lets several processes serve under one
        name, each request in one of them. `idle_exit`: where systemd holds the port (a .socket unit), leave when
        nothing has come for so many seconds; the next connection starts the service again.

        Raises `SystemExit` with status 1, the reason logged, if the service cannot start or fails: a setting that
        makes no sense, a name that is taken, a password that Redis refuses, an on_start function or a thread that
        raises.
        """
        log.install(service if isinstance(service, str) else repr(service), debug=debug)
        try:
            settings = redis_settings(redis_host, redis_port, redis_url)
            reason = self._run(service, settings, shared, debug, _check_idle_exit(idle_exit))
        except (ConfigurationError, DeclarationError) as error:
            reason = str(error)
        if reason is not None:
            shown = service if isinstance(service, str) else repr(service)
            log.logger.critical("Service %s failed: %s", ascii(shown), reason, extra={log.LAST: True})
            sys.exit(1)

    def _run(
        self, service: str, settings: RedisSettings, shared: bool, debug: bool, idle_exit: float | None
    ) -> str | None:
        from .service import Service

        name = self._prepare(service, settings)
        context.set_daemon(self)
        self._running = Service(
            self,
            name,
            settings,
            max_workers=self.max_workers,
            shared=shared,
            stuck_after=self.stuck_after,
            idle_exit=idle_exit,
            endpoints=self._endpoints(debug),
        )
        try:
            return self._running.run()
        finally:
            self._running = None

    def _prepare(self, service: str, settings: RedisSettings) -> str:
        """Close the book and take the name; return it. Raises `ConfigurationError` or `DeclarationError`."""
        name = check_service(service)
        if self._running is not None:
            raise ConfigurationError(f"this service runs already, as {self.service!r}")
        if not self._closed:
            self._close_book()
        if name in self.listen_handlers:
            raise DeclarationError(f"channel {name!r} is the service's own: use actions for it, not a listener")
        self.service, self.settings = name, settings
        for record in self._records.values():
            record.contract  # noqa: B018 - a type hint that cannot be checked is found before anything is begun
        return name

    def test_client(
        self, service: str = "test", *, propagate: bool = True, patience: float = 5.0, debug: bool = False
    ) -> Client:
        """Return a client that runs this service in the test's own process, without Redis, sockets and systemd:

            with app.test_client() as client:
                assert client.call("greet", {"name": "Ann"}) == {"message": "Hello, Ann!"}

        With `propagate`, what a listener, a task or an on_reload function raises is raised in the test, too; in life
        it is in the log. `patience` is how many seconds a handler may take before the test fails; `debug` is that of
        `run`.
        """
        from .testing import Client

        return Client(self, service, propagate=propagate, patience=patience, debug=debug)

    def _endpoints(self, debug: bool) -> Endpoints | None:
        """Return what serves HTTP and WebSockets, if anything does; only then is it imported."""
        if self.http is not None or self.websocket is not None:
            from .endpoints import Endpoints

            return Endpoints(self, self.http, self.websocket, debug=debug)
        for kind, what in (("route", "DaebusHttp"), ("static", "DaebusHttp"), ("socket", "DaebusWebSocket")):
            for record in self.records(kind):
                where = f"{kind} {record.name!r} ({record.place})"
                raise DeclarationError(f"{where} needs an endpoint: call app.attach({what}()) before app.run()")
        return None

    def stop(self) -> None:
        """Ask the running service to stop, as a stop signal does. Any thread."""
        if self._running is not None:
            self._running.stop()

    def is_running(self) -> bool:
        """Say whether `run` is at work."""
        return self._running is not None

    @property
    def counts(self) -> dict[str, int]:
        """What the running service has counted since its start: received, failed, refused, unknown, broken..."""
        return self._service("counts").counts()

    def start_thread(self, name: str) -> bool:
        """Start a declared thread of the running service; False if it runs already or is not declared."""
        return self._service("start_thread").threads.start(name)

    def stop_thread(self, name: str, timeout: float = 5.0) -> bool:
        """Tell a thread to stop and wait up to `timeout` seconds; True if it has ended."""
        return self._service("stop_thread").threads.stop(name, timeout)

    @property
    def threads(self) -> Any:
        """The threads of the running service."""
        return self._service("threads").threads

    def _service(self, what: str) -> Service:
        if self._running is None:
            raise DaebusError(f"{what}: the service does not run; call app.run() first")
        return self._running


def _check_idle_exit(seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e9:
        return float(seconds)
    raise ConfigurationError(f"idle_exit must be a number of seconds above 0, not {seconds!r}")
