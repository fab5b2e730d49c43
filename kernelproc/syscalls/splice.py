"""sendfile, splice, tee, vmsplice: moving bytes between files without passing through the caller's memory.

The bytes are copied through the kernel, so pages are never shared between a pipe and a file or its giver; man pages allow that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.file import read_into, send_to_self, write_from
from polynix.kernelproc.syscalls.iovec import MAX_RW_COUNT, import_iovec
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Size, ULong
from polynix.kernelproc.uapi.errno import EAGAIN, EBADF, EINVAL, EPIPE, ESPIPE
from polynix.kernelproc.uapi.fcntl import (
    O_APPEND,
    O_NONBLOCK,
    SPLICE_F_GIFT,
    SPLICE_F_MORE,
    SPLICE_F_MOVE,
    SPLICE_F_NONBLOCK,
)
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT
from polynix.kernelproc.uapi.signal import SIGPIPE
from polynix.kernelproc.uapi.stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer, UserInputBuffer, UserOutputBuffer
from polynix.kernelproc.vfs.pipe import PAGE_SIZE, Pipe, pipe_of

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result

_KNOWN = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT
_CHUNK = 1 << 18  # bytes that one step of sendfile moves
_SPLICEABLE = (S_IFREG, S_IFCHR, S_IFBLK, S_IFSOCK, S_IFIFO)


async def _finish(result: Result) -> int:
    return result if isinstance(result, int) else await result


def _spliceable(file: FileObject) -> bool:
    """Whether Linux has splice operations for it: not for directories, eventfd and its like."""
    return file.node.mode & S_IFMT in _SPLICEABLE


class _Position:
    """Where in a file to read or write: at an offset of the guest's memory, or the description's own."""

    def __init__(self, task: Task, file: FileObject, address: UserAddress) -> None:
        self.task = task
        self.file = file
        self.address = address
        self.offset = task.user.load_i64(address) if address else file.offset
        if self.offset < 0:
            raise Errno(EINVAL)

    def advance(self, count: int) -> None:
        self.offset += count

    def store(self) -> None:
        if self.address:
            self.task.user.store_i64(self.address, self.offset)
        elif self.file.ops.seekable:
            self.file.offset = self.offset


# -- sendfile --------------------------------------------------------------------------------------------------------------


@syscall()
async def sendfile(task: Task, out_fd: FdNumber, in_fd: FdNumber, offset: UserAddress, count: Size) -> int:
    """man 2 sendfile."""
    source = task.files.get_io(in_fd)
    if not source.readable:
        raise Errno(EBADF)
    if offset:
        position = _Position(task, source, offset)
        if not source.ops.seekable:
            raise Errno(ESPIPE)
    else:
        position = _Position(task, source, offset)
    target = task.files.get_io(out_fd)
    if not target.writable:
        raise Errno(EBADF)
    if not source.ops.seekable or not _spliceable(source) or not _spliceable(target) or target.flags & O_APPEND:
        raise Errno(EINVAL)
    count = min(count, MAX_RW_COUNT)
    pipe = pipe_of(target)
    total = 0
    source.retain()
    target.retain()
    try:
        if pipe is not None:
            total = await _file_to_pipe(task, position, pipe, count, bool(target.flags & O_NONBLOCK))
        else:
            while total < count:
                moved = await _copy(task, position, target, min(count - total, _CHUNK))
                if moved <= 0:
                    total = total or moved
                    break
                total += moved
    except Errno:
        if not total:
            raise
    finally:
        if total > 0:
            position.store()
        source.release()
        target.release()
    return total


async def _copy(task: Task, position: _Position, target: FileObject, count: int) -> int:
    """One step from a file to another; what the target does not take is read again next time."""
    chunk = BytesOutputBuffer(count)
    got = await _finish(read_into(position.file, position.offset, chunk, advance=False))
    if got <= 0:
        return got
    result = await _finish(write_from(task, target, target.offset, BytesInputBuffer(chunk.data), advance=target.ops.seekable))
    if result > 0:
        position.advance(result)
    return result


# -- splice ----------------------------------------------------------------------------------------------------------------


@syscall()
async def splice(task: Task, fd_in: FdNumber, off_in: UserAddress, fd_out: FdNumber, off_out: UserAddress, length: Size, flags: Flags) -> int:
    """man 2 splice."""
    if not length:
        return 0
    if flags & ~_KNOWN:
        raise Errno(EINVAL)
    source = task.files.get_io(fd_in)
    target = task.files.get_io(fd_out)
    if not source.readable or not target.writable:
        raise Errno(EBADF)
    length = min(length, MAX_RW_COUNT)
    pipe_in, pipe_out = pipe_of(source), pipe_of(target)
    nonblocking = bool(flags & SPLICE_F_NONBLOCK)
    source.retain()
    target.retain()
    try:
        if pipe_in is not None and pipe_out is not None:
            if off_in or off_out:
                raise Errno(ESPIPE)
            if pipe_in is pipe_out:
                raise Errno(EINVAL)
            nonblocking = nonblocking or bool((source.flags | target.flags) & O_NONBLOCK)
            return await _pipe_to_pipe(task, pipe_in, pipe_out, length, nonblocking)
        if (off_in and pipe_in is not None) or (off_out and pipe_out is not None):
            raise Errno(ESPIPE)
        if (off_in and not source.ops.seekable) or (off_out and not target.ops.seekable):
            raise Errno(EINVAL)
        if not _spliceable(source) or not _spliceable(target):
            raise Errno(EINVAL)
        if pipe_in is not None:
            if target.flags & O_APPEND:
                raise Errno(EINVAL)
            position = _Position(task, target, off_out)
            moved = await _pipe_to_file(task, pipe_in, position, length, nonblocking or bool(source.flags & O_NONBLOCK))
        elif pipe_out is not None:
            position = _Position(task, source, off_in)
            moved = await _file_to_pipe(task, position, pipe_out, length, nonblocking or bool(target.flags & O_NONBLOCK))
        elif S_IFIFO in (source.node.mode & S_IFMT, target.node.mode & S_IFMT):
            # A pipe of the host, inherited by the container: splice as if it were ours.
            position = _Position(task, source, off_in)
            moved = await _copy(task, position, target, min(length, 16 * PAGE_SIZE))
        else:
            raise Errno(EINVAL)
        if moved > 0:
            position.store()
        return moved
    finally:
        source.release()
        target.release()


async def _wait_for_data(pipe: Pipe, nonblocking: bool) -> bool:
    """False at the end: nothing is there and nobody can write. Errors: EAGAIN."""
    while not pipe.buffers:
        if not pipe.writers:
            return False
        if nonblocking:
            raise Errno(EAGAIN)
        await pipe.read_queue.wait(POLLIN | POLLHUP | POLLERR)
    return True


async def _wait_for_space(task: Task, pipe: Pipe, nonblocking: bool) -> None:
    """Errors: EPIPE (with SIGPIPE), EAGAIN."""
    while True:
        if not pipe.readers:
            send_to_self(task, SIGPIPE)
            raise Errno(EPIPE)
        if pipe.free_slots > 0:
            return
        if nonblocking:
            raise Errno(EAGAIN)
        await pipe.write_queue.wait(POLLOUT | POLLHUP | POLLERR)


async def _file_to_pipe(task: Task, position: _Position, pipe: Pipe, length: int, nonblocking: bool) -> int:
    await _wait_for_space(task, pipe, nonblocking)
    out = BytesOutputBuffer(min(length, pipe.free_slots * PAGE_SIZE))
    got = await _finish(read_into(position.file, position.offset, out, advance=False, nonblocking=nonblocking or None))
    if got > 0:
        pipe.insert(bytes(out.data))
        position.advance(got)
    return got


async def _pipe_to_file(task: Task, pipe: Pipe, position: _Position, length: int, nonblocking: bool) -> int:
    total = 0
    target = position.file
    while total < length:
        if not pipe.buffers and (total or not await _wait_for_data(pipe, nonblocking)):
            break
        data = pipe.take(length - total)
        rest = BytesInputBuffer(data)
        try:
            result = await _finish(write_from(task, target, position.offset, rest, advance=False))
        except Errno:
            pipe.put_back(data)
            if total:
                break
            raise
        if result < len(data):
            pipe.put_back(data[max(result, 0) :])
        if result <= 0:
            return total or result
        position.advance(result)
        total += result
        if result < len(data):
            break
    return total


async def _pipe_to_pipe(task: Task, source: Pipe, target: Pipe, length: int, nonblocking: bool) -> int:
    if not await _wait_for_data(source, nonblocking):
        return 0
    await _wait_for_space(task, target, nonblocking)
    total = 0
    while total < length and source.buffers and target.free_slots > 0:
        data = source.take(min(length - total, target.free_slots * PAGE_SIZE))
        target.insert(data)
        total += len(data)
    return total


@syscall()
async def tee(task: Task, fd_in: FdNumber, fd_out: FdNumber, length: Size, flags: Flags) -> int:
    """man 2 tee."""
    if flags & ~_KNOWN:
        raise Errno(EINVAL)
    if not length:
        return 0
    source = task.files.get_io(fd_in)
    target = task.files.get_io(fd_out)
    if not source.readable or not target.writable:
        raise Errno(EBADF)
    pipe_in, pipe_out = pipe_of(source), pipe_of(target)
    if pipe_in is None or pipe_out is None or pipe_in is pipe_out:
        raise Errno(EINVAL)
    nonblocking = bool(flags & SPLICE_F_NONBLOCK or (source.flags | target.flags) & O_NONBLOCK)
    source.retain()
    target.retain()
    try:
        if not await _wait_for_data(pipe_in, nonblocking):
            return 0
        await _wait_for_space(task, pipe_out, nonblocking)
        data = pipe_in.peek(min(length, pipe_out.free_slots * PAGE_SIZE))
        pipe_out.insert(data)
        return len(data)
    finally:
        source.release()
        target.release()


@syscall()
async def vmsplice(task: Task, fd: FdNumber, iov: UserAddress, count: ULong, flags: Flags) -> int:
    """man 2 vmsplice: memory into a pipe's writing end, or out of its reading end."""
    if flags & ~_KNOWN:
        raise Errno(EINVAL)
    file = task.files.get_io(fd)
    pipe = pipe_of(file)
    if pipe is None:
        raise Errno(EBADF)
    buffers = import_iovec(task, iov, count)
    nonblocking = bool(flags & SPLICE_F_NONBLOCK)
    file.retain()
    try:
        if file.writable:
            data = UserInputBuffer(task.user, buffers)
            if not data.remaining:
                return 0
            await _wait_for_space(task, pipe, nonblocking)
            piece = data.read(pipe.free_slots * PAGE_SIZE)
            pipe.insert(piece)
            return len(piece)
        out = UserOutputBuffer(task.user, buffers)
        if not out.remaining or not await _wait_for_data(pipe, nonblocking):
            return 0
        return pipe.read(out)
    finally:
        file.release()
