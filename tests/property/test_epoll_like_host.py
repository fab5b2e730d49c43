"""The same random operations on epolls of the host and on ours give the same events, in the same order."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from event_world import Guest, new_kernel
from polynix.kernelproc.uapi.epoll import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLRDHUP,
)
from polynix.kernelproc.uapi.fcntl import O_NONBLOCK

kernel = new_kernel()
LIBC = ctypes.CDLL(None, use_errno=True)
FILES = 6  # reading end, writing end, eventfd, two sockets, the inner epoll
EVENTS = st.builds(
    lambda wanted, modes: sum(wanted) | sum(modes),
    st.sets(st.sampled_from([EPOLLIN, EPOLLOUT, EPOLLRDHUP])),
    st.sets(st.sampled_from([EPOLLET, EPOLLONESHOT, EPOLLEXCLUSIVE])),
)
WHICH = st.integers(0, FILES - 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("control"), st.integers(0, 1), st.sampled_from([EPOLL_CTL_ADD, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL]), WHICH, EVENTS),
    st.tuples(st.just("write"), WHICH, st.sampled_from([1, 8, 70_000])),
    st.tuples(st.just("read"), WHICH, st.sampled_from([1, 8, 70_000])),
    st.tuples(st.just("wait"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("dup and close"), WHICH),
    st.tuples(st.just("close"), WHICH),
)


class Host:
    """The files on the host. The inner epoll is the last of them."""

    def __init__(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK)
        event = os.eventfd(0, os.EFD_NONBLOCK)
        pair = socket.socketpair(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        inner = LIBC.epoll_create1(0)
        self.fds: list[int] = [reader, writer, event, pair[0].detach(), pair[1].detach(), inner]
        self.epolls = [LIBC.epoll_create1(0), inner]

    def control(self, epoll: int, operation: int, fd: int, events: int, data: int) -> int:
        event = ctypes.create_string_buffer(struct.pack("<IQ", events, data))
        result = LIBC.epoll_ctl(epoll, operation, fd, event)
        return -ctypes.get_errno() if result < 0 else result

    def wait(self, epoll: int, limit: int) -> Any:
        room = ctypes.create_string_buffer(12 * limit)
        count = LIBC.epoll_wait(epoll, room, limit, 0)
        if count < 0:
            return -ctypes.get_errno()
        return [(data, events) for events, data in struct.iter_unpack("<IQ", room.raw[: 12 * count])]

    def write(self, fd: int, data: bytes) -> int:
        try:
            return os.write(fd, data)
        except OSError as error:
            return -(error.errno or 0)

    def read(self, fd: int, count: int) -> Any:
        try:
            return os.read(fd, count)
        except OSError as error:
            return -(error.errno or 0)

    def dup(self, fd: int) -> int:
        return os.dup(fd)

    def close(self, fd: int) -> None:
        os.close(fd)


class Ours:
    """The same, through our system calls."""

    def __init__(self) -> None:
        self.guest = guest = Guest(kernel)
        guest.task.signals.mask = -1  # SIGPIPE stays pending
        reader, writer = guest.pipe(O_NONBLOCK)
        event = guest.call("eventfd2", 0, O_NONBLOCK)
        address = guest.memory(8)
        guest.call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM | O_NONBLOCK, 0, address)
        pair = struct.unpack("ii", guest.load(address, 8))
        inner = guest.call("epoll_create1", 0)
        self.fds: list[int] = [reader, writer, event, *pair, inner]
        self.epolls = [guest.call("epoll_create1", 0), inner]

    def control(self, epoll: int, operation: int, fd: int, events: int, data: int) -> int:
        return self.guest.call("epoll_ctl", epoll, operation, fd, self.guest.memory(struct.pack("<IQ", events, data)))

    def wait(self, epoll: int, limit: int) -> Any:
        room = self.guest.memory(12 * limit)
        count = self.guest.call("epoll_wait", epoll, room, limit, 0)
        if count < 0:
            return count
        return [(data, events) for events, data in struct.iter_unpack("<IQ", self.guest.load(room, 12 * count))]

    def write(self, fd: int, data: bytes) -> int:
        return self.guest.write(fd, data)

    def read(self, fd: int, count: int) -> Any:
        return self.guest.read(fd, count)

    def dup(self, fd: int) -> int:
        return self.guest.call("dup", fd)

    def close(self, fd: int) -> None:
        self.guest.call("close", fd)


def perform(side: Host | Ours, operation: tuple[Any, ...]) -> Any:
    name = operation[0]
    if name == "control":
        _, epoll, what, which, events = operation
        if side.fds[which] < 0 or side.epolls[epoll] < 0:
            return None
        return side.control(side.epolls[epoll], what, side.fds[which], events, which)
    if name == "wait":
        _, epoll, limit = operation
        return side.wait(side.epolls[epoll], limit) if side.epolls[epoll] >= 0 else None
    which = operation[1]
    fd = side.fds[which]
    if fd < 0:
        return None
    if name == "write":
        return side.write(fd, (1).to_bytes(8, "little") if which == 2 else b"x" * operation[2])
    if name == "read":
        return side.read(fd, operation[2])
    if name == "dup and close":
        duplicate = side.dup(fd)
        side.close(fd)
        side.fds[which] = duplicate
        if which == FILES - 1:
            side.epolls[1] = duplicate
        return None
    side.close(fd)
    side.fds[which] = -1
    if which == FILES - 1:
        side.epolls[1] = -1
    return None


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=40))
def test_epoll(operations: list[tuple[Any, ...]]) -> None:
    host, ours = Host(), Ours()
    try:
        for operation in operations:
            expected, got = perform(host, operation), perform(ours, operation)
            assert got == expected, operation
        for epoll in range(2):
            for _ in range(3):
                assert perform(ours, ("wait", epoll, 2)) == perform(host, ("wait", epoll, 2))
    finally:
        for fd in {*host.fds, *host.epolls}:
            if fd >= 0:
                os.close(fd)
        ours.guest.task.files.close_all(ours.guest.task)
