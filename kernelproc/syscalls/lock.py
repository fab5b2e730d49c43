"""File locks as system calls: flock, and fcntl's record lock commands (man 2 flock, man 2 fcntl)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, UInt
from polynix.kernelproc.uapi.errno import EAGAIN, EBADF, EINVAL, EOPNOTSUPP, EOVERFLOW
from polynix.kernelproc.uapi.fcntl import (
    F_RDLCK,
    F_UNLCK,
    F_WRLCK,
    LOCK_EX,
    LOCK_MAND,
    LOCK_NB,
    LOCK_SH,
    LOCK_UN,
    SEEK_CUR,
    SEEK_END,
    SEEK_SET,
)
from polynix.kernelproc.vfs import locks as file_locks
from polynix.kernelproc.vfs.locks import OFD_PID, OFFSET_MAX, LockWaits, locks_of

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result

_FLOCK: Final = struct.Struct("<hh4xqqi4x")  # struct flock on x86-64


def _range(file: FileObject, whence: int, start: int, length: int) -> tuple[int, int]:
    """The inclusive range that a struct flock means. Errors: EINVAL, EOVERFLOW."""
    if whence == SEEK_SET:
        base = 0
    elif whence == SEEK_CUR:
        base = file.offset
    elif whence == SEEK_END:
        base = file.node.refreshed_size()
    else:
        raise Errno(EINVAL)
    if start > OFFSET_MAX - base:
        raise Errno(EOVERFLOW)
    start += base
    if start < 0:
        raise Errno(EINVAL)
    if length > 0:
        if length - 1 > OFFSET_MAX - start:
            raise Errno(EOVERFLOW)
        return start, start + length - 1
    if length < 0:
        if start + length < 0:
            raise Errno(EINVAL)
        return start + length, start - 1
    return start, OFFSET_MAX


def get_record_lock(task: Task, file: FileObject, address: UserAddress, *, ofd: bool) -> int:
    """F_GETLK and F_OFD_GETLK: the first lock that would be in the way."""
    kind, whence, start, length, pid = _FLOCK.unpack(task.copy_in(address, _FLOCK.size))
    if kind not in (F_RDLCK, F_WRLCK) or (ofd and pid):
        return -EINVAL
    first, last = _range(file, whence, start, length)
    obstacle = locks_of(file.node).conflict(file if ofd else task.files, kind, first, last)
    if obstacle is None:
        answer = _FLOCK.pack(F_UNLCK, whence, start, length, pid)
    else:
        extent = 0 if obstacle.end == OFFSET_MAX else obstacle.end - obstacle.start + 1
        answer = _FLOCK.pack(obstacle.kind, SEEK_SET, obstacle.start, extent, obstacle.pid)
    task.copy_out(address, answer)
    return 0


def set_record_lock(task: Task, fd: int, file: FileObject, address: UserAddress, *, ofd: bool, wait: bool) -> Result:
    """F_SETLK, F_SETLKW and the OFD forms. Errors: EAGAIN, EBADF (access mode), EDEADLK, EINVAL, EOVERFLOW."""
    kind, whence, start, length, pid = _FLOCK.unpack(task.copy_in(address, _FLOCK.size))
    first, last = _range(file, whence, start, length)
    if kind not in (F_RDLCK, F_WRLCK, F_UNLCK) or (ofd and pid):
        return -EINVAL
    if (kind == F_RDLCK and not file.readable) or (kind == F_WRLCK and not file.writable):
        return -EBADF
    locks = locks_of(file.node)
    owner = file if ofd else task.files
    holder = OFD_PID if ofd else task.group.pid
    if kind == F_UNLCK or locks.conflict(owner, kind, first, last) is None:
        locks.set_record(owner, holder, kind, first, last)
        return 0
    if not wait:
        return -EAGAIN
    return _wait_for_record_lock(task, fd, file, owner is file, kind, first, last)


async def _wait_for_record_lock(task: Task, fd: int, file: FileObject, ofd: bool, kind: int, first: int, last: int) -> int:
    files = task.files
    owner = file if ofd else files
    holder = OFD_PID if ofd else task.group.pid
    waits = None if ofd else task.kernel.expando.get(LockWaits)
    file.references += 1
    try:
        await file_locks.set_record_lock(file.node, owner, holder, kind, first, last, wait=True, waits=waits)
        if files.files.get(fd) is not file:
            # Closed by another thread meanwhile: that close came too early to release this lock.
            locks_of(file.node).set_record(owner, holder, F_UNLCK, first, last)
            return -EBADF
        return 0
    finally:
        file.release()


@syscall()
def flock(task: Task, fd: FdNumber, operation: UInt) -> Result:
    """man 2 flock."""
    if operation & LOCK_MAND:
        return -EOPNOTSUPP
    kind = {LOCK_SH: F_RDLCK, LOCK_EX: F_WRLCK, LOCK_UN: F_UNLCK}.get(operation & ~LOCK_NB)
    if kind is None:
        return -EINVAL
    file = task.files.get_io(fd)
    if kind != F_UNLCK and not (file.readable or file.writable):
        return -EBADF
    return _flock(file, task.group.pid, kind, not operation & LOCK_NB)


async def _flock(file: FileObject, pid: int, kind: int, wait: bool) -> int:
    file.references += 1
    try:
        return await file_locks.set_flock(file, pid, kind, wait=wait)
    finally:
        file.release()
