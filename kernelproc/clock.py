"""The kernel's time, as an object that can be replaced: virtual time needs only another Clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from polynix.kernelproc.uapi.time import CLOCK_MONOTONIC_COARSE

TICK_NS = int(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9)


class BoottimeDeadline(int):
    """A time of CLOCK_BOOTTIME where a plain int is one of CLOCK_MONOTONIC: it comes nearer while the container is suspended, too."""

    __slots__ = ()


class AlarmDeadline(BoottimeDeadline):
    """One of the ALARM clocks (man 2 timerfd_create): it ends a suspend."""

    __slots__ = ()


class Clock(Protocol):
    """What the kernel asks of time; all in nanoseconds. ``suspended_ns`` is what CLOCK_MONOTONIC lags behind the host's."""

    suspended_ns: int

    @property
    def stopped(self) -> bool:
        """The container is suspended: CLOCK_MONOTONIC stands still, and no timer may come due."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, as the guest's vdso shows it and the engine's timers use it."""

    def realtime_ns(self) -> int:
        """CLOCK_REALTIME."""

    def boottime_ns(self) -> int:
        """CLOCK_BOOTTIME."""

    def until(self, deadline_ns: int) -> int:
        """How long it is to a deadline of CLOCK_MONOTONIC, or to a :class:`BoottimeDeadline`; negative when it has passed."""

    def stop(self, since_ns: int | None = None) -> None:
        """CLOCK_MONOTONIC stands still from now on, or has done so since ``since_ns`` of the host's. Nobody runs guest code from then until :meth:`go_on`."""

    def go_on(self) -> None:
        """CLOCK_MONOTONIC goes on where it stopped."""


class HostClock:
    """The host's clocks; CLOCK_MONOTONIC less what the container was suspended.

    ``publish`` is told that sum, for the guest's vdso. The owner sees to it that no guest code runs from :meth:`stop` to :meth:`go_on`.
    """

    def __init__(self, publish: Callable[[int], None] = lambda _suspended_ns: None) -> None:
        self.suspended_ns = 0
        self._publish = publish
        self._stopped_at: int | None = None

    @property
    def stopped(self) -> bool:
        return self._stopped_at is not None

    def stop(self, since_ns: int | None = None) -> None:
        now = self.monotonic_ns()
        self._stopped_at = now if since_ns is None else min(now, since_ns - self.suspended_ns)

    def go_on(self) -> None:
        if self._stopped_at is not None:
            # A tick less than it was: the coarse clocks may lag more now than they did then, and no clock may go back.
            lag = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - self._stopped_at - TICK_NS
            self.suspended_ns = max(self.suspended_ns, lag)
            self._stopped_at = None
            self._publish(self.suspended_ns)

    def monotonic_ns(self) -> int:
        if self._stopped_at is not None:
            return self._stopped_at
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) - self.suspended_ns

    def realtime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_REALTIME)

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def until(self, deadline_ns: int) -> int:
        return deadline_ns - (self.boottime_ns() if isinstance(deadline_ns, BoottimeDeadline) else self.monotonic_ns())
