"""``polynix top`` is readable however narrow the terminal is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from polynix.tools.top import COLUMNS, KernelLook, ThreadLook, _render, columns_for
from rich.console import Console


def line(**changes: Any) -> ThreadLook:
    values: dict[str, Any] = {
        "kernel": 1234567, "pid": 12345, "tid": 12346, "ppid": 1, "uid": 0, "command": "fifteen-letters", "state": "R", "cpu": 100.0, "runnable": 12.5,
        "cpu_seconds": 12345.67, "syscalls": 123456.0, "faults": 12345.0, "io": 1 << 30, "memory": 1 << 32, "threads": 12,
    }  # fmt: skip
    return ThreadLook(**{**values, **changes})


def shown(width: int, kernels: int = 1, threads: bool = False) -> list[str]:
    looks = [KernelLook(1234567 + number, 100.0, 1000, 123456789, 1 << 30, [line(kernel=1234567 + number)]) for number in range(kernels)]
    console = Console(file=io.StringIO(), width=width)
    console.print(_render(looks, threads, "cpu", None, width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("kernels", [1, 2])
def test_a_narrow_terminal_shows_whole_cells(width: int, kernels: int) -> None:
    lines = shown(width, kernels)
    assert len(lines) == 2 * kernels + 1  # nothing is wrapped
    assert all(len(text.rstrip()) <= width for text in lines)
    headings, *rows = lines[kernels:]
    for row in rows:
        assert row.split()[-1] == "fifteen-letters"
        assert len(row.split()) == len(headings.split())
        assert "…" not in row
    assert {"PID", "S", "CPU%", "CALLS/s", "COMMAND"} <= set(headings.split())


def test_wide_terminals_and_pipes_show_everything() -> None:
    assert shown(200)[1].split() == [column.heading for column in COLUMNS if column.heading != "TID"] + ["COMMAND"]
    assert shown(200, threads=True)[1].split() == [column.heading for column in COLUMNS if column.heading != "THR"] + ["COMMAND"]


def test_what_goes_first() -> None:
    def missing(width: int, kernels: int) -> set[str]:
        left = {column.heading for column in columns_for([line()], False, kernels, width)}
        return {column.heading for column in COLUMNS} - {"TID"} - left

    assert missing(90, 1) == missing(90, 2) == set()
    assert (missing(80, 1), missing(80, 2)) == ({"KERNEL"}, {"FAULTS/s"})
    assert missing(60, 1) == missing(60, 2) == {"KERNEL", "FAULTS/s", "WAIT%", "THR"}
    assert missing(20, 1) == {column.heading for column in COLUMNS} - {"PID", "TID", "S", "CPU%", "CALLS/s"}
