"""What a container's tree is made of at boot: the root overlay, /dev, /proc, /sys, /dev/shm, and the binds that the user asked for."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Final

from polynix.kernelproc.devices import console, mem, pty
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.devpts import make_devpts
from polynix.kernelproc.fs.devtmpfs import make_devtmpfs
from polynix.kernelproc.fs.hostfs import new_hostfs
from polynix.kernelproc.fs.hostfs_bind import new_bind
from polynix.kernelproc.fs.mqueue import make_mqueue
from polynix.kernelproc.fs.overlay import new_overlay
from polynix.kernelproc.fs.proc.root import new_proc
from polynix.kernelproc.fs.sysfs import new_sysfs
from polynix.kernelproc.fs.tmpfs import make_tmpfs
from polynix.kernelproc.net import vsock
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.uapi.errno import ENOENT
from polynix.kernelproc.uapi.fcntl import AT_FDCWD
from polynix.kernelproc.uapi.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_RELATIME
from polynix.kernelproc.vfs.fs_context import FsContext
from polynix.kernelproc.vfs.lookup import lookup, lookup_parent
from polynix.kernelproc.vfs.mount import Mount
from polynix.kernelproc.vfs.namespace import Namespace, NamespaceNode

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.options import Bind, ContainerOptions
    from polynix.kernelproc.vfs.file_system import FileSystem

# type, mount point, data, flags
VIRTUAL: Final = (
    (b"devtmpfs", b"/dev", b"", MS_NOSUID),
    (b"devpts", b"/dev/pts", b"mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC),
    (b"tmpfs", b"/dev/shm", b"mode=1777", MS_NOSUID | MS_NODEV),
    (b"proc", b"/proc", b"", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    (b"sysfs", b"/sys", b"", MS_NOSUID | MS_NODEV | MS_NOEXEC),
)


class BootTask:
    """Who walks paths before there is a task: root, at the root, unless told otherwise."""

    def __init__(self, kernel: Kernel, fs: FsContext | None = None, credentials: Credentials | None = None) -> None:
        self.kernel = kernel
        self.fs = fs or FsContext(kernel.namespace)
        self.credentials = credentials or Credentials.root()


def mount_all(kernel: Kernel, options: ContainerOptions) -> None:
    """Build ``kernel.namespace``. Errors: what opening the root or a bind gives."""
    register_parts(kernel)
    lower = new_lower(kernel, os.fsencode(options.rootfs))
    memory = kernel.memory_limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    kernel.namespace = Namespace(new_overlay(kernel, lower, size=memory * 3 // 4))  # a full disk should come before a full memory
    task: Any = BootTask(kernel)
    for name, path, data, flags in VIRTUAL:
        if name not in kernel.filesystems.types:
            continue
        fs = kernel.filesystems.make(name, kernel, None, name, flags, data)
        kernel.namespace.mount(fs, directory_at(task, path), flags | MS_RELATIME)
    for bind in options.binds:
        mount_bind(kernel, task, bind)
    for text in options.tmpfs:
        path, _, data = os.fsencode(text).partition(b":")
        kernel.namespace.mount(kernel.filesystems.make(b"tmpfs", kernel, None, b"tmpfs", 0, data), directory_at(task, path), MS_NOSUID | MS_NODEV | MS_RELATIME)


def new_lower(kernel: Kernel, path: bytes) -> FileSystem:
    """The read-only tree that the container's root shows: a directory of the host, or the image of a file system. Errors: Errno, ImageError."""
    if os.path.isdir(path):
        return new_hostfs(kernel, path, immutable=True)
    from polynix.kernelproc.fs.image import new_image  # few containers have one

    return new_image(kernel, path)


def register_parts(kernel: Kernel) -> None:
    """Let every part add its devices and file system types."""
    mem.register(kernel)
    pty.register(kernel)
    console.register(kernel)
    vsock.register(kernel)
    types = (
        (b"tmpfs", make_tmpfs), (b"devpts", make_devpts), (b"devtmpfs", make_devtmpfs), (b"proc", new_proc), (b"sysfs", new_sysfs), (b"mqueue", make_mqueue),
    )  # fmt: skip
    for name, make in types:
        kernel.filesystems.register(name, make)


def directory_at(task: Any, path: bytes) -> NamespaceNode:
    """The directory at ``path``, made with its parents if missing."""
    try:
        return lookup(task, AT_FDCWD, path)
    except Errno as error:
        if error.errno != ENOENT:
            raise
    parent = path.rstrip(b"/").rpartition(b"/")[0] or b"/"
    directory_at(task, parent)
    place, name, _ = lookup_parent(task, AT_FDCWD, path)
    node = place.node.ops.mkdir(place.node, name, 0o755, 0, 0)
    return NamespaceNode(place.mount, place.entry.add(name, node))


def _file_at(task: Any, path: bytes) -> NamespaceNode:
    try:
        return lookup(task, AT_FDCWD, path)
    except Errno as error:
        if error.errno != ENOENT:
            raise
    directory_at(task, path.rpartition(b"/")[0] or b"/")
    place, name, _ = lookup_parent(task, AT_FDCWD, path)
    node = place.node.ops.mknod(place.node, name, stat.S_IFREG | 0o644, 0, 0, 0)
    return NamespaceNode(place.mount, place.entry.add(name, node))


def mount_bind(kernel: Kernel, task: Any, bind: Bind) -> Mount:
    """Show a host file or directory at a path of the container, which is made if missing."""
    target = os.fsencode(bind.target)
    fs, entry = new_bind(kernel, os.fsencode(bind.source), read_only=bind.read_only)
    place = directory_at(task, target) if entry.node.is_directory else _file_at(task, target)
    flags = MS_RELATIME | (MS_RDONLY if bind.read_only else 0)
    return kernel.namespace.add(Mount(fs, entry, flags), place)
