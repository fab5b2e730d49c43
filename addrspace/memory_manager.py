"""One guest address space: Linux's ``mm_struct``.

Invariants: ``user`` (usercopy's C mirror) and the queued host calls follow every change of the VMAs in the same method; region pages outside of every
VMA are holes, so that fresh anonymous memory reads as zero. Errors are ``OSError`` with Linux's errno for the call.

A mapping with no access is not mapped in the stub at all: a touch faults either way, and the kernel tells MAPERR from ACCERR by the VMAs.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from typing import Any

from polynix.addrspace._restricted import GUEST_LIMIT, Stub
from polynix.addrspace._usercopy import MemoryObject, UserMap
from polynix.addrspace.addresses import MAX_MAP_COUNT, MMAP_MIN_ADDRESS, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, STACK_GUARD, TASK_SIZE, page_down, page_up
from polynix.addrspace.host_calls import HostCalls
from polynix.addrspace.paged_memory import PagedMemory, require
from polynix.addrspace.text_store import ABOVE, BELOW, PatchedText, TextStore
from polynix.addrspace.thread_slots import ThreadSlots
from polynix.addrspace.vma import MappedFile, Vma, VmaKind
from polynix.addrspace.vma_list import VmaList

ZEROS = memoryview(bytes(1 << 20))


class MemoryManager(VmaList):
    """VMAs, the region behind them, the stub that maps them, and brk. Shared by every task made with CLONE_VM (``users``)."""

    def __init__(self, stub: Stub, region: MemoryObject) -> None:
        super().__init__()
        self.stub = stub
        self.region = region
        self.user = UserMap()
        self.users = 0
        self.calls = HostCalls()
        self.ready = False  # the stub reported READY
        self.first_frame: tuple[int, int] | None = None  # entry and stack pointer of a program that came before that
        self.dead = False
        self.brk_start = 0
        self.brk = 0
        self.total_vm = 0  # bytes mapped
        self.data_vm = 0  # bytes private and writable
        self.locked_vm = 0
        self.stack_vm = 0
        self.mlock_future = False
        self.peak_vm = 0
        self.copied_bytes = 0  # by fork, and of private file maps that may be written: what copy-on-write would put off
        self.arg_start = self.arg_end = self.env_start = self.env_end = 0
        self.start_code = self.end_code = self.start_data = self.end_data = self.start_stack = 0
        self.auxv = b""
        self.exe: Any = None  # NamespaceNode of the program, for /proc/PID/exe
        self.dumpable = 1
        self.slots = ThreadSlots(stub)
        self.membarrier = 0
        self.user.on_fault = self.populate_fault
        self.texts: TextStore | None = None  # where patched copies of program text come from
        self.trampolines: dict[int, PatchedText] = {}  # where the stub maps those of patched text, by address
        self.stack_limit = 8 << 20

    # -- filling ----------------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def room() -> int:
        """Bytes that may be filled at one go; replaced where the kernel has to bound memory itself."""
        return 1 << 62

    def populate(self, start: int, end: int) -> None:
        """Give [start, end) its pages now (MAP_POPULATE, mlock, MADV_POPULATE_*). Errors: ENOMEM when memory is out."""
        for vma in self.overlapping(start, end):
            low, high = max(start, vma.start), min(end, vma.end)
            offset = vma.offset + low - vma.start
            if vma.prot and isinstance(vma.object, PagedMemory):
                vma.object.require(offset, offset + high - low)
                self.map_present(vma, low, high)
            elif vma.prot and vma.kind is not VmaKind.FILE:
                length = high - low if vma.private else min(high - low, vma.object.size() - offset)
                if length > self.room():
                    raise OSError(errno.ENOMEM, "out of memory")
                self._fill_holes(vma.object, offset, offset + length)

    @staticmethod
    def _fill_holes(obj: MemoryObject, start: int, end: int) -> None:
        position = start
        for low, high in [*obj.data_ranges(start, max(end - start, 0)), (end, end)]:
            while position < low:
                count = min(low - position, len(ZEROS))
                if obj.write(position, ZEROS[:count]) < count:
                    raise OSError(errno.ENOMEM, "out of memory")
                position += count
            position = high

    # -- map and unmap ----------------------------------------------------------------------------------------------------------------------

    def map_anonymous(self, start: int, length: int, prot: int, *, name: bytes = b"", grows_down: bool = False, noreserve: bool = False) -> Vma:
        """Private zero-filled memory at exactly ``start``; what was there is unmapped."""
        end = start + length
        self.unmap(start, end)
        vma = Vma(start, end, prot, VmaKind.ANONYMOUS, self.region, start, name=name, grows_down=grows_down, noreserve=noreserve)
        return self.insert(vma)

    def map_shared(
        self,
        start: int,
        length: int,
        prot: int,
        obj: MemoryObject,
        offset: int,
        *,
        file: MappedFile | None = None,
        file_offset: int = 0,
        max_prot: int = 7,
        name: bytes = b"",
    ) -> Vma:
        """A memory object, shared with everyone who maps it."""
        end = start + length
        self.unmap(start, end)
        return self.insert(Vma(start, end, prot, VmaKind.SHARED, obj, offset, file=file, file_offset=file_offset, max_prot=max_prot, name=name))

    def map_private_file(self, start: int, length: int, prot: int, obj: MemoryObject, offset: int, *, file: MappedFile, file_offset: int) -> Vma:
        """A private map of a file: straight from the file while nobody may write to it, a copy in the region otherwise."""
        end = start + length
        if prot & PROT_WRITE:
            require(obj, offset, length)
        self.unmap(start, end)
        if not prot & PROT_WRITE:
            return self.insert(Vma(start, end, prot, VmaKind.FILE, obj, offset, file=file, file_offset=file_offset))
        copied_end = min(end, start + max(page_up(obj.size() - offset), 0)) if offset < obj.size() else start
        if copied_end < end:
            # Pages wholly beyond the end of the file give SIGBUS: the host's own map of the file does that.
            beyond = copied_end - start
            tail = Vma(copied_end, end, prot, VmaKind.FILE, obj, offset + beyond, file=file, file_offset=file_offset + beyond)
            if copied_end == start:
                return self.insert(tail)
            self.insert(tail)
        vma = Vma(start, copied_end, prot, VmaKind.COPIED, self.region, start, file=file, file_offset=file_offset)
        vma.source, vma.source_base = obj, offset - file_offset
        self._fill_from(obj, offset, start, copied_end)
        return self.insert(vma)

    def unmap(self, start: int, end: int) -> None:
        """munmap: whatever is mapped in [start, end) goes."""
        if end > self._ceiling and start < self.mmap_base:
            self._ceiling = min(end, self.mmap_base)
        found = self.overlapping(start, end)
        if not found:
            return
        if self.trampolines:
            self._give_way(start, end)
        if found[0].start < start or found[-1].end > end:
            self.split_at(start)
            self.split_at(end)
            found = self.overlapping(start, end)
        index = bisect_right(self._starts, found[0].start) - 1
        del self.vmas[index : index + len(found)]
        del self._starts[index : index + len(found)]
        punch_start = punch_end = -1
        for vma in found:
            self._account(vma, -vma.length)
            if vma.in_region():
                if punch_end != vma.start:
                    if punch_start >= 0:
                        self.region.punch(punch_start, punch_end - punch_start)
                    punch_start = vma.start
                punch_end = vma.end
            vma.release()
        if punch_start >= 0:
            self.region.punch(punch_start, punch_end - punch_start)
        self.user.unmap(start, end)
        self.calls.unmap(max(start, found[0].start), min(end, found[-1].end))

    def _fill_from(self, obj: MemoryObject, offset: int, start: int, end: int) -> None:
        size = obj.size()
        if offset < size:
            require(obj, offset, end - start)
            self.copied_bytes += self.region.copy_from(obj, offset, start, min(end - start, size - offset))

    def insert(self, vma: Vma, *, map_host: bool = True) -> Vma:
        """Add a VMA where nothing is mapped; merged with its neighbours if it can be. Returns the VMA that now covers it."""
        index = bisect_right(self._starts, vma.start)
        if len(self.vmas) >= MAX_MAP_COUNT:
            raise OSError(errno.ENOMEM, "too many mappings")
        if self.trampolines:
            self._give_way(vma.start, vma.end)
        self.vmas.insert(index, vma)
        self._starts.insert(index, vma.start)
        self._account(vma, vma.length)
        # A writable private map of a file (only beyond its end) holds nothing that the kernel could copy, and absent chunks are asked for at a touch.
        unbacked = (vma.kind is VmaKind.FILE and vma.prot & PROT_WRITE) or isinstance(vma.object, PagedMemory)
        self.user.map(vma.start, vma.end, vma.prot, None if unbacked else vma.object, vma.offset)
        if map_host:
            self._map_host(vma)
        return self._merge_around(index)

    def _map_host(self, vma: Vma) -> None:
        if not vma.prot:
            return
        if vma.in_region():
            self.calls.map_region(vma.start, vma.end, vma.prot)
        elif vma.prot & PROT_EXEC and self.texts is not None and self._map_patched(vma, self.texts):
            return
        elif isinstance(vma.object, PagedMemory):
            self.map_present(vma, vma.start, vma.end)
        else:
            self.calls.map_object(vma.start, vma.end, vma.prot, vma.object, vma.offset, private=vma.kind is VmaKind.FILE)

    def map_present(self, vma: Vma, start: int, end: int) -> None:
        """Show the stub and usercopy what is present of [start, end) of ``vma``, whose memory is paged."""
        memory = vma.object
        assert isinstance(memory, PagedMemory)
        base = vma.offset - vma.start
        for low, high in memory.runs(start + base, end + base):
            self._show_user(vma, low - base, high - base)
            self.calls.map_object(low - base, high - base, vma.prot, memory, low, private=vma.kind is VmaKind.FILE)

    def _show_user(self, vma: Vma, start: int, end: int) -> None:
        self.user.map(start, end, vma.prot, vma.object, vma.offset + start - vma.start)

    # -- patched text (text_store.py) -------------------------------------------------------------------------------------------------------

    def displacement_of(self, text_address: int) -> int:
        """Where the trampolines of a text at this address would be, seen from it; 0 when there is no place for them."""
        if text_address + ABOVE >= TASK_SIZE:
            return ABOVE
        return BELOW if text_address + BELOW >= MMAP_MIN_ADDRESS else 0

    def _map_patched(self, vma: Vma, texts: TextStore) -> bool:
        """Map the patched copy of file text, and its trampolines; False when there is none, or no place for them."""
        if vma.kind is not VmaKind.FILE or vma.prot & PROT_WRITE:
            return False
        text = texts.find(vma.object, vma.offset, vma.length, self.displacement_of(vma.start))
        if text is None:
            return False
        place = vma.start - (vma.offset - text.start) + text.displacement
        end = place + text.trampolines_length
        if text.displacement == ABOVE and (place < TASK_SIZE or end > GUEST_LIMIT):
            return False
        if text.displacement == BELOW and (place < MMAP_MIN_ADDRESS or not self.is_free(place, end)):
            return False
        if self.trampolines.get(place) is not text:
            for other in [other for other, its in self.trampolines.items() if other < end and place < other + its.trampolines_length]:
                del self.trampolines[other]
            self.trampolines[place] = text
            self.calls.map_object(place, end, PROT_READ | PROT_EXEC, text.object, text.length, private=True)
        if isinstance(vma.object, PagedMemory):
            self._show_user(vma, vma.start, vma.end)  # it was read to be patched, and so all of it is present
        self.calls.map_object(vma.start, vma.end, vma.prot, text.object, vma.offset - text.start, private=True)
        return True

    def _is_patched(self, vma: Vma) -> bool:
        """Whether there is a patched copy, of which no part may be mapped as the file has it while another is not."""
        texts = self.texts if vma.prot & PROT_EXEC else None
        return texts is not None and texts.find(vma.object, vma.offset, vma.length, self.displacement_of(vma.start)) is not None

    def patch(self, vma: Vma, text: PatchedText) -> None:
        """``vma`` was mapped before its text was patched: have the stub map that instead, if it has not."""
        if self.trampolines.get(vma.start - (vma.offset - text.start) + text.displacement) is not text:
            self._map_host(vma)

    def _give_way(self, start: int, end: int) -> None:
        """The guest maps or unmaps [start, end): if trampolines lie there, their text is mapped as the file has it again."""
        for place, text in list(self.trampolines.items()):
            if place < end and start < place + text.trampolines_length:
                del self.trampolines[place]
                for vma in self.overlapping(place - text.displacement, place - text.displacement + text.length):
                    if vma.kind is VmaKind.FILE and vma.prot & PROT_EXEC and isinstance(vma.object, PagedMemory):
                        self.map_present(vma, vma.start, vma.end)
                    elif vma.kind is VmaKind.FILE and vma.prot & PROT_EXEC:
                        self.calls.map_object(vma.start, vma.end, vma.prot, vma.object, vma.offset, private=True)
                self.calls.unmap(place, place + text.trampolines_length)

    def place_outside_trampolines(self, address: int) -> int | None:
        """Where in the guest's text a thread that was met at ``address`` may be taken to be; None if that is no trampoline's."""
        for place, text in self.trampolines.items():
            if place <= address < place + text.trampolines_length:
                try:
                    return place - text.displacement + text.place_of(address - place)
                except IndexError:
                    return None
        return None

    # -- accounting and borders -------------------------------------------------------------------------------------------------------------

    def _account(self, vma: Vma, change: int) -> None:
        self.total_vm += change
        if self.total_vm > self.peak_vm:
            self.peak_vm = self.total_vm
        if vma.private and vma.prot & PROT_WRITE:
            if vma.grows_down:
                self.stack_vm += change
            else:
                self.data_vm += change
        if vma.locked:
            self.locked_vm += change

    # -- protection -------------------------------------------------------------------------------------------------------------------------

    def protect(self, start: int, end: int, prot: int) -> None:
        """mprotect. Errors: ENOMEM for a hole, EACCES for write access that the mapping can't give; what precedes the failing VMA is changed, as in Linux."""
        position = start
        for vma in self.overlapping(start, end):
            if vma.start > position:
                break
            if prot & ~vma.max_prot:
                raise OSError(errno.EACCES, "mapping can't be made so")
            self.split_at(start)
            self.split_at(end)
            current = self.find(position)
            assert current is not None
            position = current.end
            self._protect_one(current, prot)
            if position >= end:
                break
        if position < end:
            raise OSError(errno.ENOMEM, "hole in range")

    def _protect_one(self, vma: Vma, prot: int) -> None:
        old = vma.prot
        if old == prot:
            self._merge_around(bisect_right(self._starts, vma.start) - 1)
            return
        if prot & PROT_WRITE and vma.kind is VmaKind.FILE:
            require(vma.object, vma.offset, vma.length)
        self._account(vma, -vma.length)
        vma.prot = prot
        if prot & PROT_WRITE and vma.kind is VmaKind.FILE:
            self._fill_from(vma.object, vma.offset, vma.start, vma.end)
            vma.source, vma.source_base = vma.object, vma.offset - vma.file_offset
            vma.kind = VmaKind.COPIED
            vma.object = self.region
            vma.offset = vma.start
            old = 0
            self.user.map(vma.start, vma.end, prot, vma.object, vma.offset)
        else:
            self.user.protect(vma.start, vma.end, prot)
        self._account(vma, vma.length)
        if not prot:
            self.calls.unmap(vma.start, vma.end)
        elif not old or isinstance(vma.object, PagedMemory) or (prot & ~old & PROT_EXEC and vma.kind is VmaKind.FILE):
            self._map_host(vma)
        else:
            self.calls.protect(vma.start, vma.end, prot)
        self._merge_around(bisect_right(self._starts, vma.start) - 1)

    def map_again(self, vma: Vma, address: int) -> None:
        """Make the stub map ``vma`` at ``address`` once more: a thread faulted on what another thread's batch has yet to map, or on a chunk that has come."""
        if not isinstance(vma.object, PagedMemory) or self._is_patched(vma):
            self._map_host(vma)
            return
        base = vma.offset - vma.start
        chunk_size = vma.object.chunk_size
        low = (address + base) // chunk_size * chunk_size - base
        self.map_present(vma, max(vma.start, low), min(vma.end, low + chunk_size))

    def absent_at(self, address: int) -> Vma | None:
        """The VMA at ``address`` if its pages there must be asked for before anyone can touch them."""
        vma = self.find(address)
        if vma is None or not isinstance(vma.object, PagedMemory) or vma.object.is_present(vma.offset + address - vma.start):
            return None
        return vma

    # -- brk --------------------------------------------------------------------------------------------------------------------------------

    def set_brk(self, new_brk: int) -> int:
        """brk(2): the break in force afterwards; a request that can't be met changes nothing."""
        if new_brk < self.brk_start:
            return self.brk
        old_end, new_end = page_up(self.brk), page_up(new_brk)
        if new_end > old_end:
            if new_end > TASK_SIZE or not self._free_with_guard(old_end, new_end):
                return self.brk
            self.map_anonymous(old_end, new_end - old_end, PROT_READ | PROT_WRITE, name=b"[heap]")
        elif new_end < old_end:
            self.unmap(new_end, old_end)
        self.brk = new_brk
        return new_brk

    # -- contents ---------------------------------------------------------------------------------------------------------------------------

    def discard(self, start: int, end: int) -> None:
        """madvise(MADV_DONTNEED): private pages read as zero, or as the file, again."""
        for vma in self.overlapping(start, end):
            if not vma.in_region():
                continue
            low, high = max(start, vma.start), min(end, vma.end)
            self.region.punch(low, high - low)
            if vma.kind is VmaKind.COPIED and vma.file is not None:
                self.refill(vma, low, high)

    def refill(self, vma: Vma, low: int, high: int) -> None:
        """Copy file pages of a COPIED mapping into the region (again)."""
        if vma.source is not None:
            self._fill_from(vma.source, vma.source_base + vma.file_offset + low - vma.start, low, high)

    def populate_fault(self, address: int, write: bool) -> bool:
        """Usercopy met a mapped but unbacked page; True to try again."""
        vma = self.find(address)
        if vma is None or not isinstance(vma.object, PagedMemory) or write or not vma.prot:
            return self.grow_stack(address)
        try:
            offset = vma.offset + address - vma.start
            vma.object.require(offset, offset + 1)
        except OSError:
            return False
        self.map_again(vma, address)
        return vma.object.is_present(offset)

    def grow_stack(self, address: int) -> bool:
        """Extend a MAP_GROWSDOWN mapping down to ``address`` if the rules allow."""
        vma = self.find_next(address)
        if vma is None or not vma.grows_down or vma.start <= address:
            return False
        start = page_down(address)
        if vma.end - start > self.stack_limit or start < MMAP_MIN_ADDRESS:
            return False
        below = self.find_next(start - STACK_GUARD)
        if below is not None and below is not vma and below.prot and not below.grows_down:
            return False
        chunk = max(start - (32 * PAGE_SIZE), vma.end - self.stack_limit, MMAP_MIN_ADDRESS)
        if below is None or below is vma or below.end <= chunk - STACK_GUARD:
            start = min(start, page_up(chunk))
        self.insert(Vma(start, vma.start, vma.prot, VmaKind.ANONYMOUS, self.region, start, name=vma.name, grows_down=True))
        return True

    def change_attributes(self, start: int, end: int, change: Any) -> None:
        """Split to [start, end) and apply ``change(vma)`` to each VMA in it (madvise flags, mlock), merging afterwards."""
        self.split_at(start)
        self.split_at(end)
        for vma in self.overlapping(start, end):
            self._account(vma, -vma.length)
            change(vma)
            self._account(vma, vma.length)
        for vma in self.overlapping(start, end):
            index = bisect_right(self._starts, vma.start) - 1
            if index < len(self.vmas) and self.vmas[index] is vma:
                self._merge_around(index)

    def make_copied(self, vma: Vma) -> Vma:
        """Turn a private map that lies on its file into one with pages of its own (somebody is about to write there)."""
        prot = vma.prot
        self._protect_one(vma, prot | PROT_WRITE if prot & PROT_WRITE == 0 else prot)
        changed = self.find(vma.start)
        assert changed is not None
        self._protect_one(changed, prot)
        found = self.find(vma.start)
        assert found is not None
        return found

    # -- fork -------------------------------------------------------------------------------------------------------------------------------

    def copy_to(self, child: MemoryManager) -> None:
        """Make ``child`` (fresh) a copy of this address space: private pages are copied (holes stay holes), objects are shared."""
        for vma in self.vmas:
            if vma.dont_fork:
                continue
            if vma.in_region():
                copy = vma.copy(vma.start, vma.end, child.region, vma.start)
                if not vma.wipe_on_fork:
                    child.copied_bytes += child.region.copy_from(self.region, vma.start, vma.start, vma.length)
            else:
                copy = vma.copy(vma.start, vma.end, vma.object, vma.offset)
            copy.locked = False
            child.insert(copy)
        for name in (
            "mmap_base", "_ceiling", "brk_start", "brk", "arg_start", "arg_end", "env_start", "env_end", "start_code", "end_code", "start_data", "end_data",
            "start_stack", "auxv", "exe", "dumpable", "stack_limit", "membarrier",
        ):  # fmt: skip
            setattr(child, name, getattr(self, name))

    def resident_bytes(self) -> int:
        """Bytes of the region that hold pages."""
        return 0 if self.dead else self.region.resident()

    def destroy(self) -> None:
        """The last user is gone: end the stub and free the memory."""
        if self.dead:
            return
        self.dead = True
        self.stub.kill()
        for vma in self.vmas:
            vma.release()
        self.vmas.clear()
        self._starts.clear()
        self.user.unmap(0, 1 << 47)
        self.region.close()
