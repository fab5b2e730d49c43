"""Reading and writing open files: read, write, pread, pwrite, lseek, and what the vector forms (:mod:`vector_io`) share with them.

The plain functions are the hot path: one attempt, and its result when it needs no wait. Otherwise they return a coroutine that goes on where the attempt
stopped. ``FileOps.read`` and ``write`` never advance the file's offset: that is done here, for seekable files.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from polynix.addrspace._usercopy import Fault, UserAddress, UserInput, UserOutput
from polynix.kernelproc.blocked_call import BlockedCall
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals.send import send_to_task
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Offset, Size, UInt
from polynix.kernelproc.uapi.errno import EAGAIN, EBADF, EFBIG, EINVAL, EPIPE, ESPIPE
from polynix.kernelproc.uapi.fcntl import (
    O_ACCMODE,
    O_APPEND,
    O_DSYNC,
    O_NONBLOCK,
    O_PATH,
    O_RDWR,
    O_WRONLY,
    SEEK_MAX,
)
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from polynix.kernelproc.uapi.resource import RLIM_INFINITY, RLIMIT_FSIZE
from polynix.kernelproc.uapi.signal import SIGPIPE, SIGXFSZ
from polynix.kernelproc.uapi.stat import S_IFMT, S_IFREG, S_ISGID, S_ISUID
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.attributes import remove_privileges
from polynix.kernelproc.vfs.locks import OFFSET_MAX

if TYPE_CHECKING:
    from polynix.kernelproc.blocked_call import CallResult
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result
    from polynix.kernelproc.wait_queue import WaitQueue

# An access mode with bit 0 set (O_WRONLY, or 3: neither) can't be read from.
UNREADABLE: Final = O_WRONLY | O_PATH
_WRITING: Final = O_ACCMODE | O_PATH  # the bits that say whether it can be written, and their good values:
_WRITABLE: Final = frozenset((O_WRONLY, O_RDWR))
_TROUBLE: Final = POLLERR | POLLHUP | POLLNVAL


# -- reading ---------------------------------------------------------------------------------------------------------------


@syscall()
def read(task: Task, fd: FdNumber, buffer: UserAddress, count: Size) -> CallResult:
    """man 2 read."""
    file = task.files.files.get(fd)
    if file is None or file.flags & UNREADABLE:
        return -EBADF
    ops = file.ops
    out = UserOutput(task.user, buffer, count)
    offset = file.offset
    result = ops.read(file, offset, out)
    if type(result) is int:
        if result > 0:
            if ops.seekable:
                file.offset = offset + result
                if fsnotify.watched:
                    fsnotify.accessed(file)
            return result
        if result != -EAGAIN or file.flags & O_NONBLOCK:
            return result
        queue = ops.wait_queue(file)
        if queue is not None:
            return BlockedRead(file, offset, out, queue)
    return _read_on(file, offset, out, result, ops.seekable)


class BlockedRead(BlockedCall):
    """A read that waits for something to read; it keeps the description alive when another thread closes its descriptor meanwhile."""

    __slots__ = ("file", "offset", "out")
    mask = POLLIN | _TROUBLE

    def __init__(self, file: FileObject, offset: int, out: OutputBuffer, queue: WaitQueue) -> None:
        super().__init__(queue)
        self.file = file
        self.offset = offset
        self.out = out
        file.references += 1

    def attempt(self) -> Result | None:
        file = self.file
        ops = file.ops
        result = ops.read(file, self.offset, self.out)
        if result == -EAGAIN and not file.flags & O_NONBLOCK:
            return None
        if ops.seekable and type(result) is int and result > 0:
            file.offset = self.offset + result
        return result

    def go_on(self, result: Result) -> Coroutine[Any, Any, int]:
        return _read_on(self.file, self.offset, self.out, result, self.file.ops.seekable)

    def end(self) -> None:
        self.file.release()


@syscall()
def pread64(task: Task, fd: FdNumber, buffer: UserAddress, count: Size, offset: Offset) -> Result:
    """man 2 pread."""
    if offset < 0:
        return -EINVAL
    file = task.files.files.get(fd)
    if file is None or file.flags & O_PATH:
        return -EBADF
    ops = file.ops
    if not ops.seekable:
        return -ESPIPE
    if file.flags & O_WRONLY:
        return -EBADF
    out = UserOutput(task.user, buffer, count)
    result = ops.read(file, offset, out)
    if type(result) is int and (result != -EAGAIN or file.flags & O_NONBLOCK):
        if fsnotify.watched and result > 0:
            fsnotify.accessed(file)
        return result
    return _read_on(file, offset, out, result, False)


def read_into(file: FileObject, offset: int, out: OutputBuffer, *, advance: bool, nonblocking: bool | None = None) -> Result:
    """Read from a description that the caller knows to be readable; ``advance`` moves its offset by the count."""
    result = file.ops.read(file, offset, out)
    if type(result) is int:
        if result > 0:
            if advance:
                file.offset = offset + result
            if fsnotify.watched:
                fsnotify.accessed(file)
            return result
        if result != -EAGAIN or (file.nonblocking if nonblocking is None else nonblocking):
            return result
    elif nonblocking:
        _drop(result)
        return -EAGAIN
    return _read_on(file, offset, out, result, advance)


async def _read_on(file: FileObject, offset: int, out: OutputBuffer, result: Result, advance: bool) -> int:
    # The reference keeps the description alive when another thread closes its descriptor meanwhile.
    file.references += 1
    try:
        while True:
            if type(result) is not int:
                result = await result  # type: ignore[misc]
            if result != -EAGAIN or file.flags & O_NONBLOCK:
                break
            queue = file.ops.wait_queue(file)
            if queue is None:
                break
            await queue.wait(POLLIN | _TROUBLE)
            result = file.ops.read(file, offset, out)
        assert isinstance(result, int)
        if result > 0 and advance:
            file.offset = offset + result
        if result > 0 and fsnotify.watched:
            fsnotify.accessed(file)
        return result
    finally:
        file.release()


def _drop(result: Result) -> None:
    # An operation that would have to wait is not started.
    close = getattr(result, "close", None)
    if close is not None:
        close()


# -- writing ---------------------------------------------------------------------------------------------------------------


@syscall()
def write(task: Task, fd: FdNumber, buffer: UserAddress, count: Size) -> Result:
    """man 2 write."""
    file = task.files.files.get(fd)
    if file is None or file.flags & _WRITING not in _WRITABLE:
        return -EBADF
    data = UserInput(task.user, buffer, count)
    ops = file.ops
    if ops.seekable or file.flags & O_DSYNC:
        return write_from(task, file, file.offset, data, advance=ops.seekable)
    result = ops.write(file, 0, data)
    if result == count:
        return count
    return _after_attempt(task, file, 0, data, result)


@syscall()
def pwrite64(task: Task, fd: FdNumber, buffer: UserAddress, count: Size, offset: Offset) -> Result:
    """man 2 pwrite. As on Linux, O_APPEND appends whatever the offset."""
    if offset < 0:
        return -EINVAL
    file = task.files.files.get(fd)
    if file is None or file.flags & O_PATH:
        return -EBADF
    if not file.ops.seekable:
        return -ESPIPE
    if not is_writable(file.flags):
        return -EBADF
    return write_from(task, file, offset, UserInput(task.user, buffer, count), advance=False)


def is_writable(flags: int) -> bool:
    """Whether a description with these flags was opened for writing."""
    return flags & _WRITING in _WRITABLE


def write_from(
    task: Task,
    file: FileObject,
    offset: int,
    data: InputBuffer,
    *,
    advance: bool,
    append: bool | None = None,
    nonblocking: bool | None = None,
    sync: bool = False,
) -> Result:
    """Write to a description that the caller knows to be writable, with RLIMIT_FSIZE, O_APPEND, O_SYNC and SIGPIPE.

    ``append`` and ``nonblocking`` override the description's flags; ``advance`` moves its offset. Errors: EFBIG (with SIGXFSZ), EPIPE (with SIGPIPE).
    """
    flags = file.flags
    node = file.node
    if node.mode & S_IFMT == S_IFREG:
        if flags & O_APPEND if append is None else append:
            offset = node.refreshed_size()
        limit = task.group.limits.soft(RLIMIT_FSIZE)
        if data.remaining and (limit != RLIM_INFINITY or offset + data.remaining > OFFSET_MAX):
            data = _limited(task, offset, data, min(limit, OFFSET_MAX))
        if node.mode & (S_ISUID | S_ISGID):
            remove_privileges(task, node)
    result = file.ops.write(file, offset, data)
    return _after_attempt(task, file, offset, data, result, advance, nonblocking, sync or bool(flags & O_DSYNC))


def _after_attempt(
    task: Task,
    file: FileObject,
    offset: int,
    data: InputBuffer,
    result: Result,
    advance: bool = False,
    nonblocking: bool | None = None,
    sync: bool = False,
) -> Result:
    """What follows the first attempt at a write: done, or a wait and more attempts."""
    if type(result) is int and not sync:
        if result > 0:
            if advance:
                file.offset = offset + result
            if fsnotify.watched:
                fsnotify.modified(file)
            if not file.ops.whole_writes or not data.remaining or (file.nonblocking if nonblocking is None else nonblocking):
                return result
        elif result != -EAGAIN or (file.nonblocking if nonblocking is None else nonblocking):
            if result == -EPIPE:
                send_to_self(task, SIGPIPE)
            return result
    elif nonblocking and type(result) is not int:
        _drop(result)
        return -EAGAIN
    return _write_on(task, file, offset, data, result, advance, nonblocking, sync)


async def _write_on(task: Task, file: FileObject, offset: int, data: InputBuffer, result: Result, advance: bool, nonblocking: bool | None, sync: bool) -> int:
    file.references += 1
    ops = file.ops
    total = 0
    try:
        while True:
            if type(result) is not int:
                result = await result  # type: ignore[misc]
            assert isinstance(result, int)
            if result > 0:
                total += result
                if not ops.whole_writes or not data.remaining:
                    break
            elif result != -EAGAIN:
                break
            if file.nonblocking if nonblocking is None else nonblocking:
                break
            if result == -EAGAIN:
                queue = ops.wait_queue(file)
                if queue is None:
                    break
                await queue.wait(POLLOUT | _TROUBLE)
            result = ops.write(file, offset + total, data)
    except (Errno, Fault):
        # An interruption or a fault after some bytes went out gives their count.
        if not total:
            raise
    finally:
        if total and advance:
            file.offset = offset + total
        if total and fsnotify.watched:
            fsnotify.modified(file)
        file.release()
    if result == -EPIPE:
        send_to_self(task, SIGPIPE)
    assert isinstance(result, int)
    if total and (sync or file.flags & O_DSYNC):
        synced = ops.fsync(file, True)
        if type(synced) is not int:
            synced = await synced  # type: ignore[misc]
        if synced < 0 and synced != -EINVAL:
            return synced
    return total or result


def send_to_self(task: Task, signo: int) -> None:
    """The signal that a system call earns its caller: SIGPIPE, SIGXFSZ."""
    send_to_task(task, SigInfo.from_user(task, signo))


def _limited(task: Task, offset: int, data: InputBuffer, limit: int) -> InputBuffer:
    if offset >= limit:
        if limit < OFFSET_MAX:
            send_to_self(task, SIGXFSZ)
        raise Errno(EFBIG)
    room = limit - offset
    if data.remaining > room:
        data.truncate(room)
    return data


# -- position --------------------------------------------------------------------------------------------------------------


@syscall()
def lseek(task: Task, fd: FdNumber, offset: Offset, whence: UInt) -> int:
    """man 2 lseek."""
    file = task.files.get_io(fd)
    if whence > SEEK_MAX:
        return -EINVAL
    position = file.ops.seek(file, offset, whence)
    file.offset = position
    return position
