"""A stress result as an HTML page."""

from __future__ import annotations

import time
from typing import Any

from polynix.tools.report.page import Page, Section
from polynix.tools.stress.board import bucket_ns
from polynix.tools.stress.plan import StressPlan, command_line

Result = dict[str, Any]


def build_page(result: Result) -> Page:
    """The page, to be written."""
    plan = StressPlan(**{**result["plan"], "command": tuple(result["plan"]["command"]), "hooks": tuple(map(tuple, result["plan"]["hooks"]))})
    page = Page("polynix stress", " ".join(command_line(plan)))
    _overview(page.section("Overview"), result)
    _findings(page.section("Findings"), result)
    _timeline(page.section("Time line"), result)
    _latency(page.section("Latency"), result)
    _baselines(page.section("Baseline"), result)
    return page


def _overview(section: Section, result: Result) -> None:
    plan = result["plan"]
    cut = ", ended early by the user" if result["interrupted"] else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(result["began"]))
    section.text(
        f"{when}: {plan['containers']} containers × {plan['processes']} processes for {plan['seconds']:g} s{cut}, seed {plan['seed']}, on "
        + ", ".join(f"{machine['host']} ({machine['cpus']} CPUs, {machine['containers']} containers)" for machine in result["machines"])
        + "."
    )
    verdict = f"{result['operations']:,} verified operations, {result['errors']:,} refused for lack of resources, {len(result['findings'])} findings."
    (section.text if result["passed"] else section.warning)(verdict)
    section.table(
        ["stressor", "workers", "operations", "errors", "findings", "MiB", "killed", "mean µs", "p50 µs", "p99 µs", "p99.9 µs", "longest ms"],
        [
            [name, kind["workers"], kind["operations"], kind["errors"], kind["findings"], kind["bytes"] >> 20, kind["kills"], round(kind["mean_ns"] / 1e3, 1),
             *(round(kind[each] / 1e3, 1) for each in ("p50_ns", "p99_ns", "p99_9_ns")), round(kind["longest_ns"] / 1e6, 2)]
            for name, kind in sorted(result["kinds"].items())
        ],
    )  # fmt: skip


def _findings(section: Section, result: Result) -> None:
    if result["passed"]:
        section.text("None: every operation gave what it should, and every container was back at its baseline.")
        return
    section.table(
        ["container", "worker", "stressor", "worker's seed", "what was wrong"],
        [
            [each["container"], each["worker"] if each["worker"] is not None else "", each["kind"], each["seed"] or "", each["text"]]
            for each in result["findings"]
        ],
    )


def _timeline(section: Section, result: Result) -> None:
    for machine in result["machines"]:
        samples = machine["samples"]
        if len(samples) < 2:
            section.text(f"{machine['host']}: too short for a time line.")
            continue
        at = [round(sample["seconds"], 2) for sample in samples]

        def lines(names: dict[str, str], unit: float = 1, *, at: list[float] = at, samples: list[dict[str, Any]] = samples) -> list[dict[str, Any]]:
            return [
                {"type": "scatter", "mode": "lines", "name": title, "x": at, "y": [sample[name] / unit for sample in samples]} for name, title in names.items()
            ]

        axis = {"title": {"text": "s"}}
        section.figure(lines({"operations_per_second": "operations"}), title={"text": f"Operations a second, {machine['host']}"}, xaxis=axis)
        percentiles = lines({"p50_ns": "p50", "p99_ns": "p99", "p99_9_ns": "p99.9"}, 1e3)
        section.figure(percentiles, title={"text": "Latency so far (µs)"}, xaxis=axis, yaxis={"type": "log"})
        cpus = lines({"kernel_cpus": "CPUs in polynix's kernels", "machine_cpu": "share of the machine's CPUs"})
        section.figure([*cpus, *lines({"memory_bytes": "guest memory, GiB"}, 1 << 30)], title={"text": "CPU and memory"}, xaxis=axis)


def _latency(section: Section, result: Result) -> None:
    data = []
    for name, kind in sorted(result["kinds"].items()):
        points = [(bucket_ns(index) / 1e3, count) for index, count in enumerate(kind["histogram"]) if count]
        places, counts = [place for place, _ in points], [count for _, count in points]
        data.append({"type": "scatter", "mode": "lines", "name": name, "x": places, "y": counts, "line": {"shape": "hvh"}})
    section.figure(
        data, title={"text": "Operations by latency"}, xaxis={"type": "log", "title": {"text": "µs"}}, yaxis={"type": "log", "title": {"text": "operations"}}
    )


def _baselines(section: Section, result: Result) -> None:
    section.text("What existed in each container before the workers came and after they had ended.")
    rows = []
    for baseline in result["baselines"]:
        before, after = baseline.get("before", {}), baseline.get("after", {})
        rows += [[baseline["container"], name.replace("_", " "), before[name], after.get(name, "")] for name in before]
    section.table(["container", "what", "before", "after"], rows)
