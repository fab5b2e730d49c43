"""polynix.container.Connections: connections that the runner proxies to sockets inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from polynix.ipc.bindings import MethodError
from polynix.ipc.objects import Channel, ZxStatus
from polynix.ipc.protocols.connections import (
    Connections,
    ConnectionsConnectRequest,
    ConnectionsListenRequest,
    ListenersResponse,
    ListenResponse,
    TcpAddress,
    TcpProxies,
    TcpProxiesListenRequest,
)
from polynix.kernelproc.fidl_loop import EngineClient, EngineServer
from polynix.kernelproc.incoming_directory import IncomingDirectory
from polynix.kernelproc.net.bridge import connect_to_port, connect_to_unix
from polynix.kernelproc.net.outside import ChannelOutside, HostSocketOutside
from polynix.kernelproc.uapi.errno import EINVAL, EIO

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel


class ContainerConnections(Connections):
    """Of one container."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._runner: EngineClient | None = None

    def serve(self, channel: Channel) -> None:
        """Serve one more client."""
        EngineServer(self.kernel.engine, Connections, self, channel)

    async def connect(self, request: ConnectionsConnectRequest) -> None:
        channel, counter, target = request.channel, request.counter, request.target
        if channel is None or counter is None or target is None or (target.unix_path is None) == (target.port is None):
            for handle in (channel, counter):
                if handle is not None:
                    handle.close()
            return
        outside = ChannelOutside(self.kernel.engine, channel, counter)
        if target.port is not None:
            connect_to_port(self.kernel, target.port, outside, wait_for_listener=False)
        elif target.unix_path is not None:
            connect_to_unix(self.kernel, bytes(target.unix_path), outside)

    async def listen(self, request: ConnectionsListenRequest) -> ListenResponse:
        if request.address is None or request.target is None:
            raise MethodError(EINVAL)
        ours, theirs = Channel.create()
        self.serve(theirs)
        with _runner_errors():
            return await self.runner.call(TcpProxies.listen, TcpProxiesListenRequest(address=request.address, target=request.target, connections=ours))

    async def unlisten(self, request: TcpAddress) -> None:
        with _runner_errors():
            await self.runner.call(TcpProxies.unlisten, request)

    async def listeners(self) -> ListenersResponse:
        with _runner_errors():
            return await self.runner.call(TcpProxies.listeners)

    @property
    def runner(self) -> EngineClient:
        """Calls to the runner's TcpProxies. Errors: ZxStatus."""
        if self._runner is None:
            self._runner = EngineClient(self.kernel.engine, TcpProxies, self.kernel.expando.get(IncomingDirectory).connect(TcpProxies))
        return self._runner


@contextlib.contextmanager
def _runner_errors() -> Iterator[None]:
    """A runner that doesn't answer is an I/O error to who asked."""
    try:
        yield
    except ZxStatus:
        raise MethodError(EIO) from None


def connect_vsock(kernel: Kernel, port: int, fd: int) -> None:
    """Controller.VsockConnect: bridge a stream socket of the host, ``fd``, to who listens on a port, as soon as somebody does."""
    connect_to_port(kernel, port, HostSocketOutside(kernel.engine, fd), wait_for_listener=True)
