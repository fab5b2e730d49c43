"""POSIX timers (man 2 timer_create): per process, on any clock, notifying by signal or not at all.

A periodic timer is set for its next expiry when its signal is taken; what it missed meanwhile is its overrun count. So an unread
timer costs nothing, however short its interval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals.send import IGNORED, PendingCounts, send_to_group, send_to_task
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.task.clocks import FOREVER_NS, cpu_clock, deadline_of, timer_clock, wall_clock_ns
from polynix.kernelproc.task.cpu_timers import CpuTimer, CpuTimers
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL
from polynix.kernelproc.uapi.resource import RLIMIT_SIGPENDING
from polynix.kernelproc.uapi.signal import SI_TIMER, SIGEV_NONE

if TYPE_CHECKING:
    from polynix.kernelproc.engine import Timer
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

MAX_OVERRUN = 0x7FFFFFFF
IGNORED_INTERVAL_NS = 1_000_000  # a timer whose signal is ignored runs no faster than this


class PosixTimer:
    """One timer. ``deadline_ns`` is in its own clock's time."""

    __slots__ = (
        "_armed", "_clock", "_read", "_target", "_which", "charged_uid", "deadline_ns", "group", "interval_ns", "notify", "overrun",
        "overrun_last", "owes_rearm", "queued", "signo", "timer_id", "value",
    )  # fmt: skip

    def __init__(
        self,
        task: Task,
        timer_id: int,
        which: int,
        notify: int,
        signo: int,
        value: int,
        target: Task | None,
        read: Callable[[], int] | None,
    ) -> None:
        self.group = task.group
        self.timer_id = timer_id
        self._which = which
        self._clock = which  # that the present setting runs on
        self._read = read  # of a CPU clock
        self.notify = notify
        self.signo = signo
        self.value = value
        self._target = target  # the thread of SIGEV_THREAD_ID
        self.charged_uid = task.credentials.uid
        self.deadline_ns = 0
        self.interval_ns = 0
        self._armed: Timer | CpuTimer | None = None
        self.queued: SigInfo | None = None  # its signal, while that is pending
        self.owes_rearm = False  # periodic, and its signal has not been taken yet
        self.overrun = -1
        self.overrun_last = 0

    def _now(self) -> int:
        if self._read is not None:
            return self._read()
        reading = wall_clock_ns(self.group.kernel.clock, self._clock)
        assert reading is not None
        return reading

    # -- setting --------------------------------------------------------------------------------------------------------------

    def set(self, value_ns: int, interval_ns: int, absolute: bool) -> tuple[int, int]:
        """timer_settime; returns what ``get`` said before."""
        before = self.get()
        self._disarm()
        self.owes_rearm = False
        self.overrun = -1
        self.overrun_last = 0
        if self.queued is not None:
            self.queued.timer = None  # what is pending stays so, without this timer's interest
            self.queued = None
        self.interval_ns = 0
        self.deadline_ns = 0
        if value_ns:
            self._clock = timer_clock(self._which, absolute)
            self.interval_ns = interval_ns
            self.deadline_ns = value_ns if absolute else min(self._now() + value_ns, FOREVER_NS)
            self._arm()
        return before

    def get(self) -> tuple[int, int]:
        """(time until the next expiry, interval) in nanoseconds; 0 when disarmed."""
        if not self.deadline_ns:
            return 0, self.interval_ns
        now = self._now()
        if self.interval_ns and (self.owes_rearm or self.notify == SIGEV_NONE) and self.deadline_ns <= now:
            self.overrun += self._forward(now)
        remaining = self.deadline_ns - now
        if remaining > 0:
            return remaining, self.interval_ns
        if self._armed is None:
            return 0, self.interval_ns
        return 1, self.interval_ns  # due, not handled yet

    def delete(self) -> None:
        """timer_delete. A signal that is pending stays so."""
        self._disarm()
        self.deadline_ns = 0
        if self.queued is not None:
            self.queued.timer = None
            self.queued = None
        self.group.kernel.expando.get(PendingCounts).by_uid[self.charged_uid] -= 1

    def _arm(self) -> None:
        if self.notify == SIGEV_NONE:
            return
        if self._read is not None:
            timer = self._armed = CpuTimer(self._read, self.deadline_ns, self._expired)
            CpuTimers.of(self.group).add(timer)
            return
        kernel = self.group.kernel
        self._armed = kernel.engine.call_at(deadline_of(kernel.clock, self._clock, self.deadline_ns, True), self._expired)

    def _disarm(self) -> None:
        if isinstance(self._armed, CpuTimer):
            CpuTimers.of(self.group).remove(self._armed)
        elif self._armed is not None:
            self._armed.cancel()
        self._armed = None

    def _forward(self, now: int) -> int:
        """Move the deadline past ``now``; returns by how many intervals."""
        count = (now - self.deadline_ns) // self.interval_ns + 1
        self.deadline_ns += count * self.interval_ns
        return count

    # -- expiring -------------------------------------------------------------------------------------------------------------

    def _expired(self) -> None:
        self._armed = None
        if self.group.exited:
            return
        if self.queued is not None:
            self.overrun += 1
            return
        info = SigInfo(self.signo, SI_TIMER, timer_id=self.timer_id, value=self.value)
        info.timer = self
        self.queued = info
        self.owes_rearm = bool(self.interval_ns)
        target = self._target
        status = send_to_task(target, info) if target is not None else send_to_group(self.group, info)
        if status == IGNORED:
            self.signal_dropped()

    def dequeued(self, info: SigInfo) -> SigInfo:
        """The signal is being taken: count what was missed and go on."""
        self.queued = None
        if self.owes_rearm:
            self.owes_rearm = False
            now = self._now()
            if self.deadline_ns <= now:
                self.overrun += self._forward(now)
            self.overrun_last = self.overrun
            self.overrun = -1
            self._arm()
            info.overrun = min(max(self.overrun_last, 0), MAX_OVERRUN)
        return info

    def signal_dropped(self) -> None:
        """The signal was ignored, or flushed from its queue."""
        self.queued = None
        if self.owes_rearm and not self.group.exited:
            self.owes_rearm = False
            now = self._now()
            soonest = now + IGNORED_INTERVAL_NS
            if self.deadline_ns <= soonest:
                self.overrun += self._forward(soonest)
            self._arm()


class PosixTimers:
    """A thread group's timers by id."""

    def __init__(self, group: ThreadGroup) -> None:
        self.group = group
        self.timers: dict[int, PosixTimer] = {}
        self._next_id = 0

    @classmethod
    def of(cls, group: ThreadGroup) -> PosixTimers:
        """The group's, made at first use."""
        timers = group.signals.posix_timers
        if timers is None:
            timers = group.signals.posix_timers = cls(group)
        return timers

    def create(self, task: Task, which: int, notify: int, signo: int, value: int | None, target: Task | None) -> PosixTimer:
        """A new, disarmed timer; ``value`` None stands for the timer's id.

        Errors: EINVAL for the clock, EAGAIN at RLIMIT_SIGPENDING.
        """
        read = None
        if wall_clock_ns(task.kernel.clock, which) is None:
            read = cpu_clock(task, which)
            if read is None:
                raise Errno(EINVAL)
        counts = task.kernel.expando.get(PendingCounts).by_uid
        if counts[task.credentials.uid] >= task.group.limits.soft(RLIMIT_SIGPENDING):
            raise Errno(EAGAIN)
        counts[task.credentials.uid] += 1
        timer_id = self._next_id
        self._next_id = (timer_id + 1) & MAX_OVERRUN
        timer = PosixTimer(task, timer_id, which, notify, signo, timer_id if value is None else value, target, read)
        self.timers[timer_id] = timer
        return timer

    def get(self, timer_id: int) -> PosixTimer:
        """Errors: EINVAL."""
        timer = self.timers.get(timer_id)
        if timer is None:
            raise Errno(EINVAL)
        return timer

    def delete(self, timer_id: int) -> None:
        """Errors: EINVAL."""
        self.get(timer_id).delete()
        del self.timers[timer_id]

    def delete_all(self) -> None:
        """exec and exit."""
        for timer in self.timers.values():
            timer.delete()
        self.timers.clear()
