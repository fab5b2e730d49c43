"""Resource limits of a process: what ``prlimit64`` reads and sets (man 2 getrlimit)."""

from __future__ import annotations

from typing import Final

from polynix.kernelproc.uapi.resource import (
    RLIM_INFINITY,
    RLIM_NLIMITS,
    RLIMIT_AS,
    RLIMIT_CORE,
    RLIMIT_CPU,
    RLIMIT_DATA,
    RLIMIT_FSIZE,
    RLIMIT_LOCKS,
    RLIMIT_MEMLOCK,
    RLIMIT_MSGQUEUE,
    RLIMIT_NICE,
    RLIMIT_NOFILE,
    RLIMIT_NPROC,
    RLIMIT_RSS,
    RLIMIT_RTPRIO,
    RLIMIT_RTTIME,
    RLIMIT_SIGPENDING,
    RLIMIT_STACK,
)

# include/asm-generic/resource.h, INIT_RLIMITS; the counts that Linux derives from the machine's memory are those of a machine of 4 GiB.
DEFAULTS: Final[dict[int, tuple[int, int]]] = {
    RLIMIT_CPU: (RLIM_INFINITY, RLIM_INFINITY),
    RLIMIT_FSIZE: (RLIM_INFINITY, RLIM_INFINITY),
    RLIMIT_DATA: (RLIM_INFINITY, RLIM_INFINITY),
    RLIMIT_STACK: (8 << 20, RLIM_INFINITY),
    RLIMIT_CORE: (0, RLIM_INFINITY),
    RLIMIT_RSS: (RLIM_INFINITY, RLIM_INFINITY),
    RLIMIT_NPROC: (15672, 15672),
    RLIMIT_NOFILE: (1024, 1 << 20),
    RLIMIT_MEMLOCK: (8 << 20, 8 << 20),
    RLIMIT_AS: (RLIM_INFINITY, RLIM_INFINITY),
    RLIMIT_LOCKS: (RLIM_INFINITY, RLIM_INFINITY),
    RLIMIT_SIGPENDING: (15672, 15672),
    RLIMIT_MSGQUEUE: (819200, 819200),
    RLIMIT_NICE: (0, 0),
    RLIMIT_RTPRIO: (0, 0),
    RLIMIT_RTTIME: (RLIM_INFINITY, RLIM_INFINITY),
}


class ResourceLimits:
    """The (soft, hard) pairs of one thread group, indexed by RLIMIT_*; values are unsigned 64-bit, ``RLIM_INFINITY`` for none.

    Permission to raise a hard limit and the range of the index are checked by the system call.
    """

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs: list[tuple[int, int]] = [DEFAULTS[resource] for resource in range(RLIM_NLIMITS)]

    def get(self, resource: int) -> tuple[int, int]:
        """The (soft, hard) limits of ``resource``."""
        return self._pairs[resource]

    def soft(self, resource: int) -> int:
        """The limit in force."""
        return self._pairs[resource][0]

    def hard(self, resource: int) -> int:
        """The ceiling of the soft limit."""
        return self._pairs[resource][1]

    def set(self, resource: int, soft: int, hard: int) -> None:
        """Store both limits."""
        self._pairs[resource] = (soft, hard)

    def copy(self) -> ResourceLimits:
        """For fork: limits are inherited, not shared."""
        limits = ResourceLimits()
        limits._pairs = list(self._pairs)
        return limits
