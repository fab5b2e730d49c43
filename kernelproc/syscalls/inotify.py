"""inotify_init1, inotify_add_watch, inotify_rm_watch (man 7 inotify)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int
from polynix.kernelproc.uapi.errno import EINVAL, ENOTDIR
from polynix.kernelproc.uapi.fcntl import AT_FDCWD, O_NONBLOCK, O_RDONLY
from polynix.kernelproc.uapi.inotify import (
    IN_ALL_EVENTS,
    IN_CLOEXEC,
    IN_DONT_FOLLOW,
    IN_EXCL_UNLINK,
    IN_MASK_ADD,
    IN_MASK_CREATE,
    IN_ONESHOT,
    IN_ONLYDIR,
    IN_UNMOUNT,
)
from polynix.kernelproc.vfs.anon import anon_file
from polynix.kernelproc.vfs.inotify import InotifyOps
from polynix.kernelproc.vfs.lookup import lookup
from polynix.kernelproc.vfs.permissions import MAY_READ, check_access

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_USEFUL: Final = IN_ALL_EVENTS | IN_UNMOUNT | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK | IN_MASK_ADD | IN_MASK_CREATE | IN_ONESHOT


@syscall()
def inotify_init1(task: Task, flags: Flags) -> int:
    """man 2 inotify_init1."""
    if flags & ~(IN_CLOEXEC | O_NONBLOCK):
        return -EINVAL
    return task.files.install_new(anon_file(task.kernel, InotifyOps(), O_RDONLY | flags & O_NONBLOCK, b"inotify"), bool(flags & IN_CLOEXEC))


@syscall()
def inotify_init(task: Task) -> int:
    """man 2 inotify_init."""
    return inotify_init1(task, 0)


def _instance(task: Task, fd: int) -> InotifyOps:
    ops = task.files.get_io(fd).ops
    if not isinstance(ops, InotifyOps):
        raise Errno(EINVAL)
    return ops


@syscall()
def inotify_add_watch(task: Task, fd: FdNumber, path: UserAddress, mask: Flags) -> int:
    """man 2 inotify_add_watch. Read permission is needed; the number of a node that is watched already stays."""
    if not mask & _USEFUL:
        return -EINVAL
    task.files.get_io(fd)
    if mask & IN_MASK_ADD and mask & IN_MASK_CREATE:
        return -EINVAL
    instance = _instance(task, fd)
    node = lookup(task, AT_FDCWD, task.read_path(path), follow=not mask & IN_DONT_FOLLOW).node
    if mask & IN_ONLYDIR and not node.is_directory:
        return -ENOTDIR
    check_access(task.credentials, node, MAY_READ)
    return instance.add_watch(node, mask)


@syscall()
def inotify_rm_watch(task: Task, fd: FdNumber, number: Int) -> int:
    """man 2 inotify_rm_watch."""
    _instance(task, fd).remove_watch(number)
    return 0
