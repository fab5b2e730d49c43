"""Channel: a pair of ends that exchange whole messages of bytes and handles.

A message has at most 64 KiB and 64 handles. A written message is in the peer's queue, and stays readable after its writer is gone.
The other end of a :class:`ChannelEnd` is a :class:`ChannelPeer`: another end of this process, or whatever carries messages to
another process; an end doesn't know which.

Between processes a writer may be :data:`WINDOW` ahead of the reader, in units of :func:`cost`; beyond that WRITABLE is clear and a write
gets SHOULD_WAIT. Within a process there is no limit, unless the pair was made with ``bounded``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from polynix.ipc.handle import INFINITE, Handle, KernelObject, Registration, Transfer
from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

MAX_BYTES = 65536
MAX_HANDLES = 64
WINDOW = 4 << 20  # what may be written and not read, as cost() counts
REPORT = 64 << 10  # of cost: what a reader in another process may have read before it says so
MESSAGE_COST = 256
HANDLE_COST = 64

RIGHTS = (Rights.BASIC & ~Rights.DUPLICATE) | Rights.IO | Rights.SIGNAL | Rights.SIGNAL_PEER
_NEWS = Signals.READABLE | Signals.PEER_CLOSED
_READ, _WRITE = Rights.READ, Rights.WRITE  # a member of an enumeration takes long to find
_READABLE, _WRITABLE = int(Signals.READABLE), int(Signals.WRITABLE)


class Message:
    """Bytes and handles on their way."""

    __slots__ = ("data", "handles")

    def __init__(self, data: bytes, handles: tuple[Transfer, ...] = ()) -> None:
        self.data = data
        self.handles = handles

    @property
    def cost(self) -> int:
        """Bytes that it takes, about: what windows are counted in."""
        return len(self.data) + MESSAGE_COST + HANDLE_COST * len(self.handles)

    def close(self) -> None:
        """Nobody will read it: its handles close."""
        for transfer in self.handles:
            transfer.close()


Queued = bytes | Message
"""What lies in a queue: a message without handles is its bytes alone."""


def cost(queued: Queued) -> int:
    """What a message counts in windows: the bytes that it takes, about."""
    return len(queued) + MESSAGE_COST if type(queued) is bytes else queued.cost  # type: ignore[union-attr]


class ChannelPeer(Protocol):
    """Where an end's messages go. Calls come with the lock held, and must not block."""

    @property
    def koid(self) -> int: ...

    @property
    def backlog(self) -> int:
        """What was delivered there and not read."""

    @property
    def is_full(self) -> bool:
        """Whether the near end must wait before it writes more."""

    def deliver(self, message: Message) -> bool:
        """Queue a message at the far end; returns :attr:`is_full`. Errors: ZxStatus for handles that can't go there; nothing was taken then."""

    def deliver_plain(self, datas: Sequence[bytes], cost: int) -> bool:
        """Queue messages without handles, of this cost together; returns :attr:`is_full`."""

    def peer_closed(self) -> None:
        """The near end is gone; nothing more will be delivered."""

    def signal_from_peer(self, clear: Signals, set_: Signals) -> None:
        """User signals for the far end."""

    def consumed(self, cost: int, backlog: int) -> None:
        """The near end has read messages of this cost; ``backlog`` is queued in it."""


class Holder(Protocol):
    """The process that holds an end, where it isn't this one. Calls come with the lock held."""

    def push(self, message: Message) -> None:
        """Send a message to it. Errors: ZxStatus for handles that can't go there; nothing was taken then."""

    def push_plain(self, datas: Sequence[bytes]) -> None:
        """Send messages without handles to it."""

    def push_closed(self) -> None: ...

    def push_signals(self, clear: Signals, set_: Signals) -> None: ...

    def push_consumed(self, cost: int) -> None:
        """The other end has read so much."""


class EndRegistration(Registration, Protocol):
    """What the broker knows of an end of this process."""

    def has_read(self, count: int, cost: int) -> None:
        """The oldest messages, so many, of this cost together, have been read."""


class ChannelEnd(KernelObject):
    """One end; itself a :class:`ChannelPeer` for the other end of the same process."""

    registration: EndRegistration | None = None

    def __init__(self) -> None:
        super().__init__(Signals.WRITABLE)
        self.peer: ChannelPeer | None = None
        self.queue: deque[Queued] = deque()
        self.holder: Holder | None = None
        self.bounded = False
        self.backlog = 0  # what was delivered and not read, here or at the holder

    @classmethod
    def create(cls) -> tuple[ChannelEnd, ChannelEnd]:
        """A connected pair."""
        first, second = cls(), cls()
        first.peer, second.peer = second, first
        return first, second

    @property
    def related_koid(self) -> int:
        return self.peer.koid if self.peer is not None else 0

    # -- for the handle ----------------------------------------------------------------------------------------------------------

    def check_writable(self) -> ChannelPeer:
        """Where to write. Errors: PEER_CLOSED, SHOULD_WAIT."""
        peer = self.peer
        if peer is None:
            raise ZxStatus(Status.PEER_CLOSED)
        if peer.is_full:
            raise ZxStatus(Status.SHOULD_WAIT, "the reader is behind")
        return peer

    def write(self, message: Message) -> None:
        with OBJECTS:
            if self.check_writable().deliver(message):
                self.update_signals(Signals.WRITABLE, Signals.NONE)

    def write_plain(self, datas: Sequence[bytes], cost: int) -> None:
        OBJECTS.acquire()
        try:
            peer = self.peer
            if peer is None or peer.is_full:
                peer = self.check_writable()
            if peer.deliver_plain(datas, cost):
                self.update_signals(Signals.WRITABLE, Signals.NONE)
        finally:
            OBJECTS.release()

    def read(self, max_bytes: int, max_handles: int) -> Queued:
        OBJECTS.acquire()
        try:
            queue = self.queue
            if not queue:
                raise ZxStatus(Status.SHOULD_WAIT if self.peer is not None else Status.PEER_CLOSED)
            queued = queue[0]
            if type(queued) is bytes:
                size = len(queued)
                if size > max_bytes:
                    raise ZxStatus(Status.BUFFER_TOO_SMALL, f"{size} bytes")
                size += MESSAGE_COST
            else:
                _check_size(queued, max_bytes, max_handles)
                size = cost(queued)
            queue.popleft()
            if not queue:
                self._pending &= ~_READABLE
            self.read_so_far(1, size)
            return queued
        finally:
            OBJECTS.release()

    def read_many(self, most: int, most_cost: int) -> list[Queued]:
        """The oldest messages, until they are so many or cost so much; none when there are none."""
        OBJECTS.acquire()
        try:
            queue = self.queue
            many: list[Queued] = []
            total = 0
            while queue and len(many) < most and total < most_cost:
                queued = queue.popleft()
                total += len(queued) + MESSAGE_COST if type(queued) is bytes else cost(queued)
                many.append(queued)
            if many:
                if not queue:
                    self._pending &= ~_READABLE
                self.read_so_far(len(many), total)
            return many
        finally:
            OBJECTS.release()

    # -- for the peer, and for who holds the end in another process --------------------------------------------------------------

    def read_so_far(self, count: int, cost: int) -> None:
        """The oldest messages, so many, of this cost together, have been read."""
        self.backlog -= cost
        if self.registration is not None:  # the broker tells the peer
            self.registration.has_read(count, cost)
        elif self.peer is not None:
            self.peer.consumed(cost, self.backlog)

    @property
    def is_full(self) -> bool:
        return (self.bounded or self.holder is not None) and self.backlog >= WINDOW

    def deliver(self, message: Message) -> bool:
        if self.holder is not None:
            self.holder.push(message)
            return self._delivered(message.cost)
        return self._queue((message,), message.cost)

    def deliver_plain(self, datas: Sequence[bytes], cost: int) -> bool:
        if self.holder is not None:
            self.holder.push_plain(datas)
            return self._delivered(cost)
        return self._queue(datas, cost)

    def _queue(self, many: Sequence[Queued], cost: int) -> bool:
        self.queue.extend(many)
        if not self._pending & _READABLE:
            self.update_signals(Signals.NONE, Signals.READABLE)
        return self._delivered(cost)

    def _delivered(self, cost: int) -> bool:
        self.backlog += cost
        return self.is_full

    def peer_closed(self) -> None:
        with OBJECTS:
            self.peer = None
            if self.holder is not None:
                self.holder.push_closed()
            self.update_signals(Signals.WRITABLE, Signals.PEER_CLOSED)

    def sever(self) -> None:
        """Part the ends: each finds the other closed."""
        with OBJECTS:
            peer = self.peer
            self.peer_closed()
            if peer is not None:
                peer.peer_closed()

    def signal_from_peer(self, clear: Signals, set_: Signals) -> None:
        self.update_signals(clear, set_)
        if self.holder is not None:
            self.holder.push_signals(clear, set_)

    def consumed(self, cost: int, backlog: int) -> None:
        if self.holder is not None:
            self.holder.push_consumed(cost)
        elif backlog < WINDOW // 2 and not self._pending & _WRITABLE:
            self.update_signals(Signals.NONE, Signals.WRITABLE)

    def on_zero_handles(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer_closed()
        unread, self.queue = self.queue, deque()
        for queued in unread:
            if isinstance(queued, Message):
                self.lock.after(queued.close)


class Channel(Handle):
    """A handle to one end."""

    if TYPE_CHECKING:

        def _require(self, rights: Rights = Rights.NONE) -> ChannelEnd: ...

    @classmethod
    def create(cls, *, bounded: bool = False) -> tuple[Channel, Channel]:
        """A connected pair; ``bounded`` keeps writers at most :data:`WINDOW` ahead within a process too."""
        first, second = ChannelEnd.create()
        first.bounded = second.bounded = bounded
        return cls(first, RIGHTS), cls(second, RIGHTS)

    def write(self, data: bytes | bytearray | memoryview, handles: Sequence[Handle] = ()) -> None:
        """Send a message; its handles are moved, and closed if the write fails otherwise than by SHOULD_WAIT.
        Errors: SHOULD_WAIT while WRITABLE is clear; PEER_CLOSED; OUT_OF_RANGE beyond a limit; BAD_HANDLE; ACCESS_DENIED for a handle
        without TRANSFER; NOT_SUPPORTED for the channel itself, or for a handle that can't go where the peer is; INVALID_ARGS for a
        handle given twice; NO_RESOURCES.
        """
        if not handles:
            size = len(data)
            if size > MAX_BYTES:
                raise ZxStatus(Status.OUT_OF_RANGE, f"{size} bytes")
            plain = data if type(data) is bytes else bytes(data)
            self._require(_WRITE).write_plain((plain,), size + MESSAGE_COST)
            return
        try:
            end = self._require(_WRITE)
            if len(data) > MAX_BYTES or len(handles) > MAX_HANDLES:
                raise ZxStatus(Status.OUT_OF_RANGE, f"{len(data)} bytes, {len(handles)} handles")
            for handle in handles:
                if handle is self:
                    raise ZxStatus(Status.NOT_SUPPORTED, "a channel cannot be sent through itself")
                handle._require(Rights.TRANSFER)
            if len({id(handle) for handle in handles}) != len(handles):
                raise ZxStatus(Status.INVALID_ARGS, "a handle twice")
            with OBJECTS:
                end.check_writable()
                message = Message(bytes(data), tuple([handle._move() for handle in handles]))
                try:
                    end.write(message)
                except ZxStatus:
                    message.close()
                    raise
        except ZxStatus as error:
            if error.status != Status.SHOULD_WAIT:
                for handle in handles:
                    if handle is not self:
                        handle.close()
            raise

    async def write_async(self, data: bytes | bytearray | memoryview, handles: Sequence[Handle] = ()) -> None:
        """As :meth:`write`; waits in an asyncio loop while the reader is behind. Errors: CANCELED."""
        while True:
            try:
                return self.write(data, handles)
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise
            await self.on_signals(Signals.WRITABLE | Signals.PEER_CLOSED)

    def write_blocking(self, data: bytes | bytearray | memoryview, handles: Sequence[Handle] = (), deadline_ns: int = INFINITE) -> None:
        """As :meth:`write`; blocks while the reader is behind. Errors: TIMED_OUT, CANCELED."""
        while True:
            try:
                return self.write(data, handles)
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise
            self.wait(Signals.WRITABLE | Signals.PEER_CLOSED, deadline_ns)

    def read_many(self, most: int, most_cost: int = WINDOW) -> list[Queued]:
        """The oldest messages with their handles still in flight, for those who pass them on: until they are so many, or cost so much.
        Errors: PEER_CLOSED once all has been read.
        """
        end = self._require(_READ)
        many = end.read_many(most, most_cost)
        if not many and end.peer is None:
            raise ZxStatus(Status.PEER_CLOSED)
        return many

    def write_many(self, many: Sequence[Queued]) -> None:
        """Pass on what :meth:`read_many` gave, all of it though the window may be full on the way. Errors: PEER_CLOSED, and their
        handles are closed then; SHOULD_WAIT, and nothing was written.
        """
        written = 0
        try:
            end = self._require(_WRITE)
            with OBJECTS:
                peer = end.check_writable()
                plain = [queued for queued in many if type(queued) is bytes]
                if len(plain) == len(many):
                    end.write_plain(plain, sum(map(len, plain)) + MESSAGE_COST * len(plain))
                    return
                full = False
                for queued in many:
                    full = peer.deliver(queued) if isinstance(queued, Message) else peer.deliver_plain((queued,), cost(queued))
                    written += 1
                if full:
                    end.update_signals(Signals.WRITABLE, Signals.NONE)
        except ZxStatus as error:
            if error.status != Status.SHOULD_WAIT:
                for queued in many[written:]:
                    if isinstance(queued, Message):
                        queued.close()
            raise

    def read(self, max_bytes: int = MAX_BYTES, max_handles: int = MAX_HANDLES) -> tuple[bytes, list[Handle]]:
        """The oldest message. Errors: SHOULD_WAIT; PEER_CLOSED once all has been read; BUFFER_TOO_SMALL, and the message stays."""
        return _received(self._require(_READ).read(max_bytes, max_handles))

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
            end = self._require(_READ)
            if not end.queue and end.peer is not None:  # an exception would cost more than the rest
                self.wait(_NEWS, deadline_ns)
            try:
                return _received(end.read(MAX_BYTES, MAX_HANDLES))
            except ZxStatus as error:
                if error.status != Status.SHOULD_WAIT:
                    raise

    def signal_peer(self, clear: Signals, set_: Signals) -> None:
        """Set and clear user signals at the other end. Errors: PEER_CLOSED, INVALID_ARGS."""
        end = self._require(Rights.SIGNAL_PEER)
        if (clear | set_) & ~end.user_signals:
            raise ZxStatus(Status.INVALID_ARGS, "not user signals")
        with end.lock:
            if end.peer is None:
                raise ZxStatus(Status.PEER_CLOSED)
            end.peer.signal_from_peer(clear, set_)


def _received(queued: Queued) -> tuple[bytes, list[Handle]]:
    """What a reader gets: the message's handles are his."""
    if type(queued) is bytes:
        return queued, []
    message = cast(Message, queued)
    return message.data, [transfer.arrive() for transfer in message.handles]


def _check_size(queued: Queued, max_bytes: int, max_handles: int) -> None:
    message = cast(Message, queued)
    if len(message.data) > max_bytes or len(message.handles) > max_handles:
        raise ZxStatus(Status.BUFFER_TOO_SMALL, f"{len(message.data)} bytes, {len(message.handles)} handles")
