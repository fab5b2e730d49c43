"""Nodes of the overlay that are no directories: what a lower node is behind, and regular files with their copy-up."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from polynix.addrspace.paged_memory import PagedMemory, require
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.host_call import call
from polynix.kernelproc.fs.tmpfs_file import INLINE_MAX, TmpfsFile, TmpfsFileOps, TmpfsNode, new_memory_object
from polynix.kernelproc.uapi.errno import EIO
from polynix.kernelproc.uapi.fcntl import O_ACCMODE, O_RDONLY, O_TRUNC
from polynix.kernelproc.vfs.ops import FileOps, Result

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.kernelproc.fs.overlay import Overlay
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode


SLOW_COPY: Final = 8 << 20  # a copy-up of this many bytes (5 ms or more) is not done in the loop


class OverlayNode(TmpfsNode):
    """A node with, perhaps, a ``lower`` one behind it. By itself a fifo, socket or device node."""

    def __init__(self, overlay: Overlay, lower: FsNode | None) -> None:
        super().__init__()
        self.overlay = overlay
        self.lower = lower
        self.from_lower = lower is not None  # and so it stays after copy-up

    def set_attributes(self, node: FsNode, changes: dict[str, int]) -> None:
        if self.from_lower:
            self.overlay.pin(node)

    # Extended attributes are read from the lower node all at once, when first asked for.
    def _load_xattrs(self) -> None:
        lower = self.lower
        if self.xattrs is None and lower is not None:
            self.xattrs = {}
            try:
                for name in lower.ops.list_xattrs(lower):
                    self.xattrs[name] = lower.ops.get_xattr(lower, name)
            except Errno:
                pass  # the lower tree can't or won't say

    def get_xattr(self, node: FsNode, name: bytes) -> bytes:
        self._load_xattrs()
        return super().get_xattr(node, name)

    def list_xattrs(self, node: FsNode) -> list[bytes]:
        self._load_xattrs()
        return super().list_xattrs(node)

    def set_xattr(self, node: FsNode, name: bytes, value: bytes, flags: int) -> None:
        self._load_xattrs()
        self.set_attributes(node, {})
        super().set_xattr(node, name, value, flags)

    def remove_xattr(self, node: FsNode, name: bytes) -> None:
        self._load_xattrs()
        self.set_attributes(node, {})
        super().remove_xattr(node, name)

    def uncharge(self, node: FsNode) -> None:
        if self.from_lower:
            self.overlay.unpin(node)
        else:
            super().uncharge(node)


class OverlaySymlink(OverlayNode):
    """A symbolic link of the lower tree."""

    def readlink(self, node: FsNode, task: Task) -> bytes:
        lower: Any = self.lower
        return lower.ops.readlink(lower, task)  # type: ignore[no-any-return]


class OverlayFile(OverlayNode, TmpfsFile):
    """A regular file. While ``lower`` is set the content is the lower file's, and ``data`` and ``memory`` are None."""

    def __init__(self, overlay: Overlay, lower: FsNode | None) -> None:
        TmpfsFile.__init__(self)
        OverlayNode.__init__(self, overlay, lower)
        if lower is not None:
            self.data = None

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        lower = self.lower
        if lower is None:
            return TmpfsFileOps(self)
        if flags & O_ACCMODE != O_RDONLY:
            self.copy_up(node, 0 if flags & O_TRUNC else node.size)
            return TmpfsFileOps(self)
        return OverlayFileOps(self, lower.ops.create_file_ops(lower, task, O_RDONLY))

    def is_immutable(self, node: FsNode) -> bool:
        return self.lower is not None and self.lower.ops.is_immutable(self.lower)

    def prepare_open(self, node: FsNode, flags: int) -> Awaitable[None] | None:
        lower, kthreads = self.lower, self.overlay.kernel.kthreads
        if lower is None or flags & O_TRUNC or node.size < SLOW_COPY or kthreads is None:
            return None
        return self._copy_up_slowly(node)

    async def _copy_up_slowly(self, node: FsNode) -> None:
        """Copy up on a kthread, while other guests go on."""
        content: MemoryObject = self.lower.ops.memory()  # type: ignore[union-attr]
        size = min(node.size, content.size())
        memory = new_memory_object(self.overlay.kernel, size)
        if isinstance(content, PagedMemory):
            try:
                await content.require_later(0, size)
            except OSError as error:
                raise Errno(error.errno or EIO) from None
        await self.overlay.kernel.kthreads.run_in_thread(call, memory.copy_from, content, 0, 0, size)
        if self.lower is not None:  # nobody was faster
            self._load_xattrs()
            node.size = size
            self._became_upper(node, memory)

    def copy_up(self, node: FsNode, length: int) -> None:
        """Take the first ``length`` bytes of the lower file over; from now on the content is in memory."""
        lower = self.lower
        if lower is None:
            return
        self._load_xattrs()
        memory = None
        if length == 0:
            self.data = bytearray()
        else:
            content: MemoryObject = lower.ops.memory()  # type: ignore[attr-defined]
            if length <= INLINE_MAX:
                self.data = bytearray(call(content.read, 0, length))
                node.size = len(self.data)
            else:
                size = min(length, content.size())
                memory = new_memory_object(self.overlay.kernel, size)
                call(require, content, 0, size)
                call(memory.copy_from, content, 0, 0, size)
                node.size = size
        if length == 0:
            node.size = 0
        self._became_upper(node, memory)

    def _became_upper(self, node: FsNode, memory: MemoryObject | None) -> None:
        self.memory = memory
        self.overlay.pin(node)
        self.lower = None
        node.btime_ns = node.fs.now_ns()
        self.account(node)

    def memory_of(self, node: FsNode) -> MemoryObject:
        if self.lower is not None:
            self.copy_up(node, node.size)
        return super().memory_of(node)

    def truncate(self, node: FsNode, length: int) -> None:
        self.copy_up(node, min(length, node.size))
        super().truncate(node, length)


class OverlayFileOps(TmpfsFileOps):
    """A file that was opened for reading before it was copied up: reads from below until that happens, and sees what is written afterwards."""

    content: OverlayFile

    def __init__(self, content: OverlayFile, below: FileOps) -> None:
        super().__init__(content)
        self.below = below

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        if self.content.lower is not None:
            return self.below.read(file, offset, out)
        return super().read(file, offset, out)

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if self.content.lower is not None:
            return self.below.seek(file, offset, whence)
        return super().seek(file, offset, whence)

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        if self.content.lower is not None:
            return self.below.get_memory(file, task, length, offset, protection, shared)
        return super().get_memory(file, task, length, offset, protection, shared)
