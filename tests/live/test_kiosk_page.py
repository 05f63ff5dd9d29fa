"""The page of the kiosk example in a real Chromium: what it shows, what it says of outages, who can use it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daebus.redisserver import PrivateServer
from tests.browser import NO_CONNECTION, Tab, chromium, free_port, tab
from tests.support import ROOT, ServiceProcess, private_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

KIOSK = ROOT / "examples" / "kiosk"
SIZES = [(800, 480), (390, 844), (1280, 800)]


class Example:
    """The parts of the example, each of which may be ended and started again."""

    def __init__(self, stack: ExitStack, redis: PrivateServer) -> None:
        self._stack = stack
        self.redis = redis
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.services = {name: self.start(name) for name in ("device", "panel")}

    def start(self, name: str) -> ServiceProcess:
        service = ServiceProcess(KIOSK / f"{name}.py", redis_url=self.redis.url, env={"KIOSK_PORT": str(self.port)})
        return self._stack.enter_context(service).wait_ready()

    def kill(self, name: str) -> None:
        self.services[name].kill()

    def restart(self, name: str) -> None:
        self.services[name] = self.start(name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def calm() -> Iterator[Example]:
    """For tests that end nothing."""
    with ExitStack() as stack:
        yield Example(stack, stack.enter_context(private_server()))


@pytest.fixture
def example() -> Iterator[Example]:
    """For tests that end parts of it."""
    with ExitStack() as stack:
        yield Example(stack, stack.enter_context(private_server()))


@contextmanager
def live(browser: Browser, example: Example, **options: Any) -> Iterator[Tab]:
    with tab(browser, example.url, **options) as page:
        page.wait_text("#status", "Live")
        yield page


@pytest.fixture
def page(browser: Browser, calm: Example) -> Iterator[Tab]:
    with live(browser, calm) as opened:
        yield opened


@pytest.fixture
def troubled(browser: Browser, example: Example) -> Iterator[Tab]:
    with live(browser, example) as opened:
        opened.expect(NO_CONNECTION)
        yield opened


# --- what it shows ---


def test_it_shows_how_this_machine_is_doing(page: Tab) -> None:
    disk = os.statvfs("/")
    used = 100 * (disk.f_blocks - disk.f_bfree) / (disk.f_blocks - disk.f_bfree + disk.f_bavail)
    assert abs(float(page.text("#disk").removesuffix(" %")) - used) <= 2
    assert page.text("#disk-remark") == f"of {disk.f_blocks * disk.f_frsize / 1e9:.1f} GB"
    assert re.fullmatch(r"\d+\.\d\d", page.text("#load"))
    assert re.fullmatch(r"\d+ %", page.text("#memory"))
    assert re.fullmatch(r"\d+ (d|h|min) \d+ (h|min|s)", page.text("#uptime"))
    assert re.fullmatch(r"since .*\d.*", page.text("#uptime-remark"))


def test_what_is_announced_is_shown(page: Tab) -> None:
    before = page.text("#time")
    page.wait(f"document.getElementById('time').textContent !== {before!r}")


def shown(page: Tab, readings: str, *names: str) -> list[str]:
    """The texts of some places when the page has just been given these readings, before it hears further ones."""
    places = [f"#{name}" for name in names]
    script = f"(places) => {{ show({readings}); return places.map((one) => document.querySelector(one).innerText); }}"
    texts: list[str] = page.run(script, places)
    return texts


def test_what_the_device_does_not_have_is_not_available(page: Tab) -> None:
    names = ("load", "memory", "temperature", "uptime", "disk")
    assert set(shown(page, "{load: null, memory_percent: null}", *names)) == {"not available"}
    remarks = ("memory-remark", "disk-remark", "uptime-remark")
    assert set(shown(page, "{memory_total_gb: 4, disk_percent: null}", *remarks)) == {""}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 min 0 s"), (725, "12 min 5 s"), (15139, "4 h 12 min"), (273600, "3 d 4 h")]
)
def test_an_uptime_is_as_on_the_terminal(page: Tab, seconds: float, text: str) -> None:
    assert page.run("(seconds) => duration(seconds)", seconds) == text


# --- what it is told by touch and by key ---


WARM = "{...readings, temperature_celsius: 48.3}"


def test_a_touch_switches_the_degrees_and_the_choice_is_kept(browser: Browser, calm: Example) -> None:
    with live(browser, calm, has_touch=True) as page:
        assert shown(page, WARM, "temperature") == ["48.3 °C"]
        page.page.locator("label[for=fahrenheit]").tap()
        assert shown(page, WARM, "temperature") == ["118.9 °F"]
        page.page.reload()
        page.wait_text("#status", "Live")
        assert shown(page, WARM, "temperature") == ["118.9 °F"]


def test_a_touch_asks_the_device_at_once(browser: Browser, calm: Example) -> None:
    with live(browser, calm, has_touch=True) as page:
        page.run(
            "() => { const call = bus.call; bus.call = (...all) => { globalThis.asked = all; return call(...all); }; }"
        )
        page.page.locator("#refresh").tap()
        page.wait_text("#note", "Refreshed")
        assert page.run("globalThis.asked") == ["device/readings"]


def test_the_keyboard_reaches_everything(page: Tab) -> None:
    page.page.keyboard.press("Tab")
    assert page.run("document.activeElement.id") == "celsius"
    page.page.keyboard.press("ArrowRight")
    assert page.run("document.getElementById('fahrenheit').checked")
    page.page.keyboard.press("Tab")
    assert page.run("document.activeElement.id") == "refresh"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.page.keyboard.press("Enter")
    page.wait_text("#note", "Refreshed")
    assert page.run("document.activeElement.id") == "refresh"


# --- what it says when something is away ---


def test_redis_goes_and_comes_back(troubled: Tab, example: Example) -> None:
    example.redis.kill()
    troubled.wait_text("#status", "The message bus (Redis) is away")
    before = troubled.text("#load")
    troubled.page.locator("#refresh").click()
    troubled.wait_text("#note", "Not refreshed")
    assert troubled.text("#load") == before
    example.redis.restart()
    troubled.wait_text("#status", "Live")
    assert shows_news(troubled)


def test_the_panel_goes_and_comes_back(troubled: Tab, example: Example) -> None:
    example.kill("panel")
    troubled.wait_text("#status", "No connection to the panel")
    example.restart("panel")
    troubled.wait_text("#status", "Live")
    assert shows_news(troubled)


def test_the_device_goes_and_comes_back(troubled: Tab, example: Example) -> None:
    example.kill("device")
    troubled.wait_text("#status", "The service “device” is not running")
    example.restart("device")
    troubled.wait_text("#status", "Live")
    assert shows_news(troubled)


def shows_news(page: Tab) -> bool:
    """Whether what the device announces arrives."""
    before = page.text("#time")
    return bool(page.wait(f"document.getElementById('time').textContent !== {before!r}"))


def test_a_page_opened_while_redis_is_away_says_so(browser: Browser, example: Example) -> None:
    example.redis.kill()
    with tab(browser, example.url) as page:
        page.wait_text("#status", "The message bus (Redis) is away")
        example.redis.restart()
        page.wait_text("#status", "Live")


# --- who can use it ---


TROUBLE = "problem = 'The service “device” does not answer. Asking again'; tell();"

ROOM = """
const clipped = [...document.querySelectorAll(".tile")].filter((one) => one.scrollHeight > one.clientHeight + 1);
const page = document.documentElement;
return [page.scrollWidth, page.scrollHeight, clipped.length];
"""


@pytest.mark.parametrize("size", SIZES, ids=[f"{width}x{height}" for width, height in SIZES])
@pytest.mark.parametrize("state", ["", TROUBLE], ids=["live", "trouble"])
def test_it_fits_without_scrolling(browser: Browser, calm: Example, size: tuple[int, int], state: str) -> None:
    with live(browser, calm, width=size[0], height=size[1]) as page:
        width, height, clipped = page.run(f"() => {{ {state} {ROOM} }}")
        assert width <= size[0]
        assert height <= size[1]
        assert clipped == 0


@pytest.mark.parametrize("size", SIZES, ids=[f"{width}x{height}" for width, height in SIZES])
def test_what_is_touched_is_large_enough(browser: Browser, calm: Example, size: tuple[int, int]) -> None:
    with live(browser, calm, width=size[0], height=size[1]) as page:
        for place in page.page.locator("button, label").all():
            box = place.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 48


CONTRASTS = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
const light = (colour) => {
  const [red, green, blue] = numbers(colour).map((part) => linear(part / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return numbers(colour)[3] === 0 ? behind(element.parentElement) : colour;
};
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const [text, element] = [texts.currentNode.data.trim(), texts.currentNode.parentElement];
  if (!text || !element.checkVisibility()) continue;
  const lights = [light(getComputedStyle(element).color), light(behind(element))].sort((one, two) => two - one);
  found.push([text, (lights[0] + 0.05) / (lights[1] + 0.05)]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("state", ["", TROUBLE], ids=["live", "trouble"])
def test_all_text_stands_out(browser: Browser, calm: Example, scheme: str, state: str) -> None:
    with live(browser, calm, color_scheme=scheme) as page:
        contrasts = page.run(f"() => {{ {state} {CONTRASTS} }}")
        assert len(contrasts) > 12
        assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []


def test_it_makes_sense_without_seeing_it(page: Tab) -> None:
    outline = page.page.locator("body").aria_snapshot()
    for part in (
        '- banner:\n  - heading "This device" [level=1]\n  - status: Live',
        "- main:",
        '- heading "Load" [level=2]',
        '- radiogroup "Temperature":\n    - radio "Celsius" [checked]',
        '- radio "Fahrenheit"',
        '- contentinfo:\n  - button "Refresh now"',
    ):
        assert part in outline
    assert page.run("document.documentElement.lang") == "en"
    assert page.page.title() == "This device"


def test_what_is_read_aloud_changes_only_with_the_state(page: Tab) -> None:
    page.run(
        """() => {
          globalThis.aloud = [];
          globalThis.shown = 0;
          const look = (selector, fn) => new MutationObserver(fn).observe(
            document.querySelector(selector), {subtree: true, childList: true, characterData: true});
          look("#status", () => aloud.push("status"));
          look("#note", () => aloud.push("note"));
          look("main", () => shown++);
        }"""
    )
    page.wait("shown >= 2")
    assert page.run("aloud") == []
    assert page.run("document.querySelectorAll('main [aria-live], main [role=status], main [role=alert]').length") == 0


def test_nothing_moves_for_those_who_do_not_want_that(browser: Browser, calm: Example) -> None:
    moving = "getComputedStyle(document.getElementById('disk-bar')).transitionProperty"
    with live(browser, calm, reduced_motion="no-preference") as page:
        assert page.run(moving) == "width"
    with live(browser, calm, reduced_motion="reduce") as page:
        assert page.run(moving) == "none"


def test_the_page_allows_nothing_but_itself(page: Tab) -> None:
    policy = page.run("document.querySelector('meta[http-equiv=Content-Security-Policy]').content")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.expect("violates")
    script = """() => {
      document.body.insertAdjacentHTML("beforeend", '<b onclick="globalThis.struck = true">x</b>');
      document.body.lastElementChild.click();
      return globalThis.struck ?? false;
    }"""
    assert page.run(script) is False


def test_files_hold_no_code_in_markup() -> None:
    markup = Path(KIOSK / "page" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*src=)|\son\w+=|style=|javascript:", markup) == []
