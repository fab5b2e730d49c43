"""Member: one process of a realm as the broker sees it: its connection, and its table of handles.

All objects that processes share are objects of the broker's own process, held by handles (:class:`Held`) in the members' tables. A
message from a member is written to the end that its number stands for, like any other; an end that a member holds pushes what comes to
the member. What was pushed stays here until the member has read it: when the end moves on, the rest goes with it, and when the member
dies, the handles in it close.

A member may say anything. What a session doesn't say is a :class:`~polynix.ipc.wire.WireError`, and ends this member alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from polynix.ipc.channel import HANDLE_COST, MESSAGE_COST, REPORT, WINDOW, ChannelEnd, ChannelPeer, Message
from polynix.ipc.counter import CounterObject
from polynix.ipc.event import EventObject, EventPairEnd
from polynix.ipc.handle import KernelObject, Transfer
from polynix.ipc.host_file import HostFileObject
from polynix.ipc.job import JobObject
from polynix.ipc.kinds import KINDS, descriptor_of, kind_of
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.record import NUMBER, ROOT, SIGNALS, Entry, Kind, Operation, Record, Run, decode, encode, encode_run, signals, word
from polynix.ipc.shareable import ShareableObject
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus
from polynix.ipc.vmo import VmoObject
from polynix.ipc.wire import Wire, WireError

if TYPE_CHECKING:
    from polynix.runner.broker import Broker

log = logging.getLogger(__name__)

MAX_TABLE = 32768  # handles of one process
MAX_STOCK = 64 << 20  # of cost, that a process may bring along in queues
_TRANSFER, _DUPLICATE, _WRITE = int(Rights.TRANSFER), int(Rights.DUPLICATE), int(Rights.WRITE)
_USER_SHIFT = 24


@dataclass(frozen=True)
class Peer:
    """Whose process it is, as the host's kernel says; for a process that was invited, who invited it."""

    pid: int
    uid: int
    gid: int


class Held:
    """One handle of a member's table; it owns a reference to the object."""

    __slots__ = ("kind", "number", "object", "rights")

    def __init__(self, number: int, kind: Kind, object_: KernelObject, rights: int) -> None:
        self.number = number
        self.kind = kind
        self.object = object_
        self.rights = rights


class Pushed:
    """A message with handles that the member has been sent, and the numbers that these have in its table."""

    __slots__ = ("message", "numbers")

    def __init__(self, message: Message, numbers: tuple[int, ...]) -> None:
        self.message = message
        self.numbers = numbers


class HeldEnd(Held):
    """An end of a channel; its :class:`~polynix.ipc.channel.Holder`."""

    __slots__ = ("_credit", "_signals", "end", "member", "unread")

    def __init__(self, member: Member, number: int, end: ChannelEnd, rights: int) -> None:
        super().__init__(number, Kind.CHANNEL, end, rights)
        self.member = member
        self.end = end
        self.unread: deque[bytes | Pushed] = deque()  # what was pushed and not read
        self._credit = 0  # what the other end has read, and the member wasn't told
        self._signals: tuple[int, int] | None = None  # to clear and to set, not sent yet

    def push(self, message: Message) -> None:
        self.member.check_all(message.handles)
        held = [self.member.hold(transfer) for transfer in message.handles]
        entries = [self.member.entry(one) for one in held]
        self.member.send(encode(Operation.WRITE, self.number, message.data, entries))
        self.unread.append(Pushed(message, tuple([one.number for one in held])))
        for one in held:
            if isinstance(one, HeldEnd):
                one.start()

    def push_plain(self, datas: Sequence[bytes]) -> None:
        for records in encode_run(self.number, datas):
            self.member.send(records)
        self.unread.extend(datas)

    def start(self) -> None:
        """The member knows the end: send what lies in its queue."""
        queue, self.end.queue = self.end.queue, deque()
        self.end.holder = self
        for queued in queue:
            if not isinstance(queued, Message):
                self.push_plain((queued,))
                continue
            try:
                self.push(queued)
            except ZxStatus as error:
                log.warning("a channel of process %d breaks: %s", self.member.peer.pid, error)
                queued.close()
                self.end.sever()
                return
        if self.end.peer is None:
            self.push_closed()

    def push_closed(self) -> None:
        self.member.send(encode(Operation.CLOSED, self.number))

    def push_signals(self, clear: Signals, set_: Signals) -> None:
        """Merged while the member doesn't listen: signals have no window."""
        before = self._signals or (0, 0)
        self._signals = (before[0] & ~int(set_)) | int(clear), (before[1] & ~int(clear)) | int(set_)
        self.member.signal_later(self)

    def send_signals(self) -> None:
        if self._signals is not None:
            self.member.send(encode(Operation.SIGNAL, self.number, SIGNALS.pack(*self._signals)))
            self._signals = None

    def push_consumed(self, cost: int) -> None:
        self._credit += cost
        if self._credit >= REPORT:
            self.member.send(encode(Operation.CREDIT, self.number, NUMBER.pack(self._credit)))
            self._credit = 0

    def has_read(self, count: int) -> None:
        """The member has read so many messages. Errors: WireError if it wasn't given as many."""
        if count > len(self.unread):
            raise WireError(f"{count} messages read of {len(self.unread)}")
        if count:
            popleft = self.unread.popleft
            read = [popleft() for _ in range(count)]
            total = sum([len(one) + MESSAGE_COST if type(one) is bytes else cast(Pushed, one).message.cost for one in read])
            self.end.read_so_far(count, total)

    def give_up(self, reads: int) -> None:
        """The end is the member's no longer; what it has not read returns to the queue. Errors: WireError."""
        self.has_read(reads)
        end, self.end.holder = self.end, None
        while self.unread:
            one = self.unread.popleft()
            if not isinstance(one, Pushed):
                end.queue.append(one)
                continue
            for number in one.numbers:
                held = self.member.table.pop(number, None)
                if held is None:
                    raise WireError(f"handle {number} of a message that wasn't read is gone")
                if isinstance(held, HeldEnd):
                    held.give_up(0)
            end.queue.append(one.message)
        if end.queue:
            end.update_signals(Signals.NONE, Signals.READABLE)


class Member:
    """One process."""

    def __init__(self, broker: Broker, index: int, peer: Peer, wire: Wire) -> None:
        self.broker = broker
        self.index = index
        self.peer = peer
        self.wire = wire
        self.table: dict[int, Held] = {}
        self.ended = False
        self.said_goodbye = False
        self.endpoint = ""  # the path of its zmq endpoint
        self.polled: dict[int, int] = {}
        self._next_number = ROOT
        self._flush_due = False
        self._stock = 0
        self._signalled: list[HeldEnd] = []

    # -- what goes to the member: the lock is held -------------------------------------------------------------------------------

    def send(self, record: bytes) -> None:
        if not self.ended and self.wire.send(record):
            self._flush_later()

    def _flush_later(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            OBJECTS.after(self.flush)

    def flush(self) -> None:
        """Send what may be sent. Without the lock."""
        self._flush_due = False
        if self._signalled and not self.wire.has_unsent:
            with OBJECTS:
                signalled, self._signalled = self._signalled, []
                self._flush_due = True
                for held in signalled:
                    held.send_signals()
                self._flush_due = False
        self.wire.flush()

    def signal_later(self, held: HeldEnd) -> None:
        if not self.ended:
            if held not in self._signalled:
                self._signalled.append(held)
            self._flush_later()

    def check_all(self, transfers: tuple[Transfer, ...]) -> None:
        """Errors: NOT_SUPPORTED, NO_RESOURCES; objects that can be shared are, afterwards."""
        if len(self.table) + len(transfers) > MAX_TABLE:
            raise ZxStatus(Status.NO_RESOURCES, "the process has too many handles")
        for transfer in transfers:
            kind_of(transfer.object)
            if isinstance(transfer.object, ShareableObject):
                transfer.object.promote(self.broker.arena)

    def hold(self, transfer: Transfer) -> Held:
        """Put a handle into the table."""
        self._next_number += 2
        number = self._next_number & 0xFFFF_FFFF
        held: Held
        if isinstance(transfer.object, ChannelEnd):
            held = HeldEnd(self, number, transfer.object, int(transfer.rights))
        else:
            held = Held(number, kind_of(transfer.object).kind, transfer.object, int(transfer.rights))
        self.table[number] = held
        self.broker.objects[transfer.object.koid] = transfer.object
        return held

    def hold_root(self, end: ChannelEnd, rights: Rights) -> None:
        """The first channel."""
        held = self.table[ROOT] = HeldEnd(self, ROOT, end, int(rights))
        end.add_handle()
        held.start()

    def entry(self, held: Held) -> Entry:
        """How the member is told of a handle."""
        object_ = held.object
        if isinstance(object_, ChannelEnd):
            credit = WINDOW if object_.peer is None else WINDOW - object_.peer.backlog
            user = (int(object_.pending) >> _USER_SHIFT) & 0xFF
            koids = object_.koid, object_.related_koid
            return Entry(held.number, held.rights, Kind.CHANNEL, 0, user, credit & 0xFFFF_FFFF, *koids)
        fd = descriptor_of(object_)
        if fd >= 0:
            try:
                self.wire.send_descriptor(held.number, fd)
            except OSError as error:
                log.warning("a descriptor for process %d is lost: %s", self.peer.pid, error)
        end = object_.end if isinstance(object_, ShareableObject) else 0
        slot = object_.slot.index if isinstance(object_, ShareableObject) and object_.slot is not None else 0
        related = object_.peer_koid if isinstance(object_, EventPairEnd) else 0
        if isinstance(object_, VmoObject) and object_.file_size is not None:
            end, related = 1, object_.file_size
        return Entry(held.number, held.rights, held.kind, end, 0, slot, object_.koid, related)

    # -- what comes from the member ----------------------------------------------------------------------------------------------

    def handle_frames(self, frames: list[bytes]) -> None:
        """Errors: WireError, ZxStatus."""
        with OBJECTS:
            for frame in frames:
                for record in decode(frame):
                    if type(record) is Run:
                        self._write_plain(record)
                    else:
                        self._handle(cast(Record, record))

    def _write_plain(self, run: Run) -> None:
        held = self._end(run.number)
        if not held.rights & _WRITE:
            raise WireError("a write without the right")
        peer = held.end.peer
        if peer is not None:
            if peer.backlog + run.cost - len(run.datas[-1]) - MESSAGE_COST >= WINDOW:
                raise WireError("a write beyond the window")
            peer.deliver_plain(run.datas, run.cost)

    def _end(self, number: int) -> HeldEnd:
        held = self.table.get(number)
        if not isinstance(held, HeldEnd):
            raise WireError(f"handle {number} is no channel of this process")
        return held

    def _write(self, record: Record) -> None:
        held = self._end(record.number)
        peer = held.end.peer
        if not held.rights & _WRITE:
            raise WireError("a write without the right")
        transfers: list[Transfer] = []
        try:
            for entry in record.entries:
                if entry.number == record.number:
                    raise WireError("a channel in itself")
                transfers.append(self._take(entry))
            if peer is not None:
                if peer.backlog >= WINDOW:
                    raise WireError("a write beyond the window")
                receiver: object = peer
                if not any(transfer.object is receiver for transfer in transfers):  # it would hold itself for ever
                    self._deliver(held.end, peer, Message(record.data, tuple(transfers)))
                    return
        except BaseException:
            for transfer in transfers:
                transfer.close()
            raise
        for transfer in transfers:
            transfer.close()

    def _deliver(self, end: ChannelEnd, peer: ChannelPeer, message: Message) -> None:
        try:
            peer.deliver(message)
        except ZxStatus as error:  # the fault of who would receive it
            log.warning("a channel of process %d breaks: %s", self.peer.pid, error)
            message.close()
            end.sever()

    def _take(self, entry: Entry) -> Transfer:
        """A handle that goes on from the member."""
        held = self.table.get(entry.number)
        if held is None:
            raise WireError(f"no handle {entry.number}")
        if entry.rights & ~held.rights or not entry.rights & _TRANSFER:
            raise WireError(f"rights {entry.rights:#x} of {held.rights:#x}")
        if isinstance(held, HeldEnd):
            held.give_up(entry.extra)
            del self.table[held.number]
            held.end.update_signals(Signals.USER_ALL, Signals(entry.signals << _USER_SHIFT))
        elif held.rights & _DUPLICATE:
            held.object.add_handle()
        else:
            del self.table[held.number]
        return Transfer(KINDS[held.kind].handle, held.object, Rights(entry.rights))

    def _handle(self, record: Record) -> None:
        operation, number = record.operation, record.number
        if operation == Operation.WRITE:
            self._write(record)
        elif operation == Operation.READ:
            self._end(number).has_read(word(record))
        elif operation == Operation.CLOSE:
            held = self.table.pop(number, None)
            if held is None:
                raise WireError(f"no handle {number} to close")
            if isinstance(held, HeldEnd):
                held.give_up(word(record))
            held.object.drop_handle(None)
        elif operation == Operation.SIGNAL:
            end = self._end(number)
            clear, set_ = signals(record)
            if not end.rights & int(Rights.SIGNAL_PEER):
                raise WireError("a signal without the right")
            if end.end.peer is not None:
                end.end.peer.signal_from_peer(Signals(clear), Signals(set_))
        elif operation == Operation.CREATE:
            self._create(record)
        elif operation == Operation.DUPLICATE:
            held, new = self.table.get(number), word(record)
            if held is None or not held.rights & _DUPLICATE:
                raise WireError(f"no handle {number} to duplicate")
            self._check_new_number(new)
            held.object.add_handle()
            self.table[new] = Held(new, held.kind, held.object, held.rights)
        elif operation == Operation.STOCK:
            self._take_stock(record)
        elif operation == Operation.BYE:
            self.said_goodbye = True
        else:
            raise WireError(f"operation {operation}")

    def _check_new_number(self, number: int) -> None:
        if number % 2 or not number or number in self.table or len(self.table) >= MAX_TABLE:
            raise WireError(f"no place for handle {number}")

    def _create(self, record: Record) -> None:
        kinds = {entry.kind for entry in record.entries}
        kind = kinds.pop() if len(kinds) == 1 else 0
        pair = kind in (Kind.CHANNEL, Kind.EVENT_PAIR)
        most_end = 1 if pair or kind == Kind.VMO else 0
        if kind not in KINDS or len(record.entries) > 1 + pair or (kind == Kind.CHANNEL and len(record.entries) != 2):
            raise WireError("objects that make no sense")
        for entry in record.entries:
            self._check_new_number(entry.number)
            if entry.rights & ~KINDS[Kind(kind)].rights or entry.end > most_end:
                raise WireError("an object that makes no sense")
            known = self.broker.objects.get(entry.koid)
            if entry.koid and known is not None and known.is_held:
                raise WireError(f"koid {entry.koid} is another object's")
        if len({entry.number for entry in record.entries}) != len(record.entries):
            raise WireError("one number for two objects")
        if kind == Kind.CHANNEL:
            objects: list[KernelObject] = list(ChannelEnd.create())
        elif kind == Kind.EVENT_PAIR and len(record.entries) == 2:
            if record.entries[0].end == record.entries[1].end:
                raise WireError("one end twice")
            objects = [EventPairEnd(entry.end) for entry in record.entries]
        else:
            objects = [self._make(Kind(kind), record.entries[0])]
        for object_, entry in zip(objects, record.entries, strict=True):
            object_.koid = entry.koid or object_.koid
        if len(objects) == 2 and isinstance(objects[0], EventPairEnd):
            objects[0].join(cast(EventPairEnd, objects[1]))
        shareables = [object_ for object_ in objects if isinstance(object_, ShareableObject)]
        if shareables:
            slot = self.broker.arena.take_over(record.entries[0].extra, self.index)
            for shareable in shareables:
                shareable.enter(slot)
        for object_, entry in zip(objects, record.entries, strict=True):
            object_.add_handle()
            self.broker.objects[object_.koid] = object_
            if isinstance(object_, ChannelEnd):
                held = self.table[entry.number] = HeldEnd(self, entry.number, object_, entry.rights)
                object_.holder = held
            else:
                self.table[entry.number] = Held(entry.number, Kind(kind), object_, entry.rights)

    def _make(self, kind: Kind, entry: Entry) -> KernelObject:
        if kind == Kind.COUNTER:
            return CounterObject()
        if kind == Kind.EVENT:
            return EventObject()
        if kind == Kind.EVENT_PAIR:
            return EventPairEnd(entry.end)
        if kind == Kind.JOB:
            return JobObject()
        fd = self.wire.take_descriptor(entry.number)
        if kind == Kind.HOST_FILE:
            return HostFileObject(fd)
        return VmoObject(fd, entry.related_koid if entry.end else None)

    def _take_stock(self, record: Record) -> None:
        held = self._end(record.number)
        transfers = []
        for entry in record.entries:
            one = self.table.get(entry.number)
            if one is None or entry.rights & ~one.rights:
                raise WireError("a message that makes no sense")
            transfers.append(Transfer(KINDS[one.kind].handle, one.object, Rights(entry.rights)))
        message = Message(record.data, tuple(transfers))
        self._stock += message.cost + HANDLE_COST
        if self._stock > MAX_STOCK:
            raise WireError("too many messages in queues")
        held.unread.append(Pushed(message, tuple([entry.number for entry in record.entries])) if record.entries else record.data)
        held.end.backlog += message.cost

    # -- the end -----------------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The process is gone, or makes no sense: all that it held is closed."""
        with OBJECTS:
            if self.ended:
                return
            self.ended = True
            table, self.table = self.table, {}
            for held in table.values():
                if isinstance(held, HeldEnd):  # its unread messages' handles are in the table too
                    held.unread.clear()
                    held.end.holder = None
            for held in table.values():
                held.object.drop_handle(None)
        self.wire.close()
