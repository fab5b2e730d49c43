"""System calls of process groups and sessions (man 2 setpgid, setsid; man 7 credentials)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Pid
from polynix.kernelproc.task.process_group import ProcessGroup, Session
from polynix.kernelproc.uapi.errno import EACCES, EINVAL, EPERM, ESRCH

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup


def join_process_group(group: ThreadGroup, process_group: ProcessGroup) -> None:
    """Move a process; the group it leaves is forgotten when that was its last member."""
    if group.process_group is not process_group:
        group.process_group.leave(group, group.kernel.pids)
        group.process_group = process_group
    process_group.members[group] = None


def _find(task: Task, pid: int) -> ThreadGroup:
    if pid == 0:
        return task.group
    group = task.kernel.pids.thread_groups.get(pid)
    if group is None:
        raise Errno(ESRCH)
    return group


@syscall()
def setpgid(task: Task, pid: Pid, pgid: Pid) -> int:
    """man 2 setpgid"""
    if pgid < 0:
        raise Errno(EINVAL)
    group = _find(task, pid)
    pgid = pgid or group.pid
    session = task.group.process_group.session
    if group.parent is task.group:
        if group.process_group.session is not session:
            raise Errno(EPERM)
        if group.did_exec:
            raise Errno(EACCES)
    elif group is not task.group:
        raise Errno(ESRCH)
    if group.process_group.session.sid == group.pid:
        raise Errno(EPERM)  # a session leader stays
    pids = task.kernel.pids
    target = pids.process_groups.get(pgid)
    if pgid == group.pid:
        if target is None:
            target = pids.process_groups[pgid] = ProcessGroup(pgid, session)
    elif target is None or target.session is not session:
        raise Errno(EPERM)
    join_process_group(group, target)
    return 0


@syscall()
def getpgid(task: Task, pid: Pid) -> int:
    """man 2 getpgid"""
    return _find(task, pid).process_group.pgid


@syscall()
def getpgrp(task: Task) -> int:
    """man 2 getpgrp"""
    return task.group.process_group.pgid


@syscall()
def getsid(task: Task, pid: Pid) -> int:
    """man 2 getsid"""
    return _find(task, pid).process_group.session.sid


@syscall()
def setsid(task: Task) -> int:
    """man 2 setsid"""
    group = task.group
    pids = task.kernel.pids
    if group.pid in pids.process_groups:
        raise Errno(EPERM)
    session = pids.sessions[group.pid] = Session(group.pid)
    join_process_group(group, ProcessGroup(group.pid, session))
    pids.process_groups[group.pid] = group.process_group
    return group.pid


@syscall()
def getpid(task: Task) -> int:
    """man 2 getpid"""
    return task.group.pid


@syscall()
def getppid(task: Task) -> int:
    """man 2 getppid"""
    parent = task.group.parent
    return parent.pid if parent is not None else 0


@syscall()
def gettid(task: Task) -> int:
    """man 2 gettid"""
    return task.tid
