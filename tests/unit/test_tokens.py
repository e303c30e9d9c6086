from __future__ import annotations

import hmac
import json
import multiprocessing
import os
import stat
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wxsup import tokens, values
from wxsup.errors import Refusal, TokensUnreadable
from wxsup.tokens import Role, Token, Tokens, create, digest, dumps, find, loads


@pytest.fixture
def store(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json")


def add(store: Tokens, name: str = "a", role: Role = Role.ADMIN, **limits: Any) -> str:
    token, secret = create(name, role, **limits)
    store.add(token)
    return secret


def test_a_token_is_found_by_its_secret_and_by_nothing_else(store: Tokens) -> None:
    secrets = [add(store, name) for name in "abc"]
    known = store.read()
    assert known
    for name, secret in zip("abc", secrets, strict=True):
        found = find(known, secret)
        assert found and found.name == name
    for wrong in ("", "x", secrets[0][:-1], secrets[0] + "x", secrets[0].upper(), known[0].hash, "é", "\ud83d"):
        assert find(known, wrong) is None


def test_the_file_is_ours_alone_and_has_no_secret(store: Tokens) -> None:
    secret = add(store)
    text = store.path.read_text()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert secret not in text and digest(secret) in text
    assert len(secret) >= len(tokens.PREFIX) + 43, "32 bytes"


def test_without_a_file_there_are_no_tokens_and_without_a_token_there_is_still_the_file(store: Tokens) -> None:
    assert store.read() is None
    add(store)
    store.revoke("a")
    assert store.read() == ()


def test_a_change_by_another_process_is_seen_at_once(store: Tokens) -> None:
    beside = Tokens(store.path)
    for name in "abcdefgh":
        add(beside, name)
        known = store.read()
        assert known and known[-1].name == name
    beside.revoke("a")
    assert [token.name for token in store.read() or ()] == list("bcdefgh")
    store.path.unlink()
    assert store.read() is None


def test_a_file_that_did_not_change_is_not_read_again(store: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    known = store.read()
    monkeypatch.delattr(tokens, "loads")
    assert store.read() == known


def test_a_name_is_taken_until_it_is_revoked_or_has_expired(store: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add(store, "a", lasts=60)
    with pytest.raises(Refusal, match="there is a token 'a' already"):
        add(store, "a")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    second = add(store, "a")
    known = store.read()
    assert known and len(known) == 1
    assert find(known, second) and not find(known, first)
    store.revoke("a")
    with pytest.raises(Refusal, match="there is no token 'a'"):
        store.revoke("a")


def test_tokens_that_systemd_hands_over_count_and_are_left_alone(tmp_path: Path) -> None:
    given = Tokens(tmp_path / "given.json")
    secret = add(given, "deployed")
    store = Tokens(tmp_path / "tokens.json", given.path)
    before = given.path.read_bytes()
    assert find(store.read() or (), secret)
    own = add(store, "own")
    known = store.read() or ()
    assert find(known, secret) and find(known, own)
    with pytest.raises(Refusal, match="there is no token 'deployed'"):
        store.revoke("deployed")
    assert given.path.read_bytes() == before


def _adds(path: Path, name: str) -> None:
    add(Tokens(path), name)


def test_of_many_that_are_added_at_once_none_is_lost(store: Tokens) -> None:
    context = multiprocessing.get_context("spawn")
    names = [f"token{number}" for number in range(6)]
    processes = [context.Process(target=_adds, args=(store.path, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(token.name for token in store.read() or ()) == names


GOOD: dict[str, Any] = json.loads(
    dumps(
        [
            Token(
                name="a",
                role=Role.APP,
                hash="0" * 64,
                created=1.0,
                expires=2.0,
                clients=("shop-*", "微信"),
                addresses=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
            )
        ]
    )
)


def with_token(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "tokens": [{**GOOD["tokens"][0], **changes}]}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense",
        "[" * 100_000,
        "null",
        "[]",
        "{}",
        b"\xff",
        {**GOOD, "schema": 2},
        {**GOOD, "more": 1},
        {**GOOD, "tokens": {}},
        {**GOOD, "tokens": [1]},
        {**GOOD, "tokens": [{}]},
        with_token(only_on_sundays=True),
        with_token(name=""),
        with_token(name="a\nb"),
        with_token(name=1),
        with_token(name="x" * 65),
        with_token(role="root"),
        with_token(role=["admin"]),
        with_token(hash=""),
        with_token(hash="é" * 64),
        with_token(created="yesterday"),
        with_token(created=True),
        with_token(expires="never"),
        with_token(expires=float("nan")),
        with_token(expires=float("inf")),
        with_token(expires=10**400),
        with_token(clients="*"),
        with_token(clients=[""]),
        with_token(clients=[1]),
        with_token(clients=None),
        with_token(addresses="10.0.0.0/8"),
        with_token(addresses=["10.0.0.7/8"]),
        with_token(addresses=["everywhere"]),
        with_token(addresses=[167772160]),
    ],
    ids=lambda content: str(content)[-60:],
)
def test_a_file_that_we_did_not_write_lets_nobody_in(store: Tokens, content: object) -> None:
    """What is not understood may be a limit."""
    store.path.write_bytes(
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    with pytest.raises(TokensUnreadable, match=str(store.path)):
        store.read()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_lets_nobody_in(store: Tokens, mode: int) -> None:
    add(store)
    store.path.chmod(mode)
    with pytest.raises(TokensUnreadable, match="others may write it"):
        store.read()
    store.path.chmod(0o600)
    assert store.read()


def test_a_folder_a_link_or_a_pipe_in_the_place_of_the_file_lets_nobody_in(store: Tokens, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(json.dumps(GOOD))
    other.chmod(0o600)
    store.path.mkdir()
    with pytest.raises(TokensUnreadable):
        store.read()
    store.path.rmdir()
    os.mkfifo(store.path, 0o600)
    with pytest.raises(TokensUnreadable):
        store.read()
    store.path.unlink()
    store.path.symlink_to(other)
    with pytest.raises(TokensUnreadable):
        store.read()


def test_a_folder_of_another_user_is_refused_so_that_root_leaves_no_file_that_the_controller_cannot_read(
    store: Tokens,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a folder away")
    os.chown(store.path.parent, 12345, 12345)
    with pytest.raises(PermissionError, match="run as its owner"):
        add(store)
    assert not store.path.exists()


@pytest.mark.parametrize(
    ("patterns", "client", "covered"),
    [
        ((), "anything", True),
        (("shop",), "shop", True),
        (("shop",), "Shop", False),
        (("shop-*",), "shop-1", True),
        (("shop-*",), "shop", False),
        (("shop-*",), "a shop-1", False),
        (("a", "b"), "b", True),
        (("客服*",), "客服02", True),
        (("?",), "微", True),
        (("[ab]",), "c", False),
        (("*",), "a/../b", True),
        (("a.b",), "axb", False),
        (("shop-*",), "shop-1\nx", True),
    ],
)
def test_patterns_are_globs_over_the_whole_name(patterns: tuple[str, ...], client: str, covered: bool) -> None:
    token, _ = create("a", Role.APP, clients=patterns)
    assert token.covers(client) is covered


@given(st.text(min_size=1, max_size=40), st.text(max_size=80))
def test_any_pattern_is_a_pattern_or_refused_and_never_costs_more_than_a_moment(pattern: str, client: str) -> None:
    try:
        token, _ = create("a", Role.APP, clients=[pattern, "*" * 30 + "x"])
    except ValueError:
        return
    token.covers(client)
    token.covers("y" * 60_000)
    assert loads(dumps([token])) == (token,)


@pytest.mark.parametrize(
    ("networks", "address", "usable"),
    [
        ((), "10.0.0.1", True),
        ((), None, True),
        (("10.0.0.0/8",), "10.9.9.9", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.0/8",), None, False),
        (("10.0.0.0/8",), "2001:db8::1", False),
        (("2001:db8::/32", "127.0.0.1/32"), "127.0.0.1", True),
    ],
)
def test_a_token_may_be_for_some_addresses_only(networks: tuple[str, ...], address: str | None, usable: bool) -> None:
    token, _ = create("a", Role.APP, addresses=map(ip_network, networks))
    assert token.usable_from(ip_address(address) if address else None) is usable


def test_a_file_that_could_not_be_read_any_more_is_not_written(store: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    monkeypatch.setattr(tokens, "SIZE_LIMIT", store.path.stat().st_size + 10)
    with pytest.raises(Refusal, match="would be too large"):
        add(store, "b")
    assert [token.name for token in store.read() or ()] == ["a"]


def test_the_longest_life_is_one_that_can_be_read_back(store: Tokens) -> None:
    add(store, lasts=values.duration("99999w"))
    assert store.read()


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", "x" * 65, "\ud83d"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name has at most|is empty or has control"):
        create(name, Role.APP)


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does the first that fits end the search, nor is anything compared as == does."""
    compared: list[str] = []
    (first, secret), (second, _), (third, _) = (create(name, Role.APP) for name in "abc")
    real = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert find([first, second, third], secret) == first
    assert compared == [first.hash, second.hash, third.hash]
