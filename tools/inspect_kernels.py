"""``polynix ps``, ``polynix stubs``, ``polynix stats``: what running kernels show in their shared regions. Looking costs them nothing."""

from __future__ import annotations

import time
from typing import Any

from polynix.kernelproc.shared_region import RegionView, running_kernels
from rich.console import Console
from rich.table import Table


class NoKernel(Exception):
    """No running kernel, or not the one that was asked for."""


def _views(kernel_pid: int | None) -> list[tuple[int, RegionView]]:
    pids = [kernel_pid] if kernel_pid is not None else running_kernels()
    views = []
    for pid in pids:
        try:
            views.append((pid, RegionView(pid)))
        except Exception as error:
            if kernel_pid is not None:
                raise NoKernel(f"no polynix kernel with pid {pid}") from error
    return views


def _print(table: Table) -> None:
    Console(soft_wrap=True).print(table)


def show_tasks(kernel_pid: int | None) -> None:
    """Tasks of each kernel."""
    table = Table("KERNEL", "PID", "TID", "PPID", "UID", "SYSCALLS", "FAULTS", "AGE", "COMMAND", box=None)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for pid, view in _views(kernel_pid):
        for row in view.tasks():
            age = max(now - int(row["start_ns"]), 0) / 1e9
            name = bytes(row["comm"]).decode(errors="replace")
            table.add_row(str(pid), *(str(int(row[field])) for field in ("pid", "tid", "ppid", "uid", "syscalls", "faults")), f"{age:.1f}s", name)
    _print(table)


def show_stubs(kernel_pid: int | None) -> None:
    """What guests asked for and polynix does not have yet."""
    table = Table("KERNEL", "COUNT", "MISSING", "FLAGS", "PROCESS", "PLACE", box=None)
    for pid, view in _views(kernel_pid):
        for stub in view.notes().get("stubs", []):
            flags = "" if stub["flags"] is None else hex(stub["flags"])
            table.add_row(str(pid), str(stub["count"]), stub["message"], flags, stub["process"], f"{stub['file']}:{stub['line']}")
    _print(table)


def show_statistics(kernel_pid: int | None) -> None:
    """System calls by total time, of kernels that run with ``--feature syscall_stats``."""
    table = Table("KERNEL", "CALLS", "ERRORS", "TOTAL µs", "MEAN µs", "MAX µs", "SYSTEM CALL", box=None)
    for pid, view in _views(kernel_pid):
        rows: list[dict[str, Any]] = view.notes().get("syscalls", [])
        for row in rows:
            table.add_row(str(pid), *(str(row[field]) for field in ("calls", "errors", "total_us", "mean_us", "max_us", "name")))
    _print(table)
