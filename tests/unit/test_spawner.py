"""Restricted processes made ahead of need, by a thread of the monitor's."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from importlib import resources

import pytest
from polynix.addrspace._restricted import READY, Monitor
from polynix.addrspace.region import RegionFactory
from polynix.addrspace.stub_pool import StubPool

SECOND = 1_000_000_000
STUB = str(resources.files("polynix.addrspace") / "restricted" / "stub")


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    nobody = 65534 if os.geteuid() == 0 else -1
    monitor = Monitor(STUB, nobody, nobody)
    yield monitor
    monitor.close()


def wait_for(monitor: Monitor, count: int) -> list[object]:
    found: list[object] = []
    while len(found) < count:
        assert select.select([monitor.spawned_fd], [], [], 5)[0]
        found += monitor.spawned()
    return found


def test_orders_come_back_in_order(monitor: Monitor) -> None:
    regions = [os.memfd_create("guest") for _ in range(3)]
    numbers = [monitor.order(region) for region in regions]
    for region in regions:
        os.close(region)  # the order has its own descriptor
    found = wait_for(monitor, 3)
    assert [number for number, _ in found] == numbers
    assert len({stub.pid for _, stub in found}) == 3
    ready: list[int] = []
    while len(ready) < 3:
        slots, _ = monitor.wait(5 * SECOND, 0)
        assert slots
        ready += [slot.reason for slot in slots]
    assert ready == [READY] * 3
    for _, stub in found:
        stub.close()


def test_a_failed_order_is_none() -> None:
    monitor = Monitor(STUB, 0x7FFFFFFF if os.geteuid() == 0 else -1, -1)
    os.set_inheritable(0, os.get_inheritable(0))
    region = os.open("/dev/null", os.O_RDONLY)  # can't be a region, but the process starts
    monitor.order(region)
    os.close(region)
    assert len(wait_for(monitor, 1)) == 1
    monitor.close()


def test_what_was_not_collected_dies_with_the_monitor() -> None:
    monitor = Monitor(STUB, -1, -1)
    region = os.memfd_create("guest")
    for _ in range(5):
        monitor.order(region)
    before = set(os.listdir("/proc/self/fd"))
    monitor.close()
    os.close(region)
    assert len(set(os.listdir("/proc/self/fd"))) < len(before)
    with pytest.raises(RuntimeError):
        monitor.order(0)


def test_the_pool_keeps_its_level(monitor: Monitor) -> None:
    pool = StubPool(monitor, RegionFactory(force_memfd=True), target=2)
    pool.refill()
    assert len(pool.ordered) == 2
    taken = [pool.take() for _ in range(3)]
    assert len(pool.spares) + len(pool.ordered) == 2
    assert len({mm.stub.pid for mm in taken}) == 3
    while pool.ordered:
        assert select.select([monitor.spawned_fd], [], [], 5)[0]
        pool.collect()
    assert len(pool.spares) == 2
    pool.close()
    for mm in taken:
        mm.destroy()
        mm.stub.close()
