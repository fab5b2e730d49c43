"""The tiny built-in init: pid 1 of a container in which several programs share the kernel. It runs no guest code, adopts orphans, and reaps them.

Reaping needs no routine of its own: SIGCHLD is ignored, so whatever ends below it is forgotten at once (man 2 wait, "SA_NOCLDWAIT").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.signals.signal_state import DEFAULT_ACTION, SIG_IGN, ProcessSignals, SignalActions, SignalState
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.process_group import ProcessGroup, Session
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.task.thread_group import ThreadGroup
from polynix.kernelproc.uapi.signal import SIGCHLD
from polynix.kernelproc.vfs.fs_context import FsContext

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

INIT_PID, KTHREADS_PID = 1, 2


def start_builtin_init(kernel: Kernel) -> ThreadGroup:
    """Make pid 1."""
    pids = kernel.pids
    limits = ResourceLimits()
    session = Session(INIT_PID)
    process_group = ProcessGroup(INIT_PID, session)
    group = ThreadGroup(kernel, INIT_PID, process_group, ProcessSignals(), limits)
    group.signals.unkillable = True
    actions = SignalActions()
    actions.set(SIGCHLD, DEFAULT_ACTION._replace(handler=SIG_IGN))
    task = Task(
        kernel,
        INIT_PID,
        group,
        mm=kernel.stubs.nothing,
        files=FdTable(limits),
        fs=FsContext(kernel.namespace),
        signals=SignalState(actions),
        credentials=Credentials.root(),
        comm=b"init",
    )
    group.leader = task
    group.tasks[INIT_PID] = task
    process_group.members[group] = None
    pids.sessions[INIT_PID] = session
    pids.process_groups[INIT_PID] = process_group
    pids.tasks[INIT_PID] = task
    pids.thread_groups[INIT_PID] = group
    pids.last_pid = max(pids.last_pid, KTHREADS_PID)
    kernel.init = group
    return group
