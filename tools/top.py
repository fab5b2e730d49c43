"""``polynix top``: processes and threads of running kernels, live.

Counters come from the shared regions, CPU times and memory from the host's accounting of the restricted processes; nobody asks the kernels anything.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from polynix.kernelproc.host_accounting import host_thread, process_cpu_ns, resident_bytes
from polynix.tools.inspect_kernels import console, print_json
from polynix.tools.selection import NoKernel, selected_kernels

NANOSECONDS = 1_000_000_000


@dataclass
class ThreadLook:
    """One thread between two looks: rates are per second, ``cpu`` and ``runnable`` in percent of one CPU, ``cpu_seconds`` since it began."""

    kernel: int
    pid: int
    tid: int
    ppid: int
    uid: int
    command: str
    state: str
    cpu: float
    runnable: float
    cpu_seconds: float
    syscalls: float
    faults: float
    io: float  # bytes read and written
    memory: int = 0  # bytes resident, of the process
    threads: int = 1
    age: float = 0.0
    host_pid: int = 0
    host_tid: int = 0


@dataclass
class KernelLook:
    """One kernel between two looks."""

    kernel: int
    cpu: float  # percent of one CPU, of the kernel process
    tasks: int
    syscalls: int  # of the living tasks, so far
    memory: int  # bytes resident, of the kernel process
    threads: list[ThreadLook] = field(default_factory=list)


class Sampler:
    """Takes looks; each gives the rates since the one before."""

    def __init__(self, kernel: str | None) -> None:
        self.kernel = kernel
        self._before: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self._kernel_cpu: dict[int, int] = {}
        self._time = 0

    def look(self) -> list[KernelLook]:
        """All selected kernels. Errors: NoKernel when the one that was named is gone."""
        now = time.monotonic_ns()
        elapsed = max(now - self._time, 1)
        first = self._time == 0
        self._time = now
        before, self._before = self._before, {}
        kernel_cpu, self._kernel_cpu = self._kernel_cpu, {}
        looks = []
        for pid, view in selected_kernels(self.kernel):
            cpu = self._kernel_cpu[pid] = process_cpu_ns(pid)
            percent = 0.0 if first else 100 * max(cpu - kernel_cpu.get(pid, cpu), 0) / elapsed
            look = KernelLook(pid, percent, int(view.header["tasks"]), int(sum(int(row["syscalls"]) for row in view.tasks())), resident_bytes(pid))
            for row in view.tasks():
                thread = self._thread(pid, row, before, elapsed)
                if thread is not None:
                    look.threads.append(thread)
            looks.append(look)
        return looks

    def _thread(self, kernel: int, row: Any, before: dict[tuple[int, int, int], tuple[int, ...]], elapsed: int) -> ThreadLook | None:
        host_pid, host_tid = int(row["host_thread"]) >> 32, int(row["host_thread"]) & 0xFFFFFFFF
        host = host_thread(host_pid, host_tid) if host_tid else None
        key = kernel, int(row["tid"]), int(row["start_ns"])
        cpu = (host.cpu_ns if host is not None else 0) + int(row["cpu_offset"])
        now = (max(cpu, 0), host.runnable_ns if host is not None else 0, int(row["syscalls"]), int(row["faults"]), int(row["rchar"]) + int(row["wchar"]))
        self._before[key] = now
        then = before.get(key, now)
        rates = [max(new - old, 0) * NANOSECONDS / elapsed for new, old in zip(now, then, strict=True)]
        return ThreadLook(
            kernel=kernel,
            pid=int(row["pid"]),
            tid=int(row["tid"]),
            ppid=int(row["ppid"]),
            uid=int(row["uid"]),
            command=bytes(row["comm"]).decode(errors="replace"),
            state=host.state if host is not None else "-",
            cpu=100 * rates[0] / NANOSECONDS,
            runnable=100 * rates[1] / NANOSECONDS,
            cpu_seconds=now[0] / NANOSECONDS,
            syscalls=rates[2],
            faults=rates[3],
            io=rates[4],
            memory=resident_bytes(host_pid) if host_pid else 0,
            age=max(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(row["start_ns"]), 0) / NANOSECONDS,
            host_pid=host_pid,
            host_tid=host_tid,
        )


def by_process(threads: list[ThreadLook]) -> list[ThreadLook]:
    """One line a process: sums over its threads, the busiest one's state, the leader's name."""
    processes: dict[tuple[int, int], list[ThreadLook]] = {}
    for thread in threads:
        processes.setdefault((thread.kernel, thread.pid), []).append(thread)
    lines = []
    for members in processes.values():
        members.sort(key=lambda thread: thread.tid != thread.pid)
        line = ThreadLook(**asdict(members[0]))
        line.state = "R" if any(member.state == "R" for member in members) else members[0].state
        for name in ("cpu", "runnable", "cpu_seconds", "syscalls", "faults", "io"):
            setattr(line, name, sum(getattr(member, name) for member in members))
        line.memory = max(member.memory for member in members)
        line.threads = len(members)
        lines.append(line)
    return lines


SORTS = ("cpu", "syscalls", "faults", "io", "memory", "pid")


def _lines(looks: list[KernelLook], threads: bool, sort: str) -> list[ThreadLook]:
    every = [thread for look in looks for thread in look.threads]
    lines = every if threads else by_process(every)
    return sorted(lines, key=lambda line: (getattr(line, sort) if sort == "pid" else -getattr(line, sort), line.kernel, line.tid))


@dataclass(frozen=True)
class Column:
    """A column of the live view. Where there is no room for all, the one with the highest ``spare`` goes first; 0 stays."""

    heading: str
    cell: Callable[[ThreadLook], str]
    spare: int = 0


COLUMNS = (
    Column("KERNEL", lambda line: str(line.kernel), 5),
    Column("PID", lambda line: str(line.pid)),
    Column("TID", lambda line: str(line.tid)),
    Column("THR", lambda line: str(line.threads), 4),
    Column("S", lambda line: line.state),
    Column("CPU%", lambda line: f"{line.cpu:.1f}"),
    Column("WAIT%", lambda line: f"{line.runnable:.1f}", 6),
    Column("TIME", lambda line: f"{line.cpu_seconds:.2f}", 1),
    Column("CALLS/s", lambda line: f"{line.syscalls:.0f}"),
    Column("FAULTS/s", lambda line: f"{line.faults:.0f}", 7),
    Column("IO/s", lambda line: size(line.io), 3),
    Column("RSS", lambda line: size(line.memory), 2),
)
COMMAND_WIDTH = 16  # columns that a command has at least; its name has 15 characters


def columns_for(lines: list[ThreadLook], threads: bool, kernels: int, width: int) -> list[Column]:
    """The columns that fit into ``width`` characters beside the command."""
    columns = [column for column in COLUMNS if column.heading != ("THR" if threads else "TID")]
    widths = {column: max(map(len, [column.heading, *map(column.cell, lines)])) + 1 for column in columns}
    while sum(widths[column] for column in columns) + COMMAND_WIDTH > width and any(column.spare for column in columns):
        columns.remove(max(columns, key=lambda column: (column.heading == "KERNEL" and kernels == 1, column.spare)))  # the only kernel is named above
    return columns


def _render(looks: list[KernelLook], threads: bool, sort: str, most: int | None, width: int) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = [
        f"kernel {look.kernel}: {look.tasks} tasks, {look.cpu:.0f}% CPU in the kernel, {look.syscalls} calls, {size(look.memory)} resident" for look in looks
    ] or ["no polynix kernel runs"]
    lines = _lines(looks, threads, sort)[:most]
    columns = columns_for(lines, threads, len(looks), width)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column.heading, justify="left" if column.heading == "S" else "right", no_wrap=True)
    table.add_column("COMMAND", no_wrap=True)
    for line in lines:
        table.add_row(*(column.cell(line) for column in columns), Text(line.command))
    return Group(*(Text(text, no_wrap=True, overflow="ellipsis") for text in head), table)


def size(number: float) -> str:
    """Bytes in at most five characters."""
    for unit in ("", "K", "M", "G"):
        if number < 1024:
            return f"{number:.0f}{unit}" if not unit or number >= 100 else f"{number:.1f}{unit}"
        number /= 1024
    return f"{number:.1f}T"


def show_top(kernel: str | None, threads: bool, interval: float, count: int | None, sort: str, as_json: bool) -> None:
    """The command. Errors: NoKernel."""
    if sort not in SORTS:
        raise NoKernel(f"cannot sort by {sort!r}: it must be one of {', '.join(SORTS)}")
    sampler = Sampler(kernel)
    sampler.look()
    if as_json:
        time.sleep(interval)
        print_json([asdict(look) for look in sampler.look()])
        return
    output = console()
    if not sys.stdout.isatty():
        for _ in range(count or 1):
            time.sleep(interval)
            output.print(_render(sampler.look(), threads, sort, None, output.width))
        return
    from rich.live import Live

    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C must give the screen back
    with Live(console=output, screen=True, auto_refresh=False) as live:
        shown = 0
        while count is None or shown < count:
            time.sleep(interval if shown else min(interval, 0.3))
            looks = sampler.look()
            live.update(_render(looks, threads, sort, max(output.size.height - len(looks) - 2, 1), output.size.width), refresh=True)
            shown += 1
