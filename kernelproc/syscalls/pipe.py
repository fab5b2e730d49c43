"""pipe and pipe2."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags
from polynix.kernelproc.uapi.errno import EINVAL
from polynix.kernelproc.uapi.fcntl import O_CLOEXEC, O_DIRECT, O_NONBLOCK
from polynix.kernelproc.vfs.pipe import new_pipe

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject

_TWO_INTS = struct.Struct("ii")


@syscall()
def pipe(task: Task, pipefd: UserAddress) -> int:
    """man 2 pipe."""
    return pipe2(task, pipefd, 0)


@syscall()
def pipe2(task: Task, pipefd: UserAddress, flags: Flags) -> int:
    """man 2 pipe2. Errors: EINVAL, EMFILE, EFAULT (then no descriptor is left open)."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT):
        raise Errno(EINVAL)
    credentials = task.credentials
    ends = new_pipe(task.kernel, flags, credentials.fsuid, credentials.fsgid)
    install_pair(task, ends[0], ends[1], bool(flags & O_CLOEXEC), pipefd)
    return 0


def install_pair(task: Task, first: FileObject, second: FileObject, cloexec: bool, address: UserAddress) -> None:
    """Give two new descriptions descriptors and store the numbers at ``address``; on failure none stays open."""
    files = task.files
    second.references += 1
    try:
        low = files.install_new(first, cloexec)
        try:
            high = files.install(second, cloexec)
            try:
                task.copy_out(address, _TWO_INTS.pack(low, high))
            except BaseException:
                files.close(high, None)
                raise
        except BaseException:
            files.close(low, None)
            raise
    finally:
        second.release()
