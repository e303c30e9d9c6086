"""The sandbox judged by clients that are not ours: SDKs for iLink from PyPI, as they come."""

from __future__ import annotations

import base64
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, Protocol

import openilink
import pytest
import requests
import weilink
from weilink import _cdn, _protocol

from tests.account import People
from tests.deadline import eventually
from wxsup.sandbox.app import Sandbox

HOLD = 0.5


class Sdk(Protocol):
    """What an SDK is asked for here."""

    received: list[str]
    lost: threading.Event  # the server has said that the token is dead

    def log_in(self) -> str:
        """Show a code, wait until it is confirmed, and return the id of the bot."""

    def receive(self) -> None:
        """Receive until stopped, or until the login is lost."""

    def answer(self, text: str) -> None:
        """Write to who wrote last."""

    def stop(self) -> None:
        """Receive no more."""


class Openilink:
    """openilink-sdk-python, which can be told the address of its server."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: list[str] = []
        self.lost = threading.Event()
        self._url = url
        self._partner = ""
        self._client = openilink.Client(base_url=url)

    def log_in(self) -> str:
        self._client = openilink.Client(base_url=self._url)
        result = self._client.login_with_qr(timeout=30)
        assert result.connected, result.message
        return str(result.bot_id)

    def receive(self) -> None:
        options = openilink.MonitorOptions(on_session_expired=self._lose)
        self._client.monitor(self._take, options)

    def answer(self, text: str) -> None:
        self._client.push(self._partner, text)

    def stop(self) -> None:
        self._client.stop()

    def _take(self, message: openilink.WeixinMessage) -> None:
        self._partner = message.from_user_id
        self.received.append(openilink.extract_text(message))

    def _lose(self) -> None:
        self.lost.set()
        self._client.stop()  # else it would wait for five minutes and try the same token


class Weilink:
    """weilink, which takes the code from WeChat's own server unless its calls for that are given another address."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: list[str] = []
        self.lost = threading.Event()
        self._partner = ""
        self._stopped = False
        self.client = weilink.WeiLink(base_path=folder)
        for name in ("get_qr_code", "poll_qr_status"):
            monkeypatch.setattr(_protocol, name, functools.partial(getattr(_protocol, name), base_url=url))

    def log_in(self) -> str:
        return self.client.login(force=True).bot_id

    def receive(self) -> None:
        while not self._stopped:
            try:
                messages = self.client.recv(timeout=30)
            except _protocol.SessionExpiredError:
                self.lost.set()
                return
            except IncompleteRead:  # which it leaves to its caller
                continue
            for message in messages:
                self._partner = message.from_user
                self.received.append(message.text or "")

    def answer(self, text: str) -> None:
        assert self.client.send(self._partner, text).success

    def stop(self) -> None:
        self._stopped = True
        self.client.close()


KINDS = ("image", "voice", "file", "video")
SDKS: dict[str, Callable[[str, Path, pytest.MonkeyPatch], Sdk]] = {"openilink": Openilink, "weilink": Weilink}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(hold=HOLD) as sandbox:
        yield sandbox


@pytest.fixture
def people(sandbox: Sandbox) -> People:
    return People(sandbox)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture(params=SDKS)
def sdk(
    request: pytest.FixtureRequest,
    sandbox: Sandbox,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Sdk]:
    sdk = SDKS[request.param](sandbox.url, tmp_path, monkeypatch)
    yield sdk
    sdk.stop()


def log_in(sdk: Sdk, people: People, pool: ThreadPoolExecutor) -> Future[None]:
    """Log in by a scan and begin to receive."""
    before = len(people.codes())
    login = pool.submit(sdk.log_in)
    people.login("alice", before)
    (account,) = people.sandbox.world.accounts()
    assert login.result(20) == account.bot_id
    return pool.submit(sdk.receive)


def test_it_logs_in_receives_and_answers(sdk: Sdk, people: People, pool: ThreadPoolExecutor) -> None:
    receiving = log_in(sdk, people, pool)
    texts = ["你好 😀", "second\nline", "<b>&amp;"]
    for text in texts:
        people.say("alice", text)
    eventually(lambda: sdk.received == texts)
    sdk.answer("收到 😀")
    assert people.read("alice") == ["收到 😀"]
    for number in range(3):
        people.say("alice", str(number))
        eventually(lambda number=number: sdk.received[-1] == str(number))  # type: ignore[misc]
    assert people.pollers("alice")[1] == 1
    sdk.stop()
    receiving.result(20)


@pytest.mark.parametrize("death", ["errcode", "both"])
def test_it_sees_that_its_token_is_dead_and_logs_in_again(
    sdk: Sdk, people: People, pool: ThreadPoolExecutor, death: str
) -> None:
    receiving = log_in(sdk, people, pool)
    people.say("alice", "before")
    eventually(lambda: sdk.received == ["before"])
    people.sandbox.world.drop("alice", death)
    receiving.result(20)
    assert sdk.lost.is_set()
    log_in(sdk, people, pool)
    people.say("alice", "之后")
    eventually(lambda: sdk.received == ["before", "之后"])
    sdk.answer("here again")
    assert people.read("alice") == ["here again"]


def test_messages_whose_answer_was_cut_off_come_again(
    sdk: Sdk, sandbox: Sandbox, people: People, pool: ThreadPoolExecutor
) -> None:
    cut = {"call": "getupdates", "close": "middle", "effect": True, "times": 2}
    assert requests.post(f"{sandbox.url}/sandbox/misbehave", json=cut, timeout=20).ok
    log_in(sdk, people, pool)
    people.say("alice", "once")
    eventually(lambda: sdk.received == ["once"])


@pytest.mark.parametrize("full_urls", [True, False])
def test_weilink_gets_and_sends_media_and_types(
    sandbox: Sandbox,
    people: People,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_urls: bool,
) -> None:
    monkeypatch.setattr(_cdn, "CDN_BASE", f"{sandbox.url}/c2c")
    post = functools.partial(requests.post, timeout=20)
    assert post(f"{sandbox.url}/sandbox/cdn", json={"full_urls": full_urls}).ok
    sdk = Weilink(sandbox.url, tmp_path, monkeypatch)
    login = pool.submit(sdk.log_in)
    people.login("alice")
    login.result(20)
    received = []
    for number, kind in enumerate(KINDS):
        data = base64.b64encode(f"{kind} 你好".encode()).decode()
        body = {"user": "alice", "media": {"kind": kind, "name": f"{number}.bin", "data": data}}
        assert post(f"{sandbox.url}/sandbox/say", json=body).ok
        (message,) = eventually(lambda: sdk.client.recv(timeout=5))
        received.append((message.msg_type.name.lower(), sdk.client.download(message).decode()))
        partner = message.from_user
    assert received == [(kind, f"{kind} 你好") for kind in KINDS]

    sdk.client.send_typing(partner)
    assert sandbox.world.accounts()[0].typing
    for kind in KINDS:
        sent: dict[str, Any] = {kind: f"{kind} 收到".encode(), **({"file_name": "报告.pdf"} if kind == "file" else {})}
        assert sdk.client.send(partner, **sent).success
    assert not sandbox.world.accounts()[0].typing
    shown = requests.get(f"{sandbox.url}/sandbox/chat?user=alice&after={len(KINDS)}", timeout=20).json()["messages"]
    media = [message["media"] for message in shown]
    assert [(each["kind"], requests.get(each["url"], timeout=20).text) for each in media] == [
        (kind, f"{kind} 收到") for kind in KINDS
    ]
    assert [each["name"] for each in media if each["kind"] == "file"] == ["报告.pdf"]
    sdk.stop()
