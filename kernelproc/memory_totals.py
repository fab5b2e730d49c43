"""How much memory the container has, as sysinfo and /proc/meminfo show it: the host's, or the container's limit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel


def total_bytes(kernel: Kernel) -> int:
    """Memory that the container may use."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(kernel.memory_limit, host) if kernel.memory_limit else host


def used_bytes(kernel: Kernel) -> int:
    """Guest memory in use, all processes and memory file systems together."""
    return int(kernel.memory.used_bytes()) if kernel.memory is not None else 0


def free_bytes(kernel: Kernel) -> int:
    """What is left of it; never more than the host has free."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(0, min(total_bytes(kernel) - used_bytes(kernel), host))
