"""Counts and tables of suspends: the runner's histogram, the kernel's wakeup sources and events."""

from __future__ import annotations

import time

import pytest
from event_world import Running, new_kernel, settle
from polynix.ipc.objects import Signals
from polynix.kernelproc.power.manager import PowerManager
from polynix.kernelproc.power.suspend_stats import EVENTS, SuspendStats
from polynix.runner.suspend import HISTOGRAM_BUCKETS, SuspendStatistics

MS = 1_000_000


@pytest.mark.parametrize(
    ("duration_ns", "bucket"),
    [(0, 0), (99_999, 0), (100_000, 1), (199_999, 1), (200_000, 2), (299_999, 2), (300_000, 3), (499_999, 3), (500_000, 4), (1 << 62, HISTOGRAM_BUCKETS + 1)],
)
def test_buckets_double(duration_ns: int, bucket: int) -> None:
    statistics = SuspendStatistics()
    statistics.succeeded(duration_ns)
    counts = statistics.inspect()["suspend_duration_boot_ns"]["counts"]
    assert [index for index, count in enumerate(counts) if count] == [bucket]


def test_the_last_events_are_kept() -> None:
    stats = SuspendStats()
    for time_ns in range(EVENTS + 5):
        stats.attempted(time_ns)
    events = stats.inspect()["suspend_events"]
    assert len(events) == EVENTS
    assert (events[0]["time_ns"], events[-1]["time_ns"]) == (5, EVENTS + 4)


def test_reasons() -> None:
    stats = SuspendStats()
    stats.failed(1, 22, "one,two")
    assert stats.last_reason == "Abort: one,two"
    stats.resumed(2, 5 * MS, "door")
    stats.resumed(3, 2 * MS, "")
    assert (stats.last_reason, stats.success_count, stats.fail_count, stats.longest_sleep_ns, stats.last_time_in_sleep_ns) == ("0", 2, 1, 5 * MS, 2 * MS)


def test_the_lock_event_tells_who_is_active() -> None:
    power = PowerManager(new_kernel())
    one, two = power.sources.add("one"), power.sources.add("two")
    assert power.lock_peer.pending & Signals.USER_0
    for source in (one, two):
        source.stay_awake()
        assert power.lock_peer.pending & Signals.EVENT_SIGNALED and not power.lock_peer.pending & Signals.USER_0
    one.relax()
    assert power.lock_peer.pending & Signals.EVENT_SIGNALED
    assert power.kept_awake_by() == ["two"]
    two.remove()
    assert power.lock_peer.pending & Signals.USER_0 and not power.lock_peer.pending & Signals.EVENT_SIGNALED
    assert power.sources.all == {one: None}


def test_what_a_source_counts() -> None:
    kernel = new_kernel()
    sources = PowerManager(kernel).sources
    source = sources.add("name")
    source.stay_awake()
    source.stay_awake()
    time.sleep(0.01)
    source.relax()
    source.relax()
    assert (source.active_count, source.event_count, source.expire_count, source.wakeup_count) == (1, 2, 0, 0)
    assert source.total_ns >= 10 * MS and source.longest_ns == source.total_ns
    source.stay_awake_for(5 * MS)
    while source.active:
        settle(kernel)
    assert (source.active_count, source.expire_count) == (2, 1)
    source.stay_awake_for(5 * MS)
    source.stay_awake()  # without a limit now
    time.sleep(0.02)
    settle(kernel)
    assert source.active and source.expire_count == 1
    row = sources.table().splitlines()[1].split()
    assert row[:5] == ["name", "3", "5", "0", "1"] and len(row) == 10


def test_the_wakeup_count_waits_and_checks() -> None:
    kernel = new_kernel()
    sources = PowerManager(kernel).sources
    source = sources.add("name")
    source.stay_awake()
    counting = Running(kernel, sources.count())
    settle(kernel)
    assert not counting.done
    assert not sources.save_count(0)
    source.relax()
    assert counting.result() == 1
    assert not sources.save_count(0)
    assert sources.save_count(1) and not sources.is_pending()
    source.stay_awake()
    source.relax()
    assert source.wakeup_count == 1
    assert sources.is_pending()
    assert not sources.is_pending()  # once
