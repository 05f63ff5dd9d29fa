"""What serves HTTP and WebSockets in a service: made of what the user attached and declared; started and stopped.

Imported only by services that have an endpoint.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from time import monotonic

from .errors import ConfigurationError, HttpError
from .exchange import HttpResponse, OpenFile
from .httpdoor import READING, HttpDoor, Limits, Policy, Site, unserved
from .log import logger
from .net import Network
from .policy import Hosts
from .registry import Record, route_arguments
from .routes import RouteTable
from .systemd import share_out
from .work import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .bus import Bus
    from .dispatch import Dispatcher
    from .engine import Engine
    from .exchange import HttpRequest
    from .http import DaebusHttp
    from .registry import Registry
    from .systemd import Offered

CLOSE_LIMIT = 1.0
"""Seconds that the reader has to close the connections; if it hangs, the end of the process does."""

IDLE_GRACE = 1.0
"""Seconds that open connections have for one more request when the service stops and systemd keeps the port: that one
is answered with `Connection: close`. A client that asks at least once in this time never finds its connection closed
under its request."""

ADMIT_LIMIT = 3.0
"""Seconds for which connections wait at a port that systemd holds until the service has started; then they are told."""

_FULL = b'{"error":"Too many connections"}'


class Endpoints:
    """The listening sockets of a service and what is behind them."""

    make_network = Network
    """What opens the sockets; the test kit has one that opens none."""

    def __init__(self, registry: Registry, http: DaebusHttp | None, websocket: Any, *, debug: bool) -> None:
        self._registry = registry
        self._http = http
        self._websocket = websocket
        self._debug = debug
        self._doors: list[HttpDoor] = []
        self.sockets: Any = None
        self._works: list[Work] = []  # of routes and folders
        self.metrics: Callable[[], bytes] = bytes  # set before `open`
        self.network: Network
        self._opened = False

    def open(self, engine: Engine, dispatcher: Dispatcher, bus: Bus, offered: Sequence[Offered] = ()) -> None:
        """Listen: at the sockets that systemd offers, or if there are none at the ports of the settings.

        Raises `ConfigurationError` if a port cannot be had, `DeclarationError` for a bad route.
        """
        self._opened = True
        limits = self._http.limits if self._http is not None else Limits()
        self.network = self.make_network(engine, limits.max_connections, limits.write_timeout, _refusal())
        try:
            self._open(engine, dispatcher, bus, limits, offered)
        except BaseException:
            self.network.close(0.0)
            raise

    def _open(
        self, engine: Engine, dispatcher: Dispatcher, bus: Bus, limits: Limits, offered: Sequence[Offered]
    ) -> None:
        self._engine = engine
        policy = self._policy()
        if self._websocket is not None:
            self.sockets = self._websocket.open(self._registry, dispatcher, engine, bus, policy)
        make = partial(HttpDoor, self.network, dispatcher, engine, limits, policy)
        policy.ports = frozenset(self._adopt(offered, make) if offered else self._bind(make))
        for warning in policy.cors.warnings if policy.cors is not None else ():
            logger.warning("%s", warning)

    def _bind(self, make: Callable[..., HttpDoor]) -> set[int]:
        """Open the ports of the settings; return them."""
        ports = set()
        if self._http is not None:
            door = self._door(make, self._site())
            self._http.port = self.network.listen(self._http.host, self._http.port, door.accept).port
            ports.add(self._http.port)
        if self._websocket is not None:
            port = self._websocket.extra_port(self._http)
            if port is not None:
                host, door = self._websocket.listening_host(self._http), self._door(make, None)
                ports.add(self.network.listen(host, port, door.accept).port)
        return ports

    def _adopt(self, offered: Sequence[Offered], make: Callable[..., HttpDoor]) -> set[int]:
        """Listen at the sockets that systemd holds, and nowhere else; return their ports."""
        wanted = {} if self._http is None else {"http": self._http.port}
        extra = self._websocket.extra_port(self._http) if self._websocket is not None else None
        if extra is not None:
            wanted["websocket"] = extra
        shares = share_out(offered, wanted)
        ports: dict[str, list[int]] = {}
        for name, share in shares.items():
            door = self._door(make, self._site() if name == "http" else None)
            listeners = [self.network.adopt(one.socket, door.accept) for one in share]
            ports[name] = [listener.port for listener in listeners if listener.port]
        if self._http is not None:
            self._check_http(shares["http"], offered)
            self._http.port = ports["http"][0] if ports["http"] else self._http.port
        if self._websocket is not None:
            served = "websocket" if shares.get("websocket") else "http"
            if extra is not None and served == "http":
                logger.warning("systemd holds no socket for the WebSocket's port %d: clients use that of HTTP", extra)
            self._websocket.actual_port = next(iter(ports[served]), self._websocket.actual_port)
        return {port for some in ports.values() for port in some}

    @staticmethod
    def _check_http(share: list[Offered], offered: Sequence[Offered]) -> None:
        if not share:
            raise ConfigurationError(
                f"systemd passes {', '.join(map(str, offered))}, but none for HTTP: "
                "add one with FileDescriptorName=http to a .socket unit"
            )

    def _door(self, make: Callable[..., HttpDoor], site: Site | None) -> HttpDoor:
        door = make(site, self.sockets)
        door.debug = self._debug
        self._doors.append(door)
        return door

    def _policy(self) -> Policy:
        http = self._http
        name = socket.gethostname()
        own = {name, f"{name}.local", name.partition(".")[0], f"{name.partition('.')[0]}.local"}
        allowed: tuple[str, ...] = http.allowed_hosts if http is not None else ()
        return Policy(http.cors if http is not None else None, Hosts(allowed, sorted(own)))

    def _site(self) -> Site:
        table = RouteTable()
        for record in self._registry.records("route"):
            method, _, path = record.name.partition(" ")
            work = Work(record)
            table.add(method, path, (work, _arguments(record)))
            self._works.append(work)
        if self.sockets is not None:
            client = Work(Record("route", "GET /daebus.js", _browser_client))
            table.add("GET", "/daebus.js", (client, (None,)))
        if self._http is not None and self._http.metrics is not None:
            path = self._http.metrics
            table.add("GET", path, (Work(Record("route", f"GET {path}", self._give_metrics)), (None,)))
        folders = [_folder(record) for record in self._registry.records("static")]
        self._works += [folder.work for folder in folders]
        return Site(table, sorted(folders, key=lambda one: len(one.prefix), reverse=True))

    def _give_metrics(self, _request: HttpRequest) -> HttpResponse:
        """Serve what Prometheus asks for."""
        from .metrics import CONTENT_TYPE

        return HttpResponse().send(self.metrics(), content_type=CONTENT_TYPE).header("Cache-Control", "no-store")

    @property
    def addresses(self) -> list[str]:
        """Where the service listens."""
        scheme = "http" if self._http is not None else "ws"
        return [str(listener) if listener.is_unix else f"{scheme}://{listener}/" for listener in self.network.listeners]

    @property
    def clients(self) -> int:
        """How many WebSocket clients there are."""
        return len(self.sockets.sessions) if self.sockets is not None else 0

    @property
    def gateway(self) -> dict[str, list[str]] | None:
        """What clients of the gateway may do; None if there is none."""
        rules = self._websocket.rules if self._websocket is not None else None
        return rules.listed() if rules is not None else None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self.network.connections) if self._opened else 0

    @property
    def works(self) -> list[Work]:
        """The handlers of routes, folders and WebSocket messages."""
        return [*self._works, *(self.sockets.works if self.sockets is not None else ())]

    @property
    def is_held(self) -> bool:
        """Whether systemd holds the sockets that the service listens at."""
        return self.network.is_held

    def serve(self) -> None:
        """Begin to accept; where connections can wait at systemd's sockets, when the service has started."""
        if self.is_held:
            self._engine.later(monotonic() + ADMIT_LIMIT, self.network.serve)
        else:
            self._engine.soon(self.network.serve)

    def admit(self) -> None:
        """Let handlers run from now on."""
        for door in self._doors:
            door.admitted = True
        self._engine.soon(self.network.serve)

    def stop(self) -> None:
        """Take nothing more. On the reader."""
        graceful = self.is_held
        for door in self._doors:
            door.stopping, door.graceful, door.finishing = True, graceful, graceful
        if self.sockets is not None:
            self.sockets.stop()
        self.network.stop_listening()
        if graceful:
            self._engine.later(monotonic() + IDLE_GRACE, self._end_grace)

    def _end_grace(self) -> None:
        for door in self._doors:
            door.graceful = False
        self.network.say_stopping()

    @property
    def unfinished(self) -> int:
        """Streams that run, and connections that have not taken their answer."""
        streams = sum(not call.is_unheard for door in self._doors for call in list(door.streams))
        clients: int = self.sockets.unfinished if self.sockets is not None else 0
        connections = self.network.connections
        waited_for = sum(connection.sending or connection.protocol.awaits_last for connection in connections)
        return streams + clients + waited_for

    def give_up(self) -> None:
        """Cut streams that do not end, and requests that do not arrive. On the reader."""
        for door in self._doors:
            door.finishing = False
        self.network.say_stopping()
        for door in self._doors:
            for call in list(door.streams):
                call.client_gone()

    def close(self) -> None:
        """Close all connections. Before the reader stops."""
        if self._opened:
            self.network.close(CLOSE_LIMIT)


def _refusal() -> bytes:
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        b"X-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_FULL), _FULL)
    )


_browser_client_text: list[bytes] = []


def _browser_client(_request: HttpRequest) -> HttpResponse:
    """Serve /daebus.js, the client for browsers."""
    if not _browser_client_text:
        path = os.path.join(os.path.dirname(__file__), "browser", "daebus.js")
        with open(path, "rb") as file:
            _browser_client_text.append(file.read())
    answer = HttpResponse().send(_browser_client_text[0], content_type="text/javascript; charset=utf-8")
    return answer.header("Cache-Control", "no-cache")


class _Mounted:
    """A folder whose files are served below a path."""

    def __init__(self, record: Record, root: str) -> None:
        from .staticfiles import Folder

        options = record.subject
        self.prefix = record.name if record.name.endswith("/") else f"{record.name}/"
        self._folder = Folder(self.prefix, root, index=options["index"], max_age=options["max_age"])
        self.work = Work(Record("folder", self.prefix, self._answer))

    def holds(self, path: str) -> bool:
        """Whether a path is below this folder."""
        return path.startswith(self.prefix) or path == self.prefix[:-1]

    def _answer(self, request: HttpRequest, found: Any) -> HttpResponse:
        query = f"?{request._head.query}" if request._head.query else ""
        if request.path == self.prefix[:-1]:
            return HttpResponse().redirect(f"{self.prefix}{query}", 308)
        reads = request.method in ("GET", "HEAD")
        rest = request.path[len(self.prefix) :]
        answer = self._folder.answer(rest, request.headers, request.method if reads else "HEAD")  # type: ignore[arg-type]
        if answer is None:
            raise unserved(request._head, found)
        if not reads:
            raise HttpError(405, headers=(("Allow", ", ".join(found.allow or READING)),))
        response = HttpResponse(request)
        response.status = answer.status
        response.headers = [(name, value + query if name == "Location" else value) for name, value in answer.headers]
        response.body = answer.body
        response.length = answer.length
        if answer.file is not None:
            response.file_part = (OpenFile(answer.file), answer.offset, answer.length)
        return response


def _arguments(record: Record) -> tuple[str | None, ...]:
    if record.contract is not None:
        return (None,)  # the contract reads the values of the path from the request
    return route_arguments(record.name, record.function, record.subject)


def _folder(record: Record) -> _Mounted:
    root = os.fspath(record.subject["root"])
    if not os.path.isabs(root):
        module = sys.modules.get(record.subject["module"])
        beside = getattr(module, "__file__", None)
        root = os.path.join(os.path.dirname(os.path.abspath(beside)) if beside else os.getcwd(), root)
    try:
        return _Mounted(record, root)
    except ConfigurationError as error:
        raise ConfigurationError(f"app.static({record.name!r}, ...): {error}") from None
