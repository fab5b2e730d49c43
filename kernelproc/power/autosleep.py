"""Autosleep: a container that has been idle for a while suspends itself (``--suspend-after``), and goes on as soon as there is work.

Idle means that no guest thread ran. Work is what would resume one: input for a blocked read, a message, a new program, an alarm; not the timers of
CLOCK_MONOTONIC, which stand still. It uses no CPU while it sleeps, save a moment every nine seconds, the longest that one suspend takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.power.manager import TIMEOUT_REASON
from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

LOOKS = 8  # in the time that makes idle


class Autosleep:
    """A kthread of one kernel."""

    def __init__(self, kernel: Kernel, idle_ns: int) -> None:
        self.kernel = kernel
        self.idle_ns = idle_ns
        self._pause = WaitQueue()
        self._last_work = -1
        kernel.power.wakes_for_work = True
        kernel.kthreads.spawn(self._run(), "autosleep")

    async def _run(self) -> None:
        kernel = self.kernel
        power = kernel.power
        idle_since = kernel.clock.monotonic_ns()
        while True:
            await self._pause.wait(deadline_ns=kernel.clock.monotonic_ns() + self.idle_ns // LOOKS)
            if self._is_busy():
                idle_since = kernel.clock.monotonic_ns()
            elif kernel.clock.monotonic_ns() - idle_since >= self.idle_ns and not power.kept_awake_by():
                try:
                    await power.suspend()
                except Errno:
                    idle_since = kernel.clock.monotonic_ns()
                    continue
                if not power.stats.last_reason.endswith(TIMEOUT_REASON):
                    idle_since = kernel.clock.monotonic_ns()

    def _is_busy(self) -> bool:
        """Whether a guest thread runs, or ran since the last look."""
        work = 0
        for task in self.kernel.pids.tasks.values():
            slot = task.slot
            if slot is not None and not slot.held and task.mm.ready:
                self._last_work = -1
                return True
            work += task.counters[TaskWord.SYSCALLS] + task.counters[TaskWord.FAULTS] + task.tid
        before, self._last_work = self._last_work, work
        return work != before
