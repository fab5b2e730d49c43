"""epoll, eventfd, timerfd and signalfd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.signals.signal_state import UNBLOCKABLE
from polynix.kernelproc.signals.signalfd import SignalFdOps
from polynix.kernelproc.syscalls.poll import import_sigmask
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.timeouts import NANOSECONDS, deadline_after, import_timespec
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Size, UInt
from polynix.kernelproc.uapi.capability import CAP_BLOCK_SUSPEND, CAP_WAKE_ALARM
from polynix.kernelproc.uapi.epoll import EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLWAKEUP
from polynix.kernelproc.uapi.errno import EINTR, EINVAL, EPERM
from polynix.kernelproc.uapi.eventfd import EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE
from polynix.kernelproc.uapi.fcntl import O_NONBLOCK, O_RDWR
from polynix.kernelproc.uapi.signalfd import SFD_CLOEXEC, SFD_NONBLOCK
from polynix.kernelproc.uapi.structs import epoll_event, itimerspec
from polynix.kernelproc.uapi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
)
from polynix.kernelproc.uapi.timerfd import TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
from polynix.kernelproc.vfs.anon import anon_file
from polynix.kernelproc.vfs.epoll import EpollOps
from polynix.kernelproc.vfs.eventfd import EventFdOps
from polynix.kernelproc.vfs.timerfd import TimerFdOps

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.ops import FileOps, Result

_MAX_EVENTS = 0x7FFFFFFF // epoll_event.SIZE
_ITIMERSPEC = itimerspec.FORMAT


def _new_fd(task: Task, ops: FileOps, flags: int, label: bytes) -> int:
    """A descriptor of a new anonymous file; O_NONBLOCK and O_CLOEXEC have one value under all their names."""
    return task.files.install_new(anon_file(task.kernel, ops, O_RDWR | flags & O_NONBLOCK, label), bool(flags & EPOLL_CLOEXEC))


# -- epoll -----------------------------------------------------------------------------------------------------------------


@syscall()
def epoll_create(task: Task, size: Int) -> int:
    """man 2 epoll_create."""
    return epoll_create1(task, 0) if size > 0 else -EINVAL


@syscall()
def epoll_create1(task: Task, flags: Flags) -> int:
    """man 2 epoll_create1."""
    if flags & ~EPOLL_CLOEXEC:
        return -EINVAL
    ops = EpollOps(task.kernel.power.sources)
    file = anon_file(task.kernel, ops, O_RDWR, b"[eventpoll]")
    ops.file = file
    return task.files.install_new(file, bool(flags))


def _epoll(task: Task, fd: int) -> EpollOps:
    ops = task.files.get_io(fd).ops
    if not isinstance(ops, EpollOps):
        raise Errno(EINVAL)
    return ops


@syscall()
def epoll_ctl(task: Task, epfd: FdNumber, op: Int, fd: FdNumber, event: UserAddress) -> int:
    """man 2 epoll_ctl."""
    events, data = (0, 0) if op == EPOLL_CTL_DEL else epoll_event.FORMAT.unpack(task.copy_in(event, epoll_event.SIZE))
    epoll_file = task.files.get_io(epfd)
    file = task.files.get_io(fd)
    if file.ops.always_ready:
        return -EPERM
    epoll = epoll_file.ops
    if not isinstance(epoll, EpollOps) or file is epoll_file:
        return -EINVAL
    if events & EPOLLWAKEUP and not task.credentials.has_capability(CAP_BLOCK_SUSPEND):
        events &= ~EPOLLWAKEUP
    if op == EPOLL_CTL_ADD:
        epoll.add(file, fd, events, data)
    elif op == EPOLL_CTL_MOD:
        epoll.modify(file, fd, events, data)
    elif op == EPOLL_CTL_DEL:
        epoll.remove(file, fd)
    else:
        return -EINVAL
    return 0


@syscall()
def epoll_wait(task: Task, epfd: FdNumber, events: UserAddress, maxevents: Int, timeout: Int) -> Result:
    """man 2 epoll_wait; ``timeout`` in milliseconds, negative for ever."""
    return _epoll_wait(task, epfd, events, maxevents, timeout * 1_000_000 if timeout >= 0 else None)


@syscall()
def epoll_pwait(
    task: Task,
    epfd: FdNumber,
    events: UserAddress,
    maxevents: Int,
    timeout: Int,
    sigmask: UserAddress,
    sigsetsize: Size,
) -> Result:
    """man 2 epoll_pwait."""
    import_sigmask(task, sigmask, sigsetsize)
    return _epoll_wait(task, epfd, events, maxevents, timeout * 1_000_000 if timeout >= 0 else None)


@syscall()
def epoll_pwait2(
    task: Task,
    epfd: FdNumber,
    events: UserAddress,
    maxevents: Int,
    timeout: UserAddress,
    sigmask: UserAddress,
    sigsetsize: Size,
) -> Result:
    """man 2 epoll_pwait2: the timeout is a timespec, null for ever."""
    timeout_ns = import_timespec(task, timeout)
    import_sigmask(task, sigmask, sigsetsize)
    return _epoll_wait(task, epfd, events, maxevents, timeout_ns)


def _epoll_wait(task: Task, epfd: int, address: UserAddress, limit: int, timeout_ns: int | None) -> Result:
    if limit <= 0 or limit > _MAX_EVENTS:
        return -EINVAL
    epoll = _epoll(task, epfd)
    if epoll.ready:
        count = _deliver(task, epoll, address, limit)
        if count:
            return count
    if timeout_ns == 0:
        return 0
    return _epoll_wait_on(task, epoll, address, limit, deadline_after(task, timeout_ns))


async def _epoll_wait_on(task: Task, epoll: EpollOps, address: UserAddress, limit: int, deadline: int | None) -> int:
    assert epoll.file is not None
    file = epoll.file.retain()
    try:
        while True:
            woken = await epoll.waiters.wait(deadline_ns=deadline, exclusive=True)
            count = _deliver(task, epoll, address, limit) if epoll.ready else 0
            if count or not woken:
                return count
    except BaseException as error:
        if epoll.ready:
            epoll.waiters.notify()  # a wake-up that we leave unused is another waiter's
        if isinstance(error, Interrupted):
            raise Errno(EINTR) from None  # never restarted
        raise
    finally:
        file.release()


def _deliver(task: Task, epoll: EpollOps, address: UserAddress, limit: int) -> int:
    collected = epoll.collect(limit)
    if collected:
        pack = epoll_event.FORMAT.pack
        try:
            task.copy_out(address, b"".join([pack(events, item.data) for item, events in collected]))
        except BaseException:
            epoll.put_back(collected)
            raise
        epoll.delivered(collected)
    return len(collected)


# -- eventfd ---------------------------------------------------------------------------------------------------------------


@syscall()
def eventfd(task: Task, initval: UInt) -> int:
    """man 2 eventfd."""
    return eventfd2(task, initval, 0)


@syscall()
def eventfd2(task: Task, initval: UInt, flags: Flags) -> int:
    """man 2 eventfd2."""
    if flags & ~(EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK):
        return -EINVAL
    return _new_fd(task, EventFdOps(initval, bool(flags & EFD_SEMAPHORE)), flags, b"[eventfd]")


# -- timerfd ---------------------------------------------------------------------------------------------------------------


@syscall()
def timerfd_create(task: Task, clockid: Int, flags: Flags) -> int:
    """man 2 timerfd_create."""
    if flags & ~(TFD_CLOEXEC | TFD_NONBLOCK):
        return -EINVAL
    if clockid not in (CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM):
        return -EINVAL
    if clockid in (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM) and not task.credentials.has_capability(CAP_WAKE_ALARM):
        return -EPERM
    return _new_fd(task, TimerFdOps(task.kernel, clockid), flags, b"[timerfd]")


def _timerfd(task: Task, fd: int) -> TimerFdOps:
    ops = task.files.get_io(fd).ops
    if not isinstance(ops, TimerFdOps):
        raise Errno(EINVAL)
    return ops


def _export_itimerspec(task: Task, address: UserAddress, left: tuple[int, int]) -> None:
    value, interval = left
    task.copy_out(address, _ITIMERSPEC.pack(interval // NANOSECONDS, interval % NANOSECONDS, value // NANOSECONDS, value % NANOSECONDS))


@syscall()
def timerfd_settime(task: Task, fd: FdNumber, flags: Flags, new_value: UserAddress, old_value: UserAddress) -> int:
    """man 2 timerfd_settime. TFD_TIMER_CANCEL_ON_SET is accepted; no clock is ever set here."""
    interval_s, interval_ns, value_s, value_ns = _ITIMERSPEC.unpack(task.copy_in(new_value, itimerspec.SIZE))
    if flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET):
        return -EINVAL
    if value_s < 0 or interval_s < 0 or not 0 <= value_ns < NANOSECONDS or not 0 <= interval_ns < NANOSECONDS:
        return -EINVAL
    timer = _timerfd(task, fd)
    left = timer.left()
    timer.set(value_s * NANOSECONDS + value_ns, interval_s * NANOSECONDS + interval_ns, flags)
    if old_value:
        _export_itimerspec(task, old_value, left)
    return 0


@syscall()
def timerfd_gettime(task: Task, fd: FdNumber, curr_value: UserAddress) -> int:
    """man 2 timerfd_gettime."""
    _export_itimerspec(task, curr_value, _timerfd(task, fd).left())
    return 0


# -- signalfd --------------------------------------------------------------------------------------------------------------


@syscall()
def signalfd(task: Task, fd: FdNumber, mask: UserAddress, sizemask: Size) -> int:
    """man 2 signalfd."""
    return signalfd4(task, fd, mask, sizemask, 0)


@syscall()
def signalfd4(task: Task, fd: FdNumber, mask: UserAddress, sizemask: Size, flags: Flags) -> int:
    """man 2 signalfd: a new one for -1, else a new mask for an old one."""
    if sizemask != 8:
        return -EINVAL
    signals = int.from_bytes(task.copy_in(mask, 8), "little") & ~UNBLOCKABLE
    if flags & ~(SFD_CLOEXEC | SFD_NONBLOCK):
        return -EINVAL
    if fd == -1:
        return _new_fd(task, SignalFdOps(task.kernel, signals), flags, b"[signalfd]")
    ops = task.files.get_io(fd).ops
    if not isinstance(ops, SignalFdOps):
        return -EINVAL
    ops.mask = signals
    task.group.signals.wait_queue.notify()
    return fd
