from __future__ import annotations

import dataclasses
import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.conftest import HOSTILE_NAMES
from tests.unit.test_names import CLIENT_NAMES
from wxsup import names, record
from wxsup.errors import RecordInvalid
from wxsup.model import Client, Want

HARMLESS = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
VALUES = st.text(HARMLESS)
#: What shells, systemd and shlex read as more than a letter.
NASTY = st.text(st.sampled_from("""'"\\ $`#;&|<>%=~*?[](){}!^:\u3000\u00a0é汉😀"""))
KEYS = st.from_regex(r"MOJO_WEIXIN_[A-Z][A-Z_]{0,20}", fullmatch=True).filter(
    lambda key: key not in (record.ACCOUNT, record.PORT)
)
CLIENTS = st.builds(
    lambda name, **rest: Client(name=name, slug=names.slug(name), **rest),
    CLIENT_NAMES,
    port=st.integers(1, 65535),
    driver=st.sampled_from(["ilink", "web"]),
    params=st.dictionaries(VALUES, VALUES | NASTY, max_size=5),
    environment=st.dictionaries(KEYS, VALUES | NASTY, max_size=5),
    want=st.sampled_from(Want),
    pending=st.booleans(),
    created=st.floats(0, 1e11),
)


def client(name: str = "alice", **fields: Any) -> Client:
    return Client(**{"name": name, "slug": names.slug(name), "port": 3000, "driver": "ilink", **fields})


@given(CLIENTS)
def test_a_client_comes_back_from_its_record(one: Client) -> None:
    assert record.loads(record.dumps(one)) == one


@given(CLIENTS)
def test_a_shell_reads_the_same_as_we_do(one: Client) -> None:
    """By shlex, as /bin/sh would split the whole file into assignments."""
    text = record.dumps(one)
    assert dict(word.split("=", 1) for word in shlex.split(text)) == record.variables(text)


def test_the_real_shell_reads_the_same_as_we_do() -> None:
    hostile = {f"MOJO_WEIXIN_{key.upper()}": value for key, value in HOSTILE_NAMES.items()}
    text = record.dumps(client(environment=hostile))
    script = "set -a; . /dev/stdin; exec env -0"
    told = subprocess.run(["sh", "-c", script], input=text.encode(), capture_output=True, check=True, env={}).stdout
    found = dict(pair.split("=", 1) for pair in told.decode().rstrip("\0").split("\0"))
    assert found.items() >= record.variables(text).items()


@given(CLIENTS)
def test_a_record_has_one_line_for_each_variable(one: Client) -> None:
    text = record.dumps(one)
    assert text.endswith("\n")
    assert len(text.split("\n")) - 1 == len(text.splitlines()) == len(record.variables(text))


def test_name_and_port_win_over_the_environment() -> None:
    """Or an `account` or port among the variables would make a client answer for another."""
    one = client(environment={record.ACCOUNT: "bob", record.PORT: "1"})
    assert record.variables(record.dumps(one)).items() >= {record.ACCOUNT: "alice", record.PORT: "3000"}.items()


@pytest.mark.parametrize("value", ["a\nB=1", "a\rb", "\0", "a\x85b", "a\u2028b", "\ud800"])
@pytest.mark.parametrize("where", ["environment", "driver"])
def test_a_value_that_could_break_a_line_is_refused(value: str, where: str) -> None:
    fields: dict[str, Any] = {"environment": {"MOJO_WEIXIN_X": value}} if where == "environment" else {"driver": value}
    with pytest.raises(RecordInvalid, match="may not hold control characters"):
        record.dumps(client(**fields))


def test_params_with_line_breaks_stay_in_their_line() -> None:
    one = client(params={"a": "b\nMOJO_WEIXIN_X=1\r\t"})
    assert record.loads(record.dumps(one)) == one
    assert "MOJO_WEIXIN_X" not in record.variables(record.dumps(one))


GOOD = record.dumps(client(params={"log_level": "debug"}))


def changed(key: str, value: str | None) -> str:
    """Return a good record with one variable changed or, for None, left out."""
    given = {**record.variables(GOOD), key: value}
    return "".join(f"{key}={shlex.quote(text)}\n" for key, text in given.items() if text is not None)


def test_the_good_record_is_good() -> None:
    assert record.loads(changed("MOJO_WEIXIN_X", "y")).environment == {"MOJO_WEIXIN_X": "y"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "WXCLIENT_RECORD is missing"),
        *((changed(key, None), f"{key} is missing") for key in record.variables(GOOD)),
        (changed("WXCLIENT_RECORD", "2"), "schema '2' is not 1"),
        (changed("WXCLIENT_SLUG", "bob"), "name and slug differ"),
        (changed(record.ACCOUNT, "bob"), "name and slug differ"),
        (changed(record.ACCOUNT, ""), "1 to 64 bytes"),
        (changed(record.PORT, "0"), "0 is not a port"),
        (changed(record.PORT, "65536"), "65536 is not a port"),
        (changed(record.PORT, "x"), "invalid literal"),
        (changed("WXCLIENT_WANT", "down"), "'down' is not a valid Want"),
        (changed("WXCLIENT_CREATED", "now"), "could not convert"),
        (changed("WXCLIENT_PARAMS", "{"), "Expecting property name"),
        (changed("WXCLIENT_PARAMS", "[]"), "not an object of strings"),
        (changed("WXCLIENT_PARAMS", '{"a": 1}'), "not an object of strings"),
        (GOOD + "MOJO_WEIXIN_X='open\n", "line 10: No closing quotation"),
        (GOOD + "MOJO_WEIXIN_X\n", "line 10 is not KEY=value"),
        (GOOD + "MOJO WEIXIN=1\n", "line 10 is not KEY=value"),
        (GOOD + "MOJO_WEIXIN_X=1 rm\n", "line 10 is not KEY=value"),
        (GOOD + "\n", "line 10 is not KEY=value"),
        (GOOD + "=1\n", "line 10 is not KEY=value"),
    ],
)
def test_a_bad_record_says_what_is_wrong_with_it(text: str, reason: str) -> None:
    with pytest.raises(RecordInvalid, match=reason):
        record.loads(text)


@given(
    st.text() | st.text(HARMLESS).map(lambda text: GOOD + text) | st.integers(0, len(GOOD)).map(lambda end: GOOD[:end])
)
def test_any_text_is_a_record_or_invalid(text: str) -> None:
    try:
        found = record.loads(text)
    except RecordInvalid as ex:
        assert ex.reason
    else:
        assert record.loads(record.dumps(found)) == found


@pytest.mark.parametrize("field", [item.name for item in dataclasses.fields(Client)])
def test_no_field_of_a_client_is_forgotten(field: str) -> None:
    """A field that the record leaves out would come back as its default."""
    other: dict[str, Any] = {
        "params": {"a": "b"},
        "environment": {"MOJO_WEIXIN_X": "y"},
        "want": Want.GONE,
        "pending": True,
        "created": 7.5,
        "port": 3001,
        "driver": "web",
    }
    one = client("bob") if field in ("name", "slug") else client(**{field: other[field]})
    assert getattr(record.loads(record.dumps(one)), field) == getattr(one, field)
    assert getattr(one, field) != getattr(client(), field)
