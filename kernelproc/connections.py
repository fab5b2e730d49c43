"""polynix.container.Connections: connections that the runner proxies to sockets inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.ipc.protocols.connections import Connections, ConnectionsConnectRequest
from polynix.kernelproc.fidl_loop import EngineServer
from polynix.kernelproc.net.bridge import connect_to_port, connect_to_unix
from polynix.kernelproc.net.outside import ChannelOutside, HostSocketOutside

if TYPE_CHECKING:
    from polynix.ipc.objects import Channel
    from polynix.kernelproc.kernel import Kernel


class ContainerConnections(Connections):
    """Of one container."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def serve(self, channel: Channel) -> None:
        """Serve one more client."""
        EngineServer(self.kernel.engine, Connections, self, channel)

    async def connect(self, request: ConnectionsConnectRequest) -> None:
        channel, counter = request.channel, request.counter
        if channel is None or counter is None or (request.unix_path is None) == (request.port is None):
            for handle in (channel, counter):
                if handle is not None:
                    handle.close()
            return
        outside = ChannelOutside(self.kernel.engine, channel, counter)
        if request.port is not None:
            connect_to_port(self.kernel, request.port, outside, wait_for_listener=False)
        elif request.unix_path is not None:
            connect_to_unix(self.kernel, bytes(request.unix_path), outside)


def connect_vsock(kernel: Kernel, port: int, fd: int) -> None:
    """Controller.VsockConnect: bridge a stream socket of the host, ``fd``, to who listens on a port, as soon as somebody does."""
    connect_to_port(kernel, port, HostSocketOutside(kernel.engine, fd), wait_for_listener=True)
