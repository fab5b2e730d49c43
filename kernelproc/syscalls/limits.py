"""Resource limits and usage: getrlimit, setrlimit, prlimit64, getrusage, times (man 2 getrlimit, getrusage, times)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Int, Pid, UInt
from polynix.kernelproc.task.cpu_limit import watch_cpu_limit
from polynix.kernelproc.task.cpu_time import group_cpu_time, nanoseconds_to_ticks, thread_cpu_time
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.capability import CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.errno import EINVAL, EPERM, ESRCH
from polynix.kernelproc.uapi.resource import RLIM_NLIMITS, RLIMIT_CPU, RLIMIT_NOFILE, RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

NR_OPEN: Final = 1 << 20  # /proc/sys/fs/nr_open: the ceiling of RLIMIT_NOFILE
_NS: Final = 1_000_000_000


def _set_limit(task: Task, group: ThreadGroup, resource: int, soft: int, hard: int) -> None:
    if soft > hard:
        raise Errno(EINVAL)
    if resource == RLIMIT_NOFILE and hard > NR_OPEN:
        raise Errno(EPERM)
    if hard > group.limits.hard(resource) and not task.credentials.has_capability(CAP_SYS_RESOURCE):
        raise Errno(EPERM)
    if resource == RLIMIT_CPU and soft == 0:
        soft = 1  # as Linux: at once, but not before
        hard = max(hard, 1)
    group.limits.set(resource, soft, hard)
    if resource == RLIMIT_CPU:
        watch_cpu_limit(group)


@syscall()
def getrlimit(task: Task, resource: UInt, address: UserAddress) -> int:
    """man 2 getrlimit."""
    if resource >= RLIM_NLIMITS:
        return -EINVAL
    soft, hard = task.group.limits.get(resource)
    task.copy_out(address, structs.rlimit.pack(rlim_cur=soft, rlim_max=hard))
    return 0


@syscall()
def setrlimit(task: Task, resource: UInt, address: UserAddress) -> int:
    """man 2 setrlimit."""
    new = structs.rlimit.unpack(task.copy_in(address, structs.rlimit.SIZE))
    if resource >= RLIM_NLIMITS:
        return -EINVAL
    _set_limit(task, task.group, resource, new.rlim_cur, new.rlim_max)
    return 0


@syscall()
def prlimit64(task: Task, pid: Pid, resource: UInt, new_limit: UserAddress, old_limit: UserAddress) -> int:
    """man 2 prlimit."""
    new = structs.rlimit64.unpack(task.copy_in(new_limit, structs.rlimit64.SIZE)) if new_limit else None
    if resource >= RLIM_NLIMITS:
        return -EINVAL
    target = task if pid == 0 else task.kernel.pids.tasks.get(pid)
    if target is None:
        return -ESRCH
    group = target.group
    if group is not task.group and not _may_change(task, target):
        return -EPERM
    soft, hard = group.limits.get(resource)
    if new is not None:
        _set_limit(task, group, resource, new.rlim_cur, new.rlim_max)
    if old_limit:
        task.copy_out(old_limit, structs.rlimit64.pack(rlim_cur=soft, rlim_max=hard))
    return 0


def _may_change(task: Task, target: Task) -> bool:
    mine, theirs = task.credentials, target.credentials
    same_user = theirs.uid == theirs.euid == theirs.suid == mine.uid
    same_group = theirs.gid == theirs.egid == theirs.sgid == mine.gid
    return (same_user and same_group) or mine.has_capability(CAP_SYS_RESOURCE)


# -- usage -----------------------------------------------------------------------------------------------------------------


def pack_usage(user_ns: int, system_ns: int, max_rss_bytes: int = 0, minor_faults: int = 0, switches: int = 0) -> bytes:
    """A struct rusage."""
    return structs.rusage.pack(
        ru_utime_sec=user_ns // _NS,
        ru_utime_usec=user_ns // 1000 % 1_000_000,
        ru_stime_sec=system_ns // _NS,
        ru_stime_usec=system_ns // 1000 % 1_000_000,
        ru_maxrss=max_rss_bytes // 1024,
        ru_minflt=minor_faults,
        ru_nvcsw=switches,
    )


def _counts(*tasks: Task) -> tuple[int, int]:
    faults = sum(int(task.counters[TaskWord.FAULTS]) for task in tasks)
    return faults, sum(int(task.counters[TaskWord.SYSCALLS]) for task in tasks)


@syscall()
def getrusage(task: Task, who: Int, address: UserAddress) -> int:
    """man 2 getrusage. The greatest resident set is the greatest that was looked at; each system call counts as a voluntary switch."""
    group = task.group
    if who == RUSAGE_SELF:
        group.max_rss = max(group.max_rss, task.mm.resident_bytes())
        usage = pack_usage(*group_cpu_time(group), group.max_rss, *_counts(*group.tasks.values()))
    elif who == RUSAGE_THREAD:
        group.max_rss = max(group.max_rss, task.mm.resident_bytes())
        usage = pack_usage(*thread_cpu_time(task), group.max_rss, *_counts(task))
    elif who == RUSAGE_CHILDREN:
        usage = pack_usage(group.children_usage_user_ns, group.children_usage_system_ns)
    else:
        return -EINVAL
    task.copy_out(address, usage)
    return 0


@syscall()
def times(task: Task, address: UserAddress) -> int:
    """man 2 times: returns clock ticks since boot."""
    if address:
        group = task.group
        user, system = group_cpu_time(group)
        ticks = structs.tms.pack(
            tms_utime=nanoseconds_to_ticks(user),
            tms_stime=nanoseconds_to_ticks(system),
            tms_cutime=nanoseconds_to_ticks(group.children_usage_user_ns),
            tms_cstime=nanoseconds_to_ticks(group.children_usage_system_ns),
        )
        task.copy_out(address, ticks)
    return nanoseconds_to_ticks(task.kernel.clock.monotonic_ns())
