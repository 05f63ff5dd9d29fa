"""Every ```python block of README.md and docs/*.md runs, in a process of its own, against a real Redis.

A block that calls `app.run(` is a service: it is started, must become READY, and must end with status 0 on
SIGTERM. It keeps running until the end of its page, so the blocks below it can call it. Any other block is a
program that must end by itself with status 0.

A comment right before a block says what the reader sees from the text around it:

    <!-- test: continues -->      the block goes on where the last one ended: both are one script
    <!-- test: with -->           the block needs the next service of the page, which is started first
    <!-- test: fragment WHY -->   the block is not a whole program; it is compiled only
"""

from __future__ import annotations

import re
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import daebus
from daebus.redisserver import PrivateServer
from tests.support import ROOT, ServiceProcess

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
BLOCK = re.compile(r"(?:<!-- test: (?P<note>.*?) -->\s*\n)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
NOTES = ("", "continues", "with", "fragment")


@dataclass(frozen=True)
class Block:
    """One script of a page. `place` is 'file:line', for the reader of a failure."""

    place: str
    note: str
    code: str

    @property
    def is_service(self) -> bool:
        return "app.run(" in self.code


def blocks(text: str, name: str) -> list[Block]:
    """The scripts of a page; blocks that continue others are joined to them."""
    found: list[Block] = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        note = (match["note"] or "").partition(" ")[0]
        if note not in NOTES:
            raise ValueError(f"{name}:{line}: unknown note 'test: {note}'")
        if note == "continues":
            found[-1] = replace(found[-1], code=found[-1].code + match["code"])
        else:
            found.append(Block(f"{name}:{line}", note, match["code"]))
    return found


def in_starting_order(page: list[Block]) -> list[Block]:
    """The order of the page, but a service comes before the block that is used 'with' it."""
    waiting: list[Block] = []
    order: list[Block] = []
    for block in page:
        if block.note == "with":
            waiting.append(block)
            continue
        order.append(block)
        if block.is_service:
            order += waiting
            waiting = []
    if waiting:
        raise ValueError(f"{waiting[0].place}: no service follows")
    return order


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, redis_server: PrivateServer) -> None:
    scripts = in_starting_order(blocks(page.read_text(encoding="utf-8"), page.name))
    with ExitStack() as running:
        services = [start(block, redis_server, running) for block in scripts]
        for block, service in zip(scripts, services, strict=True):
            if service is not None:
                assert service.stop() == 0, f"{block.place}\n{service.log()}"


def start(block: Block, server: PrivateServer, running: ExitStack) -> ServiceProcess | None:
    """A service stays and is returned; a program has ended when this returns."""
    compile(block.code, block.place, "exec")
    if block.note == "fragment":
        return None
    process = running.enter_context(ServiceProcess(block.code, redis_url=server.url))
    if block.is_service:
        return process.wait_ready()
    assert process.wait() == 0, f"{block.place}\n{process.log()}"
    return None


def test_the_readme_has_code() -> None:
    """The test above would pass on a page whose blocks it cannot see."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == text.count("```python") > 0


def test_continued_blocks_are_one_script() -> None:
    text = "```python\na = 1\n```\nthen\n<!-- test: continues -->\n```python\nb = a\n```\n"
    assert blocks(text, "page") == [Block("page:2", "", "a = 1\nb = a\n")]


def test_a_block_used_with_a_service_is_started_after_it() -> None:
    caller, service = Block("page:1", "with", "call()"), Block("page:5", "", "app.run()")
    assert in_starting_order([caller, service]) == [service, caller]
    with pytest.raises(ValueError, match="no service follows"):
        in_starting_order([caller])


def test_an_unknown_note_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown note"):
        blocks("<!-- test: perhaps -->\n```python\n```\n", "page")


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert project["version"] == daebus.__version__ == released[0]
