"""Every message has one outcome: what handlers may do, and what messages may be, with a publisher that keeps all."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from time import monotonic
from typing import Any

import pytest

from daebus import dispatch, pubsub, request, response
from daebus.dispatch import COROUTINE_LIMIT, EARLY_LIMIT, Dispatcher
from daebus.errors import (
    BadMessage,
    Busy,
    DaebusError,
    HttpError,
    InternalError,
    NameTaken,
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
from daebus.log import Seldom
from daebus.message import MAX_MESSAGE, PubSubRequest
from daebus.registry import Record
from daebus.work import Work
from tests.support import wait_for

CALLER = "caller:someone"
FIXED = "The service failed to do this; the log of 'svc' has the reason under error id "


class Publisher:
    """Keeps what it is given, in the order of publishing, as JSON."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.flushed = 0  # how many of them have left

    def publish(self, channel: str, data: bytes) -> bool:
        self.sent.append((channel, json.loads(data)))
        return True

    def flush(self) -> None:
        self.flushed = len(self.sent)

    def flush_answer(self, final: bool) -> None:
        """As a service does on its reader, which sends the final ones of a batch together."""
        if not final:
            self.flush()

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [answer for channel, answer in self.sent if channel == CALLER]


class Bench:
    """A dispatcher with its publisher, on this thread: no engine, no Redis."""

    def __init__(self, *, mine: Callable[[PubSubRequest | None, str], bool] | None = None) -> None:
        self.publisher = Publisher()
        self._mine = mine
        self._records: list[Record] = []
        self._reserved: dict[str, Callable[[PubSubRequest], Any]] = {}
        self._made: Dispatcher | None = None
        self.started: list[Coroutine[Any, Any, None]] = []
        self.resumed: list[Work] = []

    def action(self, function: Callable[..., Any], name: str = "act") -> Bench:
        self._records.append(Record("action", name, function))
        return self

    def reserve(self, name: str, function: Callable[[PubSubRequest], Any]) -> Bench:
        self._reserved[name] = function
        return self

    @property
    def dispatcher(self) -> Dispatcher:
        if self._made is None:
            self._made = Dispatcher(
                "svc",
                self._records,
                self._reserved,
                self.publisher,
                "clock",
                self._mine,
                self.publisher.flush_answer,
            )
            self._made.start_coroutine = self.started.append
            self._made.resume = self.resumed.append
        return self._made

    def plan(self, message: dict[str, Any] | bytes) -> Any:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.dispatcher.plan_request(None, "", data)

    def plan_again(self) -> list[Any]:
        """Open, and plan what was kept, as the engine does then."""
        return [plan(work, channel, data) for work, plan, channel, data in self.dispatcher.open()]

    def handle(self, message: dict[str, Any] | bytes) -> list[dict[str, Any]]:
        """What the caller is answered."""
        if self.dispatcher.held:
            self.dispatcher.open()
        call = self.plan(message)
        if call is not None:
            finished = call.run()
            assert finished is (not self.started)
        for coroutine in self.started:
            asyncio.run(coroutine)
        self.started.clear()
        return self.publisher.answers

    def ask(self, function: Callable[..., Any], payload: Any = None) -> list[dict[str, Any]]:
        return self.action(function).handle(message(payload))


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has said anything yet that is said only once a minute."""
    monkeypatch.setattr(pubsub, "_seldom", Seldom())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def message(payload: Any = None, **changes: Any) -> dict[str, Any]:
    return {"action": "act", "payload": payload, "reply_to": CALLER, "request_id": "r", "service": "svc", **changes}


def success(payload: Any, *, final: bool = True) -> dict[str, Any]:
    return {"status": "success", "payload": payload, "request_id": "r", "final": final}


def error_of(answers: list[dict[str, Any]]) -> DaebusError:
    """The one answer, as the error that a caller raises for it."""
    (answer,) = answers
    assert (answer["status"], answer["request_id"], answer["final"]) == ("error", "r", True)
    return error_from_wire(answer["payload"]["error"], answer["code"], answer.get("error_id"))


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
    assert bench.dispatcher.counts.failed == 0


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

    bench.action(handler).dispatcher.open()
    calls.append(bench.plan(message()))
    assert calls[0].run() is True
    first, *rest = bench.publisher.answers
    assert first == success(1, final=False)
    assert type(error_of(rest)) is Stopping
    assert went_on == ["closed"]
    assert bench.dispatcher.counts.failed == 0
    assert "failed" not in caplog.text


def test_a_generator_that_fails_when_it_is_closed_is_a_failure(bench: Bench) -> None:
    def handler() -> Generator[Any, None, Any]:
        response.success("done")
        try:
            yield 1
        finally:
            raise OSError

    assert bench.ask(handler) == [success("done")]
    assert bench.dispatcher.counts.failed == 1


def test_a_generator_that_listens_runs_to_its_end(bench: Bench, runs: list[Any]) -> None:
    """It has nobody to answer, so nobody who no longer listens."""

    def listener(payload: Any) -> Generator[Any, None, None]:
        yield from range(3)
        runs.append(payload)

    bench.dispatcher.open()
    call = bench.dispatcher.plan_message(Work(Record("listen", "news", listener)), "news", b"5")
    assert call is not None
    assert call.run() is True
    assert runs == [5]


def test_no_exceptions_text_leaves_the_service(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> None:
        raise ValueError("password hunter2 in /etc/shadow")

    error = error_of(bench.ask(handler))
    assert type(error) is InternalError
    assert str(error) == f"{FIXED}{error.error_id}"
    assert bench.dispatcher.counts.failed == 1
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
    assert bench.dispatcher.counts.failed == 0


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
    assert bench.dispatcher.counts.failed == 1


def test_many_failures_do_not_fill_the_log_with_tracebacks(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: 1 / 0)
    for _ in range(300):
        bench.handle(message())
    assert len(bench.publisher.answers) == bench.dispatcher.counts.failed == 300
    assert 50 <= sum(record.exc_info is not None for record in caplog.records) < 100
    assert len(caplog.records) < 160


# --- async handlers ---


def test_a_coroutine_answers_when_it_is_done(bench: Bench) -> None:
    async def handler() -> object:
        await asyncio.sleep(0)
        return {"got": request.payload}

    bench.action(handler).dispatcher.open()
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

    bench.action(handler).dispatcher.open()
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
    bench.action(wait_once).dispatcher.open()
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
    bench.action(wait_once).dispatcher.open()
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
    dispatcher = Dispatcher("svc", [Record("action", "act", handler)], {}, publisher, "clock")
    dispatcher.open()
    call = dispatcher.plan_request(None, "", json.dumps(message()).encode())
    assert call is not None
    call.run()
    assert type(error_of(publisher.answers)) is InternalError


# --- actions that are not there, and those of our own ---


def test_an_unknown_action_is_answered_with_a_hint(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: None, "add_user").action(lambda: None, "print")
    error = error_of(bench.handle(message(action="add_usr")))
    assert error.code == "unknown_action"
    assert str(error) == "The service 'svc' has no action 'add_usr'; did you mean 'add_user'?"
    assert caplog.messages == [str(error)]
    assert bench.dispatcher.counts.unknown == 1


def test_an_unknown_action_that_resembles_nothing_gets_no_hint(bench: Bench) -> None:
    error = error_of(bench.action(lambda: None).handle(message(action="zzz")))
    assert str(error) == "The service 'svc' has no action 'zzz'"


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "x" * 10_000, "$daebus.unheard"])
def test_any_unknown_action_is_one_short_line(bench: Bench, name: str, caplog: pytest.LogCaptureFixture) -> None:
    error = error_of(bench.handle(message(action=name)))
    assert error.code == "unknown_action"
    assert str(error).isprintable()
    assert len(caplog.text.splitlines()) == 1
    assert len(caplog.text) < 300


def test_unknown_actions_do_not_fill_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(500):
        bench.handle(message(action="same"))
    assert len(bench.publisher.answers) == 500
    assert len(caplog.records) == 1


def test_unknown_actions_of_ever_new_names_do_not_fill_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sends them chooses the name, so the name alone cannot be what makes a line worth writing."""
    for number in range(1500):
        bench.handle(message(action=f"new-{number}"))
    assert len(bench.publisher.answers) == 1500
    assert len(caplog.records) < 750


def test_broken_messages_from_ever_new_callers_do_not_fill_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1500):
        bench.handle(f'{{"a":nan,"reply_to":"caller:{number}","request_id":"r"}}'.encode())
    assert len(bench.publisher.sent) == 1500
    assert len(caplog.records) < 750


def test_a_reserved_action_is_answered_before_the_service_is_open(bench: Bench) -> None:
    bench.reserve("$daebus.claim", lambda asked: {"got": asked.payload})
    assert bench.plan(message(3, action="$daebus.claim")) is None
    assert bench.publisher.answers == [success({"got": 3})]


def test_a_reserved_action_may_say_no(bench: Bench) -> None:
    def refuse(_request: PubSubRequest) -> None:
        raise NameTaken("it is ours")

    error = error_of(bench.reserve("$daebus.claim", refuse).handle(message(action="$daebus.claim")))
    assert (type(error), str(error)) == (NameTaken, "it is ours")


# --- deadlines ---


@pytest.fixture
def runs() -> list[Any]:
    return []


@pytest.mark.parametrize(("ahead", "clock", "run"), [(-1, "clock", False), (60, "clock", True), (-1, "other", True)])
def test_what_nobody_waits_for_is_not_run(bench: Bench, runs: list[Any], ahead: int, clock: str, run: bool) -> None:
    """A deadline counts on the machine whose clock it was read from; on another, the seconds from the arrival do."""
    bench.action(lambda: runs.append(request.payload))
    answers = bench.handle(message("p", v=1, deadline=monotonic() + ahead, timeout=60, clock=clock))
    assert runs == (["p"] if run else [])
    assert bench.dispatcher.counts.expired == (0 if run else 1)
    if not run:
        assert (error_of(answers).code, str(error_of(answers))) == (
            "expired",
            "The caller's deadline passed before the work began; it was not done",
        )


@pytest.mark.parametrize("clock", ["other", "", None])
def test_a_deadline_of_another_clock_counts_from_the_arrival(bench: Bench, runs: list[Any], clock: str | None) -> None:
    bench.action(lambda: runs.append(1)).dispatcher.open()
    before = monotonic()
    in_time = bench.plan(message(v=1, deadline=before - 1e6, timeout=60, clock=clock))
    assert before + 60 <= in_time.request.deadline <= monotonic() + 60
    late = bench.plan(message(v=1, deadline=before + 1e6, timeout=0.001, clock=clock))
    wait_for(lambda: monotonic() > late.request.deadline)
    late.run()
    assert error_of(bench.publisher.answers).code == "expired"
    assert (runs, bench.dispatcher.counts.expired) == ([], 1)
    in_time.run()
    assert runs == [1]


def test_a_deadline_of_another_clock_counts_from_the_arrival_before_the_start_too(
    bench: Bench, runs: list[Any]
) -> None:
    bench.action(lambda: runs.append(1))
    assert bench.plan(message(v=1, deadline=1.0, timeout=0.001, clock="other")) is None
    arrived = monotonic()
    wait_for(lambda: monotonic() > arrived + 0.001)
    for call in bench.plan_again():
        call.run()
    assert error_of(bench.publisher.answers).code == "expired"
    assert runs == []


# --- broken messages ---


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a":nan,"reply_to":"caller:someone","request_id":"r"}', "The message is broken: not JSON"),
        (b'"\xff","reply_to":"caller:someone","request_id":"r"}', "The message is broken: not UTF-8 (byte 1)"),
        (b"[" * 100_000 + b',"reply_to":"caller:someone","request_id":"r"}', "nested too deeply"),
        (json.dumps(message(action=7)).encode(), "has an 'action' that is a number, not text"),
        (json.dumps({**message(), "v": 1, "deadline": "x"}).encode(), "'deadline' must be a number"),
    ],
)
def test_a_broken_message_is_answered_where_its_envelope_says(bench: Bench, data: bytes, said: str) -> None:
    error = error_of(bench.handle(data))
    assert type(error) is BadMessage
    assert said in str(error)
    assert bench.dispatcher.counts.broken == 1


def test_a_message_that_is_too_large_is_answered_and_not_read(bench: Bench, runs: list[Any]) -> None:
    bench.action(lambda: runs.append(1))
    error = error_of(bench.handle(message("x" * MAX_MESSAGE)))
    assert error.code == "too_large"
    assert runs == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no JSON",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 200_000,
        b'{"action":"act","reply_to":"other-service"}',
        b'{"action":"act","reply_to":"other.responses","request_id":"r"}',
        b'{"action":"act","reply_to":["caller:someone"]}',
        b'{"a":nan,"reply_to":"other-service","request_id":"r"}',
    ],
)
def test_a_broken_message_without_a_trusted_channel_is_answered_nowhere(
    bench: Bench, data: bytes, runs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An answer to a channel that a stranger names may be a request to another service."""
    bench.action(lambda: runs.append(1)).handle(data)
    assert bench.publisher.sent == []
    assert runs == []
    assert (bench.dispatcher.counts.broken, bench.dispatcher.counts.received) == (1, 1)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_a_broken_message_cannot_forge_a_line_of_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.handle(b'{"action":"a\\n<0>forged","reply_to":"caller:x\\n<0>forged","request_id":"r"}')
    bench.handle(b"\n<0>forged")
    assert all(text.isprintable() for text in caplog.messages)


def test_without_a_reply_channel_the_default_one_is_answered(bench: Bench) -> None:
    bench.action(lambda: 1).handle({"action": "act"})
    assert bench.publisher.sent == [
        ("svc.responses", {"status": "success", "payload": 1, "request_id": None, "final": True})
    ]


# --- shared services ---


@pytest.mark.parametrize("data", [b"broken", json.dumps(message()).encode(), json.dumps(message(action="x")).encode()])
def test_another_process_message_is_left_to_it(data: bytes, runs: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(mine=lambda _request_id, _ticket: False).action(lambda: runs.append(1))
    bench.handle(data)
    assert (runs, bench.publisher.sent, caplog.messages) == ([], [], [])


def test_a_process_asks_once_for_each_message() -> None:
    asked: list[tuple[object, str]] = []

    def mine(request: PubSubRequest | None, ticket: str) -> bool:
        asked.append((request and request.request_id, ticket))
        return True

    bench = Bench(mine=mine).action(lambda: 1)
    bench.dispatcher.open()
    for data in (json.dumps(message()).encode(), b"broken"):
        call = bench.dispatcher.plan_request(None, "t:1", data)
        if call is not None:
            call.run()
    assert asked == [("r", "t:1"), (None, "t:1")]
    assert bench.publisher.answers == [success(1)]


# --- before the service is open, and when it refuses ---


def test_what_comes_before_the_start_is_kept_until_then(bench: Bench, runs: list[Any]) -> None:
    bench.action(lambda: runs.append(request.payload))
    listener = Work(Record("listen", "news", runs.append))
    assert bench.plan(message(1)) is None
    assert bench.dispatcher.plan_message(listener, "news", b"2") is None
    assert bench.plan(message(3)) is None
    assert (bench.dispatcher.held, runs) == (True, [])
    calls = bench.plan_again()
    assert not bench.dispatcher.held
    assert [call.run() for call in calls] == [True] * 3
    assert runs == [1, 2, 3]
    assert bench.dispatcher.counts.received == 3
    assert bench.dispatcher.open() == []
    assert bench.plan(message()) is not None


def test_of_too_many_that_come_before_the_start_the_last_are_refused(bench: Bench) -> None:
    bench.action(lambda: None)
    for _ in range(EARLY_LIMIT + 1):
        assert bench.plan(message()) is None
    error = error_of(bench.publisher.answers)
    assert error.code == "busy"
    assert str(error).startswith("The service is starting")
    assert len(bench.dispatcher.open()) == EARLY_LIMIT


def test_what_is_kept_until_the_start_is_kept_as_it_came(bench: Bench) -> None:
    """Its bytes: what they are read as takes much more."""
    work = Work(Record("listen", "news", print))
    data = json.dumps(message({"a": [1, 2]})).encode()
    bench.action(lambda: None).plan(data)
    bench.dispatcher.plan_message(work, "news", b"[1]")
    kept = bench.dispatcher.open()
    assert [(item[0], *item[2:]) for item in kept] == [(None, "", data), (work, "news", b"[1]")]


def test_of_too_many_bytes_before_the_start_the_last_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    large, small = (json.dumps(message("x" * size)).encode() for size in (1000, 1))
    monkeypatch.setattr(dispatch, "EARLY_BYTES", 2 * len(large) + len(small) + 2)
    bench.action(lambda: None)
    work = Work(Record("listen", "news", print))
    for data in (large, large, large, small):
        assert bench.plan(data) is None
    for data in (b"[1]", b"[]", b"{}"):
        assert bench.dispatcher.plan_message(work, "news", data) is None
    error = error_of(bench.publisher.answers)
    assert (error.code, str(error)[:23]) == ("busy", "The service is starting")
    assert caplog.messages == ["Messages on channel 'news' are being dropped: the service is starting"]
    assert bench.dispatcher.counts.dropped == 2
    assert [data for *_, data in bench.dispatcher.open()] == [large, large, small, b"[]"]


def test_a_shared_service_that_starts_does_not_refuse_what_others_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "EARLY_BYTES", 0)
    bench = Bench(mine=lambda _request, _ticket: False).action(lambda: None)
    assert bench.plan(message()) is None
    assert bench.publisher.sent == []


def test_a_refused_request_is_answered_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: None).dispatcher.open()
    call = bench.plan(message())
    call.refuse(Stopping("it stops"))
    call.refuse(Stopping("it stops"))
    assert (type(error_of(bench.publisher.answers)), bench.dispatcher.counts.refused) == (Stopping, 1)
    assert caplog.messages == ["Action 'act' (request 'r') was refused: it stops"]


def test_a_finished_request_cannot_be_refused(bench: Bench) -> None:
    bench.action(lambda: 1).dispatcher.open()
    call = bench.plan(message())
    call.run()
    call.refuse(Stopping("it stops"))
    assert bench.publisher.answers == [success(1)]
    assert bench.dispatcher.counts.refused == 0


def test_a_handler_that_goes_on_after_its_refusal_answers_nobody(bench: Bench) -> None:
    calls: list[Any] = []

    def handler() -> str:
        calls[0].refuse(Stopping("it stops"))
        return "late"

    bench.action(handler).dispatcher.open()
    calls.append(bench.plan(message()))
    calls[0].run()
    assert type(error_of(bench.publisher.answers)) is Stopping


# --- waiting for a worker ---

SENT: list[dict[str, Any]] = [
    message({"a": [1, {"b": None}]}),
    message("text"),
    message('{"older": "callers"}'),
    message('{"a": 1}', v=1, deadline=None, timeout=None, clock="clock"),
    message(None),
    {"action": "act", "fields": 1, "beside": [2], "reply_to": CALLER, "request_id": "r"},
    {"action": "act", "service": "a field"},
]


@pytest.mark.parametrize("sent", SENT)
def test_after_a_wait_the_request_is_what_it_was(bench: Bench, sent: dict[str, Any]) -> None:
    seen: list[Any] = []

    def handler() -> None:
        fields = ("payload", "raw", "action", "request_id", "reply_to", "service", "deadline", "clock", "timeout")
        seen.append({name: getattr(request, name) for name in fields})

    bench.action(handler).dispatcher.open()
    data = json.dumps(sent).encode()
    at_once, later = bench.plan(data), bench.plan(data)
    later.pack(data)
    assert (later.request.raw, later.request.payload) == ({}, None)  # what was read takes no memory meanwhile
    for call in (at_once, later):
        call.run()
    assert seen[0] == seen[1]
    assert seen[0]["raw"] == sent
    assert len({str(answer) for _, answer in bench.publisher.sent}) == 1


@pytest.mark.parametrize("payload", [{"a": 1}, [1], "text", '{"a": 1}', 5, None])
def test_after_a_wait_a_listener_gets_the_payload(bench: Bench, runs: list[Any], payload: object) -> None:
    def listener(payload: object, channel: str) -> None:
        runs.append((payload, channel))

    bench.dispatcher.open()
    data = json.dumps(payload).encode()
    for function in (runs.append, listener):
        call = bench.dispatcher.plan_message(Work(Record("listen", "s.*", function)), "s.1", data)
        assert call is not None
        call.pack(data)
        assert call.arguments[0] is None
        assert call.run() is True
    assert runs == [payload, (payload, "s.1")]


def test_a_request_that_waits_is_refused_as_any_other(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.action(lambda: None).dispatcher.open()
    data = json.dumps(message({"a": 1})).encode()
    call = bench.plan(data)
    call.pack(data)
    call.refuse(Stopping("it stops"))
    assert type(error_of(bench.publisher.answers)) is Stopping
    assert caplog.messages == ["Action 'act' (request 'r') was refused: it stops"]


def test_a_request_whose_deadline_passes_while_it_waits_is_not_run(bench: Bench, runs: list[Any]) -> None:
    bench.action(lambda: runs.append(1)).dispatcher.open()
    data = json.dumps(message(v=1, deadline=monotonic() + 0.001, timeout=0.001, clock="clock")).encode()
    call = bench.plan(data)
    call.pack(data)
    wait_for(lambda: monotonic() > call.request.deadline)
    call.run()
    assert error_of(bench.publisher.answers).code == "expired"
    assert runs == []


# --- listened messages ---


@pytest.mark.parametrize("payload", [{"a": 1}, [1], "text", 5, None])
def test_a_listener_gets_the_payload(bench: Bench, runs: list[Any], payload: object) -> None:
    bench.dispatcher.open()
    call = bench.dispatcher.plan_message(
        Work(Record("listen", "news", runs.append)), "news", json.dumps(payload).encode()
    )
    assert call is not None
    assert call.run() is True
    assert runs == [payload]


def test_a_listener_may_ask_for_the_channel(bench: Bench, runs: list[Any]) -> None:
    bench.dispatcher.open()

    def listener(payload: object, channel: str) -> None:
        runs.append((payload, channel))

    call = bench.dispatcher.plan_message(Work(Record("listen", "s.*", listener)), "s.1", b"5")
    assert call is not None
    call.run()
    assert runs == [(5, "s.1")]


@pytest.mark.parametrize("data", [b"broken", b"\xff", b"[" * 100_000, b"x" * (MAX_MESSAGE + 1)])
def test_a_broken_listened_message_is_counted_and_logged(
    bench: Bench, data: bytes, runs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    bench.dispatcher.open()
    work = Work(Record("listen", "news", runs.append))
    assert bench.dispatcher.plan_message(work, "news\n<0>", data) is None
    assert bench.dispatcher.counts.broken == 1
    assert caplog.messages[0].startswith("A message on channel 'news\\n<0>' was ignored: ")
    assert caplog.messages[0].isprintable()
    assert runs == []


def test_a_listener_that_fails_is_logged_and_its_value_ignored(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.dispatcher.open()
    for function in (lambda _payload: 1 / 0, lambda _payload: "ignored", lambda _payload: (n for n in range(3))):
        call = bench.dispatcher.plan_message(Work(Record("listen", "news", function)), "news", b"1")
        assert call is not None
        assert call.run() is True
    assert bench.publisher.sent == []
    assert len(caplog.records) == bench.dispatcher.counts.failed == 1
    assert caplog.messages[0].startswith("The listener of channel 'news' failed (error id ")


def test_an_async_listener_is_resumed_when_it_ends(bench: Bench, runs: list[Any]) -> None:
    async def listener(payload: object) -> None:
        runs.append(payload)

    bench.dispatcher.open()
    work = Work(Record("listen", "news", listener))
    call = bench.dispatcher.plan_message(work, "news", b"5")
    assert call is not None
    assert call.run() is False
    assert bench.resumed == []
    asyncio.run(bench.started.pop())
    assert (runs, bench.resumed) == ([5], [work])


def test_a_dropped_message_is_counted_each_time_and_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.dispatcher.open()
    call = bench.dispatcher.plan_message(Work(Record("listen", "news", print)), "news", b"1")
    assert call is not None
    for _ in range(5):
        call.refuse(Busy("full"))
    assert bench.dispatcher.counts.dropped == 5
    assert caplog.messages == ["Messages on channel 'news' are being dropped: full"]


# --- calls of another door: routes ---


class RouteCall:
    """A request for a route, whose answers are kept."""

    context_type = "http"

    def __init__(self, function: Callable[..., Any], *arguments: Any, size: int = 0) -> None:
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
    assert bench.dispatcher.counts.failed == 1


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
    assert bench.dispatcher.counts.failed == 1


class Named(DaebusError):
    """An error of a user's own whose status makes no sense."""

    http_status = "404"  # type: ignore[assignment]


def test_an_error_of_the_users_own_with_an_odd_status_is_a_failure(bench: Bench) -> None:
    def handler() -> None:
        raise Named("x")

    call = RouteCall(handler)
    bench.dispatcher.handle(call)
    assert call.answer.status == 500
    assert bench.dispatcher.counts.failed == 1


def test_a_refused_route_is_answered_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    call = RouteCall(lambda: "x")
    bench.dispatcher.refuse(call, Stopping("it stops"))  # type: ignore[arg-type]
    bench.dispatcher.refuse(call, Stopping("it stops"))  # type: ignore[arg-type]
    assert call.answer.status == 503
    assert bench.dispatcher.counts.refused == 1
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
