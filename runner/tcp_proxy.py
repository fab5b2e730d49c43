"""TCP connections of outside peers, proxied into a container: what ``polynix proxy`` asks for.

::

    peer --TCP--> runner: remote_channel <--> ChannelProxy <--> container_channel --> kernel: bridge --> the guest's socket
                                                  |
                                          message counter: wakes the container

Bytes travel as messages of at most 64 KiB; an empty message says that no more will come that way. All channels are bounded: each side stops when the
other is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable

from polynix.ipc.async_server import Server
from polynix.ipc.bindings import MethodError
from polynix.ipc.objects import MAX_BYTES, Channel, Counter, Status, ZxStatus
from polynix.ipc.protocols.connections import (
    Connections,
    ConnectionsConnectRequest,
    Listener,
    ListenersResponse,
    ListenResponse,
    ProxyTarget,
    TcpAddress,
    TcpProxies,
    TcpProxiesListenRequest,
)
from polynix.runner.proxy import ChannelProxy

log = logging.getLogger(__name__)

BACKLOG = 128
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class TcpProxy:
    """Listens at one address for one container, in the running asyncio loop.

    ``start_proxy`` has the proxy thread serve a ChannelProxy, whose counter wakes the container; ``connect`` hands the container its end.
    """

    def __init__(self, target: ProxyTarget, start_proxy: Callable[[ChannelProxy], None], connect: Callable[[ConnectionsConnectRequest], None]) -> None:
        self.target = target
        self.start_proxy = start_proxy
        self.connect = connect
        self.address = TcpAddress("", 0)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, address: TcpAddress) -> None:
        """Begin to accept; :attr:`address` says where. Errors: OSError."""
        self._server = await asyncio.start_server(self._accept, address.host, address.port, limit=MAX_BYTES, backlog=BACKLOG)
        self.address = TcpAddress(*self._server.sockets[0].getsockname()[:2])

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        name = f"tcp:{peer[0]}:{peer[1]}" if peer else "tcp"
        ours, remote = Channel.create(bounded=True)
        container, inside = Channel.create(bounded=True)
        counter = Counter.create()
        inside_counter = counter.duplicate()
        try:
            self.start_proxy(ChannelProxy(container, remote, counter, name))
            self.connect(ConnectionsConnectRequest(channel=inside, counter=inside_counter, target=self.target))
            inward = asyncio.create_task(_carry_inward(reader, ours))
            try:
                clean = await _carry_outward(ours, writer)
            finally:
                inward.cancel()
                await asyncio.gather(inward, return_exceptions=True)
            if not clean:
                _reset(writer)
        except ZxStatus as error:
            log.debug("%s: %s", name, error)
            _reset(writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            for handle in (ours, inside, inside_counter):
                handle.close()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        """Accept nothing more, and end the connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


class ContainerProxies(TcpProxies):
    """The proxies of one container; ``start_proxy`` makes its wake sources know of each connection."""

    def __init__(self, start_proxy: Callable[[ChannelProxy], None]) -> None:
        self.start_proxy = start_proxy
        self.proxies: dict[TcpProxy, Channel] = {}  # in the order of their making; with the channels over which the container hears of connections

    async def serve(self, channel: Channel) -> None:
        """Serve one channel of the container."""
        await Server(TcpProxies, self, channel).serve()

    async def listen(self, request: TcpProxiesListenRequest) -> ListenResponse:
        address, target, connections = request.address, request.target, request.connections
        if address is None or target is None or connections is None:
            raise MethodError(errno.EINVAL)
        connect = Connections.__fidl_protocol__.by_attribute["connect"]
        proxy = TcpProxy(target, self.start_proxy, lambda asked: connections.write(*connect.encode_request(0, asked)))
        try:
            ipaddress.ip_address(address.host)  # names are not looked up
            await proxy.listen(address)
        except (OSError, ValueError) as error:
            connections.close()
            raise MethodError(getattr(error, "errno", None) or errno.EINVAL) from error
        self.proxies[proxy] = connections
        return ListenResponse(proxy.address)

    async def unlisten(self, request: TcpAddress) -> None:
        proxy = next((proxy for proxy in self.proxies if proxy.address == request), None)
        if proxy is None:
            raise MethodError(errno.ENOENT)
        await self._end(proxy)

    async def listeners(self) -> ListenersResponse:
        return ListenersResponse([Listener(proxy.address, proxy.target) for proxy in self.proxies])

    async def _end(self, proxy: TcpProxy) -> None:
        connections = self.proxies.pop(proxy)
        await proxy.close()
        connections.close()

    async def close(self) -> None:
        """The container is gone."""
        for proxy in list(self.proxies):
            await self._end(proxy)


async def _carry_inward(reader: asyncio.StreamReader, channel: Channel) -> None:
    """From the peer to the container; the channel closes when the peer resets the connection."""
    try:
        while True:
            data = await reader.read(MAX_BYTES)
            await channel.write_async(data)
            if not data:
                return
    except OSError:
        channel.close()
    except ZxStatus:
        return  # the container has closed: the other direction sees it


async def _carry_outward(channel: Channel, writer: asyncio.StreamWriter) -> bool:
    """From the container to the peer, until the container closes; whether it had said before that no more would come. Errors: OSError."""
    ended = False
    while True:
        try:
            data, handles = await channel.read_async()
        except ZxStatus as error:
            if error.status not in (Status.PEER_CLOSED, Status.CANCELED):
                raise
            return ended
        for handle in handles:
            handle.close()
        if data:
            writer.write(data)
            await writer.drain()
        elif not ended:
            ended = True
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the peer see that the connection failed."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
