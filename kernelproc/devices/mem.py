"""The memory devices, major 1: null, zero, full, random, urandom, kmsg (Linux's drivers/char/mem.c)."""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL, ENODEV, ENOSPC, EPERM, EPIPE
from polynix.kernelproc.uapi.fcntl import SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_SET
from polynix.kernelproc.uapi.ioctls import (
    RNDADDENTROPY,
    RNDADDTOENTCNT,
    RNDCLEARPOOL,
    RNDGETENTCNT,
    RNDRESEEDCRNG,
    RNDZAPENTCNT,
)
from polynix.kernelproc.uapi.major import MEM_MAJOR
from polynix.kernelproc.uapi.poll import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from polynix.kernelproc.vfs.ops import FileOps, Result
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

_CHUNK = 1 << 16
_MINORS = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9, "kmsg": 11}


class MemoryDevice(FileOps):
    """What the devices have in common: ready at once, every position is 0, writes vanish."""

    always_ready: ClassVar[bool] = False  # unlike regular files they may be polled

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        count = data.remaining
        data.skip(count)
        return count

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if whence > SEEK_END:
            raise Errno(EINVAL)
        return 0


class NullDevice(MemoryDevice):
    """/dev/null: the end of file, always."""

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        return 0


class ZeroDevice(MemoryDevice):
    """/dev/zero: zeros; a map of it is anonymous memory."""

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        return out.zero(out.remaining)

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        memory: MemoryObject = task.kernel.memory.new_object(length)
        return memory, -offset


class FullDevice(ZeroDevice):
    """/dev/full: zeros, and no space for writes."""

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        return -ENOSPC

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        raise Errno(ENODEV)


class RandomDevice(MemoryDevice):
    """/dev/random and /dev/urandom, which have been the same since Linux 5.6 once the pool is ready."""

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        total = 0
        while out.remaining:
            done = out.write(os.urandom(min(out.remaining, _CHUNK)))
            total += done
            if done == 0:
                break
        return total

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        from polynix.addrspace._usercopy import UserAddress
        from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN

        if request == RNDGETENTCNT:
            task.copy_out(UserAddress(argument), (256).to_bytes(4, "little"))
            return 0
        if request in (RNDADDTOENTCNT, RNDADDENTROPY, RNDZAPENTCNT, RNDCLEARPOOL, RNDRESEEDCRNG):
            return 0 if task.credentials.has_capability(CAP_SYS_ADMIN) else -EPERM
        return -EINVAL


class KernelLog:
    """The kernel's message ring, in ``kernel.expando``: /dev/kmsg and syslog(2) read it.

    Records are (sequence, level, ns since boot, text).
    """

    CAPACITY: ClassVar[int] = 4096

    def __init__(self) -> None:
        self.records: deque[tuple[int, int, int, bytes]] = deque(maxlen=self.CAPACITY)
        self.next_sequence = 0
        self.readable = WaitQueue()
        self.cleared = 0  # sequence that SYSLOG_ACTION_CLEAR remembers

    def add(self, level: int, monotonic_ns: int, text: bytes) -> None:
        """Append one record."""
        self.records.append((self.next_sequence, level, monotonic_ns, text))
        self.next_sequence += 1
        self.readable.notify(POLLIN | POLLRDNORM)

    def find(self, sequence: int) -> tuple[int, int, int, bytes] | None:
        """The record with that number; None if it is not written yet. Errors: EPIPE if it was overwritten."""
        if sequence >= self.next_sequence:
            return None
        first = self.records[0][0]
        if sequence < first:
            raise Errno(EPIPE)
        return self.records[sequence - first]


class KmsgDevice(FileOps):
    """/dev/kmsg: one record a read (``level,sequence,microseconds,-;text``), one a write (``<level>text``)."""

    always_ready: ClassVar[bool] = False
    seekable: ClassVar[bool] = False

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.log = kernel.expando.get(KernelLog)
        self.sequence = self.log.records[0][0] if self.log.records else self.log.next_sequence

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        try:
            record = self.log.find(self.sequence)
        except Errno:
            self.sequence = self.log.records[0][0]
            raise
        if record is None:
            return -EAGAIN
        sequence, level, when, text = record
        line = b"%d,%d,%d,-;%s\n" % (level, sequence, when // 1000, text.replace(b"\n", b"\\x0a"))
        if len(line) > out.remaining:
            return -EINVAL
        self.sequence += 1
        return out.write(line)

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        text = data.peek(1024)
        data.skip(data.remaining)
        count = len(text)
        level = 12  # user facility, warning
        if text.startswith(b"<") and b">" in text[:6]:
            number, _, rest = text[1:].partition(b">")
            if number.isdigit():
                level, text = int(number) if int(number) >= 8 else int(number) | 8, rest
        self.log.add(level, self.kernel.clock.boottime_ns() - self.kernel.boot_time_ns, text.rstrip(b"\n"))
        return count

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if offset or whence == SEEK_CUR:
            raise Errno(EINVAL)
        if whence == SEEK_SET:
            self.sequence = self.log.records[0][0] if self.log.records else self.log.next_sequence
        elif whence == SEEK_DATA:
            self.sequence = self.log.cleared
        else:
            self.sequence = self.log.next_sequence
        return 0

    def query_events(self, file: FileObject) -> int:
        return (POLLIN | POLLRDNORM if self.sequence < self.log.next_sequence else 0) | POLLOUT | POLLWRNORM

    def wait_queue(self, file: FileObject) -> WaitQueue | None:
        return self.log.readable


class _LogHandler(logging.Handler):
    """Puts the kernel's own warnings into its ring."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(logging.INFO)
        self.kernel = kernel

    def emit(self, record: logging.LogRecord) -> None:
        level = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        now = self.kernel.clock.boottime_ns() - self.kernel.boot_time_ns
        self.kernel.expando.get(KernelLog).add(level, now, record.getMessage().encode(errors="replace"))


def register(kernel: Kernel) -> None:
    """Register the devices and feed the ring with the kernel's log."""
    null, zero, full, random = NullDevice(), ZeroDevice(), FullDevice(), RandomDevice()
    for name, ops in (("null", null), ("zero", zero), ("full", full), ("random", random), ("urandom", random)):
        kernel.devices.register(MEM_MAJOR, _MINORS[name], _opener(ops), name=name.encode(), mode=0o666)

    def open_kmsg(_task: Task, _dev: int, _node: FsNode, _flags: int) -> FileOps:
        return KmsgDevice(kernel)

    kernel.devices.register(MEM_MAJOR, _MINORS["kmsg"], open_kmsg, name=b"kmsg", mode=0o644)
    kernel.expando.get(KernelLog).add(5, 0, b"polynix: a Linux kernel in Python")
    logging.getLogger("polynix").addHandler(_LogHandler(kernel))


def _opener(ops: FileOps):  # type: ignore[no-untyped-def]
    return lambda _task, _dev, _node, _flags: ops
