"""Microbenchmarks: native Linux and polynix in turn, peers that the machine has beside them; a table, and JSON.

Each row is a small C program (``bench/*.c``) that prints one number; it is compiled once, statically, and run unchanged on every side. Native and
polynix alternate, so that the machine's moods meet both; the result is the median of five runs each. ``make bench`` is this module.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polynix.tools.bench_containers import measure as measure_containers
from polynix.tools.bench_rows import ROWS, Row
from polynix.tools.bench_suspend import measure as measure_suspend
from polynix.tools.bench_system import idle_cpu, memory_of_sleepers, wall_of_true
from polynix.tools.bench_trace import TREE, slow_downs

SOURCES = Path(__file__).parent / "bench"
CONTAINER_ROWS = ("true", "start", "containers", "idle", "sleepers", "suspend", "wake", "trace")
POLYNIX = [sys.executable, "-m", "polynix.tools.start", "run", "--"]


@dataclass(frozen=True)
class Peer:
    """Another way to run Linux programs, when this machine has it."""

    name: str
    command: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether it runs anything at all here."""
        if shutil.which(self.command[0]) is None:
            return False
        try:
            return subprocess.run([*self.command, "/bin/true"], capture_output=True, timeout=20, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False


PEERS = (
    Peer("gVisor", ("runsc", "--rootless", "--network=none", "--ignore-cgroups", "do")),
    Peer("proot", ("proot",)),
    Peer("qemu-user", ("qemu-x86_64",)),
)


def build(where: Path) -> dict[str, Path]:
    """Compile every program. Errors: RuntimeError without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler")
    programs = {}
    for source in sorted(SOURCES.glob("*.c")):
        programs[source.stem] = where / source.stem
        flags = ["-O2", "-w", "-static", "-pthread"]
        subprocess.run([compiler, *flags, "-o", str(programs[source.stem]), str(source)], check=True, stdin=subprocess.DEVNULL)
    return programs


def measure(command: Sequence[str], timeout: float = 60) -> float | None:
    """The number that a program prints; None when it fails, hangs or is not able to."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False)
        return float(done.stdout.split()[-1]) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def run_row(row: Row, programs: dict[str, Path], repeat: int, peers: Sequence[Peer]) -> dict[str, Any]:
    """All measurements of a row."""
    times = row.repeat or repeat
    native: list[float | None] = []
    here: list[float | None] = []
    program = str(programs[row.program])
    for _ in range(times):
        native.append(measure([program, row.native_argument or row.argument]))
        here.append(measure([*POLYNIX, program, row.argument]))
    beside = {peer.name: [measure([*peer.command, program, row.argument], 30) for _ in range(min(times, 3))] for peer in peers}
    return entry(row.label, row.unit, native, here, beside, row.target, pick=row.pick)


def entry(
    label: str,
    unit: str,
    native: Sequence[float | None],
    here: Sequence[float | None],
    peers: dict[str, list[float | None]],
    target: str,
    pick: Callable[[list[float]], float] = statistics.median,
) -> dict[str, Any]:
    """One row of the result: medians, and their ratio (for bandwidths too: polynix / native)."""

    def middle(values: Sequence[float | None]) -> float | None:
        good = [value for value in values if value is not None]
        return pick(good) if good else None

    a, b = middle(native), middle(here)
    return {
        "label": label,
        "unit": unit,
        "native": a,
        "polynix": b,
        "ratio": b / a if a and b else None,
        "target": target,
        "peers": {name: middle(values) for name, values in peers.items()},
        "samples": {"native": list(native), "polynix": list(here)},
    }


def machine() -> dict[str, Any]:
    """Where this was measured."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cells(row: dict[str, Any], peers: Sequence[str]) -> list[str]:
    ratio = f"{row['ratio']:.2f}×" if row["ratio"] is not None else "–"
    label = f"{row['label']} ({row['unit']})"
    return [label, _number(row["native"]), _number(row["polynix"]), ratio, *(_number(row["peers"].get(name)) for name in peers), row["target"]]


def markdown_table(result: dict[str, Any]) -> str:
    """The result as the README shows it."""
    peers = result["peers"]
    head = ["", "native", "polynix", "ratio", *peers, "goal"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cells(row, peers))} |" for row in result["rows"].values()]
    where = result["machine"]
    lines.append("")
    conditions = f"{where['cpus']} CPUs, Linux {where['kernel']}, Python {where['python']}, load {where['load']:.0f} when it began, {where['date']}"
    lines.append(f"Medians; {where['cpu']}, {conditions}.")
    return "\n".join(lines)


def show(result: dict[str, Any]) -> None:
    """The result as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="polynix beside native Linux (medians)")
    table.add_column("")
    for name in ("native", "polynix", "ratio", *result["peers"], "goal"):
        table.add_column(name, justify="right")
    for row in result["rows"].values():
        table.add_row(*_cells(row, result["peers"]))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The ``make bench`` command."""
    parser = argparse.ArgumentParser(prog="polynix-bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which rows (all): {' '.join(ROWS)} {' '.join(CONTAINER_ROWS)}")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each side (5)")
    parser.add_argument("--no-peers", action="store_true", help="native and polynix alone")
    parser.add_argument("--json", type=Path, default=Path("bench-results/latest.json"), help="where the result goes")
    options = parser.parse_args(arguments)
    wanted: list[str] = options.rows or [*ROWS, *CONTAINER_ROWS]
    unknown = set(wanted) - {*ROWS, *CONTAINER_ROWS}
    if unknown:
        parser.error(f"no such row: {' '.join(sorted(unknown))}")

    peers = [] if options.no_peers else [peer for peer in PEERS if peer.found]
    result: dict[str, Any] = {"machine": machine(), "peers": [peer.name for peer in peers], "rows": {}}
    suspended: tuple[float, float] | None = None
    started: tuple[list[float], float] | None = None
    with tempfile.TemporaryDirectory(prefix="polynix-bench-") as folder:
        Path(folder).chmod(0o755)
        programs = build(Path(folder))
        for name in wanted:
            print(f"{name} …", end=" ", flush=True)
            if name == "true":
                row = entry("start-up of `true`", "ms", *wall_of_true(POLYNIX, options.repeat, peers), "≤ 300")
            elif name in ("start", "containers"):
                started = started or measure_containers(POLYNIX[:-2], options.repeat)
                if name == "start":
                    row = entry("`polynix start` with a runner", "ms", [None], list(started[0]), {}, "≤ 150")
                else:
                    row = entry("50 containers, one after another", "ms", [None], [started[1]], {}, "")
            elif name == "idle":
                row = entry("CPU in 30 s of `sleep 40`", "s", [None], [idle_cpu(POLYNIX)], {}, "≤ 0.15")
            elif name == "sleepers":
                row = entry("memory of 200 processes", "MB", [None], [memory_of_sleepers(POLYNIX)], {}, "≤ 1024")
            elif name in ("suspend", "wake"):
                suspended = suspended or measure_suspend(POLYNIX[:-1], programs["suspend"], 4 * options.repeat)
                label, goal = ("suspend of 50 processes", "≤ 50") if name == "suspend" else ("message to first guest instruction, asleep", "≤ 10")
                row = entry(label, "ms", [None], [suspended[name == "wake"]], {}, goal)
            elif name == "trace":
                row = entry(f"`find {TREE}` traced", "of untraced", [None], slow_downs(POLYNIX[:-2], 2 * options.repeat), {}, "≤ 1.15")
            else:
                row = run_row(ROWS[name], programs, options.repeat, peers)
            result["rows"][name] = row
            print(_number(row["native"]), _number(row["polynix"]), flush=True)
    show(result)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
