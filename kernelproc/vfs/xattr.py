"""Extended attributes with the VFS's rules of who may touch which name space (man 7 xattr)."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_SETFCAP, CAP_SYS_ADMIN
from polynix.kernelproc.uapi.errno import E2BIG, EINVAL, ENODATA, EOPNOTSUPP, EPERM, ERANGE
from polynix.kernelproc.uapi.inotify import IN_ATTRIB
from polynix.kernelproc.uapi.xattr import XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_SIZE_MAX
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.permissions import MAY_READ, MAY_WRITE, check_access, is_owner_or_capable

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.fs_node import FsNode

POSIX_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
NAMESPACES: Final = (b"user.", b"trusted.", b"security.", b"system.")


def _check(task: Task, node: FsNode, name: bytes, write: bool) -> None:
    """Errors: ERANGE, EOPNOTSUPP, EPERM, EACCES, and ENODATA for reading what one may not know of."""
    if not name or len(name) > XATTR_NAME_MAX:
        raise Errno(ERANGE)
    credentials = task.credentials
    namespace, dot, rest = name.partition(b".")
    if namespace + dot not in NAMESPACES:
        raise Errno(EOPNOTSUPP)
    if not rest:
        raise Errno(EINVAL)
    if namespace == b"trusted":
        if not credentials.has_capability(CAP_SYS_ADMIN):
            raise Errno(EPERM if write else ENODATA)
        return
    if namespace == b"security":
        if write and not credentials.has_capability(CAP_SETFCAP if name == b"security.capability" else CAP_SYS_ADMIN):
            raise Errno(EPERM)
        return
    if namespace == b"system":
        if write and not is_owner_or_capable(credentials, node):
            raise Errno(EPERM)
        if write and name in POSIX_ACLS:
            track_stub(f"xattr {name.decode()}")
            raise Errno(EOPNOTSUPP)  # as a file system that was mounted with noacl
        return
    if not (node.is_regular or node.is_directory):
        raise Errno(EPERM if write else ENODATA)
    if write and node.is_directory and node.mode & stat.S_ISVTX and not is_owner_or_capable(credentials, node):
        raise Errno(EPERM)
    check_access(credentials, node, MAY_WRITE if write else MAY_READ)


def get_xattr(task: Task, node: FsNode, name: bytes) -> bytes:
    """The value of ``name``. Errors: ENODATA, EOPNOTSUPP, EACCES."""
    _check(task, node, name, False)
    return node.ops.get_xattr(node, name)


def set_xattr(task: Task, node: FsNode, name: bytes, value: bytes, flags: int) -> None:
    """Store ``value``; ``flags`` are XATTR_CREATE or XATTR_REPLACE. Errors: EEXIST, ENODATA, E2BIG, EPERM, EACCES."""
    if len(value) > XATTR_SIZE_MAX:
        raise Errno(E2BIG)
    _check(task, node, name, True)
    node.ops.set_xattr(node, name, value, flags)
    node.ctime_ns = node.fs.now_ns()
    if fsnotify.watched:
        fsnotify.tell(node, IN_ATTRIB)


def list_xattrs(task: Task, node: FsNode) -> bytes:
    """All names that the task may know, each with its NUL."""
    names = node.ops.list_xattrs(node)
    if not task.credentials.has_capability(CAP_SYS_ADMIN):
        names = [name for name in names if not name.startswith(b"trusted.")]
    return b"".join(name + b"\0" for name in names)[:XATTR_LIST_MAX]


def remove_xattr(task: Task, node: FsNode, name: bytes) -> None:
    """Errors: ENODATA, EPERM, EACCES."""
    _check(task, node, name, True)
    node.ops.remove_xattr(node, name)
    node.ctime_ns = node.fs.now_ns()
    if fsnotify.watched:
        fsnotify.tell(node, IN_ATTRIB)
