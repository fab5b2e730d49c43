"""The far side of a bridge: a socket of the host, or a channel that the runner's proxy forwards.

A channel carries the bytes as messages of at most 64 KiB, and an empty message says that nothing more will be sent that way. The proxy has raised the channel's
counter for each message; it goes down when the guest has read that message, so that the container isn't suspended before.
"""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

from polynix.ipc.objects import MAX_BYTES, Channel, Counter, Signals, Status, ZxStatus
from polynix.kernelproc.devices.host_file import WatchedQueue
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EAGAIN, ECONNRESET, EIO
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.engine import Engine

PIECE: Final = 65536
_WANTED: Final = Signals.CHANNEL_READABLE | Signals.CHANNEL_PEER_CLOSED
_ROOM: Final = Signals.CHANNEL_WRITABLE | Signals.CHANNEL_PEER_CLOSED


class Outside(ABC):
    """One connection. ``queue`` is notified when what had to wait may be tried again."""

    queue: WaitQueue

    @abstractmethod
    def receive(self) -> bytes | None:
        """Some bytes; b"" when the peer sends no more; None to wait. Errors: Errno, when the connection is gone."""

    @abstractmethod
    def send(self, data: bytes) -> int:
        """The count taken, -EAGAIN to wait, -errno."""

    @abstractmethod
    def end(self) -> int:
        """Nothing more will be sent: 0, or -EAGAIN to wait."""

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether the peer has closed the connection."""

    @abstractmethod
    def consumed(self, total: int) -> None:
        """The guest has read so many of the bytes that were received, or never will."""

    @abstractmethod
    def close(self) -> None: ...


class HostSocketOutside(Outside):
    """A stream socket of the host; ``fd`` is ours from now on. It is asked with MSG_DONTWAIT, since its description may be shared."""

    def __init__(self, engine: Engine, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self._watched = self.queue = WatchedQueue(engine, fd)

    def receive(self) -> bytes | None:
        try:
            return self.socket.recv(PIECE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Errno(error.errno or EIO)

    def send(self, data: bytes) -> int:
        try:
            return self.socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            return -(error.errno or EIO)

    def end(self) -> int:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone
        return 0

    @property
    def gone(self) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def consumed(self, total: int) -> None:
        """Nobody counts."""

    def close(self) -> None:
        if self.socket.fileno() < 0:
            return
        self._watched.close()
        self.socket.close()
        self.queue.notify()


class ChannelOutside(Outside):
    """The container's end of a channel that is proxied, and its message counter; both are ours from now on."""

    def __init__(self, engine: Engine, channel: Channel, counter: Counter) -> None:
        self.engine = engine
        self.channel = channel
        self.counter = counter
        self.queue = WaitQueue()
        self._armed = Signals.NONE
        self._received = 0
        self._unhandled: deque[int] = deque()  # where the messages end that the guest has yet to read

    def _arm(self, signals: Signals) -> None:
        if signals & ~self._armed:
            self._armed |= signals
            self.channel.wait_async(signals, lambda _status, _pending: self.engine.call_from_thread(self._ready, signals))

    def _ready(self, signals: Signals) -> None:
        self._armed &= ~signals
        self.queue.notify()

    def receive(self) -> bytes | None:
        try:
            data, handles = self.channel.read()
        except ZxStatus as error:
            if error.status == Status.SHOULD_WAIT:
                self._arm(_WANTED)
                return None
            raise Errno(ECONNRESET)
        for handle in handles:
            handle.close()
        self._received += len(data)
        self._unhandled.append(self._received)
        return data

    def send(self, data: bytes) -> int:
        data = data[:MAX_BYTES]
        try:
            self.channel.write(data)
        except ZxStatus as error:
            if error.status == Status.SHOULD_WAIT:
                self._arm(_ROOM)
                return -EAGAIN
            return -ECONNRESET
        return len(data)

    def end(self) -> int:
        return self.send(b"")

    @property
    def gone(self) -> bool:
        return bool(self.channel.pending & Signals.CHANNEL_PEER_CLOSED)

    def consumed(self, total: int) -> None:
        handled = 0
        while self._unhandled and self._unhandled[0] <= total:
            self._unhandled.popleft()
            handled += 1
        if handled:
            self._lower(handled)

    def _lower(self, count: int) -> None:
        try:
            self.counter.add(-count)
        except ZxStatus:
            pass  # a counter that somebody else has moved to its limit

    def close(self) -> None:
        if not self.channel.is_valid:
            return
        self._lower(len(self._unhandled))
        self._unhandled.clear()
        self.channel.close()
        self.counter.close()
        self.queue.notify()
