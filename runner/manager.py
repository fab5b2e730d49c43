"""fuchsia.starnix.runner.Manager: what containers ask of the runner.

Behaviour: Starnix's ``kernel_manager/lib.rs``, ``serve_starnix_manager``. Requests that lack a member are ignored. Unlike there, wake sources and watchers
belong to the container that asks, and requests don't stall while a container is suspended: what waits for a wake-up holds up nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.ipc.async_server import Server
from polynix.ipc.bindings import MethodError
from polynix.ipc.objects import Channel, Signals
from polynix.ipc.protocols.manager import (
    ASLEEP_SIGNAL,
    AWAKE_SIGNAL,
    Manager,
    ManagerAddWakeSourceRequest,
    ManagerCreatePagerRequest,
    ManagerProxyWakeChannelRequest,
    ManagerRegisterWakeWatcherRequest,
    ManagerRemoveWakeSourceRequest,
    ManagerSuspendContainerRequest,
    ManagerSuspendContainerResponse,
    SuspendError,
)
from polynix.runner.wake_sources import WakeSource, WakeSources, new_wake_sources

if TYPE_CHECKING:
    from polynix.ipc.objects import EventPair
    from polynix.runner.async_channel import Sender
    from polynix.runner.container_power import ContainerPower
    from polynix.runner.lockdep import LockDepMutex
    from polynix.runner.pager import Pager
    from polynix.runner.proxy import ChannelProxy, NewProxy


class ManagerThreads:
    """The runner's threads that serve all containers, for proxies and for pagers; made when they are first needed."""

    def __init__(self) -> None:
        self._new_proxies: Sender[NewProxy] | None = None
        self._pager: Pager | None = None

    def start_proxy(self, proxy: ChannelProxy, wake_sources: LockDepMutex[WakeSources]) -> None:
        if self._new_proxies is None:
            from polynix.runner.async_channel import unbounded
            from polynix.runner.proxy import run_proxy_thread

            self._new_proxies, receiver = unbounded()
            run_proxy_thread(receiver)
        self._new_proxies.send((proxy, wake_sources))

    @property
    def pager(self) -> Pager:
        if self._pager is None:
            from polynix.runner.pager import Pager

            self._pager = Pager()
        return self._pager

    def close(self) -> None:
        """End the threads."""
        if self._new_proxies is not None:
            self._new_proxies.close()
        if self._pager is not None:
            self._pager.close()


class ContainerManager(Manager):
    """Serves one container. ``power`` suspends it, None before it has started."""

    def __init__(self, threads: ManagerThreads) -> None:
        self.threads = threads
        self.wake_sources: LockDepMutex[WakeSources] = new_wake_sources()
        self.wake_watchers: list[EventPair] = []
        self.power: ContainerPower | None = None

    async def serve(self, channel: Channel) -> None:
        """Serve one channel of the container."""
        await Server(Manager, self, channel).serve()

    async def suspend_container(self, request: ManagerSuspendContainerRequest) -> ManagerSuspendContainerResponse:
        if self.power is None:
            raise MethodError(SuspendError.SUSPEND_FAILURE)
        return await self.power.suspend(request)

    async def proxy_wake_channel(self, request: ManagerProxyWakeChannelRequest) -> None:
        container, remote, counter, name = request.container_channel, request.remote_channel, request.counter, request.name
        if request.container_job is None or container is None or remote is None or counter is None or name is None:
            return
        from polynix.runner.proxy import ChannelProxy

        self.start_proxy(ChannelProxy(container, remote, counter, name))

    def start_proxy(self, proxy: ChannelProxy) -> None:
        """Have the proxy thread serve ``proxy``, and its messages wake the container."""
        self._add(WakeSource.from_counter(proxy.message_counter.duplicate(), proxy.name))
        self.threads.start_proxy(proxy, self.wake_sources)

    async def add_wake_source(self, request: ManagerAddWakeSourceRequest) -> None:
        if request.container_job is not None and request.name is not None and request.handle is not None and request.signals is not None:
            self._add(WakeSource.from_handle(request.handle, request.name, Signals(request.signals)))

    def _add(self, source: WakeSource) -> None:
        with self.wake_sources.lock() as sources:
            sources[source.handle.koid] = source
        if self.power is not None:
            self.power.sources_changed()

    async def remove_wake_source(self, request: ManagerRemoveWakeSourceRequest) -> None:
        if request.container_job is not None and request.handle is not None:
            with self.wake_sources.lock() as sources:
                sources.pop(request.handle.koid, None)

    async def register_wake_watcher(self, request: ManagerRegisterWakeWatcherRequest) -> None:
        if request.watcher is not None:
            request.watcher.signal_peer(ASLEEP_SIGNAL, AWAKE_SIGNAL)  # that it is closed already ends this connection
            self.wake_watchers.append(request.watcher)

    async def create_pager(self, request: ManagerCreatePagerRequest) -> None:
        self.threads.pager.create(request)

    def close(self) -> None:
        """The container is gone."""
        if self.power is not None:
            self.power.close()
        with self.wake_sources.lock() as sources:
            handles = [source.handle for source in sources.values()]
            sources.clear()
        for handle in (*handles, *self.wake_watchers):
            handle.close()
