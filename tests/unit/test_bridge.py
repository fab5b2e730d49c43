"""AF_VSOCK's connections from outside, and bridges: over real sockets of the host, and over channels whose messages are counted."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest
from event_world import Guest, new_kernel, settle
from polynix.ipc.objects import Channel, Counter, Status, ZxStatus
from polynix.kernelproc.net.bridge import connect_to_port, connect_to_unix
from polynix.kernelproc.net.outside import ChannelOutside, HostSocketOutside
from polynix.kernelproc.net.vsock import OWN_CID
from polynix.kernelproc.uapi.errno import EAGAIN, ECONNRESET
from polynix.kernelproc.uapi.socket import AF_UNIX, AF_VSOCK, SHUT_WR, SOCK_NONBLOCK, SOCK_STREAM
from polynix.kernelproc.uapi.vm_sockets import VMADDR_CID_ANY, VMADDR_CID_HOST

kernel = new_kernel()
guest = Guest(kernel)
kernel.pids.tasks.setdefault(2, guest.task)  # kthreadd, in whose name the kernel connects


def vm_address(cid: int, port: int) -> tuple[int, int]:
    data = struct.pack("<HHIIB3x", AF_VSOCK, 0, port, cid, 0)
    return guest.memory(data), len(data)


def listener_on(port: int) -> int:
    fd = guest.call("socket", AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0)
    assert guest.call("bind", fd, *vm_address(VMADDR_CID_ANY, port)) == 0
    assert guest.call("listen", fd, 1) == 0
    return fd


def unix_listener(path: bytes) -> int:
    fd = guest.call("socket", AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)
    address = struct.pack("<H", AF_UNIX) + path
    assert guest.call("bind", fd, guest.memory(address), len(address)) == 0
    assert guest.call("listen", fd, 5) == 0
    return fd


def accept(listener: int) -> int:
    settle(kernel)
    return guest.call("accept4", listener, 0, 0, SOCK_NONBLOCK)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        settle(kernel)
    raise AssertionError("it did not come about")


def read_all(fd: int, count: int) -> bytes:
    """``count`` bytes, or up to the end of the connection."""
    data = b""
    while len(data) < count:
        piece = guest.read(fd, min(count - len(data), 65536))
        if piece == -EAGAIN:
            settle(kernel)
            continue
        assert isinstance(piece, bytes), piece
        if not piece:
            break
        data += piece
    return data


def host_pair() -> tuple[socket.socket, HostSocketOutside]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, HostSocketOutside(kernel.engine, theirs.detach())


def channel_pair() -> tuple[Channel, Counter, ChannelOutside]:
    """The runner's end, the counter as it sees it, and the container's side."""
    ours, theirs = Channel.create()
    counter = Counter.create()
    return ours, counter, ChannelOutside(kernel.engine, theirs, counter.duplicate())


# -- sockets of the host ---------------------------------------------------------------------------------------------------


def test_a_host_socket_is_bridged_to_a_port() -> None:
    listener = listener_on(2001)
    ours, outside = host_pair()
    connect_to_port(kernel, 2001, outside, wait_for_listener=True)
    fd = accept(listener)
    name, length = guest.memory(16), guest.memory(struct.pack("<I", 16))
    assert guest.call("getpeername", fd, name, length) == 0
    _family, _reserved, port, cid, _flags = struct.unpack("<HHIIB3x", guest.load(name, 16))
    assert cid == VMADDR_CID_HOST and port > 1023
    assert guest.call("getsockname", fd, name, length) == 0
    assert struct.unpack("<HHIIB3x", guest.load(name, 16))[2:4] == (2001, OWN_CID)
    ours.send(b"question")
    assert read_all(fd, 8) == b"question"
    guest.write(fd, b"answer")
    settle(kernel)
    assert ours.recv(100) == b"answer"
    ours.shutdown(socket.SHUT_WR)  # a half-close goes through, and the other half goes on
    assert read_all(fd, 1) == b""
    guest.write(fd, b"and more")
    guest.call("close", fd)
    settle(kernel)
    assert ours.recv(100) == b"and more" and ours.recv(100) == b""
    guest.call("close", listener)


def test_it_waits_for_a_listener_and_gives_up_with_its_peer() -> None:
    ours, outside = host_pair()
    connect_to_port(kernel, 2002, outside, wait_for_listener=True)
    settle(kernel)
    listener = listener_on(2002)
    fd = accept(listener)
    ours.send(b"late")
    assert read_all(fd, 4) == b"late"
    guest.call("close", fd)
    ours, outside = host_pair()
    connect_to_port(kernel, 2003, outside, wait_for_listener=True)
    settle(kernel)
    ours.close()
    until(lambda: outside.socket.fileno() < 0)
    guest.call("close", listener)


def test_nobody_listens() -> None:
    for connect in (lambda outside: connect_to_port(kernel, 2004, outside, wait_for_listener=False), lambda outside: connect_to_unix(kernel, b"/no", outside)):
        ours, outside = host_pair()
        connect(outside)
        settle(kernel)
        assert ours.recv(1) == b""


def test_a_slow_guest_stops_the_outside_and_nothing_is_lost() -> None:
    listener = listener_on(2005)
    ours, outside = host_pair()
    connect_to_port(kernel, 2005, outside, wait_for_listener=True)
    fd = accept(listener)
    data = os.urandom(4 << 20)
    sent = 0
    for _ in range(2000):
        try:
            sent += ours.send(data[sent:])
        except BlockingIOError:
            settle(kernel)
    assert 0 < sent < len(data)  # it had to stop
    received = b""
    while len(received) < len(data):
        received += read_all(fd, 65536)
        while sent < len(data):
            try:
                sent += ours.send(data[sent:])
            except BlockingIOError:
                break
    assert received == data
    for end in (fd, listener):
        guest.call("close", end)


def test_a_slow_outside_stops_the_guest_and_nothing_is_lost() -> None:
    listener = unix_listener(b"/slow")
    ours, outside = host_pair()
    connect_to_unix(kernel, b"/slow", outside)
    fd = accept(listener)
    data = os.urandom(3 << 20)
    sent, received = 0, b""
    address = guest.memory(data[: 1 << 20])

    def send() -> int:
        offset = sent % (1 << 20)
        return guest.call("write", fd, address + offset, min(65536, (1 << 20) - offset))

    while (count := send()) > 0:
        sent += count
        settle(kernel)
    assert count == -EAGAIN and sent < len(data)
    while len(received) < len(data):
        try:
            received += ours.recv(65536)
        except BlockingIOError:
            settle(kernel)
        if sent < len(data) and (count := send()) > 0:
            sent += count
    assert received[: 3 << 20] == (data[: 1 << 20] * 4)[: len(received)][: 3 << 20]
    guest.call("close", fd)


def test_the_guest_closes_with_input_unread() -> None:
    listener = unix_listener(b"\0unread")
    ours, outside = host_pair()
    connect_to_unix(kernel, b"@unread", outside)
    fd = accept(listener)
    ours.send(b"never read")
    settle(kernel)
    guest.call("close", fd)
    until(lambda: outside.socket.fileno() < 0)
    assert ours.recv(1) == b""


# -- channels --------------------------------------------------------------------------------------------------------------


def proxied(counter: Counter, channel: Channel, data: bytes) -> None:
    """What the runner's proxy does with a message for the container."""
    counter.add(1)
    channel.write(data)


def test_messages_are_counted_until_the_guest_has_read_them() -> None:
    listener = unix_listener(b"/counted")
    channel, counter, outside = channel_pair()
    for message in (b"one", b"two two", b"three"):
        proxied(counter, channel, message)
    connect_to_unix(kernel, b"/counted", outside)
    fd = accept(listener)
    settle(kernel)
    assert counter.read() == 3
    assert guest.read(fd, 3) == b"one"
    assert counter.read() == 2
    assert guest.read(fd, 5) == b"two t"
    assert counter.read() == 2
    assert guest.read(fd, 100) == b"wothree"
    assert counter.read() == 0
    proxied(counter, channel, b"")  # the peer sends no more
    settle(kernel)
    assert guest.read(fd, 1) == b"" and counter.read() == 0
    guest.write(fd, b"x" * 100_000)
    guest.call("close", fd)
    settle(kernel)
    pieces = []
    with pytest.raises(ZxStatus) as error:
        while True:
            pieces.append(channel.read()[0])
    assert error.value.status == Status.PEER_CLOSED
    assert b"".join(pieces) == b"x" * 100_000 and pieces[-1] == b"" and max(map(len, pieces)) <= 65536


def test_what_nobody_read_is_counted_no_more_when_the_connection_ends() -> None:
    listener = listener_on(2006)
    channel, counter, outside = channel_pair()
    connect_to_port(kernel, 2006, outside, wait_for_listener=False)
    fd = accept(listener)
    for _ in range(5):
        proxied(counter, channel, b"unread")
    settle(kernel)
    assert counter.read() == 5
    guest.call("close", fd)
    settle(kernel)
    assert counter.read() == 0
    with pytest.raises(ZxStatus):
        while True:
            channel.read()
    guest.call("close", listener)


def test_a_channel_that_closes_in_mid_stream_resets_the_connection() -> None:
    listener = listener_on(2007)
    channel, counter, outside = channel_pair()
    connect_to_port(kernel, 2007, outside, wait_for_listener=False)
    fd = accept(listener)
    guest.write(fd, b"unread by the other")
    proxied(counter, channel, b"last words")
    settle(kernel)
    channel.close()
    settle(kernel)
    assert read_all(fd, 10) == b"last words"
    assert guest.read(fd, 1) in (b"", -ECONNRESET)
    assert counter.read() == 0
    for end in (fd, listener):
        guest.call("close", end)


def test_bridges_leave_nothing_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    listener = listener_on(2008)
    for _ in range(20):
        ours, outside = host_pair()
        connect_to_port(kernel, 2008, outside, wait_for_listener=False)
        fd = accept(listener)
        guest.call("shutdown", fd, SHUT_WR)
        settle(kernel)
        ours.close()
        until(lambda outside=outside: outside.socket.fileno() < 0)  # type: ignore[misc]
        guest.call("close", fd)
    guest.call("close", listener)
    assert set(os.listdir("/proc/self/fd")) == before
