"""The folder with the scripts: which there are, and whether somebody else than root could change them.

A script is never imported or run here. All paths are under `root`, which is "" on a device.
"""

from __future__ import annotations

import os
import stat

from .refusal import Refused
from .units import Script

FOLDER = "/opt/daebus"
LONGEST_NAME = 48
LONGEST_SCRIPT = 1 << 20
LINKS = 40
"""Symbolic links that may be on the way to a file, as for the kernel."""

UNIT_FOLDERS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system")
ADMIN_FOLDER = "/etc/systemd/system"
INIT_FOLDER = "/etc/init.d"
SUFFIXES = (".service", ".socket", ".timer", ".path")
"""Kinds of units that are a service, or start the one of the same name."""

RESERVED = ("daebus-", "systemd-")
"""Beginnings of names that are for units of ours, and of systemd's."""

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
SIGNS = frozenset("-_")


class Candidate:
    """A file or folder that wants to be a service."""

    def __init__(self, name: str, entries: list[str]) -> None:
        self.name = name
        self.entries = entries  # in the folder: NAME.py, NAME, or both


def candidates(folder: str) -> list[Candidate]:
    """Return what wants to be a service, by name. What begins with '.' or '_' does not, nor does a folder without
    __main__.py."""
    found: dict[str, list[str]] = {}
    try:
        entries = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    for entry in entries:
        if entry[0] in "._":
            continue
        if entry.endswith(".py"):
            found.setdefault(entry[:-3], []).append(entry)
        elif os.path.lexists(f"{folder}/{entry}/__main__.py"):
            found.setdefault(entry, []).append(entry)
    return [Candidate(name, found[name]) for name in sorted(found)]


def safe_name(name: str) -> str:
    """Return a name as a unit can have it."""
    safe = "".join(letter if letter in LETTERS or letter in SIGNS else "_" for letter in name[:LONGEST_NAME])
    return safe if safe and safe[0] in LETTERS else f"x{safe[1:]}"


def check_name(name: str) -> None:
    """Raise `Refused` for a name that no service can have."""
    if len(name) > LONGEST_NAME or safe_name(name) != name:
        raise Refused(
            f"{name[:80]!a} cannot be the name of a service: it must have at most {LONGEST_NAME} letters, digits, "
            "'-' and '_', and begin with a letter or digit"
        )
    if name == "daebus" or name.startswith(RESERVED):
        raise Refused(f"the name {name!r} is reserved: choose one that is not 'daebus', and begins otherwise")


def unit_of_another(name: str, root: str = "", mark: str = "") -> str | None:
    """Return the file of a unit that has this name already, and is not ours: one of the system, or an alias of one.

    What an administrator has in /etc under the name is an override of our unit, or the link that masks it.
    """
    for suffix in SUFFIXES:
        unit = f"{name}{suffix}"
        for folder in UNIT_FOLDERS:
            if os.path.lexists(f"{root}{folder}/{unit}"):
                return f"{folder}/{unit}"
        if _is_alias(f"{root}{ADMIN_FOLDER}/{unit}", unit):
            return f"{ADMIN_FOLDER}/{unit}"
        if _is_foreign(f"{root}/run/systemd/system/{unit}", mark):
            return f"/run/systemd/system/{unit}"
    return f"{INIT_FOLDER}/{name}" if os.path.lexists(f"{root}{INIT_FOLDER}/{name}") else None


def _is_alias(path: str, unit: str) -> bool:
    try:
        target = os.readlink(path)
    except OSError:
        return False
    return target != "/dev/null" and os.path.basename(target) != unit


def _is_foreign(path: str, mark: str) -> bool:
    try:
        return not first_line(path).startswith(mark)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def first_line(path: str) -> str:
    """Return how a file begins."""
    with open(path, "rb") as file:
        return file.readline(200).decode("utf-8", "replace")


# --- the files ---


class Guard:
    """Knows whose files may be trusted: those that only `owners` can change, and whom nobody else can replace."""

    def __init__(self, owners: tuple[int, ...] = (0,)) -> None:
        self._owners = owners
        self._seen: set[str] = set()

    def check(self, path: str) -> str:
        """Return the real path of a file or folder. Raises `Refused` if somebody else could change what is there: the
        thing itself, a link to it, or a folder on the way."""
        links = 0
        done, rest = "", [part for part in path.split("/") if part]
        self._look("/")
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = done.rpartition("/")[0]
            elif part != ".":
                done = f"{done}/{part}"
                if self._look(done):
                    links += 1
                    if links > LINKS:
                        raise Refused(f"{shown(path)} leads through too many symbolic links")
                    target = os.readlink(done)
                    done = "" if target.startswith("/") else done.rpartition("/")[0]
                    rest[:0] = [piece for piece in target.split("/") if piece]
        return done or "/"

    def check_inside(self, folder: str) -> None:
        """Raise `Refused` if somebody else could change something that is directly in a folder."""
        for entry in sorted(os.listdir(folder)):
            self.check(f"{folder}/{entry}")

    def _look(self, path: str) -> bool:
        """Look at one thing on the way; True for a link."""
        if path in self._seen:
            return False
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            raise Refused(f"{shown(path)} is not there") from None
        if found.st_uid not in self._owners:
            raise Refused(f"{shown(path)} belongs to user {found.st_uid}; try: sudo chown root:root {shown(path)}")
        if stat.S_ISLNK(found.st_mode):
            return True
        # In a folder as /tmp is, nobody can replace what belongs to others.
        kept = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_mode & 0o022 and not kept:
            raise Refused(f"others than root may write {shown(path)}; try: sudo chmod go-w {shown(path)}")
        self._seen.add(path)
        return False


def find(guard: Guard, candidate: Candidate, folder: str) -> Script:
    """Return the script of a candidate. Raises `Refused` for one that cannot be trusted, or has two."""
    name = candidate.name
    if len(candidate.entries) > 1:
        raise Refused(f"there are both {FOLDER}/{name}.py and {FOLDER}/{name}/__main__.py: leave one")
    guard.check(folder)
    own = f"{folder}/{candidate.entries[0]}"
    if candidate.entries[0].endswith(".py"):
        guard.check(own)
        return Script(name, own)
    guard.check(own)
    guard.check_inside(own)
    return Script(name, f"{own}/__main__.py", own, _python(guard, own))


def _python(guard: Guard, folder: str) -> str:
    """Return what runs the script of a folder: the interpreter of its own environment, if it has one."""
    own = f"{folder}/.venv/bin/python"
    if not os.path.lexists(f"{folder}/.venv"):
        return "/usr/bin/python3"
    if not os.path.lexists(own):
        raise Refused(f"{shown(folder)}/.venv has no bin/python; make it again: python3 -m venv {shown(folder)}/.venv")
    guard.check(own)
    return own


def read(path: str) -> bytes:
    """Return what is in a script. Raises `Refused` for one that is none, or too large."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Refused(f"{shown(path)} is not a file")
    with open(path, "rb") as file:
        data = file.read(LONGEST_SCRIPT + 1)
    if len(data) > LONGEST_SCRIPT:
        raise Refused(f"{shown(path)} has more than 1 MiB")
    return data


def shown(path: str) -> str:
    """Return a path as it may stand in one line of text."""
    return path if path.isascii() and path.isprintable() else ascii(path)
