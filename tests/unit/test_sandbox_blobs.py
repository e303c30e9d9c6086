"""What the sandbox keeps of media: under which names, how much, and where."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from wxsup.errors import Refusal
from wxsup.sandbox.blobs import Blobs, Lost


def test_what_was_put_can_be_got(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "blobs"
    blobs = Blobs(folder)
    first, second = blobs.put(b"one"), blobs.put(b"two")
    assert first != second and re.fullmatch("[A-Za-z0-9_-]{32}", first), "needs no escape in an address"
    assert [blobs.get(first), blobs.get(second)] == [b"one", b"two"]
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(folder / first).st_mode) == 0o600
    assert Blobs(folder).get(first) == b"one", "also after a restart"


@pytest.mark.parametrize("name", ["", "x", "../secret", "..", "A" * 32, "A" * 31 + "/", "A" * 32 + "\n", "A" * 9999])
def test_no_other_file_can_be_got(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").touch()
    with pytest.raises(Lost):
        Blobs(tmp_path / "blobs").get(name)
    with pytest.raises(Lost):
        Blobs().get(name)


@pytest.mark.parametrize("limit", [{"most": 2}, {"most_bytes": 10}], ids=str)
def test_the_oldest_make_room(tmp_path: Path, limit: dict[str, int]) -> None:
    blobs = Blobs(tmp_path, **limit)
    names = [blobs.put(str(number).encode() * 4) for number in range(4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
    for name in names[:2]:
        with pytest.raises(Lost):
            blobs.get(name)


def test_a_restart_knows_the_oldest_and_clears_what_was_half_written(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    names = [blobs.put(b"x") for _ in range(3)]
    for age, name in enumerate(reversed(names)):  # the last is made the oldest
        os.utime(tmp_path / name, ns=(age, age))
    (tmp_path / f".{names[0]}.1.1").touch()
    (tmp_path / "somebody's").touch()
    Blobs(tmp_path, most=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[:2], "somebody's"])


def test_without_a_folder_nothing_is_left() -> None:
    blobs = Blobs()
    name = blobs.put(b"x")
    assert blobs.get(name) == b"x"
    blobs.close()
    with pytest.raises(Lost):
        blobs.get(name)
    Blobs().close()


def test_a_folder_of_no_use_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="the sandbox folder .*file/x cannot be used: "):
        Blobs(tmp_path / "file" / "x")
