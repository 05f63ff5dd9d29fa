"""The gateway: what clients may do and what not, the frames of the TypeScript client, and answers in any event."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Callable, Generator
from functools import partial
from threading import Event
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import Daebus, request, response
from daebus.errors import DeclarationError, RedisUnavailable
from daebus.gateway import CALLS_OF_ONE, CHANNELS_OF_ONE, matches
from daebus.link import ReplyError
from daebus.message import MAX_MESSAGE, encode_error, encode_reply
from daebus.websocket import DaebusWebSocket
from daebus.wsframes import TEXT
from tests.sockets import SOON, Client, Room, room
from tests.support import wait_for

DELIVERED, ABSENT = [[b"device", 1], 1], [[b"device", 0], 0]


@pytest.fixture
def app() -> Daebus:
    """The service "svc" with a gateway."""
    app = Daebus("app")
    ws = app.attach(DaebusWebSocket(9001))
    ws.gateway(actions=["device/readings", "own", "svc/slow", "async", "odd"])
    ws.gateway(channels=["news", "sensor.*", "*.temp", "sensor.x"], publish=["panel.touch"])

    @app.action("own")
    def own() -> Any:
        return {"payload": request.payload, "service": request.service}

    @app.action("slow")
    def slow() -> Generator[Any, None, str]:
        yield {"step": 1}
        response.progress("half", 50)
        return "done"

    @app.action("async")
    async def asynchronous() -> Any:
        await asyncio.sleep(0)
        raise ValueError("secret")

    @app.action("odd")
    def odd() -> Any:
        return response.error("not today") if request.payload else float("nan")

    @app.action("hidden")
    def hidden() -> None:
        raise AssertionError("this is not on the list")

    return app


def call(service: str, action: str, payload: Any = None, request_id: Any = "req_1", **more: Any) -> dict[str, Any]:
    """As the TypeScript client writes it."""
    fields = {"action": action, "payload": payload, "reply_channel": "reply_x", "request_id": request_id}
    return {"type": "publish", "channel": service, "data": {**fields, "timestamp": 1700000000000, **more}}


def failed(answer: Any, code: str) -> str:
    """The text of a failure."""
    assert (answer["type"], answer["success"], answer["code"]) == ("response", False, code), answer
    text: str = answer["error"]
    return text


# --- own actions ---


def test_an_own_action_is_run_here_even_without_the_bus(app: Daebus) -> None:
    with room(app) as made:
        made.bus.change(connected=False)
        client = made.client()
        for service in ("svc", ""):
            assert client.asks(call(service, "own", {"a": 1})) == {
                "type": "response", "request_id": "req_1", "success": True,
                "data": {"payload": {"a": 1}, "service": "svc"},
            }  # fmt: skip
        message = call("", "own")
        del message["channel"], message["data"]["payload"]
        assert client.asks(message)["data"]["payload"] == {}
        assert made.bus.delivered == []
        assert made.bus.published == []


def test_progress_of_an_own_action(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        client.say(call("svc", "slow", request_id=7))
        assert client.hears(3) == [
            {"type": "progress", "request_id": 7, "data": {"step": 1}},
            {"type": "progress", "request_id": 7, "data": {"data": "half", "progress_percentage": 50}},
            {"type": "response", "request_id": 7, "success": True, "data": "done"},
        ]


def test_failures_of_own_actions(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        assert "secret" not in failed(client.asks(call("svc", "async")), "internal")
        assert failed(client.asks(call("svc", "odd", 1)), "error") == "not today"
        assert "JSON" in failed(client.asks(call("svc", "odd")), "unserialisable")


def test_an_own_action_that_waits_behind_others(app: Daebus) -> None:
    go, began = Event(), Event()

    @app.socket("block", inline=False)
    def block(_data: Any, _client_id: str) -> None:
        began.set()
        assert go.wait(SOON)

    with room(app, max_workers=1) as made:
        one, two = made.client(), made.client()
        one.say({"type": "block"})
        assert began.wait(SOON)
        two.say(call("svc", "own", {"kept": True}))
        wait_for(lambda: two.messages or made.engine.unfinished >= 2, SOON)
        go.set()
        assert two.hears(1)[0]["data"]["payload"] == {"kept": True}


# --- what is not allowed ---


@pytest.mark.parametrize(
    ("service", "action"),
    [
        ("svc", "hidden"), ("", "hidden"), ("device", "reset"), ("other", "readings"), ("device", "$daebus.claim"),
        ("svc", "$daebus.claim"), ("device/readings", "readings"),
    ],
)  # fmt: skip
def test_only_what_is_listed_may_be_called(app: Daebus, service: str, action: str) -> None:
    with room(app) as made:
        answer = made.client().asks(call(service, action))
        assert "is not open to WebSocket clients" in failed(answer, "forbidden")
        assert answer["request_id"] == "req_1"
        assert made.bus.delivered == []


@pytest.mark.parametrize(
    "message",
    [
        {"type": "publish"},
        {"type": "publish", "channel": "device", "data": "readings"},
        {"type": "publish", "channel": "device", "data": {"action": 5}},
        {"type": "publish", "channel": ["device"], "data": {"action": "readings"}},
        call("device", "readings", timeout=0),
        call("device", "readings", timeout="5"),
        call("device", "readings", timeout=True),
        {"type": "subscribe"},
        {"type": "subscribe", "channel": 5},
        {"type": "unsubscribe", "channel": ""},
        {"type": "subscribe", "channel": "x" * 501},
    ],
    ids=str,
)
def test_frames_that_make_no_sense(app: Daebus, message: dict[str, Any]) -> None:
    with room(app) as made:
        answer = made.client().asks(message)
        assert answer["code"] == "bad_message"
        assert made.bus.delivered == []


def test_a_list_must_fit_its_service(app: Daebus) -> None:
    app.websocket.gateway(actions=["missing"])
    with pytest.raises(DeclarationError, match="'missing'"), room(app):
        pass


@pytest.mark.parametrize("channel", ["svc", "svc.workflows"])
@pytest.mark.parametrize("what", ["channels", "publish"])
def test_the_services_own_channel_stays_closed(app: Daebus, what: str, channel: str) -> None:
    app.websocket.gateway(**{what: [channel]})
    with pytest.raises(DeclarationError, match="requests"), room(app):
        pass


@pytest.mark.parametrize("name", ["publish", "subscribe", "unsubscribe", "broadcast"])
def test_a_handler_of_the_same_name_is_a_mistake(app: Daebus, name: str) -> None:
    app.socket(name)(lambda data, client_id: None)
    with pytest.raises(DeclarationError, match="two handlers"), room(app):
        pass


def test_without_a_gateway_its_frames_are_messages_like_others() -> None:
    app = Daebus("app")
    app.attach(DaebusWebSocket(9001))
    app.socket("publish")(lambda data, client_id: "mine")
    with room(app) as made:
        client = made.client()
        assert client.asks(call("svc", "own"))["data"] == "mine"
        assert client.asks({"type": "subscribe", "channel": "news"})["error"].startswith("No handler found")
        assert made.bus.plans == {}


# --- other services ---


def asked(made: Room, client: Client, message: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Any], None]]:
    """Send a call; return the request that went to the bus, and where Redis' receipt goes."""
    before = len(made.bus.delivered)
    client.say(message)
    wait_for(lambda: len(made.bus.delivered) > before, SOON)
    channel, data, receipt = made.bus.delivered[before]
    assert channel == message["channel"]
    return data, receipt


def replies(made: Room, data: bytes) -> None:
    """Have an answer arrive on the service's caller channel."""
    (channel,) = [name for name in made.bus.plans if name.startswith("caller:svc-")]
    plan, work = made.bus.plans[channel]
    made.on_reader(lambda: made.engine.put([(work, plan, channel, data)]))


def test_a_call_of_another_service(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        data, receipt = asked(made, client, call("device", "readings", {"n": 1}, timeout=2))
        assert (data["action"], data["payload"], data["service"], data["v"]) == ("readings", {"n": 1}, "device", 1)
        assert data["reply_to"].startswith("caller:svc-")
        assert (data["timeout"], 0 < data["deadline"] - monotonic() <= 2) == (2, True)
        receipt(DELIVERED)
        replies(made, encode_reply({"percent": 5}, data["request_id"], final=False))
        replies(made, encode_reply([1, 2], data["request_id"]))
        replies(made, encode_reply("late", data["request_id"]))
        assert client.hears(2) == [
            {"type": "progress", "request_id": "req_1", "data": {"percent": 5}},
            {"type": "response", "request_id": "req_1", "success": True, "data": [1, 2]},
        ]
        wait_for(lambda: made.engine.unfinished == 0, SOON)
        assert len(client.messages) == 2
        assert made.door.gateway is not None
        assert made.door.gateway._pending == {}


def test_the_error_of_a_service_is_passed_on(app: Daebus) -> None:
    from daebus.errors import InternalError, RemoteError

    with room(app) as made:
        client = made.client()
        data, _receipt = asked(made, client, call("device", "readings"))
        replies(made, encode_error(RemoteError("sensor is off"), data["request_id"]))
        assert failed(client.hears(1)[0], "error") == "sensor is off"
        data, _receipt = asked(made, client, call("device", "readings"))
        error = InternalError("it failed")
        error.error_id = "abc"
        replies(made, encode_error(error, data["request_id"]))
        assert failed(client.hears(2)[1], "internal") == "it failed"
        assert client.messages[1]["error_id"] == "abc"


def test_a_service_that_is_not_there_is_known_at_once(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        _data, receipt = asked(made, client, call("device", "readings"))
        receipt(ABSENT)
        assert failed(client.hears(1)[0], "unavailable") == "No service 'device' is running"


def test_what_redis_may_say_instead(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        _data, receipt = asked(made, client, call("device", "readings"))
        receipt(ReplyError("NOPERM no permissions"))
        failed(client.hears(1)[0], "redis_refused")
        _data, receipt = asked(made, client, call("device", "readings"))
        receipt(RedisUnavailable("gone"))
        assert "not known" in failed(client.hears(2)[1], "redis_unavailable")
        made.bus.full = True
        failed(client.asks(call("device", "readings")), "busy")
        made.bus.change(connected=False)
        failed(client.asks(call("device", "readings")), "redis_unavailable")


def test_an_answer_that_takes_too_long(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        data, receipt = asked(made, client, call("device", "readings", timeout=0.5))
        asked(made, client, call("device", "readings", request_id="longer", timeout=1e300))
        receipt(DELIVERED)
        gateway = made.door.gateway
        assert gateway is not None
        made.on_reader(lambda: gateway._expire(monotonic()))
        assert client.messages == []
        made.on_reader(lambda: gateway._expire(monotonic() + 0.6))
        assert failed(client.hears(1)[0], "timeout") == "No answer from 'device' within 0.5 s"
        replies(made, encode_reply("late", data["request_id"]))
        made.on_reader(lambda: gateway._expire(monotonic() + 61))
        assert failed(client.hears(2)[1], "timeout") == "No answer from 'device' within 60 s"


def test_calls_are_bounded_and_forgotten_with_their_client(app: Daebus) -> None:
    with room(app) as made:
        client, other = made.client(), made.client()
        for number in range(CALLS_OF_ONE):
            asked(made, client, call("device", "readings", request_id=number))
        assert failed(client.asks(call("device", "readings", request_id="more")), "busy")
        data, _receipt = asked(made, other, call("device", "readings"))
        client.leaves()
        gateway = made.door.gateway
        assert gateway is not None
        assert len(gateway._pending) == 1
        replies(made, encode_reply("ok", data["request_id"]))
        assert other.hears(1)[0]["data"] == "ok"


def test_answers_that_are_none_do_no_harm(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        data, _receipt = asked(made, client, call("device", "readings"))
        for odd in (b"", b"[]", b"\xff", b'{"request_id":5}', b'{"request_id":"unknown"}', b"x" * (MAX_MESSAGE + 1)):
            replies(made, odd)
        replies(made, encode_reply("ok", data["request_id"]))
        assert [answer["data"] for answer in client.hears(1)] == ["ok"]


def test_an_answer_too_large_for_a_frame(app: Daebus) -> None:
    """Written as ASCII it is three times what it was on the bus."""
    with room(app) as made:
        client = made.client()
        data, _receipt = asked(made, client, call("device", "readings"))
        text = (
            f'{{"status":"success","payload":"{"é" * (MAX_MESSAGE // 2 - 200)}","request_id":"{data["request_id"]}"}}'
        )
        replies(made, text.encode())
        failed(client.hears(1)[0], "too_large")


def test_at_the_end_of_the_service_who_waits_is_told(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        asked(made, client, call("device", "readings"))
        made.on_reader(client.session.stopping)
        failed(client.hears(1)[0], "stopping")
        assert client.connection.goodbye is not None


def test_a_service_that_calls_nobody_has_no_caller_channel() -> None:
    app = Daebus("app")
    app.attach(DaebusWebSocket(9001)).gateway(actions=["svc/own"], channels=["news"])
    app.action("own")(lambda: None)
    with room(app) as made:
        assert list(made.bus.plans) == ["news"]


# --- channels ---


def publishes(made: Room, channel: str, data: bytes) -> None:
    """Deliver a message as Redis does: for the exact subscription, and for each glob that matches."""
    for name, (plan, work) in made.bus.plans.items():
        if name == channel or (("*" in name) and matches(name.encode(), channel.encode())):
            made.on_reader(partial(made.engine.put, [(work, plan, channel, data)]))


def heard(channel: str, data: Any) -> dict[str, Any]:
    return {"type": "channel_message", "channel": channel, "data": data}


def test_channels_are_heard_by_those_who_asked(app: Daebus) -> None:
    with room(app) as made:
        one, two, three = made.client(), made.client(), made.client()
        one.say({"type": "subscribe", "channel": "news"})
        two.say({"type": "subscribe", "channel": "news"})
        three.say({"type": "subscribe", "channel": "sensor.a"})
        publishes(made, "news", '{"a":"é"}'.encode())
        assert one.hears(1) == two.hears(1) == [heard("news", {"a": "é"})]
        two.say({"type": "unsubscribe", "channel": "news"})
        publishes(made, "news", b"[2]")
        assert one.hears(2)[1] == heard("news", [2])
        publishes(made, "sensor.a", b"3")
        assert three.hears(1) == [heard("sensor.a", 3)]
        assert len(two.messages) == 1


def test_one_message_comes_once_however_it_is_heard(app: Daebus) -> None:
    """Redis delivers it for each glob; the client has asked for the name and for two globs."""
    with room(app) as made:
        assert sorted(name for name in made.bus.plans if not name.startswith("caller:")) == [
            "*.temp", "news", "sensor.*",
        ]  # fmt: skip
        client = made.client()
        for channel in ("sensor.temp", "sensor.*", "*.temp", "sensor.x"):
            client.say({"type": "subscribe", "channel": channel})
        publishes(made, "sensor.temp", b"1")
        publishes(made, "room.temp", b"2")
        publishes(made, "sensor.x", b"3")
        assert client.hears(3) == [heard("sensor.temp", 1), heard("room.temp", 2), heard("sensor.x", 3)]
        wait_for(lambda: made.engine.unfinished == 0, SOON)
        assert len(client.messages) == 3


@pytest.mark.parametrize("channel", ["other", "sensor", "news.*", "*", "sensor.**", "caller:a.temp", "workflow:a.temp"])
def test_other_channels_are_refused(app: Daebus, channel: str) -> None:
    with room(app) as made:
        answer = made.client().asks({"type": "subscribe", "channel": channel, "request_id": "r"})
        assert answer["request_id"] == "r"
        assert (answer["type"], answer["code"], answer["channel"]) == ("error", "forbidden", channel)
        assert answer["success"] is False


def test_answers_to_others_are_never_heard() -> None:
    app = Daebus("app")
    app.attach(DaebusWebSocket(9001)).gateway(channels=["*"])
    with room(app) as made:
        client = made.client()
        client.say({"type": "subscribe", "channel": "*"})
        for channel in ("caller:x", "workflow:x", "svc", "svc.workflows", "news"):
            publishes(made, channel, b"1")
        assert client.hears(1) == [heard("news", 1)]


def test_confirmations_come_only_with_a_request_id(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        client.say({"type": "subscribe", "channel": "news"})
        assert client.asks({"type": "subscribe", "channel": "news", "request_id": 5}) == {
            "type": "response", "request_id": 5, "success": True, "data": {"channel": "news"},
        }  # fmt: skip
        assert client.asks({"type": "unsubscribe", "channel": "news", "request_id": 6})["success"] is True


def test_a_client_hears_so_many_channels_and_no_more(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        for number in range(CHANNELS_OF_ONE):
            client.say({"type": "subscribe", "channel": f"sensor.{number}"})
        more = {"type": "subscribe", "channel": "sensor.more", "request_id": 1}
        assert client.asks(more)["code"] == "busy"
        client.say({"type": "unsubscribe", "channel": "sensor.0"})
        assert client.asks(more)["success"] is True
        gateway = made.door.gateway
        assert gateway is not None
        client.leaves()
        assert gateway._listeners == {}


def test_what_is_no_json_is_not_passed_on(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    with room(app) as made:
        client = made.client()
        client.say({"type": "subscribe", "channel": "news"})
        for odd in (b"", b"\xff", b"secret", b'{"a":NaN}', b'1}, "x":{', b"[" * 100_000):
            publishes(made, "news", odd)
        publishes(made, "news", b" [1]\n")
        assert client.hears(1) == [heard("news", [1])]
    assert "A message on channel 'news' was not passed on" in caplog.text
    assert "secret" not in caplog.text


def test_a_message_is_encoded_once(app: Daebus) -> None:
    with room(app) as made:
        clients = [made.client() for _ in range(3)]
        written: list[bytes] = []
        for client in clients:
            client.asks({"type": "subscribe", "channel": "news", "request_id": 1})
            client.connection.write = written.append  # type: ignore[assignment, method-assign]
        publishes(made, "news", b'{"a":1}')
        wait_for(lambda: len(written) == 3, SOON)
    assert written[0] is written[1] is written[2]
    assert written[0][0] == 0x80 | TEXT


# --- publishing ---


def test_publishing(app: Daebus) -> None:
    with room(app) as made:
        client = made.client()
        client.say({"type": "broadcast", "channel": "panel.touch", "data": {"x": 1}})
        assert client.asks({"type": "broadcast", "channel": "panel.touch", "data": 2, "request_id": "r"})["success"]
        assert made.bus.published == [("panel.touch", {"x": 1}), ("panel.touch", 2)]
        for channel in ("news", "device", "svc", "caller:x", None, 5):
            answer = client.asks({"type": "broadcast", "channel": channel, "data": {}})
            assert (answer["type"], answer["code"]) == ("error", "forbidden")
        assert len(made.bus.published) == 2
        made.bus.full = True
        assert client.asks({"type": "broadcast", "channel": "panel.touch"})["code"] == "busy"
        made.bus.change(connected=False)
        assert client.asks({"type": "broadcast", "channel": "panel.touch"})["code"] == "redis_unavailable"


# --- globs ---

SIGNS = "ab.*?"


@given(st.text(SIGNS, max_size=8), st.text("ab.", max_size=8))
def test_simple_globs_match_as_everywhere(glob: str, text: str) -> None:
    assert matches(glob.encode(), text.encode()) is fnmatch.fnmatchcase(text, glob)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("h[ae]llo", ["hello", "hallo"], ["hillo", "hllo", "h"]),
        ("h[^e]llo", ["hallo", "hbllo"], ["hello"]),
        ("h[a-c]llo", ["hallo", "hcllo"], ["hdllo", "h-llo"]),
        ("h[c-a]llo", ["hbllo"], ["hdllo"]),
        (r"h\*llo", ["h*llo"], ["hello", r"h\*llo"]),
        (r"h[\]]llo", ["h]llo"], ["hello"]),
        ("*[0-9]", ["a1", "1", "11"], ["a", "1a", ""]),
        ("a*b*c", ["abc", "aXbXc", "abbcc"], ["acb", "ab"]),
        ("h[ab", ["ha", "hb"], ["hc", "h"]),
        ("a\\", ["a\\"], ["a"]),
    ],
)
def test_globs_of_redis(glob: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes + no if matches(glob.encode(), text.encode())] == yes


def test_no_name_takes_long_to_match() -> None:
    """A matcher that tried all ways would take until the end of the universe."""
    assert not matches(b"*a" * 30 + b"b", b"a" * 500)
