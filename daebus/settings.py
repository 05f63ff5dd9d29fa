"""Where Redis is: arguments > `DAEBUS_REDIS_URL` > the packaged instance's socket > localhost:6379."""

from __future__ import annotations

import os

from .errors import ConfigurationError

PACKAGED_SOCKET = "/run/redis-daebus/redis-server.sock"
"""The socket of the Redis instance that Debian's package of Daebus sets up."""

PACKAGE = "/usr/libexec/daebus/redis-users"
"""A file of that package: where it is installed the instance is meant, also while it is not running."""

PACKAGED_LOGIN = "/run/daebus/redis/service.env"
"""How one logs in there, in the form of an environment file."""

DEFAULT_HOST, DEFAULT_PORT = "localhost", 6379


class RedisSettings:
    """How to reach Redis. `path` is set for a unix socket, else `host` and `port`; `tls` is a dict of options."""

    __slots__ = ("db", "host", "key", "password", "path", "port", "tls", "username")

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        path: str | None = None,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        tls: dict[str, str] | None = None,
    ) -> None:
        self.host, self.port, self.path = host, port, path
        self.username, self.password, self.db, self.tls = username, password, db, tls
        options = tuple(sorted(tls.items())) if tls is not None else None
        self.key = (path, host, port, username, password, db, options)
        """What tells two settings apart: one connection pair is kept for each."""

    @property
    def url(self) -> str:
        """The settings as a URL, password included (for redis-py)."""
        from urllib.parse import quote, urlencode

        who = ""
        if self.password is not None:
            who = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        if self.path is not None:
            return f"unix://{who}{quote(self.path)}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        # redis-py's older versions would not check the host's name by default
        options = f"?{urlencode({'ssl_check_hostname': 'true', **self.tls})}" if self.tls is not None else ""
        return f"redis{'s' if self.tls is not None else ''}://{who}{host}:{self.port}/{self.db}{options}"

    def __str__(self) -> str:
        """The address as it may be logged: never the password."""
        return self.path if self.path is not None else f"{self.host}:{self.port}"


def redis_settings(host: str | None = None, port: int | None = None, url: str | None = None) -> RedisSettings:
    """Return the settings in force. Raises `ConfigurationError` for a URL or port that makes no sense."""
    if url is not None:
        if host is not None or port is not None:
            raise ConfigurationError("give redis_url, or redis_host and redis_port, not both")
        return parse_url(url, "redis_url")
    if host is not None and (not isinstance(host, str) or not host or "/" in host or host.count(":") == 1):
        raise ConfigurationError(f"{host!r} is not a host: give the port as redis_port, or all of it as redis_url")
    if host is not None or port is not None:
        return RedisSettings(host or DEFAULT_HOST, _port(DEFAULT_PORT if port is None else port))
    from_environment = os.environ.get("DAEBUS_REDIS_URL")
    if from_environment:
        return parse_url(from_environment, "DAEBUS_REDIS_URL")
    if os.path.exists(PACKAGED_SOCKET) or os.path.exists(PACKAGE):
        return _packaged()
    return RedisSettings()


def _packaged() -> RedisSettings:
    """Return how to reach the packaged instance: who may read how one logs in there (root) does so."""
    try:
        with open(PACKAGED_LOGIN) as file:
            url = file.readline().partition("DAEBUS_REDIS_URL=")[2]
    except OSError:
        return RedisSettings(path=PACKAGED_SOCKET)
    return parse_url(url, PACKAGED_LOGIN)


def _port(port: object) -> int:
    if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536:
        return port
    raise ConfigurationError(f"{port!r} is not a port: give a number from 1 to 65535")


_FORMS = "redis://[user:password@]host[:port][/db], rediss://... (TLS) or unix://[user:password@]/path[?db=N]"
_QUOTING = "signs other than letters, digits and -._~ in a user name or password are written as %XX"
_TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


def parse_url(url: object, source: str) -> RedisSettings:
    """Return the settings that a URL stands for; the error names where the URL came from, without its password."""
    from urllib.parse import parse_qsl, unquote, urlsplit

    if not isinstance(url, str):
        raise ConfigurationError(f"{source} must be text of the form {_FORMS}")
    url = url.strip()
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError(f"{source} must begin with redis://, rediss:// or unix://; write {_FORMS}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may hold a part of the password
        raise ConfigurationError(
            f"{source} is not a Redis URL: its host or port makes no sense; write {_FORMS}; {_QUOTING}"
        ) from None
    options = dict(parse_qsl(parts.query))
    db = _db(options.pop("db", "") or (parts.path.strip("/") if parts.scheme != "unix" else ""), source)
    unknown = set(options) - set(_TLS_OPTIONS if parts.scheme == "rediss" else ())
    if unknown:
        names = ", ".join(sorted(name for name in unknown if name.replace("_", "").isalpha()))
        raise ConfigurationError(f"{source} has unknown options ({names}); write {_FORMS}; {_QUOTING}")
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password is not None else None
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigurationError(f"{source} names no socket; write unix:///path/to/redis.sock")
        return RedisSettings(path=unquote(parts.path), username=username, password=password, db=db)
    return RedisSettings(
        parts.hostname or DEFAULT_HOST,
        _port(DEFAULT_PORT if port is None else port),
        username=username,
        password=password,
        db=db,
        tls=options if parts.scheme == "rediss" else None,
    )


def _db(text: str, source: str) -> int:
    if not text:
        return 0
    if text.isascii() and text.isdigit() and len(text) < 7:
        return int(text)
    raise ConfigurationError(f"{source} has no database number where one belongs; write {_FORMS}; {_QUOTING}")
