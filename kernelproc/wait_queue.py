"""Where blocked coroutines and event callbacks wait: Linux's ``wait_queue_head_t``.

A queue holds *entries*. An entry has an event mask (``POLLIN``, ``POLLOUT`` … from ``poll.h``, or ``ALL_EVENTS`` for a plain condition) and a
callback ``wake(events) -> bool`` that says whether it took the wake-up. Coroutines wait through :func:`wait`; epoll and the other event files register
callbacks of their own. Everything runs on the kernel's one thread, so between a failed try and the wait no wake-up can be lost.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Protocol

from polynix.kernelproc.engine import Engine, park

ALL_EVENTS = 0xFFFFFFFF


class Waiting(Protocol):
    """What stands in a wait queue; ``exclusive`` entries share wake-ups one at a time, as ``EPOLLEXCLUSIVE`` and accept() do."""

    mask: int
    exclusive: bool

    def callback(self, events: int, /) -> bool:
        """Says whether it took the wake-up."""


class WaitEntry:
    """One registration in a wait queue, and what it calls."""

    __slots__ = ("callback", "exclusive", "mask")

    def __init__(self, callback: Callable[[int], bool], mask: int = ALL_EVENTS, exclusive: bool = False) -> None:
        self.callback = callback
        self.mask = mask
        self.exclusive = exclusive


class RoutineEntry(WaitEntry):
    """The registration of a routine that waits: a notification wakes it."""

    __slots__ = ("engine", "routine")

    def __init__(self, engine: Engine, mask: int, exclusive: bool) -> None:
        self.engine = engine
        self.routine = engine.current
        self.mask = mask
        self.exclusive = exclusive

    def callback(self, _events: int) -> bool:  # a method is cheaper than a closure for each wait
        return self.engine.wake(self.routine, True)


class WaitQueue:
    """An ordered set of wait entries."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[Waiting, None] = {}

    def add(self, entry: Waiting) -> None:
        """Register ``entry`` at the end of the queue."""
        self._entries[entry] = None

    def remove(self, entry: Waiting) -> None:
        """Take ``entry`` out; not being there is no error."""
        self._entries.pop(entry, None)

    def notify(self, events: int = ALL_EVENTS, count: int = -1) -> int:
        """Wake the entries whose mask meets ``events``: all that share, and at most ``count`` exclusive ones (default one). Returns how many woke.

        With ``count`` >= 0 it bounds shared entries too (futex-like wake of n waiters, in order of arrival).
        """
        entries = self._entries
        if not entries:
            return 0
        if len(entries) == 1 and count < 0:  # what most queues hold when they are notified
            (entry,) = entries
            return 1 if entry.mask & events and entry.callback(events) else 0
        woken = 0
        exclusive_left = 1 if count < 0 else count
        for entry in list(entries):
            if not entry.mask & events or entry not in entries:
                continue
            if count >= 0 and woken >= count:
                break
            if entry.exclusive and exclusive_left <= 0:
                continue
            if entry.callback(events):
                woken += 1
                if entry.exclusive:
                    exclusive_left -= 1
        return woken

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True

    @types.coroutine
    def wait(
        self, mask: int = ALL_EVENTS, deadline_ns: int | None = None, *, interruptible: bool = True, exclusive: bool = False
    ) -> Generator[bool, Any, bool]:
        """Block the running routine until notified: ``await queue.wait(...)``. See :func:`wait`; this is its short form for one queue."""
        engine = Engine.running
        entry = RoutineEntry(engine, mask, exclusive)
        entries = self._entries
        entries[entry] = None
        timer = None if deadline_ns is None else engine.call_at(deadline_ns, engine.wake, entry.routine, False)
        try:
            woken: bool = yield interruptible
            return woken
        finally:
            entries.pop(entry, None)
            if timer is not None:
                timer.cancel()


async def wait(
    queues: Sequence[tuple[WaitQueue, int]] | Iterable[tuple[WaitQueue, int]],
    deadline_ns: int | None = None,
    *,
    interruptible: bool = True,
    exclusive: bool = False,
) -> bool:
    """Block the running routine until one of ``queues`` is notified with an event of its mask.

    ``deadline_ns`` is absolute, of the engine's monotonic clock. Returns True when notified, False when the deadline passed. Raises ``Interrupted``
    (a kind of ``Errno`` ERESTARTSYS) when a signal arrives and ``interruptible``; a killed task's wait always ends.
    """
    engine = Engine.running
    entries = [(queue, RoutineEntry(engine, mask, exclusive)) for queue, mask in queues]
    for queue, entry in entries:
        queue.add(entry)
    timer = None if deadline_ns is None else engine.call_at(deadline_ns, engine.wake, engine.current, False)
    try:
        return bool(await park(interruptible))
    finally:
        for queue, entry in entries:
            queue.remove(entry)
        if timer is not None:
            timer.cancel()
