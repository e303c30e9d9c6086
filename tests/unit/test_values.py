from __future__ import annotations

from dataclasses import dataclass, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wxsup import addresses, names, values
from wxsup.addresses import Address
from wxsup.options import Options
from wxsup.settings import Settings
from wxsup.values import declare


@dataclass(frozen=True)
class Table:
    folder: Path = declare("/srv", values.path, "a folder")
    file: Path = declare("{folder}/file", values.path, "a file in it")
    count: int = declare("3", values.integer(1, 9), "a number")


ONE_TO_NINE = values.integer(1, 9)
ONE_TO_NINE_SECONDS = values.seconds(1, 9)
ONE_OF_TWO = values.choice("yes", "no")


@pytest.mark.parametrize(
    ("parse", "value", "expected"),
    [
        (values.text, "", ""),
        (values.text, "微信 'x'", "微信 'x'"),
        (values.flag, "1", True),
        (values.flag, "YES", True),
        (values.flag, "on", True),
        (values.flag, "true", True),
        (values.flag, "0", False),
        (values.flag, "No", False),
        (values.flag, "off", False),
        (values.flag, "false", False),
        (ONE_TO_NINE, "1", 1),
        (ONE_TO_NINE, "9", 9),
        (ONE_TO_NINE, "007", 7),
        (values.integer(-9, 9), "-3", -3),
        (ONE_TO_NINE_SECONDS, "1", 1.0),
        (ONE_TO_NINE_SECONDS, "2.5", 2.5),
        (ONE_OF_TWO, "no", "no"),
        (values.url, "", ""),
        (values.url, "http://127.0.0.1:8080/a?b=c", "http://127.0.0.1:8080/a?b=c"),
        (values.url, "https://[::1]/", "https://[::1]/"),
        (addresses.address, "127.0.0.1:2000", Address("127.0.0.1", 2000)),
        (addresses.address, "[::1]:2000", Address("::1", 2000)),
        (addresses.address, "localhost:0", Address("localhost", 0)),
        (values.many(ONE_TO_NINE), "1, 2,,3,", (1, 2, 3)),
        (values.many(ONE_TO_NINE), "", ()),
        (values.path, "/a b/100%", Path("/a b/100%")),
        (values.optional(ONE_TO_NINE), "", None),
        (values.optional(ONE_TO_NINE), "4", 4),
        (values.pattern, "", ""),
        (values.pattern, "https://a/.*", "https://a/.*"),
        (values.version, "2.4.9", "2.4.9"),
        (values.duration, "90s", 90.0),
        (values.duration, "15m", 900.0),
        (values.duration, "12h", 43200.0),
        (values.duration, "30d", 2592000.0),
        (values.duration, "99999w", 99999 * 604800.0),
        (addresses.network, "10.0.0.0/8", ip_network("10.0.0.0/8")),
        (addresses.network, "127.0.0.1", ip_network("127.0.0.1/32")),
        (addresses.network, "2001:db8::/32", ip_network("2001:db8::/32")),
    ],
)
def test_a_good_text_becomes_a_value(parse: values.Parser, value: str, expected: object) -> None:
    found = parse(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("parse", "value", "reason"),
    [
        (values.text, "a\nb", "control characters"),
        (values.flag, "", "1 or 0"),
        (values.flag, "2", "1 or 0"),
        (values.flag, "yes ", "1 or 0"),
        (ONE_TO_NINE, "0", "from 1 to 9"),
        (ONE_TO_NINE, "10", "from 1 to 9"),
        (ONE_TO_NINE, "", "from 1 to 9"),
        (ONE_TO_NINE, "1.0", "from 1 to 9"),
        (ONE_TO_NINE, " 1", "from 1 to 9"),
        (ONE_TO_NINE, "1_0", "from 1 to 9"),
        (ONE_TO_NINE, "٣", "from 1 to 9"),
        (ONE_TO_NINE, "5\n", "from 1 to 9"),
        (ONE_TO_NINE_SECONDS, "0.9", "from 1 to 9"),
        (ONE_TO_NINE_SECONDS, "9.1", "from 1 to 9"),
        (ONE_TO_NINE_SECONDS, "nan", "from 1 to 9"),
        (ONE_TO_NINE_SECONDS, "1e0", "from 1 to 9"),
        (ONE_TO_NINE_SECONDS, "", "from 1 to 9"),
        (ONE_OF_TWO, "maybe", "one of yes, no"),
        (ONE_OF_TWO, "", "one of yes, no"),
        (values.url, "ftp://a/", "http or https URL"),
        (values.url, "//a/", "http or https URL"),
        (values.url, "http://", "http or https URL"),
        (values.url, "http://a b/", "http or https URL"),
        (values.url, "http://a/\r\nX: y", "control characters"),
        (values.url, "http://a:b/", "[Pp]ort"),
        (values.url, "http://[::1/", "IPv6"),
        (addresses.address, "2000", "HOST:PORT"),
        (addresses.address, ":2000", "HOST:PORT"),
        (addresses.address, "a:", "HOST:PORT"),
        (addresses.address, "a:65536", "HOST:PORT"),
        (addresses.address, "a:-1", "HOST:PORT"),
        *(
            (values.duration, value, "such as 12h")
            for value in ("", "0d", "30", "d", "1.5h", "-1d", "30d ", "100000w", "٣d")
        ),
        (addresses.network, "10.0.0.7/8", "host bits"),
        (addresses.network, "everywhere", "does not appear to be"),
        (values.many(ONE_TO_NINE), "1,x", "from 1 to 9"),
        (values.many(ONE_TO_NINE, least=1), " , ", "1 entry or more"),
        (values.path, "", "empty"),
        (values.path, "/a\nb", "control characters"),
        (values.path, "~nobody-of-that-name/x", "home"),
        *((values.path, f"/a{character}b", "quotes") for character in """"';#,\\$`"""),
        (values.optional(ONE_TO_NINE), "x", "from 1 to 9"),
        (values.pattern, "(", "not a regular expression"),
        (values.version, "2.4", "2.4.9"),
        (values.version, "2.4.9\n", "2.4.9"),
        (values.version, "2.4.٩", "2.4.9"),
    ],
)
def test_a_bad_text_is_refused_with_the_reason(parse: values.Parser, value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(value)


ALL_PARSERS: list[values.Parser] = [
    values.text,
    values.flag,
    values.integer(-5, 10**17),
    values.seconds(0, 1000),
    ONE_OF_TWO,
    values.url,
    addresses.address,
    values.path,
    values.version,
    values.many(values.text),
    values.optional(values.url),
]


@given(st.sampled_from(ALL_PARSERS), st.text() | st.from_regex(r"[0-9.:/\[\]~a-z-]*", fullmatch=True))
def test_whatever_comes_a_parser_answers_or_says_why_not(parse: values.Parser, value: str) -> None:
    """No text makes a parser fail in another way, and no control character gets through."""
    try:
        found = parse(value)
    except ValueError as ex:
        assert str(ex)
    else:
        assert not names.has_control(str(found))


@given(st.integers(-20, 20))
def test_a_number_is_taken_exactly_in_its_range(number: int) -> None:
    take = values.integer(-7, 7)
    if -7 <= number <= 7:
        assert take(str(number)) == number
    else:
        with pytest.raises(ValueError, match="from -7 to 7"):
            take(str(number))


@given(st.floats(0, 999, allow_nan=False))
def test_seconds_come_back_from_their_text(number: float) -> None:
    assert values.seconds(0, 999)(f"{number:.6f}") == pytest.approx(number, abs=1e-6)


@given(st.sampled_from(["127.0.0.1", "::1", "localhost", "example.org"]), st.integers(0, 65535))
def test_an_address_comes_back_from_its_text(host: str, port: int) -> None:
    assert addresses.address(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("0.0.0.0", 2000), "http://127.0.0.1:2000"),
        (Address("::", 2000), "http://[::1]:2000"),
        (Address("::1", 2000), "http://[::1]:2000"),
        (Address("10.0.0.7", 2000), "http://10.0.0.7:2000"),
    ],
)
def test_the_url_of_an_address_is_reachable_from_here(address: Address, url: str) -> None:
    assert address.url == url


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert Address(host, 1).loopback is loopback


def test_a_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/wx")
    assert values.path("var") == tmp_path / "var"
    assert values.path("~/var") == Path("/home/wx/var")


def test_the_working_directory_brings_nothing_into_a_path_that_may_not_stand_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's ; mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="quotes"):
        values.path("var")
    assert values.path("/srv") == Path("/srv")


def test_a_table_takes_its_defaults() -> None:
    assert values.read(Table, {}) == Table(Path("/srv"), Path("/srv/file"), 3)


def test_a_default_follows_the_field_it_names() -> None:
    assert values.read(Table, {"folder": "/opt"}).file == Path("/opt/file")
    assert values.read(Table, {"folder": "/opt", "file": "/etc/x"}).file == Path("/etc/x")


def test_braces_in_a_given_value_name_no_field() -> None:
    assert values.read(Table, {"folder": "/{count}"}).file == Path("/{count}/file")
    assert values.read(Table, {"file": "/{folder}"}).file == Path("/{folder}")


def test_names_the_table_does_not_have_are_left_to_the_caller() -> None:
    assert values.read(Table, {"colour": "red"}) == values.read(Table, {})


def test_a_bad_value_names_its_field() -> None:
    with pytest.raises(ValueError, match=r"^count is '10': it must be a whole number from 1 to 9$"):
        values.read(Table, {"count": "10"})


@pytest.mark.parametrize(
    ("allowed", "value", "expected"),
    [
        ("", "", False),
        ("", "http://a/", False),
        ("http://a/.*", "http://a/b", True),
        ("http://a/.*", "http://a.evil/b", False),
        ("http://a/", "http://a/b", False),
        ("http://a/", "xhttp://a/", False),
        ("http://a/|http://b/", "http://b/x", False),
    ],
)
def test_a_pattern_must_match_the_whole(allowed: str, value: str, expected: bool) -> None:
    assert values.matches(allowed, value) is expected


def test_every_declared_field_has_help() -> None:
    tables: list[Any] = [Options, Settings]
    assert [item.name for table in tables for item in fields(table) if not item.metadata["help"]] == []


@pytest.mark.parametrize("url", ["http://user:pw@host/", "http://host/路径", "http://微信.example/"])
def test_a_url_that_could_never_be_called_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="it must"):
        values.url(url)
