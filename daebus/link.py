"""One connection to Redis: opened blocking, with a limit; used without blocking afterwards.

A `Link` is a socket and a parser. It owns no thread and knows no channels; `bus` and `client` use two each, one
that subscribes and one that publishes.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from threading import Lock
from time import monotonic

import hiredis

from .errors import RedisRefused, RedisUnavailable
from .resp import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Any

    from .settings import RedisSettings

CONNECT_LIMIT = 2.0
"""Seconds that connecting, logging in and subscribing may take together."""

PATIENCE = 0.001
"""Seconds that `Link.receive_soon` waits. The kernel may round it up to its own tick (4 ms)."""

STARVED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors that say that something is used up here, on whichever side of a connection."""

CHUNK = 65536
_REFUSALS = (
    "WRONGPASS",
    "NOAUTH",
    "NOPERM",
    "ERR AUTH",
    "ERR Client sent AUTH",
    "ERR invalid password",
    "ERR DB index",
)
ReplyError: type[Exception] = hiredis.ReplyError


class Link:
    """A connection to Redis. Not thread-safe: one thread reads, writers hold a lock of their own."""

    __slots__ = ("_flags", "_guard", "_reader", "_tls", "sock")

    def __init__(self, sock: socket.socket, tls: bool) -> None:
        self.sock = sock
        self._tls = tls
        self._reader = hiredis.Reader()
        self._flags = 0
        self._guard = Lock()  # TLS only: its state is one for both directions, and one thread may send while one reads

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self.sock.fileno()

    def receive(self) -> list[Any]:
        """Return what has arrived, without waiting. Raises `RedisUnavailable` when the connection has ended."""
        return self._receive(self._flags)

    def receive_soon(self) -> list[Any]:
        """Return what has arrived, or arrives within the time that `be_patient` was given: one system call."""
        if not self._tls:
            return self._receive(0)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.poll(PATIENCE * 1000)
        return self._receive(0)

    def be_patient(self) -> None:
        """Have `receive_soon` wait in the kernel, for `PATIENCE`. (TLS must decrypt, so it polls instead.)"""
        if not self._tls:
            self.sock.setblocking(True)
            limit = struct.pack("@ll", 0, int(PATIENCE * 1_000_000))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._flags = socket.MSG_DONTWAIT

    def _receive(self, flags: int) -> list[Any]:
        if self._tls:
            return self._receive_tls()
        try:
            data = self.sock.recv(CHUNK, flags)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise RedisUnavailable(f"the connection to Redis was lost: {_why(error)}") from None
        if not data:
            raise RedisUnavailable("Redis closed the connection")
        self._reader.feed(data)
        return self._parsed()

    def _receive_tls(self) -> list[Any]:
        """Read all there is: one reading gives one TLS record, and what is decrypted already wakes no selector."""
        try:
            with self._guard:
                while data := self.sock.recv(CHUNK):
                    self._reader.feed(data)
        except OSError as error:
            if not _wants_more(error):
                raise RedisUnavailable(f"the connection to Redis was lost: {_why(error)}") from None
            return self._parsed()
        if replies := self._parsed():
            return replies  # the end comes with the next reading
        raise RedisUnavailable("Redis closed the connection")

    def _parsed(self) -> list[Any]:
        replies = []
        gets = self._reader.gets
        try:
            while (reply := gets()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError as error:
            raise RedisUnavailable(f"what answers is not Redis: {error}") from None
        return replies

    def send(self, data: bytes | memoryview) -> int:
        """Send without waiting; return how many bytes went. Raises `RedisUnavailable` when the connection has ended."""
        try:
            if self._tls:
                with self._guard:
                    return self.sock.send(data)
            return self.sock.send(data, self._flags)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            if self._tls and _wants_more(error):
                return 0
            raise RedisUnavailable(f"the connection to Redis was lost: {_why(error)}") from None

    def ask(self, deadline: float, *commands: bytes) -> list[Any]:
        """Send commands and wait for their replies until the deadline (monotonic seconds).

        Raises `RedisUnavailable`, or `TimeoutError` at the deadline.
        """
        replies: list[Any] = []
        try:
            self.sock.settimeout(max(0.001, deadline - monotonic()))
            self.sock.sendall(b"".join(commands))
            while len(replies) < len(commands):
                replies += self.wait(deadline)
            self.sock.settimeout(0)
        except OSError as error:
            raise _lost(error) from None
        return replies

    def wait(self, deadline: float) -> list[Any]:
        """Wait for something to arrive, until the deadline; return it. Leaves the socket blocking."""
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            self.sock.settimeout(left)
            data = self.sock.recv(CHUNK)
        except OSError as error:
            raise _lost(error) from None
        if not data:
            raise RedisUnavailable("Redis closed the connection")
        self._reader.feed(data)
        return self._parsed()

    def close(self) -> None:
        """Close the socket. Never raises."""
        try:
            self.sock.close()
        except OSError:
            pass


def _lost(error: OSError) -> OSError:
    """Return what to raise for an error of a connection that is being set up; a time-out is told apart."""
    if isinstance(error, RedisUnavailable | TimeoutError):
        return error
    return RedisUnavailable(f"the connection to Redis was lost: {_why(error)}")


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _wants_more(error: OSError) -> bool:
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")


def open_link(settings: RedisSettings, name: str, deadline: float) -> Link:
    """Connect and log in. Raises `RedisUnavailable`, or `RedisRefused` when trying again would not help."""
    sock = None
    try:
        sock = _connect(settings, deadline)
        link = Link(sock, settings.tls is not None)
        _log_in(link, settings, name, deadline)
    except RedisUnavailable:
        _close(sock)
        raise
    except TimeoutError:
        _close(sock)
        raise RedisUnavailable(f"Redis at {settings} does not answer") from None
    except OSError as error:
        _close(sock)
        unreachable = RedisUnavailable(f"Redis at {settings} cannot be reached: {_why(error)}")
        unreachable.errno = error.errno
        raise unreachable from None
    return link


def _close(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()


def _connect(settings: RedisSettings, deadline: float) -> socket.socket:
    limit = max(0.001, deadline - monotonic())
    if settings.path is not None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(limit)
        try:
            sock.connect(settings.path)
        except OSError:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((settings.host, settings.port), timeout=limit)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock if settings.tls is None else _wrap(sock, settings.host, settings.tls)


def _wrap(sock: socket.socket, host: str, options: dict[str, str]) -> socket.socket:
    import ssl

    try:
        context = _tls_context(options)
        if options.get("ssl_check_hostname", "true").lower() in ("false", "0", "no"):
            context.check_hostname = False
        if options.get("ssl_cert_reqs", "required") in ("none", "CERT_NONE"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise RedisRefused(f"the certificate of Redis at {host} is not trusted: {error.verify_message}") from None
    except OSError:
        sock.close()
        raise


def _tls_context(options: dict[str, str]) -> SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_certfile"):
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:  # missing, not readable, or no PEM
        files = ", ".join(value for key, value in options.items() if key in _TLS_FILES)
        raise RedisRefused(f"a file for TLS cannot be used ({files}): {_why(error)}") from None
    return context


_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def _log_in(link: Link, settings: RedisSettings, name: str, deadline: float) -> None:
    greeting = []
    if settings.password is not None:
        who = [settings.username] if settings.username else []
        greeting.append(command("AUTH", *who, settings.password))
    if settings.db:
        greeting.append(command("SELECT", str(settings.db)))
    greeting.append(command("PING"))
    for reply in link.ask(deadline, *greeting):
        if isinstance(reply, ReplyError):
            raise refusal(str(reply), settings)
    link.ask(deadline, command("CLIENT", "SETNAME", name))  # an ACL may refuse it; then the connection has no name


def refusal(text: str, settings: RedisSettings) -> RedisUnavailable:
    """Return the error for an error reply of Redis: refused for good, or worth another try (loading, say)."""
    who = f" for user {settings.username!r}" if settings.username else ""
    if text.startswith(_REFUSALS):
        return RedisRefused(f"Redis at {settings} refuses the login{who}: {text}")
    return RedisUnavailable(f"Redis at {settings} is not ready: {text}")


def way_out(refusal: object, key: str = "") -> str:
    """Return what to do about a refusal of Redis, to be said after it: `key` of [tool.daebus] grants the right."""
    if not str(refusal).startswith("NOPERM"):
        return ""
    grants = f"`{key}` in [tool.daebus]" if key else "[tool.daebus]"
    return f"; the right comes from {grants} of a script in /opt/daebus, elsewhere from the ACL of the Redis user"


def new_id() -> str:
    """Return a fresh random id in the form of a version 4 UUID (without the 1.4 MB that importing uuid costs)."""
    digits = f"{int.from_bytes(os.urandom(16), 'big') & ~(0xF << 76) & ~(0xC << 60) | (4 << 76) | (8 << 60):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Pair:
    """A subscribed connection and a publishing one; `early` is what arrived while they were being set up."""

    __slots__ = ("early", "publishing", "subscribed")

    def __init__(self, subscribed: Link, publishing: Link, early: list[Any]) -> None:
        self.subscribed = subscribed
        self.publishing = publishing
        self.early = early

    @property
    def links(self) -> tuple[Link, Link]:
        """Both."""
        return self.subscribed, self.publishing

    def close(self) -> None:
        """Close both."""
        self.subscribed.close()
        self.publishing.close()


def open_pair(
    settings: RedisSettings, name: str, channels: list[str], globs: list[str], deadline: float | None = None
) -> Pair:
    """Connect twice, log in and subscribe, within `CONNECT_LIMIT` and the deadline (monotonic seconds).

    Raises `RedisUnavailable` or `RedisRefused`.
    """
    limit = monotonic() + CONNECT_LIMIT
    deadline = limit if deadline is None else min(limit, deadline)
    subscribed = open_link(settings, name, deadline)
    try:
        early = subscribe(subscribed, name, channels, globs, deadline)
        return Pair(subscribed, open_link(settings, name, deadline), early)
    except TimeoutError:
        subscribed.close()
        raise RedisUnavailable(f"Redis at {settings} does not answer") from None
    except OSError:
        subscribed.close()
        raise


def subscribe(link: Link, who: str, channels: list[str], globs: list[str], deadline: float) -> list[Any]:
    """Subscribe, and wait until Redis has confirmed all of it; return the messages that came in between."""
    commands = [command("SUBSCRIBE", channel) for channel in channels]
    commands += [command("PSUBSCRIBE", glob) for glob in globs]
    replies = link.ask(deadline, *commands)
    while True:
        _check_subscribed(replies, who, [*channels, *globs])
        early = [reply for reply in replies if reply[0] in (b"message", b"pmessage")]
        if len(replies) - len(early) >= len(commands):
            return early
        replies += link.wait(deadline)


def _check_subscribed(replies: list[Any], who: str, names: list[str]) -> None:
    """Raise `RedisRefused` for the first name that was not subscribed to: confirmations come in the order of asking."""
    confirmed = 0
    for reply in replies:
        if isinstance(reply, ReplyError):
            name = names[confirmed]
            own = name.startswith(("caller:", "workflow:")) or f"daebus:{name.removesuffix('.workflows')}" == who
            hint = way_out(reply, "service" if own else "listen")
            raise RedisRefused(f"Redis refuses a subscription to {name!r}: {reply}{hint}")
        if reply[0] not in (b"message", b"pmessage"):
            confirmed += 1
