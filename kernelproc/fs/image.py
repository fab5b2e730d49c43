"""imagefs: the image of a file system as the lower tree of a container, read-only.

A reader for the image's format gives inodes, names and the places of files' blocks; the bytes of files come from a pager as memory that fills on
demand, so that a file costs what is touched of it. An image never changes under us, so what was seen once holds for ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from struct import error as StructError
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from polynix.ipc.objects import Vmo
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.host_call import call
from polynix.kernelproc.fs.image_ext4 import MAGIC as EXT4_MAGIC
from polynix.kernelproc.fs.image_ext4 import SUPERBLOCK_OFFSET, Ext4
from polynix.kernelproc.fs.image_format import ImageEntry, ImageError, ImageInode, ImageReader
from polynix.kernelproc.fs.image_pages import ImagePages, create_pager
from polynix.kernelproc.fs.image_squashfs import MAGIC as SQUASHFS_MAGIC
from polynix.kernelproc.fs.image_squashfs import Squashfs
from polynix.kernelproc.uapi.errno import EINVAL, EIO, ENODATA, ENOENT, ENXIO, EUCLEAN
from polynix.kernelproc.uapi.fcntl import SEEK_DATA, SEEK_HOLE
from polynix.kernelproc.vfs.directory import FIRST_COOKIE, DirectoryItem, DirectoryOps
from polynix.kernelproc.vfs.file_system import FileSystem
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileOps, FileSystemOps, FsNodeOps, Result

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import MemoryObject
    from polynix.addrspace.paged_memory import PagedMemory
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject

T = TypeVar("T")
P = ParamSpec("P")

AT_ONCE: Final = 4 << 20  # bytes of one read that the pager is asked for at a time
EROFS_MAGIC: Final = 0xE0F5E1E2


class ImageFs(FileSystemOps):
    """One image."""

    name = b"imagefs"

    def __init__(self, kernel: Kernel, reader: ImageReader, pages: ImagePages) -> None:
        self.kernel = kernel
        self.reader = reader
        self.pages = pages
        self.magic = reader.magic  # type: ignore[misc]  # per instance
        self.fs: FileSystem = None  # type: ignore[assignment]  # set by new_image
        self._nodes: WeakValueDictionary[int, FsNode] = WeakValueDictionary()

    def node(self, reference: int) -> FsNode:
        """The node of an inode. Errors: EUCLEAN, EIO."""
        node = self._nodes.get(reference)
        if node is None:
            node = self._nodes[reference] = self._new_node(ask(self.reader.inode, reference))
        return node

    def _new_node(self, inode: ImageInode) -> FsNode:
        ops_class = ImageDirectory if stat.S_ISDIR(inode.mode) else ImageFile if stat.S_ISREG(inode.mode) else ImageNode
        node = FsNode(self.fs, inode.number, inode.mode, ops_class(self, inode), uid=inode.uid, gid=inode.gid, rdev=inode.rdev, nlink=inode.nlink)
        node.size, node.blocks = inode.size, inode.blocks
        node.atime_ns, node.mtime_ns, node.ctime_ns, node.btime_ns = inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.btime_ns
        return node

    def statfs(self, fs: FileSystem) -> dict[str, int]:
        return self.reader.statfs()

    def unmount(self, fs: FileSystem) -> None:
        self.pages.close()
        os.close(self.reader.fd)


def ask(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a reader. Errors: EUCLEAN for a damaged image, EIO for one that can't be read."""
    try:
        return function(*arguments, **named)
    except (ValueError, IndexError, OverflowError, StructError):
        raise Errno(EUCLEAN)
    except OSError:
        raise Errno(EIO)


class ImageNode(FsNodeOps):
    """An inode of an image; by itself a symbolic link, or the mere name of a fifo, socket or device."""

    def __init__(self, image: ImageFs, inode: ImageInode) -> None:
        self.image = image
        self.inode = inode

    def readlink(self, node: FsNode, task: Task) -> bytes:
        if not node.is_symlink:
            raise Errno(EINVAL)
        return ask(self.image.reader.readlink, self.inode)

    def get_xattr(self, node: FsNode, name: bytes) -> bytes:
        value = ask(self.image.reader.xattrs, self.inode).get(name)
        if value is None:
            raise Errno(ENODATA)
        return value

    def list_xattrs(self, node: FsNode) -> list[bytes]:
        return list(ask(self.image.reader.xattrs, self.inode))


class ImageDirectory(ImageNode):
    """A directory; its names are read when first asked for."""

    version = 0

    def __init__(self, image: ImageFs, inode: ImageInode) -> None:
        super().__init__(image, inode)
        self._entries: dict[bytes, ImageEntry] | None = None

    @property
    def entries(self) -> dict[bytes, ImageEntry]:
        """Errors: EUCLEAN, EIO."""
        if self._entries is None:
            self._entries = {entry.name: entry for entry in ask(self.image.reader.directory, self.inode)}
        return self._entries

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        entry = self.entries.get(name)
        if entry is None:
            raise Errno(ENOENT)
        return self.image.node(entry.reference)

    def list(self, node: FsNode) -> list[DirectoryItem]:
        return [DirectoryItem(cookie, entry.name, entry.number, entry.kind) for cookie, entry in enumerate(self.entries.values(), FIRST_COOKIE)]

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return DirectoryOps(self)


class ImageFile(ImageNode):
    """A regular file."""

    def is_immutable(self, node: FsNode) -> bool:
        return True

    def memory(self) -> PagedMemory:
        """The content. Errors: EUCLEAN, EIO."""
        return ask(self.image.pages.memory_of, self.inode)

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        return ImageFileOps(self.memory())


class ImageFileOps(FileOps):
    """An open file."""

    def __init__(self, memory: PagedMemory) -> None:
        self.memory = memory

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        memory = self.memory
        count = min(file.node.size - offset, out.remaining)
        if count <= 0:
            return 0
        for low, high in memory.runs(offset, offset + count):
            if low == offset and high == offset + count:
                return out.write_from_fd(memory.fd, offset, count)
            break
        return self._page_in_and_read(offset, count, out)

    def _page_in_and_read(self, offset: int, count: int, out: OutputBuffer) -> Awaitable[int]:
        memory = self.memory

        async def read() -> int:
            done = 0
            while done < count:
                start = offset + done
                end = min(offset + count, start + AT_ONCE)
                try:
                    await memory.require_later(start, end)
                except OSError:  # somewhere: what comes before that is read
                    end = min(end, (start // memory.chunk_size + 1) * memory.chunk_size)
                    if memory.absent(start, end):
                        return done or -EIO
                stored = out.write_from_fd(memory.fd, start, end - start)
                if stored <= 0:
                    return done or stored
                done += stored
                if stored < end - start:
                    break
            return done

        return read()

    def seek(self, file: FileObject, offset: int, whence: int) -> int:
        if whence not in (SEEK_DATA, SEEK_HOLE):
            return super().seek(file, offset, whence)
        if offset < 0 or offset >= file.node.size:
            raise Errno(ENXIO)
        return offset if whence == SEEK_DATA else file.node.size

    def get_memory(self, file: FileObject, task: Task, length: int, offset: int, protection: int, shared: bool) -> tuple[MemoryObject, int]:
        return self.memory, 0

    def fsync(self, file: FileObject, data_only: bool) -> Result:
        return 0


def open_reader(path: bytes) -> ImageReader:
    """The reader for the image at ``path``. Errors: ImageError, Errno of opening it."""
    fd = call(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = call(os.lseek, fd, 0, os.SEEK_END)
        head = call(os.pread, fd, SUPERBLOCK_OFFSET + 1024, 0)
        if head[:4] == SQUASHFS_MAGIC.to_bytes(4, "little"):
            return Squashfs(fd, size)
        superblock = head[SUPERBLOCK_OFFSET:]
        if superblock[0x38:0x3A] == EXT4_MAGIC.to_bytes(2, "little"):
            return Ext4(fd, size)
        if superblock[:4] == EROFS_MAGIC.to_bytes(4, "little"):
            raise ImageError("polynix does not read erofs images")
        raise ImageError("this is no image of a file system that polynix reads (ext2, ext3, ext4, squashfs)")
    except BaseException:
        os.close(fd)
        raise


def new_image(kernel: Kernel, path: bytes) -> FileSystem:
    """The image at ``path`` as a read-only file system. Errors: ImageError, Errno."""
    reader = open_reader(path)
    # The pager reads blocks of what is stored plain, or takes compressed blocks whole.
    backing = Vmo.of_file(os.dup(reader.fd), reader.size)
    ops = ImageFs(kernel, reader, ImagePages(kernel, reader, create_pager(kernel, backing, reader.block_size)))
    fs = ops.fs = FileSystem(ops, path, read_only=True)
    try:
        fs.root = ops.node(reader.root_reference)
        if not fs.root.is_directory:
            raise Errno(EUCLEAN)
    except Errno as error:
        ops.unmount(fs)
        raise ImageError(f"the root directory of the image can't be read: {os.strerror(error.errno)}") from None
    return fs
