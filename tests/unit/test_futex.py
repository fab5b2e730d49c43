"""Futexes on real guest words: wait, wake, requeue, operations, PI, timeouts, robust lists, the end of a thread."""

from __future__ import annotations

import struct
import time

import pytest
from event_world import Running, settle
from hypothesis import given
from hypothesis import strategies as st
from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import ERESTART_RESTARTBLOCK, ERESTARTNOINTR, Errno
from polynix.kernelproc.task.futex import FutexTable, exit_robust_list, release_mm
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.uapi.errno import EAGAIN, EDEADLK, EFAULT, EINVAL, ENOSYS, EPERM, ESRCH, ETIMEDOUT
from polynix.kernelproc.uapi.futex import (
    FUTEX_CLOCK_REALTIME,
    FUTEX_CMP_REQUEUE,
    FUTEX_CMP_REQUEUE_PI,
    FUTEX_LOCK_PI,
    FUTEX_OP_ADD,
    FUTEX_OP_ANDN,
    FUTEX_OP_CMP_EQ,
    FUTEX_OP_CMP_GE,
    FUTEX_OP_CMP_GT,
    FUTEX_OP_CMP_LE,
    FUTEX_OP_CMP_LT,
    FUTEX_OP_CMP_NE,
    FUTEX_OP_OPARG_SHIFT,
    FUTEX_OP_OR,
    FUTEX_OP_SET,
    FUTEX_OP_XOR,
    FUTEX_OWNER_DIED,
    FUTEX_PRIVATE_FLAG,
    FUTEX_REQUEUE,
    FUTEX_TRYLOCK_PI,
    FUTEX_UNLOCK_PI,
    FUTEX_WAIT,
    FUTEX_WAIT_BITSET,
    FUTEX_WAIT_REQUEUE_PI,
    FUTEX_WAITERS,
    FUTEX_WAKE,
    FUTEX_WAKE_BITSET,
    FUTEX_WAKE_OP,
)
from task_world import BASE, SIZE, TaskWorld


@pytest.fixture
def world() -> TaskWorld:
    return TaskWorld()


def word(world: TaskWorld, value: int = 0) -> int:
    return world.put(struct.pack("<I12x", value))


def timespec(world: TaskWorld, seconds: float) -> int:
    whole = int(seconds)
    return world.put(struct.pack("<qq", whole, int((seconds - whole) * 1e9)))


def start_wait(world: TaskWorld, address: int, value: int = 0, task: Task | None = None, bitset: int | None = None) -> Running:
    operation = FUTEX_WAIT if bitset is None else FUTEX_WAIT_BITSET
    running = world.start("futex", address, operation | FUTEX_PRIVATE_FLAG, value, 0, 0, bitset or 0, task=task or world.thread(world.task))
    assert isinstance(running, Running), running
    return running


def table(world: TaskWorld) -> FutexTable:
    return world.kernel.expando.get(FutexTable)


def test_wait_checks_the_word(world: TaskWorld) -> None:
    address = word(world, 5)
    assert world.call("futex", address, FUTEX_WAIT, 4) == -EAGAIN
    assert world.call("futex", address + 1, FUTEX_WAIT, 4) == -EINVAL
    assert world.call("futex", BASE + SIZE, FUTEX_WAIT, 4) == -EFAULT
    assert world.call("futex", address, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 4) == -ENOSYS
    assert world.call("futex", address, 77, 4) == -ENOSYS
    assert world.call("futex", address, FUTEX_WAIT_BITSET, 5, 0, 0, 0) == -EINVAL
    assert world.call("futex", address, FUTEX_WAKE_BITSET, 5, 0, 0, 0) == -EINVAL
    assert world.call("futex", address, FUTEX_WAKE, 1) == 0


def test_wakes_in_order_of_arrival(world: TaskWorld) -> None:
    address = word(world)
    waiters = [start_wait(world, address) for _ in range(4)]
    assert world.call("futex", address, FUTEX_WAKE, 1) == 1
    settle(world.kernel)
    assert [waiter.done for waiter in waiters] == [True, False, False, False]
    assert world.call("futex", address, FUTEX_WAKE, 2) == 2
    settle(world.kernel)
    assert [waiter.done for waiter in waiters] == [True, True, True, False]
    assert world.call("futex", address, FUTEX_WAKE, 0x7FFFFFFF) == 1
    assert all(world.finish(waiter) == 0 for waiter in waiters)
    assert not len(table(world))


def test_bitsets(world: TaskWorld) -> None:
    address = word(world)
    odd, even = start_wait(world, address, bitset=1), start_wait(world, address, bitset=2)
    assert world.call("futex", address, FUTEX_WAKE_BITSET, 9, 0, 0, 2) == 1
    settle(world.kernel)
    assert (odd.done, even.done) == (False, True)
    assert world.call("futex", address, FUTEX_WAKE, 9) == 1
    world.finish(odd)


def test_timeouts(world: TaskWorld) -> None:
    address = word(world)
    began = time.monotonic()
    assert world.call("futex", address, FUTEX_WAIT, 0, timespec(world, 0.02)) == -ETIMEDOUT
    assert time.monotonic() - began >= 0.02
    assert world.call("futex", address, FUTEX_WAIT_BITSET, 0, timespec(world, time.monotonic() + 0.02), 0, 1) == -ETIMEDOUT
    absolute = timespec(world, time.time() + 0.02)
    assert world.call("futex", address, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, absolute, 0, 1) == -ETIMEDOUT
    assert world.call("futex", address, FUTEX_WAIT, 0, world.put(struct.pack("<qq", 0, 10**9))) == -EINVAL
    assert world.call("futex", address, FUTEX_WAIT, 0, world.put(struct.pack("<qq", -1, 0))) == -EINVAL
    assert world.call("futex", address, FUTEX_WAIT, 0, 8) == -EFAULT
    assert not len(table(world))


def test_interruption_and_restart(world: TaskWorld) -> None:
    address = word(world)
    waiting = start_wait(world, address)
    assert world.kernel.engine.interrupt(waiting.routine)
    settle(world.kernel)
    assert isinstance(waiting.error, Interrupted)
    assert world.call("futex", address, FUTEX_WAKE, 1) == 0
    thread = world.thread(world.task)
    timed = world.start("futex", address, FUTEX_WAIT, 0, timespec(world, 30), task=thread)
    assert isinstance(timed, Running)
    assert world.kernel.engine.interrupt(timed.routine)
    settle(world.kernel)
    assert isinstance(timed.error, Errno) and timed.error.errno == ERESTART_RESTARTBLOCK
    again = Running(world.kernel, thread.restart(), thread)
    assert not again.done
    assert world.call("futex", address, FUTEX_WAKE, 1) == 1
    assert world.finish(again) == 0


def test_wake_passes_over_the_interrupted(world: TaskWorld) -> None:
    address = word(world)
    first, second = start_wait(world, address), start_wait(world, address)
    world.kernel.engine.interrupt(first.routine)
    assert world.call("futex", address, FUTEX_WAKE, 1) == 1
    assert world.finish(second) == 0
    assert isinstance(first.error, Interrupted)


def test_killed_waiter_leaves_the_queue(world: TaskWorld) -> None:
    address = word(world)
    waiting = start_wait(world, address)
    world.kernel.engine.kill(waiting.routine)
    assert world.call("futex", address, FUTEX_WAKE, 1) == 0
    assert not len(table(world))


def test_shared_between_address_spaces(world: TaskWorld) -> None:
    other = world.new_mm()
    memory = world.mm.user.entries()[0][3]
    shared = 0x7000_0000
    other.user.map(shared, shared + 4096, 3, memory, 0x2000)
    address = BASE + 0x2000
    world.set_word(address, 0)
    waiting = start_wait(world, address)
    assert world.call("futex", shared, FUTEX_WAKE, 1, task=world.process(mm=other)) == 1
    assert world.finish(waiting) == 0


def test_requeue(world: TaskWorld) -> None:
    first, second = word(world, 3), word(world)
    waiters = [start_wait(world, first, 3) for _ in range(5)]
    assert world.call("futex", first, FUTEX_CMP_REQUEUE, 1, 2, second, 4) == -EAGAIN
    assert world.call("futex", first, FUTEX_CMP_REQUEUE, -1, 2, second, 3) == -EINVAL
    assert world.call("futex", first, FUTEX_CMP_REQUEUE, 1, 2, second, 3) == 3
    settle(world.kernel)
    assert [waiter.done for waiter in waiters] == [True, False, False, False, False]
    assert world.call("futex", second, FUTEX_WAKE, 9) == 2
    settle(world.kernel)
    assert [waiter.done for waiter in waiters] == [True, True, True, False, False]
    assert world.call("futex", first, FUTEX_REQUEUE, 0, 9, second) == 2
    assert world.call("futex", first, FUTEX_WAKE, 9) == 0
    assert world.call("futex", second, FUTEX_WAKE, 9) == 2


OPERATIONS = {
    FUTEX_OP_SET: lambda old, operand: operand,
    FUTEX_OP_ADD: lambda old, operand: old + operand,
    FUTEX_OP_OR: lambda old, operand: old | operand,
    FUTEX_OP_ANDN: lambda old, operand: old & ~operand,
    FUTEX_OP_XOR: lambda old, operand: old ^ operand,
}
COMPARISONS = {
    FUTEX_OP_CMP_EQ: lambda old, reference: old == reference,
    FUTEX_OP_CMP_NE: lambda old, reference: old != reference,
    FUTEX_OP_CMP_LT: lambda old, reference: old < reference,
    FUTEX_OP_CMP_LE: lambda old, reference: old <= reference,
    FUTEX_OP_CMP_GT: lambda old, reference: old > reference,
    FUTEX_OP_CMP_GE: lambda old, reference: old >= reference,
}


@given(
    st.sampled_from(sorted(OPERATIONS)),
    st.sampled_from(sorted(COMPARISONS)),
    st.integers(-2048, 2047),
    st.integers(-2048, 2047),
    st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-2100, 2100),
    st.booleans(),
)
def test_wake_op(operation: int, comparison: int, operand: int, reference: int, old: int, shift: bool) -> None:
    world = TaskWorld()
    first, second = word(world), word(world, old & 0xFFFFFFFF)
    waiters = [start_wait(world, first), start_wait(world, second, old & 0xFFFFFFFF)]
    encoded = (operation | (FUTEX_OP_OPARG_SHIFT if shift else 0)) << 28 | comparison << 24 | (operand & 0xFFF) << 12 | reference & 0xFFF
    effective = 1 << (operand & 31) if shift else operand
    met = COMPARISONS[comparison](old, reference)
    assert world.call("futex", first, FUTEX_WAKE_OP, 1, 1, second, encoded) == 1 + met
    assert world.word(second) == OPERATIONS[operation](old, effective) & 0xFFFFFFFF
    settle(world.kernel)
    assert [waiter.done for waiter in waiters] == [True, met]
    if not met:
        world.call("futex", second, FUTEX_WAKE, 1)
        world.finish(waiters[1])


def test_priority_inheritance_lock(world: TaskWorld) -> None:
    address = word(world)
    owner, second, third = world.task, world.thread(world.task), world.thread(world.task)
    assert world.call("futex", address, FUTEX_LOCK_PI) == 0
    assert world.word(address) == owner.tid
    assert world.call("futex", address, FUTEX_LOCK_PI) == -EDEADLK
    assert world.call("futex", address, FUTEX_TRYLOCK_PI, task=second) == -EAGAIN
    assert world.call("futex", address, FUTEX_UNLOCK_PI, task=second) == -EPERM
    waiting = [world.start("futex", address, FUTEX_LOCK_PI, task=task) for task in (second, third)]
    assert world.word(address) == owner.tid | FUTEX_WAITERS
    assert world.call("futex", address, FUTEX_WAKE, 1) == -EINVAL
    assert world.call("futex", address, FUTEX_UNLOCK_PI) == 0
    assert world.finish(waiting[0]) == 0
    assert world.word(address) == second.tid | FUTEX_WAITERS
    assert world.call("futex", address, FUTEX_UNLOCK_PI, task=second) == 0
    assert world.finish(waiting[1]) == 0
    assert world.word(address) == third.tid
    assert world.call("futex", address, FUTEX_UNLOCK_PI, task=third) == 0
    assert world.word(address) == 0
    world.set_word(address, 4_000_000)
    assert world.call("futex", address, FUTEX_LOCK_PI) == -ESRCH


def test_priority_inheritance_timeout_and_signal(world: TaskWorld) -> None:
    address = word(world)
    world.call("futex", address, FUTEX_LOCK_PI)
    second = world.thread(world.task)
    assert world.call("futex", address, FUTEX_LOCK_PI, 0, timespec(world, time.time() + 0.02), task=second) == -ETIMEDOUT
    waiting = world.start("futex", address, FUTEX_LOCK_PI, task=second)
    assert isinstance(waiting, Running)
    world.kernel.engine.interrupt(waiting.routine)
    settle(world.kernel)
    assert isinstance(waiting.error, Errno) and waiting.error.errno == ERESTARTNOINTR
    assert world.call("futex", address, FUTEX_UNLOCK_PI) == 0
    assert world.word(address) == 0


def test_owner_of_a_pi_lock_dies(world: TaskWorld) -> None:
    address = word(world)
    owner, heir = world.thread(world.task), world.thread(world.task)
    world.call("futex", address, FUTEX_LOCK_PI, task=owner)
    waiting = world.start("futex", address, FUTEX_LOCK_PI, task=heir)
    exit_robust_list(owner)
    assert world.finish(waiting) == 0
    assert world.word(address) == heir.tid | FUTEX_OWNER_DIED


def test_requeue_to_a_pi_lock(world: TaskWorld) -> None:
    condition, mutex = word(world), word(world)
    threads = [world.thread(world.task) for _ in range(3)]
    waiting = [world.start("futex", condition, FUTEX_WAIT_REQUEUE_PI, 0, 0, mutex, task=thread) for thread in threads]
    assert all(isinstance(waiter, Running) for waiter in waiting)
    assert world.call("futex", condition, FUTEX_WAKE, 1) == -EINVAL
    assert world.call("futex", condition, FUTEX_CMP_REQUEUE_PI, 2, 9, mutex, 0) == -EINVAL
    assert world.call("futex", condition, FUTEX_CMP_REQUEUE_PI, 1, 9, mutex, 1) == -EAGAIN
    assert world.call("futex", condition, FUTEX_CMP_REQUEUE_PI, 1, 9, mutex, 0) == 3
    for thread, waiter in zip(threads, waiting, strict=True):
        assert world.finish(waiter) == 0
        assert world.word(mutex) & 0x3FFFFFFF == thread.tid
        assert world.call("futex", mutex, FUTEX_UNLOCK_PI, task=thread) == 0
    assert world.word(mutex) == 0


def test_robust_list(world: TaskWorld) -> None:
    thread, bystander = world.thread(world.task), world.thread(world.task)
    # Nodes of 32 bytes: the list pointer, then the word at offset 16.
    mine, waited, others, pending = (world.put(bytes(32)) for _ in range(4))
    head = world.put(bytes(24))
    for node, value in ((mine, thread.tid), (waited, thread.tid | FUTEX_WAITERS), (others, bystander.tid), (pending, thread.tid)):
        world.set_word(node + 16, value)
    user = world.mm.user
    for node, following in ((head, mine), (mine, waited), (waited, others), (others, head)):
        user.store_u64(UserAddress(node), following)
    user.store_u64(UserAddress(head + 8), 16)
    user.store_u64(UserAddress(head + 16), pending)
    assert world.call("set_robust_list", head, 23, task=thread) == -EINVAL
    assert world.call("set_robust_list", head, 24, task=thread) == 0
    out = world.put(bytes(16))
    assert world.call("get_robust_list", thread.tid, out, out + 8) == 0
    assert struct.unpack("<QQ", world.get(out, 16)) == (head, 24)
    waiting = start_wait(world, waited + 16, thread.tid | FUTEX_WAITERS)
    exit_robust_list(thread)
    assert world.finish(waiting) == 0
    assert world.word(mine + 16) == FUTEX_OWNER_DIED
    assert world.word(waited + 16) == FUTEX_OWNER_DIED | FUTEX_WAITERS
    assert world.word(others + 16) == bystander.tid
    assert world.word(pending + 16) == FUTEX_OWNER_DIED
    assert thread.robust_list == (0, 0)


def test_broken_robust_lists_end(world: TaskWorld) -> None:
    thread = world.thread(world.task)
    head = world.put(bytes(24))
    user = world.mm.user
    loop = world.put(bytes(32))
    user.store_u64(UserAddress(head), loop)
    user.store_u64(UserAddress(loop), loop)  # a circle that never comes back to the head
    thread.robust_list = (head, 24)
    exit_robust_list(thread)
    user.store_u64(UserAddress(head), 8)
    thread.robust_list = (head, 24)
    exit_robust_list(thread)
    thread.robust_list = (16, 24)
    exit_robust_list(thread)


def test_pthread_join_is_woken(world: TaskWorld) -> None:
    thread = world.thread(world.task)
    address = word(world, thread.tid)
    thread.clear_child_tid = UserAddress(address)
    world.mm.users = 2
    waiting = start_wait(world, address, thread.tid)
    release_mm(thread)
    assert world.finish(waiting) == 0
    assert world.word(address) == 0
    assert thread.clear_child_tid is None
    thread.clear_child_tid = UserAddress(16)
    release_mm(thread)
