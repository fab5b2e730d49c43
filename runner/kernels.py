"""The kernels of a runner: one kernel process for each container, in the collection ``kernels``.

Behaviour: Starnix's ``kernel_manager/lib.rs`` and ``kernels.rs``. Unlike there, the container's controller stays with the runner, which can tell
the client that the kernel has died, whenever and however it did.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import string
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polynix.ipc.async_client import Client
from polynix.ipc.async_server import Server
from polynix.ipc.bindings import FidlProtocol
from polynix.ipc.objects import Channel, Event, Job, ZxStatus
from polynix.ipc.protocols.component import (
    CONTAINER_RUNNER_PROTOCOL,
    ComponentController,
    ComponentError,
    ComponentRunner,
    ComponentRunnerStartRequest,
    ComponentStartInfo,
    ComponentStopInfo,
)
from polynix.ipc.protocols.controller import Controller
from polynix.runner.lockdep import LockDepMutex, LockLevel
from polynix.runner.realm import Child, ChildDied, ExposedDirectory, Realm
from polynix.runner.wake_lease import WakeLease

if TYPE_CHECKING:
    from polynix.runner.container_power import ContainerPower

log = logging.getLogger(__name__)

KERNEL_COLLECTION = "kernels"
NAME_LENGTH = 7
_ALPHANUMERIC = string.ascii_letters + string.digits
_LAST_WORDS_SECONDS = 2.0  # between the end of a kernel process and what it said last


class StartError(Exception):
    """A container cannot be started; the text is one line for people."""

    def __init__(self, message: str, error: ComponentError = ComponentError.INSTANCE_CANNOT_START) -> None:
        super().__init__(message)
        self.error = error


@dataclass(eq=False)
class StarnixKernel:
    """One container's kernel."""

    name: str
    """Of the child in the collection."""
    child: Child
    exposed_dir: ExposedDirectory
    component_instance: Event
    """The token that stands for the container."""
    job: Job
    wake_lease: WakeLease
    power: ContainerPower | None = None
    """Once the runner has seen to it."""

    @classmethod
    async def create(cls, realm: Realm, start_info: ComponentStartInfo, controller: Channel) -> tuple[StarnixKernel, asyncio.Future[int | None]]:
        """Make a child, start the container in it, and ask for its job; returns the kernel, and a future that is done when it has stopped. ``controller`` is
        the server's end that the kernel gets. Errors: StartError.
        """
        if start_info.component_instance is None:
            raise StartError("expected to find component_instance in ComponentStartInfo", ComponentError.INVALID_ARGUMENTS)
        component_instance = start_info.component_instance.duplicate()
        child = realm.create_child(KERNEL_COLLECTION, generate_kernel_name())
        container_controller: Client[Controller] | None = None
        try:
            exposed_dir = realm.open_exposed_dir(child)
            runner = exposed_dir.connect(ComponentRunner, CONTAINER_RUNNER_PROTOCOL)
            start = ComponentRunner.__fidl_protocol__.by_attribute["start"]
            runner.write(*start.encode_request(0, ComponentRunnerStartRequest(start_info, controller)))
            container_controller = Client(Controller, exposed_dir.connect(Controller))
            job = (await container_controller.proxy.get_job_handle()).job
            runner.close()
        except (ZxStatus, ChildDied) as error:
            component_instance.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(child.ended), _LAST_WORDS_SECONDS)
            realm.kill(child)
            raise StartError(child.why_it_died if child.ended.done() else str(error)) from error
        finally:
            if container_controller is not None:
                container_controller.close()
        if job is None:
            component_instance.close()
            realm.kill(child)
            raise StartError("expected to find job in ControllerGetJobHandleResponse")
        return cls(child.name, child, exposed_dir, component_instance, job, WakeLease(f"starnix-kernel-{child.name}")), child.ended

    def connect_to_protocol(self, protocol: type[FidlProtocol]) -> Channel:
        """A channel to a protocol that the kernel exposes. Errors: ZxStatus PEER_CLOSED."""
        return self.exposed_dir.connect(protocol)

    def close(self) -> None:
        """The kernel is gone: so are its handles."""
        self.exposed_dir.close()
        self.component_instance.close()
        self.job.close()
        self.wake_lease.drop()


def generate_kernel_name() -> str:
    """Seven random letters and digits: readable parts tempt people to rely on them."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(NAME_LENGTH))


class Kernels:
    """All kernels, by the koid of their job."""

    def __init__(self, realm: Realm) -> None:
        self.realm = realm
        self._relays: set[_Relay] = set()  # of containers that have not ended
        self._kernels: LockDepMutex[dict[int, StarnixKernel]] = LockDepMutex({}, "kernels", LockLevel.KERNELS)

    async def run(self, start_info: ComponentStartInfo, controller: Channel, started: asyncio.Future[StarnixKernel] | None = None) -> None:
        """Start a container, and serve ``controller``, the client's, until it has ended. ``started`` gets the kernel, or a StartError."""
        ours, theirs = Channel.create()
        relay = _Relay(controller, ours)
        self._relays.add(relay)
        try:
            await self._run(start_info, theirs, relay, started)
        finally:
            self._relays.discard(relay)

    async def _run(self, start_info: ComponentStartInfo, theirs: Channel, relay: _Relay, started: asyncio.Future[StarnixKernel] | None) -> None:
        try:
            kernel, stopped = await StarnixKernel.create(self.realm, start_info, theirs)
        except StartError as error:
            error = await relay.refused(error)
            if started is not None and not started.done():
                started.set_exception(error)
            return
        koid = kernel.job.koid
        with self._kernels.lock() as kernels:
            kernels[koid] = kernel
        kernel.wake_lease.acquire()
        if started is not None and not started.done():
            started.set_result(kernel)
        try:
            await stopped
            await relay.ended(kernel.child)
        finally:
            with self._kernels.lock() as kernels:
                del kernels[koid]
            kernel.close()

    async def stop_all(self) -> None:
        """Ask all containers to end."""
        for relay in list(self._relays):
            await relay.stop()


class _Relay(ComponentController):
    """The client's ComponentController: what it asks goes to the kernel's own, and how the container ended comes from there, or from the end of its process."""

    def __init__(self, client_end: Channel, kernel_end: Channel) -> None:
        self.stop_info: ComponentStopInfo | None = None
        self._kernel = Client(ComponentController, kernel_end, _StopListener(self))
        self._kernel.start()
        self._server = Server(ComponentController, self, client_end)
        self._serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        await self._server.serve()
        with suppress(Exception):  # the client closed its end: the container is stopped
            await self.stop()

    async def stop(self) -> None:
        with suppress(ZxStatus):
            await self._kernel.proxy.stop()

    async def kill(self) -> None:
        with suppress(ZxStatus):
            await self._kernel.proxy.kill()

    async def refused(self, error: StartError) -> StartError:
        """The container did not start; returns the error with what the kernel said about it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._kernel.on_closed(), _LAST_WORDS_SECONDS if self.stop_info is None else None)
        info = self.stop_info
        if info is None:
            info = ComponentStopInfo(termination_status=error.error, message=str(error))
        else:
            error = StartError(info.message or "the container was stopped", error.error)
        self._tell(info)
        return error

    async def ended(self, child: Child) -> None:
        """The kernel process has ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._kernel.on_closed(), _LAST_WORDS_SECONDS)
        self._tell(self.stop_info or ComponentStopInfo(termination_status=ComponentError.INSTANCE_DIED, message=child.why_it_died))

    def _tell(self, info: ComponentStopInfo) -> None:
        self._kernel.close()
        if self._server.channel.is_valid:
            with suppress(ZxStatus):
                self._server.send_event(ComponentController.on_stop, info)
            self._server.close(info.termination_status)


class _StopListener(ComponentController):
    """Hears what the kernel says at its end."""

    def __init__(self, relay: _Relay) -> None:
        self.relay = relay

    async def on_stop(self, payload: ComponentStopInfo) -> None:
        self.relay.stop_info = payload
