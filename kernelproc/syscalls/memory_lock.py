"""mlock and its family (man 2 mlock): marks, limits and faulting in; guest memory is never swapped by us anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace.addresses import TASK_SIZE, page_up
from polynix.addrspace.memory_manager import MemoryManager
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.memory import check_memlock, populate
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags, Size, ULong
from polynix.kernelproc.uapi.errno import EINVAL, ENOMEM
from polynix.kernelproc.uapi.mman import MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


def _set_locked(mm: MemoryManager, start: int, end: int, locked: bool) -> None:
    mm.change_attributes(start, end, lambda vma: setattr(vma, "locked", locked))


def _lock(task: Task, address: int, length: int) -> int:
    start = address & ~4095
    end = page_up(address + length)
    if end < start:
        raise Errno(EINVAL)
    check_memlock(task, end - start)
    if start == end:
        return 0
    covered = task.mm.is_covered(start, end)
    _set_locked(task.mm, start, end, True)
    if not populate(task, start, end):
        raise Errno(ENOMEM)
    if not covered:
        raise Errno(ENOMEM)
    return 0


@syscall()
def mlock(task: Task, address: ULong, length: Size) -> int:
    """man 2 mlock"""
    return _lock(task, address, length)


@syscall()
def mlock2(task: Task, address: ULong, length: Size, flags: Flags) -> int:
    """man 2 mlock2"""
    if flags & ~MLOCK_ONFAULT:
        raise Errno(EINVAL)
    return _lock(task, address, length)


@syscall()
def munlock(task: Task, address: ULong, length: Size) -> int:
    """man 2 munlock"""
    start, end = address & ~4095, page_up(address + length)
    if end < start:
        raise Errno(EINVAL)
    covered = task.mm.is_covered(start, end)
    _set_locked(task.mm, start, end, False)
    if not covered:
        raise Errno(ENOMEM)
    return 0


@syscall()
def mlockall(task: Task, flags: Flags) -> int:
    """man 2 mlockall"""
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        raise Errno(EINVAL)
    mm = task.mm
    if flags & MCL_CURRENT:
        check_memlock(task, mm.total_vm - mm.locked_vm)
        _set_locked(mm, 0, TASK_SIZE, True)
    else:
        check_memlock(task, 0)
    mm.mlock_future = bool(flags & MCL_FUTURE)
    return 0


@syscall()
def munlockall(task: Task) -> int:
    """man 2 munlockall"""
    task.mm.mlock_future = False
    _set_locked(task.mm, 0, TASK_SIZE, False)
    return 0
