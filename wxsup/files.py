"""Files that are whole or absent, locks that never block the thread, directories that only we can enter."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wxsup import faults

#: Makes one call that may block for long (fsync). The gevent worker hands it to its thread pool (see serve.py).
offload: Callable[..., Any] = lambda call, *arguments: call(*arguments)  # noqa: E731

LOCK_RETRY = 0.02
DOOMED = "~"  # ends the name of a folder that is being deleted; no slug has such a character


def private_directory(path: Path) -> Path:
    """Create `path` and its missing parents with mode 0700 and return it.

    An existing directory keeps its mode: an operator may have opened it to a group. Raises PermissionError for one in
    which another user could replace what we write: neither ours nor root's, or open to all without the sticky bit.
    """
    if not path.is_dir():
        private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0) or (found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX):
        raise PermissionError(
            errno.EPERM, "another user owns this folder or could change what is in it; run as its owner", str(path)
        )
    return path


def replace(path: Path, data: str | bytes, *, mode: int = 0o600, group: str = "", durable: bool = True) -> None:
    """Write `data` to `path` so that a reader or a crash meets the old or the new content, never a part.

    With `durable` it also survives a power cut: file and folder are synced (rename(2), fsync(2)). With `group` its
    members may read it. Raises OSError and leaves nothing behind when the disk is full.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            if group:
                os.fchown(descriptor, -1, _group(group))
                os.fchmod(descriptor, mode | stat.S_IRGRP)
            file.write(content)
            file.flush()
            if durable:
                offload(os.fsync, file.fileno())
        faults.point("replace.written")
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def read_plain(path: Path, *, limit: int = 1 << 20, handed_over: bool = False) -> bytes:
    """Return what is in a plain file of `limit` bytes at most.

    Raises OSError for anything else that lies there, such as a link to a file that only we may read or a pipe that
    nobody writes to: others may have put it there. With `handed_over` also for what is ours, root's, or not given to
    our group: root may have mounted it there at the wish of somebody who cannot read it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise OSError(errno.EINVAL, "it is no plain file, or too large", str(path))
        if handed_over and (found.st_gid != os.getegid() or found.st_uid in (0, os.geteuid())):
            raise OSError(errno.EPERM, "the controller has not given it to us", str(path))
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def mark(path: Path) -> tuple[int, ...]:
    """Return what tells the file at `path` from the same one before or after a change of it; raise OSError."""
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def remove(path: Path) -> None:
    """Delete `path` for good; it may be gone already."""
    path.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        sync_directory(path.parent)


def remove_tree(path: Path) -> bool:
    """Delete the folder `path` with all that is in it and tell whether there was one.

    Who looks there meanwhile, or after a crash in the middle, finds nothing rather than a part. What links in it lead
    to stays; a link in its place is refused with OSError, as is anything else that is no folder.
    """
    doomed = path.with_name(path.name + DOOMED)
    left_over = os.path.lexists(doomed)
    if left_over:
        offload(shutil.rmtree, doomed)
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder of ours", str(path))
        path.rename(doomed)
    except FileNotFoundError:
        return left_over
    sync_directory(path.parent)
    offload(shutil.rmtree, doomed)  # by descriptors, so that nobody can put a link into its way
    return True


def sync_directory(path: Path) -> None:
    """Make what was renamed or deleted in `path` survive a power cut (fsync(2), "does not necessarily ensure…")."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        offload(os.fsync, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[int]:
    """Hold an exclusive flock(2) on `path`, asking again until `timeout` seconds have passed; yield its descriptor.

    Raises BlockingIOError when somebody else still holds it. The kernel frees the lock when the process dies.
    """
    deadline = time.monotonic() + timeout
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, descriptor):
                break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise
            time.sleep(LOCK_RETRY)
        os.close(descriptor)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as ex:
        raise OSError(errno.EINVAL, f"there is no group {name!r}") from ex


def _names(path: Path, descriptor: int) -> bool:
    """Tell whether `path` still names the locked file: its last holder may have deleted it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
