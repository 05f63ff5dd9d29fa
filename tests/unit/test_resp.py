"""Redis' protocol, read back with the parser that Redis' own clients use."""

from __future__ import annotations

from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from daebus.resp import EXEC, MULTI, PING, command, deliver, publish


def parsed(data: bytes) -> list[Any]:
    reader = hiredis.Reader()
    reader.feed(data)
    commands = []
    while (one := reader.gets()) is not False:
        commands.append(one)
    return commands


@given(st.lists(st.binary() | st.text(), min_size=1))
def test_a_command_is_read_as_its_words(words: list[str | bytes]) -> None:
    assert parsed(command(*words)) == [[word if isinstance(word, bytes) else word.encode() for word in words]]


@given(st.binary(), st.binary())
def test_publish_is_that_command(channel: bytes, data: bytes) -> None:
    assert publish(channel, data) == command("PUBLISH", channel, data)


@given(st.binary(), st.binary())
def test_deliver_counts_and_publishes_in_one_transaction(channel: bytes, data: bytes) -> None:
    assert parsed(b"".join(deliver(channel, data))) == [
        [b"MULTI"],
        [b"PUBSUB", b"NUMSUB", channel],
        [b"PUBLISH", channel, data],
        [b"EXEC"],
    ]


def test_the_fixed_commands() -> None:
    assert (MULTI, EXEC, PING) == (b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n", b"*1\r\n$4\r\nPING\r\n")
