"""AF_UNIX SOCK_DGRAM and SOCK_SEQPACKET: whole messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.messages import NO_CREDENTIALS, Ancillary, Message, Received, datagram_truesize
from polynix.kernelproc.net.socket import OUT, RECEIVE_SHUTDOWN, SEND_SHUTDOWN, STATE_CHANGE
from polynix.kernelproc.net.unix_address import check_address, find_socket, sockaddr
from polynix.kernelproc.net.unix_socket import CLOSED, ESTABLISHED, ConnectedUnixSocket, UnixSocket
from polynix.kernelproc.uapi.errno import (
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EMSGSIZE,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
)
from polynix.kernelproc.uapi.socket import AF_UNSPEC, MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC, SOCK_DGRAM, SOCK_SEQPACKET

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer

MAX_QUEUE = 10  # net.unix.max_dgram_qlen: messages from senders that are not our peer


class UnixMessages(UnixSocket):
    """Sending and receiving of whole messages."""

    def send_to(self, other: UnixSocket, data: InputBuffer, ancillary: Ancillary | None, task: Task | None) -> int:
        """One message into ``other``'s queue."""
        size = data.remaining
        if other.shutdown_bits & RECEIVE_SHUTDOWN:
            raise Errno(EPIPE)
        if other is not self and other.peer is not self and len(other.messages) > MAX_QUEUE:
            other.blocked[self] = None
            return -EAGAIN
        piece = data.read(size) if size else b""
        message = Message(piece, self, datagram_truesize(size))
        message.source = self.address
        self.enqueue(message, ancillary, other, task)
        return size

    def has_room(self, data: InputBuffer) -> bool:
        """Whether our send buffer takes the message now. Errors: EMSGSIZE, EPIPE (shut down), a pending one."""
        if data.remaining > self.send_buffer - 32:
            raise Errno(EMSGSIZE)
        self.raise_pending()
        if self.shutdown_bits & SEND_SHUTDOWN:
            raise Errno(EPIPE)
        return self.send_charge < self.send_buffer

    def receive(self, out: OutputBuffer, flags: int, received: Received | None) -> int:
        if flags & MSG_OOB:
            raise Errno(EOPNOTSUPP)
        self.raise_pending()  # Linux tells of an error before what is queued
        if not self.messages:
            return self._nothing(flags)
        message, skip = self._first(flags)
        if message is None:
            return self._nothing(flags)
        size = len(message.data) - skip
        want = out.remaining
        done = out.write(message.data if not skip and size <= want else memoryview(message.data)[skip : skip + want]) if want and size else 0
        if received is not None:
            received.source = sockaddr(message.source) if message.source else None
            if size > want:
                received.flags |= MSG_TRUNC
            if self.pass_credentials:
                received.credentials = message.credentials or NO_CREDENTIALS
        if flags & MSG_PEEK:
            if received is not None and message.rights is not None:
                received.rights = [file.retain() for file in message.rights]
            self.peeked(done)
        else:
            del self.messages[0]
            self.consumed(size)
            self.taken(message, received)
            self.wake_blocked()
        return size if flags & MSG_TRUNC else done

    def _first(self, flags: int) -> tuple[Message | None, int]:
        """The message to receive, and how many of its bytes lie before SO_PEEK_OFF; None when all do."""
        skip = self.peek_offset if flags & MSG_PEEK else 0
        if skip <= 0:
            return self.messages[0], 0
        for message in self.messages:
            if skip < len(message.data):
                return message, skip
            skip -= len(message.data)
        return None, 0

    def _nothing(self, flags: int) -> int:
        if self.shutdown_bits & RECEIVE_SHUTDOWN and not flags & MSG_DONTWAIT:
            return 0
        return -EAGAIN

    def query_events(self) -> int:
        events = super().query_events()
        if events & OUT:
            other = self.peer
            if other is not None and other.peer is not self and len(other.messages) > MAX_QUEUE:
                other.blocked[self] = None  # it will tell us
                events &= ~OUT
        return events


class UnixDatagram(UnixMessages):
    """SOCK_DGRAM: anyone who may write to the name may send; ``connect`` sets a default and filters."""

    type: ClassVar[int] = SOCK_DGRAM

    def connect(self, task: Task, address: bytes) -> int:
        other: UnixSocket | None = None
        if address[:2] != AF_UNSPEC.to_bytes(2, "little"):
            name = check_address(address)
            self.autobind_if_passing()
            other = find_socket(task, name, self.type)
            if not _may_send(self, other):
                raise Errno(EPERM)
        previous, self.peer = self.peer, other
        self.state = ESTABLISHED if other is not None else CLOSED
        if previous is not None and previous is not other:
            self._disconnected(previous)
        return 0

    def _disconnected(self, other: UnixSocket) -> None:
        """What was queued from the old peer is gone, and the old peer hears of it."""
        if self.messages:
            self.purge()
            self.wake_blocked()
            if not other.dead and other.peer is self:
                other.error = ECONNRESET
                other.queue.notify(STATE_CHANGE)

    def send(self, data: InputBuffer, flags: int, address: bytes | None, ancillary: Ancillary | None, task: Task | None) -> int:
        if flags & MSG_OOB:
            raise Errno(EOPNOTSUPP)
        name = check_address(address) if address else b""
        self.autobind_if_passing()
        if not self.has_room(data):
            return -EAGAIN
        other = find_socket(task or self.kernel.current_task(), name, self.type) if name else self.peer
        if other is None:
            raise Errno(ENOTCONN)
        if not _may_send(self, other):
            raise Errno(EPERM)
        if other.dead:
            self.peer = None
            self.state = CLOSED
            self._disconnected(other)
            raise Errno(ECONNREFUSED)
        return self.send_to(other, data, ancillary, task)

    def unread(self) -> int:
        """FIONREAD: bytes of the next message only."""
        return self.messages[0].length if self.messages else 0

    def disconnect_peer(self) -> None:
        self.peer = None


class UnixSeqPacket(UnixMessages, ConnectedUnixSocket):
    """SOCK_SEQPACKET: connected, and with message boundaries."""

    type: ClassVar[int] = SOCK_SEQPACKET

    def send(self, data: InputBuffer, flags: int, address: bytes | None, ancillary: Ancillary | None, task: Task | None) -> int:
        self.raise_pending()
        other = self.peer
        if self.state != ESTABLISHED or other is None:
            raise Errno(ENOTCONN)
        if flags & MSG_OOB:
            raise Errno(EOPNOTSUPP)
        if not self.has_room(data):
            return -EAGAIN
        if other.dead:
            raise Errno(EPIPE)
        return self.send_to(other, data, ancillary, task)

    def receive(self, out: OutputBuffer, flags: int, received: Received | None) -> int:
        if self.state != ESTABLISHED:
            return -ENOTCONN
        return super().receive(out, flags, received)

    def _nothing(self, flags: int) -> int:
        return 0 if self.shutdown_bits & RECEIVE_SHUTDOWN else -EAGAIN


def _may_send(sender: UnixSocket, receiver: UnixSocket) -> bool:
    """A connected receiver hears only its peer."""
    return receiver.peer is None or receiver.peer is sender
