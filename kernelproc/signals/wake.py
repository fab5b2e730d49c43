"""Making a task look at its signals: end its wait, or bring it out of guest code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.signals.signal_state import UNBLOCKABLE

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup


def kick(task: Task) -> None:
    """Bring ``task`` out of guest code. Kicks collapse, and one that comes when the task has left already does no harm."""
    if not task.kicked and task.slot is not None:
        task.kicked = True
        task.slot.kick()


def wake_task(task: Task) -> None:
    """See to it that ``task`` passes ``prepare_return`` soon. A task held by a job control stop stays held."""
    task.attention = True
    if task.stopped or task.exited:
        return
    routine = task.routine
    if routine is not None:
        task.kernel.engine.interrupt(routine)
    elif not task.in_syscall and task is not task.kernel.loop.current:
        kick(task)


def recalculate_attention(task: Task) -> None:
    """Set ``task.attention`` if something waits for it; only ``prepare_return`` takes it back."""
    if task.signals.should_interrupt(task):
        task.attention = True


def set_mask(task: Task, mask: int) -> None:
    """Replace the blocked set (SIGKILL and SIGSTOP can't be in it).

    What the task now blocks of its group's pending set is offered to its siblings.
    """
    state = task.signals
    mask &= ~UNBLOCKABLE
    newly_blocked = mask & ~state.mask
    state.mask = mask
    if newly_blocked & task.group.signals.pending.mask:
        offer_pending(task.group, newly_blocked, task)
    if (state.pending.mask | task.group.signals.pending.mask) & ~mask:
        task.attention = True


def offer_pending(group: ThreadGroup, mask: int, but: Task | None = None) -> None:
    """Wake the tasks that can take a signal of ``mask`` from the group's pending set: another one no longer will (blocked it, or
    exits).
    """
    waiting = group.signals.pending.mask & mask
    if not waiting or len(group.tasks) < 2:
        return
    for task in group.tasks.values():
        if task is not but and not task.exited and waiting & ~task.signals.mask:
            wake_task(task)
            waiting &= task.signals.mask
            if not waiting:
                return


def set_temporary_mask(task: Task, mask: int) -> None:
    """For the rest of the system call in progress block ``mask`` (rt_sigsuspend, ppoll, pselect6, epoll_pwait).

    The caller need not undo it: on the way out the old mask comes back, before signals are looked at unless the call was
    interrupted, and otherwise after the handler whose frame will restore it.
    """
    if task.signals.saved_mask is None:
        task.signals.saved_mask = task.signals.mask
    set_mask(task, mask)
    task.attention = True
