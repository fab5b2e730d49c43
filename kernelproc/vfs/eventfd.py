"""eventfd: a counter to wait for (``man 2 eventfd``)."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL
from polynix.kernelproc.uapi.poll import POLLERR, POLLIN, POLLOUT
from polynix.kernelproc.vfs.anon import AnonFileOps
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject

MAXIMUM = (1 << 64) - 1
_ids = itertools.count()
_U64 = struct.Struct("<Q")


class EventFdOps(AnonFileOps):
    """A 64-bit counter; reads take all of it, or one with EFD_SEMAPHORE."""

    def __init__(self, count: int, semaphore: bool) -> None:
        self.count = count
        self.semaphore = semaphore
        self.id = next(_ids)
        self.queue = WaitQueue()

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> int:
        if out.remaining < 8:
            return -EINVAL
        count = self.count
        if not count:
            return -EAGAIN
        if self.semaphore:
            count = 1
        self.count -= count
        self.queue.notify(POLLOUT)
        return out.write(_U64.pack(count))

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> int:
        if data.remaining < 8:
            return -EINVAL
        value: int = _U64.unpack(data.peek(8))[0]
        if value == MAXIMUM:
            return -EINVAL
        if self.count + value >= MAXIMUM:
            return -EAGAIN
        self.count += value
        data.skip(8)
        self.queue.notify(POLLIN)
        return 8

    def signal(self, count: int) -> None:
        """Add to the counter on the kernel's own behalf, which never waits: it stops at its maximum (``eventfd_signal``)."""
        self.count = min(self.count + count, MAXIMUM)
        self.queue.notify(POLLIN)

    def query_events(self, file: FileObject) -> int:
        count = self.count
        return (POLLIN if count else 0) | (POLLERR if count == MAXIMUM else 0) | (POLLOUT if count < MAXIMUM - 1 else 0)

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.queue

    def fdinfo(self, file: FileObject) -> str:
        return f"eventfd-count: {self.count:16x}\neventfd-id: {self.id}\neventfd-semaphore: {int(self.semaphore)}\n"
