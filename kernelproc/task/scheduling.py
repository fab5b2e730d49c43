"""Scheduling settings of a task. Scheduling itself is the host's.

Nice values above zero and affinities are handed on to the host thread, so that a niced guest gives way to the rest of the machine; policies, real-time and I/O
priorities, and nice values below zero, which would put a guest before its own kernel, are kept, inherited and shown.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from polynix.kernelproc.uapi.sched import SCHED_FIFO, SCHED_NORMAL, SCHED_RR

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Slot
    from polynix.kernelproc.task.task import Task


class Scheduling:
    """Lives in ``task.expando``; absent means SCHED_NORMAL. ``nice`` and ``affinity`` are fields of the task."""

    __slots__ = ("io_priority", "policy", "priority", "reset_on_fork")

    def __init__(self) -> None:
        self.policy: int = SCHED_NORMAL
        self.priority = 0
        self.reset_on_fork = False
        self.io_priority = 0


def scheduling_of(task: Task) -> Scheduling:
    """The settings of ``task``, made at first use."""
    settings: Scheduling | None = task.expando.get(Scheduling)
    if settings is None:
        settings = task.expando[Scheduling] = Scheduling()
    return settings


def inherit_scheduling(parent: Task, child: Task) -> None:
    """Give a new task its parent's settings, as far as SCHED_RESET_ON_FORK lets it (man 7 sched)."""
    settings: Scheduling | None = parent.expando.get(Scheduling)
    if settings is None:
        return
    own = scheduling_of(child)
    own.io_priority = settings.io_priority
    if settings.reset_on_fork:
        if settings.policy not in (SCHED_FIFO, SCHED_RR):
            own.policy = settings.policy
        child.nice = max(child.nice, 0)
    else:
        own.policy, own.priority = settings.policy, settings.priority


class HostScheduling:
    """In ``kernel.expando`` from the first setting on that concerns host threads; until then nobody has to look after them."""

    def __init__(self) -> None:
        self.nice = os.getpriority(os.PRIO_PROCESS, 0)  # the kernel process's own: what a guest's is added to


def settings_changed(task: Task) -> None:
    """``task`` has a new nice value or affinity."""
    task.kernel.expando.get(HostScheduling)
    host_thread_changed(task)


def host_thread_changed(task: Task) -> None:
    """``task`` has got another host thread: let that have its settings, as far as the kernel process may."""
    host, slot = task.kernel.expando.peek(HostScheduling), task.slot
    if host is None or slot is None or task.borrowed_from is not None:
        return
    thread = _host_thread(slot)
    if not thread:
        return  # just being made, it will have its maker's settings
    try:
        slot.set_own_cpus(task.affinity != task.kernel.cpus)
        os.sched_setaffinity(thread, task.affinity)
        os.setpriority(os.PRIO_PROCESS, thread, min(host.nice + max(task.nice, 0), 19))
    except OSError:
        pass  # it has ended; or it was niced before, and going back takes a privilege


def _host_thread(slot: Slot) -> int:
    """The number of a host thread that is certain to be of its stub, 0 for none: what a slot says of its thread, the guest can forge."""
    pid = slot.stub.pid
    if not slot.index:
        return pid
    return slot.tid if os.path.exists(f"/proc/{pid}/task/{slot.tid}") else 0
