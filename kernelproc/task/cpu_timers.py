"""Timers that run on CPU time: ITIMER_VIRTUAL, ITIMER_PROF, timer_create on CPU clocks, sleeping on one.

CPU time can't pass faster than real time on each thread, so a group's soonest timer is looked at after that long at the earliest,
and again until it is due. While nothing runs, the looks become rarer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polynix.kernelproc.engine import Timer
    from polynix.kernelproc.task.thread_group import ThreadGroup

SHORTEST_LOOK_NS = 1_000_000
LONGEST_IDLE_LOOK_NS = 32_000_000


class CpuTimer:
    """One expiry: ``expire()`` is called once ``read()`` has reached ``expires_ns``."""

    __slots__ = ("expire", "expires_ns", "read")

    def __init__(self, read: Callable[[], int], expires_ns: int, expire: Callable[[], object]) -> None:
        self.read = read
        self.expires_ns = expires_ns
        self.expire = expire


class CpuTimers:
    """The armed CPU timers of one thread group, in ``group.expando``."""

    def __init__(self, group: ThreadGroup) -> None:
        self.group = group
        self._timers: dict[CpuTimer, None] = {}
        self._look: Timer | None = None
        self._idle_ns = SHORTEST_LOOK_NS
        self._last_total = -1

    @classmethod
    def of(cls, group: ThreadGroup) -> CpuTimers:
        """The group's, made at first use."""
        timers = group.expando.get(cls)
        if timers is None:
            timers = group.expando[cls] = cls(group)
        return timers

    def add(self, timer: CpuTimer) -> None:
        """Arm ``timer``."""
        self._timers[timer] = None
        if self._look is not None:
            self._look.cancel()
        self._idle_ns = SHORTEST_LOOK_NS
        self._schedule(max(timer.expires_ns - timer.read(), 0))

    def remove(self, timer: CpuTimer) -> None:
        """Disarm ``timer``; not being armed is no error."""
        self._timers.pop(timer, None)
        if not self._timers and self._look is not None:
            self._look.cancel()
            self._look = None

    def _schedule(self, remaining_ns: int) -> None:
        threads = max(len(self.group.tasks), 1)
        delay = max(remaining_ns // threads, self._idle_ns)
        self._look = self.group.kernel.engine.call_later(delay, self._check)

    def _check(self) -> None:
        self._look = None
        if self.group.exited:
            self._timers.clear()
            return
        readings = [(timer, timer.read()) for timer in self._timers]
        total = sum(reading for _, reading in readings)
        if total == self._last_total:
            self._idle_ns = min(self._idle_ns * 2, LONGEST_IDLE_LOOK_NS)
        else:
            self._idle_ns = SHORTEST_LOOK_NS
        self._last_total = total
        for timer, reading in readings:
            if reading >= timer.expires_ns and timer in self._timers:
                del self._timers[timer]
                timer.expire()
        if self._timers and self._look is None:
            waiting = [timer.expires_ns - reading for timer, reading in readings if timer in self._timers]
            self._schedule(max(min(waiting, default=0), 0))
