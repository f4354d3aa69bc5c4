"""The page of the service, in a headless Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")
pytest.importorskip("uvicorn")
pytest.importorskip("headway.serve.command")

from browsers import Browser, Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

import headway

PAGE = Path(headway.__file__).parent / "serve" / "page"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    browser = Browser(found, driver, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Service]:
    """A service that asks for a token."""
    service = Service(tmp_path, "alice:token-of-alice\nops:token-of-ops:admin\n")
    yield service
    service.stop()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    yield chromium
    assert chromium.complaints() == []


def test_keys_quotas_counts_and_what_remains_are_shown(service: Service, browser: Browser) -> None:
    service.limit("alice", times=5)
    service.limit("bob", "10/h")
    browser.open(service.url)
    browser.until(lambda: browser.names() == ["alice", "bob"], "both keys are shown")
    alice = browser.text("tbody tr")
    assert alice.splitlines()[:2] == ["alice", "2/h, token bucket"]
    assert "2 3 0 of 2" in alice
    assert browser.text("#state") == "3 admitted, 3 denied since the service started"
    assert browser.text("#caption") == "2 keys."


def test_charts_follow_what_happens_and_say_it_in_words(service: Service, browser: Browser) -> None:
    service.limit("k")
    browser.open(service.url)

    def denied() -> bool:
        service.limit("k", times=20)
        words = browser.find("#denied-chart").get_attribute("aria-label") or ""
        found = re.search(r"at most ([\d.]+)\.$", words)
        return found is not None and float(found[1]) > 10

    browser.until(denied, "the chart says how many are denied a second")
    assert browser.all("#denied-chart polyline.trace")
    browser.until(lambda: browser.text("#denied-now") not in ("", "–"), "the number is shown")
    browser.until(lambda: "denied a second" in browser.run(SUMMARY), "a summary is said")


SUMMARY = "return document.getElementById('summary').textContent"


def test_a_search_and_an_order_are_asked_of_the_service(service: Service, browser: Browser) -> None:
    for times, key in enumerate(("user:b", "user:a", "mail"), 1):
        service.limit(key, times=times * 3)
    browser.open(service.url)
    browser.until(lambda: browser.names() == ["mail", "user:a", "user:b"], "most denied first")
    browser.find("#search").send_keys("USER")
    browser.until(lambda: browser.names() == ["user:a", "user:b"], "only users")
    assert "2 keys with “USER” in the name" in browser.text("#caption")
    Select(browser.find("#sort")).select_by_visible_text("name")
    assert browser.find("th[data-sort=key]").get_attribute("aria-sort") == "ascending"
    browser.find("#search").clear()
    browser.find("#search").send_keys("u", Keys.BACKSPACE)
    browser.until(lambda: browser.names() == ["mail", "user:a", "user:b"], "by name")
    browser.find("#search").send_keys("nobody")
    browser.until(lambda: browser.names() == [], "no key")


def test_a_key_is_reset_by_the_keyboard(service: Service, browser: Browser) -> None:
    service.limit("alice", times=5)
    browser.open(service.url)
    browser.until(lambda: browser.names() == ["alice"], "the key is shown")
    button = browser.find("tbody button")
    assert button.get_attribute("aria-label") == "Reset alice"
    button.send_keys(Keys.ENTER)
    assert browser.text("#reset-dialog p") == "Give alice the whole of its quota 2/h back?"
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.find("#reset-dialog").is_displayed()
    button.send_keys(Keys.ENTER)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.until(lambda: "alice has the whole of" in browser.text("#done"), "it says so")
    browser.until(lambda: "2 of 2" in browser.text("tbody tr"), "the quota is whole")
    focused = browser.driver.switch_to.active_element.get_attribute("aria-label")
    assert focused == "Reset alice"


def test_a_service_with_tokens_asks_for_one(guarded: Service, browser: Browser) -> None:
    guarded.limit("secret key", token="token-of-alice")
    browser.open(guarded.url)
    browser.until(lambda: browser.find("#token-dialog").is_displayed(), "it asks for a token")
    assert "This service asks for a token." in browser.text("#problem")
    assert browser.find("#token").get_attribute("type") == "password"
    browser.find("#token").send_keys("wrong", Keys.ENTER)
    browser.until(lambda: "does not accept this token" in browser.text("#problem"), "it is wrong")
    assert browser.names() == []
    browser.find("#token-open").click()
    browser.find("#token").clear()
    browser.find("#token").send_keys("token-of-alice", Keys.ENTER)
    browser.until(lambda: browser.names() == ["secret key"], "the keys are shown")
    assert browser.text("#problem") == ""
    assert browser.run("return [localStorage.length, document.cookie]") == [0, ""]
    browser.find("#token-open").click()
    browser.find("#token-dialog button[value=forget]").click()
    browser.until(lambda: "asks for a token" in browser.text("#problem"), "it is forgotten")
    assert browser.run("return sessionStorage.length") == 0


def test_an_admin_sees_whose_a_key_is_and_resets_it(guarded: Service, browser: Browser) -> None:
    guarded.limit("k", times=3, token="token-of-alice")
    guarded.limit("k", times=2, token="token-of-ops")
    browser.open(guarded.url)
    browser.until(lambda: browser.find("#token-dialog").is_displayed(), "it asks for a token")
    browser.find("#token").send_keys("token-of-ops", Keys.ENTER)
    browser.until(lambda: len(browser.names()) == 2, "both tenants' keys")
    assert "2/h, token bucket, tenant alice" in browser.text("tbody tr")
    browser.find("tbody button").click()
    browser.find("#reset-dialog button[value=reset]").click()
    browser.until(lambda: "2 of 2" in browser.text("tbody tr"), "alice's quota is whole")
    assert "0 of 2" in browser.all("tbody tr")[1].text


def test_a_service_that_goes_away_is_said_and_found_again(
    service: Service, browser: Browser
) -> None:
    service.limit("k")
    browser.open(service.url)
    browser.until(lambda: browser.names() == ["k"], "the key is shown")
    service.stop()
    browser.until(lambda: "The service does not answer" in browser.text("#problem"), "it is gone")
    assert browser.text("#state") == "Not connected"
    assert browser.names() == ["k"]
    service.start()
    browser.until(lambda: browser.text("#problem") == "", "it is back")


def test_a_row_that_has_the_focus_keeps_its_place(service: Service, browser: Browser) -> None:
    service.limit("first", times=9)
    service.limit("second", times=5)
    browser.open(service.url)
    browser.until(lambda: browser.names() == ["first", "second"], "both keys")
    browser.run("document.querySelectorAll('tbody button')[1].focus()")
    service.limit("second", times=20)
    browser.until(lambda: "keep their places" in browser.text("#caption"), "it says so")
    assert browser.names() == ["first", "second"]
    browser.run("document.activeElement.blur()")
    browser.until(lambda: browser.names() == ["second", "first"], "the order is caught up with")


def test_what_is_paused_stands_still(service: Service, browser: Browser) -> None:
    browser.open(service.url)
    browser.until(lambda: browser.text("#caption") == "0 keys.", "no key yet")
    browser.find("#pause").click()
    assert browser.find("#pause").get_attribute("aria-pressed") == "true"
    service.limit("k")
    browser.until(lambda: "(paused)" in browser.text("#state"), "it says so")
    assert browser.names() == []
    browser.find("#pause").click()
    browser.until(lambda: browser.names() == ["k"], "it goes on")


def test_a_key_is_text_whatever_it_holds(service: Service, browser: Browser) -> None:
    keys = ["<img src=x onerror=alert(1)>", "right\u202eleft", "nul\0 tab\t", "日本 🎈", "x" * 300]
    for key in keys:
        service.limit(key)
    browser.open(service.url)
    browser.until(lambda: len(browser.names()) == 5, "all keys are shown")
    shown = set(browser.names())
    assert {"<img src=x onerror=alert(1)>", "日本 🎈", "x" * 300} < shown
    assert {"right\\u{202e}left", "nul\\u{0} tab\\u{9}"} < shown
    assert browser.run("return document.images.length") == 0
    assert not overflows(browser)


def overflows(browser: Browser) -> bool:
    return bool(browser.run("return document.documentElement.scrollWidth > innerWidth"))


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(320, False, id="320-light"),
        pytest.param(1280, True, id="1280-dark"),
        pytest.param(320, True, id="320-dark", marks=pytest.mark.slow),
        pytest.param(400, False, id="400-light", marks=pytest.mark.slow),
        pytest.param(400, True, id="400-dark", marks=pytest.mark.slow),
        pytest.param(1280, False, id="1280-light", marks=pytest.mark.slow),
    ],
)
def test_the_page_fits_and_can_be_read(
    service: Service, browser: Browser, width: int, dark: bool, tmp_path: Path
) -> None:
    for i in range(8):
        service.limit(f"a key with a name of some length {i}", "1000000/h burst 2", times=3)
    browser.open(service.url, width=width, dark=dark)
    browser.until(lambda: len(browser.names()) == 8, "the keys are shown")
    browser.driver.save_screenshot(str(tmp_path / f"page-{width}-{dark}.png"))
    assert not overflows(browser)
    red, green, blue = browser.run(GROUND)
    assert (red + green + blue < 150) is dark
    faint = [name for name, contrast in browser.run(CONTRASTS) if contrast < 4.5]
    assert faint == []


GROUND = """
return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)
"""
# Of each element with text of its own that is shown: the contrast of its text with its ground.
CONTRASTS = """
const light = (rgb) => {
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const [r, g, b] = rgb.map((v) => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const parts = (color) => (color.match(/[0-9.]+/g) ?? []).map(Number);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const color = parts(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color.slice(0, 3);
  }
};
const found = [];
for (const e of document.body.querySelectorAll('*')) {
  const text = [...e.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
  if (!text.length || !e.checkVisibility() || e.matches('.unseen, :disabled')) continue;
  const style = getComputedStyle(e);
  const color = e instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [light(parts(color)), light(ground(e))];
  found.push([e.tagName + ' ' + text[0].data, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]);
}
return found;
"""


def test_a_screen_reader_meets_a_table_with_names(service: Service, browser: Browser) -> None:
    service.limit("alice", times=3)
    for width in (1280, 400):
        browser.open(service.url, width=width)
        browser.until(lambda: browser.names() == ["alice"], "the key is shown")
        nodes = browser.cdp("Accessibility.getFullAXTree", {})["nodes"]
        found = {(role(node), name(node)) for node in nodes if not node.get("ignored")}
        assert ("heading", "headway") in found
        assert ("main", "") in found
        assert ("searchbox", "Search") in found
        assert ("combobox", "Sort by") in found
        assert ("button", "Reset alice") in found
        assert ("columnheader", "Remaining") in found
        assert any(kind == "rowheader" and said.startswith("alice") for kind, said in found)
        assert any(kind == "table" and said.startswith("1 key") for kind, said in found)
        pictures = [said for kind, said in found if kind in ("image", "img")]
        assert {said.split(" ")[0] for said in pictures} == {"Admitted", "Denied"}
        nameless = [kind for kind, said in found if kind in ("button", "textbox") and not said]
        assert nameless == []


def role(node: dict[str, Any]) -> str:
    return str(node.get("role", {}).get("value", ""))


def name(node: dict[str, Any]) -> str:
    return str(node.get("name", {}).get("value", ""))


def test_everything_is_reached_by_the_tab_key_and_shows_it(
    service: Service, browser: Browser
) -> None:
    service.limit("alice")
    browser.open(service.url)
    browser.until(lambda: browser.names() == ["alice"], "the key is shown")
    reached = []
    body = browser.driver.find_element(By.TAG_NAME, "body")
    for _ in range(7):
        (browser.driver.switch_to.active_element or body).send_keys(Keys.TAB)
        focused = browser.driver.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.text)
        assert focused.value_of_css_property("outline-style") == "solid", reached
    assert reached == [
        "Skip to the keys",
        "pause",
        "token-open",
        "search",
        "sort",
        "limit",
        "Reset",
    ]


class References(HTMLParser):
    """What a page refers to, and what would not be run under `default-src 'self'`."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for attribute, value in attrs:
            if attribute in ("src", "href") and value is not None:
                self.targets.append(value)
            if attribute == "style" or attribute.startswith("on"):
                self.inline.append(f"{tag} {attribute}")
        if tag == "style" or (tag == "script" and not dict(attrs).get("src")):
            self.inline.append(tag)


def test_the_page_needs_nothing_but_its_own_files() -> None:
    references = References()
    references.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    assert references.inline == []
    files = [target for target in references.targets if not target.startswith("#")]
    assert all((PAGE / file.removeprefix("/static/")).is_file() for file in files), files
    for script in PAGE.glob("*.js"):
        text = script.read_text(encoding="utf-8")
        imported = re.findall(r'from "([^"]+)"', text)
        assert all((PAGE / file).is_file() for file in imported)
        assert "innerHTML" not in text
