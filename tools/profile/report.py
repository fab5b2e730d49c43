"""The profile's HTML report: one page of plots and tables from the JSON document of :mod:`.result`."""

from __future__ import annotations

import itertools
from typing import Any

from polynix.kernelproc.latency_buckets import bucket_value
from polynix.tools.profile import waits
from polynix.tools.profile.accounts import TIMES
from polynix.tools.profile.result import violations
from polynix.tools.report.page import Page, Section

TIME_NAMES = {"user_ns": "user", "kernel_ns": "kernel", "blocked_ns": "blocked", "runnable_ns": "runnable", "handoff_ns": "hand-off"}
COLOURS = {"user_ns": "#2e7d32", "kernel_ns": "#c62828", "blocked_ns": "#cfd8dc", "runnable_ns": "#f9a825", "handoff_ns": "#8e7cc3"}
MOST_PROCESSES = 30  # in one plot; the tables have more
MOST_CALLS = 12

Result = dict[str, Any]


def name_of(row: dict[str, Any]) -> str:
    return f"{row['pid']} {row['comm']}"


def seconds(nanoseconds: float) -> float:
    return round(nanoseconds / 1e9, 4)


def microseconds(nanoseconds: float) -> float:
    return round(nanoseconds / 1e3, 1)


def build_page(result: Result) -> Page:
    """The page, to be written."""
    page = Page("polynix profile", " ".join(result["command"]) or f"kernel {result['kernel_pid']}")
    _overview(page.section("Overview"), result)
    _times(page.section("Where the time goes"), result)
    _timeline(page.section("Time line"), result)
    _calls(page.section("System calls"), result)
    _memory(page.section("Memory and isolation"), result)
    _waits(page.section("Who waits for whom"), result)
    _threads(page.section("Threads"), result)
    if result["isolation"]["interference"]:
        section = page.section("Interference")
        for measured in result["isolation"]["interference"]:
            interference(section, measured)
    if result["isolation"]["fault"] is not None:
        _fault(page.section("One process killed"), result["isolation"]["fault"])
    return page


def _overview(section: Section, result: Result) -> None:
    status = "still running" if result["status"] is None else f"exit status {result['status']}"
    section.text(
        f"{seconds(result['elapsed_ns']):.2f} s on {result['cpus']} CPUs, {len(result['processes'])} processes, {status}. "
        f"polynix's kernel used {100 * result['kernel_loop']['share']:.1f}% of one CPU. "
        f"Jain's fairness of the processes' CPU time: {result['cpu_fairness']:.2f}."
    )
    if not result["complete"]:
        section.warning("The kernel ended before the profile did: this is what was seen until then.")
    if result["merged_threads"]:
        section.text(f"{result['merged_threads']} threads beyond the bound are counted together as “…”.")
    found = violations(result)
    for line in found[:20]:
        section.warning(f"Isolation violated: {line}")
    memory = result["isolation"]["memory"]
    if memory is not None and not found:
        how = "page frame by page frame" if memory["by_frame"] else "by inode and offset of each mapping (page frames are for root)"
        section.text(f"No isolation violation: {memory['checked_pages']:,} pages of {len(memory['labels'])} restricted processes verified {how}.")


def _times(section: Section, result: Result) -> None:
    rows = result["processes"][:MOST_PROCESSES]
    section.text(
        "User: on a CPU in guest code, the host kernel's work for it included. Kernel: polynix's kernel at work for it. Blocked: waiting for something. "
        "Runnable: waiting for a CPU of the host. Hand-off: on the way to polynix's one kernel thread, or back."
    )
    data = [
        {"type": "bar", "orientation": "h", "name": TIME_NAMES[kind], "y": [name_of(row) for row in rows], "x": [seconds(row[kind]) for row in rows],
         "marker": {"color": COLOURS[kind]}}
        for kind in TIMES
    ]  # fmt: skip
    section.figure(
        data, barmode="stack", title={"text": "Time by process (s, all threads)"}, height=min(200 + 24 * len(rows), 900),
        yaxis={"autorange": "reversed", "type": "category"}, margin={"l": 160, "r": 20, "t": 40, "b": 50},
    )  # fmt: skip
    times = [f"{name} s" for name in TIME_NAMES.values()]
    section.table(
        ["process", "parent", "threads", *times, "calls", "faults", "wake-ups", "switches", "forced", "copied KiB"],
        [
            [name_of(row), row["ppid"], row["threads"], *(seconds(row[kind]) for kind in TIMES), row["syscalls"], row["minor_faults"] + row["major_faults"],
             row["wakeups"], row["voluntary_switches"], row["involuntary_switches"], row["copied_bytes"] >> 10]
            for row in result["processes"]
        ],
    )  # fmt: skip


def _timeline(section: Section, result: Result) -> None:
    samples = result["samples"]
    if len(samples) < 2:
        section.text("Too short for a time line.")
        return
    at = [round((before["seconds"] + after["seconds"]) / 2, 3) for before, after in itertools.pairwise(samples)]
    names = {row["pid"]: name_of(row) for row in result["processes"][:MOST_PROCESSES]}
    data: list[dict[str, Any]] = []
    for pid, name in names.items():
        data.append({"type": "scatter", "mode": "lines", "stackgroup": "cpu", "name": name, "x": at, "y": _rates(samples, pid, "user_ns", 1e9)})
    kernel = [
        max(after["kernel_cpu_seconds"] - before["kernel_cpu_seconds"], 0) / max(after["seconds"] - before["seconds"], 1e-9)
        for before, after in itertools.pairwise(samples)
    ]
    data.append({"type": "scatter", "mode": "lines", "name": "polynix's kernel", "x": at, "y": kernel, "line": {"color": "#c62828", "width": 3}})
    section.figure(data, title={"text": "CPUs in use"}, xaxis={"title": {"text": "s"}})
    calls = [{"type": "scatter", "mode": "lines", "name": name, "x": at, "y": _rates(samples, pid, "syscalls", 1)} for pid, name in names.items()]
    section.figure(calls, title={"text": "System calls a second"}, xaxis={"title": {"text": "s"}})


def _rates(samples: list[dict[str, Any]], pid: int, field: str, unit: float) -> list[float]:
    rates = []
    for before, after in itertools.pairwise(samples):
        new = after["processes"].get(pid, after["processes"].get(str(pid)))
        old = before["processes"].get(pid, before["processes"].get(str(pid)))
        change = 0 if new is None else new[field] - (0 if old is None else old[field])
        rates.append(max(change, 0) / unit / max(after["seconds"] - before["seconds"], 1e-9))
    return rates


def _calls(section: Section, result: Result) -> None:
    rows = result["calls"]
    if not rows:
        section.text("None.")
        return
    data = [histogram_line(row["name"], row["buckets"]) for row in rows[:MOST_CALLS]]
    section.figure(
        data, title={"text": "Latency, from entry to return, blocking included"}, xaxis={"type": "log", "title": {"text": "µs"}},
        yaxis={"type": "log", "title": {"text": "calls"}},
    )  # fmt: skip
    headings = ["call", "number", "calls", "errors", "total s", "mean µs", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "longest µs"]
    section.table(
        headings,
        [
            [row["name"], row["number"], row["calls"], row["errors"], seconds(row["total_ns"]), microseconds(row["latency"]["mean_ns"]),
             *(microseconds(row["latency"][name]) for name in ("p50_ns", "p90_ns", "p99_ns", "p99_9_ns")), microseconds(row["longest_ns"])]
            for row in rows
        ],
    )  # fmt: skip


def histogram_line(name: str, buckets: list[tuple[int, int]]) -> dict[str, Any]:
    """A latency histogram as a line over µs; buckets are gathered by eighths of an octave."""
    gathered: dict[float, int] = {}
    for index, count in buckets:
        value = max(bucket_value(index), 1)
        octave = value.bit_length() - 1
        place = round((2**octave) * (1 + ((value - 2**octave) * 8 // 2**octave) / 8) / 1e3, 4)
        gathered[place] = gathered.get(place, 0) + count
    points = sorted(gathered.items())
    places, counts = [place for place, _ in points], [count for _, count in points]
    return {"type": "scatter", "mode": "lines+markers", "name": name, "x": places, "y": counts, "line": {"shape": "hvh"}}


def _memory(section: Section, result: Result) -> None:
    memory = result["isolation"]["memory"]
    if memory is None:
        section.text("The programs ended before their memory could be looked at.")
        return
    labels = memory["labels"]
    if memory["unreadable"]:
        section.warning(f"Not verified, because the caller may not look into them: {', '.join(memory['unreadable'])}")
    if memory["unchecked_bytes"]:
        section.text(f"{memory['unchecked_bytes'] >> 20:,} MiB of giant sparse mappings were not looked at.")
    headings = ["address space", "private KiB", "shared KiB", "file KiB", "page tables KiB", "copied KiB", "host RSS KiB", "shares with"]
    sizes = ("private_bytes", "shared_bytes", "file_bytes", "page_table_bytes", "copied_bytes", "host_resident_bytes")
    section.table(
        headings,
        [
            [each["label"], *(each[size] >> 10 for size in sizes), ", ".join(f"{name}: {size >> 10} KiB" for name, size in each["shared_with"].items())]
            for each in memory["processes"]
        ],
    )
    if len(labels) > 1:
        titles = {
            "shared": "Shared because both asked (MAP_SHARED), host's view",
            "file": "Pages of files that neither can write, host's view",
            "violation": "Violations",
        }
        for kind, title in titles.items():
            if kind != "violation" or result["isolation"]["violations"]:
                section.heat_map(title, labels, labels, [[value >> 10 for value in row] for row in memory["host"][kind]], "KiB")
        asked = [[value >> 10 for value in row] for row in memory["kernel"]["shared"]]
        section.heat_map("Shared because both asked, the kernel's view (present or not)", labels, labels, asked, "KiB")
    if result["isolation"]["violations"]:
        section.table(
            ["process", "at", "process", "at", "bytes", "why it is a violation"],
            [
                [each["first"], hex(each["first_address"]), each["second"], hex(each["second_address"]), each["bytes"], each["reason"]]
                for each in result["isolation"]["violations"]
            ],
        )


def _waits(section: Section, result: Result) -> None:
    rows = result["waits"]
    if not rows:
        section.text("Nobody was woken from a wait.")
        return
    names = {row["pid"]: name_of(row) for row in result["processes"]}
    waiters, wakers, values = waits.matrix(rows[:2000])
    section.heat_map(
        "Time that processes (rows) waited until these woke them (columns)",
        [names.get(int(each), each) if each.isdigit() else each for each in wakers],
        [names.get(int(each), each) for each in waiters],
        [[seconds(value) for value in row] for row in values],
        "s",
    )
    section.table(
        ["waiter", "woken by", "object", "times", "total s", "longest ms"],
        [
            [names.get(row["pid"], row["pid"]), names.get(row["waker"], row["waker"]), row["object"], row["count"], seconds(row["total_ns"]),
             round(row["longest_ns"] / 1e6, 2)]
            for row in rows
        ],
    )  # fmt: skip


def _threads(section: Section, result: Result) -> None:
    if result["convoys"]:
        section.text("Futexes by the time that threads lost on them; three or more threads that queue for one are a convoy.")
        section.table(
            ["process", "futex", "waits", "threads", "convoy", "total s", "longest ms"],
            [
                [row["pid"], row["futex"], row["waits"], row["waiters"], "yes" if row["convoy"] else "", seconds(row["total_ns"]),
                 round(row["longest_ns"] / 1e6, 2)]
                for row in result["convoys"]
            ],
        )  # fmt: skip
    section.table(
        ["process", "thread", *(f"{name} s" for name in TIME_NAMES.values()), "CPU share %", "calls", "wake-ups", "faults", "switches", "forced", "waits for"],
        [
            [name_of(row), row["tid"], *(seconds(row[kind]) for kind in TIMES), round(100 * row.get("cpu_share", 0.0), 1), row["syscalls"], row["wakeups"],
             row["minor_faults"] + row["major_faults"], row["voluntary_switches"], row["involuntary_switches"], row["blocked_on"]]
            for row in result["threads"]
        ],
    )  # fmt: skip


def interference(section: Section, measured: dict[str, Any]) -> None:
    """An interference measurement as heat maps."""
    labels = measured["labels"]
    section.text(f"Measured by {measured['how']}. Rows beside columns; 1 means as fast as alone.")
    for field, title in (("slow_down", "Slow-down of progress"), ("p99_slow_down", "Slow-down of the 99th percentile of system calls")):
        values = [[None if value is None else round(value, 3) for value in row] for row in measured[field]]
        section.heat_map(title, labels, labels, values, "times")  # type: ignore[arg-type]  # plotly leaves a gap for null
    if measured["fairness"] is not None:
        progress = [[label, round(value, 3)] for label, value in zip(labels, measured["together"], strict=True)]
        section.text(f"All together, Jain's fairness of what each kept of its speed: {measured['fairness']:.3f}.")
        section.table(["who", "kept of its speed"], progress)


def _fault(section: Section, fault: dict[str, Any]) -> None:
    others = len(fault["survivors"])
    section.text(f"Killed {fault['victim']}; {fault['hashed_bytes'] >> 10:,} KiB of the private memory of {others} others hashed before and after.")
    for field, words in (
        ("changed", "Memory changed (a violation)"), ("stalled", "Stopped making progress"), ("ended", "Ended with it"),
        ("answered", "Were answered a call meanwhile, so their memory may have been written by the kernel"), ("unreadable", "Not readable"),
    ):  # fmt: skip
        if fault[field]:
            section.text(f"{words}: {', '.join(fault[field])}.")
    if not fault["changed"]:
        section.text("Nobody else's memory changed.")
