"""Descriptor tables against a plain model, and the calls that change them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.uapi.close_range import CLOSE_RANGE_CLOEXEC, CLOSE_RANGE_UNSHARE
from polynix.kernelproc.uapi.errno import EBADF, EINVAL, EMFILE
from polynix.kernelproc.uapi.fcntl import (
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_GETFL,
    F_GETOWN,
    F_SETFD,
    F_SETFL,
    F_SETOWN,
    F_SETSIG,
    FD_CLOEXEC,
    O_APPEND,
    O_ASYNC,
    O_CLOEXEC,
    O_CREAT,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    O_RDWR,
)
from polynix.kernelproc.uapi.resource import RLIMIT_NOFILE
from polynix.kernelproc.uapi.signal import POLL_IN, SI_KERNEL, SIGIO
from task_world import TaskWorld

LIMIT = 24


class FakeFile:
    """Counts references, as a FileObject does."""

    class node:
        expando = None

    class ops:
        @staticmethod
        def flush(file: object, task: object) -> None: ...

    flags = 0

    def __init__(self) -> None:
        self.references = 0

    def release(self) -> None:
        self.references -= 1
        assert self.references >= 0


class FdTableMachine(RuleBasedStateMachine):
    """Two tables (one forked from the other at some point) against dictionaries."""

    @initialize()
    def start(self) -> None:
        limits = ResourceLimits()
        limits.set(RLIMIT_NOFILE, LIMIT, LIMIT)
        self.table = FdTable(limits)
        self.model: dict[int, tuple[FakeFile, bool]] = {}
        self.files: list[FakeFile] = []

    def pick(self, fd: int) -> FakeFile:
        return self.model[fd][0] if fd in self.model else FakeFile()

    @rule(minimum=st.integers(0, LIMIT - 1), cloexec=st.booleans(), like=st.integers(0, LIMIT))
    def install(self, minimum: int, cloexec: bool, like: int) -> None:
        file = self.pick(like)
        free = [fd for fd in range(minimum, LIMIT) if fd not in self.model]
        if not free:
            with pytest.raises(Errno) as error:
                self.table.install(file, cloexec, minimum)  # type: ignore[arg-type]
            assert error.value.errno == EMFILE
            return
        assert self.table.install(file, cloexec, minimum) == free[0]  # type: ignore[arg-type]
        self.model[free[0]] = (file, cloexec)
        self.files.append(file)

    @rule(fd=st.integers(-1, LIMIT), cloexec=st.booleans(), like=st.integers(0, LIMIT))
    def install_at(self, fd: int, cloexec: bool, like: int) -> None:
        file = self.pick(like)
        if not 0 <= fd < LIMIT:
            with pytest.raises(Errno):
                self.table.install_at(fd, file, cloexec)  # type: ignore[arg-type]
            return
        self.table.install_at(fd, file, cloexec)  # type: ignore[arg-type]
        self.model[fd] = (file, cloexec)
        self.files.append(file)

    @rule(fd=st.integers(0, LIMIT))
    def close(self, fd: int) -> None:
        if fd in self.model:
            self.table.close(fd, None)
            del self.model[fd]
        else:
            with pytest.raises(Errno):
                self.table.close(fd, None)

    @rule(first=st.integers(0, LIMIT), span=st.integers(0, 6))
    def close_range(self, first: int, span: int) -> None:
        self.table.close_range(first, first + span, None)
        self.model = {fd: entry for fd, entry in self.model.items() if not first <= fd <= first + span}

    @rule()
    def exec(self) -> None:
        self.table.close_on_exec(None)
        self.model = {fd: entry for fd, entry in self.model.items() if not entry[1]}

    @rule()
    def fork_and_exit(self) -> None:
        child = self.table.fork()
        assert child.fds() == self.table.fds()
        child.unshare(None)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.fds() == sorted(self.model)
        for fd, (file, cloexec) in self.model.items():
            assert self.table.get(fd) is file
            assert self.table.cloexec(fd) == cloexec
        for file in self.files:
            assert file.references == sum(1 for held, _ in self.model.values() if held is file)


TestFdTableModel = FdTableMachine.TestCase
TestFdTableModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_dup_family() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    assert fd == 0
    assert world.call("dup", fd) == 1
    assert world.call("dup2", fd, 7) == 7
    assert world.call("dup2", fd, fd) == fd
    assert world.call("dup2", 99, 99) == -EBADF
    assert world.call("dup2", fd, -1) == -EBADF
    assert world.call("dup3", fd, fd, 0) == -EINVAL
    assert world.call("dup3", fd, 8, O_CLOEXEC) == 8
    assert world.call("dup3", fd, 8, O_APPEND) == -EINVAL
    assert world.call("fcntl", 8, F_GETFD) == FD_CLOEXEC
    assert world.call("fcntl", 7, F_GETFD) == 0
    assert world.call("fcntl", fd, F_DUPFD, 5) == 5
    assert world.call("fcntl", fd, F_DUPFD_CLOEXEC, 5) == 6
    assert world.call("fcntl", 6, F_GETFD) == FD_CLOEXEC
    assert world.call("fcntl", 6, F_SETFD, 0) == 0
    assert world.call("fcntl", 6, F_GETFD) == 0
    assert world.call("fcntl", fd, F_DUPFD, 1 << 20) == -EINVAL
    assert world.call("close", 99) == -EBADF


def test_shared_offset_and_status_flags() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    other = world.call("dup", fd)
    assert world.call("write", fd, world.put(b"hello"), 5) == 5
    assert world.call("lseek", other, 0, 1) == 5
    assert world.call("fcntl", fd, F_SETFL, O_NONBLOCK | O_APPEND) == 0
    assert world.call("fcntl", other, F_GETFL) & (O_NONBLOCK | O_APPEND) == O_NONBLOCK | O_APPEND
    assert world.call("fcntl", other, F_GETFL) & 3 == O_RDWR


def test_limit() -> None:
    world = TaskWorld()
    world.task.group.limits.set(RLIMIT_NOFILE, 3, 3)
    for expected in range(3):
        assert world.open(b"/f", O_CREAT | O_RDWR) == expected
    assert world.open(b"/f", O_RDONLY) == -EMFILE
    assert world.call("dup2", 0, 3) == -EBADF
    assert world.call("fcntl", 0, F_DUPFD, 3) == -EINVAL
    assert world.call("fcntl", 0, F_DUPFD, 1) == -EMFILE
    assert world.call("close", 1) == 0
    assert world.call("dup", 0) == 1


def test_path_descriptors_do_nothing_but_duplicate() -> None:
    world = TaskWorld()
    world.open(b"/f", O_CREAT | O_RDWR)
    fd = world.open(b"/f", O_PATH)
    assert world.call("read", fd, world.put(bytes(8)), 8) == -EBADF
    assert world.call("write", fd, world.put(bytes(8)), 8) == -EBADF
    assert world.call("pread64", fd, world.put(bytes(8)), 8, 0) == -EBADF
    assert world.call("lseek", fd, 0, 0) == -EBADF
    assert world.call("fcntl", fd, F_SETFL, O_APPEND) == -EBADF
    assert world.call("fcntl", fd, F_GETFL) & O_PATH
    assert world.call("dup", fd) >= 0
    assert world.call("fstat", fd, world.put(bytes(144))) == 0


def test_close_range_and_sharing() -> None:
    world = TaskWorld()
    for _ in range(6):
        world.open(b"/f", O_CREAT | O_RDWR)
    sibling = world.thread(world.task)
    assert sibling.files is world.task.files
    assert world.call("close_range", 4, 2, 0) == -EINVAL
    assert world.call("close_range", 2, 3, CLOSE_RANGE_UNSHARE) == 0
    assert world.task.files.fds() == [0, 1, 4, 5]
    assert sibling.files.fds() == [0, 1, 2, 3, 4, 5]
    assert sibling.files.users == 1
    assert world.call("close_range", 4, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC) == 0
    world.task.files.close_on_exec(world.task)
    assert world.task.files.fds() == [0, 1]


def test_owner() -> None:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    assert world.call("fcntl", fd, F_SETOWN, world.task.pid) == 0
    assert world.call("fcntl", fd, F_GETOWN) == world.task.pid


def test_signal_driven_input() -> None:
    world = TaskWorld()
    address = world.put(bytes(8))
    world.call("pipe2", address, 0)
    reader, writer = struct.unpack("<ii", world.get(address, 8))
    task = world.task
    assert world.call("fcntl", reader, F_SETOWN, task.pid) == 0
    assert world.call("fcntl", reader, F_SETFL, O_ASYNC) == 0
    shared = task.group.signals.pending
    assert not shared.mask
    world.call("write", writer, world.put(b"x"), 1)
    assert shared.mask == 1 << SIGIO - 1
    assert [info.code for info in shared.queue] == [SI_KERNEL]
    shared.flush(shared.mask)
    assert world.call("fcntl", reader, F_SETSIG, 40) == 0
    world.call("write", writer, world.put(b"x"), 1)
    assert [(info.signo, info.code, info.fd) for info in shared.queue] == [(40, POLL_IN, reader)]
    shared.flush(shared.mask)
    assert world.call("fcntl", reader, F_SETFL, 0) == 0
    world.call("write", writer, world.put(b"x"), 1)
    assert not shared.mask
    world.call("fcntl", writer, F_SETOWN, task.pid)
    world.call("fcntl", writer, F_SETFL, O_ASYNC)
    world.call("close", writer)
    world.call("read", reader, world.put(bytes(8)), 8)
    assert not shared.mask
