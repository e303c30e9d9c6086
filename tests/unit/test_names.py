from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.conftest import HOSTILE_NAMES
from wxsup import names
from wxsup.errors import NameInvalid

CLIENT_NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=names.MAX_BYTES
).filter(lambda text: len(text.encode()) <= names.MAX_BYTES)
ORDINARY = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", fullmatch=True)


@given(CLIENT_NAMES)
def test_the_name_comes_back_from_its_slug(name: str) -> None:
    assert names.name(names.slug(name)) == name


@given(CLIENT_NAMES)
def test_a_slug_keeps_to_its_alphabet_and_length(name: str) -> None:
    slug = names.slug(name)
    assert re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", slug)
    assert len(slug) <= 192


@given(ORDINARY)
def test_the_slug_of_an_ordinary_name_is_the_name(name: str) -> None:
    assert names.slug(name) == name


@given(CLIENT_NAMES, CLIENT_NAMES)
def test_two_names_never_share_a_slug(one: str, other: str) -> None:
    assume(one != other)
    assert names.slug(one) != names.slug(other)


@given(CLIENT_NAMES)
def test_a_slug_is_an_xml_id_and_no_folder(name: str) -> None:
    program = names.program(names.slug(name))
    assert ElementTree.fromstring(f'<a id="{program}"/>').get("id") == program
    assert re.fullmatch(r"[A-Za-z_][\w.-]*", program, re.ASCII)
    assert names.slug(name) not in (".", "..")


@given(st.text())
def test_what_is_no_slug_is_refused(text: str) -> None:
    """A slug is one exactly when it is the slug of some name."""
    try:
        assert names.slug(names.name(text)) == text
    except NameInvalid:
        assert names.slug_of(f"wxclient-{text}") is None


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("alice", "alice"),
        ("a-b_C9", "a-b_C9"),
        ("-rf", ".2drf"),
        ("-", ".2d"),
        ("..", ".2e.2e"),
        ("a.b", "a.2eb"),
        ("a b", "a.20b"),
        ("100%", "100.25"),
        ("你", ".e4.bd.a0"),
        ("Ä", ".c3.84"),
        ("a/b", "a.2fb"),
        ("a@b", "a.40b"),
    ],
)
def test_a_slug_escapes_byte_by_byte(name: str, slug: str) -> None:
    assert names.slug(name) == slug


@pytest.mark.parametrize("name", ["x" * 64, "é" * 32, "汉" * 21 + "x", "😀" * 16])
def test_64_bytes_are_a_name(name: str) -> None:
    assert names.name(names.slug(name)) == name


@pytest.mark.parametrize("name", ["x" * 65, "é" * 32 + "x", "汉" * 22, ""])
def test_65_bytes_are_none_and_no_bytes_neither(name: str) -> None:
    with pytest.raises(NameInvalid, match=f"1 to 64 bytes of UTF-8, not {len(name.encode())}"):
        names.slug(name)


@pytest.mark.parametrize(
    "character", ["\0", "\n", "\r", "\t", "\x0b", "\x1f", "\x7f", "\x85", "\u2028", "\u2029", "\ud800"]
)
def test_what_could_break_a_line_is_no_name(character: str) -> None:
    assert names.has_control(f"a{character}b")
    with pytest.raises(NameInvalid, match="control characters"):
        names.slug(f"a{character}b")


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_no_hostile_name_holds_a_control_character(name: str) -> None:
    assert not names.has_control(name)


@pytest.mark.parametrize(
    "slug",
    [
        "",
        "-a",
        ".",
        "..",
        ".2D",
        ".2",
        ".61",
        "a.20b.61",
        ".ff",
        ".0a",
        ".ed.a0.80",
        "a/b",
        "a b",
        "ä",
        "a\n",
        "x" * 65,
        ".20" * 65,
    ],
)
def test_text_that_slug_never_returns_is_not_decoded(slug: str) -> None:
    with pytest.raises(NameInvalid):
        names.name(slug)


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_a_program_leads_back_to_its_slug(name: str) -> None:
    slug = names.slug(name)
    assert names.program(slug) == f"wxclient-{slug}"
    assert names.slug_of(names.program(slug)) == slug


@pytest.mark.parametrize(
    "program",
    [
        "wxclient",
        "wxclient-",
        "wxclient--a",
        "wxcontroller",
        "xwxclient-a",
        "a-wxclient-b",
        "WXCLIENT-a",
        "wxclient-.ff",
        "wxclient-.61",
    ],
)
def test_a_program_of_others_has_no_slug(program: str) -> None:
    assert names.slug_of(program) is None


def test_a_slug_may_look_like_a_program() -> None:
    assert names.slug_of("wxclient-wxclient-a") == "wxclient-a"


def test_files_and_titles_are_those_of_the_document() -> None:
    assert names.document_file("state", "alice", "json") == "mojo_weixin_state_alice.json"
    assert names.process_title("微信") == "wxclient(微信)"
