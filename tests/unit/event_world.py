"""A kernel without guests: a real Engine over the host's epoll, for tests that drive kernel objects directly."""

from __future__ import annotations

import functools
import os
import select
from collections.abc import Coroutine
from typing import Any

from polynix.kernelproc.clock import HostClock
from polynix.kernelproc.engine import Engine, Routine
from polynix.kernelproc.kernel import Kernel
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from polynix.kernelproc.vfs.file_object import FileObject


class PollMonitor:
    """What the engine asks of restricted mode's Monitor, without restricted mode."""

    running = 0

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
        self.routine = Routine(coroutine, "test", owner, self._finish)
        kernel.engine.start(self.routine)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        self.value, self.error, self.done = value, error, True
        self.kernel.engine.call_from_thread(lambda: None)  # so that this turn doesn't sleep

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
