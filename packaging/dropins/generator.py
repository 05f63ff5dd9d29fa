"""The generator: makes the units of all scripts, and removes those of scripts that are gone.

They are written to /run/systemd/system and not to the folder that systemd names for generators: systemd neither enables
nor disables what is there, and these are to be units like any other.
"""

from __future__ import annotations

import os
import sys

from . import folder, units
from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .folder import Candidate, Guard
    from .metadata import Wishes
    from .units import Script

TEMPLATES = "/usr/lib/systemd/system"
NEWER = "/usr/share/python3-daebus/systemd-254.conf"
NEWER_SINCE = 254
LONGEST_REASON = 500


class Made:
    """The units that are to be, and what their scripts have taken of what there is only once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, str] = {}  # by path below /run/systemd/system
        self.complaints: list[tuple[str, str]] = []  # the unit that fails, and why
        self._ports: dict[str, str] = {}  # which script has an address
        self._services: dict[str, str] = {}  # which script has a name on the bus
        self.template = _read(f"{root}{TEMPLATES}/daebus@.service")
        self.socket_template = _read(f"{root}{TEMPLATES}/daebus@.socket")
        self.newer = _read(f"{root}{NEWER}") if systemd_version(root) >= NEWER_SINCE else ""

    def accept(self, script: Script, wishes: Wishes | None) -> None:
        """Make the units of a script (without `wishes`, it has no metadata). Raises `Refused` if it wants what an
        earlier one has."""
        service = script.name if wishes is None or wishes.service is None else wishes.service
        if service in self._services:
            raise Refused(f"the service {service!r} is that of {self._services[service]} already")
        held: dict[str, str] = {}
        if wishes is not None:
            self._check_ports(wishes)
            held = units.sockets(self.socket_template, script, wishes)
        for name in held:
            self._check_unit(name, script.name)
        self._services[service] = script.path
        self.files[f"{script.name}.service"] = units.service(self.template, self.newer, script, wishes)
        self.files.update(held)
        if wishes is not None:
            self._ports.update(dict.fromkeys([*wishes.http, *wishes.websocket], script.path))

    def _check_unit(self, name: str, own: str) -> None:
        if name in self.files:
            raise Refused(f"its unit {name} has the name of one of another script")
        stem = name.removesuffix(".socket")
        if stem != own and (other := folder.unit_of_another(stem, self.root, units.MARK)):
            raise Refused(f"its unit {name} has the name of a unit of the system, {other}")

    def _check_ports(self, wishes: Wishes) -> None:
        from .metadata import overlap

        for address in (*wishes.http, *wishes.websocket):
            for other, owner in self._ports.items():
                if overlap(address, other):
                    raise Refused(f"{address} is taken by {owner}" + ("" if other == address else f" ({other})"))

    def refuse(self, unit: str, source: str, reason: str) -> None:
        """Make a unit that fails and says why."""
        reason = reason[:LONGEST_REASON]
        if f"{unit}.service" not in self.files:
            self.files[f"{unit}.service"] = units.refused(self.template, unit, source, reason)
        self.complaints.append((f"{unit}.service", f"{folder.shown(source)} is refused: {reason}"))

    def finish(self) -> None:
        """Make what the template itself needs."""
        if self.newer:
            self.files["daebus@.service.d/systemd-254.conf"] = f"{units.MARK} from {NEWER}\n{self.newer}"


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def systemd_version(root: str = "") -> int:
    """Return the version of systemd, as its library's name says it: asking systemd itself would cost a process."""
    places = [f"{root}/usr/lib/systemd"]
    try:
        places += [f"{root}/usr/lib/{name}/systemd" for name in os.listdir(f"{root}/usr/lib") if "-linux-" in name]
    except OSError:
        return 0
    return max([0, *[number for place in places for number in _versions(place)]])


def _versions(place: str) -> list[int]:
    head = "libsystemd-shared-"
    try:
        names = [name.removeprefix(head).removesuffix(".so") for name in os.listdir(place) if name.startswith(head)]
    except OSError:
        return []
    return [int(number) for name in names if (number := name.partition(".")[0].partition("~")[0]).isdecimal()]


# --- scripts ---


def make_all(root: str, guard: Guard) -> Made:
    """Return the units of all scripts."""
    made = Made(root)
    for candidate in folder.candidates(f"{root}{folder.FOLDER}"):
        _make(made, guard, candidate)
    made.finish()
    return made


def _make(made: Made, guard: Guard, candidate: Candidate) -> None:
    source = f"{folder.FOLDER}/{candidate.entries[0]}"
    unit = f"daebus-{folder.safe_name(candidate.name)}"
    if folder.unit_of_another(unit, made.root, units.MARK):  # a unit of our own package must not be hidden
        unit = f"daebus-refused-{folder.safe_name(candidate.name)}"
    try:
        folder.check_name(candidate.name)
        if other := folder.unit_of_another(candidate.name, made.root, units.MARK):
            raise Refused(f"the name {candidate.name!r} is that of a unit of the system, {other}")
        unit = candidate.name
        script = folder.find(guard, candidate, f"{made.root}{folder.FOLDER}")
        made.accept(script, _wishes(script.path))
    except Refused as reason:
        made.refuse(unit, source, str(reason))
    except OSError as error:
        made.refuse(unit, source, f"it cannot be read: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one script, the others get their units
        made.refuse(unit, source, f"this is a defect of Daebus: {type(error).__name__}: {error}")


def _wishes(path: str) -> Wishes | None:
    """Return what a script wants; None for one without metadata, which is spared the parser."""
    data = folder.read(path)
    if b"# /// script" not in data:
        return None
    from . import metadata

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"it is not UTF-8 (byte {error.start + 1})") from None
    return metadata.wishes(text.replace("\r\n", "\n").replace("\r", "\n"))


# --- files ---


def write_all(target: str, files: dict[str, str]) -> None:
    """Have these files and no others of ours in a folder. What is not ours is left alone."""
    for path in _ours(target):
        if path not in files:
            os.unlink(f"{target}/{path}")
            if "/" in path:
                _remove_if_empty(os.path.dirname(f"{target}/{path}"))
    for path, text in files.items():
        _write(f"{target}/{path}", text)


def _ours(target: str) -> list[str]:
    names = [entry.name for entry in os.scandir(target) if entry.is_file(follow_symlinks=False)]
    names.append("daebus@.service.d/systemd-254.conf")
    return [name for name in names if _is_ours(f"{target}/{name}")]


def _is_ours(path: str) -> bool:
    try:
        return folder.first_line(path).startswith(units.MARK)
    except OSError:
        return False


def _write(path: str, text: str) -> None:
    """Put a file into place, whole."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(new, path)


def _remove_if_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass


# --- complaints ---


def complain(unit: str, text: str) -> None:
    """Say in the journal what is wrong, with the messages of the unit; before the journal is there, to the kernel."""
    try:
        _to_journal(unit, text)
    except OSError:
        _to_kernel(text)


def _to_journal(unit: str, text: str) -> None:
    import socket

    fields = {
        "MESSAGE": text,
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "daebus-generator",
        "OBJECT_SYSTEMD_UNIT": unit,
    }
    entry = "".join(f"{key}={units.one_line(value)}\n" for key, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.setblocking(False)
        journal.sendto(entry.encode(), "/run/systemd/journal/socket")


def _to_kernel(text: str) -> None:
    try:
        with open("/dev/kmsg", "wb", buffering=0) as kernel:
            kernel.write(f"<3>daebus-generator: {units.one_line(text)}\n".encode()[:900])
    except OSError:
        print(units.one_line(text), file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Do what systemd calls a generator for: the first argument is the folder for generated units."""
    if len(arguments) < 2:
        print("usage: daebus-generator NORMAL-DIR [EARLY-DIR LATE-DIR]; systemd calls it", file=sys.stderr)
        return 2
    target = f"{os.path.dirname(arguments[1].rstrip('/'))}/system"
    try:
        os.makedirs(target, exist_ok=True)
        made = make_all("", folder.Guard())
        write_all(target, made.files)
    except OSError as error:
        complain("daebus.service", f"the units of {folder.FOLDER} were not made: {error}")
        return 1
    for unit, text in made.complaints:
        complain(unit, text)
    return 0
