"""shmget, shmat, shmdt, shmctl (man 2 shmget, shmat, shmctl)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.addrspace.addresses import TASK_SIZE, page_up
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.ipc_sysv.objects import S_IRUGO, S_IWUGO
from polynix.kernelproc.ipc_sysv.shared_memory import PAGE_SIZE, SegmentTable, ShmFileOps
from polynix.kernelproc.syscalls.memory import check_room
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags, Int, Size, ULong
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.capability import CAP_IPC_LOCK
from polynix.kernelproc.uapi.errno import EINVAL, EPERM
from polynix.kernelproc.uapi.ipc import (
    IPC_INFO,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    SHM_EXEC,
    SHM_HUGETLB,
    SHM_INFO,
    SHM_LOCK,
    SHM_RDONLY,
    SHM_REMAP,
    SHM_RND,
    SHM_STAT,
    SHM_STAT_ANY,
    SHM_UNLOCK,
    SHMSEG,
)
from polynix.kernelproc.uapi.mman import PROT_EXEC, PROT_READ, PROT_WRITE
from polynix.kernelproc.uapi.structs import shm_info, shmid64_ds, shminfo64

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_EXECUTE: Final = 0o111
_ALL: Final = PROT_READ | PROT_WRITE | PROT_EXEC


@syscall()
def shmget(task: Task, key: Int, size: Size, flags: Flags) -> int:
    """man 2 shmget"""
    if flags & SHM_HUGETLB:
        track_stub("shmget: SHM_HUGETLB", flags)
        raise Errno(EINVAL)
    return task.kernel.expando.get(SegmentTable).get(task, key, size, flags).id


@syscall()
def shmat(task: Task, identifier: Int, address: ULong, flags: Flags) -> int:
    """man 2 shmat"""
    if address:
        if address & (PAGE_SIZE - 1):
            if not flags & SHM_RND:
                raise Errno(EINVAL)
            address &= ~(PAGE_SIZE - 1)
            if not address and flags & SHM_REMAP:
                raise Errno(EINVAL)
    elif flags & SHM_REMAP:
        raise Errno(EINVAL)
    segment = task.kernel.expando.get(SegmentTable).find(identifier)
    writable = not flags & SHM_RDONLY
    segment.check(task, S_IRUGO | (S_IWUGO if writable else 0) | (_EXECUTE if flags & SHM_EXEC else 0))
    mm = task.mm
    length = page_up(segment.size)
    if address:
        if address + length > TASK_SIZE or (not flags & SHM_REMAP and not mm.is_free(address, address + length)):
            raise Errno(EINVAL)
        start = address
    else:
        start = mm.find_free(length, 0)
    check_room(task, length)
    file = segment.attach()
    protection = PROT_READ | (PROT_WRITE if writable else 0) | (PROT_EXEC if flags & SHM_EXEC else 0)
    try:
        mm.map_shared(start, length, protection, segment.memory, 0, file=file, max_prot=_ALL if writable else _ALL & ~PROT_WRITE)
    finally:
        if not file.references:
            segment.detached(file)  # nothing was mapped
    return start


@syscall()
def shmdt(task: Task, address: ULong) -> int:
    """man 2 shmdt: all of the attachment that still lies where it was put."""
    mm = task.mm
    first = mm.find(address)
    ops = getattr(first.file, "ops", None) if first is not None else None
    if first is None or address & (PAGE_SIZE - 1) or not isinstance(ops, ShmFileOps) or address - first.start + first.file_offset:
        raise Errno(EINVAL)
    file, end = first.file, address + page_up(ops.segment.size)
    ranges = [(vma.start, vma.end) for vma in mm.overlapping(address, end) if vma.file is file and vma.start - address == vma.file_offset]
    for start, stop in ranges:
        mm.unmap(start, stop)
    return 0


@syscall()
def shmctl(task: Task, identifier: Int, command: Flags, buffer: UserAddress) -> int:
    """man 2 shmctl"""
    if identifier < 0:
        raise Errno(EINVAL)
    table = task.kernel.expando.get(SegmentTable)
    if command == IPC_INFO:
        tunables = task.kernel.expando.get(Tunables)
        most = tunables.get("kernel.shmmni")
        answer = shminfo64.pack(shmmax=tunables.get("kernel.shmmax"), shmmin=1, shmmni=most, shmseg=min(most, SHMSEG), shmall=tunables.get("kernel.shmall"))
        task.copy_out(buffer, answer)
        return table.highest_index
    if command == SHM_INFO:
        pages = sum(page_up(segment.size) // PAGE_SIZE for segment in table.by_index.values())
        resident = sum(segment.memory.resident() // PAGE_SIZE for segment in table.by_index.values())
        task.copy_out(buffer, shm_info.pack(used_ids=len(table.by_index), shm_tot=pages, shm_rss=resident))
        return table.highest_index
    if command in (SHM_STAT, SHM_STAT_ANY):
        segment = table.find_index(identifier)
        if command == SHM_STAT:
            segment.check(task, S_IRUGO)
        task.copy_out(buffer, segment.status())
        return segment.id
    if command not in (IPC_STAT, IPC_SET, IPC_RMID, SHM_LOCK, SHM_UNLOCK):
        raise Errno(EINVAL)
    wanted = task.copy_in(buffer, shmid64_ds.SIZE) if command == IPC_SET else b""
    segment = table.find(identifier)
    if command == IPC_STAT:
        segment.check(task, S_IRUGO)
        task.copy_out(buffer, segment.status())
    elif command == IPC_SET:
        segment.check_owner(task)
        values = shmid64_ds.unpack(wanted)
        segment.set_owner(task, values.uid, values.gid, values.mode)
    elif command == IPC_RMID:
        segment.check_owner(task)
        segment.remove()
    else:
        if task.credentials.euid not in (segment.uid, segment.creator_uid) and not task.credentials.has_capability(CAP_IPC_LOCK):
            raise Errno(EPERM)
        segment.locked = command == SHM_LOCK
    return 0
