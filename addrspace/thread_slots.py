"""The slots of a stub: a control page and a host thread for each thread of its guest."""

from __future__ import annotations

import errno

from polynix.addrspace._restricted import SLOT_COUNT, Slot, Stub


class ThreadSlots:
    """Which slots of ``stub`` are to be had. A thread that ends leaves its host thread parked, and the next one takes it."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self._parked: list[Slot] = []
        self._free: list[int] = []  # indices of slots that were given back before they had a host thread
        self._next = 1  # slot 0 is the stub's first thread

    @property
    def only_first(self) -> bool:
        """Whether the stub has never been asked for a second thread."""
        return self._next == 1

    def take(self) -> tuple[Slot, bool]:
        """A slot for a new thread and whether its host thread already exists (parked). Errors: EAGAIN when a stub's threads are all in use."""
        if self._parked:
            return self._parked.pop(), True
        if self._free:
            return self.stub.slot(self._free.pop()), False
        index = self._next
        if index >= SLOT_COUNT:
            raise OSError(errno.EAGAIN, "no thread left in the address space")
        self._next += 1
        return self.stub.slot(index), False

    def give_back(self, slot: Slot, parked: bool) -> None:
        """Undo :meth:`take`."""
        if parked:
            self._parked.append(slot)
        else:
            self._free.append(slot.index)

    def park(self, slot: Slot) -> None:
        """A thread ended; its host thread waits for the next one."""
        slot.task = None
        self._parked.append(slot)
