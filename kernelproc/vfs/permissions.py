"""Discretionary access control: may these credentials do this to that node (man 7 path_resolution, man 7 capabilities)."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.capability import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID
from polynix.kernelproc.uapi.errno import EACCES, EPERM

if TYPE_CHECKING:
    from polynix.kernelproc.task.credentials import Credentials
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.fs_node import FsNode

MAY_EXEC: Final = 1
MAY_WRITE: Final = 2
MAY_READ: Final = 4

# With any of these in the effective set every directory can be searched.
SEARCH_CAPABILITIES: Final = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH


def may_access(credentials: Credentials, node: FsNode, mask: int) -> bool:
    """Whether ``credentials`` (its file system ids and effective capabilities) may do MAY_* ``mask`` on ``node``."""
    mode = node.mode
    if credentials.fsuid == node.uid:
        granted = mode >> 6
    elif mode >> 3 & 7 != mode & 7 and credentials.in_group(node.gid):
        granted = mode >> 3
    else:
        granted = mode
    if not mask & ~granted & 7:
        return True
    capabilities = credentials.cap_effective
    if stat.S_ISDIR(mode):
        if capabilities >> CAP_DAC_OVERRIDE & 1:
            return True
        return bool(capabilities >> CAP_DAC_READ_SEARCH & 1) and not mask & MAY_WRITE
    if capabilities >> CAP_DAC_OVERRIDE & 1 and (not mask & MAY_EXEC or mode & 0o111):
        return True
    return bool(capabilities >> CAP_DAC_READ_SEARCH & 1) and mask == MAY_READ


def check_access(credentials: Credentials, node: FsNode, mask: int) -> None:
    """Errors: EACCES unless :func:`may_access`."""
    if not may_access(credentials, node, mask):
        raise Errno(EACCES)


def is_owner_or_capable(credentials: Credentials, node: FsNode) -> bool:
    """Whether these credentials own the node or override ownership (CAP_FOWNER)."""
    return credentials.fsuid == node.uid or credentials.has_capability(CAP_FOWNER)


def check_sticky(credentials: Credentials, directory: FsNode, node: FsNode) -> None:
    """Errors: EPERM when the directory's sticky bit keeps these credentials from removing or renaming ``node`` in it."""
    if directory.mode & stat.S_ISVTX and credentials.fsuid not in (node.uid, directory.uid) and not credentials.has_capability(CAP_FOWNER):
        raise Errno(EPERM)


def mode_without_privileges(credentials: Credentials, node: FsNode) -> int:
    """The mode that is left when the content of a file changes: set-id bits go, unless CAP_FSETID keeps them (file_remove_privs)."""
    mode = node.mode
    if not mode & 0o6000 or not stat.S_ISREG(mode) or credentials.has_capability(CAP_FSETID):
        return mode
    mode &= ~stat.S_ISUID
    if mode & stat.S_IXGRP or not credentials.in_group(node.gid):
        mode &= ~stat.S_ISGID
    return mode


# -- what /proc/sys/fs/protected_* forbids in sticky directories that others may write to -------------------------------------------------

_SHARED: Final = stat.S_ISVTX | stat.S_IWOTH


def check_link_followed(task: Task, directory: FsNode, link: FsNode) -> None:
    """The last symbolic link of a path (may_follow_link). Errors: EACCES when somebody else put it there."""
    if directory.mode & _SHARED != _SHARED or link.uid in (task.credentials.fsuid, directory.uid):
        return
    if task.kernel.expando.get(Tunables).get("fs.protected_symlinks"):
        raise Errno(EACCES)


def check_link_made(task: Task, node: FsNode) -> None:
    """A hard link to a file of somebody else (may_linkat). Errors: EPERM unless it is a plain file that these credentials may read and write."""
    if is_owner_or_capable(task.credentials, node) or not task.kernel.expando.get(Tunables).get("fs.protected_hardlinks"):
        return
    special = not node.is_regular or node.mode & stat.S_ISUID or node.mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID | stat.S_IXGRP
    if special or not may_access(task.credentials, node, MAY_READ | MAY_WRITE):
        raise Errno(EPERM)


def check_found_by_create(task: Task, directory: FsNode, node: FsNode) -> None:
    """O_CREAT that found a file or fifo of somebody else (may_create_in_sticky). Errors: EACCES."""
    if not directory.mode & stat.S_ISVTX or node.uid in (directory.uid, task.credentials.fsuid):
        return
    kind = stat.S_IFMT(node.mode)
    if kind not in (stat.S_IFIFO, stat.S_IFREG):
        return
    level = task.kernel.expando.get(Tunables).get("fs.protected_fifos" if kind == stat.S_IFIFO else "fs.protected_regular")
    if level and (directory.mode & stat.S_IWOTH or (directory.mode & stat.S_IWGRP and level >= 2)):
        raise Errno(EACCES)
