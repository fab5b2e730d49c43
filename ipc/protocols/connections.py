"""polynix.container.Connections: connections from outside that a runner proxies into a container."""

from __future__ import annotations

from dataclasses import dataclass

from polynix.ipc.bindings import FidlProtocol, Openness, one_way, protocol
from polynix.ipc.fidl import UINT8, UINT32, HandleType, VectorType, member, table
from polynix.ipc.objects import Channel, Counter


@table
@dataclass(kw_only=True)
class ConnectionsConnectRequest:
    channel: Channel | None = member(1, HandleType(Channel))
    """The bytes of the connection, in messages of at most 64 KiB; an empty one says that no more will come that way."""
    counter: Counter | None = member(2, HandleType(Counter))
    """Messages that the container hasn't handled yet; it lowers it."""
    unix_path: bytes | None = member(3, VectorType(UINT8))
    """Where to connect: a unix socket (with a leading ``@`` an abstract name)…"""
    port: int | None = member(4, UINT32)
    """…or a port of AF_VSOCK."""


@protocol("polynix.container.Connections", openness=Openness.OPEN)
class Connections(FidlProtocol):
    """A request that lacks a member is ignored, and its channel closes. So does that of a connection which nobody accepts."""

    @one_way()
    async def connect(self, request: ConnectionsConnectRequest) -> None:
        raise NotImplementedError
