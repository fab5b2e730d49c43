"""Signal-driven I/O: who gets SIGIO when an O_ASYNC description becomes ready (man 2 fcntl, F_SETOWN and F_SETSIG; Linux's fasync)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.kernelproc.signals.send import send_to_group, send_to_task
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.uapi.fcntl import F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDBAND, POLLRDNORM, POLLWRBAND, POLLWRNORM
from polynix.kernelproc.uapi.signal import POLL_ERR, POLL_HUP, POLL_IN, POLL_OUT, POLL_PRI, SI_KERNEL, SIGIO
from polynix.kernelproc.wait_queue import WaitEntry

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.wait_queue import WaitQueue

# (event, si_code of a queued signal, its si_band), in the order in which one is chosen (fs/fcntl.c, band_table).
_CODES: Final = (
    (POLLIN, POLL_IN, POLLIN | POLLRDNORM),
    (POLLOUT, POLL_OUT, POLLOUT | POLLWRNORM | POLLWRBAND),
    (POLLERR, POLL_ERR, POLLERR),
    (POLLPRI, POLL_PRI, POLLPRI | POLLRDBAND),
    (POLLHUP, POLL_HUP, POLLHUP | POLLERR),
)
_INTERESTING: Final = POLLIN | POLLOUT | POLLERR | POLLPRI | POLLHUP


class FileOwner:
    """Who gets the signals of a description, and on whose behalf that was set. In ``file.expando``."""

    __slots__ = ("euid", "kind", "pid", "uid")

    def __init__(self, kind: int = F_OWNER_PID, pid: int = 0, uid: int = 0, euid: int = 0) -> None:
        self.kind = kind
        self.pid = pid
        self.uid = uid
        self.euid = euid

    def file_closed(self, file: FileObject) -> None:
        """Nothing to undo."""


def owner_of(file: FileObject) -> FileOwner:
    """The owner of ``file``; one with pid 0 when none was set."""
    owner = file.expando.get(FileOwner) if file.expando is not None else None
    return owner if isinstance(owner, FileOwner) else FileOwner()


class AsyncNotification:
    """The registration of an O_ASYNC description in its wait queue. In ``file.expando``."""

    __slots__ = ("entry", "fd", "file", "kernel", "queue")

    def __init__(self, kernel: Kernel, file: FileObject, fd: int, queue: WaitQueue) -> None:
        self.kernel = kernel
        self.file = file
        self.fd = fd
        self.queue = queue
        self.entry = WaitEntry(self._notified, _INTERESTING)
        queue.add(self.entry)

    def _notified(self, events: int) -> bool:
        ready = events & self.file.ops.query_events(self.file) & _INTERESTING
        for event, code, band in _CODES:
            if ready & event:
                send_sigio(self.kernel, self.file, self.fd, code, band)
                break
        return False  # watches, takes no wake-up

    def file_closed(self, file: FileObject) -> None:
        """The description is gone."""
        self.queue.remove(self.entry)


def set_async(kernel: Kernel, file: FileObject, fd: int, on: bool) -> None:
    """O_ASYNC was set or cleared; files that never block have nobody to notify."""
    current = file.expando.pop(AsyncNotification, None) if file.expando is not None else None
    if isinstance(current, AsyncNotification):
        current.file_closed(file)
    if on:
        queue = file.ops.wait_queue(file)
        if queue is not None:
            if file.expando is None:
                file.expando = {}
            file.expando[AsyncNotification] = AsyncNotification(kernel, file, fd, queue)


def send_sigio(kernel: Kernel, file: FileObject, fd: int, code: int, band: int) -> None:
    """Signal the owner: SIGIO, or F_SETSIG's signal with the descriptor and the events."""
    owner = owner_of(file)
    pids = kernel.pids
    receivers: list[Task | ThreadGroup] = []
    if owner.kind == F_OWNER_TID:
        task = pids.tasks.get(owner.pid)
        receivers = [task] if task is not None else []
    elif owner.kind == F_OWNER_PID:
        group = pids.thread_groups.get(owner.pid)
        receivers = [group] if group is not None else []
    elif owner.kind == F_OWNER_PGRP and owner.pid in pids.process_groups:
        receivers = list(pids.process_groups[owner.pid].members)
    for receiver in receivers:
        leader = receiver.leader if hasattr(receiver, "leader") else receiver
        theirs = leader.credentials
        if owner.euid and not {owner.uid, owner.euid} & {theirs.uid, theirs.suid}:
            continue
        if file.async_signal:
            info = SigInfo(file.async_signal, code, band=band, fd=fd)
        else:
            info = SigInfo(SIGIO, SI_KERNEL)
        if leader is receiver:
            send_to_task(receiver, info)
        else:
            send_to_group(receiver, info)  # type: ignore[arg-type]
