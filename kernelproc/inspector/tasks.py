"""``tasks``: every thread and zombie with its place in the tree, its state, what it waits for, and its host thread; ``census``: what exists, in numbers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.fs.proc.process import cmdline
from polynix.kernelproc.fs.proc.task_status import state
from polynix.kernelproc.fs.tmpfs import Tmpfs
from polynix.kernelproc.inspector import RequestError, requests
from polynix.kernelproc.inspector.waiting import NAMES, wait_object
from polynix.kernelproc.ipc_sysv.shared_memory import SegmentTable
from polynix.kernelproc.memory_totals import used_bytes
from polynix.kernelproc.task.futex import FutexTable
from polynix.kernelproc.vfs.namespace import NamespaceNode

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup
    from polynix.kernelproc.vfs.mount import Mount


def describe_task(task: Task) -> dict[str, Any]:
    """One thread. ``host_pid`` and ``host_tid`` are 0 when it has no host thread of its own; ``wait`` is empty unless it is blocked."""
    group, slot = task.group, task.slot
    letter = state(task)
    blocked = letter in "SD" and not group.is_kernel
    return {
        "pid": group.pid,
        "tid": task.tid,
        "ppid": group.parent.pid if group.parent is not None else 0,
        "pgid": group.process_group.pgid,
        "sid": group.process_group.session.sid,
        "uid": task.credentials.uid,
        "comm": task.comm.decode(errors="replace"),
        "state": letter,
        "syscall": NAMES.get(task.current_syscall[0], str(task.current_syscall[0])) if blocked and task.current_syscall else "",
        "wait": wait_object(task, task.current_syscall) if blocked else "",
        "host_pid": slot.stub.pid if slot is not None else 0,
        "host_tid": slot.tid if slot is not None and task.borrowed_from is None else 0,
    }


def group_of(kernel: Kernel, pid: int) -> ThreadGroup:
    """The process with the number ``pid``. Errors: RequestError."""
    group = kernel.pids.thread_groups.get(pid)
    if group is None:
        raise RequestError(f"no process {pid} in the container")
    return group


def chosen_groups(kernel: Kernel, arguments: dict[str, Any]) -> list[ThreadGroup]:
    """The process that the request names by ``pid``, or all that live, by number. Errors: RequestError."""
    if arguments.get("pid") is not None:
        return [group_of(kernel, int(arguments["pid"]))]
    return [group for _, group in sorted(kernel.pids.thread_groups.items()) if not group.is_kernel]


@requests.handler("tasks")
def tasks(kernel: Kernel, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """All threads, zombies included, by process and number; each process's first row has its ``command``."""
    rows = []
    for group in sorted(kernel.pids.thread_groups.values(), key=lambda group: group.pid):
        members = sorted(group.tasks.values(), key=lambda task: task.tid) or [group.leader]
        described = [describe_task(task) for task in members]
        if not group.exited and not group.is_kernel:
            described[0]["command"] = [word.decode(errors="replace") for word in cmdline(members[0]).split(b"\0")[:-1]]
        rows += described
    return rows


def _shared_memory_files(mount: Mount) -> int:
    """POSIX shared memory is files of one tmpfs."""
    ops = mount.fs.ops
    return ops.used_inodes if isinstance(ops, Tmpfs) and NamespaceNode(mount, mount.root).path() == b"/dev/shm" else 0


@requests.handler("census")
def census(kernel: Kernel, arguments: dict[str, Any]) -> dict[str, int]:
    """How much of everything exists, to compare before and after: a container that is back at its baseline leaks nothing."""
    groups = [group for group in kernel.pids.thread_groups.values() if not group.is_kernel]
    tables = {id(task.files): task.files for group in groups for task in group.tasks.values()}
    descriptions = {file.id for table in tables.values() for file in table.files.values()}
    spaces = {id(task.mm): task.mm for group in groups for task in group.tasks.values()}
    shared = {vma.object.id for mm in spaces.values() for vma in mm.vmas if not vma.private}
    return {
        "processes": len(groups),
        "threads": sum(len(group.tasks) for group in groups),
        "zombies": sum(group.exited for group in groups),
        "descriptors": sum(len(table) for table in tables.values()),
        "open_files": len(descriptions),
        "address_spaces": len(spaces),
        "shared_objects": len(shared),
        "shared_memory_files": sum(map(_shared_memory_files, kernel.namespace.mounts)),
        "shared_memory_segments": len(kernel.expando.get(SegmentTable).by_index),
        "futex_queues": len(kernel.expando.get(FutexTable)),
        "routines": sum(task.routine is not None for group in groups for task in group.tasks.values()),
        "kernel_descriptors": len(os.listdir("/proc/self/fd")),
        "memory_bytes": used_bytes(kernel),
    }
