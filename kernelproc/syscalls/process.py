"""System calls that make, replace, end and await processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.limits import pack_usage
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import NO_RETURN, FdNumber, Flags, Int, Pid, Size, ULong, UserAddress, _NoReturn
from polynix.kernelproc.task import exec as task_exec
from polynix.kernelproc.task import fork as task_fork
from polynix.kernelproc.task.exit import begin_group_exit, exit_task
from polynix.kernelproc.task.fork import CloneArguments
from polynix.kernelproc.task.wait import wait_for_child
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.errno import E2BIG, EINVAL, ESRCH
from polynix.kernelproc.uapi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from polynix.kernelproc.uapi.limits import MAX_ARG_STRLEN
from polynix.kernelproc.uapi.sched import (
    CLONE_ARGS_SIZE_VER0,
    CLONE_CLEAR_SIGHAND,
    CLONE_DETACHED,
    CLONE_INTO_CGROUP,
    CLONE_PARENT_SETTID,
    CLONE_PIDFD,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
    CSIGNAL,
)
from polynix.kernelproc.uapi.signal import SIGCHLD
from polynix.kernelproc.uapi.wait import P_ALL, P_PGID, P_PID, P_PIDFD, WALL, WCLONE, WCONTINUED, WEXITED, WNOHANG, WNOTHREAD, WNOWAIT, WSTOPPED, WUNTRACED
from polynix.kernelproc.vfs.lookup import open_exec

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

CLONE_LEGACY_FLAGS = 0xFFFFFFFF
CLONE3_FLAGS = CLONE_LEGACY_FLAGS | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP
WCLONE_BITS = WNOTHREAD | WALL | WCLONE


# -- making -----------------------------------------------------------------------------------------------------------------------------------


@syscall()
async def clone(task: Task, flags: ULong, stack: ULong, parent_tid: ULong, child_tid: ULong, tls: ULong) -> int:
    """man 2 clone"""
    exit_signal = flags & CSIGNAL
    flags &= CLONE_LEGACY_FLAGS & ~CSIGNAL
    if flags & CLONE_PIDFD and flags & (CLONE_PARENT_SETTID | CLONE_DETACHED | CLONE_THREAD):
        raise Errno(EINVAL)
    return await task_fork.clone(task, CloneArguments(flags & ~CLONE_DETACHED, exit_signal, stack, tls, parent_tid, child_tid, parent_tid))


@syscall()
async def clone3(task: Task, address: UserAddress, size: Size) -> int:
    """man 2 clone3"""
    if size > 4096:
        raise Errno(E2BIG)
    if size < CLONE_ARGS_SIZE_VER0:
        raise Errno(EINVAL)
    data = task.copy_in(address, size)
    known = structs.clone_args.SIZE
    if any(data[known:]):
        raise Errno(E2BIG)
    arguments = structs.clone_args.unpack(data[:known].ljust(known, b"\0"))
    flags = arguments.flags
    if flags & ~CLONE3_FLAGS or flags & (CSIGNAL | CLONE_DETACHED) or arguments.exit_signal > 64:
        raise Errno(EINVAL)
    if flags & CLONE_THREAD and arguments.exit_signal:
        raise Errno(EINVAL)
    if flags & CLONE_PIDFD and flags & CLONE_THREAD:
        raise Errno(EINVAL)
    if bool(arguments.stack) != bool(arguments.stack_size):
        raise Errno(EINVAL)
    if arguments.set_tid_size:
        track_stub("clone3: pids of the caller's choice")
        raise Errno(EINVAL)
    if flags & CLONE_INTO_CGROUP:
        track_stub("clone3: into a cgroup")
        raise Errno(EINVAL)
    return await task_fork.clone(
        task,
        CloneArguments(
            flags,
            arguments.exit_signal,
            arguments.stack + arguments.stack_size if arguments.stack else 0,
            arguments.tls,
            arguments.parent_tid,
            arguments.child_tid,
            arguments.pidfd,
        ),
    )


@syscall()
async def fork(task: Task) -> int:
    """man 2 fork"""
    return await task_fork.clone(task, CloneArguments(0))


@syscall()
async def vfork(task: Task) -> int:
    """man 2 vfork"""
    return await task_fork.clone(task, CloneArguments(CLONE_VM | CLONE_VFORK))


@syscall()
def set_tid_address(task: Task, address: UserAddress) -> int:
    """man 2 set_tid_address"""
    task.clear_child_tid = address
    return task.tid


# -- replacing --------------------------------------------------------------------------------------------------------------------------------


def read_string_array(task: Task, address: UserAddress) -> list[bytes]:
    """argv or envp. Errors: EFAULT, E2BIG."""
    if not address:
        return []
    strings: list[bytes] = []
    total = 0
    user = task.user
    while True:
        pointer = user.load_u64(address)
        if not pointer:
            return strings
        item = user.read_cstring(UserAddress(pointer), MAX_ARG_STRLEN)
        if item is None:
            raise Errno(E2BIG)
        strings.append(item)
        total += len(item) + 9
        if total > task_exec.ARGUMENT_LIMIT:
            raise Errno(E2BIG)
        address = address + 8


@syscall()
def execve(task: Task, path: UserAddress, argv: UserAddress, envp: UserAddress) -> Awaitable[None] | None:
    """man 2 execve"""
    file_name = task.read_path(path)
    file = open_exec(task, AT_FDCWD, file_name)
    return task_exec.execute_when_present(task, file, file_name, read_string_array(task, argv), read_string_array(task, envp))


@syscall()
def execveat(task: Task, dir_fd: FdNumber, path: UserAddress, argv: UserAddress, envp: UserAddress, flags: Flags) -> Awaitable[None] | None:
    """man 2 execveat"""
    if flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW):
        raise Errno(EINVAL)
    file_name = task.read_path(path)
    file = open_exec(task, dir_fd, file_name, follow=not flags & AT_SYMLINK_NOFOLLOW, empty_path=bool(flags & AT_EMPTY_PATH))
    if dir_fd != AT_FDCWD and not file_name.startswith(b"/"):
        file_name = b"/dev/fd/%d" % dir_fd + (b"/" + file_name if file_name else b"")
    return task_exec.execute_when_present(task, file, file_name, read_string_array(task, argv), read_string_array(task, envp))


# -- ending -----------------------------------------------------------------------------------------------------------------------------------


@syscall("exit")
def exit_(task: Task, status: Int) -> _NoReturn:
    """man 2 _exit: this thread only"""
    exit_task(task, (status & 0xFF) << 8)
    return NO_RETURN


@syscall()
def exit_group(task: Task, status: Int) -> _NoReturn:
    """man 2 exit_group"""
    begin_group_exit(task.group, (status & 0xFF) << 8)
    if not task.exited:
        assert task.group.exit_code is not None
        exit_task(task, task.group.exit_code)
    return NO_RETURN


# -- awaiting ---------------------------------------------------------------------------------------------------------------------------------


@syscall()
async def wait4(task: Task, pid: Pid, status: UserAddress, options: Flags, usage: UserAddress) -> int:
    """man 2 wait4"""
    if options & ~(WNOHANG | WUNTRACED | WCONTINUED | WCLONE_BITS):
        raise Errno(EINVAL)
    if options & WNOTHREAD:
        track_stub("wait for the calling thread's children alone")
    if pid == -(1 << 31):
        raise Errno(ESRCH)
    if pid == -1:
        event = await wait_for_child(task, _any, options | WEXITED)
    elif pid > 0:
        event = await wait_for_child(task, lambda child: child.pid == pid, options | WEXITED)
    else:
        pgid = -pid if pid else task.group.process_group.pgid
        event = await wait_for_child(task, lambda child: child.process_group.pgid == pgid, options | WEXITED)
    if event is None:
        return 0
    if status:
        task.user.store_u32(status, event.status)
    if usage:
        task.copy_out(usage, pack_usage(event.user_ns, event.system_ns, event.max_rss))
    return event.pid


@syscall()
async def waitid(task: Task, which: Int, identity: Pid, info: UserAddress, options: Flags, usage: UserAddress) -> int:
    """man 2 waitid"""
    if options & ~(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | WCLONE_BITS) or not options & (WEXITED | WSTOPPED | WCONTINUED):
        raise Errno(EINVAL)
    if options & WNOTHREAD:
        track_stub("wait for the calling thread's children alone")
    matches, options = _awaited(task, which, identity, options)
    event = await wait_for_child(task, matches, options)
    if info:
        siginfo = structs.siginfo_sigchld
        if event is None:
            task.copy_out(info, bytes(siginfo.SIZE))
        else:
            task.copy_out(info, siginfo.pack(si_signo=SIGCHLD, si_code=event.code, si_pid=event.pid, si_uid=event.uid, si_status=event.value))
    if usage and event is not None:
        task.copy_out(usage, pack_usage(event.user_ns, event.system_ns, event.max_rss))
    return 0


def _any(_child: ThreadGroup) -> bool:
    return True


def _awaited(task: Task, which: int, identity: int, options: int) -> tuple[Callable[[ThreadGroup], bool], int]:
    """Which children waitid means, and its options, with the descriptor's O_NONBLOCK. Errors: EINVAL, EBADF, ECHILD."""
    if which == P_ALL:
        return _any, options
    if which not in (P_PID, P_PGID, P_PIDFD) or identity < (1 if which == P_PID else 0):
        raise Errno(EINVAL)
    if which == P_PID:
        return lambda child: child.pid == identity, options
    if which == P_PGID:
        pgid = identity or task.group.process_group.pgid
        return lambda child: child.process_group.pgid == pgid, options
    from polynix.kernelproc.vfs.pidfd import child_of

    file = task.files.get(identity)
    group = child_of(task, file)
    if file.nonblocking:
        options |= WNOHANG
    return lambda child: child is group, options
