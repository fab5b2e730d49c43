"""Suspending containers: hold their processes, tell the watchers, wait for a wake source, and let them go on.

The order is Starnix's (``kernel_manager/suspend.rs``). Unlike there, each container has wake sources, watchers and a queue of its own, so several sleep
apart, and nothing else waits meanwhile; and a source that is added during the wait counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from polynix.ipc.bindings import MethodError
from polynix.ipc.objects import Event, EventPair, Job, Signals, Status, ZxStatus
from polynix.ipc.protocols.manager import (
    ASLEEP_SIGNAL,
    AWAKE_SIGNAL,
    ManagerSuspendContainerRequest,
    ManagerSuspendContainerResponse,
    SuspendError,
)
from polynix.runner.process_hold import HoldError
from polynix.runner.trace import trace_duration, trace_instant
from polynix.runner.wake_sources import WakeSource, WakeSources

if TYPE_CHECKING:
    from polynix.runner.lockdep import LockDepMutex

log = logging.getLogger(__name__)

CATEGORY = "power"
LONGEST_WAIT_SECONDS = 9.0
TIMEOUT_REASON = "starnix-container-timeout"
RESUME_REASON = "resume"  # somebody asked for it
HISTOGRAM_FLOOR_NS = HISTOGRAM_STEP_NS = 100_000
HISTOGRAM_BUCKETS = 32


class Processes(Protocol):
    """The processes of a container, as :class:`~polynix.runner.process_hold.ProcessHold` has them."""

    async def hold(self) -> None:
        """Errors: HoldError."""

    async def release(self) -> None: ...


class Lease(Protocol):
    """What a container has while it may run."""

    def acquire(self) -> None: ...
    def drop(self) -> None: ...


@dataclass
class SuspendStatistics:
    """Of one container, for ``inspect``; the histogram is exponential: bucket n ends at floor + step * 2^n."""

    attempts: int = 0
    successes: int = 0
    failures: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * (HISTOGRAM_BUCKETS + 2))

    def succeeded(self, duration_ns: int) -> None:
        self.successes += 1
        bucket = 0 if duration_ns < HISTOGRAM_FLOOR_NS else ((duration_ns - HISTOGRAM_FLOOR_NS) // HISTOGRAM_STEP_NS).bit_length() + 1
        self.durations[min(bucket, HISTOGRAM_BUCKETS + 1)] += 1

    def inspect(self) -> dict[str, Any]:
        """Starnix's Inspect node ``suspend``."""
        return {
            "suspend_attempts": self.attempts,
            "suspend_successes": self.successes,
            "suspend_failures": self.failures,
            "suspend_duration_boot_ns": {
                "floor": HISTOGRAM_FLOOR_NS,
                "initial_step": HISTOGRAM_STEP_NS,
                "step_multiplier": 2,
                "counts": list(self.durations),
            },
        }


class SuspendContext:
    """What the suspends of one container need. ``job``, the wake sources and the watchers stay their owners'."""

    def __init__(
        self, name: str, job: Job, processes: Processes, lease: Lease, wake_sources: LockDepMutex[WakeSources], wake_watchers: list[EventPair]
    ) -> None:
        self.name = name
        self.job = job
        self.processes = processes
        self.lease = lease
        self.wake_sources = wake_sources
        self.wake_watchers = wake_watchers
        self.statistics = SuspendStatistics()
        self.fell_asleep = asyncio.Event()
        self._resume = Event.create()
        self._turn = asyncio.Lock()  # first come, first served
        self._sources_changed = asyncio.Event()
        self._ended = asyncio.Event()  # the last suspend has

    # -- who asks ----------------------------------------------------------------------------------------------------------------

    async def suspend_container(self, request: ManagerSuspendContainerRequest) -> ManagerSuspendContainerResponse:
        """Manager.SuspendContainer: at most nine seconds, and not at all without a wake source. Errors: MethodError of SuspendError."""
        try:
            if request.container_job is None or request.container_job.koid != self.job.koid:
                self.statistics.attempts += 1
                self.statistics.failures += 1
                raise MethodError(SuspendError.SUSPEND_FAILURE)
            return await self._suspend(request.wake_locks, LONGEST_WAIT_SECONDS, wait_without_sources=False)
        finally:
            for handle in (request.container_job, request.wake_locks):
                if handle is not None:
                    handle.close()

    async def suspend_until_woken(self) -> ManagerSuspendContainerResponse:
        """On behalf of a user: whatever the container's own wake locks say, until a wake source or :meth:`resume`. Errors: MethodError of SuspendError."""
        return await self._suspend(None, None, wait_without_sources=True)

    @property
    def asleep(self) -> bool:
        """Its processes are held, and it waits for a wake source."""
        return self.fell_asleep.is_set()

    async def resume(self) -> None:
        """Wake the container if it sleeps, or is about to; returns once its processes go on."""
        if self._turn.locked():
            self._resume.signal(Signals.NONE, Signals.EVENT_SIGNALED)
            await self._ended.wait()

    def sources_changed(self) -> None:
        """A wake source was added."""
        self._sources_changed.set()

    def close(self) -> None:
        """The container is gone: whoever waits for it to wake gets SUSPEND_FAILURE."""
        self._resume.close()

    # -- one suspend -------------------------------------------------------------------------------------------------------------

    async def _suspend(self, wake_locks: EventPair | None, longest_seconds: float | None, *, wait_without_sources: bool) -> ManagerSuspendContainerResponse:
        async with self._turn:
            self.statistics.attempts += 1
            self._ended.clear()
            try:
                with trace_duration(CATEGORY, "starnix-runner:suspending-container", self.name):
                    response = await self._suspend_in_turn(wake_locks, longest_seconds, wait_without_sources)
            except BaseException as error:
                self.statistics.failures += 1
                if isinstance(error, (HoldError, ZxStatus)):
                    log.warning("container %s cannot be suspended: %s", self.name, error)
                    trace_instant(CATEGORY, "starnix-runner:suspend-failed-actual", self.name)
                    raise MethodError(SuspendError.SUSPEND_FAILURE) from error
                raise
            finally:
                self._ended.set()
            self.statistics.succeeded(response.suspend_time or 0)
            return response

    async def _suspend_in_turn(
        self, wake_locks: EventPair | None, longest_seconds: float | None, wait_without_sources: bool
    ) -> ManagerSuspendContainerResponse:
        await self.processes.hold()
        try:
            start_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if wake_locks is not None and wake_locks.pending & Signals.EVENT_SIGNALED:
                trace_instant(CATEGORY, "starnix-runner:suspend-failed-with-wake-locks", self.name)
                raise MethodError(SuspendError.WAKE_LOCKS_EXIST)
            self._tell_watchers(AWAKE_SIGNAL, ASLEEP_SIGNAL)
            self.fell_asleep.set()
            trace_instant(CATEGORY, "starnix-runner:drop-application-activity-lease", self.name)
            self.lease.drop()
            try:
                with trace_duration(CATEGORY, "starnix-runner:waiting-on-container-wake", self.name):
                    reason = await self._wait_for_wake(longest_seconds, wait_without_sources)
            finally:
                trace_instant(CATEGORY, "starnix-runner:acquire-application-activity-lease", self.name)
                self.lease.acquire()
                self.fell_asleep.clear()
                self._tell_watchers(ASLEEP_SIGNAL, AWAKE_SIGNAL)
            return ManagerSuspendContainerResponse(suspend_time=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - start_ns, resume_reason=reason)
        finally:
            await self.processes.release()
            if self._resume.is_valid:
                self._resume.signal(Signals.EVENT_SIGNALED, Signals.NONE)

    def _tell_watchers(self, clear: Signals, set_: Signals) -> None:
        for watcher in list(self.wake_watchers):
            try:
                watcher.signal_peer(clear, set_)
            except ZxStatus as error:
                if error.status == Status.PEER_CLOSED:
                    self.wake_watchers.remove(watcher)
                    watcher.close()
                else:
                    log.warning("a wake watcher of container %s: %s", self.name, error)

    async def _wait_for_wake(self, longest_seconds: float | None, wait_without_sources: bool) -> str | None:
        """Until a source is signalled; returns the names of all that are, None if there was nothing to wait for.

        Errors: ZxStatus CANCELED, the container is gone.
        """
        deadline = None if longest_seconds is None else asyncio.get_running_loop().time() + longest_seconds
        resume = WakeSource.from_handle(self._resume, RESUME_REASON, Signals.EVENT_SIGNALED)
        while True:
            self._sources_changed.clear()
            with self._sources() as known:
                sources = [*known.values(), resume]
            if len(sources) == 1 and not wait_without_sources:
                return None
            names = [source.name for source in sources if source.handle.is_valid and source.handle.pending & source.signals]
            if names:
                return ",".join(names)
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                return TIMEOUT_REASON
            await self._wait_for_one_of(sources, deadline)

    async def _wait_for_one_of(self, sources: list[WakeSource], deadline: float | None) -> None:
        """Until one is signalled or closed, the set has changed, or the deadline."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(source.handle.on_signals(source.signals)) for source in sources if source.handle.is_valid]
        waits.append(asyncio.ensure_future(self._sources_changed.wait()))
        try:
            left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if not self._resume.is_valid:
            raise ZxStatus(Status.CANCELED, "the container is gone")

    def _sources(self) -> Any:
        return self.wake_sources.lock()
