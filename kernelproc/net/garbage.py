"""Descriptors in flight, and sockets that only messages keep alive (Linux's net/unix/garbage.c).

A socket sent over itself, or two sent over each other, can't be reached by any process once their descriptors are closed, but
still holds references. So after a socket's descriptor is closed: of the sockets in flight, those with no reference but from
messages are candidates; those that a message outside the candidates carries, and what lies in their queues, are alive; the queues
of the rest are emptied.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from polynix.kernelproc.net.messages import release_files

if TYPE_CHECKING:
    from polynix.kernelproc.engine import Engine
    from polynix.kernelproc.net.messages import Message
    from polynix.kernelproc.net.unix_socket import UnixSocket
    from polynix.kernelproc.vfs.file_object import FileObject


class InFlight:
    """Messages that carry descriptors, by the socket in whose queue they lie (in the kernel's expando)."""

    def __init__(self) -> None:
        self.messages: dict[Message, UnixSocket] = {}
        self.by_uid: Counter[int] = Counter()  # descriptors, by the real uid of their senders
        self._sockets = 0  # those among them that are sockets: without any there is no garbage
        self._scheduled = False

    def add(self, message: Message, receiver: UnixSocket) -> None:
        """``message`` was queued."""
        self.messages[message] = receiver
        rights = message.rights or ()
        self.by_uid[message.uid] += len(rights)
        self._sockets += sum(1 for file in rights if _is_socket(file))

    def remove(self, message: Message) -> None:
        """``message`` left its queue; its rights are still in it."""
        if self.messages.pop(message, None) is not None:
            rights = message.rights or ()
            self.by_uid[message.uid] -= len(rights)
            self._sockets -= sum(1 for file in rights if _is_socket(file))

    def collect_soon(self, engine: Engine) -> None:
        """A descriptor of a socket was closed: see, on the next turn of the loop, what that left behind."""
        if self._sockets and not self._scheduled:
            self._scheduled = True
            engine.call_soon(self._collect)

    def _collect(self) -> None:
        self._scheduled = False
        in_flight = Counter(file for message in self.messages for file in message.rights or () if _is_socket(file))
        candidates = {file for file, count in in_flight.items() if file.references == count}
        if not candidates:
            return
        alive: set[FileObject] = set()
        carried: dict[FileObject, list[FileObject]] = {}  # candidate -> candidates in its queue
        work: list[FileObject] = []
        for message, receiver in self.messages.items():
            holder = receiver.listener.file if receiver.listener is not None else receiver.file
            files = [file for file in message.rights or () if file in candidates]
            if holder in candidates:
                carried.setdefault(holder, []).extend(files)
            else:
                work.extend(files)
        while work:
            file = work.pop()
            if file not in alive:
                alive.add(file)
                work.extend(carried.get(file, ()))
        garbage = candidates - alive
        if not garbage:
            return
        doomed: list[FileObject] = []
        for message, receiver in list(self.messages.items()):
            holder = receiver.listener.file if receiver.listener is not None else receiver.file
            if holder in garbage:
                self.remove(message)
                doomed += message.rights or ()
                message.rights = None
        release_files(doomed)


def _is_socket(file: FileObject) -> bool:
    return file.node.mode & 0o170000 == 0o140000
