"""The JSON calls that play the people: scan a code, confirm it, write to the bot. For tests and the phone page."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from wxsup.sandbox.codes import Code, Unfit, Unknown
from wxsup.sandbox.phones import Message
from wxsup.sandbox.server import BadRequest, Forbidden, NotFound, Request, Routes
from wxsup.sandbox.world import World

MOST_BODY = 64 * 1024
MOST_WAIT = 300.0
MOST_MESSAGES = 10**9
EXPIRED, BLOCKED = "expired", "verify_code_blocked"

Reply = dict[str, object]
Number = TypeVar("Number", int, float)


class Control:
    """The calls under /sandbox/."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> Routes:
        """Return what is answered where."""
        calls: dict[tuple[str, str], Callable[[Request], Reply]] = {
            ("GET", "codes"): self.codes,
            ("GET", "chat"): self.chat,
            ("GET", "accounts"): self.accounts,
            ("POST", "scan"): self.scan,
            ("POST", "confirm"): self.confirm,
            ("POST", "ignore"): self.expire,
            ("POST", "expire"): self.expire,
            ("POST", "block"): self.block,
            ("POST", "redirect"): self.redirect,
            ("POST", "status"): self.status,
            ("POST", "say"): self.say,
            ("POST", "drop"): self.drop,
        }
        return {(method, f"/sandbox/{name}"): _sentences(call) for (method, name), call in calls.items()}

    def codes(self, request: Request) -> Reply:
        """List the login codes, newest last."""
        _fields(request.query)
        return {"codes": [_code(request, code) for code in self._world.codes.all()]}

    def chat(self, request: Request) -> Reply:
        """List what was said to and by a user; with `wait` held until there is something."""
        fields = _fields(request.query, {"user": str}, {"after": str, "wait": str})
        after = _number(fields, "after", int, MOST_MESSAGES)
        wait = _number(fields, "wait", float, MOST_WAIT)
        messages = self._world.chat(fields["user"], after, hold=wait, glance=request.glance)
        return {"messages": [_message(message) for message in messages]}

    def accounts(self, request: Request) -> Reply:
        """List each user's newest binding."""
        _fields(request.query)
        return {"accounts": [dataclasses.asdict(account) for account in self._world.accounts()]}

    def scan(self, request: Request) -> Reply:
        """Point a user's phone at a code, or at the address that its QR picture holds."""
        fields = _fields(_body(request), {"user": str}, {"key": str, "url": str, "digits": bool})
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
        fields = _fields(_body(request), {"key": str, "status": str})
        return {"status": self._world.codes.set_status(fields["key"], fields["status"]).status}

    def say(self, request: Request) -> Reply:
        """Write to the user's bot."""
        fields = _fields(_body(request), {"user": str, "text": str})
        if not fields["text"]:
            raise BadRequest("text is empty")
        return {"message_id": str(self._world.say(fields["user"], fields["text"]).message_id)}

    def drop(self, request: Request) -> Reply:
        """Let the token of the user's bot die."""
        fields = _fields(_body(request), {"user": str})
        return {"bot_id": self._world.drop(fields["user"]).bot_id}


def _sentences(call: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
    """Turn what the world refuses into what HTTP says."""

    @functools.wraps(call)
    def answer(request: Request) -> Reply:
        try:
            return call(request)
        except Unknown as ex:
            raise NotFound(str(ex)) from ex
        except Unfit as ex:
            raise BadRequest(str(ex)) from ex

    return answer


def _body(request: Request) -> dict[str, Any]:
    """Return the body, unless a page of somebody else's made the browser send it (Fetch Metadata, CORS preflight)."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Forbidden("another site may not do that")
    if request.headers.get_content_type() != "application/json":
        raise BadRequest("the Content-Type must be application/json")
    if len(request.body) > MOST_BODY:
        raise BadRequest(f"the body is larger than {MOST_BODY} bytes")
    return request.json()


def _fields(
    given: Mapping[str, Any], needed: Mapping[str, type] | None = None, optional: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """Return the fields when they are what a call takes, and nothing else."""
    needed = needed or {}
    kinds = {**needed, **(optional or {})}
    for name in needed:
        if name not in given:
            raise BadRequest(f"{name} is missing")
    for name, value in given.items():
        if name not in kinds:
            raise BadRequest(f"{name} is no field of this call")
        if not isinstance(value, kinds[name]):
            raise BadRequest(f"{name} is not a {'text' if kinds[name] is str else 'boolean'}")
    return dict(given)


def _number(fields: Mapping[str, str], name: str, kind: Callable[[str], Number], most: Number) -> Number:
    try:
        number = kind(fields.get(name, "0"))
    except ValueError:
        number = kind("-1")
    if not kind("0") <= number <= most:
        raise BadRequest(f"{name} is not a number from 0 to {most}")
    return number


def _key(request: Request) -> str:
    """Return the one field of the calls that take a code and nothing else."""
    key: str = _fields(_body(request), {"key": str})["key"]
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


def _message(message: Message) -> Reply:
    return {
        "n": message.number,
        "direction": message.direction,
        "text": message.text,
        "message_id": str(message.message_id),
        "client_id": message.client_id,
        "time": message.time_ms // 1000,
    }
