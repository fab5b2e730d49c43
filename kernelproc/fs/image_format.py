"""What the formats of file system images have in common: the inode, and the reader that :mod:`polynix.kernelproc.fs.image` asks.

A reader reads metadata only, from the image's descriptor; where the bytes of files lie it tells the pager. Everything in an image is hostile input: a
reader checks what it follows, bounds what it collects, and raises ``ValueError``, ``IndexError`` or ``struct.error`` for what cannot be.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from polynix.ipc.protocols.pager import PagerCompressedBlock, PagerCompression, PagerExtent

MAX_LISTING = 64 << 20  # bytes of one directory
MAX_SYMLINK = 4096


class ImageError(Exception):
    """The image can't be mounted; the text is one line."""

    expected = True


@dataclass(slots=True)
class ImageInode:
    """An inode as the image tells it. Times in ns, ``blocks`` of 512 bytes, ``rdev`` a dev_t; ``reference`` is the reader's own."""

    number: int
    reference: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    blocks: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A name in a directory; ``kind`` is a DT_* value."""

    name: bytes
    reference: int
    number: int
    kind: int


class ImageReader(ABC):
    """One image. ``fd`` is a descriptor of it that is open for reading, ``size`` its bytes."""

    name: ClassVar[bytes]
    magic: ClassVar[int]
    compression: PagerCompression | None = None
    """Given when files are stored as compressed blocks, not as extents."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.block_size = 0
        self.root_reference = 0

    @abstractmethod
    def inode(self, reference: int) -> ImageInode: ...

    @abstractmethod
    def directory(self, inode: ImageInode) -> list[ImageEntry]:
        """All entries but . and .., in the image's order."""

    @abstractmethod
    def readlink(self, inode: ImageInode) -> bytes: ...

    @abstractmethod
    def xattrs(self, inode: ImageInode) -> dict[bytes, bytes]: ...

    @abstractmethod
    def statfs(self) -> dict[str, int]: ...

    def extents(self, inode: ImageInode) -> Sequence[PagerExtent]:
        """Where a file's blocks lie, sorted."""
        return ()

    def compressed_blocks(self, inode: ImageInode) -> Sequence[PagerCompressedBlock]:
        """The same where files are stored compressed."""
        return ()

    def inline(self, inode: ImageInode) -> bytes | None:
        """The content of a file that lies in its inode; None for all others."""
        return None

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes of the image. Errors: ValueError beyond its end, OSError."""
        if count < 0 or offset < 0 or offset + count > self.size:
            raise ValueError(f"{count} bytes at {offset} of an image of {self.size}")
        data = os.pread(self.fd, count, offset)
        if len(data) < count:
            raise ValueError("the image has become shorter")
        return data


def checked_name(name: bytes) -> bytes:
    """Errors: ValueError for what no file can be called."""
    if not name or b"/" in name or b"\0" in name:
        raise ValueError(f"impossible name {name!r}")
    return name


def checked_mode(mode: int) -> int:
    """Errors: ValueError for a type of file that does not exist."""
    if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        raise ValueError(f"impossible mode {mode:o}")
    return mode
