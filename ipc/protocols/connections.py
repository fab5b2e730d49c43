"""polynix.container.Connections and polynix.runner.TcpProxies: connections from outside that a runner proxies into a container.

Who wants a proxy asks the container, which asks its runner to listen, and gives it the client's end of a Connections channel: each peer that connects is one
``Connect``.
"""

from __future__ import annotations

from polynix.ipc.bindings import FidlProtocol, Openness, one_way, protocol, two_way
from polynix.ipc.fidl import INT32, STRING, UINT8, UINT16, UINT32, HandleType, VectorType, member, struct, table
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, Counter


@table
@dataclass(kw_only=True)
class ProxyTarget:
    """Where connections go inside: one of the two."""

    unix_path: bytes | None = member(1, VectorType(UINT8))
    """A unix socket; with a leading ``@`` an abstract name."""
    port: int | None = member(2, UINT32)
    """A port of AF_VSOCK."""


@table
@dataclass(kw_only=True)
class ConnectionsConnectRequest:
    channel: Channel | None = member(1, HandleType(Channel))
    """The bytes of the connection, in messages of at most 64 KiB; an empty one says that no more will come that way."""
    counter: Counter | None = member(2, HandleType(Counter))
    """Messages that the container hasn't handled yet; it lowers it."""
    target: ProxyTarget | None = member(3, ProxyTarget)


@struct
@dataclass(frozen=True)
class TcpAddress:
    host: str = member(STRING)
    port: int = member(UINT16)
    """0: any that is free."""


@table
@dataclass(kw_only=True)
class ConnectionsListenRequest:
    address: TcpAddress | None = member(1, TcpAddress)
    target: ProxyTarget | None = member(2, ProxyTarget)


@struct
@dataclass(frozen=True)
class ListenResponse:
    address: TcpAddress = member(TcpAddress)
    """Where the runner listens."""


@struct
@dataclass(frozen=True)
class Listener:
    """An address where the runner listens for a container, and where its connections go."""

    address: TcpAddress = member(TcpAddress)
    target: ProxyTarget = member(ProxyTarget)


@struct
@dataclass(frozen=True)
class ListenersResponse:
    listeners: list[Listener] = member(VectorType(Listener))
    """In the order of their making."""


@protocol("polynix.container.Connections", openness=Openness.OPEN)
class Connections(FidlProtocol):
    """What a container offers."""

    @one_way()
    async def connect(self, request: ConnectionsConnectRequest) -> None:
        """Connect a proxied channel. One that lacks a member is closed, and so is a connection that nobody accepts."""
        raise NotImplementedError

    @two_way(error=INT32)
    async def listen(self, request: ConnectionsListenRequest) -> ListenResponse:
        """Have the runner listen on a TCP address for the container, until that ends or ``unlisten``. Errors: an errno."""
        raise NotImplementedError

    @two_way(error=INT32)
    async def unlisten(self, request: TcpAddress) -> None:
        """Have the runner listen there no more; the connections that were made there are reset. Errors: ENOENT, or another errno."""
        raise NotImplementedError

    @two_way(error=INT32)
    async def listeners(self) -> ListenersResponse:
        """Where the runner listens for the container. Errors: an errno."""
        raise NotImplementedError


@table
@dataclass(kw_only=True)
class TcpProxiesListenRequest:
    address: TcpAddress | None = member(1, TcpAddress)
    target: ProxyTarget | None = member(2, ProxyTarget)
    connections: Channel | None = member(3, HandleType(Channel))
    """The client's end of a Connections."""


@protocol("polynix.runner.TcpProxies", openness=Openness.OPEN)
class TcpProxies(FidlProtocol):
    """What a runner offers to its containers."""

    @two_way(error=INT32)
    async def listen(self, request: TcpProxiesListenRequest) -> ListenResponse:
        """Errors: an errno; EINVAL for a request that lacks a member."""
        raise NotImplementedError

    @two_way(error=INT32)
    async def unlisten(self, request: TcpAddress) -> None:
        """Errors: ENOENT."""
        raise NotImplementedError

    @two_way()
    async def listeners(self) -> ListenersResponse:
        raise NotImplementedError
