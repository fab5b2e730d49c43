"""Bridges: connections whose other end is outside of the container. The kernel is the local end, and carries the bytes.

``Controller.VsockConnect`` bridges a socket of the host to a port, and ``polynix proxy`` a channel of the runner, whose messages wake a sleeping container,
to a port or a unix socket. The guest's end is an ordinary connection: it fills up when its reader is slow, and then nothing more is taken from outside; a
half-close passes through either way; when one side fails, the other sees its connection end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.net.outside import Outside
from polynix.kernelproc.net.socket import SEND_SHUTDOWN
from polynix.kernelproc.net.unix_socket import ConnectedUnixSocket
from polynix.kernelproc.net.unix_stream import UnixStream
from polynix.kernelproc.net.vsock import VsockPorts, connect_from_outside
from polynix.kernelproc.uapi.errno import EAGAIN, ECONNREFUSED, EPIPE
from polynix.kernelproc.uapi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP
from polynix.kernelproc.vfs.buffers import BytesInputBuffer, BytesOutputBuffer
from polynix.kernelproc.wait_queue import ALL_EVENTS, WaitEntry, wait

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

log = logging.getLogger(__name__)

PIECE: Final = 65536  # bytes at a time, as a message of a channel takes
READABLE: Final = POLLIN | POLLERR | POLLHUP | POLLRDHUP
WRITABLE: Final = POLLOUT | POLLERR | POLLHUP
KTHREADD_PID: Final = 2  # in whose name the kernel connects


class Bridge:
    """Carries bytes between ``socket``, the kernel's end of a connection with a guest, and ``outside``, until both directions have ended or one side fails."""

    def __init__(self, kernel: Kernel, socket: ConnectedUnixSocket, outside: Outside) -> None:
        self.kernel = kernel
        self.socket = socket
        self.outside = outside
        self.closed = False
        self._sent = 0
        self._directions = 2
        self._entry = WaitEntry(self._taken)
        socket.queue.add(self._entry)
        for name, direction in (("bridge inward", self._inward()), ("bridge outward", self._outward())):
            kernel.engine.spawn(self._run(direction), name)

    async def _run(self, direction: Awaitable[None]) -> None:
        try:
            await direction
        except Errno as error:
            log.debug("a bridge ended: %s", error)
            self.close()
        self._directions -= 1
        if not self._directions:
            self.close()

    def _taken(self, _events: int) -> bool:
        """The guest may have read something: say how much there is that it need not read any more."""
        peer = self.socket.peer
        self.outside.consumed(self._sent - (peer.unread() if peer is not None else 0))
        return False

    async def _inward(self) -> None:
        socket = self.socket
        task = self.kernel.pids.tasks[KTHREADD_PID]
        reading = True  # the guest
        while not self.closed:
            data = self.outside.receive()
            if data is None:
                await self.outside.queue.wait(READABLE, interruptible=False)
                continue
            if not data:
                if not socket.dead:
                    socket.shutdown(SEND_SHUTDOWN)
                self._taken(0)
                return
            buffer = BytesInputBuffer(data)
            while buffer.remaining and not self.closed:
                result = socket.send(buffer, 0, None, None, task) if reading else -EPIPE
                if result == -EAGAIN:
                    await socket.queue.wait(WRITABLE, interruptible=False)
                elif result == -EPIPE:  # nobody will read it
                    reading = False
                    if self._directions == 1 and (socket.peer is None or socket.peer.dead):
                        self.close()
                    self._sent += buffer.remaining
                    buffer.skip(buffer.remaining)
                    self._taken(0)
                else:
                    self._sent += result

    async def _outward(self) -> None:
        socket = self.socket
        while not self.closed:
            out = BytesOutputBuffer(PIECE)
            result = socket.receive(out, 0, None)
            if result == -EAGAIN:
                await socket.queue.wait(READABLE, interruptible=False)
                continue
            if result < 0:
                raise Errno(-result)
            if result == 0:
                while not self.closed and self.outside.end() == -EAGAIN:
                    await self.outside.queue.wait(WRITABLE, interruptible=False)
                if socket.peer is None or socket.peer.dead:
                    self.close()  # nobody is there to read what may still come
                return
            data = bytes(out.data)
            while data and not self.closed:
                sent = self.outside.send(data)
                if sent == -EAGAIN:
                    await self.outside.queue.wait(WRITABLE, interruptible=False)
                elif sent < 0:
                    raise Errno(-sent)
                else:
                    data = data[sent:]

    def close(self) -> None:
        """End both connections."""
        if self.closed:
            return
        self.closed = True
        self.socket.queue.remove(self._entry)
        self.socket.close()
        self.outside.close()


def connect_to_unix(kernel: Kernel, path: bytes, outside: Outside) -> None:
    """Bridge ``outside`` to who listens at a path, or, with a leading ``@``, at an abstract name; it is closed when nobody does."""
    from polynix.kernelproc.net.unix_address import sockaddr

    socket = UnixStream(kernel)
    address = sockaddr(b"\0" + path[1:] if path[:1] == b"@" else path + b"\0")
    kernel.engine.spawn(_connect(kernel, socket, address, outside), "bridge connect")


def connect_to_port(kernel: Kernel, port: int, outside: Outside, *, wait_for_listener: bool) -> None:
    """Bridge ``outside`` to who listens on a port of AF_VSOCK; when nobody does, it is closed, or waits for as long as it lives."""
    kernel.engine.spawn(_connect_to_port(kernel, port, outside, wait_for_listener), "bridge connect")


async def _connect(kernel: Kernel, socket: UnixStream, address: bytes, outside: Outside) -> None:
    task: Task = kernel.pids.tasks[KTHREADD_PID]
    try:
        while socket.connect(task, address) == -EAGAIN:
            await socket.queue.wait(WRITABLE, interruptible=False)
    except Errno as error:
        log.debug("nobody to bridge to: %s", error)
        socket.close()
        outside.close()
        return
    Bridge(kernel, socket, outside)


async def _connect_to_port(kernel: Kernel, port: int, outside: Outside, wait_for_listener: bool) -> None:
    ports = kernel.expando.get(VsockPorts)
    while True:
        socket = connect_from_outside(kernel, port)
        if socket is not None:
            Bridge(kernel, socket, outside)
            return
        if not wait_for_listener or outside.gone:
            log.debug("nobody to bridge to: port %d: %s", port, Errno(ECONNREFUSED))
            outside.close()
            return
        await wait(((ports.listened, ALL_EVENTS), (outside.queue, POLLERR | POLLHUP | POLLRDHUP)), interruptible=False)
