"""What the calls under /sandbox/ are given, read strictly: what a call does not take is refused, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from wxsup.sandbox.blobs import Lost
from wxsup.sandbox.codes import Unfit, Unknown
from wxsup.sandbox.server import Answer, BadRequest, Forbidden, NotFound, Request

MOST_BODY = 64 * 1024

Reply = dict[str, object]
Number = TypeVar("Number", int, float)

#: The kinds a field can be of, and what they are called; a whole number is good for a float.
KINDS: dict[type, str] = {
    str: "a text",
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    dict: "an object",
}


def body_of(request: Request, most: int = MOST_BODY) -> dict[str, Any]:
    """Return the body, unless a page of somebody else's made the browser send it (Fetch Metadata, CORS preflight)."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Forbidden("another site may not do that")
    if request.headers.get_content_type() != "application/json":
        raise BadRequest("the Content-Type must be application/json")
    if len(request.body) > most:
        raise BadRequest(f"the body is larger than {most} bytes")
    return request.json()


def checked(
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
        if type(value) is not kinds[name] and not (kinds[name] is float and type(value) is int):
            raise BadRequest(f"{name} is not {KINDS[kinds[name]]}")
    return dict(given)


def one_of(fields: Mapping[str, str], name: str, choices: Mapping[str, object] | tuple[str, ...]) -> str:
    """Return a field that must be one of `choices`; the first of them if it is not there."""
    value = fields.get(name, next(iter(choices)))
    if value not in choices:
        raise BadRequest(f"{name} is none of {', '.join(filter(None, choices))}")
    return value


def within(fields: Mapping[str, Number], name: str, least: Number, most: Number, default: Number) -> Number:
    """Return a number that must lie from `least` to `most`; `default` if it is not there."""
    number = fields.get(name, default)
    if not least <= number <= most:
        raise BadRequest(f"{name} is not a number from {least} to {most}")
    return number


def number_in(query: Mapping[str, str], name: str, kind: Callable[[str], Number], most: Number) -> Number:
    """Return a number of a query, from 0 to `most`; 0 if it is not there."""
    try:
        number = kind(query.get(name, "0"))
    except ValueError:
        number = kind("-1")
    if not kind("0") <= number <= most:
        raise BadRequest(f"{name} is not a number from 0 to {most}")
    return number


def in_sentences(call: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """Turn what the world refuses into what HTTP says."""

    @functools.wraps(call)
    def answer(request: Request) -> Answer:
        try:
            return call(request)
        except (Unknown, Lost) as ex:
            raise NotFound(str(ex)) from ex
        except Unfit as ex:
            raise BadRequest(str(ex)) from ex

    return answer
