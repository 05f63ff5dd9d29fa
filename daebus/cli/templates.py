"""The files that `daebus new` makes. Pure."""

from __future__ import annotations

from keyword import iskeyword

SERVICE = '''\
# /// script
# [tool.daebus]
# description = "The service NAME"
<http># http = 8080
# ///
"""The service NAME."""

from collections import deque

<plain>from daebus import Daebus, broadcast, logger
<http>from daebus import Daebus, DaebusHttp, HttpRequest, broadcast, logger

app = Daebus(__name__)
<http>app.attach(DaebusHttp(port=8080))
heard: deque[str] = deque(maxlen=100)


@app.action("greet")
def greet(name: str, times: int = 1) -> dict[str, str]:
    """Greet somebody, once or more often."""
    return {"message": f"{'Hello, ' * times}{name}!"}


@app.listen("NAME.news")
def news(text: str) -> None:
    """Hear what anybody publishes on the channel NAME.news."""
    heard.append(text)
    logger.info("News: %s", text)


@app.background("report", 60)
def report() -> None:
    """Tell whoever listens how many news there are, every 60 seconds."""
    broadcast.send("NAME.report", {"heard": len(heard)})


<http>@app.route("/")
<http>def page(request: HttpRequest) -> dict[str, int]:
<http>    """Answer at http://127.0.0.1:8080/."""
<http>    return {"heard": len(heard)}
<http>
<http>
if __name__ == "__main__":
    app.run(service="NAME")
'''

TEST = '''\
"""Tests of the service NAME, which run without Redis."""

from collections.abc import Iterator
<item>from importlib import import_module

import pytest
from daebus import BadPayload
from daebus.testing import Client

<module>from MODULE import app, heard
<item>service = import_module("MODULE")
<item>app, heard = service.app, service.heard


@pytest.fixture
def client() -> Iterator[Client]:
    """The service, and somebody who calls it."""
    with app.test_client("NAME") as opened:
        yield opened


def test_it_greets(client: Client) -> None:
    answer = client.call("greet", name="Ada", times=2)
    assert answer == {"message": "Hello, Hello, Ada!"}


def test_wrong_input_is_refused(client: Client) -> None:
    with pytest.raises(BadPayload, match="'name' is missing"):
        client.call("greet")


def test_it_reports_what_it_has_heard(client: Client) -> None:
    heard.clear()
    assert client.publish("NAME.news", {"text": "the lamp is on"}) == 1
    client.run_task("report")
    assert client.broadcasts == [("NAME.report", {"heard": 1})]
<http>
<http>
<http>def test_it_has_a_page(client: Client) -> None:
<http>    answer = client.get("/")
<http>    assert (answer.status, answer.json) == (200, {"heard": len(heard)})
'''


def service_file(name: str, *, http: bool) -> str:
    """Return the script of a service."""
    return _made(SERVICE, name, {"http": http, "plain": not http})


def test_file(name: str, *, http: bool) -> str:
    """Return its tests. A name that no module can have in an `import` is imported by a function."""
    importable = name.isidentifier() and not iskeyword(name)
    return _made(TEST, name, {"http": http, "module": importable, "item": not importable})


def _made(template: str, name: str, wanted: dict[str, bool]) -> str:
    """Fill in a template: a line that begins with a word in brackets is for those who want that."""
    lines = []
    for line in template.splitlines():
        head, bracket, rest = line.removeprefix("<").partition(">")
        if line.startswith("<") and bracket:
            lines += [rest] if wanted[head] else []
        else:
            lines.append(line)
    return "\n".join(lines).replace("NAME", name).replace("MODULE", name) + "\n"
