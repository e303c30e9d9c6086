"""The media folder: what is kept, under which names, for how long, and what is left of what fails."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from wxsup.client import media as module
from wxsup.client.filetypes import sniffed
from wxsup.client.media import Folder, Media, NotKept, Sink, TooLarge, shown_name

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50


def folder(path: Path, *, most: int = 1000, keep: float = 3600.0, total: int = 10_000) -> Folder:
    return Folder(path / "media", "ilink", most=most, keep=keep, total=total)


def put(kept: Folder, content: bytes, name: str = "") -> Media:
    return kept.keep(lambda sink: sink(content), name=name)


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path / "media"))


def test_a_file_lies_under_its_content_and_is_found_by_its_id(tmp_path: Path) -> None:
    kept = put(folder(tmp_path), PNG, "photo of Anne.png")
    digest = hashlib.sha256(PNG).hexdigest()
    assert kept.id == f"ilink-{digest}:3"
    assert kept.path == tmp_path / "media" / f"{digest}.png"
    assert kept.path.read_bytes() == PNG
    assert (kept.name, kept.mime, kept.ext, kept.size) == ("photo of Anne.png", "image/png", "png", len(PNG))
    found = folder(tmp_path).find(kept.id)
    assert found is not None and (found.path, found.kind, found.size) == (kept.path, kept.kind, kept.size)


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    kept = put(folder(tmp_path), PNG)
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "name", ["../../x.png", "/etc/passwd", "a/b\\c.sh", "..", ".", "", "x\0y\n.png", "n" * 500 + ".py"]
)
def test_no_name_chooses_a_path(tmp_path: Path, name: str) -> None:
    kept = put(folder(tmp_path), PNG, name)
    assert names(tmp_path) == [f"{hashlib.sha256(PNG).hexdigest()}.png"]
    assert "/" not in kept.name and kept.name.isprintable() and 0 < len(kept.name.encode()) <= 255


@given(st.text())
def test_a_shown_name_can_be_saved_under(name: str) -> None:
    shown = shown_name(name)
    assert len(shown.encode()) <= 255
    assert shown.isprintable() and not set(shown) & set("/\\") and shown not in (".", "..")


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"\0\0\0\x18ftypmp42", "video/mp4"),
        (b"\0\0\0\x18ftypheic", "image/heic"),
        (b"\0\0\0\x18ftypavif", "image/avif"),
        (b"\0\0\0\x18ftypM4A ", "audio/mp4"),
        (b"BM\x36\0\0\0\0\0\0\0\x36", "image/bmp"),
        (b"BMW drivers wanted", "application/octet-stream"),
        (b"some....WEBP", "application/octet-stream"),
        (b"\x02#!SILK_V3", "audio/silk"),
        (b"<html>", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_a_file_is_what_it_holds(head: bytes, mime: str) -> None:
    assert sniffed(head)[0] == mime


@pytest.mark.parametrize("id_", ["", "x", "ilink-", "ilink-" + "0" * 64, "ilink-../../etc/passwd", "ilink-" + "g" * 64])
def test_an_id_that_is_none_finds_nothing(tmp_path: Path, id_: str) -> None:
    assert folder(tmp_path).find(id_) is None


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    kept = folder(tmp_path, most=10)

    def write(sink: Sink) -> None:
        for _ in range(3):
            sink(b"12345")

    with pytest.raises(TooLarge, match="maximum size is 10 bytes"):
        kept.keep(write)
    assert names(tmp_path) == []


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fail(sink: Sink) -> None:
        sink(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folder(tmp_path).keep(fail)
    assert names(tmp_path) == []


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / f"{module.UNFINISHED}abc").write_bytes(b"half")
    folder(tmp_path)
    assert names(tmp_path) == []


def test_a_disk_that_does_not_take_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "media").write_text("a file in its place")
    with pytest.raises(NotKept):
        put(folder(tmp_path), PNG)


def aged(media: Media, seconds: float) -> Path:
    os.utime(media.path, (time.time() - seconds,) * 2)
    return media.path


def test_old_files_go_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = folder(tmp_path, keep=100.0)
    old, young = aged(put(kept, b"old"), 200), aged(put(kept, b"young"), 50)
    put(kept, b"another")
    assert old.exists(), "not at every turn"
    monkeypatch.setattr(module, "TRIM_EVERY", 0.0)
    put(kept, b"one more")
    assert (old.exists(), young.exists()) == (False, True)


def test_too_much_is_never_kept_but_for_what_is_needed_and_the_newest(tmp_path: Path) -> None:
    kept = folder(tmp_path, total=250)
    needed = aged(put(kept, b"n" * 100), 500)
    kept.needed = lambda: [needed]
    for number in range(30):
        put(kept, b"%03d" % number * 33)
        assert sum(path.stat().st_size for path in kept.path.iterdir()) <= 250 + 99
    assert needed.exists()
    large = put(kept, b"l" * 900)
    assert large.path.exists()


def test_what_somebody_else_put_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIM_EVERY", 0.0)
    kept = folder(tmp_path, keep=100.0, total=1)
    put(kept, b"a")
    (kept.path / "logo.png").write_bytes(PNG)
    (kept.path / ("0" * 64 + ".png")).mkdir()
    for path in kept.path.iterdir():
        os.utime(path, (1, 1))
    put(kept, b"b")
    assert {"logo.png", "0" * 64 + ".png"} <= set(names(tmp_path))


def test_a_file_in_use_is_young_again(tmp_path: Path) -> None:
    kept = folder(tmp_path)
    media = put(kept, PNG)
    os.utime(media.path, (1, 1))
    kept.find(media.id)
    assert media.path.stat().st_mtime > time.time() - 60


def test_what_is_kept_of_it_brings_it_back(tmp_path: Path) -> None:
    media = put(folder(tmp_path), PNG, "a.png")
    assert Media.restored(media.kept()) == media
