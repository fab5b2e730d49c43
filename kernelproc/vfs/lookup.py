"""Paths to places and to open files: what the path system calls, exec and /proc build on."""

from __future__ import annotations

import stat
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, EPERM, ETXTBSY
from polynix.kernelproc.uapi.fcntl import (
    O_ACCMODE,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_LARGEFILE,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_PATH,
    O_RDONLY,
    O_TMPFILE,
    O_TRUNC,
)
from polynix.kernelproc.uapi.mount import MS_NODEV, MS_NOEXEC
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.attributes import truncate_at_open
from polynix.kernelproc.vfs.create import create_tmpfile, make_node
from polynix.kernelproc.vfs.dir_entry import DirEntry
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.namespace import NamespaceNode, anonymous_name
from polynix.kernelproc.vfs.ops import FileOps
from polynix.kernelproc.vfs.path_walk import MAXSYMLINKS, check_magic, cross, place_of_fd, start_of, walk
from polynix.kernelproc.vfs.permissions import MAY_EXEC, MAY_READ, MAY_WRITE, check_access, check_found_by_create, check_link_followed, is_owner_or_capable

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.fs_node import FsNode

_NOT_STATUS: Final = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC
_TMPFILE_BIT: Final = O_TMPFILE & ~O_DIRECTORY
_ACCESS: Final = (MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE, MAY_READ | MAY_WRITE)

OpenResult = FileObject | Awaitable[FileObject]


def lookup(task: Task, dir_fd: int, path: bytes, *, follow: bool = True, empty_path: bool = False, resolve: int = 0) -> NamespaceNode:
    """What ``path`` means from directory ``dir_fd`` (AT_FDCWD: the working directory). With ``empty_path`` an empty path means ``dir_fd`` itself.

    Errors: those of the walk; ENOENT for an empty path; EBADF, ENOTDIR of ``dir_fd``.
    """
    if not path:
        if empty_path:
            return place_of_fd(task, dir_fd)
        raise Errno(ENOENT)
    mount, entry, _, _ = walk(task, start_of(task, dir_fd, path), path, follow, False, resolve)
    return NamespaceNode(mount, entry)


def lookup_parent(task: Task, dir_fd: int, path: bytes) -> tuple[NamespaceNode, bytes, bool]:
    """The directory of the last component of ``path``, that component (b"" for "/" itself, or "." or ".."), and whether slashes followed it."""
    if not path:
        raise Errno(ENOENT)
    mount, entry, name, slashes = walk(task, start_of(task, dir_fd, path), path, False, True)
    return NamespaceNode(mount, entry), name, slashes


def begin_open(task: Task, dir_fd: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> OpenResult:
    """open(2) and openat2(2): a new description, or an awaitable of one where opening blocks (a fifo waits for its other end).

    ``flags`` and ``mode`` were checked for unknown bits by the system call; the umask is applied here.
    """
    if not path:
        raise Errno(ENOENT)
    start = start_of(task, dir_fd, path)
    if flags & O_PATH:
        place = _walk_to(task, start, path, flags, resolve)
        if flags & O_DIRECTORY and not place.node.is_directory:
            raise Errno(ENOTDIR)
        return FileObject(PathFileOps(), place.node, flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW), place)
    if flags & O_CREAT:
        if flags & O_DIRECTORY and not flags & _TMPFILE_BIT:
            raise Errno(EINVAL)
        place, created = _find_or_create(task, start, path, flags, mode, resolve)
        return _finish_open(task, place, flags, created)
    place = _walk_to(task, start, path, flags, resolve)
    if flags & _TMPFILE_BIT:
        if not flags & O_DIRECTORY or flags & O_ACCMODE == O_RDONLY:
            raise Errno(EINVAL)
        node = create_tmpfile(task, place, mode, linkable=not flags & O_EXCL)
        name = DirEntry(place.entry, b"#%d" % node.ino, node)
        name.deleted = True
        return _finish_open(task, NamespaceNode(place.mount, name), flags & ~(_TMPFILE_BIT | O_DIRECTORY), True, kept=flags)
    return _finish_open(task, place, flags, False)


def open_exec(task: Task, dir_fd: int, path: bytes, *, follow: bool = True, empty_path: bool = False) -> FileObject:
    """Open a program or an interpreter: execute permission instead of read permission. Errors: EACCES unless a regular file on a mount that allows it."""
    place = lookup(task, dir_fd, path, follow=follow, empty_path=empty_path)
    node = place.node
    if node.is_symlink:
        raise Errno(ELOOP)
    if not node.is_regular or place.mount.flags & MS_NOEXEC:
        raise Errno(EACCES)
    check_access(task.credentials, node, MAY_EXEC)
    return _opened(FileObject(node.ops.create_file_ops(node, task, O_RDONLY), node, O_RDONLY | O_LARGEFILE, place))


def _walk_to(task: Task, start: NamespaceNode, path: bytes, flags: int, resolve: int) -> NamespaceNode:
    mount, entry, _, _ = walk(task, start, path, not flags & O_NOFOLLOW, False, resolve)
    return NamespaceNode(mount, entry)


def _find_or_create(task: Task, start: NamespaceNode, path: bytes, flags: int, mode: int, resolve: int) -> tuple[NamespaceNode, bool]:
    """O_CREAT: the place, made if it was missing. A dangling symbolic link is created through, except with O_EXCL or O_NOFOLLOW."""
    scope = start
    links = 0
    while True:
        mount, directory, name, slashes = walk(task, start, path, False, True, resolve, scope, links)
        if not name or name in (b".", b".."):
            raise Errno(EEXIST if flags & O_EXCL else EISDIR)
        if slashes:
            raise Errno(EISDIR)
        entry = directory.lookup(name)
        if entry.node is None:
            entry = make_node(task, NamespaceNode(mount, directory), name, stat.S_IFREG | (mode & 0o7777 & ~task.fs.umask))
            return NamespaceNode(mount, entry), True
        if flags & O_EXCL:
            raise Errno(EEXIST)
        if entry.mounted is not None:
            mount, entry = cross(mount, entry, resolve)
        if not entry.node.is_symlink:
            check_found_by_create(task, directory.node, entry.node)
            return NamespaceNode(mount, entry), False
        links += 1
        if flags & O_NOFOLLOW or links > MAXSYMLINKS:
            raise Errno(ELOOP)
        check_link_followed(task, directory.node, entry.node)
        target = entry.node.ops.follow(entry.node, task)
        if target is not None:
            check_magic(target, mount, resolve)
            return target, False
        path = entry.node.ops.readlink(entry.node, task)
        if not path:
            raise Errno(ENOENT)
        start = NamespaceNode(mount, directory)


def _finish_open(task: Task, place: NamespaceNode, flags: int, created: bool, *, kept: int = 0) -> OpenResult:
    """Permission, truncation and the file operations of a node that was found. ``kept`` are flags to remember though they are done with."""
    node = place.node
    mount = place.mount
    kind = node.mode & 0o170000
    access = _ACCESS[flags & O_ACCMODE]
    if kind == stat.S_IFDIR:
        if access & MAY_WRITE or flags & O_CREAT:
            raise Errno(EISDIR)
    elif flags & O_DIRECTORY:
        raise Errno(ENOTDIR)
    elif kind == stat.S_IFLNK:
        raise Errno(ELOOP)
    elif kind == stat.S_IFSOCK:
        raise Errno(ENXIO)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK) and mount.flags & MS_NODEV:
        raise Errno(EACCES)
    if not created:
        if flags & O_TRUNC:
            access |= MAY_WRITE
        check_access(task.credentials, node, access)
        if access & MAY_WRITE and kind == stat.S_IFREG:
            mount.check_writable()
        if flags & O_NOATIME and not is_owner_or_capable(task.credentials, node):
            raise Errno(EPERM)
        if access & MAY_WRITE and kind == stat.S_IFREG:
            if node.mode & 0o111 and is_executing(task.kernel, node):
                raise Errno(ETXTBSY)
            preparation = node.ops.prepare_open(node, flags)
            if preparation is not None:
                return _finish_later(task, place, flags, preparation)
    status = (flags & ~_NOT_STATUS) | O_LARGEFILE | (kept & O_TMPFILE)
    if kind == stat.S_IFREG:
        ops = node.ops.create_file_ops(node, task, flags)
        if flags & O_TRUNC and not created:
            truncate_at_open(task, node)
    elif node.ops.opens_itself:
        ops = node.ops.create_file_ops(node, task, flags)
    elif kind == stat.S_IFCHR or kind == stat.S_IFBLK:
        ops = task.kernel.devices.open(task, node.rdev, node, flags, kind == stat.S_IFBLK)
    elif kind == stat.S_IFIFO:
        return _open_fifo(task, place, flags, status)
    else:
        ops = node.ops.create_file_ops(node, task, flags)
    return _opened(FileObject(ops, node, status, place), bool(flags & O_TRUNC) and not created)


def _opened(file: FileObject, truncated: bool = False) -> FileObject:
    if fsnotify.watched:
        fsnotify.opened(file)
        if truncated:
            fsnotify.modified(file)
    return file


async def _finish_later(task: Task, place: NamespaceNode, flags: int, preparation: Awaitable[None]) -> FileObject:
    await preparation
    result = _finish_open(task, place, flags, False)
    return result if isinstance(result, FileObject) else await result


def is_executing(kernel: Kernel, node: FsNode) -> bool:
    """Whether a process runs ``node``: then it must not be written."""
    for group in kernel.pids.thread_groups.values():
        exe = getattr(group.leader.mm, "exe", None) if not group.exited else None
        if exe is not None and exe.node is node:
            return True
    return False


def _open_fifo(task: Task, place: NamespaceNode, flags: int, status: int) -> OpenResult:
    from polynix.kernelproc.vfs.pipe import open_fifo

    result: Any = open_fifo(task, place.node, flags)
    if isinstance(result, FileOps):
        return _opened(FileObject(result, place.node, status, place))

    async def opened() -> FileObject:
        return _opened(FileObject(await result, place.node, status, place))

    return opened()


class PathFileOps(FileOps):
    """O_PATH: a place held open, not a file. Descriptor calls that do I/O refuse it before they get here."""


def reopenable_name(file: FileObject) -> NamespaceNode:
    """The place that /proc/PID/fd/N leads to for ``file``; a file without a name shows what its node calls itself (pipe:[7])."""
    return file.name if file.name is not None else anonymous_name(file.node, file.node.ops.dynamic_name(file.node))
