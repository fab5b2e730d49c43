"""Where the bytes of a paged file lie in the backing memory: extents of plain blocks, or blocks that are stored compressed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from polynix.ipc.compression import unpacker
from polynix.ipc.objects import Vmo
from polynix.ipc.protocols.pager import PagerCompressedBlock, PagerExtent

MAX_BLOCKS = 1 << 20  # extents or compressed blocks of one file


class FileBlocks(ABC):
    """Reads ranges of one file."""

    @abstractmethod
    def read(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The pieces of [start, end) that are no holes, as (offset in the file, bytes). Errors: OSError, ZxStatus, ValueError for damaged data."""


class Extents(FileBlocks):
    """Runs of whole blocks."""

    def __init__(self, backing: Vmo, block_size: int) -> None:
        self.backing = backing
        self.block_size = block_size
        self._extents: list[PagerExtent] = []
        self._starts: list[int] = []

    def add(self, extents: Sequence[PagerExtent]) -> None:
        """Append; they must be sorted and disjoint. Errors: ValueError, and nothing is added."""
        position = self._extents[-1].logical_end if self._extents else 0
        if len(self._extents) + len(extents) > MAX_BLOCKS:
            raise ValueError("too many extents")
        for extent in extents:
            if not position <= extent.logical_start <= extent.logical_end:
                raise ValueError("extents that overlap, or are not sorted")
            position = extent.logical_end
        self._extents += extents
        self._starts += [extent.logical_start for extent in extents]

    def read(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        size = self.block_size
        index = max(bisect_right(self._starts, start // size) - 1, 0)
        for extent in self._extents[index:]:
            low, high = max(start, extent.logical_start * size), min(end, extent.logical_end * size)
            if extent.logical_start * size >= end:
                break
            if low < high:
                position = extent.physical_block * size + low - extent.logical_start * size
                yield low, read_whole(self.backing, high - low, position)


class CompressedBlocks(FileBlocks):
    """Blocks of one size, each stored by itself, packed or not (squashfs). The last block unpacked is kept: tails of small files share one."""

    def __init__(self, backing: Vmo, block_size: int, compression: int, size: int) -> None:
        self.backing = backing
        self.block_size = block_size
        self.size = size
        self._unpack = unpacker(compression)
        self._blocks: list[PagerCompressedBlock] = []

    def add(self, blocks: Sequence[PagerCompressedBlock]) -> None:
        """Append the next blocks. Errors: ValueError, and nothing is added."""
        if len(self._blocks) + len(blocks) > MAX_BLOCKS or any(block.stored_size > self.block_size for block in blocks):
            raise ValueError("impossible blocks")
        self._blocks += blocks

    def read(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        size = self.block_size
        for index in range(start // size, -(-end // size)):
            if index >= len(self._blocks):
                raise ValueError("a block that the file does not have")
            block = self._blocks[index]
            if not block.stored_size:
                continue
            low, high = max(start, index * size), min(end, (index + 1) * size)
            data = read_whole(self.backing, block.stored_size, block.position)
            if block.packed:
                data = self._unpack(data, size)
            first = block.skip + low - index * size
            piece = data[first : first + high - low]
            if len(piece) < high - low:
                raise ValueError("a block that is too short")
            yield low, piece


def read_whole(backing: Vmo, count: int, position: int) -> bytes:
    """Exactly ``count`` bytes. Errors: ZxStatus OUT_OF_RANGE, OSError; ValueError when the file behind the memory has become shorter."""
    data = backing.read(count, position)
    if len(data) < count:
        raise ValueError("the backing memory ends early")
    return data
