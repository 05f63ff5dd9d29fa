"""The test kit: what a service answers, does and is told in the test's own process, and what a test can do to it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from daebus import (
    AsyncCaller,
    Blueprint,
    Busy,
    Daebus,
    DaebusCaller,
    DaebusHttp,
    DaebusWebSocket,
    DaebusWorkflow,
    aio,
    broadcast,
    cache,
    context,
    dispatch,
    engine,
    get_daemon,
    hub,
    link,
    log,
    logger,
    redispy,
    request,
    response,
)
from daebus.errors import (
    BadPayload,
    ConfigurationError,
    DaebusError,
    DeclarationError,
    InternalError,
    RedisUnavailable,
    RemoteError,
    RequestTimeout,
    ServiceUnavailable,
    UnknownAction,
    Unserialisable,
)
from daebus.testing import Client, NothingReceived, Refused, Stuck

sensor = DaebusCaller("sensor")  # as programs have them, at the top of the file
async_sensor = AsyncCaller("sensor")


@pytest.fixture
def app() -> Daebus:
    app = Daebus("lamp")
    app.attach(DaebusHttp(port=8080))
    app.attach(DaebusWebSocket(port="same"))
    return app


# --- actions ---


def test_an_action_is_called(app: Daebus) -> None:
    @app.action("dim")
    def dim() -> Any:
        return {"payload": request.payload, "service": request.service, "reply_to": request.reply_to[:7]}

    with app.test_client("lamp") as client:
        assert client.call("dim", {"percent": 40})["payload"] == {"percent": 40}
        assert client.call("dim", percent=40) == {"payload": {"percent": 40}, "service": "lamp", "reply_to": "caller:"}
        assert client.call("dim")["payload"] == {}
        assert client.call("dim", None)["payload"] is None
        with pytest.raises(TypeError, match="not both"):
            client.call("dim", {"percent": 40}, percent=50)


def test_the_errors_are_those_of_a_caller(app: Daebus) -> None:
    @app.action("refuse")
    def refuse() -> None:
        raise Busy("not now")

    @app.action("say")
    def say() -> None:
        response.error("no such lamp")

    @app.action("odd")
    def odd() -> Any:
        return {"a": object()}

    with app.test_client() as client:
        with pytest.raises(Busy, match="not now"):
            client.call("refuse")
        with pytest.raises(RemoteError, match="no such lamp"):
            client.call("say")
        with pytest.raises(UnknownAction, match="did you mean 'refuse'"):
            client.call("refus")
        with pytest.raises(Unserialisable) as caught:
            client.call("odd")
        assert isinstance(caught.value.__cause__, Unserialisable)


def test_what_a_handler_raised_is_the_cause(app: Daebus) -> None:
    @app.action("boom")
    def boom() -> None:
        raise KeyError("lamp")

    with app.test_client() as client:
        with pytest.raises(InternalError, match="error id") as caught:
            client.call("boom")
        assert repr(caught.value.__cause__) == "KeyError('lamp')"
        (line,) = [line for line in client.logs if line.level == "ERROR"]
        assert (line.action, line.error_id) == ("boom", caught.value.error_id)
        assert isinstance(line.exception, KeyError)
        assert line.trace


def test_progress_and_codes_of_an_answer(app: Daebus) -> None:
    @app.action("scan")
    def scan() -> Generator[Any, None, str]:
        yield {"at": 1}
        response.progress({"at": 2}, 50)
        return "done"

    with app.test_client() as client:
        answer = client.request("scan")
        assert (answer.payload, answer.error, answer.code) == ("done", None, None)
        assert answer.progress == [{"at": 1}, {"at": 2, "progress_percentage": 50}]
        missing = client.request("nothing")
        assert (missing.code, missing.payload, missing.progress) == ("unknown_action", None, [])


@pytest.mark.parametrize("inline", [True, False, None])
def test_actions_of_all_kinds(app: Daebus, inline: bool | None) -> None:
    @app.action("plain", inline=inline)
    def plain() -> str:
        return threading.current_thread().name

    @app.action("coroutine", inline=inline)
    async def coroutine() -> str:
        await asyncio.sleep(0)
        return str(request.payload["n"])

    @app.action("stream", inline=inline)
    async def stream() -> AsyncIterator[int]:
        for each in range(3):
            await asyncio.sleep(0)
            yield each

    with app.test_client() as client:
        assert client.call("plain") == "daebus-test"
        assert client.call("coroutine", n=3) == "3"
        assert client.request("stream").progress == [0, 1, 2]


def test_hooks_and_blueprints_are_there(app: Daebus) -> None:
    more = Blueprint("more")
    seen: list[str] = []

    @more.action("ask")
    def ask() -> dict[str, int]:
        return {"n": 1}

    @app.before
    def before() -> None:
        seen.append(request.action)

    @app.after
    def after(answer: Any) -> Any:
        return {**answer, "after": True}

    app.register_blueprint(more)
    with app.test_client() as client:
        assert client.call("ask") == {"n": 1, "after": True}
    assert seen == ["ask"]


# --- other services ---


def test_another_service_is_not_there_unless_it_is_stubbed(app: Daebus) -> None:
    @app.action("read")
    def read() -> Any:
        return sensor.send_request("read", {"of": request.payload["of"]})

    with app.test_client() as client:
        answer = client.request("read", of="hall")
        assert answer.code == "unavailable"
        assert isinstance(client.request("read", of="hall").error, RemoteError)
        stub = client.stub("sensor", "read", {"value": 21})
        assert client.call("read", of="hall") == {"value": 21}
        assert stub.calls == [{"of": "hall"}]
        with pytest.raises(ServiceUnavailable):
            DaebusCaller("panel").send_request("show")


def test_stubs_answer_as_a_service_would(app: Daebus) -> None:
    def steps(payload: Any) -> Generator[Any, None, Any]:
        yield {"at": 1}
        return payload

    async def later() -> str:
        await asyncio.sleep(0)
        return "later"

    answers = {"value": 1, "function": lambda: 2, "error": Busy("full"), "class": ValueError, "steps": steps}

    with app.test_client() as client:
        for action, answer in answers.items():
            client.stub("sensor", action, answer)
        client.stub("sensor", "later", later)
        progress: list[Any] = []
        assert [sensor.send_request(action) for action in ("value", "function", "later")] == [1, 2, "later"]
        assert sensor.send_request("steps", "p", on_progress=progress.append) == "p"
        assert progress == [{"at": 1}]
        with pytest.raises(Busy, match="full"):
            sensor.send_request("error")
        with pytest.raises(InternalError):
            sensor.send_request("class")
        with pytest.raises(UnknownAction):
            sensor.send_request("another")
        assert sensor.send_to_service({"n": 1}, "value") == 1
        assert sensor.send_to_service({"n": 1}, "value") == 1
        with pytest.raises(ConfigurationError, match="the service under test"):
            client.stub("test", "act", 1)


def test_callers_in_coroutines_meet_the_stubs(app: Daebus) -> None:
    @app.action("read")
    async def read() -> Any:
        return await async_sensor.send_request("read")

    async def from_outside() -> Any:
        async with AsyncCaller("test") as caller:
            return await caller.send_request("read"), await caller.send_message("news", 1)

    with app.test_client() as client:
        assert client.request("read").code == "unavailable"
        client.stub("sensor", "read", 21)
        assert client.call("read") == 21
        assert asyncio.run(from_outside()) == (21, 0)
        client.faults.drop("sensor")
        assert client.request("read").code == "timeout"


def test_a_service_may_call_itself(app: Daebus) -> None:
    @app.action("inner")
    def inner() -> Any:
        return request.trace

    @app.action("outer")
    def outer() -> list[str]:
        return [request.trace, DaebusCaller("test").send_request("inner")]

    @app.action("coroutine")
    async def coroutine() -> list[str]:
        return [request.trace, await AsyncCaller("test").send_request("inner")]

    with app.test_client() as client:
        for action in ("outer", "coroutine"):
            own, inherited = client.call(action)
            assert own == inherited


def test_a_caller_that_waits_for_a_service(app: Daebus) -> None:
    with app.test_client() as client:
        before = client.clock.now
        with pytest.raises(RequestTimeout, match="came within 30 s"):
            sensor.send_request("read", timeout=30, wait=True)
        assert client.clock.now == before + 30
        client.stub("sensor", "read", 1)
        assert sensor.send_request("read", wait=True) == 1


def test_nothing_is_connected_to(app: Daebus) -> None:
    with app.test_client(), pytest.raises(RedisUnavailable, match="a test client is open"):
        DaebusWorkflow("sensor").start("calibrate", {}, lambda _payload: None)


def test_callers_outlive_a_test_client(app: Daebus) -> None:
    for value in (1, 2):
        with app.test_client() as client:
            client.stub("sensor", "read", value)
            assert sensor.send_request("read") == value
    with DaebusCaller("sensor", redis_url="unix:///nonexistent/redis.sock") as caller:
        with app.test_client() as client:
            client.stub("sensor", "read", 3)
            assert caller.send_request("read") == 3
        with pytest.raises(RedisUnavailable):
            caller.send_request("read")


# --- channels ---


def test_listeners_hear_what_is_published(app: Daebus) -> None:
    heard: list[Any] = []

    @app.listen("sensor.hall")
    def hall(payload: Any) -> None:
        heard.append(payload)

    @app.listen("sensor.*")
    def sensors(payload: Any, channel: str) -> None:
        heard.append((channel, payload))

    @app.listen("slow", inline=False)
    async def slow(payload: Any) -> None:
        await asyncio.sleep(0)
        heard.append(payload)

    with app.test_client() as client:
        assert client.publish("sensor.hall", {"value": 1}) == 2
        assert client.publish("sensor.attic", [2]) == 1
        assert client.publish("elsewhere", 3) == 0
        assert client.publish("slow", 4) == 1
        assert heard == [{"value": 1}, ("sensor.hall", {"value": 1}), ("sensor.attic", [2]), 4]
        assert client.broadcasts == []


def test_typed_parameters_are_checked(app: Daebus) -> None:
    heard: list[float] = []

    @app.action("dim")
    def dim(percent: int, room: str = "hall") -> str:
        return f"{room} {percent}"

    @app.listen("temp")
    def temp(celsius: float) -> None:
        heard.append(celsius)

    with app.test_client() as client:
        assert client.call("dim", percent=4) == "hall 4"
        with pytest.raises(BadPayload, match="'percent' must be a whole number"):
            client.call("dim", percent="much")
        assert (client.publish("temp", {"celsius": 21}), client.publish("temp", {"celsius": "warm"})) == (1, 0)
        assert (heard, client.counts["broken"]) == ([21], 1)
        assert client.logs[-1].level == "WARNING"


def test_what_a_coroutine_leaves_to_be_done_is_done_too(app: Daebus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next message of a listener may run a moment after the last one has ended: that moment is waited for."""
    heard: list[Any] = []
    resume = engine.Engine.resume

    def resume_late(made: Any, work: Any) -> None:
        time.sleep(0.05)
        resume(made, work)

    @app.listen("news")
    async def news(payload: Any) -> None:
        heard.append(payload)

    monkeypatch.setattr(engine.Engine, "resume", resume_late)
    with app.test_client() as client:
        for each in range(3):
            assert client.publish("news", each) == 1
    assert heard == [0, 1, 2]


def test_broadcasts_are_kept_and_heard(app: Daebus) -> None:
    heard: list[Any] = []

    @app.action("dim")
    def dim() -> int:
        return broadcast.send("lamp.dimmed", {"percent": 40}) + broadcast.send("news", {"n": 1})

    @app.listen("lamp.*")
    def listen(payload: Any) -> None:
        heard.append(payload)

    with app.test_client() as client:
        assert client.call("dim") == 1
        assert client.broadcasts == [("lamp.dimmed", {"percent": 40}), ("news", {"n": 1})]
        assert heard == [{"percent": 40}]
        client.clear()
        assert (client.broadcasts, client.logs, client.notifications) == ([], [], [])


@pytest.mark.parametrize("coroutine", [False, True])
def test_what_a_listener_raises_is_raised_in_the_test(app: Daebus, coroutine: bool) -> None:
    def fail(_payload: Any) -> None:
        raise ZeroDivisionError

    async def fail_later(_payload: Any) -> None:
        raise ZeroDivisionError

    app.listen("sensor")(fail_later if coroutine else fail)
    with app.test_client() as client, pytest.raises(ZeroDivisionError):
        client.publish("sensor", 1)
    with app.test_client(propagate=False) as client:
        assert client.publish("sensor", 1) == 1
        assert [line.level for line in client.logs if line.exception] == ["ERROR"]


# --- tasks, threads, the clock ---


def test_tasks_run_when_they_are_due(app: Daebus) -> None:
    ran: list[str] = []

    @app.background("often", interval=0.1)
    def often() -> None:
        ran.append("often")

    @app.background("seldom", interval=60)
    async def seldom() -> None:
        await asyncio.sleep(0)
        ran.append("seldom")

    with app.test_client() as client:
        client.clock.advance(0.09)
        assert ran == []
        client.clock.advance(0.01)
        assert ran == ["often"]
        client.clock.advance(59.9)
        assert (ran.count("often"), ran.count("seldom")) == (600, 1)
        client.run_task("seldom")
        assert ran[-1] == "seldom"
        with pytest.raises(ConfigurationError, match="declared: 'often', 'seldom'"):
            client.run_task("never")
        with pytest.raises(ValueError, match="moved by a number of seconds"):
            client.clock.advance(-1)


def test_what_a_task_raises_is_raised_in_the_test(app: Daebus) -> None:
    @app.background("fail", interval=10)
    def fail() -> None:
        raise ZeroDivisionError

    with app.test_client() as client:
        with pytest.raises(ZeroDivisionError):
            client.run_task("fail")
        with pytest.raises(ZeroDivisionError):
            client.clock.advance(10)
    with app.test_client(propagate=False) as client:
        client.clock.advance(10)
        client.run_task("fail")


def test_threads_run_when_they_are_told_to(app: Daebus) -> None:
    ran: list[float] = []

    @app.thread("watch")
    def watch(running: Any) -> None:
        while running():
            ran.append(client.clock.now)
            running.wait(5)

    @app.thread("poll")
    def poll(running: Any) -> None:
        while running.wait(5):
            ran.append(client.clock.now)

    @app.thread("fail")
    def fail(_running: Any) -> None:
        raise ZeroDivisionError

    @app.thread("wait")
    async def wait(running: Any) -> None:
        ran.append(bool(running.wait()))

    with app.test_client() as client:
        assert ran == []
        begin = client.clock.now
        client.run_thread("watch", rounds=3)
        assert ran == [begin, begin + 5, begin + 10]
        client.run_thread("poll", rounds=2)
        assert ran[3:] == [begin + 15, begin + 20]
        with pytest.raises(ZeroDivisionError):
            client.run_thread("fail")
        client.run_thread("wait")
        assert ran[-1] is False
        with pytest.raises(ConfigurationError, match="there is no thread 'other'"):
            client.run_thread("other")


def test_a_thread_that_a_handler_starts_is_a_real_one(app: Daebus) -> None:
    began, ended = Event(), Event()

    @app.thread("work", auto_start=False)
    def work(running: Any) -> None:
        began.set()
        running.wait()
        ended.set()

    @app.action("start")
    def start() -> bool:
        return app.start_thread("work") and began.wait(5)

    with app.test_client() as client:
        assert client.call("start") is True
    assert ended.is_set()


# --- HTTP ---


def test_routes(app: Daebus) -> None:
    @app.route("/things/<int:number>", methods=["GET", "POST"])
    def things(req: Any, number: int) -> Any:
        return {"number": number, "query": req.query, "payload": req.payload, "type": req.content_type}

    @app.route("/text", methods=["PUT", "PATCH", "DELETE"])
    def text(req: Any) -> Any:
        return f"{req.method} {req.body.decode()}", 201, {"X-Thing": "1"}

    with app.test_client() as client:
        answer = client.get("/things/4?b=ä")
        assert (answer.status, answer.json["number"], answer.json["query"]) == (200, 4, {"b": "ä"})
        assert client.post("/things/4", json={"a": [1]}).json["payload"] == {"a": [1]}
        assert client.post("/things/4", data={"a": "1 2"}).json["payload"] == {"a": "1 2"}
        for send in (client.put, client.patch, client.delete):
            answer = send("/text", data="body")
            assert (answer.status, answer.text, answer.headers["x-thing"]) == (
                201,
                f"{send.__name__.upper()} body",
                "1",
            )
        assert client.post("/things/4", data=b"{", headers={"Content-Type": "application/json"}).status == 400
        assert client.get("/nothing").status == 404
        assert client.post("/text").status == 405
        assert (client.head("/things/4").status, client.head("/things/4").body) == (200, b"")
        assert "PUT" in client.options("/text").headers["Allow"]
        with pytest.raises(ConfigurationError, match="begins with '/'"):
            client.get("things")


def test_cookies_uploads_and_files(app: Daebus, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("from disk")

    @app.route("/login")
    def login() -> Any:
        return response.set_cookie("user", "ann").send("in")

    @app.route("/logout")
    def logout() -> Any:
        return response.delete_cookie("user").send("out")

    @app.route("/who")
    def who(req: Any) -> Any:
        return {"cookies": req.cookies}

    @app.route("/upload", methods=["POST"])
    def upload(req: Any) -> Any:
        file = req.files["file"]
        return {"name": file.filename, "size": len(file.read()), "form": req.form}

    @app.route("/file")
    def file() -> Any:
        return response.file(str(tmp_path / "file.txt"))

    app.static("/folder", str(tmp_path))
    with app.test_client() as client:
        client.get("/login")
        assert client.get("/who").json == {"cookies": {"user": "ann"}}
        client.get("/logout")
        assert client.get("/who").json == {"cookies": {}}
        sent = client.post("/upload", data={"a": 1}, files={"file": ("x.bin", b"123", "image/png")})
        assert sent.json == {"name": "x.bin", "size": 3, "form": {"a": "1"}}
        assert client.get("/file").text == client.get("/folder/file.txt").text == "from disk"


def test_streams(app: Daebus) -> None:
    closed: list[str] = []

    @app.route("/lines")
    def lines() -> Iterator[Any]:
        yield {"n": 1}
        yield {"n": 2}

    @app.route("/events")
    def events() -> Any:
        def without_end() -> Iterator[Any]:
            try:
                while True:
                    yield "tick", {"n": 1}
            finally:
                closed.append("events")

        return response.events(without_end())

    @app.route("/async")
    def asynchronous() -> Any:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            await asyncio.sleep(0)
            yield "b"

        return response.stream(parts())

    @app.route("/broken")
    def broken() -> Iterator[Any]:
        yield "a"
        raise ZeroDivisionError

    with app.test_client() as client:
        assert client.get("/lines").text == '{"n":1}\n{"n":2}\n'
        assert client.get("/events", parts=2).events == [("tick", '{"n":1}')] * 2
        assert closed == ["events"]
        assert client.get("/async").text == "ab"
        with pytest.raises(AssertionError, match="cut short"):
            client.get("/broken")


def test_an_async_stream_without_an_end(app: Daebus) -> None:
    @app.route("/")
    def events() -> Any:
        async def without_end() -> AsyncIterator[Any]:
            while True:
                yield {"n": 1}
                await asyncio.sleep(0)

        return response.events(without_end())

    with app.test_client() as client:
        assert client.get("/", parts=1).events == [("message", '{"n":1}')]


def test_a_route_that_fails_shows_why(app: Daebus) -> None:
    @app.route("/")
    def fail() -> None:
        raise ZeroDivisionError("by what")

    with app.test_client() as client:
        answer = client.get("/")
        assert answer.status == 500
        assert "by what" not in answer.text
        assert isinstance(answer.exception, ZeroDivisionError)
        assert "by what" in repr(answer)


def test_without_an_endpoint_there_is_nothing_to_ask() -> None:
    with Daebus("bare").test_client() as client:
        with pytest.raises(ConfigurationError, match="no HTTP endpoint"):
            client.get("/")
        with pytest.raises(ConfigurationError, match="no WebSocket"):
            client.websocket()
        with pytest.raises(ServiceUnavailable, match="no workflow"):
            client.workflow("talk")


# --- WebSocket ---


def test_a_websocket(app: Daebus) -> None:
    events: list[Any] = []

    @app.socket_connect
    def connect(query: Any) -> Any:
        return query.get("room") != "2"

    @app.socket("move")
    def move(data: Any, client_id: str) -> Any:
        app.websocket.broadcast_to_all({"moved": data}, "news")
        return {"you": client_id[:5]}

    @app.socket("fail")
    def fail() -> None:
        raise ZeroDivisionError

    @app.socket_disconnect
    def disconnect(client_id: str) -> None:
        events.append("left")

    with app.test_client() as client:
        with pytest.raises(Refused, match="403") as refused:
            client.websocket("/?room=2")
        assert refused.value.status == 403
        one, two = client.websocket("/?room=1"), client.websocket("/?room=1")
        one.send("move", [1, 2], request_id="r")
        assert [message["type"] for message in one.messages] == ["news", "response"]
        assert two.receive() == {"type": "news", "data": {"moved": [1, 2]}}
        with pytest.raises(NothingReceived):
            two.receive()
        two.send("fail")
        assert two.receive()["type"] == "error"
        two.close()
        assert (events, app.websocket.get_client_count()) == (["left"], 1)
        one.vanish()
        assert events == ["left", "left"]
        third = client.websocket("/")
    assert third.closed == (1001, "the service is stopping")


def test_how_a_websocket_may_end(app: Daebus) -> None:
    @app.socket("leave")
    def leave(code: Any, client_id: str) -> None:
        app.websocket.disconnect_client(client_id, code, "enough")

    @app.socket("cut")
    def cut(_data: Any, client_id: str) -> None:
        app.websocket.clients[client_id].connection.abort()

    @app.socket("text")
    def text(_data: Any, client_id: str) -> None:
        app.websocket.clients[client_id].send("no JSON")

    with app.test_client() as client:
        one, two = client.websocket(), client.websocket()
        one.send("text")
        assert one.receive() == "no JSON"
        one.send("leave", 4001)
        two.send("cut")
        assert (one.closed, two.closed) == ((4001, "enough"), (1006, ""))
        with pytest.raises(NothingReceived, match="closed with 4001 'enough'"):
            one.receive()
        with pytest.raises(ConnectionError, match="4001 enough"):
            one.send("text")
        assert app.websocket.get_client_count() == 0


def test_the_rate_limit_and_the_keepalive_obey_the_clock(app: Daebus) -> None:
    @app.socket("echo")
    def echo(data: Any) -> Any:
        return data

    app.websocket.enable_rate_limiting(2, 60)
    with app.test_client() as client:
        socket = client.websocket()
        for _ in range(3):
            socket.send("echo", 1)
        assert [message["type"] for message in socket.messages] == ["response", "response", "error"]
        client.clock.advance(3600)
        assert socket.closed is None
        socket.send("echo", 2)
        assert socket.messages[-1]["data"] == 2


def test_the_gateway(app: Daebus) -> None:
    app.websocket.gateway(actions=["own", "sensor/read"], channels=["news.*"], publish=["panel"])

    @app.action("own")
    def own() -> Any:
        return request.payload

    with app.test_client() as client:
        client.stub("sensor", "read", lambda: 21)
        socket = client.websocket()
        assert socket.call("test", "own", {"n": 1}) == {"n": 1}
        assert socket.call("sensor", "read") == 21
        with pytest.raises(RemoteError) as caught:
            socket.call("sensor", "reset")
        assert caught.value.code == "forbidden"
        client.faults.drop("answers")
        before = client.clock.now
        with pytest.raises(DaebusError) as late:
            socket.call("sensor", "read", timeout=7)
        assert (late.value.code, client.clock.now) == ("timeout", before + 7)
        client.faults.clear()
        socket.subscribe("news.local")
        client.publish("news.local", {"a": 1})
        assert socket.receive() == {"type": "channel_message", "channel": "news.local", "data": {"a": 1}}
        socket.send("broadcast", {"b": 2}, channel="panel")
        assert client.broadcasts == [("panel", {"b": 2})]


# --- workflows ---


def test_a_workflow(app: Daebus) -> None:
    @app.workflow("order")
    def order() -> None:
        if request.payload == "fail":
            raise Busy("sold out")
        response.send({"heard": request.payload}, final=request.payload == "bye")

    with app.test_client() as client:
        talk = client.workflow("order", "tea")
        assert talk.receive() == {"heard": "tea"}
        with pytest.raises(NothingReceived):
            talk.receive()
        talk.send("bye")
        assert (talk.receive(), talk.ended) == ({"heard": "bye"}, True)
        with pytest.raises(Busy, match="sold out"):
            client.workflow("order", "fail").receive()
        with pytest.raises(UnknownAction):
            client.workflow("else").receive()


# --- faults ---


def test_redis_goes_and_comes_back(app: Daebus) -> None:
    @app.route("/")
    def index() -> Any:
        return {"sent": broadcast.send("news", {})}

    with app.test_client() as client:
        socket = client.websocket()
        socket.send("$daebus.hello")
        assert socket.receive()["connected"] is True
        client.faults.redis_gone()
        assert socket.receive() == {"type": "bus", "connected": False}
        assert client.get("/").status == 503
        for send in (
            lambda: client.call("act"),
            lambda: client.publish("news", 1),
            lambda: sensor.send_message("c", 1),
        ):
            with pytest.raises(RedisUnavailable, match="cannot be reached"):
                send()
        client.faults.redis_back()
        assert socket.receive() == {"type": "bus", "connected": True}
        assert client.get("/").json == {"sent": 0}
        assert client.counts["reconnections"] == 1


def test_what_is_dropped_never_arrives(app: Daebus) -> None:
    heard: list[Any] = []

    @app.listen("sensor.a")
    def listen(payload: Any) -> None:
        heard.append(payload)

    @app.action("act")
    def act() -> None:
        heard.append("act")

    with app.test_client() as client:
        client.faults.drop("sensor.*")
        assert client.publish("sensor.a", 1) == 0
        assert heard == []
        client.faults.drop("answers")
        with pytest.raises(RequestTimeout, match="No answer from 'test' to 'act' within 5 s"):
            client.call("act")
        assert heard == ["act"]
        client.faults.clear()
        client.call("act")


def test_what_is_delayed_arrives_later(app: Daebus) -> None:
    heard: list[Any] = []

    @app.listen("sensor")
    def listen(payload: Any) -> None:
        heard.append(payload)

    @app.action("act")
    def act() -> str:
        return "done"

    with app.test_client() as client:
        client.faults.delay(2)
        client.publish("sensor", 1)
        client.clock.advance(1.9)
        assert heard == []
        client.clock.advance(0.1)
        assert heard == [1]
        before = client.clock.now
        assert client.call("act") == "done"
        assert client.clock.now == before + 4
        with pytest.raises(RequestTimeout):
            client.call("act", timeout=1)
        client.clock.advance(10)
        assert client.counts["expired"] == 1


@pytest.mark.parametrize("wrong", [lambda f: f.drop(""), lambda f: f.delay(-1), lambda f: f.delay(True)])
def test_faults_that_make_no_sense(app: Daebus, wrong: Callable[[Any], None]) -> None:
    with pytest.raises(ConfigurationError):
        wrong(app.test_client().faults)


def test_the_cache_is_fakeredis(app: Daebus) -> None:
    pytest.importorskip("fakeredis")
    heard: list[Any] = []

    @app.action("count")
    def count() -> Any:
        return cache.incr("count")

    @app.listen("news")
    def news(payload: Any) -> None:
        heard.append(payload)

    with app.test_client() as client:
        client.cache.set("count", 4)
        assert client.call("count") == 5
        assert client.cache.get("count") == "5"
        assert cache.publish("news", '{"n": 1}') == 1
        assert cache.publish("elsewhere", "no JSON") == 0
        assert client.broadcasts == [("news", {"n": 1}), ("elsewhere", "no JSON")]
        client.clock.advance(0)
        assert heard == [{"n": 1}]
        client.faults.redis_gone()
        assert client.request("count").code is not None
        client.faults.redis_back()
        assert client.call("count") == 6
    with app.test_client() as client:
        assert client.call("count") == 1


def test_without_fakeredis_the_cache_says_what_to_install(app: Daebus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    with app.test_client() as client, pytest.raises(ConfigurationError, match=r"daebus\[testing\]"):
        client.cache.get("x")


# --- the life ---


def test_the_life_of_a_service(app: Daebus) -> None:
    life: list[str] = []

    @app.on_start
    def start() -> None:
        life.append("start")
        logger.info("begun")

    @app.on_start
    async def start_later() -> None:
        life.append(sensor.send_request("ready"))

    @app.on_reload
    def reload() -> None:
        life.append("reload")

    @app.on_stop
    def stop() -> None:
        life.append("stop")

    client = app.test_client("lamp")
    client.stub("sensor", "ready", "ready")
    with client:
        assert life == ["start", "ready"]
        assert client.notifications[0] == "READY=1"
        assert client.notifications[1].startswith("STATUS=Serving")
        assert (app.is_running(), get_daemon()) == (True, app)
        client.reload()
        assert "RELOADING=1" in client.notifications
        assert life[2:] == ["reload"]
    assert life[3:] == ["stop"]
    assert "STOPPING=1" in client.notifications
    assert "begun" in [line.text for line in client.logs]
    assert (app.is_running(), context.running_daemon()) == (False, None)


def test_errors_of_the_life_are_raised(app: Daebus) -> None:
    failing = {"start": False, "stop": False, "reload": False}
    ran: list[str] = []

    def fail(what: str) -> None:
        ran.append(what)
        if failing[what]:
            raise ZeroDivisionError(what)

    app.on_start(lambda: fail("start"))
    app.on_stop(lambda: fail("stop"))
    app.on_reload(lambda: fail("reload"))
    for what in failing:
        failing[what] = True
        with pytest.raises(ZeroDivisionError, match=what), app.test_client() as client:
            client.reload()
        failing[what] = False
    failing["stop"] = True
    with pytest.raises(UnknownAction), app.test_client() as client:
        client.call("nothing")
    failing["stop"] = False
    with app.test_client():
        assert ran.count("stop") == 4


def test_a_handler_that_hangs_is_named(app: Daebus) -> None:
    go = Event()

    @app.action("hang")
    def hang() -> None:
        go.wait()

    try:
        within = pytest.raises(Stuck, match=r"Action 'hang'.* within 0.3 s; it is at .*, in (wait|hang)")
        with within, app.test_client(patience=0.3) as client:
            client.call("hang")
        with app.test_client(patience=0.3) as client:
            with pytest.raises(Stuck):
                client.call("hang")
            with pytest.raises(Stuck, match="nothing more can be done"):
                client.call("hang")
    finally:
        go.set()


def test_a_coroutine_that_hangs_is_named(app: Daebus) -> None:
    @app.action("hang")
    async def hang() -> None:
        await asyncio.Event().wait()

    hangs = pytest.raises(Stuck, match=r"Action 'hang'.* has not come to an end")
    with hangs, app.test_client(patience=0.3) as client:
        client.call("hang")


def test_messages_without_an_end_are_ended(app: Daebus) -> None:
    """Their thread, too, which the leak check looks for."""

    @app.listen("echo")
    def echo(_payload: Any) -> None:
        broadcast.send("echo", {})

    with pytest.raises(Stuck, match="has not come to an end"), app.test_client(patience=0.3) as client:
        client.publish("echo", 1)


def test_one_client_at_a_time_and_none_that_is_closed(app: Daebus, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app.test_client()
    with pytest.raises(DaebusError, match="not open"):
        client.call("act")
    with client:
        with pytest.raises(ConfigurationError, match="open already"), Daebus("other").test_client():
            pass
        assert client.request("act").code == "unknown_action"
    with pytest.raises(ConfigurationError, match="cannot be a service name"), app.test_client("no good"):
        pass
    running: Any = object()
    monkeypatch.setattr(app, "_running", running)
    monkeypatch.setattr(context, "_daemon", app)
    with pytest.raises(ConfigurationError, match="runs already"), app.test_client():
        pass
    assert (app._running, get_daemon()) == (running, app)
    monkeypatch.undo()
    with app.test_client():
        pass


def test_the_process_is_as_it_was(app: Daebus) -> None:
    def clock() -> Any:
        return vars(dispatch)["monotonic"]

    def state() -> list[Any]:
        replaced = [hub._hub, aio._hub, redispy.client, link._connect, log.Seldom.take, clock()]
        return [*replaced, list(logging.getLogger().handlers), log.logger.level]

    before = state()
    with app.test_client() as client:
        assert clock()() == client.clock.now
        during = state()
    assert all(one != other for one, other in zip(before[:-1], during[:-1], strict=True))
    assert state() == before
    assert clock() is time.monotonic


def test_a_service_in_a_test_counts_and_stops_as_in_life(app: Daebus) -> None:
    @app.action("count")
    def count() -> Any:
        return app.counts["received"]

    @app.action("stop")
    def stop() -> None:
        app.stop()

    with app.test_client() as client:
        assert (client.call("count"), client.call("count")) == (1, 2)
        assert client.counts["received"] == 2
        client.call("stop")


def test_what_waits_for_its_turn_is_done(app: Daebus) -> None:
    """One worker, and three that want it."""
    ran: list[Any] = []

    @app.listen("many", inline=False)
    def many(payload: Any) -> None:
        ran.append(payload)

    @app.listen("begin")
    def begin(_payload: Any) -> None:
        for each in range(5):
            broadcast.send("many", {"n": each})

    app.max_workers = 1
    with app.test_client() as client:
        client.publish("begin", None)
    assert ran == [{"n": each} for each in range(5)]


@pytest.mark.parametrize("coroutine", [False, True])
def test_the_client_can_be_used_in_a_stub(app: Daebus, coroutine: bool) -> None:
    heard: list[Any] = []

    def read() -> Any:
        return sensor.send_request("read")

    async def read_later() -> Any:
        return await async_sensor.send_request("read")

    app.action("read")(read_later if coroutine else read)

    @app.listen("news")
    def news(payload: Any) -> None:
        heard.append(payload)

    def answer() -> str:
        client.publish("news", 1)
        return "answer"

    async def answer_later() -> str:
        await asyncio.sleep(0)
        return answer()

    with app.test_client() as client:
        client.stub("sensor", "read", answer_later if coroutine else answer)
        assert client.call("read") == "answer"
    assert heard == [1]


def test_patience_is_for_each_handler_and_not_for_all_of_them(app: Daebus) -> None:
    ran: list[float] = []

    @app.background("nap", interval=1)
    def nap() -> None:
        ran.append(client.clock.now)
        time.sleep(0.025)

    with app.test_client(patience=1.0) as client:
        client.clock.advance(60)
    assert len(ran) == 60


def test_a_sync_caller_in_a_coroutine(app: Daebus) -> None:
    """Not what one should do, but in life it works."""

    @app.action("outer")
    async def outer() -> Any:
        return DaebusCaller("test").send_request("inner"), sensor.send_request("read")

    app.action("inner")(lambda: "inner")
    with app.test_client() as client:
        client.stub("sensor", "read", 1)
        assert client.call("outer") == ["inner", 1]


def test_debugging(app: Daebus) -> None:
    @app.route("/")
    def fail() -> None:
        raise ZeroDivisionError("by what")

    with app.test_client(debug=True) as client:
        assert "by what" in client.get("/").json["details"]
        assert "DEBUG" in [line.level for line in client.logs]


def test_a_service_that_cannot_start_leaves_nothing_behind() -> None:
    app = Daebus("app")
    app.attach(DaebusWebSocket(9001)).gateway(actions=["missing"])
    ran: list[str] = []
    app.on_stop(lambda: ran.append("stop"))
    level = log.logger.level
    for _ in range(2):
        with pytest.raises(DeclarationError, match="'missing', which this service does not have"), app.test_client():
            pass
    with pytest.raises(ConfigurationError), app.test_client(""):
        pass
    assert (ran, log.logger.level, context.running_daemon()) == ([], level, None)


def test_annotations() -> None:
    """The client is what the method says it returns."""
    assert isinstance(Daebus("x").test_client(), Client)


def echoing() -> Daebus:
    app = Daebus("app")
    app.attach(DaebusHttp(port=8080))

    @app.listen("door")
    def heard(payload: Any) -> None:
        if payload == "ask":
            DaebusCaller("nobody").send_request("x")
        raise LookupError("in the listener")

    @app.action("open")
    def opened() -> int:
        return broadcast.send("door", {})

    app.route("/open")(lambda _request: {"heard": opened()})
    return app


def test_a_listeners_error_is_raised_whatever_led_to_it() -> None:
    with echoing().test_client() as client:
        for ask in (client.call, client.request):
            with pytest.raises(LookupError, match="in the listener"):
                ask("open")
        with pytest.raises(LookupError, match="in the listener"):
            client.get("/open")


def test_a_listeners_error_that_nobody_saw_is_raised_at_the_end() -> None:
    app = echoing()
    app.workflow("open")(lambda: broadcast.send("door", {}))
    with pytest.raises(LookupError, match="in the listener"), app.test_client() as client:
        client.workflow("open")
    with app.test_client(propagate=False) as client:
        client.call("open")


def test_a_listener_that_finds_a_service_missing_has_failed() -> None:
    with echoing().test_client() as client, pytest.raises(ServiceUnavailable, match="nobody"):
        client.publish("door", "ask")


def test_the_hundredth_error_is_raised_as_the_first() -> None:
    """The log of a service shows tracebacks until there are too many at once."""
    with echoing().test_client() as client:
        for _ in range(100):
            with pytest.raises(LookupError):
                client.publish("door", {})
