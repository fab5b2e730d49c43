"""An unbounded queue from any thread into one loop: the runner's threads are given their work through it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

Item = TypeVar("Item")


class ChannelClosed(Exception):
    """All has been received, and nothing more will be sent."""


class _Shared(Generic[Item]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.items: deque[Item] = deque()
        self.closed = False
        self.waiter: Callable[[], None] | None = None

    def wake(self) -> None:
        """With the lock held: something changed."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter()


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the receiver's loop is gone
        loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Sender(Generic[Item]):
    """May be used from any thread."""

    def __init__(self, shared: _Shared[Item]) -> None:
        self._shared = shared

    def send(self, item: Item) -> None:
        """Queue ``item``. Errors: ChannelClosed."""
        with self._shared.lock:
            if self._shared.closed:
                raise ChannelClosed
            self._shared.items.append(item)
            self._shared.wake()

    def close(self) -> None:
        """The receiver ends once it has read what is queued."""
        with self._shared.lock:
            self._shared.closed = True
            self._shared.wake()


class Receiver(Generic[Item]):
    """Belongs to one task."""

    def __init__(self, shared: _Shared[Item]) -> None:
        self._shared = shared

    async def recv(self) -> Item:
        """The next item. Errors: ChannelClosed."""
        import asyncio

        while True:
            loop = asyncio.get_running_loop()
            with self._shared.lock:
                if self._shared.items:
                    return self._shared.items.popleft()
                if self._shared.closed:
                    raise ChannelClosed
                future: asyncio.Future[None] = loop.create_future()
                self._shared.waiter = partial(_wake, loop, future)
            await future

    def try_recv(self, waiter: Callable[[], None]) -> Item | None:
        """The next item; None if there is none yet, and ``waiter`` is called once, from a sender's thread, when that changes.
        Errors: ChannelClosed.
        """
        with self._shared.lock:
            if self._shared.items:
                return self._shared.items.popleft()
            if self._shared.closed:
                raise ChannelClosed
            self._shared.waiter = waiter
            return None


def unbounded() -> tuple[Sender[Item], Receiver[Item]]:
    """A connected pair."""
    shared: _Shared[Item] = _Shared()
    return Sender(shared), Receiver(shared)
