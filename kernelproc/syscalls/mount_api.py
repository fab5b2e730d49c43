"""Mounting by descriptors: fsopen, fspick, fsconfig, fsmount, open_tree, move_mount, mount_setattr (the man page of each, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.mount import PROPAGATION, require, set_propagation
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Size, UInt
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN
from polynix.kernelproc.uapi.errno import E2BIG, EINVAL, ELOOP, ENODEV, EOPNOTSUPP
from polynix.kernelproc.uapi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW, O_CLOEXEC, O_PATH
from polynix.kernelproc.uapi.mount import (
    FSCONFIG_CMD_CREATE,
    FSCONFIG_CMD_RECONFIGURE,
    FSCONFIG_SET_BINARY,
    FSCONFIG_SET_FD,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_PATH,
    FSCONFIG_SET_PATH_EMPTY,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    FSPICK_CLOEXEC,
    FSPICK_EMPTY_PATH,
    FSPICK_NO_AUTOMOUNT,
    FSPICK_SYMLINK_NOFOLLOW,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MOVE_MOUNT__MASK,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_F_SYMLINKS,
    MOVE_MOUNT_SET_GROUP,
    MOVE_MOUNT_T_EMPTY_PATH,
    MOVE_MOUNT_T_SYMLINKS,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    OPEN_TREE_CLONE,
)
from polynix.kernelproc.uapi.structs import mount_attr
from polynix.kernelproc.vfs.anon import anon_file
from polynix.kernelproc.vfs.detached_mount import DetachedTree, FsConfiguration
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.lookup import PathFileOps, lookup
from polynix.kernelproc.vfs.mount import Mount
from polynix.kernelproc.vfs.namespace import Namespace, NamespaceNode

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

OPEN_TREE_CLOEXEC: Final = O_CLOEXEC
_KEY_MAX: Final = 256
_PAGE: Final = 4096
_PLAIN: Final = {
    MOUNT_ATTR_RDONLY: MS_RDONLY, MOUNT_ATTR_NOSUID: MS_NOSUID, MOUNT_ATTR_NODEV: MS_NODEV, MOUNT_ATTR_NOEXEC: MS_NOEXEC,
    MOUNT_ATTR_NODIRATIME: MS_NODIRATIME, MOUNT_ATTR_NOSYMFOLLOW: MS_NOSYMFOLLOW,
}  # fmt: skip
_ATIME: Final = {MOUNT_ATTR_RELATIME: MS_RELATIME, MOUNT_ATTR_NOATIME: MS_NOATIME, MOUNT_ATTR_STRICTATIME: 0}
_ATTRIBUTES: Final = sum(_PLAIN) | MOUNT_ATTR__ATIME
_AT_FLAGS: Final = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW


def _plain_flags(attributes: int) -> int:
    return sum(flag for attribute, flag in _PLAIN.items() if attributes & attribute)


def _atime_flags(attributes: int) -> int:
    """Errors: EINVAL for a combination."""
    flags = _ATIME.get(attributes & MOUNT_ATTR__ATIME)
    if flags is None:
        raise Errno(EINVAL)
    return flags


# -- a new file system -----------------------------------------------------------------------------------------------------


@syscall()
def fsopen(task: Task, kind: UserAddress, flags: Flags) -> int:
    """man 2 fsopen"""
    require(task, CAP_SYS_ADMIN)
    if flags & ~FSOPEN_CLOEXEC:
        raise Errno(EINVAL)
    name = task.read_path(kind)
    if name not in task.kernel.filesystems.types:
        raise Errno(ENODEV)
    return task.files.install_new(anon_file(task.kernel, FsConfiguration(name), label=b"[fscontext]"), bool(flags & FSOPEN_CLOEXEC))


@syscall()
def fspick(task: Task, dir_fd: FdNumber, path: UserAddress, flags: Flags) -> int:
    """man 2 fspick"""
    require(task, CAP_SYS_ADMIN)
    if flags & ~(FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | FSPICK_NO_AUTOMOUNT | FSPICK_EMPTY_PATH):
        raise Errno(EINVAL)
    follow, empty = not flags & FSPICK_SYMLINK_NOFOLLOW, bool(flags & FSPICK_EMPTY_PATH)
    place = lookup(task, dir_fd, task.read_path(path), follow=follow, empty_path=empty)
    if place.entry is not place.mount.root:
        raise Errno(EINVAL)
    fs = place.mount.fs
    file = anon_file(task.kernel, FsConfiguration(fs.ops.name, fs), label=b"[fscontext]")
    return task.files.install_new(file, bool(flags & FSPICK_CLOEXEC))


def _configuration(task: Task, fd: int) -> FsConfiguration:
    """Errors: EBADF, EINVAL."""
    ops = task.files.get_io(fd).ops
    if not isinstance(ops, FsConfiguration):
        raise Errno(EINVAL)
    return ops


@syscall()
def fsconfig(task: Task, fd: FdNumber, command: UInt, key: UserAddress, value: UserAddress, auxiliary: Int) -> int:
    """man 2 fsconfig"""
    if fd < 0:
        raise Errno(EINVAL)
    given = (bool(key), bool(value), auxiliary != 0)
    if command == FSCONFIG_SET_FLAG:
        good = given == (True, False, False)
    elif command == FSCONFIG_SET_STRING:
        good = given == (True, True, False)
    elif command == FSCONFIG_SET_BINARY:
        good = given == (True, True, True) and 0 < auxiliary <= 1 << 20
    elif command in (FSCONFIG_SET_PATH, FSCONFIG_SET_PATH_EMPTY):
        good = given[:2] == (True, True) and (auxiliary == AT_FDCWD or auxiliary >= 0)
    elif command == FSCONFIG_SET_FD:
        good = given[:2] == (True, False) and auxiliary >= 0
    elif command in (FSCONFIG_CMD_CREATE, FSCONFIG_CMD_RECONFIGURE):
        good = given == (False, False, False)
    else:
        raise Errno(EOPNOTSUPP)
    if not good:
        raise Errno(EINVAL)
    configuration = _configuration(task, fd)
    if command in (FSCONFIG_CMD_CREATE, FSCONFIG_CMD_RECONFIGURE):
        require(task, CAP_SYS_ADMIN)
        if command == FSCONFIG_CMD_CREATE:
            configuration.create(task)
        else:
            configuration.reconfigure()
        return 0
    name = _word(task, key)
    if command not in (FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING):
        raise Errno(EINVAL)  # no file system has parameters of these kinds
    configuration.set(name, _word(task, value) if command == FSCONFIG_SET_STRING else None)
    return 0


def _word(task: Task, address: UserAddress) -> bytes:
    """A key or a value. Errors: EFAULT, EINVAL (too long)."""
    word = task.user.read_cstring(address, _KEY_MAX)
    if word is None:
        raise Errno(EINVAL)
    return word


@syscall()
def fsmount(task: Task, fd: FdNumber, flags: Flags, attributes: Flags) -> int:
    """man 2 fsmount: a descriptor of a mount that hangs nowhere yet."""
    require(task, CAP_SYS_ADMIN)
    if flags & ~FSMOUNT_CLOEXEC or attributes & ~_ATTRIBUTES:
        raise Errno(EINVAL)
    mount_flags = _plain_flags(attributes) | _atime_flags(attributes)
    configuration = _configuration(task, fd)
    fs = configuration.take()
    return _install_tree(task, [Mount(fs, fs.root_entry, mount_flags, configuration.source or b"none")], bool(flags & FSMOUNT_CLOEXEC))


def _install_tree(task: Task, mounts: list[Mount], cloexec: bool) -> int:
    place = NamespaceNode(mounts[0], mounts[0].root)
    file = FileObject(DetachedTree(Namespace.of_tree(mounts)), place.node, O_PATH, place)
    return task.files.install_new(file, cloexec)


# -- trees of mounts -------------------------------------------------------------------------------------------------------


@syscall()
def open_tree(task: Task, dir_fd: FdNumber, path: UserAddress, flags: Flags) -> int:
    """man 2 open_tree: a place, or with OPEN_TREE_CLONE a copy of what is mounted there."""
    if flags & ~(_AT_FLAGS | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC) or flags & (AT_RECURSIVE | OPEN_TREE_CLONE) == AT_RECURSIVE:
        raise Errno(EINVAL)
    if flags & OPEN_TREE_CLONE:
        require(task, CAP_SYS_ADMIN)
    place = _find(task, dir_fd, path, flags)
    cloexec = bool(flags & OPEN_TREE_CLOEXEC)
    if not flags & OPEN_TREE_CLONE:
        return task.files.install_new(FileObject(PathFileOps(), place.node, O_PATH, place), cloexec)
    namespace = _namespace_of(task, dir_fd, place.mount)
    return _install_tree(task, namespace.clone_tree(place, bool(flags & AT_RECURSIVE)), cloexec)


def _find(task: Task, dir_fd: int, path: UserAddress, flags: int) -> NamespaceNode:
    return lookup(task, dir_fd, task.read_path(path), follow=not flags & AT_SYMLINK_NOFOLLOW, empty_path=bool(flags & AT_EMPTY_PATH))


def _namespace_of(task: Task, dir_fd: int, mount: Mount) -> Namespace:
    """Where ``mount``, found from ``dir_fd``, is: the caller's namespace, or the tree of that descriptor. Errors: EINVAL."""
    if mount in task.fs.namespace.mounts:
        return task.fs.namespace
    ops = task.files.get(dir_fd).ops if dir_fd != AT_FDCWD else None
    if not isinstance(ops, DetachedTree) or mount not in ops.namespace.mounts:
        raise Errno(EINVAL)
    return ops.namespace


@syscall()
def move_mount(task: Task, from_fd: FdNumber, from_path: UserAddress, to_fd: FdNumber, to_path: UserAddress, flags: Flags) -> int:
    """man 2 move_mount: attach a tree that hung nowhere, or move one that did."""
    require(task, CAP_SYS_ADMIN)
    if flags & ~MOVE_MOUNT__MASK:
        raise Errno(EINVAL)
    if flags & MOVE_MOUNT_SET_GROUP:
        track_stub("move_mount: MOVE_MOUNT_SET_GROUP", flags)
        raise Errno(EINVAL)
    from_empty, to_empty = bool(flags & MOVE_MOUNT_F_EMPTY_PATH), bool(flags & MOVE_MOUNT_T_EMPTY_PATH)
    moved = lookup(task, from_fd, task.read_path(from_path), follow=bool(flags & MOVE_MOUNT_F_SYMLINKS), empty_path=from_empty)
    place = lookup(task, to_fd, task.read_path(to_path), follow=bool(flags & MOVE_MOUNT_T_SYMLINKS), empty_path=to_empty)
    namespace = task.fs.namespace
    origin = _namespace_of(task, from_fd, moved.mount)
    if moved.entry is not moved.mount.root or place.mount not in namespace.mounts or moved.node.is_directory != place.node.is_directory:
        raise Errno(EINVAL)
    if origin is namespace:
        if place.is_below(moved):
            raise Errno(ELOOP)
        namespace.move(moved.mount, place)
    elif moved.mount is origin.mounts[0]:
        namespace.adopt(origin, place)
    else:
        raise Errno(EINVAL)  # below the root of a tree that hangs nowhere
    return 0


@syscall()
def mount_setattr(task: Task, dir_fd: FdNumber, path: UserAddress, flags: Flags, address: UserAddress, size: Size) -> int:
    """man 2 mount_setattr"""
    if flags & ~_AT_FLAGS:
        raise Errno(EINVAL)
    if size > _PAGE:
        raise Errno(E2BIG)
    if size < mount_attr.SIZE:
        raise Errno(EINVAL)
    require(task, CAP_SYS_ADMIN)
    raw = task.copy_in(address, size)
    if any(raw[mount_attr.SIZE :]):
        raise Errno(E2BIG)
    wanted = mount_attr.unpack(raw)
    if not (wanted.attr_set or wanted.attr_clr or wanted.propagation):
        return 0
    set_flags, cleared = _changes(wanted)
    place = _find(task, dir_fd, path, flags)
    namespace = _namespace_of(task, dir_fd, place.mount)
    if place.entry is not place.mount.root:
        raise Errno(EINVAL)
    mounts = namespace.subtree(place.mount) if flags & AT_RECURSIVE else [place.mount]
    for each in mounts:
        each.flags = each.flags & ~cleared | set_flags
        if wanted.propagation:
            set_propagation(each, wanted.propagation)
    namespace.event += 1
    return 0


def _changes(wanted: mount_attr) -> tuple[int, int]:
    """MS_* flags to set and to clear. Errors: EINVAL."""
    both = wanted.attr_set | wanted.attr_clr
    if both & MOUNT_ATTR_IDMAP:
        track_stub("mount_setattr: MOUNT_ATTR_IDMAP")
    if both & ~_ATTRIBUTES or wanted.propagation & ~PROPAGATION or wanted.propagation & (wanted.propagation - 1):
        raise Errno(EINVAL)
    set_flags, cleared = _plain_flags(wanted.attr_set), _plain_flags(wanted.attr_clr)
    if wanted.attr_clr & MOUNT_ATTR__ATIME:
        if wanted.attr_clr & MOUNT_ATTR__ATIME != MOUNT_ATTR__ATIME:
            raise Errno(EINVAL)  # they are one setting, which changes as a whole
        set_flags |= _atime_flags(wanted.attr_set)
        cleared |= MS_NOATIME | MS_RELATIME
    elif wanted.attr_set & MOUNT_ATTR__ATIME:
        raise Errno(EINVAL)
    return set_flags, cleared
