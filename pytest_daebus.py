"""Fixtures of the test kit, for pytest. Beside the package, so that a project without Daebus does not import that."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from daebus import Daebus
    from daebus.testing import Client


@pytest.fixture
def daebus_client() -> Iterator[Callable[..., Client]]:
    """A function that opens a test client of a service, which is closed at the end of the test:

    client = daebus_client(app, "lamp")
    """
    with ExitStack() as stack:

        def open_client(app: Daebus, service: str = "test", **options: Any) -> Client:
            return stack.enter_context(app.test_client(service, **options))

        yield open_client
