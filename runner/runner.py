"""Runner: what the runner process serves, in one asyncio loop: ComponentRunner to its clients, Manager to its containers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from polynix.ipc.async_server import Server
from polynix.ipc.objects import Channel, ZxStatus
from polynix.ipc.protocols.component import ComponentNamespaceEntry, ComponentRunner, ComponentRunnerStartRequest, ComponentStartInfo
from polynix.runner.broker import Broker
from polynix.runner.container_instance import ContainerInstance
from polynix.runner.kernels import Kernels, StarnixKernel
from polynix.runner.launcher import Launcher
from polynix.runner.manager import ManagerThreads
from polynix.runner.member import Peer
from polynix.runner.realm import Realm
from polynix.runner.service_directory import ServiceDirectory

if TYPE_CHECKING:
    from polynix.runner.containers import ContainerRegistry

log = logging.getLogger(__name__)

STOP_SECONDS = 2.0  # how long containers may take to end before they are killed
SERVICES = "/svc"


class RunnerService(ComponentRunner):
    """One realm: its broker, its kernels, and who asks for them."""

    def __init__(self, directory: str, launcher: Launcher) -> None:
        """Errors: ZxStatus."""
        self.loop = asyncio.get_running_loop()
        self.broker = Broker(directory, self._connected)
        self.realm = Realm(self.broker, launcher)
        self.kernels = Kernels(self.realm)
        self.threads = ManagerThreads()
        self.containers: ContainerRegistry | None = None
        self.services = ServiceDirectory({ComponentRunner.__fidl_protocol__.name: self._serve_component_runner})
        self._tasks: set[asyncio.Task[None]] = set()
        self._containers: set[asyncio.Task[None]] = set()

    # -- clients -----------------------------------------------------------------------------------------------------------------

    def _connected(self, _peer: Peer, root: Channel) -> None:
        """A client has found the directory; called by the broker's thread."""
        self.loop.call_soon_threadsafe(self.serve_client, root)

    def serve_client(self, root: Channel) -> None:
        """Serve the directory of what the runner offers."""
        self.keep(self.services.serve(root))

    async def _serve_component_runner(self, channel: Channel) -> None:
        await Server(ComponentRunner, self, channel).serve()

    async def start(self, request: ComponentRunnerStartRequest) -> None:
        info = request.start_info
        for entry in info.ns or ():
            if entry.directory is not None:
                entry.directory.close()
        self.start_container(info, request.controller)

    def start_container(self, info: ComponentStartInfo, controller: Channel, started: asyncio.Future[ContainerInstance] | None = None) -> None:
        """Have a container run. ``started`` gets it, or a StartError."""
        task = self.keep(self._run_container(info, controller, started))
        self._containers.add(task)
        task.add_done_callback(self._containers.discard)

    async def _run_container(self, info: ComponentStartInfo, controller: Channel, started: asyncio.Future[ContainerInstance] | None) -> None:
        """One container from its start to its end."""
        instance = ContainerInstance(self.threads)
        kernel_started: asyncio.Future[StarnixKernel] = self.loop.create_future()

        def note(future: asyncio.Future[StarnixKernel]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                instance.started(future.result())
            if started is not None and not started.done():
                if error is None:
                    started.set_result(instance)
                else:
                    started.set_exception(error)

        kernel_started.add_done_callback(note)
        ours, theirs = Channel.create()
        self.keep(instance.services.serve(ours))
        info.ns = [ComponentNamespaceEntry(path=SERVICES, directory=theirs)]
        try:
            await self.kernels.run(info, controller, kernel_started)
        finally:
            await instance.close()

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside; its failure is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the runner failed", exc_info=task.exception())

    # -- the end -----------------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End all containers, in an orderly way if they do so soon."""
        if not self.realm.launcher_gone.done():  # otherwise they are being killed
            await self.kernels.stop_all()
        if self._containers:
            await asyncio.wait(self._containers, timeout=STOP_SECONDS)
        if self.containers is not None:
            self.containers.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.threads.close()
        self.realm.close()
        self.broker.close()

    # -- a private runner --------------------------------------------------------------------------------------------------------

    @classmethod
    def serve_private(cls, directory: str, launcher: Launcher, lifeline: socket.socket) -> None:
        """Serve the owner at the other end of ``lifeline`` until he is gone. Errors: ZxStatus, OSError."""
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="polynix: %(levelname)s: %(name)s: %(message)s")
        asyncio.run(cls._serve_private(directory, launcher, lifeline))

    @classmethod
    async def _serve_private(cls, directory: str, launcher: Launcher, lifeline: socket.socket) -> None:
        runner = cls(directory, launcher)
        try:
            beside, root = runner.broker.invite()
            runner.serve_client(root)
            with beside, suppress(BrokenPipeError, ConnectionError):
                socket.send_fds(lifeline, [json.dumps({"session": True}).encode()], [beside.fileno()])
            gone: asyncio.Future[None] = runner.loop.create_future()
            lifeline.setblocking(False)
            runner.loop.add_reader(lifeline, _finish, gone)
            await asyncio.wait([gone, runner.realm.launcher_gone], return_when=asyncio.FIRST_COMPLETED)
            runner.loop.remove_reader(lifeline)
        finally:
            with suppress(ZxStatus):
                await runner.close()

    # -- a service ---------------------------------------------------------------------------------------------------------------

    @classmethod
    def serve_users(cls, directory: str, launcher: Launcher, log_level: str) -> None:
        """Serve whoever finds the directory, until SIGTERM or SIGINT, or until the launcher is gone. Errors: ZxStatus, OSError."""
        logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="polynix: %(levelname)s: %(name)s: %(message)s")
        asyncio.run(cls._serve_users(directory, launcher))

    @classmethod
    async def _serve_users(cls, directory: str, launcher: Launcher) -> None:
        from polynix.ipc.protocols.containers import Containers  # no `polynix run` needs them
        from polynix.runner.containers import ContainerRegistry

        runner = cls(directory, launcher)
        runner.containers = ContainerRegistry(runner, directory)
        runner.services.add(Containers.__fidl_protocol__.name, runner.containers.serve)
        stop: asyncio.Future[None] = runner.loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            runner.loop.add_signal_handler(number, _finish, stop)
        try:
            notify_manager("READY=1")
            log.info("serving %s", directory)
            await asyncio.wait([stop, runner.realm.launcher_gone], return_when=asyncio.FIRST_COMPLETED)
            notify_manager("STOPPING=1")
            if not stop.done():
                log.error("the launcher died: so do the containers, and the runner")
        finally:
            await runner.close()


def notify_manager(state: str) -> None:
    """sd_notify(3), where a service manager asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
