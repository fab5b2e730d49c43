"""The power manager's two channels to the runner: it serves ``Power``, and asks ``Manager`` for what a guest's suspend needs."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

from polynix.ipc.bindings import MethodError, UnknownMethodError
from polynix.ipc.event import Event
from polynix.ipc.fidl import FidlError
from polynix.ipc.protocols.manager import (
    Manager,
    ManagerAddWakeSourceRequest,
    ManagerSuspendContainerRequest,
    ManagerSuspendContainerResponse,
    SuspendError,
)
from polynix.ipc.protocols.power import Power, PowerInspectResponse, PowerWakeUpRequest
from polynix.ipc.signals import Signals
from polynix.ipc.status import ZxStatus
from polynix.kernelproc.fidl_loop import EngineClient, EngineServer
from polynix.kernelproc.power.manager import Slept, SuspendRefused
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from polynix.ipc.channel import Channel
    from polynix.ipc.event import EventPair
    from polynix.ipc.job import Job
    from polynix.kernelproc.power.manager import PowerManager

log = logging.getLogger(__name__)

KERNEL_WAKE_SOURCE = "kernel"  # alarms, EPOLLWAKEUP: the kernel knows their names


class PowerServer(Power):
    """Serves one client, as a rule the runner."""

    def __init__(self, power: PowerManager) -> None:
        self.power = power
        self.put_to_sleep = False

    async def fall_asleep(self) -> None:
        self.put_to_sleep = True
        await self.power.fall_asleep()

    async def wake_up(self, request: PowerWakeUpRequest) -> None:
        self.put_to_sleep = False
        in_time = request.expires_ns is None or time.clock_gettime_ns(time.CLOCK_MONOTONIC) < request.expires_ns
        self.power.wake_up(request.stopped_since_ns if in_time else None)

    def closed(self) -> None:
        """A client that goes away leaves nobody asleep."""
        if self.put_to_sleep:
            self.power.wake_up()

    async def inspect(self) -> PowerInspectResponse:
        return PowerInspectResponse(json=json.dumps(self.power.inspect()))


def serve_power(power: PowerManager, channel: Channel) -> None:
    """Serve one more client."""
    server = PowerServer(power)
    EngineServer(power.kernel.engine, Power, server, channel, server.closed)


class RunnerSuspender:
    """Lets the runner's Manager suspend the container: wake leases, wake sources and watchers are there. It is connected with when it is first needed."""

    def __init__(self, power: PowerManager, connect: Callable[[], Channel], job: Job) -> None:
        """``connect`` gives a channel to the Manager; ``job`` stands for the container, and stays the caller's."""
        self.power = power
        self.job = job
        self._connect = connect
        self._manager: EngineClient | None = None
        self._event = Event.create()
        power.on_asleep = self._fall_asleep
        power.on_wake = self._wake
        power.suspender = self

    @property
    def manager(self) -> EngineClient:
        """Errors: ZxStatus."""
        if self._manager is None:
            self._manager = EngineClient(self.power.kernel.engine, Manager, self._connect())
            self._manager.send(
                Manager.add_wake_source,
                ManagerAddWakeSourceRequest(
                    container_job=self.job.duplicate(), name=KERNEL_WAKE_SOURCE, handle=self._event.duplicate(), signals=int(Signals.EVENT_SIGNALED)
                ),
            )
        return self._manager

    def _fall_asleep(self) -> None:
        self._event.signal(Signals.EVENT_SIGNALED, Signals.NONE)
        try:
            assert self.manager
        except ZxStatus as error:
            log.warning("the runner will not hear of alarms: %s", error)

    def _wake(self) -> None:
        self._event.signal(Signals.NONE, Signals.EVENT_SIGNALED)

    async def suspend(self, wake_locks: EventPair) -> Slept:
        """The call goes on whatever becomes of the guest that asked: signals don't end a suspend."""
        outcome: list[Slept | SuspendRefused] = []
        done = WaitQueue()

        async def ask() -> None:
            try:
                outcome.append(await self._ask(wake_locks))
            except SuspendRefused as refused:
                outcome.append(refused)
            done.notify()

        self.power.kernel.kthreads.spawn(ask(), "suspend")
        while not outcome:
            await done.wait(interruptible=False)
        if isinstance(outcome[0], SuspendRefused):
            raise outcome[0]
        return outcome[0]

    async def _ask(self, wake_locks: EventPair) -> Slept:
        request = ManagerSuspendContainerRequest(container_job=self.job.duplicate(), wake_locks=wake_locks.duplicate())
        try:
            response: ManagerSuspendContainerResponse = await self.manager.call(Manager.suspend_container, request)
        except MethodError as error:
            names = self.power.kept_awake_by() if error.error == SuspendError.WAKE_LOCKS_EXIST else []
            raise SuspendRefused(",".join(names) or str(error)) from None
        except (UnknownMethodError, FidlError, ZxStatus) as error:
            log.warning("the runner does not suspend the container: %s", error)
            raise SuspendRefused(str(error)) from None
        names = [name for name in (response.resume_reason or "").split(",") if name]
        if KERNEL_WAKE_SOURCE in names:
            place = names.index(KERNEL_WAKE_SOURCE)
            names[place : place + 1] = self.power.woken_by
        return Slept(response.suspend_time or 0, ",".join(names))
