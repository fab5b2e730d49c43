"""Making tasks: fork, vfork, clone, clone3.

- A new address space: the child's is copied from the parent's (``MemoryManager.copy_to``) into a stub from the pool.
- CLONE_VM: a host thread of the same stub, parked or made by a batched clone.
- CLONE_VM|CLONE_VFORK without a TLS of its own: the child borrows the parent's host thread until it execs or exits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.addrspace.host_calls import ARCH_SET_FS, ARCH_SET_GS, NR_ARCH_PRCTL
from polynix.kernelproc.errno import ERESTARTNOINTR, Errno
from polynix.kernelproc.ipc_sysv.semaphores import UndoList
from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.signals.signal_state import ProcessSignals
from polynix.kernelproc.task import cpu_time
from polynix.kernelproc.task.cpu_limit import watch_cpu_limit
from polynix.kernelproc.task.scheduling import host_thread_changed, inherit_scheduling
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.task.thread_group import ThreadGroup
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.tunables import Tunables
from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL, ENOMEM, EPERM
from polynix.kernelproc.uapi.resource import RLIMIT_NPROC
from polynix.kernelproc.uapi.sched import (
    CLONE_CHILD_CLEARTID,
    CLONE_CHILD_SETTID,
    CLONE_CLEAR_SIGHAND,
    CLONE_FILES,
    CLONE_FS,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_PARENT,
    CLONE_PARENT_SETTID,
    CLONE_PIDFD,
    CLONE_SETTLS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
)
from polynix.kernelproc.uapi.signal import SIGCHLD
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Slot
    from polynix.addrspace.memory_manager import MemoryManager

STUB_ATTEMPTS = 3  # a fresh stub may have died before its first use
UNSUPPORTED_NAMESPACES = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWTIME


class CloneArguments(NamedTuple):
    """clone3's arguments; ``stack`` is the stack pointer to start with, 0 for the parent's."""

    flags: int
    exit_signal: int = SIGCHLD
    stack: int = 0
    tls: int = 0
    parent_tid: int = 0
    child_tid: int = 0
    pidfd: int = 0


def check_flags(task: Task, arguments: CloneArguments) -> None:
    """Errors: EINVAL for combinations that man 2 clone forbids, EPERM for namespaces without the capability."""
    flags = arguments.flags
    if (flags & CLONE_SIGHAND and not flags & CLONE_VM) or (flags & CLONE_THREAD and not flags & CLONE_SIGHAND):
        raise Errno(EINVAL)
    if flags & CLONE_FS and flags & CLONE_NEWNS:
        raise Errno(EINVAL)
    if flags & CLONE_CLEAR_SIGHAND and flags & CLONE_SIGHAND:
        raise Errno(EINVAL)
    if flags & CLONE_PARENT and task.kernel.init is task.group:
        raise Errno(EINVAL)
    if flags & (CLONE_NEWNS | CLONE_NEWUTS | UNSUPPORTED_NAMESPACES) and not task.credentials.has_capability(CAP_SYS_ADMIN):
        raise Errno(EPERM)
    if flags & UNSUPPORTED_NAMESPACES:
        track_stub("clone into a new namespace", flags & UNSUPPORTED_NAMESPACES)
        raise Errno(EINVAL)


def check_limits(task: Task) -> None:
    """Errors: EAGAIN at RLIMIT_NPROC of the real uid, at the container's pids limit, or at kernel.threads-max."""
    kernel = task.kernel
    if kernel.pids_limit and len(kernel.pids.tasks) >= kernel.pids_limit:
        raise Errno(EAGAIN)
    if len(kernel.pids.tasks) >= kernel.expando.get(Tunables).get("kernel.threads-max"):
        raise Errno(EAGAIN)
    limit = task.group.limits.soft(RLIMIT_NPROC)
    if limit < len(kernel.pids.tasks) and task.credentials.uid != 0 and not task.credentials.has_capability(CAP_SYS_RESOURCE):
        uid = task.credentials.uid
        if sum(1 for other in kernel.pids.tasks.values() if other.credentials.uid == uid) >= limit:
            raise Errno(EAGAIN)


async def clone(task: Task, arguments: CloneArguments) -> int:
    """Make the task that ``arguments`` describe and start it; returns its tid, for vfork after the child has let go."""
    check_flags(task, arguments)
    check_limits(task)
    if task.interrupt_pending():
        raise Errno(ERESTARTNOINTR)  # so that a stop or a handler comes before the child
    flags = arguments.flags
    kernel = task.kernel
    parent_slot = task.slot
    assert parent_slot is not None
    tid = kernel.pids.allocate()
    borrow = flags & (CLONE_VM | CLONE_VFORK | CLONE_SETTLS) == CLONE_VM | CLONE_VFORK
    mm = task.mm if flags & CLONE_VM else await _fresh_address_space(task)
    pidfd = -1
    thread_slot, parked = mm.slots.take() if flags & CLONE_VM and not borrow else (parent_slot, False)
    try:
        if not flags & CLONE_VM:
            try:
                task.mm.copy_to(mm)
            except OSError:
                raise Errno(ENOMEM) from None
        child = _new_task(task, tid, arguments, mm)
        if flags & CLONE_PIDFD:
            from polynix.kernelproc.vfs.pidfd import new_pidfd

            pidfd = task.files.install(new_pidfd(kernel, child.group), cloexec=True)
            task.user.store_u32(UserAddress(arguments.pidfd), pidfd)
        if flags & CLONE_PARENT_SETTID:
            task.user.store_u32(UserAddress(arguments.parent_tid), tid)
    except BaseException:
        if pidfd >= 0:
            task.files.close(pidfd, task)
        if mm is not task.mm:
            mm.destroy()
        elif thread_slot is not parent_slot:
            mm.slots.give_back(thread_slot, parked)
        raise
    if flags & CLONE_CHILD_SETTID:
        try:
            mm.user.store_u32(UserAddress(arguments.child_tid), tid)
        except Fault:
            pass
    if flags & CLONE_CHILD_CLEARTID:
        child.clear_child_tid = UserAddress(arguments.child_tid)
    _enter_tables(task, child, flags)
    mm.users += 1
    done = child.vfork_done = WaitQueue() if flags & CLONE_VFORK else None
    tls = arguments.tls if flags & CLONE_SETTLS else parent_slot.fs_base
    if borrow:
        child.borrowed_from = task
        child.saved_frame = parent_slot.save_frame()
        task.slot = None
        cpu_time.borrow(child)
        _start(child, parent_slot, _child_frame(parent_slot, arguments))
    elif flags & CLONE_VM:
        _start_thread(child, thread_slot, parked, parent_slot, _child_frame(parent_slot, arguments), tls)
    else:
        slot = mm.stub.slot(0)
        slot.push(NR_ARCH_PRCTL, ARCH_SET_FS, tls)
        if parent_slot.gs_base:
            slot.push(NR_ARCH_PRCTL, ARCH_SET_GS, parent_slot.gs_base)
        _start(child, slot, _child_frame(parent_slot, arguments))
    if done is not None:
        while task.slot is None or (child.vfork_done is not None and not child.exited):
            await done.wait(interruptible=False)
    return tid


async def _fresh_address_space(task: Task) -> MemoryManager:
    """One from the pool whose stub runs. Errors: EAGAIN when the host gives us no more processes, descriptors or memory."""
    for _ in range(STUB_ATTEMPTS):
        try:
            mm: MemoryManager = task.kernel.stubs.take()
        except OSError:
            raise Errno(EAGAIN) from None
        try:
            while not mm.ready and not mm.dead:
                await task.kernel.loop.stub_ready.wait(interruptible=False)
        except BaseException:
            mm.destroy()
            raise
        if not mm.dead:
            return mm
    raise Errno(EAGAIN)


def _new_task(task: Task, tid: int, arguments: CloneArguments, mm: object) -> Task:
    flags = arguments.flags
    if flags & CLONE_THREAD:
        group = task.group
    else:
        group = ThreadGroup(task.kernel, tid, task.group.process_group, ProcessSignals(), task.group.limits.copy())
        group.exit_signal = arguments.exit_signal & 0xFF
        group.dumpable = task.group.dumpable
        group.oom_score_adj = task.group.oom_score_adj
    if flags & CLONE_FILES:
        files = task.files
        files.users += 1
    else:
        files = task.files.fork()
        files.limit_source = group.limits
    if flags & CLONE_FS:
        fs = task.fs
        fs.users += 1
    else:
        fs = task.fs.fork()
    if flags & CLONE_NEWNS:
        fs.unshare_namespace()
    if flags & CLONE_SIGHAND:
        actions = task.signals.actions
        actions.users += 1
    else:
        actions = task.signals.actions.fork()
        if flags & CLONE_CLEAR_SIGHAND:
            actions.clear_handlers()
    signals = task.signals.fork(actions)
    child = Task(task.kernel, tid, group, mm=mm, files=files, fs=fs, signals=signals, credentials=task.credentials, comm=task.comm)  # type: ignore[arg-type]
    if not flags & CLONE_VM or flags & CLONE_VFORK:
        child.alternate_stack = task.alternate_stack
    child.no_new_privs = task.no_new_privs
    child.seccomp = task.seccomp
    child.personality = task.personality
    child.timer_slack_ns = task.timer_slack_ns
    child.uts = task.uts.copy() if flags & CLONE_NEWUTS else task.uts
    child.nice = task.nice
    child.affinity = task.affinity
    inherit_scheduling(task, child)
    return child


def _enter_tables(task: Task, child: Task, flags: int) -> None:
    pids = task.kernel.pids
    group = child.group
    pids.tasks[child.tid] = child
    group.tasks[child.tid] = child
    if flags & CLONE_SYSVSEM:
        UndoList.share(task, child)
    if flags & CLONE_THREAD:
        child.counters[TaskWord.PPID] = group.parent.pid if group.parent is not None else 0
        return
    group.leader = child
    pids.thread_groups[child.tid] = group
    group.process_group.members[group] = None
    parent = task.group.parent if flags & CLONE_PARENT else task.group
    group.parent = parent
    group.parent_task = task.group.parent_task if flags & CLONE_PARENT else task
    if flags & CLONE_PARENT:
        group.exit_signal = task.group.exit_signal
    if parent is not None:
        parent.children[group.pid] = group
        child.counters[TaskWord.PPID] = parent.pid
    watch_cpu_limit(group)


def _child_frame(parent_slot: Slot, arguments: CloneArguments) -> bytes:
    """The parent's registers as the child starts with them: result 0, its own stack."""
    ax, sp = parent_slot.ax, parent_slot.sp
    parent_slot.ax = 0
    if arguments.stack:
        parent_slot.sp = arguments.stack
    frame = parent_slot.save_frame()
    parent_slot.ax, parent_slot.sp = ax, sp
    return frame


def _start(child: Task, slot: Slot, frame: bytes) -> None:
    slot.load_frame(frame)
    slot.task = child
    child.slot = slot
    cpu_time.publish(child)
    host_thread_changed(child)
    child.kernel.loop.start(child)


def _start_thread(child: Task, slot: Slot, parked: bool, parent_slot: Slot, frame: bytes, tls: int) -> None:
    """A host thread of the same stub: a parked one is reused, a new one is cloned by the parent's next batch and starts by itself."""
    if parked:
        child.slot = slot
        cpu_time.attach(child)
        slot.push(NR_ARCH_PRCTL, ARCH_SET_FS, tls)
        _start(child, slot, frame)
        return
    slot.load_frame(frame)
    slot.task = child
    child.slot = slot
    cpu_time.publish(child)
    parent_slot.push_clone(slot, tls, True)
