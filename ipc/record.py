"""Records: what a session's two sides say to each other, within the frames of a :class:`~polynix.ipc.wire.Wire`.

Each has a header of operation, number of handles, handle number and size, then an :class:`Entry` for each handle, then ``size`` bytes.
The handle number is one of the process's table at the broker. Those that the process gives itself are even, those that the broker
gives are odd.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from polynix.ipc.channel import MAX_BYTES, MAX_HANDLES, MESSAGE_COST
from polynix.ipc.signals import Signals
from polynix.ipc.wire import FRAME_HEADER_SIZE, MAX_RECORD, WireError

HEADER = struct.Struct("<BBHII")
ENTRY = struct.Struct("<IIBBHIQQ")
SIGNALS = struct.Struct("<II")
NUMBER = struct.Struct("<I")

VERSION = 1
ROOT = 1
"""The number of the first channel that a process has."""


class Operation(IntEnum):
    # both ways
    WRITE = 1
    """A message for the peer of an end; or one that has come to an end."""
    SIGNAL = 2
    """Signals for the peer of an end; or from there. Two words: clear, set."""
    # to the broker
    CLOSE = 16
    """The last handle with this number is gone."""
    READ = 17
    """So many messages more have been read from an end. One word."""
    CREATE = 18
    """An object, its one entry says which, has this number from now on. A pair has two entries, and numbers."""
    DUPLICATE = 19
    """The object has another number too. One word, the new one."""
    STOCK = 20
    """A message that lies unread in the process's own queue for an end that it created."""
    BYE = 21
    """The process is done with the session."""
    # from the broker
    CLOSED = 32
    """An end's peer is gone."""
    CREDIT = 33
    """The peer of an end has read so much, in units of cost. One word."""


class Kind(IntEnum):
    CHANNEL = 1
    COUNTER = 2
    EVENT = 3
    EVENT_PAIR = 4
    VMO = 5
    HOST_FILE = 6
    JOB = 7


class Entry(NamedTuple):
    """A handle on its way."""

    number: int
    """To the broker: the sender's; from it: the receiver's."""
    rights: int
    kind: int = 0
    end: int = 0
    """Of a pair: 0 or 1. Of memory: 1 if it is the content of a file."""
    signals: int = 0
    """Of a channel: the user signals, as a byte."""
    extra: int = 0
    """The slot in the arena; the tag of the descriptor; of a channel, to the broker: how many messages were read and not reported, from
    the broker: what may be written now.
    """
    koid: int = 0
    related_koid: int = 0
    """The peer's; of the content of a file its size."""


class Hello(NamedTuple):
    """The broker's first packet on the unix socket, as JSON, with the arena's descriptor. A packet with ``refused`` in its place says why."""

    version: int
    member: int
    """The process's number in the arena."""
    directory: str
    endpoint: str
    """The name there of the zmq endpoint."""
    koid: int
    related_koid: int
    """Of the root channel."""


class Record(NamedTuple):
    operation: int
    number: int
    entries: tuple[Entry, ...]
    data: bytes


def encode(operation: int, number: int, data: bytes = b"", entries: tuple[Entry, ...] | list[Entry] = ()) -> bytes:
    """One record."""
    if not entries:
        return HEADER.pack(operation, 0, 0, number, len(data)) + data
    header = HEADER.pack(operation, 0, len(entries), number, len(data))
    return b"".join((header, *[ENTRY.pack(*entry) for entry in entries], data))


class Run(NamedTuple):
    """Messages without handles that follow each other for one end."""

    number: int
    datas: list[bytes]
    cost: int
    """As :func:`polynix.ipc.channel.cost` counts, together."""


def encode_run(number: int, datas: Sequence[bytes]) -> Iterator[bytes]:
    """Records for messages without handles, as many in each piece as may be sent at once."""
    pack, header_size = HEADER.pack, HEADER.size
    parts: list[bytes] = []
    size = 0
    for data in datas:
        length = len(data)
        size += header_size + length
        if size > MAX_RECORD and parts:
            yield b"".join(parts)
            parts.clear()
            size = header_size + length
        parts.append(pack(1, 0, 0, number, length))
        parts.append(data)
    if parts:
        yield b"".join(parts)


def decode(frame: bytes) -> Iterator[Record | Run]:
    """The records of a frame. Errors: WireError when they don't fill it, or are beyond a message's limits."""
    offset, end = FRAME_HEADER_SIZE, len(frame)
    unpack, header_size = HEADER.unpack_from, HEADER.size
    datas: list[bytes] = []
    run = -1
    size_of_run = 0
    last = end - header_size
    while offset < end:
        if offset > last:
            raise WireError("a record without a header")
        operation, zero, count, number, size = unpack(frame, offset)
        offset += header_size
        if operation == 1 and not count:  # Operation.WRITE, which most are
            if number != run:
                if datas:
                    yield Run(run, datas, size_of_run + MESSAGE_COST * len(datas))
                    datas = []
                run = number
                size_of_run = 0
            stop = offset + size
            if stop > end or size > MAX_BYTES or zero:
                raise WireError("a message without its data, or beyond the limits")
            datas.append(frame[offset:stop])
            size_of_run += size
            offset = stop
            continue
        if datas:
            yield Run(run, datas, size_of_run + MESSAGE_COST * len(datas))
            datas = []
        run = -1
        size_of_run = 0
        entries: tuple[Entry, ...] = ()
        if count:
            stop = offset + count * ENTRY.size
            if stop > end or count > MAX_HANDLES:
                raise WireError("a record without its entries, or beyond the limits")
            entries = tuple([Entry(*fields) for fields in ENTRY.iter_unpack(frame[offset:stop])])
            offset = stop
        if offset + size > end or size > MAX_BYTES or zero:
            raise WireError("a record without its data, or beyond the limits")
        yield Record(operation, number, entries, frame[offset : offset + size])
        offset += size
    if datas:
        yield Run(run, datas, size_of_run + MESSAGE_COST * len(datas))


def word(record: Record) -> int:
    """The data of a record that is one word. Errors: WireError."""
    if len(record.data) != NUMBER.size:
        raise WireError(f"record {record.operation} of {len(record.data)} bytes")
    return int(NUMBER.unpack(record.data)[0])


def signals(record: Record) -> tuple[int, int]:
    """The data of a record that is signals to clear and to set. Errors: WireError if they aren't user signals."""
    if len(record.data) != SIGNALS.size:
        raise WireError(f"record {record.operation} of {len(record.data)} bytes")
    clear, set_ = SIGNALS.unpack(record.data)
    if (clear | set_) & ~int(Signals.USER_ALL):
        raise WireError("not user signals")
    return int(clear), int(set_)
