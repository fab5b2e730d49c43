"""Nodes without a name in any directory: anon_inodefs, pipefs and sockfs.

Linux keeps these in internal mounts that nobody can see. Here they are file systems that are never mounted; what /proc/PID/fd
shows for their files comes from ``FsNodeOps.dynamic_name`` (Linux's ``d_dname``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import ENXIO, EOPNOTSUPP
from polynix.kernelproc.uapi.fcntl import O_RDWR
from polynix.kernelproc.uapi.magic import ANON_INODE_FS_MAGIC, PIPEFS_MAGIC, SOCKFS_MAGIC
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps, FsNodeOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task


class AnonInodeFs(FileSystemOps):
    """Home of eventfd, epoll, timerfd, signalfd and pidfd."""

    name: ClassVar[bytes] = b"anon_inodefs"
    magic: ClassVar[int] = ANON_INODE_FS_MAGIC


class PipeFs(FileSystemOps):
    """Home of pipe(2)'s pipes."""

    name: ClassVar[bytes] = b"pipefs"
    magic: ClassVar[int] = PIPEFS_MAGIC


class SockFs(FileSystemOps):
    """Home of sockets."""

    name: ClassVar[bytes] = b"sockfs"
    magic: ClassVar[int] = SOCKFS_MAGIC


class AnonNodeOps(FsNodeOps):
    """The one node behind all files of a kind; it can't be opened again."""

    def __init__(self, label: bytes) -> None:
        self.label = label

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        raise Errno(ENXIO)

    def dynamic_name(self, node: FsNode) -> bytes:
        return b"anon_inode:" + self.label

    def set_attributes(self, node: FsNode, changes: dict[str, int]) -> None:
        raise Errno(EOPNOTSUPP)


class AnonFileOps(FileOps):
    """What the files of anon_inodefs share: they have no position, and lseek says so without an error."""

    seekable = False
    always_ready = False

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        return file.offset


class AnonFileSystems:
    """The internal file systems of one kernel, in its expando."""

    def __init__(self) -> None:
        self.anon_inodes = FileSystem(AnonInodeFs())
        self.pipes = FileSystem(PipeFs())
        self.sockets = FileSystem(SockFs())
        self._nodes: dict[bytes, FsNode] = {}

    def anon_node(self, label: bytes) -> FsNode:
        """The node that all anonymous files called ``label`` share, as on Linux: mode 0600 and no file type."""
        node = self._nodes.get(label)
        if node is None:
            fs = self.anon_inodes
            node = self._nodes[label] = FsNode(fs, fs.new_ino(), 0o600, AnonNodeOps(label))
        return node


def anon_file(kernel: Kernel, ops: FileOps, flags: int = O_RDWR, label: bytes = b"") -> FileObject:
    """A new open file description with no name; /proc/PID/fd shows ``anon_inode:`` and the label (``[eventfd]``)."""
    return FileObject(ops, kernel.expando.get(AnonFileSystems).anon_node(label), flags)
