"""overlay: a writable tree in memory over a read-only one, usually the host's.

It is a tmpfs whose nodes may have a *lower* node behind them. A directory with a lower one shows its names too, less the *whiteouts*; a file with a lower one
reads from it until it is first opened for writing, which copies it up. Attributes live in the overlay's own node from the start, so chmod and chown copy
nothing. A directory that is renamed takes its lower node along. The inode number of a node with a lower one is the lower's, for ever, and hard links of the
lower tree are one node here: what tar, git and find remember about a file stays true when it is copied up.
"""

from __future__ import annotations

import itertools
import stat
from typing import TYPE_CHECKING, ClassVar, Final
from weakref import WeakValueDictionary

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.hostfs import INO_LIMIT
from polynix.kernelproc.fs.overlay_file import OverlayFile, OverlayNode, OverlaySymlink
from polynix.kernelproc.fs.tmpfs import Tmpfs, TmpfsDirectory
from polynix.kernelproc.uapi.errno import EINVAL, ENOENT
from polynix.kernelproc.uapi.magic import OVERLAYFS_SUPER_MAGIC
from polynix.kernelproc.vfs.directory import DirectoryItem
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.vfs.ops import FsNodeOps

UPPER_COOKIE: Final = 1 << 32  # directory offsets of names made here come after all of the lower directory's


class Overlay(Tmpfs):
    """One instance over ``lower``. ``pinned`` holds the nodes with a lower one that differ from it; the others can be made again."""

    name = b"overlay"
    magic = OVERLAYFS_SUPER_MAGIC

    def __init__(self, kernel: Kernel, lower: FileSystem, page_limit: int = 0) -> None:
        super().__init__(kernel, page_limit)
        self.lower = lower
        self.fs: FileSystem = None  # type: ignore[assignment]  # set by new_overlay
        self.pinned: dict[int, FsNode] = {}
        self._nodes: WeakValueDictionary[int, FsNode] = WeakValueDictionary()

    def wrap(self, lower: FsNode) -> FsNode:
        """The overlay's node of a lower one."""
        node = self._nodes.get(lower.ino)
        if node is not None:
            return node
        ops: FsNodeOps
        if stat.S_ISDIR(lower.mode):
            ops = OverlayDirectory(self, lower)
        elif stat.S_ISREG(lower.mode):
            ops = OverlayFile(self, lower)
        elif stat.S_ISLNK(lower.mode):
            ops = OverlaySymlink(self, lower)
        else:
            ops = OverlayNode(self, lower)
        node = FsNode(self.fs, lower.ino, lower.mode, ops, uid=lower.uid, gid=lower.gid, rdev=lower.rdev, nlink=lower.nlink)
        node.size, node.blocks, node.blksize = lower.size, lower.blocks, lower.blksize
        node.atime_ns, node.mtime_ns, node.ctime_ns, node.btime_ns = lower.atime_ns, lower.mtime_ns, lower.ctime_ns, lower.btime_ns
        self._nodes[lower.ino] = node
        return node

    def pin(self, node: FsNode) -> None:
        """``node`` is about to differ from its lower node."""
        self.pinned[node.ino] = node

    def unpin(self, node: FsNode) -> None:
        """``node`` is gone."""
        self.pinned.pop(node.ino, None)

    def unmount(self, fs: FileSystem) -> None:
        self.lower.ops.unmount(self.lower)


class OverlayDirectory(OverlayNode, TmpfsDirectory):
    """A directory. ``children`` are the names made or moved here; ``whiteouts`` the lower names that are gone or hidden by a child."""

    empty_size: ClassVar[int] = 4096
    entry_size: ClassVar[int] = 0

    def __init__(self, overlay: Overlay, lower: FsNode | None) -> None:
        OverlayNode.__init__(self, overlay, lower)
        self.children: dict[bytes, tuple[int, FsNode]] = {}
        self.next_cookie = UPPER_COOKIE
        self.version = 0
        self.whiteouts: set[bytes] = set()

    def new_directory_ops(self) -> TmpfsDirectory:
        return OverlayDirectory(self.overlay, None)

    def new_file_ops(self) -> OverlayFile:
        return OverlayFile(self.overlay, None)

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        found = self.children.get(name)
        if found is not None:
            return found[1]
        lower = self.lower
        if lower is None or name in self.whiteouts:
            raise Errno(ENOENT)
        return self.overlay.wrap(lower.ops.lookup(lower, name))

    def changed(self, node: FsNode) -> None:
        if self.from_lower:
            self.overlay.pin(node)
        TmpfsDirectory.changed(self, node)

    def take(self, node: FsNode, name: bytes) -> None:
        if name in self.children:
            TmpfsDirectory.take(self, node, name)
        else:
            self.whiteouts.add(name)
            self.changed(node)

    def replace(self, node: FsNode, name: bytes, child: FsNode) -> None:
        if name in self.children:
            TmpfsDirectory.replace(self, node, name, child)
        else:
            self.take(node, name)
            self.insert(node, name, child)

    def link(self, node: FsNode, name: bytes, child: FsNode) -> None:
        self._keep_count(child)
        TmpfsDirectory.link(self, node, name, child)

    def unlink(self, node: FsNode, name: bytes, child: FsNode) -> None:
        self._keep_count(child)
        TmpfsDirectory.unlink(self, node, name, child)

    def _keep_count(self, child: FsNode) -> None:
        """The link count of ``child`` is about to differ from its lower node's."""
        if isinstance(child.ops, OverlayNode) and child.ops.from_lower:
            self.overlay.pin(child)

    def is_empty(self, node: FsNode) -> bool:
        return not self.children and not self._lower_items()

    def _lower_items(self) -> list[DirectoryItem]:
        lower = self.lower
        if lower is None:
            return []
        listing: list[DirectoryItem] = lower.ops.list(lower)  # type: ignore[attr-defined]
        whiteouts = self.whiteouts
        return [item for item in listing if item[1] not in whiteouts] if whiteouts else listing

    def list(self, node: FsNode) -> list[DirectoryItem]:
        return self._lower_items() + TmpfsDirectory.list(self, node)


def new_overlay(kernel: Kernel, lower: FileSystem, *, size: int = 0) -> FileSystem:
    """A fresh overlay over the whole of ``lower``; ``size`` in bytes limits what may be written (0: no limit)."""
    if not lower.root.is_directory:
        raise Errno(EINVAL)
    ops = Overlay(kernel, lower, -(-size // 4096))
    fs = ops.fs = FileSystem(ops, b"overlay", b"lowerdir=" + lower.source)
    fs._inos = itertools.count(INO_LIMIT + 1)
    fs.root = ops.wrap(lower.root)
    return fs
