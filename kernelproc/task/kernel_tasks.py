"""Processes that run no guest code: kthreadd (pid 2), and the tiny built-in init (pid 1) of a container in which several programs share the kernel.

kthreadd stands for the kernel's own threads, as in Linux and as Starnix's system task does; see :mod:`polynix.kernelproc.kthreads` for those. The
built-in init adopts
orphans and reaps them, for which it needs no routine: SIGCHLD is ignored, so whatever ends below it is forgotten at once (man 2 wait, "SA_NOCLDWAIT").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.signals.signal_state import DEFAULT_ACTION, ProcessSignals, SignalActions, SignalState
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.process_group import ProcessGroup, Session
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.task.thread_group import ThreadGroup
from polynix.kernelproc.uapi.signal import SIG_IGN, SIGCHLD
from polynix.kernelproc.vfs.fs_context import FsContext

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

INIT_PID, KTHREADD_PID = 1, 2


def start_kthreadd(kernel: Kernel) -> ThreadGroup:
    """Enter pid 2 into the tables of a kernel whose root is mounted; it is in no session (0, as Linux shows)."""
    return _start(kernel, KTHREADD_PID, b"kthreadd", Session(0), SignalActions())


def start_builtin_init(kernel: Kernel) -> ThreadGroup:
    """Make pid 1."""
    actions = SignalActions()
    actions.set(SIGCHLD, DEFAULT_ACTION._replace(handler=SIG_IGN))
    session = kernel.pids.sessions[INIT_PID] = Session(INIT_PID)
    group = _start(kernel, INIT_PID, b"init", session, actions)
    kernel.pids.process_groups[INIT_PID] = group.process_group
    kernel.pids.last_pid = max(kernel.pids.last_pid, INIT_PID)
    kernel.init = group
    return group


def _start(kernel: Kernel, pid: int, comm: bytes, session: Session, actions: SignalActions) -> ThreadGroup:
    limits = ResourceLimits()
    process_group = ProcessGroup(session.sid, session)
    group = ThreadGroup(kernel, pid, process_group, ProcessSignals(), limits)
    group.signals.unkillable = True
    group.is_kernel = True
    task = Task(
        kernel,
        pid,
        group,
        mm=kernel.stubs.nothing,
        files=FdTable(limits),
        fs=FsContext(kernel.namespace),
        signals=SignalState(actions),
        credentials=Credentials.root(),
        comm=comm,
    )
    group.leader = task
    group.tasks[pid] = task
    process_group.members[group] = None
    kernel.pids.tasks[pid] = task
    kernel.pids.thread_groups[pid] = group
    return group
