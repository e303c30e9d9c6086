"""The iLink bot API over a World, to the letter of ilink-protocol.md (its sections are named in brackets)."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from wxsup.sandbox import items, phones
from wxsup.sandbox.body import Body, list_in, object_in, text_in
from wxsup.sandbox.cdn import CDN
from wxsup.sandbox.codes import Unfit, Unknown
from wxsup.sandbox.faults import overlaid
from wxsup.sandbox.phones import Message
from wxsup.sandbox.server import BadRequest, Request, Routes
from wxsup.sandbox.watch import Watch
from wxsup.sandbox.world import DeadToken, SendRefused, Updates, World

BOT_TYPE = "3"
SLACK = 10.0  # a client whose limit is our hold itself drops every answer that comes at its end (5.2)

FINISHED = 2
TYPES, TYPES_NO_MORE = 1, 2

#: How -14 is said; the field has seen errcode alone (6), and there are clients that look elsewhere (15).
DEAD = {"errcode": {"errcode": -14}, "ret": {"ret": -14}, "both": {"ret": -14, "errcode": -14}}

#: The calls by the last part of their path [1].
CALLS = (
    "get_bot_qrcode",
    "get_qrcode_status",
    "getupdates",
    "sendmessage",
    "getuploadurl",
    "getconfig",
    "sendtyping",
    "notifystart",
    "notifystop",
)

Reply = dict[str, object]


@dataclass
class Hold:
    """How long a call without news is held, in seconds; it can be changed at any time."""

    seconds: float


class ILink:
    """The calls of one server; one with a `redirect_port` sends redirected logins there."""

    def __init__(self, world: World, cdn: CDN, watch: Watch, hold: Hold, *, redirect_port: int | None = None) -> None:
        self._world = world
        self._cdn = cdn
        self._watch = watch
        self._hold = hold
        self._redirect_port = redirect_port

    def routes(self) -> Routes:
        """Return what is answered where [1]."""
        calls: dict[tuple[str, str], Callable[[Request], Reply]] = {
            ("POST", "get_bot_qrcode"): self.get_bot_qrcode,
            ("GET", "get_bot_qrcode"): self.get_bot_qrcode,
            ("GET", "get_qrcode_status"): self.get_qrcode_status,
            ("POST", "getupdates"): self._bearer(self.getupdates),
            ("POST", "sendmessage"): self._bearer(self.sendmessage),
            ("POST", "getuploadurl"): self._bearer(self.getuploadurl),
            ("POST", "getconfig"): self._bearer(self.getconfig),
            ("POST", "sendtyping"): self._bearer(self.sendtyping),
            ("POST", "msg/notifystart"): self._bearer(self.notify),
            ("POST", "msg/notifystop"): self._bearer(self.notify),
        }
        return {
            (method, f"/ilink/bot/{path}"): self._watch.over(path.rpartition("/")[2], self._user_of, call)
            for (method, path), call in calls.items()
        }

    def get_bot_qrcode(self, request: Request) -> Reply:
        """Hand out a login code; asked by GET there is no body and so no local_token_list [3.1, 15]."""
        if request.query.get("bot_type") != BOT_TYPE:
            return {"ret": 2, "errmsg": "invalid bot_type"}
        tokens = list_in(request.json(), "local_token_list")
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
        cursor = text_in(body, "get_updates_buf")
        try:
            updates = self._world.updates(token, cursor, hold=self._hold.seconds, glance=request.glance)
        except Unfit as ex:
            return {"ret": -1, "errmsg": str(ex)}
        return {
            "ret": 0,
            "msgs": [self._inbound(request, updates, message) for message in updates.messages],
            "get_updates_buf": updates.cursor,
            "longpolling_timeout_ms": int((self._hold.seconds + SLACK) * 1000),
        }

    def sendmessage(self, request: Request, token: str, body: Body) -> Reply:
        """Let the bot say something; the reply's id is the one that a quote would carry [8.1]."""
        msg = object_in(body, "msg")
        to, context, client_id = (text_in(msg, name) for name in ("to_user_id", "context_token", "client_id"))
        text, shown = items.shown(list_in(msg, "item_list"), self._cdn.get)
        try:
            message = self._world.send(token, to, context, text, client_id, shown)
        except SendRefused as ex:
            return {"ret": -2, "errmsg": str(ex)}
        return {"message_id": message.message_id}

    def getuploadurl(self, request: Request, token: str, body: Body) -> Reply:
        """Hand out a ticket for an upload to the CDN, if it is for the bot's user [6, 9.1]."""
        if not self._world.is_user(token, text_in(body, "to_user_id")):
            return {"ret": -1, "errmsg": "invalid to_user_id"}
        return self._cdn.ticket(body, self._world.user_of(token), request.url)

    def getconfig(self, request: Request, token: str, body: Body) -> Reply:
        """Hand out the ticket for typing; there is none before the user has written [6, 10]."""
        user_id = text_in(body, "ilink_user_id")
        if not self._world.has_conversation(token, user_id):
            return {"ret": -4, "errmsg": "GetTypingTicket rpc failed"}
        return {"ret": 0, "typing_ticket": _typing_ticket(token, user_id)}

    def sendtyping(self, request: Request, token: str, body: Body) -> Reply:
        """Let the phone show that the bot types, or has stopped [10]; what a wrong ticket is answered is our guess."""
        if body.get("status") not in (TYPES, TYPES_NO_MORE):
            raise BadRequest("status is neither 1 nor 2")
        if text_in(body, "typing_ticket") != _typing_ticket(token, text_in(body, "ilink_user_id")):
            return {"ret": -1, "errmsg": "invalid typing_ticket"}
        self._world.type(token, body["status"] == TYPES)
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

    def _inbound(self, request: Request, updates: Updates, message: Message) -> Reply:
        """Return a user's message as the bot gets it [7]."""
        shown = message.media
        item = {
            "create_time_ms": message.time_ms,
            "update_time_ms": message.time_ms,
            "is_completed": True,
            **(items.received(shown, self._cdn.link(shown.param, request.url)) if shown else items.text(message.text)),
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

    def _user_of(self, request: Request) -> str:
        """Return whose bot or login code it is that a request is about, "" if that is not known."""
        key = request.query.get("qrcode", "")
        try:
            return self._world.codes.get(key).user if key else self._world.user_of(_token(request))
        except Unknown:
            return ""


def _typing_ticket(token: str, user_id: str) -> str:
    return base64.b64encode(hashlib.sha256(f"typing {token} {user_id}".encode()).digest()).decode()


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
