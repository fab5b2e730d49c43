"""process_vm_readv and process_vm_writev: copies between two guests (man 2 process_vm_readv)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.iovec import copy_iovec, import_iovec
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Pid, ULong, UserAddress
from polynix.kernelproc.task.ptrace_access import may_inspect
from polynix.kernelproc.uapi.errno import EFAULT, EINVAL, EPERM, ESRCH

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


def _process_vm(task: Task, pid: int, local: UserAddress, local_count: int, remote: UserAddress, remote_count: int, flags: int, *, write: bool) -> int:
    if flags:
        raise Errno(EINVAL)
    local_iov = import_iovec(task, local, local_count)
    remote_iov = copy_iovec(task, remote, remote_count)
    other = task.kernel.pids.tasks.get(pid)
    if other is None or other.exited:
        raise Errno(ESRCH)
    if not may_inspect(task, other, real=True):
        raise Errno(EPERM)
    source, source_iov, target, target_iov = (task, local_iov, other, remote_iov) if write else (other, remote_iov, task, local_iov)
    capacity = sum(length for _, length in target_iov)
    total = 0
    for address, length in source_iov:
        length = min(length, capacity - total)
        if length <= 0:
            break
        data = source.user.copy_in_partial(address, length)
        done = _scatter(target, target_iov, total, data) if data else 0
        total += done
        if done < length:
            if not total:
                raise Errno(EFAULT)
            break
    return total


def _scatter(target: Task, iov: list[tuple[UserAddress, int]], position: int, data: bytes) -> int:
    done = 0
    for address, length in iov:
        if position >= length:
            position -= length
            continue
        piece = data[done : done + length - position]
        if not piece:
            break
        stored = target.user.copy_out(address + position, piece)
        done += stored
        if stored < len(piece):
            break
        position = 0
    return done


@syscall()
def process_vm_readv(task: Task, pid: Pid, local: UserAddress, local_count: ULong, remote: UserAddress, remote_count: ULong, flags: ULong) -> int:
    """man 2 process_vm_readv"""
    return _process_vm(task, pid, local, local_count, remote, remote_count, flags, write=False)


@syscall()
def process_vm_writev(task: Task, pid: Pid, local: UserAddress, local_count: ULong, remote: UserAddress, remote_count: ULong, flags: ULong) -> int:
    """man 2 process_vm_writev"""
    return _process_vm(task, pid, local, local_count, remote, remote_count, flags, write=True)
