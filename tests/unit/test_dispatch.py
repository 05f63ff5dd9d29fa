"""Every call has one outcome: what handlers may do, of actions with a publisher that keeps all, and of routes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from time import monotonic
from typing import Any

import pytest

from daebus import dispatch, pubsub, request, response
from daebus.dispatch import COROUTINE_LIMIT, Dispatcher
from daebus.errors import (
    BadMessage,
    Busy,
    DaebusError,
    HttpError,
    InternalError,
    RedisUnavailable,
    RemoteError,
    RequestTimeout,
    ServiceUnavailable,
    Stopping,
    Unserialisable,
    error_from_wire,
)
from daebus.exchange import HttpRequest, HttpResponse
from daebus.http1 import read_head
from daebus.inbox import Inbox
from daebus.log import Seldom
from daebus.message import MAX_MESSAGE
from daebus.registry import Record
from daebus.work import Work
from tests.calls import Bench, Publisher, error_of, message, success
from tests.support import MS

FIXED = "The service failed to do this; the log of 'svc' has the reason under error id "


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has said anything yet that is said only once a minute."""
    monkeypatch.setattr(pubsub, "_seldom", Seldom())


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- what a handler may do ---


def test_what_it_returns_is_the_answer(bench: Bench) -> None:
    assert bench.ask(lambda: {"twice": request.payload * 2}, 4) == [success({"twice": 8})]


@pytest.mark.parametrize("value", [None, 0, "", [], False])
def test_nothing_is_an_answer_too(bench: Bench, value: object) -> None:
    assert bench.ask(lambda: value) == [success(value)]


def test_what_it_says_through_response_is_the_answer(bench: Bench) -> None:
    def handler() -> None:
        response.progress({"at": 1}, 50)
        response.success("done")

    expected = [success({"at": 1, "progress_percentage": 50}, final=False), success("done")]
    assert bench.ask(handler) == expected
    assert bench.counts.failed == 0


def test_returning_what_response_returned_is_one_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.ask(lambda: response.success("done")) == [success("done")]
    assert caplog.messages == []


def test_what_it_yields_is_progress_and_what_it_returns_the_answer(bench: Bench) -> None:
    def handler() -> Generator[Any, None, Any]:
        yield {"at": 1}
        assert bench.publisher.flushed == 1  # progress does not wait for the end
        yield {"at": 2}
        return "done"

    expected = [success({"at": 1}, final=False), success({"at": 2}, final=False), success("done")]
    assert bench.ask(handler) == expected


def test_the_request_is_there_in_every_part_of_a_generator(bench: Bench) -> None:
    def handler() -> Generator[Any, None, Any]:
        yield request.payload
        return request.payload

    assert bench.ask(handler, "p") == [success("p", final=False), success("p")]


def test_a_generator_whose_request_was_refused_is_closed(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Else it would hold a thread for nobody, at the end of a drain above all."""
    calls: list[Any] = []
    went_on: list[str] = []

    def handler() -> Generator[Any, None, Any]:
        try:
            yield 1
            calls[0].refuse(Stopping("it stops"))
            yield 2
            went_on.append("after the refusal")
        finally:
            went_on.append("closed")

    bench.action(handler).open()
    calls.append(bench.plan(message()))
    assert calls[0].run() is True
    first, *rest = bench.publisher.answers
    assert first == success(1, final=False)
    assert type(error_of(rest)) is Stopping
    assert went_on == ["closed"]
    assert bench.counts.failed == 0
    assert "failed" not in caplog.text


def test_a_generator_that_fails_when_it_is_closed_is_a_failure(bench: Bench) -> None:
    def handler() -> Generator[Any, None, Any]:
        response.success("done")
        try:
            yield 1
        finally:
            raise OSError

    assert bench.ask(handler) == [success("done")]
    assert bench.counts.failed == 1


def test_a_generator_that_listens_runs_to_its_end(bench: Bench) -> None:
    """It has nobody to answer, so nobody who no longer listens."""
    runs: list[Any] = []

    def listener(payload: Any) -> Generator[Any, None, None]:
        yield from range(3)
        runs.append(payload)

    bench.open()
    call = bench.inbox.plan_message(Work(Record("listen", "news", listener)), "news", b"5")
    assert call is not None
    assert call.run() is True
    assert runs == [5]


def test_no_exceptions_text_leaves_the_service(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> None:
        raise ValueError("password hunter2 in /etc/shadow")

    error = error_of(bench.ask(handler))
    assert type(error) is InternalError
    assert str(error) == f"{FIXED}{error.error_id}"
    assert bench.counts.failed == 1
    (record,) = caplog.records
    assert record.getMessage() == f"Action 'act' (request 'r') failed (error id {error.error_id})"
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, RecursionError, MemoryError]
)
def test_no_exception_ends_the_thread_or_leaves_the_caller_waiting(bench: Bench, kind: type[BaseException]) -> None:
    def handler() -> None:
        raise kind

    assert type(error_of(bench.ask(handler))) is InternalError


def test_an_error_after_progress_is_answered(bench: Bench) -> None:
    def handler() -> Iterator[int]:
        yield 1
        raise OSError

    first, *rest = bench.ask(handler)
    assert first == success(1, final=False)
    assert type(error_of(rest)) is InternalError


class NotFound(DaebusError):
    """An error of a user's own."""

    code = "not_found"


@pytest.mark.parametrize("error", [NotFound("no such user"), Busy("the printer is"), RemoteError("no")])
def test_an_error_of_the_users_own_is_the_answer(
    bench: Bench, error: DaebusError, caplog: pytest.LogCaptureFixture
) -> None:
    def handler() -> None:
        raise error

    told = error_of(bench.ask(handler))
    assert (str(told), told.code, told.error_id) == (str(error), error.code, None)
    assert caplog.messages == []
    assert bench.counts.failed == 0


def test_an_error_that_another_service_answered_with_is_not_passed_on(bench: Bench) -> None:
    """Its text was for this service; what its own caller may know is for the handler to say."""

    def handler() -> None:
        raise error_from_wire("of another service", "not_found", None)

    assert type(error_of(bench.ask(handler))) is InternalError


class Numbered(DaebusError):
    """As one may write it who thinks of HTTP."""

    code = 404  # type: ignore[assignment]


class Speechless(DaebusError):
    def __str__(self) -> str:
        return str(self.reason)  # type: ignore[attr-defined]  # a mistake


@pytest.mark.parametrize("kind", [Numbered, Speechless])
def test_an_error_of_the_users_own_that_cannot_be_written_is_a_failure(bench: Bench, kind: type[DaebusError]) -> None:
    """An exception out of `run` would end the process."""

    def handler() -> None:
        raise kind("x")

    assert type(error_of(bench.ask(handler))) is InternalError


@pytest.mark.parametrize("kind", [Numbered, Speechless])
def test_a_coroutines_error_that_cannot_be_written_is_a_failure(bench: Bench, kind: type[DaebusError]) -> None:
    async def handler() -> None:
        raise kind("x")

    assert type(error_of(bench.ask(handler))) is InternalError


@pytest.mark.parametrize("value", [object(), float("nan"), [float("inf")], {(1, 2): 3}])
def test_an_answer_that_json_cannot_hold_is_said_to_be_that(bench: Bench, value: object) -> None:
    error = error_of(bench.ask(lambda: value))
    assert type(error) is Unserialisable
    assert (
        str(error)
        == f"The answer cannot be written as JSON; the log of 'svc' has the reason under error id {error.error_id}"
    )


def test_a_part_that_json_cannot_hold_is_said_to_be_that(bench: Bench) -> None:
    def handler() -> Iterator[Any]:
        yield object()

    assert type(error_of(bench.ask(handler))) is Unserialisable


def test_an_answer_that_is_too_large_is_said_to_be_that(bench: Bench) -> None:
    error = error_of(bench.ask(lambda: "x" * MAX_MESSAGE))
    assert error.code == "too_large"
    assert str(error).startswith("The answer is too large to be sent; the log of 'svc' has the reason")


def test_a_second_answer_is_not_sent(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> None:
        response.success(1)
        assert response.success(2) == 0
        assert response.error("no") == 0

    assert bench.ask(handler) == [success(1)]
    assert caplog.messages == ["'act' was answered already: a further answer was not sent"]  # once for both


def test_a_value_returned_after_the_answer_is_not_sent(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> str:
        response.success(1)
        return "lost"

    assert bench.ask(handler) == [success(1)]
    assert caplog.messages == ["Action 'act' (request 'r') returned a value after its answer"]


def test_an_error_after_the_answer_is_logged_and_counted(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> None:
        response.success(1)
        raise NotFound("too late")

    assert bench.ask(handler) == [success(1)]
    assert "failed (error id" in caplog.text
    assert bench.counts.failed == 1


def test_many_failures_do_not_fill_the_log_with_tracebacks(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: 1 / 0)
    for _ in range(300):
        bench.handle(message())
    assert len(bench.publisher.answers) == bench.counts.failed == 300
    assert 50 <= sum(record.exc_info is not None for record in caplog.records) < 100
    assert len(caplog.records) < 160


# --- async handlers ---


def test_a_coroutine_answers_when_it_is_done(bench: Bench) -> None:
    async def handler() -> object:
        await asyncio.sleep(0)
        return {"got": request.payload}

    bench.action(handler).open()
    call = bench.plan(message(7))
    assert call.run() is False
    assert bench.dispatcher.awaiting == {call}
    assert bench.publisher.answers == []
    asyncio.run(bench.started.pop())
    assert bench.publisher.answers == [success({"got": 7})]
    assert bench.publisher.flushed == 1  # nobody else would send it
    assert bench.dispatcher.awaiting == set()
    assert bench.resumed == [call.work]


def test_an_async_generator_yields_progress(bench: Bench) -> None:
    async def handler() -> AsyncIterator[Any]:
        yield request.payload
        await asyncio.sleep(0)
        yield 2

    assert bench.ask(handler, 1) == [success(1, final=False), success(2, final=False), success(None)]


def test_an_async_generator_may_answer_itself(bench: Bench) -> None:
    async def handler() -> AsyncIterator[Any]:
        yield 1
        response.success("done")

    assert bench.ask(handler) == [success(1, final=False), success("done")]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_coroutine_that_fails_is_answered_and_does_not_end_the_loop(bench: Bench, kind: type[BaseException]) -> None:
    async def handler() -> None:
        await asyncio.sleep(0)
        raise kind

    assert type(error_of(bench.ask(handler))) is InternalError
    assert len(bench.resumed) == 1


def test_coroutines_at_once_have_a_request_each(bench: Bench) -> None:
    async def handler() -> object:
        before = request.payload
        await asyncio.sleep(0)
        return before == request.payload

    bench.action(handler).open()
    for number in range(20):
        bench.plan(message(number)).run()

    async def all_of_them() -> None:
        await asyncio.gather(*(asyncio.ensure_future(each) for each in bench.started))

    asyncio.run(all_of_them())
    assert bench.publisher.answers == [success(payload=True)] * 20


def test_a_coroutine_that_cannot_be_started_is_answered_and_not_awaited(bench: Bench) -> None:
    """The system may refuse the event loop its thread; a drain must not wait for a coroutine that never ran."""

    async def handler() -> None:
        """Never runs."""

    def refuse(coroutine: Coroutine[Any, Any, None]) -> None:
        coroutine.close()
        raise RuntimeError("can't start new thread")

    bench.action(handler).dispatcher.start_coroutine = refuse
    assert type(error_of(bench.handle(message()))) is InternalError
    assert (bench.dispatcher.awaiting, bench.dispatcher._awaiting_bytes) == (set(), 0)


async def wait_once() -> object:
    await asyncio.sleep(0)
    return request.payload


def is_busy(answer: dict[str, Any]) -> bool:
    return bool(answer.get("code") == "busy")


def test_so_many_coroutines_run_at_once(bench: Bench) -> None:
    bench.action(wait_once).open()
    for _ in range(COROUTINE_LIMIT):
        assert bench.plan(message()).run() is False
    assert bench.plan(message()).run() is True
    error = error_of(bench.publisher.answers)
    assert (error.code, str(error)) == (
        "busy",
        "The service is busy: as many coroutines run as it takes; try again later",
    )
    for coroutine in bench.started:
        asyncio.run(coroutine)
    assert bench.dispatcher._awaiting_bytes == 0


@pytest.mark.parametrize("large", [1000, 100_000])
def test_coroutines_at_once_have_so_many_bytes(bench: Bench, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One alone may have more; what ended leaves its room to others."""
    one = len(json.dumps(message("x" * 1000)).encode())
    monkeypatch.setattr(dispatch, "COROUTINE_BYTES", 3 * one)
    bench.action(wait_once).open()
    for _ in range(2):
        taken = [bench.plan(message("x" * large)).run() is False for _ in range(5)]
        assert taken == ([True] * 3 + [False] * 2 if large == 1000 else [True] + [False] * 4)
        assert sum(map(is_busy, bench.publisher.answers)) == taken.count(False)
        for coroutine in bench.started:
            asyncio.run(coroutine)
        bench.started.clear()
        bench.publisher.sent.clear()
        assert bench.dispatcher._awaiting_bytes == 0


@pytest.mark.parametrize("kind", [ValueError, SystemExit, asyncio.CancelledError])
def test_a_coroutine_that_fails_leaves_its_room_to_others(bench: Bench, kind: type[BaseException]) -> None:
    async def handler() -> None:
        await asyncio.sleep(0)
        raise kind

    bench.ask(handler, "x" * 1000)
    assert (bench.dispatcher.awaiting, bench.dispatcher._awaiting_bytes) == (set(), 0)


def test_without_an_event_loop_a_coroutine_is_answered() -> None:
    async def handler() -> None:
        """Never runs."""

    publisher = Publisher()
    dispatcher = Dispatcher("svc", [Record("action", "act", handler)], publisher.flush)
    inbox = Inbox(dispatcher, publisher, {}, "clock")
    inbox.open()
    call = inbox.plan_request(None, "", json.dumps(message()).encode())
    assert call is not None
    call.run()
    assert type(error_of(publisher.answers)) is InternalError


def test_a_refused_request_is_answered_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: None).open()
    call = bench.plan(message())
    call.refuse(Stopping("it stops"))
    call.refuse(Stopping("it stops"))
    assert (type(error_of(bench.publisher.answers)), bench.counts.refused) == (Stopping, 1)
    assert caplog.messages == ["Action 'act' (request 'r') was refused: it stops"]


def test_a_finished_request_cannot_be_refused(bench: Bench) -> None:
    bench.action(lambda: 1).open()
    call = bench.plan(message())
    call.run()
    call.refuse(Stopping("it stops"))
    assert bench.publisher.answers == [success(1)]
    assert bench.counts.refused == 0


def test_a_handler_that_goes_on_after_its_refusal_answers_nobody(bench: Bench) -> None:
    calls: list[Any] = []

    def handler() -> str:
        calls[0].refuse(Stopping("it stops"))
        return "late"

    bench.action(handler).open()
    calls.append(bench.plan(message()))
    calls[0].run()
    assert type(error_of(bench.publisher.answers)) is Stopping


# --- calls of another door: routes ---


class RouteCall:
    """A request for a route, whose answers are kept."""

    context_type = "http"

    def __init__(self, function: Callable[..., Any], *arguments: Any, size: int = 0) -> None:
        self.began = 0.0
        self.sent: list[HttpResponse] = []
        self.work = Work(Record("route", "GET /", function))
        self.arguments = arguments
        self.size = size
        self.request = HttpRequest(read_head(b"GET /?q=1 HTTP/1.1\r\nHost: x\r\n\r\n"))
        self.response = HttpResponse(self.request)
        self.response.finish = self.sent.append

    def refuse(self, error: DaebusError) -> None:
        self.response.fail(error)

    def __str__(self) -> str:
        return "Route GET '/'"

    @property
    def answer(self) -> HttpResponse:
        (answer,) = self.sent
        return answer

    @property
    def json(self) -> Any:
        assert isinstance(self.answer.body, bytes)
        return json.loads(self.answer.body)


def test_a_route_is_called_with_its_arguments_and_answered(bench: Bench) -> None:
    call = RouteCall(lambda one, two: {"sum": one + two, "q": request.query}, 1, 2)
    assert bench.dispatcher.handle(call) is True
    assert (call.answer.status, call.json) == (200, {"sum": 3, "q": {"q": "1"}})


def test_a_route_of_a_coroutine_is_answered_when_that_is_done(bench: Bench) -> None:
    async def handler() -> object:
        await asyncio.sleep(0)
        return {"q": request.query}, 201

    call = RouteCall(handler)
    assert bench.dispatcher.handle(call) is False
    assert call.sent == []
    asyncio.run(bench.started.pop())
    assert (call.answer.status, call.json) == (201, {"q": {"q": "1"}})
    assert bench.resumed == [call.work]


def parts_of_a_stream() -> Iterator[str]:
    yield "x"


async def async_parts_of_a_stream() -> AsyncIterator[str]:
    yield "x"


async def coroutine_of_a_stream() -> Iterator[str]:
    return parts_of_a_stream()


@pytest.mark.parametrize("handler", [parts_of_a_stream, async_parts_of_a_stream, coroutine_of_a_stream])
def test_the_generator_of_a_route_is_its_answer(bench: Bench, handler: Callable[[], Any]) -> None:
    """The door streams it; in an action, what it yields is progress."""
    call = RouteCall(handler)
    bench.dispatcher.handle(call)
    for coroutine in bench.started:
        asyncio.run(coroutine)
    body = call.answer.body
    assert type(body).__name__ in ("generator", "async_generator")
    assert bench.dispatcher.awaiting == set()


class TimeoutOfRedisPy(Exception):
    """As redis-py has it: known by its module and name."""


TimeoutOfRedisPy.__module__, TimeoutOfRedisPy.__name__ = "redis.exceptions", "TimeoutError"


class OfAnother(Exception):
    """The same name in another module."""


OfAnother.__name__ = "ConnectionError"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("hunter2"), 500),
        (SystemExit("hunter2"), 500),
        (RedisUnavailable("hunter2"), 503),
        (ServiceUnavailable("hunter2"), 503),
        (RequestTimeout("hunter2"), 504),
        (TimeoutOfRedisPy("hunter2"), 503),
        (type("Sub", (TimeoutOfRedisPy,), {})("hunter2"), 503),
        (OfAnother("hunter2"), 500),
        (ConnectionError("hunter2"), 500),
        (InternalError("hunter2"), 500),
    ],
)
def test_the_status_of_a_failure_says_whether_it_is_ours(
    bench: Bench, error: BaseException, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def handler() -> None:
        raise error

    call = RouteCall(handler)
    bench.dispatcher.handle(call)
    assert call.answer.status == status
    assert "hunter2" not in json.dumps(call.json)
    assert f"error id {call.json['error_id']}" in caplog.text
    assert bench.counts.failed == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(HttpError(409, "taken"), 409), (BadMessage("bad"), 400), (Busy("full"), 503), (NotFound("none"), 500)],
)
def test_an_error_for_the_client_of_a_route_is_the_answer(
    bench: Bench, error: DaebusError, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def handler() -> None:
        raise error

    call = RouteCall(handler)
    bench.dispatcher.handle(call)
    assert (call.answer.status, call.json) == (status, {"error": str(error)})
    assert caplog.messages == []


def test_an_http_error_of_an_action_is_an_ordinary_one(bench: Bench) -> None:
    def handler() -> None:
        raise HttpError(404, "no such device")

    error = error_of(bench.ask(handler))
    assert (error.code, str(error)) == ("http", "no such device")


@pytest.mark.parametrize("value", [object(), float("nan"), {"a": HttpResponse()}, (1, True), ("x", 99)])
def test_an_answer_that_cannot_be_given_over_http_is_a_failure(bench: Bench, value: object) -> None:
    call = RouteCall(lambda: value)
    bench.dispatcher.handle(call)
    assert call.answer.status == 500
    assert bench.counts.failed == 1


class Named(DaebusError):
    """An error of a user's own whose status makes no sense."""

    http_status = "404"  # type: ignore[assignment]


def test_an_error_of_the_users_own_with_an_odd_status_is_a_failure(bench: Bench) -> None:
    def handler() -> None:
        raise Named("x")

    call = RouteCall(handler)
    bench.dispatcher.handle(call)
    assert call.answer.status == 500
    assert bench.counts.failed == 1


@pytest.mark.parametrize(("ahead", "status"), [(None, 200), (60, 200), (-0.001, 504)])
def test_what_is_too_late_for_its_caller_is_not_run(bench: Bench, ahead: float | None, status: int) -> None:
    ran: list[int] = []
    call = RouteCall(lambda: ran.append(1) or "done")  # type: ignore[func-returns-value]
    assert bench.dispatcher.handle_in_time(call, None if ahead is None else monotonic() + ahead) is True
    assert (call.answer.status, bool(ran), bench.counts.expired) == (status, status == 200, int(status != 200))


def test_a_refused_route_is_answered_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    call = RouteCall(lambda: "x")
    bench.dispatcher.refuse(call, Stopping("it stops"))
    bench.dispatcher.refuse(call, Stopping("it stops"))
    assert call.answer.status == 503
    assert bench.counts.refused == 1
    assert caplog.messages == ["Route GET '/' was refused: it stops"]


def test_a_route_that_was_refused_meanwhile_says_nothing_more(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> str:
        calls[0].refuse(Stopping("it stops"))
        return "too late"

    calls = [RouteCall(handler)]
    bench.dispatcher.handle(calls[0])
    assert calls[0].answer.status == 503
    assert caplog.messages == ["Route GET '/' returned a value after its answer"]


def test_too_many_coroutines_of_routes_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "COROUTINE_LIMIT", 1)
    calls = [RouteCall(wait_once) for _ in range(2)]
    assert [bench.dispatcher.handle(call) for call in calls] == [False, True]
    assert calls[1].answer.status == 503
    asyncio.run(bench.started.pop())


# --- in the log ---


def test_with_debug_each_call_leaves_a_line_with_its_time(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "daebus")
    assert bench.action(lambda: 1).dispatcher.verbose
    bench.handle(message())
    (line,) = caplog.messages
    assert re.fullmatch(r"Action 'act' \(request 'r'\) took \d+\.\d ms", line)


def test_with_debug_a_call_that_failed_leaves_one_too(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "daebus")
    bench.ask(lambda: 1 / 0)
    assert [message.startswith("Action 'act' (request 'r') took") for message in caplog.messages] == [False, True]


def test_with_debug_a_coroutine_leaves_one_when_it_ends(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "daebus")

    async def act() -> int:
        await asyncio.sleep(20 * MS)
        return 1

    bench.ask(act)
    (took,) = [float(line.split()[-2]) for line in caplog.messages if " took " in line]
    assert took >= 20 * MS * 1000


def test_without_debug_there_is_none(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.ask(lambda: 1)
    assert not bench.dispatcher.verbose
    assert caplog.messages == []
