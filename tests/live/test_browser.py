"""The client for browsers, /daebus.js, in a real Chromium against real services; and the page of the kiosk example."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import NO_CONNECTION, PATIENT, Tab, chromium, free_port, tab
from tests.outside import fetch
from tests.support import MS, ROOT, ServiceProcess, private_server, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser

KIOSK = ROOT / "examples" / "kiosk"

# A page that allows nothing but what it is made of.
PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; script-src 'self'; connect-src 'self';
               require-trusted-types-for 'script'">
<link rel="icon" href="data:,">
<script src="/daebus.js"></script>
<script src="page.js"></script>
"""

# What the tests look at: everything that `bus` says, in order.
PAGE_SCRIPT = """
const heard = [];
const events = [];
const results = {};
const bus = Daebus.connect({token: "t0ken"});
for (const name of ["open", "close", "bus", "resync"])
  bus.on(name, (value) => events.push(value === undefined ? name : `${name} ${value}`));
bus.on("error", (error) => events.push(`error ${error.code} ${error.channel}`));
const sorted = (promise) => promise.then((value) => ({value}), (error) => ({code: error.code, text: error.message}));
const never = () => new Promise((done) => setTimeout(done, 20000, {code: "never"}));
const sort = (promise) => Promise.race([sorted(promise), never()]);
const keep = (name, promise) => { sort(promise).then((result) => { results[name] = result; }); };
"""

WORKER = """
import os, threading
from daebus import Daebus, DaebusError, broadcast, request, response

app = Daebus(__name__)
ran = []
heard = []
gate = threading.Event()

class Locked(DaebusError):
    code = "locked"

@app.action("add")
def add():
    ran.append("add")
    return request.payload["a"] + request.payload["b"]

@app.action("echo")
def echo():
    return {"payload": request.payload}

@app.action("refuse")
def refuse():
    return response.error("no such door")

@app.action("locked")
def locked():
    raise Locked("the door is locked")

@app.action("fail")
def fail():
    raise ValueError("a secret")

@app.action("steps")
def steps():
    yield {"step": 1}
    yield {"step": 2}
    response.success("done")

@app.action("hold")
def hold():
    ran.append("hold")
    gate.wait(60)
    return "held"

@app.action("release")
def release():
    gate.set()

@app.action("private")
def private():
    ran.append("private")

@app.action("say")
def say():
    broadcast.send(request.payload["channel"], {"text": request.payload["text"]})

@app.action("ran")
def tell():
    return {"ran": ran, "heard": heard}

@app.listen("touch")
def touch(data):
    heard.append(data)

@app.listen("secret.touch")
def secret(data):
    heard.append(data)

app.run(service="worker")
"""

DOOR = """
import os
from daebus import Daebus, DaebusHttp, DaebusWebSocket, request

app = Daebus(__name__)
app.attach(DaebusHttp(port=int(os.environ["PORT"])))
app.static("/", os.environ["SITE"])
ws = app.attach(DaebusWebSocket(port="same"))
WORKER = ["add", "echo", "refuse", "locked", "fail", "steps", "hold", "release", "say", "ran", "missing"]
ws.gateway(
    actions=[*(f"worker/{name}" for name in WORKER), "nobody/at_home", "double"],
    channels=["news", "sensor.*"],
    publish=["touch"],
)
tokens = []

@app.socket_connect()
def connect(data, client_id):
    tokens.append(data.get("token"))

@app.action("double")
def double():
    return request.payload * 2

@app.socket("tokens")
def tell_tokens(data, client_id):
    return tokens

@app.socket("shout")
def shout(data, client_id):
    ws.broadcast_to_all(data, "shouted")

app.run(service="door")
"""


class House:
    """A Redis, a worker, and a door to it for browsers, each of which may be ended and started again."""

    def __init__(self, stack: ExitStack, site: Path) -> None:
        self._stack = stack
        self.redis = stack.enter_context(private_server())
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._settings = {"PORT": str(self.port), "SITE": str(site)}
        self.worker = self.start(WORKER)
        self.door = self.start(DOOR)

    def start(self, script: str) -> ServiceProcess:
        service = ServiceProcess(script, redis_url=self.redis.url, env=self._settings)
        self._stack.enter_context(service).wait_ready()
        return service

    def end_door(self) -> None:
        self.door.kill()

    def open_door(self) -> None:
        self.door = self.start(DOOR)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text(PAGE)
    (folder / "page.js").write_text(PAGE_SCRIPT)
    return folder


@pytest.fixture(scope="module")
def calm_house(site: Path) -> Iterator[House]:
    """For tests that end nothing."""
    with ExitStack() as stack:
        yield House(stack, site)


@pytest.fixture
def house(site: Path) -> Iterator[House]:
    """For tests that end parts of it."""
    with ExitStack() as stack:
        yield House(stack, site)


@pytest.fixture
def page(browser: Browser, calm_house: House) -> Iterator[Tab]:
    with tab(browser, calm_house.url) as opened:
        opened.wait("bus.state === 'open'")
        yield opened


@pytest.fixture
def troubled(browser: Browser, house: House) -> Iterator[Tab]:
    """A page whose server comes and goes."""
    with tab(browser, house.url) as opened:
        opened.expect(NO_CONNECTION)
        opened.wait("events.includes('bus true')")
        yield opened


# --- calls ---


def call(page: Tab, target: str, payload: Any = None, **options: Any) -> Any:
    """What became of a call: {"value": ...} or {"code": ..., "text": ...}."""
    arguments = [target, payload if payload is not None else {}, options]
    return page.run("([target, payload, options]) => sort(bus.call(target, payload, options))", arguments)


def test_the_client_is_small_and_is_a_plain_script(calm_house: House) -> None:
    answer = fetch(calm_house.port, "GET", "/daebus.js")
    assert answer.header("content-type") == "text/javascript; charset=utf-8"
    assert answer.body == (ROOT / "daebus" / "browser" / "daebus.js").read_bytes()
    assert 1000 < len(answer.body) < 8192


def test_a_call_gives_what_the_service_answers(page: Tab) -> None:
    assert call(page, "worker/add", {"a": 2, "b": 3}) == {"value": 5}
    payload = {"text": 'ä "ö"   𝄞', "list": [1, 2.5, None, True], "empty": {}}
    assert call(page, "worker/echo", payload) == {"value": {"payload": payload}}


def test_a_call_without_a_payload_sends_an_empty_object(page: Tab) -> None:
    assert page.run("sort(bus.call('worker/echo'))") == {"value": {"payload": {}}}


def test_an_action_of_the_serving_service_itself(page: Tab) -> None:
    assert call(page, "double", 21) == {"value": 42}


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("worker/refuse", "error"),
        ("worker/locked", "locked"),
        ("worker/fail", "internal"),
        ("worker/missing", "unknown_action"),
        ("nobody/at_home", "unavailable"),
    ],
)
def test_errors_have_the_code_of_the_service(page: Tab, target: str, code: str) -> None:
    result = call(page, target)
    assert result["code"] == code
    assert result["text"]
    assert "secret" not in result["text"]


def test_what_is_forbidden_is_not_done(page: Tab) -> None:
    assert call(page, "worker/private")["code"] == "forbidden"
    assert "private" not in call(page, "worker/ran")["value"]["ran"]


def test_a_call_that_takes_too_long_is_a_timeout(page: Tab) -> None:
    assert call(page, "worker/hold", timeout=300)["code"] == "timeout"
    call(page, "worker/release")


@pytest.mark.parametrize("timeout", ["0", "-1", "NaN", "'soon'"])
def test_with_a_timeout_that_makes_no_sense_nothing_is_done(page: Tab, timeout: str) -> None:
    before = call(page, "worker/ran")["value"]["ran"]
    result = page.run(f"sort(bus.call('worker/add', {{a: 1, b: 1}}, {{timeout: {timeout}}}))")
    assert result["code"] in ("offline", "timeout", "bad_message")
    assert call(page, "worker/ran")["value"]["ran"] == before


def test_progress_comes_before_the_answer(page: Tab) -> None:
    script = """async () => {
      const parts = [];
      const onProgress = (part) => parts.push(part);
      return [await bus.call("worker/steps", {}, {onProgress}), parts];
    }"""
    assert page.run(script) == ["done", [{"step": 1}, {"step": 2}]]


def test_many_calls_at_once_each_get_their_own_answer(page: Tab) -> None:
    script = "Promise.all([...Array(60).keys()].map((n) => bus.call('worker/add', {a: n, b: 0})))"
    assert page.run(script) == list(range(60))


def test_what_cannot_be_written_as_json_is_an_error(page: Tab) -> None:
    assert "text" in page.run("sort(bus.call('worker/add', {a: 1n}))")
    assert call(page, "worker/add", {"a": 1, "b": 1}) == {"value": 2}


# --- channels ---


def say(page: Tab, channel: str, text: str) -> None:
    assert call(page, "worker/say", {"channel": channel, "text": text}) == {"value": None}


def subscribe(page: Tab, channel: str, name: str = "stop") -> None:
    script = """async ([channel, name]) => {
      globalThis[name] = bus.subscribe(channel, (data, from) => heard.push([name, data.text, from]));
      await bus.call("worker/echo");  // the server has taken the subscription, too
    }"""
    page.run(script, [channel, name])


def test_subscribers_hear_their_channel_until_they_stop(page: Tab) -> None:
    subscribe(page, "news", "first")
    subscribe(page, "news", "second")
    say(page, "news", "one")
    page.wait("heard.length === 2")
    page.run("first()")
    say(page, "news", "two")
    page.wait("heard.length === 3")
    page.run("second()")
    page.run("second()")  # once more does nothing
    say(page, "news", "three")
    subscribe(page, "sensor.last", "last")
    say(page, "sensor.last", "end")
    page.wait("heard.some(([name]) => name === 'last')")
    assert page.run("heard") == [
        ["first", "one", "news"],
        ["second", "one", "news"],
        ["second", "two", "news"],
        ["last", "end", "sensor.last"],
    ]


def test_a_glob_hears_all_that_it_matches_once(page: Tab) -> None:
    subscribe(page, "sensor.*", "all")
    subscribe(page, "sensor.a", "one")
    subscribe(page, "news")
    for channel in ("sensor.a", "sensor.b.c", "sensory", "news"):
        say(page, channel, "x")
    page.wait("heard.some(([name, text, channel]) => channel === 'news')")
    assert page.run("heard") == [
        ["all", "x", "sensor.a"],
        ["one", "x", "sensor.a"],
        ["all", "x", "sensor.b.c"],
        ["stop", "x", "news"],
    ]


def test_one_function_may_subscribe_twice(page: Tab) -> None:
    page.run(
        """() => {
          const twice = ({text}) => heard.push(text);
          bus.subscribe("news", twice);
          bus.subscribe("news", twice)();
        }"""
    )
    subscribe(page, "news", "after")
    say(page, "news", "x")
    page.wait("heard.length === 2")
    assert page.run("heard") == ["x", ["after", "x", "news"]]


def test_a_channel_that_is_forbidden_says_so(page: Tab) -> None:
    subscribe(page, "secret")
    page.wait("events.includes('error forbidden secret')")
    say(page, "secret", "hush")
    subscribe(page, "news", "after")
    say(page, "news", "x")
    page.wait("heard.length")
    assert page.run("heard") == [["after", "x", "news"]]


def test_nobody_who_listens_to_errors_sees_them_on_the_console(browser: Browser, calm_house: House) -> None:
    with tab(browser, calm_house.url) as page:
        page.expect("secret")
        page.run("() => { globalThis.other = Daebus.connect(); other.subscribe('secret', () => {}); }")
        wait_for(lambda: page.run("1") and page.complaints, PATIENT)


def test_publishing_where_it_is_allowed(page: Tab) -> None:
    page.run("bus.publish('touch', {x: 1})")
    wait_for(lambda: {"x": 1} in call(page, "worker/ran")["value"]["heard"])
    result = page.run("sort(bus.publish('secret.touch', {x: 2}))")
    assert result["code"] == "forbidden"
    assert {"x": 2} not in call(page, "worker/ran")["value"]["heard"]


def test_messages_for_handlers_of_the_service(page: Tab) -> None:
    page.run(
        """() => {
          for (const type of ["response", "shouted"]) bus.on(`message:${type}`, (data) => heard.push(data));
        }"""
    )
    assert page.run("sort(bus.send('tokens'))") == {"value": None}
    page.wait("heard.length === 1")
    assert page.run("heard[0].at(-1)") == "t0ken"
    page.run("bus.send('shout', {loud: true})")
    page.wait("heard.length === 2")
    assert page.run("heard[1]") == {"loud": True}


def test_the_answer_of_a_socket_handler_may_be_awaited(page: Tab) -> None:
    page.wait("bus.state === 'open'")
    assert isinstance(page.run("sort(bus.request('tokens'))")["value"], list)
    assert page.run("sort(bus.request('shout', {loud: true}))") == {"value": None}  # it returns nothing
    assert page.run("sort(bus.request('nosuch', {}, {timeout: 3000}))")["code"] == "bad_message"


def test_two_tabs_do_not_get_in_each_others_way(page: Tab, calm_house: House) -> None:
    other = page.second().open(calm_house.url)
    for one in (page, other):
        one.wait("bus.state === 'open'")
        subscribe(one, "news")
    say(page, "news", "both")
    for one in (page, other):
        one.wait("heard.length === 1")
    other.run("bus.close()")
    say(page, "news", "one")
    page.wait("heard.length === 2")
    assert other.run("[bus.state, heard.length]") == ["closed", 1]


def test_a_handler_that_fails_harms_nobody_else(page: Tab) -> None:
    page.expect("my own fault")
    page.run("() => { bus.subscribe('news', () => { throw new Error('my own fault'); }); }")
    subscribe(page, "news")
    say(page, "news", "x")
    page.wait("heard.length === 1")
    wait_for(lambda: page.run("1") and page.complaints)


def test_after_close_nothing_happens(page: Tab) -> None:
    page.run("() => { keep('held', bus.call('worker/hold')); bus.close(); }")
    page.wait("results.held")
    assert page.run("results.held.code") == "closed"
    assert call(page, "worker/add", {"a": 1, "b": 1})["code"] == "closed"
    page.run("window.dispatchEvent(new Event('online'))")
    assert page.run("bus.state") == "closed"
    page.run("bus.close()")


# --- outages ---


def test_it_connects_again_and_subscribes_again(troubled: Tab, house: House) -> None:
    subscribe(troubled, "news")
    house.end_door()
    troubled.wait("events.includes('close')")
    assert troubled.run("bus.state") == "connecting"
    house.open_door()
    troubled.wait("events.includes('resync')")
    assert troubled.run("events.filter((name) => !name.startsWith('bus'))") == ["open", "close", "open", "resync"]
    say(troubled, "news", "again")
    troubled.wait("heard.length === 1")


def test_a_call_while_offline_waits_for_the_connection(troubled: Tab, house: House) -> None:
    house.end_door()
    troubled.wait("bus.state === 'connecting'")
    troubled.run(
        """() => {
          const payload = {a: 1, b: 2};
          keep("sum", bus.call("worker/add", payload, {timeout: 60000}));
          payload.a = 100;  // what is sent is as it was when it was given
        }"""
    )
    house.open_door()
    troubled.wait("results.sum")
    assert troubled.run("results.sum") == {"value": 3}
    assert call(troubled, "worker/ran")["value"]["ran"] == ["add"]


def test_a_call_while_offline_ends_at_its_deadline(troubled: Tab, house: House) -> None:
    house.end_door()
    troubled.wait("bus.state === 'connecting'")
    assert call(troubled, "worker/add", {"a": 1, "b": 2}, timeout=300)["code"] == "offline"
    assert troubled.run("sort(bus.send('shout', {}, {timeout: 300}))")["code"] == "offline"
    house.open_door()
    troubled.wait("bus.state === 'open'")
    assert call(troubled, "worker/ran")["value"]["ran"] == []


def test_a_call_that_waited_through_a_sleep_of_the_machine_is_not_sent(troubled: Tab, house: House) -> None:
    """An hour later nobody wants the door to open. Timers stand still while a machine sleeps; the clock does not."""
    house.end_door()
    troubled.wait("bus.state === 'connecting'")
    troubled.run("() => { keep('sum', bus.call('worker/add', {a: 1, b: 2}, {timeout: 60000})); }")
    sleep(troubled)
    house.open_door()
    troubled.wait("results.sum")
    assert troubled.run("results.sum.code") == "offline"
    assert call(troubled, "worker/ran")["value"]["ran"] == []


def sleep(page: Tab) -> None:
    """What a page sees after the machine has slept for an hour."""
    page.run("() => { const now = Date.now; Date.now = () => now() + 3600000; }")


def test_a_call_that_was_sent_is_not_sent_again(troubled: Tab, house: House) -> None:
    troubled.run("() => { keep('held', bus.call('worker/hold', {}, {timeout: 60000})); }")
    wait_for(lambda: call(troubled, "worker/ran")["value"]["ran"] == ["hold"])
    house.end_door()
    troubled.wait("results.held")
    assert troubled.run("results.held.code") == "connection_lost"
    house.open_door()
    troubled.wait("events.includes('resync')")
    assert call(troubled, "worker/ran")["value"]["ran"] == ["hold"]
    call(troubled, "worker/release")


def test_a_server_that_says_nothing_any_more_is_given_up(troubled: Tab, house: House) -> None:
    """A stopped process keeps its connections, so nothing but its silence tells."""
    house.door.send_signal(signal.SIGSTOP)
    try:
        troubled.wait("events.includes('close')", 12_000 * MS)
    finally:
        house.door.send_signal(signal.SIGCONT)
    troubled.wait("events.includes('resync')")


def test_it_says_when_redis_is_away_and_when_it_is_back(troubled: Tab, house: House) -> None:
    subscribe(troubled, "news")
    house.redis.kill()
    troubled.wait("events.includes('bus false')")
    assert troubled.run("bus.state") == "open"
    assert call(troubled, "worker/add", {"a": 1, "b": 1})["code"] == "redis_unavailable"
    house.redis.restart()
    troubled.wait("events.at(-1) === 'resync'")
    assert troubled.run("events") == ["open", "bus true", "bus false", "bus true", "resync"]
    wait_for(lambda: "value" in call(troubled, "worker/say", {"channel": "news", "text": "back"}))
    troubled.wait("heard.length")


@pytest.mark.parametrize(
    "awakening",
    [
        "() => document.dispatchEvent(new Event('visibilitychange'))",
        "() => window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))",
        "() => window.dispatchEvent(new Event('online'))",
        "() => { const now = Date.now; Date.now = () => now() + 3600000; }",
    ],
    ids=["seen again", "from the cache of pages", "online", "slept"],
)
def test_after_a_sleep_it_makes_sure_and_says_so(page: Tab, awakening: str) -> None:
    page.run(awakening)
    page.wait("events.includes('resync')")
    assert page.run("bus.state") == "open"
    assert page.run("events").count("resync") == 1


def test_a_page_that_is_shown_for_the_first_time_has_missed_nothing(page: Tab) -> None:
    page.run("window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: false}))")
    assert call(page, "worker/add", {"a": 1, "b": 1}) == {"value": 2}
    assert "resync" not in page.run("events")


def test_awake_while_offline_it_tries_at_once(troubled: Tab, house: House) -> None:
    """Between two attempts; without that it would wait for up to 5 s."""
    house.end_door()
    troubled.run(
        """() => {
          const Real = WebSocket;
          globalThis.attempts = 0;
          globalThis.WebSocket = class extends Real { constructor(url) { super(url); attempts++; } };
        }"""
    )
    troubled.wait("attempts >= 3")
    script = "() => { const before = attempts; window.dispatchEvent(new Event('online')); return attempts - before; }"
    wait_for(lambda: troubled.run(script) == 1)
