"""Which names are allowed, and what those who choose others are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus.errors import ConfigurationError, DeclarationError
from daebus.names import (
    check_action,
    check_channel,
    check_service,
    default_reply_channel,
    did_you_mean,
    is_glob,
    is_reply_channel,
    shown,
)


@pytest.mark.parametrize("name", ["a", "A-1", "kiosk.display_2", "0", "x" * 64, "a.responses.b", "responses"])
def test_a_service_may_have_this_name(name: str) -> None:
    assert check_service(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 65,
        "-a",
        ".a",
        "_a",
        "a b",
        "a\n",
        "ä",
        "a/b",
        "a:b",
        "a*",
        "a.responses",
        "a.workflows",
        None,
        5,
        b"a",
    ],
)
def test_a_service_may_not_have_this_name(name: object) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a service name: a service name has 1 to 64 characters"):
        check_service(name)


def test_an_action_may_have_any_name_of_some_length() -> None:
    for name in ("a", "add user", "größe", "$daebus", "x" * 200):
        assert check_action(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "text of 1 to 200 characters"),
        ("x" * 201, "text of 1 to 200 characters"),
        (None, "text of 1 to 200 characters"),
        ("$daebus.claim", r"'\$daebus\.' is reserved"),
        (len, r'write @app\.action\("name"\)'),
    ],
)
def test_an_action_may_not_have_this_name(name: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        check_action(name)


def test_a_channel_may_have_any_printable_name() -> None:
    for name in ("news", "sensor.*", "my channel", "größe", "x" * 500):
        assert check_channel(name) == name


@pytest.mark.parametrize("name", ["", "x" * 501, "a\nb", "a\0", "\ud800", None, b"news"])
def test_a_channel_may_not_have_this_name(name: object) -> None:
    with pytest.raises(DeclarationError, match="printable text of 1 to 500 characters"):
        check_channel(name)


@pytest.mark.parametrize(("name", "glob"), [("a", False), ("a.b", False), ("a*", True), ("?", True), ("[ab]", True)])
def test_redis_takes_it_for_a_pattern(name: str, glob: bool) -> None:
    assert is_glob(name) is glob


@pytest.mark.parametrize("name", ["caller:x", "caller:svc-1b2c@host:4.5_6", "caller:" + "x" * 200, "svc.responses"])
def test_answers_may_go_there(name: str) -> None:
    assert is_reply_channel(name, "svc")


@pytest.mark.parametrize(
    "name",
    ["", "caller:", "caller:" + "x" * 201, "caller:a b", "caller:a\n", "caller:ä", "Caller:x", "svc", "b.responses"],
)
def test_answers_may_not_go_there(name: str) -> None:
    """Else a request could make the service publish on another service's channel."""
    assert not is_reply_channel(name, "svc")


def test_no_service_can_have_the_name_of_a_reply_channel() -> None:
    with pytest.raises(ConfigurationError):
        check_service(default_reply_channel("svc"))


@given(st.text(alphabet=st.characters()), st.integers(1, 100))
def test_what_is_shown_is_one_short_line(text: str, limit: int) -> None:
    line = shown(text, limit)
    assert line.isprintable()
    assert line.isascii()
    assert len(line) <= limit + 3


def test_a_name_that_nobody_knows_is_told_the_nearest() -> None:
    known = ["dim", "status", "x" * 300]
    assert did_you_mean("stats", known) == "; did you mean 'status'?"
    assert did_you_mean("quite another", known) == did_you_mean("", known) == did_you_mean("dim", []) == ""
    assert did_you_mean("d" * 10_000_000, known) == ""
