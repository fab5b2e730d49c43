"""Restricted mode: on which CPU the kernel's thread and those of guests are, and what they do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from restricted_guests import GETPPID_LOOP, SECOND, SPIN, Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


def test_threads_that_converse_come_to_the_kernels_cpu(machine: Machine) -> None:
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        pytest.skip("one CPU")
    guest = machine.guest(GETPPID_LOOP)
    try:
        assert machine.monitor.gather()
        here = os.sched_getaffinity(0)
        assert len(here) == 1
        for _ in range(400):  # until its first, long interval no longer counts
            guest.next_syscall()
            guest.slot.resume_syscall(0)
            if os.sched_getaffinity(guest.stub.pid) == here:
                break
        else:
            raise AssertionError("it was not pinned")
    finally:
        machine.monitor.scatter()
    assert os.sched_getaffinity(0) == os.sched_getaffinity(guest.stub.pid) == cpus


def test_a_pinned_thread_that_computes_is_let_go(machine: Machine) -> None:
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        pytest.skip("one CPU")
    guest = machine.guest("mov ebx, 400; again: mov eax, 110; syscall; dec ebx; jnz again; forever: jmp forever")
    try:
        assert machine.monitor.gather()
        for _ in range(400):
            guest.next_syscall()
            guest.slot.resume_syscall(0)
        assert os.sched_getaffinity(guest.stub.pid) != cpus
        assert machine.monitor.wait(20_000_000, 0) == ([], [])
        assert os.sched_getaffinity(guest.stub.pid) == cpus
    finally:
        machine.monitor.scatter()


def test_a_thread_whose_cpus_are_set_is_not_pinned(machine: Machine) -> None:
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        pytest.skip("one CPU")
    guest = machine.guest(GETPPID_LOOP)
    try:
        assert machine.monitor.gather()
        elsewhere = cpus - os.sched_getaffinity(0)
        guest.slot.set_own_cpus(True)
        os.sched_setaffinity(guest.stub.pid, elsewhere)
        for _ in range(400):
            guest.next_syscall()
            guest.slot.resume_syscall(0)
    finally:
        machine.monitor.scatter()
    assert os.sched_getaffinity(guest.stub.pid) == elsewhere


def test_a_thread_on_the_awake_kernels_cpu_sleeps_at_once(machine: Machine) -> None:
    """It may spin for a second; but the kernel, which polls, can't run meanwhile."""
    cpus = os.sched_getaffinity(0)
    here = {min(cpus)}
    guest = machine.guest(GETPPID_LOOP)
    guest.next_syscall()
    os.sched_setaffinity(0, here)
    try:
        os.sched_setaffinity(guest.stub.pid, here)
        guest.slot.spin = SECOND
        before = sleeps_of(guest.stub.pid)
        for _ in range(20):
            guest.slot.resume_syscall(0)
            while not machine.monitor.wait(0, SPIN)[0]:
                pass
        assert sleeps_of(guest.stub.pid) - before >= 10
    finally:
        os.sched_setaffinity(0, cpus)


def sleeps_of(pid: int) -> int:
    """How often a thread has given up its CPU by itself."""
    found = re.search(r"^voluntary_ctxt_switches:\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
