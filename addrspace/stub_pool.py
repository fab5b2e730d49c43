"""Address spaces ready for use: stubs made ahead of need, because making one costs 20 times what taking one does.

The monitor's spawner thread makes them, so that the loop does not wait for their exec, and the pool orders the next one with each that it gives out: the
loop need not be idle for that. A taken stub may not have reported READY yet; the system call loop resumes it when it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from polynix.addrspace._restricted import Monitor, Stub
from polynix.addrspace._usercopy import MemoryObject
from polynix.addrspace.memory_manager import MemoryManager
from polynix.addrspace.region import RegionFactory
from polynix.addrspace.text_store import TextStore


class StubPool:
    """Keeps up to ``target`` spare address spaces; ``on_spawn`` lets the kernel watch each new stub's descriptors."""

    def __init__(self, monitor: Monitor, regions: RegionFactory, target: int = 4) -> None:
        self.monitor = monitor
        self.regions = regions
        self.target = target
        self.on_spawn: Callable[[Stub], None] = lambda _stub: None
        self.spares: deque[MemoryManager] = deque()
        self.ordered: dict[int, MemoryObject] = {}
        self.spawned = 0
        self.texts: TextStore | None = None  # of all address spaces
        self.nothing = MemoryManager(None, None)  # type: ignore[arg-type]  # of a task that has yet to exec for the first time
        self.nothing.dead = True

    def prime(self) -> None:
        """Make the first one at once. Errors: OSError, as the host gives its reason."""
        self.spares.append(self.take())

    def take(self) -> MemoryManager:
        """A spare address space, or a new one."""
        spares = self.spares
        if not spares and self.ordered:
            self.collect()
        mm = None
        while mm is None and spares:
            mm = spares.popleft()
            if mm.dead:
                mm = None
        if mm is None:
            region = self.regions.new_region()
            try:
                stub = self.monitor.spawn(region.fd)
            except BaseException:
                region.close()
                raise
            mm = self._add(stub, region)
        self.refill()
        return mm

    def refill(self) -> None:
        """Order what is missing."""
        while len(self.spares) + len(self.ordered) < self.target:
            region = self.regions.new_region()
            self.ordered[self.monitor.order(region.fd)] = region

    def collect(self) -> None:
        """Orders have been carried out (``Monitor.spawned_fd``). After a failure no more are given: who needs a stub then meets the error."""
        for number, stub in self.monitor.spawned():
            region = self.ordered.pop(number)
            if stub is not None:
                self.spares.append(self._add(stub, region))
            else:
                self.target = 0
                region.close()

    def _add(self, stub: Stub, region: MemoryObject) -> MemoryManager:
        self.spawned += 1
        mm = MemoryManager(stub, region)
        mm.texts = self.texts
        stub.tag = mm
        self.on_spawn(stub)
        return mm

    def discard(self, mm: MemoryManager) -> None:
        """A stub died; if it was a spare one, another will be made in its place."""
        if mm in self.spares:
            self.spares.remove(mm)
            if mm.ready:
                self.refill()

    def close(self) -> None:
        """End all spares."""
        self.target = 0
        while self.spares:
            self.spares.popleft().destroy()
        for region in self.ordered.values():
            region.close()
        self.ordered.clear()
