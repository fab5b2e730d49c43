"""The VMAs of an address space in order of their addresses: which of them lies where, and where there is room for another."""

from __future__ import annotations

import errno
from bisect import bisect_right

from polynix.addrspace.addresses import MAX_MAP_COUNT, MMAP_MIN_ADDRESS, PAGE_SIZE, STACK_GUARD, STACK_TOP, TASK_SIZE, page_down
from polynix.addrspace.vma import Vma


class VmaList:
    """``vmas`` are sorted and disjoint, and ``_starts`` are their first addresses. Who changes the list (:class:`MemoryManager`) makes the maps agree."""

    def __init__(self) -> None:
        self.vmas: list[Vma] = []
        self._starts: list[int] = []
        self.mmap_base = STACK_TOP - (136 << 20)
        self._ceiling = self.mmap_base  # no gap of a page or more lies between here and mmap_base

    def set_mmap_base(self, address: int) -> None:
        """Where mappings without a place begin to be laid, downwards; nothing is mapped below it yet."""
        self.mmap_base = self._ceiling = address

    # -- look-up ----------------------------------------------------------------------------------------------------------------------------

    def find(self, address: int) -> Vma | None:
        """The VMA that contains ``address``."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        vma = self.vmas[index]
        return vma if address < vma.end else None

    def find_next(self, address: int) -> Vma | None:
        """The first VMA that ends above ``address``."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.vmas[index].end:
            return self.vmas[index]
        return self.vmas[index + 1] if index + 1 < len(self.vmas) else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The VMAs that meet [start, end), in order."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        found = []
        for vma in self.vmas[index:]:
            if vma.start >= end:
                break
            if vma.end > start:
                found.append(vma)
        return found

    def is_free(self, start: int, end: int) -> bool:
        return not self.overlapping(start, end)

    def is_covered(self, start: int, end: int) -> bool:
        """Whether every page of [start, end) is mapped."""
        position = start
        for vma in self.overlapping(start, end):
            if vma.start > position:
                return False
            position = vma.end
        return position >= end

    def find_free_low(self, length: int, low: int, high: int) -> int:
        """A free place within [low, high), the lowest (MAP_32BIT). Errors: ENOMEM."""
        position = low
        for vma in self.overlapping(low, high):
            if vma.start - position >= length:
                break
            position = vma.end
        if position + length > high:
            raise OSError(errno.ENOMEM, "no free address range")
        return position

    # -- room -------------------------------------------------------------------------------------------------------------------------------

    def find_free(self, length: int, hint: int = 0, align: int = PAGE_SIZE) -> int:
        """A free place for ``length`` bytes: at ``hint`` if that is free, else the highest gap below mmap_base. Errors: ENOMEM."""
        if hint:
            hint = page_down(hint)
            if hint >= MMAP_MIN_ADDRESS and hint + length <= TASK_SIZE and self._free_with_guard(hint, hint + length):
                return hint
        top = self._ceiling
        index = bisect_right(self._starts, top - 1) - 1
        first = True
        while True:
            vma = self.vmas[index] if index >= 0 else None
            bottom = vma.end if vma is not None else MMAP_MIN_ADDRESS
            if bottom < top:
                if first:
                    self._ceiling = top
                    first = False
                start = (top - length) & ~(align - 1)
                if start >= bottom and start >= MMAP_MIN_ADDRESS:
                    return start
            if vma is None:
                break
            top = min(top, vma.start - (STACK_GUARD if vma.grows_down else 0))
            index -= 1
        # Nothing below: look above mmap_base, bottom up.
        position = self.mmap_base
        for vma in self.vmas[max(bisect_right(self._starts, position) - 1, 0) :]:
            if vma.end <= position:
                continue
            if vma.start - (STACK_GUARD if vma.grows_down else 0) >= position + length:
                return position
            position = (vma.end + align - 1) & ~(align - 1)
        if position + length <= TASK_SIZE:
            return position
        raise OSError(errno.ENOMEM, "no free address range")

    def _free_with_guard(self, start: int, end: int) -> bool:
        following = self.find_next(start)
        return following is None or following.start - (STACK_GUARD if following.grows_down else 0) >= end

    # -- borders ----------------------------------------------------------------------------------------------------------------------------

    def split_at(self, address: int) -> None:
        """Make ``address`` a VMA border if it lies inside one."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            vma = self.vmas[index]
            if vma.start < address < vma.end:
                if len(self.vmas) >= MAX_MAP_COUNT:
                    raise OSError(errno.ENOMEM, "too many mappings")
                self.vmas.insert(index + 1, vma.split(address))
                self._starts.insert(index + 1, address)

    def _merge_around(self, index: int) -> Vma:
        vmas, starts = self.vmas, self._starts
        vma = vmas[index]
        if index + 1 < len(vmas) and vma.merges_with(vmas[index + 1]):
            upper = vmas.pop(index + 1)
            starts.pop(index + 1)
            vma.end = upper.end
            upper.release()
        if index > 0 and vmas[index - 1].merges_with(vma):
            vmas.pop(index)
            starts.pop(index)
            lower = vmas[index - 1]
            lower.end = vma.end
            vma.release()
            return lower
        return vma
