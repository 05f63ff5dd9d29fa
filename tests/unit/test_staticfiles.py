"""Files of a folder: what is sent, what is not sent again, and what never leaves the folder."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import gzip
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import staticfiles
from daebus.errors import ConfigurationError
from daebus.staticfiles import (
    GZIP_FROM,
    GZIP_UP_TO,
    FileAnswer,
    Folder,
    content_type,
    http_date,
    seconds_of_date,
)
from tests.support import ROOT

WHEN = 1_700_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
GZIP = {"accept-encoding": "gzip, deflate, br"}
TEXT = b"<p>some text, over and over</p>\n" * 1000


class Got:
    """An answer with its content read as a sender reads it, and closed."""

    def __init__(self, answer: FileAnswer) -> None:
        self.status = answer.status
        self.headers = dict(answer.headers)
        assert len(self.headers) == len(answer.headers), "a header came twice"
        self.length = answer.length
        self.from_file = answer.file is not None
        self.body = answer.body
        if answer.file is not None:
            assert answer.body == b""
            self.body = os.pread(answer.file, answer.length + 1, answer.offset)[: answer.length]
        answer.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder, with secrets beside it."""
    folder = tmp_path / "public"
    folder.mkdir()
    put(tmp_path / "secret.txt", b"secret")
    put(tmp_path / "public-too" / "secret.txt", b"secret")
    put(folder / "index.html", b"<h1>home</h1>")
    put(folder / "data.bin", bytes(range(100)))
    put(folder / "page.html", TEXT)
    put(folder / "sub" / "index.html", b"<h1>sub</h1>")
    put(folder / "sub" / "a.css", b"a {}")
    (folder / "empty").mkdir()
    return folder


def put(path: Path, content: bytes, when: float = WHEN) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (when, when))


def get(root: Path, rest: str, headers: dict[str, str] | None = None, method: str = "GET", **settings: Any) -> Got:
    return ask(Folder("/", str(root), **settings), rest, headers, method)


def ask(folder: Folder, rest: str, headers: dict[str, str] | None = None, method: str = "GET") -> Got:
    answer = folder.answer(rest, headers or {}, method)
    assert answer is not None, f"404 for {rest!r}"
    return Got(answer)


def nothing(root: Path, rest: str, **settings: Any) -> bool:
    answer = Folder("/", str(root), **settings).answer(rest, {}, "GET")
    if answer is not None:
        answer.close()
    return answer is None


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_a_file(root: Path) -> None:
    got = get(root, "data.bin")
    assert (got.status, got.length, got.body) == (200, 100, bytes(range(100)))
    assert got.headers == {
        "Content-Type": "application/octet-stream",
        "ETag": f'"{WHEN * 10**9:x}-64"',
        "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT",
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
        "Accept-Ranges": "bytes",
    }


def test_head_is_get_without_the_content(root: Path) -> None:
    for rest in ("data.bin", "page.html", ""):
        for headers in ({}, GZIP, {"range": "bytes=0-1"}):
            whole = get(root, rest, {} if "range" in headers else headers)
            head = get(root, rest, headers, "HEAD")
            assert (head.status, head.length, head.headers) == (200, whole.length, whole.headers)
            assert (head.body, head.from_file) == (b"", False)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"])
def test_other_methods(root: Path, method: str) -> None:
    got = get(root, "data.bin", {}, method)
    assert (got.status, got.headers, got.body, got.length) == (405, {"Allow": "GET, HEAD"}, b"", 0)
    assert Folder("/", str(root)).answer("missing", {}, method) is None


def test_an_empty_file(root: Path) -> None:
    put(root / "empty.txt", b"")
    for headers in ({}, {"range": "bytes=0-"}, {"range": "bytes=-5"}, GZIP):
        got = get(root, "empty.txt", headers)
        assert (got.status, got.length, got.body) == (200, 0, b"")


def test_closing_twice_closes_once(root: Path) -> None:
    answer = Folder("/", str(root)).answer("data.bin", {}, "GET")
    assert answer is not None
    descriptor = answer.file
    assert descriptor is not None
    answer.close()
    again = os.open(root, os.O_RDONLY)  # takes the number that has become free
    answer.close()
    os.close(again)


@pytest.mark.parametrize("name", ["größe 1.txt", "a+b&c.txt", "a%2e.txt", "a..b.txt", "~", "-", "a:b", "日本"])
def test_odd_names(root: Path, name: str) -> None:
    put(root / name, b"odd")
    assert get(root, name).body == b"odd"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("A.HTML", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.min.js", "text/javascript; charset=utf-8"),
        ("a.js.map", "application/json"),
        ("a.json", "application/json"),
        ("a.webmanifest", "application/manifest+json"),
        ("a.xml", "application/xml"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.jpg", "image/jpeg"),
        ("a.jpeg", "image/jpeg"),
        ("a.gif", "image/gif"),
        ("a.webp", "image/webp"),
        ("a.avif", "image/avif"),
        ("favicon.ico", "image/x-icon"),
        ("a.woff", "font/woff"),
        ("a.woff2", "font/woff2"),
        ("a.ttf", "font/ttf"),
        ("a.wasm", "application/wasm"),
        ("a.mp4", "video/mp4"),
        ("a.webm", "video/webm"),
        ("a.mp3", "audio/mpeg"),
        ("a.ogg", "audio/ogg"),
        ("a.wav", "audio/wav"),
        ("a.pdf", "application/pdf"),
        ("a.tar.gz", "application/gzip"),
        ("a.rtf", "application/rtf"),  # not in our table
        ("a.tsv", "text/tab-separated-values; charset=utf-8"),
        ("a.svgz", "application/octet-stream"),  # not an SVG as it stands there
        ("a.tgz", "application/octet-stream"),
        ("a.unheardof", "application/octet-stream"),
        ("a.b:c", "application/octet-stream"),
        ("a.", "application/octet-stream"),
        ("README", "application/octet-stream"),
        ("folder.js/README", "application/octet-stream"),
        ("html", "application/octet-stream"),
    ],
)
def test_content_types(name: str, kind: str) -> None:
    assert content_type(name) == kind


def test_max_age(root: Path) -> None:
    assert get(root, "data.bin", max_age=3600).headers["Cache-Control"] == "max-age=3600"


# -- folders ----------------------------------------------------------------------------------------------------------


def test_the_index_of_a_folder(root: Path) -> None:
    assert get(root, "").body == b"<h1>home</h1>"
    assert get(root, "sub/").body == b"<h1>sub</h1>"
    assert get(root, "sub/").headers["Content-Type"] == "text/html; charset=utf-8"
    assert get(root, "sub/", index="a.css").body == b"a {}"


def test_a_folder_without_its_slash_is_sent_to_it(root: Path) -> None:
    for method in ("GET", "HEAD"):
        got = get(root, "sub", {}, method)
        assert (got.status, got.body, got.length) == (308, b"", 0)
        assert got.headers == {"Location": "/sub/", "Cache-Control": "no-cache"}


@pytest.mark.parametrize(
    ("prefix", "normal"), [("/", "/"), ("", "/"), ("/x", "/x/"), ("x/", "/x/"), ("/x/y/", "/x/y/"), ("//x//", "/x/")]
)
def test_a_prefix_has_its_slashes(root: Path, prefix: str, normal: str) -> None:
    folder = Folder(prefix, str(root))
    assert folder.prefix == normal
    assert ask(folder, "sub").headers["Location"] == f"{normal}sub/"


def test_where_it_is_sent_is_quoted(root: Path) -> None:
    put(root / "a ü?#%" / "index.html", b"")
    assert get(root, "a ü?#%").headers["Location"] == "/a%20%C3%BC%3F%23%25/"


@pytest.mark.parametrize(
    "rest", ["empty", "empty/", "sub//", "data.bin/", "data.bin/x", "missing", "missing/", "/", "//"]
)
def test_no_file_there(root: Path, rest: str) -> None:
    assert nothing(root, rest)


def test_folders_are_not_served_without_an_index(root: Path) -> None:
    for rest in ("", "sub", "sub/", "empty"):
        assert nothing(root, rest, index="")
    assert get(root, "sub/a.css", index="").body == b"a {}"


def test_an_index_that_is_a_folder_is_none(root: Path) -> None:
    (root / "empty" / "index.html").mkdir()
    for rest in ("empty", "empty/"):
        assert nothing(root, rest)


# -- never outside ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    [
        "../secret.txt",
        "..",
        "../",
        ".",
        "./data.bin",
        "sub/../data.bin",
        "sub/../../secret.txt",
        "../public/data.bin",
        "../public-too/secret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "/data.bin",
        "sub//a.css",
        "..\\secret.txt",
        "sub\\a.css",
        "data.bin\0",
        "data.bin\0.html",
        "\0",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "\ud800",
        "sub/\udcff",
        "x" * 300,
        "x/" * 3000,
        "sub/" * 2000 + "a.css",
    ],
)
def test_paths_that_lead_nowhere(root: Path, rest: str) -> None:
    assert nothing(root, rest)


def test_hidden_names_are_not_served(root: Path) -> None:
    put(root / ".env", b"secret")
    put(root / ".git" / "config", b"secret")
    put(root / "sub" / ".htpasswd", b"secret")
    put(root / "..odd", b"secret")
    for rest in (".env", ".git/config", ".git", ".git/", "sub/.htpasswd", "..odd"):
        assert nothing(root, rest)


def test_links_inside_of_the_folder_are_followed(root: Path) -> None:
    (root / "link.bin").symlink_to("data.bin")
    (root / "absolute.bin").symlink_to(root / "data.bin")
    (root / "linked").symlink_to("sub")
    (root / "up").symlink_to("sub/..")
    (root / "out and in").symlink_to("../public/sub")
    for rest, content in {
        "link.bin": bytes(range(100)),
        "absolute.bin": bytes(range(100)),
        "linked/a.css": b"a {}",
        "linked/": b"<h1>sub</h1>",
        "up/data.bin": bytes(range(100)),
        "out and in/a.css": b"a {}",
    }.items():
        assert get(root, rest).body == content
    assert get(root, "linked").headers["Location"] == "/linked/"
    assert get(root, "up").headers["Location"] == "/up/"


def test_links_that_leave_the_folder_are_not(root: Path) -> None:
    outside = root.parent
    (root / "secret.txt").symlink_to("../secret.txt")
    (root / "absolute.txt").symlink_to(outside / "secret.txt")
    (root / "too.txt").symlink_to("../public-too/secret.txt")
    (root / "parent").symlink_to("..")
    (root / "too").symlink_to("../public-too")
    (root / "chain").symlink_to("parent")
    (root / "etc").symlink_to("/etc")
    (root / "zero").symlink_to("/dev/zero")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    put(outside / "public-too" / "index.html", b"secret")
    for rest in (
        *("secret.txt", "absolute.txt", "too.txt", "parent", "parent/secret.txt", "chain/secret.txt", "etc/passwd"),
        *("too", "too/", "too/secret.txt", "zero", "dangling", "loop", "loop/x"),
    ):
        assert nothing(root, rest), rest


def test_a_compressed_neighbour_that_leads_outside_is_not_sent(root: Path) -> None:
    put(root.parent / "secret.gz", gzip.compress(b"secret"), WHEN + 10)
    (root / "data.bin.gz").symlink_to("../secret.gz")
    got = get(root, "data.bin", GZIP)
    assert "Content-Encoding" not in got.headers
    assert got.body == bytes(range(100))


def test_only_regular_files_are_opened(root: Path) -> None:
    """Opening a FIFO would wait for somebody to write into it, and free a writer that waits for a reader."""
    os.mkfifo(root / "fifo")
    (root / "linked fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(root, os.O_PATH)
        server.bind(f"/proc/self/fd/{descriptor}/socket")  # its own path is too long for a socket
        os.close(descriptor)
        for rest in ("fifo", "fifo/", "linked fifo", "socket"):
            assert nothing(root, rest)
    with pytest.raises(OSError, match="No such device") as caught:  # nobody reads
        os.open(root / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    assert caught.value.errno == errno.ENXIO


def test_a_file_that_we_may_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything."""
    fail_to_open(monkeypatch, errno.EACCES)
    assert nothing(root, "data.bin")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_trouble_of_the_machine_is_not_a_missing_file(root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_to_open(monkeypatch, number)
    with pytest.raises(OSError, match=r"/proc/self/fd/\d+") as caught:
        get(root, "data.bin")
    assert caught.value.errno == number


def fail_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    before_reading(monkeypatch, refuse)


def before_reading(monkeypatch: pytest.MonkeyPatch, do: Callable[[str], None]) -> None:
    """Do something at the worst moment: after a file was found, before it is opened to read."""
    original = os.open

    def opening(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if not flags & os.O_PATH:
            do(path)
        return original(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", opening)


def test_a_file_replaced_while_it_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size, tag and content belong together: they are all the old file's."""
    expected = get(root, "data.bin")

    def replace(_: str) -> None:
        put(root / "new", b"something else entirely" * 10)
        (root / "new").rename(root / "data.bin")

    before_reading(monkeypatch, replace)
    got = get(root, "data.bin")
    assert (got.length, got.body, got.headers) == (expected.length, expected.body, expected.headers)
    assert get(root, "data.bin").body == b"something else entirely" * 10


def test_a_file_replaced_by_a_link_while_it_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(_: str) -> None:
        (root / "data.bin").unlink(missing_ok=True)
        (root / "data.bin").symlink_to("../secret.txt")

    before_reading(monkeypatch, replace)
    assert get(root, "data.bin").body == bytes(range(100))
    assert nothing(root, "data.bin")


def test_a_folder_replaced_by_a_link_while_a_file_in_it_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root.parent / "public-too" / "a.css", b"secret")

    def replace(_: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (root / "sub").rename(root / "old")
            (root / "sub").symlink_to("../public-too")

    before_reading(monkeypatch, replace)
    assert get(root, "sub/a.css").body == b"a {}"
    assert nothing(root, "sub/a.css")


def test_a_file_replaced_after_the_answer_was_made(root: Path) -> None:
    answer = Folder("/", str(root)).answer("data.bin", {}, "GET")
    assert answer is not None
    (root / "data.bin").unlink()
    assert Got(answer).body == bytes(range(100))


def test_the_folder_itself_may_be_exchanged(root: Path) -> None:
    """As `current -> release-2` is when a new release is put in place."""
    current = root.parent / "current"
    current.symlink_to(root)
    folder = Folder("/", str(current))
    assert ask(folder, "").body == b"<h1>home</h1>"
    put(root.parent / "release-2" / "index.html", b"<h1>new</h1>")
    current.unlink()
    current.symlink_to(root.parent / "release-2")
    assert ask(folder, "").body == b"<h1>new</h1>"
    shutil.rmtree(root.parent / "release-2")
    assert folder.answer("", {}, "GET") is None


def test_a_path_longer_than_the_kernel_can_say(root: Path) -> None:
    """From inside of the folder it can be opened; but nobody can say where it lies. (And nothing is left open.)"""
    parts = ["x" * 250] * 16 + ["y" * 74]
    here = os.open(root, os.O_PATH)
    for name in parts[:-1]:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    last = os.open(parts[-1], os.O_WRONLY | os.O_CREAT, dir_fd=here)
    with pytest.raises(OSError, match="too long"):
        Path(f"/proc/self/fd/{last}").readlink()
    os.close(last)
    os.close(here)
    assert nothing(root, "/".join(parts))
    shutil.rmtree(root / parts[0])


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from(["..", ".", "sub", "a.css", "", "link", "\\", "index.html"])).map("/".join)
)
def test_no_path_gives_a_secret(rest: str) -> None:
    """Over the folder of the tests, with everything outside of `unit` as secrets."""
    folder = Folder("/", str(ROOT / "tests" / "unit"))
    answer = folder.answer(rest, {}, "GET")
    if answer is None or answer.file is None:
        return
    path = str(Path(f"/proc/self/fd/{answer.file}").readlink())
    answer.close()
    assert path.startswith(f"{ROOT}/tests/unit/")


def test_settings_that_make_no_sense(root: Path) -> None:
    for path in (root / "missing", root / "data.bin"):
        with pytest.raises(ConfigurationError, match=rf"{path} is not a folder"):
            Folder("/", str(path))
    for index in ("a/b", "../x", ".hidden"):
        with pytest.raises(ConfigurationError, match="cannot be an index"):
            Folder("/", str(root), index=index)
    for max_age in (-1, 1.5, "1", None):
        with pytest.raises(ConfigurationError, match="max_age must be seconds"):
            Folder("/", str(root), max_age=max_age)  # type: ignore[arg-type]


def test_a_machine_without_proc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staticfiles, "_DESCRIPTORS", "/nonexistent")
    with pytest.raises(ConfigurationError, match="mount /proc"):
        Folder("/", str(root))


def test_a_relative_folder_stays_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    folder = Folder("/", "public")
    monkeypatch.chdir("/")
    assert ask(folder, "").body == b"<h1>home</h1>"


# -- what is not sent again -------------------------------------------------------------------------------------------

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
TAG = f'"{WHEN * 10**9:x}-64"'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-none-match": TAG}, 304),
        ({"if-none-match": f"W/{TAG}"}, 304),
        ({"if-none-match": f'"x",  W/"y" ,{TAG}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-none-match": TAG.strip('"')}, 200),
        ({"if-none-match": ""}, 200),
        ({"if-none-match": TAG.replace('"', "") + '-gz"'}, 200),
        ({"if-modified-since": DATE}, 304),
        ({"if-modified-since": "Tue, 14 Nov 2023 22:13:21 GMT"}, 304),
        ({"if-modified-since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200),
        ({"if-modified-since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, 200),
        ({"if-modified-since": "nonsense"}, 200),
        ({"if-modified-since": ""}, 200),
        ({"if-none-match": '"x"', "if-modified-since": DATE}, 200),  # the tag decides alone
        ({"if-none-match": TAG, "if-modified-since": "Tue, 14 Nov 2000 22:13:19 GMT"}, 304),
        ({"if-none-match": TAG, "range": "bytes=0-1"}, 304),
        ({"if-none-match": '"x"', "range": "bytes=0-1"}, 206),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions(root: Path, headers: dict[str, str], status: int, method: str) -> None:
    if status == 206 and method == "HEAD":
        status = 200
    got = get(root, "data.bin", headers, method)
    assert got.status == status
    if status == 304:
        assert got.headers == {
            "ETag": TAG, "Last-Modified": DATE, "Cache-Control": "no-cache", "Vary": "Accept-Encoding",
        }  # fmt: skip
        assert (got.body, got.from_file) == (b"", False)


def test_a_change_gives_another_tag(root: Path) -> None:
    before = get(root, "data.bin").headers["ETag"]
    put(root / "data.bin", bytes(100), WHEN + 0.001)
    assert get(root, "data.bin", {"if-none-match": before}).status == 200
    put(root / "data.bin", bytes(101), WHEN)
    assert get(root, "data.bin", {"if-none-match": before}).status == 200


def test_a_file_from_the_future(root: Path) -> None:
    """As on a device whose clock was not set yet: no answer may claim a change after its own date."""
    put(root / "data.bin", b"new", time.time() + 10**6)
    got = get(root, "data.bin")
    claimed = seconds_of_date(got.headers["Last-Modified"])
    assert claimed is not None
    assert claimed <= time.time()
    assert get(root, "data.bin", {"if-modified-since": got.headers["Last-Modified"]}).status == 200
    assert get(root, "data.bin", {"if-none-match": got.headers["ETag"]}).status == 304


@given(st.integers(0, 253402300799))
def test_dates_are_written_and_read_as_by_the_standard_library(seconds: int) -> None:
    assert http_date(seconds) == email.utils.formatdate(seconds, usegmt=True)
    assert seconds_of_date(http_date(seconds)) == seconds


def test_the_last_days_of_february() -> None:
    for text, seconds in {
        "Mon, 28 Feb 2000 00:00:00 GMT": 951696000,
        "Tue, 29 Feb 2000 00:00:00 GMT": 951782400,
        "Wed, 01 Mar 2000 00:00:00 GMT": 951868800,
        "Mon, 01 Mar 2100 00:00:00 GMT": 4107542400,
        "Thu, 01 Jan 1970 00:00:00 GMT": 0,
        "Wed, 31 Dec 1969 23:59:59 GMT": -1,
        "Sat, 31 Dec 2016 23:59:60 GMT": 1483228800,
    }.items():
        assert seconds_of_date(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "Tue, 14 Nov 2023 22:13:20",
        "Tue, 14 Nov 2023 22:13:20 UTC",
        "Tue, 14 Nov 2023 22:13:20 GMT ",
        "Tue, 00 Nov 2023 22:13:20 GMT",
        "Tue, 32 Nov 2023 22:13:20 GMT",
        "Tue, 14 Foo 2023 22:13:20 GMT",
        "Tue, 14 Nov 2023 24:13:20 GMT",
        "Tue, 14 Nov 2023 22:60:20 GMT",
        "Tue, 14 Nov 2023 22:13:61 GMT",
        "Tue, 14 Nov 23 22:13:20 GMT",
        "Tue, \u0661\u0664 Nov 2023 22:13:20 GMT",
        "14 Nov 2023",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert seconds_of_date(text) is None


# -- ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-9", 0, 9),
        ("bytes=10-19", 10, 19),
        ("bytes=99-99", 99, 99),
        ("bytes=0-", 0, 99),
        ("bytes=50-", 50, 99),
        ("bytes=99-", 99, 99),
        ("bytes=0-99", 0, 99),
        ("bytes=0-100", 0, 99),
        ("bytes=90-99999999999999999999999999", 90, 99),
        ("bytes=-1", 99, 99),
        ("bytes=-10", 90, 99),
        ("bytes=-100", 0, 99),
        ("bytes=-1000", 0, 99),
        ("Bytes=0-1", 0, 1),
        ("bytes = 0-1 ", 0, 1),
        ("bytes=000-001", 0, 1),
    ],
)
def test_a_range(root: Path, wanted: str, first: int, last: int) -> None:
    got = get(root, "data.bin", {"range": wanted})
    assert (got.status, got.length, got.body) == (206, last - first + 1, bytes(range(first, last + 1)))
    assert got.headers["Content-Range"] == f"bytes {first}-{last}/100"
    assert got.headers["ETag"] == TAG
    assert got.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=100-200", "bytes=9999999999999999999999-", "bytes=-0"])
def test_a_range_behind_the_end(root: Path, wanted: str) -> None:
    got = get(root, "data.bin", {"range": wanted})
    assert (got.status, got.body, got.length, got.from_file) == (416, b"", 0, False)
    assert got.headers == {"Content-Range": "bytes */100", "Accept-Ranges": "bytes"}


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-1,5-6",
        "bytes=0-1, 5-6",
        "bytes=5-4",
        "bytes=-",
        "bytes=",
        "bytes",
        "",
        "items=0-1",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=-1-2",
        "bytes=1 - 2",
        "bytes=\u0660-\u0661",
        "bytes=0-1;",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_no_single_range_asks_for_everything(root: Path, wanted: str) -> None:
    got = get(root, "data.bin", {"range": wanted})
    assert (got.status, got.length, got.body) == (200, 100, bytes(range(100)))
    assert "Content-Range" not in got.headers


@given(first=st.none() | st.integers(0, 150), last=st.none() | st.integers(0, 150))
def test_any_range_gives_what_a_slice_gives(first: int | None, last: int | None) -> None:
    content = (ROOT / "LICENSE").read_bytes()[:100]
    answer = FileAnswer(200, [], 100)
    staticfiles._cut(answer, f"bytes={'' if first is None else first}-{'' if last is None else last}", 100)
    if first is None and last is not None:
        expected = content[100 - last :] if 0 < last <= 100 else content if last else b""
    else:
        expected = content[first : None if last is None else last + 1]
    if answer.status == 206:
        assert content[answer.offset :][: answer.length] == expected
        assert answer.length > 0
    elif answer.status == 416:
        assert expected == b""
    else:
        assert last is None if first is None else last is not None and last < first


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (TAG, 206),
        (DATE, 206),
        ("Tue, 14 Nov 2023 22:13:21 GMT", 200),
        ("Tue, 14 Nov 2023 22:13:19 GMT", 200),
        (f"W/{TAG}", 200),
        ('"x"', 200),
        (TAG[:-1] + '-gz"', 200),
        ("", 200),
        ("*", 200),
    ],
)
def test_a_range_of_what_the_client_has_already_begun(root: Path, condition: str, status: int) -> None:
    got = get(root, "data.bin", {"range": "bytes=90-", "if-range": condition})
    assert (got.status, got.length) == (status, 10 if status == 206 else 100)


def test_a_range_behind_the_end_of_another_version(root: Path) -> None:
    assert get(root, "data.bin", {"range": "bytes=500-", "if-range": '"x"'}).status == 200


def test_the_date_of_a_file_that_has_just_changed_tells_too_little(root: Path) -> None:
    put(root / "data.bin", bytes(100), time.time())
    date = get(root, "data.bin").headers["Last-Modified"]
    assert get(root, "data.bin", {"range": "bytes=90-", "if-range": date}).status == 200


# -- gzip -------------------------------------------------------------------------------------------------------------


def test_text_is_compressed_for_those_who_can_read_it(root: Path) -> None:
    plain, packed = get(root, "page.html"), get(root, "page.html", GZIP)
    assert plain.body == gzip.decompress(packed.body) == TEXT
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.length == len(packed.body) < len(TEXT)
    assert packed.headers["ETag"] == plain.headers["ETag"][:-1] + '-gz"'
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert packed.headers["Content-Type"] == plain.headers["Content-Type"]
    assert "Content-Encoding" not in plain.headers
    assert "Accept-Ranges" not in packed.headers


def test_a_compressed_answer_is_validated_by_its_own_tag(root: Path) -> None:
    plain, packed = (get(root, "page.html", headers).headers["ETag"] for headers in ({}, GZIP))
    assert get(root, "page.html", {**GZIP, "if-none-match": packed}).status == 304
    assert get(root, "page.html", {**GZIP, "if-none-match": plain}).status == 200
    assert get(root, "page.html", {"if-none-match": packed}).status == 200


def test_ranges_are_of_the_file_itself(root: Path) -> None:
    packed = get(root, "page.html", GZIP).headers["ETag"]
    got = get(root, "page.html", {**GZIP, "range": "bytes=3-6"})
    assert (got.status, got.body) == (206, TEXT[3:7])
    assert "Content-Encoding" not in got.headers
    whole = get(root, "page.html", {**GZIP, "range": "bytes=3-6", "if-range": packed})
    assert (whole.status, whole.body) == (200, TEXT)


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("br,gzip ; q=0.001", True),
        ("*", True),
        ("identity, *;q=0.1", True),
        ("", False),
        ("identity", False),
        ("br, deflate", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;Q=0.", False),
        ("*, gzip;q=0", False),
        ("identity;q=1, *;q=0", False),
        ("gzipped", False),
    ],
)
def test_who_can_read_gzip(root: Path, accepted: str, packed: bool) -> None:
    got = get(root, "page.html", {"accept-encoding": accepted})
    assert ("Content-Encoding" in got.headers) is packed


@pytest.mark.parametrize(
    ("name", "size", "packed"),
    [
        ("a.txt", GZIP_FROM, True),
        ("a.txt", GZIP_FROM - 1, False),
        ("a.txt", GZIP_UP_TO, True),
        ("a.txt", GZIP_UP_TO + 1, False),
        ("a.json", 5000, True),
        ("a.svg", 5000, True),
        ("a.webmanifest", 5000, True),
        ("a.xml", 5000, True),
        ("a.png", 5000, False),
        ("a.bin", 5000, False),
        ("a.woff2", 5000, False),
        ("a.gz", 5000, False),
    ],
)
def test_what_is_worth_compressing(root: Path, name: str, size: int, packed: bool) -> None:
    put(root / name, b"x" * size)
    got = get(root, name, GZIP)
    assert ("Content-Encoding" in got.headers) is packed
    assert (gzip.decompress(got.body) if packed else got.body) == b"x" * size


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that were compressed, in order."""
    sizes: list[int] = []
    original = staticfiles._compress

    def compress(found: Any) -> bytes | None:
        sizes.append(found.size)
        return original(found)

    monkeypatch.setattr(staticfiles, "_compress", compress)
    return sizes


def test_text_is_compressed_once(root: Path, compressions: list[int]) -> None:
    folder = Folder("/", str(root))
    bodies = {ask(folder, "page.html", GZIP).body for _ in range(3)}
    assert len(bodies) == 1
    ask(folder, "page.html", GZIP, "HEAD")
    assert compressions == [len(TEXT)]
    put(root / "page.html", TEXT + b"!", WHEN + 1)
    assert gzip.decompress(ask(folder, "page.html", GZIP).body) == TEXT + b"!"
    assert len(compressions) == 2


def test_text_that_does_not_get_smaller_is_tried_once(root: Path, compressions: list[int]) -> None:
    noise = os.urandom(5000)
    put(root / "noise.txt", noise)
    folder = Folder("/", str(root))
    for _ in range(2):
        got = ask(folder, "noise.txt", GZIP)
        assert got.body == noise
        assert "Content-Encoding" not in got.headers
    assert compressions == [5000]


def half_noise(size: int) -> bytes:
    """Text that becomes about half as long."""
    return os.urandom(size // 2).hex().encode()


def held(folder: Folder) -> int:
    return sum(map(len, folder._gzipped._entries.values()))


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> int:
    """Room for about eight of `half_noise(20_000)`."""
    monkeypatch.setattr(staticfiles, "GZIP_CACHE_BYTES", 100_000)
    return 100_000


def test_the_cache_is_bounded_and_what_was_used_last_stays(
    root: Path, small_cache: int, compressions: list[int]
) -> None:
    folder = Folder("/", str(root))
    count = 20
    for number in range(count):
        put(root / f"{number}.txt", half_noise(20_000))
    for number in range(count):
        ask(folder, f"{number}.txt", GZIP)
        ask(folder, "0.txt", GZIP)
        assert held(folder) <= small_cache
    assert held(folder) > small_cache // 2
    assert len(compressions) == count
    ask(folder, "0.txt", GZIP)
    ask(folder, f"{count - 1}.txt", GZIP)
    assert len(compressions) == count
    ask(folder, "1.txt", GZIP)
    assert len(compressions) == count + 1


def test_many_files_that_are_not_worth_it_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staticfiles, "GZIP_CACHE_BYTES", 10 * staticfiles.GZIP_CACHE_ENTRY)
    cache = staticfiles._GzipCache()
    for number in range(100):
        cache.put((number,), b"")
    assert list(cache._entries) == [(number,) for number in range(90, 100)]


def test_what_is_larger_than_the_cache_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staticfiles, "GZIP_CACHE_BYTES", 1000)
    cache = staticfiles._GzipCache()
    cache.put((1,), b"x" * 1000)
    assert cache.get((1,)) is None
    cache.put((2,), b"x" * 800)
    cache.put((2,), b"x" * 800)
    assert cache.get((2,)) == b"x" * 800
    cache.put((3,), b"x" * 1)
    assert (cache.get((2,)), cache.get((3,))) == (None, b"x")


def test_threads_share_the_cache(root: Path, small_cache: int) -> None:
    for number in range(12):
        put(root / f"{number}.txt", half_noise(20_000))
    folder = Folder("/", str(root))
    wrong: list[Any] = []

    def run(start: int) -> None:
        for step in range(12):
            name = f"{(start + step) % 12}.txt"
            if gzip.decompress(ask(folder, name, GZIP).body) != (root / name).read_bytes():
                wrong.append(name)

    threads = [threading.Thread(target=run, args=(start,)) for start in (0, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert held(folder) <= small_cache


@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_a_file_that_changes_while_it_is_compressed_is_sent_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    original = os.pread
    changed = {"shorter": TEXT[:-1], "longer": TEXT + b"!", "other": TEXT[::-1]}[change]

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        put(root / "page.html", changed, WHEN + 5)
        return original(descriptor, size, offset)

    folder = Folder("/", str(root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        got = ask(folder, "page.html", GZIP)
    assert "Content-Encoding" not in got.headers
    assert gzip.decompress(ask(folder, "page.html", GZIP).body) == changed


def test_a_compressed_neighbour_is_sent_as_it_is(root: Path, compressions: list[int]) -> None:
    packed = gzip.compress(b"prepared")
    for name in ("page.html", "data.bin"):
        put(root / f"{name}.gz", packed, WHEN + 1)
        plain, got = get(root, name), get(root, name, GZIP)
        assert (got.body, got.length) == (packed, len(packed))
        assert got.from_file
        assert got.headers["Content-Encoding"] == "gzip"
        assert got.headers["Content-Type"] == plain.headers["Content-Type"]
        assert got.headers["Last-Modified"] == plain.headers["Last-Modified"]
        assert got.headers["ETag"] == f'"{(WHEN + 1) * 10**9:x}-{len(packed):x}-gz"'
        assert get(root, name, {**GZIP, "if-none-match": got.headers["ETag"]}).status == 304
        assert get(root, name, GZIP, "HEAD").length == len(packed)
    assert compressions == []


def test_a_compressed_neighbour_of_the_same_age_will_do_and_an_older_one_not(root: Path) -> None:
    packed = gzip.compress(b"prepared")
    put(root / "page.html.gz", packed, WHEN)
    assert get(root, "page.html", GZIP).body == packed
    put(root / "page.html.gz", packed, WHEN - 0.001)
    assert gzip.decompress(get(root, "page.html", GZIP).body) == TEXT


def test_a_compressed_neighbour_asked_for_by_name(root: Path) -> None:
    packed = gzip.compress(b"prepared")
    put(root / "page.html.gz", packed, WHEN)
    got = get(root, "page.html.gz", GZIP)
    assert (got.body, got.headers["Content-Type"]) == (packed, "application/gzip")
    assert "Content-Encoding" not in got.headers


def test_a_compressed_neighbour_alone_is_not_a_file(root: Path) -> None:
    put(root / "alone.html.gz", gzip.compress(b"prepared"))
    assert Folder("/", str(root)).answer("alone.html", GZIP, "GET") is None


def test_a_compressed_neighbour_that_is_a_folder(root: Path) -> None:
    (root / "page.html.gz").mkdir()
    assert gzip.decompress(get(root, "page.html", GZIP).body) == TEXT


def test_importing_costs_little() -> None:
    """Nor does serving: the standard library's types are loaded for a rare extension, zlib for the first text."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import daebus; before = set(sys.modules); "
        "from daebus.staticfiles import Folder; "
        f"Folder('/', {str(ROOT / 'tests')!r}).answer('support.css', {{}}, 'GET'); "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"errno"} == {"daebus.staticfiles"}
