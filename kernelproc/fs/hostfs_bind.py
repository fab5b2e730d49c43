"""Writable binds: host directories and files that guests change for real.

Names, content, times and permission bits reach the host. What would be dangerous there does not: owners, set-id bits, fifos, sockets and device nodes that a
guest makes exist in this container only, and are kept here by host inode.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.host_call import call, fallocate, rename_at
from polynix.kernelproc.fs.hostfs import HostDirectory, HostFs, mount_host, open_root
from polynix.kernelproc.fs.hostfs_file import HostFile, HostFileOps, HostNode
from polynix.kernelproc.uapi.errno import EEXIST, EINVAL, ENOENT, ENOTEMPTY, EXDEV
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_RDONLY, RENAME_EXCHANGE, RENAME_WHITEOUT
from polynix.kernelproc.uapi.mman import PROT_WRITE
from polynix.kernelproc.vfs.directory import DirectoryItem, kind_of
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps, Result

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer
    from polynix.kernelproc.vfs.dir_entry import DirEntry
    from polynix.kernelproc.vfs.file_object import FileObject

SET_ID: Final = stat.S_ISUID | stat.S_ISGID
VIRTUAL_INO: Final = 1 << 61
VIRTUAL_COOKIE: Final = 1 << 40  # directory offsets of names that the host doesn't have


class BindNode(HostNode):
    """What all nodes of a writable bind can do: change attributes."""

    host: BindFs

    def set_attributes(self, node: FsNode, changes: dict[str, int]) -> None:
        fd = self.open_path()
        path = f"/proc/self/fd/{fd}"
        try:
            status = os.fstat(fd)
            if "mode" in changes:
                mode = changes["mode"]
                if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(mode) & ~SET_ID != stat.S_IMODE(status.st_mode):
                    call(os.chmod, path, stat.S_IMODE(mode) & ~SET_ID)
                self.host.keep(self.key, "mode", mode & SET_ID, status.st_mode & SET_ID)
            if "uid" in changes:
                self.host.keep(self.key, "uid", changes["uid"], status.st_uid)
            if "gid" in changes:
                self.host.keep(self.key, "gid", changes["gid"], status.st_gid)
            if "atime_ns" in changes or "mtime_ns" in changes:
                times = (changes.get("atime_ns", status.st_atime_ns), changes.get("mtime_ns", status.st_mtime_ns))
                if not stat.S_ISLNK(status.st_mode):
                    call(os.utime, path, ns=times)
                elif self.parent is not None:
                    call(os.utime, self.name, ns=times, dir_fd=self.parent.directory_fd(), follow_symlinks=False)
        finally:
            os.close(fd)

    def set_xattr(self, node: FsNode, name: bytes, value: bytes, flags: int) -> None:
        self._with_path(os.setxattr, name, value, flags)

    def remove_xattr(self, node: FsNode, name: bytes) -> None:
        self._with_path(os.removexattr, name)

    def _with_path(self, function: Any, *arguments: Any) -> None:
        fd = self.open_path()
        try:
            call(function, f"/proc/self/fd/{fd}", *arguments)
        finally:
            os.close(fd)


class BindFile(BindNode, HostFile):
    """A regular file."""

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        writable = flags & O_ACCMODE != O_RDONLY
        return BindFileOps(self.host, self.host.file_memory(self, writable), self)

    def truncate(self, node: FsNode, length: int) -> None:
        self._with_path(os.truncate, length)
        node.size = length

    def allocate(self, node: FsNode, mode: int, offset: int, length: int) -> None:
        fallocate(self.host.file_memory(self, True).fd, mode, offset, length)
        self.refresh(node)


class BindFileOps(HostFileOps):
    """An open file, written through to the host."""

    def __init__(self, host: HostFs, memory: MemoryObject, content: BindFile) -> None:
        super().__init__(host, memory)
        self.content = content

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> int:
        done = data.read_to_fd(self.memory.fd, offset, data.remaining)
        if done > 0 and offset + done > file.node.size:
            file.node.size = offset + done
        return done

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        if self.memory.writable and not (shared and protection & PROT_WRITE):
            return self.content.memory(), 0
        return self.memory, 0

    def fsync(self, file: FileObject, data_only: bool) -> Result:
        kthreads = self.host.kernel.kthreads
        function = os.fdatasync if data_only else os.fsync
        fd = self.memory.fd

        async def sync() -> int:
            try:
                await kthreads.run_in_thread(function, fd)
            except OSError as error:
                return -(error.errno or 5)
            return 0

        return sync()


class BindFs(HostFs):
    """A host directory that may change on both sides. ``kept`` are attributes that the host doesn't get, by (st_dev, st_ino)."""

    file_class = BindFile
    node_class = BindNode

    def __init__(self, kernel: Kernel, root_fd: int) -> None:
        super().__init__(kernel, root_fd, immutable=False)
        self.kept: dict[tuple[int, int], dict[str, int]] = {}
        self.virtual: dict[tuple[int, int], dict[bytes, FsNode]] = {}  # directory -> names that only guests see

    def new_directory(self, parent: HostDirectory | None, name: bytes, key: tuple[int, int]) -> HostDirectory:
        return BindDirectory(self, parent, name, key)

    def show(self, node: FsNode, status: os.stat_result) -> None:
        super().show(node, status)
        kept = self.kept.get((status.st_dev, status.st_ino))
        if kept is not None:
            node.uid = kept.get("uid", node.uid)
            node.gid = kept.get("gid", node.gid)
            node.mode |= kept.get("mode", 0)

    def keep(self, key: tuple[int, int], attribute: str, value: int, on_host: int) -> None:
        """Remember an attribute that differs from the host's."""
        kept = self.kept.setdefault(key, {})
        if value == on_host:
            kept.pop(attribute, None)
        else:
            kept[attribute] = value
        if not kept:
            del self.kept[key]


class BindDirectory(BindNode, HostDirectory):
    """A directory."""

    @property
    def virtual(self) -> dict[bytes, FsNode]:
        """The names here that the host doesn't have."""
        return self.host.virtual.get(self.key, {})

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        found = self.virtual.get(name) if self.host.virtual else None
        return HostDirectory.lookup(self, node, name) if found is None else found

    def list(self, node: FsNode) -> list[DirectoryItem]:
        items = HostDirectory.list(self, node)
        for index, (name, child) in enumerate(self.virtual.items()):
            items.append(DirectoryItem(VIRTUAL_COOKIE + index, name, child.ino, kind_of(child.mode)))
        return items

    def _made(self, name: bytes, uid: int, gid: int, mode: int) -> FsNode:
        status = call(os.stat, name, dir_fd=self.directory_fd(), follow_symlinks=False)
        key = (status.st_dev, status.st_ino)
        self.host.keep(key, "uid", uid, status.st_uid)
        self.host.keep(key, "gid", gid, status.st_gid)
        self.host.keep(key, "mode", mode & SET_ID, 0)
        return self.host.node_of(self, name, status)

    def mkdir(self, node: FsNode, name: bytes, mode: int, uid: int, gid: int) -> FsNode:
        fd = self.directory_fd()
        call(os.mkdir, name, 0o700, dir_fd=fd)
        call(os.chmod, name, stat.S_IMODE(mode) & ~SET_ID, dir_fd=fd)
        return self._made(name, uid, gid, mode)

    def mknod(self, node: FsNode, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> FsNode:
        if not stat.S_ISREG(mode):
            if self._exists(name):
                raise Errno(EEXIST)
            child = FsNode(self.host.fs, VIRTUAL_INO | self.host.fs.new_ino(), mode, VirtualNode(), uid=uid, gid=gid, rdev=rdev)
            self.host.virtual.setdefault(self.key, {})[name] = child
            return child
        fd = call(os.open, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.directory_fd())
        try:
            call(os.fchmod, fd, stat.S_IMODE(mode) & ~SET_ID)
        finally:
            os.close(fd)
        return self._made(name, uid, gid, mode)

    def _exists(self, name: bytes) -> bool:
        try:
            os.stat(name, dir_fd=self.directory_fd(), follow_symlinks=False)
        except OSError:
            return False
        return True

    def symlink(self, node: FsNode, name: bytes, target: bytes, uid: int, gid: int) -> FsNode:
        call(os.symlink, target, name, dir_fd=self.directory_fd())
        return self._made(name, uid, gid, 0)

    def link(self, node: FsNode, name: bytes, child: FsNode) -> None:
        ops = child.ops
        if not isinstance(ops, HostNode) or ops.parent is None:
            raise Errno(EXDEV)
        source, target = ops.parent.directory_fd(), call(os.dup, self.directory_fd())
        try:
            call(os.link, ops.name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(target)
        ops.refresh(child)

    def unlink(self, node: FsNode, name: bytes, child: FsNode) -> None:
        if name in self.virtual:
            del self.virtual[name]
            child.nlink -= 1
            return
        call(os.unlink, name, dir_fd=self.directory_fd())
        child.nlink -= 1
        if child.nlink == 0 and isinstance(child.ops, HostNode):
            self.host.kept.pop(child.ops.key, None)

    def rmdir(self, node: FsNode, name: bytes, child: FsNode) -> None:
        ops = child.ops
        assert isinstance(ops, BindDirectory)
        if ops.virtual:
            raise Errno(ENOTEMPTY)
        call(os.rmdir, name, dir_fd=self.directory_fd())
        self.host.forget_directory(ops)
        self.host.kept.pop(ops.key, None)
        child.nlink = 0

    def rename(self, node: FsNode, name: bytes, child: FsNode, new_parent: FsNode, new_name: bytes, replaced: FsNode | None, flags: int) -> None:
        target = new_parent.ops
        assert isinstance(target, BindDirectory)
        if flags & RENAME_WHITEOUT:
            raise Errno(EINVAL)
        if name in self.virtual or new_name in target.virtual:
            self._rename_virtual(name, child, target, new_parent, new_name, replaced, flags)
            return
        source_fd = call(os.dup, self.directory_fd())
        try:
            rename_at(source_fd, name, target.directory_fd(), new_name, flags)
        finally:
            os.close(source_fd)
        if isinstance(child.ops, HostNode):
            child.ops.parent, child.ops.name = target, new_name
        if replaced is not None and isinstance(replaced.ops, HostNode):
            if flags & RENAME_EXCHANGE:
                replaced.ops.parent, replaced.ops.name = self, name
            else:
                replaced.nlink = 0 if replaced.is_directory else replaced.nlink - 1

    def _rename_virtual(
        self, name: bytes, child: FsNode, target: BindDirectory, new_parent: FsNode, new_name: bytes, replaced: FsNode | None, flags: int
    ) -> None:
        """Move a name that the host doesn't have, or something over one."""
        if flags & RENAME_EXCHANGE:
            raise Errno(EINVAL)
        if replaced is not None:
            target.unlink(new_parent, new_name, replaced)
        if name in self.virtual:
            del self.virtual[name]
            self.host.virtual.setdefault(target.key, {})[new_name] = child
        else:
            self.rename(new_parent, name, child, new_parent, new_name, None, flags)


class VirtualNode(FsNodeOps):
    """A fifo, socket or device node that exists in the container only."""


def new_bind(kernel: Kernel, source: bytes, *, read_only: bool) -> tuple[FileSystem, DirEntry]:
    """The file system and the entry to mount for the host file or directory ``source``. Errors: those of opening it."""
    source = os.path.realpath(source)
    if os.path.isdir(source):
        fs = mount_host(BindFs(kernel, open_root(source)), source, read_only=read_only)
        return fs, fs.root_entry
    directory, name = os.path.split(source)
    fs = mount_host(BindFs(kernel, open_root(directory)), source, read_only=read_only)
    entry = fs.root_entry.lookup(name)
    if entry.node is None:
        raise Errno(ENOENT)
    return fs, entry
