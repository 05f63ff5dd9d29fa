"""The tree of errors: each class knows its code, and comes back from the wire as itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daebus import errors
from daebus.errors import DaebusError, RemoteError, error_from_wire


def all_errors(of: type[DaebusError] = DaebusError) -> Iterator[type[DaebusError]]:
    yield of
    for child in of.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from all_errors(child)


FROM_A_SERVICE = [
    "bad_message", "bad_payload", "unknown_action", "busy", "stopping", "expired", "internal", "unserialisable",
    "too_large", "name_taken",
]  # fmt: skip


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [each.code for each in all_errors() if each is not RemoteError]
    assert len(codes) == len(set(codes)) == len(list(all_errors())) - 1
    assert RemoteError.code == DaebusError.code == "error"


def test_the_tree_in_the_documentation_names_every_class() -> None:
    assert errors.__doc__ is not None
    for each in all_errors():
        assert each.__name__ in errors.__doc__


@pytest.mark.parametrize("code", FROM_A_SERVICE)
def test_a_services_answer_is_the_class_of_its_code(code: str) -> None:
    error = error_from_wire("text", code, "ab12")
    assert (type(error).code, error.code, str(error), error.error_id) == (code, code, "text", "ab12")


@pytest.mark.parametrize("code", ["not_found", "timeout", "closed", "redis_unavailable", "unavailable", "error"])
def test_any_other_answer_is_the_services_own(code: str) -> None:
    """A service cannot say for us that its answer did not come."""
    error = error_from_wire("text", code, None)
    assert (type(error), error.code) == (RemoteError, code)


@pytest.mark.parametrize("code", [None, 5, [], {}])
def test_an_answer_without_a_code_is_the_services_own(code: object) -> None:
    error = error_from_wire("text", code, ["no text"])
    assert (type(error), error.code, error.error_id) == (RemoteError, "error", None)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.RequestTimeout, TimeoutError),
        (errors.RedisUnavailable, ConnectionError),
        (errors.Unserialisable, TypeError),
        (errors.ConfigurationError, ValueError),
        (errors.DeclarationError, ValueError),
    ],
)
def test_errors_are_caught_as_what_they_are_elsewhere(kind: type[DaebusError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_every_class_has_a_status_for_http() -> None:
    assert {each.http_status for each in all_errors()} <= {400, 404, 413, 500, 503, 504}
