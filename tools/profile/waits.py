"""The wait graph: who waited for whom, for how long, by object; and lock convoys, by futex."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
CONVOY_WAITERS = 3  # threads that queue for one futex make a convoy


def edges(snapshot: dict[str, Any]) -> list[Row]:
    """Waits between processes, longest in total first. ``waker`` is a process, or host, signal, kernel; ``object`` a pipe, a futex, a child …"""
    merged: dict[tuple[Any, ...], Row] = {}
    for wait in snapshot["waits"]:
        waker = wait["waker_pid"] if wait["waker"] == "task" else wait["waker"] or "…"
        key = (wait["pid"], waker, wait["object"])
        row = merged.setdefault(key, {"pid": wait["pid"], "waker": waker, "object": wait["object"], "count": 0, "total_ns": 0, "longest_ns": 0})
        row["count"] += wait["count"]
        row["total_ns"] += wait["total_ns"]
        row["longest_ns"] = max(row["longest_ns"], wait["longest_ns"])
    return sorted(merged.values(), key=lambda row: -row["total_ns"])


def matrix(rows: list[Row]) -> tuple[list[str], list[str], list[list[int]]]:
    """Waiters, wakers, and ns that each waiter waited for each waker."""
    waiters = sorted({row["pid"] for row in rows})
    wakers = sorted({row["waker"] for row in rows}, key=lambda each: (isinstance(each, str), each))
    total = {(row["pid"], row["waker"]): 0 for row in rows}
    for row in rows:
        total[row["pid"], row["waker"]] += row["total_ns"]
    return list(map(str, waiters)), list(map(str, wakers)), [[total.get((waiter, waker), 0) for waker in wakers] for waiter in waiters]


def convoys(snapshot: dict[str, Any]) -> list[Row]:
    """Futexes by the time that threads lost on them. Which address a futex has is a process's own matter, so each process's are its own."""
    futexes: dict[tuple[int, str], Row] = {}
    threads: dict[tuple[int, str], dict[int, int]] = {}
    for wait in snapshot["waits"]:
        if not wait["object"].startswith("futex "):
            continue
        key = (wait["pid"], wait["object"])
        row = futexes.setdefault(key, {"pid": wait["pid"], "futex": wait["object"].removeprefix("futex "), "waits": 0, "total_ns": 0, "longest_ns": 0})
        row["waits"] += wait["count"]
        row["total_ns"] += wait["total_ns"]
        row["longest_ns"] = max(row["longest_ns"], wait["longest_ns"])
        each = threads.setdefault(key, {})
        each[wait["tid"]] = each.get(wait["tid"], 0) + wait["total_ns"]
    for key, row in futexes.items():
        row["waiters"] = len(threads[key])
        row["convoy"] = row["waiters"] >= CONVOY_WAITERS
        row["by_thread_ns"] = threads[key]
    return sorted(futexes.values(), key=lambda row: -row["total_ns"])


def fairness(values: list[float]) -> float:
    """Jain's index: 1 when all have the same, 1/n when one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
