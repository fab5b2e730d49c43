"""Guests of all containers together leave the host some memory, whatever each may have by itself."""

from __future__ import annotations

import pytest
from polynix.addrspace.host_memory import HostMemory
from polynix.kernelproc.task.out_of_memory import ALWAYS_SHARE, RESERVE_SHARE, SLACK, bound_on_host

TOTAL = 24 << 30
RESERVE = TOTAL // RESERVE_SHARE


def test_a_host_with_memory_bounds_nobody() -> None:
    assert bound_on_host(HostMemory(TOTAL, TOTAL), 1 << 30, TOTAL // 2) > TOTAL // 3


@pytest.mark.parametrize("fillers", [1, 2, 10])
def test_fillers_stop_before_the_host_is_full(fillers: int) -> None:
    """Each takes all that it is given, between its own looks and the next one's."""
    used, bounds = [0] * fillers, [TOTAL // 2] * fillers
    for _ in range(1000):
        for number in range(fillers):
            host = HostMemory(TOTAL, TOTAL - sum(used))
            used[number] = bounds[number] = min(TOTAL // 2, bound_on_host(host, used[number], bounds[number]))
    assert TOTAL - sum(used) > RESERVE // 2
    assert TOTAL - sum(used) < 2 * RESERVE or used == [TOTAL // 2]


def test_two_looks_at_once_are_not_given_the_same_memory() -> None:
    host = HostMemory(TOTAL, TOTAL // 2)
    assert 2 * bound_on_host(host, 0, TOTAL // 2) <= host.available - RESERVE


def test_a_full_host_stops_who_grows_and_no_small_container() -> None:
    full = HostMemory(TOTAL, RESERVE // 2)
    assert bound_on_host(full, 4 << 30, 12 << 30) == (4 << 30) + SLACK
    assert bound_on_host(full, (4 << 30) + SLACK, (4 << 30) + SLACK) == (4 << 30) + SLACK, "no creeping on"
    assert bound_on_host(full, 1 << 20, 1 << 20) == TOTAL // ALWAYS_SHARE
