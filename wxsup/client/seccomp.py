"""Closes the one way to signal another process that systemd's SystemCallFilter= cannot: it does not look at arguments.

Who owns an open file is sent a signal when there is something to read (fcntl(2), F_SETOWN), and who sets the owner
chooses the process. All clients being one user, one that is taken over could end the others so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# linux/audit.h, and the numbers of fcntl and ioctl there. Elsewhere this way stays open.
_MACHINES = {
    "x86_64": (0xC000003E, 72, 16),
    "aarch64": (0xC00000B7, 25, 29),
    "riscv64": (0xC00000F3, 25, 29),
}
_F_SETOWN, _F_SETOWN_EX = 8, 15
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
# linux/filter.h, linux/seccomp.h: load a word of struct seccomp_data, jump if it equals, return.
_LOAD, _JUMP, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCH, _SECOND_ARGUMENT = 0, 4, 24
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def signal_no_owners() -> None:
    """Refuse ourselves, and whatever we become, to make another process the owner of a file; does not fail."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        return
    arch, fcntl, ioctl = _MACHINES[machine]
    steps = (
        (_LOAD, 0, 0, _ARCH),
        (_JUMP, 0, 9, arch),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP, 1, 0, fcntl),
        (_JUMP, 3, 6, ioctl),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_JUMP, 5, 0, _F_SETOWN),
        (_JUMP, 4, 3, _F_SETOWN_EX),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_JUMP, 2, 0, _FIOSETOWN),
        (_JUMP, 1, 0, _SIOCSPGRP),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    unused = ctypes.c_ulong(0)
    ctypes.CDLL(None).prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_ulong(ctypes.addressof(program)), unused, unused)
