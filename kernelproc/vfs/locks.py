"""File locks: POSIX record locks, open file description (OFD) locks, and flock (man 2 fcntl, man 2 flock).

Locks hang on the FsNode. The *owner* of a POSIX lock is the descriptor table (so threads share it, a forked child does not), that
of OFD and flock locks is the open file description. POSIX and OFD locks exclude each other; flock locks live apart from both, as
on Linux. Ranges are inclusive; ``OFFSET_MAX`` is "to the end".

Waiting is by retry: whoever frees a range notifies the node's queue, and each waiter looks again in order of arrival.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EAGAIN, EDEADLK
from polynix.kernelproc.uapi.fcntl import F_UNLCK, F_WRLCK
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.task.fd_table import FdTable
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

OFFSET_MAX: Final = (1 << 63) - 1
OFD_PID: Final = -1  # what F_GETLK reports as the holder of an OFD lock


class RecordLock:
    """One locked range ``start``..``end`` (inclusive); ``kind`` is F_RDLCK or F_WRLCK; ``pid`` is for F_GETLK and /proc/locks, which shows ``flock``
    locks as such.
    """

    __slots__ = ("end", "flock", "kind", "owner", "pid", "start")

    def __init__(self, owner: FdTable | FileObject, pid: int, kind: int, start: int = 0, end: int = OFFSET_MAX, *, flock: bool = False) -> None:
        self.flock = flock
        self.owner = owner
        self.pid = pid
        self.kind = kind
        self.start = start
        self.end = end

    def excludes(self, other: RecordLock) -> bool:
        """Whether the two can't be held at the same time."""
        return (
            self.flock == other.flock and self.owner is not other.owner and self.start <= other.end and other.start <= self.end
            and F_WRLCK in (self.kind, other.kind)
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<RecordLock {'WRITE' if self.kind == F_WRLCK else 'READ'} {self.start}-{self.end} pid={self.pid}>"


class LockWaits:
    """Who waits for whom, over all files of the kernel (``kernel.expando``): the graph in which deadlocks show."""

    def __init__(self) -> None:
        self._edges: dict[int, tuple[FdTable, FdTable | FileObject]] = {}  # token -> (waiting owner, owner of the lock in its way)
        self._next_token = 0

    def add(self, waiter: FdTable, holder: FdTable | FileObject) -> int:
        """Record a wait; returns the token for :meth:`remove`."""
        self._next_token += 1
        self._edges[self._next_token] = (waiter, holder)
        return self._next_token

    def remove(self, token: int) -> None:
        self._edges.pop(token, None)

    def would_deadlock(self, waiter: FdTable, holder: FdTable | FileObject) -> bool:
        """Whether ``holder`` waits, over any number of others, for ``waiter``."""
        seen: set[int] = set()
        frontier: list[FdTable | FileObject] = [holder]
        while frontier:
            current = frontier.pop()
            if current is waiter:
                return True
            if id(current) in seen:
                continue
            seen.add(id(current))
            frontier.extend(blocker for owner, blocker in self._edges.values() if owner is current)
        return False


class FileLocks:
    """All locks of one FsNode."""

    __slots__ = ("flocks", "queue", "records", "waiting")

    def __init__(self) -> None:
        self.records: list[RecordLock] = []  # ranges of one owner never overlap, and equal neighbours are merged
        self.flocks: dict[FileObject, tuple[int, int]] = {}  # description -> (F_RDLCK | F_WRLCK, pid that took it)
        self.waiting: dict[RecordLock, None] = {}  # what is asked for and can't be had yet
        self.queue = WaitQueue()

    def held(self) -> list[RecordLock]:
        """All of them, in one form."""
        return [*self.records, *(RecordLock(file, pid, kind, flock=True) for file, (kind, pid) in self.flocks.items())]

    async def wait(self, wanted: RecordLock) -> None:
        """Until some lock was freed. Errors: Interrupted."""
        self.waiting[wanted] = None
        try:
            await self.queue.wait()
        finally:
            del self.waiting[wanted]

    # -- record locks -----------------------------------------------------------------------------------------------------------------------

    def conflict(self, owner: FdTable | FileObject, kind: int, start: int, end: int) -> RecordLock | None:
        """The first lock of someone else that excludes ``kind`` on the range."""
        for lock in self.records:
            if lock.start <= end and start <= lock.end and lock.owner is not owner and (kind == F_WRLCK or lock.kind == F_WRLCK):
                return lock
        return None

    def set_record(self, owner: FdTable | FileObject, pid: int, kind: int, start: int, end: int) -> None:
        """Give the range of ``owner`` a new kind (F_UNLCK frees it), splitting and merging its locks. The caller checked for conflicts."""
        kept: list[RecordLock] = []
        merged_start, merged_end = start, end
        position = -1
        freed = False
        for lock in self.records:
            if lock.owner is not owner or lock.end + 1 < start or end + 1 < lock.start:
                kept.append(lock)
                continue
            if lock.kind == kind:  # overlaps or touches: becomes part of the new lock
                if position < 0:
                    position = len(kept)
                merged_start, merged_end = min(merged_start, lock.start), max(merged_end, lock.end)
                continue
            if lock.end < start or end < lock.start:  # only touches, other kind
                kept.append(lock)
                continue
            freed = True
            if lock.start < start:
                kept.append(RecordLock(owner, lock.pid, lock.kind, lock.start, start - 1))
            if position < 0:
                position = len(kept)
            if lock.end > end:
                kept.append(RecordLock(owner, lock.pid, lock.kind, end + 1, lock.end))
        if kind != F_UNLCK:
            kept.insert(len(kept) if position < 0 else position, RecordLock(owner, pid, kind, merged_start, merged_end))
        self.records = kept
        if freed and kind != F_WRLCK:
            self.queue.notify()

    def release_records(self, owner: FdTable | FileObject) -> None:
        """Free all ranges of ``owner``."""
        kept = [lock for lock in self.records if lock.owner is not owner]
        if len(kept) != len(self.records):
            self.records = kept
            self.queue.notify()

    # -- flock ------------------------------------------------------------------------------------------------------------------------------

    def flock_conflict(self, file: FileObject, kind: int) -> bool:
        """Whether another description's flock lock excludes ``kind``."""
        return any(holder is not file and F_WRLCK in (kind, held) for holder, (held, _pid) in self.flocks.items())

    def release_flock(self, file: FileObject) -> None:
        """Free the flock lock of a description."""
        if self.flocks.pop(file, None) is not None:
            self.queue.notify()


def locks_of(node: FsNode) -> FileLocks:
    """The locks of ``node``, made at first use."""
    locks: FileLocks = node.slot(FileLocks, FileLocks)
    return locks


async def set_record_lock(node: FsNode, owner: FdTable | FileObject, pid: int, kind: int, start: int, end: int, *, wait: bool, waits: LockWaits | None) -> int:
    """F_SETLK, F_SETLKW and the OFD forms. ``waits`` enables deadlock detection (POSIX locks only). Errors: EAGAIN, EDEADLK, Interrupted."""
    locks = locks_of(node)
    while kind != F_UNLCK:
        obstacle = locks.conflict(owner, kind, start, end)
        if obstacle is None:
            break
        if not wait:
            return -EAGAIN
        if waits is None:
            await locks.wait(RecordLock(owner, pid, kind, start, end))
            continue
        if waits.would_deadlock(owner, obstacle.owner):  # type: ignore[arg-type]
            raise Errno(EDEADLK)
        token = waits.add(owner, obstacle.owner)  # type: ignore[arg-type]
        try:
            await locks.wait(RecordLock(owner, pid, kind, start, end))
        finally:
            waits.remove(token)
    locks.set_record(owner, pid, kind, start, end)
    return 0


async def set_flock(file: FileObject, pid: int, kind: int, *, wait: bool) -> int:
    """flock(2): ``kind`` F_RDLCK (LOCK_SH), F_WRLCK (LOCK_EX) or F_UNLCK. A conversion gives up the old lock first. Errors: EAGAIN, Interrupted."""
    locks = locks_of(file.node)
    held = locks.flocks.get(file)
    if held is not None:
        if held[0] == kind:
            return 0
        locks.release_flock(file)
    if kind == F_UNLCK:
        return 0
    while locks.flock_conflict(file, kind):
        if not wait:
            return -EAGAIN
        await locks.wait(RecordLock(file, pid, kind, flock=True))
    locks.flocks[file] = (kind, pid)
    return 0


def release_posix_locks(node: FsNode, owner: FdTable) -> None:
    """A descriptor of the file was closed in ``owner``: all its POSIX locks on the file go (man 2 fcntl)."""
    locks: FileLocks | None = node.expando.get(FileLocks) if node.expando is not None else None
    if locks is not None and locks.records:
        locks.release_records(owner)


def release_description_locks(file: FileObject) -> None:
    """The last reference of a description went: its OFD and flock locks go."""
    locks: FileLocks | None = file.node.expando.get(FileLocks) if file.node.expando is not None else None
    if locks is not None:
        if locks.records:
            locks.release_records(file)
        locks.release_flock(file)
