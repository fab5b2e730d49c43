"""Scheduling settings of a task: policy, real-time priority, I/O priority. Scheduling itself is the host's; these are kept, inherited and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.uapi.sched import SCHED_FIFO, SCHED_NORMAL, SCHED_RR

if TYPE_CHECKING:
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
