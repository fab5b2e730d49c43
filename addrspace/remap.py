"""mremap: resize a mapping in place, or move it.

Region memory lies at offset == address, so moving private memory copies its pages (holes stay holes) and punches the old ones; shared objects and file maps
just get new VMAs.
"""

from __future__ import annotations

import errno

from polynix.addrspace.addresses import TASK_SIZE
from polynix.addrspace.memory_manager import MemoryManager
from polynix.addrspace.vma import Vma, VmaKind


def remap(mm: MemoryManager, old: int, old_length: int, new_length: int, *, may_move: bool, place: int | None, hint: int, keep_old: bool) -> int:
    """The new address. Lengths are page multiples. Errors: EFAULT (not mapped), EINVAL, ENOMEM."""
    vma = mm.find(old)
    if vma is None:
        raise OSError(errno.EFAULT, "not mapped")
    if old_length == 0:
        # A second map of the same shared pages.
        if vma.kind is not VmaKind.SHARED or not may_move:
            raise OSError(errno.EINVAL, "old size of zero")
        target = place if place is not None else mm.find_free(new_length, hint)
        return _place(mm, vma, old, new_length, target)
    if vma.end < old + old_length:
        raise OSError(errno.EFAULT, "more than one mapping")
    if keep_old and vma.kind is not VmaKind.ANONYMOUS and vma.kind is not VmaKind.SHARED:
        raise OSError(errno.EINVAL, "MREMAP_DONTUNMAP of a file map")
    if place is None and not keep_old:
        if new_length <= old_length:
            if new_length < old_length:
                mm.unmap(old + new_length, old + old_length)
            return old
        if vma.end == old + old_length and old + new_length <= TASK_SIZE and mm.is_free(old + old_length, old + new_length):
            _extend(mm, vma, old + old_length, old + new_length)
            return old
        if not may_move:
            raise OSError(errno.ENOMEM, "can't grow in place")
    target = place if place is not None else mm.find_free(new_length, hint)
    if new_length < old_length:
        mm.unmap(old + new_length, old + old_length)
        old_length = new_length
    if place is not None:
        mm.unmap(place, place + new_length)
    mm.split_at(old)
    mm.split_at(old + old_length)
    source = mm.find(old)
    assert source is not None
    _place(mm, source, old, new_length, target, copy=old_length)
    if keep_old:
        if source.in_region():
            mm.region.punch(old, old_length)
    else:
        mm.unmap(old, old + old_length)
    return target


def _extend(mm: MemoryManager, vma: Vma, start: int, end: int) -> None:
    offset = start if vma.in_region() else vma.offset + start - vma.start
    extension = vma.copy(start, end, vma.object, offset)
    extension.file_offset = vma.file_offset + start - vma.start
    mm.insert(extension)
    if vma.kind is VmaKind.COPIED:
        mm.refill(extension, start, end)


def _place(mm: MemoryManager, vma: Vma, old: int, length: int, target: int, copy: int = 0) -> int:
    delta = old - vma.start
    moved = vma.copy(target, target + length, vma.object, target if vma.in_region() else vma.offset + delta)
    moved.file_offset = vma.file_offset + delta
    moved.grows_down = False
    if vma.in_region() and copy:
        mm.region.copy_from(mm.region, old, target, copy)
    mm.insert(moved)
    return target
