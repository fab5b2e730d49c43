"""Building blocks of proc and sysfs: directories whose entries are computed, files whose text is made at open.

A file's content is produced once per open description, at its first read, so that a reader sees one consistent state however small its buffer is; seeking to 0
produces it again, as Linux's seq_file does.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.dirent import DT_DIR, DT_LNK, DT_REG
from polynix.kernelproc.uapi.errno import EACCES, EINVAL, EIO, ENOENT
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import DirectorySink, FileOps, FsNodeOps, Result

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.file_system import FileSystem

Content = Callable[["Task"], bytes]
Store = Callable[["Task", bytes], None]
MAX_WRITE = 65536


class TextFileOps(FileOps):
    """Reads what ``content`` said at the first read; hands whole writes to ``store``."""

    def __init__(self, task: Task, content: Content | None, store: Store | None) -> None:
        self.task = task
        self.content = content
        self.store = store
        self.text: bytes | None = None

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        if self.content is None:
            return -EIO
        if self.text is None or offset == 0:
            self.text = self.content(self.task)
        piece = self.text[offset : offset + out.remaining]
        return out.write(piece) if piece else 0

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        if self.store is None:
            return -EIO
        if data.remaining > MAX_WRITE:
            return -EINVAL
        text = data.read()
        self.store(self.task, text)
        return len(text)

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if whence == 0:
            target = offset
        elif whence == 1:
            target = file.offset + offset
        else:
            raise Errno(EINVAL)
        if target < 0:
            raise Errno(EINVAL)
        if target == 0:
            self.text = None
        return target


class TextFile(FsNodeOps):
    """A computed regular file."""

    def __init__(self, content: Content | None, store: Store | None = None) -> None:
        self.content = content
        self.store = store

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return TextFileOps(task, self.content, self.store)

    def truncate(self, node: FsNode, length: int) -> None:
        if self.store is None:
            raise Errno(EACCES)


class Link(FsNodeOps):
    """A computed symbolic link."""

    def __init__(self, target: Callable[[Task], bytes], jump: Callable[[Task], Any] | None = None) -> None:
        self.target = target
        self.jump = jump

    def readlink(self, node: FsNode, task: Task) -> bytes:
        return self.target(task)

    def follow(self, node: FsNode, task: Task) -> Any:
        return None if self.jump is None else self.jump(task)


class DirectoryOps(FileOps):
    """readdir of a computed directory; the listing is taken when it is read from its start."""

    def __init__(self, directory: Directory, node: FsNode) -> None:
        self.directory = directory
        self.node = node
        self.names: list[tuple[bytes, int]] = []

    def readdir(self, file: FileObject, sink: DirectorySink) -> None:
        if file.offset == 0 or not self.names:
            self.names = [(b".", DT_DIR), (b"..", DT_DIR), *self.directory.list(self.node)]
        while file.offset < len(self.names):
            name, kind = self.names[file.offset]
            ino = self.node.ino if name in (b".", b"..") else self.directory.ino_of(self.node, name)
            if not sink.add(ino, file.offset + 1, kind, name):
                return
            file.offset += 1

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        from polynix.kernelproc.uapi.errno import EISDIR

        return -EISDIR

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        target = offset if whence == 0 else file.offset + offset
        if target < 0:
            raise Errno(EINVAL)
        return target


class Directory(FsNodeOps):
    """A directory of named children: ``children`` are fixed (name -> factory of a node), subclasses add computed ones.

    Nodes are made at look-up and kept while ``cache`` is true.
    """

    cache = True

    def mkdir(self, node: FsNode, name: bytes, mode: int, uid: int, gid: int) -> FsNode:
        raise Errno(ENOENT)  # nobody makes names here; proc's answer

    def mknod(self, node: FsNode, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> FsNode:
        raise Errno(ENOENT)

    def __init__(self, children: dict[bytes, Callable[[FileSystem], FsNode]] | None = None) -> None:
        self.children: dict[bytes, Callable[[FileSystem], FsNode]] = children or {}
        self._nodes: dict[bytes, FsNode] = {}

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return DirectoryOps(self, node)

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        found = self._nodes.get(name)
        if found is not None:
            return found
        make = self.children.get(name)
        if make is None:
            raise Errno(ENOENT)
        found = make(node.fs)
        if self.cache:
            self._nodes[name] = found
        return found

    def list(self, node: FsNode) -> Iterable[tuple[bytes, int]]:
        """(name, DT_*) of each entry but . and .."""
        for name in self.children:
            yield name, kind_of(self.lookup(node, name))

    def ino_of(self, node: FsNode, name: bytes) -> int:
        try:
            return self.lookup(node, name).ino
        except Errno:
            return 1


def kind_of(node: FsNode) -> int:
    """DT_* of a node."""
    return DT_DIR if node.is_directory else DT_LNK if node.is_symlink else DT_REG


# -- short forms for tables of entries --------------------------------------------------------------------------------------------------------


def text(content: Content | None, store: Store | None = None, mode: int = 0) -> Callable[[FileSystem], FsNode]:
    """A file entry; 0444, or 0644 with a ``store``, unless ``mode`` says otherwise."""
    permissions = mode or (0o644 if store is not None else 0o444)
    return lambda fs: FsNode(fs, fs.new_ino(), stat.S_IFREG | permissions, TextFile(content, store))


def constant(value: bytes, mode: int = 0o444) -> Callable[[FileSystem], FsNode]:
    """A file entry that never changes."""
    return text(lambda _task: value, None, mode)


def link(target: bytes) -> Callable[[FileSystem], FsNode]:
    """A symlink entry."""
    return lambda fs: FsNode(fs, fs.new_ino(), stat.S_IFLNK | 0o777, Link(lambda _task: target))


def directory(children: dict[bytes, Callable[[FileSystem], FsNode]], mode: int = 0o555) -> Callable[[FileSystem], FsNode]:
    """A fixed directory entry."""
    return lambda fs: FsNode(fs, fs.new_ino(), stat.S_IFDIR | mode, Directory(children), nlink=2)
