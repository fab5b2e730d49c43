"""System calls of clocks, sleeping and timers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from polynix.addrspace._restricted import VDSO_BASE, VDSO_END
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, Errno
from polynix.kernelproc.signals.signal_state import NSIG
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags, Int, UInt, UserAddress
from polynix.kernelproc.task.clocks import ALARM, COARSE, NANOSECONDS, STOPPING, cpu_clock, deadline_of, read_clock, wall_clock_ns
from polynix.kernelproc.task.cpu_timers import CpuTimer, CpuTimers
from polynix.kernelproc.task.interval_timers import IntervalTimers
from polynix.kernelproc.task.posix_timers import PosixTimer, PosixTimers
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.capability import CAP_WAKE_ALARM
from polynix.kernelproc.uapi.errno import EINVAL, EOPNOTSUPP, EPERM
from polynix.kernelproc.uapi.signal import SIGALRM, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD, SIGEV_THREAD_ID
from polynix.kernelproc.uapi.time import (
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME,
    CLOCK_THREAD_CPUTIME_ID,
    ITIMER_PROF,
    ITIMER_REAL,
    ITIMER_VIRTUAL,
    STA_UNSYNC,
    TIME_ERROR,
    TIMER_ABSTIME,
)
from polynix.kernelproc.wait_queue import WaitQueue, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from polynix.kernelproc.task.task import Task

MICROSECONDS = 1_000_000
COARSE_RESOLUTION_NS = 4_000_000  # a tick of CONFIG_HZ=250
_NO_TIMER = (*COARSE, CLOCK_MONOTONIC_RAW)
_NO_SLEEP = (*_NO_TIMER, CLOCK_THREAD_CPUTIME_ID)


def read_timespec(task: Task, address: UserAddress) -> int:
    """A ``struct timespec`` as nanoseconds. Errors: EFAULT, EINVAL for a negative one or nanoseconds out of range."""
    value = structs.timespec.unpack(task.copy_in(address, structs.timespec.SIZE))
    return _timespec_ns(value.tv_sec, value.tv_nsec)


def _timespec_ns(seconds: int, nanoseconds: int) -> int:
    if seconds < 0 or not 0 <= nanoseconds < NANOSECONDS:
        raise Errno(EINVAL)
    return seconds * NANOSECONDS + nanoseconds


def write_timespec(task: Task, address: UserAddress, nanoseconds: int) -> None:
    """Errors: EFAULT."""
    task.copy_out(address, structs.timespec.pack(tv_sec=nanoseconds // NANOSECONDS, tv_nsec=nanoseconds % NANOSECONDS))


# -- clocks -------------------------------------------------------------------------------------------------------------------


@syscall()
def clock_gettime(task: Task, clock: Int, address: UserAddress) -> int:
    """man 2 clock_gettime"""
    now = read_clock(task, clock)
    slot = task.slot
    if clock in STOPPING and slot is not None and VDSO_BASE <= slot.ip < VDSO_END:
        now += task.kernel.clock.suspended_ns  # the host's vdso asks on behalf of ours, which will take it off
    write_timespec(task, address, now)
    return 0


@syscall()
def clock_getres(task: Task, clock: Int, address: UserAddress) -> int:
    """man 2 clock_getres"""
    if wall_clock_ns(task.kernel.clock, clock) is None and cpu_clock(task, clock) is None:
        raise Errno(EINVAL)
    if address:
        write_timespec(task, address, COARSE_RESOLUTION_NS if clock in COARSE else 1)
    return 0


@syscall()
def clock_settime(task: Task, clock: Int, address: UserAddress) -> int:
    """man 2 clock_settime: the host's clock is not the guest's to set"""
    read_timespec(task, address)
    if clock < 0:
        cpu_clock(task, clock)
        raise Errno(EPERM)
    raise Errno(EPERM if clock == CLOCK_REALTIME else EINVAL)


@syscall()
def gettimeofday(task: Task, value: UserAddress, zone: UserAddress) -> int:
    """man 2 gettimeofday"""
    if value:
        now = task.kernel.clock.realtime_ns()
        task.copy_out(value, structs.timeval.pack(tv_sec=now // NANOSECONDS, tv_usec=now % NANOSECONDS // 1000))
    if zone:
        task.copy_out(zone, bytes(8))
    return 0


@syscall()
def settimeofday(task: Task, value: UserAddress, zone: UserAddress) -> int:
    """man 2 settimeofday"""
    if value:
        now = structs.timeval.unpack(task.copy_in(value, structs.timeval.SIZE))
        if not 0 <= now.tv_usec < MICROSECONDS:
            raise Errno(EINVAL)
    if zone:
        task.copy_in(zone, 8)
    raise Errno(EPERM)


@syscall()
def time(task: Task, address: UserAddress) -> int:
    """man 2 time"""
    now = task.kernel.clock.realtime_ns() // NANOSECONDS
    if address:
        task.user.store_u64(address, now)
    return now


@syscall()
def adjtimex(task: Task, address: UserAddress) -> int:
    """man 2 adjtimex"""
    return _adjust(task, address)


@syscall()
def clock_adjtime(task: Task, clock: Int, address: UserAddress) -> int:
    """man 2 clock_adjtime"""
    if clock != CLOCK_REALTIME:
        if wall_clock_ns(task.kernel.clock, clock) is None and cpu_clock(task, clock) is None:
            raise Errno(EINVAL)
        raise Errno(EOPNOTSUPP)
    return _adjust(task, address)


def _adjust(task: Task, address: UserAddress) -> int:
    if structs.timex.unpack(task.copy_in(address, structs.timex.SIZE)).modes:
        raise Errno(EPERM)
    now = task.kernel.clock.realtime_ns()
    task.copy_out(
        address,
        structs.timex.pack(
            status=STA_UNSYNC,
            tick=10_000,
            precision=1,
            tolerance=32_768_000,
            time_sec=now // NANOSECONDS,
            time_usec=now % NANOSECONDS // 1000,
        ),
    )
    return TIME_ERROR


# -- sleeping -----------------------------------------------------------------------------------------------------------------


async def sleep_until(task: Task, deadline_ns: int, remainder: UserAddress | None) -> int:
    """Sleep until ``deadline_ns`` (see ``deadline_of``); interrupted, store the rest at ``remainder`` and leave a restart block."""
    try:
        await wait((), deadline_ns)
    except Interrupted:
        left = task.kernel.clock.until(deadline_ns)
        if left <= 0:
            return 0
        if remainder:
            write_timespec(task, remainder, left)
        task.restart = partial(sleep_until, task, deadline_ns, remainder)
        return -ERESTART_RESTARTBLOCK
    return 0


@syscall()
async def nanosleep(task: Task, request: UserAddress, remainder: UserAddress) -> int:
    """man 2 nanosleep"""
    duration = read_timespec(task, request)
    return await sleep_until(task, deadline_of(task.kernel.clock, CLOCK_MONOTONIC, duration, False), remainder)


@syscall()
async def clock_nanosleep(task: Task, clock: Int, flags: Flags, request: UserAddress, remainder: UserAddress) -> int:
    """man 2 clock_nanosleep"""
    wall = wall_clock_ns(task.kernel.clock, clock)
    read = None
    if wall is None:
        read = cpu_clock(task, clock)
        if read is None:
            raise Errno(EINVAL)
    if clock in _NO_SLEEP:
        raise Errno(EOPNOTSUPP)
    duration = read_timespec(task, request)
    if clock in ALARM and not task.credentials.has_capability(CAP_WAKE_ALARM):
        raise Errno(EPERM)
    absolute = bool(flags & TIMER_ABSTIME)
    if read is not None:
        return await _sleep_cpu(task, read, duration if absolute else read() + duration, None if absolute else remainder, absolute)
    deadline = deadline_of(task.kernel.clock, clock, duration, absolute)
    if not absolute:
        return await sleep_until(task, deadline, remainder)
    try:
        await wait((), deadline)
    except Interrupted:
        return -ERESTARTNOHAND
    return 0


async def _sleep_cpu(task: Task, read: Callable[[], int], until_ns: int, remainder: UserAddress | None, absolute: bool) -> int:
    queue = WaitQueue()
    timers = CpuTimers.of(task.group)
    timer = CpuTimer(read, until_ns, queue.notify)
    timers.add(timer)
    try:
        await queue.wait()
    except Interrupted:
        if absolute:
            return -ERESTARTNOHAND
        left = until_ns - read()
        if left <= 0:
            return 0
        if remainder:
            write_timespec(task, remainder, left)
        task.restart = partial(_sleep_cpu, task, read, until_ns, remainder, absolute)
        return -ERESTART_RESTARTBLOCK
    finally:
        timers.remove(timer)
    return 0


# -- interval timers ----------------------------------------------------------------------------------------------------------


def _write_itimerval(task: Task, address: UserAddress, value_ns: int, interval_ns: int) -> None:
    value, interval = -(-value_ns // 1000), interval_ns // 1000
    task.copy_out(
        address,
        structs.itimerval.pack(
            it_interval_sec=interval // MICROSECONDS,
            it_interval_usec=interval % MICROSECONDS,
            it_value_sec=value // MICROSECONDS,
            it_value_usec=value % MICROSECONDS,
        ),
    )


@syscall()
def getitimer(task: Task, which: Int, address: UserAddress) -> int:
    """man 2 getitimer"""
    if which not in (ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF):
        raise Errno(EINVAL)
    _write_itimerval(task, address, *IntervalTimers.of(task.group).get(which))
    return 0


@syscall()
def setitimer(task: Task, which: Int, address: UserAddress, old: UserAddress) -> int:
    """man 2 setitimer"""
    value_ns = interval_ns = 0
    if address:
        new = structs.itimerval.unpack(task.copy_in(address, structs.itimerval.SIZE))
        value_ns = _timeval_ns(new.it_value_sec, new.it_value_usec)
        interval_ns = _timeval_ns(new.it_interval_sec, new.it_interval_usec)
    if which not in (ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF):
        raise Errno(EINVAL)
    before = IntervalTimers.of(task.group).set(which, value_ns, interval_ns)
    if old:
        _write_itimerval(task, old, *before)
    return 0


def _timeval_ns(seconds: int, microseconds: int) -> int:
    if seconds < 0 or not 0 <= microseconds < MICROSECONDS:
        raise Errno(EINVAL)
    return seconds * NANOSECONDS + microseconds * 1000


@syscall()
def alarm(task: Task, seconds: UInt) -> int:
    """man 2 alarm"""
    left, _ = IntervalTimers.of(task.group).set(ITIMER_REAL, seconds * NANOSECONDS, 0)
    if not left:
        return 0
    whole, rest = divmod(left, NANOSECONDS)
    return whole + 1 if rest >= NANOSECONDS // 2 or not whole else whole


# -- POSIX timers -------------------------------------------------------------------------------------------------------------


@syscall()
def timer_create(task: Task, clock: Int, event_address: UserAddress, timer_address: UserAddress) -> int:
    """man 2 timer_create"""
    notify, signo, target = SIGEV_SIGNAL, SIGALRM, None
    value: int | None = None
    if clock in _NO_TIMER:
        raise Errno(EOPNOTSUPP)
    if clock in ALARM and not task.credentials.has_capability(CAP_WAKE_ALARM):
        raise Errno(EPERM)
    if event_address:
        event = structs.sigevent.unpack(task.copy_in(event_address, structs.sigevent.SIZE))
        notify, signo, value = event.sigev_notify, event.sigev_signo, event.sigev_value
        if notify not in (SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID):
            raise Errno(EINVAL)
        if notify != SIGEV_NONE and not 1 <= signo <= NSIG:
            raise Errno(EINVAL)
        if notify == SIGEV_THREAD_ID:
            target = task.group.tasks.get(event.sigev_tid)
            if target is None:
                raise Errno(EINVAL)
    timers = PosixTimers.of(task.group)
    timer = timers.create(task, clock, notify, signo, value, target)
    try:
        task.copy_out(timer_address, timer.timer_id.to_bytes(4, "little"))
    except BaseException:
        timers.delete(timer.timer_id)
        raise
    return 0


def _timer(task: Task, timer_id: int) -> PosixTimer:
    return PosixTimers.of(task.group).get(timer_id)


def _write_itimerspec(task: Task, address: UserAddress, value_ns: int, interval_ns: int) -> None:
    task.copy_out(
        address,
        structs.itimerspec.pack(
            it_interval_sec=interval_ns // NANOSECONDS,
            it_interval_nsec=interval_ns % NANOSECONDS,
            it_value_sec=value_ns // NANOSECONDS,
            it_value_nsec=value_ns % NANOSECONDS,
        ),
    )


@syscall()
def timer_settime(task: Task, timer_id: Int, flags: Flags, address: UserAddress, old: UserAddress) -> int:
    """man 2 timer_settime"""
    if not address:
        raise Errno(EINVAL)
    new = structs.itimerspec.unpack(task.copy_in(address, structs.itimerspec.SIZE))
    value_ns = _timespec_ns(new.it_value_sec, new.it_value_nsec)
    interval_ns = _timespec_ns(new.it_interval_sec, new.it_interval_nsec)
    before = _timer(task, timer_id).set(value_ns, interval_ns, bool(flags & TIMER_ABSTIME))
    if old:
        _write_itimerspec(task, old, *before)
    return 0


@syscall()
def timer_gettime(task: Task, timer_id: Int, address: UserAddress) -> int:
    """man 2 timer_gettime"""
    _write_itimerspec(task, address, *_timer(task, timer_id).get())
    return 0


@syscall()
def timer_getoverrun(task: Task, timer_id: Int) -> int:
    """man 2 timer_getoverrun"""
    return max(_timer(task, timer_id).overrun_last, 0)


@syscall()
def timer_delete(task: Task, timer_id: Int) -> int:
    """man 2 timer_delete"""
    PosixTimers.of(task.group).delete(timer_id)
    return 0
