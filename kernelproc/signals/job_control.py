"""Job control stops: holding the threads of a group, and letting them go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from polynix.kernelproc.signals import send
from polynix.kernelproc.signals.wake import offer_pending, wake_task
from polynix.kernelproc.uapi.signal import CLD_STOPPED

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup


def begin_group_stop(group: ThreadGroup, signo: int, current: Task) -> None:
    """A stop signal took its default action in ``current``: every thread is to hold on its way back to guest code; the parent
    hears of the last one.
    """
    group.signals.stop_notice = signo
    for task in group.tasks.values():
        if not task.exited and not task.stopped:
            task.signals.stop_pending = True
            if task is not current:
                wake_task(task)


def hold_task(task: Task, result: int | None) -> None:
    """``task`` stops here, ``result`` of its system call still undelivered."""
    task.signals.stop_pending = False
    task.signals.stopped_result = result
    task.stopped = True
    _finish_stop(task.group)


def resume_task(task: Task) -> None:
    """A held task goes on (unless it ended or is held again): to its handlers, and to guest code."""
    if task.exited or task.stopped:
        return
    result, task.signals.stopped_result = task.signals.stopped_result, None
    task.kernel.loop.return_to_user(task, result)


def _finish_stop(group: ThreadGroup) -> None:
    signo = group.signals.stop_notice
    if not signo or any(task.signals.stop_pending and not task.exited for task in group.tasks.values()):
        return
    group.signals.stop_notice = 0
    group.stopped_by = signo
    group.wait_notice = (CLD_STOPPED, signo)
    send.notify_parent_of_state(group, CLD_STOPPED, signo)


def task_exited(task: Task) -> None:
    """``task`` (already marked exited) leaves its group: siblings take over what it would have, and a stop no longer waits for
    it.
    """
    task.signals.actions.users -= 1
    send.flush_task(task)
    group = task.group
    offer_pending(group, ~task.signals.mask, task)
    if task.signals.stop_pending:
        task.signals.stop_pending = False
        if any(not other.exited for other in group.tasks.values()):
            _finish_stop(group)


def group_exited(group: ThreadGroup, former_children: Iterable[ThreadGroup]) -> None:
    """After ``group`` was marked exited and its children went to their reaper: see to the process groups that this orphaned."""
    own = group.process_group
    affected = {child.process_group for child in former_children if child.process_group.session is own.session}
    affected.discard(own)
    parent = group.parent
    if parent is not None and parent.process_group is not own and parent.process_group.session is own.session:
        affected.add(own)
    for process_group in affected:
        if process_group.is_orphaned():
            send.hang_up_orphaned_group(process_group)
