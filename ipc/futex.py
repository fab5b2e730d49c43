"""Wait for a word of shared memory to change: futex(2), through ctypes, the GIL released while it waits."""

from __future__ import annotations

import ctypes
import errno
import os

_SYS_FUTEX = 202  # x86-64
_FUTEX_WAIT = 0  # without FUTEX_PRIVATE_FLAG: the word is shared between processes
_FUTEX_WAKE = 1
_INT_MAX = 0x7FFF_FFFF

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def futex_wait(word: ctypes.c_uint32, expected: int, timeout_ns: int | None = None) -> bool:
    """Sleep while ``word`` is ``expected``; False if the time ran out. May return early."""
    timeout = None if timeout_ns is None else ctypes.byref(_Timespec(*divmod(max(0, timeout_ns), 1_000_000_000)))
    result = _syscall(ctypes.c_long(_SYS_FUTEX), ctypes.byref(word), ctypes.c_int(_FUTEX_WAIT), ctypes.c_uint32(expected), timeout, None, ctypes.c_uint32(0))
    if result == 0:
        return True
    error = ctypes.get_errno()
    if error == errno.ETIMEDOUT:
        return False
    if error in (errno.EAGAIN, errno.EINTR):
        return True
    raise OSError(error, os.strerror(error))


def futex_wake(word: ctypes.c_uint32) -> None:
    """Wake all who wait for ``word``, which must have been changed before."""
    _syscall(ctypes.c_long(_SYS_FUTEX), ctypes.byref(word), ctypes.c_int(_FUTEX_WAKE), ctypes.c_int(_INT_MAX), None, None, ctypes.c_uint32(0))
