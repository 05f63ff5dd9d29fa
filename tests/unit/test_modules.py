"""The module paths of the older package, and the other spelling of the name: the same objects."""

from __future__ import annotations

from importlib import import_module

import pytest

import daebus
from daebus import context, jsontext, log

PATHS = ["blueprint", "caller", "context", "daemon", "http", "logger", "pubsub", "redis_client"]


@pytest.mark.parametrize("name", daebus.__all__)
def test_daebus_with_a_capital_letter_is_the_same(name: str) -> None:
    assert getattr(import_module("Daebus"), name) is getattr(daebus, name)


def test_both_spellings_have_the_same_names() -> None:
    capital = import_module("Daebus")
    assert capital.__all__ == daebus.__all__
    assert capital.__version__ == daebus.__version__
    with pytest.raises(AttributeError, match="module 'daebus' has no attribute 'nonsense'"):
        capital.nonsense  # noqa: B018 - looking it up is the test


SAME = [
    ("blueprint", "Blueprint", daebus.Blueprint),
    ("caller", "DaebusCaller", daebus.DaebusCaller),
    ("daemon", "Daebus", daebus.Daebus),
    ("context", "request", daebus.request),
    ("context", "response", daebus.response),
    ("context", "broadcast", daebus.broadcast),
    ("context", "cache", context.cache),
    ("context", "logger", daebus.logger),
    ("context", "direct_logger", daebus.direct_logger),
    ("context", "get_daemon", daebus.get_daemon),
    ("context", "set_daemon", context.set_daemon),
    ("context", "get_context_type", context.get_context_type),
    ("context", "set_context_type", context.set_context_type),
    ("http", "DaebusJSONEncoder", jsontext.DaebusJSONEncoder),
    ("http", "make_json_serializable", jsontext.make_json_serializable),
    ("logger", "logger", daebus.logger),
    ("logger", "get_logger", log.get_logger),
    ("logger", "set_log_level", log.set_log_level),
    ("pubsub", "PubSubRequest", daebus.PubSubRequest),
    ("pubsub", "PubSubResponse", daebus.PubSubResponse),
    ("pubsub", "PubSubBroadcast", type(daebus.broadcast)),
    ("redis_client", "redis_client", context.cache),
    ("redis_client", "get_redis_client", context.get_redis_client),
]


def test_an_older_path_leads_to_the_same_objects() -> None:
    for path, name, same in SAME:
        assert getattr(import_module(f"daebus.modules.{path}"), name) is same, (path, name)


def test_every_older_path_is_looked_at() -> None:
    assert {path for path, _, _ in SAME} == set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_an_older_path_has_every_name_that_it_lists(path: str) -> None:
    module = import_module(f"daebus.modules.{path}")
    assert module.__all__
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'daebus' has no attribute 'nonsense'"):
        daebus.nonsense  # noqa: B018 - looking it up is the test
