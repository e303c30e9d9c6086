"""What a message quotes: whole, in part, or only by an id (ilink-protocol.md 7.3)."""

from __future__ import annotations

import hashlib
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from wxsup.client.drivers.ilink.messages import content
from wxsup.client.drivers.ilink.quotes import quote, selected

TEXT = "one two one two three"


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def quoted(ref: Any, said: dict[str, str] | None = None) -> dict[str, Any]:
    return quote({"type": 1, "ref_msg": ref}, (said or {}).get, content)


@pytest.mark.parametrize("ref", [None, {}, [], "text", 5])
def test_what_quotes_nothing_has_no_quote(ref: Any) -> None:
    assert quoted(ref) == {}


def test_a_quoted_item_is_taken_as_it_came() -> None:
    found = quoted({"title": "Anne: hi", "message_item": {"type": 1, "msg_id": 7, "text_item": {"text": "hi"}}})
    assert found == {"quote_id": "7", "quote_title": "Anne: hi", "quote_content": "hi"}


def test_a_quoted_file_is_its_label() -> None:
    assert quoted({"message_item": {"type": 2, "image_item": {}}})["quote_content"] == "[图片]"


def test_an_id_alone_is_looked_up() -> None:
    assert quoted({"svr_id": 2**63 + 1}, {str(2**63 + 1): "earlier"})["quote_content"] == "earlier"
    assert quoted({"svr_id": "8"}, {"9": "earlier"}) == {"quote_id": "8", "quote_title": "", "quote_content": ""}


@pytest.mark.parametrize(
    ("partial", "expected"),
    [
        ({"start": "one", "end": "two"}, "one two"),
        ({"start": "two", "end": "three"}, "two one two three"),
        ({"start": "one", "end": "two", "startindex": 1, "endindex": 1}, "one two"),  # counted over all
        ({"start": "one", "end": "two", "startindex": 1, "endindex": 0, "quotemd5": md5("one two")}, "one two"),
        ({"start": "one", "end": "two", "startindex": 0, "endindex": 1, "quotemd5": md5("one two one two")}, TEXT[:15]),
        ({"start": "one", "end": "two", "quotemd5": md5("something else")}, ""),
        ({"start": "four", "end": "two"}, ""),
        ({"start": "one", "end": "four"}, ""),
        ({"start": "one", "end": "two", "startindex": 9}, ""),
        ({"start": "", "end": ""}, ""),
        ({}, ""),
    ],
)
def test_a_selected_part_is_found(partial: dict[str, Any], expected: str) -> None:
    assert selected(TEXT, partial) == expected


@given(st.text(), st.data())
def test_what_was_selected_with_its_digest_is_found_again(text: str, data: st.DataObject) -> None:
    """The phone tells start and end as texts; with quotemd5 it is that part or nothing."""
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    part = text[begin:end]
    partial = {"start": part[:3], "end": part[-3:], "quotemd5": md5(part), "startindex": 0, "endindex": 0}
    assert selected(text, partial) in (part, "")
