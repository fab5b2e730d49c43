"""Channel: a pair of ends that exchange whole messages of bytes and handles.

A message has at most 64 KiB and 64 handles. A written message is in the peer's queue, and stays readable after its writer is gone.
The other end of a :class:`ChannelEnd` is a :class:`ChannelPeer`: another end of this process, or whatever carries messages to
another process; an end doesn't know which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from polynix.ipc.handle import INFINITE, Handle, KernelObject, Transfer
from polynix.ipc.object_lock import ObjectLock
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

MAX_BYTES = 65536
MAX_HANDLES = 64

RIGHTS = (Rights.BASIC & ~Rights.DUPLICATE) | Rights.IO | Rights.SIGNAL | Rights.SIGNAL_PEER


@dataclass(frozen=True, slots=True)
class Message:
    """What lies in a queue."""

    data: bytes
    handles: tuple[Transfer, ...] = ()

    def close(self) -> None:
        """Nobody will read it: its handles close."""
        for transfer in self.handles:
            transfer.close()


class ChannelPeer(Protocol):
    """Where an end's messages go. Calls come with the end's lock held, and must not block."""

    @property
    def koid(self) -> int: ...

    def deliver(self, message: Message) -> None:
        """Queue a message at the far end."""

    def peer_closed(self) -> None:
        """The near end is gone; nothing more will be delivered."""

    def signal_from_peer(self, clear: Signals, set_: Signals) -> None:
        """User signals for the far end."""

    def consumed(self, remaining: int) -> None:
        """The near end was read; ``remaining`` messages are queued in it."""


class ChannelEnd(KernelObject):
    """One end; itself a :class:`ChannelPeer` for the other end of the same process."""

    def __init__(self, lock: ObjectLock | None = None) -> None:
        super().__init__(lock, Signals.WRITABLE)
        self.peer: ChannelPeer | None = None
        self.queue: deque[Message] = deque()

    @property
    def related_koid(self) -> int:
        return self.peer.koid if self.peer is not None else 0

    def write(self, message: Message) -> None:
        with self.lock:
            if self.peer is None:
                raise ZxStatus(Status.PEER_CLOSED)
            self.peer.deliver(message)

    def read(self, max_bytes: int, max_handles: int) -> Message:
        with self.lock:
            if not self.queue:
                raise ZxStatus(Status.SHOULD_WAIT if self.peer is not None else Status.PEER_CLOSED)
            message = self.queue[0]
            if len(message.data) > max_bytes or len(message.handles) > max_handles:
                raise ZxStatus(Status.BUFFER_TOO_SMALL, f"{len(message.data)} bytes, {len(message.handles)} handles")
            self.queue.popleft()
            if not self.queue:
                self.update_signals(Signals.READABLE, Signals.NONE)
            if self.peer is not None:
                self.peer.consumed(len(self.queue))
            return message

    def deliver(self, message: Message) -> None:
        with self.lock:
            self.queue.append(message)
            self.update_signals(Signals.NONE, Signals.READABLE)

    def peer_closed(self) -> None:
        with self.lock:
            self.peer = None
            self.update_signals(Signals.WRITABLE, Signals.PEER_CLOSED)

    def signal_from_peer(self, clear: Signals, set_: Signals) -> None:
        self.update_signals(clear, set_)

    def consumed(self, remaining: int) -> None:
        """The other end doesn't mind how many it has sent."""

    def on_zero_handles(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer_closed()
        unread, self.queue = self.queue, deque()
        for message in unread:
            self.lock.after(message.close)


class Channel(Handle):
    """A handle to one end."""

    @property
    def _end(self) -> ChannelEnd:
        return cast(ChannelEnd, self._require())

    @classmethod
    def create(cls) -> tuple[Channel, Channel]:
        """A connected pair."""
        lock = ObjectLock()
        first, second = ChannelEnd(lock), ChannelEnd(lock)
        first.peer, second.peer = second, first
        return cls(first, RIGHTS), cls(second, RIGHTS)

    def write(self, data: bytes | bytearray | memoryview, handles: Sequence[Handle] = ()) -> None:
        """Send a message; its handles are moved, and closed if the write fails.
        Errors: PEER_CLOSED; OUT_OF_RANGE beyond a limit; BAD_HANDLE; ACCESS_DENIED for a handle without TRANSFER; NOT_SUPPORTED
        for the channel itself; INVALID_ARGS for a handle given twice.
        """
        try:
            end = cast(ChannelEnd, self._require(Rights.WRITE))
            if len(data) > MAX_BYTES or len(handles) > MAX_HANDLES:
                raise ZxStatus(Status.OUT_OF_RANGE, f"{len(data)} bytes, {len(handles)} handles")
            for handle in handles:
                if handle is self:
                    raise ZxStatus(Status.NOT_SUPPORTED, "a channel cannot be sent through itself")
                handle._require(Rights.TRANSFER)
            if len({id(handle) for handle in handles}) != len(handles):
                raise ZxStatus(Status.INVALID_ARGS, "a handle twice")
        except ZxStatus:
            for handle in handles:
                if handle is not self:
                    handle.close()
            raise
        message = Message(bytes(data), tuple([handle._move() for handle in handles]))
        try:
            end.write(message)
        except ZxStatus:
            message.close()
            raise

    def read_message(self, max_bytes: int = MAX_BYTES, max_handles: int = MAX_HANDLES) -> Message:
        """As :meth:`read`, with the handles still in flight: for those who pass them on."""
        return cast(ChannelEnd, self._require(Rights.READ)).read(max_bytes, max_handles)

    def write_message(self, message: Message) -> None:
        """Pass on what :meth:`read_message` gave. Errors: PEER_CLOSED; the handles are closed then."""
        try:
            cast(ChannelEnd, self._require(Rights.WRITE)).write(message)
        except ZxStatus:
            message.close()
            raise

    def read(self, max_bytes: int = MAX_BYTES, max_handles: int = MAX_HANDLES) -> tuple[bytes, list[Handle]]:
        """The oldest message. Errors: SHOULD_WAIT; PEER_CLOSED once all has been read; BUFFER_TOO_SMALL, and the message stays."""
        message = self.read_message(max_bytes, max_handles)
        return message.data, [transfer.arrive() for transfer in message.handles]

    async def read_async(self) -> tuple[bytes, list[Handle]]:
        """Wait for a message in an asyncio loop. Errors: PEER_CLOSED once all has been read, CANCELED."""
        while True:
            try:
                return self.read()
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise
            await self.on_signals(Signals.READABLE | Signals.PEER_CLOSED)

    def read_blocking(self, deadline_ns: int = INFINITE) -> tuple[bytes, list[Handle]]:
        """Block for a message. Errors: PEER_CLOSED once all has been read, TIMED_OUT, CANCELED."""
        while True:
            try:
                return self.read()
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise
            self.wait(Signals.READABLE | Signals.PEER_CLOSED, deadline_ns)

    def signal_peer(self, clear: Signals, set_: Signals) -> None:
        """Set and clear user signals at the other end. Errors: PEER_CLOSED, INVALID_ARGS."""
        end = cast(ChannelEnd, self._require(Rights.SIGNAL_PEER))
        if (clear | set_) & ~end.user_signals:
            raise ZxStatus(Status.INVALID_ARGS, "not user signals")
        with end.lock:
            if end.peer is None:
                raise ZxStatus(Status.PEER_CLOSED)
            end.peer.signal_from_peer(clear, set_)
