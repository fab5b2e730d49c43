"""Pipes and fifos: ``man 7 pipe`` with Linux's accounting.

A Linux pipe is a ring of *slots*, each one page; a write of part of a page may be merged into the last page. That rule decides
how much fits, what is atomic (up to PIPE_BUF) and what splice moves, so it is kept here, but a run of pages that one write filled
is held as one piece of bytes. Each piece begins at a page boundary: the slots it holds follow from its two ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, ClassVar

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.capability import CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.errno import EAGAIN, EBUSY, EFAULT, EINVAL, ENXIO, EPERM, EPIPE
from polynix.kernelproc.uapi.fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, O_ACCMODE, O_DIRECT, O_NONBLOCK, O_RDONLY, O_WRONLY
from polynix.kernelproc.uapi.ioctls import FIONREAD
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from polynix.kernelproc.uapi.stat import S_IFIFO
from polynix.kernelproc.vfs.anon import AnonFileSystems
from polynix.kernelproc.vfs.buffers import BytesOutputBuffer
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.ops import Result

PAGE_SIZE = 4096
PAGE_MASK = PAGE_SIZE - 1
DEFAULT_SLOTS = 16

IN = POLLIN | POLLRDNORM
OUT = POLLOUT | POLLWRNORM
ENDS = IN | OUT | POLLERR | POLLHUP


class PipeBuffer:
    """Bytes in consecutive slots; ``start`` is how far they have been read. ``data[0]`` stands at a page boundary."""

    __slots__ = ("data", "mergeable", "packet", "start")

    def __init__(self, data: bytes | bytearray, packet: bool = False, mergeable: bool = True) -> None:
        self.data = data
        self.start = 0
        self.packet = packet
        self.mergeable = mergeable  # the last page may take more bytes

    @property
    def slots(self) -> int:
        return ((len(self.data) + PAGE_MASK) >> 12) - (self.start >> 12)


class Pipe:
    """What both ends share (``struct pipe_inode_info``)."""

    __slots__ = (
        "both_queue", "buffers", "max_slots", "open_queue", "read_queue", "reader_opens", "readers", "short_write", "used", "write_queue", "writer_opens",
        "writers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.buffers: deque[PipeBuffer] = deque()
        self.short_write = PipeBuffer(b"")  # of each short write into an empty pipe: free whenever ``buffers`` is empty
        self.used = 0  # slots
        self.max_slots = DEFAULT_SLOTS
        self.readers = 0
        self.writers = 0
        self.reader_opens = 0  # opens for reading there ever were: what a fifo's other end waits for
        self.writer_opens = 0
        self.read_queue = WaitQueue()  # of reading ends
        self.write_queue = WaitQueue()  # of writing ends
        self.both_queue: WaitQueue | None = None  # of ends opened O_RDWR, while there are any
        self.open_queue = WaitQueue()  # of opens of a fifo

    @property
    def length(self) -> int:
        """Unread bytes."""
        return sum(len(buffer.data) - buffer.start for buffer in self.buffers)

    @property
    def free_slots(self) -> int:
        return self.max_slots - self.used

    def wake_readers(self) -> None:
        """There is something to read."""
        self.read_queue.notify(IN)
        if self.both_queue is not None:
            self.both_queue.notify(IN)

    def wake_writers(self) -> None:
        """A slot is free."""
        self.write_queue.notify(OUT)
        if self.both_queue is not None:
            self.both_queue.notify(OUT)

    # -- data ------------------------------------------------------------------------------------------------------------

    def read(self, out: OutputBuffer) -> int:
        """Move bytes out, over as many buffers as it takes but never past a packet."""
        buffers = self.buffers
        want = out.remaining
        if not want:
            return 0
        if not buffers:
            return -EAGAIN if self.writers else 0
        was_full = self.used >= self.max_slots
        total = 0
        try:
            while True:
                buffer = buffers[0]
                data = buffer.data
                start = buffer.start
                size = len(data) - start
                if size <= want:
                    done = out.write(memoryview(data)[start:] if start else data)
                else:
                    done = out.write(memoryview(data)[start : start + want])
                total += done
                if done == size or (buffer.packet and done == want):
                    del buffers[0]
                    self.used -= ((len(data) + PAGE_MASK) >> 12) - (start >> 12)
                else:
                    buffer.start = start + done
                    self.used -= (start + done >> 12) - (start >> 12)
                want -= done
                if not want or buffer.packet or not buffers or done < size:
                    break
        except Fault:
            if not total:
                raise
        if was_full and self.used < self.max_slots:
            self.wake_writers()
        return total

    def write(self, data: InputBuffer, packets: bool = False) -> int:
        """Take what fits of ``data``; -EAGAIN when that is nothing. Up to a page goes in whole or not at all."""
        count = data.remaining
        if not count:
            return 0
        if not self.readers:
            return -EPIPE
        buffers = self.buffers
        taken = 0
        if buffers:
            part = count & PAGE_MASK
            last = buffers[-1]
            if part and last.mergeable and part <= -len(last.data) & PAGE_MASK:
                piece = data.read(part)
                if type(last.data) is bytes:
                    last.data = bytearray(last.data)
                last.data += piece
                taken = len(piece)
                if taken < part or taken == count:
                    self.wake_readers()
                    return taken
        free = self.max_slots - self.used
        if free > 0:
            if packets:
                taken += self._write_packets(data, free)
            else:
                try:
                    wanted = min(data.remaining, free << 12)
                    piece = data.read(wanted)
                    if len(piece) < wanted:
                        # Linux fills page by page, and leaves out the page that it could not fill.
                        piece = piece[: len(piece) & ~PAGE_MASK]
                        if not piece:
                            raise Fault
                except Fault:
                    if not taken:
                        raise
                    piece = b""
                if piece:
                    buffers.append(PipeBuffer(piece))
                    self.used += (len(piece) + PAGE_MASK) >> 12
                    taken += len(piece)
        self.wake_readers()  # Linux tells edge-triggered epolls of a vain attempt as well
        return taken or -EAGAIN

    def _write_packets(self, data: InputBuffer, free: int) -> int:
        taken = 0
        try:
            while free and data.remaining:
                piece = data.read(PAGE_SIZE)
                self.buffers.append(PipeBuffer(piece, True, False))
                self.used += 1
                free -= 1
                taken += len(piece)
        except Fault:
            if not taken:
                raise
        return taken

    # -- splicing -----------------------------------------------------------------------------------------------------------

    def take(self, limit: int) -> bytes:
        """Up to ``limit`` bytes off the front, for splice; never past a packet."""
        out = BytesOutputBuffer(limit)
        self.read(out)
        return bytes(out.data)

    def put_back(self, data: bytes) -> None:
        """The end of what :meth:`take` gave could not be delivered: it is the front again."""
        if data:
            buffer = PipeBuffer(data, mergeable=False)
            self.buffers.appendleft(buffer)
            self.used += buffer.slots
            self.wake_readers()

    def insert(self, data: bytes) -> None:
        """Splice pages in at the end; nothing is merged into them. The caller has looked for room."""
        if data:
            buffer = PipeBuffer(data, mergeable=False)
            self.buffers.append(buffer)
            self.used += buffer.slots
            self.wake_readers()

    def peek(self, limit: int) -> bytes:
        """The first ``limit`` bytes, left where they are (tee)."""
        pieces = []
        for buffer in self.buffers:
            piece = bytes(memoryview(buffer.data)[buffer.start : buffer.start + limit])
            pieces.append(piece)
            limit -= len(piece)
            if not limit:
                break
        return b"".join(pieces)

    def resize(self, task: Task, size: int) -> int:
        """F_SETPIPE_SZ: capacity rounded up to a power of two of pages. Errors: EINVAL, EPERM, EBUSY (more is in use)."""
        if size > 1 << 31:
            raise Errno(EINVAL)
        slots = 1 << max(0, (size - 1) >> 12).bit_length()
        most = task.kernel.expando.get(Tunables).get("fs.pipe-max-size")
        if slots > self.max_slots and slots * PAGE_SIZE > most and not task.credentials.has_capability(CAP_SYS_RESOURCE):
            raise Errno(EPERM)
        if slots < self.used:
            raise Errno(EBUSY)
        grown = self.used >= self.max_slots
        self.max_slots = slots
        if grown and self.used < slots:
            self.wake_writers()
        return slots * PAGE_SIZE

    # -- ends ------------------------------------------------------------------------------------------------------------

    def add_end(self, access: int) -> None:
        """Count an opened end (``access``: O_RDONLY, O_WRONLY or O_RDWR)."""
        if access != O_WRONLY:
            self.readers += 1
            self.reader_opens += 1
        if access != O_RDONLY:
            self.writers += 1
            self.writer_opens += 1

    def remove_end(self, access: int) -> None:
        """An end was closed; those who stay hear of it when it was the last of its kind."""
        if access != O_WRONLY:
            self.readers -= 1
        if access != O_RDONLY:
            self.writers -= 1
        if not self.readers and not self.writers:
            self.buffers.clear()
            self.used = 0
        elif not self.readers or not self.writers:
            for queue in (self.read_queue, self.write_queue, self.both_queue):
                if queue is not None:
                    queue.notify(ENDS)


class PipeOps(FileOps):
    """One open end. A fifo opened for reading with O_NONBLOCK shows no hang-up until a writer has come and gone."""

    seekable = False
    always_ready = False
    whole_writes: ClassVar[bool] = True

    def __init__(self, pipe: Pipe, access: int) -> None:
        self.pipe = pipe
        self.access = access
        self.opens_seen = -1  # writer_opens at a non-blocking open without writers; -1: show every hang-up
        pipe.add_end(access)

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> int:
        pipe = self.pipe
        buffers = pipe.buffers
        if not buffers:
            # What a reader that will block finds: no call more than needed.
            return -EAGAIN if pipe.writers and out.remaining else 0
        if pipe.used == 1 < pipe.max_slots:
            # The usual short read of all there is. A partial buffer begins elsewhere.
            buffer = buffers[0]
            data = buffer.data
            size = len(data)
            if not buffer.start and size <= out.remaining:
                done = out.write(data)
                if done == size:
                    buffers.clear()
                    pipe.used = 0
                else:
                    buffer.start = done
                return done
        return pipe.read(out)

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> int:
        pipe = self.pipe
        count = data.remaining
        if not pipe.buffers and 0 < count <= PAGE_SIZE and pipe.readers and not file.flags & O_DIRECT:
            # The usual short write into an empty pipe.
            piece = data.read()
            if len(piece) < count:
                return -EFAULT
            buffer = pipe.short_write
            buffer.data = piece
            buffer.start = 0
            pipe.buffers.append(buffer)
            pipe.used = 1
            pipe.read_queue.notify(IN)
            if pipe.both_queue is not None:
                pipe.both_queue.notify(IN)
            return count
        return pipe.write(data, bool(file.flags & O_DIRECT))

    def query_events(self, file: FileObject) -> int:
        pipe = self.pipe
        events = 0
        if self.access != O_WRONLY:
            if pipe.buffers:
                events = IN
            if not pipe.writers and pipe.writer_opens != self.opens_seen:
                events |= POLLHUP
        if self.access != O_RDONLY:
            if pipe.used < pipe.max_slots:
                events |= OUT
            if not pipe.readers:
                events |= POLLERR
        return events

    def wait_queue(self, file: FileObject) -> WaitQueue:
        pipe = self.pipe
        if self.access == O_RDONLY:
            return pipe.read_queue
        if self.access == O_WRONLY:
            return pipe.write_queue
        if pipe.both_queue is None:
            pipe.both_queue = WaitQueue()
        return pipe.both_queue

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        if request == FIONREAD:
            task.user.store_u32(UserAddress(argument), self.pipe.length)
            return 0
        return super().ioctl(file, task, request, argument)

    def fcntl(self, file: FileObject, task: Task, command: int, argument: int) -> Result:
        if command == F_GETPIPE_SZ:
            return self.pipe.max_slots * PAGE_SIZE
        if command == F_SETPIPE_SZ:
            return self.pipe.resize(task, argument & 0xFFFFFFFF)
        return super().fcntl(file, task, command, argument)

    def close(self, file: FileObject) -> None:
        self.pipe.remove_end(self.access)


def open_fifo(task: Task, node: FsNode, flags: int) -> PipeOps | Awaitable[PipeOps]:
    """Open a fifo's node (``man 7 fifo``); an awaitable when the other end is not open yet.

    Errors: ENXIO (O_WRONLY|O_NONBLOCK and no reader).
    """
    if isinstance(node.ops, PipeNodeOps):
        return node.ops.create_file_ops(node, task, flags)
    pipe: Pipe = node.slot(Pipe, Pipe)
    access = flags & O_ACCMODE
    nonblocking = flags & O_NONBLOCK
    if access == O_WRONLY and nonblocking and not pipe.readers:
        raise Errno(ENXIO)
    before = pipe.reader_opens, pipe.writer_opens
    ops = PipeOps(pipe, access)
    pipe.open_queue.notify()
    if access == O_RDONLY and not pipe.writers:
        if not nonblocking:
            return _await_partner(ops, *before)
        ops.opens_seen = pipe.writer_opens
    elif access == O_WRONLY and not pipe.readers:
        return _await_partner(ops, *before)
    return ops


async def _await_partner(ops: PipeOps, reader_opens: int, writer_opens: int) -> PipeOps:
    pipe = ops.pipe
    try:
        while pipe.writer_opens == writer_opens if ops.access == O_RDONLY else pipe.reader_opens == reader_opens:
            await pipe.open_queue.wait()
    except BaseException:
        pipe.remove_end(ops.access)
        raise
    return ops


class PipeNodeOps(FsNodeOps):
    """The node of pipe(2); opening it again through /proc/PID/fd gives another end, and never waits."""

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> PipeOps:
        pipe: Pipe = node.slot(Pipe, Pipe)
        return PipeOps(pipe, flags & O_ACCMODE)

    def dynamic_name(self, node: FsNode) -> bytes:
        return b"pipe:[%d]" % node.ino


_pipe_node_ops = PipeNodeOps()


def new_pipe(kernel: Kernel, flags: int = 0, uid: int = 0, gid: int = 0) -> tuple[FileObject, FileObject]:
    """pipe2: (reading end, writing end). ``flags`` may hold O_NONBLOCK and O_DIRECT."""
    fs = kernel.expando.get(AnonFileSystems).pipes
    node = FsNode(fs, fs.new_ino(), S_IFIFO | 0o600, _pipe_node_ops, uid=uid, gid=gid)
    pipe: Pipe = node.slot(Pipe, Pipe)
    status = flags & (O_NONBLOCK | O_DIRECT)
    return (
        FileObject(PipeOps(pipe, O_RDONLY), node, O_RDONLY | (flags & O_NONBLOCK)),
        FileObject(PipeOps(pipe, O_WRONLY), node, O_WRONLY | status),
    )


def pipe_of(file: FileObject) -> Pipe | None:
    """The pipe behind a description, for splice; None for other files."""
    ops = file.ops
    return ops.pipe if isinstance(ops, PipeOps) else None


__all__ = ["IN", "OUT", "Pipe", "PipeBuffer", "PipeOps", "new_pipe", "open_fifo", "pipe_of"]
