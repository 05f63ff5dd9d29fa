"""What handlers see of HTTP: requests with bodies of all kinds, answers of all kinds, and their mistakes."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus.errors import BadMessage, Busy, ConfigurationError, DaebusError, HttpError, InternalError, Unserialisable
from daebus.exchange import HttpRequest, HttpResponse, chunk_of
from daebus.http1 import read_head

FORM = "application/x-www-form-urlencoded"


def request_of(
    target: str = "/",
    body: bytes = b"",
    kind: str | None = None,
    *lines: str,
    method: str = "POST",
    spooled: bool = False,
) -> HttpRequest:
    """A request whose body has been read."""
    headers = ["Host: x", f"Content-Length: {len(body)}", *lines] + ([f"Content-Type: {kind}"] if kind else [])
    head = read_head("\r\n".join([f"{method} {target} HTTP/1.1", *headers, "", ""]).encode("latin-1"))
    request = HttpRequest(head, BytesIO(body) if spooled else body, "127.0.0.1:5")
    request.read()
    return request


# --- requests ---


def test_a_request_without_a_body() -> None:
    request = request_of("/%C3%A9t%C3%A9/x?a=1&b=2&b=3", method="GET")
    assert (request.method, request.path, request.target) == ("GET", "/été/x", "/%C3%A9t%C3%A9/x?a=1&b=2&b=3")
    assert request.query == request.payload == {"a": "1", "b": ["2", "3"]}
    assert (request.json, request.form, request.files, request.body) == (None, {}, {}, b"")
    assert request.remote_address == "127.0.0.1:5"
    assert (request.service, request.reply_to) == ("http", None)
    assert repr(request) == "HttpRequest(GET '/%C3%A9t%C3%A9/x')"


def test_the_values_of_the_path_win_over_the_query() -> None:
    request = request_of("/?id=evil&x=1", method="GET")
    request.values = {"id": 5}
    assert request.params == {"id": 5, "x": "1"}


def test_a_request_has_a_name_of_its_own_for_the_log() -> None:
    one, other = request_of(), request_of()
    assert one.request_id == one.request_id != other.request_id
    assert one.request_id.startswith("http-")


@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", "application/merge-patch+json"]
)
def test_a_json_body(kind: str, spooled: bool) -> None:
    request = request_of("/?q=1", b'{"a": [1, null]}', kind, spooled=spooled)
    assert request.payload == request.json == {"a": [1, None]}
    assert request.query == {"q": "1"}
    assert request.body == b'{"a": [1, null]}'
    request.close()


@pytest.mark.parametrize("text", [b"null", b"0", b"false", b'""', b"[]"])
def test_a_json_value_that_is_nothing_much_is_the_payload_too(text: bytes) -> None:
    assert request_of("/?q=1", text, "application/json").payload == json.loads(text)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"\xff", 400),
        ("application/json", b"NaN", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json; charset=latin-1", b"{}", 415),
        (FORM, b"\xff", 400),
        (FORM, b"a=%ff", 400),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"x", 400),
    ],
)
@pytest.mark.parametrize("spooled", [False, True])
def test_a_body_that_makes_no_sense_is_refused(kind: str, body: bytes, status: int, spooled: bool) -> None:
    with pytest.raises(DaebusError) as caught:
        request_of("/", body, kind, spooled=spooled)
    assert caught.value.http_status == status


def test_a_form() -> None:
    request = request_of("/", b"a=1&b=x+y&a=2", f"{FORM}; charset=utf-8")
    assert request.payload == request.form == {"a": ["1", "2"], "b": "x y"}
    assert request.json is None


MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nhello\r\n'
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="c"\r\n\r\n\r\n'
    b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\nvalue\r\n--b--\r\n'
)


@pytest.mark.parametrize("spooled", [False, True])
def test_a_form_with_files(spooled: bool) -> None:
    request = request_of("/", MULTIPART, "multipart/form-data; boundary=b", spooled=spooled)
    assert request.form == {"n": "value"}
    first, second = request.files["f"]
    assert (first.filename, first.read(), second.filename, second.size) == ("a.txt", b"hello", "c", 0)
    assert set(request.payload) == {"f", "n"}
    assert request.json is None
    request.close()


@pytest.mark.parametrize("kind", [None, "text/plain", "application/octet-stream", "application/jsonx", "garbage;;="])
def test_any_other_body_is_its_bytes(kind: str | None) -> None:
    request = request_of("/?q=1", b"\xff\x00", kind, "X: y")
    assert request.payload == request.body == b"\xff\x00"
    assert (request.json, request.form) == (None, {})


def test_a_body_can_be_read_as_a_file_as_often_as_one_likes() -> None:
    for spooled in (False, True):
        request = request_of("/", b"abc", "text/plain", spooled=spooled)
        assert [request.stream.read(), request.stream.read(), request.body] == [b"abc"] * 3
        request.close()


def test_an_empty_body_is_none_whatever_its_type() -> None:
    request = request_of("/?q=1", b"", "application/json")
    assert request.payload == {"q": "1"}
    assert request.json is None


def test_an_empty_chunked_body_is_one() -> None:
    head = read_head(b"POST /?q=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    request = HttpRequest(head, b"")
    request.read()
    assert request.payload == b""


def test_a_closed_request_lets_its_file_go() -> None:
    head = read_head(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
    file = BytesIO(b"abc")
    request = HttpRequest(head, file)
    request.close()
    request.close()
    assert file.closed


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1; b=2;c=3", {"a": "1", "b": "2", "c": "3"}),
        ('a="quoted"; b="', {"a": "quoted", "b": '"'}),
        ("a=1; a=2", {"a": "1"}),
        ("a=b=c; ; =x; novalue", {"a": "b=c"}),
    ],
)
def test_cookies(cookie: str, expected: dict[str, str]) -> None:
    lines = [f"Cookie: {cookie}"] if cookie else []
    assert request_of("/", b"", None, *lines).cookies == expected


def test_everything_in_one_dict() -> None:
    raw = request_of("/p?q=1", b'{"a": 1}', "application/json").raw
    assert (raw["method"], raw["path"], raw["query"], raw["params"]) == ("POST", "/p", {"q": "1"}, {"q": "1"})
    assert (raw["json"], raw["form"], raw["headers"]["host"]) == ({"a": 1}, {}, "x")
    json.dumps(raw)


kinds = st.sampled_from(
    ["application/json", FORM, "multipart/form-data; boundary=b", "multipart/form-data", "x/y+json"]
)
odd_kinds = kinds | st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@given(
    odd_kinds, st.binary(max_size=100) | st.just(MULTIPART), st.text(alphabet="?&=%+a0;", max_size=20), st.booleans()
)
def test_any_body_and_query_are_read_or_refused_and_nothing_else(
    kind: str, body: bytes, query: str, spooled: bool
) -> None:
    """Planning runs where another exception would end the process."""
    head = read_head(
        f"POST /?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nContent-Type: {kind}\r\n\r\n".encode()
    )
    request = HttpRequest(head, BytesIO(body) if spooled else body)
    try:
        request.read()
        _ = request.params, request.payload, request.cookies
    except DaebusError as error:
        refusal = error
    else:
        refusal = BadMessage("nothing")
    finally:
        request.close()
    assert refusal.http_status in (400, 413, 415)
    assert refusal.for_caller


# --- answers ---


def answered(result: Any, response: HttpResponse | None = None) -> HttpResponse:
    """What is sent for a handler's result."""
    sent: list[HttpResponse] = []
    response = response or HttpResponse()
    response.finish = sent.append
    response.conclude(result)
    (answer,) = sent
    assert response.answered
    return answer


def kind_of(answer: HttpResponse) -> str | None:
    kinds = [value for name, value in answer.headers + answer.type_header() if name.lower() == "content-type"]
    assert len(kinds) <= 1
    return kinds[0] if kinds else None


@pytest.mark.parametrize(
    ("result", "status", "body", "kind"),
    [
        ({"a": 1}, 200, b'{"a":1}', "application/json"),
        ([], 200, b"[]", "application/json"),
        (0, 200, b"0", "application/json"),
        (False, 200, b"false", "application/json"),
        (None, 204, b"", None),
        ("text", 200, b"text", "text/plain; charset=utf-8"),
        ("", 200, b"", "text/plain; charset=utf-8"),
        ("\n <p>ä</p>", 200, "\n <p>ä</p>".encode(), "text/html; charset=utf-8"),
        (b"\xff", 200, b"\xff", "application/octet-stream"),
        (bytearray(b"x"), 200, b"x", "application/octet-stream"),
        (memoryview(b"x"), 200, b"x", "application/octet-stream"),
        (({"a": 1}, 201), 201, b'{"a":1}', "application/json"),
        ((None, 201), 201, b"", None),
        ((None, 404), 404, b"", None),
        (("x", 202, {"Content-Type": "text/csv"}), 202, b"x", "text/csv"),
        (("x", 202, [("X", "y")]), 202, b"x", "text/plain; charset=utf-8"),
        (("x", 202, None), 202, b"x", "text/plain; charset=utf-8"),
        (("a", "b"), 200, b'["a","b"]', "application/json"),
        (("a", "b", "c", "d"), 200, b'["a","b","c","d"]', "application/json"),
    ],
)
def test_what_a_handler_returns_is_the_answer(result: Any, status: int, body: bytes, kind: str | None) -> None:
    answer = answered(result)
    assert (answer.status, answer.body, kind_of(answer)) == (status, body, kind)


def test_what_a_handler_says_through_response_is_the_answer() -> None:
    response = HttpResponse()
    assert response.send({"a": 1}, 201, {"X": "y"}) is response
    answer = answered(None, response)
    assert (answer.status, answer.body, dict(answer.headers)["X"]) == (201, b'{"a":1}', "y")
    assert answer.get_response() == (b'{"a":1}', 201)


def test_what_was_set_goes_with_what_is_returned() -> None:
    response = HttpResponse()
    response.header("X", 1).set_status(202).set_cookie("a", "b")
    answer = answered({"a": 1}, response)
    assert answer.status == 202
    assert dict(answer.headers)["X"] == "1"
    assert dict(answer.headers)["Set-Cookie"].startswith("a=b")


def test_a_response_made_by_the_handler_is_the_answer() -> None:
    own = HttpResponse().send("x", 203)
    assert answered(own) is own
    assert answered((own, 404)) is own
    assert own.status == 404


def test_headers_beside_a_response_are_added_to_it() -> None:
    answer = answered((HttpResponse().send("x"), 201, {"X": "y"}))
    assert ("X", "y") in answer.headers


def test_an_error_as_older_programs_say_it() -> None:
    for err in ("no", ValueError("no")):
        answer = HttpResponse().error(err)
        assert (answer.status, answer.body) == (400, b'{"status":"error","error":"no"}')
    assert HttpResponse().error("no", 404).status == 404
    with pytest.raises(TypeError, match="takes an exception or a text, not dict"):
        HttpResponse().error({})  # type: ignore[arg-type]


def test_success_and_progress_are_as_in_an_action() -> None:
    assert HttpResponse().success({"a": 1}).body == b'{"a":1}'
    assert HttpResponse().progress(5, 50) == 0


@pytest.mark.parametrize("status", [0, 100, 199, 600, True, "200", None, 200.0])
def test_a_status_is_a_number_that_http_knows(status: Any) -> None:
    with pytest.raises(ValueError, match="an HTTP status is a number from 200 to 599"):
        HttpResponse().set_status(status)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection", "Date", "Keep-Alive", "Upgrade"])
def test_headers_that_frame_the_message_are_the_servers(name: str) -> None:
    with pytest.raises(ValueError, match="is set by the server itself"):
        HttpResponse().header(name, "1")


def test_a_header_replaces_one_of_its_name() -> None:
    answer = HttpResponse().header("X-A", "1").header("x-a", "2")
    assert answer.headers == [("x-a", "2")]


def test_a_content_type_that_was_set_is_kept() -> None:
    assert kind_of(HttpResponse().header("content-type", "text/csv").send("a,b")) == "text/csv"
    assert kind_of(HttpResponse().send("a,b", content_type="text/csv")) == "text/csv"


def test_a_second_value_has_its_own_content_type() -> None:
    """Else text of a user's is shown as a page."""
    answer = HttpResponse().send("<p>").send({"a": "<script>"})
    assert (answer.body, kind_of(answer)) == (b'{"a":"<script>"}', "application/json")


def test_what_json_cannot_hold_is_said_to_be_the_answers_fault() -> None:
    with pytest.raises(Unserialisable) as caught:
        HttpResponse().send({"a": object()})
    assert caught.value.of_answer


def test_a_response_is_no_part_of_an_answer() -> None:
    with pytest.raises(ConfigurationError, match="cannot be part of an answer"):
        HttpResponse().to_dict()
    with pytest.raises(DaebusError):
        HttpResponse().send({"a": HttpResponse()})


def test_with_debug_json_is_for_people_to_read() -> None:
    response = HttpResponse()
    response.debug = True
    assert response.send({"a": 1}).body == b'{\n  "a": 1\n}'


def test_a_second_answer_is_not_sent() -> None:
    sent: list[HttpResponse] = []
    response = HttpResponse()
    response.finish = sent.append
    response.conclude("one")
    response.conclude("two")
    response.fail(Busy("no"))
    assert len(sent) == 1


def test_a_reopened_response_takes_one_more_answer() -> None:
    sent: list[HttpResponse] = []
    response = HttpResponse()
    response.finish = sent.append
    response.conclude("one")
    response.reopen(sent.append)
    assert not response.answered
    response.fail(Busy("no"))
    response.fail(Busy("no"))
    assert [answer.status for answer in sent] == [200, 503]


def test_a_response_says_what_it_is() -> None:
    assert repr(HttpResponse().send("x", 404)) == "HttpResponse(404)"


# --- cookies and redirects ---


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "a=b; Path=/; HttpOnly; SameSite=Lax"),
        ({"max_age": 0}, "a=b; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"),
        ({"httponly": False, "secure": True, "samesite": "None"}, "a=b; Path=/; Secure; SameSite=None"),
        ({"path": "/x", "domain": "e.org"}, "a=b; Path=/x; Domain=e.org; HttpOnly; SameSite=Lax"),
    ],
)
def test_a_cookie(options: dict[str, Any], expected: str) -> None:
    assert HttpResponse().set_cookie("a", "b", **options).headers == [("Set-Cookie", expected)]


def test_several_cookies_are_several_headers() -> None:
    answer = HttpResponse().set_cookie("a", "1").set_cookie("b", "2").delete_cookie("c")
    assert [value.partition(";")[0] for _name, value in answer.headers] == ["a=1", "b=2", "c="]
    assert "Max-Age=0" in answer.headers[-1][1]


@pytest.mark.parametrize("text", ["a;b", "a b", "a,b", 'a"b', "a\\b", "a\r\nX: y", "a\tb", "ä", "a\x00", "a\x7f"])
def test_a_cookie_that_would_become_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be in a cookie|control characters"):
        HttpResponse().set_cookie("a", text)
    with pytest.raises(ValueError, match=r"cannot be in a cookie|control characters"):
        HttpResponse().set_cookie(text, "a")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("", {}),
        ("a=b", {}),
        ("a", {"path": "/; Domain=e.org"}),
        ("a", {"domain": "x; Secure"}),
        ("a", {"samesite": "x;"}),
    ],
)
def test_nothing_in_a_cookie_adds_an_attribute(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cookie"):
        HttpResponse().set_cookie(name, "v", **options)


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("/a?b=c#d", "/a?b=c#d"),
        ("https://e.org/%20", "https://e.org/%20"),
        ("/ä b", "/%C3%A4%20b"),
        ("/\r\nX: y", "/%0D%0AX:%20y"),
    ],
)
def test_a_redirection(location: str, sent: str) -> None:
    answer = HttpResponse().redirect(location)
    assert (answer.status, answer.headers) == (302, [("Location", sent)])
    assert answered(None, HttpResponse().redirect("/x", 308)).status == 308


@pytest.mark.parametrize("status", [200, 300, 304, 404])
def test_only_some_statuses_redirect(status: int) -> None:
    with pytest.raises(ValueError, match="is not a redirection"):
        HttpResponse().redirect("/", status)


# --- files ---


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_bytes(b"<p>hello")
    return path


def test_a_file(page: Path) -> None:
    answer = answered(HttpResponse().file(str(page)))
    assert answer.file_part is not None
    file, offset, length = answer.file_part
    assert (offset, length, kind_of(answer)) == (0, 8, "text/html; charset=utf-8")
    assert os.pread(file.descriptor, 100, 0) == b"<p>hello"
    del file
    assert descriptors_of(page) == 1
    del answer
    assert descriptors_of(page) == 0


def test_a_file_may_be_given_as_a_path(page: Path) -> None:
    assert HttpResponse().file(page).file_part is not None  # type: ignore[arg-type]


def test_a_file_to_be_saved(page: Path) -> None:
    answer = HttpResponse().file(str(page), content_type="text/plain", download_name='a"\r\n€.html')
    assert answer.headers == [("Content-Disposition", "attachment; filename*=UTF-8''a%22%0D%0A%E2%82%AC.html")]
    assert kind_of(answer) == "text/plain"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        HttpResponse().file(str(tmp_path / "none"))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_only_a_regular_file_is_a_file(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "other"
    make(path)
    with pytest.raises(OSError, match="not a regular file"):
        HttpResponse().file(str(path))
    assert descriptors_of(path) == 0


def descriptors_of(path: Path) -> int:
    """How often this process has the file open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += link.readlink() == path
        except FileNotFoundError:
            continue
    return found


def file_then_error(response: HttpResponse, path: str) -> None:
    response.file(path)
    response.fail(Busy("no"))


def file_then_value(response: HttpResponse, path: str) -> None:
    response.file(path)
    response.conclude({"a": 1})


def file_then_stream(response: HttpResponse, path: str) -> None:
    response.file(path)
    response.conclude(response.stream([b"x"]))


def file_then_own(response: HttpResponse, path: str) -> None:
    response.file(path)
    response.conclude(HttpResponse().send("other"))


def too_late(response: HttpResponse, path: str) -> None:
    response.conclude("first")
    response.conclude(HttpResponse().file(path))


def bad_name(response: HttpResponse, path: str) -> None:
    with pytest.raises(ValueError, match="header"):
        response.file(path, content_type="a\nb")
    response.fail(Busy("no"))


@pytest.mark.parametrize(
    "change", [file_then_error, file_then_value, file_then_stream, file_then_own, too_late, bad_name]
)
def test_a_file_that_is_not_sent_after_all_is_closed(page: Path, change: Any) -> None:
    """A descriptor for each such request, and soon there are none."""
    sent: list[HttpResponse] = []
    response = HttpResponse()
    response.finish = sent.append
    change(response, str(page))
    (answer,) = sent
    assert answer.file_part is None
    del response
    assert descriptors_of(page) == 0


def test_a_file_takes_the_place_of_a_body(page: Path) -> None:
    """Both would be sent, and the next answer on the connection begin amid the first."""
    answer = HttpResponse().send("text").file(str(page))
    assert answer.body == b""
    assert kind_of(answer) == "text/html; charset=utf-8"


# --- streams ---


def parts() -> Iterator[str]:
    yield "x"


async def async_parts() -> AsyncIterator[str]:
    yield "x"


@pytest.mark.parametrize("make", [parts, async_parts])
def test_a_generator_becomes_a_stream(make: Any) -> None:
    made = make()
    answer = answered(made)
    assert answer.body is made
    assert (answer.status, kind_of(answer)) == (200, None)


def test_a_stream_with_a_status_and_headers() -> None:
    made = parts()
    answer = answered((made, 202, {"Content-Type": "text/csv"}))
    assert (answer.body, answer.status, kind_of(answer)) == (made, 202, "text/csv")


def test_any_iterable_may_be_streamed_if_one_says_so() -> None:
    answer = answered(HttpResponse().stream([1, 2], content_type="text/csv", status_code=203))
    assert (answer.body, answer.status, kind_of(answer)) == ([1, 2], 203, "text/csv")


@pytest.mark.parametrize("value", [None, 5, {"a": 1}, "text", b"bytes"])
def test_what_has_no_parts_is_no_stream(value: Any) -> None:
    """A dict would be sent as its keys, a text letter by letter."""
    with pytest.raises(TypeError):
        HttpResponse().stream(value)


def test_events_are_not_kept_by_caches() -> None:
    answer = answered(HttpResponse().events(parts()))
    assert answer.headers == [("Cache-Control", "no-store")]
    assert kind_of(answer) == "text/event-stream"


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ("ä", "ä".encode()),
        (b"\xff", b"\xff"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        ({"a": 1}, b'{"a":1}\n'),
        (None, b"null\n"),
        (("a", 1), b'["a",1]\n'),
        ("", b""),
    ],
)
def test_a_part_of_a_stream(part: object, data: bytes) -> None:
    assert chunk_of(part, event=False) == data


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ("text", b"data: text\n\n"),
        ("", b"data: \n\n"),
        ("a\nb\r\nc\rd", b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        ({"a": 1}, b'data: {"a":1}\n\n'),
        (None, b"data: null\n\n"),
        (("tick", 5), b"event: tick\ndata: 5\n\n"),
        ((None, "x"), b"data: x\n\n"),
        (("a\ndata: forged\n\nevent: b", "x"), b"event: a data: forged  event: b\ndata: x\n\n"),
        (("a", 1, 2), b'data: ["a",1,2]\n\n'),
    ],
)
def test_a_part_of_a_stream_of_events(part: object, data: bytes) -> None:
    assert chunk_of(part, event=True) == data


def event_data(event: bytes) -> str:
    """What a browser makes of an event (without carriage returns, which are ends of lines, too)."""
    lines = event.decode().removesuffix("\n\n").split("\n")
    assert all(line.startswith("data: ") for line in lines)
    return "\n".join(line[6:] for line in lines)


@given(st.sampled_from(["a\u2028b", "a\x0bb", "a\x1cb", "a\n", "\n", "a\x85"]) | st.text())
def test_the_text_of_an_event_arrives_as_it_was(text: str) -> None:
    text = text.replace("\r", "").encode(errors="replace").decode()
    assert event_data(chunk_of(text, event=True)) == text


# --- errors ---


def failed(error: DaebusError, *, debug: bool = False) -> tuple[HttpResponse, Any]:
    sent: list[HttpResponse] = []
    response = HttpResponse()
    response.debug = debug
    response.finish = sent.append
    response.send("begun", 201, {"X": "y"})
    response.fail(error)
    (answer,) = sent
    assert ("X", "y") not in answer.headers
    assert isinstance(answer.body, bytes)
    return answer, json.loads(answer.body)


def test_an_error_is_the_answer_in_place_of_what_was_begun() -> None:
    answer, body = failed(HttpError(404, "no such device"))
    assert (answer.status, body, kind_of(answer)) == (404, {"error": "no such device"}, "application/json")


def test_an_error_brings_its_headers() -> None:
    answer, _body = failed(HttpError(401, headers=(("WWW-Authenticate", "Basic"),)))
    assert ("WWW-Authenticate", "Basic") in answer.headers


def test_the_error_of_a_port_for_websockets_brings_its_header() -> None:
    answer, _body = failed(HttpError(426, "for WebSockets", (("Upgrade", "websocket"),)))
    assert (answer.status, ("Upgrade", "websocket") in answer.headers) == (426, True)


def test_who_is_told_to_come_again_is_told_when() -> None:
    answer, body = failed(Busy("later"))
    assert (answer.status, body) == (503, {"error": "later"})
    assert ("Retry-After", "1") in answer.headers


def internal(status: int = 500) -> InternalError:
    error = InternalError("the log of the service has it")
    error.http_status, error.error_id = status, "abc"
    error.__cause__ = ValueError("password hunter2")
    return error


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, "Internal server error"),
        (503, "Something that this needs is not available now"),
        (504, "Something that this needs did not answer in time"),
    ],
)
def test_an_internal_error_says_no_more_than_its_id(status: int, text: str) -> None:
    answer, body = failed(internal(status))
    assert (answer.status, body) == (status, {"error": text, "error_id": "abc"})


def test_with_debug_an_internal_error_says_why() -> None:
    _answer, body = failed(internal(), debug=True)
    assert body["details"] == "ValueError: password hunter2"
    _answer, body = failed(BadMessage("no"), debug=True)
    assert body == {"error": "no"}


# --- traces ---

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def trace_of(*lines: str) -> str:
    request = request_of("/", b"", None, *lines, method="GET")
    assert request.trace == request.trace
    return request.trace


@pytest.mark.parametrize(
    ("lines", "trace"),
    [
        ([f"traceparent: {PARENT}"], "0af7651916cd43dd8448eb211c80319c"),
        ([f"Traceparent: {PARENT}-of-a-later-version"], "0af7651916cd43dd8448eb211c80319c"),
        (["X-Request-ID: 9b2f7c1e-0000-4000-8000-000000000001"], "9b2f7c1e-0000-4000-8000-000000000001"),
        (["x-request-id: a"], "a"),
        ([f"X-Request-ID: {'x' * 64}"], "x" * 64),
        (["X-Request-ID: mine", f"traceparent: {PARENT}"], "0af7651916cd43dd8448eb211c80319c"),
        (["X-Request-ID: mine", "traceparent: nonsense"], "mine"),
    ],
)
def test_a_trace_goes_on_that_others_began(lines: list[str], trace: str) -> None:
    assert trace_of(*lines) == trace


@pytest.mark.parametrize(
    "line",
    [
        "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "traceparent: 00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319cc-b7ad6b7169203331-01",
        "traceparent: 0af7651916cd43dd8448eb211c80319c",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c",
        "traceparent:",
        "X-Request-ID:",
        "X-Request-ID: -",
        "X-Request-ID: a b",
        "X-Request-ID: a;b",
        "X-Request-ID: gr\xf6\xdfe",
        f"X-Request-ID: {'x' * 65}",
    ],
)
def test_what_is_no_trace_is_ignored_and_a_new_one_begins(line: str) -> None:
    one, other = trace_of(line), trace_of(line)
    assert one != other
    assert all(len(each) == 32 and set(each) <= set("0123456789abcdef") for each in (one, other))


def test_a_request_without_a_trace_begins_one() -> None:
    assert trace_of() != trace_of()
