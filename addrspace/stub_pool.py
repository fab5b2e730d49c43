"""Address spaces ready for use: stubs made ahead of need, because making one costs 20 times what taking one does.

Stubs are made on the main thread only (PDEATHSIG fires when the creating thread ends). A taken stub may not have reported READY yet; the system call loop resumes it when
it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from polynix.addrspace._restricted import Monitor, Stub
from polynix.addrspace.memory_manager import MemoryManager
from polynix.addrspace.region import RegionFactory


class StubPool:
    """Keeps up to ``target`` spare address spaces; ``on_spawn`` lets the kernel watch each new stub's descriptors."""

    def __init__(self, monitor: Monitor, regions: RegionFactory, target: int = 4) -> None:
        self.monitor = monitor
        self.regions = regions
        self.target = target
        self.on_spawn: Callable[[Stub], None] = lambda _stub: None
        self.spares: deque[MemoryManager] = deque()
        self.spawned = 0
        self.nothing = MemoryManager(None, None)  # type: ignore[arg-type]  # of a task that has yet to exec for the first time
        self.nothing.dead = True

    def spawn(self) -> MemoryManager:
        """A new address space, with its stub starting."""
        region = self.regions.new_region()
        stub = self.monitor.spawn(region.fd)
        self.spawned += 1
        mm = MemoryManager(stub, region)
        stub.tag = mm
        self.on_spawn(stub)
        return mm

    def take(self) -> MemoryManager:
        """A spare address space, or a new one."""
        while self.spares:
            mm = self.spares.popleft()
            if not mm.dead:
                return mm
        return self.spawn()

    def refill_when_idle(self) -> bool:
        """Make one spare if some are missing; the loop asks before it sleeps, and again until the answer is False."""
        if len(self.spares) >= self.target:
            return False
        self.spares.append(self.spawn())
        return True

    def discard(self, mm: MemoryManager) -> None:
        """A stub died; if it was a spare one, another will be made in its place."""
        if mm in self.spares:
            self.spares.remove(mm)

    def close(self) -> None:
        """End all spares."""
        self.target = 0
        while self.spares:
            self.spares.popleft().destroy()
