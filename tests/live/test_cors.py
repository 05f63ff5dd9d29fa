"""Which hosts are served, and which pages of other origins may do what: Host, Origin, CORS."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import HttpAnswer, HttpLink, Launcher, Script, Side, fetch

SITE = """
@app.route("/data", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def data(req):
    if req.method != "GET":
        note(f"{req.method} by {req.headers.get('origin')}")
    return {"n": 1}, 200, {"X-Custom-Header": "yes"}

@app.route("/only-get")
def only_get(req):
    return {"n": 1}

@app.route("/fail")
def fail(req):
    raise RuntimeError("no")

@app.route("/gone")
def gone(req):
    return None

@app.route("/stream")
def stream(req):
    yield "a"

@app.route("/own-vary")
def own_vary(req):
    return {"n": 1}, 200, {"Vary": "Accept"}
"""

GOOD, EVIL = "http://good.example", "http://evil.example"
CONFIG = {
    "allowed_origins": [GOOD, "https://panel.example:8443"],
    "allowed_methods": ["GET", "POST", "OPTIONS"],
    "allowed_headers": ["Content-Type", "Authorization"],
    "expose_headers": ["X-Custom-Header"],
    "allow_credentials": True,
    "max_age": 3600,
}


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory, own_side: Side) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("cors"), own_side)
    yield launcher
    launcher.end_all()


@pytest.fixture(scope="module")
def plain(launcher: Launcher, bus: PrivateServer) -> Script:
    """A service without any settings."""
    return launcher.site(SITE, server=bus)


@pytest.fixture(scope="module")
def shared(launcher: Launcher, bus: PrivateServer) -> Script:
    """A service with CORS for two origins, and with hosts of its own."""
    hosts = ["panel.example", "*.lan.example", "dev.example:8443", "192.0.2.7"]
    return launcher.site(SITE, server=bus, settings={"cors_config": CONFIG, "allowed_hosts": hosts})


@pytest.fixture(scope="module")
def public(launcher: Launcher, bus: PrivateServer) -> Script:
    """A service that is for everybody, by `configure_cors`; with credentials, which are not for everybody."""
    body = """
    http.configure_cors({
        "allowed_origins": "*", "allowed_methods": "*", "allowed_headers": "*", "allow_credentials": True,
    })
    """
    return launcher.site(body.replace("\n    ", "\n") + SITE, server=bus)


def ask(site: Script, method: str, target: str, headers: dict[str, str], body: bytes | None = None) -> HttpAnswer:
    if body is None and method in ("POST", "PUT", "PATCH"):
        body = b""
    answer = fetch(site.port, method, target, headers, body)
    assert answer.header("x-content-type-options") == "nosniff"
    return answer


def granted(answer: HttpAnswer) -> dict[str, str]:
    """The CORS headers of an answer."""
    found = [(name.removeprefix("access-control-"), value) for name, value in answer.headers]
    assert len(dict(found)) == len({name for name, _ in found})
    return {name: value for name, value in found if ("access-control-" + name) in dict(answer.headers)}


# --- Host ---


LOCAL_HOSTS = [
    "localhost",
    "LocalHost",
    "localhost.",
    "localhost:1",
    "127.0.0.1",
    "127.0.0.1:65535",
    "127.1.2.3",
    "[::1]",
    "[::1]:80",
]


def own_names() -> list[str]:
    name = socket.gethostname()
    return [name, name.upper(), f"{name}.local"]


@pytest.mark.parametrize("host", [*LOCAL_HOSTS, *own_names()])
def test_names_of_this_machine_are_served(plain: Script, host: str) -> None:
    assert ask(plain, "GET", "/data", {"Host": host}).status == 200


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",
    "evil-localhost",
    "xlocalhost",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost:80@evil.example",
    "localhost evil.example",
    "localhost,evil.example",
    "localhost/evil",
    "localhost\\evil",
    "localhost#evil",
    "localhost?evil",
    "localhost:80:80",
    "localhost:port",
    "localhost:99999",
    "localhost:-1",
    "localhost..",
    ".localhost",
    "0.0.0.0",
    "0",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.256",
    "[::]",
    "[::1",
    "::1",
    "[::1]x",
    "[::1%25lo]",
    "[fe80::1]",
    "192.0.2.1",
    "[2001:db8::1]",
    "\uff4cocalhost",
    "localhost\x80",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS, ids=ascii)
@pytest.mark.parametrize("target", ["/data", "/nowhere"])
def test_other_names_are_misdirected(plain: Script, host: str, target: str) -> None:
    """The page of evil.example cannot make its own name lead here (DNS rebinding)."""
    with HttpLink(plain.port) as link:
        link.send(b"GET " + target.encode() + b" HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n")
        answer = link.answer()
        assert answer.status in (400, 421)
        assert answer.json()["error"]
        assert link.closes()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("panel.example", 200),
        ("PANEL.example.:99", 200),
        ("a.lan.example", 200),
        ("a.b.lan.example", 200),
        ("lan.example", 421),
        ("xlan.example", 421),
        ("evil.lan.example.evil.example", 421),
        ("dev.example:8443", 200),
        ("dev.example:8444", 421),
        ("dev.example", 421),
        ("192.0.2.7", 200),
        ("192.0.2.70", 421),
        ("localhost", 200),
        ("evil.example", 421),
    ],
)
def test_allowed_hosts(shared: Script, host: str, status: int) -> None:
    assert ask(shared, "GET", "/data", {"Host": host}).status == status


def test_allowed_hosts_may_be_all(launch: Launcher, bus: PrivateServer) -> None:
    site = launch.site(SITE, server=bus, settings={"allowed_hosts": ["*"]})
    assert ask(site, "GET", "/data", {"Host": "evil.example"}).status == 200
    assert ask(site, "GET", "/data", {"Host": "evil.example/x"}).status in (400, 421)


# --- Origin, without CORS settings ---


def own_origin(site: Script) -> str:
    return f"http://127.0.0.1:{site.port}"


def test_a_page_of_this_service_may_do_everything(plain: Script) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "GET"):
        assert ask(plain, method, "/data", {"Origin": own_origin(plain)}).status == 200
        assert ask(plain, method, "/data", {"Origin": own_origin(plain), "Sec-Fetch-Site": "same-origin"}).status == 200


def test_what_is_no_browser_says_no_origin(plain: Script) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert ask(plain, method, "/data", {}).status == 200
    assert ask(plain, "POST", "/data", {"Sec-Fetch-Site": "none"}).status == 200


FOREIGN_ORIGINS = [
    "http://evil.example",
    "https://evil.example",
    "null",
    "http://127.0.0.1.evil.example:PORT",
    "http://127.0.0.1:PORT.evil.example",
    "http://127.0.0.1:PORT@evil.example",
    "http://127.0.0.1:1",
    "http://127.0.0.1",
    "https://127.0.0.1:PORT",
    "http://127.0.0.1:PORT/",
    "http://127.0.0.1:PORT, http://evil.example",
    "http://evil.example http://127.0.0.1:PORT",
    "127.0.0.1:PORT",
    "//127.0.0.1:PORT",
    "file://",
    "chrome-extension://abcdef",
    "x",
    "*",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_foreign_page_may_change_nothing(plain: Script, origin: str, kind: str) -> None:
    """Posts of these kinds need no preflight: any page on the internet may send them to the device."""
    before = len(plain.notes)
    headers = {"Origin": origin.replace("PORT", str(plain.port)), **({"Content-Type": kind} if kind else {})}
    answer = ask(plain, "POST", "/data", headers, b'{"a": 1}' if kind == "text/plain" else b"")
    assert answer.status == 403
    assert not granted(answer)
    assert "evil" not in answer.text, "an answer repeats nothing of the request"
    assert len(plain.notes) == before


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "BREW", "get"])
@pytest.mark.parametrize("target", ["/data", "/nowhere"])
def test_whatever_the_method_and_the_path(plain: Script, method: str, target: str) -> None:
    assert ask(plain, method, target, {"Origin": EVIL}).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_browser_that_says_no_origin_still_says_where_it_comes_from(plain: Script, site: str) -> None:
    assert ask(plain, "POST", "/data", {"Sec-Fetch-Site": site}).status == 403
    assert ask(plain, "GET", "/data", {"Sec-Fetch-Site": site}).status == 200, "a link may lead here"


def test_two_origins_are_none(plain: Script) -> None:
    with HttpLink(plain.port) as link:
        own = own_origin(plain)
        link.send(
            f"POST /data HTTP/1.1\r\nHost: 127.0.0.1:{plain.port}\r\nOrigin: {own}\r\nOrigin: {EVIL}\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        assert link.answer().status in (400, 403)


def test_a_rebound_name_is_of_no_use(plain: Script) -> None:
    """Its origin and its host agree; both are foreign."""
    headers = {"Host": f"evil.example:{plain.port}", "Origin": f"http://evil.example:{plain.port}"}
    assert ask(plain, "POST", "/data", headers).status == 421


def test_a_foreign_page_may_ask_and_its_browser_shows_it_nothing(plain: Script) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        answer = ask(plain, method, "/data", {"Origin": EVIL, "Access-Control-Request-Method": "POST"})
        assert answer.status in (200, 204)
        assert not granted(answer)


# --- CORS ---


def test_s58_answers_for_an_allowed_origin(shared: Script) -> None:
    for origin in CONFIG["allowed_origins"]:  # type: ignore[attr-defined]  # a list
        answer = ask(shared, "GET", "/data", {"Origin": origin})
        assert granted(answer) == {
            "allow-origin": origin,
            "allow-credentials": "true",
            "expose-headers": "X-Custom-Header",
        }
        assert "origin" in answer.words("vary")
        posted = ask(shared, "POST", "/data", {"Origin": origin})
        assert posted.status == 200
        assert granted(posted)["allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "https://good.example",
        "http://good.example:8080",
        "http://good.example.evil.example",
        "http://evil-good.example",
        "http://xgood.example",
        "http://good.example@evil.example",
        "http://good.example/",
        "null",
        "https://panel.example",
        "*",
    ],
)
def test_and_for_others(shared: Script, origin: str) -> None:
    answer = ask(shared, "GET", "/data", {"Origin": origin})
    assert answer.status == 200
    assert not granted(answer)
    assert "origin" in answer.words("vary"), "or a cache gives this answer to an origin that is allowed"
    assert ask(shared, "POST", "/data", {"Origin": origin}).status == 403


def test_without_an_origin(shared: Script) -> None:
    answer = ask(shared, "GET", "/data", {})
    assert not granted(answer)
    assert "origin" in answer.words("vary")


def test_the_vary_of_a_handler_is_kept(shared: Script) -> None:
    assert ask(shared, "GET", "/own-vary", {"Origin": GOOD}).words("vary") == {"accept", "origin"}


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/only-get", 405),
        ("GET", "/fail", 500),
        ("GET", "/gone", 204),
        ("GET", "/stream", 200),
    ],
)
def test_errors_and_streams_can_be_read_by_the_page_too(shared: Script, method: str, target: str, status: int) -> None:
    answer = ask(shared, method, target, {"Origin": GOOD})
    assert answer.status == status
    assert granted(answer)["allow-origin"] == GOOD


def preflight(site: Script, target: str, origin: str, method: str, headers: str = "") -> HttpAnswer:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    answer = ask(site, "OPTIONS", target, {**asked, **({"Access-Control-Request-Headers": headers} if headers else {})})
    assert answer.status in (200, 204)
    assert answer.body == b""
    return answer


def test_s60_a_preflight_is_answered(shared: Script) -> None:
    answer = preflight(shared, "/data", GOOD, "POST", "content-type,authorization")
    assert answer.header("access-control-allow-origin") == GOOD
    assert answer.header("access-control-allow-credentials") == "true"
    assert answer.header("access-control-max-age") == "3600"
    assert "post" in answer.words("access-control-allow-methods")
    assert answer.words("access-control-allow-headers") >= {"content-type", "authorization"}
    assert "origin" in answer.words("vary")


@pytest.mark.parametrize(
    ("target", "origin", "method", "headers"),
    [
        ("/data", GOOD, "DELETE", ""),
        ("/data", GOOD, "BREW", ""),
        ("/only-get", GOOD, "POST", ""),
        ("/data", GOOD, "POST", "x-evil"),
        ("/data", GOOD, "POST", "content-type, x-evil"),
        ("/data", EVIL, "POST", ""),
        ("/data", "null", "POST", ""),
        ("/nowhere", GOOD, "DELETE", ""),
    ],
)
def test_a_preflight_grants_only_what_is_allowed(
    shared: Script, target: str, origin: str, method: str, headers: str
) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = headers
    answer = ask(shared, "OPTIONS", target, asked)
    may = (
        answer.header("access-control-allow-origin") == origin
        and method.lower() in answer.words("access-control-allow-methods")
        and {name.strip() for name in headers.split(",") if name} <= answer.words("access-control-allow-headers")
    )
    assert not may, answer


def test_a_preflight_repeats_nothing_that_is_not_allowed(shared: Script) -> None:
    answer = preflight(shared, "/data", EVIL, "EVILMETHOD", "x-evil")
    assert "evil" not in str(answer.headers).lower()


def test_b13_everybody_may_and_nobody_has_credentials(public: Script) -> None:
    for origin in (EVIL, "null"):
        answer = ask(public, "GET", "/data", {"Origin": origin})
        assert granted(answer) == {"allow-origin": "*"}
        assert ask(public, "POST", "/data", {"Origin": origin}).status == 200
    answer = preflight(public, "/data", EVIL, "DELETE", "x-anything, authorization")
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("access-control-allow-credentials") == ""
    assert "delete" in answer.words("access-control-allow-methods")
    assert answer.words("access-control-allow-headers") >= {"x-anything", "authorization"} or (
        answer.words("access-control-allow-headers") == {"*"}
    )
    assert "credentials" in public.log, "the contradiction is in the log"


def test_options_without_a_preflight_is_ordinary(shared: Script) -> None:
    answer = ask(shared, "OPTIONS", "/data", {"Origin": GOOD})
    assert answer.words("allow") == {"delete", "get", "head", "options", "patch", "post", "put"}
    assert granted(answer)["allow-origin"] == GOOD


@pytest.mark.parametrize("value", ["x\r\ny", "a b", "a,,b", "(", "x" * 5000])
def test_odd_preflights_break_nothing(shared: Script, value: str) -> None:
    with HttpLink(shared.port) as link:
        link.send(
            f"OPTIONS /data HTTP/1.1\r\nHost: localhost\r\nOrigin: {GOOD}\r\n"
            f"Access-Control-Request-Method: {value[:99]}\r\nAccess-Control-Request-Headers: {value}\r\n\r\n".encode()
        )
        answer = link.answer()
        assert answer.status in (200, 204, 400)
        assert "x" * 5000 not in str(answer.headers)


def test_s59_configure_cors_replaces_what_was_set(launch: Launcher, bus: PrivateServer) -> None:
    change = f"\nhttp.configure_cors({{'allowed_origins': ['{EVIL}']}})\n"
    site = launch.site(change + SITE, server=bus, settings={"cors_config": CONFIG})
    assert granted(ask(site, "GET", "/data", {"Origin": EVIL})) == {"allow-origin": EVIL}
    assert not granted(ask(site, "GET", "/data", {"Origin": GOOD}))
