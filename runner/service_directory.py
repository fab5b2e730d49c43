"""A directory of protocols that the runner serves, in asyncio: what its clients see, and what a container is given as ``/svc``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from polynix.ipc.async_server import Server
from polynix.ipc.fidl import encode_epitaph
from polynix.ipc.objects import Channel, Status, ZxStatus
from polynix.ipc.protocols.component import Directory, DirectoryOpenRequest

Serve = Callable[[Channel], Awaitable[None]]


class ServiceDirectory(Directory):
    """Protocols by name. A directory serves any number of clients; each that opens a name gets a task of its own."""

    def __init__(self, services: dict[str, Serve]) -> None:
        self._services = services
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, name: str, serve: Serve) -> None:
        """Offer one more."""
        self._services[name] = serve

    async def serve(self, channel: Channel) -> None:
        """Serve one client until it closes its end; what it has opened goes on."""
        await Server(Directory, self, channel).serve()

    async def open(self, request: DirectoryOpenRequest) -> None:
        channel = request.channel
        if channel is None:
            return
        serve = self._services.get(request.name or "")
        if serve is None:
            with suppress(ZxStatus):  # the client is gone
                channel.write(encode_epitaph(Status.NOT_FOUND))
            channel.close()
            return
        task = asyncio.ensure_future(serve(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
