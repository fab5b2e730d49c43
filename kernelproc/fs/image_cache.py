"""What of images is in memory, all of a kernel's together: its page cache.

The pages are the runner's, and the host does not count them among the guests' memory. They may take what guests leave of theirs; when that is exceeded,
files go that nobody has open or mapped, the longest unused first. What is in use stays, and is not charged.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

if TYPE_CHECKING:
    from polynix.addrspace.paged_memory import PagedMemory
    from polynix.kernelproc.kernel import Kernel

FILES_MAX: Final = 256  # that nobody uses
LOOK_BYTES: Final = 4 << 20  # that come in between two looks at the sum


class ImageCache:
    """Kept in ``kernel.expando``."""

    def __init__(self) -> None:
        self._memories: WeakSet[PagedMemory] = WeakSet()
        self._recent: OrderedDict[PagedMemory, None] = OrderedDict()  # used last comes last; holds what nobody else does
        self._unseen = 0  # bytes since the last look

    def used(self, memory: PagedMemory) -> None:
        """A file was opened."""
        self._memories.add(memory)
        self._recent[memory] = None
        self._recent.move_to_end(memory)
        if len(self._recent) > FILES_MAX:
            self._recent.popitem(last=False)

    def resident_bytes(self) -> int:
        """Of all files, also those in use."""
        return sum(memory.resident() for memory in self._memories)

    def came_in(self, kernel: Kernel, count: int) -> None:
        """So many bytes are present now that were not."""
        self._unseen += count
        if self._unseen >= LOOK_BYTES and kernel.memory is not None:
            self._unseen = 0
            self.shrink(kernel.memory.bound - kernel.memory.used_bytes())

    def shrink(self, room: int) -> None:
        """Let go of what nobody uses, until no more than ``room`` bytes are left."""
        excess = self.resident_bytes() - room
        while excess > 0 and self._recent:
            before = len(self._memories)
            memory, _ = self._recent.popitem(last=False)
            size = memory.resident()
            del memory
            if len(self._memories) < before:  # it was the last to hold it
                excess -= size

    def forget(self, memories: list[PagedMemory]) -> None:
        """Their file system is unmounted."""
        for memory in memories:
            self._recent.pop(memory, None)
