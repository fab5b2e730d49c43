"""fuchsia.starnix.runner.Manager: what a container asks of the runner."""

from __future__ import annotations

from enum import IntEnum

from polynix.ipc.bindings import FidlProtocol, Openness, one_way, protocol, two_way
from polynix.ipc.fidl import INT64, UINT32, UINT64, EnumType, HandleType, StringType, member, table
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.objects import Channel, Counter, EventPair, Handle, Job, Signals, Vmo

PROXY_NAME_LEN = 1024

AWAKE_SIGNAL = Signals.USER_0
ASLEEP_SIGNAL = Signals.USER_1


class SuspendError(IntEnum):
    WAKE_LOCKS_EXIST = 1
    SUSPEND_FAILURE = 2


@table
@dataclass(kw_only=True)
class ManagerSuspendContainerRequest:
    container_job: Job | None = member(1, HandleType(Job))
    wake_locks: EventPair | None = member(2, HandleType(EventPair))
    suspend_debounce_duration: int | None = member(3, INT64)


@table
@dataclass(kw_only=True)
class ManagerSuspendContainerResponse:
    suspend_time: int | None = member(1, INT64)
    """Nanoseconds of CLOCK_BOOTTIME that the container slept."""
    resume_reason: str | None = member(2, StringType(1024))


@table
@dataclass(kw_only=True)
class ManagerProxyWakeChannelRequest:
    container_job: Job | None = member(1, HandleType(Job))
    container_channel: Channel | None = member(2, HandleType(Channel))
    remote_channel: Channel | None = member(3, HandleType(Channel))
    name: str | None = member(4, StringType(PROXY_NAME_LEN))
    counter: Counter | None = member(5, HandleType(Counter))


@table
@dataclass(kw_only=True)
class ManagerAddWakeSourceRequest:
    container_job: Job | None = member(1, HandleType(Job))
    name: str | None = member(2, StringType(PROXY_NAME_LEN))
    handle: Handle | None = member(3, HandleType(Handle))
    signals: int | None = member(4, UINT32)


@table
@dataclass(kw_only=True)
class ManagerRemoveWakeSourceRequest:
    container_job: Job | None = member(1, HandleType(Job))
    handle: Handle | None = member(2, HandleType(Handle))


@table
@dataclass(kw_only=True)
class ManagerRegisterWakeWatcherRequest:
    watcher: EventPair | None = member(1, HandleType(EventPair))


@table
@dataclass(kw_only=True)
class ManagerCreatePagerRequest:
    backing_vmo: Vmo | None = member(1, HandleType(Vmo))
    block_size: int | None = member(2, UINT64)
    pager: Channel | None = member(3, HandleType(Channel))
    """The server's end of a Pager."""


@protocol("fuchsia.starnix.runner.Manager", openness=Openness.OPEN)
class Manager(FidlProtocol):
    """Requests with a missing member are ignored."""

    @two_way(error=EnumType(SuspendError))
    async def suspend_container(self, request: ManagerSuspendContainerRequest) -> ManagerSuspendContainerResponse:
        """Suspend all processes of the container until a wake source wakes it."""
        raise NotImplementedError

    @one_way()
    async def proxy_wake_channel(self, request: ManagerProxyWakeChannelRequest) -> None:
        """Proxy a channel, and let its messages wake the container."""
        raise NotImplementedError

    @one_way()
    async def add_wake_source(self, request: ManagerAddWakeSourceRequest) -> None:
        """Let the signals of an object wake the container."""
        raise NotImplementedError

    @one_way()
    async def remove_wake_source(self, request: ManagerRemoveWakeSourceRequest) -> None:
        raise NotImplementedError

    @two_way()
    async def register_wake_watcher(self, request: ManagerRegisterWakeWatcherRequest) -> None:
        """Tell the watcher's peer when the container is AWAKE or ASLEEP."""
        raise NotImplementedError

    @one_way()
    async def create_pager(self, request: ManagerCreatePagerRequest) -> None:
        """Serve a Pager for files whose blocks lie in ``backing_vmo``."""
        raise NotImplementedError
