"""The rows of the microbenchmark: which program prints each, and what the number should come to."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One number. ``native_argument`` is the row that runs natively where the goal compares with another one."""

    label: str
    unit: str
    program: str
    argument: str
    target: str = ""
    native_argument: str = ""
    repeat: int = 0
    pick: Callable[[list[float]], float] = statistics.median


ROWS: dict[str, Row] = {
    "cpu": Row("CPU loop, least of 10", "ms", "calls", "cpu_loop", "≤ 1.02×", repeat=10, pick=min),
    "getppid": Row("getppid", "µs", "calls", "getppid", "≤ 6"),
    "getpid_site": Row("getpid by `mov; syscall`", "µs", "calls", "getpid_site"),
    "read_zero": Row("read 1 byte of /dev/zero", "µs", "calls", "read_zero"),
    "pread_host": Row("pread 4 KiB, host file", "µs", "calls", "pread_host", "≤ 8"),
    "pread_tmpfs": Row("pread 4 KiB, tmpfs", "µs", "calls", "pread_tmpfs", "≤ 8"),
    "open_close": Row("open + close of /tmp/a/b", "µs", "calls", "open_close", "≤ 25"),
    "stat": Row("stat of /tmp/a/b", "µs", "calls", "stat", "≤ 15"),
    "clock": Row("clock_gettime of CLOCK_MONOTONIC", "ns", "calls", "clock_gettime", "≤ 1.3×"),
    "mmap": Row("mmap 64 KiB, touch 2, munmap", "µs", "calls", "mmap_touch"),
    "read_1mb": Row("read 1 MB", "GB/s", "calls", "read_1mb", "≥ 0.4×"),
    "signal": Row("signal to self", "µs", "calls", "signal_self"),
    "pipe": Row("pipe ping-pong, native on two CPUs", "µs", "processes", "pipe_ping_pong", "≤ 1×", native_argument="pipe_ping_pong_apart"),
    "cond": Row("condition ping-pong, threads", "µs", "processes", "cond_ping_pong"),
    "thread": Row("thread create + join", "µs", "processes", "thread_create_join"),
    "fork": Row("fork + exit + wait, 1 MB", "µs", "processes", "fork", "≤ 1500"),
    "fork_large": Row("fork, 100 MB dirty, 8 threads", "µs", "processes", "fork_large"),
    "vfork": Row("vfork + exec + wait", "µs", "processes", "vfork_exec", "≤ 2000"),
}
