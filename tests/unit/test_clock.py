"""The kernel's clock stops with the container, and timers with their clocks."""

from __future__ import annotations

import time
from functools import partial

from event_world import PollMonitor
from polynix.kernelproc.clock import TICK_NS, AlarmDeadline, BoottimeDeadline, HostClock
from polynix.kernelproc.engine import Engine
from polynix.kernelproc.task.clocks import deadline_of, read_clock
from polynix.kernelproc.uapi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
)
from task_world import TaskWorld

MS = 1_000_000


def test_monotonic_time_stands_still_and_goes_on_where_it_stopped() -> None:
    published: list[int] = []
    clock = HostClock(published.append)
    clock.stop()
    stopped, boottime = clock.monotonic_ns(), clock.boottime_ns()
    time.sleep(0.02)
    clock.stop()
    assert clock.stopped
    assert clock.monotonic_ns() == stopped
    assert clock.boottime_ns() - boottime >= 20 * MS
    assert published == []
    clock.go_on()
    assert not clock.stopped
    assert published == [clock.suspended_ns]
    lag = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - clock.monotonic_ns()
    assert 0 <= clock.suspended_ns - lag < 1 * MS or 0 <= lag - clock.suspended_ns < 1 * MS
    assert clock.suspended_ns >= 20 * MS - TICK_NS
    assert clock.monotonic_ns() >= stopped + TICK_NS
    clock.go_on()
    assert len(published) == 1


class World:
    """An engine of its own, whose timers write down their names."""

    def __init__(self) -> None:
        self.clock = HostClock()
        self.engine = Engine(PollMonitor(), self.clock)  # type: ignore[arg-type]
        self.fired: list[str] = []

    def at(self, deadline_ns: int, name: str) -> None:
        self.engine.call_at(deadline_ns, self.fired.append, name)

    def look(self) -> list[str]:
        """What fires by now."""
        self.engine.call_from_thread(lambda: None)
        self.engine.turn()
        return self.fired


def test_no_timer_comes_due_while_the_clock_is_stopped() -> None:
    world = World()
    world.at(world.clock.monotonic_ns() + 500 * MS, "monotonic")
    world.at(BoottimeDeadline(world.clock.boottime_ns() + 5 * MS), "boottime")
    world.clock.stop()
    time.sleep(0.6)
    assert world.look() == []
    world.clock.go_on()
    assert world.look() == ["boottime"]
    while len(world.look()) < 2:
        time.sleep(0.001)
    assert world.clock.until(world.clock.monotonic_ns()) <= 0


def test_a_stopped_engine_sleeps_however_near_a_timer_is() -> None:
    world = World()
    world.at(world.clock.monotonic_ns() + MS, "monotonic")
    world.clock.stop()
    timeouts: list[int] = []
    wait = world.engine.monitor.wait
    world.engine.monitor.wait = lambda timeout, spin: (timeouts.append(timeout), wait(0, spin))[1]  # type: ignore[method-assign]
    world.engine.turn()
    assert timeouts[-1] == -1
    world.engine.call_soon(world.fired.append, "soon")
    world.engine.turn()
    assert world.fired == ["soon"]


def test_an_alarm_is_told_while_the_clock_is_stopped() -> None:
    world = World()
    alarms: list[int] = []

    def on_alarm() -> None:
        alarms.append(1)
        world.clock.go_on()

    world.engine.on_alarm = on_alarm
    world.at(AlarmDeadline(world.clock.boottime_ns() + 10 * MS), "alarm")
    world.clock.stop()
    while not alarms:
        world.look()
    assert world.look() == ["alarm"]


def test_what_a_deadline_becomes() -> None:
    clock = HostClock()
    clock.stop()
    time.sleep(0.01)
    clock.go_on()
    for which, absolute, kind in (
        (CLOCK_MONOTONIC, False, int),
        (CLOCK_MONOTONIC, True, int),
        (CLOCK_REALTIME, False, int),
        (CLOCK_REALTIME, True, BoottimeDeadline),
        (CLOCK_BOOTTIME, False, BoottimeDeadline),
        (CLOCK_BOOTTIME, True, BoottimeDeadline),
        (CLOCK_REALTIME_ALARM, False, AlarmDeadline),
        (CLOCK_BOOTTIME_ALARM, True, AlarmDeadline),
    ):
        reading = {CLOCK_MONOTONIC: clock.monotonic_ns, CLOCK_REALTIME: clock.realtime_ns, CLOCK_BOOTTIME: clock.boottime_ns}[
            {CLOCK_REALTIME_ALARM: CLOCK_REALTIME, CLOCK_BOOTTIME_ALARM: CLOCK_BOOTTIME}.get(which, which)
        ]()
        deadline = deadline_of(clock, which, 1000 * MS + (reading if absolute else 0), absolute)
        assert type(deadline) is kind, which
        assert 900 * MS < clock.until(deadline) <= 1000 * MS, which


def test_every_stopping_clock_lags_alike() -> None:
    world = TaskWorld()
    clock = world.kernel.clock
    assert isinstance(clock, HostClock)
    read = partial(read_clock, world.task)
    before = {which: read(which) for which in (CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME)}
    clock.stop()
    time.sleep(0.05)
    clock.go_on()
    after = {which: read(which) for which in before}
    assert after[CLOCK_BOOTTIME] - before[CLOCK_BOOTTIME] >= 50 * MS
    for which in (CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW):
        assert after[which] - before[which] < after[CLOCK_BOOTTIME] - before[CLOCK_BOOTTIME] - 40 * MS
