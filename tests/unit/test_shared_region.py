"""The shared kernel region: what the kernel writes word by word is what numpy's structured arrays show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy
import pytest
from polynix.kernelproc.region_layout import MAX_TASKS, TaskWord, header_dtype, task_dtype
from polynix.kernelproc.shared_region import RegionView, SharedRegion, running_kernels


class TaskRow:
    def __init__(self, tid: int, pid: int, comm: bytes) -> None:
        self.tid, self.group, self.comm = tid, SimpleNamespace(pid=pid), comm
        self.credentials, self.start_time_ns = SimpleNamespace(uid=1000), 5


@pytest.fixture
def region():
    made = SharedRegion()
    yield made
    made.close()


def test_rows_reach_readers(region: SharedRegion) -> None:
    first, second = TaskRow(7, 7, b"first"), TaskRow(9, 7, b"a-name-of-15-by")
    row = region.add_task(first)
    region.add_task(second)
    row[TaskWord.SYSCALLS] += 3
    view = RegionView(int(region.words[2]))
    tasks = view.tasks()
    assert isinstance(tasks, numpy.ndarray)
    assert [(int(each["tid"]), int(each["pid"]), int(each["uid"]), int(each["syscalls"]), bytes(each["comm"])) for each in tasks] == [
        (7, 7, 1000, 3, b"first"),
        (9, 7, 1000, 0, b"a-name-of-15-by"),
    ]
    region.remove_task(first)
    assert [int(each["tid"]) for each in view.tasks()] == [9]
    assert int(view.header["tasks"]) == 1


def test_rows_are_used_again_and_a_full_table_is_no_error(region: SharedRegion) -> None:
    tasks = [TaskRow(number + 1, 1, b"x") for number in range(MAX_TASKS + 5)]
    for task in tasks:
        region.add_task(task)
    view = RegionView(int(region.words[2]))
    assert len(view.tasks()) == MAX_TASKS
    for task in tasks:
        region.remove_task(task)
    assert len(view.tasks()) == 0
    region.add_task(TaskRow(3, 3, b"again"))
    assert len(view.tasks()) == 1


def test_readers_cannot_write(region: SharedRegion) -> None:
    view = RegionView(int(region.words[2]))
    with pytest.raises(ValueError, match="read-only"):
        view.syscalls[0] = 1


def test_notes(region: SharedRegion) -> None:
    view = RegionView(int(region.words[2]))
    assert view.notes() == {}
    region.set_notes({"stubs": [{"message": "é"}]})
    assert view.notes() == {"stubs": [{"message": "é"}]}
    region.set_notes({"small": 1, "large": "x" * 100_000})
    assert view.notes() == {"small": 1}


def test_layout_and_name(region: SharedRegion) -> None:
    assert task_dtype().itemsize == 128
    assert header_dtype().itemsize == 128
    assert int(region.words[2]) in running_kernels()
