"""/proc/PID/mem: another address space's memory, whatever its protection says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace.vma import VmaKind
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EINVAL, EIO
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps, Result

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

CHUNK = 1 << 20


class MemoryFileOps(FileOps):
    """The file offset is the address."""

    def __init__(self, task: Task) -> None:
        self.mm = task.mm

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        done = 0
        while out.remaining and not self.mm.dead:
            vma = self.mm.find(offset + done)
            if vma is None:
                break
            count = min(out.remaining, vma.end - offset - done, CHUNK)
            position = offset + done - vma.start
            done += out.write(vma.object.read(vma.offset + position, count).ljust(count, b"\0"))
        return done or (0 if self.mm.dead or not out.remaining else -EIO)

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        done = 0
        while data.remaining and not self.mm.dead:
            vma = self.mm.find(offset + done)
            if vma is None:
                break
            if vma.kind is VmaKind.FILE:
                vma = self.mm.make_copied(vma)
            count = min(data.remaining, vma.end - offset - done, CHUNK)
            position = offset + done - vma.start
            done += vma.object.write(vma.offset + position, data.read(count))
        return done or (0 if self.mm.dead or not data.remaining else -EIO)

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if whence == 0:
            return offset & 0xFFFFFFFFFFFFFFFF
        if whence == 1:
            return (file.offset + offset) & 0xFFFFFFFFFFFFFFFF
        raise Errno(EINVAL)


class MemoryFile(FsNodeOps):
    """The node of /proc/PID/mem. Errors at open: EACCES for who may not inspect the task."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        from polynix.kernelproc.fs.proc.process import require_inspect

        require_inspect(task, self.task)
        return MemoryFileOps(self.task)

    def truncate(self, node: FsNode, length: int) -> None:
        """O_TRUNC means nothing here."""
