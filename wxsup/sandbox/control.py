"""The JSON calls that play the people: scan a code, confirm it, write to the bot. For tests and the phone page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from wxsup.sandbox import album, media
from wxsup.sandbox.album import MOST_JSON
from wxsup.sandbox.cdn import CDN
from wxsup.sandbox.codes import Code
from wxsup.sandbox.fields import MOST_BODY, Reply, body_of, checked, in_sentences, number_in, one_of
from wxsup.sandbox.ilink import DEAD
from wxsup.sandbox.phones import Message
from wxsup.sandbox.server import Answer, BadRequest, NotFound, Page, Request, Routes
from wxsup.sandbox.world import World

MOST_WAIT = 300.0
MOST_MESSAGES = 10**9
EXPIRED, BLOCKED = "expired", "verify_code_blocked"


class Control:
    """The calls under /sandbox/."""

    def __init__(self, world: World, cdn: CDN) -> None:
        self._world = world
        self._cdn = cdn

    def routes(self) -> Routes:
        """Return what is answered where."""
        calls: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "codes"): self.codes,
            ("GET", "chat"): self.chat,
            ("GET", "media"): self.media,
            ("GET", "accounts"): self.accounts,
            ("POST", "scan"): self.scan,
            ("POST", "confirm"): self.confirm,
            ("POST", "ignore"): self.expire,
            ("POST", "expire"): self.expire,
            ("POST", "block"): self.block,
            ("POST", "redirect"): self.redirect,
            ("POST", "status"): self.status,
            ("POST", "say"): self.say,
            ("POST", "say_again"): self.say_again,
            ("POST", "drop"): self.drop,
        }
        return {(method, f"/sandbox/{name}"): in_sentences(call) for (method, name), call in calls.items()}

    def codes(self, request: Request) -> Reply:
        """List the login codes, newest last."""
        checked(request.query)
        return {"codes": [_code(request, code) for code in self._world.codes.all()]}

    def chat(self, request: Request) -> Reply:
        """List what was said to and by a user; with `wait` held until there is something."""
        fields = checked(request.query, {"user": str}, {"after": str, "wait": str})
        after = number_in(fields, "after", int, MOST_MESSAGES)
        wait = number_in(fields, "wait", float, MOST_WAIT)
        messages = self._world.chat(fields["user"], after, hold=wait, glance=request.glance)
        return {"messages": [_message(request, fields["user"], message) for message in messages]}

    def media(self, request: Request) -> Page:
        """Return the bytes of a message's media, decrypted."""
        fields = checked(request.query, {"user": str, "n": str})
        shown = self._world.message(fields["user"], number_in(fields, "n", int, MOST_MESSAGES)).media
        if shown is None:
            raise NotFound("this message holds no media")
        return album.page(shown, media.content(shown, self._cdn.get))

    def accounts(self, request: Request) -> Reply:
        """List each user's newest binding."""
        checked(request.query)
        return {"accounts": [dataclasses.asdict(account) for account in self._world.accounts()]}

    def scan(self, request: Request) -> Reply:
        """Point a user's phone at a code, or at the address that its QR picture holds."""
        fields = checked(body_of(request), {"user": str}, {"key": str, "url": str, "digits": bool})
        if ("key" in fields) == ("url" in fields):
            raise BadRequest("either key or url is needed")
        key = fields["key"] if "key" in fields else _key_of(fields["url"])
        code = self._world.codes.scan(key, fields["user"], digits=fields.get("digits", False))
        return {"status": code.status, "digits": code.digits} if code.digits else {"status": code.status}

    def confirm(self, request: Request) -> Reply:
        """Agree to the login on the phone."""
        return {"status": self._world.confirm(_key(request)).status}

    def expire(self, request: Request) -> Reply:
        """Let a code grow old, or its user look away."""
        return {"status": self._world.codes.end(_key(request), EXPIRED).status}

    def block(self, request: Request) -> Reply:
        """Declare that there were too many wrong digits."""
        return {"status": self._world.codes.end(_key(request), BLOCKED).status}

    def redirect(self, request: Request) -> Reply:
        """Move a code to the other data centre."""
        return {"status": self._world.codes.redirect(_key(request)).status}

    def status(self, request: Request) -> Reply:
        """Give a code any status."""
        fields = checked(body_of(request), {"key": str, "status": str})
        return {"status": self._world.codes.set_status(fields["key"], fields["status"]).status}

    def say(self, request: Request) -> Reply:
        """Write to the user's bot; `message` holds fields that the bot gets in place of ordinary ones (7.1)."""
        fields = checked(body_of(request, MOST_JSON), {"user": str}, {"text": str, "media": dict, "message": dict})
        user, text, shown = fields["user"], fields.get("text", ""), None
        if ("media" in fields) == ("text" in fields):
            raise BadRequest("either text or media is needed")
        if "media" in fields:
            shot = album.shot_of(fields["media"])
            self._world.check_user(user)  # before anything is kept
            shown = shot.put(lambda content: self._cdn.put(content, user))
        elif not text:
            raise BadRequest("text is empty")
        elif len(request.body) > MOST_BODY:
            raise BadRequest(f"a body without media is larger than {MOST_BODY} bytes")
        return _said(self._world.say(user, text, fields.get("message"), shown))

    def say_again(self, request: Request) -> Reply:
        """Let the bot get a message once more."""
        fields = checked(body_of(request), {"user": str, "n": int})
        return _said(self._world.say_again(fields["user"], fields["n"]))

    def drop(self, request: Request) -> Reply:
        """Let the token of the user's bot die."""
        fields = checked(body_of(request), {"user": str}, {"death": str})
        return {"bot_id": self._world.drop(fields["user"], one_of(fields, "death", DEAD)).bot_id}


def _key(request: Request) -> str:
    """Return the one field of the calls that take a code and nothing else."""
    key: str = checked(body_of(request), {"key": str})["key"]
    return key


def _key_of(url: str) -> str:
    """Return the key that a QR picture's address carries."""
    try:
        return parse_qs(urlsplit(url).query)["code"][0]
    except (ValueError, KeyError) as ex:
        raise BadRequest("url is not the content of a login code") from ex


def _code(request: Request, code: Code) -> Reply:
    url = f"{request.url}/phone?code={code.key}"
    return {"key": code.key, "url": url, "status": code.status, "created": code.created, "user": code.user}


def _said(message: Message) -> Reply:
    return {"message_id": message.shown_id, "n": message.number}


def _message(request: Request, user: str, message: Message) -> Reply:
    shown = {"media": album.entry(request, user, message, message.media)} if message.media else {}
    return {
        "n": message.number,
        "direction": message.direction,
        "text": message.text,
        "message_id": message.shown_id,
        "client_id": message.client_id,
        "time": message.time_ms // 1000,
        **shown,
    }
