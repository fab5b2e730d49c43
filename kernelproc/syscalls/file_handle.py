"""name_to_handle_at, open_by_handle_at: files by number. No file system here hands numbers out, as Linux's overlay doesn't."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_DAC_READ_SEARCH
from polynix.kernelproc.uapi.errno import EINVAL, EOPNOTSUPP, EPERM, ESTALE
from polynix.kernelproc.uapi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, MAX_HANDLE_SZ
from polynix.kernelproc.uapi.magic import TMPFS_MAGIC
from polynix.kernelproc.uapi.structs import file_handle
from polynix.kernelproc.vfs.lookup import lookup

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


@syscall()
def name_to_handle_at(task: Task, dir_fd: FdNumber, path: UserAddress, _handle: UserAddress, _mount_id: UserAddress, flags: Flags) -> int:
    """man 2 name_to_handle_at"""
    if flags & ~(AT_EMPTY_PATH | AT_SYMLINK_FOLLOW):
        raise Errno(EINVAL)
    place = lookup(task, dir_fd, task.read_path(path), follow=bool(flags & AT_SYMLINK_FOLLOW), empty_path=bool(flags & AT_EMPTY_PATH))
    if place.node.fs.ops.magic == TMPFS_MAGIC:
        track_stub("name_to_handle_at of a tmpfs")
    raise Errno(EOPNOTSUPP)


@syscall()
def open_by_handle_at(task: Task, mount_fd: FdNumber, handle: UserAddress, _flags: Flags) -> int:
    """man 2 open_by_handle_at: there can be no good handle."""
    if not task.credentials.has_capability(CAP_DAC_READ_SEARCH):
        raise Errno(EPERM)
    if mount_fd != AT_FDCWD:
        task.files.get(mount_fd)
    size = file_handle.unpack(task.copy_in(handle, file_handle.SIZE)).handle_bytes
    if not 0 < size <= MAX_HANDLE_SZ:
        raise Errno(EINVAL)
    task.copy_in(handle + file_handle.SIZE, size)
    raise Errno(ESTALE)
