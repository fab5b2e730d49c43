"""Watches one kernel while its programs run: samples for the time lines, looks at the memory, and the last complete picture, even of a kernel that dies."""

from __future__ import annotations

import time
from typing import Any

from polynix.tools.inspection import Inspection
from polynix.tools.profile import memory
from polynix.tools.profile.accounts import HOST_SUMS, SUMS, process_rows, thread_rows
from polynix.tools.selection import NoKernel

MAX_MEMORY_ROWS = 2000
MAX_SAMPLES = 400  # then every other one is dropped, and the interval doubles
FULL_EVERY = 5  # samples between two that carry histograms
FIRST_MEMORY_SECONDS = 0.3
MEMORY_SECONDS = 1.0  # between two looks at the memory
MEMORY_SHARE = 0.05  # of the time at most goes into looking at the memory
SAMPLED = (*SUMS, "elapsed_ns")


class ProfileSession:
    """One profile. ``snapshot`` is the last with histograms; ``samples`` are (seconds, kernel CPU seconds, {pid: sums})."""

    def __init__(self, kernel_pid: int, interval: float) -> None:
        self.kernel_pid = kernel_pid
        self.interval = interval
        self.snapshot: dict[str, Any] | None = None
        self.threads: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.memory: memory.MemoryReport | None = None
        self.memory_rows: dict[str, dict[str, Any]] = {}  # what each process had when it was last looked at
        self.violations: dict[tuple[str, str, int], memory.Violation] = {}
        self._last_seen: dict[tuple[int, int, int], dict[str, int]] = {}
        self.ended_early = False  # the kernel died under us
        self._inspection = Inspection(kernel_pid)
        self._started = time.monotonic()
        self._next_sample = self._next_memory = 0.0
        self._began = bool(self._inspection.request("profile.start"))
        self._taken = 0

    def tick(self) -> float:
        """Do what is due; returns seconds until the next thing is."""
        now = time.monotonic() - self._started
        if self.ended_early:
            return self.interval
        try:
            if now >= self._next_sample:
                self._sample(self._taken % FULL_EVERY == 0)
                self._next_sample = now + self.interval
            if now >= max(self._next_memory, FIRST_MEMORY_SECONDS):
                self._look_at_memory()
                took = time.monotonic() - self._started - now
                self._next_memory = now + max(MEMORY_SECONDS, took / MEMORY_SHARE)
        except NoKernel:
            self.ended_early = True
        return max(min(self._next_sample, max(self._next_memory, FIRST_MEMORY_SECONDS)) - (time.monotonic() - self._started), 0.01)

    def finish(self) -> None:
        """The last, complete picture; a profile that was begun here ends."""
        if not self.ended_early:
            try:
                self._sample(True)
                self._look_at_memory()
                if self._began:
                    self._inspection.request("profile.stop")
            except NoKernel:
                self.ended_early = True
        self._inspection.close()

    def _sample(self, full: bool) -> None:
        snapshot = self._inspection.request("profile", histograms=full)
        if snapshot is None:
            return
        threads = thread_rows(snapshot)
        self._remember(threads)
        processes = process_rows(snapshot, threads)
        self._taken += 1
        self.samples.append(
            {
                "seconds": snapshot["elapsed_ns"] / 1e9,
                "kernel_cpu_seconds": snapshot["kernel_cpu_ns"] / 1e9,
                "processes": {row["pid"]: {name: row[name] for name in SAMPLED} for row in processes},
            }
        )
        if len(self.samples) > MAX_SAMPLES:
            self.samples = self.samples[::2]
            self.interval *= 2
        if full:
            self.snapshot, self.threads = snapshot, threads

    def _remember(self, threads: list[dict[str, Any]]) -> None:
        """The host forgets what a killed process has used before the kernel can ask: then what was last seen counts."""
        for row in threads:
            key = row["pid"], row["tid"], row["born_ns"]
            seen = self._last_seen.get(key)
            if not row["alive"] and seen is not None:
                for name, value in seen.items():
                    row[name] = max(row[name], value)
            elif row["alive"]:
                self._last_seen[key] = {name: row[name] for name in HOST_SUMS}

    def _look_at_memory(self) -> None:
        report = memory.look(self._inspection)
        for violation in report.violations:
            self.violations.setdefault((violation.first, violation.second, violation.first_address), violation)
        for row in report.processes:
            self.memory_rows[row["label"]] = row
        while len(self.memory_rows) > MAX_MEMORY_ROWS:
            self.memory_rows.pop(next(iter(self.memory_rows)))
        if self.memory is None or len(report.labels) >= len(self.memory.labels):
            self.memory = report
