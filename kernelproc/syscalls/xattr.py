"""Extended attributes: the four operations, each by path, by path without following a link, and by descriptor (man 7 xattr)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.attributes import writable_node
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Size
from polynix.kernelproc.uapi.errno import E2BIG, EINVAL, ERANGE
from polynix.kernelproc.uapi.fcntl import AT_FDCWD
from polynix.kernelproc.uapi.xattr import XATTR_CREATE, XATTR_NAME_MAX, XATTR_REPLACE, XATTR_SIZE_MAX
from polynix.kernelproc.vfs import xattr
from polynix.kernelproc.vfs.lookup import lookup

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.fs_node import FsNode


def _node(task: Task, path: UserAddress, *, follow: bool = True, write: bool = False) -> FsNode:
    place = lookup(task, AT_FDCWD, task.read_path(path), follow=follow)
    if write:
        place.mount.check_writable()
    return place.node


def _name(task: Task, address: UserAddress) -> bytes:
    name = task.user.read_cstring(address, XATTR_NAME_MAX + 1)
    if not name:
        raise Errno(ERANGE)
    return name


def _give(task: Task, data: bytes, buffer: UserAddress, size: int) -> int:
    """Store ``data`` if the buffer is big enough; a size of 0 asks for the length only."""
    if size:
        if len(data) > size:
            raise Errno(ERANGE)
        task.copy_out(buffer, data)
    return len(data)


def _set(task: Task, node: FsNode, name: UserAddress, value: UserAddress, size: int, flags: int) -> int:
    if flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise Errno(EINVAL)
    attribute = _name(task, name)
    if size > XATTR_SIZE_MAX:
        raise Errno(E2BIG)
    xattr.set_xattr(task, node, attribute, task.copy_in(value, size) if size else b"", flags)
    return 0


@syscall()
def setxattr(task: Task, path: UserAddress, name: UserAddress, value: UserAddress, size: Size, flags: Flags) -> int:
    """man 2 setxattr."""
    return _set(task, _node(task, path, write=True), name, value, size, flags)


@syscall()
def lsetxattr(task: Task, path: UserAddress, name: UserAddress, value: UserAddress, size: Size, flags: Flags) -> int:
    """man 2 setxattr."""
    return _set(task, _node(task, path, follow=False, write=True), name, value, size, flags)


@syscall()
def fsetxattr(task: Task, fd: FdNumber, name: UserAddress, value: UserAddress, size: Size, flags: Flags) -> int:
    """man 2 setxattr."""
    return _set(task, writable_node(task, fd), name, value, size, flags)


@syscall()
def getxattr(task: Task, path: UserAddress, name: UserAddress, value: UserAddress, size: Size) -> int:
    """man 2 getxattr."""
    return _give(task, xattr.get_xattr(task, _node(task, path), _name(task, name)), value, size)


@syscall()
def lgetxattr(task: Task, path: UserAddress, name: UserAddress, value: UserAddress, size: Size) -> int:
    """man 2 getxattr."""
    return _give(task, xattr.get_xattr(task, _node(task, path, follow=False), _name(task, name)), value, size)


@syscall()
def fgetxattr(task: Task, fd: FdNumber, name: UserAddress, value: UserAddress, size: Size) -> int:
    """man 2 getxattr."""
    return _give(task, xattr.get_xattr(task, task.files.get_io(fd).node, _name(task, name)), value, size)


@syscall()
def listxattr(task: Task, path: UserAddress, names: UserAddress, size: Size) -> int:
    """man 2 listxattr."""
    return _give(task, xattr.list_xattrs(task, _node(task, path)), names, size)


@syscall()
def llistxattr(task: Task, path: UserAddress, names: UserAddress, size: Size) -> int:
    """man 2 listxattr."""
    return _give(task, xattr.list_xattrs(task, _node(task, path, follow=False)), names, size)


@syscall()
def flistxattr(task: Task, fd: FdNumber, names: UserAddress, size: Size) -> int:
    """man 2 listxattr."""
    return _give(task, xattr.list_xattrs(task, task.files.get_io(fd).node), names, size)


@syscall()
def removexattr(task: Task, path: UserAddress, name: UserAddress) -> int:
    """man 2 removexattr."""
    xattr.remove_xattr(task, _node(task, path, write=True), _name(task, name))
    return 0


@syscall()
def lremovexattr(task: Task, path: UserAddress, name: UserAddress) -> int:
    """man 2 removexattr."""
    xattr.remove_xattr(task, _node(task, path, follow=False, write=True), _name(task, name))
    return 0


@syscall()
def fremovexattr(task: Task, fd: FdNumber, name: UserAddress) -> int:
    """man 2 removexattr."""
    xattr.remove_xattr(task, writable_node(task, fd), _name(task, name))
    return 0
