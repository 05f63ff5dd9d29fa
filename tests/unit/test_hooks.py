"""The functions around handlers: which run, in which order, and what the client gets when one answers or fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from daebus import Daebus, DaebusHttp, request, response
from daebus.errors import BadMessage, Busy, DaebusError, HttpError, InternalError, RedisUnavailable
from daebus.exchange import HttpResponse
from daebus.hooks import Hooks, hooks_of
from daebus.registry import Registry
from daebus.testing import Answer, HttpAnswer


class Bench:
    """A registry whose hooks serve one route, or one action, of a service under test."""

    def __init__(self) -> None:
        self.registry = Registry("here")
        self.ran: list[Any] = []

    def app(self) -> Daebus:
        app = Daebus("here")
        app.attach(DaebusHttp(port=8080))
        for record in self.registry._records.values():
            app._add(record)
        return app

    def route(self, function: Callable[..., Any]) -> HttpAnswer:
        """The answer of a route."""
        app = self.app()
        app.route("/")(function)
        with app.test_client("svc") as client:
            return client.get("/?q=1")

    def action(self, function: Callable[..., Any]) -> Answer:
        """The answer of an action."""
        app = self.app()
        app.action("act")(function)
        with app.test_client("svc") as client:
            return client.request("act", p=1)

    def note(self, what: Any) -> Callable[[], None]:
        return lambda: self.ran.append(what)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def saying(text: str, _error: BaseException) -> str:
    return text


def raising(error: BaseException) -> Callable[[], Any]:
    def handler() -> None:
        raise error

    return handler


def test_without_any_there_are_no_hooks() -> None:
    assert hooks_of(Registry("here")) is None
    registry = Registry("here")
    registry.after(lambda answer: answer)
    assert isinstance(hooks_of(registry), Hooks)


# --- before ---


def test_before_runs_before_the_handler_in_order(bench: Bench) -> None:
    for number in (1, 2):
        bench.registry.before(bench.note(number))
    bench.route(bench.note("handler"))
    bench.action(bench.note("action"))
    assert bench.ran == [1, 2, "handler", 1, 2, "action"]


def test_before_sees_the_request(bench: Bench) -> None:
    bench.registry.before(lambda: bench.ran.append(request.payload))
    bench.route(lambda: None)
    bench.action(lambda: None)
    assert bench.ran == [{"q": "1"}, {"p": 1}]


def test_what_before_returns_is_the_answer(bench: Bench) -> None:
    bench.registry.before(lambda: ({"who": "nobody"}, 401) if bench.ran == [] else None)
    bench.registry.before(bench.note("second"))
    answer = bench.route(bench.note("handler"))
    assert (answer.status, answer.json, bench.ran) == (401, {"who": "nobody"}, [])


@pytest.mark.parametrize("value", [False, 0, "", []])
def test_any_answer_of_before_but_none_is_one(bench: Bench, value: Any) -> None:
    bench.registry.before(lambda: value)
    assert bench.action(bench.note("handler")).payload == value
    assert bench.ran == []


def test_what_before_raises_is_answered(bench: Bench) -> None:
    bench.registry.before(raising(HttpError(403, "not you")))
    answer = bench.route(bench.note("handler"))
    assert (answer.status, answer.json, bench.ran) == (403, {"error": "not you"}, [])


def test_before_may_set_what_goes_with_the_answer(bench: Bench) -> None:
    def before() -> None:
        response.header("X", "y")

    bench.registry.before(before)
    assert ("X", "y") in bench.route(lambda: {"a": 1}).headers.items()


def test_other_calls_have_no_hooks(bench: Bench) -> None:
    def fail(_payload: Any) -> None:
        raise KeyError

    bench.registry.before(bench.note("before"))
    bench.registry.after(lambda _answer: bench.ran.append("after"))
    bench.registry.error(KeyError)(bench.note("error"))
    app = bench.app()
    app.http.configure_cors({"allowed_origins": ["http://panel.example"]})
    app.listen("fine")(lambda payload: bench.ran.append(payload))
    app.listen("fails")(fail)
    with app.test_client("svc", propagate=False) as client:
        assert client.publish("fine", 1) == client.publish("fails", 1) == 1
        asked = {"Origin": "http://panel.example", "Access-Control-Request-Method": "PUT"}
        assert client.options("/", headers=asked).status == 204
    assert bench.ran == [1]


# --- after ---


def test_after_sees_the_answer_and_may_leave_it(bench: Bench) -> None:
    bench.registry.after(lambda answer: bench.ran.append(answer))
    answer = bench.route(lambda: ({"a": 1}, 201))
    assert [(type(one), one.status) for one in bench.ran] == [(HttpResponse, 201)]
    assert (answer.status, answer.json) == (201, {"a": 1})


def test_after_may_add_to_a_routes_answer(bench: Bench) -> None:
    bench.registry.after(lambda answer: answer.header("X-Frame-Options", "DENY"))
    for result in ({"a": 1}, None, "text", HttpResponse().send("own")):
        assert ("X-Frame-Options", "DENY") in bench.route(lambda result=result: result).headers.items()


def test_after_changes_the_value_of_an_action(bench: Bench) -> None:
    bench.registry.after(lambda value: {**value, "b": 2})
    bench.registry.after(lambda value: {**value, "c": 3})
    assert bench.action(lambda: {"a": 1}).payload == {"a": 1, "b": 2, "c": 3}


def test_after_may_return_another_answer(bench: Bench) -> None:
    bench.registry.after(lambda _answer: {"other": True})
    assert bench.route(lambda: "x").json == {"other": True}


def test_errors_go_through_after_too(bench: Bench) -> None:
    """A header that protects a page belongs on its error pages."""
    bench.registry.after(lambda answer: answer.header("X", "y"))
    for error in (HttpError(404), KeyError(), Busy("no")):
        answer = bench.route(raising(error))
        assert ("X", "y") in answer.headers.items()
        assert answer.status == (getattr(error, "http_status", 500))


def test_after_may_return_a_plain_value_for_an_error_too(bench: Bench) -> None:
    bench.registry.after(lambda _answer: {"other": True})
    assert bench.route(raising(HttpError(404))).json == {"other": True}


def test_after_that_fails_is_a_failure_and_answered(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.registry.after(lambda answer: answer.nonsense)
    assert bench.route(lambda: "x").status == 500
    assert bench.route(raising(HttpError(404))).status == 404
    assert "AttributeError" in caplog.text
    assert bench.action(lambda: 5).code == "internal"


# --- errors ---


def test_the_function_of_a_class_answers_for_its_errors(bench: Bench) -> None:
    bench.registry.error(LookupError)(lambda error: {"missing": str(error)})
    answer = bench.route(raising(KeyError("a")))
    assert (answer.status, answer.json) == (500, {"missing": "'a'"})


def test_the_nearest_class_answers(bench: Bench) -> None:
    for cls in (Exception, LookupError, KeyError):
        bench.registry.error(cls)(partial(saying, cls.__name__))
    bodies = [bench.route(raising(error)).body for error in (KeyError(), IndexError(), ValueError())]
    assert bodies == [b"KeyError", b"LookupError", b"Exception"]


def test_an_error_function_may_do_without_the_error(bench: Bench) -> None:
    class Service:
        def answer(self) -> str:
            return "method"

        def answer_with(self, error: BaseException) -> str:
            return type(error).__name__

    bench.registry.error(KeyError)(Service().answer)
    bench.registry.error(IndexError)(Service().answer_with)
    assert bench.route(raising(KeyError())).body == b"method"
    assert bench.route(raising(IndexError())).body == b"IndexError"


def test_the_function_of_a_status_answers_for_whatever_has_it(bench: Bench) -> None:
    bench.registry.error(404)(lambda: "nothing here")
    bench.registry.error(400)(lambda error: str(error))
    bench.registry.error(500)(lambda: "sorry")
    bench.registry.error(503)(lambda: "later")
    for error, status, body in (
        (HttpError(404), 404, b"nothing here"),
        (BadMessage("bad"), 400, b"bad"),
        (KeyError(), 500, b"sorry"),
        (Busy("no"), 503, b"later"),
        (RedisUnavailable("no"), 503, b"later"),
    ):
        answer = bench.route(raising(error))
        assert (answer.status, answer.body) == (status, body)


def test_a_status_is_closer_to_an_http_error_than_a_class_above_it(bench: Bench) -> None:
    bench.registry.error(Exception)(lambda: "any")
    bench.registry.error(404)(lambda: "nothing here")
    assert bench.route(raising(HttpError(404))).body == b"nothing here"
    answer = bench.route(raising(HttpError(409)))
    assert (answer.status, answer.body) == (409, b"any")


def test_the_status_is_kept_unless_another_is_named(bench: Bench) -> None:
    bench.registry.error(404)(lambda: ("gone", 410))
    bench.registry.error(405)(lambda: response.send("said", 418))
    bench.registry.error(406)(lambda: None)
    assert bench.route(raising(HttpError(404))).status == 410
    assert bench.route(raising(HttpError(405))).status == 418
    assert bench.route(raising(HttpError(406))).status == 406


def test_what_the_handler_had_begun_does_not_show_in_the_errors_answer(bench: Bench) -> None:
    def handler() -> None:
        response.send("<p>", 201)
        raise KeyError

    bench.registry.error(KeyError)(lambda: {"error": "no"})
    answer = bench.route(handler)
    assert (answer.status, answer.content_type) == (500, "application/json")


def test_an_error_that_was_answered_is_no_failure(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.registry.error(KeyError)(lambda: "fine")
    bench.route(raising(KeyError()))
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_the_function_for_a_500_is_given_what_the_client_may_know(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[DaebusError] = []
    bench.registry.error(500)(errors.append)
    bench.route(raising(KeyError("hunter2")))
    assert type(errors[0]) is InternalError
    assert "hunter2" not in str(errors[0])
    assert f"error id {errors[0].error_id})" in caplog.text


def test_an_error_function_that_fails_leaves_the_usual_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.registry.error(404)(lambda: 1 / 0)
    answer = bench.route(raising(HttpError(404, "no")))
    assert (answer.status, answer.json) == (404, {"error": "no"})
    assert "in its error function" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_error_function_that_fails_for_everything_is_not_called_without_end(bench: Bench) -> None:
    calls: list[int] = []

    def function() -> None:
        calls.append(1)
        raise ValueError

    bench.registry.error(Exception)(function)
    bench.registry.error(500)(function)
    assert bench.route(raising(KeyError())).status == 500
    assert len(calls) <= 2


def test_an_error_function_may_raise_the_error_for_the_client(bench: Bench) -> None:
    def function() -> None:
        raise HttpError(409, "taken")

    bench.registry.error(KeyError)(function)
    answer = bench.route(raising(KeyError()))
    assert (answer.status, answer.json) == (409, {"error": "taken"})


def test_functions_for_classes_serve_actions_those_for_statuses_do_not(bench: Bench) -> None:
    bench.registry.error(KeyError)(lambda error: {"error": f"no {error}"})
    bench.registry.error(404)(lambda: "a page")
    assert str(bench.action(raising(KeyError("x"))).error) == "no 'x'"
    assert str(bench.action(raising(HttpError(404, "no"))).error) == "no"


@pytest.mark.parametrize(
    ("result", "text"), [("plain", "plain"), ({"error": "e", "x": 1}, "e"), (({"error": "e"}, 409), "e"), ([1], "[1]")]
)
def test_whoever_called_an_action_sees_an_error_as_such(bench: Bench, result: Any, text: str) -> None:
    bench.registry.error(KeyError)(lambda: result)
    answer = bench.action(raising(KeyError()))
    assert str(answer.error) == text


def test_a_second_answer_by_an_error_function_is_not_sent(bench: Bench) -> None:
    def handler() -> None:
        response.success("first")
        raise KeyError

    bench.registry.error(KeyError)(lambda: "second")
    assert bench.action(handler).payload == "first"


# --- how they may be declared ---


@pytest.mark.parametrize("what", [399, 600, True, "404", None, 404.0, int("200"), KeyError()])
def test_an_error_function_is_for_a_status_or_a_class(bench: Bench, what: Any) -> None:
    with pytest.raises(DaebusError, match=r"app\.error\(\) takes a status from 400 to 599 or a class of exceptions"):
        bench.registry.error(what)


def test_classes_of_one_name_are_two() -> None:
    """As redis.ConnectionError and Python's own are."""
    mine = type("ConnectionError", (Exception,), {"__module__": "mine"})
    registry = Registry("here")
    registry.error(ConnectionError)(lambda: "Python's")
    registry.error(mine)(lambda: "mine")
    assert {record.subject for record in registry.records("error")} == {ConnectionError, mine}


def test_two_functions_for_one_error_are_one_too_many() -> None:
    registry = Registry("here")
    for what in (404, KeyError):
        registry.error(what)(lambda: "one")
        with pytest.raises(DaebusError, match="is declared twice"):
            registry.error(what)(lambda: "two")


async def asynchronous(*_given: Any) -> None:
    """Would have to be awaited."""


def generating(*_given: Any) -> Any:
    yield 1


@pytest.mark.parametrize("function", [asynchronous, generating])
def test_hooks_are_plain_functions(function: Any) -> None:
    registry = Registry("here")
    for declare in (registry.before, registry.after, registry.error(KeyError), registry.error(404)):
        with pytest.raises(DaebusError, match="must be a plain function"):
            declare(function)
    assert hooks_of(registry) is None


@pytest.mark.parametrize(
    ("declare", "function"),
    [("before", lambda answer: answer), ("after", lambda: None), ("after", lambda one, two: (one, two))],
)
def test_a_function_that_cannot_be_called_so_is_refused(declare: str, function: Any) -> None:
    with pytest.raises(DaebusError, match=f"the {declare} handler .* must be a function that takes"):
        getattr(Registry("here"), declare)(function)
