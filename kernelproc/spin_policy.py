"""When the loop spins for the next exit, when threads spin for the loop's answer, and when they sleep.

A wake-up of an idle core costs about 25 µs each way, more than a system call's whole work, so spinning briefly pays while guests converse with the
kernel; it hurts when they compute, and when there are more runnable threads than CPUs. Two modes:

- HOT: the kernel spins for ``HOT_SPIN_NS``, the exiting guest thread for ``ANSWER_SPIN_NS``, since it may wait for another thread's wake-up and call.
  Held while running guests + 1 fit the CPUs and spins succeed. It begins with some longer spins: threads that slept have to wake up elsewhere first.
- WARM: the kernel sleeps at once, for a time that doubles from 1 to 64 ms with each relapse; entered after ``FAILURES_ALLOWED`` failed spins in a row.
  The kernel stays on its CPU, and the guest threads that converse with it are brought there (``Monitor.gather``), where a call costs two switches of
  threads and no wake-up of a CPU. A thread elsewhere spins for as long as the kernel takes to wake up and answer (``ANSWER_SPIN_NS``), but not when its
  call blocks, and not after ``LATE_ANSWERS`` that came too late. Exits that come so soon that spinning would have caught them end the time early: a
  number of them in a row that doubles with each relapse, too.

The threads' share of the policy is ``Monitor.stub_spin``, which each of them gets with its resume. An idle container never spins: with no guest running,
only timers and descriptors can bring work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Monitor

HOT_SPIN_NS = 25_000
FIRST_SPINS_NS = 100_000
FIRST_SPINS = 8  # of a hot time, of which this many may fail in a row:
FIRST_FAILURES_ALLOWED = 4
WAKE_UP_NS = 50_000  # what sleeping and being woken may add to a wait
ANSWER_SPIN_NS = 60_000
FIRST_QUIET_NS = 1_000_000
LONGEST_QUIET_NS = 64_000_000
FAILURES_ALLOWED = 2
PROMPT_EXITS = 4  # in a row: at first; and where calls are cheap even without spinning, on one CPU:
PROMPT_EXITS_GATHERED = 32
MOST_PROMPT_EXITS = 64  # times as many
LATE_ANSWERS = 4  # in one quiet time
STEADY_SUCCESSES = 64  # in a row: the next quiet time is short again


class SpinPolicy:
    """Decides each wait's spin, and learns from how it ended. ``now`` is a monotonic clock in ns; ``hot`` says which mode it is.

    ``unsettled``: something failed not long ago, so that it matters whether spins succeed.
    """

    __slots__ = (
        "_failures", "_first_spins", "_gathered", "_late_limit", "_patience", "_prompt", "_quiet_ns", "_quiet_until", "_slept_at", "_successes",
        "cpus", "hot", "monitor", "now", "unsettled",
    )  # fmt: skip

    def __init__(self, monitor: Monitor, cpus: int | None = None, now: Callable[[], int] = time.monotonic_ns) -> None:
        self.monitor = monitor
        self.cpus = cpus or len(os.sched_getaffinity(0))
        self.now = now
        self.hot = True
        self.unsettled = False
        self._successes = 0
        self._failures = 0
        self._prompt = 0
        self._patience = 1
        self._quiet_ns = FIRST_QUIET_NS
        self._quiet_until = 0
        self._slept_at = 0
        self._late_limit = 0
        self._gathered = False
        self._first_spins = 0
        monitor.stub_spin = ANSWER_SPIN_NS

    def before_wait(self) -> int:
        """Nanoseconds to spin in the coming wait."""
        monitor = self.monitor
        running = monitor.running
        if not running:
            return 0
        if self.hot and running < self.cpus and not self._first_spins:
            return HOT_SPIN_NS  # as before: what the rest would say
        if running >= self.cpus:
            self.hot = False
            if self._gathered:
                self._scatter()
            monitor.stub_spin = 0
            return 0
        if self._quiet_until:
            if self.now() < self._quiet_until:
                monitor.stub_spin = ANSWER_SPIN_NS if monitor.late_answers < self._late_limit else 0
                return 0
            self._begin_hot()
        if self._gathered:
            self._scatter()
        self.hot = True
        monitor.stub_spin = ANSWER_SPIN_NS
        if self._first_spins:
            self._first_spins -= 1
            return FIRST_SPINS_NS
        return HOT_SPIN_NS

    def _begin_hot(self) -> None:
        self._quiet_until = 0
        self._failures = FAILURES_ALLOWED - FIRST_FAILURES_ALLOWED
        self._first_spins = FIRST_SPINS

    def succeeded(self) -> None:
        """The wait that was allowed to spin found something to do. Nobody need say so unless ``unsettled``."""
        self._failures = 0
        self._successes += 1
        if self._successes >= STEADY_SUCCESSES:
            self.unsettled = False
            self._successes = 0
            self._patience = 1
            self._quiet_ns = FIRST_QUIET_NS

    def failed(self) -> None:
        """It spun in vain."""
        self.unsettled = True
        self._failures += 1
        if self._failures >= FAILURES_ALLOWED:
            self.hot = False
            self._successes = 0
            self._prompt = 0
            self._late_limit = self.monitor.late_answers + LATE_ANSWERS
            self.monitor.stub_spin = ANSWER_SPIN_NS
            self._quiet_until = self.now() + self._quiet_ns
            self._quiet_ns = min(self._quiet_ns * 2, LONGEST_QUIET_NS)
            self._patience = min(self._patience * 2, MOST_PROMPT_EXITS)
            self._gathered = self.monitor.gather()

    def _scatter(self) -> None:
        self._gathered = False
        self.monitor.scatter()

    def before_sleep(self) -> None:
        """The loop is about to sleep."""
        if self._quiet_until:
            self._slept_at = self.now()

    def after_sleep(self, found_exits: bool) -> None:
        """It woke up."""
        if not self._quiet_until:
            return
        limit = HOT_SPIN_NS if self._gathered else HOT_SPIN_NS + WAKE_UP_NS
        if found_exits and self.now() - self._slept_at < limit:
            self._prompt += 1
            if self._prompt >= (PROMPT_EXITS_GATHERED if self._gathered else PROMPT_EXITS) * self._patience:
                self._begin_hot()
        else:
            self._prompt = 0
