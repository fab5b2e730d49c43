"""AF_UNIX: what its three types share, and connections (Linux's net/unix/af_unix.c).

A message lies in the *receiver's* queue and is charged to the *sender*, so a slow reader stops its writers. ``peer`` stays set after the other end has closed:
``shutdown_bits`` and ``dead`` tell.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.garbage import InFlight
from polynix.kernelproc.net.messages import Ancillary, Credentials, Message, Received, release_files
from polynix.kernelproc.net.socket import (
    BOTH_SHUTDOWN,
    IN,
    OUT,
    RECEIVE_SHUTDOWN,
    SEND_SHUTDOWN,
    STATE_CHANGE,
    Socket,
)
from polynix.kernelproc.net.unix_address import (
    AbstractNames,
    bind_path,
    check_address,
    find_socket,
    sockaddr,
    unbind,
)
from polynix.kernelproc.uapi.errno import EAGAIN, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, ENOTCONN
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLRDHUP
from polynix.kernelproc.uapi.socket import AF_UNIX, SIOCATMARK, SIOCINQ, SIOCOUTQ

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.namespace import NamespaceNode

CLOSED, LISTENING, ESTABLISHED = 0, 1, 2


class UnixSocket(Socket):
    """Queue, name, peer, shutdown and readiness."""

    family: ClassVar[int] = AF_UNIX
    peeks_at_offset: ClassVar[bool] = True

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.state = CLOSED
        self.peer: UnixSocket | None = None
        self.messages: deque[Message] = deque()
        self.address = b""
        self.place: NamespaceNode | None = None  # of a path name
        self.listener: UnixSocket | None = None  # whose backlog holds this one until it is accepted
        self.blocked: dict[UnixSocket, None] = {}  # senders and connectors that wait for room in our queue or backlog

    @property
    def has_input(self) -> bool:
        return bool(self.messages)

    # -- names --------------------------------------------------------------------------------------------------------------

    def bind(self, task: Task, address: bytes) -> None:
        if len(address) == 2 and address == sockaddr(b""):
            if not self.address:
                self.kernel.expando.get(AbstractNames).autobind(self)
            return
        name = check_address(address)
        if name[0] == 0:
            if self.address:
                raise Errno(EINVAL)
            self.kernel.expando.get(AbstractNames).bind(self, name)
            return
        if self.address:
            raise Errno(EINVAL)
        bind_path(task, self, name, self.file.node.mode if self.file is not None else 0o777)

    def autobind_if_passing(self) -> None:
        """A sender that wants credentials back gets a name, so that it can be answered."""
        if self.pass_credentials and not self.address:
            self.kernel.expando.get(AbstractNames).autobind(self)

    def name(self) -> bytes:
        return sockaddr(self.address)

    def peer_name(self) -> bytes:
        if self.peer is None:
            raise Errno(ENOTCONN)
        return sockaddr(self.peer.address)

    # -- messages -----------------------------------------------------------------------------------------------------------

    def enqueue(self, message: Message, ancillary: Ancillary | None, other: UnixSocket, task: Task | None) -> None:
        """Put a message of ours into ``other``'s queue, with descriptors and credentials."""
        self.send_charge += message.truesize
        if ancillary is not None:
            message.credentials = ancillary.credentials
            if ancillary.rights:
                message.rights, ancillary.rights = ancillary.rights, None
                message.uid = ancillary.uid
                self.kernel.expando.get(InFlight).add(message, other)
        if (self.pass_credentials or other.pass_credentials or other.listener is not None) and message.credentials is None:
            message.credentials = credentials_of(task or self.kernel.current_task())
        other.messages.append(message)
        other.queue.notify(IN)

    def taken(self, message: Message, received: Received | None) -> None:
        """A message has left our queue for a reader, or for nobody."""
        message.sender.uncharge(message)
        if message.rights is not None:
            self.detach_rights(message, received)

    def detach_rights(self, message: Message, received: Received | None) -> None:
        """The descriptors of a message go to its reader, or are dropped."""
        self.kernel.expando.get(InFlight).remove(message)
        rights, message.rights = message.rights or [], None
        if received is None:
            release_files(rights)
        else:
            received.rights = rights if received.rights is None else received.rights + rights

    def purge(self) -> None:
        """Drop all that is queued."""
        messages = self.messages
        while messages:
            self.taken(messages.popleft(), None)

    def wake_blocked(self) -> None:
        """There is room in our queue again."""
        if self.blocked:
            blocked, self.blocked = self.blocked, {}
            for socket in blocked:
                socket.queue.notify(OUT)

    # -- state --------------------------------------------------------------------------------------------------------------

    def shutdown(self, mode: int) -> None:
        self.shutdown_bits |= mode
        other = self.peer
        if other is not None and self.keeps_connection:
            mirrored = (SEND_SHUTDOWN if mode & RECEIVE_SHUTDOWN else 0) | (RECEIVE_SHUTDOWN if mode & SEND_SHUTDOWN else 0)
            other.shutdown_bits |= mirrored
            other.queue.notify(STATE_CHANGE)
        self.queue.notify(STATE_CHANGE)
        self.wake_blocked()

    def query_events(self) -> int:
        shutdown = self.shutdown_bits
        events = IN if self.messages or shutdown & RECEIVE_SHUTDOWN else 0
        if self.error:
            events |= POLLERR
        if shutdown:
            if shutdown == BOTH_SHUTDOWN:
                events |= POLLHUP
            if shutdown & RECEIVE_SHUTDOWN:
                events |= POLLRDHUP
        if self.keeps_connection and self.state == CLOSED:
            events |= POLLHUP
        if self.state != LISTENING and self.send_charge << 2 <= self.send_buffer:
            events |= OUT
        return events

    def ioctl(self, task: Task, request: int, argument: int) -> int | None:
        if request == SIOCINQ:
            if self.state == LISTENING:
                return -EINVAL
            value = self.unread()
        elif request == SIOCOUTQ:
            value = self.send_charge
        elif request == SIOCATMARK and self.is_stream:
            value = 0
        else:
            return None
        task.user.store_u32(UserAddress(argument), value)
        return 0

    def unread(self) -> int:
        """FIONREAD: bytes of the stream."""
        return sum(message.length for message in self.messages)

    def close(self) -> None:
        if self.dead:
            return
        self.dead = True
        self.file = None
        self.shutdown_bits = BOTH_SHUTDOWN
        self.state = CLOSED
        unbind(self)
        self.disconnect_peer()
        self.purge()
        self.queue.notify(STATE_CHANGE)
        self.wake_blocked()
        self.descriptor_closed()

    def descriptors_queued(self) -> int:
        return sum(len(message.rights or ()) for message in self.messages)

    def descriptor_closed(self) -> None:
        self.kernel.expando.get(InFlight).collect_soon(self.kernel.engine)

    def disconnect_peer(self) -> None:
        """Tell the other end that we close."""


class ConnectedUnixSocket(UnixSocket):
    """Types with connections: SOCK_STREAM and SOCK_SEQPACKET."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.backlog: deque[ConnectedUnixSocket] = deque()
        self.max_backlog = 0

    @property
    def listening(self) -> bool:
        return self.state == LISTENING

    @property
    def has_input(self) -> bool:
        return bool(self.messages or self.backlog)

    def listen(self, task: Task, backlog: int) -> None:
        if not self.address or self.state == ESTABLISHED:
            raise Errno(EINVAL)
        if backlog > self.max_backlog:
            self.wake_blocked()
        self.max_backlog = backlog
        self.state = LISTENING
        remember_credentials(self, task)

    def connect(self, task: Task, address: bytes) -> int:
        """Queue a new connected socket with the listener, or -EAGAIN while its backlog is full."""
        name = check_address(address)
        self.autobind_if_passing()
        listener = find_socket(task, name, self.type)
        assert isinstance(listener, ConnectedUnixSocket)
        if listener.state != LISTENING or listener.shutdown_bits & RECEIVE_SHUTDOWN:
            raise Errno(ECONNREFUSED)
        if len(listener.backlog) > listener.max_backlog:
            listener.blocked[self] = None
            return -EAGAIN
        if self.state != CLOSED:
            raise Errno(EISCONN if self.state == ESTABLISHED else EINVAL)
        accepted = type(self)(self.kernel)
        accepted.listener = listener
        accepted.address = listener.address
        join(self, accepted)
        remember_credentials(accepted, task)
        self.peer_credentials = listener.peer_credentials
        self.peer_groups = listener.peer_groups
        listener.backlog.append(accepted)
        listener.queue.notify(IN)
        return 0

    def accept(self, task: Task) -> Socket | None:
        if self.state != LISTENING:
            raise Errno(EINVAL)
        if not self.backlog:
            if self.shutdown_bits & RECEIVE_SHUTDOWN:
                raise Errno(EINVAL)
            return None
        accepted = self.backlog.popleft()
        accepted.listener = None
        self.wake_blocked()
        return accepted

    def query_events(self) -> int:
        events = super().query_events()
        return events | IN if self.backlog else events

    def disconnect_peer(self) -> None:
        other = self.peer
        self.peer = None
        if other is not None:
            other.shutdown_bits = BOTH_SHUTDOWN
            if self.messages and (self.messages[0].length or len(self.messages) > 1):
                other.error = ECONNRESET  # unread; Linux does not count one empty message
            other.queue.notify(STATE_CHANGE)
        while self.backlog:
            embryo = self.backlog.popleft()
            if embryo.peer is not None:
                embryo.peer.error = ECONNRESET
            embryo.close()


def join(first: UnixSocket, second: UnixSocket) -> None:
    """Make two sockets each other's peers."""
    first.peer, second.peer = second, first
    first.state = second.state = ESTABLISHED


def credentials_of(task: Task) -> Credentials:
    """pid and real uid and gid of a sender."""
    credentials = task.credentials
    return task.group.pid, credentials.uid, credentials.gid


def remember_credentials(socket: Socket, task: Task) -> None:
    """Let ``socket`` show ``task`` as its peer: SO_PEERCRED, with effective ids, and SO_PEERGROUPS."""
    credentials = task.credentials
    socket.peer_credentials = (task.group.pid, credentials.euid, credentials.egid)
    socket.peer_groups = credentials.groups
