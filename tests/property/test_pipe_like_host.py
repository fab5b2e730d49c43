"""The same random operations on a pipe of the host and on ours give the same results."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import sys
import termios
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from event_world import new_kernel, read, write
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, O_NONBLOCK
from polynix.kernelproc.vfs.pipe import new_pipe, pipe_of

kernel = new_kernel()
SIZES = st.one_of(
    st.integers(0, 20),
    st.sampled_from([2047, 2048, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 200_000]),
    st.integers(0, 70_000),
)
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("read"), SIZES),
    st.tuples(st.just("resize"), st.sampled_from([0, 1, 4096, 4097, 8192, 16384, 65536, 65537, 131072, 1 << 20])),
)
EVENTS = select.POLLIN | select.POLLOUT | select.POLLERR | select.POLLHUP


class Credentials:
    def has_capability(self, _capability: int) -> bool:
        return True


class Task:
    credentials = Credentials()
    kernel = kernel


def attempt(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except OSError as error:
        return -(error.errno or 0)
    except Errno as error:
        return -error.errno


def host_events(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, EVENTS)
    return sum(mask for _, mask in poll.poll(0))


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, max_size=40), st.sampled_from([0, os.O_DIRECT]), st.sampled_from(["none", "reader", "writer"]))
def test_pipe(operations: list[tuple[str, int]], flags: int, closed_at_the_end: str) -> None:
    host_reader, host_writer = os.pipe2(os.O_NONBLOCK | flags)
    reader, writer = (end.retain() for end in new_pipe(kernel, O_NONBLOCK | flags))
    pipe = pipe_of(reader)
    assert pipe is not None
    counter = 0

    def compare(operation: str, size: int) -> None:
        nonlocal counter
        if operation == "write":
            counter += 1
            data = (b"%d." % counter * (size // 2 + 1))[:size]
            expected, got = attempt(os.write, host_writer, data), attempt(write, writer, data)
        elif operation == "read":
            expected, got = attempt(os.read, host_reader, size), attempt(read, reader, size)
        else:
            expected = attempt(fcntl.fcntl, host_writer, fcntl.F_SETPIPE_SZ, size)
            if expected == -errno.EPERM:
                return
            got = attempt(writer.ops.fcntl, writer, Task(), F_SETPIPE_SZ, size)
        assert got == expected, f"{operation}({size})"

    try:
        for operation, size in operations:
            compare(operation, size)
            assert reader.ops.query_events(reader) & EVENTS == host_events(host_reader)
            assert writer.ops.query_events(writer) & EVENTS == host_events(host_writer)
            unread = struct.unpack("i", fcntl.ioctl(host_reader, termios.FIONREAD, b"\0" * 4))[0]
            assert pipe.length == unread
            assert writer.ops.fcntl(writer, Task(), F_GETPIPE_SZ, 0) == fcntl.fcntl(host_writer, fcntl.F_GETPIPE_SZ)  # type: ignore[arg-type]
            assert pipe.used == sum(buffer.slots for buffer in pipe.buffers)
        if closed_at_the_end == "writer":
            os.close(host_writer)
            host_writer = -1
            writer.release()
            for size in (100, 100_000_0, 1):
                compare("read", size)
            assert reader.ops.query_events(reader) & EVENTS == host_events(host_reader)
        elif closed_at_the_end == "reader":
            os.close(host_reader)
            host_reader = -1
            reader.release()
            compare("write", 0)
            compare("write", 1)
            assert writer.ops.query_events(writer) & EVENTS == host_events(host_writer)
    finally:
        for fd in (host_reader, host_writer):
            if fd >= 0:
                os.close(fd)
