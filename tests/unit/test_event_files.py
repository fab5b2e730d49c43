"""epoll, eventfd, timerfd, signalfd, pidfd through their system calls."""

from __future__ import annotations

import struct
import time

from event_world import Guest, Running, finish, new_kernel, settle
from polynix.kernelproc.signals.send import send_to_group
from polynix.kernelproc.signals.siginfo import SigInfo
from polynix.kernelproc.uapi.epoll import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
)
from polynix.kernelproc.uapi.errno import (
    EAGAIN,
    EBADF,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    ELOOP,
    ENOENT,
    EPERM,
    ESRCH,
)
from polynix.kernelproc.uapi.eventfd import EFD_NONBLOCK, EFD_SEMAPHORE
from polynix.kernelproc.uapi.fcntl import O_NONBLOCK
from polynix.kernelproc.uapi.signal import SI_USER, SIGUSR1
from polynix.kernelproc.uapi.time import CLOCK_MONOTONIC, CLOCK_REALTIME
from polynix.kernelproc.uapi.timerfd import TFD_NONBLOCK, TFD_TIMER_ABSTIME

kernel = new_kernel()
guest = Guest(kernel)


# -- epoll -----------------------------------------------------------------------------------------------------------------


def epoll(*entries: tuple[int, int]) -> int:
    """A new epoll with (descriptor, events); the data is the descriptor."""
    fd = guest.call("epoll_create1", 0)
    for entry in entries:
        assert control(fd, EPOLL_CTL_ADD, *entry) == 0
    return fd


def control(epfd: int, operation: int, fd: int, events: int = 0) -> int:
    return guest.call("epoll_ctl", epfd, operation, fd, guest.memory(struct.pack("<IQ", events, fd)))


def wait(epfd: int, limit: int = 16, timeout: int = 0) -> list[tuple[int, int]] | int:
    """(descriptor, events) in order."""
    address = guest.memory(12 * limit)
    count = guest.call("epoll_wait", epfd, address, limit, timeout)
    if count < 0:
        return count
    return [(data, events) for events, data in struct.iter_unpack("<IQ", guest.load(address, 12 * count))]


def test_level_triggered_stays_ready() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN), (writer, EPOLLOUT))
    assert wait(epfd) == [(writer, EPOLLOUT)]
    guest.write(writer, b"xx")
    assert sorted(wait(epfd)) == sorted([(reader, EPOLLIN), (writer, EPOLLOUT)])  # type: ignore[arg-type]
    guest.read(reader, 2)
    assert wait(epfd) == [(writer, EPOLLOUT)]
    guest.call("close", writer)
    assert wait(epfd) == [(reader, EPOLLHUP)]


def test_edge_triggered_tells_each_change_once() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN | EPOLLET))
    assert wait(epfd) == []
    guest.write(writer, b"x")
    assert wait(epfd) == [(reader, EPOLLIN)]
    assert wait(epfd) == []
    guest.write(writer, b"x")
    assert wait(epfd) == [(reader, EPOLLIN)]
    assert control(epfd, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLET) == 0
    assert wait(epfd) == [(reader, EPOLLIN)], "modifying looks again"


def test_one_shot_sleeps_until_modified() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN | EPOLLONESHOT))
    guest.write(writer, b"x")
    assert wait(epfd) == [(reader, EPOLLIN)]
    guest.write(writer, b"x")
    assert wait(epfd) == []
    control(epfd, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLONESHOT)
    assert wait(epfd) == [(reader, EPOLLIN)]


def test_busy_descriptors_take_turns() -> None:
    pipes = [guest.pipe() for _ in range(3)]
    epfd = epoll(*((reader, EPOLLIN) for reader, _ in pipes))
    for _, writer in pipes:
        guest.write(writer, b"x")
    seen = [wait(epfd, 1)[0][0] for _ in range(6)]  # type: ignore[index]
    assert seen == [reader for reader, _ in pipes] * 2


def test_waiting_timeouts_and_interruption() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN))
    began = time.monotonic()
    assert wait(epfd, timeout=20) == []
    assert time.monotonic() - began >= 0.02
    address = guest.memory(12)
    waiting = guest.start("epoll_wait", epfd, address, 1, -1)
    assert isinstance(waiting, Running)
    guest.write(writer, b"x")
    assert finish(waiting) == 1
    guest.read(reader, 1)
    waiting = guest.start("epoll_pwait2", epfd, address, 1, guest.memory(struct.pack("<qq", 100, 0)), 0, 8)
    assert isinstance(waiting, Running)
    kernel.engine.interrupt(waiting.routine)
    assert finish(waiting) == -EINTR


def test_one_event_wakes_one_waiter() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN | EPOLLET))
    waiters = [guest.start("epoll_wait", epfd, guest.memory(12), 1, -1) for _ in range(3)]
    guest.write(writer, b"x")
    settle(kernel)
    assert [waiter.done for waiter in waiters if isinstance(waiter, Running)] == [True, False, False]


def test_exclusive_wakes_one_epoll() -> None:
    reader, writer = guest.pipe()
    epolls = [epoll((reader, EPOLLIN | EPOLLEXCLUSIVE)) for _ in range(3)]
    waiters = [guest.start("epoll_wait", epfd, guest.memory(12), 1, -1) for epfd in epolls]
    guest.write(writer, b"x")
    settle(kernel)
    assert sum(waiter.done for waiter in waiters if isinstance(waiter, Running)) == 1
    assert control(epolls[0], EPOLL_CTL_MOD, reader, EPOLLIN) == -EINVAL
    assert control(epoll(), EPOLL_CTL_ADD, epolls[0], EPOLLIN | EPOLLEXCLUSIVE) == -EINVAL


def test_closing_the_last_descriptor_removes_the_item() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN))
    guest.write(writer, b"x")
    duplicate = guest.call("dup", reader)
    guest.call("close", reader)
    assert wait(epfd) == [(reader, EPOLLIN)], "the description is still open"
    guest.call("close", duplicate)
    assert wait(epfd) == []


def test_control_errors() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN))
    assert control(epfd, EPOLL_CTL_ADD, reader, EPOLLIN) == -EEXIST
    assert control(epfd, EPOLL_CTL_MOD, writer, EPOLLIN) == -ENOENT
    assert control(epfd, EPOLL_CTL_DEL, writer) == -ENOENT
    assert control(epfd, EPOLL_CTL_ADD, 999) == -EBADF
    assert control(reader, EPOLL_CTL_ADD, writer) == -EINVAL
    assert control(epfd, EPOLL_CTL_ADD, epfd) == -EINVAL
    assert control(epfd, 17, writer) == -EINVAL
    assert guest.call("epoll_ctl", epfd, EPOLL_CTL_ADD, writer, 8) == -EFAULT
    assert guest.call("epoll_ctl", epfd, EPOLL_CTL_DEL, reader, 0) == 0
    assert guest.call("epoll_wait", epfd, guest.memory(12), 0, 0) == -EINVAL
    assert guest.call("epoll_wait", reader, guest.memory(12), 1, 0) == -EINVAL
    assert guest.call("epoll_create", 0) == -EINVAL
    assert guest.call("epoll_create1", 1) == -EINVAL
    directory = guest.call("open", guest.memory(b"/\0"), 0)
    assert control(epfd, EPOLL_CTL_ADD, directory, EPOLLIN) == -EPERM


def test_events_that_can_not_be_stored_stay() -> None:
    reader, writer = guest.pipe()
    guest.write(writer, b"x")
    epfd = epoll((reader, EPOLLIN | EPOLLET))
    assert guest.call("epoll_wait", epfd, 16, 1, 0) == -EFAULT
    assert wait(epfd) == [(reader, EPOLLIN)]


def test_epolls_in_epolls() -> None:
    reader, writer = guest.pipe()
    inner = epoll((reader, EPOLLIN))
    outer = epoll((inner, EPOLLIN))
    assert wait(outer) == []
    guest.write(writer, b"x")
    assert wait(outer) == [(inner, EPOLLIN)]
    guest.read(reader, 1)
    assert wait(outer) == []
    assert control(inner, EPOLL_CTL_ADD, outer, EPOLLIN) == -ELOOP
    chain = [outer]
    for _ in range(3):
        chain.append(epoll((chain[-1], EPOLLIN)))
    assert control(epoll(), EPOLL_CTL_ADD, chain[-1], EPOLLIN) == -ELOOP, "five deep is too deep"


# -- eventfd ---------------------------------------------------------------------------------------------------------------


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def test_eventfd_counts() -> None:
    fd = guest.call("eventfd2", 3, EFD_NONBLOCK)
    assert guest.write(fd, u64(4)) == 8
    assert guest.read(fd, 8) == u64(7)
    assert guest.read(fd, 8) == -EAGAIN
    assert guest.read(fd, 7) == -EINVAL
    assert guest.write(fd, u64(2**64 - 1)) == -EINVAL
    assert guest.write(fd, u64(2**64 - 2)) == 8
    assert guest.write(fd, u64(1)) == -EAGAIN
    assert guest.write(fd, u64(0)) == 8
    assert guest.read(fd, 100) == u64(2**64 - 2)
    assert guest.call("eventfd2", 0, 2) == -EINVAL


def test_eventfd_as_semaphore_and_blocking() -> None:
    fd = guest.call("eventfd2", 0, EFD_SEMAPHORE)
    waiting = guest.start("read", fd, guest.memory(8), 8)
    assert isinstance(waiting, Running)
    guest.write(fd, u64(2))
    assert finish(waiting) == 8
    assert guest.read(fd, 8) == u64(1)
    epfd = epoll((fd, EPOLLIN | EPOLLOUT | EPOLLERR))
    assert wait(epfd) == [(fd, EPOLLOUT)]


# -- timerfd ---------------------------------------------------------------------------------------------------------------


def itimerspec(value_ns: int, interval_ns: int = 0) -> int:
    return guest.memory(struct.pack("<qqqq", *divmod(interval_ns, 10**9), *divmod(value_ns, 10**9)))


def current(fd: int) -> tuple[int, int]:
    address = guest.memory(32)
    assert guest.call("timerfd_gettime", fd, address) == 0
    interval, interval_ns, value, value_ns = struct.unpack("<qqqq", guest.load(address, 32))
    return value * 10**9 + value_ns, interval * 10**9 + interval_ns


def test_timerfd_once() -> None:
    fd = guest.call("timerfd_create", CLOCK_MONOTONIC, 0)
    assert guest.call("timerfd_settime", fd, 0, itimerspec(10_000_000), 0) == 0
    left, interval = current(fd)
    assert 0 < left <= 10_000_000 and interval == 0
    assert guest.read(fd, 8) == u64(1)
    assert current(fd) == (0, 0)


def test_timerfd_counts_missed_periods() -> None:
    fd = guest.call("timerfd_create", CLOCK_REALTIME, TFD_NONBLOCK)
    assert guest.read(fd, 8) == -EAGAIN
    start = time.time_ns() - 10_500_000
    assert guest.call("timerfd_settime", fd, TFD_TIMER_ABSTIME, itimerspec(start, 1_000_000), 0) == 0
    assert wait(epoll((fd, EPOLLIN)), timeout=1000) == [(fd, EPOLLIN)]
    ticks = struct.unpack("<Q", guest.read(fd, 8))[0]  # type: ignore[arg-type]
    assert 11 <= ticks < 1000
    old = guest.memory(32)
    assert guest.call("timerfd_settime", fd, 0, itimerspec(0), old) == 0
    assert struct.unpack("<qqqq", guest.load(old, 32))[1] == 1_000_000
    assert guest.read(fd, 8) == -EAGAIN


def test_timerfd_errors() -> None:
    fd = guest.call("timerfd_create", CLOCK_MONOTONIC, 0)
    assert guest.call("timerfd_create", 3, 0) == -EINVAL
    assert guest.call("timerfd_create", CLOCK_MONOTONIC, 1) == -EINVAL
    assert guest.call("timerfd_settime", fd, 0, guest.memory(struct.pack("<qqqq", 0, 0, 0, 10**9)), 0) == -EINVAL
    assert guest.call("timerfd_settime", fd, 8, itimerspec(1), 0) == -EINVAL
    assert guest.call("timerfd_settime", 0, 0, itimerspec(1), 0) in (-EBADF, -EINVAL)
    assert guest.call("timerfd_settime", fd, 0, 8, 0) == -EFAULT


# -- signalfd --------------------------------------------------------------------------------------------------------------


def test_signalfd_reads_pending_signals() -> None:
    bit = 1 << (SIGUSR1 - 1)
    guest.task.signals.mask = bit
    fd = guest.call("signalfd4", -1, guest.memory(u64(bit)), 8, O_NONBLOCK)
    assert guest.read(fd, 128) == -EAGAIN
    assert guest.read(fd, 127) == -EINVAL
    epfd = epoll((fd, EPOLLIN))
    assert wait(epfd) == []
    send_to_group(guest.task.group, SigInfo(SIGUSR1, SI_USER, pid=77, uid=5))
    assert wait(epfd) == [(fd, EPOLLIN)]
    data = guest.read(fd, 1000)
    assert isinstance(data, bytes) and len(data) == 128
    assert struct.unpack_from("<IiiII", data) == (SIGUSR1, 0, SI_USER, 77, 5)
    assert wait(epfd) == []
    assert guest.call("signalfd4", fd, guest.memory(u64(0)), 8, 0) == fd
    send_to_group(guest.task.group, SigInfo(SIGUSR1, SI_USER))
    assert guest.read(fd, 128) == -EAGAIN
    assert guest.call("signalfd4", -1, guest.memory(8), 7, 0) == -EINVAL
    assert guest.call("signalfd4", epfd, guest.memory(8), 8, 0) == -EINVAL
    guest.task.group.signals.pending.flush(-1)
    guest.task.signals.mask = 0
    guest.task.attention = False


# -- pidfd -----------------------------------------------------------------------------------------------------------------


def test_pidfd() -> None:
    child = Guest(kernel)
    pidfd = guest.call("pidfd_open", child.task.group.pid, 0)
    assert pidfd >= 0
    epfd = epoll((pidfd, EPOLLIN))
    assert wait(epfd) == []
    reader, writer = child.pipe()
    stolen = guest.call("pidfd_getfd", pidfd, writer, 0)
    assert guest.write(stolen, b"hello") == 5
    assert child.read(reader, 5) == b"hello"
    assert guest.call("pidfd_getfd", pidfd, 99, 0) == -EBADF
    child.task.signals.mask = 1 << (SIGUSR1 - 1)
    assert guest.call("pidfd_send_signal", pidfd, SIGUSR1, 0, 0) == 0
    assert child.task.group.signals.pending.mask == 1 << (SIGUSR1 - 1)
    assert guest.call("pidfd_send_signal", pidfd, 65, 0, 0) == -EINVAL
    assert guest.call("pidfd_send_signal", epfd, SIGUSR1, 0, 0) == -EBADF
    child.task.group.exited = True
    child.task.group.exit_wait.notify(EPOLLIN)
    assert wait(epfd) == [(pidfd, EPOLLIN)]
    del kernel.pids.thread_groups[child.task.group.pid]
    assert guest.call("pidfd_send_signal", pidfd, SIGUSR1, 0, 0) == -ESRCH
    assert guest.call("pidfd_open", 0, 0) == -EINVAL
    assert guest.call("pidfd_open", 4_000_000, 0) == -ESRCH


def test_a_killed_waiter_passes_its_wake_up_on() -> None:
    reader, writer = guest.pipe()
    epfd = epoll((reader, EPOLLIN | EPOLLET))
    waiters = [guest.start("epoll_wait", epfd, guest.memory(12), 1, -1) for _ in range(2)]
    guest.write(writer, b"x")
    first, second = waiters
    assert isinstance(first, Running) and isinstance(second, Running)
    kernel.engine.kill(first.routine)
    assert finish(second) == 1


def test_too_many_paths_are_refused() -> None:
    reader, _ = guest.pipe()
    middle = epoll((reader, EPOLLIN))
    tops = [epoll((middle, EPOLLIN)) for _ in range(20)]
    results = []
    for _ in range(20):
        upper = epoll()
        results += [control(upper, EPOLL_CTL_ADD, top, EPOLLIN) for top in tops]
    assert results[0] == 0 and -EINVAL in results
    guest.task.files.close_all(guest.task)
