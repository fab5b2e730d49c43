"""What a blocked task waits for, in words: read off its system call and arguments, as ``/proc/PID/wchan`` names a function."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.unistd import SYSCALLS
from polynix.kernelproc.vfs.lookup import reopenable_name

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject

NAMES = {number: name for name, number in SYSCALLS.items()}
# Calls whose first argument is the descriptor that they wait for.
OF_DESCRIPTOR = frozenset(
    SYSCALLS[name]
    for name in (
        "read", "pread64", "readv", "preadv", "preadv2", "write", "pwrite64", "writev", "pwritev", "pwritev2", "accept", "accept4", "connect", "recvfrom",
        "recvmsg", "recvmmsg", "sendto", "sendmsg", "sendmmsg", "flock", "fcntl", "splice", "tee", "vmsplice", "ioctl", "fsync", "fdatasync",
    )
)  # fmt: skip
SLEEPS = frozenset(SYSCALLS[name] for name in ("nanosleep", "clock_nanosleep"))
CHILDREN = frozenset(SYSCALLS[name] for name in ("wait4", "waitid"))
FORKS = frozenset(SYSCALLS[name] for name in ("clone", "clone3", "vfork", "fork"))
SIGNALS = frozenset(SYSCALLS[name] for name in ("rt_sigtimedwait", "rt_sigsuspend", "pause"))
EPOLL = frozenset(SYSCALLS[name] for name in ("epoll_wait", "epoll_pwait", "epoll_pwait2"))
POLL = frozenset(SYSCALLS[name] for name in ("poll", "ppoll"))
FUTEX = SYSCALLS["futex"]
POLLFD = struct.Struct("<ihh")
MOST_POLLED = 3


def file_label(task: Task, file: FileObject) -> str:
    """The name that /proc/PID/fd shows for an open file."""
    try:
        return reopenable_name(file).path(task.fs).decode(errors="replace")
    except Errno:
        return f"{type(file.ops).__name__}:{file.node.ino}"


def wait_object(task: Task, call: tuple[int, ...]) -> str:
    """The object that ``call`` (number and raw arguments) of ``task`` waits for: ``pipe:[12]``, ``futex 0x7f..``, ``child``, ``timer``."""
    if not call:
        return ""
    number = call[0]
    if number in OF_DESCRIPTOR:
        return _descriptor(task, call[1])
    if number == FUTEX:
        return f"futex {call[1]:#x}"
    if number in SLEEPS:
        return "timer"
    if number in CHILDREN:
        return "child"
    if number in FORKS:
        return "vfork child"
    if number in SIGNALS:
        return "signal"
    if number in EPOLL:
        return f"epoll {_descriptor(task, call[1])}"
    if number in POLL:
        return _polled(task, call[1], call[2])
    return NAMES.get(number, str(number))


def _descriptor(task: Task, fd: int) -> str:
    file = task.files.files.get(fd & 0xFFFFFFFF)
    return f"descriptor {fd & 0xFFFFFFFF}" if file is None else file_label(task, file)


def _polled(task: Task, address: int, count: int) -> str:
    try:
        data = task.user.copy_in_partial(UserAddress(address), min(count, MOST_POLLED) * POLLFD.size)
    except Fault:
        return "poll"
    names = [_descriptor(task, fd) for fd, _, _ in POLLFD.iter_unpack(data[: len(data) // POLLFD.size * POLLFD.size]) if fd >= 0]
    more = ["…"] if count > MOST_POLLED else []
    return "poll " + ", ".join(names + more) if names else "timer"
