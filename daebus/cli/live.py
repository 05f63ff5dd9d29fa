"""The services that are there, as objects: what `daebus shell` works with. No terminal, no reading of code."""

from __future__ import annotations

import builtins
from keyword import iskeyword

from ..census import ask, find
from ..client import DaebusCaller
from ..errors import ConfigurationError, DaebusError, ServiceUnavailable
from ..hub import publish
from ..names import INFO
from ..target import NO_FIELDS, check_channel_to_publish
from .output import one_line, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..settings import RedisSettings

INFO_SECONDS = 0.5
"""How long a service may take to say what it has: whoever presses TAB waits for it."""

NOTHING: Any = object()


def chosen(payload: Any, fields: dict[str, Any]) -> Any:
    """Return the payload of a call: one value, or fields by name."""
    if payload is NOTHING:
        return fields or NO_FIELDS
    if fields:
        raise ConfigurationError("give one value as the payload, or fields by name, not both")
    return payload


def usable(name: str, taken: dict[str, Any]) -> bool:
    """Say whether a service's name can be that of a variable, and hides nothing that is there."""
    return name.isidentifier() and not iskeyword(name) and name not in taken and not hasattr(builtins, name)


class Bus:
    """One Redis, and the callers that are in use."""

    def __init__(self, settings: RedisSettings, timeout: float) -> None:
        self.settings, self._timeout = settings, timeout
        self._callers: dict[str, DaebusCaller] = {}

    def call(self, service: str, action: str, payload: Any) -> Any:
        """Call an action; progress goes to standard error."""
        caller = self._callers.get(service)
        if caller is None:
            caller = DaebusCaller(service, timeout=self._timeout, redis_url=self.settings.url)
            self._callers[service] = caller
        return caller.send_request(action, payload, on_progress=lambda part: tell(one_line(part)))

    def info(self, service: str) -> dict[str, Any]:
        """Return what a service says of itself; of several processes, the first that answers."""
        answers = ask(self.settings, [service], INFO, INFO_SECONDS)[service]
        if answers:
            said: dict[str, Any] = answers[0]
            return said
        if answers.present:
            raise ServiceUnavailable(f"{service!r} is there, but does not say what it has")
        raise ServiceUnavailable(f"No service {service!r} is running (asked Redis at {self.settings})")

    def close(self) -> None:
        """Close the callers."""
        for caller in self._callers.values():
            caller.close()


class Action:
    """An action of a service: call it with the fields of its payload, or with one value."""

    def __init__(self, bus: Bus, service: str, name: str) -> None:
        self._bus, self._service, self._name = bus, service, name

    def __call__(self, payload: Any = NOTHING, /, **fields: Any) -> Any:
        """Call it and return the payload of the answer."""
        return self._bus.call(self._service, self._name, chosen(payload, fields))

    def __repr__(self) -> str:
        return f"<action {self._name!r} of {self._service!r}>"


class Service:
    """A service. Its actions are attributes; those that cannot be, or are hidden by others, are items."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus, self._name = bus, name

    @property
    def info(self) -> dict[str, Any]:
        """What it says of itself."""
        return self._bus.info(self._name)

    @property
    def actions(self) -> list[str]:
        """The names of its actions."""
        return [str(action["name"]) for action in self.info["actions"]]

    def __getitem__(self, action: str) -> Action:
        return Action(self._bus, self._name, action)

    def __getattr__(self, action: str) -> Action:
        if action.startswith("_"):  # Python asks for many such
            raise AttributeError(action)
        return Action(self._bus, self._name, action)

    def __dir__(self) -> list[str]:
        """The live actions, for completion; none if the service does not say."""
        try:
            names = self.actions
        except DaebusError:
            names = []
        return sorted({"actions", "info", *(name for name in names if name.isidentifier() and not iskeyword(name))})

    def __repr__(self) -> str:
        return f"<service {self._name!r}>"


class Services:
    """The services that are there: `list(services)`, `services.lamp`, `services["desk-lamp"]`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __iter__(self) -> Iterator[str]:
        return iter(find(self._bus.settings))

    def __getitem__(self, name: str) -> Service:
        return Service(self._bus, name)

    def __getattr__(self, name: str) -> Service:
        if name.startswith("_"):
            raise AttributeError(name)
        return Service(self._bus, name)

    def __dir__(self) -> list[str]:
        try:
            return [name for name in self if name.isidentifier() and not iskeyword(name)]
        except DaebusError:
            return []

    def __repr__(self) -> str:
        return f"<services: {', '.join(self) or 'none is there'}>"


class Cache:
    """The redis-py client, imported when it is first used."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        from ..redispy import client

        return getattr(client(self._settings), name)

    def __dir__(self) -> list[str]:
        from ..redispy import client

        return dir(client(self._settings))

    def __repr__(self) -> str:
        return f"<cache: Redis at {self._settings}>"


def namespace(bus: Bus, names: list[str]) -> dict[str, Any]:
    """Return the variables of a shell: its own words, and the services of these names that can be variables."""

    def call(service: str, action: str, payload: Any = NOTHING, /, **fields: Any) -> Any:
        """Call an action of a service."""
        return bus.call(service, action, chosen(payload, fields))

    def publish_(channel: str, payload: Any) -> int:
        """Publish a message to a channel; return how many heard it."""
        check_channel_to_publish(channel)
        return publish(bus.settings, channel, payload)

    made: dict[str, Any] = {
        "__name__": "__main__",
        "call": call,
        "cache": Cache(bus.settings),
        "publish": publish_,
        "services": Services(bus),
    }
    return made | {name: Service(bus, name) for name in names if usable(name, made)}
