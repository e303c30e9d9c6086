"""The phone page in a real browser: scan, digits, confirm, and a chat both ways."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from wxsup.sandbox.app import Sandbox

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 30.0

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")

T = TypeVar("T")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(hold=PATIENCE) as sandbox:
        yield sandbox


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--lang=en",
        "--window-size=480,840",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    try:
        yield browser
        assert complaints(browser) == [], "the page runs without a complaint"
    finally:
        browser.quit()


def complaints(browser: webdriver.Chrome) -> list[str]:
    """Return what the browser's console says since it was asked last."""
    return [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]


class Page:
    """The phone page as a person sees it."""

    def __init__(self, browser: WebDriver, url: str) -> None:
        self._browser = browser
        browser.get(url)

    def until(self, question: Callable[[WebDriver], T]) -> T:
        wait = WebDriverWait(self._browser, PATIENCE, 0.05, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(question)

    def seen(self, selector: str) -> WebElement:
        """Wait for what `selector` finds to be visible."""

        def shown(browser: WebDriver) -> WebElement | None:
            return next(
                (each for each in browser.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()), None
            )

        found = self.until(shown)
        assert found
        return found

    def be(self, user: str) -> None:
        box = self.seen("#user")
        box.clear()
        box.send_keys(user)

    def click(self, selector: str) -> None:
        self.seen(selector).click()

    def bubbles(self, count: int) -> list[tuple[str | None, str]]:
        """Wait for `count` bubbles in the chat."""

        def shown(browser: WebDriver) -> list[tuple[str | None, str]] | None:
            lines = browser.find_elements(By.CSS_SELECTOR, "#chat li")
            return (
                [(each.get_attribute("data-direction"), each.text) for each in lines] if len(lines) == count else None
            )

        bubbles = self.until(shown)
        assert bubbles
        return bubbles


def call(url: str, path: str, body: dict[str, Any] | None = None, token: str = "") -> Any:
    """Make a call as a bot: POST with a body, GET without."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE + 10)
    try:
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, {"Authorization": f"Bearer {token}"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def status(url: str, key: str, digits: str = "") -> Any:
    return call(url, f"/ilink/bot/get_qrcode_status?qrcode={key}&verify_code={digits}")


def new_code(url: str) -> Any:
    return call(url, "/ilink/bot/get_bot_qrcode?bot_type=3", {"local_token_list": []})


def test_scan_confirm_and_chat(browser: webdriver.Chrome, sandbox: Sandbox) -> None:
    page = Page(browser, sandbox.url)
    assert page.seen("#idle").text == "No code waits for a scan."
    page.be("张三")
    key = new_code(sandbox.url)["qrcode"]
    code = f"[data-code='{key}']"
    page.click(f"{code} [data-do=scan]")
    assert status(sandbox.url, key)["status"] == "scaned"
    page.click(f"{code} [data-do=confirm]")
    login = status(sandbox.url, key)
    assert login["status"] == "confirmed"

    page.seen("#text").send_keys("<b>hello</b> 你好")
    page.click("#send")
    (message,) = call(sandbox.url, "/ilink/bot/getupdates", {"get_updates_buf": ""}, login["bot_token"])["msgs"]
    assert message["item_list"][0]["text_item"]["text"] == "<b>hello</b> 你好"
    assert page.bubbles(1) == [("to_bot", "<b>hello</b> 你好")]

    answer = {
        "to_user_id": login["ilink_user_id"],
        "context_token": message["context_token"],
        "item_list": [{"type": 1, "text_item": {"text": "<img src=x onerror=alert(1)>\nline two"}}],
    }
    assert "message_id" in call(sandbox.url, "/ilink/bot/sendmessage", {"msg": answer}, login["bot_token"])
    assert page.bubbles(2)[1] == ("to_user", "<img src=x onerror=alert(1)>\nline two")

    page.be("somebody else")
    page.until(lambda browser: not browser.find_element(By.ID, "talk").is_displayed())
    page.until(lambda browser: not browser.find_elements(By.CSS_SELECTOR, "#chat li"))


def test_digits_of_the_code_in_the_address(browser: webdriver.Chrome, sandbox: Sandbox) -> None:
    other, mine = new_code(sandbox.url), new_code(sandbox.url)
    page = Page(browser, mine["qrcode_img_content"])
    page.be("bob")
    page.click("[data-demand]")
    page.click("[data-do=scan]")
    digits = page.seen("[data-digits]").text
    assert status(sandbox.url, mine["qrcode"])["status"] == "need_verifycode"
    assert not browser.find_elements(By.CSS_SELECTOR, f"[data-code='{other['qrcode']}']")
    assert status(sandbox.url, mine["qrcode"], digits)["status"] == "scaned"
    page.click("[data-do=confirm]")
    assert status(sandbox.url, mine["qrcode"])["status"] == "confirmed"
    page.seen("[data-status=confirmed]")
    page.seen("#text")


def test_ignore_ends_the_held_poll(browser: webdriver.Chrome, sandbox: Sandbox) -> None:
    code = new_code(sandbox.url)
    page = Page(browser, code["qrcode_img_content"])
    page.click("[data-do=scan]")
    assert status(sandbox.url, code["qrcode"])["status"] == "scaned"
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(status, sandbox.url, code["qrcode"])
        page.click("[data-do=ignore]")
        assert poll.result(PATIENCE)["status"] == "expired"
    page.seen("[data-status=expired]")


def test_both_languages(browser: webdriver.Chrome, sandbox: Sandbox) -> None:
    page = Page(browser, sandbox.url)
    assert page.seen("h1").text == "Pretend WeChat"
    page.click("#language")
    assert page.seen("h1").text == "模拟微信"
    browser.refresh()
    assert page.seen("h1").text == "模拟微信"
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "zh-CN"


def test_what_the_sandbox_refuses_is_shown(browser: webdriver.Chrome, sandbox: Sandbox) -> None:
    code = new_code(sandbox.url)
    page = Page(browser, code["qrcode_img_content"])
    page.seen("#user").clear()
    page.click("[data-do=scan]")
    assert page.seen("#error").text == "a user is 1 to 64 printable characters"
    (complaint,) = complaints(browser)
    assert "400" in complaint, "the browser reports the status by itself"
