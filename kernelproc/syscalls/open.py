"""open(2), openat(2), openat2(2), creat(2)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Mode, Size, UserAddress
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.errno import E2BIG, EAGAIN, EINVAL
from polynix.kernelproc.uapi.fcntl import (
    AT_FDCWD,
    O_ACCMODE,
    O_APPEND,
    O_ASYNC,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECT,
    O_DIRECTORY,
    O_DSYNC,
    O_EXCL,
    O_LARGEFILE,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_SYNC,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.lookup import begin_open

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

VALID_OPEN_FLAGS: Final = (
    O_ACCMODE | O_APPEND | O_ASYNC | O_CLOEXEC | O_CREAT | O_DIRECT | O_DIRECTORY | O_DSYNC | O_EXCL | O_LARGEFILE | O_NOATIME | O_NOCTTY | O_NOFOLLOW
    | O_NONBLOCK | O_PATH | O_SYNC | O_TMPFILE | O_TRUNC
)  # fmt: skip
VALID_RESOLVE: Final = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_CACHED
_TMPFILE: Final = O_TMPFILE & ~O_DIRECTORY
_PATH_FLAGS: Final = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC

OpenedFd = int | Coroutine[Any, Any, int]


def _open(task: Task, dir_fd: int, path: bytes, flags: int, mode: int, resolve: int = 0) -> OpenedFd:
    if flags & O_PATH:
        flags &= _PATH_FLAGS
    file = begin_open(task, dir_fd, path, flags, mode, resolve)
    if type(file) is FileObject:
        return _install(task, file, flags)
    return _open_later(task, file, flags)


async def _open_later(task: Task, opening: Any, flags: int) -> int:
    file: FileObject = await opening
    return _install(task, file, flags)


def _install(task: Task, file: FileObject, flags: int) -> int:
    try:
        return task.files.install(file, bool(flags & O_CLOEXEC))
    except Errno:
        file.retain().release()
        raise


@syscall()
def openat(task: Task, dir_fd: FdNumber, path: UserAddress, flags: Flags, mode: Mode) -> OpenedFd:
    """man 2 open. Unknown flags are ignored, as Linux does."""
    return _open(task, dir_fd, task.read_path(path), flags & VALID_OPEN_FLAGS, mode)


@syscall("open")
def open_(task: Task, path: UserAddress, flags: Flags, mode: Mode) -> OpenedFd:
    """man 2 open."""
    return _open(task, AT_FDCWD, task.read_path(path), flags & VALID_OPEN_FLAGS, mode)


@syscall()
def creat(task: Task, path: UserAddress, mode: Mode) -> OpenedFd:
    """man 2 creat."""
    return _open(task, AT_FDCWD, task.read_path(path), O_CREAT | O_WRONLY | O_TRUNC, mode)


@syscall()
def openat2(task: Task, dir_fd: FdNumber, path: UserAddress, how: UserAddress, size: Size) -> OpenedFd:
    """man 2 openat2. Unlike open it refuses what it doesn't know."""
    if size < structs.open_how.SIZE:
        raise Errno(EINVAL)
    if size > 4096:
        raise Errno(E2BIG)
    raw = task.copy_in(how, size)
    if any(raw[structs.open_how.SIZE :]):
        raise Errno(E2BIG)
    flags, mode, resolve = structs.open_how.FORMAT.unpack_from(raw)
    if flags & ~VALID_OPEN_FLAGS or resolve & ~VALID_RESOLVE or mode & ~0o7777:
        raise Errno(EINVAL)
    if mode and not flags & (O_CREAT | _TMPFILE):
        raise Errno(EINVAL)
    if flags & O_PATH and flags & ~_PATH_FLAGS:
        raise Errno(EINVAL)
    if resolve & RESOLVE_BENEATH and resolve & RESOLVE_IN_ROOT:
        raise Errno(EINVAL)
    if resolve & RESOLVE_CACHED:
        if flags & (O_TRUNC | O_CREAT | _TMPFILE):
            raise Errno(EAGAIN)
        track_stub("openat2: RESOLVE_CACHED may look at the disk")
    return _open(task, dir_fd, task.read_path(path), flags, mode, resolve)
