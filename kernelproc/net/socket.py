"""One endpoint of communication, of any family (``struct socket`` and ``struct sock``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EOPNOTSUPP
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM
from polynix.kernelproc.uapi.socket import SOCK_SEQPACKET, SOCK_STREAM
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.net.messages import Ancillary, Credentials, Message, Received
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject

DEFAULT_BUFFER = 212992  # net.core.wmem_default and rmem_default
MAX_BUFFER = 212992  # net.core.wmem_max and rmem_max
MIN_SEND_BUFFER = 4608
MIN_RECEIVE_BUFFER = 2304

RECEIVE_SHUTDOWN, SEND_SHUTDOWN = 1, 2
BOTH_SHUTDOWN = RECEIVE_SHUTDOWN | SEND_SHUTDOWN

IN = POLLIN | POLLRDNORM
OUT = POLLOUT | POLLWRNORM | POLLWRBAND
STATE_CHANGE = IN | OUT | POLLERR | POLLHUP | POLLRDHUP


class Socket:
    """What every family has. Subclasses implement the calls; each makes one attempt and returns ``-EAGAIN`` if it would have to wait for ``queue``."""

    family: ClassVar[int] = 0
    type: ClassVar[int] = SOCK_STREAM
    peeks_at_offset: ClassVar[bool] = False  # has SO_PEEK_OFF

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.protocol = 0
        self.queue = WaitQueue()
        self.file: FileObject | None = None  # None: not accepted yet, or closed
        self.dead = False
        self.shutdown_bits = 0
        self.error = 0  # pending, for SO_ERROR and the next call
        self.send_buffer = DEFAULT_BUFFER
        self.receive_buffer = DEFAULT_BUFFER
        self.low_water = 1  # SO_RCVLOWAT
        self.peek_offset = -1  # SO_PEEK_OFF: where MSG_PEEK begins, moved by it and by reads; below zero it begins at the front and stays
        self.send_charge = 0  # truesize of our messages that nobody has read yet (sk_wmem_alloc)
        self.receive_timeout_ns: int | None = None  # None: for ever
        self.send_timeout_ns: int | None = None
        self.pass_credentials = False
        self.peer_credentials: Credentials | None = None
        self.peer_groups: tuple[int, ...] = ()
        self.options: dict[int, int] = {}  # SOL_SOCKET options that are merely remembered

    @property
    def is_stream(self) -> bool:
        return self.type == SOCK_STREAM

    @property
    def keeps_connection(self) -> bool:
        return self.type in (SOCK_STREAM, SOCK_SEQPACKET)

    @property
    def listening(self) -> bool:
        return False

    @property
    def has_input(self) -> bool:
        """Whether something lies in the receive queue."""
        return False

    def peeked(self, count: int) -> None:
        """MSG_PEEK has seen ``count`` bytes."""
        if self.peek_offset >= 0:
            self.peek_offset += count

    def consumed(self, count: int) -> None:
        """``count`` bytes have left the queue for a reader."""
        if self.peek_offset > 0:
            self.peek_offset = max(self.peek_offset - count, 0)

    # -- calls --------------------------------------------------------------------------------------------------------------

    def bind(self, task: Task, address: bytes) -> None:
        raise Errno(EOPNOTSUPP)

    def listen(self, task: Task, backlog: int) -> None:
        raise Errno(EOPNOTSUPP)

    def accept(self, task: Task) -> Socket | None:
        """The next connection; None to wait. Errors: EINVAL (not listening), EOPNOTSUPP."""
        raise Errno(EOPNOTSUPP)

    def connect(self, task: Task, address: bytes) -> int:
        raise Errno(EOPNOTSUPP)

    def name(self) -> bytes:
        """Our own address, as getsockname gives it."""
        raise Errno(EOPNOTSUPP)

    def peer_name(self) -> bytes:
        """The other's address. Errors: ENOTCONN."""
        raise Errno(EOPNOTSUPP)

    def shutdown(self, mode: int) -> None:
        """``mode`` has RECEIVE_SHUTDOWN and SEND_SHUTDOWN bits."""
        raise Errno(EOPNOTSUPP)

    def send(self, data: InputBuffer, flags: int, address: bytes | None, ancillary: Ancillary | None, task: Task | None) -> int:
        """Send what fits: the count or -EAGAIN; -EPIPE if the caller is due SIGPIPE (raised otherwise)."""
        raise Errno(EOPNOTSUPP)

    def receive(self, out: OutputBuffer, flags: int, received: Received | None) -> int:
        """Receive what is there. MSG_DONTWAIT is set in ``flags`` whatever it was that said not to wait."""
        raise Errno(EOPNOTSUPP)

    def query_events(self) -> int:
        return 0

    def ioctl(self, task: Task, request: int, argument: int) -> int | None:
        """Requests of the family; None for unknown ones."""
        return None

    def get_option(self, level: int, name: int, room: int) -> bytes:
        """Options of the family. Errors: EOPNOTSUPP (level), ENOPROTOOPT, EINVAL (room)."""
        raise Errno(EOPNOTSUPP)

    def set_option(self, level: int, name: int, value: bytes) -> None:
        """Errors: those of :meth:`get_option`, and what a bad value gives."""
        raise Errno(EOPNOTSUPP)

    def descriptors_queued(self) -> int:
        """How many descriptors lie in the receive queue."""
        return 0

    def descriptor_closed(self) -> None:
        """A descriptor was closed, not always the last."""

    def close(self) -> None:
        """The last reference is gone."""

    # -- helpers of families ------------------------------------------------------------------------------------------------

    def take_error(self) -> int:
        """The pending error, which is told once."""
        error, self.error = self.error, 0
        return error

    def raise_pending(self) -> None:
        if self.error:
            raise Errno(self.take_error())

    @property
    def writable(self) -> bool:
        """Whether poll calls it writable: three quarters of the send buffer are free."""
        return self.send_charge << 2 <= self.send_buffer

    def uncharge(self, message: Message) -> None:
        """A message of ours was taken or dropped: there is room again."""
        self.send_charge -= message.truesize
        if self.send_charge << 2 <= self.send_buffer:
            self.queue.notify(OUT)
