"""hostfs: a directory of the host as a file system. The only way in which host files enter a container.

Everything is opened beneath the root's descriptor (``openat2`` with RESOLVE_BENEATH, no magic links, no symbolic links; single names through ``*at`` calls on
such directories), as O_PATH first, and only regular files are then opened for real: fifos, sockets and devices of the host's tree become guest objects of the
same kind and number, so that opening them never reaches the host. No guest path is ever given to the host as a path.

*Immutable* instances (the overlay's lower tree) believe what they saw once: names and attributes are cached for ever. The others (binds) look again each time.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Final
from weakref import WeakValueDictionary

from polynix.addrspace._usercopy import MemoryObject
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.host_call import call, open_beneath
from polynix.kernelproc.fs.hostfs_file import HostFile, HostNode
from polynix.kernelproc.uapi.errno import ESTALE
from polynix.kernelproc.uapi.magic import HOSTFS_SUPER_MAGIC
from polynix.kernelproc.vfs.directory import FIRST_COOKIE, DirectoryItem, DirectoryOps
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

DIRECTORY_FDS_MAX: Final = 512  # O_PATH descriptors of directories kept for the next look-up
INO_LIMIT: Final = 1 << 46  # inode numbers from here to 2^47 are for file systems above this one (overlay)
OPEN_FILES_MAX: Final = 256  # closed files whose descriptor is kept for the next open


class HostFs(FileSystemOps):
    """One host directory. ``root_fd`` is its O_PATH descriptor, closed once nobody refers to the file system. Writable ones are :class:`hostfs_bind.BindFs`."""

    name = b"hostfs"
    magic = HOSTFS_SUPER_MAGIC

    file_class: ClassVar[type[HostFile]] = HostFile
    node_class: ClassVar[type[HostNode]] = HostNode

    def __init__(self, kernel: Kernel, root_fd: int, *, immutable: bool) -> None:
        self.kernel = kernel
        self.root_fd = root_fd
        self.immutable = immutable
        self.root_dev = os.fstat(root_fd).st_dev
        self.fs: FileSystem = None  # type: ignore[assignment]  # set by new_hostfs
        self._devs: dict[int, int] = {self.root_dev: 0}
        self._large_inos: dict[tuple[int, int], int] = {}
        self._nodes: WeakValueDictionary[tuple[int, int], FsNode] = WeakValueDictionary()
        self._directory_fds: OrderedDict[HostDirectory, int] = OrderedDict()
        self._open_files: OrderedDict[tuple[HostFile, bool], MemoryObject] = OrderedDict()

    def __del__(self) -> None:
        self.close()  # unmounted or not: a detached mount may have been in use until now
        os.close(self.root_fd)

    # nodes ----------------------------------------------------------------------------------------------------------------------------------
    def node_of(self, parent: HostDirectory | None, name: bytes, status: os.stat_result) -> FsNode:
        """The node of a host inode that was just seen as ``name`` in ``parent``. Hard links share a node."""
        mode = status.st_mode
        # An immutable tree needs the table for hard links only; a changing one also to recognise what it saw before.
        shared = not self.immutable or (status.st_nlink > 1 and not stat.S_ISDIR(mode))
        key = (status.st_dev, status.st_ino)
        if shared:
            node = self._nodes.get(key)
            if node is not None and stat.S_IFMT(node.mode) == stat.S_IFMT(mode):
                ops = node.ops
                assert isinstance(ops, HostNode)
                ops.parent, ops.name = parent, name
                self.show(node, status)
                return node
        ops = self._ops_for(mode, parent, name, key)
        node = FsNode(self.fs, self.ino(*key), mode, ops, uid=status.st_uid, gid=status.st_gid, rdev=status.st_rdev, nlink=status.st_nlink)
        self.show(node, status)
        if shared:
            self._nodes[key] = node
        return node

    def _ops_for(self, mode: int, parent: HostDirectory | None, name: bytes, key: tuple[int, int]) -> HostNode:
        if stat.S_ISDIR(mode):
            return self.new_directory(parent, name, key)
        return (self.file_class if stat.S_ISREG(mode) else self.node_class)(self, parent, name, key)

    def new_directory(self, parent: HostDirectory | None, name: bytes, key: tuple[int, int]) -> HostDirectory:
        """The operations of a directory."""
        return HostDirectory(self, parent, name, key)

    def show(self, node: FsNode, status: os.stat_result) -> None:
        """Copy the host's attributes to the node."""
        node.mode = status.st_mode
        node.uid = status.st_uid
        node.gid = status.st_gid
        node.nlink = status.st_nlink
        node.size = status.st_size
        node.blocks = status.st_blocks
        node.blksize = status.st_blksize
        node.atime_ns = status.st_atime_ns
        node.mtime_ns = node.btime_ns = status.st_mtime_ns
        node.ctime_ns = status.st_ctime_ns

    def ino(self, dev: int, ino: int) -> int:
        """What the guest sees of a host inode number: the same below 2^46, and other host file systems below the root apart by their high bits."""
        index = self._devs.get(dev)
        if index is None:
            index = self._devs[dev] = len(self._devs)
        if ino < INO_LIMIT:
            return ino if not index else index << 47 | ino
        number = self._large_inos.get((dev, ino))
        if number is None:
            number = self._large_inos[dev, ino] = 1 << 62 | len(self._large_inos)
        return number

    # descriptors ----------------------------------------------------------------------------------------------------------------------------
    def directory_fd(self, directory: HostDirectory) -> int:
        """An O_PATH descriptor of ``directory``, valid until the next call. Errors: ENOENT, ESTALE when the host's tree changed."""
        fds = self._directory_fds
        fd = fds.get(directory)
        if fd is not None:
            fds.move_to_end(directory)
            return fd
        parent = directory.parent
        if parent is None:
            return self.root_fd
        fd = open_beneath(self.root_fd, directory.path(), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != directory.key:
            os.close(fd)
            raise Errno(ESTALE)
        fds[directory] = fd
        if len(fds) > DIRECTORY_FDS_MAX:
            os.close(fds.popitem(last=False)[1])
        return fd

    def forget_directory(self, directory: HostDirectory) -> None:
        """Close the cached descriptor (the directory was removed or moved)."""
        fd = self._directory_fds.pop(directory, None)
        if fd is not None:
            os.close(fd)

    def file_memory(self, file: HostFile, writable: bool = False) -> MemoryObject:
        """The content of a regular file as a memory object around a host descriptor; kept for some time after its last user."""
        files = self._open_files
        memory = files.get((file, writable))
        if memory is not None:
            files.move_to_end((file, writable))
            return memory
        memory = MemoryObject(file.open_host(os.O_RDWR if writable else os.O_RDONLY), writable, True)
        files[file, writable] = memory
        if len(files) > OPEN_FILES_MAX:
            files.popitem(last=False)  # closed with its last user
        return memory

    def statfs(self, fs: FileSystem) -> dict[str, int]:
        status = call(os.fstatvfs, self.root_fd)
        fields = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
        return {"f_type": self.magic, "f_namelen": status.f_namemax} | {name: getattr(status, name) for name in fields}

    def unmount(self, fs: FileSystem) -> None:
        self.close()

    def close(self) -> None:
        """Give up all host descriptors that nobody else holds."""
        while self._directory_fds:
            os.close(self._directory_fds.popitem()[1])
        self._open_files.clear()


class HostDirectory(HostNode):
    """A host directory."""

    def __init__(self, host: HostFs, parent: HostDirectory | None, name: bytes, key: tuple[int, int]) -> None:
        super().__init__(host, parent, name, key)
        self.volatile = not host.immutable  # type: ignore[misc]  # per instance
        self._cookies: dict[bytes, int] = {}

    @property
    def version(self) -> int:
        """Changes when the names may have."""
        return 0 if self.host.immutable else call(os.stat, b".", dir_fd=self.directory_fd()).st_mtime_ns

    def directory_fd(self) -> int:
        """See :meth:`HostFs.directory_fd`."""
        return self.host.directory_fd(self)

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        status = call(os.stat, name, dir_fd=self.directory_fd(), follow_symlinks=False)
        return self.host.node_of(self, name, status)

    def list(self, node: FsNode) -> list[DirectoryItem]:
        fd = call(os.open, b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directory_fd())
        try:
            with os.scandir(fd) as entries:
                ino, dev = self.host.ino, self.key[0]
                found = [(os.fsencode(entry.name), ino(dev, entry.inode()), _kind(entry)) for entry in entries]
        finally:
            os.close(fd)
        if self.host.immutable:
            return [DirectoryItem(cookie, name, inode, kind) for cookie, (name, inode, kind) in enumerate(found, FIRST_COOKIE)]
        cookies = self._cookies
        for name, _, _ in found:
            if name not in cookies:
                cookies[name] = FIRST_COOKIE + len(cookies)
        return sorted(DirectoryItem(cookies[name], name, inode, kind) for name, inode, kind in found)

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        self.directory_fd()
        return DirectoryOps(self)


def _kind(entry: os.DirEntry[str]) -> int:
    """DT_* from what readdir said; what is none of the three is DT_UNKNOWN, and programs then ask."""
    if entry.is_symlink():
        return 10
    if entry.is_dir(follow_symlinks=False):
        return 4
    return 8 if entry.is_file(follow_symlinks=False) else 0


def new_hostfs(kernel: Kernel, path: bytes, *, immutable: bool = True) -> FileSystem:
    """The host directory ``path`` as a read-only file system. Errors: those of opening it."""
    return mount_host(HostFs(kernel, open_root(path), immutable=immutable), path, read_only=True)


def open_root(path: bytes) -> int:
    """The O_PATH descriptor of a host directory that the user named."""
    return call(os.open, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def mount_host(ops: HostFs, source: bytes, *, read_only: bool) -> FileSystem:
    """A file system of ``ops``, rooted at its root descriptor."""
    fs = ops.fs = FileSystem(ops, source, read_only=read_only)
    fs.root = ops.node_of(None, b"", os.fstat(ops.root_fd))
    return fs
