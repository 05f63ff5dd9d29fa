"""`DaebusWebSocket`: the WebSocket endpoint that users attach to a service."""

from __future__ import annotations

from time import monotonic

from .context import current
from .errors import ConfigurationError
from .message import MAX_MESSAGE
from .wsexchange import Sent, WebSocketRequest, WebSocketResponse
from .wsframes import GOING_AWAY, NORMAL, is_close_code, message_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from .gateway import Rules
    from .wsdoor import Session, WebSocketDoor

    F = TypeVar("F", bound=Callable[..., Any])

KIB = 1024


class DaebusWebSocket:
    """WebSockets for a service: `ws = DaebusWebSocket(); app.attach(ws)`, then `@app.socket("type")`.

    With HTTP attached, clients connect on its port, and on the port after it as well; `port="same"` leaves that out,
    a number names another one. Without HTTP a number is required. `host` is the address of the further port, by
    default that of HTTP; `path` the only path to connect to (any, by default); `allowed_origins` further origins
    whose pages may connect (`"https://panel.example"`), beside the service's own.

    `max_message` and `outbox` are bytes: of a message from a client, and of what may wait for a client to take it,
    before it is cut off. `max_clients` may be connected at once. One that has been silent for `ping_interval` seconds
    is asked for a sign of life, and cut off if it gives none for as long again.

    All methods may be called from any thread and any handler. Raises `ConfigurationError` for settings that make no
    sense.
    """

    def __init__(
        self,
        port: int | str | None = None,
        *,
        host: str | None = None,
        path: str | None = None,
        allowed_origins: Iterable[str] = (),
        max_message: int = 1024 * KIB,
        max_clients: int = 500,
        outbox: int = 1024 * KIB,
        ping_interval: float = 20.0,
    ) -> None:
        from .policy import check_origins

        self.port = _port(port)
        self.host = _text("host", host, "an address such as '127.0.0.1' or '0.0.0.0'")
        self.path = _text("path", path, "a path such as '/ws'", first="/")
        origins = [allowed_origins] if isinstance(allowed_origins, str) else allowed_origins
        self.allowed_origins = check_origins(origins, "allowed_origins")
        self.max_message = _number("max_message", max_message, 1, 2 * MAX_MESSAGE)
        self.max_clients = _number("max_clients", max_clients, 1, 1_000_000)
        self.outbox = _number("outbox", outbox, 1, 1 << 30)
        self.ping_interval = _seconds("ping_interval", ping_interval)
        self.rate_limit: tuple[int, float] | None = None
        self.client_id_generator: Callable[[Any, str], str] | None = None
        self.on_connect_handlers: list[Callable[..., Any]] = []
        self.on_disconnect_handlers: list[Callable[..., Any]] = []
        self.rules: Rules | None = None
        self.actual_port: int | None = None
        self._app: Any = None
        self._door: WebSocketDoor | None = None

    # --- before the start ---

    def attach(self, app: Any) -> None:
        """Become the WebSocket endpoint of a service; `app.attach(ws)` calls this."""
        if app.websocket is not None and app.websocket is not self:
            raise ConfigurationError("a service has one WebSocket endpoint, and this one has it already")
        app.websocket = self
        self._app = app

    def gateway(self, actions: Iterable[str] = (), channels: Iterable[str] = (), publish: Iterable[str] = ()) -> None:
        """Let clients call these actions, hear these channels, and publish to these. May be called several times.

        An action is `"service/action"`, or `"action"` of this very service. Channels to hear may be globs
        (`"sensor.*"`); those to publish to are exact names, because a glob could match a service's own channel,
        which takes requests. Clients of all kinds connect here, so name what any of them may do.

        Raises `ConfigurationError` for what is no action or channel.
        """
        from .gateway import Rules

        if self._door is not None:
            raise ConfigurationError("ws.gateway() comes too late: declare what clients may do before app.run()")
        if self.rules is None:
            self.rules = Rules()
        self.rules.add(actions, channels, publish)

    def on_connect(self, function: F) -> F:
        """Declare a function of the client's id, for a client that has connected."""
        self.on_connect_handlers.append(_function("on_connect", function))
        return function

    def on_disconnect(self, function: F) -> F:
        """Declare a function of the client's id, for a client that has left."""
        self.on_disconnect_handlers.append(_function("on_disconnect", function))
        return function

    def set_client_id_generator(self, generator: Callable[[Any, str], str]) -> None:
        """Have clients named by a function of the connection (`headers`, `remote_address`) and its path.

        A name that is taken is refused (409); when the function fails, so is the client.
        """
        self.client_id_generator = _function("client id generator", generator)

    def enable_rate_limiting(self, max_messages: int = 60, window_seconds: float = 60) -> None:
        """Take so many messages of a client in so many seconds, and refuse further ones until those are over."""
        limit = _number("max_messages", max_messages, 1, 1_000_000_000)
        self.rate_limit = limit, _seconds("window_seconds", window_seconds)

    def disable_rate_limiting(self) -> None:
        """Take all messages."""
        self.rate_limit = None

    # --- for the service ---

    def open(self, registry: Any, dispatcher: Any, engine: Any, bus: Any, policy: Any) -> WebSocketDoor:
        """Make what serves the clients. Raises `DeclarationError` for declarations that do not fit together."""
        from .wsdoor import WebSocketDoor

        self._door = WebSocketDoor(self, registry, dispatcher, engine, bus, policy)
        return self._door

    def extra_port(self, http: Any) -> int | None:
        """Return the port to listen on beside that of HTTP, None if there is none.

        Raises `RuntimeError` when neither HTTP nor a port is given.
        """
        if http is None:
            if not isinstance(self.port, int):
                raise RuntimeError(
                    "without HTTP, a WebSocket needs a port of its own: DaebusWebSocket(port=...), or attach DaebusHttp"
                )
            self.actual_port = self.port
            return self.port
        own = self.port if self.port is not None else http.port + 1
        if own == "same" or own == http.port:
            self.actual_port = http.port
            return None
        if not isinstance(own, int) or own > 65535:
            raise ConfigurationError(f'there is no port after {http.port}: use DaebusWebSocket(port="same")')
        self.actual_port = own
        return own

    def listening_host(self, http: Any) -> str:
        """Return the address for the further port."""
        host: str = self.host or (http.host if http is not None else "127.0.0.1")
        return host

    # --- sending ---

    def send(self, data: Any, message_type: str = "response") -> Sent:
        """Send to the client whose message is being handled here. Raises `RuntimeError` where none is."""
        call = current.get()
        response = call.response if call is not None else None
        if type(response) is not WebSocketResponse:
            raise RuntimeError("ws.send(): no WebSocket message is being handled here; use ws.send_to_client(id, ...)")
        return response.send(data, message_type)

    def broadcast_to_all(self, data: Any, message_type: str = "broadcast") -> int:
        """Send to all clients; return to how many. All get the broadcasts of all threads in one order."""
        frame = message_frame(message_type, data)
        return self._door.broadcast(frame) if self._door is not None else 0

    def send_to_client(self, client_id: str, data: Any, message_type: str = "message") -> bool:
        """Send to a client; False if it is not connected."""
        session = self.clients.get(client_id)
        return session is not None and session.transmit(message_frame(message_type, data))

    def broadcast_to_clients(
        self, client_ids: Iterable[str], data: Any, message_type: str = "message"
    ) -> dict[str, bool]:
        """Send to these clients; return for each whether it is connected."""
        clients, frame = self.clients, message_frame(message_type, data)
        return {one: self._transmit_to(clients.get(one), frame) for one in client_ids}

    @staticmethod
    def _transmit_to(client: Any, frame: bytes) -> bool:
        return client is not None and bool(client.transmit(frame))

    safe_broadcast_to_all = broadcast_to_all
    safe_send_to_client = send_to_client

    async def send_async(self, data: Any, message_type: str = "response") -> int:
        """Do what `send` does."""
        return self.send(data, message_type)

    async def broadcast_to_all_async(self, data: Any, message_type: str = "broadcast") -> int:
        """Do what `broadcast_to_all` does."""
        return self.broadcast_to_all(data, message_type)

    async def send_to_client_async(self, client_id: str, data: Any, message_type: str = "message") -> bool:
        """Do what `send_to_client` does."""
        return self.send_to_client(client_id, data, message_type)

    async def broadcast_to_clients_async(
        self, client_ids: Iterable[str], data: Any, message_type: str = "message"
    ) -> dict[str, bool]:
        """Do what `broadcast_to_clients` does."""
        return self.broadcast_to_clients(client_ids, data, message_type)

    # --- who is there ---

    @property
    def clients(self) -> dict[str, Session]:
        """The connected clients by their ids."""
        return self._door.sessions if self._door is not None else {}

    @property
    def is_running(self) -> bool:
        """Whether the service takes clients."""
        return self._door is not None and not self._door.stopping

    def get_clients(self) -> list[str]:
        """Return the ids of the connected clients."""
        return list(self.clients)

    def get_client_count(self) -> int:
        """Return how many clients are connected."""
        return len(self.clients)

    def is_client_connected(self, client_id: str) -> bool:
        """Say whether a client is connected."""
        return client_id in self.clients

    def get_client_metadata(self, client_id: str) -> dict[str, Any] | None:
        """Return what is known of a client, None if it is not connected.

        That is `connected_at` and `last_activity` (seconds since 1970), `path`, `remote_address` (host and port),
        `secure`, `messages_received`, `messages_sent`, `uptime_seconds`, `idle_seconds`.
        """
        session = self.clients.get(client_id)
        return None if session is None else session.metadata()

    def get_clients_by_filter(self, chosen: Callable[[str, dict[str, Any]], Any]) -> list[str]:
        """Return the ids of the clients for which a function of id and metadata says yes."""
        return [name for name, session in list(self.clients.items()) if chosen(name, session.metadata())]

    def get_websocket_port(self) -> int | None:
        """Return the port that clients connect to, once the service runs."""
        return self.actual_port

    # --- the end ---

    def disconnect_client(self, client_id: str, code: int = NORMAL, reason: str = "Server closed connection") -> bool:
        """Close a client's connection; False if it is not connected. Codes for programs are from 4000 to 4999."""
        if not is_close_code(code):
            raise ConfigurationError(f"{code!r} is not a code to close with: use 1000, or one from 4000 to 4999")
        session = self.clients.get(client_id)
        return session is not None and session.close(code, reason)

    def disconnect_all_clients(self, code: int = NORMAL, reason: str = "Server shutting down") -> int:
        """Close all connections; return how many."""
        return sum([self.disconnect_client(name, code, reason) for name in self.get_clients()])

    def graceful_shutdown(self, timeout: float = 5.0, message: Any = None) -> None:
        """Take no further clients, send a message (of type `server_shutdown`) to all, and close their connections.

        Waits up to `timeout` seconds until they are closed. The service itself goes on.
        """
        if not self._shut(message):
            return
        self._closed_within(timeout)

    async def graceful_shutdown_async(self, timeout: float = 5.0, message: Any = None) -> None:
        """Do what `graceful_shutdown` does."""
        import asyncio

        if self._shut(message):
            await asyncio.get_running_loop().run_in_executor(None, self._closed_within, timeout)

    def _shut(self, message: Any) -> bool:
        door = self._door
        if door is None:
            return False
        door.stopping = True
        if message is not None:
            self.broadcast_to_all(message, "server_shutdown")
        self.disconnect_all_clients(GOING_AWAY)
        return True

    def _closed_within(self, timeout: float) -> None:
        from threading import Event

        deadline, pause = monotonic() + timeout, Event()
        while self.clients and monotonic() < deadline:
            pause.wait(0.01)

    # --- rates ---

    def is_rate_limited(self, client_id: str) -> bool:
        """Say whether a client has used up its messages for now."""
        session = self.clients.get(client_id)
        return session is not None and session.over_rate(monotonic()) > 0

    def record_message_received(self, client_id: str) -> None:
        """Count a message of a client that came another way."""
        session = self.clients.get(client_id)
        if session is not None:
            session.count_message(monotonic())

    def __repr__(self) -> str:
        return f"<DaebusWebSocket port={self.port!r}>"


def _port(port: object) -> int | str | None:
    if port is None or port == "same":
        return "same" if port else None
    if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536:
        return port
    raise ConfigurationError(f'the port of a WebSocket is a number from 1 to 65535, "same" or None, not {port!r}')


def _text(name: str, value: object, what: str, first: str = "") -> str | None:
    if value is None or (isinstance(value, str) and value.startswith(first) and value):
        return str(value) if value is not None else None
    raise ConfigurationError(f"{name} must be {what}, not {value!r}")


def _number(name: str, value: object, lowest: int, highest: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
        return value
    raise ConfigurationError(f"{name} must be a whole number from {lowest} to {highest:,}, not {value!r}")


def _seconds(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
        return float(value)
    raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")


def _function(what: str, function: F) -> F:
    if not callable(function):
        raise ConfigurationError(f"the {what} must be a function, not {function!r}")
    return function


__all__ = ["DaebusWebSocket", "WebSocketRequest", "WebSocketResponse"]
