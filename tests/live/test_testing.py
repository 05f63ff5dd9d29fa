"""The test kit and life: the page's tests run as a user runs them, and one service answers alike in both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
from websockets.sync.client import connect

from daebus import Daebus, DaebusCaller, DaebusError, DaebusWorkflow, RequestTimeout
from daebus.redisserver import PrivateServer
from daebus.testing import NothingReceived
from tests.outside import ANSWER_SECONDS, fetch, free_port, post_json
from tests.support import ROOT, ServiceProcess
from tests.test_docs import blocks, two_free_ports

PLUGIN = "pytest_daebus"


# --- the page, as a user has it ---


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a folder that has nothing to do with us."""
    installed = [] if entry_points(group="pytest11", name="daebus") else ["-p", PLUGIN]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *installed, *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_pages_tests_pass(tmp_path: Path) -> None:
    pytest.importorskip("fakeredis")
    port = two_free_ports()
    files = blocks((ROOT / "docs/testing.md").read_text(encoding="utf-8"), "testing.md")
    for block in files:
        (tmp_path / block.name).write_text(block.code.replace("8080", str(port)), encoding="utf-8")
    done = run_pytest(tmp_path, "-W", "error")
    written = sum(block.code.count("\ndef test_") for block in files)
    assert f"{written} passed" in done.stdout, done.stdout
    assert written > 15


def test_a_failing_handler_shows_where_it_failed(tmp_path: Path) -> None:
    """A test that fails shows the line of the handler, though that ran for a caller who may not see it."""
    (tmp_path / "test_it.py").write_text(
        "from daebus import Daebus\n\n"
        "app = Daebus('app')\n\n\n"
        "@app.action('divide')\n"
        "def divide():\n"
        "    return 1 / 0  # the line\n\n\n"
        "def test_it(daebus_client):\n"
        "    daebus_client(app).call('divide')\n"
    )
    done = run_pytest(tmp_path)
    assert "1 failed" in done.stdout
    assert "return 1 / 0  # the line" in done.stdout


def test_pytest_finds_the_fixtures_and_imports_nothing_else(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["entry-points"]["pytest11"] == {"daebus": PLUGIN}
    assert PLUGIN in project["tool"]["setuptools"]["py-modules"]
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n\ndef test_it():\n"
        f"    assert {PLUGIN!r} in sys.modules\n"
        "    assert 'daebus' not in sys.modules\n"
    )
    assert "1 passed" in run_pytest(tmp_path).stdout


# --- one service, in the kit and in life ---

SERVICE = """
import asyncio, os
from daebus import Busy, Daebus, DaebusCaller, DaebusHttp, DaebusWebSocket, HttpError, broadcast, request, response

app = Daebus("app")
app.attach(DaebusHttp(port=int(os.environ["PORT"])))
ws = app.attach(DaebusWebSocket(port="same"))
ws.gateway(actions=["echo", "crash", "missing/act"], channels=["news.*"])
heard = []

@app.action("echo")
def echo():
    return {"payload": request.payload, "service": request.service}

@app.action("typed")
def typed(percent: int, room: str = "hall") -> str:
    return f"{room} {percent}"

@app.action("steps")
async def steps():
    yield {"at": 1}
    await asyncio.sleep(0)
    yield {"at": 2}

@app.action("busy")
def busy():
    raise Busy("later")

@app.action("crash")
def crash():
    raise KeyError("secret")

@app.action("odd")
def odd():
    return {"a": {1, 2}}

@app.action("error")
def error():
    return response.error("said so")

@app.action("missing")
def missing():
    return DaebusCaller("missing").send_request("act", {}, timeout=5)

@app.action("heard")
def what_was_heard():
    return heard

@app.action("shout")
def shout():
    broadcast.send("news.local", {"from": "shout"})

@app.listen("news.*")
def news(payload, channel):
    heard.append([channel, payload])

@app.before
def before():
    if request.payload == "stop":
        return {"stopped": True}

@app.error(ValueError)
def wrong(error):
    return {"error": f"wrong: {error}"}

@app.action("wrong")
def raise_wrong():
    raise ValueError("value")

@app.route("/things/<int:number>", methods=["GET", "POST"])
def things(req, number):
    return {"number": number, "payload": req.payload}

@app.route("/teapot")
def teapot():
    raise HttpError(418, "short and stout", (("X-Tea", "yes"),))

@app.route("/crash")
def crash_route():
    raise KeyError("secret")

@app.route("/lines")
def lines():
    yield {"n": 1}
    yield {"n": 2}

@app.route("/text")
def text():
    return "plain", 201, {"X-More": "1"}

@app.socket_connect
def connect(query):
    return query.get("room") != "2"

@app.socket("echo")
def echo_socket(data, client_id):
    return data

@app.socket("fail")
def fail_socket(data):
    raise KeyError("secret")

@app.workflow("talk")
def talk():
    if request.payload == "crash":
        raise KeyError("secret")
    response.send({"heard": request.payload})
    if request.payload == "bye":
        return "ended"
"""

ACTIONS: list[tuple[str, Any]] = [
    ("echo", {"a": [1, None, "ä"]}), ("echo", None), ("echo", "text"), ("echo", "stop"), ("steps", {}), ("busy", {}),
    ("crash", {}), ("odd", {}), ("error", {}), ("missing", {}), ("wrong", {}), ("ech", {}), ("", {}), ("shout", {}),
    ("heard", {}), ("typed", {"percent": 4}), ("typed", {"percent": "much"}), ("typed", {"percnt": 4}),
]  # fmt: skip
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/things/4?b=1&b=2", None), ("POST", "/things/4", {"a": 1}), ("GET", "/things/x", None),
    ("PUT", "/things/4", {}), ("HEAD", "/things/4", None), ("OPTIONS", "/things/4", None), ("GET", "/teapot", None),
    ("GET", "/crash", None), ("GET", "/lines", None), ("GET", "/text", None), ("GET", "/nothing", None),
    ("GET", "/things/4/", None),
]  # fmt: skip
FRAMES: list[Any] = [
    {"type": "echo", "data": {"a": 1}}, {"type": "echo", "data": 1, "request_id": "r"}, {"type": "fail"},
    {"type": "else"}, [], {"type": "publish", "channel": "app", "data": {"action": "echo", "request_id": 1}},
    {"type": "publish", "channel": "app", "data": {"action": "crash", "request_id": 2}},
    {"type": "publish", "channel": "missing", "data": {"action": "act", "request_id": 3}},
    {"type": "publish", "channel": "other", "data": {"action": "act", "request_id": 4}},
    {"type": "subscribe", "channel": "news.local", "request_id": 5},
    {"type": "subscribe", "channel": "private", "request_id": 6},
]  # fmt: skip


def alike(value: Any) -> Any:
    """What may differ from one time to the next, is left out."""
    text = json.dumps(value, sort_keys=True, default=str)
    text = re.sub(r"[0-9a-f]{12}", "ID", text)
    return json.loads(text)


def outcome(call: Callable[[Callable[[Any], object]], Any]) -> Any:
    """The answer of a call, or the error as its caller sees it."""
    progress: list[Any] = []
    try:
        return alike([call(progress.append), progress])
    except DaebusError as error:
        return alike([type(error).__name__, error.code, str(error), bool(error.error_id)])


HEADERS = ("content-type", "x-tea", "x-more", "allow", "x-content-type-options", "location")


class Life:
    """The service as a process, with a real Redis."""

    def __init__(self, url: str, port: int) -> None:
        self._url = url
        self._port = port
        self._caller = DaebusCaller("app", redis_url=url, timeout=ANSWER_SECONDS)

    def call(self, action: str, payload: Any) -> Any:
        return outcome(lambda progress: self._caller.send_request(action, payload, None, progress))

    def fetch(self, method: str, target: str, value: Any) -> Any:
        answer = fetch(self._port, method, target) if value is None else post_json(self._port, target, value, method)
        headers = {name: answer.header(name) for name in HEADERS if answer.all(name)}
        return alike([answer.status, headers, answer.body.decode()])

    def frames(self, frames: list[Any]) -> list[Any]:
        with connect(f"ws://127.0.0.1:{self._port}/", open_timeout=ANSWER_SECONDS, proxy=None) as client:
            return [self._ask(client, frame) for frame in frames]

    @staticmethod
    def _ask(client: Any, frame: Any) -> Any:
        client.send(json.dumps(frame))
        return alike(json.loads(client.recv(ANSWER_SECONDS)))

    def talk(self, *said: Any) -> list[Any]:
        heard: list[Any] = []
        came = Event()

        def hear(payload: Any) -> None:
            heard.append(payload)
            came.set()

        with DaebusWorkflow("app", redis_url=self._url, timeout=ANSWER_SECONDS) as workflow:
            workflow.start("talk", said[0], hear)
            for payload in said[1:]:
                assert came.wait(ANSWER_SECONDS)
                workflow.send(payload)
            try:
                assert workflow.wait(ANSWER_SECONDS)
            except DaebusError as error:
                heard.append([type(error).__name__, error.code, alike(str(error))])
        return heard

    def close(self) -> None:
        self._caller.close()


class Kit:
    """The service in a test client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def call(self, action: str, payload: Any) -> Any:
        caller = DaebusCaller("app")
        return outcome(lambda progress: caller.send_request(action, payload, None, progress))

    def fetch(self, method: str, target: str, value: Any) -> Any:
        options = {} if value is None else {"json": value}
        answer = self._client.open(method, target, **options)
        headers = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
        return alike([answer.status, headers, answer.text])

    def frames(self, frames: list[Any]) -> list[Any]:
        answers = []
        client = self._client.websocket("/")
        for frame in frames:
            client.send_raw(json.dumps(frame))
            answers.append(alike(client.receive()))
        return answers

    def talk(self, *said: Any) -> list[Any]:
        heard: list[Any] = []
        talk = self._client.workflow("talk", said[0])
        for payload in said[1:]:
            talk.send(payload)
        with suppress(NothingReceived):
            while True:
                try:
                    heard.append(talk.receive())
                except DaebusError as error:
                    return [*heard, [type(error).__name__, error.code, alike(str(error))]]
        return heard


@contextmanager
def life(server: PrivateServer) -> Iterator[Life]:
    port = free_port()
    text = f"{SERVICE}\napp.run(service='app')\n"
    with ServiceProcess(text, redis_url=server.url, env={"PORT": str(port)}) as process:
        process.wait_ready()
        made = Life(server.url, port)
        yield made
        made.close()
        assert process.stop() == 0


@contextmanager
def kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    monkeypatch.setenv("PORT", "8080")
    module = ModuleType("app")
    exec(SERVICE, vars(module))  # noqa: S102 - it is ours
    with module.app.test_client("app") as client:
        yield Kit(client)


def test_the_kit_answers_as_life_does(redis_server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(side: Life | Kit) -> dict[str, Any]:
        found = {f"{action} {payload}": side.call(action, payload) for action, payload in ACTIONS if action}
        found |= {f"{method} {target}": side.fetch(method, target, value) for method, target, value in ROUTES}
        found |= {str(frame): answer for frame, answer in zip(FRAMES, side.frames(FRAMES), strict=True)}
        found |= {str(said): side.talk(*said) for said in [("a", "bye"), ("crash",)]}
        return found

    with life(redis_server) as living:
        lived = answers(living)
    with kit(monkeypatch) as client:
        played = answers(client)
    assert lived.keys() == played.keys()
    assert {key: (lived[key], played[key]) for key in lived if lived[key] != played[key]} == {}
    assert lived["GET /teapot"][0] == 418


def test_without_an_answer_both_time_out(redis_server: PrivateServer) -> None:
    """The sentence is the same; life takes its time for it."""
    app = Daebus("app")

    @app.action("act")
    def act() -> None:
        """Answers."""

    with app.test_client("app") as client:
        client.faults.drop("answers")
        with pytest.raises(RequestTimeout) as played:
            client.call("act", timeout=0.2)
    program = "from daebus import Daebus\napp = Daebus('app')\n@app.action('act', inline=False)\ndef act():\n"
    program += "    import threading\n    threading.Event().wait(2)\napp.run(service='app')\n"
    with ServiceProcess(program, redis_url=redis_server.url) as process:
        process.wait_ready()
        with DaebusCaller("app", redis_url=redis_server.url) as caller, pytest.raises(RequestTimeout) as lived:
            caller.send_request("act", timeout=0.2)
    assert str(played.value) == str(lived.value)
