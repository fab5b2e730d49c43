"""A stress run: starts the containers, watches them, ends them, and gives one result, which merges with those of other machines."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
from polynix.kernelproc.host_accounting import process_cpu_ns
from polynix.tools.stress.board import BUCKETS, percentile
from polynix.tools.stress.container import StressedContainer
from polynix.tools.stress.plan import KINDS, StressPlan
from polynix.tools.stress.program import stressor

AT_ONCE = 4  # containers that are started or ended at the same time
SAMPLE_SECONDS = 0.5
MAX_SAMPLES = 600  # then every other one is dropped, and the pause doubles
MEMORY_EVERY = 4  # samples between two looks at the memory, for which the kernels are asked
FRACTIONS = {"p50_ns": 0.5, "p99_ns": 0.99, "p99_9_ns": 0.999}
LEAD_NS = 100_000_000  # so much after the last container is ready all workers begin

Result = dict[str, Any]
Watcher = Callable[[dict[str, Any]], None]


class StressRun:
    """One run on this machine. ``watch`` is called with each sample; a KeyboardInterrupt ends the run early and in order."""

    def __init__(self, plan: StressPlan, watch: Watcher | None = None) -> None:
        self.plan = plan
        self.watch = watch
        self.containers: list[StressedContainer] = []
        self.samples: list[dict[str, Any]] = []
        self.interrupted = False
        self._pause = SAMPLE_SECONDS
        self._before = (0.0, 0, 0, 0, (0, 0))  # time, operations, errors, kernel CPU ns, machine jiffies
        self._memory = 0

    def run(self) -> Result:
        """The whole run. Errors: ContainerError, OSError when the containers can't be started; ReportError without the guest program."""
        program = stressor()
        began = time.time()
        with tempfile.TemporaryDirectory(prefix="polynix-stress-") as directory:
            Path(directory).chmod(0o755)
            try:
                self._start(Path(directory), program)
                self._watch()
            except KeyboardInterrupt:
                self.interrupted = True
            finally:
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    list(pool.map(StressedContainer.finish, self.containers))
            return self._result(began)

    def _start(self, directory: Path, program: Path) -> None:
        self.containers = [StressedContainer(self.plan, index, directory / str(index), program) for index in range(self.plan.containers)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(StressedContainer.start, self.containers))
        at = time.monotonic_ns() + LEAD_NS
        for container in self.containers:
            container.board.begin(at)

    # -- watching ---------------------------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        began = time.monotonic()
        end = began + LEAD_NS / 1e9 + self.plan.ramp_seconds + self.plan.seconds
        self._before = (began, 0, 0, self._kernel_cpu(), _machine_jiffies())
        count = 0
        while time.monotonic() < end:
            time.sleep(max(min(self._pause, end - time.monotonic()), 0))
            if not any([container.alive() for container in self.containers]):  # every one is asked, as asking hears of ends
                return
            self._sample(time.monotonic() - began, count % MEMORY_EVERY == 0)
            count += 1

    def _kernel_cpu(self) -> int:
        return sum(process_cpu_ns(container.kernel_pid) for container in self.containers)

    def _sample(self, seconds: float, memory: bool) -> None:
        if memory:
            self._memory = sum(container.memory_bytes() for container in self.containers)
        slots = numpy.concatenate([container.board.slots for container in self.containers])
        histogram = slots["histogram"].sum(axis=0, dtype=numpy.int64)
        now = time.monotonic(), int(slots["operations"].sum()), int(slots["errors"].sum()), self._kernel_cpu(), _machine_jiffies()
        elapsed = max(now[0] - self._before[0], 1e-9)
        busy, total = (new - old for new, old in zip(now[4], self._before[4], strict=True))
        sample = {
            "seconds": seconds,
            "operations": now[1],
            "operations_per_second": (now[1] - self._before[1]) / elapsed,
            "errors": now[2],
            "findings": int(slots["findings"].sum()) + sum(len(container.findings) for container in self.containers),
            "running": int((slots["state"] == 1).sum()),
            "kernel_cpus": max(now[3] - self._before[3], 0) / 1e9 / elapsed,
            "machine_cpu": busy / total if total else 0.0,
            "memory_bytes": self._memory,
            **{name: percentile(histogram, fraction) for name, fraction in FRACTIONS.items()},
            "by_kind": {KINDS[kind]: int(slots["operations"][slots["kind"] == kind].sum()) for kind in map(int, numpy.unique(slots["kind"]))},
        }
        self._before = now
        self.samples.append(sample)
        if len(self.samples) > MAX_SAMPLES:
            self.samples = self.samples[::2]
            self._pause *= 2
        if self.watch is not None:
            self.watch(sample)

    # -- the end ----------------------------------------------------------------------------------------------------------------------------

    def _result(self, began: float) -> Result:
        kinds: dict[str, Result] = {}
        for container in self.containers:
            for slot in container.board.slots:
                _add_slot(kinds.setdefault(KINDS[int(slot["kind"])], _empty_kind()), slot)
        findings = [finding for container in self.containers for finding in container.findings]
        return finished(
            {
                "plan": asdict(self.plan),
                "machines": [{"host": platform.node(), "cpus": len(os.sched_getaffinity(0)), "containers": self.plan.containers, "samples": self.samples}],
                "began": began,
                "interrupted": self.interrupted,
                "kinds": kinds,
                "findings": findings,
                "baselines": [{"container": container.number, **container.baseline} for container in self.containers],
            }
        )


def _empty_kind() -> Result:
    return {"workers": 0, "longest_ns": 0, "histogram": [0] * BUCKETS, **dict.fromkeys(SUMMED, 0)}


SUMMED = ("operations", "errors", "findings", "bytes", "total_ns", "kills", "restarts")


def _add_slot(kind: Result, slot: Any) -> None:
    kind["workers"] += 1
    for name in SUMMED:
        kind[name] += int(slot[name])
    kind["longest_ns"] = max(kind["longest_ns"], int(slot["longest_ns"]))
    kind["histogram"] = [first + int(second) for first, second in zip(kind["histogram"], slot["histogram"], strict=True)]


def finished(result: Result) -> Result:
    """The same result with its percentiles, totals and verdict filled in."""
    for kind in result["kinds"].values():
        histogram = numpy.array(kind["histogram"], numpy.int64)
        for name, fraction in FRACTIONS.items():
            kind[name] = percentile(histogram, fraction)
        kind["mean_ns"] = kind["total_ns"] / kind["operations"] if kind["operations"] else 0.0
    result["operations"] = sum(kind["operations"] for kind in result["kinds"].values())
    result["errors"] = sum(kind["errors"] for kind in result["kinds"].values())
    result["passed"] = not result["findings"]
    return result


def merge(plan: StressPlan, results: list[Result]) -> Result:
    """One result from those of several machines."""
    kinds: dict[str, Result] = {}
    for result in results:
        for name, other in result["kinds"].items():
            kind = kinds.setdefault(name, _empty_kind())
            for field in ("workers", *SUMMED):
                kind[field] += other[field]
            kind["longest_ns"] = max(kind["longest_ns"], other["longest_ns"])
            kind["histogram"] = [first + second for first, second in zip(kind["histogram"], other["histogram"], strict=True)]
    return finished(
        {
            "plan": asdict(plan),
            "machines": [machine for result in results for machine in result["machines"]],
            "began": min((result["began"] for result in results), default=0.0),
            "interrupted": any(result["interrupted"] for result in results),
            "kinds": kinds,
            "findings": [finding for result in results for finding in result["findings"]],
            "baselines": [baseline for result in results for baseline in result["baselines"]],
        }
    )


def _machine_jiffies() -> tuple[int, int]:
    """(busy, all) clock ticks of the machine's CPUs since boot."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = list(map(int, file.readline().split()[1:9]))
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
