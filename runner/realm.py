"""Realm: the runner's children, which are kernel processes, in collections; what of fuchsia.component.Realm a runner needs.

A child is lazy: its process starts when its exposed directory is opened. What it exposes is the directory that it serves on the first channel of its session.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from dataclasses import dataclass, field

from polynix.ipc.bindings import FidlProtocol
from polynix.ipc.objects import Channel, ZxStatus
from polynix.ipc.protocols.component import Directory, DirectoryOpenRequest
from polynix.runner.broker import Broker
from polynix.runner.launcher import Launcher, LauncherError
from polynix.runner.run_directory import remove_region

log = logging.getLogger(__name__)


class ChildExists(Exception):
    """A collection has a child of that name."""


class ChildDied(Exception):
    """The kernel process is gone; the text is one line for people."""


class ExposedDirectory:
    """The protocols of a child, by name."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def connect(self, protocol: type[FidlProtocol], name: str = "") -> Channel:
        """A channel to ``protocol``, or to what is called ``name`` there. Errors: ZxStatus PEER_CLOSED."""
        ours, theirs = Channel.create()
        self.open(name or protocol.__fidl_protocol__.name, theirs)
        return ours

    def open(self, name: str, server_end: Channel) -> None:
        """Hand a server's end on. Errors: ZxStatus PEER_CLOSED."""
        method = Directory.__fidl_protocol__.by_attribute["open"]
        self._channel.write(*method.encode_request(0, DirectoryOpenRequest(name=name, channel=server_end)))

    def close(self) -> None:
        self._channel.close()


@dataclass
class Child:
    """One kernel process; ``ended`` gives its exit code, negative for a signal, None when nobody knows."""

    collection: str
    name: str
    pid: int = 0
    exposed: ExposedDirectory | None = None
    ended: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    failure: str = ""

    @property
    def why_it_died(self) -> str:
        """In one line, once it has."""
        if self.failure:
            return self.failure
        code = self.ended.result() if self.ended.done() else None
        if code is not None and code < 0:
            return f"the kernel process died (signal {-code})"
        return "the kernel process died" if code is None else f"the kernel process ended with status {code}"


class Realm:
    """Makes children, and knows when they end."""

    def __init__(self, broker: Broker, launcher: Launcher) -> None:
        self.broker = broker
        self.launcher = launcher
        self.children: dict[str, Child] = {}
        self.launcher_gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(launcher.socket, self._hear)

    def create_child(self, collection: str, name: str) -> Child:
        """A child that does not run yet. Errors: ChildExists."""
        if name in self.children:
            raise ChildExists(f"{collection}:{name}")
        child = self.children[name] = Child(collection, name)
        return child

    def open_exposed_dir(self, child: Child) -> ExposedDirectory:
        """What the child offers; starts it if it does not run. It can be talked to at once. Errors: ChildDied."""
        if child.exposed is None:
            try:
                beside, root = self.broker.invite()
                child.exposed = ExposedDirectory(root)
                self.launcher.launch(child.name, beside)
            except (ZxStatus, LauncherError, OSError) as error:
                child.failure = f"cannot start a kernel process: {error}"
                self._ended(child, None)
                raise ChildDied(child.failure) from error
        return child.exposed

    def kill(self, child: Child) -> None:
        """SIGKILL its process."""
        if not child.ended.done():
            self.launcher.kill(child.name)

    def _hear(self) -> None:
        while True:
            try:
                report = self.launcher.receive()
            except BlockingIOError:
                return
            except LauncherError:
                asyncio.get_running_loop().remove_reader(self.launcher.socket)
                for child in list(self.children.values()):
                    self._ended(child, -signal.SIGKILL)
                if not self.launcher_gone.done():
                    self.launcher_gone.set_result(None)
                return
            about = self.children.get(report.get("launched") or report.get("ended") or "")
            if about is None:
                continue
            if "launched" in report:
                about.pid = report["pid"]
            else:
                about.failure = about.failure or report.get("message", "")
                self._ended(about, report["status"])

    def _ended(self, child: Child, status: int | None) -> None:
        self.children.pop(child.name, None)
        if child.pid:
            remove_region(child.pid)  # should the launcher be gone
        if not child.ended.done():
            child.ended.set_result(status)

    def close(self) -> None:
        """End all children; returns when they are gone."""
        with suppress(ValueError, OSError):
            asyncio.get_running_loop().remove_reader(self.launcher.socket)
        self.launcher.close()
        for child in list(self.children.values()):
            self._ended(child, None)
