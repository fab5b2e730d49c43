"""fuchsia.starnix.runner.Pager: files of a file system as memory that is filled on demand."""

from __future__ import annotations

from dataclasses import dataclass

from polynix.ipc.bindings import FidlProtocol, Openness, protocol, two_way
from polynix.ipc.fidl import INT32, STRING, UINT32, UINT64, HandleType, VectorType, member, struct, table
from polynix.ipc.objects import Vmo

MAX_EXTENTS = 1024


@struct
@dataclass(frozen=True)
class PagerExtent:
    """Blocks ``logical_start`` up to, not including, ``logical_end`` of a file."""

    logical_start: int = member(UINT32)
    logical_end: int = member(UINT32)
    physical_block: int = member(UINT64)


@table
@dataclass(kw_only=True)
class PagerRegisterFileRequest:
    name: str | None = member(1, STRING)
    inode_num: int | None = member(2, UINT32)
    size: int | None = member(3, UINT64)
    extents: list[PagerExtent] | None = member(4, VectorType(PagerExtent, MAX_EXTENTS))
    """Sorted; what they leave out is zeros."""


@table
@dataclass(kw_only=True)
class PagerRegisterFileResponse:
    vmo: Vmo | None = member(1, HandleType(Vmo))


@protocol("fuchsia.starnix.runner.Pager", openness=Openness.OPEN)
class Pager(FidlProtocol):
    """One file system."""

    @two_way(error=INT32)
    async def register_file(self, request: PagerRegisterFileRequest) -> PagerRegisterFileResponse:
        """Errors: a Zircon status."""
        raise NotImplementedError
