"""What the kernel process offers to the outside: protocols by name, served in its loop. Kept in ``kernel.expando``.

Parts of the kernel that talk to the outside add themselves here; who opens a name gets a server of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from polynix.ipc.fidl import encode_epitaph
from polynix.ipc.objects import Channel, Status, ZxStatus
from polynix.ipc.protocols.component import DIRECTORY, Directory, DirectoryOpenRequest
from polynix.kernelproc.engine import Engine
from polynix.kernelproc.fidl_loop import EngineServer


class OutgoingDirectory(Directory):
    """The names and who serves them."""

    def __init__(self) -> None:
        self.services: dict[str, Callable[[Channel], object]] = {DIRECTORY: self.serve}

    def add(self, name: str, serve: Callable[[Channel], object]) -> None:
        """Have ``serve`` called with the server's end of a channel for each client that opens ``name``."""
        self.services[name] = serve

    def serve(self, channel: Channel) -> None:
        """Serve one more client of the directory itself."""
        EngineServer(Engine.running, Directory, self, channel)

    async def open(self, request: DirectoryOpenRequest) -> None:
        self.connect(request)

    def connect(self, request: DirectoryOpenRequest) -> None:
        """Have the request's channel served, or closed."""
        if request.channel is None:
            return
        serve = self.services.get(request.name or "")
        if serve is not None:
            serve(request.channel)
            return
        try:
            request.channel.write(encode_epitaph(Status.NOT_FOUND))
        except ZxStatus:
            pass  # the client is gone
        request.channel.close()
