"""Counters and event pairs whose state lies in a :class:`SharedArena`: the same handles, between processes.

``create_shared_counter`` and ``create_shared_event_pair`` make them. A handle's :class:`SharedReference` goes to another process by
whatever carries messages, and :func:`adopt` makes a handle of it there; the sender keeps its own handle until the other has done so.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from polynix.ipc import counter as counters
from polynix.ipc import event as events
from polynix.ipc.counter import Counter, CounterObject
from polynix.ipc.event import EventPair
from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.shared_arena import GENERATION, HOLDERS, KIND, KOID, SIGNALS, VALUE, SharedArena
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

KIND_COUNTER = 1
KIND_EVENT_PAIR = 2


class SharedReference(NamedTuple):
    """Where an object lies, and with which rights its handle comes; plain numbers."""

    kind: int
    slot: int
    end: int
    generation: int
    rights: int


class SharedObject(KernelObject):
    """One end of an object, as one process sees it."""

    user_signals = Signals.USER_ALL | Signals.EVENT_SIGNALED

    def __init__(self, arena: SharedArena, slot: int, end: int) -> None:
        super().__init__(arena.lock)
        self.arena = arena
        self.slot = slot
        self.end = end
        self.word = arena.word(slot)
        self.koid = arena.long_words[self.word // 2 + KOID] + end
        arena.objects[slot, end] = self

    @property
    def pending(self) -> Signals:
        return Signals(self.arena.words[self.word + SIGNALS + self.end])

    def refresh(self) -> None:
        """Words may have changed: tell observers."""
        self.tell_observers()

    def update_signals(self, clear: Signals, set_: Signals) -> None:
        self._update_end(self.end, clear, set_)

    def _update_end(self, end: int, clear: Signals, set_: Signals) -> None:
        with self.arena.change():
            index = self.word + SIGNALS + end
            self.arena.words[index] = (self.arena.words[index] & ~int(clear)) | int(set_)
            for shared in (self.arena.objects.get((self.slot, 0)), self.arena.objects.get((self.slot, 1))):
                if shared is not None:
                    shared.refresh()

    def on_zero_handles(self) -> None:
        self.arena.objects.pop((self.slot, self.end), None)
        self.arena.release(self.slot, self.end)


class SharedCounterObject(SharedObject):
    """The number, in shared memory; does what :class:`CounterObject` does."""

    @property
    def pending(self) -> Signals:
        sign = Signals.COUNTER_POSITIVE if self.load() > 0 else Signals.COUNTER_NON_POSITIVE
        return Signals(self.arena.words[self.word + SIGNALS]) | sign

    def load(self) -> int:
        return self.arena.signed_words[self.word // 2 + VALUE]

    def add(self, amount: int) -> None:
        with self.arena.change():
            self.store(self.load() + amount)

    def store(self, value: int) -> None:
        if not counters.MINIMUM <= value <= counters.MAXIMUM:
            raise ZxStatus(Status.OUT_OF_RANGE, f"counter of {value}")
        with self.arena.change():
            self.arena.signed_words[self.word // 2 + VALUE] = value
            self.refresh()


class SharedEventPairEnd(SharedObject):
    """One of two ends, the other of which may be anywhere."""

    @property
    def related_koid(self) -> int:
        if self.pending & Signals.PEER_CLOSED:
            return 0
        return self.koid + (-1 if self.end else 1)

    def signal_peer(self, clear: Signals, set_: Signals) -> None:
        """Errors: PEER_CLOSED."""
        with self.arena.change():
            if self.arena.long_words[self.word // 2 + HOLDERS + 1 - self.end] == 0:
                raise ZxStatus(Status.PEER_CLOSED)
            self._update_end(1 - self.end, clear, set_)


def create_shared_counter(arena: SharedArena) -> Counter:
    """A counter of 0. Errors: NO_RESOURCES."""
    return Counter(SharedCounterObject(arena, arena.allocate(KIND_COUNTER, 1), 0), counters.RIGHTS)


def create_shared_event_pair(arena: SharedArena) -> tuple[EventPair, EventPair]:
    """Errors: NO_RESOURCES."""
    slot = arena.allocate(KIND_EVENT_PAIR, 2)
    first, second = SharedEventPairEnd(arena, slot, 0), SharedEventPairEnd(arena, slot, 1)
    return EventPair(first, events.EVENTPAIR_RIGHTS), EventPair(second, events.EVENTPAIR_RIGHTS)


def reference(handle: Handle) -> SharedReference:
    """What another process adopts. Errors: WRONG_TYPE if the object isn't in an arena, ACCESS_DENIED without TRANSFER."""
    shared = handle._require(Rights.TRANSFER)
    if not isinstance(shared, SharedObject):
        raise ZxStatus(Status.WRONG_TYPE, "not in a shared arena")
    return reference_of(shared, handle.rights)


def reference_of(shared: SharedObject, rights: Rights) -> SharedReference:
    """The reference of a handle with ``rights``."""
    words = shared.arena.words
    return SharedReference(words[shared.word + KIND], shared.slot, shared.end, words[shared.word + GENERATION], int(rights))


def adopt(arena: SharedArena, reference: SharedReference) -> Counter | EventPair:
    """A handle of this process. Errors: INVALID_ARGS, NOT_FOUND when the object is gone."""
    kind, slot, end, generation, rights = reference
    most = {KIND_COUNTER: (counters.RIGHTS, 1), KIND_EVENT_PAIR: (events.EVENTPAIR_RIGHTS, 2)}.get(kind)
    if most is None or not arena.slot_exists(slot) or not 0 <= end < most[1] or rights & ~int(most[0]):
        raise ZxStatus(Status.INVALID_ARGS, f"{reference}")
    with arena.change():
        word = arena.word(slot)
        if (arena.words[word + KIND], arena.words[word + GENERATION]) != (kind, generation):
            raise ZxStatus(Status.NOT_FOUND, "the object is gone")
        arena.hold(slot, end)
        shared = arena.objects.get((slot, end))
        if kind == KIND_COUNTER:
            shared = shared or SharedCounterObject(arena, slot, end)
            return Counter(cast(CounterObject, shared), Rights(rights))
        return EventPair(cast(SharedEventPairEnd, shared or SharedEventPairEnd(arena, slot, end)), Rights(rights))
