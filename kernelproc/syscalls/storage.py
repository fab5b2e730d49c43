"""Sizes and durability of open files: ftruncate, fallocate, fsync and friends, advice, copy_file_range."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.file import read_into, send_to_self, write_from
from polynix.kernelproc.syscalls.iovec import MAX_RW_COUNT
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Offset, Size
from polynix.kernelproc.uapi.errno import EBADF, EFBIG, EINVAL, EISDIR, ENODEV, EOPNOTSUPP, EOVERFLOW, ESPIPE, EXDEV
from polynix.kernelproc.uapi.fcntl import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_UNSHARE_RANGE,
    FALLOC_FL_ZERO_RANGE,
    O_APPEND,
    POSIX_FADV_NOREUSE,
    SYNC_FILE_RANGE_WAIT_AFTER,
    SYNC_FILE_RANGE_WAIT_BEFORE,
    SYNC_FILE_RANGE_WRITE,
)
from polynix.kernelproc.uapi.resource import RLIMIT_FSIZE
from polynix.kernelproc.uapi.signal import SIGXFSZ
from polynix.kernelproc.uapi.stat import S_IFBLK, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.attributes import truncate_node
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from polynix.kernelproc.vfs.locks import OFFSET_MAX

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.ops import Result

_FALLOC_SUPPORTED: Final = (
    FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE
)
_COPY_CHUNK: Final = 1 << 20


def check_new_size(task: Task, node: FsNode, length: int) -> None:
    """Whether the task may make the file ``length`` bytes long. Errors: EFBIG, with SIGXFSZ beyond RLIMIT_FSIZE."""
    if length > node.refreshed_size() and length > task.group.limits.soft(RLIMIT_FSIZE):
        send_to_self(task, SIGXFSZ)
        raise Errno(EFBIG)


@syscall()
def ftruncate(task: Task, fd: FdNumber, length: Offset) -> int:
    """man 2 ftruncate."""
    if length < 0:
        return -EINVAL
    file = task.files.get_io(fd)
    if not file.node.is_regular or not file.writable:
        return -EINVAL
    check_new_size(task, file.node, length)
    truncate_node(task, file.node, length)
    if fsnotify.watched:
        fsnotify.modified(file)
    return 0


@syscall()
def fallocate(task: Task, fd: FdNumber, mode: Flags, offset: Offset, length: Offset) -> int:
    """man 2 fallocate."""
    file = task.files.get_io(fd)
    if offset < 0 or length <= 0:
        return -EINVAL
    if mode & ~_FALLOC_SUPPORTED:
        return -EOPNOTSUPP
    if mode & FALLOC_FL_PUNCH_HOLE and not mode & FALLOC_FL_KEEP_SIZE:
        return -EOPNOTSUPP
    if mode & FALLOC_FL_PUNCH_HOLE and mode & FALLOC_FL_ZERO_RANGE:
        return -EOPNOTSUPP
    exclusive = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)
    if (exclusive and mode != exclusive) or exclusive == FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE:
        return -EINVAL
    if not file.writable:
        return -EBADF
    kind = file.node.mode & S_IFMT
    if kind == S_IFIFO:
        return -ESPIPE
    if kind == S_IFDIR:
        return -EISDIR
    if kind not in (S_IFREG, S_IFBLK):
        return -ENODEV
    if offset + length > OFFSET_MAX:
        return -EFBIG
    if not mode & FALLOC_FL_KEEP_SIZE and not exclusive:
        check_new_size(task, file.node, offset + length)
    file.node.ops.allocate(file.node, mode, offset, length)
    return 0


# -- durability ------------------------------------------------------------------------------------------------------------


@syscall()
def fsync(task: Task, fd: FdNumber) -> Result:
    """man 2 fsync."""
    file = task.files.get_io(fd)
    return _wrap(file.ops.fsync(file, False))


@syscall()
def fdatasync(task: Task, fd: FdNumber) -> Result:
    """man 2 fdatasync."""
    file = task.files.get_io(fd)
    return _wrap(file.ops.fsync(file, True))


def _wrap(result: Result) -> Result:
    """An awaitable that is no coroutine, made one."""
    if type(result) is int or isinstance(result, Coroutine):
        return result

    async def complete() -> int:
        return await result  # type: ignore[no-any-return, misc]

    return complete()


@syscall()
def sync_file_range(task: Task, fd: FdNumber, offset: Offset, length: Offset, flags: Flags) -> Result:
    """man 2 sync_file_range; the whole file's data is written back."""
    file = task.files.get_io(fd)
    if flags & ~(SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER):
        return -EINVAL
    if offset < 0 or length < 0 or offset + length > OFFSET_MAX:
        return -EINVAL
    if file.node.mode & S_IFMT not in (S_IFREG, S_IFBLK, S_IFDIR, S_IFLNK):
        return -ESPIPE
    if flags & SYNC_FILE_RANGE_WAIT_AFTER:
        return _wrap(file.ops.fsync(file, True))
    return 0


@syscall()
def syncfs(task: Task, fd: FdNumber) -> Result:
    """man 2 syncfs."""
    fs = task.files.get_io(fd).node.fs
    return _wrap(fs.ops.sync(fs))


@syscall()
async def sync(task: Task) -> int:
    """man 2 sync: write back every mounted file system; it never fails."""
    done = set()
    for mount in list(task.fs.namespace.mounts):
        fs = mount.fs
        if id(fs) in done:
            continue
        done.add(id(fs))
        try:
            result = fs.ops.sync(fs)
            if type(result) is not int:
                await result  # type: ignore[misc]
        except Errno:
            pass
    return 0


# -- advice ----------------------------------------------------------------------------------------------------------------


@syscall()
def fadvise64(task: Task, fd: FdNumber, offset: Offset, length: Offset, advice: Int) -> int:
    """man 2 posix_fadvise: checked, and nothing to do (the host caches)."""
    file = task.files.get_io(fd)
    if file.node.mode & S_IFMT == S_IFIFO:
        return -ESPIPE
    if length < 0 or not 0 <= advice <= POSIX_FADV_NOREUSE:
        return -EINVAL
    return 0


@syscall()
def readahead(task: Task, fd: FdNumber, offset: Offset, count: Size) -> int:
    """man 2 readahead: checked, and nothing to do (the host reads ahead)."""
    file = task.files.get_io(fd)
    if not file.readable:
        return -EBADF
    if file.node.mode & S_IFMT not in (S_IFREG, S_IFBLK):
        return -EINVAL
    return 0


# -- copying ---------------------------------------------------------------------------------------------------------------


@syscall()
def copy_file_range(task: Task, fd_in: FdNumber, offset_in: UserAddress, fd_out: FdNumber, offset_out: UserAddress, length: Size, flags: Flags) -> Any:
    """man 2 copy_file_range. Both files must be of one file system (EXDEV), as where Linux has no special support."""
    source = task.files.get_io(fd_in)
    target = task.files.get_io(fd_out)
    position_in = _load_offset(task, offset_in) if offset_in else source.offset
    position_out = _load_offset(task, offset_out) if offset_out else target.offset
    if flags:
        return -EINVAL
    if not source.readable or not target.writable or target.flags & O_APPEND:
        return -EBADF
    if source.node.is_directory or target.node.is_directory:
        return -EISDIR
    if not source.node.is_regular or not target.node.is_regular:
        return -EINVAL
    if position_in < 0 or position_out < 0:
        return -EINVAL
    if position_in + length > OFFSET_MAX or position_out + length > OFFSET_MAX:
        return -EOVERFLOW
    if source.node.fs is not target.node.fs:
        return -EXDEV
    length = min(length, MAX_RW_COUNT, max(0, source.node.refreshed_size() - position_in))
    if source.node is target.node and position_in < position_out + length and position_out < position_in + length and length:
        return -EINVAL
    if not length:
        return 0

    async def copy() -> int:
        done = 0
        error: Errno | None = None
        source.references += 1
        target.references += 1
        try:
            while done < length:
                chunk = BytesOutputBuffer(min(_COPY_CHUNK, length - done))
                count = await _complete(read_into(source, position_in + done, chunk, advance=False))
                if count <= 0:
                    done = done or count
                    break
                data = BytesInputBuffer(chunk.data)
                written = await _complete(write_from(task, target, position_out + done, data, advance=False))
                if written <= 0:
                    done = done or written
                    break
                done += written
                if written < count:
                    break
        except Errno as failure:
            error = failure
        finally:
            source.release()
            target.release()
        if done <= 0:
            if error is not None:
                raise error
            return done
        if offset_in:
            task.user.store_u64(offset_in, position_in + done)
        else:
            source.offset = position_in + done
        if offset_out:
            task.user.store_u64(offset_out, position_out + done)
        else:
            target.offset = position_out + done
        return done

    return copy()


async def _complete(result: Result) -> int:
    if type(result) is not int:
        result = await result  # type: ignore[misc]
    return result  # type: ignore[return-value]


def _load_offset(task: Task, address: UserAddress) -> int:
    value = task.user.load_u64(address)
    return value - (1 << 64) if value >> 63 else value
