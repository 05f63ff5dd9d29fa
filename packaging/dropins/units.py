"""The units of a script: the templates that an administrator knows, with the name and the wishes of the script put in.

All that hardens a service is in daebus@.service, and nowhere else. Text in, text out.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .metadata import Wishes

MARK = "# Made by daebus-generator"
"""How the first line of each file begins that is ours, to be written anew and removed."""

REDIS_USERS = "/usr/libexec/daebus/redis-users"
DOCUMENTATION = "file:///usr/share/doc/python3-daebus/docs/devices.md"
LONGEST_USER = 31
ALWAYS_THERE = ("/", "127.", "[::1]:", "[::]:", "0.0.0.0:")
"""Beginnings of addresses that need no network to be up."""


class Unit:
    """The directives of a unit, in order."""

    def __init__(self, text: str, name: str = "") -> None:
        """`text` is a unit or a template, of which `name` is the instance. Comments are left out."""
        self._lines: list[tuple[str, str, str]] = []
        section = ""
        for line in text.splitlines():
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif line and line[0] not in "#;":
                key, _, value = line.partition("=")
                self._lines.append((section, key, value.replace("%i", name)))

    def set(self, section: str, key: str, *values: str) -> None:
        """Have these values in place of those that there are."""
        places = [number for number, line in enumerate(self._lines) if line[:2] == (section, key)]
        place = places[0] if places else self._end(section)
        self.drop(section, key)
        self._lines[place:place] = [(section, key, value) for value in values]

    def add(self, section: str, key: str, *values: str) -> None:
        """Have these values beside those that there are."""
        place = self._end(section)
        self._lines[place:place] = [(section, key, value) for value in values]

    def drop(self, section: str, *keys: str) -> None:
        """Have no values."""
        self._lines = [line for line in self._lines if not (line[0] == section and line[1] in keys)]

    def take(self, text: str) -> None:
        """Change what a drop-in file changes: an empty value drops the key, another one takes the place of all."""
        for section, key, value in Unit(text)._lines:
            if value:
                self.set(section, key, value)
            else:
                self.drop(section, key)

    def _end(self, section: str) -> int:
        places = [number for number, line in enumerate(self._lines) if line[0] == section]
        return places[-1] + 1 if places else len(self._lines)

    def text(self, source: str) -> str:
        """Return the text of the unit, made from that file."""
        lines = [f"{MARK} from {source}"]
        section = ""
        for name, key, value in self._lines:
            if name != section:
                lines += ["", f"[{name}]"]
                section = name
            lines.append(f"{key}={value}")
        return "\n".join(lines) + "\n"


class Script:
    """A script as it lies there: the name of its service, its file, what runs it, the folder that it is in if that is
    its own."""

    def __init__(self, name: str, path: str, folder: str | None = None, python: str = "/usr/bin/python3") -> None:
        self.name = name
        self.path = path
        self.folder = folder
        self.python = python

    @property
    def command(self) -> str:
        """What runs it. A file by itself does not look for modules beside it: they are other services, and one that is
        called queue.py would be taken for Python's own by all of them."""
        return f"{self.python} {self.folder}" if self.folder is not None else f"{self.python} -P {self.path}"


# --- the service ---


def service(template: str, newer: str, script: Script, wishes: Wishes | None) -> str:
    """Return the unit of a script. `newer` is what a later systemd knows beyond the template; it may be empty."""
    unit = Unit(template, script.name)
    unit.take(newer)
    unit.set("Unit", "Documentation", DOCUMENTATION)
    unit.add("Unit", "SourcePath", script.path)
    unit.set("Service", "ExecStart", script.command)
    unit.set("Service", "User", user_of(script.name))
    if wishes is not None:
        _grant(unit, script.name, wishes)
    return unit.text(script.path)


def _grant(unit: Unit, name: str, wishes: Wishes) -> None:
    if wishes.description is not None:
        unit.set("Unit", "Description", plain(wishes.description))
    unit.add("Unit", "Wants", *wishes.after)
    unit.add("Unit", "After", *wishes.after)
    unit.set("Service", "ExecStartPre", f"+{REDIS_USERS} {' '.join(rights(name, wishes))}")
    _who(unit, wishes)
    _limits(unit, wishes)
    _devices(unit, wishes)
    _network(unit, wishes)
    _start(unit, name, wishes)


def user_of(name: str) -> str:
    """Return the user that a service runs as. A name that is too long for one is cut, and told apart by a checksum."""
    user = f"daebus-{name}"
    if len(user) <= LONGEST_USER:
        return user
    from zlib import crc32

    return f"{user[: LONGEST_USER - 9]}-{crc32(name.encode()):08x}"


def rights(name: str, wishes: Wishes) -> list[str]:
    """Return the arguments of redis-users: who it is on the bus, and what it may do there beyond its own matters."""
    words = [name]
    if wishes.service is not None and wishes.service != name:
        words.append(f"--service={wishes.service}")
    lists = {"calls": wishes.calls, "publish": wishes.publish, "listen": wishes.listen, "keys": wishes.keys}
    return words + [f"--{key}={','.join(values)}" for key, values in lists.items() if values]


def _who(unit: Unit, wishes: Wishes) -> None:
    if wishes.user is not None:
        unit.set("Service", "User", wishes.user)
        # What else this user has on the device, in shared memory too, outlives the service.
        unit.drop("Service", "DynamicUser", "RemoveIPC")
    unit.add("Service", "SupplementaryGroups", *wishes.groups)


def _limits(unit: Unit, wishes: Wishes) -> None:
    if wishes.memory is not None:
        unit.set("Service", "MemoryMax", wishes.memory)
    if wishes.watchdog is not None:
        unit.set("Service", "WatchdogSec", wishes.watchdog)
    unit.add("Service", "Environment", *[quoted(f"{key}={value}") for key, value in wishes.environment.items()])


def _devices(unit: Unit, wishes: Wishes) -> None:
    if wishes.devices:
        unit.set("Service", "PrivateDevices", "no")
        unit.add("Service", "DeviceAllow", *wishes.devices)


def _network(unit: Unit, wishes: Wishes) -> None:
    if wishes.network == "any":
        unit.drop("Service", "IPAddressDeny", "IPAddressAllow")
    elif wishes.network == "none":
        unit.set("Service", "PrivateNetwork", "yes")
        unit.set("Service", "RestrictAddressFamilies", "AF_UNIX")
        unit.drop("Service", "IPAddressAllow")


def _start(unit: Unit, name: str, wishes: Wishes) -> None:
    held = sockets_of(name, wishes)
    if held:
        # Whatever starts the service, it gets the ports from systemd.
        unit.add("Service", "Sockets", *held)
        unit.add("Install", "Also", *held)
    if wishes.start == "demand":
        unit.drop("Install", "WantedBy")
        unit.add("Service", "RestartPreventExitStatus", "0")


# --- its sockets ---


def sockets_of(name: str, wishes: Wishes) -> list[str]:
    """Return the names of the units that hold its ports."""
    doors = {f"{name}.socket": wishes.http, f"{name}-websocket.socket": wishes.websocket}
    return [unit for unit, addresses in doors.items() if addresses]


def sockets(template: str, script: Script, wishes: Wishes) -> dict[str, str]:
    """Return the units that hold its ports, by name. A socket unit has one name for all that it holds, so there are two
    where HTTP and WebSocket have ports of their own."""
    made = {}
    for door, addresses in (("http", wishes.http), ("websocket", wishes.websocket)):
        if addresses:
            name = f"{script.name}.socket" if door == "http" else f"{script.name}-websocket.socket"
            made[name] = _socket(template, script, door, addresses)
    return made


def _socket(template: str, script: Script, door: str, addresses: list[str]) -> str:
    unit = Unit(template, script.name)
    unit.add("Unit", "SourcePath", script.path)
    unit.set("Socket", "ListenStream", *addresses)
    unit.set("Socket", "FileDescriptorName", door)
    if door != "http":
        unit.add("Socket", "Service", f"{script.name}.service")
    if not all(address.startswith(ALWAYS_THERE) for address in addresses):
        # The network may bring this address up only later.
        unit.add("Socket", "FreeBind", "yes")
    return unit.text(script.path)


# --- what is refused ---


def refused(template: str, name: str, source: str, reason: str) -> str:
    """Return a unit that fails and says why, in place of one that would run the script."""
    unit = Unit(template, name)
    unit.drop("Unit", "Documentation", "Wants", "After", "StartLimitIntervalSec")
    unit.set("Unit", "Description", plain(f"Daebus service {name} (refused: {reason})"))
    unit.add("Unit", "SourcePath", plain(source))
    for key in ("EnvironmentFile", "NotifyAccess", "ExecReload", "ExecStartPre", "StateDirectory", "WorkingDirectory"):
        unit.drop("Service", key)
    for key in ("Restart", "RestartSec", "WatchdogSec", "SupplementaryGroups", "Environment"):
        unit.drop("Service", key)
    unit.set("Service", "Type", "oneshot")
    said = quoted(f"Refused: {reason}. Put it right, then: systemctl daemon-reload").replace("$", "$$")
    unit.set("Service", "ExecStart", f"""/bin/sh -c 'printf "<3>%%s\\\\n" "$$0" >&2; exit 1' {said}""")
    unit.set("Service", "User", user_of(name))
    return unit.text(plain(source))


# --- text in a unit ---


def one_line(text: str) -> str:
    """Return text without what is not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def plain(text: str) -> str:
    """Return text as a value that is taken as it is: of one line, no specifiers, and no backslash that would join the
    next line to it."""
    return one_line(text).replace("\\", "/").replace("%", "%%").strip() or "?"


def quoted(text: str) -> str:
    """Return text as one word of a list."""
    return '"' + one_line(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
