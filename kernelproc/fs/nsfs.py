"""nsfs: namespaces as files, so that setns(2) can take a descriptor of /proc/PID/ns/NAME."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from polynix.kernelproc.uapi.magic import NSFS_MAGIC
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.namespace import NamespaceNode, anonymous_name
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps, FsNodeOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

_LABEL: Final = b":["


class NsFs(FileSystemOps):
    """The internal file system of namespace files."""

    name = b"nsfs"
    magic = NSFS_MAGIC


class NamespaceFile(FsNodeOps):
    """One namespace: its kind as in /proc/PID/ns ("mnt", "uts") and the kernel's object."""

    def __init__(self, kind: bytes, namespace: Any) -> None:
        self.kind = kind
        self.namespace = namespace

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return FileOps()


class _Instance:
    """The kernel's instance, and the nodes in use by number."""

    def __init__(self) -> None:
        self.fs = FileSystem(NsFs(), b"nsfs")
        self.nodes: WeakValueDictionary[bytes, FsNode] = WeakValueDictionary()


def namespace_place(kernel: Kernel, kind: bytes, label: bytes, namespace: Any) -> NamespaceNode:
    """The file of a namespace; ``label`` is "mnt:[4026531840]", whose number is the inode."""
    instance = kernel.expando.get(_Instance)
    node = instance.nodes.get(label)
    if node is None:
        number = int(label.partition(_LABEL)[2].rstrip(b"]"))
        node = FsNode(instance.fs, number, stat.S_IFREG | 0o444, NamespaceFile(kind, namespace))
        instance.nodes[label] = node
    return anonymous_name(node, label)
