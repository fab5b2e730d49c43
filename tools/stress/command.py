"""The command ``polynix stress``: its live view and what it writes."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from typing import Any

from polynix.tools.inspect_kernels import console, print_table
from polynix.tools.report.page import ReportError, check_libraries, check_writable, write_text
from polynix.tools.stress.plan import StressPlan, command_line
from polynix.tools.stress.run import StressRun
from polynix.tools.top import size
from polynix.tools.write_files import write_files

EXIT_FINDINGS = 1
MOST_FINDINGS = 20  # on the terminal; the reports have them all


@dataclass
class StressOutput:
    """Where results go; ``cluster`` is a Dask scheduler's address."""

    report: str | None = None
    json_path: str | None = None
    cluster: str | None = None
    quiet: bool = False


def stress(plan: StressPlan, output: StressOutput) -> int:
    """Returns 0 when nothing was found, else 1. Errors: ReportError, ContainerError, NoKernel, OSError."""
    if output.report is not None:
        check_libraries()
    for path in (output.report, output.json_path):
        check_writable(path)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not output.quiet:
        print(f"polynix: {' '.join(command_line(plan))}", file=sys.stderr)
    if output.cluster is not None:
        from polynix.tools.stress.cluster import run_on_cluster

        result = run_on_cluster(plan, output.cluster)
    else:
        view = _View(plan, output.quiet)
        try:
            result = StressRun(plan, view.show).run()
        finally:
            view.close()
    if not output.quiet:
        _summarize(result)  # before the files: a full disk must not take the findings with it
    writes = []
    if (json_path := output.json_path) is not None:
        writes.append(lambda: write_text(json_path, json.dumps(result) + "\n"))
    if (report := output.report) is not None:
        from polynix.tools.stress.report import build_page

        writes.append(lambda: build_page(result).write(report))
    write_files(ReportError, *writes)
    return 0 if result["passed"] else EXIT_FINDINGS


class _View:
    """The live view: one line that changes on a terminal, a line now and then elsewhere; on standard error."""

    EVERY_SECONDS = 10.0

    def __init__(self, plan: StressPlan, quiet: bool) -> None:
        self.plan = plan
        self._live: Any = None
        self._said = 0.0
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=console(error=True), auto_refresh=False, transient=True)
            self._live.start()

    def show(self, sample: dict[str, Any]) -> None:
        text = (
            f"{sample['seconds']:6.1f} of {self.plan.seconds + self.plan.ramp_seconds:g} s  {sample['running']} workers  "
            f"{sample['operations_per_second']:,.0f} operations/s  p50 {sample['p50_ns'] / 1e3:,.0f} p99 {sample['p99_ns'] / 1e3:,.0f} "
            f"p99.9 {sample['p99_9_ns'] / 1e3:,.0f} µs  errors {sample['errors']}  findings {sample['findings']}  "
            f"CPU {100 * sample['machine_cpu']:.0f}% (kernels {sample['kernel_cpus']:.1f})  memory {size(sample['memory_bytes'])}"
        )
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(text), refresh=True)
        elif not self._quiet and sample["seconds"] - self._said >= self.EVERY_SECONDS:
            self._said = sample["seconds"]
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


def _summarize(result: dict[str, Any]) -> None:
    rows = [
        {"name": name, **{field: kind[field] for field in ("workers", "operations", "errors", "findings")},
         **{field: f"{kind[field + '_ns'] / 1e3:,.0f}" for field in ("p50", "p99", "p99_9")}}
        for name, kind in sorted(result["kinds"].items())
    ]  # fmt: skip
    columns = {"STRESSOR": "name", "WORKERS": "workers", "OPERATIONS": "operations", "ERRORS": "errors", "FINDINGS": "findings"}
    print_table(rows, {**columns, "p50 µs": "p50", "p99 µs": "p99", "p99.9 µs": "p99_9"})
    for finding in result["findings"][:MOST_FINDINGS]:
        where = f"container {finding['container']}" + (f" worker {finding['worker']}" if finding["worker"] is not None else "")
        print(f"finding: {where} {finding['kind']}: {finding['text']}")
    if len(result["findings"]) > MOST_FINDINGS:
        print(f"... and {len(result['findings']) - MOST_FINDINGS} more")
    print("passed" if result["passed"] else f"{len(result['findings'])} findings; the same again: --seed {result['plan']['seed']}")
