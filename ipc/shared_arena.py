"""SharedArena: a POSIX shared memory object in which the words of counters, events and event pairs lie, for the processes of a realm.

Slots of 64 bytes, one for each object. All changes are atomic operations: there is no lock, so a process that is killed in the middle
of a change blocks nobody. Who waits for an object sets its bit in the slot's mask of waiters and sleeps on a futex of its own, its
*doorbell*; who changes signals afterwards rings the doorbells that the mask names. An object that nobody waits for wakes nobody.

The broker makes the arena and is member 0; the others attach with a descriptor and the number that it gives them. A member claims a
free slot by putting its number there. The broker takes the slot over when it hears of the object, and frees it when the last handle
in any process is gone (:mod:`polynix.ipc.session`); what a dead member had claimed and not announced is freed as well.

Members can break each other's objects: they are processes of one user. Guests never see an arena.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from typing import Protocol

from polynix.ipc._atomics import Words
from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.shared_memory import new_memory
from polynix.ipc.signals import Signals
from polynix.ipc.status import Status, ZxStatus

MAGIC = 0x52415850  # "PXAR"
MAX_MEMBERS = 256
SLOT_SIZE = 64
DEFAULT_SLOTS = 16384
BROKER = 0  # its number

# offsets in the header
_MAGIC, _SLOTS = 0, 4
_DOORBELLS = 64
_FIRST_SLOT = _DOORBELLS + 4 * MAX_MEMBERS
# offsets in a slot
_OWNER = 0  # 1 + the member's number, 0: free
_SIGNALS = 8  # two words of 32 bits
_VALUE = 16
_WAITERS = 24
_WAITER_WORDS = MAX_MEMBERS // 64


class Watched(Protocol):
    """What the arena knows of an object for whose signals somebody of this process waits."""

    @property
    def observed(self) -> bool: ...

    def tell_observers(self) -> None: ...


class Slot:
    """The words of one object."""

    __slots__ = ("_add", "_value", "arena", "ends", "index", "offset")

    def __init__(self, arena: SharedArena, index: int) -> None:
        self.arena = arena
        self.index = index
        self.offset = _FIRST_SLOT + index * SLOT_SIZE
        self.ends = 0  # objects of this process whose state is here
        self._value = self.offset + _VALUE
        self._add = arena.words.add

    def signals(self, end: int) -> int:
        return self.arena.words.load(self.offset + _SIGNALS + 4 * end)

    def update_signals(self, end: int, clear: Signals, set_: Signals) -> None:
        before = self.arena.words.update(self.offset + _SIGNALS + 4 * end, int(clear), int(set_))
        if int(set_) & ~before:
            self.ring()

    def load_value(self) -> int:
        return self.arena.words.load_long(self._value)

    def exchange_value(self, value: int) -> int:
        """Store ``value``; returns what was there."""
        return self.arena.words.exchange_long(self._value, value)

    def add_value(self, amount: int) -> int:
        """The sum. Errors: OverflowError, and nothing changes."""
        return self._add(self._value, amount)

    def ring(self) -> None:
        """Signals have changed: wake those who wait, in other processes too."""
        self.arena.words.ring(self.offset + _WAITERS, _WAITER_WORDS, _DOORBELLS, -1)

    def set_waiter(self, member: int, waits: bool) -> None:
        self.arena.words.set_bit(self.offset + _WAITERS + 8 * (member // 64), member % 64, waits)

    def zero(self) -> None:
        """As a new object finds it."""
        for end in range(2):
            self.arena.words.exchange(self.offset + _SIGNALS + 4 * end, 0)
        for offset in range(_VALUE, SLOT_SIZE, 8):
            if offset < _WAITERS + 8 * _WAITER_WORDS:
                self.arena.words.exchange_long(self.offset + offset, 0)

    def leave(self) -> None:
        """One of the objects is gone; with the last one the slot is free. For the broker."""
        self.ends -= 1
        if self.ends == 0:
            self.arena.free(self.index)


class SharedArena:
    """One member's view."""

    def __init__(self, fd: int, member: int) -> None:
        """``fd`` is this object's own. Errors: INVALID_ARGS."""
        size = os.fstat(fd).st_size
        if size < _FIRST_SLOT:
            raise ZxStatus(Status.INVALID_ARGS, "not an arena")
        self.fd = fd
        self.member = member
        self.words = Words(mmap.mmap(fd, size))
        self.closed = False
        self._capacity = (size - _FIRST_SLOT) // SLOT_SIZE
        self._doorbell = _DOORBELLS + 4 * member
        self._watched: dict[Watched, Slot] = {}
        self._thread: threading.Thread | None = None

    @classmethod
    def create(cls, slots: int = DEFAULT_SLOTS) -> SharedArena:
        """A new arena, without a name; the caller is its broker. Errors: NO_MEMORY."""
        size = _FIRST_SLOT + slots * SLOT_SIZE
        try:
            fd = new_memory("arena", size)
        except OSError as error:
            raise ZxStatus(Status.NO_MEMORY, str(error)) from error
        try:
            os.posix_fallocate(fd, 0, size)  # a full file system must not kill by SIGBUS later
            os.pwrite(fd, struct.pack("<II", MAGIC, slots), _MAGIC)
        except OSError as error:
            os.close(fd)
            raise ZxStatus(Status.NO_MEMORY, f"an arena of {size} bytes: {error.strerror}") from error
        return cls(fd, BROKER)

    @classmethod
    def attach(cls, fd: int, member: int) -> SharedArena:
        """The arena behind ``fd``, which becomes the arena's own. Errors: INVALID_ARGS, and ``fd`` is closed."""
        try:
            arena = cls(fd, member)
            if arena.words.load(_MAGIC) != MAGIC or arena.words.load(_SLOTS) > arena._capacity or not 0 < member < MAX_MEMBERS:
                raise ZxStatus(Status.INVALID_ARGS, "not an arena")
        except BaseException:
            os.close(fd)
            raise
        return arena

    @property
    def is_broker(self) -> bool:
        return self.member == BROKER

    def close(self) -> None:
        """Leave. Objects of this process keep their words, and wait for nothing more."""
        with OBJECTS:
            if self.closed:
                return
            self.closed = True
            for slot in self._watched.values():
                slot.set_waiter(self.member, False)
            self._watched.clear()
            thread = self._thread
        if thread is not None:
            self.words.wake(self._doorbell)
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()
        os.close(self.fd)

    # -- slots -------------------------------------------------------------------------------------------------------------------

    def claim(self) -> Slot:
        """A free slot, zeroed, this member's. Errors: NO_RESOURCES, BAD_STATE."""
        if self.closed:
            raise ZxStatus(Status.BAD_STATE, "the arena is closed")
        index = self.words.claim(_FIRST_SLOT + _OWNER, SLOT_SIZE, self._capacity, 1 + self.member)
        if index < 0:
            raise ZxStatus(Status.NO_RESOURCES, "the arena is full")
        slot = Slot(self, index)
        slot.zero()
        return slot

    def slot(self, index: int) -> Slot:
        """Errors: INVALID_ARGS."""
        if not 0 <= index < self._capacity:
            raise ZxStatus(Status.INVALID_ARGS, f"slot {index} of {self._capacity}")
        return Slot(self, index)

    def take_over(self, index: int, member: int) -> Slot:
        """The broker has heard of an object that ``member`` made. Errors: INVALID_ARGS if that isn't so."""
        slot = self.slot(index)
        if self.words.load(slot.offset + _OWNER) != 1 + member:
            raise ZxStatus(Status.INVALID_ARGS, f"slot {index} isn't that of {member}")
        self.words.exchange(slot.offset + _OWNER, 1 + BROKER)
        return slot

    def free(self, index: int) -> None:
        self.words.exchange(_FIRST_SLOT + index * SLOT_SIZE + _OWNER, 0)

    def bury(self, member: int) -> None:
        """A member is gone: free what it had claimed and not announced, and ring for it no more."""
        for index in range(self._capacity):
            offset = _FIRST_SLOT + index * SLOT_SIZE
            owner = self.words.load(offset + _OWNER)
            if owner == 1 + member:
                self.free(index)
            elif owner:
                self.words.set_bit(offset + _WAITERS + 8 * (member // 64), member % 64, False)

    # -- waiting -----------------------------------------------------------------------------------------------------------------

    def watch(self, watched: Watched, slot: Slot) -> None:
        """Have ``tell_observers`` called when others change the object, as long as it is observed. Called with the objects' lock held,
        before the caller looks at the signals.
        """
        if watched in self._watched or self.closed:
            return
        self._watched[watched] = slot
        slot.set_waiter(self.member, True)
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="arena", daemon=True)
            OBJECTS.after(self._thread.start)

    def _listen(self) -> None:
        while True:
            rung = self.words.load(self._doorbell)
            with OBJECTS:
                if self.closed:
                    return
                for watched, slot in list(self._watched.items()):
                    watched.tell_observers()
                    if not watched.observed:
                        del self._watched[watched]
                        slot.set_waiter(self.member, False)
            self.words.wait(self._doorbell, rung)
