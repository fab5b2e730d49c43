"""When guest memory runs out, the biggest process dies, and whoever met the shortage tries again once its memory is back.

On a tmpfs of the kernel's own the shortage is a SIGBUS at the first touch of a page (``wait_for_memory``). Other kinds of memory have no
bound of their own: there the kernel looks at what is in use from time to time (``MemoryWatch``), so a guest may overshoot for a moment.

Containers don't know of each other, nor of what else the host runs; their limits together may be more than it has. So each kernel also looks
at what the host has left, and stops growing before the host's own killer would choose among processes that it knows nothing about.
"""

from __future__ import annotations

import logging
import os
import select
from typing import TYPE_CHECKING

from polynix.addrspace.host_memory import MEMINFO, HostMemory, host_memory
from polynix.kernelproc.host_timer import HostTimer
from polynix.kernelproc.task.exit import begin_group_exit
from polynix.kernelproc.uapi.signal import SIGKILL
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.addrspace.memory_manager import MemoryManager
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

log = logging.getLogger(__name__)

MILLISECOND = 1_000_000
RETRY_NS = 2 * MILLISECOND
PATIENCE_NS = 2000 * MILLISECOND  # after that a victim's memory is not waited for any more
BUSY_NS, NEAR_NS = 50 * MILLISECOND, 10 * MILLISECOND  # between two looks
NEAR_SHARE, RESERVE_SHARE, ALWAYS_SHARE = 4, 16, 128  # parts of the host's memory: a short supply, what guests leave free, what each container may have
SLACK = 1 << 20  # what guests may take while they are being bounded


class Victims:
    """Address spaces of killed processes whose memory is not back yet; in ``kernel.expando``."""

    def __init__(self) -> None:
        self.spaces: list[MemoryManager] = []

    def pending(self) -> bool:
        self.spaces = [mm for mm in self.spaces if not mm.dead or mm.stub.reap() is None]
        return bool(self.spaces)


def badness(kernel: Kernel, group: ThreadGroup) -> int:
    """Bytes that the death of ``group`` would free, moved by its oom_score_adj as on Linux."""
    spaces = {id(task.mm): task.mm for task in group.tasks.values()}
    return sum(mm.resident_bytes() for mm in spaces.values()) + group.oom_score_adj * int(kernel.memory.limit) // 1000


def kill_the_biggest(kernel: Kernel) -> ThreadGroup | None:
    """Choose a process and begin its end; None while an earlier victim's memory is still to come back."""
    victims = kernel.expando.get(Victims)
    if victims.pending():
        return None
    groups = [group for group in kernel.pids.thread_groups.values() if not group.exited and group.exit_code is None and group.oom_score_adj > -1000]
    if not groups:
        return None
    victim = max(groups, key=lambda group: badness(kernel, group))
    log.warning("out of memory: killing %r", victim.leader)
    victims.spaces += {id(task.mm): task.mm for task in victim.tasks.values()}.values()
    begin_group_exit(victim, SIGKILL)
    return victim


async def wait_for_memory(task: Task) -> None:
    """``task`` touched a page for which there is no memory: make room, and come back when it may try again or must die."""
    kernel = task.kernel
    clock = kernel.clock
    deadline = clock.monotonic_ns() + PATIENCE_NS
    kill_the_biggest(kernel)
    victims = kernel.expando.get(Victims)
    while task.group.exit_code is None and victims.pending():
        if clock.monotonic_ns() > deadline:
            begin_group_exit(task.group, SIGKILL)
            return
        await WaitQueue().wait(deadline_ns=clock.monotonic_ns() + RETRY_NS, interruptible=False)


class MemoryWatch:
    """Looks at the memory in use, here and on the host, the more often the nearer a limit is; while no guest runs, not at all."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._meminfo = os.open(MEMINFO, os.O_RDONLY | os.O_CLOEXEC)
        self._timer = HostTimer()
        self._resting = False
        kernel.engine.watch(self._timer.fd, select.EPOLLIN, self._timer_went_off)
        kernel.engine.on_awake = self._awake
        self.look()

    def _awake(self) -> None:
        if self._resting:
            self.look()

    def _timer_went_off(self, _events: int) -> None:
        self._resting = not self.kernel.monitor.running
        if self._resting:
            self._timer.stop()
        else:
            self.look()

    def look(self) -> None:
        """Set the bound, end who passed it, and be back in time."""
        memory = self.kernel.memory
        host = host_memory(self._meminfo)
        used = memory.used_bytes()
        memory.set_bound(bound_on_host(host, used, memory.bound))
        unbounded = memory.kind != "private-tmpfs"
        if unbounded and used > memory.bound:
            kill_the_biggest(self.kernel)
        near = host.available < host.total // NEAR_SHARE or (unbounded and used > memory.limit // 2)
        self._resting = False
        self._timer.start(NEAR_NS if near else BUSY_NS)


def bound_on_host(host: HostMemory, used: int, bound: int) -> int:
    """How many bytes the guests of a container may have that use ``used`` and might have had ``bound``: never all that is left, since others look
    at the same time.
    """
    room = host.available - host.total // RESERVE_SHARE
    allowed = used + room // 2 if room > 0 else min(bound, used + SLACK)
    return max(allowed, host.total // ALWAYS_SHARE)
