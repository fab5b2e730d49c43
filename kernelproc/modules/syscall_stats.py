"""``--feature syscall_stats``: counts, errors and latency of every system call, by name; shown by ``polynix stats``, and at the end on standard error
with ``:print``.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.notes import Notes
from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.registry import modules
from polynix.kernelproc.syscalls.table import names

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

BUCKETS = 32  # of a base-2 logarithmic histogram of microseconds


class SyscallStatistics(SyscallObserver):
    """An observer of all system calls. A call that never returns (exit, a handler's end) is counted without a latency."""

    def __init__(self, kernel: Kernel, print_at_end: bool) -> None:
        self.kernel = kernel
        self.print_at_end = print_at_end
        self.calls: dict[int, list[int]] = {}  # number -> calls, errors, total ns, longest ns
        self.histograms: dict[int, list[int]] = {}
        self._entered: dict[Task, int] = {}

    def enter(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        row = self.calls.setdefault(number, [0, 0, 0, 0])
        row[0] += 1
        self._entered[task] = time.monotonic_ns()
        self.kernel.expando.get(Notes).changed()

    def leave(self, task: Task, number: int, arguments: tuple[int, ...], result: int | None) -> None:
        started = self._entered.pop(task, None)
        if started is None:
            return
        elapsed = time.monotonic_ns() - started
        row = self.calls[number]
        row[1] += result is not None and -4096 < result < 0
        row[2] += elapsed
        row[3] = max(row[3], elapsed)
        histogram = self.histograms.setdefault(number, [0] * BUCKETS)
        histogram[min((elapsed // 1000).bit_length(), BUCKETS - 1)] += 1

    def report(self) -> list[dict[str, Any]]:
        """One row a call, the most expensive in total first; times in µs."""
        rows = [
            {
                "name": names.get(number, str(number)),
                "calls": calls,
                "errors": errors,
                "total_us": total // 1000,
                "mean_us": round(total / calls / 1000, 1),
                "max_us": longest // 1000,
            }
            for number, (calls, errors, total, longest) in self.calls.items()
        ]
        return sorted(rows, key=lambda row: -row["total_us"])

    def close(self) -> None:
        """The container ended."""
        if self.print_at_end:
            print(f"{'calls':>8} {'errors':>7} {'total us':>10} {'mean us':>9} {'max us':>9}  system call", file=sys.stderr)
            for row in self.report():
                print(f"{row['calls']:>8} {row['errors']:>7} {row['total_us']:>10} {row['mean_us']:>9} {row['max_us']:>9}  {row['name']}", file=sys.stderr)


@modules.module("syscall_stats")
def initialise(kernel: Kernel, arguments: str) -> None:
    """``syscall_stats`` or ``syscall_stats:print``."""
    statistics = SyscallStatistics(kernel, arguments == "print")
    kernel.syscall_observers.append(statistics)
    kernel.expando.get(Notes).sections["syscalls"] = statistics.report
