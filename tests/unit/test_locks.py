"""File locks: record locks against a byte map, waiting, deadlock, OFD and flock locks, release on close."""

from __future__ import annotations

import struct
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from event_world import Running, settle
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTARTSYS
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.uapi.errno import EAGAIN, EBADF, EDEADLK, EINVAL, EOVERFLOW
from polynix.kernelproc.uapi.fcntl import (
    F_GETLK,
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_OFD_SETLKW,
    F_RDLCK,
    F_SETLK,
    F_SETLKW,
    F_UNLCK,
    F_WRLCK,
    LOCK_EX,
    LOCK_NB,
    LOCK_SH,
    LOCK_UN,
    O_CREAT,
    O_RDONLY,
    O_RDWR,
    SEEK_CUR,
    SEEK_END,
    SEEK_SET,
)
from polynix.kernelproc.vfs.locks import OFFSET_MAX, FileLocks
from task_world import TaskWorld

FLOCK = struct.Struct("<hh4xqqi4x")
SPACE = 24


class RecordLockMachine(RuleBasedStateMachine):
    """Three owners, one file of 24 bytes; the model says per byte who holds what."""

    @initialize()
    def start(self) -> None:
        self.locks = FileLocks()
        self.owners: list[Any] = [SimpleNamespace(name=name) for name in "abc"]
        self.model: list[dict[int, int]] = [{} for _ in self.owners]  # owner -> {byte: kind}

    @rule(
        owner=st.integers(0, 2),
        kind=st.sampled_from((F_RDLCK, F_WRLCK, F_UNLCK)),
        start=st.integers(0, SPACE - 1),
        length=st.integers(1, SPACE),
    )
    def set(self, owner: int, kind: int, start: int, length: int) -> None:
        end = min(start + length, SPACE) - 1
        span = range(start, end + 1)
        blocked = kind != F_UNLCK and any(
            other != owner and byte in held and F_WRLCK in (kind, held[byte]) for other, held in enumerate(self.model) for byte in span
        )
        obstacle = self.locks.conflict(self.owners[owner], kind, start, end) if kind != F_UNLCK else None
        assert (obstacle is not None) == blocked
        if obstacle is not None:
            assert obstacle.owner is not self.owners[owner]
            return
        self.locks.set_record(self.owners[owner], 1, kind, start, end)
        for byte in span:
            if kind == F_UNLCK:
                self.model[owner].pop(byte, None)
            else:
                self.model[owner][byte] = kind

    @rule(owner=st.integers(0, 2))
    def release(self, owner: int) -> None:
        self.locks.release_records(self.owners[owner])
        self.model[owner].clear()

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "locks"):
            return
        for index, owner in enumerate(self.owners):
            mine = sorted((lock for lock in self.locks.records if lock.owner is owner), key=lambda lock: lock.start)
            held = {byte: lock.kind for lock in mine for byte in range(lock.start, lock.end + 1)}
            assert held == self.model[index]
            assert sum(lock.end - lock.start + 1 for lock in mine) == len(held)  # no overlaps
            for left, right in pairwise(mine):
                assert left.end + 1 < right.start or left.kind != right.kind  # merged


TestRecordLockModel = RecordLockMachine.TestCase
TestRecordLockModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def flock_struct(world: TaskWorld, kind: int, start: int = 0, length: int = 0, whence: int = SEEK_SET, pid: int = 0) -> int:
    return world.put(FLOCK.pack(kind, whence, start, length, pid))


def lock(world: TaskWorld, task: Task, fd: int, command: int, kind: int, start: int = 0, length: int = 0, whence: int = 0) -> int:
    return world.call("fcntl", fd, command, flock_struct(world, kind, start, length, whence), task=task)


def two_processes() -> tuple[TaskWorld, Task, Task, int]:
    world = TaskWorld()
    fd = world.open(b"/f", O_CREAT | O_RDWR)
    return world, world.task, world.process(world.task), fd


def test_processes_exclude_each_other_and_threads_do_not() -> None:
    world, parent, child, fd = two_processes()
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, 10, 10) == 0
    assert lock(world, child, fd, F_SETLK, F_RDLCK, 0, 10) == 0
    assert lock(world, child, fd, F_SETLK, F_RDLCK, 0, 11) == -EAGAIN
    assert lock(world, world.thread(parent), fd, F_SETLK, F_RDLCK, 0, 30) == 0
    assert lock(world, child, fd, F_SETLK, F_RDLCK, 15, 3) == 0  # the thread's call made it a read lock


def test_getlk() -> None:
    world, parent, child, fd = two_processes()
    address = flock_struct(world, F_WRLCK, 0, 0)
    assert world.call("fcntl", fd, F_GETLK, address, task=child) == 0
    assert FLOCK.unpack(world.get(address, 32))[0] == F_UNLCK
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, 100, 0) == 0
    address = flock_struct(world, F_RDLCK, 0, 0)
    assert world.call("fcntl", fd, F_GETLK, address, task=child) == 0
    assert FLOCK.unpack(world.get(address, 32)) == (F_WRLCK, SEEK_SET, 100, 0, parent.pid)
    assert world.call("fcntl", fd, F_GETLK, flock_struct(world, F_UNLCK), task=child) == -EINVAL
    assert world.call("fcntl", fd, F_GETLK, flock_struct(world, F_RDLCK), task=parent) == 0


def test_ranges() -> None:
    world, parent, child, fd = two_processes()
    world.call("ftruncate", fd, 100)
    world.call("lseek", fd, 50, SEEK_SET)
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, -10, 10, SEEK_CUR) == 0  # 40..49
    assert lock(world, child, fd, F_SETLK, F_WRLCK, 50, 1) == 0
    assert lock(world, child, fd, F_SETLK, F_WRLCK, 49, 1) == -EAGAIN
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, 0, -5, SEEK_END) == 0  # 95..99
    assert lock(world, child, fd, F_SETLK, F_WRLCK, 94, 1) == 0
    assert lock(world, child, fd, F_SETLK, F_WRLCK, 95, 1) == -EAGAIN
    assert lock(world, child, fd, F_SETLK, F_WRLCK, 100, 1) == 0
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, -1, 1) == -EINVAL
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, 3, -5) == -EINVAL
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, OFFSET_MAX, 2) == -EOVERFLOW
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, OFFSET_MAX, 0, SEEK_END) == -EOVERFLOW
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, OFFSET_MAX, 1) == 0
    assert lock(world, parent, fd, F_SETLK, 9) == -EINVAL
    assert lock(world, parent, fd, F_SETLK, F_WRLCK, whence=9) == -EINVAL


def test_access_mode() -> None:
    world, parent, _child, _fd = two_processes()
    reader = world.open(b"/f", O_RDONLY)
    assert lock(world, parent, reader, F_SETLK, F_RDLCK) == 0
    assert lock(world, parent, reader, F_SETLK, F_WRLCK) == -EBADF
    assert lock(world, parent, 88, F_SETLK, F_RDLCK) == -EBADF


def test_waiting_in_order() -> None:
    world, parent, child, fd = two_processes()
    assert lock(world, parent, fd, F_SETLK, F_WRLCK) == 0
    waiting = world.start("fcntl", fd, F_SETLKW, flock_struct(world, F_WRLCK, 5, 5), task=child)
    assert isinstance(waiting, Running)
    settle(world.kernel)
    assert not waiting.done
    assert lock(world, parent, fd, F_SETLK, F_UNLCK, 0, 5) == 0
    settle(world.kernel)
    assert not waiting.done
    assert lock(world, parent, fd, F_SETLK, F_UNLCK) == 0
    assert world.finish(waiting) == 0
    assert lock(world, parent, fd, F_SETLK, F_WRLCK) == -EAGAIN


def test_interrupted_wait() -> None:
    world, parent, child, fd = two_processes()
    lock(world, parent, fd, F_SETLK, F_WRLCK)
    waiting = world.start("fcntl", fd, F_SETLKW, flock_struct(world, F_WRLCK), task=child)
    assert isinstance(waiting, Running)
    assert world.kernel.engine.interrupt(waiting.routine)
    settle(world.kernel)
    assert isinstance(waiting.error, Interrupted)
    assert waiting.error.errno == ERESTARTSYS
    lock(world, parent, fd, F_SETLK, F_UNLCK)
    assert lock(world, parent, fd, F_SETLK, F_WRLCK) == 0  # the interrupted call left nothing behind


def test_deadlock() -> None:
    world, first, second, fd = two_processes()
    third = world.process(world.task)
    assert lock(world, first, fd, F_SETLK, F_WRLCK, 0, 1) == 0
    assert lock(world, second, fd, F_SETLK, F_WRLCK, 1, 1) == 0
    assert lock(world, third, fd, F_SETLK, F_WRLCK, 2, 1) == 0
    one = world.start("fcntl", fd, F_SETLKW, flock_struct(world, F_WRLCK, 1, 1), task=first)
    two = world.start("fcntl", fd, F_SETLKW, flock_struct(world, F_WRLCK, 2, 1), task=second)
    assert lock(world, third, fd, F_SETLKW, F_WRLCK, 0, 1) == -EDEADLK
    assert lock(world, third, fd, F_SETLK, F_UNLCK) == 0
    assert world.finish(two) == 0
    assert lock(world, second, fd, F_SETLK, F_UNLCK) == 0
    assert world.finish(one) == 0


def test_any_close_releases_posix_locks() -> None:
    world, parent, child, fd = two_processes()
    other = world.open(b"/f", O_RDONLY, task=parent)
    assert lock(world, parent, fd, F_SETLK, F_WRLCK) == 0
    waiting = world.start("fcntl", fd, F_SETLKW, flock_struct(world, F_WRLCK), task=child)
    assert world.call("close", other, task=parent) == 0
    assert world.finish(waiting) == 0
    child.files.unshare(child)
    assert lock(world, parent, fd, F_SETLK, F_WRLCK) == 0


def test_close_of_the_waited_for_descriptor() -> None:
    world, parent, child, fd = two_processes()
    lock(world, parent, fd, F_SETLK, F_WRLCK)
    waiting = world.start("fcntl", fd, F_SETLKW, flock_struct(world, F_WRLCK), task=child)
    world.call("close", fd, task=world.thread(child))
    lock(world, parent, fd, F_SETLK, F_UNLCK)
    assert world.finish(waiting) == -EBADF
    assert lock(world, parent, fd, F_SETLK, F_WRLCK) == 0


def test_open_file_description_locks() -> None:
    world, parent, child, fd = two_processes()
    own = world.open(b"/f", O_RDWR, task=child)
    assert lock(world, parent, fd, F_OFD_SETLK, F_WRLCK, 0, 10) == 0
    assert lock(world, child, fd, F_OFD_SETLK, F_WRLCK, 5, 10) == 0  # the same description
    assert lock(world, child, own, F_OFD_SETLK, F_RDLCK, 5, 1) == -EAGAIN
    assert lock(world, child, own, F_SETLK, F_RDLCK, 5, 1) == -EAGAIN  # POSIX and OFD locks exclude each other
    address = flock_struct(world, F_WRLCK)
    assert world.call("fcntl", own, F_OFD_GETLK, address, task=child) == 0
    assert FLOCK.unpack(world.get(address, 32)) == (F_WRLCK, SEEK_SET, 0, 15, -1)
    assert world.call("fcntl", own, F_OFD_SETLK, flock_struct(world, F_RDLCK, pid=3), task=child) == -EINVAL
    waiting = world.start("fcntl", own, F_OFD_SETLKW, flock_struct(world, F_WRLCK), task=child)
    world.call("close", fd, task=parent)
    settle(world.kernel)
    assert isinstance(waiting, Running) and not waiting.done
    world.call("close", fd, task=child)
    assert world.finish(waiting) == 0


def test_flock() -> None:
    world, parent, child, fd = two_processes()
    own = world.open(b"/f", O_RDONLY, task=child)
    assert world.call("flock", fd, LOCK_EX) == 0
    assert world.call("flock", fd, LOCK_EX, task=child) == 0  # inherited description: the same lock
    assert world.call("flock", own, LOCK_SH | LOCK_NB, task=child) == -EAGAIN
    assert lock(world, child, own, F_SETLK, F_RDLCK) == 0  # record locks live apart
    assert world.call("flock", fd, LOCK_SH) == 0
    assert world.call("flock", own, LOCK_SH | LOCK_NB, task=child) == 0
    assert world.call("flock", own, LOCK_EX | LOCK_NB, task=child) == -EAGAIN
    # The failed conversion gave up the shared lock, as on Linux.
    assert world.call("flock", fd, LOCK_EX | LOCK_NB) == 0
    waiting = world.start("flock", own, LOCK_SH, task=child)
    assert world.call("flock", fd, LOCK_UN) == 0
    assert world.finish(waiting) == 0
    assert world.call("flock", fd, 77) == -EINVAL
    assert world.call("flock", 88, LOCK_SH) == -EBADF
    world.call("close", own, task=child)
    assert world.call("flock", fd, LOCK_EX | LOCK_NB) == 0
    assert parent.files.get(fd).node.expando is not None
