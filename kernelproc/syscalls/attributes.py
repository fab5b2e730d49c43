"""Attributes of open files: fstat, fstatfs, fchmod, fchown; and fchdir."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Mode, Uid
from polynix.kernelproc.uapi.errno import ENOTDIR, EROFS
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.attributes import change_mode, change_owner
from polynix.kernelproc.vfs.permissions import MAY_EXEC, check_access
from polynix.kernelproc.vfs.stat import stat_bytes, statfs_bytes

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.fs_node import FsNode


@syscall()
def fstat(task: Task, fd: FdNumber, buffer: UserAddress) -> int:
    """man 2 fstat."""
    task.copy_out(buffer, stat_bytes(task.files.get(fd).node))
    return 0


@syscall()
def fstatfs(task: Task, fd: FdNumber, buffer: UserAddress) -> int:
    """man 2 fstatfs."""
    file = task.files.get(fd)
    task.copy_out(buffer, statfs_bytes(file.node, file.name.mount.flags if file.name is not None else 0))
    return 0


def writable_node(task: Task, fd: int) -> FsNode:
    """The node of a descriptor whose attributes may change. Errors: EBADF (O_PATH included), EROFS."""
    file = task.files.get_io(fd)
    if file.name is not None and file.name.mount.read_only:
        raise Errno(EROFS)
    return file.node


def _changed(task: Task, fd: int) -> int:
    """Tell those who watch; the call's result."""
    if fsnotify.watched:
        fsnotify.attributes_changed(task.files.get(fd))
    return 0


@syscall()
def fchmod(task: Task, fd: FdNumber, mode: Mode) -> int:
    """man 2 fchmod."""
    change_mode(task, writable_node(task, fd), mode)
    return _changed(task, fd)


@syscall()
def fchown(task: Task, fd: FdNumber, uid: Uid, gid: Uid) -> int:
    """man 2 fchown."""
    change_owner(task, writable_node(task, fd), uid, gid)
    return _changed(task, fd)


@syscall()
def fchdir(task: Task, fd: FdNumber) -> int:
    """man 2 fchdir; O_PATH descriptors will do."""
    file = task.files.get(fd)
    if file.name is None or not file.node.is_directory:
        return -ENOTDIR
    check_access(task.credentials, file.node, MAY_EXEC)
    task.fs.cwd = file.name
    return 0
