"""WireServer: what a session, a broker and the links of a process have in common: one poll for all their wires.

Each wire has an owner, which the subclass knows how to serve. :meth:`WireServer.await_due` tells for whom something is to be done: a descriptor of his
wire was told of, or somebody asked, from whatever thread, to :meth:`~WireServer.look_at` him. It is a :class:`~polynix.ipc.service.Served`.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from typing import Generic, Protocol, TypeVar

from polynix.ipc.wire import Wire


class WireOwner(Protocol):
    wire: Wire
    polled: dict[int, int]
    """The descriptors that are polled for it, each with the events; empty at first."""


Owner = TypeVar("Owner", bound=WireOwner)


class WireServer(Generic[Owner]):
    """One poll; the thread that leads calls all but what is said to be for any."""

    def __init__(self) -> None:
        self.ended = False
        self.leader = 0  # the thread that serves now, 0 for none
        self._by_fd: dict[int, Owner] = {}
        self._attention: deque[Owner] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)

    def look_at(self, owner: Owner) -> None:
        """Something is to be done that no descriptor tells; from any thread."""
        self._attention.append(owner)
        if threading.get_ident() != self.leader:
            self.interrupt()

    def interrupt(self) -> None:
        """Have :meth:`await_due` return soon; from any thread."""
        with contextlib.suppress(OSError):  # it may be closed by now
            os.eventfd_write(self._wake, 1)

    def await_due(self, timeout: float) -> dict[Owner, None]:
        """Sleep until something is to be done, for ``timeout`` seconds or (-1) without end; for whom, each once."""
        due: dict[Owner, None] = {}
        for fd, events in self._epoll.poll(0 if self._attention else timeout):
            owner = self._by_fd.get(fd)
            if owner is not None:
                owner.wire.notice(fd, events)
                due[owner] = None
            elif fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
            else:
                self.on_readable(fd)
        while self._attention:
            due[self._attention.popleft()] = None
        return due

    def on_readable(self, fd: int) -> None:
        """A descriptor that belongs to no wire, and that the subclass has registered, was told of."""

    def poll_for(self, owner: Owner) -> None:
        """Poll what the owner's wire wants now."""
        events = owner.wire.poll_events()
        if events != owner.polled:
            self.poll_no_more(owner)
            for fd, mask in events.items():
                self._epoll.register(fd, mask)
                self._by_fd[fd] = owner
            owner.polled = events

    def poll_no_more(self, owner: Owner) -> None:
        for fd in owner.polled:
            self._epoll.unregister(fd)
            del self._by_fd[fd]
        owner.polled = {}

    def close_poll(self) -> None:
        """Nobody serves any more, nor will."""
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake)
