"""squashfs images, version 4: superblock, the four tables of metadata blocks, inodes, directories, fragments, extended attributes.

Source: Linux's ``fs/squashfs/squashfs_fs.h``. Metadata lies in blocks of up to 8 KiB, each packed by itself; a reference is a block's position in its
table, shifted left by 16, and an offset in it unpacked.
"""

from __future__ import annotations

import functools
import stat
from struct import Struct, unpack, unpack_from
from typing import Final

from polynix.ipc.compression import UnsupportedCompression, unpacker
from polynix.ipc.protocols.pager import PagerCompressedBlock, PagerCompression
from polynix.kernelproc.fs.image_format import MAX_LISTING, MAX_SYMLINK, ImageEntry, ImageError, ImageInode, ImageReader, checked_mode, checked_name

MAGIC: Final = 0x73717368
METADATA_SIZE: Final = 8192
NO_FRAGMENT: Final = 0xFFFFFFFF
NO_TABLE: Final = (1 << 64) - 1
NO_XATTR: Final = 0xFFFFFFFF
PLAIN_METADATA: Final = 1 << 15
PLAIN_DATA: Final = 1 << 24
CACHED_BLOCKS: Final = 256
MAX_BLOCKS: Final = 1 << 20  # of one file
XATTR_PREFIXES: Final = (b"user.", b"trusted.", b"security.")
XATTR_ELSEWHERE: Final = 0x100

_SUPERBLOCK: Final = Struct("<IIIIIHHHHHHQQQQQQQQ")
_INODE: Final = Struct("<HHHHII")  # type, mode, uid, gid, mtime, number
_HEADER: Final = Struct("<III")  # of a run of directory entries: count - 1, block of their inodes, base of their numbers
_ENTRY: Final = Struct("<HhHH")  # offset of the inode, difference of its number, type, length of the name - 1
_TYPES: Final = (0, stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK)


class _Cursor:
    """Reads metadata on and on, from block to block."""

    def __init__(self, image: Squashfs, position: int, offset: int) -> None:
        self.image = image
        self.position = position
        self.offset = offset

    def read(self, count: int) -> bytes:
        """Errors: ValueError."""
        parts = []
        while count:
            data, following = self.image.metadata(self.position)
            part = data[self.offset : self.offset + count]
            if self.offset > len(data) or (not part and len(data) < METADATA_SIZE):
                raise ValueError("metadata ends early")
            parts.append(part)
            count -= len(part)
            self.offset += len(part)
            if self.offset == len(data):
                self.position, self.offset = following, 0
        return b"".join(parts)


class Squashfs(ImageReader):
    """A squashfs file system."""

    name = b"squashfs"
    magic = MAGIC

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(fd, size)
        try:
            fields = _SUPERBLOCK.unpack(self.read(0, _SUPERBLOCK.size))
        except ValueError:
            raise ImageError("the image is too short for a file system") from None
        (
            _magic, self.inodes, _time, block_size, self.fragments, compression, block_log, _flags, self.id_count, major, minor, self.root_reference,
            self.bytes_used, self.id_table, self.xattr_table, self.inode_table, self.directory_table, self.fragment_table, _lookup,
        ) = fields  # fmt: skip
        if (major, minor) != (4, 0):
            raise ImageError(f"the file system is squashfs {major}.{minor}; polynix reads 4.0")
        if not 12 <= block_log <= 20 or block_size != 1 << block_log or self.bytes_used > size:
            raise ImageError("the superblock is damaged, or the image is not complete")
        self.block_size = block_size
        self.compression = PagerCompression(compression) if compression in set(PagerCompression) else None
        try:
            self._unpack = unpacker(compression)
        except UnsupportedCompression as error:
            raise ImageError(f"the file system is packed with {error}, which cannot be unpacked here") from None
        self.metadata = functools.lru_cache(maxsize=CACHED_BLOCKS)(self._metadata)

    def statfs(self) -> dict[str, int]:
        blocks = -(-self.bytes_used // self.block_size)
        return {"f_type": MAGIC, "f_bsize": self.block_size, "f_frsize": self.block_size, "f_namelen": 256, "f_blocks": blocks, "f_files": self.inodes}

    def _metadata(self, position: int) -> tuple[bytes, int]:
        """One metadata block unpacked, and the position of the next."""
        (header,) = unpack("<H", self.read(position, 2))
        stored = header & ~PLAIN_METADATA
        if not 0 < stored <= METADATA_SIZE:
            raise ValueError("damaged metadata block")
        data = self.read(position + 2, stored)
        if not header & PLAIN_METADATA:
            data = self._unpack(data, METADATA_SIZE)
        if not data:
            raise ValueError("empty metadata block")
        return data, position + 2 + stored

    def _table_entry(self, table: int, index: int, size: int) -> bytes:
        """Entry ``index`` of a table of blocks, whose positions stand at ``table``."""
        block, offset = divmod(index * size, METADATA_SIZE)
        (position,) = unpack("<Q", self.read(table + block * 8, 8))
        return _Cursor(self, position, offset).read(size)

    def _identity(self, index: int) -> int:
        if index >= self.id_count:
            raise ValueError("damaged inode: identity")
        value: int = unpack("<I", self._table_entry(self.id_table, index, 4))[0]
        return value

    # inodes ---------------------------------------------------------------------------------------------------------------------------------

    def _open(self, reference: int) -> tuple[tuple[int, ...], _Cursor]:
        cursor = _Cursor(self, self.inode_table + (reference >> 16), reference & 0xFFFF)
        return _INODE.unpack(cursor.read(_INODE.size)), cursor

    def inode(self, reference: int) -> ImageInode:
        (kind, mode, uid, gid, mtime, number), cursor = self._open(reference)
        basic = kind - 7 if kind > 7 else kind
        if not 1 <= basic <= 7:
            raise ValueError(f"inode type {kind}")
        nlink, size, rdev = 1, 0, 0
        if kind == 1:
            _start, nlink, size, _offset, _parent = unpack("<IIHHI", cursor.read(16))
        elif kind == 8:
            nlink, size, _start, _parent, _count, _offset, _xattr = unpack("<IIIIHHI", cursor.read(24))
        elif kind == 2:
            _start, _fragment, _offset, size = unpack("<IIII", cursor.read(16))
        elif kind == 9:
            _start, size, _sparse, nlink, _fragment, _offset, _xattr = unpack("<QQQIIII", cursor.read(40))
        elif basic == 3:
            nlink, size = unpack("<II", cursor.read(8))
        elif basic in (4, 5):
            nlink, rdev = unpack("<II", cursor.read(8))
        else:
            (nlink,) = unpack("<I", cursor.read(4))
        if size >> 62 or nlink >> 31:
            raise ValueError("damaged inode")
        time = mtime * 1_000_000_000
        mode = checked_mode(_TYPES[basic] | mode & 0o7777)
        identities = self._identity(uid), self._identity(gid)
        return ImageInode(number, reference, mode, *identities, nlink, size, -(-size // 512), rdev, time, time, time, time)

    def readlink(self, inode: ImageInode) -> bytes:
        if inode.size > MAX_SYMLINK:
            raise ValueError("a symbolic link that is too long")
        _, cursor = self._open(inode.reference)
        cursor.read(8)
        return cursor.read(inode.size)

    def directory(self, inode: ImageInode) -> list[ImageEntry]:
        (kind, *_), cursor = self._open(inode.reference)
        if kind == 1:
            start, _nlink, size, offset, _parent = unpack("<IIHHI", cursor.read(16))
        else:
            _nlink, size, start, _parent, _count, offset, _xattr = unpack("<IIIIHHI", cursor.read(24))
        found: list[ImageEntry] = []
        left = size - 3  # as if . and .. were there
        if left > MAX_LISTING:
            raise ValueError("a directory that is too long")
        listing = _Cursor(self, self.directory_table + start, offset)
        while left > 0:
            count, block, base = _HEADER.unpack(listing.read(_HEADER.size))
            left -= _HEADER.size
            if count >= 256:
                raise ValueError("damaged directory")
            for _ in range(count + 1):
                at, difference, entry_kind, length = _ENTRY.unpack(listing.read(_ENTRY.size))
                if not 1 <= entry_kind <= 7 or length >= 256:
                    raise ValueError("damaged directory")
                name = checked_name(listing.read(length + 1))
                left -= _ENTRY.size + length + 1
                found.append(ImageEntry(name, block << 16 | at, base + difference, _TYPES[entry_kind] >> 12))
        return found

    # content --------------------------------------------------------------------------------------------------------------------------------

    def compressed_blocks(self, inode: ImageInode) -> list[PagerCompressedBlock]:
        (kind, *_), cursor = self._open(inode.reference)
        if kind == 2:
            position, fragment, offset, size = unpack("<IIII", cursor.read(16))
        else:
            position, size, _sparse, _nlink, fragment, offset, _xattr = unpack("<QQQIIII", cursor.read(40))
        count = size // self.block_size if fragment != NO_FRAGMENT else -(-size // self.block_size)
        if count > MAX_BLOCKS:
            raise ValueError("a file that is too long")
        found = []
        for (word,) in Struct("<I").iter_unpack(cursor.read(4 * count)):
            stored = word & (PLAIN_DATA - 1)
            found.append(PagerCompressedBlock(position if stored else 0, stored, int(not word & PLAIN_DATA), 0))
            position += stored
        if fragment != NO_FRAGMENT:
            if fragment >= self.fragments:
                raise ValueError("damaged inode: fragment")
            start, word, _unused = unpack("<QII", self._table_entry(self.fragment_table, fragment, 16))
            found.append(PagerCompressedBlock(start, word & (PLAIN_DATA - 1), int(not word & PLAIN_DATA), offset))
        return found

    def xattrs(self, inode: ImageInode) -> dict[bytes, bytes]:
        (kind, *_), cursor = self._open(inode.reference)
        if kind == 8:
            index = unpack_from("<I", cursor.read(24), 20)[0]
        elif kind == 9:
            index = unpack_from("<I", cursor.read(40), 36)[0]
        elif kind == 10:
            cursor.read(8 + inode.size)
            (index,) = unpack("<I", cursor.read(4))
        elif kind in (11, 12):
            index = unpack_from("<I", cursor.read(12), 8)[0]
        elif kind in (13, 14):
            index = unpack_from("<I", cursor.read(8), 4)[0]
        else:
            index = NO_XATTR
        if index == NO_XATTR or self.xattr_table == NO_TABLE:
            return {}
        table, count, _unused = unpack("<QII", self.read(self.xattr_table, 16))
        if index >= count:
            raise ValueError("damaged inode: extended attributes")
        reference, entries, _size = unpack("<QII", self._table_entry(self.xattr_table + 16, index, 16))
        if entries > 4096:
            raise ValueError("too many extended attributes")
        found = {}
        listing = _Cursor(self, table + (reference >> 16), reference & 0xFFFF)
        for _ in range(entries):
            prefix, length = unpack("<HH", listing.read(4))
            name = listing.read(length)
            (size,) = unpack("<I", listing.read(4))
            if size > 65536:
                raise ValueError("an extended attribute that is too long")
            value = listing.read(size)
            if prefix & XATTR_ELSEWHERE:
                (where,) = unpack("<Q", value)
                other = _Cursor(self, table + (where >> 16), where & 0xFFFF)
                (size,) = unpack("<I", other.read(4))
                if size > 65536:
                    raise ValueError("an extended attribute that is too long")
                value = other.read(size)
            if prefix & 0xFF < len(XATTR_PREFIXES):
                found[XATTR_PREFIXES[prefix & 0xFF] + name] = value
        return found
