"""System calls on address spaces: the mmap family, brk, madvise, msync."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from polynix.addrspace.addresses import MMAP_MIN_ADDRESS, PROT_EXEC, PROT_READ, PROT_WRITE, TASK_SIZE, page_up
from polynix.addrspace.paged_memory import PagedMemory
from polynix.addrspace.remap import remap
from polynix.addrspace.vma import VmaKind
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Size, ULong, UserAddress
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_IPC_LOCK, CAP_SYS_RAWIO
from polynix.kernelproc.uapi.errno import EACCES, EAGAIN, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from polynix.kernelproc.uapi.mman import (
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    MS_ASYNC,
    MS_INVALIDATE,
    MS_SYNC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_SEM,
)
from polynix.kernelproc.uapi.mount import MS_NOEXEC
from polynix.kernelproc.uapi.resource import RLIM_INFINITY, RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

PROT_MASK = PROT_READ | PROT_WRITE | PROT_EXEC
SMALL_POPULATE = 1 << 20  # bytes that are not worth asking how much memory is left
LOW_START, LOW_END = 0x40000000, 0x80000000  # where MAP_32BIT maps go
KNOWN_MAP_FLAGS = MAP_TYPE | 0x7FFFF0 | MAP_FIXED_NOREPLACE


def check_room(task: Task, length: int, *, data: bool = False) -> None:
    """RLIMIT_AS and RLIMIT_DATA. Errors: ENOMEM."""
    mm, limits = task.mm, task.group.limits
    limit = limits.soft(RLIMIT_AS)
    if limit != RLIM_INFINITY and mm.total_vm + length > limit:
        raise Errno(ENOMEM)
    if data:
        limit = limits.soft(RLIMIT_DATA)
        if limit != RLIM_INFINITY and mm.data_vm + length > limit:
            raise Errno(ENOMEM)


def check_memlock(task: Task, length: int, denied: int = ENOMEM) -> None:
    """RLIMIT_MEMLOCK, unless the caller has CAP_IPC_LOCK."""
    limit = task.group.limits.soft(RLIMIT_MEMLOCK)
    if limit == RLIM_INFINITY or task.credentials.has_capability(CAP_IPC_LOCK):
        return
    if limit == 0:
        raise Errno(EPERM)
    if task.mm.locked_vm + length > limit:
        raise Errno(denied)


def populate(task: Task, start: int, end: int) -> bool:
    """Give [start, end) its pages now; False, with nothing done, when that is more than the container or the host has left."""
    mm = task.mm
    needed = sum(min(end, vma.end) - max(start, vma.start) for vma in mm.overlapping(start, end) if vma.prot and vma.kind is not VmaKind.FILE)
    memory = task.kernel.memory
    if needed > SMALL_POPULATE:
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        if needed > min(memory.bound - memory.used_bytes(), host // 2):
            return False
    mm.populate(start, end)
    return True


# -- mmap and munmap --------------------------------------------------------------------------------------------------------------------------


@syscall()
def mmap(task: Task, address: ULong, length: Size, prot: ULong, flags: ULong, fd: FdNumber, offset: ULong) -> int:
    """man 2 mmap"""
    if length == 0 or offset & 4095:
        raise Errno(EINVAL)
    length = page_up(length)
    mm = task.mm
    kind = flags & MAP_TYPE
    file = None
    if not flags & MAP_ANONYMOUS:
        file = task.files.get_io(fd)
        if offset + length >= 1 << 63:
            raise Errno(EOVERFLOW)
    if kind not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE):
        raise Errno(EINVAL)
    if length > TASK_SIZE:
        raise Errno(ENOMEM)
    if kind == MAP_SHARED_VALIDATE:
        if flags & ~KNOWN_MAP_FLAGS:
            raise Errno(EOPNOTSUPP)
        kind = MAP_SHARED
    shared = kind == MAP_SHARED
    prot &= PROT_MASK
    if flags & MAP_HUGETLB:
        track_stub("mmap MAP_HUGETLB")
        raise Errno(ENOMEM if file is None else EINVAL)
    if file is not None:
        if not file.readable or (shared and prot & PROT_WRITE and not file.writable):
            raise Errno(EACCES)
        if prot & PROT_EXEC and file.name is not None and file.name.mount.flags & MS_NOEXEC:
            raise Errno(EPERM)
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        if address & 4095:
            raise Errno(EINVAL)
        if address + length > TASK_SIZE:
            raise Errno(ENOMEM)
        if address < MMAP_MIN_ADDRESS and not task.credentials.has_capability(CAP_SYS_RAWIO):
            raise Errno(EPERM)
        if flags & MAP_FIXED_NOREPLACE and not mm.is_free(address, address + length):
            raise Errno(EEXIST)
        start = address
    elif flags & MAP_32BIT:
        start = mm.find_free_low(length, LOW_START, LOW_END)
    else:
        start = mm.find_free(length, address)
    private_data = not shared and bool(prot & PROT_WRITE)
    check_room(task, length, data=private_data)
    locked = bool(flags & MAP_LOCKED) or mm.mlock_future
    if locked:
        check_memlock(task, length, EAGAIN)
    if file is None:
        if shared:
            mm.map_shared(start, length, prot, task.kernel.memory.new_object(length), 0, name=b"/dev/zero (deleted)")
        else:
            mm.map_anonymous(start, length, prot, grows_down=bool(flags & MAP_GROWSDOWN), noreserve=bool(flags & MAP_NORESERVE))
    else:
        obj, base = file.ops.get_memory(file, task, length, offset, prot, shared)
        if shared:
            max_prot = PROT_MASK if file.writable else PROT_READ | PROT_EXEC
            mm.map_shared(start, length, prot, obj, base + offset, file=file, file_offset=offset, max_prot=max_prot)
        else:
            mm.map_private_file(start, length, prot, obj, base + offset, file=file, file_offset=offset)
        file.ops.mapped(file, length, offset)
    if locked:
        mm.change_attributes(start, start + length, lambda each: setattr(each, "locked", True))
    if locked or flags & MAP_POPULATE:
        populate(task, start, start + length)
    return start


@syscall()
def munmap(task: Task, address: ULong, length: Size) -> int:
    """man 2 munmap"""
    if address & 4095 or length == 0 or address > TASK_SIZE or page_up(length) > TASK_SIZE - address:
        raise Errno(EINVAL)
    task.mm.unmap(address, address + page_up(length))
    return 0


@syscall()
def mprotect(task: Task, address: ULong, length: Size, prot: ULong) -> int:
    """man 2 mprotect"""
    mm = task.mm
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    if prot & ~(PROT_MASK | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP) or grows == PROT_GROWSDOWN | PROT_GROWSUP or address & 4095:
        raise Errno(EINVAL)
    if length == 0:
        return 0
    end = address + page_up(length)
    if end <= address or end > 1 << 63:
        raise Errno(ENOMEM)
    if grows:
        vma = mm.find(address)
        if vma is None or not vma.grows_down or grows & PROT_GROWSUP:
            raise Errno(EINVAL)
        address = vma.start
    prot &= PROT_MASK
    if prot & PROT_WRITE:
        gained = sum(min(end, vma.end) - max(address, vma.start) for vma in mm.overlapping(address, end) if vma.private and not vma.prot & PROT_WRITE)
        if gained:
            check_room(task, 0, data=False)
            limit = task.group.limits.soft(RLIMIT_DATA)
            if limit != RLIM_INFINITY and mm.data_vm + gained > limit:
                raise Errno(ENOMEM)
    mm.protect(address, end, prot)
    return 0


@syscall()
def pkey_mprotect(task: Task, address: ULong, length: Size, prot: ULong, key: Int) -> int:
    """man 2 pkey_mprotect; without keys"""
    if key != -1:
        track_stub("pkey_mprotect with a key")
        raise Errno(EINVAL)
    return mprotect(task, address, length, prot)


@syscall("mremap")
def mremap_(task: Task, old: ULong, old_length: Size, new_length: Size, flags: Flags, new: ULong) -> int:
    """man 2 mremap"""
    if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP):
        raise Errno(EINVAL)
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and not flags & MREMAP_MAYMOVE:
        raise Errno(EINVAL)
    old_length, new_length = page_up(old_length), page_up(new_length)
    if flags & MREMAP_DONTUNMAP and old_length != new_length:
        raise Errno(EINVAL)
    if old & 4095 or new_length == 0:
        raise Errno(EINVAL)
    if flags & MREMAP_FIXED:
        if new & 4095 or new_length > TASK_SIZE or new > TASK_SIZE - new_length or new < MMAP_MIN_ADDRESS:
            raise Errno(EINVAL)
        if new < old + old_length and old < new + new_length:
            raise Errno(EINVAL)
    elif new_length > TASK_SIZE:
        raise Errno(ENOMEM)
    if new_length > old_length:
        check_room(task, new_length - old_length)
    place = new if flags & MREMAP_FIXED else None
    return remap(task.mm, old, old_length, new_length, may_move=bool(flags & MREMAP_MAYMOVE), place=place, hint=new, keep_old=bool(flags & MREMAP_DONTUNMAP))


@syscall("brk")
def brk_(task: Task, address: ULong) -> int:
    """man 2 brk (the raw call: returns the break in force)"""
    mm = task.mm
    if address > mm.brk:
        try:
            check_room(task, page_up(address) - page_up(mm.brk), data=True)
        except Errno:
            return mm.brk
    return mm.set_brk(address)


# -- residency -----------------------------------------------------------------------------------------------------------------------------


@syscall()
def mincore(task: Task, address: ULong, length: Size, vector: UserAddress) -> int:
    """man 2 mincore"""
    if address & 4095:
        raise Errno(EINVAL)
    end = address + page_up(length)
    mm = task.mm
    if end < address or end > TASK_SIZE or not mm.is_covered(address, end):
        raise Errno(ENOMEM)
    answer = bytearray((end - address) >> 12)
    for vma in mm.overlapping(address, end):
        low, high = max(address, vma.start), min(end, vma.end)
        if vma.kind is VmaKind.FILE and not isinstance(vma.object, PagedMemory):
            ranges = [(low, high)]
        else:
            base = vma.offset + low - vma.start
            ranges = [(start - base + low, stop - base + low) for start, stop in vma.object.data_ranges(base, high - low)]
        for start, stop in ranges:
            first, last = (start - address) >> 12, (min(stop, high) - address + 4095) >> 12
            answer[first:last] = b"\1" * (last - first)
    task.copy_out(vector, answer)
    return 0


@syscall()
def msync(task: Task, address: ULong, length: Size, flags: Flags) -> int:
    """man 2 msync; shared pages are the file's own pages, so only a host file has anything to write back"""
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or (flags & MS_ASYNC and flags & MS_SYNC) or address & 4095:
        raise Errno(EINVAL)
    end = address + page_up(length)
    if end < address:
        raise Errno(ENOMEM)
    if end > address and not task.mm.is_covered(address, end):
        raise Errno(ENOMEM)
    return 0
