"""Session: a process's connection with the broker of its realm, through which its handles reach other processes.

The broker (:mod:`polynix.runner.broker`) is to a realm what the Zircon kernel is to its processes: the channels between processes live
there, and each process has a table of handle numbers there. A process therefore can't name a handle that it wasn't given. In the
process itself a handle is an ordinary :class:`~polynix.ipc.handle.Handle`; that its object is known elsewhere is the matter of this
module and of :mod:`polynix.ipc.registrations` alone.

A message that is written to a channel of the session may carry every kind of handle. Objects of this process alone are announced to
the broker when their first handle is sent: counters and events move into the arena, both ends of a pair of channels move to the broker
with what lies in their queues, and nothing changes for those who have handles to them. When an end is sent away, what was not read
from it goes with it.

:meth:`Session.connect` serves itself by a thread of its own. A process with a loop makes ``Session(socket, threaded=False)`` instead, polls
:meth:`~Session.fileno` and calls :meth:`~Session.process`.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import socket
import time
import weakref
from collections.abc import Iterable
from typing import cast

from polynix.ipc.channel import RIGHTS, WINDOW, Channel, ChannelEnd, Message, Queued
from polynix.ipc.counter import CounterObject
from polynix.ipc.descriptor_socket import close_descriptors, receive_packet
from polynix.ipc.event import EventObject, EventPairEnd
from polynix.ipc.handle import KernelObject, Transfer
from polynix.ipc.host_file import HostFileObject
from polynix.ipc.job import JobObject
from polynix.ipc.kinds import KINDS, descriptor_of, kind_of
from polynix.ipc.object_lock import OBJECTS
from polynix.ipc.record import (
    NUMBER,
    ROOT,
    VERSION,
    Entry,
    Hello,
    Kind,
    Operation,
    Record,
    Run,
    decode,
    encode,
    signals,
    word,
)
from polynix.ipc.registrations import ObjectRegistration, SessionPeer
from polynix.ipc.service import Service
from polynix.ipc.shareable import ShareableObject
from polynix.ipc.shared_arena import SharedArena
from polynix.ipc.signals import Rights, Signals
from polynix.ipc.status import Status, ZxStatus
from polynix.ipc.vmo import VmoObject
from polynix.ipc.wire import HANGUP_SECONDS, EndpointDirectory, Wire, WireError
from polynix.ipc.wire_server import WireServer

log = logging.getLogger(__name__)

BROKER_SOCKET = "broker"
"""The broker's unix socket in its directory."""
_CONNECT_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
_USER_SHIFT = 24
_DUPLICATE = int(Rights.DUPLICATE)
_PLAIN_WRITE = int(Operation.WRITE)


class Session(WireServer["Session"]):
    """This process's. ``root`` is its first channel, whose other end the runner has."""

    def __init__(self, beside: socket.socket, *, threaded: bool = True) -> None:
        """``beside`` is a unix socket that is connected with a broker; it becomes the session's own. Errors: ZxStatus PEER_CLOSED,
        ACCESS_DENIED when the broker turns this process away, TIMED_OUT, INVALID_ARGS, NO_RESOURCES.
        """
        import zmq

        super().__init__()
        self.channels: dict[int, SessionPeer] = {}
        self.objects: weakref.WeakValueDictionary[int, KernelObject] = weakref.WeakValueDictionary()
        self.polled: dict[int, int] = {}
        self._next_number = 2
        self._flush_due = False
        self._service: Service | None = None
        hello, arena_fd = _receive_hello(beside)
        self.arena = SharedArena.attach(arena_fd, hello.member)
        endpoints = EndpointDirectory(hello.directory)
        self._context = zmq.Context(io_threads=1)
        try:
            address = endpoints.endpoint(hello.endpoint)
            self.wire = Wire(self._context, address, bind=False, beside=beside, on_attention=lambda: self.look_at(self))
        except zmq.ZMQError as error:
            self._context.term()
            self.arena.close()
            beside.close()
            raise ZxStatus(Status.NO_RESOURCES, str(error)) from error
        finally:
            self._endpoints = endpoints
        self.poll_for(self)
        end = self._new_end(Entry(ROOT, int(RIGHTS), Kind.CHANNEL, extra=WINDOW, koid=hello.koid, related_koid=hello.related_koid))
        self.root = Channel(end, RIGHTS)
        if threaded:
            self._service = Service(self, "session")
            atexit.register(self.close)

    @classmethod
    def connect(cls, path: str, *, threaded: bool = True) -> Session:
        """A session with the broker whose directory is ``path``. Errors: NOT_FOUND when there is none; those of the class."""
        beside = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        directory = None
        try:
            directory = EndpointDirectory(path)
            beside.connect(directory.socket_path(BROKER_SOCKET))
        except OSError as error:
            beside.close()
            status = Status.ACCESS_DENIED if isinstance(error, PermissionError) else Status.NOT_FOUND
            raise ZxStatus(status, f"no broker at {path}: {error.strerror}") from error
        finally:
            if directory is not None:
                directory.close()
        return cls(beside, threaded=threaded)

    # -- serving -----------------------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when :meth:`process` has something to do."""
        return self._epoll.fileno()

    def serve(self, timeout: float) -> None:
        """Sleep until there is something to do, for ``timeout`` seconds or (-1) without end, and do it."""
        self.await_due(timeout)
        self._process()

    def process(self) -> None:
        """Take what has come, send what may be sent; never blocks, save for a moment when the broker has died."""
        if not self.ended:
            self.serve(0)

    def _process(self) -> None:
        wire = self.wire
        try:
            self._receive()
            while self._attention:
                self._attention.clear()
                self._receive()
            if wire.hung_up and not wire.ended:
                self._wait_for_the_end()
        except (WireError, ZxStatus, ValueError) as error:
            log.warning("the session ends: %s", error)
            self._end()
            return
        if wire.ended:
            self._end()
        elif wire.wants_other_events:
            self.poll_for(self)

    def _receive(self) -> bool:
        """Whether something came."""
        frames = self.wire.receive()
        if frames:
            if not self.wire.drained:
                self._attention.append(self)
            with OBJECTS:
                for frame in frames:
                    for record in decode(frame):
                        if type(record) is Run:
                            peer = self.channels.get(record.number)
                            if peer is not None:
                                peer.end.deliver_plain(record.datas, record.cost)
                        else:
                            self._handle(cast(Record, record))
        self.wire.flush()
        return bool(frames)

    def _wait_for_the_end(self) -> None:
        """The broker is dead: take what it had sent."""
        deadline = time.monotonic() + HANGUP_SECONDS
        poller = select.poll()
        for fd, events in self.wire.poll_events().items():
            if events == select.EPOLLIN:
                poller.register(fd, select.POLLIN)
        while not self.wire.ended and time.monotonic() < deadline:
            if not self._receive():
                for fd, events in poller.poll(10):
                    self.wire.notice(fd, events)
        self.wire.ended = True

    def send(self, record: bytes) -> None:
        """Called with the objects' lock held: queue a record, which goes when the lock is released."""
        if not self.ended and self.wire.send(record) and not self._flush_due:
            self._flush_due = True
            OBJECTS.after(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self.wire.flush()

    def close(self) -> None:
        """Send what was written, for a second at most, and leave. All channels of the session are closed."""
        with OBJECTS:
            if self.ended:
                return
            self.send(encode(Operation.BYE, 0))
        deadline = time.monotonic() + _CLOSE_SECONDS
        while not self.ended and self.wire.has_unsent and time.monotonic() < deadline:
            if self._service is None:
                self.serve(0.01)
            else:
                time.sleep(0.001)
        self._end()
        if self._service is not None:
            self._service.join()

    def _end(self) -> None:
        with OBJECTS:
            if self.ended:
                return
            self.ended = True
            for peer in list(self.channels.values()):
                peer.end.registration = None
                peer.end.peer_closed()
            self.channels.clear()
            self.objects.clear()
        atexit.unregister(self.close)
        self.arena.close()
        self.wire.close()
        self._context.term()  # after what zmq has taken is sent, or its linger time is over
        self._endpoints.close()

    def __del__(self) -> None:
        self.close_poll()

    # -- handles that go: called with the lock held ------------------------------------------------------------------------------

    def announce_all(self, transfers: Iterable[Transfer]) -> None:
        """Let the broker know the objects of ``transfers``. Errors: NOT_SUPPORTED, NO_RESOURCES, ACCESS_DENIED."""
        transfers = list(transfers)
        self._prepare(transfers, set())
        for transfer in transfers:
            if isinstance(transfer.object, ChannelEnd) and transfer.object.registration is None:
                self._export(transfer.object)

    def _prepare(self, transfers: Iterable[Transfer], seen: set[ChannelEnd]) -> None:
        """All that can fail, for queues too, before the first end is exported."""
        for transfer in transfers:
            end = transfer.object
            if not isinstance(end, ChannelEnd):
                self._announce(end).number_for(int(transfer.rights))
            elif end.registration is not None:
                if not isinstance(end.registration, SessionPeer) or end.registration.session is not self:
                    raise ZxStatus(Status.NOT_SUPPORTED, "a channel of another session")
            elif end.peer is not None and not isinstance(end.peer, ChannelEnd):
                raise ZxStatus(Status.NOT_SUPPORTED, "a channel that a direct link serves")
            elif end not in seen:
                ends = {end, end.peer or end}
                seen |= ends
                for local in ends:
                    for queued in local.queue:
                        if isinstance(queued, Message):
                            self._prepare(queued.handles, seen)

    def _announce(self, object_: KernelObject) -> ObjectRegistration:
        registration = object_.registration
        if registration is not None:
            if not isinstance(registration, ObjectRegistration) or registration.session is not self:
                raise ZxStatus(Status.NOT_SUPPORTED, "an object of another session")
            return registration
        kind, _, rights = kind_of(object_)
        ends: list[KernelObject] = [object_]
        if isinstance(object_, EventPairEnd) and object_.peer is not None:
            ends = [object_, object_.peer]
        slot = 0
        if isinstance(object_, ShareableObject):
            object_.promote(self.arena)
            assert object_.slot is not None
            slot = object_.slot.index
        entries = []
        for end in ends:
            number = self._allocate_number()
            fd = descriptor_of(end)
            if fd >= 0:
                self._send_descriptor(number, fd)
            ObjectRegistration(self, end).numbers[number] = rights
            which = end.end if isinstance(end, ShareableObject) else 0
            related = 0
            if isinstance(end, VmoObject) and end.file_size is not None:
                which, related = 1, end.file_size
            entries.append(Entry(number, rights, kind, which, 0, slot, end.koid, related))
        self.send(encode(Operation.CREATE, entries[0].number, entries=entries))
        created = object_.registration
        assert isinstance(created, ObjectRegistration)
        return created

    def _send_descriptor(self, number: int, fd: int) -> None:
        try:
            self.wire.send_descriptor(number, fd)
        except OSError as error:
            raise ZxStatus(Status.NO_RESOURCES, f"cannot send a descriptor: {error.strerror}") from error

    def _export(self, end: ChannelEnd) -> None:
        """Both ends of a pair of this process live at the broker from now on; queues and all."""
        other = cast("ChannelEnd | None", end.peer)  # _prepare has looked
        ends = [end] if other is None else [end, other]
        numbers = self._allocate_number(), self._allocate_number()
        koids = end.koid, other.koid if other is not None else 0
        entries = [Entry(number, int(RIGHTS), Kind.CHANNEL, koid=koid) for number, koid in zip(numbers, koids, strict=True)]
        self.send(encode(Operation.CREATE, numbers[0], entries=entries))
        for index, local in enumerate(ends):
            written = ends[1 - index].backlog if other is not None else 0
            peer = SessionPeer(self, numbers[index], local, koids[1 - index], WINDOW - written)
            self.channels[numbers[index]] = peer
            local.registration = peer
            local.peer = peer if other is not None else None
        for index, local in enumerate(ends):
            for queued in local.queue:
                self._stock(numbers[index], queued)
        if other is None:
            self.send(encode(Operation.CLOSE, numbers[1], NUMBER.pack(0)))

    def _stock(self, end: int, message: Queued) -> None:
        """The broker shall know what lies unread in the queue of the end with this number; it stays in the queue."""
        if not isinstance(message, Message):
            self.send(encode(Operation.STOCK, end, message))
            return
        transfers = []
        for transfer in message.handles:
            if isinstance(transfer.object, ChannelEnd):
                if transfer.object.registration is None:
                    self._export(transfer.object)
                number = cast(SessionPeer, transfer.object.registration).number
            else:
                registration = self._announce(transfer.object)
                number = registration.number_for(int(transfer.rights))
                if registration.numbers[number] & _DUPLICATE:
                    original, number = number, self._allocate_number()
                    self.send(encode(Operation.DUPLICATE, original, NUMBER.pack(number)))
                    registration.numbers[number] = registration.numbers[original]
            transfers.append(transfer._replace(number=number))
        message.handles = tuple(transfers)
        entries = [Entry(transfer.number, int(transfer.rights)) for transfer in transfers]
        self.send(encode(Operation.STOCK, end, message.data, entries))

    def take(self, transfer: Transfer) -> Entry:
        """The entry that sends an announced handle away; its object stays with those who have other handles to it."""
        rights = int(transfer.rights)
        registration = transfer.object.registration
        if isinstance(registration, SessionPeer):
            end = registration.end
            user = (int(end.pending) >> _USER_SHIFT) & 0xFF
            return Entry(registration.number, rights, Kind.CHANNEL, signals=user, extra=registration.leave())
        assert isinstance(registration, ObjectRegistration)
        number = registration.number_for(rights)
        if not registration.numbers[number] & _DUPLICATE:
            del registration.numbers[number]
        return Entry(number, rights)

    def forget(self, transfer: Transfer) -> None:
        """A handle that lay unread in a queue is the broker's again."""
        registration = transfer.object.registration
        if isinstance(registration, SessionPeer):
            registration.leave()
        elif isinstance(registration, ObjectRegistration):
            registration.numbers.pop(transfer.number, None)
        transfer.close()

    def _allocate_number(self) -> int:
        self._next_number += 2
        return self._next_number & 0xFFFF_FFFF

    # -- handles and messages that come: called with the lock held ---------------------------------------------------------------

    def _handle(self, record: Record) -> None:
        operation = record.operation
        peer = self.channels.get(record.number)
        if peer is None:  # it has gone, and the broker will hear so; what comes for it returns to where it went
            for entry in record.entries:
                if entry.kind in (Kind.VMO, Kind.HOST_FILE):
                    os.close(self.wire.take_descriptor(entry.number))
        elif operation == _PLAIN_WRITE:
            peer.end.deliver(Message(record.data, tuple([self._arrive(entry) for entry in record.entries])))
        elif operation == Operation.CREDIT:
            peer.add_credit(word(record))
        elif operation == Operation.CLOSED:
            peer.end.peer_closed()
        elif operation == Operation.SIGNAL:
            clear, set_ = signals(record)
            peer.end.update_signals(Signals(clear), Signals(set_))
        else:
            raise WireError(f"operation {operation} from the broker")

    def _new_end(self, entry: Entry) -> ChannelEnd:
        end = ChannelEnd()
        credit = entry.extra - (1 << 32) if entry.extra >> 31 else entry.extra
        peer = SessionPeer(self, entry.number, end, entry.related_koid, credit)
        if entry.koid:
            end.koid = entry.koid
        end.peer = end.registration = peer
        end._pending = int(Signals.WRITABLE if credit > 0 else 0) | entry.signals << _USER_SHIFT
        self.channels[entry.number] = peer
        return end

    def _arrive(self, entry: Entry) -> Transfer:
        number, rights = entry.number, Rights(entry.rights)
        if entry.kind not in KINDS:
            raise WireError(f"a handle of kind {entry.kind}")
        handle = KINDS[Kind(entry.kind)].handle
        if entry.kind == Kind.CHANNEL:
            object_: KernelObject = self._new_end(entry)
            object_.add_handle()
            return Transfer(handle, object_, rights, number)
        fd = self.wire.take_descriptor(number) if entry.kind in (Kind.VMO, Kind.HOST_FILE) else -1
        known = self.objects.get(entry.koid)
        if known is None:
            known = self._make(entry, fd)
            known.koid = entry.koid
            ObjectRegistration(self, known)
        elif fd >= 0:
            os.close(fd)
        registration = known.registration
        assert isinstance(registration, ObjectRegistration)
        registration.numbers[number] = entry.rights
        known.add_handle()
        return Transfer(handle, known, rights, number)

    def _make(self, entry: Entry, fd: int) -> KernelObject:
        if entry.kind == Kind.VMO:
            return VmoObject(fd, entry.related_koid if entry.end else None)
        if entry.kind == Kind.HOST_FILE:
            return HostFileObject(fd)
        if entry.kind == Kind.JOB:
            return JobObject()
        shareable: ShareableObject
        if entry.kind == Kind.COUNTER:
            shareable = CounterObject()
        elif entry.kind == Kind.EVENT:
            shareable = EventObject()
        else:
            shareable = EventPairEnd(entry.end)
            shareable.peer_koid = entry.related_koid
            other = self.objects.get(entry.related_koid)
            if isinstance(other, EventPairEnd):
                shareable.koid = entry.koid
                shareable.join(other)
        shareable.enter(self.arena.slot(entry.extra))
        return shareable


def _receive_hello(beside: socket.socket) -> tuple[Hello, int]:
    """The broker's first packet, and the arena's descriptor."""
    beside.settimeout(_CONNECT_SECONDS)
    descriptors: list[int] = []
    try:
        data, descriptors = receive_packet(beside, 4096, 1, wait=True)
        if not data:
            raise ZxStatus(Status.PEER_CLOSED, "the broker is gone")
        hello = json.loads(data)
        if "refused" in hello:
            raise ZxStatus(Status.ACCESS_DENIED, str(hello["refused"]))
        if hello["version"] != VERSION or len(descriptors) != 1:
            raise ZxStatus(Status.NOT_SUPPORTED, f"the broker speaks version {hello['version']}, not {VERSION}")
        beside.settimeout(None)
        return Hello(**hello), descriptors.pop()
    except TimeoutError as error:
        raise ZxStatus(Status.TIMED_OUT, "the broker says nothing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZxStatus(Status.PEER_CLOSED, f"the broker makes no sense: {error}") from error
    finally:
        close_descriptors(descriptors)
        if beside.gettimeout() is not None:
            beside.close()
