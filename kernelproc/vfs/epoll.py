"""epoll: an interest list, a ready list, and who waits for it (``man 7 epoll``, Linux's fs/eventpoll.c).

An item registers one wait entry in its file's queue. A notification puts the item at the end of the ready list and wakes one waiter; what is really ready is
asked of the file when events are fetched. Level-triggered items then go back to the end of the list, so that busy files take turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.epoll import (
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLRDNORM,
    EPOLLWAKEUP,
    EPOLLWRNORM,
)
from polynix.kernelproc.uapi.errno import EEXIST, EINVAL, ELOOP, ENOENT, EPERM
from polynix.kernelproc.vfs.anon import AnonFileOps
from polynix.kernelproc.wait_queue import WaitEntry, WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.power.wakeup_source import WakeupSource, WakeupSources
    from polynix.kernelproc.vfs.file_object import FileObject

PRIVATE_BITS = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE
EXCLUSIVE_OK_BITS = EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE
MAX_NESTS = 4
PATH_LIMITS = (500, 100, 50, 10)  # nested paths of each length that a wake-up may take


class EpollItem:
    """One descriptor in an interest list. ``events`` are those asked for, EPOLLERR and EPOLLHUP always among them."""

    __slots__ = ("data", "entry", "epoll", "events", "fd", "file", "queue", "wakeup")

    def __init__(self, epoll: EpollOps, file: FileObject, fd: int, events: int, data: int) -> None:
        self.epoll = epoll
        self.file = file
        self.fd = fd
        self.events = events
        self.data = data
        self.entry = WaitEntry(self.notified, events & ~PRIVATE_BITS, bool(events & EPOLLEXCLUSIVE))
        self.queue = file.ops.wait_queue(file)
        self.wakeup: WakeupSource | None = None  # EPOLLWAKEUP: active while the item is on the ready list
        self.set_wakeup(bool(events & EPOLLWAKEUP))

    def set_wakeup(self, wanted: bool) -> None:
        """Keep the container awake while the item is ready, or no longer."""
        sources = self.epoll.wakeup_sources
        if wanted and self.wakeup is None and sources is not None:
            name = self.file.name.entry.name if self.file.name is not None else b""
            self.wakeup = sources.add(f"[epoll] {name.decode(errors='replace')}".rstrip())
        elif not wanted and self.wakeup is not None:
            self.wakeup.remove()
            self.wakeup = None

    def notified(self, events: int) -> bool:
        """The file's queue tells of ``events``: become ready. True uses up an exclusive wake-up."""
        epoll = self.epoll
        if self not in epoll.ready:
            epoll.ready[self] = None
            if self.wakeup is not None:
                self.wakeup.stay_awake()
        woken = epoll.wake()
        return woken or not self.events & EPOLLEXCLUSIVE

    def ready_events(self) -> int:
        """Events that hold now, among those wanted."""
        file = self.file
        return file.ops.query_events(file) & self.events & ~PRIVATE_BITS


class EpollRegistrations:
    """In which interest lists a description is (in ``FileObject.expando``): its last close takes it out of them."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: dict[EpollItem, None] = {}

    def file_closed(self, file: FileObject) -> None:
        for item in list(self.items):
            item.epoll.remove_item(item)


class EpollOps(AnonFileOps):
    """The file of epoll_create."""

    def __init__(self, wakeup_sources: WakeupSources | None = None) -> None:
        self.wakeup_sources = wakeup_sources
        self.items: dict[tuple[FileObject, int], EpollItem] = {}
        self.ready: dict[EpollItem, None] = {}
        self.waiters = WaitQueue()  # tasks in epoll_wait, woken one at a time
        self.pollers = WaitQueue()  # poll, select and other epolls
        self.file: FileObject | None = None

    # -- the interest list --------------------------------------------------------------------------------------------------

    def add(self, file: FileObject, fd: int, events: int, data: int) -> None:
        """EPOLL_CTL_ADD. Errors: EEXIST, EPERM (a file that is always ready), EINVAL, ELOOP."""
        if file.ops.always_ready:
            raise Errno(EPERM)
        target = file.ops
        if target is self or (events & EPOLLEXCLUSIVE and (isinstance(target, EpollOps) or events & ~EXCLUSIVE_OK_BITS)):
            raise Errno(EINVAL)
        if (file, fd) in self.items:
            raise Errno(EEXIST)
        if isinstance(target, EpollOps):
            below = target._depth_below(self)
            if below is None or below + 1 + self._depth_above() > MAX_NESTS:
                raise Errno(ELOOP)
        item = EpollItem(self, file, fd, events | EPOLLERR | EPOLLHUP, data)
        self.items[file, fd] = item
        if file.expando is None:
            file.expando = {}
        registrations = file.expando.setdefault(EpollRegistrations, EpollRegistrations())
        assert isinstance(registrations, EpollRegistrations)
        registrations.items[item] = None
        if (isinstance(target, EpollOps) or _above(self.file)) and not all(_few_paths(below) for below in _beneath(file)):
            self.remove_item(item)
            raise Errno(EINVAL)
        if item.queue is not None:
            item.queue.add(item.entry)
        self._offer(item)

    def modify(self, file: FileObject, fd: int, events: int, data: int) -> None:
        """EPOLL_CTL_MOD. Errors: ENOENT, EINVAL (EPOLLEXCLUSIVE, before or now)."""
        if events & EPOLLEXCLUSIVE:
            raise Errno(EINVAL)
        item = self.items.get((file, fd))
        if item is None:
            raise Errno(ENOENT)
        if item.events & EPOLLEXCLUSIVE:
            raise Errno(EINVAL)
        item.events = events | EPOLLERR | EPOLLHUP
        item.data = data
        item.entry.mask = item.events & ~PRIVATE_BITS
        item.set_wakeup(bool(events & EPOLLWAKEUP))
        self._offer(item)

    def remove(self, file: FileObject, fd: int) -> None:
        """EPOLL_CTL_DEL. Errors: ENOENT."""
        item = self.items.get((file, fd))
        if item is None:
            raise Errno(ENOENT)
        self.remove_item(item)

    def remove_item(self, item: EpollItem) -> None:
        """Forget an item: deleted, or its file was closed."""
        self.items.pop((item.file, item.fd), None)
        self.ready.pop(item, None)
        item.set_wakeup(False)
        if item.queue is not None:
            item.queue.remove(item.entry)
        if item.file.expando is not None:
            registrations = item.file.expando.get(EpollRegistrations)
            if isinstance(registrations, EpollRegistrations):
                registrations.items.pop(item, None)

    def _offer(self, item: EpollItem) -> None:
        if item not in self.ready and item.ready_events():
            self.ready[item] = None
            if item.wakeup is not None:
                item.wakeup.stay_awake()
            self.wake()

    def wake(self) -> bool:
        """Something may be ready: wake one waiter, and whoever polls this epoll. True if a waiter woke."""
        woken = self.waiters.notify(EPOLLIN)
        self.pollers.notify(EPOLLIN | EPOLLRDNORM)
        return bool(woken)

    def _depth_below(self, forbidden: EpollOps) -> int | None:
        """Levels of epolls beneath this one; None if ``forbidden`` is there or they are too many."""
        deepest = 0
        for item in self.items.values():
            nested = item.file.ops
            if isinstance(nested, EpollOps):
                below = nested._depth_below(forbidden) if nested is not forbidden else None
                if below is None or below + 1 > MAX_NESTS:
                    return None
                deepest = max(deepest, below + 1)
        return deepest

    def _depth_above(self) -> int:
        return max((epoll._depth_above() + 1 for epoll in _above(self.file)), default=0)

    # -- fetching -----------------------------------------------------------------------------------------------------------

    def collect(self, limit: int) -> list[tuple[EpollItem, int]]:
        """Take up to ``limit`` ready items with their events off the ready list; :meth:`delivered` or :meth:`put_back` must follow."""
        ready = self.ready
        collected: list[tuple[EpollItem, int]] = []
        for item in list(ready):
            if len(collected) >= limit:
                break
            if item not in ready:
                continue
            del ready[item]
            if item.wakeup is not None:
                item.wakeup.relax()
            events = item.ready_events()
            if events:
                collected.append((item, events))
        return collected

    def delivered(self, collected: list[tuple[EpollItem, int]]) -> None:
        """The caller has the events: one-shot items go to sleep, level-triggered ones stay ready, behind the others."""
        for item, _ in collected:
            if item.events & EPOLLONESHOT:
                item.events &= PRIVATE_BITS
                item.entry.mask = 0
            elif not item.events & EPOLLET and (item.file, item.fd) in self.items:
                self.ready.setdefault(item)
                if item.wakeup is not None:
                    item.wakeup.stay_awake()
        if self.ready and len(self.waiters):
            self.waiters.notify(EPOLLIN)  # more is left than this one took

    def put_back(self, collected: list[tuple[EpollItem, int]]) -> None:
        """The events could not be stored: the items are the first again."""
        self.ready = {**dict.fromkeys(item for item, _ in collected), **self.ready}
        for item, _ in collected:
            if item.wakeup is not None:
                item.wakeup.stay_awake()

    # -- the file -----------------------------------------------------------------------------------------------------------

    def query_events(self, file: FileObject) -> int:
        for item in list(self.ready):
            if item.ready_events():
                return EPOLLIN | EPOLLRDNORM
            del self.ready[item]
            if item.wakeup is not None:
                item.wakeup.relax()
        return 0

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.pollers

    def fdinfo(self, file: FileObject) -> str:
        return "".join(
            f"tfd: {item.fd:8} events: {item.events:8x} data: {item.data:16x}  pos:{item.file.offset} "
            f"ino:{item.file.node.ino:x} sdev:{item.file.node.fs.dev:x}\n"
            for item in self.items.values()
        )

    def close(self, file: FileObject) -> None:
        for item in list(self.items.values()):
            self.remove_item(item)


def _above(file: FileObject | None) -> list[EpollOps]:
    """The epolls in whose interest lists ``file`` is."""
    registrations = file.expando.get(EpollRegistrations) if file is not None and file.expando else None
    return [item.epoll for item in registrations.items] if isinstance(registrations, EpollRegistrations) else []


def _beneath(file: FileObject) -> dict[FileObject, None]:
    """``file`` and, if it is an epoll, all that it watches, directly or not."""
    found = {file: None}
    work = [file]
    while work:
        ops = work.pop().ops
        if isinstance(ops, EpollOps):
            fresh = {item.file: None for item in ops.items.values() if item.file not in found}
            found.update(fresh)
            work.extend(fresh)
    return found


def _few_paths(file: FileObject) -> bool:
    """Whether an event of ``file`` sets off no more epolls through nesting than Linux allows."""
    level = _above(file)
    for limit in PATH_LIMITS:
        level = [epoll for lower in level for epoll in _above(lower.file)]
        if not level:
            break
        if len(level) > limit:
            return False
    return True
