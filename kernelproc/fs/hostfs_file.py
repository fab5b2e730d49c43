"""Nodes of hostfs that are no directories: regular files with the host's content, symbolic links, and mere names of fifos, sockets and devices."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.host_call import call
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL, ENXIO, EOPNOTSUPP, ESTALE
from polynix.kernelproc.uapi.fcntl import SEEK_DATA, SEEK_HOLE
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps, Result

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.kernelproc.fs.hostfs import HostDirectory, HostFs
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

_OPEN_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SLOW_READ: Final = 1 << 20  # bytes that one job of a kthread reads


class HostNode(FsNodeOps):
    """A name in a host directory. ``key`` is the host's (st_dev, st_ino): what is opened by name later must still be that."""

    def __init__(self, host: HostFs, parent: HostDirectory | None, name: bytes, key: tuple[int, int]) -> None:
        self.host = host
        self.parent = parent
        self.name = name
        self.key = key

    def path(self) -> bytes:
        """The path below the root."""
        parts = []
        node: HostNode = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts)) or b"."

    def open_path(self) -> int:
        """A new O_PATH descriptor of exactly this inode. Errors: ENOENT, ESTALE when the name means another one now."""
        if self.parent is None:
            return call(os.dup, self.host.root_fd)
        fd = call(os.open, self.name, _OPEN_PATH, dir_fd=self.parent.directory_fd())
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != self.key:
            os.close(fd)
            raise Errno(ESTALE)
        return fd

    def refresh(self, node: FsNode) -> None:
        if self.host.immutable:
            return
        try:
            if self.parent is None:
                status = os.fstat(self.host.root_fd)
            else:
                status = os.stat(self.name, dir_fd=self.parent.directory_fd(), follow_symlinks=False)
        except (OSError, Errno):
            return  # gone from the host: show what was
        if (status.st_dev, status.st_ino) == self.key:
            self.host.show(node, status)

    def readlink(self, node: FsNode, task: Task) -> bytes:
        if not node.is_symlink or self.parent is None:
            raise Errno(EINVAL)
        return os.fsencode(call(os.readlink, self.name, dir_fd=self.parent.directory_fd()))

    def get_xattr(self, node: FsNode, name: bytes) -> bytes:
        fd = self.open_path()
        try:
            return call(os.getxattr, f"/proc/self/fd/{fd}", name)
        finally:
            os.close(fd)

    def list_xattrs(self, node: FsNode) -> list[bytes]:
        fd = self.open_path()
        try:
            return [os.fsencode(name) for name in call(os.listxattr, f"/proc/self/fd/{fd}")]
        except Errno as error:
            if error.errno == EOPNOTSUPP:
                return []
            raise
        finally:
            os.close(fd)


class HostFile(HostNode):
    """A regular file of the host."""

    def open_host(self, flags: int) -> int:
        """A new host descriptor for I/O, through an O_PATH one that was looked at first. Errors: ESTALE, EACCES and the host's others."""
        path_fd = self.open_path()
        try:
            if not stat.S_ISREG(os.fstat(path_fd).st_mode):
                raise Errno(ESTALE)
            return call(os.open, f"/proc/self/fd/{path_fd}", flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        finally:
            os.close(path_fd)

    def is_immutable(self, node: FsNode) -> bool:
        return self.host.immutable

    def memory(self) -> MemoryObject:
        """The read-only memory object of the content."""
        return self.host.file_memory(self)

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return HostFileOps(self.host, self.memory())


class HostFileOps(FileOps):
    """An open host file, read-only. What is not in the host's page cache is read by a kthread, so that a slow disk holds up nobody else."""

    def __init__(self, host: HostFs, memory: MemoryObject) -> None:
        self.host = host
        self.memory = memory
        self.nowait = os.RWF_NOWAIT

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        want = out.remaining
        done = out.write_from_fd(self.memory.fd, offset, want, self.nowait)
        if done == want or done == 0:
            return done
        return self._read_rest(file, offset, out, want, done)

    def _read_rest(self, file: FileObject, offset: int, out: OutputBuffer, want: int, done: int) -> Result:
        total = max(0, done)
        if done == -EOPNOTSUPP:
            self.nowait = 0
        elif done < 0 and done != -EAGAIN:
            return done
        while total < want:
            done = out.write_from_fd(self.memory.fd, offset + total, want - total, self.nowait)
            if done == -EAGAIN:
                if self.host.kernel.kthreads is not None:
                    return self._read_slowly(offset, out, want, total)
                self.nowait = 0
                continue
            if done == -EOPNOTSUPP and self.nowait:
                self.nowait = 0
                continue
            if done <= 0:
                return total or done
            total += done
        return total

    def _read_slowly(self, offset: int, out: OutputBuffer, want: int, total: int) -> Awaitable[int]:
        memory = self.memory
        run_in_thread = self.host.kernel.kthreads.run_in_thread

        async def read() -> int:
            done = total
            while done < want:
                try:
                    data = await run_in_thread(os.pread, memory.fd, min(want - done, _SLOW_READ), offset + done)
                except OSError as error:
                    return done or -(error.errno or 5)
                if not data:
                    break
                stored = out.write(data)
                done += stored
                if stored < len(data):
                    break
            return done

        return read()

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if whence not in (SEEK_DATA, SEEK_HOLE):
            return super().seek(file, offset, whence)
        if offset < 0:
            raise Errno(ENXIO)
        return call(os.lseek, self.memory.fd, offset, whence)

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        return self.memory, 0

    def fsync(self, file: FileObject, data_only: bool) -> Result:
        return 0
