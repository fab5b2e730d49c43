"""Futexes: the words that threads wait on, their waiters, and what happens to them when a thread ends (man 2 futex, man 2 set_robust_list).

A futex is known by its *key*, (memory object, offset), so that private and shared ones need no distinction: a private page has
an object of its own address space. Waiters of one key stand in order of arrival. The kernel is one thread, so between the check
of the word and the wait no wake call can slip in; guests that change the word at the same time must call wake afterwards, and
that call comes later.

Priority-inheritance futexes keep the owner's tid in the word and are handed over by the kernel; nobody's priority is raised,
since polynix leaves scheduling to the host.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.blocked_call import BlockedCall
from polynix.kernelproc.engine import Engine, Interrupted, Routine, park
from polynix.kernelproc.errno import ERESTARTNOINTR, Errno
from polynix.kernelproc.uapi.errno import EAGAIN, EDEADLK, EINVAL, ENOSYS, EPERM, ESRCH, ETIMEDOUT
from polynix.kernelproc.uapi.futex import (
    FUTEX_BITSET_MATCH_ANY,
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
    FUTEX_TID_MASK,
    FUTEX_WAITERS,
    ROBUST_LIST_LIMIT,
)

if TYPE_CHECKING:
    from polynix.addrspace._usercopy import UserMap
    from polynix.kernelproc.task.task import Task

Key = tuple[int, int]

ROBUST_LIST_HEAD: Final = struct.Struct("<QqQ")  # list.next, futex_offset, list_op_pending


class Waiter:
    """A thread that waits on a futex. ``pi`` marks one that waits to own the word; ``requeue_to`` is the PI futex of FUTEX_WAIT_REQUEUE_PI."""

    __slots__ = ("address", "bitset", "key", "pi", "requeue_to", "routine", "task")

    def __init__(self, task: Task, address: UserAddress, key: Key, bitset: int, *, pi: bool = False, requeue_to: Key | None = None) -> None:
        self.task = task
        self.address = address
        self.key = key
        self.bitset = bitset
        self.pi = pi
        self.requeue_to = requeue_to
        self.routine: Routine = Engine.running.current


class FutexWait(BlockedCall):
    """A plain wait without a deadline, which is what mutexes and conditions do: a waiter that is its own routine."""

    __slots__ = ("address", "bitset", "key", "table", "task")
    pi = False
    requeue_to = None

    def __init__(self, table: FutexTable, task: Task, address: UserAddress, key: Key, bitset: int) -> None:
        super().__init__(table)
        self.table = table
        self.task = task
        self.address = address
        self.key = key
        self.bitset = bitset

    @property
    def routine(self) -> Routine:
        return self

    def attempt(self) -> int:
        return 0

    def __await__(self) -> Generator[Any, Any, int]:
        return self.table.wait(self.task, self.address, self.key, None, self.bitset).__await__()


AnyWaiter = Waiter | FutexWait


class FutexTable:
    """All futexes that somebody waits on; one per kernel, in ``kernel.expando``."""

    def __init__(self) -> None:
        self._waiters: dict[Key, dict[AnyWaiter, None]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __bool__(self) -> bool:
        return True

    # -- queues -----------------------------------------------------------------------------------------------------------

    def add(self, waiter: AnyWaiter) -> None:
        """At the end of the queue of its key."""
        queue = self._waiters.get(waiter.key)
        if queue is None:
            queue = self._waiters[waiter.key] = {}
        queue[waiter] = None

    def remove(self, waiter: AnyWaiter) -> None:
        """Not being there is no error."""
        queue = self._waiters.get(waiter.key)
        if queue is not None:
            queue.pop(waiter, None)
            if not queue:
                del self._waiters[waiter.key]

    def waiters(self, key: Key) -> list[AnyWaiter]:
        """Who waits on ``key``, in order."""
        return list(self._waiters.get(key, ()))

    async def _sleep(self, waiter: Waiter, deadline_ns: int | None) -> bool:
        """Wait in the queue; False when the deadline passed. Errors: Interrupted."""
        engine = Engine.running
        self.add(waiter)
        timer = None if deadline_ns is None else engine.call_at(deadline_ns, engine.wake, waiter.routine, False)
        try:
            return bool(await park(True))
        finally:
            self.remove(waiter)
            if timer is not None:
                timer.cancel()

    def _wake(self, waiter: AnyWaiter) -> bool:
        """Let one waiter go on; False if a signal, its deadline or its death was quicker."""
        if not Engine.running.wake(waiter.routine, True):
            return False
        self.remove(waiter)
        return True

    # -- plain futexes ----------------------------------------------------------------------------------------------------

    async def wait(self, task: Task, address: UserAddress, key: Key, deadline_ns: int | None, bitset: int) -> int:
        """The waiting part of FUTEX_WAIT and FUTEX_WAIT_BITSET, once the word was seen to hold the value. Errors: ETIMEDOUT."""
        return 0 if await self._sleep(Waiter(task, address, key, bitset), deadline_ns) else -ETIMEDOUT

    async def wait_any(self, task: Task, futexes: Sequence[tuple[UserAddress, Key]], deadline_ns: int | None) -> int:
        """The waiting part of futex_waitv: the index of the futex that was woken. Errors: ETIMEDOUT, Interrupted."""
        engine = Engine.running
        waiters = [Waiter(task, address, key, FUTEX_BITSET_MATCH_ANY) for address, key in futexes]
        for waiter in waiters:
            self.add(waiter)
        timer = None if deadline_ns is None else engine.call_at(deadline_ns, engine.wake, engine.current, False)
        try:
            if not await park(True):
                return -ETIMEDOUT
            return next(index for index, waiter in enumerate(waiters) if waiter not in self._waiters.get(waiter.key, ()))
        finally:
            for waiter in waiters:
                self.remove(waiter)
            if timer is not None:
                timer.cancel()

    def wake(self, key: Key, count: int, bitset: int = FUTEX_BITSET_MATCH_ANY) -> int:
        """Wake up to ``count`` waiters (at least one, as Linux does) whose bitset meets ``bitset``. Errors: EINVAL when a PI waiter is met."""
        queue = self._waiters.get(key)
        if queue is None:
            return 0
        woken = 0
        for waiter in list(queue):
            if waiter.pi or waiter.requeue_to is not None:
                raise Errno(EINVAL)
            if waiter.bitset & bitset and self._wake(waiter):
                woken += 1
                if woken >= count:
                    break
        return woken

    def requeue(self, key: Key, target: Key, wake_count: int, requeue_count: int, target_address: UserAddress) -> int:
        """Wake ``wake_count`` waiters of ``key`` and move ``requeue_count`` others to ``target``; returns how many in all."""
        queue = self._waiters.get(key)
        if queue is None:
            return 0
        done = 0
        moved = 0
        for waiter in list(queue):
            if waiter.pi or waiter.requeue_to is not None:
                raise Errno(EINVAL)
            if done < wake_count:
                done += self._wake(waiter)
            elif moved < requeue_count:
                self._move(waiter, target, target_address)
                moved += 1
            else:
                break
        return done + moved

    def _move(self, waiter: AnyWaiter, key: Key, address: UserAddress) -> None:
        if waiter.key == key:
            return
        self.remove(waiter)
        waiter.key = key
        waiter.address = address
        self.add(waiter)

    # -- priority inheritance ---------------------------------------------------------------------------------------------

    def try_lock_pi(self, task: Task, user: UserMap, address: UserAddress) -> int:
        """Take the lock if it is free: 0, or -EAGAIN with the WAITERS bit set. Errors: EDEADLK (held by the task), ESRCH (no such owner)."""
        while True:
            word = user.load_u32(address)
            owner = word & FUTEX_TID_MASK
            if owner == task.tid:
                raise Errno(EDEADLK)
            if owner == 0:
                wanted = task.tid | (word & FUTEX_OWNER_DIED)
                if any(waiter.pi for waiter in self._waiters.get(user.futex_key(address), ())):
                    wanted |= FUTEX_WAITERS
            else:
                if owner not in task.kernel.pids.tasks:
                    raise Errno(ESRCH)
                wanted = word | FUTEX_WAITERS
            if wanted == word or user.compare_exchange_u32(address, word, wanted) == word:
                return 0 if owner == 0 else -EAGAIN

    async def lock_pi(self, task: Task, address: UserAddress, deadline_ns: int | None) -> int:
        """FUTEX_LOCK_PI once :meth:`try_lock_pi` failed. Errors: ETIMEDOUT; a signal restarts the call."""
        waiter = Waiter(task, address, task.user.futex_key(address), FUTEX_BITSET_MATCH_ANY, pi=True)
        try:
            return 0 if await self._sleep(waiter, deadline_ns) else -ETIMEDOUT
        except Interrupted:
            raise Errno(ERESTARTNOINTR)

    def unlock_pi(self, task: Task, user: UserMap, address: UserAddress) -> int:
        """FUTEX_UNLOCK_PI: hand the lock to the first waiter. Errors: EPERM when the task doesn't hold it."""
        word = user.load_u32(address)
        if word & FUTEX_TID_MASK != task.tid:
            return -EPERM
        key = user.futex_key(address)
        if self._hand_over(key, user, address, word, 0):
            return 0
        return 0 if user.compare_exchange_u32(address, word, 0) == word else -EAGAIN

    def _hand_over(self, key: Key, user: UserMap, address: UserAddress, word: int, died: int) -> bool:
        """Make the first PI waiter of ``key`` the owner; False when there is none."""
        candidates = [waiter for waiter in self._waiters.get(key, ()) if waiter.pi]
        while candidates:
            heir = candidates.pop(0)
            if not self._wake(heir):
                continue
            # WAITERS stays set while others queue, so that the heir's unlock comes to the kernel too.
            wanted = heir.task.tid | died | (FUTEX_WAITERS if candidates else 0)
            while True:
                seen = user.compare_exchange_u32(address, word, wanted)
                if seen == word:
                    return True
                word = seen
        return False

    async def wait_requeue_pi(self, task: Task, address: UserAddress, key: Key, target: Key, deadline_ns: int | None, bitset: int) -> int:
        """FUTEX_WAIT_REQUEUE_PI: woken only as the owner of ``target``. Errors: ETIMEDOUT, EAGAIN."""
        waiter = Waiter(task, address, key, bitset, requeue_to=target)
        try:
            return 0 if await self._sleep(waiter, deadline_ns) else -ETIMEDOUT
        except Interrupted:
            # Requeued already: a restart would find the word changed.
            return -EAGAIN if waiter.pi else -ERESTARTNOINTR

    def requeue_pi(self, task: Task, key: Key, target: Key, target_address: UserAddress, requeue_count: int) -> int:
        """FUTEX_CMP_REQUEUE_PI: one waiter takes the PI lock if it is free, the others queue for it."""
        user = task.user
        done = 0
        for waiter in self.waiters(key):
            if waiter.requeue_to != target:
                raise Errno(EINVAL)
            if done > requeue_count:
                break
            word = user.load_u32(target_address)
            if word & FUTEX_TID_MASK == 0:
                if not self._wake(waiter):
                    continue
                others = bool(self._waiters.get(key)) and requeue_count > done
                wanted = waiter.task.tid | (word & FUTEX_OWNER_DIED) | (FUTEX_WAITERS if others else 0)
            else:
                waiter.pi = True
                waiter.requeue_to = None
                self._move(waiter, target, target_address)
                wanted = word | FUTEX_WAITERS
            while (seen := user.compare_exchange_u32(target_address, word, wanted)) != word:
                word = seen
                wanted = (word | FUTEX_WAITERS) if wanted & FUTEX_TID_MASK == word & FUTEX_TID_MASK else wanted
            done += 1
        return done

    def release_pi_locks(self, task: Task) -> None:
        """The task ends: PI locks that it holds and others queue for go to the first of them, marked OWNER_DIED."""
        for key, queue in list(self._waiters.items()):
            waiter = next((waiter for waiter in queue if waiter.pi), None)
            if waiter is None:
                continue
            try:
                word = waiter.task.user.load_u32(waiter.address)
                if word & FUTEX_TID_MASK == task.tid:
                    self._hand_over(key, waiter.task.user, waiter.address, word, FUTEX_OWNER_DIED)
            except Fault:
                continue


# -- FUTEX_WAKE_OP ---------------------------------------------------------------------------------------------------------


def wake_op(user: UserMap, address: UserAddress, encoded: int) -> bool:
    """Do the operation that ``encoded`` asks for on the word and say whether the old value meets its comparison. Errors: ENOSYS for unknown ones."""
    operation = encoded >> 28 & 7
    comparison = encoded >> 24 & 15
    operand = _sign12(encoded >> 12 & 0xFFF)
    reference = _sign12(encoded & 0xFFF)
    if encoded >> 28 & FUTEX_OP_OPARG_SHIFT:
        operand = 1 << (operand & 31)
    while True:
        old = user.load_u32(address)
        if operation == FUTEX_OP_SET:
            new = operand
        elif operation == FUTEX_OP_ADD:
            new = old + operand
        elif operation == FUTEX_OP_OR:
            new = old | operand
        elif operation == FUTEX_OP_ANDN:
            new = old & ~operand
        elif operation == FUTEX_OP_XOR:
            new = old ^ operand
        else:
            raise Errno(ENOSYS)
        if user.compare_exchange_u32(address, old, new & 0xFFFFFFFF) == old:
            break
    value = (old ^ 0x80000000) - 0x80000000
    if comparison == FUTEX_OP_CMP_EQ:
        return value == reference
    if comparison == FUTEX_OP_CMP_NE:
        return value != reference
    if comparison == FUTEX_OP_CMP_LT:
        return value < reference
    if comparison == FUTEX_OP_CMP_GE:
        return value >= reference
    if comparison == FUTEX_OP_CMP_LE:
        return value <= reference
    if comparison == FUTEX_OP_CMP_GT:
        return value > reference
    raise Errno(ENOSYS)


def _sign12(value: int) -> int:
    return (value ^ 0x800) - 0x800


# -- the end of a thread ---------------------------------------------------------------------------------------------------


def wake_address(task: Task, address: UserAddress, count: int = 1) -> int:
    """FUTEX_WAKE from inside the kernel; a bad address wakes nobody."""
    try:
        return task.kernel.expando.get(FutexTable).wake(task.user.futex_key(address), count)
    except (Fault, Errno):
        return 0


def exit_robust_list(task: Task) -> None:
    """The task ends or execs: mark the robust futexes that it holds OWNER_DIED and wake a waiter of each; hand over its PI locks.

    Called while the address space is still there. A list that is broken or too long is followed as far as it goes.
    """
    task.kernel.expando.get(FutexTable).release_pi_locks(task)
    head, _length = task.robust_list
    if not head:
        return
    task.robust_list = (0, 0)
    try:
        entry, offset, pending = ROBUST_LIST_HEAD.unpack(task.user.copy_in(UserAddress(head), ROBUST_LIST_HEAD.size))
        for _ in range(ROBUST_LIST_LIMIT):
            if entry & ~1 == head:
                break
            following = task.user.load_u64(UserAddress(entry & ~1))
            # The pending one is handled last, since its word may change hands meanwhile.
            if entry & ~1 != pending & ~1 and not _futex_death(task, entry, offset, False):
                return
            entry = following
        if pending:
            _futex_death(task, pending, offset, True)
    except Fault:
        return


def _futex_death(task: Task, entry: int, offset: int, pending: bool) -> bool:
    address = UserAddress(((entry & ~1) + offset) & 0xFFFFFFFFFFFFFFFF)
    is_pi = bool(entry & 1)
    if address.ptr & 3:
        return False
    user = task.user
    while True:
        word = user.load_u32(address)
        if pending and not is_pi and word == 0:
            # The unlock had stored 0 and died before its wake call.
            wake_address(task, address)
            return True
        if word & FUTEX_TID_MASK != task.tid:
            return True
        if user.compare_exchange_u32(address, word, (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED) == word:
            break
    if not is_pi and word & FUTEX_WAITERS:
        wake_address(task, address)
    return True


def release_mm(task: Task) -> None:
    """The task leaves its address space by exit or exec: clear and wake ``clear_child_tid`` (man 2 set_tid_address), which is how pthread_join returns."""
    address = task.clear_child_tid
    if address is None:
        return
    task.clear_child_tid = None
    if getattr(task.mm, "users", 2) > 1:
        try:
            task.user.store_u32(address, 0)
        except Fault:
            return
        wake_address(task, address)
