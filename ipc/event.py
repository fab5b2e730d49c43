"""Event and EventPair: nothing but signals, of one object or between two."""

from __future__ import annotations

from typing import ClassVar, cast

from polynix.ipc.handle import Handle
from polynix.ipc.shareable import ShareableObject
from polynix.ipc.shared_arena import Slot
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

EVENT_RIGHTS = Rights.BASIC | Rights.IO | Rights.SIGNAL
EVENTPAIR_RIGHTS = EVENT_RIGHTS | Rights.SIGNAL_PEER


class EventObject(ShareableObject):
    """Signals that a holder sets."""

    user_signals: ClassVar[Signals] = Signals.USER_ALL | Signals.EVENT_SIGNALED


class Event(Handle):
    """A handle to an event."""

    @classmethod
    def create(cls) -> Event:
        return cls(EventObject(), EVENT_RIGHTS)


class EventPairEnd(EventObject):
    """One of two that signal each other; where the other's state is in the arena, its handles may be in another process."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end
        self.peer: EventPairEnd | None = None  # as long as this process has handles to it
        self.peer_koid = 0

    @classmethod
    def create(cls) -> tuple[EventPairEnd, EventPairEnd]:
        first, second = cls(0), cls(1)
        first.join(second)
        return first, second

    def join(self, peer: EventPairEnd) -> None:
        """Both ends are in this process."""
        self.peer, peer.peer = peer, self
        self.peer_koid, peer.peer_koid = peer.koid, self.koid

    @property
    def related_koid(self) -> int:
        return 0 if self.pending & Signals.PEER_CLOSED else self.peer_koid

    def signal_peer(self, clear: Signals, set_: Signals) -> None:
        """Errors: PEER_CLOSED."""
        with self.lock:
            if self.pending & Signals.PEER_CLOSED:
                raise ZxStatus(Status.PEER_CLOSED)
            if self.peer is not None:
                self.peer.update_signals(clear, set_)
            elif self.slot is not None:
                self.slot.update_signals(1 - self.end, clear, set_)

    def settle(self, slot: Slot) -> None:
        super().settle(slot)
        if self.peer is not None and self.peer.slot is None:
            self.peer.settle(slot)

    def on_zero_handles(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            if self.slot is None or self.slot.arena.is_broker:  # otherwise the broker tells, who knows of other processes' handles
                peer.update_signals(Signals.NONE, Signals.PEER_CLOSED)
        super().on_zero_handles()


class EventPair(Handle):
    """A handle to one end."""

    @classmethod
    def create(cls) -> tuple[EventPair, EventPair]:
        first, second = EventPairEnd.create()
        return cls(first, EVENTPAIR_RIGHTS), cls(second, EVENTPAIR_RIGHTS)

    def signal_peer(self, clear: Signals, set_: Signals) -> None:
        """Set and clear signals at the other end. Errors: PEER_CLOSED, INVALID_ARGS."""
        end = cast(EventPairEnd, self._require(Rights.SIGNAL_PEER))
        if (clear | set_) & ~end.user_signals:
            raise ZxStatus(Status.INVALID_ARGS, "not user signals")
        end.signal_peer(clear, set_)
