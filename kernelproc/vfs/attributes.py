"""Changing a node's attributes with Linux's checks (notify_change): what chmod and fchmod, chown and fchown, utimensat, truncate and ftruncate share."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.capability import CAP_CHOWN, CAP_FSETID
from polynix.kernelproc.uapi.errno import EACCES, EINVAL, EISDIR, EPERM
from polynix.kernelproc.uapi.fcntl import O_NOATIME
from polynix.kernelproc.uapi.mount import MS_NOATIME, MS_NODIRATIME, MS_RDONLY
from polynix.kernelproc.vfs.permissions import MAY_WRITE, is_owner_or_capable, may_access, mode_without_privileges

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

NO_ID: Final = 0xFFFFFFFF  # (uid_t)-1: leave as it is


def store_attributes(node: FsNode, changes: dict[str, int]) -> None:
    """Let the file system keep ``changes``, then show them."""
    node.ops.set_attributes(node, changes)
    for name, value in changes.items():
        setattr(node, name, value)


def accessed(file: FileObject) -> None:
    """A read found the access time no newer than the other times: bring it up to date, as relatime does, unless the mount or the description forbids it."""
    if file.flags & O_NOATIME:
        return
    node = file.node
    if file.name is not None:
        flags = file.name.mount.flags
        if flags & (MS_NOATIME | MS_RDONLY) or (flags & MS_NODIRATIME and node.is_directory):
            return
    node.atime_ns = node.fs.now_ns()


def change_mode(task: Task, node: FsNode, mode: int) -> None:
    """chmod(2) on a node of a writable mount. Errors: EPERM."""
    credentials = task.credentials
    if not is_owner_or_capable(credentials, node):
        raise Errno(EPERM)
    mode &= 0o7777
    if mode & stat.S_ISGID and not credentials.in_group(node.gid) and not credentials.has_capability(CAP_FSETID):
        mode &= ~stat.S_ISGID
    store_attributes(node, {"mode": stat.S_IFMT(node.mode) | mode, "ctime_ns": node.fs.now_ns()})


def change_owner(task: Task, node: FsNode, uid: int, gid: int) -> None:
    """chown(2) on a node of a writable mount; ``NO_ID`` leaves an id alone. Errors: EPERM."""
    credentials = task.credentials
    changes = {"ctime_ns": node.fs.now_ns()}
    if not credentials.has_capability(CAP_CHOWN):
        if uid != NO_ID and (credentials.fsuid != node.uid or uid != node.uid):
            raise Errno(EPERM)
        if gid != NO_ID and (credentials.fsuid != node.uid or (gid != node.gid and not credentials.in_group(gid))):
            raise Errno(EPERM)
    if uid != NO_ID:
        changes["uid"] = uid
    if gid != NO_ID:
        changes["gid"] = gid
    if not node.is_directory and len(changes) > 1:
        mode = node.mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        changes["mode"] = mode
    store_attributes(node, changes)


def change_times(task: Task, node: FsNode, atime_ns: int | None, mtime_ns: int | None, *, to_now: bool = False) -> None:
    """utimensat(2): None leaves a time alone; ``to_now`` says that both are the present, for which write permission suffices. Errors: EPERM, EACCES."""
    if atime_ns is None and mtime_ns is None:
        return
    credentials = task.credentials
    if not is_owner_or_capable(credentials, node):
        if not to_now:
            raise Errno(EPERM)
        if not may_access(credentials, node, MAY_WRITE):
            raise Errno(EACCES)
    changes = {"ctime_ns": node.fs.now_ns()}
    if atime_ns is not None:
        changes["atime_ns"] = atime_ns
    if mtime_ns is not None:
        changes["mtime_ns"] = mtime_ns
    store_attributes(node, changes)


def truncate_node(task: Task, node: FsNode, length: int) -> None:
    """Set a regular file's size. Write permission and RLIMIT_FSIZE were checked by the caller. Errors: EISDIR, EINVAL."""
    if node.is_directory:
        raise Errno(EISDIR)
    if not node.is_regular or length < 0:
        raise Errno(EINVAL)
    node.ops.truncate(node, length)
    remove_privileges(task, node)


def truncate_at_open(task: Task, node: FsNode) -> None:
    """O_TRUNC. Files without content of their own (most of /proc) ignore it."""
    try:
        node.ops.truncate(node, 0)
    except Errno as error:
        if error.errno != EINVAL or node.size:
            raise
    remove_privileges(task, node)


def remove_privileges(task: Task, node: FsNode) -> None:
    """Drop set-id bits because content changed (file_remove_privs)."""
    if node.mode & 0o6000:
        mode = mode_without_privileges(task.credentials, node)
        if mode != node.mode:
            store_attributes(node, {"mode": mode})
