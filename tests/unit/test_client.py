"""Callers: what they refuse before anything is connected."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daebus import AsyncCaller, Daebus, DaebusCaller
from daebus.context import set_daemon
from daebus.errors import CallerClosed, ConfigurationError, RedisUnavailable, TooLarge, Unserialisable
from daebus.hub import ThreadExchange
from daebus.message import MAX_MESSAGE
from daebus.settings import RedisSettings
from daebus.target import clock_id
from tests.support import MS

NOWHERE = "unix:///nonexistent/redis.sock"
Kind = Callable[..., Any]
both_kinds = pytest.mark.parametrize("kind", [DaebusCaller, AsyncCaller])


@pytest.fixture
def caller() -> Iterator[DaebusCaller]:
    with DaebusCaller("svc", redis_url=NOWHERE) as made:
        yield made


@asynccontextmanager
async def async_caller() -> AsyncIterator[AsyncCaller]:
    async with AsyncCaller("svc", redis_url=NOWHERE) as made:
        yield made


@both_kinds
@pytest.mark.parametrize("name", ["", "a b", "a*", None, "svc.responses"])
def test_the_service_has_a_name_that_a_service_can_have(kind: Kind, name: object) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a service name"):
        kind(name)


@both_kinds
@pytest.mark.parametrize("timeout", [0, -1, True, "5", None, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds_above_0(kind: Kind, timeout: object) -> None:
    with pytest.raises(ConfigurationError, match="is not a timeout: give a number of seconds above 0"):
        kind("svc", timeout=timeout)


@both_kinds
@pytest.mark.parametrize(
    "where", [{"redis_port": 0}, {"redis_url": "http://h"}, {"redis_url": "redis://h", "redis_port": 1}]
)
def test_a_server_that_makes_no_sense_is_refused(kind: Kind, where: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        kind("svc", **where)


BAD_REQUESTS = [
    (("",), ConfigurationError),
    ((None,), ConfigurationError),
    ((b"act",), ConfigurationError),
    (("act", None, 0), ConfigurationError),
    (("act", None, "5"), ConfigurationError),
    (("act", {"n": float("nan")}), Unserialisable),
    (("act", object()), Unserialisable),
    (("act", "x" * MAX_MESSAGE), TooLarge),
]
BAD_MESSAGES = [
    (("", {}), ConfigurationError),
    ((None, {}), ConfigurationError),
    (("news", object()), Unserialisable),
    (("news", "x" * MAX_MESSAGE), TooLarge),
]


@pytest.mark.parametrize(("arguments", "error"), BAD_REQUESTS)
def test_a_request_that_cannot_be_sent_is_refused(
    caller: DaebusCaller, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        caller.send_request(*arguments)


@pytest.mark.parametrize(("arguments", "error"), BAD_MESSAGES)
def test_a_message_that_cannot_be_sent_is_refused(
    caller: DaebusCaller, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        caller.send_message(*arguments)


def test_what_cannot_be_sent_to_a_service_is_refused(caller: DaebusCaller) -> None:
    with pytest.raises(Unserialisable):
        caller.send_to_service({"n": float("inf")}, "act")


@pytest.mark.parametrize(("arguments", "error"), BAD_REQUESTS)
def test_an_async_request_that_cannot_be_sent_is_refused(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    async def ask() -> None:
        async with async_caller() as caller:
            await caller.send_request(*arguments)

    with pytest.raises(error):
        asyncio.run(ask())


@pytest.mark.parametrize(("arguments", "error"), BAD_MESSAGES)
def test_an_async_message_that_cannot_be_sent_is_refused(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    async def send() -> None:
        async with async_caller() as caller:
            await caller.send_message(*arguments)

    with pytest.raises(error):
        asyncio.run(send())


def test_a_closed_caller_says_so(caller: DaebusCaller) -> None:
    caller.close()
    caller.close()
    for use in (
        lambda: caller.send_request("act"),
        lambda: caller.send_message("news", {}),
        lambda: caller.send_to_service({}),
        lambda: caller.response_channel,
    ):
        with pytest.raises(CallerClosed, match="the caller is closed: make a new DaebusCaller to go on"):
            use()


def test_a_closed_async_caller_says_so() -> None:
    async def ask() -> None:
        async with async_caller() as caller:
            await caller.close()
            await caller.send_request("act")

    with pytest.raises(CallerClosed, match="the caller is closed: make a new AsyncCaller to go on"):
        asyncio.run(ask())


def test_without_redis_a_call_says_where_it_looked(caller: DaebusCaller) -> None:
    with pytest.raises(RedisUnavailable, match=r"Redis at /nonexistent/redis\.sock cannot be reached: No such file"):
        caller.send_request("act")


def test_without_redis_an_async_call_says_where_it_looked() -> None:
    async def ask() -> None:
        async with async_caller() as caller:
            await caller.send_request("act")

    with pytest.raises(RedisUnavailable, match=r"Redis at /nonexistent/redis\.sock cannot be reached: No such file"):
        asyncio.run(ask())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_caller_that_is_never_used_connects_to_nothing() -> None:
    before = descriptors(), threading.active_count()
    DaebusCaller("svc", redis_url=NOWHERE)
    assert (descriptors(), threading.active_count()) == before


def test_callers_of_one_server_share_their_channel() -> None:
    with DaebusCaller("one", redis_url=NOWHERE) as one, DaebusCaller("two", redis_url=NOWHERE) as two:
        assert one.response_channel == two.response_channel
        with DaebusCaller("one", redis_url=f"{NOWHERE}?db=1") as elsewhere:
            assert elsewhere.response_channel != one.response_channel


def test_in_a_service_a_caller_uses_the_services_server_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEBUS_REDIS_URL", "redis://elsewhere")
    app = Daebus("app")
    app.service, app.settings = "mine", RedisSettings(path="/nonexistent/mine.sock")
    set_daemon(app)
    try:
        with DaebusCaller("svc") as caller, DaebusCaller("svc", redis_host="other") as told:
            assert caller.response_channel.startswith("caller:mine-")
            assert str(caller._settings) == "/nonexistent/mine.sock"
            assert str(told._settings) == "other:6379"
    finally:
        set_daemon(None)


def test_a_child_after_a_fork_begins_anew(caller: DaebusCaller) -> None:
    ours = caller.response_channel
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, caller.response_channel.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert theirs.startswith("caller:")
    assert theirs != ours == caller.response_channel


def test_an_exchange_that_was_woken_does_not_sleep() -> None:
    exchange = ThreadExchange(None)
    exchange.wake()
    exchange.wake()
    exchange.sleep(5000 * MS)  # else the test would take that long
    exchange.sleep(-1)


def test_the_clock_of_this_boot_has_a_name() -> None:
    assert clock_id() == clock_id() != ""
