"""How tasks and processes end: exit, exit_group, fatal signals, another thread's exec, the death of a restricted process.

A task that is in the kernel ends at once or on its way back; one that runs guest code is kicked out, or, when nobody else uses its address space,
ends without being asked and the stub
dies under it. The last task of a group makes it a zombie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.ipc_sysv.semaphores import UndoList
from polynix.kernelproc.signals import job_control, send
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.signals.wake import kick
from polynix.kernelproc.task import cpu_time, futex, wait
from polynix.kernelproc.task.aio import AioContexts
from polynix.kernelproc.uapi.poll import POLLIN
from polynix.kernelproc.uapi.signal import SIGCHLD, SIGKILL

if TYPE_CHECKING:
    from polynix.addrspace.memory_manager import MemoryManager
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup


def begin_group_exit(group: ThreadGroup, wait_status: int) -> None:
    """End the whole process with ``wait_status`` (as wait4 shows it). The first caller's status counts. The running task itself ends when it returns to
    the loop.
    """
    if group.exit_code is not None or group.exited:
        return
    group.exit_code = wait_status
    group.stopped_by = 0
    for task in list(group.tasks.values()):
        end_soon(task)


def end_soon(task: Task) -> None:
    """Make ``task`` end: now if it is blocked or stopped, when it leaves guest code otherwise."""
    if task.exited:
        return
    kernel = task.kernel
    task.attention = True
    loop, engine = kernel.loop, kernel.engine
    routine = task.routine
    if routine is not None:
        if routine is not engine.current:
            engine.kill(routine)  # its end leads to return_to_user, and so to exit_task
        return
    if task is loop.current:
        return
    status = task.exit_pending if task.exit_pending is not None else task.group.exit_code
    assert status is not None
    if task.stopped or not task.mm.ready or _address_space_is_ending(task):
        exit_task(task, status)
    else:
        kick(task)


def _address_space_is_ending(task: Task) -> bool:
    """Whether every user of the address space is ending too, so that nobody needs the stub any more."""
    group = task.group
    if group.exit_code is None:
        return False
    return (
        task.mm.users <= len(group.tasks)
        and all(other.mm is task.mm and other.borrowed_from is None for other in group.tasks.values())
        and task.borrowed_from is None
    )


def exit_task(task: Task, wait_status: int) -> None:
    """End one task. Safe from anywhere in the loop; the caller must not touch the task's slot afterwards."""
    if task.exited:
        return
    kernel = task.kernel
    group = task.group
    task.exited = True
    task.exit_code = wait_status
    for observer in kernel.observers:
        observer.exited(task, wait_status)
    cpu_time.retire(task)
    routine, task.routine = task.routine, None
    if routine is not None and routine is not kernel.engine.current:
        kernel.engine.kill(routine)
    if not task.mm.dead:
        futex.exit_robust_list(task)
        futex.release_mm(task)
    leave_address_space(task)
    release_vfork_parent(task)
    UndoList.leave(task)
    task.files.users -= 1
    if task.files.users == 0:
        task.files.close_all(task)
    task.fs.users -= 1
    job_control.task_exited(task)
    if kernel.region is not None:
        kernel.region.remove_task(task)
    group.tasks.pop(task.tid, None)
    if task.tid != group.pid:
        kernel.pids.tasks.pop(task.tid, None)
    if group.tasks:
        group.exit_wait.notify(POLLIN)  # a pidfd of the thread
        _give_children_to_a_sibling(task)
    else:
        _end_group(group, wait_status)


def _end_group(group: ThreadGroup, wait_status: int) -> None:
    """The last task is gone, its status is the process's: become a zombie, give the children away, tell the parent."""
    kernel = group.kernel
    if group.exit_code is None:
        group.exit_code = wait_status
    group.exited = True
    group.stopped_by = 0
    group.wait_notice = None
    group.signals.release()
    send.flush_group(group)
    children = list(group.children.values())
    _reparent_children(group)
    session = group.process_group.session
    if session.sid == group.pid and session.terminal is not None:
        session.terminal.session_leader_exited(session)
    autoreap = send.notify_parent_of_exit(group)
    wait.notify_state_change(group)
    group.exit_wait.notify(POLLIN)
    job_control.group_exited(group, children)
    if autoreap:
        wait.release(group)
    if kernel.init is group:
        kernel.init_exited(group)


def _give_children_to_a_sibling(task: Task) -> None:
    """A thread ends: another one of its process is the parent of those that it made, and they hear of it."""
    group = task.group
    for child in list(group.children.values()):
        if child.parent_task is task:
            child.parent_task = next(iter(group.tasks.values()))
            _tell_of_parents_death(child)


def _tell_of_parents_death(child: ThreadGroup) -> None:
    """PR_SET_PDEATHSIG."""
    assert child.parent is not None
    for task in list(child.tasks.values()):
        if task.death_signal:
            send.send_to_task(task, SigInfo(task.death_signal, pid=child.parent.pid))


def _reparent_children(group: ThreadGroup) -> None:
    if not group.children:
        return
    heir = find_reaper(group)
    for child in list(group.children.values()):
        _tell_of_parents_death(child)
        child.parent = heir
        child.parent_task = heir.leader if heir is not None else None
        if heir is None:
            if child.exited:
                wait.release(child)
            continue
        child.adopted = heir is group.kernel.init
        heir.children[child.pid] = child
        child.exit_signal = SIGCHLD  # whatever clone asked for was between the two of them: nobody slays init with it
        if child.exited:
            if send.notify_parent_of_exit(child):
                wait.release(child)
            else:
                wait.notify_state_change(child)
    group.children.clear()


def find_reaper(group: ThreadGroup) -> ThreadGroup | None:
    """Who adopts the children of an ended process: the nearest living subreaper, else init."""
    ancestor = group.parent
    while ancestor is not None:
        if ancestor.is_subreaper and not ancestor.exited and ancestor.exit_code is None:
            return ancestor
        ancestor = ancestor.parent
    init = group.kernel.init
    return init if init is not None and init is not group and not init.exited else None


def release_vfork_parent(task: Task) -> None:
    """A vfork child has left its parent's address space (exec or exit): give the host thread back and let the parent go on."""
    parent = task.borrowed_from
    if parent is not None:
        task.borrowed_from = None
        slot, task.lent_slot = task.lent_slot, None
        if slot is None:
            borrower = next((other for other in task.kernel.pids.tasks.values() if other.borrowed_from is task), None)
            if borrower is not None:  # lent on: whoever has the host thread now gives it to our parent, which waits as long
                borrower.borrowed_from = parent
                borrower.saved_frame = task.saved_frame
                borrower.vfork_done, task.vfork_done = task.vfork_done, None
        elif not parent.exited:
            slot.load_frame(task.saved_frame)
            slot.task = parent
            parent.slot = slot
        else:
            mm: MemoryManager = slot.stub.tag
            if mm.users > 0:
                mm.slots.park(slot)
            else:
                slot.task = None
                mm.destroy()
        task.saved_frame = b""
    done = task.vfork_done
    if done is not None:
        task.vfork_done = None
        done.notify()


def leave_address_space(task: Task) -> None:
    """Drop the task's use of its address space; the last user's leaving ends the stub."""
    mm = task.mm
    slot = task.slot
    mm.users -= 1
    if not mm.users:
        task.kernel.expando.get(AioContexts).release(mm)
        task.group.max_rss = max(task.group.max_rss, mm.resident_bytes())
    if task.borrowed_from is not None:
        # The host thread goes back to the vfork parent: see release_vfork_parent.
        task.lent_slot = slot
        task.slot = None
        return
    task.slot = None
    if mm.users <= 0:
        if slot is not None:
            slot.task = None  # it may say something yet, for which there is nobody
        mm.destroy()
    elif slot is not None:
        mm.slots.park(slot)


def leave_other_threads(task: Task) -> None:
    """exec in a threaded process: the other threads end, the caller becomes the leader and takes its tid."""
    group = task.group
    others = [other for other in group.tasks.values() if other is not task]
    if others:
        for other in others:
            other.exit_pending = 0
            mm = other.mm
            if other.routine is not None:
                task.kernel.engine.kill(other.routine)
            if not other.exited:
                if mm is task.mm and other.borrowed_from is None:
                    if other.slot is not None:  # its host thread dies with the stub that the caller is leaving
                        other.slot.task = None
                        other.slot = None
                    exit_task(other, 0)
                else:
                    end_soon(other)
    if task is not group.leader:
        pids = task.kernel.pids
        pids.tasks.pop(task.tid, None)
        group.tasks.pop(task.tid, None)
        task.tid = group.pid
        group.tasks[task.tid] = task
        pids.tasks[task.tid] = task
        group.leader = task


def address_space_died(kernel: Kernel, mm: MemoryManager) -> None:
    """A restricted process died on its own: every process that lives in it ends as by SIGKILL, and nothing else."""
    mm.dead = True
    for task in [task for task in kernel.pids.tasks.values() if task.mm is mm and not task.exited]:
        if task.slot is not None:
            task.slot.task = None  # an exit of its that came just before finds nobody
            task.slot = None
        begin_group_exit(task.group, SIGKILL)
        if not task.exited:
            exit_task(task, SIGKILL)
    for task in [task for group in kernel.pids.thread_groups.values() for task in group.tasks.values() if task.mm is mm and not task.exited]:
        exit_task(task, SIGKILL)
    mm.dead = False
    mm.destroy()
