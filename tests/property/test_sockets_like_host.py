"""The same random operations on a pair of AF_UNIX sockets of the host and on ours give the same results."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import termios
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from event_world import Guest, new_kernel
from polynix.kernelproc.net.messages import stream_truesize
from polynix.kernelproc.uapi.socket import (
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_TRUNC,
    SCM_RIGHTS,
    SO_PASSCRED,
    SO_SNDBUF,
    SOL_SOCKET,
)

kernel = new_kernel()
guest = Guest(kernel)
SIOCOUTQ = 0x5411
LIBC = ctypes.CDLL(None, use_errno=True)
EVENTS = select.POLLIN | select.POLLOUT | select.POLLERR | select.POLLHUP | select.POLLRDHUP
SIZES = st.one_of(st.integers(0, 20), st.sampled_from([192, 193, 704, 705, 3776, 3777, 16064, 16065, 36544, 36545, 100_000, 212_960, 212_961, 300_000]))
ENDS = st.integers(0, 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("send"), ENDS, SIZES),
    st.tuples(st.just("receive"), ENDS, SIZES),
    st.tuples(st.just("peek"), ENDS, SIZES),
    st.tuples(st.just("receive whole"), ENDS, SIZES),
    st.tuples(st.just("send file"), ENDS, st.integers(1, 5)),
    st.tuples(st.just("receive message"), ENDS, st.sampled_from([0, 1, 10, 100_000])),
    st.tuples(st.just("shutdown"), ENDS, st.integers(0, 2)),
    st.tuples(st.just("send buffer"), ENDS, st.sampled_from([0, 4000, 10_000, 212_992])),
    st.tuples(st.just("pass credentials"), ENDS, st.integers(0, 1)),
    st.tuples(st.just("close"), ENDS, st.just(0)),
)


def same_layout() -> bool:
    """Whether this host's kernel lays messages out as the one that ours was modelled on: else charges and writability differ."""
    for size in (1, 200, 4000, 20_000):
        one, other = socket.socketpair()
        with one, other:
            one.send(bytes(size))
            if struct.unpack("i", fcntl.ioctl(one, SIOCOUTQ, b"\0" * 4))[0] != stream_truesize(size):
                return False
    return True


SAME_LAYOUT = same_layout()


class Host:
    """A pair of the host's sockets."""

    def __init__(self, kind: int) -> None:
        self.ends: list[Any] = list(socket.socketpair(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK))
        self.extra = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def attempt(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except OSError as error:
            return -(error.errno or 0)

    def do(self, name: str, end: int, argument: int, data: bytes) -> Any:
        one = self.ends[end]
        if one is None:
            return None
        if name == "send":
            return self.attempt(one.send, data, MSG_NOSIGNAL)
        if name == "receive":
            return self._recv(one, argument, 0)[1]
        if name == "peek":
            return self._recv(one, argument, MSG_PEEK)[1]
        if name == "receive whole":
            return self._recv(one, argument, MSG_TRUNC)
        if name == "send file":
            control = [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", self.extra))]
            return self.attempt(one.sendmsg, [data], control, MSG_NOSIGNAL)
        if name == "receive message":
            return self.attempt(self._recvmsg, one, argument)
        if name == "shutdown":
            return self.attempt(one.shutdown, argument)
        if name == "send buffer":
            one.setsockopt(SOL_SOCKET, SO_SNDBUF, min(argument, 212992))
            return one.getsockopt(SOL_SOCKET, SO_SNDBUF)
        if name == "pass credentials":
            one.setsockopt(SOL_SOCKET, SO_PASSCRED, argument)
            return None
        self.ends[end] = None
        one.close()
        return None

    def _recv(self, one: Any, size: int, flags: int) -> tuple[int, Any]:
        """recv of the C library: Python's own has shortcuts."""
        buffer = ctypes.create_string_buffer(size) if size else None
        count = LIBC.recv(one.fileno(), buffer, ctypes.c_size_t(size), flags)
        if count < 0:
            error = -ctypes.get_errno()
            return error, error
        return count, buffer.raw[: min(count, size)] if buffer is not None else b""

    def _recvmsg(self, one: Any, size: int) -> tuple[bytes, int, list[tuple[int, int]]]:
        data, control, flags, _ = one.recvmsg(size, 200)
        kinds = []
        for _level, kind, payload in control:
            kinds.append((kind, len(payload)))
            if kind == SCM_RIGHTS:
                for (fd,) in struct.iter_unpack("i", payload):
                    os.close(fd)
        return data, flags & ~0x40000000, kinds

    def facts(self, end: int) -> Any:
        one = self.ends[end]
        if one is None:
            return None
        poll = select.poll()
        poll.register(one, EVENTS)
        events = sum(mask for _, mask in poll.poll(0))
        unread = struct.unpack("i", fcntl.ioctl(one, termios.FIONREAD, b"\0" * 4))[0]
        charged = struct.unpack("i", fcntl.ioctl(one, SIOCOUTQ, b"\0" * 4))[0]
        return events, unread, charged

    def close(self) -> None:
        for one in self.ends:
            if one is not None:
                one.close()
        os.close(self.extra)


class Ours:
    """A pair of ours, through the system calls."""

    def __init__(self, kind: int) -> None:
        address = guest.memory(8)
        assert guest.call("socketpair", socket.AF_UNIX, kind | socket.SOCK_NONBLOCK, 0, address) == 0
        self.ends: list[int | None] = list(struct.unpack("ii", guest.load(address, 8)))
        self.extra, other = guest.pipe()
        guest.call("close", other)

    def do(self, name: str, end: int, argument: int, data: bytes) -> Any:
        fd = self.ends[end]
        if fd is None:
            return None
        if name == "send":
            return guest.call("sendto", fd, guest.memory(data), len(data), MSG_NOSIGNAL, 0, 0)
        if name in ("receive", "peek"):
            buffer = guest.memory(argument)
            count = guest.call("recvfrom", fd, buffer, argument, MSG_PEEK if name == "peek" else 0, 0, 0)
            return guest.load(buffer, count) if count >= 0 else count
        if name == "receive whole":
            buffer = guest.memory(argument)
            count = guest.call("recvfrom", fd, buffer, argument, MSG_TRUNC, 0, 0)
            return (count, guest.load(buffer, min(count, argument))) if count >= 0 else (count, count)
        if name == "send file":
            iov = guest.memory(struct.pack("<QQ", guest.memory(data), len(data)))
            control = guest.memory(struct.pack("<Qiii4x", 20, SOL_SOCKET, SCM_RIGHTS, self.extra))
            return guest.call("sendmsg", fd, guest.memory(struct.pack("<QQQQQQQ", 0, 0, iov, 1, control, 24, 0)), MSG_NOSIGNAL)
        if name == "receive message":
            return self._recvmsg(fd, argument)
        if name == "shutdown":
            result = guest.call("shutdown", fd, argument)
            return result or None
        if name == "send buffer":
            guest.call("setsockopt", fd, SOL_SOCKET, SO_SNDBUF, guest.memory(struct.pack("i", argument)), 4)
            value, length = guest.memory(4), guest.memory(struct.pack("i", 4))
            assert guest.call("getsockopt", fd, SOL_SOCKET, SO_SNDBUF, value, length) == 0
            return struct.unpack("i", guest.load(value, 4))[0]
        if name == "pass credentials":
            guest.call("setsockopt", fd, SOL_SOCKET, SO_PASSCRED, guest.memory(struct.pack("i", argument)), 4)
            return None
        self.ends[end] = None
        guest.call("close", fd)
        return None

    def _recvmsg(self, fd: int, size: int) -> Any:
        buffer, room = guest.memory(size), guest.memory(200)
        iov = guest.memory(struct.pack("<QQ", buffer, size))
        header = guest.memory(struct.pack("<QQQQQQQ", 0, 0, iov, 1, room, 200, 0))
        count = guest.call("recvmsg", fd, header, 0)
        if count < 0:
            return count
        *_, length, flags = struct.unpack("<QQQQQQi4x", guest.load(header, 56))
        control, kinds, offset = guest.load(room, length), [], 0
        while offset < length:
            size, _level, kind = struct.unpack_from("<Qii", control, offset)
            kinds.append((kind, size - 16))
            if kind == SCM_RIGHTS:
                for (received,) in struct.iter_unpack("<i", control[offset + 16 : offset + size]):
                    guest.call("close", received)
            offset += (size + 7) & ~7
        return guest.load(buffer, count), flags, kinds

    def facts(self, end: int) -> Any:
        fd = self.ends[end]
        if fd is None:
            return None
        file = guest.task.files.get(fd)
        values = []
        for request in (termios.FIONREAD, SIOCOUTQ):
            address = guest.memory(4)
            assert guest.call("ioctl", fd, request, address) == 0
            values.append(struct.unpack("i", guest.load(address, 4))[0])
        return file.ops.query_events(file) & EVENTS, *values

    def close(self) -> None:
        for fd in self.ends:
            if fd is not None:
                guest.call("close", fd)
        guest.call("close", self.extra)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=30), st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]))
def test_socketpair(operations: list[tuple[str, int, int]], kind: int) -> None:
    host, ours = Host(kind), Ours(kind)
    try:
        for number, (name, end, argument) in enumerate(operations):
            size = argument if name == "send" else 1 if name == "send file" else 0
            data = (b"%d." % number * (size // 2 + 1))[:size]
            expected = host.do(name, end, argument, data)
            got = ours.do(name, end, argument, data)
            assert got == expected, f"{name} {end} {argument}"
            for each in range(2):
                here, there = ours.facts(each), host.facts(each)
                if not SAME_LAYOUT and here is not None:
                    here, there = (here[0] & ~select.POLLOUT, here[1]), (there[0] & ~select.POLLOUT, there[1])
                assert here == there, f"after {name} {end} {argument}: end {each}"
    finally:
        host.close()
        ours.close()
    assert len(guest.task.files) == 0
