"""ContainerInstance: one container of the runner, from its start to its end: its kernel, and what the runner does for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.ipc.protocols.connections import TcpProxies
from polynix.ipc.protocols.manager import Manager
from polynix.runner.container_power import ContainerPower
from polynix.runner.manager import ContainerManager, ManagerThreads
from polynix.runner.service_directory import ServiceDirectory
from polynix.runner.tcp_proxy import ContainerProxies

if TYPE_CHECKING:
    from polynix.runner.kernels import StarnixKernel


class ContainerInstance:
    """``kernel`` and ``power`` are None until it has started."""

    def __init__(self, threads: ManagerThreads) -> None:
        self.manager = ContainerManager(threads)
        self.proxies = ContainerProxies(self.manager.start_proxy)
        self.kernel: StarnixKernel | None = None
        self.services = ServiceDirectory({Manager.__fidl_protocol__.name: self.manager.serve, TcpProxies.__fidl_protocol__.name: self.proxies.serve})
        """What the container is given."""

    @property
    def power(self) -> ContainerPower | None:
        return self.manager.power

    def started(self, kernel: StarnixKernel) -> None:
        """Its kernel runs."""
        self.kernel = kernel
        kernel.power = self.manager.power = ContainerPower(kernel, self.manager.wake_sources, self.manager.wake_watchers)

    async def close(self) -> None:
        """The container has ended."""
        await self.proxies.close()
        self.manager.close()
