"""An open file description (Linux's ``struct file``), and the one loop in which reads and writes block."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from polynix.kernelproc.uapi.errno import EAGAIN
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_APPEND, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_WRONLY
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLNVAL
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.locks import release_description_locks
from polynix.kernelproc.wait_queue import wait

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.namespace import NamespaceNode
    from polynix.kernelproc.vfs.ops import FileOps, Result

_ids = itertools.count(1)


class Attached(Protocol):
    """What other parts of the kernel keep in ``FileObject.expando``."""

    def file_closed(self, file: FileObject) -> None:
        """The last reference of ``file`` went away."""


class FileObject:
    """One open file description, shared by every descriptor that dup, fork or SCM_RIGHTS made of it.

    ``flags`` holds the access mode and status flags (O_CLOEXEC belongs to the descriptor). References are counted by descriptor tables, maps and messages in
    flight: :meth:`retain` and :meth:`release`; the last release calls ``ops.close``.
    """

    __slots__ = ("async_signal", "expando", "flags", "id", "name", "node", "offset", "ops", "references")

    def __init__(self, ops: FileOps, node: FsNode, flags: int, name: NamespaceNode | None = None) -> None:
        self.id = next(_ids)
        self.ops = ops
        self.node = node
        self.name = name  # (mount, dir entry) it was opened by; None for anonymous files
        self.flags = flags
        self.offset = 0
        self.references = 0
        self.async_signal: int = 0  # F_SETSIG
        self.expando: dict[type, Attached] | None = None  # epoll registrations and the like
        node.opened(self)

    @property
    def readable(self) -> bool:
        return self.flags & O_ACCMODE in (O_RDONLY, O_RDWR) and not self.flags & O_PATH

    @property
    def writable(self) -> bool:
        return self.flags & O_ACCMODE in (O_WRONLY, O_RDWR) and not self.flags & O_PATH

    @property
    def append(self) -> bool:
        return bool(self.flags & O_APPEND)

    @property
    def nonblocking(self) -> bool:
        return bool(self.flags & O_NONBLOCK)

    def retain(self) -> FileObject:
        """One more reference; returns self."""
        self.references += 1
        return self

    def release(self) -> None:
        """One reference less; the last closes the description."""
        self.references -= 1
        if self.references == 0:
            if self.node.expando is not None:
                release_description_locks(self)
            if self.expando is not None:
                for attached in list(self.expando.values()):
                    closed = getattr(attached, "file_closed", None)  # what only remembers something needs no goodbye
                    if closed is not None:
                        closed(self)
            if fsnotify.watched:
                fsnotify.closed(self)
            try:
                self.ops.close(self)
            finally:
                self.node.closed(self)

    def __repr__(self) -> str:
        return f"<FileObject {self.id} {type(self.ops).__name__} node={self.node.ino} flags={self.flags:#o}>"


async def blocking_operation(
    file: FileObject,
    events: int,
    operation: Callable[[], Result],
    deadline_ns: int | None = None,
    *,
    nonblocking: bool | None = None,
) -> int:
    """Run ``operation`` until it gives something other than -EAGAIN, waiting in between for ``events`` on the file.

    ``nonblocking`` overrides O_NONBLOCK of the description (MSG_DONTWAIT, RWF_NOWAIT). Returns the operation's result; -EAGAIN when non-blocking or at the
    deadline. Raises ``Interrupted`` when a signal ends the wait.
    """
    while True:
        result = operation()
        if type(result) is not int:
            assert isinstance(result, Awaitable)
            result = await result
        if result != -EAGAIN or (file.nonblocking if nonblocking is None else nonblocking):
            return result
        queue = file.ops.wait_queue(file)
        if queue is None:
            return result
        if not await wait(((queue, events | POLLERR | POLLHUP | POLLNVAL),), deadline_ns):
            return -EAGAIN
