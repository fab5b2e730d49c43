"""Host system calls on files that Python's ``os`` lacks: openat2, fallocate with a mode, renameat2; and the way from OSError to Errno."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, TypeVar

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EIO
from polynix.kernelproc.uapi.fcntl import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
from polynix.kernelproc.uapi.unistd import SYSCALLS

T = TypeVar("T")

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final[Any] = _libc.syscall
_syscall.restype = ctypes.c_long

_OPEN_HOW: Final = Struct("=QQQ")
_NR_OPENAT2: Final = ctypes.c_long(SYSCALLS["openat2"])
_NR_RENAMEAT2: Final = ctypes.c_long(SYSCALLS["renameat2"])
_NR_FALLOCATE: Final = ctypes.c_long(SYSCALLS["fallocate"])

BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS


def _check(result: int) -> int:
    if result < 0:
        raise Errno(ctypes.get_errno() or EIO)
    return result


def open_beneath(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """openat2 of a path that must stay below ``root_fd`` and meet no symbolic link."""
    how = ctypes.create_string_buffer(_OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, BENEATH), _OPEN_HOW.size)
    return _check(_syscall(_NR_OPENAT2, ctypes.c_int(root_fd), ctypes.c_char_p(path), how, ctypes.c_size_t(_OPEN_HOW.size)))


def probe_host_files() -> None:
    """Whether the host lets us open files beneath a directory at all. Errors: ENOSYS, or what a seccomp profile answers."""
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_beneath(root_fd, b".", os.O_PATH))
    finally:
        os.close(root_fd)


def rename_at(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2."""
    _check(_syscall(_NR_RENAMEAT2, ctypes.c_int(old_fd), ctypes.c_char_p(old), ctypes.c_int(new_fd), ctypes.c_char_p(new), ctypes.c_uint(flags)))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _check(_syscall(_NR_FALLOCATE, ctypes.c_int(fd), ctypes.c_int(mode), ctypes.c_long(offset), ctypes.c_long(length)))


def call(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """``function(*arguments)`` of the ``os`` module, with OSError turned into Errno."""
    try:
        return function(*arguments, **named)
    except OSError as error:
        raise Errno(error.errno or EIO)
