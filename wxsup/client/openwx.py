"""The single-account API over a driver (openwx-api.md 1, 3, 5; ilink-protocol.md 13.5)."""

from __future__ import annotations

import hmac
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from wxsup import __version__, names
from wxsup.client.drivers import Driver
from wxsup.client.events import Events
from wxsup.client.sendqueue import SendQueue
from wxsup.client.server import Reply, Request
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.errors import (
    ApiNotFound,
    ContentRejected,
    NameInvalid,
    NotLoggedIn,
    ObjectNotFound,
    Unauthorized,
    Unsupported,
    WrongClient,
    WxsupError,
)
from wxsup.options import Options

logger = logging.getLogger(__name__)

Parameters = Mapping[str, str]

FRIEND_KEYS = ("id", "account", "displayname", "markname")
SEARCH_KEYS = (*FRIEND_KEYS, "uid", "name", "category", "sex", "province", "city", "signature")
FILEHELPER = "filehelper"
STOP_DELAY = 3.0
MAX_FIELDS = 200
DEAD_LETTERS = 100  # in one answer
MISSED_HEADER = "X-Events-Missed"
#: What get_client_info says of the state file's details.
TOLD = ("last_poll_at", "last_inbound_at", "last_outbound_at", "last_error", "trouble", "parked", "login_reason")

#: Documented, and to come with a later version; they say so instead of hanging.
NOT_YET = (
    "get_group_info",
    "get_group_basic_info",
    "get_avatar",
    "search_group",
    "create_group",
    "invite_friend",
    "kick_group_member",
    "set_group_displayname",
    "set_markname",
    "set_friend_markname",
    "stick",
    "make_friend",
    "accept_friend_request",
    "send_group_message",
    "revoke_message",
    "upload_media",
    "consult",
)


class Openwx:
    """Answers the API of one account to those who know its `secret`; `stop` ends the process."""

    def __init__(
        self,
        options: Options,
        state: LoginState,
        driver: Driver,
        queue: SendQueue,
        events: Events,
        *,
        store: Store,
        secret: str = "",
        stop: Callable[[], None],
    ) -> None:
        self._options = options
        self._state = state
        self._driver = driver
        self._queue = queue
        self._events = events
        self._store = store
        self._secret = secret
        self._stop = stop
        self._started = time.time()
        self._calls: dict[str, Callable[[Parameters], Any]] = {
            "get_user_info": lambda parameters: self._driver.user(),
            "get_friend_info": lambda parameters: self._driver.friends(),
            "search_friend": self._search_friend,
            "send_friend_message": self._send_friend_message,
            "submit_verify_code": self._submit_verify_code,
            "relogin": self._relogin,
            "get_dead_letters": self._get_dead_letters,
            "replay_dead_letters": self._replay_dead_letters,
            "get_client_info": self._client_info,
            "stop_client": self._stop_client,
        }
        self._logged_in = frozenset({"get_user_info", "get_friend_info", "search_friend", "send_friend_message"})

    def answer(self, request: Request) -> Reply:
        """Answer one request; what goes wrong becomes the documented JSON."""
        name = request.path.removeprefix("/openwx/")
        try:
            if request.path == "*" and self._secret:  # which no call that the controller passes on can be
                return Reply(200, names.proof(self._secret, request.challenge).encode(), "text/plain")
            if self._secret and not hmac.compare_digest(_bytes(request.secret), _bytes(self._secret)):
                raise Unauthorized
            if not request.path.startswith("/openwx/") or request.method not in ("GET", "HEAD", "POST"):
                raise ApiNotFound
            parameters = _parameters(request)
            if parameters.get("client", self._options.account) != self._options.account:
                raise WrongClient(f"this is the client {self._options.account}")
            if name == "check_event":
                return self._check_event(request, parameters)
            return _json(self._call(name, parameters))
        except WxsupError as ex:
            return _json(ex.body(), status=ex.http_status)
        except Exception:
            logger.exception("call failed", extra={"action": "call", "call": name[:40]})
            return _json({"code": -1, "status": "internal error"}, status=500)

    def call_by_ourselves(self, path: str, query: str) -> None:
        """Make a call whose answer goes nowhere, as poll_api asks for (openwx-api.md 7)."""
        reply = self.answer(Request("GET", path, query, secret=self._secret, still_there=lambda: False))
        reply.written(False)  # nobody has seen it
        logger.info("called by poll_api", extra={"action": "poll", "call": path[:60], "status": reply.status})

    def _call(self, name: str, parameters: Parameters) -> Any:
        if name in NOT_YET:
            raise Unsupported(f"not implemented yet: {name}")
        if name not in self._calls:
            raise ApiNotFound
        if name in self._logged_in and self._state.current is not Login.RUNNING:
            raise NotLoggedIn(state=self._state.current.value)
        return self._calls[name](parameters)

    def _search_friend(self, parameters: Parameters) -> list[dict[str, Any]]:
        wanted = {key: parameters[key] for key in SEARCH_KEYS if key in parameters}
        found = [friend for friend in self._driver.friends() if _matches(friend, wanted)]
        if not wanted or not found:
            raise ObjectNotFound
        return found

    def _send_friend_message(self, parameters: Parameters) -> dict[str, Any]:
        if any(name.startswith("media_") for name in parameters):
            raise Unsupported("not implemented yet: media")
        if "content" not in parameters:
            raise ContentRejected("content is missing")
        wanted = {key: parameters[key] for key in FRIEND_KEYS if key in parameters}
        friends = self._driver.friends()
        if wanted.get("id") == FILEHELPER and self._options.ilink_filehelper == "owner":
            found = friends[:1]
        else:
            found = [friend for friend in friends if wanted and _matches(friend, wanted)]
        if not found:
            raise ObjectNotFound(id=None)
        if _truthy(parameters.get("async", "")):
            client_id = self._queue.promise(found[0], parameters["content"])
            return {"code": 0, "status": "request already in execution", "client_id": client_id}
        return {"code": 0, "status": "success", **self._queue.send(found[0], parameters["content"])}

    def _submit_verify_code(self, parameters: Parameters) -> dict[str, Any]:
        code = parameters.get("code", "")
        if not (code.isascii() and code.isalnum() and len(code) <= 16):
            raise ContentRejected("code must be the digits that the phone shows")
        self._driver.submit_verify_code(code)
        return {"code": 0, "status": "success"}

    def _relogin(self, parameters: Parameters) -> dict[str, Any]:
        self._driver.relogin()
        return {"code": 0, "status": "success"}

    def _check_event(self, request: Request, parameters: Parameters) -> Reply:
        if "after" in parameters:
            found, missed = self._events.after(parameters["after"])
            return _json([report.body for report in found], headers={MISSED_HEADER: "1"} if missed else {})
        lent = self._events.lend(request.still_there)
        body = [report.body for report in lent]
        return _json(body, written=lambda done: self._events.settle(lent, delivered=done))

    def _get_dead_letters(self, parameters: Parameters) -> dict[str, Any]:
        after = parameters.get("after", "")
        number = self._store.number_of(after)
        if after and not number:
            raise ObjectNotFound(f"there is no event {after[:40]}")
        found = self._store.dead_letters(number, DEAD_LETTERS)
        letters = [{**report.body, "dead_reason": reason} for report, reason in found]
        return {"code": 0, "status": "success", "total": self._store.count("dead"), "dead_letters": letters}

    def _replay_dead_letters(self, parameters: Parameters) -> dict[str, Any]:
        id_ = parameters.get("event_id")
        replayed = self._events.replay(None if id_ is None else self._store.number_of(id_))
        if id_ is not None and not replayed:
            raise ObjectNotFound(f"there is no dead letter {id_[:40]}")
        return {"code": 0, "status": "success", "replayed": replayed}

    def _client_info(self, parameters: Parameters) -> dict[str, Any]:
        return {
            "code": 0,
            "status": "success",
            "account": self._options.account,
            "pid": os.getpid(),
            "os": sys.platform,
            "version": __version__,
            "starttime": int(self._started),
            "runtime": int(time.time() - self._started),
            "http_debug": 0,
            "log_encoding": None,
            "log_path": "",
            "log_level": self._options.log_level,
            "driver": self._driver.name,
            "state": self._state.current.value,
            "capabilities": list(self._driver.capabilities),
            **{name: self._state.detail(name) for name in TOLD},
            "inbox_pending": self._store.count("to_post"),
            "dead_letters": self._store.count("dead"),
            "sends_pending": self._store.count("letter"),
        }

    def _stop_client(self, parameters: Parameters) -> dict[str, Any]:
        timer = threading.Timer(STOP_DELAY, self._stop)
        timer.daemon = True
        timer.start()
        return {
            "code": 0,
            "account": self._options.account,
            "pid": os.getpid(),
            "starttime": int(self._started),
            "runtime": int(time.time() - self._started),
            "status": f"success, client({os.getpid()}) will stop in {STOP_DELAY:g} seconds",
        }


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _matches(friend: dict[str, Any], wanted: Parameters) -> bool:
    return all(str(friend.get(key, "")) == value for key, value in wanted.items())


def _parameters(request: Request) -> Parameters:
    """Return query and form as one; raise NameInvalid when a parameter comes twice or is no UTF-8."""
    found: dict[str, str] = {}
    for part in (request.query.encode(), request.form):
        try:
            pairs = parse_qsl(part.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except UnicodeDecodeError as ex:
            raise NameInvalid("the parameters are not UTF-8") from ex
        except ValueError as ex:
            raise NameInvalid(f"there are more than {MAX_FIELDS} parameters") from ex
        for name, value in pairs:
            if name in found:
                raise NameInvalid(f"{name} is given more than once")
            found[name] = value
    return found


def _truthy(value: str) -> bool:
    return value not in ("", "0")  # openwx-api.md 1.3


def _json(
    body: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    written: Callable[[bool], None] = lambda done: None,
) -> Reply:
    content = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return Reply(status, content, headers=headers or {}, written=written)
