"""Wakeup sources: what keeps the container awake, and for how long it has (Linux's ``struct wakeup_source``, ``drivers/base/power/wakeup.c``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.engine import Engine, Timer

MILLISECOND = 1_000_000
HEADER = "name\t\tactive_count\tevent_count\twakeup_count\texpire_count\tactive_since\ttotal_time\tmax_time\tlast_change\tprevent_suspend_time\n"


class WakeupSource:
    """One reason to stay awake, by name. Times are of CLOCK_MONOTONIC, in nanoseconds."""

    def __init__(self, sources: WakeupSources, name: str) -> None:
        self.sources = sources
        self.name = name
        self.active = False
        self.active_count = 0
        self.event_count = 0
        self.wakeup_count = 0  # events that came while somebody was about to suspend
        self.expire_count = 0
        self.total_ns = 0
        self.longest_ns = 0
        self.changed_ns = 0
        self._expiry: Timer | None = None

    def stay_awake(self) -> None:
        """An event is being handled: no suspend until :meth:`relax`."""
        self._cancel_expiry()
        self._report()

    def stay_awake_for(self, duration_ns: int) -> None:
        """As :meth:`stay_awake`, but it ends by itself."""
        self._cancel_expiry()
        self._report()
        self._expiry = self.sources.engine.call_later(duration_ns, self._expire)

    def relax(self) -> None:
        """The event has been handled."""
        self._cancel_expiry()
        if self.active:
            self.active = False
            now = self.sources.engine.clock.monotonic_ns()
            duration = now - self.changed_ns
            self.total_ns += duration
            self.longest_ns = max(self.longest_ns, duration)
            self.changed_ns = now
            self.sources.relaxed(self)

    def remove(self) -> None:
        """It is never heard of again."""
        self.relax()
        self.sources.all.pop(self, None)

    def _report(self) -> None:
        self.event_count += 1
        if self.sources.checking:
            self.wakeup_count += 1
        if not self.active:
            self.active = True
            self.active_count += 1
            self.changed_ns = self.sources.engine.clock.monotonic_ns()
            self.sources.activated(self)

    def _expire(self) -> None:
        self._expiry = None
        if self.active:
            self.expire_count += 1
            self.relax()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def line(self) -> str:
        """The row of /sys/kernel/debug/wakeup_sources, in milliseconds."""
        since = self.sources.engine.clock.monotonic_ns() - self.changed_ns if self.active else 0
        times = [value // MILLISECOND for value in (since, self.total_ns + since, max(self.longest_ns, since), self.changed_ns, 0)]
        return (
            f"{self.name:<12}\t{self.active_count}\t\t{self.event_count}\t\t{self.wakeup_count}\t\t{self.expire_count}\t\t"
            + "\t\t".join(map(str, times))
            + "\n"
        )


class WakeupSources:
    """All of one kernel, and the count of events that a suspend must not overlook (/sys/power/wakeup_count)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.all: dict[WakeupSource, None] = {}
        self.relaxed_events = 0
        self.checking = False  # a suspend is to fail if an event comes from the saved count on
        self.queue = WaitQueue()  # notified when the last active one relaxes
        self.on_change: Callable[[WakeupSource], None] = lambda _source: None
        self._saved = 0
        self._active = 0

    def add(self, name: str) -> WakeupSource:
        """A new one."""
        source = WakeupSource(self, name)
        self.all[source] = None
        return source

    @property
    def any_active(self) -> bool:
        return self._active > 0

    @property
    def active(self) -> list[WakeupSource]:
        return [source for source in self.all if source.active]

    def activated(self, source: WakeupSource) -> None:
        self._active += 1
        self.on_change(source)

    def relaxed(self, source: WakeupSource) -> None:
        self.relaxed_events += 1
        self._active -= 1
        if not self._active:
            self.queue.notify()
        self.on_change(source)

    async def count(self) -> int:
        """Events so far, once none is being handled. Errors: Interrupted."""
        while self._active:
            await self.queue.wait()
        return self.relaxed_events

    def save_count(self, count: int) -> bool:
        """Let the next suspend fail if events come from now on; False if there were any since :meth:`count`."""
        self.checking = count == self.relaxed_events and not self._active
        self._saved = count
        return self.checking

    def is_pending(self) -> bool:
        """Whether an event came since the count was saved; the check is over then."""
        pending = self.checking and (self.relaxed_events != self._saved or self._active > 0)
        self.checking = self.checking and not pending
        return pending

    def table(self) -> str:
        """/sys/kernel/debug/wakeup_sources"""
        return HEADER + "".join(source.line() for source in self.all)
