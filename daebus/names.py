"""Rules for names: of services, actions, channels and reply channels; and names for what happens (traces)."""

from __future__ import annotations

import os
import re
from functools import lru_cache

from .errors import ConfigurationError, DeclarationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SERVICE_RULE = (
    "a service name has 1 to 64 characters, letters, digits, '.', '_' or '-', begins with a letter or a digit, "
    "and does not end in '.responses' or '.workflows'"
)
RESERVED = "$daebus."  # actions that every service answers by itself
PING, INFO, STATS = f"{RESERVED}ping", f"{RESERVED}info", f"{RESERVED}stats"  # of them, what a service says of itself
PROBE = f"{RESERVED}probe"  # and the one by which a watchdog sees that requests are answered
MARKER = ".$daebus"  # ends the channel to which every service subscribes so that it is found; nobody publishes there

_service = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_reply = re.compile(r"caller:[A-Za-z0-9_.:@-]{1,200}", re.ASCII)


def is_service(name: object) -> bool:
    """Say whether this can be the name of a service."""
    return isinstance(name, str) and bool(_service.fullmatch(name)) and not name.endswith((".responses", ".workflows"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about a name that nobody knows: the known one that is most like it, or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name[:200], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_service(name: object) -> str:
    """Return the service name; `ConfigurationError` states the rule if it breaks it."""
    if isinstance(name, str) and is_service(name):
        return name
    raise ConfigurationError(f"{name!r} cannot be a service name: {SERVICE_RULE}")


def check_action(name: object) -> str:
    """Return the action name; `DeclarationError` says what is wrong with it."""
    if callable(name):
        raise DeclarationError('the decorator needs a name: write @app.action("name")')
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise DeclarationError(f"{name!r} cannot be an action name: it must be text of 1 to 200 characters")
    if name.startswith(RESERVED):
        raise DeclarationError(f"{name!r} cannot be an action name: {RESERVED!r} is reserved for Daebus itself")
    return name


def check_channel(name: object) -> str:
    """Return the channel name (or glob); `DeclarationError` says what is wrong with it."""
    if callable(name):
        raise DeclarationError('the decorator needs a channel: write @app.listen("channel")')
    if isinstance(name, str) and 0 < len(name) <= 500 and name.isprintable():
        return name
    raise DeclarationError(f"{name!r} cannot be a channel: it must be printable text of 1 to 500 characters")


def is_glob(channel: str) -> bool:
    """Say whether Redis takes this name for a pattern (`*`, `?`, `[`)."""
    return any(sign in channel for sign in "*?[")


def is_reply_channel(name: str, service: str) -> bool:
    """Say whether an answer may be published there: a caller's own channel, or the service's default one.

    Everything else may be somebody's service channel or topic; a request must not be able to make us publish there.
    """
    return len(name) <= 210 and _is_reply_channel(name, service)


@lru_cache(maxsize=256)  # callers are few; and none can fill it with long names
def _is_reply_channel(name: str, service: str) -> bool:
    return _reply.fullmatch(name) is not None or name == default_reply_channel(service)


_workflow = re.compile(r"workflow:[A-Za-z0-9_.:@-]{1,200}", re.ASCII)


def is_workflow_channel(name: object) -> bool:
    """Say whether what a workflow has to say may be published there."""
    return isinstance(name, str) and len(name) <= 210 and _workflow.fullmatch(name) is not None


def default_reply_channel(service: str) -> str:
    """Return where answers go when a message names no reply channel."""
    return f"{service}.responses"


def marker_channel(service: str) -> str:
    """Return the channel whose subscribers are the processes of a service."""
    return f"{service}{MARKER}"


def new_trace() -> str:
    """Return a trace id that nothing else has: 32 hexadecimal digits, as W3C Trace Context has them."""
    return os.urandom(16).hex()


def shown(text: object, limit: int = 80) -> str:
    """Return text from outside as it may stand in a log line or an answer: one line, quoted, cut."""
    try:
        quoted = ascii(text)
    except RecursionError:
        quoted = f"a {type(text).__name__}"
    return quoted if len(quoted) <= limit else f"{quoted[:limit]}..."
