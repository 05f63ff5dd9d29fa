"""Query strings, urlencoded bodies, multipart bodies and uploads, from browsers and from those who mean harm."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daebus import forms
from daebus.errors import BadMessage, TooLarge
from daebus.forms import MAX_FIELDS, PART_HEADER_BYTES, TEXT_BYTES, Upload, parse_fields, parse_multipart
from tests.support import ROOT

BOUNDARY = "----WebKitFormBoundaryAaB03x"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
MEMORY = 64 * 1024

Put = Callable[[bytes], "bytes | BinaryIO"]


# -- query strings and urlencoded bodies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("&", {}),
        ("a=1", {"a": "1"}),
        ("a=1&b=2&&c=3&", {"a": "1", "b": "2", "c": "3"}),
        ("a=1&a=2", {"a": ["1", "2"]}),
        ("a=1&b=&a=2&a=", {"a": ["1", "2", ""], "b": ""}),
        ("a", {"a": ""}),
        ("=1", {"": "1"}),
        ("=", {"": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a;b=1", {"a;b": "1"}),
        ("name=J%C3%B6rg+M%c3%bcller", {"name": "Jörg Müller"}),
        ("a=1%2B1%3D2%26%25", {"a": "1+1=2&%"}),
        ("a%5B%5D=1", {"a[]": "1"}),
        ("q=100%", {"q": "100%"}),
        ("q=%zz%4", {"q": "%zz%4"}),
        ("q=%%41%2541", {"q": "%A%41"}),
        ("q=größe", {"q": "größe"}),
        ("q=größe%20x", {"q": "größe x"}),
        ("q=%00%0D%0A", {"q": "\0\r\n"}),
        ("q=%EF%BF%BD", {"q": "\ufffd"}),
    ],
)
def test_fields(text: str, fields: dict[str, Any]) -> None:
    assert parse_fields(text) == fields


@pytest.mark.parametrize("text", ["a=%ff", "%C3=1", "a=%ED%A0%80", "a=%C0%AF", "a=\ud800", "a=%f8%88%80%80%80"])
def test_fields_that_are_not_utf_8(text: str) -> None:
    with pytest.raises(BadMessage, match="not UTF-8"):
        parse_fields(text)


def test_fields_are_counted() -> None:
    assert len(parse_fields("&".join(f"a{number}=1" for number in range(MAX_FIELDS)))) == MAX_FIELDS
    assert parse_fields("a&" * MAX_FIELDS) == {"a": [""] * MAX_FIELDS}
    for text in ("a&" * MAX_FIELDS + "a", "&" * (MAX_FIELDS + 1)):
        with pytest.raises(BadMessage, match="1000 fields"):
            parse_fields(text)


TEXT = st.text(st.characters(blacklist_categories=["Cs"]))


@given(st.lists(st.tuples(TEXT, TEXT)))
def test_fields_come_back_as_they_went(pairs: list[tuple[str, str]]) -> None:
    assert parse_fields(urlencode(pairs)) == gathered(pairs)


@given(st.text())
@example("%" * 50)
def test_any_text_gives_fields_or_bad_message(text: str) -> None:
    try:
        fields = parse_fields(text)
    except BadMessage:
        return
    assert all(isinstance(name, str) for name in fields)


def gathered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    lists: dict[str, list[Any]] = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in lists.items()}


# -- multipart bodies -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["bytes", "file", "memory file"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    """Bodies as bytes, as files, and as files that exist in memory only."""

    def put(data: bytes) -> bytes | BinaryIO:
        if request.param == "bytes":
            return data
        if request.param == "memory file":
            return io.BytesIO(data)
        path = tmp_path / "body"
        path.write_bytes(data)
        file = path.open("rb")
        request.addfinalizer(file.close)
        return file

    return put


def part(headers: str, content: bytes = b"", boundary: str = BOUNDARY) -> bytes:
    return f"--{boundary}\r\n{headers}\r\n\r\n".encode() + content + b"\r\n"


def field(name: str, value: str) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', value.encode())


def upload(name: str, filename: str, content: bytes, content_type: str = "image/png") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: {content_type}'
    return part(head, content)


END = f"--{BOUNDARY}--\r\n".encode()


def only(files: dict[str, Upload | list[Upload]], name: str = "f") -> Upload:
    found = files[name]
    assert isinstance(found, Upload)
    return found


def test_a_form_as_browsers_send_it(put: Put) -> None:
    content = bytes(range(256)) + b"\r\n--\r\n\r\n--" + BOUNDARY.encode()[:-1]
    body = field("name", "Jörg") + upload("photo", "a b.png", content) + field("empty", "") + END
    fields, files = parse_multipart(put(body), TYPE, MEMORY)
    assert fields == {"name": "Jörg", "empty": ""}
    photo = only(files, "photo")
    assert (photo.filename, photo.content_type, photo.size) == ("a b.png", "image/png", len(content))
    assert photo.value == photo["value"] == photo.read() == content


def test_names_that_come_twice(put: Put) -> None:
    body = field("a", "1") + upload("f", "1.png", b"1") + field("a", "2") + upload("f", "2.png", b"22") + END
    fields, files = parse_multipart(put(body), TYPE, MEMORY)
    assert fields == {"a": ["1", "2"]}
    assert isinstance(files["f"], list)
    assert [(one.filename, one.value) for one in files["f"]] == [("1.png", b"1"), ("2.png", b"22")]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=AbC", "AbC"),
        ('Multipart/Form-Data ; charset=utf-8; BOUNDARY="AbC"', "AbC"),
        ('multipart/form-data;boundary="a b:c=?(1)"', "a b:c=?(1)"),
        ("multipart/form-data; boundary='--x", "'--x"),
        ("multipart/form-data; boundary===1==;", "==1=="),
        ("multipart/form-data; boundary=" + "x" * 70, "x" * 70),
    ],
)
def test_the_boundary_is_taken_as_it_was_sent(content_type: str, boundary: str) -> None:
    body = part('Content-Disposition: form-data; name="a"', b"1", boundary) + f"--{boundary}--".encode()
    assert parse_multipart(body, content_type, MEMORY) == ({"a": "1"}, {})


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain; boundary=x",
        "multipart/mixed; boundary=x",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="x',
        'multipart/form-data; boundary="x "',
        "multipart/form-data; boundary=x y",
        "multipart/form-data; boundary=x; boundary=x",
        "multipart/form-data; boundary=ä",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data, boundary=x",
    ],
)
def test_a_type_without_a_usable_boundary(content_type: str) -> None:
    with pytest.raises(BadMessage):
        parse_multipart(b"--x--\r\n", content_type, MEMORY)


def test_the_case_of_a_boundary_matters() -> None:
    with pytest.raises(BadMessage, match="does not contain its boundary"):
        parse_multipart(b"--abc--\r\n", "multipart/form-data; boundary=AbC", MEMORY)


A = b'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"--x--", {}),
        (b"--x--\r\n", {}),
        (b"preamble\r\n--x\r\n%b\r\n\r\n1\r\n--x--\r\nepilogue", {"a": "1"}),
        (b"\r\n--x\r\n%b\r\n\r\n1\r\n--x--", {"a": "1"}),
        (b"--x \t\r\n%b\r\n\r\n1\r\n--x--", {"a": "1"}),
        (b"--x\r\n%b\r\n\r\n\r\n--x--", {"a": ""}),
        (b"--x\r\n%b\r\n\r\n--x--", {"a": ""}),  # the blank line is the boundary's line break
        (b"--x\r\n%b\r\n\r\n\r\n\r\n\r\n--x--", {"a": "\r\n\r\n"}),
        (b"--x\r\n%b\r\n\r\n1\n--x--\r\n--x--", {"a": "1\n--x--"}),
        (b"--x\r\n%b\r\nContent-Type: text/plain\r\n\r\n\xc3\xb6\r\n--x--", {"a": "ö"}),
        (b"--x\r\n%b\r\nContent-Type: text/plain; charset=UTF-8\r\n\r\n\xc3\xb6\r\n--x--", {"a": "ö"}),
        (b"--x\r\n%b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\xf6\r\n--x--", {"a": "ö"}),
        (b"--x\r\n%b\r\nContent-Transfer-Encoding: 8bit\r\nX-Other:\r\n\r\n1\r\n--x--", {"a": "1"}),
        (b"--x\r\ncontent-disposition:FORM-DATA;NAME=a\r\n\r\n1\r\n--x--", {"a": "1"}),
        (b'--x\r\nContent-Disposition: form-data; name=""\r\n\r\n1\r\n--x--', {"": "1"}),
        (b'--x\r\nContent-Disposition: form-data; name="\xc3\xb6"\r\n\r\n1\r\n--x--', {"ö": "1"}),
        (b'--x\r\nContent-Disposition: form-data; name="a%22%0d%0Ab%20"\r\n\r\n1\r\n--x--', {'a"\r\nb%20': "1"}),
        (b'--x\r\nContent-Disposition: form-data; name="a\\"\\\\;b=\\c"\r\n\r\n1\r\n--x--', {'a"\\;b=\\c': "1"}),
    ],
)
def test_what_is_a_field(body: bytes, fields: dict[str, str], put: Put) -> None:
    body = body.replace(b"%b", A)
    assert parse_multipart(put(body), "multipart/form-data; boundary=x", MEMORY) == (fields, {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--",
        b"--x",
        b"--x-",
        b"--x\r",
        b"--x\r\n",
        b"--y--",
        b"x--x--",
        b"--x\r\n%b\r\n\r\n1",  # no boundary at the end
        b"--x\r\n%b\r\n\r\n1\r\n--x",
        b"--x\r\n%b\r\n\r\n1\r\n--x\r\n",
        b"--x\r\n%b\r\n\r\n1--x--",
        b"--x\r\n%b\r\n\r\n1\n--x--",
        b"--x\n%b\n\n1\n--x--",  # bare line feeds
        b"--x\r\n%b\r\n1\r\n--x--",
        b"--x\r\n%b\r\n--x--\r\n\r\n",  # a boundary among the headers
        b"--x\r\n%b\r\n\r\n--x\r\n--x--",  # content that is a boundary
        b"--x y\r\n%b\r\n\r\n1\r\n--x--",
        b"--xy\r\n%b\r\n\r\n1\r\n--x--",
        b"--x" + b" " * 100 + b"\r\n%b\r\n\r\n1\r\n--x--",
        b"--x\r\n\r\n1\r\n--x--",  # no headers
        b"--x\r\n\r\n\r\n\r\n--x--",
        b"--x\r\nContent-Type: text/plain\r\n\r\n1\r\n--x--",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
        b"--x\r\nContent-Disposition: form-data; filename=a\r\n\r\n1\r\n--x--",
        b"--x\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="a\r\n\r\n1\r\n--x--',
        b"--x\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\n1\r\n--x--",
        b"--x\r\nContent-Disposition: form-data; name=a b\r\n\r\n1\r\n--x--",
        b"--x\r\nContent-Disposition: form-data; name=a; filename*=x\r\n\r\n1\r\n--x--",
        b"--x\r\nContent-Disposition: form-data; name=a; filename*=utf-7''x\r\n\r\n1\r\n--x--",
        b"--x\r\nContent-Disposition: form-data; name=a; filename*=utf-8''%ff\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\n%b\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\n folded\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nno colon\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nspace : 1\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\n: 1\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nX: \0\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nX: 1\rY: 2\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nX: 1\nY: 2\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nX: \xff\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nContent-Transfer-Encoding: base64\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n1\r\n--x--",
        b"--x\r\n%b\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\xc3\xb6\r\n--x--",
        b"--x\r\n%b\r\n\r\n\xff\r\n--x--",
        b"--x\r\n%b\r\nX: " + b"x" * PART_HEADER_BYTES + b"\r\n\r\n1\r\n--x--",
    ],
)
def test_what_is_refused(body: bytes, put: Put) -> None:
    with pytest.raises(BadMessage):
        parse_multipart(put(body.replace(b"%b", A)), "multipart/form-data; boundary=x", MEMORY)


def test_headers_may_be_as_long_as_the_limit() -> None:
    head = A.decode() + "\r\nX: "
    fits = head + "x" * (PART_HEADER_BYTES - len(head) - len("\r\n\r\n"))
    assert parse_multipart(part(fits, b"1") + END, TYPE, MEMORY)[0] == {"a": "1"}
    with pytest.raises(BadMessage, match="too long"):
        parse_multipart(part(fits + "x", b"1") + END, TYPE, MEMORY)


def test_parts_are_counted(put: Put) -> None:
    body = b"".join(field(f"a{number}", "1") for number in range(MAX_FIELDS))
    assert len(parse_multipart(put(body + END), TYPE, MEMORY)[0]) == MAX_FIELDS
    with pytest.raises(BadMessage, match="1000 parts"):
        parse_multipart(put(body + field("b", "1") + END), TYPE, MEMORY)


def test_text_is_bounded_and_uploads_are_not(put: Put) -> None:
    half = "x" * (TEXT_BYTES // 2)
    body = field("a", half) + field("b", half)
    assert parse_multipart(put(body + END), TYPE, MEMORY)[0] == {"a": half, "b": half}
    with pytest.raises(TooLarge, match="text fields of the form"):
        parse_multipart(put(body + field("c", "1") + END), TYPE, MEMORY)
    assert len(parse_multipart(put(body + field("c", "1") + END), TYPE, TEXT_BYTES + 1)[0]) == 3
    assert only(parse_multipart(put(body + upload("f", "f", b"1") + END), TYPE, MEMORY)[1]).value == b"1"


@pytest.mark.parametrize(
    ("sent", "filename"),
    [
        ('filename="a.png"', "a.png"),
        ("filename=a.png", "a.png"),
        ('filename="größe 1.png"', "größe 1.png"),
        ('filename="a%22b%0D%0A.png"', 'a"b.png'),
        ('filename="a%20b%00%2F.png"', "a%20b%00%2F.png"),
        ('filename="a\\"b.png"', 'a"b.png'),
        ('filename="C:\\Users\\new\\a.png"', "a.png"),
        ('filename="\\\\server\\share\\a.png"', "a.png"),
        ('filename="../../etc/passwd"', "passwd"),
        ('filename="..\\\\..\\\\a.png"', "a.png"),
        ('filename="/etc/"', ""),
        ('filename=".."', ""),
        ('filename="."', ""),
        ('filename=".bashrc"', ".bashrc"),
        ('filename="a;b=c, d.png"', "a;b=c, d.png"),
        ('filename="a.png";', "a.png"),
        ("filename*=UTF-8''na%C3%AFve%20file.txt", "naïve file.txt"),
        ("filename*=utf-8'en'%2e%2e%2fa", "a"),
        ("filename*=utf-8''a%00%0a%7fb", "ab"),
        ("filename*=iso-8859-1''na%EFve.txt", "naïve.txt"),
        ("filename=\"naive.txt\"; filename*=UTF-8''na%C3%AFve.txt", "naïve.txt"),
    ],
)
def test_the_names_of_files(sent: str, filename: str) -> None:
    body = part(f"Content-Disposition: form-data; name=f; {sent}", b"1") + END
    found = only(parse_multipart(body, TYPE, MEMORY)[1])
    assert (found.filename, found.content_type) == (filename, "application/octet-stream")


def test_a_field_for_a_file_in_which_none_was_chosen(put: Put) -> None:
    assert parse_multipart(put(upload("f", "", b"", "application/octet-stream") + END), TYPE, MEMORY) == ({}, {})


def test_an_empty_file_is_a_file(put: Put) -> None:
    found = only(parse_multipart(put(upload("f", "a.png", b"") + END), TYPE, MEMORY)[1])
    assert (found.size, found.value, found.read(), found.file.read()) == (0, b"", b"", b"")


NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\\%"), max_size=20)
# Content that is almost a boundary, too.
CONTENTS = st.binary(max_size=200) | st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"-", b"xy", b"xyx", b"z", b"\0", b"x" * 4090]), max_size=12
).map(b"".join)


@given(st.lists(st.tuples(NAMES, NAMES.filter(lambda name: name not in ("", ".", "..")), CONTENTS), max_size=6))
def test_uploads_come_back_as_they_went(sent: list[tuple[str, str, bytes]]) -> None:
    sent = [one for one in sent if b"\r\n--xyxyz" not in b"\r\n" + one[2]]
    body = b"".join(
        f"--xyxyz\r\nContent-Disposition: form-data; name={quoted(name)}; filename={quoted(filename)}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, filename, content in sent
    )
    for source in (body + b"--xyxyz--", file_with(body + b"--xyxyz--")):
        fields, files = parse_multipart(source, "multipart/form-data; boundary=xyxyz", 50)
        if not isinstance(source, bytes):
            source.close()
        assert fields == {}
        expected = gathered([(name, (filename, content)) for name, filename, content in sent])
        assert {name: contents(found) for name, found in files.items()} == expected


def quoted(name: str) -> str:
    return '"' + name.replace('"', "%22") + '"'


def contents(found: Upload | list[Upload]) -> Any:
    return [contents(one) for one in found] if isinstance(found, list) else (found.filename, found.value)


def file_with(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("body"), "w+b")
    file.write(data)
    return file


PIECES = st.sampled_from(
    [
        b"--x",
        b"--x--",
        b"\r\n",
        b"\r\n\r\n",
        A,
        b"; filename=a",
        b"; filename*=utf-8''",
        b"Content-Type: a",
        b'"',
        b"\0",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=5)).map(b"".join))
def test_any_body_is_parsed_or_refused_and_a_file_like_bytes(body: bytes) -> None:
    outcomes: list[Any] = []
    for source in (body, file_with(body)):
        try:
            fields, files = parse_multipart(source, "multipart/form-data; boundary=x", 5)
            outcomes.append((fields, {name: contents(found) for name, found in files.items()}))
        except BadMessage as error:
            outcomes.append(str(error))
        if not isinstance(source, bytes):
            source.close()
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("offset", range(-80, 81, 5))
def test_a_boundary_may_lie_across_two_readings(offset: int) -> None:
    """Of a file, 4 KiB are read at first, then 8 KiB, and so on."""
    for reading in (4096, 3 * 4096):
        content = b"\r" * (reading + offset - len(upload("f", "a", b"")) + len(b"\r\n"))
        with file_with(upload("f", "a", content) + END) as body:
            assert only(parse_multipart(body, TYPE, MEMORY)[1]).value == content


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- where uploads are kept -------------------------------------------------------------------------------------------


@pytest.fixture
def spilled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The temporary files that were made."""
    made: list[Any] = []
    original = forms._temporary

    def temporary() -> Any:
        made.append(1)
        return original()

    monkeypatch.setattr(forms, "_temporary", temporary)
    return made


def test_only_what_is_above_the_limit_goes_to_a_file_and_to_one(spilled: list[Any]) -> None:
    small, large, larger = b"s" * MEMORY, b"l" * (MEMORY + 1), bytes(range(256)) * 1024
    parse_multipart(upload("f", "a", small) + END, TYPE, MEMORY)
    assert len(spilled) == 0
    body = upload("f", "a", large) + upload("g", "b", small) + upload("h", "c", larger) + END
    _, files = parse_multipart(body, TYPE, MEMORY)
    assert len(spilled) == 1
    assert [only(files, name).value for name in "fgh"] == [large, small, larger]
    assert only(files, "h").read(300) == larger[:300]


def test_uploads_of_a_file_stay_in_it(spilled: list[Any]) -> None:
    """They outlive the file object, and one descriptor is enough for all."""
    before = descriptors()
    body = file_with(b"".join(upload("f", f"{number}.png", b"%d" % number) for number in range(500)) + END)
    _, files = parse_multipart(body, TYPE, 0)
    body.close()
    found = files["f"]
    assert isinstance(found, list)
    assert [one.value for one in found] == [b"%d" % number for number in range(500)]
    assert found[7].read() == b"7"
    assert descriptors() == before + 1
    for one in found:
        one.close()
    assert descriptors() == before
    assert spilled == []


def test_a_large_body_is_not_read_into_memory(tmp_path: Path) -> None:
    size = 40_000_000
    path = tmp_path / "body"
    head = field("a", "1") + upload("f", "video.mp4", b"")[:-2]
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
        file.seek(0, os.SEEK_END)
        file.write(b"\r\n" + END)
    tracemalloc.start()
    try:
        with path.open("rb") as body:
            fields, files = parse_multipart(body, TYPE, MEMORY)
        found = only(files)
        found.save(tmp_path / "saved")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (fields, found.size) == ({"a": "1"}, size)
    assert (tmp_path / "saved").stat().st_size == size
    assert peak < 2_000_000


def test_what_was_spilled_is_gone_when_the_body_is_refused() -> None:
    """The check for leaks sees the descriptor otherwise."""
    with pytest.raises(BadMessage):
        parse_multipart(upload("f", "a", b"12345") + b"--", TYPE, 1)
    with pytest.raises(BadMessage):
        parse_multipart(upload("f", "a", b"12345") + upload("f", "b", b"12345") + b"--", TYPE, 1)


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        parse_multipart(upload("f", "a", b"12345") + END, TYPE, 1)


def test_short_writes_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: original(fd, data[:3], at))
    found = only(parse_multipart(upload("f", "a", b"0123456789") + END, TYPE, 1)[1])
    assert found.value == b"0123456789"


# -- uploads ----------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(params=["memory", "disk"])
def photo(request: pytest.FixtureRequest) -> Iterator[Upload]:
    """An upload with others before and behind it."""
    body = upload("e", "e", b"before") + upload("f", "photo.jpg", CONTENT, "image/jpeg") + upload("g", "g", b"") + END
    memory = len(CONTENT) if request.param == "memory" else 0
    found = only(parse_multipart(body, TYPE, memory)[1])
    yield found
    found.close()


def test_an_upload_is_a_mapping(photo: Upload) -> None:
    assert photo["filename"] == photo.get("filename") == "photo.jpg"
    assert photo["content_type"] == "image/jpeg"
    assert photo["size"] == len(CONTENT)
    assert photo["value"] == CONTENT
    assert list(photo) == ["filename", "content_type", "size", "value"]
    assert len(photo) == 4
    assert dict(photo)["value"] == CONTENT
    assert "read" not in photo
    assert photo.get("read") is None
    with pytest.raises(KeyError, match="_content"):
        photo["_content"]


def test_an_upload_is_shown_without_its_content(photo: Upload) -> None:
    assert repr(photo) == "<Upload 'photo.jpg', 'image/jpeg', 512000 bytes>"
    assert json.loads(json.dumps(photo.to_dict())) == {
        "filename": "photo.jpg",
        "content_type": "image/jpeg",
        "size": 512000,
    }


def test_an_upload_equals_itself_only(photo: Upload) -> None:
    twin = Upload("photo.jpg", "image/jpeg", CONTENT)
    assert photo == photo
    assert photo != twin
    assert len({photo, twin}) == 2


def test_reading_goes_on_where_it_was_and_value_is_all_of_it(photo: Upload) -> None:
    assert photo.read(10) == CONTENT[:10]
    assert photo.value == CONTENT
    assert photo.read(10) == CONTENT[10:20]
    assert photo.file.tell() == 20
    assert photo.read() == CONTENT[20:]
    assert photo.read() == b""
    photo.file.seek(-3, os.SEEK_END)
    assert photo.file.read(100) == CONTENT[-3:]
    photo.file.seek(5)
    photo.file.seek(5, os.SEEK_CUR)
    assert photo.read(1) == CONTENT[10:11]
    photo.file.seek(len(CONTENT) + 10)
    assert photo.read(5) == b""
    with pytest.raises(ValueError, match="negative"):
        photo.file.seek(-1)


def test_a_file_that_was_closed_is_opened_anew(photo: Upload) -> None:
    with photo.file as file:
        assert file.read(3) == CONTENT[:3]
    assert photo.read(3) == CONTENT[:3]


def test_saving_writes_all_of_it(photo: Upload, tmp_path: Path) -> None:
    path = tmp_path / "saved.jpg"
    path.write_bytes(b"x" * (len(CONTENT) + 100))
    photo.read(5)
    photo.save(path)
    assert path.read_bytes() == CONTENT
    photo.save(str(path))
    assert path.read_bytes() == CONTENT
    with pytest.raises(IsADirectoryError):
        photo.save(tmp_path)


def test_a_closed_upload_has_its_name_still_and_no_content(photo: Upload, tmp_path: Path) -> None:
    kept = photo.file
    photo.close()
    photo.close()
    assert (photo.filename, photo.size) == ("photo.jpg", len(CONTENT))
    for use in (lambda: photo.value, photo.read, lambda: photo.save(tmp_path / "x"), lambda: photo.file, kept.read):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert not (tmp_path / "x").exists()


def test_a_closed_file_of_an_upload_cannot_be_read(photo: Upload) -> None:
    file = photo.file
    file.close()
    for use in (file.read, file.tell, lambda: file.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_importing_costs_little() -> None:
    """Every service with HTTP pays for it."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import daebus; before = set(sys.modules); "
        "import daebus.forms; print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['daebus.forms']"
