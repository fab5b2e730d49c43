"""System V semaphores: sets of counters that are changed several at a time, all or none (man 7 sysvipc, man 2 semop; ipc/sem.c).

An operation that can't be done waits in its set's queue. Whoever changes a value tries the waiters again, those that only wait for zeros first and then
the others in order of arrival, on their behalf: a woken one finds its operation done. SEM_UNDO is kept in an :class:`UndoList`, which belongs to a
process, or to all tasks that CLONE_SYSVSEM made share it; the last one's end takes back what is left in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polynix.kernelproc.engine import Interrupted
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.ipc_sysv.objects import IpcObject, IpcTable, now_seconds
from polynix.kernelproc.uapi.errno import EAGAIN, EIDRM, EINTR, EINVAL, ENOSPC, ERANGE
from polynix.kernelproc.uapi.ipc import IPC_NOWAIT, SEM_UNDO, SEMAEM, SEMMNI, SEMMNS, SEMMSL, SEMVMX
from polynix.kernelproc.uapi.structs import semid64_ds
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


class Operation(NamedTuple):
    """``struct sembuf``."""

    number: int
    change: int
    flags: int


class Semaphore:
    """One counter of a set. ``pid`` is of the process that changed it last, 0 when nobody has."""

    __slots__ = ("pid", "value")

    def __init__(self) -> None:
        self.value = 0
        self.pid = 0


class Undo:
    """What one undo list owes to one set (``struct sem_undo``)."""

    __slots__ = ("adjustments", "owner", "set")

    def __init__(self, owner: UndoList, semaphores: SemaphoreSet) -> None:
        self.owner = owner
        self.set = semaphores
        self.adjustments = [0] * len(semaphores.semaphores)


class UndoList:
    """A process's undo operations, by set (``struct sem_undo_list``); ``users`` are the tasks that share it."""

    __slots__ = ("by_set", "users")

    def __init__(self) -> None:
        self.users = 1
        self.by_set: dict[SemaphoreSet, Undo] = {}

    @classmethod
    def of(cls, task: Task) -> UndoList:
        """The task's, made when it is first needed."""
        if task.semaphore_undo is None:
            task.semaphore_undo = cls()
        return task.semaphore_undo

    @classmethod
    def share(cls, task: Task, child: Task) -> None:
        """CLONE_SYSVSEM."""
        child.semaphore_undo = cls.of(task)
        child.semaphore_undo.users += 1

    @classmethod
    def leave(cls, task: Task) -> None:
        """``task`` ends, or unshares CLONE_SYSVSEM: its last user's leaving carries the operations out."""
        undo_list, task.semaphore_undo = task.semaphore_undo, None
        if undo_list is None:
            return
        undo_list.users -= 1
        if not undo_list.users:
            for semaphores, undo in list(undo_list.by_set.items()):
                semaphores.carry_out(undo, task.pid)

    def for_set(self, semaphores: SemaphoreSet) -> Undo:
        """What is owed to ``semaphores``, made when it is first needed."""
        undo = self.by_set.get(semaphores)
        if undo is None:
            undo = self.by_set[semaphores] = Undo(self, semaphores)
            semaphores.undos[undo] = None
        return undo


class Waiter:
    """A semop that waits. ``result`` is its outcome, 0 or an errno, as soon as somebody has found it; ``blocking`` is what it waits for."""

    __slots__ = ("alters", "blocking", "operations", "pid", "queue", "result", "undo")

    def __init__(self, operations: list[Operation], undo: Undo | None, pid: int) -> None:
        self.operations = operations
        self.undo = undo
        self.pid = pid
        self.alters = any(operation.change for operation in operations)
        self.blocking = operations[0]
        self.result: int | None = None
        self.queue = WaitQueue()

    def finish(self, result: int) -> None:
        self.result = result
        self.queue.notify()


class SemaphoreSet(IpcObject):
    """One set (``struct sem_array``)."""

    def __init__(self, task: Task, identifier: int, key: int, count: int, mode: int) -> None:
        super().__init__(task, identifier, key, mode)
        self.kernel = task.kernel
        self.semaphores = [Semaphore() for _ in range(count)]
        self.operated_at = 0
        self.undos: dict[Undo, None] = {}
        self._waiting_for_zero: dict[Waiter, None] = {}
        self._waiting: dict[Waiter, None] = {}  # those that alter values

    def status(self) -> bytes:
        return semid64_ds.pack(**self.permissions(), sem_otime=self.operated_at, sem_ctime=self.changed_at, sem_nsems=len(self.semaphores))

    def semaphore(self, number: int) -> Semaphore:
        """Errors: EINVAL."""
        if not 0 <= number < len(self.semaphores):
            raise Errno(EINVAL)
        return self.semaphores[number]

    # -- operations -----------------------------------------------------------------------------------------------------------

    async def operate(self, task: Task, operations: list[Operation], undo: Undo | None, deadline_ns: int | None) -> int:
        """semtimedop(2), its arguments checked. Errors: EAGAIN, ERANGE, EIDRM, EINTR (never restarted)."""
        waiter = Waiter(operations, undo, task.pid)
        if self._attempt(waiter):
            if waiter.alters:
                self._retry()
            return 0
        waiters = self._waiting if waiter.alters else self._waiting_for_zero
        waiters[waiter] = None
        result = EAGAIN
        try:
            if deadline_ns != 0:
                await waiter.queue.wait(deadline_ns=deadline_ns)
        except Interrupted:
            result = EINTR
        finally:
            waiters.pop(waiter, None)
        if waiter.result is not None:
            result = waiter.result
        if result:
            raise Errno(result)
        return 0

    def _attempt(self, waiter: Waiter) -> bool:
        """Do all operations, or none and False. Errors: ERANGE, EAGAIN (IPC_NOWAIT)."""
        undo = waiter.undo
        values: dict[int, int] = {}
        adjustments: dict[int, int] = {}
        for operation in waiter.operations:
            number = operation.number
            value = values.get(number)
            if value is None:
                value = self.semaphores[number].value
            changed = value + operation.change
            if changed < 0 or (not operation.change and value):
                if operation.flags & IPC_NOWAIT:
                    raise Errno(EAGAIN)
                waiter.blocking = operation
                return False
            if changed > SEMVMX:
                raise Errno(ERANGE)
            if operation.flags & SEM_UNDO:
                assert undo is not None
                adjustment = adjustments.get(number, undo.adjustments[number]) - operation.change
                if not -SEMAEM - 1 <= adjustment <= SEMAEM:
                    raise Errno(ERANGE)
                adjustments[number] = adjustment
            values[number] = changed
        for number, value in values.items():
            semaphore = self.semaphores[number]
            semaphore.value = value
            semaphore.pid = waiter.pid
        for number, adjustment in adjustments.items():
            assert undo is not None
            undo.adjustments[number] = adjustment
        self.operated_at = now_seconds(self.kernel)
        return True

    def _retry(self) -> None:
        """Values have changed: let those go on whose operations can be done now, until none can."""
        progress = True
        while progress:
            for waiter in list(self._waiting_for_zero):
                self._finish_if_possible(waiter, self._waiting_for_zero)
            # From the front again after each success: it may have made room for one that came earlier.
            progress = any(self._finish_if_possible(waiter, self._waiting) for waiter in list(self._waiting))

    def _finish_if_possible(self, waiter: Waiter, waiters: dict[Waiter, None]) -> bool:
        """Says whether it was done; an operation that can't be done any more ends with its error."""
        try:
            done, result = self._attempt(waiter), 0
        except Errno as error:
            done, result = False, error.errno
        if done or result:
            del waiters[waiter]
            waiter.finish(result)
        return done

    # -- what semctl does -----------------------------------------------------------------------------------------------------

    def set_values(self, values: dict[int, int], pid: int) -> None:
        """SETVAL, SETALL: what was to be undone of these semaphores is forgotten. Errors: ERANGE."""
        if any(not 0 <= value <= SEMVMX for value in values.values()):
            raise Errno(ERANGE)
        for number, value in values.items():
            self.semaphores[number].value = value
            self.semaphores[number].pid = pid
            for undo in self.undos:
                undo.adjustments[number] = 0
        self.changed_at = now_seconds(self.kernel)
        self._retry()

    def waiting_for(self, number: int, *, zero: bool) -> int:
        """GETNCNT, GETZCNT: how many wait for this semaphore to grow, or to be zero."""
        blocking = [waiter.blocking for waiter in (*self._waiting, *self._waiting_for_zero)]
        return sum(1 for operation in blocking if operation.number == number and (operation.change == 0) == zero)

    def removed_by_rmid(self) -> None:
        """Nobody waits for it any more, and nothing is owed to it."""
        self.removed = True
        for undo in self.undos:
            del undo.owner.by_set[self]
        self.undos.clear()
        for waiters in (self._waiting, self._waiting_for_zero):
            for waiter in list(waiters):
                del waiters[waiter]
                waiter.finish(EIDRM)

    # -- the end of a process -------------------------------------------------------------------------------------------------

    def carry_out(self, undo: Undo, pid: int) -> None:
        """The last user of an undo list ends: values change by what it owes, within their bounds."""
        del undo.owner.by_set[self]
        del self.undos[undo]
        for semaphore, adjustment in zip(self.semaphores, undo.adjustments, strict=True):
            if adjustment:
                semaphore.value = min(max(semaphore.value + adjustment, 0), SEMVMX)
                semaphore.pid = pid
        self.operated_at = now_seconds(self.kernel)
        self._retry()


class SemaphoreTable(IpcTable[SemaphoreSet]):
    """All sets of one kernel, in its expando."""

    @property
    def used_semaphores(self) -> int:
        return sum(len(each.semaphores) for each in self.by_index.values())

    def get(self, task: Task, key: int, count: int, flags: int) -> SemaphoreSet:
        """semget(2). Errors: EEXIST, ENOENT, EINVAL (count), EACCES, ENOSPC."""

        def make(identifier: int) -> SemaphoreSet:
            if not count:
                raise Errno(EINVAL)
            if self.used_semaphores + count > SEMMNS:
                raise Errno(ENOSPC)
            return SemaphoreSet(task, identifier, key, count, flags)

        if not 0 <= count <= SEMMSL:
            raise Errno(EINVAL)
        return self.get_or_make(task, key, flags, lambda existing: count <= len(existing.semaphores), make, SEMMNI)

    def remove(self, semaphores: SemaphoreSet) -> None:
        """IPC_RMID."""
        self.forget(semaphores)
        semaphores.removed_by_rmid()

    def listing(self) -> bytes:
        """/proc/sysvipc/sem."""
        return self.rows(
            b"       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
            b"%10d %10d  %4o %10d %5d %5d %5d %5d %10d %10d\n",
            lambda each: (
                each.key, each.id, each.shown_mode(), len(each.semaphores), each.uid, each.gid, each.creator_uid, each.creator_gid,
                each.operated_at, each.changed_at,
            ),
        )  # fmt: skip
