"""Event and EventPair: nothing but signals, of one object or between two."""

from __future__ import annotations

from typing import ClassVar, cast

from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.object_lock import ObjectLock
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

EVENT_RIGHTS = Rights.BASIC | Rights.IO | Rights.SIGNAL
EVENTPAIR_RIGHTS = EVENT_RIGHTS | Rights.SIGNAL_PEER


class EventObject(KernelObject):
    """Signals that a holder sets."""

    user_signals: ClassVar[Signals] = Signals.USER_ALL | Signals.EVENT_SIGNALED


class Event(Handle):
    """A handle to an event."""

    @classmethod
    def create(cls) -> Event:
        return cls(EventObject(), EVENT_RIGHTS)


class EventPairEnd(EventObject):
    """One of two that signal each other."""

    def __init__(self, lock: ObjectLock) -> None:
        super().__init__(lock)
        self.peer: EventPairEnd | None = None

    @property
    def related_koid(self) -> int:
        return self.peer.koid if self.peer is not None else 0

    def signal_peer(self, clear: Signals, set_: Signals) -> None:
        """Errors: PEER_CLOSED."""
        with self.lock:
            if self.peer is None:
                raise ZxStatus(Status.PEER_CLOSED)
            self.peer.update_signals(clear, set_)

    def on_zero_handles(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.update_signals(Signals.NONE, Signals.PEER_CLOSED)


class EventPair(Handle):
    """A handle to one end."""

    @classmethod
    def create(cls) -> tuple[EventPair, EventPair]:
        lock = ObjectLock()
        first, second = EventPairEnd(lock), EventPairEnd(lock)
        first.peer, second.peer = second, first
        return cls(first, EVENTPAIR_RIGHTS), cls(second, EVENTPAIR_RIGHTS)

    def signal_peer(self, clear: Signals, set_: Signals) -> None:
        """Set and clear signals at the other end. Errors: PEER_CLOSED, INVALID_ARGS."""
        end = cast(EventPairEnd, self._require(Rights.SIGNAL_PEER))
        if (clear | set_) & ~end.user_signals:
            raise ZxStatus(Status.INVALID_ARGS, "not user signals")
        end.signal_peer(clear, set_)
