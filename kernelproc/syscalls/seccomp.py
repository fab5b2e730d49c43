"""seccomp(2), and prctl's older way to it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.seccomp import ACTIONS, SOCK_FILTER, Filter, SeccompState
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import UInt
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN
from polynix.kernelproc.uapi.errno import EACCES, EINVAL, EOPNOTSUPP, ESRCH
from polynix.kernelproc.uapi.seccomp import (
    BPF_MAXINSNS,
    SECCOMP_FILTER_FLAG_LOG,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    SECCOMP_GET_ACTION_AVAIL,
    SECCOMP_GET_NOTIF_SIZES,
    SECCOMP_MODE_FILTER,
    SECCOMP_MODE_STRICT,
    SECCOMP_SET_MODE_FILTER,
    SECCOMP_SET_MODE_STRICT,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_FLAGS: Final = (
    SECCOMP_FILTER_FLAG_TSYNC
    | SECCOMP_FILTER_FLAG_LOG
    | SECCOMP_FILTER_FLAG_SPEC_ALLOW
    | SECCOMP_FILTER_FLAG_NEW_LISTENER
    | SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
)
_SOCK_FPROG: Final = struct.Struct("<H6xQ")
_NOTIF_SIZES: Final = struct.pack("<HHH", 80, 24, 64)


@syscall()
def seccomp(task: Task, operation: UInt, flags: UInt, argument: UserAddress) -> int:
    """man 2 seccomp."""
    if operation == SECCOMP_SET_MODE_STRICT:
        return -EINVAL if flags or argument else set_strict(task)
    if operation == SECCOMP_SET_MODE_FILTER:
        return set_filter(task, flags, argument)
    if operation == SECCOMP_GET_ACTION_AVAIL:
        if flags:
            return -EINVAL
        return 0 if task.user.load_u32(argument) in ACTIONS else -EOPNOTSUPP
    if operation == SECCOMP_GET_NOTIF_SIZES:
        if flags:
            return -EINVAL
        task.copy_out(argument, _NOTIF_SIZES)
        return 0
    return -EINVAL


def set_strict(task: Task) -> int:
    """Allow read, write, exit and sigreturn only. Errors: EINVAL in filter mode."""
    if task.seccomp is not None and task.seccomp.mode != SECCOMP_MODE_STRICT:
        return -EINVAL
    task.seccomp = SeccompState(SECCOMP_MODE_STRICT)
    return 0


def set_filter(task: Task, flags: int, argument: UserAddress) -> int:
    """Install a filter before those in force. Errors: EACCES without no_new_privs or CAP_SYS_ADMIN, EINVAL, EFAULT, ESRCH."""
    if flags & ~_FLAGS or (flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV and not flags & SECCOMP_FILTER_FLAG_NEW_LISTENER):
        return -EINVAL
    if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER:
        track_stub("seccomp listener", flags)
        return -EINVAL
    length, address = _SOCK_FPROG.unpack(task.copy_in(argument, _SOCK_FPROG.size))
    if not 0 < length <= BPF_MAXINSNS:
        return -EINVAL
    if not task.no_new_privs and not task.credentials.has_capability(CAP_SYS_ADMIN):
        return -EACCES
    program = list(SOCK_FILTER.iter_unpack(task.copy_in(UserAddress(address), length * SOCK_FILTER.size)))
    previous: Filter | None = None
    if task.seccomp is not None:
        if task.seccomp.mode != SECCOMP_MODE_FILTER:
            return -EINVAL
        previous = task.seccomp.filter
    state = SeccompState(SECCOMP_MODE_FILTER, Filter(program, previous))
    if flags & SECCOMP_FILTER_FLAG_TSYNC:
        siblings = [other for other in task.group.tasks.values() if other is not task]
        for other in siblings:
            if other.seccomp is not None and not _is_ancestor(other.seccomp, previous):
                if flags & SECCOMP_FILTER_FLAG_TSYNC_ESRCH:
                    raise Errno(ESRCH)
                return other.tid
        for other in siblings:
            other.seccomp = state
            other.no_new_privs = other.no_new_privs or task.no_new_privs
    task.seccomp = state
    return 0


def _is_ancestor(state: SeccompState, newest: Filter | None) -> bool:
    if state.mode != SECCOMP_MODE_FILTER:
        return False
    while newest is not None:
        if newest is state.filter:
            return True
        newest = newest.previous
    return False
