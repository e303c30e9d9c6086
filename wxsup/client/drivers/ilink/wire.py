"""The calls of Tencent's bot channel, as they go over the wire (ilink-protocol.md 1, 2)."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from wxsup import __version__
from wxsup.client.http import Answer, Http, TransportError
from wxsup.options import Options

TOKEN_DEAD = -14
TOO_MANY, RETRY, RETRY_MOST = 429, 10.0, 3600.0
QR_TIMEOUT = 15.0
CALL_TIMEOUT = 10.0
SEND_TIMEOUT = 15.0
STOP_TIMEOUT = 1.0
READ_SLACK = 10.0  # a limit equal to the server's hold would always lose the race


class ApiError(Exception):
    """The server refused; `ret` and `errmsg` are its own."""

    def __init__(self, ret: int, errmsg: str) -> None:
        super().__init__(f"ret {ret}: {errmsg}" if errmsg else f"ret {ret}")
        self.ret, self.errmsg = ret, errmsg


class TokenDead(ApiError):
    """The token is not, or no longer, valid."""


class Throttled(TransportError):
    """The server takes nothing from us for so many seconds (RFC 6585 4); it has not done what we asked."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("HTTP 429")
        self.retry_after = retry_after


class Wire:
    """The calls; login calls go to `base`, the others to where the login said.

    Two callers, each for one thread at a time: one keeps its connection and may repeat its calls, the other sends
    messages, which must not arrive twice. While the first is `unwanted()` its calls fail at once.
    """

    def __init__(self, options: Options, unwanted: Callable[[], bool] = lambda: False) -> None:
        self._base = options.ilink_base.rstrip("/")
        self._allowed = options.ilink_allow_hosts
        self._version = options.ilink_client_version
        self._poller = Http(keep=True, unwanted=unwanted)
        self._sender = Http()

    def close(self) -> None:
        """End for good, but for sends; a call in progress fails at once."""
        self._poller.close()

    def close_sends(self) -> None:
        """End sends for good; one in progress fails at once."""
        self._sender.close()

    def break_off(self) -> None:
        """Let a call in progress, but for a send, fail at once when it has become unwanted."""
        self._poller.break_off()

    def allows(self, url: str) -> bool:
        """Tell whether a reply may send us to `url`: a known host, by https, or by http where our own base is http."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        scheme = parts.scheme == "https" or (parts.scheme == "http" and self._base.startswith("http:"))
        return scheme and any(host == allowed or host.endswith("." + allowed) for allowed in self._allowed)

    def redirected(self, host: str) -> str | None:
        """Return the base address for a redirect_host, None when it is not allowed."""
        url = f"{urlsplit(self._base).scheme}://{host}"
        return url if self.allows(url) else None

    def get_bot_qrcode(self, tokens: list[str]) -> dict[str, Any]:
        """Ask for a login code (3.1)."""
        body = {"local_token_list": tokens}
        return self._post(self._poller, self._base, "get_bot_qrcode?bot_type=3", "", body, QR_TIMEOUT)

    def get_qrcode_status(self, base: str | None, key: str, digits: str, *, timeout: float) -> dict[str, Any]:
        """Ask how the login code stands, held by the server for up to 35 s (3.2)."""
        url = f"{base or self._base}/ilink/bot/get_qrcode_status?qrcode={quote(key, safe='')}"
        if digits:
            url += f"&verify_code={quote(digits, safe='')}"
        answer = self._poller.request("GET", url, headers=self._identity(), timeout=timeout)
        return _decoded(answer)

    def notify_start(self, base: str, token: str) -> None:
        """Say that we begin to poll (4)."""
        self._bearer(self._poller, base, "msg/notifystart", token, {}, CALL_TIMEOUT)

    def notify_stop(self, base: str, token: str) -> None:
        """Say that we are leaving (4); also after close()."""
        self._bearer(Http(), base, "msg/notifystop", token, {}, STOP_TIMEOUT)

    def get_updates(self, base: str, token: str, cursor: str, hold: float) -> dict[str, Any]:
        """Ask for messages after `cursor`, held by the server for about `hold` seconds (5.1)."""
        return self._bearer(self._poller, base, "getupdates", token, {"get_updates_buf": cursor}, hold + READ_SLACK)

    def send_message(self, base: str, token: str, message: dict[str, Any]) -> dict[str, Any]:
        """Send one message (8.1)."""
        return self._bearer(self._sender, base, "sendmessage", token, {"msg": message}, SEND_TIMEOUT)

    def get_upload_url(self, base: str, token: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Ask where a file can be uploaded to (9.1)."""
        return self._bearer(self._sender, base, "getuploadurl", token, fields, SEND_TIMEOUT)

    def get_config(self, base: str, token: str, user_id: str, context_token: str) -> dict[str, Any]:
        """Ask for the ticket that typing needs (10)."""
        body = {"ilink_user_id": user_id, **({"context_token": context_token} if context_token else {})}
        return self._bearer(Http(), base, "getconfig", token, body, CALL_TIMEOUT)

    def send_typing(self, base: str, token: str, user_id: str, ticket: str, status: int) -> None:
        """Show that we type, status 1, or no longer, 2 (10)."""
        body = {"ilink_user_id": user_id, "typing_ticket": ticket, "status": status}
        self._bearer(Http(), base, "sendtyping", token, body, CALL_TIMEOUT)

    def _bearer(
        self, caller: Http, base: str, call: str, token: str, body: dict[str, Any], timeout: float
    ) -> dict[str, Any]:
        info = {"channel_version": self._version, "bot_agent": f"wxsup/{__version__} (ilink)"}
        return self._post(caller, base, call, token, {**body, "base_info": info}, timeout)

    def _post(
        self, caller: Http, base: str, call: str, token: str, body: dict[str, Any], timeout: float
    ) -> dict[str, Any]:
        headers = {
            **self._identity(),
            "Content-Type": "application/json",
            "AuthorizationType": "ilink_bot_token",
            "X-WECHAT-UIN": base64.b64encode(str(int.from_bytes(os.urandom(4))).encode()).decode(),
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        answer = caller.request(
            "POST", f"{base}/ilink/bot/{call}", body=json.dumps(body).encode(), headers=headers, timeout=timeout
        )
        reply = _decoded(answer)
        for field in ("ret", "errcode"):
            value = reply.get(field) or 0
            if value != 0:
                kind = TokenDead if value == TOKEN_DEAD else ApiError
                raise kind(value if isinstance(value, int) else -1, str(reply.get("errmsg") or ""))
        return reply

    def _identity(self) -> dict[str, str]:
        major, minor, patch = (int(part) & 0xFF for part in self._version.split("."))
        return {"iLink-App-Id": "bot", "iLink-App-ClientVersion": str(major << 16 | minor << 8 | patch)}


def _decoded(answer: Answer) -> dict[str, Any]:
    """Return the JSON object of a good answer; all else is a failure of the transport, not of the API (2.3)."""
    if answer.status == TOO_MANY:
        after = answer.headers.get("Retry-After", "")
        raise Throttled(min(float(after), RETRY_MOST) if after.isascii() and after.isdigit() else RETRY)
    if not 200 <= answer.status < 300:
        raise TransportError(f"HTTP {answer.status}")
    try:
        # Half a surrogate pair, which a phone makes by cutting an emoji, is no text that could be kept or passed on.
        reply = json.loads(json.dumps(json.loads(answer.body), ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as ex:
        raise TransportError("the answer is not JSON") from ex
    if not isinstance(reply, dict):
        raise TransportError("the answer is not a JSON object")
    return reply
