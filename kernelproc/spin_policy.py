"""When the loop spins for the next exit, and when it sleeps.

A wake-up of an idle core costs about 25 µs each way, more than a system call's whole work, so spinning briefly pays while guests converse with the kernel; it hurts
when they compute, and when there are more runnable threads than CPUs. Two modes:

- HOT: the kernel and the exiting guest thread both spin for ``HOT_SPIN_NS``. Held while running guests + 1 fit the CPUs and spins succeed.
- QUIET: nobody spins, for a time that doubles from 1 to 64 ms with each relapse; entered after two failed spins in a row. The first busy stretch after it
  (exits found without sleeping) ends it early.

An idle container never spins: with no guest running, only timers and descriptors can bring work.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Monitor

HOT_SPIN_NS = 25_000
FIRST_QUIET_NS = 1_000_000
LONGEST_QUIET_NS = 64_000_000
FAILURES_ALLOWED = 2


class SpinPolicy:
    """Decides each wait's spin, and learns from how it ended."""

    __slots__ = ("_failures", "_quiet_ns", "_quiet_until", "cpus", "monitor", "successes")

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.cpus = len(os.sched_getaffinity(0))
        self.successes = 0
        self._failures = 0
        self._quiet_ns = FIRST_QUIET_NS
        self._quiet_until = 0

    def before_wait(self) -> int:
        """Nanoseconds to spin in the coming wait."""
        running = self.monitor.running
        if not running or running >= self.cpus:
            return 0
        if self._quiet_until:
            if time.monotonic_ns() < self._quiet_until:
                return 0
            self._quiet_until = 0
            self._failures = FAILURES_ALLOWED - 1  # one more failure is a relapse
        return HOT_SPIN_NS

    def after_wait(self, found_exits: bool) -> None:
        """The wait that ``before_wait`` allowed to spin is over."""
        if found_exits:
            self._failures = 0
            self.successes += 1
            if self.successes >= 64:
                self.successes = 0
                self._quiet_ns = FIRST_QUIET_NS
            return
        self._failures += 1
        if self._failures >= FAILURES_ALLOWED:
            self.successes = 0
            self._quiet_until = time.monotonic_ns() + self._quiet_ns
            self._quiet_ns = min(self._quiet_ns * 2, LONGEST_QUIET_NS)
