"""An inode: attributes, operations, and who has it open."""

from __future__ import annotations

import stat as _stat
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.vfs import fsnotify

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.ops import FsNodeOps


class FsNode:
    """One inode of a file system. Times are ns since the epoch; ``size`` in bytes; ``blocks`` in 512-byte units; ``rdev`` a Linux dev_t.

    ``opens`` counts open descriptions; when it and ``nlink`` are both zero, ``ops.forget`` frees the storage. ``locks``, ``pipe``, ``socket`` and the like are
    attached by the part of the kernel that owns them, in ``expando``.
    """

    __slots__ = (
        "__weakref__", "atime_ns", "blksize", "blocks", "btime_ns", "ctime_ns", "expando", "fs", "gid", "ino", "mode", "mtime_ns", "nlink", "opens", "ops",
        "rdev",
        "size", "uid", "writers",
    )  # fmt: skip

    def __init__(self, fs: FileSystem, ino: int, mode: int, ops: FsNodeOps, *, uid: int = 0, gid: int = 0, rdev: int = 0, nlink: int = 1) -> None:
        self.fs = fs
        self.ino = ino
        self.mode = mode
        self.ops = ops
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.nlink = nlink
        self.size = 0
        self.blocks = 0
        self.blksize = 4096
        now = fs.now_ns()
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.btime_ns = now
        self.opens = 0
        self.writers = 0  # open for writing: exec gives ETXTBSY
        self.expando: dict[Any, Any] | None = None

    @property
    def is_directory(self) -> bool:
        return _stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return _stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return _stat.S_ISLNK(self.mode)

    def slot(self, key: Any, make: Any) -> Any:
        """The object that another part of the kernel keeps on this node under ``key`` (made by ``make()`` at first use)."""
        if self.expando is None:
            self.expando = {}
        value = self.expando.get(key)
        if value is None:
            value = self.expando[key] = make()
        return value

    def refreshed_size(self) -> int:
        """The size now, for SEEK_END and O_APPEND."""
        self.ops.refresh(self)
        return self.size

    def opened(self, file: FileObject) -> None:
        self.opens += 1
        if file.writable:
            self.writers += 1

    def closed(self, file: FileObject) -> None:
        self.opens -= 1
        if file.writable:
            self.writers -= 1
        self.check_forgotten()

    def check_forgotten(self) -> None:
        """Free the storage when neither a name nor an open description is left."""
        if self.nlink <= 0 and self.opens == 0:
            if fsnotify.watched:
                fsnotify.gone(self)
            self.ops.forget(self)

    def __repr__(self) -> str:
        return f"<FsNode {self.fs.ops.name.decode()}:{self.ino} mode={self.mode:o}>"
