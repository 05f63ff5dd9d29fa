"""Who may use a service: which names it answers to, which pages may drive it, and what browsers are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daebus.errors import ConfigurationError
from daebus.policy import Cors, Hosts, check_origins, foreign, foreign_socket

NONE = Cors(None)
ANYONE = Cors({"allowed_origins": "*", "allowed_methods": "*", "allowed_headers": "*"})
# As the README has it.
README = {
    "allowed_origins": ["http://localhost:3000", "https://example.com"],
    "allowed_methods": ["GET", "POST", "OPTIONS"],
    "allowed_headers": ["Content-Type", "Authorization"],
    "expose_headers": ["X-Custom-Header"],
    "allow_credentials": True,
    "max_age": 3600,
}
PORTS = frozenset({8080, 8081})


def known(host: str, allowed: Iterable[str] = (), own: Iterable[str] = (), local: str | None = "192.168.1.5") -> bool:
    hosts = Hosts(allowed, own)
    first = hosts.known(host, local)
    assert hosts.known(host, local) is first, "remembered wrongly"
    return first


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "LocalHost:8080", "localhost.", "localhost.:8080", "localhost:", "localhost:1",
        "[::1]:", "localhost:65535", "localhost:0080", "127.0.0.1", "127.0.0.1:8080", "127.0.0.1.", "127.0.0.53",
        "127.255.255.255",
        "[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]:80",
        "192.168.1.5", "192.168.1.5:9999",
    ],
)  # fmt: skip
def test_the_machine_itself_is_known(host: str) -> None:
    assert known(host)


BAD_HOSTS = [
    "", " ", ".", "..", ":", ":80", "[", "]", "[]", "[]:80", "[::1", "::1", "::1]", "[::1]x", "[::1]]", "[[::1]]",
    "[1]", "[:::]", "[::1%25lo]", "[::1%lo]", "[v1.x]", "[127.0.0.1]", "[::1.2.3]",
    " localhost", "localhost ", "local host", "localhost\t", "localhost\n", "localhost\r\n", "localhost\0",
    "localhost..",
    ".localhost", "local..host", "localhost:x", "localhost:8080x", "localhost:-1", "localhost:+80", "localhost: 80",
    "localhost:80:80", "localhost:0", "localhost:00000", "localhost:65536", "localhost:99999", "localhost:123456",
    "localhost:8_0", "localhost:\uff180", "localhost:٨", "\uff4cocalhost", "localho\u017ft", "\u212aiosk", "größe",
    "localhost\ud800",
    "user@localhost", "user:pass@localhost", "localhost@evil.com", "evil.com@localhost", "localhost/", "/localhost",
    "localhost/evil.com", "http://localhost", "localhost#", "localhost?", "localhost\\", "localhost,evil.com",
    "localhost, localhost", "localhost;", "%6cocalhost", "localhost%00", "*", "*.localhost", "localhost*",
    "127.1", "127.0.1", "2130706433", "0", "017700000001", "127.0.0.01", "127.0.0.001", "0127.0.0.1", "127.0.0.256",
    "127.0.0.1.1", "127.0.0", "127", "127.", "127.0.0.", "evil.7", "127.evil.7",
    "x" * 255, "x" * 301, "a." * 127 + "ab", "localhost:" + "1" * 300,
]  # fmt: skip


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_what_is_no_host_is_unknown_even_where_all_are_allowed(host: str) -> None:
    assert not known(host)
    assert not known(host, allowed=["*"])


@pytest.mark.parametrize(
    "host",
    [
        "evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "127.0.0.1.nip.io", "1.127.0.0.1.evil.com",
        "evil.localhost",
        "notlocalhost", "localhost-", "localhost_", "-localhost", "127.0.0.1e0", "127.0.0.-1", "127.x", "127.0.0.1x",
        "0x7f000001", "0x7f.0.0.0x1", "128.0.0.1", "126.255.255.255", "1.2.3.4", "0.0.0.0", "10.127.0.0",
        "192.168.1.50",
        "192.168.1.5.evil.com", "[::]", "[::2]", "[::1:1]", "[1::1]", "[::ffff:1.2.3.4]", "[fe80::1]",
        "127.0.0.1.evil.com:8080", "evil.com:127", "xn--lcalhost-54a", "kiosk", "local",
    ],
)  # fmt: skip
def test_a_name_of_somebody_else_is_unknown(host: str) -> None:
    assert not known(host)
    assert known(host, allowed=["*"])


@pytest.mark.parametrize(
    ("host", "local", "expected"),
    [
        ("192.168.1.5", "192.168.1.5", True),
        ("192.168.1.5", "::ffff:192.168.1.5", True),
        ("[::ffff:192.168.1.5]", "192.168.1.5", True),
        ("[fe80::1]", "fe80::1%eth0", True),
        ("[FE80:0::1]:80", "fe80::1", True),
        ("[fe80::2]", "fe80::1", False),
        ("192.168.1.5", "192.168.1.50", False),
        ("192.168.1.5", None, False),
        ("192.168.1.5", "", False),
        ("localhost", None, True),
        ("localhost", "/run/some.sock", True),
        ("evil.com", "/run/some.sock", False),
    ],
)
def test_the_address_of_the_connection_is_known(host: str, local: str | None, expected: bool) -> None:
    assert known(host, local=local) is expected


def test_an_address_is_known_for_its_own_connection_only() -> None:
    hosts = Hosts((), ())
    assert hosts.known("192.168.1.5", "192.168.1.5")
    assert not hosts.known("192.168.1.5", "10.0.0.5")
    assert not hosts.known("192.168.1.5", None)


@pytest.mark.parametrize(
    ("entry", "host", "expected"),
    [
        ("kiosk", "kiosk", True),
        ("kiosk", "KIOSK.:8080", True),
        ("KIOSK.", "kiosk", True),
        ("kiosk", "kiosk.local", False),
        ("kiosk", "x.kiosk", False),
        ("kiosk", "xkiosk", False),
        ("kiosk:8080", "kiosk:8080", True),
        ("kiosk:8080", "kiosk", False),
        ("kiosk:8080", "kiosk:8081", False),
        ("kiosk:8080", "kiosk:08080", True),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "A.B.example.ORG.:80", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", ".example.org", False),
        ("*.example.org", "aexample.org", False),
        ("*.example.org", "example.org.evil.com", False),
        ("*.example.org", "a.example.org.evil.com", False),
        ("*.example.org:80", "a.example.org:80", True),
        ("*.example.org:80", "a.example.org:81", False),
        ("*.kiosk2", "a.kiosk2", True),
        ("10.0.0.1", "10.0.0.1:80", True),
        ("10.0.0.1", "10.0.0.11", False),
        ("10.0.0.1", "x.10.0.0.1", False),
        ("10.0.0.1:80", "10.0.0.1", False),
        ("fd00::1", "[fd00::1]:80", True),
        ("fd00::1", "[fd00:0::0001]", True),
        ("[fd00::1]", "[fd00::1]", True),
        ("[fd00::1]:80", "[fd00::1]:80", True),
        ("[fd00::1]:80", "[fd00::1]", False),
        ("my_host", "my_host", True),
        ("*", "any.thing:1", True),
    ],
)
def test_an_allowed_host_is_known(entry: str, host: str, expected: bool) -> None:
    assert known(host, allowed=[entry]) is expected
    assert known(host, allowed=["other", entry, "*.other"]) is expected


@pytest.mark.parametrize(
    "entry",
    ["", "http://kiosk", "kiosk/", "kiosk:x", "kiosk:0", "*.", "**", "*kiosk", "a.*.org", "*.*.org", "kiosk*",
     "10.1", "größe",
     "user@kiosk", "a b", ".org", "*..org", ":::", "[::1", None, 5, b"kiosk"],
)  # fmt: skip
def test_an_entry_that_names_no_host_is_refused(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"allowed_hosts has .*: an entry is 'name'"):
        Hosts(["fine", entry], ())


def test_allowed_hosts_is_no_single_text() -> None:
    with pytest.raises(ConfigurationError, match=r"must be a list of names, not 'kiosk': write \['kiosk'\]"):
        Hosts("kiosk", ())


def test_the_machines_names_are_known_and_odd_ones_left_out() -> None:
    own = ["Kiosk-1", "kiosk-1.local", "größe", "", "a b", "fd00::7", "*"]
    assert known("kiosk-1:8080", own=own)
    assert known("KIOSK-1.local.", own=own)
    assert known("[fd00::7]", own=own)
    assert not known("kiosk-2", own=own)
    assert not known("evil.com", own=own)


def test_what_is_remembered_is_bounded() -> None:
    hosts = Hosts(["*.example.org"], ())
    for number in range(1000):
        assert hosts.known(f"a{number}.example.org", None)
        assert not hosts.known(f"a{number}.example.com", None)
    assert len(hosts._known) <= 64


def origin_is_own(origin: str, host: str, *, secure: bool = False, ports: frozenset[int] = PORTS) -> bool:
    refused = foreign("POST", origin, None, host, secure, ports, NONE)
    assert foreign_socket(origin, host, secure, ports, NONE, ()) is refused
    return not refused


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8080", "localhost:8080"),
        ("http://localhost:8080", "localhost:8081"),  # the other port of the same service
        ("http://localhost:8081", "localhost:8080"),
        ("http://localhost", "localhost"),
        ("http://localhost:80", "localhost"),
        ("http://localhost", "localhost:80"),
        ("http://localhost:9000", "localhost:9000"),  # forwarded from elsewhere
        ("HTTP://LOCALHOST:8080", "localhost:8080"),
        ("http://kiosk.local.:8080", "kiosk.local:8080"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://[0::1]:8080", "[::1]:8080"),
    ],
)
def test_the_services_own_page_is_not_foreign(origin: str, host: str) -> None:
    assert origin_is_own(origin, host)


BAD_ORIGINS = [
    "", " ", "null", "NULL", "null ", "localhost", "localhost:8080", "//localhost:8080", "http:", "http://", "http:///",
    "http:localhost:8080", "http:/localhost:8080", "http://localhost:8080/", "http://localhost:8080/x",
    "http://localhost:8080?",
    "http://localhost:8080#", " http://localhost:8080", "http://localhost:8080 ", "http://localhost:8080\n",
    "http://localhost:8080\0", "http://localhost:8080 http://localhost:8080",
    "http://localhost:8080, http://localhost:8080",
    "http://localhost:8080,http://evil.com", "http://user@localhost:8080", "http://user:pw@localhost:8080",
    "http://localhost:8080@evil.com", "http://evil.com@localhost:8080", "http://evil.com#@localhost:8080",
    "http://evil.com\\@localhost:8080", "http://evil.com\\localhost:8080", "http://localhost:8080\\",
    "http://localhost\\:8080",
    "http://localhost:", "http://[::1]:", "http://localhost:80x", "http://localhost:\uff18080",
    "http://localhost:99999",
    "http://localhost:-8080", "http://localhost:8080:8080", "http://::1:8080", "http://[::1", "http://2130706433:8080",
    "http://127.1:8080", "http://%6cocalhost:8080", "http://.localhost:8080", "http://localhost..:8080",
    "http://\uff4cocalhost:8080", "hţtp://localhost:8080", "1http://localhost:8080", "http://" + "x" * 300, "x" * 301,
    "data:text/html,x", "file://", "file:///etc/passwd", "about:blank", "javascript:alert(1)",
    "blob:http://localhost:8080/x",
]  # fmt: skip


@pytest.mark.parametrize("origin", BAD_ORIGINS)
@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"])
def test_what_is_no_origin_is_foreign(origin: str, host: str) -> None:
    assert not origin_is_own(origin, host)
    if origin != "null":
        assert foreign("POST", origin, "same-origin", host, False, PORTS, ANYONE)
        assert foreign_socket(origin, host, False, PORTS, ANYONE, ["*"])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.com", "localhost:8080"),
        ("http://evil.com:8080", "localhost:8080"),
        ("http://localhost.evil.com:8080", "localhost:8080"),
        ("http://127.0.0.1.evil.com:8080", "127.0.0.1:8080"),
        ("http://evil-localhost:8080", "localhost:8080"),
        ("http://localhost:3000", "localhost:8080"),  # another program of the machine
        ("http://localhost", "localhost:8080"),
        ("http://127.0.0.1:8080", "localhost:8080"),
        ("https://localhost:8080", "localhost:8080"),
        ("ws://localhost:8080", "localhost:8080"),
        ("ftp://localhost", "localhost"),
        ("chrome-extension://abcdefgh", "localhost:8080"),
        ("http://localhost:8080", "evil.com:8080"),
        ("http://localhost:8080", ""),
        ("http://localhost:8080", "localhost:8080,localhost:8080"),
        ("http://localhost:8080", "user@localhost:8080"),
        ("http://localhost:8080", "localhost:x"),
    ],
)
def test_another_page_is_foreign(origin: str, host: str) -> None:
    assert not origin_is_own(origin, host)


@pytest.mark.parametrize("bad", BAD_HOSTS)
def test_no_page_belongs_to_a_host_that_is_none(bad: str) -> None:
    assert not origin_is_own(f"http://{bad}", bad)


def test_with_tls_the_page_must_have_it_too() -> None:
    assert origin_is_own("https://kiosk.local", "kiosk.local", secure=True)
    assert origin_is_own("https://kiosk.local", "kiosk.local:443", secure=True)
    assert origin_is_own("https://kiosk.local:8080", "kiosk.local", secure=True)
    assert not origin_is_own("http://kiosk.local", "kiosk.local", secure=True)
    assert not origin_is_own("https://kiosk.local", "kiosk.local", secure=False)
    assert not origin_is_own("https://kiosk.local:80", "kiosk.local", secure=True)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("origin", [None, "null", "http://evil.com"])
def test_who_only_reads_is_not_refused(method: str, origin: str | None) -> None:
    assert not foreign(method, origin, "cross-site", "localhost", False, PORTS, NONE)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PURGE", "get", "", "Head"])
def test_every_other_method_changes_something(method: str) -> None:
    assert foreign(method, "http://evil.com", None, "localhost", False, PORTS, NONE)
    assert not foreign(method, None, None, "localhost", False, PORTS, NONE)


@pytest.mark.parametrize(
    ("site", "refused"),
    [(None, False), ("none", False), ("same-origin", False), ("same-site", True), ("cross-site", True), ("", True),
     ("cross-site, same-origin", True), ("new-kind", True)],
)  # fmt: skip
def test_without_an_origin_the_browsers_word_counts(site: str | None, refused: bool) -> None:
    assert foreign("POST", None, site, "localhost", False, PORTS, NONE) is refused


def test_the_browsers_word_does_not_excuse_a_foreign_origin() -> None:
    for site in ("same-origin", "none"):
        assert foreign("POST", "http://evil.com", site, "localhost", False, PORTS, NONE)
        assert foreign("POST", "null", site, "localhost", False, PORTS, NONE)


def test_cors_lets_a_page_send_what_it_grants() -> None:
    cors = Cors(README)
    for origin in ("http://localhost:3000", "https://example.com"):
        assert not foreign("POST", origin, "cross-site", "localhost:8080", False, PORTS, cors)
        assert foreign("DELETE", origin, "cross-site", "localhost:8080", False, PORTS, cors)
        assert not foreign_socket(origin, "localhost:8080", False, PORTS, cors, ())
    assert foreign("POST", "http://example.com", None, "localhost:8080", False, PORTS, cors)
    assert not foreign("DELETE", "http://localhost:8080", None, "localhost:8080", False, PORTS, cors)
    for origin in ("null", "http://evil.com", "chrome-extension://x"):
        assert not foreign("PURGE", origin, "cross-site", "localhost:8080", False, PORTS, ANYONE)


def test_a_socket_may_be_opened_by_no_browser_and_by_whom_the_settings_list() -> None:
    allowed = check_origins(["https://Panel.example.org:443", "http://[0::2]"], "allowed_origins")
    assert allowed == {"https://panel.example.org", "http://[::2]"}

    def refused(origin: str | None, allowed: Iterable[str] = allowed) -> bool:
        return foreign_socket(origin, "localhost:8080", False, PORTS, NONE, allowed)

    assert not refused(None)
    assert not refused("https://panel.example.org")
    assert not refused("http://[::2]:80")
    assert refused("http://panel.example.org")
    assert refused("https://panel.example.org.evil.com")
    assert refused("null")
    assert not refused("https://panel.example.org", iter(["http://a", "https://panel.example.org"]))
    assert refused("https://panel.example.org", "https://panel.example.org"), "one text is no list of origins"
    assert not refused("http://evil.com", check_origins("*", "allowed_origins"))
    assert not refused("null", ["*"])


@pytest.mark.parametrize(
    "origin", [*BAD_ORIGINS, "*.example.org", "https://*.example.org", "http://*", "größe", 5, None]
)
def test_a_setting_takes_no_such_origin(origin: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^here has "):
        check_origins([origin], "here")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("HTTP://localhost:3000", True),
        ("https://example.com", True),
        ("https://example.com:443", True),
        ("https://EXAMPLE.com.", True),
        ("http://example.com", False),
        ("https://example.com:8443", False),
        ("https://example.com:80", False),
        ("https://a.example.com", False),
        ("https://example.com.evil.com", False),
        ("https://example.com@evil.com", False),
        ("https://evilexample.com", False),
        ("https://example.co", False),
        ("http://localhost:30000", False),
        ("http://localhost", False),
        ("null", False),
        ("*", False),
        ("", False),
    ],
)
def test_cors_allows_the_listed_origins(origin: str, allowed: bool) -> None:
    cors = Cors(README)
    assert cors.allows(origin) is allowed
    assert ("Access-Control-Allow-Origin" in dict(cors.headers(origin))) is allowed
    assert not NONE.allows(origin)


def test_an_ordinary_answer_to_an_allowed_page() -> None:
    cors = Cors(README)
    assert cors.warnings == []
    assert cors.headers("https://example.com") == [
        ("Access-Control-Allow-Origin", "https://example.com"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "X-Custom-Header"),
        ("Vary", "Origin"),
    ]
    assert cors.headers("HTTPS://EXAMPLE.COM.:443")[0] == ("Access-Control-Allow-Origin", "https://example.com")
    for origin in (None, "http://evil.com", "null", "https://example.com\r\nX: y"):
        assert cors.headers(origin) == [("Vary", "Origin")]


def test_an_ordinary_answer_where_all_are_allowed() -> None:
    for origin in (None, "http://evil.com", "null"):
        assert ANYONE.headers(origin) == [("Access-Control-Allow-Origin", "*")]


def test_each_answer_has_its_own_list() -> None:
    ANYONE.headers(None).append(("X", "y"))
    assert len(ANYONE.headers(None)) == 1


@pytest.mark.parametrize("config", [None, {}])
def test_without_settings_nothing_is_said_and_nobody_allowed(config: dict[str, Any] | None) -> None:
    cors = Cors(config)
    assert cors.headers("http://a.example") == []
    assert cors.preflight("http://a.example", "GET", "", ("GET",)) == []
    assert not cors.allows("http://a.example")
    assert cors.warnings == []


def test_credentials_never_go_to_all() -> None:
    for origins in ("*", ["*"], ["https://example.com", "*"]):
        cors = Cors({"allowed_origins": origins, "allow_credentials": True})
        assert cors.headers("http://evil.com") == [("Access-Control-Allow-Origin", "*")]
        names = dict(cors.preflight("http://evil.com", "GET", "", ("GET",)))
        assert names["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in names
        assert len(cors.warnings) == 1
        assert "allow_credentials has no effect" in cors.warnings[0]


def test_settings_without_effect_are_told() -> None:
    (warning,) = Cors({"allowed_methods": "*"}).warnings
    assert "allows no origin" in warning
    (warning,) = Cors({**README, "expose_headers": "*"}).warnings
    assert "expose_headers '*' has no effect" in warning
    assert Cors({"allowed_origins": "*", "expose_headers": "*"}).warnings == []


VARY = ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


def test_a_preflight_is_granted() -> None:
    asked = "content-type, X-Other,authorization"
    allow = ("DELETE", "GET", "HEAD", "OPTIONS", "POST")
    assert Cors(README).preflight("http://localhost:3000", "POST", asked, allow) == [
        ("Access-Control-Allow-Origin", "http://localhost:3000"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Methods", "GET, OPTIONS, POST"),
        ("Access-Control-Allow-Headers", "content-type, authorization"),
        ("Access-Control-Max-Age", "3600"),
        VARY,
    ]


@pytest.mark.parametrize(
    ("origin", "method", "allow"),
    [
        ("http://evil.com", "POST", ("POST",)),
        ("null", "POST", ("POST",)),
        ("https://example.com", "DELETE", ("DELETE", "POST")),  # the path has it, CORS does not allow it
        ("https://example.com", "POST", ("GET",)),  # CORS allows it, the path has it not
        ("https://example.com", "POST", ()),
        ("https://example.com", "", ("POST",)),
        ("https://example.com", "post", ("POST",)),
        ("https://example.com", "*", ("POST",)),
    ],
)
def test_a_preflight_is_not_granted(origin: str, method: str, allow: tuple[str, ...]) -> None:
    assert Cors(README).preflight(origin, method, "content-type", allow) == [VARY]


def test_a_preflight_where_all_is_allowed() -> None:
    asked = "X-One, bad header,, x-two\r\nSet-Cookie: a, *"
    assert dict(ANYONE.preflight("http://evil.com", "DELETE", asked, ("DELETE", "OPTIONS"))) == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "x-one, *",
        "Vary": VARY[1],
    }
    assert ANYONE.preflight("http://evil.com", "PATCH", "", ("DELETE",)) == [VARY]


def test_by_default_a_page_may_send_what_browsers_let_it_send_anyway() -> None:
    cors = Cors({"allowed_origins": ["http://a.example"]})
    allow = ("DELETE", "GET", "HEAD", "OPTIONS", "POST")
    assert dict(cors.preflight("http://a.example", "POST", "content-type", allow)) == {
        "Access-Control-Allow-Origin": "http://a.example",
        "Access-Control-Allow-Methods": "GET, HEAD, POST",
        "Vary": VARY[1],
    }
    assert cors.preflight("http://a.example", "DELETE", "", allow) == [VARY]


def test_lists_of_all_kinds_are_taken_and_methods_in_any_case() -> None:
    for methods in (["put"], ("Put",), {"PUT"}, frozenset({"pUT"})):
        assert Cors({"allowed_origins": ("http://a",), "allowed_methods": methods}).grants("http://a", "PUT")
    assert (
        Cors({"allowed_origins": ["http://a"], "max_age": 0}).preflight("http://a", "GET", "", ("GET",))[-2][1] == "0"
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "cors_config must be a dict"),
        ("*", "cors_config must be a dict"),
        ({"origins": "*"}, r"no setting 'origins': it has allowed_origins, allowed_methods, .*max_age"),
        ({5: "*"}, "no setting 5"),
        ({"allowed_origins": "http://a.example"}, r"allowed_origins must be a list of texts or '\*'"),
        ({"allowed_origins": None}, "allowed_origins must be a list"),
        ({"allowed_origins": {"http://a.example": 1}}, "allowed_origins must be a list"),
        ({"allowed_origins": ["https://example.com/"]}, "allowed_origins has .* slash at the end"),
        ({"allowed_origins": ["null"]}, "any web page can be that one"),
        ({"allowed_methods": "GET"}, "allowed_methods must be a list"),
        ({"allowed_methods": ["GET, POST"]}, "allowed_methods has 'GET, POST'"),
        ({"allowed_methods": [None]}, "allowed_methods has None"),
        ({"allowed_headers": ["X: y"]}, "allowed_headers has 'X: y'"),
        ({"expose_headers": ["X\r\nY"]}, "expose_headers has"),
        ({"expose_headers": [""]}, "expose_headers has ''"),
        ({"allow_credentials": "yes"}, "allow_credentials must be True or False"),
        ({"allow_credentials": 1}, "allow_credentials must be True or False"),
        ({"max_age": "3600"}, "max_age must be a whole number"),
        ({"max_age": -1}, "max_age must be a whole number"),
        ({"max_age": True}, "max_age must be a whole number"),
        ({"max_age": 1.5}, "max_age must be a whole number"),
    ],
)
def test_a_setting_is_refused_by_name(config: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Cors(config)


scraps = st.lists(
    st.sampled_from(["http", "https", "://", ":", "/", "@", ".", "[", "]", "::", "1", "127", "localhost", "evil.com",
        "*"]),
    max_size=12,
).map("".join)  # fmt: skip


@given(st.text() | scraps, st.text() | scraps, st.none() | st.text() | scraps)
@example("[" + ":" * 40 + "]", "http://[" + "f" * 45 + "]", "::%")
def test_no_text_makes_the_policy_fail(host: str, origin: str, local: str | None) -> None:
    hosts = Hosts(["*.example.org", "10.0.0.1:80"], ["kiosk"])
    assert hosts.known(host, local) in (True, False)
    listed = Cors(README)
    for cors in (NONE, listed, ANYONE):
        refused = foreign("POST", origin, None, host, False, PORTS, cors)
        assert refused or not foreign_socket(origin, host, False, PORTS, cors, ())
        for _, value in [*cors.headers(origin), *cors.preflight(origin, "POST", origin, ("POST",))]:
            assert value.isprintable()
            assert value.isascii()


@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9-]{0,20}){0,3}", fullmatch=True), st.integers(1, 65535))
def test_a_name_is_its_own_and_no_others(name: str, port: int) -> None:
    assert origin_is_own(f"http://{name}:{port}", f"{name.upper()}.:{port}")
    assert not origin_is_own(f"http://{name}.evil.com:{port}", f"{name}:{port}")
    assert not origin_is_own(f"http://x{name}:{port}", f"{name}:{port}")
    assert known(f"{name}:{port}", allowed=[name])
    assert not known(f"{name}.evil.com:{port}", allowed=[name])


@given(st.ip_addresses(), st.ip_addresses())
@example(ip_address("10.0.0.1"), ip_address("::ffff:10.0.0.1"))
@example(ip_address("::ffff:10.0.0.1"), ip_address("10.0.0.2"))
def test_an_address_is_known_by_its_value(address: Any, other: Any) -> None:
    def literal(ip: Any) -> str:
        return f"[{ip.exploded}]" if ip.version == 6 else str(ip)

    def plain(ip: Any) -> Any:
        return getattr(ip, "ipv4_mapped", None) or ip

    assert known(literal(address), local=str(address))
    assert known(literal(address), allowed=[str(address)], local=None)
    if plain(other) != plain(address) and not plain(other).is_loopback:
        assert not known(literal(other), allowed=[str(address)], local=str(address))


def test_addresses_of_version_6_cost_memory_only_where_they_occur() -> None:
    said = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.split() == ["False", "True"]


LAZY = """
import sys
from daebus.policy import Hosts
hosts = Hosts(["kiosk"], ["own"])
hosts.known("localhost:1", "127.0.0.1"), hosts.known("[::1]:1", "::1"), hosts.known("evil", "192.168.1.1")
print("ipaddress" in sys.modules)
hosts.known("[fe80::1]", None)
print("ipaddress" in sys.modules)
"""
