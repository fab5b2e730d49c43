"""A kernel without guests for tests of the file systems: real credentials, descriptors and namespaces, no restricted mode."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

from polynix.addrspace.region import RegionFactory
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.expando import Expando
from polynix.kernelproc.fs.tmpfs import new_tmpfs
from polynix.kernelproc.registry import DeviceRegistry, FsRegistry
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.pid_table import PidTable
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.uapi.errno import EAGAIN
from polynix.kernelproc.uapi.fcntl import AT_FDCWD, O_APPEND, O_CREAT, O_NONBLOCK, O_RDONLY, O_TRUNC, O_WRONLY
from polynix.kernelproc.vfs import create, lookup
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_context import FsContext
from polynix.kernelproc.vfs.namespace import Namespace, NamespaceNode


class WorldKernel:
    """What the VFS asks of the Kernel object."""

    def __init__(self) -> None:
        self.devices = DeviceRegistry()
        self.filesystems = FsRegistry()
        self.expando = Expando()
        self.kthreads = None
        self.memory = RegionFactory(force_memfd=True)
        self.pids = PidTable()
        self.memory_limit = 0


class World:
    """One task in one namespace; it quacks like a Task. The methods are the system calls that tests speak in, on plain bytes."""

    def __init__(self, root: FileSystem | None = None, kernel: Any = None) -> None:
        self.kernel: Any = kernel or WorldKernel()
        self.namespace = Namespace(root or new_tmpfs(self.kernel, mode=0o755))
        self.fs = FsContext(self.namespace)
        self.limits = ResourceLimits()
        self.files = FdTable(self.limits)
        self.credentials = Credentials.root()

    @property
    def task(self) -> Any:
        return self

    def place(self, path: bytes, follow: bool = True, **named: Any) -> NamespaceNode:
        return lookup.lookup(self.task, AT_FDCWD, path, follow=follow, **named)

    def path(self, path: bytes) -> bytes:
        return self.place(path).path(self.fs)

    def open(self, path: bytes, flags: int = O_RDONLY, mode: int = 0o666, **named: Any) -> FileObject:
        """Open without ever blocking: what would wait (a fifo without a peer) gives EAGAIN."""
        file = lookup.begin_open(self.task, AT_FDCWD, path, flags | O_NONBLOCK, mode, **named)
        if not isinstance(file, FileObject):
            raise Errno(EAGAIN)
        if not flags & O_NONBLOCK:
            file.flags &= ~O_NONBLOCK
        return file.retain()

    def write(self, path: bytes, data: bytes, flags: int = O_CREAT | O_TRUNC | O_WRONLY) -> None:
        file = self.open(path, flags)
        try:
            offset = file.node.refreshed_size() if flags & O_APPEND else 0
            assert file.ops.write(file, offset, BytesInputBuffer(data)) == len(data)
        finally:
            file.release()

    def read(self, path: bytes, offset: int = 0, count: int = 1 << 24) -> bytes:
        file = self.open(path)
        try:
            out = BytesOutputBuffer(count)
            file.ops.read(file, offset, out)
            return bytes(out.data)
        finally:
            file.release()

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        parent, name, _ = lookup.lookup_parent(self.task, AT_FDCWD, path)
        create.make_directory(self.task, parent, name, mode & ~self.fs.umask)

    def mknod(self, path: bytes, mode: int = stat.S_IFREG | 0o644, rdev: int = 0) -> None:
        parent, name, slashes = lookup.lookup_parent(self.task, AT_FDCWD, path)
        create.make_node(self.task, parent, name, mode, rdev, slashes)

    def symlink(self, target: bytes, path: bytes) -> None:
        parent, name, slashes = lookup.lookup_parent(self.task, AT_FDCWD, path)
        create.make_symlink(self.task, parent, name, target, slashes)

    def link(self, old: bytes, new: bytes) -> None:
        target = self.place(old, follow=False)
        parent, name, slashes = lookup.lookup_parent(self.task, AT_FDCWD, new)
        create.make_link(self.task, target, parent, name, slashes)

    def unlink(self, path: bytes) -> None:
        create.remove(self.task, *lookup.lookup_parent(self.task, AT_FDCWD, path))

    def rmdir(self, path: bytes) -> None:
        parent, name, _ = lookup.lookup_parent(self.task, AT_FDCWD, path)
        create.remove_directory(self.task, parent, name)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        old_parent, old_name, slashes = lookup.lookup_parent(self.task, AT_FDCWD, old)
        new_parent, new_name, new_slashes = lookup.lookup_parent(self.task, AT_FDCWD, new)
        create.rename(self.task, old_parent, old_name, new_parent, new_name, flags, slashes=slashes, new_slashes=new_slashes)

    def readlink(self, path: bytes) -> bytes:
        node = self.place(path, follow=False).node
        return node.ops.readlink(node, self.task)

    def entries(self, path: bytes) -> dict[bytes, tuple[int, int]]:
        """name -> (inode, DT_*) of a directory, in order, without . and .."""
        return {name: (inode, kind) for inode, _, kind, name in self.readdir(path) if name not in (b".", b"..")}

    def readdir(self, path: bytes, batch: int = 1 << 30) -> Iterator[tuple[int, int, int, bytes]]:
        """(inode, next offset, kind, name) of each entry, read ``batch`` at a time."""
        file = self.open(path)
        try:
            while True:
                sink = ListSink(batch)
                file.ops.readdir(file, sink)
                if not sink.entries:
                    return
                yield from sink.entries
        finally:
            file.release()

    def names(self, path: bytes) -> set[bytes]:
        return set(self.entries(path))


class ListSink:
    """A DirectorySink that holds ``room`` entries."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[int, int, int, bytes]] = []

    def add(self, inode: int, next_offset: int, kind: int, name: bytes) -> bool:
        if len(self.entries) >= self.room:
            return False
        self.entries.append((inode, next_offset, kind, name))
        return True
