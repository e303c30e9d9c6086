from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import TIMEOUT, eventually
from wxsup import files


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold the lock on `path` in another process."""
    code = (
        "import sys, pathlib; from wxsup import files\n"
        "with files.locked(pathlib.Path(sys.argv[1]), timeout=0):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout and child.stdout.readline() == "held\n"
        yield child
        if child.stdin and not child.stdin.closed:
            child.stdin.close()


@pytest.mark.parametrize("data", ["微信\n", b"\x00\xff", ""])
def test_a_file_holds_what_was_written(tmp_path: Path, data: str | bytes) -> None:
    files.replace(tmp_path / "f", data)
    assert (tmp_path / "f").read_bytes() == (data.encode() if isinstance(data, str) else data)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_has_its_mode_also_in_place_of_another(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o644)
    files.replace(path, "new", mode=mode)
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_text() == "new"


def test_a_reader_meets_the_old_or_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    texts = [letter * 100_000 for letter in "ab"]
    files.replace(path, texts[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for text in texts:
                files.replace(path, text, durable=False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {path.read_text() for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(texts)


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.replace(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    assert path.read_text() == "old"


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "f", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(("durable", "synced"), [(True, ["file", "folder"]), (False, [])])
def test_what_must_survive_a_power_cut_is_synced_file_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, synced: list[str]
) -> None:
    """And through `offload`, so that the gevent loop does not stand still."""
    calls = []

    def offload(call: Any, descriptor: int) -> None:
        assert call is os.fsync
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")

    monkeypatch.setattr(files, "offload", offload)
    files.replace(tmp_path / "f", "new", durable=durable)
    assert calls == synced


def test_a_file_can_be_removed_twice_and_without_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    files.remove(path)
    assert not path.exists()
    files.remove(path)
    files.remove(tmp_path / "nowhere" / "f")


def test_a_private_directory_is_private_with_all_it_had_to_make(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert files.private_directory(path) == path
    assert [folder.stat().st_mode & 0o777 for folder in (path.parent, path)] == [0o700, 0o700]


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    path.chmod(0o750)
    files.private_directory(path)
    assert path.stat().st_mode & 0o777 == 0o750


def test_a_file_in_the_way_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(FileExistsError):
        files.private_directory(tmp_path / "a")


def test_a_lock_of_another_process_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_elsewhere(path), pytest.raises(BlockingIOError), files.locked(path, timeout=0.1):
        pytest.fail("the lock was given twice")


def test_a_lock_is_free_again_when_its_holder_is_done(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_elsewhere(path) as holder:
        threading.Timer(0.05, lambda: holder.stdin and holder.stdin.close()).start()
        with files.locked(path, timeout=TIMEOUT):
            pass
    with files.locked(path, timeout=0):
        pass


def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_elsewhere(path) as holder:
        holder.send_signal(signal.SIGKILL)
        with files.locked(path, timeout=TIMEOUT):
            pass


def test_a_lock_is_not_passed_on_to_a_child(tmp_path: Path) -> None:
    """Or a client that outlives its controller would keep the controller's locks."""
    path = tmp_path / "lock"
    with files.locked(path, timeout=0):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with files.locked(path, timeout=0):
        pass
    assert child.poll() is None
    child.communicate(timeout=TIMEOUT)


def test_one_of_many_holds_the_lock_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    worst = []

    def work(number: int) -> None:
        with files.locked(tmp_path / "lock", timeout=TIMEOUT):
            inside.append(number)
            time.sleep(0)
            worst.append(len(inside))
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1] * 8


def test_a_lock_file_that_its_holder_deleted_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    taken: list[bool] = []

    def wait() -> None:
        with files.locked(path, timeout=TIMEOUT) as descriptor:
            taken.append(os.path.samestat(os.stat(path), os.fstat(descriptor)))

    waiter = threading.Thread(target=wait)
    with files.locked(path, timeout=0) as held:
        waiter.start()
        inode = os.fstat(held).st_ino

        def opened_twice() -> bool:
            """Tell whether the waiter has the file open, too."""
            found = 0
            for entry in os.listdir("/proc/self/fd"):
                try:
                    found += os.stat(f"/proc/self/fd/{entry}").st_ino == inode
                except FileNotFoundError:
                    continue
            return found == 2

        eventually(opened_twice, what="the waiter's try")
        path.unlink()
    waiter.join()
    assert taken == [True]


def test_a_lock_file_is_private(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock", timeout=0) as descriptor:
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
@pytest.mark.parametrize(("owner", "mode"), [(65534, 0o700), (0, 0o777)])
def test_a_folder_in_which_others_could_replace_our_files_is_refused(tmp_path: Path, owner: int, mode: int) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, owner, owner)
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="another user"):
        files.private_directory(folder)


def test_a_folder_like_tmp_is_taken(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert files.private_directory(tmp_path) == tmp_path


def test_of_another_users_files_only_plain_ones_are_read(tmp_path: Path) -> None:
    plain, link, pipe = tmp_path / "plain", tmp_path / "link", tmp_path / "pipe"
    plain.write_bytes(b"12345")
    assert files.read_plain(plain, limit=5) == b"12345"
    link.symlink_to(plain)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        with pytest.raises(OSError, match=re.escape(str(path))):
            files.read_plain(path)
    with pytest.raises(OSError, match="too large"):
        files.read_plain(plain, limit=4)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
@pytest.mark.parametrize(
    ("owner", "group", "taken"), [(65534, 4711, True), (65534, 0, False), (0, 4711, False), (4711, 4711, False)]
)
def test_what_is_handed_over_belongs_to_another_user_and_to_our_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, group: int, taken: bool
) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"12345")
    os.chown(path, owner, group)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr("os.getegid", lambda: 4711)
    assert files.read_plain(path) == b"12345"
    if taken:
        assert files.read_plain(path, handed_over=True) == b"12345"
    else:
        with pytest.raises(PermissionError, match="not given it to us"):
            files.read_plain(path, handed_over=True)


def test_a_group_may_read_what_is_written_for_it(tmp_path: Path) -> None:
    import grp

    group = grp.getgrgid(os.getegid())
    files.replace(tmp_path / "f", "x", group=group.gr_name)
    found = (tmp_path / "f").stat()
    assert (found.st_gid, found.st_mode & 0o777) == (group.gr_gid, 0o640)
    with pytest.raises(OSError, match="no group 'no such group'"):
        files.replace(tmp_path / "g", "x", group="no such group")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
