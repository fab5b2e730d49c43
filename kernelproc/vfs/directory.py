"""Reading directories: an open description that serves entries in the order of cookies that never change.

A cookie is the directory offset of its entry: telldir and seekdir, an ``rm -r`` that deletes between two calls, and a snapshot that is taken anew because the
directory changed all meet the same entries at the same offsets.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from polynix.kernelproc.uapi.dirent import DT_DIR
from polynix.kernelproc.uapi.errno import EISDIR
from polynix.kernelproc.vfs.attributes import accessed
from polynix.kernelproc.vfs.ops import FileOps

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.ops import DirectorySink

FIRST_COOKIE: Final = 2  # 0 and 1 are "." and ".."


class DirectoryItem(NamedTuple):
    """One entry of a listing. ``kind`` is a DT_* value."""

    cookie: int
    name: bytes
    inode: int
    kind: int


class ListedDirectory(Protocol):
    """What a directory's node operations offer to be read by :class:`DirectoryOps`."""

    @property
    def version(self) -> int:
        """Changes with the names."""

    def list(self, node: FsNode) -> list[DirectoryItem]:
        """All entries but . and .., by growing cookie (from FIRST_COOKIE on). Called again when ``version`` has changed."""


def kind_of(mode: int) -> int:
    """The DT_* value of a mode."""
    return mode >> 12 & 15


class DirectoryOps(FileOps):
    """An open directory."""

    def __init__(self, directory: ListedDirectory) -> None:
        self.directory = directory
        self._items: list[DirectoryItem] | None = None
        self._version = -1

    def readdir(self, file: FileObject, sink: DirectorySink) -> None:
        node = file.node
        if file.offset == 0:
            if not sink.add(node.ino, 1, DT_DIR, b"."):
                return
            file.offset = 1
            self._items = None
            if node.atime_ns <= node.mtime_ns or node.atime_ns <= node.ctime_ns:
                accessed(file)
        if file.offset == 1:
            parent = node.ino if file.name is None else file.name.parent().node.ino
            if not sink.add(parent, FIRST_COOKIE, DT_DIR, b".."):
                return
            file.offset = FIRST_COOKIE
        directory = self.directory
        if self._items is None or self._version != directory.version:
            self._version = directory.version
            self._items = directory.list(node)
        items = self._items
        add = sink.add
        for index in range(bisect_left(items, file.offset, key=itemgetter(0)), len(items)):
            cookie, name, inode, kind = items[index]
            if not add(inode, cookie + 1, kind, name):
                return
            file.offset = cookie + 1

    def read(self, file: FileObject, offset: int, out: object) -> int:
        return -EISDIR

    def fsync(self, file: FileObject, data_only: bool) -> int:
        return 0
