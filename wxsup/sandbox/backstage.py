"""The JSON calls that make the server misbehave and move its clock, and that show what clients sent it. For tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from wxsup.sandbox import cdn, ilink
from wxsup.sandbox.cdn import CDN
from wxsup.sandbox.clock import Clock
from wxsup.sandbox.faults import Fault, Faults, TooMany
from wxsup.sandbox.fields import Reply, body_of, checked, number_in, one_of, within
from wxsup.sandbox.ilink import Hold
from wxsup.sandbox.journal import Entry, Journal
from wxsup.sandbox.server import BadRequest, Page, Request, Routes, page_of

MOST_TIMES = 1_000_000
MOST_SECONDS = 3600.0
MOST_ADVANCE = 1000 * 24 * 3600.0
MOST_NUMBER = 10**12

CALLS = (*ilink.CALLS, *cdn.CALLS)
CLOSE = ("", "before", "middle")
EMPTY_STATUS = (HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED)  # RFC 9110 6.4.1: no body
FRAMING = ("connection", "content-length", "transfer-encoding")  # the server's own business
HEADER_NAME, HEADER_VALUE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"), re.compile(r"[\t\x20-\x7e]*")

#: The fields of a misbehaviour besides `call`; docs/reference/sandbox.md says what they do.
FIELDS: Mapping[str, type] = {
    "user": str,
    "times": int,
    "answer": dict,
    "change": dict,
    "status": int,
    "body": str,
    "headers": dict,
    "close": str,
    "effect": bool,
    "hold": float,
    "drip": float,
}


class Backstage:
    """The calls under /sandbox/ that no person makes."""

    def __init__(self, clock: Clock, hold: Hold, faults: Faults, journal: Journal, cdn: CDN) -> None:
        self._clock = clock
        self._hold = hold
        self._faults = faults
        self._journal = journal
        self._cdn = cdn

    def routes(self) -> Routes:
        """Return what is answered where."""
        calls: dict[tuple[str, str], Callable[[Request], Reply]] = {
            ("POST", "misbehave"): self.misbehave,
            ("POST", "behave"): self.behave,
            ("POST", "hold"): self.hold,
            ("POST", "clock"): self.clock,
            ("POST", "cdn"): self.cdn,
            ("GET", "requests"): self.requests,
        }
        return {(method, f"/sandbox/{name}"): call for (method, name), call in calls.items()}

    def misbehave(self, request: Request) -> Reply:
        """Let a call of the bot API go wrong, the next time or more often."""
        fields = checked(body_of(request), {"call": str}, FIELDS)
        call = one_of(fields, "call", CALLS)
        if call in cdn.CALLS and "change" in fields:
            raise BadRequest(f"{call} answers no JSON that could be changed: say what is answered instead")
        times = within(fields, "times", 0, MOST_TIMES, 1)
        try:
            self._faults.add(call, fields.get("user", ""), times, _fault(fields))
        except TooMany as ex:
            raise BadRequest(str(ex)) from ex
        return {}

    def behave(self, request: Request) -> Reply:
        """Let everything go right again."""
        checked(body_of(request))
        self._faults.clear()
        return {}

    def hold(self, request: Request) -> Reply:
        """Hold calls without news that long from now on."""
        fields = checked(body_of(request), {"seconds": float})
        self._hold.seconds = within(fields, "seconds", 0.0, MOST_SECONDS, 0.0)
        return {}

    def clock(self, request: Request) -> Reply:
        """Move the clock of the server."""
        fields = checked(body_of(request), {"advance": float})
        self._clock.advance(within(fields, "advance", -MOST_ADVANCE, MOST_ADVANCE, 0.0))
        return {"now": self._clock()}

    def cdn(self, request: Request) -> Reply:
        """Say where media are to be fetched and put in whole addresses too, or in parameters alone."""
        fields = checked(body_of(request), {"full_urls": bool})
        self._cdn.full_urls = fields["full_urls"]
        return {}

    def requests(self, request: Request) -> Reply:
        """List the last requests to the bot API, newest last."""
        fields = checked(request.query, optional={"call": str, "after": str})
        after = number_in(fields, "after", int, MOST_NUMBER)
        call = one_of(fields, "call", ("", *CALLS))
        return {"requests": [_told(entry) for entry in self._journal.entries(call, after)]}


def _fault(fields: Mapping[str, Any]) -> Fault:
    """Return the fault that these fields describe, if they can be meant together."""
    given = {name for name in ("answer", "change", "status") if name in fields}
    if len(given) > 1:
        raise BadRequest("only one of answer, change and status can be")
    if given.isdisjoint({"status"}) and not {"body", "headers"}.isdisjoint(fields):
        raise BadRequest("body and headers go with a status")
    close = one_of(fields, "close", CLOSE)
    delay, drip = (within(fields, name, 0.0, MOST_SECONDS, 0.0) for name in ("hold", "drip"))
    if not (given or close or delay or drip):
        raise BadRequest("one of answer, change, status, close, hold and drip is needed")
    true_answer = given == {"change"} or not (given or close)
    effect = fields.get("effect", true_answer)
    if true_answer and not effect:
        raise BadRequest("a call without effect has no true answer: say what is answered instead")
    instead = _page(fields) if "status" in fields else page_of(fields["answer"]) if "answer" in fields else None
    return Fault(effect, fields.get("change"), instead, close, delay, drip)


def _page(fields: Mapping[str, Any]) -> Page:
    status, body = within(fields, "status", 200, 599, 200), fields.get("body", "").encode()
    if status in EMPTY_STATUS and body:
        raise BadRequest(f"an answer with status {status} has no body")
    headers = dict(fields.get("headers", {}))
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or name.lower() in FRAMING:
            raise BadRequest("headers has a name that cannot be chosen")
        if not (isinstance(value, str) and HEADER_VALUE.fullmatch(value)):
            raise BadRequest("headers has a value that is not a printable text")
    kind = next((headers.pop(name) for name in list(headers) if name.lower() == "content-type"), "text/html")
    return Page(body, kind, headers, status)


def _told(entry: Entry) -> Reply:
    return {"n": entry.number, **{name: value for name, value in vars(entry).items() if name != "number"}}
