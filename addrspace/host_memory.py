"""What memory the host has, as its /proc/meminfo says: for everybody on it, not for one container."""

from __future__ import annotations

import os
from dataclasses import dataclass

MEMINFO = "/proc/meminfo"


@dataclass(frozen=True)
class HostMemory:
    """Sizes in bytes."""

    total: int
    available: int  # without swapping


def host_memory(fd: int) -> HostMemory:
    """``fd`` is an open MEMINFO. Errors: OSError; KeyError for a file that is none."""
    lines = (line.split() for line in os.pread(fd, 512, 0).splitlines())
    sizes = {words[0]: int(words[1]) * 1024 for words in lines if len(words) == 3}
    return HostMemory(sizes[b"MemTotal:"], sizes[b"MemAvailable:"])
