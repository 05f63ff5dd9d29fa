"""What a script says about its service: the table [tool.daebus] in its inline metadata. Text in, checked values out.

Nothing that is not checked here gets into a unit. What is refused is refused with a sentence that names the key, the
value and what is allowed.
"""

from __future__ import annotations

import re

from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[Any], Any]


class Wishes:
    """What a script wants, checked. Without metadata: nothing beyond the defaults."""

    def __init__(self, **given: Any) -> None:
        def value(key: str, default: Any) -> Any:
            return given.get(key, default)

        self.service: str | None = value("service", None)
        self.description: str | None = value("description", None)
        self.http: list[str] = value("http", [])
        self.websocket: list[str] = value("websocket", [])
        self.start: str = value("start", "boot")
        self.user: str | None = value("user", None)
        self.groups: list[str] = value("groups", [])
        self.devices: list[str] = value("devices", [])
        self.memory: str | None = value("memory", None)
        self.environment: dict[str, str] = value("environment", {})
        self.after: list[str] = value("after", [])
        self.network: str = value("network", "device")
        self.watchdog: str | None = value("watchdog", None)
        self.calls: list[str] = value("calls", [])
        self.publish: list[str] = value("publish", [])
        self.listen: list[str] = value("listen", [])
        self.keys: list[str] = value("keys", [])


# --- from the text of a script to its table ---

BLOCK = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
"""The form of inline script metadata, as its specification gives it."""

BEGIN = r"(?m)^# /// script\s*$"


def wishes(text: str) -> Wishes:
    """Return what a script wants. Raises `Refused`."""
    return check(_table(text))


MOST_MARKS, LONGEST_BLOCK = 20, 8 * 1024
"""Lines that begin as a block does, and characters of a block: the boot must not wait for a file of nothing else."""


def _table(text: str) -> dict[str, Any]:
    if text.count("# /// ") > MOST_MARKS:
        raise Refused(f"it has more than {MOST_MARKS} lines '# /// ...'")
    blocks = [found for found in re.finditer(BLOCK, text) if found["type"] == "script"]
    if len(blocks) > 1:
        raise Refused("it has two blocks '# /// script'; one is allowed")
    if not blocks:
        if re.search(BEGIN, text):
            raise Refused(
                "its block '# /// script' is not complete: each line after that begins with '# ', the last is '# ///'"
            )
        return {}
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in blocks[0]["content"].splitlines(True))
    if len(content) > LONGEST_BLOCK:
        raise Refused(f"its block '# /// script' has more than {LONGEST_BLOCK:,} characters")
    return _daebus_table(content)


def _daebus_table(content: str) -> dict[str, Any]:
    import tomllib

    try:
        tool = tomllib.loads(content).get("tool", {})
    except ValueError as error:  # tomllib's own, or that of a number with too many digits
        raise Refused(f"its block '# /// script' is not TOML: {error}") from None
    except RecursionError:
        raise Refused("its block '# /// script' is nested too deeply") from None
    table = tool.get("daebus", {}) if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        raise Refused("its [tool.daebus] is not a table")
    return table


def check(table: dict[str, Any]) -> Wishes:
    """Return the wishes of a table. Raises `Refused`."""
    for key in table:
        if key not in CHECKS:
            raise Refused(f"[tool.daebus] has no key {shown(key)}{_nearest(key)}")
    made = Wishes(**{key: _checked(key, value) for key, value in table.items()})
    if made.start == "demand" and not (made.http or made.websocket):
        raise Refused("[tool.daebus] start = 'demand' needs `http` or `websocket`: the first connection starts it")
    for one in made.websocket:
        if any(overlap(one, other) for other in made.http):
            raise Refused(f"[tool.daebus] websocket = {shown(one)} is its `http`, too; leave `websocket` out")
    return made


def _checked(key: str, value: Any) -> Any:
    allowed, function = CHECKS[key]
    try:
        return function(value)
    except _Wrong as wrong:
        why = f" ({wrong})" if str(wrong) else ""
        raise Refused(f"[tool.daebus] {key} = {shown(value)}{why}: it must be {allowed}") from None


def _nearest(key: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, CHECKS, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(CHECKS)}"


def shown(value: Any) -> str:
    """Return a value as it may stand in one line of text."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # nested too deeply; a number with too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


# --- one value ---


class _Wrong(Exception):
    """A value that is not allowed; the text, if any, says which part of it."""


def _matching(pattern: str, limit: int = 200, but: tuple[str, ...] = ()) -> Check:
    """A text of that form. It is compiled when it is needed, because the boot waits for this."""

    def function(value: Any) -> str:
        if isinstance(value, str) and len(value) <= limit and re.fullmatch(pattern, value, re.A) and value not in but:
            return value
        raise _Wrong

    return function


def _one_of(*words: str) -> Check:
    def function(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise _Wrong

    return function


def _list_of(function: Check, limit: int = 64) -> Check:
    def listed(value: Any) -> list[str]:
        if not isinstance(value, list) or len(value) > limit:
            raise _Wrong
        made: dict[str, None] = {}
        for one in value:
            try:
                made[function(one)] = None
            except _Wrong as wrong:
                raise _Wrong(str(wrong) or f"{shown(one)} is not") from None
        return list(made)

    return listed


def _line(value: Any) -> str:
    """Text that fits into a unit as it is: a backslash at its end would join the next line to it."""
    if isinstance(value, str) and len(value) <= 200 and value.isprintable() and "\\" not in value and value.strip():
        return value.strip()
    raise _Wrong


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 64:
        raise _Wrong
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name, re.ASCII) or name.startswith(TAKEN_VARIABLES):
            raise _Wrong(f"{shown(name)} is not such a name")
        if not isinstance(text, str) or len(text) > 2000 or not (text.isprintable() or text == ""):
            raise _Wrong(f"{name} is not such a text")
    return value


TAKEN_VARIABLES = ("DAEBUS_REDIS_URL", "DAEBUS_SERVICE", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""Beginnings of variables that are systemd's, or the unit's own."""


def _seconds(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and 2 <= value <= 3600:
        return f"{value:g}"
    raise _Wrong


def _device(value: Any) -> str:
    """The node, and what may be done with it: what is not said is read and write."""
    found = _matching(r"(?:/dev/[A-Za-z0-9_./:+-]+|char-[a-z0-9_-]+)(?: (?:r|w|rw))?")(value)
    node, _, access = str(found).partition(" ")
    if "/../" in f"{node}/":
        raise _Wrong
    return f"{node} {access or 'rw'}"


# --- addresses ---

ADDRESS = "a port (8080), an address with a port ('0.0.0.0:8080', '[::]:8080'), a socket under /run, or a list of them"


def _addresses(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= 16:
        raise _Wrong
    made: list[str] = []
    for one in values:
        address = _address(one)
        if any(overlap(address, other) for other in made):
            raise _Wrong(f"{address} is there twice")
        made.append(address)
    return made


def _address(value: Any) -> str:
    """A port alone is one that this device alone can reach, as in the library."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536:
        return f"127.0.0.1:{value}"
    if not isinstance(value, str) or len(value) > 100:
        raise _Wrong
    if value.startswith("/"):
        return _socket_path(value)
    host, _, port = value.rpartition(":")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port, re.ASCII) or int(port) > 65535:
        raise _Wrong
    return f"{_host(host)}:{port}"


def _socket_path(value: str) -> str:
    if re.fullmatch(r"/run(?:/[A-Za-z0-9_][A-Za-z0-9_.@-]*)+", value, re.ASCII):
        return value
    raise _Wrong(f"{shown(value)} is not under /run")


def _host(host: str) -> str:
    import socket

    v6 = host.startswith("[") and host.endswith("]")
    family = socket.AF_INET6 if v6 else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host[1:-1] if v6 else host)
    except (OSError, ValueError):
        raise _Wrong(f"{shown(host)} is no address") from None
    plain = socket.inet_ntop(family, packed)
    return f"[{plain}]" if v6 else plain


def overlap(one: str, other: str) -> bool:
    """Say whether two addresses cannot be had side by side."""
    host, _, port = one.rpartition(":")
    other_host, _, other_port = other.rpartition(":")
    if one.startswith("/") or other.startswith("/"):
        return one == other
    return port == other_port and (host == other_host or "[::]" in (host, other_host) or _any4(host, other_host))


def _any4(host: str, other: str) -> bool:
    return "0.0.0.0" in (host, other) and not (host + other).count("[")  # noqa: S104 - read here, not listened at


# --- the bus ---

NAME_FORM = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
OWN_NAMES = ("daebus",)
"""Names that no service can have: keys that begin so are the library's."""
NAME_RULE = "letters, digits, '-' and '_', at most 64, beginning with a letter or digit"
GLOB_FORM = r"[A-Za-z0-9_][A-Za-z0-9_.:/@*?\[\]^=+-]*"
GLOB_RULE = "letters, digits and any of _.:/@=+-, with * ? [ ] as wildcards, but not as the first character"
PRIVATE = ("caller:", "workflow:")
"""Beginnings of the channels on which services are answered."""


def _channel(value: Any) -> str:
    found = str(_matching(GLOB_FORM)(value))
    literal = re.split(r"[*?\[]", found, maxsplit=1)[0]
    for private in PRIVATE:
        is_glob = len(literal) < len(found)
        if found.startswith(private) or (is_glob and private.startswith(literal)):
            raise _Wrong(f"{found} takes in channels on which services get their answers")
    return found


_user = _matching(r"[a-z_][a-z0-9_-]{0,30}", but=("root",))
_unit = _matching(r"[A-Za-z0-9_.:@-]{1,200}\.(?:service|socket|target|mount|device|path|timer)")
_NODES = "a list of device nodes: '/dev/NAME', '/dev/NAME r', or 'char-KIND' as in /proc/devices"
_VARIABLES = f"a table of names and texts of one line; names that begin with {', '.join(TAKEN_VARIABLES)} are taken"

CHECKS: dict[str, tuple[str, Check]] = {
    "service": (f"the name in app.run(service=...): {NAME_RULE}", _matching(NAME_FORM, but=OWN_NAMES)),
    "description": ("text of one line, at most 200 characters, without backslashes", _line),
    "http": (ADDRESS, _addresses),
    "websocket": (ADDRESS, _addresses),
    "start": ("'boot' or 'demand'", _one_of("boot", "demand")),
    "user": ("the name of a user, and not root", _user),
    "groups": ("a list of names of groups, and not root", _list_of(_user)),
    "devices": (_NODES, _list_of(_device)),
    "memory": ("a number and K, M or G, as in '64M'", _matching(r"[1-9][0-9]{0,5}[KMG]")),
    "environment": (_VARIABLES, _environment),
    "after": ("a list of units, such as 'network-online.target'", _list_of(_unit)),
    "network": ("'none', 'device' or 'any'", _one_of("none", "device", "any")),
    "watchdog": ("a number of seconds from 2 to 3600", _seconds),
    "calls": (f"a list of services that it calls: {NAME_RULE}", _list_of(_matching(NAME_FORM))),
    "publish": (f"a list of channels: {GLOB_RULE}", _list_of(_channel)),
    "listen": (f"a list of channels: {GLOB_RULE}", _list_of(_channel)),
    "keys": (f"a list of keys: {GLOB_RULE}, or '*'", _list_of(_matching(rf"\*|{GLOB_FORM}"))),
}  # fmt: skip
"""What is allowed for each key, in words, and the function that checks it."""
