"""What the engine learns of a handler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from daebus.registry import Record
from daebus.work import FORGIVEN_AFTER, QUICK, Work


def work(*, kind: str = "action", inline: bool | None = None, function: Callable[..., Any] = lambda: None) -> Work:
    return Work(Record(kind, "w", function, inline=inline))


def test_a_handler_is_quick_until_it_holds_up_the_reader() -> None:
    learning = work()
    assert not learning.slow
    learning.stalled()
    assert learning.slow


def test_a_slow_handler_is_forgiven_after_many_quick_runs_in_a_row() -> None:
    learning = work()
    learning.stalled()
    for _ in range(FORGIVEN_AFTER - 1):
        learning.took(QUICK / 2)
    learning.took(QUICK)
    for _ in range(FORGIVEN_AFTER - 1):
        learning.took(QUICK / 2)
    assert learning.slow  # not in a row
    learning.took(QUICK / 2)
    assert not learning.slow


def test_a_further_stall_begins_the_count_anew() -> None:
    learning = work()
    learning.stalled()
    for _ in range(FORGIVEN_AFTER - 1):
        learning.took(0.0)
    learning.stalled()
    learning.took(0.0)
    assert learning.slow


@pytest.mark.parametrize("inline", [True, False])
def test_what_the_user_said_is_not_unlearned(inline: bool) -> None:
    told = work(inline=inline)
    told.stalled()
    for _ in range(FORGIVEN_AFTER):
        told.took(0.0)
    assert told.slow is not inline


def test_only_listeners_keep_their_order() -> None:
    assert work(kind="listen").ordered
    assert not work(kind="action").ordered


def payload(_payload: object) -> None: ...
def both(_payload: object, _channel: str) -> None: ...
def optional(_payload: object, _more: object = None) -> None: ...
def anything(*_all: object, **_named: object) -> None: ...
def named(_payload: object, *, _channel: str = "") -> None: ...


class Listener:
    def payload(self, _payload: object) -> None: ...
    def both(self, _payload: object, _channel: str) -> None: ...
    def __call__(self, _payload: object, _channel: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "wants"),
    [
        (payload, False),
        (both, True),
        (optional, False),
        (anything, False),
        (named, False),
        (Listener().payload, False),
        (Listener().both, True),
        (partial(both, 1), False),
        (print, False),
    ],
)
def test_a_listener_with_two_arguments_gets_the_channel(function: Callable[..., Any], wants: bool) -> None:
    assert work(kind="listen", function=function).wants_channel is wants


def test_an_action_never_gets_a_channel() -> None:
    assert not work(function=both).wants_channel
