"""The phone page in a real browser: scan, digits, confirm, and a chat both ways, media included."""

from __future__ import annotations

import base64
import functools
import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from PIL import Image
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

    def in_view(self, selector: str) -> bool:
        """Wait until the end of what `selector` finds is not scrolled away in the chat."""
        script = """
            const [line, chat] = [document.querySelector(arguments[0]), document.querySelector("#chat")]
                .map((each) => each.getBoundingClientRect());
            return chat.top < line.bottom && line.bottom <= chat.bottom + 1;
        """
        return self.until(lambda browser: bool(browser.execute_script(script, selector)))

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
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, content, headers)
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


def login(url: str, user: str) -> Any:
    """Scan and confirm a code as `user`."""
    key = new_code(url)["qrcode"]
    call(url, "/sandbox/scan", {"key": key, "user": user})
    call(url, "/sandbox/confirm", {"key": key})
    return status(url, key)


def text_at(address: str) -> str:
    with urlopen(address, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def picture(path: Path) -> Path:
    """Draw something that is surely 60 pixels wide."""
    Image.new("RGB", (60, 240), "#07c160").save(path)
    return path


def test_pictures_and_files_both_ways(browser: webdriver.Chrome, sandbox: Sandbox, tmp_path: Path) -> None:
    user = login(sandbox.url, "media")
    bot = functools.partial(call, sandbox.url, token=user["bot_token"])
    page = Page(browser, sandbox.url)
    page.be("media")
    page.seen("#attach")
    chosen = browser.find_element(By.ID, "file")
    chosen.send_keys(str(picture(tmp_path / "green.png")))
    page.bubbles(1)
    report = tmp_path / "<b>报告.txt"
    report.write_text("hello")
    chosen.send_keys(str(report))
    page.bubbles(2)
    first, second = bot("/ilink/bot/getupdates", {"get_updates_buf": ""})["msgs"]
    assert first["item_list"][0]["image_item"]["aeskey"]
    assert second["item_list"][0]["file_item"]["file_name"] == report.name

    # The bot sends back what it got, with the keys as a bot writes them.
    key = first["item_list"][0]["image_item"]["aeskey"]
    found = first["item_list"][0]["image_item"]["media"]["encrypt_query_param"]
    image = {"encrypt_query_param": found, "aes_key": base64.b64encode(key.encode()).decode()}
    items: list[dict[str, Any]] = [
        second["item_list"][0],
        {"type": 4, "file_item": {"media": {**image, "aes_key": "?"}, "file_name": "<i>broken</i>"}},
        {"type": 3, "voice_item": {"media": image}},
        {"type": 2, "image_item": {"media": image}},
    ]
    for item in items:
        answer = {"to_user_id": user["ilink_user_id"], "context_token": first["context_token"], "item_list": [item]}
        assert "message_id" in bot("/ilink/bot/sendmessage", {"msg": answer})
    sides = [side for side, _ in page.bubbles(6)]
    assert sides == ["to_bot"] * 2 + ["to_user"] * 4
    page.until(lambda browser: len(browser.find_elements(By.CSS_SELECTOR, "#chat li img")) == 2)
    for shown in browser.find_elements(By.CSS_SELECTOR, "#chat li img"):
        assert (shown.get_property("naturalWidth"), shown.get_property("naturalHeight")) == (60, 240)
    assert page.in_view("#chat li:last-child"), "also after pictures have taken their place"
    texts = [text for _, text in page.bubbles(6)]
    assert texts[1] == texts[2] == f"{report.name}\nFile · 5 B"
    assert texts[3] == "File: <i>broken</i>\naes_key is not the base64 of 32 hex digits"
    links = browser.find_elements(By.CSS_SELECTOR, "#chat li a:not(:has(img))")
    assert [link.get_attribute("download") for link in links] == [report.name, report.name, "voice.silk"]
    address = str(links[1].get_property("href"))
    assert text_at(address) == "hello"


def test_no_picture_and_no_small_file(browser: webdriver.Chrome, sandbox: Sandbox, tmp_path: Path) -> None:
    login(sandbox.url, "odd")
    page = Page(browser, sandbox.url)
    page.be("odd")
    page.seen("#attach")
    fake = tmp_path / "fake.png"
    fake.write_text("<script>alert(1)</script>")
    chosen = browser.find_element(By.ID, "file")
    chosen.send_keys(str(fake))
    assert page.bubbles(1) == [("to_bot", "fake.png")]
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(25 * 1024 * 1024 + 1)
    chosen.send_keys(str(tmp_path / "large.bin"))
    assert page.seen("#error").text == "This file is larger than 25 MiB."
    (tmp_path / "empty").touch()
    chosen.send_keys(str(tmp_path / "empty"))
    assert page.bubbles(2)[1] == ("to_bot", "empty\nFile · 0 B")
    page.until(lambda browser: not browser.find_element(By.ID, "error").is_displayed())


def test_the_bot_is_seen_typing(browser: webdriver.Chrome, sandbox: Sandbox) -> None:
    user = login(sandbox.url, "typing")
    bot = functools.partial(call, sandbox.url, token=user["bot_token"])
    call(sandbox.url, "/sandbox/say", {"user": "typing", "text": "hello"})
    page = Page(browser, sandbox.url)
    page.be("typing")
    page.bubbles(1)
    assert not browser.find_element(By.ID, "typing").is_displayed()
    who = {"ilink_user_id": user["ilink_user_id"]}
    who["typing_ticket"] = bot("/ilink/bot/getconfig", who)["typing_ticket"]
    assert bot("/ilink/bot/sendtyping", {**who, "status": 1}) == {"ret": 0}
    assert page.seen("#typing").text == "The bot is typing …"
    assert bot("/ilink/bot/sendtyping", {**who, "status": 2}) == {"ret": 0}
    page.until(lambda browser: not browser.find_element(By.ID, "typing").is_displayed())
