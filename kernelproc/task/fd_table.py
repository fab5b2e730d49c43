"""Descriptors of a process: numbers to open file descriptions (Linux's ``files_struct``)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EBADF, EMFILE
from polynix.kernelproc.uapi.fcntl import O_PATH
from polynix.kernelproc.uapi.resource import RLIMIT_NOFILE
from polynix.kernelproc.vfs.locks import release_posix_locks

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject

log = logging.getLogger(__name__)


class LimitSource(Protocol):
    """What says how many descriptors may be open: the process's ResourceLimits."""

    def soft(self, resource: int) -> int: ...


class FdTable:
    """A descriptor table, shared by ``users`` tasks (CLONE_FILES). It holds one reference of each description per descriptor.

    ``files`` is read directly on hot paths. It is also the owner of POSIX record locks: the first close of any descriptor of a file drops them.
    """

    __slots__ = ("_cloexec", "_lowest", "files", "limit_source", "users")

    def __init__(self, limit_source: LimitSource) -> None:
        self.limit_source = limit_source
        self.files: dict[int, FileObject] = {}
        self._cloexec: set[int] = set()
        self._lowest = 0  # no number below is free
        self.users = 1

    def get(self, fd: int) -> FileObject:
        """The description of ``fd``, O_PATH ones included. Errors: EBADF."""
        file = self.files.get(fd)
        if file is None:
            raise Errno(EBADF)
        return file

    def get_io(self, fd: int) -> FileObject:
        """The description of ``fd`` for anything but path-like use. Errors: EBADF, also for O_PATH."""
        file = self.files.get(fd)
        if file is None or file.flags & O_PATH:
            raise Errno(EBADF)
        return file

    def install(self, file: FileObject, cloexec: bool = False, minimum: int = 0) -> int:
        """Give ``file`` the lowest free number from ``minimum`` on; takes a reference. Errors: EMFILE beyond RLIMIT_NOFILE."""
        files = self.files
        fd = self._lowest if minimum <= self._lowest else minimum
        while fd in files:
            fd += 1
        if fd >= self.limit_source.soft(RLIMIT_NOFILE):
            raise Errno(EMFILE)
        if minimum <= self._lowest:
            self._lowest = fd + 1
        files[fd] = file
        file.references += 1
        if cloexec:
            self._cloexec.add(fd)
        return fd

    def check_room(self) -> None:
        """Errors: EMFILE if :meth:`install` would fail now."""
        fd = self._lowest
        while fd in self.files:
            fd += 1
        if fd >= self.limit_source.soft(RLIMIT_NOFILE):
            raise Errno(EMFILE)

    def install_new(self, file: FileObject, cloexec: bool = False) -> int:
        """``install`` for a description that nobody else holds: it is closed when there is no number for it. Errors: EMFILE."""
        file.references += 1
        try:
            return self.install(file, cloexec)
        finally:
            file.release()

    def install_at(self, fd: int, file: FileObject, cloexec: bool = False, task: Task | None = None) -> None:
        """Make ``fd`` mean ``file``, as dup2 does; what it meant before is closed. Errors: EBADF for a number that can't be."""
        if fd < 0 or fd >= self.limit_source.soft(RLIMIT_NOFILE):
            raise Errno(EBADF)
        old = self.files.get(fd)
        file.references += 1
        self.files[fd] = file
        if cloexec:
            self._cloexec.add(fd)
        else:
            self._cloexec.discard(fd)
        if old is not None:
            self._put(old, task)

    def close(self, fd: int, task: Task | None) -> None:
        """Close one descriptor. Errors: EBADF."""
        file = self.files.pop(fd, None)
        if file is None:
            raise Errno(EBADF)
        self._cloexec.discard(fd)
        if fd < self._lowest:
            self._lowest = fd
        self._put(file, task)

    def _put(self, file: FileObject, task: Task | None) -> None:
        try:
            if file.node.expando is not None:
                release_posix_locks(file.node, self)
            if task is not None:
                file.ops.flush(file, task)
        finally:
            file.release()

    def cloexec(self, fd: int) -> bool:
        """FD_CLOEXEC of an open descriptor."""
        return fd in self._cloexec

    def set_cloexec(self, fd: int, cloexec: bool) -> None:
        """Set FD_CLOEXEC. Errors: EBADF."""
        if fd not in self.files:
            raise Errno(EBADF)
        if cloexec:
            self._cloexec.add(fd)
        else:
            self._cloexec.discard(fd)

    def fds(self) -> list[int]:
        """Open descriptors in order."""
        return sorted(self.files)

    def share(self) -> FdTable:
        """One more user (CLONE_FILES); returns self."""
        self.users += 1
        return self

    def unshare(self, task: Task | None) -> None:
        """One user less; the last closes everything."""
        self.users -= 1
        if self.users == 0:
            self.close_all(task)

    def fork(self, limit_source: LimitSource | None = None) -> FdTable:
        """A copy with the same descriptors, of one user; its limit comes from ``limit_source`` (the child's limits) or self's."""
        table = FdTable(limit_source or self.limit_source)
        table.files = dict(self.files)
        table._cloexec = set(self._cloexec)
        table._lowest = self._lowest
        for file in table.files.values():
            file.references += 1
        return table

    def close_on_exec(self, task: Task | None) -> None:
        """Close what has FD_CLOEXEC; the caller has made sure that nobody shares the table."""
        self._close_each(sorted(self._cloexec), task)

    def close_range(self, first: int, last: int, task: Task | None) -> None:
        """Close all descriptors from ``first`` to ``last`` inclusive."""
        self._close_each([fd for fd in sorted(self.files) if first <= fd <= last], task)

    def close_all(self, task: Task | None) -> None:
        """Close everything (exit)."""
        self._close_each(sorted(self.files), task)

    def _close_each(self, fds: list[int], task: Task | None) -> None:
        for fd in fds:
            if fd in self.files:
                try:
                    self.close(fd, task)
                except Errno:
                    pass  # the descriptor is gone all the same; only close(2) reports it
                except Exception as error:  # nor may one file's defect keep a process from its end
                    log.error("closing descriptor %d failed inside the kernel", fd, exc_info=error)

    def __len__(self) -> int:
        return len(self.files)

    def __bool__(self) -> bool:
        return True
