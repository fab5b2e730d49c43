"""One mapping of an address space: Linux's ``vm_area_struct``."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from polynix.addrspace._usercopy import MemoryObject


class VmaKind(IntEnum):
    """What backs a mapping."""

    ANONYMOUS = 0  # the restricted region, at offset == address
    COPIED = 1  # private file map whose pages were copied into the region
    FILE = 2  # private file map, mapped straight from the file because nobody writes to it
    SHARED = 3  # MAP_SHARED of a memory object


class MappedFile(Protocol):
    """What a mapping holds of the file it maps (an open file description)."""

    def retain(self) -> object: ...

    def release(self) -> None: ...


class Vma:
    """[start, end) with one protection and one backing. ``offset`` is the object's offset at ``start``, ``file_offset`` the file's."""

    __slots__ = (
        "dont_fork", "end", "file", "file_offset", "grows_down", "kind", "locked", "max_prot", "name", "noreserve", "object", "offset", "prot",
        "source", "source_base", "start", "wipe_on_fork",
    )  # fmt: skip

    def __init__(
        self,
        start: int,
        end: int,
        prot: int,
        kind: VmaKind,
        obj: MemoryObject,
        offset: int,
        *,
        file: MappedFile | None = None,
        file_offset: int = 0,
        max_prot: int = 7,
        name: bytes = b"",
        grows_down: bool = False,
        noreserve: bool = False,
    ) -> None:
        self.start = start
        self.end = end
        self.prot = prot
        self.kind = kind
        self.object = obj
        self.offset = offset
        self.file = file
        self.file_offset = file_offset
        self.max_prot = max_prot  # what mprotect may reach: a shared map of a read-only description can't be made writable
        self.name = name  # b"[heap]", b"[stack]", … for /proc/PID/maps
        self.grows_down = grows_down
        self.noreserve = noreserve
        self.dont_fork = False
        self.wipe_on_fork = False
        self.locked = False
        self.source: MemoryObject | None = None  # COPIED: where the pages came from, to come from there again
        self.source_base = 0  # the source's offset of file offset 0
        if file is not None:
            file.retain()

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def private(self) -> bool:
        return self.kind is not VmaKind.SHARED

    def in_region(self) -> bool:
        """Backed by the restricted region, at offset == address."""
        return self.kind <= VmaKind.COPIED

    def split(self, address: int) -> Vma:
        """Cut at ``address``; self keeps the lower part, the upper one is returned."""
        delta = address - self.start
        upper = self.copy(address, self.end, self.object, self.offset + delta)
        if self.file is not None:
            upper.file_offset = self.file_offset + delta
        self.end = address
        return upper

    def copy(self, start: int, end: int, obj: MemoryObject, offset: int) -> Vma:
        """The same mapping elsewhere (attributes and file reference included)."""
        other = Vma(
            start, end, self.prot, self.kind, obj, offset, file=self.file, file_offset=self.file_offset, max_prot=self.max_prot, name=self.name,
            grows_down=self.grows_down, noreserve=self.noreserve,
        )  # fmt: skip
        other.dont_fork = self.dont_fork
        other.wipe_on_fork = self.wipe_on_fork
        other.locked = self.locked
        other.source = self.source
        other.source_base = self.source_base
        return other

    def release(self) -> None:
        """The mapping is gone: drop its file."""
        if self.file is not None:
            self.file.release()
            self.file = None

    def merges_with(self, upper: Vma) -> bool:
        """Whether ``upper``, which begins where this ends, is one mapping with this."""
        return (
            self.end == upper.start
            and self.prot == upper.prot
            and self.kind is upper.kind
            and self.object is upper.object
            and self.offset + self.length == upper.offset
            and self.file is upper.file
            and (self.file is None or self.file_offset + self.length == upper.file_offset)
            and self.name == upper.name
            and self.grows_down == upper.grows_down
            and self.max_prot == upper.max_prot
            and self.noreserve == upper.noreserve
            and (self.dont_fork, self.wipe_on_fork, self.locked) == (upper.dont_fork, upper.wipe_on_fork, upper.locked)
        )

    def __repr__(self) -> str:
        prot = "".join(letter if self.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
        return f"<Vma {self.start:x}-{self.end:x} {prot}{'p' if self.private else 's'} {self.kind.name} {self.name!r}>"
