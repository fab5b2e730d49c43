"""Vmo: memory that handles share, a POSIX shared memory object without a name."""

from __future__ import annotations

import os
import secrets
from typing import cast

from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.signals import Rights
from polynix.ipc.status import Status, ZxStatus

RIGHTS = Rights.BASIC | Rights.IO | Rights.PROPERTY | Rights.MAP | Rights.SIGNAL | Rights.RESIZE
PAGE_SIZE = 4096


class VmoObject(KernelObject):
    """The memory; ``fd`` can be mapped."""

    def __init__(self, size: int) -> None:
        import posix_ipc

        super().__init__()
        self.fd = -1
        name = f"/polynix-vmo-{os.getpid()}-{secrets.token_hex(6)}"
        try:
            memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=size)
        except OSError as error:
            raise ZxStatus(Status.NO_MEMORY, str(error)) from error
        self.fd = memory.fd
        memory.unlink()
        self.size = size

    def on_zero_handles(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Vmo(Handle):
    """A handle to memory."""

    @classmethod
    def create(cls, size: int) -> Vmo:
        """``size`` bytes of zeros, rounded up to pages. Errors: OUT_OF_RANGE, NO_MEMORY."""
        return cls(VmoObject(_pages(size)), RIGHTS)

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
            memory.size = size

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
