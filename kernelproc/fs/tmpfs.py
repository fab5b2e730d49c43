"""tmpfs: a file system in memory. The root of what guests write: /tmp, /dev/shm, memfds, and the upper half of the overlay.

A regular file starts as bytes inside the kernel process, since most files are small and short-lived, and becomes one MemoryObject (a host memfd) when it grows
past ``INLINE_MAX``, gets a hole, or is mapped. From then on read, write and every map use the same pages: coherence costs nothing.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, ClassVar, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.tmpfs_file import TmpfsFile, TmpfsNode
from polynix.kernelproc.uapi.errno import EINVAL, ENOENT, ENOSPC, ENOTEMPTY
from polynix.kernelproc.uapi.fcntl import RENAME_EXCHANGE, RENAME_WHITEOUT
from polynix.kernelproc.uapi.magic import TMPFS_MAGIC
from polynix.kernelproc.vfs.directory import FIRST_COOKIE, DirectoryItem, DirectoryOps, kind_of
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.namespace import NamespaceNode, anonymous_name
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

PAGE: Final = 4096
ENTRY_SIZE: Final = 20  # what one name adds to a directory's st_size, as in Linux's tmpfs


class Tmpfs(FileSystemOps):
    """One instance. ``page_limit`` and ``inode_limit`` are 0 when unlimited; ``used_pages`` counts what files occupy as far as the kernel has looked."""

    name = b"tmpfs"
    magic = TMPFS_MAGIC

    def __init__(self, kernel: Kernel, page_limit: int = 0, inode_limit: int = 0) -> None:
        self.kernel = kernel
        self.page_limit = page_limit
        self.inode_limit = inode_limit
        self.used_pages = 0
        self.used_inodes = 0

    def charge_inode(self) -> None:
        """Errors: ENOSPC at the limit."""
        if self.inode_limit and self.used_inodes >= self.inode_limit:
            raise Errno(ENOSPC)
        self.used_inodes += 1

    def statfs(self, fs: FileSystem) -> dict[str, int]:
        fields = {"f_type": self.magic, "f_bsize": PAGE, "f_namelen": 255, "f_frsize": PAGE}
        if self.page_limit:
            free = max(0, self.page_limit - self.used_pages)
            fields |= {"f_blocks": self.page_limit, "f_bfree": free, "f_bavail": free}
        if self.inode_limit:
            fields |= {"f_files": self.inode_limit, "f_ffree": self.inode_limit - self.used_inodes}
        return fields

    def unmount(self, fs: FileSystem) -> None:
        _release(fs.root)


def _release(node: FsNode) -> None:
    """Free the content of a tree that nobody can reach any more, now rather than when Python's collector comes by."""
    nodes = [node]
    for each in nodes:
        ops = each.ops
        if isinstance(ops, TmpfsDirectory):
            nodes += [child for _, child in ops.children.values()]
        elif isinstance(ops, TmpfsFile) and each.opens == 0:
            ops.forget(each)


class TmpfsSymlink(TmpfsNode):
    """A symbolic link."""

    def __init__(self, target: bytes) -> None:
        super().__init__()
        self.target = target

    def readlink(self, node: FsNode, task: Task) -> bytes:
        return self.target


class TmpfsDirectory(TmpfsNode):
    """A directory: names to (cookie, node), cookies growing in the dictionary's order."""

    empty_size: ClassVar[int] = 2 * ENTRY_SIZE
    entry_size: ClassVar[int] = ENTRY_SIZE

    def __init__(self) -> None:
        super().__init__()
        self.children: dict[bytes, tuple[int, FsNode]] = {}
        self.next_cookie = FIRST_COOKIE
        self.version = 0

    # names ----------------------------------------------------------------------------------------------------------------------------------
    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        found = self.children.get(name)
        if found is None:
            raise Errno(ENOENT)
        return found[1]

    def insert(self, node: FsNode, name: bytes, child: FsNode) -> None:
        """Add a name for ``child``; the caller counts links."""
        self.children[name] = (self.next_cookie, child)
        self.next_cookie += 1
        self.changed(node)
        node.size += self.entry_size

    def take(self, node: FsNode, name: bytes) -> None:
        """Remove a name; the caller counts links."""
        del self.children[name]
        self.changed(node)
        node.size -= self.entry_size

    def replace(self, node: FsNode, name: bytes, child: FsNode) -> None:
        """Let an existing name mean ``child``; the caller counts links."""
        self.children[name] = (self.children[name][0], child)
        self.changed(node)

    def changed(self, node: FsNode) -> None:
        """Names changed: new times, and open descriptions list anew."""
        self.version += 1
        node.mtime_ns = node.ctime_ns = node.fs.now_ns()

    def count_subdirectories(self, node: FsNode, change: int) -> None:
        """Keep the link count of a directory. A count of 1 means that the file system below doesn't count (btrfs): leave it."""
        if node.nlink > 1:
            node.nlink += change

    def is_empty(self, node: FsNode) -> bool:
        """Whether rmdir may remove it."""
        return not self.children

    def list(self, node: FsNode) -> list[DirectoryItem]:
        return [DirectoryItem(cookie, name, child.ino, kind_of(child.mode)) for name, (cookie, child) in self.children.items()]

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return DirectoryOps(self)

    # new nodes ------------------------------------------------------------------------------------------------------------------------------
    def new_directory_ops(self) -> TmpfsDirectory:
        """The operations of a new directory in this file system."""
        return TmpfsDirectory()

    def new_file_ops(self) -> TmpfsFile:
        """The operations of a new regular file."""
        return TmpfsFile()

    def mkdir(self, node: FsNode, name: bytes, mode: int, uid: int, gid: int) -> FsNode:
        child = new_node(node.fs, stat.S_IFDIR | stat.S_IMODE(mode), self.new_directory_ops(), uid, gid, nlink=2)
        child.size = self.empty_size
        self.insert(node, name, child)
        self.count_subdirectories(node, 1)
        return child

    def mknod(self, node: FsNode, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> FsNode:
        ops = self.new_file_ops() if stat.S_ISREG(mode) else TmpfsNode()
        child = new_node(node.fs, mode, ops, uid, gid, rdev=rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0)
        self.insert(node, name, child)
        return child

    def symlink(self, node: FsNode, name: bytes, target: bytes, uid: int, gid: int) -> FsNode:
        child = new_node(node.fs, stat.S_IFLNK | 0o777, TmpfsSymlink(target), uid, gid)
        child.size = len(target)
        self.insert(node, name, child)
        return child

    def create_tmpfile(self, node: FsNode, mode: int, uid: int, gid: int) -> FsNode:
        return new_node(node.fs, mode, self.new_file_ops(), uid, gid, nlink=0)

    # links ----------------------------------------------------------------------------------------------------------------------------------
    def link(self, node: FsNode, name: bytes, child: FsNode) -> None:
        child.nlink += 1
        child.ctime_ns = node.fs.now_ns()
        self.insert(node, name, child)

    def unlink(self, node: FsNode, name: bytes, child: FsNode) -> None:
        self.take(node, name)
        child.nlink -= 1
        child.ctime_ns = node.mtime_ns

    def rmdir(self, node: FsNode, name: bytes, child: FsNode) -> None:
        ops = child.ops
        assert isinstance(ops, TmpfsDirectory)
        if not ops.is_empty(child):
            raise Errno(ENOTEMPTY)
        self.take(node, name)
        self.count_subdirectories(node, -1)
        child.nlink = 0
        child.ctime_ns = node.mtime_ns

    def rename(self, node: FsNode, name: bytes, child: FsNode, new_parent: FsNode, new_name: bytes, replaced: FsNode | None, flags: int) -> None:
        target = new_parent.ops
        assert isinstance(target, TmpfsDirectory)
        if flags & RENAME_EXCHANGE:
            assert replaced is not None
            self.replace(node, name, replaced)
            target.replace(new_parent, new_name, child)
        else:
            if replaced is not None:
                if replaced.is_directory:
                    target.rmdir(new_parent, new_name, replaced)
                else:
                    target.unlink(new_parent, new_name, replaced)
            self.take(node, name)
            target.insert(new_parent, new_name, child)
            if flags & RENAME_WHITEOUT:
                self.insert(node, name, new_node(node.fs, stat.S_IFCHR, TmpfsNode(), 0, 0))
        if node is not new_parent:
            for moved, source, destination in ((child, node, new_parent), (replaced if flags & RENAME_EXCHANGE else None, new_parent, node)):
                if moved is not None and moved.is_directory:
                    self.count_subdirectories(source, -1)
                    self.count_subdirectories(destination, 1)
        child.ctime_ns = node.fs.now_ns()
        if flags & RENAME_EXCHANGE and replaced is not None:
            replaced.ctime_ns = child.ctime_ns


def new_node(fs: FileSystem, mode: int, ops: TmpfsNode, uid: int, gid: int, *, rdev: int = 0, nlink: int = 1) -> FsNode:
    """A node with the next inode number, charged to the instance. Errors: ENOSPC."""
    instance = fs.ops
    assert isinstance(instance, Tmpfs)
    instance.charge_inode()
    return FsNode(fs, fs.new_ino(), mode, ops, uid=uid, gid=gid, rdev=rdev, nlink=nlink)


def new_tmpfs(
    kernel: Kernel,
    *,
    mode: int = 0o1777,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    inodes: int = 0,
    source: bytes = b"tmpfs",
    options: bytes = b"",
    ops: Tmpfs | None = None,
) -> FileSystem:
    """A fresh instance; ``size`` in bytes and ``inodes`` limit it (0: no limit)."""
    fs = FileSystem(ops or Tmpfs(kernel, -(-size // PAGE), inodes), source, options)
    fs.root = new_node(fs, stat.S_IFDIR | mode, TmpfsDirectory(), uid, gid, nlink=2)
    fs.root.size = TmpfsDirectory.empty_size
    return fs


def make_tmpfs(kernel: Kernel, task: Task | None, source: bytes, flags: int, data: bytes) -> FileSystem:
    """mount -t tmpfs with the options of tmpfs(5): size, nr_blocks, nr_inodes, mode, uid, gid. Errors: EINVAL."""
    values = {b"size": kernel.memory_limit // 2, b"nr_inodes": 0, b"mode": 0o1777, b"uid": 0, b"gid": 0}
    if task is not None:
        values[b"uid"], values[b"gid"] = task.credentials.fsuid, task.credentials.fsgid
    for option in filter(None, data.split(b",")):
        key, _, value = option.partition(b"=")
        try:
            if key == b"size":
                values[key] = kernel.memory_limit * int(value[:-1]) // 100 if value.endswith(b"%") else parse_size(value)
            elif key == b"nr_blocks":
                values[b"size"] = parse_size(value) * PAGE
            elif key == b"nr_inodes":
                values[key] = parse_size(value)
            elif key == b"mode":
                values[key] = int(value, 8) & 0o7777
            elif key in (b"uid", b"gid"):
                values[key] = int(value)
            elif key not in (b"huge", b"inode32", b"inode64", b"mpol", b"noswap"):
                raise Errno(EINVAL)
        except ValueError:
            raise Errno(EINVAL)
    return new_tmpfs(
        kernel,
        mode=values[b"mode"],
        uid=values[b"uid"],
        gid=values[b"gid"],
        size=values[b"size"],
        inodes=values[b"nr_inodes"],
        source=source,
        options=data,
    )


def parse_size(value: bytes) -> int:
    """A number with an optional k, m or g. Raises ValueError."""
    shift = {b"k": 10, b"m": 20, b"g": 30, b"t": 40}.get(value[-1:].lower(), 0)
    return int(value[:-1] if shift else value, 0) << shift


__all__ = ["Tmpfs", "TmpfsDirectory", "TmpfsFile", "TmpfsNode", "TmpfsSymlink", "make_tmpfs", "new_node", "new_tmpfs", "parse_size"]


class _Shmem:
    """The kernel's internal instance for files that no mount shows (Linux's shm_mnt)."""

    def __init__(self) -> None:
        self.fs: FileSystem | None = None


def new_memfd_node(kernel: Kernel, name: bytes, seals: int) -> NamespaceNode:
    """A regular file without a name in any directory; ``seals`` are the F_SEAL_* it starts with (F_SEAL_SEAL unless MFD_ALLOW_SEALING)."""
    holder = kernel.expando.get(_Shmem)
    if holder.fs is None:
        holder.fs = new_tmpfs(kernel)
    place = anonymous_name(new_node(holder.fs, stat.S_IFREG | 0o777, TmpfsFile(seals), 0, 0, nlink=0), b"/memfd:" + name)
    place.entry.deleted = True
    return place
