"""`DaebusHttp`: the HTTP endpoint that users attach to a service."""

from __future__ import annotations

from .errors import ConfigurationError
from .exchange import HttpRequest, HttpResponse
from .httpdoor import Limits
from .policy import Cors, Hosts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])


METRICS = "/metrics"
"""Where Prometheus looks unless it is told otherwise."""


class DaebusHttp:
    """HTTP for a service: `http = DaebusHttp(port=8080); app.attach(http)`, then `@app.route(...)`.

    `host` is the address to listen on; by default only programs on this device reach it. `port=0` chooses a free
    one, which `http.port` tells once the service runs. `cors_config` says which other origins' pages may use it.
    `allowed_hosts` are further names under which the device is asked for, beside `localhost`, its own host name and
    its addresses (`'name'`, `'*.example.org'`, `'*'`). `metrics=True` serves the service's metrics for Prometheus at
    `/metrics`, or at another path that is given. Sizes are in bytes, times in seconds.

    Raises `ConfigurationError` for settings that make no sense.
    """

    def __init__(
        self,
        port: int = 8080,
        host: str = "127.0.0.1",
        cors_config: dict[str, Any] | None = None,
        *,
        allowed_hosts: Iterable[str] = (),
        max_body: int = Limits.max_body,
        max_header: int = Limits.max_header,
        max_connections: int = Limits.max_connections,
        header_timeout: float = Limits.header_timeout,
        body_timeout: float = Limits.body_timeout,
        idle_timeout: float = Limits.idle_timeout,
        write_timeout: float = Limits.write_timeout,
        upload_memory: int = Limits.upload_memory,
        metrics: bool | str = False,
    ) -> None:
        self.port = check_port(port, "port", lowest=0)
        if not isinstance(host, str):
            raise ConfigurationError(f"host must be an address such as '127.0.0.1' or '0.0.0.0', not {host!r}")
        self.host = host
        self.cors: Cors | None = Cors(cors_config) if cors_config is not None else None
        if isinstance(allowed_hosts, str):
            allowed_hosts = (allowed_hosts,)
        self.allowed_hosts = tuple(allowed_hosts)
        Hosts(self.allowed_hosts, ())  # says what is wrong with them
        self.limits = limits = Limits()
        limits.max_body = _size("max_body", max_body)
        limits.max_header = _size("max_header", max_header)
        limits.max_connections = _size("max_connections", max_connections)
        limits.upload_memory = _size("upload_memory", upload_memory)
        limits.header_timeout = _seconds("header_timeout", header_timeout)
        limits.body_timeout = _seconds("body_timeout", body_timeout)
        limits.idle_timeout = _seconds("idle_timeout", idle_timeout)
        limits.write_timeout = _seconds("write_timeout", write_timeout)
        self.metrics = _metrics_path(metrics)
        self._app: Any = None

    def attach(self, app: Any) -> None:
        """Become the HTTP endpoint of a service; `app.attach(http)` calls this."""
        if app.http is not None and app.http is not self:
            raise ConfigurationError("a service has one HTTP endpoint, and this one has it already")
        app.http = self
        self._app = app

    def configure_cors(self, cors_config: dict[str, Any]) -> None:
        """Say which other origins' pages may use the routes. Before `app.run()`."""
        self.cors = Cors(cors_config)

    def route(self, path: str, methods: list[str] | None = None) -> Callable[[F], F]:
        """Declare a route; the same as `app.route`."""
        if self._app is None:
            raise RuntimeError("http.route: attach the endpoint to a service first: app.attach(http)")
        declare: Callable[[F], F] = self._app.route(path, methods)
        return declare

    def start(self) -> None:
        """Nothing: the endpoint starts with its service. For older programs."""

    def stop(self) -> None:
        """Nothing: the endpoint stops with its service. For older programs."""


def check_port(port: object, what: str, lowest: int = 1) -> int:
    """Return the port; `ConfigurationError` if it is none."""
    if isinstance(port, int) and not isinstance(port, bool) and lowest <= port < 65536:
        return port
    raise ConfigurationError(f"{what} must be a number from {lowest} to 65535, not {port!r}")


def _metrics_path(given: object) -> str | None:
    """Return where to serve metrics, None if nowhere; `ConfigurationError` for what is no plain path."""
    if isinstance(given, bool):
        return METRICS if given else None
    if isinstance(given, str) and given.startswith("/") and not any(sign in given for sign in "<>?#"):
        return given
    raise ConfigurationError(f"metrics must be True, False or a path such as {METRICS!r}, not {given!r}")


def _size(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ConfigurationError(f"{name} must be a whole number above 0, not {value!r}")


def _seconds(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
        return float(value)
    raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")


__all__ = ["DaebusHttp", "HttpRequest", "HttpResponse"]
