"""What a service answers over HTTP, seen from outside: paths, values, bodies, results, errors, streams, files."""

from __future__ import annotations

import gzip
import http.client
import json
import re
from collections.abc import Iterator

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import (
    ANSWER_SECONDS,
    HTTP_PROLOGUE,
    BrokenAnswer,
    HttpAnswer,
    HttpLink,
    Launcher,
    Peer,
    Script,
    Side,
    fetch,
    post_json,
)
from tests.support import wait_for

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

SITE = """
import asyncio, datetime, decimal, fractions, uuid
from daebus import HttpError
from daebus.modules.context import get_context_type

EVERY = ["GET", "POST", "PUT", "PATCH", "DELETE"]

# --- paths ---

@app.route("/")
def root(req):
    return {"root": True}

@app.route("/items/<name>")
def item(req, name):
    return {"name": name}

@app.route("/items/special")
def special(req):
    return {"special": True}

@app.route("/int/<int:n>")
def whole(req, n):
    return {"n": n, "kind": type(n).__name__}

@app.route("/float/<float:x>")
def real(req, x):
    return {"x": x, "kind": type(x).__name__}

@app.route("/tree/<path:rest>")
def tree(req, rest):
    return {"rest": rest}

@app.route("/pair/<first>/of/<int:second>")
def pair(req, first, second):
    return {"pair": [first, second]}

@app.route("/img-<int:n>.png")
def image(req, n):
    return {"image": n}

@app.route("/folder/")
def folder(req):
    return {"folder": True}

@app.route("/alone/<name>")
def alone(name):
    return {"name": name, "method": request.method}

@app.route("/nothing")
def nothing():
    return {"path": request.path, "context": get_context_type()}

@http.route("/by-endpoint")
def by_endpoint(req):
    return {"by": "endpoint"}

# --- methods ---

@app.route("/things")
def list_things(req):
    return []

@app.route("/things", methods=["POST"])
def add_thing(req):
    return {"added": req.payload}, 201

@app.route("/things/<id>", methods=["PUT", "PATCH", "DELETE"])
def change_thing(req, id):
    return {"method": req.method, "id": id, "payload": req.payload}

@app.route("/own-options", methods=["OPTIONS", "GET"])
def own_options(req):
    return {"mine": req.method}

@app.route("/odd", methods=["purge"])
def purge(req):
    return {"method": req.method}

# --- what a request holds ---

def plain_files(files):
    return {
        name: [one.filename for one in each] if isinstance(each, list)
        else {"filename": each.filename, "type": each.content_type, "size": each.size}
        for name, each in files.items()
    }

@app.route("/echo", methods=EVERY)
def echo(req):
    payload = req.payload
    if req.files:
        payload = {name: value for name, value in payload.items() if name not in req.files}
    return {
        "method": req.method, "path": req.path, "payload": payload, "params": dict(req.params),
        "query": dict(req.query), "json": req.json, "form": req.form, "files": plain_files(req.files),
        "cookies": dict(req.cookies),
    }

@app.route("/headers")
def headers(req):
    return {
        "exact": req.headers.get("X-Mark"), "lower": req.headers.get("x-mark"), "index": req.headers["X-MARK"],
        "in": "X-Mark" in req.headers, "all": dict(req.headers.items()),
    }

@app.route("/request/<int:n>", methods=["POST"])
def whole_request(req, n):
    return {
        "raw": sorted(req.raw), "raw_json": json.loads(json.dumps(req.raw)), "reply_to": req.reply_to,
        "service": req.service, "request_id": req.request_id, "is": isinstance(req, HttpRequest),
        "same": request.payload == req.payload and request.request_id == req.request_id,
    }

@app.route("/upload", methods=["POST"])
def upload(req):
    field = req.payload["f"]
    import hashlib
    first = hashlib.sha256(field["value"]).hexdigest()
    again = hashlib.sha256(req.files["f"].read()).hexdigest()
    req.files["f"].save("saved.bin")
    with open("saved.bin", "rb") as saved:
        on_disk = hashlib.sha256(saved.read()).hexdigest()
    return {"name": field["filename"], "size": req.files["f"].size, "hashes": [first, again, on_disk]}

@app.route("/bytes", methods=["POST"])
def received_bytes(req):
    return req.payload

# --- results ---

class Point:
    def __init__(self, x):
        self.x = x

class Known:
    def to_dict(self):
        return {"known": True}

KINDS = {
    "at": datetime.datetime(2026, 1, 2, 3, 4, 5), "on": datetime.date(2026, 1, 2), "time": datetime.time(3, 4),
    "took": datetime.timedelta(seconds=90), "price": decimal.Decimal("1.5"), "set": {1}, "text": b"abc",
    "hex": bytes([255, 1]), "point": Point(1), "known": Known(), "uuid": uuid.UUID(int=1),
}
circle = {}
circle["itself"] = circle

RESULTS = {
    "dict": lambda: {"a": 1}, "list": lambda: [1, 2], "text": lambda: "gr\\u00fc\\u00df dich",
    "html": lambda: "<h1>\\u00fc</h1>",
    "empty-text": lambda: "", "bytes": lambda: bytes([0, 255]), "none": lambda: None, "number": lambda: 42,
    "true": lambda: True, "pair": lambda: ({"a": 1}, 201), "triple": lambda: ({"a": 1}, 202, {"X-Own": "yes"}),
    "pairs-of-headers": lambda: ("text", 200, [("X-Own", "yes"), ("Content-Type", "text/css")]),
    "none-201": lambda: (None, 201), "kinds": lambda: KINDS, "circle": lambda: circle, "function": lambda: print,
    "nan": lambda: {"n": float("nan")}, "surrogate": lambda: {"s": "\\ud800"}, "surrogate-text": lambda: "\\ud800",
    "response": lambda: HttpResponse(None).send({"mine": True}, 203),
    "bad-status": lambda: ({"a": 1}, 99), "text-status": lambda: ({"a": 1}, "200"),
    "status-204": lambda: ({"a": 1}, 204),
    "status-304": lambda: ("text", 304), "pair-of-values": lambda: (1, "b"),
    "pair-with-headers": lambda: ({"a": 1}, {"X-Own": "yes"}),
    "nested": lambda: {"inner": HttpResponse(None).send({"a": 1})},
    "dates": lambda: ("x", 200, {"Date": "never", "Server": "Acme"}),
    "own-length": lambda: ("xyz", 200, {"Content-Length": "1"}),
    "own-coding": lambda: ("xyz", 200, {"Transfer-Encoding": "chunked"}),
}

@app.route("/result/<kind>")
def result(req, kind):
    return RESULTS[kind]()

@app.route("/says/<how>")
def says(req, how):
    if how == "send":
        return response.send({"n": 1}, 201)
    if how == "send-without-return":
        response.send({"n": 1}, 201)
        return None
    if how == "success":
        return response.success({"n": 1})
    if how == "error":
        return response.error("no good")
    if how == "error-409":
        return response.error(ValueError("no good"), 409)
    if how == "error-keyword":
        return response.error("no good", status_code=409)
    if how == "returned-over-said":
        response.send({"said": True}, 201)
        return {"returned": True}
    if how == "twice":
        response.send({"n": 1}, 201)
        return response.send({"n": 2}, 202)
    if how == "own":
        own = HttpResponse(None)
        own.set_status(418)
        own.send({"n": 1}, 418)
        return own
    if how == "get-response":
        own = HttpResponse(None)
        own.send({"n": 1}, 201)
        return {"status": own.get_response()[1], "chained": HttpResponse(None).set_status(404).get_response()[1]}

@app.route("/set/<what>")
def set_things(req, what):
    value = req.query.get("v", "")
    if what == "header":
        return {"ok": 1}, 200, {"X-Value": value}
    if what == "header-name":
        return {"ok": 1}, 200, {value: "x"}
    if what == "method-header":
        return response.send({"ok": 1}).header("X-Value", value)
    if what == "type":
        return response.send("text", content_type=value)
    if what == "cookie":
        return response.send({"ok": 1}).set_cookie("c", value)
    if what == "cookie-name":
        return response.send({"ok": 1}).set_cookie(value, "v")
    if what == "cookie-path":
        return response.send({"ok": 1}).set_cookie("c", "v", path=value)
    if what == "redirect":
        return response.redirect(value)
    if what == "download":
        return response.file(__file__, download_name=value)
    if what == "error":
        raise HttpError(400, value, (("X-Value", value),))

@app.route("/cookies")
def cookies(req):
    return response.send({"ok": 1}).set_cookie("a", "1").set_cookie("b", "2", max_age=60, secure=True, httponly=False)

@app.route("/file")
def one_file(req):
    return response.file("page.html")

@app.route("/no-file")
def no_file(req):
    return response.file("does-not-exist")

# --- streams ---

@app.route("/stream/<kind>")
def stream(req, kind):
    if kind == "text":
        return (f"part {n}\\n" for n in range(3))
    if kind == "bytes":
        return (bytes([n]) for n in range(4))
    if kind == "values":
        return ({"n": n} for n in range(3))
    if kind == "empty":
        return (part for part in ())
    if kind == "empty-parts":
        return iter_empty()
    if kind == "typed":
        return iter_text(), 201, {"Content-Type": "text/csv"}
    if kind == "big":
        return ("x" * 100_000 for _ in range(30))
    if kind == "fails":
        return iter_fails()
    if kind == "fails-at-once":
        return iter_fails_at_once()
    if kind == "events":
        return response.events(iter_events())
    if kind == "endless":
        return iter_endless()

def iter_text():
    yield "a,b\\n"
    yield "1,2\\n"

def iter_empty():
    yield ""
    yield "something"
    yield b""

def iter_fails():
    yield "begun"
    raise RuntimeError("secret-stream")

def iter_fails_at_once():
    raise RuntimeError("secret-stream")
    yield

def iter_events():
    yield {"n": 1}
    yield ("news", {"n": 2})
    yield "two\\nlines"

def iter_endless():
    note("endless begun")
    try:
        while True:
            yield "x" * 10_000
    finally:
        note("endless closed")

@app.route("/generator")
def generator(req):
    for n in range(3):
        yield f"{req.query.get('word', 'none')} {n}\\n"

@app.route("/async")
async def asynchronous(req):
    await asyncio.sleep(0.01)
    return {"async": request.path}

@app.route("/async-pair/<int:n>")
async def asynchronous_pair(n):
    await asyncio.sleep(0)
    return {"n": n}, 201

@app.route("/async-generator")
async def asynchronous_generator(req):
    for n in range(3):
        await asyncio.sleep(0)
        yield f"{n}\\n"

@app.route("/async-endless")
async def asynchronous_endless(req):
    note("async endless begun")
    try:
        while True:
            await asyncio.sleep(0.001)
            yield "x" * 10_000
    finally:
        note("async endless closed")

gate = threading.Event()

@app.route("/wait")
def wait(req):
    gate.wait(20)
    gate.clear()
    return {"waited": True}

@app.route("/open-gate")
def open_gate(req):
    gate.set()
    return {"opened": True}

in_step = asyncio.Event()

@app.route("/async-wait")
async def async_wait(req):
    await in_step.wait()
    return {"n": req.query["n"]}

@app.route("/async-go")
async def async_go(req):
    in_step.set()
    return {}

# --- both doors ---

def level():
    return {"level": request.payload.get("level"), "context": get_context_type()}

@app.action("level")
def level_action():
    return response.success(level())

@app.route("/level", methods=["POST"])
def level_route(req):
    logger.info(f"level asked by {req.remote_address.partition(':')[0]}")
    return response.send(level(), 200)
"""


# A service of its own, because the log shows only so many failures at once.
FAILING = """
import asyncio
from daebus import HttpError

@app.route("/fail/<how>")
def fail(req, how):
    if how == "exception":
        raise RuntimeError("secret-password")
    if how == "key":
        return {}["secret-key"]
    if how == "http":
        raise HttpError(404, "no such device")
    if how == "http-plain":
        raise HttpError(418)
    if how == "http-headers":
        raise HttpError(429, "slow down", (("Retry-After", "7"),))
    if how == "exit":
        sys.exit("secret-exit")
    if how == "system-exit":
        raise SystemExit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "async":
        return failing_later()

async def failing_later():
    raise RuntimeError("secret-async")

@app.route("/fail-async")
async def fail_async(req):
    await asyncio.sleep(0)
    raise RuntimeError("secret-async")

@app.route("/missing-argument/<name>")
def needs_name(req, name):
    raise TypeError("secret-type")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, own_side: Side, bus: PrivateServer) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("site"), own_side)
    script = launcher.site(SITE, server=bus)
    (script.folder / "page.html").write_text("<!doctype html><p>ü", encoding="utf-8")
    yield script
    launcher.end_all()


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, own_side: Side, bus: PrivateServer) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("failing"), own_side)
    yield launcher.site(FAILING, server=bus)
    launcher.end_all()


@pytest.fixture(autouse=True)
def still_whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the service lives, and still serves."""
    yield
    if "site" in request.fixturenames:
        script: Script = request.getfixturevalue("site")
        assert script.alive, script.log[-3000:]
        assert "defect of Daebus" not in script.log


def get(site: Script, target: str, **headers: str) -> HttpAnswer:
    """GET, with everything checked that is true of every answer."""
    answer = fetch(site.port, "GET", target, {name.replace("_", "-"): value for name, value in headers.items()})
    return proper(answer)


def proper(answer: HttpAnswer) -> HttpAnswer:
    assert answer.version == "1.1"
    assert answer.header("x-content-type-options") == "nosniff"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.header("date"))
    assert not answer.all("server")
    if answer.body:
        assert answer.header("content-type")
    return answer


def error_of(answer: HttpAnswer, status: int) -> str:
    """The text of an error answer, which is JSON with a text under `error`."""
    assert answer.status == status, answer
    text = proper(answer).json()["error"]
    assert isinstance(text, str)
    assert text
    return text


def posted(site: Script, target: str, headers: dict[str, str], body: bytes, method: str = "POST") -> HttpAnswer:
    return proper(fetch(site.port, method, target, headers, body))


# --- paths and their values ---


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", {"root": True}),
        ("/?a=1", {"root": True}),
        ("/items/123", {"name": "123"}),
        ("/items/special", {"special": True}),
        ("/items/a%20b", {"name": "a b"}),
        ("/items/a+b", {"name": "a+b"}),
        ("/items/a%2Fb", {"name": "a/b"}),
        ("/items/a%2fb", {"name": "a/b"}),
        ("/items/%C3%BC", {"name": "ü"}),
        ("/items/%25", {"name": "%"}),
        ("/items/%2525", {"name": "%25"}),
        ("/items/a;b=c", {"name": "a;b=c"}),
        ("/items/...", {"name": "..."}),
        ("/items/%3Cb%3E", {"name": "<b>"}),
        ("/int/0", {"n": 0, "kind": "int"}),
        ("/int/-7", {"n": -7, "kind": "int"}),
        ("/int/007", {"n": 7, "kind": "int"}),
        ("/float/1", {"x": 1.0, "kind": "float"}),
        ("/float/-1.5", {"x": -1.5, "kind": "float"}),
        ("/tree/a", {"rest": "a"}),
        ("/tree/a/b/c", {"rest": "a/b/c"}),
        ("/tree/a%2Fb/c", {"rest": "a/b/c"}),
        ("/pair/x/of/2", {"pair": ["x", 2]}),
        ("/img-12.png", {"image": 12}),
        ("/alone/me", {"name": "me", "method": "GET"}),
        ("/nothing", {"path": "/nothing", "context": "http"}),
        ("/by-endpoint", {"by": "endpoint"}),
        ("/folder/", {"folder": True}),
    ],
)
def test_s45_s46_s48_a_path_finds_its_function(site: Script, target: str, expected: object) -> None:
    answer = get(site, target)
    assert (answer.status, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    "target",
    [
        "/nowhere",
        "/items",
        "/items/",
        "/items/a/b",
        "//",
        "//items/a",
        "/Items/a",
        "/int/abc",
        "/int/1.0",
        "/int/1_000",
        "/int/%2B1",
        "/int/",
        "/int/%C2%B2",
        "/int/%D9%A1",
        "/float/nan",
        "/float/inf",
        "/float/1e5",
        "/float/1.",
        "/float/.5",
        "/tree/",
        "/tree",
        "/pair/x/of/y",
        "/img-.png",
        "/img-12.pngx",
        "/img-12xpng",
    ],
)
def test_what_is_not_there_is_404(site: Script, target: str) -> None:
    assert error_of(fetch(site.port, "GET", target), 404) == "Not Found"


def test_a_long_whole_number_in_a_path_is_no_error_of_the_service(site: Script) -> None:
    assert get(site, "/int/" + "9" * 5000).status in (200, 404)


@pytest.mark.parametrize(
    "target",
    [
        "/items/%",
        "/items/%2",
        "/items/%zz",
        "/items/%FF",
        "/items/%C0%AE",
        "/items/%ED%A0%80",
        "/items/%00",
        "/items/a%00b",
        "/items/..",
        "/items/%2e%2e",
        "/items/.",
        "/../items/a",
        "/tree/a/../b",
        "/tree/a%2f..%2fb",
        "/tree/a%5c..%5cb",
        "/tree/..%5c",
        "/items/a#b",
        "/echo?a=%FF",
        "/echo?%ED%A0%80=1",
    ],
)
def test_what_cannot_be_meant_is_400(site: Script, target: str) -> None:
    error_of(fetch(site.port, "GET", target), 400)


def test_a_folder_without_its_slash_is_sent_to_it(site: Script) -> None:
    answer = get(site, "/folder?a=1")
    assert answer.status in (301, 302, 307, 308)
    assert answer.header("location").endswith("/folder/?a=1")
    assert not answer.header("location").startswith("//")


def test_what_is_not_ascii_in_a_request_line_is_refused(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send("GET /items/ü HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert error_of(link.answer(), 400)


# --- methods ---


def test_s49_methods_of_a_path_are_apart(site: Script) -> None:
    assert get(site, "/things").json() == []
    made = post_json(site.port, "/things", {"n": 1})
    assert (made.status, made.json()) == (201, {"added": {"n": 1}})
    for method in ("PUT", "PATCH", "DELETE"):
        answer = post_json(site.port, "/things/x", {"n": 1}, method)
        assert answer.json() == {"method": method, "id": "x", "payload": {"n": 1}}


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("DELETE", "/things", {"get", "head", "options", "post"}),
        ("GET", "/things/x", {"put", "patch", "delete", "options"}),
        ("HEAD", "/things/x", {"put", "patch", "delete", "options"}),
        ("TRACE", "/things", {"get", "head", "options", "post"}),
        ("BREW", "/things", {"get", "head", "options", "post"}),
        ("get", "/things", {"get", "head", "options", "post"}),
    ],
)
def test_405_says_what_is_allowed(site: Script, method: str, target: str, allow: set[str]) -> None:
    answer = proper(fetch(site.port, method, target))
    assert (answer.status, answer.words("allow")) == (405, allow)
    if method != "HEAD":
        assert error_of(answer, 405) == "Method Not Allowed"


def test_connect_and_an_odd_method(site: Script) -> None:
    assert fetch(site.port, "CONNECT", "localhost:80").status in (400, 404, 405, 501)
    assert fetch(site.port, "PURGE", "/odd").json() == {"method": "PURGE"}


def test_options_is_answered_by_itself(site: Script) -> None:
    answer = proper(fetch(site.port, "OPTIONS", "/things"))
    assert answer.status in (200, 204)
    assert answer.words("allow") == {"get", "head", "options", "post"}
    assert fetch(site.port, "OPTIONS", "/nowhere").status == 404
    assert fetch(site.port, "OPTIONS", "*").status in (200, 204)
    assert fetch(site.port, "OPTIONS", "/own-options").json() == {"mine": "OPTIONS"}


@pytest.mark.parametrize("target", ["/things", "/result/text", "/result/none", "/file", "/nowhere", "/result/circle"])
def test_head_is_get_without_its_body(site: Script, target: str) -> None:
    with HttpLink(site.port) as link:
        got, head = link.get(target), link.ask("HEAD", target)
        assert head.status == got.status
        for name in ("content-type", "content-length", "etag", "allow"):
            if name != "content-length" or "error_id" not in got.text:
                assert head.all(name) == got.all(name)
        assert link.get("/things").json() == [], "no byte of a body came after the head"


def test_head_of_a_stream(site: Script) -> None:
    with HttpLink(site.port) as link:
        assert link.ask("HEAD", "/stream/text").status == 200
        assert link.get("/things").status == 200
    assert fetch(site.port, "HEAD", "/stream/endless").status == 200
    wait_for(lambda: site.notes.count("endless begun") == site.notes.count("endless closed"), ANSWER_SECONDS)


# --- what a request holds ---


def test_s51_params_are_of_the_path_and_of_the_query(site: Script) -> None:
    found = get(site, "/echo?name=Bob&n=1&n=2&empty=&plus=a+b&enc=%C3%BC%26").json()
    fields = {"name": "Bob", "n": ["1", "2"], "empty": "", "plus": "a b", "enc": "ü&"}
    assert found["params"] == found["query"] == found["payload"] == fields
    assert (found["json"], found["form"], found["files"]) == (None, {}, {})


def test_the_value_of_a_path_is_not_replaced_by_the_query(site: Script) -> None:
    answer = fetch(site.port, "PUT", "/things/7?id=8", {}, b"")
    assert answer.json() == {"method": "PUT", "id": "7", "payload": {"id": "8"}}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_s50_s53_bodies_of_every_method(site: Script, method: str) -> None:
    as_json = posted(site, "/echo?q=1", JSON, b'{"a": [1, null]}', method).json()
    assert (as_json["payload"], as_json["json"]) == ({"a": [1, None]}, {"a": [1, None]})
    assert (as_json["query"], as_json["params"], as_json["method"]) == ({"q": "1"}, {"q": "1"}, method)
    as_form = posted(site, "/echo", FORM, b"a=1&b=x+y&c=%C3%BC&c=2&d=", method).json()
    assert as_form["payload"] == as_form["form"] == {"a": "1", "b": "x y", "c": ["ü", "2"], "d": ""}
    assert as_form["json"] is None


def test_a_get_may_have_a_body(site: Script) -> None:
    with HttpLink(site.port) as link:
        assert link.ask("GET", "/echo", JSON, b'{"n": 1}').json()["payload"] == {"n": 1}
        assert link.get("/things").json() == []


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
def test_kinds_of_json(site: Script, kind: str) -> None:
    assert posted(site, "/echo", {"Content-Type": kind}, '{"ü": "€"}'.encode()).json()["payload"] == {"ü": "€"}


@pytest.mark.parametrize("body", [b"[1]", b"1", b'"text"', b"true", b"{}", b"[]", b"0", b'""'])
def test_b6_json_is_more_than_objects(site: Script, body: bytes) -> None:
    found = posted(site, "/echo", JSON, body).json()
    assert (found["payload"], found["json"]) == (json.loads(body), json.loads(body))


def test_b6_null(site: Script) -> None:
    assert posted(site, "/echo", JSON, b"null").json()["payload"] in (None, {})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{]",
        b"{'a': 1}",
        b'{"a": 1} x',
        b'"\xff"',
        b"\xff\xfe{\x00}\x00",
        b"NaN",
        b'{"a": Infinity}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 50_000,
        b"9" * 5000,
        b" ",
        b"\x00",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_b6_broken_json_is_400(site: Script, body: bytes) -> None:
    text = error_of(posted(site, "/echo", JSON, body), 400)
    assert "Traceback" not in text
    assert len(text) < 300


def test_broken_json_does_not_end_the_connection(site: Script) -> None:
    with HttpLink(site.port) as link:
        for _ in range(3):
            assert link.ask("POST", "/echo", JSON, b"{").status == 400
            assert link.get("/things").status == 200


@pytest.mark.parametrize(
    "text",
    ['{"a": "\\ud800"}', '{"\\udfff": 1}', '{"a": "\\u0000"}', '{"a": 1e400}', '{"a": -0.0}', '{"a": 1, "a": 2}'],
)
def test_odd_json_is_no_error_of_the_service(site: Script, text: str) -> None:
    assert posted(site, "/echo", JSON, text.encode()).status in (200, 400)


@pytest.mark.parametrize("body", [b"a=%FF", b"a=\xff", "&".join(["a=1"] * 1001).encode()])
def test_a_broken_form_is_400(site: Script, body: bytes) -> None:
    error_of(posted(site, "/echo", FORM, body), 400)


def test_too_many_fields_in_a_query_are_400(site: Script) -> None:
    assert len(get(site, "/echo?" + "&".join(["a"] * 1000)).json()["query"]["a"]) == 1000
    error_of(fetch(site.port, "GET", "/echo?" + "&".join(["a"] * 1001)), 400)


def test_a_body_of_another_kind_arrives_as_it_is(site: Script) -> None:
    sent = bytes(range(256))
    answer = posted(site, "/bytes", {"Content-Type": "application/octet-stream"}, sent)
    assert (answer.body, answer.header("content-type")) == (sent, "application/octet-stream")
    assert posted(site, "/bytes", {}, b"no type").body == b"no type"
    assert posted(site, "/bytes", {"Content-Type": "text/plain"}, b"text").body == b"text"


def test_an_empty_body_is_no_body(site: Script) -> None:
    assert posted(site, "/echo?a=1", {}, b"").json()["payload"] == {"a": "1"}
    assert posted(site, "/echo?a=1", FORM, b"").json()["payload"] == {"a": "1"}
    assert posted(site, "/echo", JSON, b"").status in (200, 400)


def test_a_compressed_body_is_not_taken_for_its_content(site: Script) -> None:
    answer = posted(site, "/echo", {**JSON, "Content-Encoding": "gzip"}, b"\x1f\x8b\x08\x00nonsense")
    assert answer.status in (400, 415)


def test_u22_headers_are_found_in_any_case(site: Script) -> None:
    found = get(site, "/headers", X_MaRK="abc").json()
    assert [found[key] for key in ("exact", "lower", "index", "in")] == ["abc", "abc", "abc", True]
    assert found["all"]["x-mark"] == "abc"


def test_headers_that_are_not_ascii_arrive_as_latin_1(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(b"GET /headers HTTP/1.1\r\nHost: localhost\r\nX-Mark: \xfc\r\n\r\n")
        assert link.answer().json()["exact"] == "ü"


def test_repeated_headers_are_joined(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(b"GET /headers HTTP/1.1\r\nHost: localhost\r\nX-Mark: a\r\nx-mark: b\r\n\r\n")
        assert link.answer().json()["exact"] == "a, b"


def test_cookies_arrive(site: Script) -> None:
    found = get(site, "/echo", Cookie='a=1; b="two words"; broken; =x; a=2; c=').json()
    assert found["cookies"]["a"] == "1"
    assert found["cookies"]["b"] == "two words"
    assert found["cookies"]["c"] == ""
    assert "broken" not in found["cookies"]


def test_u22_the_request_has_what_older_programs_read(site: Script) -> None:
    answer = post_json(site.port, "/request/5?q=1", {"n": 1})
    found = answer.json()
    assert found["raw"] == ["form", "headers", "json", "method", "params", "path", "query"]
    raw = found["raw_json"]
    assert (raw["method"], raw["path"], raw["json"], raw["query"]) == ("POST", "/request/5", {"n": 1}, {"q": "1"})
    assert raw["params"] == {"q": "1", "n": 5}
    assert raw["headers"]["content-type"] == "application/json"
    assert (found["reply_to"], found["service"], found["is"], found["same"]) == (None, "http", True, True)
    assert found["request_id"].startswith("http-")
    assert post_json(site.port, "/request/5?q=1", {"n": 1}).json()["request_id"] != found["request_id"]


def test_the_standard_library_s_client(site: Script) -> None:
    client = http.client.HTTPConnection("127.0.0.1", site.port, timeout=ANSWER_SECONDS)
    for n in range(3):
        client.request("GET", f"/echo?n={n}")
        answer = client.getresponse()
        assert (answer.status, json.load(answer)["payload"]) == (200, {"n": str(n)})
    client.request("POST", "/bytes", body=iter([b"one ", b"two"]))  # chunked
    assert client.getresponse().read() == b"one two"
    client.request("GET", "/stream/big")
    assert len(client.getresponse().read()) == 3_000_000
    client.request("HEAD", "/items/a")
    assert client.getresponse().read() == b""
    client.request("DELETE", "/nowhere")
    assert client.getresponse().read() == b'{"error":"Not Found"}'
    client.close()


# --- uploads ---


def multipart(*parts: tuple[str, bytes], boundary: str = "aBcD") -> bytes:
    """Parts with their headers, without the empty line."""
    lines = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + body + b"\r\n" for head, body in parts]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


def file_part(name: str, filename: str, body: bytes, kind: str = "application/octet-stream") -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: {kind}', body


def field_part(name: str, body: bytes) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', body


def upload(site: Script, target: str, body: bytes, boundary: str = "aBcD") -> HttpAnswer:
    return posted(site, target, {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body)


@pytest.mark.parametrize("size", [0, 1, 100_000, 262_143, 262_144, 262_145, 1_000_000])
def test_u24_uploads_of_every_size_arrive_whole(site: Script, size: int) -> None:
    import hashlib

    content = (b"\r\n--aBc\x00\xff" * (size // 8 + 1))[:size]
    answer = upload(site, "/upload", multipart(field_part("note", b"x"), file_part("f", "a.bin", content)))
    right = hashlib.sha256(content).hexdigest()
    assert answer.json() == {"name": "a.bin", "size": size, "hashes": [right] * 3}


def test_large_uploads_leave_nothing_behind(site: Script) -> None:
    body = multipart(file_part("f", "a.bin", b"x" * 900_000))
    upload(site, "/upload", body)
    before = site.descriptors()
    for _ in range(10):
        assert upload(site, "/upload", body).status == 200
    wait_for(lambda: site.descriptors() <= before, ANSWER_SECONDS)


def test_u24_fields_and_files_are_apart(site: Script) -> None:
    body = multipart(
        field_part("a", b"1"),
        field_part("a", "ü".encode()),
        file_part("f", "x.txt", b"hello", "text/plain"),
        file_part("two", "1", b""),
        file_part("two", "2", b""),
    )
    found = upload(site, "/echo", body).json()
    assert found["form"] == found["payload"] == {"a": ["1", "ü"]}
    assert found["files"]["f"] == {"filename": "x.txt", "type": "text/plain", "size": 5}
    assert found["files"]["two"] == ["1", "2"]


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\evil\\\\a.txt", "a.txt"),
        ("%22quoted%22.txt", '"quoted".txt'),
        ("ü.txt", "ü.txt"),
        ("..", ""),
        ("a/", ""),
    ],
)
def test_the_name_of_an_uploaded_file_has_no_path(site: Script, sent: str, arrives: str) -> None:
    body = multipart(file_part("f", "PLACE", b"x")).replace(b"PLACE", sent.encode())
    name = upload(site, "/echo", body).json()["files"]["f"]["filename"]
    assert "/" not in name
    assert name not in ("..", ".")
    if arrives:
        assert name == arrives


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"--aBcD",
        multipart(field_part("a", b"1"))[:-4],
        multipart(field_part("a", b"1"))[:-8],
        multipart(("X: y", b"1")),
        multipart(('Content-Disposition: form-data; filename="x"', b"1")),
        multipart(('Content-Disposition: attachment; name="x"', b"1")),
        multipart((f'Content-Disposition: form-data; name="x"\r\nX: {"y" * 9000}', b"1")),
        multipart(*[field_part("a", b"")] * 1001),
        b"--abcd\r\n" + multipart(field_part("a", b"1"), boundary="abcd"),
    ],
    ids=lambda body: repr(body[:20]) + str(len(body)),
)
def test_a_broken_upload_is_400(site: Script, body: bytes) -> None:
    answer = upload(site, "/echo", body)
    if body:
        error_of(answer, 400)
    assert answer.status < 500


@pytest.mark.parametrize("parameter", ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 200])
def test_an_upload_without_a_usable_boundary_is_400(site: Script, parameter: str) -> None:
    answer = posted(
        site, "/echo", {"Content-Type": f"multipart/form-data{parameter}"}, multipart(field_part("a", b"1"))
    )
    error_of(answer, 400)


def test_a_boundary_may_be_quoted(site: Script) -> None:
    body = multipart(field_part("a", b"1"), boundary="a b:c")
    assert upload(site, "/echo", body, boundary='"a b:c"').json()["form"] == {"a": "1"}


# --- results ---


@pytest.mark.parametrize(
    ("kind", "status", "content_type", "body"),
    [
        ("dict", 200, "application/json", b'{"a":1}'),
        ("list", 200, "application/json", b"[1,2]"),
        ("text", 200, "text/plain; charset=utf-8", "grüß dich".encode()),
        ("html", 200, "text/html; charset=utf-8", "<h1>ü</h1>".encode()),
        ("empty-text", 200, "text/plain; charset=utf-8", b""),
        ("bytes", 200, "application/octet-stream", b"\x00\xff"),
        ("none", 204, "", b""),
        ("number", 200, "application/json", b"42"),
        ("true", 200, "application/json", b"true"),
        ("pair", 201, "application/json", b'{"a":1}'),
        ("triple", 202, "application/json", b'{"a":1}'),
        ("pairs-of-headers", 200, "text/css", b"text"),
        ("response", 203, "application/json", b'{"mine":true}'),
        ("pair-of-values", 200, "application/json", b'[1,"b"]'),
        ("pair-with-headers", 200, "application/json", b'{"a":1}'),
    ],
)
def test_u21_s52_a_result_is_the_answer(site: Script, kind: str, status: int, content_type: str, body: bytes) -> None:
    answer = get(site, f"/result/{kind}")
    assert (answer.status, answer.header("content-type"), answer.body) == (status, content_type, body)
    assert answer.framing == ("none" if status == 204 else "length")
    if kind in ("triple", "pairs-of-headers", "pair-with-headers"):
        assert answer.header("x-own") == "yes"


def test_none_with_a_status(site: Script) -> None:
    assert get(site, "/result/none-201").status == 201


def test_u20_values_that_json_does_not_know(site: Script) -> None:
    assert get(site, "/result/kinds").json() == {
        "at": "2026-01-02T03:04:05",
        "on": "2026-01-02",
        "time": "03:04:00",
        "took": "0:01:30",
        "price": 1.5,
        "set": [1],
        "text": "abc",
        "hex": "ff01",
        "point": {"x": 1},
        "known": {"known": True},
        "uuid": "00000000-0000-0000-0000-000000000001",
    }


@pytest.mark.parametrize(
    "kind",
    ["circle", "function", "nan", "surrogate-text", "bad-status", "text-status", "nested", "own-length", "own-coding"],
)
def test_u39_a_result_that_cannot_be_sent_is_an_error_of_the_service(site: Script, kind: str) -> None:
    with HttpLink(site.port) as link:
        answer = link.get(f"/result/{kind}")
        if kind == "text-status" and answer.status == 200:
            assert answer.json() == [{"a": 1}, "200"], "a pair of values is a list"
            return
        assert error_of(answer, 500) == "Internal server error"
        assert answer.json()["error_id"] in site.log
        assert link.get("/things").json() == [], "the connection is in step"


def test_a_lone_surrogate_in_json(site: Script) -> None:
    assert get(site, "/result/surrogate").json() == {"s": "\ud800"}


@pytest.mark.parametrize("kind", ["status-204", "status-304"])
def test_statuses_without_a_body_have_none(site: Script, kind: str) -> None:
    with HttpLink(site.port) as link:
        assert link.get(f"/result/{kind}").status in (204, 304)
        assert link.get("/things").json() == []


def test_the_services_own_date_wins_and_a_server_header_is_the_handlers_business(site: Script) -> None:
    answer = fetch(site.port, "GET", "/result/dates")
    assert answer.header("date") != "never"


@pytest.mark.parametrize(
    ("how", "status", "body"),
    [
        ("send", 201, {"n": 1}),
        ("send-without-return", 201, {"n": 1}),
        ("success", 200, {"n": 1}),
        ("error", 400, {"status": "error", "error": "no good"}),
        ("error-409", 409, {"status": "error", "error": "no good"}),
        ("error-keyword", 409, {"status": "error", "error": "no good"}),
        ("returned-over-said", 200, {"returned": True}),
        ("twice", 202, {"n": 2}),
        ("own", 418, {"n": 1}),
        ("get-response", 200, {"status": 201, "chained": 404}),
    ],
)
def test_s47_s56_s57_u21_what_a_handler_says_with_response(site: Script, how: str, status: int, body: object) -> None:
    answer = get(site, f"/says/{how}")
    if how == "returned-over-said":  # the status that was said may stay
        assert answer.json() == body
        return
    assert (answer.status, answer.json()) == (status, body)


def test_u38_bodies_are_compact_unless_debugging(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(
        """
        @app.route("/")
        def root(req):
            return {"a": [1]}
        """,
        server=bus,
        run={"debug": True},
    )
    answer = get(site, "/")
    assert answer.text.strip() == json.dumps({"a": [1]}, indent=2)


# --- headers and cookies ---

INJECTIONS = [
    "a%0d%0aX-Injected:%20yes",
    "a%0aX-Injected:%20yes",
    "a%0dX-Injected:%20yes",
    "a%00b",
    "a%0d%0a%0d%0abody",
]


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize(
    "what",
    ["header", "header-name", "method-header", "type", "cookie", "cookie-name", "cookie-path", "redirect", "download"],
)
def test_no_value_can_add_a_header(site: Script, what: str, value: str) -> None:
    with HttpLink(site.port) as link:
        answer = proper(link.get(f"/set/{what}?v={value}"))
        assert not answer.all("x-injected")
        assert answer.body != b"body"
        assert answer.status == 500 or what in ("redirect", "download")
        assert link.get("/things").json() == []


@pytest.mark.parametrize("value", INJECTIONS)
def test_nor_an_error_that_is_raised(site: Script, value: str) -> None:
    answer = get(site, f"/set/error?v={value}")
    assert not answer.all("x-injected")
    assert answer.status in (400, 500)


@pytest.mark.parametrize("value", ["a;b", "a,b", 'a"b', "a b", "a\\b", "%C3%BC"])
def test_no_value_can_add_to_a_cookie(site: Script, value: str) -> None:
    answer = get(site, f"/set/cookie?v={value.replace(' ', '%20')}")
    if answer.status == 200:
        assert re.fullmatch(r"c=[^;,\" ]*; Path=/; HttpOnly; SameSite=Lax", answer.header("set-cookie"))
    else:
        error_of(answer, 500)


def test_no_path_can_add_to_a_cookie(site: Script) -> None:
    answer = get(site, "/set/cookie-path?v=/;%20Domain=example.com")
    assert "Domain=example.com" not in "".join(answer.all("set-cookie")).split("; ")


def test_s12_cookies_are_set(site: Script) -> None:
    first, second = get(site, "/cookies").all("set-cookie")
    assert set(first.split("; ")) == {"a=1", "Path=/", "HttpOnly", "SameSite=Lax"}
    assert set(second.split("; ")) == {"b=2", "Path=/", "Max-Age=60", "Secure", "SameSite=Lax"}


def test_a_redirect(site: Script) -> None:
    answer = get(site, "/set/redirect?v=/other%3Fa=1")
    assert (answer.status, answer.header("location")) == (302, "/other?a=1")


def test_a_file(site: Script) -> None:
    answer = get(site, "/file")
    assert (answer.status, answer.text) == (200, "<!doctype html><p>ü")
    assert answer.header("content-type") == "text/html; charset=utf-8"
    assert error_of(fetch(site.port, "GET", "/no-file"), 500) == "Internal server error"


def test_a_download_has_its_name(site: Script) -> None:
    found = get(site, "/set/download?v=r%C3%A9sum%C3%A9%20%22x%22.py").header("content-disposition")
    assert found == "attachment; filename*=UTF-8''r%C3%A9sum%C3%A9%20%22x%22.py"


# --- errors ---


@pytest.mark.parametrize("target", ["/fail/exception", "/fail/key", "/fail-async", "/missing-argument/x", "/fail/exit"])
def test_b15_u39_the_story_of_a_failure_is_in_the_log_only(failing: Script, target: str) -> None:
    answer = fetch(failing.port, "GET", target)
    assert error_of(answer, 500) == "Internal server error"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    error_id = answer.json()["error_id"]
    wait_for(lambda: error_id in failing.log, ANSWER_SECONDS)
    line = failing.log[failing.log.index(error_id) :]
    assert "secret" in line


@pytest.mark.parametrize("how", ["system-exit", "interrupt"])
def test_a_handler_cannot_end_the_service(failing: Script, how: str) -> None:
    error_of(fetch(failing.port, "GET", f"/fail/{how}"), 500)
    assert error_of(fetch(failing.port, "GET", "/nowhere"), 404)


def test_an_http_error_is_the_answer(failing: Script) -> None:
    assert error_of(fetch(failing.port, "GET", "/fail/http"), 404) == "no such device"
    assert error_of(fetch(failing.port, "GET", "/fail/http-plain"), 418)
    slow_down = fetch(failing.port, "GET", "/fail/http-headers")
    assert error_of(slow_down, 429) == "slow down"
    assert slow_down.header("retry-after") == "7"


def test_a_coroutine_that_is_returned_is_awaited_or_refused_and_never_sent(failing: Script) -> None:
    answer = get(failing, "/fail/async")
    assert answer.status == 500
    assert "coroutine" not in answer.text


# --- streams ---

EVENTS = b'data: {"n":1}\n\nevent: news\ndata: {"n":2}\n\ndata: two\ndata: lines\n\n'


@pytest.mark.parametrize(
    ("target", "content_type", "body"),
    [
        ("/stream/text", "", b"part 0\npart 1\npart 2\n"),
        ("/stream/bytes", "", b"\x00\x01\x02\x03"),
        ("/stream/values", "", b'{"n":0}\n{"n":1}\n{"n":2}\n'),
        ("/stream/empty", "", b""),
        ("/stream/empty-parts", "", b"something"),
        ("/stream/typed", "text/csv", b"a,b\n1,2\n"),
        ("/stream/big", "", b"x" * 3_000_000),
        ("/generator?word=hello", "", b"hello 0\nhello 1\nhello 2\n"),
        ("/async-generator", "", b"0\n1\n2\n"),
        (
            "/stream/events",
            "text/event-stream",
            b'data: {"n":1}\n\nevent: news\ndata: {"n":2}\n\ndata: two\ndata: lines\n\n',
        ),
    ],
)
def test_what_is_yielded_is_streamed(site: Script, target: str, content_type: str, body: bytes) -> None:
    with HttpLink(site.port) as link:
        answer = proper(link.get(target))
        assert (answer.framing, answer.body) == ("chunked", body)
        assert answer.header("content-type").startswith(content_type)
        assert answer.status == (201 if "typed" in target else 200)
        assert link.get("/things").json() == [], "the connection is in step"


@pytest.mark.parametrize("target", ["/stream/text", "/generator", "/async-generator", "/stream/events"])
def test_http_1_0_gets_a_stream_until_the_end_of_the_connection(site: Script, target: str) -> None:
    bodies = []
    for extra in ({}, {"Connection": "keep-alive"}):
        with HttpLink(site.port) as link:
            link.send(link.head("GET", target, extra, version="1.0"))
            answer = link.answer()
            assert answer.framing == "close"
            bodies.append(answer.body)
    assert bodies == [fetch(site.port, "GET", target).body] * 2


def test_a_stream_that_fails_is_not_taken_for_a_whole_one(site: Script) -> None:
    with HttpLink(site.port) as link:
        link.send(link.request("GET", "/stream/fails"))
        link.part(b"begun\r\n")
        with pytest.raises(BrokenAnswer):
            link.part(b"0\r\n\r\n")


def test_a_stream_that_fails_before_its_first_part_is_an_error(site: Script) -> None:
    with HttpLink(site.port) as link:
        assert error_of(link.get("/stream/fails-at-once"), 500) == "Internal server error"
        assert link.get("/things").json() == []


@pytest.mark.parametrize(("target", "word"), [("/stream/endless", "endless"), ("/async-endless", "async endless")])
def test_an_endless_stream_ends_with_its_client(site: Script, target: str, word: str) -> None:
    ended = site.notes.count(f"{word} closed")
    with HttpLink(site.port) as link:
        link.send(link.request("GET", target))
        link.part(b"xxxx")
        link.reset()
    wait_for(lambda: site.notes.count(f"{word} closed") == ended + 1, ANSWER_SECONDS)


def test_a_client_that_never_reads_holds_an_endless_stream_up(site: Script) -> None:
    """What it does not take is not kept for it: the generator waits."""
    before = site.resident_kb()
    with HttpLink(site.port) as link:
        link.send(link.request("GET", "/stream/endless"))
        for _ in range(20):
            assert get(site, "/things").status == 200
        assert site.resident_kb() < before + 24_000
    wait_for(lambda: site.notes.count("endless begun") == site.notes.count("endless closed"), ANSWER_SECONDS)


# --- at the same time ---


def test_s54_s65_a_slow_handler_holds_nobody_up(site: Script) -> None:
    with HttpLink(site.port) as slow:
        slow.send(slow.request("GET", "/wait"))
        for _ in range(5):
            assert get(site, "/things").status == 200
        assert get(site, "/open-gate").json() == {"opened": True}
        assert slow.answer().json() == {"waited": True}


def test_async_handlers(site: Script) -> None:
    assert get(site, "/async").json() == {"async": "/async"}
    answer = get(site, "/async-pair/3")
    assert (answer.status, answer.json()) == (201, {"n": 3})


def test_many_async_handlers_wait_at_once(site: Script) -> None:
    links = [HttpLink(site.port) for _ in range(40)]
    for n, link in enumerate(links):
        link.send(link.request("GET", f"/async-wait?n={n}"))
    assert get(site, "/async-go").json() == {}
    assert [link.answer().json()["n"] for link in links] == [str(n) for n in range(40)]
    for link in links:
        link.close()


def test_s23_s61_one_function_serves_both_doors(site: Script, peer: Peer) -> None:
    over_http = post_json(site.port, "/level", {"level": 3})
    assert over_http.json() == {"level": 3, "context": "http"}
    over_redis = peer.ask(site.service, "level", {"level": 3})
    assert over_redis["payload"] == {"level": 3, "context": "pubsub"}
    wait_for(lambda: "level asked by 127.0.0.1" in site.log, ANSWER_SECONDS)


# --- functions around handlers ---

HOOKED = """
from daebus import HttpError

@app.before
def look():
    note(f"before {request.payload}")
    if request.payload.get("stop"):
        return {"stopped": True}
    if request.payload.get("deny"):
        raise HttpError(401, "who are you?", (("WWW-Authenticate", "Bearer"),))
    if request.payload.get("crash"):
        raise RuntimeError("secret-before")

@app.after
def mark(answer):
    if isinstance(answer, HttpResponse):
        if request.payload.get("crash_after"):
            raise RuntimeError("secret-after")
        answer.header("X-After", "yes")
        return None
    return {**answer, "after": True}

@app.error(404)
def lost(error):
    return {"lost": request.path}

@app.error(405)
def not_so():
    return "<p>not so", 405

@app.error(KeyError)
def no_key(error):
    return {"no": str(error)}, 404

@app.error(LookupError)
def wider(error):
    return {"wider": True}

@app.error(500)
def sorry(error):
    return response.send({"sorry": "secret" not in str(error)}, 500)

@app.error(OSError)
def fails_itself(error):
    raise RuntimeError("secret-hook")

@app.route("/work", methods=["GET", "POST"])
def work(req):
    note("worked")
    return {"worked": True}

@app.route("/async-work")
async def async_work(req):
    return {"worked": True}

@app.route("/fail/<how>")
def fail(req, how):
    raise {"key": KeyError, "index": IndexError, "value": ValueError, "os": OSError}[how]("secret")

@app.route("/stream")
def stream(req):
    yield "a"

@app.action("work")
def work_action():
    return {"worked": True}

@app.action("fail")
def fail_action():
    raise KeyError("k")
"""


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory, own_side: Side, bus: PrivateServer) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("hooked"), own_side)
    yield launcher.site(HOOKED, server=bus)
    launcher.end_all()


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/work", 200, {"worked": True}),
        ("/async-work", 200, {"worked": True}),
        ("/work?stop=1", 200, {"stopped": True}),
        ("/work?deny=1", 401, {"error": "who are you?"}),
        ("/fail/key", 404, {"no": "'secret'"}),
        ("/fail/index", 500, {"wider": True}),
        ("/fail/value", 500, {"sorry": True}),
        ("/work?crash=1", 500, {"sorry": True}),
    ],
)
def test_functions_around_routes(hooked: Script, target: str, status: int, body: object) -> None:
    worked = hooked.notes.count("worked")
    answer = get(hooked, target)
    assert (answer.status, answer.json()) == (status, body)
    assert hooked.notes.count("worked") == worked + (target == "/work")
    if status == 200:
        assert answer.header("x-after") == "yes"
    if status == 401:
        assert answer.header("www-authenticate") == "Bearer"


def test_functions_for_what_no_route_serves(hooked: Script) -> None:
    lost = get(hooked, "/nowhere")
    assert (lost.status, lost.json()) == (404, {"lost": "/nowhere"})
    refused = proper(fetch(hooked.port, "DELETE", "/work"))
    assert (refused.status, refused.text) == (405, "<p>not so")
    assert "get" in refused.words("allow"), "an answer of one's own keeps what HTTP demands"


def test_functions_that_fail_themselves(hooked: Script) -> None:
    for target in ("/fail/os", "/work?crash_after=1"):
        answer = get(hooked, target)
        assert answer.status == 500
        assert "secret" not in answer.text


def test_functions_around_streams(hooked: Script) -> None:
    answer = get(hooked, "/stream")
    assert (answer.body, answer.header("x-after")) == (b"a", "yes")


def test_functions_around_actions(hooked: Script, peer: Peer) -> None:
    assert peer.ask(hooked.service, "work")["payload"] == {"worked": True, "after": True}
    assert peer.ask(hooked.service, "work", {"stop": 1})["payload"]["stopped"] is True
    denied = peer.ask(hooked.service, "work", {"deny": 1})
    assert (denied["status"], denied["payload"]["error"]) == ("error", "who are you?")
    assert "no" in str(peer.ask(hooked.service, "fail")["payload"])


# --- folders ---

FOLDERS = """
import gzip
from pathlib import Path

def put(name, data):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

put("secret.txt", b"secret")
put("www-secret/secret.txt", b"secret")
put("www/index.html", b"<h1>home</h1>")
put("www/app.js", b"let a = 1;" * 500)
put("www/sub/index.html", b"<h1>sub</h1>")
put("www/empty/file.txt", b"")
put("www/bare/inner/a.txt", b"a")
put("www/.hidden", b"secret")
put("www/.git/config", b"secret")
put("www/gr\\u00fc\\u00df e.txt", b"named")
put("www/large.bin", bytes(range(256)) * 40_000)
put("www/made.css", b"a {}" * 500)
put("www/made.css.gz", gzip.compress(b"ready made"))
put("www/evil.example/index.html", b"e")
os.symlink("../secret.txt", "www/link-out.txt")
os.symlink("..", "www/link-up")
os.symlink("/etc/passwd", "www/link-etc")
os.symlink("app.js", "www/link-in.js")
os.symlink("loop", "www/loop")
os.mkfifo("www/fifo")
app.static("/", "www")
app.static("/other", "www/sub")

@app.route("/api")
def api(req):
    return {"api": True}

@app.route("/rewrite")
def rewrite(req):
    put("www/changing.txt", req.query["v"].encode())
    return {}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, own_side: Side, bus: PrivateServer) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("folders"), own_side)
    yield launcher.site(FOLDERS, server=bus)
    launcher.end_all()


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/..//secret.txt",
        "/%2e%2e/secret.txt",
        "/.%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/%252e%252e/secret.txt",
        "/..%c0%afsecret.txt",
        "/..;/secret.txt",
        "/sub/../../secret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/sub%2f..%2f..%2fsecret.txt",
        "/../www-secret/secret.txt",
        "/-secret/secret.txt",
        "/other/../../secret.txt",
        "/other/../index.html",
        "/other..%2findex.html",
        "/link-out.txt",
        "/link-up/secret.txt",
        "/link-up/www/link-up/secret.txt",
        "/link-etc",
        "/loop",
        "/.hidden",
        "/%2ehidden",
        "/.git/config",
        "/sub/../.hidden",
        "/fifo",
        "//etc/passwd",
        "/%2fetc/passwd",
        "//etc%2fpasswd",
        "/C:/secret.txt",
        "/app.js%00",
        "/app.js%00.html",
        "/app.js/",
        "/app.js/.",
        "/app.js/x",
        "/app.js%20",
        "/APP.JS",
        "/bare/",
        "/bare/inner/",
        "/nothing.txt",
        "/" + "a" * 300,
        "/" + "a/" * 2000,
        "/~root/",
        "/index.html~",
        "/%",
    ],
)
def test_nothing_but_the_folder_is_served(folders: Script, target: str) -> None:
    answer = fetch(folders.port, "GET", target)
    assert answer.status in (400, 404), answer
    assert b"secret" not in answer.body
    assert b"root:" not in answer.body
    assert "inner" not in answer.text, "no list of what is there"


@pytest.mark.parametrize(
    ("target", "content_type", "body"),
    [
        ("/", "text/html; charset=utf-8", b"<h1>home</h1>"),
        ("/index.html", "text/html; charset=utf-8", b"<h1>home</h1>"),
        ("/?a=1", "text/html; charset=utf-8", b"<h1>home</h1>"),
        ("/app.js", "text/javascript; charset=utf-8", b"let a = 1;" * 500),
        ("/link-in.js", "text/javascript; charset=utf-8", b"let a = 1;" * 500),
        ("/sub/", "text/html; charset=utf-8", b"<h1>sub</h1>"),
        ("/other/", "text/html; charset=utf-8", b"<h1>sub</h1>"),
        ("/empty/file.txt", "text/plain; charset=utf-8", b""),
        ("/gr%C3%BC%C3%9F%20e.txt", "text/plain; charset=utf-8", b"named"),
        ("/large.bin", "application/octet-stream", bytes(range(256)) * 40_000),
        ("/api", "application/json", b'{"api":true}'),
    ],
)
def test_files(folders: Script, target: str, content_type: str, body: bytes) -> None:
    with HttpLink(folders.port) as link:
        answer = proper(link.get(target))
        assert (answer.status, answer.body, answer.header("content-type")) == (200, body, content_type)
        head = link.ask("HEAD", target)
        assert head.header("content-length") == str(len(body))
        assert link.get("/api").json() == {"api": True}


def test_a_folder_is_read_only(folders: Script) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = proper(fetch(folders.port, method, "/app.js", {}, b""))
        assert (answer.status, answer.words("allow")) == (405, {"get", "head", "options"})


@pytest.mark.parametrize("target", ["/sub", "//sub", "/evil.example", "//evil.example", "/sub?a=//evil.example"])
def test_a_redirection_stays_here(folders: Script, target: str) -> None:
    answer = fetch(folders.port, "GET", target)
    if answer.status not in (400, 404):
        assert answer.status in (301, 302, 307, 308)
        location = answer.header("location")
        assert location.startswith("/")
        assert location[1:2] not in ("/", "\\")
        assert location.partition("?")[0].endswith("/")
    assert (answer.status in (400, 404)) == target.startswith("//"), answer


def test_a_file_that_has_not_changed_is_not_sent_again(folders: Script) -> None:
    fetch(folders.port, "GET", "/rewrite?v=first")
    first = get(folders, "/changing.txt")
    tag, modified = first.header("etag"), first.header("last-modified")
    assert get(folders, "/changing.txt", If_None_Match=tag).status == 304
    assert get(folders, "/changing.txt", If_None_Match=f'"x", W/{tag.removeprefix("W/")}').status == 304
    assert get(folders, "/changing.txt", If_None_Match="*").status == 304
    assert get(folders, "/changing.txt", If_Modified_Since=modified).status == 304
    assert get(folders, "/changing.txt", If_None_Match='"other"', If_Modified_Since=modified).status == 200
    fetch(folders.port, "GET", "/rewrite?v=second%20one")
    second = get(folders, "/changing.txt", If_None_Match=tag)
    assert (second.status, second.text) == (200, "second one")
    assert "no-cache" in second.words("cache-control")


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=10239990-", 206, 10_239_990, 10_240_000),
        ("bytes=-10", 206, 10_239_990, 10_240_000),
        ("bytes=5-99999999999", 206, 5, 10_240_000),
        ("bytes=-99999999999", 206, 0, 10_240_000),
        ("bytes=10240000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=9-5", 200, 0, 0),
        ("bytes=a-b", 200, 0, 0),
        ("bytes=0-1,3-4", 200, 0, 0),
        ("lines=0-1", 200, 0, 0),
        ("bytes=", 200, 0, 0),
        ("bytes=" + "9" * 5000 + "-", 416, 0, 0),
    ],
    ids=lambda value: str(value)[:30],
)
def test_parts_of_files(folders: Script, wanted: str, status: int, start: int, end: int) -> None:
    with HttpLink(folders.port) as link:
        answer = proper(link.get("/large.bin", Range=wanted))
        assert answer.status == status or (status, answer.status) == (416, 200)
        whole = bytes(range(256)) * 40_000
        if answer.status == 206:
            assert answer.body == whole[start:end]
            assert answer.header("content-range") == f"bytes {start}-{end - 1}/{len(whole)}"
        elif answer.status == 416:
            assert answer.header("content-range") == f"bytes */{len(whole)}"
        else:
            assert answer.body == whole
        assert link.get("/api").json() == {"api": True}


def test_text_is_compressed_for_those_who_take_it(folders: Script) -> None:
    plain = get(folders, "/app.js")
    packed = get(folders, "/app.js", Accept_Encoding="br, gzip")
    assert (packed.header("content-encoding"), plain.header("content-encoding")) == ("gzip", "")
    assert gzip.decompress(packed.body) == plain.body
    assert packed.header("etag") != plain.header("etag")
    assert "accept-encoding" in packed.words("vary") & plain.words("vary")
    assert get(folders, "/app.js", Accept_Encoding="gzip;q=0").header("content-encoding") == ""
    assert get(folders, "/app.js", Accept_Encoding="gzip", If_None_Match=packed.header("etag")).status == 304
    assert gzip.decompress(get(folders, "/made.css", Accept_Encoding="gzip").body) == b"ready made"


# --- declarations ---


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ('@app.route("no-slash")\ndef f(req): pass', "no-slash"),
        ('@app.route("/a/<b")\ndef f(req, b): pass', "/a/<b"),
        ('@app.route("/a/<bool:b>")\ndef f(req, b): pass', "bool"),
        ('@app.route("/a/<b>/<b>")\ndef f(req, b): pass', "b"),
        ('@app.route("/a/<1b>")\ndef f(req, b): pass', "1b"),
        ('@app.route("/a", methods=["G T"])\ndef f(req): pass', "G T"),
        ('@app.route("/a", methods="GET")\ndef f(req): pass', "methods"),
        ('@app.route("/a", methods=[])\ndef f(req): pass', "methods"),
        ('@app.route\ndef f(req): pass', "path"),
        ('@app.route("/a/<b>")\ndef f(req): pass', "/a/<b>"),
        ('@app.route("/a")\ndef f(req, b): pass', "/a"),
        ('@app.route("/a")\ndef f(req): pass\n@app.route("/a")\ndef g(req): pass', "twice"),
        ('@app.error(200)\ndef f(error): pass', "200"),
        ('@app.before\nasync def f(): pass', "plain function"),
        ('app.static("/x", "no-such-folder")', "no-such-folder"),
        ('app.static("x", ".")', "x"),
        ('app.attach(DaebusHttp(port=PORT + 1))', "one HTTP endpoint"),
    ],
)  # fmt: skip
def test_a_senseless_declaration_is_refused_and_named(
    launch: Launcher, bus: PrivateServer, code: str, word: str
) -> None:
    script = launch.start(HTTP_PROLOGUE + code, server=bus, env={"PORT": "0", "HTTP": "{}"})
    assert script.wait() == 1
    assert word in script.log


# --- the oldest libraries ---


def test_debians_libraries_serve_as_well(launch: Launcher, bus: PrivateServer, debian_side: Side) -> None:
    site = launch.site(SITE, server=bus, side=debian_side)
    assert get(site, "/items/a%20b").json() == {"name": "a b"}
    assert post_json(site.port, "/echo", {"n": 1}).json()["payload"] == {"n": 1}
    assert get(site, "/stream/text").framing == "chunked"
    assert get(site, "/async").status == 200
    body = multipart(file_part("f", "a.bin", b"x" * 300_000))
    assert upload(site, "/upload", body).json()["size"] == 300_000
    with HttpLink(site.port) as link:
        link.send(link.head("POST", "/bytes", {"Transfer-Encoding": "chunked"}) + b"3\r\nabc\r\n0\r\n\r\n")
        assert link.answer().body == b"abc"
        assert link.get("/things").json() == []
