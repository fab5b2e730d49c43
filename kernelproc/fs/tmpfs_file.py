"""Nodes of tmpfs that hold something: extended attributes, and the content of regular files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import MemoryObject
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.host_call import call, fallocate
from polynix.kernelproc.uapi.errno import EBUSY, EEXIST, EFBIG, EINVAL, EMFILE, ENFILE, ENODATA, ENOSPC, ENXIO, EOPNOTSUPP, EPERM
from polynix.kernelproc.uapi.fcntl import (
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    SEEK_DATA,
    SEEK_HOLE,
)
from polynix.kernelproc.uapi.mman import PROT_WRITE
from polynix.kernelproc.uapi.xattr import XATTR_CREATE, XATTR_REPLACE
from polynix.kernelproc.vfs.attributes import accessed
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps, Result

if TYPE_CHECKING:
    from polynix.kernelproc.fs.tmpfs import Tmpfs
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

PAGE: Final = 4096
ALL_SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
INLINE_MAX: Final = 16384  # content up to here lives in the kernel process
MAX_FILE_SIZE: Final = (1 << 63) - 1


class TmpfsNode(FsNodeOps):
    """Any node of a tmpfs; by itself a fifo, socket or device node, which the VFS opens by its mode."""

    def __init__(self) -> None:
        self.xattrs: dict[bytes, bytes] | None = None

    def get_xattr(self, node: FsNode, name: bytes) -> bytes:
        value = None if self.xattrs is None else self.xattrs.get(name)
        if value is None:
            raise Errno(ENODATA)
        return value

    def set_xattr(self, node: FsNode, name: bytes, value: bytes, flags: int) -> None:
        if name.startswith(b"system."):
            raise Errno(EOPNOTSUPP)
        if self.xattrs is None:
            self.xattrs = {}
        if flags & XATTR_CREATE and name in self.xattrs:
            raise Errno(EEXIST)
        if flags & XATTR_REPLACE and name not in self.xattrs:
            raise Errno(ENODATA)
        self.xattrs[name] = value

    def list_xattrs(self, node: FsNode) -> list[bytes]:
        return list(self.xattrs or ())

    def remove_xattr(self, node: FsNode, name: bytes) -> None:
        if self.xattrs is None or name not in self.xattrs:
            raise Errno(ENODATA)
        del self.xattrs[name]

    def forget(self, node: FsNode) -> None:
        self.uncharge(node)

    def uncharge(self, node: FsNode) -> None:
        """The inode is free again."""
        instance: Tmpfs = node.fs.ops  # type: ignore[assignment]
        instance.used_inodes -= 1


class TmpfsFile(TmpfsNode):
    """A regular file. Its content is ``data`` (inline) or ``memory``, never both; ``node.size`` is the size of either.

    ``seals`` are F_SEAL_* (a file that is no memfd is sealed against sealing only).
    """

    def __init__(self, seals: int = F_SEAL_SEAL) -> None:
        super().__init__()
        self.data: bytearray | None = bytearray()
        self.memory: MemoryObject | None = None
        self.seals = seals
        self.charged = 0  # pages counted in the instance

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return TmpfsFileOps(self)

    def memory_of(self, node: FsNode) -> MemoryObject:
        """The memory object of the content, made now if it was inline."""
        memory = self.memory
        if memory is None:
            memory = new_memory_object(node.fs.ops.kernel, node.size)  # type: ignore[attr-defined]
            if self.data:
                call(memory.write, 0, self.data)
            self.memory, self.data = memory, None
            self.account(node)
        return memory

    def account(self, node: FsNode) -> None:
        """Bring ``node.blocks`` and the instance's count up to what the content occupies."""
        if self.memory is not None:
            node.blocks = self.memory.resident() >> 9
        elif self.data is not None:
            node.blocks = -(-len(self.data) // PAGE) << 3
        self.charge(node, node.blocks >> 3)

    def charge(self, node: FsNode, pages: int) -> None:
        """The content occupies ``pages`` now."""
        node.blocks = pages << 3
        if pages != self.charged:
            node.fs.ops.used_pages += pages - self.charged  # type: ignore[attr-defined]
            self.charged = pages

    def check_space(self, node: FsNode, offset: int, count: int) -> int:
        """How much of a write of ``count`` bytes fits below the instance's limit. Errors: ENOSPC when nothing does."""
        instance: Tmpfs = node.fs.ops  # type: ignore[assignment]
        first, last = offset // PAGE, (offset + count - 1) // PAGE
        free = instance.page_limit - instance.used_pages
        if last - first + 1 <= free:
            return count
        if self.memory is None:
            present = {*range(-(-node.size // PAGE))}
        else:
            present = set()
            for start, end in self.memory.data_ranges(first * PAGE, (last - first + 1) * PAGE):
                present.update(range(start // PAGE, -(-end // PAGE)))
        end = offset
        for page in range(first, last + 1):
            if page not in present:
                if not free:
                    break
                free -= 1
            end = min((page + 1) * PAGE, offset + count)
        if end == offset:
            raise Errno(ENOSPC)
        return end - offset

    def refresh(self, node: FsNode) -> None:
        if self.memory is not None:
            self.account(node)

    def truncate(self, node: FsNode, length: int) -> None:
        if (length < node.size and self.seals & F_SEAL_SHRINK) or (length > node.size and self.seals & F_SEAL_GROW):
            raise Errno(EPERM)
        data = self.data
        if data is not None and (length <= node.size or (length <= INLINE_MAX and length - node.size < PAGE)):
            if length <= len(data):
                del data[length:]
            else:
                data.extend(bytes(length - len(data)))
        else:
            call(os.ftruncate, self.memory_of(node).fd, length)
        node.size = length
        node.mtime_ns = node.ctime_ns = node.fs.now_ns()
        self.account(node)

    def allocate(self, node: FsNode, mode: int, offset: int, length: int) -> None:
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
            raise Errno(EOPNOTSUPP)
        if mode & FALLOC_FL_PUNCH_HOLE:
            if self.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
                raise Errno(EPERM)
        elif offset + length > node.size and self.seals & F_SEAL_GROW:
            raise Errno(EPERM)
        instance: Tmpfs = node.fs.ops  # type: ignore[assignment]
        if instance.page_limit and not mode & FALLOC_FL_PUNCH_HOLE and self.check_space(node, offset, length) < length:
            raise Errno(ENOSPC)
        memory = instance.kernel.memory
        if memory is not None and not mode & FALLOC_FL_PUNCH_HOLE and length > memory.room():
            raise Errno(ENOSPC)
        fallocate(self.memory_of(node).fd, mode, offset, length)
        if not mode & FALLOC_FL_KEEP_SIZE:
            node.size = max(node.size, offset + length)
        node.mtime_ns = node.ctime_ns = node.fs.now_ns()
        self.account(node)

    def add_seals(self, kernel: Kernel, seals: int) -> None:
        """F_ADD_SEALS. Errors: EINVAL, EPERM when sealing is sealed, EBUSY for F_SEAL_WRITE while a shared map may write."""
        if seals & ~ALL_SEALS:
            raise Errno(EINVAL)
        if self.seals & F_SEAL_SEAL:
            raise Errno(EPERM)
        if seals & F_SEAL_WRITE and not self.seals & F_SEAL_WRITE and self.memory is not None and _is_mapped_writable(kernel, self.memory):
            raise Errno(EBUSY)
        self.seals |= seals

    def forget(self, node: FsNode) -> None:
        self.uncharge(node)
        instance: Tmpfs = node.fs.ops  # type: ignore[assignment]
        instance.used_pages -= self.charged
        self.charged = 0
        self.memory = None
        self.data = None


class TmpfsFileOps(FileOps):
    """An open regular file."""

    def __init__(self, content: TmpfsFile) -> None:
        self.content = content

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        node = file.node
        count = node.size - offset
        if count > out.remaining:
            count = out.remaining
        if count <= 0:
            return 0
        if node.atime_ns <= node.mtime_ns or node.atime_ns <= node.ctime_ns:
            accessed(file)
        content = self.content
        data = content.data
        if data is not None:
            return out.write(data[offset : offset + count])
        return out.write_from_fd(content.memory_of(node).fd, offset, count)

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> int:
        node = file.node
        content = self.content
        count = data.remaining
        if not count:
            return 0
        end = offset + count
        if content.seals & ~F_SEAL_SEAL and (content.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) or (content.seals & F_SEAL_GROW and end > node.size)):
            raise Errno(EPERM)
        if end > MAX_FILE_SIZE:
            raise Errno(EFBIG)
        if node.fs.ops.page_limit:  # type: ignore[attr-defined]
            count = content.check_space(node, offset, count)
            end = offset + count
        inline = content.data
        if inline is not None and end <= INLINE_MAX and offset - len(inline) < PAGE:
            chunk = data.read(count)
            done = len(chunk)
            if offset > len(inline):
                inline.extend(bytes(offset - len(inline)))
            inline[offset : offset + done] = chunk
        else:
            done = data.read_to_fd(content.memory_of(node).fd, offset, count)
            if done <= 0:
                return done
        size = node.size
        if offset + done > size:
            node.size = offset + done
        node.mtime_ns = node.ctime_ns = node.fs.now_ns()
        if offset <= size and content.charged == -(-size // PAGE):
            if node.size != size:
                content.charge(node, -(-node.size // PAGE))
        else:
            content.account(node)  # there are holes: ask
        return done

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if whence not in (SEEK_DATA, SEEK_HOLE):
            return super().seek(file, offset, whence)
        node = file.node
        if offset < 0 or offset >= node.size:
            raise Errno(ENXIO)
        if self.content.memory is None:
            return offset if whence == SEEK_DATA else node.size
        return call(os.lseek, self.content.memory.fd, offset, whence)

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        if shared and protection & PROT_WRITE and self.content.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
            raise Errno(EPERM)
        return self.content.memory_of(file.node), 0

    def fsync(self, file: FileObject, data_only: bool) -> int:
        return 0

    def fcntl(self, file: FileObject, task: Task, command: int, argument: int) -> Result:
        if command == F_GET_SEALS:
            return self.content.seals
        if command == F_ADD_SEALS:
            if not file.writable:
                raise Errno(EPERM)
            self.content.add_seals(task.kernel, argument & 0xFFFFFFFF)
            return 0
        return super().fcntl(file, task, command, argument)


def _is_mapped_writable(kernel: Kernel, memory: MemoryObject) -> bool:
    """Whether any process has a shared map of ``memory`` that it may write, or make writable."""
    for mm in {group.leader.mm for group in kernel.pids.thread_groups.values() if not group.exited}:
        for vma in mm.vmas:
            if vma.object is memory and not vma.private and vma.max_prot & PROT_WRITE:
                return True
    return False


def new_memory_object(kernel: Kernel, size: int) -> MemoryObject:
    """A sparse object of ``size`` zero bytes for file content, from where guest memory comes from. Errors: ENFILE, ENOSPC."""
    try:
        return kernel.memory.new_object(size)  # type: ignore[no-any-return]
    except OSError as error:
        raise Errno(ENFILE if error.errno == EMFILE else error.errno or ENOSPC)
