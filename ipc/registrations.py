"""Registrations: what the broker has of objects of this process, and what of it this process keeps in mind.

:class:`SessionPeer` is that of a channel's end, and the end's peer at once: the broker has the other one. :class:`ObjectRegistration` is that of all other
objects. They say to the broker what happens to the objects; the session carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polynix.ipc.channel import REPORT, WINDOW, ChannelEnd, Message
from polynix.ipc.handle import KernelObject
from polynix.ipc.record import HEADER, NUMBER, SIGNALS, Entry, Operation, encode
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus

if TYPE_CHECKING:
    from polynix.ipc.session import Session

_DUPLICATE = int(Rights.DUPLICATE)
_PLAIN_WRITE = int(Operation.WRITE)
_pack_header = HEADER.pack


class SessionPeer:
    """The far side of an end of this process, which the broker has; and what the broker knows of the end."""

    def __init__(self, session: Session, number: int, end: ChannelEnd, koid: int, credit: int) -> None:
        self.session = session
        self.number = number
        self.end = end
        self.koid = koid
        self.credit = credit
        self._reads = 0  # messages that were read and not reported
        self._unreported = 0  # their cost

    # -- ChannelPeer -------------------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self.credit <= 0

    @property
    def backlog(self) -> int:
        return WINDOW - self.credit

    def deliver(self, message: Message) -> bool:
        entries: list[Entry] = []
        if message.handles:
            self.session.announce_all(message.handles)
            entries = [self.session.take(transfer) for transfer in message.handles]
        self.session.send(encode(_PLAIN_WRITE, self.number, message.data, entries))
        self.credit -= message.cost
        for transfer in message.handles:
            transfer.close()  # other handles keep the object; the broker has what was sent
        return self.credit <= 0

    def deliver_plain(self, datas: Sequence[bytes], cost: int) -> bool:
        number = self.number
        for data in datas:
            self.session.send(_pack_header(_PLAIN_WRITE, 0, 0, number, len(data)) + data)
        self.credit -= cost
        return self.credit <= 0

    def peer_closed(self) -> None:
        """:meth:`released` tells."""

    def signal_from_peer(self, clear: Signals, set_: Signals) -> None:
        self.session.send(encode(Operation.SIGNAL, self.number, SIGNALS.pack(int(clear), int(set_))))

    def consumed(self, cost: int, backlog: int) -> None:
        """:meth:`has_read` tells."""

    # -- EndRegistration ---------------------------------------------------------------------------------------------------------

    def has_read(self, count: int, cost: int) -> None:
        self._reads += count
        self._unreported += cost
        if self._unreported >= REPORT:
            self.session.send(encode(Operation.READ, self.number, NUMBER.pack(self._reads)))
            self._reads = self._unreported = 0

    def released(self) -> None:
        self.session.send(encode(Operation.CLOSE, self.number, NUMBER.pack(self._reads)))
        self.leave()

    # -- for the session ---------------------------------------------------------------------------------------------------------

    def leave(self) -> int:
        """The end isn't this process's any more; returns what was read and not reported."""
        self.session.channels.pop(self.number, None)
        self.end.peer = self.end.registration = None
        unread, self.end.queue = self.end.queue, type(self.end.queue)()
        for queued in unread:  # the broker has them
            if isinstance(queued, Message):
                for transfer in queued.handles:
                    self.session.forget(transfer)
        return self._reads

    def add_credit(self, cost: int) -> None:
        self.credit += cost
        if self.credit > WINDOW // 2:
            self.end.update_signals(Signals.NONE, Signals.WRITABLE)


class ObjectRegistration:
    """The numbers that the broker has for an object of this process other than a channel."""

    def __init__(self, session: Session, object_: KernelObject) -> None:
        self.session = session
        self.koid = object_.koid
        self.numbers: dict[int, int] = {}  # number -> rights
        object_.registration = self
        session.objects[object_.koid] = object_

    def released(self) -> None:
        self.session.objects.pop(self.koid, None)
        for number in self.numbers:
            self.session.send(encode(Operation.CLOSE, number, NUMBER.pack(0)))
        self.numbers.clear()

    def number_for(self, rights: int) -> int:
        """A number with these rights, if possible one that can be duplicated. Errors: ACCESS_DENIED."""
        found = 0
        for number, has in self.numbers.items():
            if not rights & ~has:
                found = number
                if has & _DUPLICATE:
                    break
        if not found:
            raise ZxStatus(Status.ACCESS_DENIED, "no such rights at the broker")
        return found
