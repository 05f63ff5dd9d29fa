"""A real Chromium without a window, for tests of pages.

What a page complains of fails its test: an error on the console, an exception that nobody catches, a violation of
the content security policy, a file that is not there. A test that brings one about says so: `tab.expect("text")`.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support import MS, skip_or_fail, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Response

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENT = 15_000 * MS  # for what includes the start of a process, or the longest pause between attempts to connect

REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`violates ${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
"""
NO_CONNECTION = "WebSocket connection to"  # how the console's line on a failed attempt begins


def free_port() -> int:
    """A port of the loopback address that nobody listens on, for a service that is ended and started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile; it and all that belongs to it end with the block."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        skip_or_fail("chromium is not installed here (make test installs it where it may)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_or_fail("the Python package playwright is not installed here (make test installs it)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS, headless=True)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One page, in a profile of its own unless it is the second tab of another one."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._expected: list[str] = []
        self._others: list[Tab] = []
        page.set_default_timeout(PATIENT * 1000)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", self._on_response)
        page.add_init_script(REPORT_VIOLATIONS)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.url}: {response.status}")

    def expect(self, text: str) -> None:
        """Complaints that hold this text are what the test is about."""
        self._expected.append(text)

    def check(self) -> None:
        unexpected = [text for text in self.complaints if not any(part in text for part in self._expected)]
        if unexpected:
            raise AssertionError(f"the page complains: {unexpected}")
        for other in self._others:
            other.check()

    def open(self, url: str) -> Tab:
        self.page.goto(url)
        return self

    def second(self) -> Tab:
        """Another tab of the same window."""
        self._others.append(Tab(self.page.context.new_page()))
        return self._others[-1]

    def run(self, script: str, argument: Any = None) -> Any:
        """The value of an expression or function; a promise is waited for."""
        return self.page.evaluate(script, argument)

    def wait(self, script: str, timeout: float = PATIENT) -> Any:
        """The first true value of an expression."""
        return wait_for(
            lambda: self.run(script), timeout, lambda: f"{script}\n{self.page.content()}\n{self.complaints}"
        )

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait_text(self, selector: str, text: str, timeout: float = PATIENT) -> None:
        wait_for(lambda: text in self.text(selector), timeout, lambda: f"{text!r}, not {self.text(selector)!r}")


@contextmanager
def tab(browser: Browser, url: str, *, width: int = 800, height: int = 480, **options: Any) -> Iterator[Tab]:
    """A page with an address in a fresh profile. What it complains of fails the test."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    try:
        made = Tab(context.new_page())
        yield made.open(url)
        made.check()
    finally:
        context.close()
