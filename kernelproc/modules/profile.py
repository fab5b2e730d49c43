"""``--feature profile``: where the time of every thread goes, who waits for whom, and what memory was copied; read by ``polynix profile``.

An observer of system calls, parks and wake-ups. Per thread it keeps time in the kernel and time blocked, per process latency histograms by system call, and
for the wait graph how long each thread waited for which object until whom. What the host's scheduler knows (CPU time, waits for a CPU, faults, context
switches) is left to the host's accounting: only host threads that end are read here, as their accounts end with them. Everything is bounded: what comes
after the bound is counted in one place named ``…``.

Requests of the inspector: ``profile`` (a snapshot), ``profile.start`` and ``profile.stop`` (for a kernel that runs already).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.host_accounting import COUNTERS, with_switches
from polynix.kernelproc.inspector import requests
from polynix.kernelproc.inspector.waiting import NAMES, wait_object
from polynix.kernelproc.latency_buckets import bucket_index
from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.registry import modules
from polynix.kernelproc.task.cpu_time import TaskCpuTime
from polynix.kernelproc.uapi.unistd import SYSCALLS

if TYPE_CHECKING:
    from polynix.addrspace.memory_manager import MemoryManager
    from polynix.kernelproc.engine import Routine
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

MAX_ENDED = 4000  # ended threads that are kept one by one
MAX_WAITS = 20_000  # edges of the wait graph
REST = "…"
EXECS = frozenset((SYSCALLS["execve"], SYSCALLS["execveat"]))
ZERO = (0,) * len(COUNTERS)

Waker = tuple[str, int, int]  # "task", pid, tid; or what else ended the wait ("host" for time and host files, "signal", "kernel"), 0, 0


class CallProfile:
    """One system call of one process."""

    __slots__ = ("calls", "errors", "histogram", "longest_ns", "total_ns")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.total_ns = 0
        self.longest_ns = 0
        self.histogram: dict[int, int] = {}  # latency bucket -> calls

    def add(self, elapsed: int, failed: bool) -> None:
        self.calls += 1
        self.errors += failed
        self.total_ns += elapsed
        if elapsed > self.longest_ns:
            self.longest_ns = elapsed
        index = bucket_index(elapsed)
        self.histogram[index] = self.histogram.get(index, 0) + 1


class ProcessProfile:
    """One process: its calls, and the bytes that were copied for it."""

    __slots__ = ("calls", "comm", "copied_bytes", "pid", "ppid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ppid = 0
        self.comm = ""
        self.calls: dict[int, CallProfile] = {}
        self.copied_bytes = 0  # into address spaces that it has left


class ThreadProfile:
    """One thread. Times are ns of CLOCK_MONOTONIC; ``entered`` and ``parked`` are 0 when it is not in a call, or not blocked."""

    __slots__ = (
        "base", "blocked_in_call", "blocked_ns", "born", "call", "comm", "ended", "entered", "host", "host_thread", "kernel_ns", "leaving", "mm", "object",
        "parked", "pid", "process", "syscalls", "tid", "wakeups",
    )  # fmt: skip

    def __init__(self, task: Task, process: ProcessProfile, now: int) -> None:
        self.pid = task.group.pid
        self.tid = task.tid
        self.comm = ""
        self.process = process
        self.born = now
        self.ended = 0
        self.entered = 0
        self.parked = 0
        self.blocked_in_call = 0
        self.object = ""
        self.call: tuple[int, ...] = ()
        self.kernel_ns = 0
        self.blocked_ns = 0
        self.syscalls = 0
        self.wakeups = 0
        self.host: tuple[int, ...] = ZERO  # COUNTERS of host threads that it has had and left
        self.base: tuple[int, ...] = ZERO  # of the present one when it got it
        self.leaving: tuple[int, ...] = ZERO  # of the present one when an exec began
        self.host_thread = (0, 0)
        self.mm: MemoryManager | None = None


def _minus(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(first - second, 0) for first, second in zip(left, right, strict=True))


def _plus(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(first + second for first, second in zip(left, right, strict=True))


def _host_thread(task: Task) -> tuple[int, int]:
    slot = task.slot
    return (0, 0) if slot is None or task.borrowed_from is not None else (slot.stub.pid, slot.tid)


def _host_numbers(thread: tuple[int, int]) -> tuple[int, ...]:
    account = with_switches(*thread) if thread[1] else None
    return ZERO if account is None else account.numbers()


class Profiler(SyscallObserver):
    """Watches one kernel from its making on."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.clock = time.monotonic_ns
        self.started_ns = self.clock()
        self.kernel_cpu_at_start = time.process_time_ns()
        self.threads: dict[Task, ThreadProfile] = {}
        self.ended: list[ThreadProfile] = []
        self.rest: ThreadProfile | None = None  # ended threads beyond MAX_ENDED, all together
        self.merged = 0
        self.processes: dict[int, ProcessProfile] = {}
        self.waits: dict[tuple[int, int, str, Waker], list[int]] = {}  # count, total ns, longest ns
        for task in list(kernel.pids.tasks.values()):
            if not task.group.is_kernel and not task.exited:
                thread = self._thread(task)
                thread.base = _host_numbers(thread.host_thread)
                self._copied(thread, task, since=True)
                if task.routine is not None and task.routine.parked:
                    thread.entered = thread.parked = self.started_ns
                    thread.call = task.current_syscall
                    thread.object = wait_object(task, thread.call)
        kernel.syscall_observers.append(self)
        kernel.engine.on_wake = self.woken

    # -- what happens -----------------------------------------------------------------------------------------------------------------------

    def _thread(self, task: Task) -> ThreadProfile:
        thread = self.threads.get(task)
        if thread is None:
            pid = task.group.pid
            process = self.processes.get(pid)
            if process is None:
                process = self.processes[pid] = ProcessProfile(pid)
                process.ppid = task.group.parent.pid if task.group.parent is not None else 0
            thread = self.threads[task] = ThreadProfile(task, process, self.clock())
            thread.host_thread = _host_thread(task)
            account = task.expando.get(TaskCpuTime)
            if account is not None and account.base_user_ns and thread.host_thread[1]:
                thread.base = _host_numbers(thread.host_thread)  # the host thread has worked for others
            thread.mm = task.mm if task.borrowed_from is None else None
        return thread

    def started(self, task: Task, argv: list[bytes], env: list[bytes]) -> None:
        self._thread(task)

    def enter(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        thread = self.threads.get(task) or self._thread(task)
        thread.syscalls += 1
        thread.call = (number, *arguments)
        thread.blocked_in_call = 0
        if number in EXECS:
            thread.leaving = _host_numbers(_host_thread(task))
        thread.entered = self.clock()

    def blocked(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        thread = self.threads.get(task)
        if thread is not None and thread.entered:
            thread.parked = self.clock()
            thread.object = wait_object(task, thread.call)

    def woken(self, routine: Routine, interrupted: bool) -> None:
        """A parked routine goes on. It may park again at once (a reader that another one beat to it); that is a second wait."""
        task = routine.owner
        thread = self.threads.get(task) if task is not None else None
        if thread is None or not thread.parked:
            return
        now = self.clock()
        waited = now - thread.parked
        thread.parked = now
        thread.blocked_ns += waited
        thread.blocked_in_call += waited
        thread.wakeups += 1
        self._count_wait(thread, "signal" if interrupted else "", waited)

    def _count_wait(self, thread: ThreadProfile, kind: str, waited: int) -> None:
        routine = self.kernel.engine.current
        task = routine.owner if routine is not None else self.kernel.loop.current
        if task is not None:
            waker: Waker = ("task", task.group.pid, task.tid)  # of a signal, too, the sender
        else:
            waker = (kind or ("kernel" if routine is not None else "host"), 0, 0)
        key = (thread.pid, thread.tid, thread.object, waker)
        edge = self.waits.get(key)
        if edge is None:
            if len(self.waits) >= MAX_WAITS:
                key = (0, 0, REST, ("", 0, 0))
            edge = self.waits.setdefault(key, [0, 0, 0])
        edge[0] += 1
        edge[1] += waited
        if waited > edge[2]:
            edge[2] = waited

    def leave(self, task: Task, number: int, arguments: tuple[int, ...], result: int | None) -> None:
        thread = self.threads.get(task)
        if thread is None or not thread.entered:
            return
        elapsed = self.clock() - thread.entered
        thread.entered = thread.parked = 0
        thread.object = ""
        thread.kernel_ns += max(elapsed - thread.blocked_in_call, 0)
        self._count_call(thread, elapsed, result is not None and -4096 < result < 0)
        if number in EXECS and result is None:
            self._left_host_thread(thread, task, thread.leaving)
            self._copied(thread, task)

    def _count_call(self, thread: ThreadProfile, elapsed: int, failed: bool) -> None:
        number = thread.call[0]
        call = thread.process.calls.get(number)
        if call is None:
            call = thread.process.calls[number] = CallProfile()
        call.add(elapsed, failed)

    def _left_host_thread(self, thread: ThreadProfile, task: Task, numbers: tuple[int, ...]) -> None:
        if thread.host_thread[1]:
            thread.host = _plus(thread.host, _minus(numbers, thread.base))
        thread.base = ZERO
        thread.host_thread = _host_thread(task)

    def _copied(self, thread: ThreadProfile, task: Task, since: bool = False) -> None:
        """The thread has another address space than before, or the profile begins."""
        if since:
            thread.process.copied_bytes = -task.mm.copied_bytes
        elif thread.mm is not None and thread.mm is not task.mm:
            thread.process.copied_bytes += thread.mm.copied_bytes
        thread.mm = task.mm

    def exited(self, task: Task, status: int) -> None:
        thread = self.threads.pop(task, None)
        if thread is None:
            return
        now = self.clock()
        if thread.entered:
            blocked = now - thread.parked if thread.parked else 0
            thread.blocked_ns += blocked
            thread.kernel_ns += max(now - thread.entered - thread.blocked_in_call - blocked, 0)
            self._count_call(thread, now - thread.entered, False)  # it never leaves: exit itself, or a wait that was ended with the task
            thread.entered = thread.parked = 0
        where = _host_thread(task)
        if where[1]:
            if thread.host_thread[1] in (0, where[1]):
                thread.host_thread = where
            thread.host = _plus(thread.host, _minus(_host_numbers(where), thread.base))
        if thread.tid == thread.pid and thread.mm is not None and task.borrowed_from is None:
            thread.process.copied_bytes += thread.mm.copied_bytes
        thread.comm = task.comm.decode(errors="replace")
        thread.process.comm = thread.process.comm or thread.comm
        thread.base, thread.host_thread, thread.mm, thread.ended = ZERO, (0, 0), None, now
        if len(self.ended) < MAX_ENDED:
            self.ended.append(thread)
        else:
            self._merge(thread)

    def _merge(self, thread: ThreadProfile) -> None:
        self.merged += 1
        rest = self.rest
        if rest is None:
            rest = self.rest = thread
            rest.pid = rest.tid = 0
            rest.comm = REST
        else:
            for name in ("kernel_ns", "blocked_ns", "syscalls", "wakeups"):
                setattr(rest, name, getattr(rest, name) + getattr(thread, name))
            rest.host = _plus(rest.host, thread.host)
            rest.ended = thread.ended
        self._merge_process(thread.process)

    def _merge_process(self, process: ProcessProfile) -> None:
        """Of processes of which only merged threads are left, one is made, too."""
        if process.pid == 0 or any(thread.process is process for thread in self.threads.values()) or self.processes.get(process.pid) is not process:
            return
        del self.processes[process.pid]
        rest = self.processes.setdefault(0, ProcessProfile(0))
        rest.comm = REST
        rest.copied_bytes += process.copied_bytes
        for number, call in process.calls.items():
            into = rest.calls.setdefault(number, CallProfile())
            into.calls += call.calls
            into.errors += call.errors
            into.total_ns += call.total_ns
            into.longest_ns = max(into.longest_ns, call.longest_ns)
            for index, count in call.histogram.items():
                into.histogram[index] = into.histogram.get(index, 0) + count

    # -- what it shows ----------------------------------------------------------------------------------------------------------------------

    def snapshot(self, histograms: bool = True) -> dict[str, Any]:
        """Everything so far; times in ns. ``host`` of a thread lacks what its present host thread has used since ``base``, which whoever asks can read."""
        now = self.clock()
        for task in list(self.kernel.pids.tasks.values()):
            if not task.group.is_kernel and not task.exited:
                self._thread(task)  # even if it has made no call yet
        threads = [self._describe(thread, None, now) for thread in ([self.rest] if self.rest is not None else []) + self.ended]
        threads += [self._describe(thread, task, now) for task, thread in self.threads.items()]
        return {
            "elapsed_ns": now - self.started_ns,
            "time_ns": now,
            "kernel_cpu_ns": time.process_time_ns() - self.kernel_cpu_at_start,
            "threads": threads,
            "merged_threads": self.merged,
            "processes": [self._describe_process(process, histograms) for process in self.processes.values()],
            "waits": [
                {"pid": pid, "tid": tid, "object": name, "waker": kind, "waker_pid": waker_pid, "waker_tid": waker_tid, "count": count, "total_ns": total,
                 "longest_ns": longest}
                for (pid, tid, name, (kind, waker_pid, waker_tid)), (count, total, longest) in self.waits.items()
            ],
        }  # fmt: skip

    def _describe(self, thread: ThreadProfile, task: Task | None, now: int) -> dict[str, Any]:
        kernel_ns, blocked_ns = thread.kernel_ns, thread.blocked_ns
        if thread.entered:
            blocked = now - thread.parked if thread.parked else 0
            blocked_ns += blocked
            kernel_ns += max(now - thread.entered - thread.blocked_in_call - blocked, 0)
        if task is not None and thread.host_thread[1] == 0:
            thread.host_thread = _host_thread(task)
        return {
            "pid": thread.pid,
            "tid": thread.tid,
            "comm": thread.comm if task is None else task.comm.decode(errors="replace"),
            "alive": task is not None,
            "born_ns": thread.born - self.started_ns,
            "elapsed_ns": (thread.ended or now) - thread.born,
            "kernel_ns": kernel_ns,
            "blocked_ns": blocked_ns,
            "blocked_on": thread.object if thread.parked else "",
            "syscalls": thread.syscalls,
            "guest_faults": 0 if task is None else int(task.counters[TaskWord.FAULTS]),
            "wakeups": thread.wakeups,
            "host_pid": thread.host_thread[0],
            "host_tid": thread.host_thread[1],
            "host": dict(zip(COUNTERS, thread.host, strict=True)),
            "base": dict(zip(COUNTERS, thread.base, strict=True)),
        }

    def _describe_process(self, process: ProcessProfile, histograms: bool) -> dict[str, Any]:
        group = self.kernel.pids.thread_groups.get(process.pid)
        copied = process.copied_bytes
        if group is not None and not group.exited:
            process.comm = group.leader.comm.decode(errors="replace")
            process.ppid = group.parent.pid if group.parent is not None else 0
            copied += next((task.mm.copied_bytes for task in group.tasks.values()), 0)
        return {
            "pid": process.pid,
            "ppid": process.ppid,
            "comm": process.comm,
            "copied_bytes": max(copied, 0),
            "calls": [
                {
                    "name": NAMES.get(number, str(number)),
                    "number": number,
                    "calls": call.calls,
                    "errors": call.errors,
                    "total_ns": call.total_ns,
                    "longest_ns": call.longest_ns,
                    "histogram": sorted(call.histogram.items()) if histograms else [],
                }
                for number, call in process.calls.items()
            ],
        }

    def stop(self) -> None:
        """Watch no longer."""
        self.kernel.syscall_observers.remove(self)
        self.kernel.engine.on_wake = None
        self.threads.clear()


class ProfilerSlot:
    """The kernel's profiler, if there is one; in ``kernel.expando``."""

    def __init__(self) -> None:
        self.profiler: Profiler | None = None


def start(kernel: Kernel) -> Profiler:
    """The kernel's profiler, made if there is none."""
    slot = kernel.expando.get(ProfilerSlot)
    if slot.profiler is None:
        slot.profiler = Profiler(kernel)
    return slot.profiler


@modules.module("profile")
def initialise(kernel: Kernel, arguments: str) -> None:
    """``profile``: from boot on."""
    start(kernel)


@requests.handler("profile.start")
def start_request(kernel: Kernel, arguments: dict[str, Any]) -> bool:
    """True when this request started it: whoever did stops it."""
    running = kernel.expando.get(ProfilerSlot).profiler is not None
    start(kernel)
    return not running


@requests.handler("profile.stop")
def stop_request(kernel: Kernel, arguments: dict[str, Any]) -> None:
    """Stop watching; what was seen is forgotten."""
    slot = kernel.expando.get(ProfilerSlot)
    if slot.profiler is not None:
        slot.profiler.stop()
        slot.profiler = None


@requests.handler("profile")
def snapshot_request(kernel: Kernel, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """What was seen so far; None when nobody watches. ``histograms`` of the arguments may be false, to spare them."""
    profiler = kernel.expando.get(ProfilerSlot).profiler
    return None if profiler is None else profiler.snapshot(bool(arguments.get("histograms", True)))
