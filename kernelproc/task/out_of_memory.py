"""When guest memory runs out, the biggest process dies, and whoever met the shortage tries again once its memory is back.

On a tmpfs of the kernel's own the shortage is a SIGBUS at the first touch of a page (``wait_for_memory``). Other kinds of memory have no
bound of their own: there the kernel looks at what is in use from time to time (``MemoryWatch``), so a guest may overshoot for a moment.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

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
IDLE_NS, BUSY_NS, NEAR_NS = 1000 * MILLISECOND, 50 * MILLISECOND, 10 * MILLISECOND  # between two looks


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
    """Looks at the memory in use, the more often the nearer the limit is."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.look()

    def look(self) -> None:
        kernel = self.kernel
        used, limit = kernel.memory.used_bytes(), kernel.memory.limit
        if used > limit:
            kill_the_biggest(kernel)
        pause = NEAR_NS if used > limit // 2 else BUSY_NS if kernel.monitor.running else IDLE_NS
        kernel.engine.call_later(pause, self.look)
