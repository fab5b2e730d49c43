"""Host calls that a stub must run before its guest goes on, so that its maps agree with the VMAs.

Calls collect in the order they were decided; :meth:`HostCalls.push` moves them into a slot's batch, piece by piece when they are more than a batch holds.
Memory objects that a call maps reach the stub by SCM_RIGHTS in the same hand-off and are closed at its end.
"""

from __future__ import annotations

from polynix.addrspace._restricted import FIRST_INSTALLED_FD, REGION_FD, Slot
from polynix.addrspace._usercopy import MemoryObject

NR_MMAP, NR_MPROTECT, NR_MUNMAP, NR_ARCH_PRCTL = 9, 10, 11, 158
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_NORESERVE = 0x01, 0x02, 0x10, 0x4000
ARCH_SET_GS, ARCH_SET_FS = 0x1001, 0x1002

MAX_FDS_AT_ONCE = 32

Call = tuple[int, int, int, int, int, int, int]


class HostCalls(list[tuple[Call, MemoryObject | None]]):
    """The host calls that wait for one stub, in order, each with the memory object that it maps.

    A list, since every way back to a guest looks whether it is empty.
    """

    __slots__ = ()

    def map_region(self, start: int, end: int, prot: int) -> None:
        """Map the restricted region at its identity place."""
        if self:
            (nr, address, length, last_prot, _flags, fd, _offset), _ = self[-1]
            if nr == NR_MMAP and fd == REGION_FD and address + length == start and last_prot == prot:
                self[-1] = ((NR_MMAP, address, end - address, prot, MAP_SHARED | MAP_FIXED, REGION_FD, address), None)
                return
        self.append(((NR_MMAP, start, end - start, prot, MAP_SHARED | MAP_FIXED, REGION_FD, start), None))

    def map_object(self, start: int, end: int, prot: int, obj: MemoryObject, offset: int, *, private: bool) -> None:
        """Map another memory object."""
        flags = (MAP_PRIVATE if private else MAP_SHARED) | MAP_FIXED
        self.append(((NR_MMAP, start, end - start, prot, flags, -1, offset), obj))

    def unmap(self, start: int, end: int) -> None:
        self.append(((NR_MUNMAP, start, end - start, 0, 0, 0, 0), None))

    def protect(self, start: int, end: int, prot: int) -> None:
        self.append(((NR_MPROTECT, start, end - start, prot, 0, 0, 0), None))

    def push(self, slot: Slot) -> bool:
        """Move calls into ``slot``'s batch; True when all are in, False when the rest needs another hand-off (resume with ``report_back``).

        Descriptors live for one batch: they are received first, named by their order, and closed by the stub at the batch's end.
        """
        room = slot.batch_room - 1
        numbers: dict[int, int] = {}
        fds: list[int] = []
        batch: list[Call] = []
        for call, obj in self:
            if len(batch) == room:
                break
            if obj is not None:
                number = numbers.get(obj.id)
                if number is None:
                    if len(fds) == MAX_FDS_AT_ONCE:
                        break
                    number = numbers[obj.id] = FIRST_INSTALLED_FD + len(fds)
                    fds.append(obj.fd)
                call = (*call[:5], number, call[6])
            batch.append(call)
        if fds:
            slot.stub.send_fds(fds)
            slot.push_recv_fds(len(fds))
        for call in batch:
            slot.push(*call)
        del self[: len(batch)]
        return not self
