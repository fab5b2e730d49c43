"""timerfd: a timer to wait for (``man 2 timerfd_create``)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from polynix.kernelproc.task.clocks import FOREVER_NS, deadline_of, timer_clock, wall_clock_ns
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL
from polynix.kernelproc.uapi.poll import POLLIN
from polynix.kernelproc.uapi.timerfd import TFD_TIMER_ABSTIME
from polynix.kernelproc.vfs.anon import AnonFileOps
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.engine import Timer
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.vfs.buffers import OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject

NANOSECONDS = 1_000_000_000


class TimerFdOps(AnonFileOps):
    """A timer of one clock. A periodic one that nobody reads does not fire again: missed periods are counted when it is looked at."""

    def __init__(self, kernel: Kernel, clock_id: int) -> None:
        self.kernel = kernel
        self.clock_id = clock_id
        self._runs_on = clock_id  # the clock of the present setting
        self.deadline_ns = 0  # of the timer's clock; 0: disarmed
        self.interval_ns = 0
        self.ticks = 0
        self.expired = False
        self.settime_flags = 0
        self.queue = WaitQueue()
        self._timer: Timer | None = None

    def now(self) -> int:
        """What the timer's clock shows."""
        reading = wall_clock_ns(self.kernel.clock, self._runs_on)
        assert reading is not None
        return reading

    def set(self, value_ns: int, interval_ns: int, flags: int) -> None:
        """Arm for ``value_ns`` of the timer's clock (0: disarm), from now on unless TFD_TIMER_ABSTIME, and then every ``interval_ns``."""
        self._cancel()
        self.ticks = 0
        self.expired = False
        absolute = bool(flags & TFD_TIMER_ABSTIME)
        self._runs_on = timer_clock(self.clock_id, absolute)
        self.deadline_ns = value_ns if absolute or not value_ns else min(value_ns + self.now(), FOREVER_NS)
        self.interval_ns = interval_ns
        self.settime_flags = flags
        if value_ns:
            self._arm()

    def left(self) -> tuple[int, int]:
        """(ns until the next expiry, interval) as timerfd_gettime shows them; 0 when disarmed."""
        self._catch_up()
        if not self.deadline_ns or self.expired:
            return 0, self.interval_ns
        return max(1, self.deadline_ns - self.now()), self.interval_ns

    def _arm(self) -> None:
        if self.deadline_ns <= self.now():
            self._fire()
        else:
            self._timer = self.kernel.engine.call_at(deadline_of(self.kernel.clock, self._runs_on, self.deadline_ns, True), self._fire)

    def _fire(self) -> None:
        if self.now() < self.deadline_ns:  # a clock that was set back
            self._arm()
            return
        self._timer = None
        self.expired = True
        self.ticks += 1
        self.queue.notify(POLLIN)

    def _catch_up(self) -> None:
        """Count the periods that passed since a periodic timer fired, and arm it for the next."""
        if self.expired and self.interval_ns:
            missed = max(0, self.now() - self.deadline_ns) // self.interval_ns
            self.ticks += missed
            self.deadline_ns += (missed + 1) * self.interval_ns
            self.expired = False
            self._arm()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> int:
        if out.remaining < 8:
            return -EINVAL
        if not self.ticks:
            return -EAGAIN
        self._catch_up()
        ticks, self.ticks = self.ticks, 0
        return out.write(struct.pack("<Q", ticks))

    def query_events(self, file: FileObject) -> int:
        return POLLIN if self.ticks else 0

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.queue

    def fdinfo(self, file: FileObject) -> str:
        left, interval = self.left()
        return (
            f"clockid: {self.clock_id}\nticks: {self.ticks}\nsettime flags: 0{self.settime_flags:o}\n"
            f"it_value: ({left // NANOSECONDS}, {left % NANOSECONDS})\n"
            f"it_interval: ({interval // NANOSECONDS}, {interval % NANOSECONDS})\n"
        )

    def close(self, file: FileObject) -> None:
        self._cancel()
