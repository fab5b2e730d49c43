"""AF_UNIX: what the comparison with the host's sockets does not reach: names, listening, blocking, timeouts, garbage."""

from __future__ import annotations

import struct
import time

from event_world import Guest, Running, finish, new_kernel, settle
from polynix.kernelproc.net.garbage import InFlight
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.uapi.errno import (
    EACCES,
    EADDRINUSE,
    EAFNOSUPPORT,
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EINTR,
    EINVAL,
    EISCONN,
    ENOENT,
    ENOTCONN,
    ENOTSOCK,
    EPERM,
    EPIPE,
    EPROTOTYPE,
    ETOOMANYREFS,
)
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT
from polynix.kernelproc.uapi.resource import RLIMIT_NOFILE
from polynix.kernelproc.uapi.signal import SIGPIPE
from polynix.kernelproc.uapi.socket import (
    AF_INET,
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_WAITALL,
    SCM_RIGHTS,
    SO_PEERCRED,
    SO_RCVTIMEO,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOL_SOCKET,
)

kernel = new_kernel()
guest = Guest(kernel)


def name(path: bytes) -> tuple[int, int]:
    """(address, length) of a sockaddr_un."""
    data = struct.pack("<H", AF_UNIX) + path
    return guest.memory(data), len(data)


def pair(kind: int = SOCK_STREAM) -> tuple[int, int]:
    address = guest.memory(8)
    assert guest.call("socketpair", AF_UNIX, kind, 0, address) == 0
    return struct.unpack("ii", guest.load(address, 8))  # type: ignore[return-value]


def server(path: bytes, kind: int = SOCK_STREAM, backlog: int = 5) -> int:
    fd = guest.call("socket", AF_UNIX, kind, 0)
    assert guest.call("bind", fd, *name(path)) == 0
    if kind != SOCK_DGRAM:
        assert guest.call("listen", fd, backlog) == 0
    return fd


def client(kind: int = SOCK_STREAM) -> int:
    return guest.call("socket", AF_UNIX, kind, 0)


def events(fd: int) -> int:
    file = guest.task.files.get(fd)
    return file.ops.query_events(file) & (POLLIN | POLLOUT | POLLERR | POLLHUP)


def send_fds(fd: int, *fds: int) -> int:
    iov = guest.memory(struct.pack("<QQ", guest.memory(b"x"), 1))
    length = 16 + 4 * len(fds)
    control = guest.memory(struct.pack(f"<Qii{len(fds)}i", length, SOL_SOCKET, SCM_RIGHTS, *fds))
    return guest.call("sendmsg", fd, guest.memory(struct.pack("<QQQQQQQ", 0, 0, iov, 1, control, length, 0)), 0)


def test_connection_by_path() -> None:
    listener = server(b"/s1\0")
    fd = client()
    assert guest.call("connect", fd, *name(b"/s1")) == 0
    assert guest.call("connect", fd, *name(b"/s1")) == -EISCONN
    assert guest.write(fd, b"early") == 5
    assert events(listener) == POLLIN
    peer, length = guest.memory(110), guest.memory(struct.pack("i", 110))
    accepted = guest.call("accept4", listener, peer, length, 0)
    assert guest.load(length, 4) == struct.pack("i", 2), "the client has no name"
    assert guest.read(accepted, 9) == b"early"
    length = guest.memory(struct.pack("i", 110))
    assert guest.call("getpeername", fd, peer, length) == 0
    assert guest.load(length, 4) == struct.pack("i", 6)
    assert guest.load(peer, 6) == b"\1\0/s1\0"
    credentials, length = guest.memory(12), guest.memory(struct.pack("i", 12))
    assert guest.call("getsockopt", fd, SOL_SOCKET, SO_PEERCRED, credentials, length) == 0
    assert guest.load(credentials, 12) == struct.pack("iii", guest.task.group.pid, 0, 0)


def test_accept_and_connect_wait() -> None:
    listener = server(b"/s2", backlog=0)
    waiting = guest.start("accept", listener, 0, 0)
    assert isinstance(waiting, Running)
    first = client()
    assert guest.call("connect", first, *name(b"/s2")) == 0
    assert finish(waiting) >= 0
    assert guest.call("connect", client(), *name(b"/s2")) == 0
    impatient = guest.call("socket", AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)
    assert guest.call("connect", impatient, *name(b"/s2")) == -EAGAIN
    blocked = guest.start("connect", client(), *name(b"/s2"))
    assert isinstance(blocked, Running)
    guest.call("accept", listener, 0, 0)
    assert finish(blocked) == 0
    blocked = guest.start("connect", client(), *name(b"/s2"))
    assert isinstance(blocked, Running)
    guest.call("close", listener)
    assert finish(blocked) == -ECONNREFUSED


def test_closing_a_listener_resets_those_who_wait() -> None:
    listener = server(b"/s3")
    fd = client()
    guest.call("connect", fd, *name(b"/s3"))
    guest.call("close", listener)
    assert events(fd) & (POLLERR | POLLHUP) == POLLERR | POLLHUP
    assert guest.read(fd, 1) == -ECONNRESET
    assert guest.read(fd, 1) == b""
    assert guest.call("connect", client(), *name(b"/s3")) == -ECONNREFUSED
    assert guest.call("bind", client(), *name(b"/s3")) == -EADDRINUSE, "the name stays in its directory"


def test_shutdown_wakes_accept_and_read() -> None:
    listener = server(b"\0shut")
    waiting = guest.start("accept", listener, 0, 0)
    guest.call("shutdown", listener, 0)
    assert finish(waiting) == -EINVAL
    one, other = pair()
    waiting = guest.start("read", one, guest.memory(1), 1)
    guest.call("shutdown", other, 1)
    assert finish(waiting) == 0


def test_errors() -> None:
    fd = client()
    assert guest.call("connect", fd, *name(b"/absent")) == -ENOENT
    assert guest.call("connect", fd, *name(b"\0absent")) == -ECONNREFUSED
    assert guest.call("connect", fd, *name(b"")) == -EINVAL
    assert guest.call("listen", fd, 1) == -EINVAL
    assert guest.call("accept", fd, 0, 0) == -EINVAL
    assert guest.read(fd, 1) == -EINVAL
    assert guest.write(fd, b"x") == -ENOTCONN
    assert events(fd) == POLLOUT | POLLHUP
    assert guest.call("socket", AF_INET, SOCK_STREAM, 0) == -EAFNOSUPPORT
    reader, _ = guest.pipe()
    assert guest.call("listen", reader, 1) == -ENOTSOCK
    server(b"/dgram", SOCK_DGRAM)
    assert guest.call("connect", fd, *name(b"/dgram")) == -EPROTOTYPE


def test_permission_to_connect() -> None:
    server(b"/private")
    assert guest.call("chmod", guest.memory(b"/private\0"), 0o600) == 0
    other = Guest(kernel, Credentials.user(1000, 1000), guest)
    address = other.memory(b"\1\0/private")
    fd = other.call("socket", AF_UNIX, SOCK_STREAM, 0)
    assert other.call("connect", fd, address, 10) == -EACCES


def test_datagrams() -> None:
    receiver, sender = server(b"\0r", SOCK_DGRAM), server(b"\0s", SOCK_DGRAM)
    assert guest.call("sendto", sender, guest.memory(b"one"), 3, 0, *name(b"\0r")) == 3
    source, length = guest.memory(110), guest.memory(struct.pack("i", 110))
    assert guest.call("recvfrom", receiver, guest.memory(9), 9, 0, source, length) == 3
    assert guest.load(source, 4) == b"\1\0\0s" and guest.load(length, 4) == struct.pack("i", 4)
    for _ in range(11):
        assert guest.call("sendto", sender, guest.memory(b"x"), 1, MSG_DONTWAIT, *name(b"\0r")) == 1
    assert guest.call("sendto", sender, guest.memory(b"x"), 1, MSG_DONTWAIT, *name(b"\0r")) == -EAGAIN
    blocked = guest.start("sendto", sender, guest.memory(b"x"), 1, 0, *name(b"\0r"))
    assert isinstance(blocked, Running)
    guest.read(receiver, 1)
    assert finish(blocked) == 1
    assert guest.call("connect", sender, *name(b"\0r")) == 0
    assert not events(sender) & POLLOUT, "the receiver's queue is full"
    assert guest.call("connect", receiver, *name(b"\0s")) == 0
    third = client(SOCK_DGRAM)
    assert guest.call("sendto", third, guest.memory(b"x"), 1, 0, *name(b"\0r")) == -EPERM
    guest.call("close", receiver)
    assert guest.write(sender, b"x") == -ECONNREFUSED
    assert guest.write(sender, b"x") == -ENOTCONN


def test_blocking_stream_send_goes_on_until_all_is_sent() -> None:
    one, other = pair()
    data = bytes(range(256)) * 4096
    sending = guest.start("write", one, guest.memory(data), len(data))
    assert isinstance(sending, Running)
    got = b""
    while len(got) < len(data):
        settle(kernel)
        piece = guest.read(other, 100_000)
        assert isinstance(piece, bytes)
        got += piece
    assert got == data
    assert finish(sending) == len(data)


def test_broken_pipe_brings_its_signal() -> None:
    one, other = pair()
    guest.call("close", other)
    guest.task.signals.mask = 1 << (SIGPIPE - 1)
    assert guest.call("sendto", one, guest.memory(b"x"), 1, MSG_NOSIGNAL, 0, 0) == -EPIPE
    assert not guest.task.signals.pending.mask
    assert guest.call("sendto", one, guest.memory(b"x"), 1, 0, 0, 0) == -EPIPE
    assert guest.task.signals.pending.mask == 1 << (SIGPIPE - 1)
    guest.task.signals.pending.flush(-1)
    one, other = pair(SOCK_SEQPACKET)
    guest.call("close", other)
    assert guest.write(one, b"x") == -EPIPE
    assert not guest.task.signals.pending.mask, "packets never signal"
    guest.task.signals.mask = 0
    guest.task.attention = False


def test_receive_timeout() -> None:
    one, other = pair()
    assert guest.call("setsockopt", one, SOL_SOCKET, SO_RCVTIMEO, guest.memory(struct.pack("<qq", 0, 30_000)), 16) == 0
    for call in ("read", "recvfrom"):
        began = time.monotonic()
        assert guest.call(call, one, guest.memory(1), 1, 0, 0, 0) == -EAGAIN
        assert 0.03 <= time.monotonic() - began < 1
    waiting = guest.start("recvfrom", one, guest.memory(1), 1, 0, 0, 0)
    assert isinstance(waiting, Running)
    kernel.engine.interrupt(waiting.routine)
    assert finish(waiting) == -EINTR
    guest.write(other, b"abc")
    assert guest.call("recvfrom", one, guest.memory(9), 9, MSG_WAITALL, 0, 0) == 3


def test_wait_all() -> None:
    one, other = pair()
    buffer = guest.memory(6)
    waiting = guest.start("recvfrom", one, buffer, 6, MSG_WAITALL, 0, 0)
    guest.write(other, b"abc")
    settle(kernel)
    assert isinstance(waiting, Running) and not waiting.done
    guest.write(other, b"defg")
    assert finish(waiting) == 6
    assert guest.load(buffer, 6) == b"abcdef"


def test_descriptors_stay_open_in_flight() -> None:
    one, other = pair()
    reader, writer = guest.pipe()
    assert send_fds(one, writer) == 1
    guest.call("close", writer)
    assert not events(reader) & POLLHUP
    guest.read(other, 1)
    assert events(reader) & POLLHUP, "a plain read drops descriptors"


def test_sockets_that_only_hold_each_other_are_freed() -> None:
    reader, writer = guest.pipe()
    one, other = pair()
    assert send_fds(one, other, writer) == 1
    guest.call("close", writer)
    guest.call("close", other)
    assert not events(reader) & POLLHUP
    guest.call("close", one)
    settle(kernel)
    assert events(reader) & POLLHUP
    assert not kernel.expando.get(InFlight).messages


def test_a_ring_of_sockets_is_freed_and_a_living_one_is_not() -> None:
    reader, writer = guest.pipe()
    pairs = [pair() for _ in range(5)]
    for (one, _), (_, next_other) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        send_fds(one, next_other, writer)
    guest.call("close", writer)
    kept = pairs[0][1]
    for one, other in pairs:
        guest.call("close", one)
        if other != kept:
            guest.call("close", other)
    settle(kernel)
    assert not events(reader) & POLLHUP, "it can still be received"
    guest.call("close", kept)
    settle(kernel)
    assert events(reader) & POLLHUP
    assert not kernel.expando.get(InFlight).messages


def test_a_long_chain_of_sockets_in_sockets_is_released() -> None:
    one, other = pair()
    for _ in range(3000):
        next_one, next_other = pair()
        send_fds(next_one, other, one)
        guest.call("close", one)
        guest.call("close", other)
        one, other = next_one, next_other
    guest.call("close", one)
    guest.call("close", other)
    settle(kernel)
    assert not kernel.expando.get(InFlight).messages


def test_descriptors_in_flight_are_limited() -> None:
    user = Guest(kernel, Credentials.user(1000, 1000))
    user.task.group.limits.set(RLIMIT_NOFILE, 8, 8)
    address = user.memory(8)
    user.call("socketpair", AF_UNIX, SOCK_DGRAM, 0, address)
    one, other = struct.unpack("ii", user.load(address, 8))
    iov = user.memory(struct.pack("<QQ", user.memory(b"x"), 1))
    control = user.memory(struct.pack("<Qiiii", 24, SOL_SOCKET, SCM_RIGHTS, one, one))
    header = user.memory(struct.pack("<QQQQQQQ", 0, 0, iov, 1, control, 24, 0))
    results = [user.call("sendmsg", one, header, 0) for _ in range(8)]
    assert results[:4] == [1] * 4 and results[-1] == -ETOOMANYREFS
    user.call("close", one)
    user.call("close", other)
    assert not kernel.expando.get(InFlight).messages
