"""The Python client of the HTTP API.

    with Controller(token="wxsup_...") as wx:
        wx.start("shop")
        for event in wx.events("shop"):
            print(event)

What the controller or a client refuses is raised as the error of wxsup.errors that it is; each has `code`,
`http_status`, `status`, `reason` and `fields`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import requests

from wxsup.errors import ControllerUnreachable, ParameterRefused, WxsupError

Told = TypeVar("Told")

__all__ = ["Controller", "EventsMissed", "verify_webhook"]

CONNECT_TIMEOUT, ANSWER_TIMEOUT = 10.0, 150.0  # long polls hold up to 120 s; every time-out on the way is longer
FIRST_RETRY, LAST_RETRY = 1.0, 30.0
AWAY = (502, 503, 504)  # of the client, or of a proxy in front: it may be back in a moment
READING = ("get_", "search_", "check_")
MISSED = "X-Events-Missed"
TOKEN = re.compile(r"[!-~]+")  # what a header can carry as one word


class EventsMissed(UserWarning):
    """Some events are not kept any more: between the one that was seen last and those that come now."""


class Controller:
    """A controller at `url`; `session` is one of your own, with a proxy or a certificate, say."""

    def __init__(
        self, url: str = "http://127.0.0.1:2000", token: str | None = None, session: requests.Session | None = None
    ) -> None:
        if token and not is_token(token):
            raise ValueError("that is no token")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._own = session is None
        self._session = session or requests.Session()
        if session is None:
            self._session.trust_env = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, except those of a session of your own."""
        if self._own:
            self._session.close()

    def start(self, name: str, /, **params: object) -> dict[str, Any]:
        """Start the client `name` and return its entry; one that runs is left alone."""
        return _as(dict, self._ask("POST", "start_client", name, params))

    def stop(self, name: str) -> dict[str, Any]:
        """Stop the client `name` and return its entry; its session stays."""
        return _as(dict, self._ask("POST", "stop_client", name, {}))

    def restart(self, name: str) -> dict[str, Any]:
        """Stop and start the client `name`, as it is and on its port, and return its entry."""
        return _as(dict, self._ask("POST", "restart_client", name, {}))

    def change(self, name: str, /, **params: object) -> dict[str, Any]:
        """Restart the client `name` with `params` in place of those that it was started with; return its entry."""
        return _as(dict, self._ask("POST", "restart_client", name, {**params, "replace": True}))

    def remove(self, name: str, *, purge: bool = False) -> dict[str, Any]:
        """Stop the client `name`, down or not, and with `purge` delete its session for good; return its entry."""
        return _as(dict, self._ask("POST", "remove_client", name, {"purge": purge}))

    def check(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the state of the client `name`, or of every client that the token may see."""
        found: list[dict[str, Any]] = _as(dict, self._ask("GET", "check_client", name, {}))["client"]
        return found

    def qrcode(self, name: str) -> bytes | None:
        """Return the picture of the login code that the client `name` wants scanned, None when it wants none."""
        response = self._request("GET", "get_qrcode", name, {})
        if response.status_code == requests.codes.not_found:
            return None
        return _as(bytes, _told(response))

    def call(self, name: str, api: str, /, **params: object) -> Any:
        """Make a call to the client `name`, such as ``get_friend_info``; return its answer, bytes if it is no JSON.

        A parameter of bytes goes as a file (``media_data``).
        """
        return self._ask("GET" if api.startswith(READING) else "POST", api, name, params)

    def send(
        self,
        name: str,
        content: str,
        *,
        id: str | None = None,
        account: str | None = None,
        displayname: str | None = None,
        markname: str | None = None,
        wait: bool = True,
    ) -> dict[str, Any]:
        """Send a text as the client `name` to one friend, and return what became of it.

        Without `wait` return once the client has it on its disk; a report ``send_message`` with the same `client_id`
        as `uid` tells the rest.
        """
        friend = {"id": id, "account": account, "displayname": displayname, "markname": markname}
        params = {**friend, "content": content, **({} if wait else {"async": True})}
        return _as(dict, self._ask("POST", "send_friend_message", name, params))

    def log(self, name: str, *, lines: int = 200, after: int | None = None) -> dict[str, Any]:
        """Return the newest `lines` of the log of the client `name`, and in ``next`` what `after` to ask with then.

        With `after` only what came since; the client holds the call for a while when there is nothing.
        """
        return _as(dict, self._ask("GET", "get_log", name, {"lines": lines, "after": after}))

    def events(self, name: str, after: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the messages and events of the client `name`, for ever, each once.

        It begins after the one with the ``event_id`` `after`, or else with the oldest that is kept. Restarts of the
        controller and of the client, and a broken network, are waited out. Warns EventsMissed where some are lost.
        """
        pause = FIRST_RETRY
        while True:
            asked = time.monotonic()
            try:
                response = self._request("GET", "check_event", name, {"after": after or ""})
                found = _told(response)
            except WxsupError as ex:
                if not _passing(ex):
                    raise
                time.sleep(pause)
                pause = min(2 * pause, LAST_RETRY)
                continue
            events = _as(list, found)
            pause = FIRST_RETRY
            if MISSED in response.headers:
                warnings.warn(EventsMissed(f"{name}: some events after {after} are not kept any more"), stacklevel=2)
            for event in events:
                after = event.get("event_id", after)
                yield event
            if not events and time.monotonic() - asked < FIRST_RETRY:  # a client that does not hold the call
                time.sleep(FIRST_RETRY)

    def _ask(self, method: str, api: str, name: str | None, params: Mapping[str, object]) -> Any:
        return _told(self._request(method, api, name, params))

    def _request(self, method: str, api: str, name: str | None, params: Mapping[str, object]) -> requests.Response:
        texts = {key: _text(key, value) for key, value in params.items() if not isinstance(value, bytes | None)}
        files = {key: ("file", value) for key, value in params.items() if isinstance(value, bytes)}
        query = {} if name is None else {"client": _text("client", name)}
        try:
            return self._session.request(
                method,
                f"{self._url}/openwx/{api}",
                params=query if method == "POST" else query | texts,
                data=texts if method == "POST" else None,
                files=files or None,
                headers=self._headers,
                timeout=(CONNECT_TIMEOUT, ANSWER_TIMEOUT),
                allow_redirects=False,  # no answer of ours is one, and a token is not for others
            )
        except requests.RequestException as ex:
            raise ControllerUnreachable(f"{re.sub('//[^/]*@', '//', self._url)}: {_cause(ex)}") from ex


def is_token(text: str) -> bool:
    """Tell whether `text` is one word that a request can carry as a token."""
    return TOKEN.fullmatch(text) is not None


def verify_webhook(secret: str | bytes, headers: Mapping[str, str], body: bytes, max_age: float | None = 300) -> bool:
    """Tell whether a report that was posted to us is signed with `secret`, no more than `max_age` seconds ago."""
    found = {name.lower(): value for name, value in headers.items()}
    timestamp, signature = found.get("x-timestamp", ""), found.get("x-signature", "")
    key = (secret.encode() if isinstance(secret, str) else secret).strip()
    expected = hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        return False
    return max_age is None or (timestamp.isdecimal() and abs(time.time() - int(timestamp)) <= max_age)


def _cause(error: BaseException) -> str:
    """Return what the operating system said, if it is behind `error`, rather than what was made of it on the way."""
    found: BaseException | None = error
    while found:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return str(error)


def _text(key: str, value: object) -> str:
    text = str(int(value)) if isinstance(value, bool) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as ex:
        raise ParameterRefused(key, f"{key}: it is not UTF-8") from ex
    return text


def _as(kind: type[Told], told: Any) -> Told:
    if not isinstance(told, kind):
        raise ControllerUnreachable("what answers is no controller")
    return told


def _told(response: requests.Response) -> Any:
    """Return what was answered, as bytes if it is no JSON; raise the error that it is."""
    good = requests.codes.ok <= response.status_code < requests.codes.multiple_choices
    if not response.headers.get("Content-Type", "").startswith("application/json"):
        if good:
            return response.content
        raise _error(response, None)
    try:
        told = response.json()
    except requests.JSONDecodeError:
        raise _error(response, None) from None
    if not good or (isinstance(told, dict) and told.get("code") not in (None, 0)):
        raise _error(response, told)
    return told


def _error(response: requests.Response, told: Any) -> WxsupError:
    """Return the error that an answer tells of: of the class with its code, HTTP status and text, or the nearest."""
    http_status = response.status_code
    if not isinstance(told, dict) or not isinstance(told.get("code"), int):
        error: WxsupError = ControllerUnreachable(f"what answers is no controller: HTTP status {http_status}")
        error.http_status = http_status
        return error
    code, status = told["code"], str(told.get("status", ""))
    keys = ((code, http_status, status), (code, http_status), (code,))
    kind = next((TABLE[key] for key in keys if key in TABLE), WxsupError)
    error = kind.__new__(kind)
    error.code, error.http_status, error.status = code, http_status, status
    fields = {key: value for key, value in told.items() if key not in ("code", "status", "reason")}
    WxsupError.__init__(error, str(told.get("reason", "")), **fields)
    return error


def _passing(error: WxsupError) -> bool:
    """Tell whether an error may be over in a moment."""
    cause = error.__cause__
    if isinstance(cause, requests.RequestException):
        return not isinstance(cause, (ValueError, requests.exceptions.SSLError))  # a bad URL, a bad certificate
    return error.http_status in AWAY


def _table() -> dict[tuple[object, ...], type[WxsupError]]:
    """Return the classes of errors by what an answer tells of them; their common base where that tells too little."""
    table: dict[tuple[object, ...], type[WxsupError]] = {}
    kinds = list(WxsupError.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.http_status == WxsupError.http_status:  # none that an answer tells of
            continue
        for key in ((kind.code, kind.http_status, kind.status), (kind.code, kind.http_status), (kind.code,)):
            known = table.setdefault(key, kind)
            table[key] = next(base for base in kind.__mro__ if issubclass(known, base))
    return table


TABLE = _table()
