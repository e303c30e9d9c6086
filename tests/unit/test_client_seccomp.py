from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wxsup.client import seccomp

# In a process of its own: there is no way back.
PROGRAM = """
import ctypes, errno, fcntl, os, struct
from wxsup.client import seccomp

read, write = os.pipe()
WAYS = {
    "F_SETOWN": lambda: fcntl.fcntl(read, fcntl.F_SETOWN, os.getpid()),
    "F_SETOWN_EX": lambda: fcntl.fcntl(read, 15, struct.pack("ii", 1, os.getpid())),
    "FIOSETOWN": lambda: fcntl.ioctl(read, 0x8901, struct.pack("i", os.getpid())),
    "SIOCSPGRP": lambda: fcntl.ioctl(read, 0x8902, struct.pack("i", os.getpid())),
    "F_GETFL": lambda: fcntl.fcntl(read, fcntl.F_GETFL),
    "F_SETFL": lambda: fcntl.fcntl(read, fcntl.F_SETFL, os.O_NONBLOCK),
    "FIONREAD": lambda: fcntl.ioctl(read, 0x541B, b"0000"),
}

def refused():
    for name, way in WAYS.items():
        try:
            way()
        except OSError as ex:
            if ex.errno == errno.EPERM:
                yield name

print(*refused())
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, as the unit has it
seccomp.signal_no_owners()
print(*refused())
"""


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64", "riscv64"), reason="this way stays open here")
def test_nobody_is_made_the_owner_of_a_file_and_the_rest_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["", "F_SETOWN F_SETOWN_EX FIOSETOWN SIOCSPGRP"]


def test_on_another_machine_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_MACHINES", {})
    seccomp.signal_no_owners()
