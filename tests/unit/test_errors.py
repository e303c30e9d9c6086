from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from wxsup import errors
from wxsup.errors import ClientBusy, NoPid, ParameterRefused, Unsupported, WxsupError


def tree(root: type[WxsupError] = WxsupError) -> Iterator[type[WxsupError]]:
    """Yield every class of the tree, parents first."""
    yield root
    for leaf in root.__subclasses__():
        if leaf.__module__ == errors.__name__:
            yield from tree(leaf)


def drawn() -> dict[str, tuple[str | None, str | None, str | None]]:
    """Return the tree in the module's docstring: parent, code and HTTP status by class."""
    assert errors.__doc__
    found: dict[str, tuple[str | None, str | None, str | None]] = {}
    above: dict[int, str] = {}
    end_of_code = 0
    for line in errors.__doc__.splitlines():
        if entry := re.match(r"    [|` ]*(?:[|`]-- )?([A-Z]\w+)  ", line):
            depth, name = entry.start(1), entry[1]
            end_of_code = end_of_code or line.index("code") + len("code")
            numbers = [(number.end(), number[0]) for number in re.finditer(r"(?<=\s)-?\d+\b", line)]
            code = next((number for end, number in numbers if end <= end_of_code), None)
            status = next((number for end, number in numbers if end > end_of_code), None)
            above[depth] = name
            found[name] = (above.get(depth - 4), code, status)
    return found


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert {name: parent for name, (parent, _, _) in drawn().items()} == {
        leaf.__name__: None if leaf is WxsupError else leaf.__base__ and leaf.__base__.__name__ for leaf in tree()
    }


NEVER_OVER_HTTP = ("WxsupError", "ControllerUnreachable", "SettingInvalid", "Refusal")


@pytest.mark.parametrize("leaf", [leaf for leaf in tree() if leaf.__name__ not in NEVER_OVER_HTTP])
def test_code_and_status_are_those_of_the_docstring(leaf: type[WxsupError]) -> None:
    """Where the drawing leaves one out it is the parent's."""
    parent, code, status = drawn()[leaf.__name__]
    inherited: type[WxsupError] = getattr(errors, str(parent))
    assert leaf.code == (inherited.code if code is None else int(code))
    assert leaf.http_status == (inherited.http_status if status is None else int(status))


@pytest.mark.parametrize(
    ("name", "code", "http_status", "status"),
    [
        ("ClientMissing", 1, 200, "client not found"),
        ("ClientUnknown", 1, 200, "client not exists"),
        ("NoFreePort", 2, 200, "no available port"),
        ("StartFailed", 3, 200, "failure"),
        ("NoPid", 4, 200, "client pid not ok"),
        ("TooManyClients", 5, 200, "max clients exceed"),
        ("SupervisorUnreachable", 7, 503, "supervisor unreachable"),
        ("NameInvalid", 8, 400, "client name invalid"),
        ("ClientUnreachable", 9, 502, "client unreachable"),
        ("ClientNotListening", 9, 503, "client unreachable"),
        ("ClientTimeout", 9, 504, "client unreachable"),
        ("ApiNotFound", -1, 403, "api not found"),
    ],
)
def test_the_answers_are_those_of_the_document(name: str, code: int, http_status: int, status: str) -> None:
    """openwx-api.md 9.3 and DESIGN.md 7."""
    error: WxsupError = getattr(errors, name)()
    assert error.http_status == http_status
    assert error.body() == {"code": code, "status": status}


def test_every_error_is_a_sentence_of_its_own() -> None:
    sentences = [leaf.__doc__ for leaf in tree()]
    assert all(sentence and sentence.endswith(".") for sentence in sentences)
    assert len(set(sentences)) == len(sentences)


def test_the_reason_is_the_message_and_stands_in_the_answer() -> None:
    error = NoPid("exit status 1", client="alice")
    assert str(error) == "exit status 1"
    assert error.body() == {"code": 4, "status": "client pid not ok", "client": "alice", "reason": "exit status 1"}


def test_without_a_reason_the_message_is_the_sentence_of_the_class() -> None:
    assert str(ClientBusy()) == "Another start or stop of this client is still under way."


def test_a_refused_parameter_is_named() -> None:
    assert ParameterRefused("tmpdir").body() == {"code": 6, "status": "parameter not allowed: tmpdir"}


def test_what_a_driver_cannot_do_is_named() -> None:
    assert Unsupported("no groups here").body() == {"code": -20, "status": "no groups here"}
