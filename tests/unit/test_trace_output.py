"""Where traces are written: whole, or what fits on the disk, or nothing."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
from polynix.tools.trace.output import Output, TraceError, whole_lines
from polynix.tools.trace.packet_writer import BEGIN, PacketWriter, whole_packets

LIMIT = 100_000


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file grows beyond LIMIT bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_lines(file: IO[bytes]) -> None:
    for number in range(100_000):
        file.write(b"line %d\n" % number)


def write_packets(file: IO[bytes]) -> None:
    writer = PacketWriter(file)
    for time in range(100_000):
        writer.event(time, writer.head(BEGIN, 1, "syscall", "read") + writer.annotation("buffer", f"{time:0{1 + time % 300}}"))


def test_a_complete_file_takes_the_place(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("before")
    with Output(str(path)) as output:
        assert path.read_text() == "before"
        output.write(write_lines, whole_lines)
    assert path.read_bytes().endswith(b"\nline 99999\n")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_written_leaves_nothing(tmp_path: Path) -> None:
    with Output(str(tmp_path / "t")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_whole_lines(tmp_path: Path, small_disk: None) -> None:
    path = tmp_path / "t"
    path.write_text("before")
    with Output(str(path)) as output, pytest.raises(TraceError, match=rf"^cannot write {path}: File too large; what fits is in {path}\.partial$"):
        output.write(write_lines, whole_lines)
    kept = (tmp_path / "t.partial").read_bytes()
    assert LIMIT - 20 < len(kept) <= LIMIT
    assert kept.splitlines() == [b"line %d" % number for number in range(kept.count(b"\n"))]
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_keeps_whole_packets(tmp_path: Path, small_disk: None) -> None:
    with Output(str(tmp_path / "t")) as output, pytest.raises(TraceError):
        output.write(write_packets, whole_packets)
    trace = Trace()
    trace.ParseFromString((tmp_path / "t.partial").read_bytes())
    assert [packet.timestamp for packet in trace.packet[1:]] == list(range(len(trace.packet) - 1))
    assert len(trace.packet) > 300


def test_what_is_no_use_in_part_is_not_kept(tmp_path: Path, small_disk: None) -> None:
    with Output(str(tmp_path / "t")) as output, pytest.raises(TraceError, match=r"File too large$"):
        output.write(write_lines)
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_as_it_is() -> None:
    with Output("/dev/full") as output, pytest.raises(TraceError, match=r"^cannot write /dev/full: No space left on device$"):
        output.write(write_lines, whole_lines)
    assert os.path.exists("/dev/full")


def test_packets_are_whole_wherever_the_file_ends() -> None:
    file = io.BytesIO()
    writer = PacketWriter(file)
    ends = [0, file.tell()]
    for length in (1, 100, 200, 20_000):
        writer.event(length << 20, writer.head(BEGIN, 1, "syscall", "read") + writer.annotation("buffer", "x" * length))
        ends.append(file.tell())
    data = file.getvalue()
    for size in (*range(ends[-2] + 10), *range(len(data) - 10, len(data) + 1)):
        assert whole_packets(io.BytesIO(data[:size])) == max(end for end in ends if end <= size)
