"""``polynix ps``, ``stubs``, ``stats``, ``maps``, ``fds``, ``tree``: what running kernels show, as tables or as JSON.

Tasks, counters, stubs and statistics come from the shared regions, at no cost to the kernels; mappings, descriptors and the tree are asked for.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from polynix.tools.inspection import ask
from polynix.tools.selection import NoKernel, selected_kernels

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[str, Any]
UNLIMITED = 10_000  # columns
COMMAND_WIDTH = 80


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1)
    sys.stdout.write("\n")


def print_table(rows: list[Row], columns: dict[str, str], *, error: bool = False) -> None:
    """``columns`` maps a heading to the field that stands below it; ``error`` prints to standard error."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(Text(_text(row[field])) for field in columns.values()))
    console(error=error).print(table)


def console(*, error: bool = False) -> Console:
    """Standard output (or error); what reads it from a pipe gets whole lines."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream) if stream.isatty() else Console(file=stream, width=UNLIMITED)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def task_rows(kernel: str | None) -> list[Row]:
    """Tasks of each kernel, from its region; ``age`` in seconds."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    rows = []
    for pid, view in selected_kernels(kernel):
        for task in view.tasks():
            row: Row = {"kernel": pid, **{field: int(task[field]) for field in ("pid", "tid", "ppid", "uid", "syscalls", "faults")}}
            row["age"] = round(max(now - int(task["start_ns"]), 0) / 1e9, 1)
            row["command"] = bytes(task["comm"]).decode(errors="replace")
            rows.append(row)
    return rows


def show_tasks(kernel: str | None, as_json: bool, pid: int | None) -> None:
    """Tasks of each kernel."""
    rows = [row for row in task_rows(kernel) if pid in (None, row["pid"])]
    if as_json:
        print_json(rows)
        return
    headings = ("kernel", "pid", "tid", "ppid", "uid", "syscalls", "faults", "age", "command")
    print_table([{**row, "age": f"{row['age']:.1f}s"} for row in rows], {field.upper(): field for field in headings})


def show_stubs(kernel: str | None, as_json: bool, pid: int | None) -> None:
    """What guests asked for and polynix does not have yet."""
    rows = [{"kernel": number, **stub} for number, view in selected_kernels(kernel) for stub in view.notes().get("stubs", [])]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["flags"] = "" if row["flags"] is None else hex(row["flags"])
        row["place"] = f"{row['file']}:{row['line']}"
    print_table(rows, {"KERNEL": "kernel", "COUNT": "count", "MISSING": "message", "FLAGS": "flags", "PROCESS": "process", "PLACE": "place"})


def show_statistics(kernel: str | None, as_json: bool, pid: int | None) -> None:
    """System calls by total time, of kernels that run with ``--feature syscall_stats``."""
    rows = [{"kernel": number, **row} for number, view in selected_kernels(kernel) for row in view.notes().get("syscalls", [])]
    if as_json:
        print_json(rows)
        return
    times = {"TOTAL µs": "total_us", "MEAN µs": "mean_us", "MAX µs": "max_us"}
    print_table(rows, {"KERNEL": "kernel", "CALLS": "calls", "ERRORS": "errors", **times, "SYSTEM CALL": "name"})


def _ask_each(kernel: str | None, request: str, **arguments: Any) -> list[tuple[int, Any]]:
    """Answers of the selected kernels; of several, one that ends meanwhile is left out. Errors: NoKernel, InspectionError."""
    answers = []
    for number, _ in selected_kernels(kernel):
        try:
            answers.append((number, ask(number, request, **arguments)))
        except NoKernel:
            if kernel is not None:
                raise
    return answers


def show_maps(kernel: str | None, as_json: bool, pid: int | None) -> None:
    """Mappings of processes, and what backs them."""
    rows: list[Row] = []
    for number, spaces in _ask_each(kernel, "maps", pid=pid):
        for space in spaces:
            rows += [{"kernel": number, "pids": space["pids"], "host_pid": space["host_pid"], **mapping} for mapping in space["mappings"]]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["range"] = f"{row['start']:x}-{row['end']:x}"
        row["size"], row["rss"] = (row["end"] - row["start"]) >> 10, row["resident"] >> 10
    columns = {"KERNEL": "kernel", "PID": "pids", "RANGE": "range", "PROT": "protection", "KIND": "kind", "KIB": "size", "RSS": "rss", "NAME": "name"}
    print_table(rows, columns)


def show_descriptors(kernel: str | None, as_json: bool, pid: int | None) -> None:
    """Open descriptors of processes."""
    rows = [{"kernel": number, **row} for number, answer in _ask_each(kernel, "fds", pid=pid) for row in answer]
    if as_json:
        print_json(rows)
        return
    names = ("kernel", "pid", "comm", "fd", "mode", "file", "references", "offset", "flags", "name")
    print_table(rows, {field.upper(): field for field in names})


def show_tree(kernel: str | None, as_json: bool, pid: int | None) -> None:
    """Processes as a tree, with what blocked ones wait for."""
    from rich.text import Text
    from rich.tree import Tree

    answers = _ask_each(kernel, "tasks")
    if as_json:
        print_json([{"kernel": number, **row} for number, rows in answers for row in rows if pid in (None, row["pid"])])
        return
    output = console()
    for number, rows in answers:
        processes: dict[int, list[Row]] = {}
        for row in rows:
            processes.setdefault(row["pid"], []).append(row)
        root = Tree(f"kernel {number}")
        branches: dict[int, Tree] = {}

        def branch(process: int, *, root: Tree = root, branches: dict[int, Tree] = branches, processes: dict[int, list[Row]] = processes) -> Tree:
            if process not in branches:
                threads = processes[process]
                parent = threads[0]["ppid"]
                top = pid == process or parent not in processes
                branches[process] = (root if top else branch(parent)).add(Text(_process_line(threads[0])))
                for thread in threads[1:]:
                    branches[process].add(Text(f"{{{thread['comm']}}} {thread['tid']} {_doing(thread)}"))
            return branches[process]

        for process in processes:
            if pid is None or _is_below(processes, process, pid):
                branch(process)
        output.print(root)


def _is_below(processes: dict[int, list[Row]], process: int, ancestor: int) -> bool:
    while process in processes:
        if process == ancestor:
            return True
        process = processes[process][0]["ppid"]
    return False


def _process_line(row: Row) -> str:
    command = " ".join(" ".join(row.get("command", ())).split()) or row["comm"]
    short = command if len(command) <= COMMAND_WIDTH else command[: COMMAND_WIDTH - 1] + "…"
    return f"{row['pid']} {short}  {_doing(row)}"


def _doing(row: Row) -> str:
    return str(row["state"]) + (f" {row['syscall']}: {row['wait']}" if row["wait"] else "")
