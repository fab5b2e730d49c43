"""What keeps a start short, told by what processes have done, not by how long they took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import polynix

ENTRY = """
import os, sys
from polynix.tools import start
os._exit = sys.exit
sys.argv = ["polynix", {}]
start.entry()
"""
RUN = ENTRY.format("'run', '/nonexistent'")
START = ENTRY.format("'start', '--runner', '/nonexistent', 'name', 'true'")
LAUNCHER = "from polynix.runner.launcher import _import_kernel; _import_kernel()"
HEAVY = {"asyncio", "hashlib", "numpy", "plotly", "rich", "ssl"}


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        pytest.param(START, {*HEAVY, "click", "dataclasses", "dill", "inspect", "multiprocess", "shutil"}, id="start"),
        pytest.param(RUN, {*HEAVY, "click"}, id="run"),
        pytest.param(LAUNCHER, {*HEAVY, "click", "subprocess"}, id="launcher"),
    ],
)
def test_what_is_not_imported(code: str, unwanted: set[str]) -> None:
    """Each of these takes 3 to 60 ms, of which a start has few."""
    program = f"import atexit, sys; atexit.register(lambda: print(*sys.modules))\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    modules = done.stdout.split()
    assert "polynix.ipc.bindings" in modules, done.stderr
    assert not unwanted & set(modules)


def table_size(pid: int) -> int:
    """Descriptors for which a process has room (FDSize, ``man 5 proc``)."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("FDSize:")]
    return int(line.split()[1])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_kernel_and_runner_have_room_for_descriptors_before_they_need_it() -> None:
    """A table that grows while threads share it makes the caller wait for the host."""
    with polynix.Container() as container:
        kernel = container.kernel_pid
        runner = parent_of(parent_of(kernel))
        assert table_size(kernel) >= 1024
        assert table_size(runner) >= 1024
