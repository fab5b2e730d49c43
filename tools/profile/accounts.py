"""Threads' accounts: the kernel's share (time in calls, blocked) and the host's (CPU time, waits for a CPU, faults, switches) as one row each.

A thread's time divides into *user* (CPU time of its host thread, with what the host's kernel does for it), *kernel* (polynix's kernel at work for it),
*blocked* (waiting for something), *runnable* (ready, and waiting for one of the host's CPUs) and *hand-off* (what is left: on its way to polynix's kernel,
whose one thread may be busy with others, or back).
"""

from __future__ import annotations

from typing import Any

from polynix.kernelproc.host_accounting import COUNTERS, with_switches

Row = dict[str, Any]
TIMES = ("user_ns", "kernel_ns", "blocked_ns", "runnable_ns", "handoff_ns")
HOST_SUMS = ("user_ns", "runnable_ns", "minor_faults", "major_faults", "voluntary_switches", "involuntary_switches")
SUMS = (*TIMES, "syscalls", "guest_faults", "wakeups", "minor_faults", "major_faults", "voluntary_switches", "involuntary_switches")


def thread_rows(snapshot: dict[str, Any]) -> list[Row]:
    """One row a thread of a kernel's snapshot, completed by what the host says now of those that live."""
    rows = []
    for thread in snapshot["threads"]:
        host = dict(thread["host"])
        if thread["alive"] and thread["host_tid"]:
            now = with_switches(thread["host_pid"], thread["host_tid"])
            if now is not None:
                for name in COUNTERS:
                    host[name] += max(getattr(now, name) - thread["base"][name], 0)
        names = ("pid", "tid", "comm", "alive", "born_ns", "elapsed_ns", "kernel_ns", "blocked_ns", "blocked_on", "syscalls", "guest_faults", "wakeups")
        row = {name: thread[name] for name in (*names, "host_pid", "host_tid")}
        row["user_ns"], row["runnable_ns"] = host["cpu_ns"], host["runnable_ns"]
        row["handoff_ns"] = max(row["elapsed_ns"] - row["user_ns"] - row["kernel_ns"] - row["blocked_ns"] - row["runnable_ns"], 0)
        for name in ("minor_faults", "major_faults", "voluntary_switches", "involuntary_switches"):
            row[name] = host[name]
        rows.append(row)
    return rows


def process_rows(snapshot: dict[str, Any], threads: list[Row]) -> list[Row]:
    """One row a process: sums over its threads, and each thread's share of the CPU time."""
    by_pid: dict[int, list[Row]] = {}
    for thread in threads:
        by_pid.setdefault(thread["pid"], []).append(thread)
    rows = []
    for process in snapshot["processes"]:
        members = by_pid.get(process["pid"], [])
        row: Row = {name: process[name] for name in ("pid", "ppid", "comm", "copied_bytes")}
        row["alive"] = any(thread["alive"] for thread in members)
        row["threads"] = len(members)
        for name in SUMS:
            row[name] = sum(thread[name] for thread in members)
        row["elapsed_ns"] = max((thread["elapsed_ns"] for thread in members), default=0)
        row["born_ns"] = min((thread["born_ns"] for thread in members), default=0)
        for thread in members:
            thread["cpu_share"] = thread["user_ns"] / row["user_ns"] if row["user_ns"] else 0.0
        rows.append(row)
    return sorted(rows, key=lambda row: -(row["user_ns"] + row["kernel_ns"]))
