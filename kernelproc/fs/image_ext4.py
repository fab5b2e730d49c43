"""ext2, ext3 and ext4 images, read-only: superblock, inodes, extent trees and block maps, directories, extended attributes.

Source: Linux's ``Documentation/filesystems/ext4``. An image whose journal must be replayed first is refused, and so are features that change what is read here.
Directories are read from end to end; hash trees look like empty entries to those who do so, which is what they are made for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from struct import Struct, unpack_from
from typing import Final

from polynix.ipc.protocols.pager import PagerExtent
from polynix.kernelproc.fs.image_format import MAX_LISTING, MAX_SYMLINK, ImageEntry, ImageError, ImageInode, ImageReader, checked_mode, checked_name

SUPERBLOCK_OFFSET: Final = 1024
MAGIC: Final = 0xEF53
ROOT_INODE: Final = 2
OLD_INODE_SIZE: Final = 128

SUPPORTED: Final = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000 | 0x4000 | 0x8000  # filetype extents 64bit mmp flex_bg csum_seed largedir inline_data
NEEDS_RECOVERY: Final = 0x4
FEATURES: Final = {
    0x1: "compression", 0x8: "journal_dev", 0x10: "meta_bg", 0x400: "ea_inode", 0x1000: "dirdata", 0x10000: "encrypt", 0x20000: "casefold",
}  # fmt: skip
FEATURE_64BIT: Final = 0x80

FLAG_ENCRYPT: Final = 0x800
FLAG_HUGE_FILE: Final = 0x40000
FLAG_EXTENTS: Final = 0x80000
FLAG_INLINE: Final = 0x10000000

EXTENT_MAGIC: Final = 0xF30A
EXTENT_MAX_DEPTH: Final = 5
UNWRITTEN: Final = 32768  # lengths above it are of blocks that were never written
MAX_EXTENTS: Final = 1 << 20

XATTR_MAGIC: Final = 0xEA020000
XATTR_PREFIXES: Final = {1: b"user.", 4: b"trusted.", 6: b"security."}  # ACLs lie on disk in a form of their own
XATTR_SYSTEM: Final = 7
INLINE_NAME: Final = b"data"  # with that prefix: what of an inline content does not fit among the pointers
INLINE_PARENT: Final = 4  # bytes before the entries of an inline directory: the inode of ..

_HEADER: Final = Struct("<HHHHI")  # of an extent node: magic, entries, room, depth, generation
_EXTENT: Final = Struct("<IHHI")  # first block, length, high and low half of where
_INDEX: Final = Struct("<IIHH")  # first block, low and high half of where
_ENTRY: Final = Struct("<IHBB")  # of a directory: inode, length, length of the name, type
_XATTR: Final = Struct("<BBHIII")  # length of the name, prefix, offset, inode, size, hash
_DT: Final = (0, 8, 4, 2, 6, 1, 12, 10)  # DT_* of a directory entry's type


class Ext4(ImageReader):
    """An ext2, ext3 or ext4 file system."""

    name = b"ext4"
    magic = MAGIC

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(fd, size)
        try:
            superblock = self.read(SUPERBLOCK_OFFSET, 1024)
        except ValueError:
            raise ImageError("the image is too short for a file system") from None
        incompatible = unpack_from("<I", superblock, 0x60)[0]
        if incompatible & NEEDS_RECOVERY:
            raise ImageError("the file system was not unmounted cleanly, and its journal must be replayed first (run e2fsck on it)")
        unsupported = incompatible & ~SUPPORTED
        if unsupported:
            names = [FEATURES.get(1 << bit, f"{1 << bit:#x}") for bit in range(32) if unsupported >> bit & 1]
            raise ImageError(f"the file system has features that polynix does not read: {', '.join(names)}")
        self.superblock = superblock
        log_block_size = self._word(0x18)
        self.inodes_per_group = self._word(0x28)
        revision = self._word(0x4C)
        self.inode_size = unpack_from("<H", superblock, 0x58)[0] if revision else OLD_INODE_SIZE
        self.inodes_count = self._word(0)
        if log_block_size > 6 or not self.inodes_per_group or self.inode_size < OLD_INODE_SIZE or self.inode_size & (self.inode_size - 1):
            raise ImageError("the superblock is damaged")
        self.block_size = 1024 << log_block_size
        if self.inode_size > self.block_size:
            raise ImageError("the superblock is damaged")
        self.wide = bool(incompatible & FEATURE_64BIT)
        self.descriptor_size = max(32, unpack_from("<H", superblock, 0xFE)[0]) if self.wide else 32
        self.descriptors = (self._word(0x14) + 1) * self.block_size
        self.root_reference = ROOT_INODE

    def _word(self, offset: int) -> int:
        value: int = unpack_from("<I", self.superblock, offset)[0]
        return value

    def statfs(self) -> dict[str, int]:
        high = unpack_from("<III", self.superblock, 0x150) if self.wide else (0, 0, 0)
        blocks, free = self._word(4) | high[0] << 32, self._word(0xC) | high[2] << 32
        return {
            "f_type": MAGIC, "f_bsize": self.block_size, "f_frsize": self.block_size, "f_namelen": 255, "f_blocks": blocks, "f_bfree": free,
            "f_bavail": free, "f_files": self.inodes_count, "f_ffree": self._word(0x10),
        }  # fmt: skip

    # inodes ---------------------------------------------------------------------------------------------------------------------------------

    def _raw(self, number: int) -> bytes:
        if not 0 < number <= self.inodes_count:
            raise ValueError(f"inode {number}")
        group, index = divmod(number - 1, self.inodes_per_group)
        descriptor = self.read(self.descriptors + group * self.descriptor_size, self.descriptor_size)
        table = unpack_from("<I", descriptor, 8)[0]
        if self.wide and self.descriptor_size >= 64:
            table |= unpack_from("<I", descriptor, 0x28)[0] << 32
        return self.read(table * self.block_size + index * self.inode_size, self.inode_size)

    def inode(self, reference: int) -> ImageInode:
        raw = self._raw(reference)
        mode, uid, size, atime, ctime, mtime, _dtime, gid, nlink, blocks, flags = unpack_from("<HHIIIIIHHII", raw)
        uid |= unpack_from("<H", raw, 0x78)[0] << 16
        gid |= unpack_from("<H", raw, 0x7A)[0] << 16
        blocks |= unpack_from("<H", raw, 0x74)[0] << 32
        size |= unpack_from("<I", raw, 0x6C)[0] << 32
        if size >> 63 or flags & FLAG_ENCRYPT:
            raise ValueError(f"inode {reference}: size {size}, flags {flags:#x}")
        if flags & FLAG_HUGE_FILE:
            blocks *= self.block_size // 512
        extra = unpack_from("<H", raw, 0x80)[0] if self.inode_size > OLD_INODE_SIZE else 0
        more = unpack_from("<IIIII", raw, 0x84) if extra >= 0x18 and self.inode_size >= 0x98 else (0, 0, 0, mtime, 0)
        rdev = 0
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            old, new = unpack_from("<II", raw, 0x28)
            rdev = os.makedev(old >> 8 & 0xFF, old & 0xFF) if old else new
        return ImageInode(
            reference, reference, checked_mode(mode), uid, gid, nlink, size, blocks, rdev,
            decode_time(atime, more[2]), decode_time(mtime, more[1]), decode_time(ctime, more[0]), decode_time(more[3], more[4]),
        )  # fmt: skip

    def _map(self, inode: ImageInode) -> tuple[int, bytes]:
        """(flags, what points to the content: 60 bytes)"""
        raw = self._raw(inode.reference)
        return unpack_from("<I", raw, 0x20)[0], raw[0x28:0x64]

    # content --------------------------------------------------------------------------------------------------------------------------------

    def extents(self, inode: ImageInode) -> list[PagerExtent]:
        flags, root = self._map(inode)
        if flags & FLAG_INLINE:
            return []
        found: list[PagerExtent] = []
        budget = self.size // self.block_size + 16  # no tree has more nodes, no map more pointers, than the image has blocks
        runs = self._tree(root, None, [budget]) if flags & FLAG_EXTENTS else self._block_map(root, inode, [budget])
        for logical, length, physical in runs:
            last = found[-1] if found else None
            if last is not None and logical < last.logical_end:
                raise ValueError("extents that overlap")
            if last is not None and last.logical_end == logical and last.physical_block + logical - last.logical_start == physical:
                found[-1] = PagerExtent(last.logical_start, logical + length, last.physical_block)
            else:
                found.append(PagerExtent(logical, logical + length, physical))
            if len(found) > MAX_EXTENTS or logical + length >= 1 << 32:
                raise ValueError("too many extents")
        return found

    def _tree(self, node: bytes, depth: int | None, budget: list[int]) -> Iterator[tuple[int, int, int]]:
        magic, entries, _room, own_depth, _generation = _HEADER.unpack_from(node)
        if magic != EXTENT_MAGIC or own_depth > EXTENT_MAX_DEPTH or (depth is not None and own_depth != depth) or (entries + 1) * 12 > len(node):
            raise ValueError("damaged extent tree")
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError("endless extent tree")
        for index in range(entries):
            offset = 12 * (index + 1)
            if own_depth == 0:
                logical, length, high, low = _EXTENT.unpack_from(node, offset)
                if length <= UNWRITTEN:
                    yield logical, length, high << 32 | low
            else:
                _logical, low, high, _unused = _INDEX.unpack_from(node, offset)
                child = self.read((high << 32 | low) * self.block_size, self.block_size)
                yield from self._tree(child, own_depth - 1, budget)

    def _block_map(self, root: bytes, inode: ImageInode, budget: list[int]) -> Iterator[tuple[int, int, int]]:
        """ext2's way: 12 pointers to blocks, then one each to blocks of pointers, of pointers to pointers, and once more."""
        pointers = unpack_from("<15I", root)
        wanted = -(-inode.size // self.block_size)
        for logical in range(12):
            if pointers[logical] and logical < wanted:
                yield logical, 1, pointers[logical]
        logical, per_block = 12, self.block_size // 4
        for level in range(1, 4):
            if logical < wanted and pointers[11 + level]:
                yield from self._indirect(pointers[11 + level], level, logical, wanted, budget)
            logical += per_block**level

    def _indirect(self, block: int, level: int, logical: int, wanted: int, budget: list[int]) -> Iterator[tuple[int, int, int]]:
        per_block = self.block_size // 4
        step = per_block ** (level - 1)
        for pointer in unpack_from(f"<{per_block}I", self.read(block * self.block_size, self.block_size)):
            if logical >= wanted:
                return
            if pointer:
                budget[0] -= 1
                if budget[0] < 0:
                    raise ValueError("endless block map")
                if level == 1:
                    yield logical, 1, pointer
                else:
                    yield from self._indirect(pointer, level - 1, logical, wanted, budget)
            logical += step

    def _content(self, inode: ImageInode, limit: int) -> bytes:
        if inode.size > limit or inode.size > self.size:
            raise ValueError(f"{inode.size} bytes of metadata")
        inline = self.inline(inode)
        if inline is not None:
            return inline
        data = bytearray(inode.size)
        for extent in self.extents(inode):
            start = extent.logical_start * self.block_size
            count = min(extent.logical_end * self.block_size, inode.size) - start
            if count > 0:
                data[start : start + count] = self.read(extent.physical_block * self.block_size, count)
        return bytes(data)

    def readlink(self, inode: ImageInode) -> bytes:
        flags, root = self._map(inode)
        if inode.size < len(root) and not flags & FLAG_EXTENTS:
            return root[: inode.size]
        return self._content(inode, MAX_SYMLINK)

    def inline(self, inode: ImageInode) -> bytes | None:
        flags, root = self._map(inode)
        if not flags & FLAG_INLINE:
            return None
        data = root + b"".join(value for prefix, name, value in self._inode_xattrs(inode) if (prefix, name) == (XATTR_SYSTEM, INLINE_NAME))
        if inode.size > len(data):
            raise ValueError(f"{inode.size} bytes inline")
        return data[: inode.size]

    def _listings(self, inode: ImageInode) -> list[bytes]:
        """Each a run of entries that fill it."""
        data = self._content(inode, MAX_LISTING)
        flags, root = self._map(inode)
        if flags & FLAG_INLINE:
            return [data[INLINE_PARENT : len(root)], data[len(root) :]]
        return [data[start : start + self.block_size] for start in range(0, len(data), self.block_size)]

    def directory(self, inode: ImageInode) -> list[ImageEntry]:
        found = []
        for data in self._listings(inode):
            offset, end = 0, len(data)
            while offset < end:
                number, length, name_length, kind = _ENTRY.unpack_from(data, offset)
                if length >= 65532:  # does not fit where blocks are 64 KiB
                    length = 65536
                if length < 8 or length & 3 or offset + length > end or 8 + name_length > length:
                    raise ValueError("damaged directory")
                if number and name_length:
                    name = data[offset + 8 : offset + 8 + name_length]
                    if name not in (b".", b".."):
                        found.append(ImageEntry(checked_name(name), number, number, _DT[kind] if kind < len(_DT) else 0))
                offset += length
        return found

    # extended attributes --------------------------------------------------------------------------------------------------------------------

    def xattrs(self, inode: ImageInode) -> dict[bytes, bytes]:
        entries = [*self._inode_xattrs(inode), *self._block_xattrs(inode)]
        return {XATTR_PREFIXES[prefix] + name: value for prefix, name, value in entries if prefix in XATTR_PREFIXES}

    def _inode_xattrs(self, inode: ImageInode) -> Iterator[tuple[int, bytes, bytes]]:
        """Those that lie behind the inode: number of the prefix, name, value."""
        if self.inode_size > OLD_INODE_SIZE:
            raw = self._raw(inode.reference)
            start = OLD_INODE_SIZE + unpack_from("<H", raw, 0x80)[0]
            if start + 4 <= self.inode_size and unpack_from("<I", raw, start)[0] == XATTR_MAGIC:
                yield from _xattr_entries(raw[start + 4 :], 0)

    def _block_xattrs(self, inode: ImageInode) -> Iterator[tuple[int, bytes, bytes]]:
        """Those that lie in a block of their own."""
        raw = self._raw(inode.reference)
        block = unpack_from("<I", raw, 0x68)[0] | unpack_from("<H", raw, 0x76)[0] << 32
        if block:
            data = self.read(block * self.block_size, self.block_size)
            if unpack_from("<I", data)[0] != XATTR_MAGIC:
                raise ValueError("damaged extended attributes")
            yield from _xattr_entries(data, 32)


def _xattr_entries(data: bytes, offset: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Entries from ``offset`` on; their values lie at offsets in ``data``."""
    while offset + 4 <= len(data) and unpack_from("<I", data, offset)[0]:
        name_length, prefix, value_offset, value_inode, value_size, _hash = _XATTR.unpack_from(data, offset)
        name = data[offset + 16 : offset + 16 + name_length]
        if len(name) < name_length or value_inode or value_offset + value_size > len(data):
            raise ValueError("damaged extended attributes")
        yield prefix, name, data[value_offset : value_offset + value_size]
        offset += 16 + (name_length + 3 & ~3)


def decode_time(seconds: int, extra: int) -> int:
    """ns since the epoch: signed 32 bits, 2 more above them, 30 bits of nanoseconds."""
    seconds = (seconds ^ 0x80000000) - 0x80000000 + ((extra & 3) << 32)
    return seconds * 1_000_000_000 + min(extra >> 2, 999_999_999)
