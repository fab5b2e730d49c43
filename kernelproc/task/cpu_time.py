"""CPU time of guest threads, read from the host threads that run them.

A task's time is what earlier host threads spent for it (before an exec, say) plus what the present one has spent since it got it.
``attach``, ``borrow`` and ``detach`` mark those moments, ``retire`` hands an ended thread's time to its group. ``publish`` tells the shared region
which host thread it is, so that the tools can read its time from the host by themselves.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.uapi.time import CLOCKS_PER_SEC

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Slot
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.task.thread_group import ThreadGroup

USER_HZ = 100  # clock ticks a second in times(2), /proc/PID/stat and siginfo
NANOSECONDS = 1_000_000_000
TICK_NS = NANOSECONDS // USER_HZ
CPUCLOCK_SCHED = 2  # clock ids of other processes: linux/posix-timers.h
LOOK_AGAIN_NS = 50_000_000
_NEVER = 1 << 62  # a base that no reading passes

assert CLOCKS_PER_SEC == 1_000_000


class TaskCpuTime:
    """A task's account, in ``task.expando``: what ended host threads spent for it, and the reading of the present one when it was
    attached.
    """

    __slots__ = ("base_system_ns", "base_user_ns", "system_ns", "user_ns")

    def __init__(self) -> None:
        self.user_ns = 0
        self.system_ns = 0
        self.base_user_ns = 0
        self.base_system_ns = 0


def nanoseconds_to_ticks(nanoseconds: int) -> int:
    """Clock ticks of USER_HZ."""
    return nanoseconds // TICK_NS


def _account(task: Task) -> TaskCpuTime:
    account = task.expando.get(TaskCpuTime)
    if account is None:
        account = task.expando[TaskCpuTime] = TaskCpuTime()
    return account


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1024)
    except OSError:
        return b""  # it ended between open and read
    finally:
        os.close(fd)


def _host_thread_time(slot: Slot) -> tuple[int, int]:
    """(user, system) nanoseconds of a host thread: the scheduler's exact sum, split as the sampled ticks are."""
    pid, tid = slot.stub.pid, slot.tid
    if slot.index == 0 and slot.stub.tag.slots.only_first:
        # It has never had another thread, so the clock of the process tells as much, in a twentieth of the time.
        try:
            total = time.clock_gettime_ns(~pid << 3 | CPUCLOCK_SCHED)
        except OSError:
            total = -1  # it ended
        if 0 <= total < TICK_NS:
            return total, 0
    directory = f"/proc/{pid}/task/{tid}/"
    schedstat = _read(directory + "schedstat").split()
    total = int(schedstat[0]) if schedstat else -1
    if 0 <= total < TICK_NS:
        return total, 0  # too short to have been sampled
    stat = _read(directory + "stat")
    if not stat:
        return max(total, 0), 0
    fields = stat[stat.rfind(b")") + 2 :].split()
    user, system = int(fields[11]), int(fields[12])
    if total < 0:
        return user * TICK_NS, system * TICK_NS
    if not user + system:
        return total, 0
    system_ns = total * system // (user + system)
    return total - system_ns, system_ns


def thread_cpu_time(task: Task) -> tuple[int, int]:
    """(user, system) nanoseconds of one guest thread."""
    account, slot = _account(task), task.slot
    if slot is None:
        return account.user_ns, account.system_ns
    user, system = _host_thread_time(slot)
    return account.user_ns + max(user - account.base_user_ns, 0), account.system_ns + max(system - account.base_system_ns, 0)


def thread_cpu_ns(task: Task) -> int:
    """CLOCK_THREAD_CPUTIME_ID."""
    return sum(thread_cpu_time(task))


def group_cpu_time(group: ThreadGroup) -> tuple[int, int]:
    """(user, system) nanoseconds of a process, its ended threads included."""
    user, system = group.usage_user_ns, group.usage_system_ns
    for task in group.tasks.values():
        thread_user, thread_system = thread_cpu_time(task)
        user += thread_user
        system += thread_system
    return user, system


def group_cpu_ns(group: ThreadGroup) -> int:
    """CLOCK_PROCESS_CPUTIME_ID."""
    return sum(group_cpu_time(group))


def attach(task: Task) -> None:
    """``task`` has got ``task.slot``, whose host thread has worked for others before."""
    account, slot = _account(task), task.slot
    if slot is not None:
        account.base_user_ns, account.base_system_ns = _host_thread_time(slot)
    publish(task)


def publish(task: Task) -> None:
    """Write ``task``'s host thread to its row. A thread that is just being made has no number yet: it is looked up a little later."""
    slot, row = task.slot, task.counters
    if slot is None or task.exited:
        return
    account = task.expando.get(TaskCpuTime)
    offset = 0 if account is None else account.user_ns + account.system_ns - account.base_user_ns - account.base_system_ns
    row[TaskWord.CPU_OFFSET] = offset & 0xFFFFFFFFFFFFFFFF
    tid = 0 if task.borrowed_from is not None else slot.tid
    row[TaskWord.HOST_THREAD] = slot.stub.pid << 32 | tid
    if tid == 0 and task.borrowed_from is None:
        task.kernel.expando.get(UnnumberedThreads).add(task)


class UnnumberedThreads:
    """Tasks whose host threads are being made; in ``kernel.expando``. One timer serves them all, ever more rarely while none gets its number."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._delay_ns = LOOK_AGAIN_NS

    def add(self, task: Task) -> None:
        if not self._tasks:
            task.kernel.engine.call_later(self._delay_ns, self._look)
        self._tasks.append(task)

    def _look(self) -> None:
        tasks, self._tasks = self._tasks, []
        self._delay_ns = min(2 * self._delay_ns, LOOK_AGAIN_NS << 8)
        for task in tasks:
            publish(task)
        if len(self._tasks) < len(tasks):
            self._delay_ns = LOOK_AGAIN_NS


def borrow(task: Task) -> None:
    """``task`` has got another task's host thread for a moment (vfork), which goes on counting for its owner."""
    account = _account(task)
    account.base_user_ns = account.base_system_ns = _NEVER


def detach(task: Task) -> None:
    """``task`` is about to give up ``task.slot``; the next one, if any, is fresh."""
    account = _account(task)
    account.user_ns, account.system_ns = thread_cpu_time(task)
    account.base_user_ns = account.base_system_ns = 0


def retire(task: Task) -> None:
    """``task`` is ending, and about to give up ``task.slot``: its time becomes its group's."""
    user, system = thread_cpu_time(task)
    task.group.usage_user_ns += user
    task.group.usage_system_ns += system
    account = _account(task)
    account.user_ns = account.system_ns = 0
    account.base_user_ns = account.base_system_ns = _NEVER
