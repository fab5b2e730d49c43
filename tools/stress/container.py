"""One container under stress: its start, its board, its end, and whether it is back at its baseline afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from polynix.runner.container import Container
from polynix.runner.errors import ContainerError
from polynix.runner.hooks import Hook
from polynix.runner.parameters import parse_hook
from polynix.runner.process import Process
from polynix.runner.streams import PIPE
from polynix.tools.inspection import Inspection, InspectionError
from polynix.tools.selection import NoKernel
from polynix.tools.stress.board import Board
from polynix.tools.stress.plan import KINDS, StressPlan

PLACE = "/run/polynix-stress"  # where a container sees its directory
END_SECONDS = 60.0  # workers may take so long to end: a lost wake-up is noticed after 20 s
SETTLE_SECONDS = 5.0  # what the kernel tidies up after a process ends
MEMORY_SLACK = 8 << 20  # bytes; spare address spaces come and go
EXACT = (
    "processes", "threads", "zombies", "descriptors", "open_files", "address_spaces", "shared_objects", "shared_memory_files", "shared_memory_segments",
    "futex_queues", "routines",
)  # fmt: skip
MAX_FINDINGS = 200
IDLE_SECONDS = 5.0  # in so long a run every worker must have done something

Finding = dict[str, Any]


class StressedContainer:
    """Container ``index`` of a run. ``directory`` is its own; ``program`` the stress guest on the host. Errors of start: ContainerError."""

    def __init__(self, plan: StressPlan, index: int, directory: Path, program: Path) -> None:
        self.plan = plan
        self.index = index
        self.number = plan.first + index
        self.findings: list[Finding] = []
        self.baseline: dict[str, Any] = {}
        directory.mkdir(mode=0o755)
        directory.chmod(0o755)
        shutil.copy(program, directory / "stressor")
        (directory / "stressor").chmod(0o755)
        self.board = Board(str(directory / "board"), plan.processes)
        given = dict(plan.container_options)
        self.container = Container(init=True, binds=[*given.pop("binds", ()), f"{directory}:{PLACE}"], **given)
        self.kernel_pid = 0
        self.process: Process | None = None
        self.inspection: Inspection | None = None
        self._spoilt = False  # the kernel died
        self._hooks: list[Hook] = []

    def start(self) -> None:
        """Start the kernel, take the baseline, and let the supervisor make its workers. Errors: ContainerError, OSError, NoKernel."""
        plan = self.plan
        self.kernel_pid = self.container.kernel_pid
        self.inspection = Inspection(self.kernel_pid)
        mix = "command" if plan.command else plan.mix
        # One program first: what a kernel makes once, at its first program, is no leak.
        self.container.run([f"{PLACE}/stressor"], capture_output=True)
        self._settled({})
        self.baseline = self.inspection.request("census")
        ramp = int(plan.ramp_seconds * 1000)
        arguments = [f"{PLACE}/board", mix, plan.processes, plan.threads, ramp, f"{plan.rate:g}", plan.seed_of(self.index), f"{plan.kills_per_second:g}"]
        self.board.begin(1 << 62)
        self.process = self.container.spawn([f"{PLACE}/stressor", *map(str, arguments), *plan.command], stdout=PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self._hooks = [self.container.add_hook(parse_hook(action, rule)) for action, rule in plan.hooks]
        if line != b"%d workers\n" % plan.processes:
            self.found("", f"the supervisor started {line.decode(errors='replace').strip() or 'nothing'} instead of {plan.processes} workers")

    def found(self, kind: str, text: str, worker: int | None = None, seed: int | None = None) -> None:
        """Note something that is wrong."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append({"container": self.number, "worker": worker, "kind": kind, "seed": seed, "text": text})

    def alive(self) -> bool:
        """Whether the supervisor runs; it should as long as nobody has stopped it."""
        try:
            return self.process is not None and self.process.poll() is None
        except ContainerError as error:
            if not self._spoilt:
                self._spoilt = True
                self.found("", str(error))
            return False

    def memory_bytes(self) -> int:
        """Guest memory in use; 0 when the kernel is gone."""
        try:
            return int(self.inspection.request("census")["memory_bytes"]) if self.inspection is not None else 0
        except NoKernel:
            return 0

    def finish(self) -> None:
        """Let the workers end, compare with the baseline, end the container, and gather what was found."""
        for hook in self._hooks:
            with contextlib.suppress(ContainerError, ValueError):
                hook.remove()
        self.board.stop()
        if not self._spoilt and self.process is not None:
            self._wait_end()
        if not self._spoilt and self.process is not None:
            self._check_baseline()
        if self.inspection is not None:
            self.inspection.close()
        self.container.close()
        if self.kernel_pid and not _gone(self.kernel_pid):
            self.found("", f"kernel process {self.kernel_pid} is still there")
        self._gather()

    def _wait_end(self) -> None:
        process = self.process
        if process is None:
            return
        try:
            code = process.wait(END_SECONDS)
            if code:
                self.found("", f"the supervisor ended with {'signal' if code < 0 else 'exit status'} {abs(code)}")
        except subprocess.TimeoutExpired:
            self.found("", f"workers did not end within {END_SECONDS:g} s: {self._stuck()}")
            process.send_signal(signal.SIGKILL)
        except ContainerError as error:
            self._spoilt = True
            self.found("", str(error))

    def _stuck(self) -> str:
        assert self.inspection is not None
        try:
            tasks = [task for task in self.inspection.request("tasks") if task["comm"] == "stressor"]
        except (NoKernel, InspectionError):
            return "the kernel does not answer"
        return ", ".join(f"{task['pid']}/{task['tid']} {task['state']} {task['syscall']} {task['wait']}" for task in tasks[:6])

    def _settled(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The census once it is what is wanted, or the last one after a while."""
        assert self.inspection is not None
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            now: dict[str, Any] = self.inspection.request("census")
            if time.monotonic() > deadline or (all(now[name] == wanted.get(name, now[name]) for name in EXACT) and (wanted or not now["processes"])):
                return now
            time.sleep(0.05)

    def _check_baseline(self) -> None:
        try:
            after = self._settled(self.baseline)
        except NoKernel as error:
            self.found("", str(error))
            return
        for name in EXACT:
            if after[name] != self.baseline[name]:
                self.found("baseline", f"{name.replace('_', ' ')}: {self.baseline[name]} before, {after[name]} after")
        # A killed worker leaves its files, as on Linux; otherwise memory comes back.
        if not self.plan.kills_per_second and not self.plan.command and after["memory_bytes"] > self.baseline["memory_bytes"] + MEMORY_SLACK:
            self.found("baseline", f"memory: {self.baseline['memory_bytes'] >> 10} KiB before, {after['memory_bytes'] >> 10} KiB after")
        self.baseline = {"before": self.baseline, "after": after}

    def _gather(self) -> None:
        for worker, slot in enumerate(self.board.slots):
            kind = KINDS[int(slot["kind"])]
            if int(slot["findings"]):
                text = bytes(slot["finding"]).decode(errors="replace")
                self.found(kind, text + (f" (and {int(slot['findings']) - 1} more)" if int(slot["findings"]) > 1 else ""), worker, int(slot["seed"]))
            elif int(slot["state"]) != 2 and not self._spoilt:
                self.found(kind, f"worker never came to its end (state {int(slot['state'])})", worker, int(slot["seed"]))
            elif not int(slot["operations"]) + int(slot["errors"]) and self.plan.seconds >= IDLE_SECONDS and not self.plan.rate:
                self.found(kind, "worker did nothing at all", worker, int(slot["seed"]))


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + SETTLE_SECONDS
    while os.path.exists(f"/proc/{pid}"):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                if file.read().rsplit(b")", 1)[1].split()[0] in (b"Z", b"X"):
                    return True
        except OSError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
