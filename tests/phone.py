"""A phone and a bot over real HTTP, as simple as can be, for tests of the sandbox."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from wxsup.sandbox.app import Sandbox

PATIENCE = 20.0
DEAD = {"errcode": -14, "errmsg": "session timeout"}


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1_789_012_345.0

    def __call__(self) -> float:
        return self.now


def ask(url: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
    """Make one call that must succeed and return its JSON, in which there is never a null [2.3]."""
    status, answer = answered(url, method, path, body, headers)
    assert status == 200, answer
    assert "null" not in json.dumps(answer)
    return answer


def answered(
    url: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
        assert reply.getheader("Content-Length") == str(len(text))
        assert str(reply.getheader("Content-Type")).startswith("application/json")
        return reply.status, json.loads(text)
    finally:
        connection.close()


@dataclass
class Bot:
    """A logged-in client, as simple as can be."""

    url: str
    login: dict[str, str]
    cursor: str = ""
    extra: dict[str, object] = field(default_factory=dict)

    def call(self, name: str, **body: object) -> Any:
        headers = {"AuthorizationType": "ilink_bot_token", "Authorization": f"Bearer {self.login['bot_token']}"}
        return ask(self.url, "POST", f"/ilink/bot/{name}", {**body, "base_info": {}}, headers)

    def poll(self, cursor: str | None = None) -> Any:
        return self.call("getupdates", get_updates_buf=self.cursor if cursor is None else cursor)

    def texts(self, cursor: str | None = None) -> list[str]:
        return [text_of(message) for message in self.poll(cursor)["msgs"]]

    def send(self, text: str, context_token: str | None, **more: object) -> Any:
        item = {"type": 1, "text_item": {"text": text}}
        msg = {
            "from_user_id": "",
            "to_user_id": self.login["ilink_user_id"],
            "client_id": f"test-{text}",
            "message_type": 2,
            "message_state": 2,
            "item_list": [item],
            **({} if context_token is None else {"context_token": context_token}),
            **more,
        }
        return self.call("sendmessage", msg=msg)


def text_of(message: dict[str, Any]) -> str:
    text: str = message["item_list"][0]["text_item"]["text"]
    return text


class Phone:
    """What a test does as the people."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.url = sandbox.url

    def do(self, name: str, **body: object) -> Any:
        return ask(self.url, "POST", f"/sandbox/{name}", body)

    def code(self, *local_tokens: str) -> str:
        body = {"local_token_list": list(local_tokens)}
        key: str = ask(self.url, "POST", "/ilink/bot/get_bot_qrcode?bot_type=3", body)["qrcode"]
        return key

    def status(self, key: str, digits: str = "", url: str = "") -> Any:
        typed = f"&verify_code={digits}" if digits else ""
        return ask(url or self.url, "GET", f"/ilink/bot/get_qrcode_status?qrcode={quote(key)}{typed}")

    def login(self, user: str = "alice") -> Bot:
        key = self.code()
        self.do("scan", key=key, user=user)
        self.do("confirm", key=key)
        return Bot(self.url, self.status(key))

    def say(self, text: str, user: str = "alice") -> str:
        message_id: str = self.do("say", user=user, text=text)["message_id"]
        return message_id

    def chat(self, query: str = "user=alice") -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = ask(self.url, "GET", f"/sandbox/chat?{query}")["messages"]
        return messages

    def account(self, user: str = "alice") -> dict[str, Any]:
        accounts = ask(self.url, "GET", "/sandbox/accounts")["accounts"]
        found: dict[str, Any] = next(account for account in accounts if account["user"] == user)
        return found


def heard(phone: Phone, bot: Bot) -> str:
    """Let the user speak and return the context token that comes with it."""
    phone.say("hello")
    answer = bot.poll()
    bot.cursor = answer["get_updates_buf"]
    context: str = answer["msgs"][0]["context_token"]
    return context
