"""Typed parameters on all doors: the same right and wrong inputs, and the same words for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from daebus import DaebusCaller, DaebusWorkflow
from daebus.errors import BadPayload
from daebus.redisserver import PrivateServer
from tests.live.test_websocket import SOCKET, ask, call, client
from tests.outside import ANSWER_SECONDS, Launcher, Link, Script, fetch, post_json
from tests.support import wait_for

WRONG: list[tuple[Any, str]] = [
    ({"percent": "much"}, "'percent' must be a whole number, not text"),
    ({"room": "hall"}, "'percent' is missing"),
    ({"percnt": 5}, "unknown field 'percnt'; did you mean 'percent'?"),
    ({"percent": 5, "colour": 1}, "unknown field 'colour'; there are 'percent' and 'room'"),
    ([5], "the payload must be an object with 'percent', not a list"),
]
ONLY_JSON: list[tuple[Any, str]] = [
    ({"percent": True}, "'percent' must be a whole number, not true or false"),
    ({"percent": 5, "room": None}, "'room' must be text, not null"),
]
CASES = [*WRONG, *ONLY_JSON]

SERVICE = """
ws.gateway(actions=["dim"])

def dim(percent: int, room: str = "hall") -> list[object]:
    note(json.dumps([percent, room]))
    return [percent, room]

app.action("dim")(dim)
app.workflow("dim")(dim)
app.socket("dim")(dim)
app.route("/dim", methods=["GET", "POST"])(dim)
for number in range(8):
    app.listen(f"dim.{SERVICE}.{number}")(dim)
"""


def text_of(error: dict[str, Any]) -> str:
    return str(error["error"])


class Doors:
    """One service, and how it is asked at each of its doors: the answer, or the error's code and text."""

    def __init__(self, script: Script, server: PrivateServer) -> None:
        self.script = script
        self._server = server
        self._listened = 0

    def action(self, payload: Any) -> Any:
        with DaebusCaller(self.script.service, redis_url=self._server.url) as caller:
            try:
                return caller.send_request("dim", payload)
            except BadPayload as error:
                return error.code, str(error)

    def workflow(self, payload: Any) -> Any:
        said: list[Any] = []
        with DaebusWorkflow(self.script.service, redis_url=self._server.url) as workflow:
            try:
                workflow.start("dim", payload, said.append)
                assert workflow.wait(ANSWER_SECONDS)
            except BadPayload as error:
                return error.code, str(error)
        return said[0]

    def gateway(self, payload: Any) -> Any:
        port = self.script.port or 0
        with client(port) as one:
            answer = ask(one, call(self.script.service, "dim", payload))
        return self._of_frame(answer)

    def socket(self, payload: Any) -> Any:
        with client(self.script.port or 0) as one:
            return self._of_frame(ask(one, {"type": "dim", "data": payload, "request_id": "r"}))

    @staticmethod
    def _of_frame(answer: dict[str, Any]) -> Any:
        if answer.get("success", True) and answer["type"] != "error":
            return answer["data"]
        return answer["code"], text_of(answer)

    def route(self, payload: Any) -> Any:
        return self._of_answer(post_json(self.script.port or 0, "/dim", payload))

    def form(self, payload: Any) -> Any:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._of_answer(fetch(self.script.port or 0, "POST", "/dim", kind, urlencode(payload).encode()))

    def query(self, payload: Any) -> Any:
        return self._of_answer(fetch(self.script.port or 0, "GET", f"/dim?{urlencode(payload)}"))

    @staticmethod
    def _of_answer(answer: Any) -> Any:
        if answer.status == 200:
            return answer.json()
        assert answer.status == 400
        return "bad_payload", text_of(answer.json())

    def listener(self, payload: Any) -> Any:
        """What it noted; or the line that it left in the log. Each is used once: a line comes seldom."""
        before = len(self.script.notes)
        channel = f"dim.{self.script.service}.{self._listened}"
        self._listened += 1
        with Link(self._server) as link:
            link.call("PUBLISH", channel, json.dumps(payload))
        start = f"The listener of channel '{channel}' was not run for a message: "
        wait_for(lambda: start in self.script.log or len(self.script.notes) > before, ANSWER_SECONDS)
        if start in self.script.log:
            return "bad_payload", self.script.log.partition(start)[2].splitlines()[0]
        return json.loads(self.script.notes[before])


@pytest.fixture(scope="module")
def doors(bus: PrivateServer, own_side: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    launcher = Launcher(tmp_path_factory.mktemp("contracts"), own_side)
    body = SERVICE.replace("{SERVICE}", "{os.environ['SERVICE']}")
    yield Doors(launcher.site(SOCKET + body, server=bus, env={"WS": '{"port": "same"}'}), bus)
    launcher.end_all()


DOORS = ["action", "workflow", "gateway", "socket", "route", "listener"]


@pytest.mark.parametrize("door", [*DOORS, "form", "query"])
def test_what_fits_comes_in_by_every_door(doors: Doors, door: str) -> None:
    assert getattr(doors, door)({"percent": 40}) == [40, "hall"]


@pytest.mark.parametrize("door", DOORS)
def test_what_does_not_fit_is_told_alike_at_every_door(doors: Doors, door: str) -> None:
    before = len(doors.script.notes)
    for payload, said in CASES:
        assert getattr(doors, door)(payload) == ("bad_payload", said)
    assert len(doors.script.notes) == before  # the handler was not run
    assert "Traceback" not in doors.script.log


@pytest.mark.parametrize("door", ["form", "query"])
def test_text_that_does_not_fit_is_told_as_a_value_of_json_is(doors: Doors, door: str) -> None:
    for payload, said in WRONG[:4]:
        assert getattr(doors, door)(payload) == ("bad_payload", said)


def test_a_message_that_its_listener_does_not_take_counts_as_broken(launch: Launcher, bus: PrivateServer) -> None:
    body = """
    @app.listen(f"temp.{os.environ['SERVICE']}")
    def on_temp(celsius: float, channel):
        note([celsius, channel.partition(".")[0]])

    @app.action("counts")
    def counts():
        return app.counts
    """
    script = launch.service(body, server=bus)
    channel = f"temp.{script.service}"
    with Link(bus) as link:
        for text in ('"warm"', "{}", "21", '{"celsius": 21.5}'):
            link.call("PUBLISH", channel, text)
    wait_for(lambda: len(script.notes) == 2, ANSWER_SECONDS)
    assert script.notes == ["[21.0, 'temp']", "[21.5, 'temp']"]
    with DaebusCaller(script.service, redis_url=bus.url) as caller:
        counts = caller.send_request("counts", {})
    assert (counts["broken"], counts["failed"]) == (2, 0)


KINDS = """
from dataclasses import dataclass, field
from functools import wraps

@dataclass
class Light:
    name: str
    percent: int

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"{self.name} cannot be dimmed to that")

def logged(function):
    @wraps(function)
    def wrapper(*args, **named):
        note("decorated")
        return function(*args, **named)
    return wrapper

@app.before
def before():
    if request.payload.get("user") == "nobody":
        return {"refused": True}

@app.action("set")
def set_light(light: Light) -> str:
    return f"{light.name} {light.percent}"

@app.action("asynchronous")
async def asynchronous(light: Light, user: str = "") -> str:
    return f"{light.name} {user}"

@app.action("parts")
def parts(number: int):
    for one in range(number):
        yield one
    return "all"

@app.action("slow", inline=False)
@logged
def slow(number: int, *, more: int = 1) -> int:
    return number + more

blueprint = Blueprint("more")

@blueprint.action("of_blueprint")
def of_blueprint(number: int, **rest: int) -> dict:
    return {"number": number, "rest": rest}

app.register_blueprint(blueprint)

@app.action("payload")
def whole(payload: dict[str, int]) -> dict[str, int]:
    return payload

@app.route("/lights/<number>")
def show(number: int, tag: list[str], deep: bool = False, more=5):
    return [number, tag, deep, more]

@app.route("/lights/<number>", methods=["PUT"])
def put(req, number: int, light: Light):
    return [req.method, number, light.name]
"""


def answer_to(caller: DaebusCaller, action: str, payload: Any) -> Any:
    try:
        return caller.send_request(action, payload)
    except BadPayload as error:
        return str(error)


@pytest.fixture(scope="module")
def kinds(bus: PrivateServer, own_side: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("kinds"), own_side)
    yield launcher.site(KINDS, server=bus)
    launcher.end_all()


LAMP = {"name": "lamp", "percent": 5}


@pytest.mark.parametrize(
    ("action", "payload", "expected"),
    [
        ("set", LAMP, "lamp 5"),
        ("set", {"name": "lamp", "percent": 500}, "lamp cannot be dimmed to that"),
        ("set", {"name": "lamp"}, "'percent' is missing"),
        ("set", {"user": "nobody"}, {"refused": True}),  # what runs before comes first
        ("asynchronous", {"light": LAMP, "user": "me"}, "lamp me"),
        ("asynchronous", {"light": {"name": 5, "percent": 5}}, "'light.name' must be text, not a whole number"),
        ("asynchronous", {"light": {**LAMP, "percent": -1}}, "'light': lamp cannot be dimmed to that"),
        ("parts", {"number": 2}, "all"),
        ("parts", {"number": 2.5}, "'number' must be a whole number, not a number"),
        ("slow", {"number": 1}, 2),
        ("slow", {"number": 1, "more": 5}, 6),
        ("slow", {"number": "x"}, "'number' must be a whole number, not text"),
        ("of_blueprint", {"number": 1, "x": 2}, {"number": 1, "rest": {"x": 2}}),
        ("of_blueprint", {"number": 1, "x": "2"}, "'x' must be a whole number, not text"),
        ("payload", {"a": 1}, {"a": 1}),
        ("payload", {"a": None}, "'a' must be a whole number, not null"),
    ],
)
def test_kinds_of_handlers(kinds: Script, bus: PrivateServer, action: str, payload: Any, expected: Any) -> None:
    with DaebusCaller(kinds.service, redis_url=bus.url) as caller:
        assert answer_to(caller, action, payload) == expected


@pytest.mark.parametrize(
    ("target", "status", "expected"),
    [
        ("/lights/5?tag=a", 200, [5, ["a"], False, 5]),
        ("/lights/5?tag=a&tag=b&deep=true", 200, [5, ["a", "b"], True, 5]),
        ("/lights/five?tag=a", 400, "'number' must be a whole number, not text"),
        ("/lights/5?tag=a&deep=perhaps", 400, "'deep' must be true or false, not text"),
        ("/lights/5?tag=a&more=7", 400, "unknown field 'more'; there are 'tag' and 'deep'"),
        ("/lights/5", 400, "'tag' is missing"),
    ],
)
def test_the_path_and_the_query_of_a_route(kinds: Script, target: str, status: int, expected: Any) -> None:
    answer = fetch(kinds.port or 0, "GET", target)
    said = answer.json()
    assert (answer.status, said if status == 200 else text_of(said)) == (status, expected)


def test_a_route_takes_the_request_its_path_and_a_whole_payload(kinds: Script) -> None:
    assert post_json(kinds.port or 0, "/lights/3", LAMP, "PUT").json() == ["PUT", 3, "lamp"]
    answer = post_json(kinds.port or 0, "/lights/3", {"name": "lamp", "percent": "5"}, "PUT")
    assert (answer.status, text_of(answer.json())) == (400, "'percent' must be a whole number, not text")


OF_OLD = """
from typing import Any
heard = f"heard.{os.environ['SERVICE']}"

@app.listen(heard)
def on_msg(msg: dict, channel: str):
    note([msg, channel == heard])

@app.socket("arrive")
def arrive(data: dict, client: str):
    return [data, len(client) > 4]

@app.socket("checked")
def checked(data: list[int], client: str):
    return [data, len(client) > 4]

@app.route("/old/<name>")
def old(r: Any, name: str, more=1):
    return [r.method, name, more]
"""


def test_handlers_of_old_get_what_they_got(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.site(SOCKET + OF_OLD, server=bus, env={"WS": '{"port": "same"}'})
    with Link(bus) as link:
        link.call("PUBLISH", f"heard.{script.service}", "[1]")  # what a bare `dict` does not forbid
    wait_for(lambda: script.notes == ["[[1], True]"], ANSWER_SECONDS)
    with client(script.port or 0) as one:
        assert ask(one, {"type": "arrive", "data": {"a": 1}})["data"] == [{"a": 1}, True]
        assert ask(one, {"type": "checked", "data": [1]})["data"] == [[1], True]
        answer = ask(one, {"type": "checked", "data": ["1"], "request_id": "r"})
        assert text_of(answer) == "'payload[0]' must be a whole number, not text"
    assert fetch(script.port or 0, "GET", "/old/x").json() == ["GET", "x", 1]


def test_a_hint_that_cannot_be_checked_ends_the_start(launch: Launcher, bus: PrivateServer) -> None:
    body = """
    @app.action("draw")
    def draw(picture: "Picture") -> None:
        pass
    """
    script = launch.start(body, server=bus)
    assert script.wait() == 1
    assert "the action handler 'draw' (" in script.log
    assert "parameter 'picture': the name 'Picture' is not known where the module runs" in script.log
