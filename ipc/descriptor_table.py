"""The size of this process's table of descriptors, which the host doubles as they become more."""

from __future__ import annotations

import contextlib
import fcntl
import os

ROOM = 1024
"""Descriptors for which there is room then; 8 KiB of the host's memory."""


def make_room_for_descriptors() -> None:
    """To be called before there is a second thread: where threads share the table, the host waits for a grace period of RCU when it grows (``expand_fdtable``
    in fs/file.c), 10 to 20 ms in which the caller stands still.
    """
    with contextlib.suppress(OSError), open(os.devnull, "rb", buffering=0) as null:  # a lower limit is no error
        os.close(fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, ROOM - 1))
