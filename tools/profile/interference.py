"""What programs do to each other's speed: each alone, against together with each other one, and how fairly all share.

Two measurements. *Windows*, for the processes of a container that runs: all but one, or all but two, are held for a moment, and progress (CPU time and
system calls) and the 99th percentile of system call latency in that moment are compared. *Whole runs*, for independent commands: a command's duration alone
against its duration while another one runs again and again in the same container.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from polynix.runner.container import Container
from polynix.runner.process import Process
from polynix.runner.streams import DEVNULL
from polynix.tools.inspection import Inspection
from polynix.tools.profile.accounts import process_rows, thread_rows
from polynix.tools.profile.hold import held
from polynix.tools.profile.latency import merged, summary
from polynix.tools.profile.waits import fairness

SETTLE_SECONDS = 0.02  # after a hold begins, what was on its way to the kernel is answered
BUSIEST = 6  # processes of a running container that are measured
IDLE_NS = 1_000_000  # CPU time in a window below which a process does not count as working


@dataclass
class Interference:
    """``slow_down[i][j]`` says how many times slower ``labels[i]`` was beside ``labels[j]`` than alone (1: not at all); the diagonal is 1; None where it
    could not be told, as for a process that does nothing alone because it waits for a held one.
    """

    how: str
    labels: list[str]
    slow_down: list[list[float | None]] = field(default_factory=list)
    p99_slow_down: list[list[float | None]] = field(default_factory=list)
    alone: list[dict[str, float]] = field(default_factory=list)
    together: list[float] = field(default_factory=list)  # progress with all the others, of 1 alone
    fairness: float | None = None  # Jain's index of ``together``

    @classmethod
    def empty(cls, how: str, labels: list[str]) -> Interference:
        def matrix() -> list[list[float | None]]:
            return [[1.0 if row == column else None for column in range(len(labels))] for row in range(len(labels))]

        return cls(how, labels, matrix(), matrix())


def _ratio(alone: float, beside: float) -> float | None:
    return alone / beside if alone > 0 and beside > 0 else None


# -- windows of a running container ---------------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """What a process did in one window: CPU ns (user and kernel), system calls, and the latency that 99 of 100 calls stayed below."""

    seconds: float
    work_ns: int
    syscalls: int
    p99_ns: int


def _look(inspection: Inspection) -> tuple[float, dict[int, dict[str, Any]], dict[int, dict[int, int]]]:
    snapshot = inspection.request("profile")
    rows = {row["pid"]: row for row in process_rows(snapshot, thread_rows(snapshot))}
    buckets = {process["pid"]: merged(call["histogram"] for call in process["calls"]) for process in snapshot["processes"]}
    return time.monotonic(), rows, buckets


def _window(inspection: Inspection, still: list[int], seconds: float) -> dict[int, _Progress]:
    with held(inspection.kernel_pid, still):
        time.sleep(SETTLE_SECONDS)
        began, before, buckets = _look(inspection)
        time.sleep(seconds)
        ended, after, later = _look(inspection)
    found = {}
    for pid, row in after.items():
        if pid in before:
            work = row["user_ns"] + row["kernel_ns"] - before[pid]["user_ns"] - before[pid]["kernel_ns"]
            fresh = {index: count - buckets[pid].get(index, 0) for index, count in later[pid].items()}
            p99 = summary((index, count) for index, count in fresh.items() if count > 0)["p99_ns"]
            found[pid] = _Progress(ended - began, work, row["syscalls"] - before[pid]["syscalls"], p99)
    return found


def _speed(progress: _Progress | None) -> float:
    """System calls a second of a process that makes some, else CPU time a second."""
    if progress is None or (progress.work_ns < IDLE_NS and progress.syscalls < 2):
        return 0.0
    return (progress.syscalls if progress.syscalls >= 20 else progress.work_ns) / progress.seconds


def measure_windows(kernel_pid: int, seconds: float) -> Interference:
    """The busiest processes of a running container that is being profiled, each alone, in pairs, and all together. Errors: NoKernel."""
    with Inspection(kernel_pid) as inspection:
        _, before, _ = _look(inspection)
        time.sleep(seconds)
        _, after, _ = _look(inspection)
        everybody = [pid for space in inspection.request("maps") for pid in space["pids"]]
        work = {pid: row["user_ns"] + row["kernel_ns"] - before[pid]["user_ns"] - before[pid]["kernel_ns"] for pid, row in after.items() if pid in before}
        chosen = sorted((pid for pid in everybody if work.get(pid, 0) >= IDLE_NS), key=lambda pid: -work[pid])[:BUSIEST]
        result = Interference.empty(f"windows of {seconds:g} s, the others held", [f"{pid} {after[pid]['comm']}" for pid in chosen])

        def run(*pids: int) -> dict[int, _Progress]:
            return _window(inspection, [pid for pid in everybody if pid not in pids], seconds)

        alone = {pid: run(pid).get(pid) for pid in chosen}
        for row, one in enumerate(chosen):
            single = alone[one]
            if single is None:
                result.alone.append({})
            else:
                rates = {"syscalls_per_second": single.syscalls / single.seconds, "cpu": single.work_ns / single.seconds / 1e9}
                result.alone.append({**rates, "p99_ns": single.p99_ns})
            for column in range(row + 1, len(chosen)):
                two = chosen[column]
                pair = run(one, two)
                for first, second, pid in ((row, column, one), (column, row, two)):
                    by_itself, beside = alone[pid], pair.get(pid)
                    result.slow_down[first][second] = _ratio(_speed(by_itself), _speed(beside))
                    if by_itself is not None and beside is not None and by_itself.p99_ns and beside.p99_ns:
                        result.p99_slow_down[first][second] = beside.p99_ns / by_itself.p99_ns
        everyone = _window(inspection, [], seconds)
        result.together = [_speed(everyone.get(pid)) / _speed(alone[pid]) if _speed(alone[pid]) else 0.0 for pid in chosen]
        result.fairness = fairness(result.together) if len(chosen) > 1 else None
        return result


# -- whole runs -----------------------------------------------------------------------------------------------------------------------------


class _Again:
    """A command that runs again whenever it ends, until told to stop."""

    def __init__(self, container: Container, command: list[str]) -> None:
        self.container = container
        self.command = command
        self.process = self._start()

    def _start(self) -> Process:
        return self.container.spawn(self.command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)

    def tick(self) -> None:
        if self.process.poll() is not None:
            self.process = self._start()


def _whole_run(make: Callable[[], Container], command: list[str], beside: list[list[str]]) -> tuple[float, int]:
    """(seconds, p99 of its system calls in ns) of ``command`` while others run."""
    with make() as container:
        others = [_Again(container, other) for other in beside]
        with Inspection(container.kernel_pid) as inspection:
            began = time.monotonic()
            process = container.spawn(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            while process.poll() is None:
                for other in others:
                    other.tick()
                try:
                    process.wait(0.01)
                except subprocess.TimeoutExpired:
                    continue
            seconds = time.monotonic() - began
            snapshot = inspection.request("profile")
    parents = {each["pid"]: each["ppid"] for each in snapshot["processes"]}

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != process.pid:
            pid = parents[pid]
        return pid == process.pid

    calls = [call["histogram"] for each in snapshot["processes"] if is_ours(each["pid"]) for call in each["calls"]]
    return seconds, int(summary(merged(calls).items())["p99_ns"])


def measure_runs(make: Callable[[], Container], commands: list[list[str]]) -> Interference:
    """Independent commands as whole runs; ``make`` gives a fresh container that is profiled. Errors: ContainerError, OSError of a command."""
    result = Interference.empty("whole runs", [" ".join(command) for command in commands])
    alone = [_whole_run(make, command, []) for command in commands]
    result.alone = [{"seconds": seconds, "p99_ns": p99} for seconds, p99 in alone]
    for row, command in enumerate(commands):
        for column, other in enumerate(commands):
            if row != column:
                seconds, p99 = _whole_run(make, command, [other])
                result.slow_down[row][column] = seconds / alone[row][0]
                result.p99_slow_down[row][column] = p99 / alone[row][1] if alone[row][1] else None
        others = [other for column, other in enumerate(commands) if column != row]
        if len(commands) > 2:
            result.together.append(alone[row][0] / _whole_run(make, command, others)[0])
        elif len(commands) == 2:
            slow = result.slow_down[row][1 - row]
            result.together.append(1 / slow if slow else 0.0)
    result.fairness = fairness(result.together) if len(commands) > 1 else None
    return result
