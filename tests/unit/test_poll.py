"""poll, ppoll, select, pselect6."""

from __future__ import annotations

import struct
import time

from event_world import Guest, Running, finish, new_kernel, settle
from polynix.kernelproc.errno import ERESTART_RESTARTBLOCK, ERESTARTNOHAND
from polynix.kernelproc.uapi.errno import EBADF, EFAULT, EINVAL
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT

kernel = new_kernel()
guest = Guest(kernel)


def pollfds(*entries: tuple[int, int]) -> int:
    return guest.memory(b"".join(struct.pack("<ihh", fd, events, 0x7777) for fd, events in entries))


def revents(address: int, count: int) -> list[int]:
    return [entry[2] for entry in struct.iter_unpack("<iHH", guest.load(address, 8 * count))]


def test_poll_tells_of_each_descriptor() -> None:
    reader, writer = guest.pipe()
    address = pollfds((reader, POLLIN), (writer, POLLOUT), (-1, POLLIN), (999, POLLIN))
    assert guest.call("poll", address, 4, -1) == 2
    assert revents(address, 4) == [0, POLLOUT, 0, POLLNVAL]
    guest.write(writer, b"x")
    guest.call("close", writer)
    assert guest.call("poll", address, 4, 0) == 3
    assert revents(address, 4) == [POLLIN | POLLHUP, POLLNVAL, 0, POLLNVAL]


def test_poll_waits_and_times_out() -> None:
    reader, writer = guest.pipe()
    address = pollfds((reader, POLLIN))
    began = time.monotonic()
    assert guest.call("poll", address, 1, 30) == 0
    assert 0.03 <= time.monotonic() - began < 2
    assert revents(address, 1) == [0]
    waiting = guest.start("poll", address, 1, -1)
    assert isinstance(waiting, Running)
    guest.write(writer, b"x")
    assert finish(waiting) == 1
    assert revents(address, 1) == [POLLIN]
    assert guest.call("poll", 0, 0, 10) == 0


def test_poll_keeps_a_description_open_that_is_closed_meanwhile() -> None:
    reader, writer = guest.pipe()
    address = pollfds((reader, POLLIN))
    waiting = guest.start("poll", address, 1, -1)
    guest.call("close", reader)
    guest.write(writer, b"x")
    assert finish(waiting) == 1


def test_poll_is_restarted_with_its_deadline() -> None:
    reader, _writer = guest.pipe()
    address = pollfds((reader, POLLIN))
    waiting = guest.start("poll", address, 1, 100)
    assert isinstance(waiting, Running)
    kernel.engine.interrupt(waiting.routine)
    assert finish(waiting) == -ERESTART_RESTARTBLOCK
    began = time.monotonic()
    again = Running(kernel, guest.task.restart(), guest.task)
    assert finish(again) == 0
    assert time.monotonic() - began < 0.11


def test_poll_errors() -> None:
    assert guest.call("poll", 8, 1, 0) == -EFAULT
    assert guest.call("poll", 0, 100_000_000, 0) == -EINVAL


def test_ppoll_stores_the_time_left() -> None:
    reader, writer = guest.pipe()
    address = pollfds((reader, POLLIN), (writer, POLLERR))
    timeout = guest.memory(struct.pack("<qq", 5, 0))
    waiting = guest.start("ppoll", address, 2, timeout, 0, 8)
    guest.write(writer, b"x")
    assert finish(waiting) == 1
    seconds, nanoseconds = struct.unpack("<qq", guest.load(timeout, 16))
    assert seconds == 4 and nanoseconds > 0
    assert guest.call("ppoll", address, 2, guest.memory(struct.pack("<qq", 0, 1_000_000_000)), 0, 8) == -EINVAL
    assert guest.call("ppoll", address, 2, 0, guest.memory(8), 4) == -EINVAL


def test_ppoll_swaps_the_mask_until_the_call_ends() -> None:
    reader, _ = guest.pipe()
    address = pollfds((reader, POLLIN))
    waiting = guest.start("ppoll", address, 1, 0, guest.memory(struct.pack("<Q", 0x200)), 8)
    assert isinstance(waiting, Running)
    assert guest.task.signals.mask == 0x200
    assert guest.task.signals.saved_mask == 0
    kernel.engine.interrupt(waiting.routine)
    assert finish(waiting) == -ERESTARTNOHAND
    guest.task.signals.mask, guest.task.signals.saved_mask = 0, None
    guest.task.attention = False


def fd_set(*fds: int) -> bytes:
    return sum(1 << fd for fd in fds).to_bytes(128, "little")


def test_select() -> None:
    reader, writer = guest.pipe()
    reading, writing = guest.memory(fd_set(reader)), guest.memory(fd_set(writer))
    nfds = max(reader, writer) + 1
    assert guest.call("select", nfds, reading, writing, 0, guest.memory(16)) == 1
    assert guest.load(reading, 128) == fd_set()
    assert guest.load(writing, 128) == fd_set(writer)
    reading = guest.memory(fd_set(reader))
    timeout = guest.memory(struct.pack("<qq", 9, 0))
    waiting = guest.start("select", nfds, reading, 0, 0, timeout)
    settle(kernel)
    assert isinstance(waiting, Running) and not waiting.done
    guest.write(writer, b"x")
    assert finish(waiting) == 1
    assert guest.load(reading, 128) == fd_set(reader)
    assert struct.unpack("<qq", guest.load(timeout, 16))[0] == 8
    assert guest.call("select", -1, 0, 0, 0, 0) == -EINVAL
    assert guest.call("select", 64, guest.memory(fd_set(63)), 0, 0, 0) == -EBADF
    assert guest.call("select", 64, 16, 0, 0, 0) == -EFAULT
    assert guest.call("select", 0, 0, 0, 0, guest.memory(struct.pack("<qq", 0, 1000))) == 0


def test_pselect6() -> None:
    reader, writer = guest.pipe()
    guest.write(writer, b"x")
    mask = guest.memory(struct.pack("<QQ", guest.memory(struct.pack("<Q", 1)), 8))
    reading = guest.memory(fd_set(reader))
    assert guest.call("pselect6", reader + 1, reading, 0, 0, 0, mask) == 1
    assert guest.task.signals.saved_mask == 0
    guest.task.signals.mask, guest.task.signals.saved_mask = 0, None
    assert guest.call("pselect6", reader + 1, reading, 0, 0, 0, guest.memory(struct.pack("<QQ", 16, 7))) == -EINVAL
