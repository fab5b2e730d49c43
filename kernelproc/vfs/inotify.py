"""inotify: a queue of what happened to watched files (``man 7 inotify``)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EAGAIN, EEXIST, EINVAL, ENOSPC
from polynix.kernelproc.uapi.inotify import (
    IN_ALL_EVENTS,
    IN_DELETE_SELF,
    IN_EXCL_UNLINK,
    IN_IGNORED,
    IN_ISDIR,
    IN_MASK_ADD,
    IN_MASK_CREATE,
    IN_MOVE_SELF,
    IN_ONESHOT,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
)
from polynix.kernelproc.uapi.ioctls import FIONREAD
from polynix.kernelproc.uapi.poll import POLLIN, POLLRDNORM
from polynix.kernelproc.uapi.structs import inotify_event
from polynix.kernelproc.vfs import fsnotify
from polynix.kernelproc.vfs.anon import AnonFileOps
from polynix.kernelproc.wait_queue import WaitQueue

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.buffers import OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.ops import Result

MAX_QUEUED_EVENTS: Final = 16384  # /proc/sys/fs/inotify
MAX_USER_WATCHES: Final = 65536
_KEPT: Final = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT  # of what inotify_add_watch is given
_HEAD: Final = inotify_event.FORMAT
_OVERFLOW: Final = (-1, IN_Q_OVERFLOW, 0, b"")


class InotifyWatch:
    """One node that one instance watches."""

    __slots__ = ("instance", "mask", "node", "number")

    def __init__(self, instance: InotifyOps, node: FsNode, number: int, mask: int) -> None:
        self.instance = instance
        self.node = node  # also keeps it in memory
        self.number = number
        self.mask = mask

    def tell(self, mask: int, name: bytes, cookie: int, deleted: bool) -> None:
        if not mask & self.mask & IN_ALL_EVENTS or (deleted and self.mask & IN_EXCL_UNLINK):
            return
        if mask & (IN_DELETE_SELF | IN_MOVE_SELF):
            mask &= ~IN_ISDIR  # never shown there, as ever
        self.instance.queue_event(self.number, mask, cookie, name)
        if self.mask & IN_ONESHOT:
            self.instance.drop(self)

    def node_gone(self) -> None:
        self.instance.drop(self)


class InotifyOps(AnonFileOps):
    """One instance: its watches by number and by node, and the events that nobody has read yet."""

    def __init__(self) -> None:
        self.queue = WaitQueue()
        self.events: deque[tuple[int, int, int, bytes]] = deque()
        self.watches: dict[int, InotifyWatch] = {}
        self._by_node: dict[FsNode, InotifyWatch] = {}
        self._last_number = 0

    # -- watches ----------------------------------------------------------------------------------------------------------

    def add_watch(self, node: FsNode, mask: int) -> int:
        """Watch ``node``, or change what is watched for; returns its number. Errors: EEXIST (IN_MASK_CREATE), ENOSPC."""
        watch = self._by_node.get(node)
        if watch is not None:
            if mask & IN_MASK_CREATE:
                raise Errno(EEXIST)
            watch.mask = (watch.mask if mask & IN_MASK_ADD else 0) | mask & _KEPT
            return watch.number
        if len(self.watches) >= MAX_USER_WATCHES:
            raise Errno(ENOSPC)
        self._last_number += 1
        watch = self.watches[self._last_number] = self._by_node[node] = InotifyWatch(self, node, self._last_number, mask & _KEPT)
        fsnotify.add(node, watch)
        return watch.number

    def remove_watch(self, number: int) -> None:
        """Errors: EINVAL."""
        watch = self.watches.get(number)
        if watch is None:
            raise Errno(EINVAL)
        self.drop(watch)

    def drop(self, watch: InotifyWatch) -> None:
        """The end of a watch, which IN_IGNORED tells."""
        if self.watches.pop(watch.number, None) is not None:
            del self._by_node[watch.node]
            fsnotify.remove(watch.node, watch)
            self.queue_event(watch.number, IN_IGNORED, 0, b"")

    # -- events -----------------------------------------------------------------------------------------------------------

    def queue_event(self, number: int, mask: int, cookie: int, name: bytes) -> None:
        """One more to read, unless it says what the last one says."""
        events = self.events
        event = (number, mask & (IN_ALL_EVENTS | IN_ISDIR | IN_IGNORED | IN_UNMOUNT), cookie, name)
        if events and events[-1] == event and not mask & IN_IGNORED:
            return
        if len(events) >= MAX_QUEUED_EVENTS:
            if events[-1] == _OVERFLOW:
                return
            event = _OVERFLOW
        events.append(event)
        self.queue.notify(POLLIN | POLLRDNORM)

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> int:
        events = self.events
        if not events:
            return -EAGAIN
        data = bytearray()
        while events:
            number, mask, cookie, name = events[0]
            padded = _padded(name)
            if len(data) + inotify_event.SIZE + padded > out.remaining:
                break
            data += _HEAD.pack(number, mask, cookie, padded) + name.ljust(padded, b"\0")
            events.popleft()
        if not data:
            return -EINVAL
        return out.write(data)

    def query_events(self, file: FileObject) -> int:
        return POLLIN | POLLRDNORM if self.events else 0

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.queue

    def ioctl(self, file: FileObject, task: Task, request: int, argument: int) -> Result:
        if request == FIONREAD:
            task.user.store_u32(UserAddress(argument), sum(inotify_event.SIZE + _padded(event[3]) for event in self.events))
            return 0
        return super().ioctl(file, task, request, argument)

    def fdinfo(self, file: FileObject) -> str:
        return "".join(
            f"inotify wd:{watch.number:x} ino:{watch.node.ino:x} sdev:{watch.node.fs.dev:x} mask:{watch.mask:x} ignored_mask:0 \n"
            for watch in self.watches.values()
        )

    def close(self, file: FileObject) -> None:
        for watch in self.watches.values():
            fsnotify.remove(watch.node, watch)
        self.watches.clear()
        self._by_node.clear()
        self.events.clear()


def _padded(name: bytes) -> int:
    """The room of a name: with its NUL a multiple of the head's size; none at all without a name."""
    return (len(name) + inotify_event.SIZE) // inotify_event.SIZE * inotify_event.SIZE if name else 0
