"""A timer of the host's that the engine watches like any descriptor: while it runs the loop does not look at a clock, and while it doesn't nothing wakes."""

from __future__ import annotations

import ctypes
import os
import time

_libc = ctypes.CDLL(None, use_errno=True)
SECOND = 1_000_000_000


class HostTimer:
    """A timerfd(2) of CLOCK_MONOTONIC that goes off once each time it is started; ``fd`` is readable then."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def start(self, delay_ns: int) -> None:
        """Go off after ``delay_ns``, and not before, whatever was asked for earlier; no longer readable until then."""
        setting = (ctypes.c_long * 4)(0, 0, *divmod(delay_ns, SECOND))
        _libc.timerfd_settime(self.fd, 0, setting, None)

    def stop(self) -> None:
        """Don't go off."""
        self.start(0)
