"""What handlers import: bound to the current request, and clear about it where there is none."""

from __future__ import annotations

import contextvars
import inspect
import logging
import subprocess
import sys
from collections.abc import Iterator
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from daebus import Daebus, broadcast, cache, context, get_daemon, request, response
from daebus.context import (
    current,
    get_context_type,
    get_redis_client,
    running_daemon,
    set_context_type,
    set_daemon,
)
from daebus.errors import ConfigurationError, Unserialisable
from daebus.exchange import HttpRequest, HttpResponse
from daebus.http1 import read_head
from daebus.log import Seldom
from daebus.message import PubSubRequest
from daebus.pubsub import PubSubResponse
from tests.support import ROOT


class Outbox:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def publish(self, channel: str, data: bytes) -> None:
        self.sent.append((channel, data))


class Asked:
    """A request that is being handled."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.request: PubSubRequest = PubSubRequest({"action": "a", "payload": 5, "request_id": "r"}, "svc")
        self.response: PubSubResponse = PubSubResponse(self.outbox, self.request)


class Heard:
    """A message that a listener handles."""

    request = None
    response = None


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has said anything yet that is said only once a minute."""
    monkeypatch.setattr(context, "_seldom", Seldom())


@pytest.fixture
def asked() -> Iterator[Asked]:
    call = Asked()
    token = current.set(call)
    yield call
    current.reset(token)


@pytest.fixture
def heard() -> Iterator[Heard]:
    call = Heard()
    token = current.set(call)
    yield call
    current.reset(token)


@pytest.fixture
def no_daemon() -> Iterator[None]:
    before = running_daemon()
    set_daemon(None)
    yield
    set_daemon(before)


def test_request_is_the_one_being_handled(asked: Asked) -> None:
    assert (request.payload, request.action, request.request_id) == (5, "a", "r")
    assert repr(request) == f"<request: {asked.request!r}>"


def test_response_answers_it(asked: Asked) -> None:
    assert response.success(1) == 1
    assert asked.response.answered
    assert [channel for channel, _ in asked.outbox.sent] == ["svc.responses"]
    assert repr(response) == "<response>"


def test_what_a_request_has_not_is_an_attribute_error(asked: Asked) -> None:
    with pytest.raises(AttributeError, match="paylaod"):
        _ = request.paylaod
    assert asked.outbox.sent == []


def test_without_a_request_its_attributes_say_where_it_works() -> None:
    with pytest.raises(RuntimeError) as caught:
        _ = request.payload
    assert str(caught.value) == (
        "request.payload: no request is being handled here. `request` works in action and route handlers; "
        "pass what other threads, tasks and on_start functions need as arguments."
    )
    assert repr(request) == "<request: none is being handled here>"


def test_what_python_itself_asks_of_any_object_is_just_not_there() -> None:
    """Doctest, inspect and pytest look for such names in a module that imports `request`."""
    for view in (request, response):
        assert inspect.unwrap(view) is view
        assert getattr(view, "__name__", None) is None


@pytest.mark.usefixtures("heard")
def test_a_listener_is_told_to_use_its_argument() -> None:
    with pytest.raises(
        RuntimeError, match=r"^request\.payload: a listener has no request; its argument is the payload$"
    ):
        _ = request.payload


@pytest.mark.parametrize("verb", ["success", "error", "send", "progress"])
def test_an_answer_to_nobody_is_logged_and_sends_nothing(verb: str, caplog: pytest.LogCaptureFixture) -> None:
    assert getattr(response, verb)({"a": 1}, final=True) == 0
    assert caplog.record_tuples == [
        ("daebus", logging.WARNING, f"response.{verb}() was called where no request is being handled: nothing was sent")
    ]


def test_answers_to_nobody_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        assert response.success(1) == response.progress(2) == 0
    assert len(caplog.messages) == 2


@pytest.mark.usefixtures("heard")
def test_a_listener_has_nobody_to_answer(caplog: pytest.LogCaptureFixture) -> None:
    assert response.success(1) == 0
    assert "nothing was sent" in caplog.text


def test_without_a_request_a_response_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match=r"response\.answered: no request is being handled here"):
        _ = response.answered


def test_another_thread_does_not_see_the_request(asked: Asked) -> None:
    seen: list[str] = []
    thread = Thread(target=lambda: seen.append(repr(request)))
    thread.start()
    thread.join()
    assert seen == ["<request: none is being handled here>"]
    assert asked.request.action == request.action


def test_a_thread_that_is_given_the_context_sees_it(asked: Asked) -> None:
    seen: list[object] = []
    thread = Thread(target=contextvars.copy_context().run, args=(lambda: seen.append(request.payload),))
    thread.start()
    thread.join()
    assert seen == [asked.request.payload]


@pytest.mark.usefixtures("asked")
def test_the_kind_of_context_is_known() -> None:
    assert get_context_type() == "pubsub"


class Visited:
    """A request for a route that is being handled."""

    context_type = "http"

    def __init__(self) -> None:
        self.request = HttpRequest(read_head(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"))
        self.response = HttpResponse(self.request)


def test_in_a_route_request_and_response_are_those_of_http() -> None:
    call = Visited()
    token = current.set(call)
    try:
        assert get_context_type() == "http"
        assert (request.path, request.query, request.method) == ("/a", {"b": "c"}, "GET")
        assert response.header("X", "y") is call.response
        assert repr(request) == "<request: HttpRequest(GET '/a')>"
    finally:
        current.reset(token)


def test_outside_there_is_no_kind_of_context() -> None:
    assert get_context_type() is None


def test_the_kind_of_context_is_checked_when_it_is_set() -> None:
    for kind in ("http", "pubsub", "websocket", None):
        set_context_type(kind)
    with pytest.raises(ConfigurationError, match="'smtp' is not a kind of context"):
        set_context_type("smtp")
    assert get_context_type() is None


@pytest.mark.usefixtures("no_daemon")
def test_before_the_start_there_is_no_daemon() -> None:
    with pytest.raises(RuntimeError, match=r"^Daebus not initialized; call app\.run\(\) first$"):
        get_daemon()


@pytest.mark.usefixtures("no_daemon")
def test_the_running_service_is_the_daemon() -> None:
    app = Daebus("app")
    set_daemon(app)
    assert get_daemon() is running_daemon() is app


@pytest.mark.parametrize("channel", ["", None, 5, b"news"])
def test_a_broadcast_needs_a_channel(channel: Any) -> None:
    with pytest.raises(ValueError, match="is not a channel to broadcast to: give its name as text"):
        broadcast.send(channel, {})


@pytest.mark.parametrize("payload", [None, "text", [1], SimpleNamespace()])
def test_a_broadcast_is_an_object(payload: Any) -> None:
    with pytest.raises(TypeError, match="a broadcast is a JSON object: give a dict, not"):
        broadcast.send("news", payload)


def test_a_broadcast_that_json_cannot_hold_connects_to_nothing() -> None:
    with pytest.raises(Unserialisable):
        broadcast.send("news", {"n": float("nan")})
    assert repr(broadcast) == "<broadcast>"


@pytest.mark.usefixtures("no_daemon")
def test_the_cache_is_a_client_of_the_redis_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEBUS_REDIS_URL", "redis://:pw@127.0.0.1:1/4")
    client = get_redis_client()
    arguments = client.connection_pool.connection_kwargs
    assert (arguments["host"], arguments["port"], arguments["db"], arguments["password"]) == ("127.0.0.1", 1, 4, "pw")
    assert arguments["decode_responses"] is True
    assert cache.connection_pool is client.connection_pool
    assert get_redis_client() is client


# Older redis-py (Debian 12 has one) leaves the socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("no_daemon")
def test_a_cache_without_redis_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of redis-py: what users' code catches."""
    import redis

    monkeypatch.setenv("DAEBUS_REDIS_URL", "unix:///nonexistent/redis.sock")
    with pytest.raises(redis.ConnectionError):
        cache.get("key")


def test_after_its_first_use_the_cache_is_still_the_cache() -> None:
    """Its module must not take the name: code that imports it later would get that."""
    found = subprocess.run(
        [sys.executable, "-c", "import daebus; c = daebus.cache; c.connection_pool; print(daebus.cache is c)"],
        cwd=ROOT,
        env={"DAEBUS_REDIS_URL": "redis://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "True\n"


def test_the_cache_says_what_it_is_without_making_it() -> None:
    assert repr(cache) == "<cache: a redis-py client, made on first use>"
