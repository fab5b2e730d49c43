"""pidfd_open, pidfd_getfd, pidfd_send_signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.signal_state import NSIG
from polynix.kernelproc.syscalls.signal import check_forged, kill_group, kill_process_group, kill_thread, read_siginfo
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Pid
from polynix.kernelproc.task.ptrace_access import may_inspect
from polynix.kernelproc.uapi.errno import EBADF, EINVAL, ENOENT, EPERM, ESRCH
from polynix.kernelproc.uapi.pidfd import PIDFD_NONBLOCK
from polynix.kernelproc.uapi.signal import SI_TKILL, SI_USER
from polynix.kernelproc.vfs.pidfd import PIDFD_THREAD, PidFdOps, new_pidfd

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

# PIDFD_SIGNAL_*: whom a signal is for; without one, what the pidfd refers to. Newer than the headers that uapi comes from.
_SIGNAL_THREAD, _SIGNAL_GROUP, _SIGNAL_PROCESS_GROUP = 1, 2, 4


@syscall()
def pidfd_open(task: Task, pid: Pid, flags: Flags) -> int:
    """man 2 pidfd_open. Errors: EINVAL, ESRCH, ENOENT (a thread that is no leader)."""
    if flags & ~(PIDFD_NONBLOCK | PIDFD_THREAD) or pid <= 0:
        return -EINVAL
    pids = task.kernel.pids
    if flags & PIDFD_THREAD:
        thread = pids.tasks.get(pid)
        if thread is None:
            return -ESRCH
        return task.files.install_new(new_pidfd(task.kernel, thread.group, flags, thread), True)
    group = pids.thread_groups.get(pid)
    if group is None:
        return -ENOENT if pid in pids.tasks else -ESRCH
    return task.files.install_new(new_pidfd(task.kernel, group, flags), True)


def pidfd_of(task: Task, fd: int) -> PidFdOps:
    """The process behind a pidfd. Errors: EBADF."""
    ops = task.files.get_io(fd).ops
    if not isinstance(ops, PidFdOps):
        raise Errno(EBADF)
    return ops


@syscall()
def pidfd_send_signal(task: Task, pidfd: FdNumber, signo: Int, info_address: UserAddress, flags: Flags) -> int:
    """man 2 pidfd_send_signal."""
    if flags not in (0, _SIGNAL_THREAD, _SIGNAL_GROUP, _SIGNAL_PROCESS_GROUP):
        return -EINVAL
    target = pidfd_of(task, pidfd)
    group = target.group
    to_thread = flags == _SIGNAL_THREAD or (not flags and target.thread is not None)
    if info_address:
        info = read_siginfo(task, info_address, signo)
        if int.from_bytes(task.copy_in(info_address, 4), "little") != signo:
            return -EINVAL
        check_forged(task, group.pid, info)
    else:
        info = SigInfo.from_user(task, signo, SI_TKILL if to_thread else SI_USER)
    if not 0 <= signo <= NSIG:
        return -EINVAL
    if target.reaped:
        return -ESRCH
    if to_thread:
        return kill_thread(task, group.pid, target.pid, signo, info)
    if flags == _SIGNAL_PROCESS_GROUP:
        return kill_process_group(task, task.kernel.pids.process_groups.get(target.pid), signo)
    kill_group(task, group, signo, info)
    return 0


@syscall()
def pidfd_getfd(task: Task, pidfd: FdNumber, targetfd: FdNumber, flags: Flags) -> int:
    """man 2 pidfd_getfd; the rule of who may is that of ptrace's attaching."""
    if flags:
        return -EINVAL
    target = pidfd_of(task, pidfd)
    group = target.group
    if target.reaped or target.ended:
        return -ESRCH
    holder = target.thread or group.leader
    if not may_inspect(task, holder, real=True):
        return -EPERM
    return task.files.install(holder.files.get(targetfd), True)
