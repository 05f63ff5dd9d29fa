"""What `daebus doctor` looks at: each check reads something, and has it judged by `findings`. They know no terminal.

A check may fail or hang without harm: each runs on a thread of its own, and is given up in time.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from threading import Thread
from time import localtime, monotonic, time

from ..errors import RedisUnavailable
from ..link import ReplyError, open_link
from ..resp import command
from . import findings
from .findings import NOT_HERE, PROBLEM, WARNING, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..link import Link
    from ..settings import RedisSettings

    Check = Callable[[RedisSettings], list[Finding]]

LIMIT = 1.8
"""Seconds after which a check that is not done is given up."""

REDIS_LIMIT = 1.0
"""Seconds that all questions to Redis may take."""

PROGRAM_LIMIT = 1.5
"""Seconds that a program which is asked may take."""

SCRIPTS = "/opt/daebus"
GENERATED = "/run/systemd/system"
MARK = "# Made by daebus-generator"
REDIS_UNITS = ("redis-server@daebus.service", "valkey-server@daebus.service")
PACKAGES = ("hiredis", "redis", "h11", "wsproto", "sdnotify", "click")
PROPERTIES = (
    "Id,Description,LoadState,ActiveState,SubState,Result,NRestarts,NeedDaemonReload,ExecMainStartTimestampMonotonic"
)
TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that is not synchronised."""


def all_findings(settings: RedisSettings) -> list[Finding]:
    """Run all checks at once, and return what they find, in their order."""
    runs = [_Run(name, check, settings) for name, check in CHECKS.items()]
    until = monotonic() + LIMIT
    return [found for run in runs for found in run.result(until)]


class _Run:
    """One check, on a thread that does not hold up the end of the process."""

    def __init__(self, name: str, check: Check, settings: RedisSettings) -> None:
        self._name = name
        self._found: list[Finding] | None = None
        self._thread = Thread(target=self._run, args=(check, settings), name=f"check of {name}", daemon=True)
        self._thread.start()

    def _run(self, check: Check, settings: RedisSettings) -> None:
        try:
            self._found = check(settings)
        except Exception as error:  # noqa: BLE001 - one check that fails must not hide what the others find
            text = f"this check failed: {type(error).__name__}: {error}"
            self._found = [Finding(self._name, WARNING, text, "see whether the others tell why")]

    def result(self, until: float) -> list[Finding]:
        """Return what it has found by then (monotonic seconds)."""
        self._thread.join(max(0.0, until - monotonic()))
        if self._found is None:
            return [Finding(self._name, WARNING, f"this check was not done within {LIMIT:g} s", "try again")]
        return self._found


# --- Redis ---


def _redis(settings: RedisSettings) -> list[Finding]:
    deadline = monotonic() + REDIS_LIMIT
    try:
        link = open_link(settings, "daebus:doctor", deadline)
    except RedisUnavailable as error:
        return [Finding("redis", PROBLEM, str(error), _redis_fix(settings))]
    try:
        return _judge_redis(link, settings, deadline)
    finally:
        link.close()


def _redis_fix(settings: RedisSettings) -> str:
    if settings.path == "/run/redis-daebus/redis-server.sock":
        return "as root: sudo daebus doctor; else: systemctl status redis-server@daebus"
    return "start it: sudo systemctl start redis-server; or say where it is: DAEBUS_REDIS_URL or --redis"


def _judge_redis(link: Link, settings: RedisSettings, deadline: float) -> list[Finding]:
    names = ("save", "appendonly", "dir", "port", "bind", "protected-mode", "client-output-buffer-limit")
    questions = [command("INFO"), command("ACL", "WHOAMI"), *(command("CONFIG", "GET", name) for name in names)]
    info_reply, user, *values = link.ask(deadline, *questions)
    known = {name: value for name, reply in zip(names, values, strict=True) if (value := _setting(reply)) is not None}
    who = "default" if isinstance(user, ReplyError) else user.decode(errors="replace")
    socket_mode = os.stat(settings.path).st_mode if settings.path is not None else None
    found = [findings.redis_access(who, settings.password is not None, known, socket_mode)]
    if not isinstance(info_reply, ReplyError):
        info = _info(info_reply.decode(errors="replace"))
        server = findings.redis_version(info)
        server.text += f" at {settings}"
        found = [server, findings.redis_memory(info), *found]
    if "save" in known:
        return [*found, findings.redis_disk(known), findings.redis_buffers(known["client-output-buffer-limit"])]
    text = f"the Redis user {who!r} may not see the configuration"
    return [*found, Finding("redis configuration", NOT_HERE, text)]


def _setting(reply: Any) -> str | None:
    """Return the value in a reply to CONFIG GET; None if it was refused."""
    return reply[1].decode(errors="replace") if isinstance(reply, list) and len(reply) == 2 else None


def _info(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _page_size(settings: RedisSettings) -> list[Finding]:
    number = os.sysconf("SC_PAGE_SIZE")
    answers = True
    if number != 4096:
        try:
            open_link(settings, "daebus:doctor", monotonic() + REDIS_LIMIT).close()
        except RedisUnavailable:
            answers = False
    return [findings.pages(number, answers)]


# --- the machine ---


def _clock(_settings: RedisSettings) -> list[Finding]:
    return [findings.clock(localtime().tm_year, _synchronised())]


def _synchronised() -> bool | None:
    """Whether the kernel counts its clock as synchronised; None if it cannot be asked."""
    import ctypes

    timex = ctypes.create_string_buffer(512)  # all zero: nothing is to be changed
    try:
        state = ctypes.CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != TIME_ERROR)


def _disks(_settings: RedisSettings) -> list[Finding]:
    found: list[Finding] = []
    seen = set()
    for path in ("/", "/var/log", SCRIPTS):
        try:
            device = os.stat(path).st_dev
        except OSError:
            continue
        if device not in seen:
            seen.add(device)
            have = os.statvfs(path)
            read_only = bool(have.f_flag & os.ST_RDONLY)
            free, total = have.f_bavail * have.f_frsize, have.f_blocks * have.f_frsize
            found += findings.disk(path, free, total, have.f_favail, have.f_files, read_only)
    return found


def _memory(_settings: RedisSettings) -> list[Finding]:
    numbers = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, _, rest = line.partition(":")
            numbers[name] = int(rest.split()[0]) * 1024
    with open("/proc/swaps") as file:
        swaps = [line.split()[0] for line in file.readlines()[1:]]
    return findings.memory(numbers, swaps)


def _journal(_settings: RedisSettings) -> list[Finding]:
    for folder, persistent in (("/var/log/journal", True), ("/run/log/journal", False)):
        sizes = [os.stat(path).st_size for path in _files(folder)]
        if sizes:
            return [findings.journal(persistent, sum(sizes))]
    return [findings.journal(False, None)]


def _files(folder: str) -> Iterator[str]:
    for path, _folders, names in os.walk(folder):
        yield from (f"{path}/{name}" for name in names if name.endswith((".journal", ".journal~")))


def _power(_settings: RedisSettings) -> list[Finding]:
    text = _read("/sys/devices/platform/soc/soc:firmware/get_throttled")
    if text is None:
        said = _ask("vcgencmd", "get_throttled")
        text = said.partition("=0x")[2] if said is not None and "=0x" in said else None
    if text is None:
        return [Finding("power", NOT_HERE, "this is no Raspberry Pi")]
    return [findings.throttled(int(text, 16))]


# --- what is installed ---


def _versions(_settings: RedisSettings) -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return findings.versions(sys.version_info[:3], found)


def _scripts(_settings: RedisSettings) -> list[Finding]:
    if not os.path.isdir(SCRIPTS):
        return [Finding("scripts", NOT_HERE, f"there is no {SCRIPTS}")]
    writable, foreign = [], []
    for path in _paths():
        try:
            status = os.stat(path)
        except OSError:
            continue
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            writable.append(path)
        if status.st_uid != 0:
            foreign.append(path)
    return findings.scripts(writable, foreign)


def _paths() -> Iterator[str]:
    """The folder of the scripts, what is in it, and what is in the folders in it."""
    yield SCRIPTS
    for entry in sorted(os.listdir(SCRIPTS)):
        path = f"{SCRIPTS}/{entry}"
        yield path
        if os.path.isdir(path):
            yield from (f"{path}/{inner}" for inner in sorted(os.listdir(path)))


def _units(_settings: RedisSettings) -> list[Finding]:
    names = [*_generated(".service"), *REDIS_UNITS]
    said = _ask("systemctl", "show", f"--property={PROPERTIES}", *names, "daebus@*.service")
    if said is None:
        return [Finding("units", NOT_HERE, "systemd does not run here")]
    units = [_unit(fields) for fields in _sections(said) if fields.get("LoadState") not in (None, "not-found")]
    if not units:
        return [Finding("units", NOT_HERE, f"no services of {SCRIPTS}, and no Redis of their own")]
    return [found for one in units for found in findings.unit(one)]


def _sections(text: str) -> Iterator[dict[str, str]]:
    for section in text.strip().split("\n\n"):
        yield dict(line.split("=", 1) for line in section.splitlines() if "=" in line)


def _unit(fields: dict[str, str]) -> findings.Unit:
    name = fields.get("Id", "?")
    microseconds = int(fields.get("ExecMainStartTimestampMonotonic") or 0)
    started = time() - (monotonic() - microseconds / 1e6) if microseconds else 0.0
    return findings.Unit(name, fields, started, _changed(name.removesuffix(".service").removeprefix("daebus@")))


def _changed(name: str) -> float:
    """When a service's script, or a module beside it, was changed last; 0 without one."""
    single, folder = f"{SCRIPTS}/{name}.py", f"{SCRIPTS}/{name}"
    paths = [single] if os.path.exists(single) else []
    if os.path.exists(f"{folder}/__main__.py"):
        paths += [f"{folder}/{entry}" for entry in os.listdir(folder) if entry.endswith(".py")]
    return max((os.stat(path).st_mtime for path in paths), default=0.0)


def _generated(suffix: str) -> list[str]:
    """The units of this kind that were made for scripts."""
    try:
        names = sorted(os.listdir(GENERATED))
    except OSError:
        return []
    return [name for name in names if name.endswith(suffix) and (_read(f"{GENERATED}/{name}") or "").startswith(MARK)]


def _ports(_settings: RedisSettings) -> list[Finding]:
    found = []
    for name in _generated(".socket"):
        said = _ask("systemctl", "show", "--value", "--property=ActiveState", name)
        state = (said or "").strip()
        for line in (_read(f"{GENERATED}/{name}") or "").splitlines():
            number = line.removeprefix("ListenStream=").rpartition(":")[2]
            if line.startswith("ListenStream=") and number.isdigit():
                owner = _owner(int(number)) if state != "active" else None
                found.append(findings.port(int(number), name, state, owner))
    return found or [Finding("ports", NOT_HERE, "no script has one")]


def _owner(number: int) -> str | None:
    """Return who listens at a TCP port: a program and its process, if this user may see that."""
    inodes = _listening(number)
    if not inodes:
        return None
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = {os.readlink(f"/proc/{pid}/fd/{descriptor}") for descriptor in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            continue
        if links & inodes:
            return f"{(_read(f'/proc/{pid}/comm') or '?').strip()} (process {pid})"
    return "another program"


def _listening(number: int) -> set[str]:
    inodes = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (_read(path) or "").splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == number:
                inodes.add(f"socket:[{words[9]}]")
    return inodes


# --- reading ---


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _ask(*words: str) -> str | None:
    """Return what a program prints; None if it is not here, fails or hangs."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=PROGRAM_LIMIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


CHECKS: dict[str, Check] = {
    "redis": _redis,
    "page size": _page_size,
    "units": _units,
    "scripts": _scripts,
    "ports": _ports,
    "clock": _clock,
    "memory": _memory,
    "disk": _disks,
    "journal": _journal,
    "power": _power,
    "python": _versions,
}
