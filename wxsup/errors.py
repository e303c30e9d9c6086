"""What can go wrong, and how the HTTP API says it.

    WxsupError                      code  HTTP
    |-- ClientMissing                  1   200
    |-- ClientUnknown                  1   200
    |-- NoFreePort                     2   200
    |-- StartFailed                    3   200
    |   `-- RecordInvalid              3   200
    |-- PurgeFailed                    3   200
    |-- NoPid                          4   200
    |-- TooManyClients                 5   200
    |-- ParameterRefused               6   400
    |-- SupervisorUnreachable          7   503
    |-- ClientBusy                     7   503
    |-- NameInvalid                    8   400
    |-- ClientUnreachable              9   502
    |   |-- WrongClient                9   502
    |   |-- ClientNotListening         9   503
    |   |-- PollEnded                  9   503
    |   `-- ClientTimeout              9   504
    |-- ApiNotFound                   -1   403
    |-- RequestBroken                 -1   400
    |-- Forbidden                     -6   403
    |-- Unauthorized                  -6   401
    |   `-- TokenRefused              -6   401
    |-- TooManyFailures               -6   429
    |-- TokensUnreadable              -6   503
    |-- CallFailed                           200   what a client answers, ilink-protocol.md 13.4
    |   |-- ObjectNotFound           100
    |   |-- Expired                   -5
    |   |-- Unsupported              -20
    |   |-- NotWrittenYet            -21
    |   |-- WindowClosed             -22
    |   |-- QuotaUsed                -23
    |   |-- ContentRejected          -24
    |   |-- NotLoggedIn              -25
    |   |-- RateLimited              -26
    |   |-- MediaUploadFailed        -27
    |   |-- RemoteRefusal             -1
    |   |-- NotSent                   -1
    |   `-- DeliveryUnknown          -28
    |-- ControllerUnreachable          -     -
    |-- SettingInvalid                 -     -
    `-- Refusal                        -     -

``status`` is the fixed text that callers compare with, ``reason`` the sentence for people. The last three never reach
HTTP: they are of a program that calls, or end a command.
"""

from __future__ import annotations


class WxsupError(Exception):
    """Something went wrong."""

    code = -1
    http_status = 500
    status = "failure"

    def __init__(self, reason: str = "", **fields: object) -> None:
        super().__init__(reason or (self.status if "status" in vars(self) else self.__doc__) or self.status)
        self.reason = reason
        self.fields = fields

    def body(self) -> dict[str, object]:
        """Return the JSON object that the API answers with."""
        body: dict[str, object] = {"code": self.code, "status": self.status, **self.fields}
        if self.reason:
            body["reason"] = self.reason
        return body


class ClientMissing(WxsupError):
    """The request names no client."""

    code, http_status, status = 1, 200, "client not found"


class ClientUnknown(WxsupError):
    """There is no client of that name."""

    code, http_status, status = 1, 200, "client not exists"


class NoFreePort(WxsupError):
    """Every port from backend_start_port upwards is taken."""

    code, http_status, status = 2, 200, "no available port"


class StartFailed(WxsupError):
    """The supervisor could not start the client."""

    code, http_status, status = 3, 200, "failure"


class RecordInvalid(StartFailed):
    """The record of a client cannot be read."""


class PurgeFailed(WxsupError):
    """The session of a client could not be deleted, or not all of it; the client is stopped."""

    code, http_status, status = 3, 200, "session not removed"


class NoPid(WxsupError):
    """The client ended before it could be looked at."""

    code, http_status, status = 4, 200, "client pid not ok"


class TooManyClients(WxsupError):
    """There are max_clients clients already."""

    code, http_status, status = 5, 200, "max clients exceed"


class ParameterRefused(WxsupError):
    """A start parameter is unknown, may not come over HTTP, or has a bad value."""

    code, http_status = 6, 400

    def __init__(self, name: str, reason: str = "") -> None:
        self.status = f"parameter not allowed: {name}"
        super().__init__(reason)


class SupervisorUnreachable(WxsupError):
    """The supervisor could not be asked; what had begun already is finished once it can be."""

    code, http_status, status = 7, 503, "supervisor unreachable"


class ClientBusy(WxsupError):
    """Another start or stop of this client is still under way."""

    code, http_status, status = 7, 503, "client busy"


class NameInvalid(WxsupError):
    """A client name is 1 to 64 bytes of UTF-8 without control characters, given once."""

    code, http_status, status = 8, 400, "client name invalid"


class ClientUnreachable(WxsupError):
    """The client refused the connection or closed it early."""

    code, http_status, status = 9, 502, "client unreachable"


class WrongClient(ClientUnreachable):
    """Another client than the one that was named answers at its port."""


class ClientNotListening(ClientUnreachable):
    """The client runs but did not open its port in time."""

    http_status = 503


class PollEnded(ClientUnreachable):
    """The controller is restarting and ended a held poll; nothing is lost, ask again."""

    http_status = 503


class ClientTimeout(ClientUnreachable):
    """The client did not answer in time."""

    http_status = 504


class ApiNotFound(WxsupError):
    """There is no such API."""

    code, http_status, status = -1, 403, "api not found"


class RequestBroken(WxsupError):
    """The body of the request broke off, or is not framed as HTTP has it."""

    code, http_status, status = -1, 400, "bad request"


class Forbidden(WxsupError):
    """This request may not be made from there."""

    code, http_status, status = -6, 403, "auth failure"


class Unauthorized(WxsupError):
    """The call does not come from the controller: it does not carry this client's secret."""

    code, http_status, status = -6, 401, "auth failure"


class TokenRefused(Unauthorized):
    """The call carries no token, or one that is not good here."""


class TooManyFailures(WxsupError):
    """Too many calls without a good token have come from this address."""

    code, http_status, status = -6, 429, "auth failure"


class TokensUnreadable(WxsupError):
    """The tokens cannot be read, so nobody is let in."""

    code, http_status, status = -6, 503, "auth failure"


class CallFailed(WxsupError):
    """A call to one account did not do what it should."""

    code, http_status = -1, 200


class ObjectNotFound(CallFailed):
    """No such friend, group, file or report."""

    code, status = 100, "object not found"


class Expired(CallFailed):
    """It could not be sent in time."""

    code, status = -5, "TTL失效"


class Unsupported(CallFailed):
    """The driver of this client cannot do that."""

    code = -20

    def __init__(self, status: str) -> None:
        super().__init__()
        self.status = status


class NotWrittenYet(CallFailed):
    """WeChat lets nobody write to a friend who has not written first."""

    code, status = -21, "friend has not written yet"


class WindowClosed(CallFailed):
    """The friend's last message is more than 24 hours old."""

    code, status = -22, "reply window closed"


class QuotaUsed(CallFailed):
    """Ten messages were sent since the friend's last one."""

    code, status = -23, "send quota used"


class ContentRejected(CallFailed):
    """The content is empty, too long or of a kind that cannot be sent."""

    code, status = -24, "content rejected"


class NotLoggedIn(CallFailed):
    """The client is not in state running, or does not want what was given."""

    code, status = -25, "not logged in"


class RateLimited(CallFailed):
    """WeChat asks to send less often."""

    code, status = -26, "rate limited"


class MediaUploadFailed(CallFailed):
    """WeChat did not take the file, so that nothing was sent."""

    code, status = -27, "media upload failed"


class RemoteRefusal(CallFailed):
    """WeChat refused for a reason of its own; `ret` and `errmsg` say which."""

    code, status = -1, "unknown error"


class NotSent(CallFailed):
    """No connection came about, so that nothing was sent."""

    code, status = -1, "transport error, nothing sent"


class DeliveryUnknown(CallFailed):
    """The connection broke while sending: the message may have arrived."""

    code, status = -28, "transport error, delivery unknown"


class ControllerUnreachable(WxsupError):
    """The controller cannot be reached, or what answers is none; whether a call was carried out is not known."""


class SettingInvalid(WxsupError):
    """A setting has a bad value."""


class Refusal(WxsupError):
    """A command cannot be carried out here and now."""
