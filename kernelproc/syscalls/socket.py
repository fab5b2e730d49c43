"""Sockets: making, naming, connecting, options, and send and receive of plain bytes."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import UserAddress, UserInput, UserOutput
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.messages import Received
from polynix.kernelproc.net.socket import Socket
from polynix.kernelproc.net.socket_file import (
    accept_connection,
    new_socket_file,
    receive_message,
    send_message,
    socket_of,
)
from polynix.kernelproc.net.socket_file import connect as connect_socket
from polynix.kernelproc.net.socket_options import get_option, set_option
from polynix.kernelproc.net.unix_datagram import UnixDatagram, UnixSeqPacket
from polynix.kernelproc.net.unix_socket import UnixSocket, join, remember_credentials
from polynix.kernelproc.net.unix_stream import UnixStream
from polynix.kernelproc.net.vsock import VsockStream
from polynix.kernelproc.syscalls.file import send_to_self
from polynix.kernelproc.syscalls.pipe import install_pair
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import FdNumber, Flags, Int, Size
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EAFNOSUPPORT, EINVAL, ENODEV, EOPNOTSUPP, EPIPE, EPROTONOSUPPORT, ESOCKTNOSUPPORT
from polynix.kernelproc.uapi.signal import SIGPIPE
from polynix.kernelproc.uapi.socket import (
    AF_MAX,
    AF_UNIX,
    AF_VSOCK,
    MSG_NOSIGNAL,
    SHUT_RDWR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_PACKET,
    SOCK_RAW,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOMAXCONN,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.ops import Result

SOCKADDR_MAX = 128  # sizeof(struct sockaddr_storage)
_TYPE_MASK = 0xF
_UNIX_TYPES: dict[int, type[UnixSocket]] = {
    SOCK_STREAM: UnixStream,
    SOCK_DGRAM: UnixDatagram,
    SOCK_RAW: UnixDatagram,  # as Linux has it: "believe it or not BSD has AF_UNIX, SOCK_RAW"
    SOCK_SEQPACKET: UnixSeqPacket,
}


# -- making ----------------------------------------------------------------------------------------------------------------


def _new_socket(task: Task, family: int, kind: int, protocol: int) -> UnixSocket:
    if not 0 <= family < AF_MAX:
        raise Errno(EAFNOSUPPORT)
    if kind > SOCK_PACKET:
        raise Errno(EINVAL)
    if family == AF_VSOCK:
        return _new_vsock(task, kind, protocol)
    if family != AF_UNIX:
        track_stub("socket family", family)
        raise Errno(EAFNOSUPPORT)
    if protocol not in (0, AF_UNIX):
        raise Errno(EPROTONOSUPPORT)
    made = _UNIX_TYPES.get(kind)
    if made is None:
        raise Errno(ESOCKTNOSUPPORT)
    socket = made(task.kernel)
    socket.protocol = protocol
    return socket


def _new_vsock(task: Task, kind: int, protocol: int) -> UnixSocket:
    if protocol not in (0, AF_VSOCK):
        raise Errno(EPROTONOSUPPORT)
    if kind != SOCK_STREAM:
        track_stub("type of AF_VSOCK socket", kind)
        raise Errno(ENODEV if kind == SOCK_DGRAM else ESOCKTNOSUPPORT)
    return VsockStream(task.kernel)


@syscall()
def socket(task: Task, family: Int, kind: Int, protocol: Int) -> int:
    """man 2 socket."""
    flags = kind & ~_TYPE_MASK
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        return -EINVAL
    made = _new_socket(task, family, kind & _TYPE_MASK, protocol)
    return task.files.install_new(new_socket_file(task, made, bool(flags & SOCK_NONBLOCK)), bool(flags & SOCK_CLOEXEC))


@syscall()
def socketpair(task: Task, family: Int, kind: Int, protocol: Int, sv: UserAddress) -> int:
    """man 2 socketpair."""
    flags = kind & ~_TYPE_MASK
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        return -EINVAL
    first = _new_socket(task, family, kind & _TYPE_MASK, protocol)
    if family == AF_VSOCK:
        raise Errno(EOPNOTSUPP)
    second = _new_socket(task, family, kind & _TYPE_MASK, protocol)
    join(first, second)
    remember_credentials(first, task)
    remember_credentials(second, task)
    nonblocking = bool(flags & SOCK_NONBLOCK)
    ends = new_socket_file(task, first, nonblocking), new_socket_file(task, second, nonblocking)
    install_pair(task, ends[0], ends[1], bool(flags & SOCK_CLOEXEC), sv)
    return 0


def socket_file(task: Task, fd: int) -> tuple[FileObject, Socket]:
    """Errors: EBADF, ENOTSOCK."""
    file = task.files.get_io(fd)
    return file, socket_of(file)


# -- addresses -------------------------------------------------------------------------------------------------------------


def import_sockaddr(task: Task, address: UserAddress, length: int) -> bytes:
    """Errors: EINVAL (length), EFAULT."""
    if not 0 <= length <= SOCKADDR_MAX:
        raise Errno(EINVAL)
    return task.copy_in(address, length) if length else b""


def export_sockaddr(task: Task, name: bytes, address: UserAddress, length: UserAddress) -> None:
    """Store as much of ``name`` as there is room for, and its whole length. Errors: EINVAL, EFAULT."""
    room = task.user.load_i32(length)
    if room < 0:
        raise Errno(EINVAL)
    if room and name:
        task.copy_out(address, name[:room])
    task.user.store_i32(length, len(name))


@syscall()
def bind(task: Task, fd: FdNumber, address: UserAddress, length: Int) -> int:
    """man 2 bind."""
    _, target = socket_file(task, fd)
    target.bind(task, import_sockaddr(task, address, length))
    return 0


@syscall()
def getsockname(task: Task, fd: FdNumber, address: UserAddress, length: UserAddress) -> int:
    """man 2 getsockname."""
    _, target = socket_file(task, fd)
    export_sockaddr(task, target.name(), address, length)
    return 0


@syscall()
def getpeername(task: Task, fd: FdNumber, address: UserAddress, length: UserAddress) -> int:
    """man 2 getpeername."""
    _, target = socket_file(task, fd)
    export_sockaddr(task, target.peer_name(), address, length)
    return 0


# -- connections -----------------------------------------------------------------------------------------------------------


@syscall()
def listen(task: Task, fd: FdNumber, backlog: Int) -> int:
    """man 2 listen."""
    _, target = socket_file(task, fd)
    target.listen(task, min(backlog & 0xFFFFFFFF, SOMAXCONN))
    return 0


@syscall()
def connect(task: Task, fd: FdNumber, address: UserAddress, length: Int) -> Result:
    """man 2 connect."""
    file, _ = socket_file(task, fd)
    return connect_socket(task, file, import_sockaddr(task, address, length))


@syscall()
def accept(task: Task, fd: FdNumber, address: UserAddress, length: UserAddress) -> Result:
    """man 2 accept."""
    return accept4(task, fd, address, length, 0)


@syscall()
def accept4(task: Task, fd: FdNumber, address: UserAddress, length: UserAddress, flags: Flags) -> Result:
    """man 2 accept4."""
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        return -EINVAL
    file, _ = socket_file(task, fd)
    task.files.check_room()  # a connection that gets no descriptor stays in the backlog
    accepted = accept_connection(task, file)
    if isinstance(accepted, Socket):
        return _install_accepted(task, accepted, address, length, flags)
    return _accept_later(task, accepted, address, length, flags)


async def _accept_later(task: Task, accepted: Awaitable[Socket], address: UserAddress, length: UserAddress, flags: int) -> int:
    return _install_accepted(task, await accepted, address, length, flags)


def _install_accepted(task: Task, accepted: Socket, address: UserAddress, length: UserAddress, flags: int) -> int:
    file = new_socket_file(task, accepted, bool(flags & SOCK_NONBLOCK))
    fd = task.files.install_new(file, bool(flags & SOCK_CLOEXEC))
    if address:
        try:
            export_sockaddr(task, accepted.peer_name(), address, length)
        except BaseException:
            task.files.close(fd, None)
            raise
    return fd


@syscall()
def shutdown(task: Task, fd: FdNumber, how: Int) -> int:
    """man 2 shutdown."""
    _, target = socket_file(task, fd)
    if not 0 <= how <= SHUT_RDWR:
        return -EINVAL
    target.shutdown(how + 1)
    return 0


# -- options ---------------------------------------------------------------------------------------------------------------


@syscall()
def getsockopt(task: Task, fd: FdNumber, level: Int, name: Int, value: UserAddress, length: UserAddress) -> int:
    """man 2 getsockopt."""
    _, target = socket_file(task, fd)
    room = task.user.load_i32(length)
    if room < 0:
        return -EINVAL
    data = get_option(target, level, name, room)
    task.copy_out(value, data)
    task.user.store_i32(length, len(data))
    return 0


@syscall()
def setsockopt(task: Task, fd: FdNumber, level: Int, name: Int, value: UserAddress, length: Int) -> int:
    """man 2 setsockopt."""
    if length < 0:
        return -EINVAL
    _, target = socket_file(task, fd)
    set_option(task, target, level, name, task.copy_in(value, min(length, SOCKADDR_MAX)))
    return 0


# -- bytes -----------------------------------------------------------------------------------------------------------------


def send_with_signal(task: Task, flags: int, result: Result) -> Result:
    """The result of a send; -EPIPE brings SIGPIPE unless MSG_NOSIGNAL."""
    if not isinstance(result, int):
        return _send_later(task, flags, result)
    if result == -EPIPE and not flags & MSG_NOSIGNAL:
        send_to_self(task, SIGPIPE)
    return result


async def _send_later(task: Task, flags: int, result: Awaitable[int]) -> int:
    count = await result
    if count == -EPIPE and not flags & MSG_NOSIGNAL:
        send_to_self(task, SIGPIPE)
    return count


@syscall()
def sendto(task: Task, fd: FdNumber, buffer: UserAddress, size: Size, flags: Flags, address: UserAddress, length: Int) -> Result:
    """man 2 sendto."""
    file, _ = socket_file(task, fd)
    name = import_sockaddr(task, address, length) if address else None
    data = UserInput(task.user, buffer, size)
    return send_with_signal(task, flags, send_message(file, data, flags, name, None, task))


@syscall()
def recvfrom(task: Task, fd: FdNumber, buffer: UserAddress, size: Size, flags: Flags, address: UserAddress, length: UserAddress) -> Result:
    """man 2 recvfrom; descriptors that came along are dropped."""
    file, _ = socket_file(task, fd)
    received = Received()
    out = UserOutput(task.user, buffer, size)
    try:
        result = receive_message(file, out, flags, received)
    except BaseException:
        received.drop()
        raise
    if type(result) is int:
        return _finish_receive(task, result, received, address, length)
    return _receive_later(task, result, received, address, length)  # type: ignore[arg-type]


async def _receive_later(task: Task, result: Awaitable[int], received: Received, address: UserAddress, length: UserAddress) -> int:
    try:
        count = await result
    except BaseException:
        received.drop()
        raise
    return _finish_receive(task, count, received, address, length)


def _finish_receive(task: Task, result: int, received: Received, address: UserAddress, length: UserAddress) -> int:
    received.drop()
    if result >= 0 and address:
        export_sockaddr(task, received.source or b"", address, length)
    return result
