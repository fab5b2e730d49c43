"""A system call that waits for one queue and then tries again, without a coroutine.

Most calls that block are of this kind: a read of an empty pipe, a futex. They come so often that making a coroutine, its routine and a wait entry for each
costs more than the call; one object here is all three. What needs more than one wait, or a timeout, is an ``async def`` as before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Protocol

from polynix.kernelproc.engine import Engine, Routine
from polynix.kernelproc.wait_queue import ALL_EVENTS, WaitQueue


class Queue(Protocol):
    """Where a call waits: a wait queue, or a futex's."""

    def add(self, entry: Any, /) -> None:
        """At the end."""

    def remove(self, entry: Any, /) -> None:
        """Not being there is no error."""


class BlockedCall(Routine):
    """Returned by a system call whose first try was in vain; also its own entry in the wait queue.

    Subclasses say how to :meth:`attempt` again, and :meth:`end` what they hold. The waker only marks it ready: it tries on the engine's turn, as a
    coroutine would.
    """

    __slots__ = ("queue",)

    mask = ALL_EVENTS  # class attributes: a subclass waits for the same events each time, and making one must be cheap
    exclusive = False

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.coroutine = None
        self.queued = False
        self.interruptible = True

    def attempt(self) -> int | Awaitable[int] | None:
        """Woken: the call's result, None to go on waiting, or what to await for it. Errors: as the call's."""
        raise NotImplementedError

    def go_on(self, result: Awaitable[int]) -> Coroutine[Any, Any, int]:
        """The rest of the call, after an attempt that must be awaited; holds what it needs by itself."""
        raise NotImplementedError

    def end(self) -> None:
        """The waiting is over, in whatever way: give back what is held."""

    def __await__(self) -> Generator[Any, Any, int]:
        """The same as a coroutine's part, for a hook or a trace that is wrapped around the call; then this object is no routine."""
        return self._wait_and_attempt().__await__()

    async def _wait_and_attempt(self) -> int:
        queue = self.queue
        assert isinstance(queue, WaitQueue)
        try:
            while True:
                await queue.wait(self.mask, exclusive=self.exclusive)
                result = self.attempt()
                if result is not None:
                    return result if isinstance(result, int) else await self.go_on(result)
        finally:
            self.end()

    def begin(self, engine: Engine) -> None:
        """Wait for the queue: the first attempt was the caller's."""
        self.queue.add(self)
        self.parked = True
        # A signal that came before the park must not be lost.
        owner = self.owner
        if owner is not None and owner.attention and owner.interrupt_pending():
            engine.interrupt(self)

    def callback(self, _events: int) -> bool:
        """The queue was notified."""
        return Engine.running.wake(self)

    def step(self, engine: Engine, value: Any, error: BaseException | None) -> None:
        if self.coroutine is not None:
            super().step(engine, value, error)
            return
        self.queued = False
        previous, engine.current = engine.current, self
        result: Any = None
        try:
            if error is None:
                result = self.attempt()
                if result is None:
                    self.queue.remove(self)  # to the end; and a host descriptor's queue looks afresh
                    self.begin(engine)
                    return
        except Exception as failure:
            error = failure
        finally:
            engine.current = previous
        self.queue.remove(self)
        if error is None and type(result) is not int:
            self.coroutine = self.go_on(result)
            super().step(engine, None, None)
            self.end()
            return
        self.end()
        self.done(self, result, error)


CallResult = int | Awaitable[int] | BlockedCall  # of a system call that may block
