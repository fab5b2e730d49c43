"""Nice values and affinities of guests reach the host threads that run them, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

import polynix

POLYNIX = [sys.executable, "-m", "polynix.tools.start"]
GUEST = """
import os, subprocess, sys, threading, time
cpus = {int(sys.argv[1])}
os.nice(7)
os.sched_setaffinity(0, cpus)
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
child = os.fork()
if child == 0:
    time.sleep(100)
program = subprocess.Popen(["sleep", "100"])
back = os.fork()
if back == 0:
    os.sched_setaffinity(0, range(1024))
    time.sleep(100)
print(os.getpid(), child, program.pid, back, flush=True)
time.sleep(100)
"""


def tasks(kernel: int) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(subprocess.run([*POLYNIX, "tree", "--json", str(kernel)], capture_output=True, check=True, timeout=20).stdout)
    return listed


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_host_threads_have_what_the_guest_set() -> None:
    cpus = os.sched_getaffinity(0)
    cpu = max(cpus)
    base = os.getpriority(os.PRIO_PROCESS, 0)
    with polynix.Container() as container:
        process = container.spawn(["/usr/bin/python3", "-c", GUEST, str(cpu)], stdout=polynix.PIPE)
        assert process.stdout is not None
        parent, child, program, back = map(int, process.stdout.readline().split())
        nice = min(base + 7, 19)
        wanted = {parent: (nice, {cpu}), child: (nice, {cpu}), program: (nice, {cpu}), back: (nice, cpus)}
        deadline = time.monotonic() + 20
        while True:
            rows = [row for row in tasks(container.kernel_pid) if row["pid"] in wanted]
            found = [(row["pid"], os.getpriority(os.PRIO_PROCESS, row["host_tid"]), os.sched_getaffinity(row["host_tid"])) for row in rows if row["host_tid"]]
            if len(found) == 5 or time.monotonic() > deadline:
                break
        assert len(found) == 5  # the parent has two threads
        for pid, priority, affinity in found:
            assert (priority, affinity) == wanted[pid]
        assert os.getpriority(os.PRIO_PROCESS, container.kernel_pid) == base
        process.kill()
    with polynix.Container() as container:
        outcome = container.run(["sh", "-c", "nice; nice -n 30 nice"], capture_output=True, text=True)
        assert outcome.stdout == "0\n19\n"
