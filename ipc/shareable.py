"""Objects whose state may move into the realm's arena, so that several processes have them: events, event pairs, counters.

An object starts as one of its process alone. When a handle to it is sent through a session it is *promoted*: its state moves into a
slot of the arena, all handles to it follow, and the koid stays. An object that came from another process starts in its slot.
"""

from __future__ import annotations

from polynix.ipc.handle import KernelObject, Observer
from polynix.ipc.shared_arena import SharedArena, Slot
from polynix.ipc.signals import Signals
from polynix.ipc.status import Status, ZxStatus


class ShareableObject(KernelObject):
    """An object, or one end of a pair (``end`` is 0 or 1)."""

    slot: Slot | None = None
    end = 0

    @property
    def bits(self) -> int:
        return self._pending if self.slot is None else self.slot.signals(self.end)

    def update_signals(self, clear: Signals, set_: Signals) -> None:
        with self.lock:
            if self.slot is None:
                super().update_signals(clear, set_)
                return
            self.slot.update_signals(self.end, clear, set_)
            self.tell_observers()

    def observe(self, observer: Observer) -> None:
        with self.lock:
            if self.slot is not None:
                self.slot.arena.watch(self, self.slot)
            super().observe(observer)

    @property
    def observed(self) -> bool:
        """Whether somebody of this process waits."""
        return bool(self._observers)

    def promote(self, arena: SharedArena) -> None:
        """Move the state into ``arena``, unless it is there. Errors: NO_RESOURCES; NOT_SUPPORTED if it is in another one."""
        with self.lock:
            if self.slot is None:
                self.settle(arena.claim())
            elif self.slot.arena is not arena:
                raise ZxStatus(Status.NOT_SUPPORTED, "the object belongs to another realm")

    def settle(self, slot: Slot) -> None:
        """Move the state into ``slot``, which is zeroed and nobody else's."""
        slot.update_signals(self.end, Signals.NONE, Signals(self._pending))
        self.enter(slot)

    def enter(self, slot: Slot) -> None:
        """The state is in ``slot`` from now on."""
        self.slot = slot
        slot.ends += 1
        if self._observers:
            slot.arena.watch(self, slot)

    def on_zero_handles(self) -> None:
        if self.slot is not None and self.slot.arena.is_broker:
            self.slot.leave()
