"""Mounts and namespaces: mount, umount2, pivot_root, unshare, setns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.nsfs import NamespaceFile
from polynix.kernelproc.ipc_sysv.semaphores import UndoList
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, ULong
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN, CAP_SYS_CHROOT
from polynix.kernelproc.uapi.errno import EBUSY, EFAULT, EINVAL, ELOOP, ENOENT, ENOTDIR, EPERM
from polynix.kernelproc.uapi.fcntl import AT_FDCWD
from polynix.kernelproc.uapi.mount import (
    MNT_DETACH,
    MNT_EXPIRE,
    MNT_FORCE,
    MS_BIND,
    MS_MGC_MSK,
    MS_MGC_VAL,
    MS_MOVE,
    MS_NOATIME,
    MS_PRIVATE,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_UNBINDABLE,
    UMOUNT_NOFOLLOW,
)
from polynix.kernelproc.uapi.sched import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VM,
)
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.lookup import lookup
from polynix.kernelproc.vfs.mount import MOUNT_FLAGS, Mount

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.namespace import NamespaceNode

DATA_MAX: Final = 4095
PROPAGATION: Final = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE
NAMESPACES: Final = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWTIME | CLONE_NEWUSER


def require(task: Task, capability: int) -> None:
    """Errors: EPERM without ``capability``."""
    if not task.credentials.has_capability(capability):
        raise Errno(EPERM)


def _string(task: Task, address: UserAddress) -> bytes:
    return task.read_path(address) if address else b""


def _data(task: Task, address: UserAddress) -> bytes:
    """mount's last argument: a string of at most a page."""
    if not address:
        return b""
    data = task.user.copy_in_partial(address, DATA_MAX)
    if not data:
        raise Errno(EFAULT)
    return data.partition(b"\0")[0]


def _mount_root(task: Task, place: NamespaceNode) -> Mount:
    """The mount whose root ``place`` is. Errors: EINVAL."""
    if place.entry is not place.mount.root or place.mount not in task.fs.namespace.mounts:
        raise Errno(EINVAL)
    return place.mount


def _mount_flags(flags: int) -> int:
    kept = flags & MOUNT_FLAGS
    return kept if flags & (MS_NOATIME | MS_STRICTATIME) else kept | MS_RELATIME


def set_propagation(changed: Mount, kind: int) -> None:
    """MS_SHARED and its like. Nothing is ever shared, so that private mounts and slaves are what they already were."""
    changed.unbindable = kind == MS_UNBINDABLE
    if kind == MS_SHARED:
        track_stub("mount propagation", kind)


@syscall()
def mount(task: Task, source: UserAddress, target: UserAddress, kind: UserAddress, flags: ULong, data: UserAddress) -> int:
    """man 2 mount."""
    if flags & MS_MGC_MSK == MS_MGC_VAL:
        flags &= ~MS_MGC_MSK
    type_name, source_name, options = _string(task, kind), _string(task, source), _data(task, data)
    place = lookup(task, AT_FDCWD, task.read_path(target))
    require(task, CAP_SYS_ADMIN)
    namespace = task.fs.namespace
    if flags & MS_REMOUNT:
        _mount_root(task, place).flags = _mount_flags(flags)
    elif flags & MS_BIND:
        if not source_name:
            raise Errno(EINVAL)
        origin = lookup(task, AT_FDCWD, source_name)
        if origin.node.is_directory != place.node.is_directory:
            raise Errno(ENOTDIR)
        namespace.bind(origin, place, bool(flags & MS_REC))
    elif flags & PROPAGATION:
        if bin(flags & PROPAGATION).count("1") != 1 or flags & ~(PROPAGATION | MS_REC):
            raise Errno(EINVAL)
        changed = _mount_root(task, place)
        for each in namespace.subtree(changed) if flags & MS_REC else [changed]:
            set_propagation(each, flags & PROPAGATION)
    elif flags & MS_MOVE:
        moved = lookup(task, AT_FDCWD, source_name)
        if place.is_below(moved):
            raise Errno(ELOOP)
        namespace.move(_mount_root(task, moved), place)
    else:
        if not type_name:
            raise Errno(EINVAL)
        fs = task.kernel.filesystems.make(type_name, task.kernel, task, source_name or b"none", flags & ~MOUNT_FLAGS, options)
        if fs.root.is_directory != place.node.is_directory:
            raise Errno(ENOTDIR)
        namespace.mount(fs, place, _mount_flags(flags), source_name or b"none")
    return 0


def _is_busy(task: Task, target: Mount) -> bool:
    """Whether any task stands or has files open in ``target``."""
    for other in task.kernel.pids.tasks.values():
        if other.exited:
            continue
        if other.fs.root.mount is target or other.fs.cwd.mount is target:
            return True
        if any(file.name is not None and file.name.mount is target for file in other.files.files.values()):
            return True
        mm = other.mm
        if mm is None:
            continue
        if mm.exe is not None and mm.exe.mount is target:
            return True
        names = (vma.file.name for vma in mm.vmas if isinstance(vma.file, FileObject))
        if any(name is not None and name.mount is target for name in names):
            return True
    return False


@syscall()
def umount2(task: Task, target: UserAddress, flags: Flags) -> int:
    """man 2 umount."""
    if flags & ~(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW):
        raise Errno(EINVAL)
    place = lookup(task, AT_FDCWD, task.read_path(target), follow=not flags & UMOUNT_NOFOLLOW)
    require(task, CAP_SYS_ADMIN)
    mounted = _mount_root(task, place)
    if flags & MNT_EXPIRE:
        if flags & (MNT_FORCE | MNT_DETACH):
            raise Errno(EINVAL)
        track_stub("umount2: MNT_EXPIRE", flags)
        raise Errno(EINVAL)
    if not flags & MNT_DETACH and _is_busy(task, mounted):
        raise Errno(EBUSY)
    if fsnotify.watched:
        track_stub("inotify: IN_UNMOUNT")
    task.fs.namespace.unmount(mounted, detach=bool(flags & MNT_DETACH))
    return 0


@syscall()
def pivot_root(task: Task, new_root: UserAddress, put_old: UserAddress) -> int:
    """man 2 pivot_root."""
    require(task, CAP_SYS_ADMIN)
    new = lookup(task, AT_FDCWD, task.read_path(new_root))
    old = lookup(task, AT_FDCWD, task.read_path(put_old))
    root = task.fs.root
    if not new.node.is_directory or not old.node.is_directory:
        raise Errno(ENOTDIR)
    if new.entry.deleted:
        raise Errno(ENOENT)
    if new.mount is root.mount or old.mount is root.mount:
        raise Errno(EBUSY)
    if root.entry is not root.mount.root or new.entry is not new.mount.root or new.mount.parent is None or not old.is_below(new):
        raise Errno(EINVAL)
    task.fs.namespace.pivot(root.mount, new.mount, old)
    for other in task.kernel.pids.tasks.values():
        if other.fs.namespace is task.fs.namespace:
            if other.fs.root == root:
                other.fs.root = new
            if other.fs.cwd == root:
                other.fs.cwd = new
    return 0


@syscall()
def unshare(task: Task, flags: ULong) -> int:
    """man 2 unshare."""
    known = CLONE_FILES | CLONE_FS | CLONE_NEWNS | CLONE_NEWUTS | CLONE_SIGHAND | CLONE_SYSVSEM | CLONE_THREAD | CLONE_VM | NAMESPACES
    if flags & ~known:
        raise Errno(EINVAL)
    if flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) and len(task.group.tasks) > 1:
        raise Errno(EINVAL)
    if flags & (CLONE_NEWNS | CLONE_NEWUTS | NAMESPACES):
        require(task, CAP_SYS_ADMIN)
    if flags & NAMESPACES:
        track_stub("unshare a namespace", flags & NAMESPACES)
        raise Errno(EINVAL)
    if flags & (CLONE_FS | CLONE_NEWNS) and task.fs.users > 1:
        own = task.fs.fork()
        task.fs.users -= 1
        task.fs = own
    if flags & CLONE_NEWNS:
        task.fs.unshare_namespace()
    if flags & CLONE_NEWUTS:
        task.uts = task.uts.copy()
    if flags & CLONE_SYSVSEM:
        UndoList.leave(task)
    if flags & CLONE_FILES and task.files.users > 1:
        files = task.files.fork()
        task.files.unshare(task)
        task.files = files
    return 0


@syscall()
def setns(task: Task, fd: FdNumber, kind: Flags) -> int:
    """man 2 setns: mount and UTS namespaces."""
    ops = task.files.get(fd).node.ops
    if not isinstance(ops, NamespaceFile):
        raise Errno(EINVAL)
    wanted = {b"mnt": CLONE_NEWNS, b"uts": CLONE_NEWUTS}.get(ops.kind)
    if wanted is None:
        track_stub("setns into a namespace of another kind")
        raise Errno(EINVAL)
    if kind and kind != wanted:
        raise Errno(EINVAL)
    require(task, CAP_SYS_ADMIN)
    if wanted == CLONE_NEWUTS:
        task.uts = ops.namespace
        return 0
    require(task, CAP_SYS_CHROOT)
    if task.fs.users > 1:
        raise Errno(EINVAL)
    root = ops.namespace.root
    task.fs.enter_namespace(ops.namespace, root, root)
    return 0
