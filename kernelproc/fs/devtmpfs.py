"""devtmpfs: a tmpfs that starts with a node for each registered device, and gains one for each that registers later."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.tmpfs import Tmpfs, new_tmpfs
from polynix.kernelproc.vfs.dir_entry import NEGATIVE
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

    def unmount(self, fs: FileSystem) -> None:
        """The kernel keeps it."""

    def add(self, name: bytes) -> None:
        """Make the node of a registered device ("null", "input/event0")."""
        mode, dev, block = self.kernel.devices.nodes[name]
        *directories, last = name.split(b"/")
        node = self.fs.root
        for part in directories:
            node = self._child(node, part) or node.ops.mkdir(node, part, 0o755, 0, 0)
        if self._child(node, last) is None:
            node.ops.mknod(node, last, (stat.S_IFBLK if block else stat.S_IFCHR) | mode, dev, 0, 0)
        self._forget_missing(name)

    @staticmethod
    def _child(node: FsNode, name: bytes) -> FsNode | None:
        try:
            return node.ops.lookup(node, name)
        except Errno:
            return None

    def _forget_missing(self, name: bytes) -> None:
        """The names on the way are no longer known to be missing."""
        entry = self.fs.root_entry
        for part in name.split(b"/"):
            child = entry.children.get(part)
            if child is NEGATIVE:
                del entry.children[part]
            if child is None or child is NEGATIVE:
                return
            entry = child


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
        for name in kernel.devices.nodes:
            ops.add(name)
        kernel.devices.on_node.append(ops.add)
    return holder.fs


class _Holder:
    """Where the kernel keeps the instance."""

    def __init__(self) -> None:
        self.fs: FileSystem | None = None


def make_devtmpfs(kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem:
    """mount -t devtmpfs."""
    return devtmpfs_of(kernel)
