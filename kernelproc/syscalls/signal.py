"""System calls that send, await and handle signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTARTNOHAND, Errno
from polynix.kernelproc.signals import send
from polynix.kernelproc.signals.delivery import return_from_handler
from polynix.kernelproc.signals.frame import alternate_stack_flags, set_alternate_stack
from polynix.kernelproc.signals.permission import check_kill_permission
from polynix.kernelproc.signals.send import dequeue_signal, send_to_group, send_to_task, set_action
from polynix.kernelproc.signals.siginfo import SIGINFO_SIZE, SigInfo
from polynix.kernelproc.signals.signal_state import NSIG, UNBLOCKABLE, SignalAction, bit
from polynix.kernelproc.signals.wake import recalculate_attention, set_mask, set_temporary_mask
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Int, Pid, Size, UserAddress, as_int
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.errno import EAGAIN, EINTR, EINVAL, EPERM, ESRCH
from polynix.kernelproc.uapi.limits import INT_MIN
from polynix.kernelproc.uapi.signal import SI_TKILL, SI_USER, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGRTMIN
from polynix.kernelproc.wait_queue import wait

if TYPE_CHECKING:
    from polynix.kernelproc.task.process_group import ProcessGroup
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

SIGSET_SIZE = 8
NANOSECONDS = 1_000_000_000
KNOWN_FLAGS = 0xDC000C07  # SA_*: those of a kernel that has SA_UNSUPPORTED, by which programs find out


def read_sigset(task: Task, address: UserAddress, size: int) -> int:
    """A ``sigset_t`` argument as a mask. Errors: EINVAL for another size than the kernel's, EFAULT."""
    if size != SIGSET_SIZE:
        raise Errno(EINVAL)
    return task.user.load_u64(address)


# -- dispositions, masks, alternate stacks ------------------------------------------------------------------------------------


@syscall()
def rt_sigaction(task: Task, signo: Int, action: UserAddress, old: UserAddress, size: Size) -> int:
    """man 2 rt_sigaction"""
    if size != SIGSET_SIZE:
        raise Errno(EINVAL)
    new = structs.sigaction.unpack(task.copy_in(action, structs.sigaction.SIZE)) if action else None
    if not 1 <= signo <= NSIG or (new is not None and bit(signo) & UNBLOCKABLE):
        raise Errno(EINVAL)
    before = task.signals.actions.get(signo)
    if new is not None:
        set_action(task, signo, SignalAction(new.sa_handler, new.sa_flags & KNOWN_FLAGS, new.sa_restorer, new.sa_mask & ~UNBLOCKABLE))
    if old:
        task.copy_out(
            old,
            structs.sigaction.pack(sa_handler=before.handler, sa_flags=before.flags, sa_restorer=before.restorer, sa_mask=before.mask),
        )
    return 0


@syscall()
def rt_sigprocmask(task: Task, how: Int, address: UserAddress, old: UserAddress, size: Size) -> int:
    """man 2 rt_sigprocmask"""
    if size != SIGSET_SIZE:
        raise Errno(EINVAL)
    before = task.signals.mask
    if address:
        mask = task.user.load_u64(address)
        if how == SIG_BLOCK:
            mask |= before
        elif how == SIG_UNBLOCK:
            mask = before & ~mask
        elif how != SIG_SETMASK:
            raise Errno(EINVAL)
        set_mask(task, mask)
    if old:
        task.user.store_u64(old, before)
    return 0


@syscall()
def rt_sigpending(task: Task, address: UserAddress, size: Size) -> int:
    """man 2 sigpending"""
    if size > SIGSET_SIZE:
        raise Errno(EINVAL)
    pending = (task.signals.pending.mask | task.group.signals.pending.mask) & task.signals.mask
    task.copy_out(address, pending.to_bytes(SIGSET_SIZE, "little")[:size])
    return 0


@syscall()
def sigaltstack(task: Task, address: UserAddress, old: UserAddress) -> int:
    """man 2 sigaltstack"""
    slot = task.slot
    assert slot is not None
    new = structs.stack_t.unpack(task.copy_in(address, structs.stack_t.SIZE)) if address else None
    base, _, size = task.alternate_stack
    before = structs.stack_t.pack(ss_sp=base, ss_flags=as_int(alternate_stack_flags(task, slot.sp)), ss_size=size)
    if new is not None:
        error = set_alternate_stack(task, slot.sp, new.ss_sp, new.ss_flags, new.ss_size)
        if error:
            raise Errno(error)
    if old:
        task.copy_out(old, before)
    return 0


@syscall()
def rt_sigreturn(task: Task) -> None:
    """man 2 sigreturn: no result, all registers come from the frame"""
    return_from_handler(task)


@syscall()
async def restart_syscall(task: Task) -> int:
    """man 2 restart_syscall: go on with what a stop or an ignored signal interrupted"""
    restart, task.restart = task.restart, None
    if restart is None:
        raise Errno(EINTR)
    result: int = await restart()
    return result


# -- waiting ------------------------------------------------------------------------------------------------------------------


@syscall()
async def pause(task: Task) -> int:
    """man 2 pause"""
    return await _until_interrupted()


@syscall()
async def rt_sigsuspend(task: Task, mask: UserAddress, size: Size) -> int:
    """man 2 sigsuspend"""
    set_temporary_mask(task, read_sigset(task, mask, size))
    return await _until_interrupted()


async def _until_interrupted() -> int:
    while True:
        try:
            await wait(())
        except Interrupted:
            return -ERESTARTNOHAND


@syscall()
async def rt_sigtimedwait(task: Task, mask: UserAddress, info_address: UserAddress, timeout: UserAddress, size: Size) -> int:
    """man 2 sigtimedwait"""
    wanted = read_sigset(task, mask, size) & ~UNBLOCKABLE
    deadline_ns = None
    if timeout:
        duration = structs.timespec.unpack(task.copy_in(timeout, structs.timespec.SIZE))
        if duration.tv_sec < 0 or not 0 <= duration.tv_nsec < NANOSECONDS:
            raise Errno(EINVAL)
        deadline_ns = task.kernel.clock.monotonic_ns() + duration.tv_sec * NANOSECONDS + duration.tv_nsec
    info = dequeue_signal(task, wanted)
    if info is None:
        if timeout and not duration.tv_sec and not duration.tv_nsec:
            raise Errno(EAGAIN)
        info = await _wait_for_signal(task, wanted, deadline_ns)
    if info_address:
        task.copy_out(info_address, info.pack())
    return info.signo


async def _wait_for_signal(task: Task, wanted: int, deadline_ns: int | None) -> SigInfo:
    state = task.signals
    before = state.real_blocked = state.mask
    state.mask &= ~wanted  # so that the sender wakes this task
    recalculate_attention(task)
    interrupted = False
    try:
        await wait((), deadline_ns)
    except Interrupted:
        interrupted = True
    finally:
        state.real_blocked = 0
        set_mask(task, before)
    info = dequeue_signal(task, wanted)
    if info is None:
        raise Errno(EINTR if interrupted else EAGAIN)
    return info


# -- sending ------------------------------------------------------------------------------------------------------------------


def kill_group(task: Task, group: ThreadGroup, signo: int, info: SigInfo, first: Task | None = None) -> None:
    """kill one process; 0 only checks. Errors: EPERM, EAGAIN when the queue is full."""
    if group.leader is None:
        return  # the kthreads
    check_kill_permission(task, group.leader, signo)
    if signo and send_to_group(group, info, first) == send.OVERFLOW:
        raise Errno(EAGAIN)


def kill_process_group(task: Task, process_group: ProcessGroup | None, signo: int) -> int:
    """kill each member; succeeds if one could be signalled. Errors: ESRCH, EPERM."""
    error = Errno(ESRCH)
    done = False
    for group in list(process_group.members) if process_group is not None else ():
        try:
            kill_group(task, group, signo, SigInfo.from_user(task, signo))
            done = True
        except Errno as failure:
            error = failure
    if not done:
        raise error
    return 0


def kill_all(task: Task, signo: int) -> int:
    """kill(-1): every process that may be signalled, but for init and the caller's own. Errors: ESRCH, EPERM is nobody's."""
    count = 0
    for group in list(task.kernel.pids.thread_groups.values()):
        if group.pid <= 1 or group is task.group or group.is_kernel:
            continue
        count += 1
        try:
            kill_group(task, group, signo, SigInfo.from_user(task, signo))
        except Errno as failure:
            if failure.errno != EPERM:
                raise
    if not count:
        raise Errno(ESRCH)
    return 0


def find_group(task: Task, pid: int) -> tuple[ThreadGroup, Task | None]:
    """The process that ``pid`` belongs to, zombies included, and the thread if it names one. Errors: ESRCH."""
    pids = task.kernel.pids
    thread = pids.tasks.get(pid)
    if thread is not None:
        return thread.group, thread
    group = pids.thread_groups.get(pid)
    if group is None:
        raise Errno(ESRCH)
    return group, None


@syscall()
def kill(task: Task, pid: Pid, signo: Int) -> int:
    """man 2 kill"""
    if not 0 <= signo <= NSIG:
        raise Errno(EINVAL)
    if pid > 0:
        group, thread = find_group(task, pid)
        kill_group(task, group, signo, SigInfo.from_user(task, signo), thread)
        return 0
    if pid == -1:
        return kill_all(task, signo)
    if pid == INT_MIN:
        raise Errno(ESRCH)
    process_group = task.group.process_group if pid == 0 else task.kernel.pids.process_groups.get(-pid)
    return kill_process_group(task, process_group, signo)


@syscall()
def tgkill(task: Task, tgid: Pid, tid: Pid, signo: Int) -> int:
    """man 2 tgkill"""
    if tgid <= 0 or tid <= 0:
        raise Errno(EINVAL)
    return kill_thread(task, tgid, tid, signo, SigInfo.from_user(task, signo, SI_TKILL))


@syscall()
def tkill(task: Task, tid: Pid, signo: Int) -> int:
    """man 2 tkill"""
    if tid <= 0:
        raise Errno(EINVAL)
    return kill_thread(task, 0, tid, signo, SigInfo.from_user(task, signo, SI_TKILL))


def kill_thread(task: Task, tgid: int, tid: int, signo: int, info: SigInfo) -> int:
    """kill one thread, of whichever process if ``tgid`` is 0; signal 0 only checks. Errors: ESRCH, EINVAL, EPERM, EAGAIN when the queue is full."""
    target = task.kernel.pids.tasks.get(tid)
    if target is None or (tgid and target.group.pid != tgid):
        raise Errno(ESRCH)
    if not 0 <= signo <= NSIG:
        raise Errno(EINVAL)
    check_kill_permission(task, target, signo)
    if signo and send_to_task(target, info) == send.OVERFLOW:
        raise Errno(EAGAIN)
    return 0


def read_siginfo(task: Task, address: UserAddress, signo: int) -> SigInfo:
    """A siginfo of the guest's own making. Errors: EFAULT."""
    return SigInfo.from_bytes(signo, task.copy_in(address, SIGINFO_SIZE))


def check_forged(task: Task, pid: int, info: SigInfo) -> None:
    """Only to itself may a process pretend that the kernel, kill or tgkill sent a signal. Errors: EPERM."""
    if (info.code >= SI_USER or info.code == SI_TKILL) and task.group.pid != pid:
        raise Errno(EPERM)


@syscall()
def rt_sigqueueinfo(task: Task, pid: Pid, signo: Int, info_address: UserAddress) -> int:
    """man 2 rt_sigqueueinfo"""
    info = read_siginfo(task, info_address, signo)
    check_forged(task, pid, info)
    if not 0 <= signo <= NSIG:
        raise Errno(EINVAL)
    group, thread = find_group(task, pid)
    kill_group(task, group, signo, info, thread)
    return 0


@syscall()
def rt_tgsigqueueinfo(task: Task, tgid: Pid, tid: Pid, signo: Int, info_address: UserAddress) -> int:
    """man 2 rt_tgsigqueueinfo"""
    info = read_siginfo(task, info_address, signo)
    if tgid <= 0 or tid <= 0:
        raise Errno(EINVAL)
    check_forged(task, tgid, info)
    return kill_thread(task, tgid, tid, signo, info)


__all__ = ["SIGRTMIN", "check_forged", "find_group", "kill_group", "kill_process_group", "read_siginfo", "read_sigset"]
