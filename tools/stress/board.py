"""The score board as the tool sees it: a file mapped by it and by the guests, whose layout is ``board.h``'s."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy

MAGIC = 0x6472616F62786E70
BUCKETS = 352
FINDING = 232
HEADER_WORDS = 32
STOP_WORD, STARTED_WORD = 2, 3

SLOT = numpy.dtype(
    [(name, "<u8") for name in ("kind", "pid", "state", "operations", "errors", "findings", "bytes", "seed", "longest_ns", "total_ns", "kills", "restarts")]
    + [("reserved", "<u8", 4), ("histogram", "<u4", BUCKETS), ("finding", f"S{FINDING}"), ("end", "<u8")]
)


class Board:
    """One container's board of ``slots`` slots, made at ``path``."""

    def __init__(self, path: str, slots: int) -> None:
        self.path = path
        size = HEADER_WORDS * 8 + slots * SLOT.itemsize
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            os.fchmod(fd, 0o666)  # the guests may be another user
            os.posix_fallocate(fd, 0, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._header: Any = numpy.frombuffer(self._map, "<u8", HEADER_WORDS)
        self.slots: Any = numpy.frombuffer(self._map, SLOT, slots, HEADER_WORDS * 8)
        self._header[0], self._header[1] = MAGIC, slots

    def begin(self, at_ns: int) -> None:
        """Workers may start at ``at_ns`` of CLOCK_MONOTONIC, each after its share of the ramp."""
        self._header[STARTED_WORD] = at_ns

    def stop(self) -> None:
        """Workers end after the operation at hand, and verify what they hold."""
        self._header[STOP_WORD] = 1


def bucket_ns(index: int) -> int:
    """The lowest latency that bucket ``index`` counts: buckets are eighths of an octave."""
    if index < 8:
        return index
    return (8 + (index & 7)) << ((index >> 3) - 1)


def percentile(histogram: Any, fraction: float) -> int:
    """The latency in ns below which ``fraction`` of the operations stayed, to an eighth of an octave."""
    total = int(histogram.sum())
    if not total:
        return 0
    index = int(numpy.searchsorted(histogram.cumsum(), fraction * total))
    return bucket_ns(min(index + 1, BUCKETS - 1))
