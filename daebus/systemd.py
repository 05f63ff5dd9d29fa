"""What systemd and a service say to each other: sd_notify, the watchdog's period, the sockets it holds for us.

The variables are taken out of the environment while the service runs, so that programs it starts do not take them for
theirs (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)).
"""

from __future__ import annotations

import os
import select
import socket
from stat import S_ISSOCK
from time import monotonic

from .errors import ConfigurationError
from .log import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_FD = 3
"""Where inherited sockets begin (sd_listen_fds(3))."""

MUST_ARRIVE = ("READY=1", "RELOADING=1", "STOPPING=1")
PATIENCE = 1.0
"""Seconds that systemd has to take one of those."""

_TAKEN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Sends states to systemd; without `NOTIFY_SOCKET` it does nothing. Never raises, never waits. Any thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._notifier = None
        self._kept: dict[str, str] = {}
        self.watchdog_seconds = _watchdog_seconds()
        if os.environ.get("NOTIFY_SOCKET"):
            import sdnotify

            self._notifier = sdnotify.SystemdNotifier()
            if self._notifier.socket is not None:
                self._notifier.socket.setblocking(False)

    @property
    def is_heard(self) -> bool:
        """Whether there is a systemd to talk to."""
        return self._notifier is not None

    def tell(self, *states: str) -> None:
        """Send states such as `READY=1`, in one datagram. What changes the unit's state is waited with for a moment if
        systemd can take nothing now; a status or a sign of life is left out."""
        if self._notifier is None or self._notifier.socket is None or os.getpid() != self._pid:
            return
        data = "\n".join(states).encode("utf-8", "backslashreplace")
        patience = PATIENCE if states[0] in MUST_ARRIVE else 0.0
        try:
            _send(self._notifier.socket, data, monotonic() + patience)
        except OSError as error:
            logger.debug("systemd could not be told %s: %s", states, error)

    def take_environment(self) -> None:
        """Take the variables out of the environment."""
        self._kept = {name: os.environ.pop(name) for name in _TAKEN if name in os.environ}

    def give_back(self) -> None:
        """Put them back: the service has ended, and the program may run another."""
        os.environ.update(self._kept)


def _send(systemd: socket.socket, data: bytes, deadline: float) -> None:
    """Send a datagram, until the deadline (monotonic seconds) if need be. Raises `OSError` if it cannot be."""
    poll = select.poll()
    poll.register(systemd, select.POLLOUT)
    while True:
        try:
            systemd.send(data)
            return
        except BlockingIOError:
            if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
                raise


def _watchdog_seconds() -> float | None:
    """Return within how many seconds systemd wants to hear from us, each time; None if it does not."""
    given, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not given.isdecimal() or int(given) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(given) / 1e6


# --- sockets that systemd holds ---


class Offered:
    """A listening socket that systemd has opened: its name (FileDescriptorName=), and its port if it has one."""

    __slots__ = ("name", "port", "socket")

    def __init__(self, name: str, listening: socket.socket) -> None:
        self.name = name
        self.socket = listening
        address = listening.getsockname()
        self.port: int | None = address[1] if listening.family in (socket.AF_INET, socket.AF_INET6) else None

    def __str__(self) -> str:
        address = self.socket.getsockname()
        if self.port is None:
            return f"{self.name!r} ({os.fsdecode(address)!r})"
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{self.name!r} ({host}:{self.port})"


def offered_sockets() -> list[Offered]:
    """Return the sockets that systemd passes to this process, once. Raises `ConfigurationError` for a useless one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    number = int(count) if count.isdecimal() else 0
    descriptors = [(FIRST_FD + each, names[each] if each < len(names) else "") for each in range(number)]
    return [_offered(descriptor, name) for descriptor, name in descriptors if not _is_file(descriptor)]


def _is_file(descriptor: int) -> bool:
    """Whether systemd passes something else than a socket (`OpenFile=`, say), which is the program's own affair."""
    try:
        return not S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _offered(descriptor: int, name: str) -> Offered:
    try:
        os.set_inheritable(descriptor, False)
        listening = socket.socket(fileno=descriptor)
        accepts = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        accepts = 0
    if not accepts or listening.type != socket.SOCK_STREAM:
        raise ConfigurationError(
            f"systemd passes {name!r} (descriptor {descriptor}), which is no socket that listens for connections: "
            "use ListenStream= and Accept=no in the .socket unit"
        )
    listening.setblocking(False)
    return Offered(name, listening)


def share_out(offered: Iterable[Offered], doors: dict[str, int]) -> dict[str, list[Offered]]:
    """Return which sockets each door gets. `doors` has the port that each would open by itself.

    A socket goes to the door that its name says (`FileDescriptorName=http`), else to the one of its port, else to the
    only door there is, or that has none yet. Raises `ConfigurationError` for one that fits none.
    """
    if len(doors) == 1:
        return {door: list(offered) for door in doors}
    shares: dict[str, list[Offered]] = {door: [] for door in doors}
    by_port = {port: door for door, port in doors.items()}
    rest = []
    for one in offered:
        door = one.name if one.name in doors else by_port.get(one.port) if one.port is not None else None
        if door is None:
            rest.append(one)
        else:
            shares[door].append(one)
    if not rest:
        return shares
    without = [door for door, share in shares.items() if not share]
    if len(without) != 1:
        wanted = " or ".join(f"FileDescriptorName={door} (port {port})" for door, port in doors.items())
        hint = f"say in the .socket unit which it is: {wanted}" if doors else "attach DaebusHttp(), or stop that unit"
        raise ConfigurationError(f"systemd passes {', '.join(map(str, rest))}, and nothing here listens there; {hint}")
    shares[without[0]] = rest
    return shares
