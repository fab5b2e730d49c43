"""Waiting for children: wait4 and waitid (man 2 wait)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import ECHILD
from polynix.kernelproc.uapi.signal import CLD_CONTINUED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, SIGCHLD
from polynix.kernelproc.uapi.wait import WALL, WCLONE, WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WSTOPPED

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup


class ChildEvent(NamedTuple):
    """What a wait found. ``status`` is wait4's word; ``code`` and ``value`` are siginfo's si_code and si_status."""

    pid: int
    uid: int
    status: int
    code: int
    value: int
    user_ns: int
    system_ns: int
    max_rss: int = 0  # bytes


def release(group: ThreadGroup) -> None:
    """The zombie is reaped: forget the process."""
    pids = group.kernel.pids
    group.process_group.leave(group, pids)
    if pids.thread_groups.get(group.pid) is group:
        del pids.thread_groups[group.pid]
    if pids.tasks.get(group.pid) is group.leader:
        del pids.tasks[group.pid]
    if group.parent is not None:
        group.parent.children.pop(group.pid, None)


def notify_state_change(group: ThreadGroup) -> None:
    """A child stopped, continued or ended (``group.wait_notice`` or ``group.exited`` is stored): wake its parent's waits."""
    if group.parent is not None:
        group.parent.child_wait.notify()


def _event_of_exit(group: ThreadGroup) -> ChildEvent:
    status = group.exit_code or 0
    signo = status & 0x7F
    code, value = (CLD_KILLED, signo) if signo else (CLD_EXITED, status >> 8 & 0xFF)
    return ChildEvent(
        group.pid,
        group.leader.credentials.uid,
        status,
        code,
        value,
        group.usage_user_ns + group.children_usage_user_ns,
        group.usage_system_ns + group.children_usage_system_ns,
        group.max_rss,
    )


def poll_children(parent: ThreadGroup, matches: Callable[[ThreadGroup], bool], options: int) -> tuple[ChildEvent | None, bool]:
    """The first event that ``options`` ask for, consumed unless WNOWAIT; and whether any child matches at all."""
    any_child = False
    for child in list(parent.children.values()):
        if not matches(child):
            continue
        is_clone = child.exit_signal != SIGCHLD
        if not options & WALL and is_clone != bool(options & WCLONE):
            continue
        any_child = True
        if child.exited:
            if options & WEXITED:
                event = _event_of_exit(child)
                if not options & WNOWAIT:
                    parent.children_usage_user_ns += event.user_ns
                    parent.children_usage_system_ns += event.system_ns
                    release(child)
                return event, True
            continue
        notice = child.wait_notice
        if notice is not None:
            code, value = notice
            if (code == CLD_STOPPED and options & WSTOPPED) or (code == CLD_CONTINUED and options & WCONTINUED):
                if not options & WNOWAIT:
                    child.wait_notice = None
                status = 0xFFFF if code == CLD_CONTINUED else value << 8 | 0x7F
                return ChildEvent(child.pid, child.leader.credentials.uid, status, code, value, 0, 0), True
    return None, any_child


async def wait_for_child(task: Task, matches: Callable[[ThreadGroup], bool], options: int) -> ChildEvent | None:
    """Block until a matching child has an event; None with WNOHANG when there is none yet. Errors: ECHILD, and interruption by a signal."""
    group = task.group
    while True:
        event, any_child = poll_children(group, matches, options)
        if event is not None:
            return event
        if not any_child:
            raise Errno(ECHILD)
        if options & WNOHANG:
            return None
        try:
            await group.child_wait.wait()
        except Interrupted:
            # The signal may be the SIGCHLD of a child that has ended: then that is the answer, and the handler runs on the way back.
            event, _ = poll_children(group, matches, options)
            if event is None:
                raise
            return event
