from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from pathlib import Path

import pytest

from tests.deadline import TIMEOUT
from tests.ports import free_port
from tests.unit.conftest import HOSTILE_NAMES
from wxsup import kinds, names, record, values
from wxsup.client import keys
from wxsup.controller import Controller
from wxsup.errors import ClientBusy, NoFreePort, RecordInvalid, StartFailed, TooManyClients
from wxsup.model import Client
from wxsup.registry import LAST_PORT, LEAST_KEY, Broken, Registry, post_key
from wxsup.settings import Settings
from wxsup.supervisors.memory import Memory


def make(folder: Path, *, first_port: int = 0, max_clients: int = 100, post_secret: Path | None = None) -> Registry:
    registry = Registry(
        folder / "clients", first_port=first_port or free_port(), max_clients=max_clients, post_secret=post_secret
    )
    registry.prepare()
    return registry


def client(name: str, port: int = 3000) -> Client:
    return Client(name=name, slug=names.slug(name), port=port, driver="ilink")


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_a_saved_client_is_found_listed_and_removed(tmp_path: Path, name: str) -> None:
    registry, one = make(tmp_path), client(name)
    assert registry.find(one.slug) is None
    registry.save(one)
    assert registry.find(one.slug) == one
    assert registry.slugs() == [one.slug]
    assert list(registry.list()) == [one]
    assert registry.path(one.slug).parent == registry.folder
    registry.remove(one)
    assert registry.find(one.slug) is None
    assert list(registry.list()) == []


def test_the_records_are_private(tmp_path: Path) -> None:
    registry, one = make(tmp_path), client("alice")
    registry.save(one)
    assert registry.folder.stat().st_mode & 0o777 == 0o700
    assert registry.path("alice").stat().st_mode & 0o777 == 0o600


def test_another_registry_on_the_folder_sees_the_same(tmp_path: Path) -> None:
    registry, other = make(tmp_path), make(tmp_path)
    registry.save(client("alice", 3000))
    assert other.find("alice") == client("alice", 3000)
    other.save(client("alice", 3001))
    assert registry.find("alice") == client("alice", 3001)


def test_clients_are_listed_in_order(tmp_path: Path) -> None:
    registry = make(tmp_path)
    for name in ("c", "a", "b"):
        registry.save(client(name))
    assert registry.slugs() == ["a", "b", "c"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"half a li", record.dumps(client("bob")).encode()])
def test_a_broken_record_spoils_only_its_own_entry(tmp_path: Path, content: bytes) -> None:
    """Also one that is whole but another client's."""
    registry = make(tmp_path)
    for name in ("a", "c"):
        registry.save(client(name))
    path = registry.path("b")
    path.write_bytes(content)
    entries = list(registry.list())
    assert [entry.slug for entry in entries] == ["a", "b", "c"]
    assert isinstance(entries[1], Broken)
    assert entries[1].reason.startswith(f"{path}: ")
    with pytest.raises(RecordInvalid, match="^" + str(path)):
        registry.find("b")


def test_a_record_that_is_a_folder_is_a_broken_one(tmp_path: Path) -> None:
    registry = make(tmp_path)
    registry.path("a").mkdir()
    (entry,) = registry.list()
    assert isinstance(entry, Broken)


@pytest.mark.parametrize(
    "name",
    [
        "alice.env",
        "wxclient-alice.secret",
        "wxclient-.env",
        "wxclient-.61.env",
        "wxclient-.ff.env",
        "wxclient-ä.env",
        ".wxclient-a.env.1.2",
        "wxclient-a b.env",
    ],
)
def test_a_file_of_others_is_no_record(tmp_path: Path, name: str) -> None:
    registry = make(tmp_path)
    (registry.folder / name).write_text("")
    assert list(registry.list()) == []


def test_ports_are_given_upwards_and_again_when_free(tmp_path: Path) -> None:
    registry = make(tmp_path)
    given = []
    for name in "abc":
        port = registry.allocate()
        given.append(port)
        registry.save(client(name, port))
    assert given == sorted(set(given))
    registry.remove(client("b"))
    assert registry.allocate() == given[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_somebody_else_listens_on_is_passed_over(tmp_path: Path, host: str) -> None:
    with socket.socket() as other:
        other.bind((host, 0))
        other.listen()
        registry = make(tmp_path, first_port=other.getsockname()[1])
        assert registry.allocate() > other.getsockname()[1]


def test_a_port_whose_last_connection_lingers_is_free(tmp_path: Path) -> None:
    """A client that ended leaves TIME_WAIT behind; its port must not be lost for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()
    assert make(tmp_path, first_port=port).allocate() == port


def test_without_a_free_port_there_is_none(tmp_path: Path) -> None:
    registry = make(tmp_path, first_port=LAST_PORT)
    registry.save(client("a", LAST_PORT))
    with pytest.raises(NoFreePort):
        registry.allocate()


def test_there_are_never_more_than_max_clients(tmp_path: Path) -> None:
    registry = make(tmp_path, max_clients=2)
    for name in "ab":
        registry.save(client(name, registry.allocate()))
    with pytest.raises(TooManyClients):
        registry.allocate()
    registry.remove(client("a"))
    assert registry.allocate()


def test_a_broken_record_counts(tmp_path: Path) -> None:
    registry = make(tmp_path, max_clients=1)
    registry.path("a").write_text("")
    with pytest.raises(TooManyClients):
        registry.allocate()


def test_who_allocates_at_the_same_time_gets_ports_of_their_own(tmp_path: Path) -> None:
    registry = make(tmp_path)

    def start(name: str) -> None:
        own = Registry(registry.folder, first_port=registry._first_port, max_clients=100)
        with own.locked():
            own.save(client(name, own.allocate()))

    threads = [threading.Thread(target=start, args=(f"c{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    clients = [entry for entry in registry.list() if isinstance(entry, Client)]
    assert len({one.port for one in clients}) == len(clients) == 12


def test_a_claimed_client_is_busy_for_others_and_only_it(tmp_path: Path) -> None:
    registry, other = make(tmp_path), make(tmp_path)
    with registry.claimed("a", timeout=0):
        with pytest.raises(ClientBusy), other.claimed("a", timeout=0.05):
            pytest.fail("the claim was given twice")
        with other.claimed("b", timeout=0), other.locked():
            pass
    with other.claimed("a", timeout=0):
        pass


def test_a_claim_ends_with_what_went_wrong_under_it(tmp_path: Path) -> None:
    registry = make(tmp_path)
    with contextlib.suppress(NoFreePort), registry.claimed("a", timeout=0):
        raise NoFreePort
    assert not list(tmp_path.rglob("wxclient-a")), "no lock stays of a client that there is not"
    with registry.claimed("a", timeout=0):
        pass


def test_the_longest_name_can_be_claimed_and_saved(tmp_path: Path) -> None:
    registry, one = make(tmp_path), client("é" * 32)
    with registry.claimed(one.slug, timeout=0):
        registry.save(dataclasses.replace(one, pending=True))
    assert registry.find(one.slug) == dataclasses.replace(one, pending=True)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 63, b"0" * 32 + b"\n" + b"0" * 31, b"G" * 64])
def test_a_damaged_secret_is_reported_and_written_anew_with_the_record(tmp_path: Path, content: bytes) -> None:
    registry, one = make(tmp_path), client("alice")
    registry.save(one)
    registry.secret_path("alice").write_bytes(content)
    with pytest.raises(RecordInvalid, match="secret"):
        registry.secret("alice")
    registry.save(one)
    assert len(registry.secret("alice")) == 64


def test_the_secret_comes_before_the_record_is_private_and_stays_the_same(tmp_path: Path) -> None:
    registry, one = make(tmp_path), client("alice")
    registry.save(one)
    first = registry.secret("alice")
    assert len(first) == 64
    assert registry.secret_path("alice").stat().st_mode & 0o777 == 0o600
    assert first not in registry.path("alice").read_text()
    assert registry.secret_path("alice").stat().st_mtime_ns <= registry.path("alice").stat().st_mtime_ns
    registry.save(dataclasses.replace(one, pending=True))
    assert registry.secret("alice") == first
    registry.remove(one)
    assert (registry.secrets_stand(client("alice")), registry.secret_path("alice").exists()) == (False, False)
    registry.save(one)
    assert registry.secret("alice") not in ("", first)


def test_a_foreign_program_has_no_secrets_and_the_client_in_its_place_has(tmp_path: Path, key_file: Path) -> None:
    registry, ours = make(tmp_path, post_secret=key_file), client("alice")
    foreign = dataclasses.replace(ours, driver="command")
    registry.save(ours)
    assert not registry.secrets_stand(foreign), "those of our own client are no business of another program"
    registry.save(foreign)
    assert registry.secrets_stand(foreign)
    assert registry.secret_path("alice").read_text() == ""
    with pytest.raises(RecordInvalid, match="missing or empty"):
        registry.secret("alice")
    assert not registry.secrets_stand(ours)
    registry.save(ours)
    assert registry.secrets_stand(ours)
    assert len(registry.secret("alice")) == 64


# The secret that signs what is posted

KEY, OTHER_KEY = "a secret of some length", "钥匙 of another sixteen"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "post.secret"
    path.write_text(KEY + "\n", encoding="utf-8")
    return path


def test_the_secret_of_the_posts_is_the_second_line_beside_that_of_the_hop(tmp_path: Path, key_file: Path) -> None:
    registry = make(tmp_path, post_secret=key_file)
    registry.save(client("alice"))
    found = keys.read(registry.secret_path("alice"))
    assert (found.hop, found.post) == (registry.secret("alice"), KEY)
    assert registry.secret_path("alice").stat().st_mode & 0o777 == 0o600
    assert KEY not in registry.path("alice").read_text()


def test_a_change_of_the_key_reaches_the_client_and_leaves_the_hop_alone(tmp_path: Path, key_file: Path) -> None:
    registry = make(tmp_path, post_secret=key_file)
    registry.save(client("alice"))
    hop = registry.secret("alice")
    assert registry.secrets_stand(client("alice"))
    key_file.write_text(OTHER_KEY, encoding="utf-8")
    assert not registry.secrets_stand(client("alice"))
    registry.save(client("alice"))
    assert registry.secrets_stand(client("alice"))
    assert keys.read(registry.secret_path("alice")) == keys.Keys(hop, OTHER_KEY)
    without = make(tmp_path)
    assert not without.secrets_stand(client("alice"))
    without.save(client("alice"))
    assert keys.read(without.secret_path("alice")) == keys.Keys(hop, "")
    assert without.secrets_stand(client("alice"))


def test_a_client_of_before_the_key_gets_it_with_its_next_record(tmp_path: Path, key_file: Path) -> None:
    make(tmp_path).save(client("alice"))
    registry = make(tmp_path, post_secret=key_file)
    assert not registry.secrets_stand(client("alice"))
    registry.save(client("alice"))
    assert keys.read(registry.secret_path("alice")).post == KEY


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\n", b"x" * (LEAST_KEY - 1), b" " * 40, b"two lines of them\nare not one key", b"\xff" * 20],
)
def test_a_key_file_that_is_none_is_an_error_that_names_it_and_writes_nothing(
    tmp_path: Path, key_file: Path, content: bytes | None
) -> None:
    if content is None:
        key_file.unlink()
    else:
        key_file.write_bytes(content)
    registry = make(tmp_path, post_secret=key_file)
    with pytest.raises(OSError) as caught:
        registry.save(client("alice"))
    assert str(key_file) in str(caught.value)
    assert "xxxxx" not in str(caught.value) and "two lines" not in str(caught.value)
    assert registry.slugs() == []
    assert not registry.secret_path("alice").exists()


def test_the_least_key_is_one(key_file: Path) -> None:
    key_file.write_text(f"  {'x' * LEAST_KEY}\r\n")
    assert post_key(key_file) == "x" * LEAST_KEY


def keyed(folder: Path, key_file: Path) -> tuple[Settings, Registry, Controller]:
    """Return a controller over the memory supervisor whose clients sign what they post."""
    given = {"state_dir": str(folder / "var"), "post_secret_path": str(key_file)}
    settings = values.read(Settings, {**given, "backend_start_port": str(free_port())})
    registry = Registry(
        settings.backend_path,
        first_port=settings.backend_start_port,
        max_clients=9,
        post_secret=settings.post_secret_path,
    )
    controller = Controller(settings, registry, Memory())
    controller.prepare()
    return settings, registry, controller


def test_a_start_with_a_bad_key_file_is_refused_with_its_name_and_leaves_nothing(
    tmp_path: Path, key_file: Path
) -> None:
    _, registry, controller = keyed(tmp_path, key_file)
    key_file.write_text("short")
    with pytest.raises(StartFailed, match=str(key_file)) as caught:
        controller.start("alice", {})
    assert "short" not in str(caught.value).replace(str(key_file), "")
    assert registry.slugs() == []
    key_file.write_text(KEY)
    assert controller.start("alice", {})["code"] == 0
    assert keys.read(registry.secret_path("alice")).post == KEY


def test_a_refresh_brings_a_new_key_and_survives_a_bad_one(
    tmp_path: Path, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, registry, controller = keyed(tmp_path, key_file)
    controller.start("alice", {})
    key_file.write_text("short")
    controller.refresh()
    assert keys.read(registry.secret_path("alice")).post == KEY
    assert "client not refreshed" in caplog.messages
    assert controller.alive("alice")
    key_file.write_text(OTHER_KEY, encoding="utf-8")
    controller.refresh()
    assert keys.read(registry.secret_path("alice")).post == OTHER_KEY


def test_a_stop_needs_no_key_file(tmp_path: Path, key_file: Path) -> None:
    _, registry, controller = keyed(tmp_path, key_file)
    controller.start("alice", {})
    key_file.unlink()
    assert controller.stop("alice")["code"] == 0
    assert (registry.slugs(), registry.secret_path("alice").exists()) == ([], False)


def test_neither_record_nor_section_tells_a_secret(tmp_path: Path, key_file: Path) -> None:
    settings, registry, controller = keyed(tmp_path, key_file)
    controller.start("alice", {})
    found = registry.find("alice")
    assert found
    section = "".join(kinds.supervisor(settings, registry).render(found).values())
    record_text = registry.path("alice").read_text()
    assert str(registry.secret_path("alice")) in section
    told = record_text + section + "".join(controller.render("alice").values())
    assert [secret for secret in (KEY, registry.secret("alice"), str(key_file)) if secret in told] == []
