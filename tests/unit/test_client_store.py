"""The store of an account: what it keeps, what it forgets, and what a crash leaves of it."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wxsup.client import store as module
from wxsup.client.store import Store

BOT, OTHER_BOT = "a@im.bot", "b@im.bot"
ANNE = "anne@im.wechat"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "account.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def bodies(found: list[tuple[int, str]]) -> list[str]:
    return [body for _, body in found]


def add(store: Store, name: str, *, to_post: bool = False, to_check: bool = True, check_limit: int = 20) -> None:
    store.add_event({"name": name}, to_post=to_post, to_check=to_check, check_limit=check_limit)


def test_only_the_owner_may_read_any_of_its_files(store: Store, path: Path) -> None:
    store.set("key", "value")
    found = list(path.parent.iterdir())
    assert len(found) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in found} == {0o600}


def test_what_was_committed_is_there_for_the_next_process(store: Store, path: Path) -> None:
    with store.transaction():
        store.set("cursor", "c1")
        assert store.remember(BOT, "id:1", {"text": "你好"})
        store.meet(BOT, ANNE, "Anne")
    # The first is not closed: so a SIGKILL leaves it.
    second = Store(path)
    assert second.get("cursor") == "c1"
    assert [friend.name for friend in second.friends(BOT)] == ["Anne"]
    assert not second.remember(BOT, "id:1", {})
    second.close()


def test_nothing_of_a_transaction_that_fails_is_kept(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        store.set("cursor", "c1")
        with store.transaction():
            add(store, "lost")
        raise RuntimeError
    assert store.get("cursor") == ""
    assert store.events_to_check() == []
    assert not store.in_transaction


def test_a_full_disk_is_an_error_and_leaves_the_store_as_it_was(store: Store, path: Path) -> None:
    store.set("cursor", "c1")
    (pages,) = sqlite3.connect(path).execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"), store.transaction():
        store.remember(BOT, "id:1", {"text": "x" * 100_000})
        store.set("cursor", "c2")
    assert store.get("cursor") == "c1"
    store._db.execute("PRAGMA max_page_count = 100000")
    with store.transaction():
        assert store.remember(BOT, "id:1", {"text": "x" * 100_000})


def test_others_wait_while_a_transaction_is_open(store: Store) -> None:
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(store.get("key")))
    with store.transaction():
        store.set("key", "half")
        reader.start()
        assert store.in_transaction
        store.set("key", "whole")
    reader.join(20)
    assert seen == ["whole"]


def test_a_store_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    Store(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {module.SCHEMA_VERSION + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError, match="newer"):
        Store(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_an_error(path: Path) -> None:
    path.write_bytes(b"not a database, by no means one" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Store(path)


def test_a_message_is_new_once_for_each_bot(store: Store) -> None:
    assert store.remember(BOT, "id:1", {})
    assert not store.remember(BOT, "id:1", {})
    assert store.remember(OTHER_BOT, "id:1", {})


@pytest.mark.parametrize(
    ("age", "keep", "is_kept"),
    [(25 * 3600, 1, False), (23 * 3600, 1, True), (25 * 3600, 2, True)],
    ids=["old and beyond the count", "young", "among the newest"],
)
def test_keys_are_forgotten_when_both_old_and_many(
    store: Store, monkeypatch: pytest.MonkeyPatch, age: float, keep: int, is_kept: bool
) -> None:
    monkeypatch.setattr(module, "KEEP_KEYS", keep)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - age)
    store.remember(BOT, "id:1", {})
    monkeypatch.setattr(time, "time", lambda: now)
    store.remember(BOT, "id:2", {})
    assert store.remember(BOT, "id:1", {}) is not is_kept


def test_friends_come_in_the_order_in_which_they_were_met(store: Store) -> None:
    for name in ("zoe", "anne", "mia"):
        assert store.meet(BOT, f"{name}@im.wechat", name)
    assert store.meet(BOT, ANNE, "again") is None
    assert [friend.name for friend in store.friends(BOT)] == ["zoe", "anne", "mia"]
    assert store.friends(OTHER_BOT) == []
    assert store.friend(OTHER_BOT, ANNE) is None


def test_a_message_opens_the_window_and_renews_the_quota(store: Store) -> None:
    store.meet(BOT, ANNE, "Anne")
    store.heard(BOT, ANNE, "token-1", 1000.0)
    store.claim(BOT, ANNE, 7)
    store.heard(BOT, ANNE, "", 2000.0)
    friend = store.friend(BOT, ANNE)
    assert friend
    assert (friend.context_token, friend.last_inbound, friend.sent_since) == ("token-1", 2000.0, 0)


def test_claims_that_are_given_back_never_make_more_than_there_were(store: Store) -> None:
    store.meet(BOT, ANNE, "Anne")
    store.claim(BOT, ANNE, 2)
    store.claim(BOT, ANNE, -5)
    friend = store.friend(BOT, ANNE)
    assert friend and friend.sent_since == 0


def test_only_the_newest_events_wait_for_check_event(store: Store) -> None:
    for number in range(5):
        add(store, f"e{number}", check_limit=3)
    assert bodies(store.events_to_check()) == ['{"name": "e2"}', '{"name": "e3"}', '{"name": "e4"}']


def test_an_event_too_old_for_check_event_is_posted_nevertheless(store: Store) -> None:
    for number in range(3):
        add(store, f"e{number}", to_post=True, check_limit=1)
    posted = []
    while waiting := store.event_to_post():
        posted.append(waiting[1])
        store.posted(waiting[0])
    assert posted == ['{"name": "e0"}', '{"name": "e1"}', '{"name": "e2"}']


def test_an_event_is_forgotten_when_both_ways_have_delivered_it(store: Store, path: Path) -> None:
    add(store, "both", to_post=True)
    (waiting,) = store.events_to_check()
    store.checked([waiting[0]])
    assert store.event_to_post() == waiting
    store.posted(waiting[0])
    assert store.event_to_post() is None
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM event").fetchone() == (0,)
    database.close()


def test_numbers_of_delivered_events_are_never_used_again(store: Store) -> None:
    add(store, "first")
    ((number, _),) = store.events_to_check()
    store.checked([number])
    add(store, "second")
    assert store.events_to_check()[0][0] > number


def test_an_event_that_nobody_wants_is_not_kept(store: Store, path: Path) -> None:
    add(store, "unwanted", to_post=False, to_check=False)
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM event").fetchone() == (0,)
    database.close()
