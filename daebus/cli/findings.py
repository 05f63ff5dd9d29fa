"""What `daebus doctor` makes of what it reads: numbers and texts in, findings out. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

OK, WARNING, PROBLEM, NOT_HERE = "ok", "warning", "problem", "not here"

MIB = 1 << 20
LARGEST_MESSAGE = 8 * MIB
OLDEST_REDIS = (6, 2)
OLDEST_PYTHON = (3, 11)
EARLIEST_YEAR = 2024
LARGE_JOURNAL = 1024 * MIB


class Finding:
    """One thing that was looked at: its name, how it is, the words for it, and what to do in one line ("": nothing)."""

    __slots__ = ("fix", "level", "name", "text")

    def __init__(self, name: str, level: str, text: str, fix: str = "") -> None:
        self.name = name
        self.level = level
        self.text = text
        self.fix = fix

    def __repr__(self) -> str:
        return f"<{self.level}: {self.name}: {self.text}>"


# --- Redis ---


def redis_version(info: Mapping[str, str]) -> Finding:
    """Judge the server's version (INFO server)."""
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "?")
    if numbers_of(info.get("redis_version", "")) < OLDEST_REDIS:
        return Finding("redis", WARNING, f"{name} {version} is old", "install redis-server 6.2 or newer")
    return Finding("redis", OK, f"{name} {version}")


def numbers_of(version: str) -> tuple[int, ...]:
    """Return a version's numbers, as far as they go."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def redis_memory(info: Mapping[str, str]) -> Finding:
    """Judge what the server uses of what it may (INFO memory)."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    policy = info.get("maxmemory_policy", "noeviction")
    if not most:
        text = f"{size(used)} used, no limit: it can take all memory of this machine"
        return Finding("redis memory", WARNING, text, "set maxmemory in its configuration (96mb does for a device)")
    text = f"{size(used)} of {size(most)} used"
    if used > 0.9 * most:
        fix = "look at its keys (redis-cli --bigkeys), or raise maxmemory"
        return Finding("redis memory", PROBLEM, f"{text}: when it is full, it stores nothing more", fix)
    if policy != "noeviction":
        text = f"{text}; the policy {policy} removes keys without a word when it is full"
        return Finding("redis memory", WARNING, text, "set maxmemory-policy noeviction")
    return Finding("redis memory", OK, text)


def redis_disk(settings: Mapping[str, str]) -> Finding:
    """Judge what the server writes to disk (CONFIG GET)."""
    writes = []
    if settings.get("save", "").strip():
        writes.append(f'snapshots (save "{settings["save"]}")')
    if settings.get("appendonly") == "yes":
        writes.append("every change (appendonly)")
    if not writes:
        return Finding("redis disk", OK, "nothing is written to disk")
    text = f"writes {' and '.join(writes)} to {settings.get('dir', '?')}: SD cards wear"
    return Finding("redis disk", WARNING, text, 'set save "" and appendonly no, unless it must outlive a restart')


def redis_buffers(limit: str) -> Finding:
    """Judge client-output-buffer-limit: what may wait for one subscriber."""
    words = limit.split()
    at = words.index("pubsub") if "pubsub" in words else -1
    if at < 0 or len(words) < at + 4:
        return Finding("redis buffers", NOT_HERE, "the limits of subscribers are not known")
    hard, soft, seconds = (int(word) for word in words[at + 1 : at + 4])
    fix = "set client-output-buffer-limit pubsub 32mb 8mb 30"
    if not hard and not soft:
        return Finding("redis buffers", WARNING, "a subscriber that does not read can take all memory", fix)
    if (hard and hard < 2 * LARGEST_MESSAGE) or (soft and (soft < MIB or seconds < 5)):
        text = f"a subscriber is cut off at {size(hard)}, or {size(soft)} for {seconds} s: large messages get lost"
        return Finding("redis buffers", WARNING, text, fix)
    return Finding("redis buffers", OK, f"up to {size(hard)} may wait for a subscriber")


def redis_access(user: str, has_password: bool, settings: Mapping[str, str], socket_mode: int | None) -> Finding:
    """Judge who can reach the server: by its settings, as far as they can be seen, and the mode of its socket."""
    text = f"logged in as {user!r}"
    if user != "default" or has_password:
        return Finding("redis access", OK, text)
    if _is_open(settings):
        text = f"anybody in the network can use it without a password (bind {settings.get('bind') or '*'})"
        return Finding("redis access", PROBLEM, text, "bind 127.0.0.1 ::1, or better a unix socket and ACL users")
    if socket_mode is not None and socket_mode & 0o002:
        text = f"every program of this machine can use it without a password (socket mode {socket_mode & 0o777:o})"
        return Finding("redis access", WARNING, text, "set unixsocketperm 770 and add services to the socket's group")
    return Finding("redis access", OK, f"{text}, without a password, on this machine only")


def _is_open(settings: Mapping[str, str]) -> bool:
    """Whether other machines can reach it. A server in protected mode answers them only if it has a password."""
    if settings.get("port") in (None, "0") or settings.get("protected-mode") != "no":
        return False
    places = [word.lstrip("-") for word in settings.get("bind", "").split()]
    return not places or not all(place.startswith("127.") or place in ("::1", "localhost") for place in places)


# --- the machine ---


def clock(year: int, synchronised: bool | None) -> Finding:
    """Judge the clock; `synchronised` is what the kernel says."""
    fix = "sudo timedatectl set-ntp true"
    if year < EARLIEST_YEAR:
        return Finding("clock", PROBLEM, f"it says {year}: certificates and logs will be wrong", fix)
    if synchronised is None:
        return Finding("clock", NOT_HERE, "whether it is synchronised is not known")
    if not synchronised:
        return Finding("clock", WARNING, "it is not synchronised with a time server", fix)
    return Finding("clock", OK, "synchronised")


def disk(path: str, free: int, total: int, free_files: int, files: int, read_only: bool) -> list[Finding]:
    """Judge a file system: its bytes, its inodes (0: it counts none), and whether it can be written."""
    name = f"disk {path}"
    found = []
    if read_only:
        text = "it is read-only: by design, or after an error"
        found.append(Finding(name, WARNING, text, "if it should not be: look at journalctl -k, then run fsck"))
    share = free / total if total else 1.0
    if share < 0.1:
        fix = "sudo journalctl --vacuum-size=100M; sudo apt clean; find what is large: sudo du -xh / | sort -h | tail"
        level = PROBLEM if share < 0.03 else WARNING
        found.append(Finding(name, level, f"{size(free)} of {size(total)} free", fix))
    if files and free_files / files < 0.05:
        fix = f"find what has many files: sudo du --inodes -x {path} | sort -n | tail"
        found.append(Finding(name, PROBLEM, f"{free_files:,} of {files:,} inodes free", fix))
    return found or [Finding(name, OK, f"{size(free)} of {size(total)} free")]


def memory(meminfo: Mapping[str, int], swaps: Sequence[str]) -> list[Finding]:
    """Judge memory (/proc/meminfo, in bytes) and where swap is."""
    available, total = meminfo.get("MemAvailable", 0), meminfo.get("MemTotal", 0)
    text = f"{size(available)} of {size(total)} available"
    share = available / total if total else 1.0
    level = OK if share >= 0.1 else PROBLEM if share < 0.04 else WARNING
    found = [Finding("memory", level, text, "" if level == OK else "see what takes it: systemd-cgtop -m")]
    slow = [swap for swap in swaps if not swap.startswith("/dev/zram")]
    if slow:
        fix = "on an SD card: sudo apt install zram-tools, and swapoff for the other"
        found.append(Finding("swap", WARNING, f"on {', '.join(slow)}: a card wears, and everything waits for it", fix))
    elif swaps:
        found.append(Finding("swap", OK, "compressed, in memory (zram)"))
    return found


def pages(size_of_page: int, redis_answers: bool) -> Finding:
    """Judge the page size: memory allocators that were built for 4 KiB fail with larger ones (Raspberry Pi 5)."""
    text = f"{size_of_page:,} bytes"
    if size_of_page == 4096 or redis_answers:
        return Finding("page size", OK, text)
    fix = "if Redis' log speaks of jemalloc: use Debian's redis-server, or kernel=kernel8.img in config.txt"
    return Finding("page size", WARNING, f"{text}: some builds of Redis do not start with that", fix)


def throttled(bits: int) -> Finding:
    """Judge what a Raspberry Pi says of its supply and temperature (vcgencmd get_throttled)."""
    supply = "use the power supply that is made for it"
    cooling = "give it air or a heat sink"
    if bits & 0x1:
        return Finding("power", PROBLEM, "the voltage is too low now", supply)
    if bits & 0xE:
        return Finding("power", WARNING, "it is slowed down now: too hot, or too little power", cooling)
    if bits & 0x10000:
        return Finding("power", WARNING, "the voltage was too low since it was started", supply)
    if bits & 0xE0000:
        return Finding("power", WARNING, "it was slowed down since it was started", cooling)
    return Finding("power", OK, "voltage and temperature are well")


def journal(persistent: bool, bytes_used: int | None) -> Finding:
    """Judge where the journal is, and its size."""
    if bytes_used is None:
        return Finding("journal", NOT_HERE, "there is none")
    text = f"{size(bytes_used)}, {'kept' if persistent else 'in memory only: gone after a reboot'}"
    if not persistent:
        fix = "sudo mkdir -p /var/log/journal && sudo systemctl restart systemd-journald"
        return Finding("journal", WARNING, text, fix)
    if bytes_used > LARGE_JOURNAL:
        return Finding("journal", WARNING, text, "set SystemMaxUse=200M in /etc/systemd/journald.conf")
    return Finding("journal", OK, text)


# --- what is installed ---


def versions(python: tuple[int, ...], found: Mapping[str, str | None]) -> list[Finding]:
    """Judge Python and the packages that Daebus uses: name and version, None for one that is missing."""
    shown = ".".join(map(str, python[:3]))
    all_of = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
    result = [Finding("python", OK, f"{shown} with {all_of}")]
    if python < OLDEST_PYTHON:
        result = [Finding("python", PROBLEM, f"{shown} is too old", "install Python 3.11 or newer")]
    missing = [name for name, version in found.items() if version is None]
    if missing:
        text = f"without {', '.join(missing)}: what needs them fails"
        result.append(Finding("packages", PROBLEM, text, f"pip install {' '.join(missing)}"))
    return result


class Unit:
    """What systemd says of a unit, and when its script was changed (both times in seconds since 1970; 0: not known)."""

    __slots__ = ("changed", "fields", "name", "started")

    def __init__(self, name: str, fields: Mapping[str, str], started: float = 0.0, changed: float = 0.0) -> None:
        self.name = name
        self.fields = fields
        self.started = started
        self.changed = changed


def unit(one: Unit) -> list[Finding]:
    """Judge a unit: is it failed, does it run what lies there?"""
    name = one.name.removesuffix(".service")
    found = []
    refused = _refusal(one.fields.get("Description", ""))
    state = one.fields.get("ActiveState", "")
    if refused:
        fix = "put it right, then: sudo systemctl daemon-reload"
        return [Finding(name, PROBLEM, f"its script is refused: {refused}", fix)]
    if state == "failed":
        text = f"it has failed ({one.fields.get('Result', '?')})"
        found.append(Finding(name, PROBLEM, text, f"daebus logs {name}; then: sudo systemctl restart {name}"))
    again = _again(one.fields.get("NRestarts", ""))
    waits = one.fields.get("SubState", "").startswith("auto-restart")  # for its next start, after a failure
    if waits or (again and state in ("activating", "deactivating")):
        text = f"it fails, and systemd starts it anew: {again or 'for the first time now'}"
        found.append(Finding(name, PROBLEM, text, f"daebus logs {name}"))
    if one.fields.get("NeedDaemonReload") == "yes":
        text = "its unit has changed since systemd read it"
        found.append(Finding(name, WARNING, text, f"sudo systemctl daemon-reload && sudo systemctl restart {name}"))
    if state == "active" and one.started and one.changed > one.started:
        text = "its script is newer than what runs"
        found.append(Finding(name, WARNING, text, f"sudo systemctl restart {name}"))
    known = state or "not known to systemd"
    return found or [Finding(name, OK, f"{known}; it has failed, and was started anew, {again}" if again else known)]


def _again(restarts: str) -> str:
    """Return how often a unit was restarted in words; nothing if it never was."""
    if not restarts.isdigit() or int(restarts) == 0:
        return ""
    return "once until now" if int(restarts) == 1 else f"{restarts} times until now"


def _refusal(description: str) -> str:
    _, found, reason = description.partition("(refused: ")
    return reason.removesuffix(")") if found else ""


def scripts(open_to_others: Iterable[str], of_others: Iterable[str]) -> list[Finding]:
    """Judge who could change the scripts of a device: what others may write, what does not belong to root."""
    found = [
        Finding("scripts", PROBLEM, f"others than root may write {path}", f"sudo chmod go-w {path}")
        for path in open_to_others
    ]
    found += [
        Finding("scripts", PROBLEM, f"{path} does not belong to root", f"sudo chown root:root {path}")
        for path in of_others
    ]
    return found or [Finding("scripts", OK, "only root can change them")]


def port(number: int, socket_unit: str, state: str, owner: str | None) -> Finding:
    """Judge a port that a socket unit is to hold; `owner` is another program that listens there, None if none does."""
    name = f"port {number}"
    if owner is not None and state != "active":
        fix = f"end or reconfigure it, then: sudo systemctl start {socket_unit}"
        return Finding(name, PROBLEM, f"{socket_unit} cannot have it: {owner} listens there", fix)
    return Finding(name, OK, f"{socket_unit} is {state or 'not known to systemd'}")


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit_name in ("B", "KB", "MB", "GB"):
        if count < 1024 or unit_name == "GB":
            break
        count /= 1024
    return f"{count:.0f} {unit_name}" if count >= 10 or unit_name == "B" else f"{count:.1f} {unit_name}"


def described(found: Finding) -> dict[str, Any]:
    """Return a finding for a program."""
    return {"name": found.name, "level": found.level, "text": found.text, "fix": found.fix or None}
