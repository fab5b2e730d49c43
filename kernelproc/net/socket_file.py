"""Sockets as files, and the loops in which their calls block."""

from __future__ import annotations

import stat
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import Fault
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.messages import Ancillary, Received
from polynix.kernelproc.net.socket import Socket
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi.errno import EAGAIN, EINTR, ENOTSOCK, ENOTTY, ENXIO
from polynix.kernelproc.uapi.fcntl import O_NONBLOCK, O_RDWR
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT
from polynix.kernelproc.uapi.socket import MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL
from polynix.kernelproc.vfs.anon import AnonFileSystems
from polynix.kernelproc.vfs.file_object import FileObject
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.ops import FileOps, FsNodeOps

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import InputBuffer, OutputBuffer
    from polynix.kernelproc.vfs.ops import Result
    from polynix.kernelproc.wait_queue import WaitQueue

READY_TO_READ = POLLIN | POLLERR | POLLHUP
READY_TO_WRITE = POLLOUT | POLLERR | POLLHUP


class SocketNodeOps(FsNodeOps):
    """The node of a socket; it can't be opened again."""

    def create_file_ops(self, node: FsNode, task: Task, flags: int) -> FileOps:
        raise Errno(ENXIO)

    def dynamic_name(self, node: FsNode) -> bytes:
        return b"socket:[%d]" % node.ino


_node_ops = SocketNodeOps()


class SocketOps(FileOps):
    """The file of a socket."""

    seekable = False
    always_ready = False

    def __init__(self, socket: Socket) -> None:
        self.socket = socket

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> Result:
        if not out.remaining:
            return 0
        socket = self.socket
        if file.flags & O_NONBLOCK:
            return socket.receive(out, MSG_DONTWAIT, None)
        result = socket.receive(out, 0, None)
        if result == -EAGAIN and socket.receive_timeout_ns is not None:
            return _or_raise(_receive_on(socket, file, out, 0, None, 0, 1))
        return result

    def write(self, file: FileObject, offset: int, data: InputBuffer) -> Result:
        socket = self.socket
        result = socket.send(data, 0, None, None, None)
        if result == -EAGAIN and socket.send_timeout_ns is not None and not file.flags & O_NONBLOCK:
            return _or_raise(_send_on(socket, file, data, 0, None, None, None, 0))
        return result

    def query_events(self, file: FileObject) -> int:
        return self.socket.query_events()

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.socket.queue

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        result = self.socket.ioctl(task, request, argument)
        if result is None:
            if request >> 8 == 0x89:
                track_stub("socket ioctl", request)
            return -ENOTTY
        return result

    def fdinfo(self, file: FileObject) -> str:
        return f"scm_fds: {self.socket.descriptors_queued()}\n"

    def flush(self, file: FileObject, task: Task) -> None:
        self.socket.descriptor_closed()

    def close(self, file: FileObject) -> None:
        self.socket.close()


async def _or_raise(result: Awaitable[int]) -> int:
    """A timeout must not look as if the caller should wait and try again."""
    count = await result
    if count == -EAGAIN:
        raise Errno(EAGAIN)
    return count


class StreamSocketOps(SocketOps):
    """Of a byte stream: a blocking write goes on until all is sent."""

    whole_writes = True


def new_socket_file(task: Task, socket: Socket, nonblocking: bool) -> FileObject:
    """A description for ``socket``."""
    fs = task.kernel.expando.get(AnonFileSystems).sockets
    credentials = task.credentials
    node = FsNode(fs, fs.new_ino(), stat.S_IFSOCK | 0o777, _node_ops, uid=credentials.fsuid, gid=credentials.fsgid)
    ops = StreamSocketOps(socket) if socket.is_stream else SocketOps(socket)
    file = FileObject(ops, node, O_RDWR | (O_NONBLOCK if nonblocking else 0))
    socket.file = file
    return file


def socket_of(file: FileObject) -> Socket:
    """Errors: ENOTSOCK."""
    ops = file.ops
    if not isinstance(ops, SocketOps):
        raise Errno(ENOTSOCK)
    return ops.socket


# -- sending ---------------------------------------------------------------------------------------------------------------


def send_message(file: FileObject, data: InputBuffer, flags: int, address: bytes | None, ancillary: Ancillary | None, task: Task) -> Result:
    """send, sendto, sendmsg: the count, or -EPIPE where the caller is due SIGPIPE. ``ancillary`` stays the caller's to drop."""
    socket = socket_of(file)
    result = socket.send(data, flags, address, ancillary, task)
    if file.flags & O_NONBLOCK or flags & MSG_DONTWAIT:
        return result
    if result == -EAGAIN:
        return _send_on(socket, file, data, flags, address, ancillary, task, 0)
    if result >= 0 and data.remaining and socket.is_stream:
        return _send_on(socket, file, data, flags, address, ancillary, task, result)
    return result


async def _send_on(
    socket: Socket,
    file: FileObject,
    data: InputBuffer,
    flags: int,
    address: bytes | None,
    ancillary: Ancillary | None,
    task: Task | None,
    sent: int,
) -> int:
    deadline = _deadline(socket, socket.send_timeout_ns)
    file.references += 1
    try:
        while True:
            result = socket.send(data, flags, address, ancillary, task)
            if result >= 0:
                sent += result
                if not data.remaining or not socket.is_stream:
                    return sent
            elif result != -EAGAIN:
                return sent or result
            if not await socket.queue.wait(READY_TO_WRITE, deadline):
                return sent or -EAGAIN
    except Fault:
        if sent:
            return sent
        raise
    except Errno as error:
        if sent:
            return sent
        raise _interruption(error, deadline) from None
    finally:
        file.release()


# -- receiving -------------------------------------------------------------------------------------------------------------


def receive_message(file: FileObject, out: OutputBuffer, flags: int, received: Received) -> Result:
    """recv, recvfrom, recvmsg: the count, 0 at the end of a connection."""
    socket = socket_of(file)
    if file.flags & O_NONBLOCK:
        flags |= MSG_DONTWAIT
    if socket.is_stream:
        size = out.remaining
        target = (size if flags & MSG_WAITALL else min(socket.low_water, size)) or 1
    else:
        target = 0
    result = socket.receive(out, flags, received)
    if flags & MSG_DONTWAIT:
        return result
    if result == -EAGAIN:
        return _receive_on(socket, file, out, flags, received, 0, target)
    if 0 < result < target and _wants_more(socket, out, flags, received):
        return _receive_on(socket, file, out, flags, received, result, target)
    return result


def _wants_more(socket: Socket, out: OutputBuffer, flags: int, received: Received | None) -> bool:
    """Whether a short read goes on waiting: not when it stopped at descriptors or other credentials, or only peeked."""
    return not flags & MSG_PEEK and bool(out.remaining) and not socket.has_input and not (received is not None and received.rights)


async def _receive_on(socket: Socket, file: FileObject, out: OutputBuffer, flags: int, received: Received | None, copied: int, target: int) -> int:
    deadline = _deadline(socket, socket.receive_timeout_ns)
    file.references += 1
    try:
        while True:
            result = socket.receive(out, flags, received)
            if result > 0:
                copied += result
                if copied >= target or not _wants_more(socket, out, flags, received):
                    return copied
            elif result != -EAGAIN:
                return copied or result
            if not await socket.queue.wait(READY_TO_READ, deadline):
                return copied or -EAGAIN
    except Fault:
        if copied:
            return copied
        raise
    except Errno as error:
        if copied:
            return copied
        raise _interruption(error, deadline) from None
    finally:
        file.release()


# -- connections -----------------------------------------------------------------------------------------------------------


def accept_connection(task: Task, file: FileObject) -> Socket | Awaitable[Socket]:
    """The next connection of a listening socket, at once or to be awaited. Errors: EAGAIN when the listener does not block."""
    socket = socket_of(file)
    accepted = socket.accept(task)
    if accepted is not None:
        return accepted
    if file.flags & O_NONBLOCK:
        raise Errno(EAGAIN)
    return _accept_on(task, file, socket)


async def _accept_on(task: Task, file: FileObject, socket: Socket) -> Socket:
    deadline = _deadline(socket, socket.receive_timeout_ns)
    file.references += 1
    try:
        while True:
            if not await socket.queue.wait(READY_TO_READ, deadline, exclusive=True):
                raise Errno(EAGAIN)
            accepted = socket.accept(task)
            if accepted is not None:
                return accepted
    except Interrupted as error:
        raise _interruption(error, deadline) from None
    finally:
        if socket.has_input:
            socket.queue.notify(POLLIN)  # a wake-up that we leave unused is another acceptor's
        file.release()


def connect(task: Task, file: FileObject, address: bytes) -> Result:
    """connect(2); it waits while the listener's backlog is full."""
    socket = socket_of(file)
    result = socket.connect(task, address)
    if result != -EAGAIN or file.flags & O_NONBLOCK:
        return result
    return _connect_on(task, file, socket, address)


async def _connect_on(task: Task, file: FileObject, socket: Socket, address: bytes) -> int:
    deadline = _deadline(socket, socket.send_timeout_ns)
    file.references += 1
    try:
        while True:
            if not await socket.queue.wait(READY_TO_WRITE, deadline):
                return -EAGAIN
            result = socket.connect(task, address)
            if result != -EAGAIN:
                return result
    except Interrupted as error:
        raise _interruption(error, deadline) from None
    finally:
        file.release()


def _deadline(socket: Socket, timeout_ns: int | None) -> int | None:
    return None if timeout_ns is None else socket.kernel.clock.monotonic_ns() + timeout_ns


def _interruption(error: Errno, deadline: int | None) -> Errno:
    """A wait with a timeout is not restarted after a signal (man 7 signal)."""
    return Errno(EINTR) if deadline is not None and isinstance(error, Interrupted) else error
