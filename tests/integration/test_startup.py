"""What keeps a start short, told by what processes have done, not by how long they took."""

from __future__ import annotations

from pathlib import Path

import polynix


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
