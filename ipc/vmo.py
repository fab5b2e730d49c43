"""Vmo: memory that handles share, a POSIX shared memory object without a name, or the content of a file of the host."""

from __future__ import annotations

import os
from typing import cast

from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.shared_memory import new_memory
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

RIGHTS = Rights.BASIC | Rights.IO | Rights.PROPERTY | Rights.MAP | Rights.SIGNAL | Rights.RESIZE
FILE_RIGHTS = RIGHTS & ~(Rights.WRITE | Rights.RESIZE)
PAGE_SIZE = 4096


class VmoObject(KernelObject):
    """The memory; ``fd``, which it owns, can be mapped. VMO_ZERO_CHILDREN is set while no child of it exists."""

    def __init__(self, fd: int, file_size: int | None = None) -> None:
        """``file_size`` is None for memory, whose size is its own."""
        super().__init__(pending=Signals.VMO_ZERO_CHILDREN)
        self.fd = fd
        self.file_size = file_size
        self.num_children = 0

    @property
    def size(self) -> int:
        """In bytes; other processes may change that of memory."""
        return os.fstat(self.fd).st_size if self.file_size is None else self.file_size

    def new_child(self) -> ReferenceChild:
        with self.lock:
            child = ReferenceChild(self, os.dup(self.fd))
            self.num_children += 1
            self.update_signals(Signals.VMO_ZERO_CHILDREN, Signals.NONE)
        return child

    def child_gone(self) -> None:
        with self.lock:
            self.num_children -= 1
            if self.num_children == 0:
                self.update_signals(Signals.NONE, Signals.VMO_ZERO_CHILDREN)

    def on_zero_handles(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class ReferenceChild(VmoObject):
    """The same memory again: its parent hears when nobody holds it any more (Zircon's ZX_VMO_CHILD_REFERENCE)."""

    def __init__(self, parent: VmoObject, fd: int) -> None:
        super().__init__(fd, parent.file_size)
        self._parent = parent

    def on_zero_handles(self) -> None:
        super().on_zero_handles()
        self.lock.after(self._parent.child_gone)


class Vmo(Handle):
    """A handle to memory."""

    @classmethod
    def create(cls, size: int) -> Vmo:
        """``size`` bytes of zeros, rounded up to pages. Errors: OUT_OF_RANGE, NO_MEMORY."""
        size = _pages(size)
        try:
            return cls(VmoObject(new_memory("vmo", size)), RIGHTS)
        except OSError as error:
            raise ZxStatus(Status.NO_MEMORY, str(error)) from error

    @classmethod
    def of_file(cls, fd: int, size: int) -> Vmo:
        """The first ``size`` bytes of a file or block device of the host, to be read only. ``fd`` is the Vmo's from now on."""
        return cls(VmoObject(fd, size), FILE_RIGHTS)

    def create_child(self) -> Vmo:
        """A handle to the same memory that counts as a child of this one. Errors: ACCESS_DENIED without DUPLICATE."""
        memory = cast(VmoObject, self._require(Rights.DUPLICATE))
        return type(self)(memory.new_child(), self.rights)

    @property
    def num_children(self) -> int:
        """Children that somebody holds."""
        return self._memory.num_children

    @property
    def _memory(self) -> VmoObject:
        return cast(VmoObject, self._require())

    def fileno(self) -> int:
        """The descriptor behind it, for mmap(2); it closes with the last handle. Errors: ACCESS_DENIED without MAP."""
        return cast(VmoObject, self._require(Rights.MAP)).fd

    def get_size(self) -> int:
        return self._memory.size

    def set_size(self, size: int) -> None:
        """Errors: ACCESS_DENIED without RESIZE, OUT_OF_RANGE, NO_MEMORY."""
        memory = cast(VmoObject, self._require(Rights.WRITE | Rights.RESIZE))
        size = _pages(size)
        with memory.lock:
            try:
                os.ftruncate(memory.fd, size)
            except OSError as error:
                raise ZxStatus(Status.NO_MEMORY, str(error)) from error

    def read(self, size: int, offset: int = 0) -> bytes:
        """Errors: OUT_OF_RANGE."""
        memory = cast(VmoObject, self._require(Rights.READ))
        _check_range(memory, size, offset)
        return os.pread(memory.fd, size, offset)

    def write(self, data: bytes, offset: int = 0) -> None:
        """Errors: OUT_OF_RANGE, NO_MEMORY."""
        memory = cast(VmoObject, self._require(Rights.WRITE))
        _check_range(memory, len(data), offset)
        try:
            os.pwrite(memory.fd, data, offset)
        except OSError as error:
            raise ZxStatus(Status.NO_MEMORY, str(error)) from error


def _pages(size: int) -> int:
    if not 0 <= size <= (1 << 62):
        raise ZxStatus(Status.OUT_OF_RANGE, f"{size} bytes of memory")
    return -(-size // PAGE_SIZE) * PAGE_SIZE


def _check_range(memory: VmoObject, size: int, offset: int) -> None:
    if size < 0 or offset < 0 or offset + size > memory.size:
        raise ZxStatus(Status.OUT_OF_RANGE, f"{size} bytes at {offset} of {memory.size}")
