"""The single-account API at the door: who may call, what was called with, and how it is answered (openwx-api.md 1)."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterator
from urllib.parse import parse_qsl

from wxsup import names
from wxsup.client.calls import Call, Calls, Upload
from wxsup.client.server import Reply, Request, in_json
from wxsup.errors import ApiNotFound, NameInvalid, RequestBroken, Unauthorized, WrongClient, WxsupError

logger = logging.getLogger(__name__)

MAX_FIELDS = 200
METHODS = ("GET", "HEAD", "POST")
MULTIPART = "multipart/form-data"
MOST_HEAD = 4096


class Openwx:
    """Answers the `calls` of the client called `name` to those who know its `secret`."""

    def __init__(self, name: str, calls: Calls, *, secret: str = "") -> None:
        self._name = name
        self._calls = calls
        self._secret = secret

    def answer(self, request: Request) -> Reply:
        """Answer one request; what goes wrong becomes the documented JSON."""
        try:
            if request.path == "*" and self._secret:  # which no call that the controller passes on can be
                return Reply(200, names.proof(self._secret, request.challenge).encode(), "text/plain")
            if self._secret and not hmac.compare_digest(_bytes(request.secret), _bytes(self._secret)):
                raise Unauthorized
            call = _call(request)
            act = self._calls.get(request.path.removeprefix("/openwx/"))
            if act is None or not request.path.startswith("/openwx/") or request.method not in METHODS:
                raise ApiNotFound
            if call.parameters.get("client", self._name) != self._name:
                raise WrongClient(f"this is the client {self._name}")
            answer = act(call)
            return answer if isinstance(answer, Reply) else in_json(answer)
        except WxsupError as ex:
            return in_json(ex.body(), status=ex.http_status)
        except Exception:
            logger.exception("call failed", extra={"action": "call", "call": request.path[:60]})
            return in_json({"code": -1, "status": "internal error"}, status=500)

    def call_by_ourselves(self, path: str, query: str) -> None:
        """Make a call whose answer goes nowhere, as poll_api asks for (openwx-api.md 7)."""
        reply = self.answer(Request("GET", path, query, secret=self._secret, still_there=lambda: False))
        reply.written(False)  # nobody has seen it
        logger.info("called by poll_api", extra={"action": "poll", "call": path[:60], "status": reply.status})


def _call(request: Request) -> Call:
    """Return query and form as one; raise NameInvalid when a parameter comes twice or is no UTF-8."""
    found: dict[str, str] = {}
    uploads: dict[str, Upload] = {}
    pairs = _pairs(request.query.encode())
    if request.content_type.partition(";")[0].strip().lower() == MULTIPART:
        fields, uploads = _multipart(request)
        pairs += fields
    else:
        pairs += _pairs(request.form)
    if len(pairs) > MAX_FIELDS:
        raise NameInvalid(f"there are more than {MAX_FIELDS} parameters")
    for name, value in pairs:
        if name in found:
            raise NameInvalid(f"{name} is given more than once")
        found[name] = value
    return Call(found, uploads, request.still_there)


def _pairs(encoded: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(encoded.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError as ex:
        raise NameInvalid("the parameters are not UTF-8") from ex
    except ValueError as ex:
        raise NameInvalid(f"there are more than {MAX_FIELDS} parameters") from ex


def _multipart(request: Request) -> tuple[list[tuple[str, str]], dict[str, Upload]]:
    """Return fields and files of a form with files (RFC 7578)."""
    pairs: list[tuple[str, str]] = []
    uploads: dict[str, Upload] = {}
    for name, filename, content in _parts_of_form(request):
        if filename is None:
            try:
                pairs.append((name, content.decode()))
            except UnicodeDecodeError as ex:
                raise NameInvalid("the parameters are not UTF-8") from ex
        elif name in uploads:
            raise NameInvalid(f"{name} is given more than once")
        else:
            uploads[name] = Upload(filename, content)
    return pairs, uploads


def _parts_of_form(request: Request) -> Iterator[tuple[str, str | None, bytes]]:
    """Yield name, file name and content of each part (RFC 2046 5.1.1).

    The library parses heads alone: of a body it makes objects line by line, which a small one of many lines makes slow.
    """
    from email.message import Message
    from email.parser import BytesHeaderParser
    from email.policy import HTTP

    of_form = Message()
    of_form["Content-Type"] = request.content_type
    boundary = of_form.get_boundary()
    if not boundary:
        raise RequestBroken("the form has no boundary")
    first, *pieces = (b"\r\n" + request.form).split(b"\r\n--" + boundary.encode("latin-1", "replace"), MAX_FIELDS + 1)
    for piece in pieces:
        if piece.startswith(b"--"):
            return
        head, blank, content = piece.partition(b"\r\n\r\n")
        if not blank or len(head) > MOST_HEAD:
            raise RequestBroken("a part of the form has no head, or one that is too long")
        told = BytesHeaderParser(policy=HTTP).parsebytes(head.lstrip(b" \t\r\n"))
        name, filename = told.get_param("name", header="content-disposition"), told.get_filename()
        if not isinstance(name, str):
            raise RequestBroken("a part of the form has no name")
        yield name, filename, content
    raise RequestBroken(f"the form is broken off, or has more than {MAX_FIELDS} parts")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
