"""The iLink bot API over a World, to the letter of ilink-protocol.md (its sections are named in brackets)."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wxsup.sandbox import phones
from wxsup.sandbox.codes import Unfit, Unknown
from wxsup.sandbox.faults import Faults, overlaid
from wxsup.sandbox.journal import Journal
from wxsup.sandbox.phones import Message
from wxsup.sandbox.server import Answer, BadRequest, Request, Routes
from wxsup.sandbox.world import DeadToken, SendRefused, Updates, World

BOT_TYPE = "3"
SLACK = 10.0  # a client whose limit is our hold itself drops every answer that comes at its end (5.2)

TEXT_ITEM = 1
LABELS = {2: "[image]", 3: "[voice]", 4: "[file]", 5: "[video]"}  # what the phone's chat shows of other items
FINISHED = 2

#: How -14 is said; the field has seen errcode alone (6), and there are clients that look elsewhere (15).
DEAD = {"errcode": {"errcode": -14}, "ret": {"ret": -14}, "both": {"ret": -14, "errcode": -14}}

#: The calls by the last part of their path [1].
CALLS = (
    "get_bot_qrcode",
    "get_qrcode_status",
    "getupdates",
    "sendmessage",
    "getconfig",
    "sendtyping",
    "notifystart",
    "notifystop",
)

Body = dict[str, Any]
Reply = dict[str, object]


@dataclass
class Hold:
    """How long a call without news is held, in seconds; it can be changed at any time."""

    seconds: float


class ILink:
    """The calls of one server; one with a `redirect_port` sends redirected logins there."""

    def __init__(
        self, world: World, faults: Faults, journal: Journal, hold: Hold, *, redirect_port: int | None = None
    ) -> None:
        self._world = world
        self._faults = faults
        self._journal = journal
        self._hold = hold
        self._redirect_port = redirect_port

    def routes(self) -> Routes:
        """Return what is answered where [1]; media calls are not there yet."""
        calls: dict[tuple[str, str], Callable[[Request], Reply]] = {
            ("POST", "get_bot_qrcode"): self.get_bot_qrcode,
            ("GET", "get_bot_qrcode"): self.get_bot_qrcode,
            ("GET", "get_qrcode_status"): self.get_qrcode_status,
            ("POST", "getupdates"): self._bearer(self.getupdates),
            ("POST", "sendmessage"): self._bearer(self.sendmessage),
            ("POST", "getconfig"): self._bearer(self.getconfig),
            ("POST", "sendtyping"): self._bearer(self.sendtyping),
            ("POST", "msg/notifystart"): self._bearer(self.notify),
            ("POST", "msg/notifystop"): self._bearer(self.notify),
        }
        return {(method, f"/ilink/bot/{path}"): self._watched(path, call) for (method, path), call in calls.items()}

    def get_bot_qrcode(self, request: Request) -> Reply:
        """Hand out a login code; asked by GET there is no body and so no local_token_list [3.1, 15]."""
        if request.query.get("bot_type") != BOT_TYPE:
            return {"ret": 2, "errmsg": "invalid bot_type"}
        tokens = _list(request.json(), "local_token_list")
        if not all(isinstance(token, str) for token in tokens):
            raise BadRequest("local_token_list is not a list of texts")
        key = self._world.codes.new(tokens).key
        return {"ret": 0, "qrcode": key, "qrcode_img_content": f"{request.url}/phone?code={key}"}

    def get_qrcode_status(self, request: Request) -> Reply:
        """Tell what became of a code, held while there is nothing new to tell [3.2]."""
        key, digits = request.query.get("qrcode", ""), request.query.get("verify_code", "")
        redirecting, hold = self._redirect_port is not None, self._hold.seconds
        try:
            code = self._world.codes.poll(key, digits, redirecting=redirecting, hold=hold, glance=request.glance)
        except Unknown:
            return {"ret": 0, "status": "expired"}
        reply: Reply = {"ret": 0, "status": code.status}
        if redirecting and code.redirected:
            host = re.sub(r":[0-9]+$", "", request.authority)
            reply["redirect_host"] = f"{host}:{self._redirect_port}"
        if code.status == "confirmed" and code.credentials:
            reply["bot_token"] = code.credentials.token
            reply["ilink_bot_id"] = code.credentials.bot_id
            reply["ilink_user_id"] = code.credentials.user_id
            reply["baseurl"] = request.url
        return reply

    def getupdates(self, request: Request, token: str, body: Body) -> Reply:
        """Return what the user wrote since the cursor, held while there is nothing [5]."""
        cursor = _text(body, "get_updates_buf")
        try:
            updates = self._world.updates(token, cursor, hold=self._hold.seconds, glance=request.glance)
        except Unfit as ex:
            return {"ret": -1, "errmsg": str(ex)}
        return {
            "ret": 0,
            "msgs": [_inbound(updates, message) for message in updates.messages],
            "get_updates_buf": updates.cursor,
            "longpolling_timeout_ms": int((self._hold.seconds + SLACK) * 1000),
        }

    def sendmessage(self, request: Request, token: str, body: Body) -> Reply:
        """Let the bot say something; the reply's id is the one that a quote would carry [8.1]."""
        msg = _object(body, "msg")
        to, context, client_id = (_text(msg, name) for name in ("to_user_id", "context_token", "client_id"))
        text = "\n".join(_shown(item) for item in _list(msg, "item_list"))
        try:
            message = self._world.send(token, to, context, text, client_id)
        except SendRefused as ex:
            return {"ret": -2, "errmsg": str(ex)}
        return {"message_id": message.message_id}

    def getconfig(self, request: Request, token: str, body: Body) -> Reply:
        """Hand out the ticket for typing; there is none before the user has written [6, 10]."""
        user_id = _text(body, "ilink_user_id")
        if not self._world.has_conversation(token, user_id):
            return {"ret": -4, "errmsg": "GetTypingTicket rpc failed"}
        ticket = hashlib.sha256(f"typing {token} {user_id}".encode()).digest()
        return {"ret": 0, "typing_ticket": base64.b64encode(ticket).decode()}

    def sendtyping(self, request: Request, token: str, body: Body) -> Reply:
        """Take note that the bot types or has stopped; the phone shows nothing of it [10]."""
        if body.get("status") not in (1, 2):
            raise BadRequest("status is neither 1 nor 2")
        return {"ret": 0}

    def notify(self, request: Request, token: str, body: Body) -> Reply:
        """Take note that a client starts or stops [4]."""
        return {"ret": 0}

    def _bearer(self, call: Callable[[Request, str, Body], Reply]) -> Callable[[Request], Reply]:
        """Give `call` the token and the body; a token that is dead, unknown or missing is answered -14 [6]."""

        @functools.wraps(call)
        def answer(request: Request) -> Reply:
            token = _token(request)
            try:
                self._world.check(token)
                return call(request, token, request.json())
            except DeadToken as ex:
                return {**DEAD[ex.death], "errmsg": "session timeout"}

        return answer

    def _watched(self, path: str, call: Callable[[Request], Reply]) -> Callable[[Request], Answer]:
        """Note each request, and let it go wrong where that was asked for [15]."""
        name = path.rpartition("/")[2]

        def answer(request: Request) -> Answer:
            user = self._user_of(request)
            fault = self._faults.take(name, user)
            self._journal.note(name, user, request, fault=fault is not None)
            return fault.answer(lambda: call(request)) if fault else call(request)

        return answer

    def _user_of(self, request: Request) -> str:
        """Return whose bot or login code it is that a request is about, "" if that is not known."""
        key = request.query.get("qrcode", "")
        try:
            return self._world.codes.get(key).user if key else self._world.user_of(_token(request))
        except Unknown:
            return ""


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _inbound(updates: Updates, message: Message) -> Reply:
    """Return a user's message as the bot gets it [7]."""
    item = {
        "type": TEXT_ITEM,
        "create_time_ms": message.time_ms,
        "update_time_ms": message.time_ms,
        "is_completed": True,
        "text_item": {"text": message.text},
    }
    ordinary = {
        "seq": message.number,
        "message_id": message.message_id,
        "from_user_id": updates.user_id,
        "to_user_id": updates.bot_id,
        "client_id": message.client_id,
        "create_time_ms": message.time_ms,
        "update_time_ms": message.time_ms,
        "session_id": f"{updates.user_id}#{updates.bot_id}",
        "message_type": phones.USER_MESSAGE,
        "message_state": FINISHED,
        "item_list": [item],
        "context_token": updates.context_token,
    }
    return overlaid(ordinary, message.raw)


def _shown(item: object) -> str:
    """Return what the phone shows of an item: any type is accepted [7.2, 15]."""
    if not isinstance(item, dict):
        raise BadRequest("item_list is not a list of objects")
    kind = item.get("type")
    if kind == TEXT_ITEM:
        return _text(_object(item, "text_item"), "text")
    if type(kind) is not int:
        raise BadRequest("an item's type is not a number")
    return LABELS.get(kind, f"[item of type {kind}]")


# Null is read as absent, and never written [2.3].


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} is not a text")
    return value


def _list(body: Body, name: str) -> list[Any]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{name} is not a list")
    return value


def _object(body: Body, name: str) -> Body:
    value = body.get(name)
    if not isinstance(value, dict):
        raise BadRequest(f"{name} is not an object")
    return value
