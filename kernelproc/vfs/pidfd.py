"""pidfd: a process, or one thread, as a file (``man 2 pidfd_open``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EBADF, ECHILD
from polynix.kernelproc.uapi.fcntl import O_EXCL, O_NONBLOCK, O_RDWR
from polynix.kernelproc.uapi.poll import POLLHUP, POLLIN, POLLRDNORM
from polynix.kernelproc.vfs.anon import anon_file
from polynix.kernelproc.vfs.ops import FileOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.wait_queue import WaitQueue

PIDFD_THREAD: Final = O_EXCL  # newer than the headers that uapi comes from


class PidFdOps(FileOps):
    """Refers to one process for ever, also when its number is taken by another; or to one ``thread`` of it (PIDFD_THREAD)."""

    seekable = False
    always_ready = False

    def __init__(self, group: ThreadGroup, thread: Task | None = None) -> None:
        self.group = group
        self.thread = thread

    @property
    def pid(self) -> int:
        return self.group.pid if self.thread is None else self.thread.tid

    @property
    def ended(self) -> bool:
        return self.group.exited if self.thread is None else self.thread.exited

    @property
    def reaped(self) -> bool:
        """It is gone for good: signals to it give ESRCH. A leader's zombie is the process's."""
        if self.thread is not None and self.thread.exited and self.thread.tid != self.group.pid:
            return True
        return self.group.kernel.pids.thread_groups.get(self.group.pid) is not self.group

    def query_events(self, file: FileObject) -> int:
        if self.reaped:
            return POLLIN | POLLRDNORM | POLLHUP
        return POLLIN | POLLRDNORM if self.ended else 0

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.group.exit_wait

    def fdinfo(self, file: FileObject) -> str:
        pid = -1 if self.reaped else self.pid
        return f"Pid:\t{pid}\nNSpid:\t{pid}\n"


def new_pidfd(kernel: Kernel, group: ThreadGroup, flags: int = 0, thread: Task | None = None) -> FileObject:
    """A new pidfd of ``group``, or of one ``thread`` of it (pidfd_open, CLONE_PIDFD); it is always close-on-exec."""
    return anon_file(kernel, PidFdOps(group, thread), O_RDWR | flags & (O_NONBLOCK | PIDFD_THREAD), b"[pidfd]")


def child_of(task: Task, file: FileObject) -> ThreadGroup:
    """The child that ``file`` refers to, for waitid(P_PIDFD). Errors: EBADF (no pidfd), ECHILD."""
    ops = file.ops
    if not isinstance(ops, PidFdOps):
        raise Errno(EBADF)
    if ops.group.parent is not task.group or ops.pid != ops.group.pid:
        raise Errno(ECHILD)
    return ops.group
