"""The pretend CDN: tickets for uploads, what is checked of an upload, and downloads (ilink-protocol.md 9.1, 9.2)."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

from wxsup.sandbox import cipher
from wxsup.sandbox.blobs import MOST_BLOBS, Blobs, Lost
from wxsup.sandbox.body import Body, size_in, text_in
from wxsup.sandbox.cipher import Undecipherable
from wxsup.sandbox.server import BadRequest, Page, Request, Routes
from wxsup.sandbox.watch import Watch

logger = logging.getLogger(__name__)

#: The calls by the last part of their path.
CALLS = ("upload", "download")

BASE = "/c2c"
UPLOAD, DOWNLOAD = f"{BASE}/upload", f"{BASE}/download"
MOST_BYTES = 25 * 1024 * 1024  # of a plain file
MOST_BODY = cipher.size_of(MOST_BYTES)
MOST_TICKETS = 1000
MEDIA_TYPES = (1, 2, 3, 4)  # image, video, file, voice
HEX = re.compile("[0-9a-fA-F]{32}")
BYTES = "application/octet-stream"

Known = TypeVar("Known")


class Refused(Exception):
    """The CDN does not do that; the text is its x-error-message."""

    def __init__(self, text: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Ticket:
    """What a bot has announced to upload, of whatever kind it is."""

    user: str
    filekey: str
    key: bytes
    cipher_size: int
    size: int
    md5: str

    def check(self, content: bytes) -> None:
        """Refuse what is not the cipher of what was announced."""
        if len(content) != self.cipher_size:
            raise Refused(f"the body has {len(content)} bytes where filesize says {self.cipher_size}")
        try:
            plain = cipher.decrypt(content, self.key)
        except Undecipherable as ex:
            raise Refused("the body cannot be decrypted with the aeskey") from ex
        if len(plain) != self.size:
            raise Refused(f"{len(plain)} bytes were encrypted where rawsize says {self.size}")
        if hashlib.md5(plain, usedforsecurity=False).hexdigest() != self.md5:
            raise Refused("what was encrypted has another md5 than rawfilemd5")


class CDN:
    """Takes and hands out encrypted bytes; with `full_urls` it also says where in whole addresses.

    A whole address is of another form on purpose: a client can only take it as it is.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.full_urls = True
        self._blobs = blobs
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._users: dict[str, str] = {}

    def routes(self, watch: Watch) -> Routes:
        """Return what is answered where."""
        return {
            ("POST", UPLOAD): watch.over("upload", self._user_of, self.upload),
            ("GET", DOWNLOAD): watch.over("download", self._user_of, self.download),
        }

    def put(self, content: bytes, user: str) -> str:
        """Keep bytes of a conversation with `user`, encrypted as they are, and return the param that names them."""
        param = self._blobs.put(content)
        self._remember(self._users, param, user, MOST_BLOBS)
        return param

    def get(self, param: str) -> bytes:
        """Return what was put; raises Lost."""
        return self._blobs.get(param)

    def ticket(self, body: Body, user: str, url: str) -> dict[str, object]:
        """Hand out a ticket to upload what `body` announces for `user`, and one for its thumbnail if it has one."""
        ticket = _ticket(body, user)
        reply: dict[str, object] = {"ret": 0, "upload_param": self._keep(ticket)}
        if self.full_urls:
            reply["upload_full_url"] = f"{url}{UPLOAD}?ticket={quote(str(reply['upload_param']))}"
        if body.get("no_need_thumb") is not True and body.get("thumb_rawsize") is not None:
            reply["thumb_upload_param"] = self._keep(_ticket(body, user, "thumb_"))
        return reply

    def link(self, param: str, url: str) -> dict[str, str]:
        """Return the fields that say where the bytes under `param` are."""
        link = {"encrypt_query_param": param}
        return {**link, "full_url": f"{url}{DOWNLOAD}?link={quote(param)}"} if self.full_urls else link

    def upload(self, request: Request) -> Page:
        """Take what a ticket was handed out for; the same ticket is good again, as an answer may get lost."""
        try:
            ticket = self._tickets.get(_param(request))
            if ticket is None:
                raise Refused("there is no such ticket", HTTPStatus.FORBIDDEN)
            if "ticket" not in request.query and request.query.get("filekey") != ticket.filekey:
                raise Refused("the filekey is not that of the ticket")
            ticket.check(request.body)
        except Refused as ex:
            return _refusal(ex)
        param = self.put(request.body, ticket.user)
        logger.info("media uploaded", extra={"action": "upload", "user": ticket.user, "bytes": len(request.body)})
        return Page(b"", BYTES, {"x-encrypted-param": param})

    def download(self, request: Request) -> Page:
        """Return what was uploaded, encrypted as it is."""
        try:
            return Page(self.get(_param(request)), BYTES)
        except Lost as ex:
            return _refusal(Refused(str(ex), HTTPStatus.NOT_FOUND))

    def _user_of(self, request: Request) -> str:
        """Return the user whose conversation the bytes belong to, "" if that is not known."""
        param = _param(request)
        ticket = self._tickets.get(param)
        return ticket.user if ticket else self._users.get(param, "")

    def _keep(self, ticket: Ticket) -> str:
        param = secrets.token_urlsafe(48)
        self._remember(self._tickets, param, ticket, MOST_TICKETS)
        return param

    def _remember(self, known: dict[str, Known], param: str, value: Known, most: int) -> None:
        with self._lock:
            known[param] = value
            if len(known) > most:
                del known[next(iter(known))]


def _ticket(body: Body, user: str, prefix: str = "") -> Ticket:
    """Read what a bot announces; a thumbnail has sizes and an md5 of its own."""
    if body.get("media_type") not in MEDIA_TYPES:
        raise BadRequest(f"media_type is none of {MEDIA_TYPES}")
    size, cipher_size = size_in(body, f"{prefix}rawsize"), size_in(body, f"{prefix}filesize")
    if cipher_size != cipher.size_of(size):
        raise BadRequest(f"{prefix}filesize is not the size of {size} bytes when encrypted")
    if size > MOST_BYTES:
        raise BadRequest(f"{prefix}rawsize is more than {MOST_BYTES}")
    md5 = _hex(body, f"{prefix}rawfilemd5").lower()
    return Ticket(user, _hex(body, "filekey"), bytes.fromhex(_hex(body, "aeskey")), cipher_size, size, md5)


def _hex(body: Body, name: str) -> str:
    text = text_in(body, name)
    if not HEX.fullmatch(text):
        raise BadRequest(f"{name} is not 32 hex digits")
    return text


def _param(request: Request) -> str:
    """Return the param that an address carries, in the form of a whole address or in the other."""
    query = request.query
    return query.get("ticket") or query.get("link") or query.get("encrypted_query_param", "")


def _refusal(ex: Refused) -> Page:
    return Page(str(ex).encode(), "text/plain; charset=utf-8", {"x-error-message": str(ex)}, ex.status)
