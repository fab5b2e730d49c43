"""Making, linking, renaming and removing names, with the checks that Linux's VFS makes before it asks a file system (fs/namei.c)."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.capability import CAP_FSETID
from polynix.kernelproc.uapi.errno import EBUSY, EEXIST, EINVAL, EISDIR, EMLINK, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EXDEV
from polynix.kernelproc.uapi.fcntl import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from polynix.kernelproc.uapi.inotify import IN_ATTRIB
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.permissions import MAY_EXEC, MAY_WRITE, check_access, check_link_made, check_sticky

if TYPE_CHECKING:
    from polynix.kernelproc.task.credentials import Credentials
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.dir_entry import DirEntry
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.namespace import NamespaceNode

LINK_MAX: Final = 65000
LINKABLE: Final = "linkable"  # slot of a nameless O_TMPFILE node that linkat may give a name


def _check_new_name(task: Task, directory: NamespaceNode, name: bytes, slashes: bool = False) -> None:
    """May a new ``name`` be made here? ``slashes`` after it are for directories only. Errors: EEXIST, EROFS, EACCES, ENOENT."""
    if not name or name in (b".", b"..") or directory.entry.lookup(name).node is not None:
        raise Errno(EEXIST)
    if slashes or not directory.node.fs.ops.creates:
        raise Errno(ENOENT)
    directory.mount.check_writable()
    _check_may_create(task, directory)


def _check_may_create(task: Task, directory: NamespaceNode) -> None:
    if directory.entry.deleted:
        raise Errno(ENOENT)
    check_access(task.credentials, directory.node, MAY_WRITE | MAY_EXEC)


def _check_may_delete(task: Task, directory: NamespaceNode, entry: DirEntry, *, want_directory: bool | None) -> None:
    """may_delete of Linux: permission, sticky bit, the right kind, nothing mounted on it."""
    check_access(task.credentials, directory.node, MAY_WRITE | MAY_EXEC)
    check_sticky(task.credentials, directory.node, entry.node)
    if want_directory is True and not entry.node.is_directory:
        raise Errno(ENOTDIR)
    if want_directory is False and entry.node.is_directory:
        raise Errno(EISDIR)
    if entry.mounted is not None or entry.is_root:
        raise Errno(EBUSY)


def _owner_of_new(credentials: Credentials, directory: FsNode, mode: int) -> tuple[int, int]:
    """The mode and group of a new node: set-group-id directories hand down their group."""
    if not directory.mode & stat.S_ISGID:
        return mode, credentials.fsgid
    gid = directory.gid
    if stat.S_ISDIR(mode):
        mode |= stat.S_ISGID
    elif mode & stat.S_ISGID and mode & stat.S_IXGRP and not credentials.in_group(gid) and not credentials.has_capability(CAP_FSETID):
        mode &= ~stat.S_ISGID
    return mode, gid


def _made(directory: NamespaceNode, name: bytes, node: FsNode) -> DirEntry:
    entry = directory.entry.add(name, node)
    if fsnotify.watched:
        fsnotify.created(directory.node, name, node)
    return entry


def make_node(task: Task, directory: NamespaceNode, name: bytes, mode: int, rdev: int = 0, slashes: bool = False) -> DirEntry:
    """A new regular file, fifo, socket or device node. ``mode`` has its S_IFMT bits and the umask applied; CAP_MKNOD was checked by the caller."""
    _check_new_name(task, directory, name, slashes)
    credentials = task.credentials
    mode, gid = _owner_of_new(credentials, directory.node, mode)
    node = directory.node.ops.mknod(directory.node, name, mode, rdev, credentials.fsuid, gid)
    return _made(directory, name, node)


def make_directory(task: Task, directory: NamespaceNode, name: bytes, mode: int) -> DirEntry:
    """A new directory; ``mode`` (permission and sticky bits) has the umask applied."""
    _check_new_name(task, directory, name)
    credentials = task.credentials
    mode, gid = _owner_of_new(credentials, directory.node, stat.S_IFDIR | (mode & 0o1777))
    node = directory.node.ops.mkdir(directory.node, name, mode & ~stat.S_IFMT(mode), credentials.fsuid, gid)
    return _made(directory, name, node)


def make_symlink(task: Task, directory: NamespaceNode, name: bytes, target: bytes, slashes: bool = False) -> DirEntry:
    """A new symbolic link to ``target``."""
    _check_new_name(task, directory, name, slashes)
    credentials = task.credentials
    _, gid = _owner_of_new(credentials, directory.node, stat.S_IFLNK)
    node = directory.node.ops.symlink(directory.node, name, target, credentials.fsuid, gid)
    return _made(directory, name, node)


def create_tmpfile(task: Task, directory: NamespaceNode, mode: int, *, linkable: bool) -> FsNode:
    """O_TMPFILE: a regular file without a name in ``directory``'s file system."""
    if not directory.node.is_directory:
        raise Errno(ENOTDIR)
    directory.mount.check_writable()
    check_access(task.credentials, directory.node, MAY_WRITE | MAY_EXEC)
    credentials = task.credentials
    mode, gid = _owner_of_new(credentials, directory.node, stat.S_IFREG | (mode & 0o7777 & ~task.fs.umask))
    node = directory.node.ops.create_tmpfile(directory.node, mode, credentials.fsuid, gid)
    if linkable:
        node.slot(LINKABLE, lambda: True)
    return node


def make_link(task: Task, target: NamespaceNode, directory: NamespaceNode, name: bytes, slashes: bool = False) -> None:
    """link(2): one more name for ``target``."""
    if not name or name in (b".", b"..") or directory.entry.lookup(name).node is not None:
        raise Errno(EEXIST)
    if slashes:
        raise Errno(ENOENT)
    if target.mount is not directory.mount:
        raise Errno(EXDEV)
    directory.mount.check_writable()
    _check_may_create(task, directory)
    node = target.node
    if node.is_directory:
        raise Errno(EPERM)
    check_link_made(task, node)
    linkable = node.expando is not None and LINKABLE in node.expando
    if node.nlink == 0 and not linkable:
        raise Errno(ENOENT)
    if node.nlink >= LINK_MAX:
        raise Errno(EMLINK)
    directory.node.ops.link(directory.node, name, node)
    if linkable and node.expando is not None:
        del node.expando[LINKABLE]
    if fsnotify.watched:
        fsnotify.tell(node, IN_ATTRIB)  # its link count
    _made(directory, name, node)


def _removed(directory: NamespaceNode, name: bytes, node: FsNode) -> None:
    directory.entry.remove(name)
    if fsnotify.watched:
        fsnotify.removed(directory.node, name, node)
    node.check_forgotten()


def remove(task: Task, directory: NamespaceNode, name: bytes, slashes: bool = False) -> None:
    """unlink(2)."""
    if not name or name in (b".", b".."):
        raise Errno(EISDIR)
    directory.mount.check_writable()
    entry = directory.entry.lookup(name)
    node = entry.node
    if node is None:
        raise Errno(ENOENT)
    if slashes:
        raise Errno(EISDIR if node.is_directory else ENOTDIR)
    _check_may_delete(task, directory, entry, want_directory=False)
    directory.node.ops.unlink(directory.node, name, node)
    _removed(directory, name, node)


def remove_directory(task: Task, directory: NamespaceNode, name: bytes) -> None:
    """rmdir(2)."""
    if not name:
        raise Errno(EBUSY)
    if name == b".":
        raise Errno(EINVAL)
    if name == b"..":
        raise Errno(ENOTEMPTY)
    directory.mount.check_writable()
    entry = directory.entry.lookup(name)
    node = entry.node
    if node is None:
        raise Errno(ENOENT)
    _check_may_delete(task, directory, entry, want_directory=True)
    directory.node.ops.rmdir(directory.node, name, node)
    _removed(directory, name, node)


def rename(
    task: Task,
    old_directory: NamespaceNode,
    old_name: bytes,
    new_directory: NamespaceNode,
    new_name: bytes,
    flags: int = 0,
    *,
    slashes: bool = False,
    new_slashes: bool = False,
) -> None:
    """renameat2(2). ``slashes`` say that a path ended in "/": then it must mean a directory."""
    if old_directory.mount is not new_directory.mount:
        raise Errno(EXDEV)
    if not old_name or old_name in (b".", b".."):
        raise Errno(EBUSY)
    if not new_name or new_name in (b".", b".."):
        raise Errno(EEXIST if flags & RENAME_NOREPLACE else EBUSY)
    old_directory.mount.check_writable()
    old = old_directory.entry.lookup(old_name)
    node = old.node
    if node is None:
        raise Errno(ENOENT)
    new = new_directory.entry.lookup(new_name)
    replaced = new.node
    exchange = bool(flags & RENAME_EXCHANGE)
    if flags & RENAME_NOREPLACE and replaced is not None:
        raise Errno(EEXIST)
    if exchange:
        if replaced is None:
            raise Errno(ENOENT)
        if new_slashes and not replaced.is_directory:
            raise Errno(ENOTDIR)
    if not node.is_directory and (slashes or (not exchange and new_slashes)):
        raise Errno(ENOTDIR)
    if new_directory.entry.is_below(old):
        raise Errno(EINVAL)
    if replaced is not None and old_directory.entry.is_below(new):
        raise Errno(EINVAL if exchange else ENOTEMPTY)
    if node is replaced:
        return
    _check_may_delete(task, old_directory, old, want_directory=None)
    if replaced is None:
        _check_may_create(task, new_directory)
    else:
        _check_may_delete(task, new_directory, new, want_directory=None if exchange else node.is_directory)
    if old_directory.entry is not new_directory.entry:
        if node.is_directory:
            check_access(task.credentials, node, MAY_WRITE)  # its ".." changes
        if exchange and replaced is not None and replaced.is_directory:
            check_access(task.credentials, replaced, MAY_WRITE)
    old_directory.node.ops.rename(old_directory.node, old_name, node, new_directory.node, new_name, replaced, flags)
    if exchange:
        old.exchange(new)
        if fsnotify.watched and replaced is not None:
            fsnotify.moved(old_directory.node, old_name, new_directory.node, new_name, node, None)
            fsnotify.moved(new_directory.node, new_name, old_directory.node, old_name, replaced, None)
        return
    old.move(new_directory.entry, new_name)
    if flags & RENAME_WHITEOUT:
        old_directory.entry.forget(old_name)
    if fsnotify.watched:
        fsnotify.moved(old_directory.node, old_name, new_directory.node, new_name, node, replaced)
    if replaced is not None:
        replaced.check_forgotten()
