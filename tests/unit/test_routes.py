"""Which function a request's path belongs to, what its values are, and which templates and paths are refused."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daebus.errors import BadMessage, DeclarationError
from daebus.routes import Match, NoMatch, RouteTable, placeholders


def table(*paths: str, method: str = "GET") -> RouteTable:
    """A table in which each template stands for itself."""
    routes = RouteTable()
    for path in paths:
        routes.add(method, path, path)
    return routes


def found(routes: RouteTable, path: str, method: str = "GET") -> tuple[Any, dict[str, Any]]:
    match = routes.find(method, path)
    assert isinstance(match, Match), path
    return match.target, match.values


def missed(routes: RouteTable, path: str, method: str = "GET") -> tuple[tuple[str, ...], str | None]:
    answer = routes.find(method, path)
    assert isinstance(answer, NoMatch), path
    return answer.allow, answer.redirect


def values(template: str, path: str) -> dict[str, Any] | None:
    answer = table(template).find("GET", path)
    return answer.values if isinstance(answer, Match) else None


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/", "/", {}),
        ("/status", "/status", {}),
        ("/status", "/Status", None),
        ("/status", "/status/", None),
        ("/status", "/status/x", None),
        ("/status", "/stat", None),
        ("/status", "//status", None),
        ("/status", "status", None),
        ("/status", "", None),
        ("/status", "*", None),
        ("/status/", "/status/", {}),
        ("/a b/größe", "/a%20b/gr%C3%B6%C3%9Fe", {}),
        ("/a b/größe", "/a%20b/gr%c3%b6%c3%9fe", {}),
        ("/status", "/%73tatus", {}),
        ("/a/b", "/a%2Fb", None),
        ("/a+b", "/a+b", {}),
        ("/a b", "/a+b", None),
        ("/100%", "/100%25", {}),
        ("/d/<name>", "/d/a%20b", {"name": "a b"}),
        ("/d/<name>", "/d/a+b", {"name": "a+b"}),
        ("/d/<name>", "/d/a%2Fb", {"name": "a/b"}),
        ("/d/<name>", "/d/%252e", {"name": "%2e"}),
        ("/d/<name>", "/d/%E2%82%AC", {"name": "€"}),
        ("/d/<name>", "/d/...", {"name": "..."}),
        ("/d/<name>", "/d/.hidden", {"name": ".hidden"}),
        ("/d/<name>", "/d/", None),
        ("/d/<name>", "/d/a/", None),
        ("/d/<name>", "/d/a/b", None),
        ("/<a>/<b>", "/1/2", {"a": "1", "b": "2"}),
        ("/<a>/<b>", "//2", None),
        ("/<größe>", "/x", {"größe": "x"}),
        ("/d/<int:n>", "/d/12", {"n": 12}),
        ("/d/<int:n>", "/d/-12", {"n": -12}),
        ("/d/<int:n>", "/d/007", {"n": 7}),
        ("/d/<int:n>", "/d/%31", {"n": 1}),
        ("/d/<int:n>", "/d/" + "9" * 39, {"n": 10**39 - 1}),
        ("/d/<int:n>", "/d/" + "9" * 40, None),
        ("/d/<int:n>", "/d/" + "9" * 8000, None),
        ("/d/<int:n>", "/d/+1", None),
        ("/d/<int:n>", "/d/1_0", None),
        ("/d/<int:n>", "/d/%201", None),
        ("/d/<int:n>", "/d/1%0A", None),
        ("/d/<int:n>", "/d/%D9%A1", None),  # an Arabic digit
        ("/d/<int:n>", "/d/1.0", None),
        ("/d/<int:n>", "/d/-", None),
        ("/d/<int:n>", "/d/", None),
        ("/d/<float:x>", "/d/1.5", {"x": 1.5}),
        ("/d/<float:x>", "/d/-0.25", {"x": -0.25}),
        ("/d/<float:x>", "/d/2", {"x": 2.0}),
        ("/d/<float:x>", "/d/nan", None),
        ("/d/<float:x>", "/d/inf", None),
        ("/d/<float:x>", "/d/1e5", None),
        ("/d/<float:x>", "/d/1.", None),
        ("/d/<float:x>", "/d/.5", None),
        ("/d/<float:x>", "/d/1.5.2", None),
        ("/d/<float:x>", "/d/" + "9" * 400, None),
        ("/f/<path:rest>", "/f/a", {"rest": "a"}),
        ("/f/<path:rest>", "/f/a/b%20c/d", {"rest": "a/b c/d"}),
        ("/f/<path:rest>", "/f/a/", {"rest": "a/"}),
        ("/f/<path:rest>", "/f/a%2Fb", {"rest": "a/b"}),
        ("/f/<path:rest>", "/f/", None),
        ("/f/<path:rest>", "/f", None),
        ("/f/<path:rest>", "/f//etc/passwd", None),
        ("/f/<path:rest>", "/f/%2Fetc/passwd", None),
        ("/<path:rest>", "/a/b", {"rest": "a/b"}),
        ("/<path:rest>", "/", None),
        ("/<path:rest>", "//a", None),
        ("/<path:rest>/edit", "/a/b/edit", {"rest": "a/b"}),
        ("/<path:rest>/edit", "/edit", None),
        ("/<path:rest>/edit", "/a/edit/x", None),
        ("/<path:rest>/", "/a/b/", {"rest": "a/b"}),
        ("/<a>/<path:b>/v<int:c>", "/x/y/z/v3", {"a": "x", "b": "y/z", "c": 3}),
        ("/img-<int:n>.png", "/img-7.png", {"n": 7}),
        ("/img-<int:n>.png", "/img-.png", None),
        ("/img-<int:n>.png", "/img-7.jpg", None),
        ("/img-<int:n>.png", "/img-x.png", None),
        ("/img-<int:n>.png", "/7.png", None),
        ("/img-<int:n>.png", "/abc-7.png", None),
        ("/aba<x>bab", "/abab", None),
        ("/aba<x>bab", "/ababab", None),
        ("/aba<x>bab", "/aba-bab", {"x": "-"}),
        ("/<name>.<ext>", "/a.tar.gz", {"name": "a.tar", "ext": "gz"}),
        ("/<name>.<ext>", "/a.", None),
        ("/<name>.<ext>", "/.a", None),
        ("/<name>.<ext>", "/a..", None),
        ("/<name>.<ext>", "/...x", None),
        ("/img-<name>", "/img-..", None),
        ("/img-<name>", "/img-..%2Fsecret", None),
        ("/img-<name>", r"/img-.%5Csecret", None),
        ("/<name>.png", "/...png", None),
        ("/img-<name>", "/img-...", {"name": "..."}),
        ("/<a>--<b>", "/---", None),
        ("/<a>--<b>", "/----", {"a": "-", "b": "-"}),
        ("/<a>-<b>x-y", "/x-y", None),
        ("/<int:y>-<int:m>-<int:d>", "/2024-02-29", {"y": 2024, "m": 2, "d": 29}),
        ("/<int:y>-<int:m>-<int:d>", "/2024-02-", None),
        ("/<float:lat>,<float:lon>", "/-1.5,2", {"lat": -1.5, "lon": 2.0}),
    ],
)
def test_a_template_takes_these_values(template: str, path: str, expected: dict[str, Any] | None) -> None:
    taken = values(template, path)
    assert taken == expected
    assert [type(value) for value in (taken or {}).values()] == [type(value) for value in (expected or {}).values()]


@pytest.mark.parametrize("path", ["/d/%", "/d/%2", "/d/%zz", "/d/%%20", "/%2", "/d/%+1", "/d/% 1", "/d/a%2", "/x%y/d"])
def test_bad_encoding_is_refused(path: str) -> None:
    with pytest.raises(BadMessage, match="two hexadecimal digits"):
        table("/d/<name>").find("GET", path)


@pytest.mark.parametrize("path", ["/d/%FF", "/d/%C3", "/d/%C3x%B6", "/d/%c0%ae", "/d/%ed%a0%80", "/%f4%90%80%80"])
def test_what_is_not_utf8_is_refused(path: str) -> None:
    with pytest.raises(BadMessage, match="UTF-8"):
        table("/d/<name>").find("GET", path)


@pytest.mark.parametrize("path", ["/d/ä", "/d/\ud800", "/\u212a"])
def test_raw_characters_beyond_ascii_are_refused(path: str) -> None:
    with pytest.raises(BadMessage, match="ASCII"):
        table("/d/<name>").find("GET", path)


@pytest.mark.parametrize("path", ["/d/%00", "/d/a\0", "/d/a%00b"])
def test_nul_is_refused(path: str) -> None:
    with pytest.raises(BadMessage, match="NUL"):
        table("/d/<name>").find("GET", path)


@pytest.mark.parametrize("up", [".", "..", "%2e", "%2E%2e", ".%2e", r"..\..", r"a\..\b", "a%2f..%2fb", "%2e%2e%2fetc"])
@pytest.mark.parametrize("frame", ["/{}", "/{}/a", "/a/{}", "/a/{}/b", "/a/%5c{}"])
def test_segments_that_climb_are_refused(frame: str, up: str) -> None:
    with pytest.raises(BadMessage, match="segment"):
        table("/<path:rest>", "/<a>", "/<a>/<b>").find("GET", frame.format(up))


SPECIFIC = ["/x/5", "/x/<a>5", "/x/<int:a>", "/x/<float:a>", "/x/<a>", "/x/<path:a>/5", "/x/<path:a>"]


@pytest.mark.parametrize("order", [SPECIFIC, SPECIFIC[::-1], SPECIFIC[3:] + SPECIFIC[:3]])
@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/x/5", "/x/5"),
        ("/x/15", "/x/<a>5"),
        ("/x/6", "/x/<int:a>"),
        ("/x/6.1", "/x/<float:a>"),
        ("/x/y", "/x/<a>"),
        ("/x/y/5", "/x/<path:a>/5"),
        ("/x/y/6", "/x/<path:a>"),
    ],
)
def test_the_more_specific_template_wins_in_any_order(order: list[str], path: str, template: str) -> None:
    assert found(table(*order), path)[0] == template


@pytest.mark.parametrize(
    ("templates", "path", "winner"),
    [
        (["/a/<x>/c", "/<y>/b/d"], "/a/b/d", "/<y>/b/d"),  # `a` fits, and what follows it does not
        (["/<x>/b", "/a/<y>"], "/a/b", "/a/<y>"),  # decided from the left
        (["/<x>", "/img<x>"], "/img1", "/img<x>"),
        (["/a<x>", "/ab<x>"], "/abc", "/ab<x>"),
        (["/<a>-<b>", "/<int:a>-<b>", "/<int:a>-<int:b>"], "/1-2", "/<int:a>-<int:b>"),
        (["/<a>-<b>", "/<int:a>-<b>", "/<int:a>-<int:b>"], "/1-x", "/<int:a>-<b>"),
        (["/<path:p>/x", "/<path:p>/<int:n>/x"], "/a/1/x", "/<path:p>/<int:n>/x"),
        (["/<path:p>/<name>", "/<path:p>/x"], "/a/x", "/<path:p>/x"),
        (["/a/<path:p>", "/<x>/b"], "/a/b", "/a/<path:p>"),
    ],
)
def test_the_more_specific_template_wins(templates: list[str], path: str, winner: str) -> None:
    assert found(table(*templates), path)[0] == winner
    assert found(table(*reversed(templates)), path)[0] == winner


def test_each_method_has_its_function_and_names() -> None:
    routes = RouteTable()
    routes.add("get", "/d/<a>", "read")
    routes.add("DELETE", "/d/<b>", "remove")
    assert found(routes, "/d/1") == ("read", {"a": "1"})
    assert found(routes, "/d/1", "DELETE") == ("remove", {"b": "1"})
    assert missed(routes, "/d/1", "PUT") == (("DELETE", "GET", "HEAD", "OPTIONS"), None)
    assert missed(routes, "/d/1", "get") == (("DELETE", "GET", "HEAD", "OPTIONS"), None)
    assert routes.paths() == [("GET", "/d/<a>"), ("DELETE", "/d/<b>")]


def test_a_method_may_be_found_in_a_less_specific_template() -> None:
    routes = table("/users/me")
    routes.add("POST", "/users/<name>", "add")
    assert found(routes, "/users/me", "POST") == ("add", {"name": "me"})
    assert missed(routes, "/users/me", "PUT")[0] == ("GET", "HEAD", "OPTIONS", "POST")
    assert missed(routes, "/users/you", "GET")[0] == ("OPTIONS", "POST")


def test_head_gets_what_get_has() -> None:
    routes = table("/a", "/b/<x>")
    assert found(routes, "/a", "HEAD") == ("/a", {})
    assert found(routes, "/b/1", "HEAD") == ("/b/<x>", {"x": "1"})
    routes.add("HEAD", "/a", "own")
    assert found(routes, "/a", "HEAD")[0] == "own"
    assert found(routes, "/a")[0] == "/a"


def test_head_is_no_way_to_post() -> None:
    assert missed(table("/a", method="POST"), "/a", "HEAD") == (("OPTIONS", "POST"), None)


def test_any_token_is_a_method() -> None:
    routes = table("/a", method="m-search")
    assert found(routes, "/a", "M-SEARCH") == ("/a", {})
    assert missed(routes, "/a")[0] == ("M-SEARCH", "OPTIONS")


def test_a_declared_options_is_found() -> None:
    routes = table("/a")
    assert missed(routes, "/a", "OPTIONS")[0] == ("GET", "HEAD", "OPTIONS")
    routes.add("OPTIONS", "/a", "own")
    assert found(routes, "/a", "OPTIONS")[0] == "own"


def test_the_methods_of_a_path_are_told_whether_it_has_options_or_not() -> None:
    routes = table("/a", "/b/<x>")
    routes.add("POST", "/<x>", "add")
    assert routes.allowed("/a") == ("GET", "HEAD", "OPTIONS", "POST")
    routes.add("OPTIONS", "/a", "own")
    assert routes.allowed("/a") == ("GET", "HEAD", "OPTIONS", "POST")
    assert routes.allowed("/x") == ("OPTIONS", "POST")
    for path in ("/", "/b/", "/b/1/2", "*", ""):
        assert routes.allowed(path) == ()
    with pytest.raises(BadMessage):
        routes.allowed("/%")


def test_what_stands_for_a_path_may_be_none() -> None:
    routes = RouteTable()
    routes.add("GET", "/a", None)
    routes.add("GET", "/<x>", None)
    assert found(routes, "/a") == (None, {})
    assert found(routes, "/b") == (None, {"x": "b"})


def test_values_belong_to_one_request() -> None:
    routes = table("/a")
    found(routes, "/a")[1]["added"] = 1
    assert found(routes, "/a")[1] == {}


def test_an_empty_table_finds_nothing() -> None:
    assert missed(RouteTable(), "/") == ((), None)
    assert RouteTable().paths() == []


@pytest.mark.parametrize(
    ("template", "path", "redirect"),
    [
        ("/a/", "/a", "/a/"),
        ("/a/<x>/", "/a/b%20c", "/a/b%20c/"),
        ("/f/<path:rest>/", "/f/a/b", "/f/a/b/"),
        ("/a", "/a/", None),
        ("/a/", "/b", None),
        ("/a/", "/a//", None),
        ("/a/", "a", None),
        # None of these may become the address of another site.
        ("/<x>/", "//evil.example", None),
        ("/<x>/<y>/", "//evil.example", None),
        ("/<path:x>/", "//evil.example", None),
        ("/<x>/", r"/\evil.example", None),
        ("/<path:x>/", r"/\/evil.example", None),
        ("/<path:x>/", "/\t/evil.example", None),
        ("/<x>/", "/a\r\nSet-Cookie: x", None),
        ("/<x>/", "/%5Cevil.example", "/%5Cevil.example/"),
    ],
)
def test_a_missing_slash_at_the_end_is_told(template: str, path: str, redirect: str | None) -> None:
    assert missed(table(template), path) == ((), redirect)


def test_a_missing_slash_is_told_for_the_methods_that_have_it() -> None:
    routes = table("/a/")
    assert missed(routes, "/a", "HEAD")[1] == "/a/"
    assert missed(routes, "/a", "POST")[1] is None
    routes.add("POST", "/a", "without")
    assert missed(routes, "/a") == (("OPTIONS", "POST"), None)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (len, r'write @app\.route\("/path"\)'),
        (None, "begins with '/'"),
        (b"/a", "begins with '/'"),
        ("", "begins with '/'"),
        ("a", "begins with '/'"),
        ("*", "begins with '/'"),
        ("//", "empty segment"),
        ("/a//b", "empty segment"),
        ("/a?b=1", "request.params"),
        ("/a#b", "request.params"),
        ("/a%20b", "not encoded"),
        ("/a\n", "printable"),
        ("/a\0", "printable"),
        ("/\ud800", "printable"),
        ("/a\\b", "backslash"),
        ("/a/../b", "segment"),
        ("/.", "segment"),
        ("/{id}", "written <name>"),
        ("/<", "'<' needs its '>'"),
        ("/<a", "'<' needs its '>'"),
        ("/a>", "'<' needs its '>'"),
        ("/<<a>>", "'<' needs its '>'"),
        ("/<a/b>", "'<' needs its '>'"),
        ("/<>", "needs a name"),
        ("/<int:>", "needs a name"),
        ("/< a>", "needs a name"),
        ("/<1a>", "needs a name"),
        ("/<a-b>", "needs a name"),
        ("/<text:a>", "no converter 'text': use .* or <a>"),
        ("/<Int:a>", "no converter 'Int': use <int:a>"),
        ("/<:a>", "no converter ''"),
        ("/<int:int:a>", "no converter 'int:int'"),
        ("/<a><b>", "text between them"),
        ("/x<a><int:b>y", "text between them"),
        ("/<a>/<a>", "<a> twice"),
        ("/<a>-<int:a>", "<a> twice"),
        ("/<path:a>/<path:b>", "only one <path"),
        ("/x<path:a>", "stands alone"),
        ("/<path:a>.png", "stands alone"),
        ("/<path:a>-<b>", "stands alone"),
    ],
)
def test_a_template_is_refused_with_what_is_wrong(path: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        placeholders(path)
    with pytest.raises(DeclarationError, match=said):
        RouteTable().add("GET", path, None)


@pytest.mark.parametrize("method", ["", "GET POST", "GET,POST", "GÉT", "G\n", "x" * 41, None, 5, ["GET"]])
def test_a_method_is_refused(method: Any) -> None:
    with pytest.raises(DeclarationError, match="is not an HTTP method"):
        RouteTable().add(method, "/", None)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("/a", "/a", "'/a' is declared twice$"),
        ("/d/<a>", "/d/<b>", "twice: it takes the same paths as '/d/<a>'"),
        ("/d/<int:a>x", "/d/<int:b>x", "twice: it takes the same paths"),
        ("/f/<path:a>", "/f/<path:b>", "twice: it takes the same paths"),
        ("/f/<path:a>/<int:n>", "/f/<path:b>/<int:m>", "twice: it takes the same paths"),
    ],
)
def test_one_method_and_path_cannot_stand_for_two_functions(first: str, second: str, said: str) -> None:
    routes = table(first)
    with pytest.raises(DeclarationError, match=said):
        routes.add("get", second, None)
    assert routes.paths() == [("GET", first)]
    routes.add("POST", second, "other")


def test_placeholders_are_told_in_order() -> None:
    assert placeholders("/") == ()
    assert placeholders("/<b>/x<int:a>-<float:c>/<path:rest>/<z>") == ("b", "a", "c", "rest", "z")


# What a value may be: any text but that which is refused everywhere.
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1)
names = texts.filter(lambda text: not {".", ".."} & set(text.replace("\\", "/").split("/")))


@given(names)
@example("a/b")
@example("100%25")
@example("\n")
def test_any_value_quoted_into_a_path_comes_back(value: str) -> None:
    assert values("/d/<name>/x", f"/d/{quote(value, safe='')}/x") == {"name": value}
    assert values("/<name>.png", f"/{quote(value, safe='')}.png") == {"name": value}


@given(st.lists(names, min_size=1).filter(lambda parts: not parts[0].startswith("/")))
def test_any_path_quoted_into_a_path_comes_back(parts: list[str]) -> None:
    path = "/".join(quote(part, safe="") for part in parts)
    assert values("/f/<path:rest>", f"/f/{path}") == {"rest": "/".join(parts)}


@given(st.integers(-(10**39) + 1, 10**39 - 1))
def test_any_number_comes_back(number: int) -> None:
    assert values("/n<int:n>", f"/n{number}") == {"n": number}


@given(st.text(st.characters(blacklist_categories=["C", "Z"], blacklist_characters="/\\<>{}?#%"), min_size=1))
def test_any_fixed_text_is_found_as_browsers_send_it(text: str) -> None:
    if text in (".", ".."):
        return
    assert values(f"/{text}", "/" + quote(text, safe="")) == {}
    assert values(f"/{text}", "/" + "".join(f"%{byte:02x}" for byte in text.encode())) == {}


MANY = [
    "/a", "/a/<x>", "/<int:x>/a", "/<x>/a", "/<float:x>/<y>", "/<x>-<y>-<z>", "/<x>/<y>-<z>.png", "/<path:p>",
    "/<path:p>/a", "/<x>/<path:p>/<y>", "/a/<int:x>/<path:p>/",
]  # fmt: skip


@given(st.text() | st.text("/a-.%2fF1\\").map("/".__add__))
@example("/.-0-0")
@example("/" * 8000)
@example("/" + "-" * 8000)
def test_any_path_is_found_or_not_or_refused(path: str) -> None:
    try:
        answer = table(*MANY).find("GET", path)
    except BadMessage:
        return
    if isinstance(answer, Match):
        assert not {".", ".."} & {piece for value in answer.values.values() for piece in str(value).split("/")}
    else:
        assert answer.redirect is None or answer.redirect == path + "/"


segments = st.sampled_from(["a", "<{}>", "<int:{}>", "<float:{}>", "a<{}>a", "<{}>a", "<path:{}>"])
templates = st.lists(segments, min_size=1, max_size=5).filter(lambda parts: parts.count("<path:{}>") < 2)


def steps(routes: RouteTable, path: str) -> int:
    """How many functions are called to look for a path, those written in C included."""
    count = 0

    def called(frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        routes.find("GET", path)
    finally:
        sys.setprofile(before)
    return count


@given(st.lists(templates, min_size=1, max_size=10), st.sampled_from(["a", "1", "1a", "aa", ""]))
def test_the_work_grows_with_the_path_and_no_faster(shapes: list[list[str]], piece: str) -> None:
    routes = RouteTable()
    for number, parts in enumerate(shapes):
        path = "/" + "/".join(part.format(f"v{place}") for place, part in enumerate(parts))
        routes.add(f"M{number}", path, None)  # no template has the method that is asked for: all are tried
    short, long = (steps(routes, f"/{piece}" * length) for length in (50, 500))
    assert long <= 10 * short
    # Within a segment, too.
    short, long = (steps(routes, "/" + "a1-" * length) for length in (50, 500))
    assert long <= short + 10


def side_by_side(depth: int) -> int:
    """The work for a path whose every segment fits two kinds in the tree, which differ in each template."""
    routes = RouteTable()
    for number in range(8):
        kinds = ["<int:v{}>" if place == number else "<v{}>" for place in range(depth)]
        routes.add("M", "/" + "/".join(kind.format(place) for place, kind in enumerate(kinds)), None)
    return steps(routes, "/1" * depth)


def test_templates_side_by_side_do_not_multiply() -> None:
    """Each place in the tree is visited once, however many ways there are to combine the kinds."""
    assert side_by_side(40) < 3 * side_by_side(20)
