"""timerfd: a timer to wait for (``man 2 timerfd_create``)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL
from polynix.kernelproc.uapi.poll import POLLIN
from polynix.kernelproc.uapi.time import CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_REALTIME, CLOCK_REALTIME_ALARM
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
        clock = kernel.clock
        self.now: Callable[[], int] = (
            clock.realtime_ns
            if clock_id in (CLOCK_REALTIME, CLOCK_REALTIME_ALARM)
            else clock.boottime_ns
            if clock_id in (CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM)
            else clock.monotonic_ns
        )
        self.deadline_ns = 0  # of the timer's clock; 0: disarmed
        self.interval_ns = 0
        self.ticks = 0
        self.expired = False
        self.settime_flags = 0
        self.queue = WaitQueue()
        self._timer: Timer | None = None

    def set(self, deadline_ns: int, interval_ns: int, flags: int) -> None:
        """Arm for ``deadline_ns`` of the timer's clock (0: disarm) and then every ``interval_ns``."""
        self._cancel()
        self.ticks = 0
        self.expired = False
        self.deadline_ns = deadline_ns
        self.interval_ns = interval_ns
        self.settime_flags = flags
        if deadline_ns:
            self._arm()

    def left(self) -> tuple[int, int]:
        """(ns until the next expiry, interval) as timerfd_gettime shows them; 0 when disarmed."""
        self._catch_up()
        if not self.deadline_ns or self.expired:
            return 0, self.interval_ns
        return max(1, self.deadline_ns - self.now()), self.interval_ns

    def _arm(self) -> None:
        delay = self.deadline_ns - self.now()
        if delay <= 0:
            self._fire()
        else:
            self._timer = self.kernel.engine.call_later(delay, self._fire)

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
