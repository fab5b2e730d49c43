"""A finished profile as one JSON document: what the report draws, and what machines read."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from polynix.tools.profile import waits
from polynix.tools.profile.accounts import process_rows
from polynix.tools.profile.faults import FaultReport
from polynix.tools.profile.interference import Interference
from polynix.tools.profile.latency import merged, summary
from polynix.tools.profile.session import ProfileSession
from polynix.tools.profile.waits import fairness

FORMAT = 1
MAX_THREADS = 5000


@dataclass
class Extras:
    """What was measured on request."""

    windows: Interference | None = None
    runs: Interference | None = None
    fault: FaultReport | None = None
    not_killed: str = "the program ended first"  # why there is no ``fault``


def build_result(session: ProfileSession, command: list[str], status: int | None, extras: Extras) -> dict[str, Any]:
    """The document. Times are ns unless the name says seconds; sizes are bytes."""
    snapshot = session.snapshot or {"elapsed_ns": 0, "kernel_cpu_ns": 0, "threads": [], "merged_threads": 0, "processes": [], "waits": []}
    processes = process_rows(snapshot, session.threads)
    busy = [float(row["user_ns"]) for row in processes if row["user_ns"] > 1_000_000]
    report = session.memory
    return {
        "format": FORMAT,
        "command": command,
        "status": status,
        "kernel_pid": session.kernel_pid,
        "complete": not session.ended_early,
        "cpus": len(os.sched_getaffinity(0)),
        "elapsed_ns": snapshot["elapsed_ns"],
        "kernel_loop": {
            "cpu_ns": snapshot["kernel_cpu_ns"],
            "share": snapshot["kernel_cpu_ns"] / snapshot["elapsed_ns"] if snapshot["elapsed_ns"] else 0.0,
        },
        "processes": processes,
        "threads": session.threads[:MAX_THREADS],
        "merged_threads": snapshot["merged_threads"] + max(len(session.threads) - MAX_THREADS, 0),
        "cpu_fairness": fairness(busy),
        "calls": _calls(snapshot),
        "samples": session.samples,
        "waits": waits.edges(snapshot),
        "convoys": waits.convoys(snapshot),
        "isolation": {
            "memory": None
            if report is None
            else {**{name: value for name, value in asdict(report).items() if name != "violations"}, "processes": list(session.memory_rows.values())},
            "violations": [asdict(violation) for violation in session.violations.values()],
            "interference": [asdict(each) for each in (extras.windows, extras.runs) if each is not None],
            "fault": None if extras.fault is None else asdict(extras.fault),
        },
    }


def _calls(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    """System calls of all processes by name, the most expensive in total first, with their histograms and who made them."""
    by_name: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for process in snapshot["processes"]:
        for call in process["calls"]:
            by_name.setdefault(call["name"], []).append((process["pid"], call))
    rows = []
    for name, calls in by_name.items():
        row: dict[str, Any] = {"name": name, "number": calls[0][1]["number"]}
        for field in ("calls", "errors", "total_ns"):
            row[field] = sum(call[field] for _, call in calls)
        row["longest_ns"] = max(call["longest_ns"] for _, call in calls)
        row["by_process"] = {str(pid): call["calls"] for pid, call in calls}
        buckets = merged(call["histogram"] for _, call in calls)
        row["latency"] = summary(buckets.items())
        row["buckets"] = sorted(buckets.items())
        rows.append(row)
    return sorted(rows, key=lambda row: -row["total_ns"])


def violations(result: dict[str, Any]) -> list[str]:
    """What breaks isolation, a line each."""
    isolation = result["isolation"]
    lines = [
        f"{each['first']} at {each['first_address']:#x} and {each['second']} at {each['second_address']:#x}: {each['reason']}"
        for each in isolation["violations"]
    ]
    if isolation["fault"] is not None:
        lines += [f"private memory of {each} changed when {isolation['fault']['victim']} was killed" for each in isolation["fault"]["changed"]]
    return lines
