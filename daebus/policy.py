"""Who may use a service by HTTP and WebSocket: the names it answers to, and the web pages that may drive it. Pure.

Any page in a browser can send requests to this machine. Two headers tell them apart, and a page cannot choose them:

* `Host` is the name that the browser took for us. A page can make its own name lead here (DNS rebinding) and is then
  of one origin with us, as far as the browser knows. So only names that are known are answered (`Hosts`).
* `Origin` is the page's own scheme, name and port. If they are not those that the request was sent to, the page is a
  foreign one, and may change nothing (`foreign`) and open no WebSocket (`foreign_socket`) unless the CORS settings
  allow it (`Cors`).

Whatever cannot be read is refused. Names are compared whole, in lower case and without a last dot; addresses by value.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .errors import ConfigurationError
from .names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    HostPort: TypeAlias = "tuple[str, int | None]"
    Headers: TypeAlias = "list[tuple[str, str]]"

ANY = "*"
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_PORTS = {"http": 80, "https": 443}
_LONGEST = 300  # a name has at most 253 characters; what is longer is not worth a place in a cache

_host = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,254})(?::([0-9]{0,5}))?")
_origin = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://(.+)")
_number = re.compile(r"[0-9]{1,3}")
_token = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


def _split_host(text: object) -> HostPort | None:
    """Return the name and port of a Host header; None if it is none."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    return _parsed_host(text)


@lru_cache(maxsize=128)
def _parsed_host(text: str) -> HostPort | None:
    match = _host.fullmatch(text)
    if match is None:
        return None
    name = _name(match[1])
    port = int(match[2]) if match[2] else None
    if name is None or (port is not None and not 0 < port < 65536):
        return None
    return name, port


def _name(text: str) -> str | None:
    """Return a host's name or address in the one form in which they are compared; None if it is neither."""
    if text.startswith("["):
        return _ipv6(text[1:-1])
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if "" in labels:
        return None
    return _ipv4(labels) if labels[-1].isdigit() else name


def _ipv4(labels: list[str]) -> str | None:
    """Return an address of four numbers; browsers write all others (`127.1`, `2130706433`) in this form before."""
    plain = len(labels) == 4 and all(_number.fullmatch(label) and str(int(label)) == label for label in labels)
    return ".".join(labels) if plain and all(int(label) < 256 for label in labels) else None


def _ipv6(text: str) -> str | None:
    if text == "::1":
        return text
    from ipaddress import IPv6Address  # half a megabyte that few services need

    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


def _address(text: str) -> str | None:
    """Return a connection's own address, as the socket says it (`::1`, `fe80::1%eth0`), in the form of `_name`."""
    return _ipv6(text.partition("%")[0]) if ":" in text else _name(text)


def _is_loopback(name: str) -> bool:
    # `_name` lets no name end in a number that is not an address, so `127.0.0.1.example.org` is the only look-alike
    return name in ("localhost", "::1") or (name.startswith("127.") and name.rpartition(".")[2].isdigit())


class Hosts:
    """The names under which the service may be asked: DNS rebinding ends here.

    `allowed` comes from the settings: `name`, `name:port`, `*.example.org` (any name below, not itself), addresses,
    or `*` for all. `own` are the machine's names. Loopback names are always known.
    """

    __slots__ = ("_all", "_below", "_known", "_names")

    def __init__(self, allowed: Iterable[str], own: Iterable[str]) -> None:
        if isinstance(allowed, str):
            raise ConfigurationError(
                f"allowed_hosts must be a list of names, not {shown(allowed)}: write [{allowed!r}]"
            )
        self._all = False
        self._names: set[HostPort] = set()
        self._below: set[HostPort] = set()
        self._known: set[tuple[str, str | None]] = set()
        for entry in allowed:
            self._allow(entry)
        for name in own:
            host = _entry(name)
            if host is not None:  # a machine may have a name that no URL can have
                self._names.add(host)

    def _allow(self, entry: object) -> None:
        if entry == ANY:
            self._all = True
            return
        below = isinstance(entry, str) and entry.startswith("*.")
        host = _entry(str(entry)[2:] if below else entry)
        if host is None:
            raise ConfigurationError(
                f"allowed_hosts has {shown(entry)}: an entry is 'name', 'name:port', '*.example.org', an IP address or "
                "'*', without 'http://' and without a path"
            )
        (self._below if below else self._names).add(host)

    def known(self, host: str, local: str | None) -> bool:
        """Say whether a Host header names this service; `local` is the address that the connection came in on."""
        if (host, local) in self._known:
            return True
        parsed = _split_host(host)
        if parsed is None or not self._knows(*parsed, local):
            return False
        if len(self._known) >= 64:  # '*' knows many names
            self._known.clear()
        self._known.add((host, local))
        return True

    def _knows(self, name: str, port: int | None, local: str | None) -> bool:
        if self._all or _is_loopback(name) or self._has(self._names, name, port):
            return True
        if local is not None and name == _address(local):
            return True
        return bool(self._below) and any(self._has(self._below, above, port) for above in _above(name))

    @staticmethod
    def _has(names: set[HostPort], name: str, port: int | None) -> bool:
        return (name, None) in names or (name, port) in names


def _above(name: str) -> list[str]:
    """Return the domains that a name is in: `a.b.c` is in `b.c` and `c`."""
    labels = name.split(".")
    return [".".join(labels[place:]) for place in range(1, len(labels))]


def _entry(entry: object) -> HostPort | None:
    """Return the name and port of a setting, where an IPv6 address may stand without brackets."""
    if isinstance(entry, str) and entry.count(":") > 1 and not entry.startswith("["):
        entry = f"[{entry}]"
    return _split_host(entry)


def _split_origin(text: object) -> tuple[str, str, int | None] | None:
    """Return scheme, name and port of an Origin header; None if it is none, and for `null`."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    match = _origin.fullmatch(text)
    if match is None or match[2].endswith(":"):
        return None
    host = _parsed_host(match[2])
    if host is None:
        return None
    scheme = match[1].lower()
    return scheme, host[0], host[1] or _PORTS.get(scheme)


def _canonical(text: object) -> str | None:
    """Return an origin as browsers write it; None if it is none."""
    origin = _split_origin(text)
    if origin is None:
        return None
    scheme, name, port = origin
    shown_port = "" if port is None or port == _PORTS.get(scheme) else f":{port}"
    return f"{scheme}://[{name}]{shown_port}" if ":" in name else f"{scheme}://{name}{shown_port}"


def check_origins(value: object, setting: str) -> frozenset[str]:
    """Return the origins that a setting lists, in the form in which they are compared; `'*'` gives `{'*'}`."""
    return frozenset(_listed(value, setting, _check_origin))


def _allows(origins: frozenset[str], origin: str) -> bool:
    if ANY in origins:
        return origin == "null" or _split_origin(origin) is not None
    return _canonical(origin) in origins


def _check_origin(text: object, setting: str) -> str:
    if text == "null":
        raise ConfigurationError(
            f"{setting} has 'null': any web page can be that one; write '*' if you mean all of them"
        )
    origin = _canonical(text)
    if origin is None:
        raise ConfigurationError(
            f"{setting} has {shown(text)}: an origin is a scheme, a name and maybe a port, such as "
            "'https://example.com' or 'http://localhost:3000', without a path, wildcards or a slash at the end"
        )
    return origin


def _check_token(text: object, setting: str) -> str:
    if isinstance(text, str) and _token.fullmatch(text):
        return text
    raise ConfigurationError(f"{setting} has {shown(text)}: that is not the name of a method or header")


def _listed(value: object, setting: str, check: Callable[[object, str], str]) -> tuple[str, ...]:
    """Return what a setting lists, each entry checked; `('*',)` for '*', and for a list that has it."""
    if value == ANY:
        return (ANY,)
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigurationError(f"{setting} must be a list of texts or '*', not {shown(value)}")
    return (ANY,) if ANY in value else tuple(check(entry, setting) for entry in value)


# What browsers let a page send without asking.
_SIMPLE_METHODS = ("GET", "HEAD", "POST")
_DEFAULTS: dict[str, Any] = {
    "allowed_origins": (),
    "allowed_methods": _SIMPLE_METHODS,
    "allowed_headers": (),
    "expose_headers": (),
    "allow_credentials": False,
    "max_age": None,
}
_PREFLIGHT_VARY = ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


def _settings(config: object) -> dict[str, Any]:
    """Return all settings, the defaults included; `ConfigurationError` names what is unknown."""
    if not isinstance(config, dict):
        raise ConfigurationError(f"cors_config must be a dict, not {shown(config)}")
    for key in config:
        if key not in _DEFAULTS:
            raise ConfigurationError(f"cors_config has no setting {shown(key)}: it has {', '.join(_DEFAULTS)}")
    return {**_DEFAULTS, **config}


def _check_credentials(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"allow_credentials must be True or False, not {shown(value)}")


def _check_max_age(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9):
        return value
    raise ConfigurationError(f"max_age must be a whole number of seconds, not {shown(value)}")


class Cors:
    """Which foreign pages may use the service (`cors_config`), and the headers that tell browsers so.

    Without settings none may. `warnings` has what the settings ask for and do not get, for the log.
    """

    __slots__ = ("_credentials", "_expose", "_headers", "_max_age", "_methods", "_on", "_origins", "warnings")

    def __init__(self, config: dict[str, Any] | None) -> None:
        settings = _settings({} if config is None else config)
        self._on = bool(config)
        self._origins = check_origins(settings["allowed_origins"], "allowed_origins")
        methods = _listed(settings["allowed_methods"], "allowed_methods", _check_token)
        self._methods = frozenset(method.upper() for method in methods)
        headers = _listed(settings["allowed_headers"], "allowed_headers", _check_token)
        self._headers = frozenset(header.lower() for header in headers)
        self._expose = ", ".join(_listed(settings["expose_headers"], "expose_headers", _check_token))
        self._credentials = _check_credentials(settings["allow_credentials"])
        self._max_age = _check_max_age(settings["max_age"])
        self.warnings = self._doubts()

    def _doubts(self) -> list[str]:
        doubts = []
        if self._on and not self._origins:
            doubts.append("cors_config allows no origin: without allowed_origins its other settings do nothing")
        if self._credentials and ANY in self._origins:
            doubts.append(
                "allow_credentials has no effect with allowed_origins '*', since any web page could act as the user: "
                "list the origins that may"
            )
        elif self._credentials and self._expose == ANY:
            doubts.append("expose_headers '*' has no effect with allow_credentials: list the headers")
        return doubts

    def allows(self, origin: str) -> bool:
        """Say whether pages of this origin may use the service. `'*'` allows `null` (a local file), too."""
        return _allows(self._origins, origin)

    def grants(self, origin: str, method: str) -> bool:
        """Say whether pages of this origin may send requests of this method."""
        return (ANY in self._methods or method in self._methods) and self.allows(origin)

    def headers(self, origin: str | None) -> Headers:
        """Return the headers of an ordinary answer to a request with this Origin header."""
        if not self._on:
            return []
        headers = self._origin_headers(origin)
        if headers and self._expose:
            headers.append(("Access-Control-Expose-Headers", self._expose))
        if ANY not in self._origins:
            headers.append(("Vary", "Origin"))  # in refusals, too: a cache must not give them to others
        return headers

    def _origin_headers(self, origin: str | None) -> Headers:
        if ANY in self._origins:
            return [("Access-Control-Allow-Origin", ANY)]
        if origin is None or not self.allows(origin):
            return []
        headers = [("Access-Control-Allow-Origin", str(_canonical(origin)))]
        if self._credentials:
            headers.append(("Access-Control-Allow-Credentials", "true"))
        return headers

    def preflight(self, origin: str, method: str, headers: str, allow: tuple[str, ...]) -> Headers:
        """Return the headers of the answer to a browser that asks whether a page may send a request.

        `method` and `headers` are what the request would have, `allow` the methods that its path has. What is not
        granted is not mentioned. A method that is not granted gets nothing at all: browsers take a permitted origin
        for leave to send GET, HEAD and POST.
        """
        if not self._on:
            return []
        if method not in allow or not self.grants(origin, method):
            return [_PREFLIGHT_VARY]
        answer = self._origin_headers(origin)
        methods = allow if ANY in self._methods else [name for name in allow if name in self._methods]
        answer.append(("Access-Control-Allow-Methods", ", ".join(methods)))
        granted = self._granted(headers)
        if granted:
            answer.append(("Access-Control-Allow-Headers", ", ".join(granted)))
        if self._max_age is not None:
            answer.append(("Access-Control-Max-Age", str(self._max_age)))
        answer.append(_PREFLIGHT_VARY)
        return answer

    def _granted(self, headers: str) -> list[str]:
        """Return those of the headers asked for that are allowed, by name: browsers do not take '*' for all of them."""
        asked = [name.strip().lower() for name in headers.split(",")]
        if ANY in self._headers:
            return [name for name in asked if _token.fullmatch(name)]
        return [name for name in asked if name in self._headers]


def _is_own(origin: str, host: str, secure: bool, ports: frozenset[int]) -> bool:
    """Say whether a page is one of the service itself: loaded from the host that it now asks."""
    page, here = _split_origin(origin), _split_host(host)
    if page is None or here is None:
        return False
    scheme, name, port = page
    wanted = "https" if secure else "http"
    return scheme == wanted and name == here[0] and (port == (here[1] or _PORTS[wanted]) or port in ports)


def foreign(
    method: str,
    origin: str | None,
    fetch_site: str | None,
    host: str,
    secure: bool,
    ports: frozenset[int],
    cors: Cors,
) -> bool:
    """Say whether a request must be refused because it changes something and a foreign page sent it.

    `origin`, `fetch_site` (Sec-Fetch-Site) and `host` are headers; `secure` is whether the connection has TLS;
    `ports` are all on which the service listens. A request without the first two comes from no browser.
    """
    if method in _SAFE_METHODS:
        return False
    if origin is None:
        return fetch_site is not None and fetch_site not in ("same-origin", "none")
    return not _is_own(origin, host, secure, ports) and not cors.grants(origin, method)


def foreign_socket(
    origin: str | None, host: str, secure: bool, ports: frozenset[int], cors: Cors, allowed: Iterable[str]
) -> bool:
    """Say whether a WebSocket must be refused because a foreign page opens it.

    `allowed` are more origins that may, as `check_origins` gives them.
    """
    if origin is None or _is_own(origin, host, secure, ports) or cors.allows(origin):
        return False
    return not _allows(frozenset(allowed), origin)
