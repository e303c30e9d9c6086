"""A throw-away machine with a real systemd, over the host's own root: what is written inside disappears with it.

    with Machine(folder) as machine:
        machine.run("systemctl", "is-system-running")
        machine.reboot()

It has a network of its own, without a way out: `run(..., internet=True)` borrows the host's. Its services are those
that systemd itself brings; the host's own are not started.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.deadline import eventually
from wxsup.daemon import set_parent_death_signal

BOOT_TIMEOUT = 60.0
CLONE_NEWNET = 0x40000000  # sched.h

#: The hierarchies that systemd puts services into: its own beside those of cgroups v1, or the one of v2 (cgroups(7)).
CGROUPS = [path for path in map(Path, ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")) if path.is_dir()] or [
    Path("/sys/fs/cgroup")
]

#: Units that would reach out of the machine, to the kernel or the devices that it shares with the host.
MASKED = (
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "getty.target",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-modules-load.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
)

# Run in namespaces of its own with the folder of the disk as argument; becomes PID 1. Steps of TESTING.md.
BOOT = r"""
set -e
mount --make-rprivate /
cd "$1"
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 run run
mkdir run/lock
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=1777 tmp var/tmp
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
if [ ! -e etc/throw-away-machine ]; then
    touch etc/throw-away-machine
    : > etc/machine-id
    rm -rf etc/systemd/system/*.wants etc/systemd/user/*.wants
    for unit in $2; do ln -sf /dev/null "etc/systemd/system/$unit"; done
fi
mkdir -p old
pivot_root . old
umount -l /old
# As PID 1 does outside of containers; what is mounted later must reach the namespaces of services.
mount --make-rshared /
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=no --log-target=journal
"""


def die_with_parent() -> None:
    """Be killed with the test run, and with us, by --kill-child, the machine; unshare --fork holds SIGTERM back."""
    set_parent_death_signal(signal.SIGKILL)


def missing() -> str:
    """Return why there can be no such machine here, "" if there can."""
    if os.geteuid() != 0:
        return "it needs root"
    for program in ("unshare", "nsenter", "setpriv", "systemctl", "dbus-daemon"):
        if not shutil.which(program):
            return f"it needs {program}"
    if not Path("/usr/lib/polkit-1/polkitd").exists():
        return "it needs polkitd"
    allowed = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--net", "true"], capture_output=True, check=False
    )
    return "" if allowed.returncode == 0 else f"namespaces are not allowed here: {allowed.stderr.decode().strip()}"


def require() -> None:
    """Skip where there can be no such machine, which in CI is a failure."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(f"a real systemd: {reason}")
        pytest.skip(f"a real systemd: {reason}")


class Machine:
    """A machine whose disk lives as long as this object is entered; it needs an empty `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cgroups: list[Path] = []
        self._keeper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # Its mounts are seen in here only, and go when it goes.
        disk = 'mount -t tmpfs disk "$0"; mkdir "$0/upper" "$0/work" "$0/root"; echo ready; exec sleep infinity'
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "bash", "-ec", disk, str(self._folder)],
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert self._keeper.stdout and self._keeper.stdout.readline() == b"ready\n"
        # Two machines in one would clean away each other's cgroups (exit status 219 of systemd.exec(5)).
        self._cgroups = [Path(tempfile.mkdtemp(prefix="machine-", dir=hierarchy)) for hierarchy in CGROUPS]
        for cgroup in self._cgroups:
            cgroup.chmod(0o755)  # for the systemd of a user, too
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()  # and with it, by --kill-child, all of the machine
            self._process.wait()
        assert self._keeper and self._keeper.stdout
        self._keeper.kill()
        self._keeper.wait()
        self._keeper.stdout.close()
        eventually(self._without_cgroups, what="the end of all its processes")

    @property
    def pid(self) -> int:
        """The process number of the machine's PID 1, as the host sees it."""
        assert self._process
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    @property
    def bus(self) -> str:
        """The D-Bus address of the machine's system bus, as the host sees it."""
        return f"unix:path={self.path('/run/dbus/system_bus_socket')}"

    def path(self, inside: str) -> Path:
        """Return where the host finds a path of the machine's."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def boot(self) -> None:
        """Start systemd and wait until all is up."""
        assert self._keeper
        self._process = subprocess.Popen(
            ["nsenter", "--target", str(self._keeper.pid), "--mount", "--"]
            + "unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net --".split()
            + ["bash", "-c", BOOT, "boot", str(self._folder), " ".join(MASKED)],
            stdin=subprocess.DEVNULL,
            preexec_fn=self._enter_cgroups,
        )
        eventually(self._is_up, timeout=BOOT_TIMEOUT, what="the machine")

    def power_off(self) -> None:
        """Shut down in order; the disk stays."""
        assert self._process
        self.run("systemctl", "poweroff", check=False)
        self._process.wait(BOOT_TIMEOUT)

    def reboot(self) -> None:
        """Shut down in order and boot again, from the same disk."""
        self.power_off()
        self.boot()

    def command(
        self, *words: str, user: str = "", folder: str = "/", internet: bool = False, kill: bool = False
    ) -> list[str]:
        """Return the command line that runs `words` inside; with `kill`, `user` may signal any process."""
        spaces = "--mount --pid --uts --ipc --cgroup".split() + ([] if internet else ["--net"])
        rights = ["--ambient-caps", "+kill", "--inh-caps", "+kill"] if kill else []
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", *rights, "--"] if user else []
        return ["nsenter", "--target", str(self.pid), *spaces, f"--wdns={folder}", "--", *become, *words]

    def run(
        self,
        *words: str,
        user: str = "",
        folder: str = "/",
        internet: bool = False,
        kill: bool = False,
        check: bool = True,
        timeout: float = 120.0,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root or as `user`, and return what it said; with `check` it must succeed."""
        kept = dict(os.environ) if internet else {}
        inside = {
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        }
        done = subprocess.run(
            self.command(*words, user=user, folder=folder, internet=internet, kill=kill),
            env={**kept, **inside, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def systemctl(self, *words: str) -> str:
        """Run systemctl as root and return what it prints."""
        return self.run("systemctl", "--no-pager", *words).stdout

    @contextmanager
    def network(self) -> Iterator[None]:
        """Let this thread open its sockets in the machine's network (setns(2))."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.pid}/ns/net") as theirs:
            assert libc.setns(theirs.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(ours.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def _enter_cgroups(self) -> None:
        """Make our cgroups those that unshare --cgroup takes for the roots (cgroup_namespaces(7))."""
        die_with_parent()
        for cgroup in self._cgroups:
            (cgroup / "cgroup.procs").write_text("0")

    def _without_cgroups(self) -> bool:
        """Remove the cgroups and those below them, and tell whether that is done."""
        with suppress(OSError):  # somebody is in there yet
            for cgroup in self._cgroups:
                for folder, _, _ in os.walk(cgroup, topdown=False):
                    os.rmdir(folder)
        return not any(cgroup.exists() for cgroup in self._cgroups)

    def _is_up(self) -> bool:
        assert self._process
        assert self._process.poll() is None, "the machine did not boot"
        try:
            return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")
        except (IndexError, OSError):  # there is no PID 1 yet
            return False
