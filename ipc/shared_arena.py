"""SharedArena: a POSIX shared memory object in which the words of counters and event pairs lie, for a few trusting processes.

A runner and a container share one. It holds a table of its processes and slots of 64 bytes, one for each object. Whoever changes a
word holds the arena's lock, adds one to ``sequence`` and wakes the futex on it: so each process has one thread that sleeps until
something changes, and nobody polls. The lock is an open-file-description lock, which a killed process drops. Other processes are
watched by pidfd: when one dies, whatever it held is closed, and every peer sees PEER_CLOSED.

Each process attaches by itself, with a descriptor that it was given (:meth:`SharedArena.attach`); a forked child must not use what
it inherited. Processes that share an arena can break each other's objects: guests never see one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import mmap
import os
import secrets
import select
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from polynix.ipc.futex import futex_wait, futex_wake
from polynix.ipc.object_lock import ObjectLock
from polynix.ipc.signals import Signals
from polynix.ipc.status import Status, ZxStatus

log = logging.getLogger(__name__)

MAGIC = 0x52415850  # "PXAR"
MAX_PROCESSES = 64
SLOT_SIZE = 64
DEFAULT_SLOTS = 1024

# 32-bit words of the header
_MAGIC, _SLOTS, _SEQUENCE = 0, 1, 2
# 64-bit words of the header
_ARENA_ID, _NEXT_OBJECT = 2, 3
_PROCESSES = 64  # offset; each: pid u64, start time u64
_FIRST_SLOT = _PROCESSES + 16 * MAX_PROCESSES

# 32-bit words of a slot
KIND, GENERATION = 0, 1
SIGNALS = 6  # two
# 64-bit words of a slot
KOID, VALUE = 1, 2
HOLDERS = 4  # two: a bit for each process that has a handle to this end

_FLOCK = struct.Struct("hh4xqqi4x")


class SharedEnd(Protocol):
    """What the arena knows of an object of this process."""

    def refresh(self) -> None:
        """Words may have changed: tell observers."""


class SharedArena:
    """One process's view."""

    def __init__(self, fd: int) -> None:
        """``fd`` is a descriptor of nobody else's."""
        self.fd = fd
        self.memory = mmap.mmap(fd, os.fstat(fd).st_size)
        view = memoryview(self.memory)
        self.words = view.cast("I")
        self.long_words = view.cast("Q")
        self.signed_words = view.cast("q")
        self.lock = ObjectLock()  # of all objects of this process
        self.objects: weakref.WeakValueDictionary[tuple[int, int], SharedEnd] = weakref.WeakValueDictionary()
        self.index = -1
        self.closed = False
        self._depth = 0
        self._sequence = ctypes.c_uint32.from_buffer(self.memory, 4 * _SEQUENCE)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._watched: dict[int, tuple[int, int]] = {}  # index -> (pid, start time)
        self._threads: list[threading.Thread] = []

    # -- being there -------------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, slots: int = DEFAULT_SLOTS) -> SharedArena:
        """A new arena, without a name, with this process in it. Errors: NO_MEMORY."""
        import posix_ipc

        name = f"/polynix-arena-{os.getpid()}-{secrets.token_hex(6)}"
        size = -(-(_FIRST_SLOT + slots * SLOT_SIZE) // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=size)
        except OSError as error:
            raise ZxStatus(Status.NO_MEMORY, str(error)) from error
        shared.unlink()
        try:
            os.posix_fallocate(shared.fd, 0, size)  # a full file system must not kill by SIGBUS later
        except OSError as error:
            os.close(shared.fd)
            raise ZxStatus(Status.NO_MEMORY, str(error)) from error
        arena = cls(shared.fd)
        arena.words[_MAGIC] = MAGIC
        arena.words[_SLOTS] = slots
        arena.long_words[_ARENA_ID] = secrets.randbelow((1 << 22) - 1) + 1
        arena._join()
        return arena

    @classmethod
    def attach(cls, fd: int) -> SharedArena:
        """The arena behind ``fd``, which stays the caller's, with this process in it. Errors: INVALID_ARGS; NO_RESOURCES when 64
        processes are there.
        """
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)  # locks belong to a description
        arena = None
        try:
            if os.fstat(own).st_size < _FIRST_SLOT:
                raise ZxStatus(Status.INVALID_ARGS, "not an arena")
            arena = cls(own)
            slots = arena.words[_SLOTS]
            if arena.words[_MAGIC] != MAGIC or _FIRST_SLOT + slots * SLOT_SIZE > len(arena.memory):
                raise ZxStatus(Status.INVALID_ARGS, "not an arena")
            arena._join()
        except BaseException:
            if arena is not None:
                os.close(arena._stop)
            os.close(own)
            raise
        return arena

    def _join(self) -> None:
        with self.change():
            for index in range(MAX_PROCESSES):
                if self.long_words[_process(index)] == 0:
                    break
            else:
                raise ZxStatus(Status.NO_RESOURCES, f"{MAX_PROCESSES} processes")
            self.index = index
            self.long_words[_process(index) + 1] = _start_time(os.getpid())
            self.long_words[_process(index)] = os.getpid()
        self._run(self._watch_words, "arena")

    def _run(self, target: object, name: str, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)  # type: ignore[arg-type]
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def close(self) -> None:
        """Leave; whatever this process still holds here is closed."""
        with self.lock:
            if self.closed:
                return
            self._bury(self.index, os.getpid(), self.long_words[_process(self.index) + 1])
            self.closed = True
        os.eventfd_write(self._stop, 1)
        futex_wake(self._sequence)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        os.close(self._stop)
        os.close(self.fd)

    # -- changes -----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def change(self) -> Iterator[None]:
        """What is done inside is seen by all processes at once, and wakes them. Errors: BAD_STATE after :meth:`close`."""
        with self.lock:
            if self.closed:
                raise ZxStatus(Status.BAD_STATE, "the arena is closed")
            self._depth += 1
            if self._depth == 1:
                self._set_lock(fcntl.F_WRLCK)
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.words[_SEQUENCE] = (self.words[_SEQUENCE] + 1) & 0xFFFF_FFFF
                    self._set_lock(fcntl.F_UNLCK)
                    futex_wake(self._sequence)

    def _set_lock(self, kind: int) -> None:
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(kind, os.SEEK_SET, 0, 1, 0))

    def allocate(self, kind: int, ends: int) -> int:
        """A free slot, zeroed, each of its ends held by this process. Errors: NO_RESOURCES."""
        with self.change():
            for slot in range(self.words[_SLOTS]):
                word = self.word(slot)
                if self.words[word + KIND] == 0:
                    break
            else:
                raise ZxStatus(Status.NO_RESOURCES, "the arena is full")
            long_word = word // 2
            self.long_words[_NEXT_OBJECT] += 2
            self.long_words[long_word + KOID] = (self.long_words[_ARENA_ID] << 40) + self.long_words[_NEXT_OBJECT]
            self.signed_words[long_word + VALUE] = 0
            for end in range(2):
                self.words[word + SIGNALS + end] = 0
                self.long_words[long_word + HOLDERS + end] = 1 << self.index if end < ends else 0
            self.words[word + KIND] = kind
            return slot

    def word(self, slot: int) -> int:
        """Where the slot starts, in 32-bit words."""
        return (_FIRST_SLOT + slot * SLOT_SIZE) // 4

    def slot_exists(self, slot: int) -> bool:
        return 0 <= slot < self.words[_SLOTS]

    def hold(self, slot: int, end: int) -> None:
        """This process has a handle to ``end``. Errors: NOT_FOUND if nobody has."""
        with self.change():
            holders = self.word(slot) // 2 + HOLDERS + end
            if self.long_words[holders] == 0:
                raise ZxStatus(Status.NOT_FOUND, "the object is gone")
            self.long_words[holders] |= 1 << self.index

    def release(self, slot: int, end: int) -> None:
        """This process has no handle to ``end`` any more."""
        with self.lock:
            if not self.closed:
                with self.change():
                    self._release(slot, end, self.index)

    def _release(self, slot: int, end: int, index: int) -> None:
        word = self.word(slot)
        holders = word // 2 + HOLDERS
        before = self.long_words[holders + end]
        after = before & ~(1 << index)
        if before and not after:  # the bit goes last: who is killed in between leaves it to those who bury him
            self.words[word + SIGNALS + 1 - end] |= int(Signals.PEER_CLOSED)
            if self.long_words[holders + 1 - end] == 0:
                self.words[word + GENERATION] = (self.words[word + GENERATION] + 1) & 0xFFFF_FFFF
                self.words[word + KIND] = 0
        self.long_words[holders + end] = after

    # -- watching ----------------------------------------------------------------------------------------------------------------

    def _watch_words(self) -> None:
        while True:
            expected = self.words[_SEQUENCE]
            with self.lock:
                if self.closed:
                    return
                self._watch_new_processes()
                for shared in list(self.objects.values()):
                    shared.refresh()
            futex_wait(self._sequence, expected)

    def _watch_new_processes(self) -> None:
        for index in range(MAX_PROCESSES):
            process = self.long_words[_process(index)], self.long_words[_process(index) + 1]
            if index != self.index and process[0] and self._watched.get(index) != process:
                self._watched[index] = process
                self._run(self._watch_process, "arena_process", index, *process)

    def _watch_process(self, index: int, pid: int, start_time: int) -> None:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if _start_time(pid) == start_time:
                    poller = select.poll()
                    poller.register(pidfd, select.POLLIN)
                    poller.register(self._stop, select.POLLIN)
                    if self._stop in [fd for fd, _ in poller.poll()]:
                        return
            finally:
                os.close(pidfd)
        with contextlib.suppress(ZxStatus):
            self._bury(index, pid, start_time)

    def _bury(self, index: int, pid: int, start_time: int) -> None:
        """A process is gone: nobody holds what it held."""
        with self.change():
            process = _process(index)
            if (self.long_words[process], self.long_words[process + 1]) != (pid, start_time):
                return  # another survivor was first
            for slot in range(self.words[_SLOTS]):
                if self.words[self.word(slot) + KIND]:
                    self._release(slot, 0, index)
                    self._release(slot, 1, index)
            self.long_words[process] = 0
            self._watched.pop(index, None)


def _process(index: int) -> int:
    return (_PROCESSES + 16 * index) // 8


def _start_time(pid: int) -> int:
    """Tells a process from a later one with the same pid; 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[19])
    except OSError:
        return 0
