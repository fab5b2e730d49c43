"""A process: Linux's ``signal_struct`` and the thread group leader's identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.signals.signal_state import ProcessSignals
    from polynix.kernelproc.task.process_group import ProcessGroup
    from polynix.kernelproc.task.resource_limits import ResourceLimits
    from polynix.kernelproc.task.task import Task


class ThreadGroup:
    """One process. ``pid`` is the tgid; ``leader`` stays set while a zombie leader waits for the other threads."""

    def __init__(self, kernel: Kernel, pid: int, process_group: ProcessGroup, signals: ProcessSignals, limits: ResourceLimits) -> None:
        self.kernel = kernel
        self.pid = pid
        self.leader: Task = None  # type: ignore[assignment]  # set by the first task
        self.tasks: dict[int, Task] = {}
        self.parent: ThreadGroup | None = None
        self.parent_task: Task | None = None  # the parent's thread that counts for PR_SET_PDEATHSIG: the one that made it, then any that lives
        self.children: dict[int, ThreadGroup] = {}  # live and zombie, by pid
        self.process_group = process_group
        self.signals = signals  # shared pending set, interval timers
        self.limits = limits
        self.exit_signal = 17  # SIGCHLD; what the parent gets when the group ends
        self.exit_code: int | None = None  # wait status of a group exit in progress or done (man 2 wait: code << 8 or signal number)
        self.exited = False  # no live task is left: a zombie until reaped
        self.is_kernel = False  # pid 2: no address space, no signals
        self.did_exec = False
        self.is_subreaper = False
        self.adopted = False  # init is the parent because the real one ended
        self.dumpable = 1
        self.stopped_by = 0  # signal number of the stop in force, 0 when running
        self.wait_notice: tuple[int, int] | None = None  # (CLD_STOPPED|CLD_CONTINUED, status) that wait() has not fetched yet
        self.child_wait = WaitQueue()  # notified when a child changes state
        self.exit_wait = WaitQueue()  # notified with POLLIN when the group becomes a zombie (pidfd)
        self.start_time_ns = kernel.clock.boottime_ns()
        self.usage_user_ns = 0  # of ended threads
        self.usage_system_ns = 0
        self.children_usage_user_ns = 0
        self.children_usage_system_ns = 0
        self.max_rss = 0  # bytes; the greatest that was seen, of ended address spaces too
        self.oom_score_adj = 0
        self.personality = 0
        self.expando: dict[type, Any] = {}

    @property
    def name(self) -> bytes:
        return self.leader.comm

    def __repr__(self) -> str:
        return f"<ThreadGroup {self.pid} {self.leader.comm if self.leader else b'?'!r} tasks={list(self.tasks)}>"
