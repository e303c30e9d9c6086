"""The store of an account: what it keeps, what it forgets, and what a crash leaves of it."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wxsup.client.store import Store, outbox, people
from wxsup.client.store import database as file
from wxsup.client.store.outbox import Limits, Report

REAL_TIME, REAL_MONOTONIC = time.time, time.monotonic
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


def names(found: list[Report]) -> list[str]:
    return [report.body["name"] for report in found]


def add(store: Store, name: str, *, to_post: bool = False, to_check: bool = True, **keep: int) -> int:
    limits = Limits(**{"post": 1000, "check": 20, "log": 1000, **keep})
    return store.outbox.add({"name": name}, "anne", to_post=to_post, to_check=to_check, keep=limits)


def posted(store: Store) -> list[str]:
    """Take what waits for post_api, one by one."""
    found = []
    while waiting := store.outbox.next_to_post():
        found.append(waiting.body["name"])
        store.outbox.posted(waiting.number)
    return found


def rows(path: Path, table: str = "event") -> int:
    database = sqlite3.connect(path)
    (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    database.close()
    return int(found)


def test_only_the_owner_may_read_any_of_its_files(store: Store, path: Path) -> None:
    store.set("key", "value")
    found = list(path.parent.iterdir())
    assert len(found) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in found} == {0o600}


def test_what_was_committed_is_there_for_the_next_process(store: Store, path: Path) -> None:
    with store.transaction():
        store.set("cursor", "c1")
        assert store.people.remember(BOT, "id:1", {"text": "你好"})
        store.people.meet(BOT, ANNE, "Anne")
    # The first is not closed: so a SIGKILL leaves it.
    second = Store(path)
    assert second.get("cursor") == "c1"
    assert [friend.name for friend in second.people.friends(BOT)] == ["Anne"]
    assert not second.people.remember(BOT, "id:1", {})
    second.close()


def test_nothing_of_a_transaction_that_fails_is_kept(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        store.set("cursor", "c1")
        with store.transaction():
            add(store, "lost")
        raise RuntimeError
    assert store.get("cursor") == ""
    assert store.outbox.to_check() == []
    assert not store.in_transaction


def test_a_full_disk_is_an_error_and_leaves_the_store_as_it_was(store: Store, path: Path) -> None:
    store.set("cursor", "c1")
    (pages,) = sqlite3.connect(path).execute("PRAGMA page_count").fetchone()
    store.database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"), store.transaction():
        store.people.remember(BOT, "id:1", {"text": "x" * 100_000})
        store.set("cursor", "c2")
    assert store.get("cursor") == "c1"
    store.database.execute("PRAGMA max_page_count = 100000")
    with store.transaction():
        assert store.people.remember(BOT, "id:1", {"text": "x" * 100_000})


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
    database.execute(f"PRAGMA user_version = {file.SCHEMA_VERSION + 1}")
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
    assert store.people.remember(BOT, "id:1", {})
    assert not store.people.remember(BOT, "id:1", {})
    assert store.people.remember(OTHER_BOT, "id:1", {})


@pytest.mark.parametrize(
    ("age", "keep", "is_kept"),
    [(25 * 3600, 1, False), (23 * 3600, 1, True), (25 * 3600, 2, True)],
    ids=["old and beyond the count", "young", "among the newest"],
)
def test_keys_are_forgotten_when_both_old_and_many(
    store: Store, monkeypatch: pytest.MonkeyPatch, age: float, keep: int, is_kept: bool
) -> None:
    monkeypatch.setattr(people, "KEEP_KEYS", keep)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - age)
    store.people.remember(BOT, "id:1", {})
    monkeypatch.setattr(time, "time", lambda: now)
    store.people.remember(BOT, "id:2", {})
    assert store.people.remember(BOT, "id:1", {}) is not is_kept


def test_friends_come_in_the_order_in_which_they_were_met(store: Store) -> None:
    for name in ("zoe", "anne", "mia"):
        assert store.people.meet(BOT, f"{name}@im.wechat", name)
    assert store.people.meet(BOT, ANNE, "again") is None
    assert [friend.name for friend in store.people.friends(BOT)] == ["zoe", "anne", "mia"]
    assert store.people.friends(OTHER_BOT) == []
    assert store.people.friend(OTHER_BOT, ANNE) is None


def test_a_message_opens_the_window_and_renews_the_quota(store: Store) -> None:
    store.people.meet(BOT, ANNE, "Anne")
    store.people.heard(BOT, ANNE, "token-1", 1000.0)
    store.people.claim(BOT, ANNE, 7)
    store.people.heard(BOT, ANNE, "", 2000.0)
    friend = store.people.friend(BOT, ANNE)
    assert friend
    assert (friend.context_token, friend.last_inbound, friend.sent_since) == ("token-1", 2000.0, 0)


def test_claims_that_are_given_back_never_make_more_than_there_were(store: Store) -> None:
    store.people.meet(BOT, ANNE, "Anne")
    store.people.claim(BOT, ANNE, 2)
    store.people.claim(BOT, ANNE, -5)
    friend = store.people.friend(BOT, ANNE)
    assert friend and friend.sent_since == 0


# Reports


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let somebody set the clock."""
    real = REAL_TIME
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


def later(monkeypatch: pytest.MonkeyPatch, seconds: float, *, after: float = 0.0) -> None:
    """Let time pass."""
    real = REAL_MONOTONIC
    monkeypatch.setattr(time, "monotonic", lambda: real() + seconds)
    set_clock(monkeypatch, after + seconds)


def test_only_the_newest_reports_wait_for_check_event(store: Store) -> None:
    for number in range(5):
        add(store, f"e{number}", check=3)
    assert names(store.outbox.to_check()) == ["e2", "e3", "e4"]


def test_a_report_too_old_for_check_event_is_posted_nevertheless(store: Store) -> None:
    for number in range(3):
        add(store, f"e{number}", to_post=True, check=1, log=1)
    assert posted(store) == ["e0", "e1", "e2"]


def test_a_report_is_forgotten_when_nobody_wants_it_any_more(store: Store, path: Path) -> None:
    add(store, "first", to_post=True, log=1)
    (first,) = store.outbox.to_check()
    store.outbox.checked([first.number])
    assert store.outbox.next_to_post() == first
    store.outbox.posted(first.number)
    assert names(store.outbox.after("")[0]) == ["first"]
    add(store, "second", log=1)
    assert names(store.outbox.after("")[0]) == ["second"]
    assert rows(path) == 1


def test_a_report_that_is_only_posted_is_forgotten_with_that(store: Store, path: Path) -> None:
    add(store, "login", to_post=True, to_check=False)
    assert store.outbox.after("")[0] == []
    assert posted(store) == ["login"]
    assert rows(path) == 0


def test_numbers_of_delivered_reports_are_never_used_again(store: Store) -> None:
    add(store, "first", log=1)
    (first,) = store.outbox.to_check()
    add(store, "second", check=1, log=1)
    (second,) = store.outbox.to_check()
    assert second.number > first.number


def test_a_report_that_nobody_wants_is_not_kept(store: Store, path: Path) -> None:
    add(store, "unwanted", to_post=False, to_check=False)
    assert rows(path) == 0


def test_an_id_is_the_same_at_every_delivery_and_in_no_other_store(store: Store, path: Path, tmp_path: Path) -> None:
    add(store, "first", to_post=True)
    (report,) = store.outbox.to_check()
    second = Store(path)
    assert second.outbox.to_check() == [report] == second.outbox.after("")[0]
    assert report.body == {"name": "first", "event_id": report.id}
    other = Store(tmp_path / "other.sqlite")
    add(other, "first")
    assert other.outbox.to_check()[0].id != report.id
    assert (store.outbox.number_of(report.id), other.outbox.number_of(report.id)) == (report.number, 0)
    for closing in (second, other):
        closing.close()


def test_the_oldest_of_all_conversations_but_the_blocked_is_next(store: Store) -> None:
    for name in ("anne", "mia", "anne", "zoe"):
        store.outbox.add({"name": name}, name, to_post=True, to_check=False, keep=Limits(9, 9, 9))

    def following(blocked: set[str]) -> str | None:
        found = store.outbox.next_to_post(blocked)
        return found.conversation if found else None

    assert [following(blocked) for blocked in (set[str](), {"anne"}, {"anne", "mia"}, {"anne", "mia", "zoe"})] == [
        "anne",
        "mia",
        "zoe",
        None,
    ]


def test_a_reader_goes_on_after_what_it_has_seen(store: Store) -> None:
    for number in range(4):
        add(store, f"e{number}", log=3)
    everything, missed = store.outbox.after("")
    assert (names(everything), missed) == (["e1", "e2", "e3"], False)
    for seen, rest in enumerate((["e2", "e3"], ["e3"], [])):
        found, missed = store.outbox.after(everything[seen].id)
        assert (names(found), missed) == (rest, False)


def test_reports_beyond_the_number_are_dead_letters_until_replayed(store: Store) -> None:
    assert [add(store, f"e{number}", to_post=True, post=2) for number in range(5)] == [0, 0, 1, 1, 1]
    dead = store.outbox.dead_letters(0, 100)
    assert [(report.body["name"], reason) for report, reason in dead] == [
        (name, "too many reports waited") for name in ("e0", "e1", "e2")
    ]
    assert (store.outbox.count("dead"), store.outbox.count("to_post")) == (3, 2)
    assert names([report for report, _ in store.outbox.dead_letters(dead[0][0].number, 1)]) == ["e1"]
    assert store.outbox.replay(dead[1][0].number) == 1
    assert store.outbox.replay() == 2
    assert store.outbox.replay() == 0
    assert posted(store) == ["e0", "e1", "e2", "e3", "e4"]


def test_reports_beyond_the_age_are_dead_letters_and_young_again_when_replayed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "old", to_post=True)
    later(monkeypatch, 100)
    add(store, "young", to_post=True)
    add(store, "unposted")
    assert store.outbox.give_up(50) == 1
    assert [(report.body["name"], reason) for report, reason in store.outbox.dead_letters(0, 9)] == [
        ("old", "it waited too long")
    ]
    assert store.outbox.replay() == 1
    assert store.outbox.give_up(50) == 0
    assert posted(store) == ["old", "young"]


def test_dead_letters_are_kept_up_to_a_number(store: Store, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(outbox, "KEEP_DEAD", 2)
    for number in range(5):
        add(store, f"e{number}", to_post=True, to_check=False, post=1)
    assert [report.body["name"] for report, _ in store.outbox.dead_letters(0, 9)] == ["e2", "e3"]
    assert rows(path) == 3


def test_a_dead_letter_is_still_there_for_check_event(store: Store) -> None:
    add(store, "e0", to_post=True)
    store.outbox.give_up(0)
    assert names(store.outbox.to_check()) == names(store.outbox.after("")[0]) == ["e0"]


def test_what_was_taken_after_all_is_no_dead_letter(store: Store) -> None:
    add(store, "e0", to_post=True)
    waiting = store.outbox.next_to_post()
    assert waiting
    store.outbox.give_up(0)
    store.outbox.posted(waiting.number)
    assert store.outbox.count("dead") == 0


def test_the_next_to_post_is_found_as_fast_behind_ten_thousand(store: Store, path: Path) -> None:
    with store.transaction():
        for number in range(2000):
            store.outbox.add({"name": str(number)}, "blocked", to_post=True, to_check=False, keep=Limits(9999, 9, 9))
        store.outbox.add({"name": "free"}, "free", to_post=True, to_check=False, keep=Limits(9999, 9, 9))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    store.database.watch(count, 10)  # called after so many steps of SQLite's machine
    found = store.outbox.next_to_post({"blocked"})
    store.database.watch(None, 0)
    assert found and found.conversation == "free"
    assert 0 < steps < 100


@pytest.mark.parametrize("days", [2, -2])
def test_a_clock_that_is_set_makes_nothing_old(store: Store, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    add(store, "e0", to_post=True)
    letter = store.letterbox.add({})
    set_clock(monkeypatch, days * 86400)
    assert store.outbox.give_up(3600) == 0
    assert abs(store.letterbox.age(letter)) < 60
    later(monkeypatch, 7200, after=days * 86400)
    assert store.outbox.give_up(3600) == 1
    assert 7100 < store.letterbox.age(letter) < 7300


# Letters


def test_a_letter_is_kept_with_how_far_it_came(store: Store, path: Path) -> None:
    first, second = store.letterbox.add({"text": "你好"}), store.letterbox.add({"text": "more"})
    store.letterbox.mark(second, sent=2, under_way=True, refused=1)
    reader = Store(path)
    assert reader.letterbox.all() == [
        (first, {"text": "你好"}, 0, False, 0),
        (second, {"text": "more"}, 2, True, 1),
    ]
    store.letterbox.remove(second)
    assert [number for number, *_ in reader.letterbox.all()] == [first]
    assert store.letterbox.add({}) > second, "a number was used again"
    assert reader.letterbox.count() == 2
    reader.close()


# Files of earlier versions

#: As wxsup 0.1.0 made it; never to be changed.
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE inbox (number INTEGER PRIMARY KEY, bot TEXT NOT NULL, key TEXT NOT NULL, raw TEXT NOT NULL,
    received REAL NOT NULL, UNIQUE (bot, key));
CREATE TABLE friend (bot TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, markname TEXT NOT NULL DEFAULT '',
    first_seen REAL NOT NULL, last_inbound REAL, last_outbound REAL, context_token TEXT,
    sent_since INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (bot, id)) WITHOUT ROWID;
CREATE TABLE event (number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, created REAL NOT NULL,
    to_post INTEGER NOT NULL, to_check INTEGER NOT NULL);
CREATE INDEX event_to_post ON event (number) WHERE to_post;
CREATE INDEX event_to_check ON event (number) WHERE to_check;
INSERT INTO meta VALUES ('cursor:a@im.bot', 'c1');
INSERT INTO inbox VALUES (1, 'a@im.bot', 'id:1', '{}', 1.0);
INSERT INTO friend VALUES ('a@im.bot', 'anne@im.wechat', 'Anne', '', 1.0, 2.0, NULL, 'token', 3);
INSERT INTO event VALUES (7, '{"name": "both"}', 1.0, 1, 1);
INSERT INTO event VALUES (8, '{"name": "posted"}', 1.0, 0, 1);
INSERT INTO event VALUES (9, '{"name": "checked"}', 1.0, 1, 0);
PRAGMA user_version = 1;
"""


@pytest.fixture
def old(path: Path) -> Path:
    database = sqlite3.connect(path)
    database.executescript(VERSION_1)
    database.close()
    return path


def schema(path: Path) -> list[tuple[object, ...]]:
    database = sqlite3.connect(path)
    found = [
        (table, *column)
        for (table,) in database.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
        for column in database.execute(f"PRAGMA table_info({table})").fetchall()
    ]
    found += database.execute("PRAGMA user_version").fetchall()
    database.close()
    return found


def test_a_file_of_version_1_opens_with_all_that_is_in_it_and_delivers(old: Path) -> None:
    store = Store(old)
    assert store.get("cursor:a@im.bot") == "c1"
    assert not store.people.remember(BOT, "id:1", {})
    (friend,) = store.people.friends(BOT)
    assert (friend.name, friend.context_token, friend.sent_since) == ("Anne", "token", 3)
    assert names(store.outbox.to_check()) == ["both", "posted"]
    add(store, "new", to_post=True)
    assert posted(store) == ["both", "checked", "new"]
    assert names(store.outbox.to_check()) == ["both", "posted", "new"]
    store.outbox.checked([report.number for report in store.outbox.to_check()])
    assert names(store.outbox.after("")[0]) == ["new"]
    assert store.letterbox.all() == []
    store.close()
    assert rows(old) == 1


def test_an_old_file_is_brought_to_the_form_of_a_new_one_and_stays_so(old: Path, tmp_path: Path) -> None:
    for path in (old, old, tmp_path / "new.sqlite"):
        Store(path).close()
    assert schema(old) == schema(tmp_path / "new.sqlite")
    assert schema(old)[-1] == (file.SCHEMA_VERSION,)


def test_a_step_that_fails_leaves_the_file_as_it_was_and_can_be_taken_again(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = schema(old)
    with monkeypatch.context() as broken:
        broken.setattr(file, "MIGRATIONS", (*file.MIGRATIONS[:1], file.MIGRATIONS[1] + "nonsense;"))
        with pytest.raises(sqlite3.Error):
            Store(old)
    assert schema(old) == before
    store = Store(old)
    assert posted(store) == ["both", "checked"]
    store.close()
