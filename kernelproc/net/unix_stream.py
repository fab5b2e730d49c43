"""AF_UNIX SOCK_STREAM: bytes in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from polynix.addrspace._usercopy import Fault
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.messages import (
    MAX_STREAM_PIECE,
    NO_CREDENTIALS,
    SMALLEST_TRUESIZE,
    Ancillary,
    Message,
    Received,
    stream_truesize,
)
from polynix.kernelproc.net.socket import RECEIVE_SHUTDOWN, SEND_SHUTDOWN
from polynix.kernelproc.net.unix_address import sockaddr
from polynix.kernelproc.net.unix_socket import ESTABLISHED, ConnectedUnixSocket
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL, EISCONN, ENOTCONN, EOPNOTSUPP, EPIPE
from polynix.kernelproc.uapi.socket import MSG_OOB, MSG_PEEK, SOCK_STREAM

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer


class UnixStream(ConnectedUnixSocket):
    """A message in the queue is one piece of a send; reads go across pieces, but not across descriptors or a change of credentials."""

    type: ClassVar[int] = SOCK_STREAM

    def send(self, data: InputBuffer, flags: int, address: bytes | None, ancillary: Ancillary | None, task: Task | None) -> int:
        if flags & MSG_OOB:
            track_stub("MSG_OOB on AF_UNIX", flags)
            raise Errno(EOPNOTSUPP)
        if address:
            raise Errno(EISCONN if self.state == ESTABLISHED else EOPNOTSUPP)
        other = self.peer
        if other is None:
            raise Errno(ENOTCONN)
        if self.shutdown_bits & SEND_SHUTDOWN:
            return -EPIPE
        sent = 0
        while data.remaining:
            if self.error and not sent:
                self.raise_pending()
            if self.send_charge >= self.send_buffer:
                return sent or -EAGAIN
            if other.dead or other.shutdown_bits & RECEIVE_SHUTDOWN:
                return sent or -EPIPE
            piece = data.read(min(data.remaining, (self.send_buffer >> 1) - 64, MAX_STREAM_PIECE))
            self.enqueue(Message(piece, self, SMALLEST_TRUESIZE if len(piece) <= 192 else stream_truesize(len(piece))), ancillary, other, task)
            sent += len(piece)
        return sent

    def receive(self, out: OutputBuffer, flags: int, received: Received | None) -> int:
        if self.state != ESTABLISHED:
            return -EINVAL
        if flags & MSG_OOB:
            track_stub("MSG_OOB on AF_UNIX", flags)
            return -EINVAL
        messages = self.messages
        if not messages or (flags & MSG_PEEK and 0 < self.peek_offset >= self.unread()):
            self.raise_pending()
            if not self.shutdown_bits & RECEIVE_SHUTDOWN:
                return -EAGAIN
            if received is not None and self.pass_credentials:
                received.credentials = (0, 0, 0)  # as Linux says at the end of a stream
            return 0
        if received is not None and messages[0].sender.address:
            received.source = sockaddr(messages[0].sender.address)
        if flags & MSG_PEEK:
            return self._peek(out, received)
        pass_credentials = self.pass_credentials
        credentials = None
        copied = 0
        try:
            while messages:
                message = messages[0]
                if pass_credentials:
                    theirs = message.credentials or NO_CREDENTIALS
                    if credentials is None:
                        credentials = theirs
                        if received is not None:
                            received.credentials = theirs
                    elif theirs != credentials:
                        break
                data = message.data
                start = message.start
                size = len(data) - start
                want = out.remaining
                if start or size > want:
                    done = out.write(memoryview(data)[start : start + want])
                else:
                    done = out.write(data)
                copied += done
                if done < size:
                    message.start = start + done
                    if message.rights is not None:
                        self.detach_rights(message, received)
                    break
                del messages[0]
                had_rights = message.rights is not None
                self.taken(message, received)
                if had_rights or not out.remaining:
                    break
        except Fault:
            if not copied:
                raise
        self.consumed(copied)
        return copied

    def _peek(self, out: OutputBuffer, received: Received | None) -> int:
        copied = 0
        skip = max(self.peek_offset, 0)
        for message in self.messages:
            if 0 < skip >= message.length:
                skip -= message.length
                continue
            theirs = message.credentials or NO_CREDENTIALS
            if self.pass_credentials and received is not None:
                if received.credentials is None:
                    received.credentials = theirs
                elif received.credentials != theirs:
                    break
            start = message.start + skip
            skip = 0
            copied += out.write(memoryview(message.data)[start : start + out.remaining])
            # Linux looks on even when the buffer is full, until it meets descriptors.
            if message.rights is not None:
                if received is not None:
                    received.rights = [file.retain() for file in message.rights]
                break
        self.peeked(copied)
        return copied
