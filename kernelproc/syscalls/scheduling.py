"""Scheduling: policies, priorities, affinity, yielding (man 7 sched).

The settings are checked, kept, inherited and shown as Linux does; what host threads have of them, :mod:`polynix.kernelproc.task.scheduling` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Int, Pid, UInt
from polynix.kernelproc.task.scheduling import scheduling_of, settings_changed
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.capability import CAP_SYS_NICE
from polynix.kernelproc.uapi.errno import E2BIG, EACCES, EINVAL, EPERM, ESRCH
from polynix.kernelproc.uapi.resource import (
    IOPRIO_CLASS_BE,
    IOPRIO_CLASS_IDLE,
    IOPRIO_CLASS_NONE,
    IOPRIO_CLASS_RT,
    IOPRIO_CLASS_SHIFT,
    IOPRIO_WHO_PGRP,
    IOPRIO_WHO_PROCESS,
    IOPRIO_WHO_USER,
    PRIO_PGRP,
    PRIO_PROCESS,
    PRIO_USER,
    RLIMIT_NICE,
    RLIMIT_RTPRIO,
)
from polynix.kernelproc.uapi.sched import (
    SCHED_BATCH,
    SCHED_DEADLINE,
    SCHED_FIFO,
    SCHED_FLAG_RESET_ON_FORK,
    SCHED_IDLE,
    SCHED_NORMAL,
    SCHED_RESET_ON_FORK,
    SCHED_RR,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_REALTIME: Final = (SCHED_FIFO, SCHED_RR)
_POLICIES: Final = (SCHED_NORMAL, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE)
_SCHED_ATTR_SIZE_VER0: Final = 48
_CPUMASK_BYTES: Final = 8  # up to 64 CPUs, in longs


def _find(task: Task, pid: int) -> Task:
    if pid < 0:
        raise Errno(EINVAL)
    target = task if pid == 0 else task.kernel.pids.tasks.get(pid)
    if target is None:
        raise Errno(ESRCH)
    return target


def _check_owner(task: Task, target: Task) -> None:
    mine = task.credentials
    if mine.euid not in (target.credentials.uid, target.credentials.euid) and not mine.has_capability(CAP_SYS_NICE):
        raise Errno(EPERM)


@syscall()
def sched_yield(task: Task) -> int:
    """man 2 sched_yield: coming here let others run already."""
    return 0


# -- affinity --------------------------------------------------------------------------------------------------------------


@syscall()
def sched_getaffinity(task: Task, pid: Pid, length: UInt, address: UserAddress) -> int:
    """man 2 sched_getaffinity: returns the number of bytes stored."""
    highest = max(task.kernel.cpus)
    if length * 8 <= highest or length % 8:
        return -EINVAL
    target = _find(task, pid)
    size = min(length, max(_CPUMASK_BYTES, (highest // 64 + 1) * 8))
    mask = sum(1 << cpu for cpu in target.affinity)
    task.copy_out(address, mask.to_bytes(size, "little"))
    return size


@syscall()
def sched_setaffinity(task: Task, pid: Pid, length: UInt, address: UserAddress) -> int:
    """man 2 sched_setaffinity."""
    mask = int.from_bytes(task.copy_in(address, min(length, 1024)), "little") if length else 0
    target = _find(task, pid)
    _check_owner(task, target)
    cpus = frozenset(cpu for cpu in task.kernel.cpus if mask >> cpu & 1)
    if not cpus:
        return -EINVAL
    target.affinity = cpus
    settings_changed(target)
    return 0


# -- policies --------------------------------------------------------------------------------------------------------------


def _set_policy(task: Task, pid: int, policy: int, priority: int, reset_on_fork: bool, nice: int | None = None) -> int:
    if policy == SCHED_DEADLINE:
        return -EPERM if not task.credentials.has_capability(CAP_SYS_NICE) else -EINVAL
    if policy not in _POLICIES:
        return -EINVAL
    if not 0 <= priority <= 99 or (priority != 0) != (policy in _REALTIME):
        return -EINVAL
    target = _find(task, pid)
    settings = scheduling_of(target)
    if not task.credentials.has_capability(CAP_SYS_NICE):
        if policy in _REALTIME:
            limit = target.group.limits.soft(RLIMIT_RTPRIO)
            if (policy != settings.policy and not limit) or (priority > settings.priority and priority > limit):
                return -EPERM
        if settings.reset_on_fork and not reset_on_fork:
            return -EPERM
        if nice is not None and nice < target.nice and not _may_nice(target, nice):
            return -EPERM
    _check_owner(task, target)
    settings.policy, settings.priority, settings.reset_on_fork = policy, priority, reset_on_fork
    if nice is not None:
        target.nice = nice
        settings_changed(target)
    return 0


@syscall()
def sched_setscheduler(task: Task, pid: Pid, policy: Int, parameters: UserAddress) -> int:
    """man 2 sched_setscheduler."""
    if policy < 0 or not parameters or pid < 0:
        return -EINVAL
    priority = structs.sched_param.unpack(task.copy_in(parameters, structs.sched_param.SIZE)).sched_priority
    return _set_policy(task, pid, policy & ~SCHED_RESET_ON_FORK, priority, bool(policy & SCHED_RESET_ON_FORK))


@syscall()
def sched_getscheduler(task: Task, pid: Pid) -> int:
    """man 2 sched_getscheduler."""
    settings = scheduling_of(_find(task, pid))
    return settings.policy | (SCHED_RESET_ON_FORK if settings.reset_on_fork else 0)


@syscall()
def sched_setparam(task: Task, pid: Pid, parameters: UserAddress) -> int:
    """man 2 sched_setparam."""
    if not parameters or pid < 0:
        return -EINVAL
    priority = structs.sched_param.unpack(task.copy_in(parameters, structs.sched_param.SIZE)).sched_priority
    settings = scheduling_of(_find(task, pid))
    return _set_policy(task, pid, settings.policy, priority, settings.reset_on_fork)


@syscall()
def sched_getparam(task: Task, pid: Pid, parameters: UserAddress) -> int:
    """man 2 sched_getparam."""
    if not parameters or pid < 0:
        return -EINVAL
    settings = scheduling_of(_find(task, pid))
    task.copy_out(parameters, structs.sched_param.pack(sched_priority=settings.priority))
    return 0


@syscall()
def sched_setattr(task: Task, pid: Pid, address: UserAddress, flags: UInt) -> int:
    """man 2 sched_setattr."""
    if not address or pid < 0 or flags:
        return -EINVAL
    size = task.user.load_u32(address) or _SCHED_ATTR_SIZE_VER0
    known = structs.sched_attr.SIZE
    if not _SCHED_ATTR_SIZE_VER0 <= size <= 4096:
        task.user.store_u32(address, known)
        return -E2BIG
    data = task.copy_in(address, size)
    if any(data[known:]):
        task.user.store_u32(address, known)
        return -E2BIG
    attributes = structs.sched_attr.unpack(data[:known].ljust(known, b"\0"))
    nice = None
    if attributes.sched_policy in (SCHED_NORMAL, SCHED_BATCH):
        nice = max(-20, min(19, attributes.sched_nice))
    reset = bool(attributes.sched_flags & SCHED_FLAG_RESET_ON_FORK)
    return _set_policy(task, pid, attributes.sched_policy, attributes.sched_priority, reset, nice)


@syscall()
def sched_getattr(task: Task, pid: Pid, address: UserAddress, size: UInt, flags: UInt) -> int:
    """man 2 sched_getattr."""
    if not address or pid < 0 or flags or not _SCHED_ATTR_SIZE_VER0 <= size <= 4096:
        return -EINVAL
    target = _find(task, pid)
    settings = scheduling_of(target)
    known = min(size, structs.sched_attr.SIZE)
    data = structs.sched_attr.pack(
        size=known,
        sched_policy=settings.policy,
        sched_flags=SCHED_FLAG_RESET_ON_FORK if settings.reset_on_fork else 0,
        sched_nice=0 if settings.policy in _REALTIME else target.nice,
        sched_priority=settings.priority,
    )
    task.copy_out(address, data[:known])
    return 0


@syscall()
def sched_get_priority_max(task: Task, policy: Int) -> int:
    """man 2 sched_get_priority_max."""
    if policy in _REALTIME:
        return 99
    return 0 if policy in (*_POLICIES, SCHED_DEADLINE) else -EINVAL


@syscall()
def sched_get_priority_min(task: Task, policy: Int) -> int:
    """man 2 sched_get_priority_min."""
    if policy in _REALTIME:
        return 1
    return 0 if policy in (*_POLICIES, SCHED_DEADLINE) else -EINVAL


@syscall()
def sched_rr_get_interval(task: Task, pid: Pid, address: UserAddress) -> int:
    """man 2 sched_rr_get_interval."""
    settings = scheduling_of(_find(task, pid))
    slice_ns = {SCHED_RR: 100_000_000, SCHED_FIFO: 0}.get(settings.policy, 4_000_000)
    task.copy_out(address, structs.timespec.pack(tv_sec=0, tv_nsec=slice_ns))
    return 0


# -- nice ------------------------------------------------------------------------------------------------------------------


def _selected(task: Task, which: int, who: int, kinds: tuple[int, int, int]) -> Iterator[Task]:
    pids = task.kernel.pids
    if which == kinds[0]:
        target = task if who == 0 else pids.tasks.get(who)
        if target is not None:
            yield target
    elif which == kinds[1]:
        process_group = task.group.process_group if who == 0 else pids.process_groups.get(who)
        if process_group is not None:
            for group in process_group.members:
                yield from group.tasks.values()
    else:
        uid = task.credentials.uid if who == 0 else who
        yield from (other for other in list(pids.tasks.values()) if other.credentials.uid == uid)


def _may_nice(target: Task, nice: int) -> bool:
    return 20 - nice <= target.group.limits.soft(RLIMIT_NICE)


@syscall()
def getpriority(task: Task, which: Int, who: Int) -> int:
    """man 2 getpriority: the raw call returns 20 - nice, so that it is never negative."""
    if not PRIO_PROCESS <= which <= PRIO_USER:
        return -EINVAL
    values = [20 - target.nice for target in _selected(task, which, who, (PRIO_PROCESS, PRIO_PGRP, PRIO_USER))]
    return max(values) if values else -ESRCH


@syscall()
def setpriority(task: Task, which: Int, who: Int, nice: Int) -> int:
    """man 2 setpriority."""
    if not PRIO_PROCESS <= which <= PRIO_USER:
        return -EINVAL
    nice = max(-20, min(19, nice))
    result = -ESRCH
    mine = task.credentials
    for target in _selected(task, which, who, (PRIO_PROCESS, PRIO_PGRP, PRIO_USER)):
        theirs = target.credentials
        if mine.euid not in (theirs.uid, theirs.euid) and not mine.has_capability(CAP_SYS_NICE):
            result = -EPERM
        elif nice < target.nice and not _may_nice(target, nice) and not mine.has_capability(CAP_SYS_NICE):
            result = -EACCES
        else:
            target.nice = nice
            settings_changed(target)
            if result == -ESRCH:
                result = 0
    return result


@syscall()
def ioprio_get(task: Task, which: Int, who: Int) -> int:
    """man 2 ioprio_get: the best one of those selected."""
    if which not in (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER):
        return -EINVAL
    targets = list(_selected(task, which, who, (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER)))
    if not targets:
        return -ESRCH
    return min(_io_priority(target) for target in targets)


def _io_priority(target: Task) -> int:
    own = scheduling_of(target).io_priority
    return own or (IOPRIO_CLASS_BE << IOPRIO_CLASS_SHIFT) | (target.nice + 20) // 5


@syscall()
def ioprio_set(task: Task, which: Int, who: Int, priority: Int) -> int:
    """man 2 ioprio_set: kept and shown."""
    if which not in (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER):
        return -EINVAL
    kind, level = priority >> IOPRIO_CLASS_SHIFT, priority & ((1 << IOPRIO_CLASS_SHIFT) - 1)
    if kind == IOPRIO_CLASS_RT and not task.credentials.has_capability(CAP_SYS_NICE):
        return -EPERM
    if kind in (IOPRIO_CLASS_RT, IOPRIO_CLASS_BE):
        if level >= 8:
            return -EINVAL
    elif kind == IOPRIO_CLASS_NONE:
        if level:
            return -EINVAL
    elif kind != IOPRIO_CLASS_IDLE:
        return -EINVAL
    targets = list(_selected(task, which, who, (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER)))
    if not targets:
        return -ESRCH
    for target in targets:
        _check_owner(task, target)
        scheduling_of(target).io_priority = priority if kind != IOPRIO_CLASS_NONE else 0
    return 0
