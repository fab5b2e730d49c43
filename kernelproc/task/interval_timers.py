"""The three interval timers of a process: ITIMER_REAL (and alarm), ITIMER_VIRTUAL, ITIMER_PROF (man 2 setitimer)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from polynix.kernelproc.signals.send import IGNORED, send_to_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.task.cpu_time import group_cpu_ns, group_cpu_time
from polynix.kernelproc.task.cpu_timers import CpuTimer, CpuTimers
from polynix.kernelproc.uapi.signal import SIGALRM, SIGPROF, SIGVTALRM
from polynix.kernelproc.uapi.time import ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL

if TYPE_CHECKING:
    from polynix.kernelproc.engine import Timer
    from polynix.kernelproc.task.thread_group import ThreadGroup

MICROSECOND = 1000
IGNORED_INTERVAL_NS = 1_000_000  # a timer whose signal is ignored runs no faster than this


def _user_ns(group: ThreadGroup) -> int:
    return group_cpu_time(group)[0]


class IntervalTimers:
    """A thread group's interval timers.

    As in Linux, a periodic ITIMER_REAL runs on only when its signal is taken, so that it can't flood anyone.
    """

    def __init__(self, group: ThreadGroup) -> None:
        self.group = group
        self._real: Timer | None = None
        self._real_deadline_ns = 0
        self._real_interval_ns = 0
        self._cpu: dict[int, CpuTimer] = {}
        self._cpu_interval_ns = {ITIMER_VIRTUAL: 0, ITIMER_PROF: 0}

    @classmethod
    def of(cls, group: ThreadGroup) -> IntervalTimers:
        """The group's, made at first use."""
        timers = group.signals.interval_timers
        if timers is None:
            timers = group.signals.interval_timers = cls(group)
        return timers

    def get(self, which: int) -> tuple[int, int]:
        """(time until the next expiry, interval) in nanoseconds; 0 when disarmed."""
        if which == ITIMER_REAL:
            if self._real is None:
                return 0, self._real_interval_ns
            remaining = self._real_deadline_ns - self.group.kernel.clock.monotonic_ns()
            return max(remaining, MICROSECOND), self._real_interval_ns
        timer = self._cpu.get(which)
        if timer is None:
            return 0, self._cpu_interval_ns[which]
        return max(timer.expires_ns - timer.read(), MICROSECOND), self._cpu_interval_ns[which]

    def set(self, which: int, value_ns: int, interval_ns: int) -> tuple[int, int]:
        """Arm for ``value_ns`` from now (0 disarms); returns what ``get`` said before."""
        before = self.get(which)
        if which == ITIMER_REAL:
            self._set_real(value_ns, interval_ns)
        else:
            self._set_cpu(which, value_ns, interval_ns)
        return before

    def cancel(self) -> None:
        """Disarm all."""
        for which in (ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF):
            self.set(which, 0, 0)

    # -- ITIMER_REAL ----------------------------------------------------------------------------------------------------------

    def _set_real(self, value_ns: int, interval_ns: int) -> None:
        if self._real is not None:
            self._real.cancel()
            self._real = None
        self._real_interval_ns = interval_ns if value_ns else 0
        if value_ns:
            self._arm_real(self.group.kernel.clock.monotonic_ns() + value_ns)

    def _arm_real(self, deadline_ns: int) -> None:
        self._real_deadline_ns = deadline_ns
        self._real = self.group.kernel.engine.call_at(deadline_ns, self._real_expired)

    def _real_expired(self) -> None:
        self._real = None
        if send_to_group(self.group, SigInfo(SIGALRM)) == IGNORED:
            self._forward_real(IGNORED_INTERVAL_NS)

    def dequeued(self, signo: int) -> None:
        """A signal of the process was taken: go on if it was this timer's."""
        if signo == SIGALRM and self._real is None:
            self._forward_real()

    def _forward_real(self, pause_ns: int = 0) -> None:
        interval = self._real_interval_ns
        if interval and not self.group.exited:
            missed = (self.group.kernel.clock.monotonic_ns() + pause_ns - self._real_deadline_ns) // interval
            self._arm_real(self._real_deadline_ns + (max(missed, 0) + 1) * interval)

    # -- CPU time -------------------------------------------------------------------------------------------------------------

    def _set_cpu(self, which: int, value_ns: int, interval_ns: int) -> None:
        timer = self._cpu.pop(which, None)
        if timer is not None:
            CpuTimers.of(self.group).remove(timer)
        self._cpu_interval_ns[which] = interval_ns if value_ns else 0
        if value_ns:
            read = partial(_user_ns if which == ITIMER_VIRTUAL else group_cpu_ns, self.group)
            self._arm_cpu(which, CpuTimer(read, read() + value_ns, partial(self._cpu_expired, which)))

    def _arm_cpu(self, which: int, timer: CpuTimer) -> None:
        self._cpu[which] = timer
        CpuTimers.of(self.group).add(timer)

    def _cpu_expired(self, which: int) -> None:
        timer = self._cpu.pop(which)
        send_to_group(self.group, SigInfo(SIGVTALRM if which == ITIMER_VIRTUAL else SIGPROF))
        interval = self._cpu_interval_ns[which]
        if interval and not self.group.exited:
            missed = (timer.read() - timer.expires_ns) // interval
            timer.expires_ns += (max(missed, 0) + 1) * interval
            self._arm_cpu(which, timer)
