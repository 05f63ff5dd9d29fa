"""`DaebusWebSocket` and what handlers see, without a service: settings, ports, and methods before the start."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from daebus import Daebus
from daebus.errors import ConfigurationError, DaebusError, InternalError, Unserialisable
from daebus.websocket import DaebusWebSocket, WebSocketRequest
from daebus.wsexchange import Sent, error_frame, known_id


def http(port: int = 8080, host: str = "127.0.0.1") -> Any:
    return SimpleNamespace(port=port, host=host)


@pytest.mark.parametrize(
    ("given", "extra", "tells"),
    [(None, 8081, 8081), ("same", None, 8080), (8080, None, 8080), (9001, 9001, 9001)],
)
def test_the_port_beside_that_of_http(given: Any, extra: int | None, tells: int) -> None:
    ws = DaebusWebSocket(given)
    assert ws.get_websocket_port() is None
    assert ws.extra_port(http()) == extra
    assert ws.get_websocket_port() == tells


def test_without_http_a_port_is_needed() -> None:
    assert DaebusWebSocket(9001).extra_port(None) == 9001
    for given in (None, "same"):
        with pytest.raises(RuntimeError, match="port of its own"):
            DaebusWebSocket(given).extra_port(None)


def test_there_is_no_port_after_the_last() -> None:
    with pytest.raises(ConfigurationError, match='port="same"'):
        DaebusWebSocket().extra_port(http(65535))


def test_the_address_is_that_of_http_unless_given() -> None:
    assert DaebusWebSocket().listening_host(http(host="0.0.0.0")) == "0.0.0.0"
    assert DaebusWebSocket(host="::1").listening_host(http()) == "::1"
    assert DaebusWebSocket(9001).listening_host(None) == "127.0.0.1"


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 0}, {"port": 65536}, {"port": True}, {"port": "9001"}, {"port": 1.5},
        {"host": ""}, {"host": 5}, {"path": "ws"}, {"path": ""},
        {"allowed_origins": ["panel.example"]}, {"allowed_origins": 5},
        {"max_message": 0}, {"max_message": 1 << 40}, {"max_message": 1.5}, {"max_clients": 0}, {"outbox": -1},
        {"ping_interval": 0}, {"ping_interval": None}, {"ping_interval": True},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        DaebusWebSocket(**settings)


def test_a_service_has_one() -> None:
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    assert app.websocket is ws
    app.attach(ws)
    with pytest.raises(ConfigurationError, match="one WebSocket"):
        app.attach(DaebusWebSocket(9002))


@pytest.mark.parametrize(
    "lists",
    [
        {"actions": "echo"}, {"actions": [5]}, {"actions": [""]}, {"actions": ["svc/"]}, {"actions": ["/echo"]},
        {"actions": ["two words/echo"]}, {"actions": ["$daebus.claim"]}, {"actions": ["svc/$daebus.claim"]},
        {"actions": 5}, {"channels": "news"}, {"channels": [""]}, {"channels": ["a\nb"]},
        {"channels": ["caller:x"]}, {"publish": ["workflow:x"]}, {"publish": ["panel.*"]}, {"publish": [None]},
    ],
    ids=str,
)  # fmt: skip
def test_gateway_lists_are_checked(lists: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="gateway"):
        DaebusWebSocket().gateway(**lists)


def test_gateway_lists_add_up() -> None:
    ws = DaebusWebSocket()
    ws.gateway(actions=["device/readings", "own"], channels=["news"])
    ws.gateway(actions=["own"], channels=("sensor.*",), publish={"panel.touch"})
    assert ws.rules is not None
    assert list(ws.rules.actions) == [("device", "readings"), (None, "own")]
    assert list(ws.rules.channels) == ["news", "sensor.*"]
    assert list(ws.rules.publish) == ["panel.touch"]


def test_before_the_start_nobody_is_there() -> None:
    ws = DaebusWebSocket()
    assert (ws.get_clients(), ws.get_client_count(), ws.clients, ws.is_running) == ([], 0, {}, False)
    assert ws.broadcast_to_all({"a": 1}) == 0
    assert ws.send_to_client("a", {}) is False
    assert ws.safe_send_to_client("a", {}) is False
    assert ws.broadcast_to_clients(["a", "b"], {}) == {"a": False, "b": False}
    assert ws.get_client_metadata("a") is None
    assert ws.disconnect_client("a") is False
    assert ws.disconnect_all_clients() == 0
    assert ws.is_rate_limited("a") is False
    ws.graceful_shutdown(0.0)
    ws.record_message_received("a")


def test_the_async_methods_do_the_same() -> None:
    ws = DaebusWebSocket()

    async def use() -> list[Any]:
        return [
            await ws.broadcast_to_all_async({}),
            await ws.send_to_client_async("a", {}),
            await ws.broadcast_to_clients_async(["a"], {}),
        ]

    assert asyncio.run(use()) == [0, False, {"a": False}]
    asyncio.run(ws.graceful_shutdown_async(0.0))


def test_what_json_cannot_hold_is_the_callers_error() -> None:
    ws = DaebusWebSocket()
    with pytest.raises(Unserialisable):
        ws.broadcast_to_all(float("nan"))
    with pytest.raises(Unserialisable):
        ws.broadcast_to_clients([], float("nan"))


def test_sending_back_needs_a_message() -> None:
    with pytest.raises(RuntimeError, match="no WebSocket message"):
        DaebusWebSocket().send({})


def test_codes_to_close_with() -> None:
    for code in (999, 1005, 5000, "1000"):
        with pytest.raises(ConfigurationError, match="4000"):
            DaebusWebSocket().disconnect_client("a", code)  # type: ignore[arg-type]


@pytest.mark.parametrize(("messages", "seconds"), [(0, 60), (1.5, 60), (5, 0), (5, -1), (True, 60)])
def test_rate_limits_that_make_no_sense(messages: Any, seconds: Any) -> None:
    with pytest.raises(ConfigurationError):
        DaebusWebSocket().enable_rate_limiting(messages, seconds)


def test_functions_are_functions() -> None:
    ws: Any = DaebusWebSocket()
    for declare in (ws.on_connect, ws.on_disconnect, ws.set_client_id_generator):
        with pytest.raises(ConfigurationError, match="must be a function"):
            declare("name")


def test_what_was_sent_may_be_awaited() -> None:
    async def use() -> object:
        return await Sent(3)

    assert asyncio.run(use()) == 3
    assert type(asyncio.run(use())) is Sent


def test_a_request() -> None:
    request = WebSocketRequest("user_1", {"type": "move", "data": {"x": 1}, "request_id": "r"}, "connection")
    assert (request.client_id, request.message_type, request.data) == ("user_1", "move", {"x": 1})
    assert (request.request_id, request.websocket, request.payload["type"]) == ("r", "connection", "move")
    assert WebSocketRequest("user_1", {"type": "move"}, None).data == {}


@pytest.mark.parametrize("odd", ["x" * 201, 1.5, True, None, [], {}, 1 << 63])
def test_what_is_no_request_id(odd: Any) -> None:
    assert known_id(odd) is None


def test_the_frame_of_an_error() -> None:
    error = InternalError("it failed")
    error.error_id = "abc"
    data = {"error": "it failed", "code": "internal", "error_id": "abc"}
    assert json.loads(error_frame(error, None)[2:]) == {"type": "error", "data": data}
    assert json.loads(error_frame(DaebusError("no"), None, "oops")[2:]) == {"type": "oops", "data": {"error": "no"}}
    named = {"request_id": 5, "success": False, "error": "it failed", "code": "internal"}
    assert json.loads(error_frame(error, 5)[4:]) == {"type": "error", "data": data, **named}
