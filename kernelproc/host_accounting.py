"""What the host's own kernel says of restricted processes and their threads: CPU time, waits for a CPU, context switches, faults, memory.

Everything is read from the host's /proc and owes nothing to polynix, so it also serves to check what polynix says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class HostThread:
    """One host thread. Times are nanoseconds since it began; ``state`` is the letter of /proc/PID/stat."""

    state: str = "-"
    cpu_ns: int = 0
    runnable_ns: int = 0  # waited for a CPU
    user_ticks_ns: int = 0  # sampled by the tick, as the split of cpu_ns
    system_ticks_ns: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    voluntary_switches: int = 0  # filled in by ``with_switches``
    involuntary_switches: int = 0

    def numbers(self) -> tuple[int, ...]:
        """The counters in the order of ``COUNTERS``."""
        return tuple(getattr(self, name) for name in COUNTERS)


COUNTERS = (
    "cpu_ns", "runnable_ns", "user_ticks_ns", "system_ticks_ns", "minor_faults", "major_faults", "voluntary_switches", "involuntary_switches",
)  # fmt: skip


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # it ended


def host_thread(pid: int, tid: int) -> HostThread | None:
    """A host thread's account; None when it is gone."""
    directory = f"/proc/{pid}/task/{tid}/"
    stat = _read(directory + "stat")
    schedstat = _read(directory + "schedstat").split()
    if not stat or len(schedstat) < 2:
        return None
    fields = stat[stat.rfind(")") + 2 :].split()
    return HostThread(fields[0], int(schedstat[0]), int(schedstat[1]), int(fields[11]) * TICK_NS, int(fields[12]) * TICK_NS, int(fields[7]), int(fields[9]))


def with_switches(pid: int, tid: int) -> HostThread | None:
    """A host thread's account with its context switches; None when it is gone."""
    thread = host_thread(pid, tid)
    if thread is not None:
        thread.voluntary_switches, thread.involuntary_switches = context_switches(pid, tid)
    return thread


def context_switches(pid: int, tid: int) -> tuple[int, int]:
    """(voluntary, involuntary) context switches of a host thread."""
    found = {}
    for line in _read(f"/proc/{pid}/task/{tid}/status").splitlines():
        name, _, value = line.partition(":")
        if name.endswith("voluntary_ctxt_switches"):
            found[name] = int(value)
    return found.get("voluntary_ctxt_switches", 0), found.get("nonvoluntary_ctxt_switches", 0)


def resident_bytes(pid: int) -> int:
    """Resident memory of a host process, 0 when it is gone."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE_SIZE if len(fields) > 1 else 0


def page_table_bytes(pid: int) -> int:
    """Page tables of a host process (VmPTE), 0 when it is gone."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmPTE:"):
            return int(line.split()[1]) * 1024
    return 0


def process_cpu_ns(pid: int) -> int:
    """CPU time of all threads of a host process, living ones by the scheduler's exact sums."""
    total = 0
    try:
        tids = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    for tid in tids:
        fields = _read(f"/proc/{pid}/task/{tid}/schedstat").split()
        total += int(fields[0]) if fields else 0
    return total
