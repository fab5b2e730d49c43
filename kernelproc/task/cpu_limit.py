"""RLIMIT_CPU: SIGXCPU each second from the soft limit on, SIGKILL at the hard one (man 2 getrlimit)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.signals.send import send_to_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.task.cpu_time import NANOSECONDS, group_cpu_ns
from polynix.kernelproc.task.cpu_timers import CpuTimer, CpuTimers
from polynix.kernelproc.uapi.resource import RLIM_INFINITY, RLIMIT_CPU
from polynix.kernelproc.uapi.signal import SIGKILL, SIGXCPU

if TYPE_CHECKING:
    from polynix.kernelproc.task.thread_group import ThreadGroup


class CpuLimit:
    """The watch over one thread group's limit, in ``group.expando``."""

    def __init__(self, group: ThreadGroup) -> None:
        self.group = group
        self.timer: CpuTimer | None = None

    def update(self) -> None:
        """The limit may have changed: watch for the soft one, or for the hard one when that is nearer."""
        timers = CpuTimers.of(self.group)
        if self.timer is not None:
            timers.remove(self.timer)
            self.timer = None
        seconds = min(self.group.limits.get(RLIMIT_CPU))
        if seconds != RLIM_INFINITY:
            group = self.group
            self.timer = CpuTimer(lambda: group_cpu_ns(group), seconds * NANOSECONDS, self._reached)
            timers.add(self.timer)

    def _reached(self) -> None:
        self.timer = None
        limits = self.group.limits
        soft, hard = limits.get(RLIMIT_CPU)
        if group_cpu_ns(self.group) >= hard * NANOSECONDS:
            send_to_group(self.group, SigInfo(SIGKILL))
            return
        limits.set(RLIMIT_CPU, soft + 1, hard)  # Linux moves the soft limit for the next warning
        send_to_group(self.group, SigInfo(SIGXCPU))
        if not self.group.exited and self.group.exit_code is None:
            self.update()


def watch_cpu_limit(group: ThreadGroup) -> None:
    """To be called when ``group`` begins with a limit or gets another one."""
    limit = group.expando.get(CpuLimit)
    if limit is None:
        if group.limits.soft(RLIMIT_CPU) == RLIM_INFINITY:
            return
        limit = group.expando[CpuLimit] = CpuLimit(group)
    limit.update()
