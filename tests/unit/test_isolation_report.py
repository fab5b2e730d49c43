"""The memory part of the isolation report, on real processes of the host with a kernel's view that is true, or is not."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polynix.kernelproc.latency_buckets import HIGHEST_NS, LOWEST_NS, SIGNIFICANT_DIGITS, bucket_index, bucket_value
from polynix.tools.profile import memory, waits

PAGE = 4096
PAGES = 8


PAIR = """
import ctypes, mmap, os, signal, sys
fd, length = int(sys.argv[1]), int(sys.argv[2])
shared = mmap.mmap(fd, length)
shared[:] = b"x" * length
reader, writer = os.pipe()
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        sum(shared[::4096])
        shared[0:1] = b"y"
        os.write(writer, b"1")
        signal.pause()
    children.append(pid)
for _ in children:
    os.read(reader, 1)
print(ctypes.addressof(ctypes.c_char.from_buffer(shared)), *children, flush=True)
sys.stdin.read()
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.fixture
def pair() -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Two processes that share PAGES pages of one memory file, and the kernel's true view of it. They are forked from a small process: that of the tests
    may have windows of terabytes.
    """
    fd = os.memfd_create("shared")
    os.ftruncate(fd, PAGES * PAGE)
    status = os.fstat(fd)
    command = [sys.executable, "-c", PAIR, str(fd), str(PAGES * PAGE)]
    with subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        address, *children = map(int, parent.stdout.readline().split())
        mapping = {"start": address, "end": address + PAGES * PAGE, "protection": "rw-", "kind": "shared", "name": "", "file_offset": 0,
                   "resident": PAGES * PAGE, "device": status.st_dev, "inode": status.st_ino, "offset": 0}  # fmt: skip
        spaces = [
            {"pids": [number], "comm": "test", "host_pid": pid, "copied_bytes": 0, "guest_limit": 1 << 63, "mappings": [dict(mapping)], "trampolines": []}
            for number, pid in enumerate(children, 1)
        ]
        yield spaces, address
        parent.stdin.close()
    os.close(fd)


def compare(spaces: list[dict[str, Any]], address: int, by_frame: bool) -> tuple[memory.MemoryReport, list[memory.Violation]]:
    """Compare what lies at the shared mapping; the rest of these processes (forked, and not restricted) is not the subject."""
    report = memory.MemoryReport([], by_frame)
    views = memory._views(spaces, report)
    for view in views:
        inside = (view.addresses >= address) & (view.addresses < address + PAGES * PAGE)
        for name in ("pages", "addresses", "writable", "owner", "codes", "backings"):
            setattr(view, name, getattr(view, name)[inside])
    return report, list(memory._compare(views, report).values())


FRAMES = pytest.mark.parametrize("by_frame", [True, False])


def usable(by_frame: bool) -> None:
    if by_frame and not memory.frames_are_visible():
        pytest.skip("page frames are for root")


@FRAMES
def test_what_both_asked_for_is_explained(pair: tuple[list[dict[str, Any]], int], by_frame: bool) -> None:
    usable(by_frame)
    report, found = compare(*pair, by_frame)
    assert found == [] and report.host["shared"] == [[0, PAGES * PAGE], [PAGES * PAGE, 0]]
    assert memory.kernel_matrix(pair[0])["shared"] == [[0, PAGES * PAGE], [PAGES * PAGE, 0]]


@FRAMES
@pytest.mark.parametrize(
    "lie",
    [
        {"kind": "anonymous"},  # the kernel thinks it private
        {"kind": "file"},  # a private file map that is writable
        {"kind": "shared", "inode": 1},  # another object
        {"kind": "shared", "offset": PAGE},  # another part of it
        {"start": 1 << 50, "end": (1 << 50) + PAGE},  # the kernel knows nothing of it
    ],
)
def test_what_the_kernel_cannot_explain_is_a_violation(pair: tuple[list[dict[str, Any]], int], by_frame: bool, lie: dict[str, Any]) -> None:
    usable(by_frame)
    spaces, address = pair
    spaces[1]["mappings"][0] |= lie
    report, found = compare(spaces, address, by_frame)
    assert len(found) == PAGES and report.host["violation"][0][1] == PAGES * PAGE and report.host["shared"][0][1] == 0
    assert {(each.first, each.second) for each in found} == {("1 test", "2 test")} and all(each.reason for each in found)


def test_a_writable_page_of_polynix_itself_is_a_violation(pair: tuple[list[dict[str, Any]], int]) -> None:
    spaces, address = pair
    for space in spaces:
        space["mappings"], space["guest_limit"] = [], 0
    _, found = compare(spaces, address, False)
    assert len(found) == PAGES and "writable" in found[0].reason


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@UNHURRIED
@given(st.lists(st.lists(st.integers(0, 40), max_size=30), min_size=1, max_size=5))
def test_pair_bytes_counts_common_pages(sets: list[list[int]]) -> None:
    groups = numpy.array([page for pages in sets for page in pages], numpy.uint64)
    members = numpy.array([index for index, pages in enumerate(sets) for _ in pages], numpy.int64)
    matrix = memory.pair_bytes(groups, members, len(sets))
    for one, first in enumerate(sets):
        for two, second in enumerate(sets):
            assert matrix[one][two] == (0 if one == two else PAGE * len(set(first) & set(second)))


def test_present_pages_are_those_that_were_touched() -> None:
    area = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    for page in (3, 4, 5, 20):
        area[page * PAGE] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert memory.present_pages(os.getpid(), address, address + 64 * PAGE) == [(address + 3 * PAGE, 3), (address + 20 * PAGE, 1)]


@UNHURRIED
@given(st.integers(0, 1 << 50))
def test_buckets_are_those_of_the_hdr_library(value: int) -> None:
    histogram = HdrHistogram(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
    histogram.record_value(min(value, HIGHEST_NS))
    index = bucket_index(value)
    assert histogram.get_count_at_index(index) == 1
    assert bucket_value(index) == histogram.get_value_from_index(index) <= value


def test_fairness() -> None:
    assert waits.fairness([3.0, 3.0, 3.0]) == pytest.approx(1)
    assert waits.fairness([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert waits.fairness([]) == 1.0
