"""Names: mkdir, mknod, link, symlink, unlink, rmdir, rename, and where a task stands (chdir, chroot, getcwd, umask)."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Mode, Size, UInt, UserAddress
from polynix.kernelproc.uapi.capability import CAP_DAC_READ_SEARCH, CAP_MKNOD, CAP_SYS_CHROOT
from polynix.kernelproc.uapi.errno import EINVAL, ENOENT, ENOTDIR, EPERM, ERANGE
from polynix.kernelproc.uapi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
)
from polynix.kernelproc.vfs.create import make_directory, make_link, make_node, make_symlink, remove, remove_directory
from polynix.kernelproc.vfs.create import rename as rename_name
from polynix.kernelproc.vfs.lookup import lookup, lookup_parent
from polynix.kernelproc.vfs.permissions import MAY_EXEC, check_access

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.namespace import NamespaceNode


def _mkdir(task: Task, dir_fd: int, path: UserAddress, mode: int) -> int:
    parent, name, _ = lookup_parent(task, dir_fd, task.read_path(path))
    make_directory(task, parent, name, mode & 0o1777 & ~task.fs.umask)
    return 0


@syscall()
def mkdir(task: Task, path: UserAddress, mode: Mode) -> int:
    """man 2 mkdir."""
    return _mkdir(task, AT_FDCWD, path, mode)


@syscall()
def mkdirat(task: Task, dir_fd: FdNumber, path: UserAddress, mode: Mode) -> int:
    """man 2 mkdirat."""
    return _mkdir(task, dir_fd, path, mode)


def _mknod(task: Task, dir_fd: int, path: UserAddress, mode: int, dev: int) -> int:
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind == stat.S_IFDIR:
        raise Errno(EPERM)
    if kind not in (stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        raise Errno(EINVAL)
    parent, name, slashes = lookup_parent(task, dir_fd, task.read_path(path))
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and not task.credentials.has_capability(CAP_MKNOD) and not (kind == stat.S_IFCHR and dev == 0):
        raise Errno(EPERM)
    make_node(task, parent, name, kind | (mode & 0o7777 & ~task.fs.umask), dev, slashes)
    return 0


@syscall()
def mknod(task: Task, path: UserAddress, mode: Mode, dev: UInt) -> int:
    """man 2 mknod."""
    return _mknod(task, AT_FDCWD, path, mode, dev)


@syscall()
def mknodat(task: Task, dir_fd: FdNumber, path: UserAddress, mode: Mode, dev: UInt) -> int:
    """man 2 mknodat."""
    return _mknod(task, dir_fd, path, mode, dev)


def _symlink(task: Task, target: UserAddress, dir_fd: int, path: UserAddress) -> int:
    link = task.read_path(target)
    if not link:
        raise Errno(ENOENT)
    parent, name, slashes = lookup_parent(task, dir_fd, task.read_path(path))
    make_symlink(task, parent, name, link, slashes)
    return 0


@syscall()
def symlink(task: Task, target: UserAddress, path: UserAddress) -> int:
    """man 2 symlink."""
    return _symlink(task, target, AT_FDCWD, path)


@syscall()
def symlinkat(task: Task, target: UserAddress, dir_fd: FdNumber, path: UserAddress) -> int:
    """man 2 symlinkat."""
    return _symlink(task, target, dir_fd, path)


def _link(task: Task, old_fd: int, old: UserAddress, new_fd: int, new: UserAddress, flags: int) -> int:
    if flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        raise Errno(EINVAL)
    old_path = task.read_path(old)
    if not old_path and flags & AT_EMPTY_PATH and not task.credentials.has_capability(CAP_DAC_READ_SEARCH):
        raise Errno(ENOENT)
    target = lookup(task, old_fd, old_path, follow=bool(flags & AT_SYMLINK_FOLLOW), empty_path=bool(flags & AT_EMPTY_PATH))
    parent, name, slashes = lookup_parent(task, new_fd, task.read_path(new))
    make_link(task, target, parent, name, slashes)
    return 0


@syscall()
def link(task: Task, old: UserAddress, new: UserAddress) -> int:
    """man 2 link."""
    return _link(task, AT_FDCWD, old, AT_FDCWD, new, 0)


@syscall()
def linkat(task: Task, old_fd: FdNumber, old: UserAddress, new_fd: FdNumber, new: UserAddress, flags: Flags) -> int:
    """man 2 linkat."""
    return _link(task, old_fd, old, new_fd, new, flags)


def _unlink(task: Task, dir_fd: int, path: UserAddress, flags: int) -> int:
    if flags & ~AT_REMOVEDIR:
        raise Errno(EINVAL)
    parent, name, slashes = lookup_parent(task, dir_fd, task.read_path(path))
    if flags & AT_REMOVEDIR:
        remove_directory(task, parent, name)
    else:
        remove(task, parent, name, slashes)
    return 0


@syscall()
def unlink(task: Task, path: UserAddress) -> int:
    """man 2 unlink."""
    return _unlink(task, AT_FDCWD, path, 0)


@syscall()
def rmdir(task: Task, path: UserAddress) -> int:
    """man 2 rmdir."""
    return _unlink(task, AT_FDCWD, path, AT_REMOVEDIR)


@syscall()
def unlinkat(task: Task, dir_fd: FdNumber, path: UserAddress, flags: Flags) -> int:
    """man 2 unlinkat."""
    return _unlink(task, dir_fd, path, flags)


def _rename(task: Task, old_fd: int, old: UserAddress, new_fd: int, new: UserAddress, flags: int) -> int:
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise Errno(EINVAL)
    if flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT):
        raise Errno(EINVAL)
    if flags & RENAME_WHITEOUT and not task.credentials.has_capability(CAP_MKNOD):
        raise Errno(EPERM)
    old_parent, old_name, slashes = lookup_parent(task, old_fd, task.read_path(old))
    new_parent, new_name, new_slashes = lookup_parent(task, new_fd, task.read_path(new))
    rename_name(task, old_parent, old_name, new_parent, new_name, flags, slashes=slashes, new_slashes=new_slashes)
    return 0


@syscall()
def rename(task: Task, old: UserAddress, new: UserAddress) -> int:
    """man 2 rename."""
    return _rename(task, AT_FDCWD, old, AT_FDCWD, new, 0)


@syscall()
def renameat(task: Task, old_fd: FdNumber, old: UserAddress, new_fd: FdNumber, new: UserAddress) -> int:
    """man 2 renameat."""
    return _rename(task, old_fd, old, new_fd, new, 0)


@syscall()
def renameat2(task: Task, old_fd: FdNumber, old: UserAddress, new_fd: FdNumber, new: UserAddress, flags: Flags) -> int:
    """man 2 renameat2."""
    return _rename(task, old_fd, old, new_fd, new, flags)


def change_directory(task: Task, place: NamespaceNode) -> int:
    """Make ``place`` the working directory (chdir, fchdir). Errors: ENOTDIR, EACCES."""
    if not place.node.is_directory:
        raise Errno(ENOTDIR)
    check_access(task.credentials, place.node, MAY_EXEC)
    task.fs.cwd = place
    return 0


@syscall()
def chdir(task: Task, path: UserAddress) -> int:
    """man 2 chdir."""
    return change_directory(task, lookup(task, AT_FDCWD, task.read_path(path)))


@syscall()
def chroot(task: Task, path: UserAddress) -> int:
    """man 2 chroot."""
    place = lookup(task, AT_FDCWD, task.read_path(path))
    if not place.node.is_directory:
        raise Errno(ENOTDIR)
    check_access(task.credentials, place.node, MAY_EXEC)
    if not task.credentials.has_capability(CAP_SYS_CHROOT):
        raise Errno(EPERM)
    task.fs.root = place
    return 0


@syscall()
def getcwd(task: Task, buffer: UserAddress, size: Size) -> int:
    """man 2 getcwd: the length with its NUL."""
    cwd = task.fs.cwd
    if cwd.entry.deleted:
        raise Errno(ENOENT)
    path, reachable = cwd.path_and_reachability(task.fs)
    data = (path if reachable else b"(unreachable)" + path) + b"\0"
    if len(data) > size:
        raise Errno(ERANGE)
    task.copy_out(buffer, data)
    return len(data)


@syscall()
def umask(task: Task, mask: Mode) -> int:
    """man 2 umask."""
    old, task.fs.umask = task.fs.umask, mask & 0o777
    return old
