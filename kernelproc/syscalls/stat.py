"""Looking at what a path means: the stat family, access, readlink, statfs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Mode, UserAddress
from polynix.kernelproc.uapi.errno import EACCES, EFAULT, EINVAL, ENOENT, EROFS
from polynix.kernelproc.uapi.fcntl import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_STATX_SYNC_TYPE,
    AT_SYMLINK_NOFOLLOW,
)
from polynix.kernelproc.uapi.mount import MS_NOEXEC
from polynix.kernelproc.vfs.lookup import lookup
from polynix.kernelproc.vfs.path_walk import start_of, walk
from polynix.kernelproc.vfs.permissions import MAY_EXEC, MAY_WRITE, check_access
from polynix.kernelproc.vfs.stat import stat_bytes, statfs_bytes, statx_bytes

if TYPE_CHECKING:
    from polynix.kernelproc.task.credentials import Credentials
    from polynix.kernelproc.task.task import Task

STATX_RESERVED: Final = 0x80000000


def _stat_path(task: Task, dir_fd: int, path: bytes, buffer: UserAddress, follow: bool) -> int:
    _, entry, _, _ = walk(task, start_of(task, dir_fd, path), path, follow)
    task.copy_out(buffer, stat_bytes(entry.node))
    return 0


@syscall("stat")
def stat_(task: Task, path: UserAddress, buffer: UserAddress) -> int:
    """man 2 stat."""
    name = task.read_path(path)
    if not name:
        raise Errno(ENOENT)
    return _stat_path(task, AT_FDCWD, name, buffer, True)


@syscall()
def lstat(task: Task, path: UserAddress, buffer: UserAddress) -> int:
    """man 2 lstat."""
    name = task.read_path(path)
    if not name:
        raise Errno(ENOENT)
    return _stat_path(task, AT_FDCWD, name, buffer, False)


@syscall()
def newfstatat(task: Task, dir_fd: FdNumber, path: UserAddress, buffer: UserAddress, flags: Flags) -> int:
    """man 2 fstatat."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE):
        raise Errno(EINVAL)
    name = task.read_path(path) if path or not flags & AT_EMPTY_PATH else b""
    if name:
        return _stat_path(task, dir_fd, name, buffer, not flags & AT_SYMLINK_NOFOLLOW)
    if not flags & AT_EMPTY_PATH:
        raise Errno(ENOENT)
    node = task.fs.cwd.node if dir_fd == AT_FDCWD else task.files.get(dir_fd).node
    task.copy_out(buffer, stat_bytes(node))
    return 0


@syscall()
def statx(task: Task, dir_fd: FdNumber, path: UserAddress, flags: Flags, mask: Flags, buffer: UserAddress) -> int:
    """man 2 statx."""
    if mask & STATX_RESERVED or flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE:
        raise Errno(EINVAL)
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE):
        raise Errno(EINVAL)
    name = task.read_path(path) if path or not flags & AT_EMPTY_PATH else b""
    place = lookup(task, dir_fd, name, follow=not flags & AT_SYMLINK_NOFOLLOW, empty_path=bool(flags & AT_EMPTY_PATH))
    task.copy_out(buffer, statx_bytes(place.node, place.mount.id, place.entry is place.mount.root))
    return 0


def _real_credentials(task: Task) -> Credentials:
    """What access(2) checks with: the real ids, and the capabilities that they would have."""
    credentials = task.credentials
    if credentials.fsuid == credentials.uid and credentials.fsgid == credentials.gid:
        return credentials
    effective = credentials.cap_permitted if credentials.uid == 0 else 0
    return credentials.replace(fsuid=credentials.uid, fsgid=credentials.gid, cap_effective=effective)


def _access(task: Task, dir_fd: int, path: UserAddress, mode: int, flags: int = 0) -> int:
    if mode & ~7 or flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise Errno(EINVAL)
    name = task.read_path(path)
    saved = task.credentials
    if not flags & AT_EACCESS:
        task.credentials = _real_credentials(task)
    try:
        place = lookup(task, dir_fd, name, follow=not flags & AT_SYMLINK_NOFOLLOW, empty_path=bool(flags & AT_EMPTY_PATH))
        node = place.node
        if mode & MAY_EXEC and node.is_regular and place.mount.flags & MS_NOEXEC:
            raise Errno(EACCES)
        check_access(task.credentials, node, mode)
        if mode & MAY_WRITE and place.mount.read_only and (node.is_regular or node.is_directory or node.is_symlink):
            raise Errno(EROFS)
    finally:
        task.credentials = saved
    return 0


@syscall()
def access(task: Task, path: UserAddress, mode: Mode) -> int:
    """man 2 access."""
    return _access(task, AT_FDCWD, path, mode)


@syscall()
def faccessat(task: Task, dir_fd: FdNumber, path: UserAddress, mode: Mode) -> int:
    """man 2 faccessat: the system call without flags."""
    return _access(task, dir_fd, path, mode)


@syscall()
def faccessat2(task: Task, dir_fd: FdNumber, path: UserAddress, mode: Mode, flags: Flags) -> int:
    """man 2 faccessat."""
    return _access(task, dir_fd, path, mode, flags)


def _readlink(task: Task, dir_fd: int, path: UserAddress, buffer: UserAddress, size: int) -> int:
    if size <= 0:
        raise Errno(EINVAL)
    name = task.read_path(path)
    place = lookup(task, dir_fd, name, follow=False, empty_path=dir_fd != AT_FDCWD)
    node = place.node
    if not node.is_symlink:
        raise Errno(ENOENT if not name else EINVAL)
    target = node.ops.readlink(node, task)[:size]
    if task.user.copy_out(buffer, target) != len(target):
        raise Errno(EFAULT)
    return len(target)


@syscall()
def readlink(task: Task, path: UserAddress, buffer: UserAddress, size: Int) -> int:
    """man 2 readlink."""
    return _readlink(task, AT_FDCWD, path, buffer, size)


@syscall()
def readlinkat(task: Task, dir_fd: FdNumber, path: UserAddress, buffer: UserAddress, size: Int) -> int:
    """man 2 readlinkat; an empty path means the O_PATH descriptor ``dir_fd`` itself."""
    return _readlink(task, dir_fd, path, buffer, size)


@syscall()
def statfs(task: Task, path: UserAddress, buffer: UserAddress) -> int:
    """man 2 statfs."""
    place = lookup(task, AT_FDCWD, task.read_path(path))
    task.copy_out(buffer, statfs_bytes(place.node, place.mount.flags))
    return 0
