"""Memory whose pages somebody else supplies, a chunk at a time: files that a pager fills.

A chunk is *present* once its byte in the presence table, shared memory that the pager writes, is 1, and stays so. Present chunks are mapped like any other
memory; absent ones are mapped nowhere, in no stub and in no UserMap, so that whoever touches one is heard: the guest by a fault, usercopy by ``on_fault``.
"""

from __future__ import annotations

import mmap
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from polynix.addrspace._usercopy import MemoryObject
from polynix.addrspace.addresses import page_up


class AbsentPages(Exception):
    """Pages are needed that are not present, and may not be waited for in place (:func:`no_waiting`)."""

    def __init__(self, memory: PagedMemory, start: int, end: int) -> None:
        super().__init__()
        self.memory = memory
        self.start = start
        self.end = end

    async def come(self) -> None:
        """Wait for them. Errors: OSError."""
        await self.memory.require_later(self.start, self.end)


class PagedMemory(MemoryObject):
    """The content of one file, read-only. ``fd`` is the pages' descriptor, ``presence_fd`` the table's (the caller's to close).

    ``supply(start, end)`` makes the chunks of a range of offsets present, and blocks meanwhile; ``supply_later`` is awaited for the same. Errors: OSError.
    """

    waits: ClassVar[bool] = True
    """Whether :meth:`require` may block."""

    def __init__(
        self, fd: int, presence_fd: int, size: int, chunk_size: int, supply: Callable[[int, int], None], supply_later: Callable[[int, int], Awaitable[None]]
    ) -> None:
        super().__init__(fd, False)
        self.end = page_up(size)
        self.chunk_size = chunk_size
        self.supply = supply
        self.supply_later = supply_later
        self._presence = mmap.mmap(presence_fd, max(1, -(-size // chunk_size)), mmap.MAP_SHARED, mmap.PROT_READ)

    def is_present(self, offset: int) -> bool:
        """Whether the page at ``offset`` can be mapped now."""
        return offset < self.end and self._presence[offset // self.chunk_size] == 1

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that are present, longest possible, in order."""
        chunk_size, presence = self.chunk_size, self._presence
        end = min(end, self.end)
        while start < end:
            first = presence.find(b"\1", start // chunk_size)
            if first < 0:
                return
            after = presence.find(b"\0", first)
            low, high = max(start, first * chunk_size), end if after < 0 else min(end, after * chunk_size)
            if low < high:
                yield low, high
            if after < 0:
                return
            start = after * chunk_size

    def require(self, start: int, end: int) -> None:
        """Make all of [start, end) present that lies within the file. Errors: OSError, AbsentPages."""
        for low, high in self.absent(start, end):
            if not self.waits:
                raise AbsentPages(self, low, high)
            self.supply(low, high)

    async def require_later(self, start: int, end: int) -> None:
        """The same, awaited. Errors: OSError."""
        for low, high in self.absent(start, end):
            await self.supply_later(low, high)

    def absent(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) within the file that are not present."""
        parts = []
        position, end = start, min(end, self.end)
        for low, high in self.runs(start, end):
            if position < low:
                parts.append((position, low))
            position = high
        if position < end:
            parts.append((position, end))
        return parts

    def read(self, offset: int, n: int, /) -> bytes:
        self.require(offset, offset + n)
        return super().read(offset, n)

    def data_ranges(self, offset: int, length: int, /) -> list[tuple[int, int]]:
        return list(self.runs(offset, offset + length))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Nothing blocks for absent pages meanwhile: AbsentPages says which they are. For what can be tried again."""
    PagedMemory.waits = False
    try:
        yield
    finally:
        PagedMemory.waits = True


def require(memory: MemoryObject, offset: int, length: int) -> None:
    """Before ``memory`` is copied from behind usercopy's back: make the range present if it is paged. Errors: OSError."""
    if isinstance(memory, PagedMemory):
        memory.require(offset, offset + length)
