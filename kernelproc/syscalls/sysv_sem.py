"""semget, semop, semtimedop, semctl (man 2 semget, semop, semctl)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.ipc_sysv.objects import S_IRUGO, S_IWUGO
from polynix.kernelproc.ipc_sysv.semaphores import Operation, SemaphoreSet, SemaphoreTable, UndoList
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.timeouts import deadline_after, import_timespec
from polynix.kernelproc.syscalls.types import Flags, Int, UInt, ULong, as_int
from polynix.kernelproc.uapi.errno import E2BIG, EFBIG, EINVAL
from polynix.kernelproc.uapi.ipc import (
    GETALL,
    GETNCNT,
    GETPID,
    GETVAL,
    GETZCNT,
    IPC_INFO,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    SEM_INFO,
    SEM_STAT,
    SEM_STAT_ANY,
    SEM_UNDO,
    SEMAEM,
    SEMMAP,
    SEMMNI,
    SEMMNS,
    SEMMNU,
    SEMMSL,
    SEMOPM,
    SEMUME,
    SEMUSZ,
    SEMVMX,
    SETALL,
    SETVAL,
)
from polynix.kernelproc.uapi.structs import sembuf, semid64_ds, seminfo

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


@syscall()
def semget(task: Task, key: Int, count: Int, flags: Flags) -> int:
    """man 2 semget"""
    return task.kernel.expando.get(SemaphoreTable).get(task, key, count, flags).id


@syscall()
def semop(task: Task, identifier: Int, operations: UserAddress, count: UInt) -> Awaitable[int]:
    """man 2 semop"""
    return _operate(task, identifier, operations, count, None)


@syscall()
def semtimedop(task: Task, identifier: Int, operations: UserAddress, count: UInt, timeout: UserAddress) -> Awaitable[int]:
    """man 2 semtimedop"""
    return _operate(task, identifier, operations, count, import_timespec(task, timeout))


def _operate(task: Task, identifier: int, address: UserAddress, count: int, timeout_ns: int | None) -> Awaitable[int]:
    if count < 1 or identifier < 0:
        raise Errno(EINVAL)
    if count > SEMOPM:
        raise Errno(E2BIG)
    operations = [Operation(*fields) for fields in sembuf.FORMAT.iter_unpack(task.copy_in(address, count * sembuf.SIZE))]
    semaphores = task.kernel.expando.get(SemaphoreTable).find(identifier)
    if max(operation.number for operation in operations) >= len(semaphores.semaphores):
        raise Errno(EFBIG)
    semaphores.check(task, S_IWUGO if any(operation.change for operation in operations) else S_IRUGO)
    undo = UndoList.of(task).for_set(semaphores) if any(operation.flags & SEM_UNDO for operation in operations) else None
    return semaphores.operate(task, operations, undo, deadline_after(task, timeout_ns))


@syscall()
def semctl(task: Task, identifier: Int, number: Int, command: Int, argument: ULong) -> int:
    """man 2 semctl. ``argument`` is the union semun: a value or an address."""
    if identifier < 0:
        raise Errno(EINVAL)
    table = task.kernel.expando.get(SemaphoreTable)
    buffer = UserAddress(argument)
    if command in (IPC_INFO, SEM_INFO):
        task.copy_out(buffer, _totals(table, in_use=command == SEM_INFO))
        return table.highest_index
    if command in (SEM_STAT, SEM_STAT_ANY):
        semaphores = table.find_index(identifier)
        if command == SEM_STAT:
            semaphores.check(task, S_IRUGO)
        task.copy_out(buffer, semaphores.status())
        return semaphores.id
    if command == IPC_STAT:
        semaphores = table.find(identifier)
        semaphores.check(task, S_IRUGO)
        task.copy_out(buffer, semaphores.status())
        return 0
    if command in (IPC_SET, IPC_RMID):
        wanted = task.copy_in(buffer, semid64_ds.SIZE) if command == IPC_SET else b""
        semaphores = table.find(identifier)
        semaphores.check_owner(task)
        if command == IPC_RMID:
            table.remove(semaphores)
        else:
            values = semid64_ds.unpack(wanted)
            semaphores.set_owner(task, values.uid, values.gid, values.mode)
        return 0
    if command in (SETVAL, SETALL):
        return _set(task, table.find(identifier), number, command, argument)
    if command in (GETVAL, GETPID, GETNCNT, GETZCNT, GETALL):
        return _get(task, table.find(identifier), number, command, buffer)
    raise Errno(EINVAL)


def _get(task: Task, semaphores: SemaphoreSet, number: int, command: int, buffer: UserAddress) -> int:
    semaphores.check(task, S_IRUGO)
    if command == GETALL:
        task.copy_out(buffer, b"".join(each.value.to_bytes(2, "little") for each in semaphores.semaphores))
        return 0
    semaphore = semaphores.semaphore(number)
    if command == GETVAL:
        return semaphore.value
    if command == GETPID:
        return semaphore.pid
    return semaphores.waiting_for(number, zero=command == GETZCNT)


def _set(task: Task, semaphores: SemaphoreSet, number: int, command: int, argument: int) -> int:
    semaphores.check(task, S_IWUGO)
    if command == SETVAL:
        semaphores.semaphore(number)
        values = {number: as_int(argument)}
    else:
        raw = task.copy_in(UserAddress(argument), 2 * len(semaphores.semaphores))
        values = dict(enumerate(memoryview(raw).cast("H")))
    semaphores.set_values(values, task.pid)
    return 0


def _totals(table: SemaphoreTable, in_use: bool) -> bytes:
    """``struct seminfo``: the limits, and what is in use instead of two of them (SEM_INFO)."""
    return seminfo.pack(
        semmap=SEMMAP, semmni=SEMMNI, semmns=SEMMNS, semmnu=SEMMNU, semmsl=SEMMSL, semopm=SEMOPM, semume=SEMUME,
        semusz=len(table.by_index) if in_use else SEMUSZ, semvmx=SEMVMX, semaem=table.used_semaphores if in_use else SEMAEM,
    )  # fmt: skip
