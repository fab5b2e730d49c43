"""madvise and process_madvise: what a program says about its memory (man 2 madvise, man 2 process_madvise)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace.addresses import PROT_READ, PROT_WRITE, page_up
from polynix.addrspace.vma import VmaKind
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.iovec import copy_iovec
from polynix.kernelproc.syscalls.memory import populate
from polynix.kernelproc.syscalls.pidfd import pidfd_of
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Size, ULong, UserAddress
from polynix.kernelproc.task.ptrace_access import may_inspect
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_SYS_NICE
from polynix.kernelproc.uapi.errno import EACCES, EINVAL, ENOMEM, EPERM, ESRCH
from polynix.kernelproc.uapi.mman import (
    MADV_COLD,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_WITHOUT_EFFECT: Final = frozenset((
    MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP,
    MADV_COLD, MADV_PAGEOUT,
))  # fmt: skip
_KNOWN: Final = _WITHOUT_EFFECT | {
    MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
}  # fmt: skip
_OF_OTHERS: Final = frozenset((MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED))  # what may be said of another process' memory


@syscall()
def madvise(task: Task, address: ULong, length: Size, advice: Int) -> int:
    """man 2 madvise"""
    _check_known(advice)
    _advise(task, address, length, advice)
    return 0


@syscall()
def process_madvise(task: Task, pidfd: FdNumber, iov: UserAddress, count: ULong, advice: Int, flags: Flags) -> int:
    """man 2 process_madvise: the bytes that were advised of, which may be fewer; an error only if there are none."""
    if flags:
        raise Errno(EINVAL)
    ranges = copy_iovec(task, iov, count)
    group = pidfd_of(task, pidfd).group
    if group.exited:
        raise Errno(ESRCH)
    target = group.leader
    if not may_inspect(task, target):
        raise Errno(EACCES)
    _check_known(advice)
    if target.mm is not task.mm:
        if advice not in _OF_OTHERS:
            raise Errno(EINVAL)
        if not task.credentials.has_capability(CAP_SYS_NICE):
            raise Errno(EPERM)
    total = 0
    for address, length in ranges:
        try:
            _advise(target, address.ptr, length, advice)
        except Errno:
            if not total:
                raise
            break
        total += length
    return total


def _check_known(advice: int) -> None:
    if advice not in _KNOWN:
        track_stub("madvise", advice)
        raise Errno(EINVAL)


def _advise(task: Task, address: int, length: int, advice: int) -> None:
    """Take advice about ``task``'s memory. Errors: EINVAL, ENOMEM, EACCES."""
    mm = task.mm
    if address & 4095:
        raise Errno(EINVAL)
    end = address + page_up(length)
    if end < address or end > 1 << 63:
        raise Errno(EINVAL)
    if end == address:
        return
    vmas = mm.overlapping(address, end)
    if advice in (MADV_DONTNEED, MADV_FREE):
        if any(vma.locked for vma in vmas):
            raise Errno(EINVAL)
        if advice == MADV_FREE and any(vma.kind is not VmaKind.ANONYMOUS for vma in vmas):
            raise Errno(EINVAL)
        mm.discard(address, end)
    elif advice == MADV_REMOVE:
        for vma in vmas:
            if vma.kind is not VmaKind.SHARED or not vma.prot & PROT_WRITE:
                raise Errno(EACCES if vma.kind is VmaKind.SHARED else EINVAL)
            low, high = max(address, vma.start), min(end, vma.end)
            vma.object.punch(vma.offset + low - vma.start, high - low)
    elif advice in (MADV_DONTFORK, MADV_DOFORK):
        mm.change_attributes(address, end, lambda vma: setattr(vma, "dont_fork", advice == MADV_DONTFORK))
    elif advice in (MADV_WIPEONFORK, MADV_KEEPONFORK):
        if advice == MADV_WIPEONFORK and any(vma.kind is not VmaKind.ANONYMOUS for vma in vmas):
            raise Errno(EINVAL)
        mm.change_attributes(address, end, lambda vma: setattr(vma, "wipe_on_fork", advice == MADV_WIPEONFORK))
    elif advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        needed = PROT_READ if advice == MADV_POPULATE_READ else PROT_WRITE
        if not mm.is_covered(address, end):
            raise Errno(ENOMEM)
        if any(not vma.prot & needed for vma in vmas):
            raise Errno(EINVAL)
        if not populate(task, address, end):
            raise Errno(ENOMEM)
    if not mm.is_covered(address, end):
        raise Errno(ENOMEM)
