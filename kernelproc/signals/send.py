"""Sending signals: to a task, a process, a process group, a parent (Linux's kernel/signal.c, the sending half).

Nothing here blocks or fails for a kernel sender. ``QUEUED`` also stands for signals that took effect at once, and for standard
ones that were pending already.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.signal_state import (
    IGNORED_BY_DEFAULT,
    NOT_FATAL_BY_DEFAULT,
    NSIG,
    STOP_SIGNALS,
    SignalAction,
    bit,
)
from polynix.kernelproc.signals.wake import kick, offer_pending, recalculate_attention, set_mask, set_temporary_mask, wake_task
from polynix.kernelproc.task.cpu_time import group_cpu_time, nanoseconds_to_ticks
from polynix.kernelproc.uapi.poll import POLLIN
from polynix.kernelproc.uapi.resource import RLIMIT_SIGPENDING
from polynix.kernelproc.uapi.signal import (
    CLD_CONTINUED,
    CLD_EXITED,
    CLD_KILLED,
    CLD_STOPPED,
    SA_NOCLDSTOP,
    SA_NOCLDWAIT,
    SI_USER,
    SIG_DFL,
    SIG_IGN,
    SIGCHLD,
    SIGCONT,
    SIGHUP,
    SIGKILL,
    SIGRTMIN,
)

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.process_group import ProcessGroup
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

QUEUED, IGNORED, OVERFLOW = 0, 1, 2

_CONTINUE = bit(SIGCONT)
_JOB_CONTROL = _CONTINUE | STOP_SIGNALS


class PendingCounts:
    """How many signals are queued on behalf of each real uid, for RLIMIT_SIGPENDING; kept in ``kernel.expando``."""

    def __init__(self) -> None:
        self.by_uid: Counter[int] = Counter()


def pending_count(kernel: Kernel, uid: int) -> int:
    """Signals queued for tasks of real user ``uid`` (the first number of SigQ in /proc/PID/status)."""
    return kernel.expando.get(PendingCounts).by_uid[uid]


def send_to_task(task: Task, info: SigInfo) -> int:
    """Direct ``info`` at one thread: QUEUED, IGNORED or OVERFLOW (RLIMIT_SIGPENDING; tgkill-like callers make it EAGAIN)."""
    return _send(task.group, task, info)


def send_to_group(group: ThreadGroup, info: SigInfo, first: Task | None = None) -> int:
    """Direct ``info`` at a process: any of its threads may take it, ``first`` (or the leader) is asked first.

    Returns as :func:`send_to_task`.
    """
    return _send(group, None, info, first)


def send_to_process_group(process_group: ProcessGroup, info: SigInfo) -> None:
    """Send to every process of ``process_group``, without permission checks (the terminal, the kernel)."""
    for group in list(process_group.members):
        _send(group, None, info.copy())


def force_signal(task: Task, info: SigInfo) -> None:
    """A signal that ``task`` must not miss, for a fault of its own: blocked or ignored, it takes the default action (Linux's
    ``force_sig_info``).
    """
    state, signo = task.signals, info.signo
    action = state.actions.get(signo)
    blocked = bool(state.mask & bit(signo))
    if blocked or action.handler == SIG_IGN:
        state.actions.set(signo, action._replace(handler=SIG_DFL))
        if blocked:
            set_mask(task, state.mask & ~bit(signo))
    if state.actions.get(signo).handler == SIG_DFL:
        task.group.signals.unkillable = False
    _send(task.group, task, info)


def _send(group: ThreadGroup, task: Task | None, info: SigInfo, first: Task | None = None) -> int:
    signo = info.signo
    if not 1 <= signo <= NSIG:
        raise ValueError(f"no such signal: {signo}")
    if group.exited or group.exit_code is not None or (task is not None and task.exited):
        return IGNORED  # it is dying or dead: dropped
    leader = task or group.leader
    if leader is None:
        return IGNORED  # the kthreads' group has no guest thread
    this = 1 << (signo - 1)
    if this & _JOB_CONTROL:
        if signo == SIGCONT:
            _flush(group, STOP_SIGNALS)
            continue_group(group)
        else:
            _flush(group, _CONTINUE)
    handler = leader.signals.actions.get(signo).handler
    if handler <= SIG_IGN and _is_ignored(group, leader, info, handler):
        return IGNORED
    pending = group.signals.pending if task is None else task.signals.pending
    if pending.mask & this and signo < SIGRTMIN:
        return QUEUED
    receiver = _choose_receiver(group, this, first) if task is None else None if task.stopped or task.signals.mask & this else task
    if handler == SIG_DFL and (signo == SIGKILL or (receiver is not None and not this & NOT_FATAL_BY_DEFAULT and not receiver.signals.real_blocked & this)):
        from polynix.kernelproc.task.exit import begin_group_exit  # exit notifies parents through this module

        begin_group_exit(group, signo)
        return QUEUED
    if receiver is not None and signo < SIGRTMIN:
        pending.add(info)  # taken before anybody could count it
    elif _charge(leader, info):
        pending.add(info)
    elif signo >= SIGRTMIN and info.code != SI_USER:
        return OVERFLOW
    else:
        pending.mask |= this  # it arrives, its siginfo does not
    if task is not None:
        task.signals.wait_queue.notify(POLLIN)
    group.signals.wait_queue.notify(POLLIN)
    if receiver is not None:
        wake_task(receiver)
    return QUEUED


def _is_ignored(group: ThreadGroup, task: Task, info: SigInfo, handler: int) -> bool:
    """Whether a signal without a handler is dropped at once."""
    state, this = task.signals, bit(info.signo)
    if group.signals.unkillable and handler == SIG_DFL and info.code <= SI_USER:
        return True  # an init gets from other processes only what it handles
    if (state.mask | state.real_blocked) & this:
        return False  # it may be wanted later: by a handler, sigtimedwait or a signalfd
    return handler == SIG_IGN or bool(this & IGNORED_BY_DEFAULT)


def _choose_receiver(group: ThreadGroup, this: int, first: Task | None) -> Task | None:
    """The thread to wake for a signal of the process: ``first`` or the leader if it can take it, else the others in turn.

    Idle ones come before those that have work.
    """
    preferred = first or group.leader
    if not (preferred.signals.mask & this or preferred.exited or preferred.stopped or preferred.attention):
        return preferred
    candidates = [task for task in group.tasks.values() if not (task.exited or task.stopped or task.signals.mask & this)]
    if not candidates:
        return None
    idle = [task for task in candidates if not task.attention]
    if not idle:
        return preferred if preferred in candidates else candidates[0]
    last = group.signals.next_receiver
    chosen = next((task for task in idle if task.tid > last), idle[0])
    group.signals.next_receiver = chosen.tid
    return chosen


def _charge(task: Task, info: SigInfo) -> bool:
    """Count a queued signal; False when that is one too many.

    Standard signals from the kernel or kill always have a place, timers' have one of their own.
    """
    if info.timer is not None:
        return True
    uid = task.credentials.uid
    counts = task.kernel.expando.get(PendingCounts).by_uid
    if not (info.signo < SIGRTMIN and info.code >= 0) and counts[uid] >= task.group.limits.soft(RLIMIT_SIGPENDING):
        return False
    counts[uid] += 1
    info.charged_uid = uid
    return True


def uncharge(kernel: Kernel, info: SigInfo) -> None:
    """A queued signal left its queue."""
    if info.charged_uid >= 0:
        counts = kernel.expando.get(PendingCounts).by_uid
        counts[info.charged_uid] -= 1
        info.charged_uid = -1


def _flush(group: ThreadGroup, mask: int) -> None:
    """Drop ``mask`` from every pending set of the group."""
    dropped = group.signals.pending.flush(mask)
    for task in group.tasks.values():
        dropped += task.signals.pending.flush(mask)
    for info in dropped:
        uncharge(group.kernel, info)
        if info.timer is not None:
            info.timer.signal_dropped()


def flush_task(task: Task) -> None:
    """An exiting task's own pending signals go with it."""
    for info in task.signals.pending.flush(-1):
        uncharge(task.kernel, info)
        if info.timer is not None:
            info.timer.signal_dropped()


def flush_group(group: ThreadGroup) -> None:
    """A dead group's pending signals go with it."""
    for info in group.signals.pending.flush(-1):
        uncharge(group.kernel, info)


def dequeue_signal(task: Task, mask: int) -> SigInfo | None:
    """Take the first pending signal among ``mask``: the task's own before the process's (delivery, signalfd, rt_sigtimedwait)."""
    process = task.group.signals
    pending = task.signals.pending
    if not pending.mask & mask:
        pending = process.pending
        if not pending.mask & mask:
            return None
    signo = pending.next_signal(~mask)
    info = pending.take(signo)
    if info is None:
        return SigInfo(signo, SI_USER)
    if info.charged_uid >= 0:
        uncharge(task.kernel, info)
    if info.timer is not None:
        info = info.timer.dequeued(info)
    if process.interval_timers is not None and pending is process.pending:
        process.interval_timers.dequeued(signo)
    return info


def set_action(task: Task, signo: int, action: SignalAction) -> None:
    """Store a disposition; a signal that is ignored from now on is no longer pending either (POSIX 3.3.1.3)."""
    task.signals.actions.set(signo, action)
    if task.signals.actions.is_ignored(signo):
        _flush(task.group, bit(signo))


def continue_group(group: ThreadGroup) -> None:
    """SIGCONT's effect at its sending, whatever its disposition: held tasks go on, a stop in progress is called off."""
    from polynix.kernelproc.signals.job_control import resume_task

    was_stopped = group.stopped_by
    group.stopped_by = 0
    group.signals.stop_notice = 0
    for task in group.tasks.values():
        task.signals.stop_pending = False
        if task.stopped:
            task.stopped = False
            group.kernel.engine.call_soon(resume_task, task)
    if was_stopped:
        group.wait_notice = (CLD_CONTINUED, SIGCONT)
        notify_parent_of_state(group, CLD_CONTINUED, SIGCONT)


def notify_parent_of_state(group: ThreadGroup, code: int, status: int) -> None:
    """CLD_STOPPED or CLD_CONTINUED: wake waiting parents, and send SIGCHLD unless the parent ignores it or set SA_NOCLDSTOP."""
    parent = group.parent
    if parent is None:
        return
    if not parent.exited and parent.leader is not None:
        action = parent.leader.signals.actions.get(SIGCHLD)
        if action.handler != SIG_IGN and not action.flags & SA_NOCLDSTOP:
            _send(parent, None, _child_info(group, SIGCHLD, code, status))
    from polynix.kernelproc.task.wait import notify_state_change

    notify_state_change(group)


def notify_parent_of_exit(group: ThreadGroup) -> bool:
    """The group became a zombie: send its exit signal.

    True when nobody is to wait for it (SIGCHLD ignored or SA_NOCLDWAIT): reap it at once.
    """
    parent = group.parent
    if parent is None:
        return True
    if parent.exited or parent.leader is None:
        return False
    signo = group.exit_signal
    auto_reap = False
    if signo == SIGCHLD:
        action = parent.leader.signals.actions.get(SIGCHLD)
        if action.handler == SIG_IGN:
            return True
        auto_reap = bool(action.flags & SA_NOCLDWAIT)
    if 1 <= signo <= NSIG:
        status = group.exit_code or 0
        if status & 0x7F:
            info = _child_info(group, signo, CLD_KILLED, status & 0x7F)
        else:
            info = _child_info(group, signo, CLD_EXITED, status >> 8 & 0xFF)
        _send(parent, None, info)
    return auto_reap


def hang_up_orphaned_group(process_group: ProcessGroup) -> None:
    """POSIX: a process group that has become orphaned with a stopped member gets SIGHUP and SIGCONT."""
    if any(member.stopped_by for member in process_group.members):
        send_to_process_group(process_group, SigInfo(SIGHUP))
        send_to_process_group(process_group, SigInfo(SIGCONT))


def _child_info(group: ThreadGroup, signo: int, code: int, status: int) -> SigInfo:
    user_ns, system_ns = group_cpu_time(group)
    return SigInfo(
        signo,
        code,
        pid=group.pid,
        uid=group.leader.credentials.uid,
        status=status,
        utime=nanoseconds_to_ticks(user_ns),
        stime=nanoseconds_to_ticks(system_ns),
    )


__all__ = [
    "CLD_STOPPED",
    "IGNORED",
    "OVERFLOW",
    "QUEUED",
    "PendingCounts",
    "continue_group",
    "dequeue_signal",
    "flush_group",
    "flush_task",
    "force_signal",
    "hang_up_orphaned_group",
    "kick",
    "notify_parent_of_exit",
    "notify_parent_of_state",
    "offer_pending",
    "pending_count",
    "recalculate_attention",
    "send_to_group",
    "send_to_process_group",
    "send_to_task",
    "set_action",
    "set_mask",
    "set_temporary_mask",
    "uncharge",
    "wake_task",
]
