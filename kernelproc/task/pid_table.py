"""Numbers to tasks, thread groups, process groups and sessions of one container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EAGAIN

if TYPE_CHECKING:
    from polynix.kernelproc.task.process_group import ProcessGroup, Session
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup


class PidTable:
    """All ids of a container. A number is free when no task, group, process group or session uses it."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.thread_groups: dict[int, ThreadGroup] = {}  # live ones and zombies
        self.process_groups: dict[int, ProcessGroup] = {}
        self.sessions: dict[int, Session] = {}
        self.last_pid = 0
        self.pid_max = 32768
        self.forks = 0  # processes and threads made since boot

    def allocate(self) -> int:
        """The next free number, in Linux's rolling order. Errors: EAGAIN when none is free."""
        for _ in range(self.pid_max):
            self.last_pid = self.last_pid + 1 if self.last_pid + 1 < self.pid_max else 300
            pid = self.last_pid
            if pid not in self.tasks and pid not in self.thread_groups and pid not in self.process_groups and pid not in self.sessions:
                self.forks += 1
                return pid
        raise Errno(EAGAIN)
