"""Errno: how kernel code says that a system call fails.

`raise Errno(ENOENT)` anywhere below a system call becomes `-ENOENT` in the guest's rax, in one place (the syscall loop).
The numbers are `uapi.errno`'s. Four more never reach a guest: a call that a signal interrupted raises one of them, and
signal delivery turns it into a restart or into EINTR (linux/errno.h, not exported to user space).
"""

from __future__ import annotations

from typing import Final

from polynix.kernelproc.uapi.errno import NAMES

ERESTARTSYS: Final = 512  # restart if the handler has SA_RESTART, or if there is no handler
ERESTARTNOINTR: Final = 513  # always restart
ERESTARTNOHAND: Final = 514  # restart only if there is no handler
ERESTART_RESTARTBLOCK: Final = 516  # no handler: restart through restart_syscall, with the time that is left

RESTARTS: Final[dict[int, str]] = {
    ERESTARTSYS: "ERESTARTSYS",
    ERESTARTNOINTR: "ERESTARTNOINTR",
    ERESTARTNOHAND: "ERESTARTNOHAND",
    ERESTART_RESTARTBLOCK: "ERESTART_RESTARTBLOCK",
}


class Errno(Exception):
    """A system call fails with this error number (positive, as in `uapi.errno`)."""

    __slots__ = ("errno",)

    def __init__(self, errno: int) -> None:
        self.errno = errno

    def __str__(self) -> str:
        return errno_name(self.errno)

    def __repr__(self) -> str:
        return f"Errno({errno_name(self.errno)})"


def errno_name(errno: int) -> str:
    """`ENOENT` for 2, and so on; the number as text if it has no name."""
    return NAMES.get(errno) or RESTARTS.get(errno) or str(errno)
