from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wxsup.credentials import Credentials, forget, take


def environ(query: str = "", **more: str) -> dict[str, Any]:
    return {"QUERY_STRING": query, "RAW_URI": "/openwx/x" + (f"?{query}" if query else ""), **more}


@pytest.mark.parametrize(
    ("query", "found", "left"),
    [
        ("", (), ""),
        ("token=X", ("X",), ""),
        ("client=a&token=X", ("X",), "client=a"),
        ("token=X&client=a", ("X",), "client=a"),
        ("client=a&token=X&content=%2F+%E5%BE%AE", ("X",), "client=a&content=%2F+%E5%BE%AE"),
        ("%74oken=X", ("X",), ""),
        ("%74%6f%6B%65%6e=%58&a=1", ("X",), "a=1"),
        ("token=X&token=Y", ("X", "Y"), ""),
        ("token=X&%74oken=X", ("X", "X"), ""),
        ("token", ("",), ""),
        ("token=", ("",), ""),
        ("token=a=b", ("a=b",), ""),
        ("token=a+b%20c", ("a b c",), ""),
        ("&&client=a&&token=X&", ("X",), "&&client=a&&"),
        ("client=a&#&token=X", ("X",), "client=a&#"),
        ("xtoken=X&tokens=X&Token=X&token%00=X", (), "xtoken=X&tokens=X&Token=X&token%00=X"),
    ],
)
def test_the_token_is_taken_out_of_the_address(query: str, found: tuple[str, ...], left: str) -> None:
    request = environ(query)
    assert take(request).query == found
    assert request["QUERY_STRING"] == left
    assert request["RAW_URI"] == "/openwx/x" + (f"?{left}" if left else "")


def test_an_address_without_a_token_stays_to_the_letter() -> None:
    for raw in ("/openwx/x?", "/openwx/x?a=1&&b", "/openwx/%74oken?x", "http://127.0.0.1/openwx/x?client=a"):
        request = {"QUERY_STRING": raw.partition("?")[2], "RAW_URI": raw}
        take(request)
        assert request["RAW_URI"] == raw


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Bearer X", ("X",)),
        ("bearer  X ", ("X",)),
        ("BEARER X", ("X",)),
        ("Bearer", ("",)),
        ("Bearer X,Bearer Y", ("X,Bearer Y",)),
        ("Basic dTpw", ()),
        ("X", ()),
        ("", ()),
    ],
)
def test_the_token_of_the_header_is_taken_and_no_authorization_is_left(header: str, found: tuple[str, ...]) -> None:
    request = environ(HTTP_AUTHORIZATION=header)
    assert take(request) == Credentials(found, ())
    assert "HTTP_AUTHORIZATION" not in request


NAME = st.sampled_from(["token", "client", "content", "tok", "token ", "a&b", "微"]) | st.text(max_size=6)


@given(
    st.lists(st.tuples(NAME, st.text(st.characters(exclude_categories=["Cs"]), max_size=10), st.booleans()), max_size=6)
)
def test_whatever_the_encoding_no_reader_of_the_query_finds_a_token_and_all_else_is_there(
    pairs: list[tuple[str, str, bool]],
) -> None:
    def encoded(text: str, wholly: bool) -> str:
        return (
            "".join(f"%{byte:02x}" for byte in text.encode(errors="replace"))
            if wholly
            else quote(text, safe="", errors="replace")
        )

    query = "&".join(f"{encoded(name, wholly)}={encoded(value, not wholly)}" for name, value, wholly in pairs)
    before = parse_qsl(query, keep_blank_values=True)
    request = environ(query)
    found = take(request)
    assert parse_qsl(request["QUERY_STRING"], keep_blank_values=True) == [pair for pair in before if pair[0] != "token"]
    assert list(found.query) == [value for name, value in before if name == "token"]
    assert request["RAW_URI"].partition("?")[2] == request["QUERY_STRING"]


def test_a_header_in_which_the_token_stands_is_forgotten() -> None:
    request = environ(
        HTTP_REFERER="http://x/?token=wxsup_1", HTTP_X_ORIGINAL_URI="/openwx/x?token=wxsup_1", HTTP_ACCEPT="*/*"
    )
    forget(request, "wxsup_1")
    assert [name for name in request if name.startswith("HTTP_")] == ["HTTP_ACCEPT"]
