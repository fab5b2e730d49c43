"""Linux AIO: contexts, each with the requests that are under way and the events of those that are done (man 7 aio's kernel side; fs/aio.c).

A context belongs to an address space, and ends with it. What can be done at once, as reads and writes of files, is done when it is submitted; what must wait
is a routine of the context's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from polynix.addrspace._usercopy import Fault
from polynix.kernelproc.engine import Engine, Killed, Routine
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EAGAIN, EFAULT, EINVAL, EIO
from polynix.kernelproc.uapi.structs import io_event
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.addrspace.memory_manager import MemoryManager
    from polynix.kernelproc.vfs.eventfd import EventFdOps
    from polynix.kernelproc.vfs.file_object import FileObject

log = logging.getLogger(__name__)


class Request:
    """One iocb under way; ``address`` is where the guest has it, and ``file`` stays open meanwhile."""

    __slots__ = ("address", "cancellable", "data", "eventfd", "file", "routine")

    def __init__(self, address: int, data: int, file: FileObject, eventfd: tuple[FileObject, EventFdOps] | None, cancellable: bool) -> None:
        self.address = address
        self.data = data
        self.file = file.retain()
        self.eventfd = eventfd
        if eventfd is not None:
            eventfd[0].retain()
        self.cancellable = cancellable
        self.routine: Routine | None = None

    def release(self) -> None:
        self.file.release()
        if self.eventfd is not None:
            self.eventfd[0].release()


class AioContext:
    """One context (``struct kioctx``), of room for ``most`` requests, done or not. ``queue`` is notified of new events and of the end."""

    def __init__(self, asked: int, most: int) -> None:
        self.asked = asked
        self.most = most
        self.events: deque[bytes] = deque()
        self.requests: dict[Request, None] = {}
        self.queue = WaitQueue()
        self.ended = False

    def check_room(self) -> None:
        """Errors: EAGAIN."""
        if len(self.requests) + len(self.events) >= self.most:
            raise Errno(EAGAIN)

    def finish_later(self, request: Request, operation: Coroutine[Any, Any, int]) -> None:
        """``operation`` tells the request's result when it ends."""

        def done(_routine: Routine, result: Any, error: BaseException | None) -> None:
            if isinstance(error, Killed):
                return  # whoever stopped it knows
            if isinstance(error, Errno):
                result = -error.errno
            elif isinstance(error, Fault):
                result = -EFAULT
            elif error is not None:
                log.error("an AIO request failed inside the kernel", exc_info=error)
                result = -EIO
            self.finish(request, result)

        self.requests[request] = None
        request.routine = Engine.running.spawn(operation, "aio", None, done)

    def finish(self, request: Request, result: int) -> None:
        """The request is done: its event can be fetched."""
        self.requests.pop(request, None)
        self.events.append(io_event.pack(data=request.data, obj=request.address, res=result, res2=0))
        if request.eventfd is not None:
            request.eventfd[1].signal(1)
        request.release()
        self.queue.notify()

    def cancel(self, address: int) -> None:
        """io_cancel: only a poll can be; its event tells of nothing. Errors: EINVAL."""
        request = next((each for each in self.requests if each.address == address and each.cancellable), None)
        if request is None:
            raise Errno(EINVAL)
        self._stop(request)
        self.finish(request, 0)

    def _stop(self, request: Request) -> None:
        del self.requests[request]
        assert request.routine is not None
        Engine.running.kill(request.routine)

    def end(self) -> None:
        """io_destroy, or the end of the address space: what is under way is given up, and who waits for events goes on without."""
        self.ended = True
        for request in list(self.requests):
            self._stop(request)
            request.release()
        self.queue.notify()


class AioContexts:
    """All contexts of a kernel, by address space and id; in its expando."""

    def __init__(self) -> None:
        self._by_space: dict[MemoryManager, dict[int, AioContext]] = {}

    @property
    def asked(self) -> int:
        """How many requests all contexts were made for: fs.aio-nr."""
        return sum(context.asked for contexts in self._by_space.values() for context in contexts.values())

    def add(self, mm: MemoryManager, identifier: int, context: AioContext) -> None:
        self._by_space.setdefault(mm, {})[identifier] = context

    def find(self, mm: MemoryManager, identifier: int) -> AioContext:
        """Errors: EINVAL."""
        context = self._by_space.get(mm, {}).get(identifier)
        if context is None:
            raise Errno(EINVAL)
        return context

    def remove(self, mm: MemoryManager, identifier: int) -> None:
        """io_destroy. Errors: EINVAL."""
        context = self.find(mm, identifier)
        del self._by_space[mm][identifier]
        context.end()

    def release(self, mm: MemoryManager) -> None:
        """Nobody uses the address space any more."""
        for context in self._by_space.pop(mm, {}).values():
            context.end()
