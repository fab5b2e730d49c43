"""The clocks that programs can name: their readings and how sleepers and timers translate them to the engine's monotonic time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from polynix.kernelproc.clock import AlarmDeadline, BoottimeDeadline
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.task.cpu_time import group_cpu_ns, group_cpu_time, thread_cpu_ns, thread_cpu_time
from polynix.kernelproc.uapi.errno import EINVAL
from polynix.kernelproc.uapi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
    CLOCK_REALTIME_COARSE,
    CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from polynix.kernelproc.clock import Clock
    from polynix.kernelproc.task.task import Task

NANOSECONDS = 1_000_000_000
FOREVER_NS = (1 << 63) - 1  # KTIME_MAX

_REALTIME = (CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_REALTIME_ALARM)
_MONOTONIC = (CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE)
_BOOTTIME = (CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM)
COARSE = (CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE)
STOPPING = (CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW)  # during a suspend
ALARM = (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM)

# A dynamic CPU clock (clock_getcpuclockid, pthread_getcpuclockid): the inverted pid above three bits.
_CPU_CLOCK_KIND = 3  # 0: user and system, 1: user, 2: what the scheduler counts
_CPU_CLOCK_THREAD = 4
_PROF, _VIRTUAL, _SCHED = 0, 1, 2


def wall_clock_ns(clock: Clock, which: int) -> int | None:
    """The reading of a clock that is not a CPU clock, None when ``which`` is no such clock."""
    if which in _REALTIME:
        return clock.realtime_ns()
    if which in _MONOTONIC:
        return clock.monotonic_ns()
    if which in _BOOTTIME:
        return clock.boottime_ns()
    if which == CLOCK_MONOTONIC_RAW:
        return clock.monotonic_ns() + time.clock_gettime_ns(CLOCK_MONOTONIC_RAW) - time.clock_gettime_ns(CLOCK_MONOTONIC)
    if which == CLOCK_TAI:
        offset = time.clock_gettime_ns(CLOCK_TAI) - time.clock_gettime_ns(CLOCK_REALTIME)
        return clock.realtime_ns() + (offset + NANOSECONDS // 2) // NANOSECONDS * NANOSECONDS
    return None


def cpu_clock(task: Task, which: int) -> Callable[[], int] | None:
    """What reads CPU clock ``which`` for ``task``; None when it is no CPU clock.

    Errors: EINVAL for a process or thread it can't name.
    """
    if which == CLOCK_PROCESS_CPUTIME_ID:
        group = task.group
        return lambda: group_cpu_ns(group)
    if which == CLOCK_THREAD_CPUTIME_ID:
        return lambda: thread_cpu_ns(task)
    if which >= 0:
        return None
    kind = which & _CPU_CLOCK_KIND
    if kind > _SCHED:
        raise Errno(EINVAL)  # a clock behind a descriptor: there are none
    pid = ~(which >> 3)
    pids = task.kernel.pids
    if which & _CPU_CLOCK_THREAD:
        thread = pids.tasks.get(pid) if pid else task
        if thread is None or thread.group is not task.group:
            raise Errno(EINVAL)
        if kind == _VIRTUAL:
            return lambda: thread_cpu_time(thread)[0]
        return lambda: thread_cpu_ns(thread)
    process = pids.thread_groups.get(pid) if pid and pid != task.tid else task.group
    if process is None:
        raise Errno(EINVAL)
    if kind == _VIRTUAL:
        return lambda: group_cpu_time(process)[0]
    return lambda: group_cpu_ns(process)


def read_clock(task: Task, which: int) -> int:
    """Nanoseconds of clock ``which``. Errors: EINVAL."""
    reading = wall_clock_ns(task.kernel.clock, which)
    if reading is None:
        read = cpu_clock(task, which)
        if read is None:
            raise Errno(EINVAL)
        reading = read()
    return reading


def timer_clock(which: int, absolute: bool) -> int:
    """The clock that a timer of ``which`` runs on: as in Linux, relative times of CLOCK_REALTIME are CLOCK_MONOTONIC's."""
    return CLOCK_MONOTONIC if which == CLOCK_REALTIME and not absolute else which


def deadline_of(clock: Clock, which: int, value_ns: int, absolute: bool) -> int:
    """What the engine must wait for when someone waits for ``value_ns`` of wall clock ``which`` (relative unless ``absolute``): a time of
    CLOCK_MONOTONIC, or a BoottimeDeadline for the clocks that go on during a suspend.
    """
    which = timer_clock(which, absolute)
    monotonic = which == CLOCK_MONOTONIC
    now = clock.monotonic_ns() if monotonic else clock.boottime_ns()
    if not absolute:
        value_ns += now
    elif not monotonic and which not in _BOOTTIME:
        reading = wall_clock_ns(clock, which)
        assert reading is not None
        value_ns += now - reading
    deadline = min(value_ns, FOREVER_NS)
    if monotonic:
        return deadline
    return AlarmDeadline(deadline) if which in ALARM else BoottimeDeadline(deadline)
