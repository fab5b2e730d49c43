"""pidfd: a process as a file (``man 2 pidfd_open``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.uapi.fcntl import O_NONBLOCK, O_RDWR
from polynix.kernelproc.uapi.poll import POLLHUP, POLLIN, POLLRDNORM
from polynix.kernelproc.vfs.anon import anon_file
from polynix.kernelproc.vfs.ops import FileOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.wait_queue import WaitQueue


class PidFdOps(FileOps):
    """Refers to one process for ever, also when its number is taken by another."""

    seekable = False
    always_ready = False

    def __init__(self, group: ThreadGroup) -> None:
        self.group = group

    @property
    def reaped(self) -> bool:
        """The process is gone for good: signals to it give ESRCH."""
        return self.group.kernel.pids.thread_groups.get(self.group.pid) is not self.group

    def query_events(self, file: FileObject) -> int:
        if self.reaped:
            return POLLIN | POLLRDNORM | POLLHUP
        return POLLIN | POLLRDNORM if self.group.exited else 0

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.group.exit_wait

    def fdinfo(self, file: FileObject) -> str:
        pid = -1 if self.reaped else self.group.pid
        return f"Pid:\t{pid}\nNSpid:\t{pid}\n"


def new_pidfd(kernel: Kernel, group: ThreadGroup, flags: int = 0) -> FileObject:
    """A new pidfd of ``group`` (pidfd_open, CLONE_PIDFD); it is always close-on-exec."""
    return anon_file(kernel, PidFdOps(group), O_RDWR | flags & O_NONBLOCK, b"[pidfd]")


def group_of(file: FileObject) -> ThreadGroup | None:
    """The process that ``file`` refers to, for waitid(P_PIDFD) and pidfd_send_signal; None if it is no pidfd."""
    ops = file.ops
    return ops.group if isinstance(ops, PidFdOps) else None
