"""One file system instance: its operations, its device number, its root."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from polynix.kernelproc.vfs.dir_entry import DirEntry

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.ops import FileSystemOps

_minors = itertools.count(1)


class FileSystem:
    """A ``super_block``: owns inode numbers and the root node. ``dev`` is an anonymous dev_t (major 0), as of file systems without a block device."""

    def __init__(self, ops: FileSystemOps, source: bytes = b"none", options: bytes = b"", read_only: bool = False) -> None:
        minor = next(_minors)
        self.ops = ops
        self.source = source
        self.options = options
        self.read_only = read_only
        self.dev = (minor & 0xFF) | ((minor & ~0xFF) << 12)
        self.root: FsNode = None  # type: ignore[assignment]  # set by the file system's constructor
        self.mount_count = 0  # mounts that are attached somewhere, in any namespace
        self._root_entry: DirEntry | None = None
        self._inos = itertools.count(1)

    @property
    def root_entry(self) -> DirEntry:
        """The directory entry of the root, which all mounts of this instance share."""
        if self._root_entry is None:
            self._root_entry = DirEntry(None, b"", self.root)
        return self._root_entry

    def new_ino(self) -> int:
        """The next free inode number (the root's is the first)."""
        return next(self._inos)

    def now_ns(self) -> int:
        """The time for new timestamps."""
        return time.time_ns()
