"""What a task and a process know of signals: dispositions, masks, pending sets.

A mask is an int; bit n-1 stands for signal n, as in the kernel's ``sigset_t``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polynix.kernelproc.uapi.signal import (
    SIG_DFL,
    SIG_IGN,
    SIGBUS,
    SIGCHLD,
    SIGCONT,
    SIGFPE,
    SIGILL,
    SIGKILL,
    SIGSEGV,
    SIGSTOP,
    SIGSYS,
    SIGTRAP,
    SIGTSTP,
    SIGTTIN,
    SIGTTOU,
    SIGURG,
    SIGWINCH,
    SS_DISABLE,
)
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.signals.siginfo import SigInfo
    from polynix.kernelproc.task.interval_timers import IntervalTimers
    from polynix.kernelproc.task.posix_timers import PosixTimers
    from polynix.kernelproc.task.task import Task

NSIG = 64

ALL_SIGNALS = (1 << NSIG) - 1


def bit(signo: int) -> int:
    """The mask that holds only ``signo``."""
    return 1 << (signo - 1)


def mask_of(*signals: int) -> int:
    """The mask of these signals."""
    mask = 0
    for signo in signals:
        mask |= bit(signo)
    return mask


UNBLOCKABLE = mask_of(SIGKILL, SIGSTOP)
STOP_SIGNALS = mask_of(SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU)
IGNORED_BY_DEFAULT = mask_of(SIGCONT, SIGCHLD, SIGWINCH, SIGURG)
NOT_FATAL_BY_DEFAULT = IGNORED_BY_DEFAULT | STOP_SIGNALS
SYNCHRONOUS = mask_of(SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS)


class SignalAction(NamedTuple):
    """One disposition: ``struct sigaction`` of the kernel."""

    handler: int = SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0


DEFAULT_ACTION = SignalAction()


class SignalActions:
    """The dispositions, shared by tasks that were cloned with CLONE_SIGHAND. ``users`` counts those tasks."""

    __slots__ = ("_actions", "users")

    def __init__(self) -> None:
        self._actions: dict[int, SignalAction] = {}  # only those that differ from the default
        self.users = 1

    def get(self, signo: int) -> SignalAction:
        """The disposition of ``signo``."""
        return self._actions.get(signo, DEFAULT_ACTION)

    def set(self, signo: int, action: SignalAction) -> None:
        """Store a disposition. What that does to pending signals is the caller's: ``send.set_action``."""
        if action == DEFAULT_ACTION:
            self._actions.pop(signo, None)
        else:
            self._actions[signo] = action

    def is_ignored(self, signo: int) -> bool:
        """SIG_IGN, or SIG_DFL of a signal whose default is to do nothing."""
        handler = self.get(signo).handler
        return handler == SIG_IGN or (handler == SIG_DFL and bool(bit(signo) & IGNORED_BY_DEFAULT))

    def masks(self) -> tuple[int, int]:
        """The signals that are ignored by SIG_IGN, and those that have a handler (/proc/PID/status SigIgn, SigCgt)."""
        ignored = caught = 0
        for signo, action in self._actions.items():
            if action.handler == SIG_IGN:
                ignored |= bit(signo)
            elif action.handler != SIG_DFL:
                caught |= bit(signo)
        return ignored, caught

    def fork(self) -> SignalActions:
        """A copy for a process of its own."""
        copy = SignalActions()
        copy._actions = dict(self._actions)
        return copy

    def reset_for_exec(self) -> None:
        """execve: handlers become SIG_DFL, ignored signals stay ignored, flags and masks go (man 2 execve)."""
        self._actions = {signo: SignalAction(SIG_IGN) for signo, action in self._actions.items() if action.handler == SIG_IGN}

    def clear_handlers(self) -> None:
        """CLONE_CLEAR_SIGHAND: as exec does."""
        self.reset_for_exec()


class PendingSignals:
    """A pending set with its queue: one entry at most for a standard signal, all of them for a real-time one.

    ``mask`` can hold a signal that has no entry: its siginfo was lost to RLIMIT_SIGPENDING.
    """

    __slots__ = ("mask", "queue")

    def __init__(self) -> None:
        self.mask = 0
        self.queue: list[SigInfo] = []

    def add(self, info: SigInfo) -> None:
        """Append to the queue."""
        self.queue.append(info)
        self.mask |= bit(info.signo)

    def next_signal(self, blocked: int) -> int:
        """The signal to take first, 0 for none: synchronous faults before the rest, then the lowest number."""
        ready = self.mask & ~blocked
        if not ready:
            return 0
        if ready & SYNCHRONOUS:
            ready &= SYNCHRONOUS
        return (ready & -ready).bit_length()

    def take(self, signo: int) -> SigInfo | None:
        """Remove the oldest entry of ``signo``; None when only the mask had it."""
        queue = self.queue
        if len(queue) == 1 and queue[0].signo == signo:
            self.mask &= ~(1 << (signo - 1))
            return queue.pop()
        positions = [index for index, info in enumerate(queue) if info.signo == signo]
        if len(positions) < 2:
            self.mask &= ~(1 << (signo - 1))
        return queue.pop(positions[0]) if positions else None

    def flush(self, mask: int) -> list[SigInfo]:
        """Drop the signals of ``mask``; returns the entries that were queued."""
        if not self.mask & mask:
            return []
        self.mask &= ~mask
        dropped = [info for info in self.queue if bit(info.signo) & mask]
        if dropped:
            self.queue = [info for info in self.queue if not bit(info.signo) & mask]
        return dropped


class SignalState:
    """A task's own part: what is directed at it, and what it blocks.

    ``saved_mask`` is set while a call such as rt_sigsuspend or ppoll has replaced the mask; ``delivery`` restores it.
    ``real_blocked`` is the mask below the one that rt_sigtimedwait has put in place: the signals it waits for end the wait, and
    are neither ignored nor deadly meanwhile.
    """

    __slots__ = ("actions", "mask", "pending", "real_blocked", "saved_mask", "stop_pending", "stopped_result", "wait_queue")

    def __init__(self, actions: SignalActions, mask: int = 0) -> None:
        self.actions = actions
        self.mask = mask
        self.pending = PendingSignals()
        self.saved_mask: int | None = None
        self.real_blocked = 0
        self.stop_pending = False  # a group stop waits for this task
        self.stopped_result: int | None = None  # result of the system call that a stop came upon
        self.wait_queue = WaitQueue()  # notified with POLLIN when a signal is directed at the task

    def fork(self, actions: SignalActions) -> SignalState:
        """The state of a new task made by this one: the mask is inherited, what is pending is not."""
        return SignalState(actions, self.mask if self.saved_mask is None else self.saved_mask)

    def should_interrupt(self, task: Task) -> bool:
        """Whether an interruptible wait of ``task`` has to end: an unblocked signal, a stop, the end of its group."""
        pending = self.pending.mask | task.group.signals.pending.mask
        return bool(pending & ~self.mask) or self.stop_pending or task.group.exit_code is not None or task.exited


class ProcessSignals:
    """A thread group's part: what is directed at the process, its timers, and the stop in progress.

    ``unkillable`` is Linux's SIGNAL_UNKILLABLE: such an init gets only signals that it handles. The boot code decides whether pid
    1 is that kind.
    """

    __slots__ = ("interval_timers", "next_receiver", "pending", "posix_timers", "stop_notice", "unkillable", "wait_queue")

    def __init__(self) -> None:
        self.pending = PendingSignals()
        self.unkillable = False
        self.stop_notice = 0  # the signal whose stop is in progress: reported once all tasks hold
        self.next_receiver = 0  # tid to try first, so that signals spread over the threads
        self.interval_timers: IntervalTimers | None = None  # made at first use
        self.posix_timers: PosixTimers | None = None
        self.wait_queue = WaitQueue()  # notified with POLLIN at each send to the group or to one of its tasks

    def release(self) -> None:
        """The group has ended: stop its timers."""
        if self.interval_timers is not None:
            self.interval_timers.cancel()
        if self.posix_timers is not None:
            self.posix_timers.delete_all()


EMPTY_STACK = (0, SS_DISABLE, 0)  # Task.alternate_stack when there is none
