"""AF_VSOCK SOCK_STREAM: connections by context and port (man 7 vsock, Linux's net/vmw_vsock).

A container is context 3. It reaches itself under that number and as VMADDR_CID_LOCAL; connections from outside come as from VMADDR_CID_HOST, made by
``Controller.VsockConnect`` and by ``polynix proxy`` (:mod:`polynix.kernelproc.net.bridge`). Nothing outside can be connected to. The bytes lie in the
same queues as AF_UNIX's, whose readers and writers these sockets inherit.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.messages import Ancillary, Message, Received
from polynix.kernelproc.net.socket import IN, RECEIVE_SHUTDOWN, Socket
from polynix.kernelproc.net.unix_socket import CLOSED, ESTABLISHED, LISTENING, UnixSocket, join
from polynix.kernelproc.net.unix_stream import UnixStream
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.capability import CAP_NET_BIND_SERVICE
from polynix.kernelproc.uapi.errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    ECONNRESET,
    EINVAL,
    EISCONN,
    ENODEV,
    ENOPROTOOPT,
    ENOTCONN,
    ERANGE,
)
from polynix.kernelproc.uapi.major import MISC_MAJOR
from polynix.kernelproc.uapi.poll import POLLHUP
from polynix.kernelproc.uapi.socket import AF_VSOCK
from polynix.kernelproc.uapi.vm_sockets import (
    IOCTL_VM_SOCKETS_GET_LOCAL_CID,
    SO_VM_SOCKETS_BUFFER_MAX_SIZE,
    SO_VM_SOCKETS_BUFFER_MIN_SIZE,
    SO_VM_SOCKETS_BUFFER_SIZE,
    SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW,
    SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD,
    VMADDR_CID_ANY,
    VMADDR_CID_HOST,
    VMADDR_CID_LOCAL,
    VMADDR_FLAG_TO_HOST,
    VMADDR_PORT_ANY,
)
from polynix.kernelproc.vfs.ops import FileOps, Result
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

OWN_CID: Final = 3  # the first that a guest may have
LAST_RESERVED_PORT: Final = 1023
BUFFER_SIZE, BUFFER_MIN_SIZE, BUFFER_MAX_SIZE = 256 << 10, 128, 256 << 10
CONNECT_TIMEOUT_NS: Final = 2_000_000_000
VSOCK_MINOR: Final = 52  # the first of misc's dynamic minors

Address = tuple[int, int]  # context, port
ANYWHERE: Final[Address] = (VMADDR_CID_ANY, VMADDR_PORT_ANY)

_SOCKADDR: Final = struct.Struct("<HHIIB3x")  # family, reserved, port, context, flags
_BUFFERS: Final = (SO_VM_SOCKETS_BUFFER_SIZE, SO_VM_SOCKETS_BUFFER_MIN_SIZE, SO_VM_SOCKETS_BUFFER_MAX_SIZE)
_TIMEOUTS: Final = (SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW)


class VsockPorts:
    """The bound ports of one kernel, in its expando. ``listened`` is notified when somebody begins to listen."""

    def __init__(self) -> None:
        self.sockets: dict[Address, VsockStream] = {}
        self.listened = WaitQueue()
        self._next = LAST_RESERVED_PORT + 1

    def find(self, address: Address) -> VsockStream | None:
        """Who is bound to an address, be it by VMADDR_CID_ANY."""
        cid, port = address
        if cid == VMADDR_CID_ANY:
            return next((socket for (_, other), socket in self.sockets.items() if other == port), None)
        return self.sockets.get(address) or self.sockets.get((VMADDR_CID_ANY, port))

    def free_port(self, cid: int) -> int:
        """Errors: EADDRNOTAVAIL."""
        for _ in range(1 << 16):
            port = self._next
            self._next = port + 1 if port < VMADDR_PORT_ANY - 1 else LAST_RESERVED_PORT + 1
            if self.find((cid, port)) is None:
                return port
        raise Errno(EADDRNOTAVAIL)

    def listener(self, port: int) -> VsockStream | None:
        """Who listens for connections from outside."""
        found = self.find((OWN_CID, port))
        return found if found is not None and found.listening else None


class VsockStream(UnixStream):
    """A stream socket; ``local`` and ``remote`` are its addresses."""

    family: ClassVar[int] = AF_VSOCK

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.local: Address = ANYWHERE
        self.remote: Address = ANYWHERE
        self.bound = False
        self.buffers = {SO_VM_SOCKETS_BUFFER_SIZE: BUFFER_SIZE, SO_VM_SOCKETS_BUFFER_MIN_SIZE: BUFFER_MIN_SIZE, SO_VM_SOCKETS_BUFFER_MAX_SIZE: BUFFER_MAX_SIZE}
        self.connect_timeout_ns = CONNECT_TIMEOUT_NS

    @property
    def _ports(self) -> VsockPorts:
        return self.kernel.expando.get(VsockPorts)

    # -- names --------------------------------------------------------------------------------------------------------------

    def bind(self, task: Task, address: bytes) -> None:
        cid, port = parse_address(address)
        if self.bound:
            raise Errno(EINVAL)
        if cid not in (VMADDR_CID_ANY, VMADDR_CID_LOCAL, OWN_CID):
            raise Errno(EADDRNOTAVAIL)
        if port == VMADDR_PORT_ANY:
            port = self._ports.free_port(cid)
        else:
            if port <= LAST_RESERVED_PORT and not task.credentials.has_capability(CAP_NET_BIND_SERVICE):
                raise Errno(EACCES)
            if self._ports.find((cid, port)) is not None:
                raise Errno(EADDRINUSE)
        self._bind(cid, port)

    def _bind(self, cid: int, port: int) -> None:
        self.local = cid, port
        self.bound = True
        self._ports.sockets[self.local] = self

    def name(self) -> bytes:
        return pack_address(self.local)

    def peer_name(self) -> bytes:
        if self.state != ESTABLISHED:
            raise Errno(ENOTCONN)
        return pack_address(self.remote)

    # -- connections --------------------------------------------------------------------------------------------------------

    def listen(self, task: Task, backlog: int) -> None:
        if self.state == ESTABLISHED or not self.bound:
            raise Errno(EINVAL)
        self.max_backlog = backlog
        self.state = LISTENING
        self._ports.listened.notify()

    def connect(self, task: Task, address: bytes) -> int:
        if self.state == ESTABLISHED:
            raise Errno(EISCONN)
        if self.state == LISTENING:
            raise Errno(EINVAL)
        cid, port = parse_address(address)
        if cid not in (VMADDR_CID_LOCAL, OWN_CID):
            raise Errno(ENODEV)
        if not self.bound:
            self._bind(VMADDR_CID_ANY, self._ports.free_port(VMADDR_CID_ANY))
        listener = self._ports.find((cid, port))
        if listener is None or not listener.offer(self, (cid, port), (cid, self.local[1])):
            raise Errno(ECONNRESET)
        return 0

    def accept(self, task: Task) -> Socket | None:
        accepted = super().accept(task)
        self._ports.listened.notify()  # there is room in the backlog again
        return accepted

    def offer(self, peer: VsockStream, local: Address, remote: Address) -> bool:
        """Queue a connection with ``peer``, which is at ``remote``; False when nobody listens here, or the backlog is full."""
        if self.state != LISTENING or self.shutdown_bits & RECEIVE_SHUTDOWN or len(self.backlog) > self.max_backlog:
            return False
        accepted = VsockStream(self.kernel)
        accepted.listener = self
        accepted.local, accepted.remote = local, remote
        accepted.bound = True
        accepted.buffers = dict(self.buffers)
        peer.remote = local
        join(peer, accepted)
        self.backlog.append(accepted)
        self.queue.notify(IN)
        return True

    def shutdown(self, mode: int) -> None:
        if self.state != ESTABLISHED:
            raise Errno(ENOTCONN)
        super().shutdown(mode)

    def query_events(self) -> int:
        events = super().query_events()
        return events if self.state != CLOSED or self.shutdown_bits else events & ~POLLHUP  # an unconnected one is merely writable, unlike AF_UNIX's

    def close(self) -> None:
        if self._ports.sockets.get(self.local) is self:
            del self._ports.sockets[self.local]
        super().close()

    # -- bytes --------------------------------------------------------------------------------------------------------------

    def send(self, data: InputBuffer, flags: int, address: bytes | None, ancillary: Ancillary | None, task: Task | None) -> int:
        return super().send(data, flags, address, None, task)  # descriptors and credentials stay behind, as on Linux

    def enqueue(self, message: Message, ancillary: Ancillary | None, other: UnixSocket, task: Task | None) -> None:
        self.send_charge += message.truesize
        other.messages.append(message)
        other.queue.notify(IN)

    def receive(self, out: OutputBuffer, flags: int, received: Received | None) -> int:
        if self.state != ESTABLISHED:
            raise Errno(ENOTCONN)
        return super().receive(out, flags, received)

    # -- options ------------------------------------------------------------------------------------------------------------

    def get_option(self, level: int, name: int, room: int) -> bytes:
        value = self._option(level, name)
        if room < len(value):
            raise Errno(EINVAL)
        return value

    def _option(self, level: int, name: int) -> bytes:
        if level != AF_VSOCK:
            raise Errno(ENOPROTOOPT)
        if name in _BUFFERS:
            return struct.pack("<Q", self.buffers[name])
        if name in _TIMEOUTS:
            return struct.pack("<qq", self.connect_timeout_ns // 1_000_000_000, self.connect_timeout_ns % 1_000_000_000 // 1000)
        track_stub("getsockopt of AF_VSOCK", name)
        raise Errno(ENOPROTOOPT)

    def set_option(self, level: int, name: int, value: bytes) -> None:
        if level != AF_VSOCK:
            raise Errno(ENOPROTOOPT)
        if name in _BUFFERS:
            if len(value) < 8:
                raise Errno(EINVAL)
            self.buffers[name] = struct.unpack_from("<Q", value)[0]
            low, high = self.buffers[SO_VM_SOCKETS_BUFFER_MIN_SIZE], self.buffers[SO_VM_SOCKETS_BUFFER_MAX_SIZE]
            self.buffers[SO_VM_SOCKETS_BUFFER_SIZE] = max(min(self.buffers[SO_VM_SOCKETS_BUFFER_SIZE], high), low)
        elif name in _TIMEOUTS:
            if len(value) < 16:
                raise Errno(EINVAL)
            seconds, microseconds = struct.unpack_from("<qq", value)
            if seconds < 0 or not 0 <= microseconds < 1_000_000 or seconds > 1 << 32:
                raise Errno(ERANGE)
            self.connect_timeout_ns = (seconds * 1_000_000 + microseconds) * 1000 or CONNECT_TIMEOUT_NS
        else:
            track_stub("setsockopt of AF_VSOCK", name)
            raise Errno(ENOPROTOOPT)


def parse_address(raw: bytes) -> Address:
    """A ``struct sockaddr_vm`` of the guest. Errors: EINVAL."""
    if len(raw) < _SOCKADDR.size:
        raise Errno(EINVAL)
    family, _reserved, port, cid, flags = _SOCKADDR.unpack_from(raw)
    if family != AF_VSOCK or flags & ~VMADDR_FLAG_TO_HOST:
        raise Errno(EINVAL)
    return cid, port


def pack_address(address: Address) -> bytes:
    cid, port = address
    return _SOCKADDR.pack(AF_VSOCK, 0, port, cid, 0)


def connect_from_outside(kernel: Kernel, port: int) -> VsockStream | None:
    """Our end of a new connection to who listens on ``port``; None when nobody does, or the backlog is full."""
    ports = kernel.expando.get(VsockPorts)
    listener = ports.listener(port)
    ours = VsockStream(kernel)
    if listener is None or not listener.offer(ours, (OWN_CID, port), (VMADDR_CID_HOST, ports.free_port(VMADDR_CID_ANY))):
        return None
    return ours


class VsockDevice(FileOps):
    """/dev/vsock, which tells the container's context."""

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        if request != IOCTL_VM_SOCKETS_GET_LOCAL_CID:
            return super().ioctl(file, task, request, argument)
        from polynix.addrspace._usercopy import UserAddress

        task.user.store_u32(UserAddress(argument), OWN_CID)
        return 0


def register(kernel: Kernel) -> None:
    """Make /dev/vsock."""

    def open_device(_task: Task, _dev: int, _node: FsNode, _flags: int) -> FileOps:
        return VsockDevice()

    kernel.devices.register(MISC_MAJOR, VSOCK_MINOR, open_device, name=b"vsock", mode=0o666)
