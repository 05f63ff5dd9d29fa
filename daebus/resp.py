"""Redis' protocol as bytes: commands out. (Coming in, `hiredis.Reader` reads it.) Pure."""

from __future__ import annotations


def command(*words: str | bytes) -> bytes:
    """Return one command in the form that Redis reads (RESP2)."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def publish(channel: bytes, data: bytes) -> bytes:
    """Return a PUBLISH command; the hot path's own form of `command`."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(data), data)


MULTI, EXEC, PING = command("MULTI"), command("EXEC"), command("PING")


def count(channel: bytes) -> bytes:
    """Return the command that counts who is subscribed to a channel by its name; the reply is [channel, number]."""
    return b"*3\r\n$6\r\nPUBSUB\r\n$6\r\nNUMSUB\r\n$%d\r\n%b\r\n" % (len(channel), channel)


def deliver(channel: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the commands of a transaction that counts a channel's subscribers and publishes, at one instant.

    PUBLISH alone counts pattern subscribers (a monitor) too, so it cannot tell whether a service was there. A Redis
    whose memory is full takes no transactions: it refuses this with OOM and executes nothing of it. Then `count`, and
    PUBLISH only if somebody is there, do: what nobody hears is never published, and all that a service which leaves
    between the two can cost is that its caller waits in vain, if a pattern subscriber has it counted.
    """
    return MULTI, count(channel), publish(channel, data), EXEC
