"""fuchsia.starnix.runner.Pager: files of a file system as memory that is filled on demand.

In Zircon the kernel tells a pager through a port which pages it must supply. Here the holder of a file's memory asks by ``PageIn``, and sees in the
*presence* bytes, one for each chunk of 128 KiB, that it need not ask. ``AddExtents`` and the compressed blocks are ours as well.
"""

from __future__ import annotations

from enum import IntEnum

from polynix.ipc.bindings import FidlProtocol, Openness, protocol, two_way
from polynix.ipc.fidl import INT32, STRING, UINT32, UINT64, EnumType, HandleType, VectorType, member, struct, table
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Vmo

MAX_EXTENTS = 1024
CHUNK_SIZE = 128 << 10
"""Page-ins are aligned to this many bytes, and presence is told for each."""


@struct
@dataclass(frozen=True)
class PagerExtent:
    """Blocks ``logical_start`` up to, not including, ``logical_end`` of a file."""

    logical_start: int = member(UINT32)
    logical_end: int = member(UINT32)
    physical_block: int = member(UINT64)


class PagerCompression(IntEnum):
    """How compressed blocks are packed; squashfs's numbers."""

    GZIP = 1
    LZMA = 2
    LZO = 3
    XZ = 4
    LZ4 = 5
    ZSTD = 6


@struct
@dataclass(frozen=True)
class PagerCompressedBlock:
    """One block of a file that is stored compressed: ``stored_size`` bytes at byte ``position`` of the backing memory; none are a hole."""

    position: int = member(UINT64)
    stored_size: int = member(UINT32)
    packed: int = member(UINT32)
    """Whether the bytes are compressed (1), or stored as they are (0)."""
    skip: int = member(UINT32)
    """Where the file's bytes begin in the unpacked block."""


@table
@dataclass(kw_only=True)
class PagerRegisterFileRequest:
    name: str | None = member(1, STRING)
    inode_num: int | None = member(2, UINT32)
    size: int | None = member(3, UINT64)
    extents: list[PagerExtent] | None = member(4, VectorType(PagerExtent, MAX_EXTENTS))
    """Sorted; what they leave out is zeros."""
    compression: PagerCompression | None = member(5, EnumType(PagerCompression))
    """Given for a file of compressed blocks, which then come instead of extents."""
    blocks: list[PagerCompressedBlock] | None = member(6, VectorType(PagerCompressedBlock, MAX_EXTENTS))
    """The blocks of the file from its first on."""


@table
@dataclass(kw_only=True)
class PagerRegisterFileResponse:
    vmo: Vmo | None = member(1, HandleType(Vmo))
    presence: Vmo | None = member(2, HandleType(Vmo))
    """A byte for each chunk of ``vmo``: 1 when it is filled, 0 when it must be asked for."""


@table
@dataclass(kw_only=True)
class PagerAddExtentsRequest:
    inode_num: int | None = member(1, UINT32)
    extents: list[PagerExtent] | None = member(2, VectorType(PagerExtent, MAX_EXTENTS))
    blocks: list[PagerCompressedBlock] | None = member(3, VectorType(PagerCompressedBlock, MAX_EXTENTS))


@table
@dataclass(kw_only=True)
class PagerPageInRequest:
    inode_num: int | None = member(1, UINT32)
    offset: int | None = member(2, UINT64)
    length: int | None = member(3, UINT64)


@protocol("fuchsia.starnix.runner.Pager", openness=Openness.OPEN)
class Pager(FidlProtocol):
    """One file system."""

    @two_way(error=INT32)
    async def register_file(self, request: PagerRegisterFileRequest) -> PagerRegisterFileResponse:
        """Errors: a Zircon status."""
        raise NotImplementedError

    @two_way(error=INT32)
    async def add_extents(self, request: PagerAddExtentsRequest) -> None:
        """Further extents or blocks of a registered file, for those that have more than a message holds. Errors: a Zircon status; NOT_FOUND."""
        raise NotImplementedError

    @two_way(error=INT32)
    async def page_in(self, request: PagerPageInRequest) -> None:
        """Fill the chunks that a range of a file touches; they are present when the reply comes. Errors: a Zircon status, IO for whatever failed."""
        raise NotImplementedError
