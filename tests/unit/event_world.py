"""A kernel without guests: a real Engine over the host's epoll, for tests that drive kernel objects directly."""

from __future__ import annotations

import functools
import os
import select
import struct
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import polynix.kernelproc.syscalls.all  # noqa: F401
from polynix.addrspace._usercopy import Fault, MemoryObject, UserAddress, UserMap
from polynix.kernelproc.clock import HostClock
from polynix.kernelproc.engine import Engine, Routine
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.tmpfs import new_tmpfs
from polynix.kernelproc.kernel import Kernel
from polynix.kernelproc.signals.signal_state import ProcessSignals, SignalActions, SignalState
from polynix.kernelproc.syscalls.table import entries
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.task.fd_table import FdTable
from polynix.kernelproc.task.process_group import ProcessGroup, Session
from polynix.kernelproc.task.resource_limits import ResourceLimits
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.task.thread_group import ThreadGroup
from polynix.kernelproc.uapi.errno import EFAULT
from polynix.kernelproc.uapi.unistd import SYSCALLS
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.fs_context import FsContext
from polynix.kernelproc.vfs.namespace import Namespace


class PollMonitor:
    """What the engine asks of restricted mode's Monitor, without restricted mode."""

    running = 0  # guest threads in restricted mode

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._tokens: dict[int, int] = {}
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._doorbell, select.EPOLLIN, -1)

    def watch(self, fd: int, events: int, token: int) -> None:
        self._tokens[fd] = token
        self._epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        del self._tokens[fd]
        self._epoll.unregister(fd)

    def wake(self) -> None:
        os.eventfd_write(self._doorbell, 1)

    def wait(self, timeout_ns: int, _spin_ns: int) -> tuple[list[Any], list[tuple[int, int]]]:
        timeout = None if timeout_ns < 0 else timeout_ns / 1e9
        events = []
        for fd, mask in self._epoll.poll(timeout):
            if fd == self._doorbell:
                os.eventfd_read(fd)
            else:
                events.append((self._tokens[fd], mask))
        return [], events

    def close(self) -> None:
        self._epoll.close()
        os.close(self._doorbell)


@functools.cache
def new_kernel() -> Kernel:
    """The kernel that all these tests share (a host process has one running Engine)."""
    clock = HostClock()
    return Kernel(Engine(PollMonitor(), clock), clock)  # type: ignore[arg-type]


class Running:
    """A routine under test and what became of it."""

    def __init__(self, kernel: Kernel, coroutine: Coroutine[Any, Any, Any], owner: Any = None) -> None:
        self.kernel = kernel
        Engine.running = kernel.engine
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.routine = Routine.of(coroutine, "test", owner, self._finish)
        kernel.engine.start(self.routine)

    def _finish(self, _routine: Routine, value: Any, error: BaseException | None) -> None:
        self.value, self.error, self.done = value, error, True
        self.kernel.engine.call_from_thread(lambda: None)  # end the turn's wait

    def result(self, timeout: float = 5.0) -> Any:
        """Turn the engine until the routine ends."""
        Engine.running = self.kernel.engine
        engine = self.kernel.engine
        limit = engine.call_later(int(timeout * 1e9), lambda: None)
        while not self.done:
            if not limit.active:
                raise TimeoutError(f"{self.routine!r} did not end")
            engine.turn()
        limit.cancel()
        if self.error is not None:
            raise self.error
        return self.value


def settle(kernel: Kernel) -> None:
    """Run what is ready, without waiting."""
    Engine.running = kernel.engine
    for _ in range(3):
        kernel.engine.call_from_thread(lambda: None)
        kernel.engine.turn()


def run(kernel: Kernel, coroutine: Coroutine[Any, Any, Any], timeout: float = 5.0) -> Any:
    return Running(kernel, coroutine).result(timeout)


def write(file: FileObject, data: bytes) -> int:
    """One attempt: the count or -errno."""
    result = file.ops.write(file, 0, BytesInputBuffer(data))
    assert isinstance(result, int)
    return result


def read(file: FileObject, count: int) -> bytes | int:
    """One attempt: the bytes or -errno."""
    out = BytesOutputBuffer(count)
    result = file.ops.read(file, 0, out)
    assert isinstance(result, int)
    return result if result < 0 else bytes(out.data)


# -- system calls ----------------------------------------------------------------------------------------------------------

BASE = 0x10000
MEMORY = 8 << 20


class _Memory:
    """What a Task asks of its address space, without one: 8 MiB of memory at BASE."""

    def __init__(self) -> None:
        self.user = UserMap()
        fd = os.memfd_create("guest")
        os.ftruncate(fd, MEMORY)
        self.user.map(BASE, BASE + MEMORY, 3, MemoryObject(fd), 0)


class Guest:
    """A task that makes system calls from Python: numbers in, numbers out, and memory to point at."""

    def __init__(self, kernel: Kernel, credentials: Credentials | None = None, sibling: Guest | None = None) -> None:
        self.kernel = kernel
        kernel.loop = SimpleNamespace(current=None)  # type: ignore[assignment]
        pid = kernel.pids.allocate()
        limits = ResourceLimits()
        session = Session(pid)
        group = ThreadGroup(kernel, pid, ProcessGroup(pid, session), ProcessSignals(), limits)
        memory: Any = _Memory()
        self.task = Task(
            kernel,
            pid,
            group,
            mm=memory,
            files=FdTable(limits),
            fs=sibling.task.fs if sibling is not None else FsContext(Namespace(new_tmpfs(kernel, mode=0o777))),
            signals=SignalState(SignalActions()),
            credentials=credentials or Credentials.root(),
            comm=b"guest",
        )
        group.leader = self.task
        group.tasks[pid] = self.task
        kernel.pids.tasks[pid] = self.task
        kernel.pids.thread_groups[pid] = group
        self.next = BASE

    def memory(self, data: bytes | int) -> int:
        """The address of fresh memory that holds ``data``, or that many zero bytes."""
        if isinstance(data, int):
            data = bytes(data)
        address = self.next
        self.next += (len(data) + 15) & ~15
        if self.next > BASE + MEMORY:
            self.next = address = BASE
            return self.memory(data)
        self.task.user.copy_out(UserAddress(address), data)
        return address

    def load(self, address: int, count: int) -> bytes:
        return self.task.user.copy_in(UserAddress(address), count)

    def start(self, name: str, *arguments: int) -> int | Running:
        """One system call: its result, or the routine in which it blocks."""
        entry = entries[SYSCALLS[name]]
        assert entry is not None
        registers = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments] + [0] * (6 - len(arguments))
        Engine.running = self.kernel.engine
        self.kernel.loop.current = self.task
        try:
            result = entry(self.task, *registers)
        except Errno as error:
            return -error.errno
        except Fault:
            return -EFAULT
        finally:
            self.kernel.loop.current = None
        if isinstance(result, int):
            return result
        running = Running(self.kernel, result, self.task)
        self.task.routine = running.routine
        return outcome(running) if running.done else running

    def call(self, name: str, *arguments: int) -> int:
        """One system call, waited for."""
        result = self.start(name, *arguments)
        return result if isinstance(result, int) else finish(result)

    def pipe(self, flags: int = 0) -> tuple[int, int]:
        address = self.memory(8)
        assert self.call("pipe2", address, flags) == 0
        return struct.unpack("ii", self.load(address, 8))  # type: ignore[return-value]

    def write(self, fd: int, data: bytes) -> int:
        return self.call("write", fd, self.memory(data), len(data))

    def read(self, fd: int, count: int) -> bytes | int:
        address = self.memory(count)
        result = self.call("read", fd, address, count)
        return self.load(address, result) if result >= 0 else result


def outcome(running: Running) -> int:
    """What a finished system call gives, as the loop would."""
    if isinstance(running.error, Errno):
        return -running.error.errno
    if isinstance(running.error, Fault):
        return -EFAULT
    if running.error is not None:
        raise running.error
    return int(running.value)


def finish(running: int | Running, timeout: float = 5.0) -> int:
    """Wait for a system call that blocks."""
    if isinstance(running, int):
        return running
    try:
        running.result(timeout)
    except (Errno, Fault):
        pass
    return outcome(running)
