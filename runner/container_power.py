"""The power of one container, as its runner sees it: what suspends it and what wakes it.

Mechanics: :mod:`polynix.runner.suspend` and :mod:`polynix.runner.process_hold`. A container that is never suspended costs nothing here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from polynix.ipc.bindings import MethodError
from polynix.ipc.protocols.manager import ManagerSuspendContainerRequest, ManagerSuspendContainerResponse

if TYPE_CHECKING:
    from polynix.ipc.async_client import Client
    from polynix.ipc.objects import EventPair
    from polynix.ipc.protocols.power import Power
    from polynix.runner.kernels import StarnixKernel
    from polynix.runner.lockdep import LockDepMutex
    from polynix.runner.suspend import SuspendContext
    from polynix.runner.wake_sources import WakeSources


class ContainerPower:
    """One container's, from its start to its end; the wake sources and watchers are its manager's."""

    def __init__(self, kernel: StarnixKernel, wake_sources: LockDepMutex[WakeSources], wake_watchers: list[EventPair]) -> None:
        self.kernel = kernel
        self.wake_sources = wake_sources
        self.wake_watchers = wake_watchers
        self._context: SuspendContext | None = None
        self._client: Client[Power] | None = None
        self._sleep: asyncio.Task[ManagerSuspendContainerResponse] | None = None

    @property
    def client(self) -> Client[Power]:
        """Calls to the kernel's Power. Errors: ZxStatus PEER_CLOSED."""
        if self._client is None:
            from polynix.ipc.async_client import Client
            from polynix.ipc.protocols.power import Power

            self._client = Client(Power, self.kernel.connect_to_protocol(Power))
        return self._client

    @property
    def context(self) -> SuspendContext:
        """Made when it is first needed. Errors: ZxStatus PEER_CLOSED."""
        if self._context is None:
            from polynix.runner.process_hold import ProcessHold
            from polynix.runner.suspend import SuspendContext

            kernel = self.kernel
            processes = ProcessHold(self.client, kernel.child.pid)
            self._context = SuspendContext(kernel.name, kernel.job, processes, kernel.wake_lease, self.wake_sources, self.wake_watchers)
        return self._context

    @property
    def asleep(self) -> bool:
        return self._context is not None and self._context.asleep

    async def suspend(self, request: ManagerSuspendContainerRequest) -> ManagerSuspendContainerResponse:
        """Manager.SuspendContainer. Errors: MethodError, ZxStatus."""
        return await self.context.suspend_container(request)

    def sources_changed(self) -> None:
        """A wake source was added."""
        if self._context is not None:
            self._context.sources_changed()

    async def fall_asleep(self) -> bool:
        """Suspend it until a wake source or :meth:`wake_up`; returns once it sleeps (or has been woken again), False when it can't be suspended.
        Errors: ZxStatus.
        """
        context = self.context
        if context.asleep:
            return True
        self._sleep = asyncio.create_task(context.suspend_until_woken())
        asleep = asyncio.ensure_future(context.fell_asleep.wait())
        await asyncio.wait([self._sleep, asleep], return_when=asyncio.FIRST_COMPLETED)
        asleep.cancel()
        if not self._sleep.done():
            return True
        try:
            await self._sleep
        except MethodError:
            return False
        return True

    async def wake_up(self) -> None:
        """Returns once it is awake; it may have been so before."""
        if self._context is not None:
            await self._context.resume()

    def inspect(self) -> dict[str, Any] | None:
        """Counts of suspends; None for a container that nobody has tried to suspend."""
        return None if self._context is None else self._context.statistics.inspect()

    def close(self) -> None:
        """The container is gone: whoever waits for it to wake gets an error."""
        if self._context is not None:
            self._context.close()
        if self._client is not None:
            self._client.close()
