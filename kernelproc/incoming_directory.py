"""What the container was given: protocols of the runner, by name (the ``/svc`` of its ComponentStartInfo). Kept in ``kernel.expando``."""

from __future__ import annotations

from polynix.ipc.bindings import FidlProtocol
from polynix.ipc.objects import Channel, ZxStatus
from polynix.ipc.protocols.component import ComponentNamespaceEntry, Directory, DirectoryOpenRequest
from polynix.kernelproc.engine import Engine
from polynix.kernelproc.fidl_loop import EngineClient

SERVICES = "/svc"


class IncomingDirectory:
    """The runner's protocols. Without one that was given, all that is opened is closed at once."""

    def __init__(self) -> None:
        self._directory: EngineClient | None = None

    def enter(self, engine: Engine, namespace: list[ComponentNamespaceEntry]) -> None:
        """Take over what the start information holds."""
        for entry in namespace:
            if entry.directory is None:
                continue
            if entry.path == SERVICES and self._directory is None:
                self._directory = EngineClient(engine, Directory, entry.directory)
            else:
                entry.directory.close()

    def connect(self, protocol: type[FidlProtocol]) -> Channel:
        """A channel to ``protocol``; that the runner has none is seen by its epitaph, or its end."""
        ours, theirs = Channel.create()
        if self._directory is None:
            theirs.close()
            return ours
        try:
            self._directory.send(Directory.open, DirectoryOpenRequest(name=protocol.__fidl_protocol__.name, channel=theirs))
        except ZxStatus:
            theirs.close()
        return ours
