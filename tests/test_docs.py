"""Every ```python block of README.md and docs/*.md runs, in a process of its own, against a real Redis.

A block that calls `app.run(` is a service: it is started, must become READY, and must end with status 0 on
SIGTERM. It keeps running until the end of its page, or until a service of the same port follows, so the blocks
below it can call it. Any other block is a program that must end by itself with status 0. Ports 8080 and 8081 are
free ones instead.

A comment right before a block says what the reader sees from the text around it:

    <!-- test: continues -->      the block goes on where the last one ended: both are one script
    <!-- test: with -->           the block needs the next service of the page, which is started first
    <!-- test: fragment WHY -->   the block is not a whole program; it is compiled only
    <!-- test: file NAME -->      the block, of any language, is a file beside the scripts of the page

A comment by itself, at the end, has a browser open an address and wait until it shows a text:

    <!-- test: browser http://127.0.0.1:8080/ 21.5 -->
"""

from __future__ import annotations

import re
import socket
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import daebus
from daebus.redisserver import PrivateServer
from tests.browser import chromium, tab
from tests.support import ROOT, ServiceProcess

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
BLOCK = re.compile(
    r"(?:<!-- test: (?P<note>[^\n]*?) -->\s*\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
LOOK = re.compile(r"^<!-- test: browser (?P<address>\S+) (?P<text>.+?) -->$", re.MULTILINE)
NOTES = ("", "continues", "with", "fragment", "file")
PORT = re.compile(r"\b808[01]\b")


@dataclass(frozen=True)
class Block:
    """One script or file of a page. `place` is 'file:line', for the reader of a failure."""

    place: str
    note: str
    code: str
    name: str = ""  # of a file

    @property
    def is_service(self) -> bool:
        return "app.run(" in self.code

    @property
    def port(self) -> str | None:
        found = PORT.search(self.code) if "DaebusHttp(" in self.code or "DaebusWebSocket(" in self.code else None
        return found[0] if found else None


def blocks(text: str, name: str) -> list[Block]:
    """The scripts and files of a page; blocks that continue others are joined to them."""
    found: list[Block] = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        note, _, rest = (match["note"] or "").partition(" ")
        if note not in NOTES:
            raise ValueError(f"{name}:{line}: unknown note 'test: {note}'")
        if note == "continues":
            found[-1] = replace(found[-1], code=found[-1].code + match["code"])
        elif note == "file" or match["language"] == "python":
            found.append(Block(f"{name}:{line}", note, match["code"], rest if note == "file" else ""))
    return found


def in_starting_order(page: list[Block]) -> list[Block]:
    """The order of the page, but files come first, and a service comes before the block that is used 'with' it."""
    waiting: list[Block] = []
    order = [block for block in page if block.note == "file"]
    for block in page:
        if block.note == "with":
            waiting.append(block)
            continue
        order += [block] if block.note != "file" else []
        if block.is_service:
            order += waiting
            waiting = []
    if waiting:
        raise ValueError(f"{waiting[0].place}: no service follows")
    return order


class Page:
    """A page while its code runs: its folder, and the services that are up."""

    def __init__(self, folder: Path, server: PrivateServer, running: ExitStack) -> None:
        self._folder = folder
        self._server = server
        self._running = running
        self._first_port = two_free_ports()
        self._services: list[tuple[Block, ServiceProcess]] = []

    def with_ports(self, text: str) -> str:
        return PORT.sub(lambda match: str(self._first_port + int(match[0]) - 8080), text)

    def run(self, block: Block) -> None:
        """A file is written, a service is started, a program has ended when this returns."""
        if block.note == "file":
            self._write(block.name, block.code)
            return
        compile(block.code, block.place, "exec")
        if block.note == "fragment":
            return
        if block.is_service and block.port is not None:
            self._make_room(block.port)
        path = self._write(f"script_{block.place.replace(':', '_').replace('.', '_')}.py", block.code)
        process = self._running.enter_context(ServiceProcess(path, redis_url=self._server.url))
        if block.is_service:
            self._services.append((block, process.wait_ready()))
        else:
            assert process.wait() == 0, f"{block.place}\n{process.log()}"

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.with_ports(text), encoding="utf-8")
        return path

    def _make_room(self, port: str) -> None:
        for block, process in [pair for pair in self._services if pair[0].port == port]:
            self._stop(block, process)

    def stop(self) -> None:
        for block, process in list(self._services):
            self._stop(block, process)

    def _stop(self, block: Block, process: ServiceProcess) -> None:
        self._services.remove((block, process))
        assert process.stop() == 0, f"{block.place}\n{process.log()}"


def two_free_ports() -> int:
    """The first of two neighbours, as a service with HTTP and WebSocket has them."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, redis_server: PrivateServer, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    scripts = in_starting_order(blocks(text, page.name))
    with ExitStack() as running:
        live = Page(tmp_path, redis_server, running)
        for block in scripts:
            live.run(block)
        looks = [(live.with_ports(look["address"]), look["text"]) for look in LOOK.finditer(text)]
        if looks:
            see(looks)
        live.stop()


def see(looks: list[tuple[str, str]]) -> None:
    """Have a browser open each address, and wait until the page shows the text."""
    with chromium() as browser:
        for address, text in looks:
            with tab(browser, address) as seen:
                seen.wait_text("body", text)


def test_the_readme_has_code() -> None:
    """The test above would pass on a page whose blocks it cannot see."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sum(match["language"] == "python" for match in BLOCK.finditer(text)) == text.count("```python") > 0


def test_continued_blocks_are_one_script() -> None:
    text = "```python\na = 1\n```\nthen\n<!-- test: continues -->\n```python\nb = a\n```\n"
    assert blocks(text, "page") == [Block("page:2", "", "a = 1\nb = a\n")]


def test_a_block_used_with_a_service_is_started_after_it() -> None:
    caller, service = Block("page:1", "with", "call()"), Block("page:5", "", "app.run()")
    assert in_starting_order([caller, service]) == [service, caller]
    with pytest.raises(ValueError, match="no service follows"):
        in_starting_order([caller])


def test_a_file_is_there_before_the_scripts_and_other_languages_are_left_alone() -> None:
    text = "```python\nrun()\n```\n```sh\nls\n```\n<!-- test: file page/index.html -->\n```html\n<p>\n```\n"
    script, file = Block("page:2", "", "run()\n"), Block("page:9", "file", "<p>\n", "page/index.html")
    assert blocks(text, "page") == [script, file]
    assert in_starting_order([script, file]) == [file, script]


def test_what_a_browser_is_to_see_is_found() -> None:
    text = "text\n\n<!-- test: browser http://127.0.0.1:8080/ at 21.5 °C -->\n"
    assert [(look["address"], look["text"]) for look in LOOK.finditer(text)] == [
        ("http://127.0.0.1:8080/", "at 21.5 °C")
    ]
    assert blocks(text, "page") == []


def test_an_unknown_note_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown note"):
        blocks("<!-- test: perhaps -->\n```python\n```\n", "page")


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    packages = (ROOT / "packaging" / "debian" / "changelog").read_text(encoding="utf-8")
    packaged = re.findall(r"^daebus \((.+)\) ", packages, re.MULTILINE)
    assert project["version"] == daebus.__version__ == released[0] == packaged[0]
