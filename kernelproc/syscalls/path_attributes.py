"""Changing what a path means: chmod, chown, times, truncate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.storage import check_new_size
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Mode, Offset, Uid
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.errno import EINVAL, EISDIR, ETXTBSY
from polynix.kernelproc.uapi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from polynix.kernelproc.uapi.inotify import IN_ATTRIB, IN_MODIFY
from polynix.kernelproc.uapi.stat import UTIME_NOW, UTIME_OMIT
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.attributes import change_mode, change_owner, change_times, truncate_node
from polynix.kernelproc.vfs.lookup import is_executing, lookup
from polynix.kernelproc.vfs.permissions import MAY_WRITE, check_access

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.namespace import NamespaceNode

_NS: Final = 1_000_000_000


def _writable(task: Task, dir_fd: int, path: bytes, flags: int = 0) -> NamespaceNode:
    """The place whose attributes are to change. Errors: EROFS and those of the walk."""
    place = lookup(task, dir_fd, path, follow=not flags & AT_SYMLINK_NOFOLLOW, empty_path=bool(flags & AT_EMPTY_PATH))
    place.mount.check_writable()
    return place


def _changed(place: NamespaceNode | None, mask: int = IN_ATTRIB) -> int:
    """Tell those who watch; the call's result."""
    if fsnotify.watched and place is not None:
        fsnotify.happened(place.entry, mask)
    return 0


def _chmod(task: Task, dir_fd: int, path: UserAddress, mode: int) -> int:
    place = _writable(task, dir_fd, task.read_path(path))
    change_mode(task, place.node, mode)
    return _changed(place)


@syscall()
def chmod(task: Task, path: UserAddress, mode: Mode) -> int:
    """man 2 chmod."""
    return _chmod(task, AT_FDCWD, path, mode)


@syscall()
def fchmodat(task: Task, dir_fd: FdNumber, path: UserAddress, mode: Mode) -> int:
    """man 2 fchmodat: the system call without flags."""
    return _chmod(task, dir_fd, path, mode)


def _chown(task: Task, dir_fd: int, path: UserAddress, uid: int, gid: int, flags: int) -> int:
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise Errno(EINVAL)
    place = _writable(task, dir_fd, task.read_path(path), flags)
    change_owner(task, place.node, uid, gid)
    return _changed(place)


@syscall()
def chown(task: Task, path: UserAddress, uid: Uid, gid: Uid) -> int:
    """man 2 chown."""
    return _chown(task, AT_FDCWD, path, uid, gid, 0)


@syscall()
def lchown(task: Task, path: UserAddress, uid: Uid, gid: Uid) -> int:
    """man 2 lchown."""
    return _chown(task, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)


@syscall()
def fchownat(task: Task, dir_fd: FdNumber, path: UserAddress, uid: Uid, gid: Uid, flags: Flags) -> int:
    """man 2 fchownat."""
    return _chown(task, dir_fd, path, uid, gid, flags)


def _set_times(task: Task, dir_fd: int, path: UserAddress, times: tuple[int | None, int | None] | None, flags: int) -> int:
    """``times`` in ns, None inside for "leave alone"; None for both now. A null ``path`` means the descriptor."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise Errno(EINVAL)
    if not path and dir_fd != AT_FDCWD:
        if flags & AT_SYMLINK_NOFOLLOW:
            raise Errno(EINVAL)
        file = task.files.get_io(dir_fd)
        if file.name is not None:
            file.name.mount.check_writable()
        node, place = file.node, file.name
    else:
        place = _writable(task, dir_fd, task.read_path(path), flags)
        node = place.node
    if times is None:
        now = node.fs.now_ns()
        change_times(task, node, now, now, to_now=True)
    else:
        change_times(task, node, *times)
    return _changed(place)


def _microseconds(task: Task, address: UserAddress) -> tuple[int | None, int | None] | None:
    """Two struct timeval, or None for a null pointer."""
    if not address:
        return None
    raw = task.copy_in(address, 2 * structs.timeval.SIZE)
    (seconds, micros), (seconds2, micros2) = structs.timeval.FORMAT.iter_unpack(raw)
    if not (0 <= micros < 1_000_000 and 0 <= micros2 < 1_000_000):
        raise Errno(EINVAL)
    return seconds * _NS + micros * 1000, seconds2 * _NS + micros2 * 1000


@syscall()
def utimensat(task: Task, dir_fd: FdNumber, path: UserAddress, times: UserAddress, flags: Flags) -> int:
    """man 2 utimensat."""
    if not times:
        return _set_times(task, dir_fd, path, None, flags)
    raw = task.copy_in(times, 2 * structs.timespec.SIZE)
    pairs = list(structs.timespec.FORMAT.iter_unpack(raw))
    if all(nanos == UTIME_OMIT for _, nanos in pairs):
        return 0
    if all(nanos == UTIME_NOW for _, nanos in pairs):
        return _set_times(task, dir_fd, path, None, flags)
    values: list[int | None] = []
    for seconds, nanos in pairs:
        if nanos == UTIME_OMIT:
            values.append(None)
        elif nanos == UTIME_NOW:
            values.append(task.kernel.clock.realtime_ns())
        elif 0 <= nanos < _NS:
            values.append(seconds * _NS + nanos)
        else:
            raise Errno(EINVAL)
    return _set_times(task, dir_fd, path, (values[0], values[1]), flags)


@syscall()
def futimesat(task: Task, dir_fd: FdNumber, path: UserAddress, times: UserAddress) -> int:
    """man 2 futimesat."""
    return _set_times(task, dir_fd, path, _microseconds(task, times), 0)


@syscall()
def utimes(task: Task, path: UserAddress, times: UserAddress) -> int:
    """man 2 utimes."""
    return _set_times(task, AT_FDCWD, path, _microseconds(task, times), 0)


@syscall()
def utime(task: Task, path: UserAddress, times: UserAddress) -> int:
    """man 2 utime."""
    if not times:
        return _set_times(task, AT_FDCWD, path, None, 0)
    atime, mtime = structs.utimbuf.FORMAT.unpack(task.copy_in(times, structs.utimbuf.SIZE))
    return _set_times(task, AT_FDCWD, path, (atime * _NS, mtime * _NS), 0)


@syscall()
def truncate(task: Task, path: UserAddress, length: Offset) -> int:
    """man 2 truncate."""
    if length < 0:
        raise Errno(EINVAL)
    place = lookup(task, AT_FDCWD, task.read_path(path))
    node = place.node
    if node.is_directory:
        raise Errno(EISDIR)
    if not node.is_regular:
        raise Errno(EINVAL)
    check_access(task.credentials, node, MAY_WRITE)
    place.mount.check_writable()
    if node.mode & 0o111 and is_executing(task.kernel, node):
        raise Errno(ETXTBSY)
    check_new_size(task, node, length)
    truncate_node(task, node, length)
    return _changed(place, IN_MODIFY)
