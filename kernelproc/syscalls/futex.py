"""futex and the robust list calls (man 2 futex, man 2 set_robust_list); the waiting itself is in :mod:`polynix.kernelproc.task.futex`."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTART_RESTARTBLOCK, Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags, Int, Pid, Size, UInt, ULong, as_int
from polynix.kernelproc.task.clocks import deadline_of
from polynix.kernelproc.task.futex import FutexTable, FutexWait, wake_op
from polynix.kernelproc.task.ptrace_access import may_inspect
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL, ENOSYS, EPERM, ESRCH
from polynix.kernelproc.uapi.futex import (
    FUTEX_32,
    FUTEX_BITSET_MATCH_ANY,
    FUTEX_CLOCK_REALTIME,
    FUTEX_CMD_MASK,
    FUTEX_CMP_REQUEUE,
    FUTEX_CMP_REQUEUE_PI,
    FUTEX_LOCK_PI,
    FUTEX_LOCK_PI2,
    FUTEX_PRIVATE_FLAG,
    FUTEX_REQUEUE,
    FUTEX_TRYLOCK_PI,
    FUTEX_UNLOCK_PI,
    FUTEX_WAIT,
    FUTEX_WAIT_BITSET,
    FUTEX_WAIT_REQUEUE_PI,
    FUTEX_WAITV_MAX,
    FUTEX_WAKE,
    FUTEX_WAKE_BITSET,
    FUTEX_WAKE_OP,
)
from polynix.kernelproc.uapi.structs import futex_waitv as waitv_struct
from polynix.kernelproc.uapi.time import CLOCK_MONOTONIC, CLOCK_REALTIME

if TYPE_CHECKING:
    from polynix.kernelproc.blocked_call import CallResult
    from polynix.kernelproc.task.futex import Key
    from polynix.kernelproc.task.task import Task

_TIMESPEC: Final = struct.Struct("<qq")
_ROBUST_LIST_HEAD_SIZE: Final = 24
_TIMED: Final = frozenset((FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_WAIT_REQUEUE_PI))
_REALTIME_ALLOWED: Final = frozenset((FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2))


@syscall()
def futex(task: Task, address: UserAddress, operation: Flags, value: UInt, timeout: ULong, address2: UserAddress, value3: UInt) -> CallResult:
    """man 2 futex."""
    command = operation & FUTEX_CMD_MASK
    if operation & FUTEX_CLOCK_REALTIME and command not in _REALTIME_ALLOWED:
        return -ENOSYS
    if command == FUTEX_WAKE:
        return _wake(task, address, value, FUTEX_BITSET_MATCH_ANY)
    if command == FUTEX_WAKE_BITSET:
        return _wake(task, address, value, value3)
    deadline = None
    if timeout and command in _TIMED:
        realtime = command == FUTEX_LOCK_PI or bool(operation & FUTEX_CLOCK_REALTIME)
        deadline = _deadline(task, UserAddress(timeout), relative=command == FUTEX_WAIT, realtime=realtime)
    table = task.kernel.expando.get(FutexTable)
    key = _key(task, address)
    if command in (FUTEX_WAIT, FUTEX_WAIT_BITSET):
        bitset = FUTEX_BITSET_MATCH_ANY if command == FUTEX_WAIT else value3
        if not bitset:
            return -EINVAL
        if task.user.load_u32(address) != value:
            return -EAGAIN
        if deadline is None:
            return FutexWait(table, task, address, key, bitset)
        return _wait(task, address, key, value, deadline, bitset)
    if command in (FUTEX_REQUEUE, FUTEX_CMP_REQUEUE):
        target = _key(task, address2)
        if command == FUTEX_CMP_REQUEUE and task.user.load_u32(address) != value3:
            return -EAGAIN
        wake_count, requeue_count = as_int(value), as_int(timeout)
        if wake_count < 0 or requeue_count < 0:
            return -EINVAL
        return table.requeue(key, target, wake_count, requeue_count, address2)
    if command == FUTEX_WAKE_OP:
        target = _key(task, address2)
        also_second = wake_op(task.user, address2, value3)
        woken = table.wake(key, as_int(value))
        if also_second:
            woken += table.wake(target, as_int(timeout))
        return woken
    if command in (FUTEX_LOCK_PI, FUTEX_LOCK_PI2):
        result = table.try_lock_pi(task, task.user, address)
        return 0 if result == 0 else table.lock_pi(task, address, deadline)
    if command == FUTEX_TRYLOCK_PI:
        return table.try_lock_pi(task, task.user, address)
    if command == FUTEX_UNLOCK_PI:
        return table.unlock_pi(task, task.user, address)
    if command == FUTEX_WAIT_REQUEUE_PI:
        target = _key(task, address2)
        if target == key:
            return -EINVAL
        if task.user.load_u32(address) != value:
            return -EAGAIN
        return table.wait_requeue_pi(task, address, key, target, deadline, FUTEX_BITSET_MATCH_ANY)
    if command == FUTEX_CMP_REQUEUE_PI:
        target = _key(task, address2)
        if target == key or value != 1 or as_int(timeout) < 0:
            return -EINVAL
        if task.user.load_u32(address) != value3:
            return -EAGAIN
        return table.requeue_pi(task, key, target, address2, as_int(timeout))
    return -ENOSYS


def _key(task: Task, address: UserAddress) -> Key:
    if address.ptr & 3:
        raise Errno(EINVAL)
    return task.user.futex_key(address)


def _wake(task: Task, address: UserAddress, count: int, bitset: int) -> int:
    if not bitset:
        return -EINVAL
    key = _key(task, address)
    return task.kernel.expando.get(FutexTable).wake(key, as_int(count), bitset)


def _deadline(task: Task, address: UserAddress, *, relative: bool, realtime: bool) -> int:
    """What the engine must wait for when a timespec argument is meant. Errors: EFAULT, EINVAL."""
    seconds, nanoseconds = _TIMESPEC.unpack(task.copy_in(address, _TIMESPEC.size))
    if seconds < 0 or not 0 <= nanoseconds < 1_000_000_000:
        raise Errno(EINVAL)
    time: int = seconds * 1_000_000_000 + nanoseconds
    return deadline_of(task.kernel.clock, CLOCK_REALTIME if realtime and not relative else CLOCK_MONOTONIC, time, not relative)


async def _wait(task: Task, address: UserAddress, key: Key, value: int, deadline: int, bitset: int) -> int:
    try:
        return await task.kernel.expando.get(FutexTable).wait(task, address, key, deadline, bitset)
    except Interrupted:
        # A restart must wait for the rest of the time only: man 2 restart_syscall.
        task.restart = partial(_restart_wait, task, address, value, deadline, bitset)
        raise Errno(ERESTART_RESTARTBLOCK)


async def _restart_wait(task: Task, address: UserAddress, value: int, deadline: int, bitset: int) -> int:
    key = _key(task, address)
    if task.user.load_u32(address) != value:
        return -EAGAIN
    return await _wait(task, address, key, value, deadline, bitset)


@syscall()
async def futex_waitv(task: Task, waiters: UserAddress, count: UInt, flags: Flags, timeout: UserAddress, clock: Int) -> int:
    """man 2 futex_waitv: wait for any of several futexes; the index of one that was woken."""
    if flags or not 1 <= count <= FUTEX_WAITV_MAX or not waiters:
        raise Errno(EINVAL)
    deadline = None
    if timeout:
        if clock not in (CLOCK_MONOTONIC, CLOCK_REALTIME):
            raise Errno(EINVAL)
        deadline = _deadline(task, timeout, relative=False, realtime=clock == CLOCK_REALTIME)
    futexes = []
    for value, address, kind, reserved in waitv_struct.FORMAT.iter_unpack(task.copy_in(waiters, count * waitv_struct.SIZE)):
        if kind & ~FUTEX_PRIVATE_FLAG != FUTEX_32 or reserved:
            raise Errno(EINVAL)
        futexes.append((UserAddress(address), _key(task, UserAddress(address)), value & 0xFFFFFFFF))
    if any(task.user.load_u32(address) != value for address, _, value in futexes):
        return -EAGAIN
    return await task.kernel.expando.get(FutexTable).wait_any(task, [(address, key) for address, key, _ in futexes], deadline)


@syscall()
def set_robust_list(task: Task, head: ULong, length: Size) -> int:
    """man 2 set_robust_list."""
    if length != _ROBUST_LIST_HEAD_SIZE:
        return -EINVAL
    task.robust_list = (head, length)
    return 0


@syscall()
def get_robust_list(task: Task, pid: Pid, head: UserAddress, length: UserAddress) -> int:
    """man 2 get_robust_list."""
    target = task if pid == 0 else task.kernel.pids.tasks.get(pid)
    if target is None:
        return -ESRCH
    if not may_inspect(task, target, real=True):
        return -EPERM
    task.user.store_u64(length, _ROBUST_LIST_HEAD_SIZE)
    task.user.store_u64(head, target.robust_list[0])
    return 0
