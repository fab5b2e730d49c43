"""devtmpfs: a tmpfs that starts with a node for each registered device, and gains one for each that registers later."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from polynix.kernelproc.fs.tmpfs import Tmpfs, new_tmpfs
from polynix.kernelproc.vfs.file_system import FileSystem

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.fs_node import FsNode

LINKS = ((b"fd", b"/proc/self/fd"), (b"stdin", b"/proc/self/fd/0"), (b"stdout", b"/proc/self/fd/1"), (b"stderr", b"/proc/self/fd/2"))
DIRECTORIES = ((b"pts", 0o755), (b"shm", 0o1777), (b"mqueue", 0o1777))


class Devtmpfs(Tmpfs):
    """The instance that every mount of devtmpfs in a container shows."""

    name = b"devtmpfs"

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.fs: FileSystem = None  # type: ignore[assignment]  # set by devtmpfs_of


def _directory_of(root: FsNode, name: bytes) -> tuple[FsNode, bytes]:
    """The node of the directory part of a device name ("input/event0"), made as needed, and the last component."""
    *directories, last = name.split(b"/")
    node = root
    for part in directories:
        children = node.ops.children  # type: ignore[attr-defined]
        node = children[part][1] if part in children else node.ops.mkdir(node, part, 0o755, 0, 0)
    return node, last


def _add_device(fs: FileSystem, name: bytes, mode: int, dev: int, block: bool) -> None:
    directory, last = _directory_of(fs.root, name)
    if last not in directory.ops.children:  # type: ignore[attr-defined]
        directory.ops.mknod(directory, last, (stat.S_IFBLK if block else stat.S_IFCHR) | mode, dev, 0, 0)


def devtmpfs_of(kernel: Kernel) -> FileSystem:
    """The container's devtmpfs."""
    holder = kernel.expando.get(_Holder)
    if holder.fs is None:
        ops = Devtmpfs(kernel)
        fs = holder.fs = ops.fs = new_tmpfs(kernel, mode=0o755, source=b"devtmpfs", ops=ops)
        root = fs.root
        for name, mode in DIRECTORIES:
            root.ops.mkdir(root, name, mode, 0, 0)
        for name, target in LINKS:
            root.ops.symlink(root, name, target, 0, 0)
        for name, (mode, dev, block) in kernel.devices.nodes.items():
            _add_device(fs, name, mode, dev, block)
    return holder.fs


class _Holder:
    """Where the kernel keeps the instance."""

    def __init__(self) -> None:
        self.fs: FileSystem | None = None


def make_devtmpfs(kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem:
    """mount -t devtmpfs."""
    return devtmpfs_of(kernel)
