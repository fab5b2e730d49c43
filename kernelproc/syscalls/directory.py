"""Reading directories: getdents and getdents64 (man 2 getdents)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, UInt
from polynix.kernelproc.uapi.errno import EFAULT, EINVAL, ENOENT, ENOTDIR
from polynix.kernelproc.vfs import fsnotify

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_DIRENT64: Final = struct.Struct("<QqHB")  # struct linux_dirent64 up to d_name
_DIRENT: Final = struct.Struct("<QQH")  # struct linux_dirent up to d_name
_BUFFER_LIMIT: Final = 1 << 20  # more than any C library asks for; bounds what one call collects


class _Dirents:
    """A DirectorySink that lays entries out as the guest's buffer wants them, until ``capacity`` is full."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.refused = False

    def _append(self, record: bytes, length: int) -> bool:
        if len(self.data) + length > self.capacity:
            self.refused = True
            return False
        self.data += record
        self.data += bytes(length - len(record))
        return True


class Dirents64(_Dirents):
    def add(self, inode: int, next_offset: int, kind: int, name: bytes) -> bool:
        length = (_DIRENT64.size + len(name) + 1 + 7) & ~7
        return self._append(_DIRENT64.pack(inode, next_offset, length, kind) + name, length)


class Dirents(_Dirents):
    def add(self, inode: int, next_offset: int, kind: int, name: bytes) -> bool:
        # The type lies in the last byte of the record, behind the name's NUL and the padding.
        length = (_DIRENT.size + len(name) + 2 + 7) & ~7
        record = _DIRENT.pack(inode, next_offset & 0xFFFFFFFFFFFFFFFF, length) + name
        return self._append(record + bytes(length - len(record) - 1) + bytes((kind,)), length)


def _getdents(task: Task, fd: int, buffer: UserAddress, sink: Dirents | Dirents64) -> int:
    file = task.files.get_io(fd)
    if not file.node.is_directory:
        return -ENOTDIR
    if file.node.nlink == 0:
        return -ENOENT  # removed while it was open
    start = file.offset
    file.ops.readdir(file, sink)
    if not sink.data:
        return -EINVAL if sink.refused else 0
    if task.user.copy_out(buffer, sink.data) != len(sink.data):
        file.offset = start
        raise Errno(EFAULT)
    if fsnotify.watched:
        fsnotify.accessed(file)
    return len(sink.data)


@syscall()
def getdents64(task: Task, fd: FdNumber, buffer: UserAddress, count: UInt) -> int:
    """man 2 getdents64. Errors: EINVAL when not even one entry fits."""
    return _getdents(task, fd, buffer, Dirents64(min(count, _BUFFER_LIMIT)))


@syscall()
def getdents(task: Task, fd: FdNumber, buffer: UserAddress, count: UInt) -> int:
    """man 2 getdents."""
    return _getdents(task, fd, buffer, Dirents(min(count, _BUFFER_LIMIT)))
