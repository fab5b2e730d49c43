"""Reading and writing open files through iovecs: readv, writev, and their positioned forms with flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.syscalls.file import UNREADABLE, is_writable, read_into, write_from
from polynix.kernelproc.syscalls.iovec import import_iovec
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Offset, ULong
from polynix.kernelproc.uapi.errno import EBADF, EINVAL, EOPNOTSUPP, ESPIPE
from polynix.kernelproc.uapi.fcntl import RWF_APPEND, RWF_DSYNC, RWF_HIPRI, RWF_NOAPPEND, RWF_NOWAIT, RWF_SYNC
from polynix.kernelproc.vfs.buffers import UserInputBuffer, UserOutputBuffer

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result

_SUPPORTED_RWF: Final = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND


@syscall()
def readv(task: Task, fd: FdNumber, iov: UserAddress, count: ULong) -> Result:
    """man 2 readv."""
    return _preadv(task, fd, iov, count, -1, 0)


@syscall()
def preadv(task: Task, fd: FdNumber, iov: UserAddress, count: ULong, offset: Offset, _offset_high: ULong) -> Result:
    """man 2 preadv (the high half of the position is not used on x86-64)."""
    if offset < 0:
        return -EINVAL
    return _preadv(task, fd, iov, count, offset, 0)


@syscall()
def preadv2(task: Task, fd: FdNumber, iov: UserAddress, count: ULong, offset: Offset, _offset_high: ULong, flags: Flags) -> Result:
    """man 2 preadv2; offset -1 means the file's own."""
    if offset < -1:
        return -EINVAL
    return _preadv(task, fd, iov, count, offset, flags)


def _preadv(task: Task, fd: int, iov: UserAddress, count: int, offset: int, flags: int) -> Result:
    """Read at ``offset`` (-1: at the file's own, which advances)."""
    file = task.files.get_io(fd)
    if offset != -1 and not file.ops.seekable:
        return -ESPIPE
    buffers = import_iovec(task, iov, count)
    if file.flags & UNREADABLE:
        return -EBADF
    return read_with_flags(file, UserOutputBuffer(task.user, buffers), offset, flags)


def read_with_flags(file: FileObject, out: UserOutputBuffer, offset: int, flags: int) -> Result:
    """Read at ``offset`` (-1: at the file's own, which advances), RWF_* ``flags`` obeyed, a file that is known to be readable."""
    if flags & ~_SUPPORTED_RWF:
        return -EOPNOTSUPP
    nonblocking = True if flags & RWF_NOWAIT else None
    if offset == -1:
        return read_into(file, file.offset, out, advance=file.ops.seekable, nonblocking=nonblocking)
    return read_into(file, offset, out, advance=False, nonblocking=nonblocking)


@syscall()
def writev(task: Task, fd: FdNumber, iov: UserAddress, count: ULong) -> Result:
    """man 2 writev."""
    return _pwritev(task, fd, iov, count, -1, 0)


@syscall()
def pwritev(task: Task, fd: FdNumber, iov: UserAddress, count: ULong, offset: Offset, _offset_high: ULong) -> Result:
    """man 2 pwritev."""
    if offset < 0:
        return -EINVAL
    return _pwritev(task, fd, iov, count, offset, 0)


@syscall()
def pwritev2(task: Task, fd: FdNumber, iov: UserAddress, count: ULong, offset: Offset, _offset_high: ULong, flags: Flags) -> Result:
    """man 2 pwritev2; offset -1 means the file's own."""
    if offset < -1:
        return -EINVAL
    return _pwritev(task, fd, iov, count, offset, flags)


def _pwritev(task: Task, fd: int, iov: UserAddress, count: int, offset: int, flags: int) -> Result:
    """Write at ``offset`` (-1: at the file's own, which advances)."""
    file = task.files.get_io(fd)
    if offset != -1 and not file.ops.seekable:
        return -ESPIPE
    buffers = import_iovec(task, iov, count)
    if not is_writable(file.flags):
        return -EBADF
    return write_with_flags(task, file, UserInputBuffer(task.user, buffers), offset, flags)


def write_with_flags(task: Task, file: FileObject, data: UserInputBuffer, offset: int, flags: int) -> Result:
    """Write at ``offset`` (-1: at the file's own, which advances), RWF_* ``flags`` obeyed, to a file that is known to be writable."""
    if flags & ~_SUPPORTED_RWF:
        return -EOPNOTSUPP
    if flags & RWF_APPEND and flags & RWF_NOAPPEND:
        return -EINVAL
    append = True if flags & RWF_APPEND else False if flags & RWF_NOAPPEND else None
    advance = offset == -1 and file.ops.seekable
    return write_from(
        task,
        file,
        file.offset if offset == -1 else offset,
        data,
        advance=advance,
        append=append,
        nonblocking=True if flags & RWF_NOWAIT else None,
        sync=bool(flags & (RWF_DSYNC | RWF_SYNC)),
    )
