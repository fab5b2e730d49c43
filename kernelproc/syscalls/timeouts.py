"""Timeouts of system calls: from guest memory to a deadline of the kernel's monotonic clock, and what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EINVAL
from polynix.kernelproc.uapi.structs import timespec, timeval

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

NANOSECONDS = 1_000_000_000
_LONGEST = (1 << 63) - 1  # KTIME_MAX: 292 years


def import_timespec(task: Task, address: UserAddress) -> int | None:
    """Nanoseconds of a ``struct timespec``; None for a null pointer. Errors: EFAULT, EINVAL."""
    if not address:
        return None
    seconds, nanoseconds = timespec.FORMAT.unpack(task.copy_in(address, timespec.SIZE))
    if seconds < 0 or not 0 <= nanoseconds < NANOSECONDS:
        raise Errno(EINVAL)
    timeout: int = min(seconds * NANOSECONDS + nanoseconds, _LONGEST)
    return timeout


def import_timeval(task: Task, address: UserAddress) -> int | None:
    """Nanoseconds of a ``struct timeval``; None for a null pointer. As select takes it, tv_usec may exceed a second."""
    if not address:
        return None
    seconds, microseconds = timeval.FORMAT.unpack(task.copy_in(address, timeval.SIZE))
    if seconds < 0 or microseconds < 0:
        raise Errno(EINVAL)
    timeout: int = min(seconds * NANOSECONDS + microseconds * 1000, _LONGEST)
    return timeout


def deadline_after(task: Task, timeout_ns: int | None) -> int | None:
    """The monotonic time ``timeout_ns`` from now; 0 for no time at all, None for never."""
    if not timeout_ns:
        return timeout_ns
    return task.kernel.clock.monotonic_ns() + timeout_ns


def time_left(task: Task, deadline_ns: int) -> int:
    """Nanoseconds until ``deadline_ns``, not below zero."""
    return max(0, deadline_ns - task.kernel.clock.monotonic_ns()) if deadline_ns else 0
