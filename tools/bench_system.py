"""What a whole container costs: its start, its idling, and the memory of many processes, read from the host's /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Command(Protocol):
    """A way to run a program, with a name for the table."""

    @property
    def name(self) -> str: ...

    @property
    def command(self) -> tuple[str, ...]: ...


def wall_of_true(polynix: Sequence[str], repeat: int, peers: Sequence[Command]) -> tuple[list[float | None], list[float | None], dict[str, list[float | None]]]:
    """Milliseconds from start to end of ``true``: native, polynix, peers."""
    native: list[float | None] = []
    here: list[float | None] = []
    for _ in range(repeat):
        native.append(_wall(["/bin/true"]))
        here.append(_wall([*polynix, "/bin/true"]))
    return native, here, {peer.name: [_wall([*peer.command, "/bin/true"]) for _ in range(3)] for peer in peers}


def _wall(command: Sequence[str]) -> float | None:
    start = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return (time.monotonic() - start) * 1000 if done.returncode == 0 else None


def descendants(pid: int) -> list[int]:
    """A process and everything below it, by /proc/PID/stat."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of processes that are alive, seconds."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle_cpu(polynix: Sequence[str], over: float = 30) -> float | None:
    """CPU seconds that all processes of a container with one sleeping program use in 30 s."""
    process = subprocess.Popen([*polynix, "/bin/sleep", "40"], stdin=subprocess.DEVNULL)
    try:
        time.sleep(2)
        family = descendants(process.pid)
        before = cpu_seconds(family)
        time.sleep(over)
        if process.poll() is not None:
            return None
        return cpu_seconds(family) - before
    finally:
        _end(process)


def memory_of_sleepers(polynix: Sequence[str], count: int = 200) -> float | None:
    """Megabytes of host memory behind a shell with 200 sleeping children: blocks of the regions, PSS of the stubs, RSS of the rest."""
    script = f"for i in $(seq {count}); do sleep 60 & done; echo ready; wait"
    process = subprocess.Popen([*polynix, "/bin/sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            return None
        time.sleep(3)
        total = 0
        objects: dict[tuple[int, int], int] = {}
        for pid in descendants(process.pid):
            try:
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("stub"):
                    total += _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:")
                else:
                    total += _kilobytes(f"/proc/{pid}/status", "VmRSS:")
                    _collect_objects(pid, objects)
            except OSError:
                continue
        return (total * 1024 + sum(objects.values())) / 1e6
    finally:
        _end(process)


def _kilobytes(path: str, key: str) -> int:
    return next(int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.startswith(key))


def _collect_objects(pid: int, objects: dict[tuple[int, int], int]) -> None:
    for entry in os.scandir(f"/proc/{pid}/fd"):
        name = os.readlink(entry.path)
        if name.startswith(("/memfd:", "/dev/shm/")):
            info = os.stat(entry.path)
            objects[info.st_dev, info.st_ino] = info.st_blocks * 512


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
