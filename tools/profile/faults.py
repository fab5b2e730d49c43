"""Kill one process and see that the others neither lose memory nor stop: the fault part of the isolation report.

While everything is held, the private memory of the survivors is hashed, the victim's restricted process is killed, and the memory is hashed again. Whoever
has been answered a call meanwhile (a parent's wait, a reader's end of file) may have been written to by the kernel, and is only watched for progress.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from polynix.tools.inspection import Inspection, InspectionError
from polynix.tools.profile.hold import held
from polynix.tools.profile.memory import PAGE, present_pages

PROGRESS_SECONDS = 0.5
DEATH_SECONDS = 5.0


@dataclass
class FaultReport:
    """What the death of ``victim`` did to the others."""

    victim: str
    survivors: list[str] = field(default_factory=list)
    hashed_bytes: int = 0
    changed: list[str] = field(default_factory=list)  # private memory differs although no call was answered: a violation
    answered: list[str] = field(default_factory=list)  # were answered a call meanwhile
    stalled: list[str] = field(default_factory=list)  # worked before, and do nothing any more
    ended: list[str] = field(default_factory=list)  # ended with it, as children of a shell may
    unreadable: list[str] = field(default_factory=list)


def private_memory_hash(space: dict[str, Any]) -> tuple[str, int]:
    """A hash over the private pages that a process has, and how many bytes those are. Errors: OSError."""
    digest, size = hashlib.blake2b(), 0
    with open(f"/proc/{space['host_pid']}/mem", "rb", buffering=0) as memory:
        for mapping in space["mappings"]:
            if mapping["kind"] not in ("anonymous", "copied") or mapping["protection"] == "---":
                continue
            for start, count in present_pages(space["host_pid"], mapping["start"], mapping["end"]):
                memory.seek(start)
                data = memory.read(count * PAGE)
                digest.update(start.to_bytes(8, "little"))
                digest.update(data)
                size += len(data)
    return digest.hexdigest(), size


def _wakeups(inspection: Inspection) -> dict[int, int]:
    """Wake-ups and system calls by process: what tells that the kernel has answered it something."""
    counts: dict[int, int] = {}
    for thread in inspection.request("profile", histograms=False)["threads"]:
        counts[thread["pid"]] = counts.get(thread["pid"], 0) + thread["wakeups"] + thread["syscalls"]
    return counts


def _label(space: dict[str, Any]) -> str:
    return f"{','.join(map(str, space['pids']))} {space['comm']}"


def kill_one(kernel_pid: int, victim_pid: int) -> FaultReport:
    """Kill process ``victim_pid`` of a container that is being profiled. Errors: NoKernel, InspectionError when there is no such process."""
    with Inspection(kernel_pid) as inspection:
        before = _wakeups(inspection)
        time.sleep(PROGRESS_SECONDS)
        working = {pid for pid, count in _wakeups(inspection).items() if count > before.get(pid, 0)}
        victims = inspection.request("maps", pid=victim_pid)
        if not victims:
            raise InspectionError(f"process {victim_pid} has ended")
        victim = victims[0]
        others = [space for space in inspection.request("maps") if space["host_pid"] != victim["host_pid"]]
        report = FaultReport(_label(victim), [_label(space) for space in others])
        with held(kernel_pid, [victim_pid, *(pid for space in others for pid in space["pids"])]):
            others = [space for space in inspection.request("maps") if space["host_pid"] != victim["host_pid"]]
            first: dict[int, str] = {}
            for space in others:
                try:
                    first[space["host_pid"]], size = private_memory_hash(space)
                    report.hashed_bytes += size
                except OSError:
                    report.unreadable.append(_label(space))
            counts = _wakeups(inspection)
            os.kill(victim["host_pid"], signal.SIGKILL)
            deadline = time.monotonic() + DEATH_SECONDS
            while time.monotonic() < deadline and _lives(inspection, victim_pid):
                time.sleep(0.02)
            later = _wakeups(inspection)
            for space in others:
                if space["host_pid"] not in first:
                    continue
                if any(later.get(pid, -1) != counts.get(pid, -1) for pid in space["pids"]):
                    report.answered.append(_label(space))
                    continue
                try:
                    if private_memory_hash(space)[0] != first[space["host_pid"]]:
                        report.changed.append(_label(space))
                except OSError:
                    report.ended.append(_label(space))
        resumed = _wakeups(inspection)
        time.sleep(PROGRESS_SECONDS)
        now = _wakeups(inspection)
        alive = {thread["pid"] for thread in inspection.request("tasks") if thread["state"] not in "ZX"}
        for space in others:
            if not alive.intersection(space["pids"]):
                if _label(space) not in report.ended:
                    report.ended.append(_label(space))
            elif working.intersection(space["pids"]) and all(now.get(pid, 0) <= resumed.get(pid, 0) for pid in space["pids"]):
                report.stalled.append(_label(space))
        return report


def _lives(inspection: Inspection, pid: int) -> bool:
    return any(thread["pid"] == pid and thread["state"] not in "ZX" for thread in inspection.request("tasks"))
