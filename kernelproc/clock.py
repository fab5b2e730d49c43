"""The kernel's time, as an object that can be replaced: virtual time and suspend need only another Clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the kernel asks of time; all in nanoseconds."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, as the guest's vdso shows it and the engine's timers use it."""

    def realtime_ns(self) -> int:
        """CLOCK_REALTIME."""

    def boottime_ns(self) -> int:
        """CLOCK_BOOTTIME."""


class HostClock:
    """The host's clocks, which the vdso shows to guests at native speed."""

    def monotonic_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def realtime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_REALTIME)

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
