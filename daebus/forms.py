"""What a form sends: query strings, urlencoded bodies, and multipart bodies with uploads.

Nothing here trusts the sender: the numbers of fields and parts, the length of a part's headers, and the memory that
text takes are bounded, every search is linear, and what is ambiguous is refused. A body that lies in a file is read
piece by piece; its uploads stay where they are in that file, and nothing is copied until somebody reads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from io import BufferedReader, BytesIO, RawIOBase

from .errors import BadMessage, TooLarge
from .names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    Fields = dict[str, str | list[str]]
    Files = dict[str, "Upload | list[Upload]"]
    _Strings = Mapping[str, Any]
else:
    _Strings = Mapping

MAX_FIELDS = 1000
"""Fields of a query string or form, and parts of a multipart body."""

PART_HEADER_BYTES = 8 * 1024
"""Bytes of the headers of one part."""

TEXT_BYTES = 1024 * 1024
"""Bytes that the text fields of one multipart body may have together, if `memory` does not allow more."""

FIRST_PIECE = 4 * 1024
LAST_PIECE = 256 * 1024
"""Bytes read from a file at a time: few where a part is small, more where it is large."""

_escapes = re.compile(rb"(?:%[0-9A-Fa-f]{2})+")
_boundary_rule = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)
_token = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+", re.ASCII)
_controls = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# ;  or  ; name=value  or  ; name="quoted value". The branches exclude each other, so that a match is linear.
_parameter = re.compile(
    r""";[ \t]*(?:([0-9A-Za-z!#$%&'*+.^_`|~-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))[ \t]*)?"""
)
_quoted_pair = re.compile(r'\\(["\\])')  # no other: old browsers send paths with plain backslashes
_browser_escape = re.compile(r"%(22|0[Dd]|0[Aa])")  # all that browsers escape in a name
_CHARSETS = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii", "iso-8859-1": "latin-1"}
_AS_IT_IS = ("7bit", "8bit", "binary")


def parse_fields(text: str) -> Fields:
    """Return the fields of a query string or urlencoded body; a name that comes twice has a list.

    A field without a value has empty text. A `%` that begins no escape stands for itself, as in browsers.
    """
    if text.count("&") > MAX_FIELDS:  # before they take memory
        raise BadMessage(f"a form may have {MAX_FIELDS} fields")
    fields: Fields = {}
    pieces = [piece for piece in text.split("&") if piece]
    if len(pieces) > MAX_FIELDS:
        raise BadMessage(f"a form may have {MAX_FIELDS} fields")
    for piece in pieces:
        name, _, value = piece.partition("=")
        _add(fields, _decoded(name), _decoded(value))
    return fields


def _decoded(text: str) -> str:
    text = text.replace("+", " ")
    if "%" not in text and text.isascii():
        return text
    return _unescaped(text)


def _unescaped(text: str, charset: str = "utf-8") -> str:
    """Return the text with its `%xx` decoded."""
    try:
        return _escapes.sub(_bytes_of_escapes, text.encode()).decode(charset)
    except UnicodeError:
        raise BadMessage(f"not {charset.upper()}: {shown(text)}") from None


def _bytes_of_escapes(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[0].replace(b"%", b"").decode("ascii"))


def _add(into: dict[str, Any], name: str, value: Any) -> None:
    if name not in into:
        into[name] = value
    elif isinstance(into[name], list):
        into[name].append(value)
    else:
        into[name] = [into[name], value]


class Upload(_Strings):
    """A file that somebody sent: `upload.filename`, `upload.save(path)`; or as a mapping, `upload["value"]`.

    `filename` is a bare name without folders and control characters, but otherwise the sender's choice, like
    `content_type`. The upload ends with its request: save it or read it before.
    """

    __slots__ = ("_content", "_file", "content_type", "filename", "size")

    def __init__(self, filename: str, content_type: str, content: bytes | _Extent) -> None:
        self.filename = filename
        self.content_type = content_type
        self.size = len(content)
        self._content: bytes | _Extent | None = content
        self._file: BinaryIO | None = None

    @property
    def value(self) -> bytes:
        """All of it, in memory."""
        content = self._held()
        return content if isinstance(content, bytes) else content.get(0, content.size)

    @property
    def file(self) -> BinaryIO:
        """The content as a binary file to read from; it begins at the start and keeps its position."""
        if self._file is None or self._file.closed:
            content = self._held()
            self._file = BytesIO(content) if isinstance(content, bytes) else BufferedReader(_Window(content))
        return self._file

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes of `file`, or all that are left."""
        return self.file.read(size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to a file, in place of what the file has; without reading all of it into memory."""
        content = self._held()
        with open(path, "wb") as target:
            if isinstance(content, bytes):
                target.write(content)
                return
            for start in range(0, content.size, LAST_PIECE):
                target.write(content.get(start, start + LAST_PIECE))

    def close(self) -> None:
        """Let the content go; the name, the type and the size stay."""
        if self._file is not None:
            self._file.close()
        self._file = self._content = None

    def _held(self) -> bytes | _Extent:
        if self._content is None:
            raise ValueError("the upload is closed: its request is over")
        return self._content

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON shows of it: everything but the content."""
        return {"filename": self.filename, "content_type": self.content_type, "size": self.size}

    def __getitem__(self, key: str) -> Any:
        if key in _KEYS:
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)

    def __eq__(self, other: object) -> bool:  # a mapping's would read both
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Upload {shown(self.filename)}, {shown(self.content_type)}, {self.size} bytes>"


_KEYS = ("filename", "content_type", "size", "value")


class _Memory:
    """Bytes to search."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def find(self, mark: bytes, start: int, end: int | None = None) -> int:
        return self.data.find(mark, start, end)

    def get(self, start: int, end: int) -> bytes:
        return self.data[start:end]


class _Disk:
    """An open file to search. It has a descriptor of its own, closed when nobody needs it any more."""

    __slots__ = ("_descriptor", "size")

    def __init__(self, file: BinaryIO) -> None:
        file.flush()
        self._descriptor = os.dup(file.fileno())
        self.size = os.fstat(self._descriptor).st_size

    def __del__(self, close: Any = os.close) -> None:
        if hasattr(self, "_descriptor"):
            close(self._descriptor)

    def find(self, mark: bytes, start: int, end: int | None = None) -> int:
        """Return where the mark begins, or -1, as `bytes.find` does."""
        end = self.size if end is None else min(end, self.size)
        piece = FIRST_PIECE
        while start + len(mark) <= end:
            data = self.get(start, min(start + piece, end))
            at = data.find(mark)
            if at >= 0:
                return start + at
            if len(data) < len(mark):
                break  # the file was cut
            start += len(data) - len(mark) + 1  # the mark may have begun
            piece = min(2 * piece, LAST_PIECE)
        return -1

    def get(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`; fewer only at the end of the file."""
        data = os.pread(self._descriptor, end - start, start)
        while len(data) < end - start and (
            more := os.pread(self._descriptor, end - start - len(data), start + len(data))
        ):
            data += more  # a single read ends at 2 GiB
        return data

    def append(self, data: memoryview) -> _Extent:
        """Write at the end, and return what was written."""
        start = self.size
        while data:
            written = os.pwrite(self._descriptor, data, self.size)
            self.size += written
            data = data[written:]
        return _Extent(self, start, self.size - start)


class _Extent:
    """A piece of a file."""

    __slots__ = ("disk", "size", "start")

    def __init__(self, disk: _Disk, start: int, size: int) -> None:
        self.disk = disk
        self.start = start
        self.size = size

    def __len__(self) -> int:
        return self.size

    def get(self, start: int, end: int) -> bytes:
        return self.disk.get(self.start + start, self.start + min(end, self.size)) if start < self.size else b""


class _Window(RawIOBase):
    """A piece of a file as a file of its own."""

    def __init__(self, extent: _Extent) -> None:
        self._extent: _Extent | None = extent
        self._at = 0

    def _open(self) -> _Extent:
        if self._extent is None:
            raise ValueError("I/O operation on closed file")
        return self._extent

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._open().get(self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._open())}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative seek position {origin + offset}")
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        self._open()
        return self._at

    def close(self) -> None:
        self._extent = None
        super().close()


class _Part:
    """What the headers of a part say, and where its content lies."""

    __slots__ = ("content_type", "end", "filename", "name", "start")

    def __init__(self, head: bytes, start: int, end: int) -> None:
        headers = _part_headers(head)
        kind, parameters = parse_parameters(headers.get("content-disposition", ""))
        if kind != "form-data" or "name" not in parameters:
            raise BadMessage('a part of a multipart body needs Content-Disposition: form-data; name="..."')
        if headers.get("content-transfer-encoding", "binary").lower() not in _AS_IT_IS:
            raise BadMessage("a part of a multipart body must not have a Content-Transfer-Encoding")
        self.name = _browser_unescaped(parameters["name"])
        self.filename = _filename(parameters)
        self.content_type = headers.get("content-type", "")
        self.start = start
        self.end = end

    def text(self, content: bytes) -> str:
        """Return the content of a field."""
        charset = "utf-8"
        if self.content_type:
            named = parse_parameters(self.content_type)[1].get("charset", charset)
            charset = _CHARSETS.get(named.lower(), "")
        try:
            return content.decode(charset) if charset else _refuse_charset(self.name)
        except UnicodeDecodeError:
            raise BadMessage(f"the field {shown(self.name)} is not {charset.upper()}") from None


def _refuse_charset(name: str) -> str:
    raise BadMessage(f"the field {shown(name)} has an unknown charset: send UTF-8")


class _Intake:
    """Where the parts of one body go."""

    __slots__ = ("_memory", "_source", "_spill", "_text_left", "fields", "files")

    def __init__(self, source: _Memory | _Disk, memory: int) -> None:
        self._source = source
        self._memory = memory
        self._spill: _Disk | None = None
        self._text_left = max(memory, TEXT_BYTES)
        self.fields: Fields = {}
        self.files: Files = {}

    def take(self, part: _Part) -> None:
        if part.filename is None:
            self._take_field(part)
        elif part.filename or part.end > part.start:  # else a field for a file in which none was chosen
            upload = Upload(part.filename, part.content_type or "application/octet-stream", self._content(part))
            _add(self.files, part.name, upload)

    def _take_field(self, part: _Part) -> None:
        self._text_left -= part.end - part.start
        if self._text_left < 0:
            raise TooLarge("the text fields of the form are too large: send long ones as files")
        _add(self.fields, part.name, part.text(self._source.get(part.start, part.end)))

    def _content(self, part: _Part) -> bytes | _Extent:
        size = part.end - part.start
        if isinstance(self._source, _Disk):
            return _Extent(self._source, part.start, size)
        if size <= self._memory:
            return self._source.get(part.start, part.end)
        if self._spill is None:
            self._spill = _temporary()
        return self._spill.append(memoryview(self._source.data)[part.start : part.end])


def _temporary() -> _Disk:
    """Return an empty file without a name; nothing is left of it once it is closed, whatever happens."""
    from tempfile import TemporaryFile

    with TemporaryFile(buffering=0) as file:
        return _Disk(file)


def parse_multipart(body: bytes | BinaryIO, content_type: str, memory: int) -> tuple[Fields, Files]:
    """Return the text fields and the uploads of a multipart/form-data body; a name that comes twice has a list.

    Of a body in memory, uploads above `memory` bytes go to a temporary file, one for the body. The uploads of a body
    in a file stay there; the file may be closed, but must not be written to.
    """
    delimiter = b"\r\n--" + _boundary(content_type)
    source = _source(body)
    intake = _Intake(source, memory)
    for part in _parts(source, delimiter):
        intake.take(part)
    return intake.fields, intake.files


def _boundary(content_type: str) -> bytes:
    kind, parameters = parse_parameters(content_type)
    if kind != "multipart/form-data":
        raise BadMessage(f"{shown(kind)} is not multipart/form-data")
    boundary = parameters.get("boundary", "")
    if not _boundary_rule.fullmatch(boundary):
        raise BadMessage("multipart/form-data needs a boundary of 1 to 70 characters")
    return boundary.encode("ascii")


def _source(body: bytes | BinaryIO) -> _Memory | _Disk:
    if isinstance(body, bytes | bytearray | memoryview):
        return _Memory(bytes(body))
    try:
        return _Disk(body)
    except (AttributeError, OSError):  # a file without a descriptor is in memory anyway
        body.seek(0)
        return _Memory(body.read())


def _parts(source: _Memory | _Disk, delimiter: bytes) -> Iterator[_Part]:
    """Give the parts in order. All of the body is here, so what is missing will not come."""
    at = _after_boundary(source, _first_boundary(source, delimiter), len(delimiter))
    number = 0
    while at is not None:
        number += 1
        if number > MAX_FIELDS:
            raise BadMessage(f"a multipart body may have {MAX_FIELDS} parts")
        blank = source.find(b"\r\n\r\n", at, at + PART_HEADER_BYTES)
        head = source.get(at, blank) if blank > 0 else delimiter
        if delimiter in b"\r\n" + head:
            raise BadMessage("the headers of a part of a multipart body do not end, or are too long")
        boundary = source.find(delimiter, blank + 2)  # its line break may be the blank line, before no content
        if boundary < 0:
            raise BadMessage("the multipart body does not end with its boundary")
        yield _Part(head, blank + 4, max(boundary, blank + 4))
        at = _after_boundary(source, boundary, len(delimiter))


def _first_boundary(source: _Memory | _Disk, delimiter: bytes) -> int:
    """Return where the first delimiter begins: -2 at the start of the body, where no line break comes before it."""
    if source.get(0, len(delimiter) - 2) == delimiter[2:]:
        return -2
    at = source.find(delimiter, 0)
    if at < 0:
        raise BadMessage("the multipart body does not contain its boundary")
    return at


def _after_boundary(source: _Memory | _Disk, at: int, length: int) -> int | None:
    """Return where the line after a delimiter begins, or None after the last one."""
    at += length
    rest = source.get(at, at + 80)
    if rest.startswith(b"--"):
        return None
    padding, line_break, _ = rest.partition(b"\r\n")
    if not line_break or padding.strip(b" \t"):
        raise BadMessage("a boundary of a multipart body is not on a line of its own")
    return at + len(padding) + 2


def _part_headers(head: bytes) -> dict[str, str]:
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        raise BadMessage("the headers of a part of a multipart body are not UTF-8") from None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _token.fullmatch(name) or _controls.search(value):
            raise BadMessage(f"not a header of a part of a multipart body: {shown(line)}")
        if name.lower() in headers:
            raise BadMessage(f"a part of a multipart body has two headers {shown(name)}")
        headers[name.lower()] = value.strip(" \t")
    return headers


def parse_parameters(text: str) -> tuple[str, dict[str, str]]:
    """Return the value of a header before its first `;`, in lower case, and its parameters by lower-case name."""
    value = text.partition(";")[0]
    at = len(value)
    parameters: dict[str, str] = {}
    while at < len(text):
        match = _parameter.match(text, at)
        if match is None:
            raise BadMessage(f"not parameters of a header: {shown(text[at:])}")
        at = match.end()
        if match[1] is not None:
            _set_parameter(parameters, match[1].lower(), match)
    return value.strip(" \t").lower(), parameters


def _set_parameter(parameters: dict[str, str], name: str, match: re.Match[str]) -> None:
    if name in parameters:  # which of the two another program takes nobody knows
        raise BadMessage(f"a header has the parameter {shown(name)} twice")
    parameters[name] = match[3] if match[2] is None else _quoted_pair.sub(r"\1", match[2])


def _browser_unescaped(name: str) -> str:
    return _browser_escape.sub(lambda match: chr(int(match[1], 16)), name)


def _filename(parameters: dict[str, str]) -> str | None:
    """Return the bare file name of a part, or None if it is a plain field."""
    if "filename*" in parameters:
        name = _extended(parameters["filename*"])
    elif "filename" in parameters:
        name = _browser_unescaped(parameters["filename"])
    else:
        return None
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(sign for sign in name if sign >= " " and sign != "\x7f")
    return "" if name in (".", "..") else name


def _extended(value: str) -> str:
    """Return the text of a parameter like `UTF-8'en'na%C3%AFve.txt`."""
    charset, _, rest = value.partition("'")
    _, quote, text = rest.partition("'")
    codec = _CHARSETS.get(charset.lower())
    if not quote or codec is None:
        raise BadMessage(f"not a file name: {shown(value)}")
    return _unescaped(text, codec)
