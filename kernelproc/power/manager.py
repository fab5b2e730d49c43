"""The power manager of a container: who keeps it awake, how it falls asleep, what woke it (Starnix's ``core/power/manager.rs``).

The order of a suspend that a guest asks for, by writing to /sys/power/state: the attempt is recorded; an active wakeup source makes it fail with
EINVAL; then the :class:`Suspender` is asked, by way of the runner's Manager, which asks back for ``fall_asleep``, decides how long, and ends with
``wake_up``. The writer is a guest thread like the others: its write returns after the resume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from polynix.ipc.event import EventPair
from polynix.ipc.signals import Signals
from polynix.ipc.status import ZxStatus
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.power.suspend_stats import SuspendStats
from polynix.kernelproc.power.wakeup_source import WakeupSource, WakeupSources
from polynix.kernelproc.uapi.errno import EBUSY, EINVAL

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.power.hold import Hold

log = logging.getLogger(__name__)

ALARM = "[alarm]"
WORK = "[work]"
TIMEOUT_REASON = "starnix-container-timeout"


class Slept(NamedTuple):
    """``time_ns`` of CLOCK_BOOTTIME; ``reason`` names what ended it, separated by commas."""

    time_ns: int
    reason: str


class SuspendRefused(Exception):
    """The container can't be suspended now; the text names why."""


class Suspender(Protocol):
    """Who suspends and resumes the container on the kernel's behalf."""

    async def suspend(self, wake_locks: EventPair) -> Slept:
        """``wake_locks`` shows EVENT_SIGNALED while the kernel must stay awake. Errors: SuspendRefused."""


class PowerManager:
    """One container's. ``suspender`` comes with the runner; without one nobody can ask for a suspend."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.sources = WakeupSources(kernel.engine)
        self.sources.on_change = self._source_changed
        self.stats = SuspendStats()
        self.suspender: Suspender | None = None
        self.wake_locks: dict[str, WakeupSource] = {}  # /sys/power/wake_lock, also those that are not held now
        self.wakes_for_work = False  # of itself, asleep only while no guest thread has anything to do
        kernel.holds.on_kept = self._work_came
        self.woken_by: list[str] = []  # since it fell asleep
        self.on_wake: Callable[[], None] = lambda: None
        self.on_asleep: Callable[[], None] = lambda: None
        self._hold: Hold | None = None
        self._suspending = False
        self._lock_event, self.lock_peer = EventPair.create()
        self._tell_locks()
        kernel.engine.on_alarm = lambda: self.wake(ALARM)

    # -- who keeps it awake ---------------------------------------------------------------------------------------------------------

    def kept_awake_by(self) -> list[str]:
        """Names of the active wakeup sources."""
        return [source.name for source in self.sources.active]

    def _source_changed(self, source: WakeupSource) -> None:
        self._tell_locks()
        if source.active and self.asleep:
            self.wake(source.name)

    def _tell_locks(self) -> None:
        """The peer sees EVENT_SIGNALED while a source is active, USER_0 otherwise."""
        clear, set_ = (Signals.USER_0, Signals.EVENT_SIGNALED) if self.sources.any_active else (Signals.EVENT_SIGNALED, Signals.USER_0)
        try:
            self._lock_event.signal_peer(clear, set_)
        except ZxStatus as error:
            log.debug("nobody looks at the wake locks: %s", error)

    # -- falling asleep and waking up -----------------------------------------------------------------------------------------------

    @property
    def asleep(self) -> bool:
        """Every guest thread is held, and CLOCK_MONOTONIC stands still."""
        return self.kernel.clock.stopped

    @property
    def sleeps_for_others(self) -> bool:
        """Asleep because somebody outside wants that, for as long as he does; not its own guests, nor for want of work."""
        return self._hold is not None and not self._suspending

    async def fall_asleep(self) -> None:
        """Hold every guest thread, then stop the clock."""
        hold = self._hold
        if hold is None:
            hold = self._hold = self.kernel.holds.hold()
            self.woken_by = []
            self.on_asleep()
        await hold.complete()
        if self._hold is hold:
            self.kernel.clock.stop()
            if self.kernel.holds.keeps_work:
                self._work_came()

    def _work_came(self) -> None:
        if self.wakes_for_work and self.asleep and not self.sleeps_for_others:
            self.wake(WORK)

    def wake_up(self, stopped_since_ns: int | None = None) -> None:
        """Let time and guests go on. Being awake is no error. The host has stopped all guests at ``stopped_since_ns`` of its CLOCK_MONOTONIC, if at all."""
        hold, self._hold = self._hold, None
        if stopped_since_ns is not None:
            self.kernel.clock.stop(stopped_since_ns)
        self.kernel.clock.go_on()
        if hold is not None:
            hold.release()

    def wake(self, reason: str) -> None:
        """Something happened that a sleeping container is to be woken for; whoever put it to sleep will."""
        if reason not in self.woken_by:
            self.woken_by.append(reason)
            self.on_wake()

    def inspect(self) -> dict[str, Any]:
        """For ``polynix inspect``: the container's part of Starnix's ``wakeup_sources`` node."""
        sources = {
            source.name: {
                "active": source.active,
                "active_count": source.active_count,
                "event_count": source.event_count,
                "wakeup_count": source.wakeup_count,
                "expire_count": source.expire_count,
                "total_time_ns": source.total_ns,
                "max_time_ns": source.longest_ns,
                "last_change_ns": source.changed_ns,
            }
            for source in self.sources.all
        }
        return {"asleep": self.asleep, "wakeup_sources": sources, **self.stats.inspect()}

    # -- on a guest's behalf --------------------------------------------------------------------------------------------------------

    async def suspend(self) -> None:
        """Sleep, and return after the resume. Errors: EBUSY when it is going on already, or an event came since wakeup_count was written; EINVAL for any other
        reason.
        """
        if self._suspending:
            raise Errno(EBUSY)
        clock, stats = self.kernel.clock, self.stats
        self._suspending = True
        try:
            stats.attempted(clock.boottime_ns())
            pending, awake = self.sources.is_pending(), self.kept_awake_by()
            if pending or awake:
                stats.failed(clock.boottime_ns(), EBUSY if pending else EINVAL, ",".join(awake))
                raise Errno(EBUSY if pending else EINVAL)
            try:
                if self.suspender is None:
                    raise SuspendRefused("no runner")
                slept = await self.suspender.suspend(self.lock_peer)
            except SuspendRefused as refused:
                stats.failed(clock.boottime_ns(), EINVAL, str(refused))
                raise Errno(EINVAL) from None
            stats.resumed(clock.boottime_ns(), slept.time_ns, slept.reason)
        finally:
            self._suspending = False
