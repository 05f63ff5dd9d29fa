"""What the black-box tests do from outside: run scripts, speak raw RESP, get in the way of bytes.

Nothing here knows the inside of Daebus; the same helpers drive upstream's package and ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import hiredis

from daebus.redisserver import PrivateServer
from tests.support import MS, wait_for

READY_SECONDS = 20_000 * MS
ANSWER_SECONDS = 8000 * MS


class NotRunning(RuntimeError):
    """The test's own machinery failed: not what a test of Daebus is about, so not an AssertionError."""


class NoReply(AssertionError):
    """No final answer came in time."""


@dataclass(frozen=True)
class Side:
    """An implementation of Daebus: the interpreter that imports it, and where it finds it."""

    name: str
    python: Path
    pythonpath: str | None


def environment(side: Side, extra: dict[str, str]) -> dict[str, str]:
    """A clean environment for one script, so that neither the builder's nor the user's settings leak in."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    if side.pythonpath is not None:
        kept["PYTHONPATH"] = side.pythonpath
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **extra}


# --- processes ---


SERVICE_HEAD = '''
import json, os, sys, threading, time
from daebus import (Blueprint, Daebus, DaebusCaller, broadcast, cache, direct_logger, get_daemon, logger,
                    request, response)

def note(word):
    """Leave a line for the test."""
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{word}\\n")

REDIS = json.loads(os.environ["REDIS"])
RUN = json.loads(os.environ["RUN"])
app = Daebus("app", max_workers=int(os.environ.get("WORKERS", "10")))
'''

SERVICE_TAIL = """
app.run(service=os.environ["SERVICE"], **RUN)
"""


HTTP_PROLOGUE = """
from daebus import DaebusHttp, HttpRequest, HttpResponse
PORT = int(os.environ["PORT"])
http = DaebusHttp(port=PORT, **json.loads(os.environ["HTTP"]))
app.attach(http)
"""


def service_text(body: str, head: str = "") -> str:
    return textwrap.dedent(head) + SERVICE_HEAD + textwrap.dedent(body) + SERVICE_TAIL


@dataclass
class Script:
    """A Python script in a process of its own, with its output in files (so that no pipe can fill up)."""

    process: subprocess.Popen[bytes]
    folder: Path
    service: str = ""
    port: int = 0  # of its HTTP endpoint, if it has one

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._text("stderr")

    @property
    def output(self) -> str:
        return self._text("stdout")

    @property
    def notes(self) -> list[str]:
        return self._text("notes").splitlines()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def result(self, timeout: float = 30.0) -> Any:
        """Wait for the script's end and return the JSON of its last line of output."""
        self.wait(timeout)
        lines = self.output.splitlines()
        if not lines:
            raise NotRunning(f"ended with {self.process.returncode}, printed nothing: {self.log[-3000:]}")
        return json.loads(lines[-1])

    def wait(self, timeout: float = 30.0) -> int:
        """The exit status; a script that does not end is a failed test."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:.0f} s: {self.log[-3000:]}") from None

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """SIGKILL, as the last resort of a fixture."""
        if self.alive:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()

    # --- what the kernel says about it ---

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def status(self, key: str) -> int:
        """A number out of /proc/PID/status, such as VmRSS (kB)."""
        return _status_number(Path(f"/proc/{self.pid}/status"), key)

    def resident_kb(self) -> int:
        return self.status("VmRSS")

    def wake_ups(self) -> int:
        """Voluntary context switches of all threads so far."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(_status_number(task / "status", "voluntary_ctxt_switches") for task in tasks)


def _status_number(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise NotRunning(f"{path} has no {key}")


@dataclass
class Launcher:
    """Starts scripts and sees to it that none outlives its test."""

    folder: Path
    ours: Side
    started: list[Script] = field(default_factory=list)

    def script(
        self,
        text: str,
        *,
        side: Side | None = None,
        server: PrivateServer | None = None,
        service: str = "",
        run: dict[str, Any] | None = None,
        redis: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        stderr: int | None = None,
        name: str = "script.py",
    ) -> Script:
        """Start a script. REDIS has the server's address as keywords; RUN those of `app.run`."""
        folder = self.folder / f"{len(self.started)}-{service or 'script'}"[:60]
        folder.mkdir()
        path = folder / name
        path.write_text(textwrap.dedent(text))
        redis = redis or ({"redis_host": "127.0.0.1", "redis_port": server.port} if server else {})
        values = {
            "REDIS": json.dumps(redis),
            "RUN": json.dumps({**redis, **(run or {})}),
            "NOTES": str(folder / "notes"),
            "SERVICE": service,
            **(env or {}),
        }
        used = side or self.ours
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [str(used.python), str(path)],
                cwd=folder,
                env=environment(used, values),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err if stderr is None else stderr,
                process_group=0,
            )
        script = Script(process, folder, service)
        self.started.append(script)
        return script

    def start(self, body: str, *, head: str = "", service: str | None = None, **options: Any) -> Script:
        """Start a service without waiting for it."""
        name = f"svc-{uuid.uuid4().hex[:8]}" if service is None else service
        return self.script(service_text(body, head), service=name, **options)

    def service(self, body: str, *, server: PrivateServer, **options: Any) -> Script:
        """Start a service and return once it is subscribed to its channel, and (ours) says that it is ready."""
        script = self.start(body, server=server, **options)
        until_subscribed(server, script.service, script)
        side: Side = options.get("side") or self.ours
        if side is self.ours and "stderr" not in options:
            until_ready(script)
        return script

    def site(
        self,
        body: str,
        *,
        server: PrivateServer | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Script:
        """Start a service with an HTTP endpoint (`http`, made with `settings`); return once its port listens.

        With a server, ours is ready then, too.
        """
        port = free_port()
        env = {"PORT": str(port), "HTTP": json.dumps(settings or {}), **options.pop("env", {})}
        script = self.start(HTTP_PROLOGUE + textwrap.dedent(body), server=server, env=env, **options)
        script.port = port
        until_listening(script)
        if server is not None and (options.get("side") or self.ours) is self.ours:
            until_ready(script)
        return script

    def run(self, text: str, *, timeout: float = 30.0, **options: Any) -> Any:
        """Run a script to its end; the JSON of its last line of output."""
        return self.script(text, **options).result(timeout)

    def end_all(self) -> None:
        for script in self.started:
            script.end()


def until_subscribed(server: PrivateServer, channel: str, script: Script, timeout: float = READY_SECONDS) -> None:
    """Wait until somebody is subscribed; a script that ends before that is the test's own failure."""
    with Link(server) as link:

        def subscribed() -> bool:
            if not script.alive:
                raise NotRunning(f"the script ended with {script.process.returncode}: {script.log[-3000:]}")
            return subscribers(link, channel) > 0

        try:
            wait_for(subscribed, timeout)
        except AssertionError:
            raise NotRunning(f"nobody subscribed to {channel!r}: {script.log[-3000:]}") from None


def until_ready(script: Script) -> None:
    """Wait for the line that ours writes when it is ready."""
    try:
        wait_for(lambda: "is ready" in script.log, READY_SECONDS)
    except AssertionError:
        raise NotRunning(f"not ready: {script.log[-3000:]}") from None


def until_listening(script: Script) -> None:
    """Wait until its HTTP port takes connections."""

    def listening() -> bool:
        if not script.alive:
            raise NotRunning(f"the script ended with {script.process.returncode}: {script.log[-3000:]}")
        return listens(script.port)

    try:
        wait_for(listening, READY_SECONDS)
    except AssertionError:
        raise NotRunning(f"nobody listens on port {script.port}: {script.log[-3000:]}") from None


def listens(port: int) -> bool:
    """Whether a port of the loopback address takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def subscribers(link: Link, channel: str) -> int:
    return int(link.call("PUBSUB", "NUMSUB", channel)[1])


# --- raw Redis ---


def pack(*words: str | bytes | int) -> bytes:
    """A command as RESP."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)])


class Link:
    """One raw connection to a server."""

    def __init__(self, server: PrivateServer) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(READY_SECONDS)
            self.socket.connect(str(server.socket_path))
        except OSError:
            self.socket.close()
            raise
        self._reader = hiredis.Reader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, *words: str | bytes | int) -> None:
        self.socket.sendall(pack(*words))

    def call(self, *words: str | bytes | int) -> Any:
        """Send a command and return its answer."""
        self.send(*words)
        answer = self.read(READY_SECONDS)
        if answer is None or isinstance(answer, hiredis.ReplyError):
            raise NotRunning(f"{words[:2]}: {answer}")
        return answer

    def read(self, timeout: float) -> Any:
        """The next reply, or None when the time is up."""
        deadline = time.monotonic() + timeout
        while (reply := self._reader.gets()) is False:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                return None
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
        return reply


class Watch(Link):
    """A subscriber: reads (channel, bytes) pairs."""

    def __init__(self, server: PrivateServer, *channels: str, patterns: tuple[str, ...] = ()) -> None:
        super().__init__(server)
        for channel in channels:
            self.call("SUBSCRIBE", channel)
        for pattern in patterns:
            self.call("PSUBSCRIBE", pattern)

    def next(self, timeout: float = ANSWER_SECONDS) -> tuple[str, bytes] | None:
        """The next message, or None when nothing came in that time."""
        reply = self.read(timeout)
        return None if reply is None else (reply[-2].decode(errors="replace"), reply[-1])

    def drain(self, quiet: float = 0.3) -> list[tuple[str, bytes]]:
        """All messages until nothing has come for a while."""
        got = []
        while (message := self.next(quiet)) is not None:
            got.append(message)
        return got


class Peer:
    """A caller that is nobody's library: requests and replies as they are on the wire."""

    def __init__(self, server: PrivateServer, channel: str | None = None) -> None:
        self.channel = channel or f"caller:{uuid.uuid4()}"
        self.watch = Watch(server, self.channel)
        self.link = Link(server)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.close()
        self.link.close()

    def publish(self, channel: str, message: object) -> int:
        data = message if isinstance(message, bytes | str) else json.dumps(message)
        return int(self.link.call("PUBLISH", channel, data))

    def post(self, service: str, action: str, payload: object = None, **extra: object) -> str:
        """Send a request in upstream's format; returns its id."""
        message = self.request(service, action, payload, **extra)
        self.publish(service, message)
        return str(message["request_id"])

    def request(self, service: str, action: str, payload: object = None, **extra: object) -> dict[str, object]:
        return {
            "action": action,
            "payload": {} if payload is None else payload,
            "reply_to": self.channel,
            "request_id": str(uuid.uuid4()),
            "service": service,
            **extra,
        }

    def next(self, timeout: float = ANSWER_SECONDS) -> dict[str, Any] | None:
        message = self.watch.next(timeout)
        return None if message is None else json.loads(message[1])

    def replies(self, timeout: float = ANSWER_SECONDS) -> Iterator[dict[str, Any]]:
        """Replies until none came for `timeout` seconds."""
        while (reply := self.next(timeout)) is not None:
            yield reply

    def answer(self, request_id: str, timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
        """The final reply to one request; other replies are passed over."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            reply = self.next(left)
            if reply and reply.get("request_id") == request_id and reply.get("final", True):
                return reply
        raise NoReply(f"no final answer to {request_id} within {timeout:.0f} s")

    def ask(
        self,
        service: str,
        action: str,
        payload: object = None,
        timeout: float = ANSWER_SECONDS,
        **extra: object,
    ) -> dict[str, Any]:
        """Send a request and return its final reply."""
        return self.answer(self.post(service, action, payload, **extra), timeout)


# --- raw HTTP ---

_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")


class BrokenAnswer(AssertionError):
    """What came is not an HTTP answer, or the connection was reset."""


@dataclass
class HttpAnswer:
    """An answer as it was on the wire. `framing` says how its end was known: none, length, chunked, close."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes = b""
    framing: str = "none"
    chunks: int = 0

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str:
        """The value of a header that may be there once; an empty text if it is not."""
        values = self.all(name)
        assert len(values) < 2, f"{name} is sent more than once: {values}"
        return values[0] if values else ""

    def words(self, name: str) -> set[str]:
        """A list header, as a set of words in lower case."""
        return {word.strip().lower() for value in self.all(name) for word in value.split(",") if word.strip()}

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        assert self.header("content-type").startswith("application/json"), self
        return json.loads(self.body)


class HttpLink:
    """One raw HTTP connection: sends any bytes, reads answers strictly.

    Silence is a `NoReply`; a reset, or what is no HTTP, a `BrokenAnswer`.
    """

    def __init__(self, port: int, *, timeout: float = ANSWER_SECONDS, host: str = "127.0.0.1") -> None:
        self.port = port
        self.timeout = timeout
        self.socket = socket.create_connection((host, port), timeout)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with RST, as a crashed client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def finish(self) -> None:
        """Close the sending side only."""
        self.socket.shutdown(socket.SHUT_WR)

    def head(self, method: str, target: str, headers: dict[str, str] | None = None, version: str = "1.1") -> bytes:
        """A request's head, with a Host header unless one is given."""
        fields = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        """A whole request; a body has its Content-Length unless another framing is given."""
        fields = dict(headers or {})
        if body is not None and not {"content-length", "transfer-encoding"} & {name.lower() for name in fields}:
            fields["Content-Length"] = str(len(body))
        return self.head(method, target, fields) + (body or b"")

    def ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> HttpAnswer:
        self.send(self.request(method, target, headers, body))
        return self.answer(method)

    def get(self, target: str, **headers: str) -> HttpAnswer:
        """GET; an underscore in a header's name stands for a hyphen."""
        return self.ask("GET", target, {name.replace("_", "-"): value for name, value in headers.items()})

    def answer(self, to: str = "GET") -> HttpAnswer:
        """The next answer; `to` is the method of its request. An interim one (1xx) counts as one."""
        answer = self._head()
        if to == "HEAD" or answer.status < 200 or answer.status in (204, 304):
            return answer
        coding, length = answer.header("transfer-encoding"), answer.header("content-length")
        assert not (coding and length), f"both framings: {answer}"
        if coding:
            assert coding.lower() == "chunked", answer
            answer.framing = "chunked"
            self._read_chunks(answer)
        elif length:
            answer.framing, answer.body = "length", self._exactly(int(length))
        else:
            answer.framing, answer.body = "close", self.rest()
        return answer

    def closes(self, timeout: float | None = None) -> bool:
        """Whether the server ends the connection, with FIN and without a further byte."""
        try:
            self._data += b"" if self._data else self._receive(timeout)
        except NoReply:
            return False
        return not self._data

    def rest(self, timeout: float | None = None) -> bytes:
        """Everything until the server ends the connection."""
        while data := self._receive(timeout):
            self._data += data
        data, self._data = self._data, b""
        return data

    def part(self, until: bytes) -> bytes:
        """What comes up to and with a mark."""
        while until not in self._data:
            self._more(f"before {until!r}")
        found, _, self._data = self._data.partition(until)
        return found + until

    def _head(self) -> HttpAnswer:
        first, *lines = self.part(b"\r\n\r\n")[:-4].split(b"\r\n")
        status = _STATUS_LINE.fullmatch(first)
        fields = [_FIELD_LINE.fullmatch(line) for line in lines]
        if status is None or None in fields:
            raise BrokenAnswer(f"no head of an answer: {first!r} {lines!r}")
        headers = [(field[1].decode().lower(), field[2].decode("latin-1").strip()) for field in fields if field]
        return HttpAnswer(status[1].decode(), int(status[2]), status[3].decode("latin-1"), headers)

    def _read_chunks(self, answer: HttpAnswer) -> None:
        while True:
            size = self.part(b"\r\n")[:-2]
            if not _CHUNK_SIZE.fullmatch(size):
                raise BrokenAnswer(f"no chunk size: {size!r} in {answer}")
            chunk = self._exactly(int(size, 16) + 2)
            if not chunk.endswith(b"\r\n"):
                raise BrokenAnswer(f"a chunk without its end: {chunk!r}")
            if chunk == b"\r\n":
                return
            answer.body += chunk[:-2]
            answer.chunks += 1

    def _exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            self._more(f"after {len(self._data)} of {count} bytes")
        data, self._data = self._data[:count], self._data[count:]
        return data

    def _more(self, where: str) -> None:
        data = self._receive(None)
        if not data:
            raise BrokenAnswer(f"the connection ended {where}: {self._data[-500:]!r}")
        self._data += data

    def _receive(self, timeout: float | None) -> bytes:
        self.socket.settimeout(self.timeout if timeout is None else timeout)
        try:
            return self.socket.recv(1 << 18)
        except TimeoutError:
            raise NoReply(f"nothing came; so far {self._data[-500:]!r}") from None
        except ConnectionResetError:
            raise BrokenAnswer(f"the connection was reset; so far {self._data[-500:]!r}") from None


def fetch(
    port: int,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = ANSWER_SECONDS,
) -> HttpAnswer:
    """One request on a connection of its own."""
    with HttpLink(port, timeout=timeout) as link:
        return link.ask(method, target, headers, body)


def post_json(port: int, target: str, value: object, method: str = "POST") -> HttpAnswer:
    return fetch(port, method, target, {"Content-Type": "application/json"}, json.dumps(value).encode())


# --- getting in the way ---


class Proxy:
    """A loopback TCP relay before a server that can fall silent without a FIN, or cut what it carries."""

    def __init__(self, target_port: int, cut_after: int | None = None, reset: bool = False) -> None:
        self._target = target_port
        self._reset = reset  # cut with RST, as a crashed machine does; else with FIN
        self._cut_after = cut_after  # bytes carried, whereupon everything is cut, once
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._orders: list[Callable[[], None]] = []
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._silent: set[socket.socket] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="test-proxy")

    def __enter__(self) -> Proxy:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._waker.send(b"x")
        self._thread.join()
        for end in (*self._pairs, *self._silent, self._listener, self._wake, self._waker):
            end.close()
        self._selector.close()

    def go_silent(self) -> None:
        """What is connected now stays connected, and never carries a byte again. New connections work."""
        self._do(self._silence_all)

    def cut(self) -> None:
        """Close every connection."""
        self._do(self._cut_all)

    def _do(self, order: Callable[[], None]) -> None:
        done = threading.Event()

        def ordered() -> None:
            order()
            done.set()

        self._orders.append(ordered)
        self._waker.send(b"x")
        if not done.wait(READY_SECONDS):
            raise NotRunning("the proxy does not answer")

    def _loop(self) -> None:
        while not self._done.is_set():
            for key, _ in self._selector.select():
                self._serve(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered

    def _serve(self, end: socket.socket) -> None:
        if end is self._listener:
            self._accept()
        elif end is self._wake:
            self._wake.recv(100)
            while self._orders:
                self._orders.pop(0)()
        elif end in self._pairs:
            self._forward(end)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target), 2.0)
        except OSError:
            near.close()
            return
        for end, other in ((near, far), (far, near)):
            end.settimeout(5.0)
            self._pairs[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 16)
            self._pairs[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(end)
        elif self._cut_after is not None:
            self._cut_after -= len(data)
            if self._cut_after <= 0:
                self._cut_after = None
                self._cut_all()

    def _drop(self, end: socket.socket) -> None:
        other = self._pairs.pop(end)
        self._pairs.pop(other)
        for each in (end, other):
            self._selector.unregister(each)
            if self._reset:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()

    def _silence_all(self) -> None:
        for end in self._pairs:
            self._selector.unregister(end)
            self._silent.add(end)
        self._pairs.clear()

    def _cut_all(self) -> None:
        while self._pairs:
            self._drop(next(iter(self._pairs)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def let_pass(seconds: float) -> None:
    """For outages, whose very length is under test. Never to wait for something to become true."""
    threading.Event().wait(seconds)


def ours() -> Side:
    """The package under test, wherever this interpreter finds it (the checkout or the installed files)."""
    spec = importlib.util.find_spec("daebus")
    if spec is None or spec.submodule_search_locations is None:
        raise NotRunning("daebus is not installed here")
    return Side("ours", Path(sys.executable), str(Path(next(iter(spec.submodule_search_locations))).parent))
