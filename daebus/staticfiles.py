"""Files of a folder as answers: content types, validators, ranges, gzip; and never a file outside of the folder.

A file is opened in two steps. The first (`O_PATH`) opens nothing that could block or have an effect, and holds on to
one inode; what it is and where it lies is asked of the kernel. The second opens that same inode to read. So it makes
no difference what is renamed, replaced or linked meanwhile.
"""

from __future__ import annotations

import os
import re
from errno import EIO, EMFILE, ENFILE, ENOMEM
from stat import S_ISDIR, S_ISREG
from threading import Lock
from time import gmtime, time

from .errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Headers = list[tuple[str, str]]

GZIP_FROM = 1024
"""Bytes from which text is compressed; below, the answer fits one packet anyway."""

GZIP_UP_TO = 1024 * 1024
"""Bytes up to which text is compressed here. What is larger wants a `.gz` file beside it."""

GZIP_CACHE_BYTES = 4 * 1024 * 1024
"""Bytes of compressed files that one folder keeps in memory."""

GZIP_CACHE_ENTRY = 200
"""Bytes that an entry of the cache costs beside what it holds."""

_DESCRIPTORS = "/proc/self/fd"
_FAILURES = (EMFILE, ENFILE, ENOMEM, EIO)  # the machine's trouble; no reason to say that there is no such file
_UTF_8 = "; charset=utf-8"
_TYPES = {
    "html": "text/html" + _UTF_8,
    "htm": "text/html" + _UTF_8,
    "css": "text/css" + _UTF_8,
    "js": "text/javascript" + _UTF_8,
    "mjs": "text/javascript" + _UTF_8,
    "txt": "text/plain" + _UTF_8,
    "md": "text/markdown" + _UTF_8,
    "csv": "text/csv" + _UTF_8,
    "vtt": "text/vtt" + _UTF_8,
    "json": "application/json",
    "map": "application/json",
    "webmanifest": "application/manifest+json",
    "xml": "application/xml",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "ico": "image/x-icon",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "ttf": "font/ttf",
    "otf": "font/otf",
    "wasm": "application/wasm",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "wav": "audio/wav",
    "pdf": "application/pdf",
    "zip": "application/zip",
    "gz": "application/gzip",
}
_UNKNOWN = "application/octet-stream"
_TEXT_TYPES = {"application/json", "application/manifest+json", "application/xml", "image/svg+xml"}
_UNQUOTED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/!$&'()*+,;=:@")

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_date = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_range = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,1000})-(\d{0,1000})[ \t]*", re.ASCII | re.IGNORECASE)
_no_weight = re.compile(r"q=0(\.0{0,3})?", re.ASCII | re.IGNORECASE)


def http_date(seconds: float) -> str:
    """Return a time as it stands in HTTP headers: `Sun, 06 Nov 1994 08:49:37 GMT`."""
    at = gmtime(seconds)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
    )


def seconds_of_date(text: str) -> int | None:
    """Return the seconds since 1970 of a time from an HTTP header, or None if it is none of today's form."""
    match = _date.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(match[group]) for group in (1, 3, 4, 5, 6))
    if not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
        return None
    # Months counted from March, so that the odd day of a leap year comes last.
    months = year * 12 + _MONTHS.index(match[2]) - 2
    year, month = divmod(months, 12)
    days = year * 365 + year // 4 - year // 100 + year // 400 + (month * 153 + 2) // 5 + day - 719469
    return days * 86400 + hour * 3600 + minute * 60 + second


class FileAnswer:
    """An answer with the content of a file, or with none.

    `length` is what `Content-Length` says (a 304 has none); the content is `body`, or that many bytes of the
    descriptor `file` from `offset` on, or nothing after HEAD. Whoever sends it closes it.
    """

    __slots__ = ("body", "file", "headers", "length", "offset", "status")

    def __init__(self, status: int, headers: Headers, length: int = 0) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        self.body = b""
        self.file: int | None = None
        self.offset = 0

    def close(self) -> None:
        """Close the file, if there is one."""
        if self.file is not None:
            file, self.file = self.file, None
            os.close(file)


class _Found:
    """A regular file inside of the folder: an open descriptor to read from, and what it was when it was opened."""

    __slots__ = ("descriptor", "modified", "size", "stat")

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor
        self.stat = os.fstat(descriptor)
        self.size = self.stat.st_size
        self.modified = self.stat.st_mtime_ns // 10**9

    def tag(self) -> str:
        return f"{self.stat.st_mtime_ns:x}-{self.size:x}"

    def was_changed(self) -> bool:
        return self.descriptor is None or os.fstat(self.descriptor).st_mtime_ns != self.stat.st_mtime_ns

    def take(self) -> int | None:
        """Return the descriptor, which is somebody else's from now on."""
        descriptor, self.descriptor = self.descriptor, None
        return descriptor

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class _Representation:
    """What of a file is sent: itself, its `.gz` neighbour, or its compressed content."""

    __slots__ = ("body", "found", "gzipped", "size", "tag")

    def __init__(self, found: _Found, tag: str, size: int, body: bytes | None = None) -> None:
        self.found = found
        self.tag = f'"{tag}"'
        self.size = size
        self.body = body
        self.gzipped = tag.endswith("-gz")


class _GzipCache:
    """Compressed files, those used last, by what identifies their content. Threads share it."""

    __slots__ = ("_entries", "_left", "_lock")

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: dict[tuple[int, ...], bytes] = {}
        self._left = GZIP_CACHE_BYTES

    def get(self, key: tuple[int, ...]) -> bytes | None:
        with self._lock:
            data = self._entries.pop(key, None)
            if data is not None:
                self._entries[key] = data  # the last in order is the one used last
        return data

    def put(self, key: tuple[int, ...], data: bytes) -> None:
        with self._lock:
            if key in self._entries:
                return  # another thread was quicker
            self._entries[key] = data
            self._left -= len(data) + GZIP_CACHE_ENTRY
            while self._left < 0:
                oldest = next(iter(self._entries))
                self._left += len(self._entries.pop(oldest)) + GZIP_CACHE_ENTRY


class Folder:
    """A folder whose files are served below a path (`prefix`)."""

    __slots__ = ("_cache_control", "_gzipped", "_index", "prefix", "root")

    def __init__(self, prefix: str, root: str, *, index: str = "index.html", max_age: int = 0) -> None:
        self.prefix = f"/{prefix.strip('/')}/" if prefix.strip("/") else "/"
        self.root = os.path.abspath(root)
        if not os.path.isdir(self.root):
            raise ConfigurationError(f"static files for {self.prefix}: {self.root} is not a folder")
        if not os.path.isdir(_DESCRIPTORS):
            raise ConfigurationError(f"static files for {self.prefix} need {_DESCRIPTORS}: mount /proc")
        if "/" in index or index.startswith("."):
            raise ConfigurationError(f"{index!r} cannot be an index: it must be the name of a file, such as index.html")
        if not isinstance(max_age, int) or max_age < 0:
            raise ConfigurationError(f"max_age must be seconds, 0 or more, not {max_age!r}")
        self._index = index
        self._cache_control = f"max-age={max_age}" if max_age else "no-cache"
        self._gzipped = _GzipCache()

    def answer(self, rest: str, headers: Mapping[str, str], method: str) -> FileAnswer | None:
        """Return the answer to a request for the decoded path `rest` below the prefix, or None: there is none.

        `rest` has no slash in front; "" and what ends in a slash are folders, for which their index stands. The
        headers have lower-case names. OSError if the machine is in trouble.
        """
        name = rest + self._index if not rest or rest.endswith("/") else rest
        if not _is_served(name):
            return None
        place = _Place.of(self.root)
        if place is None:
            return None  # a folder that is not there has no files
        with place:
            found = place.find(name)
            if found is None and place.is_folder(name):
                return self._redirect(name) if self._has_index(place, name) else None
            if found is None:
                return None
            try:
                return self._answer(place, found, name, headers, method)
            finally:
                found.close()

    def _has_index(self, place: _Place, name: str) -> bool:
        found = place.find(f"{name}/{self._index}") if self._index else None
        if found is not None:
            found.close()
        return found is not None

    def _redirect(self, name: str) -> FileAnswer:
        """Send to the folder with its slash, without which the page's relative links would miss."""
        return FileAnswer(308, [("Location", _quoted(f"{self.prefix}{name}/")), ("Cache-Control", "no-cache")])

    def _answer(self, place: _Place, found: _Found, name: str, headers: Mapping[str, str], method: str) -> FileAnswer:
        if method not in ("GET", "HEAD"):
            return FileAnswer(405, [("Allow", "GET, HEAD")])
        kind = content_type(name)
        chosen = self._represent(place, found, name, kind, headers)
        try:
            common = self._common(found, chosen)
            if _is_unchanged(found, chosen, headers):
                return FileAnswer(304, common)
            return _content(chosen, [("Content-Type", kind), *common], headers, method)
        finally:
            chosen.found.close()

    def _common(self, found: _Found, chosen: _Representation) -> Headers:
        """Return the headers that a 304 has, too."""
        return [
            ("ETag", chosen.tag),
            ("Last-Modified", http_date(min(found.modified, time()))),  # clocks of devices may be behind
            ("Cache-Control", self._cache_control),
            ("Vary", "Accept-Encoding"),
        ]

    def _represent(
        self, place: _Place, found: _Found, name: str, kind: str, headers: Mapping[str, str]
    ) -> _Representation:
        # Ranges are of the file itself, so that what was begun in one form is never finished in the other.
        if "range" not in headers and _accepts_gzip(headers.get("accept-encoding", "")):
            beside = place.find(name + ".gz")
            if beside is not None and beside.stat.st_mtime_ns >= found.stat.st_mtime_ns:
                return _Representation(beside, beside.tag() + "-gz", beside.size)
            if beside is not None:
                beside.close()
            body = self._compressed(found, kind)
            if body:
                return _Representation(found, found.tag() + "-gz", len(body), body)
        return _Representation(found, found.tag(), found.size)

    def _compressed(self, found: _Found, kind: str) -> bytes:
        """Return the file's content compressed; nothing if that is not worth it."""
        if not GZIP_FROM <= found.size <= GZIP_UP_TO or not _is_text(kind):
            return b""
        stat = found.stat
        key = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
        body = self._gzipped.get(key)
        if body is None:
            body = _compress(found)
            if body is None:
                return b""
            self._gzipped.put(key, body)
        return body


class _Place:
    """The folder during one request: what its path leads to now stays the same until the answer is made."""

    __slots__ = ("_descriptor", "_inside")

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._inside = path.rstrip("/") + "/"

    @classmethod
    def of(cls, root: str) -> _Place | None:
        descriptor = _open(root, os.O_PATH | os.O_DIRECTORY)
        path = _path_of(descriptor)
        return None if descriptor is None or path is None else cls(descriptor, path)

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def find(self, name: str) -> _Found | None:
        """Return the open file, or None if there is no regular file of that name that we may read."""
        held = self._hold(name)
        if held is None:
            return None
        try:
            regular = S_ISREG(os.fstat(held).st_mode)
            descriptor = _open(f"{_DESCRIPTORS}/{held}", os.O_RDONLY) if regular else None
        finally:
            os.close(held)
        return None if descriptor is None else _Found(descriptor)

    def is_folder(self, name: str) -> bool:
        held = self._hold(name)
        if held is None:
            return False
        try:
            return S_ISDIR(os.fstat(held).st_mode)
        finally:
            os.close(held)

    def _hold(self, name: str) -> int | None:
        """Return a descriptor of what lies there, which neither reads nor blocks; None if it lies outside."""
        held = _open(name, os.O_PATH, self._descriptor)
        path = _path_of(held)
        if held is None or path is None:
            return None
        if f"{path}/".startswith(self._inside):
            return held
        os.close(held)
        return None


def _open(name: str, flags: int, folder: int | None = None) -> int | None:
    """Return a descriptor, or None if there is nothing of that name for us. OSError if the machine is in trouble."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except ValueError:  # a lone surrogate
        return None
    except OSError as error:
        if error.errno in _FAILURES:
            raise
        return None


def _path_of(descriptor: int | None) -> str | None:
    """Return where the kernel says that this lies; None, and closed, where the path is too long to be said."""
    if descriptor is None:
        return None
    try:
        return os.readlink(f"{_DESCRIPTORS}/{descriptor}")
    except OSError:
        os.close(descriptor)
        return None


def _is_served(name: str) -> bool:
    """Say whether the path may name a file: no empty, hidden or upward part, and no sign that is one in disguise."""
    if "\0" in name or "\\" in name:
        return False
    return all(part and part[0] != "." for part in name.split("/"))


def content_type(name: str) -> str:
    """Return the content type of a file with this name."""
    _, dot, extension = name.rpartition("/")[2].rpartition(".")
    if not dot or not extension.isalnum():
        return _UNKNOWN
    return _TYPES.get(extension.lower()) or _rare_type(extension)


def _rare_type(extension: str) -> str:
    import mimetypes  # heavy, and seldom needed

    kind, encoding = mimetypes.guess_type(f"x.{extension}")
    if kind is None or encoding is not None:
        return _UNKNOWN
    return kind + _UTF_8 if kind.startswith("text/") else kind


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind in _TEXT_TYPES


def _quoted(path: str) -> str:
    """Return a path as it stands in a URL."""
    return "".join(chr(byte) if byte in _UNQUOTED else f"%{byte:02X}" for byte in path.encode())


def _accepts_gzip(header: str) -> bool:
    """Say whether an Accept-Encoding header allows gzip."""
    every = False
    for item in header.lower().split(","):
        coding, _, weight = item.partition(";")
        allowed = not _no_weight.fullmatch(weight.strip(" \t"))
        coding = coding.strip(" \t")
        if coding in ("gzip", "x-gzip"):
            return allowed
        if coding == "*":
            every = allowed
    return every


def _compress(found: _Found) -> bytes | None:
    """Return the compressed content, b"" if it is no smaller, None if the file is being changed."""
    import zlib

    data = _read(found, found.size + 1)
    if len(data) != found.size or found.was_changed():
        return None
    compressor = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: in the form of gzip
    body = compressor.compress(data) + compressor.flush()
    return body if len(body) < len(data) else b""


def _read(found: _Found, size: int) -> bytes:
    data = b""
    while found.descriptor is not None and len(data) < size:
        more = os.pread(found.descriptor, size - len(data), len(data))
        if not more:
            break
        data += more
    return data


def _is_unchanged(found: _Found, chosen: _Representation, headers: Mapping[str, str]) -> bool:
    """Say whether the client has this already (RFC 9110, section 13.2.2)."""
    tags = headers.get("if-none-match")
    if tags is not None:
        known = [tag.strip(" \t").removeprefix("W/") for tag in tags.split(",")]
        return chosen.tag in known or known == ["*"]
    since = seconds_of_date(headers.get("if-modified-since", ""))
    return since is not None and found.modified <= since


def _content(chosen: _Representation, headers: Headers, asked: Mapping[str, str], method: str) -> FileAnswer:
    if chosen.gzipped:
        headers.append(("Content-Encoding", "gzip"))
    else:
        headers.append(("Accept-Ranges", "bytes"))
    answer = FileAnswer(200, headers, chosen.size)
    if method == "HEAD":
        return answer  # a HEAD has no ranges
    if "range" in asked and _may_be_in_parts(chosen, asked.get("if-range")):
        _cut(answer, asked["range"], chosen.size)
    if answer.status == 416:
        return answer
    if chosen.body is None:
        answer.file = chosen.found.take()
    else:
        answer.body = chosen.body
    return answer


def _may_be_in_parts(chosen: _Representation, condition: str | None) -> bool:
    """Say whether the client has the beginning of this and not of something else (If-Range)."""
    if condition is None or condition == chosen.tag:
        return True
    # A file changed within the last second may change again without its date changing.
    modified = chosen.found.modified
    return condition == http_date(modified) and modified < int(time()) - 1


def _cut(answer: FileAnswer, wanted: str, size: int) -> None:
    """Make the answer one of the part that is asked for; what is not a single range asks for everything."""
    match = _range.fullmatch(wanted)
    if match is None or not size or not (match[1] or match[2]):
        return
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < first:
            return
    else:
        first, last = max(size - int(match[2]), 0), size - 1
    if first >= size:
        answer.status, answer.length = 416, 0
        answer.headers = [("Content-Range", f"bytes */{size}"), ("Accept-Ranges", "bytes")]
        return
    answer.status, answer.offset, answer.length = 206, first, last - first + 1
    answer.headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
