"""kcmp: do two processes share something? (man 2 kcmp)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Int, Pid, ULong
from polynix.kernelproc.task.ptrace_access import may_inspect
from polynix.kernelproc.uapi.errno import EBADF, EINVAL, ENOENT, EPERM, ESRCH
from polynix.kernelproc.uapi.kcmp import KCMP_EPOLL_TFD, KCMP_FILE, KCMP_FILES, KCMP_FS, KCMP_IO, KCMP_SIGHAND, KCMP_SYSVSEM, KCMP_VM
from polynix.kernelproc.uapi.structs import kcmp_epoll_slot
from polynix.kernelproc.vfs.epoll import EpollOps

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject


@syscall()
def kcmp(task: Task, pid1: Pid, pid2: Pid, kind: Int, index1: ULong, index2: ULong) -> int:
    """man 2 kcmp: 0 for the same object; 1 and 2 are an order of objects, which lasts as long as they do."""
    first, second = (task.kernel.pids.tasks.get(pid) for pid in (pid1, pid2))
    if first is None or second is None:
        raise Errno(ESRCH)
    if not (may_inspect(task, first, real=True) and may_inspect(task, second, real=True)):
        raise Errno(EPERM)
    if kind == KCMP_FILE:
        return _order(_file(first, index1), _file(second, index2))
    if kind == KCMP_EPOLL_TFD:
        return _order(_file(first, index1), _epoll_target(task, second, UserAddress(index2)))
    if kind == KCMP_VM:
        return _order(first.mm, second.mm)
    if kind == KCMP_FILES:
        return _order(first.files, second.files)
    if kind == KCMP_FS:
        return _order(first.fs, second.fs)
    if kind == KCMP_SIGHAND:
        return _order(first.signals.actions, second.signals.actions)
    if kind == KCMP_SYSVSEM:
        return _order(first.semaphore_undo, second.semaphore_undo)
    if kind == KCMP_IO:
        return 0  # nobody has an I/O context of its own
    raise Errno(EINVAL)


def _order(first: object, second: object) -> int:
    if first is second:
        return 0
    return 1 if id(first) < id(second) else 2


def _file(task: Task, index: int) -> FileObject:
    if index > 0x7FFFFFFF:
        raise Errno(EBADF)
    return task.files.get(index)


def _epoll_target(task: Task, target: Task, slot: UserAddress) -> FileObject:
    """The ``toff``-th file that an epoll of ``target`` watches under a descriptor number. Errors: EBADF, EINVAL, ENOENT, EFAULT."""
    wanted = kcmp_epoll_slot.unpack(task.copy_in(slot, kcmp_epoll_slot.SIZE))
    epoll = _file(target, wanted.efd).ops
    if not isinstance(epoll, EpollOps):
        raise Errno(EINVAL)
    watched = [file for file, fd in epoll.items if fd == wanted.tfd]
    if wanted.toff >= len(watched):
        raise Errno(ENOENT)
    return watched[wanted.toff]
